//! Where a migration is: its stages, its two sides, and how grave a line of the log is.

use serde::{Deserialize, Serialize};

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
pub enum Level {
    Info,
    Warn,
    Error,
}

impl Level {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Warn => "WARN",
            Self::Error => "ERROR",
        }
    }
}
