//! Partitions of partitioned tables.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::names;
use crate::{error::Result, name::TableName, pg::client::Client};

/// A partition on the source of what is one table on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// OID of the root.
    pub root: u32,
    /// The condition that its rows satisfy and no others of the root do; `None` where there is none. For a default partition it changes with
    /// every new partition; a hash partition has none that the target could evaluate, because it names OIDs of the source.
    pub bounds: Option<String>,
}

/// The partitions below these roots, on all levels, by OID.
pub async fn partitions(client: &Client, roots: &[u32]) -> Result<BTreeMap<u32, Partition>> {
    let sql = "select t.relid::oid as oid, r.root, pg_get_partition_constraintdef(t.relid) as bounds
                 from unnest($1::oid[]) r(root) cross join lateral pg_partition_tree(r.root) t where t.relid <> r.root";
    Ok(client.query(sql, &[&roots]).await?.iter().map(|r| (r.get("oid"), partition_of(r))).collect())
}

/// The names of all partitions below these roots.
pub async fn partition_names(client: &Client, roots: &[u32]) -> Result<Vec<TableName>> {
    let sql = "select n.nspname::text as schema, c.relname::text as name
                 from unnest($1::oid[]) root cross join lateral pg_partition_tree(root) t
                 join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace";
    Ok(client.query(sql, &[&roots]).await?.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// A partition by its OID, and all leaves of its root; `None` for a table that is none, or is gone.
pub async fn partition(client: &Client, oid: u32) -> Result<Option<(Partition, Vec<u32>)>> {
    let sql = "select pg_partition_root(oid)::oid as root, pg_get_partition_constraintdef(oid) as bounds,
                      array(select relid::oid from pg_partition_tree(pg_partition_root(oid)) where isleaf) as leaves
                 from pg_class where oid = $1 and relispartition";
    Ok(client.query_opt(sql, &[&oid]).await?.map(|r| (partition_of(&r), r.get("leaves"))))
}

fn partition_of(row: &tokio_postgres::Row) -> Partition {
    let bounds = row.get::<_, Option<String>>("bounds").filter(|b| !b.contains("satisfies_hash_partition"));
    Partition { root: row.get("root"), bounds }
}

/// Those of these partitions that had rows when they were attached: rows of an earlier transaction, or of an earlier command of the same.
pub async fn filled_when_attached(client: &Client, leaves: &[u32]) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for (oid, table) in names::names_of(client, leaves).await? {
        let sql = format!(
            "select exists (select from pg_inherits i join only {} t on age(t.xmin) > age(i.xmin) or (t.xmin = i.xmin and t.cmin::text::bigint < i.cmin::text::bigint)
                            where i.inhrelid = $1) as filled",
            table.sql()
        );
        if client.query_one(&sql, &[&oid]).await?.get("filled") {
            found.push(oid);
        }
    }
    Ok(found)
}

/// The leaves of a partition root.
pub async fn leaves(client: &Client, root: &TableName) -> Result<Vec<TableName>> {
    let rows = client
        .query(
            "select n.nspname::text as schema, c.relname::text as name from pg_partition_tree(to_regclass($1)) t
               join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace where t.isleaf",
            &[&root.sql()],
        )
        .await?;
    Ok(rows.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}
