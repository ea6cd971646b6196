//! What the operator chooses of identities and hypertables, as it is shown before the engine has confirmed it.

use super::{Selection, View};
use crate::{
    event::{Candidate, IdentityRow},
    plan::{Hypertable, IdentityChoice, KeyChoice},
    state::State,
};

impl View {
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
}
