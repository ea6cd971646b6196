//! The stream itself: one connection after the other, what is read from it collected into blocks for the spool.

use futures_util::FutureExt;
use std::{
    path::PathBuf,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Origin, Status};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
    name::ident,
    pg::wire::{ReplicationMessage, Wire},
    replay::{
        spool::{End, Writes, lsn_at, malformed, put_record, put_watermark},
        spooler::{Spooler, Write},
    },
    sqlstate,
};

/// A block is written when this much is collected, uncompressed bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// An internal error of the source's decoding is met with another try this often in a row.
const INTERNAL_ERRORS: u32 = 5;
/// A finished transaction waits this long for others to share its block and its fsync.
const GROUP: Duration = Duration::from_millis(20);
/// What comes in this time is read at once: a walsender writes every message by itself, and waking up for each of them costs both
/// sides more than the message does.
const DWELL: Duration = Duration::from_micros(100);
/// An idle stream gets a watermark this often.
const WATERMARK_EVERY: Duration = Duration::from_secs(10);
/// Status goes out at least this often; `wal_sender_timeout` is 60 s by default.
const STATUS_EVERY: Duration = Duration::from_secs(5);
/// Where somebody waits for the stream to come to a place, the source is asked this often how far it is.
const ASK_EVERY: Duration = Duration::from_millis(200);
/// Nothing heard for this long: the connection is dead. A walsender that reads a large transaction that is not for us answers only
/// after half of its timeout; dead peers are found by TCP keepalives much sooner.
const SILENCE: Duration = Duration::from_secs(330);
/// The spool stops growing when less than this is free on its disk, bytes.
const DISK_RESERVE: u64 = 512 << 20;

pub(super) struct Session {
    pub(super) origin: Origin,
    pub(super) wanted: watch::Receiver<Lsn>,
    /// The greatest L.
    pub(super) copied: watch::Receiver<Lsn>,
    pub(super) status: watch::Sender<Status>,
    pub(super) spooler: Spooler,
    /// The spool's directory.
    pub(super) dir: PathBuf,
    pub(super) cancel: CancellationToken,
}

/// What has been read from the stream and not yet handed to the spool.
#[derive(Default)]
struct Collected {
    records: Vec<u8>,
    /// Length of `records` up to the last boundary in it, and its LSN.
    boundary: Option<(usize, Lsn)>,
    in_transaction: bool,
    /// The transaction was spooled before the last reconnect.
    skip: bool,
    /// Rows changed by what was not yet told of in the status.
    writes: Writes,
    /// Bytes of stream that were not yet told of.
    bytes: u64,
    /// End of the last whole transaction or watermark that was collected.
    end: Lsn,
    /// The last boundary that was handed over.
    handed: Lsn,
    /// When the oldest boundary that waits was collected.
    since: Option<Instant>,
}

impl Collected {
    fn is_full(&self) -> bool {
        self.records.len() >= BLOCK_BYTES
    }

    /// Takes one pgoutput message.
    fn take(&mut self, message: &[u8]) -> Result<()> {
        let tag = *message.first().ok_or_else(malformed)?;
        self.bytes += message.len() as u64;
        if tag == b'B' {
            self.in_transaction = true;
            // The commit LSN decides, never the LSN of BEGIN (I5).
            self.skip = lsn_at(message, 1)? < self.end;
        }
        if self.skip {
            if tag == b'R' {
                put_record(&mut self.records, message);
            }
            if tag == b'C' {
                (self.in_transaction, self.skip) = (false, false);
            }
            return Ok(());
        }
        put_record(&mut self.records, message);
        if let Some(end) = self.writes.take(message)? {
            self.in_transaction = false;
            self.reach(end);
        }
        Ok(())
    }

    /// What is collected ends at a boundary.
    fn reach(&mut self, end: Lsn) {
        self.end = end;
        self.boundary = Some((self.records.len(), end));
        self.since.get_or_insert_with(Instant::now);
    }
}

impl Session {
    pub(super) async fn run(mut self) -> Result<()> {
        let mut delay = Duration::from_millis(250);
        let mut internal_errors = 0;
        loop {
            let started = Instant::now();
            let result = self.connection().await;
            if self.cancel.is_cancelled() {
                return Ok(());
            }
            let Err(error) = result else { continue };
            // Decoding beside a TRUNCATE right at the slot's start was seen to fail once, "could not map filenode"; the slot stands where
            // it stood, so reading it again is safe.
            internal_errors = if error.has_code("XX000") { internal_errors + 1 } else { 0 };
            if !may_reconnect(&error) && !(1..=INTERNAL_ERRORS).contains(&internal_errors) {
                self.status.send_modify(|s| s.broken = Some(error.to_string()));
                return Err(error);
            }
            tracing::warn!(%error, "the replication stream broke");
            self.status.send_modify(|s| s.broken = Some(error.to_string()));
            if started.elapsed() > Duration::from_secs(30) {
                delay = Duration::from_millis(250);
            }
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = self.cancel.cancelled() => return Ok(()),
            }
            delay = (delay * 2).min(Duration::from_secs(10));
        }
    }

    /// One connection, from START_REPLICATION until it breaks or the receiver is stopped.
    async fn connection(&mut self) -> Result<()> {
        let (done, rewound) = tokio::sync::oneshot::channel();
        self.spooler.queue.send(Write::Rewind(done)).await.map_err(|_| self.spooler.error())?;
        let end = rewound.await.map_err(|_| self.spooler.error())?;
        self.status.send_modify(|s| s.end = end);

        let origin = self.origin.clone();
        let mut wire = Wire::open_replication(&origin.source, &origin.application_name).await?;
        let copied = *self.copied.borrow();
        self.identify(&mut wire, end.lsn.max(copied)).await?;
        // A huge transaction may keep the walsender from reading our status for longer than its default of a minute.
        wire.simple("set wal_sender_timeout = '5min'").await?;
        let publications = origin.publications.iter().map(|p| ident(p)).collect::<Vec<_>>().join(",");
        wire.start_replication(&format!(
            "START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})",
            ident(&origin.slot),
            end.lsn,
            crate::name::literal(&publications).trim_start()
        ))
        .await?;
        self.status.send_modify(|s| s.broken = None);
        let result = self.stream(&mut wire, end).await;
        if self.cancel.is_cancelled() {
            let flushed = self.status.borrow().end.lsn;
            let goodbye = async {
                wire.send_status(flushed, flushed, flushed, false).await?;
                wire.end_replication().await
            };
            let _ = tokio::time::timeout(Duration::from_secs(2), goodbye).await;
        }
        result
    }

    /// Another system is refused, and so is one that has gone back, or that left the old timeline, before `end` of what was received and
    /// copied (I5).
    async fn identify(&self, wire: &mut Wire, end: Lsn) -> Result<()> {
        let rows = wire.simple("IDENTIFY_SYSTEM").await?;
        let field = |n: usize| rows.first().and_then(|r| r.get(n).cloned().flatten()).unwrap_or_default();
        let (system, timeline, at) = (field(0), field(1).parse::<u32>().unwrap_or(0), field(2).parse::<Lsn>()?);
        if system != self.origin.system_id {
            return Err(Error::refused(format!("the source is another server now: system identifier {system} instead of {}", self.origin.system_id))
                .hint("connect to the server with which this migration began; a restored copy cannot continue it"));
        }
        let back = |where_: String| {
            Err(Error::refused(format!("the source has gone back: {where_}, but what was received and copied goes up to {end}"))
                .detail("it was restored from a backup, or another server took over before it had everything")
                .hint("what was copied and replayed may no longer be on the source: run `hyperlift clean`, empty the target and start again"))
        };
        if at < end {
            return back(format!("its WAL ends at {at}"));
        }
        // Beside the spool that was received on it, so that it outlives this process.
        let file = self.dir.join("timeline");
        let known = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse::<u32>().ok());
        if let Some(known) = known.filter(|known| *known != timeline) {
            let history = wire.simple(&format!("TIMELINE_HISTORY {timeline}")).await?;
            let text = history.first().and_then(|r| r.get(1).cloned().flatten()).unwrap_or_default();
            match branch_point(&text, known) {
                Some(branch) if branch >= end => {}
                Some(branch) => return back(format!("timeline {timeline} left timeline {known} at {branch}")),
                None => return back(format!("timeline {timeline} does not come from timeline {known}")),
            }
        }
        if known != Some(timeline) {
            let new = self.dir.join("timeline.new");
            std::fs::write(&new, timeline.to_string())?;
            std::fs::File::open(&new)?.sync_all()?;
            std::fs::rename(&new, &file)?;
        }
        Ok(())
    }

    async fn stream(&mut self, wire: &mut Wire, end: End) -> Result<()> {
        let mut c = Collected { end: end.lsn, handed: end.lsn, ..Collected::default() };
        let mut status_tick = tokio::time::interval(Duration::from_millis(200));
        status_tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut last_status, mut last_heard, mut last_watermark) = (Instant::now(), Instant::now(), Instant::now());
        let mut reported = Lsn::ZERO;
        let cancel = self.cancel.clone();
        let mut heard = end.lsn;
        // The last keepalive: everything that was committed before it has come.
        let mut complete = Lsn::ZERO;
        loop {
            // 1. all that has come
            let mut reply = false;
            let mut keepalive = None;
            let mut busy = false;
            loop {
                while !c.is_full()
                    && let Some(message) = wire.try_replication_message()?
                {
                    busy = true;
                    match message {
                        ReplicationMessage::XLogData { end, data, .. } => {
                            heard = heard.max(end);
                            c.take(&data)?;
                        }
                        ReplicationMessage::KeepAlive { end, reply: wanted } => {
                            heard = heard.max(end);
                            reply |= wanted;
                            keepalive = Some(end);
                            complete = end;
                        }
                    }
                }
                if c.is_full() {
                    break;
                }
                match wire.fill().now_or_never() {
                    Some(filled) => filled?,
                    None => break,
                }
            }
            if busy {
                last_heard = Instant::now();
            }
            // 2. a watermark, when the stream stands between transactions. Who waits may have come behind the keepalive that he waits for.
            let asked = self.wanted.has_changed().unwrap_or(false);
            let wanted = *self.wanted.borrow_and_update();
            let due = last_watermark.elapsed() >= WATERMARK_EVERY || (wanted > c.end && complete >= wanted);
            if due && !c.in_transaction && complete > c.end {
                put_watermark(&mut c.records, complete);
                c.reach(complete);
                last_watermark = Instant::now();
            }
            // 3. told of before it is durable, and to the spool
            let quiet = keepalive.filter(|_| !c.in_transaction).map(|at| (at, c.end));
            self.status.send_if_modified(|s| {
                s.heard = heard.max(s.heard);
                s.quiet = quiet.unwrap_or(s.quiet);
                s.bytes += std::mem::take(&mut c.bytes);
                s.writes.extend(c.writes.found.drain());
                // Who waits, waits for the spool's end; or, behind it, for something that he wants to be read.
                let news = asked || (s.read < wanted && wanted <= c.end);
                s.read = s.read.max(c.end);
                news
            });
            let awaited = c.handed < wanted && wanted <= c.end;
            let full = c.is_full();
            if full || c.since.is_some_and(|since| awaited || since.elapsed() >= GROUP) {
                self.hand_over(&mut c, wire, heard).await?;
            }
            // 4. status to the source
            let flushed = self.status.borrow().end.lsn;
            let ask = wanted > c.end && (asked || last_status.elapsed() >= ASK_EVERY);
            if reply || ask || last_status.elapsed() >= STATUS_EVERY || (flushed > reported && last_status.elapsed() >= Duration::from_secs(1)) {
                wire.send_status(heard.max(flushed), flushed, flushed, ask || last_heard.elapsed() > STATUS_EVERY * 2).await?;
                (reported, last_status) = (flushed, Instant::now());
            }
            if last_heard.elapsed() > SILENCE {
                return Err(Error::connection(format!("the source was silent for {} s", SILENCE.as_secs())));
            }
            // 5. wait
            if full {
                continue;
            }
            if busy {
                std::thread::sleep(DWELL);
            }
            let due = c.since.map(|since| GROUP.saturating_sub(since.elapsed()));
            tokio::select! {
                filled = wire.fill() => { filled?; last_heard = Instant::now(); }
                _ = status_tick.tick() => {}
                Ok(()) = self.wanted.changed() => {}
                () = tokio::time::sleep(due.unwrap_or_default()), if due.is_some() => {}
                () = cancel.cancelled() => return Ok(()),
            }
        }
    }

    /// Hands what is collected to the spool's thread: up to the last boundary, or a part of a large transaction.
    async fn hand_over(&self, c: &mut Collected, wire: &mut Wire, heard: Lsn) -> Result<()> {
        c.since = None;
        let (length, boundary) = c.boundary.take().map_or((c.records.len(), None), |(length, lsn)| (length, Some(lsn)));
        c.handed = boundary.unwrap_or(c.handed);
        let rest = c.records.split_off(length);
        let records = std::mem::replace(&mut c.records, rest);
        let mut write = Some(Write::Block { records, boundary });
        let mut low = false;
        loop {
            // A disk that runs low stops the reading: the WAL stays on the source.
            let free = self.status.borrow().disk_free;
            if free < DISK_RESERVE {
                if !low {
                    low = true;
                    self.status.send_modify(|s| s.broken = Some("the disk of the work directory is nearly full: receiving waits".into()));
                }
            } else {
                if low {
                    low = false;
                    self.status.send_modify(|s| s.broken = None);
                }
                match self.spooler.queue.try_reserve() {
                    Ok(permit) => {
                        permit.send(write.take().expect("it is sent once"));
                        return Ok(());
                    }
                    Err(mpsc::error::TrySendError::Closed(())) => return Err(self.spooler.error()),
                    Err(mpsc::error::TrySendError::Full(())) => {}
                }
            }
            tokio::select! {
                permit = self.spooler.queue.reserve(), if !low => {
                    permit.map_err(|_| self.spooler.error())?.send(write.take().expect("it is sent once"));
                    return Ok(());
                }
                () = tokio::time::sleep(Duration::from_secs(2)) => {
                    let flushed = self.status.borrow().end.lsn;
                    wire.send_status(heard.max(flushed), flushed, flushed, false).await?;
                    if low {
                        let _ = self.spooler.queue.try_send(Write::Trim);
                    }
                }
                // The block is lost with this connection; the stream is not: nothing behind it may follow.
                () = self.cancel.cancelled() => return Err(Error::stopped()),
            }
        }
    }
}

/// Where a timeline ended, from a history file (PostgreSQL documentation 26.3.5): lines of timeline, LSN and reason.
fn branch_point(history: &str, timeline: u32) -> Option<Lsn> {
    history.lines().find_map(|line| {
        let mut parts = line.split_whitespace();
        (parts.next()?.parse() == Ok(timeline)).then(|| parts.next()?.parse().ok())?
    })
}

/// Whether a broken stream may be opened again: everything but what an operator has to settle.
fn may_reconnect(e: &Error) -> bool {
    use crate::error::Kind;
    match (&e.sqlstate, e.kind) {
        // 55006: the slot is still active for a session that has not noticed its end.
        (Some(code), _) => e.is_transient() || code == sqlstate::OBJECT_IN_USE,
        (None, kind) => kind == Kind::Connection,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn message(tag: u8, at: usize, lsn: u64) -> Vec<u8> {
        [&[tag][..], &vec![0; at - 1], &lsn.to_be_bytes()].concat()
    }

    #[test]
    fn a_transaction_that_was_spooled_before_the_reconnect_is_passed_but_its_relations_stay() {
        let mut c = Collected { end: Lsn(50), handed: Lsn(50), ..Collected::default() };
        for m in [message(b'B', 1, 40), b"R\0\0\0\x07".into(), b"I\0\0\0\x07".into(), message(b'C', 10, 50)] {
            c.take(&m).unwrap();
        }
        assert_eq!((c.boundary, c.end, c.in_transaction, c.writes.found.len()), (None, Lsn(50), false, 0));
        assert_eq!(c.records, *b"\x05\0\0\0R\0\0\0\x07");
        // The next one begins where the last one ended at the earliest.
        for m in [message(b'B', 1, 50), b"D\0\0\0\x07".into(), b"T\0\0\0\x01\0\0\0\0\x08".into(), message(b'C', 10, 60)] {
            c.take(&m).unwrap();
        }
        assert_eq!((c.boundary, c.end), (Some((c.records.len(), Lsn(60))), Lsn(60)));
        assert_eq!(c.writes.found, HashMap::from([(7, Lsn(60)), (8, Lsn(60))]));
        for bad in [&b""[..], b"B\0", b"I\0\0\0", b"T\0\0\0\x02\0\0\0\0\x08", b"C\0"] {
            assert!(c.take(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_branch_of_a_timeline_is_read_from_its_history() {
        let history = "1\t0/3000000\tno recovery target specified\n\n2\t1/5000060\tbefore 2000-01-01\n";
        assert_eq!(
            (branch_point(history, 1), branch_point(history, 2), branch_point(history, 3)),
            (Some(Lsn(0x300_0000)), Some(Lsn((1 << 32) + 0x500_0060)), None)
        );
    }
}
