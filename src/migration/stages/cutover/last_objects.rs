//! The last objects: with them replay could not have run. Once the first is made there is no way back to replay.

use crate::{
    error::Result,
    event::{CutoverStep, Stage},
    migration::{
        context::Context,
        restore::{ddl, memberships, statements},
    },
    pg::{
        dump::{Phase, Statement},
        ledger,
    },
};

use super::step;

/// The step that the ledger has before the first of the last objects is made.
const POINT_OF_NO_RETURN: &str = "past-return";

/// Step 6: foreign keys (not valid yet), triggers with their state, rules, policies; then owners, grants and event triggers.
pub async fn make(cx: &mut Context) -> Result<()> {
    let all = statements::read(cx)?;
    let mut session = ddl::DdlSession::new(&cx.config, cx.application("cutover"), "");
    let target = session.client().await?;
    ledger::record_step(target, POINT_OF_NO_RETURN).await?;
    let mut executed = ledger::executed(target, Phase::Cutover.as_str()).await?;
    executed.extend(ledger::executed(target, Phase::Handover.as_str()).await?);
    let last = memberships::runnable(cx, target, all.iter().filter(|s| s.phase == Phase::Cutover)).await?;
    let rights = memberships::runnable(cx, target, all.iter().filter(|s| s.phase == Phase::Handover)).await?;
    let prompts = cx.prompts.sender();
    let reporter = cx.reporter.clone();
    let total = last.len() + rights.len();
    step::report(cx, CutoverStep::LastObjects, false, format!("{total} objects")).await;
    let work = async {
        let quiet = |_: usize, _: &Statement| {};
        ddl::run_all(&mut session, &last, &executed, &reporter, Some(&prompts), quiet).await?;
        ddl::run_all(&mut session, &rights, &executed, &reporter, None, quiet).await?;
        let target = session.client().await?;
        ledger::finish(target).await?;
        ledger::skipped(target).await
    };
    for (object, reason) in cx.prompts.drive(Stage::Cutover, work, Err).await? {
        cx.not_moved(object, reason).await?;
    }
    step::report(cx, CutoverStep::LastObjects, true, format!("{total} objects")).await;
    Ok(())
}

/// Whether an earlier run has passed the point of no return.
pub async fn is_past_point_of_no_return(cx: &Context) -> Result<bool> {
    let target = cx.target("cutover").await?;
    Ok(ledger::migration(&target).await?.is_some() && ledger::has_step(&target, POINT_OF_NO_RETURN).await?)
}
