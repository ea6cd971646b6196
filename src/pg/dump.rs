//! The schema as pg_dump prints it, statement by statement, read with PostgreSQL's own parser.

mod alter_table;
mod ast;
mod classify;
mod definition;
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

use self::classify::classify;
pub use self::{
    definition::definition_query,
    named::named_relations,
    program::{PgDump, find},
    statement::{Dump, Note, Phase, Schema, Statement, Target, digest},
};
use super::{
    catalog::{self, exclusion::Excluded},
    client::Client,
    connect::conninfo::Conninfo,
};
use crate::{error::Result, plan::Plan};

/// The schema as pg_dump prints it, without what is left out and without what is not the application's. Publications, subscriptions, owners
/// and grants are in it only where the plan asks for them.
pub async fn dump(program: &PgDump, conninfo: &Conninfo, source: &Client, plan: &Plan, excluded: &Excluded) -> Result<Dump> {
    let text = program::run(program, conninfo, plan, excluded, &catalog::other_schemas(source).await?).await?.into();
    Ok(Dump { text, order: catalog::creation_order(source).await?.into() })
}

/// The schema in the order of the dump, for this target.
pub async fn schema(dump: Dump, plan: &Plan, target: Target) -> Result<Schema> {
    let plan = plan.clone();
    let classified = tokio::task::spawn_blocking(move || classify(&dump, &plan, target));
    classified.await.expect("parsing does not panic")
}
