//! Tables whose changes take long are named once, with the statement that fixes them.

use hyperlift::event::{Event, SlowTable, Stage};

use crate::support::{Migration, Pair};

#[tokio::test]
async fn c_20_a_table_that_is_scanned_for_each_change_is_named_with_the_index_that_helps() {
    let pair = Pair::shared().await;
    // The number tells rows apart, as the planner's statistics know; what is found by a key is never slow.
    pair.source
        .execute(
            "create table public.bag (kind int, number int, note text); alter table public.bag replica identity full;
            create table public.keyed (number int primary key, note text);
            insert into public.bag select i % 3, i, 'before' from generate_series(1, 5000) i;
            insert into public.keyed select i, 'before' from generate_series(1, 5000) i;
            analyze public.bag",
        )
        .await;
    let mut migration = Migration::of(&pair);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    let rows_at_the_end = "update public.bag set note = 'during' where number between 4600 and 4900; update public.keyed set note = 'during'";
    pair.source.execute(rows_at_the_end).await;
    let slowed = migration.event("the report of the slow table", |e| matches!(e, Event::SlowedDown(..))).await;
    let Event::SlowedDown(SlowTable { table, reason, fix }) = slowed else { panic!() };
    assert_eq!(table.to_string(), "public.bag");
    assert!(reason.contains("REPLICA IDENTITY FULL"), "{reason}");
    assert_eq!(fix, "create index concurrently on public.bag (number);");
    // The advice can be run as it is, while replay continues.
    pair.target.execute(&fix).await;
    for n in 0..20 {
        pair.source.execute(&format!("update public.bag set note = 'turn {n}' where number between 4600 and 4630")).await;
    }
    migration.level_with(&pair.source).await;
    let ended = migration.stop().await;
    ended.assert_code(4);
    assert_eq!(ended.events.iter().filter(|e| matches!(e, Event::SlowedDown(..))).count(), 1);
    migration.cut_over(&pair).await;
    pair.assert_equal().await;
}
