//! Undoing what hyperlift put on both sides: slot, publications, replica identities, `_hyperlift`, spool. Never a migrated object.

use crate::{
    bus::Reporter,
    config::Config,
    error::{Error, Result},
    event::{Event, Stage},
    migration::{context::Context, restore::memberships},
    name::ident,
    pg::{
        client::{self, Client},
        connect::session::Side,
        ledger,
        own::Names,
        slot::{self},
    },
    record::Record,
    sqlstate,
    work_dir::WorkDir,
};

/// At the end of a finished migration.
pub async fn finish(cx: &mut Context) -> Result<()> {
    let left = run(&cx.config.clone(), &cx.work, &cx.record, &cx.reporter).await;
    if left.is_empty() {
        cx.record.changed_identities.clear();
        cx.record.finished.push(Stage::Done);
        cx.save()?;
        return Ok(());
    }
    Err(left_over(&left))
}

/// The error that says what could not be undone.
pub fn left_over(left: &[String]) -> Error {
    Error::failed(format!("clean left something over: {}", left.join("; "))).hint("mend the cause, then run `hyperlift clean` again")
}

/// Does what it can and reports each thing; returns what is left.
pub async fn run(config: &Config, work: &WorkDir, record: &Record, reporter: &Reporter) -> Vec<String> {
    let mut left = Vec::new();
    let application = format!("hyperlift/{}/clean", record.id);
    let names = Names::new(&record.id);
    match client::connect(&config.source, Side::Source, &application).await {
        Ok(source) => {
            tell(reporter, &mut left, format!("slot {}", names.slot), drop_slot(&source, &names.slot).await).await;
            for publication in [&names.publication, &names.insert_only] {
                let dropped = source.batch_execute(&format!("drop publication if exists {}", ident(publication))).await.map_err(Error::from);
                tell(reporter, &mut left, format!("publication {publication}"), dropped).await;
            }
            for changed in &record.changed_identities {
                let undone = undo_identity(&source, &changed.undo).await;
                tell(reporter, &mut left, format!("replica identity of {}", changed.table), undone).await;
            }
        }
        Err(e) => {
            let what = format!("slot, publications and {} replica identities on the source", record.changed_identities.len());
            tell(reporter, &mut left, what, Err(e)).await;
        }
    }
    match client::connect(&config.target, Side::Target, &application).await {
        Ok(target) => {
            let result = drop_ledger(reporter, &mut left, &target, &record.id).await;
            tell(reporter, &mut left, "schema _hyperlift on the target".into(), result).await;
        }
        Err(e) => tell(reporter, &mut left, "schema _hyperlift on the target".into(), Err(e)).await,
    }
    tell(reporter, &mut left, "spool".into(), work.remove_spool()).await;
    left
}

async fn tell(reporter: &Reporter, left: &mut Vec<String>, what: String, result: Result<()>) {
    if let Err(e) = &result {
        left.push(format!("{what} ({e})"));
    }
    reporter.report(Event::Cleaned { what, error: result.err().map(|e| e.to_string()) }).await;
}

/// The slot may still be held by a session that has not noticed its end.
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
    Err(Error::failed(format!("slot {name} stays in use by another session")).hint("end that session: select * from pg_replication_slots"))
}

async fn undo_identity(source: &Client, sql: &str) -> Result<()> {
    let result = source.batch_execute(&format!("begin; set local lock_timeout = '5s'; {sql}; commit")).await.map_err(Error::from);
    if result.is_err() {
        source.batch_execute("rollback").await.ok();
    }
    match result {
        // The table was dropped since: nothing to take back.
        Err(e) if e.has_code(sqlstate::UNDEFINED_TABLE) => Ok(()),
        other => other,
    }
}

/// Only the ledger of this very migration, once nothing that it alone knows of is left to be undone.
async fn drop_ledger(reporter: &Reporter, left: &mut Vec<String>, target: &Client, id: &str) -> Result<()> {
    if let Some(known) = ledger::migration(target).await?.filter(|known| known.id != id) {
        return Err(Error::refused(format!("the target holds migration {}, not {id}", known.id)).hint("clean that one with its own --dir"));
    }
    let mut forgotten = true;
    for (membership, result) in memberships::leave(target).await? {
        forgotten &= result.is_ok();
        tell(reporter, left, membership, result).await;
    }
    if forgotten { ledger::drop(target).await } else { Err(Error::failed("it knows which memberships are left")) }
}
