//! The attempts and parts of copies.

use std::collections::HashMap;

use crate::{error::Result, pg::client::Client};

/// Begins a new attempt for those of these relations that are not copied yet. What a session of an earlier run has not committed by then
/// it cannot commit later, because [`RECORD_WHOLE`] and [`RECORD_PART`] need the attempt that they belong to.
pub async fn begin_attempts(client: &Client, oids: &[u32]) -> Result<()> {
    let oids: Vec<i64> = oids.iter().copied().map(i64::from).collect();
    client.execute("update _hyperlift.relation set attempt = attempt + 1 where state = 'planned' and source_oid = any($1)", &[&oids]).await?;
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

/// Records a relation all of whose parts are recorded. It changes one row, or some part is missing. Running it again is harmless. Parameters: source
/// OID, attempt, snapshot, L, parts.
pub const RECORD_PARTS: &str = "update _hyperlift.relation set state = 'copied', snapshot = $3, l_lsn = $4
    where source_oid = $1 and attempt = $2 and (select count(*) from _hyperlift.copy_part where source_oid = $1 and attempt = $2) = $5";

/// Begins a new attempt of one relation, in the transaction that empties its table; returns its number. TRUNCATE has to come first: its
/// lock waits for the sessions of the attempt before, which then either have their ledger row or never get it.
pub fn begin_attempt(oid: u32) -> String {
    format!(
        "delete from _hyperlift.copy_part where source_oid = {oid}; \
         update _hyperlift.relation set state = 'planned', snapshot = null, l_lsn = null, attempt = attempt + 1 where source_oid = {oid} returning attempt"
    )
}

/// The query for a part that is recorded in this attempt: its rows and bytes, or no row.
pub fn recorded_part(oid: u32, attempt: i32, part: u32) -> String {
    format!("select rows::text, bytes::text from _hyperlift.copy_part where source_oid = {oid} and attempt = {attempt} and part = {part}")
}
