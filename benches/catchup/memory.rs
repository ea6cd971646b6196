//! Part two, memory: hyperlift receives and replays a backlog of very many transactions, and one of a single very large one.

use hyperlift::error::Result;
use serde::Serialize;

use crate::{
    consumer::{self, Bench, Measured},
    data::Scale,
    load::{Data, Load},
    report::{Report, Row},
};

#[derive(Serialize)]
struct Line<'a> {
    load: Load,
    #[serde(flatten)]
    measured: &'a Measured,
}

pub async fn run(bench: &Bench, scale: Scale, report: &mut Report) -> Result<()> {
    Data::Rows.prepare(&bench.clusters, scale).await?;
    for load in [Load::Many, Load::Huge] {
        report.progress(format_args!("load {load}"));
        let backlog = load.run(&bench.clusters, scale).await?;
        let measured = consumer::live(bench, &backlog).await?;
        report.progress(format_args!("{load}: {} rows in {:.1} s", measured.changes, measured.wall_s));
        report.line("memory", &Line { load, measured: &measured })?;
        let peak = measured.peak_rss_bytes.unwrap_or(0) as f64 / f64::from(1 << 20);
        report.rows(Row::new(format!("peak RSS of hyperlift, {load} ({} rows)", measured.changes), "MB", 0, vec![peak]));
        report.rows(Row::new(format!("{load}: changes/s, receive + replay"), "", 0, vec![measured.rate()]));
        backlog.close(&bench.clusters).await?;
    }
    Data::Rows.remove(&bench.clusters).await
}
