//! What the receiver reports. It alone writes the status; what the spool's thread reports about the disk is copied into it here.

use std::{collections::HashMap, sync::Arc};
use tokio::sync::watch;

use crate::{
    error::Error,
    lsn::Lsn,
    replay::spool::{SpoolEnd, SpoolStatus},
};

/// What others want to know of the receiver. Absolute values.
#[derive(Clone, Debug, Default)]
pub struct ReceiverStatus {
    /// Up to here everything that was committed is in the spool, durably.
    pub end: SpoolEnd,
    /// Up to here everything that was committed was read, and counts in `touched`; it need not be in the spool yet.
    pub read: Lsn,
    /// The greatest WAL end the source has named.
    pub heard: Lsn,
    pub delivered: Delivered,
    /// Bytes of decoded stream in this run.
    pub bytes: u64,
    pub spool_bytes: u64,
    /// Free bytes on the spool's disk.
    pub disk_free: u64,
    /// Relations whose rows were changed in this run, by OID, and the end of the last transaction that did.
    pub touched: HashMap<u32, Lsn>,
    /// Why the stream does not flow; `None`: it does.
    pub broken: Option<String>,
    /// Why the receiver has ended.
    pub failure: Option<Arc<Error>>,
}

/// WAL from which nothing more can come, by a keepalive of the source.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delivered {
    /// What was committed before this position and concerns us is in the spool,
    pub wal: Lsn,
    /// once the end of the spool has reached this one.
    pub spool_end: Lsn,
}

impl ReceiverStatus {
    /// The status of a receiver that has not received anything yet.
    pub fn new(spool: &SpoolStatus) -> Self {
        Self { end: spool.end, heard: spool.end.lsn, spool_bytes: spool.bytes, disk_free: spool.disk_free, ..Self::default() }
    }

    /// The error with which whoever needs the stream ends, once the receiver has ended.
    pub fn ended(&self) -> Error {
        let Some(why) = &self.failure else { return Error::failed("the receiver has ended").hint("see the log for the reason") };
        let hint = why.hint.clone().unwrap_or_else(|| "fix the cause and start hyperlift again: it continues".into());
        let (detail, sqlstate) = (why.detail.clone(), why.sqlstate.clone());
        Error { detail, sqlstate, ..Error::new(why.kind, format!("receiving has ended: {}", why.message)) }.hint(hint)
    }

    /// End of the last transaction that changed rows; zero before there was one.
    pub fn last_write(&self) -> Lsn {
        self.touched.values().max().copied().unwrap_or_default()
    }

    /// Relations whose rows were changed by transactions that ended after `lsn`, in the order of their last ones.
    pub fn written_after(&self, lsn: Lsn) -> Vec<(u32, Lsn)> {
        let mut found: Vec<_> = self.touched.iter().filter(|(_, at)| **at > lsn).map(|(oid, at)| (*oid, *at)).collect();
        found.sort_by_key(|(oid, at)| (*at, *oid));
        found
    }
}

/// The writing end of the status.
pub struct StatusReporter {
    status: watch::Sender<ReceiverStatus>,
    spool: watch::Receiver<SpoolStatus>,
}

impl StatusReporter {
    pub fn new(spool: watch::Receiver<SpoolStatus>) -> (Self, watch::Receiver<ReceiverStatus>) {
        let (status, reader) = watch::channel(ReceiverStatus::new(&spool.borrow()));
        (Self { status, spool }, reader)
    }

    /// Changes the status. Readers are woken when `change` returns true, and when the spool has changed.
    pub fn report(&mut self, change: impl FnOnce(&mut ReceiverStatus) -> bool) {
        let (end, bytes, free) = {
            let spool = self.spool.borrow_and_update();
            (spool.end, spool.bytes, spool.disk_free)
        };
        self.status.send_if_modified(|s| {
            let spool_changed = (s.end, s.spool_bytes, s.disk_free) != (end, bytes, free);
            (s.end, s.spool_bytes, s.disk_free) = (end, bytes, free);
            change(s) || spool_changed
        });
    }

    pub fn set_broken(&mut self, broken: Option<String>) {
        self.report(|s| {
            s.broken = broken;
            true
        });
    }

    pub fn set_failure(&mut self, error: Arc<Error>) {
        self.report(|s| {
            s.failure = Some(error);
            true
        });
    }

    /// Ends when the spool's thread has reported something; never once that thread has ended.
    pub async fn spool_changed(&mut self) {
        if self.spool.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Runs a future, and passes on what the spool's thread reports meanwhile.
    pub async fn during<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return done,
                () = self.spool_changed() => self.report(|_| false),
            }
        }
    }
}
