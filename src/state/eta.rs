//! How long the copy and the indexes will take yet, from what they did lately.
//!
//! Copying goes on at the rate of the last minute, in bytes as the source has them on disk. An index takes as long as its table is large:
//! the pace is learned from the indexes built so far, in bytes of tables a second. Both go on at once, and a table's indexes come after
//! its copy.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::time::Duration;

use super::{Building, Meter, State, Table, between};
use crate::{event::TableState, name::TableName};

const WINDOW: Duration = Duration::from_secs(60);
/// Two samples lie so far apart at least: thousands of small tables need not each have one.
const SAMPLE_EVERY: Duration = Duration::from_millis(250);
/// Until an index tells: it gets through a table that much faster than the copy did.
const GUESS: f64 = 3.0;
/// Builds of less than this say nothing, seconds.
const ENOUGH: f64 = 1.0;

/// The pace of copying and of building indexes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct Copying {
    /// Bytes on disk, by estimate, copied in this run.
    bytes: u64,
    meter: Meter,
    sampled: Option<Timestamp>,
    /// Bytes of tables for which an index was built, and how long that took; seconds.
    indexed: (f64, f64),
}

impl Default for Copying {
    fn default() -> Self {
        Self { bytes: 0, meter: Meter::over(WINDOW), sampled: None, indexed: (0.0, 0.0) }
    }
}

impl Copying {
    /// Of one table there were `before` bytes, now there are `now`.
    pub(super) fn copied(&mut self, at: Timestamp, before: u64, now: u64) {
        self.bytes = (self.bytes + now).saturating_sub(before);
        if self.sampled.is_none_or(|last| between(last, at) >= SAMPLE_EVERY) {
            self.sampled = Some(at);
            self.meter.sample(at, self.bytes);
        }
    }
}

impl Table {
    /// Bytes on disk a second.
    fn disk_rate(&self) -> f64 {
        if self.copied_bytes == 0 { 0.0 } else { self.meter.rate() * self.done_bytes() as f64 / self.copied_bytes as f64 }
    }

    fn bytes_left(&self) -> u64 {
        match self.state {
            TableState::Queued | TableState::Copying => self.summary.bytes.saturating_sub(self.done_bytes()),
            _ => 0,
        }
    }

    /// Indexes still to be built, those under way in part.
    fn indexes_left(&self) -> f64 {
        let begun: f64 = self.building.iter().map(|b| b.fraction).sum();
        (self.indexes_total.saturating_sub(self.indexes_done) as f64 - begun).max(0.0)
    }

    /// Something of it is still to be done.
    fn is_due(&self) -> bool {
        matches!(self.state, TableState::Queued | TableState::Copying | TableState::Waiting | TableState::Indexing)
    }
}

impl State {
    pub(super) fn index_progress(&mut self, at: Timestamp, table: &TableName, (done, total): (u64, u64), building: &[String]) {
        let Some(i) = self.index.get(table).copied() else { return };
        let t = &mut self.tables[i];
        for ended in t.building.iter().filter(|b| !building.contains(&b.index)) {
            self.copying.indexed.0 += t.summary.bytes as f64;
            self.copying.indexed.1 += between(ended.since, at).as_secs_f64();
        }
        t.building.retain(|b| building.contains(&b.index));
        for index in building {
            if t.building.iter().all(|b| b.index != *index) {
                t.building.push(Building { index: index.clone(), since: at, phase: String::new(), fraction: 0.0 });
            }
        }
        (t.indexes_done, t.indexes_total) = (done, total);
    }

    /// Bytes of its table a second that one build gets through.
    fn index_rate(&self, now: Timestamp) -> Option<f64> {
        let (mut bytes, mut seconds) = self.copying.indexed;
        for t in self.tables.iter().filter(|t| t.state == TableState::Indexing) {
            for b in t.building.iter().filter(|b| b.fraction > 0.0) {
                bytes += b.fraction * t.summary.bytes as f64;
                seconds += between(b.since, now).as_secs_f64();
            }
        }
        let guess = self.copying.meter.rate() * GUESS;
        if seconds >= ENOUGH && bytes > 0.0 { Some(bytes / seconds) } else { (guess > 0.0).then_some(guess) }
    }

    /// Seconds until everything is copied.
    fn copying_all(&self) -> Option<f64> {
        seconds(self.tables.iter().map(Table::bytes_left).sum(), self.copying.meter.rate())
    }

    /// Seconds for the indexes of one table; they are built at once as far as there are jobs.
    fn indexing(&self, t: &Table, rate: f64) -> f64 {
        let left = t.indexes_left();
        let at_once = left.ceil().min(self.builds_at_once()).max(1.0);
        left * t.summary.bytes as f64 / (rate * at_once)
    }

    fn builds_at_once(&self) -> f64 {
        f64::from(self.index_jobs.max(1))
    }

    /// Estimated time until a table is copied and has its indexes; `None` when it is not its turn, or nothing is known.
    pub fn table_left(&self, t: &Table, now: Timestamp) -> Option<Duration> {
        let copying = match t.state {
            TableState::Copying => copying(t, self.copying_all())?,
            TableState::Waiting | TableState::Indexing => 0.0,
            _ => return None,
        };
        let indexing = if t.indexes_left() > 0.0 { self.indexing(t, self.index_rate(now)?) } else { 0.0 };
        duration(copying + indexing)
    }

    /// Estimated time until all tables are; `None` when that is so, when they stand still, or nothing is known.
    pub fn copy_left(&self, now: Timestamp) -> Option<Duration> {
        if self.paused || !self.tables.iter().any(Table::is_due) {
            return None;
        }
        let due = || self.tables.iter().filter(|t| t.is_due());
        let all = self.copying_all()?;
        let indexes: f64 = due().map(|t| t.indexes_left() * t.summary.bytes as f64).sum();
        if indexes == 0.0 {
            return duration(all);
        }
        let rate = self.index_rate(now)?;
        // The indexes of a table come after its copy.
        let one_after_the_other = due().map(|t| {
            let copied = if t.state.is_copied() { 0.0 } else { copying(t, Some(all)).unwrap_or(all) };
            copied + self.indexing(t, rate)
        });
        duration(one_after_the_other.fold(indexes / (rate * self.builds_at_once()), f64::max).max(all))
    }
}

/// Seconds until one table is copied: at its own pace, or with all others at the latest, as it gets what they leave.
fn copying(t: &Table, all: Option<f64>) -> Option<f64> {
    let own = seconds(t.bytes_left(), t.disk_rate());
    own.into_iter().chain(all).reduce(f64::min)
}

/// `None` when it would never end.
fn seconds(bytes: u64, rate: f64) -> Option<f64> {
    match bytes {
        0 => Some(0.0),
        _ => (rate > 0.0).then(|| bytes as f64 / rate),
    }
}

fn duration(seconds: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Event, RelationKind, RelationSummary, Stamped};

    const MB: u64 = 1 << 20;

    struct Story(State);

    impl Story {
        /// Tables of a row a byte, largest first, with this many indexes; two index jobs.
        fn of(tables: &[(&str, u64, u64)]) -> Self {
            let summary = |(name, bytes, _): &(&str, u64, u64)| RelationSummary {
                table: TableName::new("s", *name),
                kind: RelationKind::Plain,
                bytes: *bytes,
                rows: *bytes,
            };
            let mut story = Self(State::default());
            story.at(0, Event::RelationsFound { relations: tables.iter().map(summary).collect() });
            story.at(0, Event::JobsChanged { table_jobs: 4, index_jobs: 2 });
            story.at(0, Event::IndexesCounted { indexes: tables.iter().map(|(name, _, n)| (TableName::new("s", *name), *n)).collect() });
            story
        }

        fn at(&mut self, second: i64, event: Event) {
            self.0.apply(&Stamped { at: Timestamp::from_second(second).unwrap(), event });
        }

        fn copied(&mut self, second: i64, name: &str, state: TableState, rows: u64) {
            // On the wire twice of what it is on disk.
            self.at(second, Event::CopyProgress { table: TableName::new("s", name), state, rows, bytes: rows * 2, error: None });
        }

        fn indexed(&mut self, second: i64, name: &str, done: u64, total: u64, building: &[&str]) {
            let building = building.iter().map(ToString::to_string).collect();
            self.at(second, Event::IndexProgress { table: TableName::new("s", name), done, total, building });
        }

        fn left(&self) -> Option<u64> {
            self.0.copy_left(self.0.now.unwrap()).map(|d| d.as_secs_f64().round() as u64)
        }

        fn left_of(&self, name: &str) -> Option<u64> {
            let table = self.0.table(&TableName::new("s", name)).unwrap();
            self.0.table_left(table, self.0.now.unwrap()).map(|d| d.as_secs_f64().round() as u64)
        }
    }

    #[test]
    fn without_indexes_it_is_the_rest_at_the_rate_of_the_last_minute() {
        let mut s = Story::of(&[("a", 100 * MB, 0), ("b", 50 * MB, 0)]);
        assert_eq!(s.left(), None, "nothing is known yet");
        s.copied(0, "a", TableState::Copying, 0);
        for second in 1..=10 {
            s.copied(second, "a", TableState::Copying, second as u64 * MB);
        }
        assert_eq!((s.left(), s.left_of("a"), s.left_of("b")), (Some(140), Some(90), None));
        // It goes five times as fast later: after a minute the first ten seconds count no more.
        for second in 11..=20 {
            s.copied(second, "a", TableState::Copying, 10 * MB + (second as u64 - 10) * 4 * MB);
        }
        let between = s.left().unwrap();
        assert!((20..100).contains(&between), "{between}");
        s.at(21, Event::Paused { paused: true });
        assert_eq!(s.left(), None, "it stands still");
    }

    #[test]
    fn indexes_of_the_last_table_come_after_its_copy() {
        let mut s = Story::of(&[("a", 100 * MB, 2), ("b", 10 * MB, 1)]);
        s.copied(0, "a", TableState::Copying, 0);
        s.copied(0, "b", TableState::Copying, 0);
        s.copied(5, "b", TableState::Indexing, 10 * MB);
        s.indexed(5, "b", 0, 1, &["b_pkey"]);
        s.copied(10, "a", TableState::Copying, 40 * MB);
        // An index of 10 MB took 5 s: 2 MB/s. Both of a are built at once, so that takes 50 s after its copy.
        s.indexed(10, "b", 1, 1, &[]);
        s.copied(10, "b", TableState::Done, 10 * MB);
        // 60 MB at the 5 MB/s of all: b is done, and a gets what it leaves.
        assert_eq!((s.left(), s.left_of("a")), (Some(12 + 50), Some(12 + 50)));
        s.copied(25, "a", TableState::Indexing, 100 * MB);
        s.indexed(25, "a", 0, 2, &["a_pkey", "a_time"]);
        assert_eq!((s.left(), s.left_of("a")), (Some(50), Some(50)));
        // It tells of itself: a quarter in five seconds.
        for index in ["a_pkey", "a_time"] {
            let (table, phase) = (TableName::new("s", "a"), "building index: scanning table".into());
            s.at(30, Event::IndexBuilding { table, index: index.into(), phase, fraction: 0.25 });
        }
        let left = s.left().unwrap();
        assert!((15..25).contains(&left), "{left}");
        s.indexed(45, "a", 2, 2, &[]);
        s.copied(45, "a", TableState::Done, 100 * MB);
        assert_eq!(s.left(), None, "all is there");
    }

    #[test]
    fn what_an_earlier_run_has_copied_is_not_this_runs_pace() {
        let mut s = Story::of(&[("a", 100 * MB, 0), ("b", 100 * MB, 0)]);
        s.copied(0, "a", TableState::Indexing, 100 * MB);
        s.copied(0, "a", TableState::Done, 100 * MB);
        s.copied(0, "b", TableState::Copying, 0);
        s.copied(1, "b", TableState::Copying, 0);
        s.copied(11, "b", TableState::Copying, 10 * MB);
        let left = s.left().unwrap();
        assert!((89..=100).contains(&left), "{left}");
    }
}
