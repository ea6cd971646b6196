//! The key of a row: the columns by which it is found, and their text as one piece of bytes, different for different rows.

use std::borrow::Cow;

use super::{
    pgoutput::{self, Message, Operation, RelationMessage, Tuple, Value},
    relation::Relation,
};

/// The key's text, each value with its length in front, as in a message.
pub type RowKey<'a> = Cow<'a, [u8]>;

/// The columns by which rows of a relation are found, as places in its message: of the replica identity, or with REPLICA IDENTITY FULL
/// those of the target's primary key. Empty when there is no key.
pub fn columns(message: &RelationMessage, relation: &Relation) -> Vec<usize> {
    if message.identity != b'f' {
        return (0..message.columns.len()).filter(|i| message.columns[*i].key).collect();
    }
    let place = |name: &String| message.columns.iter().position(|c| c.name == *name);
    relation.shape.primary_key.iter().map(place).collect::<Option<Vec<_>>>().unwrap_or_default()
}

/// The key of a tuple; `None` when it lacks a value of it.
pub fn from_tuple<'a>(tuple: Tuple<'a>, columns: &[usize]) -> Option<RowKey<'a>> {
    let (first, last) = (*columns.first()?, *columns.last()?);
    if columns.windows(2).all(|w| w[1] == w[0] + 1) {
        return tuple.raw(first, last).map(Cow::Borrowed);
    }
    from_values(&tuple.values().collect::<Vec<_>>(), columns)
}

pub fn from_values<'a>(values: &[Value<'_>], columns: &[usize]) -> Option<RowKey<'a>> {
    let mut key = Vec::new();
    for column in columns {
        let text = values.get(*column)?.text()?;
        key.push(b't');
        key.extend_from_slice(&(text.len() as u32).to_be_bytes());
        key.extend_from_slice(text);
    }
    Some(Cow::Owned(key))
}

/// Which of several lanes a change belongs to when the keys of its relation are distributed over them; `None` for one that moves a row to
/// another lane. It must be the same in every run and version, because the positions of lanes depend on it.
pub fn lane(message: &[u8], columns: &[usize], lanes: usize) -> Option<usize> {
    let lane_of = |key: RowKey<'_>| crc32fast::hash(&key) as usize % lanes;
    let Ok(Message::Row { operation, .. }) = pgoutput::decode(message) else { return None };
    match operation {
        Operation::Insert { new } | Operation::Update { old: None, new } => from_tuple(new, columns).map(lane_of),
        Operation::Delete { old, .. } => from_tuple(old, columns).map(lane_of),
        Operation::Update { old: Some((_, old)), new } => {
            let from = from_tuple(old, columns).map(lane_of)?;
            let new: Vec<_> = new.values().zip(old.values()).map(|(new, old)| if new == Value::Unchanged { old } else { new }).collect();
            from_values(&new, columns).map(lane_of).filter(|to| *to == from)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::pgoutput::encode;

    #[test]
    fn a_row_stays_in_its_lane_until_its_key_changes() {
        let keys = &[0, 1];
        let text = |s: &'static str| Value::Text(s.as_bytes());
        let row = [text("a"), text("1"), text("x")];
        let insert = lane(&encode::row(b'I', 1, &[(b'N', &row)]), keys, 4).unwrap();
        let key = [text("a"), text("1"), Value::Null];
        assert_eq!(lane(&encode::row(b'D', 1, &[(b'K', &key)]), keys, 4), Some(insert));
        let stored_apart = [Value::Unchanged, text("1"), text("y")];
        assert_eq!(lane(&encode::row(b'U', 1, &[(b'O', &row), (b'N', &stored_apart)]), keys, 4), Some(insert));
        // Somewhere there is a key of another lane.
        let moved = |to: String| lane(&encode::row(b'U', 1, &[(b'K', &key), (b'N', &[Value::Text(to.as_bytes()), text("1"), text("x")])]), keys, 4);
        assert!((0..20).any(|n| moved(n.to_string()).is_none()) && (0..20).any(|n| moved(n.to_string()) == Some(insert)));
        // A key that is not known is nobody's.
        assert_eq!(lane(&encode::row(b'U', 1, &[(b'N', &stored_apart)]), keys, 4), None);
    }
}
