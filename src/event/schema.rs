//! How the target's schema differs from the source's while both are in use.

use serde::{Deserialize, Serialize};

/// One object that is different on both sides, or one of the statements for it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SchemaDifference {
    pub object: String,
    /// What happened to it on the source: `was altered`.
    pub how: String,
    /// The statement that brings the target to the source's state; `None` where it is not known.
    pub sql: Option<String>,
    /// The statement removes rows or values, as the source has done.
    pub removes: bool,
    /// Why its last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl SchemaDifference {
    /// Whether the statement is known and removes nothing.
    pub fn is_safe(&self) -> bool {
        self.sql.is_some() && !self.removes
    }

    /// What `STATE` says of it.
    pub fn state(&self) -> &'static str {
        match self {
            Self { error: Some(_), .. } => "FAILED",
            Self { sql: None, .. } => "by hand",
            Self { removes: true, .. } => "REMOVES",
            _ => "safe",
        }
    }
}
