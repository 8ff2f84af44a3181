//! Jitter: how much later than its fire a tenant's run starts.
//!
//! Called by `spec`. Spreads the runs of many tenants that share a schedule; the same DAG and tenant
//! always get the same offset, so that a tenant's runs stay as far apart as its fires.

use std::time::Duration;

use crate::id::{DagId, TenantId};

/// An offset from 0 to `max`, in microseconds, that depends on the DAG and the tenant alone.
///
/// It moves when a run starts, never its logical time or its data interval. The blake3 digest of
/// `dag/tenant` (neither can hold a slash) spreads evenly and is the same on every machine.
pub fn jitter_offset(dag: &DagId, tenant: &TenantId, max: Duration) -> i64 {
    let digest = blake3::hash(format!("{dag}/{tenant}").as_bytes());
    let (first, _) = digest.as_bytes().split_first_chunk::<8>().expect("a digest has 32 bytes");
    // Multiply and shift maps 64 bits onto 0 ..= max without the bias of a remainder.
    let range = max.as_micros().min(u128::from(u64::MAX >> 1)) + 1;
    i64::try_from((u128::from(u64::from_le_bytes(*first)) * range) >> 64).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn offset(dag: &str, tenant: &str, max: Duration) -> i64 {
        jitter_offset(&DagId::parse(dag).expect(dag), &TenantId::parse(tenant).expect(tenant), max)
    }

    #[test]
    fn the_same_tenant_always_gets_the_same_offset() {
        // Written down: a change would move every tenant's runs.
        assert_eq!(offset("retail_demand", "acme", Duration::from_secs(300)), 287_533_226);
        assert_eq!(offset("retail_demand", "acme", Duration::ZERO), 0);
        assert_ne!(offset("retail_demand", "acme", Duration::MAX), offset("acme", "retail_demand", Duration::MAX));
    }

    #[test]
    fn tenants_spread_over_the_whole_range() {
        let max = Duration::from_secs(300);
        let mut offsets = (0..1000).map(|at| offset("d", &format!("t{at}"), max)).collect::<Vec<_>>();
        offsets.sort_unstable();
        assert!(offsets[0] >= 0 && offsets[999] <= 300_000_000);
        for (place, share) in [(100, 0.1), (500, 0.5), (900, 0.9)] {
            let wanted = 300e6 * share;
            #[expect(clippy::cast_precision_loss, reason = "offsets are small")]
            let found = offsets[place] as f64;
            assert!((found - wanted).abs() < 15e6, "{place}: {found} is far from {wanted}");
        }
    }
}
