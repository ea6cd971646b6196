//! Hypertables while they are copied and replayed: kills, chunks, and publications that cannot have them.

use super::{Busy, HANDS_FREE, HYPERTABLES, by_ts, on_each_timescale, on_some_timescale};
use crate::runner::eventually;
use hyperlift::demo::{
    application::{Application, Load},
    connect,
    data::{self, Size},
    execute,
    timescale::TimescaleKind,
};
use serde_json::Value;
use std::time::Duration;

/// Makes inserts of the row into the table on the target wait until the caller drops the session.
async fn block_inserts(target: &str, table: &str, row: &str) -> tokio_postgres::Client {
    let client = connect(target).await.unwrap();
    let trigger = format!(
        "select pg_advisory_lock(4711);
        create function public.block_inserts() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(4711); return new; end $$;
        create trigger block_inserts before insert on {table} for each row when ({row}) execute function public.block_inserts()"
    );
    client.batch_execute(&trigger).await.unwrap();
    client
}

#[tokio::test]
async fn i_12_kill_9_in_copy_and_catch_up_loses_nothing_of_a_hypertable() {
    // PGlite has one session for all, so nobody can end what a killed program leaves open there.
    on_some_timescale(
        |kind| kind != TimescaleKind::Pglite,
        async |sides| {
            data::load(&sides.source, Size::TINY).await.unwrap();
            let plan = include_str!("../../../assets/demo/plan.toml");
            let load = Load { rate_per_second: Some(200.0), long_transaction: Duration::from_millis(200), ..Load::default() };
            let writer = Application::start(&sides.source, load).await.unwrap();
            let busy = Busy::start(&sides.source).await;

            let mut run = sides.run(plan, &[]);
            for stage in ["preflight", "identity"] {
                run.event("prompt_opened", |e| e["prompt"]["stage"] == stage).await;
                run.signal("USR1");
            }
            run.event("prompt_opened", |e| e["prompt"]["stage"] == "hypertables").await;
            let held_up = block_inserts(&sides.target.uri, "public.metrics", "new.device_id = 80").await;
            run.signal("USR1");
            eventually("the copy is in the middle of a table", async || {
                sides.on_target("select count(*) from pg_locks where locktype = 'advisory' and not granted").await == ["1"]
            })
            .await;
            run.kill().await;
            drop(held_up);
            execute(&sides.target.uri, "drop function public.block_inserts cascade").await.unwrap();

            for _ in 0..2 {
                let mut run = sides.run(plan, HANDS_FREE);
                run.event("replayed", |e| e["changes"].as_u64() > Some(100)).await;
                run.kill().await;
            }
            let mut run = sides.run(plan, HANDS_FREE);
            run.event("replayed", |e| e["changes"].as_u64() > Some(100)).await;
            writer.stop().await.unwrap();
            busy.stop().await;
            run.end().await.expect(0);
            sides.expect_equal().await;
            assert_eq!(sides.on_target(HYPERTABLES).await, ["public.events ts 7 days", "public.metrics time 7 days"]);
        },
    )
    .await;
}

#[tokio::test]
async fn c_20_a_hypertable_whose_chunks_are_scanned_for_each_change_is_named() {
    // PGlite keeps no statistics.
    on_some_timescale(
        |kind| kind != TimescaleKind::Pglite,
        async |sides| {
            let bag = "
                create table public.bag (ts timestamptz not null, n int, v text);
                alter table public.bag replica identity full;
                insert into public.bag select timestamptz '2024-01-01' + i * interval '1 second', i, 'before' from generate_series(1, 5000) i;
                analyze public.bag";
            execute(&sides.source, bag).await.unwrap();
            let plan = by_ts(&[("bag", "extend")]);
            let mut run = sides.run(&plan, &["--yes"]);
            run.stage("catch_up").await;
            execute(&sides.source, "update public.bag set v = 'during' where n between 4600 and 4900").await.unwrap();
            let slowed_down = run.event("slowed_down", |e| e["table"]["name"] == "bag").await;
            let fix = slowed_down["fix"].as_str().unwrap();
            assert_eq!(fix, "create index on public.bag (n) with (timescaledb.transaction_per_chunk);");
            execute(&sides.target.uri, fix).await.unwrap();
            run.signal("TERM");
            run.end().await.expect(4);
            sides.run(&plan, HANDS_FREE).end().await.expect(0);
            sides.expect_equal().await;
        },
    )
    .await;
}

#[tokio::test]
async fn several_jobs_copy_into_chunks_that_were_made_beforehand_and_none_is_made_for_nothing() {
    on_some_timescale(
        |kind| kind != TimescaleKind::Pglite,
        async |sides| {
            // 30 days, a gap of a year, and a row from the year 4000: 32 chunks, not a million.
            let tables = "
                create table public.readings (ts timestamptz not null, device int not null, v float8, note text, primary key (device, ts));
                insert into public.readings select timestamptz '2024-01-01' + i * interval '2 minutes', i % 7, i, repeat('x', 100) from generate_series(0, 21599) i;
                insert into public.readings values ('2025-06-01', 1, 0, 'a gap'), ('4000-01-01', 1, 0, 'an outlier');
                create table public.counted (ts bigint not null, n int not null, v text, primary key (n, ts));
                insert into public.counted select i - 5000, i % 3, repeat('y', 200) from generate_series(0, 9999) i;
                analyze";
            execute(&sides.source, tables).await.unwrap();
            let plan = by_ts(&[("readings", "extend")])
                + "[[hypertable]]\ntable = \"public.counted\"\ntime_column = \"ts\"\nchunk_interval = \"1000\"\nkey = \"extend\"\n";
            let ended = {
                let busy = Busy::start(&sides.source).await;
                let mut arguments = vec!["--split-tables-larger-than", "256kB", "--table-jobs", "4"];
                arguments.extend(HANDS_FREE);
                let mut run = sides.run(&plan, &arguments);
                run.stage("copy").await;
                run.stage("catch_up").await;
                busy.stop().await;
                run.end().await.expect(0)
            };
            sides.expect_equal().await;
            for (table, least) in [("readings", 10), ("counted", 5)] {
                let begun: Vec<_> = ended.all("copy_begun").into_iter().filter(|e| e["table"]["name"] == table).collect();
                assert!(begun.len() == 1 && begun[0]["format"] == "binary" && begun[0]["parts"].as_u64() >= Some(least), "{begun:?}");
            }
            let is_about_jobs = |e: &&Value| e["text"].as_str().is_some_and(|t| t.contains("one job at a time"));
            assert!(!ended.all("notice").iter().any(is_about_jobs), "{ended}");
            let chunks = "select hypertable_name, count(*) from timescaledb_information.chunks group by 1 order by 1";
            assert_eq!(sides.on_target(chunks).await, ["counted|10", "readings|32"]);
            let empty = "select c.chunk_name from timescaledb_information.chunks c
                where not xpath_exists('//row', query_to_xml(format('select 1 from %I.%I limit 1', chunk_schema, chunk_name), false, false, ''))";
            assert!(sides.on_target(empty).await.is_empty());
        },
    )
    .await;
}

#[tokio::test]
async fn h_4_publications_are_made_without_hypertables_and_say_so() {
    on_each_timescale(async |sides| {
        let objects = "
            create table public.metrics (at timestamptz not null, v int, primary key (at)); create table public.plain (id int primary key);
            create publication a_few for table public.metrics, public.plain; create publication whole for all tables;
            create publication of_schema for tables in schema public;
            insert into public.metrics select now() - i * interval '1 hour', i from generate_series(1, 100) i";
        execute(&sides.source, objects).await.unwrap();
        let plan = "publications = true\n[[hypertable]]\ntable = \"public.metrics\"\ntime_column = \"at\"\nchunk_interval = \"1 day\"\n";
        let ended = sides.migrate(plan, &["update public.metrics set v = 0 where v < 10; insert into public.plain values (1)"]).await;
        let not_moved: Vec<String> = ended.all("not_moved").iter().map(|e| format!("{}: {}", e["object"].as_str().unwrap(), e["reason"].as_str().unwrap())).collect();
        for part in [
            "PUBLICATION a_few: without public.metrics: rows of a hypertable",
            "PUBLICATION of_schema: publishes nothing of public.metrics",
            "PUBLICATION whole: not created: ",
        ] {
            assert!(not_moved.iter().any(|line| line.starts_with(part)), "{not_moved:#?}");
        }
        let published = "select pubname, string_agg(tablename, ',' order by tablename) from pg_publication_tables where schemaname = 'public' group by 1 order by 1";
        assert_eq!(sides.on_target(published).await, ["a_few|plain", "of_schema|busy,metrics,plain"]);
        // The application may change rows, whatever identity the chunks have.
        execute(&sides.target.uri, "update public.metrics set v = 1; delete from public.metrics where v = 1").await.unwrap();
    })
    .await;
}
