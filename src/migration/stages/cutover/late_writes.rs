//! Late writes: what applications wrote to the source after the end of the stream. The target does not have it.

use super::{super::catch_up::RunningReplay, step};
use crate::{
    error::Result,
    event::{Answer, Command, CutoverStep, Event, PromptKind, Stage},
    lsn::Lsn,
    migration::context::Context,
    pg::{catalog, client::Client},
};

/// What a check for late writes has found.
pub enum LateWrites {
    /// Nothing was written after the end of the stream. It can be moved to here.
    None { end: Lsn },
    /// Tables were written to. A stream that ends here has those writes.
    Found { end: Lsn },
    /// The operator goes back to catch-up.
    Aborted,
}

/// Reads the stream from `end` to where the source is now, and reports the tables that were written to.
pub async fn check(cx: &mut Context, replay: &mut RunningReplay, source: &Client, end: Lsn, step: CutoverStep) -> Result<LateWrites> {
    step::report(cx, step, false, "").await;
    let now = catalog::mark_end_of_stream(source).await?;
    let mut waiter = replay.replication.receiver.waiter();
    let Some(status) = unless_aborted(cx, replay, waiter.read(now)).await? else { return Ok(LateWrites::Aborted) };
    let late = report(cx, source, &status.written_after(end)).await?;
    if late.is_empty() {
        step::report(cx, step, true, "none").await;
        return Ok(LateWrites::None { end: now });
    }
    step::report(cx, step, false, late.join(", ")).await;
    Ok(LateWrites::Found { end: now })
}

/// Reports each table that was written to late; returns their names.
pub async fn report(cx: &Context, source: &Client, writes: &[(u32, Lsn)]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (oid, lsn) in writes {
        let table = catalog::table_name(source, *oid).await?;
        names.push(table.to_string());
        cx.reporter.report(Event::LateWrite { table, lsn: *lsn }).await;
    }
    Ok(names)
}

/// Waits until the work is done, while replay runs; `None` when the operator goes back to catch-up.
pub async fn unless_aborted<T>(cx: &mut Context, replay: &mut RunningReplay, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    let back = |command| if command == Command::AbortCutover { Ok(None) } else { Err(command) };
    replay.drive(cx, Stage::Cutover, async { work.await.map(Some) }, back).await
}

/// Asks whether to drain again, or to go back to catch-up. A run without an operator goes back, until the source is quiet.
pub async fn ask_to_drain_again(cx: &mut Context, replay: &mut RunningReplay) -> Result<bool> {
    if !cx.config.interactive {
        return Ok(false);
    }
    let text = "The source was written to after the end of the stream. r drains again, x goes back.";
    let mut asked = cx.prompts.open(Stage::Cutover, PromptKind::LateWrite, text, None).await;
    let id = asked.id;
    // It may have been sent before the question was seen.
    let back = |command| if command == Command::AbortCutover { Ok(Answer::GoBack) } else { Err(command) };
    let answer = replay.drive(cx, Stage::Cutover, asked.answer(), back).await?;
    cx.prompts.close(id).await;
    Ok(answer == Answer::Retry)
}
