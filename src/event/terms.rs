//! What events speak of: stages, tables, checks, gates, prompts.

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

/// What a prompt is about.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Subject {
    Table(TableName),
    /// A statement, by the object that it makes: `INDEX public.orders_idx`.
    Object(String),
    /// A lane of the replay, where the failure is of no table.
    Lane(u32),
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Table(table) => table.fmt(f),
            Self::Object(object) => f.write_str(object),
            Self::Lane(lane) => write!(f, "lane {lane}"),
        }
    }
}

/// What is asked of the operator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Whether to go on, after preflight, identity and hypertables: `c`.
    Continue,
    /// A table, a statement or a change failed: `r`, `K`.
    #[serde(alias = "trouble")]
    Failure,
    /// The cutover box is open: `Y`, `x`, esc.
    Cutover,
    /// A late write was found while cutting over: `r` drains again, `x` goes back.
    LateWrite,
}

/// What the operator answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Continue,
    /// Try what failed again; after a late write: drain again.
    Retry,
    /// Go on without the statement or the rows of the table; accept that a table differs.
    Skip,
    /// Cut over now.
    Confirm,
    /// Close the cutover box, or give the cutover up after a late write.
    GoBack,
}

impl Answer {
    pub fn word(self) -> &'static str {
        match self {
            Self::Continue => "continue",
            Self::Retry => "retry",
            Self::Skip => "skip",
            Self::Confirm => "cut over",
            Self::GoBack => "go back",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// Unique within a run; an answer names it, so that it cannot answer a later prompt.
    pub id: u64,
    pub stage: Stage,
    pub kind: PromptKind,
    /// What failed; `None` where the whole stage asks.
    #[serde(default)]
    pub subject: Option<Subject>,
    /// One or two sentences.
    pub text: String,
    /// What has to be settled first, for instance `1 open`; empty when the prompt can be answered.
    pub blocked_by: Option<String>,
}

impl Prompt {
    /// Why the prompt does not take this answer; `None` when it does.
    pub fn objection(&self, answer: Answer) -> Option<String> {
        let answers: &[Answer] = match self.kind {
            PromptKind::Continue => &[Answer::Continue],
            PromptKind::Failure => &[Answer::Retry, Answer::Skip],
            PromptKind::Cutover => &[Answer::Confirm, Answer::GoBack],
            PromptKind::LateWrite => &[Answer::Retry, Answer::GoBack],
        };
        if !answers.contains(&answer) {
            return Some("the open question has other answers".into());
        }
        match (answer, &self.subject, &self.blocked_by) {
            (Answer::Skip, Some(Subject::Lane(_)), _) => Some("replay cannot go on without a lane: fix the cause, then retry".into()),
            (Answer::Continue | Answer::Confirm, _, Some(why)) => Some(format!("not yet: {why}")),
            _ => None,
        }
    }
}
