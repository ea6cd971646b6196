//! Schema: how many statements ran, and those that failed.

use ratatui::{Frame, layout::Rect, style::Style, text::Line};

use crate::{
    event::{FailedStatement, Stage, StageState},
    format,
    state::State,
    ui::{
        screens::two_panes,
        theme::Role,
        view::View,
        widgets::text::{self, Row, bar, list, pane, split_rows, wrap},
    },
};

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let statements = view.statements(state);
    let details = match (statements.is_empty(), two_panes(area)) {
        (true, _) => 0,
        (false, true) => 12,
        (false, false) => 6,
    };
    let (top, bottom) = split_rows(area, area.height.saturating_sub(details));
    let failed = state.schema.failures.iter().filter(|f| !f.skipped).count();
    let skipped = state.schema.failures.len() - failed;
    let right = [view.filter_text(), format!("{failed} failed  {skipped} skipped")].join("  ").trim().to_owned();
    let title = format!("Schema {} roles, extensions, types, tables; statement by statement", view.symbols.dash);
    let inner = pane(frame, top, &title, &right, Role::Plain, view);
    let done = state.stage_state(Stage::Schema) == StageState::Done;
    let (part, whole) = (state.schema.done, state.schema.total);
    let fraction = if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    let width = usize::from(inner.width).saturating_sub(40).clamp(10, 40);
    let percent = if whole == 0 { 0 } else { format::percent(part, whole) };
    let run = Row::new(view)
        .text(" ", Style::new())
        .left(bar(fraction, width, view), width, view.style(Role::Ok))
        .right(format!("{percent}%"), 4, Style::new())
        .text(format!(" {} of {} statements", format::count(part), format::count(whole)), Style::new());
    let now = match (done, state.schema.object.is_empty()) {
        (true, _) => "The schema is restored on the target, still empty.".to_owned(),
        (false, true) => "Not begun yet.".to_owned(),
        (false, false) => format!("now: {}", state.schema.object),
    };
    let now = Row::new(view).text(" ", Style::new()).left(now, usize::from(inner.width).saturating_sub(2), view.style(Role::Dim));
    let (head, rest) = split_rows(inner, 3);
    text::lines(frame, head, vec![run.line(), now.line()]);
    let selected = view.selected(Stage::Schema, state);
    if statements.is_empty() {
        text::lines(frame, rest, vec![Line::styled(view.empty_list("No statement failed."), view.style(Role::Dim))]);
        return;
    }
    let object = statements.iter().map(|f| text::width(&f.statement.object)).max().unwrap_or(0).clamp(12, 36);
    let message = usize::from(inner.width).saturating_sub(object + 11);
    let header = Row::new(view).left("OBJECT", object, Style::new()).left("STATE", 7, Style::new()).left("MESSAGE", message, Style::new()).line();
    list(frame, rest, header, &statements, selected, view, |f, _| {
        let (word, role) = if f.skipped { ("skipped", Role::Dim) } else { ("FAILED", Role::Failed) };
        Row::new(view)
            .left(&f.statement.object, object, Style::new())
            .left(word, 7, view.style(role))
            .left(f.statement.full_message(), message, Style::new())
            .line()
    });
    if let Some(f) = statements.get(selected) {
        let inner = pane(frame, bottom, &f.statement.object, "", Role::Plain, view);
        text::preview(frame, inner, explain(&f.statement, usize::from(inner.width), view), view);
    }
}

/// The error and the whole statement.
pub fn explain(f: &FailedStatement, columns: usize, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(3);
    let mut lines: Vec<_> = wrap(&f.full_message(), room).into_iter().map(|l| Line::styled(format!(" {l}"), view.style(Role::Failed))).collect();
    lines.push(Line::default());
    lines.extend(wrap(f.sql.trim_end(), room.saturating_sub(1)).into_iter().map(|l| Line::raw(format!("  {l}"))));
    lines
}
