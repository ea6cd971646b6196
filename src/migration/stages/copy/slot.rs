//! Publications, slot and horizon, in this order (I1); and the wait for a snapshot that may be used.

use std::time::Duration;

use crate::{
    bus::Reporter,
    error::{Error, Result},
    event::{self, Event, Level},
    lsn::Lsn,
    migration::context::Context,
    pg::{
        catalog::{self, SourceRelation},
        client::Client,
        own::Names,
        publication::{self, Published},
        slot,
    },
    plan::IdentityChoice,
};

/// How often it is looked whether what is waited for has ended.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Makes what is not there yet; returns the slot's consistent point and what it was confirmed up to.
pub async fn prepare(cx: &mut Context, relations: &[SourceRelation]) -> Result<(Lsn, Lsn)> {
    let names = Names::new(&cx.record.id);
    let source = cx.source("slot").await?;
    let published: Vec<Published<'_>> = relations
        .iter()
        .filter(|r| !r.unlogged)
        .map(|r| Published { relation: r, insert_only: cx.plan.identity(&r.table) == Some(&IdentityChoice::InsertOnly) })
        .collect();
    let existing = slot::slot(&source, &names.slot).await?;
    match (cx.record.slot, existing) {
        (Some(lsn), Some(slot)) => {
            slot.check(&names.slot)?;
            cx.reporter.report(Event::SlotCreated { slot: names.slot, lsn }).await;
            return Ok((lsn, slot.confirmed));
        }
        (Some(_), None) => {
            return Err(Error::refused(format!("slot {} is gone from the source", names.slot))
                .detail("what was written since cannot be received any more")
                .hint("run `hyperlift clean` and start again"));
        }
        // Made by a run that was killed before it could record it: nothing was copied yet, so another is made.
        (None, Some(_)) => {
            source.execute("select pg_drop_replication_slot($1)", &[&names.slot]).await?;
        }
        (None, None) => {}
    }
    cx.unless_stopped(publication::publish(&source, &names, &published)).await?;
    let lsn = create_slot(cx, &source, &names).await?;
    cx.record.slot = Some(lsn);
    cx.save()?;
    cx.reporter.report(Event::SlotCreated { slot: names.slot, lsn }).await;
    Ok((lsn, lsn))
}

/// Creates the slot and shows, meanwhile, whom it waits for. A stop cancels it: half-made slots vanish with their session.
async fn create_slot(cx: &Context, source: &Client, names: &Names) -> Result<Lsn> {
    let watcher = cx.source("watch").await?;
    let create = slot::create(source, &names.slot);
    tokio::pin!(create);
    let mut shown = false;
    loop {
        tokio::select! {
            lsn = &mut create => {
                show(&cx.reporter, "the replication slot", Vec::new(), &mut shown).await;
                return lsn;
            }
            () = cx.cancel.cancelled() => {
                source.cancel().await.ok();
                return Err(Error::stopped());
            }
            () = tokio::time::sleep(LOOK_EVERY) => {
                let holders = catalog::holders(&watcher, None).await?;
                show(&cx.reporter, "the replication slot", holders, &mut shown).await;
            }
        }
    }
}

/// Tells who is waited for, and once that it is over.
pub async fn show(reporter: &Reporter, what: &str, holders: Vec<catalog::TransactionHolder>, shown: &mut bool) {
    if holders.is_empty() && !*shown {
        return;
    }
    if let (Some(first), false) = (holders.first(), *shown) {
        reporter.notice(Level::Info, format!("{what} waits for {} ({})", first.who, first.state)).await;
    }
    *shown = !holders.is_empty();
    let holders = holders.into_iter().map(|h| event::Holder { pid: h.pid, who: h.who, state: h.state, seconds: h.seconds, query: h.query }).collect();
    reporter.report(Event::Waiting { what: what.to_owned(), holders }).await;
}
