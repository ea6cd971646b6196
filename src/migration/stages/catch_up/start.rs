//! Starting replay where the last run has ended: the configuration and the ledger say what is replayed, and how.

use super::{
    super::copy::Replication,
    counters, lag,
    replay::{Analyze, Replay},
    slow_tables,
};
use crate::pg::catalog::exclusion::{self, Omitted};
use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::OnConflict,
    error::{Error, Result},
    event::Stage,
    lsn::{Lsn, Position},
    migration::context::Context,
    name::TableName,
    pg::{
        catalog,
        client::Client,
        ledger::{self, RelationState, Spread},
        snapshot::Snapshot,
        target_table::{self, TableKind},
        timescale,
    },
    replay::{
        self, ReplayHandle, ReplaySpec,
        lane::ConflictPolicy,
        relation::{Relation, RelationIndex},
        router::DistributionPolicy,
        schema_change::SchemaChange,
    },
};

/// Starts router and lanes at the positions that the target has recorded.
pub async fn start(cx: &mut Context, replication: Replication) -> Result<Replay> {
    cx.enter(Stage::CatchUp).await;
    let prepared = match prepare(cx, &replication).await {
        Ok(prepared) => prepared,
        Err(e) => {
            replication.end().await;
            return Err(e);
        }
    };
    let Prepared { source, spec, skipped_before, slow, excluded } = prepared;
    let cancel = spec.cancel.clone();
    let tasks = TaskTracker::new();
    let handle = replay::start(spec);
    watch_slow_tables(cx, slow, &handle, &tasks, cancel.clone());
    let relations = handle.relations.borrow().clone();
    let counters = counters::begin(cx, &relations, &skipped_before, handle.counters.clone()).await;
    Ok(Replay {
        replication,
        handle,
        counters,
        open: HashMap::new(),
        accepted: HashSet::new(),
        tasks,
        cancel,
        source,
        analyze: Analyze::NotYet,
        probe: None,
        round_trip: None,
        last_write: (Lsn::ZERO, Instant::now()),
        slot_checked: None,
        slot: None,
        prepared: None,
        altered: None,
        held_up: None,
        start: cx.record.slot.unwrap_or_default(),
        history: lag::History::default(),
        lag: None,
        excluded,
        confirmed: Instant::now(),
    })
}

struct Prepared {
    /// For the questions of the stage.
    source: Client,
    spec: ReplaySpec,
    /// Changes that earlier runs have skipped, by OID.
    skipped_before: HashMap<u32, u64>,
    slow: SlowTables,
    excluded: Omitted,
}

/// Tables that may be slow, and the rows that were read of each so far.
struct SlowTables {
    suspects: Vec<slow_tables::Suspect>,
    scanned: Option<Vec<u64>>,
}

async fn prepare(cx: &Context, replication: &Replication) -> Result<Prepared> {
    let source = cx.source("lag").await?;
    let source_client = cx.source("router").await?;
    let target = cx.target("catch-up").await?;
    let path = ledger::migration(&target).await?.map_or_else(String::new, |known| known.path());
    let Replayed { relations, spread, names, positions, leaves, skipped_before } = replayed(&target, replication).await?;
    // Best effort: without it slow tables are not reported, but replay works.
    let suspects = slow_tables::suspects(&source, &target, &replication.relations, &relations).await.unwrap_or_default();
    let scanned = if suspects.is_empty() { None } else { slow_tables::rows_scanned(&target, &suspects).await.ok() };
    let excluded = exclusion::resolve(&source, &cx.plan).await?;
    let spec = ReplaySpec {
        source: cx.config.source.clone(),
        source_client,
        target: cx.config.target.clone(),
        migration: cx.record.id.clone(),
        path,
        schema_changes: renamed(cx, &relations, names),
        relations,
        spread,
        positions,
        leaves,
        partitions: cx.record.partitions.clone(),
        shapes: cx.record.shapes.values().map(|s| (s.oid, s.columns.clone())).collect(),
        spool_dir: cx.work.spool(),
        receiver: replication.receiver.status.clone(),
        on_conflict: match cx.config.on_conflict {
            OnConflict::Stop => ConflictPolicy::Stop,
            OnConflict::Count => ConflictPolicy::Count,
        },
        distribution: DistributionPolicy::Hot,
        in_order: false,
        cancel: cx.cancel.child_token(),
    };
    Ok(Prepared { source, spec, skipped_before, slow: SlowTables { suspects, scanned }, excluded })
}

/// Tables that were renamed on both sides since the last run.
fn renamed(cx: &Context, relations: &[Relation], names: Vec<TableName>) -> Vec<SchemaChange> {
    let renamed = relations.iter().zip(names).filter(|(relation, before)| relation.table != *before);
    let change = |(relation, before): (&Relation, TableName)| {
        let columns = cx.record.shapes.values().find(|s| s.oid == relation.oid).map_or_else(Vec::new, |s| s.columns.clone());
        SchemaChange { oid: relation.oid, before, now: relation.table.clone(), columns }
    };
    renamed.map(change).collect()
}

fn watch_slow_tables(cx: &Context, slow: SlowTables, handle: &ReplayHandle, tasks: &TaskTracker, cancel: CancellationToken) {
    if slow.suspects.is_empty() {
        return;
    }
    let watch = slow_tables::Watch {
        suspects: slow.suspects,
        counters: handle.counters.clone(),
        lanes: handle.lanes.clone(),
        target: cx.config.target.clone(),
        application: cx.application("slow-tables"),
        reporter: cx.reporter.clone(),
    };
    tasks.spawn(cancel.run_until_cancelled_owned(watch.run(slow.scanned)));
}

/// What is replayed, and from where on.
struct Replayed {
    /// As they were copied, with the shape of their tables on the target.
    relations: Vec<Relation>,
    /// How their keys are distributed over the lanes.
    spread: Vec<Spread>,
    /// Their names when the last run ended.
    names: Vec<TableName>,
    /// The position of each lane.
    positions: Vec<Position>,
    /// Of partitioned tables, with their relation.
    leaves: HashMap<TableName, RelationIndex>,
    /// Changes that were not applied so far, by OID.
    skipped_before: HashMap<u32, u64>,
}

async fn replayed(client: &Client, replication: &Replication) -> Result<Replayed> {
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
