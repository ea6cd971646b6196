//! `--plain`: one line for each fact, for logs and for terminals that cannot draw.

use jiff::{Timestamp, tz::TimeZone};
use std::{
    fmt::Write as _,
    io::{BufRead, IsTerminal, Write},
    time::Duration,
};

use crate::{
    bus::{EventStream, FrontEnd},
    error::Result,
    event::{Answer, Command, CopyProgress, Event, PromptKind, ReplayStatus, SlowTable, Stage, StageState, Stamped, TableState},
    format,
    state::{Ended, State, Table, between},
};

/// The lag is printed this often while the target catches up.
const WATCH: Duration = Duration::from_secs(10);
/// The status line is printed this often.
const STATUS: Duration = Duration::from_secs(60);

/// Prints until the stream ends. The migration continues when nobody reads any more.
///
/// On a terminal, `c` and Enter continue an open prompt.
pub async fn run(mut stream: EventStream, front: FrontEnd, mut out: impl Write + Send) -> Result<()> {
    if std::io::stdin().is_terminal() {
        continue_by_keyboard(front);
    }
    let mut printer = Printer::new(TimeZone::system());
    let mut open = true;
    while let Some(stamped) = stream.recv().await {
        let text = printer.lines(&stamped);
        if open && !text.is_empty() {
            open = out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok();
        }
    }
    Ok(())
}

/// Reading a terminal's line cannot be cancelled, so the thread stays until the program ends.
fn continue_by_keyboard(front: FrontEnd) {
    std::thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(std::result::Result::ok) {
            if line.trim() != "c" {
                continue;
            }
            let open = front.state.borrow().prompts.to_continue();
            if let Some(prompt) = open
                && front.commands.blocking_send(Command::Answer { prompt, answer: Answer::Continue }).is_err()
            {
                return;
            }
        }
    });
}

/// A table before an event.
#[derive(Clone, Copy)]
struct Before {
    state: TableState,
    differs: bool,
}

/// Folds events into a state, and prints a line for those that matter to a reader.
struct Printer {
    zone: TimeZone,
    state: State,
    watched: Option<(Timestamp, u64)>,
    status_at: Option<Timestamp>,
}

impl Printer {
    fn new(zone: TimeZone) -> Self {
        Self { zone, state: State::default(), watched: None, status_at: None }
    }

    /// The lines for one event, each with the time of day; often none.
    fn lines(&mut self, stamped: &Stamped) -> String {
        let before = self.before(&stamped.event);
        self.state.apply(stamped);
        let clock = format::clock_in(stamped.at, &self.zone);
        let mut out = String::new();
        let mut say = |text: String| {
            // One line each: a server's message may have several.
            let _ = writeln!(out, "{clock} {}", text.replace(['\n', '\r'], " "));
        };
        if let Some(text) = self.fact(&stamped.event, before) {
            say(text);
        }
        if let Some(text) = self.watch(stamped) {
            say(text);
        }
        if self.status_at.is_none_or(|at| between(at, stamped.at) >= STATUS) && self.state.opened.is_some() {
            if self.status_at.is_some() && self.state.ended.is_none() {
                say(self.status());
            }
            self.status_at = Some(stamped.at);
        }
        out
    }

    /// What was known of the event's table before it.
    fn before(&self, event: &Event) -> Option<Before> {
        let (Event::CopyProgress(CopyProgress { table, .. }) | Event::Missed { table, .. }) = event else { return None };
        self.state.table(table).map(|t| Before { state: t.state(), differs: t.difference.is_some() })
    }

    fn fact(&self, event: &Event, before: Option<Before>) -> Option<String> {
        Some(match event {
            Event::Opened { id, source, target, resumed, .. } => {
                let verb = if *resumed { "continued" } else { "started" };
                format!("migration {id} {verb}: {} -> {}", source.address, target.address)
            }
            Event::Connected { source, target } => {
                let timescale = target.timescale.as_ref().map(|v| format!(", TimescaleDB {v}")).unwrap_or_default();
                format!("connected: source PostgreSQL {}, target PostgreSQL {}{timescale}", source.version, target.version)
            }
            Event::StageChanged { stage, state } => match state {
                StageState::Running => format!("stage={} running", word(*stage)),
                StageState::Done => format!("stage={} done", word(*stage)),
                StageState::Skipped => format!("stage={} skipped", word(*stage)),
                StageState::Failed => format!("stage={} FAILED", word(*stage)),
                StageState::Waiting => return None,
            },
            Event::Checked { check } => {
                let verdict = check.verdict.as_str();
                let fix = check.fix.as_ref().map(|f| format!("  fix: {f}")).unwrap_or_default();
                format!("check {}: {verdict} {}{fix}", check.name, check.sentence)
            }
            Event::RelationsFound { relations } => {
                format!("{} in scope, {}", tables(relations.len()), format::bytes(relations.iter().map(|r| r.bytes).sum()))
            }
            Event::IdentityListed { rows } => {
                let open = rows.iter().filter(|r| r.state == crate::event::IdentityState::Open).map(|r| r.table.to_string()).collect::<Vec<_>>();
                if open.is_empty() {
                    "replica identity: none open".into()
                } else {
                    format!("replica identity: {} open: {}", open.len(), open.join(", "))
                }
            }
            Event::StatementFailed(failed) => format!("ERROR {}: {}", failed.object, failed.full_message()),
            Event::StatementRetried { object } => format!("{object}: retried"),
            Event::StatementSkipped { object } => format!("WARN  skipped {object}"),
            Event::NotMoved { object, reason } => format!("WARN  not moved: {object}: {reason}"),
            Event::CandidatesListed { candidates } => {
                format!("hypertables: {} of {} chosen", candidates.iter().filter(|c| c.chosen.is_some()).count(), tables(candidates.len()))
            }
            Event::HypertableCreated { hypertable: h } => format!("hypertable {} by {}, chunks of {}", h.table, h.time_column, h.chunk_interval),
            Event::Waiting { what, holders } if !holders.is_empty() => {
                let who = holders.iter().map(|h| format!("{} (pid {}, {} s)", h.who, h.pid, h.seconds)).collect::<Vec<_>>().join(", ");
                format!("WARN  {what} waits for {who}")
            }
            Event::SlotCreated { slot, lsn } => format!("slot {slot} at {lsn}"),
            Event::CopyProgress(progress) => return self.copied(progress, before.map(|b| b.state)),
            Event::CopyBegun { table, format, parts } => {
                let parts = if *parts > 1 { format!(", {parts} parts") } else { String::new() };
                format!("copy {table}: {}{parts}", format.as_str())
            }
            Event::JobsChanged { table_jobs, index_jobs } => format!("jobs: copy {table_jobs}, index {index_jobs}"),
            Event::Paused { paused } => if *paused { "paused" } else { "resumed" }.into(),
            Event::StreamBroken { error: Some(error) } => format!("WARN  replication stream: {error}; retrying"),
            Event::StreamBroken { error: None } => "replication stream flows".into(),
            Event::DivergenceSettled { table, accepted: true } => format!("WARN {table}: the difference is accepted"),
            Event::DivergenceSettled { table, accepted: false } => format!("{table}: retried"),
            Event::Missed { .. } if before.is_some_and(|b| b.differs) => return None,
            Event::Missed { table, missed } => {
                format!("WARN  {table} differs: {missed} of its changes found no row, or collided, and are counted, not applied")
            }
            Event::SlowedDown(SlowTable { table, reason, fix }) => format!("WARN  {table} is slow: {reason}  fix: {fix}"),
            Event::SpedUp { table } => format!("{table} is no longer slow"),
            Event::Diverged { table, reason } => format!("ERROR {table} diverged: {reason}"),
            Event::SchemaCompared { differences } if differences.is_empty() => "the schemas of both sides are the same".into(),
            Event::SchemaCompared { differences } => {
                let lines = differences.iter().map(|d| format!("{} {} ({})", d.object, d.how, d.state())).collect::<Vec<_>>();
                format!("WARN  the schemas differ: {}", lines.join("; "))
            }
            Event::Analyzed(status) if status.error.is_none() && status.has_ended() => format!("ANALYZE finished, {}", tables(status.total as usize)),
            Event::CutoverStarted { end: None } => "Syncing last LSN in Source DB to Target DB ...".into(),
            Event::CutoverStepped { step, done: true, detail } => format!("cutover: {}{}", step.title(), join(detail)),
            Event::CutoverAborted { reason } => format!("WARN  cutover aborted: {reason}"),
            Event::Completed { .. } => "Migration successfully completed".into(),
            Event::LateWrite { table, lsn } => format!("ERROR late write on the source: {table} at {lsn}"),
            Event::Cleaned { what, error: None } => format!("cleaned: {what}"),
            Event::Cleaned { what, error: Some(error) } => format!("WARN  could not clean {what}: {error}"),
            Event::PromptOpened { prompt } => {
                let (kind, how) = match prompt.kind {
                    PromptKind::Continue => ("continue", "c and Enter here, SIGUSR1, or start with --yes"),
                    PromptKind::Failure => ("failure", "r or K in the dashboard"),
                    PromptKind::Cutover => ("cutover", "Y in the dashboard, or start with --cutover-when-ready"),
                    PromptKind::LateWrite => ("late-write", "r (drain again) or x (go back) in the dashboard"),
                };
                let blocked = prompt.blocked_by.as_ref().map(|b| format!(" blocked=\"{b}\"")).unwrap_or_default();
                format!("prompt={kind} stage={}{blocked}  {}  waiting: {how}", word(prompt.stage), prompt.text)
            }
            Event::CommandRefused { command, why } => format!("WARN  {command}: {why}"),
            Event::Notice { level, text } => format!("{:<5} {text}", level.as_str()),
            Event::Failed { message, hint } => format!("ERROR {message}{}", hint.as_ref().map(|h| format!("  hint: {h}")).unwrap_or_default()),
            Event::Stopped { stage } => format!("stopped at {}", stage.title()),
            Event::ChecksStarted
            // A notice has said so.
            | Event::RelationAdded { .. }
            | Event::TableLeft { .. }
            | Event::TableJoined { .. }
            // Reported once more when the end is known.
            | Event::CutoverStarted { end: Some(_) }
            | Event::SchemaProgress { .. }
            | Event::Waiting { .. }
            | Event::IndexesCounted { .. }
            | Event::IndexProgress { .. }
            | Event::IndexBuilding { .. }
            | Event::Received { .. }
            | Event::SlotChecked { .. }
            | Event::Replayed { .. }
            | Event::TableReplayed { .. }
            | Event::Analyzed { .. }
            | Event::GatesChecked { .. }
            | Event::CutoverStepped { .. }
            | Event::PromptClosed { .. } => return None,
        })
    }

    /// A table's copy begins, ends, or fails.
    fn copied(&self, progress: &CopyProgress, before: Option<TableState>) -> Option<String> {
        let CopyProgress { table, state, rows, bytes, error } = progress;
        if before == Some(*state) {
            return None;
        }
        let known = self.state.table(table);
        let earlier = known.is_some_and(|t| t.format.is_none());
        let took = known.and_then(|t| Some(between(t.started?, t.finished?)));
        let took = took.map(|d| format!(" in {}", format::duration(d))).unwrap_or_default();
        Some(match state {
            // Its format is reported when it begins.
            TableState::Queued | TableState::Copying => return None,
            TableState::Done if before.is_some_and(TableState::is_copied) => format!("indexed {table}"),
            TableState::Indexing if before == Some(TableState::Waiting) => return None,
            // These are the estimates of the source's statistics, not what was copied.
            TableState::Waiting | TableState::Indexing | TableState::Done if earlier => format!("copied {table}: by an earlier run"),
            TableState::Waiting | TableState::Indexing | TableState::Done => {
                format!("copied {table}: {} rows, {}{took}", format::count(*rows), format::bytes(*bytes))
            }
            TableState::Failed => format!("ERROR copy {table}: {}", error.as_deref().unwrap_or("failed")),
            TableState::Skipped => format!("WARN  skipped the data of {table}"),
        })
    }

    /// The line that scripts wait for: the lag.
    fn watch(&mut self, stamped: &Stamped) -> Option<String> {
        let Event::Replayed(ReplayStatus { lag, .. }) = stamped.event else { return None };
        if !matches!(self.state.stage, Some(Stage::CatchUp | Stage::Verify | Stage::Cutover)) {
            return None;
        }
        let due = match self.watched {
            None => true,
            Some((at, before)) => between(at, stamped.at) >= WATCH || (lag == 0 && before > 0),
        };
        if !due {
            return None;
        }
        self.watched = Some((stamped.at, lag));
        Some(format!("[WATCH] Source DB - Target DB => {}", format::megabytes_up(lag)))
    }

    /// `stage=catch-up copy=10/10 386.0GB applied=8/49BB1020 lag=11.8MB behind=4.2s rate=9.6MB/s eta=00:00:02 state=running`
    fn status(&self) -> String {
        let s = &self.state;
        let tight = |text: String| text.replace(' ', "");
        let mut out = format!("stage={}", s.stage.map_or("starting", word));
        if !s.tables.is_empty() {
            let (done, all) = s.tables.bytes();
            let _ = write!(out, " copy={}/{} {}", s.tables.count(TableState::Done), s.tables.len(), tight(format::bytes(done)));
            if done < all {
                let _ = write!(out, "/{} rate={}", tight(format::bytes(all)), tight(format::rate(s.tables.copy_rate())));
            }
            if let Some(left) = s.now.and_then(|now| s.copy_eta(now)) {
                let _ = write!(out, " left=~{}", format::duration(left));
            }
        }
        if let Some(lag) = s.replay.lag() {
            let rate = tight(format::rate(s.replay.applied_meter.rate()));
            let _ = write!(out, " applied={} lag={}", s.replay.status.applied, tight(format::bytes(lag)));
            if let Some(ms) = s.replay.status.lag_ms {
                let _ = write!(out, " behind={}", tight(format::ago(Duration::from_millis(ms))));
            }
            let _ = write!(out, " rate={rate}");
            if let Some(eta) = s.replay.sync_eta() {
                let _ = write!(out, " eta={}", format::duration(eta));
            }
            let blocked: Vec<_> = s.replay.status.lanes.iter().filter(|l| l.blocked.is_some()).map(|l| l.lane.to_string()).collect();
            if !blocked.is_empty() {
                let _ = write!(out, " blocked=lane-{}", blocked.join(",lane-"));
            }
            let missed: u64 = s.tables.iter().map(Table::missed).sum();
            if missed > 0 {
                let _ = write!(out, " missed={missed}");
            }
        }
        let state = match (&s.ended, s.prompts.shown()) {
            (Some(Ended::Failed { .. }), _) => "failed",
            (Some(Ended::Stopped), _) => "stopped",
            (None, Some(_)) => "waiting",
            (None, None) if s.paused => "paused",
            (None, None) => "running",
        };
        let _ = write!(out, " state={state}");
        out
    }
}

fn tables(n: usize) -> String {
    if n == 1 { "1 table".into() } else { format!("{n} tables") }
}

fn join(detail: &str) -> String {
    if detail.is_empty() { String::new() } else { format!(": {detail}") }
}

/// The stage in one lower-case word.
fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Preflight => "preflight",
        Stage::Identity => "identity",
        Stage::Schema => "schema",
        Stage::Hypertables => "hypertables",
        Stage::Copy => "copy",
        Stage::CatchUp => "catch-up",
        Stage::Verify => "verify",
        Stage::Cutover => "cutover",
        Stage::Done => "done",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{CopyFormat, Endpoint, Prompt, RelationKind, RelationSummary, StreamStatus},
        lsn::Lsn,
        name::TableName,
    };

    /// Lines for events at seconds since midnight UTC.
    fn print(events: Vec<(i64, Event)>) -> String {
        let mut printer = Printer::new(TimeZone::UTC);
        let midnight = "2026-03-01T00:00:00Z".parse::<Timestamp>().unwrap().as_second();
        events.into_iter().map(|(s, event)| printer.lines(&Stamped { at: Timestamp::from_second(midnight + s).unwrap(), event })).collect()
    }

    fn opened() -> Event {
        let side = |address: &str| Endpoint { address: address.into(), ..Endpoint::default() };
        Event::Opened {
            id: "a1".into(),
            dir: "a1".into(),
            source: side("prod:5432/shop"),
            target: side("ts:5432/tsdb"),
            resumed: false,
            analyze_below: 0,
        }
    }

    fn running(stage: Stage) -> Event {
        Event::StageChanged { stage, state: StageState::Running }
    }

    fn replayed(lag: u64) -> Event {
        let lsn = Lsn(0x8_4A77_D3E0);
        Event::Replayed(ReplayStatus {
            source: lsn,
            received: lsn,
            applied: Lsn(lsn.0 - lag),
            lag,
            lag_ms: Some(lag / 1_000_000),
            ..ReplayStatus::default()
        })
    }

    #[test]
    fn what_an_earlier_run_copied_is_not_reported_with_the_rows_that_statistics_guess() {
        let table = TableName::new("public", "orders");
        let relation = RelationSummary { table: table.clone(), kind: RelationKind::Plain, bytes: 10 << 20, rows: 1000 };
        let copied = Event::CopyProgress(CopyProgress { table, state: TableState::Waiting, rows: 1000, bytes: 10 << 20, error: None });
        let lines = print(vec![(0, opened()), (1, Event::RelationsFound { relations: vec![relation] }), (2, copied)]);
        assert!(lines.contains("copied public.orders: by an earlier run") && !lines.contains("1 000 rows"), "{lines}");
    }

    #[test]
    fn a_migration_in_lines() {
        let table = TableName::new("public", "orders");
        let copy = |state, rows| Event::CopyProgress(CopyProgress { table: table.clone(), state, rows, bytes: rows * 100, error: None });
        let relation = RelationSummary { table: table.clone(), kind: RelationKind::Plain, bytes: 10 << 20, rows: 1000 };
        let prompt = |id, stage, kind, text: &str, blocked: Option<&str>| Event::PromptOpened {
            prompt: Prompt { id, stage, kind, subject: None, text: text.into(), blocked_by: blocked.map(str::to_owned) },
        };
        insta::assert_snapshot!(print(vec![
            (0, opened()),
            (1, running(Stage::Preflight)),
            (2, Event::RelationsFound { relations: vec![relation] }),
            (2, prompt(1, Stage::Identity, PromptKind::Continue, "1 table is open.", Some("1 open"))),
            (9, running(Stage::Copy)),
            (10, Event::CopyBegun { table: table.clone(), format: CopyFormat::Binary, parts: 3 }),
            (10, copy(TableState::Copying, 0)),
            (11, copy(TableState::Copying, 10)),
            (70, copy(TableState::Copying, 700)),
            (80, copy(TableState::Waiting, 1000)),
            (81, copy(TableState::Indexing, 1000)),
            (82, copy(TableState::Done, 1000)),
            (83, Event::Notice { level: crate::event::Level::Warn, text: "two\nlines".into() }),
            (90, running(Stage::CatchUp)),
            (91, replayed(126 << 20)),
            (92, replayed(120 << 20)),
            (101, replayed((11 << 20) + 1)),
            (102, replayed(0)),
            (103, replayed(0)),
            (131, Event::Received(StreamStatus { lsn: Lsn(1), bytes: 1, spool_bytes: 1, disk_free: 1 })),
            (132, prompt(2, Stage::CatchUp, PromptKind::Cutover, "All gates are green.", None)),
            (133, Event::CutoverStarted { end: None }),
            (134, Event::Completed { tables: 1, changes: 0, downtime_ms: 900 }),
            (140, Event::Cleaned { what: "slot hyperlift_a1".into(), error: Some("the source does not answer".into()) }),
            (141, Event::Failed { message: "no".into(), hint: Some("try".into()) }),
        ]));
    }

    #[test]
    fn the_lag_is_printed_every_ten_seconds_and_when_it_is_gone() {
        let mut events = vec![(0, opened()), (0, running(Stage::CatchUp))];
        events.extend((1..=25).map(|s| (s, replayed(1))));
        events.extend([(26, replayed(0)), (27, replayed(0))]);
        let text = print(events);
        let watched: Vec<_> = text.lines().filter(|l| l.contains("[WATCH]")).collect();
        assert_eq!(
            watched,
            [
                "00:00:01 [WATCH] Source DB - Target DB => 1MB",
                "00:00:11 [WATCH] Source DB - Target DB => 1MB",
                "00:00:21 [WATCH] Source DB - Target DB => 1MB",
                "00:00:26 [WATCH] Source DB - Target DB => 0MB",
            ]
        );
    }

    #[test]
    fn missed_changes_are_reported_once_and_are_in_the_status_line() {
        let table = TableName::new("public", "orders");
        let relation = RelationSummary { table: table.clone(), kind: RelationKind::Plain, bytes: 10 << 20, rows: 1000 };
        let missed = |missed| Event::Missed { table: table.clone(), missed };
        let found = Event::RelationsFound { relations: vec![relation] };
        let text = print(vec![(0, opened()), (0, found), (0, running(Stage::CatchUp)), (1, missed(2)), (2, missed(7)), (61, replayed(0))]);
        assert_eq!(text.matches("public.orders differs").count(), 1, "{text}");
        assert!(text.lines().last().unwrap().contains(" missed=7 "), "{text}");
    }

    #[tokio::test]
    async fn a_reader_that_has_gone_away_stops_nothing() {
        struct Closed;
        impl Write for Closed {
            fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
                Err(std::io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (events, stream) = tokio::sync::mpsc::unbounded_channel();
        let bus = crate::bus::start(|_| {}, Some(events));
        for _ in 0..3 {
            bus.reporter.report(opened()).await;
        }
        drop(bus.reporter);
        run(stream, bus.front, Closed).await.unwrap();
        bus.hub.await.unwrap();
    }
}
