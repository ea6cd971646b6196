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
    /// Those of them that were tables before they were attached, and hold rows.
    #[serde(default)]
    pub attached: Vec<u32>,
    /// The files of the table, or of each leaf (`pg_class.relfilenode`); empty where an earlier version wrote it.
    #[serde(default)]
    pub files: Vec<u32>,
    /// By column: the transaction that wrote its definition.
    #[serde(default)]
    pub written: BTreeMap<i16, String>,
    /// No stream has changes of an unlogged table.
    #[serde(default)]
    pub unlogged: bool,
    /// Columns with a default or an identity, but without a value for the rows that were there before it.
    #[serde(default)]
    pub computed: Vec<i16>,
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

/// The shape of every user table whose rows are in scope, by name. A partition was attached, and not made as one, if its columns were written
/// by the command that made it a partition, or if that was another transaction than the one that made it.
pub async fn shapes(client: &Client, scope: &Scope) -> Result<BTreeMap<String, Shape>> {
    let sql = format!(
        "select n.nspname::text as schema, c.relname::text as table, format('%I.%I', n.nspname, c.relname) as name, c.oid as oid, a.numbers, a.names, a.types, a.modifiers, a.generated,
                a.written, a.computed, c.relpersistence = 'u' as unlogged,
                coalesce((select array_agg(relid::oid order by relid::oid)
                            from pg_partition_tree(case when c.relkind = 'p' then c.oid end) where isleaf), '{{}}') as leaves,
                coalesce((select array_agg(l.oid order by l.oid)
                            from pg_partition_tree(case when c.relkind = 'p' then c.oid end) t join pg_class l on l.oid = t.relid
                            join pg_type y on y.oid = l.reltype join pg_inherits i on i.inhrelid = l.oid
                           where isleaf and l.relkind = 'r' and pg_relation_size(l.oid) > 0
                             and (i.xmin <> y.xmin or exists (select from pg_attribute w where w.attrelid = l.oid and w.xmin = i.xmin and w.cmin = i.cmin))),
                         '{{}}') as attached,
                case when c.relkind = 'r' then array[c.relfilenode] else coalesce((select array_agg(l.relfilenode order by l.oid)
                            from pg_partition_tree(c.oid) t join pg_class l on l.oid = t.relid where isleaf), '{{}}') end as files
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          cross join lateral (
                select coalesce(array_agg(attnum order by attnum), '{{}}') as numbers, coalesce(array_agg(attname::text order by attnum), '{{}}') as names,
                       coalesce(array_agg(atttypid order by attnum), '{{}}') as types, coalesce(array_agg(atttypmod order by attnum), '{{}}') as modifiers,
                       coalesce(array_agg(attgenerated <> '' order by attnum), '{{}}') as generated,
                       coalesce(array_agg(xmin::text order by attnum), '{{}}') as written,
                       coalesce(array_agg(attnum order by attnum) filter (where (atthasdef or attidentity <> '') and attgenerated = '' and not atthasmissing), '{{}}') as computed
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
        Shape {
            oid: r.get("oid"),
            columns: (0..numbers.len()).map(column).collect(),
            leaves: r.get("leaves"),
            attached: r.get("attached"),
            files: r.get("files"),
            written: numbers.iter().copied().zip(r.get::<_, Vec<String>>("written")).collect(),
            computed: r.get("computed"),
            unlogged: r.get("unlogged"),
        }
    };
    let rows = client.query(&sql, &[]).await?;
    let wanted = |r: &&tokio_postgres::Row| scope.inclusion(&TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("table"))) == Inclusion::All;
    Ok(rows.iter().filter(wanted).map(|r| (r.get("name"), shape(r))).collect())
}

/// How a table of the source differs from what it was when it was copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ShapeChange {
    New,
    Gone,
    /// Another table has its name now.
    Replaced,
    /// Columns were added, dropped or renamed.
    Columns,
    /// The values of its rows may be others: ALTER TABLE has written them again, or a column has taken the name of another one.
    Rewritten,
    /// A table that had rows became a partition: the stream has only what was written since.
    Attached,
    LostPartition,
}

impl ShapeChange {
    pub fn words(self) -> &'static str {
        match self {
            Self::New => "is new on the source",
            Self::Gone => "is gone or renamed",
            Self::Replaced => "is another table now",
            Self::Columns => "has other columns",
            Self::Rewritten => "was written again by ALTER TABLE: its rows may have other values than on the target",
            Self::Attached => "has a new partition that was attached with rows: those from before are not on the target",
            Self::LostPartition => "has lost a partition: it was dropped or detached",
        }
    }

    /// Whether the rows differ, whatever the definition of the target's table is by now.
    pub fn concerns_rows(self) -> bool {
        matches!(self, Self::New | Self::Replaced | Self::Rewritten | Self::Attached)
    }
}

/// Tables that changed, and how. A partition that was made as one is replicated and does not count.
pub fn differences(before: &BTreeMap<String, Shape>, now: &BTreeMap<String, Shape>) -> Vec<(String, ShapeChange)> {
    if before.is_empty() {
        return Vec::new();
    }
    let new = now.keys().filter(|t| !before.contains_key(*t)).map(|t| (t.clone(), ShapeChange::New));
    let changed = before.iter().filter_map(|(table, was)| Some((table.clone(), change(was, now.get(table))?)));
    new.chain(changed).collect()
}

fn change(was: &Shape, now: Option<&Shape>) -> Option<ShapeChange> {
    let Some(is) = now else { return Some(ShapeChange::Gone) };
    if was.oid != is.oid {
        return Some(ShapeChange::Replaced);
    }
    if was.was_rewritten(is) {
        return Some(ShapeChange::Rewritten);
    }
    if is.attached.iter().any(|leaf| !was.leaves.contains(leaf)) {
        return Some(ShapeChange::Attached);
    }
    if was.columns != is.columns {
        return Some(ShapeChange::Columns);
    }
    was.leaves.iter().any(|leaf| !is.leaves.contains(leaf)).then_some(ShapeChange::LostPartition)
}

impl Shape {
    /// The same with the leaves that it has now: those that it had keep their files.
    #[must_use]
    pub fn with_leaves_of(&self, now: &Self) -> Self {
        let file = |(at, leaf): (usize, &u32)| {
            let known = self.leaves.iter().position(|l| l == leaf).and_then(|at| self.files.get(at));
            known.or_else(|| now.files.get(at)).copied().unwrap_or_default()
        };
        let files = if self.files.is_empty() { Vec::new() } else { now.leaves.iter().enumerate().map(file).collect() };
        Self { leaves: now.leaves.clone(), attached: now.attached.clone(), files, ..self.clone() }
    }

    /// ALTER TABLE gives a table that it writes again a new file, and changes the definition of a column. TRUNCATE, CLUSTER and VACUUM FULL do
    /// only the first. The stream carries nothing of it (PostgreSQL documentation, ALTER TABLE, Notes).
    pub fn was_rewritten(&self, now: &Self) -> bool {
        let another_column = self.columns.iter().any(|c| now.columns.iter().any(|n| n.name == c.name && n.number != c.number));
        let kept: Vec<&u32> = self.leaves.iter().filter(|leaf| now.leaves.contains(leaf)).collect();
        let file = |shape: &Self, leaf: &u32| shape.leaves.iter().position(|l| l == leaf).and_then(|at| shape.files.get(at).copied());
        let new_file = if self.leaves.is_empty() && now.leaves.is_empty() {
            !self.files.is_empty() && self.files != now.files
        } else {
            kept.into_iter().any(|leaf| file(self, leaf).is_some() && file(self, leaf) != file(now, leaf))
        };
        let new_values = now.written.iter().any(|(number, written)| match self.written.get(number) {
            Some(before) => before != written,
            None => now.computed.contains(number),
        });
        another_column || (new_file && new_values) || (self.unlogged && !now.unlogged)
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

    fn shape(oid: u32, column: &str, leaves: &[u32]) -> Shape {
        let column = ShapeColumn { number: 1, name: column.into(), type_oid: 23, type_modifier: -1, generated: false };
        let written = BTreeMap::from([(1, "700".to_owned())]);
        let files = if leaves.is_empty() { vec![oid + 1000] } else { leaves.iter().map(|l| l + 1000).collect() };
        Shape { oid, columns: vec![column], leaves: leaves.to_vec(), files, written, ..Shape::default() }
    }

    fn map(list: &[(&str, Shape)]) -> BTreeMap<String, Shape> {
        list.iter().map(|(t, s)| ((*t).to_owned(), s.clone())).collect()
    }

    #[test]
    fn a_changed_source_is_named_and_a_new_partition_is_not_a_change() {
        let (t, p) = (shape(1, "a", &[]), shape(2, "b", &[7, 8]));
        let before = map(&[("a.t", t.clone()), ("a.p", p.clone())]);
        assert_eq!(differences(&before, &map(&[("a.t", t.clone()), ("a.p", shape(2, "b", &[7, 8, 9]))])), []);
        for (now, table, change) in [
            (map(&[("a.t", shape(1, "x", &[])), ("a.p", p.clone())]), "a.t", ShapeChange::Columns),
            (map(&[("a.t", shape(5, "a", &[])), ("a.p", p.clone())]), "a.t", ShapeChange::Replaced),
            (map(&[("a.t", t.clone()), ("a.p", shape(2, "b", &[7]))]), "a.p", ShapeChange::LostPartition),
            (map(&[("a.p", p.clone())]), "a.t", ShapeChange::Gone),
            (map(&[("a.t", t), ("a.p", p), ("a.n", shape(3, "c", &[]))]), "a.n", ShapeChange::New),
        ] {
            assert_eq!(differences(&before, &now), [(table.to_owned(), change)]);
        }
    }

    #[test]
    fn truncate_and_new_columns_are_not_taken_for_a_rewrite() {
        let was = shape(1, "a", &[]);
        let written = |xid: &str| BTreeMap::from([(1, xid.to_owned())]);
        let truncated = Shape { files: vec![9], ..was.clone() };
        let not_null = Shape { written: written("800"), ..was.clone() };
        let retyped = Shape { files: vec![9], written: written("800"), ..was.clone() };
        let added = Shape { files: vec![9], written: BTreeMap::from([(1, "700".into()), (2, "800".into())]), ..was.clone() };
        let computed = Shape { computed: vec![2], ..added.clone() };
        let mut swapped = was.clone();
        swapped.columns[0].number = 2;
        let (unlogged, logged) = (Shape { unlogged: true, ..was.clone() }, Shape { files: vec![9], ..was.clone() });
        assert!(unlogged.was_rewritten(&logged) && !unlogged.was_rewritten(&unlogged));
        let unknown = Shape { files: Vec::new(), ..was.clone() };
        for (now, rewritten) in [(&truncated, false), (&not_null, false), (&added, false), (&retyped, true), (&computed, true), (&swapped, true)] {
            assert_eq!(was.was_rewritten(now), rewritten, "{now:?}");
        }
        assert!(!unknown.was_rewritten(&retyped), "an earlier version wrote no files");
        let (parts, other) = (shape(2, "b", &[7, 8]), shape(2, "b", &[8, 9]));
        assert!(!parts.was_rewritten(&Shape { written: written("800"), ..other.clone() }));
        assert!(parts.was_rewritten(&Shape { written: written("800"), files: vec![77, 1009], ..other.clone() }));
        let taken = parts.with_leaves_of(&other);
        assert_eq!((&taken.leaves[..], &taken.files[..]), (&[8, 9][..], &[1008, 1009][..]));
        assert!(taken.was_rewritten(&Shape { written: written("800"), files: vec![1008, 77], ..other }));
    }
}
