//! Stage 6: replay of what was spooled, until the operator (or a quiet source) says cutover. ANALYZE runs below the lag threshold.

mod gates;
mod lag;
mod slow;
mod tally;

pub use tally::differences;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{copy::Replication, cutover, schema};
use crate::{
    config::OnConflict,
    error::{Error, Result},
    event::{Command, Event, Gate, LaneStatus, Level, PromptKind, Stage, StageState},
    lsn::{Lsn, Position},
    migration::Migration,
    name::TableName,
    pg::{
        catalog,
        client::Client,
        dump::{Phase, Statement},
        ledger::{self, RelationState},
        slot,
        target::{self, TableKind},
        timescale,
    },
    replay::{
        lane::{self, Lane, Resolution, Shared},
        relation::{Counters, Relation},
        router::{self, BarrierRequest, LANE_QUEUE, Router},
    },
    scope::Scope,
    state::between,
};

/// A source that does not answer within this time is looked at again later.
const LOOK: Duration = Duration::from_secs(3);
const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// The running replay.
pub struct Replay {
    pub replication: Replication,
    relations: Arc<Vec<Relation>>,
    lanes: Vec<watch::Receiver<lane::Progress>>,
    counters: Vec<tally::Tally>,
    router: watch::Receiver<router::Progress>,
    barriers: mpsc::Sender<BarrierRequest>,
    paused: watch::Sender<bool>,
    trouble: mpsc::Receiver<lane::Trouble>,
    /// Tables whose DDL was followed.
    reshapes: mpsc::UnboundedReceiver<router::Reshaped>,
    failures: mpsc::UnboundedReceiver<Error>,
    /// Troubles that wait for the operator, by the name of their table.
    open: HashMap<String, (Option<TableName>, Vec<oneshot::Sender<Resolution>>)>,
    /// Tables of which the operator has accepted that they differ: other lanes need not ask again.
    accepted: HashSet<TableName>,
    tasks: TaskTracker,
    cancel: CancellationToken,
    /// For looking at the source.
    source: Client,
    analyze: Analyze,
    probe: Option<(Lsn, Instant)>,
    round_trip: Option<Duration>,
    last_write: (Lsn, Instant),
    slot_checked: Option<Instant>,
    slot: Option<slot::Slot>,
    /// Prepared transactions of the source database: their commits would come after the cutover. `None`: not looked at yet.
    prepared: Option<i64>,
    /// What has changed in the source's schema since the copy.
    altered: Option<String>,
    /// Lanes that are held up, as it was last said.
    held_up: Option<String>,
    /// Where the stream begins: nothing before it is owed to the target.
    start: Lsn,
    /// Where the source stood, and when.
    history: lag::History,
    pub lag: Option<u64>,
}

/// Where replay stands: everything before is applied.
struct Applied {
    lanes: Vec<Lsn>,
    /// The slowest of them.
    all: Lsn,
}

enum Analyze {
    NotYet,
    Running(watch::Receiver<bool>),
    Done,
}

/// Starts router and lanes where they stood.
pub async fn start(m: &mut Migration, replication: Replication) -> Result<Replay> {
    m.enter(Stage::CatchUp).await;
    let started = async {
        let source = m.source("lag").await?;
        let router_source = m.source("router").await?;
        let target = m.target("catch-up").await?;
        let path = ledger::migration(&target).await?.map_or_else(String::new, |known| known.path());
        let replayed = replayed(&target, &replication).await?;
        // Worth no failure.
        let suspects = slow::suspects(&source, &target, &replication.relations, &replayed.relations).await.unwrap_or_default();
        let scanned = if suspects.is_empty() { None } else { slow::rows_scanned(&target, &suspects).await.ok() };
        Ok::<_, Error>((source, router_source, path, replayed, suspects, scanned))
    };
    let (source, router_source, path, replayed, suspects, scanned) = match started.await {
        Ok(found) => found,
        Err(e) => {
            replication.watcher.abort();
            replication.receiver.stop().await.ok();
            return Err(e);
        }
    };
    let Replayed { relations, names, positions, leaves, missed } = replayed;
    let relations = Arc::new(relations);
    let cancel = m.cancel.child_token();
    let tasks = TaskTracker::new();
    let (failure, failures) = mpsc::unbounded_channel();
    let (trouble_sender, trouble) = mpsc::channel(64);
    let (counter_senders, counters): (Vec<_>, Vec<_>) = relations.iter().map(|_| watch::channel(Counters::default())).unzip();
    let shared = Shared {
        target: m.config.target.clone(),
        migration: m.record.id.clone(),
        path,
        relations: relations.clone(),
        trouble: trouble_sender,
        counters: Arc::new(counter_senders),
        on_conflict: match m.config.on_conflict {
            OnConflict::Stop => lane::ConflictPolicy::Stop,
            OnConflict::Count => lane::ConflictPolicy::Count,
        },
        in_order: false,
        spreading: lane::Spreading::Hot,
        cancel: cancel.clone(),
    };
    let (mut feeds, mut lanes) = (Vec::new(), Vec::new());
    for (number, position) in positions.iter().enumerate() {
        let (feed, fed) = mpsc::channel(LANE_QUEUE);
        let (progress, seen) = watch::channel(lane::Progress { position: *position, durable: position.lsn, ..lane::Progress::default() });
        let lane = Lane::new(number as u32, *position, shared.clone(), fed, progress);
        watched(&tasks, &failure, format!("replay lane {number}"), lane.run());
        feeds.push(feed);
        lanes.push(seen);
    }
    let (barriers, requests) = mpsc::channel(4);
    let (paused, pausing) = watch::channel(false);
    let (router_progress, router) = watch::channel(router::Progress::default());
    let (reshaped, reshapes) = mpsc::unbounded_channel();
    for (relation, was) in relations.iter().zip(names).filter(|(relation, was)| relation.table != *was) {
        // Renamed on both sides since the last run.
        let columns = m.record.shapes.values().find(|s| s.oid == relation.oid).map_or_else(Vec::new, |s| s.columns.clone());
        let _ = reshaped.send(router::Reshaped { oid: relation.oid, before: was, now: relation.table.clone(), columns });
    }
    let router_task = Router {
        shared,
        lanes: feeds,
        positions,
        spool_dir: m.work.spool(),
        receiver: replication.receiver.status.clone(),
        progress: router_progress,
        barriers: requests,
        paused: pausing,
        source: router_source,
        source_info: m.config.source.clone(),
        leaves,
        partitions: m.record.partitions.clone(),
        shapes: m.record.shapes.values().map(|s| (s.oid, s.columns.clone())).collect(),
        reshaped,
    };
    watched(&tasks, &failure, "the replay router".into(), router_task.run());
    if !suspects.is_empty() {
        let watch = slow::Watch {
            suspects,
            counters: counters.clone(),
            lanes: lanes.clone(),
            target: m.config.target.clone(),
            application: m.application("slow-tables"),
            reporter: m.reporter.clone(),
        };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(watch.run(scanned)));
    }
    let counters = tally::begin(m, &relations, &missed, counters).await;
    Ok(Replay {
        replication,
        relations,
        lanes,
        counters,
        router,
        barriers,
        paused,
        trouble,
        reshapes,
        failures,
        open: HashMap::new(),
        accepted: HashSet::new(),
        tasks,
        cancel,
        source,
        analyze: Analyze::NotYet,
        probe: None,
        round_trip: None,
        last_write: (Lsn::ZERO, Instant::now()),
        slot_checked: None,
        slot: None,
        prepared: None,
        altered: None,
        held_up: None,
        start: m.record.slot.unwrap_or_default(),
        history: lag::History::default(),
        lag: None,
    })
}

/// A worker whose error, or panic, reaches the stage.
fn watched(tasks: &TaskTracker, failure: &mpsc::UnboundedSender<Error>, name: String, work: impl Future<Output = Result<()>> + Send + 'static) {
    let failure = failure.clone();
    tasks.spawn(async move {
        let result = tokio::spawn(work).await.unwrap_or_else(|e| Err(Error::failed(format!("it died: {e}"))));
        if let Err(e) = result
            && !e.is_stop()
        {
            let _ = failure.send(e.context(name));
        }
    });
}

/// What is replayed, and from where on.
struct Replayed {
    /// As they were copied, with the shape of their tables on the target.
    relations: Vec<Relation>,
    /// What they were called when the last run ended.
    names: Vec<TableName>,
    /// Where each lane stands.
    positions: Vec<Position>,
    /// Of partitioned tables, with the index of their relation.
    leaves: HashMap<TableName, usize>,
    /// Changes that were not applied so far, by OID.
    missed: HashMap<u32, u64>,
}

async fn replayed(client: &Client, replication: &Replication) -> Result<Replayed> {
    let entries = ledger::relations(client).await?;
    let timescale = timescale::inspect(client).await?.installed.is_some();
    // Under the names that they have on the target: the source's may be others by now, and then replay stops at the right place.
    let targets: Vec<u32> = entries.values().filter_map(|e| e.target_oid).collect();
    let called = catalog::names_of(client, &targets).await?;
    let table_of = |entry: &ledger::RelationEntry| entry.target_oid.and_then(|oid| called.get(&oid)).unwrap_or(&entry.table).clone();
    let tables: Vec<TableName> = replication.relations.iter().filter_map(|r| entries.get(&r.oid)).map(table_of).collect();
    let mut shapes = target::target_tables(client, &tables, timescale).await?;
    let (mut relations, mut names) = (Vec::new(), Vec::new());
    for r in &replication.relations {
        let Some(entry) = entries.get(&r.oid) else { continue };
        let (snapshot, copied_at, skipped) = match &entry.state {
            RelationState::Copied { snapshot, at } => (snapshot.clone(), *at, false),
            RelationState::Skipped => (crate::pg::snapshot::Snapshot::default(), Lsn::ZERO, true),
            RelationState::Planned => {
                return Err(Error::failed(format!("{} is not copied yet", r.table)).hint("start hyperlift again: it goes on with the copy"));
            }
        };
        let table = table_of(entry);
        let Some(shape) = shapes.remove(&table) else {
            if skipped {
                continue;
            }
            return Err(Error::failed(format!("{} is gone from the target", r.table)).hint("who dropped it? Run `hyperlift clean` and start again"));
        };
        names.push(entry.table.clone());
        relations.push(Relation { oid: r.oid, table, lane: entry.lane, snapshot, copied_at, skipped, target: shape, spread: entry.spread });
    }
    let positions = ledger::lane_positions(client).await?;
    let lanes = ledger::migration(client).await?.map_or(1, |l| l.lanes) as usize;
    if positions.len() != lanes {
        return Err(Error::failed(format!("the target has positions of {} lanes instead of {lanes}", positions.len()))
            .hint("was schema _hyperlift changed? Run `hyperlift clean` and start again"));
    }
    let mut leaves = HashMap::new();
    for (index, relation) in relations.iter().enumerate().filter(|(_, r)| r.target.kind == TableKind::Partitioned) {
        leaves.extend(catalog::leaves(client, &relation.table).await?.into_iter().map(|leaf| (leaf, index)));
    }
    let missed = entries.values().map(|e| (e.oid, e.missed)).collect();
    Ok(Replayed { relations, names, positions, leaves, missed })
}

/// What happened while replay was driven.
pub enum Driven<T> {
    Done(T),
    /// A command that is not about replay's own troubles.
    Command(Command),
}

impl Replay {
    /// Runs a future while replay is watched: samples, troubles, failures, commands.
    pub async fn drive<T>(&mut self, m: &mut Migration, work: &mut (impl Future<Output = Result<T>> + Unpin)) -> Result<Driven<T>> {
        let mut tick = tokio::time::interval(SAMPLE_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                Some(error) = self.failures.recv() => return Err(error),
                Some(trouble) = self.trouble.recv() => self.show_trouble(m, trouble).await?,
                Some(reshaped) = self.reshapes.recv() => self.follow(m, reshaped).await?,
                result = &mut *work => return result.map(Driven::Done),
                command = m.command() => {
                    let command = command?;
                    if !self.answer_trouble(m, &command).await {
                        return Ok(Driven::Command(command));
                    }
                }
                _ = tick.tick() => self.sample(m).await?,
            }
        }
    }

    async fn show_trouble(&mut self, m: &mut Migration, trouble: lane::Trouble) -> Result<()> {
        let table = trouble.target.map(|t| self.relations[t].table.clone());
        if trouble.sql.is_none() && table.as_ref().is_some_and(|t| self.accepted.contains(t)) {
            let _ = trouble.answer.send(Resolution::Accept);
            return Ok(());
        }
        if !m.config.interactive {
            let mut error = trouble.error.context("replay");
            // A missing partition or column is to be mended, not counted.
            if table.is_some() && (error.sqlstate.is_none() || error.has_code("23505")) {
                let hint = error.hint.map(|h| h + "; ").unwrap_or_default();
                error.hint = Some(hint + "or start with --on-conflict count, which counts such changes and goes on");
            }
            return Err(error);
        }
        let object = table.as_ref().map_or_else(|| format!("lane {}", trouble.lane), ToString::to_string);
        let event = match (&table, &trouble.sql) {
            (Some(table), None) => Event::Diverged { table: table.clone(), reason: trouble.error.to_string() },
            (_, sql) => Event::StatementFailed {
                object: object.clone(),
                message: trouble.error.message.clone(),
                sqlstate: trouble.error.sqlstate.clone(),
                sql: sql.clone().unwrap_or_default(),
            },
        };
        // The error of a change names its row, which the journal alone may have.
        let told = if trouble.sql.is_some() { trouble.error.message.as_str() } else { "a change waits for the operator" };
        tracing::error!(object, sqlstate = trouble.error.sqlstate, "{told}");
        m.reporter.report(event).await;
        let text = match &trouble.sql {
            None => format!("{object}: {} Retry (r), or accept that this table differs (K).", trouble.error),
            Some(sql) => format!("{}. Run on the target: {}; then retry (r), or go on as it is (K).", trouble.error, sql.replace('\n', " ")),
        };
        self.open.entry(object.clone()).or_insert_with(|| (table, Vec::new())).1.push(trouble.answer);
        m.open_trouble(Stage::CatchUp, &object, text).await;
        Ok(())
    }

    /// A table of the target was altered as its source was: what is compared from now on.
    async fn follow(&mut self, m: &mut Migration, reshaped: router::Reshaped) -> Result<()> {
        let router::Reshaped { oid, before, now, columns } = reshaped;
        let fresh = tokio::time::timeout(LOOK, catalog::shapes(&self.source, &Scope::default())).await.ok().and_then(Result::ok).unwrap_or_default();
        m.record.shapes.retain(|_, shape| shape.oid != oid);
        let names = |shape: &[catalog::ShapeColumn]| {
            shape.iter().filter(|c| !c.generated).map(|c| (c.name.clone(), c.type_oid, c.type_modifier)).collect::<std::collections::BTreeSet<_>>()
        };
        // The source may be further than the stream; then the next change of the table tells.
        let shape = fresh.into_iter().find(|(_, shape)| shape.oid == oid && names(&shape.columns) == names(&columns));
        let (name, shape) = shape.unwrap_or_else(|| (now.to_string(), catalog::Shape { oid, columns, leaves: Vec::new() }));
        m.record.shapes.insert(name, shape);
        m.save()?;
        ledger::rename_relation(&m.target("catch-up").await?, oid, &now).await?;
        let relations = Arc::make_mut(&mut self.relations);
        relations.iter_mut().filter(|r| r.oid == oid).for_each(|r| r.table = now.clone());
        self.slot_checked = None;
        // Triggers, foreign keys and grants, too, are as the source has them now.
        let fresh = m.unless_stopped(schema::dump(m)).await?.statements;
        let ours = |s: &Statement| s.table.as_ref().is_none_or(|t| self.relations.iter().any(|r| r.table == *t));
        let fresh = fresh.into_iter().filter(|s| s.phase >= Phase::Cutover && ours(s));
        let statements: Vec<_> = cutover::statements(m)?.into_iter().filter(|s| s.phase < Phase::Cutover).chain(fresh).collect();
        cutover::keep_statements(m, &statements)?;
        let text =
            if before == now { format!("{now}: replay goes on with its new columns") } else { format!("{before} is {now} now: replay goes on") };
        m.notice(Level::Info, text).await;
        Ok(())
    }

    async fn answer_trouble(&mut self, m: &mut Migration, command: &Command) -> bool {
        let (object, resolution) = match command {
            Command::Retry { object } => (object, Resolution::Retry),
            Command::Skip { object } => (object, Resolution::Accept),
            _ => return false,
        };
        let Some((table, answers)) = self.open.remove(object) else { return false };
        for answer in answers {
            let _ = answer.send(resolution);
        }
        if resolution == Resolution::Accept {
            self.accepted.extend(table.clone());
        }
        if let Some(table) = table {
            if resolution == Resolution::Accept {
                m.record.missed.entry(table.to_string()).or_default();
                if let Err(e) = m.save() {
                    m.notice(Level::Warn, e.to_string()).await;
                }
            }
            m.reporter.report(Event::DivergenceSettled { table, accepted: resolution == Resolution::Accept }).await;
        }
        m.close_trouble(object, resolution == Resolution::Retry).await;
        true
    }

    /// Where each lane stands, and replay as a whole.
    fn applied(&self) -> Applied {
        // The lanes first: what is received meanwhile must not count as theirs.
        let lanes: Vec<Lsn> = self.lanes.iter().map(|l| l.borrow().position.lsn.max(self.start)).collect();
        let status = self.replication.receiver.status.borrow();
        let (quiet, needs) = status.quiet;
        let nothing_under_way = status.end.lsn >= needs && self.router.borrow().routed >= status.end.lsn;
        // A lane that has applied all that came is level: what the source wrote since is not for us.
        let lanes: Vec<Lsn> = lanes.into_iter().map(|lsn| if nothing_under_way && lsn >= status.end.lsn { lsn.max(quiet) } else { lsn }).collect();
        Applied { all: lanes.iter().min().copied().unwrap_or(self.start), lanes }
    }

    /// Everything up to `lsn` is received, spooled and applied by all lanes, which then stood still together.
    pub fn barrier(&self, lsn: Lsn) -> impl Future<Output = Result<()>> + use<> {
        let (reached, answer) = oneshot::channel();
        let barriers = self.barriers.clone();
        let mut receiver = self.replication.receiver.reacher();
        Box::pin(async move {
            receiver.reach(lsn).await?;
            let gone = || Error::failed("the replay router has ended").hint("see the log for the reason");
            barriers.send(BarrierRequest { lsn, reached }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())
        })
    }

    async fn sample(&mut self, m: &mut Migration) -> Result<()> {
        let asked = Instant::now();
        let (source, source_time) = match tokio::time::timeout(LOOK, catalog::flushed_lsn_and_time(&self.source)).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) if !e.is_transient() => return Err(e.context("source")),
            _ => {
                // The receiver tells of the broken source; here it is only looked at again.
                if let Ok(Ok(fresh)) = tokio::time::timeout(LOOK, m.source("lag")).await {
                    self.source = fresh;
                }
                return Ok(());
            }
        };
        if self.replication.receiver.has_ended() {
            let why = self.replication.receiver.status.borrow().broken.clone().unwrap_or_default();
            return Err(Error::failed(format!("receiving has ended: {why}")).hint("mend the cause and start hyperlift again: it continues"));
        }
        let Applied { all: applied, lanes: stand } = self.applied();
        let status = self.replication.receiver.status.borrow().clone();
        let durable = self.lanes.iter().map(|l| l.borrow().durable).min().unwrap_or_default();
        self.replication.receiver.applied(durable);
        self.history.note(source, asked);
        self.history.forget_before(durable);
        self.measure_round_trip(source, applied);
        if status.last_write() != self.last_write.0 {
            self.last_write = (status.last_write(), Instant::now());
        }
        let lag = source.since(applied);
        self.lag = Some(lag);
        let last_commit = self.router.borrow().last_commit;
        let (now, since_commit) = (Instant::now(), last_commit.map(|at| between(at, source_time)));
        let behind = |lsn: Lsn| self.history.behind(lsn, now, since_commit).map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let lane = |(i, (progress, applied)): (usize, (&watch::Receiver<lane::Progress>, Lsn))| {
            let p = progress.borrow();
            LaneStatus {
                lane: i as u32,
                applied,
                lag: source.since(applied),
                lag_ms: behind(applied),
                waiting: p.waiting,
                held_up: p.held_up.clone(),
            }
        };
        let lanes = self.lanes.iter().zip(stand).enumerate().map(lane).collect();
        let changes = self.lanes.iter().map(|l| l.borrow().changes).sum();
        let (lag_ms, source_time) = (behind(applied), Some(source_time));
        m.reporter.report(Event::Replayed { source, received: status.heard, applied, lag, lag_ms, changes, last_commit, source_time, lanes }).await;
        self.tell_counters(m).await?;
        if self.slot_checked.is_none_or(|t| t.elapsed() > Duration::from_secs(5)) {
            self.slot_checked = Some(Instant::now());
            self.slot = slot::slot(&self.source, &slot::Names::of(&m.record.id).slot).await.unwrap_or(None);
            self.look_at_the_source(m).await;
            if let Some(s) = &self.slot {
                m.reporter.report(Event::SlotChecked { wal_status: s.wal_status.clone(), safe_wal_bytes: s.safe_wal_bytes }).await;
            }
        }
        self.analyze_when_near(m, lag).await;
        m.reporter.report(Event::GatesChecked { gates: self.gates(m) }).await;
        Ok(())
    }

    /// Waits, in catch-up, until the cutover is confirmed.
    pub async fn wait_for_cutover(&mut self, m: &mut Migration) -> Result<()> {
        let mut prompt = None;
        let mut announced = false;
        loop {
            let mut pause = Box::pin(async {
                tokio::time::sleep(SAMPLE_EVERY).await;
                Ok(())
            });
            let driven = self.drive(m, &mut pause).await?;
            let gates = self.gates(m);
            let closed = gates.iter().find(|g| g.hard && !g.passed);
            match driven {
                Driven::Done(()) => {
                    let analyzed = matches!(self.analyze, Analyze::Done);
                    if m.config.cutover_when_ready && prompt.is_none() {
                        if closed.is_none() && analyzed && self.altered.is_none() && self.last_write.1.elapsed() >= m.config.quiet_for {
                            return Ok(());
                        }
                    } else if !m.config.interactive && !m.config.cutover_when_ready && closed.is_none() && analyzed && !announced {
                        announced = true;
                        m.notice(
                            Level::Info,
                            "ready for the cutover: start again with --cutover-when-ready, or open the dashboard on this directory",
                        )
                        .await;
                    }
                    // The box follows the gates.
                    if let Some(id) = prompt {
                        let fresh = cutover_prompt(id, closed);
                        m.reporter.report(Event::PromptOpened { prompt: fresh }).await;
                    }
                }
                Driven::Command(Command::OpenCutover) => {
                    let opened = m.next_prompt(Stage::Cutover, PromptKind::Cutover, String::new(), None);
                    prompt = Some(opened.id);
                    m.reporter.report(Event::PromptOpened { prompt: cutover_prompt(opened.id, closed) }).await;
                }
                Driven::Command(Command::AbortCutover) => {
                    if let Some(id) = prompt.take() {
                        m.reporter.report(Event::PromptClosed { id }).await;
                    }
                }
                Driven::Command(Command::ConfirmCutover { prompt: answered }) => match (prompt, closed) {
                    (Some(id), None) if id == answered => {
                        m.reporter.report(Event::PromptClosed { id }).await;
                        return Ok(());
                    }
                    (Some(id), Some(gate)) if id == answered => {
                        let why = format!("{}: {}", gate.name, gate.detail);
                        m.reporter.report(Event::CommandRefused { command: "cutover".into(), why }).await;
                    }
                    _ => {}
                },
                Driven::Command(Command::Pause) => {
                    self.paused.send_replace(true);
                    m.reporter.report(Event::Paused { paused: true }).await;
                }
                Driven::Command(Command::Resume) => {
                    self.paused.send_replace(false);
                    m.reporter.report(Event::Paused { paused: false }).await;
                }
                Driven::Command(other) => m.refuse(&other, Stage::CatchUp).await,
            }
        }
    }

    /// A paused replay would never drain.
    pub async fn resume(&self, m: &Migration) {
        if self.paused.send_replace(false) {
            m.reporter.report(Event::Paused { paused: false }).await;
        }
    }

    pub fn counts(&self) -> (u64, u64) {
        (self.relations.iter().filter(|r| !r.skipped).count() as u64, self.lanes.iter().map(|l| l.borrow().changes).sum())
    }

    /// Ends router and lanes; the receiver goes on.
    pub async fn stop(mut self, m: &mut Migration) -> Replication {
        self.cancel.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        // What they did last.
        if let Err(e) = self.tell_counters(m).await {
            m.notice(Level::Error, e.to_string()).await;
        }
        // A run that was killed may have missed more than it told of.
        if let Ok(Err(e)) = tokio::time::timeout(LOOK, tally::settle(m)).await {
            tracing::warn!(error = %e, "the ledger was not asked for missed changes");
        }
        self.replication
    }
}

fn cutover_prompt(id: u64, closed: Option<&Gate>) -> crate::event::Prompt {
    crate::event::Prompt {
        id,
        stage: Stage::Cutover,
        kind: PromptKind::Cutover,
        // The box says it all.
        text: String::new(),
        blocked_by: closed.map(|g| format!("{}: {}", g.name, g.detail)),
    }
}

/// Verification comes later; its stage says so.
pub async fn skip_verify(m: &Migration) {
    m.reporter.report(Event::StageChanged { stage: Stage::Verify, state: StageState::Skipped }).await;
}
