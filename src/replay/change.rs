//! One row operation of the stream on its way to a lane, and the relation it belongs to as the stream describes it.

use bytes::Bytes;
use std::sync::Arc;

use super::{
    pgoutput::{self, Message, Operation, RelationMessage, RowOp},
    relation::RelationIndex,
};
use crate::{
    error::{Error, Result},
    lsn::Position,
};

/// A row operation on its way to a lane: still the message of the stream.
#[derive(Clone, Debug)]
pub struct Change {
    /// The position of the lane once this change is applied.
    pub position: Position,
    /// The replayed relation (the root's, for a leaf).
    pub relation: RelationIndex,
    pub op: RowOp,
    /// The table or leaf as the stream describes it at this place of the stream.
    pub description: Arc<RelationMessage>,
    pub message: Bytes,
}

impl Change {
    /// What it does. It fails for a malformed message, and for a row that has not the columns of its relation.
    pub fn operation(&self) -> Result<Operation<'_>> {
        let Message::Row { operation, .. } = pgoutput::decode(&self.message)? else {
            return Err(Error::failed("a change that is no row operation"));
        };
        let width = self.description.columns.len();
        let fits = match operation {
            Operation::Insert { new } | Operation::Update { old: None, new } => new.len() == width,
            Operation::Update { old: Some((_, old)), new } => old.len() == width && new.len() == width,
            Operation::Delete { old, .. } => old.len() == width,
        };
        if fits { Ok(operation) } else { Err(Error::failed(format!("a row of {} has not its {width} columns", self.description.name))) }
    }

    /// Memory that it takes, bytes.
    pub fn bytes(&self) -> usize {
        self.message.len() + size_of::<Self>()
    }
}
