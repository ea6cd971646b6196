//! Done: the summary, late writes, what was cleaned up, and what to do next.

use ratatui::{Frame, layout::Rect, text::Line};
use std::time::Duration;

use crate::{
    event::{RelationKind, Stage, TableState},
    format,
    state::State,
    ui::{
        theme::Role,
        view::View,
        widgets::{
            header::WIDE,
            text::{self, pane, wrap},
        },
    },
};

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let late = !state.cutover.late_writes.is_empty();
    let role = if late { Role::Failed } else { Role::Ok };
    let inner = pane(frame, area, "Done", if late { "LATE WRITES" } else { "" }, if late { role } else { Role::Plain }, view);
    text::scrolled(frame, inner, lines(usize::from(inner.width), state, view), view.scroll, view);
}

pub fn lines(columns: usize, state: &State, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(6);
    let mut out = vec![Line::default()];
    let mut say = |text: &str, role| {
        // On a small screen the next steps are worth more than blank lines.
        if text.is_empty() && columns >= usize::from(WIDE) {
            out.push(Line::default());
        }
        out.extend(wrap(text, room).into_iter().map(|l| Line::styled(format!("   {l}"), view.style(role))));
    };
    let Some(completed) = &state.cutover.completed else {
        let text =
            if state.stage == Some(Stage::Done) { "An earlier run has completed the migration." } else { "The migration is not completed yet." };
        say(text, Role::Dim);
        return out;
    };
    say("Migration successfully completed", Role::Ok);
    say("", Role::Plain);
    let bytes = state.tables.iter().filter(|t| t.state() != TableState::Skipped).map(|t| t.summary.bytes).sum();
    let hyper = state.tables.iter().filter(|t| t.summary.kind == RelationKind::Hypertable).count();
    let skipped = state.tables.count(TableState::Skipped);
    let skipped = if skipped > 0 { format!(", {skipped} WITHOUT THEIR DATA") } else { String::new() };
    say(&format!("tables     {}, {hyper} of them hypertables{skipped}", completed.tables), Role::Plain);
    say(&format!("copied     {}", format::bytes(bytes)), Role::Plain);
    let run = if state.resumed { " in this run" } else { "" };
    say(&format!("replayed   {} changes{run}", format::count(completed.changes)), Role::Plain);
    say(&format!("downtime   {:.1} s, from your confirmation to the last object", completed.downtime_ms as f64 / 1000.0), Role::Plain);
    let took = state.opened.map_or(Duration::ZERO, |o| crate::state::between(o, completed.at));
    say(&format!("this run   {}, completed at {}", format::duration(took), view.time(completed.at)), Role::Plain);
    say("", Role::Plain);
    if state.cutover.late_writes.is_empty() {
        say("Late writes on the source: none seen.", Role::Ok);
    } else {
        say("LATE WRITES on the source after the cutover. They are NOT on the target:", Role::Failed);
        for (table, lsn) in &state.cutover.late_writes {
            say(&format!("  {table} at {lsn}"), Role::Failed);
        }
    }
    for table in state.tables.iter().filter(|t| t.difference.is_some()) {
        let missed =
            if table.missed() > 0 { format!("{} changes were not applied", format::count(table.missed())) } else { "as you accepted".into() };
        say(&format!("DIFFERS from the source: {}, {missed}", table.summary.table), Role::Attention);
    }
    if !state.schema.not_moved.is_empty() || !state.half_moved().is_empty() {
        say("", Role::Plain);
        say("Not moved, or not as it was:", Role::Attention);
        for what in state.half_moved() {
            say(&format!("  {what}"), Role::Attention);
        }
        for (object, reason) in &state.schema.not_moved {
            say(&format!("  {object}: {reason}"), Role::Attention);
        }
    }
    say("", Role::Plain);
    if state.cutover.cleaned.is_empty() {
        say("Cleaning up begins when you leave (q): slot, publications, spool and replica identities on the source.", Role::Dim);
    } else {
        say("Cleaned up:", Role::Dim);
        for (what, error) in &state.cutover.cleaned {
            match error {
                None => say(&format!("  {} {what}", view.symbols.done), Role::Ok),
                Some(e) => say(&format!("  {} {what}: LEFT OVER, {e}", view.symbols.failed), Role::Attention),
            }
        }
    }
    say("", Role::Plain);
    say("Next", Role::Busy);
    say(&format!("  1  point the application at {}", state.target.address), Role::Plain);
    say("  2  the source keeps all its data and is not changed any more", Role::Plain);
    say(&format!("  3  plan, journal and log stay in {}", if state.dir.is_empty() { "the work directory" } else { &state.dir }), Role::Plain);
    out
}
