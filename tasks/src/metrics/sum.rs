//! A sum that keeps what plain addition loses, in the order in which it is fed.
//!
//! Used by [`super::Tally`]. It does not sort: rows come in the order of the artifact, which is
//! fixed, so equal artifacts give equal bits.

/// Neumaier's variant of Kahan summation (A. Neumaier, ZAMM 54, 1974): the error of the sum does not
/// grow with the number of terms, so millions of rows in another order agree to about 1e-15.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Sum {
    sum: f64,
    lost: f64,
}

impl Sum {
    /// Adds a term.
    pub(crate) fn add(&mut self, term: f64) {
        let sum = self.sum + term;
        self.lost += if self.sum.abs() >= term.abs() { (self.sum - sum) + term } else { (term - sum) + self.sum };
        self.sum = sum;
    }

    /// The sum so far; infinite or NaN once a term or a partial sum was.
    pub(crate) fn value(self) -> f64 {
        // After an overflow the correction is NaN; the caller only needs to see "not finite".
        self.sum + self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_terms_beside_large_ones_are_kept() {
        let mut sum = Sum::default();
        for term in [1.0, 1e100, 1.0, -1e100] {
            sum.add(term);
        }
        assert_eq!(sum.value(), 2.0, "plain addition gives 0");
    }

    #[test]
    fn an_overflow_is_seen() {
        let mut sum = Sum::default();
        sum.add(f64::MAX);
        sum.add(f64::MAX);
        assert!(!sum.value().is_finite());
    }
}
