//! The statements that replay will need for a table, before there is a change: so that the target can be asked whether it takes them. Pure.

use super::{
    apply::{self, BoundStatement, RowAction},
    key,
    pgoutput::{ColumnMessage, OldKind, RelationMessage, Value},
    relation::Relation,
    sets,
};
use crate::{
    error::Result,
    pg::{catalog::SourceRelation, target_table::TargetTable},
};

/// For a table that is replicated with its updates, or with its inserts only.
pub fn of_table(source: &SourceRelation, shape: &TargetTable, insert_only: bool) -> Result<Vec<String>> {
    let relation = Relation { oid: source.oid, table: source.table.clone(), shape: shape.clone(), ..Relation::default() };
    let message = description(source);
    // Every column gets another value than it had.
    let (before, after) = (message.columns.iter().map(|_| Value::Text(b"0")), message.columns.iter().map(|_| Value::Text(b"1")));
    let mut found = vec![apply::insert(&message, &relation, after.clone()).sql];
    let keys = key::columns(&message, &relation);
    let kind = if message.identity == b'f' { OldKind::Full } else { OldKind::Key };
    if insert_only || (keys.is_empty() && kind == OldKind::Key) {
        return Ok(found);
    }
    found.push(apply::delete(&message, &relation, kind, before.clone())?.sql);
    match apply::update(&message, &relation, Some((kind, before.collect())), &after.collect())? {
        RowAction::Nothing => {}
        RowAction::One(BoundStatement { sql, .. }) => found.push(sql),
        RowAction::Move(row) => found.extend(row.in_place.into_iter().chain([row.delete, row.insert]).map(|s| s.sql)),
    }
    if !keys.is_empty() {
        let (only, table) = (shape.only(), relation.table.sql());
        found.push(format!("select from {only}{table} t, {only}{table} s where {}", sets::join(&message, &relation, &keys)));
    }
    Ok(found)
}

/// The table as the stream will describe it.
fn description(source: &SourceRelation) -> RelationMessage {
    let index = match source.identity {
        'i' => source.identity_index.as_ref().and_then(|name| source.index(name)),
        'd' => source.primary_key(),
        _ => None,
    };
    let is_key = |name: &String| source.identity == 'f' || index.is_some_and(|index| index.columns.contains(name));
    let columns = source.columns.iter().filter(|c| !c.generated).map(|c| ColumnMessage {
        key: is_key(&c.name),
        name: c.name.clone(),
        type_oid: 0,
        type_modifier: -1,
    });
    RelationMessage {
        oid: source.oid,
        schema: source.table.schema.clone(),
        name: source.table.name.clone(),
        identity: source.identity as u8,
        columns: columns.collect(),
    }
}
