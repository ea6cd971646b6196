//! Objects are created in an order in which each finds what it needs: pg_dump has one, and a live migration needs another one.

use hyperlift::{
    event::{Event, IndexProgress, Level, Stage},
    migration::restore::refuse_uncovered,
    name::TableName,
    pg::{
        catalog, client,
        connect::{conninfo::Conninfo, session::Side},
        dump::{Phase, Schema},
    },
};

use crate::support::{Migration, Pair, migrated_with_changes, until};

/// Tables that need a key of another table, each in another way. pg_dump writes them after that key.
const NEEDING_A_KEY: &str = "
    create table public.customer (id int primary key, name text not null, region text);
    insert into public.customer select i, 'name ' || i, 'r' || i % 3 from generate_series(1, 50) i;
    create function public.n(i int) returns text language sql stable
        begin atomic select (select name from public.customer c where c.id = i group by c.id); end;
    create function public.plus_none(i int) returns int language sql immutable
        begin atomic select i + (select count(*)::int * 0 from (select name from public.customer c group by c.id) x); end;
    create table public.a_default (id int primary key, c text default public.n(1), s serial);
    insert into public.a_default (id) values (1), (2);
    create table public.a_child (extra int) inherits (public.a_default); alter table public.a_child replica identity full;
    insert into public.a_child (id, extra) values (7, 1);
    create table public.a_identity (id bigint generated always as identity primary key, c text default public.n(2));
    insert into public.a_identity (c) select 'x' || i from generate_series(1, 20) i;
    create table public.a_part (id int primary key, c text default public.n(3)) partition by range (id);
    create table public.a_part_1 partition of public.a_part for values from (0) to (100);
    create table public.a_part_2 partition of public.a_part default;
    insert into public.a_part select i from generate_series(1, 200) i;
    create table public.a_generated (id int primary key, g int generated always as (public.plus_none(id)) stored);
    insert into public.a_generated select i from generate_series(1, 10) i; create index on public.a_generated (g);
    create domain public.known as int check (public.n(value) is not null or value > 0);
    create table public.a_domain (id public.known primary key, note text); insert into public.a_domain values (1, 'a'), (2, 'b');
    create view public.v_customer as select c.id, c.name, count(*) as n from public.customer c group by c.id;
    create table public.a_row (id int primary key, v public.v_customer); insert into public.a_row values (1, row(1, 'x', 2));
    create unlogged table public.a_unlogged (id int primary key, c text default public.n(4));
    alter table public.a_default alter column c set statistics 500; comment on column public.a_default.c is 'late';
    create index on public.a_default (lower(c)); create index on public.a_default (public.plus_none(id));";

/// Views that need a key, and what needs those views.
const LATE_VIEWS: &str = "
    create materialized view public.m1 as select c.id, c.name, c.region, count(*) as total from public.customer c group by c.id;
    create unique index m1_id on public.m1 (id); create index m1_name on public.m1 (lower(name)) where total > 0;
    alter materialized view public.m1 cluster on m1_id; alter index public.m1_name alter column 1 set statistics 333;
    comment on index public.m1_id is 'of a late view'; comment on materialized view public.m1 is 'late';
    create statistics public.m1_st (ndistinct) on name, region from public.m1; comment on statistics public.m1_st is 'st';
    create view public.v1 as select * from public.m1 where total > 0; comment on view public.v1 is 'on a late one';
    create materialized view public.m2 as select region, count(*) as n from public.v1 group by region; create unique index on public.m2 (region);
    create materialized view public.m3 as select * from public.m2 with no data; create index on public.m3 (n);
    create rule v_ins as on insert to public.v_customer do instead insert into public.customer values (new.id, new.name);
    alter view public.v_customer alter column name set default 'nobody';
    create function public.rows_of_v() returns setof public.v_customer language sql stable begin atomic select * from public.v_customer; end;
    create function public.upsert(i int) returns void language sql
        begin atomic insert into public.customer (id, name) values (i, '') on conflict on constraint customer_pkey do nothing; end;";

#[tokio::test]
async fn b_26_what_needs_a_key_is_created_after_it_and_what_tables_need_before_the_copy() {
    let changes = [
        "insert into public.customer values (51, 'late', 'r9'); update public.customer set name = 'changed' where id = 3",
        "insert into public.a_default (id) values (3); insert into public.a_part values (300); insert into public.a_domain values (51, 'late')",
        "delete from public.a_identity where id = 1",
    ];
    let pair = migrated_with_changes(&format!("{NEEDING_A_KEY}{LATE_VIEWS}"), "", &changes).await;
    pair.assert_same_schema().await;
    assert_eq!(pair.target.value("select count(*) from public.m1").await, "51", "it is refreshed");
}

#[tokio::test]
async fn b_27_checks_that_read_other_tables_are_added_at_the_cutover_and_validated() {
    let schema = "
        create table public.z_account (id int primary key, open boolean not null);
        insert into public.z_account select i, true from generate_series(1, 100) i;
        create function public.is_open(a int) returns boolean language plpgsql as
            $$ begin return exists (select from public.z_account where id = a and open); end $$;
        create function public.same(a int, b int) returns boolean language sql as 'select $1 = $2 and public.is_open($1)';
        create operator public.=== (leftarg = int, rightarg = int, function = public.same);
        create table public.a_booking (id int primary key, account int constraint open_account check (public.is_open(account)), n int check (n > 0),
                                       constraint by_operator check (account operator(public.===) account));
        insert into public.a_booking select i, 1 + i % 100, i from generate_series(1, 500) i;
        comment on constraint open_account on public.a_booking is 'reads another table';
        create table public.a_child (constraint child_only check (public.is_open(account)) no inherit) inherits (public.a_booking);
        alter table public.a_child replica identity full; insert into public.a_child values (1001, 5, 5);
        create table public.a_part (id int primary key, account int, constraint open_account check (public.is_open(account))) partition by list (id);
        create table public.a_part_1 partition of public.a_part for values in (1, 2, 3);
        create table public.a_part_2 partition of public.a_part (constraint more check (public.is_open(account + 0))) default;
        insert into public.a_part select i, i from generate_series(1, 10) i;
        create table public.a_not_valid (id int primary key, c int); insert into public.a_not_valid values (1, 999);
        alter table public.a_not_valid add constraint nv check (public.is_open(c)) not valid;
        create function public.rate(i int) returns boolean language sql immutable begin atomic select (select open from public.z_account z where z.id = i); end;
        create index on public.a_booking (public.rate(account)); create unique index on public.a_booking (id, public.rate(account));
        create table public.a_room (id int primary key, during int4range, a int, exclude using gist (during with &&) where (public.rate(a)));
        insert into public.a_room values (1, '[1,5)', 20), (2, '[7,8)', 1)";
    let changes = [
        "begin; insert into public.z_account values (101, true); insert into public.a_booking values (501, 101, 1); commit",
        "begin; insert into public.z_account values (102, true); insert into public.a_part values (102, 102); commit",
        "update public.a_booking set account = 101 where id = 3",
    ];
    let pair = migrated_with_changes(schema, "", &changes).await;
    pair.assert_same_schema().await;
    // They would be missing if the function had been called before z_account was there.
    let found = "set enable_seqscan = off; select count(*) from public.a_booking where public.rate(account) and id between 10 and 500";
    let counts = pair.target.session().await.simple_query(found).await.unwrap();
    let count = counts.iter().find_map(|m| if let tokio_postgres::SimpleQueryMessage::Row(row) = m { row.get(0) } else { None });
    assert_eq!(count, Some("491"));
}

#[tokio::test]
async fn r_16_an_object_that_exists_already_is_done_if_it_is_as_on_the_source() {
    let pair = Pair::shared().await;
    let schema = "
        create table public.c (id int primary key, name text); insert into public.c select i, 'n' || i from generate_series(1, 20) i;
        create function public.gate(n int) returns int language plpgsql immutable as
            $$ begin perform pg_catalog.pg_advisory_xact_lock_shared(42); return n; end $$;
        create table public.t (id int primary key); insert into public.t values (1); create index on public.t (public.gate(id));
        create materialized view public.m as select id, name from public.c group by id; create unique index m_id on public.m (id);
        create function public.late(i int) returns text language sql begin atomic select (select name from public.c where id = i group by id); end;
        create statistics public.st on id, name from public.m";
    pair.source.execute(schema).await;
    let gate = pair.target.session().await;
    gate.batch_execute("select pg_advisory_lock(42)").await.unwrap();
    let mut migration = Migration::of(&pair);
    migration.start_with_cutover();
    let built = |e: &Event| matches!(e, Event::IndexProgress(IndexProgress { table, done: 1, .. }) if table.name == "c");
    migration.event("the key", built).await;
    pair.target.execute("create materialized view public.m as select id, name from public.c group by id with no data").await;
    pair.target
        .execute("create unique index m_id on public.m (id); create function public.late(i int) returns text language sql as 'select null::text'")
        .await;
    gate.batch_execute("select pg_advisory_unlock(42)").await.unwrap();
    let ended = migration.ended().await;
    ended.assert_code(1);
    assert!(ended.stderr.contains("FUNCTION public.late(integer)") && ended.stderr.contains("it is not as on the source"), "{}", ended.stderr);
    assert!(ended.stderr.contains("drop it on the target, then retry"), "{}", ended.stderr);
    pair.target.execute("drop function public.late(int)").await;
    let ended = migration.cut_over(&pair).await;
    let exists = |name: &str| format!("{name} exists already, as on the source");
    for object in ["MATERIALIZED VIEW public.m", "INDEX public.m_id"] {
        assert!(ended.events.iter().any(|e| matches!(e, Event::Notice { level: Level::Info, text } if *text == exists(object))), "{object}");
    }
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn b_26_a_table_or_a_sequence_that_the_copy_does_not_know_is_refused() {
    let pair = Pair::shared().await;
    pair.source
        .execute("create table public.p (id serial primary key) partition by range (id); create table public.leaf partition of public.p default")
        .await;
    let source = client::connect(&Conninfo::parse(&pair.source.uri).unwrap(), Side::Source, "hyperlift/test").await.unwrap();
    let relations = catalog::relations(&source).await.unwrap();
    let refused = async |tables: &[(&str, Phase)], sequences: &[&str]| {
        let public = |name: &&str| TableName::new("public", *name);
        let tables = tables.iter().map(|(name, phase)| (public(name), *phase)).collect();
        let schema = Schema { tables, sequences: sequences.iter().map(public).collect(), ..Schema::default() };
        refuse_uncovered(&source, &schema, &relations).await.err().map(|e| e.message)
    };
    let known = [("p", Phase::PreData), ("leaf", Phase::PreData)];
    assert_eq!(refused(&known, &["p_id_seq"]).await, None);
    let message = |what: &str| Some(format!("{what} would be created on the target, but hyperlift would not copy what it holds"));
    assert_eq!(refused(&[("other", Phase::PreData)], &[]).await, message("table public.other"));
    assert_eq!(refused(&[("leaf", Phase::PostIndex)], &[]).await, message("table public.leaf"), "it would be created after the copy");
    assert_eq!(refused(&known, &["p_id_seq", "s"]).await, message("sequence public.s"));
}

#[tokio::test]
async fn n_11_schemas_and_publications_may_have_any_names() {
    let pair = Pair::shared().await;
    let schema = "
        create schema timescaledb_lib; create schema \"_timescaledb_Lib x\"; create schema hyperlift; create schema _hyperliftx;
        create table timescaledb_lib.p (id int, d date, primary key (id, d)) partition by range (d);
        create table public.p1 partition of timescaledb_lib.p for values from ('2020-01-01') to ('2021-01-01');
        create table \"_timescaledb_Lib x\".p2 partition of timescaledb_lib.p default;
        insert into timescaledb_lib.p select i, date '2020-06-01' + i from generate_series(1, 400) i;
        create table timescaledb_lib.meter (id serial primary key, v text); insert into timescaledb_lib.meter (v) select 'v' || i from generate_series(1, 99) i;
        create table public.ref (id int primary key, m int references timescaledb_lib.meter (id)); insert into public.ref select i, i from generate_series(1, 50) i;
        create table hyperlift.t (id int primary key); create table _hyperliftx.lane (id int primary key); create sequence _timescaledb_none.s;
        create publication hyperlift_feed for table public.ref; create publication hyperlift_abc123 for table timescaledb_lib.meter";
    pair.source.execute("create schema _timescaledb_none").await;
    pair.source.execute(schema).await;
    let filtered = pair.second_target().await;
    let mut migration = Migration::of(&pair).arguments(&["--publications"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source
        .execute(
            "insert into timescaledb_lib.p values (9000, '2020-02-02'), (9001, '1999-01-01'); update timescaledb_lib.meter set v = 'u' where id < 10",
        )
        .await;
    pair.source.execute("insert into hyperlift.t values (2); insert into _hyperliftx.lane values (2); select nextval('_timescaledb_none.s')").await;
    migration.level_with(&pair.source).await;
    // The publications of this migration, which runs, are not those of the application.
    let mut other = Migration::between(&pair.source.uri, &filtered.uri).arguments(&["--include", "schema:timescaledb_lib", "--publications"]);
    other.start();
    other.stage(Stage::CatchUp).await;
    assert_eq!(filtered.value("select count(*) from timescaledb_lib.meter").await, "99");
    migration.stop().await.assert_code(4);
    migration.start_with_cutover();
    migration.ended().await.assert_code(0);
    other.stop().await.assert_code(4);
    other.start_with_cutover();
    other.ended().await.assert_code(0);
    pair.assert_equal().await;
    let publications = "select pubname, schemaname, tablename from pg_publication_tables order by 1, 2, 3";
    assert_eq!(pair.source.rows(publications).await, pair.target.rows(publications).await);
    assert_eq!(filtered.rows(publications).await, ["hyperlift_abc123|timescaledb_lib|meter"]);
    until("the end of both", async || {
        pair.source.rows("select from pg_publication where pubname ~ '^hyperlift_.*(only|[0-9a-z]{6})$'").await.len() == 1
    })
    .await;
}

#[tokio::test]
async fn n_12_settings_of_either_database_change_nothing_that_arrives() {
    let pair = Pair::shared().await;
    let schema = r#"
        create type public.class as enum ('App\Order', 'App\Invoice', 'it''s');
        create table public.poly (id int primary key, kind public.class default 'App\Order', path text default 'C:\temp' check (path <> 'a\b'),
                                  m money default '1234.56', a text[] default '{NULL,"x\\y"}', x xml default '<a/>', b bytea default '\x00ff5c');
        insert into public.poly (id) select i from generate_series(1, 40) i;
        comment on table public.poly is 'path \d+ and C:\new';
        create view public.v as select id, path || '\x' as p, path ~ '\d+$' as digits, m = '12.50'::money as cheap from public.poly;
        create index on public.poly ((path || '\i')) where kind = 'App\Order'; create policy pol on public.poly using (path <> '\p');
        create function public.dflt(t text default 'x\y') returns text language plpgsql as $f$ begin return t; end $f$;
        create table public."back\slash" (id int primary key); insert into public."back\slash" values (1)"#;
    pair.source.execute(schema).await;
    pair.target.execute("create access method other_heap type table handler heap_tableam_handler").await;
    let both = [
        "standard_conforming_strings = off",
        "escape_string_warning = off",
        "array_nulls = off",
        "transform_null_equals = on",
        "datestyle = 'German, DMY'",
        "intervalstyle = sql_standard",
        "xmloption = document",
        "default_transaction_isolation = serializable",
        "default_transaction_read_only = on",
        "statement_timeout = '10s'",
        "search_path = pg_catalog",
    ];
    for (side, settings) in [(&pair.source, &both[..]), (&pair.target, &[&both[..], &["default_table_access_method = other_heap"]].concat())] {
        let name = side.value("select current_database()").await;
        for setting in settings {
            side.execute(&format!("begin read write; alter database {name} set {setting}; commit")).await;
        }
    }
    // The options of the URI hold besides hyperlift's own.
    let options = "options=-c%20standard_conforming_strings%3Doff%20-c%20search_path%3Dnone";
    let separator = |uri: &str| if uri.contains('?') { '&' } else { '?' };
    let with_options = |uri: &str| format!("{uri}{}{options}", separator(uri));
    let mut migration = Migration::between(&with_options(&pair.source.uri), &with_options(&pair.target.uri));
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let changes = [
        r"insert into public.poly values (41, 'App\Invoice', 'E:\late', 5, array[null, 'NULL', 'a\b'])",
        r"update public.poly set kind = 'App\Invoice', a = array[null]::text[] where id = 1",
        r#"insert into public."back\slash" values (2)"#,
    ];
    for change in changes {
        let session = pair.source.session().await;
        session.batch_execute("set standard_conforming_strings = on; set array_nulls = on").await.unwrap();
        session.batch_execute(&format!("begin read write; {change}; commit")).await.unwrap();
    }
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    for side in [&pair.source, &pair.target] {
        let name = side.value("select current_database()").await;
        side.execute(&format!("begin read write; alter database {name} reset all; commit")).await;
    }
    pair.assert_equal().await;
    let other = "select relname from pg_class where relam = (select oid from pg_am where amname = 'other_heap')";
    assert!(pair.target.rows(other).await.is_empty());
    pair.target.execute("drop access method other_heap").await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn n_3_comments_and_persistence_stay_with_their_own_objects() {
    let schema = "
        create table public.u (id int constraint k primary key, v int); insert into public.u select i, i from generate_series(1, 10) i;
        create table public.t (id int primary key, a int); insert into public.t select i, i from generate_series(1, 10) i;
        alter table public.t add constraint k foreign key (a) references public.u (id);
        comment on constraint k on public.t is 'a foreign key'; comment on constraint k on public.u is 'a primary key';
        create table public.w (id int primary key, a int constraint k check (a > 0)); comment on constraint k on public.w is 'a check';
        create function public.ok(i int) returns boolean language sql as 'select true';
        create table public.x (id int primary key, a int constraint k check (public.ok(a))); comment on constraint k on public.x is 'a late check';
        create unlogged table public.ul (id int generated always as identity primary key, v int); insert into public.ul (v) values (1), (2);
        alter sequence public.ul_id_seq set logged;
        create table public.lo (id int generated always as identity (start 5 increment 3 maxvalue 1000 cycle) primary key, v int);
        alter sequence public.lo_id_seq set unlogged; create unlogged sequence public.us;
        create table public.\"generated\" (\"always\" int generated always as identity primary key, generated int)";
    let pair = migrated_with_changes(schema, "", &["insert into public.generated (generated) values (1)"]).await;
    pair.assert_same_schema().await;
}
