//! Stage 9: what needs no downtime. Foreign keys are validated and materialised views refreshed, the source is watched for late writes, and
//! everything that hyperlift made on either side is removed. Event triggers come last.

pub mod clean;
mod event_triggers;
mod identity;
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
        cx.finish(Stage::Done).await?;
        return outcome(cx, Ok(()));
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
    outcome(cx, cleaned)
}

/// How the migration has ended: what differs comes first, then what is left over, because another run may remove it and look again.
fn outcome(cx: &Context, cleaned: Result<()>) -> Result<()> {
    late_writes::refuse_late(&cx.record)?;
    check_differences(cx)?;
    cleaned?;
    late_writes::refuse_unwatched(&cx.record)
}

/// What differs is named once more, and makes the exit code another one.
fn check_differences(cx: &Context) -> Result<()> {
    let (objects, missed) = (&cx.record.different_objects, catch_up::differences(cx));
    let (mut what, mut hints) = (Vec::new(), Vec::new());
    if !objects.is_empty() {
        let named: Vec<&str> = objects.iter().take(NAMED).map(String::as_str).collect();
        let more = objects.len() - named.len();
        what.push(if more > 0 { format!("{}, and {more} more", named.join(", ")) } else { named.join(", ") });
        hints.push("the report gives the reasons".to_owned());
        let script = cx.work.path().join(changes::SCRIPT);
        if script.exists() {
            hints.push(format!("statements for what changed on the source after the copy are in {}", script.display()));
        }
    }
    if !missed.is_empty() {
        what.push(format!("not applied: {missed}"));
        hints.push("changes that were not applied found no row, or collided with one: compare the tables and correct the rows by hand".into());
    }
    if what.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, format!("the target differs from the source: {}", what.join("; "))).hint(hints.join("; ")))
}
