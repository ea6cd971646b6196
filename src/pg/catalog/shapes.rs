//! The columns and leaves of tables, by which changes of their definitions are noticed.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{
    error::Result,
    name::TableName,
    pg::{
        client::Client,
        own::{NOT_OF_EXTENSION, USER_SCHEMAS},
    },
    scope::{Inclusion, Scope},
};

/// What a table looked like when it was copied: its columns, and its leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub oid: u32,
    pub columns: Vec<ShapeColumn>,
    /// OIDs of the partitions that hold rows.
    pub leaves: Vec<u32>,
}

/// A column of a table of the source, with types of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeColumn {
    /// `attnum`: another number is another column, whatever its name.
    pub number: i16,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// Computed, and so not in the stream.
    pub generated: bool,
}

/// The shape of every user table whose rows are in scope, by name.
pub async fn shapes(client: &Client, scope: &Scope) -> Result<BTreeMap<String, Shape>> {
    let sql = format!(
        "select n.nspname::text as schema, c.relname::text as table, format('%I.%I', n.nspname, c.relname) as name, c.oid as oid, a.numbers, a.names, a.types, a.modifiers, a.generated,
                coalesce((select array_agg(relid::oid order by relid::oid)
                            from pg_partition_tree(case when c.relkind = 'p' then c.oid end) where isleaf), '{{}}') as leaves
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          cross join lateral (
                select coalesce(array_agg(attnum order by attnum), '{{}}') as numbers, coalesce(array_agg(attname::text order by attnum), '{{}}') as names,
                       coalesce(array_agg(atttypid order by attnum), '{{}}') as types, coalesce(array_agg(atttypmod order by attnum), '{{}}') as modifiers,
                       coalesce(array_agg(attgenerated <> '' order by attnum), '{{}}') as generated
                  from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped) a
          where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' and {USER_SCHEMAS}
            and {NOT_OF_EXTENSION}"
    );
    let shape = |r: &tokio_postgres::Row| {
        let (numbers, names): (Vec<i16>, Vec<String>) = (r.get("numbers"), r.get("names"));
        let (types, modifiers): (Vec<u32>, Vec<i32>) = (r.get("types"), r.get("modifiers"));
        let generated: Vec<bool> = r.get("generated");
        let column = |i: usize| ShapeColumn {
            number: numbers[i],
            name: names[i].clone(),
            type_oid: types[i],
            type_modifier: modifiers[i],
            generated: generated[i],
        };
        Shape { oid: r.get("oid"), columns: (0..numbers.len()).map(column).collect(), leaves: r.get("leaves") }
    };
    let rows = client.query(&sql, &[]).await?;
    let wanted = |r: &&tokio_postgres::Row| scope.inclusion(&TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("table"))) == Inclusion::All;
    Ok(rows.iter().filter(wanted).map(|r| (r.get("name"), shape(r))).collect())
}

/// Tables whose definition changed, and how. New partitions are replicated and do not count.
pub fn differences(before: &BTreeMap<String, Shape>, now: &BTreeMap<String, Shape>) -> Vec<(String, &'static str)> {
    if before.is_empty() {
        return Vec::new();
    }
    let new = now.keys().filter(|t| !before.contains_key(*t)).map(|t| (t.clone(), "is new and not part of this migration"));
    let changed = before.iter().filter_map(|(table, was)| {
        let how = match now.get(table) {
            None => "is gone or renamed",
            Some(is) if was.oid != is.oid || was.columns != is.columns => "has other columns",
            Some(is) if was.leaves.iter().any(|leaf| !is.leaves.contains(leaf)) => "has lost a partition: it was dropped or detached",
            Some(_) => return None,
        };
        Some((table.clone(), how))
    });
    new.chain(changed).collect()
}

/// The first of them in words for the operator, and how many more there are.
pub fn difference(before: &BTreeMap<String, Shape>, now: &BTreeMap<String, Shape>) -> Option<String> {
    match &differences(before, now)[..] {
        [] => None,
        [(table, how)] => Some(format!("{table} {how}")),
        [(table, how), more @ ..] => Some(format!("{table} {how}, and {} more", more.len())),
    }
}

/// What a column has by default.
#[derive(Clone, Debug)]
pub struct ColumnDefault {
    pub name: String,
    /// An expression, for new rows.
    pub default: Option<String>,
    /// The value of rows that are older than the column.
    pub missing: Option<String>,
    pub not_null: bool,
}

/// The defaults of all columns that are not generated; empty for a table that is gone.
pub async fn column_defaults(client: &Client, oid: u32) -> Result<Vec<ColumnDefault>> {
    let sql = "select a.attname::text as name, pg_get_expr(d.adbin, d.adrelid) as default, a.attnotnull as not_null,
                      case when a.atthasmissing then (a.attmissingval::text::text[])[1] end as missing
                 from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''";
    let column = |r: &tokio_postgres::Row| ColumnDefault {
        name: r.get("name"),
        default: r.get("default"),
        missing: r.get("missing"),
        not_null: r.get("not_null"),
    };
    Ok(client.query(sql, &[&oid]).await?.iter().map(column).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_is_named_and_a_new_partition_is_not_a_change() {
        let shape = |oid: u32, column: &str, leaves: &[u32]| {
            let column = ShapeColumn { number: 1, name: column.into(), type_oid: 23, type_modifier: -1, generated: false };
            Shape { oid, columns: vec![column], leaves: leaves.to_vec() }
        };
        let map = |list: &[(&str, Shape)]| list.iter().map(|(t, s)| ((*t).to_owned(), s.clone())).collect::<BTreeMap<_, _>>();
        let (t, p) = (shape(1, "a", &[]), shape(2, "b", &[7, 8]));
        let before = map(&[("a.t", t.clone()), ("a.p", p.clone())]);
        assert_eq!(difference(&before, &map(&[("a.t", t.clone()), ("a.p", shape(2, "b", &[7, 8, 9]))])), None);
        for (now, words) in [
            (map(&[("a.t", shape(1, "x", &[])), ("a.p", p.clone())]), "a.t has other columns"),
            (map(&[("a.t", t.clone()), ("a.p", shape(2, "b", &[7]))]), "a.p has lost a partition: it was dropped or detached"),
            (map(&[("a.p", p.clone())]), "a.t is gone or renamed"),
            (map(&[("a.t", t), ("a.p", p), ("a.n", shape(3, "c", &[]))]), "a.n is new and not part of this migration"),
        ] {
            assert_eq!(difference(&before, &now).as_deref(), Some(words));
        }
    }
}
