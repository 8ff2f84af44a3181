//! The feature pass: every feature of one series, from its own columns alone.
//!
//! [`series_features`] is a pure function of one series' past and its known covariates, so any split
//! of a panel into groups of series gives the same numbers: by core here, by partition in a
//! distributed plan. Rows are periods of the grid. Demand and past-only covariates are read at
//! [`SeriesView::seen`] rows before the horizon, and nowhere else; known_future covariates no later
//! than [`SeriesView::reach`].

use std::ops::Range;

use chrono::{Datelike, NaiveDate};

use crate::features::panel::{Covariate, EPOCH_DAYS_FROM_CE, Panel};
use crate::features::spec::{CalendarPart, Rule, Source, Spec, Statistic};
use crate::features::window::{RecentMean, RunningSums, rolling_extreme};

/// Appends the features of series `index` to `columns`, one vector per feature; NaN = missing.
///
/// `last_known` is the panel's last period with known demand, in days since 1970-01-01.
pub(super) fn series_features(spec: &Spec, panel: &Panel, last_known: i32, index: usize, columns: &mut [Vec<f32>]) {
    let rows = panel.rows_of(index);
    let demand = &panel.demand[rows.clone()];
    let view = SeriesView {
        panel,
        demand,
        horizon: spec.horizon as usize,
        season: spec.season as usize,
        last_known,
        sums: RunningSums::new(demand.iter().copied()),
        rows,
    };
    for (feature, column) in spec.features.iter().zip(columns) {
        view.append(feature.rule, column);
    }
}

struct SeriesView<'a> {
    panel: &'a Panel,
    rows: Range<usize>,
    demand: &'a [f64],
    horizon: usize,
    season: usize,
    last_known: i32,
    sums: RunningSums,
}

impl SeriesView<'_> {
    fn append(&self, rule: Rule, out: &mut Vec<f32>) {
        match rule {
            Rule::Lag(lag) => {
                self.each(out, |row| row.checked_sub(lag as usize).map_or(f64::NAN, |at| self.demand[at]))
            }
            Rule::Rolling(statistic, window) => self.rolling(statistic, window as usize, out),
            Rule::SameSeason(count) => self.same_season(count, out),
            Rule::Expanding => self.each(out, |row| self.sums.window(0, self.seen(row)).mean()),
            Rule::YearAgo { year, half } => self.year_ago(year as usize, half as usize, out),
            Rule::Like { cov, count, season } => self.like(cov, count, season, out),
            Rule::Calendar(part) => self.calendar(part, out),
            Rule::Value { cov, offset } => self.each(out, |row| {
                let position = row.checked_add_signed(offset as isize);
                self.value(cov, position.filter(|position| *position <= self.reach(row).max(row)))
            }),
            Rule::Since { cov, cap } => self.since(cov, cap as usize, out),
            Rule::Until { cov, cap } => self.until(cov, cap as usize, out),
            Rule::Count { cov, periods } => self.count(cov, periods, out),
            Rule::PastValue { cov } => {
                self.each(out, |row| self.value(Source::Covariate(cov), row.checked_sub(self.horizon)));
            }
            Rule::PastMean { cov, window } => {
                let sums = self.covariate_sums(cov);
                self.each(out, |row| self.past_window(&sums, row, window));
            }
            Rule::Relative { cov, window } => {
                let sums = self.covariate_sums(cov);
                let relative = |row| {
                    let mean = self.past_window(&sums, row, window);
                    if mean > 0.0 { self.value(Source::Covariate(cov), Some(row)) / mean } else { f64::NAN }
                };
                self.each(out, relative);
            }
            Rule::Age => self.each(out, |row| row as f64),
        }
    }

    /// How many of the first periods may be seen from `row`: all that end a horizon before it.
    fn seen(&self, row: usize) -> usize {
        (row + 1).saturating_sub(self.horizon)
    }

    /// The last period whose covariates `row` may read: the end of the forecast window that it is in.
    ///
    /// Windows are one horizon long and laid end to end through the last period with known demand, so
    /// a row in training reads as far ahead as its like in a forecast. Were it further, a model would
    /// lean on what the last rows of a forecast do not have.
    fn reach(&self, row: usize) -> usize {
        let step = self.panel.frequency.step_days();
        let after = (self.panel.times[self.rows.start + row] - self.last_known) / step;
        let left = (-after).rem_euclid(self.horizon as i32) as usize;
        (row + left).min(self.demand.len() - 1)
    }

    fn each(&self, out: &mut Vec<f32>, value: impl Fn(usize) -> f64) {
        out.extend((0..self.demand.len()).map(|row| value(row) as f32));
    }

    fn rolling(&self, statistic: Statistic, window: usize, out: &mut Vec<f32>) {
        let at = |row| {
            let end = self.seen(row);
            self.sums.window(end.saturating_sub(window), end)
        };
        let narrow = |value: f64| value as f32;
        match statistic {
            Statistic::Mean => self.each(out, |row| at(row).mean()),
            Statistic::Deviation => self.each(out, |row| at(row).deviation()),
            Statistic::ZeroShare => self.each(out, |row| at(row).zero_share()),
            Statistic::Minimum => {
                out.extend(rolling_extreme(self.demand, self.horizon, window, |a, b| a < b).map(narrow));
            }
            Statistic::Maximum => {
                out.extend(rolling_extreme(self.demand, self.horizon, window, |a, b| a > b).map(narrow));
            }
        }
    }

    fn same_season(&self, count: u32, out: &mut Vec<f32>) {
        self.recent_by(self.season, count, |row| Some(row % self.season), out);
    }

    fn like(&self, cov: Source, count: u32, season: bool, out: &mut Vec<f32>) {
        let places = if season { self.season } else { 1 };
        let key = |row: usize| {
            let value = self.value(cov, Some(row));
            (!value.is_nan()).then(|| (row % places) * 2 + usize::from(value != 0.0))
        };
        self.recent_by(places * 2, count, key, out);
    }

    /// The mean of the last `count` known values whose key is that of the row; NaN for a row without.
    fn recent_by(&self, keys: usize, count: u32, key: impl Fn(usize) -> Option<usize>, out: &mut Vec<f32>) {
        let mut means = vec![RecentMean::new(count); keys];
        for row in 0..self.demand.len() {
            let newest = row.checked_sub(self.horizon);
            if let Some((at, value)) = newest.map(|at| (at, self.demand[at])).filter(|(_, value)| !value.is_nan())
                && let Some(key) = key(at)
            {
                means[key].push(value);
            }
            out.push(key(row).map_or(f32::NAN, |key| means[key].mean() as f32));
        }
    }

    fn year_ago(&self, year: usize, half: usize, out: &mut Vec<f32>) {
        self.each(out, |row| match (row + half + 1).checked_sub(year) {
            Some(end) => self.sums.window(end.saturating_sub(2 * half + 1), end).mean(),
            None => f64::NAN,
        });
    }

    fn calendar(&self, part: CalendarPart, out: &mut Vec<f32>) {
        let times = &self.panel.times[self.rows.clone()];
        self.each(out, |row| {
            let Some(date) = NaiveDate::from_num_days_from_ce_opt(times[row] + EPOCH_DAYS_FROM_CE) else {
                return f64::NAN;
            };
            f64::from(match part {
                CalendarPart::Weekday => date.weekday().num_days_from_monday(),
                CalendarPart::DayOfMonth => date.day(),
                CalendarPart::Month => date.month(),
                CalendarPart::Week => date.iso_week().week(),
                CalendarPart::DayOfYear => date.ordinal(),
            })
        });
    }

    fn covariate(&self, at: usize) -> (&Covariate, &[f32]) {
        let covariate = &self.panel.covariates[at];
        (covariate, &covariate.values[self.rows.clone()])
    }

    /// The value at a position; NaN beyond the series' ends.
    fn value(&self, source: Source, position: Option<usize>) -> f64 {
        let Some(position) = position.filter(|position| *position < self.demand.len()) else { return f64::NAN };
        match source {
            Source::Closed => f64::from(u8::from(self.panel.closed[self.rows.start + position])),
            Source::Covariate(at) => f64::from(self.covariate(at).1[position]),
        }
    }

    /// Whether something is on: a flag is set, a text is not the usual one. Unknown is not on.
    fn is_on(&self, source: Source, position: usize) -> bool {
        let value = self.value(source, Some(position));
        match source {
            Source::Closed => value != 0.0,
            Source::Covariate(at) => !value.is_nan() && value != f64::from(self.panel.covariates[at].usual),
        }
    }

    fn since(&self, cov: Source, cap: usize, out: &mut Vec<f32>) {
        let mut last = None;
        for row in 0..self.demand.len() {
            out.push(match last {
                Some(last) => cap.min(row - last) as f32,
                None if row >= cap => cap as f32,
                None => f32::NAN,
            });
            if self.is_on(cov, row) {
                last = Some(row);
            }
        }
    }

    fn until(&self, cov: Source, cap: usize, out: &mut Vec<f32>) {
        let (start, length) = (out.len(), self.demand.len());
        out.resize(start + length, f32::NAN);
        let mut next: Option<usize> = None;
        for row in (0..length).rev() {
            let reach = self.reach(row);
            out[start + row] = match next {
                Some(next) if next <= reach.min(row + cap) => (next - row) as f32,
                _ if row + cap <= reach => (cap + 1) as f32,
                _ => f32::NAN,
            };
            if self.is_on(cov, row) {
                next = Some(row);
            }
        }
    }

    fn count(&self, cov: Source, periods: i32, out: &mut Vec<f32>) {
        let length = self.demand.len();
        let on = RunningSums::new((0..length).map(|row| f64::from(u8::from(self.is_on(cov, row)))));
        let size = periods.unsigned_abs() as usize;
        self.each(out, |row| match periods < 0 {
            true => on.window(row.saturating_sub(size), row).total,
            false if row + size <= self.reach(row) => on.window(row + 1, row + size + 1).total,
            false => f64::NAN,
        });
    }

    fn covariate_sums(&self, at: usize) -> RunningSums {
        RunningSums::new(self.covariate(at).1.iter().map(|value| f64::from(*value)))
    }

    fn past_window(&self, sums: &RunningSums, row: usize, window: u32) -> f64 {
        let end = self.seen(row);
        sums.window(end.saturating_sub(window as usize), end).mean()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::features::fixture::{frame_of, panel};
    use crate::features::panel::Role;
    use crate::features::{FeatureFrame, FeaturesParams};

    const HORIZON: u32 = 14;

    /// The panel as it looked at the end of `origin`: later demand and past-only values unknown.
    fn cut(panel: &Panel, origin: i32) -> Panel {
        let mut cut = panel.clone();
        let future: Vec<usize> = (0..cut.times.len()).filter(|row| cut.times[*row] > origin).collect();
        for row in future {
            cut.demand[row] = f64::NAN;
            for covariate in cut.covariates.iter_mut().filter(|covariate| covariate.role == Role::PastOnly) {
                covariate.values[row] = f32::NAN;
            }
        }
        cut
    }

    fn bits(frame: &FeatureFrame, row: usize) -> Vec<u32> {
        frame.row(row).iter().map(|value| value.to_bits()).collect()
    }

    #[test]
    fn no_feature_reads_what_its_origin_could_not_know() {
        let panel = panel(4, 500);
        let params = FeaturesParams::new(HORIZON);
        let full = frame_of(&panel, &params);
        let last = panel.times[panel.times.len() - 1];
        // Whole windows back: the windows of look-ahead are counted from the last known demand.
        for origin in [last - 14, last - 28, last - 98, last - 336] {
            let past = frame_of(&cut(&panel, origin), &params);
            let mut differs_later = false;
            for row in 0..full.rows() {
                let same = bits(&full, row) == bits(&past, row);
                if full.times()[row] <= origin + HORIZON.cast_signed() {
                    assert!(same, "row {row} reads beyond its origin:\n{:?}\n{:?}", full.row(row), past.row(row));
                } else {
                    differs_later |= !same;
                }
            }
            // Otherwise the comparison above compares nothing that hangs on demand.
            assert!(differs_later || origin == last - 14, "rows beyond the horizon see the cut");
        }
    }

    #[test]
    fn every_feature_of_the_fixture_says_something() {
        let frame = frame_of(&panel(4, 500), &FeaturesParams::new(HORIZON));
        let names: std::collections::BTreeSet<_> = frame.document().columns.iter().map(|it| &it.name).collect();
        assert_eq!(names.len(), frame.width(), "no name twice");
        for (at, column) in frame.document().columns.iter().enumerate() {
            let mut values: Vec<f32> = (0..frame.rows()).map(|row| frame.row(row)[at]).collect();
            values.retain(|value| !value.is_nan());
            values.sort_by(f32::total_cmp);
            values.dedup();
            let constant = ["zero_share_28", "closed_before_7", "closed_after_7"].contains(&column.name.as_str());
            assert!(constant || values.len() > 1, "{} is always {values:?}", column.name);
        }
    }

    /// One series whose demand is its day: 0, 1, 2 ..., never closed, promotion on odd days.
    fn counting(days: i32) -> FeatureFrame {
        let mut panel = panel(1, days);
        for row in 0..panel.demand.len() {
            panel.demand[row] = row as f64;
            panel.closed[row] = false;
            panel.covariates[0].values[row] = (row % 2) as f32;
            panel.covariates[3].values[row] = row as f32;
        }
        frame_of(&panel, &FeaturesParams { lags: Some(vec![14, 21]), ..FeaturesParams::new(HORIZON) })
    }

    fn value(frame: &FeatureFrame, row: usize, name: &str) -> f32 {
        let at = frame.document().columns.iter().position(|column| column.name == name);
        frame.row(row)[at.unwrap_or_else(|| panic!("no feature {name}"))]
    }

    #[test]
    fn features_equal_hand_computed_values() {
        let frame = counting(450);
        // At row 400 the newest known demand is day 386.
        let expected = [
            ("lag_14", 386.0),
            ("lag_21", 379.0),
            ("mean_7", 383.0),
            ("mean_28", 372.5),
            ("min_28", 359.0),
            ("max_28", 386.0),
            ("std_28", 8.225_975),
            ("zero_share_28", 0.0),
            ("same_weekday_4", (386.0 + 379.0 + 372.0 + 365.0) / 4.0),
            ("expanding_mean", 193.0),
            ("year_ago_mean", 36.0),
            ("age", 400.0),
            // Row 400 is even, so without promotion: days 386, 384 ... 0.
            ("like_promo", 193.0),
            // Same weekday and even: every 14 days from 386.
            ("like_promo_weekday_recent", 386.0 - 14.0 * 5.5),
            ("promo", 0.0),
            ("promo_before", 1.0),
            ("promo_next", 1.0),
            ("since_promo", 1.0),
            ("until_promo", 1.0),
            ("visitors_past", 386.0),
            ("visitors_past_mean", 372.5),
            // 2022-01-03 + 400 days = 2023-02-07, a Tuesday of ISO week 6.
            ("weekday", 1.0),
            ("day_of_month", 7.0),
            ("month", 2.0),
            ("week", 6.0),
            ("day_of_year", 38.0),
        ];
        for (name, expected) in expected {
            let found = value(&frame, 400, name);
            assert!((found - expected).abs() < 1e-4, "{name}: {found}, not {expected}");
        }
    }

    #[test]
    fn nothing_is_made_up_where_nothing_is_known() {
        let frame = counting(100);
        for name in ["lag_14", "mean_7", "std_28", "min_28", "same_weekday_4", "expanding_mean", "visitors_past"] {
            assert!(value(&frame, 13, name).is_nan(), "{name} at row 13 would need demand before the first day");
        }
        assert_eq!(value(&frame, 14, "mean_7"), 0.0, "row 14 sees day 0");
        assert!(value(&frame, 99, "promo_next").is_nan(), "the day after the last is not known");
        assert!(value(&frame, 99, "until_promo").is_nan());
    }

    #[test]
    fn covariates_are_read_to_the_end_of_the_forecast_window() {
        let mut panel = panel(1, 200);
        let early = frame_of(&panel, &FeaturesParams::new(HORIZON));
        // Windows of 14 days end on day 199, 185, ... 73, 59; the last one's covariates go no further,
        // and a model must not learn that others do.
        for end in [199, 185, 73] {
            for name in ["promo_next", "closed_next"] {
                assert!(value(&early, end, name).is_nan(), "{name} at {end} is in the next window");
                assert!(!value(&early, end - 1, name).is_nan(), "{name} before {end} is in its own");
            }
            assert!(!value(&early, end - 7, "closed_after_7").is_nan());
            assert!(value(&early, end - 6, "closed_after_7").is_nan());
        }
        // What is known of the time after the panel's last demand moves no window.
        panel.demand[186..].fill(f64::NAN);
        let later = frame_of(&panel, &FeaturesParams::new(HORIZON));
        for row in 0..200 {
            let (a, b) = (value(&early, row, "closed_after_7"), value(&later, row, "closed_after_7"));
            assert!(a == b || a.is_nan() && b.is_nan(), "row {row}: {a} {b}");
        }
    }

    #[test]
    fn distances_to_events_are_capped() {
        let frame = frame_of(&panel(1, 200), &FeaturesParams::new(HORIZON));
        // Easter is on days 17, 67, 117, 167.
        assert_eq!(value(&frame, 66, "until_holiday"), 1.0);
        assert_eq!(value(&frame, 60, "until_holiday"), 7.0);
        assert_eq!(value(&frame, 74, "until_holiday"), 8.0, "beyond the lookahead");
        assert!(value(&frame, 59, "until_holiday").is_nan(), "in the next window");
        assert_eq!(value(&frame, 66, "closed_before_7"), 1.0, "the one Sunday of a week");
        assert_eq!(value(&frame, 66, "closed_after_7"), 1.0);
        assert_eq!(value(&frame, 69, "since_holiday"), 2.0);
        assert_eq!(value(&frame, 60, "since_holiday"), 30.0, "at the cap");
        assert!(value(&frame, 10, "since_holiday").is_nan(), "unknown before the first");
    }
}
