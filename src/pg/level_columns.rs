//! Gives an empty table of the target exactly the columns that a table of the source has. Because the table is empty, no value can be lost;
//! what matters is that nothing else is lost with a column: indexes, constraints, statistics, and the views and functions that read it.

mod columns;
mod dependents;

use std::collections::HashSet;

use self::columns::Column;
use super::{catalog, client::Client, timescale};
use crate::{
    error::{Error, Result},
    name::{TableName, ident, literal},
};

/// The statements that give an empty table of the target the columns of a table of the source: names, types with modifiers, collations,
/// generated expressions, identity, NOT NULL, defaults, settings and comments. They are to be run in their order, in one transaction. Empty
/// where the columns are the same. Partitions follow their root. Types and functions that the columns need must exist on the target.
pub async fn level_columns(source: &Client, target: &Client, source_oid: u32, table_on_target: &TableName) -> Result<Vec<String>> {
    let oid = catalog::value::<Option<u32>>(target, &format!("select to_regclass({})::oid", literal(&table_on_target.sql()))).await?;
    let oid =
        oid.ok_or_else(|| Error::failed(format!("table {table_on_target} is not on the target")).hint("create it there as the source has it"))?;
    let wanted = columns::read(source, source_oid).await?;
    if wanted.is_empty() {
        return Err(Error::failed(format!("the source's table of {table_on_target} is gone")).hint("run hyperlift again: it reads the tables again"));
    }
    // Virtual columns came with PostgreSQL 18.
    let wanted = if target.version() < 180_000 { wanted.into_iter().map(Column::stored).collect() } else { wanted };
    let there = columns::read(target, oid).await?;
    let times = times(target, table_on_target).await?;
    let plan = Plan::new(&wanted, &there, &times, catalog::value(target, &row_type_is_used(oid)).await?);
    if let Some(column) = plan.without_time(&times) {
        return Err(Error::failed(format!("column {column} of {table_on_target} is the time of a hypertable, and the source has changed it"))
            .hint("begin the migration again, with another plan for this table"));
    }
    let (source_tree, target_tree) = (leaves(source, source_oid).await?, leaves(target, oid).await?);
    let dropped = match plan.concerned() {
        names if names.is_empty() => Vec::new(),
        names => dependents::read(target, oid, Some(&names)).await?,
    };
    let now = if dropped.is_empty() { Vec::new() } else { dependents::read(source, source_oid, None).await? };
    let table = table_on_target.sql();
    let mut statements = dependents::drop(&dropped);
    statements.extend(plan.columns(&table));
    statements.extend(plan.leaves(&target_tree));
    // Keys of a hypertable have its time in them.
    let kept = match plan.gone.iter().map(|c| c.name.clone()).collect::<Vec<_>>() {
        _ if times.is_empty() => Vec::new(),
        gone => dependents::without(&dropped, &dependents::read(target, oid, Some(&gone)).await?),
    };
    statements.extend(dependents::create(&dropped, &now, &kept, source_tree == target_tree));
    Ok(statements)
}

/// What becomes of each column.
struct Plan<'a> {
    wanted: &'a [Column],
    there: &'a [Column],
    /// The source does not have them.
    gone: Vec<&'a Column>,
    /// Dropped and added: no statement makes one from the other.
    again: HashSet<&'a str>,
    retyped: HashSet<&'a str>,
    /// They allow NULL from now on.
    relaxed: HashSet<&'a str>,
}

impl<'a> Plan<'a> {
    fn new(wanted: &'a [Column], there: &'a [Column], times: &[String], row_type_is_used: bool) -> Self {
        let by_name = |name: &str| there.iter().find(|c| c.name == name);
        let gone: Vec<_> = there.iter().filter(|t| wanted.iter().all(|w| w.name != t.name)).collect();
        let (mut again, mut retyped, mut relaxed) = (HashSet::new(), HashSet::new(), HashSet::new());
        for column in wanted {
            let Some(here) = by_name(&column.name) else { continue };
            let becomes_plain = here.is_generated() && !column.is_generated();
            if !here.is_generated_as(column) && !becomes_plain {
                again.insert(column.name.as_str());
            } else if !here.has_type_of(column) {
                // A type cannot be changed while another table has a column of the table's row type.
                let set = if row_type_is_used { &mut again } else { &mut retyped };
                set.insert(column.name.as_str());
            }
            if here.not_null && !column.not_null && !times.contains(&column.name) {
                relaxed.insert(column.name.as_str());
            }
        }
        // A generated column reads others, which cannot be changed meanwhile.
        if !gone.is_empty() || !again.is_empty() || !retyped.is_empty() {
            let generated = wanted.iter().filter(|c| by_name(&c.name).is_some_and(Column::is_generated));
            again.extend(generated.map(|c| c.name.as_str()));
            retyped.retain(|name| !again.contains(name));
        }
        Self { wanted, there, gone, again, retyped, relaxed }
    }

    fn here(&self, name: &str) -> Option<&'a Column> {
        self.there.iter().find(|c| c.name == name)
    }

    /// The columns whose dependents have to be dropped.
    fn concerned(&self) -> Vec<String> {
        let gone = self.gone.iter().map(|c| c.name.as_str());
        gone.chain(self.again.iter().copied())
            .chain(self.retyped.iter().copied())
            .chain(self.relaxed.iter().copied())
            .map(ToOwned::to_owned)
            .collect()
    }

    /// The time of a hypertable that would be dropped, or would count otherwise.
    fn without_time(&self, times: &'a [String]) -> Option<&'a str> {
        let lost = |time: &&String| {
            let counts_otherwise = || self.wanted.iter().any(|w| w.name == **time && self.here(time).is_some_and(|h| h.is_time() != w.is_time()));
            self.gone.iter().any(|c| c.name == **time) || self.again.contains(time.as_str()) || counts_otherwise()
        };
        times.iter().find(lost).map(String::as_str)
    }

    fn columns(&self, table: &str) -> Vec<String> {
        let alter = |action: String| format!("alter table {table} {action}");
        let leaves = |name: &str| self.again.contains(name) || self.gone.iter().any(|c| c.name == name);
        let mut statements = Vec::new();
        let reset = |column: &Column| {
            self.retyped.contains(column.name.as_str()) || self.wanted.iter().any(|w| w.name == column.name && !w.has_default_of(column))
        };
        // Generated columns go first, because they read the others.
        let mut there: Vec<&Column> = self.there.iter().collect();
        there.sort_by_key(|c| !c.is_generated());
        for column in there {
            if leaves(&column.name) {
                statements.extend(column.kept_sequences(self.wanted).map(|s| format!("alter sequence {s} owned by none")));
                statements.push(alter(format!("drop column {}", ident(&column.name))));
            } else if column.is_generated() && self.wanted.iter().any(|w| w.name == column.name && !w.is_generated()) {
                statements.push(alter(format!("alter column {} drop expression", ident(&column.name))));
            } else if reset(column) {
                statements.extend(column.without_default().map(alter));
            }
        }
        let mut wanted: Vec<&Column> = self.wanted.iter().collect();
        wanted.sort_by_key(|c| c.is_generated());
        for column in wanted {
            let name = ident(&column.name);
            let here = self.here(&column.name).filter(|_| !self.again.contains(column.name.as_str()));
            match here {
                None => statements.push(alter(column.add())),
                Some(_) if self.retyped.contains(column.name.as_str()) => statements.push(alter(column.retype())),
                Some(_) => {}
            }
            match here {
                Some(h) if column.not_null && !h.not_null => statements.push(alter(format!("alter column {name} set not null"))),
                Some(_) if self.relaxed.contains(column.name.as_str()) => statements.push(alter(format!("alter column {name} drop not null"))),
                _ => {}
            }
            if here.is_none_or(reset) {
                statements.extend(column.with_default(table));
            }
            let kept = here.filter(|_| !self.retyped.contains(column.name.as_str()));
            statements.extend(column.settings_unlike(kept).into_iter().map(alter));
            statements.extend(column.comment_unlike(here, table));
        }
        statements
    }

    /// What partitions have of their own.
    fn leaves(&self, leaves: &HashSet<String>) -> Vec<String> {
        let own = |column: &'a Column| {
            let kept = self.here(&column.name).filter(|h| h.has_type_of(column) && h.has_default_of(column) && !self.again.contains(h.name.as_str()));
            let unlike = move |own: &&(String, String)| kept.is_none_or(|k| !k.on_leaves.contains(own));
            let action = |(leaf, action): &(String, String)| format!("alter table {leaf} alter column {} {action}", ident(&column.name));
            column.on_leaves.iter().filter(|(leaf, _)| leaves.contains(leaf)).filter(unlike).map(action).collect::<Vec<_>>()
        };
        self.wanted.iter().flat_map(own).collect()
    }
}

/// The columns by which a hypertable is partitioned; none for another table.
async fn times(target: &Client, table: &TableName) -> Result<Vec<String>> {
    if !timescale::hypertable_names(target).await?.contains(table) {
        return Ok(Vec::new());
    }
    let dimensions = timescale::hypertables(target).await?.remove(table).unwrap_or_default();
    Ok(dimensions.into_iter().map(|d| d.column).collect())
}

/// The query whether another table has a column of this table's row type.
fn row_type_is_used(table: u32) -> String {
    format!(
        "select exists (select from pg_type t join pg_attribute a on a.atttypid in (t.oid, t.typarray) join pg_class c on c.oid = a.attrelid
                         where t.typrelid = {table} and not a.attisdropped and c.relkind in ('r', 'p', 'm'))"
    )
}

/// The partitions of a table, by name.
async fn leaves(client: &Client, table: u32) -> Result<HashSet<String>> {
    let sql = "select relid::regclass::text as name from pg_partition_tree($1::oid::regclass) where relid <> $1::oid";
    Ok(client.query(sql, &[&table]).await?.iter().map(|r| r.get("name")).collect())
}
