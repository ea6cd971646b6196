//! From a change to the statements that make it on the target. Pure: text and parameters, no connection.
//!
//! Parameters are sent as text without a type, so the server takes the type of the column and reads the value with that type's input
//! function, exactly as a logical replication worker does. No type OID of the source ever reaches the target.

use bytes::Bytes;
use std::fmt::Write as _;

use super::{
    change::{Change, Operation},
    pgoutput::{OldKind, RelationMessage, Tuple, Value},
    relation::Relation,
};
use crate::{
    error::{Error, Result},
    name::{TableName, ident, idents},
    pg::target::{Equality, TableKind, TargetColumn},
};

/// A statement with its parameters, in text; `None` is NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    pub sql: String,
    pub parameters: Vec<Option<Bytes>>,
}

/// What a change takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// Must touch exactly one row.
    One(Step),
    /// A row of a hypertable that moves, or may move, to another chunk: TimescaleDB refuses an UPDATE across chunks (H-10).
    Move(Box<Move>),
    /// Nothing changed (C-7).
    Nothing,
}

/// A row that is deleted and inserted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Move {
    /// Where the old time is not known: finds the row where the new time says, and is enough if it touches it.
    pub in_place: Option<Step>,
    /// Returns, in text, the values that the stream does not have.
    pub delete: Step,
    /// The parameters of `insert` that take those values, in their order.
    pub kept: Vec<usize>,
    pub insert: Step,
}

struct Builder {
    sql: String,
    parameters: Vec<Option<Bytes>>,
}

impl Builder {
    fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    /// Adds a parameter and returns its number as `$n`.
    fn parameter(&mut self, value: Option<&Bytes>) -> String {
        self.parameters.push(value.cloned());
        format!("${}", self.parameters.len())
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn step(self) -> Step {
        Step { sql: self.sql, parameters: self.parameters }
    }
}

fn text(value: &Value) -> Option<&Bytes> {
    if let Value::Text(bytes) = value { Some(bytes) } else { None }
}

/// The statements for one change.
pub fn work(change: &Change, relation: &Relation) -> Result<Work> {
    let message = &*change.relation;
    Ok(match &change.operation {
        Operation::Insert { new } => Work::One(insert(message, relation, new)?),
        Operation::Delete { kind, old } => {
            let mut b = Builder::new(format!("delete from {}{} where ", relation.target.only(), relation.table.sql()));
            matching(&mut b, message, relation, &Row { kind: *kind, values: old })?;
            Work::One(b.step())
        }
        Operation::Update { old, new } => update(message, relation, old.as_ref(), new)?,
    })
}

fn insert(message: &RelationMessage, relation: &Relation, new: &Tuple) -> Result<Step> {
    check_width(message, relation, new)?;
    let mut b = Builder::new(format!("insert into {}", relation.table.sql()));
    if message.columns.is_empty() {
        return Ok(b.push(" default values").sql.clone()).map(|sql| Step { sql, parameters: Vec::new() });
    }
    // GENERATED ALWAYS AS IDENTITY takes the source's value only so; elsewhere it means nothing.
    b.push(&format!(" ({}) overriding system value values (", idents(message.columns.iter().map(|c| &c.name))));
    for (i, value) in new.iter().enumerate() {
        let p = b.parameter(text(value));
        b.push(if i > 0 { ", " } else { "" }).push(&p);
    }
    b.push(")");
    Ok(b.step())
}

/// The row to be found: an old tuple of this kind.
struct Row<'a> {
    kind: OldKind,
    values: &'a Tuple,
}

fn update(message: &RelationMessage, relation: &Relation, old: Option<&(OldKind, Tuple)>, new: &Tuple) -> Result<Work> {
    check_width(message, relation, new)?;
    let changed: Vec<usize> = (0..new.len()).filter(|i| new[*i] != Value::Unchanged).collect();
    if changed.is_empty() {
        return Ok(Work::Nothing);
    }
    let row = match old {
        Some((kind, values)) => Row { kind: *kind, values },
        None => Row { kind: OldKind::Key, values: new },
    };
    let known = |i: usize| row.kind == OldKind::Full || (message.columns[i].key && row.kind == OldKind::Key);
    let in_place = || -> Result<Step> {
        let mut b = Builder::new(format!("update {}{} set ", relation.target.only(), relation.table.sql()));
        for (n, i) in changed.iter().enumerate() {
            let p = b.parameter(text(&new[*i]));
            let comma = if n > 0 { ", " } else { "" };
            write!(b.sql, "{comma}{} = {p}", ident(&message.columns[*i].name)).expect("writing to a string");
        }
        b.push(" where ");
        matching(&mut b, message, relation, &row)?;
        // A time that is known stands in the condition already. Twice, as two parameters, it would be a comparison of constants in a
        // generic plan, on which TimescaleDB before 2.25.2 fails: https://github.com/timescale/timescaledb/pull/9294
        for (i, name) in dimensions(message, relation).filter(|(i, _)| !known(*i)) {
            let p = b.parameter(text(&new[i]));
            write!(b.sql, " and {} = {p}", ident(name)).expect("writing to a string");
        }
        Ok(b.step())
    };
    if relation.target.dimensions.is_empty() {
        return Ok(Work::One(in_place()?));
    }
    // A hypertable. Is the old time known, and is it another?
    let all_known = dimensions(message, relation).all(|(i, _)| known(i));
    let moves = dimensions(message, relation).any(|(i, _)| known(i) && row.values[i] != new[i] && new[i] != Value::Unchanged);
    Ok(match (moves, all_known) {
        (true, _) => Work::Move(Box::new(move_row(message, relation, &row, new, None)?)),
        (false, true) => Work::One(in_place()?),
        (false, false) => Work::Move(Box::new(move_row(message, relation, &row, new, Some(in_place()?))?)),
    })
}

/// DELETE and INSERT. Values that the stream does not have come from the deleted row; two statements, because not every version of
/// TimescaleDB plans them as one.
fn move_row(message: &RelationMessage, relation: &Relation, row: &Row<'_>, new: &Tuple, in_place: Option<Step>) -> Result<Move> {
    let mut delete = Builder::new(format!("delete from {}{} where ", relation.target.only(), relation.table.sql()));
    matching(&mut delete, message, relation, row)?;
    let mut complete = new.clone();
    let mut kept = Vec::new();
    for (i, value) in complete.iter_mut().enumerate().filter(|(_, v)| **v == Value::Unchanged) {
        match row.values.get(i) {
            // The old tuple of REPLICA IDENTITY FULL has it.
            Some(old @ Value::Text(_)) if row.kind == OldKind::Full => *value = old.clone(),
            _ => kept.push(i),
        }
    }
    if !kept.is_empty() {
        let columns: Vec<String> = kept.iter().map(|i| format!("{}::text", ident(&message.columns[*i].name))).collect();
        delete.push(&format!(" returning {}", columns.join(", ")));
    }
    Ok(Move { in_place, delete: delete.step(), kept, insert: insert(message, relation, &complete)? })
}

/// Columns by which the hypertable is partitioned: their places in the stream's relation.
fn dimensions<'a>(message: &'a RelationMessage, relation: &'a Relation) -> impl Iterator<Item = (usize, &'a str)> {
    message.columns.iter().enumerate().filter(|(_, c)| relation.target.dimensions.contains(&c.name)).map(|(i, c)| (i, c.name.as_str()))
}

/// The condition that finds the row: by the replica identity's columns, or by the whole row, of which exactly one is taken (B-6).
fn matching(b: &mut Builder, message: &RelationMessage, relation: &Relation, row: &Row<'_>) -> Result<()> {
    check_width(message, relation, row.values)?;
    let by_key = |name: &str| match row.kind {
        OldKind::Key => message.columns.iter().any(|c| c.key && c.name == name),
        OldKind::Full => relation.target.primary_key.iter().any(|k| k == name),
    };
    let keys: Vec<usize> = (0..row.values.len()).filter(|i| by_key(&message.columns[*i].name)).collect();
    if !keys.is_empty() && (row.kind == OldKind::Key || keys.len() == relation.target.primary_key.len()) {
        for (n, i) in keys.iter().enumerate() {
            let p = b.parameter(text(&row.values[*i]));
            let and = if n > 0 { " and " } else { "" };
            write!(b.sql, "{and}{} = {p}", ident(&message.columns[*i].name)).expect("writing to a string");
        }
        return Ok(());
    }
    if row.kind == OldKind::Key {
        return Err(Error::failed(format!("{}: the stream names no key for a changed row", relation.table))
            .hint("the table has no replica identity any more; settle it on the source and copy the table again"));
    }
    let (name, columns) = if relation.target.kind == TableKind::Plain { ("ctid", "ctid") } else { ("(tableoid, ctid)", "tableoid, ctid") };
    b.push(&format!("{name} = (select {columns} from {}{} where ", relation.target.only(), relation.table.sql()));
    if message.columns.is_empty() {
        b.push("true");
    }
    for (i, column) in message.columns.iter().enumerate() {
        let name = ident(&column.name);
        if i > 0 {
            b.push(" and ");
        }
        let Some(value) = text(&row.values[i]) else {
            b.push(&format!("{name} is null"));
            continue;
        };
        let equality = target_column(relation, &column.name)?.equality;
        if equality != Equality::Text {
            let p = b.parameter(Some(value));
            b.push(&format!("{name} = {p}"));
        }
        if equality == Equality::Loose {
            b.push(" and ");
        }
        if equality != Equality::Exact {
            let p = b.parameter(Some(value));
            // What the output function prints, as in the stream: a cast to text prints some types (character, inet) in another form.
            b.push(&format!("format('%s', {name}) collate \"C\" = {p}::text"));
        }
    }
    b.push(" limit 1)");
    // So that the outer statement, too, looks only at the row's chunk.
    for (i, name) in dimensions(message, relation) {
        if let Some(value) = text(&row.values[i]) {
            let p = b.parameter(Some(value));
            b.push(&format!(" and {} = {p}", ident(name)));
        }
    }
    Ok(())
}

fn target_column<'a>(relation: &'a Relation, column: &str) -> Result<&'a TargetColumn> {
    relation.target.columns.get(column).ok_or_else(|| missing_column(&relation.table, column))
}

/// C-12: a column that the target does not have.
pub fn missing_column(table: &TableName, column: &str) -> Error {
    Error::failed(format!("{table}: the source has a column {} that the target lacks", ident(column))).hint(format!(
        "add it on the target (alter table {} add column {} …), then retry",
        table.sql(),
        ident(column)
    ))
}

fn check_width(message: &RelationMessage, relation: &Relation, tuple: &Tuple) -> Result<()> {
    if tuple.len() == message.columns.len() {
        return Ok(());
    }
    Err(Error::failed(format!("{}: a row with {} values for {} columns", relation.table, tuple.len(), message.columns.len())))
}

/// For people: the columns and values by which a row was looked for. Shown to the operator, never logged.
pub fn describe_row(change: &Change) -> String {
    let (values, all) = match &change.operation {
        Operation::Update { old: Some((kind, old)), .. } | Operation::Delete { kind, old } => (old, *kind == OldKind::Full),
        Operation::Insert { new } | Operation::Update { old: None, new } => (new, false),
    };
    let columns = change.relation.columns.iter().zip(values).filter(|(c, _)| c.key || all);
    let parts: Vec<String> = columns
        .take(4)
        .map(|(c, v)| {
            let value = text(v).map_or_else(|| "null".into(), |b| String::from_utf8_lossy(b).chars().take(40).collect::<String>());
            format!("{} = {value}", c.name)
        })
        .collect();
    if parts.is_empty() { "a row".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lsn::{Lsn, Position},
        pg::{snapshot::Snapshot, target::TargetTable},
        replay::pgoutput::ColumnMessage,
    };
    use std::sync::Arc;

    fn v(s: &str) -> Value {
        Value::Text(Bytes::copy_from_slice(s.as_bytes()))
    }

    fn relation(dimensions: &[&str], primary_key: &[&str]) -> Relation {
        let column = |t: &str, equality| TargetColumn { data_type: t.into(), equality };
        Relation {
            oid: 1,
            table: TableName::new("public", "t"),
            lane: 0,
            snapshot: Snapshot::default(),
            copied_at: Lsn(0),
            skipped: false,
            target: TargetTable {
                columns: [
                    ("id".into(), column("integer", Equality::Exact)),
                    ("ts".into(), column("timestamp with time zone", Equality::Exact)),
                    ("n".into(), column("numeric", Equality::Loose)),
                    ("j".into(), column("json", Equality::Text)),
                ]
                .into(),
                primary_key: primary_key.iter().map(|s| (*s).to_owned()).collect(),
                dimensions: dimensions.iter().map(|s| (*s).to_owned()).collect(),
                kind: if dimensions.is_empty() { TableKind::Plain } else { TableKind::Hypertable },
                deferrable: false,
            },
        }
    }

    fn change(keys: &[&str], operation: Operation) -> Change {
        let columns = ["id", "ts", "n", "j"]
            .iter()
            .map(|n| ColumnMessage { key: keys.contains(n), name: (*n).into(), type_oid: 25, type_modifier: -1 })
            .collect();
        let message = RelationMessage { oid: 1, schema: "public".into(), name: "t".into(), identity: b'd', columns };
        Change { position: Position::START, xid: 1, relation: Arc::new(message), target: 0, operation }
    }

    fn sql(work: &Work) -> Vec<String> {
        let bare = |s: &Step| s.sql.replace('"', "");
        match work {
            Work::One(a) => vec![bare(a)],
            Work::Move(m) => m.in_place.iter().chain([&m.delete, &m.insert]).map(bare).collect(),
            Work::Nothing => vec![],
        }
    }

    #[test]
    fn c_5_unchanged_toast_is_left_out_of_the_update() {
        let c = change(&["id"], Operation::Update { old: None, new: vec![v("1"), v("2"), Value::Null, Value::Unchanged] });
        let w = work(&c, &relation(&[], &["id"])).unwrap();
        assert_eq!(sql(&w), ["update only public.t set id = $1, ts = $2, n = $3 where id = $4"]);
    }

    #[test]
    fn c_6_a_changed_key_is_looked_for_by_its_old_value() {
        let old = vec![v("1"), Value::Null, Value::Null, Value::Null];
        let new = vec![v("9"), Value::Unchanged, Value::Unchanged, Value::Unchanged];
        let Work::One(step) = work(&change(&["id"], Operation::Update { old: Some((OldKind::Key, old)), new }), &relation(&[], &["id"])).unwrap()
        else {
            panic!()
        };
        assert_eq!(step.parameters, [Some(Bytes::from_static(b"9")), Some(Bytes::from_static(b"1"))]);
    }

    #[test]
    fn b_6_a_whole_row_is_matched_once_with_nulls_and_types_without_equality() {
        let old = vec![v("1"), Value::Null, v("1.00"), v("{}")];
        let c = change(&["id", "ts", "n", "j"], Operation::Delete { kind: OldKind::Full, old });
        assert_eq!(
            sql(&work(&c, &relation(&[], &[])).unwrap()),
            [
                "delete from only public.t where ctid = (select ctid from only public.t where id = $1 and ts is null and n = $2 and format('%s', n) collate C = $3::text and format('%s', j) collate C = $4::text limit 1)"
            ]
        );
        // With a primary key on the target the key is enough.
        assert_eq!(sql(&work(&c, &relation(&[], &["id"])).unwrap()), ["delete from only public.t where id = $1"]);
    }

    #[test]
    fn h_10_a_row_that_changes_its_time_is_moved() {
        let new = vec![v("1"), v("b"), v("5"), Value::Unchanged];
        let ht = relation(&["ts"], &["id", "ts"]);
        // The key holds the time: the old one is known.
        let moved =
            change(&["id", "ts"], Operation::Update { old: Some((OldKind::Key, vec![v("1"), v("a"), Value::Null, Value::Null])), new: new.clone() });
        assert_eq!(
            sql(&work(&moved, &ht).unwrap()),
            [
                "delete from public.t where id = $1 and ts = $2 returning j::text",
                "insert into public.t (id, ts, n, j) overriding system value values ($1, $2, $3, $4)"
            ]
        );
        let stays = change(&["id", "ts"], Operation::Update { old: None, new: new.clone() });
        assert_eq!(sql(&work(&stays, &ht).unwrap()), ["update public.t set id = $1, ts = $2, n = $3 where id = $4 and ts = $5"]);
        // It does not: the new time is tried first.
        let unknown = change(&["id"], Operation::Update { old: None, new });
        let statements = sql(&work(&unknown, &ht).unwrap());
        assert!(statements[0].ends_with("where id = $4 and ts = $5") && statements[1].starts_with("delete from public.t where id = $1 "));
    }

    #[test]
    fn c_7_an_update_of_nothing_needs_no_statement() {
        let c = change(&["id"], Operation::Update { old: None, new: vec![Value::Unchanged, Value::Unchanged, Value::Unchanged, Value::Unchanged] });
        assert_eq!(work(&c, &relation(&[], &["id"])).unwrap(), Work::Nothing);
    }

    #[test]
    fn a_column_that_the_target_lacks_is_named() {
        let mut c = change(&["id"], Operation::Delete { kind: OldKind::Full, old: vec![v("1"), v("2"), v("3"), v("4")] });
        Arc::make_mut(&mut c.relation).columns[3].name = "new col".into();
        let error = work(&c, &relation(&[], &[])).unwrap_err();
        assert!(error.to_string().contains("\"new col\"") && error.hint.unwrap().contains("add column"));
    }
}
