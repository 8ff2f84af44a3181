//! Durations as people write them: `90s`, `30m`, `1h30m`, `2d`.
//!
//! Called by `spec`. Nothing here knows a clock; a day is 24 hours.

use std::time::Duration;

/// Ten years: what is longer is a typing mistake.
const LONGEST: Duration = Duration::from_secs(3_660 * 86_400);

/// Units from long to short, in milliseconds.
const UNITS: [(&str, u64); 6] =
    [("w", 604_800_000), ("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Parses `text`, or says which rule it breaks. Zero is refused: "no limit" is written by leaving
/// the key out.
pub fn parse(text: &str) -> Result<Duration, String> {
    if text.trim_start().starts_with('-') {
        return Err("a duration is not negative".to_owned());
    }
    let mut rest = text;
    let mut total = 0_u64;
    let mut shortest = u64::MAX;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_end = rest[digits..].find(|c: char| c.is_ascii_digit()).map_or(rest.len(), |at| digits + at);
        let unit = &rest[digits..unit_end];
        let Some((_, milliseconds)) = UNITS.into_iter().find(|(name, _)| *name == unit) else {
            return Err(match unit {
                "" => "a unit is missing".to_owned(),
                _ => format!("{:?} is no unit", unit.chars().take(20).collect::<String>()),
            });
        };
        if digits == 0 {
            return Err("a number is missing".to_owned());
        }
        if milliseconds >= shortest {
            return Err("units go from long to short, each once".to_owned());
        }
        shortest = milliseconds;
        total = rest[..digits]
            .parse::<u64>()
            .ok()
            .and_then(|count| count.checked_mul(milliseconds))
            .and_then(|part| total.checked_add(part))
            .ok_or("it is longer than ten years")?;
        rest = &rest[unit_end..];
    }
    match Duration::from_millis(total) {
        Duration::ZERO if text.is_empty() => Err("it is empty".to_owned()),
        Duration::ZERO => Err("zero is no duration; leave the key out for no limit".to_owned()),
        duration if duration > LONGEST => Err("it is longer than ten years".to_owned()),
        duration => Ok(duration),
    }
}

/// A duration as [`parse`] reads it: `1h30m`.
pub(crate) fn format(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut text = String::new();
    for (unit, milliseconds) in UNITS {
        if left >= milliseconds {
            text.push_str(&format!("{}{unit}", left / milliseconds));
            left %= milliseconds;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_people_write() {
        for (text, seconds) in [("90s", 90.0), ("30m", 1800.0), ("3h", 10_800.0), ("1h30m", 5400.0), ("250ms", 0.25)] {
            assert_eq!(parse(text).map(|d| d.as_secs_f64()), Ok(seconds), "{text}");
        }
        assert_eq!(parse("2d").map(|d| d.as_secs()), Ok(172_800));
    }

    #[test]
    fn mistakes() {
        let bad = [
            "",
            "0",
            "0s",
            "-1s",
            "s",
            "5",
            "5 m",
            "5x",
            "1m1h",
            "1m1m",
            "1.5h",
            "99999999999999999999s",
            "11000d",
            "18446744073709551615w",
            "1h-30m",
            "\u{661}s",
            "m5",
        ];
        for text in bad {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn formats_round_trip(milliseconds in 1_u64..=316_224_000_000) {
            let duration = Duration::from_millis(milliseconds);
            prop_assert_eq!(parse(&format(duration)), Ok(duration));
        }

        #[test]
        fn never_panics(text in "\\PC{0,20}") {
            let _ = parse(&text);
        }
    }
}
