//! Figures per model, origin and slice: the judgement itself.
//!
//! `evaluate` calls [`Judge::all`] for its models and [`Judge::rows_of`] for a champion's refit.
//! Pure: rows and slices in, figures out, in a fixed order of summation.

use std::collections::BTreeMap;

use arrow::array::{Array, Float64Array};

use crate::evaluate::backtest::{Backtests, Run, date};
use crate::evaluate::document::{ALL, MetricRow, POOLED, TOTAL};
use crate::metrics::{Observation, Tally};

/// How rows are grouped beyond "all": made from the features, before any forecast is looked at.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Slicing {
    /// Periods in a horizon bucket.
    pub(crate) bucket: u32,
    /// Names of the segments.
    pub(crate) segments: Vec<String>,
    /// Segments of each run of [`Backtests::runs`], as positions in `segments`.
    pub(crate) of_run: Vec<Vec<usize>>,
    /// MASE scale of all series added up, per origin.
    pub(crate) total_scale: Vec<Option<f64>>,
}

/// What is equal for all models.
pub(crate) struct Judge<'a> {
    backtests: &'a Backtests,
    slicing: &'a Slicing,
    runs: Vec<Run>,
    origins: Vec<i32>,
    buckets: usize,
}

/// Sum over all series in one period.
#[derive(Default)]
struct PeriodTotal {
    actual: f64,
    point: f64,
}

impl<'a> Judge<'a> {
    /// Prepares to judge forecasts of these rows.
    pub(crate) fn new(backtests: &'a Backtests, slicing: &'a Slicing) -> Self {
        let mut judge = Self { runs: backtests.runs(), origins: backtests.origins(), buckets: 0, backtests, slicing };
        judge.buckets = (judge.horizon() as usize).div_ceil(width(slicing));
        judge
    }

    /// Figures of all models, by name.
    pub(crate) fn all(&self) -> Vec<MetricRow> {
        self.backtests.models().into_iter().flat_map(|(model, points)| self.rows_of(model, points)).collect()
    }

    /// The largest step of any forecast.
    pub(crate) fn horizon(&self) -> u32 {
        self.backtests.steps().values().iter().max().and_then(|step| u32::try_from(*step).ok()).unwrap_or(0)
    }

    /// All figures of one model: origins ascending, then pooled; all, total, buckets, segments.
    pub(crate) fn rows_of(&self, model: &str, points: &Float64Array) -> Vec<MetricRow> {
        let pooled = self.origins.len();
        let mut series = vec![vec![Tally::default(); 1 + self.buckets + self.slicing.segments.len()]; pooled + 1];
        let mut totals: Vec<BTreeMap<i32, PeriodTotal>> = Vec::new();
        totals.resize_with(pooled, BTreeMap::new);
        for (at, run) in self.runs.iter().enumerate() {
            for row in run.rows.clone() {
                let seen = self.observation(row, points);
                for slice in self.slices_of(at, row) {
                    series[run.origin][slice].add(seen);
                    series[pooled][slice].add(seen);
                }
                if let Some(actual) = seen.actual {
                    let total = totals[run.origin].entry(self.backtests.times()[row]).or_default();
                    total.actual += actual;
                    total.point += seen.point;
                }
            }
        }
        let totals = self.total_tallies(&totals);
        (0..=pooled).flat_map(|origin| self.rows_at(model, origin, &series[origin], &totals[origin])).collect()
    }

    fn observation(&self, row: usize, points: &Float64Array) -> Observation {
        let optional = |column: &Float64Array| (!column.is_null(row)).then(|| column.value(row));
        Observation {
            actual: optional(self.backtests.actuals()),
            point: points.value(row),
            scale: optional(self.backtests.scales()),
        }
    }

    /// Positions of the slices that a row is in: all, its bucket, its series' segments.
    fn slices_of(&self, run: usize, row: usize) -> impl Iterator<Item = usize> {
        let step = usize::try_from(self.backtests.steps().value(row)).unwrap_or(1);
        let segments = self.slicing.of_run.get(run).map_or(&[][..], Vec::as_slice);
        [0, 1 + (step - 1) / width(self.slicing)].into_iter().chain(segments.iter().map(|at| 1 + self.buckets + at))
    }

    /// Figures of the sums over all series: per origin, and pooled at the end.
    fn total_tallies(&self, totals: &[BTreeMap<i32, PeriodTotal>]) -> Vec<Tally> {
        let mut tallies = vec![Tally::default(); totals.len() + 1];
        for (origin, periods) in totals.iter().enumerate() {
            let scale = self.slicing.total_scale.get(origin).copied().flatten();
            for total in periods.values() {
                let seen = Observation { actual: Some(total.actual), point: total.point, scale };
                tallies[origin].add(seen);
                tallies[totals.len()].add(seen);
            }
        }
        tallies
    }

    fn rows_at(&self, model: &str, origin: usize, series: &[Tally], total: &Tally) -> Vec<MetricRow> {
        let name = self.origins.get(origin).map_or_else(|| POOLED.to_owned(), |days| date(*days));
        let row = |slice: &str, tally: &Tally| MetricRow {
            model: model.to_owned(),
            origin: name.clone(),
            slice: slice.to_owned(),
            figures: tally.figures(),
        };
        let horizon = self.horizon() as usize;
        let mut rows = vec![row(ALL, &series[0]), row(TOTAL, total)];
        for bucket in 0..self.buckets {
            let (first, width) = (bucket * width(self.slicing) + 1, width(self.slicing));
            let last = (first + width - 1).min(horizon);
            rows.push(row(&format!("h{first}-{last}"), &series[1 + bucket]));
        }
        let segments = self.slicing.segments.iter().zip(&series[1 + self.buckets..]);
        // A segment without a series at this origin has nothing to say.
        rows.extend(segments.filter(|(_, tally)| **tally != Tally::default()).map(|(name, tally)| row(name, tally)));
        rows
    }
}

fn width(slicing: &Slicing) -> usize {
    usize::try_from(slicing.bucket.max(1)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluate::backtest::tests::{Row, batch};
    use crate::metrics::Figures;

    fn judged(rows: &[Row], slicing: &Slicing) -> Vec<MetricRow> {
        Judge::new(&Backtests::new(&[batch("m", rows)]).expect("good rows"), slicing).all()
    }

    fn find<'a>(rows: &'a [MetricRow], origin: &str, slice: &str) -> &'a Figures {
        let found = rows.iter().find(|row| row.origin == origin && row.slice == slice);
        &found.unwrap_or_else(|| panic!("no {origin} {slice}")).figures
    }

    // Two series, two origins, three steps at the first, one at the second.
    const ROWS: [Row; 8] = [
        (0, "a", 1, Some(10.0), 12.0),
        (0, "a", 2, Some(10.0), 10.0),
        (0, "a", 3, None, 7.0),
        (0, "b", 1, Some(10.0), 8.0),
        (0, "b", 2, Some(0.0), 4.0),
        (0, "b", 3, Some(5.0), 5.0),
        (3, "a", 1, Some(20.0), 10.0),
        (3, "b", 1, Some(0.0), 10.0),
    ];

    #[test]
    fn origins_and_the_pool_are_judged_on_their_own_rows() {
        let rows = judged(&ROWS, &Slicing { bucket: 2, ..Slicing::default() });
        let first = find(&rows, "1970-01-01", ALL);
        assert_eq!((first.wape, first.bias), (Some(8.0 / 35.0), Some(4.0 / 35.0)));
        assert_eq!((first.rows, first.left_out), (5, 1));
        assert_eq!(find(&rows, "1970-01-04", ALL).wape, Some(1.0));
        let pooled = find(&rows, POOLED, ALL);
        assert_eq!((pooled.wape, pooled.rows), (Some(28.0 / 55.0), 7), "pooled over rows, not a mean of origins");
    }

    #[test]
    fn buckets_split_the_steps_and_the_last_may_be_short() {
        let rows = judged(&ROWS, &Slicing { bucket: 2, ..Slicing::default() });
        let slices: Vec<&str> = rows.iter().filter(|row| row.origin == POOLED).map(|row| row.slice.as_str()).collect();
        assert_eq!(slices, [ALL, TOTAL, "h1-2", "h3-3"]);
        assert_eq!(find(&rows, "1970-01-01", "h1-2").wape, Some(8.0 / 30.0));
        assert_eq!(find(&rows, "1970-01-01", "h3-3").wape, Some(0.0));
        assert_eq!(find(&rows, "1970-01-04", "h3-3").rows, 0);
        let week = judged(&ROWS, &Slicing { bucket: 7, ..Slicing::default() });
        assert_eq!(find(&week, POOLED, "h1-3"), find(&week, POOLED, ALL));
    }

    #[test]
    fn the_total_adds_series_before_it_judges() {
        let slicing = Slicing { bucket: 7, total_scale: vec![Some(4.0), None], ..Slicing::default() };
        let rows = judged(&ROWS, &slicing);
        // Day 1: 20 against 20; day 2: 14 against 10; day 3: only b is known, 5 against 5.
        let first = find(&rows, "1970-01-01", TOTAL);
        assert_eq!((first.wape, first.rows, first.mase), (Some(4.0 / 35.0), 3, Some(4.0 / 4.0 / 3.0)));
        let second = find(&rows, "1970-01-04", TOTAL);
        assert_eq!((second.wape, second.mase), (Some(0.0), None), "10 + 10 against 20 + 0");
    }

    #[test]
    fn segments_take_their_runs() {
        let slicing = Slicing {
            bucket: 7,
            segments: vec!["x".into(), "y".into(), "empty".into()],
            of_run: vec![vec![0], vec![1], vec![0, 1], vec![]],
            ..Slicing::default()
        };
        let rows = judged(&ROWS, &slicing);
        assert_eq!(find(&rows, "1970-01-01", "x").wape, Some(2.0 / 20.0));
        assert_eq!(find(&rows, "1970-01-01", "y").wape, Some(6.0 / 15.0));
        assert_eq!(find(&rows, "1970-01-04", "x"), find(&rows, "1970-01-04", "y"));
        assert!(!rows.iter().any(|row| row.slice == "empty"), "nothing was in it");
    }

    #[test]
    fn a_forecast_that_is_no_number_empties_every_slice_it_is_in() {
        let mut bad = ROWS;
        bad[4].4 = f64::NAN;
        let rows = judged(&bad, &Slicing { bucket: 2, ..Slicing::default() });
        for (origin, slice) in
            [("1970-01-01", ALL), ("1970-01-01", TOTAL), (POOLED, ALL), (POOLED, TOTAL), (POOLED, "h1-2")]
        {
            assert_eq!(find(&rows, origin, slice).wape, None, "{origin} {slice}");
        }
        assert!(find(&rows, "1970-01-04", ALL).wape.is_some());
    }
}
