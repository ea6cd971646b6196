//! The ledger itself: its tables, and the migration to which it belongs.

use crate::{
    error::Result,
    pg::client::{Client, value},
};

/// The ledger's tables.
const SCHEMA: &str = r"
create schema if not exists _hyperlift;
create table if not exists _hyperlift.migration (
    id text primary key, source_system_id text not null, source_db text not null, version text not null, lanes int not null, search_path text,
    created_at timestamptz not null default now(), finished_at timestamptz);
create table if not exists _hyperlift.ddl (
    ordinal serial, phase text not null, object text not null, digest text not null, state text not null, reason text,
    at timestamptz not null default now(), primary key (phase, digest));
create table if not exists _hyperlift.relation (
    source_oid bigint primary key, schema text not null, name text not null, target_oid oid, lane int not null, spread text not null default 'no',
    snapshot text, l_lsn pg_lsn, missed bigint not null default 0, state text not null, attempt int not null default 0);
alter table _hyperlift.relation add column if not exists side_lane int, add column if not exists joined pg_lsn;
create table if not exists _hyperlift.copy_part (
    source_oid bigint not null, part int not null, parts int not null, attempt int not null, rows bigint not null, bytes bigint not null,
    at timestamptz not null default now(), primary key (source_oid, part));
create table if not exists _hyperlift.lane (lane int primary key, lsn pg_lsn not null, change bigint not null, at timestamptz not null default now());
create table if not exists _hyperlift.step (name text primary key, at timestamptz not null default now());
";

/// The migration as the target knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerMigration {
    pub id: String,
    pub source_system_id: String,
    pub source_db: String,
    pub lanes: u32,
    /// The default `search_path` on the source.
    pub search_path: Option<String>,
    pub finished: bool,
}

impl LedgerMigration {
    /// The first statement of a transaction in which the application's functions run: it sets the path on which they find objects (N-4).
    /// Empty where the source has no default path.
    pub fn path(&self) -> String {
        self.search_path.as_ref().map_or_else(String::new, |path| format!("set local search_path = {path}"))
    }
}

/// The migration recorded on the target; `None` when it has no ledger.
pub async fn migration(client: &Client) -> Result<Option<LedgerMigration>> {
    let there = client.query_one("select to_regclass('_hyperlift.migration') is not null as there", &[]).await?;
    if !there.get::<_, bool>("there") {
        return Ok(None);
    }
    let row = client
        .query_opt(
            "select id, source_system_id, source_db, lanes, search_path, finished_at is not null as finished from _hyperlift.migration limit 1",
            &[],
        )
        .await?;
    Ok(row.map(|r| LedgerMigration {
        id: r.get("id"),
        source_system_id: r.get("source_system_id"),
        source_db: r.get("source_db"),
        lanes: r.get::<_, i32>("lanes") as u32,
        search_path: r.get("search_path"),
        finished: r.get("finished"),
    }))
}

/// Creates the ledger for a migration, with its lanes at the start of the stream. Running it again changes nothing.
pub async fn create(client: &mut Client, migration: &LedgerMigration, version: &str) -> Result<()> {
    let transaction = client.transaction().await?;
    transaction.batch_execute(SCHEMA).await?;
    transaction
        .execute(
            "insert into _hyperlift.migration (id, source_system_id, source_db, version, lanes, search_path) values ($1, $2, $3, $4, $5, $6) on conflict do nothing",
            &[&migration.id, &migration.source_system_id, &migration.source_db, &version, &(migration.lanes as i32), &migration.search_path],
        )
        .await?;
    for lane in 0..migration.lanes as i32 {
        transaction.execute("insert into _hyperlift.lane (lane, lsn, change) values ($1, '0/0', 0) on conflict do nothing", &[&lane]).await?;
    }
    transaction.commit().await?;
    Ok(())
}

/// Drops the ledger; whether there was one. Where there is none no statement runs, because an event trigger could refuse it.
pub async fn drop(client: &Client) -> Result<bool> {
    if !value::<bool>(client, "select to_regnamespace('_hyperlift') is not null").await? {
        return Ok(false);
    }
    client.batch_execute("set client_min_messages = error; drop schema if exists _hyperlift cascade; reset client_min_messages").await?;
    Ok(true)
}

/// Makes everything durable that any session has committed on the target so far. Sessions with `synchronous_commit = off` do not wait for
/// the disk; this commit does, and WAL is flushed in order.
pub async fn flush(client: &Client) -> Result<()> {
    client.batch_execute("set synchronous_commit = on; update _hyperlift.migration set version = version").await?;
    Ok(())
}

pub async fn finish(client: &Client) -> Result<()> {
    client.execute("update _hyperlift.migration set finished_at = coalesce(finished_at, now())", &[]).await?;
    Ok(())
}
