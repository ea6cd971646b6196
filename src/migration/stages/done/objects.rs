//! Objects that are finished after the cutover, and what is not on the target, for the report.

use super::{super::copy::large_objects, refresh};
use crate::{
    error::Result,
    event::Level,
    migration::{context::Context, restore::statements},
    pg::catalog::{self, ForeignPart},
};

/// Validates foreign keys, refreshes materialised views, and reports what changed on the source without being replayed.
pub async fn finish(cx: &mut Context) -> Result<()> {
    let target = cx.target("cutover").await?;
    let mut validated = true;
    for statement in statements::read(cx)? {
        let Some(validate) = &statement.validate else { continue };
        if let Err(e) = cx.unless_stopped(async { Ok(target.batch_execute(validate).await?) }).await {
            if e.is_stop() {
                return Err(e);
            }
            validated = false;
            cx.not_moved(statement.object, format!("is there, but NOT VALID: {e}")).await?;
        }
    }
    let refreshed = refresh::views(cx, &target).await?;
    if let Err(e) = report_changed_tables(cx).await {
        cx.not_moved("TABLES", format!("it is not known whether tables were made or altered on the source after the copy: {e}")).await?;
    }
    compare_foreign_rows(cx).await?;
    if let Err(e) = large_objects::report_changes(cx).await {
        cx.not_moved("LARGE OBJECTS", format!("it is not known whether they changed after the copy: {e}")).await?;
    }
    cx.notice(if validated && refreshed { Level::Info } else { Level::Warn }, outcome(validated, refreshed)).await;
    cx.record.objects_finished = true;
    cx.save()
}

/// Compares rows of foreign partitions that were copied into one table with what they are now.
async fn compare_foreign_rows(cx: &mut Context) -> Result<()> {
    for before in cx.record.foreign_rows.clone() {
        let part = ForeignPart { table: before.table.clone(), root: before.root.clone(), is_partition: true };
        let now = async { catalog::foreign_rows(&cx.source("cutover").await?, &part).await };
        match cx.unless_stopped(now).await {
            Ok(now) if now == before => {}
            Ok(now) => {
                let reason = format!("its rows have changed since they were copied into {}: {} then, {} now", part.root, before.rows, now.rows);
                cx.not_moved(format!("FOREIGN TABLE {}", part.table), reason).await?;
                if !cx.record.foreign_changed.contains(&part.table) {
                    cx.record.foreign_changed.push(part.table);
                    cx.save()?;
                }
            }
            Err(e) if e.is_stop() => return Err(e),
            Err(e) => {
                let reason = format!("it is not known whether its rows changed since they were copied into {}: {e}", part.root);
                cx.not_moved(format!("FOREIGN TABLE {}", part.table), reason).await?;
            }
        }
    }
    Ok(())
}

fn outcome(validated: bool, refreshed: bool) -> String {
    let keys = if validated { "foreign keys validated" } else { "not all foreign keys are validated" };
    let views = if refreshed { "materialised views refreshed" } else { "not all materialised views are refreshed" };
    let rest = if validated && refreshed { "" } else { "; what is missing was reported as not moved" };
    format!("{keys}, {views}{rest}")
}

/// Reports tables that were made on the source after the copy, or altered in a way that replay did not see. They do not prevent a cutover.
async fn report_changed_tables(cx: &mut Context) -> Result<()> {
    let source = cx.source("cutover").await?;
    let now = catalog::shapes(&source, &cx.plan.scope).await?;
    for (table, how) in catalog::differences(&cx.record.shapes, &now) {
        cx.not_moved(format!("TABLE {table}"), format!("{how}; compare it with the target's and move what is missing by hand")).await?;
    }
    Ok(())
}
