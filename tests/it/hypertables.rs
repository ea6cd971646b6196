//! Tables that become hypertables: their keys, their indexes, and changes that a hypertable takes only in another form. Each test runs
//! on every kind of TimescaleDB that this machine has.

use super::{
    runner::{Ended, Running, eventually},
    support::hyperlift,
};
use hyperlift::demo::{
    application::{Application, Load},
    compare::compare,
    connect,
    data::{self, Size},
    execute, query_text,
    servers::{Server, ServerOptions},
    timescale::{Target, TimescaleKind, start_timescale, timescale_kinds},
};
use serde_json::Value;
use std::time::Duration;
use tempfile::TempDir;
use tokio::{sync::Mutex, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A source, an empty TimescaleDB, and a folder for the work directory and the plan.
struct Sides {
    source: String,
    target: Target,
    folder: TempDir,
    _server: Server,
}

impl Sides {
    async fn start(kind: TimescaleKind) -> Self {
        let server = Server::start(ServerOptions::default()).await.unwrap();
        let source = server.create_database("source").await.unwrap();
        execute(&source, "create table public.busy (n bigint primary key)").await.unwrap();
        Self { source, target: start_timescale(kind).await.unwrap(), folder: tempfile::tempdir().unwrap(), _server: server }
    }

    /// Starts (or continues) the migration with this plan.
    fn run(&self, plan: &str, arguments: &[&str]) -> Running {
        let (plan_file, dir) = (self.folder.path().join("given.toml"), self.folder.path().join("work"));
        std::fs::write(&plan_file, plan).unwrap();
        let common = ["--source", &self.source, "--target", &self.target.uri, "--linger", "0"];
        let files = ["--dir", dir.to_str().unwrap(), "--plan", plan_file.to_str().unwrap()];
        Running::start(common.iter().chain(&files).chain(arguments).copied())
    }

    /// Migrates without hands, up to the end. The changes are made on the source, one after the other, while replay runs.
    async fn migrate(&self, plan: &str, changes: &[&str]) -> Ended {
        let busy = Busy::start(&self.source).await;
        let mut run = self.run(plan, HANDS_FREE);
        run.stage("catch_up").await;
        for change in changes {
            execute(&self.source, change).await.unwrap();
        }
        busy.stop().await;
        let ended = run.end().await.expect(0);
        self.expect_equal().await;
        ended
    }

    async fn expect_equal(&self) {
        let differences = compare(&self.source, &self.target.uri, None).await.unwrap();
        let text: Vec<_> = differences.iter().map(ToString::to_string).collect();
        assert!(text.is_empty(), "{:?}: {text:#?}", self.target.kind);
    }

    async fn on_target(&self, sql: &str) -> Vec<String> {
        lines(&self.target.uri, sql).await
    }

    /// A query that answers the same on both sides.
    async fn expect_same(&self, sql: &str) {
        let (source, target) = (lines(&self.source, sql).await, self.on_target(sql).await);
        assert!(!source.is_empty(), "nothing to compare: {sql}");
        assert_eq!(source, target, "{:?}: {sql}", self.target.kind);
    }
}

const HANDS_FREE: &[&str] = &["--yes", "--cutover-when-ready", "--quiet-for", "1"];

/// Rows as text, their columns joined by a bar.
async fn lines(uri: &str, sql: &str) -> Vec<String> {
    let rows = query_text(uri, sql).await.unwrap_or_else(|e| panic!("{e}: {sql}"));
    rows.into_iter().map(|row| row.into_iter().map(Option::unwrap_or_default).collect::<Vec<_>>().join("|")).collect()
}

/// Runs a test on each kind of TimescaleDB. Those in PGlite wait for each other: each takes half a gigabyte and a core.
async fn on_each_timescale(test: impl AsyncFn(Sides)) {
    on_some_timescale(|_| true, test).await;
}

async fn on_some_timescale(wanted: impl Fn(TimescaleKind) -> bool, test: impl AsyncFn(Sides)) {
    static PGLITE: Mutex<()> = Mutex::const_new(());
    let kinds = timescale_kinds().await;
    assert!(!kinds.is_empty(), "no TimescaleDB can be started here: run `make setup`");
    for kind in kinds.into_iter().filter(|kind| wanted(*kind)) {
        let _turn = if kind == TimescaleKind::Pglite { Some(PGLITE.lock().await) } else { None };
        test(Sides::start(kind).await).await;
    }
}

/// An application that always writes, so that a migration without hands does not cut over before a test has made its changes.
struct Busy {
    work: JoinHandle<()>,
    until: CancellationToken,
    _stop: DropGuard,
}

impl Busy {
    async fn start(uri: &str) -> Self {
        let client = connect(uri).await.unwrap();
        let until = CancellationToken::new();
        let stopped = until.clone();
        let work = tokio::spawn(async move {
            let mut beat = tokio::time::interval(Duration::from_millis(100));
            while stopped.run_until_cancelled(beat.tick()).await.is_some() {
                client.batch_execute("insert into public.busy select count(*) from public.busy").await.unwrap();
            }
        });
        Self { work, _stop: until.clone().drop_guard(), until }
    }

    async fn stop(self) {
        self.until.cancel();
        self.work.await.unwrap();
    }
}

/// A plan of hypertables by `ts` in chunks of a day: name and what becomes of the keys.
fn by_ts(tables: &[(&str, &str)]) -> String {
    let entry = |(table, key): &(&str, &str)| {
        format!("[[hypertable]]\ntable = \"public.{table}\"\ntime_column = \"ts\"\nchunk_interval = \"1 day\"\nkey = \"{key}\"\n")
    };
    tables.iter().map(entry).collect()
}

const HYPERTABLES: &str = "
    select format('%s.%s %s %s', hypertable_schema, hypertable_name, column_name, coalesce(time_interval::text, integer_interval::text))
    from timescaledb_information.dimensions order by 1";

/// Definitions of the constraints of some tables, but for those of chunks.
fn constraints_of(tables: &str) -> String {
    format!(
        "select conrelid::regclass::text, conname, pg_get_constraintdef(oid) from pg_constraint
        where conrelid = any ('{{{tables}}}'::regclass[]) and contype <> 'n' and conparentid = 0 order by 1, 2"
    )
}

fn indexes_of(tables: &str) -> String {
    format!("select pg_get_indexdef(indexrelid) from pg_index where indrelid = any ('{{{tables}}}'::regclass[]) order by 1")
}

#[tokio::test]
async fn the_demo_becomes_hypertables_while_an_application_writes() {
    on_each_timescale(async |sides| {
        data::load(&sides.source, Size::TINY).await.unwrap();
        let journal = "
            create table public.journal (id bigint generated always as identity, at timestamptz not null, what text, primary key (id, at));
            insert into public.journal (at, what) select now() - i * interval '1 hour', 'before' from generate_series(1, 300) i";
        execute(&sides.source, journal).await.unwrap();
        let plan = include_str!("../../assets/demo/plan.toml").replacen("7 days", "3 days", 1)
            + "[[hypertable]]\ntable = \"public.journal\"\ntime_column = \"at\"\nchunk_interval = \"1 day\"\n";
        let load = Load { rate_per_second: Some(150.0), long_transaction: Duration::from_millis(200), ..Load::default() };
        let writer = Application::start(&sides.source, load).await.unwrap();
        let busy = Busy::start(&sides.source).await;
        let mut run = sides.run(&plan, HANDS_FREE);
        run.stage("catch_up").await;
        execute(&sides.source, "insert into public.journal (at, what) select now(), 'replayed' from generate_series(1, 50)").await.unwrap();
        let seen = writer.transactions();
        eventually("the application goes on writing", async || writer.transactions() > seen + 200 || writer.has_failed()).await;
        writer.stop().await.unwrap();
        busy.stop().await;
        let ended = run.end().await.expect(0);

        sides.expect_equal().await;
        let made = ["public.events ts 7 days", "public.journal at 1 day", "public.metrics time 3 days"];
        assert_eq!(sides.on_target(HYPERTABLES).await, made);
        assert!(ended.all("statement_failed").is_empty(), "h_1: {:?}", ended.all("statement_failed"));
        // h_3: only the key that lacked the time column is another one
        let key = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'events_pkey' and conrelid = 'public.events'::regclass";
        assert_eq!(sides.on_target(key).await, ["PRIMARY KEY (id, ts)"]);
        let tables = "public.metrics,public.events,public.journal,public.documents";
        let others = constraints_of(tables).replace("where", "where conname <> 'events_pkey' and");
        sides.expect_same(&others).await;
        // h_6: events_ts_idx and metrics_time_idx have the names of TimescaleDB's own default indexes, which journal would get, too
        let indexes = indexes_of(tables).replace("where", "where indexrelid <> 'public.events_pkey'::regclass and");
        sides.expect_same(&indexes).await;
        // b_3: the identity takes no values from outside any more, and goes on where it was
        sides.expect_same("select attrelid::regclass::text, attname, attidentity from pg_attribute where attidentity = 'a' order by 1").await;
        let refused = execute(&sides.target.uri, "insert into public.journal values (1, now(), 'by hand')").await.unwrap_err();
        assert!(refused.has_code("428C9"), "{refused}");
        let next = sides.on_target("insert into public.journal (at, what) values (now(), 'after') returning id").await;
        assert_eq!(next, ["351"]);
    })
    .await;
}

#[tokio::test]
async fn h_3_keys_without_the_time_column_are_extended_or_become_plain_indexes() {
    on_each_timescale(async |sides| {
        let tables = "
            create table public.extended (id bigint generated always as identity primary key, ts timestamptz not null, code text not null unique, n int);
            create unique index extended_n on public.extended (n) where n > 0;
            create table public.plain (id int primary key, ts timestamptz not null, code text not null constraint plain_code unique, n int);
            create unique index plain_n on public.plain (n, code);
            create table public.by_index (code text not null, ts timestamptz not null, n int);
            create unique index by_index_code on public.by_index (code);
            alter table public.by_index replica identity using index by_index_code;
            create table public.keyed (id int, ts timestamptz, n int, primary key (id, ts));
            create table public.pointing (id int primary key, keyed_id int, keyed_ts timestamptz, foreign key (keyed_id, keyed_ts) references public.keyed);
            comment on constraint extended_pkey on public.extended is 'a key';
            comment on constraint plain_code on public.plain is 'no longer a constraint';
            comment on index public.plain_n is 'no longer unique';
            alter table public.plain cluster on plain_pkey;
            insert into public.extended (ts, code, n) select now() - i * interval '5 hours', 'c' || i, i from generate_series(1, 200) i;
            insert into public.plain select i, now() - i * interval '5 hours', 'c' || i, i from generate_series(1, 200) i;
            insert into public.by_index select 'c' || i, now() - i * interval '5 hours', i from generate_series(1, 200) i;
            insert into public.keyed select i, now() - i * interval '5 hours', i from generate_series(1, 200) i;
            insert into public.pointing select i, id, ts from public.keyed, generate_series(1, 1) i where id = 7";
        execute(&sides.source, tables).await.unwrap();
        let plan = by_ts(&[("extended", "extend"), ("plain", "plain-index"), ("by_index", "plain-index"), ("keyed", "refuse")]);
        let ended = sides
            .migrate(&plan, &[
                "update public.extended set n = n + 1000 where id % 3 = 0; delete from public.extended where id % 10 = 0",
                "update public.plain set n = n + 1000 where id % 3 = 0; delete from public.plain where id % 10 = 0",
                "update public.by_index set n = n + 1000 where n % 3 = 0; delete from public.by_index where code like '%5'",
                "update public.keyed set n = -n where id > 7; delete from public.keyed where id = 8",
                "insert into public.extended (ts, code) values (now(), 'new'); insert into public.plain values (999, now(), 'new')",
            ])
            .await;
        assert!(ended.all("statement_failed").is_empty(), "{:?}", ended.all("statement_failed"));
        let key = |table: &str| {
            format!("select pg_get_constraintdef(oid) from pg_constraint where conrelid = 'public.{table}'::regclass and contype in ('p', 'u') order by 1")
        };
        assert_eq!(sides.on_target(&key("extended")).await, ["PRIMARY KEY (id, ts)", "UNIQUE (code, ts)"]);
        let indexes = sides.on_target(&indexes_of("public.extended")).await;
        assert!(indexes.iter().any(|i| i.contains("UNIQUE INDEX extended_n ON public.extended USING btree (n, ts) WHERE (n > 0)")), "{indexes:?}");
        assert_eq!(sides.on_target(&key("plain")).await, [""; 0]);
        assert_eq!(sides.on_target(&indexes_of("public.plain,public.by_index")).await, [
            "CREATE INDEX by_index_code ON public.by_index USING btree (code)",
            "CREATE INDEX plain_code ON public.plain USING btree (code)",
            "CREATE INDEX plain_n ON public.plain USING btree (n, code)",
            "CREATE INDEX plain_pkey ON public.plain USING btree (id)",
        ]);
        // h_8: a foreign key may point at a key that holds the time
        sides.expect_same(&constraints_of("public.keyed,public.pointing")).await;
    })
    .await;
}

#[tokio::test]
async fn h_3_what_cannot_become_a_hypertable_is_refused_before_the_copy() {
    on_each_timescale(async |sides| {
        let tables = "
            create table public.keyed (id int primary key, ts timestamptz not null);
            create table public.child (id int primary key, keyed_id int references public.keyed, ts timestamptz not null);
            create table public.coded (code text, ts timestamptz not null, n int);
            create unique index coded_code on public.coded (lower(code));
            alter table public.coded replica identity full;
            create table public.ruled (ts timestamptz primary key);
            create rule ignored as on insert to public.ruled where new.ts < '2000-01-01' do instead nothing;
            create table public.timeless (id int primary key, ts timestamptz);
            create table public.\"one\" (id int, ts timestamptz, primary key (id, ts));
            create table public.many (ts timestamptz primary key, one_id int, one_ts timestamptz, foreign key (one_id, one_ts) references public.\"one\");
            insert into public.keyed select i, now() from generate_series(1, 10) i;
            insert into public.child select i, i, now() from generate_series(1, 10) i;
            insert into public.timeless values (1, now()), (2, null)";
        execute(&sides.source, tables).await.unwrap();
        let cases = [
            (3, by_ts(&[("child", "refuse")]), "public.child: key child_pkey lacks ts and the plan says refuse"),
            (3, by_ts(&[("keyed", "extend")]), "public.keyed: key keyed_pkey: a foreign key points at it"),
            (3, by_ts(&[("keyed", "plain-index")]), "public.keyed: key keyed_pkey: a foreign key points at it"),
            (3, by_ts(&[("coded", "extend")]), "public.coded: key coded_code: it is on an expression"),
            (3, by_ts(&[("ruled", "extend")]), "public.ruled cannot be converted: it has rules"),
            // H-5
            (3, by_ts(&[("timeless", "extend")]), "public.timeless has rows whose ts is NULL, which a hypertable refuses"),
            (3, by_ts(&[("one", "extend"), ("many", "extend")]), "public.many: its foreign key many_one_id_one_ts_fkey points at public.one"),
            (2, by_ts(&[("child", "extend")]).replace("\"ts\"", "\"at\""), "the plan: public.child has no column at"),
            (2, by_ts(&[("nobody", "extend")]), "the plan names public.nobody, which the source does not have"),
        ];
        for (code, plan, expected) in cases {
            let ended = sides.run(&plan, HANDS_FREE).end().await.expect(code);
            assert!(ended.stderr.contains(expected), "{expected}: {}", ended.stderr);
            assert!(ended.all("copy_progress").is_empty(), "{ended}");
        }
        assert_eq!(sides.on_target(HYPERTABLES).await, [""; 0]);
        assert_eq!(sides.on_target("select count(*) from public.keyed union all select count(*) from public.child").await, ["0", "0"]);
        let left = "select slot_name::text from pg_replication_slots union all select pubname::text from pg_publication";
        assert_eq!(lines(&sides.source, left).await, [""; 0]);

        // the same directory goes on with a plan that can be carried out
        sides.migrate(&by_ts(&[("child", "extend"), ("many", "extend")]), &["update public.child set ts = ts + interval '3 days' where id = 1"]).await;
        assert_eq!(sides.on_target(HYPERTABLES).await, ["public.child ts 1 day", "public.many ts 1 day"]);

        // h_16: as a source they would seem to be empty
        let checked = hyperlift().args(["check", "--source", &sides.target.uri, "--target", &sides.source]).output().await.unwrap();
        let (code, text) = (checked.status.code(), String::from_utf8_lossy(&checked.stdout));
        let expected = "check source has no hypertables: FAIL 2 of its tables are hypertables already: public.child, public.many";
        assert!(code == Some(3) && text.contains(expected), "{text}{}", String::from_utf8_lossy(&checked.stderr));
    })
    .await;
}

#[tokio::test]
async fn h_10_updates_that_move_rows_across_chunks_keep_every_value() {
    on_each_timescale(async |sides| {
        let tables = ["time_in_key", "id_extended", "id_plain", "full_extended", "full_plain"];
        for (table, key) in tables.iter().zip(["id, ts", "id", "id", "id", "id"]) {
            // the body is stored out of line: an update that leaves it alone does not have it in the stream
            let sql = format!(
                "create table public.{table} (id int, ts timestamptz not null, n numeric, body text, tags text[], primary key ({key}));
                alter table public.{table} alter body set storage external;
                insert into public.{table}
                select i, timestamptz '2026-01-01' + i * interval '7 hours', i / 3.0, (select string_agg(md5(i::text || j), '') from generate_series(1, 100) j),
                    array['a,b', null, i::text]
                from generate_series(1, 60) i"
            );
            execute(&sides.source, &sql).await.unwrap();
        }
        execute(&sides.source, "alter table public.full_extended replica identity full; alter table public.full_plain replica identity full")
            .await
            .unwrap();
        let changes: Vec<String> = tables
            .iter()
            .flat_map(|table| {
                [
                    "update public.T set ts = ts + interval '10 days' where id = 1",
                    "update public.T set ts = ts - interval '100 days', body = 'another', n = 'NaN' where id = 2",
                    // two moves of one row in one transaction; and one that ends where it began
                    "update public.T set ts = ts + interval '10 days' where id = 3; update public.T set ts = ts - interval '20 days', n = 0 where id = 3",
                    "update public.T set ts = ts + interval '9 days' where id = 4; update public.T set ts = ts - interval '9 days' where id = 4",
                    "update public.T set ts = ts + interval '10 days' where id = 5; delete from public.T where id = 5",
                    "update public.T set ts = ts + interval '10 days' where id = 6",
                    "delete from public.T where id = 6",
                    "update public.T set n = n + 1 where id = 7; update public.T set ts = ts + interval '1 second' where id = 7",
                    "update public.T set id = 1000, ts = ts + interval '10 days' where id = 8",
                    "update public.T set id = 1001 where id = 9",
                    "update public.T set body = null, ts = ts + interval '10 days' where id = 10; update public.T set ts = 'infinity' where id = 10",
                    "delete from public.T where id = 11; insert into public.T (id, ts) values (11, '2025-01-01')",
                    "update public.T set ts = ts + interval '30 days' where id between 20 and 50",
                    "insert into public.T (id, ts, body) values (2000, '2026-02-01', 'x'); update public.T set ts = '2026-03-01' where id = 2000",
                ]
                .map(|change| change.replace("public.T", &format!("public.{table}")))
            })
            .collect();
        let plan = by_ts(&[
            ("time_in_key", "refuse"),
            ("id_extended", "extend"),
            ("id_plain", "plain-index"),
            ("full_extended", "extend"),
            ("full_plain", "plain-index"),
        ]);
        let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
        sides.migrate(&plan, &changes).await;
        assert_eq!(sides.on_target(HYPERTABLES).await.len(), tables.len());
    })
    .await;
}

#[tokio::test]
async fn b_6_one_of_several_equal_rows_of_a_hypertable_is_changed() {
    on_each_timescale(async |sides| {
        let table = "
            create table public.samples (ts timestamptz not null, value float8, note text, document json, place point, price numeric);
            alter table public.samples replica identity full;
            insert into public.samples
            select timestamptz '2026-01-01' + i * interval '5 hours', nullif(i % 7, 0), nullif(i % 3, 0)::text, '{\"a\": 1}', point(i, 1), 1.50
            from generate_series(1, 40) i, generate_series(1, 3)";
        execute(&sides.source, table).await.unwrap();
        let one = |n: u32| format!("ctid = (select ctid from public.samples where ts = timestamptz '2026-01-01' + {n} * interval '5 hours' limit 1)");
        let changes = [
            format!("delete from public.samples where {}", one(1)),
            format!("delete from public.samples where {}", one(21)),
            format!("update public.samples set value = 'NaN' where {}", one(7)),
            format!("update public.samples set note = 'changed', price = 1.5 where {}", one(3)),
            format!("update public.samples set ts = ts + interval '20 days' where {}", one(4)),
            format!("update public.samples set ts = ts + interval '20 days' where {0}; delete from public.samples where {0}", one(5)),
            format!("delete from public.samples where {0}; delete from public.samples where {0}; delete from public.samples where {0}", one(6)),
        ];
        let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
        sides.migrate(&by_ts(&[("samples", "extend")]), &changes).await;
        assert_eq!(sides.on_target("select count(*) from public.samples").await, ["114"]);
    })
    .await;
}

#[tokio::test]
async fn a_truncate_of_hypertables_is_replayed_in_its_place() {
    on_each_timescale(async |sides| {
        for table in ["alone", "first", "second", "plain"] {
            let sql = format!(
                "create table public.{table} (id bigint generated always as identity, ts timestamptz not null, primary key (id, ts));
                insert into public.{table} (ts) select timestamptz '2026-01-01' + i * interval '5 hours' from generate_series(1, 50) i"
            );
            execute(&sides.source, &sql).await.unwrap();
        }
        let plan = by_ts(&[("alone", "extend"), ("first", "extend"), ("second", "extend")]);
        let ended = sides
            .migrate(&plan, &[
                "insert into public.alone (ts) values (now()); truncate public.alone; insert into public.alone (ts) values ('2026-05-01'), ('2026-06-01')",
                "truncate public.first, public.second, public.plain restart identity; insert into public.second (ts) values ('2026-05-01')",
                "insert into public.first (ts) values ('2026-05-01'); insert into public.plain (ts) values ('2026-05-01')",
            ])
            .await;
        let counts = "select count(*) from public.alone union all select count(*) from public.first union all select count(*) from public.second";
        assert_eq!(sides.on_target(counts).await, ["2", "1", "1"]);
        let truncated = |e: &&serde_json::Value| e["truncates"] == 1;
        assert!(ended.all("table_replayed").into_iter().filter(truncated).count() >= 4, "{ended}");
    })
    .await;
}

#[tokio::test]
async fn h_19_hypertables_made_by_hand_while_the_prompt_waits_are_taken_as_they_are() {
    on_each_timescale(async |sides| {
        let tables = "
            create table public.meters (id int primary key, ts timestamptz not null, v int);
            create table public.spread (device int, ts timestamptz, v int, primary key (device, ts));
            create table public.planned (id int primary key, ts timestamptz not null);
            create index meters_ts_idx on public.meters (ts, v);
            insert into public.meters select i, timestamptz '2026-01-01' + i * interval '5 hours', i from generate_series(1, 100) i;
            insert into public.spread select i % 9, timestamptz '2026-01-01' + i * interval '5 hours', i from generate_series(1, 100) i";
        execute(&sides.source, tables).await.unwrap();
        let busy = Busy::start(&sides.source).await;
        let mut run = sides.run(&by_ts(&[("planned", "extend"), ("spread", "extend")]), &["--cutover-when-ready", "--quiet-for", "1"]);
        for stage in ["preflight", "identity", "hypertables"] {
            run.event("prompt_opened", |e| e["prompt"]["stage"] == stage).await;
            if stage == "hypertables" {
                let by_hand = "
                    select create_hypertable('public.meters', 'ts', chunk_time_interval => interval '2 days');
                    select create_hypertable('public.spread', 'ts', 'device', 4, chunk_time_interval => interval '3 days', create_default_indexes => false)";
                execute(&sides.target.uri, by_hand).await.unwrap();
            }
            run.signal("USR1");
        }
        run.stage("catch_up").await;
        for change in [
            "update public.meters set ts = ts + interval '10 days', v = -v where id % 2 = 0; delete from public.meters where id % 5 = 0",
            "update public.spread set ts = ts + interval '10 days' where v % 2 = 0",
            // h_20: another device may mean another chunk, too
            "update public.spread set device = device + 100 where v % 3 = 0; delete from public.spread where device = 3",
        ] {
            execute(&sides.source, change).await.unwrap();
        }
        busy.stop().await;
        run.end().await.expect(0);
        sides.expect_equal().await;
        let made = ["public.meters ts 2 days", "public.planned ts 1 day", "public.spread device ", "public.spread ts 3 days"];
        assert_eq!(sides.on_target(HYPERTABLES).await, made);
        let keys = "select conname::text, pg_get_constraintdef(oid) from pg_constraint where contype = 'p' and conname in ('meters_pkey', 'spread_pkey') order by 1";
        assert_eq!(sides.on_target(keys).await, ["meters_pkey|PRIMARY KEY (id, ts)", "spread_pkey|PRIMARY KEY (device, ts)"]);
        // h_6: TimescaleDB's default index had taken the name
        let index = "select pg_get_indexdef('public.meters_ts_idx'::regclass)";
        assert_eq!(sides.on_target(index).await, ["CREATE INDEX meters_ts_idx ON public.meters USING btree (ts, v)"]);
    })
    .await;
}

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
        // First the schema is restored with its partitions, as if nobody knew better yet; then the operator chooses.
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
async fn h_15_a_table_that_was_made_without_partitions_stays_so() {
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
async fn h_15_partitions_are_not_even_made_where_the_plan_says_so_from_the_start() {
    on_each_timescale(async |sides| {
        execute(&sides.source, PARTITIONED).await.unwrap();
        let plan = "one_table = [\"public.log\", \"public.hashed\"]\n".to_owned() + &by_ts(&[("events", "refuse")]);
        partitions_become_rows(&sides, &plan).await;
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

/// Makes every write of the row into the table on the target wait for as long as the caller keeps the session.
async fn hold_up(target: &str, table: &str, row: &str) -> tokio_postgres::Client {
    let client = connect(target).await.unwrap();
    let trigger = format!(
        "select pg_advisory_lock(4711);
        create function public.hold_up() returns trigger language plpgsql as $$ begin perform pg_advisory_xact_lock(4711); return new; end $$;
        create trigger hold_up before insert on {table} for each row when ({row}) execute function public.hold_up()"
    );
    client.batch_execute(&trigger).await.unwrap();
    client
}

#[tokio::test]
async fn i_12_kill_9_in_copy_and_catch_up_loses_nothing_of_a_hypertable() {
    // PGlite has one session for all: what a killed program leaves open there nobody can end
    on_some_timescale(
        |kind| kind != TimescaleKind::Pglite,
        async |sides| {
            data::load(&sides.source, Size::TINY).await.unwrap();
            let plan = include_str!("../../assets/demo/plan.toml");
            let load = Load { rate_per_second: Some(200.0), long_transaction: Duration::from_millis(200), ..Load::default() };
            let writer = Application::start(&sides.source, load).await.unwrap();
            let busy = Busy::start(&sides.source).await;

            let mut run = sides.run(plan, &[]);
            for stage in ["preflight", "identity"] {
                run.event("prompt_opened", |e| e["prompt"]["stage"] == stage).await;
                run.signal("USR1");
            }
            run.event("prompt_opened", |e| e["prompt"]["stage"] == "hypertables").await;
            let held_up = hold_up(&sides.target.uri, "public.metrics", "new.device_id = 80").await;
            run.signal("USR1");
            eventually("the copy stands in the middle of a table", async || {
                sides.on_target("select count(*) from pg_locks where locktype = 'advisory' and not granted").await == ["1"]
            })
            .await;
            run.kill().await;
            drop(held_up);
            execute(&sides.target.uri, "drop function public.hold_up cascade").await.unwrap();

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
            let told = run.event("slowed_down", |e| e["table"]["name"] == "bag").await;
            let fix = told["fix"].as_str().unwrap();
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
            let told = |e: &&Value| e["text"].as_str().is_some_and(|t| t.contains("one job at a time"));
            assert!(!ended.all("notice").iter().any(told), "{ended}");
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
        let told: Vec<String> = ended.all("not_moved").iter().map(|e| format!("{}: {}", e["object"].as_str().unwrap(), e["reason"].as_str().unwrap())).collect();
        for part in [
            "PUBLICATION a_few: without public.metrics: rows of a hypertable",
            "PUBLICATION of_schema: publishes nothing of public.metrics",
            "PUBLICATION whole: not created: ",
        ] {
            assert!(told.iter().any(|line| line.starts_with(part)), "{told:#?}");
        }
        let published = "select pubname, string_agg(tablename, ',' order by tablename) from pg_publication_tables where schemaname = 'public' group by 1 order by 1";
        assert_eq!(sides.on_target(published).await, ["a_few|plain", "of_schema|busy,metrics,plain"]);
        // The application may change rows, whatever identity the chunks have.
        execute(&sides.target.uri, "update public.metrics set v = 1; delete from public.metrics where v = 1").await.unwrap();
    })
    .await;
}
