//! Cutover: the one modal with consequences, and the steps while it runs.

use ratatui::{Frame, layout::Rect, text::Line, widgets::Clear};

use crate::{
    event::{CutoverStep, PromptKind, Stage, StageState, TableState},
    format,
    state::{State, between},
    ui::{
        screens::catch_up::gate_line,
        theme::Role,
        view::View,
        widgets::text::{self, Row, cut, pane, wrap},
    },
};

/// The stage's own screen, under the box and after it.
pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let (word, role) = if state.cutover.completed.is_some() {
        ("done", Role::Ok)
    } else if state.cutover.aborted.is_some() {
        ("aborted", Role::Attention)
    } else if state.cutover.running {
        ("running", Role::Busy)
    } else if state.stage_state(Stage::Cutover) == StageState::Waiting {
        ("not opened yet", Role::Dim)
    } else {
        ("", Role::Plain)
    };
    let inner = pane(frame, area, "Cutover", word, role, view);
    let columns = usize::from(inner.width);
    let mut lines = vec![Line::default()];
    if let Some(reason) = &state.cutover.aborted {
        lines.extend(
            wrap(&format!("Aborted: {reason}. Replay continues; the source is still in use."), columns - 4)
                .into_iter()
                .map(|l| Line::styled(format!("  {l}"), view.style(Role::Attention))),
        );
        lines.push(Line::default());
    }
    lines.extend(steps(state, columns, view));
    if !state.gates.is_empty() {
        lines.push(Line::default());
        lines.extend(state.gates.iter().map(|g| gate_line(g, columns, view)));
    }
    text::clipped(frame, inner, lines, view);
}

fn steps(state: &State, columns: usize, view: &View) -> Vec<Line<'static>> {
    let steps = CutoverStep::ALL.iter().enumerate().map(|(i, step)| {
        let (mark, role, detail) = match state.cutover.steps.get(step) {
            Some((true, detail)) => (view.symbols.done, Role::Ok, detail.as_str()),
            Some((false, detail)) => (view.symbols.running, Role::Busy, detail.as_str()),
            None if state.cutover.completed.is_some() => (view.symbols.done, Role::Ok, ""),
            None => (view.symbols.waiting, Role::Dim, ""),
        };
        Row::new(view)
            .text(format!("   {mark} {} ", i + 1), view.style(role))
            .left(step.title(), 40.min(columns.saturating_sub(8)), view.style(role))
            .left(detail, columns.saturating_sub(50), view.style(Role::Dim))
            .line()
    });
    steps.collect()
}

/// The box over everything, while the prompt is open or the cutover runs.
pub fn render_box(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let width = area.width.saturating_sub(4).min(104);
    let lines = content(state, usize::from(width) - 2, area.height >= 30, view);
    let height = (lines.len() as u16 + 2).min(area.height.saturating_sub(2));
    let at = Rect { x: area.x + (area.width - width) / 2, y: area.y + (area.height - 1 - height) / 2, width, height };
    frame.render_widget(Clear, at);
    let title =
        format!("CUTOVER  {} {} {}", format::short_address(&state.source.address), view.symbols.arrow, format::short_address(&state.target.address));
    let inner = pane(frame, at, &title, "", Role::Attention, view);
    // The keys are at the end: on a small screen the middle is cut out, never the keys.
    let excess = lines.len().saturating_sub(usize::from(inner.height));
    let keep = lines.len() - KEYS_AT_THE_END.min(lines.len());
    let shown = lines.into_iter().enumerate().filter(|(i, _)| *i >= keep || *i + excess < keep).map(|(_, l)| l).collect();
    text::lines(frame, inner, shown);
}

const KEYS_AT_THE_END: usize = 2;

fn content(state: &State, columns: usize, roomy: bool, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(6);
    let paragraph = |text: &str, role| wrap(text, room).into_iter().map(|l| Line::styled(format!("   {l}"), view.style(role))).collect::<Vec<_>>();
    let blank = |lines: &mut Vec<Line<'static>>| {
        if roomy {
            lines.push(Line::default());
        }
    };
    let mut lines = Vec::new();
    blank(&mut lines);
    let asked = state.prompts.shown().filter(|p| matches!(p.kind, PromptKind::Cutover | PromptKind::LateWrite));
    match asked {
        Some(p) if p.kind == PromptKind::LateWrite => {
            lines.extend(paragraph(&format!("LATE WRITE. {}", p.text), Role::Failed));
            for (table, lsn) in state.cutover.late_writes.iter().rev().take(3) {
                lines.extend(paragraph(&format!("{table} at {lsn}"), Role::Plain));
            }
            blank(&mut lines);
            lines.extend(steps(state, columns, view));
            blank(&mut lines);
            lines.push(Line::default());
            lines.push(Line::styled("      [ r  drain again ]    [ x  go back ]", view.style(Role::Attention)));
        }
        Some(p) => {
            lines.extend(paragraph(
                &format!("The application must have STOPPED WRITING to {} before you confirm.", state.source.address),
                Role::Attention,
            ));
            blank(&mut lines);
            lines.extend(state.gates.iter().map(|g| {
                let mut line = gate_line(g, columns.saturating_sub(4), view);
                line.spans.insert(0, "  ".into());
                line
            }));
            blank(&mut lines);
            if let Some(skipped) = skipped(state) {
                lines.extend(paragraph(&skipped, Role::Attention));
                blank(&mut lines);
            }
            if !p.text.is_empty() {
                lines.extend(paragraph(&p.text, Role::Plain));
                blank(&mut lines);
            }
            let plan: Vec<_> = CutoverStep::ALL.iter().enumerate().map(|(i, s)| format!("{} {}", i + 1, s.title())).collect();
            lines.extend(paragraph(&format!("On confirm: {}.", plan.join(", ")), Role::Plain));
            lines.extend(paragraph("Until step 6 you can go back (x). The source keeps all its data in any case.", Role::Plain));
            blank(&mut lines);
            // A reason may be cut off, but never the way back.
            let keys = match state.can_confirm() {
                Ok(_) => "[ Y  cut over now ]    [ esc  not yet ]".to_owned(),
                Err(why) => format!("[ esc  not yet ]    ( Y  {why} )"),
            };
            lines.push(Line::styled("   Enter does nothing here. Y counts when no key came for half a second.", view.style(Role::Dim)));
            let keys = cut(&keys, columns.saturating_sub(7), view.symbols.ellipsis);
            lines.push(Line::styled(format!("      {keys}"), view.style(Role::Attention)));
        }
        None => {
            lines.extend(running(state, view).into_iter().map(|l| Line::raw(format!("   {l}"))));
            blank(&mut lines);
            lines.extend(steps(state, columns, view));
            blank(&mut lines);
            lines.push(Line::default());
            let keys = if state.can_abort() { "      [ x  abort and go back ]" } else { "      The last step has begun: no way back from here." };
            lines.push(Line::styled(keys, view.style(Role::Attention)));
        }
    }
    blank(&mut lines);
    if roomy {
        // The keys stay the last line.
        lines.pop();
    }
    lines
}

/// `You skipped 1 table of 10: …`; `None` when all are copied.
fn skipped(state: &State) -> Option<String> {
    let (n, all) = (state.tables.count(TableState::Skipped), state.tables.len());
    let (tables, they) = if n == 1 { ("table", "it has") } else { ("tables", "they have") };
    (n > 0).then(|| format!("You skipped {n} {tables} of {all}: {they} no rows, or not all of them, on the target."))
}

/// `end LSN 8/4A9F0110   applied 8/4A9EF7C0   remaining 1.0 kB   00:00:02`
fn running(state: &State, view: &View) -> Vec<String> {
    let applied = state.replay.status.applied;
    let since = state.cutover.started.map(|s| format::duration(between(s, view.now(state)))).unwrap_or_default();
    match state.cutover.end {
        Some(end) => vec![format!("end LSN {end}   applied {applied}   remaining {}   {since}", format::bytes(end.since(applied)))],
        None => vec![format!("waiting for the end of the stream   applied {applied}   {since}")],
    }
}
