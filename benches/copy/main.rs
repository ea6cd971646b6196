//! Compares the copy of hyperlift with other programs: a whole database, its largest table, a hypertable and thousands of small tables.
//! The results are ratios. Everything runs on two temporary servers on this machine.
//!
//! ```text
//! make bench-copy                                         everything, three rounds
//! make bench-copy ARGS="--scale 0.05 --rounds 1"          a first impression, in a few minutes
//! cargo bench --bench copy -- clone small --rounds 5      some parts
//! ```
//!
//! Wall times depend on what else runs: quote ratios and CPU, and check the column of others' CPU. `PGCOPYDB` names a pgcopydb that is not
//! the one in PATH.

#[path = "../common/mod.rs"]
mod common;
mod figures;
mod peers;
mod program;
mod runs;

use clap::{Parser, ValueEnum};
use common::{cluster, data, measure, report};
use hyperlift::error::Result;
use std::{path::PathBuf, process::ExitCode};

use cluster::Clusters;
use data::Scale;
use report::Report;

#[derive(Parser)]
#[command(name = "copy", about = "Compares the copy of hyperlift with other programs")]
struct Arguments {
    /// What to run; everything by default.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// How often each program runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Share of the full data; 0.5 is two gigabytes.
    #[arg(long, default_value_t = 0.25)]
    scale: f64,
    /// Small tables of the part `small`.
    #[arg(long, default_value_t = 3_000)]
    tables: u32,
    /// The hyperlift to measure; the one just built by default.
    #[arg(long, default_value = env!("CARGO_BIN_EXE_hyperlift"))]
    hyperlift: PathBuf,
    /// Raw measurements are appended here, as JSON lines.
    #[arg(long, default_value = "target/bench/copy.jsonl")]
    results: PathBuf,
    /// Passed by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Schema, data, indexes and keys, compared with pgcopydb, and with pg_dump and pg_restore.
    Clone,
    /// The largest table alone, without indexes, compared with two psql and a pipe.
    Largest,
    /// Into a hypertable of 90 chunks, compared with the same into a plain table.
    Hypertable,
    /// Thousands of very small tables, compared with pg_dump and pg_restore.
    Small,
    /// Peak memory with eight jobs.
    Memory,
}

fn main() -> ExitCode {
    common::run(run(Arguments::parse()))
}

async fn run(arguments: Arguments) -> Result<()> {
    if !arguments.bench {
        // `cargo test --all-targets` runs benchmarks, too, to check that they start.
        println!("to run the benchmarks: cargo bench --bench copy");
        return Ok(());
    }
    // At scale 1 the IoT data has half of the full size.
    let scale = Scale(arguments.scale * 2.0);
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let mut report = Report::open(&arguments.results, Scale(arguments.scale))?;
    report.progress("servers");
    let clusters = Clusters::start().await?;
    println!("{}, scale {}, {} rounds, {} CPUs", clusters.version().await?, arguments.scale, arguments.rounds, common::cpus());
    let mut bench = runs::Bench { clusters, hyperlift: arguments.hyperlift, rounds: arguments.rounds, scale, report: &mut report };
    let result = async {
        if wants(Part::Clone) || wants(Part::Memory) {
            runs::whole(&mut bench, wants(Part::Clone), wants(Part::Memory)).await?;
        }
        if wants(Part::Largest) {
            runs::largest(&mut bench).await?;
        }
        if wants(Part::Hypertable) {
            runs::hypertable(&mut bench).await?;
        }
        if wants(Part::Small) {
            runs::small(&mut bench, arguments.tables).await?;
        }
        Ok(())
    }
    .await;
    // What was measured before a failure is printed, too.
    report.print();
    result
}
