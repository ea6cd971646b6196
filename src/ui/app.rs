//! The dashboard without its terminal: key presses in, commands out, and a frame drawn from the state.
//!
//! Time is passed in, so that every rule about time can be tested.

mod choices;

use crossterm::event::{Event as TerminalEvent, KeyEvent};
use jiff::tz::TimeZone;
use ratatui::{Frame, layout::Rect};
use std::time::{Duration, Instant};
use tui_input::{Input, backend::crossterm::EventHandler};

use crate::{
    event::{Answer, Command, Level, PromptKind, SchemaDifference, Stage},
    plan::{IdentityChoice, IdentityDefault},
    state::{Ended, State},
    ui::{
        clip,
        keys::{self, Action, Key},
        screens,
        theme::ascii_stand_in,
        view::{
            FIELDS, Modal, NamePurpose, Overlay, Proposals, Selection, View,
            rows::{CATCH_UP_ORDERS, COPY_ORDERS},
            too_small,
        },
    },
};

/// `Y` counts when no key came for this long and the box was on the screen for that long: a held key or pasted text confirms nothing.
const QUIET_BEFORE_CONFIRM: Duration = Duration::from_millis(500);
const BOX_SHOWN: Duration = Duration::from_secs(1);
/// A ctrl-c within this time of the one that stops ends the program immediately.
const END_NOW: Duration = Duration::from_secs(8);
/// How long a text stays in the message line.
const MESSAGE: Duration = Duration::from_secs(6);
const PAGE: isize = 10;

/// What a key press asks of the outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    Send(Command),
    /// Text for the clipboard.
    Copy(String),
    /// Text for a file in `sql/` of the work directory.
    Write {
        file: &'static str,
        text: String,
    },
    Redraw,
    /// The dashboard closes; the program continues to its end.
    Leave,
    /// The program ends now.
    EndNow,
}

pub struct App {
    pub view: View,
    last_key: Option<Instant>,
    /// The prompt whose cutover box is on the screen, and since when.
    cutover_box: Option<(u64, Instant)>,
    stop_asked: Option<Instant>,
    message_until: Option<Instant>,
    /// The prompt that was on the screen at the last tick.
    prompt: Option<u64>,
    draft_until: Option<Instant>,
}

impl App {
    pub fn new(ascii: bool, mono: bool, zone: TimeZone) -> Self {
        let view = View::new(ascii, mono, zone);
        Self { view, last_key: None, cutover_box: None, stop_asked: None, message_until: None, prompt: None, draft_until: None }
    }

    /// Draws the whole screen.
    pub fn render(&self, frame: &mut Frame, state: &State) {
        screens::render(frame, state, &self.view);
        if !self.view.symbols.braille {
            // Names and messages of the databases may hold any character.
            for cell in &mut frame.buffer_mut().content {
                if !cell.symbol().is_ascii() {
                    cell.set_symbol(ascii_stand_in(cell.symbol()));
                }
            }
        }
    }

    /// After a frame reached the terminal: what was on it counts from now.
    pub fn drawn(&mut self, area: Rect, state: &State, now: Instant) {
        let prompt = state.prompts.shown().map(|p| p.id).filter(|_| state.is_cutover_box_open() && self.view.modal.is_none() && !too_small(area));
        self.cutover_box = match (prompt, self.cutover_box) {
            (Some(id), Some((known, since))) if id == known => Some((id, since)),
            (Some(id), _) => Some((id, now)),
            (None, _) => None,
        };
    }

    /// Removes what has been shown for its time; true when the screen changes by it.
    pub fn tick(&mut self, state: &State, now: Instant) -> bool {
        let mut changed = false;
        let prompt = state.prompts.shown().map(|p| p.id);
        // A message about an earlier prompt is not true of this one.
        let asked = prompt.is_some() && prompt != std::mem::replace(&mut self.prompt, prompt);
        if self.message_until.is_some_and(|t| t <= now || asked) {
            self.message_until = None;
            self.view.message = None;
            changed = true;
        }
        let confirmed = self.view.draft.as_ref().is_some_and(|draft| draft.is_like(&Selection::of(state)));
        if self.view.draft.is_some() && (confirmed || self.draft_until.is_none_or(|t| t <= now)) {
            self.view.draft = None;
            changed = true;
        }
        changed
    }

    /// Shows a text in the message line for a while.
    pub fn say(&mut self, level: Level, text: impl Into<String>, now: Instant) {
        self.view.message = Some((level, text.into()));
        self.message_until = Some(now + MESSAGE);
    }

    /// Pasted text: only the filter takes it, so that it cannot press keys.
    pub fn on_paste(&mut self, text: &str) {
        if self.view.filtering {
            for c in text.chars().filter(|c| !c.is_control()) {
                self.view.filter.handle(tui_input::InputRequest::InsertChar(c));
            }
        }
    }

    pub fn on_key(&mut self, event: &KeyEvent, state: &State, now: Instant) -> Vec<Effect> {
        let Some(key) = Key::read(event) else { return Vec::new() };
        let quiet = self.last_key.is_none_or(|last| now.duration_since(last) >= QUIET_BEFORE_CONFIRM);
        self.last_key = Some(now);
        self.tick(state, now);
        if key != Key::Ctrl('c') && key != Key::Ctrl('l') {
            if self.view.filtering {
                self.edit_filter(key, event);
                return Vec::new();
            }
            if let Some(Modal::Name { .. }) = self.view.modal {
                return self.type_name(key, event, state, now);
            }
        }
        match keys::find(self.view.context(state), key) {
            Some(Action::Confirm) => self.confirm(quiet, state, now),
            Some(action) => self.act(action, key, state, now),
            None => {
                // Any other key stays: tmux delays esc for half a second.
                self.view.modal = None;
                Vec::new()
            }
        }
    }

    fn edit_filter(&mut self, key: Key, event: &KeyEvent) {
        match key {
            Key::Enter => self.view.filtering = false,
            Key::Esc => {
                self.view.filtering = false;
                self.view.filter.reset();
            }
            _ => {
                self.view.filter.handle_event(&TerminalEvent::Key(*event));
            }
        }
    }

    fn type_name(&mut self, key: Key, event: &KeyEvent, state: &State, now: Instant) -> Vec<Effect> {
        let Some(Modal::Name { purpose, input }) = &mut self.view.modal else { return Vec::new() };
        match key {
            Key::Esc => self.view.modal = None,
            Key::Enter if input.value().is_empty() => self.view.modal = None,
            Key::Enter if input.value().trim() == purpose.name() => {
                let purpose = purpose.clone();
                self.view.modal = None;
                return match purpose {
                    NamePurpose::Skip(prompt, _) => answer(prompt, Answer::Skip),
                    NamePurpose::CopyAgain(table) => vec![Effect::Send(Command::CopyAgain { table })],
                    NamePurpose::InsertOnly(table) => self.set_identity(table, IdentityChoice::InsertOnly, state, now),
                    NamePurpose::Remove { sql, .. } => vec![Effect::Send(Command::RunStatements { statements: vec![sql] })],
                    NamePurpose::SettleAll(_) => vec![Effect::Send(Command::SettleIdentities { default: IdentityDefault::Proposed })],
                };
            }
            Key::Enter => self.say(Level::Warn, "that is not what was asked for; esc goes back", now),
            _ => {
                input.handle_event(&TerminalEvent::Key(*event));
            }
        }
        Vec::new()
    }

    fn confirm(&mut self, quiet: bool, state: &State, now: Instant) -> Vec<Effect> {
        if self.view.stopping {
            return Vec::new();
        }
        match state.can_confirm() {
            Err(why) => self.say(Level::Warn, why, now),
            Ok(id) => {
                let seen = self.cutover_box.is_some_and(|(shown, since)| shown == id && now.duration_since(since) >= BOX_SHOWN);
                if quiet && seen {
                    return answer(id, Answer::Confirm);
                }
                self.say(Level::Warn, "Y did not count: it came too soon after the box or another key; press it again", now);
            }
        }
        Vec::new()
    }

    fn act(&mut self, action: Action, key: Key, state: &State, now: Instant) -> Vec<Effect> {
        let shown = self.view.shown(state);
        match action {
            Action::Quit => return self.quit(state),
            Action::Interrupt => return self.interrupt(state, now),
            Action::Redraw => return vec![Effect::Redraw],
            Action::Back => return self.back(state),
            _ if self.view.stopping && !self.view.enabled(action, state) => {}
            _ if !self.view.enabled(action, state) => {
                let why = self.view.failure(state).filter(|_| action == Action::Skip).and_then(|f| f.objection(Answer::Skip));
                self.say(Level::Info, why.unwrap_or_else(|| refusal(action, state)), now);
                return Vec::new();
            }
            Action::ShowStage => {
                if let Key::Char(c) = key
                    && let Some(stage) = c.to_digit(10).and_then(|n| Stage::ALL.get(n as usize - 1))
                {
                    self.view.stage = (state.stage != Some(*stage)).then_some(*stage);
                    self.view.overlay = None;
                    self.view.scroll = 0;
                }
            }
            Action::Follow => {
                self.view.stage = None;
                self.view.overlay = None;
            }
            Action::Help => self.toggle(Overlay::Help),
            Action::Log => self.toggle(Overlay::Log),
            Action::Details => self.toggle(Overlay::Details),
            Action::Differences => self.toggle(Overlay::Differences),
            Action::Run => return self.run_selected(state),
            Action::All if self.view.overlay == Some(Overlay::Differences) => return run(state.differences.iter().filter(|d| d.is_safe())),
            Action::Down => self.scroll(1, shown, state),
            Action::Up => self.scroll(-1, shown, state),
            Action::PageDown => self.scroll(PAGE, shown, state),
            Action::PageUp => self.scroll(-PAGE, shown, state),
            Action::Top => self.scroll(isize::MIN / 2, shown, state),
            Action::Bottom => self.scroll(isize::MAX / 2, shown, state),
            Action::Filter => self.view.filtering = true,
            Action::Sort if shown == Stage::Copy => self.view.copy_order = (self.view.copy_order + 1) % COPY_ORDERS.len(),
            Action::Sort => self.view.catch_up_order = (self.view.catch_up_order + 1) % CATCH_UP_ORDERS.len(),
            Action::Swap => self.view.swapped = !self.view.swapped,
            Action::Copy => return vec![Effect::Copy(clip::text(state, &self.view))],
            Action::Write => match clip::sql_file(shown, state, &self.view) {
                Some((file, text)) => return vec![Effect::Write { file, text }],
                None => self.say(Level::Info, "there is no SQL on this screen", now),
            },
            Action::All if shown == Stage::Identity => {
                self.view.modal = Some(Modal::Name { purpose: NamePurpose::SettleAll(Proposals::of(state)), input: Input::default() });
            }
            Action::Mark | Action::All | Action::NoneMarked | Action::OneTable => return self.mark(action, state, now),
            Action::NextField => {
                // On a small screen the editor is the other pane.
                self.view.swapped = true;
                let step = if key == Key::BackTab { FIELDS - 1 } else { 1 };
                self.view.field = (self.view.field + step) % FIELDS;
            }
            Action::Previous | Action::Next if shown == Stage::Identity => self.turn_index(action == Action::Next, state),
            Action::Previous | Action::Next => return self.turn_field(action == Action::Next, state, now),
            Action::IdentityFull | Action::IdentityIndex | Action::InsertOnly => return self.choose_identity(action, state, now),
            Action::Continue | Action::OpenCutover | Action::Abort | Action::Recheck | Action::Pause | Action::MoreJobs | Action::FewerJobs => {
                return command(action, state).map(Effect::Send).into_iter().collect();
            }
            Action::Retry | Action::Skip => return self.settle(action, state, now),
            Action::CopyAgain => {
                if let Some(table) = self.view.selected_table(shown, state) {
                    self.view.modal = Some(Modal::Name { purpose: NamePurpose::CopyAgain(table.summary.table.clone()), input: Input::default() });
                }
            }
            Action::Confirm => {}
        }
        Vec::new()
    }

    fn toggle(&mut self, overlay: Overlay) {
        self.view.overlay = (self.view.overlay != Some(overlay)).then_some(overlay);
        self.view.scroll = 0;
    }

    /// Moves the selection, or scrolls the overlay.
    fn scroll(&mut self, by: isize, shown: Stage, state: &State) {
        if let Some(overlay) = self.view.overlay {
            // The log is scrolled from its end.
            let by = if overlay == Overlay::Log { by.saturating_neg() } else { by };
            let most = screens::overlay_lines(overlay, state, &self.view).saturating_sub(1);
            self.view.scroll = self.view.scroll.saturating_add_signed(by).min(most);
            return;
        }
        if shown == Stage::Done {
            let most = screens::done::lines(76, state, &self.view).len().saturating_sub(1);
            self.view.scroll = self.view.scroll.saturating_add_signed(by).min(most);
            return;
        }
        let rows = self.view.rows(shown, state);
        if let Some(last) = rows.len().checked_sub(1) {
            let at = self.view.selected(shown, state).saturating_add_signed(by).min(last);
            self.view.selected.insert(shown, rows[at].clone());
        }
    }

    fn back(&mut self, state: &State) -> Vec<Effect> {
        if self.view.modal.take().is_some() {
        } else if state.is_cutover_box_open() {
            // Only the box: esc must not stop a cutover that runs.
            if let Some(asked) = state.prompts.shown().filter(|p| p.kind == PromptKind::Cutover) {
                return answer(asked.id, Answer::GoBack);
            }
        } else if self.view.overlay.take().is_some() {
        } else if !self.view.filter.value().is_empty() {
            self.view.filter.reset();
        } else {
            self.view.stage = None;
        }
        Vec::new()
    }

    /// Runs the selected statement. One that removes rows or values asks for the name of its object first.
    fn run_selected(&mut self, state: &State) -> Vec<Effect> {
        match self.view.selected_difference(state) {
            Some(SchemaDifference { object, sql: Some(sql), removes: true, .. }) => {
                let purpose = NamePurpose::Remove { object: object.clone(), sql: sql.clone() };
                self.view.modal = Some(Modal::Name { purpose, input: Input::default() });
                Vec::new()
            }
            chosen => run(chosen.into_iter()),
        }
    }

    fn quit(&mut self, state: &State) -> Vec<Effect> {
        if matches!(state.ended, Some(Ended::Failed { .. })) {
            return vec![Effect::Leave];
        }
        if matches!(self.view.overlay, Some(Overlay::Help)) && self.view.modal.is_none() {
            self.view.overlay = None;
            return Vec::new();
        }
        if state.can_leave() {
            return self.leave();
        }
        if self.view.stopping {
            return Vec::new();
        }
        if matches!(self.view.modal, Some(Modal::Quit)) {
            return self.stop();
        }
        self.view.modal = Some(Modal::Quit);
        Vec::new()
    }

    fn interrupt(&mut self, state: &State, now: Instant) -> Vec<Effect> {
        if matches!(state.ended, Some(Ended::Failed { .. })) {
            return vec![Effect::Leave];
        }
        self.view.filtering = false;
        if self.view.stopping || self.view.leaving {
            if self.stop_asked.is_some_and(|asked| now.duration_since(asked) < END_NOW) {
                return vec![Effect::EndNow];
            }
            self.stop_asked = Some(now);
            return vec![Effect::Send(Command::Stop)];
        }
        if matches!(self.view.modal, Some(Modal::Quit)) {
            self.stop_asked = Some(now);
            return self.stop();
        }
        self.view.modal = Some(Modal::Quit);
        Vec::new()
    }

    fn stop(&mut self) -> Vec<Effect> {
        self.view.modal = None;
        self.view.stopping = true;
        vec![Effect::Send(Command::Stop)]
    }

    /// Leaves a finished migration; it cleans up first, unless that is done.
    fn leave(&mut self) -> Vec<Effect> {
        self.view.modal = None;
        if std::mem::replace(&mut self.view.leaving, true) { Vec::new() } else { vec![Effect::Send(Command::Leave)] }
    }

    /// `r` and `K` on what failed; `r` after a late write.
    fn settle(&mut self, action: Action, state: &State, now: Instant) -> Vec<Effect> {
        if let Some(asked) = state.prompts.shown().filter(|p| p.kind == PromptKind::LateWrite) {
            return answer(asked.id, Answer::Retry);
        }
        let Some(failure) = self.view.failure(state) else {
            self.say(Level::Info, "more than one failed: select the row first (3 shows the failed statements)", now);
            return Vec::new();
        };
        if action == Action::Retry {
            return answer(failure.id, Answer::Retry);
        }
        if let Some(subject) = &failure.subject {
            self.view.modal = Some(Modal::Name { purpose: NamePurpose::Skip(failure.id, subject.to_string()), input: Input::default() });
        }
        Vec::new()
    }
}

fn answer(prompt: u64, answer: Answer) -> Vec<Effect> {
    vec![Effect::Send(Command::Answer { prompt, answer })]
}

/// Orders the statements of these differences.
fn run<'a>(differences: impl Iterator<Item = &'a SchemaDifference>) -> Vec<Effect> {
    vec![Effect::Send(Command::RunStatements { statements: differences.filter_map(|d| d.sql.clone()).collect() })]
}

/// Commands that follow from the state alone.
fn command(action: Action, state: &State) -> Option<Command> {
    Some(match action {
        Action::Continue => match state.can_continue() {
            Some(prompt) => Command::Answer { prompt, answer: Answer::Continue },
            None => Command::OpenCutover,
        },
        Action::OpenCutover => Command::OpenCutover,
        Action::Abort => match state.prompts.shown().filter(|p| p.objection(Answer::GoBack).is_none()) {
            Some(asked) => Command::Answer { prompt: asked.id, answer: Answer::GoBack },
            None => Command::AbortCutover,
        },
        Action::Recheck => Command::Recheck,
        Action::Pause if state.paused => Command::Resume,
        Action::Pause => Command::Pause,
        Action::MoreJobs => Command::SetJobs { table_jobs: state.copy.table_jobs + 1 },
        Action::FewerJobs => Command::SetJobs { table_jobs: state.copy.table_jobs.saturating_sub(1).max(1) },
        _ => return None,
    })
}

/// Why a key does nothing now.
fn refusal(action: Action, state: &State) -> String {
    match action {
        Action::Continue => match state.prompts.shown().and_then(|p| p.blocked_by.as_ref()) {
            Some(why) => format!("not yet: {why}"),
            None => match state.gates_not_passed() {
                Some(gates) if state.stage == Some(Stage::CatchUp) => format!("{gates}; C shows the cutover box"),
                _ => "nothing waits for c".into(),
            },
        },
        Action::OpenCutover => "the cutover opens from catch-up on".into(),
        Action::Abort => "the last step has begun: there is no way back from here; the source keeps all its data".into(),
        Action::Retry | Action::Skip if state.prompts.failures().next().is_some() => "esc closes the cutover box first".into(),
        Action::Retry | Action::Skip => "nothing failed".into(),
        Action::IdentityFull | Action::IdentityIndex | Action::InsertOnly => "nothing to choose for this table now".into(),
        Action::Recheck | Action::Mark | Action::All | Action::NoneMarked | Action::OneTable | Action::Previous | Action::Next => {
            "this stage does not wait for a choice now".into()
        }
        Action::CopyAgain => "a table can be copied again in catch-up, unless it is being copied".into(),
        Action::Follow => "following the running stage".into(),
        Action::Differences => "no difference of the schemas is known".into(),
        Action::Run => "statements are run while replay goes on, and where one is known".into(),
        _ => "nothing here".into(),
    }
}
