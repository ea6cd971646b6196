//! Whole migrations of a live PostgreSQL to a plain PostgreSQL, with the real program: no row is lost and no row is there twice, whatever
//! is written, killed or locked in the meantime.

use hyperlift::{
    demo::{
        application::{Application, Load},
        data::{self, Size},
        servers::ServerOptions,
    },
    error::Kind,
    event::{Answer, Command, CopyProgress, CutoverStep, Event, PromptKind, ReplayStatus, Stage, TableState},
};
use std::time::Duration;

use crate::support::{Database, InProcess, Migration, Pair, until};

/// The identities of the demo's tables that have none.
pub const DEMO_PLAN: &str = r#"
[[identity]]
table = "shop.audit_log"
use = "full"

[[identity]]
table = "shop.sessions"
use = "index:sessions_token_idx"

[[identity]]
table = "\"Odd Names\".\"import log\""
use = "full"
"#;

fn load(sessions: u32, rate_per_second: f64) -> Load {
    let long_transaction = Duration::from_millis(1500);
    Load { sessions, seed: 7, rate_per_second: Some(rate_per_second), unidentified: false, long_transaction, ..Load::default() }
}

async fn written(application: &Application, more: u64) {
    let target = application.transactions() + more;
    until("transactions of the application", async || application.transactions() >= target || application.has_failed()).await;
    assert!(!application.has_failed(), "the application failed");
}

#[tokio::test]
async fn a_database_moves_while_eight_sessions_write_to_it() {
    let pair = Pair::own(ServerOptions::default()).await;
    data::load(&pair.source.uri, Size::TINY).await.unwrap();
    let identities = "select c.oid::regclass, relreplident from pg_class c where relkind in ('r', 'p') and relnamespace::regnamespace::text !~ '^(pg_|information)' order by 1";
    let before = pair.source.rows(identities).await;
    let application = Application::start(&pair.source.uri, load(8, 160.0)).await.unwrap();
    written(&application, 50).await;
    let mut migration = Migration::of(&pair).plan(DEMO_PLAN);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    written(&application, 300).await;
    migration.level_with(&pair.source).await;
    application.stop().await.unwrap();
    migration.finish(&pair).await;
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    assert_eq!(pair.source.rows(identities).await, before, "replica identities are as they were");
    for sequence in ["shop.invoice_number", "public.events_id_seq", "shop.orders_id_seq"] {
        let last: i64 = pair.source.value(&format!("select last_value from {sequence}")).await.parse().unwrap();
        let next: i64 = pair.target.value(&format!("select nextval('{sequence}')")).await.parse().unwrap();
        assert!(next > last, "{sequence} continues with {next} after {last}");
    }
}

/// The parts of all copied relations, each with the time at which the target recorded it.
async fn copied_at(target: &Database) -> Vec<String> {
    if target.value("select to_regclass('_hyperlift.copy_part') is null").await == "t" {
        return Vec::new();
    }
    target.rows("select source_oid, part, p.at from _hyperlift.copy_part p join _hyperlift.relation using (source_oid) where state = 'copied'").await
}

fn is_copy(event: &Event, wanted: TableState) -> bool {
    matches!(event, Event::CopyProgress(CopyProgress { state, .. }) if *state == wanted)
}

#[tokio::test]
async fn r_1_killed_before_the_slot_and_in_the_copy_it_continues_and_copies_nothing_twice() {
    let pair = Pair::own(ServerOptions::default()).await;
    data::load(&pair.source.uri, Size::TINY).await.unwrap();
    pair.source.execute("create table public.held (id int primary key)").await;
    let holder = pair.source.session().await;
    holder.batch_execute("begin; insert into public.held values (1)").await.unwrap();
    let application = Application::start(&pair.source.uri, load(4, 60.0)).await.unwrap();
    let mut migration = Migration::of(&pair).plan(DEMO_PLAN).arguments(&["--table-jobs", "1", "--index-jobs", "1"]);
    for _ in 0..2 {
        migration.start();
        migration.event("the slot waits", |e| matches!(e, Event::Waiting { holders, .. } if !holders.is_empty())).await;
        migration.kill().await;
    }
    holder.batch_execute("commit").await.unwrap();
    migration.start();
    migration.event("slot", |e| matches!(e, Event::SlotCreated { .. })).await;
    migration.kill().await;
    for (what, after) in [(TableState::Copying, 1), (TableState::Done, 1), (TableState::Copying, 3), (TableState::Indexing, 4), (TableState::Done, 6)]
    {
        let before = copied_at(&pair.target).await;
        migration.start();
        let mut times = 0;
        migration
            .event("progress of the copy", |e| {
                times += u32::from(is_copy(e, what));
                times >= after
            })
            .await;
        migration.kill().await;
        let now = copied_at(&pair.target).await;
        assert!(before.iter().all(|part| now.contains(part)), "copied again: {before:?}, then {now:?}");
    }
    let before = copied_at(&pair.target).await;
    assert!(!before.is_empty());
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let now = copied_at(&pair.target).await;
    assert!(before.iter().all(|part| now.contains(part)), "copied again: {before:?}, then {now:?}");
    written(&application, 20).await;
    application.stop().await.unwrap();
    migration.finish(&pair).await;
    pair.assert_equal().await;
    pair.assert_same_schema().await;
}

#[tokio::test]
async fn c_2_commit_order_with_restart() {
    let pair = Pair::own(ServerOptions::default()).await;
    pair.source
        .execute("create table public.t (id int primary key, v text); create table public.bag (v text); alter table public.bag replica identity full")
        .await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    // It begins first and commits last: its BEGIN is before everything that is confirmed in between.
    let long = pair.source.session().await;
    long.batch_execute("begin; insert into public.t values (0, 'begun first'); insert into public.bag values ('begun first')").await.unwrap();
    for round in 1..=3 {
        pair.source.execute(&format!("insert into public.t values ({round}, 'short'); insert into public.bag values ('short')")).await;
        migration.level_with(&pair.source).await;
        let killed = if round % 2 == 1 { migration.kill().await } else { migration.stop().await };
        assert_eq!(killed.code(), (round % 2 == 0).then_some(4));
        long.batch_execute(&format!("insert into public.t values (10 + {round}, 'in the long one'); update public.t set v = v || '.' where id = 0"))
            .await
            .unwrap();
        pair.source.execute(&format!("update public.t set v = 'while hyperlift does not run' where id = {round}")).await;
        migration.start();
        migration.stage(Stage::CatchUp).await;
    }
    long.batch_execute("commit").await.unwrap();
    pair.source.execute("delete from public.bag where v = 'begun first'; insert into public.bag values ('last'), ('last')").await;
    migration.level_with(&pair.source).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
    assert_eq!(pair.target.value("select v from public.t where id = 0").await, "begun first...");
}

#[tokio::test]
async fn r_1_killed_in_replay_it_applies_every_change_once() {
    let pair = Pair::own(ServerOptions::default()).await;
    data::load(&pair.source.uri, Size::TINY).await.unwrap();
    let mut migration = Migration::of(&pair).plan(DEMO_PLAN);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let application = Application::start(&pair.source.uri, load(4, 200.0)).await.unwrap();
    for changes in [1, 200, 400] {
        migration.event("changes", |e| matches!(e, Event::Replayed(ReplayStatus { changes: n, .. }) if *n >= changes)).await;
        migration.kill().await;
        migration.start();
    }
    migration.stage(Stage::CatchUp).await;
    application.stop().await.unwrap();
    migration.finish(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_12_a_table_that_was_made_during_the_migration_is_named_at_the_end() {
    let pair = Pair::shared().await;
    pair.source.execute("create table public.t (id int primary key); insert into public.t values (1)").await;
    let mut migration = InProcess::start(&pair, &["--analyze-below", "1GB", "--new-tables", "tell"], |config| config.interactive = true);
    migration.until(|s| s.stage == Some(Stage::CatchUp)).await;
    pair.source.execute("create table public.young (id int primary key); insert into public.young values (1)").await;
    migration.until(|s| !s.gates.is_empty() && s.gates.iter().all(|g| g.passed || !g.hard)).await;
    migration.command(Command::OpenCutover).await;
    let asked = migration.until(|s| s.prompts.shown().is_some_and(|p| p.kind == PromptKind::Cutover && p.blocked_by.is_none())).await;
    migration.answer(asked.prompts.shown().unwrap().id, Answer::Confirm).await;
    let done = migration.until(|s| s.schema.not_moved.iter().any(|(object, _)| object == "TABLE public.young")).await;
    assert!(!done.schema.not_moved.iter().any(|(object, _)| object == "TABLE public.t"), "{:?}", done.schema.not_moved);
    migration.command(Command::Leave).await;
    assert_eq!(migration.ended().await.unwrap_err().kind, Kind::Differs);
}

#[tokio::test]
async fn r_1_killed_in_the_cutover_it_completes() {
    let pair = Pair::shared().await;
    data::load(&pair.source.uri, Size::TINY).await.unwrap();
    let mut migration = Migration::of(&pair).plan(DEMO_PLAN);
    let stepped = |wanted: CutoverStep| move |e: &Event| matches!(e, Event::CutoverStepped { step, .. } if *step == wanted);
    for step in [CutoverStep::Drain, CutoverStep::Sequences, CutoverStep::LastObjects] {
        migration.start_with_cutover();
        migration.event("a step of the cutover", stepped(step)).await;
        migration.kill().await;
        pair.source.execute("select 1").await;
    }
    migration.start_with_cutover();
    migration.event("completion", |e| matches!(e, Event::Completed { .. })).await;
    migration.kill().await;
    migration.start_with_cutover();
    migration.ended().await.assert_code(0);
    pair.assert_untouched().await;
    pair.assert_equal().await;
    pair.assert_same_schema().await;
    // Once more: nothing remains to be done, and nothing is done.
    migration.start_with_cutover();
    migration.ended().await.assert_code(0);
    pair.assert_equal().await;
}

#[tokio::test]
async fn a_stop_at_any_place_exits_with_4_and_can_be_continued() {
    type Place = (&'static str, fn(&Event) -> bool);
    let pair = Pair::shared().await;
    data::load(&pair.source.uri, Size::TINY).await.unwrap();
    let mut migration = Migration::of(&pair).plan(DEMO_PLAN);
    let places: [Place; 5] = [
        ("preflight", |e| matches!(e, Event::Checked { .. })),
        ("schema", |e| matches!(e, Event::SchemaProgress { done: 3.., .. })),
        ("slot", |e| matches!(e, Event::SlotCreated { .. })),
        ("copy", |e| is_copy(e, TableState::Done)),
        ("replay", |e| matches!(e, Event::Replayed(..))),
    ];
    for (place, reached) in places {
        migration.start();
        migration.event(place, reached).await;
        let ended = migration.stop().await;
        ended.assert_code(4);
        assert!(ended.events.iter().any(|e| matches!(e, Event::Stopped { .. })), "{place}");
        assert_eq!(ended.stderr, "", "{place}");
    }
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}
