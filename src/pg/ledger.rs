//! Schema `_hyperlift` on the target: what was done there, recorded in the transaction that did it (I2).

use std::collections::{HashMap, HashSet};

use super::{client::Client, snapshot::Snapshot, wire::Wire};
use crate::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    name::{TableName, literal},
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
create table if not exists _hyperlift.copy_part (
    source_oid bigint not null, part int not null, parts int not null, attempt int not null, rows bigint not null, bytes bigint not null,
    at timestamptz not null default now(), primary key (source_oid, part));
create table if not exists _hyperlift.lane (lane int primary key, lsn pg_lsn not null, change bigint not null, at timestamptz not null default now());
create table if not exists _hyperlift.step (name text primary key, at timestamptz not null default now());
";

/// The migration that the target knows of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Migration {
    pub id: String,
    pub source_system_id: String,
    pub source_db: String,
    pub lanes: u32,
    /// What `search_path` is by default on the source.
    pub search_path: Option<String>,
    pub finished: bool,
}

impl Migration {
    /// What a transaction begins with in which the application's functions run: the path on which they find things (N-4). Empty where the
    /// source has none.
    pub fn path(&self) -> String {
        self.search_path.as_ref().map_or_else(String::new, |path| format!("set local search_path = {path}"))
    }
}

/// The migration recorded on the target; `None` when it has no ledger.
pub async fn migration(client: &Client) -> Result<Option<Migration>> {
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
    Ok(row.map(|r| Migration {
        id: r.get("id"),
        source_system_id: r.get("source_system_id"),
        source_db: r.get("source_db"),
        lanes: r.get::<_, i32>("lanes") as u32,
        search_path: r.get("search_path"),
        finished: r.get("finished"),
    }))
}

/// Creates the ledger for a migration, with its lanes at the start of the stream. Running it again changes nothing.
pub async fn create(client: &mut Client, migration: &Migration, version: &str) -> Result<()> {
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

/// Drops the ledger.
pub async fn drop(client: &Client) -> Result<()> {
    client.batch_execute("set client_min_messages = error; drop schema if exists _hyperlift cascade; reset client_min_messages").await?;
    Ok(())
}

/// Digests of the statements of a phase that were run (or skipped by the operator).
pub async fn executed(client: &Client, phase: &str) -> Result<HashSet<String>> {
    let rows = client.query("select digest from _hyperlift.ddl where phase = $1", &[&phase]).await?;
    Ok(rows.iter().map(|r| r.get("digest")).collect())
}

/// What was not made on the target, and why, in the order of the attempts.
pub async fn skipped(client: &Client) -> Result<Vec<(String, String)>> {
    let rows = client
        .query("select object, coalesce(reason, 'skipped') as reason from _hyperlift.ddl where state = 'skipped' order by ordinal", &[])
        .await?;
    Ok(rows.iter().map(|r| (r.get("object"), r.get("reason"))).collect())
}

/// The statement that records one that was not run, and why.
pub fn skip_ddl(phase: &str, object: &str, digest: &str, reason: &str) -> String {
    let values = [phase, object, digest, "skipped", reason].map(literal).join(", ");
    format!("insert into _hyperlift.ddl (phase, object, digest, state, reason) values ({values}) on conflict do nothing")
}

/// The statement that records another one; it runs in the same transaction.
pub fn record_ddl(phase: &str, object: &str, digest: &str) -> String {
    format!("insert into _hyperlift.ddl (phase, object, digest, state) values ({}, {}, {}, 'done')", literal(phase), literal(object), literal(digest))
}

/// Forgets the statements of a phase, but for some: what they made is gone.
pub async fn forget_others(client: &Client, phase: &str, digests: &[String]) -> Result<()> {
    client.execute("delete from _hyperlift.ddl where phase = $1 and digest <> all($2)", &[&phase, &digests]).await?;
    Ok(())
}

/// What the ledger knows of a relation.
#[derive(Clone, Debug)]
pub struct RelationEntry {
    pub oid: u32,
    pub table: TableName,
    /// The table on the target, whatever it is called now.
    pub target_oid: Option<u32>,
    pub lane: u32,
    pub spread: Spread,
    /// Changes of its stream that were not applied.
    pub missed: u64,
    pub state: RelationState,
}

/// Whether the rows of a relation are spread over all lanes, and by what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Spread {
    /// Its one lane has them all.
    #[default]
    No,
    /// By the first column of the primary key: rows that are neighbours in its index share a lane.
    First,
    /// By the whole key.
    Key,
}

impl Spread {
    fn of(word: &str) -> Self {
        [Self::First, Self::Key].into_iter().find(|s| s.word() == word).unwrap_or_default()
    }

    pub fn word(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::First => "first",
            Self::Key => "key",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RelationState {
    Planned,
    /// Copied under this snapshot, at this L.
    Copied {
        snapshot: Snapshot,
        at: Lsn,
    },
    /// The operator skipped its data.
    Skipped,
}

impl RelationState {
    /// L, if it is copied.
    pub fn copied_at(&self) -> Option<Lsn> {
        if let Self::Copied { at, .. } = self { Some(*at) } else { None }
    }
}

pub async fn relations(client: &Client) -> Result<HashMap<u32, RelationEntry>> {
    let rows = client
        .query("select source_oid, schema, name, target_oid, lane, spread, missed, snapshot, l_lsn::text as l, state from _hyperlift.relation", &[])
        .await?;
    rows.iter()
        .map(|r| {
            let oid = r.get::<_, i64>("source_oid") as u32;
            let state = match (r.get::<_, &str>("state"), r.get::<_, Option<&str>>("snapshot"), r.get::<_, Option<&str>>("l")) {
                ("copied", Some(snapshot), Some(l)) => RelationState::Copied { snapshot: snapshot.parse()?, at: l.parse()? },
                ("skipped", _, _) => RelationState::Skipped,
                _ => RelationState::Planned,
            };
            let table = TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"));
            let (lane, missed) = (r.get::<_, i32>("lane") as u32, r.get::<_, i64>("missed") as u64);
            Ok((oid, RelationEntry { oid, table, target_oid: r.get("target_oid"), lane, spread: Spread::of(r.get("spread")), missed, state }))
        })
        .collect()
}

/// The statement that spreads the keys of a relation over all lanes, or gives them back to its one lane. Only where all lanes stand at
/// the same place, in one transaction with their positions (I6).
pub fn spread_relation(oid: u32, spread: Spread) -> String {
    format!("update _hyperlift.relation set spread = '{}' where source_oid operator(pg_catalog.=) {oid}", spread.word())
}

/// The statement that records changes that were not applied, for the transaction that leaves them out, whatever its path.
pub fn add_missed(oid: u32, changes: u64) -> String {
    format!("update _hyperlift.relation set missed = missed operator(pg_catalog.+) {changes} where source_oid operator(pg_catalog.=) {oid}")
}

/// A relation is known by its OID; this is what it is called now.
pub async fn rename_relation(client: &Client, oid: u32, name: &TableName) -> Result<()> {
    let sql = "update _hyperlift.relation set schema = $2, name = $3 where source_oid = $1";
    client.execute(sql, &[&i64::from(oid), &name.schema, &name.name]).await?;
    Ok(())
}

/// Records the relations with their lanes, in one statement. A lane once given is never changed (I6).
pub async fn plan_relations(client: &Client, relations: &[(u32, TableName, u32)]) -> Result<()> {
    let oids: Vec<i64> = relations.iter().map(|(oid, ..)| i64::from(*oid)).collect();
    let schemas: Vec<&str> = relations.iter().map(|(_, table, _)| table.schema.as_str()).collect();
    let names: Vec<&str> = relations.iter().map(|(_, table, _)| table.name.as_str()).collect();
    let lanes: Vec<i32> = relations.iter().map(|(.., lane)| *lane as i32).collect();
    let sql = "insert into _hyperlift.relation (source_oid, schema, name, target_oid, lane, state)
               select oid, schema, name, to_regclass(format('%I.%I', schema, name)), lane, 'planned'
                 from unnest($1::bigint[], $2::text[], $3::text[], $4::int[]) t (oid, schema, name, lane) on conflict do nothing";
    client.execute(sql, &[&oids, &schemas, &names, &lanes]).await?;
    Ok(())
}

/// Begins a new attempt for every relation that is not copied yet: what a session of an earlier run has not committed by then, it never
/// will, because [`RECORD_WHOLE`] and [`RECORD_PART`] ask for the attempt that they belong to.
pub async fn begin_attempts(client: &Client) -> Result<()> {
    client.execute("update _hyperlift.relation set attempt = attempt + 1 where state = 'planned'", &[]).await?;
    Ok(())
}

/// A relation that is to be copied, as the target has it.
#[derive(Clone, Debug, Default)]
pub struct Unfinished {
    pub attempt: i32,
    /// The target's table holds rows, or pages of rows that were rolled back, or parts of an earlier attempt.
    pub used: bool,
    /// Columns by name, with their types' OIDs on the target.
    pub columns: HashMap<String, u32>,
}

/// The relations that are not copied yet, by the OID of the source; or only the one asked for.
pub async fn unfinished(client: &Client, only: Option<u32>) -> Result<HashMap<u32, Unfinished>> {
    let only = only.map(i64::from);
    let used = "select source_oid, attempt,
                exists (select from _hyperlift.copy_part p where p.source_oid = r.source_oid)
                or coalesce((select sum(pg_relation_size(t.oid)) from (select r.target_oid as oid union select relid from pg_partition_tree(r.target_oid)) t), 0) > 0
                or exists (select from pg_inherits i where i.inhparent = r.target_oid and (select relkind from pg_class where oid = r.target_oid) = 'r') as used
           from _hyperlift.relation r where state = 'planned' and ($1::bigint is null or source_oid = $1)";
    let mut found: HashMap<u32, Unfinished> = client
        .query(used, &[&only])
        .await?
        .iter()
        .map(|r| (r.get::<_, i64>("source_oid") as u32, Unfinished { attempt: r.get("attempt"), used: r.get("used"), columns: HashMap::new() }))
        .collect();
    let columns = "select r.source_oid, a.attname::text as name, a.atttypid as type from _hyperlift.relation r
             join pg_attribute a on a.attrelid = r.target_oid and a.attnum > 0 and not a.attisdropped
            where r.state = 'planned' and ($1::bigint is null or r.source_oid = $1)";
    for r in client.query(columns, &[&only]).await? {
        if let Some(relation) = found.get_mut(&(r.get::<_, i64>("source_oid") as u32)) {
            relation.columns.insert(r.get("name"), r.get("type"));
        }
    }
    Ok(found)
}

/// Records a relation that was copied in one part, in the transaction that copied it. Parameters: source OID, attempt, snapshot, L, rows,
/// bytes. It fails (23502) when the relation is at another attempt by now, or (23505) when it was copied already: however late a
/// leftover session commits, no row is there twice. The transaction has a path of the application's: operators are named with their schema.
pub const RECORD_WHOLE: &str = "with copied as (
    update _hyperlift.relation set state = 'copied', snapshot = $3, l_lsn = $4
     where source_oid operator(pg_catalog.=) $1 and attempt operator(pg_catalog.=) $2 and state operator(pg_catalog.=) 'planned' returning attempt)
    insert into _hyperlift.copy_part (source_oid, part, parts, attempt, rows, bytes) values ($1, 0, 1, (select attempt from copied), $5, $6)";

/// Records one of several parts, in the transaction that copied it. Parameters: source OID, attempt, part, parts, rows, bytes. It fails
/// as [`RECORD_WHOLE`] does; the row of the relation stays as it is until then.
pub const RECORD_PART: &str = "insert into _hyperlift.copy_part (source_oid, part, parts, attempt, rows, bytes) values ($1, $3, $4,
    (select attempt from _hyperlift.relation where source_oid operator(pg_catalog.=) $1 and attempt operator(pg_catalog.=) $2 and state operator(pg_catalog.=) 'planned' for share), $5, $6)";

/// Records a relation all of whose parts are there; hits one row, or something is wrong. Once more changes nothing. Parameters: source
/// OID, attempt, snapshot, L, parts.
pub const RECORD_PARTS: &str = "update _hyperlift.relation set state = 'copied', snapshot = $3, l_lsn = $4
    where source_oid = $1 and attempt = $2 and (select count(*) from _hyperlift.copy_part where source_oid = $1 and attempt = $2) = $5";

/// Begins a new attempt of one relation, in the transaction that empties its table; returns its number. The lock of the truncation
/// comes first: it waits for the sessions of the attempt before, which then either have their ledger row or never get it.
pub fn begin_attempt(oid: u32) -> String {
    format!(
        "delete from _hyperlift.copy_part where source_oid = {oid}; \
         update _hyperlift.relation set state = 'planned', snapshot = null, l_lsn = null, attempt = attempt + 1 where source_oid = {oid} returning attempt"
    )
}

pub async fn skip_relation(client: &Client, oid: u32) -> Result<()> {
    client.execute("update _hyperlift.relation set state = 'skipped' where source_oid = $1", &[&i64::from(oid)]).await?;
    Ok(())
}

/// Where a lane stands.
pub async fn lane_position(wire: &mut Wire, lane: u32) -> Result<Position> {
    let rows = wire.simple(&format!("select lsn::text, change::text from _hyperlift.lane where lane = {lane}")).await?;
    let Some([Some(lsn), Some(change)]) = rows.first().map(Vec::as_slice) else {
        return Err(Error::failed(format!("the target has no position of lane {lane}"))
            .hint("was schema _hyperlift changed? Run `hyperlift clean` and start again"));
    };
    let change = change.parse().map_err(|_| Error::failed(format!("the target has no sensible position of lane {lane}: {change}")))?;
    Ok(Position { lsn: lsn.parse()?, change })
}

/// Where all lanes stand.
pub async fn lane_positions(client: &Client) -> Result<Vec<Position>> {
    let rows = client.query("select lsn::text as lsn, change from _hyperlift.lane order by lane", &[]).await?;
    rows.iter().map(|r| Ok(Position { lsn: r.get::<_, &str>("lsn").parse()?, change: r.get::<_, i64>("change") as u64 })).collect()
}

/// Whether a step of the cutover was done.
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

/// Makes everything durable that was committed on the target so far, in whatever session: sessions with `synchronous_commit = off` spare
/// the disk one flush a transaction. This commit waits for its own.
pub async fn flush(client: &Client) -> Result<()> {
    client.batch_execute("set synchronous_commit = on; update _hyperlift.migration set version = version").await?;
    Ok(())
}

pub async fn finish(client: &Client) -> Result<()> {
    client.execute("update _hyperlift.migration set finished_at = coalesce(finished_at, now())", &[]).await?;
    Ok(())
}

/// The statement that moves a lane, for the transaction that applies what lies between the two positions. It changes no row when another
/// session has moved the lane meanwhile (I6).
pub fn move_lane(lane: u32, from: Position, to: Position) -> String {
    format!(
        "update _hyperlift.lane set lsn = '{}', change = {}, at = now() where lane = {lane} and lsn = '{}' and change = {}",
        to.lsn, to.change, from.lsn, from.change
    )
}
