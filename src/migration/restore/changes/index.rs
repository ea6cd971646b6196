//! Running a statement for the target. An index on a large table is built so that replay can write to the table meanwhile.

use std::borrow::Cow;

use crate::{
    error::Result,
    migration::restore::ddl,
    name::literal,
    pg::{
        catalog,
        client::Client,
        dump::repair::{self, ConcurrentIndex},
        timescale,
    },
};

/// On a table that is smaller than this a build takes a moment, bytes.
const LARGE: i64 = 8 << 20;

/// Runs a statement together with the one that records it, and returns what it was run as.
pub async fn run<'a>(target: &Client, sql: &'a str, record: Option<&str>) -> Result<Cow<'a, str>> {
    let both = [Some(sql), record].into_iter().flatten().collect::<Vec<_>>().join(";\n");
    let Some(index) = repair::concurrent_index(sql) else {
        ddl::in_transaction(target, &both).await?;
        return Ok(sql.into());
    };
    drop_invalid(target, &index).await?;
    if !is_large(target, &index).await? {
        ddl::in_transaction(target, &both).await?;
        return Ok(sql.into());
    }
    if let Err(e) = target.batch_execute(&index.sql).await {
        drop_invalid(target, &index).await.ok();
        return Err(e.into());
    }
    // It cannot be part of a transaction.
    if let Some(record) = record {
        target.batch_execute(record).await?;
    }
    Ok(index.sql.into())
}

/// What a concurrent build has left that failed or was interrupted.
async fn drop_invalid(target: &Client, ConcurrentIndex { index, .. }: &ConcurrentIndex) -> Result<()> {
    let name = literal(&index.sql());
    let invalid = format!(
        "select exists (select from pg_index i join pg_class c on c.oid = i.indexrelid
                         where c.oid = to_regclass({name}) and c.relkind = 'i' and not i.indisvalid)"
    );
    if catalog::value::<bool>(target, &invalid).await? {
        target.batch_execute(&format!("drop index {}", index.sql())).await?;
    }
    Ok(())
}

/// Whether it is worth it, and possible: neither a partitioned table nor a hypertable has concurrent builds.
async fn is_large(target: &Client, ConcurrentIndex { table, .. }: &ConcurrentIndex) -> Result<bool> {
    let name = literal(&table.sql());
    let large = format!("select exists (select from pg_class where oid = to_regclass({name}) and relkind = 'r' and pg_table_size(oid) > {LARGE})");
    Ok(catalog::value::<bool>(target, &large).await? && !timescale::hypertable_names(target).await?.contains(table))
}
