//! Which relation has most of the stream: only the keys of such a one are worth distributing over the lanes.

use crate::replay::relation::RelationIndex;

/// Bytes of changes that were routed since the last decision.
pub struct HotTableFinder {
    /// By relation, and by the lane that a change would go to by the first column of its key.
    bytes: Vec<Vec<u64>>,
    pub all: u64,
    /// A queue began to fill: lanes do not keep up.
    pub pressed: bool,
    /// Rows of these relations change their keys, so that distributing them costs more than it is worth.
    pub banned: Vec<bool>,
}

impl HotTableFinder {
    pub fn new(relations: usize, lanes: usize) -> Self {
        Self { bytes: vec![vec![0; lanes]; relations], all: 0, pressed: false, banned: vec![false; relations] }
    }

    pub fn note(&mut self, relation: RelationIndex, lane: usize, bytes: usize) {
        self.bytes[relation.0][lane] += bytes as u64;
        self.all += bytes as u64;
    }

    pub fn bytes(&self, relation: RelationIndex) -> u64 {
        self.bytes[relation.0].iter().sum()
    }

    /// Whether no lane would have twice its share.
    pub fn is_even(&self, relation: RelationIndex) -> bool {
        let lanes = &self.bytes[relation.0];
        lanes.iter().max().is_some_and(|most| most * lanes.len() as u64 <= 2 * self.bytes(relation))
    }

    pub fn clear(&mut self) {
        self.bytes.iter_mut().for_each(|lanes| lanes.fill(0));
        (self.all, self.pressed) = (0, false);
    }
}
