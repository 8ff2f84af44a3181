//! Cron lines from text: what each field may say, and what is wrong with what it says.
//!
//! Called by `rule`. Yields a `Cron` or one error that names the field, the mistake and the remedy.
//!
//! # Why not the `cron` crate
//!
//! Version 0.17 reads no line of five fields, counts weekdays from 1 = Sunday (Debian's 5 is Friday,
//! its 5 is Thursday), joins the two day fields with AND always, knows neither `L`, `#` nor 7 for
//! Sunday, ends its years at 2100, and its errors are a parser's. What it could carry are the fields
//! "second" and "year", which are two calls of [`field`] here. Its search also steps through sorted
//! sets with a zone in hand, where a gap or an overlap must be a policy of ours.
//!
//! # The grammar
//!
//! That of Debian's cron (3.0pl1, `entry.c`): `*`, `a`, `a-b`, `*/n`, `a-b/n`, lists, names of
//! months and weekdays anywhere a number may stand, 0 and 7 for Sunday; a range that goes backward is
//! an error. From `cronsim` (PyPI, 2.8): `a/n` is `a-<highest>/n` (Debian refuses it), `L`, `LW`,
//! `5L`, `FRI#2`, and a sixth field in front for seconds; ours is a seventh at the end for years.

use super::cron::{Cron, DayRule, Years};

/// Longer lines are refused: all sets there are can be written in less.
const LONGEST: usize = 1024;

/// Why a text is no cron rule.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {problem}")]
pub struct CronError {
    /// Which part: "minute", "day of week" ..., or "rule" for all of it.
    pub field: &'static str,
    /// What is wrong with it.
    pub problem: String,
    /// How to mend it.
    pub help: String,
}

/// A step that was written: every `step`-th of the `size` values of a field, up to its highest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Step {
    pub(crate) field: &'static str,
    pub(crate) step: i64,
    pub(crate) size: i64,
}

/// What a field may hold.
struct Field {
    name: &'static str,
    low: i64,
    high: i64,
    /// How many values there are before they begin again; for weekdays one less than are written.
    size: i64,
    /// Names of the values from `low` on.
    names: &'static [&'static str],
}

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

const SECOND: Field = Field { name: "second", low: 0, high: 59, size: 60, names: &[] };
const MINUTE: Field = Field { name: "minute", low: 0, high: 59, size: 60, names: &[] };
const HOUR: Field = Field { name: "hour", low: 0, high: 23, size: 24, names: &[] };
const DAY: Field = Field { name: "day of month", low: 1, high: 31, size: 31, names: &[] };
const MONTH: Field = Field { name: "month", low: 1, high: 12, size: 12, names: &MONTHS };
const WEEKDAY: Field = Field { name: "day of week", low: 0, high: 7, size: 7, names: &WEEKDAYS };
/// The engine's instants begin to mean something in 1970; civil time ends with four digits.
const YEAR: Field = Field { name: "year", low: 1970, high: 9999, size: 8030, names: &[] };

/// Names for common rules, with Debian's meaning.
const NAMED: [(&str, &str); 7] = [
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
    ("@monthly", "0 0 1 * *"),
    ("@weekly", "0 0 * * 0"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@hourly", "0 * * * *"),
];

/// One member of a field's list.
enum Item {
    Values { from: i64, to: i64, step: i64 },
    LastDay,
    LastWorkingDay,
    LastWeekday(i64),
    NthWeekday(i64, usize),
}

/// Parses five, six or seven fields, or a name such as `@daily`.
pub(crate) fn parse(text: &str) -> Result<Cron, CronError> {
    if text.len() > LONGEST {
        let problem = format!("it has {} characters, more than {LONGEST}", text.len());
        return Err(error("rule", problem, "write ranges and steps in place of long lists"));
    }
    if text.trim_start().starts_with('@') {
        return parse(named(text.trim())?);
    }
    let fields = text.split_ascii_whitespace().collect::<Vec<_>>();
    match fields[..] {
        [minute, hour, day, month, weekday] => cron(["0", minute, hour, day, month, weekday, "*"]),
        [second, minute, hour, day, month, weekday] => cron([second, minute, hour, day, month, weekday, "*"]),
        [second, minute, hour, day, month, weekday, year] => cron([second, minute, hour, day, month, weekday, year]),
        _ => Err(error(
            "rule",
            format!("it has {} fields, not 5 to 7", fields.len()),
            "write minute hour day month weekday, such as \"15 2 * * *\"; six fields begin with seconds, seven end with a year",
        )),
    }
}

fn named(text: &str) -> Result<&'static str, CronError> {
    let known = NAMED.into_iter().find(|(name, _)| *name == text);
    known.map(|(_, line)| line).ok_or_else(|| {
        let names = NAMED.map(|(name, _)| name).join(", ");
        error("rule", format!("{:?} is no name that cron knows", brief(text)), format!("the names are {names}"))
    })
}

fn cron([second, minute, hour, day, month, weekday, year]: [&str; 7]) -> Result<Cron, CronError> {
    let mut steps = Vec::new();
    let seconds = values(&field(second, &SECOND, &mut steps)?);
    let minutes = values(&field(minute, &MINUTE, &mut steps)?);
    let hours = values(&field(hour, &HOUR, &mut steps)?);
    let mut days = DayRule { both: day.starts_with('*') || weekday.starts_with('*'), ..DayRule::default() };
    add_days(&mut days, &field(day, &DAY, &mut steps)?);
    let months = values(&field(month, &MONTH, &mut steps)?) >> 1;
    add_weekdays(&mut days, &field(weekday, &WEEKDAY, &mut steps)?);
    let years = match year {
        "*" => Years::All,
        _ => Years::only(field(year, &YEAR, &mut steps)?.iter().flat_map(Item::numbers)),
    };
    let by_running_clock = [second, minute, hour].iter().any(|text| text.starts_with('*'));
    Ok(Cron { seconds, minutes, hours, days, months, years, by_running_clock, steps })
}

impl Item {
    /// The values of a range; nothing for what depends on the month.
    fn numbers(&self) -> impl Iterator<Item = usize> + use<> {
        let (from, to, step) = match *self {
            Self::Values { from, to, step } => (from, to, step),
            _ => (1, 0, 1),
        };
        let small = |value: i64| usize::try_from(value).ok();
        (from..=to).step_by(small(step).unwrap_or(usize::MAX)).filter_map(small)
    }
}

fn values(items: &[Item]) -> u64 {
    items.iter().flat_map(Item::numbers).filter(|value| *value < 64).fold(0, |set, value| set | (1_u64 << value))
}

fn add_days(rule: &mut DayRule, items: &[Item]) {
    rule.of_month = values(items);
    rule.last = items.iter().any(|item| matches!(item, Item::LastDay));
    rule.last_working = items.iter().any(|item| matches!(item, Item::LastWorkingDay));
}

fn add_weekdays(rule: &mut DayRule, items: &[Item]) {
    let sunday = |weekday: i64| weekday % 7;
    let written = values(items);
    rule.weekdays = (written | (written >> 7)) & 0x7f;
    for item in items {
        match *item {
            Item::LastWeekday(weekday) => rule.last_weekdays |= 1 << sunday(weekday),
            Item::NthWeekday(weekday, nth) => {
                if let Some(set) = rule.nth.get_mut(nth - 1) {
                    *set |= 1 << sunday(weekday);
                }
            }
            _ => {}
        }
    }
}

/// A list of items, and the steps that the lints look at.
fn field(text: &str, field: &Field, steps: &mut Vec<Step>) -> Result<Vec<Item>, CronError> {
    text.split(',').map(|part| item(part, text, field, steps)).collect()
}

fn item(part: &str, whole: &str, field: &Field, steps: &mut Vec<Step>) -> Result<Item, CronError> {
    if part.is_empty() {
        let problem = format!("{:?} has an empty place in its list", brief(whole));
        return Err(error(field.name, problem, "write values with single commas between them, such as 1,15"));
    }
    if let Some(special) = special(part, field) {
        return special;
    }
    let (range, step) = match part.split_once('/') {
        Some((range, step)) => (range, Some(step_of(step, part, field)?)),
        None => (part, None),
    };
    let (from, to) = match (range, range.split_once('-')) {
        ("*", _) => (field.low, field.high),
        (_, Some((from, to))) => bounds(from, to, field)?,
        (_, None) => {
            let value = value(range, field)?;
            (value, if step.is_some() { field.high } else { value })
        }
    };
    let step = step.unwrap_or(1);
    if step > 1 && (to == field.high || to - from + 1 == field.size) {
        steps.push(Step { field: field.name, step, size: field.size });
    }
    Ok(Item::Values { from, to, step })
}

fn bounds(from: &str, to: &str, field: &Field) -> Result<(i64, i64), CronError> {
    let (low, high) = (value(from, field)?, value(to, field)?);
    if low > high {
        let problem = format!("the range {}-{} goes backward", brief(from), brief(to));
        let help = match field.name {
            "day of week" if high == 0 => format!("Sunday ends a range as 7: {}-7", brief(from)),
            _ => format!("write it as two: {}-{},{}-{}", brief(from), field.high, field.low, brief(to)),
        };
        return Err(error(field.name, problem, help));
    }
    Ok((low, high))
}

fn step_of(text: &str, part: &str, field: &Field) -> Result<i64, CronError> {
    match number(text) {
        Some(step) if step > 0 => Ok(step),
        Some(_) => Err(error(field.name, format!("{:?} has a step of 0", brief(part)), "a step is 1 or more")),
        None => Err(error(
            field.name,
            format!("{:?} is no step in {:?}", brief(text), brief(part)),
            format!("a step is a number after one slash, such as */5 or {}-{}/2", field.low, field.high),
        )),
    }
}

/// What only the day fields may say; `None` for what is a plain value, range or step.
fn special(part: &str, field: &Field) -> Option<Result<Item, CronError>> {
    let upper = part.to_ascii_uppercase();
    match field.name {
        "day of month" if upper == "L" => Some(Ok(Item::LastDay)),
        "day of month" if upper == "LW" => Some(Ok(Item::LastWorkingDay)),
        "day of week" => {
            if let Some((weekday, nth)) = part.split_once('#') {
                return Some(nth_weekday(weekday, nth, field));
            }
            let weekday = upper.strip_suffix('L').filter(|weekday| !weekday.is_empty())?;
            Some(value(weekday, field).map(Item::LastWeekday))
        }
        _ => None,
    }
}

fn nth_weekday(weekday: &str, nth: &str, field: &Field) -> Result<Item, CronError> {
    let weekday = value(weekday, field)?;
    match number(nth).and_then(|nth| usize::try_from(nth).ok()) {
        Some(nth @ 1..=5) => Ok(Item::NthWeekday(weekday, nth)),
        _ => Err(error(
            field.name,
            format!("{:?} is not which one of a month", brief(nth)),
            "after # stands 1 to 5, such as FRI#2 for the second Friday; the last one is 5L",
        )),
    }
}

fn value(text: &str, field: &Field) -> Result<i64, CronError> {
    let named = field.names.iter().zip(field.low..).find(|(name, _)| text.eq_ignore_ascii_case(name));
    if let Some((_, value)) = named {
        return Ok(value);
    }
    match number(text) {
        Some(value) if (field.low..=field.high).contains(&value) => Ok(value),
        Some(_) => Err(error(
            field.name,
            format!("{} is not in {} to {}", brief(text), field.low, field.high),
            format!("write a number from {} to {}, or * for all", field.low, field.high),
        )),
        None => Err(error(field.name, format!("{:?} is no value", brief(text)), value_help(text, field))),
    }
}

fn value_help(text: &str, field: &Field) -> String {
    let upper = text.to_ascii_uppercase();
    match (text, field.names) {
        (_, _) if text.contains('?') => "? is Quartz's; write * for any".to_owned(),
        ("", _) => "a value is missing beside the - or the /".to_owned(),
        _ if upper.contains('W') && field.name == "day of month" => {
            "of the forms with W only LW is read: the last day of the month from Monday to Friday".to_owned()
        }
        _ if upper.contains('L') && field.names.is_empty() => {
            "L stands alone in the day of month, or after a weekday such as 5L".to_owned()
        }
        (_, []) => format!("write a number from {} to {}, or * for all", field.low, field.high),
        (_, names) => {
            format!("write a number from {} to {}, or one of {}", field.low, field.high, names.join(", "))
        }
    }
}

/// Digits only, and so few that they are a number of any field.
fn number(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    let plain = text.trim_start_matches('0');
    match (digits && !text.is_empty(), plain.len()) {
        (true, 0) => Some(0),
        (true, 1..=9) => plain.parse().ok(),
        // Longer than any field's highest, however it goes on.
        (true, _) => Some(i64::MAX),
        (false, _) => None,
    }
}

fn error(field: &'static str, problem: impl Into<String>, help: impl Into<String>) -> CronError {
    CronError { field, problem: problem.into(), help: help.into() }
}

/// Enough of a text to find it again.
fn brief(text: &str) -> String {
    text.chars().take(40).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn same(a: &str, b: &str) {
        let (a, b) = (parse(a).expect(a), parse(b).expect(b));
        let strip = |cron: &Cron| Cron { steps: Vec::new(), by_running_clock: false, ..cron.clone() };
        assert_eq!(strip(&a), strip(&b));
    }

    #[test]
    fn forms_that_mean_the_same() {
        same("0 0 * * 0", "0 0 * * 7");
        same("0 0 * jan,Mar,DEC sun", "0 0 * 1,3,12 SUN");
        same("0 0 * jan-mar mon-FRI", "0 0 * 1-3 1-5");
        same("*/20 * * * *", "0,20,40 * * * *");
        same("5/20 * * * *", "5-59/20 * * * *");
        same("10-30/10 * * * *", "10,20,30 * * * *");
        same("7-7/5 * * * *", "7 * * * *");
        same("0 0 * * 5-7", "0 0 * * 0,5,6");
        same("0 0 * * 1/2", "0 0 * * 0,1,3,5");
        same("*/90 * * * *", "0 * * * *");
        same("0 15 2 * * *", "15 2 * * *");
        same("0 15 2 * * * *", "15 2 * * *");
        same("007 2 * * *", "7 2 * * *");
        same(" 1\t2  3 4 5 ", "1 2 3 4 5");
        same("@daily", "0 0 * * *");
        same("@weekly", "0 0 * * 7");
        same("0 0 * * fril", "0 0 * * 5L");
    }

    #[test]
    fn a_star_in_front_makes_a_rule_of_the_running_clock() {
        for (text, running) in
            [("* 2 * * *", true), ("*/5 2 * * *", true), ("5 * * * *", true), ("5,10 2 * * *", false)]
        {
            assert_eq!(parse(text).expect(text).by_running_clock, running, "{text}");
        }
        assert!(parse("@hourly").expect("a name").by_running_clock);
        assert!(!parse("@daily").expect("a name").by_running_clock);
        assert!(!parse("0 5 2 * * *").expect("six fields").by_running_clock);
        assert!(parse("*/10 5 2 * * *").expect("six fields").by_running_clock);
    }

    #[test]
    fn mistakes_name_their_field_and_a_remedy() {
        let cases = [
            ("60 2 * * *", "minute: 60 is not in 0 to 59", "from 0 to 59"),
            ("0 24 * * *", "hour: 24 is not in 0 to 23", "from 0 to 23"),
            ("0 2 0 * *", "day of month: 0 is not in 1 to 31", "from 1 to 31"),
            ("0 2 * 13 *", "month: 13 is not in 1 to 12", "from 1 to 12"),
            ("0 2 * foo *", "month: \"foo\" is no value", "jan, feb"),
            ("0 2 * * 8", "day of week: 8 is not in 0 to 7", "from 0 to 7"),
            ("0 2 * * fri-sun", "day of week: the range fri-sun goes backward", "fri-7"),
            ("0 22-4 * * *", "hour: the range 22-4 goes backward", "22-23,0-4"),
            ("*/0 2 * * *", "minute: \"*/0\" has a step of 0", "1 or more"),
            ("*/x 2 * * *", "minute: \"x\" is no step in \"*/x\"", "*/5"),
            ("1,,2 2 * * *", "minute: \"1,,2\" has an empty place in its list", "1,15"),
            ("1- 2 * * *", "minute: \"\" is no value", "missing"),
            ("*-5 2 * * *", "minute: \"*\" is no value", "from 0 to 59"),
            ("0 2 ? * *", "day of month: \"?\" is no value", "write * for any"),
            ("0 2 15W * *", "day of month: \"15W\" is no value", "only LW"),
            ("0 2 * * fri#6", "day of week: \"6\" is not which one of a month", "1 to 5"),
            ("0 2 L/2 * *", "day of month: \"L\" is no value", "stands alone"),
            ("L 2 * * *", "minute: \"L\" is no value", "stands alone"),
            ("0 0 0 1 1 * 1969", "year: 1969 is not in 1970 to 9999", "from 1970"),
            ("99999999999999999999 2 * * *", "minute: 99999999999999999999 is not in 0 to 59", "from 0 to 59"),
            ("* * * *", "rule: it has 4 fields, not 5 to 7", "15 2 * * *"),
            ("", "rule: it has 0 fields, not 5 to 7", "15 2 * * *"),
            ("@reboot", "rule: \"@reboot\" is no name that cron knows", "@hourly"),
        ];
        for (text, message, help) in cases {
            let error = parse(text).expect_err(text);
            assert_eq!(error.to_string(), message, "{text}");
            assert!(error.help.contains(help), "{text}: {}", error.help);
        }
        assert!(parse(&"1,".repeat(600)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "\\PC{0,40}") {
            let _ = parse(&text);
        }

        #[test]
        fn never_panics_on_what_looks_like_cron(text in "([0-9*/,#LW?a-z-]{1,6} ){4,7}") {
            if let Ok(cron) = parse(&text) {
                let _ = (cron.next(0), cron.prev(0));
            }
        }
    }
}
