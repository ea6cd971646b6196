//! Slows the copies down: a pause, and a limit on the rate at which the source is read.

use std::time::Duration;
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep},
};

use crate::error::{Error, Result};

/// After an idle time this much of the rate may be used without a wait.
const BURST: Duration = Duration::from_millis(200);
/// Bytes that a copy gets in its turn: about the least that is read at a time.
const TURN: u64 = 16 << 10;

/// Every copy calls it between two reads from the source.
pub struct Throttle {
    paused: watch::Receiver<bool>,
    /// The mutex is fair: who asked first gets it first. So copies take turns, however much each reads at a time.
    bucket: Option<Mutex<Bucket>>,
}

impl Throttle {
    /// `rate` in bytes a second.
    pub fn new(paused: watch::Receiver<bool>, rate: Option<u64>) -> Self {
        Self { paused, bucket: rate.map(|rate| Mutex::new(Bucket::new(rate, Instant::now()))) }
    }

    /// Waits until the copy is not paused.
    pub async fn resumed(&self) -> Result<()> {
        if *self.paused.borrow() {
            self.paused.clone().wait_for(|paused| !paused).await.map_err(|_| Error::stopped())?;
        }
        Ok(())
    }

    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// Reports bytes that were moved, and waits until more may be moved.
    pub async fn moved(&self, bytes: u64) -> Result<()> {
        if let Some(bucket) = &self.bucket {
            let mut remaining = bytes;
            while remaining > 0 {
                let turn = remaining.min(TURN);
                let mut bucket = bucket.lock().await;
                // The lock is kept while this one waits: the others could not have more either.
                let wait = bucket.take(turn, Instant::now());
                if !wait.is_zero() {
                    sleep(wait).await;
                }
                drop(bucket);
                self.resumed().await?;
                remaining -= turn;
            }
        }
        self.resumed().await
    }
}

/// A token bucket, stored as the time at which everything that was taken is paid for.
struct Bucket {
    bytes_per_second: f64,
    paid_at: Instant,
}

impl Bucket {
    fn new(rate: u64, now: Instant) -> Self {
        Self { bytes_per_second: rate.max(1) as f64, paid_at: now }
    }

    /// Takes tokens for `bytes`; returns how long to wait before the next ones.
    fn take(&mut self, bytes: u64, now: Instant) -> Duration {
        let earliest = now.checked_sub(BURST).unwrap_or(now);
        self.paid_at = self.paid_at.max(earliest) + Duration::from_secs_f64(bytes as f64 / self.bytes_per_second);
        self.paid_at.saturating_duration_since(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_limits_all_copies_together_and_saves_nothing_up() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1_000, start);
        let at = |ms| start + Duration::from_millis(ms);
        // Two copies take in turn.
        assert_eq!(bucket.take(500, at(0)), Duration::from_millis(500));
        assert_eq!(bucket.take(500, at(0)), Duration::from_secs(1));
        // They are paid for by then. An idle hour gives no more than the burst.
        assert_eq!(bucket.take(100, at(1_100)), Duration::ZERO);
        assert_eq!(bucket.take(1_000, at(3_600_000)), Duration::from_millis(800));
    }

    #[test]
    fn over_a_long_time_no_more_than_the_rate_passes() {
        let start = Instant::now();
        let mut bucket = Bucket::new(1 << 20, start);
        let (mut now, mut moved) = (start, 0u64);
        while now < start + Duration::from_secs(60) {
            moved += 65_536;
            now += bucket.take(65_536, now).max(Duration::from_millis(1));
        }
        assert!((59 << 20..=61 << 20).contains(&moved), "{moved}");
    }

    #[tokio::test(start_paused = true)]
    async fn copies_have_equal_shares_of_the_rate_whatever_they_read_at_a_time() {
        // The second rate is faster than the clock ticks.
        for (rate, seconds) in [(1 << 20, 60), (1 << 30, 2)] {
            let throttle = Throttle::new(watch::channel(false).1, Some(rate));
            let start = Instant::now();
            let copy = async |read: u64, idle: Duration, until: Duration| {
                let mut moved = 0;
                while start.elapsed() < until {
                    throttle.moved(read).await.unwrap();
                    moved += read;
                    sleep(idle).await;
                }
                moved as f64 / rate as f64
            };
            let (end, none) = (Duration::from_secs(seconds), Duration::ZERO);
            let copies = (copy(256 << 10, none, end), copy(16 << 10, none, end), copy(1 << 20, none, end), copy(16 << 10, end / 60, end));
            let (large, small, huge, slow) = tokio::join!(copies.0, copies.1, copies.2, copies.3);
            // In seconds of the rate. What the slow one does not use, the others get.
            let third = seconds as f64 / 3.0;
            assert!(slow < third / 10.0, "{large} {small} {huge} {slow}");
            for share in [large, small, huge] {
                assert!((0.9..1.1).contains(&(share / third)), "{large} {small} {huge} {slow}");
            }
        }
    }

    #[tokio::test]
    async fn a_pause_stops_copies_until_it_is_over() {
        let (pause, paused) = watch::channel(true);
        let throttle = Throttle::new(paused, None);
        let mut held = std::pin::pin!(throttle.moved(1));
        assert!(futures_util::poll!(&mut held).is_pending());
        pause.send_replace(false);
        held.await.unwrap();
    }
}
