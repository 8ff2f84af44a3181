//! What a model may see: the past up to an origin, and the keys and features of the window after it.
//!
//! A model gets its data only through these two views. Neither hands out demand after the origin,
//! so a model that looks ahead does not compile. Built by `backtest` and by the final fit.

use std::ops::Range;

use chrono::{Days, NaiveDate};
use serde::{Deserialize, Serialize};

use crate::features::{FeatureFrame, FeaturesDocument};

/// The last period that a model has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Origin(pub NaiveDate);

impl Origin {
    /// Days since 1970-01-01.
    pub fn days(self) -> i32 {
        i32::try_from(self.0.signed_duration_since(NaiveDate::default()).num_days())
            .expect("a chrono date is within 2^31 days of 1970")
    }

    /// The origin that many days after 1970-01-01.
    pub fn from_days(days: i32) -> Self {
        let epoch = NaiveDate::default();
        let shifted = match u64::try_from(days) {
            Ok(forward) => epoch.checked_add_days(Days::new(forward)),
            Err(_) => epoch.checked_sub_days(Days::new(u64::from(days.unsigned_abs()))),
        };
        Self(shifted.unwrap_or(epoch))
    }

    /// The last `windows` origins whose windows of one horizon follow each other without overlap and
    /// end where the known demand ends: `last_time - horizon * k`, for `k = windows..=1`.
    pub fn last(document: &FeaturesDocument, windows: u32, horizon: u32) -> Vec<Self> {
        let span = horizon.cast_signed() * document.frequency.step_days();
        let last = Self(document.last_time).days();
        (1..=windows.cast_signed()).rev().map(|k| Self::from_days(last - span * k)).collect()
    }
}

/// The rows up to an origin, with their demand.
#[derive(Debug, Clone, Copy)]
pub struct TrainingSlice<'a> {
    frame: &'a FeatureFrame,
    origin: Origin,
}

impl<'a> TrainingSlice<'a> {
    /// All rows of `frame` up to and with `origin`.
    pub fn new(frame: &'a FeatureFrame, origin: Origin) -> Self {
        Self { frame, origin }
    }

    /// The last period in it.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// What the features are.
    pub fn document(&self) -> &'a FeaturesDocument {
        self.frame.document()
    }

    /// Features of all rows, for a booster that reads [`Self::known_rows`] of them in place.
    pub fn frame_values(&self) -> (&'a std::sync::Arc<Vec<f32>>, usize) {
        (self.frame.values(), self.frame.width())
    }

    /// Series by index and name, sorted by name.
    pub fn series(&self) -> impl Iterator<Item = (usize, &'a str)> {
        self.frame.series().iter().map(String::as_str).enumerate()
    }

    /// Times (days since 1970-01-01) and demand (NaN = unknown) of one series up to the origin.
    pub fn history(&self, series: usize) -> (&'a [i32], &'a [f64]) {
        let rows = self.frame.rows_between(series, i32::MIN, self.origin.days());
        (&self.frame.times()[rows.clone()], &self.frame.demand()[rows])
    }

    /// Rows up to the origin on which something could be sold and its amount is known.
    pub fn known_rows(&self) -> Vec<usize> {
        let (demand, closed) = (self.frame.demand(), self.frame.closed());
        (0..self.frame.series().len())
            .flat_map(|series| self.frame.rows_between(series, i32::MIN, self.origin.days()))
            .filter(|row| !demand[*row].is_nan() && !closed[*row])
            .collect()
    }

    /// Demand of a row of [`Self::known_rows`].
    pub fn demand(&self, row: usize) -> f64 {
        debug_assert!(self.frame.times()[row] <= self.origin.days(), "a row after the origin");
        self.frame.demand()[row]
    }

    /// Features of one row up to the origin.
    pub fn features(&self, row: usize) -> &'a [f32] {
        self.frame.row(row)
    }
}

/// The rows of the horizon after an origin, without their demand.
#[derive(Debug, Clone)]
pub struct ForecastWindow<'a> {
    frame: &'a FeatureFrame,
    /// Series index and its rows in the window; series without one are left out.
    parts: Vec<(usize, Range<usize>)>,
}

impl<'a> ForecastWindow<'a> {
    /// The `horizon` periods after `origin` of each series that has begun by then: nobody could have
    /// asked for the others.
    pub fn new(frame: &'a FeatureFrame, origin: Origin, horizon: u32) -> Self {
        let until = origin.days() + horizon.cast_signed() * frame.document().frequency.step_days();
        let has_begun = |series: &usize| frame.times()[frame.rows_of(*series).start] <= origin.days();
        let parts = (0..frame.series().len())
            .filter(has_begun)
            .map(|series| (series, frame.rows_between(series, origin.days(), until)))
            .filter(|(_, rows)| !rows.is_empty())
            .collect();
        Self { frame, parts }
    }

    /// What the features are.
    pub fn document(&self) -> &'a FeaturesDocument {
        self.frame.document()
    }

    /// Rows in the window.
    pub fn len(&self) -> usize {
        self.parts.iter().map(|(_, rows)| rows.len()).sum()
    }

    /// Whether no series has a row in the window.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Series (index and name) and their rows, sorted by name.
    pub fn series(&self) -> impl Iterator<Item = (usize, &'a str, Range<usize>)> {
        self.parts.iter().map(|(series, rows)| (*series, self.frame.series()[*series].as_str(), rows.clone()))
    }

    /// Rows, by series, then time: the order of every forecast.
    pub fn rows(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().flat_map(|(_, rows)| rows.clone())
    }

    /// Days since 1970-01-01.
    pub fn time(&self, row: usize) -> i32 {
        self.frame.times()[row]
    }

    /// Whether nothing can be sold on that row.
    pub fn closed(&self, row: usize) -> bool {
        self.frame.closed()[row]
    }

    /// Features of consecutive rows, row-major.
    pub fn features(&self, rows: Range<usize>) -> &'a [f32] {
        let width = self.frame.width();
        &self.frame.values()[rows.start * width..rows.end * width]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::FeaturesParams;
    use crate::features::fixture::{FIRST_DAY, frame_of, panel};

    #[test]
    fn origins_follow_each_other_and_end_a_horizon_before_the_data_does() {
        let frame = frame_of(&panel(1, 100), &FeaturesParams::new(14));
        let origins = Origin::last(frame.document(), 3, 14);
        let days: Vec<i32> = origins.iter().map(|origin| origin.days() - FIRST_DAY).collect();
        assert_eq!(days, [99 - 42, 99 - 28, 99 - 14]);
        assert_eq!(Origin::from_days(-1).0.to_string(), "1969-12-31");
        assert_eq!(Origin::from_days(FIRST_DAY).days(), FIRST_DAY);
    }

    #[test]
    fn a_slice_ends_at_its_origin_and_its_window_begins_after_it() {
        let frame = frame_of(&panel(3, 100), &FeaturesParams::new(14));
        let origin = Origin::from_days(FIRST_DAY + 80);
        let slice = TrainingSlice::new(&frame, origin);
        let rows = slice.known_rows();
        assert!(rows.iter().all(|row| frame.times()[*row] <= origin.days()));
        assert!(rows.iter().all(|row| !frame.closed()[*row] && !frame.demand()[*row].is_nan()));
        assert_eq!(slice.history(0).0.len(), 81);
        assert_eq!(slice.history(2).0.len(), 41, "begins 40 days late");
        let window = ForecastWindow::new(&frame, origin, 14);
        let times: Vec<i32> = window.rows().map(|row| window.time(row)).collect();
        let expected: Vec<i32> = (1..=14).map(|step| origin.days() + step).collect();
        assert_eq!((window.len(), times), (42, expected.repeat(3)));
        let early = ForecastWindow::new(&frame, Origin::from_days(FIRST_DAY + 39), 14);
        let series: Vec<usize> = early.series().map(|(series, _, _)| series).collect();
        assert_eq!(series, [0, 1], "the third begins on the day after the origin");
        let beyond = ForecastWindow::new(&frame, Origin::from_days(FIRST_DAY + 99), 14);
        assert!(beyond.is_empty());
    }
}
