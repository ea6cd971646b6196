//! What this migration covers: its relations, what the plan says about them, and the stream of their changes.

use super::context::Context;
use crate::{
    error::{Error, Result},
    event::{RelationKind, RelationSummary, Stage},
    pg::{
        catalog::SourceRelation,
        client::Client,
        ledger,
        own::Names,
        publication::{self, Unpublished},
    },
    replay::receiver::Origin,
    scope::Inclusion,
};

/// The relations of this migration. Before they are published these are all whose rows are in scope, afterwards those that it began with: a
/// newer table is in no publication.
pub async fn in_scope(cx: &Context, mut relations: Vec<SourceRelation>) -> Result<Vec<SourceRelation>> {
    let known = match cx.record.slot {
        Some(_) => ledger::relations(&cx.target("scope").await?).await?,
        None => std::collections::HashMap::new(),
    };
    if known.is_empty() {
        relations.retain(|r| cx.plan.scope.inclusion(&r.table) == Inclusion::All);
        return Ok(relations);
    }
    relations.retain(|r| known.contains_key(&r.oid));
    // Until the copy is complete, the target and its statements have the names of its beginning. Then replay follows.
    if !cx.is_finished(Stage::Copy) {
        for relation in &mut relations {
            relation.table.clone_from(&known[&relation.oid].table);
        }
    }
    Ok(relations)
}

/// Tables that somebody has taken out of a publication since the copy: catch-up copies them again. Refuses to continue where a whole publication
/// is another one, and during the copy.
pub async fn taken_out(cx: &Context, source: &Client) -> Result<Vec<Unpublished>> {
    let found = publication::unpublished(source, &cx.record.publications).await?;
    if cx.is_finished(Stage::Copy) && found.iter().all(|u| u.alone) { Ok(found) } else { publication::refusal(&found).map_or(Ok(Vec::new()), Err) }
}

/// Refuses to continue once somebody has changed what is published: the stream may lack changes, and nothing in it shows that.
pub async fn refuse_unpublished(cx: &Context, source: &Client) -> Result<()> {
    let found = publication::unpublished(source, &cx.record.publications).await?;
    publication::refusal(&found).map_or(Ok(()), Err)
}

/// Where the stream of this migration comes from.
pub fn origin(cx: &Context) -> Origin {
    let names = Names::new(&cx.record.id);
    Origin {
        source: cx.config.source.clone(),
        application_name: cx.application("receiver"),
        slot: names.slot,
        publications: vec![names.publication, names.insert_only],
        recorded: cx.record.publications.clone(),
        system_id: cx.record.source.system_id.clone(),
    }
}

pub fn summary(r: &SourceRelation, cx: &Context) -> RelationSummary {
    let kind = match (cx.plan.hypertable(&r.table).is_some(), r.storage.is_partitioned()) {
        (true, _) => RelationKind::Hypertable,
        (false, true) => RelationKind::Partitioned,
        (false, false) => RelationKind::Plain,
    };
    RelationSummary { table: r.table.clone(), kind, bytes: r.bytes, rows: r.rows }
}

/// Whether the plan's hypertables are tables of the source with such columns. Checked before anything is created.
pub fn check_plan_names(cx: &Context, relations: &[SourceRelation]) -> Result<()> {
    for h in &cx.plan.hypertables {
        let wrong = match relations.iter().find(|r| r.table == h.table) {
            Some(_) if cx.plan.scope.inclusion(&h.table) == Inclusion::Nothing => format!("the plan names {}, which its filters leave out", h.table),
            None => format!("the plan names {}, which the source does not have", h.table),
            Some(r) if r.columns.iter().all(|c| c.name != h.time_column) => format!("the plan: {} has no column {}", h.table, h.time_column),
            Some(_) => continue,
        };
        return Err(Error::usage(wrong).hint("correct the [[hypertable]] entry of the plan"));
    }
    for table in &cx.plan.one_table {
        if !relations.iter().any(|r| r.table == *table && r.storage.is_partitioned()) {
            return Err(Error::usage(format!("the plan names {table} in one_table, but the source has no partitioned table of that name"))
                .hint("correct one_table in the plan"));
        }
    }
    Ok(())
}
