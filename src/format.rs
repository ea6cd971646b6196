//! Numbers for people: sizes, durations, counts, times of day. They are formatted only here.

use humansize::{BaseUnit, FormatSizeOptions, WINDOWS, format_size};
use jiff::{Timestamp, tz::TimeZone};
use std::time::Duration;

/// Bytes as PostgreSQL prints them: `148.2 GB`, powers of 1024, one decimal from kB up.
pub fn bytes(n: u64) -> String {
    let decimals = usize::from(n >= 1024);
    format_size(n, FormatSizeOptions::from(WINDOWS).decimal_places(decimals).decimal_zeroes(decimals).base_unit(BaseUnit::Byte))
}

/// Bytes per second: `96.4 MB/s`.
pub fn rate(bytes_per_second: f64) -> String {
    format!("{}/s", bytes(bytes_per_second.max(0.0) as u64))
}

/// Whole megabytes (2^20 bytes), rounded up so that 0 means nothing: `126MB`.
pub fn megabytes_up(n: u64) -> String {
    format!("{}MB", n.div_ceil(1 << 20))
}

/// A count with thin groups: `4 210`.
pub fn count(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(c);
    }
    out
}

/// A count in a narrow column: `812 400`, and from a million on `1.23 M`, `12.3 M`, `1.23 G`.
pub fn short_count(n: u64) -> String {
    if n < 1_000_000 {
        return count(n);
    }
    let (value, unit) = [(1e12, 'T'), (1e9, 'G'), (1e6, 'M')]
        .into_iter()
        .map(|(factor, unit)| (n as f64 / factor, unit))
        .find(|(v, _)| *v >= 1.0)
        .expect("it is at least a million");
    let decimals = match value {
        v if v < 9.995 => 2,
        v if v < 99.95 => 1,
        _ => 0,
    };
    format!("{value:.decimals$} {unit}")
}

/// A span of time: `00:41:12`, `3d 04:00:00`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs();
    let (days, h, m, s) = (s / 86_400, s / 3_600 % 24, s / 60 % 60, s % 60);
    if days > 0 { format!("{days}d {h:02}:{m:02}:{s:02}") } else { format!("{h:02}:{m:02}:{s:02}") }
}

/// How long ago, for people: `0.4 s`, `12.0 s`, from a minute on `00:03:07`.
pub fn ago(d: Duration) -> String {
    if d < Duration::from_secs(60) { format!("{:.1} s", d.as_millis() as f64 / 1000.0) } else { duration(d) }
}

/// Local time of day: `11:20:40`.
pub fn clock(at: Timestamp) -> String {
    clock_in(at, &TimeZone::system())
}

/// Time of day in a zone: `11:20:40`.
pub fn clock_in(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%H:%M:%S").to_string()
}

/// Time of day in a zone, with milliseconds: `11:20:40.118`.
pub fn clock_ms_in(at: Timestamp, zone: &TimeZone) -> String {
    at.to_zoned(zone.clone()).strftime("%H:%M:%S%.3f").to_string()
}

/// A percentage of a whole, 0 to 100; a whole of nothing counts as done.
pub fn percent(part: u64, whole: u64) -> u8 {
    if whole == 0 { 100 } else { (u128::from(part.min(whole)) * 100 / u128::from(whole)) as u8 }
}

/// `prod-db/shop` of `prod-db:5432/shop`. Another port is kept, because it may be the only difference between two servers.
pub fn short_address(address: &str) -> String {
    match address.rsplit_once(":5432/") {
        Some((host, database)) if !host.is_empty() => format!("{host}/{database}"),
        _ => address.to_owned(),
    }
}

/// Reads a size of the command line: `30MB`, `1 GB`, `512kB`, `1048576` (bytes).
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let split = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor: u64 = match unit.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" => 1 << 10,
        "m" | "mb" => 1 << 20,
        "g" | "gb" => 1 << 30,
        "t" | "tb" => 1 << 40,
        _ => return None,
    };
    let number: f64 = number.parse().ok()?;
    (number.is_finite() && number * (factor as f64) < 1e18).then_some((number * factor as f64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (n, text) in [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 kB"), (155_400_000_000, "144.7 GB"), (1 << 40, "1.0 TB")] {
            assert_eq!(bytes(n), text);
        }
        assert_eq!((megabytes_up(0), megabytes_up(1), megabytes_up(2 << 20)), ("0MB".into(), "1MB".into(), "2MB".into()));
        assert_eq!(count(1_234_567), "1 234 567");
        for (n, text) in [(0, "0"), (999_999, "999 999"), (1_234_567, "1.23 M"), (12_345_678, "12.3 M"), (999_600_000, "1000 M"), (7 << 40, "7.70 T")]
        {
            assert_eq!(short_count(n), text);
        }
        assert_eq!(duration(Duration::from_secs(90_061)), "1d 01:01:01");
        let ms = Duration::from_millis;
        assert_eq!((ago(ms(0)), ago(ms(418)), ago(ms(187_000))), ("0.0 s".into(), "0.4 s".into(), "00:03:07".into()));
    }

    #[test]
    fn sizes_of_the_command_line() {
        for (text, n) in [("30MB", Some(30 << 20)), ("1 GB", Some(1 << 30)), ("512kB", Some(512 << 10)), ("7", Some(7)), ("1.5MB", Some(3 << 19))] {
            assert_eq!(parse_bytes(text), n, "{text}");
        }
        for bad in ["", "MB", "-1MB", "3 parsecs", "1e9GB"] {
            assert_eq!(parse_bytes(bad), None, "{bad}");
        }
    }

    #[test]
    fn short_addresses_keep_host_and_database() {
        for (long, short) in [("prod-db:5432/shop", "prod-db/shop"), ("[::1]:5432/a", "[::1]/a"), (":5432/a", ":5432/a"), ("", "")] {
            assert_eq!(short_address(long), short);
        }
        for kept in ["prod-db:5433/shop", "prod-db:15432/shop", "/run/pg/shop"] {
            assert_eq!(short_address(kept), kept);
        }
    }

    #[test]
    fn percent_never_passes_100() {
        assert_eq!((percent(0, 0), percent(5, 10), percent(11, 10)), (100, 50, 100));
    }
}
