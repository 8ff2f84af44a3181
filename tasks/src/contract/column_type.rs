//! The type of a raw column, as the contract writes it: a word, and for dates an optional format.
//!
//! `source` reads cells by it. A cell that does not fit is a bad row, never a null.

use std::str::FromStr;

use arrow::datatypes::{DataType, TimeUnit};
use serde::Deserialize;

/// What the cells of a raw column hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CellType {
    /// Text, as it is.
    Text,
    /// A whole number.
    Integer,
    /// A number; never NaN or infinite.
    Number,
    /// true/false, t/f, yes/no, 1/0.
    Boolean,
    /// A calendar day.
    Date,
    /// A day and a time, without a zone.
    Timestamp,
}

/// A raw column's declaration: `"integer"`, `"date"`, `"date %d/%m/%Y"` ...
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct SourceColumn {
    /// What the cells hold.
    pub cell: CellType,
    /// chrono's format of a date or timestamp; ISO 8601 if left out.
    pub format: Option<String>,
}

impl CellType {
    /// The Arrow type that cells are read into.
    pub fn arrow(self) -> DataType {
        match self {
            Self::Text => DataType::Utf8,
            Self::Integer => DataType::Int64,
            Self::Number => DataType::Float64,
            Self::Boolean => DataType::Boolean,
            Self::Date => DataType::Date32,
            Self::Timestamp => DataType::Timestamp(TimeUnit::Microsecond, None),
        }
    }

    /// The word in the contract.
    pub fn word(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Date => "date",
            Self::Timestamp => "timestamp",
        }
    }
}

impl FromStr for SourceColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (word, format) = text.split_once(' ').map_or((text, None), |(word, format)| (word, Some(format.trim())));
        let cell = [
            CellType::Text,
            CellType::Integer,
            CellType::Number,
            CellType::Boolean,
            CellType::Date,
            CellType::Timestamp,
        ]
        .into_iter()
        .find(|cell| cell.word() == word)
        .ok_or_else(|| format!("{text:?} is no column type; use text, integer, number, boolean, date or timestamp"))?;
        if format.is_some() && !matches!(cell, CellType::Date | CellType::Timestamp) {
            return Err(format!("{text:?}: only date and timestamp take a format"));
        }
        if let Some(format) = format {
            let bad = chrono::format::StrftimeItems::new(format).any(|item| item == chrono::format::Item::Error);
            if bad || !format.contains('%') {
                return Err(format!("{text:?}: {format:?} is no date format; write one like %d/%m/%Y"));
            }
        }
        Ok(Self { cell, format: format.map(str::to_owned) })
    }
}

impl TryFrom<String> for SourceColumn {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_words_and_formats() {
        let column: SourceColumn = "date %d/%m/%Y".parse().expect("valid");
        assert_eq!((column.cell, column.format.as_deref()), (CellType::Date, Some("%d/%m/%Y")));
        let column: SourceColumn = "timestamp %Y-%m-%d %H:%M".parse().expect("valid");
        assert_eq!(column.format.as_deref(), Some("%Y-%m-%d %H:%M"));
    }

    #[test]
    fn refuses_what_it_does_not_know() {
        for text in ["float", "integer %d", "date dd/mm/yyyy", "date %Q", ""] {
            assert!(text.parse::<SourceColumn>().is_err(), "{text:?} was accepted");
        }
    }
}
