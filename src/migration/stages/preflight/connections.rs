//! Whether both servers are reached directly, and are those that this migration is about.

use std::path::PathBuf;

use super::finding::Finding;
use crate::{
    error::{Error, Result},
    event::{Endpoint, Event, Verdict},
    migration::context::Context,
    pg::{
        catalog::{self, Server},
        client::Client,
        connect::session::Side,
        pooler::{self, Intermediary},
        timescale::{self, Timescale},
    },
    private, work_dir,
};

pub const CONNECTIONS: &str = "connections";
pub const NO_POOLER: &str = "no pooler";
pub const WORK_DIRECTORY: &str = "work directory";
pub const TWO_DATABASES: &str = "source is not the target";

/// The fix for a pooler.
pub const DIRECTLY: &str = "connect to the PostgreSQL server itself, by its own host and port (PgBouncer often listens on 6432, the server on 5432)";

/// Both servers, as they introduce themselves.
#[derive(Debug)]
pub struct ConnectionFacts {
    pub source: Server,
    pub target: Server,
    pub timescale: Timescale,
    /// Source and target as the header shows them.
    pub endpoints: (Endpoint, Endpoint),
    pub source_by_proxy: bool,
    pub target_by_proxy: bool,
    pub work_directory: WorkDirectoryFacts,
}

#[derive(Debug, Default)]
pub struct WorkDirectoryFacts {
    pub path: PathBuf,
    /// What it says of another migration.
    pub other_migration: Option<String>,
    /// Its owner (uid) and its mode, if others have rights on it.
    pub open_to_others: Option<(u32, u32)>,
    /// Why the directory of the configuration cannot be used. `check` has not opened it.
    pub unusable: Option<Error>,
}

impl ConnectionFacts {
    /// Whether the databases are those of this migration. Otherwise the other checks would judge the wrong ones.
    pub fn are_the_databases(&self) -> bool {
        self.work_directory.other_migration.is_none() && two_databases(&self.source, &self.target).verdict != Verdict::Fail
    }
}

/// Why there are no facts, and the check that reports it.
#[derive(Debug)]
pub struct NotGathered {
    pub check: &'static str,
    pub error: Error,
}

impl From<Error> for NotGathered {
    fn from(error: Error) -> Self {
        Self { check: CONNECTIONS, error }
    }
}

/// The sessions with which the other facts are gathered.
pub struct Sessions {
    pub source: Client,
    pub target: Client,
}

/// Connects. A pooler is asked first, before any of our settings could become one of the application's (N-6).
pub async fn gather(cx: &Context) -> Result<(ConnectionFacts, Sessions), NotGathered> {
    let source_by_proxy = goes_by_proxy(cx, Side::Source).await?;
    let target_by_proxy = goes_by_proxy(cx, Side::Target).await?;
    let source = cx.source("preflight").await?;
    let from = catalog::server(&source).await?;
    let target = cx.target("preflight").await?;
    let to = catalog::server(&target).await?;
    let timescale = timescale::inspect(&target).await?;
    let endpoints = (
        Endpoint { address: cx.config.source.address(), version: from.version_text.clone(), timescale: None },
        Endpoint { address: cx.config.target.address(), version: to.version_text.clone(), timescale: timescale.installed.clone() },
    );
    let work_directory = WorkDirectoryFacts {
        path: cx.work.path().into(),
        other_migration: other_migration(cx, &from, &to),
        open_to_others: private::open_to_others(cx.work.path()),
        unusable: work_dir::check(&cx.config.dir).err(),
    };
    if work_directory.other_migration.is_none() {
        cx.reporter.report(Event::Connected { source: endpoints.0.clone(), target: endpoints.1.clone() }).await;
    }
    let facts = ConnectionFacts { source: from, target: to, timescale, endpoints, source_by_proxy, target_by_proxy, work_directory };
    Ok((facts, Sessions { source, target }))
}

/// Whether a proxy is on the way. A pooler that serves each transaction by another session is an error.
async fn goes_by_proxy(cx: &Context, side: Side) -> Result<bool, NotGathered> {
    let info = match side {
        Side::Source => &cx.config.source,
        Side::Target => &cx.config.target,
    };
    match pooler::detect(info, &cx.application("preflight")).await.map_err(|e| e.context(side))? {
        Intermediary::None => Ok(false),
        Intermediary::Proxy => Ok(true),
        Intermediary::Pooler => {
            let error = Error::refused(format!("{side}: there is a connection pooler at {}", info.address()))
                .detail("it serves each transaction by another session: settings and locks of a migration would end up in those of the application")
                .hint(DIRECTLY);
            Err(NotGathered { check: NO_POOLER, error })
        }
    }
}

/// A work directory belongs to one pair of databases (N-7).
fn other_migration(cx: &Context, from: &Server, to: &Server) -> Option<String> {
    [("source", &cx.record.source, from), ("target", &cx.record.target, to)].into_iter().find_map(|(side, known, now)| {
        known.refuse_other(side, now).is_err().then(|| {
            format!(
                "{} holds another migration: its {side} is {} (system {}), not database {} of system {}",
                cx.work.path().display(),
                known.address,
                known.system_id,
                now.database,
                now.system_id
            )
        })
    })
}

/// A connection that fails is [`NotGathered`].
pub fn connections(f: &ConnectionFacts) -> Finding {
    Finding::ok(format!("source as {}, target as {}", f.source.user, f.target.user))
}

pub fn no_pooler(f: &ConnectionFacts) -> Finding {
    let sides = match (f.source_by_proxy, f.target_by_proxy) {
        (false, false) => return Finding::ok("both servers are reached directly"),
        (true, true) => "both sides",
        (true, false) => "the source",
        (false, true) => "the target",
    };
    Finding::warn(format!("there is a proxy, or a pooler by sessions, in front of {sides}: it may limit connections or end them"), DIRECTLY)
}

pub fn work_directory(f: &WorkDirectoryFacts) -> Finding {
    if let Some(other) = &f.other_migration {
        return Finding::fail(other, "give the URIs with which it began, or another --dir for a new migration");
    }
    if let Some(error) = &f.unusable {
        return Finding::fail(error.to_string(), error.hint.as_deref().unwrap_or_default());
    }
    if let Some((uid, mode)) = f.open_to_others {
        let path = f.path.display();
        return Finding::warn(
            format!("others have rights on {path}, which will hold rows: it belongs to uid {uid}, and its mode stays {mode:o}"),
            format!("as uid {uid}: chmod 700 {path}; or give a --dir on a disk whose modes can be changed"),
        );
    }
    Finding::ok("holds no other migration")
}

pub fn two_databases(from: &Server, to: &Server) -> Finding {
    let same = (&from.system_id, &from.database, from.database_oid) == (&to.system_id, &to.database, to.database_oid);
    Finding::require(
        !same,
        "two databases",
        format!("both are database {} of the same server", from.database),
        "give --target the TimescaleDB database",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_work_directory_that_stays_open_to_others_is_warned_of() {
        let facts = WorkDirectoryFacts { path: "/data/a1".into(), ..WorkDirectoryFacts::default() };
        assert_eq!(work_directory(&facts).verdict, Verdict::Ok);
        let warned = work_directory(&WorkDirectoryFacts { open_to_others: Some((1000, 0o755)), ..facts });
        assert_eq!(warned.verdict, Verdict::Warn);
        assert!(warned.sentence.contains("belongs to uid 1000, and its mode stays 755"), "{}", warned.sentence);
    }
}
