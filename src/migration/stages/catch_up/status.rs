//! What is known of a running replay beside its workers.

use std::time::{Duration, Instant};
use tokio::sync::watch;

use crate::{lsn::Lsn, replay::relation::RelationCounters};

/// Where ANALYZE is; it runs once in a run.
pub(super) enum Analyze {
    NotYet,
    /// `None` until it has ended; then `Err` has the reason for which it failed.
    Running(watch::Receiver<Option<Result<(), String>>>),
    Done,
    Failed(String),
}

impl Analyze {
    /// Nothing is to be expected of it any more.
    pub(super) fn has_ended(&self) -> bool {
        matches!(self, Self::Done | Self::Failed(_))
    }
}

/// How long a position of the source takes to reach the target.
#[derive(Debug, Default)]
pub(super) struct RoundTrip {
    /// The position that is waited for, and since when.
    probe: Option<(Lsn, Instant)>,
    /// The last one measured; `None` before the first.
    pub(super) took: Option<Duration>,
}

impl RoundTrip {
    pub(super) fn measure(&mut self, source: Lsn, applied: Lsn) {
        match self.probe {
            Some((lsn, since)) if applied >= lsn => {
                self.took = Some(since.elapsed());
                self.probe = Some((source, Instant::now()));
            }
            // It already takes longer than the last one did.
            Some((_, since)) if self.took.is_some_and(|took| since.elapsed() > took) => self.took = Some(since.elapsed()),
            Some(_) => {}
            None => self.probe = Some((source, Instant::now())),
        }
    }
}

/// The counters of a relation, and what was reported of them.
pub struct AppliedCounters {
    pub(super) counters: watch::Receiver<RelationCounters>,
    /// What other lanes of this run have counted.
    pub(super) earlier: RelationCounters,
    pub(super) last_reported: RelationCounters,
    /// Changes that earlier runs have missed.
    pub(super) missed_before: u64,
}
