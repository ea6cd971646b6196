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
            self, SourceRelation,
            exclusion::{self, Cause, ExcludedObject},
        },
        client::Client,
        dump::{Phase, Schema, Statement},
        ledger,
        object::{ObjectKind, ObjectRef},
        target_table,
    },
    plan::{IdentityChoice, Plan},
};

use super::ddl;

/// The step of the ledger from the drop of the partitioned tables until the schema is restored again. A run that stops in between goes on
/// from there.
const FLATTENING: &str = "flattening";

/// How long a foreign partition is tried to read.
const READ_TIMEOUT: &str = "5s";

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

/// Why some table cannot lose its partitions: something that stays needs one of them, their keys would repeat in one table, or their
/// rows cannot be read.
pub async fn obstacle(cx: &Context, source: &Client, relations: &[SourceRelation]) -> Result<Option<String>> {
    let tables = tables_to_flatten(cx, relations);
    if tables.is_empty() {
        return Ok(None);
    }
    let updated = |r: &&SourceRelation| tables.contains(&r.table) && cx.plan.identity(&r.table) != Some(&IdentityChoice::InsertOnly);
    if let Some((r, leaf)) = relations.iter().filter(updated).find_map(|r| Some((r, r.repeating_leaf.as_ref()?))) {
        return Ok(Some(format!(
            "{} cannot lose its partitions: the key of {leaf} lacks a column by which they divide the rows, so one table may hold it twice, and replay \
             would not know which row is meant. Keep the partitions, or set REPLICA IDENTITY FULL on each of them on the source",
            r.table
        )));
    }
    for part in catalog::foreign_partitions(source, &tables).await? {
        if let Err(e) = catalog::try_to_read(source, &part.table, READ_TIMEOUT).await {
            let why = format!("{} cannot lose its partitions: the rows of foreign table {} cannot be copied ({e})", part.root, part.table);
            return Ok(Some(format!("{why}. Keep the partitions, or let the source's user read it")));
        }
    }
    Ok(exclusion::resolve(source, &cx.plan).await?.problems.into_iter().next())
}

/// What the operator has to know of tables that lose their partitions; may be empty.
pub async fn remark(cx: &Context, source: &Client, relations: &[SourceRelation]) -> Result<String> {
    let foreign = catalog::foreign_partitions(source, &tables_to_flatten(cx, relations)).await?;
    let names: Vec<String> = foreign.iter().map(|part| part.table.to_string()).collect();
    if names.is_empty() {
        return Ok(String::new());
    }
    Ok(format!(" The rows of foreign tables are copied once, and later changes of them are in no stream: {}.", names.join(", ")))
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
    for part in catalog::foreign_partitions(source, &tables).await? {
        let fate = format!("its rows are copied into {} once: later changes of them are in no stream", part.root);
        cx.not_moved(format!("FOREIGN TABLE {}", part.table), fate).await?;
    }
    for lost in lost_with_partitions(cx, source).await? {
        cx.not_moved(format!("{} {}", lost.kind, lost.name), format!("{}, which the target does not have", lost.cause)).await?;
    }
    Ok(())
}

async fn flatten(cx: &mut Context, source: &Client, target: &Client, partitioned: &[TableName]) -> Result<()> {
    let schema = super::dump(&cx.sides()).await?;
    cx.record.schema = Some(schema.digest.clone());
    cx.save()?;
    if !partitioned.is_empty() {
        let rest = schema_without(cx, source, &cx.plan, partitioned).await?;
        target.batch_execute("begin").await?;
        drop_tables(target, partitioned, &rest).await?;
        target.batch_execute(&ledger::step_sql(FLATTENING)).await?;
        target.batch_execute("commit").await?;
    }
    super::restore(cx, &schema).await
}

/// Makes the same of partitioned tables of the target in the transaction that is open, to try what follows. The plan leaves their partitions
/// out, and the schema is that of the plan.
pub async fn flatten_within(cx: &Context, source: &Client, target: &Client, (plan, schema): (&Plan, &Schema), tables: &[TableName]) -> Result<()> {
    let rest = schema_without(cx, source, plan, tables).await?;
    drop_tables(target, tables, &rest).await?;
    let executed = ledger::executed(target, Phase::PreData.as_str()).await?;
    let path = ledger::migration(target).await?.and_then(|known| known.search_path);
    for statement in schema.statements.iter().filter(|s| s.phase == Phase::PreData && !executed.contains(&s.digest())) {
        if let Err(e) = ddl::in_savepoint(target, statement.sql.trim_end_matches(';'), path.as_deref()).await {
            // The operator decides about it when it is run.
            tracing::info!(object = %statement.object, "not tried: {e}");
        }
    }
    Ok(())
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

async fn schema_without(cx: &Context, source: &Client, plan: &Plan, tables: &[TableName]) -> Result<Rest> {
    let mut plan = plan.clone();
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
    let dump = super::print(&cx.sides(), source, &plan, &excluded).await?;
    Ok(Rest { schema: super::classified(&cx.sides(), dump, &plan).await?, gone: excluded.list.into_iter().collect() })
}

/// Drops the tables with all that depends on them in the transaction that is open, and forgets the statements that made it, so that restoring
/// the schema runs them again.
async fn drop_tables(target: &Client, tables: &[TableName], rest: &Rest) -> Result<()> {
    let kept: HashSet<&ObjectRef> = rest.schema.statements.iter().map(|s| &s.object).collect();
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
    ledger::forget_others(target, Phase::PreData.as_str(), &kept).await
}
