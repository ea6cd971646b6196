//! What others do to the migration itself while it runs: to its publications, its slot, its replica identities and its source. None of it
//! may end in exit code 0 with a row missing, and each error names what has happened.

use hyperlift::{
    demo::servers::{Server, ServerOptions},
    event::{Answer, Command, Event, GateKind, PromptKind, Stage},
    lsn::Lsn,
    plan::Plan,
    state::State,
};
use std::path::Path;

use crate::support::{Database, Ended, InProcess, Migration, Pair, hyperlift, until};

/// A table with a key, and one that is published insert-only.
const TABLES: &str = "
    create table public.kept (id int primary key, v int); insert into public.kept select i, 0 from generate_series(1, 100) i;
    create table public.taken (id int primary key, v int); insert into public.taken select i, 0 from generate_series(1, 100) i;
    create table public.bare (v int); insert into public.bare values (1)";

const INSERT_ONLY: &str = "identity_default = \"insert-only\"";

/// The name of the publication of all operations, or of the one of inserts.
async fn publication(source: &Database, insert_only: bool) -> String {
    source.value(&format!("select pubname from pg_publication where pubupdate = {} and pubname ~ '^hyperlift_'", !insert_only)).await
}

async fn in_catch_up(pair: &Pair) -> Migration {
    pair.source.execute(TABLES).await;
    let mut migration = Migration::of(pair).plan(INSERT_ONLY);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    migration
}

/// The error is a refusal, and has these words.
#[track_caller]
fn assert_refused(ended: &Ended, words: &[&str]) {
    ended.assert_code(3);
    for word in words {
        assert!(ended.stderr.contains(word), "{word}: {}", ended.stderr);
    }
}

/// Runs `hyperlift clean`.
async fn clean(migration: &Migration, source: &str, target: &str) -> std::process::Output {
    hyperlift().args(["clean", "--plain", "--source", source, "--target", target, "--dir"]).arg(migration.dir()).output().await.unwrap()
}

#[tokio::test]
async fn c_41_a_table_that_is_taken_out_of_a_publication_is_copied_again() {
    let pair = Pair::shared().await;
    let mut migration = in_catch_up(&pair).await;
    let all = publication(&pair.source, false).await;
    pair.source.execute(&format!("alter publication {all} drop table public.taken; update public.taken set v = 1")).await;
    migration.event("it is copied again", |e| matches!(e, Event::TableJoined { table } if table.name == "taken")).await;
    pair.source.execute("update public.taken set v = v + 1").await;
    migration.stop().await.assert_code(4);
    // Put back while nobody watches, and then only in part.
    pair.source.execute(&format!("alter publication {all} drop table public.taken; update public.taken set v = 3")).await;
    pair.source.execute(&format!("alter publication {all} add table public.taken where (id < 0); update public.taken set v = 4")).await;
    migration.start();
    migration.event("it is copied again", |e| matches!(e, Event::TableJoined { table } if table.name == "taken")).await;
    pair.source.execute("update public.taken set v = v + 1").await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn c_41_a_publication_that_was_changed_while_nobody_looked_is_refused() {
    let pair = Pair::shared().await;
    let mut migration = in_catch_up(&pair).await;
    let (all, inserts) = (publication(&pair.source, false).await, publication(&pair.source, true).await);
    migration.stop().await.assert_code(4);
    // More tables are no harm, and neither is another owner, or another name of a table.
    let owner = format!("{all}_owner");
    pair.source
        .execute(&format!(
            "create table public.more (id int primary key); alter publication {all} add table public.more;
             create role {owner} superuser; alter publication {inserts} owner to {owner}; alter table public.taken rename to renamed"
        ))
        .await;
    migration.start();
    migration
        .event("the gate", |e| matches!(e, Event::GatesChecked { gates } if gates.iter().any(|g| g.kind == GateKind::Published && g.passed)))
        .await;
    migration.stop().await.assert_code(4);

    let options = ["publish = 'insert, update'", "publish = 'insert, update, delete, truncate'"];
    for option in options {
        pair.source.execute(&format!("alter publication {all} set ({option})")).await;
    }
    migration.start();
    let ended = migration.ended().await;
    assert_refused(&ended, &["changes of public.kept may be missing", "1 more table", &format!("publication {all} was altered")]);
    pair.source.execute(&format!("drop publication {inserts}")).await;
    migration.start();
    // Insert-only is as it was: the publication is what has changed.
    assert_refused(&migration.ended().await, &["changes of public.bare may be missing", &format!("publication {inserts} was dropped")]);
}

/// The operator confirms in the moment after the last poll.
#[tokio::test(flavor = "multi_thread")]
async fn c_41_a_table_that_is_taken_out_right_before_the_cutover_stops_it() {
    let pair = Pair::shared().await;
    pair.source.execute(TABLES).await;
    let mut run = InProcess::start(&pair, &[], |config| {
        config.interactive = true;
        config.plan = Some(Plan::parse(INSERT_ONLY).unwrap());
    });
    let passed = |s: &State| !s.gates.is_empty() && s.gates.iter().all(|g| g.passed || !g.hard);
    run.until(passed).await;
    run.command(Command::OpenCutover).await;
    let open = run.until(|s| s.prompts.shown().is_some_and(|p| p.kind == PromptKind::Cutover && p.blocked_by.is_none())).await;
    let all = publication(&pair.source, false).await;
    pair.source.execute(&format!("alter publication {all} drop table public.taken")).await;
    pair.source.execute("update public.taken set v = 1").await;
    run.answer(open.prompts.shown().unwrap().id, Answer::Confirm).await;
    run.event("the cutover is given up", |e| matches!(e, Event::CutoverAborted { reason } if reason.contains("public.taken"))).await;
    run.event("it is copied again", |e| matches!(e, Event::TableJoined { table } if table.name == "taken")).await;
    assert_eq!(
        pair.target.value("select count(*) from public.taken where v = 1").await,
        pair.source.value("select count(*) from public.taken").await
    );
    run.stop().await;
}

fn slot_status(ended: &Ended) -> Option<&str> {
    ended.events.iter().rev().find_map(|e| if let Event::SlotChecked(status) = e { Some(status.wal_status.as_str()) } else { None })
}

#[tokio::test]
async fn c_46_a_slot_that_somebody_drops_is_the_error_of_the_run() {
    let pair = Pair::shared().await;
    let mut migration = in_catch_up(&pair).await;
    let slot = pair.source.value("select slot_name from pg_replication_slots where database = current_database()").await;
    let session = pair.source.session().await;
    until("the slot is dropped", async || {
        let end = format!("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = '{slot}' and active");
        session.batch_execute(&end).await.unwrap();
        session.batch_execute(&format!("select pg_drop_replication_slot('{slot}')")).await.is_ok()
    })
    .await;
    let ended = migration.ended().await;
    assert_refused(&ended, &[&format!("slot {slot} is gone"), "hyperlift clean"]);
    assert_eq!(slot_status(&ended), Some("gone"));
    let log = std::fs::read_to_string(migration.dir().join("hyperlift.log")).unwrap();
    assert!(log.contains("receiving has ended"), "{log}");
    migration.start();
    assert_refused(&migration.ended().await, &[&format!("slot {slot} is gone"), "hyperlift clean"]);
}

#[tokio::test]
async fn c_46_a_slot_that_the_source_invalidates_under_the_receiver_is_the_error_of_the_run() {
    let pair = Pair::own(ServerOptions::default().setting("max_slot_wal_keep_size", "1MB").setting("wal_keep_size", "0")).await;
    let mut migration = in_catch_up(&pair).await;
    migration.signal("STOP");
    let lost = "select 1 from pg_replication_slots where wal_status = 'lost'";
    until("the slot is invalidated", async || {
        pair.source.session().await.batch_execute("create table public.noise as select generate_series(1, 5000) i").await.unwrap();
        for sql in ["drop table public.noise", "select pg_switch_wal()", "checkpoint"] {
            pair.source.session().await.batch_execute(sql).await.unwrap();
        }
        !pair.source.rows(lost).await.is_empty()
    })
    .await;
    migration.signal("CONT");
    let ended = migration.ended().await;
    assert_refused(&ended, &["was invalidated", "max_slot_wal_keep_size"]);
    assert_eq!(slot_status(&ended), Some("lost"));
}

#[tokio::test]
async fn c_46_a_publication_that_is_dropped_is_the_error_of_the_run() {
    let pair = Pair::shared().await;
    let mut migration = in_catch_up(&pair).await;
    let all = publication(&pair.source, false).await;
    pair.source.execute(&format!("drop publication {all}")).await;
    pair.source.execute("update public.kept set v = 2").await;
    assert_refused(&migration.ended().await, &[&format!("publication {all} was dropped"), "hyperlift clean"]);
}

fn copy(from: &Path, to: &Path) {
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

#[tokio::test]
async fn c_42_a_source_that_was_put_back_is_recognised_although_it_has_written_more_since() {
    let pair = Pair::own(ServerOptions::default().setting("autovacuum", "off")).await;
    let mut migration = in_catch_up(&pair).await;
    let server = pair.source_server();
    let (data, backup) = (server.dir().join("data"), server.dir().join("backup"));
    pair.source.execute("update public.kept set v = 1").await;
    migration.level_with(&pair.source).await;
    server.stop().await.unwrap();
    copy(&data, &backup);
    server.restart().await.unwrap();
    pair.source.execute("insert into public.kept select i, 2 from generate_series(1000, 2000) i; update public.taken set v = 2").await;
    migration.level_with(&pair.source).await;
    migration.stop().await.assert_code(4);
    let end: Lsn = pair.source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();

    server.stop().await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    server.restart().await.unwrap();
    pair.source.execute("insert into public.kept select i, 3 from generate_series(5000, 15000) i").await;
    let now: Lsn = pair.source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();
    assert!(now > end, "it has written more than it had");
    let confirmed = "select confirmed_flush_lsn from pg_replication_slots";
    let before = pair.source.value(confirmed).await;
    for _ in 0..2 {
        migration.start_with_cutover();
        assert_refused(&migration.ended().await, &["the source has gone back", "hyperlift clean"]);
    }
    assert_eq!(pair.source.value(confirmed).await, before, "the slot is the evidence");
}

#[tokio::test]
async fn c_42_a_crash_of_the_source_and_a_slot_that_forgets_are_no_other_history() {
    let pair = Pair::own(ServerOptions::default().setting("autovacuum", "off").setting("checkpoint_timeout", "1h")).await;
    let mut migration = in_catch_up(&pair).await;
    let confirmed = async || -> Lsn { pair.source.value("select confirmed_flush_lsn from pg_replication_slots").await.parse().unwrap() };
    for running in [true, false] {
        pair.source.execute("update public.kept set v = v + 1").await;
        migration.level_with(&pair.source).await;
        let end: Lsn = pair.source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();
        until("the confirmation", async || confirmed().await >= end).await;
        if running {
            migration.signal("STOP");
        } else {
            migration.kill().await;
        }
        pair.source_server().kill().await.unwrap();
        pair.source_server().restart().await.unwrap();
        assert!(confirmed().await < end, "the slot has forgotten what was confirmed last");
        if running {
            migration.signal("CONT");
        } else {
            migration.start();
            migration.stage(Stage::CatchUp).await;
        }
        pair.source.execute("update public.kept set v = v + 1; insert into public.bare values (2)").await;
        migration.level_with(&pair.source).await;
    }
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn c_42_a_slot_that_somebody_moves_is_refused() {
    let pair = Pair::shared().await;
    let mut migration = in_catch_up(&pair).await;
    migration.stop().await.assert_code(4);
    pair.source.execute("update public.kept set v = 1").await;
    pair.source.execute("select pg_replication_slot_advance(slot_name, pg_current_wal_insert_lsn()) from pg_replication_slots where database = current_database()").await;
    migration.start_with_cutover();
    assert_refused(&migration.ended().await, &["the slot was confirmed up to", "somebody has moved the slot"]);
}

#[tokio::test]
async fn c_43_clean_acts_only_on_the_databases_of_its_migration() {
    let (pair, other) = (Pair::shared().await, Pair::shared().await);
    let mut migration = in_catch_up(&pair).await;
    migration.stop().await.assert_code(4);
    let record = migration.dir().join("migration.json");
    let identity = "select relname, relreplident from pg_class where relname in ('kept', 'bare') order by 1";
    other.source.execute(&format!("{TABLES}; alter table public.kept replica identity full")).await;
    let untouched = other.source.rows(identity).await;
    // Another database of the same server, and the two the wrong way round.
    for (source, target, side) in
        [(&other.source, &pair.target, "source"), (&pair.source, &other.target, "target"), (&pair.target, &pair.source, "source")]
    {
        let output = clean(&migration, &source.uri, &target.uri).await;
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{text}");
        assert!(text.contains(&format!("another {side}")), "{text}");
        assert!(!String::from_utf8_lossy(&output.stdout).contains("cleaned"), "something was changed");
        assert!(record.exists());
    }
    assert_eq!(other.source.rows(identity).await, untouched);
    // A wrong directory is said before a database is asked for.
    let output = hyperlift().args(["clean", "--dir"]).arg(migration.dir().join("sql")).output().await.unwrap();
    assert!(output.status.code() == Some(2) && String::from_utf8_lossy(&output.stderr).contains("holds no migration"), "{output:?}");

    // What is gone already is not named as cleaned.
    let inserts = publication(&pair.source, true).await;
    pair.source.execute(&format!("drop publication {inserts}")).await;
    let output = clean(&migration, &pair.source.uri, &pair.target.uri).await;
    let cleaned = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && cleaned.contains("cleaned: slot") && cleaned.contains("cleaned: schema _hyperlift"), "{output:?}");
    assert!(!cleaned.contains(&inserts) && !record.exists(), "{cleaned}");
    pair.assert_untouched().await;
}

const FULL: &str = "identity_default = \"full\"";

#[tokio::test]
async fn c_44_an_identity_that_another_publication_needs_is_left_and_named() {
    let pair = Pair::shared().await;
    let second = pair.second_target().await;
    pair.source
        .execute(
            "create table public.a (v int); create table public.b (v int); create table public.c (v int); create table public.d (v int primary key);
             insert into public.a values (1); insert into public.b values (1); insert into public.c values (1)",
        )
        .await;
    let mut first = Migration::of(&pair).plan(FULL);
    first.start();
    first.stage(Stage::CatchUp).await;
    let mut other = Migration::between(&pair.source.uri, &second.uri).plan(FULL).arguments(&["--include", "public.a"]);
    other.start();
    other.stage(Stage::CatchUp).await;
    // Inserts alone need no identity.
    pair.source.execute("create publication own for table public.b; create publication inserts for table public.c with (publish = 'insert')").await;
    pair.source.execute("alter table public.c rename to renamed").await;
    first.stop().await.assert_code(4);
    let output = clean(&first, &pair.source.uri, &pair.target.uri).await;
    let (out, text) = (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned());
    assert_eq!(output.status.code(), Some(1), "{out}{text}");
    let named = |table: &str| out.contains(&format!("alter table only \"public\".\"{table}\" replica identity default"));
    assert!(named("a") && named("b") && !named("renamed") && out.contains("publication own"), "{out}{text}");
    let full = "select relname from pg_class where relreplident = 'f' and relnamespace = 'public'::regnamespace order by 1";
    assert_eq!(pair.source.rows(full).await, ["a", "b"]);
    // The application works, and the other migration goes on.
    pair.source.execute("update public.a set v = 2; update public.b set v = 2").await;
    other.level_with(&pair.source).await;
    other.stop().await.assert_code(4);
    let output = clean(&other, &pair.source.uri, &second.uri).await;
    assert!(output.status.success(), "{output:?}");
    // Once nobody needs them they are set back.
    pair.source.execute("drop publication own").await;
    let output = clean(&first, &pair.source.uri, &pair.target.uri).await;
    assert!(output.status.success(), "{output:?}");
    assert!(pair.source.rows(full).await.is_empty());
}

#[tokio::test]
async fn c_44_a_migration_ends_well_although_an_identity_is_left() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.a (v int); insert into public.a values (1); create publication everything for all tables").await;
    let mut migration = Migration::of(&pair).plan(FULL);
    let ended = migration.cut_over(&pair).await;
    let left = |e: &Event| matches!(e, Event::Cleaned { error: Some(why), .. } if why.contains("publication everything") && why.contains("replica identity default"));
    assert!(ended.events.iter().any(left));
    pair.source.execute("drop publication everything").await;
    let output = clean(&migration, &pair.source.uri, &pair.target.uri).await;
    assert!(output.status.success(), "{output:?}");
    assert_eq!(pair.source.value("select relreplident from pg_class where relname = 'a'").await, "d");
}

/// Cuts over, and kills the process while it looks for late writes, or before.
async fn killed_after_the_cutover(pair: &Pair, objects_finished: bool) -> Migration {
    pair.source.execute(TABLES).await;
    let mut migration = Migration::of(pair).plan(INSERT_ONLY);
    migration.start_with_cutover();
    migration.event("the cutover", |e| matches!(e, Event::Completed { .. })).await;
    let record = migration.dir().join("migration.json");
    if objects_finished {
        let finished = async || std::fs::read_to_string(&record).is_ok_and(|text| text.contains("\"objects_finished\": true"));
        until("the objects are finished", finished).await;
    }
    migration.kill().await;
    migration
}

#[tokio::test]
async fn c_45_late_writes_that_nobody_can_look_for_are_no_success() {
    let pair = Pair::shared().await;
    let mut migration = killed_after_the_cutover(&pair, true).await;
    pair.source.execute("insert into public.kept values (1000, 1)").await;
    let session = pair.source.session().await;
    until("the slot is dropped", async || {
        let drop = "select pg_terminate_backend(active_pid) from pg_replication_slots where active and database = current_database()";
        session.batch_execute(drop).await.unwrap();
        session
            .batch_execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where database = current_database()")
            .await
            .is_ok()
    })
    .await;
    for _ in 0..2 {
        migration.start();
        let ended = migration.ended().await;
        ended.assert_code(5);
        assert!(ended.stderr.contains("late writes could not be looked for, because slot"), "{}", ended.stderr);
    }
    pair.assert_untouched().await;
}

#[tokio::test]
async fn c_45_late_writes_are_looked_for_once_the_source_is_back() {
    let pair = Pair::own(ServerOptions::default()).await;
    let mut migration = killed_after_the_cutover(&pair, true).await;
    pair.source.execute("insert into public.kept values (1000, 1)").await;
    pair.source_server().stop().await.unwrap();
    migration.start();
    let ended = migration.ended().await;
    ended.assert_code(1);
    assert!(ended.events.iter().any(|e| matches!(e, Event::Notice { text, .. } if text.contains("late writes could not be looked for"))));
    pair.source_server().restart().await.unwrap();
    for _ in 0..2 {
        migration.start();
        let ended = migration.ended().await;
        ended.assert_code(5);
        assert!(ended.stderr.contains("the source was written to after the cutover"), "{}", ended.stderr);
    }
    pair.assert_untouched().await;
}

#[tokio::test]
async fn c_45_what_the_source_did_not_say_is_asked_again() {
    let pair = Pair::own(ServerOptions::default()).await;
    let mut migration = killed_after_the_cutover(&pair, false).await;
    pair.source_server().stop().await.unwrap();
    migration.start();
    let ended = migration.ended().await;
    ended.assert_code(5);
    assert!(ended.stderr.contains("SCHEMA"), "{}", ended.stderr);
    pair.source_server().restart().await.unwrap();
    migration.start();
    let ended = migration.ended().await;
    ended.assert_code(0);
    assert!(!ended.events.iter().any(|e| matches!(e, Event::NotMoved { .. })));
    pair.assert_equal().await;
    pair.assert_untouched().await;
}

/// A standby of the source, on its own port, that follows it.
async fn standby_of(server: &Server) -> Server {
    let standby = Server::start(ServerOptions::default()).await.unwrap();
    standby.stop().await.unwrap();
    let (from, to) = (server.dir().join("data"), standby.dir().join("data"));
    server.stop().await.unwrap();
    std::fs::remove_dir_all(&to).unwrap();
    copy(&from, &to);
    server.restart().await.unwrap();
    let own =
        format!("\nport = {}\nprimary_conninfo = 'host=127.0.0.1 port={} user=postgres'\nmax_connections = 300\n", standby.port(), server.port());
    std::fs::write(to.join("postgresql.auto.conf"), own).unwrap();
    std::fs::write(to.join("standby.signal"), "").unwrap();
    let _ = std::fs::remove_dir_all(to.join("pg_replslot"));
    std::fs::create_dir(to.join("pg_replslot")).unwrap();
    assert!(std::process::Command::new("chown").arg("--reference").args([&to, &to.join("pg_replslot")]).status().unwrap().success());
    standby.restart().await.unwrap();
    standby
}

#[tokio::test]
async fn c_46_a_standby_that_takes_over_without_the_slot_is_the_error_of_the_run() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    let server = pair.source_server();
    let standby = standby_of(server).await;
    let both = pair.source.uri.replace(&format!(":{}/", server.port()), &format!(":{},127.0.0.1:{}/", server.port(), standby.port()));
    let mut migration = Migration::between(&format!("{both}?target_session_attrs=read-write"), &pair.target.uri).plan(INSERT_ONLY);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    migration.level_with(&pair.source).await;
    server.kill().await.unwrap();
    let promoted = Database { uri: pair.source.uri.replace(&format!(":{}/", server.port()), &format!(":{}/", standby.port())) };
    promoted.execute("select pg_promote()").await;
    let ended = migration.ended().await;
    assert_refused(&ended, &["is gone from the source", "hyperlift clean"]);
    assert_eq!(slot_status(&ended), Some("gone"));
    let output = clean(&migration, &promoted.uri, &pair.target.uri).await;
    let cleaned = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success() && cleaned.contains("cleaned: publication") && !cleaned.contains("cleaned: slot"), "{output:?}");
}
