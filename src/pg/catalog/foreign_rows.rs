//! Foreign tables below tables of the source: as partitions, or as children by inheritance. Their rows are on another server, and in no
//! stream.

use serde::{Deserialize, Serialize};

use crate::{
    error::Result,
    name::{TableName, literal},
    pg::{client::Client, own::USER_SCHEMAS},
    sqlstate,
};

/// A foreign table below a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignPart {
    pub table: TableName,
    /// The table at the top.
    pub root: TableName,
    pub is_partition: bool,
}

/// The rows of a foreign table at some moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForeignRows {
    pub table: TableName,
    pub root: TableName,
    pub rows: i64,
    /// The same for the same rows, in whatever order.
    pub digest: String,
}

/// All foreign tables below tables of the application.
pub async fn foreign_parts(client: &Client) -> Result<Vec<ForeignPart>> {
    let sql = format!(
        "with recursive above as (
             select i.inhrelid as oid, i.inhparent as parent from pg_inherits i join pg_class c on c.oid = i.inhrelid where c.relkind = 'f'
             union
             select above.oid, i.inhparent from above join pg_inherits i on i.inhrelid = above.parent)
         select n.nspname::text as schema, c.relname::text as name, rn.nspname::text as root_schema, r.relname::text as root_name,
                c.relispartition as is_partition
           from above
           join pg_class c on c.oid = above.oid join pg_namespace n on n.oid = c.relnamespace
           join pg_class r on r.oid = above.parent join pg_namespace rn on rn.oid = r.relnamespace
          where not exists (select from pg_inherits i where i.inhrelid = above.parent) and {USER_SCHEMAS}
          order by 1, 2, 3, 4"
    );
    let part = |r: &tokio_postgres::Row| ForeignPart {
        table: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")),
        root: TableName::new(r.get::<_, &str>("root_schema"), r.get::<_, &str>("root_name")),
        is_partition: r.get("is_partition"),
    };
    Ok(client.query(&sql, &[]).await?.iter().map(part).collect())
}

/// The foreign partitions of one of these tables.
pub async fn foreign_partitions(client: &Client, of: &[TableName]) -> Result<Vec<ForeignPart>> {
    let mut found = if of.is_empty() { Vec::new() } else { foreign_parts(client).await? };
    found.retain(|part| part.is_partition && of.contains(&part.root));
    Ok(found)
}

/// The foreign partitions of a root.
pub async fn foreign_partitions_of(client: &Client, root: u32) -> Result<Vec<TableName>> {
    let sql = "select n.nspname::text as schema, c.relname::text as name from pg_partition_tree($1::oid::regclass) t
                 join pg_class c on c.oid = t.relid and c.relkind = 'f' join pg_namespace n on n.oid = c.relnamespace order by 1, 2";
    let name = |r: &tokio_postgres::Row| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"));
    Ok(client.query(sql, &[&root]).await?.iter().map(name).collect())
}

/// Reads all rows of a foreign table.
pub async fn foreign_rows(client: &Client, part: &ForeignPart) -> Result<ForeignRows> {
    let sql =
        format!("select count(*) as rows, coalesce(sum(hashtextextended(t::text, 0)::numeric), 0)::text as digest from only {} t", part.table.sql());
    let row = client.query_one(&sql, &[]).await?;
    Ok(ForeignRows { table: part.table.clone(), root: part.root.clone(), rows: row.get("rows"), digest: row.get("digest") })
}

/// Whether a foreign table can be read at all. A server that takes longer than `time` (such as `5s`) counts as one that answers.
pub async fn try_to_read(client: &Client, table: &TableName, time: &str) -> Result<()> {
    client.batch_execute(&format!("begin read only; set local statement_timeout = {}", literal(time))).await?;
    let read = client.batch_execute(&format!("select from only {} limit 1", table.sql())).await;
    client.batch_execute("rollback").await?;
    match read.map_err(crate::error::Error::from) {
        Err(e) if !e.has_code(sqlstate::QUERY_CANCELED) => Err(e),
        _ => Ok(()),
    }
}
