//! Exclusion constraints.

use crate::{error::Result, name::TableName, pg::client::Client};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExclusionConstraint {
    pub table: TableName,
    pub name: String,
    /// The columns that it compares with `=`.
    pub equal: Vec<String>,
}

/// The exclusion constraints of all tables, but for those of partitions.
pub async fn exclusion_constraints(client: &Client) -> Result<Vec<ExclusionConstraint>> {
    let sql = "
        select n.nspname::text as schema, c.relname::text as table_name, x.conname::text as name,
               array(select a.attname::text
                       from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1], x.conexclop) with ordinality k(attnum, operator, n)
                       join pg_operator o on o.oid = k.operator and o.oprname = '='
                       join pg_attribute a on a.attrelid = x.conrelid and a.attnum = k.attnum and k.attnum > 0
                      order by k.n) as equal
          from pg_constraint x
          join pg_index i on i.indexrelid = x.conindid
          join pg_class c on c.oid = x.conrelid and not c.relispartition
          join pg_namespace n on n.oid = c.relnamespace
         where x.contype = 'x' order by 1, 2, 3";
    let constraint = |r: &tokio_postgres::Row| ExclusionConstraint {
        table: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("table_name")),
        name: r.get("name"),
        equal: r.get("equal"),
    };
    Ok(client.query(sql, &[]).await?.iter().map(constraint).collect())
}
