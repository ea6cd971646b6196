//! Stage 5: slot, copy and indexes, while the stream is received and spooled.
//!
//! Here is what surrounds the copy; the copy itself is in the rooms below, DESIGN.md section 7 in full: `engine` runs the jobs and takes
//! the operator's commands, `worker` is one job, `queue` what is left for all of them, `parts` and `keys` how a relation is cut, `source`
//! and `transfer` the two ends of the wire, `format` binary or text, `chunks` the chunks of hypertables, `throttle` pause and rate.

mod chunks;
mod engine;
mod format;
pub mod keys;
pub mod parts;
mod queue;
mod source;
mod throttle;
mod transfer;
mod worker;

use std::time::Duration;
use tokio::sync::watch;

use self::engine::Shared;
use super::{cutover, ddl, extension_rows, indexes, large_objects, schema, slot, trouble};
use crate::{
    bus::Reporter,
    error::{Error, Result},
    event::{Event, Level, Stage},
    migration::Migration,
    pg::{
        apart,
        catalog::{self, Relation},
        client::Client,
        dump::{Phase, Statement},
        ledger,
        slot::Names,
    },
    replay::receiver::{self, Origin, Places, Receiver},
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

pub async fn run(m: &mut Migration) -> Result<Replication> {
    m.enter(Stage::Copy).await;
    let source = m.source("copy").await?;
    if m.record.slot.is_some() && ledger::relations(&m.target("scope").await?).await?.is_empty() {
        // Stopped between the slot and the first copy: published is what was there then, so slot and publications are made anew.
        m.record.slot = None;
        m.record.shapes.clear();
        m.save()?;
    }
    let found = catalog::relations(&source).await?;
    let relations = in_scope(m, found.clone()).await?;
    let wanted = |r: &&Relation| m.plan.scope.extent(&r.table) == Extent::All;
    for r in found.iter().filter(wanted).filter(|r| relations.iter().all(|known| known.oid != r.oid)) {
        m.notice(Level::Warn, format!("{} is new on the source: it is not part of this migration", r.table)).await;
    }
    let (start, confirmed) = slot::prepare(m, &relations).await?;
    let statements = statements(m, &source, &relations).await?;
    let target = m.target("copy").await?;
    plan_lanes(&target, &relations).await?;
    let copied = ledger::relations(&target).await?.into_values().filter_map(|r| r.state.copied_at()).max().unwrap_or_default();
    drop(target);
    let receiver = Receiver::start(origin(m), m.work.spool(), Places { start, confirmed, copied }, m.cancel.clone()).await?;
    let watcher = tokio::spawn(watch_receiver(receiver.status.clone(), m.reporter.clone()));
    let (ended, status) = (receiver.ended(), receiver.status.clone());
    let copied = tokio::select! {
        result = async {
            engine::run(m, &relations, &statements, receiver.copied()).await?;
            large_objects::copy(m).await?;
            extension_rows::copy(m).await?;
            rest_of_indexes(m, &statements).await
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
    m.finish(Stage::Copy).await?;
    Ok(Replication { receiver, relations, statements, watcher })
}

/// Where the stream of this migration comes from.
pub fn origin(m: &Migration) -> Origin {
    let names = Names::of(&m.record.id);
    Origin {
        source: m.config.source.clone(),
        application_name: m.application("receiver"),
        slot: names.slot,
        publications: vec![names.publication, names.insert_only],
        system_id: m.record.source.system_id.clone(),
    }
}

/// The relations of this migration: at first all whose rows are in its scope; once they are published, those that it began with. A table
/// that came later is in no publication.
pub async fn in_scope(m: &Migration, mut relations: Vec<Relation>) -> Result<Vec<Relation>> {
    let known = match m.record.slot {
        Some(_) => ledger::relations(&m.target("scope").await?).await?,
        None => std::collections::HashMap::new(),
    };
    if known.is_empty() {
        relations.retain(|r| m.plan.scope.extent(&r.table) == Extent::All);
        return Ok(relations);
    }
    let renamed = relations.iter().find_map(|r| known.get(&r.oid).filter(|e| e.table != r.table).map(|e| (&e.table, &r.table)));
    // After the copy replay sees it in the stream, at its place.
    if let Some((was, is)) = renamed.filter(|_| !m.is_finished(Stage::Copy)) {
        return Err(Error::refused(format!("{was} was renamed to {is} on the source"))
            .hint("rename it back, or run `hyperlift clean`, empty the target and start again"));
    }
    Ok(relations.into_iter().filter(|r| known.contains_key(&r.oid)).collect())
}

/// The schema's statements as of the copy. What is made on the source later is not the migration's, and its indexes have no table.
async fn statements(m: &mut Migration, source: &Client, relations: &[Relation]) -> Result<Vec<Statement>> {
    if m.is_finished(Stage::Copy) {
        return cutover::statements(m);
    }
    let schema = m.unless_stopped(schema::dump(m)).await?;
    if m.record.schema.as_ref().is_some_and(|known| *known != schema.digest) {
        return Err(Error::refused("the source's schema changed since it was restored on the target").hint(format!(
            "make the same change on the target, then delete the line \"schema\" from {}/migration.json and start again; or run `hyperlift clean`, empty the target and start anew",
            m.work.path().display()
        )));
    }
    m.record.schema = Some(schema.digest.clone());
    // Its memory is not needed any more.
    m.dumped = std::sync::Mutex::default();
    if m.record.shapes.is_empty() {
        m.record.shapes = catalog::shapes(source, &m.plan.scope).await?;
        let merged = relations.iter().filter(|r| r.partitioned && m.plan.is_one_table(&r.table)).map(|r| r.oid).collect::<Vec<_>>();
        m.record.partitions = catalog::partitions(source, &merged).await?;
    }
    m.save()?;
    // The plan is what it will be: hypertables are chosen.
    for (object, reason) in &schema.notes {
        m.not_moved(object, reason).await?;
    }
    let subscriptions = catalog::subscriptions(&m.target("copy").await?).await?;
    for found in apart::apart(source, &m.plan).await? {
        // One that could not be made is told with the reason.
        if found.is_made_as_wished && !subscriptions.contains(&found.object) {
            continue;
        }
        m.not_moved(found.object, format!("{}; {}", found.reason, found.fix)).await?;
    }
    // The cutover's objects must be known even if the source is gone by then.
    cutover::keep_statements(m, &schema.statements)?;
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
        reporter.progress(Event::Received { lsn: now.heard, bytes: now.bytes, spool_bytes: now.spool_bytes, disk_free: now.disk_free });
        tokio::time::sleep(Duration::from_millis(500)).await;
        // Even without news a sample is due now and then, so that rates fall to zero.
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(1), status.changed()).await {
            return;
        }
    }
}

/// Statements behind the indexes: statistics, comments, views that need a key.
async fn rest_of_indexes(m: &mut Migration, statements: &[Statement]) -> Result<()> {
    let mut session = ddl::Session::new(&m.config.target, m.application("indexes"), indexes::settings(1));
    ledger::flush(session.client().await?).await?;
    let executed = ledger::executed(session.client().await?, Phase::PostIndex.word()).await?;
    let stray = ledger::executed(session.client().await?, Phase::Index.word()).await?;
    let (asker, mut desk) = trouble::desk(m.config.interactive);
    let reporter = m.reporter.clone();
    let work = async {
        // Indexes of what is no relation of this migration, such as materialised views, and those that a crash of the target has undone.
        for s in statements.iter().filter(|s| s.phase == Phase::Index) {
            ddl::run(&mut session, s, &stray, &reporter, &asker).await?;
        }
        let rest: Vec<&Statement> = statements.iter().filter(|s| s.phase == Phase::PostIndex).collect();
        ddl::run_all(&mut session, &rest, &executed, &reporter, Some(&asker), |_, _| {}).await
    };
    tokio::pin!(work);
    schema::with_desk(m, &mut desk, Stage::Copy, work).await
}
