//! Parts of a table by ranges of a key, for sources that cannot read ranges of blocks (before PostgreSQL 14).

use hyperlift::{
    demo::servers::ServerOptions,
    event::{Stage, TableState},
    migration::stages::copy::{key_ranges, parts::KeyRanges},
    name::TableName,
    pg::{
        connect::{conninfo::Conninfo, session::Side},
        wire::Wire,
    },
};

use crate::support::{Database, InProcess, Pair, until};

/// Cuts the rows of `public.t` into ten pieces; checks that each row is in exactly one, and that each piece is read through an index.
async fn cut(database: &Database, table: &str) -> KeyRanges {
    database.execute(&format!("drop table if exists public.t; {table}")).await;
    let blocks = database.value("select pg_relation_size('public.t') / 8192").await.parse().unwrap();
    let mut wire = Wire::open(&Conninfo::parse(&database.uri).unwrap(), Side::Source, "test").await.unwrap();
    wire.simple("begin isolation level repeatable read read only").await.unwrap();
    let found = key_ranges::ranges(&mut wire, &TableName::new("public", "t"), blocks, 10).await.unwrap();
    let conditions = found.conditions();
    let times = conditions.iter().map(|c| format!("coalesce({c}, false)::int")).collect::<Vec<_>>().join(" + ");
    assert_eq!(database.value(&format!("select count(*) from public.t where {times} <> 1")).await, "0", "{table}: {conditions:?}");
    if conditions.len() > 1 {
        wire.simple("set local enable_seqscan = off").await.unwrap();
        for condition in &conditions {
            let plan = wire.simple(&format!("explain select * from only public.t where {condition}")).await.unwrap();
            let plan: String = plan.into_iter().flatten().flatten().collect();
            assert!(plan.contains("Index Cond") && !plan.contains("Seq Scan") && !plan.contains("Filter"), "{condition}: {plan}");
        }
    }
    found
}

#[tokio::test]
async fn every_row_is_in_exactly_one_range_whatever_its_value() {
    let pair = Pair::shared().await;
    let source = &pair.source;
    source.execute("create domain public.small as int check (value < 1000000); set check_function_bodies = off").await;
    for (data_type, value) in [
        ("bigint", "(i - 5000) * 1000000000::bigint"),
        ("smallint", "i - 5000"),
        ("public.small", "i"),
        ("numeric(20, 5)", "case when i > 9900 then 'NaN' else i / 7.0 end"),
        ("float8", "case when i > 9900 then 'NaN' when i < 50 then '-Infinity' else i / 7.0 end::float8"),
        ("date", "case when i > 9900 then 'infinity' else date '4000-01-01 BC' + i end"),
        ("timestamptz", "case when i > 9900 then null else timestamptz '2026-01-01 00:00:00.000001+00' + i * interval '7 s' end"),
        ("uuid", "lpad(to_hex(i), 32, '0')::uuid"),
        ("bytea", r"case when i < 100 then '\x' else decode(lpad(to_hex(i), 8, '0'), 'hex') end"),
        ("interval", "i * interval '-1 hour'"),
        ("inet", "inet '10.0.0.0/8' + i"),
        // Many rows have the same value, and some rows have none.
        ("int", "case when i < 7500 then i / 2500 end"),
        ("int", "case when i > 9990 then i end"),
    ] {
        let rows = "insert into public.t select v, repeat('x', 100) from (select VALUE as v, i from generate_series(0, 9999) i) t order by i";
        let table = format!("create table public.t (k {data_type}, v text); {}; create index on public.t (k)", rows.replace("VALUE", value));
        let found = cut(source, &table).await;
        let (least, most) = if value.contains('/') && data_type == "int" || value.contains("9990") { (1, 9) } else { (7, 9) };
        assert!((least..=most).contains(&found.bounds.len()), "{data_type}, {value}: {found:?}");
        assert_eq!(found.column, "k");
    }
}

#[tokio::test]
async fn the_key_is_one_that_the_rows_are_ordered_by_and_without_one_the_table_stays_whole() {
    let pair = Pair::shared().await;
    let source = &pair.source;
    let rows = "insert into public.t select i, md5(i::text)::uuid, 1, i, i, lpad(i::text, 6, '0'), repeat('x', 60) from generate_series(1, 10000) i";
    let table = format!("create table public.t (id int, \"u Id\" uuid, one int, other bigint, nullable int, t text, v text); {rows};");
    for (indexes, column) in [
        ("", ""),
        ("alter table public.t add primary key (id); create index on public.t (other)", "id"),
        // Every block would have rows of each range, so the next index is used.
        ("alter table public.t add primary key (\"u Id\"); create index on public.t (other desc nulls last)", "other"),
        ("alter table public.t add primary key (\"u Id\")", ""),
        ("alter table public.t add primary key (one, id); create unique index on public.t (id)", "id"),
        (
            "create unique index on public.t (id); create index on public.t (nullable); alter table public.t alter other set not null;
          create unique index i on public.t (other); alter table public.t replica identity using index i",
            "other",
        ),
        (
            "create index on public.t (id) where id < 5; create index on public.t ((id + 1)); create index on public.t using hash (id);
          create index on public.t using brin (id); create unique index on public.t (one, id)",
            "",
        ),
        // The order of text depends on a library.
        ("create index on public.t (t); create index on public.t (t collate \"C\")", ""),
        ("create index i on public.t (id); update pg_index set indisvalid = false where indexrelid = 'public.i'::regclass", ""),
    ] {
        let found = cut(source, &format!("{table} {indexes}")).await;
        assert_eq!(found.column, column, "{indexes}: {found:?}");
        assert!(column.is_empty() || found.bounds.len() == 9, "{indexes}: {found:?}");
    }
    // Updates have moved rows to the end: there are fewer pieces, so that not all of them read the end.
    let moved = "alter table public.t add primary key (id);
        do $$ begin for n in 1..2500 loop update public.t set one = 2 where id = (n * 7919) % 10000; end loop; end $$";
    let found = cut(source, &format!("{table} {moved}")).await;
    assert!((1..9).contains(&found.bounds.len()), "{found:?}");
    assert_eq!(cut(source, "create table public.t (id int primary key)").await, KeyRanges::default());
}

// In this process, because only a test can make the copy of a newer server use ranges of a key. Replay needs threads of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_by_key_are_read_under_one_snapshot_and_tried_again_as_parts_by_blocks_are() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source
        .execute(
            "create table public.t (id bigint primary key, n int not null default 0, v text);
             insert into public.t select i, 0, repeat(md5(i::text), 8) from generate_series(1, 12000) i;
             create table public.root (at date, id int, v text, primary key (at, id)) partition by range (at);
             create table public.large partition of public.root for values from ('2024-01-01') to ('2025-01-01');
             create table public.small partition of public.root for values from ('2025-01-01') to ('2026-01-01');
             insert into public.root select date '2024-01-01' + i / 40, i, repeat(md5(i::text), 8) from generate_series(1, 15000) i",
        )
        .await;
    let arguments = ["--split-tables-larger-than", "256kB", "--copy-rate", "2MB", "--cutover-when-ready", "--quiet-for", "1"];
    let mut migration = InProcess::start(&pair, &arguments, |config| config.parts_by_key = true);
    let table = |name: &str| TableName::new("public", name);
    let state = migration.until(|s| ["t", "root"].iter().all(|t| s.table(&table(t)).is_some_and(|t| t.parts > 0))).await;
    assert_eq!(state.table(&table("t")).map(|t| (t.state(), t.parts >= 8)), Some((TableState::Copying, true)), "{:?}", state.tables);
    assert!(state.table(&table("root")).is_some_and(|t| t.parts >= 8), "{:?}", state.tables);
    pair.source.execute("update public.t set n = 1 where id % 100 = 0; update public.t set id = id + 100000 where id % 100 = 1").await;
    let ended = "select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '/copy-' and query ~ '^copy' and state = 'active'";
    until("a session in the middle of a part", async || !pair.target.rows(ended).await.is_empty()).await;
    let state = migration.until(|s| s.log.iter().any(|l| l.text.contains(", part ") && l.text.contains("trying again"))).await;
    assert!(state.stage == Some(Stage::Copy), "{:?}", state.stage);
    migration.ended().await.unwrap();
    pair.assert_equal().await;
}
