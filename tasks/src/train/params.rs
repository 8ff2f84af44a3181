//! Parameters of the `train` kind.

use engine::dag::ParamProblem;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::{GbdtOptions, ModelKind, ModelSpec, WeekdayMeanOptions};

/// What is trained, and on how many windows it is tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainParams {
    /// The model.
    pub model: ModelKind,
    /// Periods ahead; at most the horizon that the features were made for.
    #[schemars(range(min = 1, max = 366))]
    pub horizon: u32,
    /// Rolling-origin windows of the backtest, one after the other, ending where the data ends.
    #[serde(default = "default_windows")]
    #[schemars(range(min = 1, max = 24))]
    pub windows: u32,
    /// Whether to fit once more on everything and keep that model.
    #[serde(default = "default_final_fit")]
    pub final_fit: bool,
    /// Hyperparameters by model, so that one table serves a matrix of models.
    #[serde(default)]
    pub options: ModelOptions,
}

/// Hyperparameters by model; each is at its default unless named.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ModelOptions {
    /// Of `gbdt`.
    pub gbdt: GbdtOptions,
    /// Of `weekday_mean`.
    pub weekday_mean: WeekdayMeanOptions,
}

fn default_windows() -> u32 {
    3
}

fn default_final_fit() -> bool {
    true
}

impl TrainParams {
    /// The model with its own hyperparameters.
    pub(super) fn spec(&self) -> ModelSpec {
        match self.model {
            ModelKind::Naive => ModelSpec::Naive,
            ModelKind::SeasonalNaive => ModelSpec::SeasonalNaive,
            ModelKind::WeekdayMean => ModelSpec::WeekdayMean(self.options.weekday_mean.clone()),
            ModelKind::Gbdt => ModelSpec::Gbdt(self.options.gbdt.clone()),
        }
    }

    /// What is wrong with the values, beyond their types.
    pub(super) fn problems(&self) -> Vec<ParamProblem> {
        let gbdt = &self.options.gbdt;
        let share = |value: f64| value > 0.0 && value <= 1.0;
        let checks: [(&[&str], bool, &str); 13] = [
            (&["horizon"], (1..=366).contains(&self.horizon), "between 1 and 366"),
            (&["windows"], (1..=24).contains(&self.windows), "between 1 and 24"),
            (&["options", "weekday_mean", "count"], self.options.weekday_mean.count >= 1, "at least 1"),
            (&["options", "gbdt", "rounds"], gbdt.rounds >= 1, "at least 1"),
            (&["options", "gbdt", "learning_rate"], share(gbdt.learning_rate), "above 0, at most 1"),
            (&["options", "gbdt", "max_leaves"], gbdt.max_leaves >= 2, "at least 2"),
            (&["options", "gbdt", "min_child_weight"], gbdt.min_child_weight >= 0.0, "at least 0"),
            (&["options", "gbdt", "subsample"], share(gbdt.subsample), "above 0, at most 1"),
            (&["options", "gbdt", "colsample"], share(gbdt.colsample), "above 0, at most 1"),
            (&["options", "gbdt", "lambda"], gbdt.lambda >= 0.0, "at least 0"),
            (&["options", "gbdt", "max_bin"], (2..=256).contains(&gbdt.max_bin), "between 2 and 256"),
            (&["options", "gbdt", "tweedie_power"], (1.0..2.0).contains(&gbdt.tweedie_power), "at least 1, below 2"),
            (&["options", "gbdt", "max_depth"], gbdt.max_depth <= 64, "at most 64 (0 = no limit)"),
        ];
        checks
            .into_iter()
            .filter(|(_, good, _)| !good)
            .map(|(path, _, rule)| ParamProblem {
                path: path.iter().map(|key| (*key).to_owned()).collect(),
                message: format!("must be {rule}"),
                help: None,
            })
            .collect()
    }
}
