//! Run, task and attempt states, the events that move them, and [`transition`]: the only function
//! that makes a new state.
//!
//! `plan` decides which event should happen; `store` persists a [`Transition`], whose fields are
//! private, so nothing can be written that the table below does not allow. Nothing here knows why
//! an event happens. docs/state-machine.md is generated from the tables by a test of this module.

mod table;

use serde::{Deserialize, Serialize};

pub use table::{ATTEMPT_TABLE, RUN_TABLE, TASK_TABLE};

macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$vdoc:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum $name {
            $($(#[$vdoc])* #[serde(rename = $word)] $variant,)+
        }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// The word in the database, in JSON and in prose.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }

            /// The one of that word.
            pub fn parse(word: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|it| it.as_str() == word)
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.pad(self.as_str())
            }
        }
    };
}

words! {
    /// Where a run stands.
    RunState {
        /// Created; no task has been looked at.
        Queued = "queued",
        /// Its tasks advance.
        Running = "running",
        /// Told to stop; running attempts are being ended.
        Canceling = "canceling",
        /// Ended: no task failed.
        Succeeded = "succeeded",
        /// Ended: a task failed.
        Failed = "failed",
        /// Ended on request.
        Canceled = "canceled",
    }
}

words! {
    /// What happened to a run.
    RunEvent {
        /// Its first tasks were made ready.
        Started = "run_started",
        /// A person or a policy asked for its end.
        CancelRequested = "run_cancel_requested",
        /// Its last task ended, and none failed.
        Succeeded = "run_succeeded",
        /// Its last task ended, and one failed.
        Failed = "run_failed",
        /// Its last task ended after a cancel.
        Canceled = "run_canceled",
        /// It had ended, and a person asked for new generations of some of its tasks.
        RerunRequested = "run_rerun_requested",
    }
}

words! {
    /// Where a generation of a task instance stands.
    TaskState {
        /// Upstreams have yet to end.
        Waiting = "waiting",
        /// May be claimed.
        Ready = "ready",
        /// An attempt holds it.
        Running = "running",
        /// Failed; will be ready again at a set time.
        RetryWait = "retry_wait",
        /// Ended well.
        Succeeded = "succeeded",
        /// Ended badly, with no attempt left.
        Failed = "failed",
        /// Not to be run: its condition or its trigger rule said so.
        Skipped = "skipped",
        /// Not to be run: something above it failed.
        UpstreamFailed = "upstream_failed",
        /// Ended on request.
        Canceled = "canceled",
        /// Took down its workers too often; waits for a person.
        Quarantined = "quarantined",
    }
}

words! {
    /// What happened to a task instance.
    TaskEvent {
        /// Its trigger rule was met.
        BecameReady = "task_became_ready",
        /// Its run is a replay, which takes its result over from an earlier run.
        Reused = "task_reused",
        /// A worker claimed it: an attempt began.
        Claimed = "task_claimed",
        /// Its attempt succeeded.
        Succeeded = "task_succeeded",
        /// Its attempt failed and the policy allows another.
        RetryScheduled = "task_retry_scheduled",
        /// The delay of its retry passed.
        RetryCameDue = "task_retry_came_due",
        /// Its attempt failed and the policy allows no other, or its condition could not be evaluated.
        Failed = "task_failed",
        /// Its worker or its process was lost; another may claim it.
        Orphaned = "task_orphaned",
        /// It lost too many workers or processes.
        Quarantined = "task_quarantined",
        /// Its condition was false, or its trigger rule can no longer be met.
        Skipped = "task_skipped",
        /// Its trigger rule can no longer be met, because something above it failed.
        UpstreamFailed = "task_upstream_failed",
        /// Its run was canceled.
        Canceled = "task_canceled",
    }
}

words! {
    /// Where an attempt stands.
    AttemptState {
        /// A worker is at it.
        Running = "running",
        /// Its result was recorded.
        Succeeded = "succeeded",
        /// Its error was recorded.
        Failed = "failed",
        /// It took longer than its limit.
        TimedOut = "timed_out",
        /// Its worker's lease ended, or its own process died.
        Lost = "lost",
        /// It was told to stop.
        Canceled = "canceled",
        /// A newer claim took its place before it reported.
        Superseded = "superseded",
    }
}

words! {
    /// What happened to an attempt.
    AttemptEvent {
        /// Its worker reported a result.
        Succeeded = "attempt_succeeded",
        /// Its worker reported an error.
        Failed = "attempt_failed",
        /// Its limit passed.
        TimedOut = "attempt_timed_out",
        /// Its worker's lease ended, or its own process died.
        Lost = "attempt_lost",
        /// Its worker stopped it on request.
        Canceled = "attempt_canceled",
        /// A newer claim exists.
        Superseded = "attempt_superseded",
    }
}

/// A kind of thing that has states: its table says which event leads where.
pub trait Machine: Copy + Eq + std::fmt::Debug + 'static {
    /// What moves it.
    type Event: Copy + Eq + std::fmt::Debug + 'static;
    /// In prose: "run", "task", "attempt".
    const WHAT: &'static str;
    /// Every legal move.
    const TABLE: &'static [(Self, Self::Event, Self)];
    /// The one event that may leave a terminal state: a person's, never the engine's own.
    const REOPENED_BY: Option<Self::Event> = None;
    /// The word for a state.
    fn word(self) -> &'static str;
    /// The word for an event.
    fn event_word(event: Self::Event) -> &'static str;
}

/// A legal move; only [`transition`] makes one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transition<M: Machine> {
    from: M,
    event: M::Event,
    to: M,
}

impl<M: Machine> Transition<M> {
    /// The state before.
    pub fn from(&self) -> M {
        self.from
    }

    /// What happened.
    pub fn event(&self) -> M::Event {
        self.event
    }

    /// The state after.
    pub fn to(&self) -> M {
        self.to
    }
}

/// An event met a state that it can not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{what} in state {from} can not take event {event}")]
pub struct IllegalTransition {
    /// "run", "task" or "attempt".
    pub what: &'static str,
    /// The state it is in.
    pub from: &'static str,
    /// The event that came.
    pub event: &'static str,
}

/// The only maker of new states: looks the pair up in the machine's table.
///
/// # Errors
/// [`IllegalTransition`] where the table has no such row.
pub fn transition<M: Machine>(from: M, event: M::Event) -> Result<Transition<M>, IllegalTransition> {
    M::TABLE
        .iter()
        .find(|(state, happened, _)| *state == from && *happened == event)
        .map(|&(_, _, to)| Transition { from, event, to })
        .ok_or(IllegalTransition { what: M::WHAT, from: from.word(), event: M::event_word(event) })
}

/// Whether a state is an end: nothing leaves it, but for [`Machine::REOPENED_BY`] on request.
pub fn is_terminal<M: Machine>(state: M) -> bool {
    M::TABLE.iter().all(|(from, event, _)| *from != state || Some(*event) == M::REOPENED_BY)
}

macro_rules! machine {
    ($state:ident, $event:ident, $what:literal, $table:expr, $reopened_by:expr) => {
        impl Machine for $state {
            type Event = $event;
            const WHAT: &'static str = $what;
            const TABLE: &'static [(Self, $event, Self)] = $table;
            const REOPENED_BY: Option<$event> = $reopened_by;
            fn word(self) -> &'static str {
                self.as_str()
            }
            fn event_word(event: $event) -> &'static str {
                event.as_str()
            }
        }
    };
}

// A run that ended goes on when some of its tasks get a new generation; generations and attempts never do.
machine!(RunState, RunEvent, "run", RUN_TABLE, Some(RunEvent::RerunRequested));
machine!(TaskState, TaskEvent, "task", TASK_TABLE, None);
machine!(AttemptState, AttemptEvent, "attempt", ATTEMPT_TABLE, None);

#[cfg(test)]
mod tests;
