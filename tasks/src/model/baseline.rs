//! Forecasts without features: the last value, last week's value, the mean of the last same weekdays.
//!
//! One rule with two sizes: the mean of the last `count` known values at the same place of a season.
//! Season 1, count 1 is `naive`; season of the frequency, count 1 is `seasonal_naive`; count 4 is
//! `weekday_mean`. They need no tuning and never fail, so they are the fallback and the floor that
//! every other model has to beat (Hyndman & Athanasopoulos, Forecasting: Principles and Practice,
//! 5.2).

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::model::{FeatureImportance, FittedModel, ForecastWindow, Forecaster, ModelError, TrainingSlice};

/// Hyperparameters of `weekday_mean`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct WeekdayMeanOptions {
    /// How many past values of the same weekday are averaged.
    #[schemars(range(min = 1, max = 104))]
    pub count: u32,
}

impl Default for WeekdayMeanOptions {
    /// Four: a month of weeks, short enough to follow the season of the year.
    fn default() -> Self {
        Self { count: 4 }
    }
}

/// The rule, not yet fitted.
pub(super) struct SeasonMean {
    /// `None`: the season of the panel's frequency.
    season: Option<u32>,
    count: u32,
}

impl SeasonMean {
    /// Repeats the last known value.
    pub(super) fn naive() -> Self {
        Self { season: Some(1), count: 1 }
    }

    /// Averages the last `count` known values at the same place of the season.
    pub(super) fn seasonal(count: u32) -> Self {
        Self { season: None, count }
    }
}

/// What is kept of each series; the whole of `model.bin`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SeasonProfiles {
    format_version: u32,
    season: u32,
    step_days: i32,
    count: u32,
    /// Per series: the mean at each place of the season; `None` where no value was ever known.
    series: BTreeMap<String, Vec<Option<f64>>>,
}

const FORMAT_VERSION: u32 = 1;
const KIND: &str = "baseline";

impl Forecaster for SeasonMean {
    fn fit(
        &self,
        slice: &TrainingSlice<'_>,
        _seed: u64,
        cancel: &CancellationToken,
    ) -> Result<Box<dyn FittedModel>, ModelError> {
        let document = slice.document();
        let mut fitted = SeasonProfiles {
            format_version: FORMAT_VERSION,
            season: self.season.unwrap_or(document.season),
            step_days: document.frequency.step_days(),
            count: self.count,
            series: BTreeMap::new(),
        };
        for (index, name) in slice.series() {
            if cancel.is_cancelled() {
                return Err(ModelError::Canceled);
            }
            let (times, demand) = slice.history(index);
            let profile = fitted.profile(times, demand);
            fitted.series.insert(name.to_owned(), profile);
        }
        Ok(Box::new(fitted))
    }

    fn load(&self, bytes: &[u8]) -> Result<Box<dyn FittedModel>, ModelError> {
        let fitted: SeasonProfiles = serde_json::from_slice(bytes).map_err(format_error)?;
        if fitted.format_version != FORMAT_VERSION || fitted.season == 0 || fitted.step_days < 1 {
            return Err(format_error(format!("format version {}", fitted.format_version)));
        }
        Ok(Box::new(fitted))
    }
}

impl SeasonProfiles {
    fn place(&self, time: i32) -> usize {
        let period = time.div_euclid(self.step_days);
        usize::try_from(period.rem_euclid(self.season.cast_signed())).expect("a remainder is not negative")
    }

    /// The mean of the last `count` known values at each place, newest first.
    fn profile(&self, times: &[i32], demand: &[f64]) -> Vec<Option<f64>> {
        let mut sums = vec![(0.0, 0_u32); self.season as usize];
        let mut open = sums.len();
        for (time, value) in times.iter().zip(demand).rev() {
            let (sum, known) = &mut sums[self.place(*time)];
            if value.is_nan() || *known == self.count {
                continue;
            }
            *sum += value;
            *known += 1;
            open -= usize::from(*known == self.count);
            if open == 0 {
                break;
            }
        }
        sums.into_iter().map(|(sum, known)| (known > 0).then(|| sum / f64::from(known))).collect()
    }
}

/// The mean of what is known, for a place of the season that is not; 0 for a series never seen.
fn level(profile: &[Option<f64>]) -> f64 {
    let known: Vec<f64> = profile.iter().flatten().copied().collect();
    if known.is_empty() { 0.0 } else { known.iter().sum::<f64>() / known.len() as f64 }
}

impl FittedModel for SeasonProfiles {
    fn forecast(&self, window: &ForecastWindow<'_>) -> Result<Vec<f64>, ModelError> {
        let mut points = Vec::with_capacity(window.len());
        for (_, name, rows) in window.series() {
            let profile = self.series.get(name).map_or(&[][..], Vec::as_slice);
            let level = level(profile);
            points.extend(rows.map(|row| {
                let known = profile.get(self.place(window.time(row))).copied().flatten();
                if window.closed(row) { 0.0 } else { known.unwrap_or(level).max(0.0) }
            }));
        }
        Ok(points)
    }

    fn explain(&self) -> Vec<FeatureImportance> {
        Vec::new()
    }

    fn save(&self) -> Result<Vec<u8>, ModelError> {
        serde_json::to_vec(self).map_err(format_error)
    }

    fn decisions(&self) -> Value {
        json!({ "season": self.season, "count": self.count })
    }
}

fn format_error(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> ModelError {
    ModelError::Format { kind: KIND, source: source.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::fixture::{FIRST_DAY, frame_of, panel};
    use crate::features::{FeatureFrame, FeaturesParams};
    use crate::model::{ModelSpec, Origin, forecaster};

    const NAN: f64 = f64::NAN;

    /// One series, never closed, with these values from a Monday on; then 14 days to forecast.
    fn frame(known: &[f64]) -> FeatureFrame {
        let mut panel = panel(1, i32::try_from(known.len()).expect("a few days") + 14);
        panel.closed.fill(false);
        for (row, value) in panel.demand.iter_mut().enumerate() {
            *value = known.get(row).copied().unwrap_or(1e9);
        }
        frame_of(&panel, &FeaturesParams::new(14))
    }

    fn forecast(spec: &ModelSpec, frame: &FeatureFrame, known: usize) -> Vec<f64> {
        let origin = Origin::from_days(FIRST_DAY + known as i32 - 1);
        let slice = TrainingSlice::new(frame, origin);
        let fitted = forecaster(spec).fit(&slice, 1, &CancellationToken::new()).expect("fitted");
        let window = ForecastWindow::new(frame, origin, 14);
        let points = fitted.forecast(&window).expect("a forecast");
        let loaded = forecaster(spec).load(&fitted.save().expect("bytes")).expect("loaded");
        assert_eq!(loaded.forecast(&window).expect("a forecast"), points, "the saved model is the model");
        points
    }

    #[test]
    fn seasonal_naive_repeats_the_last_week_for_all_steps() {
        let known = [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        let week = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(forecast(&ModelSpec::SeasonalNaive, &frame(&known), 14), [week, week].concat());
    }

    #[test]
    fn an_unknown_day_takes_the_value_of_the_week_before() {
        let known = [9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 9.0, 1.0, NAN, 3.0, 4.0, 5.0, 6.0, 7.0];
        assert_eq!(forecast(&ModelSpec::SeasonalNaive, &frame(&known), 14)[1], 9.0);
        let short = [2.0, 4.0, NAN, 6.0];
        let points = forecast(&ModelSpec::SeasonalNaive, &frame(&short), 4);
        assert_eq!(points[..7], [4.0, 4.0, 4.0, 2.0, 4.0, 4.0, 6.0], "never known: the mean of what is, 4");
    }

    #[test]
    fn weekday_mean_averages_the_last_known_same_weekdays() {
        let mut known: Vec<f64> = (0..42).map(f64::from).collect();
        known[35] = NAN;
        let points = forecast(&ModelSpec::WeekdayMean(WeekdayMeanOptions::default()), &frame(&known), 42);
        assert_eq!(points[0], (28.0 + 21.0 + 14.0 + 7.0) / 4.0, "Monday of the last week is unknown");
        assert_eq!(points[1], (36.0 + 29.0 + 22.0 + 15.0) / 4.0);
        assert_eq!(points[7], points[0]);
    }

    #[test]
    fn naive_repeats_the_last_known_value() {
        assert_eq!(forecast(&ModelSpec::Naive, &frame(&[5.0, 8.0, NAN]), 3), [8.0; 14]);
    }

    #[test]
    fn nothing_known_is_nothing_sold_and_closed_days_sell_nothing() {
        assert_eq!(forecast(&ModelSpec::SeasonalNaive, &frame(&[NAN, NAN]), 2), [0.0; 14]);
        let panel = panel(1, 60);
        let frame = frame_of(&panel, &FeaturesParams::new(14));
        let points = forecast(&ModelSpec::SeasonalNaive, &frame, 46);
        let closed: Vec<bool> = points.iter().map(|point| *point == 0.0).collect();
        assert_eq!(closed, panel.closed[46..60], "the fixture sells every day but Sundays");
    }

    #[test]
    fn other_bytes_are_refused() {
        assert!(forecaster(&ModelSpec::Naive).load(b"{}").is_err());
    }
}
