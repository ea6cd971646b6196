//! Relations whose copy failed: they are tried again, or the operator decides whether to retry or to skip them.

use std::{sync::Arc, time::Duration};

use super::{
    format,
    queue::CopyQueueEntry,
    shared::{CopyShared, WhenAltered},
    transfer,
};
use crate::{
    error::{Error, Result},
    event::{Answer, CopyProgress, Event, Level, Subject, TableState},
    name::plain_ident,
    pg::{
        catalog, client,
        connect::session::Side,
        ledger::{self, Leaving},
        timescale,
        wire::Wire,
    },
};

/// character_not_in_repertoire: bytes that are no text in their encoding.
const BAD_BYTES: &str = crate::sqlstate::CHARACTER_NOT_IN_REPERTOIRE;
/// check_violation, also for a row without a partition.
const CHECK_VIOLATION: &str = crate::sqlstate::CHECK_VIOLATION;
/// A time that is out of range.
const DATETIME_OVERFLOW: &str = crate::sqlstate::DATETIME_FIELD_OVERFLOW;
/// A transient error is retried after this time.
const RETRY_DELAY: Duration = Duration::from_secs(1);

/// The copy of a relation failed. It is tried again under another snapshot: immediately after a transient error, otherwise when the
/// operator says so.
pub async fn failed(shared: &Arc<CopyShared>, mut entry: CopyQueueEntry, mut error: Error, (rows, bytes): (u64, u64)) -> Result<()> {
    if error.is_stop() {
        return Err(error);
    }
    if error.has_code(BAD_BYTES) && shared.types.encodings.0 == "SQL_ASCII" {
        error = error.hint(format::not_utf8(&entry.relation));
    }
    let table = entry.relation.table.clone();
    if error.has_code(DATETIME_OVERFLOW)
        && let Some(dimension) = shared.hypertables.get(&table).and_then(|h| h.dimension.as_ref())
    {
        let condition = timescale::out_of_range("timestamp").replace("{}", &plain_ident(&dimension.column));
        error = error.hint(format!(
            "a hypertable cannot hold every time: select * from {table} where {condition} finds such rows on the source; give them another time \
             (infinity is possible), then retry"
        ));
    }
    tracing::warn!(table = %table, %error, "the copy failed");
    entry.tried = true;
    if error.is_transient() {
        shared.reporter.notice(Level::Warn, format!("copy {table}: {error}; trying again")).await;
        tokio::time::sleep(RETRY_DELAY).await;
        shared.queue.put_back(entry);
        return Ok(());
    }
    if was_altered(shared).await {
        if shared.when_altered == WhenAltered::End {
            return Err(error);
        }
        return leave(shared, entry, &error).await;
    }
    if error.has_code(CHECK_VIOLATION) {
        error = error.hint(
            "if the check reads another table, that table may not be copied yet: retry. Otherwise the row violates the check on the source, \
             too: drop the constraint on the target until after the cutover, then retry",
        );
        if !std::mem::replace(&mut entry.late, true) {
            match shared.queue.put_last(entry) {
                Ok(()) => {
                    shared
                        .reporter
                        .report(Event::CopyProgress(CopyProgress { table: table.clone(), state: TableState::Queued, rows: 0, bytes: 0, error: None }))
                        .await;
                    let text = format!(
                        "copy {table}: a check refuses a row, perhaps because it reads a table that is copied later: tried again after the others"
                    );
                    shared.reporter.notice(Level::Warn, text).await;
                    return Ok(());
                }
                Err(back) => entry = back,
            }
        }
    }
    let shown = error.hint.as_ref().map_or_else(|| error.to_string(), |hint| format!("{error}. What to do: {hint}"));
    let event = Event::CopyProgress(CopyProgress { table, state: TableState::Failed, rows, bytes, error: Some(shown) });
    shared.reporter.report(event).await;
    // The job copies other relations while the operator decides.
    let asking = Arc::clone(shared);
    shared.tasks.spawn(async move { ask(&asking, entry, error).await });
    Ok(())
}

/// Whether the source's schema is another one than that of the target's tables. Best effort: without an answer the operator is asked.
async fn was_altered(shared: &CopyShared) -> bool {
    if shared.schema.is_none() && shared.when_altered == WhenAltered::End {
        return true;
    }
    let state =
        async { catalog::schema_state(&client::connect(&shared.config.source, Side::Source, &format!("{}copy", shared.prefix)).await?).await };
    match (&shared.schema, state.await) {
        (Some(known), Ok(now)) => *known != now,
        _ => false,
    }
}

/// Leaves a relation to catch-up, which brings its table to the source's columns before it copies it.
async fn leave(shared: &CopyShared, entry: CopyQueueEntry, error: &Error) -> Result<()> {
    let CopyQueueEntry { relation, .. } = &entry;
    let mut target = client::connect(&shared.config.target, Side::Target, &format!("{}copy", shared.prefix)).await?;
    ledger::leave(&mut target, &[Leaving::same_name(relation.oid, &relation.table)]).await?;
    let text = format!("{}: the source's schema was altered during the copy, so it is copied in catch-up: {error}", relation.table);
    shared.reporter.notice(Level::Info, text).await;
    shared.settled(TableState::Queued, entry, 0, 0).await;
    Ok(())
}

async fn ask(shared: &CopyShared, mut entry: CopyQueueEntry, mut error: Error) -> Result<()> {
    let (table, oid) = (entry.relation.table.clone(), entry.relation.oid);
    loop {
        let answer = shared.prompts.ask(Subject::Table(table.clone()), error.context("copy")).await?;
        match prepare(shared, &mut entry, answer).await {
            Ok(()) if answer == Answer::Retry => shared.queue.put_back(entry),
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

/// Before another try the target is read again, because the operator may have changed the table. A table that is skipped is emptied.
async fn prepare(shared: &CopyShared, entry: &mut CopyQueueEntry, answer: Answer) -> Result<()> {
    let oid = entry.relation.oid;
    let worker = format!("{}copy", shared.prefix);
    let target = client::connect(&shared.config.target, Side::Target, &worker).await?;
    match ledger::unfinished(&target, Some(oid)).await?.remove(&oid) {
        Some(found) => entry.target = found,
        // The ledger has it as copied: the answer to the commit was lost.
        None => entry.target.used = true,
    }
    if answer == Answer::Skip {
        if entry.target.used {
            let kind = shared.kind_on_target(&entry.relation);
            let mut wire = Wire::open(&shared.config.target, Side::Target, &worker).await?;
            transfer::begin_attempt(&mut wire, oid, &entry.relation.table, kind).await?;
        }
        ledger::skip_relation(&target, oid).await?;
    }
    Ok(())
}
