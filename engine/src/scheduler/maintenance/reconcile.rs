//! The reconciler: runs that nothing moves any more are looked at again.
//!
//! It repairs what cannot happen: a run in which nothing is ready, running or waiting for a retry, or
//! one that is being canceled while something still waits. Its counter is 0 in every test; anything
//! else is a bug in `advance`, and the run goes on all the same.

use std::collections::BTreeSet;

use crate::id::{RunId, TenantId};
use crate::store::{Store, StoreError};

/// See the module.
#[derive(Default)]
pub struct Reconciler {
    /// Found stuck in the last round. A run counts only if it is stuck in two rounds: one may have
    /// been caught between two statements.
    suspects: BTreeSet<(TenantId, RunId)>,
}

impl Reconciler {
    /// One round. Returns how many runs had to be moved.
    ///
    /// # Errors
    /// The store's.
    pub async fn run_once(&mut self, store: &Store) -> Result<usize, StoreError> {
        let stuck: BTreeSet<_> = store.stuck_runs().await?.into_iter().collect();
        let mut repairs = 0;
        for (tenant, run) in stuck.intersection(&self.suspects) {
            let state = store.recompute(tenant, *run).await?;
            tracing::error!(%tenant, %run, %state, "nothing moved this run any more; it was looked at again");
            repairs += 1;
        }
        self.suspects = stuck;
        Ok(repairs)
    }
}
