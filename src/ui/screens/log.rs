//! The log, full height; the newest line at the bottom.

use ratatui::{Frame, layout::Rect};

use crate::{
    state::State,
    ui::{
        theme::Role,
        view::View,
        widgets::{
            band::log_line,
            text::{self, pane},
        },
    },
};

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let file = if state.dir.is_empty() { String::new() } else { format!("{}/hyperlift.log", state.dir) };
    let right = if view.scroll > 0 { format!("{} lines below", view.scroll) } else { file };
    let inner = pane(frame, area, "Log", &right, Role::Plain, view);
    let height = usize::from(inner.height);
    let end = state.log.len().saturating_sub(view.scroll).max(height.min(state.log.len()));
    let lines = state.log.range(end.saturating_sub(height)..end).map(|l| log_line(l, usize::from(inner.width), view)).collect();
    text::lines(frame, inner, lines);
}
