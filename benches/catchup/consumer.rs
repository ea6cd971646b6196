//! Who catches up: one function for each consumer. All read the same WAL, each from a slot of its own, and those with a target start
//! from equal copies of it.

use hyperlift::{
    demo::{connect, execute},
    error::{Error, Result},
};
use serde::Serialize;
use std::{fmt, path::Path};

use crate::{
    cluster::{Clusters, run, until},
    job::{Job, Task},
    load::{Backlog, HYPERTABLE, PUBLICATION},
    measure::Spent,
    worker::{Outcome, Worker},
};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Consumer {
    /// `pg_recvlogical` to `/dev/null`: what reading alone costs.
    Read,
    /// hyperlift's receiver, until all is durable in its spool.
    Receive,
    /// A subscription of PostgreSQL's own.
    Native,
    /// hyperlift's replay of a full spool.
    Replay,
    /// The same into a target whose metrics are a hypertable.
    Hypertable,
    /// hyperlift, receiving and replaying at the same time.
    Live,
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "pg_recvlogical",
            Self::Receive => "hyperlift: receive",
            Self::Native => "native subscription",
            Self::Replay => "hyperlift: replay",
            Self::Hypertable => "hyperlift: replay, hypertable",
            Self::Live => "hyperlift: receive + replay",
        })
    }
}

/// What a consumer has needed for a backlog.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Measured {
    pub wall_s: f64,
    /// Of the load, by the source's statistics.
    pub changes: u64,
    /// As hyperlift's lanes have counted them, the marker's included.
    pub applied: Option<u64>,
    /// Those that hyperlift has applied as parts of sets.
    pub in_sets: Option<u64>,
    /// CPU seconds of the program that consumes; a subscription has none.
    pub client_cpu_s: f64,
    pub source_cpu_s: f64,
    pub target_cpu_s: f64,
    /// CPU seconds of everybody else on the machine meanwhile: noise.
    pub other_cpu_s: f64,
    pub peak_rss_bytes: Option<u64>,
    /// Length of the spool's segments, bytes.
    pub spool_bytes: Option<u64>,
    /// Decoded stream that was received, bytes.
    pub stream_bytes: Option<u64>,
    pub wal_bytes: u64,
}

impl Measured {
    fn new(backlog: &Backlog, spent: Spent, client_cpu_s: f64) -> Self {
        Self {
            wall_s: spent.wall,
            changes: backlog.changes,
            client_cpu_s,
            source_cpu_s: spent.source_cpu,
            target_cpu_s: spent.target_cpu,
            other_cpu_s: spent.other_cpu,
            wal_bytes: backlog.wal_bytes,
            ..Self::default()
        }
    }

    /// Of hyperlift in a process of its own: it has measured itself, but for the servers.
    fn from_worker(backlog: &Backlog, spent: Spent, outcome: &Outcome) -> Self {
        let applied = (outcome.changes > 0).then_some(outcome.changes);
        let in_sets = applied.map(|_| outcome.in_sets);
        let stream_bytes = (outcome.stream_bytes > 0).then_some(outcome.stream_bytes);
        let peak_rss_bytes = Some(outcome.peak_rss_bytes);
        Self { wall_s: outcome.wall_s, applied, in_sets, stream_bytes, peak_rss_bytes, ..Self::new(backlog, spent, outcome.cpu_s) }
    }

    /// Row changes a second.
    pub fn rate(&self) -> f64 {
        self.changes as f64 / self.wall_s
    }
}

/// The benchmarks' servers and how hyperlift is to work.
pub struct Bench {
    pub clusters: Clusters,
    pub lanes: u32,
}

/// `pg_recvlogical` with what hyperlift asks for, too: pgoutput, protocol 1.
pub async fn read(bench: &Bench, backlog: &Backlog) -> Result<Measured> {
    let clusters = &bench.clusters;
    let slot = backlog.slot_for(clusters, "read").await?;
    let mut program = clusters.program("pg_recvlogical");
    program.args(["--start", "--no-loop", "-f", "/dev/null", "-o", "proto_version=1", "-o", &format!("publication_names={PUBLICATION}")]);
    program.args(["-S", &slot, "-E", &backlog.end.to_string(), "-d", &clusters.source.uri(backlog.database)]);
    clusters.settle().await?;
    let watch = clusters.stopwatch();
    run(&mut program).await?;
    let spent = watch.stop();
    clusters.drop_slot(&slot).await?;
    Ok(Measured::new(backlog, spent, spent.children_cpu))
}

/// Leaves the spool in `spool`.
pub async fn receive(bench: &Bench, backlog: &Backlog, spool: &Path) -> Result<Measured> {
    let clusters = &bench.clusters;
    let slot = backlog.slot_for(clusters, "receive").await?;
    clusters.settle().await?;
    let job = bench.job(Task::Receive, backlog, &slot, "", spool);
    let (spent, outcome) = work(clusters, &job).await?;
    clusters.drop_slot(&slot).await?;
    Ok(Measured { spool_bytes: Some(size(spool)?), ..Measured::from_worker(backlog, spent, &outcome) })
}

/// From the moment the subscription is enabled until the marker, which was committed last, is on the target.
pub async fn native(bench: &Bench, backlog: &Backlog) -> Result<Measured> {
    let clusters = &bench.clusters;
    let slot = backlog.slot_for(clusters, "native").await?;
    let target = backlog.target_for(clusters, "native", backlog.load.data().database()).await?;
    let uri = clusters.target.uri(&target);
    subscribe(bench, backlog.database, &slot, &target).await?;
    let session = connect(&uri).await?;
    let watch = clusters.stopwatch();
    execute(&uri, "alter subscription native enable").await?;
    until("the end of native apply", async || {
        let row = session.query_one("select n > 0 as done from public.bench_marker", &[]).await?;
        Ok(row.get("done"))
    })
    .await?;
    let spent = watch.stop();
    drop(session);
    unsubscribe(&uri).await?;
    backlog.check(clusters, "native apply", &target).await?;
    Ok(Measured::new(backlog, spent, 0.0))
}

/// A subscription that is not enabled yet.
pub async fn subscribe(bench: &Bench, database: &str, slot: &str, target: &str) -> Result<()> {
    let (source, target) = (bench.clusters.source.uri(database), bench.clusters.target.uri(target));
    let options = format!("slot_name = '{slot}', create_slot = false, copy_data = false, enabled = false");
    execute(&target, &format!("create subscription native connection '{source}' publication {PUBLICATION} with ({options})")).await
}

/// Its slot goes with it.
pub async fn unsubscribe(target: &str) -> Result<()> {
    execute(target, "alter subscription native disable").await?;
    // One that is being stopped still holds the slot.
    until("the end of the subscription", async || match execute(target, "drop subscription native").await {
        Err(e) if e.message.contains("is active") => Ok(false),
        other => other.map(|()| true),
    })
    .await
}

/// From a spool that [`receive`] has filled.
pub async fn replay(bench: &Bench, backlog: &Backlog, spool: &Path) -> Result<Measured> {
    replay_into(bench, backlog, spool, "replay", backlog.load.data().database()).await
}

pub async fn replay_hypertable(bench: &Bench, backlog: &Backlog, spool: &Path) -> Result<Measured> {
    replay_into(bench, backlog, spool, "hyper", HYPERTABLE).await
}

async fn replay_into(bench: &Bench, backlog: &Backlog, spool: &Path, name: &str, template: &str) -> Result<Measured> {
    let clusters = &bench.clusters;
    let target = backlog.target_for(clusters, name, template).await?;
    let job = Job { hypertables: template == HYPERTABLE, ..bench.job(Task::Replay, backlog, "", &target, spool) };
    let (spent, outcome) = work(clusters, &job).await?;
    backlog.check(clusters, name, &target).await?;
    Ok(Measured::from_worker(backlog, spent, &outcome))
}

/// The backlog waits in the slot; the spool begins empty.
pub async fn live(bench: &Bench, backlog: &Backlog) -> Result<Measured> {
    let clusters = &bench.clusters;
    let slot = backlog.slot_for(clusters, "live").await?;
    let target = backlog.target_for(clusters, "live", backlog.load.data().database()).await?;
    let spool = clusters.scratch("spool-live");
    let (spent, outcome) = work(clusters, &bench.job(Task::Live, backlog, &slot, &target, &spool)).await?;
    clusters.drop_slot(&slot).await?;
    let spool_bytes = Some(size(&spool)?);
    std::fs::remove_dir_all(&spool)?;
    backlog.check(clusters, "receive and replay", &target).await?;
    Ok(Measured { spool_bytes, ..Measured::from_worker(backlog, spent, &outcome) })
}

async fn work(clusters: &Clusters, job: &Job) -> Result<(Spent, Outcome)> {
    let watch = clusters.stopwatch();
    let outcome = Worker::start(job).await?.outcome().await?;
    Ok((watch.stop(), outcome))
}

impl Bench {
    fn job(&self, task: Task, backlog: &Backlog, slot: &str, target: &str, spool: &Path) -> Job {
        Job {
            task,
            source: self.clusters.source.uri(backlog.database),
            target: self.clusters.target.uri(target),
            system_id: self.clusters.system_id.clone(),
            slot: slot.into(),
            publication: PUBLICATION.into(),
            spool: spool.into(),
            start: backlog.start,
            end: backlog.end,
            lanes: self.lanes,
            hypertables: false,
        }
    }
}

/// All segments of a spool, bytes.
fn size(spool: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in std::fs::read_dir(spool)? {
        let entry = entry?;
        if entry.path().extension().is_some_and(|e| e == "seg") {
            bytes += entry.metadata()?.len();
        }
    }
    if bytes == 0 { Err(Error::failed(format!("the spool in {} is empty", spool.display()))) } else { Ok(bytes) }
}
