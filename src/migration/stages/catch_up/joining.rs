//! Relations that are copied while replay goes on, and join it then: one that is new on the source, one whose rows DDL has changed, one that
//! differs.
//!
//! ```text
//! leave ──▶ prepare ──▶ copy ──▶ follow in a side lane ──▶ join
//! ```
//!
//! A relation leaves its lane at a recorded position of the stream. From there on the ordinary lanes drop its changes, which stay in the
//! spool. It is published, emptied, brought to the source's columns, and copied under a snapshot of its own, which is taken after the
//! horizon of that moment: it sees everything that was committed before the recorded position (I1). A router and a lane of its own then read
//! the spool from that position on and apply what the snapshot did not see. Once they are near the others, the others stop, the side lane
//! passes them, and the ledger moves the relation to its ordinary lane, as of the side lane's position. Each step is in the ledger before
//! the next begins, so that a run that is killed goes on with it (I12).

mod due;
mod prepare;

use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

use self::prepare::Preparation;
use super::{
    super::copy::engine,
    away::{Due, Phase, Prepared},
    lanes,
    replay::RunningReplay,
};
use crate::{
    error::{Error, Result},
    event::{Event, Level},
    lsn::Lsn,
    migration::{context::Context, relations},
    pg::{
        catalog::SourceRelation,
        ledger::{self, Leaving},
        publication,
    },
    replay::ReplayHandle,
};

/// A side lane that is as near as this to the others may join them: they wait for it no longer than a moment. Bytes of WAL.
const NEAR: u64 = 4 << 20;
/// The others wait no longer than this.
const PATIENCE: Duration = Duration::from_secs(10);
/// What failed is tried again after this time.
const AGAIN_AFTER: Duration = Duration::from_secs(10);

/// Before router and lanes are started again after a transient error.
const RETRY_DELAY: Duration = Duration::from_secs(1);

impl RunningReplay {
    /// Takes relations out of their lanes, to copy them. Others go on.
    pub async fn leave(&mut self, cx: &mut Context, due: Vec<Due>) -> Result<()> {
        if due.is_empty() {
            return Ok(());
        }
        let leaving: Vec<Leaving> = due.iter().map(|d| d.leaving.clone()).collect();
        self.joining.interrupt(&leaving).await;
        let relations = self.relations();
        self.stop_lanes(cx).await?;
        let left = async { ledger::leave(&mut cx.target("joining").await?, &leaving).await };
        if let Err(e) = left.await {
            self.start_lanes(cx).await?;
            return if e.is_transient() { Ok(()) } else { Err(e) };
        }
        for Due { leaving, reason, is_new, shapes } in due {
            for absorbed in relations.iter().filter(|r| leaving.absorbs.contains(&r.oid)) {
                let table = absorbed.table.sql();
                let why = format!(
                    "it is a partition of {} on the source now, and its rows are there; drop table {table}; removes it from the target",
                    leaving.name
                );
                cx.not_moved(format!("TABLE {}", absorbed.table), why).await?;
            }
            cx.record.rewritten.remove(&leaving.oid);
            for publication in cx.record.publications.values_mut() {
                publication.tables.remove(&leaving.oid);
            }
            for (name, shape) in shapes {
                cx.record.shapes.retain(|_, known| known.oid != shape.oid);
                cx.record.shapes.insert(name, shape);
            }
            cx.record.differences.remove(&leaving.table);
            let object = format!("TABLE {}", leaving.name);
            cx.record.not_moved.retain(|(known, _)| *known != object);
            self.accepted.remove(&leaving.table);
            let what = if is_new { "takes part in the migration" } else { "is copied again" };
            cx.notice(Level::Info, format!("{} {what}: {reason}", leaving.name)).await;
            cx.reporter.report(Event::TableLeft { table: leaving.name, reason }).await;
        }
        cx.save()?;
        self.start_lanes(cx).await?;
        self.joining.refresh(cx).await
    }

    /// Does what is due for the relations that are away.
    pub async fn poll_joining(&mut self, cx: &mut Context) -> Result<()> {
        for lane in self.joining.groups.keys().copied().collect::<Vec<_>>() {
            let Some(group) = self.joining.groups.get_mut(&lane) else { continue };
            let is_due = match &group.phase {
                Phase::Begin(at) => *at <= Instant::now(),
                Phase::Preparing(work) => work.is_finished(),
                Phase::Copying(work) => work.is_finished(),
                Phase::Following(_) => true,
            };
            if !is_due {
                continue;
            }
            match std::mem::replace(&mut group.phase, Phase::Begin(Instant::now())) {
                Phase::Following(replay) => self.follow_side(cx, lane, replay).await?,
                phase => {
                    let next = self.next_phase(cx, lane, phase).await;
                    self.set_phase(cx, lane, next).await?;
                }
            }
        }
        Ok(())
    }

    async fn set_phase(&mut self, cx: &Context, lane: u32, next: Result<Phase>) -> Result<()> {
        let Some(group) = self.joining.groups.get_mut(&lane) else { return Ok(()) };
        match next {
            Ok(phase) => {
                if !matches!(phase, Phase::Begin(_)) {
                    group.failed = None;
                }
                group.phase = phase;
            }
            Err(e) if e.is_stop() => return Err(e),
            Err(e) => {
                let why = e.to_string();
                if group.failed.as_ref() != Some(&why) {
                    let tables: Vec<String> = group.tables.iter().map(|(_, table)| table.to_string()).collect();
                    let hint = e.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
                    cx.notice(Level::Warn, format!("{} cannot be copied yet: {why}{hint}; it is tried again", tables.join(", "))).await;
                }
                group.failed = Some(why);
                group.phase = Phase::Begin(Instant::now() + AGAIN_AFTER);
            }
        }
        Ok(())
    }

    /// What follows a phase that has ended.
    async fn next_phase(&mut self, cx: &mut Context, lane: u32, phase: Phase) -> Result<Phase> {
        let ended = |e: tokio::task::JoinError| Error::failed(format!("it has ended unexpectedly: {e}"));
        match phase {
            Phase::Preparing(work) => {
                let Prepared { relations, schema } = work.await.map_err(ended)??;
                self.known(cx, &relations).await?;
                let copied_at = self.replication.receiver.copied();
                let schema = Some(schema).filter(|state| self.schema.has_followed(cx, state));
                Ok(Phase::Copying(tokio::spawn(engine::beside(cx, relations, schema, copied_at).await?)))
            }
            Phase::Copying(work) => {
                work.await.map_err(ended)??;
                self.side_lane(cx, lane).await
            }
            Phase::Begin(_) | Phase::Following(_) => {
                let away = ledger::away(&cx.target("joining").await?).await?.remove(&lane).unwrap_or_default();
                let planned: Vec<u32> = away.iter().filter(|(_, copied)| !copied).map(|(oid, _)| *oid).collect();
                match (away.is_empty(), planned.is_empty()) {
                    (true, _) => {
                        self.joining.groups.remove(&lane);
                        Ok(Phase::Begin(Instant::now()))
                    }
                    (false, true) => self.side_lane(cx, lane).await,
                    (false, false) => Ok(Phase::Preparing(tokio::spawn(Preparation::new(cx, planned).run()))),
                }
            }
        }
    }

    async fn side_lane(&self, cx: &Context, lane: u32) -> Result<Phase> {
        let cancel: CancellationToken = self.cancel.child_token();
        Ok(Phase::Following(Box::new(lanes::side_lane(cx, &self.replication, lane, cancel).await?)))
    }

    /// Relations that are published now are watched and shown, and are among those that a later stage works with.
    async fn known(&mut self, cx: &mut Context, found: &[SourceRelation]) -> Result<()> {
        let names: Vec<String> = cx.record.publications.keys().cloned().collect();
        let now = publication::publications(&self.source, &names.iter().map(String::as_str).collect::<Vec<_>>()).await?;
        for (name, publication) in &mut cx.record.publications {
            let rows = now.get(name).into_iter().flat_map(|p| &p.tables).filter(|(oid, _)| found.iter().any(|r| r.oid == **oid));
            publication.tables.extend(rows);
        }
        cx.save()?;
        for relation in found {
            cx.reporter.report(Event::RelationAdded { relation: relations::summary(relation, cx) }).await;
            self.replication.relations.retain(|r| r.oid != relation.oid);
            self.replication.relations.push(relation.clone());
        }
        Ok(())
    }

    /// Lets a side lane go on, or joins its relations where it is near the others.
    async fn follow_side(&mut self, cx: &mut Context, lane: u32, replay: Box<ReplayHandle>) -> Result<()> {
        let is_early = self.joining.groups.get(&lane).is_some_and(|g| g.join_after > Instant::now());
        if is_early || self.applied().all.since(replay.applied()) > NEAR || !self.waiting.is_empty() {
            return self.set_phase(cx, lane, Ok(Phase::Following(replay))).await;
        }
        self.stop_lanes(cx).await?;
        let joined = self.join(cx, lane, &replay).await;
        replay.stop().await;
        if matches!(joined, Ok(true)) {
            self.joining.groups.remove(&lane);
            self.schema.forget();
        } else if let Some(group) = self.joining.groups.get_mut(&lane) {
            group.join_after = Instant::now() + AGAIN_AFTER;
        }
        self.start_lanes(cx).await?;
        match joined {
            Ok(_) => Ok(()),
            Err(e) if e.is_transient() => self.set_phase(cx, lane, Err(e)).await,
            Err(e) => Err(e),
        }
    }

    /// While the ordinary lanes stop: the side lane passes them, ends, and its relations join. Returns whether they have.
    async fn join(&mut self, cx: &mut Context, lane: u32, replay: &ReplayHandle) -> Result<bool> {
        let mut target = cx.target("joining").await?;
        // Those of them that are in the middle of a transaction go on with it.
        let passed = ledger::lane_positions(&target).await?.into_iter().max().unwrap_or_default();
        let passed = if passed.change == 0 { passed.lsn } else { Lsn(passed.lsn.0 + 1) };
        let mut spooled = self.replication.receiver.waiter();
        let barrier = replay.barrier(passed);
        let reached = tokio::time::timeout(PATIENCE, async {
            spooled.spooled(passed).await?;
            barrier.await
        });
        match cx.unless_stopped(async { Ok(reached.await) }).await? {
            Ok(result) => result?,
            // It is tried again later.
            Err(_) => return Ok(false),
        }
        replay.stop().await;
        let at = ledger::side_position(&target, lane).await?;
        if at.change != 0 || at.lsn < passed {
            return Ok(false);
        }
        ledger::join(&mut target, lane, at).await?;
        let tables = self.joining.groups.get(&lane).map(|g| g.tables.clone()).unwrap_or_default();
        for (_, table) in tables {
            cx.notice(Level::Info, format!("{table} is copied, and is replayed with the others")).await;
            cx.reporter.report(Event::TableJoined { table }).await;
        }
        Ok(true)
    }

    /// Ends router and ordinary lanes. What they were doing is rolled back, and done again after [`start_lanes`](Self::start_lanes).
    async fn stop_lanes(&mut self, cx: &mut Context) -> Result<()> {
        self.lanes.handle.stop().await;
        self.report_counters(cx).await?;
        // They asked; whoever asks now asks again.
        self.waiting.clear();
        Ok(())
    }

    async fn start_lanes(&mut self, cx: &mut Context) -> Result<()> {
        let relations = self.relations();
        let earlier = relations.iter().zip(&self.lanes.counters).map(|(relation, known)| {
            let mut all = known.earlier;
            all.add(&known.last_reported);
            (relation.oid, all)
        });
        let earlier = earlier.collect();
        self.changes_before = self.changes();
        let paused = self.lanes.handle.is_paused();
        self.lanes = loop {
            match lanes::start(cx, &self.replication, &self.tasks, &self.cancel, &earlier).await {
                Err(e) if e.is_transient() => {
                    cx.notice(Level::Warn, format!("replay waits: {e}")).await;
                    let pause = async {
                        tokio::time::sleep(RETRY_DELAY).await;
                        Ok(())
                    };
                    cx.unless_stopped(pause).await?;
                }
                other => break other?,
            }
        };
        self.lanes.handle.set_paused(paused);
        self.slot_checked = None;
        Ok(())
    }
}
