//! What replay knows of a relation: how it was copied (which decides from where on changes count), its lane, and the shape of the
//! table on the target.

use super::change::Change;
use crate::{
    lsn::Lsn,
    name::TableName,
    pg::{ledger::Spread, snapshot::Snapshot, target_table::TargetTable},
};

/// One replayed relation: a table, or a partition root with all its leaves.
#[derive(Clone, Debug)]
pub struct Relation {
    /// Of the table, or of the root, on the source.
    pub oid: u32,
    pub table: TableName,
    pub lane: u32,
    /// Of the transaction that copied it.
    pub snapshot: Snapshot,
    /// WAL insert position right after that snapshot was taken.
    pub copied_at: Lsn,
    /// The operator skipped its data: its changes are dropped, too.
    pub skipped: bool,
    pub target: TargetTable,
    pub spread: Spread,
}

impl Relation {
    /// Whether a change has to be applied, or is part of what was copied (I1).
    pub fn wants(&self, commit: Lsn, xid: u32) -> bool {
        !self.skipped && (commit > self.copied_at || !self.snapshot.sees(self.snapshot.widen(xid)))
    }
}

/// Changes of a relation applied so far in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Changes that found no row, or collided, in a relation whose divergence was accepted.
    pub missed: u64,
    /// How the changes were applied: as part of a set, by their key, or by their whole old row.
    pub sets: u64,
    pub in_order: u64,
    pub full_row: u64,
}

impl Counters {
    /// Counts what a change does; the path is counted by whoever applies it.
    pub fn count(&mut self, change: &Change) {
        match change.message.first() {
            Some(b'I') => self.inserts += 1,
            Some(b'U') => self.updates += 1,
            _ => self.deletes += 1,
        }
    }

    pub fn add(&mut self, more: &Self) {
        self.inserts += more.inserts;
        self.updates += more.updates;
        self.deletes += more.deletes;
        self.truncates += more.truncates;
        self.missed += more.missed;
        self.sets += more.sets;
        self.in_order += more.in_order;
        self.full_row += more.full_row;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_1_a_change_counts_when_it_is_not_part_of_the_copy() {
        let relation = Relation {
            oid: 1,
            table: TableName::new("public", "t"),
            lane: 0,
            snapshot: "100:105:102".parse().unwrap(),
            copied_at: Lsn(1_000),
            skipped: false,
            target: TargetTable::default(),
            spread: Spread::No,
        };
        // committed before L and visible: part of the copy
        assert!(!relation.wants(Lsn(900), 99) && !relation.wants(Lsn(1_000), 103));
        // committed before L, but still running for the snapshot
        assert!(relation.wants(Lsn(900), 102) && relation.wants(Lsn(999), 107));
        // committed after L: never part of it, whatever its xid
        assert!(relation.wants(Lsn(1_001), 99));
        assert!(!Relation { skipped: true, ..relation }.wants(Lsn(2_000), 200));
    }
}
