//! ANALYZE, once, when the lag is small.

use tokio::sync::watch;

use super::replay::{Analyze, Replay};
use crate::{
    error::Error,
    event::{Event, Level},
    format,
    migration::context::Context,
    name::TableName,
    pg::target_table,
};

impl Replay {
    /// Below the lag threshold ANALYZE runs, once, table by table, while replay goes on. Tables that have hardly changed since the one
    /// that followed their indexes are left out: with many of them it would hold up the cutover for nothing.
    pub(super) async fn analyze_when_near(&mut self, cx: &Context, lag: u64) {
        match &self.analyze {
            Analyze::NotYet if lag < cx.config.analyze_below => {
                cx.notice(Level::Info, format!("lag under {}: ANALYZE started", format::bytes(cx.config.analyze_below))).await;
                let (done, seen) = watch::channel(false);
                let tables: Vec<TableName> = self.relations().iter().filter(|r| !r.skipped).map(|r| r.table.clone()).collect();
                let (config, reporter, name) = (cx.config.clone(), cx.reporter.clone(), cx.application("analyze"));
                let cancel = self.cancel.clone();
                self.tasks.spawn(async move {
                    let work = async {
                        let client = crate::pg::client::connect(&config.target, crate::pg::connect::session::Side::Target, &name).await?;
                        let total = tables.len() as u64;
                        let wanted = target_table::wants_analyze(&client, &tables).await?;
                        for (n, table) in tables.iter().enumerate().filter(|(n, _)| wanted[*n]) {
                            reporter.report(Event::Analyzed { done: n as u64, total, table: Some(table.clone()) }).await;
                            client.batch_execute(&format!("analyze {}", table.sql())).await?;
                        }
                        reporter.report(Event::Analyzed { done: total, total, table: None }).await;
                        Ok::<(), Error>(())
                    };
                    tokio::select! {
                        () = cancel.cancelled() => {}
                        result = work => {
                            if let Err(e) = result {
                                reporter.notice(Level::Warn, format!("ANALYZE failed: {e}")).await;
                            }
                            let _ = done.send(true);
                        }
                    }
                });
                self.analyze = Analyze::Running(seen);
            }
            Analyze::Running(done) if *done.borrow() => self.analyze = Analyze::Done,
            _ => {}
        }
    }
}
