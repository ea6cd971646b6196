//! Hypertables: which tables become one, by what column, in chunks of what size, and the SQL of it.

use jiff::{Span, Unit};
use ratatui::{
    Frame,
    layout::Rect,
    style::Style,
    text::{Line, Span as TextSpan},
};

use crate::{
    event::{Candidate, KeyShape, Stage, TimeColumn, UniqueKey},
    format,
    name::plain_ident,
    plan::{Hypertable, KeyChoice, key_sentence},
    state::State,
    ui::{
        clip,
        screens::two_panes,
        theme::Role,
        view::View,
        widgets::{
            header::WIDE,
            text::{self, Row, list, pane, split_rows, wrap},
        },
    },
};

pub fn render(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    if two_panes(area) {
        let (top, bottom) = split_rows(area, area.height - 15);
        selection(frame, top, state, view);
        editor(frame, bottom, state, view);
    } else if view.swapped {
        editor(frame, area, state, view);
    } else {
        selection(frame, area, state, view);
    }
}

/// `[x]`, `[1]`, `[ ]`, `[-]`: nothing is hidden.
fn checkbox(candidate: &Candidate, view: &View) -> &'static str {
    if view.is_selected(candidate) {
        "[x]"
    } else if view.is_one_table(candidate) {
        "[1]"
    } else if candidate.obstacle.is_some() {
        "[-]"
    } else {
        "[ ]"
    }
}

fn keys_contain_time(candidate: &Candidate, column: &str) -> String {
    let lacking = candidate.keys.iter().find(|k| !k.columns.iter().any(|c| c == column));
    match (candidate.keys.is_empty(), lacking) {
        (true, _) => "no key".into(),
        (false, None) => "yes".into(),
        (false, Some(key)) => match (key.shape, key.primary) {
            (KeyShape::Columns, primary) => format!("no: {} ({})", if primary { "PK" } else { "unique" }, columns_of(key)),
            (KeyShape::Expressions, _) => format!("no: {}", plain_ident(&key.name)),
            (KeyShape::Exclusion, _) => format!("no: exclusion {}", plain_ident(&key.name)),
        },
    }
}

fn columns_of(key: &UniqueKey) -> String {
    key.columns.iter().map(|c| plain_ident(c)).collect::<Vec<_>>().join(", ")
}

/// Why it is proposed or not; or what is in the way of the choice that is shown.
fn reason(candidate: &Candidate, hypertable: Option<&Hypertable>) -> String {
    match &candidate.refused {
        _ if candidate.made && candidate.refused.is_none() => "is one already".into(),
        Some(refused) if candidate.chosen.as_ref() == hypertable => format!("refused: {refused}"),
        _ => candidate.obstacle.clone().unwrap_or_else(|| candidate.why.clone()),
    }
}

fn selection(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let rows = view.candidates(state);
    let chosen = state.hypertables.candidates.iter().filter(|c| view.is_selected(c)).count();
    let right = [view.filter_text(), format!("{chosen} of {} selected", state.hypertables.candidates.len())].join("  ").trim().to_owned();
    let wide = area.width >= WIDE;
    let title = if wide {
        format!("Hypertables {} the schema is restored and empty; convert before the rows arrive", view.symbols.dash)
    } else {
        "Hypertables".into()
    };
    let inner = pane(frame, area, &title, &right, Role::Plain, view);
    let plain = Style::new();
    let columns = usize::from(inner.width);
    let rest = columns.saturating_sub(if wide { 1 + 4 + 10 + 25 + 10 + 22 } else { 1 + 4 + 10 + 18 + 10 });
    let longest = state.hypertables.candidates.iter().map(|c| text::width(&c.table.to_string())).max().unwrap_or(0) + 1;
    let table = if wide { longest.clamp(12, (rest * 5 / 9).max(12)) } else { rest };
    let why = rest.saturating_sub(table);
    let mut head = Row::new(view).left("", 3, plain).left("TABLE", table - 1, plain).right("SIZE", 9, plain);
    head = if wide {
        head.left("TIME COLUMN", 24, plain).left("CHUNK", 9, plain).left("KEY CONTAINS TIME", 21, plain).left("WHY", why.saturating_sub(1), plain)
    } else {
        head.left("TIME COLUMN", 17, plain).left("CHUNK", 9, plain)
    };
    let used = list(frame, inner, head.line(), &rows, view.selected(Stage::Hypertables, state), view, |candidate, _| {
        let mark = checkbox(candidate, view);
        let role = if matches!(mark, "[x]" | "[1]") { Role::Ok } else { Role::Dim };
        let hypertable = view.hypertable(candidate).filter(|_| candidate.obstacle.is_none() || candidate.made);
        let column = hypertable.as_ref().and_then(|h| candidate.columns.iter().find(|c| c.name == h.time_column));
        let column_text = match (column, wide) {
            (Some(c), true) => format!("{} {}", plain_ident(&c.name), short_type(&c.data_type)),
            (Some(c), false) => plain_ident(&c.name),
            _ => view.symbols.dash.to_owned(),
        };
        let interval = hypertable.as_ref().map(|h| h.chunk_interval.clone()).unwrap_or_default();
        let row = Row::new(view).left(mark, 3, view.style(role)).left(candidate.table.to_string(), table - 1, plain).right(
            format::bytes(candidate.bytes),
            9,
            plain,
        );
        if wide {
            let keys = hypertable.as_ref().map(|h| keys_contain_time(candidate, &h.time_column)).unwrap_or_default();
            let reason = reason(candidate, hypertable.as_ref());
            let reason = if candidate.partitions > 0 { format!("{}, {reason}", partitions(candidate)) } else { reason };
            row.left(column_text, 24, plain).left(interval, 9, plain).left(keys, 21, plain).left(reason, why.saturating_sub(1), plain).line()
        } else {
            row.left(column_text, 17, plain).left(interval, 9, plain).line()
        }
    });
    let below = split_rows(inner, used).1;
    if rows.is_empty() {
        text::lines(frame, below, vec![Line::styled(view.empty_list("No candidates are listed yet."), view.style(Role::Dim))]);
    } else if below.height >= 1 {
        let others = if state.hypertables.candidates.iter().any(|c| c.partitions > 0) { "keep as it is   [1] one plain table" } else { "keep plain" };
        let legend = format!(" [x] convert   [ ] {others}   [-] cannot be converted (enter: why)");
        let mut lines = vec![Line::default(), Line::styled(legend, view.style(Role::Dim))];
        let lines = if below.height == 1 { lines.split_off(1) } else { lines };
        text::lines(frame, below, lines);
    }
}

/// `12 partitions`
fn partitions(candidate: &Candidate) -> String {
    format!("{} partition{}", format::count(candidate.partitions.into()), if candidate.partitions == 1 { "" } else { "s" })
}

/// `timestamptz` for `timestamp with time zone`.
fn short_type(name: &str) -> String {
    name.replace("timestamp with time zone", "timestamptz").replace("timestamp without time zone", "timestamp")
}

fn editor(frame: &mut Frame, area: Rect, state: &State, view: &View) {
    let Some(candidate) = view.selected_candidate(state) else {
        pane(frame, area, "", "", Role::Plain, view);
        return;
    };
    let chosen = match () {
        () if view.is_selected(candidate) => "converted",
        () if view.is_one_table(candidate) => "one plain table",
        () if candidate.partitions > 0 => "keeps its partitions",
        () => "kept plain",
    };
    let inner = pane(frame, area, &candidate.table.to_string(), chosen, Role::Plain, view);
    text::preview(frame, inner, explain(candidate, usize::from(inner.width), view), view);
}

/// The editor's fields, the estimate and the SQL.
pub fn explain(candidate: &Candidate, columns: usize, view: &View) -> Vec<Line<'static>> {
    let room = columns.saturating_sub(4);
    let paragraph = |text: &str, role| wrap(text, room).into_iter().map(|l| Line::styled(format!("  {l}"), view.style(role))).collect::<Vec<_>>();
    let mut without = Vec::new();
    if candidate.partitions > 0 && (view.is_selected(candidate) || view.is_one_table(candidate)) {
        let text = format!(
            "Its {} come as rows of one table. What belongs to a single partition (its own indexes, views of it) is left out, and named in the report.",
            partitions(candidate)
        );
        without = paragraph(&text, Role::Plain);
    }
    if view.is_one_table(candidate) {
        return without;
    }
    if let (Some(why), false) = (&candidate.obstacle, candidate.made) {
        let mut lines = paragraph("Cannot be converted:", Role::Attention);
        lines.extend(paragraph(why, Role::Plain));
        return lines;
    }
    let Some(hypertable) = view.hypertable(candidate) else { return paragraph("There is no column of time or of whole numbers.", Role::Plain) };
    let column = candidate.columns.iter().find(|c| c.name == hypertable.time_column);
    let mut lines = fields(candidate, &hypertable, column, columns, view);
    let objections: Vec<_> = candidate.keys.iter().filter(|_| !candidate.made).filter_map(|k| Some((k, k.objection(&hypertable)?))).collect();
    for (key, obstacle) in &objections {
        let text = format!("Cannot be converted by this column: it is not in key {}, and cannot be added: {obstacle}.", plain_ident(&key.name));
        lines.push(Line::default());
        lines.extend(paragraph(&text, Role::Attention));
    }
    if !objections.is_empty() {
        return lines;
    }
    if candidate.chosen.as_ref() == Some(&hypertable) {
        let what_to_do = "Change this on the source and check again (R), or take the table out of the selection.";
        let refused = candidate.refused.iter().map(|why| (format!("The target refused it when it was tried: {why}. {what_to_do}"), Role::Attention));
        let remarks = candidate.remarks.iter().map(|remark| (format!("{remark}."), Role::Plain));
        for (text, role) in refused.chain(remarks) {
            lines.push(Line::default());
            lines.extend(paragraph(&text, role));
        }
    }
    lines.push(Line::default());
    lines.extend(paragraph("Statements that will run on the TARGET only:", Role::Dim));
    let mut statement = |head: &str, sql: &str| {
        for (i, line) in wrap(sql, room.saturating_sub(9)).into_iter().enumerate() {
            let head = if i == 0 { head } else { "" };
            lines.push(Line::from(vec![TextSpan::styled(format!("    {head:<7}"), view.style(Role::Dim)), line.into()]));
        }
    };
    statement("now", &format!("{};", hypertable.sql(&candidate.functions_in)));
    let later = clip::later_sql(candidate, &hypertable);
    for sql in &later {
        statement("later", sql);
    }
    let lacking = candidate.keys.iter().filter(|k| k.shape == KeyShape::Columns && !k.columns.contains(&hypertable.time_column));
    let keys: Vec<_> = lacking.map(columns_of).collect();
    if !keys.is_empty() && hypertable.key == KeyChoice::Extend {
        lines.push(Line::default());
        lines.extend(paragraph(
            &format!("({}) alone will no longer be unique by constraint. The source is not changed.", keys.join("), (")),
            Role::Plain,
        ));
    }
    if !without.is_empty() {
        lines.push(Line::default());
        lines.extend(without);
    }
    lines
}

fn fields(candidate: &Candidate, hypertable: &Hypertable, column: Option<&TimeColumn>, columns: usize, view: &View) -> Vec<Line<'static>> {
    let kind = column.map(|c| format!("  {}{}", short_type(&c.data_type), if c.not_null { " NOT NULL" } else { "" })).unwrap_or_default();
    let chunks = column.and_then(|c| chunks(c, &hypertable.chunk_interval));
    let estimate = chunks.map_or_else(
        || "number of chunks unknown".to_owned(),
        |n| format!("about {} chunks, {} each (estimated)", format::count(n), format::bytes(candidate.bytes / n.max(1))),
    );
    let lacking: Vec<_> = candidate.keys.iter().filter(|k| !k.columns.contains(&hypertable.time_column)).collect();
    let (key, note) = match lacking.first() {
        None if candidate.keys.is_empty() => ("no key".to_owned(), String::new()),
        None => ("kept: contains the time column".to_owned(), String::new()),
        Some(first) => {
            let more = if lacking.len() > 1 { format!(" and {} more", lacking.len() - 1) } else { String::new() };
            let note = "a unique key must contain the time column".to_owned();
            let sentence = match (first.shape, hypertable.key) {
                (KeyShape::Columns, choice) => key_sentence(choice, &first.columns, &hypertable.time_column),
                (_, KeyChoice::Extend) => format!("extend {} by {}", plain_ident(&first.name), plain_ident(&hypertable.time_column)),
                (KeyShape::Expressions, KeyChoice::PlainIndex) => format!("plain index {}, no longer unique", plain_ident(&first.name)),
                (KeyShape::Exclusion, KeyChoice::PlainIndex) => format!("plain index {}, which excludes no rows", plain_ident(&first.name)),
                (_, KeyChoice::Refuse) => key_sentence(KeyChoice::Refuse, &[], ""),
            };
            (format!("{sentence}{more}"), note)
        }
    };
    let rows = [
        ("time column", format!("{}{kind}", plain_ident(&hypertable.time_column)), "tab next field, h/l change".to_owned()),
        ("chunk interval", hypertable.chunk_interval.clone(), estimate),
        ("keys", key, note),
    ];
    let rows = rows.into_iter().enumerate().map(|(i, (name, value, note))| {
        let here = view.field == i;
        let style = if here { view.style(Role::Focus) } else { Style::new() };
        let cursor = if here { view.symbols.cursor } else { " " };
        let value = format!("{} {value} {}", view.symbols.open, view.symbols.close);
        let room = columns.saturating_sub(22 + text::width(&value));
        let note = if text::width(&note) <= room { note } else { String::new() };
        Line::from(vec![
            TextSpan::styled(format!(" {cursor}{name:<16}"), style),
            TextSpan::styled(value, style),
            TextSpan::styled(format!("   {note}"), view.style(Role::Dim)),
        ])
    });
    rows.collect()
}

/// Estimated number of chunks: the span of the column's values by the chunk interval.
fn chunks(column: &TimeColumn, interval: &str) -> Option<u64> {
    let interval = if let Ok(number) = interval.trim().parse::<u64>() {
        number
    } else {
        let span: Span = interval.trim().parse().ok()?;
        // Months and years are counted from some day.
        span.total((Unit::Second, jiff::civil::date(2024, 1, 1))).ok()? as u64
    };
    (column.span > 0 && interval > 0).then(|| column.span.div_ceil(interval))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_counted_for_intervals_and_numbers() {
        let column = TimeColumn { name: "t".into(), data_type: "timestamptz".into(), not_null: true, intervals: vec![], span: 100 * 86_400 };
        for (interval, n) in [("1 day", Some(100)), ("7 days", Some(15)), ("12 hours", Some(200)), ("1 month", Some(4)), ("nonsense", None)] {
            assert_eq!(chunks(&column, interval), n, "{interval}");
        }
        let column = TimeColumn { span: 1_000_000, ..column };
        assert_eq!(chunks(&column, "100000"), Some(10));
    }
}
