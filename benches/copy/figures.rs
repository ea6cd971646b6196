//! What the runs of one part have cost, by program, and their ratios.

use std::{collections::BTreeMap, fmt::Write as _};

use serde::Serialize;

use crate::{
    measure::Spent,
    report::{Report, Row, Spread},
};

/// One run of one program.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Measured {
    pub wall_s: f64,
    /// CPU seconds of the program, or programs, that copy.
    pub tool_cpu_s: f64,
    pub source_cpu_s: f64,
    pub target_cpu_s: f64,
    /// CPU seconds of all other processes on the machine in this time: noise.
    pub other_cpu_s: f64,
    /// Size of the data on the disk of the source, bytes.
    pub bytes: u64,
    /// Of hyperlift only.
    pub peak_rss_bytes: Option<u64>,
    /// Of hyperlift only: from its start until all tables were copied and indexed, without foreign keys; seconds.
    pub indexed_s: Option<f64>,
}

impl Measured {
    pub fn new(spent: Spent, tool_cpu_s: f64, bytes: u64) -> Self {
        Self {
            wall_s: spent.wall,
            tool_cpu_s,
            source_cpu_s: spent.source_cpu,
            target_cpu_s: spent.target_cpu,
            other_cpu_s: spent.other_cpu,
            bytes,
            ..Self::default()
        }
    }
}

/// All rounds of each program of a part.
pub struct Rounds {
    part: &'static str,
    all: BTreeMap<&'static str, Vec<Measured>>,
}

impl Rounds {
    pub fn new(part: &'static str) -> Self {
        Self { part, all: BTreeMap::new() }
    }

    pub fn add(&mut self, report: &mut Report, program: &'static str, measured: Measured) -> hyperlift::error::Result<()> {
        #[derive(Serialize)]
        struct Line<'a> {
            program: &'a str,
            #[serde(flatten)]
            measured: Measured,
        }
        report.progress(format_args!("{}: {program}: {:.2} s", self.part, measured.wall_s));
        self.all.entry(program).or_default().push(measured);
        report.line(self.part, &Line { program, measured })
    }

    /// The ratio of two programs in each round.
    pub fn ratio(&self, above: &str, below: &str, value: fn(&Measured) -> f64) -> Vec<f64> {
        let rounds = |program| self.all.get(program).map(Vec::as_slice).unwrap_or_default();
        rounds(above).iter().zip(rounds(below)).map(|(a, b)| value(a) / value(b)).collect()
    }

    pub fn values(&self, program: &str, value: fn(&Measured) -> Option<f64>) -> Vec<f64> {
        self.all.get(program).into_iter().flatten().filter_map(value).collect()
    }

    /// Adds the table of this part to the report, and rows to its last table.
    pub fn report(&self, report: &mut Report, rows: impl IntoIterator<Item = Option<Row>>) {
        let mut text = format!("| {} | wall s (min–max) | MB/s | CPU s: tool + source + target | others' CPU s | peak RSS MB |\n", self.part);
        text.push_str("|---|---|---|---|---|---|\n");
        for (program, rounds) in &self.all {
            let spread = |value: fn(&Measured) -> f64| Spread::new(rounds.iter().map(value).collect());
            let median = |value| spread(value).map_or(0.0, |s| s.median);
            let Some(wall) = spread(|m| m.wall_s) else { continue };
            let rss = median(|m| m.peak_rss_bytes.unwrap_or(0) as f64 / f64::from(1 << 20));
            let _ = writeln!(
                text,
                "| {program} | {:.2} ({:.2}–{:.2}) | {:.0} | {:.2} + {:.2} + {:.2} | {:.2} | {} |",
                wall.median,
                wall.min,
                wall.max,
                median(|m| m.bytes as f64 / f64::from(1 << 20) / m.wall_s),
                median(|m| m.tool_cpu_s),
                median(|m| m.source_cpu_s),
                median(|m| m.target_cpu_s),
                median(|m| m.other_cpu_s),
                if rss > 0.0 { format!("{rss:.0}") } else { "–".into() },
            );
        }
        report.details(&text);
        report.rows(rows.into_iter().flatten());
    }
}
