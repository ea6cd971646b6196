//! Stage 2: the replica-identity checklist (I10). A table without a usable identity never enters the publication of updates.

mod assess;

pub use self::assess::{is_altered_by, is_replicable};

use self::assess::{assess, by_default, has, is_needless, possible, usable_identity};
use crate::{
    error::{Error, Kind, Result},
    event::{Command, Event, IdentityRow, IdentityState, Level, Stage},
    migration::{context::Context, relations},
    name::TableName,
    pg::{
        catalog::{self, SourceRelation},
        client::Client,
        event_triggers,
        own::Names,
        publication,
    },
    plan::{IdentityChoice, IdentityDefault},
    record::ChangedIdentity,
    scope::Inclusion,
    sqlstate,
};

/// How long a statement waits for the lock on a table. The application's statements wait for it meanwhile.
const LOCK_TIMEOUT: &str = "2s";

/// How a plan settles what is open.
const SETTLE: &str =
    "settle it in the plan: an [[identity]] entry for a table, or identity_default = \"proposed\" (or \"full\", or \"insert-only\") for all";

/// What the operator may order while the stage asks.
enum Order {
    Recheck,
    Choose(TableName, Option<IdentityChoice>),
    /// All tables that are open.
    Settle(IdentityDefault),
}

fn order(command: Command) -> Result<Order, Command> {
    match command {
        Command::Recheck => Ok(Order::Recheck),
        Command::SetIdentity { table, choice } => Ok(Order::Choose(table, choice)),
        Command::SettleIdentities { default } => Ok(Order::Settle(default)),
        other => Err(other),
    }
}

pub async fn run(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Identity).await;
    let source = cx.source("identity").await?;
    loop {
        // Listed before anything is changed, too, because a locked table may block the change.
        let (mut relations, mut rows) = list(cx, &source).await?;
        let taken = take_default(cx, &relations)? | drop_needless(cx, &source, &relations).await?;
        // Where the answer will be no, nothing is changed before.
        let unsettled = |r: &&IdentityRow| r.state == IdentityState::Open && cx.plan.identity(&r.table).is_none();
        let refused = !cx.config.interactive && rows.iter().any(|r| unsettled(&r));
        if refused {
            rows.retain(|r| unsettled(&r));
        } else if apply_plan(cx, &source, &relations).await? || taken {
            (relations, rows) = list(cx, &source).await?;
        }
        let open: Vec<&IdentityRow> = rows.iter().filter(|r| r.state == IdentityState::Open).collect();
        if open.is_empty() && cx.is_finished(Stage::Identity) {
            break;
        }
        let text = question(&rows, &open);
        let blocked = (!open.is_empty()).then(|| format!("{} open", open.len()));
        let asked = cx.prompts.ask_continue(Stage::Identity, text, blocked, order).await;
        match asked.map_err(|e| if e.kind == Kind::Refused { e.hint(SETTLE) } else { e })? {
            None => break,
            Some(Order::Recheck) => {}
            Some(Order::Choose(table, choice)) => choose(cx, &relations, table, choice).await?,
            Some(Order::Settle(default)) => {
                cx.plan.identity_default = Some(default);
                cx.save_plan()?;
            }
        }
    }
    cx.finish(Stage::Identity).await
}

fn question(rows: &[IdentityRow], open: &[&IdentityRow]) -> String {
    let accepted: Vec<&IdentityRow> = rows.iter().filter(|r| r.state == IdentityState::Accepted).collect();
    let moved = if accepted.iter().any(|r| r.partitioned) { ", and a row that moves to another partition is there twice on it" } else { "" };
    match (open, accepted.len()) {
        ([], 0) => "Every table's changes can be replicated.".to_owned(),
        ([], 1) => format!("Nothing is open. 1 table is insert-only: its UPDATE and DELETE will not reach the target{moved}."),
        ([], n) => format!("Nothing is open. {n} tables are insert-only: their UPDATE and DELETE will not reach the target{moved}."),
        ([one], _) => format!("{} is still open. Settle it (f, u or i), or fix it yourself, then press R to check again.", one.table),
        (many, _) => format!(
            "{} tables are still open, {} first. Settle all of them (a) or each (f, u or i), or fix them yourself, then press R.",
            many.len(),
            many[0].table
        ),
    }
}

/// Gives the plan's default to the tables without a usable identity that have no choice of their own; whether the plan has another choice
/// now. A choice that an earlier run has applied is taken back into the plan, because a plan that is given again does not have it.
fn take_default(cx: &mut Context, relations: &[SourceRelation]) -> Result<bool> {
    let Some(default) = cx.plan.identity_default else { return Ok(false) };
    let before = cx.plan.identities.len();
    for r in relations.iter().filter(|r| !r.unlogged) {
        let applied = cx.record.changed_identities.iter().any(|c| c.table == r.table);
        let choice = match (r.identity, &r.identity_index) {
            ('f', _) if applied => Some(IdentityChoice::Full),
            ('i', Some(index)) if applied => Some(IdentityChoice::Index(index.clone())),
            _ if usable_identity(r).1 => None,
            _ => by_default(r, default),
        };
        if let Some(choice) = choice {
            cx.plan.identities.entry(r.table.clone()).or_insert(choice);
        }
    }
    let taken = cx.plan.identities.len() > before;
    if taken {
        cx.save_plan()?;
    }
    Ok(taken)
}

/// Takes insert-only out of the plan where UPDATE and DELETE can be replicated; whether there was any. What is published insert-only already
/// stays so.
async fn drop_needless(cx: &mut Context, source: &Client, relations: &[SourceRelation]) -> Result<bool> {
    let needless = |r: &&SourceRelation| cx.plan.identity(&r.table) == Some(&IdentityChoice::InsertOnly) && is_needless(r, &cx.plan);
    let mut found: Vec<TableName> = relations.iter().filter(needless).map(|r| r.table.clone()).collect();
    if found.is_empty() {
        return Ok(false);
    }
    let published = publication::tables(source, &Names::new(&cx.record.id).insert_only).await?;
    found.retain(|table| !published.contains(table));
    for table in &found {
        cx.plan.identities.remove(table);
        let text = format!("{table}: the plan says insert-only, but it has a usable replica identity: its UPDATE and DELETE are replicated");
        cx.notice(Level::Info, text).await;
    }
    if !found.is_empty() {
        cx.save_plan()?;
    }
    Ok(!found.is_empty())
}

/// The relations and their checklist, reported.
async fn list(cx: &Context, source: &Client) -> Result<(Vec<SourceRelation>, Vec<IdentityRow>)> {
    let relations = relations::in_scope(cx, catalog::relations(source).await?).await?;
    let rows: Vec<IdentityRow> = relations.iter().map(|r| assess(r, &cx.plan)).collect();
    cx.reporter.report(Event::IdentityListed { rows: rows.clone() }).await;
    Ok((relations, rows))
}

/// Takes the operator's choice into the plan, if it is possible for the table.
async fn choose(cx: &mut Context, relations: &[SourceRelation], table: TableName, choice: Option<IdentityChoice>) -> Result<()> {
    let Some(relation) = relations.iter().find(|r| r.table == table) else { return Ok(()) };
    match choice {
        None if cx.record.changed_identities.iter().any(|c| c.table == table) => {
            let why = "it is changed on the source already; `hyperlift clean` undoes it".into();
            cx.reporter.report(Event::CommandRefused { command: format!("identity of {table}"), why }).await;
            return Ok(());
        }
        None => {
            // The default would choose again.
            cx.plan.identity_default = None;
            cx.plan.identities.remove(&table);
        }
        Some(choice) => match possible(relation, &choice) {
            Ok(()) => {
                cx.plan.identities.insert(table, choice);
            }
            Err(e) => {
                cx.reporter.report(Event::CommandRefused { command: format!("identity of {table}"), why: e.to_string() }).await;
                return Ok(());
            }
        },
    }
    cx.save_plan()
}

/// Whether the plan's identities fit the source's tables: all of them, before anything is changed.
pub fn check_plan(cx: &Context, relations: &[SourceRelation]) -> Result<()> {
    for (table, choice) in &cx.plan.identities {
        let Some(relation) = relations.iter().find(|r| r.table == *table) else {
            let why = if cx.plan.scope.inclusion(table) == Inclusion::All { "which the source does not have" } else { "which its filters leave out" };
            return Err(Error::usage(format!("the plan names {table}, {why}")).hint("correct the [[identity]] entry of the plan"));
        };
        if let Err(e) = possible(relation, choice) {
            let mut usage = e.context("the plan");
            usage.kind = crate::error::Kind::Usage;
            return Err(usage);
        }
    }
    Ok(())
}

/// Refuses to publish updates of a table that has lost its identity since the stage: the application's UPDATE and DELETE would fail (I10).
/// Another migration from this source may have set the identity back.
pub fn refuse_unusable(cx: &Context, relations: &[SourceRelation]) -> Result<()> {
    let updated = |r: &&SourceRelation| !r.unlogged && cx.plan.identity(&r.table) != Some(&IdentityChoice::InsertOnly);
    match relations.iter().filter(updated).find(|r| !usable_identity(r).1) {
        None => Ok(()),
        Some(r) => Err(Error::refused(format!("somebody has changed the replica identity of {}: it is {}", r.table, usable_identity(r).0))
            .detail("its UPDATE and DELETE would fail on the source once they are published")
            .hint("start hyperlift again: it sets the identity again, or asks")),
    }
}

/// Applies the plan's identities on the source; whether there was anything to do. Before a change is made it is recorded, with the
/// statement that undoes it.
async fn apply_plan(cx: &mut Context, source: &Client, relations: &[SourceRelation]) -> Result<bool> {
    check_plan(cx, relations)?;
    same_publication(cx, source, relations).await?;
    let mut changed = false;
    for (table, choice) in cx.plan.identities.clone() {
        let Some(relation) = relations.iter().find(|r| r.table == table) else { continue };
        let Some(sql) = choice.sql(&table).filter(|_| !has(relation, &choice)) else { continue };
        if !cx.record.changed_identities.iter().any(|c| c.table == table) {
            cx.record.changed_identities.push(ChangedIdentity::from(&table, relation.oid, relation.identity, relation.identity_index.as_deref()));
            cx.save()?;
        }
        if let Err(e) = run_locking(cx, source, &table, &sql).await {
            return Err(event_triggers::explain(source, e, "ALTER TABLE").await.context(&table));
        }
        cx.notice(Level::Info, format!("source: {sql}")).await;
        changed = true;
    }
    Ok(changed)
}

/// Once the slot exists, what is published insert-only stays so: a change would lose what happened in between.
async fn same_publication(cx: &Context, source: &Client, relations: &[SourceRelation]) -> Result<()> {
    if cx.record.slot.is_none() {
        return Ok(());
    }
    let published = publication::tables(source, &Names::new(&cx.record.id).insert_only).await?;
    let logged = |t: &TableName| relations.iter().any(|r| r.table == *t && !r.unlogged);
    let insert_only = cx.plan.identities.iter().filter(|(t, c)| **c == IdentityChoice::InsertOnly && logged(t));
    let planned: Vec<&TableName> = insert_only.map(|(t, _)| t).collect();
    match planned.iter().find(|t| !published.contains(t)) {
        Some(table) => Err(Error::refused(format!("{table} is to be insert-only now, but this migration publishes its updates already"))
            .hint("remove the [[identity]] entry, or run `hyperlift clean`, empty the target and start again")),
        None if published.iter().any(|t| logged(t) && !planned.contains(&t)) => {
            Err(Error::refused("a table that was insert-only when this migration began is not any more")
                .detail("its updates and deletes since then were not published")
                .hint("put its [[identity]] entry back, or run `hyperlift clean`, empty the target and start again"))
        }
        None => Ok(()),
    }
}

/// Runs a statement that locks a table of the source, and never makes the application wait long for it.
async fn run_locking(cx: &Context, source: &Client, table: &TableName, sql: &str) -> Result<()> {
    for attempt in 1.. {
        let statement = format!("begin; set local lock_timeout = '{LOCK_TIMEOUT}'; {sql}; commit");
        match cx.unless_stopped(async { Ok(source.batch_execute(&statement).await?) }).await {
            Ok(()) => return Ok(()),
            Err(e) if e.has_code(sqlstate::LOCK_NOT_AVAILABLE) => {
                source.batch_execute("rollback").await?;
                let holders = catalog::lock_holders(source, table).await?;
                let by = if holders.is_empty() { String::new() } else { format!(" It is held by {holders}.") };
                cx.notice(
                    Level::Warn,
                    format!("{table} is locked on the source; attempt {attempt} timed out so that the application does not wait.{by}"),
                )
                .await;
                cx.unless_stopped(async {
                    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
                    Ok(())
                })
                .await?;
            }
            Err(e) => {
                source.batch_execute("rollback").await.ok();
                return Err(e);
            }
        }
    }
    Ok(())
}
