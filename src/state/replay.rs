//! Stage 6: the stream from the source, its replay on the target, and what became of each table in it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, time::Duration};

use super::{
    log::Log,
    meter::{Meter, between, graph},
    tables::Tables,
};
use crate::{
    event::{AnalyzeStatus, CopyProgress, Difference, Level, ReplayStatus, SlotStatus, SlowTable, StreamStatus, TableState},
    lsn::Lsn,
    name::TableName,
};

/// The stream, and the replay of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// Name of the slot; `None` before it was created.
    pub slot: Option<String>,
    pub slot_status: SlotStatus,
    pub stream: StreamStatus,
    /// Why the stream does not flow.
    pub broken: Option<String>,
    pub status: ReplayStatus,
    /// When `status` was measured; `None` before replay has begun.
    pub measured: Option<Timestamp>,
    /// ANALYZE begins below this lag, bytes; 0: not known.
    pub analyze_below: u64,
    pub analyze: AnalyzeStatus,
    /// Lag over time: (when, bytes).
    pub lag_samples: VecDeque<(Timestamp, u64)>,
    /// Size of the spool over time: (when, bytes).
    pub spool_samples: VecDeque<(Timestamp, u64)>,
    pub source_meter: Meter,
    pub received_meter: Meter,
    pub applied_meter: Meter,
    pub changes_meter: Meter,
    pub spool_meter: Meter,
}

impl Replay {
    pub(super) fn slot_created(&mut self, at: Timestamp, slot: &str, lsn: Lsn, log: &mut Log) {
        self.slot = Some(slot.to_owned());
        log.add(at, Level::Info, format!("slot {slot} at {lsn}"));
    }

    pub(super) fn received(&mut self, at: Timestamp, status: StreamStatus) {
        self.stream = status;
        self.received_meter.sample(at, status.bytes);
        self.spool_meter.sample(at, status.spool_bytes);
        graph(&mut self.spool_samples, at, status.spool_bytes);
    }

    pub(super) fn broken(&mut self, at: Timestamp, error: Option<&str>, log: &mut Log) {
        self.broken = error.map(str::to_owned);
        match error {
            Some(error) => log.add(at, Level::Warn, format!("replication stream: {error}; retrying")),
            None => log.add(at, Level::Info, "replication stream flows"),
        }
    }

    pub(super) fn replayed(&mut self, at: Timestamp, status: &ReplayStatus) {
        self.status = status.clone();
        self.measured = Some(at);
        self.source_meter.sample(at, status.source.0);
        self.applied_meter.sample(at, status.applied.0);
        self.changes_meter.sample(at, status.changes);
        graph(&mut self.lag_samples, at, status.lag);
    }

    /// WAL between the source and the target, bytes; `None` before replay has begun.
    pub fn lag(&self) -> Option<u64> {
        self.measured.map(|_| self.status.lag)
    }

    /// The position up to which everything is received.
    pub fn received_lsn(&self) -> Lsn {
        self.stream.lsn.max(self.status.received)
    }

    /// Time until the target is in sync at the present rates; `None` when the lag grows, or nothing is known.
    pub fn sync_eta(&self) -> Option<Duration> {
        let lag = self.lag()?;
        let gaining = self.applied_meter.rate() - self.source_meter.rate();
        if lag == 0 {
            return Some(Duration::ZERO);
        }
        (gaining > 1.0).then(|| Duration::from_secs_f64((lag as f64 / gaining).min(1e9)))
    }

    /// Age of the last transaction when it was measured, by the clock of the source alone (C-22).
    pub fn last_commit_age(&self) -> Option<Duration> {
        Some(between(self.status.last_commit?, self.status.source_time?))
    }
}

impl Tables {
    pub(super) fn missed(&mut self, at: Timestamp, table: &TableName, missed: u64, log: &mut Log) {
        let Some(t) = self.get_mut(table) else { return };
        if t.missed() == 0 && missed > 0 {
            log.add(at, Level::Warn, format!("{table} differs now: a change found no row, or collided, and is counted, not applied"));
        }
        t.set_missed(missed);
    }

    pub(super) fn slowed_down(&mut self, at: Timestamp, slow: &SlowTable, log: &mut Log) {
        let SlowTable { table, reason, fix } = slow;
        if let Some(t) = self.get_mut(table) {
            t.slow = Some(slow.clone());
        }
        log.add(at, Level::Warn, format!("{table} is slow: {reason}. Fix: {fix}"));
    }

    pub(super) fn sped_up(&mut self, at: Timestamp, table: &TableName, log: &mut Log) {
        if let Some(t) = self.get_mut(table) {
            t.slow = None;
        }
        log.add(at, Level::Info, format!("{table} is no longer slow"));
    }

    /// It is emptied and copied: what was known of its rows on the target does not hold any more.
    pub(super) fn left(&mut self, table: &TableName, reason: &str) {
        let Some(t) = self.get_mut(table) else { return };
        (t.away, t.diverged, t.difference) = (Some(reason.to_owned()), None, None);
        t.copy = CopyProgress { state: TableState::Queued, rows: 0, bytes: 0, error: None, ..t.copy.clone() };
        (t.started, t.finished, t.meter) = (None, None, Meter::default());
    }

    pub(super) fn joined(&mut self, table: &TableName) {
        if let Some(t) = self.get_mut(table) {
            t.away = None;
        }
    }

    pub(super) fn diverged(&mut self, at: Timestamp, table: &TableName, reason: &str, log: &mut Log) {
        if let Some(t) = self.get_mut(table) {
            t.diverged = Some(reason.to_owned());
        }
        log.add(at, Level::Error, format!("{table} diverged: {reason}"));
    }

    pub(super) fn divergence_settled(&mut self, at: Timestamp, table: &TableName, accepted: bool, log: &mut Log) {
        if let Some(t) = self.get_mut(table) {
            t.diverged = None;
            if accepted {
                t.difference.get_or_insert(Difference::Accepted);
            }
        }
        log.add(at, Level::Warn, format!("{table}: {}", if accepted { "the difference is accepted" } else { "retried" }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_22_the_last_transactions_age_is_by_the_clock_of_the_source_alone() {
        let at = |ms| Some(Timestamp::from_millisecond(ms).unwrap());
        let age = |last_commit, source_time| {
            let mut replay = Replay::default();
            replay.replayed(Timestamp::from_second(1_000).unwrap(), &ReplayStatus { last_commit, source_time, ..ReplayStatus::default() });
            replay.last_commit_age()
        };
        // Our clock is hours early, or hours late.
        assert_eq!(age(at(9_000_000), at(9_000_400)), Some(Duration::from_millis(400)));
        assert_eq!(age(at(1_000), at(1_400)), Some(Duration::from_millis(400)));
        // The clock of the source was set back meanwhile.
        assert_eq!(age(at(9_000_000), at(5_000_000)), Some(Duration::ZERO));
        assert_eq!(age(None, at(5_000_000)), None);
    }
}
