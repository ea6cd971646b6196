//! One decoded row operation, and the relation it belongs to as the stream describes it.

use std::sync::Arc;

use super::pgoutput::{OldKind, RelationMessage, Tuple, Value};
use crate::lsn::Position;

/// A row operation on its way to a lane.
#[derive(Clone, Debug)]
pub struct Change {
    /// The position of the lane once this change is applied.
    pub position: Position,
    pub xid: u32,
    /// The relation as the stream describes it, at this place of the stream.
    pub relation: Arc<RelationMessage>,
    /// Index of the relation among the replayed ones (its root's, for a leaf).
    pub target: usize,
    pub operation: Operation,
}

#[derive(Clone, Debug)]
pub enum Operation {
    Insert { new: Tuple },
    Update { old: Option<(OldKind, Tuple)>, new: Tuple },
    Delete { kind: OldKind, old: Tuple },
}

impl Operation {
    pub fn word(&self) -> &'static str {
        match self {
            Self::Insert { .. } => "INSERT",
            Self::Update { .. } => "UPDATE",
            Self::Delete { .. } => "DELETE",
        }
    }

    /// Bytes of its values, for the bounds of batches and queues.
    pub fn bytes(&self) -> usize {
        let tuple = |t: &Tuple| t.iter().map(|v| if let Value::Text(b) = v { b.len() + 32 } else { 32 }).sum::<usize>();
        64 + match self {
            Self::Insert { new } => tuple(new),
            Self::Update { old, new } => tuple(new) + old.as_ref().map_or(0, |(_, t)| tuple(t)),
            Self::Delete { old, .. } => tuple(old),
        }
    }
}
