//! Gradient-boosted trees: one global model on features, direct for all steps of the horizon.
//!
//! The booster is hessboost (histograms, missing values, the same bytes on any thread count). This
//! module chooses label, objective and calibration, and turns margins into demand. It makes no
//! features and knows no origin but the slice's.

use std::ops::ControlFlow;
use std::sync::Arc;

use hessboost::config::{GrowPolicy, TrainingParams, TreeMethod};
use hessboost::data::DMatrix;
use hessboost::error::HessboostError;
use hessboost::model::{BoostedModel, ImportanceType, Iterations, ModelFormat};
use hessboost::objective::{Objective, RegLoss, Tweedie};
use hessboost::training::Trainer;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::model::{FeatureImportance, FittedModel, ForecastWindow, Forecaster, ModelError, TrainingSlice};

/// What the trees minimize.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum GbdtObjective {
    /// `log_l2`, or `tweedie` where more than a fifth of the known demand is zero.
    Auto,
    /// Squared error of log(1 + demand): relative errors count the same for large and small series.
    LogL2,
    /// Tweedie deviance with a log link: unbiased means for demand with many zeros.
    Tweedie,
}

/// Hyperparameters of `gbdt`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct GbdtOptions {
    /// What the trees minimize.
    pub objective: GbdtObjective,
    /// Trees.
    #[schemars(range(min = 1, max = 100_000))]
    pub rounds: u32,
    /// Step size.
    pub learning_rate: f64,
    /// Leaves per tree, grown best first.
    #[schemars(range(min = 2, max = 65_536))]
    pub max_leaves: u32,
    /// Depth limit; 0 = none.
    pub max_depth: u32,
    /// Smallest sum of second derivatives in a leaf; rows, for `log_l2`.
    pub min_child_weight: f64,
    /// Share of rows drawn for each tree.
    pub subsample: f64,
    /// Share of features drawn for each tree.
    pub colsample: f64,
    /// L2 penalty on leaves.
    pub lambda: f64,
    /// Histogram bins per feature.
    #[schemars(range(min = 2, max = 256))]
    pub max_bin: u32,
    /// Power of the Tweedie variance, between 1 (Poisson) and 2 (gamma).
    pub tweedie_power: f64,
    /// Scale the forecasts so that they add up to the demand that the model was fitted on; undoes
    /// the downward bias of a mean of logarithms (Duan 1983, the smearing estimate).
    pub calibrate: bool,
}

impl Default for GbdtOptions {
    fn default() -> Self {
        Self {
            objective: GbdtObjective::Auto,
            rounds: 500,
            learning_rate: 0.05,
            max_leaves: 255,
            max_depth: 0,
            min_child_weight: 40.0,
            subsample: 0.8,
            colsample: 0.5,
            lambda: 1.0,
            max_bin: 255,
            tweedie_power: 1.2,
            calibrate: true,
        }
    }
}

/// The forecaster: options, not yet fitted.
pub(super) struct Gbdt {
    options: GbdtOptions,
}

impl Gbdt {
    pub(super) fn new(options: GbdtOptions) -> Self {
        Self { options }
    }

    fn booster_params(&self, objective: GbdtObjective, seed: u64) -> Result<TrainingParams, HessboostError> {
        let options = &self.options;
        let loss = match objective {
            GbdtObjective::Tweedie => Objective::Tweedie(Tweedie::new(options.tweedie_power)?),
            _ => Objective::SquaredError(RegLoss::default()),
        };
        // The global pool: trainings that run at once share the cores instead of doubling the threads.
        let params = TrainingParams::builder()
            .global_pool()
            .seed(seed)
            .objective(loss)
            .tree_method(TreeMethod::Hist)
            .grow_policy(GrowPolicy::LossGuide)
            .max_leaves(options.max_leaves as usize)
            .eta(options.learning_rate)
            .min_child_weight(options.min_child_weight)
            .subsample(options.subsample)
            .colsample_bytree(options.colsample)
            .lambda(options.lambda)
            .max_bin(options.max_bin as usize);
        match options.max_depth {
            0 => params.unlimited_depth(),
            depth => params.max_depth(depth as usize),
        }
        .build()
    }

    /// `auto` resolved by the share of zeros in the known demand.
    fn objective(&self, demand: &[f64]) -> GbdtObjective {
        if self.options.objective != GbdtObjective::Auto {
            return self.options.objective;
        }
        let zeros = demand.iter().filter(|value| **value <= 0.0).count();
        if zeros as f64 > INTERMITTENT_ZERO_SHARE * demand.len() as f64 {
            GbdtObjective::Tweedie
        } else {
            GbdtObjective::LogL2
        }
    }
}

/// With more zeros than this, a mean of logarithms is far below the logarithm of the mean.
const INTERMITTENT_ZERO_SHARE: f64 = 0.2;

/// Rows that the calibration looks at; its relative error is about 1 / sqrt of it.
const CALIBRATION_ROWS: usize = 50_000;

impl Forecaster for Gbdt {
    fn fit(
        &self,
        slice: &TrainingSlice<'_>,
        seed: u64,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn FittedModel>, ModelError> {
        let rows = slice.known_rows();
        if rows.is_empty() {
            return Err(ModelError::NoRows { origin: slice.origin().0 });
        }
        let demand: Vec<f64> = rows.iter().map(|row| slice.demand(*row).max(0.0)).collect();
        let objective = self.objective(&demand);
        let params = self.booster_params(objective, seed).map_err(booster_error("read its options"))?;
        let matrix = training_matrix(slice, &rows, &demand, objective).map_err(booster_error("read the features"))?;
        let booster = self.boost(&params, &matrix, cancel)?;
        let mut fitted = GbdtModel {
            header: GbdtHeader {
                format_version: FORMAT_VERSION,
                objective,
                calibration: 1.0,
                rows: rows.len() as u64,
                features: slice.document().columns.iter().map(|column| column.name.clone()).collect(),
            },
            booster,
        };
        if self.options.calibrate {
            fitted.header.calibration = fitted.calibration(slice, &rows)?;
        }
        Ok(Box::new(fitted))
    }

    fn load(&self, bytes: &[u8]) -> Result<Box<dyn FittedModel>, ModelError> {
        Ok(Box::new(GbdtModel::from_bytes(bytes)?))
    }
}

impl Gbdt {
    fn boost(
        &self,
        params: &TrainingParams,
        matrix: &DMatrix,
        cancel: &CancellationToken,
    ) -> Result<BoostedModel, ModelError> {
        if cancel.is_cancelled() {
            return Err(ModelError::Canceled);
        }
        let result = Trainer::new(params, matrix, self.options.rounds as usize)
            .on_round(|_| if cancel.is_cancelled() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
            .train()
            .map_err(booster_error("train"))?;
        if cancel.is_cancelled() { Err(ModelError::Canceled) } else { Ok(result.model) }
    }
}

/// A view of the frame's rows (nothing is copied but the labels), cut into bins by these rows alone.
fn training_matrix(
    slice: &TrainingSlice<'_>,
    rows: &[usize],
    demand: &[f64],
    objective: GbdtObjective,
) -> Result<DMatrix, HessboostError> {
    let (values, width) = slice.frame_values();
    let labels: Vec<f32> = demand.iter().map(|value| label(objective, *value)).collect();
    let shared = Arc::clone(values);
    let frame = DMatrix::from_dense_shared(shared, values.len() / width.max(1), width, f32::NAN)?;
    frame.select_rows(rows)?.with_labels(&labels)
}

fn label(objective: GbdtObjective, demand: f64) -> f32 {
    match objective {
        GbdtObjective::Tweedie => demand as f32,
        _ => demand.ln_1p() as f32,
    }
}

const FORMAT_VERSION: u32 = 1;
/// First bytes of a saved model.
const MAGIC: &[u8; 8] = b"HWGBDT1\n";

/// What a saved model holds beside the trees.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct GbdtHeader {
    format_version: u32,
    /// Never `auto`.
    objective: GbdtObjective,
    /// What raw forecasts are multiplied by.
    calibration: f64,
    /// Rows that it was fitted on.
    rows: u64,
    features: Vec<String>,
}

/// A fitted model.
struct GbdtModel {
    header: GbdtHeader,
    booster: BoostedModel,
}

impl GbdtModel {
    /// Raw forecasts in units of demand, without calibration.
    fn raw(&self, features: &[f32]) -> Result<Vec<f64>, ModelError> {
        let predictions = self.booster.predict_rows(features, Iterations::Best).map_err(booster_error("forecast"))?;
        let to_demand = |prediction: &f32| match self.header.objective {
            GbdtObjective::Tweedie => f64::from(*prediction),
            _ => f64::from(*prediction).exp_m1(),
        };
        Ok(predictions.as_slice().iter().map(to_demand).map(|point| point.max(0.0)).collect())
    }

    /// Demand over raw forecasts, summed over evenly spaced training rows.
    fn calibration(&self, slice: &TrainingSlice<'_>, rows: &[usize]) -> Result<f64, ModelError> {
        let every = rows.len().div_ceil(CALIBRATION_ROWS).max(1);
        let sample: Vec<usize> = rows.iter().copied().step_by(every).collect();
        let features: Vec<f32> = sample.iter().flat_map(|row| slice.features(*row)).copied().collect();
        let forecast: f64 = self.raw(&features)?.iter().sum();
        let demand: f64 = sample.iter().map(|row| slice.demand(*row).max(0.0)).sum();
        Ok(if forecast > 0.0 && demand > 0.0 { demand / forecast } else { 1.0 })
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self, ModelError> {
        let body = bytes.strip_prefix(MAGIC).ok_or_else(|| format_error("it does not start as one"))?;
        let (length, body) = body.split_first_chunk::<4>().ok_or_else(|| format_error("it is cut off"))?;
        let length = u32::from_le_bytes(*length) as usize;
        let (header, trees) = body.split_at_checked(length).ok_or_else(|| format_error("it is cut off"))?;
        let header: GbdtHeader = serde_json::from_slice(header).map_err(format_error)?;
        if header.format_version != FORMAT_VERSION {
            return Err(format_error(format!("format version {}", header.format_version)));
        }
        let booster = BoostedModel::decode(trees, ModelFormat::Binary).map_err(format_error)?;
        Ok(Self { header, booster })
    }
}

impl FittedModel for GbdtModel {
    fn forecast(&self, window: &ForecastWindow<'_>) -> Result<Vec<f64>, ModelError> {
        let columns = &window.document().columns;
        if !columns.iter().map(|column| &column.name).eq(&self.header.features) {
            return Err(ModelError::Mismatch("the window has other features than the model was fitted on".to_owned()));
        }
        let features: Vec<f32> = window.series().flat_map(|(_, _, rows)| window.features(rows)).copied().collect();
        let raw = self.raw(&features)?;
        let points = window.rows().zip(raw);
        Ok(points.map(|(row, point)| if window.closed(row) { 0.0 } else { point * self.header.calibration }).collect())
    }

    fn explain(&self) -> Vec<FeatureImportance> {
        let gains = self.booster.feature_importance(ImportanceType::TotalGain);
        let splits = self.booster.feature_importance(ImportanceType::Weight);
        let total: f64 = gains.values().sum();
        let share = |gain: f64| if total > 0.0 { gain / total } else { 0.0 };
        let mut importances: Vec<FeatureImportance> = self
            .header
            .features
            .iter()
            .enumerate()
            .map(|(at, feature)| FeatureImportance {
                feature: feature.clone(),
                gain: share(gains.get(&at).copied().unwrap_or(0.0)),
                splits: splits.get(&at).copied().unwrap_or(0.0) as u64,
            })
            .collect();
        importances.sort_by(|a, b| b.gain.total_cmp(&a.gain).then_with(|| a.feature.cmp(&b.feature)));
        importances
    }

    fn save(&self) -> Result<Vec<u8>, ModelError> {
        let header = serde_json::to_vec(&self.header).map_err(format_error)?;
        let trees = self.booster.encode(ModelFormat::Binary).map_err(booster_error("write the trees"))?;
        let length = u32::try_from(header.len()).map_err(format_error)?;
        Ok([MAGIC.as_slice(), &length.to_le_bytes(), &header, &trees].concat())
    }

    fn decisions(&self) -> Value {
        json!({
            "objective": self.header.objective,
            "calibration": self.header.calibration,
            "rows": self.header.rows,
            "trees": self.booster.num_boost_rounds(),
        })
    }
}

fn booster_error(action: &'static str) -> impl Fn(HessboostError) -> ModelError {
    move |source| ModelError::Booster { action, source }
}

fn format_error(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ModelError {
    ModelError::Format { kind: "gbdt", source: source.into() }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::features::fixture::{FIRST_DAY, frame_of, panel};
    use crate::features::{FeatureFrame, FeaturesParams};
    use crate::model::{ModelSpec, Origin, forecaster};

    fn small() -> GbdtOptions {
        GbdtOptions { rounds: 60, learning_rate: 0.2, max_leaves: 31, min_child_weight: 5.0, ..GbdtOptions::default() }
    }

    fn fit(frame: &FeatureFrame, options: GbdtOptions, seed: u64) -> Box<dyn FittedModel> {
        let slice = TrainingSlice::new(frame, origin());
        Gbdt::new(options).fit(&slice, seed, &CancellationToken::new()).expect("fitted")
    }

    fn origin() -> Origin {
        Origin::from_days(FIRST_DAY + 385)
    }

    fn wape(frame: &FeatureFrame, points: &[f64]) -> f64 {
        let window = ForecastWindow::new(frame, origin(), 14);
        let actual = |row: usize| if frame.closed()[row] { 0.0 } else { frame.demand()[row] };
        let error: f64 = window.rows().zip(points).map(|(row, point)| (point - actual(row)).abs()).sum();
        error / window.rows().map(actual).sum::<f64>()
    }

    #[test]
    fn trees_learn_promotions_that_last_week_does_not_tell() {
        let frame = frame_of(&panel(6, 400), &FeaturesParams::new(14));
        let window = ForecastWindow::new(&frame, origin(), 14);
        let trees = fit(&frame, small(), 7);
        let points = trees.forecast(&window).expect("a forecast");
        let slice = TrainingSlice::new(&frame, origin());
        let naive = forecaster(&ModelSpec::SeasonalNaive).fit(&slice, 7, &CancellationToken::new()).expect("fitted");
        let (trees_wape, naive_wape) = (wape(&frame, &points), wape(&frame, &naive.forecast(&window).expect("points")));
        assert!(trees_wape < 0.5 * naive_wape, "trees {trees_wape}, last week {naive_wape}");
        assert!(window.rows().zip(&points).all(|(row, point)| (*point == 0.0) == window.closed(row)));
        let first = &trees.explain()[0];
        assert!(first.gain > 0.0 && first.splits > 0, "{first:?}");
        let total: f64 = trees.explain().iter().map(|importance| importance.gain).sum();
        assert!((total - 1.0).abs() < 1e-6, "shares of gain add up to {total}");
    }

    #[test]
    fn the_same_fit_gives_the_same_bytes_on_any_number_of_threads() {
        let frame = frame_of(&panel(6, 400), &FeaturesParams::new(14));
        let bytes = |threads, seed| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| fit(&frame, small(), seed).save().expect("bytes"))
        };
        assert_eq!(bytes(1, 7), bytes(3, 7));
        assert_ne!(bytes(1, 7), bytes(1, 8), "the seed draws rows and columns");
    }

    #[test]
    fn a_saved_model_forecasts_the_same() {
        let frame = frame_of(&panel(3, 400), &FeaturesParams::new(14));
        let fitted = fit(&frame, small(), 7);
        let bytes = fitted.save().expect("bytes");
        let window = ForecastWindow::new(&frame, origin(), 14);
        let loaded = Gbdt::new(GbdtOptions::default()).load(&bytes).expect("loaded");
        assert_eq!(loaded.forecast(&window).expect("points"), fitted.forecast(&window).expect("points"));
        assert!(Gbdt::new(small()).load(&bytes[..bytes.len() / 2]).is_err(), "cut off");
        assert!(Gbdt::new(small()).load(b"{}").is_err(), "something else");
        let other = frame_of(&panel(3, 400), &FeaturesParams { calendar: false, ..FeaturesParams::new(14) });
        assert!(fitted.forecast(&ForecastWindow::new(&other, origin(), 14)).is_err(), "other features");
    }

    #[test]
    fn a_cancel_stops_the_rounds_within_a_second() {
        let frame = frame_of(&panel(6, 400), &FeaturesParams::new(14));
        let cancel = CancellationToken::new();
        let options = GbdtOptions { rounds: 100_000, ..small() };
        let (error, waited) = std::thread::scope(|scope| {
            let fitting = scope.spawn(|| {
                let error = Gbdt::new(options).fit(&TrainingSlice::new(&frame, origin()), 7, &cancel).err();
                (error, Instant::now())
            });
            // Long enough that rounds have begun; the assertion below does not hang on it.
            std::thread::sleep(Duration::from_millis(200));
            let canceled_at = Instant::now();
            cancel.cancel();
            let (error, ended_at) = fitting.join().expect("no panic");
            (error, ended_at.duration_since(canceled_at))
        });
        assert!(matches!(error, Some(ModelError::Canceled)));
        assert!(waited < Duration::from_secs(1), "{waited:?}");
    }

    #[test]
    fn auto_takes_tweedie_where_zeros_are_many() {
        let gbdt = Gbdt::new(GbdtOptions::default());
        assert_eq!(gbdt.objective(&[1.0, 2.0, 3.0, 4.0, 0.0]), GbdtObjective::LogL2);
        assert_eq!(gbdt.objective(&[1.0, 0.0, 0.0, 4.0, 0.0]), GbdtObjective::Tweedie);
        let fixed = Gbdt::new(GbdtOptions { objective: GbdtObjective::LogL2, ..GbdtOptions::default() });
        assert_eq!(fixed.objective(&[0.0]), GbdtObjective::LogL2);
    }

    #[test]
    fn nothing_to_learn_from_is_said() {
        let frame = frame_of(&panel(1, 60), &FeaturesParams::new(14));
        let slice = TrainingSlice::new(&frame, Origin::from_days(FIRST_DAY - 1));
        let error = Gbdt::new(small()).fit(&slice, 7, &CancellationToken::new()).err();
        assert!(matches!(error, Some(ModelError::NoRows { .. })));
    }
}
