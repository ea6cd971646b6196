//! Rates and graphs, from absolute samples.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::{collections::VecDeque, time::Duration};

/// Samples of a graph: an hour at one a second, then thinned by dropping every other one.
const GRAPH_SAMPLES: usize = 3_600;
/// Rates are averaged over this long.
const RATE_WINDOW: Duration = Duration::from_secs(10);

/// Bytes a second over the last ten seconds, or another time, from absolute samples.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Meter {
    samples: VecDeque<(Timestamp, u64)>,
    window: Duration,
}

impl Default for Meter {
    fn default() -> Self {
        Self::over(RATE_WINDOW)
    }
}

impl Meter {
    pub fn over(window: Duration) -> Self {
        Self { samples: VecDeque::new(), window }
    }

    pub fn sample(&mut self, at: Timestamp, value: u64) {
        if self.samples.back().is_some_and(|(_, last)| value < *last) {
            self.samples.clear();
        }
        self.samples.push_back((at, value));
        while self.samples.len() > 2 && between(self.samples[1].0, at) >= self.window {
            self.samples.pop_front();
        }
    }

    /// Per second; 0 before two samples exist.
    pub fn rate(&self) -> f64 {
        let (Some((t0, v0)), Some((t1, v1))) = (self.samples.front(), self.samples.back()) else { return 0.0 };
        let seconds = between(*t0, *t1).as_secs_f64();
        if seconds > 0.0 { v1.saturating_sub(*v0) as f64 / seconds } else { 0.0 }
    }
}

/// Time from `a` to `b`; zero when the clock went backwards.
pub fn between(a: Timestamp, b: Timestamp) -> Duration {
    Duration::try_from(b.duration_since(a)).unwrap_or_default()
}

/// Adds a sample to a graph.
pub fn graph(samples: &mut VecDeque<(Timestamp, u64)>, at: Timestamp, value: u64) {
    samples.push_back((at, value));
    if samples.len() > GRAPH_SAMPLES {
        let mut keep = false;
        samples.retain(|_| {
            keep = !keep;
            keep
        });
    }
}
