//! The schema as pg_dump prints it, statement by statement, read with PostgreSQL's own parser.

mod alter_table;
mod ast;
mod classify;
mod downgrade;
pub mod index_build;
mod lost;
mod named;
mod phase;
mod privileges;
mod program;
mod publications;
pub mod repair;
mod statement;
mod toc;

use std::sync::Arc;

use self::classify::classify;
pub use self::{
    named::named_relations,
    program::{PgDump, find},
    statement::{Note, Phase, Schema, Statement, Target},
};
use super::{catalog::exclusion::Excluded, connect::conninfo::Conninfo};
use crate::{error::Result, plan::Plan};

/// The schema as pg_dump prints it, without what is left out. Publications, subscriptions, owners and grants are in it only where the plan
/// asks for them.
pub async fn text(program: &PgDump, source: &Conninfo, plan: &Plan, excluded: &Excluded) -> Result<Arc<str>> {
    Ok(program::run(program, source, plan, excluded).await?.into())
}

/// The schema in the order of the dump, for this target.
pub async fn schema(text: Arc<str>, plan: &Plan, target: Target) -> Result<Schema> {
    let plan = plan.clone();
    let classified = tokio::task::spawn_blocking(move || classify(&text, &plan, target));
    classified.await.expect("parsing does not panic")
}
