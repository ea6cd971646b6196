//! The receiver: reads the replication stream and spools it (I4, I5). It reconnects for ever at the spool's durable end, and sends
//! its status on a schedule of its own, whatever replay does.

mod connection;
mod history;
mod origin;
mod pending;
mod status;

use std::path::PathBuf;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::{connection::ReceiverConnection, status::StatusReporter};
use super::spool::{SpoolThread, SpoolWriter};
use crate::{error::Result, lsn::Lsn};

pub use self::{
    origin::Origin,
    status::{Delivered, ReceiverStatus},
};

/// Positions in the source's WAL when receiving begins.
#[derive(Clone, Copy, Debug)]
pub struct StartPositions {
    /// At which the slot became consistent.
    pub start: Lsn,
    /// The greatest one at which a table was copied.
    pub copied: Lsn,
}

/// The receiver at work.
pub struct Receiver {
    pub status: watch::Receiver<ReceiverStatus>,
    wanted: watch::Sender<Lsn>,
    applied: watch::Sender<Lsn>,
    copied: watch::Sender<Lsn>,
    /// Whether it ended in order; why not is in the status.
    result: oneshot::Receiver<bool>,
    cancel: CancellationToken,
    ended: CancellationToken,
}

impl Receiver {
    /// Opens the spool and starts receiving.
    pub async fn start(origin: Origin, spool_dir: PathBuf, positions: StartPositions, cancel: CancellationToken) -> Result<Self> {
        let StartPositions { start, copied } = positions;
        let dir = spool_dir.clone();
        let writer = tokio::task::spawn_blocking(move || SpoolWriter::open(&dir, start)).await.expect("opening the spool does not panic")?;
        let (wanted, wanted_receiver) = watch::channel(Lsn::ZERO);
        let (applied, applied_receiver) = watch::channel(Lsn::ZERO);
        let (copied, copied_receiver) = watch::channel(copied);
        let spool = SpoolThread::start(writer, spool_dir.clone(), applied_receiver);
        let (reporter, status) = StatusReporter::new(spool.status.clone());
        let cancel = cancel.child_token();
        let connection = ReceiverConnection {
            origin,
            wanted: wanted_receiver,
            copied: copied_receiver,
            status: reporter,
            spool,
            dir: spool_dir,
            cancel: cancel.clone(),
        };
        let ended = CancellationToken::new();
        let over = ended.clone().drop_guard();
        let (ending, result) = oneshot::channel();
        // A runtime of its own: in a shared one an idle worker would be woken for every message the walsender writes.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("receiver".into()).spawn(move || {
            let _over = over;
            let _ = ending.send(runtime.block_on(connection.run()).is_ok());
        })?;
        Ok(Self { status, wanted, applied, copied, result, cancel, ended })
    }

    /// A handle for waiting that does not borrow the receiver.
    pub fn waiter(&self) -> LsnWaiter {
        LsnWaiter { wanted: self.wanted.clone(), status: self.status.clone(), ended: self.ended.clone() }
    }

    /// Everything up to here is durable on the target: older segments may go.
    pub fn applied(&self, lsn: Lsn) {
        raise(&self.applied, lsn);
    }

    /// Must be sent the greatest WAL position at which a table was copied: a source that has gone back before it is refused (I5).
    pub fn copied(&self) -> watch::Sender<Lsn> {
        self.copied.clone()
    }

    pub fn has_ended(&self) -> bool {
        self.ended.is_cancelled()
    }

    /// Cancelled once the receiver has ended, for whatever reason.
    pub fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Ends the session in order: the slot is free when this returns.
    pub async fn stop(mut self) -> Result<()> {
        self.cancel.cancel();
        match (&mut self.result).await {
            Ok(true) => Ok(()),
            _ => Err(self.status.borrow().ended()),
        }
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Waits until the stream comes to a position.
pub struct LsnWaiter {
    wanted: watch::Sender<Lsn>,
    status: watch::Receiver<ReceiverStatus>,
    ended: CancellationToken,
}

impl LsnWaiter {
    /// Waits until everything committed before `lsn` is in the spool, durably. Works on an idle source, too.
    pub async fn spooled(&mut self, lsn: Lsn) -> Result<ReceiverStatus> {
        self.wait(lsn, |s| s.end.lsn >= lsn).await
    }

    /// Waits until everything committed before `lsn` was read, and counts in what the status calls touched. It does not wait for the disk.
    pub async fn read(&mut self, lsn: Lsn) -> Result<ReceiverStatus> {
        self.wait(lsn, |s| s.read >= lsn).await
    }

    async fn wait(&mut self, lsn: Lsn, is_there: impl FnMut(&ReceiverStatus) -> bool) -> Result<ReceiverStatus> {
        raise(&self.wanted, lsn);
        tokio::select! {
            Ok(status) = self.status.wait_for(is_there) => return Ok(status.clone()),
            () = self.ended.cancelled() => {}
        }
        Err(self.status.borrow().ended())
    }
}

/// Sets a position that never goes back.
fn raise(position: &watch::Sender<Lsn>, lsn: Lsn) {
    position.send_if_modified(|p| {
        let raise = *p < lsn;
        *p = lsn.max(*p);
        raise
    });
}
