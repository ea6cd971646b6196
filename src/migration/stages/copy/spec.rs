//! How one relation is copied; all its parts share it.

use crate::{event::CopyFormat, lsn::Lsn, pg::snapshot::Snapshot};

/// Under which snapshot a relation is copied, and how.
pub struct CopySpec {
    /// The ledger takes a part only while the relation is at this attempt.
    pub attempt: i32,
    pub snapshot: Snapshot,
    /// L: where the source's WAL ended right after the snapshot was taken.
    pub at: Lsn,
    /// Name of the exported snapshot, for `set transaction snapshot`; empty for a relation of one part.
    pub exported: String,
    pub columns: Vec<String>,
    pub format: CopyFormat,
    pub parts: u32,
    /// No more jobs than this may write at the same time.
    pub streams: u32,
}
