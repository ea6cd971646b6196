//! Catch-up, side by side: the same WAL through `pg_recvlogical`, a native subscription and hyperlift, in one run, as ratios; and
//! what hyperlift needs and does over time. Everything runs on two throw-away servers of this machine.
//!
//! ```text
//! make bench                                                  everything, three rounds
//! make bench ARGS="--scale 0.02 --rounds 1"                   a quick run, about a minute
//! cargo bench --bench catchup -- rates --loads tpcb,bigtx     one part, two loads
//! cargo bench --bench catchup -- memory steady kills          the other parts
//! ```
//!
//! Wall times depend on what else runs: quote ratios and CPU, and check the column of others' CPU.

#[path = "../common/mod.rs"]
mod common;
mod consumer;
mod engine;
mod job;
mod kills;
mod load;
mod memory;
mod rates;
mod steady;
mod worker;

use clap::{Parser, ValueEnum};
use hyperlift::error::Result;
use std::{path::PathBuf, process::ExitCode};

use cluster::Clusters;
use common::{cluster, data, measure, report};
use consumer::Bench;
use data::Scale;
use load::Load;
use report::Report;

#[derive(Parser)]
#[command(name = "catchup", about = "Compares the catch-up of hyperlift with its peers")]
struct Arguments {
    /// What to run; everything by default.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Loads of the part `rates`.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Load::Tpcb, Load::Iot, Load::Bigtx])]
    loads: Vec<Load>,
    /// How often each consumer of the part `rates` runs.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// Share of the full data and loads.
    #[arg(long, default_value_t = 1.0)]
    scale: f64,
    /// Seconds of the part `steady`.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Replay lanes of hyperlift.
    #[arg(long, default_value_t = 4)]
    lanes: u32,
    /// Raw measurements are appended here, as JSON lines.
    #[arg(long, default_value = "target/bench/catchup.jsonl")]
    results: PathBuf,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Reading, spooling and applying a backlog, compared with the peers.
    Rates,
    /// Peak memory with very many transactions, and with a very large one.
    Memory,
    /// Lag at 2000 transactions a second.
    Steady,
    /// The program itself, killed three times while eight sessions write.
    Kills,
}

fn main() -> ExitCode {
    let is_worker = std::env::args().nth(1).is_some_and(|argument| argument == worker::ARGUMENT);
    common::run(async { if is_worker { worker::main().await } else { run(Arguments::parse()).await } })
}

async fn run(arguments: Arguments) -> Result<()> {
    if !arguments.bench {
        // `cargo test --all-targets` runs benchmarks, too, to see that they start.
        println!("to run the benchmarks: cargo bench --bench catchup");
        return Ok(());
    }
    let scale = Scale(arguments.scale);
    let wants = |part| arguments.parts.is_empty() || arguments.parts.contains(&part);
    let mut report = Report::open(&arguments.results, scale)?;
    report.progress("servers");
    let bench = Bench { clusters: Clusters::start().await?, lanes: arguments.lanes };
    let version = bench.clusters.version().await?;
    println!("{version}, scale {}, {} rounds, {} lanes, {} CPUs", arguments.scale, arguments.rounds, arguments.lanes, common::cpus());
    let result = async {
        if wants(Part::Rates) {
            rates::run(&bench, &arguments.loads, arguments.rounds, scale, &mut report).await?;
        }
        if wants(Part::Memory) {
            memory::run(&bench, scale, &mut report).await?;
        }
        if wants(Part::Steady) {
            steady::run(&bench, arguments.seconds, scale, &mut report).await?;
        }
        if wants(Part::Kills) {
            kills::run(&bench.clusters, scale, &mut report).await?;
        }
        Ok(())
    }
    .await;
    // What was measured before a failure counts.
    report.print();
    result
}
