//! The record of a migration: what is needed to continue or undo it.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{Error, Result},
    event::{Difference, Stage},
    lsn::Lsn,
    name::{TableName, ident},
    pg::{
        catalog::{self, ForeignRows, Partition, Server, Shape, ShapeChange},
        publication::Publications,
    },
    scope::Scope,
};

/// The file `migration.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Six of a-z and 0-9; part of every name that the migration makes.
    pub id: String,
    pub source: RecordedEndpoint,
    pub target: RecordedEndpoint,
    /// The slot's consistent point; `None` before it was created.
    pub slot: Option<Lsn>,
    /// The publications as they were when the slot was created. Earlier versions did not record them.
    #[serde(default)]
    pub publications: Publications,
    /// Digest of the dump from which the schema was restored.
    pub schema: Option<String>,
    /// State of the source's catalogs before that dump: while it stays the same, nothing has changed.
    #[serde(default)]
    pub schema_state: Option<String>,
    /// Replica identities changed on the source, with the statement that resets each.
    pub changed_identities: Vec<ChangedIdentity>,
    /// Shape of the source's tables when the copy began, by name.
    #[serde(default)]
    pub shapes: BTreeMap<String, Shape>,
    /// OIDs of tables whose rows ALTER TABLE has written again since then: they have to be copied again.
    #[serde(default)]
    pub rewritten: BTreeSet<u32>,
    /// Names of the source's sequences when the copy began, by OID.
    #[serde(default)]
    pub sequences: BTreeMap<u32, TableName>,
    /// Partitions on the source, by OID, of what is one table on the target; as they were when the copy began.
    #[serde(default)]
    pub partitions: BTreeMap<u32, Partition>,
    /// Rows of foreign partitions that are copied into one table, as they were when the copy began.
    #[serde(default)]
    pub foreign_rows: Vec<ForeignRows>,
    /// The filters with which the migration began.
    #[serde(default)]
    pub scope: Scope,
    /// Stages that are finished.
    pub finished: Vec<Stage>,
    /// The end of the stream at the cutover: what the source committed after it is not on the target.
    #[serde(default)]
    pub end: Option<Lsn>,
    /// The source was written to after that end.
    #[serde(default)]
    pub late: bool,
    /// Late writes were looked for once, so the slot may be gone: cleaning up drops it.
    #[serde(default)]
    pub watched: bool,
    /// Why late writes could not be looked for the last time.
    #[serde(default)]
    pub unwatched: Option<String>,
    /// Tables that differ from the source with the operator's consent.
    #[serde(default, alias = "missed", with = "differences")]
    pub differences: BTreeMap<TableName, Difference>,
    /// Objects of the source that are different on the target, or missing there, and nobody has accepted it.
    #[serde(default)]
    pub different_objects: BTreeSet<String>,
    /// Those of which it is not known yet, because the source did not answer.
    #[serde(default)]
    pub unknown_objects: BTreeSet<String>,
    /// Objects of the source that the target does not have, and why.
    #[serde(default)]
    pub not_moved: Vec<(String, String)>,
    /// The migration is complete, and only cleaning up remains.
    pub completed: bool,
    /// After that, foreign keys were validated and materialised views refreshed, as far as that was possible.
    #[serde(default)]
    pub objects_finished: bool,
}

impl Record {
    /// How the tables of the source differ from what is on the target: by their shapes, and those that have to be copied again.
    pub fn changed_tables(&self, now: &BTreeMap<String, Shape>) -> Vec<(String, ShapeChange)> {
        let mut found = catalog::differences(&self.shapes, now);
        for (name, _) in now.iter().filter(|(_, shape)| self.rewritten.contains(&shape.oid)) {
            if found.iter().all(|(table, _)| table != name) {
                found.push((name.clone(), ShapeChange::Rewritten));
            }
        }
        found
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedEndpoint {
    pub address: String,
    pub system_id: String,
    pub database: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangedIdentity {
    pub table: TableName,
    /// OID of the table, because it may be renamed meanwhile; 0 in a record of an earlier version.
    #[serde(default)]
    pub oid: u32,
    pub undo: String,
}

impl ChangedIdentity {
    /// The change from this identity: `relreplident` of `pg_class`, and the index that serves.
    pub fn from(table: &TableName, oid: u32, before: char, index: Option<&str>) -> Self {
        let before = match (before, index) {
            ('f', _) => "full".to_owned(),
            ('n', _) => "nothing".to_owned(),
            ('i', Some(name)) => format!("using index {}", ident(name)),
            _ => "default".to_owned(),
        };
        Self { table: table.clone(), oid, undo: format!("{}{before}", Self::alter(table)) }
    }

    /// The statement that undoes it, for the table under the name that it has now.
    pub fn undo_for(&self, now: &TableName) -> String {
        self.undo.strip_prefix(&Self::alter(&self.table)).map_or_else(|| self.undo.clone(), |before| format!("{}{before}", Self::alter(now)))
    }

    fn alter(table: &TableName) -> String {
        format!("alter table only {} replica identity ", table.sql())
    }
}

impl RecordedEndpoint {
    /// An error when this is another database than the one with which the migration began.
    pub fn refuse_other(&self, side: &str, now: &Server) -> Result<()> {
        if self.system_id.is_empty() || (&self.system_id, &self.database) == (&now.system_id, &now.database) {
            return Ok(());
        }
        Err(Error::refused(format!(
            "this migration has another {side}: {}, database {} of the server with system identifier {}; connected is database {} of {}",
            self.address, self.database, self.system_id, now.database, now.system_id
        ))
        .hint("nothing was changed: give the URIs with which the migration began, or the --dir of the migration between these databases"))
    }
}

/// The differences as a list, because a key of a JSON object cannot be a name of two parts. Earlier versions wrote an object of joined
/// names, with 0 for a difference that was accepted.
mod differences {
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
    use std::collections::BTreeMap;

    use crate::{event::Difference, name::TableName};

    #[derive(Serialize, Deserialize)]
    struct Entry {
        table: TableName,
        difference: Difference,
    }

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        List(Vec<Entry>),
        Joined(BTreeMap<String, u64>),
    }

    pub fn serialize<S: Serializer>(differences: &BTreeMap<TableName, Difference>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(differences.iter().map(|(table, difference)| Entry { table: table.clone(), difference: *difference }))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<TableName, Difference>, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::List(entries) => Ok(entries.into_iter().map(|e| (e.table, e.difference)).collect()),
            Written::Joined(missed) => missed
                .into_iter()
                .map(|(name, missed)| {
                    let table = TableName::parse(&name).ok_or_else(|| D::Error::custom(format!("{name} is not the name of a table")))?;
                    Ok((table, if missed == 0 { Difference::Accepted } else { Difference::Missed(missed) }))
                })
                .collect(),
        }
    }
}

/// A new migration's id.
pub fn new_id() -> String {
    const LETTERS: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";
    (0..6).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_is_undone_under_the_name_that_the_table_has_now() {
        let (was, now) = (TableName::new("public", "t"), TableName::new("public", "a b"));
        let changed = ChangedIdentity::from(&was, 7, 'i', Some("x"));
        assert_eq!(changed.undo, "alter table only \"public\".\"t\" replica identity using index \"x\"");
        assert_eq!(changed.undo_for(&now), "alter table only \"public\".\"a b\" replica identity using index \"x\"");
    }

    #[test]
    fn differences_are_read_back_and_read_from_what_an_earlier_version_wrote() {
        let odd = TableName::new("public", "a.b");
        let differences = BTreeMap::from([(TableName::new("public", "t"), Difference::Missed(12)), (odd, Difference::Accepted)]);
        let record = Record { differences, ..Record::default() };
        let mut json = serde_json::to_value(&record).unwrap();
        assert_eq!(serde_json::from_value::<Record>(json.clone()).unwrap(), record);
        let fields = json.as_object_mut().unwrap();
        fields.remove("differences");
        assert_eq!(serde_json::from_value::<Record>(json.clone()).unwrap(), Record::default());
        json["missed"] = serde_json::json!({ "public.t": 12, "public.\"a.b\"": 0 });
        assert_eq!(serde_json::from_value::<Record>(json).unwrap(), record);
    }
}
