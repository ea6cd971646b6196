//! The schema as pg_dump prints it, taken apart statement by statement and understood with PostgreSQL's own parser.

mod alter_table;
mod classify;
mod downgrade;
pub mod index_build;
mod privileges;
mod program;
mod publications;
mod toc;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use std::sync::Arc;

use self::classify::classify;
pub use self::{
    downgrade::Note,
    program::{PgDump, find},
};
use super::{catalog::exclusion::Omitted, connect::conninfo::Conninfo};
use crate::{error::Result, name::TableName, plan::Plan};

/// When a statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Before the copy: types, functions, tables, sequences, views.
    PreData,
    /// Behind those: subscriptions, without their slots. Their connections hold passwords, which cannot be kept until the cutover. What
    /// cannot be had is reported, and stops nothing.
    Subscription,
    /// After a table's copy: its indexes, primary key, unique and exclusion constraints.
    Index,
    /// After all indexes: what builds on them (statistics, comments, clustering, views that need a key).
    PostIndex,
    /// At the cutover: foreign keys, triggers, rules, policies, constraints that rows from before need not satisfy.
    Cutover,
    /// Last of all: owners, grants, publications, event triggers. What cannot be had here is reported, and stops nothing.
    Handover,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::PreData => "pre-data",
            Self::Subscription => "subscription",
            Self::Index => "index",
            Self::PostIndex => "post-index",
            Self::Cutover => "cutover",
            Self::Handover => "handover",
        }
    }
}

/// One statement of the schema.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Statement {
    pub phase: Phase,
    /// For people: `INDEX public.orders_created_idx`.
    pub object: String,
    /// The table an index or constraint belongs to.
    pub table: Option<TableName>,
    /// Name of the index or constraint that it makes.
    pub makes: Option<String>,
    pub sql: String,
    /// For a foreign key that was made NOT VALID: the statement that validates it after the cutover.
    pub validate: Option<String>,
    /// Roles that it names, as they are called on the target: they have to be there.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Those among them of which the user of the migration has to be a member: who gets something as its owner, or grants.
    #[serde(default)]
    pub member_of: Vec<String>,
    /// Its text may hold a password: it is shown and kept nowhere.
    #[serde(default)]
    pub secret: bool,
}

impl Statement {
    fn new(phase: Phase, object: String, sql: &str) -> Self {
        Self { phase, object, table: None, makes: None, sql: sql.to_owned(), validate: None, roles: Vec::new(), member_of: Vec::new(), secret: false }
    }

    /// The text for people and files.
    pub fn shown(&self) -> &str {
        if self.secret { "-- not shown: its options may hold a password" } else { &self.sql }
    }

    /// SHA-256 of the text, hexadecimal: the ledger knows a statement by it.
    pub fn digest(&self) -> String {
        hex(Sha256::new_with_prefix(&self.sql))
    }
}

/// The whole schema as it is printed, but for what is left out; with what is only wished for, if the plan has it.
pub async fn text(program: &PgDump, source: &Conninfo, plan: &Plan, omitted: &Omitted) -> Result<Arc<str>> {
    Ok(program::run(program, source, plan, omitted).await?.into())
}

/// What of the target decides how a schema is understood.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its major version.
    pub major: u32,
    /// It has TimescaleDB.
    pub timescale: bool,
}

/// The schema in the order of the dump, for this target; with a digest by which a changed schema is noticed.
pub async fn schema(text: Arc<str>, plan: &Plan, target: Target) -> Result<Schema> {
    let plan = plan.clone();
    let understood = tokio::task::spawn_blocking(move || classify(&text, &plan, target));
    understood.await.expect("parsing does not panic")
}

pub struct Schema {
    pub statements: Vec<Statement>,
    pub digest: String,
    /// What the target does not know, or cannot have as it is, and what becomes of it there.
    pub notes: Vec<Note>,
}

/// Enough of a SHA-256, hexadecimal.
fn hex(hash: Sha256) -> String {
    hash.finalize().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}
