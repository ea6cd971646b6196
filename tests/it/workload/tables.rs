//! The tables of the random application, and what may happen to their rows.

use hyperlift::name::literal;
use std::fmt::Write as _;

use super::Table;

/// One of these texts, by a number, as a value of a type; NULL as `∅`.
fn pick(values: &[&str], number: &str, data_type: &str) -> String {
    let list: Vec<String> = values.iter().map(|v| if *v == "∅" { "null".into() } else { literal(v) }).collect();
    format!("(array[{}]::text[])[1 + abs({number}) % {}]::{data_type}", list.join(", "), list.len())
}

/// A text of 3 to 10 kB that hardly compresses.
const BIG: &str = "(select string_agg(md5(j::text || '/' || {i} || '/{s}'), '') from generate_series(1, 100 + ({i} + {s}) % 220) j)";

const TEXTS: &[&str] = &[
    "tab\tnew\nline\r", "\\", "\\.", "\\N", "\\\\N\\t", "", "null", "NULL", "\"", "a,b", "{}", "(1,2)", "'it''s'", "ü€😀", "A", "a ", " a", "$1",
    "%s", "\u{1}\u{7f}",
];

/// Tables of a plain PostgreSQL target.
pub fn plain() -> Vec<Table> {
    let big = |column: &str| format!("{column} = {BIG}");
    vec![
        Table::new(
            "public.ints",
            "create table public.ints (id int primary key, n int, v text)",
            "(id, n, v) select i, i % 7, 'row {s} ' || i from generate_series({a}, {b}) i",
            &["n = n + 1", "v = v || '{s}'", "n = n", "n = null, v = ''", "v = null"],
        )
        .rekeyed()
        .bulk(4_000),
        // Batches are bounded in bytes, so that transactions come in pieces.
        Table::new(
            "public.wide",
            "create table public.wide (id int primary key, n int, v text)",
            "(id, n, v) select i, i % 7, repeat('{s},', 340) from generate_series({a}, {b}) i",
            &["n = n + 1", "v = repeat('{s},', 340)", "n = null"],
        )
        .rekeyed()
        .bulk(5_000),
        Table::new(
            "public.composite",
            "create table public.composite (junk int, note text, b int, v int, a text, primary key (a, b)); alter table public.composite drop column junk",
            format!("(a, b, note, v) select {}, i, {}, i from generate_series({{a}}, {{b}}) i", pick(TEXTS, "i", "text"), pick(TEXTS, "i + {s}", "text")),
            &["a = a || 'x'", "a = a", "b = -b, a = '{s}'", "v = v + 1", &format!("note = {}", pick(TEXTS, "{s}", "text")), "note = null"],
        )
        .target("create table public.composite (a text, v int, b int, note text, primary key (a, b))")
        .number(Some("b"))
        .rekeyed()
        .bulk(2_500),
        Table::new(
            "public.escaped",
            "create table public.escaped (k text primary key, i int, v text)",
            format!("(k, i, v) select {} || nullif(i / {n}, 0), i, '{{s}}' from generate_series({{a}}, {{b}}) i", pick(TEXTS, "i", "text"), n = TEXTS.len()),
            &["v = '{s}'", "k = k || e'\\t'", "k = upper(k)", "k = '\\N'", "v = k"],
        )
        .number(Some("i")),
        Table::new(
            "public.uniques",
            "create table public.uniques (id int primary key, u int unique, w text, n int, r int4range, exclude using gist (r with &&));
            create unique index uniques_w on public.uniques (lower(w)) where n > 0",
            "(id, u, w, n, r) select i, i, 'W' || i % 40, i % 2, int4range(i * 10, i * 10 + 10) from generate_series({a}, {b}) i",
            &["u = -u", "u = null", "w = lower(w)", "n = 1 - n", "r = int4range({c} * 10, {c} * 10 + 10)", "u = {c}"],
        )
        .rekeyed()
        .scripts(&[
            "update {t} set u = 999999 where u = {a}; update {t} set u = {a} where u = {c}; update {t} set u = {c} where u = 999999",
            "delete from {t} where u = {b}; update {t} set u = {b} where u = {a}; update {t} set u = {a} where u = {c}",
            "delete from {t} where u = {c}; insert into {t} (id, u) values ({a} + 70, {c}) on conflict do nothing; update {t} set id = {a} where u = {c}",
            "update {t} set u = u + 1000000 where id between {a} and {a} + 10; update {t} set u = u - 999999 where u > 1000000",
            "update {t} set r = null where id = {a}; update {t} set r = int4range({a} * 10, {a} * 10 + 10) where id = {c}",
            "update {t} set n = 0 where w = 'W{a}'; update {t} set n = 1, w = 'w{a}' where id = {c}",
        ]),
        Table::new(
            "public.pairs",
            "create table public.pairs (a int, b int, primary key (a, b))",
            "(a, b) select i, {s} % 3 from generate_series({a}, {b}) i",
            &["b = b + 1", "b = -b", "b = b"],
        )
        .number(Some("a"))
        .rekeyed()
        .bulk(2_500),
        Table::new(
            "public.toast",
            "create table public.toast (id int primary key, n int, big text, other bytea);
            alter table public.toast alter big set storage external, alter other set storage external",
            format!("(id, n, big, other) select i, {{s}}, {BIG}, decode({BIG}, 'hex') from generate_series({{a}}, {{b}}) i"),
            &["n = n + 1", "n = {s}", &big("big"), "big = null", "big = 'short'", "id = -id, big = 'rekeyed', n = {s}", "id = {c}, n = 1", "other = null"],
        )
        .rekeyed()
        .scripts(&[
            "update {t} set n = {s} where id = {a}; update {t} set id = {a} + 1000 where id = {a}; update {t} set n = 1 where id = {a} + 1000; update {t} set id = {c} where id = {a} + 1000",
            "update {t} set big = null where id = {a}; update {t} set n = 2 where id = {a}; update {t} set id = -{a} where id = {a}",
            "insert into {t} (id, big) select {a} + 70, big from {t} where id = {a} on conflict do nothing; update {t} set n = {s} where id = {a} + 70; delete from {t} where id = {a}",
        ])
        .bulk(120),
        Table::new(
            "public.toast_whole",
            "create table public.toast_whole (id int, n int, big text, primary key (id));
            alter table public.toast_whole alter big set storage external; alter table public.toast_whole replica identity full",
            format!("(id, n, big) select i, {{s}}, {BIG} from generate_series({{a}}, {{b}}) i"),
            &["n = n + 1", &big("big"), "big = null", "id = -id, n = 0", "id = {c}"],
        )
        .rekeyed()
        .bulk(60),
        Table::new(
            "public.toast_bag",
            "create table public.toast_bag (x int, big text, other text);
            alter table public.toast_bag alter big set storage external; alter table public.toast_bag replica identity full",
            "(x, big, other) select i % 2, (select string_agg(md5(j::text), '') from generate_series(1, 120 + i % 2) j), nullif({s} % 3, 0)::text
            from generate_series({a}, least({b}, {a} + 20)) i",
            &["x = 1 - x", "other = '{s}'", "other = null", "big = null", "big = big || 'x'"],
        )
        .number(None)
        .bulk(0),
        Table::new(
            "public.bag",
            "create table public.bag (x int, n numeric, j json, p point, t text, f float8, c char(3), a numeric[], d interval);
            alter table public.bag replica identity full",
            format!(
                "(x, n, j, p, t, f, c, a, d) select i % 2, {}, {}, {}, {}, {}, {}, {}, {} from generate_series({{a}}, {{b}}) i",
                pick(&["1.0", "1.00", "∅"], "{s}", "numeric"),
                pick(&["{\"a\": 1}", "{\"a\":1}", "∅"], "{s} / 3", "json"),
                pick(&["(1,2)", "(1,2.0000000000000004)"], "{s} / 9", "point"),
                pick(&["", "∅", "a"], "i", "text"),
                pick(&["0", "-0", "NaN"], "{s} / 18", "float8"),
                pick(&["a", "∅"], "i / 2", "char(3)"),
                pick(&["{1.0,NULL}", "{1.00,NULL}"], "i / 3", "numeric[]"),
                pick(&["1 day", "24:00:00"], "i / 4", "interval"),
            ),
            &["n = 1.0", "n = 1.00", "n = null", "t = ''", "t = null", "f = -f", "x = x", "j = '{\"a\": 1}'", "d = '24:00:00'", "c = 'a'", "a = '{1.00,NULL}'"],
        )
        .number(None),
        Table::new(
            "public.nothing",
            "create table public.nothing (); alter table public.nothing replica identity full",
            "select from generate_series({a}, {b}) i",
            &[],
        )
        .number(None)
        .bulk(0),
        Table::new(
            "public.whole",
            "create table public.whole (v text, id int primary key, n numeric, j json); alter table public.whole replica identity full",
            "(id, v, n, j) select i, nullif({s} % 3, 0)::text, i / 3.0, '{\"i\": {s}}' from generate_series({a}, {b}) i",
            &["v = v || 'x'", "n = n * 1.0", "v = null", "j = '[]'", "n = n", "id = -id, v = '{s}'"],
        )
        .rekeyed()
        .bulk(1_500),
        Table::new(
            "public.ranked",
            "create table public.ranked (id int primary key, rank int unique deferrable, v text)",
            "(id, rank, v) select i, i, '{s}' from generate_series({a}, {b}) i where not exists (select from public.ranked where id = i or rank = i)",
            &["rank = 101 - rank", "rank = rank + 1", "rank = -rank", "v = v || 'x'", "rank = null"],
        )
        .rekeyed()
        .scripts(&[
            "update {t} set rank = case rank when {a} then {c} else {a} end where rank in ({a}, {c})",
            "set constraints all deferred; update {t} set rank = {c} where id = {a}; update {t} set rank = {a} where id = {c}; update {t} set rank = id + 5000 where id in ({a}, {c})",
        ])
        .bulk(300),
        Table::new(
            "public.later",
            "create table public.later (id int primary key deferrable initially deferred, v text); alter table public.later replica identity full",
            "(id, v) select i, '{s}' from generate_series({a}, {b}) i where not exists (select from public.later where id = i)",
            &["id = id + 1", "id = -id", "v = '{s}'"],
        )
        .scripts(&[
            "update {t} set id = case id when {a} then {c} else {a} end where id in ({a}, {c})",
            "insert into {t} values ({a}, 'twice'); delete from {t} where id = {a}; insert into {t} values ({a}, 'once')",
        ]),
        Table::new(
            r#"public."Odd ""Table"" 'x'""#,
            r#"create table public."Odd ""Table"" 'x'" ("Key Col" int, "select" text, "UPPER" text, "with ""quote" int, "tab	$1 \ %s" text, primary key ("UPPER", "Key Col"))"#,
            r#"("Key Col", "select", "UPPER", "with ""quote", "tab	$1 \ %s") select i, '{s}', 'U' || i % 3, i, e'\\' from generate_series({a}, {b}) i"#,
            &[r#""select" = '{s}'"#, r#""UPPER" = "UPPER" || 'x'"#, r#""with ""quote" = null, "tab	$1 \ %s" = '$2'"#],
        )
        .number(Some(r#""Key Col""#))
        .rekeyed()
        .bulk(2_200),
        Table::new(
            "public.generated",
            "create table public.generated (id int generated always as identity primary key, twice int generated always as (n * 2) stored, n int,
                label text generated always as ('no. ' || id) stored, v text)",
            "(id, n, v) overriding system value select i, i % 9, '{s}' from generate_series({a}, {b}) i",
            &["n = n + 1", "v = '{s}'", "n = null", "id = default"],
        )
        // ALWAYS comes at the cutover.
        .target(
            "create table public.generated (id int generated by default as identity primary key, twice int generated always as (n * 2) stored, n int,
                label text generated always as ('no. ' || id) stored, v text)",
        )
        .bulk(2_200),
        Table::new(
            "public.bydefault",
            "create table public.bydefault (twice int generated always as (n * 2) stored, n int, id bigint generated by default as identity);
            alter table public.bydefault replica identity full",
            "(n, id) select i % 3, 1 from generate_series({a}, {b}) i",
            &["n = n + 1", "n = null", "id = 2"],
        )
        .number(None),
        // Columns that are taken for another leaf's would be taken without an error.
        Table {
            by_leaf: true,
            ..Table::new(
                "public.parts",
                "create table public.parts (id int, at date, region text, v text, big text, primary key (id, at, region)) partition by range (at);
                create table public.parts_january (id int not null, at date not null, v text, junk int, region text not null, big text);
                alter table public.parts_january drop column junk;
                alter table public.parts attach partition public.parts_january for values from ('2024-01-01') to ('2024-02-01');
                create table public.parts_february partition of public.parts for values from ('2024-02-01') to ('2024-03-01') partition by list (region);
                create table public.parts_east (id int not null, at date not null, big text, region text not null, v text);
                alter table public.parts_february attach partition public.parts_east for values in ('east');
                create table public.parts_else partition of public.parts_february default;
                create table public.parts_rest (id int not null, at date not null, region text not null, big text, v text);
                alter table public.parts attach partition public.parts_rest default;
                alter table public.parts_january alter big set storage external; alter table public.parts_east alter big set storage external",
                format!(
                    "(id, at, region, v, big) select i, date '2024-01-01' + (i * 7) % 90, {}, '{{s}}', case when i % 5 = 0 then {BIG} end from generate_series({{a}}, {{b}}) i",
                    pick(&["east", "west", "north"], "i", "text")
                ),
                &["v = '{s}'", "at = at + 31", "at = date '2024-01-15'", "region = 'east'", "region = 'west', v = null", "at = at - {c}", "v = v", &big("big")],
            )
            .target(
                "create table public.parts (big text, at date, id int, region text, v text, primary key (id, at, region)) partition by range (at);
                create table public.parts_january partition of public.parts for values from ('2024-01-01') to ('2024-02-01');
                create table public.parts_february partition of public.parts for values from ('2024-02-01') to ('2024-03-01') partition by list (region);
                create table public.parts_east partition of public.parts_february for values in ('east');
                create table public.parts_else (v text, region text not null, big text, id int not null, at date not null);
                alter table public.parts_february attach partition public.parts_else default;
                create table public.parts_rest partition of public.parts default",
            )
            .rekeyed()
            .scripts(&["truncate public.parts_january", "truncate public.parts_february", "truncate public.parts_east, public.parts_rest"])
            .bulk(400)
        },
        Table {
            is_parent: true,
            ..Table::new(
                "public.parent",
                "create table public.parent (id int primary key, n int)",
                "(id, n) select i, {s} from generate_series({a}, {b}) i",
                &["n = n + 1"],
            )
            .rekeyed()
        },
        Table::new(
            "public.child",
            "create table public.child (extra text, primary key (id)) inherits (public.parent)",
            "(id, n, extra) select i, {s}, 'child' from generate_series({a}, {b}) i",
            &["n = n + 1", "extra = '{s}'"],
        )
        .rekeyed(),
        Table::new(
            "public.indexed",
            "create table public.indexed (id int primary key, n int, code text not null, big text); create unique index indexed_code on public.indexed (code);
            alter table public.indexed replica identity using index indexed_code; alter table public.indexed alter big set storage external",
            format!("(id, n, code, big) select i, {{s}}, 'c' || i, case when i % 9 = 0 then {BIG} end from generate_series({{a}}, {{b}}) i"),
            &["n = n + 1", "code = code || 'x'", "code = 'c{c}'", "n = null"],
        )
        .rekeyed()
        .bulk(1_200),
        Table {
            insert_only: true,
            ..Table::new("public.log", "create table public.log (v text, n int)", "(v, n) select 'line {s}', i from generate_series({a}, {b}) i", &[])
                .bulk(2_500)
        },
        Table::new(
            "public.padded",
            "create table public.padded (n int, v text, k char(6), primary key (k, n))",
            format!("(k, n, v) select {}, i, '{{s}}' from generate_series({{a}}, {{b}}) i", pick(&["ab", "a", "", " b", "x y", "123456"], "i", "char(6)")),
            &["k = 'new'", "v = '{s}'", "k = ' ' || k", "v = k || '|'"],
        )
        .number(Some("n"))
        .rekeyed(),
        // Keys that are equal, although they are not printed alike.
        Table::new(
            "public.alike",
            "create collation public.nocase (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
            create table public.alike (v text, i int, k text collate public.nocase, n numeric, f float8, primary key (k, n, f))",
            format!(
                "(k, n, f, i, v) select {} || i / 30, {}, {}, i, '{{s}}' from generate_series({{a}}, {{b}}) i",
                pick(&["key", "KEY", "Key", "weiß", "WEIß"], "i + {s}", "text"),
                pick(&["1.0", "1.00", "1", "NaN"], "i + {s} / 5", "numeric"),
                pick(&["0", "-0", "NaN", "Infinity"], "i + {s} / 20", "float8"),
            ),
            &["v = '{s}'", "k = upper(k)", "k = lower(k)", "n = n * 1.0", "n = 1, f = 0", "f = -f", "n = n, v = null"],
        )
        .number(Some("i")),
        types(),
    ]
}

/// A table with columns of many types, changed one by one.
fn types() -> Table {
    let columns: &[(&str, &str, &[&str])] = &[
        ("c", "char(5)", &["ab", "", "a\\b", "  x", "∅"]),
        ("c1", "\"char\"", &["a", "\\", "∅"]),
        ("b", "bytea", &["\\x", "\\x00ff5c4e", "\\x5c2e0a", "∅"]),
        (
            "a",
            "text[]",
            &["{}", "{a,NULL,\"NULL\",\"\",\"q\\\"uote\",\"back\\\\slash\",\"com,ma\",\" \",\"tab\\\t\"}", "[0:1]={x,y}", "{{a,b},{c,NULL}}", "∅"],
        ),
        ("m", "public.mood", &["sad", "it's \"fine\"", "a,b\\", "∅"]),
        ("ms", "public.mood[]", &["{sad,NULL}", "{\"a,b\\\\\"}", "∅"]),
        ("o", "public.pair", &["(1,a)", "(,)", "(,\"\")", "(2,\"b,\"\"c\\\\\")", "∅"]),
        ("os", "public.pair[]", &["{\"(1,a)\",NULL,\"(,\\\"x y\\\")\"}", "{}", "∅"]),
        ("dm", "public.short", &["x", "", "\\.", "∅"]),
        ("r", "int4range", &["empty", "[1,5)", "(,)", "[7,)", "∅"]),
        ("tr", "tstzrange", &["[\"2024-01-01 00:00:00+00\",infinity)", "(,\"-infinity\"]", "∅"]),
        ("mr", "int4multirange", &["{}", "{[1,3),[7,9)}", "∅"]),
        ("j", "json", &["{\"a\":  1,\"a\": 2}", "\"\\u00e4\\n\"", "null", "∅"]),
        ("jb", "jsonb", &["{\"b\": 1.00, \"a\": null}", "\"\\\\N\"", "null", "[]", "∅"]),
        ("d", "interval", &["1 day", "24:00:00", "-1 mons +2 days -03:00:00.000001", "∅"]),
        ("f", "float8", &["NaN", "-0", "0", "Infinity", "-Infinity", "5e-324", "0.30000000000000004", "1.7976931348623157e+308", "∅"]),
        ("f4", "real", &["NaN", "-0", "1.1754944e-38", "16777216", "∅"]),
        ("n", "numeric", &["NaN", "1.0", "1.00", "-Infinity", "1e500", "0.000000000000000000000000000001", "∅"]),
        ("money", "money", &["$1.00", "-$92,233,720,368,547,758.08", "∅"]),
        (
            "tz",
            "timestamptz",
            &["infinity", "-infinity", "4713-01-01 00:00:00+00 BC", "294276-12-31 23:59:59.999999+00", "2024-10-27 02:30:00+02", "∅"],
        ),
        ("ts", "timestamp", &["infinity", "0001-01-01 00:00:00 BC", "∅"]),
        ("day", "date", &["infinity", "0044-03-15 BC", "5874897-12-31", "∅"]),
        ("tt", "timetz", &["24:00:00+00", "00:00:00-15:59", "∅"]),
        ("t", "text", TEXTS),
        ("vc", "varchar(30)", TEXTS),
        ("nm", "name", &["a", "", "∅"]),
        ("bits", "varbit", &["", "101", "∅"]),
        ("ip", "inet", &["10.0.0.1", "10.0.0.1/24", "::1", "∅"]),
        ("net", "cidr", &["10.0.0.0/8", "∅"]),
        ("u", "uuid", &["00000000-0000-0000-0000-000000000000", "∅"]),
        ("bo", "bool", &["t", "f", "∅"]),
        ("p", "point", &["(1,2)", "(NaN,-0)", "∅"]),
        ("bx", "box", &["(2,2),(0,0)", "(4,1),(0,0)", "∅"]),
        ("x", "xml", &["<a/>", "<a>&amp;</a>", "text", "∅"]),
        ("tv", "tsvector", &["'a':1A 'b''c':2", "", "∅"]),
        ("l", "pg_lsn", &["16/B374D848", "∅"]),
        ("rg", "regclass", &["pg_class", "∅"]),
    ];
    let (mut ddl, mut names, mut values, mut assignments) = (String::new(), String::new(), String::new(), Vec::new());
    for (n, (name, data_type, texts)) in columns.iter().enumerate() {
        let _ = write!(ddl, ", {name} {data_type}");
        let _ = write!(names, ", {name}");
        let _ = write!(values, ", {}", pick(texts, &format!("(i + {{s}} * {})", n + 1), data_type));
        assignments.push(format!("{name} = {}", pick(texts, "({i} + {s})", data_type)));
    }
    let (some, others) = assignments.split_at(assignments.len() / 2);
    assignments = some.iter().zip(others).map(|(a, b)| format!("{a}, {b}")).chain(some.iter().cloned()).chain(others.iter().cloned()).collect();
    let source = format!(
        "create type public.mood as enum ('sad', 'it''s \"fine\"', 'a,b\\'); create type public.pair as (a int, b text);
        create domain public.short as text check (length(value) < 100); create table public.types (id int primary key{ddl})"
    );
    let insert = format!("(id{names}) select i{values} from generate_series({{a}}, {{b}}) i");
    let assignments: Vec<&str> = assignments.iter().map(String::as_str).collect();
    Table::new("public.types", source, insert, &assignments).rekeyed().bulk(400)
}

/// Tables that are hypertables on the target.
pub fn hypertables() -> Vec<Table> {
    let table = |name: &'static str, source_key: &str, target_key: &str, assignments: &[&str]| {
        let columns = |key: &str| {
            format!(
                "create table {name} (n numeric, id int, big text, ts timestamptz not null, tags text[], device int{key});
                alter table {name} alter big set storage external;"
            )
        };
        let insert = format!(
            "(id, ts, n, big, tags, device) select i, timestamptz '2026-01-01' + (i % 50) * interval '19 hours', {{s}} / 3.0, case when i % 3 = 0 then {BIG} end,
                array['a,b', null, i::text], i % 5 from generate_series({{a}}, {{b}}) i"
        );
        let mut all = vec![
            "ts = ts + interval '9 days'",
            "ts = ts + interval '1 second'",
            "ts = ts - interval '9 days', n = n * 1.0",
            "ts = timestamptz '2026-01-01' + ({s} % 60) * interval '14 hours', tags = null",
            "n = n + 1",
            "tags = array['{s}']",
            "big = 'short', n = 'NaN'",
            "big = null, ts = ts + interval '9 days'",
            "device = device + 1",
            "n = n",
        ];
        all.extend(assignments);
        Table::new(name, columns(source_key), insert, &all)
            .target(format!(
                "{} select create_hypertable('{name}', 'ts', chunk_time_interval => interval '7 days', create_default_indexes => false)",
                columns(target_key)
            ))
            .scripts(&[
                "update {t} set ts = ts + interval '9 days' where id = {a}; update {t} set ts = ts - interval '9 days' where id = {a}",
                "update {t} set ts = ts + interval '9 days' where id = {a}; update {t} set ts = ts + interval '9 days', n = 0 where id = {a}; delete from {t} where id = {a}",
                "update {t} set n = {s} where id = {a}; update {t} set ts = ts - interval '30 days' where id = {a}; update {t} set big = 'x' where id = {a}",
                "delete from {t} where id = {a}; insert into {t} (id, ts) values ({a}, '2025-12-01'); update {t} set ts = '2026-02-02', n = 2 where id = {a}",
            ])
            .bulk(400)
    };
    let rekeyed = &["id = -id, ts = ts + interval '9 days'", "id = {c}, ts = ts - interval '9 days', n = null"];
    let full = |table: Table| Table { source: format!("{} alter table {} replica identity full", table.source, table.name), ..table };
    let id_and_ts = ", primary key (id, ts)";
    vec![
        table("public.time_in_key", id_and_ts, id_and_ts, rekeyed).rekeyed().bulk(2_500),
        table("public.extended", ", primary key (id)", id_and_ts, rekeyed).rekeyed().bulk(1_000),
        table("public.whole_extended", ", primary key (id)", id_and_ts, rekeyed).rekeyed().bulk(300),
        table("public.whole_in_key", id_and_ts, id_and_ts, rekeyed).rekeyed().bulk(300),
        full(table("public.whole", "", "", &[])).bulk(60),
        {
            let t = table("public.plain_index", ", primary key (id)", "", rekeyed).rekeyed();
            let target = t.target.as_ref().map(|sql| format!("{sql}; create index on public.plain_index (id)"));
            Table { target, ..t }
        },
        {
            // Times that are no numbers.
            let odd = ["update {t} set ts = 'infinity' where id = {a}", "update {t} set ts = '0044-03-15 12:00:00+00 BC' where id = {a}"];
            let t = table("public.spread", ", primary key (id, ts, device)", ", primary key (id, ts, device)", rekeyed).rekeyed().scripts(&odd);
            let target = t.target.as_ref().map(|sql| format!("{sql}; select add_dimension('public.spread', 'device', number_partitions => 3)"));
            Table { target, ..t }
        },
        Table::new(
            "public.ticks",
            "create table public.ticks (v text, tick bigint, id int, k char(4), primary key (k, id))",
            "(tick, id, k, v) select i % 40, i, case i % 2 when 0 then 'a' else 'ab' end, '{s}' from generate_series({a}, {b}) i",
            &["v = '{s}'", "tick = tick + 11", "tick = tick + 1", "k = 'new'", "tick = {s} % 50, k = '{s}', v = null"],
        )
        .target(
            "create table public.ticks (k char(4), id int, tick bigint not null, v text, primary key (k, id, tick));
            select create_hypertable('public.ticks', 'tick', chunk_time_interval => 10)",
        )
        .rekeyed(),
        // Beside the others, as it is.
        Table::new(
            "public.beside",
            "create table public.beside (id int primary key, n int)",
            "(id, n) select i, {s} from generate_series({a}, {b}) i",
            &["n = n + 1", "n = n"],
        )
        .rekeyed(),
    ]
    .into_iter()
    .map(|t| if t.name.starts_with("public.whole_") { full(t) } else { t })
    .collect()
}
