//! Statements that name roles. They run only where the target has the roles, and where the migration's user is a member of new owners. A
//! user that may create roles becomes a member of them until the end; a superuser need not.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    error::{Error, Result},
    migration::context::Context,
    name::ident,
    pg::{
        catalog::{self, versions},
        client::Client,
        dump::{Phase, Statement},
        ledger,
        object::ObjectRef,
    },
};

/// Objects named in a line of the report.
const NAMED: usize = 8;
/// Begins the names of the steps that record a membership.
const MEMBER_OF: &str = "member of ";

/// The statements whose roles the target has. The others are reported: owners and grants role by role, everything else one by one.
pub async fn runnable<'a>(cx: &mut Context, target: &Client, statements: impl Iterator<Item = &'a Statement>) -> Result<Vec<&'a Statement>> {
    let known = catalog::role_names(target).await?;
    let mut runnable = Vec::new();
    let mut missing: BTreeMap<&str, Vec<&ObjectRef>> = BTreeMap::new();
    for statement in statements {
        match statement.roles.iter().find(|r| !known.contains(*r)) {
            None => runnable.push(statement),
            Some(role) if statement.phase == Phase::Handover => missing.entry(role).or_default().push(&statement.object),
            Some(role) => cx.not_moved(&statement.object, format!("role {role} does not exist on the target")).await?,
        }
    }
    for (role, objects) in missing {
        let named = named(role, objects);
        cx.not_moved(format!("ROLE {role}"), format!("does not exist on the target: neither owns nor may use {named}")).await?;
    }
    let wanted: BTreeSet<&str> = runnable.iter().flat_map(|s| &s.member_of).map(String::as_str).collect();
    let refused = join(target, &wanted.into_iter().collect::<Vec<_>>()).await?;
    let mut lost: BTreeMap<&str, Vec<&ObjectRef>> = BTreeMap::new();
    runnable.retain(|s| match s.member_of.iter().find(|role| refused.contains_key(*role)) {
        None => true,
        Some(role) => {
            lost.entry(role).or_default().push(&s.object);
            false
        }
    });
    for (role, objects) in lost {
        let (why, named) = (&refused[role], named(role, objects));
        let reason = format!(
            "only its members may do this for it, and the target's user cannot become one ({why}): {named}; --map-role {role}=… takes another role"
        );
        cx.not_moved(format!("ROLE {role}"), reason).await?;
    }
    Ok(runnable)
}

fn named(role: &str, objects: Vec<&ObjectRef>) -> String {
    let mut objects: Vec<String> = objects.into_iter().map(ToString::to_string).collect();
    tracing::warn!(role, "not possible for this role: {}", objects.join(", "));
    objects.dedup();
    let more = objects.len().saturating_sub(NAMED);
    let named = objects.into_iter().take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}

/// Becomes a member of these roles where needed; returns the roles where that failed, and why. The ledger records it for [`leave`].
pub async fn join(target: &Client, roles: &[&str]) -> Result<BTreeMap<String, String>> {
    let newer = target.version() / 10_000 >= versions::MEMBERSHIP_OPTIONS;
    let (may_set, options) = if newer { ("and pg_has_role(oid, 'SET')", " with inherit true, set true") } else { ("", "") };
    let sql = format!("select rolname::text as name from pg_roles where rolname = any($1) and not (pg_has_role(oid, 'USAGE') {may_set}) order by 1");
    let mut refused = BTreeMap::new();
    for row in target.query(&sql, &[&roles]).await? {
        let role: String = row.get("name");
        let record = ledger::step_sql(&format!("{MEMBER_OF}{role}"));
        if let Err(e) = target.batch_execute(&format!("begin; grant {} to current_user{options}; {record}; commit", ident(&role))).await {
            target.batch_execute("rollback").await?;
            refused.insert(role, Error::from(e).to_string());
        }
    }
    Ok(refused)
}

/// Revokes what [`join`] granted, before the ledger is dropped; the result for each role.
pub async fn leave(target: &Client) -> Result<Vec<(String, Result<()>)>> {
    let mut left = Vec::new();
    let known = catalog::role_names(target).await?;
    for step in ledger::steps(target, MEMBER_OF).await? {
        let role = step.strip_prefix(MEMBER_OF).unwrap_or_default().to_owned();
        let revoke = if known.contains(&role) { format!("revoke {} from current_user; ", ident(&role)) } else { String::new() };
        let revoke = format!("begin; {revoke}{}; commit", ledger::forget_step_sql(&step));
        let result = target.batch_execute(&revoke).await.map_err(Error::from);
        if result.is_err() {
            target.batch_execute("rollback").await?;
        }
        left.push((format!("membership in {role}"), result));
    }
    Ok(left)
}
