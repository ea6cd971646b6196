//! The summary that stays on the normal screen when the program ends.

use std::fmt::Write as _;

use crate::{
    event::{IdentityState, SlotStatus, Stage, StageState, TableState},
    format,
    state::{Ended, State},
};

/// How the run ended, and what to do next.
///
/// ```text
/// hyperlift a1   prod-db/shop → ts-cloud/tsdb   STOPPED at Copy after 00:41:12
///   tables    3 done, 4 interrupted, 2 queued, 1 failed (public.geo_blobs: invalid byte sequence, 22021)
///   slot      hyperlift_a1 stays on the source and holds WAL (91 MB now, grows with writes)
///   continue  the same command, with --dir a1
///   give up   hyperlift clean --dir a1 (and the same URIs)     drops slot, publications, spool; reverts 2 replica identities
///   log       a1/hyperlift.log
/// ```
pub fn exit_summary(state: &State) -> String {
    let completed = state.cutover.completed.as_ref();
    // A run of a migration that an earlier one has cut over only finishes and cleans up.
    let over = completed.is_some() || state.stage_state(Stage::Done) == StageState::Done;
    let how = match (&state.ended, completed) {
        (_, Some(_)) => "COMPLETED".to_owned(),
        (None, None) if over => "COMPLETED".to_owned(),
        (Some(Ended::Failed { .. }), None) => format!("FAILED at {}", state.stage.unwrap_or(Stage::Preflight).title()),
        _ => format!("STOPPED at {}", state.stage.unwrap_or(Stage::Preflight).title()),
    };
    let mut out = format!(
        "hyperlift {}   {} → {}   {how} after {}\n",
        state.id,
        format::short_address(&state.source.address),
        format::short_address(&state.target.address),
        format::duration(state.elapsed())
    );
    let mut line = |head: &str, text: &str| {
        let _ = writeln!(out, "  {head:<9} {}", text.replace(['\n', '\r'], " "));
    };
    if let Some(Ended::Failed { message, hint }) = &state.ended {
        line("error", message);
        if let Some(hint) = hint {
            line("hint", hint);
        }
    }
    if over {
        if let Some(completed) = completed {
            let hyper = state.tables.iter().filter(|t| t.summary.kind == crate::event::RelationKind::Hypertable).count();
            let (changes, run) = (format::count(completed.changes), if state.resumed { " in this run" } else { "" });
            line("tables", &format!("{}, {hyper} of them hypertables; {changes} changes replayed{run}", completed.tables));
        }
        for what in state.half_moved() {
            line("not moved", &what);
        }
        not_moved(state, &mut line);
        if let Some(completed) = completed {
            line("downtime", &format!("{:.1} s", completed.downtime_ms as f64 / 1000.0));
        }
        late_writes(state, &mut line);
        differing(state, &mut line);
        for (what, error) in &state.cutover.cleaned {
            match error {
                None => line("cleaned", what),
                Some(error) => line("LEFT OVER", &format!("{what}: {error}")),
            }
        }
        if state.cutover.cleaned.iter().any(|(_, error)| error.is_some()) || state.cutover.cleaned.is_empty() && state.ended.is_some() {
            line("clean up", &format!("hyperlift clean --dir {}", state.dir));
        }
        line("next", &format!("point the application at {}", state.target.address));
    } else {
        if !state.tables.is_empty() {
            line("tables", &tables(state));
        }
        differing(state, &mut line);
        let status = state.replay.slot_status.wal_status.as_str();
        let lost = [SlotStatus::GONE, SlotStatus::LOST].contains(&status);
        if let Some(slot) = state.replay.slot.as_ref().filter(|_| !lost) {
            let held = state.replay.status.source.since(state.replay.status.applied).max(state.replay.stream.spool_bytes);
            line("slot", &format!("{slot} stays on the source and holds WAL ({} now, grows with writes)", format::bytes(held)));
        }
        match &state.replay.slot {
            Some(slot) if lost => line("slot", &format!("{slot} is {status}: this migration cannot be continued")),
            _ => line("continue", &format!("the same command, with --dir {}", state.dir)),
        }
        if state.replay.slot.is_some() || state.schema.total > 0 || state.identity.count(IdentityState::Applied) > 0 {
            line("give up", &give_up(state));
        }
    }
    line("log", &format!("{}/hyperlift.log", state.dir));
    out
}

fn tables(state: &State) -> String {
    let running = [TableState::Copying, TableState::Waiting, TableState::Indexing].map(|s| state.tables.count(s)).iter().sum();
    let counts = [
        (state.tables.count(TableState::Done), "done"),
        (running, "interrupted"),
        (state.tables.count(TableState::Queued), "queued"),
        (state.tables.count(TableState::Skipped), "skipped"),
        (state.tables.count(TableState::Failed), "failed"),
    ];
    let mut text: Vec<_> = counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
    if let (Some(last), Some(failed)) = (text.last_mut(), state.tables.iter().find(|t| t.state() == TableState::Failed)) {
        let error = failed.copy.error.as_deref().unwrap_or("see the log");
        let _ = write!(last, " ({}: {error})", failed.summary.table);
    }
    text.join(", ")
}

/// What the target lacks, but for what would fill the screen: all of it is in the log.
fn not_moved(state: &State, line: &mut impl FnMut(&str, &str)) {
    const SHOWN: usize = 30;
    for (object, reason) in state.schema.not_moved.iter().take(SHOWN) {
        line("not moved", &format!("{object}: {reason}"));
    }
    if let more @ 1.. = state.schema.not_moved.len().saturating_sub(SHOWN) {
        line("not moved", &format!("{more} more: see the log"));
    }
}

fn late_writes(state: &State, line: &mut impl FnMut(&str, &str)) {
    for (table, lsn) in &state.cutover.late_writes {
        line("LATE", &format!("{table} was written on the source at {lsn}, after the cutover; the target does not have it"));
    }
}

fn differing(state: &State, line: &mut impl FnMut(&str, &str)) {
    for table in state.tables.iter().filter(|t| t.difference.is_some()) {
        let name = &table.summary.table;
        match table.missed() {
            0 => line("DIFFERS", &format!("{name}: you accepted that a change was not applied")),
            1 => line("DIFFERS", &format!("{name}: 1 change was not applied; it found no row, or collided")),
            n => line("DIFFERS", &format!("{name}: {} changes were not applied; they found no row, or collided", format::count(n))),
        }
    }
}

fn give_up(state: &State) -> String {
    let command = format!("hyperlift clean --dir {} (and the same URIs)", state.dir);
    let mut drops = Vec::new();
    if state.replay.slot.is_some() {
        drops.push("drops slot, publications, spool".to_owned());
    }
    match state.identity.count(IdentityState::Applied) {
        0 => {}
        1 => drops.push("reverts 1 replica identity".into()),
        n => drops.push(format!("reverts {n} replica identities")),
    }
    if drops.is_empty() { command } else { format!("{command}     {}", drops.join("; ")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        event::{Event, Stage},
        ui::fixture,
    };

    #[test]
    fn stopped() {
        let mut s = fixture::copy();
        s.then(1, Event::Stopped { stage: Stage::Copy });
        insta::assert_snapshot!(exit_summary(&s.state));
    }

    #[test]
    fn stopped_before_anything_was_made() {
        let mut s = fixture::starting();
        s.then(1, Event::Stopped { stage: Stage::Preflight });
        insta::assert_snapshot!(exit_summary(&s.state));
    }

    #[test]
    fn a_migration_that_an_earlier_run_completed_is_not_to_be_continued() {
        let mut s = fixture::starting();
        s.then(0, Event::StageChanged { stage: Stage::Done, state: StageState::Running });
        s.then(1, Event::StageChanged { stage: Stage::Done, state: StageState::Done });
        let text = exit_summary(&s.state);
        assert!(text.contains("COMPLETED after") && text.contains("point the application") && !text.contains("continue"), "{text}");
    }

    #[test]
    fn a_slot_that_is_lost_holds_nothing_and_nothing_is_continued() {
        for status in [SlotStatus::GONE, SlotStatus::LOST] {
            let mut s = fixture::copy();
            s.then(1, Event::SlotChecked(SlotStatus { wal_status: status.into(), safe_wal_bytes: None }));
            s.then(0, Event::Failed { message: "receiving has ended".into(), hint: None });
            let text = exit_summary(&s.state);
            assert!(text.contains(&format!("is {status}:")) && !text.contains("holds WAL") && !text.contains("the same command"), "{text}");
        }
    }

    #[test]
    fn failed() {
        insta::assert_snapshot!(exit_summary(&fixture::failed().state));
    }

    #[test]
    fn completed_with_tables_that_differ() {
        let mut s = fixture::done();
        s.then(0, Event::DivergenceSettled { table: fixture::table("orders"), accepted: true });
        s.then(1, Event::Cleaned { what: "slot hyperlift_a1".into(), error: None });
        let message = "the target differs from the source: not applied: 12 changes of public.sessions, public.orders (accepted)";
        s.then(0, Event::Failed { message: message.into(), hint: None });
        insta::assert_snapshot!(exit_summary(&s.state));
    }

    #[test]
    fn completed_with_a_late_write_and_something_left_over() {
        let mut s = fixture::done_with_late_write();
        s.then(1, Event::Cleaned { what: "publications".into(), error: None });
        s.then(0, Event::Cleaned { what: "slot hyperlift_a1".into(), error: Some("the source does not answer".into()) });
        insta::assert_snapshot!(exit_summary(&s.state));
    }
}
