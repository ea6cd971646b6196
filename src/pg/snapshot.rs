//! Whether a transaction is visible in a snapshot (I1).

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::Error;

/// What `pg_current_snapshot()` prints, `xmin:xmax:xip,…` (PostgreSQL documentation 9.27, `pg_snapshot`): 64-bit transaction ids.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// All below have ended.
    pub xmin: u64,
    /// None from here on has ended.
    pub xmax: u64,
    /// Running at the time of the snapshot, ascending.
    pub running: Vec<u64>,
}

impl Snapshot {
    /// Whether the snapshot sees the transaction, if it committed.
    pub fn sees(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.running.binary_search(&xid).is_err())
    }

    /// The 64-bit id of a transaction that ran near this snapshot: the stream has 32 bits only. Right for transactions less than
    /// 2^31 away, and PostgreSQL lets no others live at the same time.
    pub fn widen(&self, xid: u32) -> u64 {
        let distance = i64::from(xid.wrapping_sub(self.xmax as u32) as i32);
        self.xmax.saturating_add_signed(distance)
    }
}

impl FromStr for Snapshot {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = || Error::failed(format!("not a snapshot: {s:?}"));
        let mut parts = s.split(':');
        let mut number = || parts.next().and_then(|p| p.parse().ok()).ok_or_else(bad);
        let (xmin, xmax) = (number()?, number()?);
        let list = parts.next().ok_or_else(bad)?;
        let mut running = list.split(',').filter(|p| !p.is_empty()).map(|p| p.parse().map_err(|_| bad())).collect::<Result<Vec<u64>, _>>()?;
        running.sort_unstable();
        Ok(Self { xmin, xmax, running })
    }
}

impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let running = self.running.iter().map(u64::to_string).collect::<Vec<_>>().join(",");
        write!(f, "{}:{}:{running}", self.xmin, self.xmax)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_what_ended_before_and_nothing_that_ran_or_came_later() {
        let s: Snapshot = "10:20:10,14,15".parse().unwrap();
        let seen: Vec<u64> = (5..25).filter(|x| s.sees(*x)).collect();
        assert_eq!(seen, [5, 6, 7, 8, 9, 11, 12, 13, 16, 17, 18, 19]);
        assert_eq!(s.to_string(), "10:20:10,14,15");
        for bad in ["", "1", "1:2", "a:2:", "1:2:x"] {
            assert!(bad.parse::<Snapshot>().is_err(), "{bad}");
        }
    }

    #[test]
    fn widening_survives_the_wrap_around_of_32_bits() {
        let s = Snapshot { xmin: 0, xmax: (7 << 32) + 5, running: vec![] };
        assert_eq!(s.widen(3), (7 << 32) + 3);
        assert_eq!(s.widen(u32::MAX), (7 << 32) - 1);
        let s = Snapshot { xmin: 0, xmax: (8 << 32) - 5, running: vec![] };
        assert_eq!(s.widen(2), (8 << 32) + 2);
    }
}
