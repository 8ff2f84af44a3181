//! Fair share: which tenants get the free slots.
//!
//! Weighted max-min: each slot goes to the tenant that, counting what it holds, what it used lately
//! and what it was just given, has the least per weight. A tenant with 100,000 ready tasks so delays
//! another's single task by no more than one task's length: the next slot that comes free is not its.
//! Called by `store` for each claim; the same loads give the same shares.

use std::cmp::Ordering;

use crate::id::TenantId;

/// What a tenant with ready tasks holds.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantLoad {
    /// Which.
    pub tenant: TenantId,
    /// Slots per slot of a tenant of weight 1; above 0.
    pub weight: f64,
    /// Slots in use.
    pub running: u32,
    /// Slots used lately, as an average.
    pub lately: f64,
    /// Slots that it may use at once.
    pub quota: Option<u32>,
}

/// Divides `free` slots. Tenants that get none are left out; the order is that of `loads`.
pub fn share(loads: &[TenantLoad], free: usize) -> Vec<(TenantId, usize)> {
    let mut given = vec![0_usize; loads.len()];
    for _ in 0..free {
        let open = (0..loads.len()).filter(|at| has_room(&loads[*at], given[*at]));
        let next = open.min_by(|a, b| {
            burden(&loads[*a], given[*a]).partial_cmp(&burden(&loads[*b], given[*b])).unwrap_or(Ordering::Equal)
        });
        let Some(next) = next else { break };
        given[next] += 1;
    }
    let shares = loads.iter().zip(given).filter(|(_, slots)| *slots > 0);
    shares.map(|(load, slots)| (load.tenant.clone(), slots)).collect()
}

fn has_room(load: &TenantLoad, given: usize) -> bool {
    load.quota.is_none_or(|quota| u64::from(load.running) + (given as u64) < u64::from(quota))
}

/// What a tenant would hold with one slot more, per weight.
fn burden(load: &TenantLoad, given: usize) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "slots are few")]
    let held = f64::from(load.running) + load.lately + given as f64 + 1.0;
    // A weight of 0 would divide by it; the tenant file refuses one.
    held / load.weight.max(f64::MIN_POSITIVE)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(id: &str, weight: f64, running: u32, lately: f64) -> TenantLoad {
        TenantLoad { tenant: TenantId::parse(id).expect("a valid id"), weight, running, lately, quota: None }
    }

    fn shares(loads: &[TenantLoad], free: usize) -> Vec<(String, usize)> {
        share(loads, free).into_iter().map(|(tenant, slots)| (tenant.to_string(), slots)).collect()
    }

    #[test]
    fn the_next_slot_goes_to_whoever_holds_least() {
        let loads = [load("big", 1.0, 7, 7.9), load("small", 1.0, 0, 0.1)];
        assert_eq!(shares(&loads, 1), [("small".into(), 1)]);
        // With one slot nobody holds any when it comes free: what was used lately decides.
        let loads = [load("big", 1.0, 0, 0.9), load("small", 1.0, 0, 0.1)];
        assert_eq!(shares(&loads, 1), [("small".into(), 1)]);
    }

    #[test]
    fn slots_follow_weights() {
        let loads = [load("a", 3.0, 0, 0.0), load("b", 1.0, 0, 0.0)];
        assert_eq!(shares(&loads, 8), [("a".into(), 6), ("b".into(), 2)]);
    }

    #[test]
    fn nobody_gets_more_than_the_quota_and_the_rest_goes_on() {
        let limited = TenantLoad { quota: Some(2), ..load("a", 1.0, 1, 0.0) };
        let loads = [limited.clone(), load("b", 1.0, 0, 0.0)];
        assert_eq!(shares(&loads, 6), [("a".into(), 1), ("b".into(), 5)]);
        let full = TenantLoad { running: 5, ..limited };
        assert_eq!(shares(&[full], 6), []);
    }

    #[test]
    fn no_tenants_no_shares() {
        assert_eq!(shares(&[], 4), []);
        assert_eq!(shares(&[load("a", 1.0, 0, 0.0)], 0), []);
    }
}
