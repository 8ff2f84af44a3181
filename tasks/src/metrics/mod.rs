//! How good a forecast was: WAPE, sMAPE, MAE, RMSE, MASE and bias over a set of rows.
//!
//! `evaluate` feeds a [`Tally`] per model, origin and slice and stores its [`Figures`]. Nothing here
//! reads an artifact, knows a model, or compares two of them. The definitions with their sources are
//! in `definition.rs` and, for readers, in docs/metrics.md.

mod definition;
mod sum;

use serde::{Deserialize, Serialize};
use sum::Sum;

/// One forecast and what came true.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Observation {
    /// Demand of the period, in units; `None` = unknown (a gap, a closed day).
    pub actual: Option<f64>,
    /// The point forecast, in units.
    pub point: f64,
    /// The series' scale for MASE, in units; `None` = undefined.
    pub scale: Option<f64>,
}

/// The metrics of a set of rows. `None` = undefined for these rows, or a forecast was no number.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct Figures {
    /// `sum|e| / sum|a|`, a fraction.
    pub wape: Option<f64>,
    /// `mean(2|e| / (|a| + |f|))`, a fraction from 0 to 2.
    pub smape: Option<f64>,
    /// `mean|e|`, in units.
    pub mae: Option<f64>,
    /// `sqrt(mean(e^2))`, in units.
    pub rmse: Option<f64>,
    /// `mean(|e| / scale)`.
    pub mase: Option<f64>,
    /// `sum(e) / |sum(a)|`, a signed fraction; above 0 is over-forecast.
    pub bias: Option<f64>,
    /// Rows with a known actual: those that the figures are over.
    pub rows: u64,
    /// Rows left out since their actual is unknown.
    pub left_out: u64,
    /// Rows among `rows` that MASE leaves out, their scale being undefined.
    pub unscaled: u64,
    /// Rows whose forecast, actual or scale is NaN or infinite; any of them makes all metrics `None`.
    pub non_finite: u64,
    /// `sum|a|`, in units: the weight of these rows in a WAPE.
    pub demand: Option<f64>,
}

/// Running sums over rows. Feed rows in a fixed order: equal rows in equal order give equal bits.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Tally {
    rows: u64,
    left_out: u64,
    scaled_rows: u64,
    non_finite: u64,
    error: Sum,
    abs_error: Sum,
    squared: Sum,
    symmetric: Sum,
    scaled: Sum,
    actual: Sum,
    abs_actual: Sum,
}

impl Tally {
    /// Adds a row.
    pub fn add(&mut self, row: Observation) {
        let finite = [Some(row.point), row.actual, row.scale].into_iter().flatten().all(f64::is_finite);
        self.non_finite += u64::from(!finite);
        let Some(actual) = row.actual else {
            self.left_out += 1;
            return;
        };
        self.rows += 1;
        if finite {
            self.add_finite(actual, row.point, row.scale);
        }
    }

    fn add_finite(&mut self, actual: f64, point: f64, scale: Option<f64>) {
        let error = point - actual;
        self.error.add(error);
        self.abs_error.add(error.abs());
        self.squared.add(error * error);
        self.actual.add(actual);
        self.abs_actual.add(actual.abs());
        // Both 0: a perfect forecast, and 0/0 otherwise. Halves first, or two large values overflow.
        let half = actual.abs() / 2.0 + point.abs() / 2.0;
        self.symmetric.add(if half > 0.0 { (error.abs() / half).min(2.0) } else { 0.0 });
        if let Some(scale) = scale.filter(|&scale| scale > 0.0) {
            self.scaled_rows += 1;
            self.scaled.add(error.abs() / scale);
        }
    }

    /// The metrics of the rows so far.
    pub fn figures(&self) -> Figures {
        let known = |metric: fn(&Self) -> Option<f64>| if self.non_finite == 0 { metric(self) } else { None };
        Figures {
            wape: known(definition::wape),
            smape: known(definition::smape),
            mae: known(definition::mae),
            rmse: known(definition::rmse),
            mase: known(definition::mase),
            bias: known(definition::bias),
            rows: self.rows,
            left_out: self.left_out,
            unscaled: self.rows - self.scaled_rows,
            non_finite: self.non_finite,
            demand: Some(self.abs_actual.value()).filter(|sum| sum.is_finite()),
        }
    }
}

impl FromIterator<Observation> for Tally {
    fn from_iter<I: IntoIterator<Item = Observation>>(rows: I) -> Self {
        let mut tally = Self::default();
        for row in rows {
            tally.add(row);
        }
        tally
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn row(actual: f64, point: f64, scale: f64) -> Observation {
        Observation { actual: Some(actual), point, scale: Some(scale) }
    }

    fn figures(rows: &[Observation]) -> Figures {
        rows.iter().copied().collect::<Tally>().figures()
    }

    fn near(left: Option<f64>, right: f64) -> bool {
        left.is_some_and(|left| (left - right).abs() <= 1e-12 * right.abs().max(1.0))
    }

    #[test]
    fn figures_of_three_rows_are_those_computed_by_hand() {
        // e = 2, -1, 4; |e| sums to 7, e to 5, e^2 to 21; a sums to 40.
        let figures = figures(&[row(10.0, 12.0, 2.0), row(10.0, 9.0, 2.0), row(20.0, 24.0, 8.0)]);
        assert!(near(figures.wape, 7.0 / 40.0), "{figures:?}");
        assert!(near(figures.smape, (4.0 / 22.0 + 2.0 / 19.0 + 8.0 / 44.0) / 3.0), "{figures:?}");
        assert!(near(figures.mae, 7.0 / 3.0), "{figures:?}");
        assert!(near(figures.rmse, 7.0_f64.sqrt()), "{figures:?}");
        assert!(near(figures.mase, (1.0 + 0.5 + 0.5) / 3.0), "{figures:?}");
        assert!(near(figures.bias, 5.0 / 40.0), "{figures:?}");
        assert_eq!((figures.rows, figures.left_out, figures.unscaled, figures.demand), (3, 0, 0, Some(40.0)));
    }

    #[test]
    fn unknown_actuals_are_left_out_and_counted() {
        let unknown = Observation { actual: None, point: 99.0, scale: Some(1.0) };
        let with = figures(&[row(10.0, 12.0, 2.0), unknown, row(5.0, 5.0, 1.0)]);
        let without = figures(&[row(10.0, 12.0, 2.0), row(5.0, 5.0, 1.0)]);
        assert_eq!(with, Figures { left_out: 1, ..without });
    }

    #[test]
    fn zero_denominators_give_none() {
        assert_eq!(figures(&[]), Figures { demand: Some(0.0), ..Figures::default() });
        let zeros = figures(&[row(0.0, 0.0, 0.0), row(0.0, 1.0, 0.0)]);
        assert_eq!((zeros.wape, zeros.bias, zeros.mase), (None, None, None));
        assert_eq!((zeros.mae, zeros.smape, zeros.unscaled), (Some(0.5), Some(1.0), 2));
        let returns = figures(&[row(5.0, 1.0, 1.0), row(-5.0, 1.0, 1.0)]);
        assert_eq!((returns.bias, returns.wape), (None, Some(1.0)), "sum(a) = 0, sum|a| = 10");
    }

    #[test]
    fn bias_keeps_its_sign_when_returns_outweigh_sales() {
        assert_eq!(figures(&[row(-4.0, -2.0, 1.0)]).bias, Some(0.5), "2 too many of -4");
    }

    #[test]
    fn rows_without_scale_do_not_count_in_mase() {
        let unscaled = Observation { actual: Some(1.0), point: 100.0, scale: None };
        let figures = figures(&[row(10.0, 12.0, 4.0), unscaled]);
        assert_eq!((figures.mase, figures.unscaled, figures.rows), (Some(0.5), 1, 2));
    }

    #[test]
    fn a_forecast_that_is_no_number_leaves_no_figure() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY] {
            for broken in [row(1.0, bad, 1.0), row(bad, 1.0, 1.0), row(1.0, 1.0, bad)] {
                let figures = figures(&[row(10.0, 12.0, 2.0), broken]);
                let metrics = [figures.wape, figures.smape, figures.mae, figures.rmse, figures.mase, figures.bias];
                assert_eq!((metrics, figures.non_finite), ([None; 6], 1), "{broken:?}");
            }
            let unseen = Observation { actual: None, point: bad, scale: None };
            assert_eq!(figures(&[row(1.0, 1.0, 1.0), unseen]).wape, None, "also where no actual is known");
        }
    }

    #[test]
    fn an_overflow_gives_none_and_not_infinity() {
        let figures = figures(&[row(1e300, -1e300, 1.0), row(1.0, 1e308, 1e-10)]);
        assert_eq!((figures.rmse, figures.mase), (None, None));
        assert!(figures.smape.is_some_and(|smape| smape <= 2.0));
    }

    fn any_rows() -> impl Strategy<Value = Vec<Observation>> {
        let actual = prop_oneof![1 => Just(None), 2 => Just(Some(0.0)), 7 => (0.0..1e4).prop_map(Some)];
        let scale = prop_oneof![1 => Just(None), 1 => Just(Some(0.0)), 8 => (1e-2..1e3).prop_map(Some)];
        let row = (actual, -1e2..1e4, scale).prop_map(|(actual, point, scale)| Observation { actual, point, scale });
        proptest::collection::vec(row, 1..60)
    }

    fn agree(left: Option<f64>, right: Option<f64>) -> bool {
        match (left, right) {
            (Some(left), Some(right)) => (left - right).abs() <= 1e-9 * left.abs().max(right.abs()).max(1e-9),
            (None, None) => true,
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn ranges_hold(rows in any_rows()) {
            let figures = figures(&rows);
            for metric in [figures.wape, figures.smape, figures.mae, figures.rmse, figures.mase].into_iter().flatten() {
                prop_assert!(metric >= 0.0 && metric.is_finite());
            }
            prop_assert!(figures.smape.is_none_or(|smape| smape <= 2.0 + 1e-12));
            if let (Some(rmse), Some(mae)) = (figures.rmse, figures.mae) {
                prop_assert!(rmse >= mae * (1.0 - 1e-12));
            }
            if let (Some(wape), Some(bias)) = (figures.wape, figures.bias) {
                prop_assert!(bias.abs() <= wape * (1.0 + 1e-12), "demand is not negative here");
            }
            prop_assert_eq!(figures.rows + figures.left_out, rows.len() as u64);
        }

        #[test]
        fn other_units_change_no_ratio(rows in any_rows(), unit in 1e-3..1e3) {
            let rescaled: Vec<Observation> = rows.iter().map(|row| Observation {
                actual: row.actual.map(|actual| actual * unit),
                point: row.point * unit,
                scale: row.scale.map(|scale| scale * unit),
            }).collect();
            let (before, after) = (figures(&rows), figures(&rescaled));
            prop_assert!(agree(before.wape, after.wape) && agree(before.smape, after.smape));
            prop_assert!(agree(before.mase, after.mase) && agree(before.bias, after.bias));
            prop_assert!(agree(before.mae.map(|mae| mae * unit), after.mae));
            prop_assert!(agree(before.rmse.map(|rmse| rmse * unit), after.rmse));
        }

        #[test]
        fn order_does_not_matter(rows in any_rows(), turn in 0usize..60) {
            let mut other = rows.clone();
            other.reverse();
            other.rotate_left(turn % rows.len());
            let (one, two) = (figures(&rows), figures(&other));
            prop_assert!(agree(one.wape, two.wape) && agree(one.smape, two.smape) && agree(one.mae, two.mae));
            prop_assert!(agree(one.rmse, two.rmse) && agree(one.mase, two.mase) && agree(one.bias, two.bias));
        }

        #[test]
        fn a_perfect_forecast_has_no_error(actuals in proptest::collection::vec(0.01..1e4, 1..40)) {
            let rows: Vec<Observation> = actuals.iter().map(|&actual| row(actual, actual, 1.0)).collect();
            let figures = figures(&rows);
            let metrics = [figures.wape, figures.smape, figures.mae, figures.rmse, figures.mase, figures.bias];
            prop_assert_eq!(metrics, [Some(0.0); 6]);
        }
    }
}
