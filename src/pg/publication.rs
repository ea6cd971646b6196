//! The publications of a migration: which tables, and which of their changes (I10).

use super::{catalog::SourceRelation, client::Client, event_triggers};
use crate::{
    error::Result,
    name::{TableName, ident, literal},
    pg::own::{Names, OWN_PUBLICATION},
};

/// A published relation.
pub struct Published<'a> {
    pub relation: &'a SourceRelation,
    /// Its updates and deletes are not published.
    pub insert_only: bool,
}

/// Creates both publications, or sets their tables. They have explicit lists, never FOR ALL TABLES, and leaves are published under their own
/// names.
pub async fn publish(client: &Client, names: &Names, tables: &[Published<'_>]) -> Result<()> {
    match set_publications(client, names, tables).await {
        Ok(()) => Ok(()),
        Err(e) => Err(event_triggers::explain(client, e, "CREATE PUBLICATION").await),
    }
}

async fn set_publications(client: &Client, names: &Names, tables: &[Published<'_>]) -> Result<()> {
    for (publication, operations, insert_only) in
        [(&names.publication, "insert, update, delete, truncate", false), (&names.insert_only, "insert, truncate", true)]
    {
        let list: Vec<String> = tables
            .iter()
            .filter(|t| t.insert_only == insert_only)
            // A partition root has no rows; its leaves come with it.
            .map(|t| format!("{}{}", t.relation.storage.only(), t.relation.table.sql()))
            .collect();
        let there = client.query_opt("select 1 from pg_publication where pubname = $1", &[publication]).await?.is_some();
        let list = list.join(", ");
        if there {
            if !list.is_empty() {
                client.batch_execute(&format!("alter publication {} set table {list}", ident(publication))).await?;
            }
            continue;
        }
        let tables = if list.is_empty() { String::new() } else { format!(" for table {list}") };
        client
            .batch_execute(&format!(
                "create publication {}{tables} with (publish = '{operations}', publish_via_partition_root = false); {}",
                ident(publication),
                mark_sql(publication)
            ))
            .await?;
    }
    mark(client, names).await
}

/// Adds a relation that is not published yet. An attempt waits no longer than two seconds for the lock on the table.
pub async fn add(client: &Client, names: &Names, added: &Published<'_>) -> Result<()> {
    let relation = added.relation;
    if publishes(client, names, relation.oid).await? {
        return Ok(());
    }
    let publication = ident(if added.insert_only { &names.insert_only } else { &names.publication });
    let add = format!("alter publication {publication} add table {}{}", relation.storage.only(), relation.table.sql());
    match client.batch_execute(&format!("begin; set local lock_timeout = '2s'; {add}; commit")).await {
        Ok(()) => Ok(()),
        Err(e) => {
            client.batch_execute("rollback").await?;
            Err(event_triggers::explain(client, e.into(), "ALTER PUBLICATION").await)
        }
    }
}

/// Whether changes of a table are published, under its own name or that of a partitioned table that it belongs to.
async fn publishes(client: &Client, names: &Names, oid: u32) -> Result<bool> {
    let sql = "select exists (select from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
                where p.pubname = any($1) and (r.prrelid = $2 or r.prrelid in (select relid from pg_partition_ancestors($2))))";
    Ok(client.query_one(sql, &[&vec![&names.publication, &names.insert_only], &oid]).await?.get(0))
}

/// Marks the publications as a migration's: earlier versions made them without a comment.
pub async fn mark(client: &Client, names: &Names) -> Result<()> {
    let sql =
        "select pubname::text as name from pg_publication where pubname = any($1) and obj_description(oid, 'pg_publication') is distinct from $2";
    for row in client.query(sql, &[&vec![&names.publication, &names.insert_only], &OWN_PUBLICATION]).await? {
        client.batch_execute(&mark_sql(row.get("name"))).await?;
    }
    Ok(())
}

fn mark_sql(publication: &str) -> String {
    format!("comment on publication {} is {}", ident(publication), literal(OWN_PUBLICATION))
}

/// The tables of a publication, by their names.
pub async fn tables(client: &Client, publication: &str) -> Result<Vec<TableName>> {
    let sql = "select n.nspname::text as schema, c.relname::text as name from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
                 join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace where p.pubname = $1";
    Ok(client.query(sql, &[&publication]).await?.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// Drops a publication, if there is one. Where there is none no statement runs, because an event trigger could refuse it.
pub async fn drop(client: &Client, publication: &str) -> Result<()> {
    if client.query_opt("select 1 from pg_publication where pubname = $1", &[&publication]).await?.is_none() {
        return Ok(());
    }
    match client.batch_execute(&format!("drop publication if exists {}", ident(publication))).await {
        Ok(()) => Ok(()),
        Err(e) => Err(event_triggers::explain(client, e.into(), "DROP PUBLICATION").await),
    }
}
