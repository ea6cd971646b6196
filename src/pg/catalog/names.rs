//! Names of what a database has.

use std::collections::{HashMap, HashSet};

use crate::{
    error::Result,
    name::TableName,
    pg::{
        client::Client,
        object::ObjectRef,
        own::{NOT_OF_EXTENSION, USER_SCHEMAS},
    },
};

/// The names of the extensions of the database.
pub async fn extension_names(client: &Client) -> Result<HashSet<String>> {
    Ok(client.query("select extname::text from pg_extension", &[]).await?.iter().map(|r| r.get(0)).collect())
}

/// The subscriptions of this database, as `SUBSCRIPTION name`.
pub async fn subscriptions(client: &Client) -> Result<HashSet<ObjectRef>> {
    let sql = "select 'SUBSCRIPTION ' || quote_ident(subname) as name from pg_subscription
                where subdbid = (select oid from pg_database where datname = current_database())";
    Ok(client.query(sql, &[]).await?.iter().map(|r| ObjectRef::from(r.get::<_, &str>("name"))).collect())
}

/// The name of a table of this server, by OID; a number for one that is gone.
pub async fn table_name(client: &Client, oid: u32) -> Result<TableName> {
    Ok(name_of(client, oid).await?.unwrap_or_else(|| TableName::new("pg_class", oid.to_string())))
}

/// The name of a table of this server, by OID; `None` for one that is gone.
pub async fn name_of(client: &Client, oid: u32) -> Result<Option<TableName>> {
    Ok(names_of(client, &[oid]).await?.remove(&oid))
}

/// The OID of a table, index, sequence or view; `None` where there is none of the name.
pub async fn oid_of(client: &Client, name: &TableName) -> Result<Option<u32>> {
    Ok(client.query_one("select to_regclass($1)::oid", &[&name.sql()]).await?.get(0))
}

/// The names of those of the tables that exist, by OID.
pub async fn names_of(client: &Client, oids: &[u32]) -> Result<HashMap<u32, TableName>> {
    let sql = "select c.oid, n.nspname::text as schema, c.relname::text as name
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1)";
    let rows = client.query(sql, &[&oids]).await?;
    Ok(rows.iter().map(|r| (r.get("oid"), TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")))).collect())
}

/// Those of the tables that exist.
pub async fn existing(client: &Client, tables: &[TableName]) -> Result<HashSet<TableName>> {
    let names: Vec<String> = tables.iter().map(TableName::sql).collect();
    let sql = "select t.n from unnest($1::text[]) with ordinality t(name, n) where to_regclass(t.name) is not null";
    Ok(client.query(sql, &[&names]).await?.iter().map(|r| tables[r.get::<_, i64>("n") as usize - 1].clone()).collect())
}

/// Those of the tables that are partitions.
pub async fn partitions_among(client: &Client, tables: &[&TableName]) -> Result<HashSet<TableName>> {
    let names: Vec<String> = tables.iter().map(|table| table.sql()).collect();
    let sql = "select t.n from unnest($1::text[]) with ordinality t(name, n) join pg_class c on c.oid = to_regclass(t.name) where c.relispartition";
    Ok(client.query(sql, &[&names]).await?.iter().map(|r| tables[r.get::<_, i64>("n") as usize - 1].clone()).collect())
}

/// The schemas of the application.
pub async fn user_schemas(client: &Client) -> Result<Vec<String>> {
    let sql = format!("select nspname::text as name from pg_namespace n where {USER_SCHEMAS} order by 1");
    Ok(client.query(&sql, &[]).await?.iter().map(|r| r.get("name")).collect())
}

/// The schemas that extensions have made.
pub async fn extension_schemas(client: &Client) -> Result<HashSet<String>> {
    let sql = "select nspname::text as name from pg_namespace n join pg_depend e
                 on e.classid = 'pg_namespace'::regclass and e.objid = n.oid and e.deptype = 'e'";
    Ok(client.query(sql, &[]).await?.iter().map(|r| r.get("name")).collect())
}

/// The schemas that are neither the application's nor the server's.
pub async fn other_schemas(client: &Client) -> Result<Vec<String>> {
    let sql =
        format!("select nspname::text as name from pg_namespace n where not ({USER_SCHEMAS}) and nspname !~ '^(pg_|information_schema$)' order by 1");
    Ok(client.query(&sql, &[]).await?.iter().map(|r| r.get("name")).collect())
}

/// User tables, views and sequences; the first few names.
pub async fn foreign_objects(client: &Client) -> Result<Vec<String>> {
    let sql = format!(
        "select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and c.relpersistence <> 't' and {USER_SCHEMAS}
            and {NOT_OF_EXTENSION}
          order by 1 limit 10"
    );
    Ok(client.query(&sql, &[]).await?.iter().map(|r| r.get("name")).collect())
}
