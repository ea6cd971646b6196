//! Starts the copy: reads from the ledger what remains to be done, starts the index builders, and makes what the jobs share.

use std::{collections::HashMap, sync::Arc};
use tokio::sync::{mpsc, watch};

use super::{
    super::{
        chunks::Chunking,
        format::Types,
        indexes::{self, IndexJob},
        parts,
        queue::{CopyQueue, CopyQueueEntry},
        shared::{CopyShared, WhenAltered},
        source::CopySource,
        tasks::StageTasks,
        throttle::Throttle,
    },
    drive::{MOST_JOBS, RunningCopy},
};
use crate::{
    error::Result,
    event::{CopyProgress, Event, TableState},
    lsn::Lsn,
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::{self, SourceRelation},
        client::Client,
        dump::{Phase, Statement},
        ledger::{self, RelationState},
        slot, timescale,
    },
    plan::Plan,
};

/// What the copy has to know of the target's tables.
pub struct Tables {
    /// The state of the source's catalogs that they were made from; `None` while the target still follows.
    pub schema: Option<String>,
    pub when_altered: WhenAltered,
    /// Gets the greatest L.
    pub copied_at: watch::Sender<Lsn>,
}

/// Starts the index builders with what earlier runs have copied. The jobs start when the copy is driven.
pub async fn start(cx: &Context, relations: &[SourceRelation], statements: &[Statement], tables: Tables) -> Result<RunningCopy> {
    let Tables { schema, when_altered, copied_at } = tables;
    let Beginning { sorted: Sorted { todo, to_index }, horizon, types, hypertables, path } = begin(cx, relations, statements).await?;
    let indexes = todo.iter().map(|t| (t.relation.table.clone(), t.statements.len() as u64)).collect();
    cx.reporter.report(Event::IndexesCounted { indexes }).await;
    let prompts = cx.prompts.sender();
    let cancel = cx.cancel.child_token();
    let (tasks, failed) = StageTasks::new(cancel.clone());
    let (index_jobs, incoming) = mpsc::unbounded_channel();
    let (finished, done) = mpsc::unbounded_channel();
    tasks.spawn(indexes::build(cx, relations, prompts.clone(), incoming, finished));
    for job in to_index {
        let (table, state) = (job.table.clone(), if job.skipped { TableState::Skipped } else { TableState::Waiting });
        cx.reporter.report(Event::CopyProgress(CopyProgress { table, state, rows: job.rows, bytes: job.bytes, error: None })).await;
        let _ = index_jobs.send(job);
    }
    let (pause, paused) = watch::channel(false);
    let table_jobs = cx.config.table_jobs.clamp(1, MOST_JOBS);
    let (want, wanted) = watch::channel(table_jobs);
    cx.reporter.report(Event::JobsChanged { table_jobs, index_jobs: cx.config.index_jobs }).await;
    let total = relations.iter().map(|r| r.bytes).sum();
    let split = cx.config.split_larger_than.unwrap_or_else(|| parts::default_split(total, table_jobs));
    let prefix = cx.application("");
    let source = CopySource { conninfo: cx.config.source.clone(), reporter: cx.reporter.clone(), prefix: prefix.clone(), horizon };
    let shared = Arc::new(CopyShared {
        config: cx.config.clone(),
        reporter: cx.reporter.clone(),
        source,
        prefix,
        split,
        types,
        merged: relations.iter().filter(|r| r.storage.is_partitioned() && cx.plan.is_one_table(&r.table)).map(|r| r.table.clone()).collect(),
        hypertables,
        path,
        queue: CopyQueue::new(todo, split),
        throttle: Throttle::new(paused, cx.config.copy_rate),
        wanted,
        prompts,
        index_jobs,
        tasks: tasks.clone(),
        schema,
        when_altered,
        copied_at,
    });
    let remaining = relations.iter().map(|r| r.table.clone()).collect();
    Ok(RunningCopy { shared, tasks, failed, done, remaining, pause, want, _guard: cancel.drop_guard() })
}

/// What was read from source and target before the copy.
struct Beginning {
    sorted: Sorted,
    horizon: u64,
    types: Types,
    hypertables: HashMap<TableName, Chunking>,
    path: String,
}

async fn begin(cx: &Context, relations: &[SourceRelation], statements: &[Statement]) -> Result<Beginning> {
    let target = cx.target("copy").await?;
    // From here on no session of an earlier run can record anything.
    ledger::begin_attempts(&target, &relations.iter().map(|r| r.oid).collect::<Vec<_>>()).await?;
    let source = cx.source("horizon").await?;
    Ok(Beginning {
        horizon: slot::horizon(&source).await?,
        sorted: sort(&cx.plan, &source, &target, relations, statements).await?,
        types: Types {
            source: catalog::binary_types(&source).await?,
            target: catalog::binary_types(&target).await?,
            encodings: (catalog::encoding(&source).await?, catalog::encoding(&target).await?),
        },
        hypertables: hypertables(cx, &target).await?,
        path: ledger::migration(&target).await?.map_or_else(String::new, |known| known.path()),
    })
}

/// The relations, by what remains to be done with them.
struct Sorted {
    todo: Vec<CopyQueueEntry>,
    to_index: Vec<IndexJob>,
}

async fn sort(plan: &Plan, source: &Client, target: &Client, relations: &[SourceRelation], statements: &[Statement]) -> Result<Sorted> {
    let entries = ledger::relations(target).await?;
    let mut unfinished = ledger::unfinished(target, None).await?;
    let mut by_table: HashMap<&TableName, Vec<Statement>> = HashMap::new();
    for s in statements.iter().filter(|s| s.phase == Phase::Index) {
        if let Some(table) = &s.table {
            by_table.entry(table).or_default().push(s.clone());
        }
    }
    let mut sorted = Sorted { todo: Vec::new(), to_index: Vec::new() };
    for r in relations {
        let mut tables =
            if r.storage.is_partitioned() && !plan.is_one_table(&r.table) { catalog::leaves(source, &r.table).await? } else { Vec::new() };
        tables.push(r.table.clone());
        let identity = r.identity_index.clone().or_else(|| r.primary_key().map(|p| p.name.clone()));
        let own = tables.iter().filter_map(|t| by_table.remove(t)).flatten().collect();
        let statements = indexes::identity_first(own, identity.as_deref());
        match entries.get(&r.oid).map(|e| &e.state) {
            Some(RelationState::Copied { .. }) => {
                sorted.to_index.push(IndexJob { table: r.table.clone(), rows: r.rows, bytes: r.bytes, statements, skipped: false, fresh: false });
            }
            Some(RelationState::Skipped) => {
                sorted.to_index.push(IndexJob { table: r.table.clone(), rows: 0, bytes: 0, statements, skipped: true, fresh: false });
            }
            _ => {
                let target = unfinished.remove(&r.oid).unwrap_or_default();
                sorted.todo.push(CopyQueueEntry { relation: r.clone(), statements, target, tried: false, late: false });
            }
        }
    }
    Ok(sorted)
}

/// The hypertables, and which of their chunks can be created before the copy.
async fn hypertables(cx: &Context, target: &Client) -> Result<HashMap<TableName, Chunking>> {
    let mut found = HashMap::new();
    if cx.plan.hypertables.is_empty() {
        return Ok(found);
    }
    let most = timescale::chunks_beforehand(target).await?;
    let mut made = timescale::hypertables(target).await?;
    for h in &cx.plan.hypertables {
        let mut dimensions = made.remove(&h.table).unwrap_or_default();
        // With a second dimension, by hash, a chunk is a range of both: it is not created before the copy.
        let dimension = dimensions.pop().filter(|_| dimensions.is_empty());
        found.insert(h.table.clone(), Chunking { dimension, most });
    }
    Ok(found)
}
