//! I8: what is replayed as sets is what is replayed in order, and both are the source, wherever replay is killed on the way.
//!
//! `HYPERLIFT_EQUIVALENCE_CASES` sets how many random workloads are written, `HYPERLIFT_EQUIVALENCE_SEED` repeats one of them.

use hyperlift::{
    demo::servers::Programs,
    lsn::{Lsn, Position},
    replay::lane::ConflictAnswer,
};

use crate::{
    replaying::{Compared, Contents, Replay, Stream, describe, differences},
    support::{Database, Pair},
    workload::{self, Table},
};

const CASES: &str = "HYPERLIFT_EQUIVALENCE_CASES";
const SEED: &str = "HYPERLIFT_EQUIVALENCE_SEED";

/// A number of the environment.
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds of the workloads.
fn cases(default: u64) -> std::ops::Range<u64> {
    if let Some(seed) = number(SEED) {
        return seed..seed + 1;
    }
    let first = fastrand::u64(..1 << 48);
    first..first + number(CASES).unwrap_or(default)
}

/// Says how to repeat what failed.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("failed with {SEED}={}", self.0);
        }
    }
}

/// A random workload, replayed by sets and in order, with kills.
async fn holds(seed: u64, tables: &[Table], transactions: u32, prepare: &str) -> Contents {
    let _seed = Seed(seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let pair = Pair::shared().await;
    let (by_sets, in_order) = (&pair.target, &pair.second_target().await);
    for table in tables {
        pair.source.execute(&table.source).await;
    }
    for target in [by_sets, in_order] {
        target.execute(prepare).await;
        for table in tables {
            target.execute(table.target.as_ref().unwrap_or(&table.source)).await;
        }
    }
    let insert_only: Vec<&str> = tables.iter().filter(|t| t.insert_only).map(|t| t.name).collect();
    let mut stream = Stream::open(&pair.source, &insert_only).await;
    let written = workload::write(&pair.source, tables, transactions, &mut rng).await;
    stream.receive().await;
    let contents = stream.contents();

    let lanes = rng.u32(1..5);
    for (target, is_in_order) in [(by_sets, false), (in_order, true)] {
        // Some in the first batch, others after it.
        let kills: Vec<u64> = (0..rng.usize(3..7)).map(|_| if rng.bool() { 0 } else { rng.u64(1..=contents.rows() / 3 + 1) }).collect();
        let mut replay = Replay::new(&stream, target, lanes, is_in_order).await;
        // Sets of few changes and of many: a set that fails hides what another would do wrong.
        replay.barriers = (0..rng.u32(0..80)).map(|_| Lsn(rng.u64(stream.start.0..stream.end.0))).collect();
        replay.finish_with_kills(&kills, &mut rng).await;
        assert!(replay.counters.values().all(|c| c.conflicts_skipped == 0), "{:?}", replay.counters);
        let sets: u64 = replay.counters.values().map(|c| c.sets).sum();
        assert!((sets == 0) == is_in_order, "{:?}", replay.counters);
        assert!(replay.positions().await.iter().all(|p| *p >= Position::after(stream.end)), "the position of a lane is before the end of the stream");
    }
    let compared: Vec<Compared> = tables.iter().map(Table::compared).collect();
    let (sets, order) = tokio::join!(differences(&pair.source, by_sets, &compared), differences(&pair.source, in_order, &compared));
    let found: Vec<_> = sets.iter().map(|d| ("by sets", d)).chain(order.iter().map(|d| ("in order", d))).collect();
    for (path, (table, text)) in &found {
        eprintln!("{table} differs from the source, replayed {path}: {text}\n{}", written.about(table.trim_start_matches("only ")));
    }
    assert!(found.is_empty(), "{} tables differ from the source", found.len());
    stream.close().await;
    contents
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_8_sets_in_order_and_the_source_are_equal_wherever_replay_is_killed() {
    let mut all = Contents::default();
    for seed in cases(2) {
        let found = holds(seed, &workload::plain(), 50, "").await;
        all.largest = all.largest.max(found.largest);
        all.rekeyed_incomplete += found.rekeyed_incomplete;
        all.incomplete += found.incomplete;
        all.truncates += found.truncates;
    }
    // The workload is what it is meant to be; a single one may lack something.
    let complete = all.rekeyed_incomplete > 0 && all.incomplete > 10 && all.truncates > 0 && all.largest > 2_000;
    assert!(complete || number(SEED).is_some(), "{all:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i_8_sets_in_order_and_the_source_are_equal_in_hypertables() {
    if !Programs::newest().unwrap().has_timescale() {
        return;
    }
    for seed in cases(2) {
        holds(seed, &workload::hypertables(), 32, "create extension timescaledb").await;
    }
}

/// Rows with every key from 1 to 40, on both sides.
const ROWS: &str = "
    create table public.t (id int primary key, n int, code text unique, big text);
    alter table public.t alter big set storage external;
    insert into public.t select i, i, 'c' || i, (select string_agg(md5(i::text || j), '') from generate_series(1, 100) j) from generate_series(1, 40) i;
    create table public.first (id int primary key)";

/// What happens to `ROWS` on the source is spooled as a whole, so that it comes in one batch, and replayed by sets and in order into
/// databases in which `spoil` has run before. Each string is a transaction.
async fn on_both_paths(changes: &[&str], spoil: &str, test: impl AsyncFn(Replay<'_>, &Database, &Database)) {
    let pair = Pair::shared().await;
    let second = pair.second_target().await;
    for database in [&pair.source, &pair.target, &second] {
        database.execute(ROWS).await;
    }
    let mut stream = Stream::open(&pair.source, &[]).await;
    for change in changes {
        pair.source.execute(change).await;
    }
    stream.receive().await;
    for (target, in_order) in [(&pair.target, false), (&second, true)] {
        target.execute(spoil).await;
        test(Replay::new(&stream, target, 1, in_order).await, target, &pair.source).await;
    }
    stream.close().await;
}

async fn expect_equal(source: &Database, target: &Database) {
    let tables = ["public.t", "public.first"].map(|table| Compared { table: table.into(), by_leaf: false });
    let found = differences(source, target, &tables).await;
    assert!(found.is_empty(), "{found:#?}");
}

async fn expect_replayed(changes: &[&str]) {
    on_both_paths(changes, "", async |mut replay, target, source| {
        replay.finish().await;
        expect_equal(source, target).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_5_a_row_that_changes_its_key_keeps_a_toast_value_that_only_the_target_has() {
    expect_replayed(&[
        // one row, many rows, twice, and after another change of the row in the same batch
        "update public.t set id = 101 where id = 1",
        "update public.t set id = id + 200 where id between 11 and 30",
        "update public.t set id = id + 200, n = -1 where id between 221 and 225",
        "update public.t set n = 0 where id = 2; update public.t set id = 102 where id = 2; update public.t set n = 1 where id = 102",
        "delete from public.t where id = 3; update public.t set id = 3 where id = 4; update public.t set id = 4 where id = 5",
        "update public.t set big = null where id = 6; update public.t set id = 106 where id = 6",
        "update public.t set big = 'short' where id = 7; update public.t set id = 107 where id = 7; update public.t set id = 7, n = 7 where id = 107",
        "update public.t set id = 108 where id = 8; delete from public.t where id = 108",
        "insert into public.t select 109, 9, 'copy', big from public.t where id = 9; update public.t set id = 110 where id = 109",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_6_and_c_33_swaps_and_chains_of_keys_in_one_batch_come_in_order() {
    expect_replayed(&[
        "update public.t set id = -id",
        "update public.t set id = -id",
        "update public.t set id = 99 where id = 1; update public.t set id = 1 where id = 2; update public.t set id = 2 where id = 99",
        "delete from public.t where id = 3; update public.t set id = 3 where id = 4; update public.t set id = 4 where id = 5",
        // the row that goes was put there by the batch
        "insert into public.t (id) values (5); delete from public.t where id = 5; insert into public.t (id, n) values (5, 55)",
        "delete from public.t where id = 6; insert into public.t (id, n) values (6, 66); delete from public.t where id = 6",
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_6_and_c_33_swaps_and_chains_of_unique_values_in_one_batch_come_in_order() {
    expect_replayed(&[
        "update public.t set code = null where id = 1; update public.t set code = 'c1' where id = 2; update public.t set code = 'c2' where id = 1",
        "update public.t set code = 'x' || code where id between 11 and 30",
        "update public.t set code = 'c' || (41 - id) where id between 11 and 30",
        "delete from public.t where code = 'c3'; update public.t set code = 'c3' where code = 'c4'; update public.t set code = 'c4' where code = 'c5'",
        "delete from public.t where id = 6; insert into public.t (id, code) values (106, 'c6'); update public.t set id = 6 where id = 106",
        "update public.t set code = 'passed on' where id = 7; update public.t set code = null where id = 7; update public.t set code = 'passed on' where id = 8",
    ])
    .await;
}

/// Replay meets the row that was spoiled: it is named, and nothing of the batch is kept, however often it is retried.
async fn expect_conflict(change: &str, spoil: &str, fix: &str, names: &[&str]) {
    let change = format!("insert into public.first select generate_series(1, 20); {change}");
    on_both_paths(&[&change], spoil, async |mut replay, target, source| {
        let (before, positions) = (target.rows("select t.* from public.t order by id").await, replay.positions().await);
        let mut run = replay.start(true).await;
        for again in 0..2 {
            let conflict = run.conflict().await;
            let text = describe(&conflict);
            assert!(
                conflict.relation.as_ref().is_some_and(|r| r.table.to_string() == "public.t") && names.iter().all(|name| text.contains(name)),
                "{text}"
            );
            assert_eq!(target.rows("select t.* from public.t order by id").await, before, "{again}: {text}");
            assert_eq!(target.value("select count(*) from public.first").await, "0");
            assert_eq!(replay.positions().await, positions);
            if again > 0 {
                target.execute(fix).await;
            }
            conflict.answer.send(ConflictAnswer::Retry).unwrap();
        }
        run.end().await;
        replay.add(&run);
        run.stop().await;
        assert!(replay.counters.values().all(|c| c.conflicts_skipped == 0), "{:?}", replay.counters);
        expect_equal(source, target).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_18_i_9_a_change_that_finds_no_row_names_it_and_keeps_nothing_of_its_batch() {
    let (spoil, fix) = (
        "create table public.kept as select * from public.t where id = 23; delete from public.t where id = 23",
        "insert into public.t table public.kept",
    );
    for (change, word) in [
        ("update public.t set n = n + 1", "UPDATE"),
        ("update public.t set n = n + 1 where id between 20 and 24", "UPDATE"),
        ("delete from public.t where id > 10", "DELETE"),
        ("update public.t set id = id + 100", "UPDATE"),
        ("update public.t set id = id + 100, big = 'x' where id between 20 and 24", "UPDATE"),
    ] {
        expect_conflict(change, spoil, fix, &["public.t", &format!("{word} of id = 23"), "no such row"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_17_a_change_that_collides_names_its_row_and_keeps_nothing_of_its_batch() {
    let fix = "delete from public.t where id in (63, 1000)";
    for (change, spoil, word) in [
        ("insert into public.t select generate_series(41, 80)", "insert into public.t values (63)", "INSERT of id = 63"),
        (
            "insert into public.t (id, code) select i, 'c' || i from generate_series(41, 80) i",
            "insert into public.t values (1000, 0, 'c63')",
            "INSERT of id = 63",
        ),
        ("update public.t set code = 'c' || (id + 40)", "insert into public.t values (1000, 0, 'c63')", "UPDATE of id = 23"),
        ("update public.t set id = id + 40", "insert into public.t values (63)", "UPDATE of id = 23"),
        ("update public.t set id = id + 40, big = 'x' where id = 23", "insert into public.t values (63)", "UPDATE of id = 23"),
    ] {
        expect_conflict(change, spoil, fix, &["public.t", word, "(23505)"]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_18_what_an_accepted_relation_misses_is_counted_and_the_rest_is_applied() {
    let changes = [
        "update public.t set n = n + 1",
        "insert into public.t (id) select generate_series(41, 60); insert into public.first values (1)",
        "delete from public.t where id < 30",
    ];
    let spoil = "delete from public.t where id in (23, 33); insert into public.t (id, n) values (50, 5)";
    on_both_paths(&changes, spoil, async |mut replay, target, source| {
        let mut run = replay.start(true).await;
        let conflict = run.conflict().await;
        // Which of them comes first depends on what is sent in one flight.
        assert!(["id = 23", "id = 50"].iter().any(|row| describe(&conflict).contains(row)), "{}", describe(&conflict));
        conflict.answer.send(ConflictAnswer::Accept).unwrap();
        run.end().await;
        replay.add(&run);
        run.stop().await;
        let missed: u64 = replay.counters.values().map(|c| c.conflicts_skipped).sum();
        // both updates, the insert, and the delete of what was not there
        assert_eq!(missed, 4, "{:?}", replay.counters);
        assert_eq!(target.value("select count(*) from public.first").await, "1");
        let rows = "select id, n from public.t where id not in (33, 50) order by id";
        assert_eq!(target.rows(rows).await, source.rows(rows).await);
        assert_eq!(target.rows("select id, n from public.t where id in (33, 50)").await, ["50|5"]);
    })
    .await;
}

/// What comes before a barrier must not be committed, if a deferred constraint forbids it until the end of the transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c_6_c_9_a_deferred_constraint_may_stay_violated_across_a_barrier() {
    let rows = "create table public.ranked (id int primary key, rank int unique deferrable);
        create table public.ranked_too (id int primary key, rank int unique deferrable);
        create table public.emptied (id int primary key); create table public.plain (id int primary key, n int);
        insert into public.ranked values (1, 1), (2, 2); insert into public.ranked_too table public.ranked; insert into public.emptied values (1);
        insert into public.plain select i, i from generate_series(1, 40) i";
    // The keys of the table that is not truncated are spread, and a change of one is a barrier, too.
    for barrier in ["truncate public.emptied", "update public.plain set id = id + 100, n = 0", "truncate public.emptied, public.plain"] {
        let pair = Pair::shared().await;
        for database in [&pair.source, &pair.target] {
            database.execute(rows).await;
        }
        let mut stream = Stream::open(&pair.source, &[]).await;
        pair.source.execute("update public.plain set n = n + 1").await;
        let violate = "update public.ranked set rank = 2 where id = 1; update public.ranked_too set rank = 2 where id = 1";
        let fix = "update public.ranked set rank = 1 where id = 2; update public.ranked_too set rank = 1 where id = 2";
        let others = "insert into public.emptied select i from generate_series(1, 50) i on conflict do nothing; update public.plain set n = n + 1";
        pair.source.execute(&format!("begin; set constraints all deferred; {others}; {violate}; {barrier}; {others}; {fix}; commit")).await;
        pair.source.execute("update public.plain set n = n + 1; delete from public.emptied where id = 1").await;
        stream.receive().await;
        Replay::new(&stream, &pair.target, 3, false).await.finish().await;
        pair.assert_equal().await;
        stream.close().await;
    }
}
