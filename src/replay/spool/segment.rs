//! The files of a spool: their names, and the errors that name them.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// A place in the spool that is durable and lies at a boundary.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SpoolEnd {
    pub segment: u64,
    /// Bytes of that segment.
    pub offset: u64,
    /// All transactions that ended up to here are in the spool.
    pub lsn: Lsn,
}

pub fn segment_path(dir: &Path, segment: u64) -> PathBuf {
    dir.join(format!("{segment:010}.seg"))
}

/// The numbers of the segments in a directory, ascending. The first one ever has number 1.
pub fn segments(dir: &Path) -> Result<Vec<u64>> {
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

pub fn io(path: &Path) -> impl Fn(std::io::Error) -> Error {
    move |e| {
        let hint = match e.kind() {
            std::io::ErrorKind::StorageFull => "free space on the disk of the work directory; the source keeps the WAL meanwhile",
            _ => "check the disk of the work directory",
        };
        Error::failed(format!("spool {}: {e}", path.display())).hint(hint)
    }
}

pub fn damaged(path: &Path, offset: u64) -> Error {
    Error::failed(format!("spool {} is damaged at byte {offset}", path.display()))
        .hint("what it held was already confirmed to the source, so this migration cannot be completed: run `hyperlift clean` and start again")
}
