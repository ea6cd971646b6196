//! What hyperlift's statements may reach: never another server, and no code of the application.

use hyperlift::{
    event::{Command, Event, IdentityState, Level, Stage},
    plan::IdentityDefault,
};
use serde_json::Value;

use crate::support::{Database, InProcess, Migration, Pair, hyperlift, migrated_with_changes};

/// A database behind foreign tables.
struct Far {
    database: Database,
    /// Makes server `far` for it, with the user mapping.
    server: String,
}

impl Far {
    async fn of(pair: &Pair) -> Self {
        let database = pair.second_target().await;
        let (port, name) = (database.value("select inet_server_port()").await, database.value("select current_database()").await);
        database
            .execute("create table public.old (id int, part int, t text); insert into public.old select i, 0, 'far' from generate_series(1, 5) i")
            .await;
        let server = format!(
            "create extension postgres_fdw; create server far foreign data wrapper postgres_fdw options (host '127.0.0.1', port '{port}', dbname '{name}');
             create user mapping for postgres server far options (user 'postgres', password 'x');"
        );
        Self { database, server }
    }

    async fn rows(&self) -> Vec<String> {
        self.database.rows("select id, part, t from public.old order by id, part, t").await
    }
}

const FOREIGN: &str = "server far options (schema_name 'public', table_name 'old')";

#[tokio::test]
async fn b_25_no_statement_reaches_the_server_of_a_foreign_partition_or_child() {
    let pair = Pair::shared().await;
    let far = Far::of(&pair).await;
    let before = far.rows().await;
    pair.source
        .execute(&format!(
            "{}
             -- Each partition has a key of its own, with the same values as the rows of the other server.
             create table public.log (id int not null, part int not null, t text) partition by list (part);
             create table public.log_1 partition of public.log (primary key (id)) for values in (1);
             create table public.log_2 partition of public.log (primary key (id)) for values in (2);
             create index log_t on public.log (t);
             insert into public.log select i, p, 'n' from generate_series(1, 20) i, generate_series(1, 2) p;
             create foreign table public.log_0 partition of public.log for values in (0) {FOREIGN};
             create table public.parent (id int primary key, part int, t text);
             insert into public.parent select i, 9, 'p' from generate_series(1, 20) i;
             create foreign table public.child () inherits (public.parent) {FOREIGN};
             -- It becomes one table.
             create table public.merged (id int not null, part int not null, t text) partition by list (part);
             create table public.merged_1 partition of public.merged for values in (1);
             alter table public.merged_1 replica identity full;
             insert into public.merged select i, 1, 'n' from generate_series(1, 20) i;
             create foreign table public.merged_0 partition of public.merged for values in (0) {FOREIGN}",
            far.server
        ))
        .await;
    let mut migration = Migration::of(&pair).plan("one_table = [\"public.merged\"]");
    migration.start();
    migration.stage(Stage::CatchUp).await;
    assert_eq!(pair.target.rows("select c.relname from pg_class c where relkind = 'f' and relispartition").await, [""; 0], "until the cutover");
    for change in [
        "update public.log set t = 'changed' where id = 3 and part = 1; delete from public.log where id = 4 and part = 2",
        "update public.log set part = 1, id = 100 where id = 5 and part = 2",
        "truncate public.log_2; insert into public.log values (1, 2, 'after')",
        "update only public.parent set t = 'x' where id = 2; delete from only public.parent where id = 3",
        "truncate only public.parent; insert into public.parent values (1, 9, 'again')",
        "update public.merged set t = 'x' where id = 3 and part = 1; delete from public.merged where id = 4 and part = 1",
    ] {
        pair.source.execute(change).await;
    }
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    assert_eq!(far.rows().await, before);
    // With the rows of the other server, which the table that became one has as its own.
    pair.assert_equal().await;
    assert_eq!(pair.target.value("select count(*) from only public.merged where t = 'far'").await, "5");
    assert_eq!(pair.target.value("select count(*) from public.log where t = 'far'").await, "5");
}

#[tokio::test]
async fn b_25_rows_of_a_foreign_partition_that_change_after_their_copy_are_found_at_the_end() {
    let pair = Pair::shared().await;
    let far = Far::of(&pair).await;
    pair.source
        .execute(&format!(
            "{} create table public.log (id int not null, part int not null, t text) partition by list (part);
             create table public.log_1 partition of public.log for values in (1);
             alter table public.log_1 replica identity full;
             create foreign table public.log_0 partition of public.log for values in (0) {FOREIGN}",
            far.server
        ))
        .await;
    let mut migration = Migration::of(&pair).plan("one_table = [\"public.log\"]");
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("update public.log set t = 'other' where part = 0 and id = 2").await;
    migration.stop().await.assert_code(4);
    migration.start_with_cutover();
    let ended = migration.ended().await;
    ended.assert_code(5);
    assert!(ended.stderr.contains("the target differs from the source: FOREIGN TABLE public.log_0"), "{}", ended.stderr);
}

#[tokio::test]
async fn b_25_partitions_that_one_table_could_not_hold_are_refused_before_the_copy() {
    let keys = "create table public.t (id int not null, part int not null) partition by list (part);
                create table public.t_1 partition of public.t (primary key (id)) for values in (1)";
    let unreadable = "create extension postgres_fdw; create server far foreign data wrapper postgres_fdw options (host '127.0.0.1', port '1');
                      create table public.t (id int not null, part int not null, primary key (id, part)) partition by list (part)";
    let foreign = "alter table public.t drop constraint t_pkey; create foreign table public.t_0 partition of public.t for values in (0) server far";
    for (schema, why) in
        [(keys.to_owned(), "the key of public.t_1 lacks a column"), (format!("{unreadable}; {foreign}"), "the rows of foreign table public.t_0")]
    {
        let pair = Pair::shared().await;
        pair.source.execute(&schema).await;
        let ended = Migration::of(&pair).plan("one_table = [\"public.t\"]").ended_at_once().await;
        ended.assert_code(3);
        assert!(ended.stderr.contains(why), "{}", ended.stderr);
        assert_eq!(pair.source.rows("select slot_name from pg_replication_slots where database = current_database()").await, [""; 0]);
    }
}

#[tokio::test]
async fn b_8_rows_of_one_key_in_several_partitions_stay_rows_of_their_own() {
    let schema = "
        create table public.o (id int not null, region text not null, n int) partition by list (region);
        create table public.o_us partition of public.o (primary key (id)) for values in ('US');
        create table public.o_eu partition of public.o (primary key (id)) for values in ('EU');
        insert into public.o select i, r, 0 from generate_series(1, 300) i, unnest(array['US', 'EU']) r;
        create table public.k (id int not null, region text not null, n int, code int not null, primary key (id, region)) partition by list (region);
        create table public.k_us partition of public.k for values in ('US');
        create table public.k_eu partition of public.k for values in ('EU');
        create unique index k_us_code on public.k_us (code); create unique index k_eu_code on public.k_eu (code);
        alter table public.k_us replica identity using index k_us_code; alter table public.k_eu replica identity using index k_eu_code;
        insert into public.k select i, r, 0, i from generate_series(1, 300) i, unnest(array['US', 'EU']) r;
        create table public.f (id int, at date not null, t text) partition by range (at);
        create table public.f_1 partition of public.f for values from ('2026-01-01') to ('2026-02-01');
        create table public.f_2 partition of public.f for values from ('2026-02-01') to ('2026-03-01');
        alter table public.f_1 replica identity full; alter table public.f_2 replica identity full;
        insert into public.f select i, date '2026-01-01' + i % 59, 't' || i from generate_series(1, 200) i";
    // Where the identities of the partitions can be used, the plan of an earlier version loses nothing.
    let plan = "[[identity]]\ntable = \"public.o\"\nuse = \"insert-only\"";
    migrated_with_changes(
        schema,
        plan,
        &[
            "begin; update public.o set n = 1 where id = 5 and region = 'US'; update public.o set n = 2 where id = 5 and region = 'EU';
             delete from public.o where id = 6 and region = 'EU'; update public.o set region = 'EU' where id = 6; commit",
            "update public.o set n = n + 10 where region = 'US'; delete from public.o where region = 'EU' and id > 200",
            "update public.k set n = 3 where id = 7 and region = 'US'; delete from public.k where id = 8 and region = 'EU'",
            "update public.k set n = n + 5 where region = 'EU'; update public.k set code = code + 1000, id = id + 1000 where region = 'US' and id < 100",
            "update public.f set t = 'changed' where id = 20; delete from public.f where id = 21; update public.f set at = '2026-02-03' where id = 22",
        ],
    )
    .await;
}

#[tokio::test]
async fn b_8_a_partition_without_an_identity_is_named_when_it_is_added() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.o (id int not null, part int not null) partition by list (part);
             create table public.o_1 partition of public.o (primary key (id)) for values in (1)",
        )
        .await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("create table public.o_2 partition of public.o for values in (2)").await;
    let warned = |e: &Event| {
        matches!(e, Event::Notice { level: Level::Warn, text }
            if text.contains("partition public.o_2 has no usable replica identity") && text.contains("alter table \"public\".\"o_2\" replica identity full"))
    };
    migration.event("the new partition", warned).await;
    migration.kill().await;
}

#[tokio::test]
async fn b_22_event_triggers_of_the_source_neither_run_nor_refuse_statements_on_the_target() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.ddl_log (id bigint generated always as identity primary key, tag text);
             create table public.p (id int primary key); insert into public.p select generate_series(1, 9);
             create table public.c (id int primary key, p int references public.p); insert into public.c select i, i from generate_series(1, 9) i;
             create materialized view public.mv as select count(*) from public.p;
             create table public.t (id int, v text); insert into public.t values (1, 'a'), (2, 'b');
             create function public.note() returns event_trigger language plpgsql as $$ begin insert into public.ddl_log (tag) values (tg_tag); end $$;
             create function public.no() returns event_trigger language plpgsql as $$ begin raise exception 'no %', tg_tag; end $$;
             create event trigger note on ddl_command_end execute function public.note();
             create event trigger no_drop on sql_drop execute function public.no();
             create event trigger no_start on ddl_command_start when tag in ('REFRESH MATERIALIZED VIEW', 'DROP SCHEMA', 'CREATE TABLE')
                execute function public.no();
             alter event trigger no_start enable always;
             create event trigger off on sql_drop execute function public.no(); alter event trigger off disable;
             comment on event trigger note is 'keeps a log'",
        )
        .await;
    let plan = "identity_default = \"full\"";
    let mut migration = Migration::of(&pair).plan(plan);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("update public.t set v = 'x' where id = 1; delete from public.t where id = 2").await;
    migration.level_with(&pair.source).await;
    migration.stop().await.assert_code(4);
    let ended = migration.cut_over(&pair).await;
    assert!(
        ended
            .events
            .iter()
            .any(|e| matches!(e, Event::Notice { level: Level::Info, text } if text.starts_with("foreign keys and checks validated, materialised")))
    );
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    assert_eq!(pair.target.value("select convalidated from pg_constraint where conname = 'c_p_fkey'").await, "t");
    assert_eq!(pair.target.value("select count from public.mv").await, "9");

    // As a run leaves it that is killed between the drop of the ledger and the event triggers.
    let record = migration.dir().join("migration.json");
    let unfinished = || {
        let mut json: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        json["finished"].as_array_mut().unwrap().retain(|stage| stage != "done");
        std::fs::write(&record, json.to_string()).unwrap();
    };
    unfinished();
    pair.target.execute("drop event trigger no_start; drop event trigger note").await;
    migration.start();
    migration.ended().await.assert_code(0);
    pair.assert_same_schema().await;
    // `clean` does the same.
    unfinished();
    pair.target.execute("drop event trigger no_start").await;
    let clean =
        hyperlift().args(["clean", "--source", &pair.source.uri, "--target", &pair.target.uri, "--dir"]).arg(migration.dir()).output().await.unwrap();
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn b_22_an_event_trigger_that_would_refuse_an_identity_of_the_plan_is_found_beforehand() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.t (id int);
             create function public.no() returns event_trigger language plpgsql as $$ begin raise exception 'no %', tg_tag; end $$;
             create event trigger no_alter on ddl_command_start when tag in ('ALTER TABLE') execute function public.no()",
        )
        .await;
    let ended = Migration::of(&pair).plan("identity_default = \"full\"").ended_at_once().await;
    ended.assert_code(3);
    let says = |part| ended.stderr.contains(part);
    assert!(says("preflight, event triggers: no_alter fires at ALTER TABLE") && says("no ALTER TABLE") && says("disable it"), "{}", ended.stderr);
    pair.assert_untouched().await;
    // Nothing is altered for insert-only.
    Migration::of(&pair).plan("identity_default = \"insert-only\"").cut_over(&pair).await;
}

#[tokio::test]
async fn b_25_a_column_that_is_added_arrives_in_a_foreign_partition_too() {
    let pair = Pair::shared().await;
    let far = Far::of(&pair).await;
    pair.source
        .execute(&format!(
            "{} create table public.log (id int not null, part int not null, t text) partition by list (part);
             create table public.log_1 partition of public.log (primary key (id)) for values in (1); insert into public.log values (1, 1, 'n');
             create foreign table public.log_0 partition of public.log for values in (0) {FOREIGN}",
            far.server
        ))
        .await;
    let mut migration = Migration::of(&pair).arguments(&["--follow-ddl", "ask"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    far.database.execute("alter table public.old add column extra int").await;
    pair.source.execute("alter table public.log add column extra int default 7; update public.log_1 set t = 'x'").await;
    let ended = migration.ended().await;
    ended.assert_code(1);
    let (_, rest) = ended.stderr.split_once("run on the target: ").expect(&ended.stderr);
    pair.target.execute(rest.split_once("; then start").expect(rest).0).await;
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.value("select count(*) from public.log where part = 0 and extra is null").await, "5");
}

#[tokio::test]
async fn b_12_a_view_that_could_not_be_refreshed_is_not_said_to_be() {
    let pair = Pair::shared().await;
    let here = pair.source.value("select current_database()").await;
    pair.source
        .execute(&format!(
            "create function public.here() returns int language plpgsql as $$
             begin if current_database() <> '{here}' then raise exception 'not here'; end if; return 1; end $$;
             create table public.t (id int primary key); create materialized view public.mv as select public.here()"
        ))
        .await;
    let mut migration = Migration::of(&pair);
    migration.start_with_cutover();
    let ended = migration.ended().await;
    ended.assert_code(5);
    assert!(ended.stderr.contains("MATERIALIZED VIEW public.mv"), "{}", ended.stderr);
    let said = ended
        .events
        .iter()
        .any(|e| matches!(e, Event::Notice { level: Level::Warn, text } if text.contains("not all materialised views are refreshed")));
    assert!(said, "{:?}", ended.events);
}

#[tokio::test]
async fn r_5_clean_removes_everything_although_event_triggers_refuse_it() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create table public.t (id int); insert into public.t values (1);
             create function public.no() returns event_trigger language plpgsql as $$ begin raise exception 'no %', tg_tag; end $$",
        )
        .await;
    let mut migration = Migration::of(&pair).plan("identity_default = \"full\"");
    migration.start();
    migration.stage(Stage::CatchUp).await;
    migration.stop().await.assert_code(4);
    for side in [&pair.source, &pair.target] {
        side.execute(
            "create event trigger no_drop on sql_drop execute function public.no();
             create event trigger no_start on ddl_command_start execute function public.no()",
        )
        .await;
    }
    let clean =
        hyperlift().args(["clean", "--source", &pair.source.uri, "--target", &pair.target.uri, "--dir"]).arg(migration.dir()).output().await.unwrap();
    assert!(clean.status.success(), "{}", String::from_utf8_lossy(&clean.stderr));
    pair.assert_untouched().await;
    assert_eq!(pair.source.value("select relreplident from pg_class where relname = 't'").await, "d");
}

const OPEN: &str = "
    do $$ begin
        for i in 1..20 loop
            execute format('create table public.t%s (id int, v text)', i);
            execute format('insert into public.t%s values (1, ''a''), (2, ''b'')', i);
        end loop;
    end $$;
    create table public.u (id int not null unique, v text); insert into public.u values (1, 'a'), (2, 'b');
    create table public.r (id int, d date not null) partition by range (d);
    create table public.r_1 partition of public.r for values from ('2026-01-01') to ('2027-01-01')";

#[tokio::test]
async fn b_5_one_line_of_the_plan_settles_all_tables_that_have_no_choice_of_their_own() {
    let pair = Pair::shared().await;
    pair.source.execute(OPEN).await;
    // What the default cannot settle is named.
    let ended = Migration::of(&pair).plan("identity_default = \"proposed\"").ended_at_once().await;
    ended.assert_code(3);
    assert!(ended.stderr.contains("Identity: 1 open") && ended.stderr.contains("public.r is still open"), "{}", ended.stderr);
    let identities =
        "select relreplident || count(*) from pg_class where relname ~ '^[tu][0-9]*$' and relkind = 'r' group by relreplident order by 1";
    assert_eq!(pair.source.rows(identities).await, ["d21"], "nothing is changed for a migration that is refused");

    let mut migration = Migration::of(&pair).plan("identity_default = \"proposed\"\n[[identity]]\ntable = \"public.r\"\nuse = \"insert-only\"");
    migration.start();
    migration.stage(Stage::CatchUp).await;
    assert_eq!(pair.source.rows(identities).await, ["f20", "i1"]);
    pair.source
        .execute("update public.t7 set v = 'x' where id = 2; delete from public.t8 where id = 1; update public.u set v = 'y' where id = 2")
        .await;
    migration.level_with(&pair.source).await;
    // The plan is given again, without what was chosen by it.
    migration.finish(&pair).await;
    pair.assert_equal().await;
    // Neither side keeps them.
    assert_eq!(pair.source.rows(identities).await, ["d21"]);
    pair.assert_same_schema().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn b_5_one_order_settles_all_open_tables() {
    let pair = Pair::shared().await;
    pair.source.execute(OPEN).await;
    let mut migration = InProcess::start(&pair, &[], |config| config.interactive = true);
    migration.until(|s| s.identity.count(IdentityState::Open) == 22).await;
    migration.command(Command::SettleIdentities { default: IdentityDefault::Proposed }).await;
    let state = migration.until(|s| s.identity.count(IdentityState::Applied) == 21).await;
    let open: Vec<String> = state.identity.rows.iter().filter(|r| r.state == IdentityState::Open).map(|r| r.table.to_string()).collect();
    assert_eq!(open, ["public.r"]);
    migration.stop().await;
}
