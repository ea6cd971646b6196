//! Schema changes on the source (C-12). Logical replication does not carry them, but the stream describes a relation again before its
//! next change. Here is what has to run on the target so that this change finds a table of the right shape. Pure, except for the questions to
//! the source.

use std::collections::HashMap;

use super::{pgoutput::RelationMessage, relation::Relation};
use crate::{
    error::Result,
    name::{TableName, ident, literal},
    pg::{
        catalog::{self, ShapeColumn},
        client::Client,
        target_table::TargetTable,
    },
};

/// A relation whose schema change is made on the target, too.
#[derive(Clone, Debug)]
pub struct SchemaChange {
    /// On the source.
    pub oid: u32,
    pub before: TableName,
    pub now: TableName,
    pub columns: Vec<ShapeColumn>,
}

/// What the source says of a relation's columns: how their types print, and how the new ones are defined.
#[derive(Debug, Default)]
pub struct Definitions {
    types: HashMap<String, String>,
    /// What follows the type: default and NOT NULL; and a default that is only for rows to come.
    added: HashMap<String, (String, Option<String>)>,
}

impl Definitions {
    pub async fn read(source: &Client, message: &RelationMessage) -> Result<Self> {
        let mut found = Self::default();
        for column in &message.columns {
            let sql = format!("select format_type({}, {})", column.type_oid, column.type_modifier);
            found.types.insert(column.name.clone(), catalog::value::<String>(source, &sql).await?);
        }
        for column in catalog::column_defaults(source, message.oid).await? {
            // Rows from before the column have the value that was the default then.
            let (first, later) = match (column.missing.map(|m| literal(&m).trim_start().to_owned()), column.default) {
                // Still the same, with a cast or without.
                (Some(missing), Some(now)) if now == missing || now.starts_with(&format!("{missing}::")) => (Some(now), None),
                (Some(missing), now) => (Some(missing), Some(now.unwrap_or_else(|| "null".into()))),
                (None, now) => (now, None),
            };
            let mut clause = first.as_ref().map_or_else(String::new, |value| format!(" default {value}"));
            if column.not_null && first.is_some() {
                clause.push_str(" not null");
            }
            found.added.insert(column.name, (clause, later));
        }
        Ok(found)
    }

    fn type_of(&self, column: &str) -> &str {
        self.types.get(column).map_or("text", String::as_str)
    }
}

/// Whether the stream describes the relation as it was when it was copied. A leaf may have its columns in another order, and has a
/// name of its own.
pub fn is_as_before(relation: &Relation, message: &RelationMessage, before: &[ShapeColumn]) -> bool {
    let same_name = message.oid != relation.oid || (message.schema == relation.table.schema && message.name == relation.table.name);
    let replicated = before.iter().filter(|c| !c.generated);
    same_name
        && replicated.clone().count() == message.columns.len()
        && replicated
            .into_iter()
            .all(|b| message.columns.iter().any(|c| c.name == b.name && c.type_oid == b.type_oid && c.type_modifier == b.type_modifier))
}

/// The columns as the stream describes them, for the next comparison.
pub fn columns(message: &RelationMessage) -> Vec<ShapeColumn> {
    let column = |(n, c): (usize, &super::pgoutput::ColumnMessage)| ShapeColumn {
        number: n as i16 + 1,
        name: c.name.clone(),
        type_oid: c.type_oid,
        type_modifier: c.type_modifier,
        generated: false,
    };
    message.columns.iter().enumerate().map(column).collect()
}

/// What still has to run on the target, whose table is called `table` now; empty when all of it has run.
pub fn statements(
    table: &TableName,
    is_leaf: bool,
    message: &RelationMessage,
    before: &[ShapeColumn],
    target: &TargetTable,
    definitions: &Definitions,
) -> Vec<String> {
    let mut name = table.clone();
    let mut statements = Vec::new();
    if !is_leaf {
        name = TableName::new(&message.schema, &message.name);
        statements.extend(renamed(table, &name));
    }
    let alter = format!("alter table {}", name.sql());
    let mut gone: Vec<(usize, &ShapeColumn)> = before
        .iter()
        .filter(|b| !b.generated)
        .enumerate()
        .filter(|(_, b)| target.columns.contains_key(&b.name) && message.columns.iter().all(|c| c.name != b.name))
        .collect();
    for (place, column) in message.columns.iter().enumerate() {
        let quoted = ident(&column.name);
        let data_type = definitions.type_of(&column.name);
        let Some(there) = target.columns.get(&column.name) else {
            // In the same place, of the same type, and the other one is gone: the name has changed.
            let renamed = gone.iter().position(|(p, b)| *p == place && b.type_oid == column.type_oid && b.type_modifier == column.type_modifier);
            if let Some(at) = renamed.filter(|_| !is_leaf) {
                let (_, old) = gone.remove(at);
                statements.push(format!("{alter} rename column {} to {quoted}", ident(&old.name)));
                continue;
            }
            let (clause, later) = definitions.added.get(&column.name).cloned().unwrap_or_default();
            statements.push(format!("{alter} add column {quoted} {data_type}{clause}"));
            if let Some(default) = later {
                statements.push(format!("{alter} alter column {quoted} set default {default}"));
            }
            continue;
        };
        let was = before.iter().find(|b| b.name == column.name);
        let retyped = was.is_some_and(|b| (b.type_oid, b.type_modifier) != (column.type_oid, column.type_modifier));
        if retyped && unqualified(&there.data_type) != unqualified(data_type) {
            statements.push(format!("{alter} alter column {quoted} type {data_type} using {quoted}::{data_type}"));
        }
    }
    statements.extend(gone.iter().map(|(_, column)| format!("{alter} drop column {}", ident(&column.name))));
    statements
}

/// The statements that give a table of the target another name.
pub fn renamed(from: &TableName, to: &TableName) -> Vec<String> {
    let mut statements = Vec::new();
    if from.schema != to.schema {
        statements.push(format!("alter table {} set schema {}", from.sql(), ident(&to.schema)));
    }
    if from.name != to.name {
        statements.push(format!("alter table {} rename to {}", TableName::new(&to.schema, &from.name).sql(), ident(&to.name)));
    }
    statements
}

/// The same for tables of which some have the names that others get. The first may have its new name as soon as the others have made way.
pub fn renamed_together(moves: &[(TableName, TableName)]) -> Vec<String> {
    let Some((first, others)) = moves.split_first() else { return Vec::new() };
    let aside = |n: usize, table: &TableName| TableName::new(&table.schema, format!("hyperlift_aside_{}", n + 1));
    let mut statements: Vec<String> = others.iter().enumerate().flat_map(|(n, (from, _))| renamed(from, &aside(n, from))).collect();
    statements.extend(renamed(&first.0, &first.1));
    statements.extend(others.iter().enumerate().flat_map(|(n, (from, to))| renamed(&aside(n, from), to)));
    statements
}

/// Whether statements for the target only add columns, or rename.
pub fn adds_only(sql: &str) -> bool {
    const WORDS: [&str; 5] = [" add column ", " rename to ", " rename column ", " set schema ", " set default "];
    sql.lines().all(|line| WORDS.iter().any(|words| line.contains(words)))
}

/// An extension may live in another schema on the target.
fn unqualified(data_type: &str) -> &str {
    let end = data_type.find('(').unwrap_or(data_type.len());
    data_type[..end].rfind('.').map_or(data_type, |dot| &data_type[dot + 1..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        pg::target_table::{Equality, TargetColumn},
        replay::pgoutput::ColumnMessage,
    };

    type Columns<'a> = &'a [(&'a str, u32)];

    const INT: u32 = 23;
    const TEXT: u32 = 25;

    fn shape(columns: &[(&str, u32)]) -> Vec<ShapeColumn> {
        columns
            .iter()
            .enumerate()
            .map(|(n, (name, type_oid))| ShapeColumn {
                number: n as i16 + 1,
                name: (*name).into(),
                type_oid: *type_oid,
                type_modifier: -1,
                generated: false,
            })
            .collect()
    }

    fn message(name: &str, columns: &[(&str, u32)]) -> RelationMessage {
        let column = |(name, type_oid): &(&str, u32)| ColumnMessage { key: false, name: (*name).into(), type_oid: *type_oid, type_modifier: -1 };
        RelationMessage { oid: 1, schema: "public".into(), name: name.into(), identity: b'd', columns: columns.iter().map(column).collect() }
    }

    fn type_name(oid: u32) -> String {
        if oid == INT { "integer".into() } else { "text".into() }
    }

    fn due(before: &[(&str, u32)], now: &RelationMessage, target: &[(&str, u32)]) -> Vec<String> {
        let columns = target
            .iter()
            .map(|(n, t)| {
                ((*n).to_owned(), TargetColumn { data_type: type_name(*t), equality: Equality::Exact, base_type: String::new(), operator: None })
            })
            .collect();
        let target = TargetTable { columns, ..TargetTable::default() };
        let mut definitions = Definitions::default();
        for c in &now.columns {
            definitions.types.insert(c.name.clone(), type_name(c.type_oid));
        }
        definitions.added.insert("flag".into(), (" default 'on' not null".into(), Some("'off'".into())));
        statements(&TableName::new("public", "t"), false, now, &shape(before), &target, &definitions).iter().map(|s| s.replace('"', "")).collect()
    }

    #[test]
    fn c_12_each_change_of_a_table_has_its_statement_until_it_has_run() {
        let before: &[(&str, u32)] = &[("id", INT), ("a", TEXT)];
        let cases: &[(&str, Columns<'_>, &[&str])] = &[
            ("t", &[("id", INT), ("a", TEXT), ("n", INT)], &["alter table public.t add column n integer"]),
            (
                "t",
                &[("id", INT), ("a", TEXT), ("flag", TEXT)],
                &["alter table public.t add column flag text default 'on' not null", "alter table public.t alter column flag set default 'off'"],
            ),
            ("t", &[("id", INT)], &["alter table public.t drop column a"]),
            ("t", &[("id", INT), ("b", TEXT)], &["alter table public.t rename column a to b"]),
            ("t", &[("id", INT), ("a", INT)], &["alter table public.t alter column a type integer using a::integer"]),
            ("t", &[("id", INT), ("b", INT)], &["alter table public.t add column b integer", "alter table public.t drop column a"]),
            ("u", before, &["alter table public.t rename to u"]),
            ("t", before, &[]),
        ];
        for (name, now, wanted) in cases {
            assert_eq!(due(before, &message(name, now), before), *wanted, "{name} {now:?}");
            // Once it has run nothing remains.
            if *name == "t" {
                assert_eq!(due(before, &message(name, now), now), [""; 0], "{now:?}");
            }
        }
    }

    #[test]
    fn c_48_tables_that_have_each_others_names_are_renamed_through_other_names() {
        let name = |name: &str| TableName::new("public", name);
        let sql: Vec<String> =
            renamed_together(&[(name("b"), name("a")), (name("a"), TableName::new("old", "b"))]).iter().map(|s| s.replace('"', "")).collect();
        assert_eq!(
            sql,
            [
                "alter table public.a rename to hyperlift_aside_1",
                "alter table public.b rename to a",
                "alter table public.hyperlift_aside_1 set schema old",
                "alter table old.hyperlift_aside_1 rename to b"
            ]
        );
        assert!(adds_only(&sql.join(";\n")) && !adds_only("alter table public.t drop column a"));
    }

    #[test]
    fn c_32_a_relation_is_known_by_oid_and_a_leaf_by_its_columns() {
        let table = TableName::new("public", "t");
        let relation = Relation { oid: 1, table, ..Relation::default() };
        let before = shape(&[("id", INT), ("a", TEXT)]);
        assert!(is_as_before(&relation, &message("t", &[("id", INT), ("a", TEXT)]), &before));
        assert!(!is_as_before(&relation, &message("u", &[("id", INT), ("a", TEXT)]), &before));
        let leaf = RelationMessage { oid: 2, ..message("t_2026", &[("a", TEXT), ("id", INT)]) };
        assert!(is_as_before(&relation, &leaf, &before));
        assert!(!is_as_before(&relation, &RelationMessage { columns: leaf.columns[..1].to_vec(), ..leaf }, &before));
    }

    #[test]
    fn types_are_compared_without_their_schemas() {
        assert_eq!(
            (unqualified("public.citext"), unqualified("numeric(10,2)"), unqualified("ext.geometry(Point,4326)")),
            ("citext", "numeric(10,2)", "geometry(Point,4326)")
        );
    }
}
