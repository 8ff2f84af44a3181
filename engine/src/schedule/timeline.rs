//! A rule on the clock of a place: from an instant to the next and the previous nominal fire.
//!
//! Called by `timetable` and `lint`. Knows no calendars and no intervals.
//!
//! # What happens when the clock changes
//!
//! As in Debian's cron and in `cronsim` (PyPI), the two kinds of wall-clock rules differ.
//!
//! **A rule of the running clock**, whose second, minute or hour begins with `*` (`*/15 * * * *`,
//! `0 * * * *`, `@hourly`), fires whenever the clock on the wall reads what it says: an hourly rule
//! fires each hour that elapses. There is nothing in a gap, and an overlap is lived through twice.
//! The declared policy does not touch it: it has no time of day that could be lost or doubled.
//!
//! **A rule of fixed times** (all others, `every = "1d"` in a zone among them) follows the policy:
//!
//! | | |
//! |---|---|
//! | gap = shift | all times that the gap swallowed become one fire at its end: 02:15 at 03:00. If the rule also means 03:00, that is one fire, not two |
//! | gap = skip | no fire for them |
//! | overlap = first | at the earlier of the two instants |
//! | overlap = last | at the later one |
//! | overlap = both | at both; the times of the first pass come before those of the second |
//!
//! `shift` with `first` is the default, and what Debian and `cronsim` do. (Debian calls a jump of more
//! than three hours a correction of the clock and skips; we, as `cronsim`, shift: Apia's missing
//! 30 December 2011 is a gap like any other.) `cronsim` treats a line of six fields always as one of the
//! running clock; here `0 15 2 * * *` means what `15 2 * * *` means.
//!
//! # How it searches
//!
//! Between two changes, local time is an instant plus a constant. A stretch between changes therefore
//! has a window of local times in which the rule is searched, cut by what the policy leaves to the
//! neighbor in an overlap; if the stretch begins with a gap, its first instant stands for the gap.
//! Fires come out in the order of instants, each once, by construction.

use super::civil::{DAY, SECOND};
use super::rule::Rule;
use super::zone::{FIRST, LAST, Segment, Zone};

/// Stretches that one search looks at. Two a year in 400 years, and jumps over empty years take two
/// more; a rule that has not fired by then (always in a skipped gap) never does.
const LONGEST_WALK: u32 = 2_000;

/// What happens to fixed times within a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Gap {
    /// They become one fire at the gap's end.
    #[default]
    Shift,
    /// They do not fire.
    Skip,
}

/// What happens to fixed times that occur twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// They fire at the earlier instant.
    #[default]
    First,
    /// They fire at the later instant.
    Last,
    /// They fire twice.
    Both,
}

/// The policy for changes of the clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Dst {
    /// For times that do not exist.
    pub gap: Gap,
    /// For times that exist twice.
    pub overlap: Overlap,
}

/// A walk along the fires of a rule in a zone; remembers the stretch that it is in.
#[derive(Debug, Clone)]
pub(crate) struct Timeline<'a> {
    rule: &'a Rule,
    zone: &'a Zone,
    dst: Dst,
    here: Option<Segment>,
}

impl<'a> Timeline<'a> {
    pub(crate) fn new(rule: &'a Rule, zone: &'a Zone, dst: Dst) -> Self {
        // The running clock has no gap, and lives through an overlap twice.
        let running = Dst { gap: Gap::Skip, overlap: Overlap::Both };
        Self { rule, zone, dst: if rule.by_running_clock() { running } else { dst }, here: None }
    }

    /// The first nominal fire after an instant; microseconds since 1970-01-01T00:00Z.
    pub(crate) fn next(&mut self, after: i64) -> Option<i64> {
        if let Some(interval) = self.rule.elapsed() {
            let next = after.max(FIRST * SECOND).div_euclid(interval).checked_add(1)?.checked_mul(interval)?;
            return (next <= LAST * SECOND).then_some(next);
        }
        let after = after.div_euclid(SECOND).max(FIRST - 1);
        if after >= LAST { None } else { self.next_second(after).map(|second| second * SECOND) }
    }

    /// The last nominal fire before an instant; microseconds since 1970-01-01T00:00Z.
    pub(crate) fn prev(&mut self, before: i64) -> Option<i64> {
        if let Some(interval) = self.rule.elapsed() {
            let before = before.min(LAST * SECOND + 1);
            let prev = before.checked_sub(1)?.div_euclid(interval).checked_mul(interval)?;
            return (prev >= FIRST * SECOND).then_some(prev);
        }
        let last = before.checked_sub(1)?.div_euclid(SECOND).min(LAST);
        if last < FIRST { None } else { self.prev_second(last).map(|second| second * SECOND) }
    }

    fn next_second(&mut self, after: i64) -> Option<i64> {
        let mut here = self.enter(after);
        let mut from = after + 1 + here.offset;
        for _ in 0..LONGEST_WALK {
            let (low, high) = self.window(&here);
            from = from.max(low);
            let found = self.rule.next_local(from);
            if let Some(local) = found.filter(|local| *local < high) {
                self.here = Some(here);
                return (local - here.offset <= LAST).then_some(local - here.offset);
            }
            // Nothing is meant from `from` to `found`, so that the stretches between may be jumped over,
            // unless an overlap is about to bring back times before `from`.
            let goes_on = here.end + here.after? >= from;
            let reach = found.map_or(i64::MAX, |local| local - 2 * DAY);
            if goes_on && reach > here.end {
                if reach > LAST {
                    return None;
                }
                here = self.zone.segment(reach);
                from = reach + here.offset;
                continue;
            }
            here = self.zone.following(&here)?;
            if self.shifts(&here) {
                self.here = Some(here);
                return Some(here.start);
            }
            from = i64::MIN;
        }
        None
    }

    fn prev_second(&mut self, last: i64) -> Option<i64> {
        let mut here = self.enter(last);
        let mut to = last + here.offset;
        for _ in 0..LONGEST_WALK {
            let (low, high) = self.window(&here);
            to = to.min(high - 1);
            let found = self.rule.prev_local(to);
            if let Some(local) = found.filter(|local| *local >= low) {
                self.here = Some(here);
                return Some(local - here.offset);
            }
            if self.shifts(&here) {
                self.here = Some(here);
                return Some(here.start);
            }
            let goes_on = here.start + here.before? <= to + 1;
            let reach = found.map_or(i64::MIN, |local| local + 2 * DAY);
            if goes_on && reach < here.start {
                if reach < FIRST {
                    return None;
                }
                here = self.zone.segment(reach);
                to = reach + here.offset;
                continue;
            }
            here = self.zone.segment(here.start - 1);
            to = i64::MAX;
        }
        None
    }

    fn enter(&self, at: i64) -> Segment {
        match self.here {
            Some(here) if (here.start..here.end).contains(&at) => here,
            _ => self.zone.segment(at),
        }
    }

    /// The local times, from the first to before the last, that fire within a stretch.
    fn window(&self, here: &Segment) -> (i64, i64) {
        let (low, high) = (here.start + here.offset, here.end + here.offset);
        let (before, after) = (here.before.unwrap_or(here.offset), here.after.unwrap_or(here.offset));
        match self.dst.overlap {
            Overlap::First => (low.max(here.start + before), high),
            Overlap::Last => (low, high.min(here.end + after)),
            Overlap::Both => (low, high),
        }
    }

    /// Whether a stretch begins with a gap whose times become a fire at its start.
    fn shifts(&self, here: &Segment) -> bool {
        self.dst.gap == Gap::Shift && self.in_gap(here).is_some()
    }

    /// The first local time that the rule means in the gap with which a stretch begins.
    pub(crate) fn in_gap(&self, here: &Segment) -> Option<i64> {
        let from = here.start + here.before?;
        let to = here.start + here.offset;
        if from >= to {
            return None;
        }
        self.rule.next_local(from).filter(|local| *local < to)
    }
}
