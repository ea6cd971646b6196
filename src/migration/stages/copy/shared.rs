//! What the jobs of the copy share.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tokio::sync::{mpsc, watch};

use super::{
    chunks::Chunking,
    format::Types,
    indexes::IndexJob,
    queue::{CopyQueue, CopyQueueEntry},
    source::CopySource,
    tasks::StageTasks,
    throttle::Throttle,
};
use crate::{
    bus::Reporter,
    config::Config,
    event::{CopyProgress, Event, TableState},
    lsn::Lsn,
    migration::prompts::PromptSender,
    name::TableName,
    pg::{catalog::SourceRelation, target_table::TableKind},
};

/// What is done about a relation that cannot be copied because the source's schema was altered meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenAltered {
    /// Catch-up copies it, once its table on the target has the source's columns.
    Leave,
    /// The copy ends, and whoever began it begins it again.
    End,
}

/// What the jobs share.
pub struct CopyShared {
    pub config: Arc<Config>,
    pub reporter: Reporter,
    pub source: CopySource,
    /// `hyperlift/<id>/`
    pub prefix: String,
    /// Larger relations are cut, bytes.
    pub split: u64,
    pub types: Types,
    /// Partitioned tables of the source that are one table or one hypertable on the target.
    pub merged: HashSet<TableName>,
    /// TimescaleDB refuses ONLY on these.
    pub hypertables: HashMap<TableName, Chunking>,
    /// A transaction of the target begins with it, because checks and generated columns may call functions of the application.
    pub path: String,
    pub queue: CopyQueue,
    pub throttle: Throttle,
    /// How many jobs the operator wants.
    pub wanted: watch::Receiver<u32>,
    pub prompts: PromptSender,
    pub index_jobs: mpsc::UnboundedSender<IndexJob>,
    pub tasks: StageTasks,
    /// The state of the source's catalogs that the target's tables were made from; `None` while the target still follows.
    pub schema: Option<String>,
    pub when_altered: WhenAltered,
    /// The greatest L of all relations, for the receiver.
    pub copied_at: watch::Sender<Lsn>,
}

impl CopyShared {
    /// How statements name the relation's table on the target. One that has lost its partitions counts as partitioned, which makes no
    /// difference to it.
    pub fn kind_on_target(&self, relation: &SourceRelation) -> TableKind {
        match (self.hypertables.contains_key(&relation.table), relation.storage.is_partitioned()) {
            (true, _) => TableKind::Hypertable,
            (false, true) => TableKind::Partitioned,
            (false, false) => TableKind::Plain,
        }
    }

    pub fn progress(&self, table: &TableName, rows: u64, bytes: u64) {
        self.reporter.progress(Event::CopyProgress(CopyProgress { table: table.clone(), state: TableState::Copying, rows, bytes, error: None }));
    }

    /// A relation is copied at this L: its indexes can be built.
    pub async fn copied(&self, entry: CopyQueueEntry, at: Lsn, rows: u64, bytes: u64) {
        self.copied_at.send_modify(|greatest| *greatest = at.max(*greatest));
        self.settled(TableState::Waiting, entry, rows, bytes).await;
    }

    /// A relation is copied, skipped, or left to catch-up, where it is queued.
    pub async fn settled(&self, state: TableState, entry: CopyQueueEntry, rows: u64, bytes: u64) {
        let skipped = state != TableState::Waiting;
        let job = IndexJob { table: entry.relation.table, rows, bytes, statements: entry.statements, skipped, fresh: !skipped };
        self.reporter.report(Event::CopyProgress(CopyProgress { table: job.table.clone(), state, rows, bytes, error: None })).await;
        let _ = self.index_jobs.send(job);
        self.queue.settled();
    }
}
