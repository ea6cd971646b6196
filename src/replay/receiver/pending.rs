//! What has been read from the stream and is not yet handed to the spool.

use std::time::{Duration, Instant};

use super::history::HistoryCheck;
use crate::{
    error::Result,
    lsn::Lsn,
    name::TableName,
    replay::{
        pgoutput::{Message, Peek, decode, peek},
        spool::{SpoolRequest, TouchedRelations, Transaction, put_record, put_watermark},
    },
};

/// A block is written when this much is pending, uncompressed bytes.
const BLOCK_BYTES: usize = 256 << 10;
/// A finished transaction waits this long for others to share its block and its fsync.
const GROUP: Duration = Duration::from_millis(20);

/// What is known of the change that comes next.
#[derive(Debug, Default)]
pub struct LastMessage {
    /// Where the transaction that is being read commits.
    pub commit: Option<Lsn>,
    /// The table that was just described: it is described right before its first change.
    pub relation: Option<TableName>,
}

/// Messages of the stream, as records of the block that they will be.
#[derive(Default)]
pub struct PendingBlock {
    records: Vec<u8>,
    /// Length of `records` up to the last boundary in it, and its LSN.
    boundary: Option<(usize, Lsn)>,
    pub in_transaction: bool,
    pub last: LastMessage,
    /// The transaction was spooled before the last reconnect.
    skip: bool,
    /// Whether what was spooled before comes again as it was.
    pub history: HistoryCheck,
    /// The transaction that is being read, and the last one that has ended.
    begun: Option<Transaction>,
    ended: Option<Transaction>,
    /// Rows changed by what was not yet reported in the status.
    pub touched: TouchedRelations,
    /// Bytes of stream that were not yet reported.
    pub bytes: u64,
    /// End of the last whole transaction or watermark that was taken.
    pub end: Lsn,
    /// The last boundary that was handed over.
    handed: Lsn,
    /// When the oldest boundary that waits was taken.
    since: Option<Instant>,
}

impl PendingBlock {
    /// Goes on after `end`, the last boundary in the spool.
    pub fn new(end: Lsn, history: HistoryCheck) -> Self {
        Self { end, handed: end, history, ..Self::default() }
    }

    pub fn is_full(&self) -> bool {
        self.records.len() >= BLOCK_BYTES
    }

    /// Takes one pgoutput message.
    pub fn take(&mut self, message: &[u8]) -> Result<()> {
        let peek = peek(message)?;
        self.bytes += message.len() as u64;
        self.last.relation = match peek {
            Peek::Relation { .. } => relation_name(message),
            _ => None,
        };
        if let Peek::Begin { commit } = peek {
            self.in_transaction = true;
            self.last.commit = Some(commit);
            // The commit LSN decides, never the LSN of BEGIN (I5).
            self.skip = commit < self.end;
            self.begin(message)?;
        }
        if self.skip {
            match peek {
                Peek::Relation { .. } => put_record(&mut self.records, message),
                Peek::Commit { .. } => (self.in_transaction, self.skip) = (false, false),
                _ => {}
            }
            return Ok(());
        }
        put_record(&mut self.records, message);
        if let Some(end) = self.touched.take(message, peek)? {
            self.in_transaction = false;
            self.ended = self.begun.take();
            self.reach(end);
        }
        Ok(())
    }

    fn begin(&mut self, message: &[u8]) -> Result<()> {
        if let Message::Begin { commit, time, xid } = decode(message)? {
            let begun = Transaction { commit, xid, time: time.as_microsecond() };
            self.history.begin(begun)?;
            self.begun = Some(begun);
        }
        Ok(())
    }

    /// Everything that was committed before `lsn` has come. It must not be put into the middle of a transaction.
    pub fn take_watermark(&mut self, lsn: Lsn) {
        put_watermark(&mut self.records, lsn);
        self.reach(lsn);
    }

    /// What is pending ends at a boundary.
    fn reach(&mut self, end: Lsn) {
        self.end = end;
        self.boundary = Some((self.records.len(), end));
        self.since.get_or_insert_with(Instant::now);
    }

    /// Whether somebody waits for a position that is reached, but not handed over.
    pub fn is_awaited(&self, wanted: Lsn) -> bool {
        self.handed < wanted && wanted <= self.end
    }

    /// How long the oldest boundary still waits for others; `None` without a boundary.
    pub fn due_in(&self) -> Option<Duration> {
        self.since.map(|since| GROUP.saturating_sub(since.elapsed()))
    }

    /// What is handed to the spool: all up to the last boundary, or a part of a large transaction.
    pub fn take_block(&mut self) -> SpoolRequest {
        self.since = None;
        let (length, boundary) = self.boundary.take().map_or((self.records.len(), None), |(length, lsn)| (length, Some(lsn)));
        self.handed = boundary.unwrap_or(self.handed);
        let rest = self.records.split_off(length);
        SpoolRequest::Block { records: std::mem::replace(&mut self.records, rest), boundary, last: self.ended }
    }
}

fn relation_name(message: &[u8]) -> Option<TableName> {
    if let Ok(Message::Relation(relation)) = decode(message) { Some(TableName::new(relation.schema, relation.name)) } else { None }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn message(tag: u8, at: usize, lsn: u64) -> Vec<u8> {
        [&[tag][..], &vec![0; at - 1], &lsn.to_be_bytes()].concat()
    }

    fn begin(commit: u64) -> Vec<u8> {
        [&message(b'B', 1, commit)[..], &[0; 12]].concat()
    }

    #[test]
    fn a_transaction_that_was_spooled_before_the_reconnect_is_skipped_but_its_relations_stay() {
        let mut pending = PendingBlock::new(Lsn(50), HistoryCheck::default());
        for m in [begin(40), b"R\0\0\0\x07".into(), b"I\0\0\0\x07".into(), message(b'C', 10, 50)] {
            pending.take(&m).unwrap();
        }
        assert_eq!((pending.boundary, pending.end, pending.in_transaction, pending.touched.found.len()), (None, Lsn(50), false, 0));
        assert_eq!(pending.records, *b"\x05\0\0\0R\0\0\0\x07");
        // The next one begins where the last one ended at the earliest.
        for m in [begin(50), b"D\0\0\0\x07".into(), b"T\0\0\0\x01\0\0\0\0\x08".into(), message(b'C', 10, 60)] {
            pending.take(&m).unwrap();
        }
        assert_eq!((pending.boundary, pending.end), (Some((pending.records.len(), Lsn(60))), Lsn(60)));
        assert_eq!(pending.touched.found, HashMap::from([(7, Lsn(60)), (8, Lsn(60))]));
        for bad in [&b""[..], b"B\0", b"I\0\0\0", b"T\0\0\0\x02\0\0\0\0\x08", b"C\0"] {
            assert!(pending.take(bad).is_err(), "{bad:?}");
        }
    }
}
