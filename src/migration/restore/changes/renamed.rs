//! Tables, partitions and columns that have another name on the source by now. A dump says only that one is gone and another is new.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    error::Result,
    migration::context::Sides,
    name::{TableName, ident},
    pg::{
        catalog::{self, Shape},
        client::Client,
        dump::{Statement, repair::Repair},
        ledger,
        object::{ObjectKind, ObjectRef},
    },
    replay::schema_change,
};

/// What has another name on the source than on the target.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Renamed {
    /// Tables and partitions: the target's name, and the source's.
    tables: Vec<(TableName, TableName)>,
    /// By table: the names of columns.
    columns: BTreeMap<TableName, Vec<(String, String)>>,
    /// Tables whose columns are known by number, so that none that was renamed is taken for dropped.
    known: BTreeSet<String>,
}

impl Renamed {
    pub async fn read(sides: &Sides, missing: &[Statement], obsolete: &[Statement]) -> Result<Self> {
        let (source, target) = (sides.source().await?, sides.target().await?);
        let mut tables = tables(&source, &target).await?;
        tables.extend(partitions(&source, &sides.shapes, missing, obsolete).await?);
        let now = catalog::shapes(&source, &sides.plan.scope).await?;
        let columns = columns(&target, &sides.shapes, &now).await?;
        let known = now.iter().filter(|(name, shape)| sides.shapes.get(*name).is_some_and(|was| was.oid == shape.oid)).map(|(name, _)| name.clone());
        Ok(Self { tables, columns, known: known.collect() })
    }

    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.columns.is_empty()
    }

    /// Whether the columns of a table are known by number.
    pub fn knows_columns_of(&self, table: &str) -> bool {
        self.known.contains(table)
    }

    /// The statements for the target. The other differences are known only after they have run.
    pub fn repairs(&self) -> Vec<Repair> {
        let object = |table: &TableName| ObjectRef::new(ObjectKind::Table, table.to_string());
        let (mut repairs, mut left) = (Vec::new(), self.tables.clone());
        while !left.is_empty() {
            // What has to make way for another one is renamed together with it.
            let mut chain = vec![left.remove(0)];
            while let Some(at) = left.iter().position(|(from, _)| chain.iter().any(|(_, to)| to == from)) {
                chain.push(left.remove(at));
            }
            repairs.push(Repair::new(&object(&chain[0].1), [schema_change::renamed_together(&chain).join(";\n")]));
        }
        for (table, columns) in &self.columns {
            let rename = |(from, to): &(String, String)| format!("alter table {} rename column {} to {}", table.sql(), ident(from), ident(to));
            repairs.extend(columns.iter().map(|names| Repair::new(&object(table), [rename(names)])));
        }
        repairs
    }
}

/// Tables of the migration that have another name on each side. They are known by their OIDs.
async fn tables(source: &Client, target: &Client) -> Result<Vec<(TableName, TableName)>> {
    let entries = ledger::relations(target).await.unwrap_or_default();
    let here = catalog::names_of(source, &entries.keys().copied().collect::<Vec<_>>()).await?;
    let there = catalog::names_of(target, &entries.values().filter_map(|e| e.target_oid).collect::<Vec<_>>()).await?;
    // Also of those that are away: their new names would be taken for new tables.
    let names = entries.iter().filter_map(|(oid, entry)| Some((there.get(&entry.target_oid?)?.clone(), here.get(oid)?.clone())));
    let mut renamed: Vec<_> = names.filter(|(there, here)| there != here).collect();
    renamed.sort();
    Ok(renamed)
}

/// Partitions that are attached as before under another name. One that was made in the place of another one is no renamed one.
async fn partitions(
    source: &Client,
    shapes: &BTreeMap<String, Shape>,
    missing: &[Statement],
    obsolete: &[Statement],
) -> Result<Vec<(TableName, TableName)>> {
    let attached = |s: &&Statement| s.object.kind == ObjectKind::TableAttach;
    let mut renamed = Vec::new();
    for now in missing.iter().filter(attached) {
        let Some(name) = TableName::parse(&now.object.name) else { continue };
        let oid = catalog::oid_of(source, &name).await?;
        if !shapes.values().any(|shape| shape.leaves.iter().any(|leaf| Some(*leaf) == oid)) {
            continue;
        }
        let bound = |s: &Statement| s.sql.rsplit_once(" FOR VALUES ").or_else(|| s.sql.rsplit_once(" DEFAULT")).map(|(_, bound)| bound.to_owned());
        let was = obsolete.iter().filter(attached).find(|was| was.table == now.table && bound(was) == bound(now));
        if let Some(was) = was.and_then(|was| TableName::parse(&was.object.name)) {
            renamed.push((was, name));
        }
    }
    Ok(renamed)
}

/// Columns that have another name under the same number.
async fn columns(
    target: &Client,
    before: &BTreeMap<String, Shape>,
    now: &BTreeMap<String, Shape>,
) -> Result<BTreeMap<TableName, Vec<(String, String)>>> {
    let mut found = BTreeMap::new();
    for (name, shape) in now {
        let Some(was) = before.get(name).filter(|was| was.oid == shape.oid) else { continue };
        let has = |shape: &Shape, name: &str| shape.columns.iter().any(|c| c.name == name);
        let same = |a: &catalog::ShapeColumn, b: &catalog::ShapeColumn| (a.number, a.type_oid) == (b.number, b.type_oid);
        let pairs = was.columns.iter().filter(|old| !has(shape, &old.name)).filter_map(|old| {
            let new = shape.columns.iter().find(|new| same(old, new) && !has(was, &new.name))?;
            Some((old.name.clone(), new.name.clone()))
        });
        let pairs: HashMap<String, String> = pairs.collect();
        let Some(table) = TableName::parse(name).filter(|_| !pairs.is_empty()) else { continue };
        let there = catalog::column_names(target, &table).await?;
        let mut due: Vec<_> = pairs.into_iter().filter(|(old, new)| there.contains(old) && !there.contains(new)).collect();
        due.sort();
        if !due.is_empty() {
            found.insert(table, due);
        }
    }
    Ok(found)
}
