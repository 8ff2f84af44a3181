//! A contract: how one tenant's raw tables become the canonical panel, as TOML that people write and review.
//!
//! `ingest` is the caller. This module reads the text and refuses what can not be meant; whether the SQL in it
//! fits the source is only known once the source is open, and is `ingest`'s to say. Nothing here has a default
//! that changes data: every policy that could is spelled out in the file.

mod check;
mod column_type;

use std::fmt;

use indexmap::IndexMap;
use serde::{Deserialize, Serialize};

pub use column_type::{CellType, SourceColumn};

/// The parsed, checked contract.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contract {
    /// Who it is.
    pub contract: Header,
    /// The table whose rows are counted.
    pub source: Table,
    /// Tables that are joined to it, by name.
    #[serde(default)]
    pub side: IndexMap<String, Table>,
    /// What makes a series: name -> SQL over the source. Values are joined with `|`.
    pub grain: IndexMap<String, String>,
    /// Which source rows count: name -> SQL that is true for them. Each is counted under its name.
    #[serde(default)]
    pub filter: IndexMap<String, String>,
    /// Canonical columns: `time`, `demand` and covariates.
    pub columns: IndexMap<String, Column>,
    /// What is done where the data leaves a choice.
    pub policies: Policies,
    /// Which series are worth a forecast.
    #[serde(default)]
    pub series: SeriesRule,
}

/// Name, version and purpose of a contract.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    /// The contract's name.
    pub name: String,
    /// Raised by its author with every change of meaning.
    pub version: u32,
    /// What the data is, for people.
    pub description: String,
    /// The panel's period.
    pub frequency: Frequency,
}

/// The period of a panel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frequency {
    /// Hours.
    H,
    /// Days.
    D,
    /// Weeks.
    W,
    /// Months.
    M,
}

/// How a table is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Separated values with a header line, plain or gzip.
    Csv,
    /// Apache Parquet.
    Parquet,
    /// One JSON object per line, plain or gzip.
    Jsonl,
}

/// A raw table: the source or a side table.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Table {
    /// Storage; by the file's extension if left out.
    pub format: Option<Format>,
    /// One ASCII character between CSV fields.
    #[serde(default = "comma")]
    pub delimiter: char,
    /// Texts that mean "no value". Others are never taken for one.
    #[serde(default = "empty_is_null")]
    pub null_values: Vec<String>,
    /// What follows from a row that can not be read as declared.
    #[serde(default)]
    pub bad_rows: BadRows,
    /// What follows from columns that the contract does not name.
    #[serde(default)]
    pub unknown_columns: UnknownColumns,
    /// Columns that are read, and their types. SQL sees no others.
    pub columns: IndexMap<String, SourceColumn>,
    /// Where people get the data; shown when it is missing.
    pub origin: Option<String>,
    /// The pinned sha256 of the (single) file.
    pub sha256: Option<String>,
    /// The pinned size of the (single) file.
    pub bytes: Option<u64>,
    /// Side tables only: the file, relative to the folder that the source is in.
    pub path: Option<String>,
    /// Side tables only: key column -> SQL over the source that must equal it. Unique in the side table.
    #[serde(default)]
    pub key: IndexMap<String, String>,
    /// Side tables only: what follows from source rows without a match.
    #[serde(default)]
    pub unmatched: Unmatched,
}

fn comma() -> char {
    ','
}

fn empty_is_null() -> Vec<String> {
    vec![String::new()]
}

/// What follows from a row that can not be read as declared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BadRows {
    /// The whole source is read, all bad rows are reported, and ingest fails.
    #[default]
    Fail,
    /// The row is left out, counted and shown in the report.
    Quarantine,
}

/// What follows from columns that the contract does not name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UnknownColumns {
    /// They are listed in the report and not read.
    #[default]
    Report,
    /// Ingest fails.
    Fail,
}

/// What follows from source rows that a side table does not know.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    /// Ingest fails.
    #[default]
    Fail,
    /// The side table's columns are null there, counted.
    Null,
}

/// A canonical column. Exactly one of `sql`, `grid` or an `aggregate` with parentheses says where it comes from.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Column {
    /// SQL over one source row and its side rows.
    pub sql: Option<String>,
    /// How rows of one series and period become one value: a name (`sum`, `mean`, `min`, `max`, `first`, `last`,
    /// `count`) applied to `sql`, or, with parentheses, an SQL aggregate of its own.
    pub aggregate: Option<String>,
    /// SQL over `series` and `time` alone, evaluated on the completed grid: known for every period, past and future.
    pub grid: Option<String>,
    /// What a forecast may know of it. `time` and `demand` have their own.
    pub role: Option<Role>,
    /// How the panel stores it.
    #[serde(rename = "type", default)]
    pub kind: PanelType,
    /// Overrides `policies.missing` for this column.
    pub missing: Option<Missing>,
    /// For people.
    #[serde(default)]
    pub description: String,
}

/// What a forecast may know of a covariate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// The same for all periods of a series.
    Static,
    /// Known up to the origin only.
    PastOnly,
    /// Known for the horizon too.
    KnownFuture,
}

/// How the panel stores a column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PanelType {
    /// 64-bit floating point.
    #[default]
    Float64,
    /// Text.
    Utf8,
}

/// What is done where the data leaves a choice. No field has a default that changes data.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policies {
    /// A value that is null in the source.
    pub missing: Missing,
    /// A period without any row, between a series' first and last.
    pub gaps: Gaps,
    /// A period without any row, between a series' last row and the panel's end.
    pub after_last: Gaps,
    /// Several rows of one series and period.
    pub duplicates: Duplicates,
    /// Source rows that equal another in every declared column.
    pub exact_duplicates: ExactDuplicates,
    /// Demand below zero, after aggregation.
    pub negative: Negative,
    /// Demand above a declared bound, after aggregation.
    pub outliers: Option<Outliers>,
    /// Periods in which nothing could be sold: demand is null there, and forecasts are 0.
    pub closed: Option<Closed>,
}

/// What a null value becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Missing {
    /// Ingest fails.
    Fail,
    /// It stays unknown.
    Null,
    /// Zero.
    Zero,
    /// The series' last known value; null before the first.
    ForwardFill,
}

/// What demand a period without rows has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gaps {
    /// Unknown.
    Null,
    /// Zero: nothing was sold.
    Zero,
}

/// What several rows of one series and period become.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Duplicates {
    /// Ingest fails and names them.
    Fail,
    /// They are aggregated: each column says how; demand is summed unless it says otherwise.
    Sum,
    /// The last in the source's order counts.
    Last,
}

/// What rows become that equal another in every declared column.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExactDuplicates {
    /// All count.
    Keep,
    /// One of them counts.
    Drop,
    /// Ingest fails.
    Fail,
}

/// What demand below zero becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Negative {
    /// Ingest fails and names it.
    Fail,
    /// Zero.
    Clip,
    /// It stays.
    Keep,
}

/// Demand above a bound that the author knows to be absurd. The bound is a number, not a quantile: a quantile of
/// the whole history would tell the past about the future.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Outliers {
    /// The bound, in units of demand per series and period.
    pub above: f64,
    /// What happens above it.
    pub action: OutlierAction,
}

/// What demand above the bound becomes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OutlierAction {
    /// It stays, and the report names it.
    Keep,
    /// The bound.
    Clip,
    /// Unknown.
    Null,
    /// Ingest fails and names it.
    Fail,
}

/// When nothing could be sold; one of the two.
#[derive(Debug, Clone, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Closed {
    /// SQL over one source row.
    pub sql: Option<String>,
    /// SQL over `series` and `time`.
    pub grid: Option<String>,
}

/// Which series are kept; the others are counted and named in the report.
#[derive(Debug, Clone, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SeriesRule {
    /// Periods from its first row to the panel's end, at least.
    #[serde(default)]
    pub min_periods: u32,
    /// Periods with demand above zero, at least.
    #[serde(default)]
    pub min_demand_periods: u32,
}

/// Everything that is wrong with a contract's text.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ContractError {
    /// One sentence each: where, what, how to mend.
    pub problems: Vec<String>,
}

impl fmt::Display for ContractError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the contract is not valid:")?;
        self.problems.iter().try_for_each(|problem| write!(f, "\n  - {problem}"))
    }
}

impl Contract {
    /// Reads a contract.
    ///
    /// # Errors
    /// The first mistake of syntax, with line and column; or all mistakes of meaning at once.
    pub fn parse(text: &str) -> Result<Self, ContractError> {
        let contract: Self = toml::from_str(text)
            .map_err(|error| ContractError { problems: vec![error.to_string().trim_end().to_owned()] })?;
        let problems = check::problems(&contract);
        if problems.is_empty() { Ok(contract) } else { Err(ContractError { problems }) }
    }

    /// Covariates: all columns but `time` and `demand`, in the file's order.
    pub fn covariates(&self) -> impl Iterator<Item = (&String, &Column)> {
        self.columns.iter().filter(|(name, _)| !matches!(name.as_str(), "time" | "demand"))
    }

    /// The null policy of a column.
    pub fn missing(&self, column: &Column) -> Missing {
        column.missing.unwrap_or(self.policies.missing)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small, valid contract; other modules' tests change parts of it.
    pub(crate) const SHOP: &str = r#"
[contract]
name = "shop"
version = 1
description = "Test sales"
frequency = "D"

[source]
columns = { shop = "text", day = "date", sold = "number" }

[grain]
shop = "shop"

[columns.time]
sql = "day"

[columns.demand]
sql = "sold"

[policies]
missing = "null"
gaps = "null"
after_last = "null"
duplicates = "fail"
exact_duplicates = "keep"
negative = "keep"
"#;

    fn problems(text: &str) -> String {
        Contract::parse(text).expect_err("must be refused").to_string()
    }

    #[test]
    fn reads_a_small_contract() {
        let contract = Contract::parse(SHOP).expect("valid");
        assert_eq!(contract.contract.frequency, Frequency::D);
        assert_eq!(contract.source.columns["day"].cell, CellType::Date);
        assert_eq!(contract.source.null_values, [""]);
        assert_eq!(contract.covariates().count(), 0);
    }

    #[test]
    fn a_typo_is_named_with_its_line() {
        let text = problems(&SHOP.replace("gaps =", "gapz ="));
        assert!(text.contains("gapz") && text.contains("line"), "{text}");
    }

    #[test]
    fn no_policy_is_optional() {
        for policy in ["missing", "gaps", "after_last", "duplicates", "exact_duplicates", "negative"] {
            let without: String = SHOP
                .lines()
                .filter(|line| !line.starts_with(&format!("{policy} =")))
                .map(|l| format!("{l}\n"))
                .collect();
            assert!(problems(&without).contains(policy), "{policy} was not asked for");
        }
    }

    #[test]
    fn all_mistakes_of_meaning_at_once() {
        let text = SHOP
            .replace(
                "[columns.demand]\nsql = \"sold\"",
                "[columns.price]\nsql = \"sold\"\ngrid = \"1\"\nrole = \"past_only\"",
            )
            .replace("frequency = \"D\"", "frequency = \"M\"")
            .replace("[grain]\nshop = \"shop\"", "[grain]");
        let found = problems(&text);
        for needle in ["columns.demand", "columns.price", "frequency", "grain"] {
            assert!(found.contains(needle), "{needle} missing in {found}");
        }
    }

    #[test]
    fn a_covariate_needs_a_role_and_an_aggregate_when_rows_are_summed() {
        let text = SHOP.replace("duplicates = \"fail\"", "duplicates = \"sum\"") + "[columns.price]\nsql = \"sold\"\n";
        let found = problems(&text);
        assert!(found.contains("columns.price.role") && found.contains("columns.price.aggregate"), "{found}");
    }
}
