//! Removes what hyperlift made on both sides: slot, publications, replica identities, `_hyperlift`, spool. Never a migrated object.

use super::identity::{self, Undone};
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
    record::{ChangedIdentity, Record},
    sqlstate,
    work_dir::WorkDir,
};

/// What was not removed.
#[derive(Default)]
pub struct Remaining {
    /// With the reasons.
    failed: Vec<String>,
    /// Replica identities that other publications need, with the reasons.
    needed: Vec<(ChangedIdentity, String)>,
}

impl Remaining {
    /// The error that names it.
    pub fn error(&self) -> Option<Error> {
        let needed = self.needed.iter().map(|(changed, why)| format!("replica identity of {} ({why})", changed.table));
        let all: Vec<String> = self.failed.iter().cloned().chain(needed).collect();
        let text = format!("not everything could be removed: {}", all.join("; "));
        (!all.is_empty()).then(|| Error::failed(text).hint("fix the cause, then run `hyperlift clean` again"))
    }
}

/// How the report names it.
const LEDGER: &str = "schema _hyperlift on the target";

/// Cleans up at the end of a migration that is complete, makes the event triggers, and records that it has. Where the ledger remains, the
/// event triggers have to wait for the next time. A replica identity that another publication needs may stay as it is: both sides are equal.
pub async fn finish(cx: &mut Context) -> Result<()> {
    let mut remaining = run(&cx.config.clone(), &cx.work, &cx.record, &cx.reporter).await;
    let made = if remaining.failed.iter().any(|what| what.starts_with(LEDGER)) { Ok(()) } else { super::event_triggers::make(cx).await };
    if let Err(e) = made {
        remaining.failed.push(format!("event triggers of the source are not made on the target yet ({e})"));
    }
    if !remaining.failed.is_empty() {
        return remaining.error().map_or(Ok(()), Err);
    }
    cx.record.changed_identities = remaining.needed.into_iter().map(|(changed, _)| changed).collect();
    cx.record.finished.push(Stage::Done);
    cx.save()
}

/// Removes what it can and reports each thing that was there; returns what remains.
pub async fn run(config: &Config, work: &WorkDir, record: &Record, reporter: &Reporter) -> Remaining {
    let mut remaining = Remaining::default();
    let failed = &mut remaining.failed;
    let application = format!("hyperlift/{}/clean", record.id);
    let names = Names::new(&record.id);
    match client::connect(&config.source, Side::Source, &application).await {
        Ok(source) => {
            event_triggers::silence(&source).await;
            report(reporter, failed, format!("slot {}", names.slot), drop_slot(&source, &names.slot).await).await;
            for publication in [&names.publication, &names.insert_only] {
                let dropped = publication::drop(&source, publication).await;
                report(reporter, failed, format!("publication {publication}"), dropped).await;
            }
            for changed in &record.changed_identities {
                let what = format!("replica identity of {}", changed.table);
                let undone = identity::undo(&source, changed, &names).await;
                if let Ok(Undone::Needed(why)) = undone {
                    reporter.report(Event::Cleaned { what, error: Some(why.clone()) }).await;
                    remaining.needed.push((changed.clone(), why));
                } else {
                    report(reporter, failed, what, undone.map(|undone| undone == Undone::Done)).await;
                }
            }
        }
        Err(e) => {
            let what = format!("slot, publications and {} replica identities on the source", record.changed_identities.len());
            report(reporter, failed, what, Err(e)).await;
        }
    }
    // Late writes can still be looked for once the source answers: from the end of the spool on.
    let keeps_spool = record.unwatched.is_some() && !failed.is_empty();
    match client::connect(&config.target, Side::Target, &application).await {
        Ok(target) => {
            event_triggers::silence(&target).await;
            let result = drop_ledger(reporter, failed, &target, &record.id).await;
            report(reporter, failed, LEDGER.into(), result).await;
        }
        Err(e) => report(reporter, failed, LEDGER.into(), Err(e)).await,
    }
    if !keeps_spool {
        report(reporter, failed, "spool".into(), work.remove_spool()).await;
    }
    remaining
}

/// Reports one thing as removed, or as remaining; nothing when it was gone already.
async fn report(reporter: &Reporter, failed: &mut Vec<String>, what: String, removed: Result<bool>) {
    let error = match removed {
        Ok(false) => return,
        Ok(true) => None,
        Err(e) => {
            let hint = e.hint.as_ref().map_or_else(String::new, |hint| format!("; {hint}"));
            failed.push(format!("{what} ({e}{hint})"));
            Some(e.to_string())
        }
    };
    reporter.report(Event::Cleaned { what, error }).await;
}

/// Drops the slot; whether there was one. Ends the session that still uses it, because it may not have noticed that its client is gone.
async fn drop_slot(source: &Client, name: &str) -> Result<bool> {
    for _ in 0..50 {
        let Some(found) = slot::slot(source, name).await? else { return Ok(false) };
        if found.active {
            source.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = $1 and active", &[&name]).await?;
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        }
        match source.execute("select pg_drop_replication_slot($1)", &[&name]).await.map_err(Error::from) {
            Err(e) if e.has_code(sqlstate::OBJECT_IN_USE) => {}
            other => return other.map(|_| true),
        }
    }
    Err(Error::failed(format!("slot {name} is still in use by another session"))
        .hint(format!("end that session on the source, then run `hyperlift clean` again: select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = {}", literal(name))))
}

/// Drops the ledger of this migration, and of no other. It is kept while memberships remain to be undone, because only the ledger has them.
async fn drop_ledger(reporter: &Reporter, remaining: &mut Vec<String>, target: &Client, id: &str) -> Result<bool> {
    if let Some(known) = ledger::migration(target).await?.filter(|known| known.id != id) {
        return Err(Error::refused(format!("the target holds migration {}, not {id}", known.id)).hint("clean that one with its own --dir"));
    }
    let mut forgotten = true;
    for (membership, result) in memberships::leave(target).await? {
        forgotten &= result.is_ok();
        report(reporter, remaining, membership, result.map(|()| true)).await;
    }
    if forgotten { ledger::drop(target).await } else { Err(Error::failed("it is kept, because it records which memberships remain")) }
}
