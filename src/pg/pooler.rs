//! Connection poolers between us and a server, such as PgBouncer.

use std::time::Duration;

use super::{connect::conninfo::Conninfo, wire::Wire};
use crate::error::{Error, Result};

/// A pooler without a free session lets us wait.
const PATIENCE: Duration = Duration::from_secs(5);
const PID: &str = "select pg_catalog.pg_backend_pid()";

/// What is between us and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intermediary {
    None,
    /// A connection keeps its session of the server: a proxy, or a pooler in session mode.
    Proxy,
    /// Each transaction may get another session of the server. Settings, locks and snapshots of ours would reach other clients.
    Pooler,
}

/// Opens two connections and changes nothing, not even a setting: with a pooler that would be a setting of the application's sessions.
///
/// A server reports to a new connection the process that serves it (BackendKeyData, PostgreSQL documentation 55.7). A pooler reports any
/// number, because it has no process to name before there is a statement.
pub async fn detect(info: &Conninfo, application_name: &str) -> Result<Intermediary> {
    let mut first = Wire::connect(info, application_name, false).await?;
    if pid(&mut first, PID).await? == first.pid() {
        first.close().await;
        return Ok(Intermediary::None);
    }
    let mut second = Wire::connect(info, application_name, false).await?;
    let look = async {
        let served_by = pid(&mut first, PID).await?;
        // A pooler that lends its sessions in turn answers by the next one.
        let again = pid(&mut first, PID).await?;
        // A pooler that lends the session which was returned last lends it now, and the transaction keeps it.
        let other = pid(&mut second, &format!("begin; {PID}")).await?;
        let last = pid(&mut first, PID).await?;
        Ok::<_, Error>(served_by == again && served_by != other && served_by == last)
    };
    let keeps = tokio::time::timeout(PATIENCE, look).await.is_ok_and(|same| same.unwrap_or(false));
    Ok(if keeps { Intermediary::Proxy } else { Intermediary::Pooler })
}

async fn pid(wire: &mut Wire, sql: &str) -> Result<i32> {
    let rows = wire.simple(sql).await?;
    rows.first().and_then(|row| row.first()?.as_ref()?.parse().ok()).ok_or_else(|| Error::failed("the server does not report its process ID"))
}
