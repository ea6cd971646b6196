//! The screens: one file each, `render(frame, area, state, view)`. They draw and decide nothing.
//!
//! ```text
//! header     source, target, run, elapsed
//! rail       ✓1 Preflight  ▶2 Identity  ·3 Schema …
//! body       the stage's screen, or the log, the help, the details
//! messages   the last warning or error, the newest line
//! band       what is wanted from the operator
//! key line   the keys that would do something now       RUNNING
//! ```

pub mod catch_up;
pub mod copy;
pub mod cutover;
pub mod details;
pub mod differences;
pub mod done;
pub mod help;
pub mod hypertables;
pub mod identity;
pub mod log;
pub mod modal;
pub mod preflight;
pub mod schema;
pub mod verify;

use ratatui::{Frame, layout::Rect, text::Line};

use crate::{
    event::Stage,
    format,
    state::State,
    ui::{
        theme::Role,
        view::{self, MIN_SIZE, Overlay, View, too_small},
        widgets::{band, header, text},
    },
};

/// Below this many rows a screen shows one pane instead of two.
const TWO_PANES: u16 = 22;

/// Whether the body has room for a second pane under the first.
pub fn two_panes(body: Rect) -> bool {
    body.height >= TWO_PANES
}

pub fn render(frame: &mut Frame, state: &State, view: &View) {
    let area = frame.area();
    if area.is_empty() {
        return;
    }
    if too_small(area) {
        small(frame, area, state, view);
        return;
    }
    let messages = if area.height >= 34 { 2 } else { 1 };
    let band = band::prompt_height(area, state, view);
    let (head, rest) = text::split_rows(area, 1);
    let (rail, rest) = text::split_rows(rest, 1);
    let (body, bottom) = text::split_rows(rest, rest.height - messages - band - 1);
    let (message, bottom) = text::split_rows(bottom, messages);
    let (prompt, keys) = text::split_rows(bottom, band);
    header::header(frame, head, state, view);
    header::rail(frame, rail, state, view);
    match view.overlay {
        Some(Overlay::Log) => log::render(frame, body, state, view),
        Some(Overlay::Help) => help::render(frame, body, state, view),
        Some(Overlay::Differences) => differences::render(frame, body, state, view),
        Some(Overlay::Details) => details::render(frame, body, state, view),
        None => stage(frame, body, state, view),
    }
    band::messages(frame, message, state, view);
    band::prompt(frame, prompt, state, view);
    band::key_line(frame, keys, !two_panes(body), state, view);
    if state.is_cutover_box_open() {
        cutover::render_box(frame, area, state, view);
    }
    modal::render(frame, area, state, view);
}

fn stage(frame: &mut Frame, body: Rect, state: &State, view: &View) {
    match view.shown(state) {
        Stage::Preflight => preflight::render(frame, body, state, view),
        Stage::Identity => identity::render(frame, body, state, view),
        Stage::Schema => schema::render(frame, body, state, view),
        Stage::Hypertables => hypertables::render(frame, body, state, view),
        Stage::Copy => copy::render(frame, body, state, view),
        Stage::CatchUp => catch_up::render(frame, body, state, view),
        Stage::Verify => verify::render(frame, body, state, view),
        Stage::Cutover => cutover::render(frame, body, state, view),
        Stage::Done => done::render(frame, body, state, view),
    }
}

/// Lines of an overlay, for scrolling.
pub fn overlay_lines(overlay: Overlay, state: &State, view: &View) -> usize {
    match overlay {
        Overlay::Log => state.log.len(),
        Overlay::Help => help::lines(76, state, view).len(),
        Overlay::Differences => state.differences.len(),
        Overlay::Details => details::lines(80, state, view).len(),
    }
}

/// `copy 51 %`, for the terminal's title and for a terminal that is too small.
pub fn progress(state: &State) -> String {
    match state.stage {
        None => "starting".into(),
        Some(Stage::Copy) => {
            let (done, all) = state.tables.bytes();
            format!("copy {} %", format::percent(done, all))
        }
        Some(stage) => stage.title().to_lowercase(),
    }
}

/// ```text
/// terminal is 52x14, need 60x16
/// copy 51 %  lag 91 MB   the migration continues
/// ```
fn small(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let (status, role) = view::status(state, view);
    let lag = state.replay.lag().map(|lag| format!("  lag {}", format::bytes(lag))).unwrap_or_default();
    let continues = if role == Role::Busy { "the migration continues" } else { status };
    let lines = vec![
        Line::raw(format!("terminal is {}x{}, need {}x{}", area.width, area.height, MIN_SIZE.0, MIN_SIZE.1)),
        Line::styled(format!("{}{lag}   {continues}", progress(state)), view.style(role)),
    ];
    text::lines(frame, area, lines);
}
