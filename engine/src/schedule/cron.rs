//! A cron rule as sets of bits, and the search for the local times that it means.
//!
//! Called by `rule`. Knows no zone: a local time is a number of seconds since 1970-01-01T00:00 on
//! the wall clock. The search jumps from month to month, day to day, and straight to the time of
//! day; it steps over nothing that can not match. `cron_text` makes these from text.

use super::bits;
use super::civil::{DAY, Date, days_in_month, weekday};
use super::cron_text::Step;

/// The Gregorian calendar repeats after 400 years (146,097 days, a whole number of weeks): what has
/// not matched in 401 never will.
const CYCLE_MONTHS: i64 = 401 * 12;

/// What a line of five, six or seven fields means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cron {
    pub(crate) seconds: u64,
    pub(crate) minutes: u64,
    pub(crate) hours: u64,
    pub(crate) days: DayRule,
    /// January is bit 0.
    pub(crate) months: u64,
    pub(crate) years: Years,
    /// Second, minute or hour begins with `*`: the rule goes by the clock that runs, see `rule`.
    pub(crate) by_running_clock: bool,
    /// The steps that were written, for the lints.
    pub(crate) steps: Vec<Step>,
}

/// Which years.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Years {
    /// 1 to 9999.
    All,
    /// These, as bits in words of 64.
    Only(Box<[u64]>),
}

/// The fields "day of month" and "day of week", which belong together.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct DayRule {
    /// Days 1 to 31.
    pub(crate) of_month: u64,
    /// `L`: the last day of the month.
    pub(crate) last: bool,
    /// `LW`: the last day of the month from Monday to Friday.
    pub(crate) last_working: bool,
    /// Sunday is bit 0.
    pub(crate) weekdays: u64,
    /// `FRI#2`: the weekdays whose first, second ... fifth of a month is meant.
    pub(crate) nth: [u64; 5],
    /// `5L`: the weekdays whose last of a month is meant.
    pub(crate) last_weekdays: u64,
    /// Both fields must match, not one of them.
    pub(crate) both: bool,
}

impl Cron {
    /// The first matching local second at or after `from`.
    pub(crate) fn next(&self, from: i64) -> Option<i64> {
        let (day, time) = (from.div_euclid(DAY), from.rem_euclid(DAY));
        let found = self.next_day(day)?;
        let start = if found == day { time } else { 0 };
        if let Some(time) = self.next_time(start) {
            return Some(found * DAY + time);
        }
        Some(self.next_day(found + 1)? * DAY + self.next_time(0)?)
    }

    /// The last matching local second at or before `to`.
    pub(crate) fn prev(&self, to: i64) -> Option<i64> {
        let (day, time) = (to.div_euclid(DAY), to.rem_euclid(DAY));
        let found = self.prev_day(day)?;
        let end = if found == day { time } else { DAY - 1 };
        if let Some(time) = self.prev_time(end) {
            return Some(found * DAY + time);
        }
        Some(self.prev_day(found - 1)? * DAY + self.prev_time(DAY - 1)?)
    }

    fn next_time(&self, from: i64) -> Option<i64> {
        let (hour, minute, second) = (from / 3600, from / 60 % 60, from % 60);
        let (first_minute, first_second) = (bits::next(self.minutes, 0)?, bits::next(self.seconds, 0)?);
        if bits::has(self.hours, hour) {
            if bits::has(self.minutes, minute)
                && let Some(second) = bits::next(self.seconds, second)
            {
                return Some(hour * 3600 + minute * 60 + second);
            }
            if let Some(minute) = bits::next(self.minutes, minute + 1) {
                return Some(hour * 3600 + minute * 60 + first_second);
            }
        }
        bits::next(self.hours, hour + 1).map(|hour| hour * 3600 + first_minute * 60 + first_second)
    }

    fn prev_time(&self, to: i64) -> Option<i64> {
        let (hour, minute, second) = (to / 3600, to / 60 % 60, to % 60);
        let (last_minute, last_second) = (bits::prev(self.minutes, 59)?, bits::prev(self.seconds, 59)?);
        if bits::has(self.hours, hour) {
            if bits::has(self.minutes, minute)
                && let Some(second) = bits::prev(self.seconds, second)
            {
                return Some(hour * 3600 + minute * 60 + second);
            }
            if let Some(minute) = bits::prev(self.minutes, minute - 1) {
                return Some(hour * 3600 + minute * 60 + last_second);
            }
        }
        bits::prev(self.hours, hour - 1).map(|hour| hour * 3600 + last_minute * 60 + last_second)
    }

    fn next_day(&self, day: i64) -> Option<i64> {
        let date = Date::from_days(day);
        let (begin, mut first) = (date.year * 12 + date.month - 1, date.day);
        let mut index = begin;
        loop {
            let month = self.next_month(index)?;
            if month > index {
                first = 1;
            }
            let (year, of_year) = (month.div_euclid(12), month.rem_euclid(12) + 1);
            if let Some(day) = bits::next(self.days.in_month(year, of_year), first) {
                return Some(Date { year, month: of_year, day }.to_days());
            }
            (index, first) = (month + 1, 1);
            if self.years == Years::All && index > begin + CYCLE_MONTHS {
                return None;
            }
        }
    }

    fn prev_day(&self, day: i64) -> Option<i64> {
        let date = Date::from_days(day);
        let (begin, mut last) = (date.year * 12 + date.month - 1, date.day);
        let mut index = begin;
        loop {
            let month = self.prev_month(index)?;
            if month < index {
                last = 31;
            }
            let (year, of_year) = (month.div_euclid(12), month.rem_euclid(12) + 1);
            if let Some(day) = bits::prev(self.days.in_month(year, of_year), last) {
                return Some(Date { year, month: of_year, day }.to_days());
            }
            (index, last) = (month - 1, 31);
            if self.years == Years::All && index < begin - CYCLE_MONTHS {
                return None;
            }
        }
    }

    /// The first month at or after `index` = year * 12 + month - 1.
    fn next_month(&self, index: i64) -> Option<i64> {
        let year = index.div_euclid(12);
        let chosen = self.years.next(year)?;
        let from = if chosen == year { index.rem_euclid(12) } else { 0 };
        if let Some(month) = bits::next(self.months, from) {
            return Some(chosen * 12 + month);
        }
        Some(self.years.next(chosen + 1)? * 12 + bits::next(self.months, 0)?)
    }

    fn prev_month(&self, index: i64) -> Option<i64> {
        let year = index.div_euclid(12);
        let chosen = self.years.prev(year)?;
        let to = if chosen == year { index.rem_euclid(12) } else { 11 };
        if let Some(month) = bits::prev(self.months, to) {
            return Some(chosen * 12 + month);
        }
        Some(self.years.prev(chosen - 1)? * 12 + bits::prev(self.months, 11)?)
    }
}

impl Years {
    /// The years for which `wanted` holds, of 1 to 9999.
    pub(crate) fn only(wanted: impl Iterator<Item = usize>) -> Self {
        let mut words = vec![0_u64; 10_000 / 64 + 1];
        for year in wanted {
            if let Some(word) = words.get_mut(year / 64) {
                *word |= 1 << (year % 64);
            }
        }
        Self::Only(words.into_boxed_slice())
    }

    fn next(&self, from: i64) -> Option<i64> {
        match self {
            Self::All => (from <= 9999).then_some(from.max(1)),
            Self::Only(words) => (from.max(0) / 64..)
                .map_while(|at| Some((at, *words.get(usize::try_from(at).ok()?)?)))
                .find_map(|(at, word)| Some(at * 64 + bits::next(word, (from - at * 64).max(0))?)),
        }
    }

    fn prev(&self, to: i64) -> Option<i64> {
        match self {
            Self::All => (to >= 1).then_some(to.min(9999)),
            Self::Only(words) => (0..=to.min(9999).div_euclid(64)).rev().find_map(|at| {
                let word = *words.get(usize::try_from(at).ok()?)?;
                Some(at * 64 + bits::prev(word, (to - at * 64).min(63))?)
            }),
        }
    }
}

impl DayRule {
    /// The days of a month that match, day 1 as bit 1.
    fn in_month(&self, year: i64, month: i64) -> u64 {
        let length = days_in_month(year, month);
        let first = weekday(Date { year, month, day: 1 }.to_days());
        let mut by_date = self.of_month;
        if self.last {
            by_date |= 1 << length;
        }
        if self.last_working {
            by_date |= 1 << last_working_day(length, first);
        }
        let mut by_weekday = spread(self.weekdays, first);
        for (week, weekdays) in (0..).zip(self.nth) {
            by_weekday |= spread(weekdays, first) & bits::span(week * 7 + 1, week * 7 + 7);
        }
        by_weekday |= spread(self.last_weekdays, first) & bits::span(length - 6, length);
        let matching = if self.both { by_date & by_weekday } else { by_date | by_weekday };
        matching & bits::span(1, length)
    }
}

/// Each day of a month whose first day is the weekday `first`, if its weekday is in the set.
fn spread(weekdays: u64, first: i64) -> u64 {
    // Bit 0 is the weekday of the month's first day; five weeks side by side, and day 1 is bit 1.
    let week = ((weekdays >> first) | (weekdays << (7 - first))) & 0x7f;
    (week * 0x1020_4081) << 1
}

fn last_working_day(length: i64, first: i64) -> i64 {
    match (first + length - 1) % 7 {
        0 => length - 2,
        6 => length - 1,
        _ => length,
    }
}

#[cfg(test)]
mod tests {
    use super::super::cron_text::parse;
    use super::*;
    use proptest::prelude::*;

    fn dates(text: &str, from: &str, count: usize) -> Vec<String> {
        let cron = parse(text).expect(text);
        let mut at = Date::parse(from).expect(from).to_days() * DAY;
        let mut found = Vec::new();
        while found.len() < count
            && let Some(next) = cron.next(at)
        {
            found.push(Date::from_days(next.div_euclid(DAY)).to_string());
            at = next + 1;
        }
        found
    }

    #[test]
    fn two_restricted_day_fields_join_with_or_and_a_star_with_and() {
        assert_eq!(dates("0 0 13 * fri", "2026-02-01", 4), ["2026-02-06", "2026-02-13", "2026-02-20", "2026-02-27"]);
        assert_eq!(dates("0 0 */2 * mon", "2026-06-01", 3), ["2026-06-01", "2026-06-15", "2026-06-29"]);
        assert_eq!(dates("0 0 13 * */5", "2026-02-01", 3), ["2026-02-13", "2026-03-13", "2026-09-13"]);
    }

    #[test]
    fn last_days_and_numbered_weekdays() {
        assert_eq!(dates("0 0 L * *", "2024-02-01", 3), ["2024-02-29", "2024-03-31", "2024-04-30"]);
        assert_eq!(dates("0 0 LW * *", "2026-01-01", 3), ["2026-01-30", "2026-02-27", "2026-03-31"]);
        assert_eq!(dates("0 0 * * fri#2", "2026-01-01", 2), ["2026-01-09", "2026-02-13"]);
        assert_eq!(dates("0 0 * * mon#5", "2026-01-01", 2), ["2026-03-30", "2026-06-29"]);
        assert_eq!(dates("0 0 * * 5L", "2026-01-01", 2), ["2026-01-30", "2026-02-27"]);
    }

    #[test]
    fn what_never_comes_is_none() {
        assert_eq!(dates("0 0 31 2 *", "2026-01-01", 1), [""; 0]);
        assert_eq!(dates("0 0 30 2 mon", "2026-01-01", 1), ["2026-02-02"], "two restricted fields: any Monday");
        assert_eq!(dates("0 0 0 31 2 * *", "2026-01-01", 1), [""; 0]);
        assert_eq!(dates("0 0 0 31 2 * 2000-9999", "2026-01-01", 1), [""; 0]);
        assert_eq!(dates("0 0 29 2 *", "2096-03-01", 1), ["2104-02-29"], "1900-style leap years");
        assert_eq!(dates("0 0 */29 2 mon", "2026-01-01", 1), ["2027-02-01"]);
    }

    #[test]
    fn years() {
        assert_eq!(dates("0 0 0 1 1 * 2030,9999", "2026-01-01", 9), ["2030-01-01", "9999-01-01"]);
        assert_eq!(dates("0 0 0 1 1 * */1000", "1970-01-01", 2), ["1970-01-01", "2970-01-01"]);
        assert_eq!(dates("* * * * *", "9999-12-31", 2), ["9999-12-31", "9999-12-31"]);
    }

    proptest! {
        #[test]
        fn forward_and_back_agree(
            minute in 0_u32..60, step in 1_u32..13, day in 1_u32..32, weekday in 0_u32..8, from in -3_000_000_000_i64..9_000_000_000,
        ) {
            let texts = [
                format!("{minute} */{step} {day} * {weekday}"),
                format!("{minute} {step} {day} * *"),
                format!("{minute}-59/{step} * * {step} {weekday}#1"),
            ];
            for cron in texts.iter().filter_map(|text| parse(text).ok()) {
                if let Some(next) = cron.next(from) {
                    prop_assert!(next >= from);
                    prop_assert_eq!(cron.prev(next), Some(next));
                    prop_assert!(cron.prev(next - 1).is_none_or(|before| before < from));
                }
            }
        }
    }
}
