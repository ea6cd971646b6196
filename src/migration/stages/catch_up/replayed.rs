//! What is replayed, as the ledger and the tables of the target say it.

use std::collections::HashMap;

use super::super::copy::Replication;
use crate::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    name::TableName,
    pg::{
        catalog,
        client::Client,
        ledger::{self, RelationState, Spread},
        snapshot::Snapshot,
        target_table::{self, TableKind},
        timescale,
    },
    replay::relation::{Relation, RelationIndex},
};

/// What is replayed, and from where on.
pub struct Replayed {
    /// As they were copied, with the shape of their tables on the target.
    pub relations: Vec<Relation>,
    /// How their keys are distributed over the lanes.
    pub spread: Vec<Spread>,
    /// Their names when the last run ended.
    pub names: Vec<TableName>,
    /// The position of each lane.
    pub positions: Vec<Position>,
    /// Of partitioned tables, with their relation.
    pub leaves: HashMap<TableName, RelationIndex>,
    /// Changes that were not applied so far, by OID.
    pub skipped_before: HashMap<u32, u64>,
}

/// Reads it from the ledger, and the shapes of the tables from the target.
pub async fn read(client: &Client, replication: &Replication) -> Result<Replayed> {
    let entries = ledger::relations(client).await?;
    let timescale = timescale::inspect(client).await?.installed.is_some();
    // Under the names that they have on the target: the source's may be others by now, and then replay stops at the right place.
    let targets: Vec<u32> = entries.values().filter_map(|e| e.target_oid).collect();
    let called = catalog::names_of(client, &targets).await?;
    let table_of = |entry: &ledger::RelationEntry| entry.target_oid.and_then(|oid| called.get(&oid)).unwrap_or(&entry.table).clone();
    let tables: Vec<TableName> = replication.relations.iter().filter_map(|r| entries.get(&r.oid)).map(table_of).collect();
    let mut shapes = target_table::target_tables(client, &tables, timescale).await?;
    let (mut relations, mut spread, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for r in &replication.relations {
        let Some(entry) = entries.get(&r.oid) else { continue };
        let (snapshot, copied_at, skipped) = match &entry.state {
            RelationState::Copied { snapshot, at } => (snapshot.clone(), *at, false),
            RelationState::Skipped => (Snapshot::default(), Lsn::ZERO, true),
            RelationState::Planned => {
                return Err(Error::failed(format!("{} is not copied yet", r.table)).hint("start hyperlift again: it goes on with the copy"));
            }
        };
        let table = table_of(entry);
        let Some(shape) = shapes.remove(&table) else {
            if skipped {
                continue;
            }
            return Err(Error::failed(format!("{} is gone from the target", r.table)).hint("who dropped it? Run `hyperlift clean` and start again"));
        };
        names.push(entry.table.clone());
        spread.push(entry.spread);
        relations.push(Relation { oid: r.oid, table, lane: entry.lane, snapshot, copied_at, skipped, shape });
    }
    let positions = ledger::lane_positions(client).await?;
    let lanes = ledger::migration(client).await?.map_or(1, |l| l.lanes) as usize;
    if positions.len() != lanes {
        return Err(Error::failed(format!("the target has positions of {} lanes instead of {lanes}", positions.len()))
            .hint("was schema _hyperlift changed? Run `hyperlift clean` and start again"));
    }
    let mut leaves = HashMap::new();
    for (index, relation) in relations.iter().enumerate().filter(|(_, r)| r.shape.kind == TableKind::Partitioned) {
        leaves.extend(catalog::leaves(client, &relation.table).await?.into_iter().map(|leaf| (leaf, RelationIndex(index))));
    }
    let skipped_before = entries.values().map(|e| (e.oid, e.missed)).collect();
    Ok(Replayed { relations, spread, names, positions, leaves, skipped_before })
}
