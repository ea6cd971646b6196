//! What has to hold before the cutover, and what it takes to know it: round trip, ANALYZE, the source's own state.

use std::time::{Duration, Instant};

use super::replay::{Analyze, LOOK, Replay};
use crate::{
    error::Error,
    event::{Gate, Level},
    format,
    lsn::Lsn,
    migration::context::Context,
    pg::catalog,
    plan::IdentityChoice,
};

/// The target counts as level with the source when a position of the source is reached within this time.
const ROUND_TRIP: Duration = Duration::from_secs(5);

impl Replay {
    /// What the stream does not tell: prepared transactions, new and changed tables, lanes that wait for the target.
    pub async fn look_at_the_source(&mut self, cx: &Context) {
        let look = async {
            self.prepared = Some(catalog::prepared_transactions(&self.source).await?);
            let now = catalog::shapes(&self.source, &cx.plan.scope).await?;
            Ok::<_, Error>(catalog::difference(&cx.record.shapes, &now))
        };
        if let Ok(Ok(altered)) = tokio::time::timeout(LOOK, look).await {
            if let Some(text) = altered.as_ref().filter(|_| altered != self.altered) {
                cx.notice(Level::Warn, format!("the source's schema changed: {text}")).await;
            }
            self.altered = altered;
        }
        let held_up = self
            .handle
            .lanes
            .iter()
            .enumerate()
            .find_map(|(i, l)| l.borrow().blocked_by.as_ref().map(|why| format!("lane {i} waits for the target: {why}")));
        if let Some(text) = held_up.as_ref().filter(|_| held_up != self.held_up) {
            cx.notice(Level::Warn, text.clone()).await;
        }
        self.held_up = held_up;
    }

    /// How long it takes until a position of the source is reached on the target.
    pub(super) fn measure_round_trip(&mut self, source: Lsn, applied: Lsn) {
        match self.probe {
            Some((lsn, since)) if applied >= lsn => {
                self.round_trip = Some(since.elapsed());
                self.probe = Some((source, Instant::now()));
            }
            // It takes longer already than the last one did.
            Some((_, since)) if self.round_trip.is_some_and(|r| since.elapsed() > r) => self.round_trip = Some(since.elapsed()),
            Some(_) => {}
            None => self.probe = Some((source, Instant::now())),
        }
    }

    /// What has to hold before the cutover: hard gates refuse, soft ones warn.
    pub fn gates(&self, cx: &Context) -> Vec<Gate> {
        let gate = |name: &str, passed: bool, hard: bool, detail: String| Gate { name: name.into(), passed, hard, detail };
        let relations = self.relations();
        let copied = relations.iter().filter(|r| !r.skipped).count();
        let skipped = relations.len() - copied;
        let insert_only = cx.plan.identities.values().filter(|c| **c == IdentityChoice::InsertOnly).count();
        let status = self.replication.receiver.status.borrow();
        let healthy = self.slot.as_ref().is_none_or(|s| s.invalidated.is_none()) && status.broken.is_none();
        let near = self.round_trip.is_some_and(|r| r < ROUND_TRIP);
        let quiet = self.last_write.1.elapsed();
        vec![
            gate(
                "all tables copied",
                true,
                true,
                format!("{copied} of {}{}", relations.len(), if skipped > 0 { format!(", {skipped} skipped by you") } else { String::new() }),
            ),
            match (cx.prompts.failure(), super::differences(cx)) {
                (Some(subject), _) => gate("nothing diverged", false, true, format!("{subject} waits for you")),
                (None, missed) if missed.is_empty() => gate("nothing diverged", true, true, "every change found its row".into()),
                // With the operator's consent.
                (None, missed) => gate("nothing diverged", false, false, format!("missed: {missed}")),
            },
            gate(
                "slot",
                healthy,
                true,
                match (&status.broken, &self.slot) {
                    (Some(why), _) => why.clone(),
                    (None, Some(s)) => s.invalidated.as_ref().map_or_else(|| s.wal_status.clone(), |why| format!("invalidated: {why}")),
                    (None, None) => "reserved".into(),
                },
            ),
            gate(
                "all applied, round trip",
                near,
                true,
                self.round_trip.map_or_else(
                    || "not measured yet".into(),
                    |r| format!("{:.1} s, {} behind", r.as_secs_f64(), format::bytes(self.lag.unwrap_or(0))),
                ),
            ),
            gate(
                "prepared transactions",
                self.prepared == Some(0),
                true,
                match self.prepared {
                    None => "not looked at yet".into(),
                    Some(0) => "none on the source".into(),
                    Some(n) => format!("{n} on the source: commit or roll them back"),
                },
            ),
            gate("source's schema", self.altered.is_none(), false, self.altered.clone().unwrap_or_else(|| "as it was copied".into())),
            gate(
                "ANALYZE",
                matches!(self.analyze, Analyze::Done),
                false,
                match self.analyze {
                    Analyze::NotYet => format!("starts below {}", format::bytes(cx.config.analyze_below)),
                    Analyze::Running(_) => "running".into(),
                    Analyze::Done => "finished".into(),
                },
            ),
            gate(
                "replica identity",
                insert_only == 0,
                false,
                if insert_only == 0 { "all changes arrive".into() } else { format!("{insert_only} insert-only, accepted") },
            ),
            gate("writers", quiet > Duration::from_secs(10), false, format!("last change {} s ago", quiet.as_secs())),
        ]
    }
}
