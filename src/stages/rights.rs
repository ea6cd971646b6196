//! Statements that name roles: only those whose roles the target has can be run.

use std::collections::BTreeMap;

use crate::{
    error::Result,
    migration::Migration,
    pg::{
        catalog,
        client::Client,
        dump::{Phase, Statement},
    },
};

/// Objects named in a line of the report.
const NAMED: usize = 8;

/// The statements whose roles the target has. The others are told of: owners and grants role by role, everything else one by one.
pub async fn possible<'a>(m: &mut Migration, target: &Client, statements: impl Iterator<Item = &'a Statement>) -> Result<Vec<&'a Statement>> {
    let known = catalog::role_names(target).await?;
    let mut possible = Vec::new();
    let mut missing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for statement in statements {
        match statement.roles.iter().find(|r| !known.contains(*r)) {
            None => possible.push(statement),
            Some(role) if statement.phase == Phase::Handover => missing.entry(role).or_default().push(&statement.object),
            Some(role) => m.not_moved(&statement.object, format!("role {role} does not exist on the target")).await?,
        }
    }
    for (role, mut objects) in missing {
        tracing::warn!(role, "not on the target: owner or grants of {}", objects.join(", "));
        objects.dedup();
        let more = objects.len().saturating_sub(NAMED);
        let named = objects.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
        let named = if more > 0 { format!("{named} and {more} more") } else { named };
        m.not_moved(format!("ROLE {role}"), format!("does not exist on the target: neither owns nor may use {named}")).await?;
    }
    Ok(possible)
}
