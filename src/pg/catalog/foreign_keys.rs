//! Foreign keys.

use crate::{error::Result, name::TableName, pg::client::Client};

/// A foreign key between two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The unique index that it points at.
    pub index: String,
    pub name: String,
    pub from: TableName,
    pub to: TableName,
}

/// All foreign keys, those of partitions as part of their roots'.
pub async fn foreign_keys(client: &Client) -> Result<Vec<ForeignKey>> {
    let rows = client
        .query(
            "select f.conname::text as name, i.relname::text as index, fn.nspname::text as from_schema, fc.relname::text as from_name,
                    tn.nspname::text as to_schema, tc.relname::text as to_name
               from pg_constraint f
               join pg_class i on i.oid = f.conindid
               join pg_class fc on fc.oid = f.conrelid join pg_namespace fn on fn.oid = fc.relnamespace
               join pg_class tc on tc.oid = f.confrelid join pg_namespace tn on tn.oid = tc.relnamespace
              where f.contype = 'f' and f.conparentid = 0 order by 3, 4, 1",
            &[],
        )
        .await?;
    let table = |r: &tokio_postgres::Row, schema: &str, name: &str| TableName::new(r.get::<_, &str>(schema), r.get::<_, &str>(name));
    Ok(rows
        .iter()
        .map(|r| ForeignKey {
            index: r.get("index"),
            name: r.get("name"),
            from: table(r, "from_schema", "from_name"),
            to: table(r, "to_schema", "to_name"),
        })
        .collect())
}
