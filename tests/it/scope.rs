//! `--include` and `--exclude`: what is left out is neither created nor copied nor replayed, and all of it is known before anything is begun.

use hyperlift::{
    demo::compare::compare,
    event::{Event, Stage},
    name::TableName,
};

use crate::support::{Migration, Pair};

/// Tables that are kept, left out, and kept without their rows, and everything that can depend on a table.
const SCHEMA: &str = r#"
    create schema "Odd.Name"; create schema archive; create schema parts;
    create type public.mood as enum ('good', 'bad');
    create table public.orders (id serial primary key, note text, mood public.mood default 'good');
    create index orders_note_idx on public.orders (note);
    create index orders_mood_idx on public.orders (mood);
    create extension pg_trgm schema public;
    create index orders_note_trgm on public.orders using gin (note public.gin_trgm_ops);
    create table public.log (id serial primary key, order_id int references public.orders, at timestamptz default now());
    comment on table public.log is 'left out';
    create index log_at_idx on public.log (at);
    alter table public.log enable row level security;
    create policy mine on public.log using (true);
    create table public.cache (id int primary key, value text);
    create table public.items (id int primary key, order_id int references public.orders, log_id int references public.log, seen int references public.cache);
    create table public.counted (id int primary key default nextval('public.log_id_seq'), text text);
    create table "Odd.Name"."say ""hi""; x" (id int generated always as identity primary key, note text);
    create table "Odd.Name".kept (id int primary key, other int references "Odd.Name"."say ""hi""; x");
    create table archive.old (id int primary key, note text);
    create sequence archive.standalone;
    create function archive.f() returns int language sql as 'select 1';
    create table public.readings (at date, value int, primary key (at)) partition by range (at);
    create table parts.readings_1 partition of public.readings for values from ('2026-01-01') to ('2026-02-01');
    create index readings_value_idx on public.readings (value);
    create view public.logged as select l.at, o.note from public.log l join public.orders o on o.id = l.order_id;
    create view public.logged_twice as select * from public.logged;
    create materialized view public.log_days as select at::date as day, count(*) from public.log group by 1;
    create view public.noted as select note from public.orders;
    create function public.last_log() returns public.log language sql as 'select * from public.log order by id desc limit 1';
    create function public.tell() returns trigger language plpgsql as 'begin return new; end';
    create trigger tell after insert on public.orders for each row execute function public.tell();
    create trigger tell after insert on public.log for each row execute function public.tell();
    create rule quietly as on delete to public.cache where old.id < 0 do also delete from public.log where id < 0;
    create statistics public.log_statistics on order_id, at from public.log;
    insert into public.orders (note) select 'order ' || n from generate_series(1, 300) n;
    insert into public.log (order_id) select n from generate_series(1, 300) n;
    insert into public.cache select n, 'x' from generate_series(1, 300) n;
    insert into public.items select n, n, n, null from generate_series(1, 300) n;
    insert into public.counted (text) values ('a'), ('b');
    insert into "Odd.Name"."say ""hi""; x" (note) values ('x'), ('y');
    insert into "Odd.Name".kept values (1, 1);
    insert into archive.old select n, 'x' from generate_series(1, 300) n;
    insert into public.readings select date '2026-01-01' + n, n from generate_series(0, 20) n;
"#;

const FILTERS: [&str; 12] = [
    "--exclude",
    "table:public.LOG",
    "--exclude",
    "schema:archive",
    "--exclude",
    "data:public.cach?",
    "--exclude",
    "index:public.*_mood_idx",
    "--exclude",
    "\"Odd.Name\".\"say \"\"hi\"\"; x\"",
    "--exclude",
    "extension:*trgm",
];

/// Writes to what is left out, too.
const CHANGES: [&str; 6] = [
    "insert into public.orders (note) values ('late'); insert into public.log (order_id) values (301); insert into archive.old values (1001, 'late')",
    "update public.orders set note = 'changed' where id < 50; update public.log set at = now(); update public.cache set value = 'y'",
    "delete from public.items where id < 100; delete from archive.old; delete from public.cache where id > 200",
    "truncate public.counted, archive.old, public.cache cascade; insert into public.cache values (1, 'z')",
    "insert into public.items values (1000, 2, null, 1); insert into public.counted (text) values ('c')",
    "create table parts.readings_2 partition of public.readings for values from ('2026-02-01') to ('2026-03-01'); \
     insert into public.readings values ('2026-02-03', 7); create table archive.new (id int primary key); insert into archive.new values (1)",
];

fn table(name: &str) -> TableName {
    TableName::parse(name).unwrap()
}

#[tokio::test]
async fn c_14_what_is_left_out_is_neither_created_nor_published_nor_replayed() {
    leave_out(&Pair::shared().await, &[]).await;
}

/// A whole migration, with more flags.
pub async fn leave_out(pair: &Pair, arguments: &[&str]) {
    pair.source.execute(SCHEMA).await;
    let mut migration = Migration::of(pair).arguments(&FILTERS).arguments(arguments);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let published = "select format('%I.%I', schemaname, tablename) from pg_publication_tables order by 1";
    let tables = ["\"Odd.Name\".kept", "parts.readings_1", "public.counted", "public.items", "public.orders"];
    assert_eq!(pair.source.rows(published).await, tables);
    // Before its first row is copied.
    pair.target.execute("create table parts.readings_2 partition of public.readings for values from ('2026-02-01') to ('2026-03-01')").await;
    for change in CHANGES {
        pair.source.execute(change).await;
    }
    migration.level_with(&pair.source).await;
    migration.stop().await.assert_code(4);

    // Once begun, the filters stay as they are (R-3).
    let mut other = migration.again(arguments).arguments(&["--exclude", "public.items"]);
    let refused = other.ended_at_once().await;
    refused.assert_code(3);
    for part in ["--exclude table:public.items is new", "--exclude schema:archive is missing"] {
        assert!(refused.stderr.contains(part), "{}", refused.stderr);
    }
    let mut migration = other.again(arguments);
    let ended = migration.cut_over(pair).await;
    let new = ended.events.iter().filter(|e| matches!(e, Event::Notice { text, .. } if text.contains("is new"))).count();
    assert_eq!(new, 0, "what is out of scope is not spoken of");

    let kept = ["public.orders", "public.items", "public.counted", "\"Odd.Name\".kept", "public.readings"].map(table);
    let differences = compare(&pair.source.uri, &pair.target.uri, Some(&kept)).await.unwrap();
    assert!(differences.is_empty(), "{differences:?}");
    assert_eq!(pair.target.value("select count(*) from public.cache").await, "0");
    let objects = "select relkind::text || ' ' || oid::regclass::text from pg_class where relnamespace::regnamespace::text !~ '^(pg_|information)'
        and relkind in ('r', 'p', 'v', 'm', 'S', 'i', 'I') and relnamespace::regnamespace::text !~ 'timescale' order by 1";
    let expected = [
        "I readings_pkey", "I readings_value_idx", "S log_id_seq", "S orders_id_seq", "i \"Odd.Name\".kept_pkey", "i cache_pkey", "i counted_pkey",
        "i items_pkey", "i orders_note_idx", "i orders_pkey", "i parts.readings_1_pkey", "i parts.readings_1_value_idx", "i parts.readings_2_pkey",
        "i parts.readings_2_value_idx", "p readings", "r \"Odd.Name\".kept", "r cache", "r counted", "r items", "r orders", "r parts.readings_1",
        "r parts.readings_2", "v noted",
    ];
    assert_eq!(pair.target.rows(objects).await, expected);
    let keys = "select conname from pg_constraint where contype = 'f' and connamespace = 'public'::regnamespace order by 1";
    assert_eq!(pair.target.rows(keys).await, ["items_order_id_fkey", "items_seen_fkey"]);
    assert_eq!(
        pair.target
            .rows("select proname from pg_proc where pronamespace = 'public'::regnamespace and proname in ('tell', 'last_log', 'f', 'similarity')")
            .await,
        ["tell"]
    );
    assert_eq!(pair.target.rows("select tgrelid::regclass from pg_trigger where tgname = 'tell'").await, ["orders"]);
    assert_eq!(pair.target.rows("select rulename from pg_rules where schemaname = 'public'").await, Vec::<String>::new());
    assert_eq!(pair.target.rows("select nspname from pg_namespace where nspname = 'archive'").await, Vec::<String>::new());
    let counted = "select last_value from public.log_id_seq";
    assert_eq!(pair.target.value(counted).await, pair.source.value(counted).await, "a sequence that a kept table counts with");

    let list = std::fs::read_to_string(migration.dir().join("report/left-out.txt")).unwrap();
    for line in [
        "table public.log",
        "schema archive",
        "index public.orders_mood_idx",
        "view public.logged: needs table public.log",
        "view public.logged_twice: needs view public.logged",
        "materialized view public.log_days: needs table public.log",
        "function public.last_log(): needs type public.log",
        "function archive.f(): needs schema archive",
        "sequence archive.standalone: needs schema archive",
        "policy mine on public.log: belongs to table public.log",
        "trigger tell on public.log: belongs to table public.log",
        "index public.log_at_idx: belongs to table public.log",
        "statistics object public.log_statistics: belongs to table public.log",
        "table constraint items_log_id_fkey on public.items: needs table public.log",
        "extension pg_trgm",
        "index public.orders_note_trgm: needs operator class public.gin_trgm_ops USING gin",
        "rule quietly on public.cache: needs table public.log",
        "rows of public.cache: foreign key items_seen_fkey of public.items stays NOT VALID",
    ] {
        assert!(list.lines().any(|l| l == line), "{line:?} is not in:\n{list}");
    }
    let plan = std::fs::read_to_string(migration.dir().join("plan.toml")).unwrap();
    assert!(plan.contains("[scope]") && plan.contains("table:public.LOG"), "{plan}");
}

#[tokio::test]
async fn only_what_is_included_comes_with_what_it_needs() {
    let pair = Pair::shared().await;
    pair.source.execute(SCHEMA).await;
    pair.source
        .execute(
            "create schema types; create domain types.positive as int check (value > 0); create table types.unwanted (id int primary key);
             alter table public.orders add column amount types.positive; create schema empty",
        )
        .await;
    let plan = "[scope]\ninclude = [\"public.orders\", \"table:public.readings\", 'schema:\"Odd.Name\"']\nexclude = [\"kept\"]\n";
    let mut migration = Migration::of(&pair).plan(plan);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    for change in &CHANGES[..5] {
        pair.source.execute(change).await;
    }
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    let relations = "select oid::regclass::text from pg_class where relkind in ('r', 'p', 'v', 'm')
        and relnamespace::regnamespace::text !~ '^(pg_|information|_?timescale)' order by 1";
    let expected = ["\"Odd.Name\".\"say \"\"hi\"\"; x\"", "orders", "parts.readings_1", "readings"];
    assert_eq!(pair.target.rows(relations).await, expected);
    assert_eq!(pair.target.rows("select nspname from pg_namespace where nspname in ('types', 'archive', 'empty')").await, ["types"]);
    let kept = ["public.orders", "public.readings", "\"Odd.Name\".\"say \"\"hi\"\"; x\""].map(table);
    let differences = compare(&pair.source.uri, &pair.target.uri, Some(&kept)).await.unwrap();
    assert!(differences.is_empty(), "{differences:?}");
}

#[tokio::test]
async fn filters_that_cannot_be_are_refused_before_anything_is_begun() {
    let pair = Pair::shared().await;
    pair.source.execute(SCHEMA).await;
    pair.source
        .execute(
            "create table public.child () inherits (public.cache); alter table public.child add primary key (id);
             create table public.typed (id int primary key, l public.log);
             create extension citext; create table public.insensitive (id citext primary key);
             create function archive.positive(int) returns bool immutable language sql as 'select $1 > 0';
             create table public.checked (id int primary key check (archive.positive(id)));
             create table public.unique_only (a int not null unique, b int); alter table public.unique_only replica identity using index unique_only_a_key",
        )
        .await;
    for (filters, code, part) in [
        (&["--exclude", "public.logg"][..], 3, "--exclude table:public.logg matches nothing on the source"),
        (&["--include", "schema:nowhere", "--include", "orders"], 3, "--include schema:nowhere matches nothing"),
        (&["--exclude", "extension:postgis"], 3, "--exclude extension:postgis matches nothing"),
        (&["--exclude", "index:orders"], 3, "--exclude index:orders matches nothing"),
        (&["--exclude", "data:logged"], 3, "--exclude data:logged matches nothing"),
        (&["--exclude", "tables:a"], 2, "\"tables\" is no kind"),
        (&["--exclude", "parts.readings_1"], 3, "parts.readings_1 cannot be left out alone: it is a partition of public.readings"),
        (&["--exclude", "schema:parts"], 3, "parts.readings_1 cannot be left out alone"),
        (&["--exclude", "data:parts.*"], 3, "parts.readings_1 cannot be left without its rows alone"),
        (&["--include", "orders", "--include", "parts.readings_1"], 3, "parts.readings_1 cannot be migrated alone"),
        (&["--exclude", "cache"], 3, "table public.child cannot do without table public.cache"),
        (&["--exclude", "log"], 3, "table public.typed cannot do without type public.log"),
        (&["--exclude", "schema:archive"], 3, "checked_id_check on public.checked cannot do without function archive.positive(integer)"),
        (&["--exclude", "extension:citext"], 3, "table public.insensitive cannot do without type public.citext"),
        (&["--exclude", "index:orders_pkey"], 3, "index public.orders_pkey cannot be left out: replay finds rows by it; it is the primary key"),
        (&["--exclude", "index:unique_*"], 3, "public.unique_only_a_key cannot be left out: replay finds rows by it; it is the replica identity"),
        (&["--exclude", "index:parts.*value_idx"], 3, "index parts.readings_1_value_idx of partition parts.readings_1 cannot be left out alone"),
    ] {
        let ended = Migration::of(&pair).arguments(filters).ended_at_once().await;
        ended.assert_code(code);
        assert!(ended.stderr.contains(part), "{part:?} is not in: {}", ended.stderr);
        pair.assert_untouched().await;
    }
}

#[tokio::test]
async fn tables_that_the_user_may_not_even_read_can_be_left_out() {
    let pair = Pair::shared().await;
    let app = format!("app_of_{}", pair.source.value("select current_database()").await);
    pair.source
        .execute(&format!(
            "create role {app} login replication; grant create on database {} to {app}; create schema shop authorization {app};
             create schema secret; create table secret.of_others (id int primary key); create table public.of_others (id int primary key);
             set role {app}; create table shop.orders (id int primary key); insert into shop.orders values (1)",
            pair.source.value("select current_database()").await
        ))
        .await;
    let uri = pair.source.uri.replace("postgres://postgres@", &format!("postgres://{app}@"));
    let arguments = ["--include", "schema:shop", "--skip-roles"];
    let refused = Migration::between(&uri, &pair.target.uri).ended_at_once().await;
    refused.assert_code(3);
    assert!(refused.stderr.contains("does not own"), "{}", refused.stderr);
    let mut migration = Migration::between(&uri, &pair.target.uri).arguments(&arguments);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("insert into shop.orders values (2); insert into public.of_others values (1)").await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    assert_eq!(pair.target.rows("select id from shop.orders order by 1").await, ["1", "2"]);
}
