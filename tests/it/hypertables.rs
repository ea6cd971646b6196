//! Tables that become hypertables: their keys, their indexes, and changes that a hypertable takes only in another form. Each test runs
//! on every kind of TimescaleDB that this machine has.

use super::runner::{Ended, Running, eventually};
use hyperlift::demo::compare::compare;
use hyperlift::demo::data::{self, Size};
use hyperlift::demo::servers::{Server, ServerOptions};
use hyperlift::demo::timescale::{Target, TimescaleKind, start_timescale, timescale_kinds};
use hyperlift::demo::writer::{Load, Writer};
use hyperlift::demo::{connect, execute, query_text};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::Mutex;
use tokio::task::JoinHandle;
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
        client.batch_execute("create table if not exists public.busy (n bigint primary key)").await.unwrap();
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
        where conrelid = any ('{{{tables}}}'::regclass[]) and contype <> 'n' order by 1, 2"
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
        let writer = Writer::start(&sides.source, load).await.unwrap();
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
