//! The end of the stream: a position of the source after which nobody who has written before can commit.

use std::time::{Duration, Instant};

use super::{super::catch_up::RunningReplay, step};
use crate::{
    error::Result,
    event::{Command, CutoverStep, Stage},
    lsn::Lsn,
    migration::context::Context,
    pg::{
        catalog::{self, OpenWriter},
        client::Client,
    },
};

pub const BY_OPERATOR: &str = "by the operator";

/// How often the open transactions are polled.
const POLL: Duration = Duration::from_millis(200);

/// Without an operator, who can end transactions, the cutover is given up after this time. Catch-up goes on, and the application is served.
const PATIENCE: Duration = Duration::from_secs(10);

/// Whether the stream has an end.
pub enum Mark {
    At(Lsn),
    /// Catch-up goes on, for this reason.
    GivenUp {
        reason: String,
    },
}

/// Waits until every transaction that has written so far has ended, then marks the end of the stream.
///
/// What the stream carries is what was committed. A transaction that has written and is still open would be lost without a sign: nothing of
/// it is in the stream, and the check for late writes cannot see it. Those that begin to write during the wait are late writes.
pub async fn mark(cx: &mut Context, replay: &mut RunningReplay, source: &Client, step: CutoverStep) -> Result<Mark> {
    let mut open = catalog::open_writers(source).await?;
    let started = Instant::now();
    while let [writer, more @ ..] = &open[..] {
        let others = if more.is_empty() { String::new() } else { format!(", and {} more", more.len()) };
        let text = format!("{writer}{others}");
        if !cx.config.interactive && started.elapsed() > PATIENCE {
            return Ok(Mark::GivenUp { reason: format!("an open transaction of the source has written: {text}; {}", writer.remedy()) });
        }
        step::report(cx, step, false, format!("waits for {text}: {}", writer.remedy())).await;
        let poll = async {
            tokio::time::sleep(POLL).await;
            catalog::open_writers(source).await
        };
        match unless_aborted(cx, replay, poll).await? {
            Some(now) => open = OpenWriter::still_open(&open, now),
            None => return Ok(Mark::GivenUp { reason: BY_OPERATOR.into() }),
        }
    }
    Ok(Mark::At(catalog::mark_end_of_stream(source).await?))
}

/// Waits until the work is done, while replay runs; `None` when the operator goes back to catch-up.
pub async fn unless_aborted<T>(cx: &mut Context, replay: &mut RunningReplay, work: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    let back = |command| if command == Command::AbortCutover { Ok(None) } else { Err(command) };
    replay.drive(cx, Stage::Cutover, async { work.await.map(Some) }, back).await
}
