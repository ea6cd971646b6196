//! Bad input and unsuitable servers: one clear message, the right exit code, and nothing changed on either side.

use hyperlift::{
    demo::servers::{Server, ServerOptions},
    event::Event,
};
use std::{path::Path, process::Output};

use crate::support::{Database, Migration, Pair, hyperlift};

async fn pair_with_tables() -> Pair {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.a (n int); create table public.keyed (id int primary key)").await;
    pair
}

/// Runs in a new directory and to its end.
async fn run(source: &str, target: &str, more: &[&str]) -> Output {
    let folder = tempfile::tempdir().unwrap();
    run_in(&folder.path().join("work"), source, target, more).await
}

async fn run_in(dir: &Path, source: &str, target: &str, more: &[&str]) -> Output {
    let options = ["migrate", "--json", "--yes", "--cutover-when-ready", "--quiet-for", "1", "--linger", "1"];
    hyperlift().args(options).args(["--source", source, "--target", target, "--dir"]).arg(dir).args(more).output().await.unwrap()
}

/// One message, of a few lines (a mistake in a plan is shown with its line), with this in it.
#[track_caller]
fn assert_says(output: &Output, code: i32, part: &str) {
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{text}");
    assert!(text.starts_with("hyperlift: ") && text.contains(part), "{part:?} is not in: {text}");
    assert!(text.lines().count() <= 6 && text.matches("hyperlift: ").count() == 1, "{text}");
    assert!(!text.contains("hunter2"), "a password is shown: {text}");
}

async fn assert_untouched(pair: &Pair) {
    pair.assert_untouched().await;
    assert!(pair.target.rows("select oid::regclass from pg_class where relnamespace = 'public'::regnamespace and relkind = 'r'").await.is_empty());
    assert_eq!(
        pair.source
            .value("select string_agg(distinct relreplident::text, '') from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace")
            .await,
        "d"
    );
}

#[tokio::test]
async fn a_malformed_uri_is_refused_without_its_password() {
    let pair = pair_with_tables().await;
    for uri in ["postgres://u:hunter2@host:port/db", "postgres://u:hunter2@h/db?sslmode=maybe", "user=u password='hunter2", "mysql://u:hunter2@h/db"]
    {
        assert_says(&run(uri, &pair.target.uri, &[]).await, 2, "--source");
        assert_says(&run(&pair.source.uri, uri, &[]).await, 2, "--target");
    }
    assert_untouched(&pair).await;
}

#[tokio::test]
async fn variables_that_disagree_and_missing_databases_are_refused() {
    let pair = pair_with_tables().await;
    let folder = tempfile::tempdir().unwrap();
    let bare = || {
        let mut command = hyperlift();
        command.args(["migrate", "--json", "--yes", "--dir"]).arg(folder.path().join("work"));
        command
    };
    let output = bare().env("PGCOPYDB_SOURCE_PGURI", &pair.source.uri).env("SOURCE", &pair.target.uri).output().await.unwrap();
    assert_says(&output, 2, "PGCOPYDB_SOURCE_PGURI and SOURCE name different databases");
    let output = bare().env("SOURCE", &pair.source.uri).output().await.unwrap();
    assert_says(&output, 2, "no target database is given");
    assert!(!folder.path().join("work").exists());
    assert_untouched(&pair).await;
}

#[tokio::test]
async fn servers_that_are_not_reached_are_refused() {
    let pair = pair_with_tables().await;
    for uri in ["postgres://u:hunter2@127.0.0.1:1/db", "postgres://u:hunter2@nowhere.invalid/db", "host=/nowhere user=u password=hunter2"] {
        assert_says(&run(uri, &pair.target.uri, &[]).await, 3, "source: ");
        assert_says(&run(&pair.source.uri, uri, &[]).await, 3, "target: ");
    }
    let missing = format!("{}_missing", pair.source.uri);
    assert_says(&run(&missing, &pair.target.uri, &[]).await, 3, "(3D000)");
    assert_untouched(&pair).await;
}

#[tokio::test]
async fn a_wrong_password_is_refused() {
    let pair = pair_with_tables().await;
    let options = ServerOptions { password: Some("right".into()), ..ServerOptions::default() };
    let server = Server::start(options).await.unwrap();
    let wrong = server.uri("postgres").replace(":right@", ":hunter2@");
    assert_says(&run(&wrong, &pair.target.uri, &[]).await, 3, "(28P01)");
    assert_says(&run(&pair.source.uri, &wrong, &[]).await, 3, "(28P01)");
    assert_untouched(&pair).await;
}

#[tokio::test]
async fn a_source_without_logical_wal_is_refused() {
    let pair = Pair::own(ServerOptions::default().setting("wal_level", "replica")).await;
    pair.source.execute("create table public.a (id int primary key)").await;
    assert_says(&run(&pair.source.uri, &pair.target.uri, &[]).await, 3, "alter system set wal_level = 'logical'");
    assert_untouched(&pair).await;
}

#[tokio::test]
async fn b_23_more_tables_than_pg_dump_can_lock_are_reported_beforehand() {
    let few = ServerOptions::default().setting("max_locks_per_transaction", "10").setting("max_connections", "20");
    let (server, pair) = (Server::start(few.setting("max_wal_senders", "5")).await.unwrap(), pair_with_tables().await);
    let source = Database { uri: server.create_database("many").await.unwrap() };
    let check = async || {
        let output = hyperlift().args(["check", "--source", &source.uri, "--target", &pair.target.uri]).output().await.unwrap();
        assert_eq!(output.status.code(), Some(0));
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    let tables = "do $$ begin for n in 1..201 loop execute format('create table public.t%s (id int primary key)', n); commit; end loop; end $$";
    source.execute(tables).await;
    let text = check().await;
    let warning =
        "max_locks_per_transaction: WARN pg_dump locks all 201 tables and partitions in one transaction; the source can hold about 200 locks";
    assert!(text.contains(warning), "{text}");
    source.execute("drop table public.t1").await;
    assert!(check().await.contains("max_locks_per_transaction: ok"));
}

#[tokio::test]
async fn c_31_a_source_that_would_wait_for_hyperlift_is_refused() {
    for names in ["*", "FIRST 1 (hyperlift)"] {
        let pair = Pair::own(ServerOptions::default()).await;
        pair.source.execute("create table public.a (id int primary key)").await;
        let server = pair.source_server();
        server.execute("postgres", &format!("alter system set synchronous_standby_names = '{names}'")).await.unwrap();
        server.execute("postgres", "select pg_reload_conf()").await.unwrap();
        crate::support::until("the setting", async || pair.source.value("show synchronous_standby_names").await == names).await;
        assert_says(&run(&pair.source.uri, &pair.target.uri, &[]).await, 3, "synchronous_standby_names");
        assert_untouched(&pair).await;
    }
}

#[tokio::test]
async fn n_7_the_source_as_target_is_refused() {
    let pair = pair_with_tables().await;
    let by_name = pair.source.uri.replace("127.0.0.1", "localhost");
    for uri in [&pair.source.uri, &by_name] {
        assert_says(&run(&pair.source.uri, uri, &[]).await, 3, "of the same server");
    }
    assert_untouched(&pair).await;
}

#[tokio::test]
async fn a_target_that_is_not_empty_is_refused() {
    for object in ["table public.mine (n int)", "view public.mine as select 1", "sequence public.mine", "schema other create table mine (n int)"] {
        let pair = pair_with_tables().await;
        pair.target.execute(&format!("create {object}")).await;
        assert_says(&run(&pair.source.uri, &pair.target.uri, &[]).await, 3, "mine");
        pair.assert_untouched().await;
    }
}

#[tokio::test]
async fn a_target_that_holds_another_migration_is_refused() {
    let (pair, other) = (pair_with_tables().await, pair_with_tables().await);
    pair.source.execute("drop table public.a").await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.event("slot", |e| matches!(e, Event::SlotCreated { .. })).await;
    migration.stop().await.assert_code(4);
    assert_says(&run(&other.source.uri, &pair.target.uri, &[]).await, 3, "it holds migration");
    assert_untouched(&other).await;
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn n_7_the_directory_of_another_migration_is_refused() {
    let (pair, other) = (pair_with_tables().await, pair_with_tables().await);
    pair.source.execute("drop table public.a").await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.event("slot", |e| matches!(e, Event::SlotCreated { .. })).await;
    let second = run_in(&migration.dir(), &pair.source.uri, &pair.target.uri, &[]).await;
    assert_says(&second, 2, "another hyperlift is running in");
    migration.stop().await.assert_code(4);
    for (source, target) in [(&other, &other), (&pair, &other), (&other, &pair)] {
        assert_says(&run_in(&migration.dir(), &source.source.uri, &target.target.uri, &[]).await, 3, "holds another migration");
    }
    assert_untouched(&other).await;
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn a_directory_that_cannot_be_used_is_refused() {
    let pair = pair_with_tables().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "mine").unwrap();
    for dir in [file.clone(), file.join("work"), folder.path().to_owned()] {
        assert_says(&run_in(&dir, &pair.source.uri, &pair.target.uri, &[]).await, 2, &folder.path().display().to_string());
    }
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "mine");
    assert_untouched(&pair).await;
}

#[tokio::test]
async fn b_5_open_identities_are_refused_with_yes() {
    let pair = pair_with_tables().await;
    assert_says(&run(&pair.source.uri, &pair.target.uri, &[]).await, 3, "public.a is still open");
    assert_untouched(&pair).await;
}

/// Runs with a plan of this text.
async fn planned(source: &Database, target: &Database, toml: &str) -> Output {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plan.toml");
    std::fs::write(&path, toml).unwrap();
    run(&source.uri, &target.uri, &["--plan", path.to_str().unwrap()]).await
}

#[tokio::test]
async fn a_plan_that_does_not_fit_is_refused_before_anything_is_changed() {
    let pair = pair_with_tables().await;
    let full = "[[identity]]\ntable = \"public.a\"\nuse = \"full\"\n";
    let hypertable = |table: &str| format!("{full}[[hypertable]]\ntable = \"{table}\"\ntime_column = \"ts\"\nchunk_interval = \"1 day\"\n");
    for (plan, part) in [
        (format!("{full}[[identity]]\ntable = \"public.zoo\"\nuse = \"full\""), "public.zoo"),
        (format!("{full}[[identity]]\ntable = \"public.keyed\"\nuse = \"index:none\""), "none"),
        ("[[identity]]\ntable = \"public.a\"\nuse = \"everything\"".into(), "everything"),
        ("[[table]]".into(), "table"),
        ("[[identity".into(), "plan.toml"),
        (hypertable("public.zoo"), "public.zoo"),
        (hypertable("public.keyed"), "ts"),
    ] {
        assert_says(&planned(&pair.source, &pair.target, &plan).await, 2, part);
        assert_untouched(&pair).await;
    }
    assert_says(&run(&pair.source.uri, &pair.target.uri, &["--plan", "/nowhere/plan.toml"]).await, 2, "/nowhere/plan.toml");
    assert_untouched(&pair).await;
}
