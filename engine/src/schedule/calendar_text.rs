//! Calendars from TOML: what their files may say, and what is wrong with what they say.
//!
//! Called by `calendar`. Reads text and nothing else; the file's name, which is the calendar's, and
//! the files it refers to are the caller's.

use serde::Deserialize;
use toml::{Spanned, Value};

use super::calendar::{Business, Calendar, CalendarError, Days, NthWeekday};
use super::civil::{Date, days_in_month, parts};

const MONTHS: [&str; 12] = [
    "january",
    "february",
    "march",
    "april",
    "may",
    "june",
    "july",
    "august",
    "september",
    "october",
    "november",
    "december",
];
const WEEKDAYS: [&str; 7] = ["sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday"];
const NTH: [&str; 6] = ["first", "second", "third", "fourth", "fifth", "last"];

/// Saturday and Sunday.
const USUAL_WEEKEND: u64 = 0b100_0001;

const DATE_HELP: &str = "write a date such as 2026-11-27";
const YEARLY_HELP: &str = "write month and day such as \"12-25\", or \"last friday of november\"";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Shape {
    #[serde(default)]
    description: String,
    #[serde(default)]
    dates: Vec<Spanned<Value>>,
    #[serde(default)]
    ranges: Vec<Spanned<RangeShape>>,
    #[serde(default)]
    weekly: Vec<Spanned<String>>,
    #[serde(default)]
    yearly: Vec<Spanned<String>>,
    #[serde(default)]
    include: Vec<String>,
    business_days: Option<BusinessShape>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RangeShape {
    from: Value,
    to: Value,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BusinessShape {
    weekend: Option<Vec<Spanned<String>>>,
    #[serde(default)]
    except: Vec<String>,
}

/// Errors so far, and the text that lines are counted in.
struct Reader<'a> {
    text: &'a str,
    errors: Vec<CalendarError>,
}

/// A problem and its remedy.
type Mistake = (String, String);

/// Reads a calendar's file.
pub(crate) fn parse(text: &str) -> Result<Calendar, Vec<CalendarError>> {
    let mut reader = Reader { text, errors: Vec::new() };
    let shape = toml::from_str::<Shape>(text).map_err(|error| vec![reader.no_shape(&error)])?;
    let mut ranges = Vec::new();
    ranges.extend(reader.each("dates", &shape.dates, |value| date(value).map(|day| (day, day))));
    ranges.extend(reader.each("ranges", &shape.ranges, range));
    let weekdays = set(reader.each("weekly", &shape.weekly, |name| weekday(name)));
    let (mut yearly, mut nth) = ([0_u64; 12], Vec::new());
    for rule in reader.each("yearly", &shape.yearly, |rule| yearly_rule(rule)) {
        match rule {
            Yearly::Day(month, day) => {
                if let Some(days) = usize::try_from(month - 1).ok().and_then(|at| yearly.get_mut(at)) {
                    *days |= 1_u64 << day;
                }
            }
            Yearly::Nth(rule) => nth.push(rule),
        }
    }
    let business = shape.business_days.map(|business| Business {
        weekend: business
            .weekend
            .map_or(USUAL_WEEKEND, |names| set(reader.each("business_days.weekend", &names, |name| weekday(name)))),
        except: business.except,
    });
    if !reader.errors.is_empty() {
        return Err(reader.errors);
    }
    let days = Days::new(ranges, weekdays, yearly, nth);
    Ok(Calendar { description: shape.description, days, include: shape.include, business })
}

impl Reader<'_> {
    /// Reads each member of a list, and reports those that can not be read.
    fn each<T, U>(&mut self, key: &str, list: &[Spanned<T>], read: impl Fn(&T) -> Result<U, Mistake>) -> Vec<U> {
        let mut found = Vec::new();
        for (at, item) in list.iter().enumerate() {
            match read(item.get_ref()) {
                Ok(value) => found.push(value),
                Err((problem, help)) => {
                    let line = Some(self.line(item.span().start));
                    self.errors.push(CalendarError { at: format!("{key}[{at}]"), line, problem, help });
                }
            }
        }
        found
    }

    fn no_shape(&self, error: &toml::de::Error) -> CalendarError {
        CalendarError {
            at: "calendar".to_owned(),
            line: error.span().map(|span| self.line(span.start)),
            problem: error.message().trim_end().to_owned(),
            help: "the keys are description, dates, ranges, weekly, yearly, include and business_days".to_owned(),
        }
    }

    fn line(&self, offset: usize) -> usize {
        self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
    }
}

fn set(elements: Vec<i64>) -> u64 {
    elements.into_iter().fold(0, |set, element| set | (1_u64 << element))
}

/// A TOML date, or one in quotes.
fn date(value: &Value) -> Result<i64, Mistake> {
    let text = match value {
        Value::Datetime(moment) if moment.time.is_none() && moment.offset.is_none() => moment.to_string(),
        Value::String(text) => text.clone(),
        other => return Err((format!("{} is no date", brief(&other.to_string())), DATE_HELP.to_owned())),
    };
    let day = Date::parse(&text).map(Date::to_days);
    day.ok_or_else(|| (format!("{:?} is no date", brief(&text)), DATE_HELP.to_owned()))
}

fn range(shape: &RangeShape) -> Result<(i64, i64), Mistake> {
    let (from, to) = (date(&shape.from)?, date(&shape.to)?);
    if from > to {
        return Err((
            format!("it ends on {}, before it begins on {}", Date::from_days(to), Date::from_days(from)),
            "write the earlier date as from; both belong to the range".to_owned(),
        ));
    }
    Ok((from, to))
}

fn weekday(name: &str) -> Result<i64, Mistake> {
    // Names in full or as cron has them.
    let place = place(name, &WEEKDAYS);
    place.ok_or_else(|| (format!("{:?} is no weekday", brief(name)), format!("write one of {}", WEEKDAYS.join(", "))))
}

/// Where a name stands in a list, in full or by its first three letters.
fn place(name: &str, names: &[&str]) -> Option<i64> {
    let name = name.to_ascii_lowercase();
    (0..).zip(names).find(|(_, known)| name == **known || known.get(..3) == Some(name.as_str())).map(|(at, _)| at)
}

enum Yearly {
    Day(i64, i64),
    Nth(NthWeekday),
}

fn yearly_rule(text: &str) -> Result<Yearly, Mistake> {
    if let Some([month, day]) = parts(text, [2, 2]) {
        // 2000 was a leap year: 02-29 is a day of some years.
        let exists = (1..=12).contains(&month) && (1..=days_in_month(2000, month)).contains(&day);
        return if exists { Ok(Yearly::Day(month, day)) } else { Err(no_rule(text, "is no day of the year")) };
    }
    let [nth, day, of, month] = text.split_whitespace().collect::<Vec<_>>()[..] else {
        return Err(no_rule(text, "is no yearly rule"));
    };
    let which = NTH.iter().zip(1..).find(|(name, _)| name.eq_ignore_ascii_case(nth)).map(|(_, which)| which);
    match (which, weekday(day), of.eq_ignore_ascii_case("of"), place(month, &MONTHS)) {
        (Some(which), Ok(weekday), true, Some(month)) => {
            Ok(Yearly::Nth(NthWeekday { month: month + 1, weekday, nth: (which < 6).then_some(which) }))
        }
        (None, ..) => Err((format!("{:?} is not which one", brief(nth)), format!("write one of {}", NTH.join(", ")))),
        (_, Err(mistake), ..) => Err(mistake),
        (.., None) => Err((format!("{:?} is no month", brief(month)), format!("write one of {}", MONTHS.join(", ")))),
        _ => Err(no_rule(text, "is no yearly rule")),
    }
}

fn no_rule(text: &str, what: &str) -> Mistake {
    (format!("{:?} {what}", brief(text)), YEARLY_HELP.to_owned())
}

fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mistakes_come_together_with_their_places() {
        let text = r#"
            dates = ["2026-02-29", 2026-01-01T10:00:00, 5]
            ranges = [{ from = 2026-01-02, to = 2026-01-01 }]
            weekly = ["sat", "caturday"]
            yearly = ["13-01", "02-30", "sixth monday of may", "last noday of may", "last monday of mai", "last monday in may", "x"]
            business_days = { weekend = ["weekend"] }
        "#;
        let errors = parse(text).expect_err("mistakes");
        let lines = errors.iter().map(|error| format!("{:?} {error}", error.line)).collect::<Vec<_>>();
        assert_eq!(
            lines,
            [
                "Some(2) dates[0]: \"2026-02-29\" is no date",
                "Some(2) dates[1]: 2026-01-01T10:00:00 is no date",
                "Some(2) dates[2]: 5 is no date",
                "Some(3) ranges[0]: it ends on 2026-01-01, before it begins on 2026-01-02",
                "Some(4) weekly[1]: \"caturday\" is no weekday",
                "Some(5) yearly[0]: \"13-01\" is no day of the year",
                "Some(5) yearly[1]: \"02-30\" is no day of the year",
                "Some(5) yearly[2]: \"sixth\" is not which one",
                "Some(5) yearly[3]: \"noday\" is no weekday",
                "Some(5) yearly[4]: \"mai\" is no month",
                "Some(5) yearly[5]: \"last monday in may\" is no yearly rule",
                "Some(5) yearly[6]: \"x\" is no yearly rule",
                "Some(6) business_days.weekend[0]: \"weekend\" is no weekday",
            ]
        );
        assert!(errors.iter().all(|error| error.help.starts_with("write ")));
    }

    #[test]
    fn unknown_keys_and_wrong_types_name_their_line() {
        for text in ["\ndays = []", "\nweekly = 5", "\ndates = [", "\nranges = [{ from = 2026-01-01 }]"] {
            let errors = parse(text).expect_err(text);
            assert_eq!(errors.len(), 1, "{text}");
            assert_eq!(errors[0].line, Some(2), "{text}: {}", errors[0]);
        }
        assert!(parse("days = []").expect_err("unknown")[0].problem.contains("unknown field `days`"));
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,60}", rule in "[a-z0-9 -]{0,30}") {
            let _ = parse(&text);
            let _ = parse(&format!("yearly = [\"{rule}\"]\ndates = [\"{rule}\"]"));
        }
    }
}
