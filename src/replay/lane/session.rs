//! A lane's session on the target: a batch in one transaction with the lane's position, as sets where that works.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use super::{
    feed::BatchStep,
    script::{Flight, Mode, Modes, Refusal, ScriptBuilder, execute, no_row},
    shared::LaneShared,
};
use crate::{
    error::{Error, Result},
    lsn::Position,
    name::TableName,
    pg::{
        connect::session::Side,
        ledger, local_rows,
        wire::{Request, Response, Wire},
    },
    replay::{
        apply::{BoundStatement, RowAction, RowMove},
        change::Change,
        compact::{self, BatchPart},
        relation::{Relation, RelationCounters, RelationIndex, Relations},
        sets::Staging,
    },
};

/// What is applied in one transaction, and the lanes that it moves.
#[derive(Clone, Copy)]
pub struct LaneTransaction<'a> {
    pub steps: &'a [BatchStep],
    /// With their positions before it.
    pub lanes: &'a [(u32, Position)],
    pub to: Position,
}

pub struct LaneSession {
    lane: u32,
    shared: LaneShared,
    wire: Option<Wire>,
    staging: Staging,
    /// For which prepared statements and staging tables were made.
    relations: Arc<Relations>,
}

impl LaneSession {
    pub fn new(lane: u32, shared: LaneShared) -> Self {
        let relations = shared.relations.borrow().clone();
        Self { lane, shared, wire: None, staging: Staging::new(lane), relations }
    }

    /// The next statement connects again.
    pub fn disconnect(&mut self) {
        self.wire = None;
        self.staging = Staging::new(self.lane);
    }

    async fn connected(&mut self) -> Result<&mut Wire> {
        if self.wire.is_none() {
            self.staging = Staging::new(self.lane);
            let name = format!("hyperlift/{}/lane-{}", self.shared.migration, self.lane);
            let mut wire = Wire::open(&self.shared.target, Side::Target, &name).await?;
            // A batch touches few rows of its table, and their pages will be needed again: look them up by index, and compile nothing.
            wire.execute("set jit = off; set random_page_cost = 1; set enable_mergejoin = off").await?;
            self.wire = Some(wire);
        }
        Ok(self.wire.as_mut().expect("it was just connected"))
    }

    /// The position of the lane that is recorded on the target.
    pub async fn position(&mut self) -> Result<Position> {
        let lane = self.lane;
        ledger::lane_position(self.connected().await?, lane).await
    }

    async fn roll_back(&mut self) {
        if let Some(wire) = &mut self.wire
            && wire.execute("rollback").await.is_err()
        {
            self.disconnect();
        }
    }

    /// Applies steps and moves the positions of lanes, in one transaction; what was done, by relation.
    pub async fn apply(&mut self, work: LaneTransaction<'_>, modes: &Modes) -> Result<HashMap<RelationIndex, RelationCounters>, Refusal> {
        let relations = self.shared.relations.borrow().clone();
        if !Arc::ptr_eq(&relations, &self.relations) {
            // Prepared statements and staging tables were made for tables of another shape.
            self.disconnect();
            self.relations = relations;
        }
        self.connected().await?;
        let result = self.transaction(work, modes).await;
        if let Err(refusal) = &result {
            match refusal {
                Refusal::Lane(e) if e.is_transient() => self.disconnect(),
                _ => self.roll_back().await,
            }
            // Staging tables that were made in the transaction are gone with it.
            self.staging = Staging::new(self.lane);
        }
        result
    }

    async fn transaction(&mut self, work: LaneTransaction<'_>, modes: &Modes) -> Result<HashMap<RelationIndex, RelationCounters>, Refusal> {
        let LaneTransaction { steps, lanes, to } = work;
        let mut script = ScriptBuilder::default();
        let mut begin = "begin; set constraints all deferred; ";
        for (lane, from) in lanes.iter().filter(|(_, from)| *from < to) {
            script.position(format!("{begin}{}", ledger::advance_lane(*lane, *from, to)));
            begin = "";
        }
        if !self.shared.path.is_empty() {
            script.statement(self.shared.path.clone());
        }
        self.staging.begin();
        for step in steps {
            self.changes(&mut script, &step.changes, modes).await?;
            for sql in &step.then {
                script.statement(sql);
            }
        }
        script.record_skipped(&self.relations, ledger::add_missed);
        self.send(script.take_flight()).await?;
        let commit = self.connected().await?.execute("commit").await;
        commit.map_err(|error| match steps.iter().rev().find_map(|s| s.changes.last()) {
            // A deferred constraint failed: no single change can be named, but the last one is in the right transaction.
            Some(last) if !error.is_transient() => Refusal::Change(last.position, error),
            _ => Refusal::Lane(error),
        })?;
        Ok(script.into_counts())
    }

    /// Adds changes to a script. It is sent where the answer to one is needed before the next.
    async fn changes<'a>(&mut self, script: &mut ScriptBuilder<'a>, changes: &'a [Change], modes: &Modes) -> Result<(), Refusal> {
        let relations = self.relations.clone();
        for (index, changes) in by_relation(changes, &relations) {
            let (relation, mode) = (&relations[index], modes.get(index));
            let parts = match mode {
                Mode::Sets => compact::parts(&changes, relation),
                Mode::InOrder | Mode::SkipConflicts => vec![BatchPart::InOrder(changes)],
            };
            for part in parts {
                match part {
                    BatchPart::Sets(sets) => script.set(index, sets, relation, &mut self.staging),
                    BatchPart::InOrder(changes) => {
                        for change in changes {
                            self.in_order(script, change, relation, mode).await?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn in_order<'a>(&mut self, script: &mut ScriptBuilder<'a>, change: &'a Change, relation: &Relation, mode: Mode) -> Result<(), Refusal> {
        let Some(action) = script.in_order(change, relation, mode)? else {
            return if script.is_long() { self.send(script.take_flight()).await } else { Ok(()) };
        };
        self.send(script.take_flight()).await?;
        if mode != Mode::SkipConflicts {
            return match self.act(action).await {
                Ok(1) => Ok(()),
                Ok(_) => Err(Refusal::Change(change.position, no_row())),
                Err(e) if e.is_transient() => Err(Refusal::Lane(e)),
                Err(e) => Err(Refusal::Change(change.position, e)),
            };
        }
        if !self.try_action(action).await? {
            script.count_skipped(change.relation);
        }
        Ok(())
    }

    /// Sends requests and checks what they did.
    async fn send(&mut self, mut flight: Flight<'_>) -> Result<(), Refusal> {
        let wire = self.wire.as_mut().ok_or_else(connection_gone)?;
        let missing = std::mem::take(&mut self.staging.missing);
        if !missing.is_empty() {
            flight.put_first(missing.join("; "));
        }
        match wire.run(flight.take_requests()).await {
            Ok(answers) => flight.check(&answers, &self.relations),
            Err(failed) if failed.error.is_transient() => Err(Refusal::Lane(failed.error)),
            Err(failed) => {
                // A request that touched other rows than it should comes first, because it may be why a later one failed.
                flight.check(&failed.before, &self.relations)?;
                Err(flight.refusal(failed.at, failed.error, &self.relations))
            }
        }
    }

    /// Analyzes tables and chunks that are nearly empty by the target's statistics, but are not: an ANALYZE that ran at the same time as
    /// the transaction that filled them saw no rows, and then any index seems as good as another.
    pub async fn refresh_statistics(&mut self, tables: &[u32]) -> Result<()> {
        let list = tables.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let lane = self.lane;
        let wire = self.connected().await?;
        let wrong = wire
            .simple(&format!(
                "select n.nspname::text, c.relname::text from pg_class c join pg_namespace n on n.oid = c.relnamespace
                  where (c.oid in ({list}) or c.oid in (select inhrelid from pg_inherits where inhparent in ({list})))
                    and c.relkind = 'r' and c.reltuples < c.relpages and pg_relation_size(c.oid) > 1000000"
            ))
            .await?;
        for row in wrong {
            let [Some(schema), Some(name)] = &row[..] else { continue };
            let table = TableName::new(schema, name);
            tracing::info!(lane, %table, "analyzing: its statistics say that it is empty");
            wire.execute(&local_rows::analyze(&table)).await?;
        }
        Ok(())
    }

    /// One change in a savepoint; false when it touched no row, or its data is refused.
    async fn try_action(&mut self, action: RowAction<'_>) -> Result<bool, Refusal> {
        self.query("savepoint change").await?;
        let result = match self.act(action).await {
            // A deferred constraint would only fail at the commit: check it here.
            Ok(rows) => self.query("set constraints all immediate; set constraints all deferred; release savepoint change").await.map(|()| rows),
            Err(e) => Err(e),
        };
        match result {
            Ok(rows) => Ok(rows == 1),
            Err(e) if e.is_transient() => Err(Refusal::Lane(e)),
            Err(_) => {
                self.query("rollback to savepoint change").await?;
                Ok(false)
            }
        }
    }

    async fn query(&mut self, sql: &str) -> Result<()> {
        self.answers(vec![Request::Query(Cow::Borrowed(sql))]).await.map(|_| ())
    }

    async fn answers(&mut self, requests: Vec<Request<'_>>) -> Result<Vec<Response>> {
        let wire = self.wire.as_mut().ok_or_else(connection_gone)?;
        wire.run(requests).await.map_err(|failed| failed.error)
    }

    async fn execute(&mut self, statement: BoundStatement<'_>) -> Result<Response> {
        Ok(self.answers(vec![execute(statement)]).await?.pop().unwrap_or_default())
    }

    /// How many rows it touched: one, if it did what it should.
    async fn act(&mut self, action: RowAction<'_>) -> Result<u64> {
        match action {
            RowAction::Nothing => Ok(1),
            RowAction::One(statement) => Ok(self.execute(statement).await?.count),
            RowAction::Move(row) => self.move_row(*row).await,
        }
    }

    /// Deletes and inserts a row, unless it is found in place; how many rows were found.
    async fn move_row(&mut self, mut row: RowMove<'_>) -> Result<u64> {
        if let Some(in_place) = row.in_place
            && self.execute(in_place).await?.count > 0
        {
            return Ok(1);
        }
        let deleted = self.execute(row.delete).await?;
        if deleted.count != 1 {
            return Ok(deleted.count);
        }
        for (parameter, value) in row.kept.iter().zip(deleted.rows.into_iter().next().unwrap_or_default()) {
            row.insert.parameters[*parameter] = value.map(|v| Cow::Owned(v.to_vec()));
        }
        Ok(self.execute(row.insert).await?.count)
    }
}

/// The changes of each relation, in their order: across relations order does not matter between barriers (I7). Leaves with keys of their
/// own are independent of each other, and rows of the same key in two of them are two rows.
fn by_relation<'a>(changes: &'a [Change], relations: &Relations) -> Vec<(RelationIndex, Vec<&'a Change>)> {
    let mut found: Vec<(RelationIndex, Vec<&Change>)> = Vec::new();
    let mut places: HashMap<(RelationIndex, Option<u32>), usize> = HashMap::new();
    for change in changes {
        let leaf = relations[change.relation].is_keyed_by_leaf(&change.description).then_some(change.description.oid);
        match places.entry((change.relation, leaf)) {
            Entry::Occupied(place) => found[*place.get()].1.push(change),
            Entry::Vacant(place) => {
                place.insert(found.len());
                found.push((change.relation, vec![change]));
            }
        }
    }
    found
}

fn connection_gone() -> Error {
    Error::connection("the connection to the target is gone")
}
