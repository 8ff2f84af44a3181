//! What holds a task instance up, or what ended it, as values: the links of an answer to "why?".
//!
//! Made by `why`, shown by the CLI. A [`Reason`] is what a row keeps about itself; a
//! [`Cause`] may also name other tasks, sessions and moments. Where both say the same thing, their
//! codes are the same.

use std::fmt;

use crate::dag::TriggerRule;
use crate::id::{AttemptNumber, InstanceId, SessionId};
use crate::plan::{Reason, TaskTally};

/// One link: which task instance, and what there is to say about it.
#[derive(Debug, Clone, PartialEq)]
pub struct Link {
    /// Who.
    pub instance: InstanceId,
    /// Why.
    pub cause: Cause,
}

/// An instant with its distance from now; made where there is a clock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moment {
    /// RFC 3339.
    pub at: String,
    /// Negative for what is to come.
    pub seconds_ago: i64,
}

/// A live session and what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// Which.
    pub session: SessionId,
    /// What the process is: `run`, `worker` ...
    pub kind: String,
    /// Attempts that it runs.
    pub attempts: u64,
    /// Its last heartbeat.
    pub heartbeat: Moment,
}

/// A limit of slots that applies to an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotLimit {
    /// "pool gpu", "tenant acme".
    pub of: String,
    /// Attempts that count.
    pub used: u64,
    /// As many as may run.
    pub slots: u64,
}

/// The last attempt's error, as recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Which attempt.
    pub attempt: AttemptNumber,
    /// `validation`, `system` or `model`: whom to page.
    pub class: Option<String>,
    /// What it said.
    pub message: String,
}

/// Why a task instance is where it is.
#[derive(Debug, Clone, PartialEq)]
pub enum Cause {
    /// It was picked from the elements of its task, because nobody said which.
    Elements {
        /// How all of them stand.
        tally: TaskTally,
    },
    /// Upstreams have yet to end.
    WaitingForUpstreams {
        /// The rule that needs them.
        rule: TriggerRule,
        /// The tasks with open instances, the first few in the order of `needs`.
        open: Vec<TaskTally>,
        /// How many more tasks have some.
        more: usize,
    },
    /// An element of a fan-out; as many as may are in flight.
    WaitingForElements {
        /// How many may be.
        limit: u32,
        /// Those that are.
        in_flight: TaskTally,
    },
    /// Everything above it has ended, and nothing has moved it.
    NotAdvanced,
    /// Its rule can no longer be met, because something above it failed.
    UpstreamFailed {
        /// The rule.
        rule: TriggerRule,
        /// The first task that spoiled it.
        culprit: TaskTally,
    },
    /// Its rule can no longer be met, by a skip or by a success that was not to be.
    RuleNotMet {
        /// The rule.
        rule: TriggerRule,
        /// The first task that spoiled it.
        culprit: Option<TaskTally>,
    },
    /// Its `if` was false.
    ConditionFalse {
        /// As written in the DAG.
        condition: Option<String>,
    },
    /// Ready; no worker has a free slot, or there is no worker.
    WaitingForSlot {
        /// Since when.
        since: Option<Moment>,
        /// The live sessions, those that hold most first.
        holders: Vec<Holder>,
        /// The quota of its tenant and the size of its pool, where they are set.
        limits: Vec<SlotLimit>,
    },
    /// An attempt is at it.
    Running {
        /// Which.
        attempt: AttemptNumber,
        /// Where.
        session: SessionId,
        /// What the process is.
        kind: String,
        /// Since when.
        since: Moment,
        /// The session's last heartbeat.
        heartbeat: Option<Moment>,
        /// Whether the session's lease still holds.
        alive: bool,
    },
    /// Failed; the next attempt starts later.
    WaitingForRetry {
        /// When.
        at: Option<Moment>,
        /// What went wrong.
        fault: Fault,
    },
    /// Its last attempt failed, and none follows.
    AttemptFailed {
        /// What went wrong.
        fault: Fault,
    },
    /// Its last attempt took too long, and none follows.
    AttemptTimedOut {
        /// What went wrong.
        fault: Fault,
    },
    /// A worker that held it is gone.
    WorkerLost {
        /// Which attempt.
        attempt: AttemptNumber,
        /// Where it ran.
        session: SessionId,
        /// When it was given up.
        at: Option<Moment>,
    },
    /// It took down too many workers.
    Quarantined {
        /// How many.
        losses: u32,
    },
    /// Its run was canceled.
    RunCanceled {
        /// When that was asked for.
        requested: Option<Moment>,
        /// When the instance ended.
        at: Option<Moment>,
    },
    /// There is nothing to explain.
    Succeeded {
        /// In which attempt.
        attempt: AttemptNumber,
        /// When.
        at: Option<Moment>,
    },
    /// What its row says, where nothing says it better.
    Stated(Reason),
    /// Links of a long chain that are not shown.
    Elided {
        /// How many.
        links: usize,
    },
    /// The run's DAG version does not fit this binary, so what is above the instance is not known.
    DagUnreadable,
}

impl Cause {
    /// The stable word that scripts compare.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Elements { .. } => "elements",
            Self::WaitingForUpstreams { .. } => "waiting_for_upstreams",
            Self::WaitingForElements { .. } => "waiting_for_elements",
            Self::NotAdvanced => "not_advanced",
            Self::UpstreamFailed { .. } => "upstream_failed",
            Self::RuleNotMet { .. } => "rule_not_met",
            Self::ConditionFalse { .. } => "condition_false",
            Self::WaitingForSlot { .. } => "waiting_for_slot",
            Self::Running { .. } => "running",
            Self::WaitingForRetry { .. } => "waiting_for_retry",
            Self::AttemptFailed { .. } => "attempt_failed",
            Self::AttemptTimedOut { .. } => "attempt_timed_out",
            Self::WorkerLost { .. } => "worker_lost",
            Self::Quarantined { .. } => "quarantined",
            Self::RunCanceled { .. } => "run_canceled",
            Self::Succeeded { .. } => "succeeded",
            Self::Stated(reason) => reason.code(),
            Self::Elided { .. } => "elided",
            Self::DagUnreadable => "dag_unreadable",
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            Cause::Elided { .. } => write!(f, "{}", self.cause),
            cause => write!(f, "{} {cause}", self.instance),
        }
    }
}

impl fmt::Display for Moment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (distance, unit) = match self.seconds_ago.unsigned_abs() {
            seconds @ 0..120 => (seconds, "s"),
            seconds @ 120..7_200 => (seconds / 60, "min"),
            seconds @ 7_200..172_800 => (seconds / 3_600, "h"),
            seconds => (seconds / 86_400, "days"),
        };
        match self.seconds_ago < 0 {
            true => write!(f, "{} (in {distance} {unit})", self.at),
            false => write!(f, "{} ({distance} {unit} ago)", self.at),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.class {
            Some(class) => write!(f, "attempt {} ended with a {class} error: {}", self.attempt, self.message),
            None => write!(f, "attempt {}: {}", self.attempt, self.message),
        }
    }
}

/// As the rest of a sentence that begins with the instance.
impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Elements { tally } => write!(f, "is one of {}", tally.of_all()),
            Self::WaitingForUpstreams { rule, open, more } => waits(f, *rule, open, *more),
            Self::WaitingForElements { limit, in_flight } => {
                write!(f, "waits for the end of other elements: {limit} may be in flight ({})", in_flight.words())
            }
            Self::NotAdvanced => write!(f, "waits, though all above it has ended; the next sweep moves it on"),
            Self::UpstreamFailed { rule, culprit } => {
                write!(f, "could not run ({}): {}", rule.as_str(), culprit.in_short())
            }
            Self::RuleNotMet { rule, culprit } => {
                write!(f, "was skipped ({})", rule.as_str())?;
                culprit.as_ref().map_or(Ok(()), |culprit| write!(f, ": {}", culprit.in_short()))
            }
            Self::ConditionFalse { condition } => {
                write!(f, "was skipped: its `if` was false")?;
                condition.as_ref().map_or(Ok(()), |condition| write!(f, ": {condition}"))
            }
            Self::WaitingForSlot { since, holders, limits } => slots(f, since.as_ref(), holders, limits),
            Self::Running { .. } => running(f, self),
            Self::WaitingForRetry { at, fault } => {
                let when = at.as_ref().map_or_else(|| "later".to_owned(), |at| format!("at {at}"));
                write!(f, "will be tried again {when}; {fault}")
            }
            Self::AttemptFailed { fault } => write!(f, "failed; {fault}"),
            Self::AttemptTimedOut { fault } => write!(f, "failed on time; {fault}"),
            Self::WorkerLost { attempt, session, at } => {
                write!(f, "lost its worker in attempt {attempt}, session {session}")?;
                at.as_ref().map_or(Ok(()), |at| write!(f, ", given up at {at}"))
            }
            Self::Quarantined { losses } => {
                write!(f, "is quarantined: its worker was lost {losses} times; mend the cause, then retry it")
            }
            Self::RunCanceled { requested, at } => {
                write!(f, "was canceled")?;
                at.as_ref().map_or(Ok(()), |at| write!(f, " at {at}"))?;
                requested.as_ref().map_or(Ok(()), |at| write!(f, "; the cancel was asked for at {at}"))
            }
            Self::Succeeded { attempt, at } => {
                write!(f, "succeeded in attempt {attempt}")?;
                at.as_ref().map_or(Ok(()), |at| write!(f, " at {at}"))
            }
            Self::Stated(reason) => write!(f, "ended: {reason}"),
            Self::Elided { links } => write!(f, "... {links} more ..."),
            Self::DagUnreadable => {
                write!(f, "belongs to a DAG version that does not fit this binary; what is above it is not known")
            }
        }
    }
}

fn waits(f: &mut fmt::Formatter<'_>, rule: TriggerRule, open: &[TaskTally], more: usize) -> fmt::Result {
    let names: Vec<_> = open.iter().map(TaskTally::open_in_short).collect();
    write!(f, "waits ({}): {}", rule.as_str(), names.join("; "))?;
    if more > 0 {
        write!(f, "; and {more} more tasks are not done")?;
    }
    Ok(())
}

fn slots(f: &mut fmt::Formatter<'_>, since: Option<&Moment>, holders: &[Holder], limits: &[SlotLimit]) -> fmt::Result {
    write!(f, "is ready")?;
    if let Some(since) = since {
        write!(f, " since {since}")?;
    }
    if holders.is_empty() {
        return write!(f, "; no worker is alive to claim it");
    }
    write!(f, " and waits for a slot")?;
    for SlotLimit { of, used, slots } in limits {
        write!(f, "; {of} uses {used} of {slots}")?;
    }
    for it in holders {
        let plural = if it.attempts == 1 { "" } else { "s" };
        let (session, kind, attempts) = (it.session, &it.kind, it.attempts);
        write!(f, "; session {session} ({kind}) runs {attempts} attempt{plural}, last heartbeat {}", it.heartbeat)?;
    }
    Ok(())
}

fn running(f: &mut fmt::Formatter<'_>, cause: &Cause) -> fmt::Result {
    let Cause::Running { attempt, session, kind, since, heartbeat, alive } = cause else { return Ok(()) };
    write!(f, "is running: attempt {attempt} in session {session} ({kind}) since {since}")?;
    if let Some(heartbeat) = heartbeat {
        write!(f, ", last heartbeat {heartbeat}")?;
    }
    if !alive {
        write!(f, "; its lease has ended, so that another worker may take over")?;
    }
    Ok(())
}
