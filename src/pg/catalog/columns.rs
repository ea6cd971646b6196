//! What the values of columns are like.

use crate::{
    error::Result,
    name::{TableName, ident, literal},
    pg::client::{Client, value},
    sqlstate,
};

/// The columns of a table by their number of different values, the greatest first, by the planner's statistics. Wide columns are left out.
/// Empty for a table that was never analysed.
pub async fn most_distinct(client: &Client, table: &TableName) -> Result<Vec<String>> {
    // A negative number is a share of the rows.
    let sql = "select attname::text as name from pg_stats where schemaname = $1 and tablename = $2 and avg_width < 100
                group by attname order by max(case when n_distinct < 0 then -n_distinct * 1e9 else n_distinct end * (1 - null_frac)) desc, attname";
    Ok(client.query(sql, &[&table.schema, &table.name]).await?.iter().map(|r| r.get("name")).collect())
}

/// Whether a column is NULL in some row of a table or its partitions; `None` when neither a search within `time` (such as `5s`) nor the
/// statistics show it.
pub async fn has_null(client: &Client, table: &TableName, column: &str, time: &str) -> Result<Option<bool>> {
    let sql = format!("select exists (select from {} where {} is null)", table.sql(), ident(column));
    client.batch_execute(&format!("begin read only; set local statement_timeout = {}", literal(time))).await?;
    let found = value::<bool>(client, &sql).await;
    client.batch_execute("rollback").await?;
    match found {
        Err(e) if e.has_code(sqlstate::QUERY_CANCELED) => {
            let sql = "select bool_or(null_frac > 0) as some from pg_stats where schemaname = $1 and tablename = $2 and attname = $3";
            let some: Option<bool> = client.query_one(sql, &[&table.schema, &table.name, &column]).await?.get("some");
            Ok(some.filter(|some| *some))
        }
        found => found.map(Some),
    }
}
