//! What runs, waits, locks or crashes while the slot is made, while tables are copied and while lanes move: no row is lost and none
//! is there twice, above all in tables without a key, where no constraint would stop a second one.

use hyperlift::{
    demo::{execute, servers::ServerOptions},
    event::{Answer, Command, CutoverStep, Event, Gate, GateKind, Level, PromptKind, Stage},
    lsn::Lsn,
    pg::{
        catalog,
        client::{self},
        connect::{conninfo::Conninfo, session::Side},
    },
};
use std::{path::Path, time::Duration};
use tokio::{task::JoinHandle, time::sleep};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::support::{Database, InProcess, Migration, Pair, until};

/// A table with a key and one without.
const TABLES: &str = "
    create table public.keyed (id bigint primary key, v text);
    create table public.bag (id bigint, v text);
    alter table public.bag replica identity full;
    create sequence public.numbers";

/// A statement that waits for something, in a session of its own.
fn waiting(database: &Database, sql: &str) -> JoinHandle<()> {
    let (uri, sql) = (database.uri.clone(), sql.to_owned());
    tokio::spawn(async move { execute(&uri, &sql).await.unwrap() })
}

/// How many sessions of this kind the server has.
async fn sessions(database: &Database, condition: &str) -> usize {
    database.value(&format!("select count(*) from pg_stat_activity where {condition}")).await.parse().unwrap()
}

/// A transaction that has an xid and stays open.
async fn open_transaction(database: &Database) -> Client {
    let session = database.session().await;
    session.batch_execute("begin; select pg_current_xact_id()").await.unwrap();
    session
}

/// Runs until the schema is on the target, and no further: neither slot nor copy has begun.
async fn restore_schema(pair: &Pair, migration: &mut Migration) {
    let holder = open_transaction(&pair.source).await;
    migration.start();
    migration.event("the slot waits", |e| matches!(e, Event::Waiting { holders, .. } if !holders.is_empty())).await;
    migration.kill().await;
    until("the end of the killed session", async || {
        pair.source.rows("select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '^hyperlift/'").await.is_empty()
    })
    .await;
    holder.batch_execute("commit").await.unwrap();
}

/// The largest table, copied first.
const FIRST: &str = "
    create table public.first (id int primary key, v text);
    insert into public.first select i, repeat('x', 100) from generate_series(1, 5000) i";

/// Runs until the first copy has its snapshot and waits for the lock that is returned; the other copies have not begun.
async fn first_copy_is_blocked(pair: &Pair, migration: &mut Migration) -> Client {
    restore_schema(pair, migration).await;
    let lock = pair.target.session().await;
    lock.batch_execute("begin; lock table public.first in share mode").await.unwrap();
    migration.start();
    until("the first copy is blocked", async || sessions(&pair.target, "application_name ~ '/copy-' and wait_event_type = 'Lock'").await == 1).await;
    lock
}

fn is_locked(event: &Event) -> bool {
    matches!(event, Event::Notice { level: Level::Info, text } if text.contains("is locked on the source"))
}

#[tokio::test]
async fn c_1_rows_written_while_slot_and_copies_are_made_arrive_once() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    pair.source.execute("insert into public.keyed select nextval('public.numbers'), 'before' from generate_series(1, 5000)").await;
    pair.source.execute("insert into public.bag select * from public.keyed").await;
    let stop = CancellationToken::new();
    let mut sessions = Vec::new();
    for number in 0..6 {
        let (client, stop) = (pair.source.session().await, stop.clone());
        sessions.push(tokio::spawn(async move {
            while !stop.is_cancelled() {
                let both = "with n as (select nextval('public.numbers') as id), k as (insert into public.keyed select id, 'during' from n) insert into public.bag select id, 'during' from n";
                // Some transactions last longer than others, so that commits overtake each other.
                let pause = f64::from(number) * 0.02;
                client.batch_execute(&format!("begin; {both}; select pg_sleep({pause}); {both}; commit")).await.unwrap();
            }
        }));
    }
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    stop.cancel();
    for session in sessions {
        session.await.unwrap();
    }
    migration.finish(&pair).await;
    pair.assert_equal().await;
    let twice = "select id from public.bag group by id having count(*) > 1";
    assert!(pair.target.rows(twice).await.is_empty());
}

/// Commits wait for a standby of this name; for none when it is empty.
async fn set_standby(pair: &Pair, name: &str) {
    let server = pair.source_server();
    server.execute("postgres", &format!("alter system set synchronous_standby_names = '{name}'")).await.unwrap();
    server.execute("postgres", "select pg_reload_conf()").await.unwrap();
    until("the setting", async || pair.source.value("show synchronous_standby_names").await == name).await;
}

#[tokio::test]
async fn c_24_transactions_of_others_are_named_to_a_user_who_may_not_see_what_they_do() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute("create role app login").await;
    let _holder = open_transaction(&pair.source).await;
    let app = Conninfo::parse(&pair.source.uri.replace("postgres://postgres@", "postgres://app@")).unwrap();
    let client = client::connect(&app, Side::Source, "test").await.unwrap();
    let found = catalog::holders(&client, None).await.unwrap();
    assert!(matches!(&found[..], [h] if h.pid > 0 && h.who.starts_with("postgres@") && h.state == "in transaction"), "{found:?}");
}

#[tokio::test]
async fn c_27_a_commit_that_waits_for_a_standby_arrives_once() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    let mut migration = Migration::of(&pair);
    // A slot is made in two steps; each waits for the transactions that ran at its beginning.
    let first = open_transaction(&pair.source).await;
    migration.start();
    let server = pair.source_server();
    until("the first step of the slot", async || server.log().contains("logical decoding found initial starting point")).await;
    let second = open_transaction(&pair.source).await;
    first.batch_execute("commit").await.unwrap();
    until("the second step of the slot", async || server.log().contains("logical decoding found initial consistent point")).await;
    // Begun after that step, so the slot does not wait for it; written before the slot is consistent, so the stream does not have it.
    set_standby(&pair, "nobody").await;
    let row = waiting(&pair.source, "insert into public.keyed values (1, 'waits'); insert into public.bag values (1, 'waits')");
    until("the waiting commit", async || sessions(&pair.source, "wait_event = 'SyncRep'").await == 1).await;
    second.batch_execute("rollback").await.unwrap();
    migration.event("slot", |e| matches!(e, Event::SlotCreated { .. })).await;
    assert_eq!(sessions(&pair.source, "wait_event = 'SyncRep'").await, 1);
    let waits = |e: &Event| matches!(e, Event::Waiting { what, holders } if what.starts_with("the copy of") && !holders.is_empty());
    migration.event("the copies wait for the commit", waits).await;
    set_standby(&pair, "").await;
    row.await.unwrap();
    migration.stage(Stage::CatchUp).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.rows("select id from public.keyed union all select id from public.bag").await, ["1", "1"]);
}

#[tokio::test]
async fn c_27_a_commit_that_no_copy_sees_though_it_is_written_before_comes_by_the_stream() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    pair.source.execute(FIRST).await;
    let mut migration = Migration::of(&pair).arguments(&["--table-jobs", "1"]);
    let lock = first_copy_is_blocked(&pair, &mut migration).await;
    pair.source.execute("insert into public.keyed values (1, 'seen'); insert into public.bag values (1, 'seen')").await;
    set_standby(&pair, "nobody").await;
    let row = waiting(&pair.source, "insert into public.keyed values (2, 'not seen'); insert into public.bag values (2, 'not seen')");
    until("the waiting commit", async || sessions(&pair.source, "wait_event = 'SyncRep'").await == 1).await;
    lock.batch_execute("commit").await.unwrap();
    until("the copies", async || pair.target.value("select count(*) from _hyperlift.copy_part").await == "3").await;
    assert_eq!(pair.target.rows("select id from public.keyed union all select id from public.bag").await, ["1", "1"]);
    set_standby(&pair, "").await;
    row.await.unwrap();
    migration.stage(Stage::CatchUp).await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.rows("select id from public.bag order by 1").await, ["1", "2"]);
}

/// The table that was rewritten is copied again (C-36).
async fn cut_over_after_a_rewrite(pair: &Pair, mut migration: Migration) {
    migration.stop().await.assert_code(4);
    migration.cut_over(pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn c_28_a_rewrite_and_a_truncate_wait_for_the_copy() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    pair.source
        .execute("insert into public.keyed select i, 'row' from generate_series(1, 1000) i; insert into public.bag select * from public.keyed")
        .await;
    let mut migration = Migration::of(&pair);
    restore_schema(&pair, &mut migration).await;
    // Locked on the target, both copies are blocked when they have their snapshots and have read nothing.
    let lock = pair.target.session().await;
    lock.batch_execute("begin; lock table public.keyed, public.bag in share mode").await.unwrap();
    migration.start();
    until("both copies are blocked", async || sessions(&pair.target, "application_name ~ '/copy-' and wait_event_type = 'Lock'").await == 2).await;
    let rewrite = waiting(&pair.source, "alter table public.keyed alter v type text using v || ''; insert into public.keyed values (2000, 'after')");
    let truncate = waiting(&pair.source, "truncate public.bag; insert into public.bag values (2000, 'after')");
    until("both wait", async || sessions(&pair.source, "wait_event_type = 'Lock' and query ~ '^(alter|truncate)'").await == 2).await;
    lock.batch_execute("commit").await.unwrap();
    rewrite.await.unwrap();
    truncate.await.unwrap();
    migration.stage(Stage::CatchUp).await;
    cut_over_after_a_rewrite(&pair, migration).await;
    assert_eq!(pair.target.value("select count(*) from public.keyed").await, "1001");
    assert_eq!(pair.target.rows("select * from public.bag").await, ["2000|after"]);
}

#[tokio::test]
async fn c_28_the_copy_waits_for_a_rewrite_and_a_truncate() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    pair.source.execute(FIRST).await;
    pair.source
        .execute("insert into public.keyed select i, 'row' from generate_series(1, 1000) i; insert into public.bag select * from public.keyed")
        .await;
    let mut migration = Migration::of(&pair).arguments(&["--table-jobs", "1"]);
    let lock = first_copy_is_blocked(&pair, &mut migration).await;
    let (rewrite, truncate) = (pair.source.session().await, pair.source.session().await);
    rewrite
        .batch_execute("begin; alter table public.keyed alter v type text using v || ''; insert into public.keyed values (2000, 'after')")
        .await
        .unwrap();
    truncate.batch_execute("begin; truncate public.bag; insert into public.bag values (2000, 'after')").await.unwrap();
    lock.batch_execute("commit").await.unwrap();
    migration.event("the copy waits", is_locked).await;
    truncate.batch_execute("commit").await.unwrap();
    // In the middle of its wait: a snapshot taken before it would see an empty table.
    until("the copy waits for the rewrite", async || sessions(&pair.source, "application_name ~ '/copy-' and wait_event_type = 'Lock'").await == 1)
        .await;
    rewrite.batch_execute("commit").await.unwrap();
    migration.stage(Stage::CatchUp).await;
    cut_over_after_a_rewrite(&pair, migration).await;
    assert_eq!(pair.target.value("select count(*) from public.keyed").await, "1001");
    assert_eq!(pair.target.rows("select * from public.bag").await, ["2000|after"]);
}

#[tokio::test]
async fn a_copy_counts_on_a_source_that_nobody_writes_to_after_a_switch_of_the_wal_file() {
    let pair = Pair::own(ServerOptions::default().setting("autovacuum", "off")).await;
    pair.source.execute(TABLES).await;
    pair.source.execute(FIRST).await;
    let mut migration = Migration::of(&pair).arguments(&["--table-jobs", "1"]);
    let lock = first_copy_is_blocked(&pair, &mut migration).await;
    // Now and then it would write a record of its own.
    let bgwriter = pair.source.value("select pid from pg_stat_activity where backend_type = 'background writer'").await;
    let signal = |name: &str| assert!(std::process::Command::new("kill").args([name, &bgwriter]).status().unwrap().success());
    signal("-STOP");
    pair.source.execute("select pg_switch_wal()").await;
    assert_eq!(pair.source.value("select pg_current_wal_insert_lsn() > pg_current_wal_flush_lsn()").await, "t");
    lock.batch_execute("commit").await.unwrap();
    migration.stage(Stage::CatchUp).await;
    signal("-CONT");
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn c_29_what_a_crash_of_the_source_undoes_is_not_copied() {
    let pair = Pair::own(ServerOptions::default().setting("synchronous_commit", "off").setting("autovacuum", "off")).await;
    pair.source.execute(TABLES).await;
    pair.source.execute(FIRST).await;
    pair.source.execute("insert into public.keyed values (1, 'before'); insert into public.bag values (1, 'before')").await;
    let mut migration = Migration::of(&pair).arguments(&["--table-jobs", "1"]);
    let lock = first_copy_is_blocked(&pair, &mut migration).await;
    let writer = pair.source.session().await;
    writer.batch_execute("begin; lock table public.keyed, public.bag in access exclusive mode").await.unwrap();
    // Nobody flushes by the way any more.
    let walwriter = pair.source.value("select pid from pg_stat_activity where backend_type = 'walwriter'").await;
    assert!(std::process::Command::new("kill").args(["-STOP", &walwriter]).status().unwrap().success());
    pair.source.execute("set synchronous_commit = on; select pg_logical_emit_message(true, 'test', 'flush')").await;
    lock.batch_execute("commit").await.unwrap();
    migration.event("the copy waits", is_locked).await;
    writer.batch_execute("insert into public.keyed values (2, 'undone'); insert into public.bag values (2, 'undone'); commit").await.unwrap();
    // The copy has read a row that is committed, but not flushed.
    until("the copy waits for the flush", async || sessions(&pair.source, "application_name ~ '/copy-' and query ~ 'wal_flush_lsn'").await == 1)
        .await;
    pair.source_server().kill().await.unwrap();
    pair.source_server().restart().await.unwrap();
    assert_eq!(pair.source.value("select count(*) from public.bag").await, "1", "the crash undid the row");
    migration.stage(Stage::CatchUp).await;
    // The xid is used again.
    pair.source.execute("insert into public.keyed values (3, 'later'); insert into public.bag values (3, 'later')").await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.rows("select id from public.bag order by 1").await, ["1", "3"]);
}

#[tokio::test]
async fn c_30_a_session_of_a_killed_run_that_commits_late_changes_nothing_twice() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    let mut migration = Migration::of(&pair).arguments(&["--replay-lanes", "1"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    // A session of the killed run has locked the row of the lane's position before this run's lane.
    let zombie = pair.target.session().await;
    zombie.batch_execute("begin; select from _hyperlift.lane for update").await.unwrap();
    pair.source.execute("insert into public.bag values (1, 'once'); insert into public.keyed values (1, 'once')").await;
    let end: Lsn = pair.source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();
    pair.source.execute("insert into public.bag values (2, 'next')").await;
    until("the lane waits", async || sessions(&pair.target, "application_name ~ '/lane-' and wait_event_type = 'Lock'").await == 1).await;
    let batch = format!(
        "update _hyperlift.lane set lsn = '{end}', change = 0; insert into public.bag values (1, 'once'); insert into public.keyed values (1, 'once')"
    );
    zombie.batch_execute(&batch).await.unwrap();
    zombie.batch_execute("commit").await.unwrap();
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.rows("select id from public.bag order by 1").await, ["1", "2"]);
}

/// Up to where the source may forget its WAL.
/// Runs without an operator into the cutover, while somebody has a transaction open that has written.
async fn waits_for_the_open_transaction(pair: &Pair, migration: &mut Migration) {
    migration.start_with_cutover();
    let closed = |g: &Gate| g.kind == GateKind::NoOpenWriters && !g.passed && g.detail.contains("open for");
    migration.event("the gate", |e| matches!(e, Event::GatesChecked { gates } if gates.iter().any(closed))).await;
    // Longer than the quiet time: the stream alone would have been quiet for long enough.
    sleep(Duration::from_secs(2)).await;
    assert!(!pair.source.rows("select from pg_replication_slots where active and database = current_database()").await.is_empty());
}

const COUNTED: &str = "create table public.counted (id int primary key); insert into public.counted values (1)";

#[tokio::test]
async fn c_34_a_transaction_that_is_open_at_the_cutover_is_waited_for() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(COUNTED).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let writer = pair.source.session().await;
    writer.batch_execute("begin; insert into public.counted values (2)").await.unwrap();
    migration.stop().await.assert_code(4);
    waits_for_the_open_transaction(&pair, &mut migration).await;
    writer.batch_execute("insert into public.counted values (3); commit").await.unwrap();
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
}

#[tokio::test]
async fn c_34_a_prepared_transaction_keeps_an_automatic_cutover_waiting() {
    let pair = Pair::own(ServerOptions::default().setting("max_prepared_transactions", "4")).await;
    pair.source.execute(COUNTED).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.session().await.batch_execute("begin; insert into public.counted values (2); prepare transaction 'half'").await.unwrap();
    migration.stop().await.assert_code(4);
    waits_for_the_open_transaction(&pair, &mut migration).await;
    pair.source.session().await.batch_execute("commit prepared 'half'").await.unwrap();
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
}

/// The gates are passed when the transaction begins, so that the drain itself has to wait for it.
#[tokio::test(flavor = "multi_thread")]
async fn c_34_the_drain_names_the_session_that_it_waits_for() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(COUNTED).await;
    let mut run = InProcess::start(&pair, &[], |config| config.interactive = true);
    run.until(|s| s.gates.iter().any(|g| g.kind == GateKind::NoOpenWriters && g.passed)).await;
    run.command(Command::OpenCutover).await;
    let open = run.until(|s| s.prompts.shown().is_some_and(|p| p.kind == PromptKind::Cutover && p.blocked_by.is_none())).await;
    let writer = pair.source.session().await;
    writer.batch_execute("begin; insert into public.counted values (2)").await.unwrap();
    run.answer(open.prompts.shown().unwrap().id, Answer::Confirm).await;
    run.until(|s| s.cutover.steps.get(&CutoverStep::EndOfStream).is_some_and(|(done, text)| !done && text.contains("pg_terminate_backend"))).await;
    writer.batch_execute("commit").await.unwrap();
    run.until(|s| s.cutover.completed.is_some()).await;
    pair.assert_equal().await;
    run.command(Command::Leave).await;
    run.ended().await.unwrap();
}

async fn confirmed(pair: &Pair) -> Lsn {
    let lsn = pair.source.value("select confirmed_flush_lsn from pg_replication_slots where database = current_database()").await;
    lsn.parse().unwrap()
}

#[tokio::test]
async fn c_3_an_idle_database_confirms_what_other_databases_write() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let server = pair.source_server();
    server.execute("postgres", "create table noise as select repeat('x', 1000) as x from generate_series(1, 2000)").await.unwrap();
    let now: Lsn = pair.source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();
    assert!(confirmed(&pair).await < now);
    until("the confirmation", async || confirmed(&pair).await >= now).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn c_3_confirmed_changes_survive_in_the_spool_until_they_are_applied() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let lock = pair.target.session().await;
    lock.batch_execute("begin; lock table public.keyed, public.bag in share mode").await.unwrap();
    pair.source.execute("insert into public.keyed values (1, 'spooled'); insert into public.bag values (1, 'spooled')").await;
    let now: Lsn = pair.source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();
    until("the confirmation", async || confirmed(&pair).await >= now).await;
    migration.kill().await;
    lock.batch_execute("commit").await.unwrap();
    assert!(pair.target.rows("select id from public.keyed union all select id from public.bag").await.is_empty());
    migration.start();
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.rows("select id from public.keyed union all select id from public.bag").await, ["1", "1"]);
}

#[tokio::test]
async fn a_lost_spool_is_refused_and_nothing_is_skipped() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(TABLES).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("insert into public.keyed values (1, 'confirmed')").await;
    let now: Lsn = pair.source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();
    until("the confirmation", async || confirmed(&pair).await >= now).await;
    migration.stop().await.assert_code(4);
    let (spool, aside) = (migration.dir().join("spool"), migration.dir().join("report/aside"));
    std::fs::rename(&spool, &aside).unwrap();
    migration.start_with_cutover();
    let ended = migration.ended().await;
    ended.assert_code(3);
    assert!(ended.stderr.contains("the spool in"), "{}", ended.stderr);
    // Restored, it goes on.
    let _ = std::fs::remove_dir_all(&spool);
    std::fs::rename(&aside, &spool).unwrap();
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn i_5_a_source_that_has_gone_back_before_a_copy_is_refused() {
    let pair = Pair::own(ServerOptions::default().setting("autovacuum", "off")).await;
    pair.source.execute(TABLES).await;
    pair.source.execute(FIRST).await;
    let mut migration = Migration::of(&pair).arguments(&["--table-jobs", "1"]);
    let lock = first_copy_is_blocked(&pair, &mut migration).await;
    let server = pair.source_server();
    let (data, backup) = (server.dir().join("data"), server.dir().join("backup"));
    let copy = |from: &Path, to: &Path| assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
    server.kill().await.unwrap();
    copy(&data, &backup);
    server.restart().await.unwrap();
    // Copied is what the stream has not brought yet.
    let walsender = "select active_pid from pg_replication_slots where active";
    until("the stream", async || !pair.source.rows(walsender).await.is_empty()).await;
    assert!(std::process::Command::new("kill").args(["-STOP", &pair.source.value(walsender).await]).status().unwrap().success());
    pair.source.execute("insert into public.bag select i, repeat('lost', 100) from generate_series(1, 20000) i").await;
    lock.batch_execute("commit").await.unwrap();
    until("the copies", async || pair.target.value("select count(*) from _hyperlift.relation where state = 'copied'").await == "3").await;
    migration.kill().await;
    server.kill().await.unwrap();
    std::fs::remove_dir_all(&data).unwrap();
    copy(&backup, &data);
    server.restart().await.unwrap();
    // Past what was received, and not past what was copied.
    pair.source.execute("insert into public.bag select i, 'another' from generate_series(1, 20) i; checkpoint").await;
    migration.start();
    let ended = migration.ended().await;
    assert!(ended.stderr.contains("the source has gone back"), "{}", ended.stderr);
}
