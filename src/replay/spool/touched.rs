//! Which relations' rows the transactions of the stream change: seen in the raw messages, without decoding rows.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use super::{block::records, reader::SpoolReader, segment::SpoolEnd};
use crate::{
    error::Result,
    lsn::Lsn,
    replay::pgoutput::{Message, Peek, decode, peek},
};

/// Follows a stream of pgoutput messages.
#[derive(Default)]
pub struct TouchedRelations {
    /// Relations whose rows were changed, by OID, and the end of the last transaction that did.
    pub found: HashMap<u32, Lsn>,
    /// What the transaction that is being read changes.
    open: HashSet<u32>,
    /// The relation of the last change: most changes follow one of the same.
    last: Option<u32>,
}

impl TouchedRelations {
    /// Takes a message of which `peek` is known; at a commit returns its end.
    pub fn take(&mut self, message: &[u8], peek: Peek) -> Result<Option<Lsn>> {
        match peek {
            Peek::Begin { .. } => {
                self.open.clear();
                self.last = None;
            }
            Peek::Row { oid, .. } => {
                if self.last.replace(oid) != Some(oid) {
                    self.open.insert(oid);
                }
            }
            Peek::Truncate => {
                if let Message::Truncate { relations, .. } = decode(message)? {
                    self.open.extend(relations);
                }
            }
            Peek::Commit { end } => {
                self.found.extend(self.open.drain().map(|oid| (oid, end)));
                self.last = None;
                return Ok(Some(end));
            }
            Peek::Relation { .. } | Peek::Other(_) => {}
        }
        Ok(None)
    }
}

/// Relations whose rows were changed by transactions that ended after `after`, up to a durable end: OID and the end of the last one, in
/// the order of those ends.
pub fn touched_after(dir: &Path, after: Lsn, end: SpoolEnd) -> Result<Vec<(u32, Lsn)>> {
    let mut reader = SpoolReader::open(dir, after)?;
    let mut touched = TouchedRelations::default();
    while let Some(block) = reader.next(end)? {
        for record in records(block) {
            touched.take(&record, peek(&record)?)?;
        }
    }
    let mut found: Vec<_> = touched.found.into_iter().filter(|(_, at)| *at > after).collect();
    found.sort_by_key(|(oid, at)| (*at, *oid));
    Ok(found)
}
