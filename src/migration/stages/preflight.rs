//! Stage 1: everything that can be known before anything is changed. A hard failure stops here.

mod target;

use super::identity;
use crate::{
    error::{Error, Kind, Result},
    event::{Check, Command, Endpoint, Event, Level, Stage, Verdict},
    format,
    migration::{
        context::{Answer, Context},
        relations,
    },
    pg::{
        catalog::{self, Server, SourceRelation, exclusion, unsupported, versions},
        client::Client,
        connect::session::Side,
        dump,
        own::Names,
        pooler::{self, Intermediary},
        slot,
        timescale::{self, Timescale},
        wire::Wire,
    },
    replay::spooler::disk_free,
    scope::Inclusion,
    sqlstate,
};

/// Objects named in a verdict.
const NAMED: usize = 5;
const DIRECTLY: &str = "connect to the PostgreSQL server itself, by its own host and port (PgBouncer often listens on 6432, the server on 5432)";
/// The list of what the filters leave out, in the work directory.
const LEFT_OUT: &str = "report/left-out.txt";
/// So many of them are told one by one.
const NAMED_LEFT_OUT: usize = 20;

/// Fresh checks as they are made.
struct Checks {
    found: Vec<Check>,
}

impl Checks {
    fn add(&mut self, name: &str, verdict: Verdict, sentence: impl Into<String>, fix: Option<&str>) {
        self.found.push(Check { name: name.into(), verdict, sentence: sentence.into(), fix: fix.map(str::to_owned) });
    }
    fn ok(&mut self, name: &str, sentence: impl Into<String>) {
        self.add(name, Verdict::Ok, sentence, None);
    }
    fn warn(&mut self, name: &str, sentence: impl Into<String>, fix: &str) {
        self.add(name, Verdict::Warn, sentence, Some(fix));
    }
    fn fail(&mut self, name: &str, sentence: impl Into<String>, fix: &str) {
        self.add(name, Verdict::Fail, sentence, Some(fix));
    }
    /// Ok, or a failure with its fix.
    fn require(&mut self, name: &str, ok: bool, good: impl Into<String>, bad: impl Into<String>, fix: &str) {
        if ok { self.ok(name, good) } else { self.fail(name, bad, fix) }
    }
}

/// Runs the checks until none fails and the operator continues.
pub async fn run(cx: &mut Context) -> Result<()> {
    cx.enter(Stage::Preflight).await;
    loop {
        cx.reporter.report(Event::ChecksStarted).await;
        let checks = cx.unless_stopped(check(cx)).await;
        let (checks, facts) = match checks {
            Ok(found) => found,
            // A server that is not reached is a verdict, too: with a terminal it can be tried again.
            Err(e) if cx.config.interactive && !e.is_stop() && e.kind != Kind::Usage => {
                let check = Check { name: "connections".into(), verdict: Verdict::Fail, sentence: e.to_string(), fix: e.hint.clone() };
                (vec![check], None)
            }
            Err(e) => return Err(refused(e)),
        };
        for check in &checks {
            cx.reporter.report(Event::Checked { check: check.clone() }).await;
        }
        let failed: Vec<&Check> = checks.iter().filter(|c| c.verdict == Verdict::Fail).collect();
        if let (true, Some(facts)) = (failed.is_empty(), facts) {
            accept(cx, facts)?;
        }
        if cx.is_finished(Stage::Preflight) && failed.is_empty() {
            break;
        }
        if let (Some(first), false) = (failed.first(), cx.config.interactive) {
            let mut error = Error::refused(format!("preflight, {}: {}", first.name, first.sentence));
            error.hint.clone_from(&first.fix);
            return Err(error);
        }
        let warnings = checks.iter().filter(|c| c.verdict == Verdict::Warn).count();
        let text = match (failed.len(), warnings) {
            (0, 0) => "Everything is in order.".to_owned(),
            (0, n) => format!("{n} warning{}: read them, then go on.", plural(n)),
            (n, _) => format!("{n} check{} failed. Mend the cause, then check again (R).", plural(n)),
        };
        let blocked = (!failed.is_empty()).then(|| format!("{} failed", failed.len()));
        match cx.ask_continue(Stage::Preflight, text, blocked).await? {
            Answer::Continue => break,
            Answer::Other(Command::Recheck) => {}
            Answer::Other(other) => cx.refuse(&other, Stage::Preflight).await,
        }
    }
    if !cx.is_finished(Stage::Preflight) {
        cx.record.scope = cx.plan.scope.clone();
        if !cx.plan.scope.is_everything() {
            cx.save_plan()?;
            let list = std::fs::read_to_string(cx.work.path().join(LEFT_OUT)).unwrap_or_default();
            cx.not_moved(format!("{} objects", list.lines().count()), format!("left out with the filters: see {LEFT_OUT}")).await?;
        }
    }
    cx.finish(Stage::Preflight).await
}

/// Some of these, by name.
fn first_few(names: &[String]) -> String {
    let some = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if names.len() > NAMED { format!("{some}, …") } else { some }
}

fn plural(n: usize) -> &'static str {
    if n == 1 { "" } else { "s" }
}

/// What a server said no to is a refusal of the check, not a failure of the program.
fn refused(mut e: Error) -> Error {
    if matches!(e.kind, Kind::Connection | Kind::Database | Kind::Failed) {
        e.kind = Kind::Refused;
    }
    e
}

/// What the checks learned and the migration keeps.
struct Facts {
    source: Server,
    target: Server,
    timescale: Timescale,
    endpoints: (Endpoint, Endpoint),
}

fn accept(cx: &mut Context, facts: Facts) -> Result<()> {
    cx.timescale = facts.timescale;
    cx.endpoints = facts.endpoints;
    if cx.record.source.system_id.is_empty() {
        cx.record.source = crate::record::RecordedEndpoint {
            address: cx.config.source.address(),
            system_id: facts.source.system_id,
            database: facts.source.database,
        };
        cx.record.target = crate::record::RecordedEndpoint {
            address: cx.config.target.address(),
            system_id: facts.target.system_id,
            database: facts.target.database,
        };
        cx.save()?;
    }
    Ok(())
}

async fn check(cx: &Context) -> Result<(Vec<Check>, Option<Facts>)> {
    let mut checks = Checks { found: Vec::new() };
    let source_by_proxy = goes_by_proxy(cx, Side::Source).await?;
    let target_by_proxy = goes_by_proxy(cx, Side::Target).await?;
    let source = cx.source("preflight").await?;
    let from = catalog::server(&source).await?;
    // One test server has a single session: nothing may be held open on the target while the other side is asked.
    let target = cx.target("preflight").await?;
    let to = catalog::server(&target).await?;
    let timescale = timescale::inspect(&target).await?;
    same_migration(cx, &from, &to)?;
    let endpoints = (
        Endpoint { address: cx.config.source.address(), version: from.version_text.clone(), timescale: None },
        Endpoint { address: cx.config.target.address(), version: to.version_text.clone(), timescale: timescale.installed.clone() },
    );
    cx.reporter.report(Event::Connected { source: endpoints.0.clone(), target: endpoints.1.clone() }).await;
    checks.ok("connections", format!("source as {}, target as {}", from.user, to.user));
    if source_by_proxy || target_by_proxy {
        let sides = if source_by_proxy && target_by_proxy {
            "both sides"
        } else if source_by_proxy {
            "the source"
        } else {
            "the target"
        };
        checks.warn("no pooler", format!("a proxy, or a pooler by sessions, stands before {sides}: it may limit connections or end them"), DIRECTLY);
    } else {
        checks.ok("no pooler", "both servers are spoken to directly");
    }
    if (&from.system_id, &from.database) == (&to.system_id, &to.database) && from.database_oid == to.database_oid {
        checks.fail(
            "source is not the target",
            format!("both are database {} of the same server", from.database),
            "give --target the TimescaleDB database",
        );
        return Ok((checks.found, None));
    }
    checks.ok("source is not the target", "two databases");
    let all = catalog::relations(&source).await?;
    scope_checks(cx, &mut checks, &source, &all).await?;
    relations::check_plan_names(cx, &all)?;
    let mut relations = all;
    relations.retain(|r| cx.plan.scope.inclusion(&r.table) == Inclusion::All);
    identity::check_plan(cx, &relations)?;
    let summaries = relations.iter().map(|r| relations::summary(r, cx)).collect();
    cx.reporter.report(Event::RelationsFound { relations: summaries }).await;
    source_checks(cx, &mut checks, &source, &from, &relations).await?;
    target::checks(cx, &mut checks, &source, &target, (&from, &to), &timescale).await?;
    target::checkpoints(&mut checks, &target, relations.iter().map(|r| r.bytes).sum()).await?;
    machine_checks(cx, &mut checks, &from, &relations).await;
    Ok((checks.found, Some(Facts { source: from, target: to, timescale, endpoints })))
}

/// Whether a proxy is on the way. A pooler that gives a transaction whichever session is free is refused (N-6), before any of our settings
/// could become one of the application's.
async fn goes_by_proxy(cx: &Context, side: Side) -> Result<bool> {
    let info = match side {
        Side::Source => &cx.config.source,
        Side::Target => &cx.config.target,
    };
    match pooler::detect(info, &cx.application("preflight")).await.map_err(|e| e.context(side))? {
        Intermediary::None => Ok(false),
        Intermediary::Proxy => Ok(true),
        Intermediary::Pooler => Err(Error::refused(format!("{side}: a connection pooler stands at {}", info.address()))
            .detail("it serves each transaction by another session: settings and locks of a migration would end up in those of the application")
            .hint(DIRECTLY)),
    }
}

/// A work directory belongs to one pair of databases (N-7).
fn same_migration(cx: &Context, from: &Server, to: &Server) -> Result<()> {
    for (side, known, now) in [("source", &cx.record.source, from), ("target", &cx.record.target, to)] {
        if !known.system_id.is_empty() && (&known.system_id, &known.database) != (&now.system_id, &now.database) {
            return Err(Error::refused(format!(
                "{} holds another migration: its {side} is {} (system {}), not database {} of system {}",
                cx.work.path().display(),
                known.address,
                known.system_id,
                now.database,
                now.system_id
            ))
            .hint("give the URIs with which it began, or another --dir for a new migration"));
        }
    }
    Ok(())
}

/// What of the source is migrated, and what is not.
async fn scope_checks(cx: &Context, checks: &mut Checks, source: &Client, all: &[SourceRelation]) -> Result<()> {
    let scope = &cx.plan.scope;
    let of = |wanted: Inclusion| all.iter().filter(move |r| scope.inclusion(&r.table) == wanted);
    let size = |bytes: u64| format::bytes(bytes);
    let bytes: u64 = all.iter().map(|r| r.bytes).sum();
    if scope.is_everything() {
        checks.ok("scope", format!("all {} tables, {}", all.len(), size(bytes)));
        return Ok(());
    }
    let omitted = exclusion::resolve(source, &cx.plan).await?;
    // Later its names may be others.
    if !cx.is_finished(Stage::Preflight) {
        if !omitted.unmatched.is_empty() {
            checks.fail("filters", format!("{} matches nothing on the source", omitted.unmatched.join(", ")), "correct it, or leave it away");
        }
        cx.work.replace(LEFT_OUT, omitted.to_lines().as_bytes())?;
        for object in omitted.list.iter().take(NAMED_LEFT_OUT) {
            cx.notice(Level::Info, format!("left out: {}", object.to_string().replace('\n', " "))).await;
        }
    }
    if let Some((first, more)) = omitted.problems.split_first().filter(|_| !cx.is_finished(Stage::Preflight)) {
        let more = if more.is_empty() { String::new() } else { format!("; and {} more of this kind", more.len()) };
        checks.fail("scope", format!("{first}{more}"), "leave that out, too, or keep what it needs");
        return Ok(());
    }
    let structure = of(Inclusion::Structure).count();
    let rowless = if structure > 0 { format!("; {structure} more without rows") } else { String::new() };
    let kept: u64 = of(Inclusion::All).map(|r| r.bytes).sum();
    checks.ok(
        "scope",
        format!(
            "{} of {} tables, {} of {}{rowless}; left out: {} objects, listed in {LEFT_OUT}",
            of(Inclusion::All).count(),
            all.len(),
            size(kept),
            size(bytes),
            omitted.list.len()
        ),
    );
    Ok(())
}

async fn source_checks(cx: &Context, checks: &mut Checks, source: &Client, from: &Server, relations: &[SourceRelation]) -> Result<()> {
    let major = from.major();
    checks.require(
        "source version",
        versions::SOURCE.contains(&major),
        format!("PostgreSQL {}", from.version_text),
        format!("PostgreSQL {} is not supported", from.version_text),
        &format!("hyperlift reads PostgreSQL {} to {}", versions::SOURCE.start(), versions::SOURCE.end()),
    );
    checks.require(
        "source is a primary",
        !from.in_recovery,
        "not a standby",
        "the source is a standby: it cannot hold the publications",
        "connect to the primary",
    );
    let wal_level = catalog::setting(source, "wal_level").await?.unwrap_or_default();
    checks.require(
        "wal_level",
        wal_level == "logical",
        "logical",
        format!("wal_level is {wal_level}: the source writes no logical changes"),
        "alter system set wal_level = 'logical'; then restart the source",
    );
    let names = Names::new(&cx.record.id);
    let own = slot::slot(source, &names.slot).await?;
    for (name, sql, fix) in [
        (
            "free replication slot",
            "select current_setting('max_replication_slots')::bigint - count(*) from pg_replication_slots",
            "raise max_replication_slots and restart the source, or drop a slot nobody uses (select * from pg_replication_slots)",
        ),
        (
            "free walsender",
            "select current_setting('max_wal_senders')::bigint - count(*) from pg_stat_replication",
            "raise max_wal_senders and restart the source",
        ),
    ] {
        let free: i64 = catalog::value(source, sql).await?;
        match own {
            Some(_) => checks.ok(name, "in use by this migration"),
            None => checks.require(name, free > 0, format!("{free} free"), "none is free", fix),
        }
    }
    if let Some(Err(e)) = own.map(|slot| slot.check(&names.slot)) {
        checks.fail("slot", e.message, e.hint.as_deref().unwrap_or_default());
    }
    if major >= versions::IDLE_SLOT_TIMEOUT {
        let timeout = catalog::setting(source, "idle_replication_slot_timeout").await?.unwrap_or_default();
        if timeout != "0" {
            checks.warn(
                "idle_replication_slot_timeout",
                format!("the source gives up a slot that nobody uses for {timeout}: while hyperlift is stopped, nobody does"),
                "alter system set idle_replication_slot_timeout = 0, then select pg_reload_conf(); or do not stop for that long",
            );
        }
    }
    let (tables, locks) = catalog::tables_and_locks(source).await?;
    if tables > locks {
        checks.warn(
            "room for locks",
            format!("pg_dump locks {tables} tables and partitions at once; the source has room for about {locks} locks"),
            "raise max_locks_per_transaction and restart the source, or leave tables out",
        );
    }
    let hypertables = timescale::hypertable_names(source).await?;
    let hypertables: Vec<String> = hypertables.into_iter().filter(|h| relations.iter().any(|r| r.table == *h)).map(|h| h.to_string()).collect();
    if !hypertables.is_empty() {
        checks.fail(
            "source has no hypertables",
            format!("{} of its tables are hypertables already: {}", hypertables.len(), first_few(&hypertables)),
            "hyperlift reads plain PostgreSQL tables, and the rows of these are in chunks: leave them out (--exclude table:…), and move them by pg_dump with timescaledb_pre_restore()",
        );
    }
    replication_right(cx, checks, from).await;
    let foreign: Vec<String> = relations.iter().filter(|r| !r.owned).map(|r| r.table.to_string()).collect();
    let create: bool = catalog::value(source, "select has_database_privilege(current_database(), 'CREATE')").await?;
    checks.require(
        "ownership",
        foreign.is_empty() && create,
        format!("{} owns all {} tables and may create publications", from.user, relations.len()),
        if foreign.is_empty() {
            format!("{} may not create publications in this database", from.user)
        } else {
            format!("{} does not own {}", from.user, first_few(&foreign))
        },
        &format!("connect as the owner of the tables or a superuser; grant create on database {} to {}", from.database, from.user),
    );
    if major < versions::NO_OLD_SNAPSHOT_THRESHOLD {
        let threshold = catalog::setting(source, "old_snapshot_threshold").await?.unwrap_or_else(|| "-1".into());
        checks.require(
            "old_snapshot_threshold",
            threshold == "-1",
            "off",
            format!("old_snapshot_threshold is {threshold}: a long copy would fail"),
            "alter system set old_snapshot_threshold = -1; then restart the source",
        );
    }
    let standbys = catalog::setting(source, "synchronous_standby_names").await?.unwrap_or_default();
    let matches = standbys.contains('*') || standbys.to_lowercase().contains("hyperlift");
    checks.require(
        "synchronous_standby_names",
        !matches,
        if standbys.is_empty() { "empty".into() } else { format!("{standbys} does not match hyperlift") },
        format!("{standbys:?} would take hyperlift for a synchronous standby: the application's commits would wait for it"),
        "name the standbys instead of '*', then select pg_reload_conf()",
    );
    let old: Vec<_> = catalog::holders(source, None).await?.into_iter().filter(|h| h.seconds > 300).collect();
    match old.first() {
        None => checks.ok("old transactions", "none older than five minutes"),
        Some(h) => checks.warn(
            "old transactions",
            format!("{} of them; the oldest: {} ({}), {} s", old.len(), h.who, h.state, h.seconds),
            "the slot and the copies wait for their end; hyperlift shows whom it waits for",
        ),
    }
    apart_checks(cx, checks, source).await
}

/// What does not arrive as everything else does, kind by kind.
async fn apart_checks(cx: &Context, checks: &mut Checks, source: &Client) -> Result<()> {
    let found = unsupported::find(source, &cx.plan).await?;
    for kind in found.chunk_by(|a, b| a.check == b.check) {
        // One line for those with the same fate.
        let fates: Vec<String> = kind
            .chunk_by(|a, b| a.reason == b.reason)
            .map(|same| {
                let named: Vec<String> = same.iter().take(NAMED).map(|a| a.object.to_string()).collect();
                let more = if same.len() > NAMED { format!(" and {} more", same.len() - NAMED) } else { String::new() };
                format!("{}{more}: {}", named.join(", "), same[0].reason)
            })
            .collect();
        checks.warn(&kind[0].check, fates.join("; "), &kind[0].fix);
    }
    let references = unsupported::object_references(source).await?;
    if !references.is_empty() {
        checks.warn(
            "columns that name objects",
            references.join(", "),
            "what they name has to be on the target when the rows are copied: tables, types and functions are, indexes and roles that are not created are not",
        );
    }
    let rights = match (cx.plan.owners, cx.plan.grants) {
        (false, false) => "all objects will belong to the target's user, without grants (--owners, --grants)",
        (true, false) => "as on the source; no grants (--grants)",
        (false, true) => "all objects will belong to the target's user (--owners); grants as on the source",
        (true, true) => "both as on the source",
    };
    checks.ok("owners and grants", rights);
    Ok(())
}

/// By trying: managed services grant the right in ways of their own.
async fn replication_right(cx: &Context, checks: &mut Checks, from: &Server) {
    let attempt = async {
        let mut wire = Wire::connect(&cx.config.source, &cx.application("preflight"), true).await?;
        wire.simple("IDENTIFY_SYSTEM").await
    };
    match attempt.await {
        Ok(_) => checks.ok("replication connection", format!("{} may replicate", from.user)),
        // A pooler does not know the parameter.
        Err(e) if e.has_code(sqlstate::PROTOCOL_VIOLATION) => checks.fail("replication connection", e.to_string(), DIRECTLY),
        Err(e) => checks.fail(
            "replication connection",
            e.to_string(),
            &format!("alter role {} replication; and see that pg_hba.conf lets it connect", crate::name::plain_ident(&from.user)),
        ),
    }
}

async fn machine_checks(cx: &Context, checks: &mut Checks, from: &Server, relations: &[SourceRelation]) {
    match dump::find(cx.config.pg_dump.as_deref(), from.major()).await {
        Ok(p) => checks.ok("pg_dump", format!("version {} ({})", p.major, p.path.display())),
        Err(e) => checks.fail("pg_dump", e.message, e.hint.as_deref().unwrap_or_default()),
    }
    let size: u64 = relations.iter().map(|r| r.bytes).sum();
    let free = disk_free(cx.work.path());
    let sentence = format!("{} free for the spool; the source holds {}", format::bytes(free), format::bytes(size));
    let fix = "give --dir a larger disk: all that the application writes during the copy is kept there";
    if free < 2 << 30 {
        checks.fail("disk", sentence, fix);
    } else if free < size / 2 {
        checks.warn("disk", sentence, fix);
    } else {
        checks.ok("disk", sentence);
    }
    if relations.is_empty() {
        cx.notice(Level::Warn, "the source has no tables").await;
    }
}
