//! Removes what hyperlift made on both sides: slot, publications, replica identities, `_hyperlift`, spool. Never a migrated object.

use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::{Event, Stage},
    migration::{context::Context, restore::memberships},
    name::literal,
    pg::{
        client::{self, Client},
        connect::session::Side,
        event_triggers, ledger,
        own::Names,
        publication, slot,
    },
    record::Record,
    sqlstate,
    work_dir::WorkDir,
};

/// Cleans up at the end of a migration that is complete, makes the event triggers, and records that it has. Where the ledger remains, the
/// event triggers have to wait for the next time.
pub async fn finish(cx: &mut Context) -> Result<()> {
    let mut remaining = run(&cx.config.clone(), &cx.work, &cx.record, &cx.reporter).await;
    let made = if remaining.iter().any(|what| what.starts_with(LEDGER)) { Ok(()) } else { super::event_triggers::make(cx).await };
    if let Err(e) = made {
        remaining.push(format!("event triggers of the source are not made on the target yet ({e})"));
    }
    if remaining.is_empty() {
        cx.record.changed_identities.clear();
        cx.record.finished.push(Stage::Done);
        cx.save()?;
        return Ok(());
    }
    Err(left_over(&remaining))
}

/// How the report names it.
const LEDGER: &str = "schema _hyperlift on the target";

/// The error that names what could not be removed.
pub fn left_over(remaining: &[String]) -> Error {
    Error::failed(format!("not everything could be removed: {}", remaining.join("; "))).hint("fix the cause, then run `hyperlift clean` again")
}

/// Removes what it can and reports each thing; returns what remains, with the reasons.
pub async fn run(config: &Config, work: &WorkDir, record: &Record, reporter: &Reporter) -> Vec<String> {
    let mut remaining = Vec::new();
    let application = format!("hyperlift/{}/clean", record.id);
    let names = Names::new(&record.id);
    match client::connect(&config.source, Side::Source, &application).await {
        Ok(source) => {
            event_triggers::silence(&source).await;
            report(reporter, &mut remaining, format!("slot {}", names.slot), drop_slot(&source, &names.slot).await).await;
            for publication in [&names.publication, &names.insert_only] {
                let dropped = publication::drop(&source, publication).await;
                report(reporter, &mut remaining, format!("publication {publication}"), dropped).await;
            }
            for changed in &record.changed_identities {
                let undone = undo_identity(&source, &changed.undo).await;
                report(reporter, &mut remaining, format!("replica identity of {}", changed.table), undone).await;
            }
        }
        Err(e) => {
            let what = format!("slot, publications and {} replica identities on the source", record.changed_identities.len());
            report(reporter, &mut remaining, what, Err(e)).await;
        }
    }
    match client::connect(&config.target, Side::Target, &application).await {
        Ok(target) => {
            event_triggers::silence(&target).await;
            let result = drop_ledger(reporter, &mut remaining, &target, &record.id).await;
            report(reporter, &mut remaining, LEDGER.into(), result).await;
        }
        Err(e) => report(reporter, &mut remaining, LEDGER.into(), Err(e)).await,
    }
    report(reporter, &mut remaining, "spool".into(), work.remove_spool()).await;
    remaining
}

/// Reports one thing as removed, or as remaining.
async fn report(reporter: &Reporter, remaining: &mut Vec<String>, what: String, result: Result<()>) {
    if let Err(e) = &result {
        let hint = e.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
        remaining.push(format!("{what} ({e}{hint})"));
    }
    reporter.report(Event::Cleaned { what, error: result.err().map(|e| e.to_string()) }).await;
}

/// Ends the session that still uses the slot, because it may not have noticed that its client is gone.
async fn drop_slot(source: &Client, name: &str) -> Result<()> {
    for _ in 0..50 {
        let Some(found) = slot::slot(source, name).await? else { return Ok(()) };
        if found.active {
            source.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active", &[&name]).await?;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        }
        match source.execute("select pg_drop_replication_slot($1)", &[&name]).await.map_err(Error::from) {
            Err(e) if e.has_code(sqlstate::OBJECT_IN_USE) => {}
            other => return other.map(|_| ()),
        }
    }
    Err(Error::failed(format!("slot {name} is still in use by another session"))
        .hint(format!("end that session on the source, then run `hyperlift clean` again: select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = {}", literal(name))))
}

/// Sets the replica identity back. It waits for a lock for 5 s at most, because the application is at work.
async fn undo_identity(source: &Client, sql: &str) -> Result<()> {
    let Err(e) = source.batch_execute(&format!("begin; set local lock_timeout = '5s'; {sql}; commit")).await.map_err(Error::from) else {
        return Ok(());
    };
    source.batch_execute("rollback").await.ok();
    // The table does not exist any more, so there is nothing to undo.
    if e.has_code(crate::sqlstate::UNDEFINED_TABLE) { Ok(()) } else { Err(event_triggers::explain(source, e, "ALTER TABLE").await) }
}

/// Drops the ledger of this migration, and of no other. It is kept while memberships remain to be undone, because only the ledger has them.
async fn drop_ledger(reporter: &Reporter, remaining: &mut Vec<String>, target: &Client, id: &str) -> Result<()> {
    if let Some(known) = ledger::migration(target).await?.filter(|known| known.id != id) {
        return Err(Error::refused(format!("the target holds migration {}, not {id}", known.id)).hint("clean that one with its own --dir"));
    }
    let mut forgotten = true;
    for (membership, result) in memberships::leave(target).await? {
        forgotten &= result.is_ok();
        report(reporter, remaining, membership, result).await;
    }
    if forgotten { ledger::drop(target).await } else { Err(Error::failed("it is kept, because it records which memberships remain")) }
}
