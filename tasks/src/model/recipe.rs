//! A recipe: all that has to be known to fit the same model again on other data.
//!
//! `train` writes it into `model.json`; `evaluate` reads a champion's and refits it at the same
//! origins as its challengers. It names no version, no data and no path.

use engine::id::Digest;
use engine::task::{ErrorClass, TaskError};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::baseline::WeekdayMeanOptions;
use crate::model::gbdt::GbdtOptions;

/// The models that can be trained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelKind {
    /// The last known value.
    Naive,
    /// The value of the same place in the last season (the same weekday of last week).
    SeasonalNaive,
    /// The mean of the last known values of the same weekday.
    WeekdayMean,
    /// Gradient-boosted trees on features, one model for all series and horizons.
    Gbdt,
}

impl ModelKind {
    /// The word in TOML, JSON and the registry.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Naive => "naive",
            Self::SeasonalNaive => "seasonal_naive",
            Self::WeekdayMean => "weekday_mean",
            Self::Gbdt => "gbdt",
        }
    }
}

/// A model with its hyperparameters, all of them explicit.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "model", content = "options", rename_all = "snake_case", deny_unknown_fields)]
pub enum ModelSpec {
    /// See [`ModelKind::Naive`].
    Naive,
    /// See [`ModelKind::SeasonalNaive`].
    SeasonalNaive,
    /// See [`ModelKind::WeekdayMean`].
    WeekdayMean(WeekdayMeanOptions),
    /// See [`ModelKind::Gbdt`].
    Gbdt(GbdtOptions),
}

impl ModelSpec {
    /// Which model.
    pub fn kind(&self) -> ModelKind {
        match self {
            Self::Naive => ModelKind::Naive,
            Self::SeasonalNaive => ModelKind::SeasonalNaive,
            Self::WeekdayMean(_) => ModelKind::WeekdayMean,
            Self::Gbdt(_) => ModelKind::Gbdt,
        }
    }
}

/// All that has to be known to fit the same model again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Recipe {
    /// The model and its hyperparameters.
    #[serde(flatten)]
    pub spec: ModelSpec,
    /// Periods ahead.
    pub horizon: u32,
    /// [`crate::features::FeaturesDocument::spec_digest`] of the features that it reads.
    pub features_digest: Digest,
}

impl Recipe {
    /// Identifies the recipe: equal recipes, equal digests.
    ///
    /// # Errors
    /// Permanent, if a hyperparameter is not a number JSON can hold (NaN, infinity).
    pub fn digest(&self) -> Result<Digest, TaskError> {
        serde_json::to_vec(self).map(|bytes| Digest::of(&bytes)).map_err(|source| {
            TaskError::permanent_from(ErrorClass::System, "a recipe could not be written as JSON", source)
        })
    }
}
