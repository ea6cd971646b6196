//! Stage 1: everything that can be known before anything is changed. A hard failure stops here.
//!
//! The facts are gathered first, then every check of the table judges them.

pub mod checks;
mod connections;
mod finding;
mod machine;
mod scope;
mod source;
mod target;
mod timescaledb;

use self::{
    checks::{CHECKS, Facts, Group},
    connections::NotGathered,
    scope::Purpose,
};
use super::identity;
use crate::{
    error::{Error, Kind, Result},
    event::{Check, Command, Event, Level, Stage, Verdict},
    migration::{context::Context, relations},
    record::RecordedEndpoint,
};

/// The list of what the filters leave out, in the work directory.
const LEFT_OUT: &str = "report/left-out.txt";
/// A migration names this many of them in its log.
const NAMED_LEFT_OUT: usize = 20;

/// Runs the checks until none fails and the operator continues.
pub async fn run(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Preflight).await;
    loop {
        let (results, judged) = check(cx, Purpose::Migration).await?;
        let failed: Vec<&Check> = results.iter().filter(|c| c.verdict == Verdict::Fail).collect();
        if let (true, Judged::Facts(facts)) = (failed.is_empty(), &judged) {
            accept(cx, facts)?;
        }
        if cx.is_finished(Stage::Preflight) && failed.is_empty() {
            break;
        }
        if !cx.config.interactive {
            refuse(&failed, judged)?;
        }
        let warnings = results.iter().filter(|c| c.verdict == Verdict::Warn).count();
        let text = match (failed.len(), warnings) {
            (0, 0) => "Everything is in order.".to_owned(),
            (0, n) => format!("{n} warning{}: read them, then continue.", plural(n)),
            (n, _) => format!("{n} check{} failed. Fix the cause, then check again (R).", plural(n)),
        };
        let blocked = (!failed.is_empty()).then(|| format!("{} failed", failed.len()));
        let recheck = |command| if command == Command::Recheck { Ok(()) } else { Err(command) };
        if cx.prompts.ask_continue(Stage::Preflight, text, blocked, recheck).await?.is_none() {
            break;
        }
    }
    if !cx.is_finished(Stage::Preflight) {
        cx.record.scope = cx.plan.scope.clone();
        if !cx.plan.scope.is_everything() {
            cx.save_plan()?;
            let list = std::fs::read_to_string(cx.work.path().join(LEFT_OUT)).unwrap_or_default();
            cx.not_moved(format!("{} objects", list.lines().count()), format!("left out with the filters: see {LEFT_OUT}")).await?;
        }
    }
    cx.finish(Stage::Preflight).await
}

/// Runs the checks one time, for `hyperlift check`: nothing is remembered, and nobody is asked.
pub async fn check_only(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Preflight).await;
    let (results, judged) = check(cx, Purpose::CheckOnly).await?;
    let failed: Vec<&Check> = results.iter().filter(|c| c.verdict == Verdict::Fail).collect();
    refuse(&failed, judged)
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// What the results come from.
enum Judged {
    Facts(Box<Facts>),
    /// There are no facts, for this reason.
    Nothing(Error),
}

/// Gathers the facts, judges them, and reports the results.
async fn check(cx: &Context, purpose: Purpose) -> Result<(Vec<Check>, Judged)> {
    cx.reporter.report(Event::ChecksStarted).await;
    let gathered = cx.unless_stopped(async { Ok(Facts::gather(cx, purpose).await) }).await?;
    let (results, judged) = match gathered {
        Ok(facts) => {
            let results = judge(&facts);
            if facts.connections.are_the_databases() {
                name_what_is_left_out(cx, &facts, purpose).await?;
                check_plan(cx, &facts).await?;
            }
            (results, Judged::Facts(Box::new(facts)))
        }
        Err(NotGathered { error, .. }) if error.is_stop() || error.kind == Kind::Usage => return Err(error),
        // A server that is not reached is a verdict, too: with a terminal it can be tried again.
        Err(NotGathered { check, error }) => {
            let result = Check { name: check.into(), verdict: Verdict::Fail, sentence: error.to_string(), fix: error.hint.clone() };
            (vec![result], Judged::Nothing(error))
        }
    };
    for check in &results {
        cx.reporter.report(Event::Checked { check: check.clone() }).await;
    }
    Ok((results, judged))
}

/// The verdicts in the order of the table. When the databases are not the right ones, the other checks would judge the wrong ones.
fn judge(facts: &Facts) -> Vec<Check> {
    let result = |check: &checks::PreflightCheck| {
        let finding = (check.run)(facts);
        Check { name: check.name.into(), verdict: finding.verdict, sentence: finding.sentence, fix: finding.fix }
    };
    let of_connections = |check: &&checks::PreflightCheck| check.group == Group::Connections;
    let mut results: Vec<Check> = CHECKS.iter().filter(of_connections).map(result).collect();
    if facts.connections.are_the_databases() {
        results.extend(CHECKS.iter().filter(|c| !of_connections(c)).map(result));
    }
    results
}

/// Without anybody to ask, the first failure is the end.
fn refuse(failed: &[&Check], judged: Judged) -> Result<()> {
    match (judged, failed.first()) {
        (Judged::Nothing(mut error), _) => {
            // What a server said no to is a refusal of the check, not a failure of the program.
            if matches!(error.kind, Kind::Connection | Kind::Database | Kind::Failed) {
                error.kind = Kind::Refused;
            }
            Err(error)
        }
        (Judged::Facts(_), Some(first)) => {
            let mut error = Error::refused(format!("preflight, {}: {}", first.name, first.sentence));
            error.hint.clone_from(&first.fix);
            Err(error)
        }
        (Judged::Facts(_), None) => Ok(()),
    }
}

/// A migration keeps the whole list in its work directory; `hyperlift check` has none, and prints the list.
async fn name_what_is_left_out(cx: &Context, facts: &Facts, purpose: Purpose) -> Result<()> {
    let Some(omitted) = facts.scope.omitted.as_ref().filter(|_| !facts.scope.has_begun) else { return Ok(()) };
    let named = match purpose {
        Purpose::Migration => {
            cx.work.replace(LEFT_OUT, omitted.to_lines().as_bytes())?;
            NAMED_LEFT_OUT
        }
        Purpose::CheckOnly => usize::MAX,
    };
    for object in omitted.list.iter().take(named) {
        cx.notice(Level::Info, format!("left out: {}", object.to_string().replace('\n', " "))).await;
    }
    Ok(())
}

/// A mistake in the plan is an error, not a verdict: it is corrected in a file, not on a server.
async fn check_plan(cx: &Context, facts: &Facts) -> Result<()> {
    relations::check_plan_names(cx, &facts.scope.relations)?;
    let copied: Vec<_> = facts.scope.copied().into_iter().cloned().collect();
    identity::check_plan(cx, &copied)?;
    let summaries = copied.iter().map(|r| relations::summary(r, cx)).collect();
    cx.reporter.report(Event::RelationsFound { relations: summaries }).await;
    Ok(())
}

/// What the checks learned and the migration keeps.
fn accept(cx: &mut Context, facts: &Facts) -> Result<()> {
    let found = &facts.connections;
    cx.timescale = found.timescale.clone();
    cx.timescale.schema.clone_from(&facts.timescaledb.schema);
    if facts.timescaledb.is_better_left_out() && !cx.config.interactive {
        cx.timescale.available = None;
    }
    cx.endpoints = found.endpoints.clone();
    if cx.record.source.system_id.is_empty() {
        let endpoint = |address, server: &crate::pg::catalog::Server| RecordedEndpoint {
            address,
            system_id: server.system_id.clone(),
            database: server.database.clone(),
        };
        cx.record.source = endpoint(cx.config.source.address(), &found.source);
        cx.record.target = endpoint(cx.config.target.address(), &found.target);
        cx.save()?;
    }
    Ok(())
}
