//! Tables that are copied while replay goes on, and join it then.

use hyperlift::event::{CopyProgress, Event, Stage, TableState};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::task::JoinHandle;

use crate::support::{Database, Migration, Pair, until};

/// Tables with and without keys, and the first of them large enough that its copy takes a while.
const TABLES: &str = "
    create table public.t (id int primary key, v text, n int); insert into public.t select i, repeat('x', 80), i from generate_series(1, 20000) i;
    create index on public.t (n);
    create table public.whole (a int, b text); alter table public.whole replica identity full;
    insert into public.whole select i, 'w' from generate_series(1, 500) i;
    create table public.other (id int primary key, v text); insert into public.other select i, 'o' from generate_series(1, 500) i";

/// Writes to all of them until it is stopped.
struct Writer {
    stop: Arc<AtomicBool>,
    work: JoinHandle<u64>,
}

impl Writer {
    async fn start(database: &Database) -> Self {
        let client = database.session().await;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let work = tokio::spawn(async move {
            let mut round = 0_u64;
            while !stopped.load(Ordering::Relaxed) {
                round += 1;
                let (id, new) = (round * 37 % 20_000 + 1, 100_000 + round);
                let sql = format!(
                    "begin; update public.t set v = 'r{round}', n = {id} where id = {id}; insert into public.t values ({new}, 'new', 1);
                     insert into public.other values ({new}, 'new'); commit;
                     begin; delete from public.t where id = {id} + 5; update public.t set id = -id where id = {id} + 9; update public.whole set b = 'r{round}' where a = {id} % 500; commit;
                     begin; update public.t set n = n + 1 where id = {new}; savepoint s; delete from public.other; rollback to s; commit"
                );
                client.batch_execute(&sql).await.unwrap();
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            round
        });
        Self { stop, work }
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        assert!(self.work.await.unwrap() > 10, "it has hardly written");
    }
}

fn is_left(e: &Event) -> bool {
    matches!(e, Event::TableLeft { .. })
}

fn is_joined(e: &Event) -> bool {
    matches!(e, Event::TableJoined { .. })
}

fn reaches(wanted: TableState) -> impl Fn(&Event) -> bool {
    move |e: &Event| matches!(e, Event::CopyProgress(CopyProgress { table, state, .. }) if table.name == "t" && *state == wanted)
}

#[tokio::test(flavor = "multi_thread")]
async fn i_12_a_table_that_is_copied_again_is_equal_wherever_it_is_killed() {
    let pair = Pair::shared().await;
    pair.source.execute(TABLES).await;
    // The last type is the first one, so that the schemas are the same in the end.
    let mut migration = Migration::of(&pair).arguments(&["--copy-rate", "4MB"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let writer = Writer::start(&pair.source).await;
    let moments: [&dyn Fn(&Event) -> bool; 4] = [&is_left, &reaches(TableState::Copying), &reaches(TableState::Done), &is_joined];
    for (round, moment) in moments.into_iter().enumerate() {
        let new_type = if round % 2 == 0 { "bigint" } else { "int" };
        pair.source.execute(&format!("alter table public.t alter n type {new_type} using n + 1")).await;
        migration.event("the moment to kill it", moment).await;
        migration.kill().await;
        migration.start();
        migration.stage(Stage::CatchUp).await;
    }
    // What was killed last may have joined already.
    let still_away = "select count(*) from _hyperlift.relation where side_lane is not null";
    until("all tables have joined", async || pair.target.value(still_away).await == "0").await;
    assert_eq!(pair.target.value("select count(*) from _hyperlift.lane where lane > 3").await, "0", "its lane has ended");
    writer.stop().await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_38_tables_and_partitions_that_are_made_meanwhile_arrive_with_their_rows() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.p (id int, d date, v text, primary key (id, d)) partition by range (d);
             create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01');
             insert into public.p select i, date '2026-01-01' + i % 31, 'x' from generate_series(1, 300) i;
             create table public.joins (id int, d date, v text, primary key (id, d)); insert into public.joins values (1, '2026-05-05', 'known')",
        )
        .await;
    let mut migration = Migration::of(&pair);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    pair.source
        .execute(
            "create type public.mood as enum ('sad', 'ok');
             create table public.young (id int primary key generated by default as identity, m public.mood default 'ok', ref int, w int[]);
             create index on public.young (m); create table public.bare (id int primary key); alter table public.young add foreign key (ref) references public.bare;
             insert into public.young (ref) select null from generate_series(1, 100); comment on table public.young is 'new'",
        )
        .await;
    // Of a transaction that is open when a table is published, the stream has only what it does later.
    let open = pair.source.session().await;
    open.batch_execute("begin; insert into public.bare values (1), (2)").await.unwrap();
    let waits = |e: &Event| matches!(e, Event::Waiting { what, holders } if what.contains("public.bare") && !holders.is_empty());
    migration.event("the copy waits for the open transaction", waits).await;
    open.batch_execute("insert into public.bare values (3); delete from public.bare where id = 1; commit").await.unwrap();
    pair.source
        .execute(
            "create table public.filled (id int, d date, v text, primary key (id, d)); insert into public.filled select i, '2026-02-05', 'before' from generate_series(1, 200) i;
             alter table public.p attach partition public.filled for values from ('2026-02-01') to ('2026-03-01');
             alter table public.p attach partition public.joins for values from ('2026-05-01') to ('2026-06-01')",
        )
        .await;
    // A change of a row that the target does not have, of one that moves, and of a partition that the target has as a table.
    pair.source
        .execute("update public.p set v = 'after' where id = 7; update public.p set d = '2026-02-06' where id = 250 and d < '2026-02-01'")
        .await;
    pair.source.execute("update public.p set v = 'after' where d > '2026-05-01'; insert into public.young (m) values ('sad')").await;
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    pair.assert_untouched().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_38_what_happens_to_a_table_while_it_is_copied_is_not_lost() {
    let pair = Pair::shared().await;
    pair.source.execute(TABLES).await;
    pair.source.execute("create table public.gone (id int primary key, v text); insert into public.gone select i, repeat('g', 80) from generate_series(1, 20000) i").await;
    let mut migration = Migration::of(&pair).arguments(&["--copy-rate", "2MB", "--follow-ddl", "all"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source
        .execute("alter table public.t alter n type bigint using n + 1; alter table public.gone alter v type varchar(90) using v || '!'")
        .await;
    pair.source.execute("update public.t set v = 'y' where id = 1").await;
    migration.event("it is copied", reaches(TableState::Copying)).await;
    // Both wait for the copy's lock.
    pair.source.execute("truncate public.t; insert into public.t select i, 'z', i from generate_series(1, 5000) i").await;
    pair.source.execute("drop table public.gone").await;
    // It is written again before it has joined.
    pair.source.execute("alter table public.t alter n type int using n + 2; update public.t set v = 'last' where id = 3").await;
    until("all tables have joined", async || pair.target.value("select count(*) from _hyperlift.relation where side_lane is not null").await == "0")
        .await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_38_a_table_that_differs_is_copied_again_where_that_is_wanted() {
    let pair = Pair::shared().await;
    pair.source
        .execute("create table public.t (id int primary key, v text); insert into public.t select i, 'x' from generate_series(1, 500) i")
        .await;
    pair.source.execute("create unlogged table public.u (id int primary key); insert into public.u values (1)").await;
    let mut migration = Migration::of(&pair).arguments(&["--on-conflict", "copy"]);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("alter table public.u set logged; insert into public.u values (2)").await;
    pair.target.execute("delete from public.t where id > 100").await;
    pair.source.execute("update public.t set v = 'y' where id = 300").await;
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_39_what_is_altered_before_it_is_copied_is_copied_in_catch_up() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.t (id int primary key, v text); insert into public.t select i, repeat('x', 200) from generate_series(1, 20000) i;
             create type public.e as enum ('x'); create table public.lax (id int primary key, v text unique, n int check (n < 10), e public.e);
             insert into public.lax select i, 'v' || i, 1, 'x' from generate_series(1, 100) i;
             create table public.other (id int primary key, n int, gone int not null); insert into public.other select i, i, i from generate_series(1, 100) i;
             create table public.was (like public.other including all); insert into public.was select * from public.other;
             create table public.first (like public.lax including all); insert into public.first values (1, 'first', 1, 'x');
             create table public.second (like public.lax including all); insert into public.second values (1, 'second', 2, 'x');
             create table public.dropped (like public.other including all)",
        )
        .await;
    // Only the largest table is copied when the others are altered.
    let mut migration = Migration::of(&pair).arguments(&["--copy-rate", "2MB", "--table-jobs", "1", "--follow-ddl", "all"]);
    migration.start_with_cutover();
    migration.event("it is copied", reaches(TableState::Copying)).await;
    for change in [
        "alter table public.lax drop constraint lax_v_key, drop constraint lax_n_check; alter type public.e add value 'y'",
        "update public.lax set v = 'same', n = 100, e = 'y'",
        "alter table public.other drop gone, alter n type text using 'n' || n, add more text default 'm'; insert into public.other values (1000, 'new')",
        "alter table public.was rename to renamed; insert into public.renamed values (1000, 1, 1)",
        "begin; alter table public.first rename to x; alter table public.second rename to first; alter table public.x rename to second; commit",
        "drop table public.dropped",
    ] {
        pair.source.execute(change).await;
    }
    // A run that was killed goes on in the same way.
    migration.kill().await;
    migration.start_with_cutover();
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    pair.assert_untouched().await;
}
