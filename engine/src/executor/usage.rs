//! Slots that each tenant used lately on this worker: what fair share remembers.
//!
//! An exponentially weighted average, so that a tenant that kept the only slot busy for minutes
//! yields it to one that did not, and is not punished for yesterday. Used by the dispatcher alone.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::id::TenantId;

/// Use that is older than this counts less than a third.
const MEMORY: Duration = Duration::from_secs(60);

/// Tenants with less than this are forgotten.
const NEGLIGIBLE: f64 = 0.001;

/// See the module.
pub(super) struct Usage {
    averages: BTreeMap<TenantId, f64>,
    seen: Instant,
}

impl Usage {
    pub(super) fn new(now: Instant) -> Self {
        Self { averages: BTreeMap::new(), seen: now }
    }

    /// Adds an attempt that held a slot for `held` and has just ended.
    pub(super) fn add(&mut self, tenant: &TenantId, held: Duration, now: Instant) {
        self.decay(now);
        *self.averages.entry(tenant.clone()).or_default() += held.min(MEMORY).as_secs_f64() / MEMORY.as_secs_f64();
    }

    /// Average slots per tenant.
    pub(super) fn averages(&mut self, now: Instant) -> BTreeMap<TenantId, f64> {
        self.decay(now);
        self.averages.clone()
    }

    fn decay(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.seen).as_secs_f64() / MEMORY.as_secs_f64();
        self.seen = now;
        let kept = (-passed).exp();
        self.averages.values_mut().for_each(|average| *average *= kept);
        self.averages.retain(|_, average| *average >= NEGLIGIBLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn use_is_remembered_and_fades() {
        let start = Instant::now();
        let (busy, idle) = (TenantId::parse("busy").expect("valid"), TenantId::parse("idle").expect("valid"));
        let mut usage = Usage::new(start);
        for second in 1..=600 {
            usage.add(&busy, Duration::from_secs(1), start + Duration::from_secs(second));
        }
        usage.add(&idle, Duration::from_secs(1), start + Duration::from_secs(600));
        let now = usage.averages(start + Duration::from_secs(600));
        assert!((now[&busy] - 1.0).abs() < 0.02, "one slot, all the time: {}", now[&busy]);
        assert!(now[&idle] < 0.05, "{}", now[&idle]);
        let later = usage.averages(start + Duration::from_secs(660));
        assert!((later[&busy] / now[&busy] - (-1f64).exp()).abs() < 1e-9);
        assert!(usage.averages(start + Duration::from_secs(3600)).is_empty());
    }
}
