//! What is known of one statement of a schema: when it runs, what it makes, and whom it names.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

use crate::{
    name::TableName,
    pg::{catalog::CreationOrder, object::ObjectRef},
};

/// When a statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Before the copy: types, functions, tables, sequences, views.
    PreData,
    /// After those: subscriptions, without their slots. They cannot wait for the cutover, because their connections hold passwords, which
    /// no file may keep. A failure is reported and stops nothing.
    Subscription,
    /// After a table's copy: its indexes, primary key, unique and exclusion constraints.
    Index,
    /// After all indexes: what needs them (statistics, comments, clustering, views that need a key).
    PostIndex,
    /// At the cutover: foreign keys, triggers, rules, policies, constraints that existing rows need not satisfy.
    Cutover,
    /// After those: owners, grants, publications. A failure is reported and stops nothing.
    Handover,
    /// Last of all, once hyperlift has no statement left to run.
    EventTrigger,
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::PreData => "pre-data",
            Self::Subscription => "subscription",
            Self::Index => "index",
            Self::PostIndex => "post-index",
            Self::Cutover => "cutover",
            Self::Handover => "handover",
            Self::EventTrigger => "event-trigger",
        }
    }
}

/// One statement of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub phase: Phase,
    pub object: ObjectRef,
    /// The table that an index or constraint belongs to.
    pub table: Option<TableName>,
    /// Name of the index or constraint that it makes.
    pub makes: Option<String>,
    pub sql: String,
    /// For a foreign key that was made NOT VALID: the statement that validates it after the cutover.
    pub validate: Option<String>,
    /// Roles that it names, under their names on the target, which must have them.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Those of the roles of which the migration's user must be a member, because they become owners, or grant.
    #[serde(default)]
    pub member_of: Vec<String>,
    /// Its text may hold a password, so it is neither shown nor kept.
    #[serde(default)]
    pub secret: bool,
}

impl Statement {
    pub(super) fn new(phase: Phase, object: ObjectRef, sql: &str) -> Self {
        Self { phase, object, table: None, makes: None, sql: sql.to_owned(), validate: None, roles: Vec::new(), member_of: Vec::new(), secret: false }
    }

    /// The name of the index that it makes: an index is in the schema of its table.
    pub fn index_name(&self) -> Option<TableName> {
        Some(TableName::new(&self.table.as_ref()?.schema, self.makes.as_ref()?))
    }

    /// The text for people and files.
    pub fn shown(&self) -> &str {
        if self.secret { "-- not shown: its options may hold a password" } else { &self.sql }
    }

    /// SHA-256 of the text, hexadecimal: the ledger knows a statement by it.
    pub fn digest(&self) -> String {
        digest(&self.sql)
    }
}

/// SHA-256 of a statement's text, hexadecimal.
pub fn digest(sql: &str) -> String {
    hex(Sha256::new_with_prefix(sql))
}

/// Something that the target does not get, or gets in another form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    pub object: ObjectRef,
    pub reason: String,
    /// The hypertable that has it in another form, or not at all.
    pub hypertable: Option<TableName>,
}

impl Note {
    pub(super) fn new(object: ObjectRef, reason: impl Into<String>) -> Self {
        Self { object, reason: reason.into(), hypertable: None }
    }

    /// A note about what becomes of an object because its table is a hypertable.
    pub(super) fn of_hypertable(table: &TableName, object: ObjectRef, reason: impl Into<String>) -> Self {
        Self { hypertable: Some(table.clone()), ..Self::new(object, reason) }
    }
}

/// A dump of the schema, and what the catalogs of the source say about it.
#[derive(Clone, Debug, Default)]
pub struct Dump {
    pub(super) text: Arc<str>,
    pub(super) order: Arc<CreationOrder>,
}

#[cfg(test)]
impl From<&str> for Dump {
    fn from(text: &str) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// What decides how a dump is adapted to the target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its major version.
    pub major: u32,
    /// It has TimescaleDB.
    pub timescale: bool,
}

/// A schema as the target gets it.
#[derive(Default)]
pub struct Schema {
    /// In the order of the dump.
    pub statements: Vec<Statement>,
    /// Of the text of what is made before the copy: another schema has another digest. What is made later is read again when the copy
    /// begins.
    pub digest: String,
    /// Of the whole text. Earlier versions recorded it.
    pub whole_digest: String,
    pub notes: Vec<Note>,
    /// The tables that it makes, and when.
    pub tables: Vec<(TableName, Phase)>,
    /// The sequences that it makes, those of identities among them.
    pub sequences: Vec<TableName>,
}

impl Schema {
    /// Whether this is the digest of this schema.
    pub fn has_digest(&self, digest: &str) -> bool {
        digest == self.digest || digest == self.whole_digest
    }
}

/// The first 16 bytes of a SHA-256, hexadecimal: enough to tell statements apart.
pub(super) fn hex(hash: Sha256) -> String {
    hash.finalize().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
