//! Objects that are finished after the cutover, and what is not on the target, for the report.

use super::{super::copy::large_objects, refresh};
use crate::{
    error::Result,
    event::Level,
    migration::{
        context::Context,
        restore::{changes, ddl, statements},
    },
    pg::catalog::{self, ForeignPart},
};

/// Validates foreign keys and checks, refreshes materialised views, and reports what changed on the source without being replayed.
pub async fn finish(cx: &mut Context) -> Result<()> {
    let target = cx.target("cutover").await?;
    let mut validated = true;
    let mut session = ddl::DdlSession::new(&cx.config, cx.application("cutover"), "");
    for statement in statements::read(cx.work.path())? {
        let Some(validate) = &statement.validate else { continue };
        let validation = ddl::run_with_retry(&mut session, validate, validate, &cx.reporter);
        if let Err(e) = cx.unless_stopped(validation).await {
            if e.is_stop() {
                return Err(e);
            }
            validated = false;
            let reason = format!("is there, but NOT VALID: {e}");
            // Filters that leave rows out may leave out what the others refer to.
            if cx.plan.scope.is_everything() {
                cx.differs(statement.object, reason).await?;
            } else {
                cx.not_moved(statement.object, reason).await?;
            }
        }
    }
    let refreshed = refresh::views(cx, &target).await?;
    if let Err(e) = report_changes(cx).await {
        cx.unknown("SCHEMA", format!("it is not known whether objects were made or altered on the source after the copy: {e}")).await?;
    }
    compare_foreign_rows(cx).await?;
    if let Err(e) = large_objects::report_changes(cx).await {
        cx.record.unknown_objects.insert("LARGE OBJECTS".into());
        cx.not_moved("LARGE OBJECTS", format!("it is not known whether they changed after the copy: {e}")).await?;
    }
    cx.notice(if validated && refreshed { Level::Info } else { Level::Warn }, outcome(validated, refreshed)).await;
    // What the source did not say is asked again by the next run.
    cx.record.objects_finished = cx.record.unknown_objects.is_empty();
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
                cx.differs(format!("FOREIGN TABLE {}", part.table), reason).await?;
            }
            Err(e) if e.is_stop() => return Err(e),
            Err(e) => {
                let reason = format!("it is not known whether its rows changed since they were copied into {}: {e}", part.root);
                cx.unknown(format!("FOREIGN TABLE {}", part.table), reason).await?;
            }
        }
    }
    Ok(())
}

fn outcome(validated: bool, refreshed: bool) -> String {
    let keys = if validated { "foreign keys and checks validated" } else { "not all foreign keys and checks are validated" };
    let views = if refreshed { "materialised views refreshed" } else { "not all materialised views are refreshed" };
    let rest = if validated && refreshed { "" } else { "; what is missing was reported as not moved" };
    format!("{keys}, {views}{rest}")
}

/// Reports what changed on the source after the copy and is different on the target. It does not prevent a cutover.
async fn report_changes(cx: &mut Context) -> Result<()> {
    let source = cx.source("cutover").await?;
    let now = catalog::shapes(&source, &cx.plan.scope).await?;
    let tables = cx.record.changed_tables(&now);
    let moved = cx.record.schema_state.is_none() || cx.record.schema_state != Some(catalog::schema_state(&source).await?);
    for (table, change) in tables.iter().filter(|(_, change)| change.concerns_rows()) {
        cx.differs(format!("TABLE {table}"), format!("{}; compare it with the target's, and move what is missing by hand", change.words())).await?;
    }
    if !moved {
        return Ok(());
    }
    let changes = cx.unless_stopped(changes::find(&cx.sides())).await?;
    for (object, how) in changes.lines() {
        let known = tables.iter().any(|(table, change)| change.concerns_rows() && format!("TABLE {table}") == object.to_string());
        if !known {
            cx.differs(object, format!("{how} on the source after the copy, and is different on the target")).await?;
        }
    }
    if !changes.is_empty() {
        cx.work.replace(changes::SCRIPT, changes.script().as_bytes())?;
    }
    Ok(())
}
