//! How the schemas of both sides differ, and the statements that bring the target to the source's state.
//!
//! ```text
//! OBJECT               ON THE SOURCE   STATE
//! VIEW public.v        was altered     safe
//! TABLE public.old     was dropped     REMOVES
//! ```

use ratatui::{Frame, layout::Rect, style::Style, text::Line};

use crate::{
    event::SchemaDifference,
    state::State,
    ui::{
        theme::Role,
        view::View,
        widgets::text::{self, Row, list, pane, split_rows, wrap},
    },
};

/// Wide enough for `was altered`, and for `REMOVES`.
const HOW: usize = 14;
const STATE: usize = 8;

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let (top, bottom) = split_rows(area, area.height.saturating_sub(area.height / 2));
    let safe = state.differences.iter().filter(|d| d.is_safe()).count();
    let right = format!("{} in all, {safe} safe", state.differences.len());
    let inner = pane(frame, top, "Schema of the source and of the target", &right, Role::Plain, view);
    if state.differences.is_empty() {
        let line = Line::styled(" Both sides have the same schema, as far as it was compared.", view.style(Role::Dim));
        text::lines(frame, inner, vec![line]);
        return;
    }
    let columns = usize::from(inner.width);
    let object = columns.saturating_sub(HOW + STATE + 4);
    let plain = Style::new();
    let head = Row::new(view).left("OBJECT", object, plain).left("ON THE SOURCE", HOW, plain).left("STATE", STATE, plain).line();
    let at = view.scroll.min(state.differences.len() - 1);
    let rows: Vec<&SchemaDifference> = state.differences.iter().collect();
    list(frame, inner, head, &rows, at, view, |d, _| {
        let role = match d.state() {
            "safe" => Role::Ok,
            "FAILED" => Role::Failed,
            _ => Role::Attention,
        };
        Row::new(view).left(&d.object, object, plain).left(&d.how, HOW, plain).left(d.state(), STATE, view.style(role)).line()
    });
    let chosen = &state.differences[at];
    let inner = pane(frame, bottom, &chosen.object, "", Role::Plain, view);
    text::preview(frame, inner, explain(chosen, usize::from(inner.width), view), view);
}

/// The error of the last attempt, what the statement does, and its text.
fn explain(d: &SchemaDifference, columns: usize, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(3);
    let mut lines = Vec::new();
    let mut say = |text: &str, role| lines.extend(wrap(text, room).into_iter().map(|l| Line::styled(format!(" {l}"), view.style(role))));
    if let Some(error) = &d.error {
        say(error, Role::Failed);
    }
    match &d.sql {
        None => say(&format!("{}. No statement is known for it; make the change on the target by hand.", text::capital(&d.how)), Role::Plain),
        Some(_) if d.removes => say("The statement removes rows or values, as the source has done. e runs it on the target:", Role::Attention),
        Some(_) => say("e runs on the target:", Role::Plain),
    }
    for line in d.sql.iter().flat_map(|sql| sql.lines()) {
        say(&format!(" {line}"), Role::Plain);
    }
    lines
}
