//! The copy when something breaks: the target crashes, a table has to be given up, large objects are interrupted.

use hyperlift::{
    demo::servers::{Programs, Server, ServerOptions},
    event::{Event, Stage},
};

use crate::support::{Migration, Pair, until};

#[tokio::test]
async fn c_16_what_a_crash_of_the_target_has_undone_is_copied_again() {
    let timescale = Programs::newest().unwrap().has_timescale();
    // Nothing reaches the disk that nobody waits for.
    let options = [("wal_buffers", "64MB"), ("bgwriter_lru_maxpages", "0"), ("autovacuum", "off")];
    let target = options.iter().fold(ServerOptions { timescale, ..ServerOptions::default() }, |o, (name, value)| o.setting(*name, *value));
    let pair = Pair::on(Server::start(ServerOptions::default()).await.unwrap(), Server::start(target).await.unwrap()).await;
    // The small one is copied while the last part of the large one still is; its index waits for an advisory lock of the target.
    pair.source
        .execute(
            "create function public.gate(n int) returns int language plpgsql immutable as
                 $$ begin perform pg_catalog.pg_advisory_xact_lock_shared(42); return n; end $$;
             create table public.large (id bigint, v text); alter table public.large replica identity full;
             insert into public.large select i, repeat(md5(i::text), 8) from generate_series(1, 14000) i;
             create table public.small (id int primary key, v text); insert into public.small select id, v from public.large limit 10;
             create index on public.small (public.gate(id))",
        )
        .await;
    let gate = pair.target.session().await;
    gate.batch_execute("select pg_advisory_lock(42)").await.unwrap();
    let walwriter = pair.target.value("select pid from pg_stat_activity where backend_type = 'walwriter'").await;
    let stopped = std::process::Command::new("kill").args(["-STOP", &walwriter]).status().unwrap();
    assert!(stopped.success());
    let mut migration = Migration::of(&pair).arguments(&["--split-tables-larger-than", "1MB", "--copy-rate", "1MB"]);
    migration.start();
    let large = "select state, (select count(*) >= 3 from _hyperlift.copy_part p where p.source_oid = r.source_oid) from _hyperlift.relation r where name = 'large'";
    let small = "select state from _hyperlift.relation where name = 'small'";
    until("the middle of the copy", async || {
        pair.target.value("select to_regclass('_hyperlift.copy_part') is not null").await == "t"
            && pair.target.rows(small).await == ["copied"]
            && pair.target.rows(large).await == ["planned|t"]
    })
    .await;
    pair.target_server().kill().await.unwrap();
    pair.target_server().restart().await.unwrap();
    drop(gate);
    assert_eq!(pair.target.value(small).await, "planned", "the crash has undone it");
    // Whose snapshot lives is copied again at once, what counted as finished by another run.
    let ended = migration.ended().await;
    ended.assert_code(1);
    assert!(ended.stderr.contains("the target has lost the copy of public.small"), "{}", ended.stderr);
    let begun = |e: &&Event| matches!(e, Event::CopyBegun { table, .. } if table.name == "large");
    assert_eq!(ended.events.iter().filter(begun).count(), 2, "{:?}", ended.events);
    migration.start();
    migration.stage(Stage::CatchUp).await;
    migration.finish(&pair).await;
    pair.assert_equal().await;
}
