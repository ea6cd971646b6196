//! The lag of the target, in bytes and in time.

use hyperlift::{
    demo::{execute, servers::ServerOptions},
    event::{Event, LaneStatus, ReplayStatus, Stage},
};

use crate::support::{Migration, Pair};

fn lanes(event: Event) -> Vec<LaneStatus> {
    let Event::Replayed(ReplayStatus { lanes, .. }) = event else { panic!("{event:?}") };
    lanes
}

#[tokio::test]
async fn c_3_what_other_databases_write_is_no_lag_and_an_idle_source_is_level() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source.execute("create table public.t (id int primary key)").await;
    let other = pair.source_server().create_database("other").await.unwrap();
    execute(&other, "create table public.noise (v text)").await.unwrap();
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    for id in 1..=3 {
        execute(&other, "insert into public.noise select repeat('x', 1000) from generate_series(1, 2000)").await.unwrap();
        migration.level_with(&pair.source).await;
        pair.source.execute(&format!("insert into public.t values ({id})")).await;
        migration.level_with(&pair.source).await;
    }
    execute(&other, "insert into public.noise select repeat('x', 1000) from generate_series(1, 2000)").await.unwrap();
    let level = migration.event("no lag", |e| matches!(e, Event::Replayed(ReplayStatus { lag: 0, lag_ms: Some(0), changes: 3, .. }))).await;
    assert!(lanes(level).iter().all(|l| l.lag == 0 && l.lag_ms == Some(0) && l.blocked.is_none()));
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test]
async fn a_lane_that_waits_for_a_lock_lags_alone() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.a (id int primary key); create table public.b (id int primary key)").await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let session = pair.target.session().await;
    session.batch_execute("begin; lock table public.a in access exclusive mode").await.unwrap();
    pair.source.execute("insert into public.a values (1)").await;
    pair.source.execute("insert into public.b values (1)").await;
    let apart = |e: &Event| {
        let Event::Replayed(ReplayStatus { lag, lag_ms: Some(ms), lanes, .. }) = e else { return false };
        // The lag is that of the slowest lane, for longer than one sample.
        let slowest = lanes.iter().max_by_key(|l| l.lag).unwrap();
        *ms >= 1_000 && (slowest.lag, slowest.lag_ms) == (*lag, Some(*ms)) && lanes.iter().filter(|l| l.lag == 0).count() + 1 == lanes.len()
    };
    migration.event("one lane lags", apart).await;
    session.batch_execute("rollback").await.unwrap();
    migration.event("level", |e| matches!(e, Event::Replayed(ReplayStatus { lag: 0, lag_ms: Some(0), .. }))).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}
