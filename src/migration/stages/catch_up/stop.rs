//! Ending replay; the receiver goes on.

use super::{
    super::copy::Replication,
    counters,
    replay::{LOOK, RunningReplay},
};

use crate::{event::Level, migration::context::Context};

impl RunningReplay {
    /// Ends router and lanes; the receiver goes on.
    pub async fn stop(mut self, cx: &mut Context) -> Replication {
        self.joining.end().await;
        self.cancel.cancel();
        self.lanes.handle.ended().await;
        self.tasks.close();
        self.tasks.wait().await;
        // What they did last.
        if let Err(e) = self.report_counters(cx).await {
            cx.notice(Level::Error, e.to_string()).await;
        }
        // A run that was killed may have missed more than it reported.
        if let Ok(Err(e)) = tokio::time::timeout(LOOK, counters::settle(cx)).await {
            tracing::warn!(error = %e, "the ledger was not asked for missed changes");
        }
        self.replication
    }
}
