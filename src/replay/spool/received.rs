//! What was received last, in a small file beside the segments. A source that does not have it any more has another history (I5).

use bytes::{Buf, BufMut};
use std::{fs::File, os::unix::fs::FileExt, path::Path};

use super::segment::SpoolEnd;
use crate::{lsn::Lsn, private};

const FILE: &str = "received";
/// Length of the file, bytes: numbers in the order of the fields, and their CRC-32.
const LENGTH: usize = 32;

/// A transaction as its BEGIN describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transaction {
    /// Where its commit record begins.
    pub commit: Lsn,
    pub xid: u32,
    /// Time of the commit, microseconds since 1970.
    pub time: i64,
}

/// Which transactions are in the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// Every transaction that committed before is known.
    pub up_to: Lsn,
    /// The last of them; `None` when none has come since the slot was created.
    pub last: Option<Transaction>,
}

impl Received {
    /// What the file says; `None` when there is none, or it is damaged.
    pub fn read(dir: &Path) -> Option<Self> {
        let bytes = std::fs::read(dir.join(FILE)).ok()?;
        let (mut content, mut crc) = bytes.split_at_checked(LENGTH - 4)?;
        if crc32fast::hash(content) != crc.try_get_u32_le().ok()? {
            return None;
        }
        let up_to = Lsn(content.get_u64_le());
        let last = Transaction { commit: Lsn(content.get_u64_le()), xid: content.get_u32_le(), time: content.get_i64_le() };
        Some(Self { up_to, last: (last.commit != Lsn::ZERO).then_some(last) })
    }

    fn to_bytes(self) -> Vec<u8> {
        let last = self.last.unwrap_or(Transaction { commit: Lsn::ZERO, xid: 0, time: 0 });
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.put_u64_le(self.up_to.0);
        bytes.put_u64_le(last.commit.0);
        bytes.put_u32_le(last.xid);
        bytes.put_i64_le(last.time);
        bytes.put_u32_le(crc32fast::hash(&bytes));
        bytes
    }
}

/// The file, and what it will say.
pub struct ReceivedFile {
    file: Option<File>,
    now: Option<Received>,
    written: Option<Received>,
}

impl ReceivedFile {
    /// Continues at the end of the spool. A spool of an earlier version has no file: then nothing is known before the next transaction.
    pub fn open(dir: &Path, end: SpoolEnd) -> Self {
        let is_new = end.segment == 0;
        let known = if is_new { Some(Received { up_to: end.lsn, last: None }) } else { Received::read(dir).filter(|r| r.up_to <= end.lsn) };
        Self { file: private::file().truncate(false).open(dir.join(FILE)).ok(), now: known, written: None }
    }

    /// The spool has got a boundary, and `last` is the last transaction since the boundary before.
    pub fn reach(&mut self, up_to: Lsn, last: Option<Transaction>) {
        self.now = match (last, self.now) {
            (Some(_), _) => Some(Received { up_to, last }),
            (None, Some(known)) => Some(Received { up_to, ..known }),
            (None, None) => None,
        };
    }

    /// Writes it, once the spool up to there is durable. It need not be durable itself, and may fail: an older one is as true.
    pub fn write(&mut self) {
        if let (Some(file), Some(now)) = (&self.file, self.now)
            && self.written != self.now
            && file.write_all_at(&now.to_bytes(), 0).is_ok()
        {
            self.written = self.now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_received_last_is_read_back_and_a_torn_file_says_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let end = |segment, lsn| SpoolEnd { segment, offset: 0, lsn: Lsn(lsn) };
        let mut file = ReceivedFile::open(dir.path(), end(0, 10));
        file.reach(Lsn(20), None);
        file.write();
        assert_eq!(Received::read(dir.path()), Some(Received { up_to: Lsn(20), last: None }));
        let last = Some(Transaction { commit: Lsn(25), xid: 7, time: -1 });
        file.reach(Lsn(30), last);
        file.reach(Lsn(40), None);
        file.write();
        assert_eq!(Received::read(dir.path()), Some(Received { up_to: Lsn(40), last }));
        // Of a later boundary than the spool has.
        let mut file = ReceivedFile::open(dir.path(), end(1, 35));
        file.reach(Lsn(50), None);
        file.write();
        assert_eq!(Received::read(dir.path()), Some(Received { up_to: Lsn(40), last }));
        let path = dir.path().join(FILE);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[9] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert_eq!(Received::read(dir.path()), None);
    }
}
