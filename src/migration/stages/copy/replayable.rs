//! Whether the target takes the statements of replay. It is asked before a slot is created and a row is copied, so that a table whose changes
//! cannot be applied is named while there is still another choice.

use std::collections::HashMap;

use crate::{
    error::{Error, Result},
    migration::context::Context,
    name::TableName,
    pg::{
        catalog::SourceRelation,
        connect::session::Side,
        target_table::{self, TargetTable},
        wire::{Failed, Request, Wire},
    },
    plan::IdentityChoice,
    replay::statements,
    sqlstate,
};

/// Tables whose statements are sent without waiting for the answers to the first ones.
const TABLES_AT_A_TIME: usize = 200;
/// Tables that are named.
const NAMED: usize = 5;
/// A table that somebody has locked on the target is left out after this time: the copy will wait for it, and say so.
const LOCK_TIMEOUT: &str = "200ms";

/// A statement that the target has refused.
struct Refused {
    table: TableName,
    error: Error,
}

/// Lets the target prepare all statements.
pub async fn check(cx: &Context, relations: &[SourceRelation]) -> Result<()> {
    let replicated: Vec<&SourceRelation> = relations.iter().filter(|r| !r.unlogged).collect();
    let tables: Vec<TableName> = replicated.iter().map(|r| r.table.clone()).collect();
    let shapes = target_table::target_tables(&cx.target("replay").await?, &tables, cx.timescale.installed.is_some()).await?;
    let mut wire = Wire::open(&cx.config.target, Side::Target, &cx.application("replay")).await?;
    wire.execute(&format!("set lock_timeout = '{LOCK_TIMEOUT}'")).await?;
    let mut refused = Vec::new();
    for some in replicated.chunks(TABLES_AT_A_TIME) {
        prepare(&mut wire, &statements_of(cx, some, &shapes)?, &mut refused).await?;
    }
    wire.close().await;
    match refused.as_slice() {
        [] => Ok(()),
        [first, ..] => {
            let list: Vec<String> = refused.iter().map(|r| format!("{}: {}", r.table, r.error)).collect();
            Err(Error::refused("the target does not take the statements with which changes would be replayed").detail(list.join("; ")).hint(format!(
                "give {0} another replica identity, or replicate only its inserts: [[identity]] with table = \"{0}\" and use = \"insert-only\" in the plan; or leave the table out with --exclude",
                first.table
            )))
        }
    }
}

fn statements_of(cx: &Context, relations: &[&SourceRelation], shapes: &HashMap<TableName, TargetTable>) -> Result<Vec<(TableName, String)>> {
    let mut found = Vec::new();
    for relation in relations {
        let insert_only = cx.plan.identity(&relation.table) == Some(&IdentityChoice::InsertOnly);
        let Some(shape) = shapes.get(&relation.table) else { continue };
        found.extend(statements::of_table(relation, shape, insert_only)?.into_iter().map(|sql| (relation.table.clone(), sql)));
    }
    Ok(found)
}

/// Prepares statements, and collects those that fail, one for each table.
async fn prepare(wire: &mut Wire, statements: &[(TableName, String)], refused: &mut Vec<Refused>) -> Result<()> {
    let mut rest = statements;
    while refused.len() < NAMED {
        let requests = rest.iter().map(|(_, sql)| Request::Query(format!("prepare hyperlift as {sql}; deallocate hyperlift").into())).collect();
        match wire.run(requests).await {
            Ok(_) => break,
            Err(Failed { at: Some(at), error, .. }) if error.has_code(sqlstate::LOCK_NOT_AVAILABLE) || !error.is_transient() => {
                let table = &rest[at].0;
                if !error.has_code(sqlstate::LOCK_NOT_AVAILABLE) {
                    refused.push(Refused { table: table.clone(), error });
                }
                let next = rest[at..].iter().position(|(other, _)| other != table).map_or(rest.len(), |n| at + n);
                rest = &rest[next..];
            }
            Err(Failed { error, .. }) => return Err(error.context(Side::Target)),
        }
    }
    Ok(())
}
