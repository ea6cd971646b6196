//! Objects that are finished after the cutover, and what is not on the target, for the report.

use super::{super::copy::large_objects, refresh};
use crate::{
    error::Result,
    event::Level,
    migration::{
        context::Context,
        restore::{changes, statements},
    },
    pg::catalog,
};

/// Validates foreign keys, refreshes materialised views, and reports what changed on the source without being replayed.
pub async fn finish(cx: &mut Context) -> Result<()> {
    let target = cx.target("cutover").await?;
    for statement in statements::read(cx)? {
        let Some(validate) = &statement.validate else { continue };
        if let Err(e) = cx.unless_stopped(async { Ok(target.batch_execute(validate).await?) }).await {
            if e.is_stop() {
                return Err(e);
            }
            cx.not_moved(statement.object, format!("is there, but NOT VALID: {e}")).await?;
        }
    }
    refresh::views(cx, &target).await?;
    if let Err(e) = report_changes(cx).await {
        cx.differs("SCHEMA", format!("it is not known whether objects were made or altered on the source after the copy: {e}")).await?;
    }
    if let Err(e) = large_objects::report_changes(cx).await {
        cx.not_moved("LARGE OBJECTS", format!("it is not known whether they changed after the copy: {e}")).await?;
    }
    cx.notice(Level::Info, "foreign keys validated, materialised views refreshed").await;
    Ok(())
}

/// Reports what changed on the source after the copy and is different on the target. It does not prevent a cutover.
async fn report_changes(cx: &mut Context) -> Result<()> {
    let source = cx.source("cutover").await?;
    let now = catalog::shapes(&source, &cx.plan.scope).await?;
    let tables = catalog::differences(&cx.record.shapes, &now);
    let moved = cx.record.schema_state.is_none() || cx.record.schema_state != Some(catalog::schema_state(&source).await?);
    for (table, change) in tables.iter().filter(|(_, change)| change.concerns_rows()) {
        cx.differs(format!("TABLE {table}"), format!("{}; compare it with the target's, and move what is missing by hand", change.words())).await?;
    }
    if !moved {
        return Ok(());
    }
    let changes = cx.unless_stopped(changes::find(cx)).await?;
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
