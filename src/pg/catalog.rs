//! What the catalogs of both sides say: servers, relations, columns, keys, sessions, sequences.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap, HashSet};

use super::client::Client;
use crate::{
    error::{Error, Result},
    lsn::Lsn,
    name::{TableName, literal},
    scope::{Extent, Scope},
};

/// Facts about PostgreSQL's versions, by `server_version_num / 10000`.
pub mod versions {
    /// Sources that can be read, targets that can be written.
    pub const SOURCE: std::ops::RangeInclusive<u32> = 13..=18;
    pub const TARGET: std::ops::RangeInclusive<u32> = 15..=18;
    /// Ranges of blocks are read without the rest of the table from 14 on (TID range scan).
    pub const TID_RANGE_SCAN: u32 = 14;
    /// `old_snapshot_threshold` was removed in 17.
    pub const NO_OLD_SNAPSHOT_THRESHOLD: u32 = 17;
    /// `pg_replication_slots` tells why a slot was invalidated from 17 on.
    pub const INVALIDATION_REASON: u32 = 17;
    /// A source may invalidate a slot that nobody uses (`idle_replication_slot_timeout`) from 18 on.
    pub const IDLE_SLOT_TIMEOUT: u32 = 18;
    /// From 18 on updates of a table fail that has REPLICA IDENTITY FULL and generated columns which the publication leaves out.
    pub const FULL_REFUSES_GENERATED: u32 = 18;
    /// NOT NULL is a constraint with a name, constraints may be not enforced, and generated columns virtual, from 18 on.
    pub const NOT_NULL_CONSTRAINTS: u32 = 18;
    /// CREATE INDEX, ANALYZE and REFRESH MATERIALIZED VIEW run functions with a `search_path` of the catalog alone from 17 on.
    pub const CATALOG_PATH_ALONE: u32 = 17;
    /// Partitioned tables have identities, and tables a privilege MAINTAIN, from 17 on.
    pub const PARTITIONED_IDENTITY: u32 = 17;
    pub const MAINTAIN: u32 = 17;
    /// Publications may publish generated columns from 18 on.
    pub const PUBLISHES_GENERATED: u32 = 18;
    /// Subscriptions know `origin`, `password_required`, `run_as_owner` and `streaming = parallel` from 16 on, `failover` from 17 on.
    pub const SUBSCRIPTION_ORIGIN: u32 = 16;
    pub const SUBSCRIPTION_FAILOVER: u32 = 17;
    /// A membership says whether it inherits, and whether its member may `set role`, from 16 on.
    pub const MEMBERSHIP_OPTIONS: u32 = 16;
    /// Publications have whole schemas from 15 on.
    pub const SCHEMAS_PUBLISHED: u32 = 15;
}

/// Schemas that belong to the server, to TimescaleDB or to hyperlift; nothing in them is migrated.
pub(super) const OWN_SCHEMAS: &str = "n.nspname !~ '^pg_' and n.nspname <> 'information_schema' and n.nspname <> '_hyperlift'
    and n.nspname !~ '^_?timescaledb_'";

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
    name.split('.').map(crate::name::ident).collect::<Vec<_>>().join(".")
}

/// One value of any query that yields one row.
pub async fn value<T>(client: &Client, sql: &str) -> Result<T>
where
    T: for<'a> tokio_postgres::types::FromSql<'a>,
{
    Ok(client.query_one(sql, &[]).await?.try_get(0)?)
}

/// A unique index of a relation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UniqueIndex {
    pub name: String,
    pub primary: bool,
    pub columns: Vec<String>,
    /// Unique, immediate, valid, not partial, no expression, all columns NOT NULL and none of them generated (I10).
    pub usable: bool,
    /// Has an expression.
    pub expression: bool,
    /// Some foreign key refers to it.
    pub referenced: bool,
    /// Name of the constraint it belongs to, if any.
    pub constraint: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    pub name: String,
    /// As `format_type` prints it.
    pub data_type: String,
    pub not_null: bool,
    pub generated: bool,
    pub identity: bool,
}

/// A table of the source that is migrated: plain, or a partition root with all its leaves.
#[derive(Clone, Debug)]
pub struct Relation {
    pub oid: u32,
    pub table: TableName,
    pub partitioned: bool,
    /// Partitions on all levels, those that hold no rows among them.
    pub partitions: u32,
    pub unlogged: bool,
    /// Heap and TOAST, of all leaves; bytes.
    pub bytes: u64,
    /// By the planner's statistics; 0 when it was never analysed.
    pub rows: u64,
    /// `relreplident`: d, n, f, i
    pub identity: char,
    /// The index of `REPLICA IDENTITY USING INDEX`.
    pub identity_index: Option<String>,
    pub indexes: Vec<UniqueIndex>,
    pub columns: Vec<Column>,
    /// Inherits, or is inherited from, without being partitioned.
    pub inherits: bool,
    pub has_rules: bool,
    pub owned: bool,
    /// REPLICA IDENTITY FULL does not make its updates fail.
    pub full_is_possible: bool,
    /// A leaf that has no usable identity of its own, whatever the root has.
    pub bare_leaf: Option<String>,
    /// The table is changed often, by the statistics collector.
    pub updated_rows: u64,
    pub deleted_rows: u64,
}

impl Relation {
    pub fn index(&self, name: &str) -> Option<&UniqueIndex> {
        self.indexes.iter().find(|i| i.name == name)
    }

    pub fn primary_key(&self) -> Option<&UniqueIndex> {
        self.indexes.iter().find(|i| i.primary)
    }
}

/// All user tables, the largest first. Leaves are part of their root; tables of extensions are left out.
pub async fn relations(client: &Client) -> Result<Vec<Relation>> {
    let full_refuses_generated = client.version() / 10_000 >= versions::FULL_REFUSES_GENERATED;
    let sql = format!(
        "select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind = 'p' as partitioned, c.relpersistence = 'u' as unlogged,
                c.relreplident::text as identity, c.relhasrules as has_rules,
                pg_has_role(c.relowner, 'USAGE') as owned,
                (select count(*) from pg_partition_tree(case when c.relkind = 'p' then c.oid end) where relid <> c.oid) as partitions,
                (select format('%I.%I', ln.nspname, l.relname) from pg_partition_tree(case when c.relkind = 'p' then c.oid end) tree
                   join pg_class l on l.oid = tree.relid join pg_namespace ln on ln.oid = l.relnamespace
                  where tree.isleaf and (l.relreplident = 'n'
                     or l.relreplident = 'f' and {full_refuses_generated}
                        and exists (select from pg_attribute a where a.attrelid = l.oid and a.attgenerated <> '' and not a.attisdropped)
                     or l.relreplident = 'i' and not exists (select from pg_index i where i.indrelid = l.oid and i.indisreplident)
                     or l.relreplident = 'd' and not exists (select from pg_index i where i.indrelid = l.oid and i.indisprimary and i.indimmediate))
                  limit 1) as bare_leaf,
                c.relkind = 'r' and c.oid in (select inhrelid from pg_inherits union all select inhparent from pg_inherits) as inherits,
                t.bytes, t.rows, t.updated, t.deleted
           from (select c.oid, coalesce(pg_table_size(c.oid), 0)::bigint as bytes, greatest(c.reltuples, 0)::bigint as rows,
                        pg_stat_get_tuples_updated(c.oid) as updated, pg_stat_get_tuples_deleted(c.oid) as deleted
                   from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where c.relkind = 'r' and not c.relispartition and c.relpersistence <> 't' and {OWN_SCHEMAS}
                 union all
                 select root.oid, coalesce(sum(pg_table_size(l.oid)), 0)::bigint, coalesce(sum(greatest(l.reltuples, 0)), 0)::bigint,
                        coalesce(sum(pg_stat_get_tuples_updated(l.oid)), 0)::bigint, coalesce(sum(pg_stat_get_tuples_deleted(l.oid)), 0)::bigint
                   from pg_class root
                   left join lateral (select relid from pg_partition_tree(root.oid) where isleaf) tree on true
                   left join pg_class l on l.oid = tree.relid
                  where root.relkind = 'p' and not root.relispartition and root.relpersistence <> 't' group by root.oid) t
           join pg_class c on c.oid = t.oid
           join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' and {OWN_SCHEMAS}
            and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')
          order by t.bytes desc, n.nspname, c.relname"
    );
    // The size of a table cannot be asked for while somebody holds it exclusively.
    client.batch_execute("set lock_timeout = '5s'").await?;
    let rows = client.query(&sql, &[]).await.map_err(|e| {
        let e = Error::from(e);
        if e.has_code("55P03") {
            e.hint("a table is locked exclusively (select * from pg_locks where mode = 'AccessExclusiveLock'): try again once it is free")
        } else {
            e
        }
    });
    client.batch_execute("set lock_timeout = 0").await?;
    let mut relations: Vec<Relation> = rows?
        .iter()
        .map(|r| Relation {
            oid: r.get("oid"),
            table: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")),
            partitioned: r.get("partitioned"),
            partitions: r.get::<_, i64>("partitions") as u32,
            unlogged: r.get("unlogged"),
            bytes: r.get::<_, i64>("bytes") as u64,
            rows: r.get::<_, i64>("rows") as u64,
            identity: r.get::<_, &str>("identity").chars().next().unwrap_or('d'),
            identity_index: None,
            indexes: Vec::new(),
            columns: Vec::new(),
            inherits: r.get("inherits"),
            has_rules: r.get("has_rules"),
            owned: r.get("owned"),
            full_is_possible: true,
            bare_leaf: r.get("bare_leaf"),
            updated_rows: r.get::<_, i64>("updated") as u64,
            deleted_rows: r.get::<_, i64>("deleted") as u64,
        })
        .collect();
    let oids: Vec<u32> = relations.iter().map(|r| r.oid).collect();
    let place: HashMap<u32, usize> = oids.iter().enumerate().map(|(i, o)| (*o, i)).collect();
    for r in client.query(COLUMNS, &[&oids]).await? {
        let relation = &mut relations[place[&r.get::<_, u32>("oid")]];
        relation.full_is_possible &= !(full_refuses_generated && r.get::<_, bool>("generated"));
        relation.columns.push(Column {
            name: r.get("name"),
            data_type: r.get("data_type"),
            not_null: r.get("not_null"),
            generated: r.get("generated"),
            identity: r.get("identity"),
        });
    }
    for r in client.query(UNIQUE_INDEXES, &[&oids]).await? {
        let relation = &mut relations[place[&r.get::<_, u32>("oid")]];
        let name: String = r.get("name");
        if r.get("replica_identity") {
            relation.identity_index = Some(name.clone());
        }
        relation.indexes.push(UniqueIndex {
            name,
            primary: r.get("is_primary"),
            columns: r.get("columns"),
            usable: r.get("usable"),
            expression: r.get("expression"),
            referenced: r.get("referenced"),
            constraint: r.get("constraint_name"),
        });
    }
    Ok(relations)
}

const COLUMNS: &str = "
    select a.attrelid as oid, a.attname::text as name, format_type(a.atttypid, a.atttypmod) as data_type, a.attnotnull as not_null,
           a.attgenerated <> '' as generated, a.attidentity <> '' as identity
      from pg_attribute a
     where a.attrelid = any($1) and a.attnum > 0 and not a.attisdropped
     order by a.attrelid, a.attnum";

const UNIQUE_INDEXES: &str = "
    select i.indrelid as oid, c.relname::text as name, i.indisprimary as is_primary, i.indisreplident as replica_identity,
           i.indexprs is not null as expression, k.columns, con.conname::text as constraint_name,
           exists (select from pg_constraint f where f.contype = 'f' and f.conindid = i.indexrelid) as referenced,
           i.indimmediate and i.indisvalid and i.indpred is null and i.indexprs is null and k.not_null and not k.generated as usable
      from pg_index i
      join pg_class c on c.oid = i.indexrelid
      left join pg_constraint con on con.conindid = i.indexrelid and con.contype in ('p', 'u', 'x') and con.conrelid = i.indrelid
      cross join lateral (
           select coalesce(array_agg(a.attname::text order by x.n) filter (where a.attname is not null), '{}') as columns,
                  coalesce(bool_and(a.attnotnull), false) as not_null, coalesce(bool_or(a.attgenerated <> ''), false) as generated
             from unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) with ordinality x(attnum, n)
             left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = x.attnum and x.attnum > 0) k
     where i.indrelid = any($1) and i.indisunique
     order by i.indisprimary desc, c.relname";

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
    let own = super::slot::OWN_PUBLICATIONS;
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

/// What a table looked like when it was copied: its columns, and its leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    pub oid: u32,
    pub columns: Vec<ShapeColumn>,
    /// OIDs of the partitions that hold rows.
    pub leaves: Vec<u32>,
}

/// A column of a table of the source, with types of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShapeColumn {
    /// `attnum`: another number is another column, whatever its name.
    pub number: i16,
    pub name: String,
    pub type_oid: u32,
    pub type_modifier: i32,
    /// Computed, and so not in the stream.
    pub generated: bool,
}

/// The shape of every user table whose rows are in scope, by name.
pub async fn shapes(client: &Client, scope: &Scope) -> Result<BTreeMap<String, Shape>> {
    let sql = format!(
        "select n.nspname::text as schema, c.relname::text as table, format('%I.%I', n.nspname, c.relname) as name, c.oid as oid, a.numbers, a.names, a.types, a.modifiers, a.generated,
                coalesce((select array_agg(relid::oid order by relid::oid)
                            from pg_partition_tree(case when c.relkind = 'p' then c.oid end) where isleaf), '{{}}') as leaves
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          cross join lateral (
                select coalesce(array_agg(attnum order by attnum), '{{}}') as numbers, coalesce(array_agg(attname::text order by attnum), '{{}}') as names,
                       coalesce(array_agg(atttypid order by attnum), '{{}}') as types, coalesce(array_agg(atttypmod order by attnum), '{{}}') as modifiers,
                       coalesce(array_agg(attgenerated <> '' order by attnum), '{{}}') as generated
                  from pg_attribute where attrelid = c.oid and attnum > 0 and not attisdropped) a
          where c.relkind in ('r', 'p') and not c.relispartition and c.relpersistence <> 't' and {OWN_SCHEMAS}
            and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')"
    );
    let shape = |r: &tokio_postgres::Row| {
        let (numbers, names): (Vec<i16>, Vec<String>) = (r.get("numbers"), r.get("names"));
        let (types, modifiers): (Vec<u32>, Vec<i32>) = (r.get("types"), r.get("modifiers"));
        let generated: Vec<bool> = r.get("generated");
        let column = |i: usize| ShapeColumn {
            number: numbers[i],
            name: names[i].clone(),
            type_oid: types[i],
            type_modifier: modifiers[i],
            generated: generated[i],
        };
        Shape { oid: r.get("oid"), columns: (0..numbers.len()).map(column).collect(), leaves: r.get("leaves") }
    };
    let rows = client.query(&sql, &[]).await?;
    let wanted = |r: &&tokio_postgres::Row| scope.extent(&TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("table"))) == Extent::All;
    Ok(rows.iter().filter(wanted).map(|r| (r.get("name"), shape(r))).collect())
}

/// What is not as it was, in words for the operator; partitions that were added are replicated and make no difference.
pub fn difference(before: &BTreeMap<String, Shape>, now: &BTreeMap<String, Shape>) -> Option<String> {
    if before.is_empty() {
        return None;
    }
    let new = now.keys().filter(|t| !before.contains_key(*t)).map(|t| format!("{t} is new and not part of this migration"));
    let changed = before.iter().filter_map(|(table, was)| {
        let Some(is) = now.get(table) else { return Some(format!("{table} is gone or renamed")) };
        match () {
            () if was.oid != is.oid || was.columns != is.columns => Some(format!("{table} has other columns")),
            () if was.leaves.iter().any(|leaf| !is.leaves.contains(leaf)) => Some(format!("a partition of {table} was dropped or detached")),
            () => None,
        }
    });
    let all: Vec<String> = new.chain(changed).collect();
    all.first().map(|first| if all.len() > 1 { format!("{first}, and {} more", all.len() - 1) } else { first.clone() })
}

/// What a column has by default.
#[derive(Clone, Debug)]
pub struct ColumnDefault {
    pub name: String,
    /// An expression, for rows to come.
    pub default: Option<String>,
    /// The value of rows from before the column.
    pub missing: Option<String>,
    pub not_null: bool,
}

/// Of all columns of a table that are not computed; empty for one that is gone.
pub async fn column_defaults(client: &Client, oid: u32) -> Result<Vec<ColumnDefault>> {
    let sql = "select a.attname::text as name, pg_get_expr(d.adbin, d.adrelid) as default, a.attnotnull as not_null,
                      case when a.atthasmissing then (a.attmissingval::text::text[])[1] end as missing
                 from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
                where a.attrelid = $1 and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''";
    let column = |r: &tokio_postgres::Row| ColumnDefault {
        name: r.get("name"),
        default: r.get("default"),
        missing: r.get("missing"),
        not_null: r.get("not_null"),
    };
    Ok(client.query(sql, &[&oid]).await?.iter().map(column).collect())
}

/// A partition on the source of what is one table on the target.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Partition {
    /// OID of the root.
    pub root: u32,
    /// The condition that its rows satisfy, and no others of the root; `None` where nothing says so. Those of a default partition depend
    /// on what other partitions there are, those of a hash partition on OIDs of the source.
    pub bounds: Option<String>,
}

/// The partitions below these roots, on all levels, by OID.
pub async fn partitions(client: &Client, roots: &[u32]) -> Result<BTreeMap<u32, Partition>> {
    let sql = "select t.relid::oid as oid, r.root, pg_get_partition_constraintdef(t.relid) as bounds
                 from unnest($1::oid[]) r(root) cross join lateral pg_partition_tree(r.root) t where t.relid <> r.root";
    Ok(client.query(sql, &[&roots]).await?.iter().map(|r| (r.get("oid"), partition_of(r))).collect())
}

/// A partition by its OID, and all leaves of its root; `None` for a table that is none, or is gone.
pub async fn partition(client: &Client, oid: u32) -> Result<Option<(Partition, Vec<u32>)>> {
    let sql = "select pg_partition_root(oid)::oid as root, pg_get_partition_constraintdef(oid) as bounds,
                      array(select relid::oid from pg_partition_tree(pg_partition_root(oid)) where isleaf) as leaves
                 from pg_class where oid = $1 and relispartition";
    Ok(client.query_opt(sql, &[&oid]).await?.map(|r| (partition_of(&r), r.get("leaves"))))
}

fn partition_of(row: &tokio_postgres::Row) -> Partition {
    let bounds = row.get::<_, Option<String>>("bounds").filter(|b| !b.contains("satisfies_hash_partition"));
    Partition { root: row.get("root"), bounds }
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

/// The leaves of a partition root.
pub async fn leaves(client: &Client, root: &TableName) -> Result<Vec<TableName>> {
    let rows = client
        .query(
            "select n.nspname::text as schema, c.relname::text as name from pg_partition_tree(to_regclass($1)) t
               join pg_class c on c.oid = t.relid join pg_namespace n on n.oid = c.relnamespace where t.isleaf",
            &[&root.sql()],
        )
        .await?;
    Ok(rows.iter().map(|r| TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"))).collect())
}

/// A session or prepared transaction that has been holding a transaction open.
#[derive(Clone, Debug)]
pub struct Holder {
    pub pid: i32,
    pub who: String,
    pub state: String,
    pub seconds: u64,
    pub query: String,
}

/// Who holds a transaction id (or, with `below`, one older than that), in any database, but for hyperlift itself. What the sessions of others
/// do is seen only with the rights of `pg_read_all_stats`.
pub async fn holders(client: &Client, below: Option<u64>) -> Result<Vec<Holder>> {
    // age(xid) grows with age; a 32-bit xid older than the horizon has a greater age than the horizon's own.
    let horizon = below.map_or_else(String::new, |x| format!("and age(s.backend_xid) > age('{}'::text::xid)", (x as u32).max(3)));
    let prepared_horizon = below.map_or_else(String::new, |x| format!("where age(p.transaction) > age('{}'::text::xid)", (x as u32).max(3)));
    let any = if below.is_some() { "" } else { "and s.backend_xid is not null" };
    let sql = format!(
        "select s.pid, s.usename::text || '@' || coalesce(s.datname::text, '-') || coalesce(' ' || nullif(s.application_name, ''), '') as who,
                coalesce(s.state, s.backend_type, 'in transaction') as state, coalesce(extract(epoch from now() - s.xact_start), 0)::float8::bigint as seconds,
                left(regexp_replace(coalesce(s.query, ''), '\\s+', ' ', 'g'), 80) as query
           from pg_stat_activity s
          where s.pid <> pg_backend_pid() and s.usename is not null and s.application_name !~ '^hyperlift/' {any} {horizon}
          union all
         select 0, 'prepared ' || p.gid || ' of ' || p.owner || '@' || p.database, 'prepared',
                extract(epoch from now() - p.prepared)::float8::bigint, ''
           from pg_prepared_xacts p {prepared_horizon}
          order by seconds desc limit 20"
    );
    let rows = client.query(&sql, &[]).await?;
    Ok(rows
        .iter()
        .map(|r| Holder {
            pid: r.get("pid"),
            who: r.get("who"),
            state: r.get("state"),
            seconds: r.get::<_, i64>("seconds").max(0) as u64,
            query: r.get("query"),
        })
        .collect())
}

/// Prepared transactions of this database.
pub async fn prepared_transactions(client: &Client) -> Result<i64> {
    value(client, "select count(*) from pg_prepared_xacts where database = current_database()").await
}

/// Who holds a lock on a table, in words: `app@shop psql, idle in transaction, pid 4411`; empty when nobody is seen.
pub async fn lock_holders(client: &Client, table: &TableName) -> Result<String> {
    let rows = client
        .query(
            "select distinct format('%s@%s%s, %s, pid %s', a.usename, a.datname, ' ' || nullif(a.application_name, ''), a.state, a.pid) as who
               from pg_locks l join pg_stat_activity a on a.pid = l.pid
              where l.relation = to_regclass($1) and l.granted and l.pid <> pg_backend_pid() limit 3",
            &[&table.sql()],
        )
        .await?;
    Ok(rows.iter().map(|r| r.get::<_, String>("who")).collect::<Vec<_>>().join("; "))
}

/// Ends sessions of this migration that a killed process left behind in this database; returns how many. Both databases may be on one
/// server.
pub async fn end_leftovers(client: &Client, migration: &str) -> Result<i64> {
    let pattern = format!("hyperlift/{migration}/%");
    let mut ended = 0;
    // Terminated is not gone: until then it may still commit what it was doing.
    for _ in 0..100 {
        let row = client
            .query_one(
                "select count(pg_terminate_backend(pid)) as ended from pg_stat_activity where application_name like $1 and pid <> pg_backend_pid()
                    and datname = current_database() and backend_start < (select backend_start from pg_stat_activity where pid = pg_backend_pid())",
                &[&pattern],
            )
            .await;
        let left: i64 = match row {
            Ok(row) => row.get("ended"),
            // One test server has a single session and no activity to look at.
            Err(e) if e.as_db_error().is_some() => 0,
            Err(e) => return Err(e.into()),
        };
        ended = ended.max(left);
        if left == 0 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    Ok(ended)
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

/// The end of the source's WAL that is flushed.
pub async fn flushed_lsn(client: &Client) -> Result<Lsn> {
    value::<String>(client, "select pg_current_wal_flush_lsn()::text").await?.parse()
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

/// A commit of our own, flushed: every transaction that committed before has a smaller LSN. Works on an idle source, too.
pub async fn mark_end_of_stream(client: &Client) -> Result<Lsn> {
    client.batch_execute("begin; select pg_logical_emit_message(true, 'hyperlift', 'end of stream'); commit").await?;
    flushed_lsn(client).await
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_changed_source_is_named_and_a_new_partition_is_not_a_change() {
        let shape = |oid: u32, column: &str, leaves: &[u32]| {
            let column = ShapeColumn { number: 1, name: column.into(), type_oid: 23, type_modifier: -1, generated: false };
            Shape { oid, columns: vec![column], leaves: leaves.to_vec() }
        };
        let map = |list: &[(&str, Shape)]| list.iter().map(|(t, s)| ((*t).to_owned(), s.clone())).collect::<BTreeMap<_, _>>();
        let (t, p) = (shape(1, "a", &[]), shape(2, "b", &[7, 8]));
        let before = map(&[("a.t", t.clone()), ("a.p", p.clone())]);
        assert_eq!(difference(&before, &map(&[("a.t", t.clone()), ("a.p", shape(2, "b", &[7, 8, 9]))])), None);
        for (now, words) in [
            (map(&[("a.t", shape(1, "x", &[])), ("a.p", p.clone())]), "a.t has other columns"),
            (map(&[("a.t", t.clone()), ("a.p", shape(2, "b", &[7]))]), "a partition of a.p was dropped or detached"),
            (map(&[("a.p", p.clone())]), "a.t is gone or renamed"),
            (map(&[("a.t", t), ("a.p", p), ("a.n", shape(3, "c", &[]))]), "a.n is new and not part of this migration"),
        ] {
            assert_eq!(difference(&before, &now).as_deref(), Some(words));
        }
    }
}
