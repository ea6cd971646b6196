//! Objects that are finished after the cutover, and what is not on the target, for the report.

use super::{super::copy::large_objects, refresh};
use crate::{
    error::Result,
    event::Level,
    migration::{
        context::Context,
        restore::{ddl, statements},
    },
    pg::catalog,
};

/// Validates foreign keys and checks, refreshes materialised views, and reports what changed on the source without being replayed.
pub async fn finish(cx: &mut Context) -> Result<()> {
    let target = cx.target("cutover").await?;
    let mut session = ddl::DdlSession::new(&cx.config, cx.application("cutover"), "");
    for statement in statements::read(cx)? {
        let Some(validate) = &statement.validate else { continue };
        let validated = ddl::run_with_retry(&mut session, validate, validate, &cx.reporter);
        if let Err(e) = cx.unless_stopped(validated).await {
            if e.is_stop() {
                return Err(e);
            }
            cx.not_moved(statement.object, format!("is there, but NOT VALID: {e}")).await?;
        }
    }
    refresh::views(cx, &target).await?;
    if let Err(e) = report_changed_tables(cx).await {
        cx.not_moved("TABLES", format!("it is not known whether tables were made or altered on the source after the copy: {e}")).await?;
    }
    if let Err(e) = large_objects::report_changes(cx).await {
        cx.not_moved("LARGE OBJECTS", format!("it is not known whether they changed after the copy: {e}")).await?;
    }
    cx.notice(Level::Info, "foreign keys and checks validated, materialised views refreshed").await;
    Ok(())
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
