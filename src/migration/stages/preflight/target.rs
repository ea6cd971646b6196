//! The target's side of preflight: what it is, what it holds, and what its user may do.

use std::collections::HashSet;

use super::{Checks, NAMED, first_few};
use crate::{
    error::Result,
    format,
    migration::{context::Context, restore::roles},
    pg::{
        catalog::{self, Server, exclusion, unsupported, versions},
        client::Client,
        ledger,
        timescale::{self, Timescale},
    },
};

/// So many checkpoints are worth a word.
const MANY_CHECKPOINTS: u64 = 20;

/// A target that is set up for small changes stops to write everything to disk over and over while it is filled (PostgreSQL documentation
/// 14.4.6).
pub async fn checkpoints(checks: &mut Checks, target: &Client, bytes: u64) -> Result<()> {
    let megabytes: i64 = catalog::value(target, "select setting::bigint from pg_settings where name = 'max_wal_size'").await?;
    let room = (megabytes as u64) << 20;
    if bytes / MANY_CHECKPOINTS > room {
        checks.warn(
            "max_wal_size",
            format!(
                "{} on the target: while {} come it makes a checkpoint for every {}",
                format::bytes(room),
                format::bytes(bytes),
                format::bytes(room)
            ),
            "alter system set max_wal_size = '32GB', then select pg_reload_conf(), for the time of the migration",
        );
    }
    Ok(())
}

pub(super) async fn checks(
    cx: &Context,
    checks: &mut Checks,
    source: &Client,
    target: &Client,
    (from, to): (&Server, &Server),
    ts: &Timescale,
) -> Result<()> {
    checks.require(
        "target version",
        versions::TARGET.contains(&to.major()),
        format!("PostgreSQL {}", to.version_text),
        format!("PostgreSQL {} is not supported", to.version_text),
        &format!("the target has to be PostgreSQL {} to {}", versions::TARGET.start(), versions::TARGET.end()),
    );
    let older = versions::TARGET.contains(&to.major()) && to.major() < from.major();
    if older {
        checks.warn(
            "versions",
            format!(
                "the target (PostgreSQL {}) is older than the source ({}): what it does not know fails, or is told when the schema is restored",
                to.major(),
                from.major()
            ),
            "take a target of at least the source's version, if you can",
        );
    }
    checks.require("target is a primary", !to.in_recovery, "not a standby", "the target is read-only: a standby", "connect to the primary");
    let create: bool = catalog::value(target, "select has_database_privilege(current_database(), 'CREATE')").await?;
    checks.require(
        "rights on the target",
        create,
        format!("{} may create schemas", to.user),
        format!("{} may not create schemas in database {}", to.user, to.database),
        &format!("grant create on database {} to {}", to.database, to.user),
    );
    if !catalog::value::<bool>(target, "select has_database_privilege(current_database(), 'TEMPORARY')").await? {
        checks.warn(
            "temporary tables",
            format!("{} may not create them on the target: replay goes change by change, several times slower", to.user),
            &format!("grant temporary on database {} to {}", to.database, to.user),
        );
    }
    match (&ts.installed, &ts.available) {
        (None, None) => checks.warn(
            "TimescaleDB",
            "not available on the target: tables stay plain",
            "install TimescaleDB on the target, or go on without hypertables",
        ),
        (installed, available) if !ts.preloaded => checks.fail(
            "TimescaleDB",
            format!(
                "{} is {} but the server does not preload it: rows would go astray",
                installed.as_ref().or(available.as_ref()).map_or("it", |v| v),
                if installed.is_some() { "installed" } else { "available" }
            ),
            "shared_preload_libraries = 'timescaledb' in postgresql.conf, then restart the target",
        ),
        (Some(v), _) if timescale::version(v) < timescale::versions::OLDEST => {
            checks.fail("TimescaleDB", format!("version {v} is too old"), "alter extension timescaledb update; 2.13 or later is needed");
        }
        (Some(v), _) => checks.ok("TimescaleDB", format!("version {v}, preloaded")),
        (None, Some(v)) => checks.ok("TimescaleDB", format!("version {v} will be created")),
    }
    checks.require(
        "timescaledb.restoring",
        !ts.restoring,
        "off",
        "on: rows written now would be invisible later",
        "select timescaledb_post_restore() on the target",
    );
    let known = ledger::migration(target).await?;
    match known {
        Some(known) if known.id == cx.record.id => checks.ok("target is empty", "holds this migration"),
        Some(known) => checks.fail(
            "target is empty",
            format!("it holds migration {} of {}", known.id, known.source_db),
            "continue that one with its own --dir, or `hyperlift clean` it, or use another database",
        ),
        None => {
            let objects = catalog::foreign_objects(target).await?;
            checks.require(
                "target is empty",
                objects.is_empty(),
                "no user tables",
                format!("it holds {}", first_few(&objects)),
                "migrate into an empty database: create one, or drop what is there",
            );
        }
    }
    let wanted = names(source, "select extname::text from pg_extension where extname not in ('plpgsql', 'timescaledb')").await?;
    let offered = names(target, "select name::text from pg_available_extensions").await?;
    let wanted: HashSet<String> = wanted.into_iter().filter(|e| cx.plan.scope.has_extension(e)).collect();
    let mut missing: Vec<String> = wanted.difference(&offered).cloned().collect();
    missing.sort();
    if missing.is_empty() || cx.config.skip_extensions {
        checks.ok("extensions", format!("{} of the source are available on the target", wanted.len() - missing.len()));
    } else {
        checks.warn(
            "extensions",
            format!("not available on the target: {}", missing.join(", ")),
            "install them there, or skip what needs them when the schema is restored",
        );
    }
    if !catalog::value::<bool>(target, "select current_setting('is_superuser') = 'on'").await? {
        no_superuser(cx, checks, source, target, to, &wanted).await?;
    }
    let (a, b) = (catalog::encoding(source).await?, catalog::encoding(target).await?);
    if a == b {
        checks.ok("encodings", a);
    } else if a == "SQL_ASCII" {
        checks.warn(
            "encodings",
            format!("source {a}, which is any bytes, target {b}"),
            "see that all text is UTF-8: a row that is not stops its copy, and one that is written later stops the replication for good",
        );
    } else {
        checks.warn("encodings", format!("source {a}, target {b}"), "values that the target cannot hold will fail to copy");
    }
    Ok(())
}

async fn names(client: &Client, sql: &str) -> Result<HashSet<String>> {
    Ok(client.query(sql, &[]).await?.iter().map(|r| r.get(0)).collect())
}

/// What the user of the target may not make, told before anything is begun. Roles may be mended at any time; the others fail when the
/// schema is restored.
async fn no_superuser(cx: &Context, checks: &mut Checks, source: &Client, target: &Client, to: &Server, extensions: &HashSet<String>) -> Result<()> {
    let user = &to.user;
    let may_create_roles: bool = catalog::value(target, "select rolcreaterole from pg_roles where rolname = current_user").await?;
    let missing = if may_create_roles || cx.config.skip_roles { Vec::new() } else { roles::missing(cx, source, target).await? };
    if !missing.is_empty() {
        checks.warn(
            "roles",
            format!("{user} may not create roles on the target, which lacks {}", named(&missing)),
            "create them there, give the user createrole, or take other roles of the target for them (--map-role)",
        );
    }
    let wanted: Vec<&str> = if cx.config.skip_extensions { Vec::new() } else { extensions.iter().map(String::as_str).collect() };
    let untrusted = target
        .query(
            "select e.name::text as name from pg_available_extensions e join pg_available_extension_versions v on v.name = e.name and v.version = e.default_version
              where e.installed_version is null and v.superuser and not v.trusted and e.name = any($1) order by 1",
            &[&wanted],
        )
        .await?;
    if !untrusted.is_empty() {
        let untrusted: Vec<String> = untrusted.iter().map(|r| r.get("name")).collect();
        checks.warn(
            "extensions of superusers",
            format!("{user} may not create {} on the target", named(&untrusted)),
            "let an administrator create them there beforehand, or leave them out (--exclude extension:…)",
        );
    }
    let omitted = exclusion::resolve(source, &cx.plan).await?;
    let objects = unsupported::made_by_superusers(source, &omitted).await?;
    if !objects.is_empty() {
        checks.warn(
            "objects of superusers",
            format!("{user} may not make {} on the target", named(&objects)),
            "connect to the target as a superuser, or skip them when the schema is restored",
        );
    }
    Ok(())
}

fn named(all: &[String]) -> String {
    let more = all.len().saturating_sub(NAMED);
    let named = all.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    if more > 0 { format!("{named} and {more} more") } else { named }
}
