//! The copy as a whole: its jobs and the index builders are started, driven until every relation is there, and ended.

mod drive;
mod start;

use tokio::sync::watch;

use self::start::Tables;
use super::shared::WhenAltered;
use crate::{
    error::{Error, Result},
    lsn::Lsn,
    migration::context::Context,
    pg::{
        catalog::SourceRelation,
        client::{self, Client},
        connect::session::Side,
        dump::Statement,
        ledger::{self, RelationEntry, RelationState},
    },
};

/// Copies what is not copied yet, and builds indexes, until everything is there.
pub async fn run(cx: &mut Context, relations: &[SourceRelation], statements: &[Statement], copied_at: watch::Sender<Lsn>) -> Result<()> {
    let tables = Tables { schema: cx.record.schema_state.clone(), when_altered: WhenAltered::Leave, copied_at };
    let mut running = start::start(cx, relations, statements, tables).await?;
    let result = running.drive(cx).await;
    running.end().await;
    result?;
    make_durable(&cx.target("copy").await?, relations).await
}

/// Begins to copy relations whose indexes are there, beside other work of the stage. What is returned ends when all are copied, durably.
/// `schema` is the state of the source's catalogs that the target has followed; `None` while it still does.
pub async fn beside(
    cx: &Context,
    relations: Vec<SourceRelation>,
    schema: Option<String>,
    copied_at: watch::Sender<Lsn>,
) -> Result<impl Future<Output = Result<()>> + Send + 'static> {
    let tables = Tables { schema, when_altered: WhenAltered::End, copied_at };
    let mut running = start::start(cx, &relations, &[], tables).await?;
    let (config, application) = (cx.config.clone(), cx.application("copy"));
    Ok(async move {
        let result = running.finish().await;
        running.end().await;
        result?;
        make_durable(&client::connect(&config.target, Side::Target, &application).await?, &relations).await
    })
}

/// Flushes what was committed without waiting for the disk. What a crash of the target has undone has no row in the ledger any more.
async fn make_durable(target: &Client, relations: &[SourceRelation]) -> Result<()> {
    ledger::flush(target).await?;
    let entries = ledger::relations(target).await?;
    // Those that were left to catch-up are not copied yet.
    let is_lost = |e: &RelationEntry| e.state == RelationState::Planned && e.side_lane.is_none();
    let lost = relations.iter().find(|r| entries.get(&r.oid).is_none_or(is_lost));
    lost.map_or(Ok(()), |r| {
        Err(Error::failed(format!("the target has lost the copy of {}, which was complete", r.table))
            .hint("did it crash? Start hyperlift again: it copies again what was lost"))
    })
}
