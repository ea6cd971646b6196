//! The tables that are migrated: columns, keys, sizes.

use std::collections::HashMap;

use super::versions;
use crate::{
    error::{Error, Result},
    name::TableName,
    pg::{client::Client, own::OWN_SCHEMAS},
};

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
