//! One table, as it is copied, indexed and replayed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::meter::Meter;
use crate::event::{CopyFormat, RelationSummary, TableState};

/// One table on the copy and catch-up screens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub summary: RelationSummary,
    pub state: TableState,
    pub copied_rows: u64,
    pub copied_bytes: u64,
    pub meter: Meter,
    /// How its rows go over the wire, and in how many parts; 0 before its copy has begun.
    pub format: Option<CopyFormat>,
    pub parts: u32,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub error: Option<String>,
    pub indexes_done: u64,
    pub indexes_total: u64,
    /// The indexes that are being built.
    pub building: Vec<Building>,
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// How its changes were applied lately, in the order of [`Path`]: what came last weighs most.
    recent: [u64; 3],
    /// The same since the run began.
    pub paths: [u64; 3],
    pub diverged: Option<String>,
    /// Why its changes take long, and what mends it.
    pub slow: Option<Slow>,
    /// The operator accepted that the table differs from the source, for this change or beforehand.
    pub accepted: bool,
    /// Changes that were counted instead of applied, since the migration began.
    pub missed: u64,
}

/// An index that is being built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Building {
    pub index: String,
    pub since: Timestamp,
    /// PostgreSQL's; empty until it was looked at.
    pub phase: String,
    /// 0 to 1.
    pub fraction: f64,
}

/// A table whose changes take long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Slow {
    pub reason: String,
    /// The statement for the target, or what else would mend it.
    pub fix: String,
}

/// How changes are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Path {
    /// Many at once, as a set.
    Sets,
    /// One by one, by the key.
    InOrder,
    /// One by one, by the whole old row.
    FullRow,
}

impl Path {
    pub const ALL: [Self; 3] = [Self::Sets, Self::InOrder, Self::FullRow];

    pub fn word(self) -> &'static str {
        match self {
            Self::Sets => "sets",
            Self::InOrder => "in order",
            Self::FullRow => "full row",
        }
    }
}

impl Table {
    pub(super) fn new(summary: RelationSummary) -> Self {
        Self {
            summary,
            state: TableState::Queued,
            copied_rows: 0,
            copied_bytes: 0,
            meter: Meter::default(),
            format: None,
            parts: 0,
            started: None,
            finished: None,
            error: None,
            indexes_done: 0,
            indexes_total: 0,
            building: Vec::new(),
            inserts: 0,
            updates: 0,
            deletes: 0,
            truncates: 0,
            recent: [0; 3],
            paths: [0; 3],
            diverged: None,
            slow: None,
            accepted: false,
            missed: 0,
        }
    }

    /// What most of its changes went through lately; `None` before there were any.
    pub fn path(&self) -> Option<Path> {
        // The first of equals, and sets before the others.
        let most = self.recent.iter().copied().max().filter(|n| *n > 0)?;
        Path::ALL.into_iter().find(|p| self.recent[*p as usize] == most)
    }

    /// Whether it is known to differ from the source, with the operator's consent.
    pub fn differs(&self) -> bool {
        self.accepted || self.missed > 0
    }

    pub(super) fn set_paths(&mut self, paths: [u64; 3]) {
        for (i, now) in paths.into_iter().enumerate() {
            // Fewer than before: another run counts anew.
            let fresh = now.checked_sub(self.paths[i]).unwrap_or(now);
            self.recent[i] = self.recent[i] / 2 + fresh;
        }
        self.paths = paths;
    }

    pub fn changes(&self) -> u64 {
        self.inserts + self.updates + self.deletes + self.truncates
    }

    /// How much of the table is copied, 0 to 1. By rows where the planner knows them (the bytes on the wire are another measure
    /// than the bytes on disk), else by bytes; never quite 1 before the table is done.
    pub fn fraction(&self) -> f64 {
        if self.state.is_copied() {
            return 1.0;
        }
        let (part, whole) =
            if self.summary.rows > 0 { (self.copied_rows, self.summary.rows) } else { (self.copied_bytes, self.summary.bytes.max(1)) };
        (part as f64 / whole as f64).min(0.99)
    }

    /// Bytes of the table on disk that are copied, by estimate.
    pub fn done_bytes(&self) -> u64 {
        (self.fraction() * self.summary.bytes as f64) as u64
    }
}
