//! The scheduler's loops: what time causes, and nothing else.
//!
//! No task waits for it: who finishes an attempt advances its run. Each chore is a file under
//! `maintenance` with `run_once`, safe to run in several processes at once; the database decides who
//! was first. [`run`] keeps what runs alive, in every `serve` and `worker`; [`make_runs`] makes runs from
//! schedules and backfills, in every `serve`, which has the project's files at hand. Neither ever meets an
//! executor: they share the store.

pub mod maintenance;
pub mod subscribe;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use self::maintenance::{
    admit, backfill, deadline, expire, fire::Firing, reap::Reaper, reconcile::Reconciler, trigger,
};
use crate::clock::Clock;
use crate::launch::Launcher;
use crate::store::{Agenda, Store, StoreError};

/// How often each chore runs.
#[derive(Debug, Clone, Copy)]
pub struct Intervals {
    /// Looking for sessions whose lease has ended.
    pub reap: Duration,
    /// Looking for waits that took too long.
    pub expire: Duration,
    /// Recomputing what may start.
    pub reconcile: Duration,
    /// Looking for what is due and what may start.
    pub tick: Duration,
    /// Looking at deadlines.
    pub watch: Duration,
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
    /// Runs that came due and were made.
    pub fired: AtomicU64,
    /// Queued runs that were started.
    pub started: AtomicU64,
}

/// Runs the chores that keep runs alive until `stop` fires. A chore under way is dropped then: what it had
/// begun is rolled back, and another process does it, or the next one.
pub async fn run(store: Arc<Store>, intervals: Intervals, counters: Arc<Counters>, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keep_alive(store, intervals, counters) => {}
    }
}

async fn keep_alive(store: Arc<Store>, intervals: Intervals, counters: Arc<Counters>) {
    let mut reaper = Reaper::new(intervals.lease_ttl);
    let mut reconciler = Reconciler::default();
    let mut reaping = ticks(intervals.reap);
    let mut reconciling = ticks(intervals.reconcile);
    let mut expiring = ticks(intervals.expire);
    loop {
        tokio::select! {
            _ = reaping.tick() => match reaper.run_once(&store).await {
                Ok(lost) => add(&counters.lost, lost),
                Err(error) => tracing::warn!(%error, "can not look for lost workers"),
            },
            _ = expiring.tick() => if let Err(error) = expire::run_once(&store).await {
                tracing::warn!(%error, "can not look for waits that took too long");
            },
            _ = reconciling.tick() => match reconciler.run_once(&store).await {
                Ok(repairs) => add(&counters.repairs, repairs),
                Err(error) => tracing::warn!(%error, "can not recompute what may start"),
            },
        }
    }
}

/// Makes and starts the runs that are due until `stop` fires.
pub async fn make_runs(
    (store, launcher): (Arc<Store>, Launcher),
    clock: Arc<dyn Clock>,
    intervals: Intervals,
    counters: Arc<Counters>,
    stop: CancellationToken,
) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keep_making(store, launcher, clock, (intervals, counters)) => {}
    }
}

async fn keep_making(
    store: Arc<Store>,
    launcher: Launcher,
    clock: Arc<dyn Clock>,
    (intervals, counters): (Intervals, Arc<Counters>),
) {
    let mut firing = Firing::default();
    let mut ticking = ticks(intervals.tick);
    let mut watching = ticks(intervals.watch);
    loop {
        tokio::select! {
            _ = watching.tick() => {
                if let Err(error) = deadline::run_once(&store).await {
                    tracing::warn!(%error, "can not look at deadlines");
                }
                continue;
            }
            _ = ticking.tick() => {}
        }
        if let Err(error) = tick(&store, &launcher, clock.now(), (&mut firing, &counters)).await {
            tracing::warn!(%error, "can not look for what is due");
        }
    }
}

/// Rounds of one tick; a catch-up that needs more goes on with the next, after everything else had its turn.
const ROUNDS: usize = 5;

/// One tick: what is due is made, and what may start is started.
///
/// # Errors
/// The store's.
pub async fn tick(
    store: &Store,
    launcher: &Launcher,
    now: i64,
    (firing, counters): (&mut Firing, &Counters),
) -> Result<(), StoreError> {
    let agenda = store.agenda(now).await?;
    // Each chore for itself: what one stumbles over must not hold up the others. The first error is told.
    let mut first = Ok(());
    let mut note = |result: Result<usize, StoreError>, counter: &AtomicU64| match result {
        Ok(count) => add(counter, count),
        Err(error) if first.is_ok() => first = Err(error),
        Err(_) => {}
    };
    let mut is_due = agenda.is_due;
    for _ in 0..ROUNDS {
        if !is_due {
            break;
        }
        let round = firing.run_once(store, launcher, now).await;
        is_due = round.as_ref().is_ok_and(|(_, is_more)| *is_more);
        note(round.map(|(made, _)| made), &counters.fired);
    }
    if agenda.has_triggers {
        note(trigger::run_once(store, launcher).await, &counters.fired);
    }
    if agenda != Agenda::default() {
        note(admit::run_once(store).await, &counters.started);
    }
    if agenda.has_backfills {
        note(backfill::run_once(store, launcher).await, &counters.fired);
        note(admit::run_once(store).await, &counters.started);
    }
    first
}

fn add(counter: &AtomicU64, count: usize) {
    counter.fetch_add(count as u64, Ordering::Relaxed);
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}
