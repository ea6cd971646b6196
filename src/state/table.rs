//! One table, as it is copied, indexed and replayed.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::meter::Meter;
use crate::event::{CopyFormat, CopyProgress, Difference, RelationSummary, SlowTable, TableCounters, TableState};

/// One table on the copy and catch-up screens.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Table {
    pub summary: RelationSummary,
    pub copy: CopyProgress,
    /// Of the bytes on the wire.
    pub meter: Meter,
    /// How its rows go over the wire, and in how many parts; 0 before its copy has begun.
    pub format: Option<CopyFormat>,
    pub parts: u32,
    pub started: Option<Timestamp>,
    pub finished: Option<Timestamp>,
    pub indexes_done: u64,
    pub indexes_total: u64,
    /// The indexes that are being built.
    pub builds: Vec<IndexBuild>,
    pub counters: TableCounters,
    /// How its changes were applied lately, in the order of [`ApplyPath`]: the newest weigh most.
    recent: [u64; 3],
    /// Why a change cannot be applied; it waits for the operator.
    pub diverged: Option<String>,
    /// Why it is copied while others are replayed.
    #[serde(default)]
    pub away: Option<String>,
    pub slow: Option<SlowTable>,
    /// It differs from the source, with the operator's consent.
    pub difference: Option<Difference>,
}

/// An index that is being built.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IndexBuild {
    pub index: String,
    pub since: Timestamp,
    /// PostgreSQL's; empty until it was polled.
    pub phase: String,
    /// 0 to 1.
    pub fraction: f64,
}

/// How changes are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ApplyPath {
    /// Many together, as a set.
    Sets,
    /// One by one, by the key.
    InOrder,
    /// One by one, by the whole old row.
    FullRow,
}

impl ApplyPath {
    pub const ALL: [Self; 3] = [Self::Sets, Self::InOrder, Self::FullRow];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sets => "sets",
            Self::InOrder => "in order",
            Self::FullRow => "full row",
        }
    }
}

/// Changes by [`ApplyPath`].
fn paths(c: &TableCounters) -> [u64; 3] {
    [c.sets, c.in_order, c.full_row]
}

impl Table {
    pub(super) fn new(summary: RelationSummary) -> Self {
        let copy = CopyProgress { table: summary.table.clone(), state: TableState::Queued, rows: 0, bytes: 0, error: None };
        Self {
            summary,
            copy,
            meter: Meter::default(),
            format: None,
            parts: 0,
            started: None,
            finished: None,
            indexes_done: 0,
            indexes_total: 0,
            builds: Vec::new(),
            counters: TableCounters::default(),
            recent: [0; 3],
            diverged: None,
            away: None,
            slow: None,
            difference: None,
        }
    }

    pub fn state(&self) -> TableState {
        self.copy.state
    }

    /// What most of its changes went through lately; `None` before there were any.
    pub fn path(&self) -> Option<ApplyPath> {
        // The first of equals, and sets before the others.
        let most = self.recent.iter().copied().max().filter(|n| *n > 0)?;
        ApplyPath::ALL.into_iter().find(|p| self.recent[*p as usize] == most)
    }

    /// Changes that were counted instead of applied, since the migration began.
    pub fn missed(&self) -> u64 {
        match self.difference {
            Some(Difference::Missed(n)) => n,
            Some(Difference::Accepted) | None => 0,
        }
    }

    pub(super) fn set_missed(&mut self, missed: u64) {
        if missed > 0 {
            self.difference = Some(Difference::Missed(missed));
        }
    }

    pub(super) fn set_counters(&mut self, counters: TableCounters) {
        for (i, (now, before)) in paths(&counters).into_iter().zip(paths(&self.counters)).enumerate() {
            // Fewer than before: another run counts from 0.
            let fresh = now.checked_sub(before).unwrap_or(now);
            self.recent[i] = self.recent[i] / 2 + fresh;
        }
        self.counters = counters;
        self.set_missed(counters.missed);
    }

    /// How much of the table is copied, 0 to 1. By rows where the planner knows them (the bytes on the wire are another measure
    /// than the bytes on disk), else by bytes; never quite 1 before the table is done.
    pub fn fraction(&self) -> f64 {
        if self.state().is_copied() {
            return 1.0;
        }
        let (part, whole) = if self.summary.rows > 0 { (self.copy.rows, self.summary.rows) } else { (self.copy.bytes, self.summary.bytes.max(1)) };
        (part as f64 / whole as f64).min(0.99)
    }

    /// Bytes of the table on disk that are copied, by estimate.
    pub fn done_bytes(&self) -> u64 {
        (self.fraction() * self.summary.bytes as f64) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{event::RelationKind, name::TableName};

    #[test]
    fn the_path_is_what_most_changes_went_through_lately() {
        let summary = RelationSummary { table: TableName::new("public", "a"), kind: RelationKind::Plain, bytes: 10_000, rows: 1_000 };
        let path = |events: &[[u64; 3]]| {
            let mut table = Table::new(summary.clone());
            for [sets, in_order, full_row] in events {
                table.set_counters(TableCounters { sets: *sets, in_order: *in_order, full_row: *full_row, ..TableCounters::default() });
            }
            table.path()
        };
        assert_eq!(path(&[]), None);
        assert_eq!(path(&[[0, 0, 0]]), None);
        assert_eq!(path(&[[5, 90, 6]]), Some(ApplyPath::InOrder));
        // A past of sets does not outweigh for long what happens now.
        assert_eq!(path(&[[900_000, 0, 0], [900_000, 0, 400]]), Some(ApplyPath::Sets));
        let mut later = vec![[900_000, 0, 0]];
        later.extend((1..20).map(|n| [900_000, 0, n * 400]));
        assert_eq!(path(&later), Some(ApplyPath::FullRow));
        // Another run counts from 0.
        assert_eq!(path(&[[3, 0, 0], [0, 2, 0]]), Some(ApplyPath::InOrder));
    }
}
