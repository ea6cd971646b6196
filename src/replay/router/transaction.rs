//! The transaction that is being read, and the changes on their way to a lane.

use bytes::BytesMut;
use jiff::Timestamp;

use crate::{
    lsn::{Lsn, Position},
    replay::{change::Change, lane::BatchStep, relation::RelationIndex},
};

/// The transaction that is being read.
pub struct OpenTransaction {
    /// Where its commit record begins.
    pub commit: Lsn,
    pub time: Timestamp,
    pub xid: u32,
    /// Changes so far.
    changes: u64,
    /// Lanes that got some of them.
    pub lanes: Vec<bool>,
    /// It touches a deferrable constraint, which may be violated until its end: no lane may commit a part of what it does there.
    pub deferrable: bool,
    pub buffered: Option<BufferedTransaction>,
}

impl OpenTransaction {
    pub fn new(commit: Lsn, time: Timestamp, xid: u32, lanes: usize) -> Self {
        Self { commit, time, xid, changes: 0, lanes: vec![false; lanes], deferrable: false, buffered: None }
    }

    /// The position of the last change.
    pub fn position(&self) -> Position {
        Position { lsn: self.commit, change: self.changes }
    }

    /// The position of the next change, which is now the last one.
    pub fn next_position(&mut self) -> Position {
        self.changes += 1;
        self.position()
    }
}

/// A transaction that one lane applies for all of them, because it cannot be cut where a barrier is due. It is held in memory.
pub struct BufferedTransaction {
    pub steps: Vec<BatchStep>,
    pub truncated: Vec<RelationIndex>,
    /// The lanes, with their positions.
    pub lanes: Vec<(u32, Position)>,
}

impl BufferedTransaction {
    pub fn push(&mut self, change: Change) {
        match self.steps.last_mut() {
            Some(step) if step.then.is_empty() => step.changes.push(change),
            _ => self.steps.push(BatchStep { changes: vec![change], then: Vec::new() }),
        }
    }
}

/// Changes that are collected for one lane: packed, so that a rare one does not keep the block in memory that it came in.
#[derive(Default)]
pub struct Pack {
    bytes: BytesMut,
    /// All but their messages, and where those end.
    changes: Vec<(Change, usize)>,
    /// All changes of the lane that were committed before this LSN are in the pack, or were sent.
    pub up_to: Option<Lsn>,
}

impl Pack {
    pub fn push(&mut self, change: Change, message: &[u8]) {
        self.bytes.extend_from_slice(message);
        self.changes.push((change, self.bytes.len()));
        self.up_to = None;
    }

    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Memory that the changes take, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes.len() + self.changes.len() * size_of::<Change>()
    }

    pub fn take(&mut self) -> (Vec<Change>, Option<Lsn>) {
        let bytes = self.bytes.split().freeze();
        let mut start = 0;
        let changes = self.changes.drain(..).map(|(mut change, end)| {
            change.message = bytes.slice(std::mem::replace(&mut start, end)..end);
            change
        });
        (changes.collect(), self.up_to.take())
    }
}
