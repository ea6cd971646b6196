//! The replay that runs: what is known of it, and how it is watched.

use super::{
    super::copy::Replication,
    away::Joining,
    lag,
    schema_watch::SchemaWatch,
    status::{Analyze, AppliedCounters, RoundTrip},
};
use crate::pg::catalog::{OpenWriter, exclusion::Excluded};
use futures_util::stream::FuturesUnordered;
use std::{
    collections::HashSet,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    error::Result,
    event::{Answer, Event},
    lsn::Lsn,
    migration::context::Context,
    name::TableName,
    pg::{client::Client, publication::Unpublished, slot},
    replay::{ReplayHandle, lane::Conflict, receiver::Delivered, relation::Relations},
};

/// A source that does not answer within this time is polled again later.
pub(super) const LOOK: Duration = Duration::from_secs(3);

pub(super) const SAMPLE_EVERY: Duration = Duration::from_millis(500);

/// Ends with the operator's answer to a conflict.
pub(super) type Answering = Pin<Box<dyn Future<Output = (Waiting, Result<Answer>)> + Send + Sync>>;

/// The running replay.
pub struct RunningReplay {
    pub replication: Replication,
    /// Router and ordinary lanes.
    pub(super) lanes: Lanes,
    /// Changes that lanes of this run have applied which have ended.
    pub(super) changes_before: u64,
    /// Relations that are copied meanwhile.
    pub(super) joining: Joining,
    /// Conflicts that wait for the operator's answer.
    pub(super) waiting: FuturesUnordered<Answering>,
    /// Tables of which the operator has accepted that they differ: other lanes need not ask again.
    pub(super) accepted: HashSet<TableName>,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
    /// For looking at the source.
    pub(super) source: Client,
    pub(super) analyze: Analyze,
    pub(super) round_trip: RoundTrip,
    pub(super) last_write: (Lsn, Instant),
    pub(super) slot_checked: Option<Instant>,
    pub(super) slot: Option<slot::Slot>,
    /// Tables that were not in their publication in the last poll.
    pub(super) taken_out: Vec<Unpublished>,
    /// In the last poll the publications were as they were made.
    pub(super) published: bool,
    /// Transactions of the source that have written and were open in the last two polls: their commits would come after the cutover. `None`:
    /// not checked twice yet.
    pub(super) open_writers: Option<Vec<OpenWriter>>,
    /// Those of the last poll.
    pub(super) writers_polled: Option<Vec<OpenWriter>>,
    /// What has changed in the source's schema since the copy.
    pub(super) schema: SchemaWatch,
    /// Lanes that are blocked, as it was last reported.
    pub(super) blocked_lane: Option<String>,
    /// Where the stream begins: nothing before it is owed to the target.
    pub(super) start: Lsn,
    /// Where the source stood, and when.
    pub(super) history: lag::History,
    pub lag: Option<u64>,
    /// What the filters leave out. It is resolved before the cutover, because that takes seconds with filters over thousands of tables.
    pub excluded: Excluded,
    /// When the cutover was confirmed last: the downtime begins.
    pub confirmed: Instant,
}

/// The router and its lanes.
pub(super) struct Lanes {
    pub(super) handle: ReplayHandle,
    /// By relation.
    pub(super) counters: Vec<AppliedCounters>,
}

/// How far replay has come: everything before is applied.
pub(super) struct Applied {
    pub(super) lanes: Vec<Lsn>,
    /// The slowest of them.
    pub(super) all: Lsn,
}

/// A conflict that the operator was asked about.
pub(super) struct Waiting {
    pub(super) conflict: Conflict,
    pub(super) table: Option<TableName>,
}

impl RunningReplay {
    pub(super) fn relations(&self) -> Arc<Relations> {
        self.lanes.handle.relations.borrow().clone()
    }

    /// The position of each lane, and of replay as a whole.
    pub(super) fn applied(&self) -> Applied {
        // The lanes first: what is received meanwhile must not count as theirs.
        let lanes: Vec<Lsn> = self.lanes.handle.lanes.iter().map(|l| l.borrow().position.lsn.max(self.start)).collect();
        let status = self.replication.receiver.status.borrow();
        let Delivered { wal, spool_end } = status.delivered;
        let nothing_under_way = status.end.lsn >= spool_end && self.lanes.handle.router.borrow().routed >= status.end.lsn;
        // A lane that has applied all that came has no lag: what the source wrote since is not for us.
        let lanes: Vec<Lsn> = lanes.into_iter().map(|lsn| if nothing_under_way && lsn >= status.end.lsn { lsn.max(wal) } else { lsn }).collect();
        Applied { all: lanes.iter().min().copied().unwrap_or(self.start), lanes }
    }

    /// Waits until everything up to `lsn` is received, spooled and applied by all lanes, which then stop together.
    pub fn barrier(&self, lsn: Lsn) -> impl Future<Output = Result<()>> + use<> {
        let mut receiver = self.replication.receiver.waiter();
        let barrier = self.lanes.handle.barrier(lsn);
        Box::pin(async move {
            receiver.spooled(lsn).await?;
            barrier.await
        })
    }

    /// A paused replay would never drain.
    pub async fn resume(&self, cx: &Context) {
        if self.lanes.handle.set_paused(false) {
            cx.reporter.report(Event::Paused { paused: false }).await;
        }
    }

    /// Changes applied in this run.
    pub fn changes(&self) -> u64 {
        self.changes_before + self.lanes.handle.changes()
    }

    pub fn counts(&self) -> (u64, u64) {
        (self.relations().iter().filter(|r| !r.skipped).count() as u64, self.changes())
    }
}
