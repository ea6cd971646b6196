//! Whether the target can hold what comes, and whether its user may make it.

use std::collections::HashSet;

use super::finding::{Finding, first_few};
use crate::{
    error::Result,
    format,
    migration::{context::Context, restore::roles},
    pg::{
        catalog::{
            self, Server,
            exclusion::{self, Excluded},
            unsupported, versions,
        },
        client::Client,
        event_triggers, ledger, timescale,
    },
};

pub const VERSION: &str = "target version";
pub const NOT_OLDER: &str = "versions";
pub const PRIMARY: &str = "target is a primary";
pub const RIGHTS: &str = "rights on the target";
pub const TEMPORARY_TABLES: &str = "temporary tables";
pub const EMPTY: &str = "target is empty";
pub const EVENT_TRIGGERS: &str = "event triggers on the target";
pub const SCHEMA_NAMES: &str = "names of schemas";
pub const EXTENSIONS: &str = "extensions";
pub const ROLES: &str = "roles";
pub const SUPERUSER_EXTENSIONS: &str = "extensions of superusers";
pub const SUPERUSER_OBJECTS: &str = "objects of superusers";
pub const ENCODINGS: &str = "encodings";
pub const MAX_WAL_SIZE: &str = "max_wal_size";

/// More checkpoints than this during the copy deserve a warning.
const MANY_CHECKPOINTS: u64 = 20;

/// What the target holds, and what its user may do.
#[derive(Debug)]
pub struct TargetFacts {
    pub may_create: bool,
    pub may_make_temporary_tables: bool,
    pub holds: Holds,
    /// Those that are enabled.
    pub event_triggers: Vec<String>,
    /// Schemas of the source that something else has on the target.
    pub taken_schemas: Vec<String>,
    /// Extensions of the source in scope, and those of them that the target does not offer.
    pub extensions: usize,
    pub missing_extensions: Vec<String>,
    pub skip_extensions: bool,
    /// What the user of the target cannot make.
    pub beyond: Beyond,
    /// Of source and target.
    pub encodings: (String, String),
    /// Bytes.
    pub max_wal_size: u64,
}

/// What is in the target database.
#[derive(Debug)]
pub enum Holds {
    Nothing,
    ThisMigration,
    AnotherMigration { id: String, source: String },
    Objects(Vec<String>),
}

/// What only a superuser can make, or only a user that may create roles. Nothing is beyond a superuser.
#[derive(Debug, Default)]
pub struct Beyond {
    pub roles: Vec<String>,
    pub extensions: Vec<String>,
    pub objects: Vec<String>,
}

pub async fn gather(cx: &Context, source: &Client, target: &Client, omitted: Option<&Excluded>) -> Result<TargetFacts> {
    let wanted = names(source, "select extname::text from pg_extension where extname not in ('plpgsql', 'timescaledb')").await?;
    let wanted: HashSet<String> = wanted.into_iter().filter(|e| cx.plan.scope.has_extension(e)).collect();
    let offered = names(target, "select name::text from pg_available_extensions").await?;
    let mut missing_extensions: Vec<String> = wanted.difference(&offered).cloned().collect();
    missing_extensions.sort();
    let megabytes: i64 = catalog::value(target, "select setting::bigint from pg_settings where name = 'max_wal_size'").await?;
    Ok(TargetFacts {
        may_create: catalog::value(target, "select has_database_privilege(current_database(), 'CREATE')").await?,
        may_make_temporary_tables: catalog::value(target, "select has_database_privilege(current_database(), 'TEMPORARY')").await?,
        holds: holds(cx, target).await?,
        event_triggers: event_triggers::enabled(target).await?.into_iter().map(|t| t.name).collect(),
        taken_schemas: taken_schemas(cx, source, target).await?,
        extensions: wanted.len(),
        missing_extensions,
        skip_extensions: cx.config.skip_extensions,
        beyond: beyond(cx, source, target, &wanted, omitted).await?,
        encodings: (catalog::encoding(source).await?, catalog::encoding(target).await?),
        max_wal_size: (megabytes as u64) << 20,
    })
}

async fn names(client: &Client, sql: &str) -> Result<HashSet<String>> {
    Ok(client.query(sql, &[]).await?.iter().map(|r| r.get(0)).collect())
}

async fn holds(cx: &Context, target: &Client) -> Result<Holds> {
    Ok(match ledger::migration(target).await? {
        Some(known) if known.id == cx.record.id => Holds::ThisMigration,
        Some(known) => Holds::AnotherMigration { id: known.id, source: known.source_db },
        None => match catalog::foreign_objects(target).await? {
            objects if objects.is_empty() => Holds::Nothing,
            objects => Holds::Objects(objects),
        },
    })
}

/// Objects of the application would get among those of the extension, or would be taken for hyperlift's.
async fn taken_schemas(cx: &Context, source: &Client, target: &Client) -> Result<Vec<String>> {
    let mut taken = catalog::extension_schemas(target).await?;
    if timescale::inspect(target).await?.available.is_some() {
        taken.extend(timescale::SCHEMAS.map(str::to_owned));
    }
    let scope = &cx.plan.scope;
    let mut found = catalog::user_schemas(source).await?;
    // The same extension may have it on both sides.
    let of_extensions = catalog::extension_schemas(source).await?;
    found.retain(|name| taken.contains(name) && !of_extensions.contains(name) && !scope.excludes_schema(name));
    let own = "select exists (select from pg_namespace where nspname = '_hyperlift')";
    if ledger::migration(source).await?.is_none() && catalog::value(source, own).await? {
        found.push("_hyperlift".into());
    }
    Ok(found)
}

/// Roles can be created at any time; the others fail when the schema is restored, so they are known before anything is begun.
async fn beyond(cx: &Context, source: &Client, target: &Client, extensions: &HashSet<String>, omitted: Option<&Excluded>) -> Result<Beyond> {
    if catalog::value(target, "select current_setting('is_superuser') = 'on'").await? {
        return Ok(Beyond::default());
    }
    let may_create_roles: bool = catalog::value(target, "select rolcreaterole from pg_roles where rolname = current_user").await?;
    let roles = if may_create_roles || cx.config.skip_roles { Vec::new() } else { roles::missing(cx, source, target).await? };
    let wanted: Vec<&str> = if cx.config.skip_extensions { Vec::new() } else { extensions.iter().map(String::as_str).collect() };
    let untrusted = target
        .query(
            "select e.name::text as name
               from pg_available_extensions e
               join pg_available_extension_versions v on v.name = e.name and v.version = e.default_version
              where e.installed_version is null and v.superuser and not v.trusted and e.name = any($1) order by 1",
            &[&wanted],
        )
        .await?;
    let objects = match omitted {
        Some(omitted) => unsupported::made_by_superusers(source, omitted).await?,
        None => unsupported::made_by_superusers(source, &exclusion::resolve(source, &cx.plan).await?).await?,
    };
    Ok(Beyond { roles, extensions: untrusted.iter().map(|r| r.get("name")).collect(), objects })
}

pub fn version(server: &Server) -> Finding {
    Finding::require(
        versions::TARGET.contains(&server.major()),
        format!("PostgreSQL {}", server.version_text),
        format!("PostgreSQL {} is not supported", server.version_text),
        format!("the target has to be PostgreSQL {} to {}", versions::TARGET.start(), versions::TARGET.end()),
    )
}

pub fn not_older(source: u32, target: u32) -> Finding {
    if target >= source {
        return Finding::ok(format!("source {source}, target {target}"));
    }
    Finding::warn(
        format!(
            "the target (PostgreSQL {target}) is older than the source ({source}): what it does not know fails, or is reported, when the schema is restored"
        ),
        "take a target of at least the source's version, if you can",
    )
}

pub fn primary(in_recovery: bool) -> Finding {
    Finding::require(!in_recovery, "not a standby", "the target is read-only: a standby", "connect to the primary")
}

pub fn rights(may_create: bool, server: &Server) -> Finding {
    let (user, database) = (&server.user, &server.database);
    Finding::require(
        may_create,
        format!("{user} may create schemas"),
        format!("{user} may not create schemas in database {database}"),
        format!("grant create on database {database} to {user}"),
    )
}

pub fn temporary_tables(may_make: bool, server: &Server) -> Finding {
    let (user, database) = (&server.user, &server.database);
    if may_make {
        return Finding::ok(format!("{user} may create them"));
    }
    Finding::warn(
        format!("{user} may not create them on the target: replay goes change by change, several times slower"),
        format!("grant temporary on database {database} to {user}"),
    )
}

pub fn empty(holds: &Holds) -> Finding {
    match holds {
        Holds::Nothing => Finding::ok("no user tables"),
        Holds::ThisMigration => Finding::ok("holds this migration"),
        Holds::AnotherMigration { id, source } => Finding::fail(
            format!("it holds migration {id} of {source}"),
            "continue that one with its own --dir, or `hyperlift clean` it, or use another database",
        ),
        Holds::Objects(names) => {
            Finding::fail(format!("it holds {}", first_few(names)), "migrate into an empty database: create one, or drop what is there")
        }
    }
}

pub fn event_triggers(found: &[String]) -> Finding {
    if found.is_empty() {
        return Finding::ok("none is enabled");
    }
    Finding::warn(
        format!("{} will fire at the statements of the schema, and may refuse them", first_few(found)),
        "alter event trigger … disable, for the time of the migration",
    )
}

pub fn schema_names(taken: &[String]) -> Finding {
    Finding::require(
        taken.is_empty(),
        "none of the source's is another's on the target",
        format!("{} of the source, but an extension or hyperlift has a schema of this name on the target", first_few(taken)),
        "rename it on the source (alter schema … rename to …), or leave it out (--exclude schema:…)",
    )
}

pub fn extensions(f: &TargetFacts) -> Finding {
    let missing = &f.missing_extensions;
    if f.extensions == 0 {
        return Finding::ok("the source needs none");
    }
    if missing.is_empty() || f.skip_extensions {
        return Finding::ok(format!("{} of the source are available on the target", f.extensions - missing.len()));
    }
    Finding::warn(
        format!("not available on the target: {}", missing.join(", ")),
        "install them there, or skip what needs them when the schema is restored",
    )
}

pub fn roles(missing: &[String], user: &str) -> Finding {
    if missing.is_empty() {
        return Finding::ok("none is missing that the user could not create");
    }
    Finding::warn(
        format!("{user} may not create roles on the target, which lacks {}", first_few(missing)),
        "create them there, give the user createrole, or take other roles of the target for them (--map-role)",
    )
}

pub fn superuser_extensions(beyond: &[String], user: &str) -> Finding {
    if beyond.is_empty() {
        return Finding::ok("none is needed that the user could not create");
    }
    Finding::warn(
        format!("{user} may not create {} on the target", first_few(beyond)),
        "let an administrator create them there beforehand, or leave them out (--exclude extension:…)",
    )
}

pub fn superuser_objects(beyond: &[String], user: &str) -> Finding {
    if beyond.is_empty() {
        return Finding::ok("none is needed that the user could not make");
    }
    Finding::warn(
        format!("{user} may not make {} on the target", first_few(beyond)),
        "connect to the target as a superuser, or skip them when the schema is restored",
    )
}

pub fn encodings(source: &str, target: &str) -> Finding {
    if source == target {
        Finding::ok(source)
    } else if source == "SQL_ASCII" {
        Finding::warn(
            format!("source {source}, which is any bytes, target {target}"),
            "see that all text is UTF-8: a row that is not stops its copy, and one that is written later stops the replication for good",
        )
    } else {
        Finding::warn(format!("source {source}, target {target}"), "values that the target cannot hold will fail to copy")
    }
}

/// A target that is set up for small changes writes everything to disk over and over while it is filled (PostgreSQL documentation
/// 14.4.6).
pub fn max_wal_size(limit: u64, bytes: u64) -> Finding {
    let size = format::bytes(limit);
    if bytes / MANY_CHECKPOINTS <= limit {
        return Finding::ok(size);
    }
    Finding::warn(
        format!("{size} on the target: while {} are copied, it makes a checkpoint for every {size}", format::bytes(bytes)),
        "alter system set max_wal_size = '32GB', then select pg_reload_conf(), for the time of the migration",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Verdict::{Fail, Ok, Warn};

    #[test]
    fn a_target_older_than_the_source_is_warned_of() {
        for (source, target, verdict) in [(15, 15, Ok), (13, 18, Ok), (17, 16, Warn)] {
            assert_eq!(not_older(source, target).verdict, verdict, "{source} to {target}");
        }
    }

    #[test]
    fn only_supported_targets_are_accepted() {
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
        for (major, verdict) in [(14, Fail), (15, Ok), (18, Ok), (19, Fail)] {
            assert_eq!(version(&server(major)).verdict, verdict, "{major}");
        }
    }

    #[test]
    fn a_checkpoint_for_every_small_part_of_the_rows_is_warned_of() {
        let gigabyte = 1 << 30;
        assert_eq!(max_wal_size(gigabyte, 20 * gigabyte).verdict, Ok);
        let finding = max_wal_size(gigabyte, 21 * gigabyte);
        assert_eq!(
            (finding.verdict, finding.sentence.as_str()),
            (Warn, "1.0 GB on the target: while 21.0 GB are copied, it makes a checkpoint for every 1.0 GB")
        );
    }
}
