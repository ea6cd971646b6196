//! Any name that PostgreSQL accepts is carried through schema, copy, replay and cutover.

use hyperlift::{
    event::Stage,
    name::{TableName, ident, literal},
};
use std::fmt::Write as _;

use crate::support::{Migration, Pair};

const NAMES: &[&str] = &[
    "Mixed Case",
    "a.b",
    "say \"hi\"",
    "100% %s %I",
    "$$",
    "$body$",
    "back\\slash\\n",
    "new\nline",
    "\\connect postgres",
    "größe 量",
    "it's",
    "select",
    "user",
    " ",
    "--comment",
    "/* comment */",
    ";",
    "1st",
    "tab\there",
    "{brace}",
    "$1",
    "E'x'",
    // 63 bytes, the most there can be
    "äöüßäöüßäöüßäöüßäöüßäöüßäöüßäöu",
];

/// A schema of this name with one object of each kind, all of the same or a similar name.
fn objects(name: &str, other: &str) -> String {
    let (table, n, text) = (TableName::new(name, name), ident(name), literal(name));
    // Indexes, constraints' indexes and sequences share the names of tables. The longest name cannot have a suffix.
    let like = |mark: char| ident(&std::iter::once(mark).chain(name.chars().skip(1)).collect::<String>());
    let sql = table.sql();
    let mut text_of = format!(
        "create schema {n};
         create type {n}.{} as enum ({text}, 'other');
         create sequence {n}.{};
         create table {sql} ({n} int default nextval({}), \"Other\" text default {text}, \"kind\" {n}.{}, constraint {} primary key ({n}), constraint {n} check ({n} <> 77));
         alter sequence {n}.{} owned by {sql}.{n};
         create index {} on {sql} (\"Other\") where \"Other\" <> {text};
         create table {n}.\"bag\" ({n} text);
         create unique index {} on {n}.\"bag\" ({n});
         create view {n}.{} as select {n} as {n} from {sql};
         create function {n}.{n}() returns trigger language plpgsql as {};
         create trigger {n} before update on {sql} for each row execute function {n}.{n}();
         comment on table {sql} is {text};
         comment on column {sql}.{n} is {text};
         insert into {sql} (\"Other\", \"kind\") select {text} || i, {text} from generate_series(1, 20) i;
         insert into {n}.\"bag\" select {text} || i from generate_series(1, 5) i;",
        like('T'),
        like('S'),
        literal(&format!("{n}.{}", like('S'))),
        like('T'),
        like('P'),
        like('S'),
        like('I'),
        like('U'),
        like('V'),
        literal(&format!("begin\n-- {}\nnew.\"Other\" := new.\"Other\" || {text};\nreturn new;\nend", name.replace('\n', " "))),
    );
    if !other.is_empty() {
        let target = TableName::new(other, other).sql();
        write!(
            text_of,
            "alter table {sql} add constraint {} foreign key ({n}) references {target} on update cascade on delete cascade not valid;",
            like('F')
        )
        .unwrap();
    }
    text_of
}

#[tokio::test]
async fn n_1_any_name_is_carried_through() {
    let pair = Pair::shared().await;
    let mut plan = String::new();
    let mut before = "";
    for name in NAMES {
        assert!(name.len() <= 63);
        pair.source.execute(&objects(name, before)).await;
        before = name;
        let table = TableName::new(*name, "bag");
        let entry = toml_string(&table.to_string());
        writeln!(plan, "[[identity]]\ntable = {entry}\nuse = \"full\"").unwrap();
    }
    let mut migration = Migration::of(&pair).plan(&plan);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    for name in NAMES {
        let (table, n, text) = (TableName::new(*name, *name).sql(), ident(name), literal(name));
        let bag = TableName::new(*name, "bag").sql();
        pair.source
            .execute(&format!(
                "insert into {table} (\"Other\") values ({text});
                 update {table} set \"Other\" = \"Other\" || {text} where {n} < 5;
                 delete from {table} where {n} between 5 and 7;
                 update {table} set {n} = {n} + 1000 where {n} between 8 and 9;
                 update {bag} set {n} = {n} || {text} where {n} <> {text};
                 delete from {bag} where {n} = (select min({n}) from {bag})"
            ))
            .await;
    }
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn t_11_a_source_in_latin1_arrives_in_utf8() {
    let pair = Pair::shared_in("LATIN1").await;
    let schema = "
        create table public.\"größe\" (\"schlüssel\" text primary key, \"wörter\" text[], j jsonb, c char(4) default 'ä' check (c <> 'ß'));
        comment on table public.\"größe\" is 'einhundertfünfzig';
        create index \"zurück\" on public.\"größe\" (lower(\"schlüssel\"));
        create table public.\"lose\" (a text);
        alter table public.lose replica identity full;
        insert into public.\"größe\" select 'é' || n, array['ü' || n, null], jsonb_build_object('ñ', 'ÿ') from generate_series(1, 200) n;
        insert into public.lose values ('à'), ('b')";
    pair.source.execute(schema).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let changes = "
        insert into public.\"größe\" values ('neu ½', '{ö}', '\"ê\"', 'æ');
        update public.\"größe\" set c = 'ö', \"schlüssel\" = 'ê' || \"schlüssel\" where \"schlüssel\" like 'é1%';
        delete from public.\"größe\" where \"schlüssel\" = 'é2';
        update public.lose set a = a || 'ç'";
    pair.source.execute(changes).await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_same_schema().await;
    // Compared as the client reads them, because the servers' own bytes differ.
    for rows in
        ["select * from public.\"größe\" order by md5(convert_to(\"schlüssel\", 'UTF8'))", "select * from public.lose order by convert_to(a, 'UTF8')"]
    {
        let arrived = pair.target.rows(rows).await;
        assert!(arrived.len() > 1);
        assert_eq!(arrived, pair.source.rows(rows).await);
    }
    assert_eq!(pair.target.value("select obj_description('public.\"größe\"'::regclass)").await, "einhundertfünfzig");
}

#[tokio::test]
async fn t_11_bytes_of_a_source_in_sql_ascii_that_are_not_utf8_are_found_by_the_statement_of_the_error() {
    let pair = Pair::shared_in("SQL_ASCII").await;
    let schema = "
        create table public.t (id int primary key, \"a b\" text, n int);
        insert into public.t values (1, 'ascii', 1), (2, E'\\xc3\\xa9\\xe2\\x82\\xac\\xf0\\x9f\\x90\\x98\\xed\\x9f\\xbf', null), (3, E'caf\\xe9', 3), (4, null, 4), (5, E'\\xc3', 5)";
    pair.source.execute(schema).await;
    let mut migration = Migration::of(&pair);
    let ended = migration.ended_at_once().await;
    ended.assert_code(1);
    let (_, statement) = ended.stderr.split_once("retry: ").expect(&ended.stderr);
    assert_eq!(pair.source.rows(statement.trim()).await, ["(0,3)", "(0,5)"]);
    pair.source.execute("update public.t set \"a b\" = E'caf\\xc3\\xa9' where id in (3, 5)").await;
    migration.cut_over(&pair).await;
    assert_eq!(pair.target.rows("select * from public.t order by id").await, ["1|ascii|1", "2|é€🐘\u{d7ff}|∅", "3|café|3", "4|∅|4", "5|café|5"]);
}

/// A TOML string.
fn toml_string(text: &str) -> String {
    serde_json::to_string(text).unwrap()
}

#[tokio::test]
async fn a_function_that_looks_like_commands_of_psql_is_kept_as_it_is() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.t (id int primary key);
             create function public.f() returns text language sql as $f$ select '\r
\\connect postgres
\\restrict x
-- Name: t; Type: TABLE; Schema: public; Owner: -
;' $f$;
             comment on function public.f() is '
\\connect postgres
--
'",
        )
        .await;
    Migration::of(&pair).cut_over(&pair).await;
    pair.assert_same_schema().await;
    assert_eq!(pair.target.value("select public.f()").await, pair.source.value("select public.f()").await);
}
