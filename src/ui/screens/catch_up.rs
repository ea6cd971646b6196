//! Catch-up: how far the target is behind, at what rates, which tables change, and the gates before the cutover.

use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span},
};

use std::time::Duration;

use crate::{
    event::{Gate, LaneStatus, Stage},
    format,
    state::{Path, State, Table, between},
    ui::{
        screens::two_panes,
        theme::Role,
        view::{CATCH_UP_ORDERS, View},
        widgets::{
            chart::Chart,
            text::{self, Row, bar, list, pane, split_columns, split_rows},
        },
    },
};

/// ANALYZE begins below this lag, unless the command line says otherwise.
const ANALYZE_BELOW: (u64, &str) = (30 << 20, "30 MB");

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
        let analyzing = u16::from(state.analyzed.0 < state.analyzed.1);
        let (top, bottom) = split_rows(area, (state.gates.len() as u16 + analyzing + 2).min(area.height.saturating_sub(6)).max(5));
        gates(frame, top, state, view);
        tables(frame, bottom, state, view);
    }
}

fn lag(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let now = state.replay.lag.map_or_else(|| "not begun".into(), |lag| format!("now {}", format::bytes(lag)));
    let inner = pane(frame, area, "Source DB - Target DB (bytes the target is behind)", &now, Role::Plain, view);
    Chart { samples: &state.replay.lag_samples, now: view.now(state), line: Some(ANALYZE_BELOW) }.render(frame, inner, view);
}

fn rates(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let inner = pane(frame, area, "Rates and time", "", Role::Plain, view);
    let r = &state.replay;
    let gaining = r.applied_meter.rate() - r.source_meter.rate();
    // Less than two seconds of the source's writes: as near as one can be while it writes.
    let near = r.lag.is_some_and(|lag| (lag as f64) < (2.0 * r.source_meter.rate()).max(64.0 * 1024.0));
    let level = match r.level_in() {
        _ if near => "level".to_owned(),
        Some(d) => format!("level in {}", format::duration(d)),
        // As "behind" says.
        None if r.lag.is_none() => String::new(),
        None => "not gaining".into(),
    };
    let verb = if gaining >= 0.0 || near { "gaining" } else { "LOSING" };
    let commit = r
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
        row("behind", behind(state, view)),
        row("source writes", format!("{:>10}  (WAL)", format::rate(r.source_meter.rate()))),
        row("received", format!("{:>10}  spool {}", format::rate(r.received_meter.rate()), format::bytes(r.spool_bytes))),
        row("applied", format!("{:>10}  {} changes/s", format::rate(r.applied_meter.rate()), format::count(r.changes_meter.rate() as u64))),
        row(verb, format!("{:>10}  {level}", format::rate(gaining.abs()))),
        row("last transaction", commit),
        row("source, received", format!("{}, {}", r.source, r.received)),
        row("applied LSN", format!("{}   (slowest lane)", r.applied)),
    ];
    if !r.wal_status.is_empty() {
        let safe = r.safe_wal_bytes.map(|b| format!(", {} of WAL safe", format::bytes(b))).unwrap_or_default();
        out.push(row("slot", format!("{}{safe}", r.wal_status)));
    }
    if let Some(error) = &r.broken {
        out.insert(0, styled("STREAM BROKEN", error.clone(), view.style(Role::Failed)));
    }
    let held_up = |l: &LaneStatus| view.style(if l.held_up.is_some() { Role::Attention } else { Role::Plain });
    if out.len() + r.lanes.len() <= usize::from(inner.height) {
        out.extend(r.lanes.iter().map(|l| styled(&format!("lane {}", l.lane), lane(l), held_up(l))));
    } else {
        // Not room for all: those that are held up, then the slowest.
        let mut lanes: Vec<_> = r.lanes.iter().collect();
        lanes.sort_by_key(|l| (l.held_up.is_none(), l.applied));
        let room = usize::from(inner.height).saturating_sub(out.len() + 1);
        out.push(row("lanes", lanes_in_short(&lanes)));
        out.extend(lanes.into_iter().take(room).map(|l| styled(&format!("lane {}", l.lane), lane(l), held_up(l))));
    }
    text::lines(frame, inner, out);
}

/// After this time without news the lag is an old one.
const OLD: Duration = Duration::from_secs(5);

/// `15.9 MB, 8.2 s`, and how old that is when the source has not been seen for a while.
fn behind(state: &State, view: &View) -> String {
    let r = &state.replay;
    let (Some(lag), Some(measured)) = (r.lag, r.measured) else { return "nothing is applied yet".into() };
    let age = between(measured, view.now(state));
    let old = if age > OLD { format!("   {} ago", format::ago(age)) } else { String::new() };
    lag_text(lag, r.lag_ms) + &old
}

/// `15.9 MB, 8.2 s`; the time is left out where nobody knows it.
fn lag_text(bytes: u64, ms: Option<u64>) -> String {
    let bytes = format::bytes(bytes);
    ms.map_or_else(|| bytes.clone(), |ms| format!("{bytes}, {}", format::ago(Duration::from_millis(ms))))
}

/// `15.9 MB, 8.2 s`, `level, waiting`, or why it is held up.
fn lane(l: &LaneStatus) -> String {
    let lag = if l.lag == 0 { "level".to_owned() } else { lag_text(l.lag, l.lag_ms) };
    match (&l.held_up, l.waiting) {
        (Some(why), _) => format!("HELD UP: {why}   {lag}"),
        (None, true) => format!("{lag}, waiting"),
        (None, false) => lag,
    }
}

/// Those that are held up come first.
fn lanes_in_short(lanes: &[&LaneStatus]) -> String {
    let waiting = lanes.iter().filter(|l| l.waiting).count();
    let held_up = lanes.iter().filter(|l| l.held_up.is_some()).count();
    match lanes.first().and_then(|l| Some((l.lane, l.held_up.as_ref()?))) {
        None => format!("{}   {waiting} waiting for changes", lanes.len()),
        Some((first, why)) => format!("{}   {waiting} waiting, {held_up} HELD UP: lane {first}, {why}", lanes.len()),
    }
}

/// What is worst comes first: that it stands still, that it differs, that it is slow.
fn table_state(table: &Table, state: &State) -> (String, Role) {
    match table {
        _ if state.waits(table).is_some() => ("ALTERED".into(), Role::Failed),
        Table { diverged: Some(_), .. } => ("DIVERGED".into(), Role::Failed),
        Table { missed: 1_000.., .. } => (">999 missed".into(), Role::Attention),
        Table { missed: 1.., .. } => (format!("{} missed", table.missed), Role::Attention),
        Table { accepted: true, .. } => ("differs".into(), Role::Attention),
        Table { slow: Some(_), .. } => ("slow".into(), Role::Attention),
        _ if table.changes() == 0 => ("quiet".into(), Role::Dim),
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
        let [inserts, updates, deletes] = [table.inserts, table.updates, table.deletes].map(format::short_count);
        let path = table.path().map_or("", Path::word).to_owned();
        row([table.summary.table.to_string(), inserts, updates, deletes, path], (word, view.style(role)))
    });
}

/// One gate: `[x]` passed, `[!]` warns, `[ ]` holds the cutover up.
pub fn gate_line(gate: &Gate, columns: usize, view: &View) -> Line<'static> {
    let (mark, role) = match (gate.passed, gate.hard) {
        (true, _) => ("[x]", Role::Ok),
        (false, true) => ("[ ]", Role::Attention),
        (false, false) => ("[!]", Role::Attention),
    };
    // One column where the names allow it; a longer name takes what it needs.
    let name = text::width(&gate.name).max(20).min(columns.saturating_sub(6));
    Row::new(view)
        .text(" ", Style::new())
        .left(mark, 3, view.style(role))
        .left(&gate.name, name, Style::new())
        .left(&gate.detail, columns.saturating_sub(name + 7), view.style(Role::Dim))
        .line()
}

fn gates(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let inner = pane(frame, area, "Before cutover", "[ ] must pass  [!] warns", Role::Plain, view);
    let columns = usize::from(inner.width);
    let mut gates: Vec<_> = state.gates.iter().collect();
    if gates.len() > usize::from(inner.height) {
        // Those that hold the cutover up are not the ones to hide.
        gates.sort_by_key(|g| (g.passed, !g.hard));
    }
    let mut out: Vec<_> = gates.into_iter().map(|g| gate_line(g, columns, view)).collect();
    let (done, total) = state.analyzed;
    if total > 0 && done < total {
        let table = state.analyzing.as_ref().map(|t| format!("  {t}")).unwrap_or_default();
        out.push(Line::from(vec![
            Span::styled(" [~] ", view.style(Role::Busy)),
            Span::raw(text::cut(
                &format!("ANALYZE {} {done} of {total}{table}", bar(done as f64 / total as f64, 8, view)),
                columns.saturating_sub(6),
                view.symbols.ellipsis,
            )),
        ]));
    }
    if out.is_empty() {
        out.push(Line::styled(" The gates are checked once replay runs.", view.style(Role::Dim)));
    }
    text::clipped(frame, inner, out, view);
}
