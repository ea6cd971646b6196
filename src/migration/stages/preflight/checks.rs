//! The table of checks. Its order is the order in which they are shown; `hyperlift check --list` and the guide are printed from it.
//!
//! A new check is a fact of its group, a function from facts to a [`Finding`], a row here, and a situation in `tests/it/preflight.rs`.

use std::fmt::Write as _;

use super::{
    connections::{self, ConnectionFacts, NotGathered},
    finding::Finding,
    machine::{self, MachineFacts},
    scope::{self, Purpose, ScopeFacts},
    source::{self, SourceFacts},
    target::{self, TargetFacts},
    timescaledb::{self, TimescaleFacts},
};
use crate::{error::Result, migration::context::Context};

/// What a check is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Group {
    Connections,
    Scope,
    Source,
    Target,
    Machine,
}

impl Group {
    pub fn title(self) -> &'static str {
        match self {
            Self::Connections => "Connections",
            Self::Scope => "Scope",
            Self::Source => "Source",
            Self::Target => "Target",
            Self::Machine => "This machine",
        }
    }
}

/// One check of preflight.
pub struct PreflightCheck {
    /// Short and stable: the operator, the guide and `--json` know the check by it.
    pub name: &'static str,
    pub group: Group,
    /// Why it matters, in one line.
    pub meaning: &'static str,
    pub run: fn(&Facts) -> Finding,
}

/// All that the checks judge, gathered beforehand.
#[derive(Debug)]
pub struct Facts {
    pub connections: ConnectionFacts,
    pub scope: ScopeFacts,
    pub source: SourceFacts,
    pub target: TargetFacts,
    pub timescaledb: TimescaleFacts,
    pub machine: MachineFacts,
}

impl Facts {
    /// One question after the other: a target of the tests serves one session at a time.
    pub async fn gather(cx: &Context, purpose: Purpose) -> Result<Self, NotGathered> {
        let (connections, sessions) = connections::gather(cx).await?;
        let scope = scope::gather(cx, &sessions.source, purpose).await?;
        let source = source::gather(cx, &sessions.source).await?;
        let target = target::gather(cx, &sessions.source, &sessions.target, scope.omitted.as_ref()).await?;
        let timescaledb = timescaledb::gather(cx, &sessions.source, &sessions.target, &connections.timescale, scope.omitted.as_ref()).await?;
        let machine = machine::gather(cx, connections.source.major()).await;
        Ok(Self { connections, scope, source, target, timescaledb, machine })
    }
}

const fn check(group: Group, name: &'static str, meaning: &'static str, run: fn(&Facts) -> Finding) -> PreflightCheck {
    PreflightCheck { name, group, meaning, run }
}

use Group::{Connections, Machine, Scope, Source, Target};

#[rustfmt::skip]
pub const CHECKS: &[PreflightCheck] = &[
    check(Connections, connections::CONNECTIONS, "Both databases are reached, with these users.",
        |f| connections::connections(&f.connections)),
    check(Connections, connections::NO_POOLER, "A pooler mixes up sessions; a proxy may limit or end long connections.",
        |f| connections::no_pooler(&f.connections)),
    check(Connections, connections::WORK_DIRECTORY, "A work directory belongs to one pair of databases, and holds rows that only its owner may read.",
        |f| connections::work_directory(&f.connections.work_directory)),
    check(Connections, connections::TWO_DATABASES, "A database cannot be migrated to itself.",
        |f| connections::two_databases(&f.connections.source, &f.connections.target)),

    check(Scope, scope::FILTERS, "A filter that matches nothing is probably misspelt.",
        |f| scope::filters(f.scope.omitted.as_ref(), f.scope.has_begun)),
    check(Scope, scope::SCOPE, "How many tables are migrated; what is left out must not be needed by what is kept.",
        |f| scope::scope(&f.scope)),
    check(Scope, scope::PUBLICATIONS, "Publications of the source are created only with --publications.",
        |f| scope::unsupported(&f.scope.unsupported, scope::PUBLICATIONS)),
    check(Scope, scope::SUBSCRIPTIONS, "Two subscribers of one slot would take changes from each other.",
        |f| scope::unsupported(&f.scope.unsupported, scope::SUBSCRIPTIONS)),
    check(Scope, scope::DATABASE_SETTINGS, "Settings of `alter database … set` are not taken over.",
        |f| scope::unsupported(&f.scope.unsupported, scope::DATABASE_SETTINGS)),
    check(Scope, scope::DATABASE_GRANTS, "Grants on the database itself are not taken over.",
        |f| scope::unsupported(&f.scope.unsupported, scope::DATABASE_GRANTS)),
    check(Scope, scope::DATABASE_COMMENT, "The comment on the database itself is not taken over.",
        |f| scope::unsupported(&f.scope.unsupported, scope::DATABASE_COMMENT)),
    check(Scope, scope::SECURITY_LABELS, "Security labels need their provider, so they stay on the source.",
        |f| scope::unsupported(&f.scope.unsupported, scope::SECURITY_LABELS)),
    check(Scope, scope::TABLESPACES, "Everything is created in the default tablespace of the target.",
        |f| scope::unsupported(&f.scope.unsupported, scope::TABLESPACES)),
    check(Scope, scope::UNLOGGED_TABLES, "Changes of unlogged tables are not in the WAL: they are copied once.",
        |f| scope::unsupported(&f.scope.unsupported, scope::UNLOGGED_TABLES)),
    check(Scope, scope::LARGE_OBJECTS, "Changes of large objects are not replicated: they are copied once.",
        |f| scope::unsupported(&f.scope.unsupported, scope::LARGE_OBJECTS)),
    check(Scope, scope::EXTENSION_ROWS, "Your rows in tables of extensions are copied once.",
        |f| scope::unsupported(&f.scope.unsupported, scope::EXTENSION_ROWS)),
    check(Scope, scope::FOREIGN_PARTITIONS, "Rows of foreign tables are on another server, and in no stream.",
        |f| scope::foreign_partitions(&f.scope.foreign_parts)),
    check(Scope, scope::OBJECT_NAMES, "A value of type regclass, regrole and so on needs the object that it names.",
        |f| scope::object_names(&f.scope.object_names)),
    check(Scope, scope::UNREADABLE, "Some internal types print values and read none; a copy of a catalog has such columns.",
        |f| scope::unreadable(&f.scope.unreadable)),
    check(Scope, scope::OWNERS_AND_GRANTS, "Says who will own the objects on the target, and which grants they will have.",
        |f| scope::owners_and_grants(f.scope.owners, f.scope.grants)),

    check(Source, source::VERSION, "Only these versions of PostgreSQL are read.",
        |f| source::version(&f.connections.source)),
    check(Source, source::PRIMARY, "A standby cannot hold the publications.",
        |f| source::primary(f.connections.source.in_recovery)),
    check(Source, source::WAL_LEVEL, "Changes can be decoded from the WAL only with `wal_level = logical`.",
        |f| source::wal_level(&f.source.wal_level)),
    check(Source, source::FREE_SLOT, "The migration needs a replication slot.",
        |f| source::free_slot(&f.source)),
    check(Source, source::FREE_WALSENDER, "The migration needs a WAL sender.",
        |f| source::free_walsender(&f.source)),
    check(Source, source::SLOT, "A slot that the source has invalidated cannot be continued.",
        |f| source::own_slot(f.source.own_slot.as_ref())),
    check(Source, source::PUBLISHED, "A table that somebody has taken out of the migration's publications lacks changes.",
        |f| source::published(&f.source)),
    check(Source, source::IDLE_SLOT_TIMEOUT, "The source may invalidate the slot while hyperlift is stopped.",
        |f| source::idle_slot_timeout(f.source.idle_slot_timeout.as_deref())),
    check(Source, source::LOCKS, "pg_dump locks every table in one transaction.",
        |f| source::locks(f.source.tables, f.source.locks)),
    check(Source, source::NO_HYPERTABLES, "Hypertables as a source are not supported.",
        |f| source::no_hypertables(&f.source, &f.scope.copied())),
    check(Source, source::REPLICATION, "The user must be allowed to open a replication connection.",
        |f| source::replication_connection(&f.source.replication, &f.connections.source.user)),
    check(Source, source::OWNERSHIP, "Only owners can publish their tables and change the replica identity.",
        |f| source::ownership(f.source.may_publish, &f.scope.copied(), &f.connections.source)),
    check(Source, source::SEQUENCES, "The values of sequences are read at the cutover.",
        |f| source::sequences(&f.source.unreadable_sequences, f.scope.omitted.as_ref(), &f.connections.source.user)),
    check(Source, source::OLD_SNAPSHOT_THRESHOLD, "A limit on the age of snapshots would end a long copy.",
        |f| source::old_snapshot_threshold(f.source.old_snapshot_threshold.as_deref())),
    check(Source, source::SYNCHRONOUS_STANDBY_NAMES, "Commits of the application must not wait for hyperlift.",
        |f| source::synchronous_standby_names(&f.source.synchronous_standby_names)),
    check(Source, source::EVENT_TRIGGERS, "The application's event triggers fire at hyperlift's statements, too, and may refuse them.",
        |f| source::event_triggers(&f.source.event_triggers, &f.source.trial, f.scope.altered)),
    check(Source, source::OLD_TRANSACTIONS, "The slot is created only after all open transactions have ended.",
        |f| source::old_transactions(&f.source.old_transactions)),

    check(Target, target::VERSION, "Only these versions of PostgreSQL are written to.",
        |f| target::version(&f.connections.target)),
    check(Target, target::NOT_OLDER, "An older target may not know what the source has.",
        |f| target::not_older(f.connections.source.major(), f.connections.target.major())),
    check(Target, target::PRIMARY, "A standby is read-only.",
        |f| target::primary(f.connections.target.in_recovery)),
    check(Target, target::RIGHTS, "The user must be allowed to create schemas.",
        |f| target::rights(f.target.may_create, &f.connections.target)),
    check(Target, target::TEMPORARY_TABLES, "Replay writes large batches through temporary tables.",
        |f| target::temporary_tables(f.target.may_make_temporary_tables, &f.connections.target)),
    check(Target, timescaledb::TIMESCALEDB, "Hypertables need TimescaleDB 2.13 or later, preloaded.",
        |f| timescaledb::timescaledb(&f.connections.timescale, f.timescaledb.planned.as_ref())),
    check(Target, timescaledb::NAMES, "Functions of the application must not meet functions of TimescaleDB with the same names.",
        |f| timescaledb::names(&f.timescaledb)),
    check(Target, timescaledb::RESTORING, "In restoring mode TimescaleDB does not route rows to chunks.",
        |f| timescaledb::restoring(f.connections.timescale.restoring)),
    check(Target, target::EMPTY, "Nothing that is there already is overwritten or mixed with the source's rows.",
        |f| target::empty(&f.target.holds)),
    check(Target, target::EVENT_TRIGGERS, "An event trigger of the target fires at each statement of the schema.",
        |f| target::event_triggers(&f.target.event_triggers)),
    check(Target, target::SCHEMA_NAMES, "The application's objects must not get among those of an extension, or of hyperlift.",
        |f| target::schema_names(&f.target.taken_schemas)),
    check(Target, target::EXTENSIONS, "Objects that need an extension fail without it.",
        |f| target::extensions(&f.target)),
    check(Target, target::ROLES, "Owners, grants and policies need the source's roles.",
        |f| target::roles(&f.target.beyond.roles, &f.connections.target.user)),
    check(Target, target::SUPERUSER_EXTENSIONS, "Some extensions can be created only by a superuser.",
        |f| target::superuser_extensions(&f.target.beyond.extensions, &f.connections.target.user)),
    check(Target, target::SUPERUSER_OBJECTS, "Some objects can be created only by a superuser.",
        |f| target::superuser_objects(&f.target.beyond.objects, &f.connections.target.user)),
    check(Target, target::ENCODINGS, "Text that the target's encoding cannot hold is refused.",
        |f| target::encodings(&f.target.encodings.0, &f.target.encodings.1)),
    check(Target, target::MAX_WAL_SIZE, "A small limit makes one checkpoint after the other while rows are copied.",
        |f| target::max_wal_size(f.target.max_wal_size, f.scope.bytes())),

    check(Machine, machine::PG_DUMP, "The schema is read by a pg_dump that is not older than the source.",
        |f| machine::pg_dump(&f.machine.pg_dump)),
    check(Machine, machine::DISK, "What the application writes during the copy is kept in the work directory (--dir).",
        |f| machine::disk(&f.machine.folder, f.machine.disk_free, f.scope.bytes())),
];

/// The table for a terminal.
pub fn list() -> String {
    let mut text = String::new();
    let width = CHECKS.iter().map(|c| c.name.len()).max().unwrap_or_default();
    for group in CHECKS.chunk_by(|a, b| a.group == b.group) {
        let _ = writeln!(text, "{}{}", if text.is_empty() { "" } else { "\n" }, group[0].group.title());
        for check in group {
            let _ = writeln!(text, "  {:width$}  {}", check.name, check.meaning);
        }
    }
    text
}

/// The same for the guide.
pub fn markdown() -> String {
    let mut text = String::from(
        "# The preflight checks\n\nEach check ends with `ok`, `WARN` or `FAIL`. A `FAIL` has to be fixed before the migration can begin. \
         `hyperlift check` runs\nthe checks and changes nothing; `hyperlift check --list` prints this table.\n\
         The [guide](guide.md) says what to do when something stops.\n",
    );
    for group in CHECKS.chunk_by(|a, b| a.group == b.group) {
        let _ = write!(text, "\n## {}\n\n| check | what it means |\n| --- | --- |\n", group[0].group.title());
        for check in group {
            let _ = writeln!(text, "| `{}` | {} |", check.name, check.meaning);
        }
    }
    text.push_str("\nThis file is printed from the table in `src/migration/stages/preflight/checks.rs`: run `make docs` after a change.\n");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order() {
        let mut names: Vec<&str> = CHECKS.iter().map(|c| c.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CHECKS.len(), "two checks of one name");
        assert!(CHECKS.is_sorted_by_key(|c| c.group), "the checks of a group are next to each other");
        for check in CHECKS {
            assert!(check.meaning.ends_with('.') && !check.meaning.contains(['\n', '|']), "{}", check.name);
        }
    }

    /// `make docs` writes it.
    #[test]
    fn docs_preflight_checks_are_up_to_date() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/preflight-checks.md");
        if std::env::var_os("HYPERLIFT_WRITE_DOCS").is_some() {
            std::fs::write(path, markdown()).unwrap();
        }
        assert!(std::fs::read_to_string(path).unwrap_or_default() == markdown(), "docs/preflight-checks.md is out of date: run `make docs`");
    }
}
