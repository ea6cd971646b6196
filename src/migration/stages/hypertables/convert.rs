//! Makes the hypertables on the target, and reads back what is there.

use super::candidates::keys;
use crate::{
    error::{Error, Result},
    event::{Event, Level, Stage},
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{ExclusionConstraint, SourceRelation},
        client::Client,
        ledger, timescale,
    },
    plan::{Hypertable, KeyChoice},
};

/// Makes the hypertables of the plan, each with its ledger row, all in one transaction: when one is refused, no other is made that could
/// not be taken out of the selection afterwards.
pub async fn convert(cx: &mut Context) -> Result<()> {
    let target = cx.target("hypertables").await?;
    let made = timescale::hypertables(&target).await?;
    let wanted: Vec<Hypertable> = cx.plan.hypertables.iter().filter(|h| !made.contains_key(&h.table)).cloned().collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let work = async {
        target.batch_execute("begin").await?;
        for h in &wanted {
            let record = ledger::record_ddl("hypertable", &h.table.to_string(), &h.table.sql());
            let sql = format!("{};\n{record} on conflict do nothing", h.sql(&cx.timescale.schema));
            target.batch_execute(&sql).await.map_err(|e| Error::from(e).context(format!("create_hypertable of {}", h.table)))?;
        }
        Ok(target.batch_execute("commit").await?)
    };
    if let Err(e) = cx.unless_stopped(work).await {
        target.batch_execute("rollback").await.ok();
        return Err(e.hint("no table was converted: take this one out of the selection (or of the plan), or fix the cause, and start again"));
    }
    for hypertable in wanted {
        cx.reporter.report(Event::HypertableCreated { hypertable }).await;
    }
    Ok(())
}

/// The target decides what is a hypertable. One that the operator created, or with other options, is taken into the plan as it is (H-19).
pub async fn read_back(cx: &mut Context, source: &Client, relations: &[SourceRelation], exclusions: &[ExclusionConstraint]) -> Result<()> {
    let target = cx.target("hypertables").await?;
    let mut made = timescale::hypertables(&target).await?;
    let mut found = Vec::new();
    for r in relations {
        let Some(first) = made.remove(&r.table).and_then(|dimensions| dimensions.into_iter().next()) else { continue };
        let planned = cx.plan.hypertable(&r.table).cloned();
        let by_hand = planned.is_none();
        let hypertable = Hypertable {
            table: r.table.clone(),
            chunk_interval: match planned.as_ref().filter(|p| p.time_column == first.column) {
                Some(p) => p.chunk_interval.clone(),
                None => first.interval.unwrap_or_default(),
            },
            time_column: first.column,
            key: planned.map_or(KeyChoice::Extend, |p| p.key),
        };
        if by_hand {
            cx.reporter.report(Event::HypertableCreated { hypertable: hypertable.clone() }).await;
        }
        drop_default_indexes(cx, source, &target, &r.table).await?;
        for key in keys(r, exclusions) {
            if let Some(obstacle) = key.objection(&hypertable) {
                return Err(Error::refused(format!(
                    "{} is a hypertable, but its key {} lacks {}: {obstacle}",
                    r.table, key.name, hypertable.time_column
                ))
                .hint("make it a plain table again on the target, or change the key on the source"));
            }
        }
        found.push(hypertable);
    }
    let one_table = std::mem::take(&mut cx.plan.one_table);
    cx.plan.select(found, one_table);
    Ok(())
}

/// Drops default indexes of a hypertable that the operator created where the source has an index of the same name, which is created after the
/// copy (H-6).
async fn drop_default_indexes(cx: &Context, source: &Client, target: &Client, table: &TableName) -> Result<()> {
    // Later they are the source's own.
    if cx.is_finished(Stage::Hypertables) {
        return Ok(());
    }
    for index in default_indexes(source, target, table).await? {
        target.batch_execute(&format!("drop index {}", index.sql())).await?;
        cx.notice(Level::Info, format!("target: default index {index} dropped; the source's index of that name is created after the copy")).await;
    }
    Ok(())
}

/// The indexes of a table of the target, before the copy, whose names the source's indexes will take.
pub async fn default_indexes(source: &Client, target: &Client, table: &TableName) -> Result<Vec<TableName>> {
    let names = "select c.relname::text as name from pg_index i join pg_class c on c.oid = i.indexrelid where i.indrelid = to_regclass($1)";
    let wanted: Vec<String> = source.query(names, &[&table.sql()]).await?.iter().map(|r| r.get("name")).collect();
    let found = target.query(names, &[&table.sql()]).await?;
    let found = found.iter().map(|r| TableName::new(&table.schema, r.get::<_, &str>("name")));
    Ok(found.filter(|index| wanted.contains(&index.name)).collect())
}
