//! What the catalogs of both sides say: servers, relations, columns, keys, sessions, sequences.

pub mod exclusion;
mod partitions;
mod relations;
mod sessions;
mod shapes;
pub mod unsupported;
pub mod versions;

use crate::pg::own::OWN_SCHEMAS;
use jiff::Timestamp;
use std::collections::{HashMap, HashSet};
use tokio_postgres::SimpleQueryMessage;

pub use self::{partitions::*, relations::*, sessions::*, shapes::*};
use super::client::Client;
use crate::{
    error::{Error, Result},
    lsn::Lsn,
    name::{TableName, ident, literal},
};

#[derive(Clone, Debug)]
pub struct Server {
    /// `server_version_num`
    pub version: u32,
    /// `16.4`
    pub version_text: String,
    pub system_id: String,
    pub database: String,
    pub database_oid: u32,
    pub user: String,
    pub in_recovery: bool,
    /// Start of the postmaster: another one is another incarnation of the server.
    pub started: String,
}

impl Server {
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }
}

pub async fn server(client: &Client) -> Result<Server> {
    let row = client
        .query_one(
            "select current_setting('server_version_num')::int as version, current_setting('server_version') as version_text,
                    (select system_identifier::text from pg_control_system()) as system_id, current_database()::text as database,
                    (select oid from pg_database where datname = current_database()) as database_oid, current_user::text as user_name,
                    pg_is_in_recovery() as in_recovery, pg_postmaster_start_time()::text as started",
            &[],
        )
        .await?;
    let text: String = row.get("version_text");
    Ok(Server {
        version: row.get::<_, i32>("version") as u32,
        version_text: text.split_whitespace().next().unwrap_or_default().to_owned(),
        system_id: row.get("system_id"),
        database: row.get("database"),
        database_oid: row.get("database_oid"),
        user: row.get("user_name"),
        in_recovery: row.get("in_recovery"),
        started: row.get("started"),
    })
}

/// A setting of the server; `None` where this version has none of that name.
pub async fn setting(client: &Client, name: &str) -> Result<Option<String>> {
    let row = client.query_one("select current_setting($1, true) as value", &[&name]).await?;
    Ok(row.get("value"))
}

/// What `search_path` is for this user in this database, but for what the session says; `None` when it is empty.
pub async fn default_search_path(client: &Client) -> Result<Option<String>> {
    let path: String = value(client, "select coalesce(reset_val, '') from pg_settings where name = 'search_path'").await?;
    Ok(Some(path).filter(|p| !p.trim().is_empty() && p.trim() != "\"\""))
}

/// The names of the extensions that are there.
pub async fn extension_names(client: &Client) -> Result<HashSet<String>> {
    Ok(client.query("select extname::text from pg_extension", &[]).await?.iter().map(|r| r.get(0)).collect())
}

/// The subscriptions of this database, as `SUBSCRIPTION name`.
pub async fn subscriptions(client: &Client) -> Result<HashSet<String>> {
    let sql = "select 'SUBSCRIPTION ' || quote_ident(subname) as name from pg_subscription
                where subdbid = (select oid from pg_database where datname = current_database())";
    Ok(client.query(sql, &[]).await?.iter().map(|r| r.get("name")).collect())
}

/// The names of all roles.
pub async fn role_names(client: &Client) -> Result<HashSet<String>> {
    Ok(client.query("select rolname::text from pg_roles", &[]).await?.iter().map(|r| r.get(0)).collect())
}

/// The settings of a role in all databases, or in this one (`true`), as `name=value`.
pub async fn role_settings(client: &Client, role: &str) -> Result<Vec<(bool, String)>> {
    let sql = "select s.setdatabase <> 0 as here, unnest(s.setconfig) as setting from pg_db_role_setting s join pg_roles r on r.oid = s.setrole
                where r.rolname = $1 and s.setdatabase in (0, (select oid from pg_database where datname = current_database()))";
    Ok(client.query(sql, &[&role]).await?.iter().map(|r| (r.get("here"), r.get("setting"))).collect())
}

/// `name=value` of `pg_db_role_setting` as the end of a `SET` statement.
pub fn setting_sql(setting: &str) -> String {
    // Lists of names, whose values have quotes of their own (`GUC_LIST_QUOTE` of PostgreSQL's guc_tables.c).
    const LISTS: [&str; 6] = [
        "search_path", "temp_tablespaces", "local_preload_libraries", "session_preload_libraries", "shared_preload_libraries",
        "unix_socket_directories",
    ];
    let (name, value) = setting.split_once('=').unwrap_or((setting, ""));
    let value = if LISTS.contains(&name) && !value.is_empty() && value != "\"\"" { value.to_owned() } else { literal(value.trim_matches('"')) };
    format!("{} to {value}", ident_of_setting(name))
}

/// A setting of an extension has a dot in its name.
fn ident_of_setting(name: &str) -> String {
    name.split('.').map(ident).collect::<Vec<_>>().join(".")
}

/// One value of any query that yields one row.
pub async fn value<T>(client: &Client, sql: &str) -> Result<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// How the types of a database look on the wire in binary format, by OID. A type that is not here has to go as text; two types of the
/// same name here, on two servers of whatever version, have the same form.
///
/// Those are the types that come with PostgreSQL (their OIDs below 10000 are the same everywhere), domains over them, and enums, whose
/// form is the label. Left out are what refers to objects by OID (reg*), xml, whose binary form carries an encoding of its own, and
/// whatever has OIDs of user-defined types in it: their arrays, composites and ranges.
pub async fn binary_types(client: &Client) -> Result<HashMap<u32, String>> {
    let sql = "with recursive base (oid, base) as (
            select oid, oid from pg_type where typtype <> 'd'
            union all select t.oid, base.base from pg_type t join base on base.oid = t.typbasetype where t.typtype = 'd'),
        plain (oid) as (
            select oid from pg_type
             where oid < 10000 and typtype in ('b', 'r', 'm') and typsend <> 0 and typreceive <> 0 and typname !~ '^_?(reg|xml|pg_(?!lsn|snapshot))')
        select base.oid, case when t.typtype = 'e' then format('%I.%I', n.nspname, t.typname) else t.oid::text end as form
          from base join pg_type t on t.oid = base.base join pg_namespace n on n.oid = t.typnamespace
         where t.typtype = 'e' or t.oid in (select oid from plain) and (t.typcategory <> 'A' or t.typelem in (select oid from plain))";
    Ok(client.query(sql, &[]).await?.iter().map(|r| (r.get("oid"), r.get("form"))).collect())
}

/// The state of all catalogs that a dump of the schema is made from: how many rows each has, and the sum of the transactions that wrote
/// them. No definition changes without changing it; ANALYZE and VACUUM write in place. hyperlift's own publications do not count.
pub async fn schema_state(client: &Client) -> Result<String> {
    const CATALOGS: &[&str] = &[
        "aggregate", "am", "amop", "amproc", "attrdef", "attribute", "cast", "class", "collation", "constraint", "conversion", "default_acl",
        "description", "enum", "event_trigger", "extension", "foreign_data_wrapper", "foreign_server", "foreign_table", "index", "inherits",
        "init_privs", "language", "namespace", "opclass", "operator", "opfamily", "partitioned_table", "policy", "proc", "range", "rewrite",
        "seclabel", "sequence", "statistic_ext", "transform", "trigger", "ts_config", "ts_config_map", "ts_dict", "ts_parser", "ts_template", "type",
    ];
    let one = |name: &&str| format!("select '{name}' as name, count(*) as rows, sum(xmin::text::bigint)::text as sum from pg_{name}");
    let own = crate::pg::own::OWN_PUBLICATIONS;
    let schemas =
        if client.version() / 10_000 >= versions::SCHEMAS_PUBLISHED { "union all select pnpubid, xmin from pg_publication_namespace" } else { "" };
    let sql = format!(
        "select string_agg(format('%s %s %s', name, rows, sum), ',' order by name) from ({}
         union all select 'depend', count(*), sum(xmin::text::bigint)::text from pg_depend
                    where classid not in ('pg_publication'::regclass, 'pg_publication_rel'::regclass)
         union all select 'publication', count(*), sum(o.xmin::text::bigint)::text
                     from (select oid, xmin from pg_publication union all select prpubid, xmin from pg_publication_rel {schemas}) o
                     join pg_publication p on p.oid = o.oid where p.pubname !~ '{own}'
         union all select 'subscription', count(*), md5(string_agg(format('%s %s %s', subname, subslotname, subpublications), ',' order by oid))
                     from pg_subscription
         union all select 'user_mappings', count(*), md5(string_agg(m::text, ',' order by umid)) from pg_user_mappings m
         union all select 'roles', count(*), md5(string_agg(rolname, ',' order by oid)) from pg_roles) t",
        CATALOGS.iter().map(one).collect::<Vec<_>>().join(" union all ")
    );
    value(client, &sql).await
}

/// Name of the encoding of the database.
pub async fn encoding(client: &Client) -> Result<String> {
    value(client, "select pg_encoding_to_char(encoding)::text from pg_database where datname = current_database()").await
}

/// The name of a table of this server, by OID; a number for one that is gone.
pub async fn table_name(client: &Client, oid: u32) -> Result<TableName> {
    Ok(name_of(client, oid).await?.unwrap_or_else(|| TableName::new("pg_class", oid.to_string())))
}

/// The name of a table of this server, by OID; `None` for one that is gone.
pub async fn name_of(client: &Client, oid: u32) -> Result<Option<TableName>> {
    Ok(names_of(client, &[oid]).await?.remove(&oid))
}

/// The names of the tables of this server that are there, by OID.
pub async fn names_of(client: &Client, oids: &[u32]) -> Result<HashMap<u32, TableName>> {
    let sql = "select c.oid, n.nspname::text as schema, c.relname::text as name
                 from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = any($1)";
    let rows = client.query(sql, &[&oids]).await?;
    Ok(rows.iter().map(|r| (r.get("oid"), TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")))).collect())
}

/// A foreign key between two tables.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// The unique index that it points at.
    pub index: String,
    pub name: String,
    pub from: TableName,
    pub to: TableName,
}

/// All foreign keys, those of partitions as part of their roots'.
pub async fn foreign_keys(client: &Client) -> Result<Vec<ForeignKey>> {
    let rows = client
        .query(
            "select f.conname::text as name, i.relname::text as index, fn.nspname::text as from_schema, fc.relname::text as from_name,
                    tn.nspname::text as to_schema, tc.relname::text as to_name
               from pg_constraint f
               join pg_class i on i.oid = f.conindid
               join pg_class fc on fc.oid = f.conrelid join pg_namespace fn on fn.oid = fc.relnamespace
               join pg_class tc on tc.oid = f.confrelid join pg_namespace tn on tn.oid = tc.relnamespace
              where f.contype = 'f' and f.conparentid = 0 order by 3, 4, 1",
            &[],
        )
        .await?;
    let table = |r: &tokio_postgres::Row, schema: &str, name: &str| TableName::new(r.get::<_, &str>(schema), r.get::<_, &str>(name));
    Ok(rows
        .iter()
        .map(|r| ForeignKey {
            index: r.get("index"),
            name: r.get("name"),
            from: table(r, "from_schema", "from_name"),
            to: table(r, "to_schema", "to_name"),
        })
        .collect())
}

/// A sequence with its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sequence {
    pub table: TableName,
    pub last_value: i64,
    pub is_called: bool,
    pub start: i64,
    pub increment: i64,
    /// Begins anew at its end.
    pub cycles: bool,
}

impl Sequence {
    /// The state as it was made: nobody has taken a value, or set one.
    pub fn is_untouched(&self) -> bool {
        !self.is_called && self.last_value == self.start
    }
}

/// All sequences of user schemas; extensions' are left out.
pub async fn sequences(client: &Client) -> Result<Vec<Sequence>> {
    // Read in one statement.
    const AT_ONCE: usize = 200;
    let sql = format!(
        "select n.nspname::text as schema, c.relname::text as name, s.seqstart as start, s.seqincrement as increment, s.seqcycle as cycles
           from pg_sequence s join pg_class c on c.oid = s.seqrelid join pg_namespace n on n.oid = c.relnamespace
          where {OWN_SCHEMAS} and c.relpersistence <> 't'
            and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
          order by 1, 2"
    );
    let rows = client.query(&sql, &[]).await?;
    let mut found = Vec::with_capacity(rows.len());
    for rows in rows.chunks(AT_ONCE) {
        let tables: Vec<TableName> = rows.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect();
        let one = |(n, table): (usize, &TableName)| format!("select {n}::int8 as n, last_value, is_called from {}", table.sql());
        let states = client.query(&tables.iter().enumerate().map(one).collect::<Vec<_>>().join(" union all "), &[]).await?;
        for state in states {
            let n = state.get::<_, i64>("n") as usize;
            found.push(Sequence {
                table: tables[n].clone(),
                last_value: state.get("last_value"),
                is_called: state.get("is_called"),
                start: rows[n].get("start"),
                increment: rows[n].get("increment"),
                cycles: rows[n].get("cycles"),
            });
        }
    }
    Ok(found)
}

/// The end of the source's WAL that is flushed, and what the clock of the source says.
pub async fn flushed_lsn_and_time(client: &Client) -> Result<(Lsn, Timestamp)> {
    let sql = "select pg_current_wal_flush_lsn()::text as lsn, (extract(epoch from clock_timestamp()) * 1000000)::bigint as microseconds";
    let row = client.query_one(sql, &[]).await?;
    let time = Timestamp::from_microsecond(row.get("microseconds")).unwrap_or_default();
    Ok((row.get::<_, &str>("lsn").parse()?, time))
}

/// The columns of a table by their number of different values, the greatest first, as the planner's statistics have them; wide ones are
/// left out. Empty for a table that was never analysed.
pub async fn most_distinct(client: &Client, table: &TableName) -> Result<Vec<String>> {
    // A negative number is a share of the rows.
    let sql = "select attname::text as name from pg_stats where schemaname = $1 and tablename = $2 and avg_width < 100
                group by attname order by max(case when n_distinct < 0 then -n_distinct * 1e9 else n_distinct end * (1 - null_frac)) desc, attname";
    Ok(client.query(sql, &[&table.schema, &table.name]).await?.iter().map(|r| r.get("name")).collect())
}

/// For how many locks the server has room, in SQL (PostgreSQL documentation 20.12).
pub(super) const LOCKS: &str = "current_setting('max_locks_per_transaction')::bigint
    * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)";

/// How many tables and partitions there are, and for how many locks the server has room.
pub async fn tables_and_locks(client: &Client) -> Result<(u64, u64)> {
    let sql = format!(
        "select (select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'p') and {OWN_SCHEMAS}) as tables,
                {LOCKS} as locks"
    );
    let row = client.query_one(&sql, &[]).await?;
    Ok((row.get::<_, i64>("tables") as u64, row.get::<_, i64>("locks") as u64))
}

/// Whether a column is NULL in some row of a table or its partitions; `None` when it could not be found out in time (`5s`), by
/// statistics neither.
pub async fn has_null(client: &Client, table: &TableName, column: &str, time: &str) -> Result<Option<bool>> {
    let sql = format!("select exists (select from {} where {} is null)", table.sql(), ident(column));
    client.batch_execute(&format!("begin read only; set local statement_timeout = {}", literal(time))).await?;
    let found = value::<bool>(client, &sql).await;
    client.batch_execute("rollback").await?;
    match found {
        Err(e) if e.has_code("57014") => {
            let sql = "select bool_or(null_frac > 0) as some from pg_stats where schemaname = $1 and tablename = $2 and attname = $3";
            let some: Option<bool> = client.query_one(sql, &[&table.schema, &table.name, &column]).await?.get("some");
            Ok(some.filter(|some| *some))
        }
        found => found.map(Some),
    }
}

/// A place in the WAL behind every transaction that has committed before, with a commit of our own behind it: the stream gets there on an
/// idle source, too. Where the WAL is flushed to need not be such a place: it may be within somebody's unfinished record.
pub async fn mark_end_of_stream(client: &Client) -> Result<Lsn> {
    let sql = "begin; select pg_logical_emit_message(true, 'hyperlift', 'end of stream'); commit";
    let answer = client.simple_query(sql).await?;
    let lsn = answer.iter().find_map(|message| if let SimpleQueryMessage::Row(row) = message { row.get(0) } else { None });
    lsn.ok_or_else(|| Error::failed("the source does not say where it wrote the end of the stream"))?.parse()
}

/// Materialised views that are populated, in the order of their dependencies.
pub async fn populated_matviews(client: &Client) -> Result<Vec<TableName>> {
    let sql = format!(
        "with recursive view as (
             select c.oid, n.nspname, c.relname, c.relkind, c.relispopulated from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('m', 'v') and {OWN_SCHEMAS}),
         edge as (
             select distinct r.ev_class as child, d.refobjid as parent
               from pg_rewrite r join pg_depend d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
              where d.refclassid = 'pg_class'::regclass and d.refobjid <> r.ev_class and d.refobjid in (select oid from view)),
         depth as (
             select oid, 0 as level from view
             union
             select e.child, p.level + 1 from depth p join edge e on e.parent = p.oid where p.level < 100)
         select v.nspname::text as schema, v.relname::text as name from view v join depth d on d.oid = v.oid
          where v.relkind = 'm' and v.relispopulated group by v.nspname, v.relname order by max(d.level), 1, 2"
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// User tables, views and sequences on the target that hyperlift did not make; the first few names.
pub async fn foreign_objects(client: &Client) -> Result<Vec<String>> {
    let sql = format!(
        "select format('%I.%I', n.nspname, c.relname) as name from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p', 'v', 'm', 'S', 'f') and c.relpersistence <> 't' and {OWN_SCHEMAS}
            and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
          order by 1 limit 10"
    );
    Ok(client.query(&sql, &[]).await?.iter().map(|r| r.get("name")).collect())
}
