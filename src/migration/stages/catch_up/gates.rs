//! What has to be true before the cutover, and what it takes to know it: the round trip, ANALYZE, the state of the source.

use std::time::Duration;

use super::{
    counters::differences,
    replay::{LOOK, RunningReplay},
    status::Analyze,
};
use crate::{
    error::{Error, Result},
    event::{Gate, GateKind, Level},
    format,
    migration::{context::Context, relations},
    pg::catalog::{self, OpenWriter},
    plan::IdentityChoice,
};

/// The target counts as in sync when a position of the source is reached on it within this time.
const ROUND_TRIP: Duration = Duration::from_secs(5);

/// The application counts as stopped when it has not written for this long.
const QUIET: Duration = Duration::from_secs(10);

impl RunningReplay {
    /// Polls what the stream does not carry: new and changed tables, lanes that the target blocks.
    pub async fn poll_source(&mut self, cx: &Context) {
        let applied = self.applied().all;
        self.schema.poll(cx, &self.source, applied).await;
        let blocked = self
            .lanes
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

    /// Polls the publications. A table that somebody has taken out of them is copied again, because changes of it may be missing.
    pub async fn poll_publications(&mut self, cx: &Context) -> Result<()> {
        match tokio::time::timeout(LOOK, relations::taken_out(cx, &self.source)).await {
            Ok(Err(e)) if !e.is_transient() => return Err(e),
            Ok(Ok(found)) => (self.published, self.taken_out) = (found.is_empty(), found),
            _ => self.published = false,
        }
        Ok(())
    }

    /// Polls the open transactions that have written. One that ends between two polls is the application at work, for which there is a gate
    /// of its own.
    pub async fn poll_writers(&mut self) {
        if let Ok(Ok(writers)) = tokio::time::timeout(LOOK, catalog::open_writers(&self.source)).await {
            self.open_writers = self.writers_polled.replace(writers.clone()).map(|before| OpenWriter::still_open(&before, writers));
        }
    }

    /// What an automatic cutover waits for; `None` when it can begin.
    pub async fn not_yet(&self, cx: &Context, closed_gate: Option<String>) -> Option<String> {
        if let Some(gate) = closed_gate {
            return Some(gate);
        }
        if !self.analyze.has_ended() {
            return Some("ANALYZE of the target has not ended".into());
        }
        if let Some(text) = self.schema.waits_for(cx) {
            return Some(text);
        }
        let quiet = self.last_write.1.elapsed();
        if quiet < cx.config.quiet_for {
            return Some(format!("the source was written to {} s ago", quiet.as_secs()));
        }
        // Otherwise the drain would wait for it.
        let poll = async { Ok::<_, Error>((catalog::open_writers(&self.source).await?, catalog::schema_state(&self.source).await?)) };
        match tokio::time::timeout(LOOK, poll).await {
            Ok(Ok((writers, state))) => match writers.first() {
                Some(w) => Some(format!("an open transaction of the source has written: {w}; {}", w.remedy())),
                // DDL is no write that the stream shows.
                None => (!self.schema.knows(cx, &state)).then(|| "the source's schema has just changed, and is compared first".into()),
            },
            _ => Some("the source does not answer".into()),
        }
    }

    /// The state of the source's catalogs in the last poll, if there was one.
    pub fn polled_schema(&self) -> Option<String> {
        self.schema.polled().map(ToOwned::to_owned)
    }

    /// What has to be true before the cutover. Hard gates block it, soft ones warn.
    pub fn gates(&self, cx: &Context) -> Vec<Gate> {
        vec![
            nothing_diverged(cx),
            hard(GateKind::TablesJoined, self.joining.is_empty(), self.joining.describe().unwrap_or_else(|| "all, and replayed".into())),
            self.slot_is_healthy(),
            hard(
                GateKind::Published,
                self.published,
                if self.published { "as they were made".into() } else { "not checked: the source does not answer".into() },
            ),
            hard(
                GateKind::InSync,
                self.round_trip.took.is_some_and(|took| took < ROUND_TRIP),
                self.round_trip.took.map_or_else(
                    || "not measured yet".into(),
                    |took| format!("after {:.1} s, lag {}", took.as_secs_f64(), format::bytes(self.lag.unwrap_or(0))),
                ),
            ),
            hard(
                GateKind::NoOpenWriters,
                self.open_writers.as_ref().is_some_and(Vec::is_empty),
                match self.open_writers.as_deref() {
                    None => "not checked yet".into(),
                    Some([]) => "none".into(),
                    Some([writer]) => format!("{}: {writer}", writer.remedy()),
                    Some([writer, more @ ..]) => format!("{}: {writer}, and {} more", writer.remedy(), more.len()),
                },
            ),
            self.same_schema(),
            self.analyzed(cx),
            replica_identity(cx),
            soft(
                GateKind::WritesStopped,
                self.last_write.1.elapsed() > QUIET,
                format!("last change {} s ago", self.last_write.1.elapsed().as_secs()),
            ),
        ]
    }

    fn same_schema(&self) -> Gate {
        if self.schema.is_following() {
            return hard(GateKind::SourceSchema, false, "statements run on the target: wait for their end".into());
        }
        match self.schema.difference() {
            None => soft(GateKind::SourceSchema, true, "same on both sides".into()),
            Some(text) => soft(GateKind::SourceSchema, false, format!("D lists what differs: {text}")),
        }
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
