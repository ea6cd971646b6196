//! How relations are distributed over the lanes: each has one lane, but the keys of the relation that has most of the changes are
//! distributed over all lanes.

use super::{
    routing::{Described, Routing},
    spec::DistributionPolicy,
};
use crate::{
    error::Result,
    lsn::Position,
    pg::{
        ledger::{self, Spread},
        target_table::Equality,
    },
    replay::{
        pgoutput::{self, Message, Peek, peek},
        relation::RelationIndex,
        spool::{self, SpoolReader},
    },
};

/// After this many bytes of changes, the keys of a relation that has two fifths of them are distributed.
const HOT_BYTES: u64 = 1 << 20;
/// Of a backlog this many bytes are read before any of it is applied.
const BACKLOG_BYTES: usize = 4 << 20;

impl Routing {
    /// Before the first change of a backlog: what it holds decides how it is distributed, because later the lanes would have to stop
    /// for that.
    pub async fn look_ahead(&mut self) -> Result<()> {
        let start = self.spec.positions.iter().min().copied().unwrap_or_default();
        let mut reader = SpoolReader::open(&self.spec.spool_dir, start.lsn)?;
        let end = self.spec.receiver.borrow().end;
        // What is described later does not hold yet.
        let described = self.described.clone();
        let mut seen = 0;
        while seen < BACKLOG_BYTES
            && let Some(block) = tokio::task::block_in_place(|| reader.next(end))?
        {
            seen += block.len();
            for record in spool::records(block) {
                match peek(&record)? {
                    Peek::Row { oid, .. } => {
                        let described = self.described.get(&oid);
                        if let Some((described, relation)) = described.and_then(|d| Some((d, d.relation?))) {
                            self.hot.note(relation, self.lane_by_first(described, &record), record.len());
                        }
                    }
                    Peek::Relation { .. } => {
                        if let Message::Relation(message) = pgoutput::decode(&record)? {
                            self.describe(message).await?;
                        }
                    }
                    _ => {}
                }
            }
        }
        if seen >= BACKLOG_BYTES {
            self.hot.pressed = true;
            self.distribute().await?;
        }
        self.described = described;
        self.hot.clear();
        Ok(())
    }

    /// The relation that has most of the changes would keep one lane busy and the others idle: its keys are distributed.
    pub async fn distribute(&mut self) -> Result<()> {
        // Everything routed so far is before it.
        let to = self.transaction.as_ref().map_or_else(|| Position::after(self.routed), |t| t.position());
        // A lane that was further when this run began has applied changes that would go to another lane now.
        if self.spec.lanes.len() < 2 || self.transaction.as_ref().is_some_and(|t| t.deferrable) || self.spec.positions.iter().any(|p| *p > to) {
            return Ok(());
        }
        let relations = self.relations.clone();
        for index in relations.indices() {
            // Its table was altered.
            if self.spec.spread[index.0] != Spread::No && !self.may_spread(index) {
                self.set_spread(index, Spread::No, to).await?;
                self.touch_all();
            }
        }
        let due = match self.spec.distribution {
            DistributionPolicy::Never => false,
            DistributionPolicy::All => true,
            DistributionPolicy::Hot => self.hot.all >= HOT_BYTES && self.hot.pressed,
        };
        if !due {
            return Ok(());
        }
        let all = self.spec.distribution == DistributionPolicy::All;
        let most = |bytes: u64| bytes > 0 && (all || bytes * 5 > self.hot.all * 2);
        let found: Vec<_> = relations
            .indices()
            .filter(|index| most(self.hot.bytes(*index)) && !self.hot.banned[index.0] && self.may_spread(*index))
            .filter_map(|index| Some((index, self.better_spread(index)?)))
            .collect();
        self.hot.clear();
        for (index, spread) in found {
            self.set_spread(index, spread, to).await?;
            self.touch_all();
        }
        Ok(())
    }

    /// All lanes have moved within the transaction that is being read, if there is one.
    fn touch_all(&mut self) {
        if let Some(transaction) = &mut self.transaction {
            transaction.lanes.fill(true);
        }
    }

    /// Lanes whose rows are neighbours in the index do not get in each other's way, unless a few values have most of the rows.
    fn better_spread(&self, index: RelationIndex) -> Option<Spread> {
        let even = || self.hot.is_even(index) && self.described.values().all(|d| d.relation != Some(index) || d.first.is_some());
        match self.spec.spread[index.0] {
            Spread::No if even() => Some(Spread::First),
            Spread::No => Some(Spread::Key),
            Spread::First => (!even()).then_some(Spread::Key),
            Spread::Key => None,
        }
    }

    /// Whether rows of different keys are independent, and keys that are equal print the same.
    fn may_spread(&self, index: RelationIndex) -> bool {
        let table = &self.relations[index].shape;
        let keyed = |described: &Described| {
            let in_key = |i: &usize| table.primary_key.contains(&described.message.columns[*i].name);
            described.relation != Some(index) || (!described.keys.is_empty() && described.keys.iter().all(in_key))
        };
        let exact = |column: &String| table.columns.get(column).is_some_and(|c| c.equality == Equality::Exact);
        self.described.values().all(keyed) && table.spreadable && !table.primary_key.is_empty() && table.primary_key.iter().all(exact)
    }

    /// From `to` on the changes of a relation go to its one lane, or to all by their keys. A transaction that is being read has touched
    /// all lanes then.
    pub async fn set_spread(&mut self, index: RelationIndex, spread: Spread, to: Position) -> Result<()> {
        let relation = &self.relations[index];
        tracing::info!(table = %relation.table, spread = spread.as_str(), at = %to.lsn, "the keys of a table are distributed over the lanes in another way");
        let statement = ledger::spread_relation(relation.oid, spread);
        self.run_for_all(vec![statement], Vec::new(), to).await?;
        self.spec.spread[index.0] = spread;
        Ok(())
    }
}
