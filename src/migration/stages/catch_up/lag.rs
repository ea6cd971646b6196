//! Lag in time: how long ago the source was where the target is now.
//!
//! The clocks of two hosts cannot be compared (C-22). So each time the source is polled, its WAL position is noted with the time on our
//! own monotonic clock; the applied position is then looked up among those notes.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::lsn::Lsn;

/// Notes kept; when there are more, every other one is dropped. Even, so that the newest stays.
const MOST: usize = 4_096;

/// The source was at `lsn` from `first` to `last`, at least.
#[derive(Clone, Copy, Debug)]
struct Note {
    lsn: Lsn,
    first: Instant,
    last: Instant,
}

/// Where the source was, and when.
#[derive(Debug, Default)]
pub struct History {
    notes: VecDeque<Note>,
}

impl History {
    /// The source is here, no earlier than `at`.
    pub fn note(&mut self, lsn: Lsn, at: Instant) {
        if self.notes.back().is_some_and(|n| lsn < n.lsn) {
            // A failover to a server that has less.
            self.notes.clear();
        }
        match self.notes.back_mut() {
            Some(newest) if newest.lsn == lsn => newest.last = at,
            _ => self.notes.push_back(Note { lsn, first: at, last: at }),
        }
        if self.notes.len() > MOST {
            let mut keep = false;
            self.notes.retain(|_| {
                keep = !keep;
                keep
            });
        }
    }

    /// Positions before this one are no longer needed.
    pub fn forget_before(&mut self, lsn: Lsn) {
        while self.notes.get(1).is_some_and(|n| n.lsn <= lsn) {
            self.notes.pop_front();
        }
    }

    /// How long ago the source left this position; zero where it is still there.
    ///
    /// `since_commit` is the age of the last transaction that was taken from the stream, by the clock of the source alone. It is
    /// used for positions before the first note; without it they have no lag.
    pub fn lag(&self, applied: Lsn, now: Instant, since_commit: Option<Duration>) -> Option<Duration> {
        let newest = self.notes.back()?;
        if applied >= newest.lsn {
            return Some(Duration::ZERO);
        }
        let after = self.notes.partition_point(|n| n.lsn <= applied);
        let next = self.notes[after];
        let Some(before) = after.checked_sub(1).map(|i| self.notes[i]) else {
            let known = now.saturating_duration_since(next.first);
            return since_commit.map(|age| age.max(known));
        };
        // Between two notes it is assumed to have written evenly.
        let part = applied.since(before.lsn) as f64 / next.lsn.since(before.lsn) as f64;
        let left = before.last + next.first.saturating_duration_since(before.last).mul_f64(part);
        Some(now.saturating_duration_since(left))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    /// A history of (LSN, seconds), and a function from an LSN to its lag in seconds at some second.
    fn history(notes: &[(u64, u64)]) -> (History, impl Fn(&History, u64, u64) -> Option<u64> + use<>) {
        let start = Instant::now();
        let mut history = History::default();
        for (lsn, at) in notes {
            history.note(Lsn(*lsn), start + s(*at));
        }
        (history, move |h, applied, now| h.lag(Lsn(applied), start + s(now), None).map(|d| d.as_secs()))
    }

    #[test]
    fn c_22_the_lag_behind_a_source_that_writes_is_the_time_since_it_was_there() {
        let (h, seconds) = history(&[(100, 0), (200, 10), (400, 20)]);
        assert_eq!(seconds(&h, 100, 30), Some(30));
        assert_eq!(seconds(&h, 150, 30), Some(25));
        assert_eq!(seconds(&h, 200, 30), Some(20));
        assert_eq!(seconds(&h, 300, 30), Some(15));
        assert_eq!((seconds(&h, 400, 30), seconds(&h, 999, 30)), (Some(0), Some(0)));
        // Never negative, whatever is asked.
        assert_eq!(seconds(&h, 300, 5), Some(0));
    }

    #[test]
    fn c_22_an_idle_source_is_in_sync_and_its_idle_time_does_not_count() {
        let (mut h, seconds) = history(&[(100, 0), (100, 500), (100, 1000)]);
        assert_eq!(seconds(&h, 100, 2000), Some(0));
        // It writes again: the lag counts from then, not from when the target was in sync first.
        h.note(Lsn(150), Instant::now() + s(1001));
        assert!(seconds(&h, 100, 1001).unwrap() <= 1);
    }

    #[test]
    fn before_the_first_note_only_the_clock_of_the_source_counts() {
        let (h, seconds) = history(&[(100, 0), (200, 10)]);
        assert_eq!(seconds(&h, 50, 10), None);
        let now = Instant::now() + s(10);
        assert_eq!(h.lag(Lsn(50), now, Some(s(3600))).unwrap().as_secs(), 3600);
        // At least as long as it was observed.
        assert!(h.lag(Lsn(50), now, Some(s(1))).unwrap() >= s(9));
        assert_eq!(History::default().lag(Lsn(50), now, Some(s(1))), None);
    }

    #[test]
    fn the_history_is_bounded_and_reaches_back_all_the_same() {
        let notes: Vec<_> = (0..50_000).map(|i| (1_000 + i * 10, i)).collect();
        let (mut h, seconds) = history(&notes);
        assert!(h.notes.len() <= MOST);
        for lsn in [1_000, 123_456, 499_000] {
            let exact = 60_000 - (lsn - 1_000) / 10;
            assert!(seconds(&h, lsn, 60_000).unwrap().abs_diff(exact) <= 1, "{lsn}");
        }
        let before = h.notes.len();
        h.forget_before(Lsn(400_000));
        assert!(h.notes.len() < before);
        assert_eq!(seconds(&h, 400_000, 60_000), Some(60_000 - 39_900));
    }

    #[test]
    fn a_source_that_has_gone_back_starts_a_new_history() {
        let (h, seconds) = history(&[(500, 0), (400, 10), (450, 20)]);
        assert_eq!((seconds(&h, 400, 20), seconds(&h, 450, 20)), (Some(10), Some(0)));
    }
}
