//! Router and lanes are started where they have ended: the configuration and the ledger say what is replayed, and how.

use std::collections::HashMap;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    super::copy::Replication,
    counters,
    replay::Lanes,
    replayed::{self, Replayed},
    slow_tables,
};
use crate::{
    config::OnConflict,
    error::Result,
    migration::context::Context,
    name::TableName,
    pg::{catalog, client::Client, ledger},
    replay::{
        self, ReplayHandle, ReplaySpec,
        lane::ConflictPolicy,
        relation::{Relation, RelationCounters},
        router::DistributionPolicy,
        schema_change::SchemaChange,
    },
};

/// Starts the router and the ordinary lanes. `earlier` is what lanes of this run have counted before, by OID.
pub async fn start(
    cx: &mut Context,
    replication: &Replication,
    tasks: &TaskTracker,
    cancel: &CancellationToken,
    earlier: &HashMap<u32, RelationCounters>,
) -> Result<Lanes> {
    let source = cx.source("tables").await?;
    let target = cx.target("catch-up").await?;
    // What was dropped on the source may be dropped on the target by now.
    let there = catalog::names_of(&source, &replication.relations.iter().map(|r| r.oid).collect::<Vec<_>>()).await?;
    let on_source: Vec<_> = replication.relations.iter().filter(|r| there.contains_key(&r.oid)).cloned().collect();
    let Replayed { relations, spread, names, positions, leaves, skipped_before } = replayed::read(&target, &on_source).await?;
    // Best effort: without it slow tables are not reported, but replay works.
    let suspects = slow_tables::suspects(&source, &target, &replication.relations, &relations).await.unwrap_or_default();
    let scanned = if suspects.is_empty() { None } else { slow_tables::rows_scanned(&target, &suspects).await.ok() };
    let schema_changes = renamed(cx, &relations, names);
    let what = Replayed { relations, spread, names: Vec::new(), positions, leaves, skipped_before: HashMap::new() };
    let cancel = cancel.child_token();
    let handle = run(cx, &target, replication, what, Which { side_lane: None, schema_changes }, cancel.clone()).await?;
    if !suspects.is_empty() {
        let watch = slow_tables::Watch {
            suspects,
            counters: handle.counters.clone(),
            lanes: handle.lanes.clone(),
            target: cx.config.target.clone(),
            application: cx.application("slow-tables"),
            reporter: cx.reporter.clone(),
        };
        tasks.spawn(cancel.run_until_cancelled_owned(watch.run(scanned)));
    }
    let relations = handle.relations.borrow().clone();
    let counters = counters::begin(cx, &relations, &skipped_before, handle.counters.clone(), earlier).await;
    Ok(Lanes { handle, counters })
}

/// Starts the router and the lane that bring relations to where the others are.
pub async fn side_lane(cx: &Context, replication: &Replication, side_lane: u32, cancel: CancellationToken) -> Result<ReplayHandle> {
    let target = cx.target("catch-up").await?;
    let what = replayed::read_side(&target, &replication.relations, side_lane).await?;
    run(cx, &target, replication, what, Which { side_lane: Some(side_lane), schema_changes: Vec::new() }, cancel).await
}

/// Which lanes are started.
struct Which {
    side_lane: Option<u32>,
    /// They are reported first.
    schema_changes: Vec<SchemaChange>,
}

async fn run(
    cx: &Context,
    target: &Client,
    replication: &Replication,
    what: Replayed,
    which: Which,
    cancel: CancellationToken,
) -> Result<ReplayHandle> {
    Ok(replay::start(ReplaySpec {
        source: cx.config.source.clone(),
        source_client: cx.source("router").await?,
        target: cx.config.target.clone(),
        migration: cx.record.id.clone(),
        path: ledger::migration(target).await?.map_or_else(String::new, |known| known.path()),
        schema_changes: which.schema_changes,
        relations: what.relations,
        spread: what.spread,
        positions: what.positions,
        side_lane: which.side_lane,
        leaves: what.leaves,
        partitions: cx.record.partitions.clone(),
        shapes: cx.record.shapes.values().map(|s| (s.oid, s.columns.clone())).collect(),
        spool_dir: cx.work.spool(),
        receiver: replication.receiver.status.clone(),
        on_conflict: match cx.config.on_conflict {
            OnConflict::Stop | OnConflict::Copy => ConflictPolicy::Stop,
            OnConflict::Count => ConflictPolicy::Count,
        },
        distribution: DistributionPolicy::Hot,
        in_order: false,
        cancel,
    }))
}

/// Tables that were renamed on both sides since the last run.
fn renamed(cx: &Context, relations: &[Relation], names: Vec<TableName>) -> Vec<SchemaChange> {
    let renamed = relations.iter().zip(names).filter(|(relation, before)| relation.table != *before && !relation.away && !relation.skipped);
    let change = |(relation, before): (&Relation, TableName)| {
        let columns = cx.record.shapes.values().find(|s| s.oid == relation.oid).map_or_else(Vec::new, |s| s.columns.clone());
        SchemaChange { oid: relation.oid, before, now: relation.table.clone(), columns }
    };
    renamed.map(change).collect()
}
