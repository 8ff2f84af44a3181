//! A schedule bound to its calendars: which fires there are, and the data interval of each.
//!
//! Called by the scheduler (through `due`), by backfill and by the command line.
//!
//! # Data intervals
//!
//! A run is about a half-open interval of time, `[start, end)`, and is created when the interval has
//! ended: the fire *is* the end. Intervals lie between consecutive **nominal** fires, those of rule,
//! zone and clock policy alone, so that they join without gap and without overlap, whatever calendars
//! do. `0 2 * * *` in Chicago makes an interval of 23 hours in March, of 25 in November, and of 24
//! otherwise. The end of its interval is a run's **logical time**, by which it is known.
//!
//! What came before the first fire of a rule with years (`0 0 0 1 1 * 2030`) is the fire that the rule
//! would have without them: the years limit which intervals run, not where they begin.
//!
//! # Blackout calendars
//!
//! A fire whose local date is in an excluded calendar is handled by the declared policy.
//!
//! * **skip**: it does not happen. Its interval has no run, and no other interval grows: the next run
//!   is about the time from the previous nominal fire, which was the skipped one. A backfill under
//!   another schedule can make the run later.
//! * **delay**: it keeps its interval and its logical time, but its run starts on the next day that is
//!   not excluded, at the same local time ([`Fire::start`]). Several fires may so start at one moment;
//!   each keeps its own interval, and they stand in the order of their logical times. A start within a
//!   gap is at its end, one in an overlap at the earlier instant, or the later one if declared.
//!
//! A schedule whose calendars exclude ten years in a row, or 4,000 days with fires in a row, has no
//! further fires.

use std::iter::FusedIterator;
use std::sync::Arc;

use super::calendar::{Calendars, Resolved};
use super::civil::{DAY, Date, SECOND};
use super::rule::Rule;
use super::spec::{Blackout, Schedule, ScheduleError};
use super::timeline::{Overlap, Timeline};

/// Days that a search for one that is not excluded looks at: ten years.
const LONGEST_BLACKOUT: i64 = 3_660;

/// Blackouts that a search meets before it gives up: ten years in which every day with a fire is
/// excluded, if there is one each day; a weekly rule on an excluded weekday ends after 76 years.
const MOST_BLACKOUTS: u32 = 4_000;

/// One fire: what a run is about and when it may start. Microseconds since 1970-01-01T00:00Z.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fire {
    /// The logical time; equals `interval_end`.
    pub at: i64,
    /// Where the data interval begins: the previous nominal fire.
    pub interval_start: i64,
    /// Where it ends; this instant is no longer in it.
    pub interval_end: i64,
    /// When the run may start, jitter not counted: `at`, or later if a calendar delays it.
    pub start: i64,
}

/// In which order a range of fires is walked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// The oldest first.
    #[default]
    Ascending,
    /// The newest first.
    Descending,
}

/// A schedule with the calendars that it names.
#[derive(Debug, Clone)]
pub struct Timetable {
    pub(crate) schedule: Schedule,
    excluded: Vec<Arc<Resolved>>,
    /// The rule in every year, if it is limited to some.
    every_year: Option<Rule>,
}

/// The date of an instant on the clocks of a schedule's zone.
pub fn local_date(schedule: &Schedule, at: i64) -> Date {
    Date::from_days(schedule.zone.local(at.div_euclid(SECOND)).div_euclid(DAY))
}

impl Schedule {
    /// Looks up the calendars that the schedule excludes.
    ///
    /// # Errors
    /// The first name that is not among `calendars`.
    pub fn bind(&self, calendars: &Calendars) -> Result<Timetable, ScheduleError> {
        let find = |name: &String| {
            calendars.get(name).ok_or_else(|| {
                let known = calendars.names().take(25).collect::<Vec<_>>().join(", ");
                let help = if known.is_empty() { "there are none".to_owned() } else { format!("there are: {known}") };
                ScheduleError::new("calendars.exclude", format!("there is no calendar {name:?}"), help)
            })
        };
        let excluded = self.exclude.iter().map(find).collect::<Result<Vec<_>, _>>()?;
        Ok(Timetable { schedule: self.clone(), excluded, every_year: self.rule.without_years() })
    }
}

impl Timetable {
    /// The schedule that it was made of.
    pub fn schedule(&self) -> &Schedule {
        &self.schedule
    }

    /// The first fire after an instant.
    pub fn next(&self, after: i64) -> Option<Fire> {
        self.intervals(after, i64::MAX, Order::Ascending).next()
    }

    /// The last fire before an instant.
    pub fn prev(&self, before: i64) -> Option<Fire> {
        self.intervals(i64::MIN, before.checked_sub(1)?, Order::Descending).next()
    }

    /// The fires with `from < at <= to`: the intervals that end in that range, so that all of them are
    /// complete at `to`, and ranges that meet have no interval in common. Lazy; a step costs
    /// about a microsecond, but a range may hold very many.
    pub fn intervals(&self, from: i64, to: i64, order: Order) -> Intervals<'_> {
        let cursor = if order == Order::Ascending { from } else { to.saturating_add(1) };
        Intervals { table: self, line: self.line(), from, to, order, cursor, nominal: None }
    }

    fn line(&self) -> Timeline<'_> {
        Timeline::new(&self.schedule.rule, &self.schedule.zone, self.schedule.dst)
    }

    fn is_excluded(&self, day: i64) -> bool {
        self.excluded.iter().any(|calendar| calendar.contains(day))
    }

    /// The local date of an instant, in days since 1970-01-01.
    fn day_of(&self, at: i64) -> i64 {
        self.schedule.zone.local(at.div_euclid(SECOND)).div_euclid(DAY)
    }

    /// The nearest day that is not excluded, stepping by 1 or -1; nothing within ten years is nothing.
    fn allowed_day(&self, day: i64, step: i64) -> Option<i64> {
        (0..LONGEST_BLACKOUT).map(|count| day + count * step).find(|day| !self.is_excluded(*day))
    }

    /// When the run of a fire may start.
    fn start_of(&self, at: i64) -> Option<i64> {
        let day = self.day_of(at);
        if self.excluded.is_empty() || !self.is_excluded(day) {
            return Some(at);
        }
        let allowed = self.allowed_day(day, 1)?;
        let zone = &self.schedule.zone;
        let (second, rest) = (at.div_euclid(SECOND), at.rem_euclid(SECOND));
        let (first, last) = zone.instants(zone.local(second) + (allowed - day) * DAY);
        let chosen = if self.schedule.dst.overlap == Overlap::Last { last } else { first };
        Some((chosen * SECOND + rest).max(at))
    }

    /// The fire that would have come before the first one, did the rule not begin with some year.
    fn before_the_years(&self, at: i64) -> Option<i64> {
        let rule = self.every_year.as_ref()?;
        Timeline::new(rule, &self.schedule.zone, self.schedule.dst).prev(at)
    }
}

/// The fires of a range, in order. Made by [`Timetable::intervals`].
#[derive(Debug, Clone)]
pub struct Intervals<'a> {
    table: &'a Timetable,
    line: Timeline<'a>,
    from: i64,
    to: i64,
    order: Order,
    /// Fires beyond it, seen in the order of the walk, are still to come.
    cursor: i64,
    /// The nominal fire that the walk has reached: ascending the last one, descending the next.
    nominal: Option<i64>,
}

impl Iterator for Intervals<'_> {
    type Item = Fire;

    fn next(&mut self) -> Option<Fire> {
        let found = match self.order {
            Order::Ascending => self.ascend(),
            Order::Descending => self.descend(),
        };
        if found.is_none() {
            // Whatever ended the walk, it does not begin again.
            (self.from, self.to) = (i64::MAX, i64::MIN);
        }
        found
    }
}

impl FusedIterator for Intervals<'_> {}

impl Intervals<'_> {
    fn ascend(&mut self) -> Option<Fire> {
        for _ in 0..MOST_BLACKOUTS {
            if self.cursor >= self.to {
                return None;
            }
            let at = self.line.next(self.cursor).filter(|at| *at <= self.to)?;
            let before = self.nominal.replace(at);
            self.cursor = at;
            if self.drops(at) {
                let first = self.after_blackout(at)?;
                if first > at {
                    // The fires of the excluded days after this one are not looked at.
                    (self.cursor, self.nominal) = (first - 1, None);
                }
                continue;
            }
            let before = before.or_else(|| self.line.prev(at));
            return self.fire(at, before);
        }
        None
    }

    fn descend(&mut self) -> Option<Fire> {
        for _ in 0..MOST_BLACKOUTS {
            if self.cursor <= self.from.saturating_add(1) {
                return None;
            }
            let at = match self.nominal.take() {
                Some(at) => at,
                None => self.line.prev(self.cursor)?,
            };
            if at <= self.from {
                return None;
            }
            self.cursor = at;
            if self.drops(at) {
                self.cursor = self.before_blackout(at)?;
                continue;
            }
            self.nominal = self.line.prev(at);
            return self.fire(at, self.nominal);
        }
        None
    }

    fn fire(&self, at: i64, before: Option<i64>) -> Option<Fire> {
        // A rule that never fired before has an empty first interval.
        let interval_start = before.or_else(|| self.table.before_the_years(at)).unwrap_or(at);
        Some(Fire { at, interval_start, interval_end: at, start: self.table.start_of(at)? })
    }

    /// Whether the fire does not happen: on an excluded day, skipped or delayed beyond all bounds.
    fn drops(&self, at: i64) -> bool {
        let table = self.table;
        if table.excluded.is_empty() {
            return false;
        }
        let day = table.day_of(at);
        table.is_excluded(day) && (table.schedule.blackout == Blackout::Skip || table.allowed_day(day, 1).is_none())
    }

    /// The first instant of the next day that is not excluded, or `at` itself where the clock was set
    /// back across midnight and that day is already past: then the fires are looked at one by one.
    fn after_blackout(&self, at: i64) -> Option<i64> {
        let day = self.table.allowed_day(self.table.day_of(at) + 1, 1)?;
        let (first, _) = self.table.schedule.zone.instants(day * DAY);
        Some((first * SECOND).max(at))
    }

    /// The first instant after the previous day that is not excluded.
    fn before_blackout(&self, at: i64) -> Option<i64> {
        let day = self.table.allowed_day(self.table.day_of(at) - 1, -1)?;
        let (_, last) = self.table.schedule.zone.instants((day + 1) * DAY);
        Some((last * SECOND).min(at))
    }
}
