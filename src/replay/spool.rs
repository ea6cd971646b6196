//! The spool: the log of decoded transactions on the migration machine.
//!
//! Numbered segments, which are only appended to. A segment is a head and blocks, numbers little-endian:
//!
//! ```text
//! head   magic 8 bytes | start LSN u64 | bytes of the segment before u64 | CRC-32 of this u32
//! block  compressed length u32 | raw length u32 | CRC-32 of the payload u32 | flags u32 | boundary LSN u64 | CRC-32 of this u32
//!        payload: records, compressed with zstd
//! record length u32 | a pgoutput message, or a watermark: `w` and an LSN, big-endian as there
//! ```
//!
//! A block with a boundary LSN ends at one: the end of a commit, or a watermark. Boundaries ascend over the whole spool, and only they
//! are durable ends: what lies behind the last one after a crash is cut. A block without a boundary is a part of the transaction that
//! the next boundary ends. Flag 1 says that relation messages are among the records.
//!
//! So heads and headers are an index. Everything up to a head's start lies in the segments before; these were cut and synced before
//! the next was begun, whose head vouches for their length. A segment begins with the relation messages that are in force: reading
//! may start at any of them, and a reader on its way to its position passes blocks without reading them.

mod block;
mod reader;
mod writer;
mod writes;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};

pub use block::{WATERMARK, put_record, put_watermark, records};
pub use reader::Reader;
pub use writer::Writer;
pub use writes::{Writes, lsn_at, malformed, writes_after};

use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// A place in the spool that is durable and lies at a boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct End {
    pub segment: u64,
    /// Bytes of that segment.
    pub offset: u64,
    /// All transactions that ended up to here are in the spool.
    pub lsn: Lsn,
}

fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:010}.seg"))
}

/// The numbers of the segments in a directory, ascending. The first one ever has number 1.
fn segments(dir: &Path) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).map_err(io(dir))? {
        let name = entry.map_err(io(dir))?.file_name();
        if let Some(n) = name.to_str().and_then(|n| n.strip_suffix(".seg")).and_then(|n| n.parse().ok()) {
            numbers.push(n);
        }
    }
    numbers.sort_unstable();
    Ok(numbers)
}

fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| {
        let hint = match e.kind() {
            std::io::ErrorKind::StorageFull => "free space on the disk of the work directory; the source keeps the WAL meanwhile",
            _ => "check the disk of the work directory",
        };
        Error::failed(format!("spool {}: {e}", path.display())).hint(hint)
    }
}

fn damaged(path: &Path, offset: u64) -> Error {
    Error::failed(format!("spool {} is damaged at byte {offset}", path.display()))
        .hint("what it held was already confirmed to the source, so this migration cannot be completed: run `hyperlift clean` and start again")
}
