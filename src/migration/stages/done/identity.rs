//! Replica identities are set back, but for those that another publication needs.

use crate::{
    error::Result,
    name::TableName,
    pg::{client::Client, event_triggers, own::Names, publication},
    record::ChangedIdentity,
};

/// What became of a changed identity.
#[derive(Debug, PartialEq, Eq)]
pub enum Undone {
    Done,
    /// The table does not exist any more, or its identity is as before.
    NothingToDo,
    /// It is left as it is, because of another publication: the reason, and the statement for later.
    Needed(String),
}

/// Sets the replica identity back. It waits for a lock for 5 s at most, because the application is at work.
pub async fn undo(source: &Client, changed: &ChangedIdentity, own: &Names) -> Result<Undone> {
    let Some(now) = current(source, changed).await? else { return Ok(Undone::NothingToDo) };
    let sql = changed.undo_for(&now.table);
    if now.undo == sql {
        return Ok(Undone::NothingToDo);
    }
    match undo_unless_needed(source, &now, &sql, own).await {
        Ok(undone) => Ok(undone),
        Err(e) => {
            source.batch_execute("rollback").await.ok();
            Err(event_triggers::explain(source, e, "ALTER TABLE").await)
        }
    }
}

/// In one transaction, under a lock for which CREATE PUBLICATION waits, but no statement that reads or writes rows.
async fn undo_unless_needed(source: &Client, now: &ChangedIdentity, sql: &str, own: &Names) -> Result<Undone> {
    let table = now.table.sql();
    source.batch_execute(&format!("begin; set local lock_timeout = '5s'; lock table only {table} in share update exclusive mode")).await?;
    let others = publication::of_updates(source, now.oid, own).await?;
    if others.is_empty() {
        source.batch_execute(&format!("{sql}; commit")).await?;
        return Ok(Undone::Done);
    }
    source.batch_execute("rollback").await?;
    let several = if others.len() == 1 { "publication" } else { "publications" };
    Ok(Undone::Needed(format!(
        "left as it is, because {several} {} of the source may need it; once that is not so any more: {sql}",
        others.join(", ")
    )))
}

/// The table with its name and its identity of now; `None` when it is gone. Earlier versions recorded the name alone.
async fn current(source: &Client, changed: &ChangedIdentity) -> Result<Option<ChangedIdentity>> {
    let sql = "select c.oid, n.nspname::text as schema, c.relname::text as name, c.relreplident::text as identity, i.relname::text as index
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace
                 left join pg_index x on x.indrelid = c.oid and x.indisreplident left join pg_class i on i.oid = x.indexrelid
                where c.oid = case when $1::oid <> 0 then $1 else to_regclass($2)::oid end";
    let row = source.query_opt(sql, &[&changed.oid, &changed.table.sql()]).await?;
    Ok(row.map(|r| {
        let table = TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"));
        let identity = r.get::<_, &str>("identity").chars().next().unwrap_or_default();
        ChangedIdentity::from(&table, r.get("oid"), identity, r.get("index"))
    }))
}
