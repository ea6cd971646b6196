//! Relations whose copy failed: tried again, or brought to the operator, who retries or skips them.

use std::sync::Arc;

use super::{format, queue::Task, shared::CopyShared, transfer};
use crate::{
    error::{Error, Result},
    event::{Event, Level, TableState},
    migration::prompts::Resolution,
    pg::{client, connect::session::Side, ledger, wire::Wire},
};

/// Bytes that are no text in their encoding.
const BAD_BYTES: &str = "22021";
/// Of a constraint, or of a partition that is missing.
const CHECK_VIOLATION: &str = "23514";

/// A relation failed: it is tried again under another snapshot, after passing trouble at once, else when the operator says so.
pub async fn failed(shared: &Arc<CopyShared>, mut task: Task, mut error: Error, (rows, bytes): (u64, u64)) -> Result<()> {
    if error.is_stop() {
        return Err(error);
    }
    if error.has_code(BAD_BYTES) && shared.types.encodings.0 == "SQL_ASCII" {
        error = error.hint(format::not_utf8(&task.relation));
    }
    let table = task.relation.table.clone();
    tracing::warn!(table = %table, %error, "the copy failed");
    task.tried = true;
    if error.is_transient() {
        shared.reporter.notice(Level::Warn, format!("copy {table}: {error}; trying again")).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        shared.queue.put_back(task);
        return Ok(());
    }
    if error.has_code(CHECK_VIOLATION) {
        error = error.hint(
            "if the check reads another table, that one may not be copied yet: retry. Otherwise the row breaks it on the source, too: \
             drop the constraint on the target until after the cutover, then retry",
        );
        if !std::mem::replace(&mut task.late, true) {
            match shared.queue.put_last(task) {
                Ok(()) => {
                    shared
                        .reporter
                        .report(Event::CopyProgress { table: table.clone(), state: TableState::Queued, rows: 0, bytes: 0, error: None })
                        .await;
                    let text =
                        format!("copy {table}: a check refuses a row, perhaps as it reads a table that comes later: tried again behind the others");
                    shared.reporter.notice(Level::Warn, text).await;
                    return Ok(());
                }
                Err(back) => task = back,
            }
        }
    }
    let told = error.hint.as_ref().map_or_else(|| error.to_string(), |hint| format!("{error}. What to do: {hint}"));
    let event = Event::CopyProgress { table, state: TableState::Failed, rows, bytes, error: Some(told) };
    shared.reporter.report(event).await;
    // The job goes on with others while the operator thinks.
    let asking = Arc::clone(shared);
    shared.tasks.run(async move { ask(&asking, task, error).await });
    Ok(())
}

async fn ask(shared: &CopyShared, mut task: Task, mut error: Error) -> Result<()> {
    let (table, oid) = (task.relation.table.clone(), task.relation.oid);
    loop {
        let answer = shared.asker.ask(table.to_string(), error.context("copy")).await?;
        match answered(shared, &mut task, answer).await {
            Ok(()) if answer == Resolution::Retry => shared.queue.put_back(task),
            Ok(()) => {
                tracing::info!(oid, "skipped");
                shared.settled(TableState::Skipped, task, 0, 0).await;
            }
            Err(e) => {
                error = e;
                continue;
            }
        }
        return Ok(());
    }
}

/// Before another try the target is looked at again: the operator may have changed the table. A skipped table is left empty.
async fn answered(shared: &CopyShared, task: &mut Task, answer: Resolution) -> Result<()> {
    let oid = task.relation.oid;
    let worker = format!("{}copy", shared.prefix);
    let target = client::connect(&shared.config.target, Side::Target, &worker).await?;
    if let Some(found) = ledger::unfinished(&target, Some(oid)).await?.remove(&oid) {
        task.target = found;
    }
    if answer == Resolution::Skip {
        if task.target.used {
            let only = !task.relation.partitioned && !shared.hypertables.contains_key(&task.relation.table);
            let mut wire = Wire::open(&shared.config.target, Side::Target, &worker).await?;
            transfer::begin_attempt(&mut wire, oid, &task.relation.table, only).await?;
        }
        ledger::skip_relation(&target, oid).await?;
    }
    Ok(())
}
