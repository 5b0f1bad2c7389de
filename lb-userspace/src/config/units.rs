//! Durations and sizes as a user writes them: `250ms`, `1s`, `5m`; `64MB`.

use std::time::Duration;

const DURATION_UNITS: [(&str, u64); 4] = [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000)];

// PostgreSQL's own units and its own meaning of them: powers of 1024.
const SIZE_UNITS: [(&str, u64); 6] = [
    ("B", 1),
    ("kB", 1 << 10),
    ("KB", 1 << 10),
    ("MB", 1 << 20),
    ("GB", 1 << 30),
    ("TB", 1 << 40),
];

/// Reads a duration; the error is the rule, ready for a message.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    scaled(text, &DURATION_UNITS)
        .map(Duration::from_millis)
        .ok_or_else(|| "must be a duration, for example \"250ms\", \"1s\" or \"5m\"".to_owned())
}

/// Reads a size in bytes; the error is the rule, ready for a message.
pub fn parse_size(text: &str) -> Result<u64, String> {
    scaled(text, &SIZE_UNITS)
        .ok_or_else(|| "must be a size, for example \"512kB\", \"64MB\" or \"1GB\"".to_owned())
}

/// Writes a duration in the largest unit that needs no fraction.
pub fn show_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    unscaled(millis, &DURATION_UNITS).unwrap_or_else(|| "0s".to_owned())
}

/// Writes a size in the largest unit that needs no fraction.
pub fn show_size(bytes: u64) -> String {
    unscaled(bytes, &SIZE_UNITS).unwrap_or_else(|| "0B".to_owned())
}

fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().ok()?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.checked_mul(*factor)
}

fn unscaled(value: u64, units: &[(&str, u64)]) -> Option<String> {
    if value == 0 {
        return None;
    }
    let (name, factor) = units
        .iter()
        .rev()
        .find(|(_, factor)| value.is_multiple_of(*factor))?;
    Some(format!("{}{name}", value / factor))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("1s"), Ok(Duration::from_secs(1)));
        assert_eq!(parse_duration("5m"), Ok(Duration::from_secs(300)));
        assert_eq!(parse_duration("2 h"), Ok(Duration::from_secs(7200)));
        for text in [
            "",
            "1",
            "s",
            "-1s",
            "1.5s",
            "1S",
            "1 minute",
            "99999999999999999999s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
        assert!(parse_duration(&format!("{}h", u64::MAX)).is_err());
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("64MB"), Ok(64 << 20));
        assert_eq!(parse_size("8kB"), Ok(8192));
        assert_eq!(parse_size("0B"), Ok(0));
        for text in ["", "64", "64mb", "MB", "64 M", "1.5GB", "64MiB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(millis in 0..u64::from(u32::MAX), bytes: u64) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
            prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
        }
    }
}
