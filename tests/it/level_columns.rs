//! The statements that give an empty table of the target the columns that the source's table has by now.

use hyperlift::{
    name::TableName,
    pg::{
        client::{self, Client},
        connect::{conninfo::Conninfo, session::Side},
        dump::repair::normalized,
        level_columns::level_columns,
    },
};

use crate::support::{Database, Pair};

async fn session(database: &Database, side: Side) -> Client {
    client::connect(&Conninfo::parse(&database.uri).unwrap(), side, "hyperlift test").await.unwrap()
}

/// Its schema, each statement in one form: a column that was added is the last.
async fn schema(database: &Database) -> Vec<String> {
    let entries = database.dump(&["--no-owner", "--no-privileges"]).await;
    let statements = entries.iter().filter(|e| !e.contains("timescaledb")).flat_map(|e| e.split(";\n"));
    let mut found: Vec<String> = statements.map(|s| normalized(&s.lines().filter(|l| !l.starts_with("--")).collect::<Vec<_>>().join("\n"))).collect();
    found.sort();
    found
}

/// Makes the tables on both sides, changes those of the source, and gives those of the target the same columns.
async fn assert_follows(before: &str, on_target: &str, changes: &str, tables: &[&str]) {
    let pair = Pair::shared().await;
    for side in [&pair.source, &pair.target] {
        side.execute(before).await;
    }
    pair.target.execute(on_target).await;
    pair.source.execute(changes).await;
    let (source, target) = (session(&pair.source, Side::Source).await, session(&pair.target, Side::Target).await);
    for table in tables {
        let oid: u32 = pair.source.value(&format!("select '{table}'::regclass::oid::text")).await.parse().unwrap();
        let name = TableName::parse(table).unwrap();
        let statements = level_columns(&source, &target, oid, &name).await.unwrap();
        assert!(!statements.is_empty(), "{table} has changed");
        if let Err(e) = target.batch_execute(&format!("begin; {}; commit", statements.join(";\n"))).await {
            panic!("{e:?}\n{}", statements.join(";\n"));
        }
        let more = level_columns(&source, &target, oid, &name).await.unwrap();
        assert!(more.is_empty(), "{table}: {more:#?}");
    }
    let (wanted, found) = (schema(&pair.source).await, schema(&pair.target).await);
    let only = |these: &[String], others: &[String]| these.iter().filter(|s| !others.contains(s)).cloned().collect::<Vec<_>>().join("\n");
    assert!(wanted == found, "only on the source:\n{}\n\nonly on the target:\n{}", only(&wanted, &found), only(&found, &wanted));
}

#[tokio::test]
async fn c_47_an_empty_table_gets_every_kind_of_column() {
    assert_follows(
        r#"create type public.mood as enum ('sad', 'happy'); create sequence public.numbers; create sequence public.once_owned;
           create table public.t (id int not null, name varchar(10) not null default 'x', n int default 7, amount numeric(10, 2), gone text, was_plain int,
               was_stored int generated always as (n * 2) stored, doubled int generated always as (n * 2) stored, "Odd ""name" text, old_identity int generated always as identity,
               counted int not null default nextval('public.once_owned'), folded text, tuned text, flag bool, always_id int generated always as identity,
               constraint t_pkey primary key (id, name), constraint positive check (n > 0), constraint both_are check (amount > n), unique (doubled));
           alter sequence public.once_owned owned by public.t.counted;
           create index t_n on public.t (n) where n > 5; create index t_both on public.t (name varchar_pattern_ops, n); create index t_lower on public.t (lower(name));
           create unique index t_whole on public.t (n); alter table public.t replica identity full; alter table public.t cluster on t_whole;
           create statistics public.s on n, amount from public.t; comment on column public.t.n is 'a number'; comment on index public.t_n is 'partial';
           create view public.v with (security_barrier) as select id, n, name from public.t; create view public.w as select n + 1 as more from public.v;
           comment on view public.v is 'reads n'; comment on column public.w.more is 'one more'; alter view public.v alter column n set default 5;
           create materialized view public.m as select more, count(*) from public.w group by more with no data; create index m_more on public.m (more);
           create function public.total() returns bigint language sql begin atomic select sum(n) from public.t; end;
           create view public.reads_function as select public.total() as total"#,
        "",
        r#"create or replace view public.w as select n + 1 as more, null::int as extra from public.v;
           drop view public.reads_function; drop function public.total(); drop materialized view public.m; drop view public.w; drop view public.v;
           drop statistics public.s; alter table public.t drop column gone, drop column was_stored, drop column doubled, drop constraint positive;
           alter table public.t alter n type bigint, alter amount type numeric(12, 4);
           alter table public.t drop column was_plain; alter table public.t add column was_plain int generated always as (n * 10) stored;
           alter table public.t add was_stored int not null default 3, add doubled bigint generated always as (n * 2) stored; alter table public.t add unique (doubled);
           alter table public.t alter n set default 70000000000, alter name drop default, alter name type text collate "C", alter old_identity drop identity, alter flag set not null;
           alter table public.t add mood public.mood not null default 'sad', add number bigint default nextval('public.numbers'), add serial_too serial, add stamp timestamptz default now();
           alter table public.t add ident bigint not null generated by default as identity (start 500 increment 5);
           alter table public.t alter tuned set storage external, alter tuned set statistics 500, alter tuned set (n_distinct = 5); alter table public.t alter always_id set generated by default;
           alter table public.t drop constraint t_pkey, alter id drop not null; alter table public.t alter folded type char(5), alter "Odd ""name" type varchar;
           comment on column public.t.n is 'a larger number'; comment on column public.t.stamp is 'new';
           create statistics public.s on n, amount from public.t;
           create view public.v with (security_barrier) as select id, n, name from public.t; create view public.w as select n + 1 as more from public.v;
           comment on view public.v is 'reads n'; comment on column public.w.more is 'one more'; alter view public.v alter column n set default 5;
           create materialized view public.m as select more, count(*) from public.w group by more with no data; create index m_more on public.m (more);
           create function public.total() returns bigint language sql begin atomic select sum(n) from public.t; end;
           create view public.reads_function as select public.total() as total"#,
        &["public.t"],
    )
    .await;
}

#[tokio::test]
async fn c_47_partitions_get_the_columns_of_their_root() {
    assert_follows(
        "create table public.p (id int, d date, n int default 1, gone text, code text, constraint p_key primary key (id, d), constraint n_positive check (n > 0)) partition by range (d);
         create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01');
         create table public.p2 (gone text, code text default 'own', n int default 1, d date not null, id int not null, constraint n_positive check (n > 0));
         alter table public.p attach partition public.p2 for values from ('2026-02-01') to ('2026-03-01');
         create table public.p3 partition of public.p for values from ('2026-03-01') to ('2026-05-01') partition by range (d);
         create table public.p31 partition of public.p3 for values from ('2026-03-01') to ('2026-04-01');
         create index p_n on public.p (n, code); create index only_p1 on public.p1 (n) where code <> ''; alter index public.p1_n_code_idx rename to renamed;
         create view public.v as select id, n from public.p; create view public.of_leaf as select n, code from public.p2",
        "",
        "drop view public.v; drop view public.of_leaf; alter table public.p drop column gone; alter table public.p alter n type bigint; alter table public.p alter id type bigint;
         alter table public.p1 alter n set default 9; alter table public.p2 alter n set not null; alter table public.p add total bigint generated always as (n * 2) stored;
         alter table public.p add more int not null default 3; alter table public.p31 alter more drop default;
         create view public.v as select id, n from public.p; create view public.of_leaf as select n, code from public.p2",
        &["public.p"],
    )
    .await;
}

#[tokio::test]
async fn c_47_a_hypertable_keeps_its_time_and_the_form_of_its_keys() {
    let before =
        "create table public.h (id int not null, at timestamptz not null, n int, gone text, was_plain int, constraint h_key primary key (id, at));
         create index h_n on public.h (n); create view public.v as select at, n from public.h";
    let on_target = "create extension timescaledb schema public; select create_hypertable('public.h', 'at', create_default_indexes => false);
         insert into public.h values (1, '2026-01-01'), (2, '2026-03-01'); delete from public.h";
    let changes =
        "drop view public.v; alter table public.h drop column gone, alter n type numeric(10, 2), alter id type bigint, drop column was_plain;
         alter table public.h add was_plain numeric generated always as (n * 2) stored, add more text default 'x' not null, alter n set default 5;
         alter table public.h add no bigint generated always as identity; create view public.v as select at, n from public.h";
    if !hyperlift::demo::servers::Programs::newest().unwrap().has_timescale() {
        return;
    }
    assert_follows(before, on_target, changes, &["public.h"]).await;
}

#[tokio::test]
async fn c_47_the_time_of_a_hypertable_is_not_dropped() {
    if !hyperlift::demo::servers::Programs::newest().unwrap().has_timescale() {
        return;
    }
    let pair = Pair::shared().await;
    let table = "create table public.h (at timestamptz not null, n int)";
    pair.source.execute(table).await;
    pair.target.execute(&format!("{table}; create extension timescaledb schema public; select create_hypertable('public.h', 'at')")).await;
    let (source, target) = (session(&pair.source, Side::Source).await, session(&pair.target, Side::Target).await);
    let oid: u32 = pair.source.value("select 'public.h'::regclass::oid::text").await.parse().unwrap();
    for change in ["alter table public.h alter at type bigint using 1", "alter table public.h rename at to stamp"] {
        pair.source.execute(change).await;
        let refused = level_columns(&source, &target, oid, &TableName::new("public", "h")).await.unwrap_err();
        assert!(refused.message.contains("column at of public.h is the time of a hypertable"), "{refused}");
    }
}
