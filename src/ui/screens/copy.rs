//! Copy: the tables with their progress; below, what the receiver has spooled, and what each worker does.

use ratatui::{Frame, layout::Rect, style::Style, text::Line};

use crate::{
    event::{CopyFormat, Holder, Stage, TableState},
    format,
    state::{State, Table, between},
    ui::{
        screens::two_panes,
        theme::Role,
        view::{View, rows::COPY_ORDERS},
        widgets::{
            chart::Chart,
            header::WIDE,
            text::{self, Row, bar, list, pane, split_columns, split_rows},
        },
    },
};

pub fn state_role(state: TableState) -> Role {
    match state {
        TableState::Queued | TableState::Waiting | TableState::Skipped => Role::Dim,
        TableState::Copying | TableState::Indexing => Role::Busy,
        TableState::Done => Role::Ok,
        TableState::Failed => Role::Failed,
    }
}

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    if two_panes(area) {
        let (top, bottom) = split_rows(area, area.height - 11);
        tables(frame, top, state, view);
        let (left, right) = split_columns(bottom, bottom.width / 2);
        spool(frame, left, state, view);
        workers(frame, right, state, view);
    } else if view.swapped {
        let (top, bottom) = split_rows(area, area.height / 2);
        spool(frame, top, state, view);
        workers(frame, bottom, state, view);
    } else if state.copy.waiting.is_some() && state.tables.count(TableState::Copying) == 0 {
        workers(frame, area, state, view);
    } else {
        tables(frame, area, state, view);
    }
}

fn counts(state: &State) -> String {
    use TableState::{Copying, Done, Failed, Indexing, Queued, Skipped, Waiting};
    [Done, Copying, Waiting, Indexing, Queued, Skipped, Failed]
        .into_iter()
        .map(|s| (state.tables.count(s), s.as_str()))
        .filter(|(n, _)| *n > 0)
        .map(|(n, word)| format!("{n} {word}"))
        .collect::<Vec<_>>()
        .join("  ")
}

fn tables(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let wide = area.width >= WIDE;
    let rows = view.tables(Stage::Copy, state);
    let shown = if rows.len() == state.tables.len() { String::new() } else { format!("{} of {}", rows.len(), state.tables.len()) };
    let order = format!("sort: {} {}", COPY_ORDERS[view.copy_order], view.symbols.down);
    let right = if wide { [view.filter_text(), shown, order] } else { [view.filter_text(), shown, counts(state)] };
    let right = right.into_iter().filter(|t| !t.is_empty()).collect::<Vec<_>>().join("  ");
    let title = if wide { format!("Copy {} tables", view.symbols.dash) } else { "Copy".into() };
    let inner = pane(frame, area, &title, &right, Role::Plain, view);
    let (body, total) = split_rows(inner, inner.height.saturating_sub(1));
    let columns = usize::from(inner.width);
    let plain = Style::new();
    let bar_width = if wide { 13 } else { 10 };
    // On the narrowest terminal the name is worth more than the rate.
    let with_rate = columns >= 70;
    let fixed = if wide { 1 + 6 + 9 + 21 + 5 + 23 + 12 + 12 } else { 1 + 9 + 11 + 5 + 10 + 9 + if with_rate { 11 } else { 0 } };
    let name = columns.saturating_sub(fixed + 1).max(8);
    let head = Row::new(view).left("TABLE", name, plain);
    let head = if wide {
        head.left("KIND", 5, plain)
            .left("STATE", 8, plain)
            .left("FORMAT", 6, plain)
            .left("PROGRESS", bar_width, plain)
            .left("", 4, plain)
            .right("COPIED / TOTAL (est.)", 22, plain)
            .right("RATE", 11, plain)
            .right("LEFT", 11, plain)
    } else {
        let head = head.left("STATE", 8, plain).left("PROGRESS", bar_width, plain).left("", 4, plain).right("COPIED", 9, plain);
        let head = if with_rate { head.right("RATE", 10, plain) } else { head };
        head.right("LEFT", 8, plain)
    };
    let now = view.now(state);
    let used = list(frame, body, head.line(), &rows, view.selected(Stage::Copy, state), view, |table, _| {
        let role = view.style(state_role(table.state()));
        let row = Row::new(view).left(table.summary.table.to_string(), name, plain);
        let row = if wide { row.left(table.summary.kind.as_str(), 5, plain) } else { row };
        let percent = (table.fraction() * 100.0) as u64;
        let row = row.left(table.state().as_str(), 8, role);
        let row = if wide { row.left(table.format.map_or("", CopyFormat::as_str), 6, plain) } else { row };
        let row = row.left(bar(table.fraction(), bar_width, view), bar_width, role).right(format!("{percent}%"), 4, plain);
        let done = if table.done_bytes() == 0 && table.state() == TableState::Queued { "0".into() } else { format::bytes(table.done_bytes()) };
        let row = if wide {
            row.right(done, 9, plain).text("/ ", view.style(Role::Dim)).right(format::bytes(table.summary.bytes), 10, plain)
        } else {
            row.right(if table.state() == TableState::Queued { String::new() } else { done }, 9, plain)
        };
        let rate = speed(table).unwrap_or_default();
        let row = if with_rate { row.right(rate, if wide { 11 } else { 10 }, plain) } else { row };
        row.right(remaining(table, state, now), if wide { 11 } else { 8 }, plain).line()
    });
    if rows.is_empty() {
        let text = view.empty_list("No tables are known yet.");
        text::lines(frame, split_rows(body, used).1, vec![Line::styled(text, view.style(Role::Dim))]);
    }
    totals(frame, total, wide, state, view);
}

/// Bytes a second: now while it runs, the mean of the whole copy afterwards.
fn speed(table: &Table) -> Option<String> {
    match table.state() {
        TableState::Copying => Some(format::rate(table.meter.rate())),
        state if state.is_copied() => {
            let seconds = between(table.started?, table.finished?).as_secs_f64();
            (seconds >= 1.0).then(|| format::rate(table.copy.bytes as f64 / seconds))
        }
        _ => None,
    }
}

/// Time remaining, time taken, or what happens instead.
fn remaining(table: &Table, state: &State, now: jiff::Timestamp) -> String {
    match table.state() {
        TableState::Copying if state.paused => "paused".into(),
        TableState::Copying => state.table_eta(table, now).map(format::duration).unwrap_or_default(),
        TableState::Waiting | TableState::Indexing => format!("idx {}/{}", table.indexes_done, table.indexes_total),
        TableState::Done => match (table.started, table.finished) {
            (Some(a), Some(b)) => {
                let s = between(a, b).as_secs();
                if s < 3600 { format!("in {:02}:{:02}", s / 60, s % 60) } else { format!("in {}:{:02}h", s / 3600, s / 60 % 60) }
            }
            _ => String::new(),
        },
        TableState::Failed if state.ended.is_none() => "r: retry".into(),
        _ => String::new(),
    }
}

fn totals(frame: &mut Frame, area: Rect, wide: bool, state: &State, view: &View) {
    let (done, all) = state.tables.bytes();
    let fraction = if all == 0 { 0.0 } else { done as f64 / all as f64 };
    let rate = state.tables.copy_rate();
    let left = state.copy_eta(view.now(state)).map(|d| format!("~{}", format::duration(d))).unwrap_or_default();
    let percent = (fraction * 100.0) as u64;
    let sizes = format!("{} / {}", format::bytes(done), format::bytes(all));
    let speed = if rate > 0.0 { format::rate(rate) } else { String::new() };
    let speed = if area.width >= 70 { speed } else { String::new() };
    let text = if wide {
        let columns = usize::from(area.width).saturating_sub(1);
        let both = |counts: &str, speed: &str| (format!(" {counts}total "), format!(" {percent}%  {sizes}{speed}  {left}"));
        let (counts, speed) = (format!("{}   ", counts(state)), if speed.is_empty() { speed } else { format!("  {speed}") });
        // Where there is no room for everything the rate goes first; each table has its own.
        let ways = [both(&counts, &speed), both(&counts, ""), both("", &speed)];
        let room = |(before, after): &(String, String)| columns.saturating_sub(text::width(before) + text::width(after));
        let way = ways.iter().find(|way| room(way) >= 6).unwrap_or(&ways[2]);
        format!("{}{}{}", way.0, bar(fraction, room(way).clamp(6, 26), view), way.1)
    } else {
        format!(" total {} {percent}%  {sizes}  {speed}  {left}", bar(fraction, if area.width >= 70 { 10 } else { 4 }, view))
    };
    let text = text.trim_end().to_owned();
    text::lines(frame, area, vec![Line::styled(text, view.style(Role::Busy))]);
}

fn spool(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let inner = pane(frame, area, "Received, not yet replayed (spool)", "", Role::Plain, view);
    let (graph, foot) = split_rows(inner, inner.height.saturating_sub(1));
    let r = &state.replay;
    Chart { samples: &r.spool_samples, now: view.now(state), line: None }.render(frame, graph, view);
    let full = full_in(state).map(|t| format!("  disk full in {t}")).unwrap_or_default();
    let slot = match (&r.slot, r.slot_status.wal_status.as_str()) {
        (None, _) => "  slot not created yet".into(),
        (Some(_), "") => String::new(),
        (Some(_), status) => {
            format!("  slot {status}{}", r.slot_status.safe_wal_bytes.map(|b| format!(", {}", format::bytes(b))).unwrap_or_default())
        }
    };
    let role = if matches!(r.slot_status.wal_status.as_str(), "" | "reserved" | "extended") { Role::Plain } else { Role::Failed };
    let line = Row::new(view).text(" ", Style::new()).left(
        format!("spool {}{full}{slot}", format::bytes(r.stream.spool_bytes)),
        usize::from(foot.width).saturating_sub(2),
        view.style(role),
    );
    text::lines(frame, foot, vec![line.line()]);
}

/// A disk that is full in more days than this is no matter.
const FAR: f64 = 30.0;

/// When the disk is full at the rate at which the spool grows.
fn full_in(state: &State) -> Option<String> {
    let rate = state.replay.spool_meter.rate();
    if rate < 1_024.0 || state.replay.stream.disk_free == 0 {
        return None;
    }
    let seconds = state.replay.stream.disk_free as f64 / rate;
    Some(match seconds {
        s if s >= FAR * 86_400.0 => return None,
        s if s >= 2.0 * 86_400.0 => format!("~{:.0} d", s / 86_400.0),
        s if s >= 2.0 * 3_600.0 => format!("~{:.0} h", s / 3_600.0),
        s => format!("~{:.0} min", s / 60.0),
    })
}

fn workers(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    if let Some((what, held)) = &state.copy.waiting {
        return holders(frame, area, what, held, view);
    }
    let inner = pane(frame, area, "Workers", "", Role::Plain, view);
    let (body, foot) = split_rows(inner, inner.height.saturating_sub(1));
    let mut out = Vec::new();
    let columns = usize::from(body.width);
    let name = columns.saturating_sub(1 + 9 + 9 + 12).clamp(8, 40);
    let copying: Vec<_> = state.tables.iter().filter(|t| t.state() == TableState::Copying).collect();
    let indexing = state.tables.iter().filter(|t| t.state() == TableState::Indexing);
    let mut worker = |who: String, what: String, how: &str, rate: String| {
        let row =
            Row::new(view).text(" ", Style::new()).left(who, 8, view.style(Role::Busy)).left(what, name, Style::new()).left(how, 8, Style::new());
        out.push(row.right(rate, 11, Style::new()).line());
    };
    for (i, table) in copying.iter().enumerate() {
        let parts = if table.parts > 1 { format!(" in {} parts", table.parts) } else { String::new() };
        worker(format!("copy-{}", i + 1), format!("{}{parts}", table.summary.table), "COPY", format::rate(table.meter.rate()));
    }
    for table in indexing {
        for b in &table.builds {
            let how_far = if b.phase.is_empty() {
                format!("{} of {}", table.indexes_done, table.indexes_total)
            } else {
                format!("~{:.0}%", b.fraction * 100.0)
            };
            worker("index".into(), b.index.clone(), "BUILD", how_far);
        }
    }
    let r = &state.replay;
    if let Some(error) = &r.broken {
        worker("receive".into(), error.clone(), "BROKEN", "again".into());
    } else if r.slot.is_some() {
        worker("receive".into(), format!("to disk, {}", r.received_lsn()), "STREAM", format::rate(r.received_meter.rate()));
    }
    if let Some(oldest) = copying.iter().filter(|t| t.started.is_some()).min_by_key(|t| t.started) {
        let age = oldest.started.map(|s| format::duration(between(s, view.now(state)))).unwrap_or_default();
        out.push(Line::styled(format!(" oldest open snapshot {age}  {}", oldest.summary.table), view.style(Role::Dim)));
    }
    if out.is_empty() {
        out.push(Line::styled(" no worker runs yet", view.style(Role::Dim)));
    }
    text::clipped(frame, body, out, view);
    if state.copy.table_jobs > 0 {
        let verb = if state.paused { "resume" } else { "pause" };
        let text = format!(" p: {verb} copy   +/-: copy jobs {}   index jobs {}", state.copy.table_jobs, state.copy.index_jobs);
        text::lines(frame, foot, vec![Line::styled(text, view.style(Role::Dim))]);
    }
}

/// The sessions that the slot, or a snapshot, waits for.
fn holders(frame: &mut Frame, area: Rect, what: &str, held: &[Holder], view: &View) {
    let inner = pane(frame, area, &format!("{} waits for", text::capital(what)), &held.len().to_string(), Role::Attention, view);
    let columns = usize::from(inner.width);
    let mut held: Vec<_> = held.iter().collect();
    held.sort_by_key(|h| std::cmp::Reverse(h.seconds));
    let who = columns.saturating_sub(1 + 8 + 13 + 1);
    let plain = Style::new();
    let row =
        |pid: &str, age: &str, name: &str| Row::new(view).text(" ", plain).right(pid, 7, plain).right(age, 11, plain).left(name, who, plain).line();
    let mut out = vec![row("PID", "AGE", "WHO").style(view.style(Role::Dim))];
    for h in held {
        let pid = if h.pid == 0 { String::new() } else { h.pid.to_string() };
        out.push(row(&pid, &format::duration(std::time::Duration::from_secs(h.seconds)), &h.who));
        let what = if h.query.is_empty() { h.state.clone() } else { format!("{}: {}", h.state, h.query) };
        out.push(Row::new(view).text("         ", plain).left(what, columns.saturating_sub(11), view.style(Role::Dim)).line());
    }
    text::clipped(frame, inner, out, view);
}
