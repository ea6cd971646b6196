//! Columns of types that print values, but read none: a copy of a catalog has them.

use crate::{
    error::Result,
    name::{TableName, ident, plain_ident},
    pg::client::Client,
};

/// A table is searched no longer than this.
const SEARCH: &str = "5s";

/// A column that holds values which no server reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnreadableColumn {
    pub table: TableName,
    pub column: String,
    pub data_type: String,
}

impl UnreadableColumn {
    /// The statement for the source.
    pub fn fix(&self) -> String {
        let column = plain_ident(&self.column);
        format!("alter table {} alter column {column} type text using {column}::text", self.table)
    }
}

/// Those of the tables that have values in them. One that cannot be searched in time counts.
pub async fn unreadable_columns(client: &Client, tables: &[(u32, TableName)]) -> Result<Vec<UnreadableColumn>> {
    // By OID, because a name is not looked up in a schema that the user may not use.
    let oids: Vec<u32> = tables.iter().map(|(oid, _)| *oid).collect();
    let sql = "select t.n, a.attname::text as column, y.typname::text as type
                 from unnest($1::oid[]) with ordinality t(oid, n)
                 join pg_attribute a on a.attrelid = t.oid and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
                 join pg_type y on y.oid = a.atttypid and y.typnamespace = 'pg_catalog'::regnamespace
                where y.typname in ('pg_node_tree', 'pg_ndistinct', 'pg_dependencies', 'pg_mcv_list', 'pg_brin_bloom_summary', 'pg_brin_minmax_multi_summary')
                order by t.n, a.attnum";
    let mut found = Vec::new();
    for r in client.query(sql, &[&oids]).await? {
        let table = &tables[r.get::<_, i64>("n") as usize - 1].1;
        let column: String = r.get("column");
        let search = format!("select from {} where {} is not null limit 1", table.sql(), ident(&column));
        client.batch_execute(&format!("begin read only; set local statement_timeout = '{SEARCH}'")).await?;
        let rows = client.query(&search, &[]).await;
        client.batch_execute("rollback").await?;
        if !rows.is_ok_and(|rows| rows.is_empty()) {
            found.push(UnreadableColumn { table: table.clone(), column, data_type: r.get("type") });
        }
    }
    Ok(found)
}
