//! The ways to a throw-away TimescaleDB on this machine: a server that was given, the installed extension, or PGlite.

use super::{
    execute,
    servers::{Programs, Server, ServerOptions, blocking, output},
};
use crate::{
    error::{Error, Result},
    name::ident,
};
use std::{
    io::{BufRead, BufReader},
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

/// The superuser URI of a server with TimescaleDB; each use gets a new database on it.
const GIVEN: &str = "HYPERLIFT_TEST_TIMESCALE";

/// A kind of throw-away TimescaleDB.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TimescaleKind {
    /// The server of `HYPERLIFT_TEST_TIMESCALE` (a URI of a superuser).
    Given,
    /// The extension, installed with PostgreSQL on this machine.
    Native,
    /// PostgreSQL with TimescaleDB as WebAssembly under Node: one session for all connections, COPY buffered in memory.
    Pglite,
}

/// All kinds that can be started here, best first.
pub async fn timescale_kinds() -> Vec<TimescaleKind> {
    let find = || {
        let found =
            [(TimescaleKind::Given, given().is_some()), (TimescaleKind::Native, native().is_some()), (TimescaleKind::Pglite, pglite().is_some())];
        Ok(found.into_iter().filter_map(|(kind, is_here)| is_here.then_some(kind)).collect())
    };
    blocking(find).await.unwrap_or_default()
}

/// An empty database on a server with TimescaleDB. A server of our own ends when this is dropped.
#[derive(Debug)]
pub struct Target {
    /// The database, for its superuser. The extension is created in it, except on a native server: a migration does that itself.
    pub uri: String,
    pub kind: TimescaleKind,
    keeps: Keeps,
}

/// What has to live for as long as the target is used.
#[derive(Debug)]
enum Keeps {
    /// The statement that removes the database.
    Given(String),
    Native(Server),
    Pglite {
        _node: Node,
    },
}

impl Target {
    /// Its server, where it is one of our own that can be stopped and crashed.
    pub fn server(&self) -> Option<&Server> {
        match &self.keeps {
            Keeps::Native(server) => Some(server),
            Keeps::Given(_) | Keeps::Pglite { .. } => None,
        }
    }

    /// Ends the server, or removes the database on a server that was given.
    pub async fn close(self) -> Result<()> {
        match &self.keeps {
            Keeps::Given(drop_database) => execute(&given().unwrap_or_default(), drop_database).await,
            Keeps::Native(_) | Keeps::Pglite { .. } => Ok(()),
        }
    }
}

/// Starts a TimescaleDB of this kind with an empty database.
pub async fn start_timescale(kind: TimescaleKind) -> Result<Target> {
    let missing = move || Error::failed(format!("no TimescaleDB of kind {kind:?} can be started on this machine"));
    match kind {
        TimescaleKind::Given => {
            let server = given().ok_or_else(missing)?;
            let name = format!("hyperlift_{:016x}", fastrand::u64(..));
            execute(&server, &format!("create database {}", ident(&name))).await?;
            let uri = with_database(&server, &name);
            execute(&uri, "create extension if not exists timescaledb").await?;
            Ok(Target { uri, kind, keeps: Keeps::Given(format!("drop database {}", ident(&name))) })
        }
        TimescaleKind::Native => {
            let programs = blocking(|| Ok(native())).await?.ok_or_else(missing)?;
            let server = Server::start(ServerOptions { programs: Some(programs), timescale: true, ..ServerOptions::default() }).await?;
            Ok(Target { uri: server.create_database("target").await?, kind, keeps: Keeps::Native(server) })
        }
        TimescaleKind::Pglite => {
            let (node, port) = blocking(move || Node::start(&pglite().ok_or_else(missing)?)).await?;
            let uri = format!("postgres://postgres@127.0.0.1:{port}/postgres");
            // PGlite preloads nothing: without the extension all tables would stay plain, as on a server that does not preload TimescaleDB.
            execute(&uri, "create extension if not exists timescaledb").await?;
            Ok(Target { uri, kind, keeps: Keeps::Pglite { _node: node } })
        }
    }
}

fn given() -> Option<String> {
    std::env::var(GIVEN).ok().filter(|uri| !uri.is_empty())
}

fn native() -> Option<Programs> {
    Programs::all().into_iter().rev().find(Programs::has_timescale)
}

/// The folder of the PGlite server, when Node and its packages are there: `HYPERLIFT_PGLITE`, else the one of the source tree.
fn pglite() -> Option<PathBuf> {
    let folder = std::env::var_os("HYPERLIFT_PGLITE").filter(|folder| !folder.is_empty());
    let folder = folder.map_or_else(|| PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/assets/pglite")), PathBuf::from);
    let complete = folder.join("server.mjs").exists() && folder.join("node_modules").exists();
    (complete && output("node", &["--version"]).is_some()).then_some(folder)
}

/// A Node process that ends with its stdin, that is, with this process.
#[derive(Debug)]
struct Node(Child);

impl Node {
    /// Starts `server.mjs` and waits for its line `listening PORT`.
    fn start(folder: &PathBuf) -> Result<(Self, u16)> {
        let mut command = Command::new("node");
        command.args(["server.mjs", "--port", "0", "--extension"]).current_dir(folder).process_group(0);
        let child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let mut node = Self(child.map_err(|e| Error::from(e).context("start node"))?);
        let mut stdout = BufReader::new(node.0.stdout.take().expect("stdout was asked to be a pipe"));
        let mut line = String::new();
        while stdout.read_line(&mut line)? > 0 {
            if let Some(port) = line.trim().strip_prefix("listening ").and_then(|port| port.parse().ok()) {
                // whatever it prints from now on must not fill the pipe
                std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
                return Ok((node, port));
            }
            line.clear();
        }
        Err(Error::failed("the PGlite server ended before it listened").hint("run `make setup`, then `node server.mjs` in assets/pglite"))
    }
}

/// All it has is in memory.
impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The URI with another database.
fn with_database(uri: &str, database: &str) -> String {
    let (address, parameters) = uri.split_once('?').map_or((uri, String::new()), |(address, rest)| (address, format!("?{rest}")));
    let authority = address.find("://").map_or(0, |i| i + 3);
    let end = address[authority..].find('/').map_or(address.len(), |i| authority + i);
    format!("{}/{database}{parameters}", &address[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_of_a_uri_is_replaced() {
        for (uri, expected) in [
            ("postgres://u:p@h:1/db?sslmode=disable", "postgres://u:p@h:1/new?sslmode=disable"),
            ("postgresql://h", "postgresql://h/new"),
            ("postgres://h/?a=b/c", "postgres://h/new?a=b/c"),
        ] {
            assert_eq!(with_database(uri, "new"), expected);
        }
    }
}
