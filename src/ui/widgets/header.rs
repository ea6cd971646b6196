//! The header line and the stage rail.
//!
//! ```text
//!  hyperlift  source prod-db:5432/shop (PG 16.4)  →  target ts-cloud:5432/tsdb (PG 16.4, TimescaleDB 2.17)  run a1  00:41:12
//!  ✓1 Preflight  ✓2 Identity  ✓3 Schema  ✓4 Hypertables  ▶5 Copy  ·6 Catch-up  ·7 Verify  ·8 Cutover  ·9 Done
//! ```

use std::time::Duration;

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
};

use crate::{
    event::{Endpoint, Stage, StageState},
    format,
    state::State,
    ui::{
        theme::Role,
        view::View,
        widgets::{
            chart,
            text::{cut, width},
        },
    },
};

/// From this many columns on the long forms are shown.
pub const WIDE: u16 = 100;

/// An endpoint with what runs there.
fn versioned(address: &str, endpoint: &Endpoint) -> String {
    let timescale = endpoint.timescale.as_ref().map(|v| format!(", TimescaleDB {v}")).unwrap_or_default();
    if endpoint.version.is_empty() { address.to_owned() } else { format!("{address} (PG {}{timescale})", endpoint.version) }
}

pub fn header(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let columns = usize::from(area.width);
    let arrow = view.symbols.arrow;
    let right = format!("run {}  {} ", if state.id.is_empty() { "-" } else { &state.id }, format::duration(view.elapsed(state)));
    let long = |e: &Endpoint| versioned(&e.address, e);
    let (from, to) = (format::short_address(&state.source.address), format::short_address(&state.target.address));
    let forms = [
        format!(" hyperlift  source {}  {arrow}  target {}", long(&state.source), long(&state.target)),
        format!(" hyperlift  {}  {arrow}  {}", long(&state.source), long(&state.target)),
        format!(" hyperlift  {}  {arrow}  {}", versioned(&from, &state.source), versioned(&to, &state.target)),
        format!(" hyperlift  {from}  {arrow}  {to}"),
        format!(" {from} {arrow} {to}"),
    ];
    let room = columns.saturating_sub(width(&right) + 1);
    let left = forms.iter().find(|f| width(f) <= room).unwrap_or(&forms[4]);
    let left = cut(left, room, view.symbols.ellipsis);
    let pad = columns.saturating_sub(width(&left) + width(&right));
    frame.render_widget(Line::from(vec![Span::raw(left), Span::raw(" ".repeat(pad)), Span::styled(right, view.style(Role::Dim))]), area);
}

pub fn rail(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let shown = view.shown(state);
    let wide = area.width >= 110;
    let mut spans = vec![Span::raw(" ")];
    for stage in Stage::ALL {
        let stage_state = state.stage_state(stage);
        let (mark, role) = match stage_state {
            StageState::Waiting => (view.symbols.waiting, Role::Dim),
            StageState::Running => (view.symbols.running, Role::Busy),
            StageState::Done => (view.symbols.done, Role::Ok),
            StageState::Skipped => (view.symbols.skipped, Role::Dim),
            StageState::Failed => (view.symbols.failed, Role::Failed),
        };
        let named = wide || stage == shown || stage_state == StageState::Running;
        let mut style: Style = view.style(role);
        if view.stage == Some(stage) {
            style = style.remove_modifier(Modifier::DIM).add_modifier(Modifier::REVERSED);
        }
        let text = if named { format!("{mark}{} {}", stage.number(), stage.title()) } else { format!("{mark}{}", stage.number()) };
        spans.push(Span::styled(text, style));
        spans.push(Span::raw(if wide { "  " } else { " " }));
    }
    let mut line = Line::from(spans);
    let right = match (view.stage, state.replay.lag()) {
        (Some(_), _) => " 0: follow ".to_owned(),
        (None, Some(lag)) if !wide => {
            let spark = chart::spark(&state.replay.lag_samples, view.now(state), 8, view);
            let time = state.replay.status.lag_ms.filter(|_| area.width >= 76).map(|ms| format!(", {}", format::ago(Duration::from_millis(ms))));
            format!("lag {}{} {spark} ", format::bytes(lag), time.unwrap_or_default())
        }
        (None, None) if !wide && state.replay.stream.spool_bytes > 0 => format!("spool {} ", format::bytes(state.replay.stream.spool_bytes)),
        _ => String::new(),
    };
    let room = usize::from(area.width).saturating_sub(line.width());
    if width(&right) <= room {
        line.push_span(Span::raw(" ".repeat(room - width(&right))));
        line.push_span(Span::styled(right, view.style(if view.stage.is_some() { Role::Attention } else { Role::Chart1 })));
    }
    frame.render_widget(line, area);
}
