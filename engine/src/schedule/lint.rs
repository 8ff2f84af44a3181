//! What is allowed in a schedule and still seldom meant.
//!
//! Called by whoever shows diagnostics: these are warnings.

use std::fmt;
use std::ops::RangeInclusive;

use super::civil::{DAY, Date, SECOND, wall};
use super::spec::Schedule;
use super::timeline::{Gap, Timeline};

/// More years are not looked at: the rules of zones repeat.
const MOST_YEARS: i64 = 100;

/// A warning about a schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lint {
    /// A step that does not divide its range: the last one is shorter.
    UnevenStep {
        /// The field, such as "minute".
        field: &'static str,
        /// The step.
        step: i64,
        /// How many values the field has before it begins again.
        size: i64,
    },
    /// Fixed times that a change of the clock swallows.
    InGap {
        /// The time zone.
        zone: String,
        /// The first such time of each gap, as `2026-03-08T02:15:00`, and the end of that gap in
        /// microseconds since 1970-01-01T00:00Z.
        times: Vec<(String, i64)>,
        /// What becomes of them.
        policy: Gap,
    },
    /// No fire from the first of the years on.
    NeverFires,
}

impl Lint {
    /// The code of its diagnostic.
    pub fn code(&self) -> &'static str {
        match self {
            Self::UnevenStep { .. } => "lint::uneven_step",
            Self::InGap { .. } => "lint::fire_in_gap",
            Self::NeverFires => "lint::never_fires",
        }
    }

    /// How to mend it.
    pub fn help(&self) -> String {
        match self {
            Self::UnevenStep { field, step, .. } if *field == "day of month" || *field == "day of week" => {
                format!("for a steady pace write every = \"{step}d\"")
            }
            Self::UnevenStep { step, size, .. } => {
                let dividing = (1..=*size).filter(|other| size % other == 0).collect::<Vec<_>>();
                let near = dividing.iter().min_by_key(|other| (**other - step).abs()).unwrap_or(&1);
                format!("take a step that divides {size}, such as {near}, or a fixed interval (every)")
            }
            Self::InGap { policy: Gap::Shift, .. } => {
                "they fire at the gap's end; choose an hour at which clocks are not changed, or timezone = \"UTC\""
                    .to_owned()
            }
            Self::InGap { policy: Gap::Skip, .. } => {
                "they do not fire; set dst.gap = \"shift\", or choose an hour at which clocks are not changed"
                    .to_owned()
            }
            Self::NeverFires => "no date fits all fields; check day, month and year".to_owned(),
        }
    }
}

impl fmt::Display for Lint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnevenStep { field, step, size } if step >= size => {
                write!(
                    f,
                    "{field}: a step of {step} is longer than the field's {size} values: it never comes to a second"
                )
            }
            Self::UnevenStep { field: field @ "day of month", step, .. } => {
                write!(f, "{field}: a step of {step} begins anew with each month, whatever day the last one ended on")
            }
            Self::UnevenStep { field, step, size } => {
                write!(f, "{field}: a step of {step} does not divide {size}: the last one is shorter")
            }
            Self::InGap { zone, times, .. } => {
                let first = times.first().map_or("", |(time, _)| time);
                write!(f, "{first} does not exist in {zone}")?;
                if times.len() > 1 { write!(f, ", nor do {} times like it", times.len() - 1) } else { Ok(()) }
            }
            Self::NeverFires => f.write_str("the schedule never fires"),
        }
    }
}

/// The warnings about a schedule; changes of the clock are looked at in `years` (1 to 9999, at most a
/// hundred of them), without regard to calendars.
pub fn lint(schedule: &Schedule, years: RangeInclusive<i64>) -> Vec<Lint> {
    let first = (*years.start()).clamp(1, 9999);
    let last = (*years.end()).clamp(first, first + MOST_YEARS - 1).min(9999);
    let begin = Date { year: first, month: 1, day: 1 }.to_days() * DAY;
    let end = Date { year: last, month: 12, day: 31 }.to_days() * DAY + DAY;
    let steps = schedule.rule.steps().iter().filter(|step| step.size % step.step != 0);
    let mut found =
        steps.map(|step| Lint::UnevenStep { field: step.field, step: step.step, size: step.size }).collect::<Vec<_>>();
    let times = in_gaps(schedule, begin, end);
    if !times.is_empty() {
        found.push(Lint::InGap { zone: schedule.zone.name().to_owned(), times, policy: schedule.dst.gap });
    }
    let mut line = Timeline::new(&schedule.rule, &schedule.zone, schedule.dst);
    if line.next(begin * SECOND - 1).is_none() {
        found.push(Lint::NeverFires);
    }
    found
}

fn in_gaps(schedule: &Schedule, begin: i64, end: i64) -> Vec<(String, i64)> {
    // The running clock has no times to lose, and elapsed time no wall clock.
    if schedule.rule.by_running_clock() || schedule.rule.elapsed().is_some() {
        return Vec::new();
    }
    let line = Timeline::new(&schedule.rule, &schedule.zone, schedule.dst);
    let mut here = schedule.zone.segment(begin);
    let mut found = Vec::new();
    while let Some(next) = schedule.zone.following(&here).filter(|next| next.start < end) {
        if let Some(local) = line.in_gap(&next) {
            found.push((wall(local), next.start * SECOND));
        }
        here = next;
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn lints(section: Value) -> Vec<String> {
        let schedule = Schedule::from_json(&section).expect("a schedule");
        lint(&schedule, 2026..=2028).iter().map(|lint| format!("{} {lint}", lint.code())).collect()
    }

    #[test]
    fn steps() {
        assert_eq!(lints(json!({"cron": "*/15 */6 * */3 *"})), [""; 0]);
        assert_eq!(lints(json!({"cron": "8-18/3 9-17/3 * * 1-5/2"})), [""; 0], "a part of the range is no wrap");
        assert_eq!(
            lints(json!({"cron": "*/7 5/5 */2 * */2"})),
            [
                "lint::uneven_step minute: a step of 7 does not divide 60: the last one is shorter",
                "lint::uneven_step hour: a step of 5 does not divide 24: the last one is shorter",
                "lint::uneven_step day of month: a step of 2 begins anew with each month, whatever day the last one ended on",
                "lint::uneven_step day of week: a step of 2 does not divide 7: the last one is shorter",
            ]
        );
        let help = Lint::UnevenStep { field: "minute", step: 7, size: 60 }.help();
        assert!(help.contains("such as 6"), "{help}");
    }

    #[test]
    fn fixed_times_in_a_gap_and_nothing_else() {
        assert_eq!(
            lints(json!({"cron": "15 2 * * *", "timezone": "America/Chicago"})),
            ["lint::fire_in_gap 2026-03-08T02:15:00 does not exist in America/Chicago, nor do 2 times like it"]
        );
        assert_eq!(
            lints(json!({"cron": "0 0 * * *", "timezone": "America/Havana"})),
            ["lint::fire_in_gap 2026-03-08T00:00:00 does not exist in America/Havana, nor do 2 times like it"]
        );
        for fine in ["*/15 2 * * *", "15 3 * * *", "15 2 * * 1-6", "15 * * * *"] {
            assert_eq!(lints(json!({"cron": fine, "timezone": "America/Chicago"})), [""; 0], "{fine}");
        }
        assert_eq!(lints(json!({"every": "1h", "timezone": "America/Chicago"})), [""; 0]);
    }

    #[test]
    fn what_never_fires() {
        for never in ["0 0 31 2 *", "0 0 0 1 1 * 2025"] {
            assert_eq!(lints(json!({"cron": never})), ["lint::never_fires the schedule never fires"], "{never}");
        }
        let always_skipped = json!({"cron": "30 2 * 3 sun#2", "timezone": "America/Chicago", "dst": {"gap": "skip"}});
        assert_eq!(lints(always_skipped).len(), 2);
    }

    #[test]
    fn any_years_are_fine() {
        let schedule = Schedule::from_json(&json!({"cron": "15 2 * * *", "timezone": "America/Chicago"}));
        let schedule = schedule.expect("a schedule");
        #[expect(clippy::reversed_empty_ranges, reason = "that is what is tried")]
        for years in [i64::MIN..=i64::MAX, 5..=1, 9999..=10_000, i64::MAX..=i64::MAX] {
            let _ = lint(&schedule, years);
        }
    }
}
