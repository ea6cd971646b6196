//! From a change to the statements that make it on the target. Pure: text and parameters, no connection.
//!
//! Parameters are sent as text. A new value is read by the input function of its column's type, exactly as a logical replication worker
//! does; a value to compare with has a cast to that type, below its domains. No type OID of the source ever reaches the target.
//!
//! The application's own functions (of checks, domains, indexes) run in these statements, with the `search_path` that they need
//! (N-4). So whatever the statements themselves name, operators too, is named with its schema.

use std::{borrow::Cow, fmt::Write as _};

use super::{
    change::Change,
    key,
    pgoutput::{OldKind, Operation, RelationMessage, Value},
    relation::Relation,
};
use crate::{
    error::{Error, Result},
    name::{TableName, ident, idents},
    pg::target_table::{TableKind, TargetColumn},
};

/// A parameter in text format; `None` is NULL.
pub type Parameter<'a> = Option<Cow<'a, [u8]>>;

/// A statement with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BoundStatement<'a> {
    pub sql: String,
    pub parameters: Vec<Parameter<'a>>,
}

/// What has to be done for a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RowAction<'a> {
    /// Must touch exactly one row.
    One(BoundStatement<'a>),
    /// A row of a hypertable that moves, or may move, to another chunk: TimescaleDB refuses an UPDATE across chunks (H-10).
    Move(Box<RowMove<'a>>),
    /// Nothing changed (C-7).
    Nothing,
}

/// A row that is deleted and inserted again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowMove<'a> {
    /// Where the old time is not known: the row is searched at its new time first, and when this touches it, nothing else is needed.
    pub in_place: Option<BoundStatement<'a>>,
    /// Returns the values that the stream does not have.
    pub delete: BoundStatement<'a>,
    /// The parameters of `insert` that take those values, in their order.
    pub kept: Vec<usize>,
    pub insert: BoundStatement<'a>,
}

struct Builder<'a> {
    sql: String,
    parameters: Vec<Parameter<'a>>,
}

impl<'a> Builder<'a> {
    fn new(sql: impl Into<String>) -> Self {
        Self { sql: sql.into(), parameters: Vec::new() }
    }

    /// Adds a parameter and returns its number as `$n`.
    fn parameter(&mut self, value: Option<&'a [u8]>) -> String {
        self.parameters.push(value.map(Cow::Borrowed));
        format!("${}", self.parameters.len())
    }

    fn push(&mut self, sql: &str) -> &mut Self {
        self.sql.push_str(sql);
        self
    }

    fn step(self) -> BoundStatement<'a> {
        BoundStatement { sql: self.sql, parameters: self.parameters }
    }
}

/// The values of a row, column by column.
type Row<'a> = Vec<Value<'a>>;

/// The statements for one change.
pub fn action<'a>(change: &'a Change, relation: &Relation) -> Result<RowAction<'a>> {
    let message = &*change.description;
    Ok(match change.operation()? {
        Operation::Insert { new } => RowAction::One(insert(message, relation, new.values())),
        Operation::Delete { kind, old } => RowAction::One(delete(message, relation, kind, old.values())?),
        Operation::Update { old, new } => {
            let old = old.map(|(kind, old)| (kind, old.values().collect()));
            update(message, relation, old, &new.values().collect())?
        }
    })
}

pub fn delete<'a>(message: &RelationMessage, relation: &Relation, kind: OldKind, old: impl Iterator<Item = Value<'a>>) -> Result<BoundStatement<'a>> {
    let mut b = Builder::new(format!("delete from {} where ", relation.searched(message)));
    matching(&mut b, message, relation, &Old { kind, values: old.collect() })?;
    Ok(b.step())
}

pub fn insert<'a>(message: &RelationMessage, relation: &Relation, new: impl Iterator<Item = Value<'a>>) -> BoundStatement<'a> {
    let mut b = Builder::new(format!("insert into {}", relation.table.sql()));
    if message.columns.is_empty() {
        b.push(" default values");
        return b.step();
    }
    // GENERATED ALWAYS AS IDENTITY takes the source's value only so; elsewhere it means nothing.
    b.push(&format!(" ({}) overriding system value values (", idents(message.columns.iter().map(|c| &c.name))));
    for (i, value) in new.enumerate() {
        let p = b.parameter(value.text());
        b.push(if i > 0 { ", " } else { "" }).push(&p);
    }
    b.push(")");
    b.step()
}

/// The row to be found: an old tuple of this kind.
struct Old<'a> {
    kind: OldKind,
    values: Row<'a>,
}

/// Without an old tuple the row is found by the key in the new one.
pub fn update<'a>(message: &RelationMessage, relation: &Relation, old: Option<(OldKind, Row<'a>)>, new: &Row<'a>) -> Result<RowAction<'a>> {
    let stays = |i: usize| match &old {
        // The key is as it was.
        None => message.columns[i].key,
        Some((OldKind::Full, old)) => old[i] == new[i],
        Some((OldKind::Key, _)) => false,
    };
    let changed: Vec<usize> = (0..new.len()).filter(|i| new[*i] != Value::Unchanged && !stays(*i)).collect();
    if changed.is_empty() {
        return Ok(RowAction::Nothing);
    }
    let row = match old {
        Some((kind, values)) => Old { kind, values },
        None => Old { kind: OldKind::Key, values: new.clone() },
    };
    let known = |i: usize| row.kind == OldKind::Full || (message.columns[i].key && row.kind == OldKind::Key);
    let in_place = || -> Result<BoundStatement<'a>> {
        let mut b = Builder::new(format!("update {} set ", relation.searched(message)));
        for (n, i) in changed.iter().enumerate() {
            let p = b.parameter(new[*i].text());
            let comma = if n > 0 { ", " } else { "" };
            write!(b.sql, "{comma}{} = {p}", ident(&message.columns[*i].name)).expect("writing to a string");
        }
        b.push(" where ");
        matching(&mut b, message, relation, &row)?;
        // A time that is known is in the condition already. Twice, as two parameters, it would be a comparison of constants in a
        // generic plan, on which TimescaleDB before 2.25.2 fails: https://github.com/timescale/timescaledb/pull/9294
        for (i, name) in dimensions(message, relation).filter(|(i, _)| !known(*i)) {
            let p = b.parameter(new[i].text());
            b.push(" and ").push(&target_column(relation, name)?.equals_parameter(&ident(name), &p));
        }
        Ok(b.step())
    };
    if relation.shape.dimensions.is_empty() {
        return Ok(RowAction::One(in_place()?));
    }
    // A hypertable. Is the old time known, and is it another?
    let all_known = dimensions(message, relation).all(|(i, _)| known(i));
    let moves = dimensions(message, relation).any(|(i, _)| known(i) && row.values[i] != new[i] && new[i] != Value::Unchanged);
    Ok(match (moves, all_known) {
        (true, _) => RowAction::Move(Box::new(move_row(message, relation, &row, new, None)?)),
        (false, true) => RowAction::One(in_place()?),
        (false, false) => RowAction::Move(Box::new(move_row(message, relation, &row, new, Some(in_place()?))?)),
    })
}

/// DELETE and INSERT. Values that the stream does not have come from the deleted row; two statements, because not every version of
/// TimescaleDB plans them as one.
fn move_row<'a>(
    message: &RelationMessage,
    relation: &Relation,
    row: &Old<'a>,
    new: &Row<'a>,
    in_place: Option<BoundStatement<'a>>,
) -> Result<RowMove<'a>> {
    let mut delete = Builder::new(format!("delete from {}{} where ", relation.shape.only(), relation.table.sql()));
    matching(&mut delete, message, relation, row)?;
    let mut complete = new.clone();
    let mut kept = Vec::new();
    for (i, value) in complete.iter_mut().enumerate().filter(|(_, v)| **v == Value::Unchanged) {
        match row.values.get(i) {
            // The old tuple of REPLICA IDENTITY FULL has it.
            Some(old @ Value::Text(_)) if row.kind == OldKind::Full => *value = *old,
            _ => kept.push(i),
        }
    }
    if !kept.is_empty() {
        delete.push(&format!(" returning {}", idents(kept.iter().map(|i| &message.columns[*i].name))));
    }
    Ok(RowMove { in_place, delete: delete.step(), kept, insert: insert(message, relation, complete.into_iter()) })
}

/// Columns by which the hypertable is partitioned: their places in the stream's relation.
fn dimensions<'a>(message: &'a RelationMessage, relation: &'a Relation) -> impl Iterator<Item = (usize, &'a str)> {
    message.columns.iter().enumerate().filter(|(_, c)| relation.shape.dimensions.contains(&c.name)).map(|(i, c)| (i, c.name.as_str()))
}

/// The condition that finds the row: by the replica identity's columns, or by the whole row, of which exactly one is taken (B-6).
fn matching<'a>(b: &mut Builder<'a>, message: &RelationMessage, relation: &Relation, row: &Old<'a>) -> Result<()> {
    let keys = key::columns(message, relation);
    if !keys.is_empty() {
        for (n, i) in keys.iter().enumerate() {
            let p = b.parameter(row.values[*i].text());
            let name = &message.columns[*i].name;
            let equal = target_column(relation, name)?.equals_parameter(&ident(name), &p);
            b.push(if n > 0 { " and " } else { "" }).push(&equal);
        }
        return Ok(());
    }
    if row.kind == OldKind::Key {
        return Err(Error::failed(format!("{}: the stream names no key for a changed row", relation.table))
            .hint("the table has no replica identity any more; give it one on the source and copy the table again"));
    }
    let (name, columns) = if relation.shape.kind == TableKind::Plain { ("ctid", "ctid") } else { ("(tableoid, ctid)", "tableoid, ctid") };
    b.push(&format!("{name} operator(pg_catalog.=) (select {columns} from {}{} where ", relation.shape.only(), relation.table.sql()));
    if message.columns.is_empty() {
        b.push("true");
    }
    for (i, column) in message.columns.iter().enumerate() {
        let name = ident(&column.name);
        b.push(if i > 0 { " and " } else { "" });
        if let Some(value) = row.values[i].text() {
            let p = b.parameter(Some(value));
            b.push(&target_column(relation, &column.name)?.is_identical(&name, &p));
        } else {
            // `is null` would be true for a row whose fields are NULL, too.
            b.push(&format!("{name} is not distinct from null"));
        }
    }
    b.push(" limit 1)");
    // So that the outer statement, too, reads the row's chunk only.
    for (i, name) in dimensions(message, relation) {
        if let Some(value) = row.values[i].text() {
            let p = b.parameter(Some(value));
            b.push(" and ").push(&target_column(relation, name)?.equals_parameter(&ident(name), &p));
        }
    }
    Ok(())
}

fn target_column<'a>(relation: &'a Relation, column: &str) -> Result<&'a TargetColumn> {
    relation.shape.columns.get(column).ok_or_else(|| missing_column(&relation.table, column))
}

/// C-12: a column that the target does not have.
pub fn missing_column(table: &TableName, column: &str) -> Error {
    Error::failed(format!("{table}: the source has a column {} that the target lacks", ident(column))).hint(format!(
        "add it on the target (alter table {} add column {} …), then retry",
        table.sql(),
        ident(column)
    ))
}

/// For people: the columns and values by which a row was searched. Shown to the operator, never logged.
pub fn describe_row(change: &Change) -> String {
    let (values, all) = match change.operation() {
        Ok(Operation::Update { old: Some((kind, old)), .. } | Operation::Delete { kind, old }) => (old, kind == OldKind::Full),
        Ok(Operation::Insert { new } | Operation::Update { old: None, new }) => (new, false),
        Err(_) => return "a row".into(),
    };
    let columns = change.description.columns.iter().zip(values.values()).filter(|(c, _)| c.key || all);
    let parts: Vec<String> = columns
        .take(4)
        .map(|(c, v)| {
            let value = v.text().map_or_else(|| "null".into(), |b| String::from_utf8_lossy(b).chars().take(40).collect::<String>());
            format!("{} = {value}", c.name)
        })
        .collect();
    if parts.is_empty() { "a row".into() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        lsn::Position,
        pg::target_table::{Equality, EqualityOperator, TargetTable},
        replay::{
            pgoutput::{ColumnMessage, Peek, encode, peek},
            relation::RelationIndex,
        },
    };
    use std::sync::Arc;

    fn v(s: &'static str) -> Value<'static> {
        Value::Text(s.as_bytes())
    }

    fn relation(dimensions: &[&str], primary_key: &[&str]) -> Relation {
        let column = |t: &str, base: &str, equality| TargetColumn {
            data_type: t.into(),
            equality,
            base_type: format!("pg_catalog.{base}"),
            operator: (equality != Equality::Text).then(|| EqualityOperator { name: "operator(pg_catalog.=)".into(), ..EqualityOperator::default() }),
        };
        Relation {
            oid: 1,
            table: TableName::new("public", "t"),
            shape: TargetTable {
                oid: 1,
                columns: [
                    ("id".into(), column("integer", "int4", Equality::Exact)),
                    ("ts".into(), column("timestamp with time zone", "timestamptz", Equality::Exact)),
                    ("n".into(), column("numeric", "numeric", Equality::Loose)),
                    ("j".into(), column("json", "json", Equality::Text)),
                ]
                .into(),
                primary_key: primary_key.iter().map(|s| (*s).to_owned()).collect(),
                dimensions: dimensions.iter().map(|s| (*s).to_owned()).collect(),
                chunk_width: None,
                kind: if dimensions.is_empty() { TableKind::Plain } else { TableKind::Hypertable },
                deferrable: false,
                spreadable: false,
            },
            ..Relation::default()
        }
    }

    type Values = [Value<'static>];

    fn insert_of(keys: &[&str], new: &Values) -> Change {
        change(keys, encode::row(b'I', 1, &[(b'N', new)]))
    }

    fn update_of(keys: &[&str], old: Option<(OldKind, &Values)>, new: &Values) -> Change {
        let old = old.map(|(kind, old)| (if kind == OldKind::Key { b'K' } else { b'O' }, old));
        change(keys, encode::row(b'U', 1, &old.into_iter().chain([(b'N', new)]).collect::<Vec<_>>()))
    }

    fn change(keys: &[&str], message: Vec<u8>) -> Change {
        let columns = ["id", "ts", "n", "j"]
            .iter()
            .map(|n| ColumnMessage { key: keys.contains(n), name: (*n).into(), type_oid: 25, type_modifier: -1 })
            .collect();
        let identity = if keys.len() == 4 { b'f' } else { b'd' };
        let description = Arc::new(RelationMessage { oid: 1, schema: "public".into(), name: "t".into(), identity, columns });
        let Ok(Peek::Row { op, .. }) = peek(&message) else { panic!("a row operation") };
        Change { position: Position::START, relation: RelationIndex(0), op, description, message: message.into() }
    }

    fn sql(work: &RowAction<'_>) -> Vec<String> {
        let bare = |s: &BoundStatement<'_>| s.sql.replace('"', "").replace("operator(pg_catalog.=)", "=").replace("pg_catalog.", "");
        match work {
            RowAction::One(a) => vec![bare(a)],
            RowAction::Move(m) => m.in_place.iter().chain([&m.delete, &m.insert]).map(bare).collect(),
            RowAction::Nothing => vec![],
        }
    }

    #[test]
    fn c_5_unchanged_toast_is_left_out_of_the_update() {
        let c = update_of(&["id"], None, &[v("1"), v("2"), Value::Null, Value::Unchanged]);
        let w = action(&c, &relation(&[], &["id"])).unwrap();
        assert_eq!(sql(&w), ["update only public.t set ts = $1, n = $2 where id = $3::int4"]);
    }

    #[test]
    fn c_6_a_changed_key_is_looked_for_by_its_old_value() {
        let old = [v("1"), Value::Null, Value::Null, Value::Null];
        let new = [v("9"), Value::Unchanged, Value::Unchanged, Value::Unchanged];
        let c = update_of(&["id"], Some((OldKind::Key, &old)), &new);
        let RowAction::One(step) = action(&c, &relation(&[], &["id"])).unwrap() else { panic!() };
        assert_eq!(step.parameters, [Some(Cow::Borrowed(&b"9"[..])), Some(Cow::Borrowed(&b"1"[..]))]);
    }

    #[test]
    fn b_6_a_whole_row_is_matched_once_with_nulls_and_types_without_equality() {
        let old: &Values = &[v("1"), Value::Null, v("1.00"), v("{}")];
        let c = change(&["id", "ts", "n", "j"], encode::row(b'D', 1, &[(b'O', old)]));
        assert_eq!(
            sql(&action(&c, &relation(&[], &[])).unwrap()),
            ["delete from only public.t where ctid = (select ctid from only public.t where id = $1::int4 and ts is not distinct from null \
                 and n = $2::numeric and n is distinct from null and format('%s', n) collate C = format('%s', $2::numeric) \
                 and j is distinct from null and format('%s', j) collate C = format('%s', $3::json) limit 1)"]
        );
        // With a primary key on the target the key is enough.
        assert_eq!(sql(&action(&c, &relation(&[], &["id"])).unwrap()), ["delete from only public.t where id = $1::int4"]);
    }

    #[test]
    fn h_10_a_row_that_changes_its_time_is_moved() {
        let new = [v("1"), v("b"), v("5"), Value::Unchanged];
        let ht = relation(&["ts"], &["id", "ts"]);
        // The key holds the time: the old one is known.
        let moved = update_of(&["id", "ts"], Some((OldKind::Key, &[v("1"), v("a"), Value::Null, Value::Null])), &new);
        assert_eq!(
            sql(&action(&moved, &ht).unwrap()),
            [
                "delete from public.t where id = $1::int4 and ts = $2::timestamptz returning j",
                "insert into public.t (id, ts, n, j) overriding system value values ($1, $2, $3, $4)"
            ]
        );
        let stays = update_of(&["id", "ts"], None, &new);
        assert_eq!(sql(&action(&stays, &ht).unwrap()), ["update public.t set n = $1 where id = $2::int4 and ts = $3::timestamptz"]);
        // It does not: the new time is tried first.
        let unknown = update_of(&["id"], None, &new);
        let tried = action(&unknown, &ht).unwrap();
        let statements = sql(&tried);
        assert!(
            statements[0].ends_with("where id = $3::int4 and ts = $4::timestamptz")
                && statements[1].starts_with("delete from public.t where id = $1::int4 ")
        );
    }

    #[test]
    fn c_7_an_update_of_nothing_needs_no_statement() {
        for new in [[Value::Unchanged; 4], [v("1"), Value::Unchanged, Value::Unchanged, Value::Unchanged]] {
            assert_eq!(action(&update_of(&["id"], None, &new), &relation(&[], &["id"])).unwrap(), RowAction::Nothing);
        }
    }

    #[test]
    fn b_3_a_generated_key_may_be_inserted() {
        let c = insert_of(&["id"], &[v("1"), v("2"), Value::Null, v("{}")]);
        assert_eq!(
            sql(&action(&c, &relation(&[], &["id"])).unwrap()),
            ["insert into public.t (id, ts, n, j) overriding system value values ($1, $2, $3, $4)"]
        );
    }

    #[test]
    fn a_column_that_the_target_lacks_is_named() {
        let old: &Values = &[v("1"), v("2"), v("3"), v("4")];
        let mut c = change(&["id", "ts", "n", "j"], encode::row(b'D', 1, &[(b'O', old)]));
        Arc::make_mut(&mut c.description).columns[3].name = "new col".into();
        let error = action(&c, &relation(&[], &[])).unwrap_err();
        assert!(error.to_string().contains("\"new col\"") && error.hint.unwrap().contains("add column"));
    }
}
