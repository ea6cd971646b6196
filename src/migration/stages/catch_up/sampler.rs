//! Lag, rates and positions, measured twice a second.

use super::replay::{Applied, LOOK, RunningReplay};
use crate::pg::own::Names;
use std::time::{Duration, Instant};
use tokio::sync::watch;

use crate::{
    error::Result,
    event::{Event, LaneStatus, ReplayStatus, SlotStatus, Stage},
    lsn::Lsn,
    migration::context::Context,
    pg::{catalog, slot},
    replay::lane::LaneProgress,
    state::between,
};

impl RunningReplay {
    pub(super) async fn sample(&mut self, cx: &mut Context) -> Result<()> {
        if self.replication.receiver.has_ended() {
            return Err(self.replication.receiver.status.borrow().ended());
        }
        let asked = Instant::now();
        let (source, source_time) = match tokio::time::timeout(LOOK, catalog::flushed_lsn_and_time(&self.source)).await {
            Ok(Ok(found)) => found,
            Ok(Err(e)) if !e.is_transient() => return Err(e.context("source")),
            _ => {
                // The receiver reports the broken source; here it is only polled again.
                if let Ok(Ok(fresh)) = tokio::time::timeout(LOOK, cx.source("lag")).await {
                    self.source = fresh;
                }
                return Ok(());
            }
        };
        let Applied { all: applied, lanes: positions } = self.applied();
        let status = self.replication.receiver.status.borrow().clone();
        let durable = self.joining.from().map_or_else(|| self.lanes.handle.durable(), |from| from.min(self.lanes.handle.durable()));
        self.replication.receiver.applied(durable);
        self.history.note(source, asked);
        self.history.forget_before(durable);
        self.round_trip.measure(source, applied);
        if status.last_write() != self.last_write.0 {
            self.last_write = (status.last_write(), Instant::now());
        }
        let lag = source.since(applied);
        self.lag = Some(lag);
        let last_commit = self.lanes.handle.router.borrow().last_commit;
        let (now, since_commit) = (Instant::now(), last_commit.map(|at| between(at, source_time)));
        let lag_ms = |lsn: Lsn| self.history.lag(lsn, now, since_commit).map(|d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX));
        let lane = |(i, (progress, applied)): (usize, (&watch::Receiver<LaneProgress>, Lsn))| {
            let p = progress.borrow();
            LaneStatus {
                lane: i as u32,
                applied,
                lag: source.since(applied),
                lag_ms: lag_ms(applied),
                waiting: p.waiting,
                blocked: p.blocked_by.clone(),
            }
        };
        let lanes = self.lanes.handle.lanes.iter().zip(positions).enumerate().map(lane).collect();
        let changes = self.changes();
        let (lag_ms, source_time) = (lag_ms(applied), Some(source_time));
        cx.reporter
            .report(Event::Replayed(ReplayStatus { source, received: status.heard, applied, lag, lag_ms, changes, last_commit, source_time, lanes }))
            .await;
        self.report_counters(cx).await?;
        if self.slot_checked.is_none_or(|t| t.elapsed() > Duration::from_secs(5)) || self.schema.has_news() {
            self.slot_checked = Some(Instant::now());
            self.slot = slot::slot(&self.source, &Names::new(&cx.record.id).slot).await.unwrap_or(None);
            self.poll_publications(cx).await?;
            self.poll_source(cx).await;
            Box::pin(self.follow_names(cx)).await?;
            if cx.current() == Stage::CatchUp {
                // In boxes, because their futures are large.
                let due = Box::pin(self.due_by_source(cx, false)).await.unwrap_or_default();
                Box::pin(self.leave(cx, due)).await?;
            }
            if let Some(s) = &self.slot {
                cx.reporter.report(Event::SlotChecked(SlotStatus { wal_status: s.wal_status.clone(), safe_wal_bytes: s.safe_wal_bytes })).await;
            }
        }
        self.poll_writers().await;
        if cx.current() == Stage::CatchUp {
            Box::pin(self.poll_joining(cx)).await?;
        }
        self.analyze_when_near(cx, lag).await;
        cx.reporter.report(Event::GatesChecked { gates: self.gates(cx) }).await;
        Ok(())
    }
}
