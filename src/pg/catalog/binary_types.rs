//! Types whose binary form is the same on all servers.

use std::collections::HashMap;

use crate::{error::Result, pg::client::Client};

/// The binary format of the types of a database, by OID. Types of the same name here have the same format on all servers and versions. A
/// type that is missing here has to be sent as text.
///
/// Included are the types that come with PostgreSQL (their OIDs below 10000 are the same everywhere), domains over them, and enums, which
/// are sent as their label. Left out are types that name objects by OID (reg*); xml, whose binary format has an encoding of its own; and
/// arrays, composites and ranges of user-defined types, which hold OIDs of those types.
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
