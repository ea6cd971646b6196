//! The task that knows everything about the builds: it starts them on idle workers, and ends when no relation remains.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};
use tokio::{
    sync::mpsc,
    task::{JoinError, JoinSet},
};

use super::{
    plan::{self, BuildStep, BuildWave},
    progress::{BuildMonitor, BuildProgress},
    work::{IndexWork, IndexWorker, ReadyWork, settings},
};
use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::{Answer, CopyProgress, Event, IndexProgress, Level, Subject, TableState},
    migration::{context::Context, prompts::PromptSender, restore::ddl},
    name::TableName,
    pg::{
        catalog,
        dump::{Phase, Statement},
        ledger,
    },
};

/// Up to this size the statements of a relation take less time than a transaction for each would. Bytes.
const SMALL: u64 = 8 << 20;
/// A transaction with more statements would hold too many locks.
const SMALL_STATEMENTS: usize = 32;
/// How often the progress of builds is polled.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A relation that is copied or skipped: its indexes can be built.
pub struct IndexJob {
    pub table: TableName,
    pub rows: u64,
    pub bytes: u64,
    pub statements: Vec<Statement>,
    /// The operator skipped its rows.
    pub skipped: bool,
    /// It was copied in this run.
    pub fresh: bool,
}

/// Builds until the channel `jobs` is closed and everything is built; `done` gets each relation that has all its indexes.
pub fn build(
    cx: &Context,
    relations: &[catalog::SourceRelation],
    prompts: PromptSender,
    jobs: mpsc::UnboundedReceiver<IndexJob>,
    done: mpsc::UnboundedSender<TableName>,
) -> impl Future<Output = Result<()>> + Send + 'static {
    let count = cx.config.index_jobs.max(1);
    let prefix = cx.application("index-");
    let session = |n| IndexWorker { number: n, session: ddl::DdlSession::new(&cx.config, format!("{prefix}{n}"), settings(count)) };
    let hypertables: HashSet<TableName> = cx.plan.hypertables.iter().map(|h| h.table.clone()).collect();
    let roots = relations.iter().filter(|r| r.storage.is_partitioned() && !cx.plan.is_one_table(&r.table)).map(|r| r.table.clone());
    let builders = IndexBuilders {
        divided: roots.chain(hypertables.iter().cloned()).collect(),
        hypertables,
        reporter: cx.reporter.clone(),
        prompts,
        done,
        relations: Vec::new(),
        ready: BinaryHeap::new(),
        ordinals: 0,
        idle: (0..count).map(session).collect(),
        at_work: HashMap::new(),
        running: JoinSet::new(),
        asking: JoinSet::new(),
        executed: HashSet::new(),
    };
    builders.run(cx.config.clone(), prefix, jobs)
}

/// One relation, from the copy to its last index.
struct IndexedRelation {
    table: TableName,
    rows: u64,
    bytes: u64,
    statements: Vec<Statement>,
    /// Of each of its tables.
    waves: Vec<TableWaves>,
    /// Indexes that are built.
    done: u64,
    total: u64,
    building: Vec<String>,
    /// A worker has begun.
    begun: bool,
    /// Rows were copied or indexes built in this run, so that ANALYZE is needed.
    changed: bool,
    analyzed: bool,
    skipped: bool,
}

/// What remains to be built on one table.
struct TableWaves {
    remaining: VecDeque<BuildWave>,
    /// Steps of the current wave that are not finished.
    unfinished: usize,
}

/// The state of all builds. Only one task changes it.
struct IndexBuilders {
    hypertables: HashSet<TableName>,
    /// The hypertables, and the roots of partitions.
    divided: HashSet<TableName>,
    reporter: Reporter,
    prompts: PromptSender,
    done: mpsc::UnboundedSender<TableName>,
    relations: Vec<IndexedRelation>,
    ready: BinaryHeap<ReadyWork>,
    /// How much work was made ready so far.
    ordinals: usize,
    idle: Vec<IndexWorker>,
    /// By the worker's number: the relation, and the index that is built.
    at_work: HashMap<u32, (usize, Option<String>)>,
    running: JoinSet<(IndexWorker, usize, IndexWork, Result<()>)>,
    /// Work that failed waits here for the operator, so that its worker is free.
    asking: JoinSet<(usize, IndexWork, String, Result<Answer>)>,
    /// Digests of the statements that were run or skipped.
    executed: HashSet<String>,
}

impl IndexBuilders {
    async fn run(mut self, config: Arc<Config>, prefix: String, mut jobs: mpsc::UnboundedReceiver<IndexJob>) -> Result<()> {
        let mut session = ddl::DdlSession::new(&config, format!("{prefix}0"), "");
        self.executed = ledger::executed(session.client().await?, Phase::Index.as_str()).await?;
        drop(session);
        let mut polling = JoinSet::new();
        let mut monitor = Some(BuildMonitor { target: config.target.clone(), prefix, client: None });
        let mut tick = tokio::time::interval(POLL_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut expecting = true;
        while expecting || !self.is_idle() {
            tokio::select! {
                job = jobs.recv(), if expecting => match job {
                    Some(job) => self.take(job).await,
                    None => expecting = false,
                },
                Some(ended) = self.running.join_next() => {
                    let (worker, relation, work, result) = joined_or_failed(ended)?;
                    self.at_work.remove(&worker.number);
                    self.idle.push(worker);
                    self.ended(relation, work, result).await;
                }
                Some(answered) = self.asking.join_next() => {
                    let (relation, work, failure, answer) = joined_or_failed(answered)?;
                    self.answered(relation, work, failure, answer?).await;
                }
                _ = tick.tick(), if !self.at_work.is_empty() => {
                    if let Some(monitor) = monitor.take() {
                        polling.spawn(monitor.poll());
                    }
                }
                Some(polled) = polling.join_next() => {
                    let (back, seen) = joined_or_failed(polled)?;
                    monitor = Some(back);
                    self.report_progress(&seen);
                }
            }
            self.start().await;
        }
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.ready.is_empty() && self.running.is_empty() && self.asking.is_empty()
    }

    async fn take(&mut self, job: IndexJob) {
        let IndexJob { table, rows, bytes, statements, skipped, fresh: changed } = job;
        let (total, relation) = (statements.len() as u64, self.relations.len());
        let whole: Vec<BuildStep> = statements.iter().map(BuildStep::new).filter(|s| self.is_due(s)).collect();
        let done = total - whole.len() as u64;
        let small = bytes < SMALL && (1..=SMALL_STATEMENTS).contains(&whole.len()) && !self.hypertables.contains(&table);
        let (waves, building) = (Vec::new(), Vec::new());
        let (begun, analyzed) = (false, false);
        self.relations.push(IndexedRelation { table, rows, bytes, statements, waves, done, total, building, begun, changed, analyzed, skipped });
        if small { self.push(relation, IndexWork::Whole(whole)) } else { self.by_waves(relation).await }
    }

    /// Neither it nor the statement that needs it was run.
    fn is_due(&self, step: &BuildStep) -> bool {
        std::iter::once(&step.digest).chain(&step.needed_by).all(|digest| !self.executed.contains(digest))
    }

    fn push(&mut self, relation: usize, work: IndexWork) {
        let bytes = self.relations[relation].bytes;
        self.ordinals += 1;
        self.ready.push(ReadyWork { bytes, ordinal: Reverse(self.ordinals), relation, work });
    }

    async fn by_waves(&mut self, relation: usize) {
        let r = &mut self.relations[relation];
        let waves = plan::waves(&r.table, &r.statements, self.divided.contains(&r.table));
        r.waves = waves.into_iter().map(|remaining| TableWaves { remaining, unfinished: 0 }).collect();
        let first = plan::allow_analyze_first(&r.statements);
        self.report(relation).await;
        if first { self.push(relation, IndexWork::Analyze) } else { self.begin_waves(relation).await }
    }

    async fn begin_waves(&mut self, relation: usize) {
        for table in 0..self.relations[relation].waves.len() {
            self.next_wave(relation, table);
        }
        self.finish_if_built(relation).await;
    }

    /// Makes the next wave of a table of the relation ready.
    fn next_wave(&mut self, relation: usize, table: usize) {
        while let Some(wave) = self.relations[relation].waves[table].remaining.pop_front() {
            let wave: BuildWave = wave.into_iter().filter(|s| self.is_due(s)).collect();
            if !wave.is_empty() {
                self.relations[relation].waves[table].unfinished = wave.len();
                for step in wave {
                    self.push(relation, IndexWork::Step(table, step));
                }
                return;
            }
        }
    }

    async fn finish_if_built(&mut self, relation: usize) {
        let r = &self.relations[relation];
        if r.waves.iter().all(|w| w.remaining.is_empty() && w.unfinished == 0) {
            if r.analyzed { self.finish(relation).await } else { self.push(relation, IndexWork::Analyze) }
        }
    }

    /// Gives idle workers the work that can begin.
    async fn start(&mut self) {
        while !self.idle.is_empty() && !self.ready.is_empty() {
            let (Some(mut worker), Some(ReadyWork { relation, work, .. })) = (self.idle.pop(), self.ready.pop()) else { return };
            if !std::mem::replace(&mut self.relations[relation].begun, true) {
                self.report_state(relation, TableState::Indexing).await;
            }
            let r = &mut self.relations[relation];
            let index = if let IndexWork::Step(_, step) = &work { step.index.clone() } else { None };
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

    async fn ended(&mut self, relation: usize, work: IndexWork, result: Result<()>) {
        let r = &mut self.relations[relation];
        r.changed |= result.is_ok();
        match (work, result) {
            (IndexWork::Whole(steps), Ok(())) => {
                r.done += steps.len() as u64;
                self.report(relation).await;
                self.finish(relation).await;
            }
            // Each statement by itself, so that the one that fails can be named.
            (IndexWork::Whole(_), Err(_)) => self.by_waves(relation).await,
            (IndexWork::Step(table, step) | IndexWork::Skip(table, step, _), Ok(())) => {
                r.building.retain(|name| step.index.as_ref() != Some(name));
                // An index and the key that takes it over count as one.
                r.done += u64::from(step.needed_by.is_none_or(|key| self.executed.contains(&key)));
                r.waves[table].unfinished -= 1;
                let wave_ended = r.waves[table].unfinished == 0;
                self.executed.insert(step.digest);
                self.report(relation).await;
                if wave_ended {
                    self.next_wave(relation, table);
                    self.finish_if_built(relation).await;
                }
            }
            (work @ (IndexWork::Step(_, _) | IndexWork::Skip(..)), Err(error)) => {
                let (IndexWork::Step(_, step) | IndexWork::Skip(_, step, _)) = &work else { return };
                r.building.retain(|name| step.index.as_ref() != Some(name));
                let object = step.object.clone();
                ddl::report_failure(&self.reporter, &object, &step.sql, &error).await;
                self.report(relation).await;
                let prompts = self.prompts.clone();
                let failure = error.to_string();
                self.asking.spawn(async move { (relation, work, failure, prompts.ask(Subject::Object(object), error).await) });
            }
            (IndexWork::Analyze, result) => {
                if let Err(e) = result {
                    // Catch-up runs ANALYZE again.
                    self.reporter.notice(Level::Warn, format!("ANALYZE of {}: {e}", self.relations[relation].table)).await;
                }
                self.relations[relation].analyzed = true;
                self.begin_waves(relation).await;
            }
        }
    }

    async fn answered(&mut self, relation: usize, work: IndexWork, failure: String, answer: Answer) {
        match (answer, work) {
            (Answer::Skip, IndexWork::Step(table, step) | IndexWork::Skip(table, step, _)) => {
                self.executed.extend(step.needed_by.clone());
                self.reporter.report(Event::StatementSkipped { object: step.object.clone() }).await;
                self.push(relation, IndexWork::Skip(table, step, failure));
            }
            (_, work) => self.push(relation, work),
        }
    }

    async fn finish(&mut self, relation: usize) {
        self.report_state(relation, TableState::Done).await;
        // The receiver is gone when the stage was stopped.
        let _ = self.done.send(self.relations[relation].table.clone());
    }

    /// A skipped relation stays in the state "skipped".
    async fn report_state(&self, relation: usize, state: TableState) {
        let IndexedRelation { table, rows, bytes, skipped, .. } = &self.relations[relation];
        if !skipped {
            self.reporter.report(Event::CopyProgress(CopyProgress { table: table.clone(), state, rows: *rows, bytes: *bytes, error: None })).await;
        }
    }

    async fn report(&self, relation: usize) {
        let IndexedRelation { table, done, total, building, .. } = &self.relations[relation];
        let event = Event::IndexProgress(IndexProgress { table: table.clone(), done: *done, total: *total, building: building.clone() });
        self.reporter.report(event).await;
    }

    fn report_progress(&self, seen: &[BuildProgress]) {
        for BuildProgress { worker, phase, fraction } in seen {
            if let Some((relation, Some(index))) = self.at_work.get(worker) {
                let (table, index) = (self.relations[*relation].table.clone(), index.clone());
                self.reporter.progress(Event::IndexBuilding { table, index, phase: phase.clone(), fraction: *fraction });
            }
        }
    }
}

fn joined_or_failed<T>(joined: std::result::Result<T, JoinError>) -> Result<T> {
    joined.map_err(|e| Error::failed(format!("an index worker has ended unexpectedly: {e}")))
}
