//! A partitioned table of the source that becomes one table or one hypertable of the target (H-15). Where the schema was restored with
//! its partitions, the table is made anew without them, while everything is still empty.

use std::{collections::HashSet, sync::Mutex};

use super::schema;
use crate::{
    error::{Error, Result},
    event::Level,
    migration::Migration,
    name::TableName,
    pg::{
        catalog::Relation,
        client::Client,
        dump::{Phase, Schema},
        extent, ledger, target,
    },
};

/// Partitioned tables of the source that the plan wants as one table.
pub fn wanted(m: &Migration, relations: &[Relation]) -> Vec<TableName> {
    relations.iter().filter(|r| r.partitioned && m.plan.is_one_table(&r.table)).map(|r| r.table.clone()).collect()
}

/// The target decides: a table that was made there without its partitions stays so, whatever the plan of a later run says.
pub async fn adopt(m: &mut Migration, relations: &[Relation]) -> Result<()> {
    let partitioned: Vec<TableName> = relations.iter().filter(|r| r.partitioned).map(|r| r.table.clone()).collect();
    if partitioned.is_empty() {
        return Ok(());
    }
    let made = target::of_kind(&m.target("one-table").await?, &partitioned, "r").await?;
    for table in made {
        if !m.plan.is_one_table(&table) {
            m.notice(Level::Info, format!("{table} was made without partitions on the target, and stays so")).await;
            m.plan.one_table.insert(table);
        }
    }
    Ok(())
}

/// What cannot do without the partitions that will not be there.
pub async fn problem(m: &Migration, source: &Client, relations: &[Relation]) -> Result<Option<String>> {
    if wanted(m, relations).is_empty() {
        return Ok(None);
    }
    Ok(extent::resolve(source, &m.plan).await?.problems.into_iter().next())
}

/// Makes such tables without partitions, where they have some.
pub async fn make(m: &mut Migration, source: &Client, relations: &[Relation]) -> Result<()> {
    let wanted = wanted(m, relations);
    if wanted.is_empty() {
        return Ok(());
    }
    let target = m.target("one-table").await?;
    let partitioned = target::of_kind(&target, &wanted, "p").await?;
    if !partitioned.is_empty() {
        m.dumped = Mutex::default();
    }
    let schema = schema::dump(m).await?;
    m.record.schema = Some(schema.digest.clone());
    m.save()?;
    if !partitioned.is_empty() {
        let others = others(m, source, &partitioned).await?;
        take_away(&target, &partitioned, &others).await?;
    }
    drop(target);
    schema::restore(m, &schema).await?;
    let all = extent::resolve(source, &m.plan).await?.lines;
    let (partitions, others): (Vec<&String>, Vec<&String>) = all.iter().partition(|l| l.starts_with("table ") && !l.contains(": "));
    for line in others {
        let (object, reason) = line.split_once(": ").unwrap_or((line, ""));
        m.not_moved(object, format!("{reason}, a partition on the source only")).await?;
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

async fn others(m: &Migration, source: &Client, tables: &[TableName]) -> Result<Others> {
    let mut plan = m.plan.clone();
    for table in tables {
        plan.scope.exclude.push(extent::exact_pattern(table).parse()?);
    }
    plan.hypertables.retain(|h| !tables.contains(&h.table));
    plan.one_table.retain(|t| !tables.contains(t));
    let omitted = extent::resolve(source, &plan).await?;
    if let Some(problem) = omitted.problems.first() {
        return Err(Error::refused(format!("{problem}; so the partitioned table cannot be made anew"))
            .hint("keep its partitions; or name it in a plan (one_table, or [[hypertable]]), run `hyperlift clean`, empty the target and start with that plan"));
    }
    let text = schema::print(m, source, &plan, &omitted).await?;
    Ok(Others { schema: schema::understood(m, text, &plan).await?, gone: omitted.lines.into_iter().collect() })
}

/// Drops the tables with all that hangs on them, and forgets that it was made: the restoration goes over it again. After an error the
/// connection is no good any more.
async fn take_away(target: &Client, tables: &[TableName], others: &Others) -> Result<()> {
    let kept: HashSet<&str> = others.schema.statements.iter().map(|s| s.object.as_str()).collect();
    target.batch_execute("begin").await?;
    for sequence in target::owned_sequences(target, tables).await? {
        // A default of another table counts with it, too.
        if kept.contains(format!("SEQUENCE {}.{}", sequence.schema, sequence.name).as_str()) {
            target.batch_execute(&format!("alter sequence {} owned by none", sequence.sql())).await?;
        }
    }
    let strange = extent::hanging_on(target, tables).await?.into_iter().find(|line| !others.gone.contains(line));
    if let Some(line) = strange {
        return Err(Error::refused(format!("{line}; the source has no such object, and it would go with the partitions"))
            .hint("drop it on the target, or keep the partitions"));
    }
    let names = tables.iter().map(TableName::sql).collect::<Vec<_>>().join(", ");
    target.batch_execute(&format!("drop table {names} cascade")).await?;
    let left: Vec<String> = others.schema.statements.iter().filter(|s| s.phase == Phase::PreData).map(crate::pg::dump::Statement::digest).collect();
    ledger::forget_others(target, Phase::PreData.word(), &left).await?;
    Ok(target.batch_execute("commit").await?)
}
