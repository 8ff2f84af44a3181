//! What the contract's policies do to the values of one series, and the count of every time they do it.
//!
//! Called by `grid` with a series' periods in order. Pure; a policy that says `fail` only counts here, and
//! `Grid::verdict` turns the count into the refusal.

use serde::Serialize;

use crate::contract::{Gaps, Missing, Negative, OutlierAction, Policies};

/// Where a period's demand comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// Source rows.
    Rows,
    /// No row, between the series' first and last.
    Gap,
    /// No row, after the series' last.
    AfterLast,
}

/// How often each policy decided something about demand.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Decisions {
    /// Demand that was null in the source.
    pub(crate) missing: u64,
    /// ... of these, given a value by `missing`.
    pub(crate) missing_filled: u64,
    /// Periods without a row between first and last.
    pub(crate) gaps: u64,
    /// Periods without a row after the last.
    pub(crate) after_last: u64,
    /// Demand below zero.
    pub(crate) negative: u64,
    /// Demand above the declared bound.
    pub(crate) outliers: u64,
    /// Closed periods.
    pub(crate) closed: u64,
    /// ... of these, with demand above zero: a contradiction that the author should look at.
    pub(crate) closed_with_demand: u64,
    /// Panel rows made of several source rows.
    pub(crate) aggregated: u64,
    /// Second and further rows of a series and period, where that is an error.
    pub(crate) duplicates: u64,
    /// Source rows left out as exact duplicates.
    pub(crate) exact_duplicates: u64,
}

/// Applies the demand policies to one series in place. `closed` is empty if nothing is ever closed.
pub(super) fn demand(
    policies: &Policies,
    values: &mut [Option<f64>],
    (origins, closed): (&[Origin], &[Option<bool>]),
    decisions: &mut Decisions,
) {
    let mut last = None;
    for (at, value) in values.iter_mut().enumerate() {
        match origins[at] {
            Origin::Rows => from_rows(policies, value, last, decisions),
            Origin::Gap => {
                decisions.gaps += 1;
                *value = gap(policies.gaps);
            }
            Origin::AfterLast => {
                decisions.after_last += 1;
                *value = gap(policies.after_last);
            }
        }
        if value.is_some() && origins[at] == Origin::Rows {
            last = *value;
        }
        if closed.get(at).copied().flatten() == Some(true) {
            decisions.closed += 1;
            decisions.closed_with_demand += u64::from(value.is_some_and(|value| value > 0.0));
            *value = None;
        }
    }
}

fn gap(policy: Gaps) -> Option<f64> {
    match policy {
        Gaps::Null => None,
        Gaps::Zero => Some(0.0),
    }
}

fn from_rows(policies: &Policies, value: &mut Option<f64>, last: Option<f64>, decisions: &mut Decisions) {
    let Some(number) = *value else {
        decisions.missing += 1;
        *value = match policies.missing {
            Missing::Fail | Missing::Null => None,
            Missing::Zero => Some(0.0),
            Missing::ForwardFill => last,
        };
        decisions.missing_filled += u64::from(value.is_some());
        return;
    };
    if number < 0.0 {
        decisions.negative += 1;
        if policies.negative == Negative::Clip {
            *value = Some(0.0);
        }
    }
    if let Some(outliers) = &policies.outliers
        && number > outliers.above
    {
        decisions.outliers += 1;
        match outliers.action {
            OutlierAction::Keep | OutlierAction::Fail => {}
            OutlierAction::Clip => *value = Some(outliers.above),
            OutlierAction::Null => *value = None,
        }
    }
}

/// How often a covariate was null, and how often its policy gave it a value.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Nulls {
    /// Null before the policy, periods without rows included.
    pub(crate) found: u64,
    /// ... of these, in source rows.
    pub(crate) in_rows: u64,
    /// Given a value by the policy.
    pub(crate) filled: u64,
}

/// Applies a covariate's null policy to one series in place: nulls in rows and in periods without rows.
pub(super) fn covariate<T: Clone>(
    policy: Missing,
    zero: &T,
    values: &mut [Option<T>],
    origins: &[Origin],
    nulls: &mut Nulls,
) {
    let mut last: Option<T> = None;
    for (value, origin) in values.iter_mut().zip(origins) {
        if value.is_some() {
            last.clone_from(value);
            continue;
        }
        nulls.found += 1;
        nulls.in_rows += u64::from(*origin == Origin::Rows);
        *value = match policy {
            Missing::Fail | Missing::Null => None,
            Missing::Zero => Some(zero.clone()),
            Missing::ForwardFill => last.clone(),
        };
        nulls.filled += u64::from(value.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::tests::SHOP;
    use crate::contract::{Contract, Outliers};
    use Origin::{AfterLast, Gap, Rows};

    fn policies(change: impl FnOnce(&mut Policies)) -> Policies {
        let mut policies = Contract::parse(SHOP).expect("valid").policies;
        change(&mut policies);
        policies
    }

    fn apply(policies: &Policies, values: &[Option<f64>], origins: &[Origin]) -> (Vec<Option<f64>>, Decisions) {
        let (mut values, mut decisions) = (values.to_vec(), Decisions::default());
        demand(policies, &mut values, (origins, &[]), &mut decisions);
        (values, decisions)
    }

    #[test]
    fn gaps_inside_and_after_are_different_things() {
        let policies = policies(|p| p.gaps = Gaps::Zero);
        let (values, decisions) = apply(&policies, &[Some(2.0), None, Some(1.0), None], &[Rows, Gap, Rows, AfterLast]);
        assert_eq!(values, [Some(2.0), Some(0.0), Some(1.0), None]);
        assert_eq!((decisions.gaps, decisions.after_last, decisions.missing), (1, 1, 0));
    }

    #[test]
    fn missing_negative_and_outliers_are_counted_and_treated() {
        let policies = policies(|p| {
            p.missing = Missing::ForwardFill;
            p.negative = Negative::Clip;
            p.outliers = Some(Outliers { above: 100.0, action: OutlierAction::Clip });
        });
        let input = [None, Some(5.0), None, Some(-3.0), None, Some(1e6)];
        let (values, decisions) = apply(&policies, &input, &[Rows; 6]);
        assert_eq!(values, [None, Some(5.0), Some(5.0), Some(0.0), Some(0.0), Some(100.0)]);
        assert_eq!((decisions.missing, decisions.missing_filled), (3, 2));
        assert_eq!((decisions.negative, decisions.outliers), (1, 1));
    }

    #[test]
    fn closed_periods_are_unknown_and_sales_on_them_are_shown() {
        let policies = policies(|p| p.gaps = Gaps::Zero);
        let (mut values, mut decisions) = (vec![Some(4.0), Some(0.0), None, Some(1.0)], Decisions::default());
        let closed = [Some(true), Some(true), Some(true), None];
        demand(&policies, &mut values, (&[Rows, Rows, Gap, Rows], &closed), &mut decisions);
        assert_eq!(values, [None, None, None, Some(1.0)]);
        assert_eq!((decisions.closed, decisions.closed_with_demand), (3, 1));
    }

    #[test]
    fn covariates_fill_only_as_told() {
        let values = [None, Some(1.0), None, None];
        let origins = [Rows, Rows, Gap, Rows];
        for (policy, expected) in [
            (Missing::Null, [None, Some(1.0), None, None]),
            (Missing::Zero, [Some(0.0), Some(1.0), Some(0.0), Some(0.0)]),
            (Missing::ForwardFill, [None, Some(1.0), Some(1.0), Some(1.0)]),
        ] {
            let (mut filled, mut nulls) = (values.to_vec(), Nulls::default());
            covariate(policy, &0.0, &mut filled, &origins, &mut nulls);
            assert_eq!(filled, expected);
            assert_eq!((nulls.found, nulls.in_rows), (3, 2));
        }
    }
}
