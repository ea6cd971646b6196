//! What has to be true before the cutover, and what it takes to know it: the round trip, ANALYZE, the state of the source.

use std::time::Duration;

use super::{
    counters::differences,
    replay::{LOOK, RunningReplay},
    status::Analyze,
};
use crate::{
    error::Error,
    event::{Gate, GateKind, Level},
    format,
    migration::context::Context,
    pg::catalog,
    plan::IdentityChoice,
};

/// The target counts as in sync when a position of the source is reached on it within this time.
const ROUND_TRIP: Duration = Duration::from_secs(5);

/// The application counts as stopped when it has not written for this long.
const QUIET: Duration = Duration::from_secs(10);

impl RunningReplay {
    /// Polls what the stream does not carry: prepared transactions, new and changed tables, lanes that the target blocks.
    pub async fn poll_source(&mut self, cx: &Context) {
        let poll = async {
            self.prepared_transactions = Some(catalog::prepared_transactions(&self.source).await?);
            let now = catalog::shapes(&self.source, &cx.plan.scope).await?;
            Ok::<_, Error>(catalog::difference(&cx.record.shapes, &now))
        };
        if let Ok(Ok(altered)) = tokio::time::timeout(LOOK, poll).await {
            if let Some(text) = altered.as_ref().filter(|_| altered != self.schema_difference) {
                cx.notice(Level::Warn, format!("the source's schema changed: {text}")).await;
            }
            self.schema_difference = altered;
        }
        let blocked = self
            .handle
            .lanes
            .iter()
            .enumerate()
            .find_map(|(i, l)| l.borrow().blocked_by.as_ref().map(|why| format!("lane {i} waits for the target: {why}")));
        if let Some(text) = blocked.as_ref().filter(|_| blocked != self.blocked_lane) {
            cx.notice(Level::Warn, text.clone()).await;
        }
        self.blocked_lane = blocked;
    }

    /// What has to be true before the cutover. Hard gates block it, soft ones warn.
    ///
    /// That all tables are copied is no gate: replay does not begin before.
    pub fn gates(&self, cx: &Context) -> Vec<Gate> {
        vec![
            nothing_diverged(cx),
            self.slot_is_healthy(),
            hard(
                GateKind::InSync,
                self.round_trip.took.is_some_and(|took| took < ROUND_TRIP),
                self.round_trip.took.map_or_else(
                    || "not measured yet".into(),
                    |took| format!("after {:.1} s, lag {}", took.as_secs_f64(), format::bytes(self.lag.unwrap_or(0))),
                ),
            ),
            hard(
                GateKind::NothingPrepared,
                self.prepared_transactions == Some(0),
                match self.prepared_transactions {
                    None => "not checked yet".into(),
                    Some(0) => "no prepared transactions".into(),
                    Some(1) => "commit or roll back the prepared transaction on the source".into(),
                    Some(n) => format!("commit or roll back {n} prepared transactions on the source"),
                },
            ),
            soft(
                GateKind::SourceSchema,
                self.schema_difference.is_none(),
                self.schema_difference.clone().unwrap_or_else(|| "as it was copied".into()),
            ),
            self.analyzed(cx),
            replica_identity(cx),
            soft(
                GateKind::WritesStopped,
                self.last_write.1.elapsed() > QUIET,
                format!("last change {} s ago", self.last_write.1.elapsed().as_secs()),
            ),
        ]
    }

    fn slot_is_healthy(&self) -> Gate {
        let status = self.replication.receiver.status.borrow();
        let (healthy, detail) = match (&status.broken, &self.slot) {
            (Some(why), _) => (false, why.clone()),
            (None, Some(s)) => {
                (s.invalidated.is_none(), s.invalidated.as_ref().map_or_else(|| s.wal_status.clone(), |why| format!("invalidated: {why}")))
            }
            (None, None) => (true, "reserved".into()),
        };
        hard(GateKind::Slot, healthy, detail)
    }

    fn analyzed(&self, cx: &Context) -> Gate {
        let detail = match &self.analyze {
            Analyze::NotYet => format!("starts below {} lag", format::bytes(cx.config.analyze_below)),
            Analyze::Running(_) => "running".into(),
            Analyze::Done => "finished".into(),
            Analyze::Failed(why) => format!("failed: run `analyze;` on the target ({why})"),
        };
        soft(GateKind::Analyze, matches!(self.analyze, Analyze::Done), detail)
    }
}

fn nothing_diverged(cx: &Context) -> Gate {
    if let Some(subject) = cx.prompts.failure() {
        return hard(GateKind::NothingDiverged, false, format!("{subject} waits for you"));
    }
    match differences(cx) {
        none if none.is_empty() => hard(GateKind::NothingDiverged, true, "every change found its row".into()),
        // With the operator's consent.
        tables => soft(GateKind::NothingDiverged, false, format!("not applied: {tables}")),
    }
}

fn replica_identity(cx: &Context) -> Gate {
    match cx.plan.identities.values().filter(|c| **c == IdentityChoice::InsertOnly).count() {
        0 => soft(GateKind::ReplicaIdentity, true, "all changes arrive".into()),
        n => soft(GateKind::ReplicaIdentity, false, format!("{n} insert-only, accepted")),
    }
}

fn hard(kind: GateKind, passed: bool, detail: String) -> Gate {
    Gate { kind, passed, hard: true, detail }
}

fn soft(kind: GateKind, passed: bool, detail: String) -> Gate {
    Gate { kind, passed, hard: false, detail }
}
