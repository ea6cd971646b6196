//! Tables that become hypertables: their keys, their indexes, and changes that a hypertable accepts only in another form. Each test runs
//! on every kind of TimescaleDB that this machine has.

mod copying;
mod flattening;
mod refusals;

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

/// Runs a test on each kind of TimescaleDB. Those in PGlite run one after the other, because each takes half a gigabyte and a core.
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

/// Definitions of the constraints of some tables, without those of chunks.
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
        // h_3: only the key that lacked the time column differs
        let key = "select pg_get_constraintdef(oid) from pg_constraint where conname = 'events_pkey' and conrelid = 'public.events'::regclass";
        assert_eq!(sides.on_target(key).await, ["PRIMARY KEY (id, ts)"]);
        let tables = "public.metrics,public.events,public.journal,public.documents";
        let others = constraints_of(tables).replace("where", "where conname <> 'events_pkey' and");
        sides.expect_same(&others).await;
        // h_6: events_ts_idx and metrics_time_idx have the names of TimescaleDB's own default indexes, and journal would get one, too
        let indexes = indexes_of(tables).replace("where", "where indexrelid <> 'public.events_pkey'::regclass and");
        sides.expect_same(&indexes).await;
        // b_3: the identity refuses explicit values again, and continues where it was
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
            create table public.grouped (id int primary key, ts timestamptz not null);
            create view public.by_key as select id, ts from public.grouped group by id;
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
            (3, by_ts(&[("grouped", "extend")]), "public.grouped: key grouped_pkey: the query of a view or of a function groups by it"),
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

        // h_16: as a source its hypertables would seem to be empty
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
async fn h_19_hypertables_that_the_operator_creates_while_the_prompt_waits_are_taken_as_they_are() {
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
        // h_6: TimescaleDB's default index had the name
        let index = "select pg_get_indexdef('public.meters_ts_idx'::regclass)";
        assert_eq!(sides.on_target(index).await, ["CREATE INDEX meters_ts_idx ON public.meters USING btree (ts, v)"]);
    })
    .await;
}
