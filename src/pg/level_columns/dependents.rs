//! What depends on columns of a table: views and functions, indexes, constraints and statistics.

use std::collections::{HashMap, HashSet};

use crate::{error::Result, pg::client::Client};

/// An object that is dropped together with a column, or that keeps it from being dropped.
#[derive(Clone, Debug)]
pub struct Dependent {
    /// `view`, as DROP calls it.
    kind: String,
    /// What names it after its kind: `public.v`, `t_pkey on public.t`.
    identity: String,
    /// How many objects are between it and its index of the root: a partition's index is part of another one.
    nesting: i32,
    /// The index that it makes, and the one that this is a part of.
    index: Option<String>,
    parent: Option<String>,
    create: Vec<String>,
}

impl Dependent {
    fn key(&self) -> (&str, &str) {
        (if self.kind == "procedure" { "function" } else { &self.kind }, &self.identity)
    }

    fn belongs_to_table(&self) -> bool {
        self.kind == "index" || self.kind == "constraint"
    }

    fn drop(&self) -> String {
        match self.identity.split_once(" on ").filter(|_| self.kind == "constraint") {
            Some((name, table)) => format!("alter table {table} drop constraint {name}"),
            None => format!("drop {} {}", self.kind, self.identity),
        }
    }

    /// The statements for it and all parts of it on partitions.
    fn create_everywhere(&self) -> Vec<String> {
        let recursive = |sql: &String| sql.replacen("alter table only ", "alter table ", 1).replacen(" ON ONLY ", " ON ", 1);
        self.create.iter().map(recursive).collect()
    }
}

/// What depends on some columns of a table, or on any (`None`). What others need comes first.
pub async fn read(client: &Client, table: u32, columns: Option<&[String]>) -> Result<Vec<Dependent>> {
    let sql = include_str!("dependents.sql").replace("{index}", include_str!("index.sql"));
    let rows = client.query(&sql, &[&table, &columns]).await?;
    let dependent = |r: &tokio_postgres::Row| Dependent {
        kind: r.get("kind"),
        identity: r.get("identity"),
        nesting: r.get("nesting"),
        index: r.get("index"),
        parent: r.get("parent"),
        create: r.get("create"),
    };
    Ok(rows.iter().map(dependent).collect())
}

/// Those that are not among the others.
pub fn without(these: &[Dependent], others: &[Dependent]) -> Vec<Dependent> {
    these.iter().filter(|d| others.iter().all(|o| o.key() != d.key())).cloned().collect()
}

/// The statements that drop objects of the target.
pub fn drop(there: &[Dependent]) -> Vec<String> {
    there.iter().rev().filter(|d| d.nesting == 0).map(Dependent::drop).collect()
}

/// The statements that make them again as the source has them; what the source does not have stays dropped. `same_partitions`: each
/// partition's part of an index keeps its name. `as_here`: these keep the target's definition.
pub fn create(there: &[Dependent], source: &[Dependent], as_here: &[Dependent], same_partitions: bool) -> Vec<String> {
    let dropped: HashMap<_, _> = there.iter().map(|d| (d.key(), d)).collect();
    let (mut made, mut indexes) = (HashSet::new(), HashSet::new());
    let mut statements = Vec::new();
    for now in source.iter().filter(|now| made.insert(now.key())) {
        let is_part = now.parent.is_some() && same_partitions;
        if is_part && indexes.contains(&now.parent) {
            statements.extend(now.create.clone());
        } else if let (0, Some(was)) = (now.nesting, dropped.get(&now.key())) {
            let is_kept = now.belongs_to_table() && as_here.iter().any(|kept| kept.key() == now.key());
            let definition = if is_kept { was } else { now };
            statements.extend(if same_partitions { definition.create.clone() } else { definition.create_everywhere() });
        } else {
            continue;
        }
        indexes.insert(now.index.clone());
    }
    statements
}
