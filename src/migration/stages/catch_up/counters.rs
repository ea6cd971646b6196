//! What was applied to each table, and what was missed: reported to the screens, and recorded where it decides how the migration ends.

use std::collections::HashMap;
use tokio::sync::watch;

use super::{replay::RunningReplay, status::AppliedCounters};
use crate::{
    error::Result,
    event::{self, Difference, Event},
    migration::context::Context,
    pg::ledger,
    replay::relation::{RelationCounters, Relations},
};

/// The counters of lanes that begin, in the order of the relations. By OID: `missed` is what the ledger says, `earlier` what other lanes of
/// this run have counted.
pub async fn begin(
    cx: &mut Context,
    relations: &Relations,
    missed: &HashMap<u32, u64>,
    counters: Vec<watch::Receiver<RelationCounters>>,
    earlier: &HashMap<u32, RelationCounters>,
) -> Vec<AppliedCounters> {
    let mut all = Vec::new();
    for (relation, counters) in relations.iter().zip(counters) {
        let missed_before = missed.get(&relation.oid).copied().unwrap_or(0);
        if missed_before > 0 {
            cx.record.differences.insert(relation.table.clone(), Difference::Missed(missed_before));
            cx.reporter.report(Event::Missed { table: relation.table.clone(), missed: missed_before }).await;
        }
        // What they skipped is among what the ledger says was missed.
        let earlier = RelationCounters { conflicts_skipped: 0, ..earlier.get(&relation.oid).copied().unwrap_or_default() };
        all.push(AppliedCounters { counters, earlier, last_reported: RelationCounters::default(), missed_before });
    }
    all
}

impl RunningReplay {
    /// Reports the tables that were changed, and records what was missed: it decides how the migration ends.
    pub async fn report_counters(&mut self, cx: &mut Context) -> Result<()> {
        let mut more_missed = false;
        for (relation, known) in self.relations().iter().zip(&mut self.lanes.counters) {
            let now = *known.counters.borrow();
            if now == std::mem::replace(&mut known.last_reported, now) {
                continue;
            }
            let table = relation.table.clone();
            let missed = known.missed_before + now.conflicts_skipped;
            let difference = Difference::Missed(missed);
            if missed > 0 && cx.record.differences.insert(table.clone(), difference) != Some(difference) {
                more_missed = true;
                cx.reporter.report(Event::Missed { table: table.clone(), missed }).await;
            }
            let mut all = known.earlier;
            all.add(&now);
            cx.reporter.report(Event::TableReplayed { table, counters: since_the_beginning(all, missed) }).await;
        }
        if more_missed { cx.save() } else { Ok(()) }
    }
}

/// What the ledger says was missed goes into the record, because the ledger is dropped before the migration has ended.
pub async fn settle(cx: &mut Context) -> Result<()> {
    for entry in ledger::relations(&cx.target("counters").await?).await?.into_values().filter(|e| e.missed > 0) {
        cx.record.differences.insert(entry.table, Difference::Missed(entry.missed));
    }
    cx.save()
}

/// The counters of this run, with what was missed since the migration began.
fn since_the_beginning(run: RelationCounters, missed: u64) -> event::TableCounters {
    let RelationCounters { inserts, updates, deletes, truncates, conflicts_skipped: _, sets, in_order, full_row } = run;
    event::TableCounters { inserts, updates, deletes, truncates, sets, in_order, full_row, missed }
}

/// `12 changes of public.orders, public.items (accepted)`: the tables that are known to differ; empty when there are none.
pub fn differences(cx: &Context) -> String {
    let tables = cx.record.differences.iter().map(|(table, difference)| match difference {
        Difference::Accepted => format!("{table} (accepted)"),
        Difference::Missed(1) => format!("1 change of {table}"),
        Difference::Missed(n) => format!("{n} changes of {table}"),
    });
    tables.collect::<Vec<_>>().join(", ")
}
