//! Durations and times as text: what users write, and the time of day in logs and on the command line.
//!
//! Not here: the clock (`node/shared/clock.rs`), and replicated state: `services/` may not depend on a library's
//! calendar, and `tests/tidy/layout.rs` keeps `jiff` out of it.

use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// A duration as Go writes it, `100ms`, `1.5s` or `1m30s`, largest unit first; a bare number is seconds. `None`: not a
/// duration, or negative.
pub fn parse_duration(text: &str) -> Option<Duration> {
    match text.parse() {
        Ok(seconds) => Some(Duration::from_secs(seconds)),
        Err(_) => text.parse::<SignedDuration>().ok()?.try_into().ok(),
    }
}

/// The time of day (UTC) of a moment in milliseconds since 1970: `12:04:07.123`.
pub fn time_of_day(at_ms: u64) -> String {
    let of_day_ms = at_ms % 86_400_000;
    let at = Timestamp::from_millisecond(of_day_ms as i64).expect("within a day of 1970");
    at.strftime("%H:%M:%S%.3f").to_string()
}

/// A moment in milliseconds since 1970 in RFC 3339, in UTC: `2026-11-30T12:04:07Z`.
pub fn rfc3339(at_ms: u64) -> String {
    let at = i64::try_from(at_ms / 1000).ok().and_then(|at_s| Timestamp::from_second(at_s).ok());
    at.unwrap_or(Timestamp::MAX).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, expected) in [
            ("7", 7_000_000),
            ("0", 0),
            ("500ms", 500_000),
            ("30s", 30_000_000),
            ("5m", 300_000_000),
            ("1h", 3_600_000_000),
            ("1.5s", 1_500_000),
            ("1m30s", 90_000_000),
            ("1h2m3s4ms5us", 3_723_004_005),
            ("5\u{b5}s", 5),
        ] {
            assert_eq!(parse_duration(text), Some(Duration::from_micros(expected)), "{text}");
        }
        for bad in ["", "s", "x", "1x", "-1s", "1s ago", "1d", "1.5", "99999999999999999999", "99999999999999999999h"] {
            assert_eq!(parse_duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_time_of_day_has_milliseconds() {
        assert_eq!(time_of_day(86_400_000 + 43_447_123), "12:04:07.123");
        assert_eq!(rfc3339(1_796_040_247_123), "2026-11-30T12:04:07Z");
        assert!(rfc3339(u64::MAX).starts_with("9999-"));
        assert_eq!([time_of_day(0), time_of_day(u64::MAX)], ["00:00:00.000", "14:25:51.615"]);
    }
}
