//! What the operator decides before rows move: checks, replica identities, hypertables.

use serde::{Deserialize, Serialize};

use crate::{
    name::TableName,
    plan::{Hypertable, IdentityChoice, KeyChoice},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Ok,
    Warn,
    Fail,
}

impl Verdict {
    /// What needs the operator is upper case: colour alone must not carry it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
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
    pub fn as_str(self) -> &'static str {
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
    #[serde(default)]
    pub partitioned: bool,
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

/// A primary key, unique constraint, unique index or exclusion constraint of a candidate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UniqueKey {
    pub name: String,
    pub primary: bool,
    /// Of an exclusion constraint those that it compares with `=`.
    pub columns: Vec<String>,
    #[serde(default)]
    pub shape: KeyShape,
    /// Why the key cannot be extended (an exclusion constraint, a foreign key that points here).
    pub obstacle: Option<String>,
}

/// What a key is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyShape {
    #[default]
    Columns,
    /// Expressions, and perhaps columns.
    Expressions,
    Exclusion,
}

impl UniqueKey {
    /// Why this hypertable cannot have the key, nor what the plan makes of it.
    pub fn objection(&self, hypertable: &Hypertable) -> Option<&str> {
        let is_possible =
            self.columns.contains(&hypertable.time_column) || (self.shape == KeyShape::Exclusion && hypertable.key == KeyChoice::PlainIndex);
        self.obstacle.as_deref().filter(|_| !is_possible)
    }
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
    /// What the target refused when the choice was tried, in its own words.
    #[serde(default)]
    pub refused: Option<String>,
    /// What the target will have in another form, or not at all, because of the choice.
    #[serde(default)]
    pub remarks: Vec<String>,
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
    /// The schema of TimescaleDB's functions; empty where statements that are shown need not name it.
    #[serde(default)]
    pub functions_in: String,
}
