//! Stage 7: comparing source and target. It is not built yet, and says so.

use crate::{
    event::{Event, Stage, StageState},
    migration::context::Context,
};

pub async fn run(cx: &Context) {
    cx.reporter.report(Event::StageChanged { stage: Stage::Verify, state: StageState::Skipped }).await;
}
