//! Steps that are done once.

use super::schema::migration;
use crate::{error::Result, name::literal, pg::client::Client};

/// Whether a step was done.
pub async fn has_step(client: &Client, name: &str) -> Result<bool> {
    Ok(client.query_opt("select 1 from _hyperlift.step where name = $1", &[&name]).await?.is_some())
}

pub async fn record_step(client: &Client, name: &str) -> Result<()> {
    Ok(client.batch_execute(&step_sql(name)).await?)
}

/// The steps whose names begin so; none where there is no ledger.
pub async fn steps(client: &Client, prefix: &str) -> Result<Vec<String>> {
    if migration(client).await?.is_none() {
        return Ok(Vec::new());
    }
    let rows = client.query("select name from _hyperlift.step where starts_with(name, $1) order by at, name", &[&prefix]).await?;
    Ok(rows.iter().map(|r| r.get("name")).collect())
}

/// The statement that takes a step back, for the transaction that undid it.
pub fn forget_step_sql(name: &str) -> String {
    format!("delete from _hyperlift.step where name = {}", literal(name))
}

/// The statement that records a step, for the transaction that did it.
pub fn step_sql(name: &str) -> String {
    format!("insert into _hyperlift.step (name) values ({}) on conflict do nothing", literal(name))
}
