//! How relations are divided among the lanes: each has one, and the one that most changes are for is spread over all of them by its keys.

use std::sync::Arc;

use super::{Known, Router, State};
use crate::{
    error::Result,
    lsn::Position,
    pg::{
        ledger::{self, Spread},
        target_table::Equality,
    },
    replay::{
        key,
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
pub(super) struct Hot {
    /// Routed since the last look, by relation, and by the lane that it would go to by the first column of its key.
    bytes: Vec<Vec<u64>>,
    all: u64,
    /// A queue began to fill: lanes do not keep up.
    pub(super) pressed: bool,
    /// Its keys change.
    pub(super) banned: Vec<bool>,
}

impl Hot {
    pub(super) fn of(relations: usize, lanes: usize) -> Self {
        Self { bytes: vec![vec![0; lanes]; relations], all: 0, pressed: false, banned: vec![false; relations] }
    }

    pub(super) fn note(&mut self, target: usize, lane: usize, bytes: usize) {
        self.bytes[target][lane] += bytes as u64;
        self.all += bytes as u64;
    }

    fn bytes_of(&self, target: usize) -> u64 {
        self.bytes[target].iter().sum()
    }

    /// Whether no lane has twice its share.
    fn is_even(&self, target: usize) -> bool {
        let lanes = &self.bytes[target];
        lanes.iter().max().is_some_and(|most| most * lanes.len() as u64 <= 2 * self.bytes_of(target))
    }

    fn clear(&mut self) {
        self.bytes.iter_mut().for_each(|lanes| lanes.fill(0));
        (self.all, self.pressed) = (0, false);
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
                    if let Some((known, target)) = state.known.get(&relation).and_then(|known| Some((known, known.target?))) {
                        state.hot.note(target, self.lane_by_first(known, &record), record.len());
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
        state.hot.clear();
        Ok(())
    }

    /// The lane of a change, if its relation were spread by the first column of its key; a key of one column need not ask.
    pub(super) fn lane_by_first(&self, known: &Known, message: &[u8]) -> usize {
        known.first.filter(|_| known.keys.len() > 1).and_then(|column| key::lane(message, &[column], self.lanes.len())).unwrap_or_default()
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
        for target in 0..self.shared.relations.len() {
            if self.shared.relations[target].spread != Spread::No && !self.may_spread(target, state) {
                self.spread(target, Spread::No, to, state).await?;
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
        let most = |bytes: u64| bytes > 0 && (self.shared.spreading == Spreading::All || bytes * 5 > state.hot.all * 2);
        let found: Vec<_> = (0..self.shared.relations.len())
            .filter(|target| most(state.hot.bytes_of(*target)) && !state.hot.banned[*target] && self.may_spread(*target, state))
            .filter_map(|target| Some((target, self.better_spread(target, state)?)))
            .collect();
        state.hot.clear();
        for (target, spread) in found {
            self.spread(target, spread, to, state).await?;
        }
        Ok(())
    }

    /// Lanes whose rows are neighbours in the index do not get in each other's way, unless a few values have most of the rows.
    fn better_spread(&self, target: usize, state: &State) -> Option<Spread> {
        let even = || state.hot.is_even(target) && state.known.values().all(|known| known.target != Some(target) || known.first.is_some());
        match self.shared.relations[target].spread {
            Spread::No if even() => Some(Spread::First),
            Spread::No => Some(Spread::Key),
            Spread::First => (!even()).then_some(Spread::Key),
            Spread::Key => None,
        }
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
    pub(super) async fn spread(&mut self, target: usize, spread: Spread, to: Position, state: &mut State) -> Result<()> {
        let table = self.shared.relations[target].table.clone();
        tracing::info!(%table, spread = spread.as_str(), at = %to.lsn, "the keys of a table are divided among the lanes in another way");
        let statement = ledger::spread_relation(self.shared.relations[target].oid, spread);
        self.together(vec![statement], Vec::new(), to, state).await?;
        let mut relations = self.shared.relations.to_vec();
        relations[target].spread = spread;
        self.shared.relations = Arc::new(relations);
        Ok(())
    }
}
