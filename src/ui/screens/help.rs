//! Help: the table of keys, those of the present screen first.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use crate::{
    state::State,
    ui::{
        keys::{self, Binding, Context},
        theme::Role,
        view::View,
        widgets::text::{self, pane},
    },
};

/// Bindings of at least this many contexts are not of one screen.
const EVERYWHERE: usize = 9;

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let inner = pane(frame, area, "Help", "esc or ? closes", Role::Plain, view);
    let two = inner.width >= 110;
    let all = lines(usize::from(if two { inner.width / 2 } else { inner.width }), state, view);
    let height = usize::from(inner.height);
    if all.len() > height && two {
        let (left, right) = text::split_columns(inner, inner.width / 2);
        let mut all = all;
        let second = all.split_off(all.len().div_ceil(2).max(height.min(all.len())));
        text::lines(frame, left, all);
        text::scrolled(frame, right, second, view.scroll, view);
    } else {
        text::scrolled(frame, inner, all, view.scroll, view);
    }
}

pub fn lines(columns: usize, state: &State, view: &View) -> Vec<Line<'static>> {
    let here = Context::Stage(view.shown(state));
    let own = |b: &&Binding| b.contexts.contains(&here) && b.contexts.len() < EVERYWHERE;
    let general = |b: &&Binding| b.contexts.len() >= EVERYWHERE;
    let other = |b: &&Binding| !own(b) && !general(b);
    let mut out = Vec::new();
    let mut group = |title: String, pick: &dyn Fn(&&Binding) -> bool| {
        let picked: Vec<_> = keys::TABLE.iter().filter(pick).collect();
        if picked.is_empty() {
            return;
        }
        if !out.is_empty() {
            out.push(Line::default());
        }
        out.push(Line::styled(format!(" {title}"), view.style(Role::Dim)));
        for binding in picked {
            let mut key = label(binding);
            for line in text::wrap(binding.help, columns.saturating_sub(11)) {
                out.push(Line::from(vec![Span::styled(format!("  {key:<8}"), view.style(Role::Busy)), Span::raw(line)]));
                key = "";
            }
        }
    };
    group(format!("On this screen ({})", view.shown(state).title()), &own);
    group("Anywhere".into(), &general);
    group("On other screens and in the cutover box".into(), &other);
    out
}

/// The key line writes pairs once (`j/k`); the help has a line for each.
fn label(binding: &Binding) -> &'static str {
    match binding.label {
        "j/k" => "j",
        "h/l" => "l",
        "+/-" => "-",
        label => label,
    }
}
