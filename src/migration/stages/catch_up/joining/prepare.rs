//! What comes before the copy of relations that are away: they are published, and their tables are emptied and get the source's columns.

use std::{collections::HashSet, sync::Arc, time::Duration};

use super::super::{super::copy::transfer, away::Prepared};
use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::Level,
    migration::{context::Context, restore::ddl},
    name::{TableName, ident},
    pg::{
        catalog::{self, SourceRelation},
        client::{self, Client},
        connect::session::Side,
        ledger,
        level_columns::level_columns,
        own::Names,
        publication::{self, Published},
        target_table::TableKind,
        wire::Wire,
    },
    plan::IdentityChoice,
    sqlstate,
};

/// Before a lock on a table of the source is asked for again.
const LOCK_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The work, with all that it needs, so that it can run beside replay.
pub struct Preparation {
    config: Arc<Config>,
    reporter: Reporter,
    application: String,
    names: Names,
    oids: Vec<u32>,
    insert_only: HashSet<TableName>,
    hypertables: HashSet<TableName>,
    one_table: HashSet<TableName>,
}

impl Preparation {
    pub fn new(cx: &Context, oids: Vec<u32>) -> Self {
        let insert_only = cx.plan.identities.iter().filter(|(_, choice)| **choice == IdentityChoice::InsertOnly).map(|(table, _)| table.clone());
        Self {
            config: cx.config.clone(),
            reporter: cx.reporter.clone(),
            application: cx.application("joining"),
            names: Names::new(&cx.record.id),
            oids,
            insert_only: insert_only.collect(),
            hypertables: cx.plan.hypertables.iter().map(|h| h.table.clone()).collect(),
            one_table: cx.plan.one_table.iter().cloned().collect(),
        }
    }

    /// Prepares the relations. One that is gone from the source is no longer copied.
    pub async fn run(self) -> Result<Prepared> {
        let source = client::connect(&self.config.source, Side::Source, &self.application).await?;
        let target = client::connect(&self.config.target, Side::Target, &self.application).await?;
        let schema = catalog::schema_state(&source).await?;
        let relations = catalog::relations_of(&source, &self.oids).await?;
        for oid in self.oids.iter().filter(|oid| relations.iter().all(|r| r.oid != **oid)) {
            ledger::give_up(&target, *oid).await?;
        }
        let entries = ledger::relations(&target).await?;
        for relation in &relations {
            self.publish(&source, relation).await?;
            let on_target = entries.get(&relation.oid).and_then(|e| e.target_oid);
            let table = match on_target {
                Some(oid) => catalog::name_of(&target, oid).await?,
                None => None,
            };
            let table = table.ok_or_else(|| {
                Error::failed(format!("the target has no table {}", relation.table)).hint("create it there; the copy begins by itself then")
            })?;
            self.empty(relation, &table).await?;
            rename(&target, &table, &relation.table).await?;
            let statements = level_columns(&source, &target, relation.oid, &relation.table).await?;
            if !statements.is_empty() {
                let sql = statements.join(";\n");
                ddl::in_transaction(&target, &sql).await.map_err(|e| e.context(format!("{} cannot get the source's columns", relation.table)))?;
                self.reporter.notice(Level::Info, format!("{} has the source's columns: {}", relation.table, sql.replace('\n', " "))).await;
            }
        }
        Ok(Prepared { relations, schema })
    }

    /// Its changes are in the stream from here on; those of transactions that are open now may be there in part, and the copy waits for them.
    async fn publish(&self, source: &Client, relation: &SourceRelation) -> Result<()> {
        if relation.unlogged {
            return Ok(());
        }
        let published = Published { relation, insert_only: self.insert_only.contains(&relation.table) };
        loop {
            match publication::add(source, &self.names, &published).await {
                Err(e) if e.has_code(sqlstate::LOCK_NOT_AVAILABLE) => {
                    let text = format!("{} is locked on the source: it is published as soon as the lock is released", relation.table);
                    self.reporter.notice(Level::Info, text).await;
                    tokio::time::sleep(LOCK_AGAIN_AFTER).await;
                }
                other => return other,
            }
        }
    }

    async fn empty(&self, relation: &SourceRelation, table: &TableName) -> Result<()> {
        let kind = match () {
            () if self.hypertables.contains(&relation.table) => TableKind::Hypertable,
            () if relation.storage.is_partitioned() && !self.one_table.contains(&relation.table) => TableKind::Partitioned,
            () => TableKind::Plain,
        };
        let mut wire = Wire::open(&self.config.target, Side::Target, &self.application).await?;
        transfer::begin_attempt(&mut wire, relation.oid, table, kind).await.map(drop)
    }
}

/// Gives the target's table the name that it has on the source.
async fn rename(target: &Client, from: &TableName, to: &TableName) -> Result<()> {
    let mut name = from.clone();
    if name.schema != to.schema {
        target.batch_execute(&format!("alter table {} set schema {}", name.sql(), ident(&to.schema))).await?;
        name.schema.clone_from(&to.schema);
    }
    if name.name != to.name {
        target.batch_execute(&format!("alter table {} rename to {}", name.sql(), ident(&to.name))).await?;
    }
    Ok(())
}
