//! What holds the copies back: a pause, and the rate that the source may be asked for.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};
use tokio::sync::watch;

use crate::error::{Error, Result};

/// So much of a rate may be used at once after nothing was.
const BURST: Duration = Duration::from_millis(200);

/// All copies pass through it between two reads from the source.
pub struct Throttle {
    paused: watch::Receiver<bool>,
    bucket: Option<Mutex<Bucket>>,
}

impl Throttle {
    /// `rate` in bytes a second.
    pub fn new(paused: watch::Receiver<bool>, rate: Option<u64>) -> Self {
        Self { paused, bucket: rate.map(|rate| Mutex::new(Bucket::new(rate, Instant::now()))) }
    }

    /// Waits as long as copying is paused.
    pub async fn resumed(&self) -> Result<()> {
        if *self.paused.borrow() {
            self.paused.clone().wait_for(|paused| !paused).await.map_err(|_| Error::stopped())?;
        }
        Ok(())
    }

    pub fn is_paused(&self) -> bool {
        *self.paused.borrow()
    }

    /// So many bytes were moved: waits until more may be.
    pub async fn moved(&self, bytes: u64) -> Result<()> {
        if let Some(bucket) = &self.bucket {
            let wait = bucket.lock().unwrap_or_else(PoisonError::into_inner).take(bytes, Instant::now());
            if !wait.is_zero() {
                tokio::time::sleep(wait).await;
            }
        }
        self.resumed().await
    }
}

/// A token bucket, kept as the time at which all that was taken is paid for.
struct Bucket {
    bytes_per_second: f64,
    paid_at: Instant,
}

impl Bucket {
    fn new(rate: u64, now: Instant) -> Self {
        Self { bytes_per_second: rate.max(1) as f64, paid_at: now }
    }

    /// Takes tokens for `bytes` and says how long to wait before the next ones.
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
        // Paid for meanwhile; an hour of nothing gives no more than the burst.
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

    #[tokio::test]
    async fn a_pause_holds_copies_until_it_is_over() {
        let (pause, paused) = watch::channel(true);
        let throttle = Throttle::new(paused, None);
        let mut held = std::pin::pin!(throttle.moved(1));
        assert!(futures_util::poll!(&mut held).is_pending());
        pause.send_replace(false);
        held.await.unwrap();
    }
}
