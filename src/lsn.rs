//! Positions in the write-ahead log, and in the stream of decoded changes.

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::{fmt, str::FromStr};

use crate::error::Error;

/// A WAL location in bytes (`pg_lsn`), printed as PostgreSQL does: `8/4A77D3E0`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    pub const ZERO: Self = Self(0);

    /// Bytes from `earlier` to `self`; 0 when it is not earlier.
    pub fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xFFFF_FFFF)
    }
}

impl FromStr for Lsn {
    type Err = Error;
    fn from_str(s: &str) -> Result<Self, Error> {
        let bad = || Error::failed(format!("not an LSN: {s:?}"));
        let (high, low) = s.trim().split_once('/').ok_or_else(bad)?;
        let part = |t: &str| u32::from_str_radix(t, 16).map_err(|_| bad());
        Ok(Self(u64::from(part(high)?) << 32 | u64::from(part(low)?)))
    }
}

impl Serialize for Lsn {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Lsn {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// How far a lane has applied the stream: everything that was committed before `lsn` is applied, and of the transaction whose
/// commit record begins at `lsn` the first `change` changes.
///
/// After a whole transaction `lsn` is the *end* of its commit record and `change` is 0, so positions of lanes that stopped
/// inside and between transactions are totally ordered (I5).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Position {
    pub lsn: Lsn,
    pub change: u64,
}

impl Position {
    pub const START: Self = Self { lsn: Lsn::ZERO, change: 0 };

    /// The position after everything that was committed before `lsn`.
    pub fn after(lsn: Lsn) -> Self {
        Self { lsn, change: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_as_postgresql_does() {
        for text in ["0/0", "8/4A77D3E0", "FFFFFFFF/FFFFFFFF", "16/B374D848"] {
            assert_eq!(text.parse::<Lsn>().unwrap().to_string(), text);
        }
        for bad in ["", "12", "1/2/3", "x/1", "1/100000000"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }

    #[test]
    fn positions_inside_a_transaction_lie_before_its_end() {
        let inside = Position { lsn: Lsn(100), change: 7 };
        assert!(Position::after(Lsn(100)) < inside && inside < Position::after(Lsn(148)));
    }
}
