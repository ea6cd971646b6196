//! Stage 8: the end of the stream is applied, sequences are set, and the objects are made with which replay could not have run.

mod drain;
mod end_of_stream;
mod last_objects;
mod late_writes;
mod sequences;
mod step;

pub use self::{last_objects::is_past_point_of_no_return, late_writes::report as report_late_writes};

use std::time::Instant;

use super::{catch_up::RunningReplay, copy::Replication};
use crate::{
    error::Result,
    event::{Event, Stage, StageState},
    lsn::Lsn,
    migration::{context::Context, restore::statements},
    pg::object::ObjectKind,
};
use drain::Drain;

/// How a cutover ended.
pub enum CutoverOutcome {
    /// The target is handed over; the receiver goes on, so that late writes are seen.
    Complete(Replication),
    /// Nothing has changed: catch-up goes on.
    Aborted(Box<RunningReplay>),
}

/// Drains the stream, sets the sequences and makes the last objects. It can be aborted until the last objects.
pub async fn run(cx: &mut Context, mut replay: RunningReplay) -> Result<CutoverOutcome> {
    cx.enter(Stage::Cutover).await;
    let end = match drain::run(cx, &mut replay).await {
        Ok(Drain::Drained { end }) => end,
        Ok(Drain::GivenUp { reason }) => {
            cx.reporter.report(Event::CutoverAborted { reason }).await;
            cx.reporter.report(Event::StageChanged { stage: Stage::Cutover, state: StageState::Waiting }).await;
            cx.enter(Stage::CatchUp).await;
            return Ok(CutoverOutcome::Aborted(Box::new(replay)));
        }
        Err(e) => {
            replay.stop(cx).await.end().await;
            return Err(e);
        }
    };
    let (confirmed, (tables, changes)) = (replay.confirmed, replay.counts());
    let replication = replay.stop(cx).await;
    match hand_over(cx, end).await {
        Ok(()) => {
            report_completed(cx, tables, changes, confirmed).await;
            Ok(CutoverOutcome::Complete(replication))
        }
        Err(e) => {
            replication.end().await;
            Err(e)
        }
    }
}

/// Everything up to `end` is applied: the last objects are made.
async fn hand_over(cx: &mut Context, end: Lsn) -> Result<()> {
    // A later run must know from where on a write is late.
    cx.record.end = Some(end);
    cx.save()?;
    complete(cx).await
}

async fn complete(cx: &mut Context) -> Result<()> {
    last_objects::make(cx).await?;
    cx.record.completed = true;
    cx.finish(Stage::Cutover).await
}

async fn report_completed(cx: &Context, tables: u64, changes: u64, since: Instant) {
    let downtime_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    cx.reporter.report(Event::Completed { tables, changes, downtime_ms }).await;
}

/// Continues after the point of no return: replay has ended, but the last objects are not complete.
pub async fn resume(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Cutover).await;
    let started = Instant::now();
    complete(cx).await?;
    let tables = statements::read(cx.work.path())?.iter().filter(|s| s.object.kind == ObjectKind::Table).count() as u64;
    report_completed(cx, tables, 0, started).await;
    Ok(())
}
