//! Statements about a whole table that touch the rows of this server only. A foreign table may be a partition or a child of it, and TRUNCATE
//! and ANALYZE of the table would reach the server of that one. What the table consists of is read when the statement runs.
//!
//! The session may have a path of the application's, so operators are named with their schema.

use super::target_table::TableKind;
use crate::name::{TableName, literal};

/// Empties a table. Of a partitioned table only the partitions that are tables of this server are emptied.
pub fn truncate(table: &TableName, kind: TableKind) -> String {
    let name = table.sql();
    match kind {
        TableKind::Plain => format!("truncate only {name}"),
        // TimescaleDB refuses ONLY.
        TableKind::Hypertable => format!("truncate {name}"),
        // The lock waits for sessions that write through the root and have not reached a partition yet.
        TableKind::Partitioned => block(&format!(
            "lock table only {name} in access exclusive mode;
             {};
             if tables is not null then execute pg_catalog.format('truncate %s', tables); end if;",
            list_of_own_tables(&name)
        )),
    }
}

/// Analyzes a table. Where a foreign table is below it, a statement about the table would read that one: then the partitions that are tables
/// of this server are analyzed instead. A parent with a foreign child is left to autovacuum.
pub fn analyze(table: &TableName) -> String {
    let name = table.sql();
    let oid = format!("{}::pg_catalog.regclass::pg_catalog.oid", literal(&name));
    block(&format!(
        "if not exists (
            with recursive tree as (
                select {oid} as oid
                union all
                select i.inhrelid from tree join pg_catalog.pg_inherits i on i.inhparent operator(pg_catalog.=) tree.oid)
            select from tree join pg_catalog.pg_class c on c.oid operator(pg_catalog.=) tree.oid where c.relkind operator(pg_catalog.=) 'f')
         then
            analyze {name};
         elsif exists (select from pg_catalog.pg_class c where c.oid operator(pg_catalog.=) {oid} and c.relkind operator(pg_catalog.=) 'p') then
            {};
            if tables is not null then execute pg_catalog.format('analyze %s', tables); end if;
         end if;",
        list_of_own_tables(&name).replace("'only %I.%I'", "'%I.%I'")
    ))
}

/// Reads the names of a table's partitions that are tables of this server into `tables`; of the table itself, where it is none that is
/// partitioned.
fn list_of_own_tables(name: &str) -> String {
    let root = format!("{}::pg_catalog.regclass", literal(name));
    format!(
        "select pg_catalog.string_agg(pg_catalog.format('only %I.%I', n.nspname, c.relname), ', ' order by c.oid) into tables
           from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid operator(pg_catalog.=) c.relnamespace
          where c.relkind operator(pg_catalog.=) 'r'
            and (c.oid operator(pg_catalog.=) {root}::pg_catalog.oid
                 or c.oid operator(pg_catalog.=) any (array(select t.relid::pg_catalog.oid from pg_catalog.pg_partition_tree({root}) t)))"
    )
}

fn block(body: &str) -> String {
    format!("do {}", literal(&format!("declare tables pg_catalog.text; begin {body} end")))
}
