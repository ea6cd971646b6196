//! What the operator looks at: which screen, which row, which order. It knows nothing of the migration but names.

use jiff::{Timestamp, tz::TimeZone};
use ratatui::style::Style;
use std::{collections::HashMap, time::Duration};
use tui_input::Input;

use crate::{
    event::{Answer, Candidate, Check, CutoverStep, IdentityRow, IdentityState, Level, Prompt, PromptKind, Stage, StageState, TableState, Verdict},
    format,
    name::TableName,
    plan::{Hypertable, IdentityChoice, KeyChoice},
    state::{Ended, FailedStatement, State, Table, between},
    ui::{
        keys::{Action, Context},
        theme::{ASCII, Role, Symbols, Theme, UNICODE},
    },
};

/// Smallest terminal that the screens are drawn in.
pub const MIN_SIZE: (u16, u16) = (60, 16);

/// Laid over the body until it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    Details,
    Log,
    Help,
}

/// A box that wants an answer first.
#[derive(Clone, Debug)]
pub enum Modal {
    Quit,
    /// The name of the object has to be typed.
    Name {
        purpose: Purpose,
        input: Input,
    },
}

/// What is done once the name is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Answers the prompt of this id, about this table or statement.
    Skip(u64, String),
    InsertOnly(TableName),
}

impl Purpose {
    pub fn name(&self) -> String {
        match self {
            Self::Skip(_, object) => object.clone(),
            Self::InsertOnly(table) => table.to_string(),
        }
    }
}

/// Orders of the copy screen and of the catch-up screen.
pub const COPY_ORDERS: [&str; 4] = ["state", "size", "name", "progress"];
pub const CATCH_UP_ORDERS: [&str; 3] = ["changes", "size", "name"];

/// Fields of the hypertable editor.
pub const FIELDS: usize = 3;

#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a switch of its own")]
pub struct View {
    pub theme: Theme,
    pub symbols: &'static Symbols,
    pub zone: TimeZone,
    /// The time it is; without it the time of the last event.
    pub clock: Option<Timestamp>,
    /// The stage that is looked at; `None` follows the run.
    pub stage: Option<Stage>,
    pub overlay: Option<Overlay>,
    /// Lines scrolled in the overlay; in the log from its end.
    pub scroll: usize,
    pub modal: Option<Modal>,
    /// The selected row of each stage, by name: rows move while one looks.
    pub selected: HashMap<Stage, String>,
    pub copy_order: usize,
    pub catch_up_order: usize,
    pub filter: Input,
    pub filtering: bool,
    /// On a small screen: the other pane.
    pub swapped: bool,
    pub field: usize,
    /// Values set for tables that are not selected.
    pub edits: HashMap<TableName, Hypertable>,
    /// The selection as it was ordered and is not confirmed yet.
    pub draft: Option<Selection>,
    /// Which of the eligible unique indexes is shown.
    pub index: HashMap<TableName, usize>,
    /// Identity choices that were ordered.
    pub ordered: HashMap<TableName, IdentityChoice>,
    pub message: Option<(Level, String)>,
    pub stopping: bool,
    pub leaving: bool,
}

/// What becomes of the tables, all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    pub hypertables: Vec<Hypertable>,
    pub one_table: Vec<TableName>,
}

impl Selection {
    /// As the engine has it.
    pub fn of(state: &State) -> Self {
        Self {
            hypertables: state.candidates.iter().filter_map(|c| c.chosen.clone()).collect(),
            one_table: state.candidates.iter().filter(|c| c.one_table).map(|c| c.table.clone()).collect(),
        }
    }

    /// Whether both say the same, in whatever order.
    pub fn is_like(&self, other: &Self) -> bool {
        self.hypertables.len() == other.hypertables.len()
            && self.hypertables.iter().all(|h| other.hypertables.contains(h))
            && self.one_table.len() == other.one_table.len()
            && self.one_table.iter().all(|t| other.one_table.contains(t))
    }
}

impl View {
    pub fn new(ascii: bool, mono: bool, zone: TimeZone) -> Self {
        Self {
            theme: Theme { mono },
            symbols: if ascii { &ASCII } else { &UNICODE },
            zone,
            clock: None,
            stage: None,
            overlay: None,
            scroll: 0,
            modal: None,
            selected: HashMap::new(),
            copy_order: 0,
            catch_up_order: 0,
            filter: Input::default(),
            filtering: false,
            swapped: false,
            field: 0,
            edits: HashMap::new(),
            draft: None,
            index: HashMap::new(),
            ordered: HashMap::new(),
            message: None,
            stopping: false,
            leaving: false,
        }
    }

    pub fn style(&self, role: Role) -> Style {
        self.theme.style(role)
    }

    pub fn now(&self, state: &State) -> Timestamp {
        self.clock.max(state.now).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    pub fn elapsed(&self, state: &State) -> Duration {
        match (state.opened, &state.ended) {
            (Some(opened), None) => between(opened, self.now(state)),
            _ => state.elapsed(),
        }
    }

    pub fn time(&self, at: Timestamp) -> String {
        format::clock_in(at, &self.zone)
    }

    /// Time of day with milliseconds.
    pub fn time_ms(&self, at: Timestamp) -> String {
        format::clock_ms_in(at, &self.zone)
    }

    /// The stage on the screen.
    pub fn shown(&self, state: &State) -> Stage {
        self.stage.or(state.stage).unwrap_or(Stage::Preflight)
    }

    pub fn context(&self, state: &State) -> Context {
        match (&self.modal, self.overlay) {
            (Some(Modal::Quit), _) => Context::Quit,
            _ if cutover_box(state) => Context::CutoverBox,
            (_, Some(Overlay::Details)) => Context::Details,
            (_, Some(Overlay::Log)) => Context::Log,
            (_, Some(Overlay::Help)) => Context::Help,
            _ => Context::Stage(self.shown(state)),
        }
    }

    fn matches(&self, name: &impl std::fmt::Display, word: &str) -> bool {
        let wanted = self.filter.value().to_lowercase();
        wanted.is_empty() || name.to_string().to_lowercase().contains(&wanted) || word.to_lowercase().contains(&wanted)
    }

    /// `filter: geo`, for the title of a list.
    pub fn filter_text(&self) -> String {
        match (self.filtering, self.filter.value()) {
            (true, text) => format!("filter: {text}_"),
            (false, "") => String::new(),
            (false, text) => format!("filter: {text}"),
        }
    }

    /// Why a list is empty, when something would stand in it without the filter; else `otherwise`.
    pub fn empty_list(&self, otherwise: &str) -> String {
        if self.filter.value().is_empty() { format!(" {otherwise}") } else { " Nothing matches the filter (/ changes it, esc clears it).".into() }
    }

    /// Failures first, then warnings.
    pub fn checks<'a>(&self, state: &'a State) -> Vec<&'a Check> {
        let mut checks: Vec<_> = state.checks.iter().filter(|c| self.matches(&c.name, verdict_word(c.verdict))).collect();
        checks.sort_by_key(|c| std::cmp::Reverse(c.verdict));
        checks
    }

    pub fn identities<'a>(&self, state: &'a State) -> Vec<&'a IdentityRow> {
        state.identities.iter().filter(|r| self.matches(&r.table, r.state.word())).collect()
    }

    pub fn statements<'a>(&self, state: &'a State) -> Vec<&'a FailedStatement> {
        state.failed_statements.iter().filter(|f| self.matches(&f.object, "")).collect()
    }

    pub fn candidates<'a>(&self, state: &'a State) -> Vec<&'a Candidate> {
        state.candidates.iter().filter(|c| self.matches(&c.table, "")).collect()
    }

    /// Tables of the copy screen or the catch-up screen, in the chosen order; what needs the operator comes first.
    pub fn tables<'a>(&self, stage: Stage, state: &'a State) -> Vec<&'a Table> {
        let mut tables: Vec<_> = state.tables.iter().filter(|t| self.matches(&t.summary.table, t.state.word())).collect();
        let order = if stage == Stage::Copy { COPY_ORDERS[self.copy_order] } else { CATCH_UP_ORDERS[self.catch_up_order] };
        match order {
            "state" => tables.sort_by_key(|t| (state_rank(t.state), std::cmp::Reverse(t.summary.bytes))),
            "size" => tables.sort_by_key(|t| std::cmp::Reverse(t.summary.bytes)),
            "progress" => tables.sort_by(|a, b| a.fraction().total_cmp(&b.fraction())),
            "changes" => tables.sort_by_key(|t| (t.diverged.is_none() && state.waits(t).is_none(), std::cmp::Reverse(t.changes()))),
            _ => tables.sort_by(|a, b| a.summary.table.cmp(&b.summary.table)),
        }
        tables
    }

    /// Names of the rows of a stage's screen, as they stand there.
    pub fn rows(&self, stage: Stage, state: &State) -> Vec<String> {
        match stage {
            Stage::Preflight => self.checks(state).iter().map(|c| c.name.clone()).collect(),
            Stage::Identity => self.identities(state).iter().map(|r| r.table.to_string()).collect(),
            Stage::Schema => self.statements(state).iter().map(|f| f.object.clone()).collect(),
            Stage::Hypertables => self.candidates(state).iter().map(|c| c.table.to_string()).collect(),
            Stage::Copy | Stage::CatchUp => self.tables(stage, state).iter().map(|t| t.summary.table.to_string()).collect(),
            Stage::Verify | Stage::Cutover | Stage::Done => Vec::new(),
        }
    }

    /// Position of the selected row; without a choice the first one that needs the operator.
    pub fn selected(&self, stage: Stage, state: &State) -> usize {
        let rows = self.rows(stage, state);
        let chosen = self.selected.get(&stage).and_then(|name| rows.iter().position(|r| r == name));
        chosen.unwrap_or_else(|| match stage {
            Stage::Identity => self.identities(state).iter().position(|r| r.state == IdentityState::Open).unwrap_or(0),
            Stage::Schema => self.statements(state).iter().position(|f| !f.skipped).unwrap_or(0),
            _ => 0,
        })
    }

    /// Name of the selected row.
    pub fn selected_name(&self, stage: Stage, state: &State) -> Option<String> {
        let at = self.selected(stage, state);
        self.rows(stage, state).into_iter().nth(at)
    }

    /// The failure that `r` and `K` answer: that of the selected row, or the only one.
    pub fn failure<'a>(&self, state: &'a State) -> Option<&'a Prompt> {
        let selected = self.selected_name(self.shown(state), state).and_then(|row| state.prompts.failure_of(&row));
        let mut failures = state.prompts.failures();
        selected.or(failures.next().filter(|_| failures.next().is_none()))
    }

    /// Whether a stage's screen has a row.
    fn has_rows(&self, stage: Stage, state: &State) -> bool {
        if !self.filter.value().is_empty() {
            return !self.rows(stage, state).is_empty();
        }
        match stage {
            Stage::Preflight => !state.checks.is_empty(),
            Stage::Identity => !state.identities.is_empty(),
            Stage::Schema => !state.failed_statements.is_empty(),
            Stage::Hypertables => !state.candidates.is_empty(),
            Stage::Copy | Stage::CatchUp => !state.tables.is_empty(),
            Stage::Verify | Stage::Cutover | Stage::Done => false,
        }
    }

    pub fn selected_identity<'a>(&self, state: &'a State) -> Option<&'a IdentityRow> {
        self.identities(state).get(self.selected(Stage::Identity, state)).copied()
    }

    pub fn selected_candidate<'a>(&self, state: &'a State) -> Option<&'a Candidate> {
        self.candidates(state).get(self.selected(Stage::Hypertables, state)).copied()
    }

    pub fn selected_table<'a>(&self, stage: Stage, state: &'a State) -> Option<&'a Table> {
        self.tables(stage, state).get(self.selected(stage, state)).copied()
    }

    /// The unique index that `u` would choose.
    pub fn eligible_index<'a>(&self, row: &'a IdentityRow) -> Option<&'a String> {
        let proposed = match &row.proposed {
            Some(IdentityChoice::Index(name)) => row.indexes.iter().position(|i| i == name).unwrap_or(0),
            _ => 0,
        };
        row.indexes.get(self.index.get(&row.table).copied().unwrap_or(proposed) % row.indexes.len().max(1))
    }

    /// The whole selection of hypertables as the operator sees it.
    pub fn selection(&self, state: &State) -> Selection {
        self.draft.clone().unwrap_or_else(|| Selection::of(state))
    }

    pub fn is_selected(&self, candidate: &Candidate) -> bool {
        match &self.draft {
            Some(draft) => draft.hypertables.iter().any(|h| h.table == candidate.table),
            None => candidate.chosen.is_some(),
        }
    }

    /// Whether a partitioned table becomes one plain table.
    pub fn is_one_table(&self, candidate: &Candidate) -> bool {
        self.draft.as_ref().map_or(candidate.one_table, |draft| draft.one_table.contains(&candidate.table))
    }

    /// The values of the editor for a candidate: as chosen, as edited, or as proposed. `None` where there is no time column.
    pub fn hypertable(&self, candidate: &Candidate) -> Option<Hypertable> {
        let chosen = match &self.draft {
            Some(draft) => draft.hypertables.iter().find(|h| h.table == candidate.table),
            None => candidate.chosen.as_ref(),
        };
        chosen.or_else(|| self.edits.get(&candidate.table)).or(candidate.chosen.as_ref()).cloned().or_else(|| {
            let column = candidate.columns.first()?;
            Some(Hypertable {
                table: candidate.table.clone(),
                time_column: column.name.clone(),
                chunk_interval: column.intervals.first().cloned().unwrap_or_else(|| "7 days".into()),
                key: KeyChoice::Extend,
            })
        })
    }

    /// Whether a key that is bound here would do something now.
    pub fn enabled(&self, action: Action, state: &State) -> bool {
        let shown = self.shown(state);
        let runs = state.ended.is_none() && state.stage == Some(shown) && state.stage_state(shown) == StageState::Running;
        let rows = self.has_rows(shown, state);
        if orders(action) && (state.ended.is_some() || self.stopping || self.leaving) {
            return false;
        }
        match action {
            Action::Continue => can_continue(state).is_some() || can_open_cutover(state),
            Action::OpenCutover => at_catch_up(state),
            Action::Confirm => can_confirm(state).is_ok(),
            Action::Abort => can_abort(state),
            Action::Retry => is_late_write(state) || asks_about_failure(state),
            Action::Skip => asks_about_failure(state) && self.failure(state).is_none_or(|f| f.objection(Answer::Skip).is_none()),
            Action::Recheck => runs,
            Action::Pause => state.ended.is_none() && matches!(state.stage, Some(Stage::Copy | Stage::CatchUp)),
            Action::MoreJobs | Action::FewerJobs => runs && state.table_jobs > 0,
            Action::IdentityFull | Action::IdentityIndex | Action::InsertOnly => {
                runs && self.selected_identity(state).is_some_and(|r| r.state != IdentityState::Ok && r.state != IdentityState::Applied)
            }
            Action::Previous | Action::Next if shown == Stage::Identity => runs && self.selected_identity(state).is_some_and(|r| r.indexes.len() > 1),
            Action::Previous | Action::Next | Action::Mark | Action::All | Action::NoneMarked => runs && rows,
            Action::OneTable => runs && self.selected_candidate(state).is_some_and(|c| c.partitions > 0),
            Action::Follow => self.stage.is_some(),
            Action::Details => rows && !self.done(state),
            Action::NextField | Action::Filter | Action::Sort => rows,
            Action::Write => rows && matches!(shown, Stage::Preflight | Stage::Identity | Stage::Schema | Stage::Hypertables),
            _ => true,
        }
    }

    /// The migration is completed and its last screen is shown: leaving is all that is left.
    pub fn done(&self, state: &State) -> bool {
        state.stage == Some(Stage::Done) && state.cutover.completed.is_some() && state.ended.is_none()
    }
}

/// Whether an action asks something of the engine.
fn orders(action: Action) -> bool {
    use Action::{
        Abort, All, Confirm, Continue, FewerJobs, IdentityFull, IdentityIndex, InsertOnly, Mark, MoreJobs, NoneMarked, OneTable, OpenCutover, Pause,
        Recheck, Retry, Skip,
    };
    matches!(
        action,
        Abort
            | All
            | Confirm
            | Continue
            | FewerJobs
            | IdentityFull
            | IdentityIndex
            | InsertOnly
            | Mark
            | MoreJobs
            | NoneMarked
            | OneTable
            | OpenCutover
            | Pause
            | Recheck
            | Retry
            | Skip
    )
}

pub fn verdict_word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Ok => "ok",
        Verdict::Warn => "WARN",
        Verdict::Fail => "FAIL",
    }
}

fn state_rank(state: TableState) -> u8 {
    match state {
        TableState::Failed => 0,
        TableState::Copying => 1,
        TableState::Indexing => 2,
        TableState::Waiting => 3,
        TableState::Queued => 4,
        TableState::Skipped => 5,
        TableState::Done => 6,
    }
}

/// Whether a failure is what is asked about; the cutover box comes before it.
fn asks_about_failure(state: &State) -> bool {
    state.ended.is_none() && state.prompts.shown().is_some_and(|p| p.kind == PromptKind::Failure)
}

/// The id of the prompt that `c` would answer.
pub fn can_continue(state: &State) -> Option<u64> {
    state.prompts.to_continue().filter(|_| state.ended.is_none())
}

fn at_catch_up(state: &State) -> bool {
    state.ended.is_none() && matches!(state.stage, Some(Stage::CatchUp | Stage::Verify)) && !cutover_box(state)
}

/// Hard gates that are not passed.
pub fn hard_gates_open(state: &State) -> usize {
    state.gates.iter().filter(|g| g.hard && !g.passed).count()
}

/// Whether `c` opens the cutover box.
pub fn can_open_cutover(state: &State) -> bool {
    at_catch_up(state) && state.prompts.shown().is_none() && !state.gates.is_empty() && hard_gates_open(state) == 0
}

/// Whether the cutover box is on the screen.
pub fn cutover_box(state: &State) -> bool {
    let asked = state.prompts.shown().is_some_and(|p| matches!(p.kind, PromptKind::Cutover | PromptKind::LateWrite));
    state.ended.is_none() && (asked || state.cutover.running)
}

pub fn is_late_write(state: &State) -> bool {
    state.ended.is_none() && state.prompts.shown().is_some_and(|p| p.kind == PromptKind::LateWrite)
}

/// The id of the prompt that `Y` would answer, or why it would not.
pub fn can_confirm(state: &State) -> Result<u64, String> {
    let Some(prompt) = state.prompts.shown().filter(|p| p.kind == PromptKind::Cutover && state.ended.is_none()) else {
        return Err("nothing to confirm".into());
    };
    if let Some(why) = &prompt.blocked_by {
        return Err(format!("not yet: {why}"));
    }
    match hard_gates_open(state) {
        0 => Ok(prompt.id),
        n => Err(gates(n)),
    }
}

/// Going back is possible while the last group of steps has not begun.
pub fn can_abort(state: &State) -> bool {
    cutover_box(state) && !state.cutover.steps.contains_key(&CutoverStep::LastObjects)
}

/// `1 gate has not passed yet`.
pub fn gates(n: usize) -> String {
    if n == 1 { "1 gate has not passed yet".into() } else { format!("{n} gates have not passed yet") }
}

/// Whether the operator has to do something before the migration goes on.
pub fn waits_for_operator(state: &State) -> bool {
    state.ended.is_none() && state.prompts.shown().is_some()
}

/// The word at the right of the key line, also for the terminal's title.
pub fn status(state: &State, view: &View) -> (&'static str, Role) {
    match &state.ended {
        Some(Ended::Failed { .. }) => return ("FAILED", Role::Failed),
        Some(Ended::Stopped) => return ("STOPPED", Role::Attention),
        None => {}
    }
    if view.stopping {
        ("STOPPING", Role::Attention)
    } else if view.leaving {
        ("CLEANING UP", Role::Busy)
    } else if waits_for_operator(state) {
        ("WAITING FOR YOU", Role::Attention)
    } else if state.cutover.completed.is_some() {
        ("COMPLETED", Role::Ok)
    } else if state.paused {
        ("PAUSED", Role::Attention)
    } else if state.replay.broken.is_some() {
        ("RECONNECTING", Role::Attention)
    } else if state.opened.is_none() {
        ("STARTING", Role::Dim)
    } else {
        ("RUNNING", Role::Busy)
    }
}
