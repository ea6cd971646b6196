//! What the values of columns are like.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    name::{TableName, ident, literal},
    pg::client::Client,
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

/// The names of the columns of a table; none where there is no such table.
pub async fn column_names(client: &Client, table: &TableName) -> Result<HashSet<String>> {
    let sql = "select attname::text as name from pg_attribute where attrelid = to_regclass($1) and attnum > 0 and not attisdropped";
    Ok(client.query(sql, &[&table.sql()]).await?.iter().map(|r| r.get("name")).collect())
}

/// What a search of a column found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    Nothing,
    /// A row with this value; `None` is NULL.
    Value(Option<String>),
    /// Neither the search within its time nor the planner's statistics show it.
    Unknown,
}

/// Searches a table with its partitions, for at most `time` (such as `5s`), for a row whose column is NULL or meets a condition. The condition
/// is an expression in which `{}` is the value. When the time is over, the planner's statistics are searched.
pub async fn find_value(client: &Client, table: &TableName, (column, data_type): (&str, &str), condition: &str, time: &str) -> Result<Found> {
    let value = ident(column);
    let sql = format!("select {value}::text as value from {} where {value} is null or {} limit 1", table.sql(), condition.replace("{}", &value));
    client.batch_execute(&format!("begin read only; set local statement_timeout = {}", literal(time))).await?;
    let found = client.query_opt(&sql, &[]).await.map_err(Error::from);
    client.batch_execute("rollback").await?;
    match found {
        Ok(row) => Ok(row.map_or(Found::Nothing, |row| Found::Value(row.get("value")))),
        Err(e) if e.has_code(sqlstate::QUERY_CANCELED) => in_statistics(client, table, (column, data_type), condition).await,
        Err(e) => Err(e),
    }
}

async fn in_statistics(client: &Client, table: &TableName, (column, data_type): (&str, &str), condition: &str) -> Result<Found> {
    let value = format!("v::{data_type}");
    let sql = format!(
        "select (select v from pg_stats s cross join unnest(coalesce(histogram_bounds::text::text[], '{{}}') || coalesce(most_common_vals::text::text[], '{{}}')) v
                  where schemaname = $1 and tablename = $2 and attname = $3 and ({}) limit 1) as value,
                (select bool_or(null_frac > 0) from pg_stats where schemaname = $1 and tablename = $2 and attname = $3) as has_null",
        condition.replace("{}", &value)
    );
    let row = client.query_one(&sql, &[&table.schema, &table.name, &column]).await?;
    Ok(match (row.get("value"), row.get("has_null")) {
        (Some(value), _) => Found::Value(Some(value)),
        (None, Some(true)) => Found::Value(None),
        _ => Found::Unknown,
    })
}
