//! What all lanes share, and what they report and ask.

use std::sync::Arc;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    error::{Error, Result},
    lsn::{Lsn, Position},
    name::TableName,
    pg::connect::conninfo::Conninfo,
    replay::relation::{Relation, RelationCounters, Relations},
};

/// What a lane reports about itself. Absolute values.
#[derive(Clone, Debug, Default)]
pub struct LaneProgress {
    /// Everything before it is applied.
    pub position: Position,
    /// Recorded on the target, durably: the spool before it may go.
    pub durable: Lsn,
    /// It has nothing to apply.
    pub waiting: bool,
    /// Row changes applied in this run.
    pub changes: u64,
    /// Why it has not come further for some seconds, although it retries: the target is down, full or locked.
    pub blocked_by: Option<String>,
}

/// A change that the target refused or that found no row, or something else that only the operator can settle. Its lane, or the router,
/// waits for the answer.
pub struct Conflict {
    pub lane: u32,
    /// `None`: it concerns the whole lane.
    pub relation: Option<ConflictRelation>,
    /// What has to run on the target before the next attempt.
    pub sql: Option<String>,
    pub error: Error,
    pub answer: oneshot::Sender<ConflictAnswer>,
}

/// The relation of a conflict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConflictRelation {
    /// On the source.
    pub oid: u32,
    pub table: TableName,
}

impl From<&Relation> for ConflictRelation {
    fn from(relation: &Relation) -> Self {
        Self { oid: relation.oid, table: relation.table.clone() }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictAnswer {
    Retry,
    /// The operator accepts that this relation differs: changes that fail are counted, not applied.
    Accept,
}

/// What is done about a change that finds no row, or collides (I9).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConflictPolicy {
    /// The lane stops and the operator is asked.
    #[default]
    Stop,
    /// The change is counted and skipped, and replay goes on.
    Count,
}

/// What all lanes share.
#[derive(Clone)]
pub struct LaneShared {
    pub target: Conninfo,
    pub migration: String,
    /// What a transaction begins with in which the application's functions run ([`crate::pg::ledger::LedgerMigration::path`]); may be empty.
    pub path: String,
    /// The router alone changes them, and only at a barrier.
    pub relations: watch::Receiver<Arc<Relations>>,
    pub conflicts: mpsc::Sender<Conflict>,
    /// RelationCounters of the relations, by index.
    pub counters: Arc<Vec<watch::Sender<RelationCounters>>>,
    pub on_conflict: ConflictPolicy,
    /// Never sets: every change by itself, in order.
    pub in_order: bool,
    pub cancel: CancellationToken,
}

/// Asks the operator, and waits for the answer.
pub async fn ask(
    conflicts: &mpsc::Sender<Conflict>,
    lane: u32,
    relation: Option<ConflictRelation>,
    sql: Option<String>,
    error: Error,
) -> Result<ConflictAnswer> {
    let (answer, answered) = oneshot::channel();
    conflicts.send(Conflict { lane, relation, sql, error, answer }).await.map_err(|_| Error::stopped())?;
    answered.await.map_err(|_| Error::stopped())
}
