//! Which relations have to be copied, because the stream does not carry what happened to their rows.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::super::{away::Due, replay::RunningReplay};
use crate::{
    config::{NewTables, OnConflict},
    error::Result,
    event::{Level, Stage},
    migration::{context::Context, stages::identity},
    name::TableName,
    pg::{
        catalog::{self, Shape, SourceRelation},
        ledger::Leaving,
        publication::Unpublished,
    },
    plan::FollowDdl,
    replay::lane::Conflict,
};

const REPLACED: &str = "a table of this name was dropped on the source, and made again";

impl RunningReplay {
    /// The relations that have to be copied because of what happened on the source, as its tables were in the last poll. `certain`: a change
    /// has found no row.
    pub async fn due_by_source(&mut self, cx: &mut Context, certain: bool) -> Result<Vec<Due>> {
        let now = self.schema.shapes().clone();
        let mut due = self.not_published(&now);
        let attached = self.attached(cx, &now, certain).await?;
        if cx.follow_ddl() == FollowDdl::Ask || now.is_empty() {
            return Ok(due);
        }
        due.extend(attached);
        due.extend(self.rewritten(cx, &now));
        if cx.config.new_tables == NewTables::Take {
            due.extend(self.new_tables(cx, &now).await?);
        }
        Ok(due)
    }

    /// Whether a conflict comes from rows that the stream did not carry: then their table is copied, and the conflict is gone.
    pub async fn copies_again(&mut self, cx: &mut Context, conflict: &Conflict) -> Result<bool> {
        let Some(relation) = conflict.relation.as_ref().filter(|_| cx.current() == Stage::CatchUp) else { return Ok(false) };
        self.schema.poll_shapes(cx, &self.source).await;
        let table = relation.table.to_string();
        // Not a refusal by the target's schema.
        let finds_no_row = conflict.error.sqlstate.is_none() && conflict.sql.is_none();
        if finds_no_row && self.has_unknown_partition(cx, &table) {
            // The target gets the partition first.
            self.schema.relax(cx).await?;
        }
        let mut due = self.due_by_source(cx, finds_no_row).await?;
        due.retain(|d| d.leaving.oid == relation.oid || d.shapes.iter().any(|(name, _)| *name == table));
        if due.is_empty() && cx.config.on_conflict == OnConflict::Copy && conflict.sql.is_none() {
            let reason = format!("a change could not be applied: {}", conflict.error.message);
            due.push(Due { leaving: Leaving::same_name(relation.oid, &relation.table), reason, is_new: false, shapes: Vec::new() });
        }
        let copies = !due.is_empty();
        self.leave(cx, due).await?;
        Ok(copies)
    }

    /// Whether a table with rows was attached to it that is not copied.
    fn has_unknown_partition(&self, cx: &Context, table: &str) -> bool {
        let (before, now) = (cx.record.shapes.get(table), self.schema.shapes().get(table));
        before.zip(now).is_some_and(|(before, now)| now.attached.iter().any(|leaf| !before.leaves.contains(leaf)))
    }

    /// The operator wants a table to be copied again.
    pub async fn copy_again(&mut self, cx: &mut Context, table: &TableName) -> Result<()> {
        let found = self.relations().iter().find(|r| r.table == *table).map(|r| r.oid);
        let Some(oid) = found else {
            cx.notice(Level::Warn, format!("{table} is not part of this migration")).await;
            return Ok(());
        };
        self.schema.poll_shapes(cx, &self.source).await;
        let shapes = self.schema.shapes().iter().filter(|(_, shape)| shape.oid == oid).map(|(name, shape)| (name.clone(), shape.clone())).collect();
        let due = Due { leaving: Leaving::same_name(oid, table), reason: "the operator wants it".into(), is_new: false, shapes };
        self.leave(cx, vec![due]).await
    }

    /// Tables that somebody has taken out of their publication.
    fn not_published(&mut self, now: &BTreeMap<String, Shape>) -> Vec<Due> {
        let relations = self.relations();
        let due = |found: Unpublished| {
            let relation = relations.iter().find(|r| r.oid == found.oid && !r.skipped)?;
            let leaving = Leaving { name: found.table, ..Leaving::same_name(found.oid, &relation.table) };
            let shapes = now.iter().filter(|(_, shape)| shape.oid == found.oid).map(|(name, shape)| (name.clone(), shape.clone())).collect();
            Some(Due { leaving, reason: found.why, is_new: false, shapes })
        };
        std::mem::take(&mut self.taken_out).into_iter().filter_map(due).collect()
    }

    /// Tables whose rows ALTER TABLE has written again, or whose columns are others under the same names.
    fn rewritten(&self, cx: &Context, now: &BTreeMap<String, Shape>) -> Vec<Due> {
        let relations = self.relations();
        let mut due = Vec::new();
        for (name, shape) in now {
            let Some(before) = cx.record.shapes.values().find(|known| known.oid == shape.oid) else { continue };
            let rewritten = before.was_rewritten(shape) || cx.record.rewritten.contains(&shape.oid);
            let Some(relation) = relations.iter().find(|r| r.oid == shape.oid && !r.skipped).filter(|_| rewritten) else { continue };
            let Some(source_name) = TableName::parse(name) else { continue };
            due.push(Due {
                leaving: Leaving { name: source_name, ..Leaving::same_name(shape.oid, &relation.table) },
                reason: if before.unlogged { "it is logged now" } else { "ALTER TABLE has written its rows again" }.into(),
                is_new: false,
                shapes: vec![(name.clone(), shape.clone())],
            });
        }
        due
    }

    /// Partitions that had rows before they were attached. Where the target has the same partitions, only they are copied. `certain`: a change
    /// of theirs finds no row.
    async fn attached(&self, cx: &mut Context, now: &BTreeMap<String, Shape>, certain: bool) -> Result<Vec<Due>> {
        let relations = self.relations();
        let mut due = Vec::new();
        for (name, shape) in now {
            let Some(before) = cx.record.shapes.get(name).filter(|known| known.oid == shape.oid) else { continue };
            let new: Vec<u32> = shape.leaves.iter().copied().filter(|leaf| !before.leaves.contains(leaf)).collect();
            let mut leaves: Vec<u32> = shape.attached.iter().copied().filter(|leaf| new.contains(leaf)).collect();
            let Some(root) = relations.iter().find(|r| r.oid == shape.oid && !r.skipped).filter(|_| !new.is_empty()) else { continue };
            let is_known = |leaf: &u32| relations.iter().any(|r| r.oid == *leaf);
            if !certain {
                let filled = catalog::filled_when_attached(&self.source, &leaves).await?;
                leaves.retain(|leaf| filled.contains(leaf) || is_known(leaf));
            }
            let updated = before.with_leaves_of(shape);
            if leaves.is_empty() {
                // The stream has all of their rows.
                cx.record.shapes.insert(name.clone(), updated);
                cx.save()?;
                continue;
            }
            let updated = vec![(name.clone(), updated)];
            if cx.plan.is_one_table(&root.table) || cx.plan.hypertable(&root.table).is_some() {
                let absorbs = leaves.iter().copied().filter(is_known).collect();
                let leaving = Leaving { absorbs, ..Leaving::same_name(root.oid, &root.table) };
                due.push(Due { leaving, reason: "a table with rows was attached as a partition".into(), is_new: false, shapes: updated });
                continue;
            }
            let names = catalog::names_of(&self.source, &leaves).await?;
            // A table of this migration has brought its rows along.
            let unknown: Vec<&TableName> = leaves.iter().filter(|leaf| !is_known(leaf)).filter_map(|leaf| names.get(leaf)).collect();
            let there = catalog::partitions_among(&cx.target("joining").await?, &unknown).await?;
            if there.len() < unknown.len() {
                // The target gets the partitions first.
                continue;
            }
            for (oid, table) in names.iter().filter(|(_, table)| unknown.contains(table)) {
                let reason = format!("it had rows when it was attached to {name}");
                due.push(Due { leaving: Leaving::same_name(*oid, table), reason, is_new: true, shapes: updated.clone() });
            }
        }
        Ok(due)
    }

    /// Tables that were made on the source meanwhile, and are on the target by now.
    async fn new_tables(&mut self, cx: &Context, now: &BTreeMap<String, Shape>) -> Result<Vec<Due>> {
        let relations = self.relations();
        let known: HashSet<u32> = cx.record.shapes.values().map(|s| s.oid).chain(relations.iter().map(|r| r.oid)).collect();
        let new: HashMap<u32, &String> = now.iter().filter(|(_, shape)| !known.contains(&shape.oid)).map(|(name, shape)| (shape.oid, name)).collect();
        if new.is_empty() {
            return Ok(Vec::new());
        }
        let oids: Vec<u32> = new.keys().copied().collect();
        let found = catalog::relations_of(&self.source, &oids).await?;
        let tables: Vec<TableName> = found.iter().map(|r| r.table.clone()).collect();
        let there = catalog::existing(&cx.target("joining").await?, &tables).await?;
        let on_source = catalog::names_of(&self.source, &relations.iter().map(|r| r.oid).collect::<Vec<_>>()).await?;
        let mut due = Vec::new();
        for relation in found.iter().filter(|r| there.contains(&r.table)) {
            // Under this name the target has another table of the migration, which is gone from the source, or is renamed first.
            let before = relations.iter().find(|r| r.table == relation.table && !r.skipped).map(|r| r.oid);
            let replaces = before.filter(|oid| !on_source.contains_key(oid));
            if replaces != before {
                continue;
            }
            if let Some(why) = obstacle(relation, cx) {
                if self.joining.refused.insert(relation.oid) {
                    cx.notice(Level::Warn, format!("{} is new on the source, and cannot take part: {why}", relation.table)).await;
                }
                continue;
            }
            let name = new[&relation.oid];
            due.push(Due {
                leaving: Leaving { replaces, ..Leaving::same_name(relation.oid, &relation.table) },
                reason: if replaces.is_some() { REPLACED } else { "it was made on the source after the copy" }.into(),
                is_new: true,
                shapes: vec![(name.clone(), now[name].clone())],
            });
        }
        Ok(due)
    }
}

/// Why a new table cannot be replicated as it is.
fn obstacle(relation: &SourceRelation, cx: &Context) -> Option<String> {
    if relation.unlogged || identity::is_replicable(relation, &cx.plan) {
        return None;
    }
    let table = relation.table.sql();
    Some(format!(
        "it has no replica identity, so its updates would fail; give it a primary key, or run on the source: alter table {table} replica identity full"
    ))
}
