//! Dates as integers: days since 1970-01-01 in the proleptic Gregorian calendar, and back.
//!
//! Called by everything in this module that meets a date. Knows no zone and no clock. The formulas
//! are Howard Hinnant's, "chrono-compatible low-level date algorithms" (2013).

use std::fmt;

/// Seconds of a day without a change of the clock.
pub(crate) const DAY: i64 = 86_400;

/// Microseconds of a second: the engine's instants are microseconds, civil time has whole seconds.
pub(crate) const SECOND: i64 = 1_000_000;

/// A date on a wall calendar; prints as `2026-11-27`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Date {
    /// Year, as people count them.
    pub(crate) year: i64,
    /// Month, 1 to 12.
    pub(crate) month: i64,
    /// Day of the month, 1 to 31.
    pub(crate) day: i64,
}

impl Date {
    /// A date that exists, or `None`. Years are 1 to 9999.
    pub fn new(year: i64, month: i64, day: i64) -> Option<Self> {
        let known = (1..=9999).contains(&year) && (1..=12).contains(&month);
        (known && (1..=days_in_month(year, month)).contains(&day)).then_some(Self { year, month, day })
    }

    /// Parses `2026-11-27`.
    pub fn parse(text: &str) -> Option<Self> {
        let [year, month, day] = parts(text, [4, 2, 2])?;
        Self::new(year, month, day)
    }

    /// The date that lies `days` days after 1970-01-01.
    pub(crate) fn from_days(days: i64) -> Self {
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let from_march = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * from_march + 2) / 5 + 1;
        let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
        Self { year: year_of_era + era * 400 + i64::from(month <= 2), month, day }
    }

    /// Days since 1970-01-01.
    pub(crate) fn to_days(self) -> i64 {
        let year = self.year - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let from_march = (self.month + 9) % 12;
        let day_of_year = (153 * from_march + 2) / 5 + self.day - 1;
        era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

/// Day of the week, 0 = Sunday, of a day since 1970-01-01 (a Thursday).
pub(crate) fn weekday(days: i64) -> i64 {
    (days + 4).rem_euclid(7)
}

/// How many days a month has.
pub(crate) fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A local moment, in seconds since 1970-01-01T00:00 on the wall clock, as `2026-03-08T02:15:00`.
pub(crate) fn wall(local: i64) -> String {
    let (date, time) = (Date::from_days(local.div_euclid(DAY)), local.rem_euclid(DAY));
    format!("{date}T{:02}:{:02}:{:02}", time / 3600, time / 60 % 60, time % 60)
}

/// Numbers of exactly these many digits, with hyphens between them.
pub(crate) fn parts<const N: usize>(text: &str, digits: [usize; N]) -> Option<[i64; N]> {
    let mut found = [0; N];
    let mut pieces = text.split('-');
    for (slot, count) in found.iter_mut().zip(digits) {
        let piece = pieces.next().filter(|piece| piece.len() == count && piece.bytes().all(|b| b.is_ascii_digit()))?;
        *slot = piece.parse().ok()?;
    }
    pieces.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_dates() {
        assert_eq!(Date::from_days(0).to_string(), "1970-01-01");
        assert_eq!(Date::from_days(-719_162).to_string(), "0001-01-01");
        assert_eq!(Date::from_days(2_932_896).to_string(), "9999-12-31");
        assert_eq!(weekday(0), 4, "1970-01-01 was a Thursday");
        assert_eq!(wall(-1), "1969-12-31T23:59:59");
    }

    #[test]
    fn texts_that_are_no_dates() {
        assert_eq!(Date::parse("2024-02-29").map(|date| date.to_string()), Some("2024-02-29".to_owned()));
        for bad in ["2023-02-29", "2023-13-01", "2023-00-10", "2023-1-1", "23-01-01", "2023-01-01-", "0000-01-01", ""] {
            assert_eq!(Date::parse(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn days_round_trip(days in -719_162_i64..=2_932_896) {
            let date = Date::from_days(days);
            prop_assert_eq!(date.to_days(), days);
            prop_assert_eq!(Date::new(date.year, date.month, date.day), Some(date));
            prop_assert!(Date::from_days(days + 1) > date);
        }
    }
}
