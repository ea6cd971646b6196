//! The publications of a migration: which tables, and which of their changes (I10).

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::{
    catalog::{self, SourceRelation, versions},
    client::Client,
    event_triggers,
};
use crate::{
    error::{Error, Result},
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
        let (name, list) = (ident(publication), list.join(", "));
        let options = format!("publish = '{operations}', publish_via_partition_root = false");
        if there {
            client.batch_execute(&format!("alter publication {name} set ({options})")).await?;
            if !list.is_empty() {
                client.batch_execute(&format!("alter publication {name} set table {list}")).await?;
            }
            continue;
        }
        let tables = if list.is_empty() { String::new() } else { format!(" for table {list}") };
        client.batch_execute(&format!("create publication {name}{tables} with ({options}); {}", mark_sql(publication))).await?;
    }
    mark(client, names).await
}

/// Adds a relation that is not published yet. An attempt waits no longer than two seconds for the lock on the table.
pub async fn add(client: &Client, names: &Names, added: &Published<'_>) -> Result<()> {
    let relation = added.relation;
    let (there, whole) = membership(client, names, relation.oid).await?;
    if there && whole {
        return Ok(());
    }
    let publication = ident(if added.insert_only { &names.insert_only } else { &names.publication });
    let table = format!("{}{}", relation.storage.only(), relation.table.sql());
    let mut change = format!("alter publication {publication} add table {table}");
    if there {
        change = format!("alter publication {publication} drop table {table}; {change}");
    }
    match client.batch_execute(&format!("begin; set local lock_timeout = '2s'; {change}; commit")).await {
        Ok(()) => Ok(()),
        Err(e) => {
            client.batch_execute("rollback").await?;
            Err(event_triggers::explain(client, e.into(), "ALTER PUBLICATION").await)
        }
    }
}

/// Whether a table is published, under its own name or that of a partitioned table that it belongs to; and whether all its rows and columns
/// are.
async fn membership(client: &Client, names: &Names, oid: u32) -> Result<(bool, bool)> {
    let whole = if client.version() / 10_000 >= versions::SCHEMAS_PUBLISHED { "prqual is null and prattrs is null" } else { "true" };
    let sql = format!(
        "select coalesce(bool_or(true), false) as there, coalesce(bool_and({whole}), false) as whole
           from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
          where p.pubname = any($1) and (r.prrelid = $2 or r.prrelid in (select relid from pg_partition_ancestors($2)))"
    );
    let row = client.query_one(&sql, &[&vec![&names.publication, &names.insert_only], &oid]).await?;
    Ok((row.get("there"), row.get("whole")))
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

/// A publication as it was made, for finding out whether somebody has changed it.
///
/// What was not published while it was changed is lost, also after the change was taken back. So what is compared never returns: OIDs, and
/// the transaction that has written a row of the catalog.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    pub oid: u32,
    /// The transaction that has altered it last. That may have been another owner's.
    pub altered_by: String,
    pub owner: u32,
    /// Its operations and `publish_via_partition_root`.
    pub options: String,
    /// OIDs of its tables, each with that of its row in `pg_publication_rel`: the row is another one when the table was put back, or got
    /// another row filter or column list.
    pub tables: BTreeMap<u32, u32>,
}

/// The publications of a migration, by their names.
pub type Publications = BTreeMap<String, Publication>;

/// A table of the migration whose changes are not published as they were when the migration began.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unpublished {
    /// OID on the source.
    pub oid: u32,
    pub table: TableName,
    /// What has happened to its publication, as a sentence.
    pub why: String,
    /// The publication itself is as it was: the table can be published again, and copied again.
    pub alone: bool,
}

/// The publications with these names, as they are now.
pub async fn publications(client: &Client, names: &[&str]) -> Result<Publications> {
    let sql = "select pubname::text as name, oid, xmin::text as altered_by, pubowner as owner,
                      concat_ws(' ', pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, puballtables) as options
                 from pg_publication where pubname = any($1)";
    let mut found = Publications::new();
    for row in client.query(sql, &[&names]).await? {
        let (oid, altered_by, owner, options) = (row.get("oid"), row.get("altered_by"), row.get("owner"), row.get("options"));
        found.insert(row.get("name"), Publication { oid, altered_by, owner, options, tables: BTreeMap::new() });
    }
    let sql = "select p.pubname::text as name, r.prrelid as relation, r.oid as oid
                 from pg_publication p join pg_publication_rel r on r.prpubid = p.oid where p.pubname = any($1)";
    for row in client.query(sql, &[&names]).await? {
        if let Some(publication) = found.get_mut(row.get::<_, &str>("name")) {
            publication.tables.insert(row.get("relation"), row.get("oid"));
        }
    }
    Ok(found)
}

/// Tables of the recorded publications whose changes may be missing from the stream, because somebody has changed a publication since. A
/// table that the source has dropped is none of them. More tables in a publication do no harm.
pub async fn unpublished(client: &Client, recorded: &Publications) -> Result<Vec<Unpublished>> {
    let names: Vec<&str> = recorded.keys().map(String::as_str).collect();
    let mut found = changed(recorded, &publications(client, &names).await?);
    if found.is_empty() {
        return Ok(Vec::new());
    }
    let oids: Vec<u32> = found.keys().copied().collect();
    let tables = catalog::names_of(client, &oids).await?;
    let unpublished = tables.into_iter().filter_map(|(oid, table)| {
        let (why, alone) = found.remove(&oid)?;
        Some(Unpublished { oid, table, why, alone })
    });
    let mut unpublished: Vec<_> = unpublished.collect();
    unpublished.sort_by(|a, b| a.table.cmp(&b.table));
    Ok(unpublished)
}

/// OIDs of the tables that are not published as they were recorded, with the reason, and whether it concerns only the table.
fn changed(recorded: &Publications, now: &Publications) -> BTreeMap<u32, (String, bool)> {
    let mut found = BTreeMap::new();
    for (name, was) in recorded {
        let whole = match now.get(name) {
            None => Some(format!("publication {name} was dropped or renamed")),
            Some(is) if is.oid != was.oid => Some(format!("publication {name} was dropped and made again")),
            Some(is) if is.options != was.options || (is.altered_by != was.altered_by && is.owner == was.owner) => {
                Some(format!("publication {name} was altered"))
            }
            Some(_) => None,
        };
        for (table, row) in &was.tables {
            let why = match (&whole, now.get(name).and_then(|is| is.tables.get(table))) {
                (Some(whole), _) => whole.clone(),
                (None, None) => format!("it was taken out of publication {name}"),
                (None, Some(is)) if is != row => format!("it was taken out of publication {name} and put back, or published otherwise"),
                (None, Some(_)) => continue,
            };
            found.insert(*table, (why, whole.is_none()));
        }
    }
    found
}

/// The error for tables that are not published any more; `None` when there are none.
pub fn refusal(unpublished: &[Unpublished]) -> Option<Error> {
    let (first, more) = unpublished.split_first()?;
    let more = match more.len() {
        0 => String::new(),
        1 => ", and those of 1 more table".to_owned(),
        n => format!(", and those of {n} more tables"),
    };
    let message = format!("changes of {} may be missing{more}: {}", first.table, first.why);
    Some(Error::refused(message).hint(
        "what was written meanwhile is in no stream, so it does not help to change the publication back: run `hyperlift clean`, empty the target \
         and start again",
    ))
}

/// The tables of a publication, by their names.
pub async fn tables(client: &Client, publication: &str) -> Result<Vec<TableName>> {
    let sql = "select n.nspname::text as schema, c.relname::text as name from pg_publication p join pg_publication_rel r on r.prpubid = p.oid
                 join pg_class c on c.oid = r.prrelid join pg_namespace n on n.oid = c.relnamespace where p.pubname = $1";
    Ok(client.query(sql, &[&publication]).await?.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// Publications with the updates or deletes of a table, but for those of this migration. Without a replica identity PostgreSQL refuses these
/// statements of the application.
pub async fn of_updates(client: &Client, table: u32, own: &Names) -> Result<Vec<String>> {
    let by_schema = if client.version() / 10_000 >= versions::SCHEMAS_PUBLISHED {
        "or exists (select from pg_publication_namespace s join pg_class c on c.relnamespace = s.pnnspid where s.pnpubid = p.oid and c.oid = any(f.oids))"
    } else {
        ""
    };
    let sql = format!(
        "with f as (select array_agg(relid::oid) || $1 as oids from pg_partition_ancestors($1::oid::regclass))
         select p.pubname::text as name from pg_publication p, f
          where (p.pubupdate or p.pubdelete) and p.pubname <> all($2)
            and (p.puballtables or exists (select from pg_publication_rel r where r.prpubid = p.oid and r.prrelid = any(f.oids)) {by_schema})
          order by 1"
    );
    let own = [&own.publication, &own.insert_only];
    Ok(client.query(&sql, &[&table, &own.as_slice()]).await?.iter().map(|r| r.get("name")).collect())
}

/// Drops a publication; whether there was one. Where there is none no statement runs, because an event trigger could refuse it.
pub async fn drop(client: &Client, publication: &str) -> Result<bool> {
    if client.query_opt("select 1 from pg_publication where pubname = $1", &[&publication]).await?.is_none() {
        return Ok(false);
    }
    match client.batch_execute(&format!("drop publication if exists {}", ident(publication))).await {
        Ok(()) => Ok(true),
        Err(e) => Err(event_triggers::explain(client, e.into(), "DROP PUBLICATION").await),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_a_publication_is_noticed_although_it_was_taken_back() {
        let publication = |oid, by: &str, tables: &[(u32, u32)]| Publication {
            oid,
            altered_by: by.into(),
            owner: 5,
            options: "t t".into(),
            tables: tables.iter().copied().collect(),
        };
        let now = |p: Publication| Publications::from([("p".to_owned(), p)]);
        let recorded = now(publication(1, "700", &[(10, 100), (11, 101)]));
        let found = |now: &Publications| changed(&recorded, now).into_iter().collect::<Vec<_>>();
        assert_eq!(found(&recorded), []);
        assert_eq!(found(&now(publication(1, "700", &[(10, 100), (11, 101), (12, 102)]))), [], "one more table");
        assert_eq!(found(&now(publication(1, "700", &[(10, 100)]))), [(11, ("it was taken out of publication p".to_owned(), true))]);
        assert_eq!(found(&now(publication(1, "700", &[(10, 100), (11, 103)]))).len(), 1, "put back");
        let given = Publication { owner: 6, ..publication(1, "703", &[(10, 100), (11, 101)]) };
        assert_eq!(found(&now(given.clone())), [], "another owner");
        assert_eq!(found(&now(Publication { options: "t f".into(), ..given })).len(), 2);
        for other in [Publications::new(), now(publication(2, "701", &[(10, 104), (11, 105)])), now(publication(1, "702", &[(10, 100), (11, 101)]))] {
            assert_eq!(found(&other).iter().map(|(oid, _)| *oid).collect::<Vec<_>>(), [10, 11]);
        }
    }
}
