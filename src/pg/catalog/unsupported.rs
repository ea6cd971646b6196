//! What a database has besides the objects that a dump holds and the rows that replication carries: each with what becomes of it.

use super::exclusion::Excluded;
use crate::{
    error::Result,
    name::TableName,
    pg::{
        client::Client,
        object::{ObjectKind, ObjectRef},
        own::{NOT_OF_EXTENSION, OWN_PUBLICATION, USER_SCHEMAS, in_user_schemas},
    },
    plan::Plan,
    scope::Inclusion,
};

/// Something that does not reach the target, or not as everything else does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unsupported {
    /// The name of preflight's check.
    pub check: String,
    pub object: ObjectRef,
    /// What becomes of it.
    pub reason: String,
    /// What to do about it.
    pub fix: String,
    /// It was requested, and is created in the form that the reason describes.
    pub is_created: bool,
}

/// Everything of that kind that is in scope.
pub async fn find(source: &Client, plan: &Plan) -> Result<Vec<Unsupported>> {
    let in_scope = |r: &&tokio_postgres::Row| match (ObjectRef::from(r.get::<_, &str>("object")).kind, r.get::<_, Option<&str>>("name")) {
        (ObjectKind::Table, Some(name)) => plan.scope.inclusion(&TableName::new(r.get::<_, &str>("schema"), name)) == Inclusion::All,
        (ObjectKind::Extension, Some(name)) => plan.scope.has_extension(name),
        _ => true,
    };
    let unsupported = |r: &tokio_postgres::Row| Unsupported {
        check: r.get("check"),
        object: ObjectRef::from(r.get::<_, &str>("object")),
        reason: r.get("reason"),
        fix: r.get("fix"),
        is_created: r.get("is_created"),
    };
    let rows = source.query(&in_user_schemas(include_str!("unsupported.sql")), &[&plan.publications, &plan.subscriptions, &OWN_PUBLICATION]).await?;
    Ok(rows.iter().filter(in_scope).map(unsupported).collect())
}

/// Objects in scope that only a superuser may create (the pages of CREATE TYPE, OPERATOR CLASS, LANGUAGE and so on in PostgreSQL's
/// documentation), as `pg_identify_object` names them.
pub async fn made_by_superusers(source: &Client, excluded: &Excluded) -> Result<Vec<String>> {
    let rows = source.query(&in_user_schemas(include_str!("superusers.sql")), &[]).await?;
    Ok(rows.iter().filter(|r| !excluded.has((r.get("class"), r.get("oid")))).map(|r| r.get("object")).collect())
}

/// Columns whose values name other objects: `app.jobs.handler regprocedure`.
pub async fn object_references(source: &Client) -> Result<Vec<String>> {
    let sql = format!(
        "select format('%I.%I.%I %s', n.nspname, c.relname, a.attname, format_type(a.atttypid, null)) as found
                 from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace
                where a.atttypid in ('regclass'::regtype, 'regproc'::regtype, 'regprocedure'::regtype, 'regoper'::regtype, 'regoperator'::regtype,
                          'regtype'::regtype, 'regrole'::regtype, 'regnamespace'::regtype, 'regconfig'::regtype, 'regdictionary'::regtype,
                          'regcollation'::regtype)
                  and a.attnum > 0 and not a.attisdropped and c.relkind in ('r', 'p') and not c.relispartition
                  and {USER_SCHEMAS} and {NOT_OF_EXTENSION} order by 1"
    );
    Ok(source.query(&sql, &[]).await?.iter().map(|r| r.get("found")).collect())
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
