//! The gates before the cutover, and its steps.

use serde::{Deserialize, Serialize};

/// What has to be true before the cutover, or is worth a warning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GateKind {
    /// No change waits for the operator, and every change found its row.
    NothingDiverged,
    /// No table is being copied.
    TablesJoined,
    /// The slot is valid and the stream flows.
    Slot,
    /// The publications have all tables of the migration.
    Published,
    /// A position of the source is reached on the target within seconds.
    InSync,
    /// No transaction of the source that has written is still open.
    #[serde(alias = "nothing_prepared")]
    NoOpenWriters,
    /// The tables of the source are as they were copied.
    SourceSchema,
    /// The target has the statistics of its planner.
    Analyze,
    /// Every UPDATE and DELETE reaches the target.
    ReplicaIdentity,
    /// The application has stopped writing.
    WritesStopped,
}

impl GateKind {
    pub const ALL: [Self; 10] = [
        Self::NothingDiverged,
        Self::TablesJoined,
        Self::Slot,
        Self::Published,
        Self::InSync,
        Self::NoOpenWriters,
        Self::SourceSchema,
        Self::Analyze,
        Self::ReplicaIdentity,
        Self::WritesStopped,
    ];

    /// At most [`Self::WIDTH`] columns.
    pub fn title(self) -> &'static str {
        match self {
            Self::NothingDiverged => "nothing diverged",
            Self::TablesJoined => "tables copied",
            Self::Slot => "replication slot",
            Self::Published => "publications",
            Self::InSync => "target in sync",
            Self::NoOpenWriters => "no open writers",
            Self::SourceSchema => "source schema",
            Self::Analyze => "ANALYZE",
            Self::ReplicaIdentity => "replica identity",
            Self::WritesStopped => "writes stopped",
        }
    }

    /// Columns that the longest title takes: the details beside it need the room.
    pub const WIDTH: usize = 16;
}

/// A gate before the cutover.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gate {
    pub kind: GateKind,
    pub passed: bool,
    /// A hard gate disables `Y`; a soft one warns.
    pub hard: bool,
    /// What was found. Where something has to be done, that comes first, because a narrow screen cuts the end off.
    pub detail: String,
}

impl std::fmt::Display for Gate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.kind.title(), self.detail)
    }
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
            Self::LateWrites => "check for late writes",
            Self::Sequences => "set sequences",
            Self::LateWritesAgain => "check again",
            Self::LastObjects => "foreign keys, triggers, rules, policies",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn titles_of_gates_fit_their_column() {
        assert_eq!(GateKind::ALL.iter().map(|k| k.title().len()).max(), Some(GateKind::WIDTH));
    }
}
