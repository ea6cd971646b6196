//! Waiting for the cutover: the operator opens the box and confirms, or the source is quiet.

use super::replay::{Driven, Replay, SAMPLE_EVERY};

use crate::{
    error::Result,
    event::{Command, Event, Gate, Level, PromptKind, Stage},
    migration::context::Context,
};

impl Replay {
    /// Waits, in catch-up, until the cutover is confirmed.
    pub async fn wait_for_cutover(&mut self, cx: &mut Context) -> Result<()> {
        let mut prompt = None;
        let mut announced = false;
        loop {
            let mut pause = Box::pin(async {
                tokio::time::sleep(SAMPLE_EVERY).await;
                Ok(())
            });
            let driven = self.drive(cx, &mut pause).await?;
            let gates = self.gates(cx);
            let closed = gates.iter().find(|g| g.hard && !g.passed);
            match driven {
                Driven::Done(()) => {
                    let analyzed = self.analyze.has_ended();
                    if cx.config.cutover_when_ready && prompt.is_none() {
                        if closed.is_none() && analyzed && self.altered.is_none() && self.last_write.1.elapsed() >= cx.config.quiet_for {
                            return Ok(());
                        }
                    } else if !cx.config.interactive && !cx.config.cutover_when_ready && closed.is_none() && analyzed && !announced {
                        announced = true;
                        cx.notice(
                            Level::Info,
                            "ready for the cutover: start again with --cutover-when-ready, or open the dashboard on this directory",
                        )
                        .await;
                    }
                    // The box follows the gates.
                    if let Some(id) = prompt {
                        let fresh = cutover_prompt(id, closed);
                        cx.reporter.report(Event::PromptOpened { prompt: fresh }).await;
                    }
                }
                Driven::Command(Command::OpenCutover) => {
                    let opened = cx.next_prompt(Stage::Cutover, PromptKind::Cutover, String::new(), None);
                    prompt = Some(opened.id);
                    cx.reporter.report(Event::PromptOpened { prompt: cutover_prompt(opened.id, closed) }).await;
                }
                Driven::Command(Command::AbortCutover) => {
                    if let Some(id) = prompt.take() {
                        cx.reporter.report(Event::PromptClosed { id }).await;
                    }
                }
                Driven::Command(Command::ConfirmCutover { prompt: answered }) => match (prompt, closed) {
                    (Some(id), None) if id == answered => {
                        cx.reporter.report(Event::PromptClosed { id }).await;
                        return Ok(());
                    }
                    (Some(id), Some(gate)) if id == answered => {
                        let why = gate.to_string();
                        cx.reporter.report(Event::CommandRefused { command: "cutover".into(), why }).await;
                    }
                    _ => {}
                },
                Driven::Command(Command::Pause) => {
                    self.paused.send_replace(true);
                    cx.reporter.report(Event::Paused { paused: true }).await;
                }
                Driven::Command(Command::Resume) => {
                    self.paused.send_replace(false);
                    cx.reporter.report(Event::Paused { paused: false }).await;
                }
                Driven::Command(other) => cx.refuse(&other, Stage::CatchUp).await,
            }
        }
    }
}

fn cutover_prompt(id: u64, closed: Option<&Gate>) -> crate::event::Prompt {
    crate::event::Prompt {
        id,
        stage: Stage::Cutover,
        kind: PromptKind::Cutover,
        // The box says it all.
        text: String::new(),
        blocked_by: closed.map(ToString::to_string),
    }
}
