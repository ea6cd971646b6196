//! Compaction: the net effect of the changes of a batch, row by row, so that they can be applied as sets. Pure.
//!
//! A row is identified by the text of its key, which is the same in every message about the same row. For each key it is known
//! whether the row existed before the batch, and what it is after it:
//!
//! | before the batch | after it            | net effect        |
//! |------------------|---------------------|-------------------|
//! | no               | a whole row         | insert            |
//! | no               | gone                | nothing           |
//! | yes              | changed in places   | update            |
//! | yes              | gone                | delete            |
//! | yes              | another, whole row  | delete and insert |
//!
//! A change of the key is the old row's delete and the new one's insert. What does not fit (a row that is inserted twice, a key
//! change that lacks a TOAST value, a table without a key) is applied in order, between the sets of what comes before and after it.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    change::Change,
    key::{self, RowKey},
    pgoutput::{OldKind, Operation, RelationMessage, Tuple, Value},
    relation::{Relation, RelationCounters},
};

/// A part of a batch of one relation; the parts of a batch are applied one after the other.
#[derive(Debug)]
pub enum BatchPart<'a> {
    Sets(Sets<'a>),
    InOrder(Vec<&'a Change>),
}

/// Deletes, updates and inserts, to be applied in this order.
#[derive(Debug)]
pub struct Sets<'a> {
    pub message: &'a RelationMessage,
    /// Columns of the key: their places in the relation.
    pub keys: Vec<usize>,
    /// Tuples that hold the key, in its order.
    pub deletes: Vec<Tuple<'a>>,
    /// Rows whose key stays, in its order. What is [`Value::Unchanged`] stays, too.
    pub updates: Vec<Image<'a>>,
    /// Whole rows, in the order of the stream.
    pub inserts: Vec<Image<'a>>,
    /// What the stream said.
    pub counts: RelationCounters,
}

/// A row as it is after some changes.
#[derive(Clone, Debug)]
pub enum Image<'a> {
    Message(Tuple<'a>),
    Merged(Vec<Value<'a>>),
}

impl<'a> Image<'a> {
    pub fn values(&self) -> impl Iterator<Item = Value<'a>> {
        let (in_message, merged) = match self {
            Self::Message(tuple) => (Some(tuple.values()), &[][..]),
            Self::Merged(values) => (None, values.as_slice()),
        };
        in_message.into_iter().flatten().chain(merged.iter().copied())
    }

    fn is_whole(&self) -> bool {
        self.values().all(|v| v != Value::Unchanged)
    }

    /// This row with the values of `before` where it has none of its own.
    fn over(self, before: impl Iterator<Item = Value<'a>>) -> Self {
        if self.is_whole() {
            return self;
        }
        Self::Merged(self.values().zip(before).map(|(new, old)| if new == Value::Unchanged { old } else { new }).collect())
    }
}

/// Divides the changes of one relation, in their order, into sets and what has to be done in order.
pub fn parts<'a>(changes: &[&'a Change], relation: &Relation) -> Vec<BatchPart<'a>> {
    let mut parts = Vec::new();
    let mut compaction: Option<Compaction<'a>> = None;
    for change in changes {
        // Leaves of a root may have their columns in another order, and columns come and go.
        if compaction.as_ref().is_none_or(|c| !same_columns(c.message, &change.description)) {
            parts.extend(compaction.take().and_then(Compaction::finish));
        }
        let now = compaction.get_or_insert_with(|| Compaction::new(&change.description, relation));
        if now.take(change).is_some() {
            continue;
        }
        parts.extend(compaction.take().and_then(Compaction::finish));
        match parts.last_mut() {
            Some(BatchPart::InOrder(list)) => list.push(change),
            _ => parts.push(BatchPart::InOrder(vec![change])),
        }
    }
    parts.extend(compaction.and_then(Compaction::finish));
    parts
}

fn same_columns(a: &Arc<RelationMessage>, b: &Arc<RelationMessage>) -> bool {
    Arc::ptr_eq(a, b) || (a.identity == b.identity && a.columns == b.columns)
}

/// What is known of one row.
struct RowState<'a> {
    /// A tuple with the key of the row as it was before the batch; `None` when it did not exist.
    before: Option<Tuple<'a>>,
    /// `None`: gone.
    now: Option<Image<'a>>,
    /// `now` is another row than the one before the batch.
    inserted: bool,
}

struct Compaction<'a> {
    message: &'a Arc<RelationMessage>,
    keys: Vec<usize>,
    rows: HashMap<RowKey<'a>, (usize, RowState<'a>)>,
    /// Of a table without a key.
    inserts: Vec<Image<'a>>,
    counts: RelationCounters,
}

impl<'a> Compaction<'a> {
    fn new(message: &'a Arc<RelationMessage>, relation: &Relation) -> Self {
        Self { message, keys: key::columns(message, relation), rows: HashMap::new(), inserts: Vec::new(), counts: RelationCounters::default() }
    }

    /// Takes a change; `None` when it does not fit, and then nothing has happened.
    fn take(&mut self, change: &'a Change) -> Option<()> {
        if self.message.columns.is_empty() {
            return None;
        }
        match change.operation().ok()? {
            Operation::Insert { new } if self.keys.is_empty() => self.inserts.push(Image::Message(new)),
            _ if self.keys.is_empty() => return None,
            Operation::Insert { new } => self.insert(self.key(new)?, Image::Message(new))?,
            Operation::Delete { old, .. } => self.delete(self.key(old)?, old)?,
            Operation::Update { old: None, new } => self.update(self.key(new)?, new, Image::Message(new))?,
            Operation::Update { old: Some((kind, old)), new } => {
                // A key column that is stored out of line is in the old tuple only, and REPLICA IDENTITY FULL has all values.
                let known = old.values().enumerate().map(|(i, v)| if kind == OldKind::Full || self.keys.contains(&i) { v } else { Value::Unchanged });
                let new = Image::Message(new).over(known);
                let (from, to) = (self.key(old)?, self.key_of(&new)?);
                if from == to {
                    self.update(from, old, new)?;
                } else {
                    self.rekey(from, old, to, new)?;
                }
            }
        }
        self.counts.count(change.op);
        self.counts.sets += 1;
        Some(())
    }

    fn key(&self, tuple: Tuple<'a>) -> Option<RowKey<'a>> {
        key::from_tuple(tuple, &self.keys)
    }

    fn key_of(&self, image: &Image<'a>) -> Option<RowKey<'a>> {
        match image {
            Image::Message(tuple) => self.key(*tuple),
            Image::Merged(values) => key::from_values(values, &self.keys),
        }
    }

    fn insert(&mut self, key: RowKey<'a>, row: Image<'a>) -> Option<()> {
        let next = self.rows.len();
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert((next, RowState { before: None, now: Some(row), inserted: true }));
            }
            Entry::Occupied(entry) => {
                let (_, state) = entry.into_mut();
                if state.now.is_some() {
                    return None;
                }
                (state.now, state.inserted) = (Some(row), true);
            }
        }
        Some(())
    }

    fn delete(&mut self, key: RowKey<'a>, old: Tuple<'a>) -> Option<()> {
        let next = self.rows.len();
        let (_, state) =
            self.rows.entry(key).or_insert_with(|| (next, RowState { before: Some(old), now: Some(Image::Message(old)), inserted: false }));
        // No source deletes a row twice.
        state.now.take().map(|_| ())
    }

    fn update(&mut self, key: RowKey<'a>, with_key: Tuple<'a>, new: Image<'a>) -> Option<()> {
        let next = self.rows.len();
        match self.rows.entry(key) {
            Entry::Vacant(entry) => {
                entry.insert((next, RowState { before: Some(with_key), now: Some(new), inserted: false }));
            }
            Entry::Occupied(entry) => {
                let (_, state) = entry.into_mut();
                let now = state.now.take()?;
                state.now = Some(new.over(now.values()));
            }
        }
        Some(())
    }

    fn rekey(&mut self, from: RowKey<'a>, old: Tuple<'a>, to: RowKey<'a>, new: Image<'a>) -> Option<()> {
        let new = match self.rows.get(&from) {
            Some((_, RowState { now: None, .. })) => return None,
            Some((_, RowState { now: Some(now), .. })) => new.over(now.values()),
            None => new,
        };
        let taken = self.rows.get(&to).is_some_and(|(_, state)| state.now.is_some());
        if taken || !new.is_whole() {
            return None;
        }
        self.delete(from, old)?;
        self.insert(to, new)
    }

    fn finish(self) -> Option<BatchPart<'a>> {
        if self.counts.sets == 0 {
            return None;
        }
        let mut rows: Vec<_> = self.rows.into_iter().collect();
        // Neighbours in an index come one after the other: with its length in front the text of a number sorts as the number.
        rows.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        let (mut deletes, mut updates, mut inserts) = (Vec::new(), Vec::new(), Vec::new());
        for (_, (ordinal, state)) in rows {
            match (state.before, state.now) {
                (None, None) => {}
                (Some(before), None) => deletes.push(before),
                (Some(_), Some(row)) if !state.inserted => updates.push(row),
                (before, Some(row)) => {
                    deletes.extend(before);
                    inserts.push((ordinal, row));
                }
            }
        }
        inserts.sort_unstable_by_key(|(ordinal, _)| *ordinal);
        let inserts = inserts.into_iter().map(|(_, row)| row).chain(self.inserts).collect();
        Some(BatchPart::Sets(Sets { message: self.message, keys: self.keys, deletes, updates, inserts, counts: self.counts }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lsn::{Lsn, Position},
        name::TableName,
        pg::target_table::TargetTable,
        replay::{
            pgoutput::{self, ColumnMessage, Peek, encode, peek},
            relation::RelationIndex,
        },
    };
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// A table of key, value, and a value that may be stored out of line.
    type Table = BTreeMap<String, (String, String)>;

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u8),
        /// Key, value, and whether the long value changes, too.
        Update(u8, u8, bool),
        Delete(u8),
        Rekey(u8, u8, bool),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let key = 0u8..6;
        let step = prop_oneof![
            (key.clone(), any::<u8>()).prop_map(|(k, v)| Step::Insert(k, v)),
            (key.clone(), any::<u8>(), any::<bool>()).prop_map(|(k, v, t)| Step::Update(k, v, t)),
            key.clone().prop_map(Step::Delete),
            (key.clone(), key, any::<bool>()).prop_map(|(a, b, t)| Step::Rekey(a, b, t)),
        ];
        prop::collection::vec(step, 1..40)
    }

    fn relation(target_key: &[&str]) -> Relation {
        let shape = TargetTable { primary_key: target_key.iter().map(|k| (*k).to_owned()).collect(), ..TargetTable::default() };
        let table = TableName::new("public", "t");
        Relation { oid: 1, table, shape, ..Relation::default() }
    }

    fn message(full: bool) -> Arc<RelationMessage> {
        let column = |name: &str, key| ColumnMessage { key, name: name.into(), type_oid: 25, type_modifier: -1 };
        // The key is not one piece of the tuple.
        let columns = vec![column("a", true), column("v", full), column("b", true), column("long", full)];
        Arc::new(RelationMessage { oid: 1, schema: "public".into(), name: "t".into(), identity: if full { b'f' } else { b'd' }, columns })
    }

    fn text(s: &str) -> Value<'_> {
        Value::Text(s.as_bytes())
    }

    /// Does the steps that are possible on a table, and says what a source would stream.
    fn stream(steps: &[Step], table: &mut Table, full: bool) -> Vec<Change> {
        let description = message(full);
        let mut changes = Vec::new();
        for (n, step) in steps.iter().enumerate() {
            let name = |k: &u8| format!("k{k}");
            let mut push = |tag: u8, tuples: &[(u8, &[Value<'_>])]| {
                let position = Position { lsn: Lsn(1), change: n as u64 };
                let message = encode::row(tag, 1, tuples);
                let Ok(Peek::Row { op, .. }) = peek(&message) else { panic!("a row operation") };
                changes.push(Change { position, relation: RelationIndex(0), op, description: description.clone(), message: message.into() });
            };
            match step {
                Step::Insert(k, v) if !table.contains_key(&name(k)) => {
                    let (k, v, long) = (name(k), v.to_string(), format!("long{n}"));
                    push(b'I', &[(b'N', &[text(&k), text(&v), text(&k), text(&long)])]);
                    table.insert(k, (v, long));
                }
                Step::Update(k, v, toast) if table.contains_key(&name(k)) => {
                    let k = name(k);
                    let old = table[&k].clone();
                    let new = (v.to_string(), if *toast { format!("long{n}") } else { old.1.clone() });
                    let long = if *toast { text(&new.1) } else { Value::Unchanged };
                    let new_tuple = [text(&k), text(&new.0), text(&k), long];
                    let old_tuple = [text(&k), text(&old.0), text(&k), text(&old.1)];
                    let tuples: [(u8, &[Value<'_>]); 2] = [(b'O', &old_tuple), (b'N', &new_tuple)];
                    push(b'U', if full { &tuples } else { &tuples[1..] });
                    table.insert(k, new);
                }
                Step::Delete(k) if table.contains_key(&name(k)) => {
                    let k = name(k);
                    let old = table.remove(&k).unwrap_or_default();
                    let all = [text(&k), text(&old.0), text(&k), text(&old.1)];
                    let key = [text(&k), Value::Null, text(&k), Value::Null];
                    push(b'D', &[if full { (b'O', &all) } else { (b'K', &key) }]);
                }
                Step::Rekey(a, b, toast) if table.contains_key(&name(a)) && !table.contains_key(&name(b)) => {
                    let (a, b) = (name(a), name(b));
                    let old = table.remove(&a).unwrap_or_default();
                    let new = (old.0.clone(), if *toast { format!("long{n}") } else { old.1.clone() });
                    let long = if *toast { text(&new.1) } else { Value::Unchanged };
                    let new_tuple = [text(&b), text(&new.0), text(&b), long];
                    let all = [text(&a), text(&old.0), text(&a), text(&old.1)];
                    let key = [text(&a), Value::Null, text(&a), Value::Null];
                    push(b'U', &[if full { (b'O', &all) } else { (b'K', &key) }, (b'N', &new_tuple)]);
                    table.insert(b, new);
                }
                _ => {}
            }
        }
        changes
    }

    fn string(value: Value<'_>) -> String {
        String::from_utf8(value.text().unwrap_or_else(|| panic!("{value:?} where a text is due")).to_vec()).unwrap()
    }

    /// What a target does with the parts; panics where a statement would touch other rows than it says.
    fn apply(parts: Vec<BatchPart<'_>>, table: &mut Table) {
        let row = |values: Vec<Value<'_>>| (string(values[0]), (string(values[1]), string(values[3])));
        for part in parts {
            match part {
                BatchPart::Sets(sets) => {
                    for old in sets.deletes {
                        table.remove(&string(old.values().next().unwrap())).expect("a row to delete");
                    }
                    for new in sets.updates {
                        let values: Vec<_> = new.values().collect();
                        let there = table.get_mut(&string(values[0])).expect("a row to update");
                        for (value, place) in [(values[1], &mut there.0), (values[3], &mut there.1)] {
                            if value != Value::Unchanged {
                                *place = string(value);
                            }
                        }
                    }
                    for new in sets.inserts {
                        let (key, values) = row(new.values().collect());
                        assert!(table.insert(key, values).is_none(), "a row that is there");
                    }
                }
                BatchPart::InOrder(changes) => {
                    for change in changes {
                        // Of a valid stream only a key change without its TOAST value is left over.
                        let pgoutput::Operation::Update { old: Some((_, old)), new } = change.operation().unwrap() else { panic!("{change:?}") };
                        let (from, new) = (string(old.values().next().unwrap()), new.values().collect::<Vec<_>>());
                        let before = table.remove(&from).expect("a row to move");
                        assert_eq!(new[3], Value::Unchanged);
                        assert!(table.insert(string(new[0]), (string(new[1]), before.1)).is_none());
                    }
                }
            }
        }
    }

    proptest! {
        /// I8, C-33: for any stream that a source can say, the sets come to what the changes in order come to.
        #[test]
        fn i_8_sets_come_to_what_the_changes_in_order_come_to(before in steps(), then in steps(), full: bool) {
            let mut source = Table::new();
            stream(&before, &mut source, full);
            let mut target = source.clone();
            let changes = stream(&then, &mut source, full);
            let relation = relation(if full { &["a", "b"] } else { &[] });
            let parts = parts(&changes.iter().collect::<Vec<_>>(), &relation);
            let counted: u64 = parts.iter().map(|p| match p { BatchPart::Sets(s) => s.counts.sets, BatchPart::InOrder(l) => l.len() as u64 }).sum();
            prop_assert_eq!(counted, changes.len() as u64);
            apply(parts, &mut target);
            prop_assert_eq!(target, source);
        }
    }

    #[test]
    fn a_table_without_a_key_has_sets_of_inserts_only() {
        let (mut table, full) = (Table::new(), true);
        let changes = stream(&[Step::Insert(1, 1), Step::Insert(2, 1), Step::Delete(1), Step::Insert(3, 1)], &mut table, full);
        let parts = parts(&changes.iter().collect::<Vec<_>>(), &relation(&[]));
        let shape: Vec<usize> = parts
            .iter()
            .map(|p| match p {
                BatchPart::Sets(s) => s.inserts.len(),
                BatchPart::InOrder(l) => 100 + l.len(),
            })
            .collect();
        assert_eq!(shape, [2, 101, 1]);
    }
}
