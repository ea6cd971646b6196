//! Runs hyperlift itself, as an operator runs it without a terminal, on a source that nobody writes to.

use hyperlift::error::{Error, Result};
use serde_json::Value;
use std::{path::Path, process::Stdio, time::Duration};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader},
    process::Command,
};

use crate::{
    cluster::{Clusters, PATIENCE},
    figures::Measured,
    measure::{self, Stopwatch},
};

/// How a migration is run.
pub struct Job<'a> {
    pub program: &'a Path,
    pub source: &'a str,
    pub target: &'a str,
    pub table_jobs: &'a str,
    pub index_jobs: &'a str,
    /// As TOML.
    pub plan: &'a str,
    pub bytes: u64,
}

/// What one run has cost.
pub struct Costs {
    /// From the start to the end of the program, without the time in catch-up, in which it waits for a quiet source. It includes foreign
    /// keys, their validation and the cleanup.
    pub whole: Measured,
    /// From the first row of the first table until the last table is copied.
    pub copy: Measured,
}

/// A stopwatch, and the program's own CPU seconds when it was started.
struct Watch {
    stopwatch: Stopwatch,
    cpu: f64,
}

impl Watch {
    fn start(clusters: &Clusters, pid: u32) -> Self {
        Self { stopwatch: clusters.stopwatch(), cpu: measure::process_cpu(pid) }
    }

    fn stop(self, pid: u32, bytes: u64) -> Measured {
        let cpu = measure::process_cpu(pid) - self.cpu;
        let mut spent = self.stopwatch.stop();
        spent.other_cpu -= cpu;
        Measured::new(spent, cpu, bytes)
    }
}

/// The command line of a migration, without the variables of the caller's environment that hyperlift would read.
fn command(job: &Job<'_>, folder: &Path) -> Command {
    let mut command = Command::new(job.program);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("PG") || text.starts_with("HYPERLIFT_") || text == "SOURCE" || text == "TARGET" {
            command.env_remove(&name);
        }
    }
    command.args(["migrate", "--json", "--yes", "--cutover-when-ready", "--quiet-for", "0", "--linger", "0"]);
    command.args(["--source", job.source, "--target", job.target, "--table-jobs", job.table_jobs, "--index-jobs", job.index_jobs]);
    command.arg("--dir").arg(folder.join("work")).arg("--plan").arg(folder.join("plan.toml"));
    command
}

/// Runs a migration to its end.
pub async fn migrate(clusters: &Clusters, job: &Job<'_>) -> Result<Costs> {
    let folder = clusters.scratch("hyperlift");
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("plan.toml"), job.plan)?;
    let mut command = command(job, &folder);
    let all = clusters.stopwatch();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true).spawn()?;
    let pid = child.id().unwrap_or_default();
    let mut lines = BufReader::new(child.stdout.take().expect("stdout was asked to be a pipe")).lines();
    let mut errors = child.stderr.take().expect("stderr was asked to be a pipe");
    let stderr = tokio::spawn(async move {
        let mut text = String::new();
        let _ = errors.read_to_string(&mut text).await;
        text
    });
    let (mut copying, mut copied, mut peak, mut last) = (None, None, 0, String::new());
    let (mut indexed, mut waited, mut waits) = (None, Duration::ZERO, None);
    let mut unfinished = 0u64;
    let mut sample = tokio::time::interval(Duration::from_millis(50));
    let reading = async {
        loop {
            let line = tokio::select! {
                line = lines.next_line() => line?,
                _ = sample.tick() => {
                    peak = peak.max(measure::peak_rss_of(&pid.to_string()));
                    continue;
                }
            };
            let Some(line) = line else { return Ok::<_, Error>(()) };
            let Ok(event) = serde_json::from_str::<Value>(&line) else { continue };
            let at: Option<jiff::Timestamp> = event["at"].as_str().and_then(|at| at.parse().ok());
            match (
                event["event"].as_str().unwrap_or_default(),
                event["stage"].as_str().unwrap_or_default(),
                event["state"].as_str().unwrap_or_default(),
            ) {
                ("relations_found", ..) => unfinished = event["relations"].as_array().map_or(0, |r| r.len() as u64),
                ("copy_progress", _, "copying") if copying.is_none() => copying = Some(Watch::start(clusters, pid)),
                ("copy_progress", _, "indexing") => {
                    unfinished = unfinished.saturating_sub(1);
                    if let (0, Some(watch)) = (unfinished, copying.take_if(|_| unfinished == 0)) {
                        copied = Some(watch.stop(pid, job.bytes));
                    }
                }
                ("stage_changed", "copy", "done") => indexed = Some(all.elapsed()),
                ("stage_changed", "catch_up", "running") => waits = at,
                ("stage_changed", "cutover", "running") => {
                    if let (Some(from), Some(to)) = (waits.take(), at) {
                        waited = Duration::try_from(to.duration_since(from)).unwrap_or_default();
                    }
                }
                ("failed", ..) => last = event["message"].as_str().unwrap_or_default().into(),
                _ => {}
            }
        }
    };
    tokio::time::timeout(PATIENCE, reading).await.map_err(|_| Error::failed("hyperlift does not end"))??;
    let status = child.wait().await?;
    let spent = all.stop();
    if !status.success() {
        return Err(Error::failed(format!("hyperlift: {status}: {last}")).detail(stderr.await.unwrap_or_default()));
    }
    std::fs::remove_dir_all(&folder)?;
    let peak_rss_bytes = Some(peak);
    let whole = Measured::new(spent, spent.children_cpu, job.bytes);
    let whole = Measured { wall_s: whole.wall_s - waited.as_secs_f64(), peak_rss_bytes, indexed_s: indexed, ..whole };
    let copy = copied.ok_or_else(|| Error::failed("hyperlift has copied nothing"))?;
    Ok(Costs { whole, copy: Measured { peak_rss_bytes, ..copy } })
}
