//! How long the copy and the indexes will still take.
//!
//! Copying continues at the rate of the last minute, in bytes as the source has them on disk. The time for an index grows with the size
//! of its table: the pace is learned from the indexes built so far, in bytes of tables a second. Both go on at the same time, and the
//! indexes of a table come after its copy.

use jiff::Timestamp;
use std::time::Duration;

use super::{State, table::Table};
use crate::event::TableState;

impl Table {
    /// Bytes on disk a second.
    fn disk_rate(&self) -> f64 {
        if self.copy.bytes == 0 { 0.0 } else { self.meter.rate() * self.done_bytes() as f64 / self.copy.bytes as f64 }
    }

    fn bytes_remaining(&self) -> u64 {
        match self.state() {
            TableState::Queued | TableState::Copying => self.summary.bytes.saturating_sub(self.done_bytes()),
            _ => 0,
        }
    }

    /// Indexes still to be built; the unfinished part of those under way.
    fn indexes_remaining(&self) -> f64 {
        let begun: f64 = self.builds.iter().map(|b| b.fraction).sum();
        (self.indexes_total.saturating_sub(self.indexes_done) as f64 - begun).max(0.0)
    }

    /// Something of it is still to be done.
    fn is_due(&self) -> bool {
        matches!(self.state(), TableState::Queued | TableState::Copying | TableState::Waiting | TableState::Indexing)
    }
}

impl State {
    /// Seconds until everything is copied.
    fn copying_all(&self) -> Option<f64> {
        seconds(self.tables.iter().map(Table::bytes_remaining).sum(), self.copy.pace.copy_rate())
    }

    /// Seconds for the indexes of one table; they are built in parallel as far as there are jobs.
    fn indexing(&self, t: &Table, rate: f64) -> f64 {
        let remaining = t.indexes_remaining();
        let parallel = remaining.ceil().min(self.parallel_builds()).max(1.0);
        remaining * t.summary.bytes as f64 / (rate * parallel)
    }

    fn parallel_builds(&self) -> f64 {
        f64::from(self.copy.index_jobs.max(1))
    }

    /// Estimated time until a table is copied and has its indexes; `None` when it is not its turn, or nothing is known.
    pub fn table_eta(&self, t: &Table, now: Timestamp) -> Option<Duration> {
        let copying = match t.state() {
            TableState::Copying => copying(t, self.copying_all())?,
            TableState::Waiting | TableState::Indexing => 0.0,
            _ => return None,
        };
        let indexing = if t.indexes_remaining() > 0.0 { self.indexing(t, self.copy.pace.index_rate(&self.tables, now)?) } else { 0.0 };
        duration(copying + indexing)
    }

    /// Estimated time until all tables are; `None` when they are, while the copy is paused, or when nothing is known.
    pub fn copy_eta(&self, now: Timestamp) -> Option<Duration> {
        if self.paused || !self.tables.iter().any(Table::is_due) {
            return None;
        }
        let due = || self.tables.iter().filter(|t| t.is_due());
        let all = self.copying_all()?;
        let indexes: f64 = due().map(|t| t.indexes_remaining() * t.summary.bytes as f64).sum();
        if indexes == 0.0 {
            return duration(all);
        }
        let rate = self.copy.pace.index_rate(&self.tables, now)?;
        // The indexes of a table come after its copy.
        let one_after_the_other = due().map(|t| {
            let copied = if t.state().is_copied() { 0.0 } else { copying(t, Some(all)).unwrap_or(all) };
            copied + self.indexing(t, rate)
        });
        duration(one_after_the_other.fold(indexes / (rate * self.parallel_builds()), f64::max).max(all))
    }
}

/// Seconds until one table is copied: at its own pace, but no later than all of them, because it gets the bandwidth of those that end.
fn copying(t: &Table, all: Option<f64>) -> Option<f64> {
    let own = seconds(t.bytes_remaining(), t.disk_rate());
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
    use crate::{
        event::{CopyProgress, Event, IndexProgress, RelationKind, RelationSummary, Stamped},
        name::TableName,
    };

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
            let table = TableName::new("s", name);
            self.at(second, Event::CopyProgress(CopyProgress { table, state, rows, bytes: rows * 2, error: None }));
        }

        fn indexed(&mut self, second: i64, name: &str, done: u64, total: u64, building: &[&str]) {
            let building = building.iter().map(ToString::to_string).collect();
            self.at(second, Event::IndexProgress(IndexProgress { table: TableName::new("s", name), done, total, building }));
        }

        fn remaining(&self) -> Option<u64> {
            self.0.copy_eta(self.0.now.unwrap()).map(|d| d.as_secs_f64().round() as u64)
        }

        fn remaining_of(&self, name: &str) -> Option<u64> {
            let table = self.0.table(&TableName::new("s", name)).unwrap();
            self.0.table_eta(table, self.0.now.unwrap()).map(|d| d.as_secs_f64().round() as u64)
        }
    }

    #[test]
    fn without_indexes_it_is_what_remains_at_the_rate_of_the_last_minute() {
        let mut s = Story::of(&[("a", 100 * MB, 0), ("b", 50 * MB, 0)]);
        assert_eq!(s.remaining(), None, "nothing is known yet");
        s.copied(0, "a", TableState::Copying, 0);
        for second in 1..=10 {
            s.copied(second, "a", TableState::Copying, second as u64 * MB);
        }
        assert_eq!((s.remaining(), s.remaining_of("a"), s.remaining_of("b")), (Some(140), Some(90), None));
        // It goes five times as fast later: after a minute the first ten seconds count no more.
        for second in 11..=20 {
            s.copied(second, "a", TableState::Copying, 10 * MB + (second as u64 - 10) * 4 * MB);
        }
        let between = s.remaining().unwrap();
        assert!((20..100).contains(&between), "{between}");
        s.at(21, Event::Paused { paused: true });
        assert_eq!(s.remaining(), None, "nothing is copied");
    }

    #[test]
    fn indexes_of_the_last_table_come_after_its_copy() {
        let mut s = Story::of(&[("a", 100 * MB, 2), ("b", 10 * MB, 1)]);
        s.copied(0, "a", TableState::Copying, 0);
        s.copied(0, "b", TableState::Copying, 0);
        s.copied(5, "b", TableState::Indexing, 10 * MB);
        s.indexed(5, "b", 0, 1, &["b_pkey"]);
        s.copied(10, "a", TableState::Copying, 40 * MB);
        // An index of 10 MB took 5 s: 2 MB/s. Both of a are built at the same time, so they take 50 s after its copy.
        s.indexed(10, "b", 1, 1, &[]);
        s.copied(10, "b", TableState::Done, 10 * MB);
        // 60 MB at the 5 MB/s of all: b is done, so a gets all of it.
        assert_eq!((s.remaining(), s.remaining_of("a")), (Some(12 + 50), Some(12 + 50)));
        s.copied(25, "a", TableState::Indexing, 100 * MB);
        s.indexed(25, "a", 0, 2, &["a_pkey", "a_time"]);
        assert_eq!((s.remaining(), s.remaining_of("a")), (Some(50), Some(50)));
        // PostgreSQL reports a quarter in five seconds.
        for index in ["a_pkey", "a_time"] {
            let (table, phase) = (TableName::new("s", "a"), "building index: scanning table".into());
            s.at(30, Event::IndexBuilding { table, index: index.into(), phase, fraction: 0.25 });
        }
        let remaining = s.remaining().unwrap();
        assert!((15..25).contains(&remaining), "{remaining}");
        s.indexed(45, "a", 2, 2, &[]);
        s.copied(45, "a", TableState::Done, 100 * MB);
        assert_eq!(s.remaining(), None, "everything is built");
    }

    #[test]
    fn what_an_earlier_run_has_copied_is_not_this_runs_pace() {
        let mut s = Story::of(&[("a", 100 * MB, 0), ("b", 100 * MB, 0)]);
        s.copied(0, "a", TableState::Indexing, 100 * MB);
        s.copied(0, "a", TableState::Done, 100 * MB);
        s.copied(0, "b", TableState::Copying, 0);
        s.copied(1, "b", TableState::Copying, 0);
        s.copied(11, "b", TableState::Copying, 10 * MB);
        let remaining = s.remaining().unwrap();
        assert!((89..=100).contains(&remaining), "{remaining}");
    }
}
