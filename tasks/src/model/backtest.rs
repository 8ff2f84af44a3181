//! Rolling-origin backtests: fit at each origin on what it had seen, forecast the window after it.
//!
//! `train` calls it for its own model, `evaluate` for a champion's recipe at the same origins. The
//! result is `backtest.parquet`; nothing is judged here.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Builder, Float64Builder, Int32Builder, RecordBatch, StringBuilder};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use engine::task::{ErrorClass, TaskError};
use tokio_util::sync::CancellationToken;

use crate::features::FeatureFrame;
use crate::model::{ForecastWindow, ModelError, Origin, Recipe, TrainingSlice, forecaster};

/// The columns of `backtest.parquet`, sorted by origin, series, time.
///
/// `model`, `origin` (last day the model saw), `series`, `time`, `step` (1 = the period after the
/// origin), `actual` (null = unknown; 0 on closed days), `point`, `train_scale` (mean absolute
/// seasonal-naive error of the series up to the origin, the denominator of MASE after Hyndman &
/// Koehler 2006; null where undefined or 0).
pub fn backtest_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("model", DataType::Utf8, false),
        Field::new("origin", DataType::Date32, false),
        Field::new("series", DataType::Utf8, false),
        Field::new("time", DataType::Date32, false),
        Field::new("step", DataType::Int32, false),
        Field::new("actual", DataType::Float64, true),
        Field::new("point", DataType::Float64, false),
        Field::new("train_scale", DataType::Float64, true),
    ]))
}

/// Fits `recipe` at each of `origins` and forecasts its horizon; blocks, and uses all cores.
///
/// # Errors
/// [`TaskError::Canceled`] within a second of the cancel; permanent (model), if the recipe does not
/// fit the features or an origin has nothing to learn from.
pub fn backtest_recipe(
    recipe: &Recipe,
    features: &FeatureFrame,
    origins: &[Origin],
    seed: u64,
    cancel: &CancellationToken,
) -> Result<RecordBatch, TaskError> {
    check_recipe(recipe, features)?;
    let mut rows = BacktestRows { model: recipe.spec.kind().as_str(), ..BacktestRows::default() };
    for origin in origins {
        let slice = TrainingSlice::new(features, *origin);
        let window = ForecastWindow::new(features, *origin, recipe.horizon);
        let fitted = forecaster(&recipe.spec).fit(&slice, seed, cancel)?;
        let points = fitted.forecast(&window)?;
        rows.append(features, &slice, &window, &points);
    }
    rows.finish()
}

/// Refuses features that were made for other steps ahead or by other rules.
pub(crate) fn check_recipe(recipe: &Recipe, features: &FeatureFrame) -> Result<(), ModelError> {
    let document = features.document();
    if recipe.horizon == 0 || recipe.horizon > document.horizon {
        return Err(ModelError::Mismatch(format!(
            "the model forecasts {} periods, but the features were made for {}: set the same `horizon` on both tasks",
            recipe.horizon, document.horizon
        )));
    }
    if recipe.features_digest != document.spec_digest {
        return Err(ModelError::Mismatch(
            "the recipe was written for features of other rules; its model can not be fitted on these".to_owned(),
        ));
    }
    Ok(())
}

/// `backtest.parquet` under construction.
#[derive(Default)]
struct BacktestRows {
    model: &'static str,
    models: StringBuilder,
    origins: Date32Builder,
    series: StringBuilder,
    times: Date32Builder,
    steps: Int32Builder,
    actuals: Float64Builder,
    points: Float64Builder,
    scales: Float64Builder,
}

impl BacktestRows {
    fn append(
        &mut self,
        features: &FeatureFrame,
        slice: &TrainingSlice<'_>,
        window: &ForecastWindow<'_>,
        points: &[f64],
    ) {
        let document = features.document();
        let (origin, step_days) = (slice.origin().days(), document.frequency.step_days());
        let mut points = points.iter();
        for (index, name, rows) in window.series() {
            let scale = train_scale(slice.history(index).1, document.season as usize);
            for (row, point) in rows.zip(&mut points) {
                self.models.append_value(self.model);
                self.origins.append_value(origin);
                self.series.append_value(name);
                self.times.append_value(window.time(row));
                self.steps.append_value((window.time(row) - origin) / step_days);
                self.actuals.append_option(actual(features, row));
                self.points.append_value(*point);
                self.scales.append_option(scale);
            }
        }
    }

    fn finish(mut self) -> Result<RecordBatch, TaskError> {
        let columns: Vec<ArrayRef> = vec![
            Arc::new(self.models.finish()),
            Arc::new(self.origins.finish()),
            Arc::new(self.series.finish()),
            Arc::new(self.times.finish()),
            Arc::new(self.steps.finish()),
            Arc::new(self.actuals.finish()),
            Arc::new(self.points.finish()),
            Arc::new(self.scales.finish()),
        ];
        RecordBatch::try_new(backtest_schema(), columns)
            .map_err(|source| TaskError::permanent_from(ErrorClass::System, "a backtest is not a table", source))
    }
}

/// Demand of the row; 0 where it was closed, whatever the panel says, since nothing can be sold then.
fn actual(features: &FeatureFrame, row: usize) -> Option<f64> {
    let demand = features.demand()[row];
    if features.closed()[row] { Some(0.0) } else { (!demand.is_nan()).then_some(demand) }
}

/// Mean |y(t) - y(t - season)| over all t at which both are known; `None` without a pair, or if it is 0.
fn train_scale(demand: &[f64], season: usize) -> Option<f64> {
    let errors = demand.iter().skip(season).zip(demand).map(|(now, before)| (now - before).abs());
    let (sum, pairs) =
        errors.filter(|error| !error.is_nan()).fold((0.0, 0_u32), |(sum, pairs), error| (sum + error, pairs + 1));
    (pairs > 0 && sum > 0.0).then(|| sum / f64::from(pairs))
}
