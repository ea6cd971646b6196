//! Stage 5: slot, copy and indexes, while the stream is received and spooled.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{Mutex, OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::task::TaskTracker;

use super::{
    cutover, ddl, extension_rows,
    indexes::{self, Builder, Job},
    large_objects, schema, slot,
    trouble::{self, Asker, Resolution},
};
use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Kind, Result},
    event::{Command, Event, Level, PromptKind, Stage, TableState},
    lsn::Lsn,
    migration::Migration,
    name::{TableName, idents},
    pg::{
        apart,
        catalog::{self, Relation},
        client::{Client, Side},
        dump::{Phase, Statement},
        ledger::{self, RelationState},
        slot::Names,
        snapshot::Snapshot,
        wire::{Wire, pipe_copy},
    },
    replay::receiver::{self, Origin, Receiver},
    scope::Extent,
};

/// A source whose tables are locked exclusively is not waited for longer than this at a time.
const LOCK_TIMEOUT: &str = "2s";
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// What the later stages go on with.
pub struct Replication {
    pub receiver: Receiver,
    pub relations: Vec<Relation>,
    pub statements: Vec<Statement>,
    /// Reports the receiver's state until it is dropped.
    pub watcher: tokio::task::JoinHandle<()>,
}

pub async fn run(m: &mut Migration) -> Result<Replication> {
    m.enter(Stage::Copy).await;
    let source = m.source("copy").await?;
    if m.record.slot.is_some() && ledger::relations(&m.target("scope").await?).await?.is_empty() {
        // Stopped between the slot and the first copy: published is what was there then, so slot and publications are made anew.
        m.record.slot = None;
        m.record.shapes.clear();
        m.save()?;
    }
    let found = catalog::relations(&source).await?;
    let relations = in_scope(m, found.clone()).await?;
    let wanted = |r: &&Relation| m.plan.scope.extent(&r.table) == Extent::All;
    for r in found.iter().filter(wanted).filter(|r| relations.iter().all(|known| known.oid != r.oid)) {
        m.notice(Level::Warn, format!("{} is new on the source: it is not part of this migration", r.table)).await;
    }
    let (start, confirmed) = slot::prepare(m, &relations).await?;
    let statements = statements(m, &source).await?;
    let mut target = m.target("copy").await?;
    plan_lanes(&mut target, &relations).await?;
    let entries = ledger::relations(&target).await?;
    drop(target);
    let receiver = Receiver::start(origin(m), m.work.spool(), start, confirmed, m.cancel.clone()).await?;
    let watcher = tokio::spawn(watch_receiver(receiver.status.clone(), m.reporter.clone()));
    let (ended, status) = (receiver.ended(), receiver.status.clone());
    let copied = tokio::select! {
        result = async {
            copy_all(m, &relations, &entries, &statements).await?;
            large_objects::copy(m).await?;
            extension_rows::copy(m).await?;
            rest_of_indexes(m, &statements).await
        } => result,
        () = ended.cancelled() => {
            let why = status.borrow().broken.clone().unwrap_or_default();
            Err(Error::failed(format!("receiving has ended: {why}")).hint("mend the cause and start hyperlift again: finished tables stay as they are"))
        }
    };
    if let Err(e) = copied {
        watcher.abort();
        receiver.stop().await.ok();
        return Err(e);
    }
    m.finish(Stage::Copy).await?;
    Ok(Replication { receiver, relations, statements, watcher })
}

/// Where the stream of this migration comes from.
pub fn origin(m: &Migration) -> Origin {
    let names = Names::of(&m.record.id);
    Origin {
        source: m.config.source.clone(),
        application_name: m.application("receiver"),
        slot: names.slot,
        publications: vec![names.publication, names.insert_only],
        system_id: m.record.source.system_id.clone(),
    }
}

/// The relations of this migration: at first all whose rows are in its scope; once they are published, those that it began with. A table
/// that came later is in no publication.
pub async fn in_scope(m: &Migration, mut relations: Vec<Relation>) -> Result<Vec<Relation>> {
    let known = match m.record.slot {
        Some(_) => ledger::relations(&m.target("scope").await?).await?,
        None => HashMap::new(),
    };
    if known.is_empty() {
        relations.retain(|r| m.plan.scope.extent(&r.table) == Extent::All);
        return Ok(relations);
    }
    let renamed = relations.iter().find_map(|r| known.get(&r.oid).filter(|e| e.table != r.table).map(|e| (&e.table, &r.table)));
    // After the copy replay sees it in the stream, at its place.
    if let Some((was, is)) = renamed.filter(|_| !m.is_finished(Stage::Copy)) {
        return Err(Error::refused(format!("{was} was renamed to {is} on the source"))
            .hint("rename it back, or run `hyperlift clean`, empty the target and start again"));
    }
    Ok(relations.into_iter().filter(|r| known.contains_key(&r.oid)).collect())
}

/// The schema's statements as of the copy. What is made on the source later is not the migration's, and its indexes have no table.
async fn statements(m: &mut Migration, source: &Client) -> Result<Vec<Statement>> {
    if m.is_finished(Stage::Copy) {
        return cutover::statements(m);
    }
    let schema = m.unless_stopped(schema::dump(m)).await?;
    if m.record.schema.as_ref().is_some_and(|known| *known != schema.digest) {
        return Err(Error::refused("the source's schema changed since it was restored on the target").hint(format!(
            "make the same change on the target, then delete the line \"schema\" from {}/migration.json and start again; or run `hyperlift clean`, empty the target and start anew",
            m.work.path().display()
        )));
    }
    m.record.schema = Some(schema.digest.clone());
    if m.record.shapes.is_empty() {
        m.record.shapes = catalog::shapes(source, &m.plan.scope).await?;
    }
    m.save()?;
    for found in apart::apart(source, &m.plan.scope).await? {
        m.not_moved(found.object, found.reason).await?;
    }
    // The cutover's objects must be known even if the source is gone by then.
    cutover::keep_statements(m, &schema.statements)?;
    Ok(schema.statements)
}

/// Gives each relation a lane, once and for good: the largest to the least loaded.
async fn plan_lanes(target: &mut Client, relations: &[Relation]) -> Result<()> {
    if !ledger::relations(target).await?.is_empty() {
        return Ok(());
    }
    let lanes = ledger::migration(target).await?.map_or(1, |l| l.lanes).max(1);
    let mut load = vec![0u64; lanes as usize];
    let mut planned = Vec::new();
    for r in relations {
        let lane = (0..load.len()).min_by_key(|l| load[*l]).unwrap_or(0);
        load[lane] += r.bytes + 1;
        planned.push((r.oid, r.table.clone(), lane as u32));
    }
    ledger::plan_relations(target, &planned).await
}

/// Passes the receiver's state on, a few times a second at most.
async fn watch_receiver(mut status: watch::Receiver<receiver::Status>, reporter: Reporter) {
    let mut broken = None;
    loop {
        let now = status.borrow_and_update().clone();
        if now.broken != broken {
            broken.clone_from(&now.broken);
            reporter.report(Event::StreamBroken { error: now.broken }).await;
        }
        reporter.progress(Event::Received { lsn: now.heard, bytes: now.bytes, spool_bytes: now.spool_bytes, disk_free: now.disk_free });
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Even without news a sample is due now and then, so that rates fall to zero.
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(1), status.changed()).await {
            return;
        }
    }
}

/// One relation on its way through a copy worker.
#[derive(Clone)]
struct Task {
    relation: Arc<Relation>,
    statements: Vec<Statement>,
}

/// What the copy workers share.
struct Shared {
    config: Arc<Config>,
    reporter: Reporter,
    asker: Asker,
    /// TimescaleDB refuses ONLY on these.
    hypertables: HashSet<TableName>,
    /// `hyperlift/<id>/`
    prefix: String,
    horizon: u64,
    jobs: mpsc::UnboundedSender<Job>,
    paused: watch::Receiver<bool>,
    /// Permits to copy: one a job.
    permits: Arc<Semaphore>,
}

async fn copy_all(m: &mut Migration, relations: &[Relation], entries: &HashMap<u32, ledger::RelationEntry>, statements: &[Statement]) -> Result<()> {
    let source = m.source("horizon").await?;
    let horizon = crate::pg::slot::horizon(&source).await?;
    let mut todo = Vec::new();
    let mut to_index = Vec::new();
    let (jobs_sender, jobs) = mpsc::unbounded_channel();
    for r in relations {
        let leaves = if r.partitioned { catalog::leaves(&source, &r.table).await? } else { Vec::new() };
        let mut tables = leaves;
        tables.push(r.table.clone());
        let identity = r.identity_index.clone().or_else(|| r.primary_key().map(|p| p.name.clone()));
        let own = indexes::statements_for(statements, &tables, identity.as_deref());
        let task = Task { relation: Arc::new(r.clone()), statements: own };
        match entries.get(&r.oid).map(|e| &e.state) {
            Some(RelationState::Copied { .. }) => to_index.push(task),
            Some(RelationState::Skipped) => {
                let event = Event::CopyProgress { table: r.table.clone(), state: TableState::Skipped, rows: 0, bytes: 0, error: None };
                m.reporter.report(event).await;
                to_index.push(task);
            }
            _ => todo.push(task),
        }
    }
    let mut left: HashSet<TableName> = relations.iter().map(|r| r.table.clone()).collect();
    for task in to_index {
        let (rows, bytes) = (task.relation.rows, task.relation.bytes);
        let _ = jobs_sender.send(Job { table: task.relation.table.clone(), rows, bytes, statements: task.statements });
    }
    let (asker, mut desk) = trouble::desk(m.config.interactive);
    let (pause, paused) = watch::channel(false);
    let (done_sender, mut done) = mpsc::unbounded_channel();
    let jobs = Arc::new(Mutex::new(jobs));
    let cancel = m.cancel.child_token();
    let tracker = TaskTracker::new();
    let (failures, mut failed) = mpsc::unbounded_channel::<Error>();
    let run = |work: std::pin::Pin<Box<dyn Future<Output = Result<()>> + Send>>| {
        let (failures, cancel) = (failures.clone(), cancel.clone());
        tracker.spawn(async move {
            let result = tokio::select! {
                () = cancel.cancelled() => return,
                // A panic must not end in a silent dead worker.
                result = tokio::spawn(work) => result.unwrap_or_else(|e| Err(Error::failed(format!("a copy worker died: {e}")))),
            };
            if let Err(e) = result {
                let _ = failures.send(e);
            }
        });
    };
    for n in 0..m.config.index_jobs.max(1) {
        let builder = Builder {
            target: m.config.target.clone(),
            application_name: m.application(&format!("index-{n}")),
            reporter: m.reporter.clone(),
            asker: asker.clone(),
            jobs: jobs.clone(),
            done: done_sender.clone(),
        };
        run(Box::pin(builder.run()));
    }
    drop(done_sender);
    let permits = Arc::new(Semaphore::new(m.config.table_jobs.max(1) as usize));
    let mut table_jobs = m.config.table_jobs.max(1);
    m.reporter.report(Event::JobsChanged { table_jobs, index_jobs: m.config.index_jobs }).await;
    let shared = Arc::new(Shared {
        config: m.config.clone(),
        reporter: m.reporter.clone(),
        asker,
        hypertables: m.plan.hypertables.iter().map(|h| h.table.clone()).collect(),
        prefix: m.application(""),
        horizon,
        jobs: jobs_sender,
        paused,
        permits: permits.clone(),
    });
    run(Box::pin(copy_in_order(shared, todo)));
    let result = loop {
        if left.is_empty() {
            break Ok(());
        }
        tokio::select! {
            biased;
            Some(error) = failed.recv() => break Err(error),
            Some(table) = done.recv() => { left.remove(&table); }
            trouble = desk.next() => match trouble {
                Ok((object, error)) => {
                    let prompt = m.next_prompt(Stage::Copy, PromptKind::Trouble, format!("{object} failed: {error}"), None);
                    m.reporter.report(Event::PromptOpened { prompt }).await;
                }
                Err(e) => break Err(e),
            },
            command = m.command() => match command {
                Err(e) => break Err(e),
                Ok(Command::Pause) => { pause.send_replace(true); m.reporter.report(Event::Paused { paused: true }).await; }
                Ok(Command::Resume) => { pause.send_replace(false); m.reporter.report(Event::Paused { paused: false }).await; }
                Ok(Command::SetJobs { table_jobs: wanted }) => {
                    let wanted = wanted.clamp(1, 64);
                    if wanted > table_jobs {
                        permits.add_permits((wanted - table_jobs) as usize);
                    } else {
                        // Running copies are finished; fewer follow.
                        let take = (table_jobs - wanted) as usize;
                        let permits = permits.clone();
                        tokio::spawn(async move { if let Ok(p) = permits.acquire_many_owned(take as u32).await { p.forget(); } });
                    }
                    table_jobs = wanted;
                    m.reporter.report(Event::JobsChanged { table_jobs, index_jobs: m.config.index_jobs }).await;
                }
                Ok(command) => match desk.answer(&command) {
                    Some(answered) => schema::settled(m, answered).await,
                    None => m.refuse(&command, Stage::Copy).await,
                },
            },
        }
    };
    cancel.cancel();
    tracker.close();
    tracker.wait().await;
    result
}

/// Statements behind the indexes: statistics, comments, views that need a key.
async fn rest_of_indexes(m: &mut Migration, statements: &[Statement]) -> Result<()> {
    let mut session = ddl::Session::new(&m.config.target, m.application("indexes"), "set maintenance_work_mem = '256MB'");
    let executed = ledger::executed(session.client().await?, Phase::PostIndex.word()).await?;
    let stray = ledger::executed(session.client().await?, Phase::Index.word()).await?;
    let (asker, mut desk) = trouble::desk(m.config.interactive);
    let reporter = m.reporter.clone();
    let work = async {
        // Indexes of what is no relation of this migration, such as materialised views.
        for s in statements.iter().filter(|s| s.phase == Phase::Index) {
            ddl::run(&mut session, s, &stray, &reporter, &asker).await?;
        }
        let rest: Vec<&Statement> = statements.iter().filter(|s| s.phase == Phase::PostIndex).collect();
        ddl::run_all(&mut session, &rest, &executed, &reporter, Some(&asker), |_, _| {}).await
    };
    tokio::pin!(work);
    schema::with_desk(m, &mut desk, Stage::Copy, work).await
}

/// Starts the copies one after the other, the largest first, as jobs become free.
async fn copy_in_order(shared: Arc<Shared>, todo: Vec<Task>) -> Result<()> {
    let mut copies = tokio::task::JoinSet::new();
    for task in todo {
        let permit = permit(&shared).await?;
        copies.spawn(copy_relation(shared.clone(), task, permit));
    }
    drop(shared);
    while let Some(copied) = copies.join_next().await {
        // A panic must not end in a silent dead worker.
        copied.unwrap_or_else(|e| Err(Error::failed(format!("a copy worker died: {e}"))))?;
    }
    Ok(())
}

/// Room for one more copy, when copying is not paused.
async fn permit(shared: &Shared) -> Result<OwnedSemaphorePermit> {
    let permit = shared.permits.clone().acquire_owned().await.map_err(|_| Error::stopped())?;
    shared.paused.clone().wait_for(|p| !p).await.map_err(|_| Error::stopped())?;
    Ok(permit)
}

/// Copies one relation, as often as it takes, and hands it on to the indexes.
async fn copy_relation(shared: Arc<Shared>, task: Task, first: OwnedSemaphorePermit) -> Result<()> {
    let table = task.relation.table.clone();
    let mut held = Some(first);
    loop {
        let job = match held.take() {
            Some(permit) => permit,
            None => permit(&shared).await?,
        };
        let mut so_far = (0, 0);
        let error = match attempt(&shared, &task, &mut so_far).await {
            Ok((rows, bytes)) => {
                let _ = shared.jobs.send(Job { table, rows, bytes, statements: task.statements });
                return Ok(());
            }
            Err(e) if e.is_stop() => return Err(e),
            Err(e) => e,
        };
        tracing::warn!(table = %table, %error, "the copy failed");
        if error.is_transient() {
            shared.reporter.notice(Level::Warn, format!("copy {table}: {error}; trying again")).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            continue;
        }
        let event =
            Event::CopyProgress { table: table.clone(), state: TableState::Failed, rows: so_far.0, bytes: so_far.1, error: Some(error.to_string()) };
        shared.reporter.report(event).await;
        // The others go on while the operator thinks.
        drop(job);
        match shared.asker.ask(table.to_string(), error.context("copy")).await? {
            Resolution::Retry => {}
            Resolution::Skip => {
                let target = crate::pg::client::connect(&shared.config.target, Side::Target, &format!("{}copy", shared.prefix)).await?;
                ledger::skip_relation(&target, task.relation.oid).await?;
                let event = Event::CopyProgress { table: table.clone(), state: TableState::Skipped, rows: 0, bytes: 0, error: None };
                shared.reporter.report(event).await;
                let _ = shared.jobs.send(Job { table, rows: 0, bytes: 0, statements: task.statements });
                return Ok(());
            }
        }
    }
}

/// The source's side of a copy: a locked table, and a snapshot that may be used.
struct Opened {
    wire: Wire,
    snapshot: Snapshot,
    at: Lsn,
    columns: Vec<String>,
}

/// Lock, snapshot, L, columns, in this order; again until every transaction that the slot does not stream is visible (I1).
async fn open_source(shared: &Shared, relation: &Relation) -> Result<Opened> {
    let mut shown = false;
    let what = format!("the copy of {}", relation.table);
    loop {
        let mut wire = Wire::open(&shared.config.source, Side::Source, &format!("{}copy-{}", shared.prefix, relation.oid)).await?;
        let lock = format!(
            "begin isolation level repeatable read read only; set local lock_timeout = '{LOCK_TIMEOUT}'; lock table {}{} in access share mode; set local lock_timeout = 0",
            if relation.partitioned { "" } else { "only " },
            relation.table.sql()
        );
        match wire.simple(&lock).await {
            Ok(_) => {}
            Err(e) if e.has_code("55P03") => {
                shared.reporter.notice(Level::Info, format!("{what} waits: the table is locked on the source")).await;
                tokio::time::sleep(Duration::from_secs(1)).await;
                continue;
            }
            Err(e) => return Err(e.context("source")),
        }
        let rows = wire.simple("select pg_current_snapshot()::text, pg_current_wal_insert_lsn()::text").await?;
        // Locked by name, published by OID: they must be the same table still.
        let found = wire.simple(&format!("select to_regclass({})::oid", crate::name::literal(&relation.table.sql()))).await?;
        if found.first().and_then(|r| r[0].as_deref()).and_then(|oid| oid.parse().ok()) != Some(relation.oid) {
            return Err(Error::failed(format!("{} is another table on the source than when the migration began", relation.table))
                .hint("was it dropped and made again, or renamed? Run `hyperlift clean`, empty the target and start again"));
        }
        let field = |n: usize| rows.first().and_then(|r| r.get(n).cloned().flatten()).unwrap_or_default();
        let (snapshot, at): (Snapshot, Lsn) = (field(0).parse()?, field(1).parse()?);
        if snapshot.xmin < shared.horizon {
            drop(wire);
            let watcher = crate::pg::client::connect(&shared.config.source, Side::Source, &format!("{}watch", shared.prefix)).await?;
            let holders = catalog::holders(&watcher, Some(shared.horizon)).await?;
            if holders.is_empty() {
                // Nobody holds it back: the counter itself stands below, as it may after a crash of the source. This moves it on.
                crate::pg::slot::horizon(&watcher).await?;
            }
            slot::show(&shared.reporter, &what, holders, &mut shown).await;
            tokio::time::sleep(Duration::from_millis(500)).await;
            continue;
        }
        slot::show(&shared.reporter, &what, Vec::new(), &mut shown).await;
        let columns = wire.simple(&catalog::COPIED_COLUMNS.replace("$OID", &relation.oid.to_string())).await?;
        let columns: Vec<String> = columns.into_iter().filter_map(|mut r| r.swap_remove(0)).collect();
        return Ok(Opened { wire, snapshot, at, columns });
    }
}

/// One attempt: the whole relation under one snapshot into one transaction of the target, with its ledger row. `so_far` is rows and bytes.
async fn attempt(shared: &Shared, task: &Task, so_far: &mut (u64, u64)) -> Result<(u64, u64)> {
    let relation = &task.relation;
    let table = &relation.table;
    let report = |state, rows, bytes| Event::CopyProgress { table: table.clone(), state, rows, bytes, error: None };
    let mut source = open_source(shared, relation).await?;
    shared.reporter.report(report(TableState::Copying, 0, 0)).await;
    let mut target = Wire::open(&shared.config.target, Side::Target, &format!("{}copy-{}", shared.prefix, relation.oid)).await?;
    let only = if relation.partitioned || shared.hypertables.contains(table) { "" } else { "only " };
    // What a killed run left is undone together with its ledger rows; the lock waits for its session's end.
    target
        .simple(&format!("begin; truncate table {only}{}; {}", table.sql(), ledger::forget_copy(relation.oid)))
        .await
        .map_err(|e| e.context("target"))?;
    let list = idents(&source.columns);
    let (mut rows_out, mut bytes) = (0, 0);
    if relation.columns.is_empty() && source.columns.is_empty() {
        // A table without columns still has rows, and COPY cannot name no columns.
        rows_out = copy_empty_rows(&mut source.wire, &mut target, relation).await?;
    } else {
        let from = if relation.partitioned { format!("(select {list} from {})", table.sql()) } else { format!("{} ({list})", table.sql()) };
        source.wire.copy_out(&format!("copy {from} to stdout")).await.map_err(|e| e.context("source"))?;
        target.copy_in(&format!("copy {} ({list}) from stdin", table.sql())).await.map_err(|e| e.context("target"))?;
        let mut last = Instant::now();
        let copied = pipe_copy(&mut source.wire, &mut target, &mut |bytes, rows| {
            *so_far = (rows, bytes);
            if last.elapsed() >= PROGRESS_EVERY {
                last = Instant::now();
                shared.reporter.progress(report(TableState::Copying, rows, bytes));
            }
        })
        .await?;
        if copied.rows_in != copied.rows_out {
            return Err(Error::new(Kind::Differs, format!("{} rows were read but {} were written", copied.rows_out, copied.rows_in))
                .hint("does a trigger or a rule of the target drop rows? Take it away and retry"));
        }
        rows_out += copied.rows_in;
        bytes += copied.bytes;
    }
    *so_far = (rows_out, bytes);
    wait_durable(&mut source).await?;
    target
        .simple(&format!("{}; commit", ledger::record_copy(relation.oid, rows_out, bytes, &source.snapshot, source.at)))
        .await
        .map_err(|e| e.context("target"))?;
    source.wire.simple("commit").await.ok();
    Ok((rows_out, bytes))
}

/// Zero columns: as many rows as the source has.
async fn copy_empty_rows(source: &mut Wire, target: &mut Wire, relation: &Relation) -> Result<u64> {
    let rows = source.simple(&format!("select count(*) from {}", relation.table.sql())).await?;
    let count: u64 = rows.first().and_then(|r| r[0].as_deref()).and_then(|n| n.parse().ok()).unwrap_or(0);
    for _ in 0..count {
        target.simple(&format!("insert into {} default values", relation.table.sql())).await?;
    }
    Ok(count)
}

/// I3: what was copied must be durable on the source before it counts. The session that took the snapshot still lives, so the server
/// has not crashed in between.
async fn wait_durable(source: &mut Opened) -> Result<()> {
    loop {
        let rows = source.wire.simple("select pg_current_wal_flush_lsn()::text").await.map_err(|e| e.context("source"))?;
        let flushed: Lsn = rows.first().and_then(|r| r[0].as_deref()).unwrap_or_default().parse()?;
        if flushed >= source.at {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
