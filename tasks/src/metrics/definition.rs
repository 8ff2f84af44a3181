//! The definition of each metric over the sums of a [`Tally`]; nothing else computes one.
//!
//! `a` is the actual demand, `f` the point forecast, `e = f - a`, and the sums run over the rows whose
//! actual is known. Every function returns `None` where the metric is undefined, never NaN or an
//! infinity. Ratios are fractions, not percent: .0815 is 8.15 %.

use crate::metrics::Tally;

/// **WAPE**, weighted absolute percentage error: `sum|e| / sum|a|`.
///
/// Unit: fraction of demand. Range: 0 to infinity, 0 is perfect; forecasting 0 everywhere gives 1.
/// `None` if no actual is known or all are 0.
/// Source: "MAD/Mean" of S. Kolassa and W. Schuetz, Advantages of the MAD/Mean ratio over the MAPE,
/// Foresight 6, 2007; called ND in the N-BEATS paper (B. Oreshkin et al., ICLR 2020).
pub(crate) fn wape(tally: &Tally) -> Option<f64> {
    ratio(tally.abs_error.value(), tally.abs_actual.value())
}

/// **sMAPE**, symmetric mean absolute percentage error: `mean(2|e| / (|a| + |f|))`.
///
/// Unit: fraction. Range: 0 to 2, 0 is perfect. A row with `a = f = 0` was forecast perfectly and
/// counts as 0. `None` if no actual is known.
/// Source: S. Makridakis, E. Spiliotis, V. Assimakopoulos, The M4 competition, International Journal
/// of Forecasting 36, 2020; theirs is printed x 100, and is a mean over series of means over steps,
/// which is this mean where every series has as many rows.
pub(crate) fn smape(tally: &Tally) -> Option<f64> {
    ratio(tally.symmetric.value(), tally.rows as f64)
}

/// **MAE**, mean absolute error: `mean|e|`.
///
/// Unit: units of demand per period. Range: 0 to infinity. `None` if no actual is known.
/// Source: R. Hyndman and A. Koehler, Another look at measures of forecast accuracy, International
/// Journal of Forecasting 22, 2006, section 2.1.
pub(crate) fn mae(tally: &Tally) -> Option<f64> {
    ratio(tally.abs_error.value(), tally.rows as f64)
}

/// **RMSE**, root mean squared error: `sqrt(mean(e^2))`; never below the MAE.
///
/// Unit: units of demand per period. Range: 0 to infinity. `None` if no actual is known, or if
/// a square overflows (errors beyond 1e154).
/// Source: as for [`mae`].
pub(crate) fn rmse(tally: &Tally) -> Option<f64> {
    ratio(tally.squared.value(), tally.rows as f64).map(f64::sqrt)
}

/// **MASE**, mean absolute scaled error: `mean(|e| / q)`, where `q` is the mean absolute error that
/// the seasonal naive forecast makes one season ahead within the series' own training part.
///
/// Unit: none. Range: 0 to infinity; below 1 is better than that in-sample naive. Rows whose `q` is
/// unknown or 0 (a constant or too short history) are left out; `None` if all are.
/// Source: as for [`mae`], section 3; the season as in the M4 competition.
pub(crate) fn mase(tally: &Tally) -> Option<f64> {
    ratio(tally.scaled.value(), tally.scaled_rows as f64)
}

/// **Bias**: `sum(e) / |sum(a)|`; above 0 is over-forecast.
///
/// Unit: fraction of demand. Range: any; -1 for forecasting 0 of positive demand. The denominator is
/// the absolute value so that the sign keeps its meaning where returns outweigh sales. `None` if
/// no actual is known or they sum to 0.
/// Source: cumulated forecast error per demand, S. Vandeput, Data Science for Supply Chain
/// Forecasting, 2nd ed., 2021, chapter 2.
pub(crate) fn bias(tally: &Tally) -> Option<f64> {
    ratio(tally.error.value(), tally.actual.value().abs())
}

/// The quotient, if the denominator is positive and the result is a number.
fn ratio(numerator: f64, denominator: f64) -> Option<f64> {
    let quotient = numerator / denominator;
    (denominator > 0.0 && quotient.is_finite()).then_some(quotient)
}
