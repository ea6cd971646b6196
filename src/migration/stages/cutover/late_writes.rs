//! Late writes: what applications wrote to the source after the end of the stream. The target does not have it.

use super::{
    super::catch_up::RunningReplay,
    end_of_stream::{self, BY_OPERATOR, Mark, unless_aborted},
    step,
};
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
    /// Catch-up goes on, for this reason.
    GivenUp { reason: String },
}

/// Reads the stream from `end` to where the source is now, and reports the tables that were written to.
pub async fn check(cx: &mut Context, replay: &mut RunningReplay, source: &Client, end: Lsn, step: CutoverStep) -> Result<LateWrites> {
    step::report(cx, step, false, "").await;
    let now = match end_of_stream::mark(cx, replay, source, step).await? {
        Mark::At(now) => now,
        Mark::GivenUp { reason } => return Ok(LateWrites::GivenUp { reason }),
    };
    let mut waiter = replay.replication.receiver.waiter();
    let Some(status) = unless_aborted(cx, replay, waiter.read(now)).await? else { return Ok(LateWrites::GivenUp { reason: BY_OPERATOR.into() }) };
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
