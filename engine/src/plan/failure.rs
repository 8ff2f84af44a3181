//! What follows a failed attempt: another one, and when; or the end.
//!
//! Called by `store` while it records the failure, and by the sweep that finds lost workers. The
//! jitter of a delay is drawn from the instance's seed, so that a replay waits as the original did.

use std::time::Duration;

use crate::dag::{Backoff, RetryOn, RetryPolicy};
use crate::plan::{Limits, Micros, Reason};
use crate::run::{AttemptEvent, TaskEvent};

/// How an attempt failed.
#[derive(Debug, Clone, PartialEq)]
pub enum FailureKind {
    /// The task said that another try may go better.
    Transient,
    /// The task said that it will not.
    Permanent,
    /// It took longer than its limit.
    TimedOut {
        /// The limit.
        limit: Duration,
    },
    /// Its worker was lost.
    Lost,
    /// Its own process, or one that did its work, died or ended without a result; the worker lives on.
    Crashed,
    /// It stopped on request.
    Canceled,
    /// Its worker was told to go and handed it back: nobody's failure.
    HandedBack,
}

/// A failed attempt and its history.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptFailure {
    /// How.
    pub kind: FailureKind,
    /// What it said.
    pub message: String,
    /// Attempts of this generation that failed by themselves, this one included.
    pub failures: u32,
    /// Attempts of this generation that were lost with their worker or their process, this one included.
    pub losses: u32,
    /// The instance's seed.
    pub seed: u64,
}

/// What to record.
#[derive(Debug, Clone, PartialEq)]
pub struct FailurePlan {
    /// What happens to the task instance.
    pub task: TaskEvent,
    /// What happens to the attempt.
    pub attempt: AttemptEvent,
    /// When the next attempt may start, if one follows after a delay.
    pub not_before: Option<Micros>,
    /// Why.
    pub reason: Reason,
}

/// Decides what follows `failure` at `now`.
pub fn after_failure(failure: &AttemptFailure, policy: &RetryPolicy, limits: &Limits, now: Micros) -> FailurePlan {
    let ends = |task, attempt, reason| FailurePlan { task, attempt, not_before: None, reason };
    let failed = Reason::AttemptFailed { message: failure.message.clone() };
    let (attempt, retryable, reason) = match failure.kind {
        FailureKind::Canceled => return ends(TaskEvent::Canceled, AttemptEvent::Canceled, Reason::RunCanceled),
        FailureKind::HandedBack => {
            return ends(TaskEvent::Orphaned, AttemptEvent::Canceled, Reason::WaitingForSlot);
        }
        FailureKind::Lost | FailureKind::Crashed => {
            let losses = failure.losses;
            let reason = match failure.kind {
                FailureKind::Crashed => Reason::AttemptCrashed { message: failure.message.clone(), losses },
                _ => Reason::WorkerLost { losses },
            };
            let spent = failure.losses >= limits.max_losses;
            let task = if spent { TaskEvent::Quarantined } else { TaskEvent::Orphaned };
            return ends(task, AttemptEvent::Lost, reason);
        }
        FailureKind::TimedOut { limit } => {
            let reason = Reason::AttemptTimedOut { limit_seconds: limit.as_secs_f64() };
            (AttemptEvent::TimedOut, true, reason)
        }
        FailureKind::Transient => (AttemptEvent::Failed, true, failed),
        FailureKind::Permanent => (AttemptEvent::Failed, policy.retry_on == RetryOn::Any, failed),
    };
    if !retryable || failure.failures > policy.max {
        return ends(TaskEvent::Failed, attempt, reason);
    }
    let delay = retry_delay(policy, failure.failures, failure.seed).min(limits.max_retry_delay);
    let at = now.saturating_add(i64::try_from(delay.as_micros()).unwrap_or(i64::MAX));
    let reason = Reason::WaitingForRetry { at, message: reason.to_string() };
    FailurePlan { task: TaskEvent::RetryScheduled, attempt, not_before: Some(at), reason }
}

/// The delay before the attempt that follows the `failures`-th failure (from 1).
///
/// Exponential: `initial * 2^(failures - 1)`, at most `max_delay`; then up to `jitter` of it is taken
/// off at random, so that tasks that failed together do not come back together.
pub fn retry_delay(policy: &RetryPolicy, failures: u32, seed: u64) -> Duration {
    let factor = match policy.backoff {
        Backoff::Constant => 1.0,
        Backoff::Exponential => 2f64.powi(i32::try_from(failures.saturating_sub(1)).unwrap_or(i32::MAX).min(62)),
    };
    let seconds = (policy.initial.as_secs_f64() * factor).min(policy.max_delay.as_secs_f64());
    let mut hash = blake3::Hasher::new();
    hash.update(&seed.to_le_bytes()).update(&failures.to_le_bytes());
    let draw = u32::from_le_bytes(hash.finalize().as_bytes()[..4].try_into().expect("a digest has 32 bytes"));
    let part = f64::from(draw) / f64::from(u32::MAX);
    Duration::from_secs_f64((seconds * (1.0 - policy.jitter.clamp(0.0, 1.0) * part)).max(0.0))
}
