//! What the filters of a migration mean for this very source, and partitions that become one table: what is left out besides what they
//! name, and what stands against it.
//!
//! A view of a table that is left out cannot be made, nor a foreign key to it: PostgreSQL's own record of dependencies (`pg_depend`,
//! documentation 5.15) tells all of them, before anything is begun.

use std::collections::{HashMap, HashSet};

use crate::{
    error::Result,
    name::{TableName, ident},
    pg::{catalog, client::Client, own::OWN_SCHEMAS},
    plan::{IdentityChoice, Plan},
    scope::{Extent, Kind, Scope},
};

/// OIDs of a system catalog and of a row in it: an object, as `pg_depend` and `pg_dump` name it.
pub type ObjectId = (u32, u32);

/// `pg_class`, as an OID.
pub const PG_CLASS: u32 = 1259;
const PG_NAMESPACE: u32 = 2615;
const PG_EXTENSION: u32 = 3079;

/// What is left out.
#[derive(Clone, Debug, Default)]
pub struct Omitted {
    objects: HashSet<ObjectId>,
    /// Names of relations (tables, indexes, sequences, views) among them.
    relations: HashSet<TableName>,
    /// Tables among them that this user cannot read: `pg_dump` must not even try to lock them.
    pub unreadable: Vec<TableName>,
    /// For the operator, one object a line: `view public.v: needs table public.t`.
    pub lines: Vec<String>,
    /// What cannot be as the filters say, each with its reason.
    pub problems: Vec<String>,
    /// Filters that match nothing.
    pub unmatched: Vec<String>,
}

impl Omitted {
    pub fn has(&self, object: ObjectId) -> bool {
        self.objects.contains(&object)
    }

    pub fn has_relation(&self, name: &TableName) -> bool {
        self.relations.contains(name)
    }

    #[cfg(test)]
    pub fn of(objects: &[ObjectId], relations: &[TableName]) -> Self {
        Self { objects: objects.iter().copied().collect(), relations: relations.iter().cloned().collect(), ..Self::default() }
    }

    pub fn is_empty(&self) -> bool {
        self.objects.is_empty()
    }
}

/// A table, view or foreign table of the source.
struct Relation {
    oid: u32,
    name: TableName,
    /// Of the partition root, for a partition.
    root: Option<u32>,
    is_table: bool,
    readable: bool,
}

struct Index {
    oid: u32,
    name: TableName,
    table: TableName,
    /// Why it cannot be left out.
    needed: Option<&'static str>,
    /// The partitioned index to which it belongs.
    parent: Option<u32>,
}

/// Resolves the plan's filters, and its tables without partitions, against the catalog. Without any nothing is asked.
pub async fn resolve(client: &Client, plan: &Plan) -> Result<Omitted> {
    if plan.scope.is_everything() && plan.one_table.is_empty() && plan.hypertables.is_empty() {
        return Ok(Omitted::default());
    }
    // Of lists of thousands of objects the planner knows nothing, and of a catalog that was never analysed hardly more: where it believes
    // that a few rows come it joins by comparing all with all.
    client.batch_execute("set enable_nestloop = off").await?;
    let found = resolve_all(client, plan).await?;
    client.batch_execute("reset enable_nestloop").await?;
    Ok(found)
}

async fn resolve_all(client: &Client, plan: &Plan) -> Result<Omitted> {
    let scope = &plan.scope;
    let relations = relations(client).await?;
    let names: HashMap<u32, &TableName> = relations.iter().map(|r| (r.oid, &r.name)).collect();
    // A partition goes with its root.
    let extent = |r: &Relation| scope.extent(r.root.and_then(|root| names.get(&root).copied()).unwrap_or(&r.name));
    let is_merged = |r: &Relation| r.root.and_then(|root| names.get(&root)).is_some_and(|root| plan.is_one_table(root));
    let (kept, left): (Vec<&Relation>, Vec<&Relation>) = relations.iter().partition(|r| extent(r) != Extent::Nothing && !is_merged(r));
    if left.is_empty() && scope.is_everything() {
        return Ok(Omitted::default());
    }
    let kept: Vec<u32> = kept.iter().map(|r| r.oid).collect();
    let schemas = named(client, "select oid, nspname::text as name from pg_namespace n where true", true).await?;
    let extensions =
        named(client, "select oid, extname::text as name from pg_extension where extname not in ('plpgsql', 'timescaledb')", false).await?;
    let indexes = if scope.rules().any(|(_, r)| r.kind == Kind::Index) { indexes(client, plan).await? } else { Vec::new() };

    let mut found = Omitted {
        unreadable: left.iter().filter(|r| r.is_table && !r.readable).map(|r| r.name.clone()).collect(),
        unmatched: unmatched(scope, &relations, &schemas, &extensions, &indexes),
        ..Omitted::default()
    };
    for r in &relations {
        let Some(root) = r.root.and_then(|root| names.get(&root)) else { continue };
        if let Some(problem) = partition_problem(scope, &r.name, root) {
            found.problems.push(problem);
        }
    }
    let mut seeds: Vec<ObjectId> = left.iter().map(|r| (PG_CLASS, r.oid)).collect();
    let needed = if scope.chooses_tables() { needed_schemas(client, &kept).await? } else { HashSet::new() };
    let out =
        |oid: u32, name: &str| scope.excludes_schema(name) || (scope.chooses_tables() && !scope.includes_schema(name) && !needed.contains(&oid));
    seeds.extend(schemas.iter().filter(|(oid, name)| out(*oid, name)).map(|(oid, _)| (PG_NAMESPACE, *oid)));
    seeds.extend(extensions.iter().filter(|(_, name)| !scope.has_extension(name)).map(|(oid, _)| (PG_EXTENSION, *oid)));
    for i in indexes.iter().filter(|i| !scope.has_index(&i.name) && scope.extent(&i.table) != Extent::Nothing) {
        match (i.needed, i.parent) {
            // Not asked for is not excluded.
            _ if !scope.excludes_index(&i.name) && (i.needed.is_some() || i.parent.is_some()) => {}
            (Some(why), _) => found.problems.push(format!("index {} cannot be left out: {why} of {}", i.name, i.table)),
            (None, Some(parent)) if indexes.iter().any(|p| p.oid == parent && scope.has_index(&p.name)) => {
                found
                    .problems
                    .push(format!("index {} of partition {} cannot be left out alone: it belongs to an index of the root", i.name, i.table));
            }
            (None, _) => seeds.push((PG_CLASS, i.oid)),
        }
    }
    close(client, &seeds, (&kept, plan.publications), &mut found).await?;
    for key in catalog::foreign_keys(client).await? {
        if scope.extent(&key.from) == Extent::All && scope.extent(&key.to) == Extent::Structure {
            found.lines.push(format!("rows of {}: foreign key {} of {} stays NOT VALID", key.to, key.name, key.from));
        }
    }
    found.lines.sort();
    found.problems.sort();
    Ok(found)
}

/// What would go with these tables and their partitions, one object a line.
pub async fn hanging_on(client: &Client, tables: &[TableName]) -> Result<Vec<String>> {
    let relations = relations(client).await?;
    let names: HashMap<u32, &TableName> = relations.iter().map(|r| (r.oid, &r.name)).collect();
    let is_one = |r: &&Relation| tables.contains(r.root.and_then(|root| names.get(&root).copied()).unwrap_or(&r.name));
    let seeds: Vec<ObjectId> = relations.iter().filter(is_one).map(|r| (PG_CLASS, r.oid)).collect();
    let mut found = Omitted::default();
    close(client, &seeds, (&[], false), &mut found).await?;
    Ok(found.lines)
}

async fn relations(client: &Client) -> Result<Vec<Relation>> {
    let sql = format!(
        "select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind in ('r', 'p') as is_table,
                case when c.relispartition then pg_partition_root(c.oid)::oid end as root,
                has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select') as readable
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p', 'f', 'v', 'm') and c.relpersistence <> 't' and {OWN_SCHEMAS}
            and not exists (select from pg_depend d where d.classid = 'pg_class'::regclass and d.objid = c.oid and d.deptype = 'e')"
    );
    let relation = |r: &tokio_postgres::Row| Relation {
        oid: r.get("oid"),
        name: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")),
        root: r.get("root"),
        is_table: r.get("is_table"),
        readable: r.get("readable"),
    };
    Ok(client.query(&sql, &[]).await?.iter().map(relation).collect())
}

async fn named(client: &Client, sql: &str, schemas: bool) -> Result<Vec<(u32, String)>> {
    let sql = if schemas { format!("{sql} and {OWN_SCHEMAS}") } else { sql.to_owned() };
    Ok(client.query(&sql, &[]).await?.iter().map(|r| (r.get("oid"), r.get("name"))).collect())
}

async fn indexes(client: &Client, plan: &Plan) -> Result<Vec<Index>> {
    let sql = format!(
        "select i.indexrelid as oid, n.nspname::text as schema, c.relname::text as name, tn.nspname::text as table_schema, t.relname::text as table_name,
                i.indisprimary as is_primary, i.indisreplident as is_identity,
                (select inhparent from pg_inherits where inhrelid = i.indexrelid) as parent
           from pg_index i
           join pg_class c on c.oid = i.indexrelid join pg_namespace n on n.oid = c.relnamespace
           join pg_class t on t.oid = i.indrelid join pg_namespace tn on tn.oid = t.relnamespace
          where {OWN_SCHEMAS}"
    );
    let index = |r: &tokio_postgres::Row| {
        let name = TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name"));
        let table = TableName::new(r.get::<_, &str>("table_schema"), r.get::<_, &str>("table_name"));
        let planned = plan.identity(&table) == Some(&IdentityChoice::Index(name.name.clone()));
        let needed = match (r.get("is_primary"), planned || r.get("is_identity")) {
            (true, _) => Some("replay finds rows by it; it is the primary key"),
            (_, true) => Some("replay finds rows by it; it is the replica identity"),
            _ => None,
        };
        Index { oid: r.get("oid"), name, table, needed, parent: r.get("parent") }
    };
    Ok(client.query(&sql, &[]).await?.iter().map(index).collect())
}

/// Filters that name nothing of the source: most likely they are mistyped.
fn unmatched(scope: &Scope, relations: &[Relation], schemas: &[(u32, String)], extensions: &[(u32, String)], indexes: &[Index]) -> Vec<String> {
    let matches_any = |rule: &crate::scope::Rule| match rule.kind {
        Kind::Schema => schemas.iter().any(|(_, name)| rule.matches_name(name)),
        Kind::Extension => extensions.iter().any(|(_, name)| rule.matches_name(name)),
        Kind::Table => relations.iter().any(|r| rule.matches(&r.name)),
        Kind::Data => relations.iter().any(|r| r.is_table && rule.matches(&r.name)),
        Kind::Index => indexes.iter().any(|i| rule.matches(&i.name)),
    };
    scope.rules().filter(|(_, rule)| !matches_any(rule)).map(|(flag, rule)| format!("{flag} {rule}")).collect()
}

/// The filters want a partition to be treated otherwise than its root.
fn partition_problem(scope: &Scope, partition: &TableName, root: &TableName) -> Option<String> {
    let named = |kind: Kind, include: bool| {
        let rules = if include { &scope.include } else { &scope.exclude };
        rules.iter().any(|r| r.kind == kind && r.matches(partition))
    };
    let what = match scope.extent(root) {
        Extent::Nothing if !scope.is_chosen(root) && named(Kind::Table, true) => "migrated alone",
        Extent::Structure | Extent::All if scope.excludes(partition) => "left out alone",
        Extent::All if named(Kind::Data, false) => "left without its rows alone",
        _ => return None,
    };
    Some(format!("{partition} cannot be {what}: it is a partition of {root}"))
}

/// Schemas that hold something which these relations need: types of columns, functions of defaults, themselves. Other relations are
/// not followed.
async fn needed_schemas(client: &Client, relations: &[u32]) -> Result<HashSet<u32>> {
    let sql = "
        with recursive need(classid, objid) as (
            select 'pg_class'::regclass::oid, o from unnest($1::oid[]) o
             union
            select e.classid, e.objid from need cross join lateral (
                select d.refclassid as classid, d.refobjid as objid from pg_depend d where d.classid = need.classid and d.objid = need.objid
                 union all
                select d.classid, d.objid from pg_depend d
                 where d.refclassid = need.classid and d.refobjid = need.objid and d.deptype in ('a', 'i')
                   and need.classid in ('pg_class'::regclass, 'pg_type'::regclass)) e
             where not (e.classid = 'pg_class'::regclass and e.objid not in (select o from unnest($1::oid[]) o)
                        and exists (select from pg_class c where c.oid = e.objid and c.relkind in ('r', 'p', 'f', 'v', 'm'))))
        select objid as oid from need where classid = 'pg_namespace'::regclass";
    Ok(client.query(sql, &[&relations]).await?.iter().map(|r| r.get("oid")).collect())
}

/// Everything that cannot be without the seeds. A sequence stays that a kept table's default counts with, whoever owns it.
async fn close(client: &Client, seeds: &[ObjectId], (kept, publications): (&[u32], bool), found: &mut Omitted) -> Result<()> {
    let sql = "
        with recursive kept as (select o as oid from unnest($3::oid[]) o),
        seed as (select c as classid, o as objid from unnest($1::oid[], $2::oid[]) as s(c, o)),
        -- sequences that defaults of kept tables count with
        counting as (
            select d.refobjid as oid from pg_depend d join pg_attrdef a on a.oid = d.objid
             where d.classid = 'pg_attrdef'::regclass and d.refclassid = 'pg_class'::regclass and a.adrelid in (select oid from kept)
               and d.refobjid in (select seqrelid from pg_sequence)),
        gone(classid, objid) as (
            select classid, objid from seed
             union
            select e.classid, e.objid from gone cross join lateral (
                select d.classid, d.objid from pg_depend d
                 where d.refclassid = gone.classid and d.refobjid = gone.objid and d.deptype <> 'p'
                   and not (d.classid = 'pg_class'::regclass and d.deptype = 'a' and d.objid in (select oid from counting))
                 union all
                -- the whole of which it is a part: the view of a rule, the constraint of an index
                select d.refclassid, d.refobjid from pg_depend d
                 where d.classid = gone.classid and d.objid = gone.objid and d.deptype = 'i') e),
        edge as (
            select d.classid, d.objid, d.refclassid, d.refobjid, d.deptype
              from gone g join pg_depend d on d.classid = g.classid and d.objid = g.objid
              join gone p on p.classid = d.refclassid and p.objid = d.refobjid),
        part as (
            select classid, objid, bool_or(deptype = 'i') as is_inner, bool_or(deptype in ('a', 'P')) as is_part from edge group by 1, 2),
        -- its own reason, or that of the rule which makes a view of it
        reason as (
            select classid, objid, refclassid, refobjid, case deptype when 'a' then 1 when 'P' then 1 when 'i' then 4 else 2 end as rank from edge
             union all
            select 'pg_class'::regclass, r.ev_class, e.refclassid, e.refobjid, 3
              from edge e join pg_rewrite r on r.oid = e.objid where e.classid = 'pg_rewrite'::regclass and e.refobjid <> r.ev_class),
        cause as (
            select distinct on (classid, objid) classid, objid, refclassid, refobjid from reason order by classid, objid, rank, refclassid, refobjid)
        select g.classid, g.objid, coalesce(o.type, '') as type, coalesce(o.identity, '') as identity,
               (g.classid, g.objid) in (select classid, objid from seed) as is_seed,
               coalesce(p.is_inner, false) as is_inner, coalesce(p.is_part, false) as is_part,
               c.relname::text as name, n.nspname::text as schema,
               coalesce(c.relkind in ('r', 'p') and g.objid in (select oid from kept), false) as is_kept_table,
               g.classid = 'pg_attrdef'::regclass or coalesce(k.contype = 'c', false) as is_inline,
               exists (select from pg_depend d where d.classid = g.classid and d.objid = g.objid and d.deptype = 'P') as is_inherited,
               i.type || ' ' || i.identity as cause
          from gone g
          cross join lateral pg_identify_object(g.classid, g.objid, 0) o
          left join part p on p.classid = g.classid and p.objid = g.objid
          left join cause on cause.classid = g.classid and cause.objid = g.objid
          left join lateral pg_identify_object(cause.refclassid, cause.refobjid, 0) i on cause.refobjid is not null
          left join pg_class c on g.classid = 'pg_class'::regclass and c.oid = g.objid
          left join pg_namespace n on n.oid = c.relnamespace
          left join pg_constraint k on g.classid = 'pg_constraint'::regclass and k.oid = g.objid
         where g.classid not in ('pg_amop'::regclass, 'pg_amproc'::regclass) and ($4 or g.classid::regclass::text !~ '^pg_publication')";
    let (classes, objects): (Vec<u32>, Vec<u32>) = seeds.iter().copied().unzip();
    for r in client.query(sql, &[&classes, &objects, &kept, &publications]).await? {
        found.objects.insert((r.get("classid"), r.get("objid")));
        if let Some(name) = r.get::<_, Option<&str>>("name") {
            let name = TableName::new(r.get::<_, &str>("schema"), name);
            if name.schema == "pg_toast" {
                continue;
            }
            found.relations.insert(name);
        }
        let (is_seed, is_inner, is_part): (bool, bool, bool) = (r.get("is_seed"), r.get("is_inner"), r.get("is_part"));
        let what = format!("{} {}", r.get::<_, &str>("type"), r.get::<_, &str>("identity"));
        let cause = r.get::<_, Option<&str>>("cause").unwrap_or("what is left out");
        if r.get("is_kept_table") || (r.get("is_inline") && !is_part && !is_inner && !is_seed) {
            found.problems.push(format!("{what} cannot do without {cause}, which is left out"));
        } else if is_seed {
            found.lines.push(what);
        } else if is_part {
            // What a partition has because its root has it comes with the root.
            if !is_inner && !r.get::<_, bool>("is_inline") && !r.get::<_, bool>("is_inherited") {
                found.lines.push(format!("{what}: belongs to {cause}"));
            }
        } else if !is_inner {
            found.lines.push(format!("{what}: needs {cause}"));
        }
    }
    Ok(())
}

/// A name as pg_dump's `--exclude-table` wants it: nothing in quotes is a pattern.
pub fn exact_pattern(table: &TableName) -> String {
    format!("{}.{}", ident(&table.schema), ident(&table.name))
}
