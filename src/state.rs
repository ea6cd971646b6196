//! All that is known about the migration, folded from events by [`State::apply`]. Pure: no clock, no server, no terminal.
//!
//! Rates and estimates are computed here from absolute samples, so a dropped progress event changes nothing.

mod eta;
mod meter;
mod prompts;
mod table;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    time::Duration,
};

use self::meter::graph;
pub use self::{
    meter::{Meter, between},
    prompts::Prompts,
    table::{Building, Path, Slow, Table},
};
use crate::{
    event::{
        Candidate, Check, CutoverStep, Endpoint, Event, Gate, Holder, IdentityRow, IdentityState, LaneStatus, Level, RelationKind, RelationSummary,
        Stage, StageState, Stamped, TableState, Verdict,
    },
    lsn::Lsn,
    name::TableName,
};

/// Lines of the log that the screen keeps; the whole log lies in the work directory.
const LOG_LINES: usize = 2_000;

/// A line of the log pane.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    pub at: Timestamp,
    pub level: Level,
    pub text: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStatement {
    pub object: String,
    pub message: String,
    pub sqlstate: Option<String>,
    pub sql: String,
    pub skipped: bool,
}

/// The state of the replay and of the stream it reads.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    pub slot: Option<String>,
    pub wal_status: String,
    pub safe_wal_bytes: Option<u64>,
    pub source: Lsn,
    pub received: Lsn,
    pub applied: Lsn,
    /// Bytes of WAL that the target is behind; `None` before replay has begun.
    pub lag: Option<u64>,
    /// How long ago the source stood where the target stands, ms; `None` where that was before anybody looked.
    pub lag_ms: Option<u64>,
    /// When all this was measured.
    pub measured: Option<Timestamp>,
    pub changes: u64,
    /// By the clock of the source, as `source_time`.
    pub last_commit: Option<Timestamp>,
    pub source_time: Option<Timestamp>,
    pub lanes: Vec<LaneStatus>,
    pub received_bytes: u64,
    pub spool_bytes: u64,
    pub disk_free: u64,
    pub broken: Option<String>,
    /// Lag over time: (when, bytes).
    pub lag_samples: VecDeque<(Timestamp, u64)>,
    /// Size of the spool over time: (when, bytes).
    pub spool_samples: VecDeque<(Timestamp, u64)>,
    pub source_meter: Meter,
    pub received_meter: Meter,
    pub applied_meter: Meter,
    pub changes_meter: Meter,
    pub spool_meter: Meter,
}

impl Replay {
    /// Time until lag is gone at the present rates; `None` when it grows or nothing is known.
    pub fn level_in(&self) -> Option<Duration> {
        let lag = self.lag?;
        let gaining = self.applied_meter.rate() - self.source_meter.rate();
        if lag == 0 {
            return Some(Duration::ZERO);
        }
        (gaining > 1.0).then(|| Duration::from_secs_f64((lag as f64 / gaining).min(1e9)))
    }

    /// Age of the last transaction when it was looked at, by the clock of the source alone (C-22).
    pub fn last_commit_age(&self) -> Option<Duration> {
        Some(between(self.last_commit?, self.source_time?))
    }
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Cutover {
    pub running: bool,
    pub end: Option<Lsn>,
    pub started: Option<Timestamp>,
    pub steps: BTreeMap<CutoverStep, (bool, String)>,
    pub aborted: Option<String>,
    pub completed: Option<Completed>,
    pub late_writes: Vec<(TableName, Lsn)>,
    pub cleaned: Vec<(String, Option<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Completed {
    pub at: Timestamp,
    pub tables: u64,
    pub changes: u64,
    pub downtime_ms: u64,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    Failed { message: String, hint: Option<String> },
    Stopped,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    pub id: String,
    pub dir: String,
    pub source: Endpoint,
    pub target: Endpoint,
    pub resumed: bool,
    /// Start of this run, and the time of the last event.
    pub opened: Option<Timestamp>,
    pub now: Option<Timestamp>,
    pub stages: BTreeMap<Stage, StageState>,
    /// The stage that runs or ran last.
    pub stage: Option<Stage>,

    pub checks: Vec<Check>,
    pub identities: Vec<IdentityRow>,
    pub schema_done: u64,
    pub schema_total: u64,
    pub schema_object: String,
    pub failed_statements: Vec<FailedStatement>,
    /// What the target does not have of the source, and why.
    pub not_moved: Vec<(String, String)>,
    pub candidates: Vec<Candidate>,
    /// Tables in scope, in the order in which they were found (largest first).
    pub tables: Vec<Table>,
    index: HashMap<TableName, usize>,
    pub table_jobs: u32,
    pub index_jobs: u32,
    pub paused: bool,
    copying: eta::Copying,
    /// What is waited for, and the sessions that hold it up.
    pub waiting: Option<(String, Vec<Holder>)>,
    pub replay: Replay,
    pub analyzed: (u64, u64),
    pub analyzing: Option<TableName>,
    pub gates: Vec<Gate>,
    pub cutover: Cutover,
    pub prompts: Prompts,
    pub log: VecDeque<LogLine>,
    pub ended: Option<Ended>,
}

impl State {
    pub fn apply(&mut self, Stamped { at, event }: &Stamped) {
        let at = *at;
        self.now = Some(at);
        self.prompts.apply(event);
        match event {
            Event::Opened { id, dir, source, target, resumed } => {
                self.id.clone_from(id);
                self.dir.clone_from(dir);
                self.source = source.clone();
                self.target = target.clone();
                self.resumed = *resumed;
                self.opened = Some(at);
                self.ended = None;
            }
            Event::Connected { source, target } => {
                self.source = source.clone();
                self.target = target.clone();
            }
            Event::StageChanged { stage, state } => {
                self.stages.insert(*stage, *state);
                if *state == StageState::Running {
                    self.stage = Some(*stage);
                    self.log(at, Level::Info, format!("stage {} {}", stage.number(), stage.title()));
                }
            }
            Event::ChecksStarted => self.checks.clear(),
            Event::Checked { check } => match self.checks.iter_mut().find(|c| c.name == check.name) {
                Some(known) => *known = check.clone(),
                None => self.checks.push(check.clone()),
            },
            Event::RelationsFound { relations } => self.set_relations(relations),
            Event::IdentityListed { rows } => {
                // Tables grow while the operator works: rows stay where they were seen.
                let places: HashMap<_, _> = self.identities.drain(..).enumerate().map(|(place, row)| (row.table, place)).collect();
                self.identities.clone_from(rows);
                self.identities.sort_by_key(|row| places.get(&row.table).copied().unwrap_or(usize::MAX));
            }
            Event::SchemaProgress { done, total, object } => {
                (self.schema_done, self.schema_total) = (*done, *total);
                self.schema_object.clone_from(object);
            }
            Event::StatementFailed { object, message, sqlstate, sql } => {
                self.failed_statements.retain(|f| &f.object != object);
                let failed = FailedStatement {
                    object: object.clone(),
                    message: message.clone(),
                    sqlstate: sqlstate.clone(),
                    sql: sql.clone(),
                    skipped: false,
                };
                self.failed_statements.push(failed);
                let code = sqlstate.as_ref().map(|c| format!(" ({c})")).unwrap_or_default();
                self.log(at, Level::Error, format!("{object}: {message}{code}"));
            }
            Event::StatementRetried { object } => self.failed_statements.retain(|f| &f.object != object),
            Event::StatementSkipped { object } => {
                if let Some(f) = self.failed_statements.iter_mut().find(|f| &f.object == object) {
                    f.skipped = true;
                }
                self.log(at, Level::Warn, format!("skipped {object}"));
            }
            Event::NotMoved { object, reason } => {
                let found = (object.clone(), reason.clone());
                if !self.not_moved.contains(&found) {
                    self.not_moved.push(found);
                    self.log(at, Level::Warn, format!("not moved: {object}: {reason}"));
                }
            }
            Event::CandidatesListed { candidates } => {
                self.candidates.clone_from(candidates);
            }
            Event::HypertableCreated { hypertable } => {
                if let Some(t) = self.table_mut(&hypertable.table) {
                    t.summary.kind = RelationKind::Hypertable;
                }
                self.log(at, Level::Info, format!("{} is a hypertable by {}", hypertable.table, hypertable.time_column));
            }
            Event::Waiting { what, holders } => {
                self.waiting = (!holders.is_empty()).then(|| (what.clone(), holders.clone()));
            }
            Event::SlotCreated { slot, lsn } => {
                self.replay.slot = Some(slot.clone());
                self.log(at, Level::Info, format!("slot {slot} at {lsn}"));
            }
            Event::CopyBegun { table, format, parts } => {
                if let Some(t) = self.table_mut(table) {
                    (t.format, t.parts) = (Some(*format), *parts);
                }
                self.copy_progress(at, table, TableState::Copying, 0, 0, None);
            }
            Event::CopyProgress { table, state, rows, bytes, error } => self.copy_progress(at, table, *state, *rows, *bytes, error.as_deref()),
            Event::IndexesCounted { indexes } => {
                for (table, total) in indexes {
                    if let Some(t) = self.table_mut(table) {
                        (t.indexes_done, t.indexes_total) = (0, *total);
                    }
                }
            }
            Event::IndexProgress { table, done, total, building } => self.index_progress(at, table, (*done, *total), building),
            Event::IndexBuilding { table, index, phase, fraction } => {
                let building = self.table_mut(table).and_then(|t| t.building.iter_mut().find(|b| &b.index == index));
                if let Some(b) = building {
                    b.phase.clone_from(phase);
                    b.fraction = *fraction;
                }
            }
            Event::JobsChanged { table_jobs, index_jobs } => (self.table_jobs, self.index_jobs) = (*table_jobs, *index_jobs),
            Event::Paused { paused } => {
                self.paused = *paused;
                self.log(at, Level::Info, if *paused { "paused" } else { "resumed" });
            }
            Event::Received { lsn, bytes, spool_bytes, disk_free } => {
                let r = &mut self.replay;
                (r.received, r.received_bytes, r.spool_bytes, r.disk_free) = (*lsn, *bytes, *spool_bytes, *disk_free);
                r.received_meter.sample(at, *bytes);
                r.spool_meter.sample(at, *spool_bytes);
                graph(&mut r.spool_samples, at, *spool_bytes);
            }
            Event::StreamBroken { error } => {
                self.replay.broken.clone_from(error);
                match error {
                    Some(error) => self.log(at, Level::Warn, format!("replication stream: {error}; trying again")),
                    None => self.log(at, Level::Info, "replication stream flows"),
                }
            }
            Event::SlotChecked { wal_status, safe_wal_bytes } => {
                self.replay.wal_status.clone_from(wal_status);
                self.replay.safe_wal_bytes = *safe_wal_bytes;
            }
            Event::Replayed { source, received, applied, lag, lag_ms, changes, last_commit, source_time, lanes } => {
                let r = &mut self.replay;
                (r.source, r.received, r.applied, r.lag, r.changes) = (*source, *received, *applied, Some(*lag), *changes);
                (r.lag_ms, r.measured) = (*lag_ms, Some(at));
                (r.last_commit, r.source_time) = (*last_commit, *source_time);
                r.lanes.clone_from(lanes);
                r.source_meter.sample(at, source.0);
                r.applied_meter.sample(at, applied.0);
                r.changes_meter.sample(at, *changes);
                graph(&mut r.lag_samples, at, *lag);
            }
            Event::TableReplayed { table, inserts, updates, deletes, truncates, sets, in_order, full_row, missed } => {
                let Some(t) = self.table_mut(table) else { return };
                (t.inserts, t.updates, t.deletes, t.truncates) = (*inserts, *updates, *deletes, *truncates);
                t.set_paths([*sets, *in_order, *full_row]);
                t.missed = *missed;
            }
            Event::Missed { table, missed } => {
                let Some(t) = self.table_mut(table) else { return };
                if std::mem::replace(&mut t.missed, *missed) == 0 {
                    self.log(at, Level::Warn, format!("{table} differs now: a change found no row, or collided, and is counted, not applied"));
                }
            }
            Event::SlowedDown { table, reason, fix } => {
                if let Some(t) = self.table_mut(table) {
                    t.slow = Some(Slow { reason: reason.clone(), fix: fix.clone() });
                }
                self.log(at, Level::Warn, format!("{table} is slow: {reason}. Fix: {fix}"));
            }
            Event::SpedUp { table } => {
                if let Some(t) = self.table_mut(table) {
                    t.slow = None;
                }
                self.log(at, Level::Info, format!("{table} is no longer slow"));
            }
            Event::Diverged { table, reason } => {
                if let Some(t) = self.table_mut(table) {
                    t.diverged = Some(reason.clone());
                }
                self.log(at, Level::Error, format!("{table} diverged: {reason}"));
            }
            Event::DivergenceSettled { table, accepted } => {
                if let Some(t) = self.table_mut(table) {
                    t.diverged = None;
                    t.accepted |= *accepted;
                }
                self.log(at, Level::Warn, format!("{table}: {}", if *accepted { "the difference is accepted" } else { "tried again" }));
            }
            Event::Analyzed { done, total, table } => {
                self.analyzed = (*done, *total);
                self.analyzing.clone_from(table);
            }
            Event::GatesChecked { gates } => self.gates.clone_from(gates),
            Event::CutoverStarted { end } => {
                let cleaned = std::mem::take(&mut self.cutover);
                self.cutover =
                    Cutover { running: true, end: *end, started: cleaned.started.or(Some(at)), steps: cleaned.steps, ..Cutover::default() };
            }
            Event::CutoverStepped { step, done, detail } => {
                self.cutover.steps.insert(*step, (*done, detail.clone()));
            }
            Event::CutoverAborted { reason } => {
                self.cutover = Cutover { aborted: Some(reason.clone()), ..Cutover::default() };
                self.log(at, Level::Warn, format!("cutover aborted: {reason}"));
            }
            Event::Completed { tables, changes, downtime_ms } => {
                self.cutover.running = false;
                self.cutover.completed = Some(Completed { at, tables: *tables, changes: *changes, downtime_ms: *downtime_ms });
                self.log(at, Level::Info, "Migration successfully completed");
            }
            Event::LateWrite { table, lsn } => {
                self.cutover.late_writes.push((table.clone(), *lsn));
                self.log(at, Level::Error, format!("late write on the source: {table} at {lsn}"));
            }
            Event::Cleaned { what, error } => {
                self.cutover.cleaned.push((what.clone(), error.clone()));
                match error {
                    None => self.log(at, Level::Info, format!("cleaned: {what}")),
                    Some(e) => self.log(at, Level::Warn, format!("could not clean {what}: {e}")),
                }
            }
            Event::PromptOpened { .. } | Event::PromptClosed { .. } => {}
            Event::CommandRefused { command, why } => self.log(at, Level::Warn, format!("{command}: {why}")),
            Event::Notice { level, text } => self.log(at, *level, text.clone()),
            Event::Failed { message, hint } => {
                self.ended = Some(Ended::Failed { message: message.clone(), hint: hint.clone() });
                if let Some(stage) = self.stage {
                    self.stages.insert(stage, StageState::Failed);
                }
                self.log(at, Level::Error, message.clone());
            }
            Event::Stopped { .. } => self.ended = Some(Ended::Stopped),
        }
    }

    fn set_relations(&mut self, relations: &[RelationSummary]) {
        let mut known: HashMap<TableName, Table> = self.tables.drain(..).map(|t| (t.summary.table.clone(), t)).collect();
        self.tables = relations
            .iter()
            .map(|r| match known.remove(&r.table) {
                Some(mut table) => {
                    table.summary = r.clone();
                    table
                }
                None => Table::new(r.clone()),
            })
            .collect();
        self.index = self.tables.iter().enumerate().map(|(i, t)| (t.summary.table.clone(), i)).collect();
    }

    fn copy_progress(&mut self, at: Timestamp, table: &TableName, state: TableState, rows: u64, bytes: u64, error: Option<&str>) {
        let Some(t) = self.table_mut(table) else { return };
        let (before, done) = (t.state, t.done_bytes());
        t.state = state;
        (t.copied_rows, t.copied_bytes) = (rows, bytes);
        let now_done = t.done_bytes();
        t.error = error.map(str::to_owned);
        match state {
            TableState::Copying if before != TableState::Copying => {
                t.started = Some(at);
                t.finished = None;
                t.meter = Meter::default();
            }
            _ if state.is_copied() => t.finished = t.finished.or(Some(at)),
            _ => {}
        }
        t.meter.sample(at, bytes);
        // What an earlier run has copied is not this run's pace.
        if before == TableState::Copying || state == TableState::Copying {
            self.copying.copied(at, done, now_done);
        }
        if let Some(error) = error {
            self.log(at, Level::Error, format!("copy {table}: {error}"));
        }
    }

    fn log(&mut self, at: Timestamp, level: Level, text: impl Into<String>) {
        if self.log.len() >= LOG_LINES {
            self.log.pop_front();
        }
        self.log.push_back(LogLine { at, level, text: text.into() });
    }

    fn table_mut(&mut self, table: &TableName) -> Option<&mut Table> {
        self.index.get(table).copied().and_then(|i| self.tables.get_mut(i))
    }

    pub fn table(&self, table: &TableName) -> Option<&Table> {
        self.index.get(table).and_then(|i| self.tables.get(*i))
    }

    /// Tables that arrive without all of their changes, or without rows, as the operator chose.
    pub fn half_moved(&self) -> Vec<String> {
        let names = |all: Vec<String>, text: &str, why: &str| (!all.is_empty()).then(|| format!("{text} of {} ({why})", all.join(", ")));
        let insert_only = self.identities.iter().filter(|r| r.state == IdentityState::Accepted).map(|r| r.table.to_string()).collect();
        let skipped = self.tables.iter().filter(|t| t.state == TableState::Skipped).map(|t| t.summary.table.to_string()).collect();
        let found = [names(insert_only, "UPDATE and DELETE", "insert-only"), names(skipped, "rows and changes", "skipped")];
        found.into_iter().flatten().collect()
    }

    /// What an altered table waits for: the statement that its target needs.
    pub fn waits(&self, table: &Table) -> Option<&FailedStatement> {
        let name = table.summary.table.to_string();
        self.failed_statements.iter().find(|f| !f.skipped && f.object == name)
    }

    pub fn stage_state(&self, stage: Stage) -> StageState {
        self.stages.get(&stage).copied().unwrap_or_default()
    }

    /// Checks with this verdict.
    pub fn checks_with(&self, verdict: Verdict) -> usize {
        self.checks.iter().filter(|c| c.verdict == verdict).count()
    }

    pub fn identities_with(&self, state: IdentityState) -> usize {
        self.identities.iter().filter(|r| r.state == state).count()
    }

    pub fn tables_in(&self, state: TableState) -> usize {
        self.tables.iter().filter(|t| t.state == state).count()
    }

    /// Copied and whole bytes of all tables, on disk, by estimate.
    pub fn copy_bytes(&self) -> (u64, u64) {
        self.tables.iter().fold((0, 0), |(done, all), t| (done + t.done_bytes(), all + t.summary.bytes))
    }

    /// Bytes a second of all running copies.
    pub fn copy_rate(&self) -> f64 {
        self.tables.iter().filter(|t| t.state == TableState::Copying).map(|t| t.meter.rate()).sum()
    }

    pub fn elapsed(&self) -> Duration {
        match (self.opened, self.now) {
            (Some(start), Some(now)) => between(start, now),
            _ => Duration::ZERO,
        }
    }

    /// Whether work is going on that a stop would interrupt.
    pub fn is_running(&self) -> bool {
        self.ended.is_none() && self.opened.is_some() && self.stage_state(Stage::Done) != StageState::Done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str, rows: u64, bytes: u64) -> RelationSummary {
        RelationSummary { table: TableName::new("public", name), kind: RelationKind::Plain, bytes, rows }
    }

    fn fold(events: Vec<(i64, Event)>) -> State {
        let mut state = State::default();
        for (second, event) in events {
            state.apply(&Stamped { at: Timestamp::from_second(second).unwrap(), event });
        }
        state
    }

    fn copying(rows: u64, bytes: u64) -> Event {
        Event::CopyProgress { table: TableName::new("public", "a"), state: TableState::Copying, rows, bytes, error: None }
    }

    #[test]
    fn the_checklist_keeps_its_order_while_tables_grow() {
        let row = |name: &str, bytes| IdentityRow {
            table: TableName::new("public", name),
            bytes,
            current: String::new(),
            effect: String::new(),
            proposed: None,
            indexes: Vec::new(),
            reason: String::new(),
            state: IdentityState::Open,
        };
        let listed = |rows: &[(&str, u64)]| (0, Event::IdentityListed { rows: rows.iter().map(|(name, bytes)| row(name, *bytes)).collect() });
        let state = fold(vec![listed(&[("a", 9), ("b", 5), ("c", 1)]), listed(&[("c", 20), ("new", 12), ("a", 10)])]);
        assert_eq!(state.identities.iter().map(|r| r.table.name.as_str()).collect::<Vec<_>>(), ["a", "c", "new"]);
    }

    #[test]
    fn rates_and_time_left_come_from_absolute_samples() {
        let found = Event::RelationsFound { relations: vec![table("a", 1_000, 10_000)] };
        let state = fold(vec![(0, found.clone()), (0, copying(0, 0)), (5, copying(100, 500)), (10, copying(250, 1_000))]);
        let with_a_lost_event = fold(vec![(0, found), (0, copying(0, 0)), (10, copying(250, 1_000))]);
        for s in [&state, &with_a_lost_event] {
            let t = &s.tables[0];
            assert!((t.meter.rate() - 100.0).abs() < 1e-9);
            assert!((t.fraction() - 0.25).abs() < 1e-9);
            assert_eq!(s.table_left(t, s.now.unwrap()), Some(Duration::from_secs(30)));
        }
    }

    #[test]
    fn c_22_the_last_transactions_age_is_by_the_clock_of_the_source_alone() {
        let at = |ms| Some(Timestamp::from_millisecond(ms).unwrap());
        let age = |last_commit, source_time| {
            let lsn = Lsn(1);
            let (lag, lag_ms, changes, lanes) = (0, Some(0), 0, vec![]);
            let event = Event::Replayed { source: lsn, received: lsn, applied: lsn, lag, lag_ms, changes, last_commit, source_time, lanes };
            fold(vec![(1_000, event)]).replay.last_commit_age()
        };
        // Ours is hours before, or hours behind.
        assert_eq!(age(at(9_000_000), at(9_000_400)), Some(Duration::from_millis(400)));
        assert_eq!(age(at(1_000), at(1_400)), Some(Duration::from_millis(400)));
        // It was set back meanwhile.
        assert_eq!(age(at(9_000_000), at(5_000_000)), Some(Duration::ZERO));
        assert_eq!(age(None, at(5_000_000)), None);
    }

    fn replayed(paths: [u64; 3], missed: u64) -> Event {
        let [sets, in_order, full_row] = paths;
        let (table, inserts) = (TableName::new("public", "a"), paths.iter().sum());
        Event::TableReplayed { table, inserts, updates: 0, deletes: 0, truncates: 0, sets, in_order, full_row, missed }
    }

    #[test]
    fn the_path_is_what_most_changes_went_through_lately() {
        let found = (0, Event::RelationsFound { relations: vec![table("a", 1_000, 10_000)] });
        let path = |events: &[[u64; 3]]| {
            let replayed = events.iter().map(|paths| (1, replayed(*paths, 0)));
            fold(std::iter::once(found.clone()).chain(replayed).collect()).tables[0].path()
        };
        assert_eq!(path(&[]), None);
        assert_eq!(path(&[[0, 0, 0]]), None);
        assert_eq!(path(&[[5, 90, 6]]), Some(Path::InOrder));
        // A past of sets does not outweigh what goes on now for long.
        assert_eq!(path(&[[900_000, 0, 0], [900_000, 0, 400]]), Some(Path::Sets));
        let mut later = vec![[900_000, 0, 0]];
        later.extend((1..20).map(|n| [900_000, 0, n * 400]));
        assert_eq!(path(&later), Some(Path::FullRow));
        // Another run begins to count anew.
        assert_eq!(path(&[[3, 0, 0], [0, 2, 0]]), Some(Path::InOrder));
    }

    #[test]
    fn c_18_a_table_whose_changes_were_missed_differs_and_is_told_of_once() {
        let found = (0, Event::RelationsFound { relations: vec![table("a", 1_000, 10_000)] });
        let missed = |missed| (1, Event::Missed { table: TableName::new("public", "a"), missed });
        let events = [missed(1), (1, replayed([20, 0, 0], 1)), missed(12), (1, replayed([40, 0, 0], 12))];
        let state = fold(std::iter::once(found.clone()).chain(events).collect());
        assert!(state.tables[0].differs() && state.tables[0].missed == 12);
        assert_eq!(state.log.iter().filter(|l| l.level == Level::Warn).count(), 1);
        // Accepted, and nothing counted yet.
        let (table, reason) = (TableName::new("public", "a"), "no row".to_owned());
        let diverged = (1, Event::Diverged { table: table.clone(), reason });
        let settled = |accepted| fold(vec![found.clone(), diverged.clone(), (2, Event::DivergenceSettled { table: table.clone(), accepted })]);
        assert!(settled(true).tables[0].differs() && !settled(false).tables[0].differs());
    }

    #[test]
    fn missed_changes_are_a_fact_that_must_arrive() {
        let missed = Event::Missed { table: TableName::new("public", "a"), missed: 1 };
        assert!(replayed([1, 0, 0], 1).is_progress() && !missed.is_progress());
    }

    #[test]
    fn a_finished_table_counts_whole_whatever_the_estimate_said() {
        let done = Event::CopyProgress { table: TableName::new("public", "a"), state: TableState::Done, rows: 7, bytes: 70, error: None };
        let state = fold(vec![(0, Event::RelationsFound { relations: vec![table("a", 1_000, 10_000)] }), (1, done)]);
        assert_eq!(state.copy_bytes(), (10_000, 10_000));
    }
}
