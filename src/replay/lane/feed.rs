//! What the router sends to a lane.

use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::{
    lsn::{Lsn, Position},
    replay::{change::Change, relation::RelationIndex},
};

/// A message to one lane.
pub enum Feed {
    /// Changes in their order, and the memory that they take in the queues. With an LSN, all changes of this lane that were committed
    /// before it were sent.
    Changes(Vec<Change>, OwnedSemaphorePermit, Option<Lsn>),
    /// Apply what there is, also in the middle of a transaction: the memory is needed.
    Flush,
    /// All changes of this lane that were committed before this LSN were sent.
    UpTo(Lsn),
    /// Apply what there is, write the position, then answer and wait for the next message.
    Barrier(oneshot::Sender<Position>),
    /// As a barrier at the beginning of the transaction that commits at this LSN: those of its changes that are not applied yet go back.
    HandOver(Lsn, oneshot::Sender<(Position, Vec<Change>)>),
    /// At a barrier: this lane does something for all lanes.
    AllLanes(Box<AllLanes>),
    /// At a barrier: another lane's transaction has moved this lane here.
    Moved(Position),
}

/// What one lane does in one transaction while all others wait, and which moves all of them: a TRUNCATE of the stream, another
/// distribution of keys, or a transaction that cannot be divided.
pub struct AllLanes {
    pub steps: Vec<BatchStep>,
    /// Relations that are truncated.
    pub truncated: Vec<RelationIndex>,
    /// The lanes, with their positions.
    pub lanes: Vec<(u32, Position)>,
    /// Where they move.
    pub to: Position,
    pub done: oneshot::Sender<()>,
}

/// Changes, and statements that follow them.
#[derive(Default)]
pub struct BatchStep {
    pub changes: Vec<Change>,
    pub then: Vec<String>,
}
