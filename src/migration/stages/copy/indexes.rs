//! ANALYZE, indexes and keys of a relation, as soon as it is copied: several at once, of one table, too.
//!
//! A small relation is one transaction with all that belongs to it. Of the others the statements are a queue, from the largest relation to
//! the smallest, in the waves of [`plan`]. What fails waits for the operator while the rest goes on. ANALYZE shares the table with no
//! CREATE INDEX. It comes first, while there is other work beside it, as the end of the last table has none; but behind indexes on
//! expressions, whose statistics it gathers.

mod plan;
mod progress;

use std::{
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use crate::{
    bus::Reporter,
    error::{Error, Result},
    event::{CopyProgress, Event, IndexProgress, Level, TableState},
    migration::{
        context::Context,
        prompts::{Asker, Resolution},
        restore::ddl,
    },
    name::{TableName, ident, literal},
    pg::{
        catalog,
        connect::conninfo::Conninfo,
        dump::{Phase, Statement},
        ledger,
    },
};
use plan::{Step, Wave};
use progress::{Seen, Watcher};

/// A copied relation whose indexes are due.
pub struct Job {
    pub table: TableName,
    pub rows: u64,
    pub bytes: u64,
    pub statements: Vec<Statement>,
    /// The operator skipped its rows.
    pub skipped: bool,
    /// It was copied in this run.
    pub fresh: bool,
}

/// Up to this size a relation's statements take less than their transactions would; bytes.
const SMALL: u64 = 8 << 20;
/// A transaction with more statements would hold too many locks.
const SMALL_STATEMENTS: usize = 32;
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Thousands of small relations would wait for the disk as often. A target that crashes loses the indexes together with their entries in
/// the ledger, which is read again, once all is flushed, before the stage ends (see `rest_of_indexes`).
const NOT_FLUSHED: &str = "set local synchronous_commit = off";

/// Settings of a session that builds. What the server has is kept if it is more; a quarter of a gigabyte sorts most indexes without
/// going to disk, but all jobs together get a gigabyte at most, as nobody knows how much the target has to spare.
pub fn settings(index_jobs: u32) -> String {
    let kilobytes = (256 << 10).min((1 << 20) / index_jobs.max(1));
    format!(
        "select set_config('maintenance_work_mem', greatest(setting::bigint, {kilobytes}) || 'kB', false)
           from pg_settings where name = 'maintenance_work_mem'"
    )
}

/// Puts the statements of a relation, and of its leaves, in the order in which they are to be built.
pub fn in_order(mut statements: Vec<Statement>, identity_index: Option<&str>) -> Vec<Statement> {
    // A stable sort: the identity's index first, the order of the dump otherwise.
    statements.sort_by_key(|s| s.makes.as_deref() != identity_index || identity_index.is_none());
    statements
}

/// Builds what comes until there is no more; `done` hears of each relation that is finished.
pub fn build(
    cx: &Context,
    relations: &[catalog::Relation],
    asker: Asker,
    jobs: mpsc::UnboundedReceiver<Job>,
    done: mpsc::UnboundedSender<TableName>,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let count = cx.config.index_jobs.max(1);
    let prefix = cx.application("index-");
    let session = |n| Worker { number: n, session: ddl::Session::new(&cx.config.target, format!("{prefix}{n}"), settings(count)) };
    let hypertables: HashSet<TableName> = cx.plan.hypertables.iter().map(|h| h.table.clone()).collect();
    let roots = relations.iter().filter(|r| r.partitioned && !cx.plan.is_one_table(&r.table)).map(|r| r.table.clone());
    let builders = Builders {
        divided: roots.chain(hypertables.iter().cloned()).collect(),
        hypertables,
        reporter: cx.reporter.clone(),
        asker,
        done,
        relations: Vec::new(),
        ready: BinaryHeap::new(),
        pushed: 0,
        idle: (0..count).map(session).collect(),
        at_work: HashMap::new(),
        running: JoinSet::new(),
        asking: JoinSet::new(),
        executed: HashSet::new(),
    };
    builders.run(cx.config.target.clone(), prefix, jobs)
}

/// One relation, from the copy to its last index.
struct Relation {
    table: TableName,
    rows: u64,
    bytes: u64,
    statements: Vec<Statement>,
    /// What is still to come of each of its tables, and how many steps of the present wave are not finished.
    waves: Vec<(VecDeque<Wave>, usize)>,
    /// Indexes that are built, and of how many.
    done: u64,
    total: u64,
    building: Vec<String>,
    /// A worker has begun.
    begun: bool,
    /// Something was copied or built in this run, that ANALYZE has not seen.
    changed: bool,
    analyzed: bool,
    skipped: bool,
}

/// What a worker does at a time.
#[derive(Clone, Debug)]
enum Work {
    /// A small relation as a whole, with ANALYZE.
    Whole(Vec<Step>),
    /// A step of this table of the relation.
    Step(usize, Step),
    /// Recorded as skipped.
    Skip(usize, Step, String),
    Analyze,
}

/// Work of a relation that may begin; the largest relation first, otherwise in the order in which it came.
struct Ready {
    bytes: u64,
    came: std::cmp::Reverse<usize>,
    relation: usize,
    work: Work,
}

impl Ord for Ready {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.bytes, self.came).cmp(&(other.bytes, other.came))
    }
}
impl PartialOrd for Ready {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl PartialEq for Ready {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl Eq for Ready {}

struct Worker {
    number: u32,
    session: ddl::Session,
}

/// What is started and ended by the one task that knows of everything.
struct Builders {
    hypertables: HashSet<TableName>,
    /// They, and the roots of partitions.
    divided: HashSet<TableName>,
    reporter: Reporter,
    asker: Asker,
    done: mpsc::UnboundedSender<TableName>,
    relations: Vec<Relation>,
    ready: BinaryHeap<Ready>,
    pushed: usize,
    idle: Vec<Worker>,
    /// By the worker's number: the relation, and the index that is built.
    at_work: HashMap<u32, (usize, Option<String>)>,
    running: JoinSet<(Worker, usize, Work, Result<()>)>,
    /// What failed waits here for the operator, not in a worker.
    asking: JoinSet<(usize, Work, String, Result<Resolution>)>,
    /// Digests of statements that need not run.
    executed: HashSet<String>,
}

impl Builders {
    async fn run(mut self, target: Conninfo, prefix: String, mut jobs: mpsc::UnboundedReceiver<Job>) -> Result<()> {
        let mut session = ddl::Session::new(&target, format!("{prefix}0"), "");
        self.executed = ledger::executed(session.client().await?, Phase::Index.word()).await?;
        drop(session);
        let mut watching = JoinSet::new();
        let mut watcher = Some(Watcher { target, prefix, client: None });
        let mut tick = tokio::time::interval(LOOK_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut open = true;
        while open || !self.is_idle() {
            tokio::select! {
                job = jobs.recv(), if open => match job {
                    Some(job) => self.take(job).await,
                    None => open = false,
                },
                Some(ended) = self.running.join_next() => {
                    let (worker, relation, work, result) = survived(ended)?;
                    self.at_work.remove(&worker.number);
                    self.idle.push(worker);
                    self.ended(relation, work, result).await;
                }
                Some(answered) = self.asking.join_next() => {
                    let (relation, work, failure, resolution) = survived(answered)?;
                    self.answered(relation, work, failure, resolution?).await;
                }
                _ = tick.tick(), if !self.at_work.is_empty() => {
                    if let Some(watcher) = watcher.take() {
                        watching.spawn(watcher.look());
                    }
                }
                Some(looked) = watching.join_next() => {
                    let (back, seen) = survived(looked)?;
                    watcher = Some(back);
                    self.tell(&seen);
                }
            }
            self.start().await;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.running.is_empty() && self.asking.is_empty()
    }

    async fn take(&mut self, job: Job) {
        let Job { table, rows, bytes, statements, skipped, fresh: changed } = job;
        let (total, relation) = (statements.len() as u64, self.relations.len());
        let whole: Vec<Step> = statements.iter().map(Step::of).filter(|s| self.is_due(s)).collect();
        let done = total - whole.len() as u64;
        let small = bytes < SMALL && (1..=SMALL_STATEMENTS).contains(&whole.len()) && !self.hypertables.contains(&table);
        let (waves, building) = (Vec::new(), Vec::new());
        let (begun, analyzed) = (false, false);
        self.relations.push(Relation { table, rows, bytes, statements, waves, done, total, building, begun, changed, analyzed, skipped });
        if small { self.push(relation, Work::Whole(whole)) } else { self.by_waves(relation).await }
    }

    /// Not run yet, nor what needs it.
    fn is_due(&self, step: &Step) -> bool {
        std::iter::once(&step.digest).chain(&step.needed_by).all(|digest| !self.executed.contains(digest))
    }

    fn push(&mut self, relation: usize, work: Work) {
        let bytes = self.relations[relation].bytes;
        self.pushed += 1;
        self.ready.push(Ready { bytes, came: std::cmp::Reverse(self.pushed), relation, work });
    }

    async fn by_waves(&mut self, relation: usize) {
        let r = &mut self.relations[relation];
        let waves = plan::waves(&r.table, &r.statements, self.divided.contains(&r.table));
        r.waves = waves.into_iter().map(|waves| (waves, 0)).collect();
        let first = plan::leave_statistics(&r.statements);
        self.report(relation).await;
        if first { self.push(relation, Work::Analyze) } else { self.begin_waves(relation).await }
    }

    async fn begin_waves(&mut self, relation: usize) {
        for table in 0..self.relations[relation].waves.len() {
            self.next_wave(relation, table);
        }
        self.if_built(relation).await;
    }

    /// Makes the next wave of a table of the relation ready.
    fn next_wave(&mut self, relation: usize, table: usize) {
        while let Some(wave) = self.relations[relation].waves[table].0.pop_front() {
            let wave: Wave = wave.into_iter().filter(|s| self.is_due(s)).collect();
            if !wave.is_empty() {
                self.relations[relation].waves[table].1 = wave.len();
                for step in wave {
                    self.push(relation, Work::Step(table, step));
                }
                return;
            }
        }
    }

    async fn if_built(&mut self, relation: usize) {
        let r = &self.relations[relation];
        if r.waves.iter().all(|(waves, left)| waves.is_empty() && *left == 0) {
            if r.analyzed { self.finish(relation).await } else { self.push(relation, Work::Analyze) }
        }
    }

    /// Gives workers what may begin.
    async fn start(&mut self) {
        while !self.idle.is_empty() && !self.ready.is_empty() {
            let (Some(mut worker), Some(Ready { relation, work, .. })) = (self.idle.pop(), self.ready.pop()) else { return };
            if !std::mem::replace(&mut self.relations[relation].begun, true) {
                self.tell_state(relation, TableState::Indexing).await;
            }
            let r = &mut self.relations[relation];
            let index = if let Work::Step(_, step) = &work { step.index.clone() } else { None };
            self.at_work.insert(worker.number, (relation, index.clone()));
            if let Some(index) = index {
                r.building.push(index);
                self.report(relation).await;
            }
            let r = &self.relations[relation];
            let (table, changed, reporter) = (r.table.clone(), r.changed, self.reporter.clone());
            self.running.spawn(async move {
                let result = work.run(&mut worker.session, &table, changed, &reporter).await;
                (worker, relation, work, result)
            });
        }
    }

    async fn ended(&mut self, relation: usize, work: Work, result: Result<()>) {
        let r = &mut self.relations[relation];
        r.changed |= result.is_ok();
        match (work, result) {
            (Work::Whole(steps), Ok(())) => {
                r.done += steps.len() as u64;
                self.report(relation).await;
                self.finish(relation).await;
            }
            // Each by itself, so that the one that fails can be named.
            (Work::Whole(_), Err(_)) => self.by_waves(relation).await,
            (Work::Step(table, step) | Work::Skip(table, step, _), Ok(())) => {
                r.building.retain(|name| step.index.as_ref() != Some(name));
                // An index that a key takes over counts as that key.
                r.done += u64::from(step.needed_by.is_none_or(|key| self.executed.contains(&key)));
                r.waves[table].1 -= 1;
                let wave_ended = r.waves[table].1 == 0;
                self.executed.insert(step.digest);
                self.report(relation).await;
                if wave_ended {
                    self.next_wave(relation, table);
                    self.if_built(relation).await;
                }
            }
            (work @ (Work::Step(_, _) | Work::Skip(..)), Err(error)) => {
                let (Work::Step(_, step) | Work::Skip(_, step, _)) = &work else { return };
                r.building.retain(|name| step.index.as_ref() != Some(name));
                let object = step.object.clone();
                ddl::report_failure(&self.reporter, &object, &step.sql, &error).await;
                self.report(relation).await;
                let asker = self.asker.clone();
                let failure = error.to_string();
                self.asking.spawn(async move { (relation, work, failure, asker.ask(object, error).await) });
            }
            (Work::Analyze, result) => {
                if let Err(e) = result {
                    // Catch-up tries again.
                    self.reporter.notice(Level::Warn, format!("ANALYZE of {}: {e}", self.relations[relation].table)).await;
                }
                self.relations[relation].analyzed = true;
                self.begin_waves(relation).await;
            }
        }
    }

    async fn answered(&mut self, relation: usize, work: Work, failure: String, resolution: Resolution) {
        match (resolution, work) {
            (Resolution::Skip, Work::Step(table, step) | Work::Skip(table, step, _)) => {
                self.executed.extend(step.needed_by.clone());
                self.reporter.report(Event::StatementSkipped { object: step.object.clone() }).await;
                self.push(relation, Work::Skip(table, step, failure));
            }
            (_, work) => self.push(relation, work),
        }
    }

    async fn finish(&mut self, relation: usize) {
        self.tell_state(relation, TableState::Done).await;
        // The stage may have been stopped meanwhile.
        let _ = self.done.send(self.relations[relation].table.clone());
    }

    /// What is skipped stays so.
    async fn tell_state(&self, relation: usize, state: TableState) {
        let Relation { table, rows, bytes, skipped, .. } = &self.relations[relation];
        if !skipped {
            self.reporter.report(Event::CopyProgress(CopyProgress { table: table.clone(), state, rows: *rows, bytes: *bytes, error: None })).await;
        }
    }

    async fn report(&self, relation: usize) {
        let Relation { table, done, total, building, .. } = &self.relations[relation];
        let event = Event::IndexProgress(IndexProgress { table: table.clone(), done: *done, total: *total, building: building.clone() });
        self.reporter.report(event).await;
    }

    fn tell(&self, seen: &[Seen]) {
        for Seen { worker, phase, fraction } in seen {
            if let Some((relation, Some(index))) = self.at_work.get(worker) {
                let (table, index) = (self.relations[*relation].table.clone(), index.clone());
                self.reporter.progress(Event::IndexBuilding { table, index, phase: phase.clone(), fraction: *fraction });
            }
        }
    }
}

fn survived<T>(joined: std::result::Result<T, JoinError>) -> Result<T> {
    joined.map_err(|e| Error::failed(format!("an index worker died: {e}")))
}

impl Work {
    async fn run(&self, session: &mut ddl::Session, table: &TableName, changed: bool, reporter: &Reporter) -> Result<()> {
        match self {
            Self::Whole(steps) => {
                let first = std::iter::once(NOT_FLUSHED.to_owned());
                let all: Vec<String> = first.chain(steps.iter().map(Step::recorded)).chain([analyze(table)]).collect();
                ddl::patiently(session, &table.to_string(), &all.join(";\n"), reporter).await
            }
            Self::Step(_, step) => step.run(session, reporter).await,
            Self::Skip(_, step, failure) => ddl::patiently(session, &step.object, &step.skipped(failure), reporter).await,
            Self::Analyze => {
                // An earlier run may have been killed before this.
                let due = format!("select pg_stat_get_last_analyze_time(to_regclass({})) is null", literal(&table.sql()));
                if changed || catalog::value(session.client().await?, &due).await? {
                    ddl::patiently(session, &format!("ANALYZE {table}"), &analyze(table), reporter).await?;
                }
                Ok(())
            }
        }
    }
}

/// For the planner of replay, which begins with sets of rows at once.
fn analyze(table: &TableName) -> String {
    format!("analyze {}", table.sql())
}

impl Step {
    async fn run(&self, session: &mut ddl::Session, reporter: &Reporter) -> Result<()> {
        let recorded = self.recorded();
        let Err(e) = ddl::patiently(session, &self.object, &recorded, reporter).await else { return Ok(()) };
        for digest in std::iter::once(&self.digest).chain(&self.needed_by) {
            if session.has(Phase::Index.word(), digest).await.unwrap_or(false) {
                return Ok(());
            }
        }
        let Some(leftover) = self.leftover(session).await.filter(|_| e.has_code("42P07")) else { return Err(e) };
        reporter.notice(Level::Warn, format!("{}: the invalid index {leftover} on the target is dropped and built again", self.object)).await;
        ddl::patiently(session, &self.object, &format!("drop index {};\n{recorded}", leftover.sql()), reporter).await
    }

    /// An index of this name, on the same table, that was never finished. An index of a partition root is invalid until all partitions
    /// have theirs, and is none.
    async fn leftover(&self, session: &mut ddl::Session) -> Option<TableName> {
        let (table, name) = (self.table.as_ref()?, self.index.as_ref()?);
        let index = TableName::new(&table.schema, name);
        let sql = format!(
            "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid
               where i.indexrelid = to_regclass({}) and i.indrelid = to_regclass({}) and not i.indisvalid and c.relkind = 'i')",
            literal(&format!("{}.{}", ident(&table.schema), ident(name))),
            literal(&table.sql())
        );
        catalog::value::<bool>(session.client().await.ok()?, &sql).await.ok()?.then_some(index)
    }
}
