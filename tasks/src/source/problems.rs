//! What was wrong in the raw data, counted, with places: the row-level part of the contract report.
//!
//! Filled by the readers and by `ingest`; rendered by `ingest::report`. Examples are bounded, counts are exact.

use indexmap::IndexMap;
use serde::Serialize;

/// Examples kept per problem: enough to see the pattern, few enough to read.
const MAX_EXAMPLES: usize = 10;

/// Characters of a value that are shown.
const MAX_SHOWN: usize = 80;

/// Bits of a row id that hold the row within its file: a million million rows.
const ROW_BITS: u32 = 40;

/// A row's place: file and line (or row) in one number that sorts in the source's order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct RowId(pub i64);

impl RowId {
    /// The row on `line` (CSV, JSON lines) or with number `line` (Parquet), from 1, of file `file`.
    pub fn new(file: usize, line: u64) -> Self {
        Self(((file as i64) << ROW_BITS) | (line as i64 & ((1 << ROW_BITS) - 1)))
    }

    fn file(self) -> usize {
        (self.0 >> ROW_BITS) as usize
    }

    /// The line or row within the file, from 1.
    pub fn line(self) -> u64 {
        (self.0 & ((1 << ROW_BITS) - 1)) as u64
    }
}

/// One place where a problem was seen.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Example {
    /// The file as the contract or the DAG names it.
    pub file: String,
    /// Line (CSV, JSON lines; the header is line 1) or row number (Parquet, from 1).
    pub row: u64,
    /// The raw or canonical column, if one is to blame.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub column: Option<String>,
    /// The value, cut to 80 characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What is wrong with it.
    pub message: String,
}

/// A kind of problem.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Problem {
    /// How many rows have it.
    pub count: u64,
    /// The first places.
    pub examples: Vec<Example>,
}

/// All problems of one source, by code.
#[derive(Debug, Clone, Default)]
pub struct Problems {
    files: Vec<String>,
    found: IndexMap<&'static str, Problem>,
    unknown_columns: Vec<String>,
    notes: Vec<String>,
}

impl Problems {
    /// Names file `index`, for examples.
    pub fn file(&mut self, index: usize, name: &str) {
        if self.files.len() <= index {
            self.files.resize(index + 1, String::new());
        }
        self.files[index] = name.to_owned();
    }

    /// Notes one bad row.
    pub fn row(&mut self, code: &'static str, row: RowId, column: Option<&str>, value: Option<&str>, message: &str) {
        let shown = self.files.get(row.file()).cloned().unwrap_or_default();
        let problem = self.found.entry(code).or_default();
        problem.count += 1;
        if problem.examples.len() < MAX_EXAMPLES {
            problem.examples.push(Example {
                file: shown,
                row: row.line(),
                column: column.map(str::to_owned),
                value: value.map(|value| value.chars().take(MAX_SHOWN).collect()),
                message: message.to_owned(),
            });
        }
    }

    /// Notes a column that the contract does not name.
    pub fn unknown_column(&mut self, name: &str) {
        if !self.unknown_columns.iter().any(|known| known == name) {
            self.unknown_columns.push(name.to_owned());
        }
    }

    /// Notes something that changed no row: a byte order mark, say.
    pub fn note(&mut self, text: impl Into<String>) {
        self.notes.push(text.into());
    }

    /// Problems by code, in the order in which they were first seen.
    pub fn found(&self) -> &IndexMap<&'static str, Problem> {
        &self.found
    }

    /// Columns that the contract does not name.
    pub fn unknown_columns(&self) -> &[String] {
        &self.unknown_columns
    }

    /// Remarks that changed no row.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Bad rows in all.
    pub fn count(&self) -> u64 {
        self.found.values().map(|problem| problem.count).sum()
    }

    /// One sentence: `12 bad rows: 10 number (data.csv row 4, column sold: ...)`.
    pub fn summary(&self) -> String {
        let parts: Vec<String> = self
            .found
            .iter()
            .map(|(code, problem)| {
                let first = problem.examples.first().map_or(String::new(), |example| {
                    let column = example.column.as_ref().map_or(String::new(), |column| format!(", column {column}"));
                    format!(" (first: {} row {}{column}: {})", example.file, example.row, example.message)
                });
                format!("{} {code}{first}", problem.count)
            })
            .collect();
        format!("{} bad row{}: {}", self.count(), if self.count() == 1 { "" } else { "s" }, parts.join("; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_all_and_shows_the_first() {
        let mut problems = Problems::default();
        problems.file(0, "a.csv");
        problems.file(1, "b.csv");
        for line in 2..40 {
            problems.row("number", RowId::new(1, line), Some("sold"), Some(&"x".repeat(200)), "is no number");
        }
        let found = &problems.found()["number"];
        assert_eq!((found.count, found.examples.len()), (38, MAX_EXAMPLES));
        assert_eq!((found.examples[0].file.as_str(), found.examples[0].row), ("b.csv", 2));
        assert_eq!(found.examples[0].value.as_ref().map(String::len), Some(MAX_SHOWN));
        assert!(problems.summary().contains("38 number (first: b.csv row 2, column sold"));
    }

    #[test]
    fn row_ids_sort_in_the_sources_order() {
        assert!(RowId::new(0, 1 << 39) < RowId::new(1, 1));
        assert_eq!(RowId::new(7, 123_456).line(), 123_456);
    }
}
