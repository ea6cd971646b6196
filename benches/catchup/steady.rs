//! Part two, steady state: an application commits at a fixed rate; how long until the target shows it? hyperlift beside a native
//! subscription.

use hyperlift::{
    demo::connect,
    error::{Error, Result},
    lsn::Lsn,
};
use serde::Serialize;
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{create_from, drop_database, run as run_program, until},
    consumer::{Bench, subscribe, unsubscribe},
    data::Scale,
    job::{Job, Task},
    load::{self, Data, PUBLICATION},
    report::{Report, Row, percentile},
    worker::Worker,
};

/// Transactions a second to which pgbench is limited.
const RATE: &str = "2000";
/// A commit is watched this often.
const BEAT_EVERY: Duration = Duration::from_millis(100);
/// The target is asked for it this often: the resolution of what is measured.
const POLL_EVERY: Duration = Duration::from_millis(2);
const SOURCE: &str = "steady";

/// Waiting times of one consumer, ms.
#[derive(Serialize)]
struct Line {
    consumer: &'static str,
    /// What pgbench reached.
    tps: f64,
    seconds: u64,
    /// From the end of a commit on the source until it is visible on the target.
    visible_ms: Vec<f64>,
    /// From reading the source's flushed position until all lanes have passed it; hyperlift only.
    applied_ms: Vec<f64>,
    /// hyperlift only.
    cpu_s: f64,
    peak_rss_bytes: u64,
}

pub async fn run(bench: &Bench, seconds: u64, scale: Scale, report: &mut Report) -> Result<()> {
    Data::Tpcb.prepare(&bench.clusters, scale).await?;
    for line in [with_native(bench, seconds, report).await?, with_hyperlift(bench, seconds, report).await?] {
        report.line("steady", &line)?;
        let who = line.consumer;
        report.rows(Row::new(format!("steady state, {who}: transactions/s of the application"), "", 0, vec![line.tps]));
        report.rows(lag_rows(&format!("steady state, {who}: commit to visible"), line.visible_ms));
        report.rows(lag_rows(&format!("steady state, {who}: position to applied by all lanes"), line.applied_ms));
        if line.peak_rss_bytes > 0 {
            report.rows(Row::new("steady state: CPU of hyperlift", "s", 1, vec![line.cpu_s]));
            report.rows(Row::new("steady state: peak RSS of hyperlift", "MB", 0, vec![line.peak_rss_bytes as f64 / f64::from(1 << 20)]));
        }
    }
    Data::Tpcb.remove(&bench.clusters).await
}

fn lag_rows(what: &str, mut ms: Vec<f64>) -> Vec<Row> {
    ms.sort_by(f64::total_cmp);
    let at = |name: &str, share| Row::new(format!("{what}, {name}"), "ms", 1, vec![percentile(&ms, share)?]);
    [at("median", 0.5), at("p99", 0.99), at("max", 1.0)].into_iter().flatten().collect()
}

/// A source and a target with the same data: the slot, where it became consistent, and the target's database.
async fn fresh(bench: &Bench) -> Result<(String, Lsn, String)> {
    let target = format!("{SOURCE}_target");
    create_from(&bench.clusters.target, &target, Data::Tpcb.database()).await?;
    let (slot, start) = load::open(&bench.clusters, SOURCE, Data::Tpcb).await?;
    Ok((slot, start, target))
}

async fn with_native(bench: &Bench, seconds: u64, report: &Report) -> Result<Line> {
    let clusters = &bench.clusters;
    let (slot, _, target) = fresh(bench).await?;
    let uri = clusters.target.uri(&target);
    subscribe(bench, SOURCE, &slot, &target).await?;
    hyperlift::demo::execute(&uri, "alter subscription native enable").await?;
    let (tps, visible_ms) = application(bench, seconds, &target, report).await?;
    load::compare(clusters, Data::Tpcb, SOURCE, &target).await?;
    unsubscribe(&uri).await?;
    close(bench, &target).await?;
    Ok(Line { consumer: "native", tps, seconds, visible_ms, applied_ms: Vec::new(), cpu_s: 0.0, peak_rss_bytes: 0 })
}

async fn with_hyperlift(bench: &Bench, seconds: u64, report: &Report) -> Result<Line> {
    let clusters = &bench.clusters;
    let (slot, start, target) = fresh(bench).await?;
    let spool = clusters.scratch("spool-steady");
    let worker = Worker::start(&Job {
        task: Task::Follow,
        source: clusters.source.uri(SOURCE),
        target: clusters.target.uri(&target),
        system_id: clusters.system_id.clone(),
        slot: slot.clone(),
        publication: PUBLICATION.into(),
        spool: spool.clone(),
        start,
        end: Lsn::ZERO,
        lanes: bench.lanes,
        hypertables: false,
    })
    .await?;
    let (tps, visible_ms) = application(bench, seconds, &target, report).await?;
    let outcome = worker.finish().await?;
    load::compare(clusters, Data::Tpcb, SOURCE, &target).await?;
    clusters.drop_slot(&slot).await?;
    std::fs::remove_dir_all(&spool)?;
    close(bench, &target).await?;
    let (cpu_s, peak_rss_bytes) = (outcome.cpu_s, outcome.peak_rss_bytes);
    Ok(Line { consumer: "hyperlift", tps, seconds, visible_ms, applied_ms: outcome.lags_ms, cpu_s, peak_rss_bytes })
}

async fn close(bench: &Bench, target: &str) -> Result<()> {
    drop_database(&bench.clusters.target, target).await?;
    drop_database(&bench.clusters.source, SOURCE).await
}

/// Waits until the consumer has caught up, runs the load and measures the lag meanwhile: transactions a second, and waiting times in ms.
/// Everything is on the target when it returns.
async fn application(bench: &Bench, seconds: u64, target: &str, report: &Report) -> Result<(f64, Vec<f64>)> {
    let clusters = &bench.clusters;
    let target = clusters.target.uri(target);
    reached(bench, &target).await?;
    report.progress(format_args!("{RATE} transactions/s for {seconds} s"));
    let stop = CancellationToken::new();
    let lag = tokio::spawn(heartbeat(clusters.source.uri(SOURCE), target.clone(), stop.clone()));
    let mut pgbench = clusters.program("pgbench");
    // The application commits as one does: waiting for its flush.
    pgbench.env("PGOPTIONS", "-c synchronous_commit=on");
    pgbench.args([
        "-n",
        "-M",
        "prepared",
        "-c",
        "8",
        "-j",
        "2",
        "--random-seed=7",
        "-R",
        RATE,
        "-T",
        &seconds.to_string(),
        &clusters.source.uri(SOURCE),
    ]);
    let output = run_program(&mut pgbench).await?;
    stop.cancel();
    let visible_ms = lag.await.map_err(|e| Error::failed(format!("the heartbeat died: {e}")))??;
    reached(bench, &target).await?;
    // tps = 1999.123456 (without initial connection time)
    let tps = output.lines().find_map(|l| l.strip_prefix("tps = ")?.split_whitespace().next()?.parse().ok());
    Ok((tps.ok_or_else(|| Error::failed("pgbench reports no tps"))?, visible_ms))
}

/// Changes the marker and waits until the target shows it.
async fn reached(bench: &Bench, target: &str) -> Result<()> {
    let marker = load::raise_marker(&bench.clusters, SOURCE).await?;
    let session = connect(target).await?;
    until("the marker on the target", async || Ok(shown(&session).await? >= marker)).await
}

async fn shown(target: &tokio_postgres::Client) -> Result<i64> {
    Ok(target.query_one("select n from public.bench_marker", &[]).await?.get(0))
}

/// Commits that are not visible yet: the marker's value, and when the commit had ended.
type Waiting = Arc<Mutex<VecDeque<(i64, Instant)>>>;

/// Changes the marker again and again, and measures until the target shows each change, ms. Ends when the last one is visible.
async fn heartbeat(source: String, target: String, stop: CancellationToken) -> Result<Vec<f64>> {
    let (source, target) = (connect(&source).await?, connect(&target).await?);
    let waiting = Waiting::default();
    let beat = async {
        let mut tick = tokio::time::interval(BEAT_EVERY);
        while !stop.is_cancelled() {
            tick.tick().await;
            let n = source.query_one("update public.bench_marker set n = n + 1 returning n", &[]).await?.get(0);
            waiting.lock().unwrap_or_else(PoisonError::into_inner).push_back((n, Instant::now()));
        }
        Ok::<_, Error>(())
    };
    let poll = async {
        let mut tick = tokio::time::interval(POLL_EVERY);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut ms = Vec::new();
        loop {
            tick.tick().await;
            let over = stop.is_cancelled();
            let shown = shown(&target).await?;
            let mut waiting = waiting.lock().unwrap_or_else(PoisonError::into_inner);
            while let Some((_, since)) = waiting.front().copied().filter(|(n, _)| *n <= shown) {
                ms.push(since.elapsed().as_secs_f64() * 1e3);
                waiting.pop_front();
            }
            if over && waiting.is_empty() {
                return Ok::<_, Error>(ms);
            }
        }
    };
    Ok(tokio::try_join!(beat, poll)?.1)
}
