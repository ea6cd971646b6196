//! Materialised views.

use crate::{
    error::Result,
    name::TableName,
    pg::{client::Client, own::USER_SCHEMAS},
};

/// Materialised views that are populated, in the order of their dependencies.
pub async fn populated_matviews(client: &Client) -> Result<Vec<TableName>> {
    let sql = format!(
        "with recursive view as (
             select c.oid, n.nspname, c.relname, c.relkind, c.relispopulated from pg_class c join pg_namespace n on n.oid = c.relnamespace
              where c.relkind in ('m', 'v') and {USER_SCHEMAS}),
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
