//! What a hypertable cannot have is known before anything is converted, in the target's own words; and what the others lose is named.

use super::*;
use hyperlift::demo::servers::Programs;

/// Lines of the report: `object: reason`.
fn not_moved(ended: &Ended) -> Vec<String> {
    ended.all("not_moved").iter().map(|e| format!("{}: {}", e["object"].as_str().unwrap(), e["reason"].as_str().unwrap())).collect()
}

#[tokio::test]
async fn h_4_what_the_target_refuses_is_known_before_anything_is_converted() {
    on_each_timescale(async |sides| {
        let tables = "
            create function public.noted() returns trigger language plpgsql as 'begin return null; end';
            create table public.good (id int primary key, ts timestamptz not null, code text);
            create unique index good_code on public.good (lower(code));
            create table public.by_row (ts timestamptz primary key);
            create trigger each_row after insert on public.by_row referencing new table as fresh for each row execute function public.noted();
            create trigger each_statement after insert on public.by_row referencing new table as fresh for each statement execute function public.noted();
            create table public.root_only (ts timestamptz primary key, n int, constraint positive check (n > 0) no inherit);
            create table public.item (id int primary key, ts timestamptz not null, name text);
            create view public.items as select id, name, count(*) as n from public.item group by id;
            create table public.stay (id int primary key, during int4range, ts timestamptz not null, constraint apart exclude using gist (during with &&));
            comment on constraint apart on public.stay is 'no two of them';
            create table public.parted (id int, area text, ts timestamptz not null, name text, primary key (area, id)) partition by list (area);
            create table public.parted_a partition of public.parted for values in ('a');
            create view public.by_area as select area, id, name, count(*) as n from public.parted group by area, id;
            insert into public.parted select i, 'a', timestamptz '2026-01-01' + i * interval '5 hours', 'n' from generate_series(1, 100) i;
            insert into public.good select i, timestamptz '2026-01-01' + i * interval '5 hours', 'C' || i from generate_series(1, 100) i;
            insert into public.by_row select timestamptz '2026-01-01' + i * interval '5 hours' from generate_series(1, 100) i;
            insert into public.stay select i, int4range(i, i + 1), timestamptz '2026-01-01' + i * interval '5 hours' from generate_series(1, 100) i";
        execute(&sides.source, tables).await.unwrap();
        let plan = by_ts(&[("good", "extend"), ("by_row", "extend"), ("root_only", "extend"), ("item", "extend")]);
        let ended = sides.run(&plan, HANDS_FREE).end().await.expect(3);
        for refused in [
            "public.by_row: TRIGGER public.by_row each_row: ROW triggers with transition tables are not supported on hypertables (0A000)",
            "public.root_only: create_hypertable: cannot have NO INHERIT constraints",
            "public.item: key item_pkey: the query of a view or of a function groups by it, which needs it as it is",
        ] {
            assert!(ended.stderr.contains(refused), "{refused}: {}", ended.stderr);
        }
        assert!(!ended.stderr.contains("public.good"), "{}", ended.stderr);
        // The target has the partitions by now: they are dropped in the trial, and are there again after it.
        let ended = sides.run(&by_ts(&[("stay", "extend"), ("parted", "extend")]), HANDS_FREE).end().await.expect(3);
        for refused in [
            "public.stay: key apart: an exclusion constraint cannot be extended; plain-index keeps its index",
            "public.parted: key parted_pkey: the query of a view or of a function groups by it, which needs it as it is",
        ] {
            assert!(ended.stderr.contains(refused), "{refused}: {}", ended.stderr);
        }
        assert_eq!(sides.on_target(HYPERTABLES).await, [""; 0]);
        let partitions = "select relid::text from pg_partition_tree('public.parted') union all select name from _hyperlift.step";
        assert_eq!(sides.on_target(partitions).await, ["parted", "parted_a"]);

        // The same directory goes on once the source has no such trigger.
        execute(&sides.source, "drop trigger each_row on public.by_row").await.unwrap();
        let plan = by_ts(&[("good", "extend"), ("by_row", "extend"), ("stay", "plain-index")]);
        let ended = sides.migrate(&plan, &["update public.good set code = code || '!', ts = ts + interval '9 days' where id % 3 = 0"]).await;
        assert_eq!(sides.on_target(HYPERTABLES).await, ["public.by_row ts 1 day", "public.good ts 1 day", "public.stay ts 1 day"]);
        assert_eq!(
            sides.on_target(&indexes_of("public.good,public.stay")).await,
            [
                "CREATE INDEX apart ON public.stay USING gist (during)",
                "CREATE INDEX stay_pkey ON public.stay USING btree (id)",
                "CREATE UNIQUE INDEX good_code ON public.good USING btree (lower(code), ts)",
                "CREATE UNIQUE INDEX good_pkey ON public.good USING btree (id, ts)",
            ]
        );
        let reason = "an index on the target that excludes no rows, as key = \"plain-index\" says";
        assert!(not_moved(&ended).contains(&format!("CONSTRAINT public.stay apart: {reason}")), "{:?}", not_moved(&ended));
    })
    .await;
}

#[tokio::test]
async fn h_4_a_conversion_that_fails_converts_no_other_table() {
    on_each_timescale(async |sides| {
        let tables = "
            create table public.first (id int primary key, ts timestamptz not null); create table public.second (id int primary key, ts timestamptz not null);
            create table public.spread (id int primary key, device int, ts timestamptz not null)";
        execute(&sides.source, tables).await.unwrap();
        let plan = by_ts(&[("first", "extend"), ("second", "extend")]);
        let mut run = sides.run(&plan, &[]);
        for stage in ["preflight", "identity", "hypertables"] {
            run.event("prompt_opened", |e| e["prompt"]["stage"] == stage).await;
            if stage == "hypertables" {
                // h_20: somebody makes one whose key lacks the second column
                let by_hand = "select create_hypertable('public.spread', 'ts', 'device', 4, create_default_indexes => false)";
                execute(&sides.target.uri, by_hand).await.unwrap();
            }
            run.signal("USR1");
        }
        let expected = "public.spread: CONSTRAINT public.spread spread_pkey: cannot create a unique index without the column \"device\"";
        let ended = run.end().await.expect(3);
        assert!(ended.stderr.contains(expected), "{ended}");
        let again = "drop table public.spread; create table public.spread (id int not null, device int, ts timestamptz not null)";
        execute(&sides.target.uri, again).await.unwrap();

        let mut run = sides.run(&plan, &[]);
        run.event("prompt_opened", |e| e["prompt"]["stage"] == "hypertables" && e["prompt"]["blocked_by"].is_null()).await;
        execute(&sides.target.uri, "insert into public.second values (1, now())").await.unwrap();
        run.signal("USR1");
        let ended = run.end().await.expect(1);
        assert!(ended.stderr.contains("create_hypertable of public.second") && ended.stderr.contains("no table was converted"), "{ended}");
        assert_eq!(sides.on_target(HYPERTABLES).await, [""; 0]);

        execute(&sides.target.uri, "truncate public.second").await.unwrap();
        sides.migrate(&by_ts(&[("second", "extend")]), &["insert into public.second values (7, now())"]).await;
        assert_eq!(sides.on_target(HYPERTABLES).await, ["public.second ts 1 day"]);
    })
    .await;
}

#[tokio::test]
async fn h_5_times_that_a_hypertable_cannot_hold_are_found_before_the_copy_and_named_in_catch_up() {
    on_each_timescale(async |sides| {
        let tables = "
            create table public.lease (id int, ts timestamptz not null, primary key (id, ts));
            create table public.holiday (id int, ts date not null, primary key (id, ts));
            create table public.parted (id int, ts timestamp not null, primary key (id, ts)) partition by range (ts);
            create table public.parted_old partition of public.parted for values from (minvalue) to ('2000-01-01');
            create table public.parted_new partition of public.parted for values from ('2000-01-01') to (maxvalue);
            create table public.counted (id int, ts bigint not null, primary key (id, ts));
            insert into public.lease values (1, 'infinity'), (2, '0044-03-15 BC'), (3, '294246-12-31'), (4, '294250-01-01');
            insert into public.holiday values (1, 'infinity'), (2, '-infinity');
            insert into public.parted values (1, '2026-01-01'), (2, '-infinity');
            insert into public.counted values (1, 9223372036854775807), (2, -9223372036854775808)";
        execute(&sides.source, tables).await.unwrap();
        let fixes = [
            ("lease", "ts is 294250-01-01 00:00:00+00", "update public.lease set ts = '2026-01-01' where id = 4"),
            ("holiday", "ts is -infinity", "update public.holiday set ts = '0001-01-01' where id = 2"),
            ("parted", "ts is -infinity", "update public.parted set ts = '0001-01-01' where id = 2"),
        ];
        for (table, found, fix) in fixes {
            let ended = sides.run(&by_ts(&[(table, "extend")]), HANDS_FREE).end().await.expect(3);
            let expected = format!(
                "public.{table} has a row whose {found}, which a hypertable cannot hold: select * from public.{table} where ts = '-infinity'"
            );
            assert!(ended.stderr.contains(&expected), "{expected}: {}", ended.stderr);
            execute(&sides.source, fix).await.unwrap();
        }
        let plan =
            by_ts(&[("lease", "extend"), ("holiday", "extend"), ("parted", "extend")]) + &by_ts(&[("counted", "extend")]).replace("1 day", "1000000");
        let busy = Busy::start(&sides.source).await;
        let mut run = sides.run(&plan, HANDS_FREE);
        run.stage("catch_up").await;
        execute(&sides.source, "insert into public.lease values (5, '-infinity')").await.unwrap();
        let ended = run.end().await.expect(1);
        busy.stop().await;
        for part in ["public.lease: INSERT of id = 5, ts = -infinity", "a hypertable needs a time in ts", "give the row another time on the source"] {
            assert!(ended.stderr.contains(part), "{part}: {}", ended.stderr);
        }
    })
    .await;
}

#[tokio::test]
async fn h_22_triggers_of_a_hypertable_fire_in_every_chunk_as_on_the_source() {
    on_each_timescale(async |sides| {
        let tables = "
            create table public.met (ts timestamptz not null, dev int not null, primary key (dev, ts));
            create table public.fired (id bigint generated by default as identity primary key, name text, ts timestamptz);
            create function public.noted() returns trigger language plpgsql as
                $$ begin insert into public.fired (name, ts) values (tg_name, new.ts); return new; end $$;
            insert into public.met select timestamptz '2026-01-01' + i * interval '6 hours', i % 3 from generate_series(1, 40) i;
            create trigger t_off before insert on public.met for each row execute function public.noted();
            create trigger t_replica before insert on public.met for each row execute function public.noted();
            create trigger t_always before insert on public.met for each row execute function public.noted();
            create trigger t_on before insert on public.met for each row when (new.dev < 10) execute function public.noted();
            create constraint trigger t_late after insert on public.met deferrable initially deferred for each row execute function public.noted();
            comment on trigger t_off on public.met is 'off'; comment on trigger t_always on public.met is 'always';
            alter table public.met disable trigger t_off; alter table public.met enable replica trigger t_replica;
            alter table public.met enable always trigger t_always";
        execute(&sides.source, tables).await.unwrap();
        let ended = sides.migrate(&by_ts(&[("met", "extend")]), &["insert into public.met values ('2026-05-05', 7)"]).await;
        for side in [&sides.source, &sides.target.uri] {
            // In a chunk that is there, and in one that is made now.
            execute(side, "insert into public.met values ('2026-01-02 01:00', 8), ('2030-01-01', 9)").await.unwrap();
        }
        sides.expect_same("select name, ts::date from public.fired order by ts, name").await;
        let named: Vec<String> = not_moved(&ended).iter().map(|line| line.split(',').next().unwrap().to_owned()).collect();
        assert_eq!(
            named,
            [
                "TRIGGER public.met t_always: an ordinary trigger on the target",
                "TRIGGER public.met t_off: left out",
                "TRIGGER public.met t_replica: left out",
            ]
        );
    })
    .await;
}

#[tokio::test]
async fn h_23_functions_with_names_of_timescaledbs_keep_their_meaning() {
    on_each_timescale(async |sides| {
        let own = "
            create function public.time_bucket(width interval, ts timestamptz) returns timestamptz language sql immutable as
                $$ select date_trunc('hour', ts) $$;
            create function public.time_bucket(width numeric, v numeric) returns numeric language sql immutable as $$ select -v $$;
            create function public.own(v int) returns numeric language plpgsql as $$ begin return time_bucket(10, v); end $$;
            create table public.met (ts timestamptz primary key, v numeric);
            insert into public.met select timestamptz '2026-01-01' + i * interval '7 hours', public.own(i) from generate_series(1, 50) i;
            create index met_bucket on public.met (public.time_bucket('1 day', ts));
            create view public.buckets as select public.time_bucket('1 day', ts) as bucket, sum(v) from public.met group by 1";
        execute(&sides.source, own).await.unwrap();
        let plan = by_ts(&[("met", "extend")]);
        if !sides.on_target("select extname from pg_extension where extname = 'timescaledb'").await.is_empty() {
            let ended = sides.run(&plan, HANDS_FREE).end().await.expect(3);
            let expected =
                "TimescaleDB is in schema public, where the source has functions of the same names and arguments: public.time_bucket(interval";
            assert!(ended.stderr.contains(expected), "{ended}");
            return;
        }
        sides.migrate(&plan, &["insert into public.met values ('2027-01-01', public.own(7))"]).await;
        let extension = "select extnamespace::regnamespace::text from pg_extension where extname = 'timescaledb'";
        assert_eq!(sides.on_target(extension).await, ["timescaledb"]);
        assert_eq!(sides.on_target(HYPERTABLES).await, ["public.met ts 1 day"]);
        sides.expect_same("select public.own(3), count(*), min(bucket) from public.buckets").await;
    })
    .await;
}

#[tokio::test]
async fn h_18_a_target_that_does_not_preload_timescaledb_gets_plain_tables() {
    if !Programs::newest().unwrap().has_timescale() {
        return;
    }
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, target) = (server.create_database("source").await.unwrap(), server.create_database("target").await.unwrap());
    execute(&source, "create table public.t (id int, ts timestamptz, primary key (id, ts)); insert into public.t values (1, now())").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let (dir, plan) = (folder.path().join("work"), folder.path().join("plan.toml"));
    std::fs::write(&plan, by_ts(&[("t", "extend")])).unwrap();
    let arguments = ["--source", &source, "--target", &target, "--linger", "0", "--dir", dir.to_str().unwrap()];
    let planned = [HANDS_FREE, &arguments, &["--plan", plan.to_str().unwrap()]].concat();
    let ended = Running::start(planned).end().await.expect(3);
    assert!(ended.stderr.contains("the server does not preload it, and the plan makes public.t a hypertable"), "{ended}");
    Running::start([HANDS_FREE, &arguments].concat()).end().await.expect(0);
    assert_eq!(lines(&target, "select id::text from public.t").await, ["1"]);
}
