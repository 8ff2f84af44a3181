//! Random choices that a seed decides: a scenario is a function of its seed.
//!
//! Used by chaos scenarios and by the proxy. SplitMix64 (Steele, Lea and Flood, 2014), so that a seed
//! means the same on every machine and in every version of every crate.

/// A stream of choices.
#[derive(Debug, Clone)]
pub struct Dice(u64);

impl Dice {
    /// The stream of `seed`; `name` keeps streams of one seed apart.
    pub fn new(seed: u64, name: &str) -> Self {
        let start = name.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |state, byte| {
            (state ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3).rotate_left(17)
        });
        Self(start)
    }

    /// The next 64 bits.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `from` up to, not including, `to`.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.draw() % to.saturating_sub(from).max(1)
    }

    /// One of `choices`.
    ///
    /// # Panics
    /// There are none.
    pub fn pick<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        let at = self.within(0, choices.len() as u64);
        &choices[usize::try_from(at).expect("an index fits")]
    }

    /// Whether something happens that happens so many times in a thousand.
    pub fn happens(&mut self, per_mille: u64) -> bool {
        self.within(0, 1000) < per_mille
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_and_a_name_separates() {
        let draw = |seed, name: &str| {
            let mut dice = Dice::new(seed, name);
            (0..8).map(|_| dice.draw()).collect::<Vec<_>>()
        };
        assert_eq!(draw(7, "a"), draw(7, "a"));
        assert_ne!(draw(7, "a"), draw(7, "b"));
        assert_ne!(draw(7, "a"), draw(8, "a"));
        let mut dice = Dice::new(1, "c");
        assert!((0..1000).all(|_| (3..9).contains(&dice.within(3, 9))));
        let happened = (0..10_000).filter(|_| dice.happens(250)).count();
        assert!((2_300..2_700).contains(&happened), "{happened} of 10,000");
    }
}
