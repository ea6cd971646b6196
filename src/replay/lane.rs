//! A lane: one replay worker with its own connection to the target. It collects changes into a batch, applies it in one transaction
//! together with its own position, by compare-and-set (I6), and goes on.
//!
//! A batch is applied as sets; a relation whose set fails is done again change by change, so that the row can be named (I8).

mod session;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{OwnedSemaphorePermit, mpsc, oneshot, watch},
    time::timeout_at,
};
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
    pg::connect::conninfo::Conninfo,
};

/// A batch is applied when it has this many changes, or takes so many bytes, or is so old; a transaction that touches a deferrable
/// constraint stays whole.
const BATCH_CHANGES: usize = 32_768;
const BATCH_BYTES: usize = 4 << 20;
const BATCH_AGE: Duration = Duration::from_secs(2);
/// Behind a batch more changes are waited for, so long at most: many small batches would cost the target more than they are worth. The
/// first change after a pause goes out at once.
const GATHER: Duration = Duration::from_millis(20);
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
    /// As a barrier at the beginning of the transaction that commits at this LSN: those of its changes that are not applied yet go back.
    HandOver(Lsn, oneshot::Sender<(Position, Vec<Change>)>),
    /// At a barrier: something is done for all lanes, which move to `to`, in one transaction.
    Together(Box<Together>),
    /// At a barrier: another lane's transaction has moved this lane here.
    Moved(Position),
    /// At a barrier: the tables have another shape now.
    Reshaped(Arc<Vec<Relation>>),
}

/// What one lane does while all others wait: a TRUNCATE of the stream, another division of the work, or a transaction that cannot be
/// divided.
pub struct Together {
    pub stretches: Vec<Stretch>,
    /// Relations that are truncated.
    pub truncated: Vec<usize>,
    pub lanes: Vec<(u32, Position)>,
    pub to: Position,
    pub done: oneshot::Sender<()>,
}

/// What is applied in one transaction, and the lanes that it moves.
#[derive(Clone, Copy)]
pub struct Transaction<'a> {
    pub stretches: &'a [Stretch],
    /// With the positions where they stand.
    pub lanes: &'a [(u32, Position)],
    pub to: Position,
}

/// Changes, and statements that follow them.
#[derive(Default)]
pub struct Stretch {
    pub changes: Vec<Change>,
    pub then: Vec<String>,
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
    /// What a transaction begins with in which the application's functions run ([`crate::pg::ledger::LedgerMigration::path`]); may be empty.
    pub path: String,
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
    stretch: Stretch,
    bytes: usize,
    deferrable: bool,
    permits: Vec<OwnedSemaphorePermit>,
    since: Option<Instant>,
}

impl Batch {
    fn is_full(&self) -> bool {
        let old = || self.since.is_some_and(|t| t.elapsed() >= BATCH_AGE);
        !self.deferrable && (self.is_large() || old())
    }

    fn is_large(&self) -> bool {
        self.stretch.changes.len() >= BATCH_CHANGES || self.bytes >= BATCH_BYTES
    }

    fn is_empty(&self) -> bool {
        self.stretch.changes.is_empty()
    }
}

/// How an attempt ended.
enum Outcome {
    Done(HashMap<usize, Counters>),
    /// Another session has moved the lane here.
    Moved(Position),
    /// A statement behind a stretch failed.
    Statement(Error),
    Again,
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
                    self.tell(batch.is_empty());
                    // At a transaction's end what there is goes out soon.
                    let next = if batch.is_empty() || self.seen.change != 0 {
                        Ok(self.feed.recv().await)
                    } else {
                        timeout_at((self.written_at + GATHER).into(), self.feed.recv()).await
                    };
                    match next {
                        Ok(Some(message)) => message,
                        Ok(None) => return self.apply(&mut batch).await,
                        Err(_) => {
                            self.apply(&mut batch).await?;
                            continue;
                        }
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
                        batch.stretch.changes.push(change);
                    }
                    if let Some(lsn) = up_to {
                        self.seen = self.seen.max(Position::after(lsn));
                    }
                    batch.since.get_or_insert_with(Instant::now);
                    // A transaction that has to stay whole must not wait for the room that it takes itself.
                    if !batch.deferrable {
                        batch.permits.push(permit);
                    }
                    if batch.is_full() || (self.seen.change == 0 && batch.is_large()) {
                        self.apply(&mut batch).await?;
                    }
                }
                Feed::UpTo(lsn) => {
                    self.seen = self.seen.max(Position::after(lsn));
                    if batch.is_empty() {
                        if self.written_at.elapsed() >= IDLE_POSITION_EVERY {
                            self.apply(&mut batch).await?;
                        }
                        self.tell(false);
                    } else if batch.is_large() {
                        self.apply(&mut batch).await?;
                    }
                }
                Feed::Flush if batch.deferrable => batch.permits.clear(),
                Feed::Flush => self.apply(&mut batch).await?,
                Feed::Barrier(reached) => {
                    let _ = reached.send(self.stop(&mut batch).await?);
                }
                Feed::HandOver(commit, reached) => {
                    let (back, rest) = std::mem::take(&mut batch.stretch.changes).into_iter().partition(|c| c.position.lsn == commit);
                    batch.stretch.changes = rest;
                    let begin = Position { lsn: commit, change: 0 };
                    self.seen = self.seen.min(begin.max(self.position));
                    let stands = self.stop(&mut batch).await?;
                    let mut back: Vec<Change> = back;
                    back.retain(|c| c.position > stands);
                    let _ = reached.send((stands, back));
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

    /// Applies what there is, for a barrier, and asks the target where the lane stands.
    async fn stop(&mut self, batch: &mut Batch) -> Result<Position> {
        self.apply(batch).await?;
        *batch = Batch::default();
        let stands = self.read_position().await?;
        not_back(self.position, stands)?;
        self.position = stands;
        self.seen = self.seen.max(stands);
        Ok(stands)
    }

    /// Applies a batch and moves the position behind it, again and again until it is done or the operator stops.
    async fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        let to = self.seen;
        if to == self.position {
            return Ok(());
        }
        let mut patience = Patience::default();
        let mut modes = self.modes();
        loop {
            let started = Instant::now();
            let from = [(self.number, self.position)];
            let work = Transaction { stretches: std::slice::from_ref(&batch.stretch), lanes: &from, to };
            match self.attempt(work, &mut modes, &mut patience).await? {
                Outcome::Done(counts) => {
                    self.look_at_the_pace(&batch.stretch.changes, started.elapsed()).await;
                    self.count(counts, batch.stretch.changes.len());
                    self.position = to;
                    self.written_at = Instant::now();
                    *batch = Batch::default();
                    self.tell(false);
                    return Ok(());
                }
                Outcome::Moved(stands) => {
                    // A session of before may have committed this very batch, late (C-30).
                    tracing::warn!(lane = self.number, believed = ?self.position, found = ?stands, "the lane's position was moved by another session");
                    not_back(self.position, stands)?;
                    batch.stretch.changes.retain(|c| c.position > stands);
                    self.position = stands;
                    if stands >= to {
                        self.seen = stands;
                        *batch = Batch::default();
                        return Ok(());
                    }
                }
                Outcome::Statement(error) => return Err(error),
                Outcome::Again => {}
            }
        }
    }

    fn modes(&self) -> Modes {
        let usual = if self.no_sets || self.shared.in_order { Mode::InOrder } else { Mode::Sets };
        Modes { usual, others: self.in_order.keys().map(|target| (*target, Mode::InOrder)).collect() }
    }

    /// Tries once to apply stretches in one transaction with the positions; what is refused decides how it is tried again.
    async fn attempt(&mut self, work: Transaction<'_>, modes: &mut Modes, patience: &mut Patience) -> Result<Outcome> {
        match self.session.apply(work, modes).await {
            Ok(counts) => return Ok(Outcome::Done(counts)),
            Err(Refusal::Moved) => return Ok(Outcome::Moved(self.read_position().await?)),
            Err(Refusal::Statement(error)) => return Ok(Outcome::Statement(error)),
            Err(Refusal::Set(target)) => {
                self.in_order.insert(target, IN_ORDER_BATCHES);
                modes.others.insert(target, Mode::InOrder);
            }
            Err(Refusal::NoStaging(error)) => {
                tracing::warn!(lane = self.number, %error, "no temporary tables on the target: replay goes change by change");
                self.no_sets = true;
                modes.usual = Mode::InOrder;
            }
            Err(Refusal::Lane(error)) if error.is_transient() => self.wait(patience, error).await,
            Err(Refusal::Change(position, error)) => {
                let changes = || work.stretches.iter().flat_map(|s| &s.changes);
                let Some(change) = changes().find(|c| c.position == position) else { return Err(error) };
                let target = change.target;
                // A commit that fails may be a set's doing.
                let deferrable = |c: &Change| self.shared.relations[c.target].target.deferrable;
                if modes.of(target) == Mode::Sets || modes.usual == Mode::Sets && changes().any(deferrable) {
                    modes.usual = Mode::InOrder;
                    return Ok(Outcome::Again);
                }
                let accepted = self.accepted.contains(&target) || self.shared.on_conflict == ConflictPolicy::Count;
                if !accepted {
                    let table = &self.shared.relations[target].table;
                    let what = format!("{} of {}", change.operation().map_or("a change", |o| o.word()), apply::describe_row(change));
                    let error = error.context(format!("{table}: {what}, in the transaction that committed at {}", position.lsn));
                    if self.ask(Some(target), error).await? == Resolution::Retry {
                        return Ok(Outcome::Again);
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
        Ok(Outcome::Again)
    }

    /// A batch that takes far too long may have met a plan that was made on wrong statistics.
    async fn look_at_the_pace(&mut self, changes: &[Change], took: Duration) {
        let slow = took > SLOW_BATCH && took > SLOW_CHANGE * changes.len() as u32;
        if !slow || self.looked_at.is_some_and(|t| t.elapsed() < LOOK_EVERY) {
            return;
        }
        self.looked_at = Some(Instant::now());
        let tables: HashSet<u32> = changes.iter().map(|c| self.shared.relations[c.target].target.oid).collect();
        if let Err(error) = self.session.refresh_statistics(&tables.into_iter().collect::<Vec<_>>()).await {
            tracing::warn!(lane = self.number, %error, "statistics of the target were not refreshed");
            self.session.disconnect();
        }
    }

    fn count(&mut self, counts: HashMap<usize, Counters>, changes: usize) {
        for (target, counters) in counts {
            self.shared.counters[target].send_modify(|c| c.add(&counters));
            if let Some(left) = self.in_order.get_mut(&target) {
                *left -= 1;
                if *left == 0 {
                    self.in_order.remove(&target);
                }
            }
        }
        self.changes += changes as u64;
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
        let mut modes = self.modes();
        loop {
            let transaction = Transaction { stretches: &work.stretches, lanes: &work.lanes, to: work.to };
            match self.attempt(transaction, &mut modes, &mut patience).await? {
                Outcome::Done(counts) => {
                    self.count(counts, work.stretches.iter().map(|s| s.changes.len()).sum::<usize>() + usize::from(!work.truncated.is_empty()));
                    for target in &work.truncated {
                        self.shared.counters[*target].send_modify(|c| c.truncates += 1);
                    }
                    break;
                }
                // An earlier attempt whose answer was lost has committed: it moved all lanes at once.
                Outcome::Moved(stands) if stands >= work.to => break,
                // Nothing that is tried here again would be right.
                Outcome::Moved(stands) => return Err(moved_elsewhere(stands)),
                // The ledger's own statement: without it no lane may go on.
                Outcome::Statement(error) if work.truncated.is_empty() => {
                    return Err(error
                        .context("_hyperlift.relation on the target")
                        .hint("restore the ledger's table and its rights, then start hyperlift again"));
                }
                Outcome::Statement(error) => match self.ask(work.truncated.first().copied(), error.context("TRUNCATE")).await? {
                    Resolution::Retry => {}
                    // The positions still move; the tables keep their rows.
                    Resolution::Accept => work.stretches.iter_mut().for_each(|s| s.then.clear()),
                },
                Outcome::Again => {}
            }
        }
        let _ = work.done.send(());
        Ok(())
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
