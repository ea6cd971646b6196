//! How fast tables are copied and indexes are built, as learned in this run.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::{
    meter::{Meter, between},
    table::Table,
};
use crate::event::TableState;

const WINDOW: Duration = Duration::from_secs(60);
/// Time between two samples at least: thousands of small tables need not each have one.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Before the first index is built: a build gets through a table this many times as fast as the copy did.
const GUESS: f64 = 3.0;
/// Builds of less than this say nothing, seconds.
const ENOUGH: f64 = 1.0;

/// The pace of copying and of building indexes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Pace {
    /// Bytes on disk, by estimate, copied in this run.
    bytes: u64,
    meter: Meter,
    sampled: Option<Timestamp>,
    /// Bytes of tables for which an index was built, and how long that took; seconds.
    indexed: (f64, f64),
}

impl Default for Pace {
    fn default() -> Self {
        Self { bytes: 0, meter: Meter::over(WINDOW), sampled: None, indexed: (0.0, 0.0) }
    }
}

impl Pace {
    /// Of one table there were `before` bytes, now there are `now`.
    pub(super) fn copied(&mut self, at: Timestamp, before: u64, now: u64) {
        self.bytes = (self.bytes + now).saturating_sub(before);
        if self.sampled.is_none_or(|last| between(last, at) >= SAMPLE_EVERY) {
            self.sampled = Some(at);
            self.meter.sample(at, self.bytes);
        }
    }

    /// An index of a table of this size was built.
    pub(super) fn indexed(&mut self, bytes: u64, took: Duration) {
        self.indexed.0 += bytes as f64;
        self.indexed.1 += took.as_secs_f64();
    }

    /// Bytes on disk a second, of all copies.
    pub(super) fn copy_rate(&self) -> f64 {
        self.meter.rate()
    }

    /// Bytes of its table a second that one build gets through.
    pub(super) fn index_rate(&self, tables: &[Table], now: Timestamp) -> Option<f64> {
        let (mut bytes, mut seconds) = self.indexed;
        for t in tables.iter().filter(|t| t.state() == TableState::Indexing) {
            for b in t.builds.iter().filter(|b| b.fraction > 0.0) {
                bytes += b.fraction * t.summary.bytes as f64;
                seconds += between(b.since, now).as_secs_f64();
            }
        }
        let guess = self.copy_rate() * GUESS;
        if seconds >= ENOUGH && bytes > 0.0 { Some(bytes / seconds) } else { (guess > 0.0).then_some(guess) }
    }
}
