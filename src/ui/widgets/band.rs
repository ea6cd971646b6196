//! The bottom of the screen: message lines, the prompt band, the key line.

use ratatui::{
    Frame,
    layout::Rect,
    text::{Line, Span},
};

use std::time::Duration;

use crate::{
    event::{Level, Prompt, PromptKind, Stage},
    state::{Ended, LogLine, State, between},
    ui::{
        keys::{self, Action, Context},
        theme::Role,
        view::{self, View},
        widgets::text::{Row, capital, cut, lines, width, wrap},
    },
};

/// How long a warning and an error stay visible while the migration continues.
const WARNING: Duration = Duration::from_secs(60);
const ERROR: Duration = Duration::from_secs(600);

fn level_role(level: Level) -> Role {
    match level {
        Level::Info => Role::Plain,
        Level::Warn => Role::Attention,
        Level::Error => Role::Failed,
    }
}

/// The last warning or error and, where there is space, the newest line of the log; the dashboard's own message before both.
pub fn messages(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let rows = usize::from(area.height);
    let mut out: Vec<Line<'static>> = Vec::new();
    let newest = state.log.len().checked_sub(1);
    let shown_for = |l: &LogLine| if l.level == Level::Error { ERROR } else { WARNING };
    let fresh = |l: &LogLine| l.level > Level::Info && state.now.is_none_or(|now| between(l.at, now) < shown_for(l));
    let problem = state.log.iter().rposition(fresh);
    let mut picked: Vec<usize> = problem.into_iter().chain(newest).collect();
    picked.dedup();
    if let Some(first) = picked.first().copied()
        && picked.len() < rows
        && first > 0
    {
        picked.insert(0, first - 1);
    }
    let room = rows.saturating_sub(usize::from(view.message.is_some()));
    // In a single line, a problem is worth more than news.
    let picked = if room == 1 && picked.len() > 1 { problem.into_iter().collect() } else { picked };
    for line in picked.iter().rev().take(room).rev().filter_map(|i| state.log.get(*i)) {
        out.push(log_line(line, usize::from(area.width), view));
    }
    if let Some((level, text)) = &view.message {
        out.push(
            Row::new(view)
                .text(" ", view.style(Role::Plain))
                .left(text, usize::from(area.width).saturating_sub(2), view.style(level_role(*level)))
                .line(),
        );
    }
    lines(frame, area, out);
}

/// ` 10:42:07 ERROR copy public.geo_blobs: …`
pub fn log_line(line: &crate::state::LogLine, columns: usize, view: &View) -> Line<'static> {
    let role = if line.level == Level::Info { Role::Dim } else { level_role(line.level) };
    Row::new(view)
        .text(" ", view.style(Role::Plain))
        .left(view.time(line.at), 8, view.style(Role::Dim))
        .left(line.level.as_str(), 5, view.style(role))
        .left(&line.text, columns.saturating_sub(17), view.style(Role::Plain))
        .line()
}

/// What is asked of the operator: a sentence, and the keys for it.
struct Band {
    role: Role,
    text: String,
    keys: String,
}

/// Bytes of a reason that fits beside the keys on a narrow screen.
const SHORT_REASON: usize = 16;

fn prompt_band(state: &State, view: &View) -> Option<Band> {
    let attention = |text: String, keys: &str| Some(Band { role: Role::Attention, text, keys: keys.to_owned() });
    match &state.ended {
        Some(Ended::Failed { message, hint }) => {
            let hint = hint.as_ref().map(|h| format!("\n{h}")).unwrap_or_default();
            return Some(Band {
                role: Role::Failed,
                text: format!("FAILED  {message}{hint}"),
                keys: "[ q leave; the summary says how to continue ]".into(),
            });
        }
        Some(Ended::Stopped) => return attention("STOPPED".into(), ""),
        None => {}
    }
    if view.stopping {
        return attention(
            format!("Stopping safely {}", view.symbols.ellipsis),
            "The migration can be continued.  ctrl-c twice within 8 s: end immediately",
        );
    }
    if view.leaving {
        return attention(format!("Cleaning up on both sides {}", view.symbols.ellipsis), "");
    }
    if state.can_leave() {
        let n = state.cutover.late_writes.len();
        return if n > 0 {
            let (plural, them) = if n == 1 { ("", "it") } else { ("S", "them") };
            let text = format!("{n} LATE WRITE{plural} on the source after the cutover; the target does not have {them}.");
            Some(Band { role: Role::Failed, text, keys: "[ q leave and clean up ]".into() })
        } else {
            attention("Migration successfully completed. The source is still watched for late writes.".into(), "[ q leave and clean up ]")
        };
    }
    match state.prompts.shown() {
        Some(p) if p.kind == PromptKind::Continue => {
            let again = matches!(p.stage, Stage::Preflight | Stage::Identity | Stage::Hypertables);
            let keys = |first: &str| format!("{first}{}    [ q quit ]", if again { "    [ R check again ]" } else { "" });
            return match &p.blocked_by {
                None => attention(format!("CONTINUE?  {}", p.text), &keys("[ c continue ]")),
                Some(why) if why.len() <= SHORT_REASON => {
                    attention(format!("CONTINUE?  {}", p.text), &keys(&format!("[ c continue ] (not yet: {why})")))
                }
                // It would be cut beside the keys.
                Some(why) => attention(format!("CONTINUE?  Not yet: {why}."), &keys("[ c continue ] (not yet)")),
            };
        }
        Some(p) if p.kind == PromptKind::Failure => return Some(failure_band(p, state, view)),
        _ => {}
    }
    if let Some((what, holders)) = &state.copy.waiting {
        let text = format!(
            "{} waits for {} on the source. They have to end: wait, or end them yourself (commit, rollback, pg_terminate_backend).",
            capital(what),
            transactions(holders.len())
        );
        return attention(text, "");
    }
    if matches!(state.stage, Some(Stage::CatchUp)) && !state.is_cutover_box_open() {
        let text = match state.gates_not_passed() {
            _ if state.gates.is_empty() => "Next: the cutover, when its gates have passed.".into(),
            Some(gates) => format!("Next: the cutover. {gates}."),
            None => "Next: the cutover. All hard gates have passed: stop the application's writes, then c or C.".to_owned(),
        };
        return Some(Band {
            role: Role::Busy,
            text,
            keys: if state.can_open_cutover() { "[ c cutover box ]".into() } else { "[ C show the cutover box ]".into() },
        });
    }
    None
}

/// The failure that `r` and `K` answer; where no row is selected, the newest one.
fn failure_band(newest: &Prompt, state: &State, view: &View) -> Band {
    let shown = view.failure(state).unwrap_or(newest);
    let text = &shown.text;
    let text = match state.prompts.failures().count() {
        1 if state.stage == Some(Stage::Copy) => format!("{}. The other tables go on.", text.trim_end_matches('.')),
        1 => text.clone(),
        n => format!("{n} failures need you: select the row of each. {text}"),
    };
    let skip = if view.enabled(Action::Skip, state) { "    [ K skip ]" } else { "" };
    let details = view.enabled(Action::Details, state) && !state.is_cutover_box_open();
    let details = if details { "    [ enter details ]" } else { "" };
    Band { role: Role::Attention, text, keys: format!("[ r retry ]{skip}{details}") }
}

fn transactions(n: usize) -> String {
    if n == 1 { "1 transaction".into() } else { format!("{n} transactions") }
}

/// Lines of the band, at least two so that the body seldom moves.
pub fn prompt_height(area: Rect, state: &State, view: &View) -> u16 {
    let most = if area.height >= 24 { 4 } else { 3 };
    prompt_lines(usize::from(area.width), most, state, view).len().max(2) as u16
}

/// In at most `rows` lines. The keys stay; what else does not fit is in the log and on the details screen.
fn prompt_lines(columns: usize, rows: usize, state: &State, view: &View) -> Vec<Line<'static>> {
    let Some(band) = prompt_band(state, view) else { return Vec::new() };
    let style = view.style(band.role);
    let room = columns.saturating_sub(3);
    let row = |text: &str| Row::new(view).text(format!("{} ", view.symbols.band), style).left(text, room, style).line();
    let keys = (!band.keys.is_empty()).then(|| row(&band.keys));
    let most = rows.saturating_sub(keys.iter().len());
    let mut text = wrap(&band.text, room);
    if text.len() > most {
        text.truncate(most);
        if let Some(last) = text.last_mut() {
            *last = format!("{} {}", cut(last, room.saturating_sub(2), ""), view.symbols.ellipsis);
        }
    }
    text.iter().map(|t| row(t)).chain(keys).collect()
}

pub fn prompt(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    lines(frame, area, prompt_lines(usize::from(area.width), usize::from(area.height), state, view));
}

/// The keys of this context that would do something now, and the state of the run at the right.
pub fn key_line(frame: &mut Frame, area: Rect, small: bool, state: &State, view: &View) {
    let columns = usize::from(area.width);
    let (status, role) = view::status(state, view);
    let gap = if area.width >= 100 { "  " } else { " " };
    let room = columns.saturating_sub(width(status) + 3);
    let context = view.context(state);
    let fixed: Vec<(&str, &str)> = match (view.filtering, &view.modal, context) {
        (true, ..) => vec![("enter", "keep the filter"), ("esc", "clear it")],
        (_, Some(view::Modal::Name { .. }), _) => vec![("enter", "when it is typed"), ("esc", "back")],
        (_, _, Context::Quit) => vec![("q", "stop safely"), ("esc", "stay")],
        (_, _, Context::Log | Context::Details | Context::Differences | Context::Help) => vec![("esc", "back")],
        (_, _, Context::CutoverBox) if !state.cutover.running => vec![("esc", "not yet"), ("q", "quit")],
        (_, _, Context::CutoverBox) => vec![("q", "quit")],
        (_, _, Context::Stage(_)) => vec![("?", "help"), ("q", if state.can_leave() { "leave" } else { "quit" })],
    };
    let mut left: Vec<(&str, &str)> = Vec::new();
    let plain = !view.filtering && !matches!(view.modal, Some(view::Modal::Name { .. }));
    let used = |items: &[(&str, &str)]| items.iter().map(|(k, h)| width(k) + width(h) + 1 + gap.len()).sum::<usize>();
    for binding in keys::of(context).filter(|_| plain) {
        let closes = matches!(
            (binding.action, context),
            (Action::Details, Context::Details) | (Action::Differences, Context::Differences) | (Action::Log, Context::Log)
        );
        let known = closes || matches!(binding.action, Action::Help | Action::Quit) || binding.hint.is_empty();
        if known || (binding.action == Action::Swap && !small) || !view.enabled(binding.action, state) {
            continue;
        }
        let hint = match binding.action {
            Action::Pause if state.paused => "resume",
            Action::Continue if state.can_continue().is_none() => "cutover",
            Action::OpenCutover if state.can_open_cutover() => continue,
            Action::Details if state.can_leave() => "leave",
            Action::All if context == Context::Differences => "all safe",
            Action::Retry if state.is_late_write() => "drain again",
            _ => binding.hint,
        };
        if used(&left) + used(&fixed) + width(binding.label) + width(hint) + 1 + gap.len() > room {
            continue;
        }
        left.push((binding.label, hint));
    }
    left.extend(fixed);
    let mut spans = vec![Span::raw(" ")];
    for (key, hint) in left {
        spans.push(Span::styled(key.to_owned(), view.style(Role::Busy)));
        spans.push(Span::raw(format!(" {hint}{gap}")));
    }
    let mut line = Line::from(spans);
    let pad = columns.saturating_sub(line.width() + width(status) + 1);
    line.push_span(Span::raw(" ".repeat(pad)));
    line.push_span(Span::styled(status, view.style(role)));
    frame.render_widget(line, area);
}
