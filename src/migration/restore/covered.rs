//! The safety net between the dump and the copy: both decide by the source's catalog what is migrated, each in its own way.

use std::collections::HashSet;

use crate::{
    error::{Error, Result},
    name::TableName,
    pg::{
        catalog::{self, SourceRelation},
        client::Client,
        dump::{Phase, Schema},
    },
};

/// Refuses a schema that creates a table whose rows would not be copied, or a sequence whose value would not be set. `relations` are
/// those whose rows are copied, or left out by a filter.
pub async fn refuse_uncovered(source: &Client, schema: &Schema, relations: &[SourceRelation]) -> Result<()> {
    let mut tables: HashSet<TableName> = relations.iter().map(|r| r.table.clone()).collect();
    let roots: Vec<u32> = relations.iter().filter(|r| r.storage.is_partitioned()).map(|r| r.oid).collect();
    tables.extend(catalog::partition_names(source, &roots).await?);
    let sequences =
        if schema.sequences.is_empty() { HashSet::new() } else { catalog::sequence_names(source).await?.into_iter().map(|(_, name)| name).collect() };
    let table = schema.tables.iter().find(|(table, phase)| !tables.contains(table) || *phase != Phase::PreData).map(|(table, _)| ("table", table));
    let sequence = || schema.sequences.iter().find(|name| !sequences.contains(name)).map(|name| ("sequence", name));
    let Some((kind, name)) = table.or_else(sequence) else { return Ok(()) };
    Err(Error::refused(format!("{kind} {name} would be created on the target, but hyperlift would not copy what it holds"))
        .hint("leave it out (--exclude table:…) and move it by pg_dump; and report this as a fault of hyperlift"))
}
