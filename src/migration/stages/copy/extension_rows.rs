//! The user's rows in the tables of extensions (B-21). The extension creates the tables; the rows are copied once.

use std::collections::HashSet;

use crate::{
    error::Result,
    event::Level,
    migration::context::Context,
    name::literal,
    pg::{
        catalog::{
            self,
            unsupported::{self, ExtensionTable},
        },
        client::Client,
        connect::session::Side,
        ledger,
        wire::{Wire, pipe_copy},
    },
};

/// Copies the tables that no earlier run has copied. What the target refuses is reported.
pub async fn copy(cx: &mut Context) -> Result<()> {
    let source = cx.source("extensions").await?;
    let on_target: HashSet<String> = catalog::extension_names(&cx.target("extensions").await?).await?;
    // An extension that the target does not have has no tables there.
    for table in unsupported::extension_tables(&source).await?.into_iter().filter(|t| on_target.contains(&t.extension)) {
        let step = format!("rows of {}", table.table);
        if ledger::has_step(&cx.target("extensions").await?, &step).await? {
            continue;
        }
        match cx.unless_stopped(copy_one(cx, &source, &table, &step)).await {
            Ok(0) => {}
            Ok(rows) => cx.notice(Level::Info, format!("extension {}: {rows} rows of yours copied into {}", table.extension, table.table)).await,
            Err(e) if e.is_stop() || e.is_transient() => return Err(e),
            Err(e) => cx.not_moved(format!("ROWS of {} (extension {})", table.table, table.extension), e.to_string()).await?,
        }
    }
    Ok(())
}

/// Copies one table, or the value of one sequence, and records it; returns the number of rows.
async fn copy_one(cx: &Context, source: &Client, table: &ExtensionTable, step: &str) -> Result<u64> {
    let name = &table.table;
    let record = ledger::step_sql(step);
    if table.sequence {
        let last: i64 = catalog::value(source, &format!("select last_value from {name}")).await?;
        let called: bool = catalog::value(source, &format!("select is_called from {name}")).await?;
        let sql = format!("begin; select setval({}::regclass, {last}, {called}); {record}; commit", literal(name));
        cx.target("extensions").await?.batch_execute(&sql).await?;
        return Ok(0);
    }
    let (from, to) = (cx.application("extensions-out"), cx.application("extensions-in"));
    let mut out = Wire::open(&cx.config.source, Side::Source, &from).await?;
    let mut into = Wire::open(&cx.config.target, Side::Target, &to).await?;
    into.simple("begin").await?;
    out.copy_out(&format!("copy (select {} from {name} {}) to stdout", table.columns, table.condition)).await?;
    into.copy_in(&format!("copy {name} ({}) from stdin", table.columns)).await?;
    let copied = pipe_copy(&mut out, &mut into, &mut |_, _| {}).await?;
    into.simple(&format!("{record}; commit")).await?;
    Ok(copied.rows_in)
}
