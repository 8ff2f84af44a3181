//! The second look at a backtest: a few series whole, and how the errors spread.
//!
//! Called by the task once the sums of the first pass are known. Which series are shown is a rule, not
//! a draw: equal backtests show equal series.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::metrics::Tally;
use crate::report::backtest::{Backtest, BacktestError, Moment};

/// Bins on each side of zero in the histogram of errors.
const SIDE: usize = 12;
/// Bin widths to choose from, as shares of a series' mean demand.
const WIDTHS: [f64; 6] = [0.01, 0.025, 0.05, 0.1, 0.25, 0.5];

/// A series and why it is shown.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Pick {
    /// Position in [`Backtest::series`].
    pub(super) series: usize,
    /// "Largest by demand", "Most intermittent" ...
    pub(super) why: &'static str,
    /// Demand by time, where it is known.
    pub(super) actual: BTreeMap<Moment, f64>,
    /// Forecasts by (model, time).
    pub(super) points: BTreeMap<(usize, Moment), f64>,
}

/// How many rows of each model had an error of which size.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Spread {
    /// Width of a bin, as a share of the series' mean demand.
    pub(super) width: f64,
    /// Per model: rows below the first bin, 2 x [`SIDE`] bins, rows above the last.
    pub(super) rows: Vec<Vec<u64>>,
}

impl Spread {
    /// Lower and upper edge of each class; `None` where it is open.
    pub(super) fn edges(&self) -> Vec<(Option<f64>, Option<f64>)> {
        let edge = |nth: usize| (nth as f64 - SIDE as f64) * self.width;
        let inner = (0..2 * SIDE).map(|nth| (Some(edge(nth)), Some(edge(nth + 1))));
        std::iter::once((None, Some(edge(0)))).chain(inner).chain([(Some(edge(2 * SIDE)), None)]).collect()
    }
}

/// The rows of the picked series and the spread of all errors.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// In the order to show.
    pub(super) picks: Vec<Pick>,
    /// Of all models.
    pub(super) spread: Spread,
    /// Classes of steps ahead: first and last step of each.
    pub(super) buckets: Vec<(i32, i32)>,
    /// Per model and class.
    pub(super) steps: Vec<Vec<Tally>>,
}

impl Sample {
    /// Picks at most `count` series by how `focus` (a model's position) did on them, and reads their rows.
    ///
    /// # Errors
    /// As [`Backtest::read`].
    pub(super) fn read(
        backtest: &Backtest,
        files: &[PathBuf],
        focus: usize,
        count: usize,
    ) -> Result<Self, BacktestError> {
        let mut picks: Vec<Pick> = pick(backtest, focus, count)
            .into_iter()
            .map(|(series, why)| Pick { series, why, actual: BTreeMap::new(), points: BTreeMap::new() })
            .collect();
        let places: BTreeMap<usize, usize> = picks.iter().enumerate().map(|(at, pick)| (pick.series, at)).collect();
        let means: Vec<f64> = backtest.series.values().map(|sums| sums.mean()).collect();
        let wape = backtest.overall(focus).figures().wape.unwrap_or(1.0);
        let mut spread = Spread { width: bin_width(wape), rows: vec![vec![0; 2 * SIDE + 2]; backtest.models.len()] };
        let buckets = buckets(backtest.horizon);
        let mut steps = vec![vec![Tally::default(); buckets.len()]; backtest.models.len()];
        backtest.visit(files, |row| {
            if let Some(bucket) = buckets.iter().position(|(first, last)| (*first..=*last).contains(&row.step)) {
                steps[row.model][bucket].add(row.observation());
            }
            if let Some(&at) = places.get(&row.series) {
                row.actual.and_then(|actual| picks[at].actual.insert(row.time, actual));
                picks[at].points.insert((row.model, row.time), row.point);
            }
            let error = row.actual.map_or(f64::NAN, |actual| (row.point - actual) / means[row.series]);
            if error.is_finite() {
                spread.rows[row.model][bin(error / spread.width)] += 1;
            }
        })?;
        Ok(Self { picks, spread, buckets, steps })
    }
}

/// Steps ahead in classes: single ones up to 7, weeks up to 56, else eight classes.
fn buckets(horizon: i32) -> Vec<(i32, i32)> {
    let size = match horizon {
        ..=7 => 1,
        8..=56 => 7,
        _ => (horizon + 7) / 8,
    };
    (0..)
        .map(|nth| (nth * size + 1, ((nth + 1) * size).min(horizon)))
        .take_while(|(first, _)| *first <= horizon)
        .collect()
}

/// A width whose bins reach three times as far as the typical error, so that the bulk has a shape.
fn bin_width(wape: f64) -> f64 {
    WIDTHS.into_iter().find(|width| width * SIDE as f64 >= 3.0 * wape).unwrap_or(WIDTHS[WIDTHS.len() - 1])
}

/// The class of an error of `size` bin widths: 0 and the last are open.
fn bin(size: f64) -> usize {
    let nth = (size + SIDE as f64).floor();
    if nth < 0.0 { 0 } else { (nth as usize).min(2 * SIDE) + 1 }
}

/// Series that together show a portfolio: big, middling, intermittent, and those where it went wrong.
fn pick(backtest: &Backtest, focus: usize, count: usize) -> Vec<(usize, &'static str)> {
    let mut by_demand: Vec<usize> = (0..backtest.series.len()).filter(|&at| backtest.series[at].demand > 0.0).collect();
    by_demand.sort_by(|&a, &b| backtest.series[b].demand.total_cmp(&backtest.series[a].demand).then(a.cmp(&b)));
    // Ratios of the smallest series say little: one sale is 100 %. The upper half by demand is asked.
    let upper = &by_demand[..by_demand.len().div_ceil(2)];
    // A series that as good as never sold shows nothing but its zeros.
    let selling: Vec<usize> = by_demand.iter().copied().filter(|&at| backtest.series[at].zero_share() < 0.95).collect();
    let figures = |at: usize| backtest.series[at].scores.get(focus).map(|score| score.figures());
    let wape = |at: usize| figures(at).and_then(|figures| figures.wape).unwrap_or(0.0);
    let bias = |at: usize| figures(at).and_then(|figures| figures.bias).unwrap_or(0.0);
    let largest_error = |at: usize| wape(at) * backtest.series[at].demand;
    let at_share = |share: usize| by_demand.get((by_demand.len() * share / 100).min(by_demand.len().saturating_sub(1)));
    let wanted = [
        (by_demand.first().copied(), "Largest by demand"),
        (at_share(50).copied(), "Median by demand"),
        (top(&selling, |at| backtest.series[at].zero_share()), "Most intermittent"),
        (top(upper, wape), "Highest WAPE, upper half by demand"),
        (top(upper, |at| -wape(at)), "Lowest WAPE, upper half by demand"),
        (top(&by_demand, largest_error), "Largest total error"),
        (top(upper, bias), "Most over-forecast, upper half by demand"),
        (top(upper, |at| -bias(at)), "Most under-forecast, upper half by demand"),
        (by_demand.get(1).copied(), "Second largest by demand"),
        (at_share(25).copied(), "Upper quartile by demand"),
        (at_share(75).copied(), "Lower quartile by demand"),
        (at_share(10).copied(), "Top decile by demand"),
    ];
    let spare = by_demand.iter().map(|&at| (Some(at), "Next by demand"));
    let mut picked: Vec<(usize, &'static str)> = Vec::with_capacity(count);
    for (series, why) in wanted.into_iter().chain(spare) {
        if let Some(series) = series.filter(|series| picked.iter().all(|(known, _)| known != series)) {
            picked.push((series, why));
        }
        if picked.len() == count {
            break;
        }
    }
    picked
}

/// The first series with the highest value.
fn top(series: &[usize], value: impl Fn(usize) -> f64) -> Option<usize> {
    series.iter().copied().reduce(|best, next| if value(next) > value(best) { next } else { best })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bins_cover_every_error_once() {
        let spread = Spread { width: 0.1, rows: Vec::new() };
        let edges = spread.edges();
        assert_eq!(edges.len(), 2 * SIDE + 2);
        assert_eq!(
            [bin(-1e9), bin(-12.5), bin(-12.0), bin(-0.5), bin(0.0), bin(11.9), bin(12.0), bin(1e12)],
            [0, 0, 1, 12, 13, 24, 25, 25]
        );
        for (nth, (low, high)) in edges.iter().enumerate() {
            let inside = match (low, high) {
                (Some(low), Some(high)) => (low + high) / 2.0,
                (Some(low), None) => low + 1.0,
                (None, high) => high.unwrap_or_default() - 1.0,
            };
            assert_eq!(bin(inside / spread.width), nth, "{low:?} {high:?}");
        }
    }

    #[test]
    fn bins_widen_with_the_error() {
        assert_eq!([bin_width(0.0), bin_width(0.09), bin_width(0.8), bin_width(50.0)], [0.01, 0.025, 0.25, 0.5]);
    }

    #[test]
    fn buckets_cover_the_horizon_once() {
        assert_eq!(buckets(3), [(1, 1), (2, 2), (3, 3)]);
        assert_eq!(buckets(28), [(1, 7), (8, 14), (15, 21), (22, 28)]);
        assert_eq!(buckets(30).last(), Some(&(29, 30)));
        for horizon in [1, 7, 8, 56, 57, 365] {
            let buckets = buckets(horizon);
            assert!(buckets.len() <= 8, "{horizon}: {buckets:?}");
            assert_eq!((buckets[0].0, buckets[buckets.len() - 1].1), (1, horizon));
            assert!(buckets.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{buckets:?}");
        }
        assert_eq!(buckets(0), []);
    }
}
