//! The walk through a migration: nine stages in their order, and where a later run takes it up again.

pub mod context;
pub mod prompts;
pub mod relations;
pub mod restore;
pub mod stages;

use self::{
    context::Context,
    stages::{
        catch_up, copy,
        cutover::{self, CutoverOutcome},
        done, hypertables, identity, preflight, schema, verify,
    },
};
use std::time::Duration;

use crate::{
    error::{Error, Result},
    event::{Event, SlotStatus, Stage},
    pg::{own::Names, slot},
};

/// After a failure the source is asked this long for the slot.
const SLOT_TIMEOUT: Duration = Duration::from_secs(3);

/// Runs the migration to its end, or to a stop. Every step can be killed and run again (I12).
pub async fn run(cx: &mut Context) -> Result<()> {
    cx.reporter
        .report(Event::Opened {
            id: cx.record.id.clone(),
            dir: cx.work.path().display().to_string(),
            source: cx.endpoints.0.clone(),
            target: cx.endpoints.1.clone(),
            resumed: cx.work.is_resumed(),
            analyze_below: cx.config.analyze_below,
        })
        .await;
    cx.forget_unknown();
    for (object, reason) in cx.record.not_moved.clone() {
        cx.reporter.report(Event::NotMoved { object, reason }).await;
    }
    let result = stages(cx).await;
    match &result {
        Ok(()) => {}
        Err(e) if e.is_stop() || cx.cancel.is_cancelled() => {
            cx.reporter.report(Event::Stopped { stage: cx.current() }).await;
            return Err(Error::stopped());
        }
        Err(e) => {
            tracing::error!(error = %e, hint = e.hint, "the migration failed");
            report_lost_slot(cx).await;
            cx.reporter.report(Event::Failed { message: e.to_string(), hint: e.hint.clone() }).await;
        }
    }
    result
}

/// Reports that the slot is gone or invalidated, so that nothing says that it holds WAL. A source that does not answer is not waited for.
async fn report_lost_slot(cx: &Context) {
    if cx.record.slot.is_none() {
        return;
    }
    let name = Names::new(&cx.record.id).slot;
    let ask = async { slot::slot(&cx.source("slot").await?, &name).await };
    let wal_status = match tokio::time::timeout(SLOT_TIMEOUT, ask).await {
        Ok(Ok(None)) => SlotStatus::GONE,
        Ok(Ok(Some(slot))) if slot.invalidated.is_some() => SlotStatus::LOST,
        _ => return,
    };
    cx.reporter.report(Event::SlotChecked(SlotStatus { wal_status: wal_status.into(), safe_wal_bytes: None })).await;
}

/// The nine stages. Each knows from the record and from the target what an earlier run has finished, and does the rest.
async fn stages(cx: &mut Context) -> Result<()> {
    cx.refuse_other_scope()?;
    if cx.record.completed {
        cx.refuse_other_databases().await?;
        return done::resume(cx).await;
    }
    // Only the target is asked, because the source may be gone by then.
    if cx.is_finished(Stage::CatchUp) && cutover::is_past_point_of_no_return(cx).await? {
        cx.refuse_other_databases().await?;
        cutover::resume(cx).await?;
        return done::resume(cx).await;
    }
    preflight::run(cx).await?;
    identity::run(cx).await?;
    schema::run(cx).await?;
    hypertables::run(cx).await?;
    let replication = copy::run(cx).await?;
    let mut replay = catch_up::start(cx, replication).await?;
    let replication = loop {
        replay = Box::pin(catch_up::run(cx, replay)).await?;
        // It has no comparison to run yet. When it has one, it belongs before the confirmation: it must not add to the downtime.
        verify::run(cx).await;
        match Box::pin(cutover::run(cx, replay)).await? {
            CutoverOutcome::Complete(replication) => break replication,
            CutoverOutcome::Aborted(goes_on) => replay = *goes_on,
        }
    };
    done::run(cx, replication).await
}
