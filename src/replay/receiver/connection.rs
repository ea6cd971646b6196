//! The stream itself: one replication connection after the other. What is read is collected into blocks for the spool.

use futures_util::FutureExt;
use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{
    history::HistoryCheck,
    origin::Origin,
    pending::{LastMessage, PendingBlock},
    status::{Delivered, StatusReporter},
};
use crate::{
    error::{Error, Kind, Result},
    lsn::Lsn,
    pg::wire::{ReplicationMessage, Wire},
    replay::spool::{SpoolRequest, SpoolThread},
    sqlstate,
};

/// After an internal error of the source's decoding the stream is opened again, unless it fails this often in a row.
const INTERNAL_ERRORS: u32 = 5;
/// Before the next attempt to connect: first, and at most.
const RETRY_DELAY: Duration = Duration::from_millis(250);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(10);
/// A walsender writes every message by itself, and waking up for each of them costs both sides more than the message does. So
/// after a message the receiver sleeps this long and then reads all that has come.
const DWELL: Duration = Duration::from_micros(100);
/// An idle stream gets a watermark this often.
const WATERMARK_EVERY: Duration = Duration::from_secs(10);
/// Status goes out at least this often; `wal_sender_timeout` is 60 s by default.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Status goes out this often while the end of the spool moves.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);
/// Status goes out this often while the spool's thread cannot take another block.
const STATUS_WHILE_BLOCKED: Duration = Duration::from_secs(2);
/// While somebody waits for a position of the stream, the source is asked this often how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Nothing heard for this long: the connection is dead. A walsender that reads a large transaction that is not for us answers only
/// after half of its timeout; dead peers are found by TCP keepalives much sooner.
const SILENCE: Duration = Duration::from_secs(330);
/// The spool stops growing when less than this is free on its disk, bytes.
const DISK_RESERVE: u64 = 512 << 20;

/// The receiver's connections, one after the other.
pub struct ReceiverConnection {
    pub origin: Origin,
    /// The greatest position that somebody waits for.
    pub wanted: watch::Receiver<Lsn>,
    /// The greatest WAL position at which a table was copied.
    pub copied: watch::Receiver<Lsn>,
    pub status: StatusReporter,
    pub spool: SpoolThread,
    /// The spool's directory.
    pub dir: PathBuf,
    pub cancel: CancellationToken,
}

/// What one connection has seen of the stream.
struct Stream {
    pending: PendingBlock,
    /// The greatest WAL end the source has named.
    heard: Lsn,
    /// Position of the last keepalive: everything that was committed before it has come.
    complete: Lsn,
    /// Position of a keepalive that is not reported yet.
    keepalive: Option<Lsn>,
    /// The source wants a status now.
    reply_requested: bool,
    last_heard: Instant,
    last_status: Instant,
    last_watermark: Instant,
    /// The end of the spool that the last status confirmed.
    confirmed: Lsn,
}

impl Stream {
    fn new(end: Lsn, history: HistoryCheck) -> Self {
        let now = Instant::now();
        Self {
            pending: PendingBlock::new(end, history),
            heard: end,
            complete: Lsn::ZERO,
            keepalive: None,
            reply_requested: false,
            last_heard: now,
            last_status: now,
            last_watermark: now,
            confirmed: Lsn::ZERO,
        }
    }

    /// Takes all that has come, up to a full block; whether there was anything.
    fn read_available(&mut self, wire: &mut Wire) -> Result<bool> {
        let mut busy = false;
        loop {
            while !self.pending.is_full()
                && let Some(message) = wire.try_replication_message()?
            {
                busy = true;
                match message {
                    ReplicationMessage::XLogData { end, data, .. } => {
                        self.heard = self.heard.max(end);
                        self.pending.take(&data)?;
                    }
                    ReplicationMessage::KeepAlive { end, reply } => {
                        self.heard = self.heard.max(end);
                        self.reply_requested |= reply;
                        self.keepalive = Some(end);
                        self.complete = end;
                        self.pending.history.reach(end)?;
                    }
                }
            }
            if self.pending.is_full() {
                break;
            }
            match wire.fill().now_or_never() {
                Some(filled) => filled?,
                None => break,
            }
        }
        if busy {
            self.last_heard = Instant::now();
        }
        Ok(busy)
    }

    /// Puts a watermark where the stream is between transactions: every few seconds, and when somebody waits for a position that a
    /// keepalive has reached, also when the waiting began after that keepalive.
    fn put_watermark(&mut self, wanted: Lsn) {
        let due = self.last_watermark.elapsed() >= WATERMARK_EVERY || (wanted > self.pending.end && self.complete >= wanted);
        if due && !self.pending.in_transaction && self.complete > self.pending.end {
            self.pending.take_watermark(self.complete);
            self.last_watermark = Instant::now();
        }
    }
}

impl ReceiverConnection {
    /// Until the receiver is stopped, or an error that another connection does not help against.
    pub async fn run(mut self) -> Result<(), Arc<Error>> {
        let ended = self.connections().await.map_err(Arc::new);
        if let Err(error) = &ended {
            tracing::error!(%error, hint = error.hint, "receiving has ended");
            self.status.set_failure(error.clone());
        }
        ended
    }

    async fn connections(&mut self) -> Result<()> {
        let mut delay = RETRY_DELAY;
        let mut internal_errors = 0;
        loop {
            let started = Instant::now();
            let result = self.connection().await;
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            let Err(error) = result else { continue };
            // Decoding at the same time as a TRUNCATE right at the slot's start was seen to fail once, "could not map filenode". The slot
            // has not moved, so reading it again is safe.
            internal_errors = if error.has_code(sqlstate::INTERNAL_ERROR) { internal_errors + 1 } else { 0 };
            if !may_reconnect(&error) && !(1..=INTERNAL_ERRORS).contains(&internal_errors) {
                return Err(self.status.during(self.origin.explain(error)).await);
            }
            self.status.set_broken(Some(error.to_string()));
            tracing::warn!(%error, "the replication stream broke");
            if started.elapsed() > Duration::from_secs(30) {
                delay = RETRY_DELAY;
            }
            tokio::select! {
                () = self.status.during(tokio::time::sleep(delay)) => {}
                () = self.cancel.cancelled() => return Ok(()),
            }
            delay = (delay * 2).min(MAX_RETRY_DELAY);
        }
    }

    /// One connection, from START_REPLICATION until it breaks or the receiver is stopped.
    async fn connection(&mut self) -> Result<()> {
        let (done, rewound) = oneshot::channel();
        self.spool.requests.send(SpoolRequest::Rewind(done)).await.map_err(|_| self.spool.error())?;
        let end = self.status.during(rewound).await.map_err(|_| self.spool.error())?;
        let copied = *self.copied.borrow();
        let (mut wire, history) = self.status.during(self.origin.open_stream(&self.dir, end.lsn, copied)).await?;
        self.status.set_broken(None);
        let mut stream = Stream::new(end.lsn, history);
        let result = self.stream(&mut stream, &mut wire).await;
        if self.cancel.is_cancelled() {
            let flushed = self.confirmable(&stream);
            let goodbye = async {
                wire.send_status(flushed, flushed, flushed, false).await?;
                wire.end_replication().await
            };
            let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
        }
        result
    }

    /// What may be confirmed to the slot.
    fn confirmable(&self, s: &Stream) -> Lsn {
        if s.pending.history.is_over() { self.spool.end().lsn } else { Lsn::ZERO }
    }

    async fn stream(&mut self, s: &mut Stream, wire: &mut Wire) -> Result<()> {
        let mut status_tick = tokio::time::interval(ASK_EVERY);
        status_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let cancel = self.cancel.clone();
        loop {
            let busy = s.read_available(wire).map_err(|e| if is_too_large(&e) { too_large(&e, &s.pending.last) } else { e })?;
            let asked = self.wanted.has_changed().unwrap_or(false);
            let wanted = *self.wanted.borrow_and_update();
            s.put_watermark(wanted);
            self.report(s, wanted, asked);
            let full = s.pending.is_full();
            if full || s.pending.due_in().is_some_and(|due| due.is_zero() || s.pending.is_awaited(wanted)) {
                self.hand_over(s, wire).await?;
            }
            self.send_status(s, wire, wanted, asked).await?;
            if s.last_heard.elapsed() > SILENCE {
                return Err(Error::connection(format!("the source was silent for {} s", SILENCE.as_secs())));
            }
            if full {
                continue;
            }
            if busy {
                std::thread::sleep(DWELL);
            }
            let due = s.pending.due_in();
            tokio::select! {
                filled = wire.fill() => { filled?; s.last_heard = Instant::now(); }
                _ = status_tick.tick() => {}
                Ok(()) = self.wanted.changed() => {}
                () = self.status.spool_changed() => {}
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
                () = cancel.cancelled() => return Ok(()),
            }
        }
    }

    /// Reports what was read, before it is durable.
    fn report(&mut self, s: &mut Stream, wanted: Lsn, asked: bool) {
        let keepalive = s.keepalive.take().filter(|_| !s.pending.in_transaction);
        let (heard, pending) = (s.heard, &mut s.pending);
        self.status.report(|status| {
            status.heard = heard.max(status.heard);
            if let Some(wal) = keepalive {
                status.delivered = Delivered { wal, spool_end: pending.end };
            }
            status.bytes += std::mem::take(&mut pending.bytes);
            status.touched.extend(pending.touched.found.drain());
            // Whoever waits wants the end of the spool, which wakes him by itself, or something to be read.
            let news = asked || (status.read < wanted && wanted <= pending.end);
            status.read = status.read.max(pending.end);
            news
        });
    }

    /// Sends our status to the source: when it is due, when the source wants it, and with a question when somebody waits.
    async fn send_status(&mut self, s: &mut Stream, wire: &mut Wire, wanted: Lsn, asked: bool) -> Result<()> {
        let flushed = self.confirmable(s);
        let since = s.last_status.elapsed();
        let ask = wanted > s.pending.end && (asked || since >= ASK_EVERY);
        let reply = std::mem::take(&mut s.reply_requested);
        if reply || ask || since >= STATUS_EVERY || (flushed > s.confirmed && since >= CONFIRM_EVERY) {
            wire.send_status(s.heard.max(flushed), flushed, flushed, ask || s.last_heard.elapsed() > STATUS_EVERY * 2).await?;
            (s.confirmed, s.last_status) = (flushed, Instant::now());
        }
        Ok(())
    }

    /// Hands what is pending to the spool's thread. While the disk runs low it waits, so that the WAL stays on the source.
    async fn hand_over(&mut self, s: &mut Stream, wire: &mut Wire) -> Result<()> {
        let mut block = Some(s.pending.take_block());
        let mut was_low = false;
        let mut status_tick = tokio::time::interval_at(tokio::time::Instant::now() + STATUS_WHILE_BLOCKED, STATUS_WHILE_BLOCKED);
        loop {
            let low = self.spool.status.borrow().disk_free < DISK_RESERVE;
            if low != was_low {
                was_low = low;
                self.status.set_broken(low.then(|| "the disk of the work directory is nearly full: receiving waits".into()));
            }
            tokio::select! {
                biased;
                permit = self.spool.requests.reserve(), if !low => {
                    permit.map_err(|_| self.spool.error())?.send(block.take().expect("it is sent once"));
                    return Ok(());
                }
                _ = status_tick.tick() => {
                    let flushed = self.confirmable(s);
                    wire.send_status(s.heard.max(flushed), flushed, flushed, false).await?;
                    if low && let Err(mpsc::error::TrySendError::Closed(_)) = self.spool.requests.try_send(SpoolRequest::Trim) {
                        return Err(self.spool.error());
                    }
                }
                () = self.status.spool_changed() => self.status.report(|_| false),
                // The block is lost with this connection; the stream is not: nothing that comes after it may follow.
                () = self.cancel.cancelled() => return Err(Error::stopped()),
            }
        }
    }
}

/// Whether the source has failed because it may not allocate more than 1 GB, for a value or for a row: it fails in the same way each time.
fn is_too_large(e: &Error) -> bool {
    e.has_code(sqlstate::PROGRAM_LIMIT_EXCEEDED)
        || (e.has_code(sqlstate::INTERNAL_ERROR) && e.message.starts_with("invalid memory alloc request size"))
}

fn too_large(e: &Error, last: &LastMessage) -> Error {
    let table = last.relation.as_ref().map_or_else(|| "a table".into(), ToString::to_string);
    let at = last.commit.map_or_else(String::new, |lsn| format!(", in the transaction that commits at {lsn}"));
    Error::refused(format!("the source cannot send a row of {table}{at}: its text needs more than the 1 GB that a server may allocate"))
        .detail(e.to_string())
        .hint(
            "a bytea value is twice as long in text, so 512 MB is its limit. Run `hyperlift clean`, empty the target and start again: \
             the copy moves such a row where it is binary; do not write another one, or change its large value, before the cutover",
        )
}

/// Whether a broken stream may be opened again: after everything but what an operator has to settle.
fn may_reconnect(e: &Error) -> bool {
    match (&e.sqlstate, e.kind) {
        // 55006: the slot is still active for a session that has not noticed its end.
        (Some(code), _) => e.is_transient() || code == sqlstate::OBJECT_IN_USE,
        (None, kind) => kind == Kind::Connection,
    }
}
