//! What the application's own functions find by `search_path` is found while rows are copied and replayed, too (N-4). What the application
//! has on that path does not replace objects of the catalog in hyperlift's statements.

use hyperlift::{demo::servers::ServerOptions, event::Stage};

use crate::support::{Database, Migration, Pair};

/// Functions that need a path, wherever rows of a table call functions.
pub const COUNTING_ON_A_PATH: &str = "
    create schema app; create table app.limits (least int primary key); insert into app.limits values (1);
    create function app.helper(t text) returns text language sql immutable as 'select lower(t)';
    create function app.folded(t text) returns text language plpgsql immutable as 'begin return helper(t); end';
    create function app.enough(n int) returns bool language plpgsql immutable as 'begin return n >= (select least from limits); end';
    create domain app.counted as int check (app.enough(value));
    create table app.checked (id int primary key, n int, constraint enough check (app.enough(n)));
    create table app.of_domain (id int primary key, n app.counted);
    create table app.computed (id int primary key, v text, low text generated always as (app.folded(v)) stored);
    create table app.indexed (id int primary key, v text); create index on app.indexed (app.folded(v)); create unique index on app.indexed (v) where app.folded(v) = 'x';
    create table app.parted (id int, v text) partition by list (app.folded(v));
    create table app.parted_a partition of app.parted for values in ('a');
    create table app.parted_b partition of app.parted for values in ('b');
    create table app.deferred (id int primary key, v text, exclude using btree (app.folded(v) with =) deferrable initially deferred);
    insert into app.checked select n, n from generate_series(1, 100) n;
    insert into app.of_domain select n, n from generate_series(1, 100) n;
    insert into app.computed (id, v) select n, 'V' || n from generate_series(1, 100) n;
    insert into app.indexed select n, 'V' || n from generate_series(1, 100) n;
    insert into app.parted select n, chr(65 + n % 2) from generate_series(1, 100) n;
    insert into app.deferred select n, 'V' || n from generate_series(1, 100) n";

const CHANGES: [&str; 5] = [
    "insert into app.checked select n, n from generate_series(101, 160) n; insert into app.of_domain select n, n from generate_series(101, 160) n;
     insert into app.computed (id, v) select n, 'W' || n from generate_series(101, 160) n; insert into app.indexed select n, 'W' || n from generate_series(101, 160) n;
     insert into app.parted select n, chr(65 + n % 2) from generate_series(101, 160) n; insert into app.deferred select n, 'W' || n from generate_series(101, 160) n",
    "update app.checked set n = n + 1; update app.of_domain set n = n + 1; update app.computed set v = 'X' || id; update app.indexed set v = 'X' || id;
     update app.deferred set v = 'X' || id",
    "insert into app.checked values (1001, 5); insert into app.of_domain values (1001, 5); insert into app.computed (id, v) values (1001, 'One');
     insert into app.indexed values (1001, 'One'); insert into app.parted values (1001, 'A'); insert into app.deferred values (1001, 'One')",
    "begin; update app.deferred set v = 'X2' where id = 1; update app.deferred set v = 'X1' where id = 2; commit",
    "delete from app.computed where id < 50; truncate app.checked; insert into app.checked values (7, 7)",
];

/// The database's sessions begin with this path.
pub async fn set_path(database: &Database, path: &str) {
    let name = database.value("select current_database()").await;
    database.execute(&format!("alter database {name} set search_path = {path}")).await;
}

/// Runs statements in a session that begins with the database's path.
pub async fn run(database: &Database, sql: &str) {
    let session = database.session().await;
    if let Err(e) = session.batch_execute(sql).await {
        panic!("{e:?}, in: {sql}");
    }
}

async fn migrate(pair: &Pair, plan: &str, changes: &[&str]) {
    let mut migration = Migration::of(pair).plan(plan);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    for change in changes {
        run(&pair.source, change).await;
    }
    migration.level_with(&pair.source).await;
    migration.finish(pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn n_4_functions_of_checks_domains_keys_and_generated_columns_find_what_they_find_on_the_source() {
    let pair = Pair::shared().await;
    set_path(&pair.source, "app, public").await;
    run(&pair.source, COUNTING_ON_A_PATH).await;
    migrate(&pair, "[[identity]]\ntable = \"app.parted\"\nuse = \"insert-only\"\n", &CHANGES).await;
}

/// Their operators are in the schema of the extension, which no path of ours names.
#[tokio::test]
async fn t_9_keys_of_types_of_extensions_are_found() {
    let pair = Pair::shared().await;
    let objects = "
        create extension citext schema public; create extension ltree schema public; create extension cube schema public; create extension hstore schema public;
        create table public.words (k public.citext primary key, n int); create table public.paths (k public.ltree primary key, n int);
        create table public.cubes (k public.cube primary key, n int); create table public.hashes (k public.hstore primary key, n int);
        insert into public.words select 'Word ' || n, n from generate_series(1, 500) n; insert into public.paths select ('a.b' || n)::public.ltree, n from generate_series(1, 500) n;
        insert into public.cubes select public.cube(n, n), n from generate_series(1, 500) n; insert into public.hashes select public.hstore('k', n::text), n from generate_series(1, 500) n";
    run(&pair.source, objects).await;
    let mut changes = Vec::new();
    for table in ["words", "paths", "cubes", "hashes"] {
        changes.push(format!("update public.{table} set n = n + 1 where n <= 200; delete from public.{table} where n > 400"));
        changes.push(format!("update public.{table} set n = 0 where n = 300; delete from public.{table} where n = 301"));
    }
    changes.push("update public.words set k = upper(k::text) where n < 50; delete from public.words where k = 'WORD 3'".into());
    migrate(&pair, "", &changes.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

/// Operators and functions of the application that fit better than those of the catalog, in the schema that comes first in its path.
#[tokio::test]
async fn what_the_application_has_on_its_path_does_not_replace_the_catalog() {
    let pair = Pair::own(ServerOptions::default()).await;
    set_path(&pair.source, "app, pg_catalog").await;
    let tables = "
        create schema app;
        create table app.coded (k varchar(20) primary key, n int); create table app.numbered (k int primary key, v text);
        create table app.whole (k int, j json, t text); alter table app.whole replica identity full;
        insert into app.coded select 'K' || n, n from generate_series(1, 200) n; insert into app.numbered select n, 'v' from generate_series(1, 200) n;
        insert into app.whole select n, '{}', 't' from generate_series(1, 50) n;
        create function app.never(name text) returns bool language plpgsql as $$ begin raise exception 'captured: %', name; end $$;";
    let types =
        [("varchar", "varchar"), ("int4", "int4"), ("text", "text"), ("int8", "int8"), ("int8", "int4"), ("tid", "tid"), ("pg_lsn", "pg_lsn")];
    let operators = types.map(|(a, b)| {
        format!(
            "create function app.never_{a}_{b}({a}, {b}) returns bool language sql as 'select app.never(''{a} {b}'')';
             create operator app.= (leftarg = {a}, rightarg = {b}, function = app.never_{a}_{b});"
        )
    });
    let functions = "
        create function app.format(text, json) returns text language sql as 'select app.never(''format'')::text';
        create function app.count(text) returns bigint language sql as 'select app.never(''count'')::int::bigint';
        create function app.now() returns timestamptz language sql as 'select app.never(''now'')::text::timestamptz';
        create domain app.text as pg_catalog.int4";
    let objects = format!("set search_path = pg_catalog; {tables} {} {functions}", operators.concat());
    run(&pair.source, &objects).await;
    let changes = [
        "update app.coded set n = n operator(pg_catalog.+) 1 where n operator(pg_catalog.<) 100; delete from app.coded where n operator(pg_catalog.>) 150",
        "update app.numbered set v = 'changed'; delete from app.numbered where k operator(pg_catalog.<) 50",
        "update app.numbered set k = k operator(pg_catalog.+) 1000 where k operator(pg_catalog.>) 190; update app.coded set n = 0 where n operator(pg_catalog.=) 120",
        "update app.whole set t = 'changed' where k operator(pg_catalog.<) 20; delete from app.whole where k operator(pg_catalog.>) 40",
        "truncate app.coded; insert into app.coded values ('a', 1)",
    ];
    migrate(&pair, "", &changes).await;
}
