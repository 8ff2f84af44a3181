//! Which segment a series is in at each origin, from what was known at that origin alone.
//!
//! `evaluate` calls [`slicing`] before it looks at a forecast. Segments: ABC by volume, and the demand
//! classes of Syntetos, Boylan & Croston, On the categorization of demand patterns, Journal of the
//! Operational Research Society 56, 2005. No value after an origin reaches its segments.

use std::collections::BTreeMap;

use crate::evaluate::backtest::Backtests;
use crate::evaluate::judge::Slicing;
use crate::features::{FeatureFrame, Frequency};

/// Average periods between demands from which demand is intermittent (Syntetos et al. 2005).
const ADI_CUT: f64 = 1.32;

/// Squared coefficient of variation of the demand sizes from which they are erratic (same source).
const CV2_CUT: f64 = 0.49;

/// Shares of last year's volume up to which series are A, and up to which they are B (the usual Pareto
/// cuts: Silver, Pyke & Thomas, Inventory and Production Management in Supply Chains, 4th ed., 3.2).
const ABC_CUTS: [f64; 2] = [0.80, 0.95];

/// Names of the segments; a series is in one of the first three and in one of the others.
const SEGMENTS: [&str; 8] = [
    "abc-a",
    "abc-b",
    "abc-c",
    "demand-smooth",
    "demand-erratic",
    "demand-intermittent",
    "demand-lumpy",
    "demand-none",
];

/// The first of the demand classes in [`SEGMENTS`].
const FIRST_CLASS: usize = 3;

/// How the rows of `backtests` are grouped, by what `features` knew at each origin.
pub(crate) fn slicing(backtests: &Backtests, features: &FeatureFrame) -> Slicing {
    let mut slicing = Slicing {
        bucket: match features.document().frequency {
            Frequency::Daily => 7,
            Frequency::Weekly => 4,
        },
        segments: SEGMENTS.map(str::to_owned).to_vec(),
        ..Slicing::default()
    };
    let mut of_series = Vec::new();
    for origin in backtests.origins() {
        slicing.total_scale.push(total_scale(features, origin));
        of_series.push(segments_at(features, origin));
    }
    let names = backtests.series();
    for run in backtests.runs() {
        let found = features.series().binary_search_by(|name| name.as_str().cmp(names.value(run.rows.start)));
        slicing.of_run.push(found.map_or_else(|_| Vec::new(), |series| of_series[run.origin][series].to_vec()));
    }
    slicing
}

/// The two segments of every series at one origin.
fn segments_at(features: &FeatureFrame, origin: i32) -> Vec<[usize; 2]> {
    let document = features.document();
    let year = document.frequency.year().cast_signed() * document.frequency.step_days();
    let mut volumes = Vec::with_capacity(features.series().len());
    let mut classes = Vec::with_capacity(features.series().len());
    for series in 0..features.series().len() {
        let recent = known(features, series, origin - year, origin);
        volumes.push(recent.iter().map(|units| units.max(0.0)).sum::<f64>());
        classes.push(FIRST_CLASS + demand_class(&known(features, series, i32::MIN, origin)));
    }
    abc(&volumes).into_iter().zip(classes).map(|(abc, class)| [abc, class]).collect()
}

/// Known demand of a series on open periods in `(after, until]`, in order.
fn known(features: &FeatureFrame, series: usize, after: i32, until: i32) -> Vec<f64> {
    let rows = features.rows_between(series, after, until);
    rows.filter(|row| !features.closed()[*row]).map(|row| features.demand()[row]).filter(|d| !d.is_nan()).collect()
}

/// A, B or C (0, 1, 2) for each volume: A are the largest that make the first 80 %; ties by position.
fn abc(volumes: &[f64]) -> Vec<usize> {
    let mut order: Vec<usize> = (0..volumes.len()).collect();
    order.sort_by(|a, b| volumes[*b].total_cmp(&volumes[*a]));
    let total: f64 = order.iter().map(|at| volumes[*at]).sum();
    let mut classes = vec![ABC_CUTS.len(); volumes.len()];
    let mut before = 0.0;
    for at in order {
        if volumes[at] > 0.0 {
            classes[at] = ABC_CUTS.iter().filter(|cut| before >= **cut * total).count();
        }
        before += volumes[at];
    }
    classes
}

/// Smooth, erratic, intermittent, lumpy or none (0 to 4), counted from the first demand on.
fn demand_class(history: &[f64]) -> usize {
    let Some(first) = history.iter().position(|units| *units > 0.0) else { return 4 };
    let sizes: Vec<f64> = history[first..].iter().copied().filter(|units| *units > 0.0).collect();
    let count = sizes.len() as f64;
    let mean = sizes.iter().sum::<f64>() / count;
    let variance = sizes.iter().map(|size| (size - mean).powi(2)).sum::<f64>() / count;
    let interval = (history.len() - first) as f64 / count;
    usize::from(variance / (mean * mean) >= CV2_CUT) + 2 * usize::from(interval >= ADI_CUT)
}

/// The MASE denominator of all series added up: mean |Y(t) - Y(t - season)| up to the origin.
fn total_scale(features: &FeatureFrame, origin: i32) -> Option<f64> {
    let document = features.document();
    let season = document.season.cast_signed() * document.frequency.step_days();
    let mut totals: BTreeMap<i32, f64> = BTreeMap::new();
    for series in 0..features.series().len() {
        for row in features.rows_between(series, i32::MIN, origin) {
            let demand = features.demand()[row];
            if !demand.is_nan() {
                *totals.entry(features.times()[row]).or_default() += demand;
            }
        }
    }
    let errors: Vec<f64> =
        totals.iter().filter_map(|(time, now)| Some((now - totals.get(&(time - season))?).abs())).collect();
    let mean = errors.iter().sum::<f64>() / errors.len() as f64;
    (mean > 0.0).then_some(mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn demand_classes_follow_interval_and_size() {
        assert_eq!(demand_class(&[4.0, 5.0, 4.0, 5.0]), 0, "smooth");
        assert_eq!(demand_class(&[1.0, 1.0, 1.0, 20.0]), 1, "erratic");
        assert_eq!(demand_class(&[0.0, 3.0, 0.0, 0.0, 3.0]), 2, "intermittent: 4 periods, 2 demands");
        assert_eq!(demand_class(&[1.0, 0.0, 0.0, 30.0, 0.0, 1.0]), 3, "lumpy");
        assert_eq!((demand_class(&[0.0, 0.0]), demand_class(&[])), (4, 4), "none");
        assert_eq!(demand_class(&[0.0, 0.0, 0.0, 5.0, 5.0]), 0, "what was before the first sale does not count");
    }

    #[test]
    fn the_first_eighty_percent_of_volume_are_a() {
        assert_eq!(abc(&[5.0, 60.0, 15.0, 0.0, 20.0]), [2, 0, 1, 2, 0], "60 + 20 reach 80, 15 reach 95");
        assert_eq!(abc(&[0.0, 0.0]), [2, 2]);
        assert_eq!(abc(&[100.0]), [0], "the largest is always A");
        assert_eq!(abc(&[]), Vec::<usize>::new());
    }
}
