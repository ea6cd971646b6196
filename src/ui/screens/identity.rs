//! Replica identity: the checklist of tables, and the three ways for the selected one.

use ratatui::{Frame, layout::Rect, style::Style, text::Line};

use crate::{
    event::{IdentityRow, IdentityState, Stage},
    format,
    plan::IdentityChoice,
    state::State,
    ui::{
        screens::two_panes,
        theme::Role,
        view::View,
        widgets::{
            header::WIDE,
            text::{self, Row, list, pane, split_rows, wrap},
        },
    },
};

/// `[ ] open`, `[i] accepted`: a mark beside the word.
fn mark(row: &IdentityRow) -> (String, Role) {
    let (mark, role) = match row.state {
        IdentityState::Open => ("[ ] ", Role::Attention),
        IdentityState::Accepted => ("[i] ", Role::Ok),
        IdentityState::Applied => ("[x] ", Role::Ok),
        IdentityState::Warn => ("", Role::Attention),
        IdentityState::Ok => ("", Role::Ok),
    };
    (format!("{mark}{}", row.state.as_str()), role)
}

pub fn proposal(choice: &IdentityChoice) -> String {
    match choice {
        IdentityChoice::Full => "FULL".into(),
        IdentityChoice::Index(name) => format!("USING INDEX {name}"),
        IdentityChoice::InsertOnly => "insert-only".into(),
    }
}

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    if two_panes(area) {
        let (top, bottom) = split_rows(area, area.height - 12);
        checklist(frame, top, state, view);
        choices(frame, bottom, state, view);
    } else if view.swapped {
        choices(frame, area, state, view);
    } else {
        checklist(frame, area, state, view);
    }
}

fn checklist(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    use IdentityState::{Accepted, Applied, Ok, Open, Warn};
    let counts: Vec<_> = [Open, Accepted, Applied, Ok, Warn]
        .into_iter()
        .map(|s| (state.identity.count(s), s.as_str()))
        .filter(|(n, word)| *n > 0 || *word == "open")
        .map(|(n, word)| format!("{n} {word}"))
        .collect();
    let right = [view.filter_text(), counts.join("  ")].join("  ").trim().to_owned();
    let wide = area.width >= WIDE;
    let title =
        if wide { format!("Replica identity {} what the source reports about changed rows", view.symbols.dash) } else { "Replica identity".into() };
    let inner = pane(frame, area, &title, &right, Role::Plain, view);
    let columns = usize::from(inner.width);
    let plain = Style::new();
    // On the narrowest terminal the name is worth more than the size.
    let with_size = columns >= 70;
    let table = if wide {
        columns.saturating_sub(1 + 11 + 21 + 15 + 29 + 13)
    } else {
        columns.saturating_sub(1 + 18 + 9 + 13 + if with_size { 10 } else { 0 })
    };
    let rows = view.identities(state);
    let head = if wide {
        Row::new(view)
            .left("TABLE", table, plain)
            .right("SIZE", 9, plain)
            .left("", 0, plain)
            .left("REPLICA IDENTITY", 20, plain)
            .left("UPDATE/DELETE", 14, plain)
            .left("PROPOSED", 28, plain)
            .left("STATE", 12, plain)
            .line()
    } else {
        let head = Row::new(view).left("TABLE", table, plain);
        let head = if with_size { head.right("SIZE", 9, plain) } else { head };
        head.left("IDENTITY", 17, plain).left("UPD/DEL", 8, plain).left("STATE", 12, plain).line()
    };
    list(frame, inner, head, &rows, view.selected(Stage::Identity, state), view, |row, _| {
        let (state, role) = mark(row);
        let lost = if row.effect.contains("lost") { Role::Attention } else { Role::Plain };
        let out = Row::new(view).left(row.table.to_string(), table, plain);
        let out = if with_size { out.right(format::bytes(row.bytes), 9, plain) } else { out };
        if wide {
            out.left("", 0, plain)
                .left(&row.current, 20, plain)
                .left(&row.effect, 14, view.style(lost))
                .left(row.proposed.as_ref().map(proposal).unwrap_or_default(), 28, plain)
                .left(state, 12, view.style(role))
                .line()
        } else {
            out.left(&row.current, 17, plain).left(&row.effect, 8, view.style(lost)).left(state, 12, view.style(role)).line()
        }
    });
    if rows.is_empty() {
        let below = split_rows(inner, 1).1;
        text::lines(frame, below, vec![Line::styled(view.empty_list("No tables are listed yet."), view.style(Role::Dim))]);
    }
}

fn choices(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let Some(row) = view.selected_identity(state) else {
        pane(frame, area, "", "", Role::Plain, view);
        return;
    };
    let inner = pane(frame, area, &row.table.to_string(), row.state.as_str(), Role::Plain, view);
    text::preview(frame, inner, explain(row, usize::from(inner.width), view), view);
}

/// Why, and the ways out with the SQL of each.
pub fn explain(row: &IdentityRow, columns: usize, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(3);
    let mut lines: Vec<_> = wrap(&row.reason, room).into_iter().map(|l| Line::raw(format!(" {l}"))).collect();
    if matches!(row.state, IdentityState::Ok | IdentityState::Applied) {
        return lines;
    }
    lines.push(Line::default());
    let sql = |choice: &IdentityChoice| choice.sql(&row.table).map(|s| s + ";").unwrap_or_default();
    let index = match view.eligible_index(row) {
        Some(name) if row.indexes.len() > 1 => {
            format!(
                "{}   ({} {name} {} h/l: {} indexes)",
                sql(&IdentityChoice::Index(name.clone())),
                view.symbols.open,
                view.symbols.close,
                row.indexes.len()
            )
        }
        Some(name) => sql(&IdentityChoice::Index(name.clone())),
        None => "(no unique index on NOT NULL columns is eligible)".into(),
    };
    let mut way = |key: &str, text: &str, note: &str| {
        let mut first = true;
        for line in wrap(text, room.saturating_sub(4)) {
            let head = if first { format!(" {key}  ") } else { "      ".to_owned() };
            first = false;
            lines.push(Line::from(vec![ratatui::text::Span::styled(head, view.style(Role::Busy)), line.into()]));
        }
        for line in wrap(note, room.saturating_sub(4)) {
            lines.push(Line::styled(format!("    {line}"), view.style(Role::Dim)));
        }
    };
    if !row.partitioned {
        way("f", &sql(&IdentityChoice::Full), "every changed row is written whole to WAL: more WAL on the source");
        way("u", &index, "");
    }
    let again = if row.state == IdentityState::Accepted {
        "accepted; i takes it back"
    } else {
        "asks for the table's name; it is listed in the summary at the end"
    };
    let lost = if row.partitioned {
        "UPDATE and DELETE are lost on the target, and moved rows are there twice"
    } else {
        "UPDATE and DELETE are lost on the target"
    };
    way("i", &format!("insert-only: a publication of its own; {lost}"), again);
    lines
}
