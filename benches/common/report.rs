//! The report: progress on stderr, raw JSON lines in a file, and Markdown tables on stdout at the end.

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

/// A figure of the last table: the median, and the range, which shows the noise.
pub struct Row {
    what: String,
    unit: &'static str,
    decimals: usize,
    spread: Spread,
    /// The value that is required, in words.
    asked: &'static str,
}

impl Row {
    /// `None` without values, because nothing was measured.
    pub fn new(what: impl Into<String>, unit: &'static str, decimals: usize, values: Vec<f64>) -> Option<Self> {
        Spread::new(values).map(|spread| Self { what: what.into(), unit, decimals, spread, asked: "" })
    }

    /// With the value that is required.
    #[must_use]
    pub fn asked(self, asked: &'static str) -> Self {
        Self { asked, ..self }
    }
}

/// Median and range of several rounds.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    pub fn new(mut values: Vec<f64>) -> Option<Self> {
        // A ratio to zero is not finite: the CPU time was less than a tick.
        values.retain(|value| value.is_finite());
        values.sort_by(f64::total_cmp);
        Some(Self { median: percentile(&values, 0.5)?, min: *values.first()?, max: *values.last()? })
    }
}

/// A percentile of sorted values. The median of an even number of values is the mean of the two in the middle.
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
    /// Markdown tables, in the order in which they were added.
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
    /// The measurements are appended to the file.
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

    /// Appends a measurement to the file.
    pub fn line(&mut self, part: &'static str, line: &impl Serialize) -> Result<()> {
        let stamped = Stamped { at: Timestamp::now(), part, scale: self.scale.0, line };
        let mut text = serde_json::to_vec(&stamped).map_err(|e| Error::failed(e.to_string()))?;
        text.push(b'\n');
        Ok(self.lines.write_all(&text)?)
    }

    pub fn rows(&mut self, rows: impl IntoIterator<Item = Row>) {
        self.rows.extend(rows);
    }

    /// Adds a Markdown table.
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
