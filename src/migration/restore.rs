//! Dumping the schema of the source, and running its statements on the target.

pub mod changes;
mod covered;
pub mod ddl;
pub mod existing;
pub mod flatten;
pub mod memberships;
pub mod roles;
pub mod statements;

use crate::pg::connect::session::version_num;

pub use self::covered::refuse_uncovered;
use super::context::{Context, Sides};
use crate::{
    error::Result,
    event::{Event, Stage},
    name::TableName,
    pg::{
        catalog::{
            self,
            exclusion::{self, Excluded},
        },
        client::Client,
        dump::{self, Dump, Phase, Schema, Statement},
        ledger,
        object::ObjectKind,
        target_table,
    },
    plan::Plan,
};

/// The schema as it is now, with the plan's hypertables in it and without what is left out.
pub async fn dump(sides: &Sides) -> Result<Schema> {
    dump_for(sides, &sides.plan).await
}

/// The same for another plan with the same filters. While the source's catalogs stay as they were, and the same partitions are left out, it
/// is not dumped again.
pub async fn dump_for(sides: &Sides, plan: &Plan) -> Result<Schema> {
    let source = sides.source().await?;
    let one_table: Vec<TableName> = plan.one_table.iter().chain(plan.hypertables.iter().map(|h| &h.table)).cloned().collect();
    let mut without_partitions = target_table::of_kind(&source, &one_table, "p").await?;
    without_partitions.sort();
    let state = format!("{} {without_partitions:?}", catalog::schema_state(&source).await?);
    let dump = match sides.schema_cache.get(&state) {
        Some(dump) => dump,
        None => print(sides, &source, plan, &exclusion::resolve(&source, plan).await?).await?,
    };
    drop(source);
    sides.schema_cache.keep(state, dump.clone());
    classified(sides, dump, plan).await
}

/// The schema as pg_dump prints it, without what is left out.
pub async fn print(sides: &Sides, source: &Client, plan: &Plan, excluded: &Excluded) -> Result<Dump> {
    let program = dump::find(sides.config.pg_dump.as_deref(), catalog::server(source).await?.major()).await?;
    dump::dump(&program, &sides.config.source, source, plan, excluded).await
}

/// The target's schema as pg_dump prints it.
pub async fn print_target(sides: &Sides) -> Result<Dump> {
    let program = dump::find(sides.config.pg_dump.as_deref(), version_num(&sides.endpoints.1.version) / 10_000).await?;
    dump::dump(&program, &sides.config.target, &sides.target().await?, &sides.plan, &Excluded::default()).await
}

/// The statements of such a dump, for this target.
pub async fn classified(sides: &Sides, dump: Dump, plan: &Plan) -> Result<Schema> {
    let target = dump::Target { major: version_num(&sides.endpoints.1.version) / 10_000, timescale: sides.timescale };
    let mut schema = dump::schema(dump, plan, target).await?;
    if sides.config.skip_extensions {
        schema.statements.retain(|s| s.object.kind != ObjectKind::Extension);
    }
    Ok(schema)
}

/// Runs the statements that come before the rows.
pub async fn restore(cx: &mut Context, schema: &Schema) -> Result<()> {
    // Flushed once at the end, because thousands of small statements would spend most of the time waiting for the disk.
    let mut session = ddl::DdlSession::new(&cx.config, cx.application("schema"), "set synchronous_commit = off");
    let target = session.client().await?;
    let mut executed = ledger::executed(target, Phase::PreData.as_str()).await?;
    executed.extend(ledger::executed(target, Phase::Subscription.as_str()).await?);
    let statements = memberships::runnable(cx, target, schema.statements.iter().filter(|s| s.phase == Phase::PreData)).await?;
    let subscriptions: Vec<&Statement> = schema.statements.iter().filter(|s| s.phase == Phase::Subscription).collect();
    let prompts = cx.prompts.sender();
    let reporter = cx.reporter.clone();
    let total = statements.len() as u64;
    let work = async {
        let progress = |done: usize, statement: &Statement| {
            reporter.progress(Event::SchemaProgress { done: done as u64, total, object: statement.object.to_string() });
        };
        ddl::run_all(&mut session, &statements, &executed, &reporter, Some(&prompts), progress).await?;
        ddl::run_all(&mut session, &subscriptions, &executed, &reporter, None, |_, _| {}).await?;
        reporter.report(Event::SchemaProgress { done: total, total, object: String::new() }).await;
        Ok(())
    };
    cx.prompts.drive(Stage::Schema, work, Err).await?;
    ledger::flush(&cx.target("schema").await?).await
}
