//! Text in columns: cutting, padding, bars, panes and lists.

use ratatui::{
    Frame,
    layout::Rect,
    style::{Modifier, Style},
    text::{Line, Span},
    widgets::{Block, Borders, Paragraph},
};

use crate::ui::{theme::Role, view::View};

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// The text in at most `columns`, on one line; an ellipsis in place of what is cut off.
pub fn cut(text: &str, columns: usize, ellipsis: &str) -> String {
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if width(&text) <= columns {
        return text;
    }
    let room = columns.saturating_sub(width(ellipsis));
    let mut out = String::new();
    for c in text.chars() {
        out.push(c);
        if width(&out) > room {
            out.pop();
            break;
        }
    }
    if columns > 0 {
        out.push_str(ellipsis);
    }
    out
}

/// With a capital letter first.
pub fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}

/// Words in lines of at most `columns`; a word longer than a line is broken.
pub fn wrap(text: &str, columns: usize) -> Vec<String> {
    let columns = columns.max(8);
    let mut lines = Vec::new();
    for paragraph in text.lines() {
        // What fits stays as it is, with its blanks: SQL, columns.
        if width(paragraph) <= columns {
            lines.push(paragraph.to_owned());
            continue;
        }
        let indent: String = paragraph.chars().take_while(|c| *c == ' ').collect();
        let mut line = indent.clone();
        for word in paragraph.split_whitespace() {
            let mut word = word.to_owned();
            if line.len() > indent.len() && width(&line) + 1 + width(&word) > columns {
                lines.push(std::mem::replace(&mut line, indent.clone()));
            }
            if line.len() > indent.len() {
                line.push(' ');
            }
            while width(&line) + width(&word) > columns {
                let fits: String = {
                    let mut fits = String::new();
                    for c in word.chars() {
                        if width(&line) + width(&fits) + width(c.encode_utf8(&mut [0; 4])) > columns {
                            break;
                        }
                        fits.push(c);
                    }
                    fits
                };
                if fits.is_empty() {
                    break;
                }
                word = word[fits.len()..].to_owned();
                line.push_str(&fits);
                lines.push(std::mem::replace(&mut line, indent.clone()));
            }
            line.push_str(&word);
        }
        lines.push(line);
    }
    lines
}

/// `████░░░░`; never full before the whole is done.
pub fn bar(fraction: f64, columns: usize, view: &View) -> String {
    let filled = ((fraction.clamp(0.0, 1.0) * columns as f64) as usize).min(columns);
    view.symbols.full.repeat(filled) + &view.symbols.empty.repeat(columns - filled)
}

/// One line of columns.
#[derive(Default)]
pub struct Row {
    spans: Vec<Span<'static>>,
    ellipsis: &'static str,
}

impl Row {
    pub fn new(view: &View) -> Self {
        Self { spans: Vec::new(), ellipsis: view.symbols.ellipsis }
    }

    /// A column, padded at its right. One blank follows.
    #[must_use]
    pub fn left(mut self, text: impl AsRef<str>, columns: usize, style: Style) -> Self {
        let text = cut(text.as_ref(), columns, self.ellipsis);
        let pad = columns.saturating_sub(width(&text)) + 1;
        self.spans.push(Span::styled(text, style));
        self.spans.push(Span::raw(" ".repeat(pad)));
        self
    }

    /// A column of numbers, padded at its left. One blank follows.
    #[must_use]
    pub fn right(mut self, text: impl AsRef<str>, columns: usize, style: Style) -> Self {
        let text = cut(text.as_ref(), columns, self.ellipsis);
        self.spans.push(Span::raw(" ".repeat(columns.saturating_sub(width(&text)))));
        self.spans.push(Span::styled(text + " ", style));
        self
    }

    #[must_use]
    pub fn text(mut self, text: impl Into<String>, style: Style) -> Self {
        self.spans.push(Span::styled(text.into(), style));
        self
    }

    pub fn line(self) -> Line<'static> {
        Line::from(self.spans)
    }
}

/// As much of a title as is worth showing beside the text at the right.
const SHORTEST_TITLE: usize = 12;

/// A bordered pane with a title at its left and another one at its right; returns the inside.
pub fn pane(frame: &mut Frame, area: Rect, title: &str, right: &str, role: Role, view: &View) -> Rect {
    let style = view.style(role);
    let columns = usize::from(area.width.saturating_sub(4));
    // The text at the right (counts, the filter) says more than the end of a title.
    let beside = if right.is_empty() { 0 } else { width(right) + 4 };
    let room = if beside + SHORTEST_TITLE <= columns { columns - beside } else { columns };
    // `Preflight — both sides, …`: the first word is the title, if need be.
    let short = title.split_once(&format!(" {} ", view.symbols.dash)).map_or(title, |(short, _)| short);
    let title = cut(if width(title) <= room { title } else { short }, room, view.symbols.ellipsis);
    let mut block = Block::new().borders(Borders::ALL).border_set(view.symbols.border).border_style(style);
    if !right.is_empty() && width(&title) + beside <= columns {
        block = block.title_top(Line::styled(format!(" {right} "), style).right_aligned());
    }
    if !title.is_empty() {
        block = block.title_top(Line::styled(format!("{} {title} ", view.symbols.border.horizontal_top), style.add_modifier(Modifier::BOLD)));
    }
    let inner = block.inner(area);
    frame.render_widget(block, area);
    inner
}

/// Lines of text from the top of an area.
pub fn lines(frame: &mut Frame, area: Rect, lines: Vec<Line<'static>>) {
    frame.render_widget(Paragraph::new(lines), area);
}

/// The beginning of the lines; where they do not fit, the last one says how to see all.
pub fn preview(frame: &mut Frame, area: Rect, all: Vec<Line<'static>>, view: &View) {
    shortened(frame, area, all, 0, " (enter)", view);
}

/// As many lines as fit; the last one counts the others.
pub fn clipped(frame: &mut Frame, area: Rect, all: Vec<Line<'static>>, view: &View) {
    shortened(frame, area, all, 0, "", view);
}

/// Lines with a scroll offset; the last line says how much follows.
pub fn scrolled(frame: &mut Frame, area: Rect, all: Vec<Line<'static>>, offset: usize, view: &View) {
    shortened(frame, area, all, offset, " (j, PgDn)", view);
}

fn shortened(frame: &mut Frame, area: Rect, all: Vec<Line<'static>>, offset: usize, key: &str, view: &View) {
    let height = usize::from(area.height);
    if height == 0 {
        return;
    }
    let offset = offset.min(all.len().saturating_sub(height));
    let below = all.len().saturating_sub(offset + height);
    let mut shown: Vec<_> = all.into_iter().skip(offset).take(height).collect();
    if below > 0 {
        shown.pop();
        shown.push(Line::styled(format!(" {} {} more lines{key}", view.symbols.down, below + 1), view.style(Role::Dim)));
    }
    lines(frame, area, shown);
}

/// The part of a list of `len` rows that is shown in `height` rows, so that `selected` is among them.
pub fn window(len: usize, selected: usize, height: usize) -> std::ops::Range<usize> {
    let start = selected.saturating_sub(height / 2).min(len.saturating_sub(height));
    start..len.min(start + height)
}

/// A list under a header: the selected row carries the cursor at its left and is bold; where rows are hidden, the last line of the
/// area counts them. Returns the number of lines used.
pub fn list<T>(
    frame: &mut Frame,
    area: Rect,
    header: Line<'static>,
    rows: &[T],
    selected: usize,
    view: &View,
    line: impl Fn(&T, bool) -> Line<'static>,
) -> u16 {
    let height = usize::from(area.height).saturating_sub(1);
    if height == 0 || area.width < 2 {
        return 0;
    }
    let hidden = rows.len() > height;
    let shown = window(rows.len(), selected, if hidden { height - 1 } else { height });
    let mut out = Vec::with_capacity(height + 1);
    let mut head = header.style(view.style(Role::Dim));
    head.spans.insert(0, Span::raw(" "));
    out.push(head);
    for i in shown.clone() {
        let chosen = i == selected;
        let mut row = line(&rows[i], chosen);
        row.spans.insert(0, Span::styled(if chosen { view.symbols.cursor } else { " " }, view.style(Role::Focus)));
        if chosen {
            row = row.patch_style(Style::new().add_modifier(Modifier::BOLD));
        }
        out.push(row);
    }
    if hidden {
        let text = format!(" rows {} to {} of {}", shown.start + 1, shown.end, rows.len());
        out.push(Line::styled(text, view.style(Role::Dim)));
    }
    let used = out.len() as u16;
    lines(frame, area, out);
    used
}

/// Splits an area: this many lines at the top, the rest below.
pub fn split_rows(area: Rect, top: u16) -> (Rect, Rect) {
    let top = top.min(area.height);
    (Rect { height: top, ..area }, Rect { y: area.y + top, height: area.height - top, ..area })
}

/// Splits an area: this many columns at the left, the rest beside them.
pub fn split_columns(area: Rect, left: u16) -> (Rect, Rect) {
    let left = left.min(area.width);
    (Rect { width: left, ..area }, Rect { x: area.x + left, width: area.width - left, ..area })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_columns_not_by_bytes() {
        assert_eq!(cut("größe", 5, "…"), "größe");
        assert_eq!(cut("größen", 5, "…"), "größ…");
        assert_eq!(cut("日本語", 4, "…"), "日…");
        assert_eq!(cut("a\nb", 5, "…"), "a b");
        assert_eq!(cut("abc", 0, "…"), "");
    }

    #[test]
    fn long_words_are_broken_and_indents_kept() {
        assert_eq!(wrap("  one two three", 9), ["  one two", "  three"]);
        assert_eq!(wrap("a   b", 9), ["a   b"]);
        assert_eq!(wrap("abcdefghijkl", 8), ["abcdefgh", "ijkl"]);
    }

    #[test]
    fn the_window_always_holds_the_selected_row() {
        for (len, height) in [(0, 5), (3, 5), (100, 7), (8, 7)] {
            for selected in 0..len {
                assert!(window(len, selected, height).contains(&selected));
            }
        }
    }
}
