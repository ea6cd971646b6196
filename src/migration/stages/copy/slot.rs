//! Publications and slot, in this order (I1); and which transactions a slot, or a snapshot, waits for.

use std::time::Duration;

use super::super::identity;
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
        publication::{self, Publications, Published, Unpublished},
        slot,
    },
    plan::IdentityChoice,
};

/// How often the transactions are polled that the slot waits for.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// Creates publications and slot, if they do not exist yet; returns the slot's consistent point.
pub async fn prepare(cx: &mut Context, relations: &[SourceRelation]) -> Result<Lsn> {
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
            publication::mark(&source, &names).await?;
            if cx.record.publications.is_empty() {
                cx.record.publications = read_publications(&source, &names, &published).await?;
                cx.save()?;
            }
            cx.reporter.report(Event::SlotCreated { slot: names.slot, lsn }).await;
            return Ok(lsn);
        }
        (Some(_), None) => {
            return Err(slot::gone(&names.slot));
        }
        // An earlier run was killed after it had created the slot and before it could record it. Nothing was copied yet, so the slot is made
        // again.
        (None, Some(_)) => {
            source.execute("select pg_drop_replication_slot($1)", &[&names.slot]).await?;
        }
        (None, None) => {}
    }
    identity::refuse_unusable(cx, relations)?;
    cx.unless_stopped(publication::publish(&source, &names, &published)).await?;
    // Before the slot: nothing that is changed from now on is overlooked.
    cx.record.publications = read_publications(&source, &names, &published).await?;
    let lsn = create_slot(cx, &source, &names).await?;
    cx.record.slot = Some(lsn);
    cx.save()?;
    cx.reporter.report(Event::SlotCreated { slot: names.slot, lsn }).await;
    Ok(lsn)
}

/// Both publications as they are, with all that has to be in them.
async fn read_publications(source: &Client, names: &Names, published: &[Published<'_>]) -> Result<Publications> {
    let found = publication::publications(source, &[&names.publication, &names.insert_only]).await?;
    for Published { relation, insert_only } in published {
        let name = if *insert_only { &names.insert_only } else { &names.publication };
        if !found.get(name).is_some_and(|p| p.tables.contains_key(&relation.oid)) {
            let why = format!("it is not in publication {name}");
            let unpublished = Unpublished { oid: relation.oid, table: relation.table.clone(), why, alone: false };
            return Err(publication::refusal(&[unpublished]).expect("one table is not published"));
        }
    }
    Ok(found)
}

/// Creates the slot and reports which transactions it waits for. A stop cancels the statement: the server removes a slot that is not
/// complete.
async fn create_slot(cx: &Context, source: &Client, names: &Names) -> Result<Lsn> {
    let watcher = cx.source("watch").await?;
    let create = slot::create(source, &names.slot);
    tokio::pin!(create);
    let mut shown = false;
    loop {
        tokio::select! {
            lsn = &mut create => {
                report_holders(&cx.reporter, "the replication slot", Vec::new(), &mut shown).await;
                return lsn;
            }
            () = cx.cancel.cancelled() => {
                source.cancel().await.ok();
                return Err(Error::stopped());
            }
            () = tokio::time::sleep(POLL_INTERVAL) => {
                let holders = catalog::holders(&watcher, None).await?;
                report_holders(&cx.reporter, "the replication slot", holders, &mut shown).await;
            }
        }
    }
}

/// Reports the transactions that are waited for, and once that the wait is over. `shown` is whether a wait was reported before.
pub async fn report_holders(reporter: &Reporter, what: &str, holders: Vec<catalog::TransactionHolder>, shown: &mut bool) {
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
