//! Verify: not in this version; the screen says so.

use ratatui::{Frame, layout::Rect, text::Line};

use crate::{
    state::State,
    ui::{
        theme::Role,
        view::View,
        widgets::text::{self, pane, wrap},
    },
};

const TEXT: &str = "Comparing source and target row by row is not part of this version: the stage is skipped.\n\n\
    What takes its place: every table is copied from one snapshot; changes are applied from the position of that snapshot on; a table whose \
    changes do not find their rows is marked DIVERGED on the catch-up screen and blocks the cutover.";

pub fn render(frame: &mut Frame, area: Rect, _state: &State, view: &View) {
    let inner = pane(frame, area, "Verify", "skipped", Role::Plain, view);
    let room = usize::from(inner.width).saturating_sub(4).min(100);
    let mut lines = vec![Line::default()];
    lines.extend(wrap(TEXT, room).into_iter().map(|l| Line::raw(format!("  {l}"))));
    text::lines(frame, inner, lines);
}
