//! What was applied to each table, and what was missed: told to the screens, and recorded where it decides how the migration ends.

use std::collections::HashMap;
use tokio::sync::watch;

use super::replay::Replay;
use crate::{
    error::Result,
    event::Event,
    migration::context::Context,
    pg::ledger,
    replay::relation::{Counters, Relation, Relations},
};

/// Counters of a relation, and what was told of them.
pub struct Tally {
    counters: watch::Receiver<Counters>,
    told: Counters,
    /// Changes that earlier runs have missed.
    missed_before: u64,
}

/// The tallies of a new run, in the order of the relations; `missed` is what the ledger says, by OID.
pub async fn begin(cx: &mut Context, relations: &Relations, missed: &HashMap<u32, u64>, counters: Vec<watch::Receiver<Counters>>) -> Vec<Tally> {
    let mut tallies = Vec::new();
    for (relation, counters) in relations.iter().zip(counters) {
        let missed_before = missed.get(&relation.oid).copied().unwrap_or(0);
        if missed_before > 0 {
            cx.record.missed.insert(relation.table.to_string(), missed_before);
            cx.reporter.report(Event::Missed { table: relation.table.clone(), missed: missed_before }).await;
        }
        tallies.push(Tally { counters, told: Counters::default(), missed_before });
    }
    tallies
}

impl Replay {
    /// Tells of the tables that were changed, and records what was missed: it decides how the migration ends.
    pub async fn tell_counters(&mut self, cx: &mut Context) -> Result<()> {
        let mut missed = false;
        for (relation, known) in self.relations().iter().zip(&mut self.counters) {
            let now = *known.counters.borrow();
            if now == std::mem::replace(&mut known.told, now) {
                continue;
            }
            let all_missed = known.missed_before + now.conflicts_skipped;
            if all_missed > 0 && cx.record.missed.insert(relation.table.to_string(), all_missed) != Some(all_missed) {
                missed = true;
                cx.reporter.report(Event::Missed { table: relation.table.clone(), missed: all_missed }).await;
            }
            cx.reporter.report(replayed(relation, Counters { conflicts_skipped: all_missed, ..now })).await;
        }
        if missed { cx.save() } else { Ok(()) }
    }
}

/// What the ledger says was missed becomes the record's: the ledger goes before the migration has ended.
pub async fn settle(cx: &mut Context) -> Result<()> {
    for entry in ledger::relations(&cx.target("tally").await?).await?.into_values().filter(|e| e.missed > 0) {
        cx.record.missed.insert(entry.table.to_string(), entry.missed);
    }
    cx.save()
}

fn replayed(relation: &Relation, c: Counters) -> Event {
    Event::TableReplayed {
        table: relation.table.clone(),
        inserts: c.inserts,
        updates: c.updates,
        deletes: c.deletes,
        truncates: c.truncates,
        sets: c.sets,
        in_order: c.in_order,
        full_row: c.full_row,
        missed: c.conflicts_skipped,
    }
}

/// `12 changes of public.orders, public.items (accepted)`: the tables that are known to differ; empty when there are none.
pub fn differences(cx: &Context) -> String {
    let tables = cx.record.missed.iter().map(|(table, missed)| match missed {
        0 => format!("{table} (accepted)"),
        1 => format!("1 change of {table}"),
        n => format!("{n} changes of {table}"),
    });
    tables.collect::<Vec<_>>().join(", ")
}
