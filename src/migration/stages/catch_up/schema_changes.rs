//! A table of the source that was altered while its changes are replayed.

use std::collections::HashMap;

use super::replay::{LOOK, RunningReplay};
use crate::{
    error::Result,
    event::{Event, Level},
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{self, Shape},
        ledger,
    },
    replay::schema_change::SchemaChange,
    scope::Scope,
};

impl RunningReplay {
    /// A table of the target was altered as its source was: what is compared from now on.
    pub(super) async fn follow(&mut self, cx: &mut Context, change: SchemaChange) -> Result<()> {
        let SchemaChange { oid, before, now, columns } = change;
        let fresh = tokio::time::timeout(LOOK, catalog::shapes(&self.source, &Scope::default())).await.ok().and_then(Result::ok).unwrap_or_default();
        let known = cx.record.shapes.values().find(|shape| shape.oid == oid).cloned().unwrap_or_default();
        cx.record.shapes.retain(|_, shape| shape.oid != oid);
        let names = |shape: &[catalog::ShapeColumn]| {
            shape.iter().filter(|c| !c.generated).map(|c| (c.name.clone(), c.type_oid, c.type_modifier)).collect::<std::collections::BTreeSet<_>>()
        };
        // Others may have been renamed with it, and have each other's names.
        let names_now: HashMap<u32, &String> = fresh.iter().map(|(name, shape)| (shape.oid, name)).collect();
        let renamed = std::mem::take(&mut cx.record.shapes).into_iter();
        cx.record.shapes = renamed.map(|(name, shape)| (names_now.get(&shape.oid).map_or(name, |now| (*now).clone()), shape)).collect();
        // The source may be further than the stream; then the next change of the table tells.
        let shape = fresh.into_iter().find(|(_, shape)| shape.oid == oid && names(&shape.columns) == names(&columns));
        let (name, shape) = shape.unwrap_or_else(|| (now.to_string(), Shape { columns, ..known.clone() }));
        if known.was_rewritten(&shape) {
            cx.record.rewritten.insert(oid);
        }
        cx.record.shapes.insert(name, shape);
        cx.save()?;
        ledger::rename_relation(&cx.target("catch-up").await?, oid, &now).await?;
        self.schema.forget();
        self.slot_checked = None;
        let text =
            if before == now { format!("{now}: replay goes on with its new columns") } else { format!("{before} is {now} now: replay goes on") };
        cx.notice(Level::Info, text).await;
        Ok(())
    }

    /// Tables that have been renamed on both sides, and that the stream has not described under their new names yet.
    pub(super) async fn follow_names(&mut self, cx: &mut Context) -> Result<()> {
        let known = |oid: u32| cx.record.shapes.iter().find(|(_, shape)| shape.oid == oid);
        let renamed: Vec<(u32, TableName, TableName, Vec<catalog::ShapeColumn>)> = (self.schema.shapes().iter())
            .filter_map(|(name, shape)| {
                let (before, was) = known(shape.oid).filter(|(before, _)| *before != name)?;
                Some((shape.oid, TableName::parse(before)?, TableName::parse(name)?, was.columns.clone()))
            })
            .collect();
        if renamed.is_empty() {
            return Ok(());
        }
        let on_target: HashMap<u32, u32> = self.relations().iter().map(|r| (r.oid, r.shape.oid)).collect();
        let there = catalog::names_of(&cx.target("catch-up").await?, &on_target.values().copied().collect::<Vec<_>>()).await?;
        for (oid, before, now, columns) in renamed {
            if on_target.get(&oid).and_then(|oid| there.get(oid)) == Some(&now) {
                self.follow(cx, SchemaChange { oid, before, now, columns }).await?;
            }
        }
        Ok(())
    }

    /// Runs statements for the target that the operator has chosen.
    pub(super) async fn run_statements(&mut self, cx: &mut Context, statements: &[String]) {
        let applied = self.applied().all;
        if let Err(why) = self.schema.run(cx, statements, applied).await {
            cx.reporter.report(Event::CommandRefused { command: "run".into(), why }).await;
        }
        // The next sample reads the result.
        self.slot_checked = None;
    }
}
