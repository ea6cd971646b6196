//! A line over time, in braille or in ASCII, and a spark of one row.

use jiff::Timestamp;
use ratatui::{Frame, layout::Rect};
use std::{collections::VecDeque, time::Duration};

use crate::{
    state::between,
    ui::{theme::Role, view::View},
};

type Samples = VecDeque<(Timestamp, u64)>;

/// The line is never stretched over less than this, and never shows more than this.
const SHORTEST: Duration = Duration::from_secs(60);
const LONGEST: Duration = Duration::from_secs(15 * 60);

/// Width of the labels of the y axis.
const LABELS: u16 = 5;

pub struct Chart<'a> {
    pub samples: &'a Samples,
    pub now: Timestamp,
    /// A dotted line at this value, with its label.
    pub line: Option<(u64, &'a str)>,
}

/// One value for each of `columns` equal parts of the time shown; `None` before the first sample.
fn columns(samples: &Samples, now: Timestamp, span: Duration, columns: usize) -> Vec<Option<u64>> {
    let mut out = vec![None; columns];
    let mut known = None;
    let mut samples = samples.iter().peekable();
    for (i, slot) in out.iter_mut().enumerate() {
        let age = span.mul_f64((columns - 1 - i) as f64 / columns as f64);
        let mut here = None;
        while let Some((_, value)) = samples.next_if(|(at, _)| between(*at, now) >= age) {
            known = Some(*value);
            // A short peak is worth more than the value after it; outside of the time shown only the last one counts.
            here = if i == 0 { known } else { here.max(known) };
        }
        *slot = here.or(known);
    }
    out
}

fn span(samples: &Samples, now: Timestamp) -> Duration {
    samples.front().map_or(SHORTEST, |(at, _)| between(*at, now)).clamp(SHORTEST, LONGEST)
}

/// The next of 1, 2, 5 times a power of two of 1024 that holds the value.
fn ceiling(value: u64) -> u64 {
    let mut unit: u64 = 1 << 20;
    while unit.saturating_mul(1000) < value {
        unit = unit.saturating_mul(1024);
    }
    [1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 40, 50, 60, 80, 100, 120, 150, 200, 300, 400, 500, 600, 800, 1000]
        .iter()
        .map(|n| n * unit)
        .find(|n| *n >= value)
        .unwrap_or(value)
}

/// `100M`, `1.5G`.
fn label(bytes: u64) -> String {
    let mb = bytes as f64 / f64::from(1 << 20);
    match mb {
        m if m >= 1024.0 * 1024.0 => format!("{:.1}T", m / 1024.0 / 1024.0),
        m if m >= 1024.0 => format!("{:.1}G", m / 1024.0),
        m if m == 0.0 || m >= 10.0 || m.fract() == 0.0 => format!("{m:.0}M"),
        m => format!("{m:.1}M"),
    }
}

impl Chart<'_> {
    pub fn render(&self, frame: &mut Frame, area: Rect, view: &View) {
        if area.width < 20 || area.height < 4 {
            return;
        }
        let plot = Rect { x: area.x + LABELS, width: area.width - LABELS, height: area.height - 1, ..area };
        let (w, h) = (usize::from(plot.width), usize::from(plot.height));
        let span = span(self.samples, self.now);
        let values = columns(self.samples, self.now, span, w * 2);
        let greatest = values.iter().flatten().max().copied().unwrap_or(0);
        // The line is worth showing when the values are in its reach.
        let with_line = self.line.filter(|(at, _)| greatest.saturating_mul(8) >= *at);
        let top = ceiling(greatest.max(with_line.map_or(0, |(at, _)| at + at / 4)).max(1));
        axes(frame, area, top, span, view);
        let buffer = frame.buffer_mut();
        let mut mark_row = None;
        if let Some((at, text)) = with_line {
            let y = plot.y + ((1.0 - at as f64 / top as f64) * h as f64).min(h as f64 - 1.0) as u16;
            mark_row = Some((y, text));
            buffer.set_string(plot.x, y, view.symbols.dots.repeat(w), view.style(Role::Dim));
        }
        let style = view.style(Role::Chart1);
        for (x, y, symbol) in if view.symbols.braille { braille(&values, top, w, h) } else { asterisks(&values, top, w, h) } {
            buffer.set_string(plot.x + x as u16, plot.y + y as u16, symbol.to_string(), style);
        }
        if let Some((y, text)) = mark_row {
            let x = plot.right().saturating_sub(text.len() as u16 + 3);
            buffer.set_string(x, y, format!(" {text} "), view.style(Role::Chart2));
        }
        if self.samples.is_empty() {
            buffer.set_string(plot.x + 2, plot.y + plot.height / 2, "nothing measured yet", view.style(Role::Dim));
        }
    }
}

fn axes(frame: &mut Frame, area: Rect, top: u64, span: Duration, view: &View) {
    let dim = view.style(Role::Dim);
    let s = view.symbols;
    let buffer = frame.buffer_mut();
    let bottom = area.bottom() - 1;
    for y in area.y..bottom {
        let text = match y {
            y if y == area.y => label(top),
            y if y == area.y + (bottom - 1 - area.y) / 2 && bottom - area.y > 4 => label(top / 2),
            y if y == bottom - 1 => label(0),
            _ => String::new(),
        };
        buffer.set_string(area.x, y, format!("{text:>4}{}", s.axis_y), dim);
    }
    let width = usize::from(area.width - LABELS);
    let mut axis: Vec<&str> = vec![s.axis_x; width];
    let texts = [(0, ago(span)), (width / 2, ago(span / 2)), (width.saturating_sub(3), "now".into())];
    let chars: Vec<(usize, String)> =
        texts.iter().flat_map(|(at, text)| text.chars().enumerate().map(|(i, c)| (at + i, c.to_string())).collect::<Vec<_>>()).collect();
    for (at, c) in &chars {
        if let Some(cell) = axis.get_mut(*at) {
            *cell = c;
        }
    }
    buffer.set_string(area.x, bottom, format!("    {}{}", s.corner, axis.concat()), dim);
}

fn ago(d: Duration) -> String {
    let s = d.as_secs();
    if s >= 120 { format!("{}m", s / 60) } else { format!("{s}s") }
}

/// Cells of a line of dots, two by four in a cell; neighbours are joined.
fn braille(values: &[Option<u64>], top: u64, w: usize, h: usize) -> Vec<(usize, usize, char)> {
    const DOTS: [[u32; 4]; 2] = [[0x01, 0x02, 0x04, 0x40], [0x08, 0x10, 0x20, 0x80]];
    let mut cells = vec![0_u32; w * h];
    let height = h * 4;
    let row = |v: u64| height - 1 - ((v as f64 / top as f64 * (height - 1) as f64).round() as usize).min(height - 1);
    let mut last: Option<usize> = None;
    for (x, value) in values.iter().enumerate() {
        let Some(y) = value.map(row) else { continue };
        let (from, to) = match last {
            Some(l) if l + 1 < y => (l + 1, y),
            Some(l) if y + 1 < l => (y, l - 1),
            _ => (y, y),
        };
        for y in from..=to {
            cells[y / 4 * w + x / 2] |= DOTS[x % 2][y % 4];
        }
        last = Some(y);
    }
    cells.iter().enumerate().filter(|(_, bits)| **bits != 0).filter_map(|(i, bits)| Some((i % w, i / w, char::from_u32(0x2800 + bits)?))).collect()
}

fn asterisks(values: &[Option<u64>], top: u64, w: usize, h: usize) -> Vec<(usize, usize, char)> {
    (0..w)
        .filter_map(|x| {
            let value = values[x * 2].max(values[x * 2 + 1])?;
            let y = h - 1 - ((value as f64 / top as f64 * (h - 1) as f64).round() as usize).min(h - 1);
            Some((x, y, '*'))
        })
        .collect()
}

/// The line in one row of `width` cells.
pub fn spark(samples: &Samples, now: Timestamp, width: usize, view: &View) -> String {
    let values = columns(samples, now, span(samples, now), width);
    let top = values.iter().flatten().max().copied().unwrap_or(0).max(1);
    values.iter().map(|v| v.map_or(" ", |v| view.symbols.spark[(v as f64 / top as f64 * 7.0).round() as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_shows_the_greatest_value_of_its_time() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let samples: Samples = (0..=60).map(|s| (at(s), if s == 31 { 9 } else { 1 })).collect();
        let columns = columns(&samples, at(60), Duration::from_secs(60), 6);
        assert_eq!(columns.iter().filter(|c| **c == Some(9)).count(), 1);
        assert_eq!(columns.len(), 6);
        assert_eq!(columns[5], Some(1));
    }

    #[test]
    fn scales_hold_the_value() {
        for v in [1, 1 << 20, 91 << 20, 999 << 20, 5 << 30, u64::MAX / 2] {
            assert!(ceiling(v) >= v);
        }
        assert_eq!((label(0), label(100 << 20), label(3 << 29)), ("0M".into(), "100M".into(), "1.5G".into()));
    }
}
