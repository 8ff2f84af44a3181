//! The feature pass: every feature of one series, from its own columns alone.
//!
//! [`series_features`] is a pure function of one series' past and its known covariates, so any split
//! of a panel into groups of series gives the same numbers: by core here, by partition in a
//! distributed plan. Rows are periods of the grid. Demand and past-only covariates are read at
//! [`SeriesView::seen`] rows before the horizon, and nowhere else.

use std::ops::Range;

use chrono::{Datelike, NaiveDate};

use crate::features::panel::{Covariate, EPOCH_DAYS_FROM_CE, Panel};
use crate::features::spec::{CalendarPart, Rule, Source, Spec, Statistic};
use crate::features::window::{RecentMean, RunningSums, rolling_extreme};

/// Appends the features of series `index` to `columns`, one vector per feature; NaN = missing.
pub(super) fn series_features(spec: &Spec, panel: &Panel, index: usize, columns: &mut [Vec<f32>]) {
    let rows = panel.rows_of(index);
    let demand = &panel.demand[rows.clone()];
    let view = SeriesView {
        panel,
        demand,
        horizon: spec.horizon as usize,
        season: spec.season as usize,
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
            Rule::Value { cov, offset } => {
                self.each(out, |row| self.value(cov, row.checked_add_signed(offset as isize)))
            }
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
            out[start + row] = match next.map(|next| next - row) {
                Some(distance) if distance <= cap => distance as f32,
                _ if row + cap < length => (cap + 1) as f32,
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
            false if row + size < length => on.window(row + 1, row + size + 1).total,
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
