//! A lane: one replay worker with its own connection to the target. It collects changes into a batch, applies it in one transaction
//! together with its own position, by compare-and-set (I6), and goes on.
//!
//! A batch is applied as sets; a relation whose set fails is done again change by change, so that the row can be named (I8).

mod batch;
mod feed;
mod script;
mod session;
mod shared;

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    sync::{
        mpsc::{self, error::TryRecvError},
        watch,
    },
    time::timeout_at,
};

use self::{
    batch::Batch,
    script::{Mode, Modes, Refusal},
    session::{LaneSession, LaneTransaction},
};
use super::{
    apply,
    change::Change,
    relation::{Relation, RelationCounters, RelationIndex, Relations},
};
use crate::{
    error::{Error, Kind, Result},
    lsn::{Lsn, Position},
    name::plain_ident,
    pg::target_table::TableKind,
    sqlstate,
};

pub use self::{
    feed::{AllLanes, BatchStep, Feed},
    shared::{Conflict, ConflictAnswer, ConflictPolicy, ConflictRelation, LaneProgress, LaneShared, ask},
};

/// After a batch a lane waits for more changes, but no longer than this: many small batches would cost the target more than they are
/// worth. The first change after a pause goes out immediately.
const GATHER: Duration = Duration::from_millis(20);
/// A relation whose set has failed goes in order for this many batches.
const IN_ORDER_BATCHES: u32 = 8;
/// When a batch takes this long, and this long a change, the target's statistics are checked, but no more often than this.
const SLOW_BATCH: Duration = Duration::from_secs(2);
const SLOW_CHANGE: Duration = Duration::from_micros(150);
const STATISTICS_EVERY: Duration = Duration::from_secs(20);
/// A lane without changes writes its position this often.
const IDLE_POSITION_EVERY: Duration = Duration::from_secs(10);
/// After this many attempts the operator sees why the lane does not come further.
const REPORTED_AFTER: u32 = 6;

pub struct Lane {
    number: u32,
    shared: LaneShared,
    feed: mpsc::Receiver<Feed>,
    progress: watch::Sender<LaneProgress>,
    session: LaneSession,
    /// Recorded on the target.
    position: Position,
    /// Everything before this was sent to the lane.
    seen: Position,
    written_at: Instant,
    /// Relations of which the operator has accepted that they differ.
    accepted: HashSet<RelationIndex>,
    /// Remaining batches for which these relations are not applied as sets.
    in_order: HashMap<RelationIndex, u32>,
    no_sets: bool,
    changes: u64,
    /// When the target's statistics were checked.
    statistics_checked: Option<Instant>,
}

/// How an attempt ended.
enum Outcome {
    Done(HashMap<RelationIndex, RelationCounters>),
    /// Another session has moved the lane here.
    Moved(Position),
    /// A statement that follows the changes of a step failed.
    Statement(Error),
    Again,
}

/// How long a transient error has lasted.
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
    pub fn new(number: u32, position: Position, shared: LaneShared, feed: mpsc::Receiver<Feed>, progress: watch::Sender<LaneProgress>) -> Self {
        Self {
            number,
            session: LaneSession::new(number, shared.clone()),
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
            statistics_checked: None,
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
                Err(TryRecvError::Disconnected) => return self.apply(&mut batch).await,
                Err(TryRecvError::Empty) => {
                    self.report(batch.is_empty());
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
            };
            self.take(message, &mut batch).await?;
        }
    }

    /// Does what the router says.
    async fn take(&mut self, message: Feed, batch: &mut Batch) -> Result<()> {
        match message {
            Feed::Changes(changes, permit, up_to) => {
                let relations = self.relations();
                for change in changes {
                    // A session of an earlier run, that committed late, may have applied it (C-30).
                    if change.position > self.position {
                        self.seen = self.seen.max(change.position);
                        batch.push(change, &relations);
                    }
                }
                if let Some(lsn) = up_to {
                    self.seen = self.seen.max(Position::after(lsn));
                }
                batch.hold(permit);
                if batch.is_full() || (self.seen.change == 0 && batch.is_large()) {
                    self.apply(batch).await?;
                }
            }
            Feed::UpTo(lsn) => {
                self.seen = self.seen.max(Position::after(lsn));
                if batch.is_empty() {
                    if self.written_at.elapsed() >= IDLE_POSITION_EVERY {
                        self.apply(batch).await?;
                    }
                    self.report(false);
                } else if batch.is_large() {
                    self.apply(batch).await?;
                }
            }
            Feed::Flush if batch.deferrable => batch.release(),
            Feed::Flush => self.apply(batch).await?,
            Feed::Barrier(reached) => {
                let _ = reached.send(self.stop(batch).await?);
            }
            Feed::HandOver(commit, reached) => {
                let _ = reached.send(self.hand_over(commit, batch).await?);
            }
            Feed::AllLanes(work) => self.all_lanes(*work).await?,
            Feed::Moved(position) => (self.position, self.seen) = (self.position.max(position), self.seen.max(position)),
        }
        Ok(())
    }

    fn relations(&self) -> Arc<Relations> {
        self.shared.relations.borrow().clone()
    }

    fn report(&self, waiting: bool) {
        // A lane that has applied all it was sent has come as far as the router.
        let position = if waiting { self.seen } else { self.position };
        self.progress.send_if_modified(|p| {
            let news = p.position != position || p.waiting != waiting || p.changes != self.changes;
            *p = LaneProgress { position, durable: self.position.lsn, waiting, changes: self.changes, blocked_by: None };
            news
        });
    }

    /// Applies what there is, for a barrier, and reads the lane's position from the target.
    async fn stop(&mut self, batch: &mut Batch) -> Result<Position> {
        self.apply(batch).await?;
        *batch = Batch::default();
        let recorded = self.read_position().await?;
        not_back(self.position, recorded)?;
        self.position = recorded;
        self.seen = self.seen.max(recorded);
        Ok(recorded)
    }

    /// Stops at the beginning of the transaction that commits at `commit`, and gives back those of its changes that are not applied.
    async fn hand_over(&mut self, commit: Lsn, batch: &mut Batch) -> Result<(Position, Vec<Change>)> {
        let (mut back, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut batch.step.changes).into_iter().partition(|c| c.position.lsn == commit);
        batch.step.changes = rest;
        let begin = Position { lsn: commit, change: 0 };
        self.seen = self.seen.min(begin.max(self.position));
        let recorded = self.stop(batch).await?;
        back.retain(|c| c.position > recorded);
        Ok((recorded, back))
    }

    /// Applies a batch and moves the position to its end, again and again until it is done or the operator stops.
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
            let work = LaneTransaction { steps: std::slice::from_ref(&batch.step), lanes: &from, to };
            match self.attempt(work, &mut modes, &mut patience).await? {
                Outcome::Done(counts) => {
                    self.check_batch_speed(&batch.step.changes, started.elapsed()).await;
                    self.count(counts, batch.step.changes.len());
                    self.position = to;
                    self.written_at = Instant::now();
                    *batch = Batch::default();
                    self.report(false);
                    return Ok(());
                }
                Outcome::Moved(found) => {
                    // A session of an earlier run may have committed this very batch, late (C-30).
                    tracing::warn!(lane = self.number, believed = ?self.position, ?found, "the lane's position was moved by another session");
                    not_back(self.position, found)?;
                    batch.step.changes.retain(|c| c.position > found);
                    self.position = found;
                    if found >= to {
                        self.seen = found;
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
        Modes { usual, others: self.in_order.keys().map(|relation| (*relation, Mode::InOrder)).collect() }
    }

    /// Tries once to apply steps in one transaction with the positions. What is refused decides how the next attempt is made.
    async fn attempt(&mut self, work: LaneTransaction<'_>, modes: &mut Modes, patience: &mut Patience) -> Result<Outcome> {
        match self.session.apply(work, modes).await {
            Ok(counts) => return Ok(Outcome::Done(counts)),
            Err(Refusal::Moved) => return Ok(Outcome::Moved(self.read_position().await?)),
            Err(Refusal::Statement(error)) => return Ok(Outcome::Statement(error)),
            Err(Refusal::Set(relation)) => {
                self.in_order.insert(relation, IN_ORDER_BATCHES);
                modes.others.insert(relation, Mode::InOrder);
            }
            Err(Refusal::NoStaging(error)) => {
                tracing::warn!(lane = self.number, %error, "no temporary tables on the target: replay goes change by change");
                self.no_sets = true;
                modes.usual = Mode::InOrder;
            }
            Err(Refusal::Lane(error)) if error.is_transient() => self.wait(patience, error).await,
            Err(Refusal::Change(position, error)) => self.change_refused(work, modes, position, error).await?,
            Err(Refusal::Lane(error)) => {
                self.session.disconnect();
                self.ask(None, error).await?;
            }
        }
        Ok(Outcome::Again)
    }

    /// A change was refused: it is tried again in order, or the operator decides.
    async fn change_refused(&mut self, work: LaneTransaction<'_>, modes: &mut Modes, position: Position, error: Error) -> Result<()> {
        let relations = self.relations();
        let changes = || work.steps.iter().flat_map(|s| &s.changes);
        let Some(change) = changes().find(|c| c.position == position) else { return Err(error) };
        let relation = change.relation;
        // When the commit fails, the reason may be a set.
        let deferrable = |c: &Change| relations[c.relation].shape.deferrable;
        if modes.get(relation) == Mode::Sets || modes.usual == Mode::Sets && changes().any(deferrable) {
            modes.usual = Mode::InOrder;
            return Ok(());
        }
        if !self.accepted.contains(&relation) && self.shared.on_conflict == ConflictPolicy::Stop {
            let table = &relations[relation].table;
            let what = format!("{} of {}", change.op.as_str(), apply::describe_row(change));
            let error = time_refused(error, &relations[relation]);
            let error = error.context(format!("{table}: {what}, in the transaction that committed at {}", position.lsn));
            if self.ask(Some(relation), error).await? == ConflictAnswer::Retry {
                return Ok(());
            }
            self.accepted.insert(relation);
        }
        modes.others.insert(relation, Mode::SkipConflicts);
        Ok(())
    }

    /// The plan of a batch that takes far too long may have been made on wrong statistics.
    async fn check_batch_speed(&mut self, changes: &[Change], took: Duration) {
        let slow = took > SLOW_BATCH && took > SLOW_CHANGE * changes.len() as u32;
        if !slow || self.statistics_checked.is_some_and(|t| t.elapsed() < STATISTICS_EVERY) {
            return;
        }
        self.statistics_checked = Some(Instant::now());
        let relations = self.relations();
        let tables: HashSet<u32> = changes.iter().map(|c| relations[c.relation].shape.oid).collect();
        if let Err(error) = self.session.refresh_statistics(&tables.into_iter().collect::<Vec<_>>()).await {
            tracing::warn!(lane = self.number, %error, "statistics of the target were not refreshed");
            self.session.disconnect();
        }
    }

    fn count(&mut self, counts: HashMap<RelationIndex, RelationCounters>, changes: usize) {
        for (relation, counters) in counts {
            self.shared.counters[relation.0].send_modify(|c| c.add(&counters));
            if let Some(remaining) = self.in_order.get_mut(&relation) {
                *remaining -= 1;
                if *remaining == 0 {
                    self.in_order.remove(&relation);
                }
            }
        }
        self.changes += changes as u64;
    }

    async fn ask(&self, relation: Option<RelationIndex>, error: Error) -> Result<ConflictAnswer> {
        let relation = relation.map(|index| ConflictRelation::from(&self.relations()[index]));
        ask(&self.shared.conflicts, self.number, relation, None, error).await
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

    /// Waits after a transient error, longer each time. One that lasts is reported.
    async fn wait(&mut self, patience: &mut Patience, error: Error) {
        tracing::warn!(lane = self.number, %error, "the lane retries");
        self.session.disconnect();
        patience.tries += 1;
        if patience.tries == REPORTED_AFTER {
            self.progress.send_modify(|p| p.blocked_by = Some(error.to_string()));
        }
        tokio::time::sleep(patience.delay).await;
        patience.delay = (patience.delay * 2).min(Duration::from_secs(10));
    }

    /// Does for all lanes what the router asks for, again and again until it is done or the operator stops.
    async fn all_lanes(&mut self, mut work: AllLanes) -> Result<()> {
        let mut patience = Patience::default();
        let mut modes = self.modes();
        loop {
            let transaction = LaneTransaction { steps: &work.steps, lanes: &work.lanes, to: work.to };
            match self.attempt(transaction, &mut modes, &mut patience).await? {
                Outcome::Done(counts) => {
                    self.count(counts, work.steps.iter().map(|s| s.changes.len()).sum::<usize>() + usize::from(!work.truncated.is_empty()));
                    for relation in &work.truncated {
                        self.shared.counters[relation.0].send_modify(|c| c.truncates += 1);
                    }
                    break;
                }
                // An earlier attempt whose answer was lost has committed: it moved all lanes.
                Outcome::Moved(found) if found >= work.to => break,
                // Retrying cannot help.
                Outcome::Moved(found) => return Err(moved_elsewhere(found)),
                // The ledger's own statement: without it no lane may go on.
                Outcome::Statement(error) if work.truncated.is_empty() => {
                    return Err(error
                        .context("_hyperlift.relation on the target")
                        .hint("restore the ledger's table and its rights, then start hyperlift again"));
                }
                Outcome::Statement(error) => match self.ask(work.truncated.first().copied(), error.context("TRUNCATE")).await? {
                    ConflictAnswer::Retry => {}
                    // The positions still move; the tables keep their rows.
                    ConflictAnswer::Accept => work.steps.iter_mut().for_each(|s| s.then.clear()),
                },
                Outcome::Again => {}
            }
        }
        let _ = work.done.send(());
        Ok(())
    }
}

/// A target with a position before the one that it had acknowledged has lost commits: it failed over, or was restored.
fn not_back(believed: Position, recorded: Position) -> Result<()> {
    if recorded >= believed {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, format!("the target has gone back: the position of its lane is {} although {} was committed", recorded.lsn, believed.lsn))
        .hint("did it fail over to an asynchronous standby? Start hyperlift again: it continues at the target's position, if the spool still reaches back to it"))
}

/// Says what a server does not that refuses the time of a row in a hypertable, and what can be done.
fn time_refused(error: Error, relation: &Relation) -> Error {
    let Some(column) = relation.shape.dimensions.first().filter(|_| relation.shape.kind == TableKind::Hypertable) else { return error };
    let is_null = error.has_code(sqlstate::NOT_NULL_VIOLATION) && error.message.contains(&format!("\"{column}\""));
    if !is_null && !error.has_code(sqlstate::DATETIME_FIELD_OVERFLOW) {
        return error;
    }
    error.detail(format!("a hypertable needs a time in {}, and cannot hold '-infinity' or times from the year 294247 on", plain_ident(column))).hint(
        "give the row another time on the source, accept that the table differs, and write the row to the target by hand after the cutover; \
             without a terminal start with --on-conflict count, which counts such changes and goes on",
    )
}

fn moved_elsewhere(found: Position) -> Error {
    Error::new(Kind::Differs, format!("a session of an earlier run has moved a lane to {}", found.lsn))
        .hint("start hyperlift again: it continues from there")
}
