//! TimescaleDB on the target: versions, hypertables, and what their keys must hold.

use super::client::Client;
use crate::{error::Result, name::TableName, plan::Hypertable};

/// Facts about TimescaleDB's versions.
pub mod versions {
    /// `by_range` came with 2.13.
    pub const OLDEST: (u32, u32) = (2, 13);
}

/// What is known of TimescaleDB on a server.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Timescale {
    /// Version of the extension in this database.
    pub installed: Option<String>,
    /// Version that CREATE EXTENSION would install.
    pub available: Option<String>,
    /// The loader answers: the library is preloaded.
    pub preloaded: bool,
    pub restoring: bool,
    /// Schema of the extension's functions.
    pub schema: String,
}

pub async fn inspect(client: &Client) -> Result<Timescale> {
    let row = client
        .query_one(
            "select (select extversion from pg_extension where extname = 'timescaledb') as installed,
                    (select default_version from pg_available_extensions where name = 'timescaledb') as available,
                    -- the loader's own setting; shared_preload_libraries is hidden from ordinary roles
                    current_setting('timescaledb.disable_load', true) is not null or current_setting('timescaledb.license', true) is not null as preloaded,
                    coalesce(current_setting('timescaledb.restoring', true), 'off') as restoring,
                    coalesce((select n.nspname::text from pg_extension e join pg_namespace n on n.oid = e.extnamespace where extname = 'timescaledb'), 'public') as schema",
            &[],
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

/// The columns by which a table is partitioned; empty for one that is no hypertable.
pub async fn dimensions(client: &Client, table: &TableName) -> Result<Vec<Dimension>> {
    let rows = client
        .query(
            "select column_name::text as name, coalesce(time_interval::text, integer_interval::text) as step,
                    coalesce((extract(epoch from time_interval) * 1000000)::bigint, integer_interval) as width
               from timescaledb_information.dimensions where hypertable_schema = $1 and hypertable_name = $2 order by dimension_number",
            &[&table.schema, &table.name],
        )
        .await?;
    Ok(rows.iter().map(|r| Dimension { column: r.get("name"), interval: r.get("step"), width: r.get("width") }).collect())
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dimension {
    pub column: String,
    /// Chunk interval; `None` for a hash dimension.
    pub interval: Option<String>,
    /// The same as a number: microseconds, or integers.
    pub width: Option<i64>,
}

/// Makes an empty table a hypertable.
pub async fn create_hypertable(client: &Client, hypertable: &Hypertable, schema: &str) -> Result<()> {
    client.batch_execute(&hypertable.sql(schema)).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_compared_by_number() {
        assert!(super::version("2.9.1") < super::versions::OLDEST && super::version("2.23.0-dev") > super::versions::OLDEST);
    }
}
