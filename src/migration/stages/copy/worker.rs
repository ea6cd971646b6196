//! One job of the copy: takes what comes next, keeps its sessions from one relation to the next, and reports how it went.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{
    chunks, failures, key_ranges,
    parts::{self, Heap, Part, Ranges},
    queue::{AfterPart, CopyQueueEntry, CopyWork, Keeper, OpenRelation, PartCounter, PartOutcome},
    shared::CopyShared,
    source::{self, SourceSession, TableSnapshot},
    spec::CopySpec,
    transfer::{self, PROGRESS_INTERVAL, PartRoute, TransferError},
};
use crate::{
    error::{Error, Result},
    event::{Event, Level},
    name::TableName,
    pg::{
        catalog::{SourceRelation, versions},
        connect::session::Side,
        wire::{Copied, Wire},
    },
    sqlstate,
};

/// A transient error is retried after this time.
const RETRY_DELAY: Duration = Duration::from_secs(1);

pub struct CopyWorker {
    shared: Arc<CopyShared>,
    number: u32,
    source: Option<SourceSession>,
    /// The relation whose snapshot the source's session has joined: a relation that is tried again has another snapshot.
    joined: Option<Arc<OpenRelation>>,
    target: Option<Wire>,
}

/// Why a relation was not copied, with the rows and bytes that were moved until then.
struct FailedCopy {
    error: Error,
    moved: (u64, u64),
}

impl From<Error> for FailedCopy {
    fn from(error: Error) -> Self {
        Self { error, moved: (0, 0) }
    }
}

impl CopyWorker {
    pub fn new(shared: Arc<CopyShared>, number: u32) -> Self {
        Self { shared, number, source: None, joined: None, target: None }
    }

    /// Works until everything is copied.
    pub async fn run(mut self) -> Result<()> {
        loop {
            let mut wanted = self.shared.wanted.clone();
            if *wanted.borrow() <= self.number {
                // Fewer jobs are wanted: this one closes its connections and waits.
                (self.source, self.joined, self.target) = (None, None, None);
                wanted.wait_for(|n| *n > self.number).await.map_err(|_| Error::stopped())?;
            }
            if self.shared.throttle.is_paused() {
                self.end_transaction().await;
                self.shared.throttle.resumed().await?;
            }
            let work = if let Some(work) = self.shared.queue.take_now(self.joined.as_ref()) {
                work
            } else {
                self.end_transaction().await;
                let Some(work) = self.shared.queue.take().await else { return Ok(()) };
                work
            };
            match work {
                CopyWork::Relation(entry) => self.relation(entry).await?,
                CopyWork::Part(open, part, keeper) => self.part(&open, part, keeper).await?,
            }
        }
    }

    /// A job that does not copy keeps no snapshot and no lock on the source.
    async fn end_transaction(&mut self) {
        self.joined = None;
        if let Some(session) = &mut self.source
            && session.end().await.is_err()
        {
            self.source = None;
        }
    }

    async fn source_session(&mut self) -> Result<SourceSession> {
        match self.source.take() {
            Some(session) => Ok(session),
            None => self.shared.source.connect(&format!("copy-{}", self.number + 1)).await,
        }
    }

    async fn target_session(&mut self) -> Result<Wire> {
        if let Some(wire) = self.target.take() {
            return Ok(wire);
        }
        let name = format!("{}copy-{}", self.shared.prefix, self.number + 1);
        let mut wire = Wire::open(&self.shared.config.target, Side::Target, &name).await?;
        // The engine flushes once, at the end, and checks that nothing is lost.
        wire.execute("set synchronous_commit = off").await.map_err(|e| e.context("target"))?;
        Ok(wire)
    }

    /// Opens a relation; copies it if it is one part, hands out its parts otherwise.
    async fn relation(&mut self, entry: CopyQueueEntry) -> Result<()> {
        self.joined = None;
        match self.open(entry.clone()).await {
            Ok(()) => Ok(()),
            Err(FailedCopy { error, moved }) => {
                // The sessions may be in the middle of a statement.
                (self.source, self.target) = (None, None);
                failures::failed(&self.shared, entry, error, moved).await
            }
        }
    }

    async fn open(&mut self, entry: CopyQueueEntry) -> Result<(), FailedCopy> {
        let shared = Arc::clone(&self.shared);
        let mut session = self.source_session().await?;
        let TableSnapshot { snapshot, at, durable, columns } = shared.source.lock_and_snapshot(&mut session, &entry.relation).await?;
        let relation = &entry.relation;
        let chunking = shared.hypertables.get(&relation.table);
        let heaps = self.heaps(&mut session, relation).await?;
        let mut parts = parts::cut(&heaps, shared.split, *shared.wanted.borrow(), chunking.is_some());
        if parts.is_empty() && !relation.storage.is_partitioned() {
            parts.push(Part::whole(relation.table.clone(), relation.bytes));
        }
        let whole = !relation.storage.is_partitioned() && parts.len() == 1;
        let mut target = self.target_session().await?;
        let mut attempt = entry.target.attempt;
        if !whole || entry.target.used || entry.tried {
            attempt = transfer::begin_attempt(&mut target, relation.oid, &relation.table, shared.kind_on_target(relation)).await?;
        }
        let mut streams = u32::MAX;
        if let Some(chunking) = chunking.filter(|_| !whole) {
            let blocks = heaps.iter().map(|h| h.blocks).sum();
            let created = chunks::create(&shared.reporter, chunking, (&mut session.wire, blocks, &columns), &mut target, relation).await?;
            streams = if created { u32::MAX } else { 1 };
        }
        let exported = if whole { String::new() } else { source::export_snapshot(&mut session.wire).await? };
        let format = shared.types.format(&columns, &entry.target.columns);
        let columns = columns.into_iter().map(|(name, _)| name).collect();
        let spec = CopySpec { attempt, snapshot, at, exported, columns, format, parts: parts.len() as u32, streams };
        let table = relation.table.clone();
        shared.reporter.report(Event::CopyBegun { table: table.clone(), format, parts: spec.parts.max(1) }).await;
        shared.progress(&table, 0, 0);
        if whole {
            let copied = self.whole(relation, &spec, &parts[0], durable, (session, target)).await?;
            shared.copied(entry, spec.at, copied.rows_in, copied.bytes).await;
            return Ok(());
        }
        self.target = Some(target);
        let has_parts = !parts.is_empty();
        let open = Arc::new(OpenRelation::new(entry, spec, parts, session));
        if has_parts {
            shared.queue.opened(open);
            return Ok(());
        }
        // A partition root without partitions.
        let keeper = open.take_keeper().ok_or_else(|| Error::failed("a session was lost"))?;
        Ok(self.finish(&open, keeper).await?)
    }

    /// The tables of a relation that has to be cut, and where those are cut that cannot be read by ranges of blocks. None for a relation
    /// that is copied whole.
    async fn heaps(&self, session: &mut SourceSession, relation: &SourceRelation) -> Result<Vec<Heap>> {
        let shared = &self.shared;
        if !relation.storage.is_partitioned() && relation.bytes <= shared.split {
            return Ok(Vec::new());
        }
        let mut heaps = source::heaps(&mut session.wire, relation, shared.merged.contains(&relation.table)).await?;
        if shared.config.parts_by_key || session.wire.version() / 10_000 < versions::TID_RANGE_SCAN {
            for heap in heaps.iter_mut().filter(|h| h.ranges == Ranges::Blocks) {
                let pieces = heap.pieces(shared.split);
                heap.ranges = Ranges::Keys(key_ranges::ranges(&mut session.wire, &heap.table, heap.blocks, pieces).await?);
            }
        }
        Ok(heaps)
    }

    /// A relation of one part: one transaction on either side.
    async fn whole(
        &mut self,
        relation: &SourceRelation,
        spec: &CopySpec,
        part: &Part,
        durable: bool,
        (mut session, mut target): (SourceSession, Wire),
    ) -> Result<Copied, FailedCopy> {
        let shared = Arc::clone(&self.shared);
        let table = &relation.table;
        let route = PartRoute { part, spec, into: table, path: &shared.path };
        let (mut moved, mut reported) = ((0, 0), Instant::now());
        let mut on_moved = |rows, bytes| {
            moved = (rows, bytes);
            if reported.elapsed() >= PROGRESS_INTERVAL {
                reported = Instant::now();
                shared.progress(table, rows, bytes);
            }
            Ok(())
        };
        let copied = transfer::rows(&shared.throttle, &route, &mut session.wire, &mut target, &mut on_moved).await;
        let copied = copied.map_err(|TransferError { error, .. }| FailedCopy { error, moved })?;
        let committed = async {
            if !durable {
                shared.source.wait_until_flushed(&mut session.wire, spec.at).await?;
            }
            transfer::commit_whole(&mut target, relation.oid, spec, copied).await
        };
        committed.await.map_err(|error| FailedCopy { error, moved: (copied.rows_in, copied.bytes) })?;
        (self.source, self.target) = (Some(session), Some(target));
        Ok(copied)
    }

    /// Copies one of several parts. Whichever way it ends, the job leaves the part, and the job that is the last one settles the relation.
    async fn part(&mut self, open: &Arc<OpenRelation>, part: Part, keeper: Option<SourceSession>) -> Result<()> {
        let (keeper, outcome) = match keeper {
            Some(keeper) => self.part_through_keeper(open, part, keeper).await?,
            None => (Keeper::NotUsed, self.part_through_own_session(open, part).await?),
        };
        match self.shared.queue.leave(open, keeper, outcome) {
            AfterPart::Going => Ok(()),
            AfterPart::Complete(keeper) => self.finish(open, keeper).await,
            AfterPart::Failed(error) => failures::failed(&self.shared, open.entry.clone(), error, open.moved()).await,
        }
    }

    /// The keeper's snapshot has to survive a part that fails, because the other parts need it: each part has a savepoint.
    async fn part_through_keeper(&mut self, open: &OpenRelation, part: Part, mut keeper: SourceSession) -> Result<(Keeper, PartOutcome)> {
        self.end_transaction().await;
        if let Err(e) = keeper.set_savepoint().await {
            return Ok((Keeper::Lost, PartOutcome::Failed(e)));
        }
        let (alive, outcome) = match self.transfer(open, &part, &mut keeper).await {
            Ok(()) => (keeper.release_savepoint().await, PartOutcome::Done),
            Err(TransferError { error, source_sends }) => {
                if keeper.back_to_savepoint(source_sends).await {
                    (true, self.part_failed(open, part, error).await?)
                } else {
                    (false, PartOutcome::Failed(error))
                }
            }
        };
        Ok((if alive { Keeper::Returned(Box::new(keeper)) } else { Keeper::Lost }, outcome))
    }

    /// The session's transaction goes on after the part: the next part of this relation is read in it, too.
    async fn part_through_own_session(&mut self, open: &Arc<OpenRelation>, part: Part) -> Result<PartOutcome> {
        let mut session = match self.joined_session(open).await {
            Ok(session) => session,
            Err(e) if e.is_stop() => return Err(e),
            Err(e) if e.has_code(sqlstate::LOCK_NOT_AVAILABLE) => return Ok(PartOutcome::Unjoinable(part)),
            Err(e) => return Ok(self.again(open, part, &e).await),
        };
        match self.transfer(open, &part, &mut session).await {
            Ok(()) => {
                (self.source, self.joined) = (Some(session), Some(Arc::clone(open)));
                Ok(PartOutcome::Done)
            }
            Err(TransferError { error, .. }) => self.part_failed(open, part, error).await,
        }
    }

    /// What becomes of a part that failed; a stop is an error.
    async fn part_failed(&self, open: &OpenRelation, mut part: Part, error: Error) -> Result<PartOutcome> {
        if error.is_stop() {
            return Err(error);
        }
        if open.has_failed() {
            return Ok(PartOutcome::Again(part));
        }
        if error.is_transient() {
            part.failures += 1;
            return Ok(self.again(open, part, &error).await);
        }
        Ok(PartOutcome::Failed(error))
    }

    /// A part is copied again under the same snapshot, after a delay.
    async fn again(&self, open: &OpenRelation, part: Part, error: &Error) -> PartOutcome {
        let text = format!("copy {}, part {} of {}: {error}; trying again", open.entry.relation.table, part.number + 1, open.spec.parts);
        self.shared.reporter.notice(Level::Warn, text).await;
        tokio::time::sleep(RETRY_DELAY).await;
        PartOutcome::Again(part)
    }

    /// A session of our own that reads under the relation's snapshot.
    async fn joined_session(&mut self, open: &Arc<OpenRelation>) -> Result<SourceSession> {
        let joined = self.joined.take().is_some_and(|joined| Arc::ptr_eq(&joined, open));
        let mut session = self.source_session().await?;
        if !joined {
            source::join_snapshot(&mut session, &open.entry.relation, &open.spec.exported).await?;
        }
        Ok(session)
    }

    /// Moves the rows of a part and commits them, and counts them; those of a part that failed are subtracted again.
    async fn transfer(&mut self, open: &OpenRelation, part: &Part, session: &mut SourceSession) -> Result<(), TransferError> {
        let mut counter = PartCounter::new(open);
        match self.transfer_counted(open, part, session, &mut counter).await {
            Ok(copied) => {
                let all = counter.set(copied.rows_in, copied.bytes, PROGRESS_INTERVAL);
                self.shared.progress(&open.entry.relation.table, all.rows, all.bytes);
                Ok(())
            }
            Err(e) => {
                counter.set(0, 0, PROGRESS_INTERVAL);
                self.target = None;
                Err(e)
            }
        }
    }

    async fn transfer_counted(
        &mut self,
        open: &OpenRelation,
        part: &Part,
        session: &mut SourceSession,
        counter: &mut PartCounter<'_>,
    ) -> Result<Copied, TransferError> {
        let shared = Arc::clone(&self.shared);
        let (relation, spec) = (&open.entry.relation, &open.spec);
        let mut target = self.target_session().await?;
        if part.failures > 0
            && let Some(copied) = transfer::recorded(&mut target, relation.oid, spec, part).await?
        {
            self.target = Some(target);
            return Ok(copied);
        }
        let to_leaf = relation.storage.is_partitioned() && transfer::has_leaf(&mut target, &relation.table, &part.table).await?;
        let into: &TableName = if to_leaf { &part.table } else { &relation.table };
        let route = PartRoute { part, spec, into, path: &shared.path };
        let mut on_moved = |rows: u64, bytes: u64| {
            if open.has_failed() {
                return Err(Error::connection("another part of the table failed"));
            }
            let all = counter.set(rows, bytes, PROGRESS_INTERVAL);
            if all.is_due {
                shared.progress(&relation.table, all.rows, all.bytes);
            }
            Ok(())
        };
        let copied = transfer::rows(&shared.throttle, &route, &mut session.wire, &mut target, &mut on_moved).await?;
        match transfer::commit_part(&mut target, relation.oid, spec, part, copied).await {
            Ok(()) => {}
            // An earlier try of this part was committed, but its answer was lost.
            Err(e) if e.has_code(sqlstate::UNIQUE_VIOLATION) && part.failures > 0 => {}
            Err(e) => return Err(e.into()),
        }
        self.target = Some(target);
        Ok(copied)
    }

    /// All parts are copied. They count once L is durable on the source (I3), and one statement on the target records the relation.
    async fn finish(&mut self, open: &OpenRelation, mut keeper: SourceSession) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let recorded = async {
            shared.source.wait_until_flushed(&mut keeper.wire, open.spec.at).await?;
            loop {
                match self.record(open).await {
                    Ok(true) => return Ok(()),
                    // The next attempt copies the relation again.
                    Ok(false) => return Err(Error::connection("the target has lost parts of it; did it crash?")),
                    Err(e) if e.is_transient() => {
                        shared.reporter.notice(Level::Warn, format!("copy {}: {e}; trying again", open.entry.relation.table)).await;
                        tokio::time::sleep(RETRY_DELAY).await;
                    }
                    Err(e) => return Err(e),
                }
            }
        };
        let (rows, bytes) = open.moved();
        match recorded.await {
            Ok(()) => {
                // The job uses the keeper's session for the next relation.
                if keeper.end().await.is_ok() && self.source.is_none() {
                    (self.source, self.joined) = (Some(keeper), None);
                }
                shared.copied(open.entry.clone(), open.spec.at, rows, bytes).await;
                Ok(())
            }
            Err(error) => failures::failed(&shared, open.entry.clone(), error, (rows, bytes)).await,
        }
    }

    /// Records the relation as copied; returns whether the target has all its parts.
    async fn record(&mut self, open: &OpenRelation) -> Result<bool> {
        let mut target = self.target_session().await?;
        let complete = transfer::record_parts(&mut target, open.entry.relation.oid, &open.spec).await?;
        self.target = Some(target);
        Ok(complete)
    }
}
