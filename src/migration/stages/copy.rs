//! Stage 5: slot, copy and indexes, while the stream is received and spooled.
//!
//! Here is what surrounds the copy; the copy itself is in the rooms below, DESIGN.md section 7 in full: `engine` runs the jobs and takes
//! the operator's commands, `worker` is one job, `queue` what is left for all of them, `parts` and `keys` how a relation is cut, `source`
//! and `transfer` the two ends of the wire, `format` binary or text, `chunks` the chunks of hypertables, `throttle` pause and rate.

mod chunks;
mod engine;
pub mod extension_rows;
mod format;
pub mod indexes;
pub mod key_ranges;
pub mod large_objects;
pub mod parts;
mod queue;
pub mod slot;
mod source;
mod throttle;
mod transfer;
mod worker;

use crate::migration::{relations, restore, restore::statements};
use std::time::Duration;
use tokio::sync::watch;

use self::engine::Shared;

use crate::{
    bus::Reporter,
    error::{Error, Result},
    event::{Event, Level, Stage, StreamStatus},
    migration::{context::Context, prompts, restore::ddl},
    pg::{
        catalog::{self, Relation, unsupported},
        client::Client,
        dump::{Phase, Statement},
        ledger,
    },
    replay::receiver::{self, Places, Receiver},
    scope::Extent,
};

/// What the later stages go on with.
pub struct Replication {
    pub receiver: Receiver,
    pub relations: Vec<Relation>,
    pub statements: Vec<Statement>,
    /// Reports the receiver's state until it is dropped.
    pub watcher: tokio::task::JoinHandle<()>,
}

impl Replication {
    /// Ends receiving.
    pub async fn end(self) {
        self.watcher.abort();
        self.receiver.stop().await.ok();
    }
}

pub async fn run(cx: &mut Context) -> Result<Replication> {
    cx.enter(Stage::Copy).await;
    let source = cx.source("copy").await?;
    if cx.record.slot.is_some() && ledger::relations(&cx.target("scope").await?).await?.is_empty() {
        // Stopped between the slot and the first copy: published is what was there then, so slot and publications are made anew.
        cx.record.slot = None;
        cx.record.shapes.clear();
        cx.save()?;
    }
    let found = catalog::relations(&source).await?;
    let relations = relations::in_scope(cx, found.clone()).await?;
    let wanted = |r: &&Relation| cx.plan.scope.extent(&r.table) == Extent::All;
    for r in found.iter().filter(wanted).filter(|r| relations.iter().all(|known| known.oid != r.oid)) {
        cx.notice(Level::Warn, format!("{} is new on the source: it is not part of this migration", r.table)).await;
    }
    let (start, confirmed) = slot::prepare(cx, &relations).await?;
    let statements = statements(cx, &source, &relations).await?;
    let target = cx.target("copy").await?;
    plan_lanes(&target, &relations).await?;
    let copied = ledger::relations(&target).await?.into_values().filter_map(|r| r.state.copied_at()).max().unwrap_or_default();
    drop(target);
    let receiver = Receiver::start(relations::origin(cx), cx.work.spool(), Places { start, confirmed, copied }, cx.cancel.clone()).await?;
    let watcher = tokio::spawn(watch_receiver(receiver.status.clone(), cx.reporter.clone()));
    let (ended, status) = (receiver.ended(), receiver.status.clone());
    let copied = tokio::select! {
        result = async {
            engine::run(cx, &relations, &statements, receiver.copied()).await?;
            large_objects::copy(cx).await?;
            extension_rows::copy(cx).await?;
            rest_of_indexes(cx, &statements).await
        } => result,
        () = ended.cancelled() => {
            let why = status.borrow().broken.clone().unwrap_or_default();
            Err(Error::failed(format!("receiving has ended: {why}")).hint("mend the cause and start hyperlift again: finished tables stay as they are"))
        }
    };
    if let Err(e) = copied {
        watcher.abort();
        receiver.stop().await.ok();
        return Err(e);
    }
    cx.finish(Stage::Copy).await?;
    Ok(Replication { receiver, relations, statements, watcher })
}

/// The schema's statements as of the copy. What is made on the source later is not the migration's, and its indexes have no table.
async fn statements(cx: &mut Context, source: &Client, relations: &[Relation]) -> Result<Vec<Statement>> {
    if cx.is_finished(Stage::Copy) {
        return statements::read(cx);
    }
    let schema = cx.unless_stopped(restore::dump(cx)).await?;
    if cx.record.schema.as_ref().is_some_and(|known| *known != schema.digest) {
        return Err(Error::refused("the source's schema changed since it was restored on the target").hint(format!(
            "make the same change on the target, then delete the line \"schema\" from {}/migration.json and start again; or run `hyperlift clean`, empty the target and start anew",
            cx.work.path().display()
        )));
    }
    cx.record.schema = Some(schema.digest.clone());
    // Its memory is not needed any more.
    cx.dumped = std::sync::Mutex::default();
    if cx.record.shapes.is_empty() {
        cx.record.shapes = catalog::shapes(source, &cx.plan.scope).await?;
        let merged = relations.iter().filter(|r| r.partitioned && cx.plan.is_one_table(&r.table)).map(|r| r.oid).collect::<Vec<_>>();
        cx.record.partitions = catalog::partitions(source, &merged).await?;
    }
    cx.save()?;
    // The plan is what it will be: hypertables are chosen.
    for (object, reason) in &schema.notes {
        cx.not_moved(object, reason).await?;
    }
    let subscriptions = catalog::subscriptions(&cx.target("copy").await?).await?;
    for found in unsupported::apart(source, &cx.plan).await? {
        // One that could not be made is told with the reason.
        if found.is_made_as_wished && !subscriptions.contains(&found.object) {
            continue;
        }
        cx.not_moved(found.object, format!("{}; {}", found.reason, found.fix)).await?;
    }
    // The cutover's objects must be known even if the source is gone by then.
    statements::write(cx, &schema.statements)?;
    Ok(schema.statements)
}

/// Gives each relation a lane, once and for good: the largest to the least loaded.
async fn plan_lanes(target: &Client, relations: &[Relation]) -> Result<()> {
    if !ledger::relations(target).await?.is_empty() {
        return Ok(());
    }
    let lanes = ledger::migration(target).await?.map_or(1, |l| l.lanes).max(1);
    let mut load = vec![0u64; lanes as usize];
    let mut planned = Vec::new();
    for r in relations {
        let lane = (0..load.len()).min_by_key(|l| load[*l]).unwrap_or(0);
        load[lane] += r.bytes + 1;
        planned.push((r.oid, r.table.clone(), lane as u32));
    }
    ledger::plan_relations(target, &planned).await
}

/// Passes the receiver's state on, a few times a second at most.
async fn watch_receiver(mut status: watch::Receiver<receiver::Status>, reporter: Reporter) {
    let mut broken = None;
    loop {
        let now = status.borrow_and_update().clone();
        if now.broken != broken {
            broken.clone_from(&now.broken);
            reporter.report(Event::StreamBroken { error: now.broken }).await;
        }
        reporter.progress(Event::Received(StreamStatus { lsn: now.heard, bytes: now.bytes, spool_bytes: now.spool_bytes, disk_free: now.disk_free }));
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Even without news a sample is due now and then, so that rates fall to zero.
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(1), status.changed()).await {
            return;
        }
    }
}

/// Statements behind the indexes: statistics, comments, views that need a key.
async fn rest_of_indexes(cx: &mut Context, statements: &[Statement]) -> Result<()> {
    let mut session = ddl::Session::new(&cx.config.target, cx.application("indexes"), indexes::settings(1));
    ledger::flush(session.client().await?).await?;
    let executed = ledger::executed(session.client().await?, Phase::PostIndex.word()).await?;
    let stray = ledger::executed(session.client().await?, Phase::Index.word()).await?;
    let (asker, mut desk) = prompts::desk(cx.config.interactive);
    let reporter = cx.reporter.clone();
    let work = async {
        // Indexes of what is no relation of this migration, such as materialised views, and those that a crash of the target has undone.
        for s in statements.iter().filter(|s| s.phase == Phase::Index) {
            ddl::run(&mut session, s, &stray, &reporter, &asker).await?;
        }
        let rest: Vec<&Statement> = statements.iter().filter(|s| s.phase == Phase::PostIndex).collect();
        ddl::run_all(&mut session, &rest, &executed, &reporter, Some(&asker), |_, _| {}).await
    };
    tokio::pin!(work);
    prompts::with_desk(cx, &mut desk, Stage::Copy, work).await
}
