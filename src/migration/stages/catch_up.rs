//! Stage 6: replay of what was spooled, until the operator (or a quiet source) says cutover. ANALYZE runs below the lag threshold.

mod analyze;
mod away;
mod conflicts;
mod counters;
mod gates;
mod joining;
mod lag;
mod lanes;
mod replay;
mod replayed;
mod sampler;
mod schema_changes;
mod schema_watch;
mod slow_tables;
mod start;
mod status;
mod stop;
mod wait;

pub use self::{counters::differences, replay::RunningReplay, start::start};

use std::time::Instant;

use crate::{error::Result, event::Stage, migration::context::Context};

/// Replays until the operator, or a quiet source, confirms the cutover.
pub async fn run(cx: &mut Context, mut replay: RunningReplay) -> Result<RunningReplay> {
    let confirmed = match replay.wait_for_cutover(cx).await {
        Ok(()) => {
            replay.confirmed = Instant::now();
            cx.finish(Stage::CatchUp).await
        }
        Err(e) => Err(e),
    };
    match confirmed {
        Ok(()) => Ok(replay),
        Err(e) => {
            replay.stop(cx).await.end().await;
            Err(e)
        }
    }
}
