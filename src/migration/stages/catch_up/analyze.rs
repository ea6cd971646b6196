//! ANALYZE, once, when the lag is small.

use tokio::sync::watch;

use super::{replay::RunningReplay, status::Analyze};
use crate::{
    bus::Reporter,
    config::Config,
    error::Result,
    event::{AnalyzeStatus, Event, Level},
    format,
    migration::context::Context,
    name::TableName,
    pg::{client, connect::session::Side, local_rows, target_table},
};

impl RunningReplay {
    /// Below the lag threshold ANALYZE runs, once, table by table, while replay continues.
    pub(super) async fn analyze_when_near(&mut self, cx: &Context, lag: u64) {
        match &self.analyze {
            Analyze::NotYet if lag < cx.config.analyze_below => {
                cx.notice(Level::Info, format!("lag below {}: ANALYZE started", format::bytes(cx.config.analyze_below))).await;
                let (ended, result) = watch::channel(None);
                let tables: Vec<TableName> = self.relations().iter().filter(|r| !r.skipped).map(|r| r.table.clone()).collect();
                let (config, reporter, name) = (cx.config.clone(), cx.reporter.clone(), cx.application("analyze"));
                let cancel = self.cancel.clone();
                self.tasks.spawn(async move {
                    if let Some(result) = cancel.run_until_cancelled(run(&config, &name, &tables, &reporter)).await {
                        let _ = ended.send(Some(result));
                    }
                });
                self.analyze = Analyze::Running(result);
            }
            Analyze::Running(result) => {
                let ended = match &*result.borrow() {
                    Some(Ok(())) => Analyze::Done,
                    Some(Err(reason)) => Analyze::Failed(reason.clone()),
                    None if result.has_changed().is_err() => Analyze::Failed("it died: see the log".into()),
                    None => return,
                };
                self.analyze = ended;
            }
            _ => {}
        }
    }
}

/// Analyzes the tables. A failure is reported, because the operator can run the rest by hand; it does not stop the migration.
async fn run(config: &Config, application: &str, tables: &[TableName], reporter: &Reporter) -> Result<(), String> {
    let mut status = AnalyzeStatus { total: tables.len() as u64, ..AnalyzeStatus::default() };
    let result = analyze(config, application, tables, &mut status, reporter).await.map_err(|e| e.to_string());
    if let Err(reason) = &result {
        let of = status.table.as_ref().map(|t| format!(" of {t}")).unwrap_or_default();
        reporter.notice(Level::Warn, format!("ANALYZE{of} failed: {reason}. Run it by hand on the target: analyze;")).await;
        status.error = Some(reason.clone());
    } else {
        status = AnalyzeStatus { done: status.total, table: None, ..status };
    }
    reporter.report(Event::Analyzed(status)).await;
    result
}

/// Tables that have hardly changed since the ANALYZE that followed their indexes are left out: with many of them it would delay the
/// cutover without any gain.
async fn analyze(config: &Config, application: &str, tables: &[TableName], status: &mut AnalyzeStatus, reporter: &Reporter) -> Result<()> {
    let client = client::connect(&config.target, Side::Target, application).await?;
    let wanted = target_table::wants_analyze(&client, tables).await?;
    for (n, table) in tables.iter().enumerate().filter(|(n, _)| wanted[*n]) {
        (status.done, status.table) = (n as u64, Some(table.clone()));
        reporter.report(Event::Analyzed(status.clone())).await;
        client.batch_execute(&local_rows::analyze(table)).await?;
    }
    Ok(())
}
