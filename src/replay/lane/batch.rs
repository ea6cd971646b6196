//! The changes that a lane collects until it applies them in one transaction.

use std::time::{Duration, Instant};
use tokio::sync::OwnedSemaphorePermit;

use super::feed::BatchStep;
use crate::replay::{change::Change, relation::Relations};

/// A batch is applied when it has this many changes, or takes this many bytes, or is this old. A transaction that touches a deferrable
/// constraint is never cut.
const BATCH_CHANGES: usize = 32_768;
const BATCH_BYTES: usize = 4 << 20;
const BATCH_AGE: Duration = Duration::from_secs(2);

/// Changes that are applied together.
#[derive(Default)]
pub struct Batch {
    pub step: BatchStep,
    bytes: usize,
    /// It touches a deferrable constraint.
    pub deferrable: bool,
    permits: Vec<OwnedSemaphorePermit>,
    since: Option<Instant>,
}

impl Batch {
    pub fn push(&mut self, change: Change, relations: &Relations) {
        self.bytes += change.bytes();
        self.deferrable |= relations[change.relation].shape.deferrable;
        self.step.changes.push(change);
    }

    /// Keeps the memory of changes that were pushed.
    pub fn hold(&mut self, permit: OwnedSemaphorePermit) {
        self.since.get_or_insert_with(Instant::now);
        // A transaction that is never cut must not wait for the memory that it takes itself.
        if !self.deferrable {
            self.permits.push(permit);
        }
    }

    pub fn release(&mut self) {
        self.permits.clear();
    }

    /// To be applied, also in the middle of a transaction.
    pub fn is_full(&self) -> bool {
        let old = || self.since.is_some_and(|t| t.elapsed() >= BATCH_AGE);
        !self.deferrable && (self.is_large() || old())
    }

    /// To be applied when its last transaction is complete.
    pub fn is_large(&self) -> bool {
        self.step.changes.len() >= BATCH_CHANGES || self.bytes >= BATCH_BYTES
    }

    pub fn is_empty(&self) -> bool {
        self.step.changes.is_empty()
    }
}
