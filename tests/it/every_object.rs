//! A database with at least one of every kind of object and type moves while it is written to. What the target then lacks is exactly
//! what the program's report names.

use hyperlift::{
    demo::servers::ServerOptions,
    event::{Event, Stage},
};
use std::{collections::BTreeSet, time::Duration};
use tokio::{task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

use crate::support::{Database, Ended, Migration, Pair};

const ROLES: &str = include_str!("every_object/roles.sql");
const OBJECTS: &str = include_str!("every_object/objects.sql");
const TYPES: &str = include_str!("every_object/types.sql");
const VALUES: &str = include_str!("every_object/values.sql");
const CHANGES: &str = include_str!("every_object/changes.sql");

/// No identity can find a row without columns.
const PLAN: &str = "[[identity]]\ntable = \"app.no_columns\"\nuse = \"insert-only\"";

/// A source that has everything; the target has the extension whose tables a test cannot bring with it.
async fn everything() -> Pair {
    let pair = Pair::own(ServerOptions::default()).await;
    for sql in [ROLES, OBJECTS, TYPES, &VALUES.replace("$FIRST", "100")] {
        script(&pair.source, sql).await;
    }
    pair.target
        .execute(
            "create extension hstore with schema public; create table public.extension_settings (name text primary key, value text);
             create sequence public.extension_sequence; insert into public.extension_settings values ('standard', 'as installed');
             alter extension hstore add table public.extension_settings; alter extension hstore add sequence public.extension_sequence",
        )
        .await;
    pair
}

/// Runs a script statement by statement, as psql would.
async fn script(database: &Database, sql: &str) {
    let session = database.session().await;
    for statement in pg_query::split_with_parser(sql).unwrap() {
        if let Err(e) = session.batch_execute(statement).await {
            panic!("{}, in: {statement}", e.as_db_error().map_or_else(|| e.to_string(), ToString::to_string));
        }
    }
}

/// An application that keeps inserting, in short transactions.
fn keep_writing(source: &Database) -> (JoinHandle<()>, CancellationToken) {
    let (uri, stop) = (source.uri.clone(), CancellationToken::new());
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        let session = hyperlift::demo::connect(&uri).await.unwrap();
        while !stopped.is_cancelled() {
            session
                .batch_execute(
                    "insert into app.by_default (v) values ('of the writer'); update app.by_default set v = v || '.' where id % 7 = 0;
                     insert into app.plain (code, size, note) select 'writer', 50, gen_random_uuid()::text;
                     update types.texts set b = left(md5(random()::text), 20) where id = 101; update types.numbers set h = h where id < 104",
                )
                .await
                .unwrap();
            sleep(Duration::from_millis(30)).await;
        }
    });
    (writer, stop)
}

/// Migrates it while it is written to.
async fn migrated(pair: &Pair, arguments: &[&str]) -> Ended {
    let (writer, stop) = keep_writing(&pair.source);
    let mut migration = Migration::of(pair).plan(PLAN).arguments(arguments);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    script(&pair.source, &VALUES.replace("$FIRST", "200")).await;
    script(&pair.source, CHANGES).await;
    migration.level_with(&pair.source).await;
    stop.cancel();
    writer.await.unwrap();
    migration.level_with(&pair.source).await;
    migration.stop().await.assert_code(4);
    let ended = migration.cut_over(pair).await;
    // I13: options of a user mapping, and the connection of a subscription, may have a password.
    for folder in [migration.dir(), migration.dir().join("sql")] {
        for file in std::fs::read_dir(folder).unwrap().flatten().map(|f| f.path()).filter(|f| f.is_file()) {
            let text = String::from_utf8_lossy(&std::fs::read(&file).unwrap()).replace("''", "'");
            assert!(!text.contains("a password'of reader") && !text.contains("password=hidden"), "{} holds a password", file.display());
        }
    }
    ended
}

/// What the report names.
fn not_moved(ended: &Ended) -> BTreeSet<String> {
    ended.events.iter().filter_map(|e| if let Event::NotMoved { object, .. } = e { Some(object.clone()) } else { None }).collect()
}

/// The object of an entry of a dump, as the report names it: a publication with all that is in it, a subscription with its comment.
fn object(entry: &str) -> Option<String> {
    let (name, rest) = entry.strip_prefix("-- Name: ")?.split_once("; Type: ")?;
    let kind = rest.split(';').next()?;
    if kind == "COMMENT" && ["PUBLICATION ", "SUBSCRIPTION "].iter().any(|word| name.starts_with(word)) {
        return Some(name.to_owned());
    }
    let name = if kind.starts_with("PUBLICATION") { name.split(' ').next()? } else { name };
    Some(format!("{} {name}", kind.split(" TABLE").next()?))
}

/// Compares the definitions of both sides: what the target lacks is in the report, and nothing else is.
async fn assert_dumps_agree(pair: &Pair, options: &[&str], reported: &BTreeSet<String>, renamed: impl Fn(&str) -> String) {
    let source: BTreeSet<String> = pair.source.dump(options).await.iter().map(|e| renamed(e)).collect();
    let target = pair.target.dump(options).await;
    // An entry is its header and its statements.
    let unreported = |entry: &&String| object(entry).is_none_or(|object| !reported.contains(&object));
    let covered: Vec<&String> = source.iter().filter(|e| !unreported(e)).collect();
    let statements = |e: &&String| {
        covered.iter().any(|c| object(c).is_some_and(|o| o.starts_with("PUBLICATION") || o.starts_with("SUBSCRIPTION")))
            && ["CREATE", "ALTER", "COMMENT ON"]
                .iter()
                .any(|v| ["PUBLICATION", "SUBSCRIPTION"].iter().any(|kind| e.starts_with(&format!("{v} {kind} "))))
    };
    let lost: Vec<&String> = source.difference(&target).filter(unreported).filter(|e| !statements(e)).collect();
    let more: Vec<&String> = target.difference(&source).collect();
    assert!(lost.is_empty() && more.is_empty(), "only on the source: {lost:#?}\nonly on the target: {more:#?}");
}

/// Compares what neither pg_dump nor a comparison of tables shows.
async fn assert_data_agrees(pair: &Pair) {
    pair.assert_equal().await;
    for view in ["by_colour", "a_on_top", "a_above", "other_heap", "grouped_by_key", "a_counts_on_path", "a_a_hidden"] {
        // Those of the target are refreshed at the cutover.
        pair.source.execute(&format!("refresh materialized view app.{view}")).await;
        assert_same(pair, &format!("select v::text from app.{view} v order by 1")).await;
    }
    for sequence in
        ["plain_sequence", "cycling", "descending", "never_called", "set_back", "owned", "unlogged_sequence", "plain_id_seq", "audit_id_seq"]
    {
        assert_same(pair, &format!("select last_value, is_called from app.{sequence}")).await;
    }
    for same in [
        "select relname, relispopulated from pg_class where relkind = 'm' order by 1",
        "select oid, md5(lo_get(oid)), length(lo_get(oid)), obj_description(oid, 'pg_largeobject') from pg_largeobject_metadata order by 1",
        "select * from public.extension_settings order by 1",
        "select last_value, is_called from public.extension_sequence",
        "select tgrelid::regclass::text, tgname, tgenabled from pg_trigger where not tgisinternal and tgrelid::regclass::text !~ 'timescale' order by 1, 2",
        "select conrelid::regclass::text, conname, convalidated, condeferrable, condeferred from pg_constraint
          where connamespace::regnamespace::text in ('app', 'types') and conparentid = 0 order by 1, 2",
        "select ev_class::regclass::text, rulename, ev_enabled from pg_rewrite where ev_class::regclass::text ~ '^(app|types)' order by 1, 2",
        "select relname, relrowsecurity, relforcerowsecurity, relreplident, relpersistence, reloptions from pg_class
          where relnamespace::regnamespace::text in ('app', 'types') and relkind <> 'S' order by 1",
        "select evtname, evtenabled, evttags from pg_event_trigger where evtname ~ 'watch' order by 1",
        "select indexrelid::regclass::text, indisclustered, indisvalid, indisreplident from pg_index where indrelid::regclass::text ~ '^(app|types)' order by 1",
        "select extname, extversion, obj_description(oid, 'pg_extension') from pg_extension where extname <> 'timescaledb' order by 1",
        "select srvname, usename, (select array_agg(o order by o) from unnest(umoptions) o) from pg_user_mappings order by 1, 2",
    ] {
        assert_same(pair, same).await;
    }
}

async fn assert_same(pair: &Pair, sql: &str) {
    // Names print the same whatever the search_path of a database is.
    let sql = format!("set search_path = ''; {sql}");
    let (source, target) = (pair.source.rows(&sql).await, pair.target.rows(&sql).await);
    assert!(!source.is_empty(), "nothing to compare: {sql}");
    assert_eq!(source, target, "{sql}");
}

/// What the source has and a target cannot have, or not in the same form.
const REPORTED: &[&str] = &[
    "PUBLICATION app_changes",
    "PUBLICATION everything",
    "SUBSCRIPTION from_elsewhere",
    "SETTING search_path=app, public of the database",
    "SETTING statement_timeout=10min of the database",
    "GRANTS on the database",
    "COMMENT on the database",
    "TABLE app.unlogged",
    "LARGE OBJECTS",
    "EXTENSION hstore",
    "ROLE admin_role",
    "PASSWORDS",
];

fn set(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}

#[tokio::test]
async fn every_object_arrives_or_is_reported() {
    let pair = everything().await;
    let ended = migrated(&pair, &[]).await;
    let reported = not_moved(&ended);
    assert_eq!(reported, set(REPORTED));
    assert_dumps_agree(&pair, &["--no-owner", "--no-privileges"], &reported, str::to_owned).await;
    assert_data_agrees(&pair).await;
    let owners = "select distinct relowner::regrole from pg_class where relnamespace::regnamespace::text in ('app', 'types')";
    assert_eq!(pair.target.rows(owners).await, ["postgres"], "without --owners everything belongs to the user of the migration");
}

#[tokio::test]
async fn n_8_n_9_n_10_all_that_is_requested_arrives_with_roles_under_their_mapped_names() {
    let pair = everything().await;
    let requests = ["--owners", "--grants", "--publications", "--subscriptions", "--map-role", "only_here=moved here"];
    let ended = migrated(&pair, &requests).await;
    let reported = not_moved(&ended);
    let published: BTreeSet<String> = REPORTED.iter().filter(|r| r.starts_with("PUBLICATION")).map(ToString::to_string).collect();
    assert_eq!(&reported | &published, set(REPORTED));
    assert!(reported.is_disjoint(&published), "{reported:?}");
    let renamed = |entry: &str| {
        let entry = entry.replace("Owner: only_here", "Owner: moved here").replace("only_here", "\"moved here\"");
        entry.replace("slot_name = 'from_elsewhere'", "slot_name = NONE")
    };
    assert_dumps_agree(&pair, &[], &reported, renamed).await;
    assert_data_agrees(&pair).await;
    for same in [
        "select rolname, rolinherit, rolcanlogin, rolcreatedb, rolcreaterole, rolconnlimit, rolvaliduntil, shobj_description(oid, 'pg_authid')
           from pg_roles where rolname in ('owner_role', 'App User', 'reader', 'admin_role') order by 1",
        "select roleid::regrole::text, member::regrole::text, grantor::regrole, admin_option from pg_auth_members where member::regrole::text !~ '^pg_' order by 1, 2",
        "select setrole::regrole::text, setconfig from pg_db_role_setting where setrole <> 0 order by 1",
        "select oid, lomowner::regrole, lomacl from pg_largeobject_metadata order by 1",
    ] {
        assert_same(&pair, same).await;
    }
    let powers = "select rolsuper, rolreplication, rolbypassrls from pg_roles where rolname = 'admin_role'";
    assert_eq!(pair.target.rows(powers).await, ["f|f|f"]);
}

#[tokio::test]
async fn n_8_what_needs_a_role_that_the_target_lacks_is_named() {
    let pair = Pair::own(ServerOptions::default()).await;
    script(
        &pair.source,
        "create role somebody; create role nobody;
         create table public.t (id int primary key); alter table public.t owner to somebody; grant select on public.t to nobody;
         create policy p on public.t to nobody using (true);
         create view public.v as select 1 as one; alter view public.v owner to somebody; insert into public.t values (1)",
    )
    .await;
    let ended = Migration::of(&pair).arguments(&["--skip-roles", "--owners", "--grants", "--map-role", "somebody=postgres"]).cut_over(&pair).await;
    let reasons: Vec<String> = ended
        .events
        .iter()
        .filter_map(|e| if let Event::NotMoved { object, reason } = e { Some(format!("{object}: {reason}")) } else { None })
        .collect();
    assert_eq!(
        reasons,
        [
            "POLICY public.t p: role nobody does not exist on the target",
            "ROLE nobody: does not exist on the target: neither owns nor may use ACL public.TABLE t",
        ]
    );
    assert_eq!(pair.target.rows("select relowner::regrole from pg_class where relname in ('t', 'v')").await, ["postgres", "postgres"]);
    pair.assert_equal().await;
}
