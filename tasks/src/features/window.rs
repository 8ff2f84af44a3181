//! Windows over one series: running sums, rolling extremes, means of the most recent values.
//!
//! Called by `compute` alone. Positions are periods of the grid; NaN = unknown and is left out. Every
//! function takes the end of what may be seen as an argument and knows no horizon.

/// Sums over known values from the start of a series, to answer any window in constant time.
pub(super) struct RunningSums {
    total: Vec<f64>,
    squares: Vec<f64>,
    known: Vec<u32>,
    zeros: Vec<u32>,
}

/// What is known in a window.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Window {
    pub(super) total: f64,
    pub(super) squares: f64,
    pub(super) known: u32,
    pub(super) zeros: u32,
}

impl RunningSums {
    pub(super) fn new(values: impl ExactSizeIterator<Item = f64>) -> Self {
        let length = values.len() + 1;
        let mut sums = Self {
            total: Vec::with_capacity(length),
            squares: Vec::with_capacity(length),
            known: Vec::with_capacity(length),
            zeros: Vec::with_capacity(length),
        };
        let mut sum = Window { total: 0.0, squares: 0.0, known: 0, zeros: 0 };
        sums.push(sum);
        for value in values {
            if !value.is_nan() {
                sum.total += value;
                sum.squares += value * value;
                sum.known += 1;
                sum.zeros += u32::from(value == 0.0);
            }
            sums.push(sum);
        }
        sums
    }

    fn push(&mut self, sum: Window) {
        self.total.push(sum.total);
        self.squares.push(sum.squares);
        self.known.push(sum.known);
        self.zeros.push(sum.zeros);
    }

    /// Positions `start..end`.
    pub(super) fn window(&self, start: usize, end: usize) -> Window {
        Window {
            total: self.total[end] - self.total[start],
            squares: self.squares[end] - self.squares[start],
            known: self.known[end] - self.known[start],
            zeros: self.zeros[end] - self.zeros[start],
        }
    }
}

impl Window {
    /// NaN, if nothing is known.
    pub(super) fn mean(self) -> f64 {
        if self.known == 0 { f64::NAN } else { self.total / f64::from(self.known) }
    }

    /// The sample's standard deviation (n - 1); NaN below two known values.
    pub(super) fn deviation(self) -> f64 {
        if self.known < 2 {
            return f64::NAN;
        }
        let known = f64::from(self.known);
        // Cancellation can leave a tiny negative number where all values are the same.
        ((self.squares - self.total * self.total / known).max(0.0) / (known - 1.0)).sqrt()
    }

    /// Zeros among the known values; NaN, if nothing is known.
    pub(super) fn zero_share(self) -> f64 {
        if self.known == 0 { f64::NAN } else { f64::from(self.zeros) / f64::from(self.known) }
    }
}

/// The best known value of each window of `size` that ends `lag` before a position; NaN without one.
///
/// A queue of candidates, each better than all after it: O(1) per position (Lemire 2006).
pub(super) fn rolling_extreme(
    values: &[f64],
    lag: usize,
    size: usize,
    better: fn(f64, f64) -> bool,
) -> impl Iterator<Item = f64> {
    let mut candidates = std::collections::VecDeque::new();
    (0..values.len()).map(move |row| {
        let Some(newest) = row.checked_sub(lag) else { return f64::NAN };
        if !values[newest].is_nan() {
            while candidates.back().is_some_and(|last: &usize| !better(values[*last], values[newest])) {
                candidates.pop_back();
            }
            candidates.push_back(newest);
        }
        while candidates.front().is_some_and(|first| first + size <= newest) {
            candidates.pop_front();
        }
        candidates.front().map_or(f64::NAN, |best| values[*best])
    })
}

/// The mean of the last `count` values pushed; of all of them, if `count` is 0.
#[derive(Debug, Clone)]
pub(super) struct RecentMean {
    count: usize,
    recent: Vec<f64>,
    next: usize,
    total: f64,
    known: u32,
}

impl RecentMean {
    pub(super) fn new(count: u32) -> Self {
        Self { count: count as usize, recent: Vec::new(), next: 0, total: 0.0, known: 0 }
    }

    pub(super) fn push(&mut self, value: f64) {
        if self.count == 0 {
            self.total += value;
            self.known += 1;
        } else if self.recent.len() < self.count {
            self.recent.push(value);
        } else {
            self.recent[self.next] = value;
            self.next = (self.next + 1) % self.count;
        }
    }

    /// NaN, if nothing was pushed.
    pub(super) fn mean(&self) -> f64 {
        match (self.count, self.recent.len()) {
            (0, _) if self.known > 0 => self.total / f64::from(self.known),
            (0, _) | (_, 0) => f64::NAN,
            (_, length) => self.recent.iter().sum::<f64>() / length as f64,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAN: f64 = f64::NAN;

    #[test]
    fn windows_leave_out_what_is_unknown() {
        let sums = RunningSums::new([2.0, NAN, 0.0, 4.0].into_iter());
        let all = sums.window(0, 4);
        assert_eq!((all.mean(), all.known, all.zero_share()), (2.0, 3, 1.0 / 3.0));
        assert_eq!(all.deviation(), 2.0);
        assert!(sums.window(1, 2).mean().is_nan(), "only the unknown value");
        assert!(sums.window(3, 4).deviation().is_nan(), "one value has no deviation");
    }

    #[test]
    fn extremes_equal_a_plain_scan() {
        let values: Vec<f64> = (0..200).map(|i| if i % 7 == 3 { NAN } else { f64::from((i * 37) % 101) }).collect();
        for (lag, size) in [(1, 1), (1, 5), (4, 13), (28, 28)] {
            let fast: Vec<f64> = rolling_extreme(&values, lag, size, |a, b| a > b).collect();
            for (row, found) in fast.iter().enumerate() {
                let end = (row + 1).saturating_sub(lag);
                let slow =
                    values[end.saturating_sub(size)..end].iter().copied().filter(|v| !v.is_nan()).reduce(f64::max);
                assert_eq!(slow, Some(*found).filter(|v| !v.is_nan()), "row {row}, lag {lag}, size {size}");
            }
        }
    }

    #[test]
    fn recent_means_forget_the_oldest() {
        let mut recent = RecentMean::new(2);
        assert!(recent.mean().is_nan());
        [1.0, 3.0, 7.0].into_iter().for_each(|value| recent.push(value));
        assert_eq!(recent.mean(), 5.0);
        let mut all = RecentMean::new(0);
        [1.0, 3.0, 8.0].into_iter().for_each(|value| all.push(value));
        assert_eq!(all.mean(), 4.0);
    }
}
