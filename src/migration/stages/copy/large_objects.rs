//! Large objects: they are copied once with their ids, under one snapshot, because no stream carries their changes (B-19).
//!
//! Each is created and filled in one transaction of the target, with its comment, owner and grants. So a large object that exists on the
//! target is complete.

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use tokio_postgres::Transaction;

use crate::{
    error::{Error, Result},
    event::Level,
    migration::context::Context,
    name::{ident, literal},
    pg::{client::Client, ledger},
    plan::Plan,
};

/// Large objects that are created in one transaction.
const BATCH: usize = 100;
/// The first read of each, bytes: most are smaller.
const FIRST_BYTES: i32 = 32 << 10;
/// The later reads of a larger one, bytes.
const PIECE_BYTES: i32 = 1 << 20;
/// The step that the ledger has when all are copied.
const STEP: &str = "large objects";
/// No more than this are named in a line of the report.
const NAMED: usize = 8;

/// Copies the large objects that no earlier run has copied.
pub async fn copy(cx: &mut Context) -> Result<()> {
    let mut target = cx.target("large-objects").await?;
    if ledger::has_step(&target, STEP).await? {
        return Ok(());
    }
    let source = cx.source("large-objects").await?;
    source.batch_execute("begin isolation level repeatable read read only").await?;
    let on_target = ids(&target).await?;
    let missing: Vec<u32> = ids(&source).await?.difference(&on_target).copied().collect();
    if !missing.is_empty() {
        cx.notice(Level::Info, format!("{} large objects are copied; later changes to them are not replayed", missing.len())).await;
    }
    let roles = crate::pg::catalog::role_names(&target).await?;
    let mut remaining: VecDeque<&[u32]> = missing.chunks(BATCH).collect();
    while let Some(batch) = remaining.pop_front() {
        let rights = rights(&cx.plan, (&source, &target), batch, &roles).await?;
        source.batch_execute("savepoint batch").await?;
        match cx.unless_stopped(copy_batch(&source, &mut target, batch, &rights)).await {
            Ok(failed) => {
                for (reason, statements) in failed {
                    let named = statements.iter().take(NAMED).copied().collect::<Vec<_>>().join("; ");
                    cx.not_moved("RIGHTS on large objects", format!("{reason}: {named}")).await?;
                }
            }
            Err(e) if e.is_stop() || e.is_transient() => return Err(e.context("large objects")),
            // Each by itself, so that only those are missing that cannot be copied.
            Err(_) if batch.len() > 1 => batch.chunks(1).rev().for_each(|one| remaining.push_front(one)),
            Err(e) => {
                cx.not_moved(format!("LARGE OBJECT {}", batch[0]), format!("{e}: move it with pg_dump --blobs, or connect as its owner")).await?;
            }
        }
        source.batch_execute("rollback to batch; release batch").await?;
    }
    ledger::record_step(&target, STEP).await
}

/// The ids of all large objects.
async fn ids(client: &Client) -> Result<BTreeSet<u32>> {
    Ok(client.query("select oid from pg_largeobject_metadata", &[]).await?.iter().map(|r| r.get("oid")).collect())
}

/// A statement on a large object.
struct Right {
    sql: String,
    /// Why it cannot be run.
    impossible: Option<String>,
}

/// Statements that were not run, or failed, by the reason.
type Failures<'a> = BTreeMap<String, Vec<&'a str>>;

/// Copies a batch in one transaction of the target. What cannot be given to the objects is returned, and does not undo them.
async fn copy_batch<'a>(source: &Client, target: &mut Client, batch: &[u32], rights: &'a [Right]) -> Result<Failures<'a>> {
    let piece = "select lo_get($1, $2, $3) as data";
    let rows =
        source.query("select o as oid, lo_get(o, 0, $2) as data from unnest($1::oid[]) o", &[&batch, &FIRST_BYTES]).await.map_err(source_error)?;
    let (made, data): (Vec<u32>, Vec<&[u8]>) = rows.iter().map(|r| (r.get::<_, u32>("oid"), r.get::<_, &[u8]>("data"))).unzip();
    let transaction = target.transaction().await?;
    transaction.execute("select lo_from_bytea(o, d) from unnest($1::oid[], $2::bytea[]) u(o, d)", &[&made, &data]).await?;
    for (oid, first) in made.iter().zip(&data).filter(|(_, first)| first.len() == FIRST_BYTES as usize) {
        let mut at = first.len() as i64;
        loop {
            let row = source.query_one(piece, &[oid, &at, &PIECE_BYTES]).await.map_err(source_error)?;
            let more: &[u8] = row.get("data");
            if more.is_empty() {
                break;
            }
            transaction.execute("select lo_put($1, $2, $3)", &[oid, &at, &more]).await?;
            at += more.len() as i64;
        }
    }
    let failed = apply_rights(&transaction, rights).await?;
    transaction.commit().await?;
    Ok(failed)
}

/// Runs the statements together; if one fails, each by itself.
async fn apply_rights<'a>(transaction: &Transaction<'_>, rights: &'a [Right]) -> Result<Failures<'a>> {
    let (impossible, able): (Vec<&Right>, Vec<&Right>) = rights.iter().partition(|r| r.impossible.is_some());
    let mut failed = Failures::new();
    for right in impossible {
        failed.entry(right.impossible.clone().unwrap_or_default()).or_default().push(&right.sql);
    }
    let statements: Vec<&str> = able.iter().map(|r| r.sql.as_str()).collect();
    if try_statement(transaction, &statements.join(";\n")).await?.is_ok() {
        return Ok(failed);
    }
    for sql in statements {
        if let Err(e) = try_statement(transaction, sql).await? {
            failed.entry(e.to_string()).or_default().push(sql);
        }
    }
    Ok(failed)
}

/// Runs a statement in a savepoint, so that its error does not end the transaction. A transient error does.
async fn try_statement(transaction: &Transaction<'_>, sql: &str) -> Result<Result<()>> {
    let Err(e) = transaction.batch_execute(&format!("savepoint one;\n{sql};\nrelease one")).await.map_err(Error::from) else {
        return Ok(Ok(()));
    };
    if e.is_transient() {
        return Err(e);
    }
    transaction.batch_execute("rollback to one").await?;
    Ok(Err(e))
}

fn source_error(e: tokio_postgres::Error) -> Error {
    Error::from(e).context("source")
}

/// The statements for comments, and for owners and grants if they were requested. Those of roles that the target does not have are
/// impossible.
async fn rights(plan: &Plan, (source, target): (&Client, &Client), batch: &[u32], roles: &HashSet<String>) -> Result<Vec<Right>> {
    let mut wanted: Vec<(String, Option<String>)> = Vec::new();
    let comments = source
        .query(
            "select objoid as oid, description::text as text from pg_description where classoid = 'pg_largeobject'::regclass and objoid = any($1)",
            &[&batch],
        )
        .await?;
    for r in comments {
        wanted.push((format!("comment on large object {} is {}", r.get::<_, u32>("oid"), literal(r.get("text"))), None));
    }
    let on_target = |name: &str| plan.roles.get(name).cloned().unwrap_or_else(|| name.to_owned());
    if plan.grants {
        let sql = "select l.oid, coalesce(g.rolname::text, '') as role, lower(string_agg(a.privilege_type, ', ')) as privileges, a.is_grantable as grantable
                     from pg_largeobject_metadata l cross join lateral aclexplode(l.lomacl) a left join pg_roles g on g.oid = a.grantee
                    where l.oid = any($1) and a.grantee <> l.lomowner group by l.oid, g.rolname, a.is_grantable order by 1, 2";
        for r in source.query(sql, &[&batch]).await? {
            let role = Some(on_target(r.get("role"))).filter(|r| !r.is_empty());
            let to = role.as_ref().map_or_else(|| "public".to_owned(), |r| ident(r));
            let option = if r.get("grantable") { " with grant option" } else { "" };
            wanted.push((format!("grant {} on large object {} to {to}{option}", r.get::<_, &str>("privileges"), r.get::<_, u32>("oid")), role));
        }
    }
    if plan.owners {
        let sql = "select l.oid, r.rolname::text as role from pg_largeobject_metadata l join pg_roles r on r.oid = l.lomowner where l.oid = any($1) order by 1";
        for r in source.query(sql, &[&batch]).await? {
            let role = on_target(r.get("role"));
            wanted.push((format!("alter large object {} owner to {}", r.get::<_, u32>("oid"), ident(&role)), Some(role)));
        }
    }
    let owners: Vec<&str> = wanted.iter().filter(|(sql, _)| sql.starts_with("alter")).filter_map(|(_, role)| role.as_deref()).collect();
    crate::migration::restore::memberships::join(target, &owners).await?;
    let right = |(sql, role): (String, Option<String>)| {
        let impossible = role.filter(|role| !roles.contains(role)).map(|role| format!("role {role} does not exist on the target"));
        Right { sql, impossible }
    };
    Ok(wanted.into_iter().map(right).collect())
}

/// Reports those that were created or removed on the source after the copy.
pub async fn report_changes(cx: &mut Context) -> Result<()> {
    let (source, target) = (cx.source("large-objects").await?, cx.target("large-objects").await?);
    let (here, there) = (ids(&source).await?, ids(&target).await?);
    let (new, gone): (Vec<_>, Vec<_>) = (here.difference(&there).collect(), there.difference(&here).collect());
    for (ids, what) in [
        (new, "created on the source after the copy, and missing on the target"),
        (gone, "removed on the source after the copy, and still on the target"),
    ] {
        if !ids.is_empty() {
            let named = ids.iter().take(NAMED).map(ToString::to_string).collect::<Vec<_>>().join(", ");
            cx.not_moved("LARGE OBJECTS", format!("{} {what}: {named}{}", ids.len(), if ids.len() > NAMED { ", …" } else { "" })).await?;
        }
    }
    Ok(())
}
