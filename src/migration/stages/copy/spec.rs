//! How one relation is copied: all of its parts share this.

use crate::{event::CopyFormat, lsn::Lsn, pg::snapshot::Snapshot};

/// Under which snapshot a relation is copied, and how.
pub struct CopySpec {
    pub snapshot: Snapshot,
    /// L: where the source's WAL ended right after.
    pub at: Lsn,
    /// For `set transaction snapshot`.
    pub exported: String,
    pub columns: Vec<String>,
    pub format: CopyFormat,
    pub parts: u32,
    /// No more jobs may write at once.
    pub streams: u32,
}
