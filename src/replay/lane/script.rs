//! The requests of one transaction of a lane: what each is for, how many rows it must touch, and what all of them come to.

use std::{borrow::Cow, collections::HashMap};

use crate::{
    error::{Error, Result},
    lsn::Position,
    pg::wire::{Request, Response},
    replay::{
        apply::{self, BoundStatement, RowAction},
        change::Change,
        compact::Sets,
        key,
        pgoutput::RowOp,
        relation::{Relation, RelationCounters, RelationIndex, Relations},
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
    /// Change by change; those that fail are counted and skipped.
    SkipConflicts,
}

/// The modes of a batch.
#[derive(Default)]
pub struct Modes {
    pub usual: Mode,
    pub others: HashMap<RelationIndex, Mode>,
}

impl Modes {
    pub fn get(&self, relation: RelationIndex) -> Mode {
        self.others.get(&relation).copied().unwrap_or(self.usual)
    }
}

/// Why a batch was not applied; nothing of it was.
#[derive(Debug)]
pub enum Refusal {
    /// The position is not what the lane believes: another session of this lane committed.
    Moved,
    /// A set of this relation failed, or touched other rows than it should.
    Set(RelationIndex),
    /// The change at this position failed or found no row.
    Change(Position, Error),
    /// A statement that follows the changes of a step failed.
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
enum RequestPurpose {
    Staging,
    Position,
    Set(RelationIndex),
    Change(Position),
    Statement,
}

/// Requests that are sent in one flight.
#[derive(Default)]
pub struct Flight<'a> {
    pub requests: Vec<Request<'a>>,
    expected: Vec<(RequestPurpose, Expect)>,
}

impl<'a> Flight<'a> {
    fn push(&mut self, purpose: RequestPurpose, request: Request<'a>, expect: Expect) {
        self.requests.push(request);
        self.expected.push((purpose, expect));
    }

    /// Staging tables are made first: as a rule before the transaction, because its flight begins it.
    pub fn put_first(&mut self, sql: String) {
        self.requests.insert(0, Request::Query(Cow::Owned(sql)));
        self.expected.insert(0, (RequestPurpose::Staging, Expect::Anything));
    }

    pub fn take_requests(&mut self) -> Vec<Request<'a>> {
        std::mem::take(&mut self.requests)
    }

    /// Whether the requests that were answered touched the rows that they should.
    pub fn check(&self, answers: &[Response], relations: &Relations) -> Result<(), Refusal> {
        let mut before = 0;
        for ((purpose, expect), Response { count, .. }) in self.expected.iter().zip(answers) {
            let right = match expect {
                Expect::Anything | Expect::Some => true,
                Expect::Rows(n) => count == n,
                Expect::Together(n) => before + count == *n,
                Expect::Same => *count == before,
            };
            before = *count;
            match *purpose {
                _ if right => {}
                RequestPurpose::Position | RequestPurpose::Staging | RequestPurpose::Statement => return Err(Refusal::Moved),
                RequestPurpose::Set(relation) => {
                    tracing::info!(table = %relations[relation].table, count, ?expect, "a set touched other rows than it should");
                    return Err(Refusal::Set(relation));
                }
                RequestPurpose::Change(position) => return Err(Refusal::Change(position, no_row())),
            }
        }
        Ok(())
    }

    /// The refusal that the error of a request means; `at` is its place.
    pub fn refusal(&self, at: Option<usize>, error: Error, relations: &Relations) -> Refusal {
        match at.map(|at| self.expected[at].0) {
            Some(RequestPurpose::Set(relation)) => {
                tracing::info!(table = %relations[relation].table, %error, "a set failed");
                Refusal::Set(relation)
            }
            Some(RequestPurpose::Change(position)) => Refusal::Change(position, error),
            Some(RequestPurpose::Statement) => Refusal::Statement(error),
            Some(RequestPurpose::Staging) => Refusal::NoStaging(error),
            Some(RequestPurpose::Position) | None => Refusal::Lane(error),
        }
    }
}

/// Collects the requests of a transaction, flight by flight, and counts what it does.
#[derive(Default)]
pub struct ScriptBuilder<'a> {
    flight: Flight<'a>,
    counts: HashMap<RelationIndex, RelationCounters>,
}

impl<'a> ScriptBuilder<'a> {
    /// A statement that moves a position: it must touch one row.
    pub fn position(&mut self, sql: String) {
        self.flight.push(RequestPurpose::Position, Request::Query(Cow::Owned(sql)), Expect::Rows(1));
    }

    pub fn statement(&mut self, sql: impl Into<Cow<'a, str>>) {
        self.flight.push(RequestPurpose::Statement, Request::Query(sql.into()), Expect::Anything);
    }

    pub fn set(&mut self, index: RelationIndex, sets: Sets<'a>, relation: &Relation, staging: &mut Staging) {
        self.counts.entry(index).or_default().add(&sets.counts);
        for (request, expect) in sets::requests(sets, index, relation, staging) {
            self.flight.push(RequestPurpose::Set(index), request, expect);
        }
    }

    /// Adds a change. What is returned cannot be added, because its answer is needed before the rest: it has to run by itself, after
    /// everything that was added before.
    pub fn in_order(&mut self, change: &'a Change, relation: &Relation, mode: Mode) -> Result<Option<RowAction<'a>>, Refusal> {
        let skip_conflicts = mode == Mode::SkipConflicts;
        let count = self.counts.entry(change.relation).or_default();
        count.count(change.op);
        // Found by all of its old values, and not by a key.
        let by_row = change.description.identity == b'f' && change.op != RowOp::Insert;
        if by_row && key::columns(&change.description, relation).is_empty() {
            count.full_row += 1;
        } else {
            count.in_order += 1;
        }
        match apply::action(change, relation) {
            Err(_) if skip_conflicts => count.conflicts_skipped += 1,
            Err(e) => return Err(Refusal::Change(change.position, e)),
            Ok(RowAction::Nothing) => {}
            Ok(RowAction::One(statement)) if !skip_conflicts => {
                self.flight.push(RequestPurpose::Change(change.position), execute(statement), Expect::Rows(1));
            }
            Ok(action) => return Ok(Some(action)),
        }
        Ok(None)
    }

    pub fn count_skipped(&mut self, index: RelationIndex) {
        self.counts.entry(index).or_default().conflicts_skipped += 1;
    }

    /// Adds a statement for each relation with skipped conflicts. Lanes that skip conflicts of the same relations lock them in the same
    /// order.
    pub fn record_skipped(&mut self, relations: &Relations, record: impl Fn(u32, u64) -> String) {
        let mut skipped: Vec<_> =
            self.counts.iter().filter(|(_, c)| c.conflicts_skipped > 0).map(|(i, c)| (relations[*i].oid, c.conflicts_skipped)).collect();
        skipped.sort_unstable();
        for (oid, changes) in skipped {
            self.flight.push(RequestPurpose::Statement, Request::Query(Cow::Owned(record(oid, changes))), Expect::Rows(1));
        }
    }

    /// Has enough requests for a flight.
    pub fn is_long(&self) -> bool {
        self.flight.requests.len() >= PIPELINE
    }

    pub fn take_flight(&mut self) -> Flight<'a> {
        std::mem::take(&mut self.flight)
    }

    /// What the transaction does, by relation.
    pub fn into_counts(self) -> HashMap<RelationIndex, RelationCounters> {
        self.counts
    }
}

pub fn execute(statement: BoundStatement<'_>) -> Request<'_> {
    Request::Execute(Cow::Owned(statement.sql), statement.parameters)
}

pub fn no_row() -> Error {
    Error::failed("no such row on the target").hint("the table was changed on the target, or was not copied right: compare the row on both sides")
}
