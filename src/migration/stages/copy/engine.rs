//! Runs the jobs of the copy, hands finished relations to the index builders, and takes the operator's commands meanwhile.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::{mpsc, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    chunks::Chunking,
    format::{self, Types},
    indexes::{self, Job},
    parts,
    queue::{Queue, Task},
    throttle::Throttle,
    transfer,
    worker::Worker,
};
use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::{Command, CopyProgress, Event, Level, Stage, TableState},
    lsn::Lsn,
    migration::{
        context::Context,
        prompts::{self, Asker, Resolution},
    },
    name::TableName,
    pg::{
        catalog::{self, Relation},
        client::{self, Client},
        connect::session::Side,
        dump::{Phase, Statement},
        ledger::{self, RelationState},
        slot, timescale,
        wire::Wire,
    },
    plan::Plan,
};

/// No more jobs than this.
const MOST_JOBS: u32 = 64;

/// What the jobs share.
pub struct Shared {
    pub config: Arc<Config>,
    pub reporter: Reporter,
    /// `hyperlift/<id>/`
    pub prefix: String,
    pub horizon: u64,
    /// Larger relations are cut, bytes.
    pub split: u64,
    pub types: Types,
    /// TimescaleDB refuses ONLY on these.
    pub hypertables: HashMap<TableName, Chunking>,
    /// What a transaction of the target begins with: checks and generated columns call the application's functions, too.
    pub path: String,
    pub queue: Queue,
    pub throttle: Throttle,
    /// How many jobs there are to be.
    pub wanted: watch::Receiver<u32>,
    asker: Asker,
    jobs: mpsc::UnboundedSender<Job>,
    tasks: Tasks,
    /// The greatest L, for the receiver.
    copied_at: watch::Sender<Lsn>,
}

/// Bytes that are no text in their encoding.
const BAD_BYTES: &str = "22021";
/// Of a constraint, or of a partition that is missing.
const CHECK_VIOLATION: &str = "23514";

impl Shared {
    pub fn progress(&self, table: &TableName, rows: u64, bytes: u64) {
        self.reporter.progress(Event::CopyProgress(CopyProgress { table: table.clone(), state: TableState::Copying, rows, bytes, error: None }));
    }

    /// A relation is copied, at this L: its indexes are due.
    pub async fn copied(&self, task: Task, at: Lsn, rows: u64, bytes: u64) {
        self.copied_at.send_modify(|greatest| *greatest = at.max(*greatest));
        self.settled(TableState::Waiting, task, rows, bytes).await;
    }

    /// A relation is copied, or skipped.
    async fn settled(&self, state: TableState, task: Task, rows: u64, bytes: u64) {
        let skipped = state == TableState::Skipped;
        let job = Job { table: task.relation.table, rows, bytes, statements: task.statements, skipped, fresh: !skipped };
        self.reporter.report(Event::CopyProgress(CopyProgress { table: job.table.clone(), state, rows, bytes, error: None })).await;
        let _ = self.jobs.send(job);
        self.queue.settled();
    }

    /// A relation failed: it is tried again under another snapshot, after passing trouble at once, else when the operator says so.
    pub async fn failed(self: &Arc<Self>, mut task: Task, mut error: Error, (rows, bytes): (u64, u64)) -> Result<()> {
        if error.is_stop() {
            return Err(error);
        }
        if error.has_code(BAD_BYTES) && self.types.encodings.0 == "SQL_ASCII" {
            error = error.hint(format::not_utf8(&task.relation));
        }
        let table = task.relation.table.clone();
        tracing::warn!(table = %table, %error, "the copy failed");
        task.tried = true;
        if error.is_transient() {
            self.reporter.notice(Level::Warn, format!("copy {table}: {error}; trying again")).await;
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
            self.queue.put_back(task);
            return Ok(());
        }
        if error.has_code(CHECK_VIOLATION) {
            error = error.hint(
                "if the check reads another table, that one may not be copied yet: retry. Otherwise the row breaks it on the source, too: \
                 drop the constraint on the target until after the cutover, then retry",
            );
            if !std::mem::replace(&mut task.late, true) {
                match self.queue.put_last(task) {
                    Ok(()) => {
                        self.reporter
                            .report(Event::CopyProgress(CopyProgress {
                                table: table.clone(),
                                state: TableState::Queued,
                                rows: 0,
                                bytes: 0,
                                error: None,
                            }))
                            .await;
                        let text = format!(
                            "copy {table}: a check refuses a row, perhaps as it reads a table that comes later: tried again behind the others"
                        );
                        self.reporter.notice(Level::Warn, text).await;
                        return Ok(());
                    }
                    Err(back) => task = back,
                }
            }
        }
        let told = error.hint.as_ref().map_or_else(|| error.to_string(), |hint| format!("{error}. What to do: {hint}"));
        let event = Event::CopyProgress(CopyProgress { table, state: TableState::Failed, rows, bytes, error: Some(told) });
        self.reporter.report(event).await;
        // The job goes on with others while the operator thinks.
        let shared = Arc::clone(self);
        self.tasks.run(async move { shared.ask(task, error).await });
        Ok(())
    }

    async fn ask(&self, mut task: Task, mut error: Error) -> Result<()> {
        let (table, oid) = (task.relation.table.clone(), task.relation.oid);
        loop {
            let answer = self.asker.ask(table.to_string(), error.context("copy")).await?;
            match self.answered(&mut task, answer).await {
                Ok(()) if answer == Resolution::Retry => self.queue.put_back(task),
                Ok(()) => {
                    tracing::info!(oid, "skipped");
                    self.settled(TableState::Skipped, task, 0, 0).await;
                }
                Err(e) => {
                    error = e;
                    continue;
                }
            }
            return Ok(());
        }
    }

    /// Before another try the target is looked at again: the operator may have changed the table. A skipped table is left empty.
    async fn answered(&self, task: &mut Task, answer: Resolution) -> Result<()> {
        let oid = task.relation.oid;
        let worker = format!("{}copy", self.prefix);
        let target = client::connect(&self.config.target, Side::Target, &worker).await?;
        if let Some(found) = ledger::unfinished(&target, Some(oid)).await?.remove(&oid) {
            task.target = found;
        }
        if answer == Resolution::Skip {
            if task.target.used {
                let only = !task.relation.partitioned && !self.hypertables.contains_key(&task.relation.table);
                let mut wire = Wire::open(&self.config.target, Side::Target, &worker).await?;
                transfer::begin_attempt(&mut wire, oid, &task.relation.table, only).await?;
            }
            ledger::skip_relation(&target, oid).await?;
        }
        Ok(())
    }
}

/// Tasks whose failure, or panic, ends the stage; and whose end the stage waits for.
#[derive(Clone)]
struct Tasks {
    tracker: TaskTracker,
    cancel: CancellationToken,
    failures: mpsc::UnboundedSender<Error>,
}

impl Tasks {
    fn run(&self, work: impl Future<Output = Result<()>> + Send + 'static) {
        let Self { cancel, failures, .. } = self.clone();
        self.tracker.spawn(async move {
            let mut work = tokio::spawn(work);
            let result = tokio::select! {
                () = cancel.cancelled() => {
                    work.abort();
                    let _ = work.await;
                    return;
                }
                // A panic must not end in a silent dead worker.
                result = &mut work => result.unwrap_or_else(|e| Err(Error::failed(format!("a worker died: {e}")))),
            };
            if let Err(e) = result {
                let _ = failures.send(e);
            }
        });
    }
}

/// Copies what is not copied yet, and builds indexes, until everything is there.
pub async fn run(cx: &mut Context, relations: &[Relation], statements: &[Statement], copied_at: watch::Sender<Lsn>) -> Result<()> {
    let target = cx.target("copy").await?;
    // From here on no session of an earlier run can record anything.
    ledger::begin_attempts(&target).await?;
    let source = cx.source("horizon").await?;
    let horizon = slot::horizon(&source).await?;
    let Sorted { todo, to_index } = sort(&cx.plan, &source, &target, relations, statements).await?;
    let types = Types {
        source: catalog::binary_types(&source).await?,
        target: catalog::binary_types(&target).await?,
        encodings: (catalog::encoding(&source).await?, catalog::encoding(&target).await?),
    };
    let hypertables = hypertables(cx, &target).await?;
    let path = ledger::migration(&target).await?.map_or_else(String::new, |known| known.path());
    drop((source, target));

    let indexes = todo.iter().map(|t| (t.relation.table.clone(), t.statements.len() as u64)).collect();
    cx.reporter.report(Event::IndexesCounted { indexes }).await;
    let mut left: HashSet<TableName> = relations.iter().map(|r| r.table.clone()).collect();
    let (asker, mut desk) = prompts::desk(cx.config.interactive);
    let (failures, mut failed) = mpsc::unbounded_channel::<Error>();
    let tasks = Tasks { tracker: TaskTracker::new(), cancel: cx.cancel.child_token(), failures };
    let (jobs, incoming) = mpsc::unbounded_channel();
    let (finished, mut done) = mpsc::unbounded_channel();
    tasks.run(indexes::build(cx, relations, asker.clone(), incoming, finished));
    for job in to_index {
        let (table, state) = (job.table.clone(), if job.skipped { TableState::Skipped } else { TableState::Waiting });
        cx.reporter.report(Event::CopyProgress(CopyProgress { table, state, rows: job.rows, bytes: job.bytes, error: None })).await;
        let _ = jobs.send(job);
    }
    let (pause, paused) = watch::channel(false);
    let mut table_jobs = cx.config.table_jobs.clamp(1, MOST_JOBS);
    let (want, wanted) = watch::channel(table_jobs);
    cx.reporter.report(Event::JobsChanged { table_jobs, index_jobs: cx.config.index_jobs }).await;
    let total = relations.iter().map(|r| r.bytes).sum();
    let split = cx.config.split_larger_than.unwrap_or_else(|| parts::default_split(total, table_jobs));
    let shared = Arc::new(Shared {
        config: cx.config.clone(),
        reporter: cx.reporter.clone(),
        prefix: cx.application(""),
        horizon,
        split,
        types,
        hypertables,
        path,
        queue: Queue::new(todo, split),
        throttle: Throttle::new(paused, cx.config.copy_rate),
        wanted,
        asker,
        jobs,
        tasks: tasks.clone(),
        copied_at,
    });
    let mut started = 0;
    let result = loop {
        while started < table_jobs {
            tasks.run(Worker::new(shared.clone(), started).run());
            started += 1;
        }
        if left.is_empty() {
            break Ok(());
        }
        tokio::select! {
            biased;
            Some(error) = failed.recv() => break Err(error),
            Some(table) = done.recv() => { left.remove(&table); }
            trouble = desk.next() => match trouble {
                Ok((object, error)) => cx.open_trouble(Stage::Copy, &object, format!("{object} failed: {error}")).await,
                Err(e) => break Err(e),
            },
            command = cx.command() => match command {
                Err(e) => break Err(e),
                Ok(Command::Pause) => { pause.send_replace(true); cx.reporter.report(Event::Paused { paused: true }).await; }
                Ok(Command::Resume) => { pause.send_replace(false); cx.reporter.report(Event::Paused { paused: false }).await; }
                Ok(Command::SetJobs { table_jobs: jobs }) => {
                    table_jobs = jobs.clamp(1, MOST_JOBS);
                    want.send_replace(table_jobs);
                    cx.reporter.report(Event::JobsChanged { table_jobs, index_jobs: cx.config.index_jobs }).await;
                }
                Ok(command) => match desk.answer(&command) {
                    Some((object, resolution)) => cx.close_trouble(&object, resolution == Resolution::Retry).await,
                    None => cx.refuse(&command, Stage::Copy).await,
                },
            },
        }
    };
    drop(shared);
    tasks.cancel.cancel();
    tasks.tracker.close();
    tasks.tracker.wait().await;
    result?;
    make_durable(&cx.target("copy").await?, relations).await
}

/// What was committed without waiting for the disk is durable now, or a crash of the target has undone it together with its ledger rows.
async fn make_durable(target: &Client, relations: &[Relation]) -> Result<()> {
    ledger::flush(target).await?;
    let entries = ledger::relations(target).await?;
    let lost = relations.iter().find(|r| entries.get(&r.oid).is_none_or(|e| e.state == RelationState::Planned));
    lost.map_or(Ok(()), |r| {
        Err(Error::failed(format!("the target has lost the copy of {}, which was finished", r.table))
            .hint("did it crash? Start hyperlift again: what was lost is copied anew"))
    })
}

/// Relations by what is to be done with them.
struct Sorted {
    todo: Vec<Task>,
    to_index: Vec<Job>,
}

async fn sort(plan: &Plan, source: &Client, target: &Client, relations: &[Relation], statements: &[Statement]) -> Result<Sorted> {
    let entries = ledger::relations(target).await?;
    let mut unfinished = ledger::unfinished(target, None).await?;
    let mut by_table: HashMap<&TableName, Vec<Statement>> = HashMap::new();
    for s in statements.iter().filter(|s| s.phase == Phase::Index) {
        if let Some(table) = &s.table {
            by_table.entry(table).or_default().push(s.clone());
        }
    }
    let mut sorted = Sorted { todo: Vec::new(), to_index: Vec::new() };
    for r in relations {
        let mut tables = if r.partitioned && !plan.is_one_table(&r.table) { catalog::leaves(source, &r.table).await? } else { Vec::new() };
        tables.push(r.table.clone());
        let identity = r.identity_index.clone().or_else(|| r.primary_key().map(|p| p.name.clone()));
        let own = tables.iter().filter_map(|t| by_table.remove(t)).flatten().collect();
        let statements = indexes::in_order(own, identity.as_deref());
        match entries.get(&r.oid).map(|e| &e.state) {
            Some(RelationState::Copied { .. }) => {
                sorted.to_index.push(Job { table: r.table.clone(), rows: r.rows, bytes: r.bytes, statements, skipped: false, fresh: false });
            }
            Some(RelationState::Skipped) => {
                sorted.to_index.push(Job { table: r.table.clone(), rows: 0, bytes: 0, statements, skipped: true, fresh: false });
            }
            _ => {
                let target = unfinished.remove(&r.oid).unwrap_or_default();
                sorted.todo.push(Task { relation: r.clone(), statements, target, tried: false, late: false });
            }
        }
    }
    Ok(sorted)
}

/// The hypertables, and what of their chunks can be made beforehand.
async fn hypertables(cx: &Context, target: &Client) -> Result<HashMap<TableName, Chunking>> {
    let mut found = HashMap::new();
    if cx.plan.hypertables.is_empty() {
        return Ok(found);
    }
    let most = timescale::chunks_beforehand(target).await?;
    let mut made = timescale::hypertables(target).await?;
    for h in &cx.plan.hypertables {
        let mut dimensions = made.remove(&h.table).unwrap_or_default();
        // By hash as well: a chunk is a range of both.
        let dimension = dimensions.pop().filter(|_| dimensions.is_empty());
        found.insert(h.table.clone(), Chunking { dimension, most });
    }
    Ok(found)
}
