//! Stages 8 and 9: the end of the stream, the last objects, handing over; then cleaning up.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use super::{
    catchup::{self, Driven, Replay},
    clean, copy, ddl, large_objects, rights, schema, trouble,
};
use crate::{
    error::{Error, Kind, Result},
    event::{Command, CutoverStep, Event, Level, PromptKind, Stage, StageState},
    lsn::Lsn,
    migration::Migration,
    name::{TableName, literal},
    pg::{
        catalog::{self, Sequence},
        client::Client,
        dump::{Phase, Statement},
        extent::{self, Omitted},
        ledger, slot,
    },
    replay::{
        receiver::{Places, Receiver},
        spool,
    },
};

/// The statements of the schema as they were when the copy began, in the work directory.
pub const STATEMENTS: &str = "sql/statements.json";
/// Why a cutover was given up.
const LATE: &str = "the source was written to after the end of the stream";
/// A source is given this long for the last look at what was written late.
const LAST_LOOK: Duration = Duration::from_secs(20);
const ABORTED: &str = "by the operator";
/// Recorded on the target before the first object is made that replay could not live with: no way back from there.
const PAST_RETURN: &str = "past-return";

/// Catch-up and cutover, as often as the operator goes back; then everything behind it.
pub async fn run(m: &mut Migration, mut replay: Replay) -> Result<()> {
    let result = until_drained(m, &mut replay).await;
    let (confirmed, end, counts) = match result {
        Ok(found) => found,
        Err(e) => {
            let replication = replay.stop(m).await;
            replication.watcher.abort();
            replication.receiver.stop().await.ok();
            return Err(e);
        }
    };
    let replication = replay.stop(m).await;
    let finished = async {
        // From here on a later run has to know what came after it.
        m.record.end = Some(end);
        m.save()?;
        last_objects(m).await?;
        m.record.completed = true;
        m.finish(Stage::Cutover).await?;
        let downtime_ms = u64::try_from(confirmed.elapsed().as_millis()).unwrap_or(u64::MAX);
        m.reporter.report(Event::Completed { tables: counts.0, changes: counts.1, downtime_ms }).await;
        m.enter(Stage::Done).await;
        behind_the_cutover(m).await?;
        linger(m, &replication.receiver, end).await
    };
    let finished = finished.await;
    replication.watcher.abort();
    replication.receiver.stop().await.ok();
    let late = finished?;
    let cleaned = clean::finish(m).await;
    m.reporter.report(Event::StageChanged { stage: Stage::Done, state: StageState::Done }).await;
    if late { Err(late_error()) } else { differing(m).and(cleaned) }
}

/// Returns when the cutover was confirmed, the end LSN, and tables and changes.
async fn until_drained(m: &mut Migration, replay: &mut Replay) -> Result<(Instant, Lsn, (u64, u64))> {
    // Asked for here, and not within the downtime: it takes seconds with filters over thousands of tables.
    let omitted = extent::resolve(&m.source("cutover").await?, &m.plan).await?;
    loop {
        replay.wait_for_cutover(m).await?;
        let confirmed = Instant::now();
        m.finish(Stage::CatchUp).await?;
        catchup::skip_verify(m).await;
        m.enter(Stage::Cutover).await;
        match drain(m, replay, &omitted).await? {
            Ok(end) => return Ok((confirmed, end, replay.counts())),
            Err(reason) => {
                m.reporter.report(Event::CutoverAborted { reason }).await;
                m.reporter.report(Event::StageChanged { stage: Stage::Cutover, state: StageState::Waiting }).await;
                m.enter(Stage::CatchUp).await;
            }
        }
    }
}

async fn stepped(m: &Migration, step: CutoverStep, done: bool, detail: impl Into<String>) {
    m.reporter.report(Event::CutoverStepped { step, done, detail: detail.into() }).await;
}

/// Steps 1 to 5: the end of the stream is applied, nothing came after it, sequences are set. The inner error is why it was given up.
async fn drain(m: &mut Migration, replay: &mut Replay, omitted: &Omitted) -> Result<Result<Lsn, String>> {
    replay.resume(m).await;
    let source = m.source("cutover").await?;
    if catalog::prepared_transactions(&source).await? > 0 {
        return Ok(Err("the source has prepared transactions: commit or roll them back".into()));
    }
    m.reporter.report(Event::CutoverStarted { end: None }).await;
    let mut end = catalog::mark_end_of_stream(&source).await?;
    loop {
        m.reporter.report(Event::CutoverStarted { end: Some(end) }).await;
        stepped(m, CutoverStep::EndOfStream, true, end.to_string()).await;
        stepped(m, CutoverStep::Drain, false, "").await;
        let mut barrier = replay.barrier(end);
        if abortable(m, replay, &mut barrier).await?.is_none() {
            return Ok(Err(ABORTED.into()));
        }
        stepped(m, CutoverStep::Drain, true, format!("applied to {end}")).await;
        let Some(looked) = late_write(m, replay, &source, end, CutoverStep::LateWrites).await? else { return Ok(Err(ABORTED.into())) };
        let after = match looked {
            Ok(after) => after,
            Err(after) if settle_late_write(m, replay).await? => {
                end = after;
                continue;
            }
            Err(_) => return Ok(Err(LATE.into())),
        };
        stepped(m, CutoverStep::Sequences, false, "").await;
        let set = sequences(m, &source, omitted).await?;
        stepped(m, CutoverStep::Sequences, true, format!("{set} set")).await;
        let Some(looked) = late_write(m, replay, &source, after, CutoverStep::LateWritesAgain).await? else { return Ok(Err(ABORTED.into())) };
        match looked {
            Ok(last) => return Ok(Ok(last)),
            Err(after) if settle_late_write(m, replay).await? => end = after,
            Err(_) => return Ok(Err(LATE.into())),
        }
    }
}

/// Waits, with an eye on replay, until something is done; `None` when the operator goes back.
async fn abortable<T>(m: &mut Migration, replay: &mut Replay, work: &mut (impl Future<Output = Result<T>> + Unpin)) -> Result<Option<T>> {
    loop {
        match replay.drive(m, work).await? {
            Driven::Done(done) => return Ok(Some(done)),
            Driven::Command(Command::AbortCutover) => return Ok(None),
            Driven::Command(other) => m.refuse(&other, Stage::Cutover).await,
        }
    }
}

/// Whether a published change was committed behind `end`: the new end of the stream, `Err` with a late write; `None` when the operator
/// goes back.
async fn late_write(m: &mut Migration, replay: &mut Replay, source: &Client, end: Lsn, step: CutoverStep) -> Result<Option<Result<Lsn, Lsn>>> {
    stepped(m, step, false, "").await;
    let now = catalog::mark_end_of_stream(source).await?;
    let mut reacher = replay.replication.receiver.reacher();
    let Some(status) = abortable(m, replay, &mut Box::pin(reacher.read(now))).await? else { return Ok(None) };
    let late = report_late_writes(m, source, &status.written_after(end)).await?;
    if late.is_empty() {
        stepped(m, step, true, "none").await;
        return Ok(Some(Ok(now)));
    }
    stepped(m, step, false, late.join(", ")).await;
    Ok(Some(Err(now)))
}

/// Tells of each table that was written to late; their names.
async fn report_late_writes(m: &Migration, source: &Client, writes: &[(u32, Lsn)]) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for (oid, lsn) in writes {
        let table = catalog::table_name(source, *oid).await?;
        names.push(table.to_string());
        m.reporter.report(Event::LateWrite { table, lsn: *lsn }).await;
    }
    Ok(names)
}

/// Drain again, or go back? Without anybody to ask: back, until the source is quiet.
async fn settle_late_write(m: &mut Migration, replay: &mut Replay) -> Result<bool> {
    if !m.config.interactive {
        return Ok(false);
    }
    let prompt = m.next_prompt(
        Stage::Cutover,
        PromptKind::LateWrite,
        "The source was written to after the end of the stream. r drains again, x goes back.",
        None,
    );
    let id = prompt.id;
    m.reporter.report(Event::PromptOpened { prompt }).await;
    let again = loop {
        let mut never = Box::pin(std::future::pending::<Result<()>>());
        match replay.drive(m, &mut never).await? {
            Driven::Done(()) => {}
            Driven::Command(Command::Retry { .. } | Command::Continue { .. } | Command::ConfirmCutover { .. }) => break true,
            Driven::Command(Command::AbortCutover) => break false,
            Driven::Command(other) => m.refuse(&other, Stage::Cutover).await,
        }
    };
    m.reporter.report(Event::PromptClosed { id }).await;
    Ok(again)
}

/// Sets the target's sequences to where the source's stand. Never backwards, but for those that nobody has used on the target, and those
/// that begin anew at their end.
async fn sequences(m: &Migration, source: &Client, omitted: &Omitted) -> Result<usize> {
    let target = m.target("cutover").await?;
    let there: HashMap<TableName, Sequence> = catalog::sequences(&target).await?.into_iter().map(|s| (s.table.clone(), s)).collect();
    let mut set = Vec::new();
    for s in catalog::sequences(source).await?.into_iter().filter(|s| !omitted.has_relation(&s.table)) {
        let Some(known) = there.get(&s.table) else {
            m.notice(Level::Warn, format!("sequence {} does not exist on the target", s.table)).await;
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

/// Without those that may hold a password: they have been run.
pub fn keep_statements(m: &Migration, statements: &[Statement]) -> Result<()> {
    let kept: Vec<&Statement> = statements.iter().filter(|s| !s.secret).collect();
    m.work.replace(STATEMENTS, &serde_json::to_vec(&kept)?)
}

pub fn statements(m: &Migration) -> Result<Vec<Statement>> {
    let path = m.work.path().join(STATEMENTS);
    let text =
        std::fs::read(&path).map_err(|e| Error::failed(format!("cannot read {}: {e}", path.display())).hint("restore the file from a backup"))?;
    Ok(serde_json::from_slice(&text)?)
}

/// Step 6: foreign keys (not valid yet), triggers in their state, rules, policies; then owners, grants and event triggers. No way back
/// from here.
async fn last_objects(m: &mut Migration) -> Result<()> {
    let all = statements(m)?;
    let mut session = ddl::Session::new(&m.config.target, m.application("cutover"), "");
    let target = session.client().await?;
    ledger::record_step(target, PAST_RETURN).await?;
    let mut executed = ledger::executed(target, Phase::Cutover.word()).await?;
    executed.extend(ledger::executed(target, Phase::Handover.word()).await?);
    let last = rights::possible(m, target, all.iter().filter(|s| s.phase == Phase::Cutover)).await?;
    let rights = rights::possible(m, target, all.iter().filter(|s| s.phase == Phase::Handover)).await?;
    let (asker, mut desk) = trouble::desk(m.config.interactive);
    let reporter = m.reporter.clone();
    let total = last.len() + rights.len();
    stepped(m, CutoverStep::LastObjects, false, format!("{total} objects")).await;
    let work = async {
        let quiet = |_: usize, _: &Statement| {};
        ddl::run_all(&mut session, &last, &executed, &reporter, Some(&asker), quiet).await?;
        ddl::run_all(&mut session, &rights, &executed, &reporter, None, quiet).await?;
        let target = session.client().await?;
        ledger::finish(target).await?;
        ledger::skipped(target).await
    };
    tokio::pin!(work);
    for (object, reason) in schema::with_desk(m, &mut desk, Stage::Cutover, work).await? {
        m.not_moved(object, reason).await?;
    }
    stepped(m, CutoverStep::LastObjects, true, format!("{total} objects")).await;
    Ok(())
}

/// What needs no downtime: foreign keys are validated, materialised views refreshed in the order of their dependencies.
async fn behind_the_cutover(m: &mut Migration) -> Result<()> {
    let target = m.target("cutover").await?;
    for statement in statements(m)? {
        let Some(validate) = &statement.validate else { continue };
        if let Err(e) = m.unless_stopped(async { Ok(target.batch_execute(validate).await?) }).await {
            if e.is_stop() {
                return Err(e);
            }
            m.not_moved(statement.object, format!("is there, but NOT VALID: {e}")).await?;
        }
    }
    refresh_views(m, &target).await?;
    if let Err(e) = changed_tables(m).await {
        m.not_moved("TABLES", format!("whether any were made or altered on the source since the copy is not known: {e}")).await?;
    }
    if let Err(e) = large_objects::look_for_changes(m).await {
        m.not_moved("LARGE OBJECTS", format!("whether they changed since the copy is not known: {e}")).await?;
    }
    m.notice(Level::Info, "foreign keys validated, materialised views refreshed").await;
    Ok(())
}

/// Tables that were made on the source since the copy, or altered so that replay did not see it: the cutover is possible with them.
async fn changed_tables(m: &mut Migration) -> Result<()> {
    let source = m.source("cutover").await?;
    let now = catalog::shapes(&source, &m.plan.scope).await?;
    for (table, how) in catalog::differences(&m.record.shapes, &now) {
        m.not_moved(format!("TABLE {table}"), format!("{how}; compare it with the target's and move what is missing by hand")).await?;
    }
    Ok(())
}

/// Refreshes what is populated on the source. A view may read others through a function, which no catalogue tells of: what fails is tried
/// again for as long as others succeed; and a function may count on the `search_path` of its database (N-4).
async fn refresh_views(m: &mut Migration, target: &Client) -> Result<()> {
    let mut left = match m.source("cutover").await {
        Ok(source) => catalog::populated_matviews(&source).await?,
        Err(e) => return m.not_moved("MATERIALIZED VIEWS", format!("not refreshed: {e}")).await,
    };
    // Left out, or skipped when they were to be made.
    let names: Vec<String> = left.iter().map(TableName::sql).collect();
    let missing = target.query("select name from unnest($1::text[]) name where to_regclass(name) is null", &[&names]).await?;
    let missing: Vec<String> = missing.iter().map(|r| r.get("name")).collect();
    left.retain(|view| !missing.contains(&view.sql()));
    let path = ledger::migration(target).await?.and_then(|known| known.search_path);
    loop {
        let mut failed = Vec::new();
        let before = left.len();
        for view in left {
            if target.query_one("select to_regclass($1) is null as missing", &[&view.sql()]).await?.get("missing") {
                // Left out, or skipped when it was to be made.
                continue;
            }
            let refresh = format!("refresh materialized view {}", view.sql());
            let mut attempts = vec![refresh.clone()];
            attempts.extend(path.iter().map(|path| format!("begin; set local search_path = {path}; {refresh}; commit")));
            let mut result = Ok(());
            for sql in attempts {
                result = m.unless_stopped(async { Ok(target.batch_execute(&sql).await?) }).await;
                match &result {
                    Ok(()) => break,
                    Err(e) if e.is_stop() => return result,
                    Err(_) => target.batch_execute("rollback").await?,
                }
            }
            if let Err(e) = result {
                failed.push((view, path.iter().fold(e, |e, path| ddl::look_elsewhere(e, target.version(), path))));
            }
        }
        if failed.is_empty() || failed.len() == before {
            for (view, e) in failed {
                let hint = e.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
                m.not_moved(format!("MATERIALIZED VIEW {view}"), format!("is there, but not refreshed: {e}{hint}")).await?;
            }
            return Ok(());
        }
        left = failed.into_iter().map(|(view, _)| view).collect();
    }
}

/// Goes on receiving: a late write is seen. Until the operator leaves, or for a while without one; then it is looked once more.
async fn linger(m: &mut Migration, receiver: &Receiver, end: Lsn) -> Result<bool> {
    let mut status = receiver.status.clone();
    let mut seen = end;
    let over = tokio::time::sleep(m.config.linger);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over, if !m.config.interactive => break,
            command = m.command() => match command {
                // Stopped behind the success line: nothing is undone, cleaning up still follows.
                Ok(Command::Leave) | Err(_) => break,
                Ok(other) => m.refuse(&other, Stage::Done).await,
            },
            changed = status.changed() => {
                if changed.is_err() {
                    std::future::pending::<()>().await;
                }
                let writes = status.borrow_and_update().written_after(seen);
                seen = writes.last().map_or(seen, |(_, last)| *last);
                late_writes(m, &writes).await?;
            }
        }
    }
    let look = async {
        let now = catalog::mark_end_of_stream(&m.source("cutover").await?).await?;
        receiver.reacher().read(now).await
    };
    match tokio::time::timeout(LAST_LOOK, look).await {
        Ok(Ok(status)) => late_writes(m, &status.written_after(seen)).await?,
        Ok(Err(e)) => unseen(m, &e.to_string()).await,
        Err(_) => unseen(m, "the source does not answer").await,
    }
    Ok(m.record.late)
}

async fn unseen(m: &Migration, why: &str) {
    m.notice(Level::Warn, format!("whether the source was written to after the cutover could not be seen to the end: {why}")).await;
}

/// Tells of late writes, and remembers that there were some.
async fn late_writes(m: &mut Migration, writes: &[(u32, Lsn)]) -> Result<()> {
    if writes.is_empty() {
        return Ok(());
    }
    if !m.record.late {
        m.record.late = true;
        m.save()?;
    }
    let source = m.source("cutover").await?;
    report_late_writes(m, &source, writes).await?;
    Ok(())
}

/// Whether an earlier run was stopped behind the point of no return.
pub async fn is_past_return(m: &Migration) -> Result<bool> {
    let target = m.target("cutover").await?;
    Ok(ledger::migration(&target).await?.is_some() && ledger::has_step(&target, PAST_RETURN).await?)
}

/// Goes on behind the point of no return: replay has ended, the last objects have not.
pub async fn finish(m: &mut Migration) -> Result<()> {
    m.enter(Stage::Cutover).await;
    let started = Instant::now();
    last_objects(m).await?;
    m.record.completed = true;
    m.finish(Stage::Cutover).await?;
    let tables = statements(m)?.iter().filter(|s| s.object.starts_with("TABLE ")).count() as u64;
    let downtime_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    m.reporter.report(Event::Completed { tables, changes: 0, downtime_ms }).await;
    after(m).await
}

fn late_error() -> Error {
    Error::new(Kind::Differs, "the source was written to after the cutover").hint("the tables are named as late writes: move those rows by hand")
}

/// Tables that differ with the operator's consent are told of once more, and make another exit code.
fn differing(m: &Migration) -> Result<()> {
    let differences = catchup::differences(m);
    if differences.is_empty() {
        return Ok(());
    }
    Err(Error::new(Kind::Differs, format!("the target differs from the source; not applied: {differences}"))
        .hint("these changes found no row, or collided: compare the tables and mend the rows by hand"))
}

/// What was written to the source since the end of the stream, while hyperlift did not run, or just before it was killed: what the
/// spool holds behind that end, and what the slot still has.
async fn written_since(m: &Migration, end: Lsn) -> Result<Vec<(u32, Lsn)>> {
    let source = m.source("cutover").await?;
    let (Some(start), Some(slot)) = (m.record.slot, slot::slot(&source, &slot::Names::of(&m.record.id).slot).await?) else { return Ok(Vec::new()) };
    let receiver =
        Receiver::start(copy::origin(m), m.work.spool(), Places { start, confirmed: slot.confirmed, copied: end }, m.cancel.clone()).await?;
    let look = async {
        let now = catalog::mark_end_of_stream(&source).await?;
        receiver.reacher().reach(now).await
    };
    let reached = tokio::time::timeout(LAST_LOOK, look).await;
    let spooled = receiver.status.borrow().end;
    receiver.stop().await.ok();
    reached.map_err(|_| Error::connection("the source does not answer"))??;
    tokio::task::block_in_place(|| spool::writes_after(&m.work.spool(), end, spooled))
}

/// A migration that is complete: validate, refresh, clean up; again if need be.
pub async fn after(m: &mut Migration) -> Result<()> {
    m.enter(Stage::Done).await;
    if m.is_finished(Stage::Done) {
        m.notice(Level::Info, "this migration is complete and cleaned up").await;
        return m.finish(Stage::Done).await;
    }
    behind_the_cutover(m).await?;
    if let Some(end) = m.record.end {
        match written_since(m, end).await {
            Ok(writes) => late_writes(m, &writes).await?,
            Err(e) => unseen(m, &e.to_string()).await,
        }
    }
    let cleaned = clean::finish(m).await;
    m.reporter.report(Event::StageChanged { stage: Stage::Done, state: StageState::Done }).await;
    if m.record.late { Err(late_error()) } else { differing(m).and(cleaned) }
}
