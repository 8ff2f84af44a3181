//! The JSON artifacts that a report reads, read leniently: what is missing or of another type is "not
//! known", never a failure, so that an old or half-made run still gets its report.
//!
//! Called by the task. The shapes are those that `ingest`, `validate`, `features`, `train`, `evaluate`
//! and `promote` publish; this file takes what it shows and leaves the rest.

use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::metrics::Figures;

/// The slice of all rows.
pub(super) const ALL: &str = "all";
/// The slice in which all series are added up before they are judged.
pub(super) const TOTAL: &str = "total";
/// The origin of figures over all origins.
const POOLED: &str = "pooled";

/// A field of the right type, or its default.
fn lenient<'de, D: Deserializer<'de>, T: DeserializeOwned + Default>(from: D) -> Result<T, D::Error> {
    Ok(serde_json::from_value(Value::deserialize(from)?).unwrap_or_default())
}

/// The elements of a list that are of the right type.
fn lenient_list<'de, D: Deserializer<'de>, T: DeserializeOwned>(from: D) -> Result<Vec<T>, D::Error> {
    Ok(match Value::deserialize(from)? {
        Value::Array(items) => items.into_iter().filter_map(|item| serde_json::from_value(item).ok()).collect(),
        _ => Vec::new(),
    })
}

/// `metrics.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Metrics {
    /// One per model, origin and slice.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) metrics: Vec<MetricRow>,
}

/// The figures of one model on one slice of one origin.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct MetricRow {
    /// The model.
    pub(super) model: String,
    /// The last period that it saw, or a word for all origins together.
    #[serde(deserialize_with = "lenient")]
    pub(super) origin: Option<String>,
    /// Which rows.
    #[serde(deserialize_with = "lenient")]
    pub(super) slice: Option<String>,
    /// Sum of absolute errors over sum of absolute demand.
    #[serde(deserialize_with = "lenient")]
    pub(super) wape: Option<f64>,
    /// Symmetric mean absolute percentage error.
    #[serde(deserialize_with = "lenient")]
    pub(super) smape: Option<f64>,
    /// Mean absolute error, units.
    #[serde(deserialize_with = "lenient")]
    pub(super) mae: Option<f64>,
    /// Root mean squared error, units.
    #[serde(deserialize_with = "lenient")]
    pub(super) rmse: Option<f64>,
    /// Mean absolute scaled error.
    #[serde(deserialize_with = "lenient")]
    pub(super) mase: Option<f64>,
    /// Sum of errors over demand; above 0 = too much was forecast.
    #[serde(deserialize_with = "lenient")]
    pub(super) bias: Option<f64>,
    /// Rows judged.
    #[serde(deserialize_with = "lenient")]
    pub(super) rows: Option<u64>,
}

impl MetricRow {
    /// The slice; a row that names none is about all rows.
    pub(super) fn slice(&self) -> &str {
        self.slice.as_deref().unwrap_or(ALL)
    }

    /// The origin, unless the row is about all of them.
    pub(super) fn single_origin(&self) -> Option<&str> {
        self.origin.as_deref().filter(|origin| *origin != POOLED)
    }

    /// First and last step, if the slice is a class of steps ahead: `h8-14`.
    pub(super) fn steps(&self) -> Option<(i32, i32)> {
        let (first, last) = self.slice().strip_prefix('h')?.split_once('-')?;
        Some((first.parse().ok()?, last.parse().ok()?))
    }

    /// The figures without their names.
    pub(super) fn figures(&self) -> Figures {
        Figures {
            wape: self.wape,
            smape: self.smape,
            mae: self.mae,
            rmse: self.rmse,
            mase: self.mase,
            bias: self.bias,
            rows: self.rows.unwrap_or(0),
            ..Figures::default()
        }
    }
}

/// `evaluation.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Evaluation {
    /// The candidate: the best model that is no baseline.
    #[serde(deserialize_with = "lenient")]
    pub(super) best: Option<String>,
    /// The model that all others are measured against.
    #[serde(deserialize_with = "lenient")]
    pub(super) baseline: Option<String>,
    /// All models.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) ranking: Vec<Ranked>,
    /// The model that serves.
    #[serde(deserialize_with = "lenient")]
    pub(super) champion: Champion,
    /// What must hold for the figures to mean what they say.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) checks: Vec<Check>,
}

/// A model's place.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Ranked {
    /// The model.
    pub(super) model: String,
    /// Whether it learns nothing, and is there to be beaten.
    #[serde(deserialize_with = "lenient")]
    pub(super) baseline: bool,
}

/// The model that serves, judged on the same rows.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Champion {
    /// Whether there is one; `None`: the registry could not be read.
    #[serde(deserialize_with = "lenient")]
    pub(super) present: Option<bool>,
    /// Its version.
    #[serde(deserialize_with = "lenient")]
    pub(super) version: Option<u64>,
    /// Its model.
    #[serde(deserialize_with = "lenient")]
    pub(super) model: Option<String>,
    /// How its figures came about.
    #[serde(deserialize_with = "lenient")]
    pub(super) how: Option<String>,
    /// Why it has none.
    #[serde(deserialize_with = "lenient")]
    pub(super) missing: Option<String>,
    /// Its figures.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) metrics: Vec<MetricRow>,
}

impl Champion {
    /// Its figures on all rows of all origins.
    pub(super) fn figures(&self) -> Option<Figures> {
        let row = self.metrics.iter().find(|row| row.slice() == ALL && row.single_origin().is_none());
        row.map(MetricRow::figures)
    }

    /// `gbdt, version 3`.
    pub(super) fn name(&self) -> String {
        let model = self.model.as_deref().unwrap_or("the champion");
        self.version.map_or_else(|| model.to_owned(), |version| format!("{model}, version {version}"))
    }
}

/// `promotion_decision.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Decision {
    /// The model's name in the registry.
    #[serde(deserialize_with = "lenient")]
    pub(super) name: String,
    /// Which way it went.
    #[serde(deserialize_with = "lenient")]
    pub(super) promoted: Option<bool>,
    /// One sentence.
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: String,
    /// The model that asked to be promoted.
    #[serde(deserialize_with = "lenient")]
    pub(super) candidate: Option<String>,
    /// The champion's version before.
    #[serde(deserialize_with = "lenient")]
    pub(super) from: Option<u64>,
    /// Every rule.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) checks: Vec<Check>,
}

/// A rule of the gate, or a check of the evaluation.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Check {
    /// Its name.
    pub(super) name: String,
    /// The model that it is about, unless it is about all.
    #[serde(deserialize_with = "lenient")]
    pub(super) model: Option<String>,
    /// Whether it held.
    #[serde(deserialize_with = "lenient")]
    pub(super) passed: Option<bool>,
    /// What was held against the threshold.
    #[serde(deserialize_with = "lenient")]
    pub(super) figure: Option<f64>,
    /// The threshold.
    #[serde(deserialize_with = "lenient")]
    pub(super) threshold: Option<f64>,
    /// One clause.
    #[serde(deserialize_with = "lenient")]
    pub(super) detail: String,
}

/// `model.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct ModelDocument {
    /// Its name.
    pub(super) name: String,
    /// How to fit it again.
    #[serde(deserialize_with = "lenient")]
    pub(super) recipe: Recipe,
    /// Identifies the recipe.
    #[serde(deserialize_with = "lenient")]
    pub(super) recipe_digest: String,
    /// First period of the data.
    #[serde(deserialize_with = "lenient")]
    pub(super) first_time: String,
    /// Last period that the final fit saw.
    #[serde(deserialize_with = "lenient")]
    pub(super) last_time: String,
    /// Rows of the feature table.
    #[serde(deserialize_with = "lenient")]
    pub(super) rows: Option<u64>,
    /// Series in it.
    #[serde(deserialize_with = "lenient")]
    pub(super) series: Option<u64>,
    /// Features per row.
    #[serde(deserialize_with = "lenient")]
    pub(super) features: Option<u64>,
    /// What the final fit decided by itself.
    #[serde(deserialize_with = "lenient")]
    pub(super) decisions: Map<String, Value>,
    /// Size of the model's file.
    #[serde(deserialize_with = "lenient")]
    pub(super) model_bytes: Option<u64>,
}

/// How to fit a model again.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Recipe {
    /// Hyperparameters.
    #[serde(deserialize_with = "lenient")]
    pub(super) options: Map<String, Value>,
    /// Periods ahead.
    #[serde(deserialize_with = "lenient")]
    pub(super) horizon: Option<u64>,
}

/// `feature_importance.json`: a list.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(transparent)]
pub(super) struct Importance {
    /// In any order; empty for a model that looks at no features.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) features: Vec<FeatureWeight>,
}

/// How much a feature mattered.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct FeatureWeight {
    /// The feature.
    #[serde(rename = "feature")]
    pub(super) name: String,
    /// Its share of the loss reduction of all splits.
    #[serde(deserialize_with = "lenient")]
    pub(super) gain: f64,
    /// Splits on it.
    #[serde(deserialize_with = "lenient")]
    pub(super) splits: Option<u64>,
}

/// `validation_result.json`, in the vocabulary of Great Expectations.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Validation {
    /// The suite.
    #[serde(deserialize_with = "lenient")]
    pub(super) suite: String,
    /// Whether every expectation of severity `error` is met.
    #[serde(deserialize_with = "lenient")]
    pub(super) success: Option<bool>,
    /// Rows that were taken out.
    #[serde(deserialize_with = "lenient")]
    pub(super) quarantined_rows: Option<u64>,
    /// Every expectation.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) results: Vec<Expectation>,
}

/// One expectation and what became of it.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Expectation {
    /// `expect_column_values_to_not_be_null`.
    #[serde(deserialize_with = "lenient")]
    pub(super) expectation_type: String,
    /// Column, bounds, share of rows.
    #[serde(deserialize_with = "lenient")]
    pub(super) kwargs: Map<String, Value>,
    /// `error` or `warning`.
    #[serde(deserialize_with = "lenient")]
    pub(super) severity: String,
    /// Whether it is met.
    #[serde(deserialize_with = "lenient")]
    pub(super) success: Option<bool>,
    /// What was found.
    #[serde(deserialize_with = "lenient")]
    pub(super) result: Findings,
    /// Why it could not be judged.
    #[serde(deserialize_with = "lenient")]
    pub(super) exception_info: Option<Exception>,
}

/// What was found: rows are counted, the table as a whole is observed.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Findings {
    /// Rows.
    #[serde(deserialize_with = "lenient")]
    pub(super) element_count: Option<u64>,
    /// Rows that broke it.
    #[serde(deserialize_with = "lenient")]
    pub(super) unexpected_count: Option<u64>,
    /// Of the rows with a value, 0 to 100.
    #[serde(deserialize_with = "lenient")]
    pub(super) unexpected_percent: Option<f64>,
    /// What was seen of the table as a whole.
    pub(super) observed_value: Value,
}

/// Why an expectation could not be judged.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Exception {
    /// The message.
    #[serde(deserialize_with = "lenient")]
    pub(super) exception_message: String,
}

/// `contract_validation_report.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Contract {
    /// `accepted`, `refused`, `requires_custom_adapter`.
    #[serde(deserialize_with = "lenient")]
    pub(super) status: String,
    /// Why it was refused.
    #[serde(deserialize_with = "lenient")]
    pub(super) reason: Option<String>,
    /// The files that were read.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) source: Vec<RawFile>,
    /// From the files to the panel.
    #[serde(deserialize_with = "lenient")]
    pub(super) rows: RowAccount,
    /// Rows that could not be read, by kind of problem.
    #[serde(deserialize_with = "lenient")]
    pub(super) bad_rows: IndexMap<String, Problem>,
    /// How often each policy decided something.
    #[serde(deserialize_with = "lenient")]
    pub(super) decisions: IndexMap<String, u64>,
    /// What its author should know.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) notes: Vec<String>,
    /// The panel's shape.
    #[serde(deserialize_with = "lenient")]
    pub(super) panel: PanelAccount,
}

/// A raw file.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct RawFile {
    /// As the DAG or the tenant names it.
    pub(super) path: String,
    /// Of its bytes.
    #[serde(deserialize_with = "lenient")]
    pub(super) sha256: String,
    /// Its size.
    #[serde(deserialize_with = "lenient")]
    pub(super) bytes: u64,
}

/// From the files to the panel.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct RowAccount {
    /// All rows.
    #[serde(deserialize_with = "lenient")]
    pub(super) read: Option<u64>,
    /// Rows that could not be read.
    #[serde(deserialize_with = "lenient")]
    pub(super) bad: Option<u64>,
    /// Rows that do not count, by filter.
    #[serde(deserialize_with = "lenient")]
    pub(super) filtered: IndexMap<String, u64>,
    /// Rows left out as exact duplicates.
    #[serde(deserialize_with = "lenient")]
    pub(super) exact_duplicates: Option<u64>,
    /// Rows behind the panel.
    #[serde(deserialize_with = "lenient")]
    pub(super) kept: Option<u64>,
}

/// A kind of problem.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Problem {
    /// Rows that have it.
    #[serde(deserialize_with = "lenient")]
    pub(super) count: u64,
}

/// The panel's shape.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct PanelAccount {
    /// Series left out by the contract's rule.
    #[serde(deserialize_with = "lenient")]
    pub(super) series_excluded: Option<u64>,
}

/// `canonical_schema_snapshot.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Schema {
    /// `D`, `W`, `H`, `M`.
    #[serde(deserialize_with = "lenient")]
    pub(super) frequency: Option<String>,
    /// Columns that make a series.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) grain: Vec<String>,
    /// Rows of the panel.
    #[serde(deserialize_with = "lenient")]
    pub(super) rows: Option<u64>,
    /// Series in it.
    #[serde(deserialize_with = "lenient")]
    pub(super) series: Option<u64>,
    /// First period.
    #[serde(deserialize_with = "lenient")]
    pub(super) first_time: Option<String>,
    /// Last period.
    #[serde(deserialize_with = "lenient")]
    pub(super) last_time: Option<String>,
}

/// `features.json`.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(default)]
pub(super) struct Features {
    /// `D`, `W`, `H`, `M`.
    #[serde(deserialize_with = "lenient")]
    pub(super) frequency: Option<String>,
    /// Periods ahead.
    #[serde(deserialize_with = "lenient")]
    pub(super) horizon: Option<u64>,
    /// Digest of the meaning of the columns.
    #[serde(deserialize_with = "lenient")]
    pub(super) spec_digest: Option<String>,
    /// The features.
    #[serde(deserialize_with = "lenient_list")]
    pub(super) columns: Vec<Value>,
}
