//! Stage 9: what needs no downtime. Foreign keys are validated and materialised views refreshed; late writes are looked for; then everything
//! that hyperlift made on either side is removed.

pub mod clean;

use super::{
    catch_up,
    copy::{Replication, large_objects},
    cutover,
};
use crate::{
    error::{Error, Kind, Result},
    event::{Command, Event, Level, Stage, StageState},
    lsn::Lsn,
    migration::{
        context::Context,
        relations,
        restore::{ddl, statements},
    },
    name::TableName,
    pg::{catalog, client::Client, ledger, own::Names, slot},
    replay::{
        receiver::{Places, Receiver},
        spool,
    },
};
use std::time::Duration;

/// Follows the handover while the receiver still runs.
pub async fn run(cx: &mut Context, replication: Replication) -> Result<()> {
    cx.enter(Stage::Done).await;
    let end = cx.record.end.unwrap_or_default();
    let finished = async {
        finish_objects(cx).await?;
        linger(cx, &replication.receiver, end).await
    };
    let finished = finished.await;
    replication.end().await;
    finished?;
    clean_up(cx).await
}

/// Removes what hyperlift made, and says how the migration ended.
async fn clean_up(cx: &mut Context) -> Result<()> {
    let cleaned = clean::finish(cx).await;
    cx.reporter.report(Event::StageChanged { stage: Stage::Done, state: StageState::Done }).await;
    if cx.record.late { Err(late_error()) } else { differing(cx).and(cleaned) }
}

/// What needs no downtime: foreign keys are validated, materialised views refreshed in the order of their dependencies.
async fn finish_objects(cx: &mut Context) -> Result<()> {
    let target = cx.target("cutover").await?;
    for statement in statements::read(cx)? {
        let Some(validate) = &statement.validate else { continue };
        if let Err(e) = cx.unless_stopped(async { Ok(target.batch_execute(validate).await?) }).await {
            if e.is_stop() {
                return Err(e);
            }
            cx.not_moved(statement.object, format!("is there, but NOT VALID: {e}")).await?;
        }
    }
    refresh_views(cx, &target).await?;
    if let Err(e) = changed_tables(cx).await {
        cx.not_moved("TABLES", format!("whether any were made or altered on the source since the copy is not known: {e}")).await?;
    }
    if let Err(e) = large_objects::look_for_changes(cx).await {
        cx.not_moved("LARGE OBJECTS", format!("whether they changed since the copy is not known: {e}")).await?;
    }
    cx.notice(Level::Info, "foreign keys validated, materialised views refreshed").await;
    Ok(())
}

/// Tables that were made on the source since the copy, or altered so that replay did not see it: the cutover is possible with them.
async fn changed_tables(cx: &mut Context) -> Result<()> {
    let source = cx.source("cutover").await?;
    let now = catalog::shapes(&source, &cx.plan.scope).await?;
    for (table, how) in catalog::differences(&cx.record.shapes, &now) {
        cx.not_moved(format!("TABLE {table}"), format!("{how}; compare it with the target's and move what is missing by hand")).await?;
    }
    Ok(())
}

/// Refreshes what is populated on the source. A view may read others through a function, which no catalogue tells of: what fails is tried
/// again for as long as others succeed; and a function may count on the `search_path` of its database (N-4).
async fn refresh_views(cx: &mut Context, target: &Client) -> Result<()> {
    let mut left = match cx.source("cutover").await {
        Ok(source) => catalog::populated_matviews(&source).await?,
        Err(e) => return cx.not_moved("MATERIALIZED VIEWS", format!("not refreshed: {e}")).await,
    };
    // Left out, or skipped when they were to be made.
    let names: Vec<String> = left.iter().map(TableName::sql).collect();
    let missing = target.query("select name from unnest($1::text[]) name where to_regclass(name) is null", &[&names]).await?;
    let missing: Vec<String> = missing.iter().map(|r| r.get("name")).collect();
    left.retain(|view| !missing.contains(&view.sql()));
    let path = ledger::migration(target).await?.and_then(|known| known.search_path);
    loop {
        let mut failed = Vec::new();
        let before = left.len();
        for view in left {
            if target.query_one("select to_regclass($1) is null as missing", &[&view.sql()]).await?.get("missing") {
                // Left out, or skipped when it was to be made.
                continue;
            }
            let refresh = format!("refresh materialized view {}", view.sql());
            let mut attempts = vec![refresh.clone()];
            attempts.extend(path.iter().map(|path| format!("begin; set local search_path = {path}; {refresh}; commit")));
            let mut result = Ok(());
            for sql in attempts {
                result = cx.unless_stopped(async { Ok(target.batch_execute(&sql).await?) }).await;
                match &result {
                    Ok(()) => break,
                    Err(e) if e.is_stop() => return result,
                    Err(_) => target.batch_execute("rollback").await?,
                }
            }
            if let Err(e) = result {
                failed.push((view, path.iter().fold(e, |e, path| ddl::with_search_path_hint(e, target.version(), path))));
            }
        }
        if failed.is_empty() || failed.len() == before {
            for (view, e) in failed {
                let hint = e.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
                cx.not_moved(format!("MATERIALIZED VIEW {view}"), format!("is there, but not refreshed: {e}{hint}")).await?;
            }
            return Ok(());
        }
        left = failed.into_iter().map(|(view, _)| view).collect();
    }
}

/// Goes on receiving: a late write is seen. Until the operator leaves, or for a while without one; then it is looked once more.
async fn linger(cx: &mut Context, receiver: &Receiver, end: Lsn) -> Result<()> {
    let mut status = receiver.status.clone();
    let mut seen = end;
    let over = tokio::time::sleep(cx.config.linger);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over, if !cx.config.interactive => break,
            command = cx.command() => match command {
                // Stopped behind the success line: nothing is undone, cleaning up still follows.
                Ok(Command::Leave) | Err(_) => break,
                Ok(other) => cx.refuse(&other, Stage::Done).await,
            },
            changed = status.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                let writes = status.borrow_and_update().written_after(seen);
                seen = writes.last().map_or(seen, |(_, last)| *last);
                late_writes(cx, &writes).await?;
            }
        }
    }
    let look = async {
        let now = catalog::mark_end_of_stream(&cx.source("cutover").await?).await?;
        receiver.reacher().read(now).await
    };
    match tokio::time::timeout(LAST_LOOK, look).await {
        Ok(Ok(status)) => late_writes(cx, &status.written_after(seen)).await?,
        Ok(Err(e)) => unseen(cx, &e.to_string()).await,
        Err(_) => unseen(cx, "the source does not answer").await,
    }
    Ok(())
}

async fn unseen(cx: &Context, why: &str) {
    cx.notice(Level::Warn, format!("whether the source was written to after the cutover could not be seen to the end: {why}")).await;
}

/// Tells of late writes, and remembers that there were some.
async fn late_writes(cx: &mut Context, writes: &[(u32, Lsn)]) -> Result<()> {
    if writes.is_empty() {
        return Ok(());
    }
    if !cx.record.late {
        cx.record.late = true;
        cx.save()?;
    }
    let source = cx.source("cutover").await?;
    cutover::report_late_writes(cx, &source, writes).await?;
    Ok(())
}

fn late_error() -> Error {
    Error::new(Kind::Differs, "the source was written to after the cutover").hint("the tables are named as late writes: move those rows by hand")
}

/// Tables that differ with the operator's consent are told of once more, and make another exit code.
fn differing(cx: &Context) -> Result<()> {
    let differences = catch_up::differences(cx);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, format!("the target differs from the source; not applied: {differences}"))
        .hint("these changes found no row, or collided: compare the tables and mend the rows by hand"))
}

/// What was written to the source since the end of the stream, while hyperlift did not run, or just before it was killed: what the
/// spool holds behind that end, and what the slot still has.
async fn written_since(cx: &Context, end: Lsn) -> Result<Vec<(u32, Lsn)>> {
    let source = cx.source("cutover").await?;
    let (Some(start), Some(slot)) = (cx.record.slot, slot::slot(&source, &Names::new(&cx.record.id).slot).await?) else { return Ok(Vec::new()) };
    let receiver =
        Receiver::start(relations::origin(cx), cx.work.spool(), Places { start, confirmed: slot.confirmed, copied: end }, cx.cancel.clone()).await?;
    let look = async {
        let now = catalog::mark_end_of_stream(&source).await?;
        receiver.reacher().reach(now).await
    };
    let reached = tokio::time::timeout(LAST_LOOK, look).await;
    let spooled = receiver.status.borrow().end;
    receiver.stop().await.ok();
    reached.map_err(|_| Error::connection("the source does not answer"))??;
    tokio::task::block_in_place(|| spool::writes_after(&cx.work.spool(), end, spooled))
}

/// A migration that is complete: validate, refresh, clean up; again if need be.
pub async fn resume(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Done).await;
    if cx.is_finished(Stage::Done) {
        cx.notice(Level::Info, "this migration is complete and cleaned up").await;
        return cx.finish(Stage::Done).await;
    }
    finish_objects(cx).await?;
    if let Some(end) = cx.record.end {
        match written_since(cx, end).await {
            Ok(writes) => late_writes(cx, &writes).await?,
            Err(e) => unseen(cx, &e.to_string()).await,
        }
    }
    let cleaned = clean::finish(cx).await;
    cx.reporter.report(Event::StageChanged { stage: Stage::Done, state: StageState::Done }).await;
    if cx.record.late { Err(late_error()) } else { differing(cx).and(cleaned) }
}

/// A source is given this long for the last look at what was written late.
const LAST_LOOK: Duration = Duration::from_secs(20);
