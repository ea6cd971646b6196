//! What is left to copy: relations, the largest first, and the parts of those that several jobs are at. Jobs take from it.
//!
//! A relation of several parts has a keeper: the session of the source that holds its lock and its snapshot (I1). Whoever takes a part
//! while nobody else uses that session, reads through it; others join its snapshot. So somebody can always go on, even when a waiting
//! ALTER TABLE keeps further sessions from the lock.

use std::{
    cmp::Reverse,
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::Notify;

use super::{parts::Part, source::Session};
use crate::{
    error::Error,
    event::CopyFormat,
    lsn::Lsn,
    pg::{catalog::SourceRelation, dump::Statement, ledger::Unfinished, snapshot::Snapshot},
};

/// So long others wait for the parts of a large relation before they begin the next one. It may have to wait for a lock.
const OPENING: Duration = Duration::from_secs(1);

/// A relation to be copied, and what the target has of it.
#[derive(Clone)]
pub struct Task {
    pub relation: SourceRelation,
    /// For its indexes.
    pub statements: Vec<Statement>,
    pub target: Unfinished,
    /// It was tried before in this run.
    pub tried: bool,
    /// It was put behind all others once: a check of it may read them.
    pub late: bool,
}

/// Under which snapshot a relation is copied, and how.
pub struct Frame {
    pub snapshot: Snapshot,
    /// L: where the source's WAL ended right after.
    pub at: Lsn,
    /// For `set transaction snapshot`.
    pub exported: String,
    pub columns: Vec<String>,
    pub format: CopyFormat,
    pub parts: u32,
    /// No more jobs may write at once.
    pub streams: u32,
}

/// A relation that is being copied in several parts.
pub struct Open {
    pub task: Task,
    pub frame: Frame,
    progress: Mutex<Progress>,
}

struct Progress {
    left: VecDeque<Part>,
    /// Jobs that are at a part.
    running: u32,
    /// While nobody uses it.
    keeper: Option<Session>,
    /// Further sessions can have its lock.
    joinable: bool,
    failed: Option<Error>,
    rows: u64,
    bytes: u64,
    reported: Option<Instant>,
}

impl Open {
    pub fn new(task: Task, frame: Frame, parts: Vec<Part>, keeper: Session) -> Self {
        let progress =
            Progress { left: parts.into(), running: 0, keeper: Some(keeper), joinable: true, failed: None, rows: 0, bytes: 0, reported: None };
        Self { task, frame, progress: Mutex::new(progress) }
    }

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Some part of it failed for good: the others are in vain.
    pub fn has_failed(&self) -> bool {
        self.lock().failed.is_some()
    }

    /// Rows and bytes of all parts so far, after so many more (or fewer, for a part that is copied again); with whether it is time to
    /// report them.
    pub fn add(&self, rows: i64, bytes: i64, every: std::time::Duration) -> (u64, u64, bool) {
        let mut p = self.lock();
        p.rows = p.rows.saturating_add_signed(rows);
        p.bytes = p.bytes.saturating_add_signed(bytes);
        let due = p.reported.is_none_or(|at| at.elapsed() >= every);
        if due {
            p.reported = Some(Instant::now());
        }
        (p.rows, p.bytes, due)
    }

    /// Rows and bytes of all parts so far.
    pub fn moved(&self) -> (u64, u64) {
        let p = self.lock();
        (p.rows, p.bytes)
    }

    /// The keeper of a relation that has no parts.
    pub fn take_keeper(&self) -> Option<Session> {
        self.lock().keeper.take()
    }

    /// A part for this job, with the keeper if it is free.
    fn take(&self, joined: bool) -> Option<(Part, Option<Session>)> {
        let mut p = self.lock();
        let may_read = p.keeper.is_some() || joined || p.joinable;
        if p.failed.is_some() || p.running >= self.frame.streams || !may_read {
            return None;
        }
        let part = p.left.pop_front()?;
        p.running += 1;
        // A session that has joined serves as well, and leaves the keeper to others.
        let keeper = if joined { None } else { p.keeper.take() };
        Some((part, keeper))
    }
}

/// What a job does next.
pub enum Work {
    Relation(Task),
    Part(Arc<Open>, Part, Option<Session>),
}

/// How it stands with a relation after a part of it.
pub enum After {
    Going,
    /// All parts are in; nobody but the keeper is left.
    Complete(Session),
    Failed(Error),
}

/// How a part ended.
pub enum Outcome {
    Done,
    /// Copied again, by whoever takes it.
    Again(Part),
    /// The same, but no more sessions can join.
    Unjoinable(Part),
    Failed(Error),
}

pub struct Queue {
    inner: Mutex<Inner>,
    changed: Notify,
    /// Larger relations are cut, bytes.
    split: u64,
}

struct Inner {
    waiting: VecDeque<Task>,
    /// The largest first.
    open: Vec<Arc<Open>>,
    /// When somebody began to open a relation that will have parts for others.
    opening: Option<Instant>,
    /// Relations that are neither copied nor skipped.
    unfinished: usize,
}

impl Queue {
    /// The largest relation comes first.
    pub fn new(mut tasks: Vec<Task>, split: u64) -> Self {
        tasks.sort_by_key(|t| Reverse(t.relation.bytes));
        let unfinished = tasks.len();
        let inner = Inner { waiting: tasks.into(), open: Vec::new(), opening: None, unfinished };
        Self { inner: Mutex::new(inner), changed: Notify::new(), split }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something to do, if there is something right now. `joined` is whose snapshot the job's own session has.
    ///
    /// All go to the largest relation together: its indexes take longest, and are built while the smaller ones are copied.
    pub fn take_now(&self, joined: Option<&Arc<Open>>) -> Option<Work> {
        let mut inner = self.lock();
        for open in &inner.open {
            if let Some((part, keeper)) = open.take(joined.is_some_and(|joined| Arc::ptr_eq(joined, open))) {
                return Some(Work::Part(Arc::clone(open), part, keeper));
            }
        }
        if inner.opening.is_some_and(|since| since.elapsed() < OPENING) {
            return None;
        }
        let task = inner.waiting.pop_front()?;
        inner.opening = (task.relation.bytes > self.split).then(Instant::now);
        Some(Work::Relation(task))
    }

    /// Waits for something to do; `None` when everything is done.
    pub async fn take(&self) -> Option<Work> {
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

    /// A relation is to be tried again, behind the next one: what fails for ever must not keep a single job from all others.
    pub fn put_back(&self, task: Task) {
        let mut inner = self.lock();
        inner.opening = None;
        let place = inner.waiting.len().min(1);
        inner.waiting.insert(place, task);
        self.changed.notify_waiters();
    }

    /// A relation is to be tried again behind all that wait; when nothing does, it comes back.
    pub fn put_last(&self, task: Task) -> Result<(), Task> {
        let mut inner = self.lock();
        if inner.waiting.is_empty() && inner.open.is_empty() {
            return Err(task);
        }
        inner.opening = None;
        inner.waiting.push_back(task);
        self.changed.notify_waiters();
        Ok(())
    }

    /// A relation is open: its parts can be taken.
    pub fn opened(&self, open: Arc<Open>) {
        let mut inner = self.lock();
        inner.opening = None;
        inner.open.push(open);
        inner.open.sort_by_key(|o| Reverse(o.task.relation.bytes));
        self.changed.notify_waiters();
    }

    /// A relation is copied, or skipped.
    pub fn settled(&self) {
        let mut inner = self.lock();
        inner.opening = None;
        inner.unfinished = inner.unfinished.saturating_sub(1);
        self.changed.notify_waiters();
    }

    /// A job leaves a part. `keeper` comes back from whoever used it, `None` if it is gone or was not used; with it goes the snapshot.
    pub fn leave(&self, open: &Arc<Open>, keeper: Option<Session>, used_keeper: bool, outcome: Outcome) -> After {
        let mut p = open.lock();
        p.running -= 1;
        if used_keeper && keeper.is_none() {
            p.failed.get_or_insert_with(|| Error::connection("the session that held the snapshot on the source is gone"));
        }
        p.keeper = p.keeper.take().or(keeper);
        match outcome {
            Outcome::Done => {}
            Outcome::Again(part) => p.left.push_front(part),
            Outcome::Unjoinable(part) => {
                p.joinable = false;
                p.left.push_front(part);
            }
            Outcome::Failed(error) => {
                // What failed for good says more than what passes.
                if p.failed.as_ref().is_none_or(Error::is_transient) {
                    p.failed = Some(error);
                }
            }
        }
        let after = match () {
            () if p.running > 0 || (p.failed.is_none() && !p.left.is_empty()) => After::Going,
            () => match (p.failed.take(), p.keeper.take()) {
                (Some(error), _) => After::Failed(error),
                (None, Some(keeper)) => After::Complete(keeper),
                (None, None) => After::Failed(Error::connection("the session that held the snapshot on the source is gone")),
            },
        };
        if !matches!(after, After::Going) {
            // Nobody takes from it any more.
            p.left.clear();
        }
        drop(p);
        if !matches!(after, After::Going) {
            self.lock().open.retain(|o| !Arc::ptr_eq(o, open));
        }
        self.changed.notify_waiters();
        after
    }
}
