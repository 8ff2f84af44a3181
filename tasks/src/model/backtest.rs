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

#[cfg(test)]
mod tests {
    use arrow::array::AsArray;
    use arrow::datatypes::{Date32Type, Float64Type, Int32Type};

    use super::*;
    use crate::features::FeaturesParams;
    use crate::features::fixture::{FIRST_DAY, frame_of, panel};
    use crate::model::ModelSpec;

    fn recipe(frame: &FeatureFrame, spec: ModelSpec) -> Recipe {
        Recipe { spec, horizon: 14, features_digest: frame.document().spec_digest }
    }

    #[test]
    fn every_window_is_forecast_from_its_own_past() {
        let frame = frame_of(&panel(2, 120), &FeaturesParams::new(14));
        let origins = Origin::last(frame.document(), 2, 14);
        let recipe = recipe(&frame, ModelSpec::SeasonalNaive);
        let rows = backtest_recipe(&recipe, &frame, &origins, 1, &CancellationToken::new()).expect("a backtest");
        assert_eq!((rows.num_rows(), rows.schema()), (2 * 2 * 14, backtest_schema()));
        let at = |row: usize| {
            (
                rows["origin"].as_primitive::<Date32Type>().value(row) - FIRST_DAY,
                rows["time"].as_primitive::<Date32Type>().value(row) - FIRST_DAY,
                rows["step"].as_primitive::<Int32Type>().value(row),
                rows["series"].as_string::<i32>().value(row).to_owned(),
            )
        };
        assert_eq!(at(0), (91, 92, 1, "s000".to_owned()));
        assert_eq!(at(14), (91, 92, 1, "s001".to_owned()));
        assert_eq!(at(55), (105, 119, 14, "s001".to_owned()));
        // 2022-04-10, day 97, is a Sunday: closed, so nothing sold and nothing forecast.
        let (actual, point) =
            (rows["actual"].as_primitive::<Float64Type>(), rows["point"].as_primitive::<Float64Type>());
        assert_eq!((actual.value(5), point.value(5)), (0.0, 0.0));
        // The first open day repeats the same weekday of the last week that the origin had seen.
        assert_eq!(point.value(0), frame.demand()[92 - 7]);
        assert_eq!(actual.value(0), frame.demand()[92]);
    }

    #[test]
    fn the_scale_is_the_mean_error_of_last_weeks_values() {
        let week = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, f64::NAN];
        let next = [2.0, 2.0, 6.0, f64::NAN, 5.0, 6.0, 7.0];
        let demand = [week, next].concat();
        assert_eq!(train_scale(&demand, 7), Some((1.0 + 0.0 + 3.0 + 0.0 + 0.0) / 5.0));
        assert_eq!(train_scale(&[1.0; 14], 7), None, "0 can not divide");
        assert_eq!(train_scale(&[1.0; 7], 7), None, "no pair");
    }

    #[test]
    fn a_recipe_of_other_features_is_refused() {
        let frame = frame_of(&panel(1, 120), &FeaturesParams::new(14));
        let origins = Origin::last(frame.document(), 1, 14);
        let backtest = |recipe: &Recipe| {
            backtest_recipe(recipe, &frame, &origins, 1, &CancellationToken::new()).expect_err("refused").to_string()
        };
        let longer = Recipe { horizon: 15, ..recipe(&frame, ModelSpec::Naive) };
        assert!(backtest(&longer).contains("made for 14"));
        let other = frame_of(&panel(1, 120), &FeaturesParams::new(15));
        assert!(backtest(&recipe(&other, ModelSpec::Naive)).contains("other rules"));
    }

    #[test]
    fn recipes_survive_json_and_differ_by_digest() {
        let frame = frame_of(&panel(1, 60), &FeaturesParams::new(14));
        let gbdt = recipe(&frame, ModelSpec::Gbdt(crate::model::GbdtOptions::default()));
        let text = serde_json::to_string(&gbdt).expect("JSON");
        let read: Recipe = serde_json::from_str(&text).expect("a recipe");
        assert_eq!(read, gbdt);
        assert_eq!(read.digest().expect("a digest"), gbdt.digest().expect("a digest"));
        let naive = recipe(&frame, ModelSpec::Naive);
        assert_eq!(
            serde_json::from_str::<Recipe>(&serde_json::to_string(&naive).expect("JSON")).expect("a recipe"),
            naive
        );
        assert_ne!(naive.digest().expect("a digest"), gbdt.digest().expect("a digest"));
    }
}
