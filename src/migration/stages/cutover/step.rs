//! Reports the steps of the cutover, for the box on the screen.

use crate::{
    event::{CutoverStep, Event},
    migration::context::Context,
};

pub async fn report(cx: &Context, step: CutoverStep, done: bool, detail: impl Into<String>) {
    cx.reporter.report(Event::CutoverStepped { step, done, detail: detail.into() }).await;
}
