//! Which relations' rows the transactions of the stream change: seen in the raw messages, without decoding rows.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{End, Reader, records};
use crate::{
    error::{Error, Result},
    lsn::Lsn,
};

/// Follows a stream of pgoutput messages.
#[derive(Default)]
pub struct Writes {
    /// Relations whose rows were changed, by OID, and the end of the last transaction that did.
    pub found: HashMap<u32, Lsn>,
    /// What the transaction that is being read changes.
    open: HashSet<u32>,
    /// The relation of the last change: most changes follow one of the same.
    last: Option<u32>,
}

impl Writes {
    /// Takes a message, which must not be empty; at a commit returns its end.
    pub fn take(&mut self, message: &[u8]) -> Result<Option<Lsn>> {
        match message.first() {
            Some(b'B') => {
                self.open.clear();
                self.last = None;
            }
            Some(b'I' | b'U' | b'D') => {
                let oid = u32_at(message, 1)?;
                if self.last.replace(oid) != Some(oid) {
                    self.open.insert(oid);
                }
            }
            Some(b'T') => {
                for n in 0..u32_at(message, 1)? as usize {
                    self.open.insert(u32_at(message, 6 + 4 * n)?);
                }
            }
            Some(b'C') => {
                let end = lsn_at(message, 10)?;
                self.found.extend(self.open.drain().map(|oid| (oid, end)));
                self.last = None;
                return Ok(Some(end));
            }
            _ => {}
        }
        Ok(None)
    }
}

fn u32_at(message: &[u8], at: usize) -> Result<u32> {
    message.get(at..).and_then(|rest| rest.first_chunk()).map(|b| u32::from_be_bytes(*b)).ok_or_else(malformed)
}

/// The LSN in a message, `at` bytes behind its begin.
pub fn lsn_at(message: &[u8], at: usize) -> Result<Lsn> {
    message.get(at..).and_then(|rest| rest.first_chunk()).map(|b| Lsn(u64::from_be_bytes(*b))).ok_or_else(malformed)
}

pub fn malformed() -> Error {
    Error::failed("malformed pgoutput message").hint("this is a defect of hyperlift or of the spool: please report it with the log")
}

/// Relations whose rows were changed by transactions that ended after `after`, up to a durable end: OID and the last one's end.
pub fn writes_after(dir: &Path, after: Lsn, end: End) -> Result<Vec<(u32, Lsn)>> {
    let mut reader = Reader::open(dir, after)?;
    let mut writes = Writes::default();
    while let Some(block) = reader.next(end)? {
        for record in records(block) {
            writes.take(&record)?;
        }
    }
    let mut found: Vec<_> = writes.found.into_iter().filter(|(_, at)| *at > after).collect();
    found.sort_by_key(|(oid, at)| (*at, *oid));
    Ok(found)
}
