//! Preflight: the checks with their verdicts, and what the selected one means.

use ratatui::{Frame, layout::Rect, style::Style, text::Line};

use crate::{
    event::{Check, Stage, Verdict},
    format,
    state::State,
    ui::{
        screens::two_panes,
        theme::Role,
        view::View,
        widgets::text::{self, Row, list, pane, split_rows, wrap},
    },
};

pub fn verdict_role(verdict: Verdict) -> Role {
    match verdict {
        Verdict::Ok => Role::Ok,
        Verdict::Warn => Role::Attention,
        Verdict::Fail => Role::Failed,
    }
}

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let checks = view.checks(state);
    let selected = view.selected(Stage::Preflight, state);
    let (top, bottom) = if two_panes(area) { split_rows(area, area.height - 10) } else { split_rows(area, area.height.saturating_sub(6)) };
    let counts = format!(
        "{} failed  {} warned  {} ok",
        state.preflight.count(Verdict::Fail),
        state.preflight.count(Verdict::Warn),
        state.preflight.count(Verdict::Ok)
    );
    let right = [view.filter_text(), counts].join("  ").trim().to_owned();
    let inner =
        pane(frame, top, &format!("Preflight {} both sides, checked before anything is changed", view.symbols.dash), &right, Role::Plain, view);
    let name = checks.iter().map(|c| text::width(&c.name)).max().unwrap_or(0).clamp(12, 28);
    let rest = usize::from(inner.width).saturating_sub(name + 8);
    let head = Row::new(view).left("CHECK", name, Style::new()).left("", 5, Style::new()).left("FOUND", rest, Style::new()).line();
    let used = list(frame, inner, head, &checks, selected, view, |check, _| {
        let role = verdict_role(check.verdict);
        Row::new(view)
            .left(&check.name, name, Style::new())
            .left(check.verdict.as_str(), 5, view.style(role))
            .left(&check.sentence, rest, Style::new())
            .line()
    });
    let below = split_rows(inner, used).1;
    if checks.is_empty() {
        text::lines(frame, below, vec![Line::styled(view.empty_list("No checks yet."), view.style(Role::Dim))]);
    } else if below.height >= 3 && !state.tables.is_empty() {
        let bytes = state.tables.iter().map(|t| t.summary.bytes).sum();
        let rows = state.tables.iter().map(|t| t.summary.rows).sum();
        let text = format!(" To be moved: {} tables, {}, ~{} rows.", state.tables.len(), format::bytes(bytes), format::count(rows));
        text::lines(frame, below, vec![Line::default(), Line::styled(text, view.style(Role::Busy))]);
    }
    if let Some(check) = checks.get(selected) {
        let inner = pane(frame, bottom, &check.name, check.verdict.as_str(), Role::Plain, view);
        text::preview(frame, inner, explain(check, usize::from(inner.width), view), view);
    } else {
        pane(frame, bottom, "", "", Role::Plain, view);
    }
}

/// What a check found and what to do about it.
pub fn explain(check: &Check, columns: usize, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(3);
    let mut lines: Vec<_> = wrap(&check.sentence, room).into_iter().map(|l| Line::raw(format!(" {l}"))).collect();
    if let Some(fix) = &check.fix {
        lines.push(Line::default());
        lines.push(Line::styled(" What to do (y copies it):", view.style(Role::Dim)));
        lines.extend(wrap(fix, room.saturating_sub(2)).into_iter().map(|l| Line::styled(format!("   {l}"), view.style(Role::Busy))));
    }
    lines
}
