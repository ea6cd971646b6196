//! What the tests of whole migrations use: two databases, and the real program as a child that can be watched, stopped and killed.

use clap::Parser as _;
use hyperlift::{
    bus,
    cli::Cli,
    config::Config,
    demo::{
        compare::compare,
        connect, execute, query_text,
        servers::{Programs, Server, ServerOptions},
    },
    error::Result,
    event::{self, Event, ReplayStatus, Stage, StageState, Stamped},
    lsn::Lsn,
    state::State,
    work_dir::WorkDir,
};
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::{Child, Command},
    sync::{OnceCell, watch},
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// The longest time that a test waits for something.
pub const PATIENCE: Duration = Duration::from_secs(180);

/// Polls until `happened` returns true. `what` names what is waited for.
pub async fn until(what: &str, mut happened: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !happened().await {
        assert!(Instant::now() < deadline, "{what}: has not happened in {PATIENCE:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// One database of a migration.
pub struct Database {
    pub uri: String,
}

impl Database {
    /// Runs one or more statements; without `begin` they are one transaction.
    pub async fn execute(&self, sql: &str) {
        if let Err(e) = execute(&self.uri, sql).await {
            panic!("{e}, in: {sql}");
        }
    }

    /// All rows as text, NULL as `∅`, values of a row separated by `|`.
    pub async fn rows(&self, sql: &str) -> Vec<String> {
        let rows = query_text(&self.uri, sql).await.unwrap_or_else(|e| panic!("{e}, in: {sql}"));
        rows.iter().map(|row| row.iter().map(|v| v.as_deref().unwrap_or("∅")).collect::<Vec<_>>().join("|")).collect()
    }

    /// The one value of the one row.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        assert_eq!(rows.len(), 1, "{sql}: {rows:?}");
        rows.into_iter().next().unwrap_or_default()
    }

    /// A session of its own, for transactions that stay open.
    pub async fn session(&self) -> Client {
        connect(&self.uri).await.unwrap()
    }

    /// The schema as pg_dump prints it: its entries, without their order, and without the TimescaleDB of the target.
    pub async fn schema(&self, program: &Path) -> BTreeSet<String> {
        self.dump_by(program, &["--no-owner", "--no-privileges", "--no-publications"]).await
    }

    /// The same with other options of pg_dump.
    pub async fn dump(&self, options: &[&str]) -> BTreeSet<String> {
        self.dump_by(&Programs::newest().unwrap().bin.join("pg_dump"), options).await
    }

    async fn dump_by(&self, program: &Path, options: &[&str]) -> BTreeSet<String> {
        let output = Command::new(program).args(["--schema-only", "--encoding=UTF8"]).args(options).arg(&self.uri).output().await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let text = String::from_utf8(output.stdout).unwrap();
        let token = text.lines().find_map(|l| l.strip_prefix("\\restrict ")).unwrap_or_default();
        let of_the_session = |l: &&str| {
            l.starts_with("SET ")
                || l.starts_with("SELECT pg_catalog.set_config")
                || l.strip_prefix('\\').is_some_and(|l| !token.is_empty() && l.ends_with(token))
        };
        let lines: Vec<&str> = text.split('\n').filter(|l| !of_the_session(l)).collect();
        lines.join("\n").split("\n--\n").map(|entry| entry.trim().to_owned()).filter(|e| !e.contains("timescaledb")).collect()
    }
}

/// Source and target; no table becomes a hypertable.
pub struct Pair {
    pub source: Database,
    pub target: Database,
    /// Of its own; `None` when the servers are those that all tests share.
    own: Option<(Server, Server)>,
}

/// Never dropped: they end with the test process.
static SHARED: OnceCell<(Server, Server)> = OnceCell::const_new();
static NUMBER: AtomicU32 = AtomicU32::new(0);

async fn servers(source: ServerOptions) -> (Server, Server) {
    let many =
        |options: ServerOptions| options.setting("max_connections", "300").setting("max_replication_slots", "64").setting("max_wal_senders", "64");
    // A target that has TimescaleDB, but does not preload it, gets a warning.
    let timescale = Programs::newest().unwrap().has_timescale();
    (Server::start(many(source)).await.unwrap(), Server::start(many(ServerOptions { timescale, ..ServerOptions::default() })).await.unwrap())
}

impl Pair {
    /// Two empty databases on the servers that all tests share. Nobody may leave a transaction open there: slots of other databases
    /// wait for it, too.
    pub async fn shared() -> Self {
        let (source, target) = SHARED.get_or_init(|| servers(ServerOptions::default())).await;
        Self { source: database(source).await, target: database(target).await, own: None }
    }

    /// The same, with a source in another encoding than UTF8.
    pub async fn shared_in(encoding: &str) -> Self {
        let pair = Self::shared().await;
        let (server, name) = (&SHARED.get().expect("it was started").0, format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed)));
        let sql = format!("create database {name} encoding '{encoding}' locale 'C' template template0");
        server.execute("postgres", &sql).await.unwrap();
        Self { source: Database { uri: server.uri(&name) }, ..pair }
    }

    /// Two empty databases on servers of their own.
    pub async fn own(source: ServerOptions) -> Self {
        let (source, target) = servers(source).await;
        Self::on(source, target).await
    }

    /// Two empty databases on these servers.
    pub async fn on(source: Server, target: Server) -> Self {
        Self { source: database(&source).await, target: database(&target).await, own: Some((source, target)) }
    }

    /// One more empty database on the target's server.
    pub async fn second_target(&self) -> Database {
        let (_, target) = self.own.as_ref().or_else(|| SHARED.get()).expect("its servers were started");
        database(target).await
    }

    /// The source's own server.
    pub fn source_server(&self) -> &Server {
        &self.own.as_ref().expect("the servers are shared").0
    }

    /// The target's own server.
    pub fn target_server(&self) -> &Server {
        &self.own.as_ref().expect("the servers are shared").1
    }

    /// Nothing differs between the two sides.
    pub async fn assert_equal(&self) {
        let differences = compare(&self.source.uri, &self.target.uri, None).await.unwrap();
        assert!(differences.is_empty(), "{}", differences.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"));
    }

    /// Both sides have the same objects.
    pub async fn assert_same_schema(&self) {
        self.assert_same_schema_by(&Programs::newest().unwrap().bin.join("pg_dump")).await;
    }

    /// Both sides have the same objects, as this pg_dump sees them.
    pub async fn assert_same_schema_by(&self, program: &Path) {
        let (source, target) = (self.source.schema(program).await, self.target.schema(program).await);
        let (lost, more): (Vec<_>, Vec<_>) = (source.difference(&target).collect(), target.difference(&source).collect());
        assert!(lost.is_empty() && more.is_empty(), "only on the source: {lost:#?}\nonly on the target: {more:#?}");
    }

    /// Neither side holds anything of hyperlift.
    pub async fn assert_untouched(&self) {
        let slots = "select slot_name from pg_replication_slots where database = current_database()";
        assert!(self.source.rows(slots).await.is_empty(), "a slot is left");
        assert!(self.source.rows("select pubname from pg_publication where pubname ~ '^hyperlift_'").await.is_empty(), "a publication is left");
        let ledger = "select nspname from pg_namespace where nspname = '_hyperlift'";
        assert!(self.source.rows(ledger).await.is_empty() && self.target.rows(ledger).await.is_empty(), "the ledger is left");
        let sessions = "select application_name from pg_stat_activity where datname = current_database() and application_name ~ '^hyperlift'";
        for side in [&self.source, &self.target] {
            until("the end of hyperlift's sessions", async || side.rows(sessions).await.is_empty()).await;
        }
    }
}

async fn database(server: &Server) -> Database {
    let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
    Database { uri: server.create_database(&name).await.unwrap() }
}

/// hyperlift with nothing of the caller's environment that it would read.
pub fn hyperlift() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hyperlift"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if name.starts_with("PG") || name.starts_with("HYPERLIFT_") || name == "SOURCE" || name == "TARGET" {
            command.env_remove(&*name);
        }
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// A migration in a directory of its own, run by one process after the other.
pub struct Migration {
    folder: tempfile::TempDir,
    arguments: Vec<String>,
    run: Option<Run>,
}

/// One process.
struct Run {
    child: Child,
    /// All its events; closed when its stdout is.
    events: watch::Receiver<Vec<Event>>,
    stderr: JoinHandle<String>,
    /// How many events were read already.
    seen: usize,
}

/// How a process ended.
pub struct Ended {
    pub status: ExitStatus,
    pub stderr: String,
    pub events: Vec<Event>,
}

impl Ended {
    /// The exit code; none when it was killed.
    pub fn code(&self) -> Option<i32> {
        self.status.code()
    }

    #[track_caller]
    pub fn assert_code(&self, code: i32) {
        assert_eq!(self.code(), Some(code), "{}\n{}", self.stderr, last(&self.events));
    }
}

fn last(events: &[Event]) -> String {
    let last = events.iter().rev().filter(|e| !e.is_progress()).take(25).collect::<Vec<_>>();
    last.into_iter().rev().map(|e| format!("{e:?}")).collect::<Vec<_>>().join("\n")
}

impl Migration {
    pub fn of(pair: &Pair) -> Self {
        Self::between(&pair.source.uri, &pair.target.uri)
    }

    pub fn between(source_uri: &str, target_uri: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let arguments = ["migrate", "--json", "--yes", "--linger", "1", "--source", source_uri, "--target", target_uri, "--dir"];
        let mut arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        arguments.push(folder.path().join("work").display().to_string());
        Self { folder, arguments, run: None }
    }

    /// With a plan, as TOML.
    #[must_use]
    pub fn plan(mut self, toml: &str) -> Self {
        let path = self.folder.path().join("given.toml");
        std::fs::write(&path, toml).unwrap();
        self.arguments.extend(["--plan".into(), path.display().to_string()]);
        self
    }

    /// With these arguments besides.
    #[must_use]
    pub fn arguments(mut self, more: &[&str]) -> Self {
        self.arguments.extend(more.iter().map(ToString::to_string));
        self
    }

    /// The same migration, in the same directory, with more arguments than at first.
    #[must_use]
    pub fn again(self, more: &[&str]) -> Self {
        let mut arguments = self.arguments;
        let at = arguments.iter().position(|a| a == "--dir").expect("every migration has one");
        arguments.truncate(at + 2);
        Self { folder: self.folder, arguments, run: None }.arguments(more)
    }

    /// Starts a process that cannot begin, and waits for its end.
    pub async fn ended_at_once(&mut self) -> Ended {
        self.start();
        self.ended().await
    }

    /// Where the process works.
    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    /// Starts a process that stays in catch-up until it is stopped.
    pub fn start(&mut self) {
        self.spawn(&[]);
    }

    /// Starts a process that cuts over once the source is quiet.
    pub fn start_with_cutover(&mut self) {
        self.spawn(&["--cutover-when-ready", "--quiet-for", "1"]);
    }

    fn spawn(&mut self, more: &[&str]) {
        assert!(self.run.is_none(), "one process at a time");
        let mut child = hyperlift().args(&self.arguments).args(more).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut errors = child.stderr.take().unwrap();
        let (sender, events) = watch::channel(Vec::new());
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                // A killed process may leave half a line.
                if let Ok(stamped) = serde_json::from_str::<Stamped>(&line) {
                    sender.send_modify(|all| all.push(stamped.event));
                }
            }
        });
        let stderr = tokio::spawn(async move {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text).await;
            text
        });
        self.run = Some(Run { child, events, stderr, seen: 0 });
    }

    /// Waits for the next event of the running process that fits.
    pub async fn event(&mut self, what: &str, mut fits: impl FnMut(&Event) -> bool) -> Event {
        let run = self.run.as_mut().expect("a process runs");
        let seen = &mut run.seen;
        let mut found = None;
        let look = run.events.wait_for(|all| {
            while found.is_none() && *seen < all.len() {
                found = fits(&all[*seen]).then(|| all[*seen].clone());
                *seen += 1;
            }
            found.is_some()
        });
        let in_time = timeout(PATIENCE, look).await.map(|looked| looked.is_ok());
        if let Some(event) = found {
            return event;
        }
        let why = if in_time.is_ok() { "the process ended" } else { "it has not come in time" };
        let events = run.events.borrow().clone();
        let ended = self.kill().await;
        panic!("no event {what:?}: {why}\n{}\n{}", ended.stderr, last(&events));
    }

    pub async fn stage(&mut self, stage: Stage) {
        let running = Event::StageChanged { stage, state: StageState::Running };
        self.event(&format!("{stage:?}"), |e| *e == running).await;
    }

    /// Waits until the target holds everything that is committed on the source now.
    pub async fn level_with(&mut self, source: &Database) {
        let now: Lsn = source.value("select pg_current_wal_insert_lsn()").await.parse().unwrap();
        self.event("level with the source", |e| matches!(e, Event::Replayed(ReplayStatus { applied, .. }) if *applied >= now)).await;
    }

    /// Waits for the end of the process.
    pub async fn ended(&mut self) -> Ended {
        let mut run = self.run.take().expect("a process runs");
        let Ok(status) = timeout(PATIENCE, run.child.wait()).await else {
            panic!("the process has not ended in time\n{}", last(&run.events.borrow()));
        };
        let stderr = run.stderr.await.unwrap();
        // The stream is closed by now, or in a moment.
        let _ = run.events.wait_for(|_| false).await;
        let events = run.events.borrow().clone();
        Ended { status: status.unwrap(), stderr, events }
    }

    /// `kill -9`.
    pub async fn kill(&mut self) -> Ended {
        self.run.as_mut().expect("a process runs").child.start_kill().ok();
        self.ended().await
    }

    /// SIGTERM; it stops safely and can be continued.
    pub async fn stop(&mut self) -> Ended {
        self.signal("TERM");
        self.ended().await
    }

    pub fn signal(&self, name: &str) {
        let pid = self.run.as_ref().and_then(|run| run.child.id()).expect("a process runs");
        let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid.to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Stops the process in catch-up and cuts over with a new one; both sides are clean afterwards.
    pub async fn finish(&mut self, pair: &Pair) {
        self.stop().await.assert_code(4);
        self.cut_over(pair).await;
    }

    /// Runs to the end, with the cutover.
    pub async fn cut_over(&mut self, pair: &Pair) -> Ended {
        self.start_with_cutover();
        let ended = self.ended().await;
        ended.assert_code(0);
        assert!(ended.events.iter().any(|e| matches!(e, Event::Completed { .. })), "{}", last(&ended.events));
        pair.assert_untouched().await;
        ended
    }
}

/// A migration in this process: with a test that answers prompts, or a configuration that the command line does not offer. Replay needs threads
/// of its own: `#[tokio::test(flavor = "multi_thread")]`.
pub struct InProcess {
    front: bus::FrontEnd,
    events: bus::EventStream,
    run: JoinHandle<Result<()>>,
    cancel: CancellationToken,
    _folder: tempfile::TempDir,
}

impl InProcess {
    pub fn start(pair: &Pair, arguments: &[&str], configure: impl FnOnce(&mut Config)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().join("work").display().to_string();
        let always = ["hyperlift", "--yes", "--linger", "1", "--source", &pair.source.uri, "--target", &pair.target.uri, "--dir", &dir];
        let mut config = Cli::parse_from(always.iter().chain(arguments)).migrate.config().unwrap();
        configure(&mut config);
        let (listener, events) = tokio::sync::mpsc::unbounded_channel();
        let bus = bus::start(|_| {}, Some(listener));
        let cancel = CancellationToken::new();
        let work = WorkDir::open(&config.dir).unwrap();
        let mut migration = hyperlift::migration::context::Context::new(config, work, bus.reporter, bus.commands, cancel.clone()).unwrap();
        let run = tokio::spawn(async move { hyperlift::migration::run(&mut migration).await });
        Self { front: bus.front, events, run, cancel, _folder: folder }
    }

    /// Waits for a state that fits.
    pub async fn until(&mut self, fits: impl Fn(&State) -> bool) -> State {
        let waited = timeout(PATIENCE, self.front.state.wait_for(|s| fits(s))).await.is_ok_and(|w| w.is_ok());
        let state = self.front.state.borrow().clone();
        assert!(waited, "{:#?}\n{:#?}\n{:?}", state.log, state.schema.failures, state.tables);
        state
    }

    /// Waits for the next event that fits.
    pub async fn event(&mut self, what: &str, fits: impl Fn(&Event) -> bool) {
        let look = async { while self.events.recv().await.is_some_and(|stamped| !fits(&stamped.event)) {} };
        assert!(timeout(PATIENCE, look).await.is_ok() && !self.run.is_finished(), "{what}: has not come\n{:#?}", self.front.state.borrow().log);
    }

    pub async fn command(&self, command: event::Command) {
        self.front.commands.send(command).await.unwrap();
    }

    pub async fn answer(&self, prompt: u64, answer: event::Answer) {
        self.command(event::Command::Answer { prompt, answer }).await;
    }

    /// Stops it safely.
    pub async fn stop(self) {
        self.cancel.cancel();
        assert!(self.ended().await.unwrap_err().is_stop());
    }

    pub async fn ended(self) -> Result<()> {
        timeout(PATIENCE, self.run).await.expect("the end of the migration").unwrap()
    }
}

/// Migrates tables, makes changes while replay runs, each string a transaction of its own, and cuts over.
pub async fn migrated_with_changes(schema: &str, plan: &str, changes: &[&str]) -> Pair {
    let pair = Pair::shared().await;
    pair.source.execute(schema).await;
    let mut migration = Migration::of(&pair).plan(plan);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    for change in changes {
        pair.source.execute(change).await;
    }
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    pair
}
