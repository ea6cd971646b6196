//! Connection poolers between us and a server: PgBouncer and its kin.

use std::time::Duration;

use super::{connect::conninfo::Conninfo, wire::Wire};
use crate::error::{Error, Result};

/// A pooler without a free session keeps us waiting.
const PATIENCE: Duration = Duration::from_secs(5);
const PID: &str = "select pg_catalog.pg_backend_pid()";

/// What stands between us and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Intermediary {
    None,
    /// A connection keeps its session of the server: a proxy, or a pooler by sessions.
    Proxy,
    /// A connection gets another session of the server from one transaction to the next. Settings, locks and snapshots end up with others.
    Pooler,
}

/// Looks by two connections that change nothing, not even a setting: with a pooler, that would be a setting of the application's sessions.
///
/// A server tells a new connection which process serves it (BackendKeyData, PostgreSQL documentation 55.7). A pooler tells what it likes,
/// as it has no process to name before there is a statement.
pub async fn detect(info: &Conninfo, application_name: &str) -> Result<Intermediary> {
    let mut first = Wire::connect(info, application_name, false).await?;
    if pid(&mut first, PID).await? == first.pid() {
        first.close().await;
        return Ok(Intermediary::None);
    }
    let mut second = Wire::connect(info, application_name, false).await?;
    let look = async {
        let served_by = pid(&mut first, PID).await?;
        // Where sessions are lent in turn, this is by the next one.
        let again = pid(&mut first, PID).await?;
        // Where the last one comes first, it is taken now, and kept.
        let other = pid(&mut second, &format!("begin; {PID}")).await?;
        let last = pid(&mut first, PID).await?;
        Ok::<_, Error>(served_by == again && served_by != other && served_by == last)
    };
    let keeps = tokio::time::timeout(PATIENCE, look).await.is_ok_and(|same| same.unwrap_or(false));
    Ok(if keeps { Intermediary::Proxy } else { Intermediary::Pooler })
}

async fn pid(wire: &mut Wire, sql: &str) -> Result<i32> {
    let rows = wire.simple(sql).await?;
    rows.first()
        .and_then(|row| row.first()?.as_ref()?.parse().ok())
        .ok_or_else(|| Error::failed("the server does not say by which process it serves"))
}
