//! Definitions that change on the source while it is moved: names, types that columns need, partitions in the place of others. The statements
//! that are proposed run as they are, one by one or all together.

use hyperlift::event::{Command, Event, Stage};

use crate::support::{InProcess, Migration, Pair};

/// Runs into catch-up, makes the changes, and cuts over without an operator.
async fn follows(schema: &str, changes: &[&str], arguments: &[&str]) -> Pair {
    let pair = Pair::shared().await;
    pair.source.execute(schema).await;
    let mut migration = Migration::of(&pair).arguments(arguments);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    for change in changes {
        pair.source.execute(change).await;
    }
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    pair
}

#[tokio::test]
async fn c_48_what_is_renamed_keeps_its_rows_whether_or_not_a_change_follows() {
    follows(
        "create table public.a (id int primary key, v text, w text); insert into public.a select i, 'a', 'wa' from generate_series(1, 30) i;
         create table public.b (id int primary key, v text); insert into public.b select i, 'b' from generate_series(1, 20) i;
         create table public.c (id int primary key, v text); insert into public.c select i, 'c' from generate_series(1, 10) i;
         create table public.d (like public.c including all); create table public.e (like public.c including all); insert into public.e values (1, 'e'); create index a_v on public.a (v);
         create view public.va as select id, v from public.a;
         create table public.p (id int, d date, primary key (id, d)) partition by range (d); create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01');
         insert into public.p select i, date '2026-01-01' + i % 30 from generate_series(1, 100) i",
        &[
            // Three in a circle, of which one gets no change under its new name.
            "begin; alter table public.a rename to tmp; alter table public.b rename to a; alter table public.c rename to b; alter table public.tmp rename to c; commit",
            "insert into public.a values (1000, 'x'); insert into public.c values (1000, 'x', 'y')",
            "begin; alter table public.d rename to tmp; alter table public.e rename to d; alter table public.tmp rename to e; commit",
            "alter table public.p1 rename to january",
            "create schema moved; alter table public.b set schema moved; alter table moved.b rename column v to title; alter table moved.b add more int default 5",
        ],
        // Nothing that has another name may be taken for dropped.
        &["--follow-ddl", "all"],
    )
    .await;
}

#[tokio::test]
async fn c_49_types_and_functions_are_made_before_the_columns_that_need_them() {
    follows(
        "create type public.mood as enum ('x'); create domain public.short as text check (length(value) < 4);
         create table public.a (id int primary key); insert into public.a select generate_series(1, 30);
         create table public.b (id int primary key); insert into public.b select generate_series(1, 30);
         create table public.quiet (id int primary key, code varchar(10), n int not null default 3)",
        &[
            "alter type public.mood add value 'y'; alter domain public.short drop constraint short_check",
            "alter table public.a add m public.mood not null default 'y', add s public.short; insert into public.a values (500, 'x', 'much longer')",
            "create schema kinds; create type kinds.pair as (l int, r public.mood); create function kinds.four() returns int language sql immutable as 'select 4';
             alter table public.b add p kinds.pair, add n int default kinds.four() check (n = kinds.four()); insert into public.b(id) values (500)",
            "alter table public.quiet alter code type varchar(20), alter n drop not null, alter n set default 4, add total int generated always as (n * 2) stored",
        ],
        &[],
    )
    .await;
}

#[tokio::test]
async fn c_50_a_row_does_not_go_to_the_partition_that_the_source_has_replaced() {
    let pair = follows(
        "create table public.p (id int, d date, v text, primary key (id, d)) partition by range (d);
         create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01');
         create table public.p2 partition of public.p for values from ('2026-02-01') to ('2026-03-01');
         insert into public.p select i, date '2026-01-01' + i % 59, 'x' from generate_series(1, 100) i",
        &[
            "drop table public.p1; create table public.p1a partition of public.p for values from ('2026-01-01') to ('2026-01-15');
             create table public.p1b partition of public.p for values from ('2026-01-15') to ('2026-02-01')",
            "insert into public.p values (500, '2026-01-05', 'n'), (501, '2026-01-25', 'n'); update public.p set v = 'u' where id = 501",
        ],
        &[],
    )
    .await;
    assert_eq!(pair.target.value("select count(*) from public.p where d < '2026-02-01'").await, "2");
}

/// Replay writes to the table meanwhile.
#[tokio::test]
async fn c_52_an_index_on_a_large_table_is_built_concurrently() {
    let pair = Pair::shared().await;
    pair.source
        .execute("create table public.large (id int primary key, v text); insert into public.large select i, repeat('x', 100) || i from generate_series(1, 90000) i; create table public.small (id int primary key, v text)")
        .await;
    // A build that was interrupted has left this.
    let mut migration = Migration::of(&pair);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    pair.target
        .execute("create index large_v on public.large (v); update pg_index set indisvalid = false where indexrelid = 'public.large_v'::regclass")
        .await;
    pair.source.execute("create index large_v on public.large (v); create index small_v on public.small (v)").await;
    let ended = migration.ended().await;
    ended.assert_code(0);
    pair.assert_same_schema().await;
    let texts = ended.events.iter().filter_map(|e| if let Event::Notice { text, .. } = e { Some(text.as_str()) } else { None });
    let built: Vec<&str> = texts.filter(|t| t.contains("the target follows: CREATE INDEX")).collect();
    let concurrent = |index: &str| built.iter().any(|t| t.contains(&format!("CREATE INDEX CONCURRENTLY {index} ")));
    assert!(built.len() == 2 && concurrent("large_v") && !concurrent("small_v"), "{built:#?}");
    assert_eq!(pair.target.value("select bool_and(indisvalid) from pg_index where indrelid = 'public.large'::regclass").await, "t");
}

#[tokio::test(flavor = "multi_thread")]
async fn c_51_the_operator_runs_what_is_listed_one_by_one_or_all_that_removes_nothing() {
    let pair = Pair::shared().await;
    pair.source
        .execute("create table public.t (id int primary key, v text); insert into public.t values (1, 'x'), (2, 'x'); create table public.gone (id int primary key); create view public.v as select id from public.t")
        .await;
    // The plan says what the command line does not.
    let plan = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(plan.path(), "follow_ddl = \"ask\"\n").unwrap();
    let mut run = InProcess::start(&pair, &["--plan", plan.path().to_str().unwrap()], |_| {});
    run.until(|s| s.stage == Some(Stage::CatchUp)).await;
    pair.source
        .execute("create or replace view public.v as select id, v from public.t; create index t_v on public.t (v); drop table public.gone")
        .await;
    let listed = run.until(|s| s.differences.len() == 3).await.differences;
    let sql = |object: &str| listed.iter().find(|d| d.object == object).and_then(|d| d.sql.clone()).unwrap();
    assert!(listed.iter().all(|d| d.removes == (d.object == "TABLE public.gone")), "{listed:#?}");
    // A statement that is not in the list is not run, and one that fails says why.
    pair.target.execute("create view public.needs_it as select * from public.gone").await;
    run.command(Command::RunStatements { statements: vec!["drop table public.t".into(), sql("TABLE public.gone")] }).await;
    let failed = run.until(|s| s.differences.iter().any(|d| d.error.is_some())).await;
    assert!(failed.differences.iter().any(|d| d.object == "TABLE public.gone" && d.error.as_ref().is_some_and(|e| e.contains("2BP01"))));
    let safe = listed.iter().filter(|d| d.is_safe()).filter_map(|d| d.sql.clone()).collect();
    run.command(Command::RunStatements { statements: safe }).await;
    run.until(|s| s.differences.len() == 1).await;
    pair.target.execute("drop view public.needs_it").await;
    run.command(Command::RunStatements { statements: vec![sql("TABLE public.gone")] }).await;
    run.until(|s| s.differences.is_empty()).await;
    assert_eq!(pair.target.value("select count(*) from public.t").await, "2");
    run.command(Command::RunStatements { statements: vec![sql("TABLE public.gone")] }).await;
    run.event("what is gone from the list is refused", |e| matches!(e, Event::CommandRefused { .. })).await;
    run.stop().await;
}
