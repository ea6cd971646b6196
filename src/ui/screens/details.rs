//! Details of the selected row, full height.

use ratatui::{Frame, layout::Rect, text::Line};

use crate::{
    event::{Stage, TableState},
    format,
    state::{State, Table},
    ui::{
        screens::{hypertables, identity, preflight, schema},
        theme::Role,
        view::View,
        widgets::text::{self, pane, wrap},
    },
};

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let stage = view.shown(state);
    let title = view.rows(stage, state).get(view.selected(stage, state)).cloned().unwrap_or_default();
    let inner = pane(frame, area, &title, "enter or esc closes", Role::Plain, view);
    text::scrolled(frame, inner, lines(usize::from(inner.width), state, view), view.scroll, view);
}

pub fn lines(columns: usize, state: &State, view: &View) -> Vec<Line<'static>> {
    let stage = view.shown(state);
    let selected = view.selected(stage, state);
    match stage {
        Stage::Preflight => view.checks(state).get(selected).map(|c| preflight::explain(c, columns, view)),
        Stage::Identity => view.selected_identity(state).map(|r| identity::explain(r, columns, view)),
        Stage::Schema => view.statements(state).get(selected).map(|f| schema::explain(&f.statement, columns, view)),
        Stage::Hypertables => view.selected_candidate(state).map(|c| hypertables::explain(c, columns, view)),
        Stage::Copy | Stage::CatchUp => view.selected_table(stage, state).map(|t| table(t, state, columns, view)),
        _ => None,
    }
    .unwrap_or_default()
}

fn table(t: &Table, state: &State, columns: usize, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(3);
    let mut out = Vec::new();
    if let Some(waits) = state.waits(t) {
        out.extend(schema::explain(&waits.statement, columns, view));
        out.push(Line::raw(" y copies the statement for the target; r continues once it has run there."));
        out.push(Line::default());
    }
    let mut say = |text: String, role| out.extend(wrap(&text, room).into_iter().map(|l| Line::styled(format!(" {l}"), view.style(role))));
    if let Some(error) = &t.copy.error {
        say(format!("{}: {error}", t.state().as_str()), Role::Failed);
        say(" ".into(), Role::Plain);
    }
    if let Some(reason) = &t.away {
        say(format!("COPIED while the others are replayed: {reason}."), Role::Busy);
        say("It joins them by itself; the cutover waits for it.".into(), Role::Plain);
        say(" ".into(), Role::Plain);
    }
    if let Some(reason) = &t.diverged {
        say(format!("DIVERGED: {reason}"), Role::Failed);
        say("r tries the change again; K accepts that the table differs; T copies the table again.".into(), Role::Plain);
        say(" ".into(), Role::Plain);
    }
    if t.difference.is_some() {
        let missed = if t.missed() > 0 {
            format!("{} changes found no row, or collided. They are counted, not applied", format::count(t.missed()))
        } else {
            "you accepted that a change was not applied".into()
        };
        say(format!("DIFFERS from the source: {missed}. T copies the table again."), Role::Attention);
        say(" ".into(), Role::Plain);
    }
    if let Some(slow) = &t.slow {
        say(format!("SLOW: {}.", slow.reason), Role::Attention);
        say(format!("y copies the fix: {}", slow.fix), Role::Plain);
        say(" ".into(), Role::Plain);
    }
    let s = &t.summary;
    let at = |when: Option<jiff::Timestamp>| when.map_or_else(|| "-".to_owned(), |w| view.time(w));
    say(format!("state      {}, {}", t.state().as_str(), s.kind.as_str()), Role::Plain);
    say(format!("size       {} on disk, ~{} rows (estimated)", format::bytes(s.bytes), format::count(s.rows)), Role::Plain);
    let how = t.format.map(|f| format!(", {}, {}", f.as_str(), if t.parts == 1 { "1 part".into() } else { format!("{} parts", t.parts) }));
    let how = how.unwrap_or_default();
    let earlier = t.format.is_none() && matches!(t.state(), TableState::Waiting | TableState::Indexing | TableState::Done);
    say(
        if earlier {
            "copied     by an earlier run".into()
        } else {
            format!(
                "copied     {} rows, {} on the wire, {}{how}",
                format::count(t.copy.rows),
                format::bytes(t.copy.bytes),
                format::rate(t.meter.rate())
            )
        },
        Role::Plain,
    );
    if !earlier {
        say(format!("started    {}   finished {}", at(t.started), at(t.finished)), Role::Plain);
    }
    say(format!("indexes    {} of {}", t.indexes_done, t.indexes_total), Role::Plain);
    for b in &t.builds {
        let phase = if b.phase.is_empty() { String::new() } else { format!(", {}, ~{:.0}%", b.phase, b.fraction * 100.0) };
        say(format!("  now      {}{phase}", b.index), Role::Plain);
    }
    say(
        format!(
            "replayed   {} inserts, {} updates, {} deletes, {} truncates in this run",
            format::count(t.counters.inserts),
            format::count(t.counters.updates),
            format::count(t.counters.deletes),
            format::count(t.counters.truncates)
        ),
        Role::Plain,
    );
    let [sets, in_order, full_row] = [t.counters.sets, t.counters.in_order, t.counters.full_row].map(format::count);
    say(format!("path       {sets} in sets, {in_order} in order, {full_row} by their full row"), Role::Plain);
    out
}
