//! What is replayed, as the ledger and the tables of the target say it.

use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    lsn::Position,
    name::TableName,
    pg::{
        catalog::{self, SourceRelation},
        client::Client,
        ledger::{self, RelationEntry, RelationState, Spread},
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

/// What the ordinary lanes replay: all relations, but of those that are away nothing.
pub async fn read(client: &Client, sources: &[SourceRelation]) -> Result<Replayed> {
    let positions = ledger::lane_positions(client).await?;
    let lanes = ledger::migration(client).await?.map_or(1, |l| l.lanes) as usize;
    if positions.len() != lanes {
        return Err(Error::failed(format!("the target has positions of {} lanes instead of {lanes}", positions.len()))
            .hint("was schema _hyperlift changed? Run `hyperlift clean` and start again"));
    }
    let entries = ledger::relations(client).await?;
    let replayed = |entry: &RelationEntry| Ok(Relation { lane: entry.lane, ..as_copied(entry, entry.side_lane.is_some())? });
    of_entries(client, sources, entries, positions, replayed).await
}

/// What a side lane replays: the relations that it brings to where the others are.
pub async fn read_side(client: &Client, sources: &[SourceRelation], side_lane: u32) -> Result<Replayed> {
    let mut entries = ledger::relations(client).await?;
    entries.retain(|_, entry| entry.side_lane == Some(side_lane));
    let position = ledger::side_position(client, side_lane).await?;
    of_entries(client, sources, entries, vec![position], |entry| as_copied(entry, false)).await
}

/// A relation by its entry, without its table.
fn as_copied(entry: &RelationEntry, away: bool) -> Result<Relation> {
    let relation = Relation { oid: entry.oid, joined: entry.joined, away, ..Relation::default() };
    match &entry.state {
        RelationState::Copied { snapshot, at } => Ok(Relation { snapshot: snapshot.clone(), copied_at: *at, ..relation }),
        RelationState::Skipped => Ok(Relation { skipped: true, ..relation }),
        RelationState::Planned if away => Ok(relation),
        RelationState::Planned => {
            Err(Error::failed(format!("{} is not copied yet", entry.table)).hint("start hyperlift again: it goes on with the copy"))
        }
    }
}

/// Reads the tables of these entries from the target.
async fn of_entries(
    client: &Client,
    sources: &[SourceRelation],
    entries: HashMap<u32, RelationEntry>,
    positions: Vec<Position>,
    replayed: impl Fn(&RelationEntry) -> Result<Relation>,
) -> Result<Replayed> {
    let timescale = timescale::inspect(client).await?.installed.is_some();
    let mut entries: Vec<RelationEntry> = entries.into_values().collect();
    entries.sort_by_key(|entry| entry.oid);
    // Under the names that they have on the target: the source's may be others by now, and then replay stops at the right place.
    let targets: Vec<u32> = entries.iter().filter_map(|e| e.target_oid).collect();
    let called = catalog::names_of(client, &targets).await?;
    let table_of = |entry: &RelationEntry| entry.target_oid.and_then(|oid| called.get(&oid)).unwrap_or(&entry.table).clone();
    // Another relation may have its table by now.
    let has_table = |entry: &RelationEntry| entry.state != RelationState::Skipped || entry.target_oid.is_some();
    let tables: Vec<TableName> = entries.iter().filter(|entry| has_table(entry)).map(table_of).collect();
    let shapes = target_table::target_tables(client, &tables, timescale).await?;
    let (mut relations, mut spread, mut names) = (Vec::new(), Vec::new(), Vec::new());
    for entry in &entries {
        let (relation, table) = (replayed(entry)?, table_of(entry));
        let Some(shape) = shapes.get(&table).filter(|_| has_table(entry)).cloned() else {
            if relation.skipped || sources.iter().all(|r| r.oid != entry.oid) {
                // Dropped on both sides: its last changes do not count.
                spread.push(entry.spread);
                names.push(entry.table.clone());
                relations.push(Relation { table, skipped: true, ..relation });
                continue;
            }
            return Err(
                Error::failed(format!("{} is gone from the target", entry.table)).hint("who dropped it? Run `hyperlift clean` and start again")
            );
        };
        names.push(entry.table.clone());
        spread.push(entry.spread);
        relations.push(Relation { table, shape, ..relation });
    }
    let mut leaves = HashMap::new();
    for (index, relation) in relations.iter().enumerate().filter(|(_, r)| r.shape.kind == TableKind::Partitioned) {
        leaves.extend(catalog::leaves(client, &relation.table).await?.into_iter().map(|leaf| (leaf, RelationIndex(index))));
    }
    let skipped_before = entries.iter().map(|e| (e.oid, e.missed)).collect();
    Ok(Replayed { relations, spread, names, positions, leaves, skipped_before })
}
