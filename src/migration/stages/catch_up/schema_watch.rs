//! Watching the schema of the source: what changed since the copy, and whether the target has it by now.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, Instant},
};

use crate::{
    config::NewTables,
    error::{Error, Result},
    event::{Event, Level, SchemaDifference, Stage},
    lsn::Lsn,
    migration::{
        context::{Context, Sides},
        restore::changes::{self, Ran, SchemaChanges},
    },
    pg::{
        catalog::{self, Shape, ShapeChange},
        client::Client,
        dump::repair::Repair,
    },
    plan::FollowDdl,
};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// Both schemas are dumped again at most this often: the target may have been altered meanwhile.
const COMPARE_EVERY: Duration = Duration::from_secs(20);

/// A source that does not answer within this time is polled again later.
const POLL_TIMEOUT: Duration = Duration::from_secs(3);

/// Lanes that are refused within this time of each other are refused for the same reason.
const SAME_REFUSAL: Duration = Duration::from_secs(3);

/// Comparing may take this part of the time.
const SHARE: u32 = 20;

/// What is known of changes in the source's schema.
#[derive(Default)]
pub struct SchemaWatch {
    /// The state of the source's catalogs in the last poll, and its tables.
    polled: Option<String>,
    shapes: BTreeMap<String, Shape>,
    compared: Option<Compared>,
    /// The comparison that runs: pg_dump may take minutes.
    comparing: Option<AbortOnDropHandle<Result<Compared>>>,
    /// When statements were run last because a change had been refused: what other lanes report then is the same.
    relaxed: Option<Instant>,
    /// Statements that run on the target.
    repairing: Option<JoinHandle<Ran>>,
    /// Why statements failed, by their text.
    failed: HashMap<String, String>,
    /// The differences as they were reported last.
    reported: Vec<SchemaDifference>,
    /// What differs, in words for the operator.
    difference: Option<String>,
    /// The source has changed, and what the target can follow is not done yet.
    busy: bool,
}

/// The last comparison of both schemas.
struct Compared {
    state: String,
    /// Where the source was then: what is written before, replay applies to the schema of before.
    source: Lsn,
    at: Instant,
    took: Duration,
    /// The statements were run, or there were none to run.
    tried: bool,
    changes: SchemaChanges,
}

impl SchemaWatch {
    pub fn difference(&self) -> Option<&str> {
        self.difference.as_deref()
    }

    /// What an automatic cutover waits for: always while nothing is known, or while the target still follows.
    pub fn waits_for(&self, cx: &Context) -> Option<String> {
        if self.polled.is_none() {
            return Some("the source's schema was not read yet".into());
        }
        let text = self.difference().filter(|_| self.busy || !cx.config.accept_schema_changes)?;
        let more = match cx.follow_ddl() {
            FollowDdl::Ask => "with --follow-ddl safe, or ",
            FollowDdl::Safe if self.reported.iter().any(|d| d.removes) => "with --follow-ddl all, or ",
            FollowDdl::Safe | FollowDdl::All => "",
        };
        Some(format!("the source's schema changed: {text}; make the change on the target, or start again {more}with --accept-schema-changes"))
    }

    /// The state of the source's catalogs in the last poll.
    pub fn polled(&self) -> Option<&str> {
        self.polled.as_deref()
    }

    /// Whether the source's catalogs are in the state of the copy, or were compared in this state.
    pub fn knows(&self, cx: &Context, state: &str) -> bool {
        cx.record.schema_state.as_deref() == Some(state) || self.compared.as_ref().is_some_and(|c| c.state == state && c.tried)
    }

    /// Whether the target has followed the source to this state of its catalogs, as far as it can.
    pub fn has_followed(&self, cx: &Context, state: &str) -> bool {
        self.repairing.is_none() && self.knows(cx, state)
    }

    /// The tables of the source, as they were in the last poll.
    pub fn shapes(&self) -> &BTreeMap<String, Shape> {
        &self.shapes
    }

    /// Polls only the tables of the source.
    pub async fn poll_shapes(&mut self, cx: &Context, source: &Client) {
        if let Ok(Ok(shapes)) = tokio::time::timeout(POLL_TIMEOUT, catalog::shapes(source, &cx.plan.scope)).await {
            self.shapes = shapes;
        }
    }

    /// Work beside replay has ended: the next poll need not be waited for.
    pub fn has_news(&self) -> bool {
        self.comparing.as_ref().is_some_and(AbortOnDropHandle::is_finished) || self.repairing.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// The next poll compares again.
    pub fn forget(&mut self) {
        self.compared = None;
        self.comparing = None;
    }

    /// Polls the source, compares both schemas where that is due, and lets the target follow. `applied`: everything before is on the target.
    pub async fn poll(&mut self, cx: &Context, source: &Client, applied: Lsn) {
        if self.repairing.as_ref().is_some_and(|work| !work.is_finished()) {
            return;
        }
        if let Some(work) = self.repairing.take() {
            let Ran { done, failed } = work.await.unwrap_or_default();
            // What was made may be what another statement needed.
            if done > 0 {
                self.forget();
                self.failed.clear();
            }
            self.failed.extend(failed);
        }
        let poll = async { Ok::<_, Error>((catalog::shapes(source, &cx.plan.scope).await?, catalog::schema_state(source).await?)) };
        let Ok(Ok((shapes, state))) = tokio::time::timeout(POLL_TIMEOUT, poll).await else { return };
        let tables = cx.record.changed_tables(&shapes);
        self.shapes = shapes;
        let moved = cx.record.schema_state.as_ref() != Some(&state);
        let settled = self.polled.replace(state.clone()).as_ref() == Some(&state);
        if moved && settled && self.is_due(&state) {
            self.comparing = compare(cx.sides(), source, state.clone()).await.ok();
        }
        if self.comparing.as_ref().is_some_and(AbortOnDropHandle::is_finished)
            && let Some(work) = self.comparing.take()
        {
            match work.await {
                Ok(Ok(compared)) => self.compared = Some(compared),
                Ok(Err(e)) => cx.notice(Level::Warn, format!("the source's schema changed, and could not be compared with the target's: {e}")).await,
                Err(_) => {}
            }
        }
        self.follow(cx, applied).await;
        let compared = self.compared.as_ref().filter(|c| c.state == state);
        self.busy = moved && (self.repairing.is_some() || compared.is_none_or(|c| !c.tried));
        let compared = compared.map(|c| &c.changes);
        let found = describe(&tables, moved, compared);
        if let (Some(text), true) = (&found, found != self.difference && !(moved && compared.is_none())) {
            let script = compared.filter(|changes| !changes.is_empty()).map(|changes| cx.work.replace(changes::SCRIPT, changes.script().as_bytes()));
            let place = script
                .map_or_else(String::new, |_| format!("; the statements for the target are in {}", cx.work.path().join(changes::SCRIPT).display()));
            cx.notice(Level::Warn, format!("the source's schema changed: {text}{place}")).await;
        }
        self.difference = found;
        self.report(cx, &tables, &state).await;
    }

    /// Reports the list of differences where it has changed.
    async fn report(&mut self, cx: &Context, tables: &[(String, ShapeChange)], state: &str) {
        let compared = self.compared.as_ref().filter(|c| c.state == state);
        if compared.is_none() && cx.record.schema_state.as_deref() != Some(state) {
            return;
        }
        let mut differences = compared.map(|c| c.changes.differences(takes_new_tables(cx))).unwrap_or_default();
        for difference in &mut differences {
            difference.error = difference.sql.as_ref().and_then(|sql| self.failed.get(sql).cloned());
        }
        let rows = tables.iter().filter(|(_, change)| change.concerns_rows()).map(|(table, change)| (format!("TABLE {table}"), change.words()));
        let rows = rows.filter(|(object, _)| differences.iter().all(|d| d.object != *object)).collect::<Vec<_>>();
        differences.extend(rows.into_iter().map(|(object, how)| SchemaDifference { object, how: how.into(), ..SchemaDifference::default() }));
        if differences != self.reported {
            self.reported.clone_from(&differences);
            cx.reporter.report(Event::SchemaCompared { differences }).await;
        }
    }

    /// Statements run on the target now: a cutover has to wait for them.
    pub fn is_following(&self) -> bool {
        self.repairing.is_some()
    }

    /// Begins to run statements that the operator has chosen from the list. Returns why it does not.
    pub async fn run(&mut self, cx: &Context, statements: &[String], applied: Lsn) -> Result<(), String> {
        if self.repairing.is_some() {
            return Err("statements run on the target already: wait for their end".into());
        }
        let Some(compared) = self.compared.as_ref() else { return Err("the schemas are being compared again: wait a moment".into()) };
        if compared.source > applied {
            return Err("replay has not come to where the source was when the schemas were compared: wait a moment".into());
        }
        let mut repairs = compared.changes.repairs(takes_new_tables(cx));
        repairs.retain(|r| r.attempts.first().is_some_and(|sql| statements.contains(sql)));
        if repairs.is_empty() {
            return Err("the difference is gone, or has another statement now".into());
        }
        self.begin(cx, repairs).await;
        Ok(())
    }

    async fn begin(&mut self, cx: &Context, repairs: Vec<Repair>) {
        match cx.target("follow-ddl").await {
            // An index may take hours.
            Ok(target) => self.repairing = Some(tokio::spawn(changes::run_repairs(target, repairs, cx.reporter.clone()))),
            Err(e) => cx.notice(Level::Warn, format!("the target cannot follow the source's schema: {e}")).await,
        }
    }

    /// Begins to run the statements that the plan allows, once replay has come to where the source was when they were found.
    async fn follow(&mut self, cx: &Context, applied: Lsn) {
        let allowed = |repair: &Repair| match cx.follow_ddl() {
            FollowDdl::Ask => false,
            FollowDdl::Safe => !repair.destroys,
            FollowDdl::All => true,
        };
        // Once the cutover has begun, nothing is altered beside it.
        let is_due = |c: &&mut Compared| !c.tried && c.source <= applied && cx.current() == Stage::CatchUp;
        let Some(compared) = self.compared.as_mut().filter(is_due) else { return };
        compared.tried = true;
        let mut repairs = compared.changes.repairs(takes_new_tables(cx));
        repairs.retain(allowed);
        if !repairs.is_empty() {
            self.begin(cx, repairs).await;
        }
    }

    /// Runs only the statements that allow more than before, because a change has been refused that the source has accepted. Returns whether
    /// the change is worth another attempt.
    pub async fn relax(&mut self, cx: &Context) -> Result<bool> {
        if cx.follow_ddl() == FollowDdl::Ask || self.repairing.is_some() {
            return Ok(false);
        }
        let mut repairs = cx.unless_stopped(changes::find(&cx.sides())).await?.repairs(false);
        repairs.retain(Repair::relaxes);
        if repairs.is_empty() {
            return Ok(self.relaxed.is_some_and(|at| at.elapsed() < SAME_REFUSAL));
        }
        self.forget();
        let done = changes::run_repairs(cx.target("follow-ddl").await?, repairs, cx.reporter.clone()).await.done;
        self.relaxed = (done > 0).then(Instant::now);
        Ok(done > 0)
    }

    /// The statements for what columns may need: types, functions, sequences.
    pub async fn needed(&self, cx: &Context) -> Result<Vec<Repair>> {
        let mut repairs = cx.unless_stopped(changes::find(&cx.sides())).await?.repairs(false);
        repairs.retain(Repair::needs_no_table);
        Ok(repairs)
    }

    /// Runs them. Returns whether there is anything new.
    pub async fn make_needed(&mut self, cx: &Context) -> Result<bool> {
        let repairs = self.needed(cx).await?;
        self.forget();
        Ok(changes::run_repairs(cx.target("follow-ddl").await?, repairs, cx.reporter.clone()).await.done > 0)
    }

    fn is_due(&self, state: &str) -> bool {
        match &self.compared {
            _ if self.comparing.is_some() => false,
            None => true,
            Some(c) if c.state == state && c.changes.is_empty() => false,
            Some(c) => c.at.elapsed() >= COMPARE_EVERY.max(c.took * SHARE),
        }
    }
}

/// Begins to compare both schemas, beside replay.
async fn compare(sides: Sides, source: &Client, state: String) -> Result<AbortOnDropHandle<Result<Compared>>> {
    let (started, source) = (Instant::now(), catalog::flushed_lsn_and_time(source).await?.0);
    Ok(AbortOnDropHandle::new(tokio::spawn(async move {
        let changes = changes::find(&sides).await?;
        Ok(Compared { state, source, at: Instant::now(), took: started.elapsed(), tried: false, changes })
    })))
}

fn takes_new_tables(cx: &Context) -> bool {
    cx.config.new_tables == NewTables::Take
}

/// What differs. Until both schemas are compared, what the shapes of the tables say.
fn describe(tables: &[(String, ShapeChange)], moved: bool, compared: Option<&SchemaChanges>) -> Option<String> {
    let counts = |change: &ShapeChange| compared.is_none() || change.concerns_rows();
    let mut lines: Vec<String> =
        tables.iter().filter(|(_, change)| counts(change)).map(|(table, change)| format!("{table} {}", change.words())).collect();
    let named: Vec<String> = tables.iter().map(|(table, _)| format!("TABLE {table}")).collect();
    for (object, how) in compared.map(SchemaChanges::lines).unwrap_or_default() {
        if !lines.is_empty() && named.contains(&object.to_string()) {
            continue;
        }
        lines.push(format!("{object} {how}"));
    }
    match &lines[..] {
        [] if moved && compared.is_none() => Some("it is compared with the target's".into()),
        [] => None,
        [one] => Some(one.clone()),
        [first, more @ ..] => Some(format!("{first}, and {} more", more.len())),
    }
}
