//! The throw-away servers, the demo data, the application and the comparison, which all other tests use.

use hyperlift::demo::{
    application::{Application, Load},
    compare::{Mismatch, compare},
    data::{self, Size},
    execute, query_text,
    servers::{Programs, Server, ServerOptions},
    timescale::{start_timescale, timescale_kinds},
};
use std::{
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    process::{Command, Stdio},
    time::{Duration, Instant},
};

async fn number_in(uri: &str, sql: &str) -> i64 {
    query_text(uri, sql).await.unwrap()[0][0].as_ref().unwrap().parse().unwrap()
}

async fn wait_until(happened: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(120);
    while !happened() {
        assert!(Instant::now() < deadline, "what was waited for has not happened in two minutes");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn number(server: &Server, sql: &str) -> i64 {
    number_in(&server.uri("postgres"), sql).await
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

/// Runs the test of the same name that is given in another process.
fn this_program(ignored_test: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", ignored_test, "--ignored", "--nocapture"]);
    command
}

#[tokio::test]
#[ignore = "runs inside nothing_is_left_after_kill_9"]
async fn a_server_until_killed() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    println!("started {}", server.uri("postgres"));
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_is_left_after_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    // the server may run as another user
    fs::set_permissions(folder.path(), PermissionsExt::from_mode(0o777)).unwrap();
    let mut child = this_program("demo::a_server_until_killed").env("TMPDIR", folder.path()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let uri = loop {
        let line = lines.next().expect("the child says where its server is").unwrap();
        if let Some((_, uri)) = line.split_once("started ") {
            break uri.to_owned();
        }
    };
    execute(&uri, "select 1").await.unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2, "the server and the template");
    child.kill().unwrap();
    child.wait().unwrap();
    // the folders are removed last, after the server has ended
    wait_until(|| fs::read_dir(folder.path()).unwrap().count() == 0).await;
    assert!(execute(&uri, "select 1").await.is_err());
}

#[tokio::test]
async fn a_password_is_asked_for_and_files_belong_to_the_server() {
    let password = "pass:word/@% ü";
    let options = ServerOptions {
        password: Some(password.to_owned()),
        files: vec![("extra.conf".to_owned(), "work_mem = '5MB'\n".to_owned())],
        ..ServerOptions::default()
    };
    let server = Server::start(options.setting("include_if_exists", "extra.conf")).await.unwrap();
    assert_eq!(server.query_text("postgres", "show work_mem").await.unwrap(), [[Some("5MB".to_owned())]]);
    let without = format!("postgres://postgres@127.0.0.1:{}/postgres", server.port());
    assert!(execute(&without, "select 1").await.is_err());
    let wrong = format!("postgres://postgres:wrong@127.0.0.1:{}/postgres", server.port());
    assert!(execute(&wrong, "select 1").await.unwrap_err().has_code("28P01"));
}

/// A database with the demo in it and a copy of it.
async fn twins(server: &Server) -> (String, String) {
    let source = server.create_database("demo").await.unwrap();
    data::load(&source, Size::TINY).await.unwrap();
    (source, server.uri("copy"))
}

async fn copy(server: &Server) {
    server.execute("postgres", "drop database if exists copy with (force)").await.unwrap();
    server.execute("postgres", "create database copy template demo").await.unwrap();
}

#[tokio::test]
async fn the_demo_is_the_same_every_time() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, _) = twins(&server).await;
    let again = server.create_database("again").await.unwrap();
    data::load(&again, Size::TINY).await.unwrap();
    assert_eq!(compare(&source, &again, None).await.unwrap(), []);
}

#[tokio::test]
async fn a_dump_of_the_demo_restores_to_the_same() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, target) = twins(&server).await;
    server.create_database("copy").await.unwrap();
    let bin = Programs::newest().unwrap().bin;
    let mut dump = Command::new(bin.join("pg_dump")).arg(&source).stdout(Stdio::piped()).spawn().unwrap();
    let mut restore = Command::new(bin.join("psql"));
    restore.args(["-qX", "-v", "ON_ERROR_STOP=1"]).arg(&target).stdin(dump.stdout.take().unwrap()).stdout(Stdio::null());
    assert!(restore.status().unwrap().success() && dump.wait().unwrap().success());
    assert_eq!(compare(&source, &target, None).await.unwrap(), []);
}

#[tokio::test]
async fn the_application_runs_without_errors_and_its_changes_are_seen() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, target) = twins(&server).await;
    copy(&server).await;
    assert_eq!(compare(&source, &target, None).await.unwrap(), []);

    let load = Load { unidentified: true, ..Load::default() };
    let application = Application::start(&source, load).await.unwrap();
    wait_until(|| application.transactions() > 2000 || application.has_failed()).await;
    let seen = application.transactions();
    let totals = application.stop().await.unwrap();
    assert!(seen > 0 && totals.transactions >= seen, "{seen} of {totals:?}");
    assert_eq!(totals.by_action.values().sum::<u64>(), totals.transactions);

    let differences = compare(&source, &target, None).await.unwrap();
    for name in ["public.metrics", "public.events", "public.readings_by_month", "shop.orders", "\"Odd Names\".\"Order Notes\""] {
        let named = |difference: &&Mismatch| difference.to_string().starts_with(&format!("{name}: "));
        assert!(differences.iter().any(|difference| named(&difference)), "{name} is not among {differences:?}");
    }
    assert!(differences.iter().any(|difference| matches!(difference, Mismatch::Sequence { .. })), "{differences:?}");
    copy(&server).await;
    assert_eq!(compare(&source, &target, None).await.unwrap(), []);
}

#[tokio::test]
async fn every_kind_of_transaction_runs_alone() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, _) = twins(&server).await;
    let load = Load { sessions: 1, unidentified: true, seed: 7, long_transaction: Duration::ZERO, ..Load::default() };
    let application = Application::start(&source, load).await.unwrap();
    wait_until(|| application.transactions() > 3000 || application.has_failed()).await;
    let totals = application.stop().await.unwrap();
    assert!(totals.by_action.len() > 35, "{totals:?}");
}

#[tokio::test]
async fn an_error_of_the_application_is_returned() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, _) = twins(&server).await;
    // what a publication of updates does to a table without a key
    server.execute("demo", "create publication p for table shop.sessions").await.unwrap();
    let application = Application::start(&source, Load { unidentified: true, ..Load::default() }).await.unwrap();
    wait_until(|| application.has_failed()).await;
    let error = application.stop().await.unwrap_err();
    assert!(error.to_string().contains("does not have a replica identity"), "{error}");
}

#[tokio::test]
async fn a_patient_application_survives_a_restart_and_a_fence() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, _) = twins(&server).await;
    let load = Load { patient: true, rate_per_second: Some(200.0), ..Load::default() };
    let application = Application::start(&source, load).await.unwrap();
    wait_until(|| application.transactions() > 0).await;
    server.kill().await.unwrap();
    server.restart().await.unwrap();
    server.execute("demo", "alter database demo set default_transaction_read_only = on").await.unwrap();
    server.execute("demo", "select pg_terminate_backend(pid) from pg_stat_activity where application_name = 'demo application'").await.unwrap();
    wait_until(|| application.refused() > 0 || application.has_failed()).await;
    let totals = application.stop().await.unwrap();
    assert!(totals.reconnects > 0 && totals.refused > 0 && totals.transactions > 0, "{totals:?}");
}

#[tokio::test]
async fn each_planted_difference_is_found() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, target) = twins(&server).await;
    let cases = [
        ("create table public.more ()", "public.more: only on the target"),
        ("drop table shop.sessions", "shop.sessions: only on the source"),
        ("insert into \"Odd Names\".\"import log\" values (now(), null)", "\"Odd Names\".\"import log\": 27 rows on the source, 28 on the target"),
        ("update shop.products set name = name || ' ' where sku = 'SKU-00003'", "shop.products: rows with other values"),
        ("update public.events set note = null where note = ''", "public.events: rows with other values"),
        ("alter table public.units drop column description", "public.units: columns description, id, symbol on the source, id, symbol on the target"),
        ("select setval('shop.invoice_number', 100001)", "shop.invoice_number: continues with"),
        ("select setval('public.ticket', -1, false)", "public.ticket: continues with"),
        ("drop sequence public.never_used", "public.never_used: missing on the target"),
    ];
    for (sql, expected) in cases {
        copy(&server).await;
        execute(&target, sql).await.unwrap();
        let differences = compare(&source, &target, None).await.unwrap();
        assert_eq!(differences.len(), 1, "{sql}: {differences:?}");
        assert!(differences[0].to_string().starts_with(expected), "{sql}: {}", differences[0]);
    }
    // a sequence may be further on, in its direction; other schemas are not compared
    copy(&server).await;
    execute(&target, "select nextval('public.ticket'), nextval('shop.invoice_number'); create schema _hyperlift create table t ()").await.unwrap();
    assert_eq!(compare(&source, &target, None).await.unwrap(), []);
    execute(&target, "delete from public.readings_default; delete from shop.sessions").await.unwrap();
    let sessions = [hyperlift::name::TableName::new("shop", "sessions")];
    let differences = compare(&source, &target, Some(&sessions)).await.unwrap();
    assert_eq!(differences, [Mismatch::Count { table: sessions[0].clone(), source: 100, target: 0 }]);
}

#[tokio::test]
async fn each_kind_of_timescale_here_starts_empty_and_can_be_compared() {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let source = server.uri("postgres");
    let rows = "create table public.\"Values\" (time timestamptz primary key, x float8, n numeric, a text[], j jsonb, b bytea, i interval, m money);
        insert into public.\"Values\"
        select timestamptz '2024-01-01 00:00:00+00' + n * interval '1 hour', n / 3.0, 'NaN', array['a,b', null], '{\"k\": [1, 2.50]}', '\\x00ff', '1 mon -2 days', 3
        from generate_series(1, 500) n";
    execute(&source, rows).await.unwrap();
    let kinds = timescale_kinds().await;
    assert!(!kinds.is_empty(), "no TimescaleDB can be started here: run `make setup`");
    for kind in kinds {
        let target = start_timescale(kind).await.unwrap();
        assert_eq!(target.kind, kind);
        let hypertable = "select create_hypertable('public.\"Values\"', 'time', migrate_data => true)";
        execute(&target.uri, "create extension if not exists timescaledb").await.unwrap();
        execute(&target.uri, &format!("{rows}; {hypertable}")).await.unwrap();
        assert_eq!(compare(&source, &target.uri, None).await.unwrap(), [], "{kind:?}");
        execute(&target.uri, "delete from public.\"Values\" where x > 166").await.unwrap();
        let differences = compare(&source, &target.uri, None).await.unwrap();
        assert!(matches!(differences[..], [Mismatch::Count { source: 500, target: 498, .. }]), "{kind:?}: {differences:?}");
        target.close().await.unwrap();
    }
}

#[tokio::test]
async fn the_demo_loads_into_each_kind_of_timescale_here() {
    for kind in timescale_kinds().await {
        let target = start_timescale(kind).await.unwrap();
        data::load(&target.uri, Size::TINY).await.unwrap();
        assert_eq!(number_in(&target.uri, "select count(*) from shop.sessions").await, 100, "{kind:?}");
    }
}
