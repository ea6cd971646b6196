//! What workers report ([`Event`]), what the operator orders ([`Command`]) and what is asked of them ([`Prompt`]).
//!
//! Plain data, in the past tense, with absolute values (bytes so far, not bytes more), so that a dropped progress event costs
//! nothing. The same events feed the dashboard, `--plain`, `--json`, the journal and the tests.

mod terms;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use self::terms::*;
use crate::{
    lsn::Lsn,
    name::TableName,
    plan::{Hypertable, IdentityChoice},
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

    /// The checks begin anew: earlier verdicts are void.
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
    StatementFailed {
        object: String,
        message: String,
        sqlstate: Option<String>,
        sql: String,
    },
    /// The operator lets it be tried again: the failure is void.
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

    /// The slot, or a copy's snapshot, waits for these; empty: it waits no longer.
    Waiting {
        what: String,
        holders: Vec<Holder>,
    },
    SlotCreated {
        slot: String,
        lsn: Lsn,
    },

    /// A table is locked on the source and its snapshot taken: it is copied in so many parts, in this format.
    CopyBegun {
        table: TableName,
        format: CopyFormat,
        parts: u32,
    },
    /// Absolute; `rows` and `bytes` so far, on the wire.
    CopyProgress {
        table: TableName,
        state: TableState,
        rows: u64,
        bytes: u64,
        error: Option<String>,
    },
    /// How many indexes and constraints the tables that are copied now will get.
    IndexesCounted {
        indexes: Vec<(TableName, u64)>,
    },
    /// Indexes and constraints of a table built so far, of how many, and those that are being built.
    IndexProgress {
        table: TableName,
        done: u64,
        total: u64,
        building: Vec<String>,
    },
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

    /// What the receiver has: greatest WAL end heard of, bytes of decoded stream so far, size of the spool on disk, free disk.
    Received {
        lsn: Lsn,
        bytes: u64,
        spool_bytes: u64,
        disk_free: u64,
    },
    /// The stream broke and is being opened again; `None`: it flows.
    StreamBroken {
        error: Option<String>,
    },
    /// `pg_replication_slots` of our slot; `safe_wal_bytes` where `max_slot_wal_keep_size` is set.
    SlotChecked {
        wal_status: String,
        safe_wal_bytes: Option<u64>,
    },
    /// Replay so far; `changes` are those of this run.
    Replayed {
        source: Lsn,
        received: Lsn,
        applied: Lsn,
        /// Bytes of WAL that the target is behind the source.
        lag: u64,
        /// How long ago the source stood where the target stands, ms, on one clock; `None` where that was before anybody looked.
        lag_ms: Option<u64>,
        changes: u64,
        /// When the transaction that was taken from the stream last was committed, by the clock of the source.
        last_commit: Option<Timestamp>,
        /// What that clock said when all this was measured.
        source_time: Option<Timestamp>,
        lanes: Vec<LaneStatus>,
    },
    /// Changes of a table applied so far in this run.
    TableReplayed {
        table: TableName,
        inserts: u64,
        updates: u64,
        deletes: u64,
        truncates: u64,
        /// How they were applied: as part of a set, by their key, or by their whole old row.
        sets: u64,
        in_order: u64,
        full_row: u64,
        /// Those that found no row or collided, and were counted instead; since the migration began.
        missed: u64,
    },
    /// Changes of a table that found no row or collided, and were counted instead of applied; since the migration began.
    Missed {
        table: TableName,
        missed: u64,
    },
    /// The changes of a table take long, because the target reads much to find their rows.
    SlowedDown {
        table: TableName,
        reason: String,
        /// The statement, for the target, that mends it; or what else would.
        fix: String,
    },
    /// They no longer do.
    SpedUp {
        table: TableName,
    },
    /// A relation is no longer what the source says (I9); its lane has stopped.
    Diverged {
        table: TableName,
        reason: String,
    },
    /// The operator settled it: the change was applied at last, or the difference is accepted.
    DivergenceSettled {
        table: TableName,
        accepted: bool,
    },
    Analyzed {
        done: u64,
        total: u64,
        table: Option<TableName>,
    },
    GatesChecked {
        gates: Vec<Gate>,
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
            Self::CopyProgress { state: TableState::Copying, .. }
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

/// What the operator orders. The orchestrator may refuse; the refusal is an event.
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
    OpenCutover,
    /// Goes back from a cutover that runs, while nothing is asked.
    AbortCutover,
    /// The operator leaves the finished migration.
    Leave,
    /// Stop safely; the migration can be continued.
    Stop,
}
