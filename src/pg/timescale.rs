//! TimescaleDB on the target: its version, its hypertables and their chunks. Of the source only the names of hypertables are read.

use std::collections::HashMap;

use super::{
    catalog::{self, Function, LOCKS},
    client::Client,
};
use crate::{
    error::Result,
    name::{TableName, ident, literal},
    pg::own::{NOT_OF_EXTENSION, USER_SCHEMAS},
};

/// Facts about TimescaleDB's versions.
pub mod versions {
    /// `by_range` came with 2.13.
    pub const OLDEST: (u32, u32) = (2, 13);
}

/// The first time after those that a hypertable can hold: PostgreSQL's last timestamp, less the 30 years between its epoch and that of Unix.
pub const END_OF_TIME: &str = "294247-01-01";

/// No value meets this condition.
pub const NOTHING: &str = "false";

/// The condition for values that a hypertable cannot hold in its time column; `{}` is the value.
pub fn out_of_range(data_type: &str) -> &'static str {
    if data_type.contains("int") { NOTHING } else { "{} = '-infinity' or {} >= '294247-01-01' and {} < 'infinity'" }
}

/// The schemas that the extension makes.
pub const SCHEMAS: [&str; 8] = [
    "_timescaledb_cache", "_timescaledb_catalog", "_timescaledb_config", "_timescaledb_debug", "_timescaledb_functions", "_timescaledb_internal",
    "timescaledb_experimental", "timescaledb_information",
];

/// What is known of TimescaleDB on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timescale {
    /// Version of the extension in this database.
    pub installed: Option<String>,
    /// Version that CREATE EXTENSION would install.
    pub available: Option<String>,
    /// The library is preloaded: the loader's settings exist.
    pub preloaded: bool,
    pub restoring: bool,
    /// Schema of the extension's functions, where it is or will be.
    pub schema: String,
}

impl Timescale {
    /// This migration can create the extension.
    pub fn can_be_created(&self) -> bool {
        self.installed.is_none() && self.available.is_some() && self.preloaded
    }

    /// The target has it when the tables are there.
    pub fn will_be_there(&self) -> bool {
        self.installed.is_some() || self.can_be_created()
    }
}

/// Where CREATE EXTENSION puts it as a rule.
pub const USUAL_SCHEMA: &str = "public";

/// The statements that create the extension in a schema, which everybody may use.
pub fn create_extension(schema: &str) -> String {
    let create = format!("create extension if not exists timescaledb schema {}", ident(schema));
    if schema == USUAL_SCHEMA {
        return create;
    }
    format!("create schema if not exists {0}; grant usage on schema {0} to public; {create}", ident(schema))
}

/// The extension's functions, aggregates and procedures in its own schema: of all its objects only these are there. Where it is not created
/// yet, it is created in a transaction that is rolled back, because only the server knows those of its version. The session must be new.
pub async fn functions(client: &Client, state: &Timescale) -> Result<Vec<Function>> {
    client.batch_execute("begin").await?;
    if state.installed.is_none() {
        client.batch_execute(&create_extension(&state.schema)).await?;
    }
    let found = catalog::functions_of_extension(client, "timescaledb").await?;
    client.batch_execute("rollback").await?;
    Ok(found)
}

pub async fn inspect(client: &Client) -> Result<Timescale> {
    let row = client
        .query_one(
            "select (select extversion from pg_extension where extname = 'timescaledb') as installed,
                    (select default_version from pg_available_extensions where name = 'timescaledb') as available,
                    -- the loader's own setting; shared_preload_libraries is hidden from ordinary roles
                    current_setting('timescaledb.disable_load', true) is not null or current_setting('timescaledb.license', true) is not null as preloaded,
                    coalesce(current_setting('timescaledb.restoring', true), 'off') as restoring,
                    coalesce((select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname = 'timescaledb'), $1) as schema",
            &[&USUAL_SCHEMA],
        )
        .await?;
    Ok(Timescale {
        installed: row.get("installed"),
        available: row.get("available"),
        preloaded: row.get::<_, Option<bool>>("preloaded").unwrap_or(false),
        restoring: row.get::<_, &str>("restoring") == "on",
        schema: row.get("schema"),
    })
}

/// `2.28.3` as (2, 28).
pub fn version(text: &str) -> (u32, u32) {
    let mut parts = text.split(['.', '-']).map(|p| p.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// The hypertables, and the columns by which each is partitioned.
pub async fn hypertables(client: &Client) -> Result<HashMap<TableName, Vec<Dimension>>> {
    let rows = client
        .query(
            "select hypertable_schema::text as schema, hypertable_name::text as name, column_name::text as column,
                    coalesce(time_interval::text, integer_interval::text) as step,
                    coalesce((extract(epoch from time_interval) * 1000000)::bigint, integer_interval) as width
               from timescaledb_information.dimensions order by dimension_number",
            &[],
        )
        .await?;
    let mut found: HashMap<TableName, Vec<Dimension>> = HashMap::new();
    for r in rows {
        let table = TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"));
        found.entry(table).or_default().push(Dimension { column: r.get("column"), interval: r.get("step"), width: r.get("width") });
    }
    Ok(found)
}

/// The names of the hypertables, of any version from 1.0 on; none without the extension.
pub async fn hypertable_names(client: &Client) -> Result<Vec<TableName>> {
    if client.query_opt("select from pg_extension where extname = 'timescaledb'", &[]).await?.is_none() {
        return Ok(Vec::new());
    }
    let sql = "select schema_name::text as schema, table_name::text as name from _timescaledb_catalog.hypertable order by 1, 2";
    Ok(client.query(sql, &[]).await?.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// Views of the application that read what TimescaleDB keeps in its own schemas, such as continuous aggregates. Its catalogs are members of
/// the extension and do not count.
pub async fn views_of_internals(client: &Client) -> Result<Vec<TableName>> {
    let sql = format!(
        "select distinct n.nspname::text as schema, v.relname::text as name
           from pg_class v join pg_namespace n on n.oid = v.relnamespace
           join pg_rewrite r on r.ev_class = v.oid
           join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid and d.refclassid = 'pg_class'::regclass
           join pg_class c on c.oid = d.refobjid
          where {USER_SCHEMAS} and {NOT_OF_EXTENSION} and v.relkind in ('v', 'm')
            and exists (select from pg_namespace n where n.oid = c.relnamespace and n.nspname !~ '^(pg_|information_schema$)' and not ({USER_SCHEMAS}))
          order by 1, 2"
    );
    Ok(client.query(&sql, &[]).await?.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimension {
    pub column: String,
    /// Chunk interval; `None` for a hash dimension.
    pub interval: Option<String>,
    /// The same as a number: microseconds, or integers.
    pub width: Option<i64>,
}

/// How many chunks may be created before a copy: an eighth of the locks that the server can hold, a thousand at most; 0 where it cannot
/// create them. `_timescaledb_functions.create_chunk` is internal, and in every version from 2.12 to 2.29.
pub async fn chunks_beforehand(client: &Client) -> Result<u64> {
    let sql = format!(
        "select exists (select from pg_proc p join pg_namespace n on n.oid = p.pronamespace
                         where n.nspname = '_timescaledb_functions' and p.proname = 'create_chunk' and has_function_privilege(p.oid, 'execute')) as can,
                {LOCKS} as locks"
    );
    let row = client.query_one(&sql, &[]).await?;
    Ok(if row.get("can") { (row.get::<_, i64>("locks") as u64 / 8).min(1_000) } else { 0 })
}

/// The statement that creates a chunk from one edge of the interval's grid to another: microseconds since 1970, or integers. It does
/// nothing where the chunk exists.
pub fn create_chunk(table: &TableName, column: &str, from: i64, to: i64) -> String {
    format!(
        "select from _timescaledb_functions.create_chunk({}::regclass, jsonb_build_object({}, jsonb_build_array({from}::bigint, {to}::bigint)))",
        literal(&table.sql()),
        literal(column)
    )
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_compared_by_number() {
        assert!(super::version("2.9.1") < super::versions::OLDEST && super::version("2.23.0-dev") > super::versions::OLDEST);
    }
}
