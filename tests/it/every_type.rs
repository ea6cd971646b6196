//! T-8, T-12: columns of every type that PostgreSQL and its modules can make, alone and in arrays, domains, rows and ranges, are replayed: as
//! a primary key, as the index of a replica identity, and under REPLICA IDENTITY FULL.

use hyperlift::{
    demo::servers::Programs,
    event::{Answer, Stage},
    name::{TableName, ident, literal},
    pg::{
        catalog,
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        target_table,
    },
    replay::statements,
};
use std::{collections::HashMap, fmt::Write as _};

use crate::support::{Database, InProcess, Migration, Pair};

/// Values of each type without elements: `type: value | value | …`, with `-` for a type that accepts none.
const VALUES: &str = include_str!("every_type/values.txt");

/// What has to be there before the values.
const BEFORE: &str = "
    create schema app;
    create table app.\"Thing\" (id int primary key);
    create function app.act(int) returns int language sql as 'select 1';
    create type public.mood as enum ('sad', 'it''s, \"ok\"', 'happy')";

/// A type of the source from which others are made.
struct Element {
    /// With its schema.
    name: String,
    values: Vec<&'static str>,
    /// Has a default B-tree operator class: it can be a key, and have ranges.
    ordered: bool,
}

/// Installs every module that brings a type. What none of them brings is not needed.
async fn create_extensions(source: &Database) {
    let available = "select name from pg_available_extensions where name not in ('timescaledb', 'plpgsql') order by 1";
    let session = source.session().await;
    for name in source.rows(available).await {
        let name = ident(&name);
        // Some need a library that is loaded at the start of the server.
        if session.batch_execute(&format!("create extension if not exists {name} with schema public cascade")).await.is_err() {
            continue;
        }
        let types = format!(
            "select from pg_depend d join pg_type t on t.oid = d.objid
              where d.classid = 'pg_type'::regclass and d.refclassid = 'pg_extension'::regclass and d.deptype = 'e' and t.typtype in ('b', 'd', 'e', 'r')
                and d.refobjid = (select oid from pg_extension where extname = '{}')",
            name.trim_matches('"')
        );
        if session.query(&types, &[]).await.unwrap().is_empty() {
            session.batch_execute(&format!("drop extension {name} cascade")).await.unwrap();
        }
    }
}

/// Every type that is not made of others, with its values.
async fn elements(source: &Database) -> Vec<Element> {
    let types = "
        select format('%I.%I', n.nspname, t.typname) || '|' || t.typname || '|' || exists (
               select from pg_opclass o join pg_am m on m.oid = o.opcmethod and m.amname = 'btree'
                where o.opcdefault and (o.opcintype = t.oid or t.typtype in ('e', 'r', 'm')
                   or o.opcintype = t.typbasetype
                   or exists (select from pg_cast c where c.castsource = t.oid and c.casttarget = o.opcintype and c.castmethod = 'b' and c.castcontext = 'i')))
          from pg_type t join pg_namespace n on n.oid = t.typnamespace
         where t.typtype in ('b', 'd', 'e', 'r', 'm') and n.nspname in ('pg_catalog', 'public')
           and not exists (select from pg_type e where e.typarray = t.oid)
         order by t.oid";
    let known: HashMap<&str, Vec<&'static str>> =
        VALUES.lines().filter_map(|line| line.split_once(": ")).map(|(name, values)| (name, values.split(" | ").collect())).collect();
    let mut found = Vec::new();
    for row in source.rows(types).await {
        let parts: Vec<&str> = row.split('|').collect();
        let [name, bare, ordered] = parts[..] else { panic!("{row}") };
        let values = known.get(bare).unwrap_or_else(|| panic!("no value of type {name}: add some to every_type/values.txt"));
        if values[..] == ["-"] {
            let refused = source.session().await.batch_execute(&format!("select ''::{name}")).await.unwrap_err();
            let message = refused.as_db_error().map(|e| e.message().to_lowercase()).unwrap_or_default();
            assert!(message.contains("cannot accept a value") || message.contains("not implemented"), "{name} has values: {message}");
            continue;
        }
        found.push(Element { name: name.to_owned(), values: values.clone(), ordered: ordered == "true" });
    }
    found
}

/// Of an element: what is made of it, as columns of a table.
struct Columns {
    /// `name type`
    definitions: Vec<String>,
    /// For each value of the element, the values of the columns.
    rows: Vec<Vec<String>>,
}

/// Makes domains, rows and ranges of an element. `n` is its number.
fn derive(element: &Element, n: usize, sql: &mut String) -> Columns {
    let t = &element.name;
    writeln!(
        sql,
        "create domain public.d{n} as {t}; create domain public.dd{n} as public.d{n} check (value is distinct from null or true);
         create type public.c{n} as (a {t}, b {t}[], d public.dd{n}); create domain public.dc{n} as public.c{n};
         create type public.cc{n} as (c public.dc{n}, cs public.c{n}[]);"
    )
    .unwrap();
    let mut definitions = vec![
        format!("a {t}"),
        format!("b {t}[]"),
        format!("d public.dd{n}"),
        format!("e public.dd{n}[]"),
        format!("c public.c{n}"),
        format!("f public.c{n}[]"),
        format!("g public.dc{n}"),
        format!("h public.cc{n}"),
    ];
    let row_of = |value: &&str| {
        let v = literal(value);
        let c = format!("row({v}, array[{v}, null]::{t}[], {v})::public.c{n}");
        vec![
            format!("{v}::{t}"),
            format!("array[{v}, null, {v}]::{t}[]"),
            format!("{v}::public.dd{n}"),
            format!("array[{v}]::public.dd{n}[]"),
            c.clone(),
            format!("array[{c}, null]"),
            c.clone(),
            format!("row({c}, array[{c}])::public.cc{n}"),
        ]
    };
    let mut rows: Vec<Vec<String>> = element.values.iter().map(row_of).collect();
    if element.ordered {
        writeln!(sql, "create type public.r{n} as range (subtype = {t}, multirange_type_name = public.m{n});").unwrap();
        definitions.extend([format!("r public.r{n}"), format!("m public.m{n}"), format!("s public.r{n}[]")]);
        for (row, value) in rows.iter_mut().zip(&element.values) {
            let range = format!("public.r{n}({0}::{t}, {0}::{t}, '[]')", literal(value));
            row.extend([range.clone(), format!("public.m{n}({range})"), format!("array[{range}]")]);
        }
    }
    Columns { definitions, rows }
}

/// How rows of a table are found.
#[derive(Clone, Copy, PartialEq)]
enum Identity {
    PrimaryKey,
    Index,
    Full,
}

/// The names of the columns, each after a comma.
fn names(columns: &Columns) -> String {
    columns.definitions.iter().fold(String::new(), |list, d| format!("{list}, {}", d.split(' ').next().unwrap_or_default()))
}

/// A table with 40 rows, whose `n` is different in each.
fn table(name: &str, columns: &Columns, identity: Identity, sql: &mut String) {
    let not_null = if identity == Identity::Index { " not null" } else { "" };
    let list = columns.definitions.iter().fold(String::new(), |list, d| format!("{list}, {d}{not_null}"));
    writeln!(sql, "create table public.{name} (n int not null{list}, v text);").unwrap();
    for (i, row) in columns.rows.iter().enumerate() {
        let each = columns.rows.len();
        writeln!(sql, "insert into public.{name} select n, {}, 'v' from generate_series({i}, 39, {each}) n;", row.join(", ")).unwrap();
    }
    let names = names(columns);
    match identity {
        Identity::PrimaryKey => writeln!(sql, "alter table public.{name} add primary key (n{names});"),
        Identity::Index => writeln!(
            sql,
            "create unique index {name}_u on public.{name} (n{names}); alter table public.{name} replica identity using index {name}_u;"
        ),
        Identity::Full => {
            let nulls = ", null".repeat(columns.definitions.len());
            // Twins, a row of NULLs, and rows of NULLs in a row that is not.
            writeln!(
                sql,
                "alter table public.{name} replica identity full;
                 insert into public.{name} table public.{name};
                 insert into public.{name} (n, c, g) values (100, row(null, null, null), row(null, null, null)), (100, row(null, null, null), null);
                 insert into public.{name} select 100{nulls}, null from generate_series(1, 3);"
            )
        }
    }
    .unwrap();
}

/// A few changes, which are applied one by one; and many, which are sets where rows have a key.
fn changes(name: &str, identity: Identity) -> (String, String) {
    if identity == Identity::Full {
        let one = "(select min(ctid) from public.$ where n";
        let few = "update public.$ set v = 'changed' where n = 1; delete from public.$ where ctid = $ONE = 2);
             update public.$ set v = 'null' where ctid = (select min(ctid) from public.$ where n = 100 and c is not distinct from null);
             delete from public.$ where ctid = (select min(ctid) from public.$ where n = 100 and c is distinct from null);";
        return (few.replace("$ONE", one).replace('$', name), format!("update public.{name} set n = n + 200 where n between 3 and 8;"));
    }
    let few = "update public.$ set v = 'changed' where n = 1; delete from public.$ where n = 2; update public.$ set n = -n where n in (3, 4);";
    (few.replace('$', name), format!("update public.{name} set v = v || '!'; delete from public.{name} where n > 20;"))
}

/// The plan of a statement for any parameters, when no table is read as a whole.
async fn plan(target: &Client, sql: &str) -> String {
    let parameters = (1..=100).take_while(|n| sql.contains(&format!("${n}"))).map(|_| "null").collect::<Vec<_>>();
    let list = if parameters.is_empty() { String::new() } else { format!("({})", parameters.join(", ")) };
    target
        .batch_execute(&format!("deallocate all; set enable_seqscan = off; set enable_mergejoin = off; set enable_hashjoin = off; set plan_cache_mode = force_generic_plan; prepare p as {sql}"))
        .await
        .unwrap_or_else(|e| panic!("{e}: {sql}"));
    let rows = target.query(&format!("explain (costs off) execute p{list}"), &[]).await.unwrap();
    rows.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>().join("\n")
}

/// The casts of the conditions change no value, so that all of them are conditions of the index.
async fn assert_found_by_index(pair: &Pair) {
    let open = async |database: &Database, side| client::connect(&Conninfo::parse(&database.uri).unwrap(), side, "test").await.unwrap();
    let (source, target) = (open(&pair.source, Side::Source).await, open(&pair.target, Side::Target).await);
    let relations = catalog::relations(&source).await.unwrap();
    let tables: Vec<TableName> = relations.iter().map(|r| r.table.clone()).collect();
    let shapes = target_table::target_tables(&target, &tables, false).await.unwrap();
    let mut seen = 0;
    for relation in relations.iter().filter(|r| r.identity != 'f' && r.table.schema == "public") {
        for sql in statements::of_table(relation, &shapes[&relation.table], false).unwrap().iter().filter(|s| s.contains(" where ")) {
            let plan = plan(&target, sql).await;
            assert!(plan.contains("Index Cond") && !plan.contains("Filter"), "{}: {sql}\n{plan}", relation.table);
            seen += 1;
        }
    }
    assert!(seen > 100, "{seen} plans");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_12_every_type_is_replayed_by_key_by_index_and_by_the_whole_row() {
    let pair = Pair::shared().await;
    let source = &pair.source;
    source.execute(BEFORE).await;
    create_extensions(source).await;
    let name = source.value("select current_database()").await;
    // Names of objects print without a schema where replay's transactions set this path, and with one in the stream.
    source.execute(&format!("alter database {} set search_path = app, public", ident(&name))).await;
    let (mut sql, mut few, mut many) = (String::new(), String::new(), String::new());
    for (n, element) in elements(source).await.iter().enumerate() {
        let columns = derive(element, n, &mut sql);
        // Each key is a primary key or an index; with either of them replay takes the operators from the index.
        let key = if n % 2 == 0 { ("p", Identity::PrimaryKey) } else { ("i", Identity::Index) };
        let identities = [Some(("f", Identity::Full)), element.ordered.then_some(key)];
        for (prefix, identity) in identities.into_iter().flatten() {
            let name = format!("{prefix}{n}");
            table(&name, &columns, identity, &mut sql);
            let changes = changes(&name, identity);
            few.push_str(&changes.0);
            many.push_str(&changes.1);
        }
    }
    source.execute(&sql).await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    for changes in [few, many] {
        source.execute(&changes).await;
        migration.level_with(source).await;
    }
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_found_by_index(&pair).await;
}

/// Keys with operator classes that are not the default of their type, application's types and operators with names of built-in ones, and
/// values whose text is empty or whose fields are all NULL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_9_a_row_is_found_by_the_operators_of_its_key_whatever_the_application_has_named() {
    let pair = Pair::shared().await;
    let name = pair.source.value("select current_database()").await;
    pair.source.execute(&format!("alter database {} set search_path = app, public, pg_catalog", ident(&name))).await;
    pair.source.session().await.batch_execute(include_str!("every_type/keys.sql")).await.unwrap();
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let session = pair.source.session().await;
    for change in include_str!("every_type/changes.sql").split_inclusive(";\n") {
        session.batch_execute(change).await.unwrap();
    }
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn t_12_a_table_whose_changes_the_target_cannot_take_is_named_before_the_slot_is_made() {
    if !Programs::newest().unwrap().has_timescale() {
        return;
    }
    let pair = Pair::shared().await;
    pair.source
        .execute("create table public.fits (id int primary key, v text); create table public.lacks (id int primary key, v text, w text)")
        .await;
    let mut migration = InProcess::start(&pair, &[], |config| (config.interactive, config.yes) = (true, false));
    for stage in [Stage::Preflight, Stage::Identity, Stage::Hypertables] {
        let asked = migration.until(|s| s.prompts.shown().is_some_and(|p| p.stage == stage && p.blocked_by.is_none())).await;
        if stage == Stage::Hypertables {
            pair.target.execute("alter table public.lacks drop column w").await;
        }
        migration.answer(asked.prompts.shown().unwrap().id, Answer::Continue).await;
    }
    let error = migration.ended().await.unwrap_err();
    let text = format!("{error}; {}", error.hint.clone().unwrap_or_default());
    assert!(
        error.exit_code() == 3 && text.contains("public.lacks: column \"w\"") && text.contains("insert-only") && !text.contains("public.fits"),
        "{text}"
    );
    assert!(pair.source.rows("select slot_name from pg_replication_slots where database = current_database()").await.is_empty(), "a slot is left");
}
