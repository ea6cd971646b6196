//! Stage 8: the end of the stream is applied, sequences are set, and the objects that replay could not live with are made.

use super::copy::Replication;
use crate::migration::restore::statements;
use std::{collections::HashMap, time::Instant};

use super::catch_up::{Driven, Replay};
use crate::{
    error::{Error, Result},
    event::{Command, CutoverStep, Event, Level, PromptKind, Stage, StageState},
    lsn::Lsn,
    migration::{
        context::Context,
        prompts,
        restore::{ddl, memberships},
    },
    name::{TableName, literal},
    pg::{
        catalog::{self, SequenceState, exclusion::Excluded},
        client::Client,
        dump::{Phase, Statement},
        ledger,
        object::ObjectKind,
    },
};

/// Why a cutover was given up.
const LATE: &str = "the source was written to after the end of the stream";

const ABORTED: &str = "by the operator";
/// Recorded on the target before the first object is made that replay could not live with: no way back from there.
const PAST_RETURN: &str = "past-return";

/// How a cutover ended.
pub enum Outcome {
    /// The target is handed over; the receiver goes on, so that late writes are seen.
    Complete(Replication),
    /// Nothing has changed: catch-up goes on.
    Aborted(Box<Replay>),
}

/// Drains the stream, sets the sequences and makes the last objects. Until the last objects it can be aborted.
pub async fn run(cx: &mut Context, mut replay: Replay) -> Result<Outcome> {
    cx.enter(Stage::Cutover).await;
    let end = match drain(cx, &mut replay).await {
        Ok(Ok(end)) => end,
        Ok(Err(reason)) => {
            cx.reporter.report(Event::CutoverAborted { reason }).await;
            cx.reporter.report(Event::StageChanged { stage: Stage::Cutover, state: StageState::Waiting }).await;
            cx.enter(Stage::CatchUp).await;
            return Ok(Outcome::Aborted(Box::new(replay)));
        }
        Err(e) => {
            replay.stop(cx).await.end().await;
            return Err(e);
        }
    };
    let (confirmed, (tables, changes)) = (replay.confirmed, replay.counts());
    let replication = replay.stop(cx).await;
    match hand_over(cx, end).await {
        Ok(()) => {
            let downtime_ms = u64::try_from(confirmed.elapsed().as_millis()).unwrap_or(u64::MAX);
            cx.reporter.report(Event::Completed { tables, changes, downtime_ms }).await;
            Ok(Outcome::Complete(replication))
        }
        Err(e) => {
            replication.end().await;
            Err(e)
        }
    }
}

/// Everything up to `end` is applied: the last objects are made.
async fn hand_over(cx: &mut Context, end: Lsn) -> Result<()> {
    // A later run must know where to look for late writes.
    cx.record.end = Some(end);
    cx.save()?;
    last_objects(cx).await?;
    cx.record.completed = true;
    cx.finish(Stage::Cutover).await
}

async fn stepped(cx: &Context, step: CutoverStep, done: bool, detail: impl Into<String>) {
    cx.reporter.report(Event::CutoverStepped { step, done, detail: detail.into() }).await;
}

/// Steps 1 to 5: the end of the stream is applied, nothing came after it, sequences are set. The inner error is why it was given up.
async fn drain(cx: &mut Context, replay: &mut Replay) -> Result<Result<Lsn, String>> {
    replay.resume(cx).await;
    let source = cx.source("cutover").await?;
    if catalog::prepared_transactions(&source).await? > 0 {
        return Ok(Err("the source has prepared transactions: commit or roll them back".into()));
    }
    cx.reporter.report(Event::CutoverStarted { end: None }).await;
    let mut end = catalog::mark_end_of_stream(&source).await?;
    loop {
        cx.reporter.report(Event::CutoverStarted { end: Some(end) }).await;
        stepped(cx, CutoverStep::EndOfStream, true, end.to_string()).await;
        stepped(cx, CutoverStep::Drain, false, "").await;
        let mut barrier = replay.barrier(end);
        if abortable(cx, replay, &mut barrier).await?.is_none() {
            return Ok(Err(ABORTED.into()));
        }
        stepped(cx, CutoverStep::Drain, true, format!("applied to {end}")).await;
        let Some(looked) = late_write(cx, replay, &source, end, CutoverStep::LateWrites).await? else { return Ok(Err(ABORTED.into())) };
        let after = match looked {
            Ok(after) => after,
            Err(after) if settle_late_write(cx, replay).await? => {
                end = after;
                continue;
            }
            Err(_) => return Ok(Err(LATE.into())),
        };
        stepped(cx, CutoverStep::Sequences, false, "").await;
        let set = sequences(cx, &source, &replay.excluded).await?;
        stepped(cx, CutoverStep::Sequences, true, format!("{set} set")).await;
        let Some(looked) = late_write(cx, replay, &source, after, CutoverStep::LateWritesAgain).await? else { return Ok(Err(ABORTED.into())) };
        match looked {
            Ok(last) => return Ok(Ok(last)),
            Err(after) if settle_late_write(cx, replay).await? => end = after,
            Err(_) => return Ok(Err(LATE.into())),
        }
    }
}

/// Waits, with an eye on replay, until something is done; `None` when the operator goes back.
async fn abortable<T>(cx: &mut Context, replay: &mut Replay, work: &mut (impl Future<Output = Result<T>> + Unpin)) -> Result<Option<T>> {
    loop {
        match replay.drive(cx, work).await? {
            Driven::Done(done) => return Ok(Some(done)),
            Driven::Command(Command::AbortCutover) => return Ok(None),
            Driven::Command(other) => cx.refuse(&other, Stage::Cutover).await,
        }
    }
}

/// Whether a published change was committed behind `end`: the new end of the stream, `Err` with a late write; `None` when the operator
/// goes back.
async fn late_write(cx: &mut Context, replay: &mut Replay, source: &Client, end: Lsn, step: CutoverStep) -> Result<Option<Result<Lsn, Lsn>>> {
    stepped(cx, step, false, "").await;
    let now = catalog::mark_end_of_stream(source).await?;
    let mut reacher = replay.replication.receiver.reacher();
    let Some(status) = abortable(cx, replay, &mut Box::pin(reacher.read(now))).await? else { return Ok(None) };
    let late = report_late_writes(cx, source, &status.written_after(end)).await?;
    if late.is_empty() {
        stepped(cx, step, true, "none").await;
        return Ok(Some(Ok(now)));
    }
    stepped(cx, step, false, late.join(", ")).await;
    Ok(Some(Err(now)))
}

/// Tells of each table that was written to late; their names.
pub async fn report_late_writes(cx: &Context, source: &Client, writes: &[(u32, Lsn)]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (oid, lsn) in writes {
        let table = catalog::table_name(source, *oid).await?;
        names.push(table.to_string());
        cx.reporter.report(Event::LateWrite { table, lsn: *lsn }).await;
    }
    Ok(names)
}

/// Drain again, or go back? Without anybody to ask: back, until the source is quiet.
async fn settle_late_write(cx: &mut Context, replay: &mut Replay) -> Result<bool> {
    if !cx.config.interactive {
        return Ok(false);
    }
    let prompt = cx.next_prompt(
        Stage::Cutover,
        PromptKind::LateWrite,
        "The source was written to after the end of the stream. r drains again, x goes back.",
        None,
    );
    let id = prompt.id;
    cx.reporter.report(Event::PromptOpened { prompt }).await;
    let again = loop {
        let mut never = Box::pin(std::future::pending::<Result<()>>());
        match replay.drive(cx, &mut never).await? {
            Driven::Done(()) => {}
            Driven::Command(Command::Retry { .. } | Command::Continue { .. } | Command::ConfirmCutover { .. }) => break true,
            Driven::Command(Command::AbortCutover) => break false,
            Driven::Command(other) => cx.refuse(&other, Stage::Cutover).await,
        }
    };
    cx.reporter.report(Event::PromptClosed { id }).await;
    Ok(again)
}

/// Sets the target's sequences to where the source's stand. Never backwards, but for those that nobody has used on the target, and those
/// that begin anew at their end.
async fn sequences(cx: &Context, source: &Client, excluded: &Excluded) -> Result<usize> {
    let target = cx.target("cutover").await?;
    let there: HashMap<TableName, SequenceState> = catalog::sequences(&target).await?.into_iter().map(|s| (s.table.clone(), s)).collect();
    let mut set = Vec::new();
    for s in catalog::sequences(source).await?.into_iter().filter(|s| !excluded.has_relation(&s.table)) {
        let Some(known) = there.get(&s.table) else {
            cx.notice(Level::Warn, format!("sequence {} does not exist on the target", s.table)).await;
            continue;
        };
        let further = if s.increment > 0 { known.last_value > s.last_value } else { known.last_value < s.last_value };
        let ahead = further && !s.cycles && !known.is_untouched();
        let same = known.last_value == s.last_value && (known.is_called || !s.is_called);
        if !ahead && !same {
            set.push(format!("select setval({}::regclass, {}, {})", literal(&s.table.sql()), s.last_value, s.is_called));
        }
    }
    target.batch_execute(&set.join(";\n")).await.map_err(|e| Error::from(e).context("sequences"))?;
    Ok(set.len())
}

/// Step 6: foreign keys (not valid yet), triggers in their state, rules, policies; then owners, grants and event triggers. No way back
/// from here.
async fn last_objects(cx: &mut Context) -> Result<()> {
    let all = statements::read(cx)?;
    let mut session = ddl::DdlSession::new(&cx.config.target, cx.application("cutover"), "");
    let target = session.client().await?;
    ledger::record_step(target, PAST_RETURN).await?;
    let mut executed = ledger::executed(target, Phase::Cutover.as_str()).await?;
    executed.extend(ledger::executed(target, Phase::Handover.as_str()).await?);
    let last = memberships::runnable(cx, target, all.iter().filter(|s| s.phase == Phase::Cutover)).await?;
    let rights = memberships::runnable(cx, target, all.iter().filter(|s| s.phase == Phase::Handover)).await?;
    let (asker, mut desk) = prompts::desk(cx.config.interactive);
    let reporter = cx.reporter.clone();
    let total = last.len() + rights.len();
    stepped(cx, CutoverStep::LastObjects, false, format!("{total} objects")).await;
    let work = async {
        let quiet = |_: usize, _: &Statement| {};
        ddl::run_all(&mut session, &last, &executed, &reporter, Some(&asker), quiet).await?;
        ddl::run_all(&mut session, &rights, &executed, &reporter, None, quiet).await?;
        let target = session.client().await?;
        ledger::finish(target).await?;
        ledger::skipped(target).await
    };
    tokio::pin!(work);
    for (object, reason) in prompts::with_desk(cx, &mut desk, Stage::Cutover, work).await? {
        cx.not_moved(object, reason).await?;
    }
    stepped(cx, CutoverStep::LastObjects, true, format!("{total} objects")).await;
    Ok(())
}

/// Whether an earlier run was stopped behind the point of no return.
pub async fn is_past_return(cx: &Context) -> Result<bool> {
    let target = cx.target("cutover").await?;
    Ok(ledger::migration(&target).await?.is_some() && ledger::has_step(&target, PAST_RETURN).await?)
}

/// Goes on behind the point of no return: replay has ended, the last objects have not.
pub async fn resume(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Cutover).await;
    let started = Instant::now();
    last_objects(cx).await?;
    cx.record.completed = true;
    cx.finish(Stage::Cutover).await?;
    let tables = statements::read(cx)?.iter().filter(|s| s.object.kind == ObjectKind::Table).count() as u64;
    let downtime_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    cx.reporter.report(Event::Completed { tables, changes: 0, downtime_ms }).await;
    Ok(())
}
