//! Starting replay where the last run has ended: the configuration and the ledger say what is replayed, and how.

use super::{
    super::copy::Replication,
    counters, lag,
    replay::RunningReplay,
    replayed::{self, Replayed},
    schema_watch::SchemaWatch,
    slow_tables,
    status::{Analyze, RoundTrip},
};
use crate::pg::catalog::exclusion::{self, Excluded};
use futures_util::stream::FuturesUnordered;
use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    config::OnConflict,
    error::Result,
    event::Stage,
    lsn::Lsn,
    migration::context::Context,
    name::TableName,
    pg::{client::Client, ledger},
    replay::{self, ReplayHandle, ReplaySpec, lane::ConflictPolicy, relation::Relation, router::DistributionPolicy, schema_change::SchemaChange},
};

/// Starts router and lanes at the positions that the target has recorded.
pub async fn start(cx: &mut Context, replication: Replication) -> Result<RunningReplay> {
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
    Ok(RunningReplay {
        replication,
        handle,
        counters,
        waiting: FuturesUnordered::new(),
        accepted: HashSet::new(),
        tasks,
        cancel,
        source,
        analyze: Analyze::NotYet,
        round_trip: RoundTrip::default(),
        last_write: (Lsn::ZERO, Instant::now()),
        slot_checked: None,
        slot: None,
        published: false,
        open_writers: None,
        writers_polled: None,
        schema: SchemaWatch::default(),
        blocked_lane: None,
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
    excluded: Excluded,
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
    let Replayed { relations, spread, names, positions, leaves, skipped_before } = replayed::read(&target, replication).await?;
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
