//! Starting replay where it has ended.

use futures_util::stream::FuturesUnordered;
use std::{
    collections::{HashMap, HashSet},
    time::Instant,
};
use tokio_util::task::TaskTracker;

use super::{
    super::copy::Replication,
    away::Joining,
    lag, lanes,
    replay::RunningReplay,
    schema_watch::SchemaWatch,
    status::{Analyze, RoundTrip},
};
use crate::{error::Result, event::Stage, lsn::Lsn, migration::context::Context, pg::catalog::exclusion};

/// Starts replay at the positions that the target has recorded.
pub async fn start(cx: &mut Context, replication: Replication) -> Result<RunningReplay> {
    cx.enter(Stage::CatchUp).await;
    let (tasks, cancel) = (TaskTracker::new(), cx.cancel.child_token());
    let prepared = async {
        let source = cx.source("lag").await?;
        let excluded = exclusion::resolve(&source, &cx.plan).await?;
        let joining = Joining::read(cx).await?;
        let lanes = lanes::start(cx, &replication, &tasks, &cancel, &HashMap::new()).await?;
        Ok((source, excluded, joining, lanes))
    };
    let (source, excluded, joining, lanes) = match prepared.await {
        Ok(prepared) => prepared,
        Err(e) => {
            replication.end().await;
            return Err(e);
        }
    };
    Ok(RunningReplay {
        replication,
        lanes,
        changes_before: 0,
        joining,
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
        taken_out: Vec::new(),
        schema: SchemaWatch::default(),
        blocked_lane: None,
        start: cx.record.slot.unwrap_or_default(),
        history: lag::History::default(),
        lag: None,
        excluded,
        confirmed: Instant::now(),
    })
}
