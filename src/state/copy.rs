//! Stage 5: the copy of the tables and the builds of their indexes.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    log::Log,
    meter::{Meter, between},
    pace::Pace,
    table::IndexBuild,
    tables::Tables,
};
use crate::{
    event::{CopyFormat, CopyProgress, Holder, IndexProgress, Level, TableState},
    name::TableName,
};

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Copy {
    pub table_jobs: u32,
    pub index_jobs: u32,
    /// What waits, and the sessions that it waits for.
    pub waiting: Option<(String, Vec<Holder>)>,
    pub(super) pace: Pace,
}

impl Copy {
    pub(super) fn waits(&mut self, what: &str, holders: &[Holder]) {
        self.waiting = (!holders.is_empty()).then(|| (what.to_owned(), holders.to_vec()));
    }

    pub(super) fn begun(&mut self, at: Timestamp, table: &TableName, (format, parts): (CopyFormat, u32), tables: &mut Tables, log: &mut Log) {
        if let Some(t) = tables.get_mut(table) {
            (t.format, t.parts) = (Some(format), parts);
        }
        let progress = CopyProgress { table: table.clone(), state: TableState::Copying, rows: 0, bytes: 0, error: None };
        self.progress(at, &progress, tables, log);
    }

    pub(super) fn progress(&mut self, at: Timestamp, progress: &CopyProgress, tables: &mut Tables, log: &mut Log) {
        let Some(t) = tables.get_mut(&progress.table) else { return };
        let (before, done) = (t.state(), t.done_bytes());
        t.copy = progress.clone();
        let (state, now_done) = (t.state(), t.done_bytes());
        match state {
            TableState::Copying if before != TableState::Copying => {
                t.started = Some(at);
                t.finished = None;
                t.meter = Meter::default();
            }
            _ if state.is_copied() => t.finished = t.finished.or(Some(at)),
            _ => {}
        }
        t.meter.sample(at, progress.bytes);
        // What an earlier run has copied says nothing about the pace of this run.
        if before == TableState::Copying || state == TableState::Copying {
            self.pace.copied(at, done, now_done);
        }
        if let Some(error) = &progress.error {
            log.add(at, Level::Error, format!("copy {}: {error}", progress.table));
        }
    }

    pub(super) fn index_progress(&mut self, at: Timestamp, progress: &IndexProgress, tables: &mut Tables) {
        let IndexProgress { table, done, total, building } = progress;
        let Some(t) = tables.get_mut(table) else { return };
        for ended in t.builds.iter().filter(|b| !building.contains(&b.index)) {
            self.pace.indexed(t.summary.bytes, between(ended.since, at));
        }
        t.builds.retain(|b| building.contains(&b.index));
        for index in building {
            if t.builds.iter().all(|b| b.index != *index) {
                t.builds.push(IndexBuild { index: index.clone(), since: at, phase: String::new(), fraction: 0.0 });
            }
        }
        (t.indexes_done, t.indexes_total) = (*done, *total);
    }
}

impl Tables {
    /// How many indexes and constraints each table will get.
    pub(super) fn indexes_counted(&mut self, indexes: &[(TableName, u64)]) {
        for (table, total) in indexes {
            if let Some(t) = self.get_mut(table) {
                (t.indexes_done, t.indexes_total) = (0, *total);
            }
        }
    }

    /// How far the build of one index is.
    pub(super) fn index_phase(&mut self, table: &TableName, index: &str, phase: &str, fraction: f64) {
        if let Some(build) = self.get_mut(table).and_then(|t| t.builds.iter_mut().find(|b| b.index == index)) {
            phase.clone_into(&mut build.phase);
            build.fraction = fraction;
        }
    }
}
