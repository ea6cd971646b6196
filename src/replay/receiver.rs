//! The receiver: reads the replication stream and spools it (I4, I5). It reconnects for ever at the spool's durable end, and sends
//! its status on a schedule of its own, whatever replay does.

mod session;

use std::{collections::HashMap, path::PathBuf};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use self::session::Session;
use super::{
    spool::{End, Writer},
    spooler::{Spooler, disk_free},
};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
    pg::connect::conninfo::Conninfo,
};

/// What others want to know of the receiver. Absolute values.
#[derive(Clone, Debug, Default)]
pub struct Status {
    /// Up to here everything that was committed is in the spool, durably.
    pub end: End,
    /// Up to here everything that was committed was read, and counts in `writes`; it need not be in the spool yet.
    pub read: Lsn,
    /// The greatest WAL end the source has spoken of.
    pub heard: Lsn,
    /// All WAL before `quiet.0` holds nothing for us that is not in the spool once its end has reached `quiet.1`.
    pub quiet: (Lsn, Lsn),
    /// Bytes of decoded stream in this run.
    pub bytes: u64,
    pub spool_bytes: u64,
    /// Free bytes on the spool's disk.
    pub disk_free: u64,
    /// Relations whose rows were changed in this run, by OID, and the end of the last transaction that did.
    pub writes: HashMap<u32, Lsn>,
    /// Why the stream does not flow; `None`: it does.
    pub broken: Option<String>,
}

/// Where to read from, and as whom.
#[derive(Clone)]
pub struct Origin {
    pub source: Conninfo,
    pub application_name: String,
    pub slot: String,
    pub publications: Vec<String>,
    /// `system_identifier` of the source when the migration began.
    pub system_id: String,
}

/// Places in the source's WAL when receiving begins.
#[derive(Clone, Copy, Debug)]
pub struct Places {
    /// At which the slot became consistent.
    pub start: Lsn,
    /// Up to which the slot was told that we have everything.
    pub confirmed: Lsn,
    /// The greatest L: nothing is copied from behind it.
    pub copied: Lsn,
}

impl Status {
    /// End of the last transaction that changed rows; zero before there was one.
    pub fn last_write(&self) -> Lsn {
        self.writes.values().max().copied().unwrap_or_default()
    }

    /// Relations whose rows were changed by transactions that ended after `lsn`, in the order of their last ones.
    pub fn written_after(&self, lsn: Lsn) -> Vec<(u32, Lsn)> {
        let mut found: Vec<_> = self.writes.iter().filter(|(_, at)| **at > lsn).map(|(oid, at)| (*oid, *at)).collect();
        found.sort_by_key(|(oid, at)| (*at, *oid));
        found
    }
}

pub struct Receiver {
    pub status: watch::Receiver<Status>,
    wanted: watch::Sender<Lsn>,
    applied: watch::Sender<Lsn>,
    copied: watch::Sender<Lsn>,
    result: oneshot::Receiver<Result<()>>,
    cancel: CancellationToken,
    ended: CancellationToken,
}

impl Receiver {
    /// Opens the spool and starts receiving.
    pub async fn start(origin: Origin, spool_dir: PathBuf, places: Places, cancel: CancellationToken) -> Result<Self> {
        let Places { start, confirmed, copied } = places;
        let dir = spool_dir.clone();
        let writer = tokio::task::spawn_blocking(move || Writer::open(&dir, start)).await.expect("opening the spool does not panic")?;
        let end = writer.end();
        if confirmed > end.lsn {
            return Err(Error::refused(format!(
                "the spool in {} ends at {}, but the slot was confirmed up to {confirmed}",
                spool_dir.display(),
                end.lsn
            ))
            .detail("transactions in between are lost to this migration")
            .hint("restore the work directory, or run `hyperlift clean` and start again"));
        }
        let first = Status { end, heard: end.lsn, spool_bytes: writer.bytes(), disk_free: disk_free(&spool_dir), ..Status::default() };
        let (status_sender, status) = watch::channel(first);
        let (wanted, wanted_receiver) = watch::channel(Lsn::ZERO);
        let (applied, applied_receiver) = watch::channel(Lsn::ZERO);
        let (copied, copied_receiver) = watch::channel(copied);
        let cancel = cancel.child_token();
        let spooler = Spooler::start(writer, spool_dir.clone(), status_sender.clone(), applied_receiver);
        let (dir, ending) = (spool_dir, cancel.clone());
        let session = Session { origin, wanted: wanted_receiver, copied: copied_receiver, status: status_sender, spooler, dir, cancel: ending };
        let ended = CancellationToken::new();
        let over = ended.clone().drop_guard();
        let (ending, result) = oneshot::channel();
        // A runtime of its own: in a shared one an idle worker would be woken for every message the walsender writes.
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        std::thread::Builder::new().name("receiver".into()).spawn(move || {
            let _over = over;
            let _ = ending.send(runtime.block_on(session.run()));
        })?;
        Ok(Self { status, wanted, applied, copied, result, cancel, ended })
    }

    /// A handle for waiting that does not borrow the receiver.
    pub fn reacher(&self) -> Reacher {
        Reacher { wanted: self.wanted.clone(), status: self.status.clone(), ended: self.ended.clone() }
    }

    /// Everything up to here is durable on the target: older segments may go.
    pub fn applied(&self, lsn: Lsn) {
        self.applied.send_if_modified(|a| {
            let raise = *a < lsn;
            *a = lsn.max(*a);
            raise
        });
    }

    /// Is to be told of each L: a source that has gone back behind one is refused (I5).
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
        (&mut self.result).await.unwrap_or_else(|_| Err(Error::failed("the receiver died").hint("see the log for the reason")))
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.cancel.cancel();
    }
}

/// Waits for places of the stream.
pub struct Reacher {
    wanted: watch::Sender<Lsn>,
    status: watch::Receiver<Status>,
    ended: CancellationToken,
}

impl Reacher {
    /// Waits until everything committed before `lsn` is in the spool, durably. Works on an idle source, too.
    pub async fn reach(&mut self, lsn: Lsn) -> Result<Status> {
        self.wait(lsn, |s| s.end.lsn >= lsn).await
    }

    /// Waits until everything committed before `lsn` was read, and counts in the status' writes. It does not wait for the disk.
    pub async fn read(&mut self, lsn: Lsn) -> Result<Status> {
        self.wait(lsn, |s| s.read >= lsn).await
    }

    async fn wait(&mut self, lsn: Lsn, is_there: impl FnMut(&Status) -> bool) -> Result<Status> {
        self.wanted.send_if_modified(|w| {
            let raise = *w < lsn;
            *w = lsn.max(*w);
            raise
        });
        tokio::select! {
            Ok(status) = self.status.wait_for(is_there) => Ok(status.clone()),
            () = self.ended.cancelled() => Err(Error::failed("the receiver has ended").hint("see the log for the reason")),
        }
    }
}
