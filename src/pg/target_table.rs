//! The shape of a table on the target, as replay needs it.

mod column;

use std::collections::HashMap;

use self::column::columns;
use super::{client::Client, timescale};
use crate::{error::Result, name::TableName};

pub use self::column::{Equality, EqualityOperator, TargetColumn};

/// A table of the target.
#[derive(Clone, Debug, Default)]
pub struct TargetTable {
    pub oid: u32,
    pub columns: HashMap<String, TargetColumn>,
    /// Columns of its primary key, in order; empty without one.
    pub primary_key: Vec<String>,
    /// Columns by which a hypertable is partitioned; empty for other tables.
    pub dimensions: Vec<String>,
    /// How much of its first dimension a chunk holds: microseconds, or integers.
    pub chunk_width: Option<i64>,
    pub kind: TableKind,
    /// Has a deferrable constraint, so that a transaction must be applied as a whole.
    pub deferrable: bool,
    /// At most one unique constraint, immediate, and nothing that excludes rows otherwise: rows of different keys are independent.
    pub spreadable: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TableKind {
    /// Statements name it with ONLY: tables that inherit from it are relations of their own.
    #[default]
    Plain,
    /// The rows are in its leaves, so `ctid` alone names no row.
    Partitioned,
    /// The rows are in its chunks. TimescaleDB refuses ONLY.
    Hypertable,
}

impl TargetTable {
    /// `only ` for a table whose children, if it has any, are not its own rows.
    pub fn only(&self) -> &'static str {
        if self.kind == TableKind::Plain { "only " } else { "" }
    }
}

/// The shape of a table on the target; `None` when it does not exist. `has_timescale`: hypertables are found, too.
pub async fn target_table(client: &Client, table: &TableName, has_timescale: bool) -> Result<Option<TargetTable>> {
    Ok(target_tables(client, std::slice::from_ref(table), has_timescale).await?.remove(table))
}

/// The shapes of those of the tables that exist.
pub async fn target_tables(client: &Client, tables: &[TableName], has_timescale: bool) -> Result<HashMap<TableName, TargetTable>> {
    let names: Vec<String> = tables.iter().map(TableName::sql).collect();
    let rows = client
        .query(
            "select t.n, coalesce((select array_agg(a.attname::text order by k.n) from pg_index i
                       cross join lateral unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) with ordinality k(attnum, n)
                       join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum
                      where i.indrelid = c.oid and i.indisprimary and i.indimmediate), '{}') as primary_key,
                    exists (select from pg_constraint x where x.conrelid = c.oid and x.condeferrable) as deferrable,
                    c.relkind = 'r' and 1 >= (select count(*) from pg_index i where i.indrelid = c.oid and (i.indisunique or i.indisexclusion)) as spreadable,
                    c.oid as oid, c.relkind = 'p' as partitioned
               from unnest($1::text[]) with ordinality t(name, n) join pg_class c on c.oid = to_regclass(t.name)",
            &[&names],
        )
        .await?;
    let mut hypertables = if has_timescale { timescale::hypertables(client).await? } else { HashMap::new() };
    let mut found = HashMap::new();
    for row in &rows {
        let table = &tables[row.get::<_, i64>("n") as usize - 1];
        let deferrable: bool = row.get("deferrable");
        let kind = if row.get("partitioned") { TableKind::Partitioned } else { TableKind::Plain };
        let dimensions = hypertables.remove(table).unwrap_or_default();
        let shape = TargetTable {
            oid: row.get("oid"),
            columns: HashMap::new(),
            primary_key: row.get("primary_key"),
            chunk_width: dimensions.first().and_then(|d| d.width),
            kind: if dimensions.is_empty() { kind } else { TableKind::Hypertable },
            dimensions: dimensions.into_iter().map(|d| d.column).collect(),
            deferrable,
            spreadable: row.get::<_, bool>("spreadable") && !deferrable,
        };
        found.insert(table.clone(), shape);
    }
    let mut columns = columns(client, found.values().map(|t| t.oid).collect()).await?;
    for table in found.values_mut() {
        table.columns = columns.remove(&table.oid).unwrap_or_default();
    }
    Ok(found)
}

/// The shape of a foreign table that is no partition yet; `None` where there is none.
pub async fn detached_foreign_table(client: &Client, table: &TableName) -> Result<Option<TargetTable>> {
    let sql = "select from pg_class where oid = to_regclass($1) and relkind = 'f' and not relispartition";
    if client.query_opt(sql, &[&table.sql()]).await?.is_none() {
        return Ok(None);
    }
    target_table(client, table, false).await
}

/// Those of the tables that are of this kind: `r` plain, `p` partitioned (`pg_class.relkind`).
pub async fn of_kind(client: &Client, tables: &[TableName], kind: &str) -> Result<Vec<TableName>> {
    let names: Vec<String> = tables.iter().map(TableName::sql).collect();
    let sql =
        "select t.n from unnest($1::text[]) with ordinality t(name, n) join pg_class c on c.oid = to_regclass(t.name) where c.relkind::text = $2";
    Ok(client.query(sql, &[&names, &kind]).await?.iter().map(|r| tables[r.get::<_, i64>("n") as usize - 1].clone()).collect())
}

/// The sequences that belong to columns of the tables, but for those of identity columns.
pub async fn owned_sequences(client: &Client, tables: &[TableName]) -> Result<Vec<TableName>> {
    let names: Vec<String> = tables.iter().map(TableName::sql).collect();
    let sql = "select n.nspname::text as schema, c.relname::text as name
                 from unnest($1::text[]) t(name)
                 join pg_depend d on d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass(t.name) and d.classid = 'pg_class'::regclass and d.deptype = 'a'
                 join pg_class c on c.oid = d.objid and c.relkind = 'S'
                 join pg_namespace n on n.oid = c.relnamespace";
    Ok(client.query(sql, &[&names]).await?.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// Columns with which an index of the table begins that finds equal values, of all rows.
pub async fn leading_columns(client: &Client, table: &TableName) -> Result<Vec<String>> {
    let sql = "select distinct a.attname::text as name
                 from pg_index i
                 join pg_class c on c.oid = i.indexrelid
                 join pg_am m on m.oid = c.relam
                 join pg_attribute a on a.attrelid = i.indrelid and a.attnum = i.indkey[0]
                where i.indrelid = to_regclass($1) and i.indisvalid and i.indpred is null
                  and (m.amname in ('btree', 'hash') or exists (
                        select from pg_constraint x join pg_operator o on o.oid = x.conexclop[1] where x.conindid = i.indexrelid and o.oprname = '='))";
    Ok(client.query(sql, &[&table.sql()]).await?.iter().map(|r| r.get("name")).collect())
}

/// Whether the planner's statistics of each of these tables, with its leaves or chunks, are missing or out of date, by the measure of
/// autovacuum's defaults (PostgreSQL documentation 20.10). Extended statistics, which are made last of all, have none before.
pub async fn wants_analyze(client: &Client, tables: &[TableName]) -> Result<Vec<bool>> {
    let names: Vec<String> = tables.iter().map(TableName::sql).collect();
    let sql = "with recursive tree as (
                   select t.n, to_regclass(t.name)::oid as oid from unnest($1::text[]) with ordinality t(name, n)
                   union all
                   select tree.n, i.inhrelid from tree join pg_inherits i on i.inhparent = tree.oid)
               select n, coalesce(bool_or(
                          coalesce(pg_stat_get_last_analyze_time(c.oid), pg_stat_get_last_autoanalyze_time(c.oid)) is null
                          or pg_stat_get_mod_since_analyze(c.oid) > 50 + 0.1 * greatest(c.reltuples, 0)
                          or exists (select from pg_statistic_ext s where s.stxrelid = c.oid)), true) as wanted
                 from tree left join pg_class c on c.oid = tree.oid and c.relkind in ('r', 'p') group by n order by n";
    Ok(client.query(sql, &[&names]).await?.iter().map(|r| r.get("wanted")).collect())
}

/// Rows that sequential scans have read of each of these tables, with its leaves or chunks, since its statistics began.
pub async fn rows_scanned(client: &Client, tables: &[(&TableName, TableKind)]) -> Result<Vec<u64>> {
    let names: Vec<String> = tables.iter().map(|(table, _)| table.sql()).collect();
    let whole: Vec<bool> = tables.iter().map(|(_, kind)| *kind != TableKind::Plain).collect();
    let sql = "with recursive tree as (
                   select t.n, to_regclass(t.name)::oid as oid, t.whole from unnest($1::text[], $2::bool[]) with ordinality t(name, whole, n)
                   union all
                   select tree.n, i.inhrelid, true from tree join pg_inherits i on i.inhparent = tree.oid where tree.whole)
               select n, coalesce(sum(pg_stat_get_tuples_returned(oid)), 0)::bigint as rows
                 from tree group by n order by n";
    let rows = client.query(sql, &[&names, &whole]).await?;
    Ok(rows.iter().map(|r| r.get::<_, i64>("rows") as u64).collect())
}
