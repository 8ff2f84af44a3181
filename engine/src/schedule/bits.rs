//! Sets of small numbers as bits, searched in both directions.
//!
//! Called by `cron`. A number is the index of its bit, 0 to 63; asking beyond is asking for nothing.

/// The smallest element at or above `from`, which is not negative.
pub(crate) fn next(set: u64, from: i64) -> Option<i64> {
    if !(0..64).contains(&from) {
        return None;
    }
    let left = (set >> from) << from;
    (left != 0).then(|| i64::from(left.trailing_zeros()))
}

/// The largest element at or below `to`.
pub(crate) fn prev(set: u64, to: i64) -> Option<i64> {
    if to < 0 {
        return None;
    }
    let left = set & up_to(to);
    (left != 0).then(|| 63 - i64::from(left.leading_zeros()))
}

/// Whether `element` is in the set.
pub(crate) fn has(set: u64, element: i64) -> bool {
    (0..64).contains(&element) && (set >> element) & 1 == 1
}

/// All elements from 0 to `to`.
pub(crate) fn up_to(to: i64) -> u64 {
    if to >= 63 { u64::MAX } else { (1_u64 << (to.max(-1) + 1)) - 1 }
}

/// All elements from `from` to `to`.
pub(crate) fn span(from: i64, to: i64) -> u64 {
    up_to(to) & !up_to(from - 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn searches_agree_with_counting(set in any::<u64>(), at in -2_i64..70) {
            prop_assert_eq!(next(set, at.max(0)), (at.max(0)..64).find(|bit| has(set, *bit)));
            prop_assert_eq!(prev(set, at), (0..=at.min(63)).rev().find(|bit| has(set, *bit)));
        }

        #[test]
        fn spans_hold_what_they_say(from in 0_i64..64, to in 0_i64..64) {
            for bit in 0..64 {
                prop_assert_eq!(has(span(from, to), bit), (from..=to).contains(&bit));
            }
        }
    }
}
