//! How relations are divided among the lanes: each has one, and the one that most changes are for is spread over all of them by its keys.

use std::sync::Arc;

use super::{Known, Router, State};
use crate::{
    error::Result,
    lsn::Position,
    pg::{ledger, target::Equality},
    replay::{
        lane::Spreading,
        pgoutput,
        spool::{self, Reader},
    },
};

/// A relation that has two fifths of so many bytes of changes is spread over the lanes.
const HOT_BYTES: u64 = 1 << 20;
/// A backlog of so many bytes is looked at before any of it is applied.
const BACKLOG_BYTES: usize = 4 << 20;

/// What is observed to find the one relation that most changes are for.
#[derive(Default)]
pub(super) struct Hot {
    /// Routed since the last look, by relation.
    pub(super) bytes: Vec<u64>,
    pub(super) all: u64,
    /// A queue began to fill: lanes do not keep up.
    pub(super) pressed: bool,
    /// Its keys change.
    pub(super) banned: Vec<bool>,
}

impl Hot {
    pub(super) fn of(relations: usize) -> Self {
        Self { bytes: vec![0; relations], banned: vec![false; relations], ..Self::default() }
    }
}

impl Router {
    /// Lanes that start on a backlog are divided for it at once: later they would have to stop for that.
    pub(super) async fn look_ahead(&mut self, state: &mut State) -> Result<()> {
        let start = self.positions.iter().min().copied().unwrap_or_default();
        let mut reader = Reader::open(&self.spool_dir, start.lsn)?;
        let end = self.receiver.borrow().end;
        // What is described later must not be believed yet.
        let known = state.known.clone();
        let mut seen = 0;
        while seen < BACKLOG_BYTES
            && let Some(block) = tokio::task::block_in_place(|| reader.next(end))?
        {
            seen += block.len();
            for record in spool::records(block) {
                if let Some(relation) = pgoutput::row_of(&record) {
                    if let Some(target) = state.known.get(&relation).and_then(|known| known.target) {
                        state.hot.bytes[target] += record.len() as u64;
                        state.hot.all += record.len() as u64;
                    }
                } else if record.first() == Some(&b'R') {
                    self.record(&record, state).await?;
                }
            }
        }
        if seen >= BACKLOG_BYTES {
            state.hot.pressed = true;
            self.divide_anew(state).await?;
        }
        state.known = known;
        state.hot = Hot { banned: std::mem::take(&mut state.hot.banned), ..Hot::of(self.shared.relations.len()) };
        Ok(())
    }

    /// The one relation that most changes are for would keep one lane busy and the others idle: its keys are spread.
    pub(super) async fn divide_anew(&mut self, state: &mut State) -> Result<()> {
        // Everything routed so far is before it.
        let to = state.transaction.as_ref().map_or_else(|| Position::after(state.routed), |t| Position { lsn: t.commit, change: t.changes });
        // A lane that was further when this run began has applied changes that would come to another one now.
        if self.lanes.len() < 2 || state.transaction.as_ref().is_some_and(|t| t.deferrable) || self.positions.iter().any(|p| *p > to) {
            return Ok(());
        }
        // Its table was altered.
        for target in 0..state.hot.bytes.len() {
            if self.shared.relations[target].spread && !self.may_spread(target, state) {
                self.spread(target, false, to, state).await?;
            }
        }
        let due = match self.shared.spreading {
            Spreading::Never => false,
            Spreading::All => true,
            Spreading::Hot => state.hot.all >= HOT_BYTES && state.hot.pressed,
        };
        if !due {
            return Ok(());
        }
        let hot = std::mem::take(&mut state.hot);
        let most = |bytes: u64| bytes > 0 && (self.shared.spreading == Spreading::All || bytes * 5 > hot.all * 2);
        let found: Vec<usize> = (0..hot.bytes.len())
            .filter(|i| most(hot.bytes[*i]) && !hot.banned[*i])
            .filter(|i| !self.shared.relations[*i].spread && self.may_spread(*i, state))
            .collect();
        state.hot = Hot { banned: hot.banned, ..Hot::of(hot.bytes.len()) };
        for target in found {
            self.spread(target, true, to, state).await?;
        }
        Ok(())
    }

    /// Whether rows of different keys are independent, and keys that are equal print the same.
    pub(super) fn may_spread(&self, target: usize, state: &State) -> bool {
        let relation = &self.shared.relations[target];
        let table = &relation.target;
        let keyed = |known: &Known| {
            let in_key = |i: &usize| table.primary_key.contains(&known.message.columns[*i].name);
            known.target != Some(target) || (!known.keys.is_empty() && known.keys.iter().all(in_key))
        };
        let exact = |column: &String| table.columns.get(column).is_some_and(|c| c.equality == Equality::Exact);
        state.known.values().all(keyed) && table.spreadable && !table.primary_key.is_empty() && table.primary_key.iter().all(exact)
    }

    /// From `to` on the changes of a relation go to another lane, or to all by their keys.
    pub(super) async fn spread(&mut self, target: usize, spread: bool, to: Position, state: &mut State) -> Result<()> {
        let table = self.shared.relations[target].table.clone();
        tracing::info!(%table, spread, at = %to.lsn, "the keys of a table are divided among the lanes in another way");
        let statement = ledger::spread_relation(self.shared.relations[target].oid, spread);
        self.together(vec![statement], Vec::new(), to, state).await?;
        let mut relations = self.shared.relations.to_vec();
        relations[target].spread = spread;
        self.shared.relations = Arc::new(relations);
        Ok(())
    }
}
