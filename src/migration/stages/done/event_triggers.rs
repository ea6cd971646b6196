//! Event triggers of the source are made on the target last of all: they would fire at hyperlift's own statements, also at those with which
//! it validates, refreshes and removes its ledger.

use crate::{
    error::Result,
    event::Level,
    migration::{
        context::Context,
        restore::{ddl, memberships, statements},
    },
    pg::{
        dump::{Phase, Statement},
        event_triggers,
    },
};

/// Says that they are still to come, because the application is at work on the target already.
pub async fn announce(cx: &Context) -> Result<()> {
    if statements::read(cx.work.path())?.iter().any(|s| s.phase == Phase::EventTrigger) {
        cx.notice(Level::Info, "the event triggers of the source are made on the target at the very end, when hyperlift has cleaned up").await;
    }
    Ok(())
}

/// Makes those that are not there. The ledger is gone by now, so a run that was killed before knows by their names what it has made.
pub async fn make(cx: &mut Context) -> Result<()> {
    let all: Vec<Statement> = statements::read(cx.work.path())?.into_iter().filter(|s| s.phase == Phase::EventTrigger).collect();
    if all.is_empty() {
        return Ok(());
    }
    let target = cx.target("event-triggers").await?;
    let there = event_triggers::names(&target).await?;
    let mut due = memberships::runnable(cx, &target, all.iter()).await?;
    due.retain(|s| !(s.sql.starts_with("CREATE EVENT TRIGGER") && there.contains(&s.object.name)));
    let together = due.iter().map(|s| s.sql.trim_end_matches(';')).collect::<Vec<_>>().join(";\n");
    if ddl::in_transaction(&target, &together).await.is_ok() {
        return Ok(());
    }
    for statement in due {
        if let Err(e) = ddl::in_transaction(&target, statement.sql.trim_end_matches(';')).await {
            cx.not_moved(&statement.object, e.to_string()).await?;
        }
    }
    Ok(())
}
