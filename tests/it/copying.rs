//! The copy: parts of one table under one snapshot, sessions that end while they copy, and the format of every type.

use hyperlift::{
    demo::servers::ServerOptions,
    event::{CopyFormat, Event, Level, Stage},
};
use tokio_util::sync::CancellationToken;

use crate::support::{Database, Ended, Migration, Pair, until};

/// Two tables of some megabytes, one of them without a key. Updates of their wide rows go to other pages.
const LARGE: &str = "
    create table public.keyed (id bigint primary key, n int not null default 0, v text);
    insert into public.keyed select i, 0, repeat(md5(i::text), 8) from generate_series(1, 12000) i;
    create table public.bag (id bigint, n int not null default 0, v text);
    alter table public.bag replica identity full;
    insert into public.bag select * from public.keyed;
    create index on public.bag (id);
    create table public.small (id int primary key);
    insert into public.small select generate_series(1, 10)";

/// Parts of about a quarter of a megabyte.
const IN_PARTS: &[&str] = &["--split-tables-larger-than", "256kB", "--table-jobs", "4"];

/// The same, slow enough for something to happen during the copy.
const SLOWLY: &[&str] = &["--split-tables-larger-than", "256kB", "--table-jobs", "4", "--copy-rate", "2MB"];

/// The format and the number of parts of a table, each time that its copy began.
fn begun(events: &[Event], name: &str) -> Vec<(CopyFormat, u32)> {
    let one = |e: &Event| match e {
        Event::CopyBegun { table, format, parts } if table.name == name => Some((*format, *parts)),
        _ => None,
    };
    events.iter().filter_map(one).collect()
}

/// Sessions of the copy that satisfy a condition.
async fn copies(database: &Database, condition: &str) -> Vec<String> {
    let sql = format!(
        "select pid from pg_stat_activity where datname = current_database() and application_name ~ '/copy-' and {condition} order by backend_start"
    );
    database.rows(&sql).await
}

/// A migration that has copied some parts of the large table, but not all.
async fn part_way(pair: &Pair) -> Migration {
    pair.source.execute(LARGE).await;
    let mut migration = Migration::of(pair).arguments(SLOWLY);
    migration.start();
    in_the_middle(pair, "bag").await;
    migration
}

/// Waits until the target has some parts of the table, but not all.
async fn in_the_middle(pair: &Pair, table: &str) {
    let recorded =
        format!("select count(*) from _hyperlift.copy_part join _hyperlift.relation using (source_oid) where name = '{table}' and parts > 1");
    until("some parts", async || {
        pair.target.value("select to_regclass('_hyperlift.copy_part') is not null").await == "t"
            && pair.target.value(&recorded).await.parse::<u32>().unwrap() >= 2
    })
    .await;
    let state = format!("select state from _hyperlift.relation where name = '{table}'");
    assert_eq!(pair.target.value(&state).await, "planned", "the copy is not complete yet");
}

/// Runs the migration to catch-up and stops it there; then runs it to its end. Returns how the first run ended.
async fn copied(pair: &Pair, migration: &mut Migration) -> Ended {
    migration.stage(Stage::CatchUp).await;
    let ended = migration.stop().await;
    ended.assert_code(4);
    migration.cut_over(pair).await;
    pair.assert_equal().await;
    ended
}

#[tokio::test]
async fn i_1_parts_of_one_table_are_read_under_one_snapshot_while_it_is_written() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(LARGE).await;
    let stop = CancellationToken::new();
    let mut sessions = Vec::new();
    for number in 0..4 {
        let (client, stop) = (pair.source.session().await, stop.clone());
        sessions.push(tokio::spawn(async move {
            let mut round = 0;
            while !stop.is_cancelled() {
                round += 1;
                // Under two snapshots, a row that moves to another page between them would be read twice, or not at all.
                let id = (round * 997 + number * 3000) % 12_000 + 1;
                let sql = format!(
                    "begin; update public.keyed set n = n + 1 where id = {id}; update public.bag set n = n + 1 where id = {id};
                     insert into public.bag values (100000 + {id}, {round}, 'new'); delete from public.bag where id = 100000 + {id} and n = {round} - 7; commit"
                );
                client.batch_execute(&sql).await.unwrap();
            }
        }));
    }
    let mut migration = Migration::of(&pair).arguments(IN_PARTS);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    stop.cancel();
    for session in sessions {
        session.await.unwrap();
    }
    let snapshots = "select bool_and(state = 'copied' and snapshot is not null and l_lsn is not null) from _hyperlift.relation";
    assert_eq!(pair.target.value(snapshots).await, "t");
    migration.level_with(&pair.source).await;
    let ended = migration.stop().await;
    ended.assert_code(4);
    for table in ["keyed", "bag"] {
        assert!(matches!(begun(&ended.events, table)[..], [(CopyFormat::Binary, 10..)]), "{:?}", begun(&ended.events, table));
    }
    assert_eq!(begun(&ended.events, "small"), [(CopyFormat::Binary, 1)]);
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn c_15_killed_between_two_parts_it_copies_the_table_again_and_no_row_twice() {
    let pair = Pair::own(ServerOptions::default()).await;
    let mut migration = part_way(&pair).await;
    migration.kill().await;
    pair.source.execute("update public.bag set n = 5 where id % 10 = 0; delete from public.keyed where id % 10 = 1").await;
    migration.start();
    copied(&pair, &mut migration).await;
    assert_eq!(pair.target.value("select count(*), count(distinct id) from public.bag").await, "12000|12000");
}

#[tokio::test]
async fn c_30_a_part_that_a_killed_run_commits_late_is_refused() {
    let pair = Pair::own(ServerOptions::default()).await;
    let mut migration = part_way(&pair).await;
    migration.kill().await;
    // The session of the killed run that is still open. No other process has started yet.
    let zombie = pair.target.session().await;
    let (oid, attempt) = {
        let row = pair.target.value("select source_oid, attempt from _hyperlift.relation where name = 'bag'").await;
        let (oid, attempt) = row.split_once('|').unwrap();
        (oid.to_owned(), attempt.to_owned())
    };
    let record = format!(
        "insert into _hyperlift.copy_part (source_oid, part, parts, attempt, rows, bytes) values ({oid}, 999, 1000,
         (select attempt from _hyperlift.relation where source_oid = {oid} and attempt = {attempt} and state = 'planned' for share), 1, 1)"
    );
    zombie.batch_execute("begin").await.unwrap();
    migration.start();
    until("another attempt", async || {
        pair.target.value(&format!("select attempt > {attempt} from _hyperlift.relation where source_oid = {oid}")).await == "t"
    })
    .await;
    let refused = zombie.batch_execute(&record).await.unwrap_err();
    assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("23502"), "{refused}");
    drop(zombie);
    copied(&pair, &mut migration).await;
}

#[tokio::test]
async fn a_part_whose_session_on_the_target_ends_is_copied_again_under_the_same_snapshot() {
    let pair = Pair::own(ServerOptions::default()).await;
    let mut migration = part_way(&pair).await;
    let snapshot = "select count(*) from pg_stat_activity where application_name ~ '/copy-' and backend_xmin is not null";
    assert_ne!(pair.source.value(snapshot).await, "0");
    until("a session in the middle of a part", async || !copies(&pair.target, "query ~ '^copy' and state = 'active'").await.is_empty()).await;
    pair.target
        .rows("select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '/copy-' and query ~ '^copy' and state = 'active'")
        .await;
    let again = |e: &Event| matches!(e, Event::Notice { level: Level::Warn, text } if text.contains(", part ") && text.contains("trying again"));
    migration.event("the part is tried again", again).await;
    let ended = copied(&pair, &mut migration).await;
    assert_eq!((begun(&ended.events, "bag").len(), begun(&ended.events, "keyed").len()), (1, 1), "the snapshots were kept");
}

#[tokio::test]
async fn a_relation_whose_snapshot_is_lost_is_copied_again_under_another() {
    let pair = Pair::own(ServerOptions::default()).await;
    let mut migration = part_way(&pair).await;
    pair.source.rows("select pg_terminate_backend(pid) from pg_stat_activity where application_name ~ '/copy-'").await;
    pair.source.execute("update public.bag set n = 9; update public.keyed set n = 9").await;
    let ended = copied(&pair, &mut migration).await;
    assert!(begun(&ended.events, "bag").len() > 1, "{:?}", begun(&ended.events, "bag"));
}

#[tokio::test]
async fn c_28_an_alter_table_that_waits_for_the_copy_does_not_stop_it() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute(LARGE).await;
    // There are enough jobs for some to join the copy while the ALTER TABLE already waits.
    let mut migration = Migration::of(&pair).arguments(SLOWLY);
    migration.start();
    migration.event("the copy of the table", |e| matches!(e, Event::CopyBegun { table, .. } if table.name == "bag")).await;
    let session = pair.source.session().await;
    let locked = "alter table public.bag enable row level security; alter table public.bag disable row level security";
    let alter = tokio::spawn(async move { session.batch_execute(locked).await.unwrap() });
    copied(&pair, &mut migration).await;
    alter.await.unwrap();
}

#[tokio::test]
async fn leaves_of_a_partition_root_are_parts_under_one_snapshot() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.root (id int, at date, v text, primary key (id, at)) partition by range (at);
             create table public.y1 partition of public.root for values from ('2024-01-01') to ('2025-01-01');
             create table public.y2 (v text, gone int, at date not null, id int not null);
             alter table public.y2 drop column gone;
             alter table public.root attach partition public.y2 for values from ('2025-01-01') to ('2026-01-01');
             create table public.y3 partition of public.root for values from ('2026-01-01') to ('2027-01-01') partition by list (id);
             create table public.y3a partition of public.y3 default;
             create table public.rest partition of public.root default;
             create table public.nothing (id int primary key) partition by range (id);
             insert into public.root select i, date '2024-01-01' + i % 1500, repeat(md5(i::text), 4) from generate_series(1, 9000) i",
        )
        .await;
    let mut migration = Migration::of(&pair).arguments(IN_PARTS);
    migration.start();
    let ended = copied(&pair, &mut migration).await;
    assert!(matches!(begun(&ended.events, "root")[..], [(CopyFormat::Binary, 5..)]), "{:?}", begun(&ended.events, "root"));
    let leaves = "select tableoid::regclass::text, count(*) from public.root group by 1 order by 1";
    assert_eq!(pair.source.rows(leaves).await, pair.target.rows(leaves).await);
}

/// A table, the format in which it is copied, its columns and its values.
const TYPES: &[(&str, CopyFormat, &str, &str)] = &[
    (
        "numbers",
        CopyFormat::Binary,
        "a smallint, b bigint, c numeric, d numeric(20,5), e real, f float8, g money, h oid, i xid8",
        "(1, -2, 'NaN', 1.5, '-0', 'Infinity', -12.34, 4000000000, '18446744073709551615'), (null, 9223372036854775807, 1e200, -0.00001, 1e-45, '-Infinity', null, 0, '0')",
    ),
    (
        "times",
        CopyFormat::Binary,
        "a date, b timestamp, c timestamptz, d time, e timetz, f interval",
        "('infinity', '-infinity', '4713-01-01 00:00:00+00 BC', '24:00', '12:00:00+05:30', '-1 mon +2 days -03:04:05.6'), ('4713-01-01 BC', '294276-12-31 23:59:59.999999', 'infinity', '00:00', '00:00:00-12', null)",
    ),
    (
        "texts",
        CopyFormat::Binary,
        "a text, b varchar(10), c char(5), d name, e \"char\", f bytea, g bit(3), h varbit, i uuid",
        r"(E'tab\t line\n back\\ \\N', '', 'x', 'n', 'c', '\x00ff', '101', '1', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'), ('größe 😀', null, '', '', '', '', '000', '', null)",
    ),
    (
        "others",
        CopyFormat::Binary,
        "a json, b jsonb, c jsonpath, d inet, e cidr, f macaddr, g macaddr8, h point, i box, j polygon, k tsvector, l tsquery, m pg_lsn, n boolean",
        r#"('{"b": 1,  "a": [null]}', '{"b": 1, "a": 1e400}', '$.a[*] ? (@ > 1)', '10.1.2.3/8', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1,2)', '((0,0),(1,1))', '((0,0),(1,1),(2,0))', '''a b'':1A b:2', 'a & !b | c:*', '16/B374D848', true)"#,
    ),
    (
        "arrays",
        CopyFormat::Binary,
        "a int[], b text[][], c int4range, d tstzrange[], e nummultirange, f numeric[]",
        r#"('[0:2]={1,null,3}', '{{a,"b,c"},{"\"",NULL}}', '[1,5)', '{"[2024-01-01,2024-02-01)",empty}', '{[1,2),[3,)}', '{NaN,1.10}'), ('{}', null, 'empty', '{}', '{}', null)"#,
    ),
    ("labels", CopyFormat::Binary, "a mood, b positive, c nested", "('happy', 3, 5), ('so so', null, 1)"),
    ("user_arrays", CopyFormat::Text, "a mood[], b int", "('{happy,NULL,\"so so\"}', 1)"),
    ("composites", CopyFormat::Text, "a pair, b int", r#"('(1,"a, ""b""")', 1), (null, 2)"#),
    ("user_ranges", CopyFormat::Text, "a weekrange", "('[1,3)')"),
    ("user_domains", CopyFormat::Text, "a pairs", "('(1,x)')"),
    ("objects", CopyFormat::Text, "a regclass, b regtype[], c regproc", "('pg_class', '{int4,text}', 'pg_sleep')"),
    ("documents", CopyFormat::Text, "a xml, b int", "('<a>ü</a>', 1), ('text', 2)"),
];

#[tokio::test]
async fn t_1_to_t_8_values_are_the_same_in_the_format_that_their_types_allow() {
    let pair = Pair::shared().await;
    let types = "set search_path = public; create type mood as enum ('so so', 'happy'); create domain positive as int check (value > 0);
        create domain nested as positive check (value < 10); create type pair as (n int, t text); create domain pairs as pair;
        create type weekrange as range (subtype = int8);";
    let tables = TYPES.iter().map(|(name, _, columns, values)| {
        format!("create table {name} ({columns}); alter table {name} replica identity full; insert into {name} values {values};")
    });
    let tables: String = tables.collect();
    // A table without rows, one without columns, and one whose columns may not be written.
    let others = "create table empty (a mood); alter table empty replica identity full; create table no_columns (); alter table no_columns replica identity full;
        insert into no_columns select from generate_series(1, 3000);
        create table computed (a int primary key, b int generated always as (a * 2) stored); insert into computed values (1), (2);
        create table only_computed (b int generated always as (7) stored); insert into only_computed default values; insert into only_computed default values;
        alter table only_computed replica identity full;
        create unlogged table unlogged (id int primary key, v text); insert into unlogged values (1, 'x');
        create table dropped (a int primary key, b text, c text); alter table dropped drop column b; insert into dropped values (1, 'c');
        create table parent (id int primary key); create table child () inherits (parent); alter table child replica identity full; insert into parent values (1); insert into child values (2), (3);
        create table toasted (id int primary key, v text); insert into toasted select 1, string_agg(md5(i::text), '') from generate_series(1, 400000) i;";
    pair.source.execute(&format!("{types}{tables}{others}")).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    let ended = copied(&pair, &mut migration).await;
    for (name, format, columns, _) in TYPES {
        assert_eq!(begun(&ended.events, name), [(*format, 1)], "{name}");
        let list: Vec<String> = columns.split(", ").map(|c| format!("{}::text", c.split(' ').next().unwrap())).collect();
        let sql = format!("select {} from public.{name} order by 1", list.join(", "));
        assert_eq!(pair.source.rows(&sql).await, pair.target.rows(&sql).await, "{name}");
    }
    for (table, rows) in
        [("no_columns", "3000"), ("only_computed", "2"), ("only public.parent", "1"), ("only public.child", "2"), ("empty", "0"), ("unlogged", "1")]
    {
        let table = table.strip_prefix("only ").map_or_else(|| format!("public.{table}"), |t| format!("only {t}"));
        assert_eq!(pair.target.value(&format!("select count(*) from {table}")).await, rows, "{table}");
    }
}
