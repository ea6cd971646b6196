//! Where the order of a dump is not the order in which a live migration creates the objects.

use std::collections::HashSet;

use super::exclusion::{ObjectId, PG_CLASS};
use crate::{error::Result, pg::client::Client};

/// Objects that cannot be created where their kind usually is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CreationOrder {
    before_copy: HashSet<ObjectId>,
    after_copy: HashSet<ObjectId>,
    /// By the OID of the table.
    checks_at_cutover: HashSet<(u32, String)>,
}

impl CreationOrder {
    #[cfg(test)]
    pub fn of(before_copy: &[ObjectId], after_copy: &[ObjectId], checks_at_cutover: &[(u32, &str)]) -> Self {
        Self {
            before_copy: before_copy.iter().copied().collect(),
            after_copy: after_copy.iter().copied().collect(),
            checks_at_cutover: checks_at_cutover.iter().map(|(table, name)| (*table, (*name).to_owned())).collect(),
        }
    }

    /// It is printed after the data because it needs a key, or it is that key; and some table needs it. So it is created before the copy,
    /// although a key slows the copy of its table.
    pub fn is_before_copy(&self, object: ObjectId) -> bool {
        self.before_copy.contains(&object)
    }

    /// An index, or the constraint of one, that needs something which is created after the copy, or a function that reads tables.
    pub fn is_after_copy(&self, object: ObjectId) -> bool {
        self.after_copy.contains(&object)
    }

    /// Whether a check of this table calls a function of the application. The function may read other tables, whose rows are copied and
    /// replayed in an order of their own, so that the check may fail for a while.
    pub fn is_check_at_cutover(&self, (class, table): ObjectId, name: &str) -> bool {
        class == PG_CLASS && !self.checks_at_cutover.is_empty() && self.checks_at_cutover.contains(&(table, name.to_owned()))
    }
}

pub async fn creation_order(client: &Client) -> Result<CreationOrder> {
    let mut order = CreationOrder::default();
    for row in client.query(include_str!("creation_order.sql"), &[]).await? {
        let object: ObjectId = (row.get("classid"), row.get("objid"));
        match row.get("place") {
            "before copy" => order.before_copy.insert(object),
            "after copy" => order.after_copy.insert(object),
            _ => order.checks_at_cutover.insert((object.1, row.get("name"))),
        };
    }
    Ok(order)
}
