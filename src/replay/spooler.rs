//! The thread that writes the spool: it compresses, writes and syncs in groups, off the receiver's way.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    receiver::Status,
    spool::{End, Writer},
};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// Blocks on their way to the thread.
const WRITE_QUEUE: usize = 4;

/// While blocks keep coming, they are synced this often.
const SYNC_EVERY: Duration = Duration::from_millis(50);

/// Work for the spool's thread.
pub enum Write {
    Block {
        records: Vec<u8>,
        boundary: Option<Lsn>,
    },
    /// Look at the disk, and delete what is applied.
    Trim,
    /// The connection broke: what lies behind the last boundary comes again.
    Rewind(oneshot::Sender<End>),
}

/// The thread that owns the spool's writing end: compresses, writes, syncs in groups.
pub struct Spooler {
    pub queue: mpsc::Sender<Write>,
    /// Set by the thread when it fails; sending fails from then on.
    failed: watch::Receiver<Option<String>>,
}

impl Spooler {
    pub fn start(mut writer: Writer, dir: PathBuf, status: watch::Sender<Status>, applied: watch::Receiver<Lsn>) -> Self {
        let (queue, mut blocks) = mpsc::channel::<Write>(WRITE_QUEUE);
        let (failure, failed) = watch::channel(None);
        std::thread::spawn(move || {
            let mut work = || -> Result<()> {
                let mut looked = Instant::now().checked_sub(Duration::from_secs(60));
                let mut free = u64::MAX;
                while let Some(first) = blocks.blocking_recv() {
                    let (mut next, begun) = (Some(first), Instant::now());
                    // One sync for all blocks that are waiting.
                    while let Some(write) = next {
                        match write {
                            Write::Block { records, boundary } => writer.write(&records, boundary)?,
                            Write::Trim => looked = None,
                            Write::Rewind(done) => {
                                let _ = done.send(writer.rewind()?);
                            }
                        }
                        next = if begun.elapsed() < SYNC_EVERY { blocks.try_recv().ok() } else { None };
                    }
                    let end = writer.sync()?;
                    writer.delete_below(*applied.borrow())?;
                    if looked.is_none_or(|t| t.elapsed() > Duration::from_secs(1)) {
                        free = disk_free(&dir);
                        looked = Some(Instant::now());
                    }
                    let bytes = writer.bytes();
                    status.send_modify(|s| (s.end, s.spool_bytes, s.disk_free) = (end, bytes, free));
                }
                Ok(())
            };
            if let Err(e) = work() {
                let _ = failure.send(Some(e.to_string()));
            }
        });
        Self { queue, failed }
    }

    pub fn error(&self) -> Error {
        let why = self.failed.borrow().clone().unwrap_or_else(|| "the spool's thread has ended".into());
        Error::failed(why).hint("free space on the disk of the work directory and start hyperlift again; the source keeps the WAL meanwhile")
    }
}

/// Free bytes of the file system of a directory; the greatest number when it cannot be told.
pub fn disk_free(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}
