//! The dashboard. It knows the state, events, commands and the plan, and no server.
//!
//! [`run`] owns the terminal: key presses and new states go into an [`app::App`], frames come out of it.

#![allow(clippy::similar_names, reason = "a state and a stage are what the screens are about")]

pub mod app;
pub mod clip;
pub mod keys;
pub mod screens;
pub mod terminal;
pub mod theme;
pub mod view;
pub mod widgets;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod pictures;
#[cfg(test)]
mod tests;

use crossterm::event::{Event as TerminalEvent, EventStream};
use futures_util::StreamExt;
use jiff::{Timestamp, tz::TimeZone};
use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::{
    io::AsyncWriteExt,
    time::{MissedTickBehavior, interval, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    bus::FrontEnd,
    error::Result,
    event::{Command, Level, Stage, StageState},
    private,
    state::{Ended, State},
    ui::{
        app::{App, Effect},
        terminal::Screen,
    },
};

/// Frames for events of the migration: four a second at most. A key press is answered sooner.
const FRAME: Duration = Duration::from_millis(250);
const ANSWER: Duration = Duration::from_millis(30);
/// Without a key for this long, frames become rare: a log of the terminal keeps every byte.
const IDLE_AFTER: Duration = Duration::from_secs(120);
const RARE_FRAME: Duration = Duration::from_secs(10);
/// The migration takes commands faster than this, unless it hangs.
const SEND: Duration = Duration::from_secs(2);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Color {
    #[default]
    Auto,
    Always,
    Never,
}

/// How the dashboard looks, and where it writes.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// No characters outside of ASCII.
    pub ascii: bool,
    pub color: Color,
    pub no_bell: bool,
    /// The work directory.
    pub dir: PathBuf,
}

impl Options {
    fn mono(&self) -> bool {
        match self.color {
            Color::Always => false,
            Color::Never => true,
            Color::Auto => std::env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty()),
        }
    }
}

/// Shows the dashboard until the run has ended, the operator has left, or `cancel` fires. The terminal is restored afterwards.
///
/// When the terminal goes away, the migration stops safely.
pub async fn run(front: FrontEnd, options: Options, cancel: CancellationToken) -> Result<()> {
    if options.color == Color::Always {
        crossterm::style::force_color_output(true);
    }
    let screen = Screen::open()?;
    let app = App::new(options.ascii, options.mono(), TimeZone::system());
    Dashboard {
        app,
        screen,
        front,
        options,
        title: String::new(),
        prompt: None,
        next_frame: None,
        last_frame: Instant::now(),
        last_input: Instant::now(),
    }
    .run(cancel)
    .await
}

struct Dashboard {
    app: App,
    screen: Screen,
    front: FrontEnd,
    options: Options,
    title: String,
    /// The last prompt that the bell rang for.
    prompt: Option<u64>,
    next_frame: Option<Instant>,
    last_frame: Instant,
    last_input: Instant,
}

/// Whether the loop continues.
enum Next {
    Go,
    End,
}

impl Dashboard {
    async fn run(mut self, cancel: CancellationToken) -> Result<()> {
        let mut input = EventStream::new();
        let mut second = interval(Duration::from_secs(1));
        second.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut state = self.front.state.clone();
        let mut engine_gone = false;
        if std::env::var_os("TMUX").is_none() && std::env::var_os("STY").is_none() {
            let text = "not inside tmux or screen: when this connection drops, hyperlift stops safely and can be continued";
            self.app.say(Level::Info, text, Instant::now() + Duration::from_secs(24));
        }
        self.next_frame = Some(Instant::now());
        loop {
            if self.finished(engine_gone) {
                return Ok(());
            }
            let frame = self.next_frame.unwrap_or_else(|| Instant::now() + RARE_FRAME);
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                event = input.next() => {
                    let Some(Ok(event)) = event else {
                        // The terminal is gone; its reader would spin.
                        drop(input);
                        return self.hang_up().await;
                    };
                    if let Next::End = self.input(&event).await? {
                        return Ok(());
                    }
                }
                changed = state.changed(), if !engine_gone => match changed {
                    Ok(()) => self.frame_within(FRAME),
                    Err(_) => engine_gone = true,
                },
                _ = second.tick() => self.tick(),
                () = sleep_until(frame.into()), if self.next_frame.is_some() => {
                    if self.draw().is_err() {
                        drop(input);
                        return self.hang_up().await;
                    }
                }
            }
        }
    }

    fn finished(&self, engine_gone: bool) -> bool {
        let state = self.front.state.borrow();
        match &state.ended {
            Some(Ended::Stopped) => true,
            // The operator reads the reason first.
            Some(Ended::Failed { .. }) => false,
            None => engine_gone || (self.app.view.leaving && state.stage_state(Stage::Done) == StageState::Done),
        }
    }

    /// Asks for a frame, at the earliest this long after the last one.
    fn frame_within(&mut self, pause: Duration) {
        let pause = if self.last_input.elapsed() > IDLE_AFTER { RARE_FRAME } else { pause };
        let at = self.last_frame + pause;
        self.next_frame = Some(self.next_frame.map_or(at, |known| known.min(at)));
    }

    fn tick(&mut self) {
        let (changed, running) = {
            let state = self.front.state.borrow();
            (self.app.tick(&state, Instant::now()), state.is_running())
        };
        if changed || running {
            self.frame_within(FRAME);
        }
    }

    fn draw(&mut self) -> std::io::Result<()> {
        self.next_frame = None;
        self.last_frame = Instant::now();
        self.app.view.clock = Some(Timestamp::now());
        self.announce()?;
        let (app, state) = (&mut self.app, &self.front.state);
        // The state is held while cells are set, never while the terminal is written to.
        let area = self.screen.draw(|frame| {
            let state = state.borrow();
            app.render(frame, &state);
        })?;
        let now = Instant::now();
        let state = self.front.state.borrow();
        self.app.drawn(area, &state, now);
        Ok(())
    }

    /// The terminal's title, and one bell for each prompt.
    fn announce(&mut self) -> std::io::Result<()> {
        let (title, prompt) = {
            let state = self.front.state.borrow();
            (title(&state, &self.app), state.prompts.shown().map(|p| p.id))
        };
        if title != self.title {
            self.screen.title(&title)?;
            self.title = title;
        }
        if prompt > self.prompt && !self.options.no_bell {
            self.screen.bell()?;
        }
        // An older prompt that is shown again does not ring again.
        self.prompt = self.prompt.max(prompt);
        Ok(())
    }

    async fn input(&mut self, event: &TerminalEvent) -> Result<Next> {
        self.last_input = Instant::now();
        let effects = match event {
            TerminalEvent::Key(key) => {
                let state = self.front.state.borrow();
                self.app.on_key(key, &state, self.last_input)
            }
            TerminalEvent::Paste(text) => {
                self.app.on_paste(text);
                Vec::new()
            }
            _ => Vec::new(),
        };
        for effect in effects {
            if let Next::End = self.perform(effect).await? {
                return Ok(Next::End);
            }
        }
        self.frame_within(ANSWER);
        Ok(Next::Go)
    }

    async fn perform(&mut self, effect: Effect) -> Result<Next> {
        match effect {
            Effect::Send(command) => self.send(command).await,
            Effect::Copy(text) => self.copy(&text).await,
            Effect::Write { file, text } => {
                let path = self.options.dir.join("sql").join(file);
                let said = match write(&path, &text).await {
                    Ok(()) => (Level::Info, format!("written to {}", path.display())),
                    Err(e) => (Level::Warn, format!("cannot write {}: {e}", path.display())),
                };
                self.app.say(said.0, said.1, Instant::now());
            }
            Effect::Redraw => {
                let _ = self.screen.redraw();
            }
            Effect::Leave => return Ok(Next::End),
            Effect::EndNow => {
                self.screen.close();
                std::process::exit(130);
            }
        }
        Ok(Next::Go)
    }

    async fn send(&mut self, command: Command) {
        let sent = timeout(SEND, self.front.commands.send(command)).await;
        if !matches!(sent, Ok(Ok(()))) {
            self.app.say(Level::Warn, "the engine does not take commands now", Instant::now());
        }
    }

    async fn copy(&mut self, text: &str) {
        let path = self.options.dir.join("sql").join("clipboard.txt");
        let filed = write(&path, text).await;
        let in_tmux = std::env::var_os("TMUX").is_some() && terminal::tmux_buffer(text).await.is_ok();
        let said = match (in_tmux, filed) {
            (true, Ok(())) => (Level::Info, format!("copied to the tmux buffer and the clipboard; also in {}", path.display())),
            (true, Err(_)) => (Level::Info, "copied to the tmux buffer and the clipboard".to_owned()),
            (false, Ok(())) => (Level::Info, format!("written to {}", path.display())),
            (false, Err(e)) => (Level::Warn, format!("cannot write {}: {e}", path.display())),
        };
        self.app.say(said.0, said.1, Instant::now());
    }

    /// The terminal went away: the migration stops safely.
    async fn hang_up(mut self) -> Result<()> {
        tracing::warn!("the terminal is gone: stopping safely");
        self.send(Command::Stop).await;
        Ok(())
    }
}

/// `hyperlift copy 51 %`, `hyperlift WAITING FOR YOU`.
fn title(state: &State, app: &App) -> String {
    match view::status(state, &app.view) {
        ("RUNNING", _) => format!("hyperlift {}", screens::progress(state)),
        (status, _) => format!("hyperlift {status}"),
    }
}

async fn write(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(dir) = path.parent() {
        private::create_folder(dir)?;
    }
    let mut file = tokio::fs::OpenOptions::from(private::file()).truncate(true).open(path).await?;
    file.write_all(text.as_bytes()).await?;
    file.flush().await
}
