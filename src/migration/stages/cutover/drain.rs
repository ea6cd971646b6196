//! Steps 1 to 5 of the cutover: the stream is applied to its end, no write came after it, and the sequences are set.

use super::{
    super::catch_up::RunningReplay,
    end_of_stream::{self, BY_OPERATOR, Mark, unless_aborted},
    late_writes::{self, LateWrites},
    sequences::{self, Sequences},
    step,
};
use crate::{
    error::Result,
    event::{CutoverStep, Event},
    lsn::Lsn,
    migration::{context::Context, relations},
    pg::catalog,
};

const LATE_WRITES: &str = "the source was written to after the end of the stream";
const SCHEMA_MOVED: &str = "the source's schema was altered during the cutover: the target follows first";

/// How the steps ended.
pub enum Drain {
    /// Everything up to `end` is applied, and no write came after it.
    Drained { end: Lsn },
    /// Catch-up goes on, for this reason.
    GivenUp { reason: String },
}

impl Drain {
    fn given_up(reason: &str) -> Self {
        Self::GivenUp { reason: reason.to_owned() }
    }
}

/// Drains until the source is quiet, or the cutover is given up.
pub async fn run(cx: &mut Context, replay: &mut RunningReplay) -> Result<Drain> {
    replay.resume(cx).await;
    let (source, schema) = (cx.source("cutover").await?, replay.polled_schema());
    cx.reporter.report(Event::CutoverStarted { end: None }).await;
    let mut end = match end_of_stream::mark(cx, replay, &source, CutoverStep::EndOfStream).await? {
        Mark::At(end) => end,
        Mark::GivenUp { reason } => return Ok(Drain::GivenUp { reason }),
    };
    loop {
        cx.reporter.report(Event::CutoverStarted { end: Some(end) }).await;
        step::report(cx, CutoverStep::EndOfStream, true, end.to_string()).await;
        step::report(cx, CutoverStep::Drain, false, "").await;
        let barrier = replay.barrier(end);
        if unless_aborted(cx, replay, barrier).await?.is_none() {
            return Ok(Drain::given_up(BY_OPERATOR));
        }
        step::report(cx, CutoverStep::Drain, true, format!("applied to {end}")).await;
        let mut found = late_writes::check(cx, replay, &source, end, CutoverStep::LateWrites).await?;
        if let LateWrites::None { end } = found {
            step::report(cx, CutoverStep::Sequences, false, "").await;
            let set = match sequences::set(cx, &source, &replay.excluded).await? {
                Sequences::Set(count) => count,
                Sequences::Unreadable { reason } => return Ok(Drain::GivenUp { reason }),
            };
            step::report(cx, CutoverStep::Sequences, true, format!("{set} set")).await;
            // A write between the first check and the sequences may have used a sequence.
            found = late_writes::check(cx, replay, &source, end, CutoverStep::LateWritesAgain).await?;
        }
        match found {
            LateWrites::None { end } => {
                // A stream without a table of this migration is quiet, too.
                if let Some(table) = relations::taken_out(cx, &source).await?.first() {
                    return Ok(Drain::GivenUp { reason: format!("{} is copied again: {}", table.table, table.why) });
                }
                // DDL is no write that the stream shows.
                if schema.is_some() && schema != Some(catalog::schema_state(&source).await?) {
                    return Ok(Drain::given_up(SCHEMA_MOVED));
                }
                return Ok(Drain::Drained { end });
            }
            LateWrites::GivenUp { reason } => return Ok(Drain::GivenUp { reason }),
            LateWrites::Found { end: later } if late_writes::ask_to_drain_again(cx, replay).await? => end = later,
            LateWrites::Found { .. } => return Ok(Drain::given_up(LATE_WRITES)),
        }
    }
}
