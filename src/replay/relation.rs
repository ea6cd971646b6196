//! What replay knows of the relations: how each was copied (which decides from where on its changes count), its lane, and the shape of
//! its table on the target.

use std::ops::Index;

use super::pgoutput::{RelationMessage, RowOp};
use crate::{
    lsn::Lsn,
    name::TableName,
    pg::{
        snapshot::Snapshot,
        target_table::{TableKind, TargetTable},
    },
};

/// Which of the replayed relations: its place in [`Relations`], which stays the same for the whole run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RelationIndex(pub usize);

/// One replayed relation: a table, or a partition root with all its leaves.
#[derive(Clone, Debug, Default)]
pub struct Relation {
    /// Of the table, or of the root, on the source.
    pub oid: u32,
    pub table: TableName,
    /// The lane that has all of its changes, unless its keys are distributed over all lanes.
    pub lane: u32,
    /// Of the transaction that copied it.
    pub snapshot: Snapshot,
    /// WAL insert position right after that snapshot was taken.
    pub copied_at: Lsn,
    /// Where it joined the lanes, after it had been copied while they went on: what was committed before is not theirs.
    pub joined: Lsn,
    /// The operator skipped its data: its changes are dropped, too.
    pub skipped: bool,
    /// It is being copied, or a lane of its own brings it to where the others are: its changes are not for these lanes.
    pub away: bool,
    /// The shape of its table on the target.
    pub shape: TargetTable,
}

impl Relation {
    /// Whether a change has to be applied, or is part of what was copied (I1).
    pub fn wants(&self, commit: Lsn, xid: u32) -> bool {
        let is_ours = !self.skipped && !self.away && commit >= self.joined;
        is_ours && (commit > self.copied_at || !self.snapshot.sees(self.snapshot.widen(xid)))
    }

    /// Whether the key of a leaf's rows finds them in that leaf only. Another leaf may have a row of the same key, unless the key contains
    /// that of the root, and with it the columns by which the rows are divided.
    pub fn is_keyed_by_leaf(&self, message: &RelationMessage) -> bool {
        let in_key = |name: &String| message.columns.iter().any(|c| c.key && c.name == *name);
        let of_root = &self.shape.primary_key;
        self.shape.kind == TableKind::Partitioned
            && message.oid != self.oid
            && message.identity != b'f'
            && (of_root.is_empty() || !of_root.iter().all(in_key))
    }

    /// What an UPDATE or DELETE names to find a row by its key: the table, or the leaf. A row that moves to another leaf is a DELETE and an
    /// INSERT in the stream.
    pub fn searched(&self, message: &RelationMessage) -> String {
        if self.is_keyed_by_leaf(message) {
            return format!("only {}", TableName::new(&message.schema, &message.name).sql());
        }
        format!("{}{}", self.shape.only(), self.table.sql())
    }
}

/// All replayed relations.
#[derive(Clone, Debug, Default)]
pub struct Relations(Vec<Relation>);

impl Relations {
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> std::slice::Iter<'_, Relation> {
        self.0.iter()
    }

    pub fn indices(&self) -> impl Iterator<Item = RelationIndex> + use<> {
        (0..self.0.len()).map(RelationIndex)
    }

    /// The same relations, except for one.
    #[must_use]
    pub fn with(&self, index: RelationIndex, relation: Relation) -> Self {
        let mut relations = self.0.clone();
        relations[index.0] = relation;
        Self(relations)
    }
}

impl From<Vec<Relation>> for Relations {
    fn from(relations: Vec<Relation>) -> Self {
        Self(relations)
    }
}

impl Index<RelationIndex> for Relations {
    type Output = Relation;

    fn index(&self, index: RelationIndex) -> &Relation {
        &self.0[index.0]
    }
}

impl<'a> IntoIterator for &'a Relations {
    type Item = &'a Relation;
    type IntoIter = std::slice::Iter<'a, Relation>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

/// Changes of a relation applied so far in this run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RelationCounters {
    pub inserts: u64,
    pub updates: u64,
    pub deletes: u64,
    pub truncates: u64,
    /// Changes that found no row, or collided, and were left out because the operator accepted it.
    pub conflicts_skipped: u64,
    /// How the changes were applied: as part of a set, by their key, or by their whole old row.
    pub sets: u64,
    pub in_order: u64,
    pub full_row: u64,
}

impl RelationCounters {
    /// Counts what a change does; the path is counted by whoever applies it.
    pub fn count(&mut self, op: RowOp) {
        match op {
            RowOp::Insert => self.inserts += 1,
            RowOp::Update => self.updates += 1,
            RowOp::Delete => self.deletes += 1,
        }
    }

    pub fn add(&mut self, more: &Self) {
        self.inserts += more.inserts;
        self.updates += more.updates;
        self.deletes += more.deletes;
        self.truncates += more.truncates;
        self.conflicts_skipped += more.conflicts_skipped;
        self.sets += more.sets;
        self.in_order += more.in_order;
        self.full_row += more.full_row;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::pgoutput::ColumnMessage;

    #[test]
    fn c_1_a_change_counts_when_it_is_not_part_of_the_copy() {
        let relation = Relation {
            oid: 1,
            table: TableName::new("public", "t"),
            snapshot: "100:105:102".parse().unwrap(),
            copied_at: Lsn(1_000),
            ..Relation::default()
        };
        // committed before L and visible: part of the copy
        assert!(!relation.wants(Lsn(900), 99) && !relation.wants(Lsn(1_000), 103));
        // committed before L, but still running for the snapshot
        assert!(relation.wants(Lsn(900), 102) && relation.wants(Lsn(999), 107));
        // committed after L: never part of it, whatever its xid
        assert!(relation.wants(Lsn(1_001), 99));
        assert!(!Relation { skipped: true, ..relation.clone() }.wants(Lsn(2_000), 200));
        // copied while replay went on: its own lane has applied what came before it joined
        assert!(!Relation { away: true, ..relation.clone() }.wants(Lsn(2_000), 200));
        let joined = Relation { joined: Lsn(3_000), ..relation };
        assert!(!joined.wants(Lsn(2_999), 200) && joined.wants(Lsn(3_000), 200));
    }

    #[test]
    fn rows_of_a_leaf_are_searched_in_it_unless_their_key_is_that_of_the_root() {
        let column = |name: &str| ColumnMessage { key: name != "v", name: name.into(), type_oid: 25, type_modifier: -1 };
        let message = |identity, names: &[&str]| RelationMessage {
            oid: 2,
            schema: "public".into(),
            name: "t_1".into(),
            identity,
            columns: names.iter().map(|n| column(n)).collect(),
        };
        let root = |kind, key: &[&str]| Relation {
            oid: 1,
            table: TableName::new("public", "t"),
            shape: TargetTable { kind, primary_key: key.iter().map(ToString::to_string).collect(), ..TargetTable::default() },
            ..Relation::default()
        };
        let (partitioned, merged) = (TableKind::Partitioned, TableKind::Hypertable);
        for (relation, message, searched) in [
            (root(partitioned, &[]), message(b'd', &["id", "v"]), r#"only "public"."t_1""#),
            (root(partitioned, &["id", "part"]), message(b'i', &["id", "v"]), r#"only "public"."t_1""#),
            (root(partitioned, &["id", "part"]), message(b'd', &["id", "part", "v"]), r#""public"."t""#),
            // All of its columns find a row.
            (root(partitioned, &[]), message(b'f', &["id", "v"]), r#""public"."t""#),
            (root(merged, &[]), message(b'd', &["id", "v"]), r#""public"."t""#),
        ] {
            assert_eq!(relation.searched(&message), searched, "{message:?}");
        }
    }
}
