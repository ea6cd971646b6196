//! Each check of preflight warns or fails in some situation. One without a situation fails [`every_check_is_provoked`].

use hyperlift::{
    demo::{
        execute,
        servers::{Programs, Server, ServerOptions},
    },
    event::Verdict::{self, Fail, Warn},
    migration::stages::preflight::checks::CHECKS,
    pg::{own::Names, publication::Publication},
    record::{Record, RecordedEndpoint},
};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

use crate::{
    pooler::pooler,
    support::{Database, Pair, hyperlift, until},
};

/// Two databases and arguments for `hyperlift check`; or a work directory, with which `hyperlift migrate` begins.
#[derive(Default)]
struct Situation {
    source: String,
    target: String,
    arguments: Vec<String>,
    work: Option<tempfile::TempDir>,
    /// What has to live meanwhile.
    _pair: Option<Pair>,
    _server: Option<Server>,
    _folder: Option<tempfile::TempDir>,
}

impl Situation {
    fn of(pair: Pair) -> Self {
        Self { source: pair.source.uri.clone(), target: pair.target.uri.clone(), _pair: Some(pair), ..Self::default() }
    }

    /// The verdicts and the sentences, by the names of the checks.
    async fn checks(&self) -> BTreeMap<String, (Verdict, String)> {
        let mut command = hyperlift();
        match &self.work {
            None => command.arg("check"),
            Some(work) => command.args(["migrate", "--yes", "--dir"]).arg(work.path()),
        };
        let output = command.args(["--json", "--source", &self.source, "--target", &self.target]).args(&self.arguments).output().await.unwrap();
        let events = output.stdout.split(|b| *b == b'\n').filter(|line| !line.is_empty()).map(|line| serde_json::from_slice::<Value>(line).unwrap());
        let checks = events.filter(|e| e["event"] == "checked").map(|e| {
            let check = &e["check"];
            let verdict = serde_json::from_value(check["verdict"].clone()).unwrap();
            (check["name"].as_str().unwrap().to_owned(), (verdict, check["sentence"].as_str().unwrap().to_owned()))
        });
        let checks: BTreeMap<_, _> = checks.collect();
        let failed = checks.values().any(|(verdict, _)| *verdict == Fail);
        assert_eq!(output.status.code(), Some(if failed { 3 } else { 0 }), "{checks:?}\n{}", String::from_utf8_lossy(&output.stderr));
        checks
    }
}

/// A check, its verdict, and a part of its sentence.
type Says = (&'static str, Verdict, &'static str);

async fn assert_says(situation: Option<Situation>, says: &[Says]) {
    // TimescaleDB is not installed.
    let Some(situation) = situation else { return };
    let checks = situation.checks().await;
    for (name, verdict, part) in says {
        let found = checks.get(*name);
        assert!(found.is_some_and(|(v, sentence)| v == verdict && sentence.contains(part)), "{name}: {found:?}\n{checks:#?}");
    }
}

/// Makes a test of each situation, and the list of all that they say: a check is on the list only because a test asserts it.
macro_rules! situations {
    ($($test:ident: $make:ident { $($says:expr,)+ })+) => {
        $(#[tokio::test]
        async fn $test() {
            assert_says($make().await, &[$($says),+]).await;
        })+
        const PROVOKED: &[&[Says]] = &[$(&[$($says),+]),+];
    };
}

situations! {
    a_server_that_is_not_reached: unreachable {
        ("connections", Fail, "source: "),
    }
    a_proxy: proxied {
        ("no pooler", Warn, "in front of the target"),
    }
    the_work_directory_of_another_migration: foreign_work_directory {
        ("work directory", Fail, "holds another migration: its source is elsewhere:5432/other"),
    }
    a_work_directory_that_cannot_be_used: unusable_work_directory {
        ("work directory", Fail, "Cargo.toml/work cannot be used"),
        ("pg_dump", Fail, "/bin/false"),
    }
    the_source_as_target: one_database {
        ("source is not the target", Fail, "of the same server"),
    }
    arguments_that_do_not_fit: wrong_arguments {
        ("filters", Fail, "table:public.zoo matches nothing"),
        ("scope", Fail, "keyed_pkey cannot be left out"),
        ("pg_dump", Fail, "/bin/false"),
        ("disk", Fail, "0 B free at /proc"),
    }
    objects_that_do_not_arrive_like_others: odd_objects {
        ("publications", Warn, "PUBLICATION news: not created on the target"),
        ("subscriptions", Warn, "SUBSCRIPTION feed: not created on the target"),
        ("database settings", Warn, "SETTING work_mem=8MB of the database: not set"),
        ("grants on the database", Warn, "stay on the source"),
        ("comment on the database", Warn, "stays on the source"),
        ("security labels", Warn, "SECURITY LABELS of nobody: stay on the source, 1 of them"),
        ("tablespaces", Warn, "TABLESPACE fast: goes to the default tablespace of the target: public.far"),
        ("unlogged tables", Warn, "TABLE public.quick: unlogged, copied once"),
        ("large objects", Warn, "1 of them, copied once"),
        ("rows of extensions", Warn, "EXTENSION plpgsql: your rows in public.far are copied once"),
        ("columns that name objects", Warn, "public.jobs.handler regclass"),
        ("values that no server reads", Fail, "public.saved.kept pg_node_tree"),
    }
    schemas_whose_names_are_taken: taken_schemas {
        ("names of schemas", Fail, "_hyperlift of the source"),
    }
    a_source_that_is_not_set_up_for_a_migration: unprepared_source {
        ("wal_level", Fail, "wal_level is replica"),
        ("free replication slot", Fail, "none is free"),
        ("free walsender", Fail, "none is free"),
        ("replication connection", Fail, "max_wal_senders"),
        ("synchronous_standby_names", Fail, "the application's commits would wait"),
        ("max_locks_per_transaction", Warn, "all 201 tables"),
    }
    event_triggers_and_rows_on_other_servers: other_code_and_servers {
        ("event triggers", Fail, "guard fires at ALTER TABLE, CREATE PUBLICATION"),
        ("event triggers on the target", Warn, "guard will fire"),
        ("foreign partitions", Warn, "public.log_0 (of public.log): the rows stay where they are"),
    }
    a_source_that_limits_the_age_of_snapshots: short_snapshots {
        ("old_snapshot_threshold", Fail, "a long copy would fail"),
    }
    a_slot_that_was_invalidated: lost_slot {
        ("slot", Fail, "was invalidated: the source removed WAL that it needed"),
    }
    a_table_that_is_not_published_any_more: unpublished {
        ("published tables", Fail, "changes of public.t may be missing: publication hyperlift_gone01 was dropped"),
    }
    hypertables_on_the_source: hypertables {
        ("source has no hypertables", Fail, "1 of its tables are hypertables already: public.t"),
    }
    continuous_aggregates_on_the_source: continuous_aggregates {
        ("source has no hypertables", Fail, "1 of its views read tables that belong to TimescaleDB, such as continuous aggregates: public.daily"),
    }
    standbys_on_both_sides: standbys {
        ("source is a primary", Fail, "the source is a standby"),
        ("target is a primary", Fail, "the target is read-only"),
    }
    a_target_that_does_not_preload_timescaledb: not_preloaded {
        ("TimescaleDB", Warn, "the server does not preload it: tables stay plain"),
    }
    a_plan_with_hypertables_for_such_a_target: not_preloaded_but_planned {
        ("TimescaleDB", Fail, "the plan makes public.t a hypertable"),
    }
    functions_with_names_of_timescaledbs: functions_alike {
        ("names of TimescaleDB", Warn, "will be created in schema timescaledb, because the source has functions with names of its own: public.first(anyelement)"),
    }
    functions_that_timescaledb_leaves_no_room_for: functions_taken {
        ("names of TimescaleDB", Fail, "functions of the same names and arguments: public.time_bucket(interval, timestamp with time zone)"),
    }
    users_without_rights: weak_users {
        ("ownership", Fail, "reader does not own public.t"),
        ("sequences", Fail, "reader may not read public.numbers"),
        ("rights on the target", Fail, "weak may not create schemas"),
        ("temporary tables", Warn, "weak may not create them"),
        ("timescaledb.restoring", Fail, "rows written now would be invisible"),
        ("target is empty", Fail, "it holds public.mine"),
        ("extensions", Warn, "not available on the target: nowhere"),
        ("roles", Warn, "which lacks somebody"),
        ("extensions of superusers", Warn, "weak may not create postgres_fdw"),
        ("objects of superusers", Warn, "weak may not make function public.hidden(integer)"),
        ("encodings", Warn, "source LATIN1, target UTF8"),
    }
}

/// Checks that this machine cannot provoke, and what covers them.
const NOT_HERE: &[(&str, &str)] = &[
    ("source version", "other versions are not installed: the unit tests of preflight::source, and the tests of versions"),
    ("target version", "other versions are not installed: the unit tests of preflight::target, and the tests of versions"),
    ("versions", "other versions are not installed: the unit tests of preflight::target, and the tests of versions"),
    ("idle_replication_slot_timeout", "PostgreSQL 18 has it: the unit tests of preflight::source, and the tests of versions"),
    ("old transactions", "needs a transaction of five minutes: the unit tests of preflight::source"),
    ("max_wal_size", "needs gigabytes: the unit tests of preflight::target"),
    ("owners and grants", "reports what was chosen, and is always ok"),
];

#[test]
fn every_check_is_provoked() {
    let known: BTreeSet<&str> = CHECKS.iter().map(|c| c.name).collect();
    let provoked: BTreeSet<&str> = PROVOKED.iter().flat_map(|says| says.iter().map(|(name, ..)| *name)).collect();
    let excused: BTreeSet<&str> = NOT_HERE.iter().map(|(name, _)| *name).collect();
    assert!(PROVOKED.iter().flat_map(|says| says.iter()).all(|(_, verdict, _)| *verdict >= Warn));
    assert_eq!(provoked.intersection(&excused).collect::<Vec<_>>(), Vec::<&&str>::new(), "excused, although there is a situation");
    assert_eq!(provoked.union(&excused).copied().collect::<BTreeSet<_>>(), known);
}

#[tokio::test]
async fn two_databases_in_order_pass_every_check() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.t (id int primary key)").await;
    let checks = Situation::of(pair).checks().await;
    let names: BTreeSet<&str> = CHECKS.iter().map(|c| c.name).collect();
    assert_eq!(checks.keys().map(String::as_str).collect::<BTreeSet<_>>(), names, "every check says something");
    // The machine's own TimescaleDB and disk may be worth a warning.
    let warned: Vec<_> = checks.iter().filter(|(name, found)| found.0 != Verdict::Ok && !["TimescaleDB", "disk"].contains(&name.as_str())).collect();
    assert!(warned.is_empty(), "{warned:?}");
}

#[tokio::test]
async fn the_list_of_checks_needs_no_connection() {
    let output = hyperlift().args(["check", "--list"]).output().await.unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && CHECKS.iter().all(|c| text.contains(c.name) && text.contains(c.meaning)), "{text}");
}

#[tokio::test]
async fn check_prints_what_is_left_out_and_leaves_no_work_directory() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.kept (id int primary key); create table public.left_out (id int primary key)").await;
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("work");
    let output = hyperlift()
        .args(["check", "--source", &pair.source.uri, "--target", &pair.target.uri, "--exclude", "table:public.left_out", "--dir"])
        .arg(&dir)
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.contains("left out: table public.left_out") && text.contains("named above"), "{text}");
    assert!(text.contains(&format!("free at {} for the spool", folder.path().display())), "{text}");
    assert!(!dir.exists());
}

async fn unreachable() -> Option<Situation> {
    Some(Situation { source: "postgres://u@127.0.0.1:1/db".into(), ..Situation::of(Pair::shared().await) })
}

async fn proxied() -> Option<Situation> {
    let pair = Pair::shared().await;
    Some(Situation { target: pooler(&pair.target, false).await.uri, ..Situation::of(pair) })
}

/// A work directory with this record.
fn work_directory(record: &Record) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("migration.json"), serde_json::to_string(record).unwrap()).unwrap();
    folder
}

async fn foreign_work_directory() -> Option<Situation> {
    let source = RecordedEndpoint { address: "elsewhere:5432/other".into(), system_id: "1".into(), database: "other".into() };
    let work = work_directory(&Record { id: "other1".into(), source, ..Record::default() });
    Some(Situation { work: Some(work), ..Situation::of(Pair::shared().await) })
}

async fn unusable_work_directory() -> Option<Situation> {
    let arguments = ["--pg-dump", "/bin/false", "--dir", concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml/work")];
    Some(Situation { arguments: arguments.map(String::from).to_vec(), ..Situation::of(Pair::shared().await) })
}

async fn one_database() -> Option<Situation> {
    let pair = Pair::shared().await;
    Some(Situation { target: pair.source.uri.replace("127.0.0.1", "localhost"), ..Situation::of(pair) })
}

async fn wrong_arguments() -> Option<Situation> {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.keyed (id int primary key)").await;
    // The kernel's own file system has no space, on every machine.
    let arguments = ["--exclude", "table:public.zoo", "--exclude", "index:keyed_pkey", "--pg-dump", "/bin/false", "--dir", "/proc/hyperlift"];
    Some(Situation { arguments: arguments.map(String::from).to_vec(), ..Situation::of(pair) })
}

async fn odd_objects() -> Option<Situation> {
    let pair = Pair::own(ServerOptions::default().setting("allow_in_place_tablespaces", "on")).await;
    let database = pair.source.value("select current_database()").await;
    pair.source.execute("create tablespace fast location ''").await;
    pair.source
        .execute(&format!(
            "create table public.far (id int primary key) tablespace fast; create unlogged table public.quick (id int primary key);
             create table public.jobs (id int primary key, handler regclass); create publication news for table public.jobs;
             create table public.saved (n int default 1, kept pg_node_tree, none pg_node_tree); insert into public.saved select 1, adbin from pg_attrdef;
             create subscription feed connection 'host=127.0.0.1 port=1' publication feed with (connect = false, slot_name = none);
             alter database {database} set work_mem = '8MB'; grant connect on database {database} to pg_monitor;
             comment on database {database} is 'ours'; select lo_create(77);
             -- no provider and no extension with tables of its own is installed
             insert into pg_seclabel values ('public.far'::regclass, 'pg_class'::regclass, 0, 'nobody', 'secret');
             update pg_extension set extconfig = array['public.far'::regclass::oid], extcondition = array[''] where extname = 'plpgsql'"
        ))
        .await;
    Some(Situation::of(pair))
}

async fn taken_schemas() -> Option<Situation> {
    let pair = Pair::shared().await;
    // Left out, and so no failure; the other one is always out of scope.
    pair.source.execute("create schema timescaledb_information; create schema _hyperlift; create table _hyperlift.mine (id int)").await;
    Some(Situation { arguments: vec!["--exclude".into(), "schema:timescaledb_information".into()], ..Situation::of(pair) })
}

async fn unprepared_source() -> Option<Situation> {
    let options = ["max_replication_slots", "max_wal_senders"].iter().fold(ServerOptions::default(), |o, name| o.setting(*name, "0"));
    let options = options.setting("wal_level", "replica").setting("synchronous_standby_names", "*");
    let server = Server::start(options.setting("max_locks_per_transaction", "10").setting("max_connections", "20")).await.unwrap();
    let source = Database { uri: server.create_database("many").await.unwrap() };
    source
        .execute("do $$ begin for n in 1..201 loop execute format('create table public.t%s (id int primary key)', n); commit; end loop; end $$")
        .await;
    Some(Situation { source: source.uri, _server: Some(server), ..Situation::of(Pair::shared().await) })
}

async fn other_code_and_servers() -> Option<Situation> {
    let pair = Pair::shared().await;
    let guard = "create function public.no() returns event_trigger language plpgsql as $$ begin raise exception 'no %', tg_tag; end $$;
                 create event trigger guard on ddl_command_end execute function public.no()";
    pair.source
        .execute(
            "create extension postgres_fdw; create server far foreign data wrapper postgres_fdw;
             create table public.log (id int, part int) partition by list (part);
             create foreign table public.log_0 partition of public.log for values in (0) server far",
        )
        .await;
    for side in [&pair.source, &pair.target] {
        side.execute(guard).await;
    }
    Some(Situation::of(pair))
}

/// From PostgreSQL 17 on there is no such setting.
async fn short_snapshots() -> Option<Situation> {
    if Programs::newest().unwrap().major >= 17 {
        return None;
    }
    let server = Server::start(ServerOptions::default().setting("old_snapshot_threshold", "60")).await.unwrap();
    let source = server.create_database("source").await.unwrap();
    Some(Situation { source, _server: Some(server), ..Situation::of(Pair::shared().await) })
}

async fn lost_slot() -> Option<Situation> {
    let pair = Pair::own(ServerOptions::default().setting("max_slot_wal_keep_size", "1MB")).await;
    let record = Record { id: "lost01".into(), ..Record::default() };
    let slot = Names::new(&record.id).slot;
    pair.source.execute(&format!("select pg_create_logical_replication_slot('{slot}', 'pgoutput')")).await;
    until("the slot is lost", async || {
        pair.source.execute("create table public.t (id int); drop table public.t").await;
        pair.source.execute("select pg_switch_wal()").await;
        pair.source.execute("checkpoint").await;
        pair.source.value("select coalesce(wal_status, 'lost') from pg_replication_slots").await == "lost"
    })
    .await;
    Some(Situation { work: Some(work_directory(&record)), ..Situation::of(pair) })
}

async fn unpublished() -> Option<Situation> {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.t (id int primary key)").await;
    let oid = pair.source.value("select 'public.t'::regclass::oid").await.parse().unwrap();
    let made = Publication { oid: 1, tables: BTreeMap::from([(oid, 2)]), ..Publication::default() };
    let record = Record { id: "gone01".into(), publications: BTreeMap::from([(Names::new("gone01").publication, made)]), ..Record::default() };
    Some(Situation { work: Some(work_directory(&record)), ..Situation::of(pair) })
}

async fn hypertables() -> Option<Situation> {
    if !Programs::newest().unwrap().has_timescale() {
        return None;
    }
    let pair = Pair::shared().await;
    pair.target.execute("create extension timescaledb").await;
    pair.target.execute("create table public.t (at timestamptz not null); select create_hypertable('public.t', 'at')").await;
    Some(Situation { source: pair.target.uri.clone(), target: pair.second_target().await.uri, ..Situation::of(pair) })
}

async fn continuous_aggregates() -> Option<Situation> {
    let situation = hypertables().await?;
    let source = Database { uri: situation.source.clone() };
    // A view of the extension's own catalogs is no obstacle.
    source.execute("create view public.chunks as select * from timescaledb_information.chunks").await;
    let view = "create materialized view public.daily with (timescaledb.continuous) as select public.time_bucket('1 day', at) as day, count(*) from public.t group by 1";
    source.execute(&format!("{view} with no data")).await;
    Some(Situation { arguments: vec!["--exclude".into(), "table:public.t".into()], ..situation })
}

async fn standbys() -> Option<Situation> {
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let (source, target) = (server.create_database("source").await.unwrap(), server.create_database("target").await.unwrap());
    server.stop().await.unwrap();
    std::fs::write(server.dir().join("data/standby.signal"), "").unwrap();
    server.restart().await.unwrap();
    Some(Situation { source, target, _server: Some(server), ..Situation::default() })
}

async fn not_preloaded() -> Option<Situation> {
    if !Programs::newest().unwrap().has_timescale() {
        return None;
    }
    let pair = Pair::shared().await;
    let server = Server::start(ServerOptions::default()).await.unwrap();
    let target = server.create_database("target").await.unwrap();
    Some(Situation { target, _server: Some(server), ..Situation::of(pair) })
}

async fn not_preloaded_but_planned() -> Option<Situation> {
    let situation = not_preloaded().await?;
    let folder = tempfile::tempdir().unwrap();
    let plan = folder.path().join("plan.toml");
    std::fs::write(&plan, "[[hypertable]]\ntable = \"public.t\"\ntime_column = \"at\"\nchunk_interval = \"1 day\"\n").unwrap();
    execute(&situation.source, "create table public.t (at timestamptz primary key)").await.unwrap();
    Some(Situation { arguments: vec!["--plan".into(), plan.display().to_string()], _folder: Some(folder), ..situation })
}

async fn functions_alike() -> Option<Situation> {
    if !Programs::newest().unwrap().has_timescale() {
        return None;
    }
    let pair = Pair::shared().await;
    let own = "create function public.keep(anyelement, anyelement) returns anyelement language sql as 'select $1';
               create aggregate public.first(anyelement) (sfunc = public.keep, stype = anyelement)";
    pair.source.execute(own).await;
    Some(Situation::of(pair))
}

async fn functions_taken() -> Option<Situation> {
    let situation = functions_alike().await?;
    execute(&situation.target, "create extension timescaledb").await.unwrap();
    let taken = "create function public.time_bucket(interval, timestamptz) returns timestamptz language sql as 'select $2'";
    execute(&situation.source, taken).await.unwrap();
    Some(situation)
}

async fn weak_users() -> Option<Situation> {
    let pair = Pair::own(ServerOptions::default()).await;
    let server = pair.source_server();
    server.execute("postgres", "create database latin encoding 'LATIN1' locale 'C' template template0").await.unwrap();
    let source = Database { uri: server.uri("latin") };
    source
        .execute(
            "create role reader login replication; create role somebody; create table public.t (id int primary key); create sequence public.numbers; create extension postgres_fdw;
             create function public.hidden(int) returns bool language sql leakproof immutable as 'select $1 > 0';
             create extension citext; update pg_extension set extname = 'nowhere' where extname = 'citext'",
        )
        .await;
    let database = pair.target.value("select current_database()").await;
    pair.target
        .execute(&format!(
            "create role weak login; create table public.mine (n int); revoke all on database {database} from public;
             grant connect on database {database} to weak; alter database {database} set timescaledb.restoring = 'on'"
        ))
        .await;
    let (source, target) = (source.uri.replace("postgres@", "reader@"), pair.target.uri.replace("postgres@", "weak@"));
    Some(Situation { source, target, ..Situation::of(pair) })
}
