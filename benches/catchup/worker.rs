//! The child process in which hyperlift works, so that CPU and peak memory are its own. The parent writes a [`Job`] to its stdin and
//! reads an [`Outcome`] from its stdout; the end of stdin ends it.

use hyperlift::{
    error::{Error, Result},
    lsn::Lsn,
};
use serde::{Deserialize, Serialize};
use std::{
    io::{BufRead as _, Read as _},
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::{Child, Command},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::PATIENCE,
    engine::{self, Receiving, Replaying},
    job::{Job, Task},
    measure,
};

/// The argument that makes this program a worker.
pub const ARGUMENT: &str = "worker";
/// In [`Task::Follow`], the source's position is read this often.
const SAMPLE_EVERY: Duration = Duration::from_millis(100);

/// What a worker found.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Seconds of the task, without making the ledger.
    pub wall_s: f64,
    /// CPU seconds of the whole process.
    pub cpu_s: f64,
    pub peak_rss_bytes: u64,
    /// Of decoded stream that was received.
    pub stream_bytes: u64,
    /// Row changes applied.
    pub changes: u64,
    /// Of them, as part of a set.
    pub in_sets: u64,
    /// How long each sampled position of the source's flushed WAL took to be applied by all lanes, ms.
    pub lags_ms: Vec<f64>,
}

/// A worker that runs.
pub struct Worker(Child);

impl Worker {
    pub async fn start(job: &Job) -> Result<Self> {
        let mut child = Command::new(std::env::current_exe()?)
            .arg(ARGUMENT)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .spawn()?;
        let mut line = serde_json::to_vec(job).map_err(|e| Error::failed(e.to_string()))?;
        line.push(b'\n');
        child.stdin.as_mut().expect("stdin was asked to be a pipe").write_all(&line).await?;
        Ok(Self(child))
    }

    /// Waits for it to come to the end of its job.
    pub async fn outcome(mut self) -> Result<Outcome> {
        let mut text = String::new();
        let stdout = self.0.stdout.as_mut().expect("stdout was asked to be a pipe");
        let read = timeout(PATIENCE, stdout.read_to_string(&mut text)).await;
        read.map_err(|_| Error::failed(format!("hyperlift has not come to the end in {PATIENCE:?}")))??;
        // Waited for, its CPU is among that of this process' children, and its slot is free.
        let status = self.0.wait().await?;
        if !status.success() {
            return Err(Error::failed(format!("hyperlift's worker: {status}")));
        }
        serde_json::from_str(&text).map_err(|e| Error::failed(format!("the worker's outcome: {e}")))
    }

    /// Ends a worker that follows.
    pub async fn finish(mut self) -> Result<Outcome> {
        self.0.stdin = None;
        self.outcome().await
    }
}

/// The child's side.
pub async fn main() -> Result<()> {
    let (sender, job) = tokio::sync::oneshot::channel();
    let over = CancellationToken::new();
    let end = over.clone();
    std::thread::spawn(move || {
        let mut stdin = std::io::stdin().lock();
        let mut line = String::new();
        if stdin.read_line(&mut line).is_ok() {
            let _ = sender.send(line);
        }
        let _ = stdin.read_to_string(&mut String::new());
        end.cancel();
    });
    let job = job.await.map_err(|_| Error::failed("no job on stdin"))?;
    let job: Job = serde_json::from_str(&job).map_err(|e| Error::failed(format!("the job: {e}")))?;
    let outcome = tokio::select! {
        outcome = work(&job, &over) => outcome?,
        () = over.cancelled(), if job.task != Task::Follow => return Err(Error::stopped()),
    };
    println!("{}", serde_json::to_string(&outcome).map_err(|e| Error::failed(e.to_string()))?);
    Ok(())
}

async fn work(job: &Job, over: &CancellationToken) -> Result<Outcome> {
    let mut outcome = Outcome::default();
    match job.task {
        Task::Receive => {
            let start = Instant::now();
            let receiving = Receiving::start(job).await?;
            receiving.durable(job.end).await?;
            outcome.wall_s = start.elapsed().as_secs_f64();
            outcome.stream_bytes = receiving.stream_bytes();
            receiving.stop().await?;
        }
        Task::Replay => {
            let spool = engine::full_spool(&job.spool, job.start)?;
            let prepared = engine::prepare(job).await?;
            let start = Instant::now();
            let mut replaying = Replaying::start(job, prepared, spool.subscribe()).await?;
            replaying.barrier(job.end, None).await?;
            outcome.wall_s = start.elapsed().as_secs_f64();
            (outcome.changes, outcome.in_sets) = (replaying.changes(), replaying.in_sets());
            replaying.stop().await;
        }
        Task::Live => {
            let prepared = engine::prepare(job).await?;
            let start = Instant::now();
            let receiving = Receiving::start(job).await?;
            let mut replaying = Replaying::start(job, prepared, receiving.status()).await?;
            tokio::select! {
                reached = replaying.barrier(job.end, Some(&receiving)) => reached?,
                // Only when it fails.
                Err(e) = receiving.durable(Lsn(u64::MAX)) => return Err(e),
            }
            outcome.wall_s = start.elapsed().as_secs_f64();
            (outcome.changes, outcome.in_sets) = (replaying.changes(), replaying.in_sets());
            outcome.stream_bytes = receiving.stream_bytes();
            replaying.stop().await;
            receiving.stop().await?;
        }
        Task::Follow => outcome = follow(job, over).await?,
    }
    (outcome.cpu_s, outcome.peak_rss_bytes) = (measure::own_cpu(), measure::peak_rss());
    Ok(outcome)
}

async fn follow(job: &Job, over: &CancellationToken) -> Result<Outcome> {
    let prepared = engine::prepare(job).await?;
    let source = hyperlift::demo::connect(&job.source).await?;
    let flushed = async || -> Result<Lsn> { source.query_one("select pg_current_wal_flush_lsn()::text", &[]).await?.get::<_, &str>(0).parse() };
    let start = Instant::now();
    let receiving = Receiving::start(job).await?;
    let mut replaying = Replaying::start(job, prepared, receiving.status()).await?;
    let mut samples: JoinSet<Option<f64>> = JoinSet::new();
    let mut tick = tokio::time::interval(SAMPLE_EVERY);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = over.cancelled() => break,
        }
        let lsn = replaying.watch(Some(&receiving), flushed()).await??;
        let (asked, passed) = (Instant::now(), replaying.passed(lsn));
        samples.spawn(async move { passed.await.then(|| asked.elapsed().as_secs_f64() * 1e3) });
    }
    let end = flushed().await?;
    receiving.reach(end).await?;
    replaying.barrier(end, Some(&receiving)).await?;
    let mut outcome =
        Outcome { wall_s: start.elapsed().as_secs_f64(), changes: replaying.changes(), stream_bytes: receiving.stream_bytes(), ..Outcome::default() };
    while let Some(lag) = samples.join_next().await {
        outcome.lags_ms.extend(lag.ok().flatten());
    }
    replaying.stop().await;
    receiving.stop().await?;
    Ok(outcome)
}
