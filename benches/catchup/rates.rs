//! Part one: how fast a backlog is read, spooled and applied, side by side.

use hyperlift::{error::Result, format};
use serde::Serialize;
use std::{collections::BTreeMap, fmt::Write as _};

use crate::{
    consumer::{self, Bench, Consumer, Measured},
    data::Scale,
    load::{self, Backlog, Data, Load},
    report::{Report, Row, Spread},
};

/// All rounds of each consumer of each load.
pub type Rounds = BTreeMap<(Load, Consumer), Vec<Measured>>;

#[derive(Serialize)]
struct Line<'a> {
    load: Load,
    consumer: Consumer,
    round: u32,
    #[serde(flatten)]
    measured: &'a Measured,
}

/// Every load with every consumer, the consumers in turn so that noise hits all alike.
pub async fn run(bench: &Bench, loads: &[Load], rounds: u32, scale: Scale, report: &mut Report) -> Result<()> {
    let mut all = Rounds::new();
    let result = run_all(bench, loads, rounds, scale, report, &mut all).await;
    // What was measured before a failure counts.
    report.details(&details(&all));
    report.rows(ratios(&all));
    result
}

async fn run_all(bench: &Bench, loads: &[Load], rounds: u32, scale: Scale, report: &mut Report, all: &mut Rounds) -> Result<()> {
    let clusters = &bench.clusters;
    let mut prepared: Vec<Data> = Vec::new();
    for &load in loads {
        if !prepared.contains(&load.data()) {
            report.progress(format_args!("data of {load}"));
            load.data().prepare(clusters, scale).await?;
            if load.data() == Data::Iot && clusters.timescale {
                report.progress("its hypertable");
                load::prepare_hypertable(clusters).await?;
            }
            prepared.push(load.data());
        }
        report.progress(format_args!("load {load}"));
        let backlog = load.run(clusters, scale).await?;
        report.progress(format_args!("{} changes in {} of WAL", backlog.changes, format::bytes(backlog.wal_bytes)));
        for round in 1..=rounds {
            one_round(bench, &backlog, |consumer, measured| {
                report.progress(format_args!("{load} by {consumer}: {:.2} s", measured.wall_s));
                // The marker is one more.
                if let Some(applied) = measured.applied.filter(|applied| *applied != measured.changes + 1) {
                    report.progress(format_args!("counted {} changes, {consumer} applied {applied}", measured.changes + 1));
                }
                all.entry((load, consumer)).or_default().push(measured);
                report.line("rates", &Line { load, consumer, round, measured: &measured })
            })
            .await?;
        }
        backlog.close(clusters).await?;
    }
    for data in prepared {
        data.remove(clusters).await?;
    }
    Ok(())
}

async fn one_round(bench: &Bench, backlog: &Backlog, mut done: impl FnMut(Consumer, Measured) -> Result<()>) -> Result<()> {
    let spool = bench.clusters.scratch("spool");
    done(Consumer::Read, consumer::read(bench, backlog).await?)?;
    done(Consumer::Receive, consumer::receive(bench, backlog, &spool).await?)?;
    done(Consumer::Native, consumer::native(bench, backlog).await?)?;
    done(Consumer::Replay, consumer::replay(bench, backlog, &spool).await?)?;
    if backlog.load.data() == Data::Iot && bench.clusters.timescale {
        done(Consumer::Hypertable, consumer::replay_hypertable(bench, backlog, &spool).await?)?;
    }
    std::fs::remove_dir_all(&spool)?;
    done(Consumer::Live, consumer::live(bench, backlog).await?)
}

/// The table of all consumers, medians.
fn details(all: &Rounds) -> String {
    let mut text = String::new();
    text.push_str("| load | consumer | wall s (min–max) | changes/s | CPU s: client + source + target | others' CPU s | peak RSS MB |\n");
    text.push_str("|---|---|---|---|---|---|---|\n");
    for ((load, consumer), rounds) in all {
        let spread = |value: fn(&Measured) -> f64| Spread::new(rounds.iter().map(value).collect());
        let median = |value| spread(value).map_or(0.0, |s| s.median);
        let Some(wall) = spread(|m| m.wall_s) else { continue };
        let rss = median(|m| m.peak_rss_bytes.unwrap_or(0) as f64 / f64::from(1 << 20));
        let _ = writeln!(
            text,
            "| {load} | {consumer} | {:.2} ({:.2}–{:.2}) | {:.0} | {:.2} + {:.2} + {:.2} | {:.2} | {} |",
            wall.median,
            wall.min,
            wall.max,
            median(Measured::rate),
            median(|m| m.client_cpu_s),
            median(|m| m.source_cpu_s),
            median(|m| m.target_cpu_s),
            median(|m| m.other_cpu_s),
            if rss > 0.0 { format!("{rss:.0}") } else { "–".into() },
        );
    }
    text
}

/// What the runs are made for: each ratio is taken within its round.
fn ratios(all: &Rounds) -> Vec<Row> {
    let mut rows = Vec::new();
    let mut loads: Vec<Load> = all.keys().map(|(load, _)| *load).collect();
    loads.dedup();
    let of = |load, consumer| all.get(&(load, consumer)).map(Vec::as_slice).unwrap_or_default();
    let pairs = |load, above, below, ratio: fn(&Measured, &Measured) -> f64| -> Vec<f64> {
        of(load, above).iter().zip(of(load, below)).map(|(a, b)| ratio(a, b)).collect()
    };
    for load in loads {
        let rate = |above, below| pairs(load, above, below, |a, b| a.rate() / b.rate());
        let mut row = |what: String, values: Vec<f64>| rows.extend(Row::new(what, "×", 2, values));
        row(format!("catch-up {load}: hyperlift receive + replay ÷ native, changes/s"), rate(Consumer::Live, Consumer::Native));
        row(format!("catch-up {load}: hyperlift replay of a full spool ÷ native, changes/s"), rate(Consumer::Replay, Consumer::Native));
        row(format!("{load}: hypertable ÷ plain, changes/s"), rate(Consumer::Hypertable, Consumer::Replay));
        row(format!("{load}: receive ÷ pg_recvlogical, wall"), pairs(load, Consumer::Receive, Consumer::Read, |a, b| a.wall_s / b.wall_s));
        row(
            format!("{load}: receive ÷ pg_recvlogical, CPU of the client"),
            pairs(load, Consumer::Receive, Consumer::Read, |a, b| a.client_cpu_s / b.client_cpu_s),
        );
        let per = |bytes: fn(&Measured) -> f64| of(load, Consumer::Receive).iter().map(bytes).collect();
        row(format!("{load}: spool ÷ WAL, bytes"), per(|m| m.spool_bytes.unwrap_or(0) as f64 / m.wal_bytes as f64));
        row(format!("{load}: spool ÷ decoded stream, bytes"), per(|m| m.spool_bytes.unwrap_or(0) as f64 / m.stream_bytes.unwrap_or(1) as f64));
        let peak = of(load, Consumer::Live).iter().filter_map(|m| Some(m.peak_rss_bytes? as f64 / f64::from(1 << 20))).collect();
        rows.extend(Row::new(format!("{load}: peak RSS of hyperlift, receive + replay"), "MB", 0, peak));
    }
    rows
}
