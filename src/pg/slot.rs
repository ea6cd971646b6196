//! The replication slot of a migration (I1).

use super::{
    catalog::versions,
    client::{Client, value},
};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// What `pg_replication_slots` says.
#[derive(Clone, Debug)]
pub struct Slot {
    pub active: bool,
    pub confirmed: Lsn,
    /// `reserved`, `extended`, `unreserved`, `lost`
    pub wal_status: String,
    /// Why the slot cannot be used any more: `wal_removed`, `idle_timeout`.
    pub invalidated: Option<String>,
    pub safe_wal_bytes: Option<u64>,
}

impl Slot {
    /// An error for a slot that was invalidated.
    pub fn check(&self, name: &str) -> Result<()> {
        let (what, fix) = match self.invalidated.as_deref() {
            None => return Ok(()),
            Some("wal_removed") => ("the source removed WAL that it needed".to_owned(), "a greater max_slot_wal_keep_size"),
            Some("idle_timeout") => ("nobody used it for longer than idle_replication_slot_timeout".to_owned(), "idle_replication_slot_timeout = 0"),
            Some(other) => (other.replace('_', " "), "its cause fixed"),
        };
        Err(Error::refused(format!("slot {name} was invalidated: {what}"))
            .hint(format!("this migration cannot be continued: run `hyperlift clean`, empty the target and start again, with {fix} on the source")))
    }
}

/// The error for a slot that was dropped, or is not on this server.
pub fn gone(name: &str) -> Error {
    Error::refused(format!("slot {name} is gone from the source"))
        .detail("what was written to the source since then cannot be received any more")
        .hint("this migration cannot be continued: run `hyperlift clean`, empty the target and start again")
}

pub async fn slot(client: &Client, name: &str) -> Result<Option<Slot>> {
    // An idle slot that is invalidated keeps another `wal_status` than `lost`.
    let reason = if client.version() / 10_000 >= versions::INVALIDATION_REASON { "invalidation_reason" } else { "null" };
    let sql = format!(
        "select active, confirmed_flush_lsn::text as confirmed, coalesce(wal_status, 'lost') as wal_status, safe_wal_size,
                coalesce({reason}, case when coalesce(wal_status, 'lost') = 'lost' then 'wal_removed' end)::text as invalidated
           from pg_replication_slots where slot_name = $1"
    );
    let row = client.query_opt(&sql, &[&name]).await?;
    row.map(|r| {
        let confirmed = r.get::<_, Option<&str>>("confirmed").map_or(Ok(Lsn::ZERO), str::parse)?;
        Ok(Slot {
            active: r.get("active"),
            confirmed,
            wal_status: r.get("wal_status"),
            invalidated: r.get("invalidated"),
            safe_wal_bytes: r.get::<_, Option<i64>>("safe_wal_size").map(|n| n.max(0) as u64),
        })
    })
    .transpose()
}

/// Creates the slot and returns its consistent point. PostgreSQL waits for all transactions that run now, in any database. Cancelling it
/// leaves no slot.
pub async fn create(client: &Client, name: &str) -> Result<Lsn> {
    let row = client.query_one("select lsn::text as lsn from pg_create_logical_replication_slot($1, 'pgoutput')", &[&name]).await?;
    row.get::<_, &str>("lsn").parse()
}

/// A transaction ID that is assigned now: every transaction that the slot does not stream has a smaller one (I1).
pub async fn horizon(client: &Client) -> Result<u64> {
    Ok(value::<String>(client, "select pg_current_xact_id()::text").await?.parse().unwrap_or(0))
}
