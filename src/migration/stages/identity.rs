//! Stage 2: the replica-identity checklist (I10). A table without a usable identity never enters the publication of updates.

use crate::{
    error::{Error, Result},
    event::{Command, Event, IdentityRow, IdentityState, Level, Stage},
    migration::{context::Context, relations},
    name::{TableName, ident},
    pg::{
        catalog::{self, SourceRelation},
        client::Client,
        own::Names,
        publication,
    },
    plan::IdentityChoice,
    record::ChangedIdentity,
    scope::Inclusion,
    sqlstate,
};

/// How long a statement waits for the lock on a table. The application's statements wait for it meanwhile.
const LOCK_TIMEOUT: &str = "2s";

/// What the operator may order while the stage asks.
enum Order {
    Recheck,
    Choose(TableName, Option<IdentityChoice>),
}

fn order(command: Command) -> Result<Order, Command> {
    match command {
        Command::Recheck => Ok(Order::Recheck),
        Command::SetIdentity { table, choice } => Ok(Order::Choose(table, choice)),
        other => Err(other),
    }
}

pub async fn run(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Identity).await;
    let source = cx.source("identity").await?;
    loop {
        // Listed before anything is changed, too, because a locked table may block the change.
        let (mut relations, mut rows) = list(cx, &source).await?;
        if apply_plan(cx, &source, &relations).await? {
            (relations, rows) = list(cx, &source).await?;
        }
        let open: Vec<&IdentityRow> = rows.iter().filter(|r| r.state == IdentityState::Open).collect();
        if open.is_empty() && cx.is_finished(Stage::Identity) {
            break;
        }
        let text = match open.as_slice() {
            [] => match rows.iter().filter(|r| r.state == IdentityState::Accepted).count() {
                0 => "Every table's changes can be replicated.".to_owned(),
                1 => "Nothing is open. 1 table is insert-only: its UPDATE and DELETE will not reach the target.".to_owned(),
                n => format!("Nothing is open. {n} tables are insert-only: their UPDATE and DELETE will not reach the target."),
            },
            [one] => format!("{} is still open. Settle it (f, u or i), or fix it yourself, then press R to check again.", one.table),
            many => {
                format!("{} tables are still open, {} first. Settle them (f, u or i), or fix them yourself, then press R.", many.len(), many[0].table)
            }
        };
        let blocked = (!open.is_empty()).then(|| format!("{} open", open.len()));
        match cx.prompts.ask_continue(Stage::Identity, text, blocked, order).await? {
            None => break,
            Some(Order::Recheck) => {}
            Some(Order::Choose(table, choice)) => choose(cx, &relations, table, choice).await?,
        }
    }
    cx.finish(Stage::Identity).await
}

/// The relations and their checklist, reported.
async fn list(cx: &Context, source: &Client) -> Result<(Vec<SourceRelation>, Vec<IdentityRow>)> {
    let relations = relations::in_scope(cx, catalog::relations(source).await?).await?;
    let rows: Vec<IdentityRow> = relations.iter().map(|r| assess(r, cx)).collect();
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

/// Whether a relation can have this identity.
fn possible(relation: &SourceRelation, choice: &IdentityChoice) -> Result<()> {
    match choice {
        IdentityChoice::InsertOnly => Ok(()),
        _ if relation.storage.is_partitioned() => {
            Err(Error::refused(format!("{}: leaves that are added later would have no identity", relation.table))
                .hint("give it a primary key, or choose insert-only"))
        }
        IdentityChoice::Full if !relation.full_is_possible => {
            Err(Error::refused(format!("{} has generated columns: with FULL the source's own updates of it would fail", relation.table))
                .hint("choose a unique index, or insert-only"))
        }
        IdentityChoice::Full => Ok(()),
        IdentityChoice::Index(name) => match relation.index(name) {
            Some(index) if index.usable => Ok(()),
            Some(_) => Err(Error::refused(format!("index {name} of {} cannot serve", relation.table))
                .hint("it has to be unique, immediate, not partial, on plain columns that are NOT NULL and not generated")),
            None => Err(Error::refused(format!("{} has no unique index {name}", relation.table))),
        },
    }
}

/// What the table has now, and whether UPDATE and DELETE can be replicated with it.
fn usable_identity(r: &SourceRelation) -> (String, bool) {
    let primary = r.primary_key();
    if let Some(leaf) = &r.bare_leaf {
        return (format!("nothing usable on leaf {leaf}"), false);
    }
    match r.identity {
        'd' => match primary {
            Some(p) if p.usable => ("default (PK)".into(), true),
            Some(_) => ("default (PK is deferrable)".into(), false),
            None => ("default, no PK".into(), false),
        },
        'i' => match &r.identity_index {
            Some(name) if !r.storage.is_partitioned() => (format!("index {name}"), r.index(name).is_some_and(|i| i.usable)),
            Some(name) => (format!("index {name}"), false),
            None => ("index that was dropped".into(), false),
        },
        'f' if !r.full_is_possible => ("full, with generated columns".into(), false),
        'f' => ("full".into(), !r.storage.is_partitioned() || primary.is_some_and(|p| p.usable)),
        _ => ("nothing".into(), false),
    }
}

fn assess(r: &SourceRelation, cx: &Context) -> IdentityRow {
    let (current, usable) = usable_identity(r);
    let chosen = cx.plan.identity(&r.table);
    let indexes: Vec<String> =
        if r.storage.is_partitioned() { Vec::new() } else { r.indexes.iter().filter(|i| i.usable).map(|i| i.name.clone()).collect() };
    let mut row = IdentityRow {
        table: r.table.clone(),
        bytes: r.bytes,
        current,
        effect: "ok".into(),
        proposed: None,
        indexes: indexes.clone(),
        state: IdentityState::Ok,
        reason: String::new(),
    };
    let full_without_key = r.identity == 'f' && !r.primary_key().is_some_and(|p| p.usable);
    if r.unlogged {
        row.effect = "copied once".into();
        row.reason = "Unlogged: its changes are in no stream, whatever its identity. It is copied once.".into();
    } else if chosen == Some(&IdentityChoice::InsertOnly) {
        row.effect = "lost".into();
        row.state = IdentityState::Accepted;
        row.reason = "Published for INSERT and TRUNCATE only. UPDATE and DELETE go on working on the source, but do not reach the target.".into();
    } else if usable {
        row.state = match (chosen.is_some(), full_without_key) {
            (true, _) => IdentityState::Applied,
            (false, true) => IdentityState::Warn,
            (false, false) => IdentityState::Ok,
        };
        if full_without_key {
            row.effect = "ok, slow".into();
            row.reason = "Changed rows are found by all their columns: every UPDATE and DELETE reads the table on the target.".into();
        } else {
            row.reason = "Changed rows are found by a key. Nothing to do.".into();
        }
    } else {
        row.effect = "lost".into();
        row.state = IdentityState::Open;
        row.proposed = Some(match (indexes.first(), r.storage.is_partitioned()) {
            (_, true) => IdentityChoice::InsertOnly,
            (Some(index), _) => IdentityChoice::Index(index.clone()),
            (None, _) if !r.full_is_possible => IdentityChoice::InsertOnly,
            (None, _) => IdentityChoice::Full,
        });
        row.reason = if r.storage.is_partitioned() {
            "The partition root has no primary key. In the publication as it is, UPDATE and DELETE would FAIL on the source, so it stays out until you choose."
        } else if !r.full_is_possible && indexes.is_empty() {
            "No unique index that could serve, and generated columns: with FULL, too, UPDATE and DELETE would FAIL on the source (from PostgreSQL 18 on), so it stays out until you choose."
        } else if indexes.is_empty() {
            "No primary key, no unique index on NOT NULL columns. In the publication as it is, UPDATE and DELETE would FAIL on the source, so it stays out until you choose."
        } else {
            "No primary key is in force, but a unique index can serve. In the publication as it is, UPDATE and DELETE would FAIL on the source."
        }
        .into();
    }
    row
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

/// Applies the plan's identities on the source; whether there was anything to do. Before a change is made it is recorded, with the
/// statement that undoes it.
async fn apply_plan(cx: &mut Context, source: &Client, relations: &[SourceRelation]) -> Result<bool> {
    check_plan(cx, relations)?;
    same_publication(cx, source, relations).await?;
    let mut changed = false;
    for (table, choice) in cx.plan.identities.clone() {
        let Some(relation) = relations.iter().find(|r| r.table == table) else { continue };
        let done = match &choice {
            IdentityChoice::InsertOnly => true,
            IdentityChoice::Full => relation.identity == 'f',
            IdentityChoice::Index(name) => relation.identity == 'i' && relation.identity_index.as_ref() == Some(name),
        };
        let Some(sql) = choice.sql(&table).filter(|_| !done) else { continue };
        let form = match (relation.identity, &relation.identity_index) {
            ('f', _) => "full".to_owned(),
            ('n', _) => "nothing".to_owned(),
            ('i', Some(name)) => format!("using index {}", ident(name)),
            _ => "default".to_owned(),
        };
        let undo = format!("alter table only {} replica identity {form}", table.sql());
        if !cx.record.changed_identities.iter().any(|c| c.table == table) {
            cx.record.changed_identities.push(ChangedIdentity { table: table.clone(), undo });
            cx.save()?;
        }
        run_locking(cx, source, &table, &sql).await.map_err(|e| e.context(&table))?;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pg::catalog::{Storage, UniqueIndex};

    fn relation(identity: char, indexes: Vec<UniqueIndex>) -> SourceRelation {
        SourceRelation {
            oid: 1,
            table: TableName::new("public", "t"),
            storage: Storage::Heap,
            unlogged: false,
            bytes: 0,
            rows: 0,
            identity,
            identity_index: None,
            indexes,
            columns: vec![],
            inherits: false,
            has_rules: false,
            owned: true,
            full_is_possible: true,
            bare_leaf: None,
            updated_rows: 0,
            deleted_rows: 0,
        }
    }

    fn index(primary: bool, usable: bool) -> UniqueIndex {
        UniqueIndex {
            name: "i".into(),
            primary,
            columns: vec!["id".into()],
            usable,
            expression: false,
            referenced: false,
            in_query: false,
            constraint: None,
        }
    }

    #[test]
    fn only_what_postgresql_accepts_counts_as_an_identity() {
        assert!(usable_identity(&relation('d', vec![index(true, true)])).1);
        assert!(!usable_identity(&relation('d', vec![index(true, false)])).1, "a deferrable primary key");
        assert!(!usable_identity(&relation('d', vec![index(false, true)])).1, "a unique index that nobody chose");
        assert!(!usable_identity(&relation('n', vec![index(true, true)])).1);
        assert!(usable_identity(&relation('f', vec![])).1);
        assert!(!usable_identity(&SourceRelation { full_is_possible: false, ..relation('f', vec![]) }).1, "its updates would fail on the source");
        let root = SourceRelation { storage: Storage::Partitions { count: 2 }, ..relation('f', vec![]) };
        assert!(!usable_identity(&root).1, "new leaves of a root without primary key have no identity");
    }
}
