//! The last objects: with them replay could not have run. Once the first is made there is no way back to replay.

use std::collections::BTreeSet;

use crate::{
    error::Result,
    event::{CutoverStep, Stage},
    migration::{
        context::Context,
        restore::{self, ddl, memberships, statements},
    },
    name::TableName,
    pg::{
        catalog,
        client::Client,
        dump::{Phase, Statement},
        ledger,
    },
};

use super::step;

/// The step that the ledger has before the first of the last objects is made.
const POINT_OF_NO_RETURN: &str = "past-return";

/// Step 6: foreign keys (not valid yet), triggers with their state, rules, policies; then owners and grants.
pub async fn make(cx: &mut Context) -> Result<()> {
    let mut session = ddl::DdlSession::new(&cx.config, cx.application("cutover"), "");
    let target = session.client().await?;
    if !ledger::has_step(target, POINT_OF_NO_RETURN).await? {
        Box::pin(refresh(cx, target)).await?;
    }
    let all = statements::read(cx.work.path())?;
    ledger::record_step(target, POINT_OF_NO_RETURN).await?;
    let mut executed = ledger::executed(target, Phase::Cutover.as_str()).await?;
    executed.extend(ledger::executed(target, Phase::Handover.as_str()).await?);
    // An earlier version attached foreign partitions before the copy.
    executed.extend(ledger::executed(target, Phase::PreData.as_str()).await?);
    let last = memberships::runnable(cx, target, all.iter().filter(|s| s.phase == Phase::Cutover)).await?;
    let rights = memberships::runnable(cx, target, all.iter().filter(|s| s.phase == Phase::Handover)).await?;
    // Without an operator, who could repair the cause, it is better to hand over and report than to stay down.
    let prompts = cx.config.interactive.then(|| cx.prompts.sender());
    let reporter = cx.reporter.clone();
    let total = last.len() + rights.len();
    step::report(cx, CutoverStep::LastObjects, false, format!("{total} objects")).await;
    let work = async {
        let quiet = |_: usize, _: &Statement| {};
        ddl::run_all(&mut session, &last, &executed, &reporter, prompts.as_ref(), quiet).await?;
        ddl::run_all(&mut session, &rights, &executed, &reporter, None, quiet).await?;
        let target = session.client().await?;
        ledger::finish(target).await?;
        ledger::skipped(target).await
    };
    for skipped in cx.prompts.drive(Stage::Cutover, work, Err).await? {
        let accepted = skipped.phase != Phase::Cutover.as_str() || skipped.reason.starts_with(ddl::SKIPPED);
        if accepted {
            cx.not_moved(skipped.object, skipped.reason).await?;
        } else {
            cx.differs(skipped.object, skipped.reason).await?;
        }
    }
    step::report(cx, CutoverStep::LastObjects, true, format!("{total} objects")).await;
    Ok(())
}

/// Takes the last objects from a fresh dump where the source's schema has changed since the copy: a trigger that was dropped there must not
/// come back on the target.
async fn refresh(cx: &mut Context, target: &Client) -> Result<()> {
    let known = statements::read(cx.work.path())?;
    let source = cx.source("cutover").await?;
    if cx.record.schema_state.is_some() && cx.record.schema_state == Some(catalog::schema_state(&source).await?) {
        return Ok(());
    }
    drop(source);
    let fresh = cx.unless_stopped(restore::dump(&cx.sides())).await?.statements;
    let last: Vec<Statement> = fresh.into_iter().filter(|s| s.phase >= Phase::Cutover).collect();
    // A table that was made on the source after the copy is not on the target, and is reported by itself.
    let tables: BTreeSet<TableName> = last.iter().filter_map(|s| s.table.clone()).collect();
    let there = catalog::existing(target, &tables.into_iter().collect::<Vec<_>>()).await?;
    let last = last.into_iter().filter(|s| s.table.as_ref().is_none_or(|table| there.contains(table)));
    let statements: Vec<Statement> = known.into_iter().filter(|s| s.phase < Phase::Cutover).chain(last).collect();
    statements::write(cx, &statements)
}

/// Whether an earlier run has passed the point of no return.
pub async fn is_past_point_of_no_return(cx: &Context) -> Result<bool> {
    let target = cx.target("cutover").await?;
    Ok(ledger::migration(&target).await?.is_some() && ledger::has_step(&target, POINT_OF_NO_RETURN).await?)
}
