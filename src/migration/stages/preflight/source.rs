//! Whether the source can be replicated from, and by this user.

use super::{
    connections::DIRECTLY,
    finding::{Finding, first_few},
};
use crate::{
    error::{Error, Kind, Result},
    migration::{context::Context, relations},
    name::{TableName, plain_ident},
    pg::{
        catalog::{self, Server, SourceRelation, TransactionHolder, exclusion::Excluded, versions},
        client::Client,
        event_triggers::{self, EventTrigger, SOURCE_TAGS, Trial, WAYS_OUT},
        own::Names,
        slot, timescale,
        wire::Wire,
    },
    scope::Inclusion,
};

pub const VERSION: &str = "source version";
pub const PRIMARY: &str = "source is a primary";
pub const WAL_LEVEL: &str = "wal_level";
pub const FREE_SLOT: &str = "free replication slot";
pub const FREE_WALSENDER: &str = "free walsender";
pub const SLOT: &str = "slot";
pub const PUBLISHED: &str = "published tables";
pub const IDLE_SLOT_TIMEOUT: &str = "idle_replication_slot_timeout";
pub const LOCKS: &str = "max_locks_per_transaction";
pub const NO_HYPERTABLES: &str = "source has no hypertables";
pub const REPLICATION: &str = "replication connection";
pub const OWNERSHIP: &str = "ownership";
pub const SEQUENCES: &str = "sequences";
pub const OLD_SNAPSHOT_THRESHOLD: &str = "old_snapshot_threshold";
pub const SYNCHRONOUS_STANDBY_NAMES: &str = "synchronous_standby_names";
pub const EVENT_TRIGGERS: &str = "event triggers";
pub const OLD_TRANSACTIONS: &str = "old transactions";

/// A transaction older than this keeps slot and copies waiting, seconds.
const OLD: u64 = 300;

/// What the source is set up for, and what its user may do.
#[derive(Debug)]
pub struct SourceFacts {
    pub wal_level: String,
    /// The slot of this migration, where it has one: usable, or why not.
    pub own_slot: Option<Result<()>>,
    /// Why changes may be missing, where somebody has changed the publications of this migration.
    pub unpublished: Option<Error>,
    /// Whether this migration has its publications.
    pub has_published: bool,
    pub free_slots: i64,
    pub free_walsenders: i64,
    /// `None` where this version has no such setting.
    pub idle_slot_timeout: Option<String>,
    pub tables: u64,
    pub locks: u64,
    pub hypertables: Vec<TableName>,
    /// Views in scope that read what is TimescaleDB's.
    pub continuous_aggregates: Vec<TableName>,
    /// Whether a replication connection was accepted.
    pub replication: Result<()>,
    /// Sequences whose values this user may not read.
    pub unreadable_sequences: Vec<TableName>,
    /// The user may create publications.
    pub may_publish: bool,
    /// `None` where this version has no such setting.
    pub old_snapshot_threshold: Option<String>,
    pub synchronous_standby_names: String,
    pub event_triggers: Vec<EventTrigger>,
    /// What they refused.
    pub trial: Trial,
    /// Transactions older than [`OLD`], the oldest first.
    pub old_transactions: Vec<TransactionHolder>,
}

pub async fn gather(cx: &Context, source: &Client) -> Result<SourceFacts> {
    let setting = async |name| Ok::<_, Error>(catalog::setting(source, name).await?.unwrap_or_default());
    let names = Names::new(&cx.record.id);
    let in_scope = |view: &TableName| cx.plan.scope.inclusion(view) != Inclusion::Nothing;
    let (tables, locks) = catalog::tables_and_locks(source).await?;
    let free_slots = "select current_setting('max_replication_slots')::bigint - count(*) from pg_replication_slots";
    let event_triggers = event_triggers::enabled(source).await?;
    let may_try = catalog::value(source, "select has_database_privilege(current_database(), 'CREATE') and not pg_is_in_recovery()").await?;
    let fire = event_triggers.iter().any(|t| SOURCE_TAGS.iter().any(|tag| t.fires_at(tag)));
    let trial = if fire && may_try { event_triggers::trial(source).await? } else { Trial::default() };
    let free_walsenders = "select current_setting('max_wal_senders')::bigint - count(*) from pg_stat_replication";
    Ok(SourceFacts {
        wal_level: setting("wal_level").await?,
        own_slot: slot::slot(source, &names.slot).await?.map(|slot| slot.check(&names.slot)),
        unpublished: match relations::taken_out(cx, source).await {
            Err(e) if e.kind == Kind::Refused => Some(e),
            other => other.map(|_| None)?,
        },
        has_published: !cx.record.publications.is_empty(),
        free_slots: catalog::value(source, free_slots).await?,
        free_walsenders: catalog::value(source, free_walsenders).await?,
        idle_slot_timeout: catalog::setting(source, "idle_replication_slot_timeout").await?,
        tables,
        locks,
        hypertables: timescale::hypertable_names(source).await?,
        continuous_aggregates: timescale::views_of_internals(source).await?.into_iter().filter(in_scope).collect(),
        replication: replication(cx).await,
        unreadable_sequences: catalog::unreadable_sequences(source).await?,
        may_publish: catalog::value(source, "select has_database_privilege(current_database(), 'CREATE')").await?,
        old_snapshot_threshold: catalog::setting(source, "old_snapshot_threshold").await?,
        synchronous_standby_names: setting("synchronous_standby_names").await?,
        event_triggers,
        trial,
        old_transactions: catalog::holders(source, None).await?.into_iter().filter(|h| h.seconds > OLD).collect(),
    })
}

/// By trying: managed services grant the right in ways of their own.
async fn replication(cx: &Context) -> Result<()> {
    let mut wire = Wire::connect(&cx.config.source, &cx.application("preflight"), true).await?;
    wire.simple("IDENTIFY_SYSTEM").await.map(drop)
}

pub fn version(server: &Server) -> Finding {
    Finding::require(
        versions::SOURCE.contains(&server.major()),
        format!("PostgreSQL {}", server.version_text),
        format!("PostgreSQL {} is not supported", server.version_text),
        format!("hyperlift reads PostgreSQL {} to {}", versions::SOURCE.start(), versions::SOURCE.end()),
    )
}

pub fn primary(in_recovery: bool) -> Finding {
    Finding::require(!in_recovery, "not a standby", "the source is a standby: it cannot hold the publications", "connect to the primary")
}

pub fn wal_level(level: &str) -> Finding {
    Finding::require(
        level == "logical",
        "logical",
        format!("wal_level is {level}: the source writes no logical changes"),
        "alter system set wal_level = 'logical'; then restart the source",
    )
}

/// A slot or a walsender: this migration needs one of each.
fn free(f: &SourceFacts, free: i64, fix: &str) -> Finding {
    match f.own_slot {
        Some(_) => Finding::ok("in use by this migration"),
        None => Finding::require(free > 0, format!("{free} free"), "none is free", fix),
    }
}

pub fn free_slot(f: &SourceFacts) -> Finding {
    free(f, f.free_slots, "raise max_replication_slots and restart the source, or drop a slot nobody uses (select * from pg_replication_slots)")
}

pub fn free_walsender(f: &SourceFacts) -> Finding {
    free(f, f.free_walsenders, "raise max_wal_senders and restart the source")
}

pub fn own_slot(slot: Option<&Result<()>>) -> Finding {
    match slot {
        None => Finding::ok("not created yet"),
        Some(Ok(())) => Finding::ok("usable"),
        Some(Err(e)) => Finding::fail(&e.message, e.hint.as_deref().unwrap_or_default()),
    }
}

pub fn published(f: &SourceFacts) -> Finding {
    match &f.unpublished {
        None if f.has_published => Finding::ok("as this migration has made them"),
        None => Finding::ok("not created yet"),
        Some(e) => Finding::fail(&e.message, e.hint.as_deref().unwrap_or_default()),
    }
}

pub fn idle_slot_timeout(timeout: Option<&str>) -> Finding {
    match timeout {
        None => Finding::does_not_apply(&format!("only PostgreSQL {} and later has it", versions::IDLE_SLOT_TIMEOUT)),
        Some("0") => Finding::ok("off"),
        Some(timeout) => Finding::warn(
            format!("the source invalidates a slot that nobody uses for {timeout}: while hyperlift is stopped, nobody uses it"),
            "alter system set idle_replication_slot_timeout = 0, then select pg_reload_conf(); or do not stop for that long",
        ),
    }
}

pub fn locks(tables: u64, locks: u64) -> Finding {
    if tables <= locks {
        return Finding::ok(format!("{tables} tables and partitions, about {locks} locks"));
    }
    Finding::warn(
        format!("pg_dump locks all {tables} tables and partitions in one transaction; the source can hold about {locks} locks"),
        "raise max_locks_per_transaction and restart the source, or leave tables out",
    )
}

/// `in_scope` are the tables whose rows are copied.
pub fn no_hypertables(f: &SourceFacts, in_scope: &[&SourceRelation]) -> Finding {
    if !f.continuous_aggregates.is_empty() {
        let views: Vec<String> = f.continuous_aggregates.iter().map(ToString::to_string).collect();
        return Finding::fail(
            format!("{} of its views read tables that belong to TimescaleDB, such as continuous aggregates: {}", views.len(), first_few(&views)),
            "leave them out (--exclude table:…), and create them on the target after the migration",
        );
    }
    let found: Vec<String> = f.hypertables.iter().filter(|h| in_scope.iter().any(|r| r.table == **h)).map(ToString::to_string).collect();
    Finding::require(
        found.is_empty(),
        "none in scope",
        format!("{} of its tables are hypertables already: {}", found.len(), first_few(&found)),
        "hyperlift reads plain PostgreSQL tables, and the rows of these are in chunks: leave them out (--exclude table:…), and move them by pg_dump with timescaledb_pre_restore()",
    )
}

pub fn replication_connection(attempt: &Result<()>, user: &str) -> Finding {
    match attempt {
        Ok(()) => Finding::ok(format!("{user} may replicate")),
        // A pooler does not know the parameter.
        Err(e) if e.has_code(crate::sqlstate::PROTOCOL_VIOLATION) => Finding::fail(e.to_string(), DIRECTLY),
        Err(e) => Finding::fail(e.to_string(), format!("alter role {} replication; and see that pg_hba.conf lets it connect", plain_ident(user))),
    }
}

pub fn ownership(may_publish: bool, in_scope: &[&SourceRelation], server: &Server) -> Finding {
    let foreign: Vec<String> = in_scope.iter().filter(|r| !r.owned).map(|r| r.table.to_string()).collect();
    let bad = if foreign.is_empty() {
        format!("{} may not create publications in this database", server.user)
    } else {
        format!("{} does not own {}", server.user, first_few(&foreign))
    };
    Finding::require(
        foreign.is_empty() && may_publish,
        format!("{} owns all {} tables and may create publications", server.user, in_scope.len()),
        bad,
        format!("connect as the owner of the tables or a superuser; grant create on database {} to {}", server.database, server.user),
    )
}

/// Their values are read at the cutover, when it would be too late to find out.
pub fn sequences(unreadable: &[TableName], omitted: Option<&Excluded>, user: &str) -> Finding {
    let found: Vec<String> = unreadable.iter().filter(|s| omitted.is_none_or(|o| !o.has_relation(s))).map(ToString::to_string).collect();
    Finding::require(
        found.is_empty(),
        "all can be read",
        format!("{user} may not read {}", first_few(&found)),
        format!("grant usage on its schema, and select on the sequence, to {}; or leave it out with --exclude", plain_ident(user)),
    )
}

pub fn old_snapshot_threshold(threshold: Option<&str>) -> Finding {
    match threshold {
        None => Finding::does_not_apply(&format!("PostgreSQL {} and later does not have it", versions::NO_OLD_SNAPSHOT_THRESHOLD)),
        Some(threshold) => Finding::require(
            threshold == "-1",
            "off",
            format!("old_snapshot_threshold is {threshold}: a long copy would fail"),
            "alter system set old_snapshot_threshold = -1; then restart the source",
        ),
    }
}

pub fn synchronous_standby_names(standbys: &str) -> Finding {
    Finding::require(
        !standbys.contains('*') && !standbys.to_lowercase().contains("hyperlift"),
        if standbys.is_empty() { "empty".into() } else { format!("{standbys} does not match hyperlift") },
        format!("{standbys:?} would take hyperlift for a synchronous standby: the application's commits would wait for it"),
        "name the standbys instead of '*', then select pg_reload_conf()",
    )
}

/// Whether the application's event triggers let hyperlift's statements pass. `altered`: tables that get another replica identity by the
/// plan.
pub fn event_triggers(found: &[EventTrigger], trial: &Trial, altered: usize) -> Finding {
    let named = |t: &EventTrigger| {
        let fires: Vec<&str> = SOURCE_TAGS.into_iter().filter(|tag| t.fires_at(tag)).collect();
        match (fires.is_empty(), t.fires_at_login()) {
            (_, true) => Some(format!("{} runs whenever hyperlift connects", t.name)),
            (true, _) => None,
            _ => Some(format!("{} fires at {}", t.name, fires.join(", "))),
        }
    };
    let fires = first_few(&found.iter().filter_map(named).collect::<Vec<_>>());
    let names = first_few(&found.iter().map(|t| t.name.as_str()).collect::<Vec<_>>());
    match (&trial.publication, &trial.identity) {
        _ if found.is_empty() => Finding::ok("none is enabled"),
        (Some(e), _) => Finding::fail(format!("{fires}; in a trial, a publication was refused: {e}"), WAYS_OUT),
        (None, Some(e)) if altered > 0 => Finding::fail(format!("{fires}; in a trial, ALTER TABLE … REPLICA IDENTITY was refused: {e}"), WAYS_OUT),
        (None, Some(e)) => Finding::warn(
            format!("{fires}; in a trial, ALTER TABLE … REPLICA IDENTITY was refused: {e}"),
            format!("if stage 2 has to set a replica identity: {WAYS_OUT}"),
        ),
        (None, None) if fires.is_empty() => Finding::ok(format!("no statement of hyperlift fires {names}")),
        (None, None) => Finding::warn(format!("{fires}; in a trial, hyperlift's statements were let pass"), WAYS_OUT),
    }
}

pub fn old_transactions(old: &[TransactionHolder]) -> Finding {
    match old.first() {
        None => Finding::ok("none older than five minutes"),
        Some(h) => Finding::warn(
            format!("{} of them; the oldest: {} ({}), {} s", old.len(), h.who, h.state, h.seconds),
            "the slot and the copies wait for their end; hyperlift shows whom it waits for",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Verdict::{Fail, Ok, Warn};

    #[test]
    fn versions_that_are_not_installed_here() {
        let server = |major: u32| Server {
            version: major * 10_000 + 4,
            version_text: format!("{major}.4"),
            system_id: String::new(),
            database: String::new(),
            database_oid: 1,
            user: String::new(),
            in_recovery: false,
            started: String::new(),
        };
        for (major, verdict) in [(12, Fail), (13, Ok), (18, Ok), (19, Fail)] {
            assert_eq!(version(&server(major)).verdict, verdict, "{major}");
        }
        for (timeout, verdict) in [(None, Ok), (Some("0"), Ok), (Some("1h"), Warn)] {
            assert_eq!(idle_slot_timeout(timeout).verdict, verdict, "{timeout:?}");
        }
        assert_eq!(old_snapshot_threshold(None).verdict, Ok);
    }

    #[test]
    fn a_transaction_that_is_open_for_long_is_named() {
        let holder = TransactionHolder { pid: 7, who: "app@shop".into(), state: "idle in transaction".into(), seconds: 412, query: String::new() };
        let finding = old_transactions(&[holder]);
        assert_eq!((finding.verdict, finding.sentence.as_str()), (Warn, "1 of them; the oldest: app@shop (idle in transaction), 412 s"));
    }
}
