//! What the filters of a migration leave out of this source besides what they name, and why they may be impossible. Partitions that become
//! one table on the target are left out in the same way.
//!
//! A view of a table that is left out cannot be made, nor a foreign key to it. PostgreSQL records such dependencies (`pg_depend`,
//! documentation 5.15), so all of them are known before anything is begun.

use std::{
    collections::{HashMap, HashSet},
    fmt,
};

use super::foreign_keys::foreign_keys;
use crate::{
    error::Result,
    name::{TableName, ident},
    pg::{
        client::Client,
        own::{NOT_OF_EXTENSION, USER_SCHEMAS},
    },
    plan::{IdentityChoice, Plan},
    scope::{FilterKind, Inclusion, Scope},
};

/// OIDs of a system catalog and of a row in it: an object, as `pg_depend` and `pg_dump` name it.
pub type ObjectId = (u32, u32);

/// `pg_class`, as an OID.
pub const PG_CLASS: u32 = 1259;
const PG_NAMESPACE: u32 = 2615;
const PG_EXTENSION: u32 = 3079;

/// What is left out.
#[derive(Clone, Debug, Default)]
pub struct Excluded {
    ids: HashSet<ObjectId>,
    /// Names of relations (tables, indexes, sequences, views) among them.
    relations: HashSet<TableName>,
    /// Tables among them that this user cannot read: `pg_dump` must not even try to lock them.
    pub unreadable: Vec<TableName>,
    /// For the operator, in the order of their texts.
    pub list: Vec<ExcludedObject>,
    /// Why the source cannot be migrated with these filters, each with its reason.
    pub problems: Vec<String>,
    /// Filters that match nothing.
    pub unmatched: Vec<String>,
}

impl Excluded {
    pub fn has(&self, object: ObjectId) -> bool {
        self.ids.contains(&object)
    }

    pub fn has_relation(&self, name: &TableName) -> bool {
        self.relations.contains(name)
    }

    #[cfg(test)]
    pub fn from_objects(objects: &[ObjectId], relations: &[TableName]) -> Self {
        Self { ids: objects.iter().copied().collect(), relations: relations.iter().cloned().collect(), ..Self::default() }
    }

    /// The list for a file, one object a line.
    pub fn to_lines(&self) -> String {
        self.list.iter().fold(String::new(), |text, object| text + &object.to_string() + "\n")
    }

    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}

/// An object that is left out, and why. It prints as `view public.v: needs table public.t`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExcludedObject {
    /// As `pg_identify_object` names it: `materialized view`, `table constraint`.
    pub kind: String,
    /// With its schema, quoted where needed.
    pub name: String,
    pub cause: Cause,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Cause {
    /// A filter names it, or it is a partition of what becomes one table.
    Filter,
    /// It belongs to an object that is left out.
    PartOf(String),
    /// It cannot exist without an object that is left out.
    Needs(String),
    /// Only the rows are left out, so that this foreign key stays NOT VALID.
    RowsOnly { foreign_key: String, of: TableName },
}

impl fmt::Display for ExcludedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kind, name, cause } = self;
        match cause {
            Cause::Filter => write!(f, "{kind} {name}"),
            cause => write!(f, "{kind} {name}: {cause}"),
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Filter => f.write_str("left out by a filter"),
            Self::PartOf(whole) => write!(f, "belongs to {whole}"),
            Self::Needs(needed) => write!(f, "needs {needed}"),
            Self::RowsOnly { foreign_key, of } => write!(f, "foreign key {foreign_key} of {of} stays NOT VALID"),
        }
    }
}

/// A table, view or foreign table of the source.
struct ScopedRelation {
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

/// Resolves the plan's filters, and its tables without partitions, against the catalog. Without filters there is no query.
pub async fn resolve(client: &Client, plan: &Plan) -> Result<Excluded> {
    if plan.scope.is_everything() && plan.one_table.is_empty() && plan.hypertables.is_empty() {
        return Ok(Excluded::default());
    }
    // The planner knows nothing of arrays with thousands of objects, and little of a catalog that was never analysed. It expects a few rows
    // and joins by nested loops, which take minutes on a large schema.
    client.batch_execute("set enable_nestloop = off").await?;
    let found = resolve_all(client, plan).await?;
    client.batch_execute("reset enable_nestloop").await?;
    Ok(found)
}

async fn resolve_all(client: &Client, plan: &Plan) -> Result<Excluded> {
    let scope = &plan.scope;
    let relations = relations(client).await?;
    let names: HashMap<u32, &TableName> = relations.iter().map(|r| (r.oid, &r.name)).collect();
    // A partition is included as its root is.
    let inclusion = |r: &ScopedRelation| scope.inclusion(r.root.and_then(|root| names.get(&root).copied()).unwrap_or(&r.name));
    let is_merged = |r: &ScopedRelation| r.root.and_then(|root| names.get(&root)).is_some_and(|root| plan.is_one_table(root));
    let (kept, left): (Vec<&ScopedRelation>, Vec<&ScopedRelation>) =
        relations.iter().partition(|r| inclusion(r) != Inclusion::Nothing && !is_merged(r));
    if left.is_empty() && scope.is_everything() {
        return Ok(Excluded::default());
    }
    let kept: Vec<u32> = kept.iter().map(|r| r.oid).collect();
    let schemas = named(client, "select oid, nspname::text as name from pg_namespace n where true", true).await?;
    let extensions =
        named(client, "select oid, extname::text as name from pg_extension where extname not in ('plpgsql', 'timescaledb')", false).await?;
    let indexes = if scope.rules().any(|(_, r)| r.kind == FilterKind::Index) { indexes(client, plan).await? } else { Vec::new() };

    let mut found = Excluded {
        unreadable: left.iter().filter(|r| r.is_table && !r.readable).map(|r| r.name.clone()).collect(),
        unmatched: unmatched(scope, &relations, &schemas, &extensions, &indexes),
        ..Excluded::default()
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
    for i in indexes.iter().filter(|i| !scope.has_index(&i.name) && scope.inclusion(&i.table) != Inclusion::Nothing) {
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
    dependency_closure(client, &seeds, (&kept, plan.publications), &mut found).await?;
    for key in foreign_keys(client).await? {
        if scope.inclusion(&key.from) == Inclusion::All && scope.inclusion(&key.to) == Inclusion::Structure {
            let cause = Cause::RowsOnly { foreign_key: key.name, of: key.from };
            found.list.push(ExcludedObject { kind: "rows of".into(), name: key.to.to_string(), cause });
        }
    }
    found.list.sort_by_cached_key(ToString::to_string);
    found.problems.sort();
    Ok(found)
}

/// What `DROP … CASCADE` of these tables and their partitions would drop.
pub async fn dependents(client: &Client, tables: &[TableName]) -> Result<Vec<ExcludedObject>> {
    let relations = relations(client).await?;
    let names: HashMap<u32, &TableName> = relations.iter().map(|r| (r.oid, &r.name)).collect();
    let is_one = |r: &&ScopedRelation| tables.contains(r.root.and_then(|root| names.get(&root).copied()).unwrap_or(&r.name));
    let seeds: Vec<ObjectId> = relations.iter().filter(is_one).map(|r| (PG_CLASS, r.oid)).collect();
    let mut found = Excluded::default();
    dependency_closure(client, &seeds, (&[], false), &mut found).await?;
    Ok(found.list)
}

async fn relations(client: &Client) -> Result<Vec<ScopedRelation>> {
    let sql = format!(
        "select c.oid, n.nspname::text as schema, c.relname::text as name, c.relkind in ('r', 'p') as is_table,
                case when c.relispartition then pg_partition_root(c.oid)::oid end as root,
                has_schema_privilege(n.oid, 'usage') and has_table_privilege(c.oid, 'select') as readable
           from pg_class c join pg_namespace n on n.oid = c.relnamespace
          where c.relkind in ('r', 'p', 'f', 'v', 'm') and c.relpersistence <> 't' and {USER_SCHEMAS}
            and {NOT_OF_EXTENSION}"
    );
    let relation = |r: &tokio_postgres::Row| ScopedRelation {
        oid: r.get("oid"),
        name: TableName::new(r.get::<_, &str>("schema"), r.get::<_, &str>("name")),
        root: r.get("root"),
        is_table: r.get("is_table"),
        readable: r.get("readable"),
    };
    Ok(client.query(&sql, &[]).await?.iter().map(relation).collect())
}

async fn named(client: &Client, sql: &str, schemas: bool) -> Result<Vec<(u32, String)>> {
    let sql = if schemas { format!("{sql} and {USER_SCHEMAS}") } else { sql.to_owned() };
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
          where {USER_SCHEMAS}"
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

/// Filters that match nothing of the source: most likely they are mistyped.
fn unmatched(scope: &Scope, relations: &[ScopedRelation], schemas: &[(u32, String)], extensions: &[(u32, String)], indexes: &[Index]) -> Vec<String> {
    let matches_any = |rule: &crate::scope::Rule| match rule.kind {
        FilterKind::Schema => schemas.iter().any(|(_, name)| rule.matches_name(name)),
        FilterKind::Extension => extensions.iter().any(|(_, name)| rule.matches_name(name)),
        FilterKind::Table => relations.iter().any(|r| rule.matches(&r.name)),
        FilterKind::Data => relations.iter().any(|r| r.is_table && rule.matches(&r.name)),
        FilterKind::Index => indexes.iter().any(|i| rule.matches(&i.name)),
    };
    scope.rules().filter(|(_, rule)| !matches_any(rule)).map(|(flag, rule)| format!("{flag} {rule}")).collect()
}

/// Why the filters cannot treat a partition differently from its root.
fn partition_problem(scope: &Scope, partition: &TableName, root: &TableName) -> Option<String> {
    let named = |kind: FilterKind, include: bool| {
        let rules = if include { &scope.include } else { &scope.exclude };
        rules.iter().any(|r| r.kind == kind && r.matches(partition))
    };
    let what = match scope.inclusion(root) {
        Inclusion::Nothing if !scope.is_chosen(root) && named(FilterKind::Table, true) => "migrated alone",
        Inclusion::Structure | Inclusion::All if scope.excludes(partition) => "left out alone",
        Inclusion::All if named(FilterKind::Data, false) => "left without its rows alone",
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

/// Finds what depends on the seeds: everything that cannot exist without them. A sequence stays that a kept table's default counts with,
/// whoever owns it.
async fn dependency_closure(client: &Client, seeds: &[ObjectId], (kept, publications): (&[u32], bool), found: &mut Excluded) -> Result<()> {
    let (classes, objects): (Vec<u32>, Vec<u32>) = seeds.iter().copied().unzip();
    for r in client.query(include_str!("exclusion_closure.sql"), &[&classes, &objects, &kept, &publications]).await? {
        found.ids.insert((r.get("classid"), r.get("objid")));
        if let Some(name) = r.get::<_, Option<&str>>("name") {
            let name = TableName::new(r.get::<_, &str>("schema"), name);
            if name.schema == "pg_toast" {
                continue;
            }
            found.relations.insert(name);
        }
        let (is_seed, is_inner, is_part): (bool, bool, bool) = (r.get("is_seed"), r.get("is_inner"), r.get("is_part"));
        let (kind, name): (String, String) = (r.get("type"), r.get("identity"));
        let cause = r.get::<_, Option<&str>>("cause").unwrap_or("what is left out");
        let cause = if r.get("is_kept_table") || (r.get("is_inline") && !is_part && !is_inner && !is_seed) {
            found.problems.push(format!("{kind} {name} cannot do without {cause}, which is left out"));
            continue;
        } else if is_seed {
            Cause::Filter
        } else if is_part {
            // What a partition has because its root has it comes with the root.
            if is_inner || r.get::<_, bool>("is_inline") || r.get::<_, bool>("is_inherited") {
                continue;
            }
            Cause::PartOf(cause.to_owned())
        } else if is_inner {
            continue;
        } else {
            Cause::Needs(cause.to_owned())
        };
        found.list.push(ExcludedObject { kind, name, cause });
    }
    Ok(())
}

/// A name as pg_dump's `--exclude-table` takes it: nothing in quotes is a pattern.
pub fn exact_pattern(table: &TableName) -> String {
    format!("{}.{}", ident(&table.schema), ident(&table.name))
}
