//! Schema changes in the stream (C-12): all lanes stop where a table was altered, until the target's is altered, too.

use std::time::Duration;

use super::routing::Routing;
use crate::{
    error::{Error, Result},
    pg::{
        catalog::{self},
        client::{self},
        connect::session::Side,
        target_table::{self, TableKind},
        timescale,
    },
    replay::{
        lane::{ConflictAnswer, ask},
        pgoutput::RelationMessage,
        relation::{Relation, RelationIndex},
        schema_change::{self, Definitions, SchemaChange},
    },
};

/// Before source and target are asked again after a transient error.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl Routing {
    /// C-12: before the first change of a relation that the stream has described again. If its table was altered, all lanes stop here
    /// until the target's is altered, too.
    pub async fn check_shape(&mut self, oid: u32, index: RelationIndex) -> Result<()> {
        let message = self.described[&oid].message.clone();
        let relation = self.relations[index].clone();
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
                    self.change_shape(index, &relation, fresh, &message);
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
            let mut due = schema_change::statements(&table, is_leaf, message, &before, &shape, &definitions);
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
        let error =
            Error::failed(format!("{} was altered on the source; replay waits until its table on the target is altered, too", relation.table))
                .hint(format!("run on the target: {}; then retry, or start hyperlift again", due.join("; ")));
        ask(&self.spec.conflicts, self.first_lane() + relation.lane, Some(relation.into()), Some(due.join(";\n")), error).await
    }

    fn change_shape(&mut self, index: RelationIndex, before: &Relation, fresh: Relation, message: &RelationMessage) {
        let columns = schema_change::columns(message);
        self.spec.shapes.insert(before.oid, columns.clone());
        let change = SchemaChange { oid: before.oid, before: before.table.clone(), now: fresh.table.clone(), columns };
        self.set_relation(index, fresh);
        let _ = self.spec.schema_changes.send(change);
    }
}
