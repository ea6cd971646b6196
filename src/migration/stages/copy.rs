//! Stage 5: slot, copy and indexes, while the stream is received and spooled.
//!
//! This file does what comes before and after the copy. The modules below do the copy, from the top to the ground:
//!
//! - `engine` starts the jobs, drives them and carries out the operator's commands; `worker` is one job; `failures` retries, or asks.
//! - `shared` is what the jobs share; `queue` is what remains to be copied; `tasks` ends the stage when a task fails.
//! - `source` locks tables and takes snapshots; `transfer` moves rows and records them; `spec` is how one relation is copied.
//! - `parts` and `key_ranges` cut a relation; `format` chooses binary or text; `chunks` creates chunks of hypertables before the copy;
//!   `throttle` is the pause and the rate.
//! - `bare_leaves` warns of new partitions without a replica identity, for as long as changes are received; `publications` ends the copy when
//!   a table is not published any more.
//! - `indexes` builds indexes and keys while other relations are copied; `replayable` tries the statements of replay; `slot` makes
//!   publications and slot; `large_objects` and `extension_rows` copy what is in no relation of the migration.

mod bare_leaves;
mod chunks;
pub mod engine;
pub mod extension_rows;
mod failures;
mod format;
pub mod indexes;
pub mod key_ranges;
pub mod large_objects;
pub mod parts;
mod publications;
mod queue;
mod replayable;
mod shared;
pub mod slot;
mod source;
mod spec;
mod tasks;
mod throttle;
pub mod transfer;
mod worker;

use futures_util::FutureExt as _;
use std::{collections::HashSet, time::Duration};
use tokio::sync::watch;

use self::{bare_leaves::BareLeaves, publications::WatchedPublications};

use crate::{
    bus::Reporter,
    error::{Error, Result},
    event::{Event, Level, Stage, StreamStatus},
    migration::{
        context::Context,
        relations,
        restore::{self, ddl, statements},
    },
    name::TableName,
    pg::{
        catalog::{self, ForeignRows, SourceRelation, unsupported},
        client::Client,
        dump::{Phase, Statement},
        ledger::{self, RelationState},
    },
    replay::receiver::{Receiver, ReceiverStatus, StartPositions},
    scope::Inclusion,
};

/// What the later stages continue with.
pub struct Replication {
    pub receiver: Receiver,
    pub relations: Vec<SourceRelation>,
    pub statements: Vec<Statement>,
    /// Reports the receiver's state, and new partitions without a replica identity, until it is aborted.
    pub watcher: tokio::task::JoinHandle<()>,
}

impl Replication {
    /// Stops the receiver. Best effort: the stage has ended already, with or without an error.
    pub async fn end(self) {
        self.watcher.abort();
        self.receiver.stop().await.ok();
    }
}

/// Copies the relations of this migration and builds their indexes. The receiver goes on.
pub async fn run(cx: &mut Context) -> Result<Replication> {
    cx.enter(Stage::Copy).await;
    let source = cx.source("copy").await?;
    if cx.record.slot.is_some() && ledger::relations(&cx.target("scope").await?).await?.is_empty() {
        // An earlier run was stopped between the slot and the first copy. It has published the tables of that time, so slot and publications
        // are made again.
        cx.record.slot = None;
        cx.record.publications.clear();
        cx.record.shapes.clear();
        cx.save()?;
    }
    let found = catalog::relations(&source).await?;
    let relations = relations::in_scope(cx, found.clone()).await?;
    let wanted = |r: &&SourceRelation| cx.plan.scope.inclusion(&r.table) == Inclusion::All;
    for r in found.iter().filter(wanted).filter(|r| relations.iter().all(|known| known.oid != r.oid)) {
        cx.notice(Level::Warn, format!("{} is new on the source: it is not part of this migration", r.table)).await;
    }
    if cx.record.slot.is_none() {
        replayable::check(cx, &relations).await?;
    }
    // Of a table without its rows nothing is copied.
    let copied: HashSet<u32> = relations.iter().map(|r| r.oid).collect();
    // Those that an earlier run began to copy in catch-up are copied there.
    let away: HashSet<u32> = match cx.record.slot {
        Some(_) => ledger::away(&cx.target("scope").await?).await?.into_values().flatten().map(|(oid, _)| oid).collect(),
        None => HashSet::new(),
    };
    let covered =
        found.into_iter().filter(|r| copied.contains(&r.oid) || cx.plan.scope.inclusion(&r.table) == Inclusion::Structure).collect::<Vec<_>>();
    let start = slot::prepare(cx, &relations).await?;
    let statements = read_statements(cx, &source, &covered, &relations).await?;
    let target = cx.target("copy").await?;
    assign_lanes(&target, &relations).await?;
    let copied = ledger::relations(&target).await?.into_values().filter_map(|r| r.state.copied_at()).max().unwrap_or_default();
    give_up_gone(&target, &relations).await?;
    drop(target);
    let here: Vec<SourceRelation> = relations.iter().filter(|r| !away.contains(&r.oid)).cloned().collect();
    let receiver = Receiver::start(relations::origin(cx), cx.work.spool(), StartPositions { start, copied }, cx.cancel.clone()).await?;
    let (status, reporter) = (receiver.status.clone(), cx.reporter.clone());
    let bare_leaves = BareLeaves::new(cx, &relations);
    let watcher = tokio::spawn(async move { tokio::join!(report_receiver(status, reporter), bare_leaves.watch()) }.map(drop));
    let (ended, status) = (receiver.ended(), receiver.status.clone());
    let publications = WatchedPublications::new(cx);
    let copied = tokio::select! {
        result = async {
            engine::run(cx, &here, &statements, receiver.copied()).await?;
            large_objects::copy(cx).await?;
            extension_rows::copy(cx).await?;
            build_post_index(cx, &statements).await
        } => result,
        () = ended.cancelled() => Err(status.borrow().ended()),
        refusal = publications.until_changed() => Err(refusal),
    };
    if let Err(e) = copied {
        watcher.abort();
        receiver.stop().await.ok();
        return Err(e);
    }
    cx.finish(Stage::Copy).await?;
    Ok(Replication { receiver, relations, statements, watcher })
}

/// The schema's statements as they are when the copy begins. Tables that are made on the source later are not part of the migration, and
/// statements on them would find no table.
async fn read_statements(cx: &mut Context, source: &Client, covered: &[SourceRelation], relations: &[SourceRelation]) -> Result<Vec<Statement>> {
    // A copy that goes on has the statements that it began with. What was altered since, catch-up follows.
    if cx.is_finished(Stage::Copy) || (!cx.record.shapes.is_empty() && statements::exist(cx.work.path())) {
        return statements::read(cx.work.path());
    }
    let state = catalog::schema_state(source).await?;
    let schema = cx.unless_stopped(restore::dump(&cx.sides())).await?;
    if cx.record.schema.as_ref().is_some_and(|known| !schema.has_digest(known)) {
        return Err(Error::refused("the source's schema changed since it was restored on the target").hint(format!(
            "make the same change on the target, then delete the line \"schema\" from {}/migration.json and start again; or run `hyperlift clean`, empty the target and start again",
            cx.work.path().display()
        )));
    }
    restore::refuse_uncovered(source, &schema, covered).await?;
    cx.record.schema = Some(schema.digest.clone());
    cx.record.schema_state = Some(state);
    // The dump is not needed any more: free its memory.
    cx.schema_cache.forget();
    if cx.record.shapes.is_empty() {
        cx.record.shapes = catalog::shapes(source, &cx.plan.scope).await?;
        cx.record.sequences = catalog::sequence_names(source).await?.into_iter().collect();
        let merged = relations.iter().filter(|r| r.storage.is_partitioned() && cx.plan.is_one_table(&r.table)).map(|r| r.oid).collect::<Vec<_>>();
        cx.record.partitions = catalog::partitions(source, &merged).await?;
        cx.record.foreign_rows = foreign_rows(cx, source, relations).await?;
    }
    cx.save()?;
    // The hypertables are chosen, so the plan does not change any more.
    for note in &schema.notes {
        cx.not_moved(&note.object, &note.reason).await?;
    }
    let subscriptions = catalog::subscriptions(&cx.target("copy").await?).await?;
    for found in unsupported::find(source, &cx.plan).await? {
        // A subscription that the target does not have is reported, with the reason.
        if found.is_created && !subscriptions.contains(&found.object) {
            continue;
        }
        cx.not_moved(found.object, format!("{}; {}", found.reason, found.fix)).await?;
    }
    // The cutover needs the statements even if the source is gone by then.
    statements::write(cx, &schema.statements)?;
    Ok(schema.statements)
}

/// The rows of foreign partitions that are copied into one table. No stream has their changes, so the end of the migration compares them.
async fn foreign_rows(cx: &Context, source: &Client, relations: &[SourceRelation]) -> Result<Vec<ForeignRows>> {
    let merged: Vec<TableName> = relations.iter().map(|r| r.table.clone()).filter(|table| cx.plan.is_one_table(table)).collect();
    let mut found = Vec::new();
    for part in catalog::foreign_partitions(source, &merged).await? {
        cx.notice(Level::Info, format!("{}: reading its rows, to see at the end whether they have changed", part.table)).await;
        let rows = async { catalog::foreign_rows(source, &part).await.map_err(|e| e.context(format!("foreign table {}", part.table))) };
        found.push(cx.unless_stopped(rows).await?);
    }
    Ok(found)
}

/// Relations that were dropped on the source before they were copied have no rows, and their changes do not count.
async fn give_up_gone(target: &Client, relations: &[SourceRelation]) -> Result<()> {
    for (oid, entry) in ledger::relations(target).await? {
        if entry.state == RelationState::Planned && entry.side_lane.is_none() && relations.iter().all(|r| r.oid != oid) {
            ledger::give_up(target, oid).await?;
        }
    }
    Ok(())
}

/// Gives each relation its lane, which never changes: the next relation goes to the lane with the fewest bytes.
async fn assign_lanes(target: &Client, relations: &[SourceRelation]) -> Result<()> {
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

/// Reports the receiver's state, at most twice a second.
async fn report_receiver(mut status: watch::Receiver<ReceiverStatus>, reporter: Reporter) {
    let mut broken = None;
    loop {
        let now = status.borrow_and_update().clone();
        if now.broken != broken {
            broken.clone_from(&now.broken);
            reporter.report(Event::StreamBroken { error: now.broken }).await;
        }
        reporter.progress(Event::Received(StreamStatus { lsn: now.heard, bytes: now.bytes, spool_bytes: now.spool_bytes, disk_free: now.disk_free }));
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Without news the same figures are reported again, so that rates fall to zero.
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(1), status.changed()).await {
            return;
        }
    }
}

/// Runs the statements that need the indexes: statistics, comments, views that need a key.
async fn build_post_index(cx: &mut Context, statements: &[Statement]) -> Result<()> {
    let mut session = ddl::DdlSession::new(&cx.config, cx.application("indexes"), indexes::settings(1));
    ledger::flush(session.client().await?).await?;
    let executed = ledger::executed(session.client().await?, Phase::PostIndex.as_str()).await?;
    let executed_indexes = ledger::executed(session.client().await?, Phase::Index.as_str()).await?;
    let prompts = cx.prompts.sender();
    let reporter = cx.reporter.clone();
    let work = async {
        // Indexes of objects that are not relations of this migration, such as materialised views, and indexes that a crash of the target has
        // undone.
        for s in statements.iter().filter(|s| s.phase == Phase::Index) {
            ddl::run(&mut session, s, &executed_indexes, &reporter, &prompts).await?;
        }
        let rest: Vec<&Statement> = statements.iter().filter(|s| s.phase == Phase::PostIndex).collect();
        ddl::run_all(&mut session, &rest, &executed, &reporter, Some(&prompts), |_, _| {}).await
    };
    cx.prompts.drive(Stage::Copy, work, Err).await
}
