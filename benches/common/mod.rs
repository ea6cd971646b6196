//! What the benchmarks share: two servers, the data, the measurements and the report.
#![allow(dead_code, reason = "each benchmark uses its own part")]

pub mod cluster;
pub mod data;
pub mod measure;
pub mod report;

use hyperlift::error::Result;
use std::{process::ExitCode, time::Duration};

/// Runs a benchmark; its error goes to stderr.
pub fn run(work: impl Future<Output = Result<()>>) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime can be made");
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(Duration::from_millis(500));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("{e}");
            ExitCode::FAILURE
        }
    }
}

pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(0, usize::from)
}
