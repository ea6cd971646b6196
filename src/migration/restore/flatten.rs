//! A partitioned table of the source that becomes one table or one hypertable of the target (H-15). Where the schema was restored with
//! its partitions, the table is made anew without them, while everything is still empty.

use std::{collections::HashSet, sync::Mutex};

use crate::{
    error::{Error, Result},
    event::Level,
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{Relation, exclusion},
        client::Client,
        dump::{Phase, Schema},
        ledger,
        object::{ObjectKind, ObjectRef},
        target_table,
    },
};

/// Partitioned tables of the source that the plan wants as one table.
pub fn wanted(cx: &Context, relations: &[Relation]) -> Vec<TableName> {
    relations.iter().filter(|r| r.partitioned && cx.plan.is_one_table(&r.table)).map(|r| r.table.clone()).collect()
}

/// The target decides: a table that was made there without its partitions stays so, whatever the plan of a later run says.
pub async fn adopt(cx: &mut Context, relations: &[Relation]) -> Result<()> {
    let partitioned: Vec<TableName> = relations.iter().filter(|r| r.partitioned).map(|r| r.table.clone()).collect();
    if partitioned.is_empty() {
        return Ok(());
    }
    let made = target_table::of_kind(&cx.target("one-table").await?, &partitioned, "r").await?;
    for table in made {
        if !cx.plan.is_one_table(&table) {
            cx.notice(Level::Info, format!("{table} was made without partitions on the target, and stays so")).await;
            cx.plan.one_table.insert(table);
        }
    }
    Ok(())
}

/// What cannot do without the partitions that will not be there.
pub async fn problem(cx: &Context, source: &Client, relations: &[Relation]) -> Result<Option<String>> {
    if wanted(cx, relations).is_empty() {
        return Ok(None);
    }
    Ok(exclusion::resolve(source, &cx.plan).await?.problems.into_iter().next())
}

/// Makes such tables without partitions, where they have some.
pub async fn make(cx: &mut Context, source: &Client, relations: &[Relation]) -> Result<()> {
    let wanted = wanted(cx, relations);
    if wanted.is_empty() {
        return Ok(());
    }
    let target = cx.target("one-table").await?;
    let partitioned = target_table::of_kind(&target, &wanted, "p").await?;
    if !partitioned.is_empty() {
        cx.dumped = Mutex::default();
    }
    let schema = super::dump(cx).await?;
    cx.record.schema = Some(schema.digest.clone());
    cx.save()?;
    if !partitioned.is_empty() {
        let others = others(cx, source, &partitioned).await?;
        take_away(&target, &partitioned, &others).await?;
    }
    drop(target);
    super::restore(cx, &schema).await?;
    let all = exclusion::resolve(source, &cx.plan).await?.lines;
    let (partitions, others): (Vec<&String>, Vec<&String>) = all.iter().partition(|l| l.starts_with("table ") && !l.contains(": "));
    for line in others {
        let (object, reason) = line.split_once(": ").unwrap_or((line, ""));
        cx.not_moved(object, format!("{reason}, a partition on the source only")).await?;
    }
    tracing::info!(tables = wanted.len(), partitions = partitions.len(), "partitioned tables are one table each");
    Ok(())
}

/// The schema as it would be without these tables, and whatever cannot be without them.
struct Others {
    schema: Schema,
    /// What goes with the tables, as [`extent`] says it.
    gone: HashSet<String>,
}

async fn others(cx: &Context, source: &Client, tables: &[TableName]) -> Result<Others> {
    let mut plan = cx.plan.clone();
    for table in tables {
        plan.scope.exclude.push(exclusion::exact_pattern(table).parse()?);
    }
    plan.hypertables.retain(|h| !tables.contains(&h.table));
    plan.one_table.retain(|t| !tables.contains(t));
    let omitted = exclusion::resolve(source, &plan).await?;
    if let Some(problem) = omitted.problems.first() {
        return Err(Error::refused(format!("{problem}; so the partitioned table cannot be made anew"))
            .hint("keep its partitions; or name it in a plan (one_table, or [[hypertable]]), run `hyperlift clean`, empty the target and start with that plan"));
    }
    let text = super::print(cx, source, &plan, &omitted).await?;
    Ok(Others { schema: super::understood(cx, text, &plan).await?, gone: omitted.lines.into_iter().collect() })
}

/// Drops the tables with all that hangs on them, and forgets that it was made: the restoration goes over it again. After an error the
/// connection is no good any more.
async fn take_away(target: &Client, tables: &[TableName], others: &Others) -> Result<()> {
    let kept: HashSet<&ObjectRef> = others.schema.statements.iter().map(|s| &s.object).collect();
    target.batch_execute("begin").await?;
    for sequence in target_table::owned_sequences(target, tables).await? {
        // A default of another table counts with it, too.
        if kept.contains(&ObjectRef::new(ObjectKind::Sequence, format!("{}.{}", sequence.schema, sequence.name))) {
            target.batch_execute(&format!("alter sequence {} owned by none", sequence.sql())).await?;
        }
    }
    let strange = exclusion::hanging_on(target, tables).await?.into_iter().find(|line| !others.gone.contains(line));
    if let Some(line) = strange {
        return Err(Error::refused(format!("{line}; the source has no such object, and it would go with the partitions"))
            .hint("drop it on the target, or keep the partitions"));
    }
    let names = tables.iter().map(TableName::sql).collect::<Vec<_>>().join(", ");
    target.batch_execute(&format!("drop table {names} cascade")).await?;
    let left: Vec<String> = others.schema.statements.iter().filter(|s| s.phase == Phase::PreData).map(crate::pg::dump::Statement::digest).collect();
    ledger::forget_others(target, Phase::PreData.as_str(), &left).await?;
    Ok(target.batch_execute("commit").await?)
}
