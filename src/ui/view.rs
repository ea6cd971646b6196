//! What the operator sees: which screen, which row, which order. It knows nothing of the migration but names.

mod filter;
pub mod rows;
mod selection;

use jiff::{Timestamp, tz::TimeZone};
use ratatui::{layout::Rect, style::Style};
use std::{collections::HashMap, time::Duration};
use tui_input::Input;

use crate::{
    event::{Answer, IdentityState, Level, SchemaDifference, Stage},
    format,
    name::TableName,
    plan::{Hypertable, IdentityChoice},
    state::{Ended, State, between},
    ui::{
        keys::{self, Action, Context},
        theme::{ASCII, Role, Symbols, Theme, UNICODE},
    },
};

/// Smallest terminal that the screens are drawn in.
pub const MIN_SIZE: (u16, u16) = (60, 16);

pub fn too_small(area: Rect) -> bool {
    area.width < MIN_SIZE.0 || area.height < MIN_SIZE.1
}

/// Laid over the body until it is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overlay {
    Details,
    /// Of the schemas. What is scrolled is the selection.
    Differences,
    Log,
    Help,
}

/// A box that wants an answer first.
#[derive(Clone, Debug)]
pub enum Modal {
    Quit,
    /// The name of the object has to be typed.
    Name {
        purpose: NamePurpose,
        input: Input,
    },
}

/// What is done once the name, or the number, is typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NamePurpose {
    /// Answers the prompt of this id, about this table or statement.
    Skip(u64, String),
    InsertOnly(TableName),
    CopyAgain(TableName),
    /// All open tables get the replica identity that is proposed for them.
    SettleAll(Proposals),
    /// A statement that removes rows or values of this object is run.
    Remove {
        object: String,
        sql: String,
    },
}

/// How many open tables each proposal is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proposals {
    pub full: usize,
    pub index: usize,
    /// Only insert-only is possible, which is accepted table by table.
    pub left: usize,
}

impl Proposals {
    pub fn of(state: &State) -> Self {
        let mut found = Self::default();
        for row in state.identity.rows.iter().filter(|r| r.state == IdentityState::Open) {
            match row.proposed {
                Some(IdentityChoice::Full) => found.full += 1,
                Some(IdentityChoice::Index(_)) => found.index += 1,
                Some(IdentityChoice::InsertOnly) | None => found.left += 1,
            }
        }
        found
    }

    /// Tables that are altered on the source.
    pub fn altered(&self) -> usize {
        self.full + self.index
    }
}

impl NamePurpose {
    pub fn name(&self) -> String {
        match self {
            Self::Skip(_, object) | Self::Remove { object, .. } => object.clone(),
            Self::InsertOnly(table) | Self::CopyAgain(table) => table.to_string(),
            Self::SettleAll(proposals) => proposals.altered().to_string(),
        }
    }
}

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
    /// The stage that is shown; `None` follows the run.
    pub stage: Option<Stage>,
    pub overlay: Option<Overlay>,
    /// Lines scrolled in the overlay; in the log from its end.
    pub scroll: usize,
    pub modal: Option<Modal>,
    /// The selected row of each stage, by name, because rows move.
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
            hypertables: state.hypertables.candidates.iter().filter_map(|c| c.chosen.clone()).collect(),
            one_table: state.hypertables.candidates.iter().filter(|c| c.one_table).map(|c| c.table.clone()).collect(),
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
            _ if state.is_cutover_box_open() => Context::CutoverBox,
            (_, Some(Overlay::Details)) => Context::Details,
            (_, Some(Overlay::Differences)) => Context::Differences,
            (_, Some(Overlay::Log)) => Context::Log,
            (_, Some(Overlay::Help)) => Context::Help,
            _ => Context::Stage(self.shown(state)),
        }
    }

    /// The one that is selected in the list of differences.
    pub fn selected_difference<'a>(&self, state: &'a State) -> Option<&'a SchemaDifference> {
        state.differences.get(self.scroll.min(state.differences.len().saturating_sub(1)))
    }

    /// Whether a key that is bound here would do something now.
    pub fn enabled(&self, action: Action, state: &State) -> bool {
        let shown = self.shown(state);
        let runs = state.stage_runs(shown);
        let rows = self.has_rows(shown, state);
        if keys::orders(action) && (state.ended.is_some() || self.stopping || self.leaving) {
            return false;
        }
        match action {
            Action::Continue => state.can_continue().is_some() || state.can_open_cutover(),
            Action::OpenCutover => state.can_show_cutover_box(),
            Action::Confirm => state.can_confirm().is_ok(),
            Action::Abort => state.can_abort(),
            Action::Retry => state.is_late_write() || state.asks_about_failure(),
            Action::Skip => state.asks_about_failure() && self.failure(state).is_none_or(|f| f.objection(Answer::Skip).is_none()),
            Action::Recheck => runs,
            Action::CopyAgain => runs && self.selected_table(shown, state).is_some_and(|t| t.away.is_none()),
            Action::Pause => state.can_pause(),
            Action::MoreJobs | Action::FewerJobs => state.can_set_jobs(),
            Action::IdentityFull | Action::IdentityIndex | Action::InsertOnly => {
                self.selected_identity(state).is_some_and(|row| state.can_choose_identity(row))
            }
            Action::Differences => !state.differences.is_empty() || self.overlay == Some(Overlay::Differences),
            Action::Run => state.stage_runs(Stage::CatchUp) && self.selected_difference(state).is_some_and(|d| d.sql.is_some()),
            Action::All if self.overlay == Some(Overlay::Differences) => {
                state.stage_runs(Stage::CatchUp) && state.differences.iter().any(SchemaDifference::is_safe)
            }
            Action::Write if self.overlay == Some(Overlay::Differences) => state.differences.iter().any(|d| d.sql.is_some()),
            Action::Previous | Action::Next if shown == Stage::Identity => runs && self.selected_identity(state).is_some_and(|r| r.indexes.len() > 1),
            Action::All if shown == Stage::Identity => runs && Proposals::of(state).altered() > 0,
            Action::Previous | Action::Next | Action::Mark | Action::All | Action::NoneMarked => runs && rows,
            Action::OneTable => runs && self.selected_candidate(state).is_some_and(|c| c.partitions > 0),
            Action::Follow => self.stage.is_some(),
            Action::Details => rows && !state.can_leave(),
            Action::NextField | Action::Filter | Action::Sort => rows,
            Action::Write => rows && matches!(shown, Stage::Preflight | Stage::Identity | Stage::Schema | Stage::Hypertables),
            _ => true,
        }
    }
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
    } else if state.waits_for_operator() {
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
