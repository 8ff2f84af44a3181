//! Named calendars: sets of days, and how they refer to each other.
//!
//! Called by `timetable`, which asks whether a day is in a blackout, and by whoever loads
//! `dags/calendars/NAME.toml`; `calendar_text` reads the files. A calendar is the union of what its
//! file says: single dates and ranges, weekdays, days of each year, other calendars (`include`), and
//! business days. Days are local dates: a calendar has no zone, the schedule that names it has.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::bits;
use super::calendar_text;
use super::civil::{Date, days_in_month, weekday};

/// How many calendars one may be made of, counted along every path: a look at one day stays short.
const MOST_PARTS: u64 = 1_000;

/// How deep calendars may refer to each other: deeper is a maze, and the look-up recurses.
const DEEPEST: usize = 16;

/// What is wrong with a calendar.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {problem}")]
pub struct CalendarError {
    /// Where: a key such as `yearly[2]`, behind the calendar's name where several are read together.
    pub at: String,
    /// Line in the file, from 1, where it is known.
    pub line: Option<usize>,
    /// What is wrong.
    pub problem: String,
    /// How to mend it.
    pub help: String,
}

/// A calendar as its file says it; what it refers to is looked up by [`Calendars::resolve`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Calendar {
    pub(crate) description: String,
    pub(crate) days: Days,
    pub(crate) include: Vec<String>,
    pub(crate) business: Option<Business>,
}

/// Days that are neither of the weekend nor in one of these calendars.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Business {
    pub(crate) weekend: u64,
    pub(crate) except: Vec<String>,
}

/// The days that a calendar names itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Days {
    /// First and last days since 1970-01-01; sorted, apart from each other.
    ranges: Vec<(i64, i64)>,
    /// Sunday is bit 0.
    weekdays: u64,
    /// Days of each month of every year, day 1 as bit 1.
    yearly: [u64; 12],
    nth: Vec<NthWeekday>,
}

/// "last friday of november".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NthWeekday {
    pub(crate) month: i64,
    pub(crate) weekday: i64,
    /// 1 to 5; `None` = the last one.
    pub(crate) nth: Option<i64>,
}

impl Calendar {
    /// Reads the TOML of a calendar's file.
    ///
    /// ```toml
    /// description = "When branches count their stock"
    /// dates = [2026-01-31, 2026-07-31]
    /// ranges = [{ from = 2026-12-24, to = 2027-01-01 }]     # both ends belong to it
    /// weekly = ["saturday", "sunday"]
    /// yearly = ["12-25", "last friday of november"]
    /// include = ["us_holidays"]                             # the days of other calendars too
    /// business_days = { weekend = ["saturday", "sunday"], except = ["us_holidays"] }
    /// ```
    ///
    /// # Errors
    /// Everything that is wrong with the values, at once; a file that is no TOML or has a key of the
    /// wrong type or name yields that one error.
    pub fn parse(text: &str) -> Result<Self, Vec<CalendarError>> {
        calendar_text::parse(text)
    }

    /// What the file says that it is for.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// The calendars that it refers to.
    pub fn references(&self) -> impl Iterator<Item = &str> {
        let except = self.business.iter().flat_map(|business| &business.except);
        self.include.iter().chain(except).map(String::as_str)
    }
}

impl Days {
    pub(crate) fn new(mut ranges: Vec<(i64, i64)>, weekdays: u64, yearly: [u64; 12], nth: Vec<NthWeekday>) -> Self {
        ranges.sort_unstable();
        let mut apart: Vec<(i64, i64)> = Vec::new();
        for (from, to) in ranges {
            match apart.last_mut() {
                Some((_, last)) if from <= *last + 1 => *last = to.max(*last),
                _ => apart.push((from, to)),
            }
        }
        Self { ranges: apart, weekdays, yearly, nth }
    }

    fn contains(&self, day: i64) -> bool {
        let after = self.ranges.partition_point(|(from, _)| *from <= day);
        let in_range = after.checked_sub(1).and_then(|at| self.ranges.get(at)).is_some_and(|(_, to)| day <= *to);
        in_range || bits::has(self.weekdays, weekday(day)) || self.in_year(day)
    }

    fn in_year(&self, day: i64) -> bool {
        let date = Date::from_days(day);
        let month = usize::try_from(date.month - 1).ok().and_then(|at| self.yearly.get(at));
        month.is_some_and(|days| bits::has(*days, date.day)) || self.nth.iter().any(|rule| rule.matches(date, day))
    }
}

impl NthWeekday {
    fn matches(self, date: Date, day: i64) -> bool {
        self.month == date.month
            && self.weekday == weekday(day)
            && match self.nth {
                Some(nth) => (date.day - 1) / 7 + 1 == nth,
                None => date.day + 7 > days_in_month(date.year, date.month),
            }
    }
}

/// Calendars with all that they refer to.
#[derive(Debug, Clone, Default)]
pub struct Calendars(BTreeMap<String, Arc<Resolved>>);

/// A calendar that can be asked.
#[derive(Debug)]
pub(crate) struct Resolved {
    days: Days,
    include: Vec<Arc<Resolved>>,
    /// The weekend, and what else is no business day.
    business: Option<(u64, Vec<Arc<Resolved>>)>,
    parts: u64,
    depth: usize,
}

impl Resolved {
    /// Whether a day since 1970-01-01 is in it.
    pub(crate) fn contains(&self, day: i64) -> bool {
        let any = |calendars: &[Arc<Self>]| calendars.iter().any(|calendar| calendar.contains(day));
        let business = |(weekend, except): &(u64, Vec<Arc<Self>>)| !bits::has(*weekend, weekday(day)) && !any(except);
        self.days.contains(day) || any(&self.include) || self.business.as_ref().is_some_and(business)
    }
}

impl Calendars {
    /// Links calendars, by name, to those that they refer to.
    ///
    /// # Errors
    /// Names that do not exist, calendars that contain themselves, and mazes; all at once.
    pub fn resolve(calendars: &BTreeMap<String, Calendar>) -> Result<Self, Vec<CalendarError>> {
        let mut work = Resolver { calendars, done: BTreeMap::new(), path: Vec::new(), errors: Vec::new() };
        for name in calendars.keys() {
            work.visit(name);
        }
        if !work.errors.is_empty() {
            return Err(work.errors);
        }
        Ok(Self(work.done.into_iter().filter_map(|(name, found)| Some((name, found?))).collect()))
    }

    /// Whether a local date is in the calendar of that name; `None` if there is no such calendar.
    pub fn contains(&self, name: &str, date: Date) -> Option<bool> {
        self.0.get(name).map(|calendar| calendar.contains(date.to_days()))
    }

    /// The names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(crate) fn get(&self, name: &str) -> Option<Arc<Resolved>> {
        self.0.get(name).cloned()
    }
}

/// A depth-first walk over the references.
struct Resolver<'a> {
    calendars: &'a BTreeMap<String, Calendar>,
    /// `None`: it has errors, which are reported already.
    done: BTreeMap<String, Option<Arc<Resolved>>>,
    path: Vec<&'a str>,
    errors: Vec<CalendarError>,
}

impl<'a> Resolver<'a> {
    fn visit(&mut self, name: &'a str) -> Option<Arc<Resolved>> {
        if let Some(done) = self.done.get(name) {
            return done.clone();
        }
        let calendars = self.calendars;
        let calendar = calendars.get(name)?;
        self.path.push(name);
        let include = self.follow("include", &calendar.include);
        let business = calendar.business.as_ref().map(|business| {
            let except = self.follow("business_days.except", &business.except);
            except.map(|except| (business.weekend, except))
        });
        self.path.pop();
        let found = match (include, business) {
            (Some(include), None) => self.join(name, &calendar.days, include, None),
            (Some(include), Some(Some(business))) => self.join(name, &calendar.days, include, Some(business)),
            _ => None,
        };
        self.done.insert(name.to_owned(), found.clone());
        found
    }

    /// What a list of names refers to; `None` if one of them has an error.
    fn follow(&mut self, key: &str, names: &'a [String]) -> Option<Vec<Arc<Resolved>>> {
        let mut found = Some(Vec::new());
        for name in names {
            let next = match self.refuse(name) {
                Some((problem, help)) => {
                    self.report(key, problem, help);
                    None
                }
                None => self.visit(name),
            };
            found = found.zip(next).map(|(mut all, next)| {
                all.push(next);
                all
            });
        }
        found
    }

    fn refuse(&self, name: &str) -> Option<(String, String)> {
        if let Some(at) = self.path.iter().position(|above| *above == name) {
            let round = self.path[at..].join(" -> ");
            let problem = format!("the calendar contains itself: {round} -> {name}");
            return Some((problem, "take one of these references out".to_owned()));
        }
        if !self.calendars.contains_key(name) {
            let known = self.calendars.keys().take(25).map(String::as_str).collect::<Vec<_>>().join(", ");
            return Some((format!("there is no calendar {name:?}"), format!("there are: {known}")));
        }
        // The walk itself recurses: a chain that is too long must not be followed to its end.
        (self.path.len() > DEEPEST).then(|| too_large(&format!("calendars refer to each other {DEEPEST} deep")))
    }

    fn join(
        &mut self,
        name: &str,
        days: &Days,
        include: Vec<Arc<Resolved>>,
        business: Option<(u64, Vec<Arc<Resolved>>)>,
    ) -> Option<Arc<Resolved>> {
        let below = || include.iter().chain(business.iter().flat_map(|(_, except)| except));
        let parts = below().fold(1_u64, |sum, part| sum.saturating_add(part.parts));
        let depth = below().map(|part| part.depth + 1).max().unwrap_or(0);
        if parts > MOST_PARTS || depth > DEEPEST {
            let (problem, help) = too_large(&format!("it is made of {parts} calendars, {depth} deep"));
            self.errors.push(CalendarError { at: name.to_owned(), line: None, problem, help });
            return None;
        }
        Some(Arc::new(Resolved { days: days.clone(), include, business, parts, depth }))
    }

    fn report(&mut self, key: &str, problem: String, help: String) {
        let name = self.path.last().copied().unwrap_or_default();
        self.errors.push(CalendarError { at: format!("{name}: {key}"), line: None, problem, help });
    }
}

fn too_large(what: &str) -> (String, String) {
    let help = format!("at most {MOST_PARTS} calendars, {DEEPEST} deep: name the days themselves");
    (what.to_owned(), help)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn calendars(files: &[(&str, &str)]) -> Result<Calendars, Vec<CalendarError>> {
        let parsed = files.iter().map(|(name, text)| ((*name).to_owned(), Calendar::parse(text).expect(name)));
        Calendars::resolve(&parsed.collect())
    }

    fn on(calendars: &Calendars, name: &str, date: &str) -> bool {
        calendars.contains(name, Date::parse(date).expect(date)).expect(name)
    }

    #[test]
    fn days_of_every_kind() {
        let all = calendars(&[(
            "c",
            r#"
            dates = [2026-01-31, "2026-07-31"]
            ranges = [{ from = 2026-12-24, to = 2027-01-01 }]
            weekly = ["sunday"]
            yearly = ["03-17", "last friday of november", "first Monday of september", "02-29"]
            "#,
        )])
        .expect("a calendar");
        let inside = [
            "2026-01-31",
            "2026-07-31",
            "2026-12-24",
            "2027-01-01",
            "2026-12-28",
            "2026-11-01",
            "2030-03-17",
            "2026-11-27",
            "2027-11-26",
            "2026-09-07",
            "2028-02-29",
        ];
        let outside =
            ["2026-01-30", "2026-12-23", "2027-01-02", "2026-11-20", "2026-09-14", "2027-03-01", "2026-10-30"];
        assert!(inside.iter().all(|date| on(&all, "c", date)));
        assert!(!outside.iter().any(|date| on(&all, "c", date)));
    }

    #[test]
    fn business_days_are_what_is_neither_weekend_nor_holiday() {
        let all = calendars(&[
            ("holidays", "yearly = [\"12-25\"]"),
            ("work", "business_days = { except = [\"holidays\"] }"),
            ("gulf", "business_days = { weekend = [\"friday\", \"saturday\"] }"),
            ("closed", "weekly = [\"saturday\", \"sunday\"]\ninclude = [\"holidays\"]"),
        ])
        .expect("calendars");
        for (date, work) in [("2026-12-24", true), ("2026-12-25", false), ("2026-12-26", false), ("2026-12-28", true)] {
            assert_eq!(on(&all, "work", date), work, "{date}");
            assert_eq!(on(&all, "closed", date), !work, "{date}");
        }
        assert!(on(&all, "gulf", "2026-12-27"), "a Sunday");
        assert_eq!(all.contains("none", Date::from_days(0)), None);
        assert_eq!(all.names().count(), 4);
    }

    #[test]
    fn circles_and_unknown_names_are_reported_together() {
        let errors = calendars(&[
            ("a", "include = [\"b\"]"),
            ("b", "business_days = { except = [\"a\"] }"),
            ("c", "include = [\"nobody\", \"c\"]"),
        ])
        .expect_err("circles");
        let texts = errors.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert_eq!(
            texts,
            [
                "b: business_days.except: the calendar contains itself: a -> b -> a",
                "c: include: there is no calendar \"nobody\"",
                "c: include: the calendar contains itself: c -> c",
            ]
        );
        assert!(errors.iter().all(|error| !error.help.is_empty()));
    }

    #[test]
    fn mazes_are_refused_and_walked_in_bounds() {
        let link = |at: usize| format!("include = [\"c{:05}\"]", at + 1);
        let mut chain = (0..20_000)
            .map(|at| (format!("c{at:05}"), Calendar::parse(&link(at)).expect("a link")))
            .collect::<BTreeMap<_, _>>();
        chain.insert("c20000".to_owned(), Calendar::default());
        assert!(Calendars::resolve(&chain).is_err());
        let wide = (0..12).map(|level: usize| {
            let next = format!("\"l{:02}\",", level + 1).repeat(4);
            let text = if level == 11 { String::new() } else { format!("include = [{next}]") };
            (format!("l{level:02}"), Calendar::parse(&text).expect("a level"))
        });
        let errors = Calendars::resolve(&wide.collect()).expect_err("4^11 parts");
        assert!(errors[0].problem.contains("calendars, "), "{errors:?}");
    }
}
