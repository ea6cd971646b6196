//! The thread that writes the spool: it compresses, writes and syncs in groups, so that the receiver need not wait for the disk.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    received::{ReceivedFile, Transaction},
    segment::SpoolEnd,
    writer::SpoolWriter,
};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// Blocks on their way to the thread.
const WRITE_QUEUE: usize = 4;
/// While blocks keep coming, they are synced this often.
const SYNC_EVERY: Duration = Duration::from_millis(50);
/// The free space of the disk is read this often.
const DISK_FREE_EVERY: Duration = Duration::from_secs(1);

/// What the thread is asked to do.
pub enum SpoolRequest {
    Block {
        records: Vec<u8>,
        boundary: Option<Lsn>,
        /// The last transaction up to that boundary that this connection has brought.
        last: Option<Transaction>,
    },
    /// Read the free space of the disk, and delete what is applied.
    Trim,
    /// The connection broke: what lies after the last boundary comes again. The answer is that boundary.
    Rewind(oneshot::Sender<SpoolEnd>),
}

/// What the thread reports about the spool. Absolute values.
#[derive(Clone, Debug, Default)]
pub struct SpoolStatus {
    /// Up to here everything that was committed is in the spool, durably.
    pub end: SpoolEnd,
    pub bytes: u64,
    /// Free bytes on the spool's disk.
    pub disk_free: u64,
    /// Why the thread has ended, when it failed: sending to it fails from then on.
    pub failed: Option<String>,
}

/// The thread that owns the spool's writing end.
pub struct SpoolThread {
    pub requests: mpsc::Sender<SpoolRequest>,
    pub status: watch::Receiver<SpoolStatus>,
}

impl SpoolThread {
    /// `applied`: everything up to there is durable on the target, so segments that end before it are deleted.
    pub fn start(writer: SpoolWriter, dir: PathBuf, applied: watch::Receiver<Lsn>) -> Self {
        let (sender, requests) = mpsc::channel(WRITE_QUEUE);
        let first = SpoolStatus { end: writer.end(), bytes: writer.bytes(), disk_free: disk_free(&dir), failed: None };
        let (reports, status) = watch::channel(first);
        std::thread::spawn(move || {
            if let Err(e) = write(writer, &dir, requests, &reports, &applied) {
                reports.send_modify(|s| s.failed = Some(e.to_string()));
            }
        });
        Self { requests: sender, status }
    }

    /// Up to here everything that was committed is in the spool, durably.
    pub fn end(&self) -> SpoolEnd {
        self.status.borrow().end
    }

    /// Why nothing can be sent to the thread any more.
    pub fn error(&self) -> Error {
        let why = self.status.borrow().failed.clone().unwrap_or_else(|| "the spool's thread has ended".into());
        Error::failed(why).hint("free space on the disk of the work directory and start hyperlift again; the source keeps the WAL meanwhile")
    }
}

/// Works until nobody can send requests any more.
fn write(
    mut writer: SpoolWriter,
    dir: &Path,
    mut requests: mpsc::Receiver<SpoolRequest>,
    reports: &watch::Sender<SpoolStatus>,
    applied: &watch::Receiver<Lsn>,
) -> Result<()> {
    let mut received = ReceivedFile::open(dir, writer.end());
    let mut free_read: Option<Instant> = None;
    let mut free = u64::MAX;
    while let Some(first) = requests.blocking_recv() {
        let (mut next, begun) = (Some(first), Instant::now());
        // One sync for all blocks that are waiting.
        while let Some(request) = next {
            match request {
                SpoolRequest::Block { records, boundary, last } => {
                    writer.write(&records, boundary)?;
                    if let Some(boundary) = boundary {
                        received.reach(boundary, last);
                    }
                }
                SpoolRequest::Trim => free_read = None,
                SpoolRequest::Rewind(done) => {
                    let end = writer.rewind()?;
                    received.write();
                    // Before the answer, so that whoever gets it never sees an older end in the status.
                    reports.send_modify(|s| s.end = end);
                    let _ = done.send(end);
                }
            }
            next = if begun.elapsed() < SYNC_EVERY { requests.try_recv().ok() } else { None };
        }
        let end = writer.sync()?;
        received.write();
        writer.delete_below(*applied.borrow())?;
        if free_read.is_none_or(|t| t.elapsed() > DISK_FREE_EVERY) {
            free = disk_free(dir);
            free_read = Some(Instant::now());
        }
        reports.send_replace(SpoolStatus { end, bytes: writer.bytes(), disk_free: free, failed: None });
    }
    Ok(())
}

/// Free bytes of the file system of a directory; the greatest number when the system does not say.
pub fn disk_free(dir: &Path) -> u64 {
    rustix::fs::statvfs(dir).map_or(u64::MAX, |fs| fs.f_bavail.saturating_mul(fs.f_frsize))
}
