//! What workers report ([`Event`]), what the operator orders ([`Command`]) and what is asked of them ([`Prompt`]).
//!
//! Plain data, in the past tense, with absolute values (bytes so far, not bytes more), so that a dropped progress event costs
//! nothing. The same events feed the dashboard, `--plain`, `--json`, the journal and the tests.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    lsn::Lsn,
    name::TableName,
    plan::{Hypertable, IdentityChoice},
};

/// The stages of a migration, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    Preflight,
    Identity,
    Schema,
    Hypertables,
    Copy,
    CatchUp,
    Verify,
    Cutover,
    Done,
}

impl Stage {
    pub const ALL: [Self; 9] =
        [Self::Preflight, Self::Identity, Self::Schema, Self::Hypertables, Self::Copy, Self::CatchUp, Self::Verify, Self::Cutover, Self::Done];

    /// 1 to 9: the key that shows the stage.
    pub fn number(self) -> usize {
        self as usize + 1
    }

    pub fn title(self) -> &'static str {
        match self {
            Self::Preflight => "Preflight",
            Self::Identity => "Identity",
            Self::Schema => "Schema",
            Self::Hypertables => "Hypertables",
            Self::Copy => "Copy",
            Self::CatchUp => "Catch-up",
            Self::Verify => "Verify",
            Self::Cutover => "Cutover",
            Self::Done => "Done",
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StageState {
    #[default]
    Waiting,
    Running,
    Done,
    Skipped,
    Failed,
}

/// One side of the migration, as the header line shows it. No passwords.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// `host:port/database`
    pub address: String,
    /// For instance `16.4`; empty until connected.
    pub version: String,
    /// Version of TimescaleDB; `None` where it is not installed.
    pub timescale: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

/// One line of the preflight.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Check {
    /// Short and stable: `wal_level`, `target is empty`. A check is replaced by a later one of the same name.
    pub name: String,
    pub verdict: Verdict,
    /// What was found, and what it means.
    pub sentence: String,
    /// What to do about it; often SQL.
    pub fix: Option<String>,
}

/// How a relation is stored on the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RelationKind {
    Plain,
    /// A partition root, with all its leaves.
    Partitioned,
    /// Becomes, or is, a hypertable on the target.
    Hypertable,
}

impl RelationKind {
    pub fn word(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Partitioned => "parts",
            Self::Hypertable => "hyper",
        }
    }
}

/// What is known of a table before it moves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RelationSummary {
    pub table: TableName,
    pub kind: RelationKind,
    /// Size of the heap and TOAST, without indexes; of all leaves together. Bytes.
    pub bytes: u64,
    /// Estimated by the planner's statistics.
    pub rows: u64,
}

/// Whether UPDATE and DELETE of a table reach the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdentityState {
    /// Usable as it is.
    Ok,
    /// Usable, with a remark (slow).
    Warn,
    /// Nothing usable and nothing chosen: the migration waits.
    Open,
    /// The operator accepted that UPDATE and DELETE are lost (insert-only).
    Accepted,
    /// The operator's choice was applied on the source.
    Applied,
}

impl IdentityState {
    pub fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Open => "open",
            Self::Accepted => "accepted",
            Self::Applied => "applied",
        }
    }
}

/// One line of the replica-identity checklist.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdentityRow {
    pub table: TableName,
    pub bytes: u64,
    /// What the table has: `default (PK)`, `index products_sku`, `full`, `nothing usable`.
    pub current: String,
    /// What becomes of UPDATE and DELETE: `ok`, `ok, slow`, `lost`.
    pub effect: String,
    /// What hyperlift would do; `None` where nothing is open.
    pub proposed: Option<IdentityChoice>,
    /// Unique indexes that may serve.
    pub indexes: Vec<String>,
    pub state: IdentityState,
    /// One or two sentences for the details pane.
    pub reason: String,
}

/// A column that a hypertable may be partitioned by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimeColumn {
    pub name: String,
    /// As `format_type` prints it.
    pub data_type: String,
    pub not_null: bool,
    /// Proposed chunk intervals, the best first: `1 day`, or numbers for integers.
    pub intervals: Vec<String>,
    /// Estimated seconds (or units of an integer column) between the smallest and the greatest value; 0 when unknown.
    pub span: u64,
}

/// A primary key, unique constraint or unique index of a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueKey {
    pub name: String,
    pub primary: bool,
    pub columns: Vec<String>,
    /// Why the key cannot be extended or rebuilt (an expression, an exclusion constraint, a foreign key that points here).
    pub obstacle: Option<String>,
}

/// One line of the hypertable selection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Candidate {
    pub table: TableName,
    pub bytes: u64,
    pub rows: u64,
    pub columns: Vec<TimeColumn>,
    pub keys: Vec<UniqueKey>,
    /// Why it is proposed or not, in a few words: `time + append-only`.
    pub why: String,
    /// A table of the kind that gains from being a hypertable.
    pub proposed: bool,
    /// Why it cannot be converted at all; the row then shows `[-]`.
    pub obstacle: Option<String>,
    /// What is chosen now, by the plan, by the operator or by hand on the target.
    pub chosen: Option<Hypertable>,
    /// Already a hypertable on the target, read back from there: the choice is fixed.
    pub made: bool,
    /// How many partitions it has on the source, on all levels.
    #[serde(default)]
    pub partitions: u32,
    /// It becomes one plain table without them.
    #[serde(default)]
    pub one_table: bool,
}

/// A session or prepared transaction of the source that something waits for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Process id; 0 for a prepared transaction.
    pub pid: i32,
    /// `user@database application`, or the global identifier of a prepared transaction.
    pub who: String,
    /// Its state: `idle in transaction`, `active`, `prepared`.
    pub state: String,
    /// Age of its transaction, whole seconds.
    pub seconds: u64,
    /// The statement, shortened; never shown in the log.
    pub query: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TableState {
    Queued,
    Copying,
    /// Its rows are in; its indexes wait for a job.
    Waiting,
    Indexing,
    Done,
    Failed,
    /// The operator skipped its data.
    Skipped,
}

impl TableState {
    /// Its rows are in.
    pub fn is_copied(self) -> bool {
        matches!(self, Self::Waiting | Self::Indexing | Self::Done)
    }

    /// FAILED is upper case: colour alone must not carry it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Copying => "copying",
            Self::Waiting => "waiting",
            Self::Indexing => "indexing",
            Self::Done => "done",
            Self::Failed => "FAILED",
            Self::Skipped => "skipped",
        }
    }
}

/// How rows go over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CopyFormat {
    Binary,
    /// For types that have no binary form which is safe between two servers.
    Text,
}

impl CopyFormat {
    pub fn word(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Text => "text",
        }
    }
}

/// One lane of the replay.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneStatus {
    pub lane: u32,
    pub applied: Lsn,
    /// Bytes of WAL that the lane is behind the source.
    pub lag: u64,
    /// How long ago the source stood where the lane stands, ms; `None` where that was before anybody looked.
    pub lag_ms: Option<u64>,
    /// Waits for changes, not for the target.
    pub waiting: bool,
    /// Why it does not come further, although it tries.
    pub held_up: Option<String>,
}

/// A gate before the cutover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub name: String,
    pub passed: bool,
    /// A hard gate disables `Y`; a soft one warns.
    pub hard: bool,
    pub detail: String,
}

/// The steps of the cutover, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutoverStep {
    EndOfStream,
    Drain,
    LateWrites,
    Sequences,
    LateWritesAgain,
    LastObjects,
}

impl CutoverStep {
    pub const ALL: [Self; 6] = [Self::EndOfStream, Self::Drain, Self::LateWrites, Self::Sequences, Self::LateWritesAgain, Self::LastObjects];

    pub fn title(self) -> &'static str {
        match self {
            Self::EndOfStream => "end of the stream",
            Self::Drain => "replay up to it",
            Self::LateWrites => "look for late writes",
            Self::Sequences => "set sequences",
            Self::LateWritesAgain => "look again",
            Self::LastObjects => "foreign keys, triggers, rules, policies",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn word(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}

/// What is asked of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// `c`, after preflight, identity and hypertables, and before verify and cutover.
    Continue,
    /// A table or a statement failed: `r`, `K`.
    Trouble,
    /// The cutover box is open: `Y`, `x`, esc.
    Cutover,
    /// A late write was found while cutting over: `r` drains again, `x` goes back.
    LateWrite,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique within a run; an answer names it, so that it cannot answer a later prompt.
    pub id: u64,
    pub stage: Stage,
    pub kind: PromptKind,
    /// One or two sentences.
    pub text: String,
    /// What has to be settled first, for instance `1 open`; empty when the prompt can be answered.
    pub blocked_by: Option<String>,
}

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
    /// The operator let it be tried again: what failed is void.
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

    PromptOpened {
        prompt: Prompt,
    },
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
    /// Answers the prompt of this id with `c`.
    Continue {
        prompt: u64,
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
    /// Try the failed table or statement again.
    Retry {
        object: String,
    },
    /// Go on without it.
    Skip {
        object: String,
    },
    Pause,
    Resume,
    SetJobs {
        table_jobs: u32,
    },
    OpenCutover,
    ConfirmCutover {
        prompt: u64,
    },
    AbortCutover,
    /// The operator leaves the finished migration.
    Leave,
    /// Stop safely; the migration can be continued.
    Stop,
}
