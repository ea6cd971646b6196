//! A lane's session on the target: a batch in one transaction with the lane's position, as sets where that works.

use std::{
    borrow::Cow,
    collections::{HashMap, hash_map::Entry},
};

use super::{Shared, Transaction};
use crate::{
    error::{Error, Result},
    lsn::Position,
    pg::{
        connect::session::Side,
        ledger,
        wire::{Answer, Request, Wire},
    },
    replay::{
        apply::{self, Move, Step, Work},
        change::Change,
        compact::{self, Part},
        key,
        relation::Counters,
        sets::{self, Expect, Staging},
    },
};

/// Requests of in-order changes that are sent in one flight.
const PIPELINE: usize = 512;

/// How the changes of a relation are applied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    #[default]
    Sets,
    /// Change by change, so that the one that fails is known.
    InOrder,
    /// Change by change, and those that fail are counted and left out.
    Tolerant,
}

/// The modes of a batch.
#[derive(Default)]
pub struct Modes {
    pub usual: Mode,
    pub others: HashMap<usize, Mode>,
}

impl Modes {
    pub fn of(&self, target: usize) -> Mode {
        self.others.get(&target).copied().unwrap_or(self.usual)
    }
}

/// Why a batch was not applied; nothing of it was.
#[derive(Debug)]
pub enum Refusal {
    /// The position is not what the lane believes: another session of this lane committed.
    Moved,
    /// A set of this relation failed, or touched other rows than it should.
    Set(usize),
    /// The change at this position failed or found no row.
    Change(Position, Error),
    /// A statement behind a stretch failed.
    Statement(Error),
    /// The target grants no temporary tables.
    NoStaging(Error),
    Lane(Error),
}

impl<E: Into<Error>> From<E> for Refusal {
    fn from(e: E) -> Self {
        Self::Lane(e.into())
    }
}

/// What a request is for.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    Staging,
    Position,
    Set(usize),
    Change(Position),
    Statement,
}

#[derive(Default)]
struct Script<'a> {
    requests: Vec<Request<'a>>,
    expected: Vec<(Purpose, Expect)>,
}

impl<'a> Script<'a> {
    fn push(&mut self, purpose: Purpose, request: Request<'a>, expect: Expect) {
        self.requests.push(request);
        self.expected.push((purpose, expect));
    }
}

pub struct Session {
    lane: u32,
    shared: Shared,
    wire: Option<Wire>,
    staging: Staging,
}

impl Session {
    pub fn new(lane: u32, shared: Shared) -> Self {
        Self { lane, shared, wire: None, staging: Staging::new(lane) }
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
            // Rows are few for their tables, and their pages will be needed again: look them up by index, and compile nothing.
            wire.execute("set jit = off; set random_page_cost = 1; set enable_mergejoin = off").await?;
            self.wire = Some(wire);
        }
        Ok(self.wire.as_mut().expect("it was just connected"))
    }

    /// Where the target says that the lane stands.
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

    /// Applies stretches and moves the positions of lanes, in one transaction; what was done, by relation.
    pub async fn apply(&mut self, work: Transaction<'_>, modes: &Modes) -> Result<HashMap<usize, Counters>, Refusal> {
        self.connected().await?;
        let result = self.transaction(work, modes).await;
        if let Err(refusal) = &result {
            match refusal {
                Refusal::Lane(e) if e.is_transient() => self.disconnect(),
                _ => self.roll_back().await,
            }
            // Some may have been rolled back.
            self.staging = Staging::new(self.lane);
        }
        result
    }

    async fn transaction(&mut self, work: Transaction<'_>, modes: &Modes) -> Result<HashMap<usize, Counters>, Refusal> {
        let Transaction { stretches, lanes, to } = work;
        let mut script = Script::default();
        let mut begin = "begin; set constraints all deferred; ".to_owned();
        for (lane, from) in lanes.iter().filter(|(_, from)| *from < to) {
            let sql = format!(
                "{begin}update _hyperlift.lane set lsn = '{}', change = {}, at = now() where lane = {lane} and lsn = '{}' and change = {}",
                to.lsn, to.change, from.lsn, from.change
            );
            script.push(Purpose::Position, Request::Query(Cow::Owned(sql)), Expect::Rows(1));
            begin.clear();
        }
        if !self.shared.path.is_empty() {
            script.push(Purpose::Statement, Request::Query(Cow::Owned(self.shared.path.clone())), Expect::Anything);
        }
        self.staging.begin();
        let mut counts = HashMap::new();
        for stretch in stretches {
            script = self.stretch(&stretch.changes, modes, script, &mut counts).await?;
            for sql in &stretch.then {
                script.push(Purpose::Statement, Request::Query(Cow::Borrowed(sql)), Expect::Anything);
            }
        }
        let mut missed: Vec<_> =
            counts.iter().filter(|(_, c)| c.missed > 0).map(|(target, c)| (self.shared.relations[*target].oid, c.missed)).collect();
        // Lanes that miss changes of the same relations lock them in the same order.
        missed.sort_unstable();
        for (oid, missed) in missed {
            script.push(Purpose::Statement, Request::Query(Cow::Owned(ledger::add_missed(oid, missed))), Expect::Rows(1));
        }
        self.send(script).await?;
        let commit = self.connected().await?.execute("commit").await;
        commit.map_err(|error| match stretches.iter().rev().find_map(|s| s.changes.last()) {
            // A deferred constraint speaks here: no single change can be named, but the last one is in the right transaction.
            Some(last) if !error.is_transient() => Refusal::Change(last.position, error),
            _ => Refusal::Lane(error),
        })?;
        Ok(counts)
    }

    /// Adds changes to a script; what has to be known before the rest can be is sent.
    async fn stretch<'a>(
        &mut self,
        changes: &'a [Change],
        modes: &Modes,
        mut script: Script<'a>,
        counts: &mut HashMap<usize, Counters>,
    ) -> Result<Script<'a>, Refusal> {
        let relations = self.shared.relations.clone();
        for (target, changes) in by_relation(changes) {
            let relation = &relations[target];
            let mode = modes.of(target);
            let parts = match mode {
                Mode::Sets => compact::parts(&changes, relation),
                Mode::InOrder | Mode::Tolerant => vec![Part::InOrder(changes)],
            };
            let count: &mut Counters = counts.entry(target).or_default();
            for part in parts {
                match part {
                    Part::Sets(sets) => {
                        count.add(&sets.counts);
                        for (request, expect) in sets::script(sets, target, relation, &mut self.staging) {
                            script.push(Purpose::Set(target), request, expect);
                        }
                    }
                    Part::InOrder(list) => {
                        for change in list {
                            count.count(change);
                            // Found by all of its old values, and not by a key.
                            let by_row = change.relation.identity == b'f' && change.message.first() != Some(&b'I');
                            if by_row && key::columns(&change.relation, relation).is_empty() {
                                count.full_row += 1;
                            } else {
                                count.in_order += 1;
                            }
                            let tolerant = mode == Mode::Tolerant;
                            let work = match apply::work(change, relation) {
                                Err(_) if tolerant => {
                                    count.missed += 1;
                                    continue;
                                }
                                other => other.map_err(|e| Refusal::Change(change.position, e))?,
                            };
                            match work {
                                Work::Nothing => {}
                                Work::One(step) if !tolerant => {
                                    script.push(Purpose::Change(change.position), request(step), Expect::Rows(1));
                                    if script.requests.len() >= PIPELINE {
                                        self.send(std::mem::take(&mut script)).await?;
                                    }
                                }
                                work => {
                                    self.send(std::mem::take(&mut script)).await?;
                                    if !self.by_itself(work, change.position, tolerant).await? {
                                        count.missed += 1;
                                    }
                                }
                            }
                        }
                    }
                }
            }
        }
        Ok(script)
    }

    /// Sends requests and checks what they did.
    async fn send(&mut self, script: Script<'_>) -> Result<(), Refusal> {
        let wire = self.wire.as_mut().ok_or_else(|| Error::connection("the connection to the target is gone"))?;
        let Script { mut requests, mut expected } = script;
        let missing = std::mem::take(&mut self.staging.missing);
        if !missing.is_empty() {
            // Before the transaction, as a rule: the script begins it.
            requests.insert(0, Request::Query(Cow::Owned(missing.join("; "))));
            expected.insert(0, (Purpose::Staging, Expect::Anything));
        }
        match wire.run(requests).await {
            Ok(answers) => self.compare(&expected, &answers),
            Err(failed) if failed.error.is_transient() => Err(Refusal::Lane(failed.error)),
            Err(failed) => {
                // What touched other rows than it should comes first, and what failed behind it may have failed for it.
                self.compare(&expected, &failed.before)?;
                Err(match failed.at.map(|at| expected[at].0) {
                    Some(Purpose::Set(target)) => {
                        tracing::info!(lane = self.lane, table = %self.shared.relations[target].table, error = %failed.error, "a set failed");
                        Refusal::Set(target)
                    }
                    Some(Purpose::Change(position)) => Refusal::Change(position, failed.error),
                    Some(Purpose::Statement) => Refusal::Statement(failed.error),
                    Some(Purpose::Staging) => Refusal::NoStaging(failed.error),
                    Some(Purpose::Position) | None => Refusal::Lane(failed.error),
                })
            }
        }
    }

    /// Whether requests touched the rows that they should.
    fn compare(&self, expected: &[(Purpose, Expect)], answers: &[Answer]) -> Result<(), Refusal> {
        let mut before = 0;
        for ((purpose, expect), Answer { count, .. }) in expected.iter().zip(answers) {
            let right = match expect {
                Expect::Anything | Expect::Some => true,
                Expect::Rows(n) => count == n,
                Expect::Together(n) => before + count == *n,
                Expect::Same => *count == before,
            };
            before = *count;
            match *purpose {
                _ if right => {}
                Purpose::Position | Purpose::Staging | Purpose::Statement => return Err(Refusal::Moved),
                Purpose::Set(target) => {
                    tracing::info!(lane = self.lane, table = %self.shared.relations[target].table, count, ?expect, "a set touched other rows than it should");
                    return Err(Refusal::Set(target));
                }
                Purpose::Change(position) => return Err(Refusal::Change(position, no_row())),
            }
        }
        Ok(())
    }

    /// Analyzes tables and chunks of which the target believes that they are nearly empty, although they are not: ANALYZE that ran beside
    /// the transaction that filled them saw no rows, and then any index seems as good as another.
    pub async fn refresh_statistics(&mut self, tables: &[u32]) -> Result<()> {
        let list = tables.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        let lane = self.lane;
        let wire = self.connected().await?;
        let wrong = wire
            .simple(&format!(
                "select oid::regclass::text from pg_class
                  where (oid in ({list}) or oid in (select inhrelid from pg_inherits where inhparent in ({list})))
                    and relkind = 'r' and reltuples < relpages and pg_relation_size(oid) > 1000000"
            ))
            .await?;
        for table in wrong.into_iter().flatten().flatten() {
            tracing::info!(lane, table, "analyzing: its statistics say that it is empty");
            wire.execute(&format!("analyze {table}")).await?;
        }
        Ok(())
    }

    /// One change by itself; whether it touched a row. `tolerant`: an error of the data is no error.
    async fn by_itself(&mut self, work: Work<'_>, position: Position, tolerant: bool) -> Result<bool, Refusal> {
        if !tolerant {
            let rows = self.work(work).await.map_err(|e| at_change(position, e))?;
            return if rows == 1 { Ok(true) } else { Err(Refusal::Change(position, no_row())) };
        }
        self.query("savepoint change").await?;
        let result = match self.work(work).await {
            // What a deferred constraint would say at the commit, it says now.
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

    async fn answers(&mut self, requests: Vec<Request<'_>>) -> Result<Vec<Answer>> {
        let wire = self.wire.as_mut().ok_or_else(|| Error::connection("the connection to the target is gone"))?;
        wire.run(requests).await.map_err(|failed| failed.error)
    }

    async fn step(&mut self, step: Step<'_>) -> Result<Answer> {
        Ok(self.answers(vec![request(step)]).await?.pop().unwrap_or_default())
    }

    async fn work(&mut self, work: Work<'_>) -> Result<u64> {
        match work {
            Work::Nothing => Ok(1),
            Work::One(step) => Ok(self.step(step).await?.count),
            Work::Move(row) => self.move_row(*row).await,
        }
    }

    /// Deletes and inserts a row, unless it is found in place; how many rows were found.
    async fn move_row(&mut self, mut row: Move<'_>) -> Result<u64> {
        if let Some(in_place) = row.in_place
            && self.step(in_place).await?.count > 0
        {
            return Ok(1);
        }
        let deleted = self.step(row.delete).await?;
        if deleted.count != 1 {
            return Ok(deleted.count);
        }
        for (parameter, value) in row.kept.iter().zip(deleted.rows.into_iter().next().unwrap_or_default()) {
            row.insert.parameters[*parameter] = value.map(|v| Cow::Owned(v.to_vec()));
        }
        Ok(self.step(row.insert).await?.count)
    }
}

fn request(step: Step<'_>) -> Request<'_> {
    Request::Execute(Cow::Owned(step.sql), step.parameters)
}

/// The changes of each relation, in their order: across relations order does not matter between barriers (I7).
fn by_relation(changes: &[Change]) -> Vec<(usize, Vec<&Change>)> {
    let mut found: Vec<(usize, Vec<&Change>)> = Vec::new();
    let mut places: HashMap<usize, usize> = HashMap::new();
    for change in changes {
        match places.entry(change.target) {
            Entry::Occupied(place) => found[*place.get()].1.push(change),
            Entry::Vacant(place) => {
                place.insert(found.len());
                found.push((change.target, vec![change]));
            }
        }
    }
    found
}

/// An error of the data belongs to its change; trouble of the connection to the lane.
fn at_change(position: Position, e: Error) -> Refusal {
    if e.is_transient() { Refusal::Lane(e) } else { Refusal::Change(position, e) }
}

fn no_row() -> Error {
    Error::failed("no such row on the target").hint("the table was changed on the target, or copied wrongly: look at the row on both sides")
}
