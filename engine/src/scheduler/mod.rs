//! The scheduler's loop: what time causes, and nothing else.
//!
//! No task waits for it: who finishes an attempt advances its run. Each chore is a file under
//! `maintenance` with `run_once`, safe to run in several processes at once; the database decides who
//! was first. Called by `serve` and `worker`. It never meets an executor: they share the store.

pub mod maintenance;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::maintenance::{expire, reap::Reaper, reconcile::Reconciler};
use crate::store::Store;

/// How often each chore runs.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Looking for sessions whose lease has ended.
    pub reap: Duration,
    /// Looking for waits that took too long.
    pub expire: Duration,
    /// Recomputing what may start.
    pub reconcile: Duration,
    /// A session's time-to-live: how long the reaper holds back after it could not look.
    pub lease_ttl: Duration,
}

/// What the chores have done since the start; read by `/metrics`.
#[derive(Debug, Default)]
pub struct Counters {
    /// Attempts given up because their worker was gone.
    pub lost: AtomicU64,
    /// Task instances and runs that the reconciler had to move; 0, unless something is wrong.
    pub repairs: AtomicU64,
}

/// Runs the chores until `stop` fires.
pub async fn run(store: Arc<Store>, intervals: Intervals, counters: Arc<Counters>, stop: CancellationToken) {
    let mut reaper = Reaper::new(intervals.lease_ttl);
    let mut reconciler = Reconciler::default();
    let mut reaping = ticks(intervals.reap);
    let mut reconciling = ticks(intervals.reconcile);
    let mut expiring = ticks(intervals.expire);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = reaping.tick() => match reaper.run_once(&store).await {
                Ok(lost) => {
                    counters.lost.fetch_add(lost as u64, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "can not look for lost workers"),
            },
            _ = expiring.tick() => if let Err(error) = expire::run_once(&store).await {
                tracing::warn!(%error, "can not look for waits that took too long");
            },
            _ = reconciling.tick() => match reconciler.run_once(&store).await {
                Ok(repairs) => {
                    counters.repairs.fetch_add(repairs as u64, Ordering::Relaxed);
                }
                Err(error) => tracing::warn!(%error, "can not recompute what may start"),
            },
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
