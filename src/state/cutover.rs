//! Stages 8 and 9: the cutover, and what follows it.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::log::Log;
use crate::{
    event::{CutoverStep, Level},
    lsn::Lsn,
    name::TableName,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cutover {
    pub running: bool,
    /// The end of the stream; `None` until it is known.
    pub end: Option<Lsn>,
    pub started: Option<Timestamp>,
    /// The steps that have begun: whether each is done, and what came of it.
    pub steps: BTreeMap<CutoverStep, (bool, String)>,
    pub aborted: Option<String>,
    pub completed: Option<Completed>,
    pub late_writes: Vec<(TableName, Lsn)>,
    /// What clean undid, or the error with which it could not.
    pub cleaned: Vec<(String, Option<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    pub at: Timestamp,
    pub tables: u64,
    pub changes: u64,
    pub downtime_ms: u64,
}

impl Cutover {
    /// It begins, or the end of its stream is known now.
    pub(super) fn begun(&mut self, at: Timestamp, end: Option<Lsn>) {
        let before = std::mem::take(self);
        *self = Self { running: true, end, started: before.started.or(Some(at)), steps: before.steps, ..Self::default() };
    }

    pub(super) fn aborted(&mut self, at: Timestamp, reason: &str, log: &mut Log) {
        *self = Self { aborted: Some(reason.to_owned()), ..Self::default() };
        log.add(at, Level::Warn, format!("cutover aborted: {reason}"));
    }

    pub(super) fn completed(&mut self, completed: Completed, log: &mut Log) {
        self.running = false;
        log.add(completed.at, Level::Info, "Migration successfully completed");
        self.completed = Some(completed);
    }

    pub(super) fn late_write(&mut self, at: Timestamp, table: &TableName, lsn: Lsn, log: &mut Log) {
        self.late_writes.push((table.clone(), lsn));
        log.add(at, Level::Error, format!("late write on the source: {table} at {lsn}"));
    }

    pub(super) fn cleaned(&mut self, at: Timestamp, what: &str, error: Option<&str>, log: &mut Log) {
        self.cleaned.push((what.to_owned(), error.map(str::to_owned)));
        match error {
            None => log.add(at, Level::Info, format!("cleaned: {what}")),
            Some(e) => log.add(at, Level::Warn, format!("could not clean {what}: {e}")),
        }
    }
}
