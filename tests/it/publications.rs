//! `--publications` and `--subscriptions`: what the source publishes is published by the target, without what is left out; and a
//! subscription of the target takes over where that of the source stopped.

use hyperlift::{
    demo::servers::ServerOptions,
    event::{Event, Stage},
};

use crate::support::{Ended, Migration, Pair, until};

fn not_moved(ended: &Ended) -> Vec<String> {
    let line = |e: &Event| if let Event::NotMoved { object, reason } = e { Some(format!("{object}: {reason}")) } else { None };
    ended.events.iter().filter_map(line).collect()
}

#[tokio::test]
async fn publications_arrive_without_tables_that_are_left_out() {
    let pair = Pair::shared().await;
    pair.source
        .execute(
            "create schema other; create schema gone;
             create table public.t (id int primary key, a int, b text); create table public.log (id int primary key);
             create table other.u (id int primary key); create table gone.v (id int primary key);
             create table public.parts (id int, day date, primary key (id, day)) partition by range (day);
             create table public.parts_1 partition of public.parts for values from ('2026-01-01') to ('2027-01-01');
             create publication \"Some of it\" for table public.t (id, a) where (id > 0), public.log, public.parts
                 with (publish = 'insert, update', publish_via_partition_root = true);
             create publication schemas for tables in schema other, gone; create publication nothing;
             comment on publication nothing is 'yet'; insert into public.t values (1, 6, 'x')",
        )
        .await;
    let mut migration = Migration::of(&pair).arguments(&["--publications", "--exclude", "public.log", "--exclude", "schema:gone"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    // Published by hyperlift's own publications, and in those of the application.
    pair.source.execute("update public.t set a = 7; insert into public.log values (1)").await;
    migration.level_with(&pair.source).await;
    migration.stop().await.assert_code(4);
    let ended = migration.cut_over(&pair).await;
    assert!(not_moved(&ended).iter().all(|line| !line.starts_with("PUBLICATION")), "{:?}", not_moved(&ended));
    let list = std::fs::read_to_string(migration.dir().join("report/left-out.txt")).unwrap();
    assert!(list.contains("publication relation public.log in publication Some of it: belongs to table public.log"), "{list}");
    let published = "select pubname, schemaname, tablename, attnames, rowfilter from pg_publication_tables order by 1, 2, 3";
    assert_eq!(
        pair.target.rows(published).await,
        ["Some of it|public|parts|{id,day}|∅", "Some of it|public|t|{id,a}|(id > 0)", "schemas|other|u|{id}|∅"]
    );
    let options = "select pubname, puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot, obj_description(oid, 'pg_publication')
                     from pg_publication order by 1";
    assert_eq!(pair.target.rows(options).await, pair.source.rows(options).await);
}

#[tokio::test]
async fn a_subscription_takes_over_where_that_of_the_source_stopped() {
    let pair = Pair::own(ServerOptions::default()).await;
    // The source subscribes to another database of the target's server.
    let feed = pair.second_target().await;
    let table = "create table public.readings (id int primary key, value int)";
    feed.execute(&format!("{table}; create publication feed for table public.readings; insert into public.readings values (1, 1)")).await;
    pair.source.execute(&format!("{table}; create table public.own (id int primary key)")).await;
    pair.source.session().await.batch_execute(&format!("create subscription feed connection '{}' publication feed", feed.uri)).await.unwrap();
    let arrived = async |id: u32| {
        let sql = format!("select id from public.readings where id = {id}");
        until("the feed on the source", async || pair.source.rows(&sql).await.len() == 1).await;
    };
    arrived(1).await;

    let mut migration = Migration::of(&pair).arguments(&["--subscriptions"]);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    feed.execute("insert into public.readings select n, n from generate_series(2, 100) n; update public.readings set value = 0 where id < 50").await;
    arrived(100).await;
    migration.level_with(&pair.source).await;
    migration.stop().await.assert_code(4);

    // As README says. The feed goes on meanwhile.
    pair.source.execute("alter subscription feed disable").await;
    until("the end of the subscriber", async || pair.source.rows("select pid from pg_stat_subscription where pid is not null").await.is_empty())
        .await;
    feed.execute("insert into public.readings select n, n from generate_series(101, 120) n; delete from public.readings where id < 10").await;
    let place =
        "select remote_lsn from pg_replication_origin_status o join pg_subscription s on o.external_id = 'pg_' || s.oid where subname = 'feed'";
    let place = pair.source.value(place).await;
    let ended = migration.cut_over(&pair).await;
    assert!(not_moved(&ended).iter().any(|line| line.starts_with("SUBSCRIPTION feed: created on the target disabled")), "{:?}", not_moved(&ended));
    assert_eq!(pair.target.value("select subenabled, subslotname from pg_subscription").await, "f|∅");
    pair.source.execute("alter subscription feed set (slot_name = none)").await;
    pair.source.execute("drop subscription feed").await;
    let steps = format!(
        "select pg_replication_origin_advance('pg_' || oid, '{place}') from pg_subscription where subname = 'feed';
         alter subscription feed set (slot_name = 'not_yet');
         alter subscription feed enable;
         alter subscription feed refresh publication with (copy_data = false);
         alter subscription feed disable;
         alter subscription feed set (slot_name = 'feed');
         alter subscription feed enable"
    );
    for step in steps.split(';') {
        pair.target.session().await.batch_execute(step).await.unwrap();
    }
    feed.execute("insert into public.readings values (121, 121)").await;
    let all = "select id, value from public.readings order by 1";
    let expected = feed.rows(all).await;
    until("the feed on the target", async || pair.target.rows(all).await == expected).await;
    pair.target.execute("alter subscription feed disable").await;
    until("the end of the subscriber", async || pair.target.rows("select pid from pg_stat_subscription where pid is not null").await.is_empty())
        .await;
    pair.target.session().await.batch_execute("drop subscription feed").await.unwrap();
}
