//! What the operator chooses of the identities and hypertables, as commands.

use std::time::{Duration, Instant};
use tui_input::Input;

use super::{App, Effect, refusal};
use crate::{
    event::{Candidate, Command, IdentityState, Level, Stage, StageState},
    name::TableName,
    plan::{Hypertable, IdentityChoice, KeyChoice},
    state::State,
    ui::{
        keys::Action,
        view::{Modal, NamePurpose, Selection},
    },
};

/// How long an ordered selection is shown before the engine has confirmed it.
const DRAFT: Duration = Duration::from_secs(2);

impl App {
    pub(super) fn choose_identity(&mut self, action: Action, state: &State, now: Instant) -> Vec<Effect> {
        let Some(row) = self.view.selected_identity(state) else { return Vec::new() };
        let choice = match action {
            Action::IdentityFull => IdentityChoice::Full,
            Action::IdentityIndex => {
                let Some(index) = self.view.eligible_index(row) else {
                    self.say(Level::Info, format!("{} has no unique index that may serve", row.table), now);
                    return Vec::new();
                };
                IdentityChoice::Index(index.clone())
            }
            _ => IdentityChoice::InsertOnly,
        };
        // The row stays under the cursor when it is settled, so that the same key twice does not change another table.
        let name = row.table.to_string();
        let accepted = row.state == IdentityState::Accepted;
        let again = if choice == IdentityChoice::InsertOnly { accepted } else { !accepted && self.view.ordered.get(&row.table) == Some(&choice) };
        if again {
            self.view.ordered.remove(&row.table);
            return vec![Effect::Send(Command::SetIdentity { table: row.table.clone(), choice: None })];
        }
        if choice == IdentityChoice::InsertOnly {
            self.view.modal = Some(Modal::Name { purpose: NamePurpose::InsertOnly(row.table.clone()), input: Input::default() });
            return Vec::new();
        }
        let table = row.table.clone();
        self.view.selected.insert(Stage::Identity, name);
        self.set_identity(table, choice, state, now)
    }

    pub(super) fn set_identity(&mut self, table: TableName, choice: IdentityChoice, state: &State, now: Instant) -> Vec<Effect> {
        if state.stage != Some(Stage::Identity) || state.stage_state(Stage::Identity) != StageState::Running {
            self.say(Level::Info, refusal(Action::IdentityFull, state), now);
            return Vec::new();
        }
        self.view.ordered.insert(table.clone(), choice.clone());
        vec![Effect::Send(Command::SetIdentity { table, choice: Some(choice) })]
    }

    pub(super) fn turn_index(&mut self, forth: bool, state: &State) {
        if let Some(row) = self.view.selected_identity(state) {
            let n = row.indexes.len();
            let at = self.view.eligible_index(row).and_then(|name| row.indexes.iter().position(|i| i == name)).unwrap_or(0);
            self.view.index.insert(row.table.clone(), if forth { at + 1 } else { at + n - 1 } % n.max(1));
        }
    }

    pub(super) fn mark(&mut self, action: Action, state: &State, now: Instant) -> Vec<Effect> {
        let mut selection = self.view.selection(state);
        match action {
            Action::Mark => {
                let Some(candidate) = self.view.selected_candidate(state) else { return Vec::new() };
                if let Some(why) = fixed(candidate) {
                    self.say(Level::Info, why, now);
                    return Vec::new();
                }
                let Some(hypertable) = self.view.hypertable(candidate) else { return Vec::new() };
                let before = selection.hypertables.len();
                selection.hypertables.retain(|h| h.table != candidate.table);
                if selection.hypertables.len() == before {
                    selection.one_table.retain(|t| *t != candidate.table);
                    selection.hypertables.push(hypertable);
                } else {
                    // What was set for it is kept for the case that it is selected again.
                    self.view.edits.insert(candidate.table.clone(), hypertable);
                }
            }
            Action::All => {
                for candidate in state.hypertables.candidates.iter().filter(|c| c.proposed && fixed(c).is_none()) {
                    if !selection.hypertables.iter().any(|h| h.table == candidate.table)
                        && let Some(hypertable) = self.view.hypertable(candidate)
                    {
                        selection.one_table.retain(|t| *t != candidate.table);
                        selection.hypertables.push(hypertable);
                    }
                }
            }
            Action::OneTable => {
                let Some(candidate) = self.view.selected_candidate(state).filter(|c| c.partitions > 0) else { return Vec::new() };
                if candidate.made {
                    self.say(Level::Info, fixed(candidate).unwrap_or_default(), now);
                    return Vec::new();
                }
                let before = selection.one_table.len();
                selection.one_table.retain(|t| *t != candidate.table);
                if selection.one_table.len() == before {
                    selection.hypertables.retain(|h| h.table != candidate.table);
                    selection.one_table.push(candidate.table.clone());
                }
            }
            _ => selection.hypertables.retain(|h| state.hypertables.candidates.iter().any(|c| c.table == h.table && c.made)),
        }
        self.select(selection, now)
    }

    fn select(&mut self, selection: Selection, now: Instant) -> Vec<Effect> {
        self.view.draft = Some(selection.clone());
        self.draft_until = Some(now + DRAFT);
        let Selection { hypertables, one_table } = selection;
        vec![Effect::Send(Command::SelectHypertables { selection: hypertables, one_table })]
    }

    /// The field's next or previous value. A table that is selected is ordered again.
    pub(super) fn turn_field(&mut self, forth: bool, state: &State, now: Instant) -> Vec<Effect> {
        self.view.swapped = true;
        let Some(candidate) = self.view.selected_candidate(state) else { return Vec::new() };
        if let Some(why) = fixed(candidate) {
            self.say(Level::Info, why, now);
            return Vec::new();
        }
        let Some(mut hypertable) = self.view.hypertable(candidate) else { return Vec::new() };
        turn(self.view.field, &mut hypertable, candidate, forth);
        self.view.edits.insert(candidate.table.clone(), hypertable.clone());
        if !self.view.is_selected(candidate) {
            return Vec::new();
        }
        let mut selection = self.view.selection(state);
        for chosen in selection.hypertables.iter_mut().filter(|h| h.table == candidate.table) {
            *chosen = hypertable.clone();
        }
        self.select(selection, now)
    }
}

/// Why a table's choice cannot be changed.
fn fixed(candidate: &Candidate) -> Option<String> {
    if candidate.made {
        return Some(format!("{} is already a hypertable on the target", candidate.table));
    }
    candidate.obstacle.as_ref().map(|why| format!("{} cannot be converted: {why}", candidate.table))
}

/// Turns one field of the hypertable editor.
fn turn(field: usize, hypertable: &mut Hypertable, candidate: &Candidate, forth: bool) {
    match field {
        0 => {
            let names: Vec<_> = candidate.columns.iter().map(|c| c.name.clone()).collect();
            if let Some(name) = neighbour(&names, &hypertable.time_column, forth) {
                hypertable.time_column = name;
                let intervals = candidate.columns.iter().find(|c| c.name == hypertable.time_column).map(|c| &c.intervals);
                if let Some(first) = intervals.and_then(|i| i.first()) {
                    hypertable.chunk_interval.clone_from(first);
                }
            }
        }
        1 => {
            let intervals = candidate.columns.iter().find(|c| c.name == hypertable.time_column).map_or(&[][..], |c| &c.intervals);
            if let Some(interval) = neighbour(intervals, &hypertable.chunk_interval, forth) {
                hypertable.chunk_interval = interval;
            }
        }
        _ => hypertable.key = neighbour(&KeyChoice::ALL, &hypertable.key, forth).unwrap_or_default(),
    }
}

/// The value after or before this one, around the end; the first one when it is not among them.
fn neighbour<T: Clone + PartialEq>(values: &[T], value: &T, forth: bool) -> Option<T> {
    let n = values.len();
    match values.iter().position(|v| v == value) {
        Some(at) => values.get(if forth { at + 1 } else { at + n - 1 } % n).cloned(),
        None => values.first().cloned(),
    }
}
