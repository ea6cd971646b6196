//! Indexes and keys: built in parallel, as the source has them, whatever is killed or fails.

use hyperlift::{
    demo::servers::Programs,
    event::{Answer, CopyProgress, Event, IndexProgress, PromptKind, Stage, TableState},
    name::TableName,
    state::State,
};

use crate::support::{Database, InProcess, Migration, Pair, until};

/// Enough rows for a relation whose indexes are not built in one transaction.
const LARGE: &str = "select g, g / 2, 'row ' || g || repeat(' and more', 40), int4range(g, g + 1), null from generate_series(1, 30000) g";

/// A session that evaluates this waits for the advisory lock 42 of its database.
const GATE: &str = "create function public.gate(n int) returns int language plpgsql immutable as
    $$ begin perform pg_catalog.pg_advisory_xact_lock_shared(42); return n; end $$";

/// All indexes, with names, definitions and storage; and all constraints.
const INDEXES: &str = "
    select c.oid::regclass::text, pg_get_indexdef(i.indexrelid), i.indisprimary, i.indisunique, i.indimmediate, i.indisvalid, i.indisclustered,
           i.indisreplident, c.reloptions::text, coalesce(p.inhparent::regclass::text, '')
      from pg_index i join pg_class c on c.oid = i.indexrelid left join pg_inherits p on p.inhrelid = c.oid
     where c.relnamespace = 'public'::regnamespace order by 1";
const CONSTRAINTS: &str = "
    select conrelid::regclass::text, conname, contype, pg_get_constraintdef(oid), condeferrable, condeferred, conindid::regclass::text
      from pg_constraint where connamespace = 'public'::regnamespace order by 1, 2";

async fn assert_same_indexes(pair: &Pair) {
    for sql in [INDEXES, CONSTRAINTS] {
        assert_eq!(pair.source.rows(sql).await, pair.target.rows(sql).await);
    }
}

fn public(table: &str) -> TableName {
    TableName::new("public", table)
}

/// Every table has statistics before replay begins.
async fn assert_analyzed(target: &Database, tables: &[&str]) {
    for table in tables {
        let sql = format!("select pg_stat_get_last_analyze_time('public.{table}'::regclass) is not null and exists (select from pg_statistic)");
        assert_eq!(target.value(&sql).await, "t", "{table}");
    }
}

#[tokio::test]
async fn every_kind_of_index_and_key_is_as_on_the_source() {
    let pair = Pair::shared().await;
    // A table whose indexes are built in parallel, a small one, and a partitioned one.
    let objects = |table: &str| {
        format!(
            "create table public.{table} (a int not null, b int, \"C c\" text, r int4range, z int);
             alter table public.{table} add constraint \"{table} Key\" primary key (a) include (b) with (fillfactor = 70);
             alter table public.{table} add constraint {table}_late unique (a, b) deferrable initially deferred;
             alter table public.{table} add constraint {table}_distinct unique nulls not distinct (a, z);
             alter table public.{table} add constraint {table}_apart exclude using gist (r with &&) where (a > 10);
             create index {table}_expression on public.{table} (lower(\"C c\"), b desc nulls last) where b <> 7;
             create unique index {table}_identity on public.{table} (a) include (\"C c\");
             create index {table}_brin on public.{table} using brin (b) with (pages_per_range = 16);
             create index {table}_hash on public.{table} using hash (\"C c\");
             alter table public.{table} replica identity using index {table}_identity;
             alter table public.{table} cluster on {table}_late;
             comment on constraint {table}_late on public.{table} is 'it''s late';"
        )
    };
    let partitioned = "
        create table public.parts (a int not null, b int, t text, primary key (a, b)) partition by range (a);
        create table public.low partition of public.parts for values from (0) to (50000);
        create table public.high partition of public.parts for values from (50000) to (1000000) partition by list (b);
        create table public.higher partition of public.high default;
        create index parts_t on public.parts (t);
        create unique index low_only on public.low (t, a);";
    pair.source.execute(&format!("{}{}{partitioned}", objects("large"), objects("small"))).await;
    pair.source.execute(&format!("insert into public.large {LARGE}; insert into public.small {LARGE} limit 100")).await;
    pair.source.execute("insert into public.parts select g * 3, 1, repeat('x', 350) || g from generate_series(1, 30000) g").await;
    let mut migration = Migration::of(&pair).arguments(&["--index-jobs", "3"]);
    migration.start();
    let mut parallel = 0;
    migration
        .event("catch-up", |e| {
            if let Event::IndexProgress(IndexProgress { table, building, .. }) = e
                && *table == public("large")
            {
                parallel = parallel.max(building.len());
            }
            matches!(e, Event::StageChanged { stage: Stage::CatchUp, .. })
        })
        .await;
    assert!(parallel >= 2, "indexes of one table are built in parallel");
    assert_analyzed(&pair.target, &["large", "small", "parts", "low", "higher"]).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_same_indexes(&pair).await;
}

#[tokio::test]
async fn r_1_killed_while_indexes_are_built_it_builds_the_rest_and_replaces_what_is_invalid() {
    let pair = Pair::own(hyperlift::demo::servers::ServerOptions::default()).await;
    pair.source.execute(GATE).await;
    pair.source.execute("create table public.t (a int primary key, b int, c text, r int4range, z int)").await;
    pair.source.execute(&format!("insert into public.t {LARGE}")).await;
    let indexes = "create index t_b on public.t (b); create index t_gated on public.t (public.gate(a)); create unique index t_c on public.t (c, a)";
    pair.source.execute(indexes).await;
    let gate = pair.target.session().await;
    gate.batch_execute("select pg_advisory_lock(42)").await.unwrap();
    let mut migration = Migration::of(&pair);
    migration.start();
    // All except the gated one are built. The key's index is built, too, but does not count yet, because the key has not taken it over.
    let rest = |e: &Event| matches!(e, Event::IndexProgress(IndexProgress { table, building, done, .. }) if *table == public("t") && *building == ["t_gated"] && *done == 2);
    migration.event("the others are built", rest).await;
    let phase = "building index: scanning table";
    migration
        .event("progress of the gated one", |e| matches!(e, Event::IndexBuilding { index, phase: p, .. } if index == "t_gated" && p == phase))
        .await;
    migration.kill().await;
    // The session of the killed run would wait in the build as long as the gate is closed.
    let leftover = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name ~ '^hyperlift'";
    until("the end of the killed process's sessions", async || pair.target.rows(leftover).await.is_empty()).await;
    let built = "select indexrelid::regclass::text from pg_index where indrelid = 'public.t'::regclass order by 1";
    assert_eq!(pair.target.rows(built).await, ["t_b", "t_c", "t_pkey"]);
    let oids = "select relname, oid from pg_class where relname in ('t_b', 't_c', 't_pkey') order by 1";
    let before = pair.target.rows(oids).await;
    // An invalid index, as a concurrent build that failed leaves it.
    pair.target.execute("create index t_gated on public.t (b); update pg_index set indisvalid = false where indexrelid = 't_gated'::regclass").await;
    gate.batch_execute("select pg_advisory_unlock(42)").await.unwrap();
    migration.start();
    migration.event("the invalid one is dropped", |e| matches!(e, Event::Notice { text, .. } if text.contains("invalid index public.t_gated"))).await;
    migration.stage(Stage::CatchUp).await;
    assert_eq!(pair.target.rows(oids).await, before, "what was built is not built again");
    assert_analyzed(&pair.target, &["t"]).await;
    migration.finish(&pair).await;
    assert_same_indexes(&pair).await;
}

// In this process: replay needs threads of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_fails_waits_for_the_operator_while_the_others_are_built() {
    let pair = Pair::own(hyperlift::demo::servers::ServerOptions::default()).await;
    // Every row has the same value while a session holds the advisory lock 43.
    let broken = "create function public.broken(n int) returns int language plpgsql immutable as
        $$ begin return case when pg_catalog.pg_try_advisory_xact_lock_shared(43) then n else 0 end; end $$";
    pair.source.execute(broken).await;
    for table in ["large", "small"] {
        pair.source.execute(&format!("create table public.{table} (a int primary key, b int, c text, r int4range, z int)")).await;
        let rows = if table == "large" { "" } else { "limit 5" };
        pair.source.execute(&format!("insert into public.{table} {LARGE} {rows}")).await;
        let sql = format!("create unique index {table}_broken on public.{table} (public.broken(a)); create index {table}_b on public.{table} (b)");
        pair.source.execute(&sql).await;
    }
    pair.source.execute("create table public.fine (a int primary key)").await;
    let lock = pair.target.session().await;
    lock.batch_execute("select pg_advisory_lock(43)").await.unwrap();

    let mut migration = InProcess::start(&pair, &["--index-jobs", "1"], |config| config.interactive = true);
    let failed = |s: &State, table: &str| {
        s.schema.failures.iter().any(|f| {
            f.statement.object.contains(&format!("{table}_broken"))
                && f.statement.sqlstate.as_deref() == Some("23505")
                && s.prompts.failure_of(&f.statement.object).is_some()
        })
    };
    // There is one job for indexes, and no failure blocks it. The key takes its index over once all indexes of the table are built.
    let state = migration
        .until(|s| {
            let fine = s.table(&public("fine")).is_some_and(|t| t.state() == TableState::Done);
            let built = |name| s.table(&public(name)).is_some_and(|t| t.state() == TableState::Indexing && t.indexes_done == 1);
            fine && built("large") && built("small") && failed(s, "large") && failed(s, "small")
        })
        .await;
    assert_eq!(state.prompts.shown().map(|p| p.kind), Some(PromptKind::Failure));
    lock.batch_execute("select pg_advisory_unlock(43)").await.unwrap();
    let objects: Vec<String> = state.schema.failures.iter().map(|f| f.statement.object.clone()).collect();
    assert_eq!(objects.len(), 2, "{objects:?}");
    // One is retried, the other one is skipped.
    let retried = objects.iter().find(|o| o.contains("large")).unwrap().clone();
    let skipped = objects.iter().find(|o| o.contains("small")).unwrap().clone();
    for (object, answer) in [(retried, Answer::Retry), (skipped, Answer::Skip)] {
        migration.answer(state.prompts.failure_of(&object).unwrap().id, answer).await;
    }
    migration.until(|s| s.stage == Some(Stage::CatchUp)).await;
    let there = "select to_regclass('public.large_broken') is not null, to_regclass('public.small_broken') is not null";
    assert_eq!(pair.target.rows(there).await, ["t|f"]);
    assert_analyzed(&pair.target, &["large", "small", "fine"]).await;
    migration.stop().await;
}

#[tokio::test]
async fn a_copied_table_says_that_it_waits_for_an_index_job() {
    let pair = Pair::shared().await;
    pair.source.execute(GATE).await;
    let table = |name: &str, rows: &str| {
        format!("create table public.{name} (a int primary key, b int, c text, r int4range, z int); insert into public.{name} {LARGE} {rows};")
    };
    pair.source.execute(&format!("{}{}", table("first", ""), table("second", "limit 100"))).await;
    pair.source.execute("create index first_gated on public.first (public.gate(a)); create index second_b on public.second (b)").await;
    let gate = pair.target.session().await;
    gate.batch_execute("select pg_advisory_lock(42)").await.unwrap();
    let mut migration = Migration::of(&pair).arguments(&["--table-jobs", "1", "--index-jobs", "1"]);
    migration.start();
    let states = |all: &[Event], name: &str| {
        let state = |e: &Event| match e {
            Event::CopyProgress(CopyProgress { table, state, .. }) if *table == public(name) && !e.is_progress() => Some(*state),
            _ => None,
        };
        all.iter().filter_map(state).collect::<Vec<_>>()
    };
    let waits = |e: &Event| matches!(e, Event::CopyProgress(CopyProgress { table, state: TableState::Waiting, .. }) if *table == public("second"));
    migration.event("the second one waits", waits).await;
    assert_eq!(pair.target.rows("select indexrelid from pg_index where indrelid = 'public.second'::regclass").await, Vec::<String>::new());
    gate.batch_execute("select pg_advisory_unlock(42)").await.unwrap();
    migration.stage(Stage::CatchUp).await;
    let ended = migration.stop().await;
    for table in ["first", "second"] {
        assert_eq!(states(&ended.events, table), [TableState::Waiting, TableState::Indexing, TableState::Done], "{table}");
    }
    // A table that an earlier run has copied waits again.
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let ended = migration.stop().await;
    assert_eq!(states(&ended.events, "second"), [TableState::Waiting, TableState::Indexing, TableState::Done]);
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn h_2_indexes_of_a_hypertable_are_built_in_parallel_after_its_key() {
    if !Programs::newest().unwrap().has_timescale() {
        return;
    }
    let pair = Pair::shared().await;
    pair.source.execute(GATE).await;
    let table = "create table public.t (a int not null, ts timestamptz not null, b int, primary key (a, ts));
        insert into public.t select g, '2026-01-01'::timestamptz + g * interval '1 min', g % 9 from generate_series(1, 20000) g;
        create index t_b on public.t (b); create index t_ts on public.t (ts desc);
        create index t_gated on public.t (public.gate(a)); create unique index t_u on public.t (ts, a)";
    pair.source.execute(table).await;
    let gate = pair.target.session().await;
    gate.batch_execute("select pg_advisory_lock(42)").await.unwrap();
    let plan = "[[hypertable]]\ntable = \"public.t\"\ntime_column = \"ts\"\nchunk_interval = \"1 day\"\nkey = \"refuse\"\n";
    let mut migration = Migration::of(&pair).plan(plan);
    migration.start();
    let rest = |e: &Event| matches!(e, Event::IndexProgress(IndexProgress { building, done, .. }) if *building == ["t_gated"] && *done == 4);
    migration.event("the others are built", rest).await;
    migration
        .event("progress by chunks", |e| matches!(e, Event::IndexBuilding { index, fraction, .. } if index == "t_gated" && *fraction < 1.0))
        .await;
    gate.batch_execute("select pg_advisory_unlock(42)").await.unwrap();
    migration.stage(Stage::CatchUp).await;
    let chunks = "select count(*) from pg_stats where tablename ~ '_hyper_.*_chunk'";
    until("statistics of the chunks", async || pair.target.value(chunks).await.parse::<u64>().unwrap() > 10).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_same_indexes(&pair).await;
}
