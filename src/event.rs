//! What workers report ([`Event`]), what the operator orders ([`Command`]) and what is asked of them ([`Prompt`]).
//!
//! Plain data, in the past tense, with absolute values (bytes so far, not bytes more), so that a dropped progress event costs
//! nothing. The same events feed the dashboard, `--plain`, `--json`, the journal and the tests.

mod check;
mod cutover;
mod prompt;
mod replay;
mod schema;
mod stage;
mod table;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::{check::*, cutover::*, prompt::*, replay::*, schema::*, stage::*, table::*};
use crate::{
    lsn::Lsn,
    name::TableName,
    plan::{Hypertable, IdentityChoice, IdentityDefault},
};

/// What a worker reports.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum Event {
    /// The work directory is open. First event of every run.
    Opened {
        id: String,
        dir: String,
        source: Endpoint,
        target: Endpoint,
        resumed: bool,
        /// ANALYZE begins below this lag, bytes; 0: not known.
        #[serde(default)]
        analyze_below: u64,
    },
    /// Both sides answered: versions are known.
    Connected {
        source: Endpoint,
        target: Endpoint,
    },
    StageChanged {
        stage: Stage,
        state: StageState,
    },

    /// The checks run again: earlier verdicts are void.
    ChecksStarted,
    Checked {
        check: Check,
    },
    /// The tables in scope.
    RelationsFound {
        relations: Vec<RelationSummary>,
    },

    /// The whole checklist, replaced.
    IdentityListed {
        rows: Vec<IdentityRow>,
    },

    /// Statements of the schema run so far, of how many, and what runs now.
    SchemaProgress {
        done: u64,
        total: u64,
        object: String,
    },
    StatementFailed(FailedStatement),
    /// It is retried: the failure is void.
    StatementRetried {
        object: String,
    },
    StatementSkipped {
        object: String,
    },
    /// Something of the source that the target does not have, or not as it is there.
    NotMoved {
        object: String,
        reason: String,
    },

    /// The whole selection, replaced.
    CandidatesListed {
        candidates: Vec<Candidate>,
    },
    HypertableCreated {
        hypertable: Hypertable,
    },

    /// The slot, or a copy's snapshot, waits for these; empty: it no longer waits.
    Waiting {
        what: String,
        holders: Vec<Holder>,
    },
    SlotCreated {
        slot: String,
        lsn: Lsn,
    },

    /// A table is locked on the source and its snapshot taken: it is copied in this many parts, in this format.
    CopyBegun {
        table: TableName,
        format: CopyFormat,
        parts: u32,
    },
    CopyProgress(CopyProgress),
    /// How many indexes and constraints the tables that are copied now will get.
    IndexesCounted {
        indexes: Vec<(TableName, u64)>,
    },
    IndexProgress(IndexProgress),
    /// How far one of them is: PostgreSQL's phase, and the share of the whole build, 0 to 1.
    IndexBuilding {
        table: TableName,
        index: String,
        phase: String,
        fraction: f64,
    },
    JobsChanged {
        table_jobs: u32,
        index_jobs: u32,
    },
    Paused {
        paused: bool,
    },

    Received(StreamStatus),
    /// The stream broke and is being opened again; `None`: it flows.
    StreamBroken {
        error: Option<String>,
    },
    SlotChecked(SlotStatus),
    Replayed(ReplayStatus),
    TableReplayed {
        table: TableName,
        #[serde(flatten)]
        counters: TableCounters,
    },
    /// Changes of a table that found no row or collided, and were counted instead of applied; since the migration began. A fact,
    /// because it decides how the migration ends.
    Missed {
        table: TableName,
        missed: u64,
    },
    SlowedDown(SlowTable),
    /// It no longer is.
    SpedUp {
        table: TableName,
    },
    /// A table joins the migration, or is known to be another one than before.
    RelationAdded {
        relation: RelationSummary,
    },
    /// A table is copied, for the first time or again, while others are replayed.
    TableLeft {
        table: TableName,
        reason: String,
    },
    /// It is replayed with the others.
    TableJoined {
        table: TableName,
    },
    /// A change cannot be applied to a table (I9): its lane has stopped and waits for the operator.
    Diverged {
        table: TableName,
        reason: String,
    },
    /// The operator decided: the change is retried, or the difference is accepted.
    DivergenceSettled {
        table: TableName,
        accepted: bool,
    },
    Analyzed(AnalyzeStatus),
    GatesChecked {
        gates: Vec<Gate>,
    },
    /// How the schemas of both sides differ, all of it, replaced.
    SchemaCompared {
        differences: Vec<SchemaDifference>,
    },

    CutoverStarted {
        end: Option<Lsn>,
    },
    CutoverStepped {
        step: CutoverStep,
        done: bool,
        detail: String,
    },
    CutoverAborted {
        reason: String,
    },
    /// `Migration successfully completed`: downtime ends here.
    Completed {
        tables: u64,
        changes: u64,
        downtime_ms: u64,
    },
    LateWrite {
        table: TableName,
        lsn: Lsn,
    },
    /// One thing that clean undid, or could not undo.
    Cleaned {
        what: String,
        error: Option<String>,
    },

    /// A prompt is open, or one that is open reads differently now.
    PromptOpened {
        prompt: Prompt,
    },
    /// It is answered, or nobody waits for the answer any more.
    PromptClosed {
        id: u64,
    },
    CommandRefused {
        command: String,
        why: String,
    },
    Notice {
        level: Level,
        text: String,
    },
    /// The run ends with this.
    Failed {
        message: String,
        hint: Option<String>,
    },
    Stopped {
        stage: Stage,
    },
}

impl Event {
    /// Progress may be dropped when the bus is full; everything else is a fact that must arrive.
    pub fn is_progress(&self) -> bool {
        matches!(
            self,
            Self::CopyProgress(CopyProgress { state: TableState::Copying, .. })
                | Self::IndexBuilding { .. }
                | Self::SchemaProgress { .. }
                | Self::Received { .. }
                | Self::Replayed { .. }
                | Self::TableReplayed { .. }
                | Self::SlotChecked { .. }
                | Self::GatesChecked { .. }
        )
    }
}

/// An event with the time it was reported.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stamped {
    pub at: Timestamp,
    #[serde(flatten)]
    pub event: Event,
}

/// What the operator orders. The migration may refuse; the refusal is an event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub enum Command {
    /// Answers the prompt of this id, and no other one.
    Answer {
        prompt: u64,
        answer: Answer,
    },
    /// Run the checks of the waiting stage again (preflight, identity, hypertables).
    Recheck,
    SetIdentity {
        table: TableName,
        choice: Option<IdentityChoice>,
    },
    /// Gives every open table the identity that this default means for it.
    SettleIdentities {
        default: IdentityDefault,
    },
    /// The whole selection, as it shall be.
    SelectHypertables {
        selection: Vec<Hypertable>,
        /// Partitioned tables that become one plain table.
        #[serde(default)]
        one_table: Vec<TableName>,
    },
    Pause,
    Resume,
    SetJobs {
        table_jobs: u32,
    },
    /// Empty a table on the target and copy it again, while replay goes on.
    CopyAgain {
        table: TableName,
    },
    OpenCutover,
    /// Run these statements on the target. They must be among those of the last [`Event::SchemaCompared`].
    RunStatements {
        statements: Vec<String>,
    },
    /// Goes back from a cutover that runs, while nothing is asked.
    AbortCutover,
    /// The operator leaves the finished migration.
    Leave,
    /// Stop safely; the migration can be continued.
    Stop,
}
