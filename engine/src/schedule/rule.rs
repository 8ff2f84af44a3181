//! When something happens: a cron line, or an interval.
//!
//! Called by `timeline`, which puts a rule on the clock of a place, and by whoever wants to check a
//! line of cron. There are two kinds of rules.
//!
//! * **Of the wall clock**: the times of day that a cron line or `every = "2d"` in a zone means.
//! * **Elapsed**: `every = "15m"`, a fixed length of time counted from 1970-01-01T00:00Z, whatever
//!   clocks on walls do. `every = "1d"` is elapsed in UTC; with any other zone, a whole number of days
//!   is counted in days of that zone's calendar from 1970-01-01 and happens at their midnight, because
//!   who names a place means its days. Weeks so begin on Thursdays: for another weekday use cron.

use std::time::Duration;

use super::civil::DAY;
use super::cron::Cron;
use super::cron_text::{self, CronError, Step};

/// A rule without a place: fires are computed by a `Timetable`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Cron(Box<Cron>),
    /// Every so many days of the local calendar.
    Days(i64),
    /// Every so many microseconds.
    Elapsed(i64),
}

impl Rule {
    /// Parses a cron line of five, six or seven fields, or a name such as `@daily`.
    ///
    /// # Errors
    /// The field, the mistake and how to mend it.
    pub fn parse(text: &str) -> Result<Self, CronError> {
        cron_text::parse(text).map(|cron| Self(Kind::Cron(Box::new(cron))))
    }

    /// An interval, of at least a second; `in_utc` says that the zone is UTC. `None` if it is shorter
    /// than a second or has parts of one, which no run could keep up with, or does not fit.
    pub(crate) fn every(interval: Duration, in_utc: bool) -> Option<Self> {
        if interval < Duration::from_secs(1) {
            return None;
        }
        let seconds = i64::try_from(interval.as_secs()).ok()?;
        if interval.subsec_nanos() == 0 && seconds % DAY == 0 && !in_utc {
            return Some(Self(Kind::Days(seconds / DAY)));
        }
        i64::try_from(interval.as_micros()).ok().map(|micros| Self(Kind::Elapsed(micros)))
    }

    /// The interval in microseconds, if the rule is of elapsed time.
    pub(crate) fn elapsed(&self) -> Option<i64> {
        match self.0 {
            Kind::Elapsed(micros) => Some(micros),
            _ => None,
        }
    }

    /// Whether the rule goes by the clock that runs on through a change (a cron line whose second,
    /// minute or hour begins with `*`), not by times of day that a change may skip or repeat.
    pub(crate) fn by_running_clock(&self) -> bool {
        matches!(&self.0, Kind::Cron(cron) if cron.by_running_clock)
    }

    /// The first local second at or after `from` that the rule means.
    pub(crate) fn next_local(&self, from: i64) -> Option<i64> {
        match &self.0 {
            Kind::Cron(cron) => cron.next(from),
            Kind::Days(days) => {
                let step = days * DAY;
                Some(from.checked_add(step - 1)?.div_euclid(step) * step)
            }
            Kind::Elapsed(_) => None,
        }
    }

    /// The last local second at or before `to` that the rule means.
    pub(crate) fn prev_local(&self, to: i64) -> Option<i64> {
        match &self.0 {
            Kind::Cron(cron) => cron.prev(to),
            Kind::Days(days) => Some(to.div_euclid(days * DAY) * (days * DAY)),
            Kind::Elapsed(_) => None,
        }
    }

    /// The same rule in every year; `None` if it has no years.
    pub(crate) fn without_years(&self) -> Option<Self> {
        match &self.0 {
            Kind::Cron(cron) if cron.years != super::cron::Years::All => {
                Some(Self(Kind::Cron(Box::new(Cron { years: super::cron::Years::All, ..(**cron).clone() }))))
            }
            _ => None,
        }
    }

    /// The steps that were written.
    pub(crate) fn steps(&self) -> &[Step] {
        match &self.0 {
            Kind::Cron(cron) => &cron.steps,
            _ => &[],
        }
    }
}

/// Whether `text` is a cron rule.
///
/// # Errors
/// The field, the mistake and how to mend it.
pub fn check(text: &str) -> Result<(), CronError> {
    cron_text::parse(text).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_days_are_days_of_the_calendar_but_in_utc() {
        let day = Duration::from_secs(86_400);
        assert_eq!(Rule::every(day, true).and_then(|rule| rule.elapsed()), Some(86_400_000_000));
        let local = Rule::every(day * 2, false).expect("two days");
        assert_eq!(local.elapsed(), None);
        assert_eq!(local.next_local(1), Some(2 * 86_400));
        assert_eq!(local.next_local(2 * 86_400), Some(2 * 86_400));
        assert_eq!(local.prev_local(-1), Some(-2 * 86_400));
        assert_eq!(local.next_local(i64::MAX), None);
    }

    #[test]
    fn intervals_below_a_second_are_refused() {
        assert_eq!(Rule::every(Duration::from_millis(999), true), None);
        assert!(Rule::every(Duration::from_millis(1500), true).is_some());
    }
}
