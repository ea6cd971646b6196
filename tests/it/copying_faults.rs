//! The copy when something fails: the target crashes, a table has to be skipped, large objects are interrupted.

use hyperlift::{
    demo::servers::{Programs, Server, ServerOptions},
    event::{Answer, Command, Event, PromptKind, Stage, TableState},
    name::TableName,
    report::summary::exit_summary,
    state::{State, Table},
};

use crate::support::{InProcess, Migration, Pair, until};

#[tokio::test]
async fn c_16_what_a_crash_of_the_target_has_undone_is_copied_again() {
    let timescale = Programs::newest().unwrap().has_timescale();
    // Only what a session waits for reaches the disk.
    let options = [("wal_buffers", "64MB"), ("bgwriter_lru_maxpages", "0"), ("autovacuum", "off")];
    let target = options.iter().fold(ServerOptions { timescale, ..ServerOptions::default() }, |o, (name, value)| o.setting(*name, *value));
    let pair = Pair::on(Server::start(ServerOptions::default()).await.unwrap(), Server::start(target).await.unwrap()).await;
    // The small table is copied while the last parts of the large one still are. Its index waits for an advisory lock on the target.
    pair.source
        .execute(
            "create function public.gate(n int) returns int language plpgsql immutable as
                 $$ begin perform pg_catalog.pg_advisory_xact_lock_shared(42); return n; end $$;
             create table public.large (id bigint, v text); alter table public.large replica identity full;
             insert into public.large select i, repeat(md5(i::text), 8) from generate_series(1, 14000) i;
             create table public.small (id int primary key, v text); insert into public.small select id, v from public.large limit 10;
             create index on public.small (public.gate(id))",
        )
        .await;
    let gate = pair.target.session().await;
    gate.batch_execute("select pg_advisory_lock(42)").await.unwrap();
    let walwriter = pair.target.value("select pid from pg_stat_activity where backend_type = 'walwriter'").await;
    let stopped = std::process::Command::new("kill").args(["-STOP", &walwriter]).status().unwrap();
    assert!(stopped.success());
    let mut migration = Migration::of(&pair).arguments(&["--split-tables-larger-than", "1MB", "--copy-rate", "1MB"]);
    migration.start();
    let large = "select state, (select count(*) >= 3 from _hyperlift.copy_part p where p.source_oid = r.source_oid) from _hyperlift.relation r where name = 'large'";
    let small = "select state from _hyperlift.relation where name = 'small'";
    until("the middle of the copy", async || {
        pair.target.value("select to_regclass('_hyperlift.copy_part') is not null").await == "t"
            && pair.target.rows(small).await == ["copied"]
            && pair.target.rows(large).await == ["planned|t"]
    })
    .await;
    pair.target_server().kill().await.unwrap();
    pair.target_server().restart().await.unwrap();
    drop(gate);
    assert_eq!(pair.target.value(small).await, "planned", "the crash has undone it");
    // The large table still has its snapshot: this run copies its parts again. The small one counted as complete: that is for the next run.
    let ended = migration.ended().await;
    ended.assert_code(1);
    assert!(ended.stderr.contains("the target has lost the copy of public.small"), "{}", ended.stderr);
    let begun = |e: &&Event| matches!(e, Event::CopyBegun { table, .. } if table.name == "large");
    assert_eq!(ended.events.iter().filter(begun).count(), 2, "{:?}", ended.events);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

// In this process: replay needs threads of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_fails_half_way_and_is_skipped_ends_up_empty_and_the_rest_is_moved() {
    let pair = Pair::own(ServerOptions::default()).await;
    // The target accepts only the first rows.
    let port = pair.source_server().port();
    let check = format!("check (id < 9000 or current_setting('port') = '{port}')");
    let rows = "select i, repeat(md5(i::text), 8) from generate_series(1, 12000) i";
    pair.source
        .execute(&format!(
            "create table public.parts (id int primary key {check}, v text); insert into public.parts {rows};
             create table public.one (id int primary key {check}, v text); insert into public.one {rows} offset 8990 limit 20;
             create table public.root (id int {check}, v text, primary key (id)) partition by range (id);
             create table public.low partition of public.root for values from (0) to (5000);
             create table public.high partition of public.root for values from (5000) to (20000);
             insert into public.root {rows}; create index on public.root (v); create index on public.parts (v);
             create table public.fine (id int primary key, v text); insert into public.fine {rows};"
        ))
        .await;
    let arguments = ["--split-tables-larger-than", "256kB", "--table-jobs", "2", "--cutover-when-ready", "--quiet-for", "1"];
    let mut migration = InProcess::start(&pair, &arguments, |config| config.interactive = true);
    let state_of = |s: &State, name: &str| s.table(&TableName::new("public", name)).map(Table::state);
    let all_are = |s: &State, state: TableState| ["parts", "one", "root"].iter().all(|name| state_of(s, name) == Some(state));
    let asks = |e: &Event| matches!(e, Event::PromptOpened { prompt } if prompt.kind == PromptKind::Failure);
    for _ in 0..3 {
        migration.event("a table needs the operator", asks).await;
    }
    let state = migration.until(|s| all_are(s, TableState::Failed) && state_of(s, "fine") == Some(TableState::Done)).await;
    assert_eq!(state.stage, Some(Stage::Copy), "the stage waits for the operator");
    let half_way = "select (select count(*) from public.parts) between 1 and 11999, (select count(*) from public.root) between 1 and 11999";
    assert_eq!(pair.target.rows(half_way).await, ["t|t"]);
    // It is tried again, and fails again.
    let prompt = |s: &State, name: &str| s.prompts.failure_of(&format!("public.{name}")).map(|p| p.id);
    let first = prompt(&state, "one").unwrap();
    migration.answer(first, Answer::Retry).await;
    migration.event("it needs the operator again", asks).await;
    // The answer to the first question is none to the second.
    migration.answer(first, Answer::Skip).await;
    migration.event("a refusal", |e| matches!(e, Event::CommandRefused { command, why } if command == "skip" && why.contains("not open"))).await;
    let state = migration.until(|s| prompt(s, "one").is_some()).await;
    assert_eq!(state_of(&state, "one"), Some(TableState::Failed));
    for name in ["parts", "one", "root"] {
        migration.answer(prompt(&state, name).unwrap(), Answer::Skip).await;
    }
    let state = migration.until(|s| s.stage == Some(Stage::CatchUp)).await;
    assert!(all_are(&state, TableState::Skipped), "{:?}", state.tables);
    let change = |name| {
        format!(
            "insert into public.{name} values (15000, 'x'); update public.{name} set v = 'y' where id % 2 = 0; delete from public.{name} where id < 10;"
        )
    };
    pair.source.execute(&["parts", "one", "root", "fine"].map(change).concat()).await;
    let state = migration.until(|s| s.cutover.completed.is_some()).await;
    let summary = exit_summary(&state);
    assert!(summary.contains("not moved rows and changes of public.root, public.parts, public.one (skipped)"), "{summary}");
    for name in ["parts", "one", "root"] {
        assert_eq!(pair.target.value(&format!("select count(*) from public.{name}")).await, "0", "{name}");
    }
    migration.command(Command::Leave).await;
    migration.ended().await.unwrap();
    let fine = "select count(*), md5(string_agg(t::text, ',' order by id)) from public.fine t";
    assert_eq!(pair.source.rows(fine).await, pair.target.rows(fine).await);
    assert_eq!(pair.target.value("select count(*) from pg_indexes where schemaname = 'public' and indexname ~ '_v_idx'").await, "4");
}

/// All large objects with their contents, comments, grants and owners.
const LARGE_OBJECTS: &str = "
    select oid, length(lo_get(oid)), md5(lo_get(oid)), obj_description(oid, 'pg_largeobject'), lomacl::text, pg_get_userbyid(lomowner)
      from pg_largeobject_metadata order by 1";

#[tokio::test]
async fn c_15_large_objects_are_complete_after_kills_in_the_middle_of_them() {
    let pair = Pair::own(ServerOptions::default()).await;
    // Some are empty, some small, some as large as one read, some larger, and one has a hole.
    pair.source
        .execute(
            "create table public.t (id int primary key, file oid); create role reader; create role keeper;
             insert into public.t select i, lo_from_bytea(0, convert_to(repeat(md5(i::text), i % 200), 'UTF8')) from generate_series(1, 2500) i;
             insert into public.t select i, lo_from_bytea(0, decode(repeat(md5(i::text), n), 'hex'))
                 from (values (3001, 2048), (3002, 2049), (3003, 70000), (3004, 200001)) v (i, n);
             insert into public.t select 4000, lo_from_bytea(0, 'begin'); select lo_put(file, 3000000, 'end') from public.t where id = 4000;
             do $$ declare r record; begin for r in select * from public.t loop
                 execute format('comment on large object %s is %L', r.file, 'of ' || r.id);
                 execute format('grant select on large object %s to reader', r.file);
                 execute format('alter large object %s owner to keeper', r.file);
             end loop; end $$",
        )
        .await;
    let wanted = pair.source.rows(LARGE_OBJECTS).await;
    assert_eq!(wanted.len(), 2505);
    let mut migration = Migration::of(&pair).arguments(&["--owners", "--grants"]);
    let copied = async || pair.target.value("select count(*) from pg_largeobject_metadata").await.parse::<usize>().unwrap();
    let mut before = 0;
    // It is killed while a comment waits, and while a new large object does.
    for catalog in ["pg_description", "pg_largeobject_metadata"] {
        migration.start();
        migration.stage(Stage::Copy).await;
        until("more large objects", async || copied().await > before).await;
        let held = pair.target.session().await;
        held.batch_execute(&format!("begin; lock table {catalog} in share mode")).await.unwrap();
        let waits = format!("select count(*) from pg_locks where relation = '{catalog}'::regclass and not granted");
        until("a statement that waits", async || pair.target.value(&waits).await != "0").await;
        migration.kill().await;
        held.batch_execute("rollback").await.unwrap();
        let leftover = "select pid from pg_stat_activity where datname = current_database() and application_name ~ '^hyperlift'";
        until("the end of the killed process's sessions", async || pair.target.rows(leftover).await.is_empty()).await;
        let now = pair.target.rows(LARGE_OBJECTS).await;
        assert!(before < now.len() && now.len() < wanted.len(), "{before}, then {}", now.len());
        assert!(now.iter().all(|object| wanted.contains(object)), "each that exists is complete");
        before = now.len();
    }
    migration.start();
    migration.stage(Stage::CatchUp).await;
    assert_eq!(pair.target.rows(LARGE_OBJECTS).await, wanted);
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.rows(LARGE_OBJECTS).await, wanted);
}

#[tokio::test]
async fn large_objects_that_the_user_may_not_read_are_named_and_the_others_moved() {
    let pair = Pair::own(ServerOptions::default()).await;
    let database = pair.source.value("select current_database()").await;
    pair.source
        .execute(&format!(
            "create role mover login replication; alter database {database} owner to mover; set role mover;
             create table public.t (id int primary key); select lo_from_bytea(i::oid, 'own') from generate_series(10001, 10250) i;
             reset role; select lo_from_bytea(i::oid, 'strange') from unnest(array[9000, 11000]) i"
        ))
        .await;
    let mut migration = Migration::between(&pair.source.uri.replace("postgres@", "mover@"), &pair.target.uri).arguments(&["--skip-roles"]);
    migration.start();
    let named = |e: &Event| matches!(e, Event::NotMoved { object, reason } if object == "LARGE OBJECT 9000" && reason.contains("permission denied"));
    migration.event("the object that cannot be read", named).await;
    migration.stage(Stage::CatchUp).await;
    let moved = "select min(oid), max(oid), count(*) from pg_largeobject_metadata where lo_get(oid) = 'own'";
    assert_eq!(pair.target.rows(moved).await, ["10001|10250|250"]);
    migration.stop().await.assert_code(4);
}

#[tokio::test]
async fn a_table_whose_check_reads_a_smaller_one_is_copied_after_it() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.codes (code int primary key); insert into public.codes select generate_series(1, 9);
             create function public.known(n int) returns bool stable language sql as $$ select exists (select from public.codes where code = n) $$;
             create table public.large (id int primary key, code int check (public.known(code)), v text);
             insert into public.large select i, i % 9 + 1, repeat('x', 100) from generate_series(1, 5000) i;
             create table public.middle (id int primary key, v text); insert into public.middle select i, repeat('y', 100) from generate_series(1, 500) i",
        )
        .await;
    let mut migration = Migration::of(&pair).arguments(&["--table-jobs", "1"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;

    // The row violates the check whatever the order is, as it does on the source. It is there, but it is not valid.
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.t (id int primary key, n int); insert into public.t values (1, -1);
             create function public.fine(n int) returns bool stable language sql as $$ select current_database() <> 'x' and n > 0 $$;
             alter table public.t add constraint positive check (public.fine(n)) not valid;
             update pg_constraint set convalidated = true where conname = 'positive'",
        )
        .await;
    let mut migration = Migration::of(&pair);
    migration.start_with_cutover();
    let ended = migration.ended().await;
    ended.assert_code(5);
    assert!(ended.stderr.contains("the target differs from the source: CHECK CONSTRAINT public.t positive"), "{}", ended.stderr);
    pair.assert_equal().await;
}
