//! A source that is altered while it is moved: functions, indexes, constraints, partitions and sequences. The target follows, or the
//! migration says what is different and ends with another exit code.

use hyperlift::event::{CutoverStep, Event, Stage};

use crate::support::{Ended, Migration, Pair};

/// Runs into catch-up, makes the changes, and cuts over without an operator.
async fn altered(schema: &str, changes: &[&str], arguments: &[&str]) -> (Pair, Ended) {
    let pair = Pair::shared().await;
    pair.source.execute(schema).await;
    let mut migration = Migration::of(&pair).arguments(arguments);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    for change in changes {
        pair.source.execute(change).await;
    }
    let ended = migration.ended().await;
    (pair, ended)
}

/// The objects that the report names as different.
fn different(ended: &Ended) -> Vec<&str> {
    ended.events.iter().filter_map(|e| if let Event::NotMoved { object, .. } = e { Some(object.as_str()) } else { None }).collect()
}

/// The tables that were copied in catch-up.
fn copied_again(ended: &Ended) -> Vec<&str> {
    ended.events.iter().filter_map(|e| if let Event::TableLeft { table, .. } = e { Some(table.name.as_str()) } else { None }).collect()
}

#[tokio::test]
async fn c_35_what_a_deployment_changes_arrives() {
    let (pair, ended) = altered(
        "create table public.item (id int primary key, code text, n int default 1, email text unique);
         insert into public.item select i, 'c' || i, i, 'm' || i from generate_series(1, 300) i;
         create type public.state as enum ('new', 'done'); create domain public.short as text check (length(value) < 5);
         create table public.task (id int primary key, s public.state not null, t public.short);
         create function public.rate() returns int language sql as 'select 1';
         create view public.v_item as select id, code from public.item; create view public.gone as select 1 as one;
         create index item_code on public.item (code); create policy p_all on public.item using (true);
         create function public.loud() returns trigger language plpgsql as 'begin raise exception ''dropped on the source''; end';
         create trigger loud before insert on public.item for each row execute function public.loud();
         alter table public.item disable trigger loud",
        &[
            "create unique index item_code_u on public.item (code)",
            "drop index public.item_code; drop view public.gone; drop trigger loud on public.item; drop function public.loud()",
            "create or replace function public.rate() returns int language sql as 'select 2'",
            "create or replace view public.v_item as select id, code, n from public.item",
            "create function public.stamp() returns trigger language plpgsql as $$ begin new.n := coalesce(new.n, 0); return new; end $$;
             create trigger stamp before insert on public.item for each row execute function public.stamp()",
            "alter table public.item alter column n set default 7, alter column code set not null, add constraint item_n check (n >= 0)",
            "drop policy p_all on public.item; alter table public.item enable row level security; comment on table public.item is 'altered'",
            // Refused by the target until it has followed.
            "alter table public.item drop constraint item_email_key; update public.item set email = 'same' where id in (1, 2)",
            "alter type public.state add value 'paused' before 'done'",
            "alter domain public.short drop constraint short_check; insert into public.task values (1, 'paused', 'much longer')",
            "alter table public.task add column total int generated always as (id * 10) stored; insert into public.item (id, code) values (301, 'late')",
        ],
        &[],
    )
    .await;
    ended.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    pair.assert_untouched().await;
}

#[tokio::test]
async fn c_35_changes_that_the_target_lacks_are_waited_for_or_accepted_by_name() {
    let schema = "create table public.t (id int primary key); insert into public.t values (1); create function public.f() returns int language sql as 'select 1'";
    let change = "create or replace function public.f() returns int language sql as 'select 2'";
    let (pair, ended) = altered(schema, &[change], &["--follow-ddl", "ask", "--accept-schema-changes"]).await;
    ended.assert_code(5);
    assert_eq!(different(&ended), ["FUNCTION public.f()"]);
    assert_eq!(pair.target.value("select public.f()").await, "1");

    let pair = Pair::shared().await;
    pair.source.execute(schema).await;
    let mut migration = Migration::of(&pair).arguments(&["--follow-ddl", "ask"]);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute(change).await;
    let named = |e: &Event| matches!(e, Event::Notice { text, .. } if text.contains("FUNCTION public.f() was altered"));
    migration.event("the change is named", named).await;
    // The script is for the operator.
    let script = std::fs::read_to_string(migration.dir().join("sql/schema-changes.sql")).unwrap();
    pair.target.execute(&script).await;
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn c_36_only_tables_whose_rows_alter_table_has_written_again_are_copied_again() {
    let (pair, ended) = altered(
        "create table public.price (id int primary key, n numeric); insert into public.price select i, i from generate_series(1, 100) i;
         create table public.plain (id int primary key, v int); insert into public.plain values (1, 1);
         create table public.emptied (id int primary key, v int); insert into public.emptied values (1, 1)",
        &[
            "alter table public.price alter n type numeric using n * 100",
            // Neither of them gives a row another value that the stream does not carry.
            "alter table public.plain add column more int; update public.plain set more = 5",
            "vacuum full public.plain",
            "truncate public.emptied; insert into public.emptied values (2, 2)",
        ],
        &[],
    )
    .await;
    ended.assert_code(0);
    pair.assert_equal().await;
    assert_eq!(copied_again(&ended), ["price"]);

    let (_, ended) = altered(
        "create table public.price (id int primary key, n numeric); insert into public.price values (1, 1)",
        &["alter table public.price alter n type numeric using n * 100"],
        &["--follow-ddl", "ask", "--accept-schema-changes"],
    )
    .await;
    ended.assert_code(5);
    assert_eq!(different(&ended), ["TABLE public.price"]);
}

#[tokio::test]
async fn c_26_partitions_come_and_go() {
    let root = "create table public.p (id int, d date, primary key (id, d)) partition by range (d);
        create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01');
        create table public.p2 partition of public.p for values from ('2026-02-01') to ('2026-03-01');
        insert into public.p select i, date '2026-01-01' + i % 59 from generate_series(1, 100) i";
    let (pair, ended) = altered(
        root,
        &[
            "drop table public.p2; insert into public.p values (1000, '2026-01-06')",
            "create table public.p3 partition of public.p for values from ('2026-03-01') to ('2026-04-01')",
            "insert into public.p values (1001, '2026-03-06')",
        ],
        &[],
    )
    .await;
    ended.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn c_26_only_partitions_that_had_rows_are_copied_and_what_is_one_table_takes_them_in() {
    let (pair, ended) = altered(
        "create table public.p (id int, d date, primary key (id, d)) partition by range (d);
         create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01');
         insert into public.p select i, date '2026-01-01' + i % 31 from generate_series(1, 100) i",
        &[
            // As tools for partitions do it.
            "create table public.empty (like public.p including all)",
            "alter table public.p attach partition public.empty for values from ('2026-03-01') to ('2026-04-01')",
            "insert into public.p values (1, '2026-03-01')",
            "create table public.filled (like public.p including all); insert into public.filled values (1, '2026-02-01')",
            "alter table public.p attach partition public.filled for values from ('2026-02-01') to ('2026-03-01'); insert into public.p values (2, '2026-02-02')",
        ],
        &[],
    )
    .await;
    ended.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    assert_eq!(copied_again(&ended), ["filled"]);

    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.p (id int, d date, primary key (id, d)) partition by range (d);
             create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01'); insert into public.p values (1, '2026-01-01');
             create table public.joins (id int, d date, primary key (id, d)); insert into public.joins values (7, '2026-05-05')",
        )
        .await;
    let mut migration = Migration::of(&pair).plan("one_table = [\"public.p\"]").arguments(&["--follow-ddl", "all"]);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("alter table public.p attach partition public.joins for values from ('2026-05-01') to ('2026-06-01')").await;
    pair.source.execute("update public.joins set id = 8 where id = 7; insert into public.p values (9, '2026-05-06')").await;
    migration.ended().await.assert_code(0);
    let rows = "select id, d from public.p order by id";
    assert_eq!(pair.target.rows(rows).await, pair.source.rows(rows).await);
}

#[tokio::test]
async fn c_37_definitions_of_sequences_follow_the_source() {
    let (pair, ended) = altered(
        "create sequence public.wide maxvalue 9999; select setval('public.wide', 9990); create sequence public.small as smallint;
         create sequence public.down increment -1 minvalue -100 maxvalue -1; create sequence public.gone; create sequence public.a; create sequence public.b;
         create sequence public.cycling maxvalue 10; create table public.t (id int primary key generated by default as identity, v text);
         insert into public.t (v) select 'x' from generate_series(1, 10)",
        &[
            "alter sequence public.wide maxvalue 999999; select setval('public.wide', 12345)",
            "alter sequence public.small as bigint; select setval('public.small', 3000000000)",
            "alter sequence public.down minvalue -100000; select setval('public.down', -5000)",
            "drop sequence public.gone; create sequence public.fresh start 500; select nextval('public.fresh')",
            "alter sequence public.a rename to c; alter sequence public.b rename to a; alter sequence public.c rename to b; select setval('public.b', 77)",
            "alter sequence public.cycling increment by 3 cycle; select setval('public.cycling', 10), nextval('public.cycling')",
            "alter table public.t alter column id restart with 1000; insert into public.t (v) values ('y')",
        ],
        &[],
    )
    .await;
    ended.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    assert_eq!(pair.target.value("select nextval('public.b')").await, "78");
}

#[tokio::test]
async fn c_35_settings_of_tables_and_their_sequences_arrive() {
    let (pair, ended) = altered(
        "create table public.full (id int primary key, code int not null unique); alter table public.full replica identity full; insert into public.full values (1, 1);
         create table public.keyed (id int primary key, code int not null, constraint code unique (code)); insert into public.keyed select i, i from generate_series(1, 9) i;
         create table public.t (id int primary key, v text); create index t_v on public.t (v); alter table public.t cluster on t_v, alter v set statistics 55;
         create sequence public.owned; alter sequence public.owned owned by public.t.id",
        &[
            "alter table public.full replica identity default; alter table public.keyed replica identity full; update public.keyed set code = -code",
            "alter table public.keyed replica identity using index code; delete from public.keyed where id = 3",
            "alter table public.t set without cluster, alter v set statistics -1, alter id set statistics 7, set (fillfactor = 70)",
            "alter sequence public.owned owned by none; create sequence public.fresh start 5; select nextval('public.fresh'); alter sequence public.fresh owned by public.t.v",
        ],
        &[],
    )
    .await;
    ended.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn c_32_a_table_that_takes_the_name_of_one_that_is_gone_has_its_rows() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.again (id int primary key, v text); insert into public.again select i, 'x' from generate_series(1, 200) i;
             create table public.moves (id int primary key, v text); insert into public.moves values (1, 'moves');
             create table public.slow (id int primary key, v text); insert into public.slow select i, 's' from generate_series(1, 50) i;
             create view public.v_slow as select * from public.slow;
             create table public.ref (id int primary key, a int references public.again); insert into public.ref values (1, 1)",
        )
        .await;
    let mut migration = Migration::of(&pair);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("create table public.slow_new (id bigint primary key, v text); insert into public.slow_new select * from public.slow").await;
    // One table is made again; the name of another one is free for a third.
    pair.source
        .execute(
            "begin; drop table public.again cascade; create table public.again (id bigint primary key, w int); insert into public.again values (1, 5);
             alter table public.ref add foreign key (a) references public.again;
             alter table public.moves rename to moved; create table public.moves (id int primary key, v text); insert into public.moves values (1, 'new'); commit",
        )
        .await;
    pair.source.execute("insert into public.moved values (2, 'late'); update public.again set w = 6").await;
    // A table of a job, which is gone when it is done.
    pair.source.execute("create table public.staging (id int primary key); insert into public.staging values (1)").await;
    let mut joined = std::collections::HashSet::new();
    let joins = |e: &Event| {
        if let Event::TableJoined { table } = e {
            joined.insert(table.name.clone());
        }
        ["slow_new", "staging"].iter().all(|name| joined.contains(*name))
    };
    migration.event("the new tables have joined", joins).await;
    pair.source
        .execute(
            "begin; insert into public.slow_new values (1000, 'late'); drop table public.slow cascade; alter table public.slow_new rename to slow;
             create view public.v_slow as select * from public.slow; commit; insert into public.slow values (1001, 'later'); drop table public.staging",
        )
        .await;
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    pair.assert_untouched().await;
}

#[tokio::test]
async fn c_26_a_partition_that_leaves_its_table_keeps_its_rows() {
    let (pair, ended) = altered(
        "create table public.p (id int, d date, primary key (id, d)) partition by range (d);
         create table public.p1 partition of public.p for values from ('2026-01-01') to ('2026-02-01');
         create table public.p2 partition of public.p for values from ('2026-02-01') to ('2026-03-01');
         create table public.archive (id int, d date, primary key (id, d)) partition by range (d);
         insert into public.p select i, date '2026-01-01' + i % 59 from generate_series(1, 100) i",
        &[
            "begin; alter table public.p detach partition public.p1;
             alter table public.archive attach partition public.p1 for values from ('2026-01-01') to ('2026-02-01'); commit",
            "delete from public.archive where id < 9",
            "alter table public.p detach partition public.p2; insert into public.p2 values (1000, '2026-02-03')",
        ],
        &[],
    )
    .await;
    ended.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn c_35_what_is_altered_during_the_cutover_is_followed_first() {
    let pair = Pair::shared().await;
    pair.source
        .execute("create table public.t (id serial primary key, n int); insert into public.t (n) select i from generate_series(1, 100) i")
        .await;
    let mut migration = Migration::of(&pair);
    migration.start_with_cutover();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("insert into public.t (n) values (101)").await;
    // The cutover waits for the sequence.
    let holder = pair.target.session().await;
    holder.batch_execute("begin; alter sequence public.t_id_seq cache 1").await.unwrap();
    let sets_sequences = |e: &Event| matches!(e, Event::CutoverStepped { step: CutoverStep::Sequences, done: false, .. });
    migration.event("the sequences are set", sets_sequences).await;
    pair.source.execute("alter table public.t alter n type bigint using n * 2").await;
    holder.batch_execute("rollback").await.unwrap();
    let aborted = |e: &Event| matches!(e, Event::CutoverAborted { reason } if reason.contains("schema"));
    migration.event("catch-up goes on", aborted).await;
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}
