//! Everything that is known about the migration, folded from events by [`State::apply`]. Pure: no clock, no server, no terminal.
//!
//! Rates and estimates are computed here from absolute samples, so a dropped progress event changes nothing.

mod before_copy;
mod copy;
mod cutover;
mod eta;
mod log;
mod meter;
mod pace;
mod permissions;
mod prompts;
mod replay;
mod table;
mod tables;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, time::Duration};

pub use self::{
    before_copy::{Failure, Hypertables, Identity, Preflight, Schema},
    copy::Copy,
    cutover::{Completed, Cutover},
    log::{Log, LogLine},
    meter::{Meter, between},
    prompts::OpenPrompts,
    replay::Replay,
    table::{ApplyPath, IndexBuild, Table},
    tables::Tables,
};
use crate::{
    event::{Endpoint, Event, Gate, IdentityState, Level, RelationKind, SchemaDifference, Stage, StageState, Stamped, TableState},
    name::TableName,
};

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

    pub preflight: Preflight,
    pub identity: Identity,
    pub schema: Schema,
    pub hypertables: Hypertables,
    pub tables: Tables,
    pub copy: Copy,
    /// The copy, or replay, is paused.
    pub paused: bool,
    pub replay: Replay,
    pub gates: Vec<Gate>,
    /// How the schemas of both sides differ.
    pub differences: Vec<SchemaDifference>,
    pub cutover: Cutover,

    pub prompts: OpenPrompts,
    pub log: Log,
    pub ended: Option<Ended>,
}

impl State {
    /// Folds one event. Every kind of event has its place here: the compiler reports one that is missing.
    pub fn apply(&mut self, Stamped { at, event }: &Stamped) {
        let at = *at;
        self.now = Some(at);
        self.prompts.apply(event);
        let Self { preflight, identity, schema, hypertables, tables, copy, replay, cutover, log, .. } = self;
        match event {
            Event::Opened { .. } => self.opened(at, event),
            Event::Connected { source, target } => (self.source, self.target) = (source.clone(), target.clone()),
            Event::StageChanged { stage, state } => self.stage_changed(at, *stage, *state),

            Event::ChecksStarted => preflight.checks.clear(),
            Event::Checked { check } => preflight.checked(check),
            Event::RelationsFound { relations } => tables.found(relations),
            Event::IdentityListed { rows } => identity.listed(rows),

            Event::SchemaProgress { done, total, object } => schema.progress(*done, *total, object),
            Event::StatementFailed(statement) => schema.failed(at, statement, log),
            Event::StatementRetried { object } => schema.retried(object),
            Event::StatementSkipped { object } => schema.skipped(at, object, log),
            Event::NotMoved { object, reason } => schema.not_moved(at, object, reason, log),

            Event::CandidatesListed { candidates } => hypertables.candidates.clone_from(candidates),
            Event::HypertableCreated { hypertable } => {
                if let Some(t) = tables.get_mut(&hypertable.table) {
                    t.summary.kind = RelationKind::Hypertable;
                }
                log.add(at, Level::Info, format!("{} is a hypertable by {}", hypertable.table, hypertable.time_column));
            }

            Event::Waiting { what, holders } => copy.waits(what, holders),
            Event::CopyBegun { table, format, parts } => copy.begun(at, table, (*format, *parts), tables, log),
            Event::CopyProgress(progress) => copy.progress(at, progress, tables, log),
            Event::IndexesCounted { indexes } => tables.indexes_counted(indexes),
            Event::IndexProgress(progress) => copy.index_progress(at, progress, tables),
            Event::IndexBuilding { table, index, phase, fraction } => tables.index_phase(table, index, phase, *fraction),
            Event::JobsChanged { table_jobs, index_jobs } => (copy.table_jobs, copy.index_jobs) = (*table_jobs, *index_jobs),
            Event::Paused { paused } => {
                self.paused = *paused;
                log.add(at, Level::Info, if *paused { "paused" } else { "resumed" });
            }

            Event::SlotCreated { slot, lsn } => replay.slot_created(at, slot, *lsn, log),
            Event::Received(status) => replay.received(at, *status),
            Event::StreamBroken { error } => replay.broken(at, error.as_deref(), log),
            Event::SlotChecked(status) => replay.slot_status = status.clone(),
            Event::Replayed(status) => replay.replayed(at, status),
            Event::TableReplayed { table, counters } => {
                if let Some(t) = tables.get_mut(table) {
                    t.set_counters(*counters);
                }
            }
            Event::Missed { table, missed } => tables.missed(at, table, *missed, log),
            Event::SlowedDown(slow) => tables.slowed_down(at, slow, log),
            Event::SpedUp { table } => tables.sped_up(at, table, log),
            Event::RelationAdded { relation } => tables.added(relation),
            Event::TableLeft { table, reason } => tables.left(table, reason),
            Event::TableJoined { table } => tables.joined(table),
            Event::Diverged { table, reason } => tables.diverged(at, table, reason, log),
            Event::DivergenceSettled { table, accepted } => tables.divergence_settled(at, table, *accepted, log),
            Event::Analyzed(status) => replay.analyze = status.clone(),
            Event::GatesChecked { gates } => self.gates.clone_from(gates),
            Event::SchemaCompared { differences } => self.differences.clone_from(differences),

            Event::CutoverStarted { end } => cutover.begun(at, *end),
            Event::CutoverStepped { step, done, detail } => {
                cutover.steps.insert(*step, (*done, detail.clone()));
            }
            Event::CutoverAborted { reason } => cutover.aborted(at, reason, log),
            Event::Completed { tables, changes, downtime_ms } => {
                cutover.completed(Completed { at, tables: *tables, changes: *changes, downtime_ms: *downtime_ms }, log);
            }
            Event::LateWrite { table, lsn } => cutover.late_write(at, table, *lsn, log),
            Event::Cleaned { what, error } => cutover.cleaned(at, what, error.as_deref(), log),

            Event::PromptOpened { .. } | Event::PromptClosed { .. } => {}
            Event::CommandRefused { command, why } => log.add(at, Level::Warn, format!("{command}: {why}")),
            Event::Notice { level, text } => log.add(at, *level, text.clone()),
            Event::Failed { message, hint } => self.failed(at, message, hint.as_deref()),
            Event::Stopped { .. } => self.ended = Some(Ended::Stopped),
        }
    }

    fn opened(&mut self, at: Timestamp, event: &Event) {
        let Event::Opened { id, dir, source, target, resumed, analyze_below } = event else { return };
        self.id.clone_from(id);
        self.dir.clone_from(dir);
        (self.source, self.target) = (source.clone(), target.clone());
        self.resumed = *resumed;
        self.replay.analyze_below = *analyze_below;
        self.opened = Some(at);
        self.ended = None;
    }

    fn stage_changed(&mut self, at: Timestamp, stage: Stage, state: StageState) {
        self.stages.insert(stage, state);
        if state == StageState::Running {
            self.stage = Some(stage);
            self.log.add(at, Level::Info, format!("stage {} {}", stage.number(), stage.title()));
        }
    }

    fn failed(&mut self, at: Timestamp, message: &str, hint: Option<&str>) {
        self.ended = Some(Ended::Failed { message: message.to_owned(), hint: hint.map(str::to_owned) });
        if let Some(stage) = self.stage {
            self.stages.insert(stage, StageState::Failed);
        }
        self.log.add(at, Level::Error, message);
    }

    /// Tables that arrive without all of their changes, or without rows, as the operator chose.
    pub fn half_moved(&self) -> Vec<String> {
        let names = |all: Vec<String>, text: &str, why: &str| (!all.is_empty()).then(|| format!("{text} of {} ({why})", all.join(", ")));
        let insert_only = self.identity.rows.iter().filter(|r| r.state == IdentityState::Accepted).map(|r| r.table.to_string()).collect();
        let skipped = self.tables.iter().filter(|t| t.state() == TableState::Skipped).map(|t| t.summary.table.to_string()).collect();
        let found = [names(insert_only, "UPDATE and DELETE", "insert-only"), names(skipped, "rows and changes", "skipped")];
        found.into_iter().flatten().collect()
    }

    /// What an altered table waits for: the statement that its target needs.
    pub fn waits(&self, table: &Table) -> Option<&Failure> {
        let name = table.summary.table.to_string();
        self.schema.open().find(|f| f.statement.object == name)
    }

    pub fn table(&self, table: &TableName) -> Option<&Table> {
        self.tables.get(table)
    }

    pub fn stage_state(&self, stage: Stage) -> StageState {
        self.stages.get(&stage).copied().unwrap_or_default()
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
    use crate::event::{CopyProgress, Difference, RelationSummary, TableCounters};

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
        Event::CopyProgress(CopyProgress { table: TableName::new("public", "a"), state: TableState::Copying, rows, bytes, error: None })
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
            assert_eq!(s.table_eta(t, s.now.unwrap()), Some(Duration::from_secs(30)));
        }
    }

    fn replayed(sets: u64, missed: u64) -> Event {
        Event::TableReplayed {
            table: TableName::new("public", "a"),
            counters: TableCounters { inserts: sets, sets, missed, ..TableCounters::default() },
        }
    }

    #[test]
    fn c_18_a_table_whose_changes_were_missed_differs_and_is_reported_once() {
        let found = (0, Event::RelationsFound { relations: vec![table("a", 1_000, 10_000)] });
        let missed = |missed| (1, Event::Missed { table: TableName::new("public", "a"), missed });
        let events = [missed(1), (1, replayed(20, 1)), missed(12), (1, replayed(40, 12))];
        let state = fold(std::iter::once(found.clone()).chain(events).collect());
        assert!(state.tables[0].difference == Some(Difference::Missed(12)));
        assert_eq!(state.log.iter().filter(|l| l.level == Level::Warn).count(), 1);
        // Accepted, and nothing counted yet.
        let (table, reason) = (TableName::new("public", "a"), "no row".to_owned());
        let diverged = (1, Event::Diverged { table: table.clone(), reason });
        let settled = |accepted| fold(vec![found.clone(), diverged.clone(), (2, Event::DivergenceSettled { table: table.clone(), accepted })]);
        assert_eq!([true, false].map(|accepted| settled(accepted).tables[0].difference), [Some(Difference::Accepted), None]);
    }

    #[test]
    fn missed_changes_are_a_fact_that_must_arrive() {
        let missed = Event::Missed { table: TableName::new("public", "a"), missed: 1 };
        assert!(replayed(1, 1).is_progress() && !missed.is_progress());
    }

    #[test]
    fn a_finished_table_counts_whole_whatever_the_estimate_said() {
        let done = CopyProgress { table: TableName::new("public", "a"), state: TableState::Done, rows: 7, bytes: 70, error: None };
        let state = fold(vec![(0, Event::RelationsFound { relations: vec![table("a", 1_000, 10_000)] }), (1, Event::CopyProgress(done))]);
        assert_eq!(state.tables.bytes(), (10_000, 10_000));
    }
}
