//! Starting replay where the last run has left it.

use super::{
    super::copy::Replication,
    counters, lag,
    replay::Replay,
    slow_tables,
    status::{Analyze, RoundTrip},
};
use crate::pg::catalog::exclusion::{self};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Instant,
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::TaskTracker;

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
        ledger::{self, RelationState},
        target_table::{self, TableKind},
        timescale,
    },
    replay::{
        lane::{self, Lane, Shared},
        relation::{Counters, Relation},
        router::{self, LANE_QUEUE, Router},
    },
};

/// Starts router and lanes where they stood.
pub async fn start(cx: &mut Context, replication: Replication) -> Result<Replay> {
    cx.enter(Stage::CatchUp).await;
    let started = async {
        let source = cx.source("lag").await?;
        let router_source = cx.source("router").await?;
        let target = cx.target("catch-up").await?;
        let path = ledger::migration(&target).await?.map_or_else(String::new, |known| known.path());
        let replayed = replayed(&target, &replication).await?;
        // Worth no failure.
        let suspects = slow_tables::suspects(&source, &target, &replication.relations, &replayed.relations).await.unwrap_or_default();
        let scanned = if suspects.is_empty() { None } else { slow_tables::rows_scanned(&target, &suspects).await.ok() };
        let excluded = exclusion::resolve(&source, &cx.plan).await?;
        Ok::<_, Error>((source, router_source, path, replayed, suspects, scanned, excluded))
    };
    let (source, router_source, path, replayed, suspects, scanned, excluded) = match started.await {
        Ok(found) => found,
        Err(e) => {
            replication.end().await;
            return Err(e);
        }
    };
    let Replayed { relations, names, positions, leaves, missed } = replayed;
    let relations = Arc::new(relations);
    let cancel = cx.cancel.child_token();
    let tasks = TaskTracker::new();
    let (failure, failures) = mpsc::unbounded_channel();
    let (trouble_sender, trouble) = mpsc::channel(64);
    let (counter_senders, counters): (Vec<_>, Vec<_>) = relations.iter().map(|_| watch::channel(Counters::default())).unzip();
    let shared = Shared {
        target: cx.config.target.clone(),
        migration: cx.record.id.clone(),
        path,
        relations: relations.clone(),
        trouble: trouble_sender,
        counters: Arc::new(counter_senders),
        on_conflict: match cx.config.on_conflict {
            OnConflict::Stop => lane::ConflictPolicy::Stop,
            OnConflict::Count => lane::ConflictPolicy::Count,
        },
        in_order: false,
        spreading: lane::Spreading::Hot,
        cancel: cancel.clone(),
    };
    let (mut feeds, mut lanes) = (Vec::new(), Vec::new());
    for (number, position) in positions.iter().enumerate() {
        let (feed, fed) = mpsc::channel(LANE_QUEUE);
        let (progress, seen) = watch::channel(lane::Progress { position: *position, durable: position.lsn, ..lane::Progress::default() });
        let lane = Lane::new(number as u32, *position, shared.clone(), fed, progress);
        watched(&tasks, &failure, format!("replay lane {number}"), lane.run());
        feeds.push(feed);
        lanes.push(seen);
    }
    let (barriers, requests) = mpsc::channel(4);
    let (paused, pausing) = watch::channel(false);
    let (router_progress, router) = watch::channel(router::Progress::default());
    let (reshaped, reshapes) = mpsc::unbounded_channel();
    for (relation, was) in relations.iter().zip(names).filter(|(relation, was)| relation.table != *was) {
        // Renamed on both sides since the last run.
        let columns = cx.record.shapes.values().find(|s| s.oid == relation.oid).map_or_else(Vec::new, |s| s.columns.clone());
        let _ = reshaped.send(router::Reshaped { oid: relation.oid, before: was, now: relation.table.clone(), columns });
    }
    let router_task = Router {
        shared,
        lanes: feeds,
        positions,
        spool_dir: cx.work.spool(),
        receiver: replication.receiver.status.clone(),
        progress: router_progress,
        barriers: requests,
        paused: pausing,
        source: router_source,
        source_info: cx.config.source.clone(),
        leaves,
        partitions: cx.record.partitions.clone(),
        shapes: cx.record.shapes.values().map(|s| (s.oid, s.columns.clone())).collect(),
        reshaped,
    };
    watched(&tasks, &failure, "the replay router".into(), router_task.run());
    if !suspects.is_empty() {
        let watch = slow_tables::Watch {
            suspects,
            counters: counters.clone(),
            lanes: lanes.clone(),
            target: cx.config.target.clone(),
            application: cx.application("slow-tables"),
            reporter: cx.reporter.clone(),
        };
        tasks.spawn(cancel.clone().run_until_cancelled_owned(watch.run(scanned)));
    }
    let counters = counters::begin(cx, &relations, &missed, counters).await;
    Ok(Replay {
        replication,
        relations,
        lanes,
        counters,
        router,
        barriers,
        paused,
        trouble,
        reshapes,
        failures,
        open: HashMap::new(),
        accepted: HashSet::new(),
        tasks,
        cancel,
        source,
        analyze: Analyze::NotYet,
        round_trip: RoundTrip::default(),
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

/// A worker whose error, or panic, reaches the stage.
fn watched(tasks: &TaskTracker, failure: &mpsc::UnboundedSender<Error>, name: String, work: impl Future<Output = Result<()>> + Send + 'static) {
    let failure = failure.clone();
    tasks.spawn(async move {
        let result = tokio::spawn(work).await.unwrap_or_else(|e| Err(Error::failed(format!("it died: {e}"))));
        if let Err(e) = result
            && !e.is_stop()
        {
            let _ = failure.send(e.context(name));
        }
    });
}

/// What is replayed, and from where on.
struct Replayed {
    /// As they were copied, with the shape of their tables on the target.
    relations: Vec<Relation>,
    /// What they were called when the last run ended.
    names: Vec<TableName>,
    /// Where each lane stands.
    positions: Vec<Position>,
    /// Of partitioned tables, with the index of their relation.
    leaves: HashMap<TableName, usize>,
    /// Changes that were not applied so far, by OID.
    missed: HashMap<u32, u64>,
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
    let (mut relations, mut names) = (Vec::new(), Vec::new());
    for r in &replication.relations {
        let Some(entry) = entries.get(&r.oid) else { continue };
        let (snapshot, copied_at, skipped) = match &entry.state {
            RelationState::Copied { snapshot, at } => (snapshot.clone(), *at, false),
            RelationState::Skipped => (crate::pg::snapshot::Snapshot::default(), Lsn::ZERO, true),
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
        relations.push(Relation { oid: r.oid, table, lane: entry.lane, snapshot, copied_at, skipped, target: shape, spread: entry.spread });
    }
    let positions = ledger::lane_positions(client).await?;
    let lanes = ledger::migration(client).await?.map_or(1, |l| l.lanes) as usize;
    if positions.len() != lanes {
        return Err(Error::failed(format!("the target has positions of {} lanes instead of {lanes}", positions.len()))
            .hint("was schema _hyperlift changed? Run `hyperlift clean` and start again"));
    }
    let mut leaves = HashMap::new();
    for (index, relation) in relations.iter().enumerate().filter(|(_, r)| r.target.kind == TableKind::Partitioned) {
        leaves.extend(catalog::leaves(client, &relation.table).await?.into_iter().map(|leaf| (leaf, index)));
    }
    let missed = entries.values().map(|e| (e.oid, e.missed)).collect();
    Ok(Replayed { relations, names, positions, leaves, missed })
}
