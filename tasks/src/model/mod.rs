//! Models behind one trait: fit on the past, forecast a window, explain, save, load.
//!
//! `train` and `evaluate` call this through [`backtest_recipe`] and [`Recipe`]; nothing here knows
//! tasks, artifacts or the registry. Quantiles and more models come behind the same trait.

mod backtest;
mod baseline;
mod gbdt;
mod recipe;
mod slice;

use engine::task::{ErrorClass, TaskError};
use serde::Serialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use backtest::{backtest_recipe, backtest_schema};
pub use baseline::WeekdayMeanOptions;
pub use gbdt::{GbdtObjective, GbdtOptions};
pub use recipe::{ModelKind, ModelSpec, Recipe};
pub use slice::{ForecastWindow, Origin, TrainingSlice};

/// A way to make forecasts that can be fitted again and again.
pub trait Forecaster: Send + Sync {
    /// Fits on everything in `slice`; a pure function of the slice and the seed.
    ///
    /// # Errors
    /// [`ModelError`]; [`ModelError::Canceled`] within a second of the cancel.
    fn fit(
        &self,
        slice: &TrainingSlice<'_>,
        seed: u64,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn FittedModel>, ModelError>;

    /// Reads what [`FittedModel::save`] wrote.
    ///
    /// # Errors
    /// [`ModelError::Format`], if the bytes are something else.
    fn load(&self, bytes: &[u8]) -> Result<Box<dyn FittedModel>, ModelError>;
}

/// A model that has seen its data.
pub trait FittedModel: Send + Sync {
    /// One point forecast per row of `window`, in [`ForecastWindow::rows`]'s order, in units of
    /// demand: never negative, 0 on closed rows.
    ///
    /// # Errors
    /// [`ModelError::Booster`], if the window has other features than the model was fitted on.
    fn forecast(&self, window: &ForecastWindow<'_>) -> Result<Vec<f64>, ModelError>;

    /// How much each feature mattered, most first; empty for models without features.
    fn explain(&self) -> Vec<FeatureImportance>;

    /// The model's bytes, the same for the same fit.
    ///
    /// # Errors
    /// [`ModelError::Format`], if the model can not be written.
    fn save(&self) -> Result<Vec<u8>, ModelError>;

    /// What the fit decided by itself (objective, calibration, rows), for `model.json`.
    fn decisions(&self) -> Value;
}

/// How much one feature mattered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FeatureImportance {
    /// The feature's name.
    pub feature: String,
    /// Total loss reduction of the splits on it, as a share of all splits' (sums to 1).
    pub gain: f64,
    /// Splits on it.
    pub splits: u64,
}

/// The forecaster that a spec names.
pub fn forecaster(spec: &ModelSpec) -> Box<dyn Forecaster> {
    match spec {
        ModelSpec::Naive => Box::new(baseline::SeasonMean::naive()),
        ModelSpec::SeasonalNaive => Box::new(baseline::SeasonMean::seasonal(1)),
        ModelSpec::WeekdayMean(options) => Box::new(baseline::SeasonMean::seasonal(options.count)),
        ModelSpec::Gbdt(options) => Box::new(gbdt::Gbdt::new(options.clone())),
    }
}

/// Why a model could not be fitted, used, written or read.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// Nothing to learn from.
    #[error(
        "no row up to {origin} has known demand, so there is nothing to learn; use fewer windows, a shorter horizon or more history"
    )]
    NoRows {
        /// The origin.
        origin: chrono::NaiveDate,
    },
    /// The features were made for another horizon, or with other rules.
    #[error("{0}")]
    Mismatch(String),
    /// The booster refused.
    #[error("the gradient booster failed to {action}")]
    Booster {
        /// Verb and object.
        action: &'static str,
        /// What lay beneath.
        #[source]
        source: hessboost::error::HessboostError,
    },
    /// The bytes are not a model of this kind.
    #[error("the bytes are not a saved {kind} model of a version that this program reads")]
    Format {
        /// The model's kind.
        kind: &'static str,
        /// What lay beneath.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Told to stop.
    #[error("canceled")]
    Canceled,
}

impl From<ModelError> for TaskError {
    fn from(error: ModelError) -> Self {
        match error {
            ModelError::Canceled => Self::Canceled,
            ModelError::NoRows { .. } | ModelError::Mismatch(_) => {
                Self::permanent(ErrorClass::Model, error.to_string())
            }
            _ => Self::permanent_from(ErrorClass::Model, "a model failed", error),
        }
    }
}
