//! Changes that find no row on the target, or collide there: replay stops, asks, or counts them.

use hyperlift::{
    event::{Answer, Event, Stage},
    state::State,
};

use crate::support::{InProcess, Migration, Pair};

/// Two tables that agree, in catch-up; then somebody changes the target.
async fn disturbed(pair: &Pair, migration: &mut Migration) {
    pair.source
        .execute(
            "create table public.t (id int primary key, v text); insert into public.t select i, 'before' from generate_series(1, 9) i;
            create table public.u (id int primary key); create table public.fine (id int primary key)",
        )
        .await;
    migration.start();
    migration.stage(Stage::CatchUp).await;
    pair.target.execute("delete from public.t where id <= 2; insert into public.u values (100)").await;
}

#[tokio::test]
async fn c_18_changes_that_find_no_row_or_collide_are_counted_when_requested() {
    let pair = Pair::shared().await;
    let mut migration = Migration::of(&pair).arguments(&["--on-conflict", "count"]);
    disturbed(&pair, &mut migration).await;
    pair.source.execute("update public.t set v = 'changed' where id <= 3; delete from public.t where id = 4").await;
    pair.source.execute("insert into public.u values (99), (100), (101); insert into public.fine values (1)").await;
    let missed = |name: &'static str, n: u64| move |e: &Event| matches!(e, Event::Missed { table, missed } if table.name == name && *missed == n);
    // In whichever order.
    let mut left = vec![("t", 2), ("u", 1)];
    while !left.is_empty() {
        let found = migration.event("missed changes", |e| left.iter().any(|(name, n)| missed(name, *n)(e))).await;
        left.retain(|(name, n)| !missed(name, *n)(&found));
    }
    migration.level_with(&pair.source).await;
    let soft = |e: &Event| {
        let Event::GatesChecked { gates } = e else { return false };
        gates.iter().any(|g| !g.passed && !g.hard && g.detail.contains("2 changes of public.t") && g.detail.contains("1 change of public.u"))
    };
    migration.event("a gate that warns", soft).await;
    migration.kill().await;

    // What a killed run has skipped counts, too, although it did not come to record it.
    let path = migration.dir().join("migration.json");
    let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["differences"] = serde_json::json!([]);
    std::fs::write(&path, record.to_string()).unwrap();
    migration.start();
    migration.stage(Stage::CatchUp).await;
    migration.event("what was missed before", missed("t", 2)).await;
    pair.source.execute("delete from public.t where id = 1").await;
    migration.event("one more", missed("t", 3)).await;
    migration.stop().await.assert_code(4);
    migration.start_with_cutover();
    let ended = migration.ended().await;
    ended.assert_code(5);
    assert!(ended.stderr.contains("3 changes of public.t") && ended.stderr.contains("1 change of public.u"), "{}", ended.stderr);
    assert!(!ended.stderr.contains("public.fine"), "{}", ended.stderr);
    assert!(ended.events.iter().any(|e| matches!(e, Event::Completed { .. })));
    assert_eq!(pair.target.rows("select id, v from public.t where id < 6 order by id").await, ["3|changed", "5|before"]);
    assert_eq!(pair.target.rows("select id from public.u order by id").await, ["99", "100", "101"]);
    assert_eq!(pair.target.rows("select id from public.fine").await, ["1"]);
    pair.assert_untouched().await;
}

#[tokio::test]
async fn c_18_replay_stops_at_a_change_that_finds_no_row_and_says_how_to_go_on() {
    let pair = Pair::shared().await;
    let mut migration = Migration::of(&pair);
    disturbed(&pair, &mut migration).await;
    pair.source.execute("update public.t set v = 'changed' where id = 1").await;
    let ended = migration.ended().await;
    ended.assert_code(1);
    assert!(ended.stderr.contains("public.t") && ended.stderr.contains("--on-conflict count"), "{}", ended.stderr);
    assert!(!ended.events.iter().any(|e| matches!(e, Event::Missed { .. })));
    // After the operator has fixed the rows it goes on, and nothing differs.
    pair.target.execute("insert into public.t values (1, 'before'), (2, 'before'); delete from public.u").await;
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn c_18_the_operator_lets_a_change_be_tried_again_or_accepts_that_its_table_differs() {
    let pair = Pair::shared().await;
    let tables = "create table public.t (id int primary key, v text); insert into public.t select i, 'before' from generate_series(1, 9) i;
        create table public.u (id int primary key)";
    pair.source.execute(tables).await;
    let mut migration = InProcess::start(&pair, &["--cutover-when-ready", "--quiet-for", "1"], |config| config.interactive = true);
    migration.until(|s| s.stage == Some(Stage::CatchUp)).await;
    pair.target.execute("delete from public.t where id = 1; insert into public.u values (100)").await;
    pair.source.execute("update public.t set v = 'changed' where id = 1").await;
    pair.source.execute("insert into public.u values (99), (100), (101)").await;
    let prompt = |s: &State, table: &str| s.prompts.failure_of(table).map(|p| p.id);
    // The gate names the failure that is shown, because this is the one that the operator can answer.
    let shown = |s: &State| s.prompts.shown().and_then(|p| p.subject.as_ref()).map(|subject| format!("{subject} waits for you"));
    let named = |s: &State| shown(s).is_some_and(|text| s.gates.iter().any(|g| g.hard && !g.passed && g.detail == text));

    // One after the other, or together, as their lanes are.
    let state = migration.until(|s| prompt(s, "public.t").is_some() && named(s)).await;
    let id = prompt(&state, "public.t").unwrap();
    assert!(state.tables.iter().any(|t| t.diverged.is_some()), "{:?}", state.tables);
    migration.answer(id, Answer::Retry).await;
    // Nothing has changed: it fails again, and asks again.
    let state = migration.until(|s| prompt(s, "public.t").is_some_and(|again| again != id)).await;
    pair.target.execute("insert into public.t values (1, 'before')").await;
    migration.answer(prompt(&state, "public.t").unwrap(), Answer::Retry).await;
    let state = migration.until(|s| prompt(s, "public.u").is_some()).await;
    migration.answer(prompt(&state, "public.u").unwrap(), Answer::Skip).await;

    let state = migration.until(|s| s.cutover.completed.is_some()).await;
    assert_eq!(state.prompts.shown(), None);
    migration.command(hyperlift::event::Command::Leave).await;
    let error = migration.ended().await.unwrap_err();
    assert!(error.exit_code() == 5 && error.to_string().contains("public.u"), "{error}");
    assert!(!error.to_string().contains("public.t"), "{error}");
    assert_eq!(pair.target.value("select v from public.t where id = 1").await, "changed");
    assert_eq!(pair.target.rows("select id from public.u order by id").await, ["99", "100", "101"]);
}
