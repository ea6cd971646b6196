//! What the router is given, and what it reports.

use jiff::Timestamp;
use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};
use tokio::sync::{mpsc, oneshot, watch};

use crate::{
    lsn::{Lsn, Position},
    name::TableName,
    pg::{
        catalog::{Partition, ShapeColumn},
        client::Client,
        connect::conninfo::Conninfo,
        ledger::Spread,
    },
    replay::{
        lane::{Conflict, Feed},
        receiver::ReceiverStatus,
        relation::{RelationIndex, Relations},
        schema_change::SchemaChange,
    },
};

/// Messages on their way to one lane.
pub const LANE_QUEUE: usize = 64;

/// What the router reports about itself.
#[derive(Clone, Debug, Default)]
pub struct RouterProgress {
    /// All transactions that ended up to here were handed to the lanes.
    pub routed: Lsn,
    pub last_commit: Option<Timestamp>,
}

/// A request that all lanes stop together once everything committed before `lsn` is applied. They go on when the answer is sent.
pub struct BarrierRequest {
    pub lsn: Lsn,
    pub reached: oneshot::Sender<()>,
}

/// Whether the keys of one relation are distributed over all lanes, where that is possible.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DistributionPolicy {
    /// When it has most of a stream that lanes cannot keep up with.
    #[default]
    Hot,
    /// As soon as its first change is routed.
    All,
    Never,
}

/// What the router works with.
pub struct RouterSpec {
    /// Of the migration, for names of connections.
    pub migration: String,
    pub lanes: Vec<mpsc::Sender<Feed>>,
    /// The position of each lane when the run begins.
    pub positions: Vec<Position>,
    /// There is one lane, of this number, beside those of the migration. It leaves the changes of all other relations to them.
    pub side_lane: Option<u32>,
    /// The replayed relations. The router alone changes them, and only while all lanes stop.
    pub relations: watch::Sender<Arc<Relations>>,
    /// How the keys of each relation are distributed over the lanes.
    pub spread: Vec<Spread>,
    pub distribution: DistributionPolicy,
    pub spool_dir: PathBuf,
    pub receiver: watch::Receiver<ReceiverStatus>,
    pub progress: watch::Sender<RouterProgress>,
    pub barriers: mpsc::Receiver<BarrierRequest>,
    pub paused: watch::Receiver<bool>,
    /// For the roots of leaves that were created during the run.
    pub source: Client,
    pub source_info: Conninfo,
    pub target: Conninfo,
    /// Leaves of the target's partitioned tables, with their relation.
    pub leaves: HashMap<TableName, RelationIndex>,
    /// Partitions on the source of what is one table on the target, by OID.
    pub partitions: BTreeMap<u32, Partition>,
    /// Columns of the relations as they were copied, by OID. One that is not here is not watched for schema changes.
    pub shapes: HashMap<u32, Vec<ShapeColumn>>,
    pub schema_changes: mpsc::UnboundedSender<SchemaChange>,
    pub conflicts: mpsc::Sender<Conflict>,
}
