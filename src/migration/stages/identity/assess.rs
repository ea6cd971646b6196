//! What replica identity a table of the source has, whether it serves, and which one it may get. Pure.

use crate::{
    error::{Error, Result},
    event::{IdentityRow, IdentityState},
    pg::catalog::SourceRelation,
    plan::{IdentityChoice, IdentityDefault, Plan},
};

/// Whether a relation can have this identity.
pub fn possible(relation: &SourceRelation, choice: &IdentityChoice) -> Result<()> {
    match choice {
        IdentityChoice::InsertOnly => Ok(()),
        _ if relation.storage.is_partitioned() => {
            Err(Error::refused(format!("{}: its partitions have replica identities of their own", relation.table))
                .hint("give the root a primary key, or each partition a primary key or REPLICA IDENTITY FULL; or choose insert-only"))
        }
        IdentityChoice::Full if !relation.full_is_possible => {
            Err(Error::refused(format!("{} has generated columns: with FULL the source's own updates of it would fail", relation.table))
                .hint("choose a unique index, or insert-only"))
        }
        IdentityChoice::Full => Ok(()),
        IdentityChoice::Index(name) => match relation.index(name) {
            Some(index) if index.usable => Ok(()),
            Some(_) => Err(Error::refused(format!("index {name} of {} cannot serve", relation.table))
                .hint("it has to be unique, immediate, not partial, on plain columns that are NOT NULL and not generated")),
            None => Err(Error::refused(format!("{} has no unique index {name}", relation.table))),
        },
    }
}

/// Whether a relation has this identity already; insert-only needs none.
pub fn has(relation: &SourceRelation, choice: &IdentityChoice) -> bool {
    match choice {
        IdentityChoice::InsertOnly => true,
        IdentityChoice::Full => relation.identity == 'f',
        IdentityChoice::Index(name) => relation.identity == 'i' && relation.identity_index.as_ref() == Some(name),
    }
}

/// Whether the plan sets another replica identity on the source.
pub fn is_altered_by(plan: &Plan, r: &SourceRelation) -> bool {
    let by_default = || plan.identity_default.filter(|_| !r.unlogged && !usable_identity(r).1).and_then(|default| by_default(r, default));
    plan.identity(&r.table).cloned().or_else(by_default).is_some_and(|choice| !has(r, &choice))
}

/// Whether its UPDATE and DELETE can be replicated as it is, or need not be.
pub fn is_replicable(r: &SourceRelation, plan: &Plan) -> bool {
    plan.identity(&r.table) == Some(&IdentityChoice::InsertOnly) || usable_identity(r).1
}

/// What the default of a plan gives to a relation without a usable identity; `None` where it is not possible.
pub fn by_default(r: &SourceRelation, default: IdentityDefault) -> Option<IdentityChoice> {
    let index = || r.indexes.iter().find(|i| i.usable).map(|i| IdentityChoice::Index(i.name.clone()));
    let choice = match default {
        IdentityDefault::InsertOnly => IdentityChoice::InsertOnly,
        IdentityDefault::Full => IdentityChoice::Full,
        IdentityDefault::Proposed => index().unwrap_or(IdentityChoice::Full),
    };
    possible(r, &choice).is_ok().then_some(choice)
}

/// What the table has now, and whether UPDATE and DELETE can be replicated with it.
pub fn usable_identity(r: &SourceRelation) -> (String, bool) {
    let primary = r.primary_key();
    if r.bare_leaf.is_some() {
        return ("a partition has none".into(), false);
    }
    // The identity of a root is of no use: changes are published under the names of the leaves.
    if r.storage.is_partitioned() {
        return if has_key(r) { ("default (PK)".into(), true) } else { ("of each partition".into(), true) };
    }
    match r.identity {
        'd' => match primary {
            Some(p) if p.usable => ("default (PK)".into(), true),
            Some(_) => ("default (PK is deferrable)".into(), false),
            None => ("default, no PK".into(), false),
        },
        'i' => match &r.identity_index {
            Some(name) => (format!("index {name}"), r.index(name).is_some_and(|i| i.usable)),
            None => ("index that was dropped".into(), false),
        },
        'f' if !r.full_is_possible => ("full, with generated columns".into(), false),
        'f' => ("full".into(), true),
        _ => ("nothing".into(), false),
    }
}

/// Whether the primary key can serve. New partitions of a root get one like it.
fn has_key(r: &SourceRelation) -> bool {
    r.primary_key().is_some_and(|p| p.usable)
}

/// Whether insert-only would lose UPDATE and DELETE for nothing. Rows that are found by all their columns make replay slow, and partitions
/// whose keys repeat cannot become one table: then it may be wanted.
pub fn is_needless(r: &SourceRelation, plan: &Plan) -> bool {
    let by_all_columns = r.identity == 'f' && !r.storage.is_partitioned() && !has_key(r);
    let repeats = r.repeating_leaf.is_some() && plan.is_one_table(&r.table);
    usable_identity(r).1 && !r.unlogged && !by_all_columns && !repeats
}

/// One line of the checklist.
pub fn assess(r: &SourceRelation, plan: &Plan) -> IdentityRow {
    let (current, usable) = usable_identity(r);
    let partitioned = r.storage.is_partitioned();
    let chosen = plan.identity(&r.table);
    let indexes: Vec<String> = if partitioned { Vec::new() } else { r.indexes.iter().filter(|i| i.usable).map(|i| i.name.clone()).collect() };
    let mut row = IdentityRow {
        table: r.table.clone(),
        bytes: r.bytes,
        current,
        effect: "ok".into(),
        proposed: None,
        indexes,
        partitioned,
        state: IdentityState::Ok,
        reason: String::new(),
    };
    if r.unlogged {
        row.effect = "copied once".into();
        row.reason = "Unlogged: its changes are in no stream, whatever its identity. It is copied once.".into();
    } else if chosen == Some(&IdentityChoice::InsertOnly) {
        row.effect = "lost".into();
        row.state = IdentityState::Accepted;
        row.reason = format!(
            "Published for INSERT and TRUNCATE only. UPDATE and DELETE go on working on the source, but do not reach the target.{}",
            if partitioned { MOVED_ROWS } else { "" }
        );
    } else if usable {
        assess_usable(r, chosen.is_some(), &mut row);
    } else {
        row.effect = "lost".into();
        row.state = IdentityState::Open;
        row.proposed = Some(by_default(r, IdentityDefault::Proposed).unwrap_or(IdentityChoice::InsertOnly));
        row.reason = why_open(r, &row.indexes);
    }
    row
}

/// What insert-only means for a partitioned table besides.
const MOVED_ROWS: &str = " A row that an UPDATE moves to another partition is there twice on the target.";

fn assess_usable(r: &SourceRelation, chosen: bool, row: &mut IdentityRow) {
    let keyless_root = r.storage.is_partitioned() && !has_key(r);
    let by_all_columns = !r.storage.is_partitioned() && r.identity == 'f' && !has_key(r);
    row.state = match (chosen, keyless_root || by_all_columns) {
        (true, _) => IdentityState::Applied,
        (false, true) => IdentityState::Warn,
        (false, false) => IdentityState::Ok,
    };
    row.reason = if keyless_root {
        "Changed rows are found by the replica identities of the partitions. The root has no primary key, so a partition that is added during \
         the migration has no replica identity: until it gets one, UPDATE and DELETE of its rows FAIL on the source. Give it a primary key or \
         REPLICA IDENTITY FULL in the transaction that creates it."
    } else if by_all_columns {
        row.effect = "ok, slow".into();
        "Changed rows are found by all their columns: every UPDATE and DELETE reads the table on the target."
    } else {
        "Changed rows are found by a key. Nothing to do."
    }
    .into();
}

/// Why a table has no identity that can be used, and what to do about it.
fn why_open(r: &SourceRelation, indexes: &[String]) -> String {
    if let Some(leaf) = &r.bare_leaf {
        return format!(
            "Partition {leaf} has no usable replica identity. In the publication as it is, UPDATE and DELETE of its rows would FAIL on the \
             source, so the table stays out until you choose. Or run on the source, and then press R: alter table {} replica identity full.",
            leaf.sql()
        );
    }
    if !r.full_is_possible && indexes.is_empty() {
        "No unique index that could serve, and generated columns: with FULL, too, UPDATE and DELETE would FAIL on the source (from PostgreSQL 18 on), so it stays out until you choose."
    } else if indexes.is_empty() {
        "No primary key, no unique index on NOT NULL columns. In the publication as it is, UPDATE and DELETE would FAIL on the source, so it stays out until you choose."
    } else {
        "No primary key is in force, but a unique index can serve. In the publication as it is, UPDATE and DELETE would FAIL on the source."
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        name::TableName,
        pg::catalog::{Storage, UniqueIndex},
    };

    fn relation(identity: char, indexes: Vec<UniqueIndex>) -> SourceRelation {
        SourceRelation {
            oid: 1,
            table: TableName::new("public", "t"),
            storage: Storage::Heap,
            unlogged: false,
            bytes: 0,
            rows: 0,
            identity,
            identity_index: None,
            indexes,
            columns: vec![],
            inherits: false,
            has_rules: false,
            owned: true,
            full_is_possible: true,
            bare_leaf: None,
            repeating_leaf: None,
            updated_rows: 0,
            deleted_rows: 0,
        }
    }

    fn index(primary: bool, usable: bool) -> UniqueIndex {
        UniqueIndex {
            name: "i".into(),
            primary,
            columns: vec!["id".into()],
            usable,
            expression: false,
            referenced: false,
            in_query: false,
            constraint: None,
        }
    }

    #[test]
    fn only_what_postgresql_accepts_counts_as_an_identity() {
        assert!(usable_identity(&relation('d', vec![index(true, true)])).1);
        assert!(!usable_identity(&relation('d', vec![index(true, false)])).1, "a deferrable primary key");
        assert!(!usable_identity(&relation('d', vec![index(false, true)])).1, "a unique index that nobody chose");
        assert!(!usable_identity(&relation('n', vec![index(true, true)])).1);
        assert!(usable_identity(&relation('f', vec![])).1);
        assert!(!usable_identity(&SourceRelation { full_is_possible: false, ..relation('f', vec![]) }).1, "its updates would fail on the source");
    }

    #[test]
    fn the_identities_of_its_partitions_decide_for_a_partitioned_table() {
        let root = |identity, indexes| SourceRelation { storage: Storage::Partitions { count: 2 }, ..relation(identity, indexes) };
        for identity in ['d', 'n', 'f'] {
            assert!(usable_identity(&root(identity, vec![])).1, "{identity}: each partition has one");
        }
        let bare = SourceRelation { bare_leaf: Some(TableName::new("public", "t_1")), ..root('d', vec![index(true, true)]) };
        assert!(!usable_identity(&bare).1);
        let state = |r: &SourceRelation, plan: &Plan| assess(r, plan).state;
        assert_eq!(state(&root('d', vec![index(true, true)]), &Plan::default()), IdentityState::Ok);
        assert_eq!(state(&root('d', vec![]), &Plan::default()), IdentityState::Warn, "new partitions have none");
        assert_eq!(state(&bare, &Plan::default()), IdentityState::Open);
        let insert_only = Plan { identities: [(bare.table.clone(), IdentityChoice::InsertOnly)].into(), ..Plan::default() };
        let row = assess(&bare, &insert_only);
        assert!(row.state == IdentityState::Accepted && row.reason.contains("is there twice"), "{row:?}");
    }

    #[test]
    fn a_default_gives_each_table_what_it_can_have() {
        let default = |r: &SourceRelation| {
            [IdentityDefault::Proposed, IdentityDefault::Full, IdentityDefault::InsertOnly].map(|d| by_default(r, d).map(|c| c.to_string()))
        };
        let all = |texts: [&str; 3]| texts.map(|t| (!t.is_empty()).then(|| t.to_owned()));
        assert_eq!(default(&relation('d', vec![])), all(["full", "full", "insert-only"]));
        assert_eq!(default(&relation('d', vec![index(false, true)])), all(["index:i", "full", "insert-only"]));
        let generated = SourceRelation { full_is_possible: false, ..relation('d', vec![]) };
        assert_eq!(default(&generated), all(["", "", "insert-only"]));
        let root = SourceRelation { storage: Storage::Partitions { count: 2 }, ..relation('d', vec![index(false, true)]) };
        assert_eq!(default(&root), all(["", "", "insert-only"]));
    }
}
