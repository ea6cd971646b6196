//! A table: what is known of it, how it is copied, and how its changes are applied.

use serde::{Deserialize, Serialize};

use crate::name::TableName;

/// What the screens call a table.
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
    pub fn as_str(self) -> &'static str {
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
    pub fn as_str(self) -> &'static str {
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

/// How far the copy of a table is. Absolute: `rows` and `bytes` so far, on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CopyProgress {
    pub table: TableName,
    pub state: TableState,
    pub rows: u64,
    pub bytes: u64,
    pub error: Option<String>,
}

/// How far the indexes and constraints of a table are.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IndexProgress {
    pub table: TableName,
    pub done: u64,
    pub total: u64,
    /// Those that are being built.
    pub building: Vec<String>,
}

/// A statement that failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedStatement {
    pub object: String,
    pub message: String,
    pub sqlstate: Option<String>,
    pub sql: String,
}

impl FailedStatement {
    /// The message, with the SQLSTATE where there is one.
    pub fn full_message(&self) -> String {
        format!("{}{}", self.message, self.sqlstate.as_ref().map(|c| format!(" ({c})")).unwrap_or_default())
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
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Binary => "binary",
            Self::Text => "text",
        }
    }
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
