//! Whole migrations between the versions of PostgreSQL. `make test-matrix` fetches the servers and runs them; one pair at a time.

use hyperlift::{
    demo::{
        application::{Application, Load},
        data::{self, Size},
        servers::{Programs, Server, ServerOptions},
    },
    event::{Event, Stage},
};
use std::{path::PathBuf, time::Duration};

use crate::{
    migrate::DEMO_PLAN,
    support::{Migration, Pair, until},
};

const HYPERTABLE: &str = r#"
[[hypertable]]
table = "public.metrics"
time_column = "time"
chunk_interval = "7 days"
"#;

/// What came with a version of the source, as long as the target knows it, too: from this source version, from this target version.
const NEWS: [(u32, u32, &str); 6] = [
    (
        13,
        15,
        "create table public.keyed (id int primary key, note text); insert into public.keyed select n, 'x' from generate_series(1, 100) n;
         create table public.summed (a int not null, b int generated always as (a * 2) stored, c int);
         insert into public.summed (a, c) values (1, 1), (2, null);
         create table public.large (id bigint primary key, v text); insert into public.large select n, repeat(md5(n::text), 4) from generate_series(1, 9000) n;
         create procedure public.nothing() language sql as 'select 1';
         create publication keyed_ones for table public.keyed with (publish = 'insert, truncate');
         create subscription elsewhere connection 'host=127.0.0.1 port=1 password=hidden' publication nothing with (connect = false, slot_name = none)",
    ),
    (
        14,
        15,
        "create table public.ranges (id int primary key, r int4multirange default '{[1,5)}'); insert into public.ranges (id) values (1);
         create statistics public.parts on (id % 10), (id / 10) from public.keyed;
         create function public.plus(a int, b int) returns int begin atomic select a + b; end",
    ),
    (
        15,
        15,
        "create table public.sole (id int primary key, a int, unique nulls not distinct (a)); insert into public.sole values (1, null), (2, 2);
         create view public.invoked with (security_invoker = true) as select * from public.keyed;
         create table public.thousands (id int primary key, n numeric(3, -3)); insert into public.thousands values (1, 123456);
         create publication some_of_it for table public.sole where (id > 1), tables in schema public with (publish = 'insert');
         create publication columns_of for table public.thousands (id)",
    ),
    (
        16,
        15,
        "create subscription of_any_origin connection 'host=127.0.0.1 port=1' publication nothing
             with (connect = false, slot_name = none, origin = none, streaming = parallel, password_required = false, run_as_owner = true)",
    ),
    (
        17,
        15,
        "create table public.numbered (id bigint generated always as identity primary key, n int) partition by hash (id);
         create table public.numbered_0 partition of public.numbered for values with (modulus 2, remainder 0);
         create table public.numbered_1 partition of public.numbered for values with (modulus 2, remainder 1);
         insert into public.numbered (n) select n from generate_series(1, 50) n",
    ),
    (
        18,
        15,
        "create unique index summed_a on public.summed (a); alter table public.summed replica identity using index summed_a;
         create table public.computed (id int constraint computed_id_set not null primary key, a int, b int generated always as (a + 1),
             c int generated always as (a + 2) stored);
         insert into public.computed (id, a) values (1, 1), (2, null);
         alter table public.computed add constraint a_set check (a > 0) not valid, add constraint a_there not null a not valid;
         create table public.parent (id int primary key, a int, b int not null); create table public.child () inherits (public.parent);
         alter table public.child alter column a set not null, add primary key (id);
         insert into public.parent values (1, null, 1); insert into public.child values (2, 2, 2);
         create table public.loose (id int primary key, c int references public.computed not enforced); insert into public.loose values (1, 77);
         create publication generated_ones for table public.computed with (publish_generated_columns = stored, publish = 'insert');
         create extension btree_gist;
         create table public.rooms (id int, valid daterange, note text, primary key (id, valid without overlaps));
         create table public.bookings (id int primary key, room int, at daterange, foreign key (room, period at) references public.rooms (id, period valid));
         insert into public.rooms select n, daterange('2026-01-01', '2026-06-01'), 'x' from generate_series(1, 50) n;
         insert into public.bookings select n, n, daterange('2026-02-01', '2026-02-02') from generate_series(1, 50) n;
         create table public.parted_rooms (id int, valid daterange, primary key (id, valid without overlaps)) partition by list (id);
         create table public.parted_rooms_1 partition of public.parted_rooms for values in (1);
         create table public.parted_rooms_2 partition of public.parted_rooms for values in (2);
         insert into public.parted_rooms values (1, '[2026-01-01,2026-02-01)'), (2, '[2026-01-01,2026-02-01)')",
    ),
];

/// What changes in a table whose key may not overlap, each in the order in which it must arrive.
const TEMPORAL_CHANGES: [&str; 3] = [
    "insert into public.rooms select n, daterange('2026-06-01', '2026-09-01'), 'later' from generate_series(1, 50) n;
     update public.rooms set note = 'changed' where id < 20; delete from public.rooms where id > 40 and lower(valid) = '2026-06-01'",
    "begin; update public.rooms set valid = daterange('2026-07-01', '2026-09-01') where id = 5 and lower(valid) = '2026-06-01';
     update public.rooms set valid = daterange('2026-01-01', '2026-07-01') where id = 5 and lower(valid) = '2026-01-01'; commit",
    "insert into public.bookings values (100, 5, '[2026-06-10,2026-07-20)'); insert into public.parted_rooms values (2, '[2026-02-01,2026-03-01)');
     update public.parted_rooms set valid = '[2026-01-10,2026-02-01)' where id = 1",
];

const CHANGES: &str = "
    insert into public.keyed select n, 'late' from generate_series(101, 200) n;
    update public.keyed set id = id + 1000 where id between 50 and 60;
    update public.keyed set note = 'changed' where id < 20; delete from public.keyed where id between 20 and 30;
    update public.summed set a = a + 10 where c is null; insert into public.summed (a) values (3); delete from public.summed where a = 1";

/// The programs of a version, which must be installed.
fn programs(major: u32) -> Programs {
    let folder = std::env::var_os("HYPERLIFT_MATRIX").map(PathBuf::from).expect("HYPERLIFT_MATRIX names the servers: run `make test-matrix`");
    let found = Programs::at(folder.join(major.to_string()).join("bin"));
    let found = found.unwrap_or_else(|| panic!("{} has no PostgreSQL {major}: run assets/matrix.sh", folder.display()));
    assert_eq!(found.major, major);
    found
}

async fn server(programs: Programs, timescale: bool) -> Server {
    Server::start(ServerOptions { programs: Some(programs), timescale, ..ServerOptions::default() }).await.unwrap()
}

/// Moves the database of the demo, with what its version adds, while an application writes; with a hypertable where there is TimescaleDB.
async fn migrate(source: Programs, target: Programs, arguments: &[&str]) {
    let (from, to) = (source.major, target.major);
    let timescale = target.has_timescale();
    let pair = Pair::on(server(source, false).await, server(target, timescale).await).await;
    data::load(&pair.source.uri, Size::TINY).await.unwrap();
    let news = || NEWS.iter().filter(move |(source, target, _)| from >= *source && to >= *target);
    for (_, _, sql) in news() {
        pair.source.execute(sql).await;
    }
    let load = Load { sessions: 4, seed: 3, rate_per_second: Some(80.0), long_transaction: Duration::from_secs(1), ..Load::default() };
    let writer = Application::start(&pair.source.uri, load).await.unwrap();
    let written = async |more: u64| {
        let goal = writer.transactions() + more;
        until("transactions of the application", async || writer.transactions() >= goal || writer.has_failed()).await;
        assert!(!writer.has_failed(), "the application failed");
    };
    written(20).await;
    let full = if from < 18 { "[[identity]]\ntable = \"public.summed\"\nuse = \"full\"\n" } else { "" };
    let plan = format!("{DEMO_PLAN}{full}{}", if timescale { HYPERTABLE } else { "" });
    // Small enough that tables are copied in parts, which are cut by keys before 14.
    let mut migration = Migration::of(&pair)
        .plan(&plan)
        .arguments(&["--split-tables-larger-than", "128kB", "--publications", "--subscriptions"])
        .arguments(arguments);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute(CHANGES).await;
    if from >= 14 {
        pair.source.execute("insert into public.ranges values (2, '{[7,9), [20,30)}'); update public.ranges set r = r + '{[100,101)}'").await;
    }
    if from >= 17 {
        pair.source.execute("insert into public.numbered (n) values (99); update public.numbered set n = 0 where n % 2 = 0").await;
    }
    if from >= 18 {
        pair.source.execute("insert into public.computed (id, a) values (3, 5); update public.computed set a = 7 where id = 1").await;
        for change in TEMPORAL_CHANGES {
            pair.source.execute(change).await;
        }
    }
    written(100).await;
    pair.source.execute("truncate public.keyed; insert into public.keyed values (1, 'after')").await;
    migration.level_with(&pair.source).await;
    writer.stop().await.unwrap();
    let stopped = migration.stop().await;
    stopped.assert_code(4);
    let in_parts = |e: &Event| matches!(e, Event::CopyBegun { table, parts: 5.., .. } if table.name == "large");
    assert!(stopped.events.iter().any(in_parts), "from {from} a large table is copied in parts");
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
    for same in [
        "select subname, subenabled, subslotname from pg_subscription where subdbid = (select oid from pg_database where datname = current_database()) order by 1",
        "select p.pubname, p.pubinsert, p.puballtables, t.schemaname || '.' || t.tablename from pg_publication p left join pg_publication_tables t on t.pubname = p.pubname
          where tablename <> 'metrics' order by 1, 4",
    ] {
        let (here, there) = (pair.source.rows(same).await, pair.target.rows(same).await);
        assert!(!here.is_empty() && here == there, "{same}: {here:#?} {there:#?}");
    }
    if timescale {
        let hypertables = "select hypertable_name from timescaledb_information.hypertables";
        assert_eq!(pair.target.rows(hypertables).await, ["metrics"]);
    } else if from == to {
        // Each version prints views in its own way.
        pair.assert_same_schema_by(&programs(18).bin.join("pg_dump")).await;
    }
}

/// TimescaleDB, where this machine has it; else the server without it.
fn timescale_15() -> Programs {
    Programs::all().into_iter().find(|p| p.major == 15 && p.has_timescale()).unwrap_or_else(|| programs(15))
}

macro_rules! pairs {
    ($($name:ident: $source:literal to $target:expr;)*) => {$(
        #[tokio::test]
        #[ignore = "needs the servers of `make test-matrix`"]
        async fn $name() {
            migrate(programs($source), $target, &[]).await;
        }
    )*};
}

pairs! {
    from_13_to_timescale: 13 to timescale_15();
    from_14_to_timescale: 14 to timescale_15();
    from_15_to_timescale: 15 to timescale_15();
    from_16_to_timescale: 16 to timescale_15();
    from_17_to_timescale: 17 to timescale_15();
    from_18_to_timescale: 18 to timescale_15();
    from_14_to_15: 14 to programs(15);
    from_14_to_16: 14 to programs(16);
    from_14_to_17: 14 to programs(17);
    from_14_to_18: 14 to programs(18);
    from_17_to_17: 17 to programs(17);
    from_17_to_18: 17 to programs(18);
    from_18_to_16: 18 to programs(16);
    from_18_to_18: 18 to programs(18);
}

#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn i_10_full_is_no_identity_with_generated_columns_where_updates_would_fail() {
    let pair = Pair::on(server(programs(18), false).await, server(programs(18), false).await).await;
    pair.source
        .execute(
            "create table public.stored (a int, b int generated always as (a) stored); alter table public.stored replica identity full;
             create table public.virtual (a int, b int generated always as (a))",
        )
        .await;
    let ended = Migration::of(&pair).ended_at_once().await;
    ended.assert_code(3);
    assert!(ended.stderr.contains("2 tables are still open"), "{}", ended.stderr);
    let full = Migration::of(&pair).plan("[[identity]]\ntable = \"public.virtual\"\nuse = \"full\"\n").ended_at_once().await;
    full.assert_code(2);
    assert!(full.stderr.contains("public.virtual has generated columns"), "{}", full.stderr);
    let plan = ["stored", "virtual"].map(|t| format!("[[identity]]\ntable = \"public.{t}\"\nuse = \"insert-only\"\n")).concat();
    let mut migration = Migration::of(&pair).plan(&plan);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.source.execute("insert into public.stored values (1); insert into public.virtual values (1)").await;
    pair.source.execute("update public.stored set a = 2; update public.virtual set a = 2").await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
}

/// Timeouts that an administrator has set must not end a migration.
#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn limits_of_the_databases_do_not_reach_our_sessions() {
    for major in [14, 18] {
        let pair = Pair::on(server(programs(major), false).await, server(programs(major.max(17)), false).await).await;
        let mut limits = vec!["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "idle_session_timeout"];
        limits.extend((major >= 17).then_some("transaction_timeout"));
        pair.source.execute("create table public.big (id int primary key, filler text)").await;
        for side in [&pair.source, &pair.target] {
            let database = side.value("select current_database()").await;
            for limit in &limits {
                side.execute(&format!("alter database {database} set {limit} = '150ms'")).await;
            }
        }
        let free: String = format!("set {} = 0;", limits.join(" = 0; set "));
        // Enough rows that copying and replaying them takes longer than the limits.
        let more = async |from: u32, to: u32| {
            let sql = format!("insert into public.big select n, repeat(md5(n::text), 20) from generate_series({from}, {to}) n");
            pair.source.session().await.batch_execute(&format!("{free} {sql}")).await.unwrap();
        };
        more(1, 60_000).await;
        let mut migration = Migration::of(&pair);
        migration.start();
        migration.stage(Stage::CatchUp).await;
        more(60_001, 120_000).await;
        let target = pair.target.session().await;
        target.batch_execute(&free).await.unwrap();
        until("caught up with the source", async || {
            target.query_one("select count(*) from public.big", &[]).await.unwrap().get::<_, i64>(0) == 120_000
        })
        .await;
        for side in [&pair.source, &pair.target] {
            side.execute(&format!("alter database {} reset all", side.value("select current_database()").await)).await;
        }
        migration.finish(&pair).await;
    }
}

#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn c_19_an_idle_slot_that_the_source_invalidated_is_reported() {
    let source = programs(18);
    let options = ServerOptions { programs: Some(source), ..ServerOptions::default() }.setting("idle_replication_slot_timeout", "1s");
    let pair = Pair::on(Server::start(options).await.unwrap(), server(programs(18), false).await).await;
    pair.source.execute("create table public.t (id int primary key)").await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let stopped = migration.stop().await;
    let warned = |e: &Event| matches!(e, Event::Checked { check } if check.name == "idle_replication_slot_timeout");
    assert!(stopped.events.iter().any(warned), "preflight warns of it");
    until("the end of the slot", async || {
        // The server checks for it at checkpoints.
        pair.source.execute("insert into public.t select coalesce(max(id), 0) + 1 from public.t; select pg_switch_wal()").await;
        pair.source.execute("checkpoint").await;
        pair.source.rows("select invalidation_reason from pg_replication_slots").await == ["idle_timeout"]
    })
    .await;
    let ended = migration.ended_at_once().await;
    ended.assert_code(3);
    assert!(ended.stderr.contains("nobody used it for longer than idle_replication_slot_timeout"), "{}", ended.stderr);
}

#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn filters_hold_with_the_newest_pg_dump() {
    let newest = programs(18).bin.join("pg_dump").display().to_string();
    crate::scope::leave_out(&Pair::shared().await, &["--pg-dump", &newest]).await;
}

#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn a_newer_pg_dump_serves_an_older_target() {
    let newest = programs(18).bin.join("pg_dump").display().to_string();
    migrate(programs(14), timescale_15(), &["--pg-dump", &newest]).await;
}

/// From 17 on a server ignores our `search_path` when it builds an index. The rows arrive nevertheless.
#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn n_4_an_index_whose_function_needs_the_path_says_what_a_newer_target_needs() {
    use crate::search_path::{COUNTING_ON_A_PATH, run, set_path};
    let pair = Pair::on(server(programs(15), false).await, server(programs(17), false).await).await;
    set_path(&pair.source, "app, public").await;
    run(&pair.source, COUNTING_ON_A_PATH).await;
    let mut migration = Migration::of(&pair).plan("[[identity]]\ntable = \"app.parted\"\nuse = \"insert-only\"\n");
    let ended = migration.ended_at_once().await;
    ended.assert_code(1);
    assert!(ended.stderr.contains("alter function … set search_path = app, public on the target"), "{}", ended.stderr);
    pair.target.execute("alter function app.folded(text) set search_path = app, public").await;
    migration.start();
    migration.stage(Stage::CatchUp).await;
    run(
        &pair.source,
        "insert into app.indexed values (2000, 'New'); update app.checked set n = 3 where id = 4; delete from app.deferred where id < 9",
    )
    .await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

/// Two grantors of the same membership, a chain of grantors, and options other than the members' own `INHERIT`.
const MEMBERSHIPS: &str = "
    create role app_admin login createrole; create role reader; create role writer; create role plain login; create role apart login noinherit;
    create role deep login; grant reader to app_admin with admin true, inherit false, set true; grant writer to app_admin with admin option;
    grant reader to plain with inherit true, set false; grant writer to apart with inherit true; grant reader to apart with inherit false, set false;
    set session authorization app_admin; grant reader to plain with inherit false, set true; grant writer to deep with admin option;
    set session authorization deep; grant writer to plain; reset session authorization";

#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn n_10_memberships_keep_their_options_and_grantors() {
    let memberships = "select roleid::regrole::text, member::regrole::text, grantor::regrole::text, admin_option, inherit_option, set_option
                         from pg_auth_members where member::regrole::text !~ '^pg_' order by 1, 2, 3";
    for (from, to) in [(16, 16), (16, 18), (18, 17)] {
        let pair = Pair::on(server(programs(from), false).await, server(programs(to), false).await).await;
        pair.source.session().await.batch_execute(MEMBERSHIPS).await.unwrap();
        let ended = Migration::of(&pair).cut_over(&pair).await;
        let lost = ended.events.iter().find(|e| matches!(e, Event::NotMoved { object, .. } if object.starts_with("MEMBERSHIP")));
        assert!(lost.is_none(), "{lost:?}");
        let (source, target) = (pair.source.rows(memberships).await, pair.target.rows(memberships).await);
        assert!(source.len() == 8 && source == target, "{from} to {to}: {source:#?} {target:#?}");
    }
}

#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn n_10_options_of_memberships_are_the_members_own_where_one_side_knows_none() {
    let pair = Pair::on(server(programs(15), false).await, server(programs(16), false).await).await;
    let older = "create role reader; create role plain login; create role apart login noinherit; grant reader to plain with admin option; grant reader to apart";
    pair.source.execute(older).await;
    Migration::of(&pair).cut_over(&pair).await;
    let options = "select member::regrole::text, admin_option, inherit_option, set_option from pg_auth_members where roleid::regrole::text = 'reader' order by 1";
    assert_eq!(pair.target.rows(options).await, ["apart|f|f|t", "plain|t|t|t"]);

    let pair = Pair::on(server(programs(17), false).await, server(programs(15), false).await).await;
    pair.source.session().await.batch_execute(&format!("{MEMBERSHIPS}; grant pg_maintain to deep")).await.unwrap();
    let ended = Migration::of(&pair).cut_over(&pair).await;
    let reported = |e: &Event| match e {
        Event::NotMoved { object, reason } if object.starts_with("MEMBERSHIP") => {
            Some(format!("{object}: {}", reason.split(" on the target").next().unwrap()))
        }
        _ => None,
    };
    let reported: Vec<String> = ended.events.iter().filter_map(reported).collect();
    assert_eq!(
        reported,
        [
            "MEMBERSHIP of deep in pg_maintain: the target has no such role",
            "MEMBERSHIP of app_admin in reader: the member inherits",
            "MEMBERSHIP of apart in reader: the member may set role",
            "MEMBERSHIP of apart in writer: the member does not inherit",
        ]
    );
    let members =
        "select roleid::regrole::text, member::regrole::text, admin_option from pg_auth_members where member::regrole::text !~ '^pg_' order by 1, 2";
    let expected =
        ["reader|apart|f", "reader|app_admin|t", "reader|plain|f", "writer|apart|f", "writer|app_admin|t", "writer|deep|t", "writer|plain|f"];
    assert_eq!(pair.target.rows(members).await, expected);
}

/// From 16 on who creates a role may give it to itself, and has to before it gives anything away.
#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn n_8_a_user_that_may_create_roles_gives_objects_to_owners_of_a_newer_target() {
    for major in [16, 18] {
        let pair = Pair::on(server(timescale_15(), false).await, server(programs(major), false).await).await;
        crate::weak_user::as_a_member(&pair).await;
    }
}

#[tokio::test]
#[ignore = "needs the servers of `make test-matrix`"]
async fn what_an_older_target_does_not_know_is_reported_and_its_comments_go_with_it() {
    let objects = "
        create role reader; create table public.parent (id int primary key);
        create table public.t (id int constraint id_is_set not null primary key, a int, constraint loose check (a > 0) not enforced, constraint strict check (a > 1));
        comment on constraint id_is_set on public.t is 'c'; comment on constraint loose on public.t is 'c'; comment on constraint strict on public.t is 'c';
        create table public.ranges (id int, v int4range, constraint over exclude using gist (id with =, v with &&)) partition by list (id);
        create table public.ranges_1 partition of public.ranges for values in (1); comment on constraint over on public.ranges is 'c';
        alter table public.ranges add constraint doubtful foreign key (id) references public.parent not valid;
        create table public.numbered (id int primary key, n smallint generated by default as identity (start with 3 increment by 3)) partition by list (id);
        create table public.numbered_1 partition of public.numbered for values in (1, 2, 3); insert into public.numbered (id) values (1);
        grant select, maintain on public.t to reader; alter default privileges in schema public grant maintain on tables to reader;
        insert into public.t values (1, 2); insert into public.parent values (1); insert into public.ranges values (1, '[1,5)')";
    let before_17 = [
        "ACL public.TABLE t: without MAINTAIN",
        "COLUMN public.numbered.n: a default of its sequence",
        "DEFAULT ACL public.DEFAULT PRIVILEGES FOR TABLES: without MAINTAIN",
    ];
    let before_18 = [
        "COMMENT public.CONSTRAINT id_is_set ON t: left out",
        "COMMENT public.CONSTRAINT loose ON t: left out",
        "COMMENT public.CONSTRAINT over ON ranges: left out",
        "CONSTRAINT doubtful of public.ranges: left out",
        "CONSTRAINT loose of public.t: left out",
        "CONSTRAINT over of public.ranges: of its partitions only",
    ];
    for to in [15, 16, 17] {
        let pair = Pair::on(server(programs(18), false).await, server(programs(to), false).await).await;
        pair.source.execute("create extension btree_gist").await;
        pair.source.execute(objects).await;
        let mut migration = Migration::of(&pair).arguments(&["--grants"]).plan("[[identity]]\ntable = \"public.ranges\"\nuse = \"insert-only\"\n");
        migration.start();
        migration.stage(Stage::CatchUp).await;
        pair.source
            .execute("insert into public.numbered (id) values (2); insert into public.ranges values (1, '[5,9)'); update public.t set a = 3")
            .await;
        migration.level_with(&pair.source).await;
        migration.stop().await.assert_code(4);
        let ended = migration.cut_over(&pair).await;
        pair.assert_equal().await;
        let mut reported: Vec<String> = ended
            .events
            .iter()
            .filter_map(|e| if let Event::NotMoved { object, reason } = e { Some(format!("{object}: {reason}")) } else { None })
            .collect();
        reported.sort();
        let mut expected: Vec<&str> = before_18.iter().chain(before_17.iter().filter(|_| to < 17)).copied().collect();
        expected.sort_unstable();
        assert!(
            reported.len() == expected.len() && reported.iter().zip(&expected).all(|(reported, part)| reported.starts_with(part)),
            "{to}: {reported:#?} {expected:#?}"
        );
        // The sequence goes on, of whatever kind the column is.
        pair.target.execute("insert into public.numbered (id) values (3)").await;
        assert_eq!(pair.target.rows("select n from public.numbered order by id").await, ["3", "6", "9"]);
        let refused = hyperlift::demo::execute(&pair.target.uri, "insert into public.ranges values (1, '[2,3)')").await.unwrap_err();
        assert!(refused.has_code("23P01"), "{refused}");
    }
}
