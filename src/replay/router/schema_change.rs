//! Schema changes in the stream (C-12): all lanes stop where a table was altered, until the target's is altered, too.

use std::time::Duration;

use super::routing::Routing;
use crate::{
    error::{Error, Result},
    name::TableName,
    pg::{
        catalog,
        client::{self, Client},
        connect::session::Side,
        own,
        target_table::{self, TableKind},
        timescale,
    },
    replay::{
        lane::{ConflictAnswer, ask},
        pgoutput::RelationMessage,
        relation::{Relation, RelationIndex},
        schema_change::{self, Definitions, SchemaChange},
    },
    sqlstate,
};

/// Before source and target are asked again after a transient error.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Routing {
    /// C-12: before the first change of a relation that the stream has described again. If its table was altered, all lanes stop here
    /// until the target's is altered, too.
    pub async fn check_shape(&mut self, oid: u32, index: RelationIndex) -> Result<()> {
        let message = self.described[&oid].message.clone();
        let relation = self.relations[index].clone();
        if oid != relation.oid && relation.shape.kind == TableKind::Partitioned {
            self.check_leaf(index, &relation, &message).await?;
        }
        if self.spec.shapes.get(&relation.oid).is_some_and(|before| !schema_change::is_as_before(&relation, &message, before)) {
            self.send_packs().await?;
            self.stop_lanes().await?;
            loop {
                let (fresh, due) = match self.due(&relation, &message).await {
                    Err(e) if e.is_transient() => {
                        tokio::time::sleep(RETRY_DELAY).await;
                        continue;
                    }
                    other => other?,
                };
                if due.is_empty() || self.ask_for_change(&relation, &due).await? == ConflictAnswer::Accept {
                    self.change_shape(index, &relation, fresh, &message).await?;
                    self.described.insert(oid, self.described_as(message, Some(index)));
                    break;
                }
            }
        }
        if let Some(described) = self.described.get_mut(&oid) {
            described.checked = true;
        }
        Ok(())
    }

    /// A partition that is new, or has another name, has to be on the target before its first row: the target may have another one in its
    /// place, whose rows the source has dropped with it.
    async fn check_leaf(&mut self, index: RelationIndex, root: &Relation, message: &RelationMessage) -> Result<()> {
        let leaf = TableName::new(&message.schema, &message.name);
        // One that the source has dropped since cannot be made.
        if self.spec.leaves.contains_key(&leaf) || self.partition(message.oid).await?.is_none() {
            return Ok(());
        }
        self.send_packs().await?;
        self.stop_lanes().await?;
        loop {
            let there = match client::connect(&self.spec.target, Side::Target, &self.application_name()).await {
                Ok(target) => catalog::leaves(&target, &root.table).await,
                Err(e) => Err(e),
            };
            match there {
                Err(e) if e.is_transient() => {
                    tokio::time::sleep(RETRY_DELAY).await;
                    continue;
                }
                Ok(there) if !there.contains(&leaf) => {
                    let text = format!("{leaf} is a partition of {} on the source, and not on the target", root.table);
                    let error = Error { sqlstate: Some(sqlstate::CHECK_VIOLATION.into()), ..Error::failed(text) };
                    let error = error.hint("make it on the target as it is on the source");
                    if ask(&self.spec.conflicts, self.first_lane() + root.lane, Some(root.into()), None, error).await? == ConflictAnswer::Retry {
                        continue;
                    }
                }
                other => drop(other?),
            }
            self.spec.leaves.insert(leaf, index);
            return Ok(());
        }
    }

    /// The table as it is on the target, and the statements that it still needs.
    async fn due(&mut self, relation: &Relation, message: &RelationMessage) -> Result<(Relation, Vec<String>)> {
        let definitions = Definitions::read(self.source().await?, message).await?;
        let client = client::connect(&self.spec.target, Side::Target, &self.application_name()).await?;
        let hypertables = timescale::inspect(&client).await?.installed.is_some();
        let is_leaf = message.oid != relation.oid;
        // It may have been renamed meanwhile, and its name may be another table's.
        if let Some(table) = catalog::name_of(&client, relation.shape.oid).await?
            && let Some(shape) = target_table::target_table(&client, &table, hypertables).await?
        {
            let before = self.spec.shapes.get(&relation.oid).map_or_else(Vec::new, Vec::clone);
            let moves = if is_leaf { Vec::new() } else { self.moves(&client, &table, message).await? };
            let (mut due, named) = match &moves[..] {
                [] | [_] => (Vec::new(), &table),
                [first, ..] => (schema_change::renamed_together(&moves), &first.1),
            };
            due.extend(schema_change::statements(named, is_leaf, message, &before, &shape, &definitions));
            if shape.kind == TableKind::Partitioned {
                // Until the cutover they are no partitions on the target, and nothing that is done to the root reaches them.
                for foreign in catalog::foreign_partitions_of(self.source().await?, relation.oid).await? {
                    let Some(shape) = target_table::detached_foreign_table(&client, &foreign).await? else { continue };
                    let statements = schema_change::statements(&foreign, true, message, &before, &shape, &definitions);
                    // They have no rows that would have to be converted.
                    due.extend(statements.into_iter().map(|s| s.rsplit_once(" using ").map_or(s.clone(), |(alter, _)| alter.to_owned())));
                }
            }
            return Ok((Relation { table, shape, ..relation.clone() }, due));
        }
        Err(Error::failed(format!("{} is gone from the target", relation.table)).hint("who dropped it? Run `hyperlift clean` and start again"))
    }

    async fn ask_for_change(&self, relation: &Relation, due: &[String]) -> Result<ConflictAnswer> {
        let altered = format!("{} was altered on the source; replay waits until its table on the target is altered, too", relation.table);
        ask(&self.spec.conflicts, self.first_lane() + relation.lane, Some(relation.into()), Some(due.join(";\n")), Error::failed(altered)).await
    }

    /// The tables of the target that get another name, and the new names: the relation's, and whatever has the name that it gets.
    async fn moves(&mut self, target: &Client, table: &TableName, message: &RelationMessage) -> Result<Vec<(TableName, TableName)>> {
        let mut moves = vec![(table.clone(), TableName::new(&message.schema, &message.name))];
        loop {
            let wanted = moves[moves.len() - 1].1.clone();
            if moves.iter().any(|(from, _)| *from == wanted) {
                return Ok(moves);
            }
            let Some(holder) = catalog::oid_of(target, &wanted).await? else { return Ok(moves) };
            let oid = self.relations.iter().find(|r| r.shape.oid == holder).map(|r| r.oid);
            let now = match oid {
                Some(oid) => catalog::name_of(self.source().await?, oid).await?,
                None => None,
            };
            // What the source has no more makes way.
            let now = now.filter(|now| *now != wanted).unwrap_or_else(|| TableName::new(&wanted.schema, format!("{}{holder}", own::ASIDE)));
            moves.push((wanted, now));
        }
    }

    /// Takes the shape, and the names of the other tables that were renamed with it: the ledger knows a table of the target by its name.
    async fn change_shape(&mut self, index: RelationIndex, before: &Relation, fresh: Relation, message: &RelationMessage) -> Result<()> {
        let columns = schema_change::columns(message);
        self.spec.shapes.insert(before.oid, columns.clone());
        let is_renamed = fresh.table != before.table;
        let change = SchemaChange { oid: before.oid, before: before.table.clone(), now: fresh.table.clone(), columns };
        self.set_relation(index, fresh);
        let _ = self.spec.schema_changes.send(change);
        if is_renamed {
            self.rename_others().await?;
        }
        Ok(())
    }

    async fn rename_others(&mut self) -> Result<()> {
        let client = client::connect(&self.spec.target, Side::Target, &self.application_name()).await?;
        let oids: Vec<u32> = self.relations.iter().map(|r| r.shape.oid).collect();
        let names = catalog::names_of(&client, &oids).await?;
        for index in self.relations.indices().collect::<Vec<_>>() {
            let relation = self.relations[index].clone();
            let Some(now) = names.get(&relation.shape.oid).filter(|now| **now != relation.table) else { continue };
            let Some(columns) = self.spec.shapes.get(&relation.oid).cloned() else { continue };
            let change = SchemaChange { oid: relation.oid, before: relation.table.clone(), now: now.clone(), columns };
            self.set_relation(index, Relation { table: now.clone(), ..relation });
            let _ = self.spec.schema_changes.send(change);
        }
        Ok(())
    }
}
