//! The rows of each screen, in their order, and the one that is selected.

use super::View;
use crate::{
    event::{Candidate, Check, IdentityRow, IdentityState, Prompt, Stage, TableState},
    state::{Failure, State, Table},
};

/// Orders of the copy screen and of the catch-up screen.
pub const COPY_ORDERS: [&str; 4] = ["state", "size", "name", "progress"];
pub const CATCH_UP_ORDERS: [&str; 3] = ["changes", "size", "name"];

impl View {
    /// Failures first, then warnings.
    pub fn checks<'a>(&self, state: &'a State) -> Vec<&'a Check> {
        let mut checks: Vec<_> = state.preflight.checks.iter().filter(|c| self.matches(&c.name, c.verdict.as_str())).collect();
        checks.sort_by_key(|c| std::cmp::Reverse(c.verdict));
        checks
    }

    pub fn identities<'a>(&self, state: &'a State) -> Vec<&'a IdentityRow> {
        state.identity.rows.iter().filter(|r| self.matches(&r.table, r.state.as_str())).collect()
    }

    pub fn statements<'a>(&self, state: &'a State) -> Vec<&'a Failure> {
        state.schema.failures.iter().filter(|f| self.matches(&f.statement.object, "")).collect()
    }

    pub fn candidates<'a>(&self, state: &'a State) -> Vec<&'a Candidate> {
        state.hypertables.candidates.iter().filter(|c| self.matches(&c.table, "")).collect()
    }

    /// Tables of the copy screen or the catch-up screen, in the chosen order; what needs the operator comes first.
    pub fn tables<'a>(&self, stage: Stage, state: &'a State) -> Vec<&'a Table> {
        let mut tables: Vec<_> = state.tables.iter().filter(|t| self.matches(&t.summary.table, t.state().as_str())).collect();
        let order = if stage == Stage::Copy { COPY_ORDERS[self.copy_order] } else { CATCH_UP_ORDERS[self.catch_up_order] };
        match order {
            "state" => tables.sort_by_key(|t| (state_rank(t.state()), std::cmp::Reverse(t.summary.bytes))),
            "size" => tables.sort_by_key(|t| std::cmp::Reverse(t.summary.bytes)),
            "progress" => tables.sort_by(|a, b| a.fraction().total_cmp(&b.fraction())),
            "changes" => tables.sort_by_key(|t| (t.diverged.is_none() && state.waits(t).is_none(), std::cmp::Reverse(t.counters.changes()))),
            _ => tables.sort_by(|a, b| a.summary.table.cmp(&b.summary.table)),
        }
        tables
    }

    /// Names of the rows of a stage's screen, in their order.
    pub fn rows(&self, stage: Stage, state: &State) -> Vec<String> {
        match stage {
            Stage::Preflight => self.checks(state).iter().map(|c| c.name.clone()).collect(),
            Stage::Identity => self.identities(state).iter().map(|r| r.table.to_string()).collect(),
            Stage::Schema => self.statements(state).iter().map(|f| f.statement.object.clone()).collect(),
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
    pub(super) fn has_rows(&self, stage: Stage, state: &State) -> bool {
        if !self.filter.value().is_empty() {
            return !self.rows(stage, state).is_empty();
        }
        match stage {
            Stage::Preflight => !state.preflight.checks.is_empty(),
            Stage::Identity => !state.identity.rows.is_empty(),
            Stage::Schema => !state.schema.failures.is_empty(),
            Stage::Hypertables => !state.hypertables.candidates.is_empty(),
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
