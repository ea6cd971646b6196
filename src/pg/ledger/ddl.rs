//! Statements of the schema that were run or skipped.

use std::collections::HashSet;

use crate::{error::Result, name::literal, pg::client::Client};

/// Digests of the statements of a phase that were run (or skipped by the operator).
pub async fn executed(client: &Client, phase: &str) -> Result<HashSet<String>> {
    let rows = client.query("select digest from _hyperlift.ddl where phase = $1", &[&phase]).await?;
    Ok(rows.iter().map(|r| r.get("digest")).collect())
}

/// A statement that was not run.
pub struct SkippedStatement {
    pub phase: String,
    pub object: String,
    pub reason: String,
}

/// What was not created on the target, and why, in the order of the attempts.
pub async fn skipped(client: &Client) -> Result<Vec<SkippedStatement>> {
    let rows = client
        .query("select phase, object, coalesce(reason, 'skipped') as reason from _hyperlift.ddl where state = 'skipped' order by ordinal", &[])
        .await?;
    Ok(rows.iter().map(|r| SkippedStatement { phase: r.get("phase"), object: r.get("object"), reason: r.get("reason") }).collect())
}

/// The statement that records one that was not run, and why.
pub fn skip_ddl(phase: &str, object: &str, digest: &str, reason: &str) -> String {
    let values = [phase, object, digest, "skipped", reason].map(literal).join(", ");
    format!("insert into _hyperlift.ddl (phase, object, digest, state, reason) values ({values}) on conflict do nothing")
}

/// The statement that records another one that was run, for the same transaction.
pub fn record_ddl(phase: &str, object: &str, digest: &str) -> String {
    format!("insert into _hyperlift.ddl (phase, object, digest, state) values ({}, {}, {}, 'done')", literal(phase), literal(object), literal(digest))
}

/// The phase of what was made because the source's schema had changed.
const FOLLOWED: &str = "followed";

/// The statement that records an object that was made because the source had it by then, for the same transaction.
pub fn record_followed(object: &str, digest: &str) -> String {
    format!("{} on conflict do nothing", record_ddl(FOLLOWED, object, digest))
}

/// The objects that were made because the source had them by then.
pub async fn followed(client: &Client) -> Result<HashSet<String>> {
    let rows = client.query("select object from _hyperlift.ddl where phase = $1", &[&FOLLOWED]).await?;
    Ok(rows.iter().map(|r| r.get("object")).collect())
}

/// Forgets the statements of a phase, but for some: what they made is gone.
pub async fn forget_others(client: &Client, phase: &str, digests: &[String]) -> Result<()> {
    client.execute("delete from _hyperlift.ddl where phase = $1 and digest <> all($2)", &[&phase, &digests]).await?;
    Ok(())
}
