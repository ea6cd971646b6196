//! The stream from the source, and its replay on the target.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{lsn::Lsn, name::TableName};

/// What the receiver has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The greatest end of WAL that the source has reported.
    pub lsn: Lsn,
    /// Decoded stream so far, bytes.
    pub bytes: u64,
    /// The spool on disk, bytes.
    pub spool_bytes: u64,
    /// Free on that disk, bytes.
    pub disk_free: u64,
}

/// What `pg_replication_slots` says of our slot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// Empty before it was read; [`SlotStatus::GONE`] when there is no such slot.
    pub wal_status: String,
    /// Where `max_slot_wal_keep_size` is set.
    pub safe_wal_bytes: Option<u64>,
}

impl SlotStatus {
    pub const GONE: &str = "gone";
    /// What PostgreSQL calls an invalidated slot.
    pub const LOST: &str = "lost";
}

/// How far replay is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayStatus {
    /// Positions in the WAL of the source: its own end, what is received, what is applied.
    pub source: Lsn,
    pub received: Lsn,
    pub applied: Lsn,
    /// WAL between the source and the target, bytes.
    pub lag: u64,
    /// How long ago the source was where the target is now, ms, on one clock; `None` where that was before the first measurement.
    pub lag_ms: Option<u64>,
    /// Changes applied in this run.
    pub changes: u64,
    /// When the transaction that was taken from the stream last was committed, by the clock of the source.
    pub last_commit: Option<Timestamp>,
    /// What that clock said when all this was measured.
    pub source_time: Option<Timestamp>,
    pub lanes: Vec<LaneStatus>,
}

/// One lane of the replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    pub lane: u32,
    pub applied: Lsn,
    /// WAL between the source and the lane, bytes.
    pub lag: u64,
    /// How long ago the source was where the lane is now, ms; `None` where that was before the first measurement.
    pub lag_ms: Option<u64>,
    /// Waits for changes, not for the target.
    pub waiting: bool,
    /// The error with which the target refused its last attempt; it retries.
    #[serde(alias = "held_up")]
    pub blocked: Option<String>,
}

/// Changes applied to a table. All but `missed` count from the beginning of this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableCounters {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// How they were applied: as part of a set, by their key, or by their whole old row.
    pub sets: u64,
    pub in_order: u64,
    pub full_row: u64,
    /// Those that found no row, or collided, and were counted instead of applied; since the migration began.
    pub missed: u64,
}

impl TableCounters {
    pub fn changes(&self) -> u64 {
        self.inserts + self.updates + self.deletes + self.truncates
    }
}

/// A table differs from the source, with the operator's consent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Difference {
    /// The operator accepted that a change is not applied; none is counted.
    Accepted,
    /// Changes that found no row, or collided, and were counted instead of applied; at least one.
    Missed(u64),
}

/// A table whose changes take long, because the target reads much to find their rows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlowTable {
    pub table: TableName,
    pub reason: String,
    /// The statement for the target that fixes it, or what else would.
    pub fix: String,
}

/// ANALYZE of the target's tables.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnalyzeStatus {
    /// Tables analyzed so far, and all of them; 0 of 0 before it has begun.
    pub done: u64,
    pub total: u64,
    /// The table that is being analyzed.
    pub table: Option<TableName>,
    /// Why it ended early.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl AnalyzeStatus {
    pub fn is_running(&self) -> bool {
        self.error.is_none() && self.done < self.total
    }

    /// Finished, or failed.
    pub fn has_ended(&self) -> bool {
        self.error.is_some() || self.total > 0 && self.done == self.total
    }
}
