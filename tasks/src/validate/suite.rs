//! A suite: what a panel is expected to be, as TOML in the vocabulary of Great Expectations.
//!
//! `validate` parses the pinned document with it. A suite is refused with everything that is wrong with it;
//! whether it fits a panel (columns, types) is `bind`'s to say, because there it is a finding, not a mistake.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::reader::Reader;

/// A parsed suite.
#[derive(Debug, Clone, PartialEq)]
pub struct Suite {
    /// Its name, for reports.
    pub name: String,
    /// What it protects, for people.
    pub description: String,
    /// At least one, in the file's order.
    pub expectations: Vec<Expectation>,
}

/// Whether a failed expectation fails the suite.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// It does.
    #[default]
    Error,
    /// It is only told.
    Warning,
}

/// One expectation.
#[derive(Debug, Clone, PartialEq)]
pub struct Expectation {
    /// `expect_...`
    pub name: &'static str,
    /// The columns that it is about; none for the table as a whole.
    pub columns: Vec<String>,
    /// What is expected of them.
    pub rule: Rule,
    /// Whether a failure counts.
    pub severity: Severity,
    /// The share of rows, in (0, 1], that has to be as expected; rows without a value do not count.
    pub mostly: f64,
    /// SQL that is true for the rows it is about.
    pub row_condition: Option<String>,
    /// As written, for the result.
    pub kwargs: Map<String, Value>,
}

/// What is expected. The first five are about each row, the others about the table.
#[derive(Debug, Clone, PartialEq)]
pub enum Rule {
    /// There is a value (null and NaN are none).
    NotNull,
    /// Each value is within bounds.
    Between(Bounds),
    /// Each value is one of these.
    InSet(Vec<Value>),
    /// A match of this regular expression (crate `regex`) is somewhere in each value.
    MatchRegex(String),
    /// No two rows agree in the columns.
    Unique,
    /// The column is there.
    Exists,
    /// The column has this type, in Arrow's name in lower case.
    OfType(String),
    /// The number of rows is within bounds.
    RowCount(Bounds),
    /// A figure of the column's values is within bounds.
    Figure(Figure, Bounds),
}

impl Rule {
    /// Whether it judges each row, so that single rows can break it.
    pub fn is_about_rows(&self) -> bool {
        matches!(self, Self::NotNull | Self::Between(_) | Self::InSet(_) | Self::MatchRegex(_) | Self::Unique)
    }
}

/// A figure over a column's values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Figure {
    /// Arithmetic mean.
    Mean,
    /// Smallest.
    Min,
    /// Largest.
    Max,
    /// Sum.
    Sum,
    /// Standard deviation of the sample (n - 1).
    Stdev,
    /// Number of distinct values.
    Distinct,
    /// Share of rows with a value, in 0..=1.
    Present,
}

/// A range; a missing end is open.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Bounds {
    /// The least: a number, or a date as text.
    pub min: Option<Value>,
    /// The most.
    pub max: Option<Value>,
    /// Whether `min` itself is too little.
    pub strict_min: bool,
    /// Whether `max` itself is too much.
    pub strict_max: bool,
    /// The least as days before the run's logical time.
    pub max_age_days: Option<i64>,
}

/// All that is wrong with a suite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteError {
    /// One line each.
    pub problems: Vec<String>,
}

impl fmt::Display for SuiteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the suite can not be used as it is")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl std::error::Error for SuiteError {}

/// Which keys an expectation takes beside `type`, `severity` and `notes`.
#[derive(Clone, Copy)]
enum Shape {
    NotNull,
    Between,
    InSet,
    MatchRegex,
    Unique,
    CompoundUnique,
    Exists,
    OfType,
    RowCount,
    Figure(Figure),
}

/// The names of Great Expectations 1.x, <https://greatexpectations.io/expectations>.
const VOCABULARY: [(&str, Shape); 16] = [
    ("expect_column_to_exist", Shape::Exists),
    ("expect_column_values_to_not_be_null", Shape::NotNull),
    ("expect_column_values_to_be_between", Shape::Between),
    ("expect_column_values_to_be_in_set", Shape::InSet),
    ("expect_column_values_to_match_regex", Shape::MatchRegex),
    ("expect_column_values_to_be_unique", Shape::Unique),
    ("expect_compound_columns_to_be_unique", Shape::CompoundUnique),
    ("expect_column_values_to_be_of_type", Shape::OfType),
    ("expect_table_row_count_to_be_between", Shape::RowCount),
    ("expect_column_mean_to_be_between", Shape::Figure(Figure::Mean)),
    ("expect_column_min_to_be_between", Shape::Figure(Figure::Min)),
    ("expect_column_max_to_be_between", Shape::Figure(Figure::Max)),
    ("expect_column_sum_to_be_between", Shape::Figure(Figure::Sum)),
    ("expect_column_stdev_to_be_between", Shape::Figure(Figure::Stdev)),
    ("expect_column_unique_value_count_to_be_between", Shape::Figure(Figure::Distinct)),
    ("expect_column_proportion_of_non_null_values_to_be_between", Shape::Figure(Figure::Present)),
];

impl Suite {
    /// Reads a suite.
    ///
    /// # Errors
    /// Everything that is wrong with it: no TOML, unknown types and keys, missing and impossible values.
    pub fn parse(text: &str) -> Result<Self, SuiteError> {
        let mut problems = Vec::new();
        let table = toml::from_str(text).map_err(|error| SuiteError { problems: vec![error.to_string()] })?;
        let mut root = Reader::new("the suite", table, &mut problems);
        let header = root.table("suite");
        let tables = root.tables("expectation");
        root.finish();
        let mut header = Reader::new("[suite]", header, &mut problems);
        let (name, description) = (header.required_text("name"), header.text("description"));
        header.finish();
        if tables.is_empty() {
            problems.push("there is no [[expectation]]; a suite without one checks nothing".to_owned());
        }
        let read = |(at, table)| read(at, table, &mut problems);
        let expectations: Vec<_> = tables.into_iter().enumerate().filter_map(read).collect();
        if !problems.is_empty() {
            return Err(SuiteError { problems });
        }
        Ok(Self { name, description: description.unwrap_or_default(), expectations })
    }
}

/// One expectation; `None` if its type is not known, because then its keys mean nothing.
fn read(at: usize, table: toml::Table, problems: &mut Vec<String>) -> Option<Expectation> {
    let kwargs = kwargs(&table);
    let mut reader = Reader::new(&format!("[[expectation]] number {}", at + 1), table, problems);
    let (name, shape) = reader.word("type", &VOCABULARY)?;
    reader.rename(&format!("[[expectation]] number {} ({name})", at + 1));
    let severities = [("error", Severity::Error), ("warning", Severity::Warning)];
    let severity = reader.optional_word("severity", &severities).unwrap_or_default();
    // For people alone.
    reader.text("notes");
    let columns = match shape {
        Shape::CompoundUnique => reader.texts("column_list"),
        Shape::RowCount => Vec::new(),
        _ => vec![reader.required_text("column")],
    };
    let rule = rule(shape, &mut reader);
    let about_rows = rule.is_about_rows();
    let mostly = if about_rows { reader.number("mostly").unwrap_or(1.0) } else { 1.0 };
    if !(mostly > 0.0 && mostly <= 1.0) {
        reader.problem(format!("mostly = {mostly} is no share of rows; give one above 0, up to 1"));
    }
    let schema_alone = matches!(rule, Rule::Exists | Rule::OfType(_));
    let row_condition = if schema_alone { None } else { reader.text("row_condition") };
    reader.finish();
    Some(Expectation { name, columns, rule, severity, mostly, row_condition, kwargs })
}

fn rule(shape: Shape, reader: &mut Reader<'_>) -> Rule {
    match shape {
        Shape::NotNull => Rule::NotNull,
        Shape::Between => Rule::Between(bounds(reader, false)),
        Shape::InSet => Rule::InSet(reader.scalars("value_set")),
        Shape::MatchRegex => {
            let pattern = reader.required_text("regex");
            if let Err(error) = regex::Regex::new(&pattern) {
                reader.problem(format!("regex = {pattern:?} is no regular expression: {error}"));
            }
            Rule::MatchRegex(pattern)
        }
        Shape::Unique | Shape::CompoundUnique => Rule::Unique,
        Shape::Exists => Rule::Exists,
        Shape::OfType => Rule::OfType(reader.required_text("type_").to_lowercase()),
        Shape::RowCount => Rule::RowCount(bounds(reader, false)),
        Shape::Figure(figure) => Rule::Figure(figure, bounds(reader, matches!(figure, Figure::Max))),
    }
}

fn bounds(reader: &mut Reader<'_>, with_age: bool) -> Bounds {
    let bounds = Bounds {
        min: reader.scalar("min"),
        max: reader.scalar("max"),
        strict_min: reader.flag("strict_min"),
        strict_max: reader.flag("strict_max"),
        max_age_days: if with_age { reader.whole("max_age_days") } else { None },
    };
    if bounds.min.is_none() && bounds.max.is_none() && bounds.max_age_days.is_none() {
        reader.problem("has neither `min` nor `max`, so that nothing could fail it".to_owned());
    }
    if bounds.min.is_some() && bounds.max_age_days.is_some() {
        reader.problem("has both `min` and `max_age_days`, which are the same bound; keep one".to_owned());
    }
    let ends = bounds.min.as_ref().and_then(Value::as_f64).zip(bounds.max.as_ref().and_then(Value::as_f64));
    if let Some((min, max)) = ends
        && min > max
    {
        reader.problem(format!("min = {min} is above max = {max}, so that nothing could meet it"));
    }
    bounds
}

/// The parameters as written, without what the result tells by itself.
fn kwargs(table: &toml::Table) -> Map<String, Value> {
    let told = ["type", "severity", "notes"];
    let parameters = table.iter().filter(|(key, _)| !told.contains(&key.as_str()));
    parameters.map(|(key, value)| (key.clone(), super::reader::json(value))).collect()
}
