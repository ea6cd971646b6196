//! What is decided and made before rows move: checks, replica identities, the schema, hypertables.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;

use super::log::Log;
use crate::event::{Candidate, Check, FailedStatement, IdentityRow, IdentityState, Level, Verdict};

/// Stage 1.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preflight {
    pub checks: Vec<Check>,
}

impl Preflight {
    pub(super) fn checked(&mut self, check: &Check) {
        match self.checks.iter_mut().find(|c| c.name == check.name) {
            Some(known) => *known = check.clone(),
            None => self.checks.push(check.clone()),
        }
    }

    /// Checks with this verdict.
    pub fn count(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|c| c.verdict == verdict).count()
    }
}

/// Stage 2.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    pub rows: Vec<IdentityRow>,
}

impl Identity {
    /// The whole checklist. Tables grow while the operator works: rows stay where they were seen.
    pub(super) fn listed(&mut self, rows: &[IdentityRow]) {
        let places: HashMap<_, _> = self.rows.drain(..).enumerate().map(|(place, row)| (row.table, place)).collect();
        self.rows = rows.to_vec();
        self.rows.sort_by_key(|row| places.get(&row.table).copied().unwrap_or(usize::MAX));
    }

    /// Rows in this state.
    pub fn count(&self, state: IdentityState) -> usize {
        self.rows.iter().filter(|r| r.state == state).count()
    }
}

/// A statement that failed, and what the operator did about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub statement: FailedStatement,
    pub skipped: bool,
}

/// Stage 3, and the statements that fail later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schema {
    /// Statements run so far, of how many, and what runs now.
    pub done: u64,
    pub total: u64,
    pub object: String,
    pub failures: Vec<Failure>,
    /// What the target does not have of the source, and why.
    pub not_moved: Vec<(String, String)>,
}

impl Schema {
    pub(super) fn progress(&mut self, done: u64, total: u64, object: &str) {
        (self.done, self.total) = (done, total);
        object.clone_into(&mut self.object);
    }

    pub(super) fn failed(&mut self, at: Timestamp, statement: &FailedStatement, log: &mut Log) {
        self.retried(&statement.object);
        self.failures.push(Failure { statement: statement.clone(), skipped: false });
        log.add(at, Level::Error, format!("{}: {}", statement.object, statement.full_message()));
    }

    pub(super) fn retried(&mut self, object: &str) {
        self.failures.retain(|f| f.statement.object != object);
    }

    pub(super) fn skipped(&mut self, at: Timestamp, object: &str, log: &mut Log) {
        if let Some(failure) = self.failures.iter_mut().find(|f| f.statement.object == object) {
            failure.skipped = true;
        }
        log.add(at, Level::Warn, format!("skipped {object}"));
    }

    pub(super) fn not_moved(&mut self, at: Timestamp, object: &str, reason: &str, log: &mut Log) {
        let found = (object.to_owned(), reason.to_owned());
        if !self.not_moved.contains(&found) {
            self.not_moved.push(found);
            log.add(at, Level::Warn, format!("not moved: {object}: {reason}"));
        }
    }

    /// Failures that wait for the operator.
    pub fn open(&self) -> impl Iterator<Item = &Failure> {
        self.failures.iter().filter(|f| !f.skipped)
    }
}

/// Stage 4.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hypertables {
    pub candidates: Vec<Candidate>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::TableName;

    #[test]
    fn the_checklist_keeps_its_order_while_tables_grow() {
        let row = |(name, bytes): &(&str, u64)| IdentityRow {
            table: TableName::new("public", *name),
            bytes: *bytes,
            current: String::new(),
            effect: String::new(),
            proposed: None,
            indexes: Vec::new(),
            partitioned: false,
            reason: String::new(),
            state: IdentityState::Open,
        };
        let listed = |rows: &[(&str, u64)]| rows.iter().map(row).collect::<Vec<_>>();
        let mut identity = Identity::default();
        identity.listed(&listed(&[("a", 9), ("b", 5), ("c", 1)]));
        identity.listed(&listed(&[("c", 20), ("new", 12), ("a", 10)]));
        assert_eq!(identity.rows.iter().map(|r| r.table.name.as_str()).collect::<Vec<_>>(), ["a", "c", "new"]);
    }
}
