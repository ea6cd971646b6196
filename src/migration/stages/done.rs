//! Stage 9: what needs no downtime. Foreign keys are validated and materialised views refreshed, the source is watched for late writes, and
//! everything that hyperlift made on either side is removed. Event triggers come last.

pub mod clean;
mod event_triggers;
mod late_writes;
mod objects;
mod refresh;

use super::{catch_up, copy::Replication};
use crate::{
    error::{Error, Kind, Result},
    event::{Event, Level, Stage, StageState},
    migration::{context::Context, restore::changes},
};

/// Objects that the last error names.
const NAMED: usize = 5;

/// Follows the handover while the receiver still runs.
pub async fn run(cx: &mut Context, replication: Replication) -> Result<()> {
    cx.enter(Stage::Done).await;
    let end = cx.record.end.unwrap_or_default();
    let finished = async {
        objects::finish(cx).await?;
        event_triggers::announce(cx).await?;
        late_writes::linger(cx, &replication.receiver, end).await
    };
    let finished = finished.await;
    replication.end().await;
    finished?;
    end_migration(cx).await
}

/// Continues a migration whose cutover is complete. Once it has cleaned up nothing remains to be done.
pub async fn resume(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Done).await;
    if cx.is_finished(Stage::Done) {
        cx.notice(Level::Info, "this migration is complete and cleaned up").await;
        return cx.finish(Stage::Done).await;
    }
    if !cx.record.objects_finished {
        objects::finish(cx).await?;
    }
    if let Some(end) = cx.record.end {
        late_writes::check_since(cx, end).await?;
    }
    end_migration(cx).await
}

/// Removes what hyperlift made, and returns how the migration ended.
async fn end_migration(cx: &mut Context) -> Result<()> {
    let cleaned = clean::finish(cx).await;
    cx.reporter.report(Event::StageChanged { stage: Stage::Done, state: StageState::Done }).await;
    if cx.record.late { Err(late_writes::error()) } else { check_differences(cx).and(cleaned) }
}

/// Tables that differ with the operator's consent, and objects that changed on the source, are named once more, and make the exit code another
/// one.
fn check_differences(cx: &Context) -> Result<()> {
    if !cx.record.different_objects.is_empty() {
        let named: Vec<&str> = cx.record.different_objects.iter().take(NAMED).map(String::as_str).collect();
        let more = cx.record.different_objects.len() - named.len();
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        return Err(Error::new(Kind::Differs, format!("the target differs from the source: {}{more}", named.join(", "))).hint(format!(
            "the report gives the reasons; statements for what changed on the source after the copy are in {}",
            cx.work.path().join(changes::SCRIPT).display()
        )));
    }
    let differences = catch_up::differences(cx);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, format!("the target differs from the source; not applied: {differences}"))
        .hint("these changes found no row, or collided with one: compare the tables and correct the rows by hand"))
}
