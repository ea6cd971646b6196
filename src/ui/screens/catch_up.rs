//! Catch-up: the lag, the rates, the tables that change, and the gates before the cutover.

use ratatui::{Frame, layout::Rect, style::Style, text::Line};

use std::time::Duration;

use crate::{
    event::{Difference, Gate, GateKind, LaneStatus, Stage, TableState},
    format,
    state::{ApplyPath, State, Table, between},
    ui::{
        screens::two_panes,
        theme::Role,
        view::{View, rows::CATCH_UP_ORDERS},
        widgets::{
            chart::Chart,
            text::{self, Row, bar, list, pane, split_columns, split_rows},
        },
    },
};

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let halves = |area: Rect| split_columns(area, area.width * 7 / 12);
    if two_panes(area) {
        let (top, bottom) = split_rows(area, area.height * 11 / 20);
        let (left, right) = halves(top);
        lag(frame, left, state, view);
        rates(frame, right, state, view);
        let (left, right) = halves(bottom);
        tables(frame, left, state, view);
        gates(frame, right, state, view);
    } else if view.swapped {
        let (top, bottom) = split_rows(area, area.height.saturating_sub(12).max(6));
        lag(frame, top, state, view);
        rates(frame, bottom, state, view);
    } else {
        let (top, bottom) = split_rows(area, (state.gates.len() as u16 + 2).min(area.height.saturating_sub(6)).max(5));
        gates(frame, top, state, view);
        tables(frame, bottom, state, view);
    }
}

fn lag(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let now = state.replay.lag().map_or_else(|| "not begun".into(), |lag| format!("now {}", format::bytes(lag)));
    let inner = pane(frame, area, "Lag (Source DB - Target DB)", &now, Role::Plain, view);
    let below = state.replay.analyze_below;
    let label = format!("ANALYZE below {}", format::bytes(below));
    let line = (below > 0).then_some((below, label.as_str()));
    Chart { samples: &state.replay.lag_samples, now: view.now(state), line }.render(frame, inner, view);
}

fn rates(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let inner = pane(frame, area, "Rates and time", "", Role::Plain, view);
    let r = &state.replay;
    let gaining = r.applied_meter.rate() - r.source_meter.rate();
    // Less than two seconds of the source's writes: as near as one can be while it writes.
    let near = r.lag().is_some_and(|lag| (lag as f64) < (2.0 * r.source_meter.rate()).max(64.0 * 1024.0));
    let sync = match r.sync_eta() {
        _ if near => "in sync".to_owned(),
        Some(d) => format!("in sync ~{}", format::duration(d)),
        // The first row says so.
        None if r.lag().is_none() => String::new(),
        None => "not gaining".into(),
    };
    let verb = if gaining >= 0.0 || near { "gaining" } else { "LOSING" };
    let commit = r
        .status
        .last_commit
        .map_or_else(|| "-".to_owned(), |at| format!("{}   {} old", view.time_ms(at), r.last_commit_age().map_or_else(|| "?".into(), format::ago)));
    let styled = |name: &str, value: String, style: Style| {
        Row::new(view)
            .text(" ", Style::new())
            .left(name, 16, view.style(Role::Dim))
            .left(value, usize::from(inner.width).saturating_sub(19), style)
            .line()
    };
    let row = |name: &str, value: String| styled(name, value, Style::new());
    let mut out = vec![
        row("lag", measured_lag(state, view)),
        row("source writes", format!("{:>10}  (WAL)", format::rate(r.source_meter.rate()))),
        row("received", format!("{:>10}  spool {}", format::rate(r.received_meter.rate()), format::bytes(r.stream.spool_bytes))),
        row("applied", format!("{:>10}  {} changes/s", format::rate(r.applied_meter.rate()), format::count(r.changes_meter.rate() as u64))),
        row(verb, format!("{:>10}  {sync}", format::rate(gaining.abs()))),
        row("last transaction", commit),
        row("source, received", format!("{}, {}", r.status.source, r.received_lsn())),
        row("applied LSN", format!("{}   (slowest lane)", r.status.applied)),
    ];
    if !r.slot_status.wal_status.is_empty() {
        let safe = r.slot_status.safe_wal_bytes.map(|b| format!(", {} of WAL safe", format::bytes(b))).unwrap_or_default();
        out.push(row("slot", format!("{}{safe}", r.slot_status.wal_status)));
    }
    if let Some(error) = &r.broken {
        out.insert(0, styled("STREAM BROKEN", error.clone(), view.style(Role::Failed)));
    }
    let lane_style = |l: &LaneStatus| view.style(if l.blocked.is_some() { Role::Attention } else { Role::Plain });
    if out.len() + r.status.lanes.len() <= usize::from(inner.height) {
        out.extend(r.status.lanes.iter().map(|l| styled(&format!("lane {}", l.lane), lane(l), lane_style(l))));
    } else {
        // There is no room for all: those that the target blocks, then the slowest.
        let mut lanes: Vec<_> = r.status.lanes.iter().collect();
        lanes.sort_by_key(|l| (l.blocked.is_none(), l.applied));
        let room = usize::from(inner.height).saturating_sub(out.len() + 1);
        out.push(row("lanes", lanes_in_short(&lanes)));
        out.extend(lanes.into_iter().take(room).map(|l| styled(&format!("lane {}", l.lane), lane(l), lane_style(l))));
    }
    text::lines(frame, inner, out);
}

/// A lag that was measured longer ago than this is shown with its age.
const OLD: Duration = Duration::from_secs(5);

/// `15.9 MB, 8.2 s`, and how old that is when the source has not answered for a while.
fn measured_lag(state: &State, view: &View) -> String {
    let r = &state.replay;
    let (Some(lag), Some(measured)) = (r.lag(), r.measured) else { return "nothing is applied yet".into() };
    let age = between(measured, view.now(state));
    let old = if age > OLD { format!("   {} ago", format::ago(age)) } else { String::new() };
    lag_text(lag, r.status.lag_ms) + &old
}

/// `15.9 MB, 8.2 s`; without the time where it is not known.
fn lag_text(bytes: u64, ms: Option<u64>) -> String {
    let bytes = format::bytes(bytes);
    ms.map_or_else(|| bytes.clone(), |ms| format!("{bytes}, {}", format::ago(Duration::from_millis(ms))))
}

/// `15.9 MB, 8.2 s`, `in sync, idle`, or why it waits for the target.
fn lane(l: &LaneStatus) -> String {
    let lag = if l.lag == 0 { "in sync".to_owned() } else { lag_text(l.lag, l.lag_ms) };
    match (&l.blocked, l.waiting) {
        (Some(why), _) => format!("WAITING: {why}   {lag}"),
        (None, true) => format!("{lag}, idle"),
        (None, false) => lag,
    }
}

/// Those that wait for the target come first.
fn lanes_in_short(lanes: &[&LaneStatus]) -> String {
    let idle = lanes.iter().filter(|l| l.waiting).count();
    let blocked = lanes.iter().filter(|l| l.blocked.is_some()).count();
    match lanes.first().and_then(|l| Some((l.lane, l.blocked.as_ref()?))) {
        None => format!("{}   {idle} idle", lanes.len()),
        Some((first, why)) => format!("{}   {idle} idle, {blocked} WAITING: lane {first}, {why}", lanes.len()),
    }
}

/// The worst comes first: it is stopped, it differs, it is slow.
fn table_state(table: &Table, state: &State) -> (String, Role) {
    match table {
        _ if state.waits(table).is_some() => ("ALTERED".into(), Role::Failed),
        Table { diverged: Some(_), .. } => ("DIVERGED".into(), Role::Failed),
        Table { away: Some(_), .. } => match table.state() {
            TableState::Failed => ("FAILED".into(), Role::Failed),
            TableState::Copying => (format!("copy {:.0} %", table.fraction() * 100.0), Role::Busy),
            TableState::Waiting | TableState::Indexing => ("indexing".into(), Role::Busy),
            TableState::Done => ("joining".into(), Role::Busy),
            TableState::Queued | TableState::Skipped => ("prepares".into(), Role::Busy),
        },
        Table { difference: Some(Difference::Missed(1_000..)), .. } => (">999 missed".into(), Role::Attention),
        Table { difference: Some(Difference::Missed(n)), .. } => (format!("{n} missed"), Role::Attention),
        Table { difference: Some(Difference::Accepted), .. } => ("differs".into(), Role::Attention),
        Table { slow: Some(_), .. } => ("slow".into(), Role::Attention),
        _ if table.counters.changes() == 0 => ("quiet".into(), Role::Dim),
        _ => ("ok".into(), Role::Ok),
    }
}

/// Wide enough for `>999 missed`, and for `full row`.
const STATE: usize = 11;
const PATH: usize = 8;

fn tables(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let rows = view.tables(Stage::CatchUp, state);
    let order = format!("sort: {} {}", CATCH_UP_ORDERS[view.catch_up_order], view.symbols.down);
    let right = [view.filter_text(), order].join("  ").trim().to_owned();
    let title = if state.resumed { "Tables, changes applied in this run" } else { "Tables, changes applied" };
    let inner = pane(frame, area, title, &right, Role::Plain, view);
    let columns = usize::from(inner.width);
    let number = 8;
    let path = if columns >= 66 { PATH } else { 0 };
    let name = columns.saturating_sub(1 + 3 * (number + 1) + usize::from(path > 0) * (path + 1) + STATE + 1).max(8);
    let plain = Style::new();
    let row = |cells: [String; 5], (state, style): (String, Style)| {
        let [name_, inserts, updates, deletes, path_] = &cells;
        let numbers =
            Row::new(view).left(name_, name, plain).right(inserts, number, plain).right(updates, number, plain).right(deletes, number, plain);
        let numbers = if path > 0 { numbers.left(path_, path, plain) } else { numbers };
        numbers.left(state, STATE, style).line()
    };
    let head = row(["TABLE", "INSERT", "UPDATE", "DELETE", "PATH"].map(str::to_owned), ("STATE".to_owned(), plain));
    list(frame, inner, head, &rows, view.selected(Stage::CatchUp, state), view, |table, _| {
        let (word, role) = table_state(table, state);
        let [inserts, updates, deletes] = [table.counters.inserts, table.counters.updates, table.counters.deletes].map(format::short_count);
        let path = table.path().map_or("", ApplyPath::as_str).to_owned();
        row([table.summary.table.to_string(), inserts, updates, deletes, path], (word, view.style(role)))
    });
}

/// One gate: `[x]` passed, `[!]` warns, `[ ]` blocks the cutover.
pub fn gate_line(gate: &Gate, columns: usize, view: &View) -> Line<'static> {
    let (mark, role) = match (gate.passed, gate.hard) {
        (true, _) => ("[x]", Role::Ok),
        (false, true) => ("[ ]", Role::Attention),
        (false, false) => ("[!]", Role::Attention),
    };
    gate_row((mark, role), gate.kind, &gate.detail, columns, view)
}

fn gate_row((mark, role): (&str, Role), kind: GateKind, detail: &str, columns: usize, view: &View) -> Line<'static> {
    Row::new(view)
        .text(" ", Style::new())
        .left(mark, 3, view.style(role))
        .left(kind.title(), GateKind::WIDTH + 1, Style::new())
        .left(detail, columns.saturating_sub(GateKind::WIDTH + 8), view.style(Role::Dim))
        .line()
}

fn gates(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let inner = pane(frame, area, "Before cutover", "[ ] must pass  [!] warns", Role::Plain, view);
    let columns = usize::from(inner.width);
    let mut gates: Vec<_> = state.gates.iter().collect();
    if gates.len() > usize::from(inner.height) {
        // Those that block the cutover come first, so that they are not hidden.
        gates.sort_by_key(|g| (g.passed, !g.hard));
    }
    let analyze = &state.replay.analyze;
    let line = |gate: &Gate| {
        if gate.kind != GateKind::Analyze || !analyze.is_running() {
            return gate_line(gate, columns, view);
        }
        let (done, total) = (analyze.done, analyze.total);
        let table = analyze.table.as_ref().map(|t| format!("  {t}")).unwrap_or_default();
        let progress = format!("{} {done} of {total}{table}", bar(done as f64 / total as f64, 8, view));
        gate_row(("[~]", Role::Busy), gate.kind, &progress, columns, view)
    };
    let mut out: Vec<_> = gates.into_iter().map(line).collect();
    if out.is_empty() {
        out.push(Line::styled(" The gates are checked once replay runs.", view.style(Role::Dim)));
    }
    text::clipped(frame, inner, out, view);
}
