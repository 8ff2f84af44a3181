//! One cell of text as the declared type, or the reason why it is not.
//!
//! Used for CSV and JSON lines. Strict: a value that does not fit is never rounded, guessed or nulled.

use chrono::{DateTime, NaiveDate, NaiveDateTime};

use crate::contract::{CellType, SourceColumn};

/// A parsed cell. Text stays where it is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Cell {
    Null,
    Text,
    Integer(i64),
    Number(f64),
    Boolean(bool),
    /// Days since 1970-01-01.
    Date(i32),
    /// Microseconds since 1970-01-01T00:00:00.
    Timestamp(i64),
}

/// Why a cell does not fit: a code for the report, and words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct BadCell {
    pub(super) code: &'static str,
    pub(super) message: String,
}

pub(super) fn parse(text: &str, column: &SourceColumn) -> Result<Cell, BadCell> {
    let trimmed = text.trim();
    match column.cell {
        CellType::Text => Ok(Cell::Text),
        CellType::Integer => integer(trimmed).map(Cell::Integer).ok_or_else(|| bad("integer", "is no whole number")),
        CellType::Number => number(trimmed),
        CellType::Boolean => boolean(trimmed).map(Cell::Boolean).ok_or_else(|| bad("boolean", "is no boolean")),
        CellType::Date => date(trimmed, column).ok_or_else(|| bad_date("date", "%Y-%m-%d", column)),
        CellType::Timestamp => timestamp(trimmed, column).ok_or_else(|| bad_date("timestamp", "ISO 8601", column)),
    }
}

fn bad(code: &'static str, message: &str) -> BadCell {
    BadCell { code, message: message.to_owned() }
}

fn bad_date(code: &'static str, default: &str, column: &SourceColumn) -> BadCell {
    let format = column.format.as_deref().unwrap_or(default);
    BadCell { code, message: format!("is no {code} written as {format}") }
}

/// `12`, `-3`, `+4`; also `12.0`, which spreadsheets make of whole numbers.
fn integer(text: &str) -> Option<i64> {
    let whole = text
        .split_once('.')
        .map_or(text, |(whole, rest)| if !rest.is_empty() && rest.bytes().all(|b| b == b'0') { whole } else { text });
    whole.parse().ok()
}

fn number(text: &str) -> Result<Cell, BadCell> {
    match text.parse::<f64>() {
        Ok(value) if value.is_finite() => Ok(Cell::Number(value)),
        Ok(_) => Err(bad("not_finite", "is not a finite number; list it in null_values if it means `no value`")),
        Err(_) => Err(bad("number", "is no number")),
    }
}

fn boolean(text: &str) -> Option<bool> {
    let is = |words: [&str; 4]| words.iter().any(|word| text.eq_ignore_ascii_case(word));
    if is(["1", "true", "t", "yes"]) {
        Some(true)
    } else if is(["0", "false", "f", "no"]) {
        Some(false)
    } else {
        None
    }
}

fn date(text: &str, column: &SourceColumn) -> Option<Cell> {
    let day = match &column.format {
        Some(format) => NaiveDate::parse_from_str(text, format).ok()?,
        None => iso_date(text)?,
    };
    Some(Cell::Date(days(day)))
}

fn days(day: NaiveDate) -> i32 {
    day.signed_duration_since(NaiveDate::default()).num_days() as i32
}

/// `2015-07-31`, without chrono's interpreter: dates are most of a sales file's parsing.
fn iso_date(text: &str) -> Option<NaiveDate> {
    let bytes = text.as_bytes();
    if bytes.len() != 10 || bytes[4] != b'-' || bytes[7] != b'-' {
        return None;
    }
    let digits = |range: std::ops::Range<usize>| {
        bytes[range].iter().try_fold(0_u32, |sum, b| b.is_ascii_digit().then(|| sum * 10 + u32::from(b - b'0')))
    };
    NaiveDate::from_ymd_opt(digits(0..4)? as i32, digits(5..7)?, digits(8..10)?)
}

fn timestamp(text: &str, column: &SourceColumn) -> Option<Cell> {
    if let Some(format) = &column.format {
        return Some(Cell::Timestamp(NaiveDateTime::parse_from_str(text, format).ok()?.and_utc().timestamp_micros()));
    }
    let zoned = || DateTime::parse_from_rfc3339(text).ok().map(|at| at.naive_utc());
    let moment = ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .or_else(zoned)
        .or_else(|| iso_date(text)?.and_hms_opt(0, 0, 0))?;
    Some(Cell::Timestamp(moment.and_utc().timestamp_micros()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(kind: &str, text: &str) -> Result<Cell, &'static str> {
        parse(text, &kind.parse().expect("type")).map_err(|bad| bad.code)
    }

    #[test]
    fn values_that_fit() {
        assert_eq!(read("integer", " -12 "), Ok(Cell::Integer(-12)));
        assert_eq!(read("integer", "17850.0"), Ok(Cell::Integer(17850)));
        assert_eq!(read("number", "1e3"), Ok(Cell::Number(1000.0)));
        assert_eq!(read("boolean", "Yes"), Ok(Cell::Boolean(true)));
        assert_eq!(read("date", "1970-01-02"), Ok(Cell::Date(1)));
        assert_eq!(read("date %d.%m.%Y", "01.02.1970"), Ok(Cell::Date(31)));
        assert_eq!(read("timestamp", "1970-01-01 00:00:01.5"), Ok(Cell::Timestamp(1_500_000)));
        assert_eq!(read("timestamp", "1970-01-01T01:00:00+01:00"), Ok(Cell::Timestamp(0)));
        assert_eq!(read("timestamp", "1970-01-02"), Ok(Cell::Timestamp(86_400_000_000)));
        assert_eq!(read("text", " a "), Ok(Cell::Text));
    }

    #[test]
    fn values_that_do_not() {
        let cases = [
            ("integer", "1.5"),
            ("integer", "1e3"),
            ("integer", "99999999999999999999"),
            ("number", "1,5"),
            ("number", ""),
            ("boolean", "2"),
            ("date", "31/12/2015"),
            ("date", "2015-02-29"),
            ("date", "2015-1-1"),
            ("timestamp", "noon"),
        ];
        for (kind, text) in cases {
            assert_eq!(read(kind, text), Err(kind), "{kind} {text:?}");
        }
        for text in ["NaN", "inf", "-Infinity"] {
            assert_eq!(read("number", text), Err("not_finite"));
        }
    }
}
