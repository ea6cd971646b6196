//! Puts router and lanes together and lets them run. Pure wiring: channels and tasks.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::AbortHandle,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    lane::{Conflict, ConflictPolicy, Lane, LaneProgress, LaneShared},
    receiver::ReceiverStatus,
    relation::{Relation, RelationCounters, RelationIndex, Relations},
    router::{self, BarrierRequest, DistributionPolicy, LANE_QUEUE, RouterProgress, RouterSpec},
    schema_change::SchemaChange,
};
use crate::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    name::TableName,
    pg::{
        catalog::{Partition, ShapeColumn},
        client::Client,
        connect::conninfo::Conninfo,
        ledger::Spread,
    },
};

/// Conflicts that wait for somebody to take them.
const CONFLICT_QUEUE: usize = 64;
/// Requests for barriers that the router has not seen.
const BARRIER_QUEUE: usize = 128;

/// What is replayed, from where, and how.
pub struct ReplaySpec {
    pub source: Conninfo,
    /// A connection to the source for the router's questions; it opens another one when this one is lost.
    pub source_client: Client,
    pub target: Conninfo,
    /// The id of the migration, for names of connections.
    pub migration: String,
    /// What a transaction begins with in which the application's functions run ([`crate::pg::ledger::LedgerMigration::path`]); may be empty.
    pub path: String,
    pub relations: Vec<Relation>,
    /// How the keys of each of them are distributed over the lanes, as the ledger says.
    pub spread: Vec<Spread>,
    /// The position of each lane.
    pub positions: Vec<Position>,
    /// There is one lane, of this number, beside those of the migration. It leaves the changes of all other relations to them.
    pub side_lane: Option<u32>,
    /// Leaves of the target's partitioned tables, with their relation.
    pub leaves: HashMap<TableName, RelationIndex>,
    /// Partitions on the source of what is one table on the target, by OID.
    pub partitions: BTreeMap<u32, Partition>,
    /// Columns of the relations as they were copied, by OID. One that is not here is not watched for schema changes.
    pub shapes: HashMap<u32, Vec<ShapeColumn>>,
    /// Schema changes that were made on both sides since the last run: they are reported first.
    pub schema_changes: Vec<SchemaChange>,
    pub spool_dir: PathBuf,
    pub receiver: watch::Receiver<ReceiverStatus>,
    pub on_conflict: ConflictPolicy,
    pub distribution: DistributionPolicy,
    /// Never sets: every change by itself, in order.
    pub in_order: bool,
    pub cancel: CancellationToken,
}

/// Router and lanes at work.
pub struct ReplayHandle {
    /// As they are now: schema changes give them other names and shapes.
    pub relations: watch::Receiver<Arc<Relations>>,
    pub lanes: Vec<watch::Receiver<LaneProgress>>,
    /// By relation.
    pub counters: Vec<watch::Receiver<RelationCounters>>,
    pub router: watch::Receiver<RouterProgress>,
    /// Each waits for its answer.
    pub conflicts: mpsc::Receiver<Conflict>,
    /// Tables whose schema change was followed.
    pub schema_changes: mpsc::UnboundedReceiver<SchemaChange>,
    /// What ended a lane or the router; replay cannot go on without it.
    pub failures: mpsc::UnboundedReceiver<Error>,
    barriers: mpsc::Sender<BarrierRequest>,
    paused: watch::Sender<bool>,
    workers: Vec<AbortHandle>,
    tasks: TaskTracker,
    cancel: CancellationToken,
}

/// Starts router and lanes at their positions.
pub fn start(spec: ReplaySpec) -> ReplayHandle {
    let relations = Arc::new(Relations::from(spec.relations));
    let (counter_senders, counters): (Vec<_>, Vec<_>) = relations.iter().map(|_| watch::channel(RelationCounters::default())).unzip();
    let (relations_sender, relations) = watch::channel(relations);
    let (conflict_sender, conflicts) = mpsc::channel(CONFLICT_QUEUE);
    let shared = LaneShared {
        target: spec.target.clone(),
        migration: spec.migration.clone(),
        path: spec.path,
        relations: relations.clone(),
        conflicts: conflict_sender.clone(),
        counters: Arc::new(counter_senders),
        on_conflict: spec.on_conflict,
        in_order: spec.in_order,
        cancel: spec.cancel.clone(),
    };
    let mut workers = Workers::new();
    let (mut feeds, mut lanes) = (Vec::new(), Vec::new());
    for (number, position) in (spec.side_lane.unwrap_or(0)..).zip(&spec.positions) {
        let (feed, fed) = mpsc::channel(LANE_QUEUE);
        let (progress, reader) = watch::channel(LaneProgress { position: *position, durable: position.lsn, ..LaneProgress::default() });
        workers.spawn(format!("replay lane {number}"), Lane::new(number, *position, shared.clone(), fed, progress).run());
        feeds.push(feed);
        lanes.push(reader);
    }
    let (barriers, requests) = mpsc::channel(BARRIER_QUEUE);
    let (paused, pausing) = watch::channel(false);
    let (progress, router) = watch::channel(RouterProgress::default());
    let (schema_change_sender, schema_changes) = mpsc::unbounded_channel();
    for change in spec.schema_changes {
        let _ = schema_change_sender.send(change);
    }
    let router_spec = RouterSpec {
        migration: spec.migration,
        lanes: feeds,
        positions: spec.positions,
        side_lane: spec.side_lane,
        relations: relations_sender,
        spread: spec.spread,
        distribution: spec.distribution,
        spool_dir: spec.spool_dir,
        receiver: spec.receiver,
        progress,
        barriers: requests,
        paused: pausing,
        source: spec.source_client,
        source_info: spec.source,
        target: spec.target,
        leaves: spec.leaves,
        partitions: spec.partitions,
        shapes: spec.shapes,
        schema_changes: schema_change_sender,
        conflicts: conflict_sender,
    };
    workers.spawn("the replay router".into(), router::run(router_spec, spec.cancel.clone()));
    let Workers { handles, tasks, failures, .. } = workers;
    ReplayHandle {
        relations,
        lanes,
        counters,
        router,
        conflicts,
        schema_changes,
        failures,
        barriers,
        paused,
        workers: handles,
        tasks,
        cancel: spec.cancel,
    }
}

/// The tasks, and where they report that they failed.
struct Workers {
    handles: Vec<AbortHandle>,
    tasks: TaskTracker,
    failure: mpsc::UnboundedSender<Error>,
    failures: mpsc::UnboundedReceiver<Error>,
}

impl Workers {
    fn new() -> Self {
        let (failure, failures) = mpsc::unbounded_channel();
        Self { handles: Vec::new(), tasks: TaskTracker::new(), failure, failures }
    }

    /// Starts a task whose error, or panic, is reported.
    fn spawn(&mut self, name: String, work: impl Future<Output = Result<()>> + Send + 'static) {
        let task = tokio::spawn(work);
        self.handles.push(task.abort_handle());
        let failure = self.failure.clone();
        self.tasks.spawn(async move {
            let error = match task.await {
                Ok(Ok(())) => return,
                Ok(Err(e)) if e.is_stop() => return,
                Ok(Err(e)) => e,
                Err(e) if e.is_cancelled() => return,
                Err(e) => Error::failed(format!("it died: {e}")),
            };
            let _ = failure.send(error.context(name));
        });
    }
}

impl ReplayHandle {
    /// Waits until everything committed before `lsn` is applied by all lanes, which then stop together. It must be in the spool.
    pub fn barrier(&self, lsn: Lsn) -> impl Future<Output = Result<()>> + Send + use<> {
        let barriers = self.barriers.clone();
        async move {
            let gone = || Error::failed("the replay router has ended").hint("see the log for the reason");
            let (reached, answer) = oneshot::channel();
            barriers.send(BarrierRequest { lsn, reached }).await.map_err(|_| gone())?;
            answer.await.map_err(|_| gone())
        }
    }

    /// Pauses the router or lets it go on; returns whether it was paused.
    pub fn set_paused(&self, paused: bool) -> bool {
        self.paused.send_replace(paused)
    }

    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Everything before is applied by all lanes, as far as it is routed.
    pub fn applied(&self) -> Lsn {
        self.lanes.iter().map(|l| l.borrow().position.lsn).min().unwrap_or_default()
    }

    /// Everything before is recorded as applied on the target, by all lanes: the spool before it may go.
    pub fn durable(&self) -> Lsn {
        self.lanes.iter().map(|l| l.borrow().durable).min().unwrap_or_default()
    }

    /// Row changes applied in this run.
    pub fn changes(&self) -> u64 {
        self.lanes.iter().map(|l| l.borrow().changes).sum()
    }

    /// Ends router and lanes. Batches that are under way are rolled back.
    pub async fn stop(&self) {
        self.cancel.cancel();
        self.ended().await;
    }

    /// Waits until router and lanes have ended.
    pub async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Of the lanes in their order, then of the router: they end as those of a killed process.
    pub fn abort_handles(&self) -> &[AbortHandle] {
        &self.workers
    }
}
