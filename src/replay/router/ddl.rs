//! DDL in the stream (C-12): all lanes stop where a table was altered, until the target's is altered, too.

use std::sync::Arc;
use tokio::sync::oneshot;

use super::{Router, State, send};
use crate::{
    error::{Error, Result},
    name::TableName,
    pg::{
        catalog::{self, ShapeColumn},
        client::{self},
        connect::session::Side,
        target_table, timescale,
    },
    replay::{
        lane::{Feed, Resolution, Trouble},
        pgoutput::RelationMessage,
        relation::Relation,
        reshape::{self, Definitions},
    },
};

/// A relation's DDL is done on the target, too.
#[derive(Clone, Debug)]
pub struct Reshaped {
    /// On the source.
    pub oid: u32,
    pub before: TableName,
    pub now: TableName,
    pub columns: Vec<ShapeColumn>,
}

impl Router {
    /// C-12: before the first change of a relation that is described anew. If its table was altered, all lanes stop here until the
    /// target's is, too.
    pub(super) async fn check_shape(&mut self, oid: u32, index: usize, state: &mut State) -> Result<()> {
        let message = state.known[&oid].message.clone();
        let relation = self.shared.relations[index].clone();
        if self.shapes.get(&relation.oid).is_some_and(|before| !reshape::is_as_before(&relation, &message, before)) {
            self.send_packs(state).await?;
            self.stop_lanes().await?;
            loop {
                let (fresh, due) = match self.due(&relation, &message).await {
                    Err(e) if e.is_transient() => {
                        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
                        continue;
                    }
                    other => other?,
                };
                if due.is_empty() || self.ask(index, &relation, &due).await? == Resolution::Accept {
                    self.reshape(index, &relation, fresh, &message).await?;
                    state.known.insert(oid, self.known(message, Some(index)));
                    break;
                }
            }
        }
        if let Some(known) = state.known.get_mut(&oid) {
            known.checked = true;
        }
        Ok(())
    }

    /// The table as it is on the target, and the statements that it still needs.
    async fn due(&mut self, relation: &Relation, message: &RelationMessage) -> Result<(Relation, Vec<String>)> {
        let name = format!("hyperlift/{}/router", self.shared.migration);
        let definitions = Definitions::ask(self.source().await?, message).await?;
        let client = client::connect(&self.shared.target, Side::Target, &name).await?;
        let hypertables = timescale::inspect(&client).await?.installed.is_some();
        let is_leaf = message.oid != relation.oid;
        // It may have been renamed meanwhile, and its name may be another table's.
        if let Some(table) = catalog::name_of(&client, relation.target.oid).await?
            && let Some(target) = target_table::target_table(&client, &table, hypertables).await?
        {
            let before = self.shapes.get(&relation.oid).map_or(&[][..], Vec::as_slice);
            let due = reshape::statements(&table, is_leaf, message, before, &target, &definitions);
            return Ok((Relation { table, target, ..relation.clone() }, due));
        }
        Err(Error::failed(format!("{} is gone from the target", relation.table)).hint("who dropped it? Run `hyperlift clean` and start again"))
    }

    async fn ask(&self, index: usize, relation: &Relation, due: &[String]) -> Result<Resolution> {
        let sql = due.join(";\n");
        let error =
            Error::failed(format!("{} was altered on the source; replay waits until its table on the target is altered, too", relation.table))
                .hint(format!("run on the target: {}; then retry, or start hyperlift again", due.join("; ")));
        let (answer, answered) = oneshot::channel();
        let trouble = Trouble { lane: relation.lane, target: Some(index), sql: Some(sql), error, answer };
        self.shared.trouble.send(trouble).await.map_err(|_| Error::stopped())?;
        answered.await.map_err(|_| Error::stopped())
    }

    async fn reshape(&mut self, index: usize, before: &Relation, fresh: Relation, message: &RelationMessage) -> Result<()> {
        let columns = reshape::columns(message);
        self.shapes.insert(before.oid, columns.clone());
        let _ = self.reshaped.send(Reshaped { oid: before.oid, before: before.table.clone(), now: fresh.table.clone(), columns });
        let mut relations = self.shared.relations.to_vec();
        relations[index] = fresh;
        self.shared.relations = Arc::new(relations);
        for lane in &self.lanes {
            send(lane, Feed::Reshaped(self.shared.relations.clone())).await?;
        }
        Ok(())
    }
}
