//! `validation_result.json`: the verdict on every expectation, in the words of Great Expectations.
//!
//! `validate` fills and publishes it; the report reads it. The verdicts are made here, from counts and figures.

use serde::Serialize;
use serde_json::{Map, Value};

use super::examine::Examples;
use super::measure::Counts;
use super::suite::{Expectation, Severity, Suite};

/// Raised when a field changes its meaning.
const FORMAT_VERSION: u32 = 1;

/// The whole document.
#[derive(Debug, Serialize)]
pub(super) struct ValidationResult<'a> {
    format_version: u32,
    suite: &'a str,
    description: &'a str,
    /// Whether every expectation of severity `error` is met.
    pub(super) success: bool,
    /// Rows of the panel.
    rows: u64,
    /// Rows that broke a row-level expectation of severity `error`.
    pub(super) quarantined_rows: u64,
    pub(super) statistics: Statistics,
    results: Vec<Verdict<'a>>,
}

/// Counts of expectations, whatever their severity.
#[derive(Debug, Serialize)]
pub(super) struct Statistics {
    pub(super) evaluated: usize,
    successful: usize,
    pub(super) unsuccessful: usize,
    /// 0 to 100.
    success_percent: f64,
}

/// One expectation and what became of it.
#[derive(Debug, Serialize)]
pub(super) struct Verdict<'a> {
    expectation_type: &'a str,
    kwargs: &'a Map<String, Value>,
    severity: Severity,
    success: bool,
    result: Findings,
    #[serde(skip_serializing_if = "Option::is_none")]
    exception_info: Option<Exception>,
    #[serde(skip)]
    expectation: &'a Expectation,
}

/// What was found; row-level expectations count, the others observe.
#[derive(Debug, Default, Serialize)]
struct Findings {
    #[serde(flatten)]
    rows: Option<RowFindings>,
    #[serde(skip_serializing_if = "Option::is_none")]
    observed_value: Option<Value>,
}

#[derive(Debug, Serialize)]
struct RowFindings {
    element_count: u64,
    missing_count: u64,
    unexpected_count: u64,
    /// Of the rows with a value, 0 to 100: what `mostly` is about.
    unexpected_percent: f64,
    partial_unexpected_list: Vec<Value>,
    partial_unexpected_index_list: Vec<u64>,
}

#[derive(Debug, Serialize)]
struct Exception {
    raised_exception: bool,
    exception_message: String,
}

impl<'a> Verdict<'a> {
    /// On an expectation that could not be judged on this panel.
    pub(super) fn unjudged(expectation: &'a Expectation, message: String) -> Self {
        let exception = Exception { raised_exception: true, exception_message: message };
        Self { exception_info: Some(exception), ..Self::new(expectation, false, Findings::default()) }
    }

    /// On the table as a whole.
    pub(super) fn observed(expectation: &'a Expectation, success: bool, observed: Value) -> Self {
        let observed_value = Some(observed).filter(|observed| !observed.is_null());
        Self::new(expectation, success, Findings { rows: None, observed_value })
    }

    /// On rows. Rows without a value count neither for nor against `mostly`.
    pub(super) fn counted(expectation: &'a Expectation, counts: Counts, examples: Examples) -> Self {
        let judged = counts.elements - counts.missing;
        let expected = judged - counts.unexpected;
        let success = judged == 0 || expected as f64 / judged as f64 >= expectation.mostly;
        let rows = RowFindings {
            element_count: counts.elements,
            missing_count: counts.missing,
            unexpected_count: counts.unexpected,
            unexpected_percent: percent(counts.unexpected, judged).unwrap_or(0.0),
            partial_unexpected_list: examples.values,
            partial_unexpected_index_list: examples.rows,
        };
        Self::new(expectation, success, Findings { rows: Some(rows), observed_value: None })
    }

    fn new(expectation: &'a Expectation, success: bool, result: Findings) -> Self {
        Self {
            expectation_type: expectation.name,
            kwargs: &expectation.kwargs,
            severity: expectation.severity,
            success,
            result,
            exception_info: None,
            expectation,
        }
    }

    /// One line about a failure.
    fn line(&self) -> String {
        let label = self.expectation.label();
        match (&self.exception_info, &self.result.rows, &self.result.observed_value) {
            (Some(exception), _, _) => format!("{label}: {}", exception.exception_message),
            (_, Some(rows), _) => format!(
                "{label}: {} of {} rows ({:.3} %) are unexpected, {:.3} % may be",
                rows.unexpected_count,
                rows.element_count - rows.missing_count,
                rows.unexpected_percent,
                (1.0 - self.expectation.mostly) * 100.0,
            ),
            (_, _, Some(observed)) => format!("{label}: observed {observed}, expected {}", self.expectation.wanted()),
            (_, _, None) => format!("{label}: there is none"),
        }
    }
}

impl Expectation {
    /// `expect_column_values_to_not_be_null(demand)`
    pub(super) fn label(&self) -> String {
        if self.columns.is_empty() {
            self.name.to_owned()
        } else {
            format!("{}({})", self.name, self.columns.join(", "))
        }
    }

    fn wanted(&self) -> String {
        let told = ["column", "column_list", "row_condition"];
        let wanted = self.kwargs.iter().filter(|(key, _)| !told.contains(&key.as_str()));
        wanted.map(|(key, value)| format!("{key} = {value}")).collect::<Vec<_>>().join(", ")
    }
}

impl<'a> ValidationResult<'a> {
    /// Sums up.
    pub(super) fn new(suite: &'a Suite, rows: u64, quarantined_rows: u64, results: Vec<Verdict<'a>>) -> Self {
        let successful = results.iter().filter(|verdict| verdict.success).count();
        let statistics = Statistics {
            evaluated: results.len(),
            successful,
            unsuccessful: results.len() - successful,
            success_percent: percent(successful as u64, results.len() as u64).unwrap_or(100.0),
        };
        let fails = |verdict: &Verdict<'_>| !verdict.success && verdict.severity == Severity::Error;
        let success = !results.iter().any(fails);
        let (suite, description) = (&*suite.name, &*suite.description);
        Self {
            format_version: FORMAT_VERSION,
            suite,
            description,
            success,
            rows,
            quarantined_rows,
            statistics,
            results,
        }
    }

    /// What failed, for the attempt's error.
    pub(super) fn failure(&self) -> String {
        let fails = |verdict: &&Verdict<'_>| !verdict.success && verdict.severity == Severity::Error;
        let failed: Vec<_> = self.results.iter().filter(fails).collect();
        let lines: String = failed.iter().map(|verdict| format!("\n  - {}", verdict.line())).collect();
        format!(
            "the panel failed {} of {} expectations of suite {:?}; rows are in validation_result.json and \
             quarantine.parquet:{lines}",
            failed.len(),
            self.results.len(),
            self.suite
        )
    }
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64 * 100.0)
}
