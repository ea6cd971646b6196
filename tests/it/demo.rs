//! The throw-away servers, the demo data, the writer and the comparison: what all other tests stand on.

use hyperlift::demo::servers::{Programs, Server, ServerOptions};
use hyperlift::demo::{execute, query_text};
use std::path::Path;
use std::time::{Duration, Instant};

async fn number(server: &Server, sql: &str) -> i64 {
    server.query_text("postgres", sql).await.unwrap()[0][0].as_ref().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_server_stops_starts_again_and_leaves_nothing() {
    let server = Server::start(ServerOptions::default().setting("work_mem", "7MB")).await.unwrap();
    let shown = server.query_text("postgres", "show wal_level; show work_mem; show server_encoding; show timezone").await.unwrap();
    assert_eq!(shown.concat().into_iter().flatten().collect::<Vec<_>>(), ["logical", "7MB", "UTF8", "UTC"]);
    server.execute("postgres", "create table t as select 1 as x").await.unwrap();
    server.stop().await.unwrap();
    assert!(server.execute("postgres", "select 1").await.unwrap_err().is_transient());
    server.restart().await.unwrap();
    assert_eq!(number(&server, "select count(*) from t").await, 1);
    let dir = server.dir().to_owned();
    drop(server);
    assert!(!dir.exists());
}

#[tokio::test]
async fn a_crashed_server_recovers_what_was_committed() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    server.execute("postgres", "create table t as select 1 as x").await.unwrap();
    server.kill().await.unwrap();
    server.restart().await.unwrap();
    assert!(server.log().contains("database system was not properly shut down"));
    assert_eq!(number(&server, "select count(*) from t").await, 1);
}

#[tokio::test]
async fn every_server_has_a_system_identifier_of_its_own() {
    for programs in Programs::all() {
        let options = ServerOptions { programs: Some(programs.clone()), ..ServerOptions::default() };
        let one = Server::start(options.clone()).await.unwrap();
        let other = Server::start(options).await.unwrap();
        let sql = "select system_identifier from pg_control_system()";
        assert_ne!(number(&one, sql).await, number(&other, sql).await, "{programs:?}");
        assert_eq!(one.major(), programs.major);
    }
}
