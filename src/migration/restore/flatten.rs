//! Partitioned tables of the source that become one table or one hypertable of the target. Where the schema was restored with partitions,
//! such a table is dropped and created again without them, while everything is still empty.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    event::Level,
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{
            SourceRelation,
            exclusion::{self, Cause, ExcludedObject},
        },
        client::Client,
        dump::{Phase, Schema, Statement},
        ledger,
        object::{ObjectKind, ObjectRef},
        target_table,
    },
};

/// The step of the ledger from the drop of the partitioned tables until the schema is restored again. A run that stops in between goes on
/// from there.
const FLATTENING: &str = "flattening";

/// Partitioned tables of the source that are to be one table each.
fn tables_to_flatten(cx: &Context, relations: &[SourceRelation]) -> Vec<TableName> {
    relations.iter().filter(|r| r.storage.is_partitioned() && cx.plan.is_one_table(&r.table)).map(|r| r.table.clone()).collect()
}

/// Takes tables into the plan that the target has without partitions already: they stay so, whatever the plan of a later run says.
pub async fn read_back(cx: &mut Context, relations: &[SourceRelation]) -> Result<()> {
    let partitioned: Vec<TableName> = relations.iter().filter(|r| r.storage.is_partitioned()).map(|r| r.table.clone()).collect();
    if partitioned.is_empty() {
        return Ok(());
    }
    let flat = target_table::of_kind(&cx.target("one-table").await?, &partitioned, "r").await?;
    for table in flat {
        if !cx.plan.is_one_table(&table) {
            cx.notice(Level::Info, format!("{table} was created without partitions on the target, and stays so")).await;
            cx.plan.one_table.insert(table);
        }
    }
    Ok(())
}

/// Why some table cannot lose its partitions: something that stays needs one of them.
pub async fn obstacle(cx: &Context, source: &Client, relations: &[SourceRelation]) -> Result<Option<String>> {
    if tables_to_flatten(cx, relations).is_empty() {
        return Ok(None);
    }
    Ok(exclusion::resolve(source, &cx.plan).await?.problems.into_iter().next())
}

/// Creates the tables again without partitions where the target has them with some, and reports what is lost with the partitions.
pub async fn run(cx: &mut Context, source: &Client, relations: &[SourceRelation]) -> Result<()> {
    let tables = tables_to_flatten(cx, relations);
    if tables.is_empty() {
        return Ok(());
    }
    let target = cx.target("one-table").await?;
    let partitioned = target_table::of_kind(&target, &tables, "p").await?;
    // Only then: the schema of the source may be another one by now, of which the target has other tables already.
    if !partitioned.is_empty() || ledger::has_step(&target, FLATTENING).await? {
        flatten(cx, source, &target, &partitioned).await?;
        target.batch_execute(&ledger::forget_step_sql(FLATTENING)).await?;
    }
    tracing::info!(tables = tables.len(), "partitioned tables are one table each");
    for lost in lost_with_partitions(cx, source).await? {
        cx.not_moved(format!("{} {}", lost.kind, lost.name), format!("{}, which the target does not have", lost.cause)).await?;
    }
    Ok(())
}

async fn flatten(cx: &mut Context, source: &Client, target: &Client, partitioned: &[TableName]) -> Result<()> {
    cx.schema_cache.forget();
    let schema = super::dump(cx).await?;
    cx.record.schema = Some(schema.digest.clone());
    cx.save()?;
    if !partitioned.is_empty() {
        let rest = schema_without(cx, source, partitioned).await?;
        drop_tables(target, partitioned, &rest).await?;
    }
    super::restore(cx, &schema).await
}

/// What goes with the partitions, without what the filters leave out in any case.
async fn lost_with_partitions(cx: &Context, source: &Client) -> Result<Vec<ExcludedObject>> {
    let mut with_partitions = cx.plan.clone();
    with_partitions.one_table.clear();
    with_partitions.hypertables.clear();
    let by_filters = exclusion::resolve(source, &with_partitions).await?.list;
    let by_filters: HashSet<(&str, &str)> = by_filters.iter().map(|o| (o.kind.as_str(), o.name.as_str())).collect();
    let mut lost = exclusion::resolve(source, &cx.plan).await?.list;
    lost.retain(|o| o.cause != Cause::Filter && !by_filters.contains(&(o.kind.as_str(), o.name.as_str())));
    Ok(lost)
}

/// The schema without some tables and all that cannot exist without them.
struct Rest {
    schema: Schema,
    /// What goes with the tables.
    gone: HashSet<ExcludedObject>,
}

async fn schema_without(cx: &Context, source: &Client, tables: &[TableName]) -> Result<Rest> {
    let mut plan = cx.plan.clone();
    for table in tables {
        plan.scope.exclude.push(exclusion::exact_pattern(table).parse()?);
    }
    plan.hypertables.retain(|h| !tables.contains(&h.table));
    plan.one_table.retain(|t| !tables.contains(t));
    let excluded = exclusion::resolve(source, &plan).await?;
    if let Some(problem) = excluded.problems.first() {
        return Err(Error::refused(format!("{problem}; so the partitioned table cannot be created again"))
            .hint("keep its partitions; or name it in a plan (one_table, or [[hypertable]]), run `hyperlift clean`, empty the target and start with that plan"));
    }
    let dump = super::print(cx, source, &plan, &excluded).await?;
    Ok(Rest { schema: super::classified(cx, dump, &plan).await?, gone: excluded.list.into_iter().collect() })
}

/// Drops the tables with all that depends on them, and forgets the statements that made it, so that restoring the schema runs them again.
/// After an error the connection is still within the failed transaction.
async fn drop_tables(target: &Client, tables: &[TableName], rest: &Rest) -> Result<()> {
    let kept: HashSet<&ObjectRef> = rest.schema.statements.iter().map(|s| &s.object).collect();
    target.batch_execute("begin").await?;
    for sequence in target_table::owned_sequences(target, tables).await? {
        // A default of another table counts with it, too.
        if kept.contains(&ObjectRef::new(ObjectKind::Sequence, format!("{}.{}", sequence.schema, sequence.name))) {
            target.batch_execute(&format!("alter sequence {} owned by none", sequence.sql())).await?;
        }
    }
    if let Some(unknown) = exclusion::dependents(target, tables).await?.into_iter().find(|object| !rest.gone.contains(object)) {
        return Err(Error::refused(format!("{unknown}; the source has no such object, and it would go with the partitions"))
            .hint("drop it on the target, or keep the partitions"));
    }
    let names = tables.iter().map(TableName::sql).collect::<Vec<_>>().join(", ");
    target.batch_execute(&format!("drop table {names} cascade")).await?;
    let kept: Vec<String> = rest.schema.statements.iter().filter(|s| s.phase == Phase::PreData).map(Statement::digest).collect();
    ledger::forget_others(target, Phase::PreData.as_str(), &kept).await?;
    target.batch_execute(&ledger::step_sql(FLATTENING)).await?;
    Ok(target.batch_execute("commit").await?)
}
