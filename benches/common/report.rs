//! What is shown and kept: progress on stderr, raw JSON lines in a file, two Markdown tables on stdout at the end.

use hyperlift::error::{Error, Result};
use jiff::Timestamp;
use serde::Serialize;
use std::{
    fmt,
    fs::{File, OpenOptions},
    io::Write as _,
    path::Path,
    time::Instant,
};

use super::data::Scale;

/// A figure of the closing table: median, and the range as noise.
pub struct Row {
    what: String,
    unit: &'static str,
    decimals: usize,
    spread: Spread,
    /// What was asked for, in words.
    asked: &'static str,
}

impl Row {
    /// `None` without values: that was not measured.
    pub fn new(what: impl Into<String>, unit: &'static str, decimals: usize, values: Vec<f64>) -> Option<Self> {
        Spread::of(values).map(|spread| Self { what: what.into(), unit, decimals, spread, asked: "" })
    }

    /// With what was asked for.
    #[must_use]
    pub fn asked(self, asked: &'static str) -> Self {
        Self { asked, ..self }
    }
}

/// Of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn of(mut values: Vec<f64>) -> Option<Self> {
        // A ratio to nothing: less CPU than a tick.
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        Some(Self { median: percentile(&values, 0.5)?, min: *values.first()?, max: *values.last()? })
    }
}

/// Of sorted values; the median of an even number is the mean of both in the middle.
pub fn percentile(sorted: &[f64], share: f64) -> Option<f64> {
    let last = sorted.len().checked_sub(1)?;
    let at = share * last as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    Some(below + (above - below) * at.fract())
}

pub struct Report {
    lines: File,
    scale: Scale,
    started: Instant,
    /// Markdown, in the order in which it came.
    details: String,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Stamped<'a, T> {
    at: Timestamp,
    part: &'static str,
    scale: f64,
    #[serde(flatten)]
    line: &'a T,
}

impl Report {
    /// Appends to the file.
    pub fn open(path: &Path, scale: Scale) -> Result<Self> {
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let lines = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Self { lines, scale, started: Instant::now(), details: String::new(), rows: Vec::new() })
    }

    pub fn progress(&self, what: impl fmt::Display) {
        eprintln!("{:7.1} s  {what}", self.started.elapsed().as_secs_f64());
    }

    /// Keeps a measurement as it is.
    pub fn line(&mut self, part: &'static str, line: &impl Serialize) -> Result<()> {
        let stamped = Stamped { at: Timestamp::now(), part, scale: self.scale.0, line };
        let mut text = serde_json::to_vec(&stamped).map_err(|e| Error::failed(e.to_string()))?;
        text.push(b'\n');
        Ok(self.lines.write_all(&text)?)
    }

    pub fn rows(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// Adds a table of Markdown.
    pub fn details(&mut self, table: &str) {
        self.details.push_str(table);
        self.details.push('\n');
    }

    /// Prints all tables.
    pub fn print(&self) {
        print!("\n{}", self.details);
        let asked = self.rows.iter().any(|row| !row.asked.is_empty());
        let more = |cell: &str| if asked { format!(" {cell} |") } else { String::new() };
        println!("| figure | median | min–max |{}", more("asked"));
        println!("|---|---|---|{}", if asked { "---|" } else { "" });
        for Row { what, unit, decimals, spread: Spread { median, min, max }, asked } in &self.rows {
            let range = if min < max { format!("{min:.decimals$}–{max:.decimals$}") } else { "–".into() };
            let value = format!("{median:.decimals$} {unit}");
            println!("| {what} | {} | {range} |{}", value.trim_end(), more(asked));
        }
    }
}
