//! What remains to be copied: relations, the largest first, and the parts of those that several jobs copy together. Jobs take from it.
//!
//! A relation of several parts has a keeper: the session of the source that holds its lock and its snapshot (I1). A job that takes a part
//! while the keeper is free reads through the keeper; the other jobs join its snapshot with sessions of their own. So one job can always
//! go on, even when a waiting ALTER TABLE keeps further sessions from the lock.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

use super::{parts::Part, source::SourceSession, spec::CopySpec};
use crate::{
    error::Error,
    pg::{catalog::SourceRelation, dump::Statement, ledger::Unfinished},
};

/// Other jobs wait this long for the parts of a large relation before they begin the next relation. Opening it may have to wait for a lock.
const OPENING: Duration = Duration::from_secs(1);

/// A relation that has to be copied.
#[derive(Clone)]
pub struct CopyQueueEntry {
    pub relation: SourceRelation,
    /// They build its indexes.
    pub statements: Vec<Statement>,
    /// What the target has of it, as the ledger said before this run, or after the operator's last answer, began to copy it.
    pub target: Unfinished,
    /// It was tried before in this run.
    pub tried: bool,
    /// It was put after all others once, because a check of it may read them.
    pub late: bool,
}

/// A relation that is being copied in several parts.
pub struct OpenRelation {
    pub entry: CopyQueueEntry,
    pub spec: CopySpec,
    parts: Mutex<Parts>,
}

struct Parts {
    remaining: VecDeque<Part>,
    /// Jobs that are copying a part.
    running: u32,
    /// `None` while a job reads through it, or when it is lost.
    keeper: Option<SourceSession>,
    /// Further sessions can get the lock.
    joinable: bool,
    failed: Option<Error>,
    rows: u64,
    bytes: u64,
    reported: Option<Instant>,
}

impl OpenRelation {
    pub fn new(entry: CopyQueueEntry, spec: CopySpec, parts: Vec<Part>, keeper: SourceSession) -> Self {
        let parts =
            Parts { remaining: parts.into(), running: 0, keeper: Some(keeper), joinable: true, failed: None, rows: 0, bytes: 0, reported: None };
        Self { entry, spec, parts: Mutex::new(parts) }
    }

    fn lock(&self) -> MutexGuard<'_, Parts> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A part has failed for good, so the other parts are useless.
    pub fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// Rows and bytes of all parts so far.
    pub fn moved(&self) -> (u64, u64) {
        let parts = self.lock();
        (parts.rows, parts.bytes)
    }

    /// The keeper of a relation that has no parts.
    pub fn take_keeper(&self) -> Option<SourceSession> {
        self.lock().keeper.take()
    }

    /// A part for this job, with the keeper if it is free.
    fn take(&self, joined: bool) -> Option<(Part, Option<SourceSession>)> {
        let mut parts = self.lock();
        let may_read = parts.keeper.is_some() || joined || parts.joinable;
        if parts.failed.is_some() || parts.running >= self.spec.streams || !may_read {
            return None;
        }
        let part = parts.remaining.pop_front()?;
        parts.running += 1;
        // A session that has joined the snapshot serves as well, and leaves the keeper to others.
        let keeper = if joined { None } else { parts.keeper.take() };
        Some((part, keeper))
    }
}

/// What one part has added to the rows and bytes of its relation, so that a part that has to be copied again can be subtracted.
pub struct PartCounter<'a> {
    relation: &'a OpenRelation,
    rows: u64,
    bytes: u64,
}

/// Rows and bytes of all parts of a relation.
pub struct Counted {
    pub rows: u64,
    pub bytes: u64,
    /// They were not reported for a while.
    pub is_due: bool,
}

impl<'a> PartCounter<'a> {
    pub fn new(relation: &'a OpenRelation) -> Self {
        Self { relation, rows: 0, bytes: 0 }
    }

    /// The part has moved this many rows and bytes since it began. Returns those of the relation.
    pub fn set(&mut self, rows: u64, bytes: u64, every: Duration) -> Counted {
        let mut all = self.relation.lock();
        all.rows = (all.rows + rows).saturating_sub(std::mem::replace(&mut self.rows, rows));
        all.bytes = (all.bytes + bytes).saturating_sub(std::mem::replace(&mut self.bytes, bytes));
        let is_due = all.reported.is_none_or(|at| at.elapsed() >= every);
        if is_due {
            all.reported = Some(Instant::now());
        }
        Counted { rows: all.rows, bytes: all.bytes, is_due }
    }
}

/// What a job does next.
pub enum CopyWork {
    Relation(CopyQueueEntry),
    Part(Arc<OpenRelation>, Part, Option<SourceSession>),
}

/// The keeper of a relation, when a job leaves a part of it.
pub enum Keeper {
    /// The job has read through a session of its own.
    NotUsed,
    /// The job gives it back, with the snapshot and the lock.
    Returned(Box<SourceSession>),
    /// The job has used it, and it is gone. The snapshot is gone with it.
    Lost,
}

/// How a part ended.
pub enum PartOutcome {
    Done,
    /// It is copied again, by the job that takes it next.
    Again(Part),
    /// The same, and no further session can join the snapshot.
    Unjoinable(Part),
    Failed(Error),
}

/// The state of a relation after a job has left one of its parts.
pub enum AfterPart {
    Going,
    /// All parts are copied; only the keeper is left.
    Complete(SourceSession),
    Failed(Error),
}

pub struct CopyQueue {
    inner: Mutex<Inner>,
    changed: Notify,
    /// Larger relations are cut, bytes.
    split: u64,
}

struct Inner {
    waiting: VecDeque<CopyQueueEntry>,
    /// The largest first.
    open: Vec<Arc<OpenRelation>>,
    /// When a job began to open a relation that will have parts for other jobs.
    opening: Option<Instant>,
    /// Relations that are neither copied nor skipped.
    unfinished: usize,
}

impl CopyQueue {
    /// The largest relation comes first.
    pub fn new(mut entries: Vec<CopyQueueEntry>, split: u64) -> Self {
        entries.sort_by_key(|e| Reverse(e.relation.bytes));
        let unfinished = entries.len();
        let inner = Inner { waiting: entries.into(), open: Vec::new(), opening: None, unfinished };
        Self { inner: Mutex::new(inner), changed: Notify::new(), split }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Work that can begin now. `joined` is the relation whose snapshot the job's own session has.
    ///
    /// All jobs copy the largest relation together, because its indexes take longest and are built while the smaller ones are copied.
    pub fn take_now(&self, joined: Option<&Arc<OpenRelation>>) -> Option<CopyWork> {
        let mut inner = self.lock();
        for open in &inner.open {
            if let Some((part, keeper)) = open.take(joined.is_some_and(|joined| Arc::ptr_eq(joined, open))) {
                return Some(CopyWork::Part(Arc::clone(open), part, keeper));
            }
        }
        if inner.opening.is_some_and(|since| since.elapsed() < OPENING) {
            return None;
        }
        let entry = inner.waiting.pop_front()?;
        inner.opening = (entry.relation.bytes > self.split).then(Instant::now);
        Some(CopyWork::Relation(entry))
    }

    /// Waits for work; `None` when everything is done.
    pub async fn take(&self) -> Option<CopyWork> {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if let Some(work) = self.take_now(None) {
                return Some(work);
            }
            if self.lock().unfinished == 0 {
                return None;
            }
            let _ = tokio::time::timeout(OPENING, changed).await;
        }
    }

    /// A relation is to be tried again, after the next one: a relation that fails for ever must not keep a single job from all others.
    pub fn put_back(&self, entry: CopyQueueEntry) {
        let mut inner = self.lock();
        inner.opening = None;
        let place = inner.waiting.len().min(1);
        inner.waiting.insert(place, entry);
        self.changed.notify_waiters();
    }

    /// A relation is to be tried again after all that wait; when none waits, the entry is returned.
    pub fn put_last(&self, entry: CopyQueueEntry) -> Result<(), CopyQueueEntry> {
        let mut inner = self.lock();
        if inner.waiting.is_empty() && inner.open.is_empty() {
            return Err(entry);
        }
        inner.opening = None;
        inner.waiting.push_back(entry);
        self.changed.notify_waiters();
        Ok(())
    }

    /// A relation is open: its parts can be taken.
    pub fn opened(&self, open: Arc<OpenRelation>) {
        let mut inner = self.lock();
        inner.opening = None;
        inner.open.push(open);
        inner.open.sort_by_key(|o| Reverse(o.entry.relation.bytes));
        self.changed.notify_waiters();
    }

    /// A relation is copied, or skipped.
    pub fn settled(&self) {
        let mut inner = self.lock();
        inner.opening = None;
        inner.unfinished = inner.unfinished.saturating_sub(1);
        self.changed.notify_waiters();
    }

    /// A job leaves a part. When it was the last job at work, the relation is complete or has failed, and leaves the queue.
    pub fn leave(&self, open: &Arc<OpenRelation>, keeper: Keeper, outcome: PartOutcome) -> AfterPart {
        let mut parts = open.lock();
        parts.running -= 1;
        match keeper {
            Keeper::NotUsed => {}
            Keeper::Returned(session) => parts.keeper = Some(*session),
            Keeper::Lost => {
                parts.failed.get_or_insert_with(keeper_lost);
            }
        }
        match outcome {
            PartOutcome::Done => {}
            PartOutcome::Again(part) => parts.remaining.push_front(part),
            PartOutcome::Unjoinable(part) => {
                parts.joinable = false;
                parts.remaining.push_front(part);
            }
            PartOutcome::Failed(error) => {
                // An error that lasts says more than a transient one.
                if parts.failed.as_ref().is_none_or(Error::is_transient) {
                    parts.failed = Some(error);
                }
            }
        }
        let after = match () {
            () if parts.running > 0 || (parts.failed.is_none() && !parts.remaining.is_empty()) => AfterPart::Going,
            () => match (parts.failed.take(), parts.keeper.take()) {
                (Some(error), _) => AfterPart::Failed(error),
                (None, Some(keeper)) => AfterPart::Complete(keeper),
                (None, None) => AfterPart::Failed(keeper_lost()),
            },
        };
        if !matches!(after, AfterPart::Going) {
            // No job takes from it any more.
            parts.remaining.clear();
        }
        drop(parts);
        if !matches!(after, AfterPart::Going) {
            self.lock().open.retain(|o| !Arc::ptr_eq(o, open));
        }
        self.changed.notify_waiters();
        after
    }
}

fn keeper_lost() -> Error {
    Error::connection("the session that held the snapshot on the source is gone")
}
