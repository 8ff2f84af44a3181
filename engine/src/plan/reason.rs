//! Why a task instance is where it is, as a value: stored, printed, served.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::dag::{TriggerRule, UpstreamCounts};
use crate::id::{Digest, RunId};
use crate::plan::Micros;

/// Why a task instance waits, was skipped, or ended as it did.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// Upstreams have yet to end.
    WaitingForUpstreams {
        /// How many.
        pending: u32,
        /// The rule that needs them.
        rule: TriggerRule,
    },
    /// Ready; no worker has a free slot.
    WaitingForSlot,
    /// An element of a fan-out; as many as may are in flight.
    WaitingForElements,
    /// Failed; the next attempt starts later.
    WaitingForRetry {
        /// When, in microseconds since 1970.
        at: Micros,
        /// What the failed attempt said.
        message: String,
    },
    /// Its `if` was false.
    ConditionFalse,
    /// Its `if` could not be evaluated.
    ConditionBroken {
        /// What was wrong.
        message: String,
    },
    /// Its `for_each` yields no element.
    FanOutEmpty,
    /// Its `for_each` yields no list, or one that is too long.
    FanOutBroken {
        /// What was wrong.
        message: String,
    },
    /// Its trigger rule can no longer be met.
    RuleNotMet {
        /// The rule.
        rule: TriggerRule,
        /// How its upstreams ended.
        upstream: UpstreamCounts,
    },
    /// Its last attempt failed.
    AttemptFailed {
        /// What the attempt said.
        message: String,
    },
    /// Its last attempt took longer than its limit.
    AttemptTimedOut {
        /// The limit, in seconds.
        limit_seconds: f64,
    },
    /// It waited longer than it may: for a slot, or for its end over all attempts.
    WaitedTooLong {
        /// `queue` or `total`: the limit's name in TOML.
        limit: String,
        /// Its length, in seconds.
        limit_seconds: f64,
    },
    /// The worker that held it is gone.
    WorkerLost {
        /// How often that happened in this generation.
        losses: u32,
    },
    /// The process of its last attempt died.
    AttemptCrashed {
        /// How, and what it printed last.
        message: String,
        /// How often a process or a worker was lost in this generation.
        losses: u32,
    },
    /// Its run was canceled.
    RunCanceled,
    /// Its run is a replay, and its result is that of an earlier run.
    Reused {
        /// The run that computed it.
        run: RunId,
    },
    /// It was not computed: an earlier task instance had the same memo key (`cache = true`).
    Memoized {
        /// The run that computed it.
        run: RunId,
        /// The memo key.
        key: Digest,
    },
}

impl Reason {
    /// The stable word that scripts compare.
    pub fn code(&self) -> &'static str {
        match self {
            Self::WaitingForUpstreams { .. } => "waiting_for_upstreams",
            Self::WaitingForSlot => "waiting_for_slot",
            Self::WaitingForElements => "waiting_for_elements",
            Self::FanOutEmpty => "fan_out_empty",
            Self::FanOutBroken { .. } => "fan_out_broken",
            Self::WaitingForRetry { .. } => "waiting_for_retry",
            Self::ConditionFalse => "condition_false",
            Self::ConditionBroken { .. } => "condition_broken",
            Self::RuleNotMet { .. } => "rule_not_met",
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::AttemptTimedOut { .. } => "attempt_timed_out",
            Self::WaitedTooLong { .. } => "waited_too_long",
            Self::WorkerLost { .. } => "worker_lost",
            Self::AttemptCrashed { .. } => "attempt_crashed",
            Self::RunCanceled => "run_canceled",
            Self::Reused { .. } => "reused",
            Self::Memoized { .. } => "memoized",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::WaitingForUpstreams { pending, rule } => {
                write!(f, "waits for {pending} upstream{} ({})", if *pending == 1 { "" } else { "s" }, rule.as_str())
            }
            Self::WaitingForSlot => write!(f, "ready; waits for a free slot"),
            Self::WaitingForElements => write!(f, "waits for other elements: as many as may are in flight"),
            Self::FanOutEmpty => write!(f, "its `for_each` yields no element"),
            Self::FanOutBroken { message } => write!(f, "its `for_each` can not be used: {message}"),
            Self::WaitingForRetry { message, .. } => write!(f, "will be tried again: {message}"),
            Self::ConditionFalse => write!(f, "its `if` was false"),
            Self::ConditionBroken { message } => write!(f, "its `if` could not be evaluated: {message}"),
            Self::RuleNotMet { rule, upstream } => write!(
                f,
                "{} can not be met: of {} upstreams {} succeeded, {} failed, {} could not run, {} were skipped",
                rule.as_str(),
                upstream.total,
                upstream.succeeded,
                upstream.failed,
                upstream.upstream_failed,
                upstream.skipped
            ),
            Self::AttemptFailed { message } => write!(f, "{message}"),
            Self::AttemptTimedOut { limit_seconds } => write!(f, "took longer than its limit of {limit_seconds} s"),
            Self::WaitedTooLong { limit, limit_seconds } => {
                write!(f, "did not end within its {limit} limit of {limit_seconds} s")
            }
            Self::WorkerLost { losses } => {
                write!(f, "its worker was lost ({losses} time{})", if *losses == 1 { "" } else { "s" })
            }
            Self::AttemptCrashed { message, losses } => {
                write!(f, "{message} (lost {losses} time{})", if *losses == 1 { "" } else { "s" })
            }
            Self::RunCanceled => write!(f, "the run was canceled"),
            Self::Reused { run } => write!(f, "reused from run {run}"),
            Self::Memoized { run, key } => {
                write!(
                    f,
                    "linked to the result of run {run}: the same code, parameters, inputs and seed (memo key {key})"
                )
            }
        }
    }
}

/// Why a run has not started yet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum QueueReason {
    /// Its tenant is suspended.
    TenantSuspended,
    /// Its DAG or its tenant is paused.
    Paused,
    /// Its backfill is paused.
    BackfillPaused,
    /// A calendar puts it off.
    NotBefore {
        /// Until then, in microseconds since 1970.
        at: Micros,
    },
    /// As many runs of its tenant and DAG, or of its backfill, are active as may be.
    ActiveRuns {
        /// How many are.
        active: i64,
        /// How many may.
        limit: i64,
    },
    /// Its tenant's artifacts weigh as much as they may.
    ArtifactBytes {
        /// What they weigh.
        used: u64,
        /// What they may.
        quota: u64,
    },
}

impl fmt::Display for QueueReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TenantSuspended => write!(f, "its tenant is suspended"),
            Self::Paused => write!(f, "its DAG or its tenant is paused"),
            Self::BackfillPaused => write!(f, "its backfill is paused"),
            Self::NotBefore { .. } => write!(f, "a calendar puts it off"),
            Self::ActiveRuns { active, limit } => write!(f, "{active} of at most {limit} runs are active"),
            Self::ArtifactBytes { used, quota } => {
                write!(f, "the tenant's artifacts weigh {used} bytes, and its quota is {quota}")
            }
        }
    }
}
