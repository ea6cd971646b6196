//! One job of the copy: takes what is next, keeps its sessions from one relation to the next, and tells how it went.

use std::{sync::Arc, time::Duration};

use super::{
    Shared, chunks, key_ranges,
    parts::{self, Part, Ranges},
    queue::{After, Frame, Open, Outcome, Task, Work},
    source::{self, Session, Taken},
    transfer::{self, Broken, PROGRESS_EVERY, Route},
};
use crate::{
    error::{Error, Result},
    event::{Event, Level},
    name::TableName,
    pg::{
        catalog::versions,
        connect::session::Side,
        wire::{Copied, Wire},
    },
    sqlstate,
};

/// After passing trouble it is tried again this much later.
const AGAIN_AFTER: Duration = Duration::from_secs(1);

pub struct Worker {
    shared: Arc<Shared>,
    number: u32,
    source: Option<Session>,
    /// Whose snapshot the session of the source has joined: a relation that is tried again has another one.
    joined: Option<Arc<Open>>,
    target: Option<Wire>,
}

impl Worker {
    pub fn new(shared: Arc<Shared>, number: u32) -> Self {
        Self { shared, number, source: None, joined: None, target: None }
    }

    /// Works until everything is copied.
    pub async fn run(mut self) -> Result<()> {
        loop {
            let mut wanted = self.shared.wanted.clone();
            if *wanted.borrow() <= self.number {
                // Fewer jobs are wanted: the connections are given back.
                (self.source, self.joined, self.target) = (None, None, None);
                wanted.wait_for(|n| *n > self.number).await.map_err(|_| Error::stopped())?;
            }
            if self.shared.throttle.is_paused() {
                self.rest().await;
                self.shared.throttle.resumed().await?;
            }
            let work = if let Some(work) = self.shared.queue.take_now(self.joined.as_ref()) {
                work
            } else {
                self.rest().await;
                let Some(work) = self.shared.queue.take().await else { return Ok(()) };
                work
            };
            match work {
                Work::Relation(task) => self.relation(task).await?,
                Work::Part(open, part, keeper) => self.part(&open, part, keeper).await?,
            }
        }
    }

    /// While there is nothing to do, no snapshot and no lock are kept.
    async fn rest(&mut self) {
        self.joined = None;
        if let Some(session) = &mut self.source
            && session.end().await.is_err()
        {
            self.source = None;
        }
    }

    async fn source_session(&mut self) -> Result<Session> {
        match self.source.take() {
            Some(session) => Ok(session),
            None => Session::connect(&self.shared, &format!("copy-{}", self.number + 1)).await,
        }
    }

    async fn target_session(&mut self) -> Result<Wire> {
        if let Some(wire) = self.target.take() {
            return Ok(wire);
        }
        let name = format!("{}copy-{}", self.shared.prefix, self.number + 1);
        let mut wire = Wire::open(&self.shared.config.target, Side::Target, &name).await?;
        // The engine flushes once, at the end, and looks whether all is there.
        wire.execute("set synchronous_commit = off").await.map_err(|e| e.context("target"))?;
        Ok(wire)
    }

    /// Opens a relation; copies it if it is one part, hands out its parts otherwise.
    async fn relation(&mut self, task: Task) -> Result<()> {
        self.joined = None;
        let mut moved = (0, 0);
        match self.open(task.clone(), &mut moved).await {
            Ok(()) => Ok(()),
            Err(error) => {
                // Sessions in the middle of something are no good any more.
                (self.source, self.target) = (None, None);
                self.shared.failed(task, error, moved).await
            }
        }
    }

    async fn open(&mut self, mut task: Task, moved: &mut (u64, u64)) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let mut session = self.source_session().await?;
        let taken = source::open(&shared, &mut session, &task.relation).await?;
        let relation = &task.relation;
        let chunking = shared.hypertables.get(&relation.table);
        let mut heaps = Vec::new();
        if relation.storage.is_partitioned() || relation.bytes > shared.split {
            heaps = source::heaps(&mut session.wire, relation).await?;
        }
        if shared.config.parts_by_key || session.wire.version() / 10_000 < versions::TID_RANGE_SCAN {
            for heap in &mut heaps {
                let pieces = heap.pieces(shared.split);
                heap.ranges = Ranges::Keys(key_ranges::ranges(&mut session.wire, &heap.table, heap.blocks, pieces).await?);
            }
        }
        let mut parts = parts::cut(&heaps, shared.split, *shared.wanted.borrow(), chunking.is_some());
        if parts.is_empty() && !relation.storage.is_partitioned() {
            parts.push(Part::whole(relation.table.clone(), relation.bytes));
        }
        let whole = !relation.storage.is_partitioned() && parts.len() == 1;
        let mut target = self.target_session().await?;
        if !whole || task.target.used || task.tried {
            let only = !relation.storage.is_partitioned() && chunking.is_none();
            task.target.attempt = transfer::begin_attempt(&mut target, relation.oid, &relation.table, only).await?;
            task.target.used = true;
        }
        let mut streams = u32::MAX;
        if let Some(chunking) = chunking.filter(|_| !whole) {
            let blocks = heaps.iter().map(|h| h.blocks).sum();
            let made = chunks::create(&shared, chunking, (&mut session.wire, blocks, &taken.columns), &mut target, relation).await?;
            streams = if made { u32::MAX } else { 1 };
        }
        let exported = if whole { String::new() } else { source::export(&mut session.wire).await? };
        let format = shared.types.format(&taken.columns, &task.target.columns);
        let Taken { snapshot, at, durable, columns } = taken;
        let columns = columns.into_iter().map(|(name, _)| name).collect();
        let frame = Frame { snapshot, at, exported, columns, format, parts: parts.len() as u32, streams };
        let table = relation.table.clone();
        shared.reporter.report(Event::CopyBegun { table: table.clone(), format, parts: frame.parts.max(1) }).await;
        shared.progress(&table, 0, 0);
        if whole {
            let copied = self.whole(&task, &frame, &parts[0], durable, (session, target), moved).await?;
            shared.copied(task, frame.at, copied.rows_in, copied.bytes).await;
            return Ok(());
        }
        self.target = Some(target);
        let nothing = parts.is_empty();
        let open = Arc::new(Open::new(task, frame, parts, session));
        if nothing {
            // A partition root without partitions.
            let keeper = open.take_keeper().ok_or_else(|| Error::failed("a session was lost"))?;
            return self.finish(&open, keeper).await;
        }
        shared.queue.opened(open);
        Ok(())
    }

    /// A relation of one part: one transaction on either side.
    async fn whole(
        &mut self,
        task: &Task,
        frame: &Frame,
        part: &Part,
        durable: bool,
        (mut session, mut target): (Session, Wire),
        moved: &mut (u64, u64),
    ) -> Result<Copied> {
        let table = &task.relation.table;
        let route = Route { part, frame, into: table };
        let shared = Arc::clone(&self.shared);
        let mut last = std::time::Instant::now();
        let mut heard = |rows, bytes| {
            *moved = (rows, bytes);
            if last.elapsed() >= PROGRESS_EVERY {
                last = std::time::Instant::now();
                shared.progress(table, rows, bytes);
            }
            Ok(())
        };
        let copied = transfer::rows(&shared, &route, &mut session.wire, &mut target, &mut heard).await.map_err(|broken| broken.error)?;
        *moved = (copied.rows_in, copied.bytes);
        if !durable {
            source::wait_durable(&shared, &mut session.wire, frame.at).await?;
        }
        transfer::commit_whole(&mut target, task.relation.oid, task.target.attempt, frame, copied).await?;
        (self.source, self.target) = (Some(session), Some(target));
        Ok(copied)
    }

    /// One of several parts.
    async fn part(&mut self, open: &Arc<Open>, mut part: Part, keeper: Option<Session>) -> Result<()> {
        let shared = Arc::clone(&self.shared);
        let through_keeper = keeper.is_some();
        let mut session = match keeper {
            Some(mut keeper) => {
                self.rest().await;
                if let Err(e) = keeper.set_savepoint().await {
                    return self.leave(open, None, true, Outcome::Failed(e)).await;
                }
                keeper
            }
            None => match self.joined_session(open).await {
                Ok(session) => session,
                Err(e) if e.is_stop() => return Err(e),
                Err(e) if e.has_code(sqlstate::LOCK_NOT_AVAILABLE) => return self.leave(open, None, false, Outcome::Unjoinable(part)).await,
                Err(e) => return self.try_again(open, None, false, part, e).await,
            },
        };
        let mut so_far = (0i64, 0i64);
        let moved = self.move_part(open, &part, &mut session, &mut so_far).await;
        let table = &open.task.relation.table;
        let (outcome, alive) = match moved {
            Ok(copied) => {
                let (rows, bytes, _) = open.add(copied.rows_in as i64 - so_far.0, copied.bytes as i64 - so_far.1, PROGRESS_EVERY);
                shared.progress(table, rows, bytes);
                let alive = !through_keeper || session.release_savepoint().await;
                (Outcome::Done, alive)
            }
            Err(Broken { error, source_sends }) => {
                open.add(-so_far.0, -so_far.1, PROGRESS_EVERY);
                self.target = None;
                let alive = through_keeper && session.back_to_savepoint(source_sends).await;
                if through_keeper && !alive {
                    return self.leave(open, None, true, Outcome::Failed(error)).await;
                }
                if error.is_stop() {
                    return Err(error);
                }
                if open.has_failed() {
                    return self.leave(open, alive.then_some(session), through_keeper, Outcome::Again(part)).await;
                }
                if error.is_transient() {
                    part.failures += 1;
                    return self.try_again(open, alive.then_some(session), through_keeper, part, error).await;
                }
                (Outcome::Failed(error), alive)
            }
        };
        if through_keeper {
            return self.leave(open, alive.then_some(session), true, outcome).await;
        }
        // Its transaction goes on: the next part of this relation is read in it, too.
        if matches!(outcome, Outcome::Done) {
            (self.source, self.joined) = (Some(session), Some(Arc::clone(open)));
        }
        self.leave(open, None, false, outcome).await
    }

    /// Passing trouble with a part: it is copied again under the snapshot that lives.
    async fn try_again(&mut self, open: &Arc<Open>, keeper: Option<Session>, through_keeper: bool, part: Part, error: Error) -> Result<()> {
        let text = format!("copy {}, part {} of {}: {error}; trying again", open.task.relation.table, part.number + 1, open.frame.parts);
        self.shared.reporter.notice(Level::Warn, text).await;
        tokio::time::sleep(AGAIN_AFTER).await;
        self.leave(open, keeper, through_keeper, Outcome::Again(part)).await
    }

    /// A session of our own that reads under the relation's snapshot.
    async fn joined_session(&mut self, open: &Arc<Open>) -> Result<Session> {
        let joined = self.joined.take().is_some_and(|joined| Arc::ptr_eq(&joined, open));
        let mut session = self.source_session().await?;
        if !joined {
            source::join(&mut session, &open.task.relation, &open.frame.exported).await?;
        }
        Ok(session)
    }

    async fn move_part(&mut self, open: &Arc<Open>, part: &Part, session: &mut Session, so_far: &mut (i64, i64)) -> Result<Copied, Broken> {
        let shared = Arc::clone(&self.shared);
        let relation = &open.task.relation;
        let mut target = self.target_session().await.map_err(Broken::quiet)?;
        let attempt = open.task.target.attempt;
        if part.failures > 0
            && let Some(copied) = transfer::recorded(&mut target, relation.oid, attempt, part).await.map_err(Broken::quiet)?
        {
            self.target = Some(target);
            return Ok(copied);
        }
        let to_leaf =
            relation.storage.is_partitioned() && transfer::has_leaf(&mut target, &relation.table, &part.table).await.map_err(Broken::quiet)?;
        let into: &TableName = if to_leaf { &part.table } else { &relation.table };
        let route = Route { part, frame: &open.frame, into };
        let mut heard = |rows: u64, bytes: u64| {
            if open.has_failed() {
                return Err(Error::connection("another part of the table failed"));
            }
            let (more_rows, more_bytes) = (rows as i64 - so_far.0, bytes as i64 - so_far.1);
            *so_far = (rows as i64, bytes as i64);
            let (rows, bytes, due) = open.add(more_rows, more_bytes, PROGRESS_EVERY);
            if due {
                shared.progress(&relation.table, rows, bytes);
            }
            Ok(())
        };
        let copied = transfer::rows(&self.shared, &route, &mut session.wire, &mut target, &mut heard).await?;
        match transfer::commit_part(&mut target, relation.oid, attempt, &open.frame, part, copied).await {
            Ok(()) => {}
            // An earlier try of this part was committed although we have not heard of it.
            Err(e) if e.has_code(sqlstate::UNIQUE_VIOLATION) && part.failures > 0 => {}
            Err(e) => return Err(Broken::quiet(e)),
        }
        self.target = Some(target);
        Ok(copied)
    }

    /// Gives a part back; whoever is the last with a relation settles it.
    async fn leave(&mut self, open: &Arc<Open>, keeper: Option<Session>, used_keeper: bool, outcome: Outcome) -> Result<()> {
        match self.shared.queue.leave(open, keeper, used_keeper, outcome) {
            After::Going => Ok(()),
            After::Complete(keeper) => self.finish(open, keeper).await,
            After::Failed(error) => self.shared.failed(open.task.clone(), error, open.moved()).await,
        }
    }

    /// All parts are in: they count once L is durable on the source (I3), by one statement on the target.
    async fn finish(&mut self, open: &Arc<Open>, mut keeper: Session) -> Result<()> {
        let recorded = async {
            source::wait_durable(&self.shared, &mut keeper.wire, open.frame.at).await?;
            loop {
                match self.record(open).await {
                    Ok(true) => return Ok(()),
                    // The next attempt copies it anew.
                    Ok(false) => return Err(Error::connection("the target has lost parts of it; did it crash?")),
                    Err(e) if e.is_transient() => {
                        self.shared.reporter.notice(Level::Warn, format!("copy {}: {e}; trying again", open.task.relation.table)).await;
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                    Err(e) => return Err(e),
                }
            }
        };
        let (rows, bytes) = open.moved();
        match recorded.await {
            Ok(()) => {
                // The keeper's session serves on.
                if keeper.end().await.is_ok() && self.source.is_none() {
                    (self.source, self.joined) = (Some(keeper), None);
                }
                self.shared.copied(open.task.clone(), open.frame.at, rows, bytes).await;
                Ok(())
            }
            Err(error) => self.shared.failed(open.task.clone(), error, (rows, bytes)).await,
        }
    }

    /// Whether the target has all parts.
    async fn record(&mut self, open: &Open) -> Result<bool> {
        let mut target = self.target_session().await?;
        let complete = transfer::record_parts(&mut target, open.task.relation.oid, open.task.target.attempt, &open.frame).await?;
        self.target = Some(target);
        Ok(complete)
    }
}
