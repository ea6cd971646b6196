//! The user's rows in the tables of extensions: the extension makes the tables, and what was written to them is copied once (B-21).

use crate::{
    error::Result,
    event::Level,
    migration::Migration,
    name::literal,
    pg::{
        apart::{self, ExtensionTable},
        catalog,
        client::{Client, Side},
        ledger,
        wire::{Wire, pipe_copy},
    },
};

/// Copies what no earlier run has copied. What the target does not take is told of.
pub async fn copy(m: &mut Migration) -> Result<()> {
    let source = m.source("extensions").await?;
    let mut tables = apart::extension_tables(&source).await?;
    tables.retain(|t| m.plan.scope.has_extension(&t.extension));
    for table in tables {
        let step = format!("rows of {}", table.table);
        if ledger::has_step(&m.target("extensions").await?, &step).await? {
            continue;
        }
        match m.unless_stopped(copy_one(m, &source, &table, &step)).await {
            Ok(0) => {}
            Ok(rows) => m.notice(Level::Info, format!("extension {}: {rows} rows of yours copied into {}", table.extension, table.table)).await,
            Err(e) if e.is_stop() || e.is_transient() => return Err(e),
            Err(e) => m.not_moved(format!("ROWS of {} (extension {})", table.table, table.extension), e.to_string()).await?,
        }
    }
    Ok(())
}

async fn copy_one(m: &Migration, source: &Client, table: &ExtensionTable, step: &str) -> Result<u64> {
    let name = &table.table;
    let record = ledger::step_sql(step);
    if table.sequence {
        let last: i64 = catalog::value(source, &format!("select last_value from {name}")).await?;
        let called: bool = catalog::value(source, &format!("select is_called from {name}")).await?;
        let sql = format!("begin; select setval({}::regclass, {last}, {called}); {record}; commit", literal(name));
        m.target("extensions").await?.batch_execute(&sql).await?;
        return Ok(0);
    }
    let (from, to) = (m.application("extensions-out"), m.application("extensions-in"));
    let mut out = Wire::open(&m.config.source, Side::Source, &from).await?;
    let mut into = Wire::open(&m.config.target, Side::Target, &to).await?;
    into.simple("begin").await?;
    out.copy_out(&format!("copy (select {} from {name} {}) to stdout", table.columns, table.condition)).await?;
    into.copy_in(&format!("copy {name} ({}) from stdin", table.columns)).await?;
    let copied = pipe_copy(&mut out, &mut into, &mut |_, _| {}).await?;
    into.simple(&format!("{record}; commit")).await?;
    Ok(copied.rows_in)
}
