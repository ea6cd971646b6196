//! Waiting for the cutover: the operator opens the box and confirms, or the source is quiet.

use super::replay::{RunningReplay, SAMPLE_EVERY};
use std::time::{Duration, Instant};

use crate::{
    error::Result,
    event::{Answer, Command, Event, Gate, Level, PromptKind, Stage},
    migration::{context::Context, prompts::Asked},
    name::TableName,
};

/// How often an automatic cutover says what it waits for.
const EXPLAIN_EVERY: Duration = Duration::from_secs(60);

/// What ends a pause of the wait.
enum Next {
    /// The gates have to be checked again.
    Gates,
    Answered(Answer),
    OpenBox,
    Pause(bool),
    CopyAgain(TableName),
    Run(Vec<String>),
}

/// What the operator may order in catch-up.
fn order(command: Command) -> Result<Next, Command> {
    match command {
        Command::OpenCutover => Ok(Next::OpenBox),
        Command::Pause => Ok(Next::Pause(true)),
        Command::Resume => Ok(Next::Pause(false)),
        Command::CopyAgain { table } => Ok(Next::CopyAgain(table)),
        Command::RunStatements { statements } => Ok(Next::Run(statements)),
        other => Err(other),
    }
}

impl RunningReplay {
    /// Waits, in catch-up, until the cutover is confirmed.
    pub async fn wait_for_cutover(&mut self, cx: &mut Context) -> Result<()> {
        let mut cutover_box: Option<Asked> = None;
        let mut announced = false;
        let mut explained = Instant::now();
        loop {
            let next = self.drive(cx, Stage::CatchUp, pause(&mut cutover_box), order).await?;
            let blocked_by = closed_gate(&self.gates(cx));
            match next {
                Next::Gates => {
                    let ready = blocked_by.is_none() && self.analyze.has_ended();
                    if cx.config.cutover_when_ready && cutover_box.is_none() {
                        let Some(why) = self.not_yet(cx, blocked_by.clone()).await else { return Ok(()) };
                        if explained.elapsed() > EXPLAIN_EVERY {
                            explained = Instant::now();
                            cx.notice(Level::Info, format!("the automatic cutover waits: {why}")).await;
                        }
                    } else if !cx.config.interactive && !cx.config.cutover_when_ready && ready && !announced {
                        announced = true;
                        let text = "ready for the cutover: start again with --cutover-when-ready, or open the dashboard on this directory";
                        cx.notice(Level::Info, text).await;
                    }
                    if let Some(asked) = &cutover_box {
                        cx.prompts.block(asked.id, blocked_by).await;
                    }
                }
                Next::OpenBox if cutover_box.is_none() => cutover_box = Some(open_box(cx, blocked_by).await),
                Next::OpenBox => {}
                Next::Answered(Answer::Confirm) => match blocked_by {
                    None => return Ok(()),
                    // A gate has closed since the box was last drawn.
                    Some(why) => {
                        cx.reporter.report(Event::CommandRefused { command: Answer::Confirm.as_str().into(), why: format!("not yet: {why}") }).await;
                        cutover_box = Some(open_box(cx, Some(why)).await);
                    }
                },
                Next::Answered(_) => cutover_box = None,
                Next::Run(statements) => self.run_statements(cx, &statements).await,
                Next::CopyAgain(table) => Box::pin(self.copy_again(cx, &table)).await?,
                Next::Pause(paused) => {
                    self.lanes.handle.set_paused(paused);
                    cx.reporter.report(Event::Paused { paused }).await;
                }
            }
        }
    }
}

/// Until the gates have to be checked again, or the open box is answered.
async fn pause(cutover_box: &mut Option<Asked>) -> Result<Next> {
    let answer = async {
        match cutover_box {
            Some(asked) => asked.answer().await.map(Next::Answered),
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        answer = answer => answer,
        () = tokio::time::sleep(SAMPLE_EVERY) => Ok(Next::Gates),
    }
}

/// Opens the cutover box. It needs no text, because it shows the gates and the steps.
async fn open_box(cx: &mut Context, blocked_by: Option<String>) -> Asked {
    cx.prompts.open(Stage::Cutover, PromptKind::Cutover, "", blocked_by).await
}

/// The first hard gate that is closed.
fn closed_gate(gates: &[Gate]) -> Option<String> {
    gates.iter().find(|g| g.hard && !g.passed).map(ToString::to_string)
}
