//! A lane: one replay worker with its own connection to the target. It collects changes into a batch, applies it in one transaction
//! together with its own position, by compare-and-set (I6), and goes on.
//!
//! A batch is applied as sets; a relation whose set fails is done again change by change, so that the row can be named (I8).

mod session;

use std::{
    collections::{HashMap, HashSet},
    fmt::Write as _,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::session::{Mode, Modes, Refusal, Session};
use super::{
    apply,
    change::Change,
    relation::{Counters, Relation},
};
use crate::{
    error::{Error, Kind, Result},
    lsn::{Lsn, Position},
    pg::conninfo::Conninfo,
};

/// A batch is applied when it has this many changes, or takes so many bytes, or is so old; a transaction that touches a deferrable
/// constraint stays whole.
const BATCH_CHANGES: usize = 32_768;
const BATCH_BYTES: usize = 4 << 20;
const BATCH_AGE: Duration = Duration::from_secs(2);
/// A relation whose set has failed goes in order for so many batches.
const IN_ORDER_BATCHES: u32 = 8;
/// A batch that takes this long, and this long a change, is looked into, and not too often.
const SLOW_BATCH: Duration = Duration::from_secs(2);
const SLOW_CHANGE: Duration = Duration::from_micros(150);
const LOOK_EVERY: Duration = Duration::from_secs(20);
/// A lane without changes writes its position this often.
const IDLE_POSITION_EVERY: Duration = Duration::from_secs(10);

/// What the router sends.
pub enum Feed {
    /// Changes in their order, and the room that they take in the queues. With an LSN, all changes of this lane that were committed
    /// before it were sent.
    Changes(Vec<Change>, OwnedSemaphorePermit, Option<Lsn>),
    /// Apply what there is, also in the middle of a transaction: the room in the queues is needed.
    Flush,
    /// All changes of this lane that were committed before this LSN were sent.
    UpTo(Lsn),
    /// Apply what there is, write the position, then answer and wait for the next message.
    Barrier(oneshot::Sender<Position>),
    /// At a barrier: something is done for all lanes, which move to `to`, in one transaction.
    Together(Box<Together>),
    /// At a barrier: another lane's transaction has moved this lane here.
    Moved(Position),
    /// At a barrier: the tables have another shape now.
    Reshaped(Arc<Vec<Relation>>),
}

/// What one lane does while all others wait: a TRUNCATE of the stream, or another division of the work.
pub struct Together {
    pub statements: Vec<String>,
    /// Relations that are truncated.
    pub targets: Vec<usize>,
    pub lanes: Vec<(u32, Position)>,
    pub to: Position,
    pub done: oneshot::Sender<()>,
}

/// What a lane tells about itself. Absolute values.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// Everything before it is applied.
    pub position: Position,
    /// Recorded on the target, durably: the spool below it may go.
    pub durable: Lsn,
    pub waiting: bool,
    pub changes: u64,
    /// Why it has not come further for some seconds, although it tries: the target is down, full or locked.
    pub held_up: Option<String>,
}

/// A change that the target refused, or that found no row. The lane waits for an answer.
pub struct Trouble {
    pub lane: u32,
    /// Index of the relation; `None` for trouble of the whole lane.
    pub target: Option<usize>,
    /// What has to run on the target before it is tried again.
    pub sql: Option<String>,
    pub error: Error,
    pub answer: oneshot::Sender<Resolution>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    Retry,
    /// The operator accepts that this relation differs: changes that fail are counted, not applied.
    Accept,
}

/// What is done about a change that finds no row, or collides (I9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The lane stops and the operator is asked.
    #[default]
    Stop,
    /// The change is counted as missed, and replay goes on.
    Count,
}

/// Whether the keys of one relation are spread over all lanes, where that is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spreading {
    /// When it has most of a stream that lanes cannot keep up with.
    #[default]
    Hot,
    /// At once.
    All,
    Never,
}

/// What all lanes share.
#[derive(Clone)]
pub struct Shared {
    pub target: Conninfo,
    pub migration: String,
    pub relations: Arc<Vec<Relation>>,
    pub trouble: mpsc::Sender<Trouble>,
    /// Counters of the relations, by index; each lane writes its own relations' only.
    pub counters: Arc<Vec<watch::Sender<Counters>>>,
    pub on_conflict: ConflictPolicy,
    /// Never sets: every change by itself, in order.
    pub in_order: bool,
    pub spreading: Spreading,
    pub cancel: CancellationToken,
}

pub struct Lane {
    number: u32,
    shared: Shared,
    feed: mpsc::Receiver<Feed>,
    progress: watch::Sender<Progress>,
    session: Session,
    /// Durable on the target.
    position: Position,
    /// Everything before this was sent to the lane.
    seen: Position,
    written_at: Instant,
    accepted: HashSet<usize>,
    /// Batches for which these relations are not applied as sets.
    in_order: HashMap<usize, u32>,
    no_sets: bool,
    changes: u64,
    /// When statistics of the target were looked at.
    looked_at: Option<Instant>,
}

/// Changes that are applied together.
#[derive(Default)]
struct Batch {
    changes: Vec<Change>,
    bytes: usize,
    deferrable: bool,
    permits: Vec<OwnedSemaphorePermit>,
    since: Option<Instant>,
}

impl Batch {
    fn is_full(&self) -> bool {
        let old = || self.since.is_some_and(|t| t.elapsed() >= BATCH_AGE);
        !self.deferrable && (self.changes.len() >= BATCH_CHANGES || self.bytes >= BATCH_BYTES || old())
    }
}

/// How long passing trouble has lasted.
struct Patience {
    delay: Duration,
    tries: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self { delay: Duration::from_millis(100), tries: 0 }
    }
}

impl Lane {
    pub fn new(number: u32, position: Position, shared: Shared, feed: mpsc::Receiver<Feed>, progress: watch::Sender<Progress>) -> Self {
        Self {
            number,
            session: Session::new(number, shared.clone()),
            shared,
            feed,
            progress,
            position,
            seen: position,
            written_at: Instant::now(),
            accepted: HashSet::new(),
            in_order: HashMap::new(),
            no_sets: false,
            changes: 0,
            looked_at: None,
        }
    }

    /// Applies what is fed until the feed ends or the lane is cancelled.
    pub async fn run(mut self) -> Result<()> {
        let cancel = self.shared.cancel.clone();
        tokio::select! {
            // A batch that is under way is dropped with its connection: the target rolls it back.
            () = cancel.cancelled() => Ok(()),
            result = self.work() => result,
        }
    }

    async fn work(&mut self) -> Result<()> {
        let mut batch = Batch::default();
        loop {
            let message = match self.feed.try_recv() {
                Ok(message) => message,
                Err(mpsc::error::TryRecvError::Empty) => {
                    // Nothing waits: at a transaction's end what there is goes out at once.
                    if !batch.changes.is_empty() && self.seen.change == 0 {
                        self.apply(&mut batch).await?;
                        continue;
                    }
                    self.tell(batch.changes.is_empty());
                    match self.feed.recv().await {
                        Some(message) => message,
                        None => return self.apply(&mut batch).await,
                    }
                }
                Err(mpsc::error::TryRecvError::Disconnected) => return self.apply(&mut batch).await,
            };
            match message {
                Feed::Changes(changes, permit, up_to) => {
                    for change in changes {
                        // A session of before, that committed late, may have applied it (C-30).
                        if change.position <= self.position {
                            continue;
                        }
                        self.seen = self.seen.max(change.position);
                        batch.bytes += change.bytes();
                        batch.deferrable |= self.shared.relations[change.target].target.deferrable;
                        batch.changes.push(change);
                    }
                    if let Some(lsn) = up_to {
                        self.seen = self.seen.max(Position::after(lsn));
                    }
                    batch.since.get_or_insert_with(Instant::now);
                    // A transaction that has to stay whole must not wait for the room that it takes itself.
                    if !batch.deferrable {
                        batch.permits.push(permit);
                    }
                    if batch.is_full() || (self.seen.change == 0 && (batch.changes.len() >= BATCH_CHANGES || batch.bytes >= BATCH_BYTES)) {
                        self.apply(&mut batch).await?;
                    }
                }
                Feed::UpTo(lsn) => {
                    self.seen = self.seen.max(Position::after(lsn));
                    if batch.changes.is_empty() {
                        if self.written_at.elapsed() >= IDLE_POSITION_EVERY {
                            self.apply(&mut batch).await?;
                        }
                        self.tell(false);
                    } else if batch.changes.len() >= BATCH_CHANGES || batch.bytes >= BATCH_BYTES {
                        self.apply(&mut batch).await?;
                    }
                }
                Feed::Flush if batch.deferrable => batch.permits.clear(),
                Feed::Flush => self.apply(&mut batch).await?,
                Feed::Barrier(reached) => {
                    self.apply(&mut batch).await?;
                    let stands = self.read_position().await?;
                    not_back(self.position, stands)?;
                    self.position = stands;
                    self.seen = self.seen.max(stands);
                    let _ = reached.send(stands);
                }
                Feed::Together(work) => self.together(*work).await?,
                Feed::Moved(position) => (self.position, self.seen) = (self.position.max(position), self.seen.max(position)),
                Feed::Reshaped(relations) => {
                    self.shared.relations = relations;
                    self.session = Session::new(self.number, self.shared.clone());
                }
            }
        }
    }

    fn tell(&self, waiting: bool) {
        // A lane that has applied all it was sent stands where the router stands.
        let position = if waiting { self.seen } else { self.position };
        self.progress.send_if_modified(|p| {
            let news = p.position != position || p.waiting != waiting || p.changes != self.changes;
            *p = Progress { position, durable: self.position.lsn, waiting, changes: self.changes, held_up: None };
            news
        });
    }

    /// Applies a batch and moves the position behind it, again and again until it is done or the operator stops.
    async fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let to = self.seen;
        if to == self.position {
            return Ok(());
        }
        let mut patience = Patience::default();
        let usual = if self.no_sets || self.shared.in_order { Mode::InOrder } else { Mode::Sets };
        let mut modes = Modes { usual, others: self.in_order.keys().map(|target| (*target, Mode::InOrder)).collect() };
        loop {
            let started = Instant::now();
            match self.session.apply(&batch.changes, (self.position, to), &modes).await {
                Ok(counts) => {
                    self.look_at_the_pace(batch, started.elapsed()).await;
                    self.applied(batch, to, counts);
                    return Ok(());
                }
                Err(Refusal::Moved) => {
                    // A session of before may have committed this very batch, late (C-30).
                    let stands = self.read_position().await?;
                    tracing::warn!(lane = self.number, believed = ?self.position, found = ?stands, "the lane's position was moved by another session");
                    not_back(self.position, stands)?;
                    batch.changes.retain(|c| c.position > stands);
                    self.position = stands;
                    if stands >= to {
                        self.seen = stands;
                        *batch = Batch::default();
                        return Ok(());
                    }
                }
                Err(Refusal::Set(target)) => {
                    self.in_order.insert(target, IN_ORDER_BATCHES);
                    modes.others.insert(target, Mode::InOrder);
                }
                Err(Refusal::NoStaging(error)) => {
                    tracing::warn!(lane = self.number, %error, "no temporary tables on the target: replay goes change by change");
                    self.no_sets = true;
                    modes.usual = Mode::InOrder;
                }
                Err(Refusal::Lane(error)) if error.is_transient() => self.wait(&mut patience, error).await,
                Err(Refusal::Change(position, error)) => {
                    let Some(change) = batch.changes.iter().find(|c| c.position == position) else { return Err(error) };
                    let target = change.target;
                    // A commit that fails may be a set's doing.
                    if modes.of(target) == Mode::Sets || modes.usual == Mode::Sets && batch.deferrable {
                        modes.usual = Mode::InOrder;
                        continue;
                    }
                    let accepted = self.accepted.contains(&target) || self.shared.on_conflict == ConflictPolicy::Count;
                    if !accepted {
                        let table = &self.shared.relations[target].table;
                        let what = format!("{} of {}", change.operation().map_or("a change", |o| o.word()), apply::describe_row(change));
                        let error = error.context(format!("{table}: {what}, in the transaction that committed at {}", position.lsn));
                        if self.ask(Some(target), error).await? == Resolution::Retry {
                            continue;
                        }
                        self.accepted.insert(target);
                    }
                    modes.others.insert(target, Mode::Tolerant);
                }
                Err(Refusal::Lane(error)) => {
                    self.session.disconnect();
                    self.ask(None, error).await?;
                }
            }
        }
    }

    /// A batch that takes far too long may have met a plan that was made on wrong statistics.
    async fn look_at_the_pace(&mut self, batch: &Batch, took: Duration) {
        let slow = took > SLOW_BATCH && took > SLOW_CHANGE * batch.changes.len() as u32;
        if !slow || self.looked_at.is_some_and(|t| t.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked_at = Some(Instant::now());
        let tables: HashSet<u32> = batch.changes.iter().map(|c| self.shared.relations[c.target].target.oid).collect();
        if let Err(error) = self.session.refresh_statistics(&tables.into_iter().collect::<Vec<_>>()).await {
            tracing::warn!(lane = self.number, %error, "statistics of the target were not refreshed");
            self.session.disconnect();
        }
    }

    fn applied(&mut self, batch: &mut Batch, to: Position, counts: HashMap<usize, Counters>) {
        for (target, counters) in counts {
            self.shared.counters[target].send_modify(|c| c.add(&counters));
            if let Some(left) = self.in_order.get_mut(&target) {
                *left -= 1;
                if *left == 0 {
                    self.in_order.remove(&target);
                }
            }
        }
        self.changes += batch.changes.len() as u64;
        self.position = to;
        self.written_at = Instant::now();
        *batch = Batch::default();
        self.tell(false);
    }

    async fn ask(&self, target: Option<usize>, error: Error) -> Result<Resolution> {
        let (answer, answered) = oneshot::channel();
        let trouble = Trouble { lane: self.number, target, sql: None, error, answer };
        self.shared.trouble.send(trouble).await.map_err(|_| Error::stopped())?;
        answered.await.map_err(|_| Error::stopped())
    }

    async fn read_position(&mut self) -> Result<Position> {
        let mut patience = Patience::default();
        loop {
            match self.session.position().await {
                Err(e) if e.is_transient() => self.wait(&mut patience, e).await,
                other => return other,
            }
        }
    }

    /// Before passing trouble is tried again: longer each time, and not in silence.
    async fn wait(&mut self, patience: &mut Patience, error: Error) {
        tracing::warn!(lane = self.number, %error, "trying again");
        self.session.disconnect();
        patience.tries += 1;
        if patience.tries == 6 {
            self.progress.send_modify(|p| p.held_up = Some(error.to_string()));
        }
        tokio::time::sleep(patience.delay).await;
        patience.delay = (patience.delay * 2).min(Duration::from_secs(10));
    }

    async fn together(&mut self, mut work: Together) -> Result<()> {
        let mut patience = Patience::default();
        loop {
            match self.try_together(&work).await {
                Ok(()) => {
                    for target in &work.targets {
                        self.shared.counters[*target].send_modify(|c| c.truncates += 1);
                    }
                    self.changes += u64::from(!work.targets.is_empty());
                    let _ = work.done.send(());
                    return Ok(());
                }
                Err(error) if error.is_transient() => self.wait(&mut patience, error).await,
                // Nothing that is tried here again would be right.
                Err(error) if error.kind == Kind::Differs => return Err(error),
                Err(error) => {
                    self.session.disconnect();
                    match self.ask(work.targets.first().copied(), error.context("TRUNCATE")).await? {
                        Resolution::Retry => {}
                        // The positions still move; the tables keep their rows.
                        Resolution::Accept => work.statements.clear(),
                    }
                }
            }
        }
    }

    async fn try_together(&mut self, work: &Together) -> Result<()> {
        let to = work.to;
        let mut sql = String::from("begin;");
        for (lane, from) in work.lanes.iter().filter(|(_, from)| *from < to) {
            // A division by zero undoes all when a lane does not stand where it should.
            let _ = write!(
                sql,
                "with moved as (update _hyperlift.lane set lsn = '{}', change = {}, at = now() where lane = {lane} and lsn = '{}' and change = {} returning 1) select 1 / count(*) from moved;",
                to.lsn, to.change, from.lsn, from.change
            );
        }
        for statement in &work.statements {
            sql.push_str(statement);
            sql.push(';');
        }
        sql.push_str("commit");
        match self.session.execute(&sql).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // An earlier attempt whose answer was lost may have committed: it moved all lanes at once.
                if !error.has_code("22012") {
                    return Err(error);
                }
                let stands = self.read_position().await?;
                if stands >= to { Ok(()) } else { Err(moved_elsewhere(stands)) }
            }
        }
    }
}

/// A target that stands before what it had acknowledged has lost commits: it failed over, or was restored.
fn not_back(believed: Position, stands: Position) -> Result<()> {
    if stands >= believed {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, format!("the target has gone back: its lane stands at {} although {} was committed", stands.lsn, believed.lsn))
        .hint("did it fail over to an asynchronous standby? Start hyperlift again: it goes on from where the target stands, if the spool still reaches back"))
}

fn moved_elsewhere(stands: Position) -> Error {
    Error::new(Kind::Differs, format!("a session of an earlier run has moved a lane to {}", stands.lsn))
        .hint("start hyperlift again: it goes on from there")
}
