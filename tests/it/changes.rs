//! What is written while replay runs arrives as it was written: values, keys, order, truncations and partitions.

use hyperlift::event::{Event, Level, Stage};

use crate::{
    replaying::Stream,
    support::{Migration, Pair, migrated_with_changes},
};

#[tokio::test]
async fn c_5_unchanged_toast_keeps_its_value() {
    let schema = "
        create table public.keyed (id int primary key, n int, big text, other bytea);
        create table public.whole (id int, n int, big text, other bytea);
        create table public.keyed_whole (id int primary key, n int, big text, other bytea);
        create table public.indexed (id int not null, n int, big text, other bytea);
        create unique index indexed_id on public.indexed (id);
        alter table public.keyed_whole replica identity full;
        do $$
        declare
            name text;
        begin
            foreach name in array array['keyed', 'whole', 'keyed_whole', 'indexed'] loop
                execute format('alter table public.%I alter big set storage external, alter other set storage external', name);
                execute format('insert into public.%I
                    select i, i, repeat(md5(i::text), 400), decode(repeat(md5(i::text), 400), ''hex'') from generate_series(1, 8) i', name);
            end loop;
        end $$";
    let plan = "
        [[identity]]
        table = \"public.whole\"
        use = \"full\"
        [[identity]]
        table = \"public.indexed\"
        use = \"index:indexed_id\"";
    let changes = [
        "update public.TABLE set n = 10 where id = 1",
        "update public.TABLE set id = 102 where id = 2",
        "update public.TABLE set id = 103, n = 3, big = 'short' where id = 3",
        "begin; update public.TABLE set id = 104 where id = 4; update public.TABLE set id = 4, n = 44 where id = 104; commit",
        "begin; update public.TABLE set big = null where id = 5; update public.TABLE set n = 55 where id = 5; commit",
        "begin; delete from public.TABLE where id = 6; update public.TABLE set id = 6 where id = 7; update public.TABLE set n = 66 where id = 6; commit",
        "begin; insert into public.TABLE select 9, 9, big, null from public.TABLE where id = 8; update public.TABLE set n = 99 where id = 9; commit",
        "update public.TABLE set n = n",
        "begin; update public.TABLE set id = 108 where id = 8; delete from public.TABLE where id = 108; commit",
    ];
    let changes: Vec<String> =
        ["keyed", "whole", "keyed_whole", "indexed"].iter().flat_map(|table| changes.iter().map(|sql| sql.replace("TABLE", table))).collect();
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    let pair = migrated_with_changes(schema, plan, &changes).await;
    for table in ["keyed", "whole", "keyed_whole", "indexed"] {
        let lengths = format!("select id, n, length(big), length(other) from public.{table} order by id");
        let expected = ["1|10|12800|6400", "4|44|12800|6400", "5|55|∅|6400", "6|66|12800|6400", "9|99|12800|∅", "102|2|12800|6400", "103|3|5|6400"];
        assert_eq!(pair.target.rows(&lengths).await, expected, "{table}");
    }
}

#[tokio::test]
async fn c_6_changed_keys_and_swaps_arrive_in_order() {
    let schema = "
        create table public.negated (id int primary key, v text);
        insert into public.negated select i, 'row ' || i from generate_series(1, 50) i;
        create table public.ranked (id int primary key, rank int not null unique deferrable, v text);
        insert into public.ranked select i, i, 'row ' || i from generate_series(1, 20) i;
        create table public.later (id int primary key deferrable initially deferred, v text);
        insert into public.later select i, 'row ' || i from generate_series(1, 10) i;
        create table public.pairs (a int, b text, primary key (b, a));
        insert into public.pairs select i, chr(64 + i) from generate_series(1, 10) i";
    let plan = "
        [[identity]]
        table = \"public.later\"
        use = \"full\"";
    let changes = [
        "update public.negated set id = -id",
        "update public.negated set id = -id where id % 2 = 0",
        "begin; update public.negated set id = 1000 where id = -1; update public.negated set id = -1 where id = -3; update public.negated set id = -3 where id = 1000; commit",
        // c_33: chained in one transaction
        "begin; delete from public.negated where id = 4; update public.negated set id = 4 where id = 2; update public.negated set id = 2 where id = 6; insert into public.negated values (6, 'new'); delete from public.negated where id = 6; commit",
        "update public.ranked set rank = 21 - rank",
        "update public.ranked set rank = case rank when 1 then 2 else 1 end where rank in (1, 2)",
        "begin; set constraints all deferred; update public.ranked set rank = 7 where id = 1; insert into public.ranked values (21, 7, 'between'); delete from public.ranked where id = 1; update public.ranked set rank = 30 where id = 14; commit",
        "begin; update public.later set id = 2 where id = 1; update public.later set id = 1 where id = 2 and v = 'row 2'; commit",
        "update public.pairs set b = chr(75 - a), a = a",
        "update public.pairs set a = a + 100",
    ];
    migrated_with_changes(schema, plan, &changes).await;
}

#[tokio::test]
async fn b_2_generated_columns_are_computed_on_the_target() {
    let schema = "
        create table public.t (id int primary key, n int, double int generated always as (n * 2) stored, label text generated always as ('no. ' || id) stored);
        create table public.bag (n int, double int generated always as (n * 2) stored);
        alter table public.bag replica identity full;
        insert into public.t values (1, 1), (2, null);
        insert into public.bag values (1), (1), (null)";
    let changes = [
        "insert into public.t values (3, 3)",
        "update public.t set n = n + 10",
        "update public.t set id = 20 where id = 2",
        "insert into public.bag values (5); update public.bag set n = 7 where ctid = (select min(ctid) from public.bag)",
        "delete from public.bag where n is null",
    ];
    let pair = migrated_with_changes(schema, "", &changes).await;
    assert_eq!(pair.target.rows("select * from public.t order by id").await, ["1|11|22|no. 1", "3|13|26|no. 3", "20|∅|∅|no. 20"]);
    assert_eq!(pair.target.rows("select * from public.bag order by n").await, ["1|2", "5|10", "7|14"]);
}

#[tokio::test]
async fn b_3_identity_columns_take_the_sources_values_and_are_always_again() {
    let schema = "
        create table public.always (id int generated always as identity primary key, v text);
        create table public.beside (key text primary key, number bigint generated always as identity, v text);
        create table public.bydefault (id int generated by default as identity (increment by -5) primary key, v text);
        insert into public.always (v) select 'before ' || i from generate_series(1, 5) i;
        insert into public.beside (key, v) values ('a', 'before');
        insert into public.bydefault (v) values ('before')";
    let changes = [
        "insert into public.always (v) values ('six'), ('seven')",
        "insert into public.always overriding system value values (100, 'hundred')",
        "update public.always set v = 'changed' where id = 1",
        "update public.always set id = default where id = 2",
        "insert into public.beside (key, v) values ('b', 'during'); update public.beside set v = 'changed', key = 'c' where key = 'a'",
        "insert into public.bydefault (v) values ('during'); update public.bydefault set id = 77 where v = 'before'",
    ];
    let pair = migrated_with_changes(schema, "", &changes).await;
    pair.assert_same_schema().await;
    let refused = hyperlift::demo::execute(&pair.target.uri, "insert into public.always (id, v) values (5000, 'by hand')").await.unwrap_err();
    assert!(refused.has_code("428C9"), "{refused}");
    let next = "insert into public.always (v) values ('next') returning id";
    assert_eq!(pair.target.value(next).await, pair.source.value(next).await);
}

#[tokio::test]
async fn b_5_a_table_accepted_as_insert_only_goes_on_working_on_the_source() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.log (n int, v text); insert into public.log values (1, 'before')").await;
    let mut migration = Migration::of(&pair).plan(
        "
        [[identity]]
        table = \"public.log\"
        use = \"insert-only\"",
    );
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("update public.log set v = 'changed on the source'").await;
    pair.source.execute("insert into public.log values (2, 'during'), (3, 'during')").await;
    pair.source.execute("delete from public.log where n = 3").await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    assert_eq!(pair.target.rows("select * from public.log order by n").await, ["1|before", "2|during", "3|during"]);
    assert_eq!(pair.source.rows("select * from public.log order by n").await, ["1|changed on the source", "2|during"]);
}

#[tokio::test]
async fn b_6_exactly_one_of_equal_rows_is_changed() {
    let schema = "
        create type public.mood as enum ('sad', 'ok');
        create table public.bag (
            n numeric, f float8, j json, b jsonb, p point, x box, t text, c char(5), d interval, a numeric[], m public.mood, y xml, r int4range, z bytea,
            i inet, k cidr, v bpchar, o money, w bool);
        alter table public.bag replica identity full;
        insert into public.bag
        select 1.0, '-0', '{\"a\": 1}', '{\"a\": 1.0}', '(1,2)', '((0,0),(1,4))', e'tab\\t\\\\', 'ab', '24 hours', '{1.0,null}', 'sad', '<a/>', '[1,5)', '\\x00ff',
            '10.0.0.1', '10.0.0.0/8', 'v', 1, true
        from generate_series(1, 4);
        create table public.nulls (a int, b text);
        alter table public.nulls replica identity full;
        insert into public.nulls values (null, null), (null, null), (null, ''), (1, null), (null, 'x');
        create table public.none ();
        alter table public.none replica identity full;
        insert into public.none default values; insert into public.none default values";
    // Each differs from the others in one value for which = is too lax.
    let variants = [
        "n = 1.00", "f = 0.0", "j = '{\"a\":1}'", "b = '{\"a\": 1.00}'", "p = '(1,2.0000000000000004)'", "x = '((0,0),(2,2))'", "t = null",
        "c = 'ab   '", "d = '1 day'", "a = '{1.00,null}'", "m = 'ok'", "y = '<a></a>'", "r = '(0,4]'", "z = ''", "i = '10.0.0.1/24'",
        "k = '10.0.0.0/9'", "v = 'v  '", "o = 2", "w = false",
    ];
    let one = |action: &str| format!("{action} where ctid = (select max(ctid) from public.bag)");
    let mut changes = vec!["delete from public.bag where ctid = (select min(ctid) from public.bag)".to_owned()];
    changes.extend(variants.iter().map(|v| one(&format!("update public.bag set {v}"))));
    // Back again on other rows, in one transaction with a delete of an equal row.
    changes.push("begin; insert into public.bag select * from public.bag; delete from public.bag where ctid = (select min(ctid) from public.bag); update public.bag set t = 'one of them' where ctid = (select min(ctid) from public.bag); commit".into());
    changes.extend(
        [
            "delete from public.nulls where ctid = (select min(ctid) from public.nulls)",
            "update public.nulls set a = 5 where b = ''",
            "update public.nulls set b = null, a = null where a = 1",
            "delete from public.none where ctid = (select min(ctid) from public.none); insert into public.none default values; insert into public.none default values",
        ]
        .map(str::to_owned),
    );
    let changes: Vec<&str> = changes.iter().map(String::as_str).collect();
    let pair = migrated_with_changes(schema, "", &changes).await;
    assert_eq!(pair.target.value("select count(*) from public.bag").await, "5");
    assert_eq!(pair.target.value("select count(*) from public.none").await, "3");
}

#[tokio::test]
async fn c_9_truncate_keeps_its_place_among_the_changes() {
    let schema = "
        create table public.one (id int primary key, v text);
        create table public.parent (id int primary key, v text);
        create table public.child (id int primary key, parent int references public.parent, n int generated by default as identity);
        create table public.bag (v text);
        alter table public.bag replica identity full;
        create table public.kept (id int primary key);
        insert into public.one select i, 'before' from generate_series(1, 20) i;
        insert into public.parent select i, 'before' from generate_series(1, 20) i;
        insert into public.child select i, i from generate_series(1, 20) i;
        insert into public.bag select 'before' from generate_series(1, 20) i;
        insert into public.kept select i from generate_series(1, 20) i";
    let changes = [
        "begin; insert into public.one values (21, 'gone'); update public.one set v = 'gone'; truncate public.one; insert into public.one values (1, 'stays'), (21, 'stays'); update public.one set v = 'stays, too' where id = 1; commit",
        "begin; insert into public.bag values ('gone'); truncate public.bag; insert into public.bag values ('stays'); delete from public.kept where id = 1; commit",
        "begin; insert into public.kept values (100); insert into public.parent values (21, 'gone'); truncate public.parent cascade; insert into public.parent values (1, 'stays'); insert into public.child values (1, 1); commit",
        "begin; truncate public.parent, public.child, public.one restart identity; insert into public.parent values (7, 'last'); insert into public.child (id, parent) values (7, 7); insert into public.kept values (101); commit",
        "begin; savepoint s; truncate public.kept; rollback to s; insert into public.kept values (102); commit",
        "begin; truncate public.bag; truncate public.bag; insert into public.bag values ('last'), ('last'); commit",
    ];
    let pair = migrated_with_changes(schema, "", &changes).await;
    assert_eq!(pair.target.rows("select id, parent, n from public.child").await, ["7|7|1"]);
    assert_eq!(pair.target.value("select count(*) from public.kept").await, "22");
}

/// Partitions by month, with a default, and one that is partitioned again.
const PARTITIONS: &str = "
    create table public.readings (id int, at date, region text, v text, primary key (id, at, region)) partition by range (at);
    create table public.january partition of public.readings for values from ('2024-01-01') to ('2024-02-01');
    create table public.february partition of public.readings for values from ('2024-02-01') to ('2024-03-01') partition by list (region);
    create table public.february_east partition of public.february for values in ('east');
    create table public.february_else partition of public.february default;
    create table public.others partition of public.readings default;
    insert into public.readings
    select i, date '2024-01-01' + i % 90, case i % 3 when 0 then 'east' else 'west' end, 'before' from generate_series(1, 300) i";

#[tokio::test]
async fn b_8_rows_move_between_partitions_and_leaves_are_truncated() {
    let changes = [
        "update public.readings set at = at + 31 where id % 5 = 0",
        "update public.readings set region = 'east' where id % 7 = 0",
        "update public.readings set id = -id, at = at - 31 where id % 11 = 0",
        "begin; insert into public.readings values (1000, '2024-01-05', 'west', 'gone'); truncate public.january; insert into public.readings values (1001, '2024-01-05', 'west', 'stays'); commit",
        "delete from public.readings where id % 13 = 0",
        "begin; truncate public.february; insert into public.february values (2000, '2024-02-02', 'east', 'through the middle'); insert into public.february_else values (2001, '2024-02-03', 'north', 'into the leaf'); commit",
        "truncate public.february_east; truncate public.others",
        "insert into public.readings values (3000, '2030-01-01', 'south', 'default')",
    ];
    let pair = migrated_with_changes(PARTITIONS, "", &changes).await;
    for leaf in ["january", "february_east", "february_else", "others"] {
        let rows = format!("select * from only public.{leaf} order by id");
        assert_eq!(pair.target.rows(&rows).await, pair.source.rows(&rows).await, "{leaf}");
    }
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn b_8_a_truncated_root_is_empty_before_what_follows() {
    let changes = [
        "begin; update public.readings set v = 'gone'; truncate public.readings; insert into public.readings values (1, '2024-01-01', 'west', 'first'); commit",
    ];
    let pair = migrated_with_changes(PARTITIONS, "", &changes).await;
    assert_eq!(pair.target.rows("select id, v from public.readings").await, ["1|first"]);
}

#[tokio::test]
async fn b_8_rows_of_a_new_partition_wait_until_the_target_has_it() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "
        create table public.readings (id int, year int, v text, primary key (id, year)) partition by list (year);
        create index readings_v on public.readings (v);
        create table public.first partition of public.readings for values in (2024);
        insert into public.readings values (1, 2024, 'before')",
        )
        .await;
    let mut migration = Migration::of(&pair).arguments(&["--follow-ddl", "ask"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    // Made on the target first: nothing is in the way.
    let second = "create table public.second partition of public.readings for values in (2025)";
    pair.target.execute(second).await;
    pair.source.execute(&format!("{second}; insert into public.readings values (2, 2025, 'new leaf')")).await;
    migration.level_with(&pair.source).await;
    // Only on the source: replay stops and says where.
    let third = "create table public.third (like public.readings including all); alter table public.readings attach partition public.third for values in (2026)";
    pair.source.execute(&format!("{third}; insert into public.third values (3, 2026, 'attached')")).await;
    pair.source.execute("update public.readings set v = 'changed' where id > 1").await;
    let ended = migration.ended().await;
    ended.assert_code(1);
    assert!(ended.stderr.contains("public.readings") && ended.stderr.contains("(23514)"), "{}", ended.stderr);
    pair.target.execute(third).await;
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn c_12_a_table_made_after_the_copy_is_reported_and_blocks_the_automatic_cutover() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.t (id int primary key)").await;
    let mut migration = Migration::of(&pair).arguments(&["--new-tables", "tell"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("create table public.later (n int); create index on public.later (n); insert into public.later values (1)").await;
    pair.source.execute("insert into public.t values (1)").await;
    let reported = |e: &Event| matches!(e, Event::Notice { level: Level::Warn, text } if text.contains("public.later"));
    migration.event("the table is reported", reported).await;
    migration.level_with(&pair.source).await;
    migration.stop().await.assert_code(4);
    // A restart leaves it out, too, and waits: no automatic cutover happens while a table is missing.
    migration.start();
    let red = |e: &Event| matches!(e, Event::GatesChecked { gates } if gates.iter().any(|g| !g.passed && g.detail.contains("public.later")));
    migration.event("a red gate", red).await;
    migration.stop().await.assert_code(4);
    pair.source.execute("drop table public.later").await;
    migration.cut_over(&pair).await;
    assert_eq!(pair.target.rows("select * from public.t").await, ["1"]);
    assert_eq!(pair.target.value("select to_regclass('public.later')").await, "∅");
}

#[tokio::test]
async fn c_12_replay_stops_at_ddl_with_the_statement_and_goes_on_after_it() {
    let pair = Pair::shared().await;
    let schema = "create table public.t (id int primary key, v text, n int); create table public.other (id int primary key);
        create function public.touch() returns trigger language plpgsql as 'begin return new; end';
        create trigger touched before update on public.t for each row execute function public.touch();
        insert into public.t select i, 'copied', i from generate_series(1, 100) i";
    pair.source.execute(schema).await;
    let mut migration = Migration::of(&pair).arguments(&["--follow-ddl", "ask"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let steps = [
        ("alter table public.t add column flag text not null default 'on'", "alter table public.t add column flag text default 'on'::text not null"),
        ("alter table public.t alter column n type bigint", "alter table public.t alter column n type bigint using n::bigint"),
        ("alter table public.t rename column v to word", "alter table public.t rename column v to word"),
        ("alter table public.t drop column word", "alter table public.t drop column word"),
        ("alter table public.t rename to renamed", "alter table public.t rename to renamed"),
    ];
    let mut table = "public.t";
    for (number, (ddl, statement)) in steps.into_iter().enumerate() {
        pair.source.execute(&format!("update {table} set n = n + 1 where id <= 20; insert into public.other values ({number})")).await;
        pair.source.execute(ddl).await;
        if ddl.ends_with("renamed") {
            table = "public.renamed";
        }
        pair.source.execute(&format!("update {table} set n = n + 1000 where id between 11 and 30")).await;
        let ended = migration.ended().await;
        ended.assert_code(1);
        let said = ended.stderr.replace('"', "");
        assert!(said.contains(statement), "{ddl}: {said}");
        // Everything before it is applied, and nothing after it.
        assert_eq!(pair.target.value("select max(id) from public.other").await, number.to_string(), "{ddl}");
        let moved = pair.target.value("select count(*) from public.t where n >= 1000").await;
        assert_eq!(moved, if number == 0 { "0" } else { "20" }, "{ddl}");
        pair.target.execute(statement).await;
        migration.start();
        migration.level_with(&pair.source).await;
    }
    migration.stop().await.assert_code(4);
    // Another type may have given the rows other values (C-36): the table is copied again once that is allowed.
    let ended = migration.again(&[]).cut_over(&pair).await;
    assert!(ended.events.iter().any(|e| matches!(e, Event::TableJoined { table } if table.name == "renamed")));
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn b_9_children_by_inheritance_are_tables_of_their_own() {
    let schema = "
        create table public.parent (id int primary key, v int);
        create table public.child (primary key (id)) inherits (public.parent);
        insert into public.parent select i, 0 from generate_series(1, 5) i;
        insert into public.child select i, 100 from generate_series(1, 7) i";
    let changes = [
        // The same key is in both.
        "update only public.parent set v = 1 where id = 2; delete from only public.parent where id = 3",
        "update public.child set v = 101 where id = 2; delete from public.child where id = 4",
        "truncate only public.parent; insert into public.parent values (9, 9)",
    ];
    let pair = migrated_with_changes(schema, "", &changes).await;
    assert_eq!(pair.target.rows("select * from only public.parent").await, ["9|9"]);
    assert_eq!(pair.target.rows("select * from only public.child order by id").await, ["1|100", "2|101", "3|100", "5|100", "6|100", "7|100"]);
}

/// T-6: the text of this value fills the queues of the replay by itself, after a change of another table that waits for the same commit.
#[tokio::test]
async fn t_6_a_value_as_large_as_the_queues_passes() {
    let schema = "
        create table public.small (id int primary key);
        create table public.large (id int primary key, v bytea)";
    let changes = [
        "begin; insert into public.small values (1); insert into public.large select 1, convert_to(repeat('0123456789abcdef', 2200000), 'UTF8'); insert into public.small values (2); commit",
    ];
    let pair = migrated_with_changes(schema, "", &changes).await;
    assert_eq!(pair.target.value("select count(*) from public.small").await, "2");
    assert_eq!(pair.target.value("select length(v) from public.large").await, "35200000");
}

/// T-6: as text this value needs more than a server may allocate. No other attempt would end in another way.
#[tokio::test]
async fn t_6_a_row_whose_text_is_too_large_is_named_and_not_tried_again() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.small (id int primary key); create table public.large (id int primary key, v bytea)").await;
    let stream = Stream::open(&pair.source, &[]).await;
    pair.source.execute("insert into public.small values (1)").await;
    pair.source.execute("insert into public.large select 1, convert_to(repeat('x', 540000000), 'UTF8')").await;
    let error = stream.failure().await;
    let text = error.to_string();
    assert!(text.contains("a row of public.large, in the transaction that commits at ") && text.contains("invalid memory alloc request"), "{text}");
    assert!(error.exit_code() == 3 && error.hint.as_ref().is_some_and(|h| h.contains("hyperlift clean")), "{error:?}");
}
