//! The schema as pg_dump prints it, taken apart statement by statement and understood with PostgreSQL's own parser.

mod alter;
mod entries;
mod older;
mod program;
mod understand;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

pub use self::program::{PgDump, find};
use self::understand::understand;
use super::{conninfo::Conninfo, extent::Omitted};
use crate::{error::Result, name::TableName, plan::Plan};

/// When a statement is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Before the copy: types, functions, tables, sequences, views.
    PreData,
    /// After a table's copy: its indexes, primary key, unique and exclusion constraints.
    Index,
    /// After all indexes: what builds on them (statistics, comments, clustering, views that need a key).
    PostIndex,
    /// At the cutover: foreign keys, triggers, rules, policies, event triggers.
    Cutover,
}

impl Phase {
    pub fn word(self) -> &'static str {
        match self {
            Self::PreData => "pre-data",
            Self::Index => "index",
            Self::PostIndex => "post-index",
            Self::Cutover => "cutover",
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
}

impl Statement {
    /// SHA-256 of the text, hexadecimal: the ledger knows a statement by it.
    pub fn digest(&self) -> String {
        let hash = Sha256::digest(self.sql.as_bytes());
        hash.iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
    }
}

/// The whole schema but for what is left out, in the order of the dump, for a target of this major version; with a digest by which a
/// changed schema is noticed.
pub async fn schema(program: &PgDump, source: &Conninfo, plan: &Plan, omitted: &Omitted, target: u32) -> Result<Schema> {
    let mut statements = Vec::new();
    let mut hash = Sha256::new();
    for (section, phase) in [("pre-data", Phase::PreData), ("post-data", Phase::PostIndex)] {
        let text = program::run(program, source, section, omitted).await?;
        hash.update(text.as_bytes());
        let plan = plan.clone();
        let part = tokio::task::spawn_blocking(move || understand(&text, phase, &plan)).await.expect("parsing does not panic")?;
        statements.extend(part);
    }
    let notes = older::adapt(&mut statements, target)?;
    let digest = hash.finalize().iter().take(16).fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    Ok(Schema { statements, digest, notes })
}

pub struct Schema {
    pub statements: Vec<Statement>,
    pub digest: String,
    /// What the target does not know, and what became of it.
    pub notes: Vec<String>,
}
