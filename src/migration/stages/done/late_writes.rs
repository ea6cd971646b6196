//! Late writes after the cutover: the receiver goes on, so that they are seen.

use std::time::{Duration, Instant};

use super::super::cutover;
use crate::{
    error::{Error, Kind, Result},
    event::{Command, Level, Stage},
    lsn::Lsn,
    migration::{context::Context, relations},
    pg::{
        catalog::{self, OpenWriter},
        client::Client,
        own::Names,
        slot,
    },
    record::Record,
    replay::{
        receiver::{Receiver, StartPositions},
        spool,
    },
};

/// The last check for late writes waits this long for the source.
const LAST_CHECK_TIMEOUT: Duration = Duration::from_secs(20);
/// How long it waits for open transactions that have written.
const OPEN_WRITERS_TIMEOUT: Duration = Duration::from_secs(5);

/// Reports late writes as they come, until the operator leaves. Without an operator it ends after the time of the configuration
/// (`--linger`). Then it checks once more.
pub async fn linger(cx: &mut Context, receiver: &Receiver, end: Lsn) -> Result<()> {
    let mut status = receiver.status.clone();
    let mut seen = end;
    let over = tokio::time::sleep(cx.config.linger);
    tokio::pin!(over);
    let interactive = cx.config.interactive;
    loop {
        let written = async {
            tokio::select! {
                () = &mut over, if !interactive => Ok(None),
                Ok(()) = status.changed() => Ok(Some(status.borrow_and_update().written_after(seen))),
                // The receiver has ended.
                else => std::future::pending().await,
            }
        };
        let leave = |command| if command == Command::Leave { Ok(None) } else { Err(command) };
        match cx.prompts.drive(Stage::Done, written, leave).await {
            Ok(Some(writes)) => {
                seen = writes.last().map_or(seen, |(_, last)| *last);
                record(cx, &writes).await?;
            }
            Ok(None) => break,
            // A stop after the cutover undoes nothing, and the migration is still cleaned up.
            Err(e) if e.is_stop() => break,
            Err(e) => return Err(e),
        }
    }
    let check = async {
        let source = cx.source("cutover").await?;
        let (now, open) = end_of_stream(&source).await?;
        let status = receiver.waiter().read(now).await?;
        relations::refuse_unpublished(cx, &source).await?;
        Ok::<_, Error>((status.written_after(seen), open))
    };
    let checked = tokio::time::timeout(LAST_CHECK_TIMEOUT, check).await;
    settle(cx, checked.unwrap_or_else(|_| Err(Error::connection("the source does not answer")))).await
}

/// Checks for what was written to the source after the end of the stream, when the run of the cutover could not see it any more.
pub async fn check_since(cx: &mut Context, end: Lsn) -> Result<()> {
    match writes_since(cx, end).await {
        Ok(None) => Ok(()),
        Ok(Some(found)) => settle(cx, Ok(found)).await,
        Err(e) => settle(cx, Err(e)).await,
    }
}

/// What a check for late writes has found: the tables that were written to, each with the LSN of its last write, and the transactions that
/// could still write to them.
type Found = (Vec<(u32, Lsn)>, Vec<OpenWriter>);

/// What was written after `end`: from what the spool holds after `end`, and from what the slot still has. `None` when an earlier run has
/// looked for it and has dropped the slot.
async fn writes_since(cx: &Context, end: Lsn) -> Result<Option<Found>> {
    let source = cx.source("cutover").await?;
    let name = Names::new(&cx.record.id).slot;
    let (start, slot) = match (cx.record.slot, slot::slot(&source, &name).await?) {
        (Some(start), Some(slot)) => (start, slot),
        _ if cx.record.watched => return Ok(None),
        _ => return Err(slot::gone(&name)),
    };
    slot.check(&name)?;
    let receiver = Receiver::start(relations::origin(cx), cx.work.spool(), StartPositions { start, copied: end }, cx.cancel.clone()).await?;
    let reach = async {
        let (now, open) = end_of_stream(&source).await?;
        receiver.waiter().spooled(now).await?;
        Ok::<_, Error>(open)
    };
    let reached = tokio::time::timeout(LAST_CHECK_TIMEOUT, reach).await;
    let spooled = receiver.status.borrow().end;
    receiver.stop().await.ok();
    let open = reached.map_err(|_| Error::connection("the source does not answer"))??;
    relations::refuse_unpublished(cx, &source).await?;
    let writes = tokio::task::block_in_place(|| spool::touched_after(&cx.work.spool(), end, spooled))?;
    Ok(Some((writes, open)))
}

/// Records and reports what a check has found, or why there was none: it decides how the migration ends.
async fn settle(cx: &mut Context, checked: Result<Found>) -> Result<()> {
    let found = match checked {
        Ok(found) => found,
        Err(e) => {
            cx.notice(Level::Warn, format!("late writes could not be looked for, because {e}")).await;
            cx.record.unwatched = Some(e.to_string());
            return cx.save();
        }
    };
    (cx.record.watched, cx.record.unwatched) = (true, None);
    cx.save()?;
    record(cx, &found.0).await?;
    record_open(cx, &found.1).await
}

/// Marks the end of the stream, once those who have written before have ended; those who have not ended in time.
async fn end_of_stream(source: &Client) -> Result<(Lsn, Vec<OpenWriter>)> {
    let mut open = catalog::open_writers(source).await?;
    let started = Instant::now();
    while !open.is_empty() && started.elapsed() < OPEN_WRITERS_TIMEOUT {
        tokio::time::sleep(Duration::from_millis(200)).await;
        open = OpenWriter::still_open(&open, catalog::open_writers(source).await?);
    }
    Ok((catalog::mark_end_of_stream(source).await?, open))
}

/// Reports transactions whose writes would be late, and records that there were some.
async fn record_open(cx: &mut Context, open: &[OpenWriter]) -> Result<()> {
    for writer in open {
        let text = format!("a transaction of the source that has written is still open, and its writes would be late: {writer}");
        cx.notice(Level::Warn, text).await;
    }
    if !open.is_empty() && !cx.record.late {
        cx.record.late = true;
        cx.save()?;
    }
    Ok(())
}

/// Reports late writes, and records that there were some, because they decide how the migration ends.
async fn record(cx: &mut Context, writes: &[(u32, Lsn)]) -> Result<()> {
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

/// How a migration ends that has late writes.
pub fn refuse_late(record: &Record) -> Result<()> {
    if !record.late {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, "the source was written to after the cutover")
        .hint("the tables, or the open transactions, are named as late writes: move those rows by hand"))
}

/// How a migration ends when nobody can know whether it has late writes. That both sides are equal may not be said then.
pub fn refuse_unwatched(record: &Record) -> Result<()> {
    let Some(why) = &record.unwatched else { return Ok(()) };
    Err(Error::new(Kind::Differs, format!("late writes could not be looked for, because {why}")).hint(
        "at the cutover both sides were equal. Compare the tables that the application may have written to on the source after it, and move \
         what is missing by hand",
    ))
}
