//! Partitioned tables that become one table or one hypertable.

use super::{Busy, HANDS_FREE, HYPERTABLES, Sides, by_ts, on_each_timescale};
use crate::runner::eventually;
use hyperlift::demo::{execute, query_text};
use serde_json::Value;

const PARTITIONED: &str = "
    create table public.devices (device int primary key, name text);
    insert into public.devices select i, 'device ' || i from generate_series(1, 20) i;
    create table public.events (id bigserial, ts timestamptz not null default now(), device int not null references public.devices, kind text default 'x',
        v int check (v > -1000), twice int generated always as (v * 2) stored, primary key (id, ts, device)) partition by range (ts);
    create table public.events_jan partition of public.events for values from ('2026-01-01') to ('2026-02-01');
    create table public.events_feb partition of public.events for values from ('2026-02-01') to ('2026-03-01') partition by range (device);
    create table public.events_feb_low (v int constraint events_v_check check (v > -1000), twice int generated always as (v * 2) stored, kind text, device int not null,
        ts timestamptz not null, id bigint not null);
    alter table public.events_feb attach partition public.events_feb_low for values from (0) to (10);
    create table public.events_feb_high partition of public.events_feb for values from (10) to (100);
    create table public.events_rest partition of public.events default;
    create index events_v on public.events (v);
    create unique index events_all on public.events (ts, device, id);
    create index jan_only on public.events_jan (device, v);
    create table public.other (id bigint primary key default nextval('public.events_id_seq'));
    create view public.recent as select id, ts, v from public.events where ts > '2026-01-10';
    create materialized view public.by_device as select device, count(*) as n from public.events group by 1;
    create view public.on_top as select count(*) as n from public.recent;
    create view public.january as select * from public.events_jan;
    create function public.first_of(public.events) returns bigint language sql immutable as 'select $1.id';
    create function public.noted() returns trigger language plpgsql as 'begin return new; end';
    create trigger noted after insert on public.events for each row execute function public.noted();
    comment on table public.events is 'what happened';
    comment on view public.recent is 'lately';
    create table public.log (id int, area text, note text, primary key (id, area)) partition by list (area);
    create table public.log_a partition of public.log for values in ('a');
    create table public.log_b partition of public.log for values in ('b', 'c');
    create table public.hashed (id int primary key, note text) partition by hash (id);
    create table public.hashed_0 partition of public.hashed for values with (modulus 2, remainder 0);
    create table public.hashed_1 partition of public.hashed for values with (modulus 2, remainder 1);
    insert into public.events (ts, device, v) select timestamptz '2025-12-20' + i * interval '47 minutes', 1 + i % 20, i % 500 from generate_series(1, 2500) i;
    insert into public.log select i, chr(97 + i % 3), 'note ' || i from generate_series(1, 300) i;
    insert into public.hashed select i, 'note ' || i from generate_series(1, 300) i;
    insert into public.other default values;
    refresh materialized view public.by_device";

#[tokio::test]
async fn h_15_partitioned_tables_become_one_table_or_one_hypertable() {
    on_each_timescale(async |sides| {
        execute(&sides.source, PARTITIONED).await.unwrap();
        let plan = "one_table = [\"public.log\", \"public.hashed\"]\n".to_owned() + &by_ts(&[("events", "refuse")]);
        // First the schema is restored with its partitions; then the operator chooses.
        let mut run = sides.run("", &[]);
        for stage in ["preflight", "identity"] {
            run.event("prompt_opened", |e| e["prompt"]["stage"] == stage).await;
            run.signal("USR1");
        }
        run.event("prompt_opened", |e| e["prompt"]["stage"] == "hypertables").await;
        assert_eq!(
            sides.on_target("select count(*) from pg_class where relname like 'events%' and relispartition and relkind in ('r', 'p')").await,
            ["5"]
        );
        run.kill().await;
        partitions_become_rows(&sides, &plan).await;
    })
    .await;
}

#[tokio::test]
async fn h_15_a_table_that_was_created_without_partitions_stays_so() {
    on_each_timescale(async |sides| {
        execute(&sides.source, PARTITIONED).await.unwrap();
        let mut run = sides.run("one_table = [\"public.log\"]", &[]);
        for stage in ["preflight", "identity"] {
            run.event("prompt_opened", |e| e["prompt"]["stage"] == stage).await;
            run.signal("USR1");
        }
        run.event("prompt_opened", |e| e["prompt"]["stage"] == "hypertables").await;
        run.kill().await;
        sides.migrate("", &["truncate public.log_b; insert into public.log values (1000, 'c', 'after')"]).await;
        let kinds = "select relname, relkind from pg_class where relname in ('log', 'log_a', 'hashed', 'hashed_0') order by 1";
        assert_eq!(sides.on_target(kinds).await, ["hashed|p", "hashed_0|r", "log|r"]);
    })
    .await;
}

#[tokio::test]
async fn h_15_partitions_are_never_created_where_the_plan_says_so_from_the_start() {
    on_each_timescale(async |sides| {
        execute(&sides.source, PARTITIONED).await.unwrap();
        let plan = "one_table = [\"public.log\", \"public.hashed\"]\n".to_owned() + &by_ts(&[("events", "refuse")]);
        partitions_become_rows(&sides, &plan).await;
    })
    .await;
}

#[tokio::test]
async fn h_15_a_continued_run_creates_nothing_again_and_reports_only_what_goes_with_the_partitions() {
    on_each_timescale(async |sides| {
        execute(&sides.source, PARTITIONED).await.unwrap();
        execute(&sides.source, "create schema archive; create table archive.events_2020 (id int primary key)").await.unwrap();
        execute(&sides.source, "create view archive.old as select id from archive.events_2020").await.unwrap();
        let plan = "one_table = [\"public.log\", \"public.hashed\", \"public.events\"]\n";
        let busy = Busy::start(&sides.source).await;
        let mut run = sides.run(plan, &[HANDS_FREE, &["--exclude", "schema:archive"]].concat());
        run.stage("catch_up").await;
        for uri in [&sides.target.uri, &sides.source] {
            execute(uri, "alter table public.log add column extra int").await.unwrap();
        }
        execute(&sides.source, "insert into public.log values (1000, 'a', 'x', 7)").await.unwrap();
        let extra = "select extra from public.log where id = 1000";
        eventually("replay knows the new column", async || {
            query_text(&sides.target.uri, extra).await.is_ok_and(|found| found == [[Some("7".to_owned())]])
        })
        .await;
        run.kill().await;
        // Restoring the schema now would fail: the source's definition has changed, and the target has the table already.
        let mut run = sides.run(plan, HANDS_FREE);
        run.stage("catch_up").await;
        busy.stop().await;
        let ended = run.end().await.expect(0);
        assert!(ended.all("statement_failed").is_empty(), "{ended}");
        let record = std::fs::read_to_string(sides.folder.path().join("work/migration.json")).unwrap();
        let record: Value = serde_json::from_str(&record).unwrap();
        let not_moved: Vec<String> =
            record["not_moved"].as_array().unwrap().iter().map(|n| format!("{}: {}", n[0].as_str().unwrap(), n[1].as_str().unwrap())).collect();
        let partitions: Vec<&String> = not_moved.iter().filter(|line| line.contains("which the target does not have")).collect();
        assert_eq!(
            partitions,
            [
                "index public.jan_only: belongs to table public.events_jan, which the target does not have",
                "view public.january: needs table public.events_jan, which the target does not have",
            ]
        );
        assert!(not_moved.iter().all(|line| !line.contains("archive")), "{not_moved:#?}");
    })
    .await;
}

async fn partitions_become_rows(sides: &Sides, plan: &str) {
    let changes = [
        "insert into public.events (ts, device, v) select timestamptz '2026-01-15' + i * interval '1 hour', 1 + i % 20, i from generate_series(1, 900) i",
        // across partitions, on both levels
        "update public.events set ts = ts + interval '31 days', v = -v where id % 7 = 0; update public.events set device = 21 - device where id % 5 = 0",
        "delete from public.events where id % 11 = 0; update public.log set area = 'a' where id % 4 = 0; delete from public.log where id % 9 = 0",
        "truncate public.events_jan; insert into public.events (ts, device, v) values ('2026-01-20', 3, 7)",
        "truncate public.events_feb; insert into public.events (ts, device, v) values ('2026-02-03', 4, 8), ('2026-02-03', 14, 9)",
        "truncate public.log_b; insert into public.log values (1000, 'c', 'after')",
        "create table public.events_far partition of public.events for values from ('2031-01-01') to ('2032-01-01');
         insert into public.events (ts, device, v) values ('2031-05-05', 5, 5), ('2031-05-06', 6, 6)",
        "truncate public.hashed; insert into public.hashed values (5, 'again'), (6, 'again')",
    ];
    let ended = sides.migrate(plan, &changes).await;
    assert_eq!(sides.on_target(HYPERTABLES).await, ["public.events ts 1 day"]);
    let kinds = "select relname, relkind from pg_class where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') order by 1";
    assert_eq!(sides.on_target(kinds).await, ["busy|r", "devices|r", "events|r", "hashed|r", "log|r", "other|r"]);
    sides
        .expect_same(
            "select replace(pg_get_viewdef(oid), 'events.', '') from pg_class where relname in ('recent', 'by_device', 'on_top') order by relname",
        )
        .await;
    sides.expect_same("select * from public.on_top").await;
    execute(&sides.source, "refresh materialized view public.by_device").await.unwrap();
    sides.expect_same("select device, n from public.by_device order by 1").await;
    sides.expect_same("select obj_description('public.events'::regclass), obj_description('public.recent'::regclass)").await;
    sides.expect_same("select pg_get_expr(adbin, adrelid) from pg_attrdef where adrelid in ('public.events'::regclass, 'public.other'::regclass) order by adrelid::regclass::text, adnum").await;
    sides.expect_same("select pg_get_serial_sequence('public.events', 'id'), to_regprocedure('public.first_of(public.events)')").await;
    sides.expect_same("select tgname, tgenabled from pg_trigger where tgrelid = 'public.events'::regclass and tgname = 'noted'").await;
    sides
        .expect_same(
            "select conname, pg_get_constraintdef(oid), convalidated from pg_constraint where conrelid in ('public.events'::regclass, 'public.log'::regclass) and contype <> 'n' order by 1",
        )
        .await;
    let indexes = "select indexname, replace(indexdef, ' ON ONLY ', ' ON ') from pg_indexes where tablename in ('events', 'log', 'hashed') and schemaname = 'public' order by 1";
    sides.expect_same(indexes).await;
    let not_moved: Vec<&str> = ended.all("not_moved").iter().map(|e| e["object"].as_str().unwrap()).collect();
    assert_eq!(not_moved, ["index public.jan_only", "view public.january"]);
}
