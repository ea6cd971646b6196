//! The record of a migration: what is needed to continue or undo it.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use crate::{
    event::Stage,
    lsn::Lsn,
    name::TableName,
    pg::catalog::{Partition, Shape},
    scope::Scope,
};

/// The file `migration.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Six of a-z and 0-9; part of every name that the migration makes.
    pub id: String,
    pub source: RecordedEndpoint,
    pub target: RecordedEndpoint,
    /// The slot's consistent point; `None` before it was created.
    pub slot: Option<Lsn>,
    /// Digest of the dump from which the schema was restored.
    pub schema: Option<String>,
    /// Replica identities changed on the source, with the statement that resets each.
    pub changed_identities: Vec<ChangedIdentity>,
    /// Shape of the source's tables when the copy began, by name.
    #[serde(default)]
    pub shapes: BTreeMap<String, Shape>,
    /// Partitions on the source, by OID, of what is one table on the target; as they were when the copy began.
    #[serde(default)]
    pub partitions: BTreeMap<u32, Partition>,
    /// The filters with which the migration began.
    #[serde(default)]
    pub scope: Scope,
    /// Stages that are finished.
    pub finished: Vec<Stage>,
    /// The end of the stream at the cutover: what the source committed after it is not on the target.
    #[serde(default)]
    pub end: Option<Lsn>,
    /// The source was written to after that end.
    #[serde(default)]
    pub late: bool,
    /// Tables that differ from the source because the operator accepted it, and how many of their changes were counted instead of applied.
    #[serde(default)]
    pub missed: BTreeMap<String, u64>,
    /// Objects of the source that the target does not have, and why.
    #[serde(default)]
    pub not_moved: Vec<(String, String)>,
    /// The migration is complete, and only cleaning up remains.
    pub completed: bool,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEndpoint {
    pub address: String,
    pub system_id: String,
    pub database: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedIdentity {
    pub table: TableName,
    pub undo: String,
}

/// A new migration's id.
pub fn new_id() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..6).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())])).collect()
}
