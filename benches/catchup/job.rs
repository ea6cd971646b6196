//! What a worker process is asked to do.

use hyperlift::lsn::Lsn;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Task {
    /// Into the spool only, until the end is durable there.
    Receive,
    /// From a full spool into the target.
    Replay,
    /// Both at the same time.
    Live,
    /// Both, until stdin ends, then up to the source's position of that moment.
    Follow,
}

/// What a worker does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Job {
    pub task: Task,
    /// URIs of the databases.
    pub source: String,
    pub target: String,
    pub system_id: String,
    pub slot: String,
    pub publication: String,
    pub spool: PathBuf,
    /// Where the slot became consistent.
    pub start: Lsn,
    /// How far to go; a commit follows it.
    pub end: Lsn,
    pub lanes: u32,
    /// Some tables of the target are hypertables.
    pub hypertables: bool,
}
