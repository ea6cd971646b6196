//! Relations whose copy failed: tried again, or brought to the operator, who retries or skips them.

use std::sync::Arc;

use super::{format, queue::CopyQueueEntry, shared::CopyShared, transfer};
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
pub async fn failed(shared: &Arc<CopyShared>, mut entry: CopyQueueEntry, mut error: Error, (rows, bytes): (u64, u64)) -> Result<()> {
    if error.is_stop() {
        return Err(error);
    }
    if error.has_code(BAD_BYTES) && shared.types.encodings.0 == "SQL_ASCII" {
        error = error.hint(format::not_utf8(&entry.relation));
    }
    let table = entry.relation.table.clone();
    tracing::warn!(table = %table, %error, "the copy failed");
    entry.tried = true;
    if error.is_transient() {
        shared.reporter.notice(Level::Warn, format!("copy {table}: {error}; trying again")).await;
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        shared.queue.put_back(entry);
        return Ok(());
    }
    if error.has_code(CHECK_VIOLATION) {
        error = error.hint(
            "if the check reads another table, that one may not be copied yet: retry. Otherwise the row breaks it on the source, too: \
             drop the constraint on the target until after the cutover, then retry",
        );
        if !std::mem::replace(&mut entry.late, true) {
            match shared.queue.put_last(entry) {
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
                Err(back) => entry = back,
            }
        }
    }
    let told = error.hint.as_ref().map_or_else(|| error.to_string(), |hint| format!("{error}. What to do: {hint}"));
    let event = Event::CopyProgress { table, state: TableState::Failed, rows, bytes, error: Some(told) };
    shared.reporter.report(event).await;
    // The job goes on with others while the operator thinks.
    let asking = Arc::clone(shared);
    shared.tasks.run(async move { ask(&asking, entry, error).await });
    Ok(())
}

async fn ask(shared: &CopyShared, mut entry: CopyQueueEntry, mut error: Error) -> Result<()> {
    let (table, oid) = (entry.relation.table.clone(), entry.relation.oid);
    loop {
        let answer = shared.asker.ask(table.to_string(), error.context("copy")).await?;
        match answered(shared, &mut entry, answer).await {
            Ok(()) if answer == Resolution::Retry => shared.queue.put_back(entry),
            Ok(()) => {
                tracing::info!(oid, "skipped");
                shared.settled(TableState::Skipped, entry, 0, 0).await;
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
async fn answered(shared: &CopyShared, entry: &mut CopyQueueEntry, answer: Resolution) -> Result<()> {
    let oid = entry.relation.oid;
    let worker = format!("{}copy", shared.prefix);
    let target = client::connect(&shared.config.target, Side::Target, &worker).await?;
    if let Some(found) = ledger::unfinished(&target, Some(oid)).await?.remove(&oid) {
        entry.target = found;
    }
    if answer == Resolution::Skip {
        if entry.target.used {
            let only = !entry.relation.partitioned && !shared.hypertables.contains_key(&entry.relation.table);
            let mut wire = Wire::open(&shared.config.target, Side::Target, &worker).await?;
            transfer::begin_attempt(&mut wire, oid, &entry.relation.table, only).await?;
        }
        ledger::skip_relation(&target, oid).await?;
    }
    Ok(())
}
