//! What a database has apart from the objects that are made on the target and the rows that are replicated: each with what becomes of it.

use super::exclusion::Omitted;
use crate::{
    error::Result,
    name::TableName,
    pg::{client::Client, own::OWN_PUBLICATIONS},
    plan::Plan,
    scope::Extent,
};

/// Something that does not arrive, or not as everything else does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// The name of preflight's check.
    pub check: String,
    pub object: String,
    /// What becomes of it.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
    /// It was wished for, and has been made in that way.
    pub is_made_as_wished: bool,
}

/// Whether publications and subscriptions are wished for, and which publications are no matter of the application: parameters 1 to 3.
const APART: &str = r"
select 'publications' as check, 'PUBLICATION ' || quote_ident(pubname) as object, 'not created on the target' as reason,
       'give --publications, or create it there once the application has moved' as fix
  from pg_publication where not $1::bool and pubname !~ $3::text
union all
select 'subscriptions', 'SUBSCRIPTION ' || quote_ident(subname),
       case when not $2::bool then 'not created on the target: two subscribers would fight for one slot'
            when current_setting('is_superuser') = 'on' then 'created on the target disabled and without its slot, which the one of the source reads'
            else 'not created on the target: only a superuser of the source may read its connection' end,
       case when $2 and current_setting('is_superuser') = 'on' then format('before the cutover: alter subscription %I disable on the source; '
                 'behind it the one of the target takes over from where that one stopped, as README says', subname)
            else 'let it end with the source, then create it there' || case when $2 then '' else '; --subscriptions creates it disabled' end end
  from pg_subscription where subdbid = (select oid from pg_database where datname = current_database())
union all
select 'database settings', 'SETTING ' || setting || ' of the database', 'not set on the target', 'alter database ... set it there, if it fits'
  from (select unnest(setconfig) as setting from pg_db_role_setting
         where setrole = 0 and setdatabase = (select oid from pg_database where datname = current_database())) s
union all
select 'grants on the database', 'GRANTS on the database', 'stay on the source: the database and its users may be others on the target',
       'grant connect, create and temporary on the target as needed'
  from pg_database where datname = current_database() and datacl is not null
union all
select 'comment on the database', 'COMMENT on the database', 'stays on the source', 'comment on database ... is ' || quote_literal(shobj_description(oid, 'pg_database'))
  from pg_database where datname = current_database() and shobj_description(oid, 'pg_database') is not null
union all
select 'security labels', 'SECURITY LABELS of ' || provider, 'stay on the source, ' || count(*) || ' of them', 'security label ... on the target'
  from pg_seclabel group by provider
union all
select 'tablespaces', 'TABLESPACE ' || quote_ident(t.spcname),
       'goes to the default tablespace of the target: ' || string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by n.nspname, c.relname),
       'alter ... set tablespace there after the migration'
  from pg_class c join pg_namespace n on n.oid = c.relnamespace join pg_tablespace t on t.oid = c.reltablespace
 where n.nspname !~ '^(pg_|information_schema)' group by t.spcname
union all
select 'unlogged tables', 'TABLE ' || format('%I.%I', n.nspname, c.relname), 'unlogged, copied once: later changes are in no stream',
       'alter table ... set logged on the source before the copy, or move what changed by hand after the cutover'
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where c.relkind = 'r' and c.relpersistence = 'u' and n.nspname !~ '^(pg_|information_schema)'
union all
select 'large objects', 'LARGE OBJECTS', count(*) || ' of them, copied once with their ids: later changes are in no stream',
       'leave them as they are until the cutover, or move what changed by hand after it'
  from pg_largeobject_metadata having count(*) > 0
union all
select 'rows of extensions', 'EXTENSION ' || quote_ident(e.extname),
       'your rows in ' || string_agg(format('%I.%I', n.nspname, c.relname), ', ' order by c.relname) || ' are copied once: later changes do not follow',
       'leave them as they are until the cutover, or move what changed by hand after it'
  from pg_extension e join pg_class c on c.oid = any(e.extconfig) join pg_namespace n on n.oid = c.relnamespace
 where e.extname <> 'timescaledb' group by e.extname
order by 1, 2";

/// Everything of that kind that is in scope.
pub async fn apart(source: &Client, plan: &Plan) -> Result<Vec<Apart>> {
    let scope = &plan.scope;
    let rows = source.query(APART, &[&plan.publications, &plan.subscriptions, &OWN_PUBLICATIONS]).await?;
    let apart = |r: &tokio_postgres::Row| {
        let (check, reason): (String, String) = (r.get("check"), r.get("reason"));
        let is_made_as_wished = check == "subscriptions" && !reason.starts_with("not ");
        Apart { check, object: r.get("object"), reason, fix: r.get("fix"), is_made_as_wished }
    };
    let mut found: Vec<Apart> = rows.iter().map(apart).collect();
    found.retain(|a| match a.object.split_once(' ') {
        Some(("TABLE", name)) => TableName::parse(name).is_none_or(|table| scope.extent(&table) == Extent::All),
        Some(("EXTENSION", name)) => scope.has_extension(&name.trim_matches('"').replace("\"\"", "\"")),
        _ => true,
    });
    Ok(found)
}

/// Objects in scope that only a superuser may make (the pages of CREATE TYPE, OPERATOR CLASS, LANGUAGE and so on in PostgreSQL's
/// documentation), as `pg_identify_object` names them.
pub async fn made_by_superusers(source: &Client, omitted: &Omitted) -> Result<Vec<String>> {
    let sql = "
        with found (class, oid) as (
            select 'pg_type'::regclass, oid from pg_type where typtype = 'b' and typcategory <> 'A'
            union all select 'pg_proc'::regclass, p.oid from pg_proc p join pg_language l on l.oid = p.prolang
                       where p.prokind <> 'a' and (p.proleakproof or not l.lanpltrusted and l.lanname <> 'sql')
            union all select 'pg_proc'::regclass, aggfnoid from pg_aggregate where aggtranstype = 'internal'::regtype or aggmtranstype = 'internal'::regtype
            union all select 'pg_opclass'::regclass, oid from pg_opclass union all select 'pg_opfamily'::regclass, oid from pg_opfamily
            union all select 'pg_am'::regclass, oid from pg_am union all select 'pg_language'::regclass, oid from pg_language
            union all select 'pg_cast'::regclass, oid from pg_cast where castmethod = 'b'
            union all select 'pg_foreign_data_wrapper'::regclass, oid from pg_foreign_data_wrapper
            union all select 'pg_event_trigger'::regclass, oid from pg_event_trigger
            union all select 'pg_ts_parser'::regclass, oid from pg_ts_parser union all select 'pg_ts_template'::regclass, oid from pg_ts_template)
        select f.class::oid as class, f.oid, i.type || ' ' || i.identity as object
          from found f cross join lateral pg_identify_object(f.class, f.oid, 0) i
         where f.oid >= 16384 and coalesce(i.schema, '') !~ '^(pg_|information_schema|_hyperlift|_?timescaledb_)'
           and not exists (select from pg_depend d where d.classid = f.class and d.objid = f.oid and d.deptype = 'e')
         order by 3";
    let rows = source.query(sql, &[]).await?;
    Ok(rows.iter().filter(|r| !omitted.has((r.get("class"), r.get("oid")))).map(|r| r.get("object")).collect())
}

/// Columns whose values name other objects (T-10): `app.jobs.handler regprocedure`.
pub async fn object_references(source: &Client) -> Result<Vec<String>> {
    let sql = "select format('%I.%I.%I %s', n.nspname, c.relname, a.attname, format_type(a.atttypid, null)) as found
                 from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
                where a.atttypid in ('regclass'::regtype, 'regproc'::regtype, 'regprocedure'::regtype, 'regoper'::regtype, 'regoperator'::regtype,
                          'regtype'::regtype, 'regrole'::regtype, 'regnamespace'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype,
                          'regcollation'::regtype)
                  and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p') and not c.relispartition
                  and n.nspname !~ '^(pg_|information_schema|_hyperlift|_?timescaledb_)' order by 1";
    Ok(source.query(sql, &[]).await?.iter().map(|r| r.get("found")).collect())
}

/// A table or sequence of an extension that may hold rows of the user (`pg_extension_config_dump`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExtensionTable {
    pub extension: String,
    /// Quoted.
    pub table: String,
    pub sequence: bool,
    /// `where ...`, which the user's own rows satisfy; often empty.
    pub condition: String,
    /// Quoted columns of the table.
    pub columns: String,
}

pub async fn extension_tables(source: &Client) -> Result<Vec<ExtensionTable>> {
    let sql = "select e.extname::text as extension, format('%I.%I', n.nspname, c.relname) as name, c.relkind = 'S' as sequence,
                      coalesce(u.condition, '') as condition,
                      (select coalesce(string_agg(quote_ident(attname), ', ' order by attnum), '') from pg_attribute
                        where attrelid = c.oid and attnum > 0 and not attisdropped and attgenerated = '') as columns
                 from pg_extension e cross join lateral unnest(e.extconfig, e.extcondition) with ordinality u(oid, condition, n)
                 join pg_class c on c.oid = u.oid join pg_namespace n on n.oid = c.relnamespace
                where e.extname <> 'timescaledb' order by e.extname, u.n";
    let table = |r: &tokio_postgres::Row| ExtensionTable {
        extension: r.get("extension"),
        table: r.get("name"),
        sequence: r.get("sequence"),
        condition: r.get("condition"),
        columns: r.get("columns"),
    };
    Ok(source.query(sql, &[]).await?.iter().map(table).collect())
}
