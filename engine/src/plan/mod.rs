//! What follows: from a snapshot of what just ended and what it touches, to the moves to write.
//!
//! Called by `store` inside the transaction that records a finish (and, after a crash, by the same
//! functions on what the store holds). Same snapshot, limits and `now` give the same plan in the
//! same order. Nothing here reads a database or a clock.
//!
//! The snapshot is the neighborhood of what ended, never the whole run: a trigger rule is judged on
//! the counts that the task instance keeps of its upstreams, so a fan-in of ten thousand costs as
//! much as a chain.

mod cause;
mod failure;
mod forecast;
mod reason;
mod replay;
mod share;
mod why;

use std::time::Duration;

pub use cause::{Cause, Fault, Holder, Link, Moment, SlotLimit};
pub use failure::{AttemptFailure, FailureKind, FailurePlan, after_failure, retry_delay};
pub use forecast::{Progress, forecast_end};
pub use reason::{QueueReason, Reason};
pub use replay::{PastInstance, ReplayAction, ReplayStep, Selection, plan_replay};
pub use share::{TenantLoad, share};
pub use why::{AttemptRecord, Record, Standing, Tallies, TaskTally, Trace, explain, trace};

use crate::dag::{TriggerRule, UpstreamCounts, Verdict};
use crate::id::InstanceId;
use crate::run::{RunEvent, RunState, TaskEvent, TaskState, Transition, is_terminal, transition};

/// Microseconds since the Unix epoch: how instants are stored and compared.
pub type Micros = i64;

/// What `plan` may look at.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// Where the run stands.
    pub run: RunState,
    /// The touched instances, in the order in which their moves will be written.
    pub instances: Vec<InstanceView>,
    /// How many instances of the run are open and how many ended badly, where that was asked:
    /// only when an instance without open successors ended.
    pub tally: Option<Tally>,
}

/// One touched task instance.
#[derive(Debug, Clone)]
pub struct InstanceView {
    /// Which.
    pub id: InstanceId,
    /// Where it stands.
    pub state: TaskState,
    /// When its upstreams' outcomes let it start.
    pub rule: TriggerRule,
    /// How its upstreams ended so far.
    pub upstream: UpstreamCounts,
    /// Its `if`, evaluated by the caller once the rule is met.
    pub condition: Condition,
    /// An element of a fan-out whose turn has not come: as many as may are in flight.
    pub is_held_back: bool,
}

/// The value of a task's `if`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// It has none, or it is true.
    Met,
    /// It is false.
    NotMet,
    /// It could not be evaluated: the message says why.
    Broken(String),
}

/// What is left of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tally {
    /// Instances that are not terminal.
    pub open: u64,
    /// Instances that ended `failed`, `upstream_failed` or `quarantined`.
    pub failed: u64,
}

/// Bounds that configuration sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Workers and processes that one generation of an instance may lose before it is quarantined.
    pub max_losses: u32,
    /// The longest that any retry may be put off.
    pub max_retry_delay: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        // Three losses are more than bad luck; a day is longer than any night's pipeline.
        Self { max_losses: 3, max_retry_delay: Duration::from_secs(86_400) }
    }
}

/// One thing to write.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Moves a task instance.
    MoveTask {
        /// Which.
        instance: InstanceId,
        /// The move.
        transition: Transition<TaskState>,
        /// Why, where the new state can not say it alone.
        reason: Option<Reason>,
    },
    /// Moves the run.
    MoveRun {
        /// The move.
        transition: Transition<RunState>,
    },
}

/// What to write, and why the rest waits.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Plan {
    /// In the order of the snapshot.
    pub actions: Vec<Action>,
    /// Why each touched instance that stays where it is does so.
    pub waits: Vec<(InstanceId, Reason)>,
}

/// Decides what follows from `snapshot`. `now` is the transaction's time.
pub fn plan(snapshot: &Snapshot, _limits: &Limits, now: Micros) -> Plan {
    let mut plan = Plan::default();
    let run = start_run(snapshot.run, &mut plan);
    for view in &snapshot.instances {
        match next_event(run, view) {
            Next::Move(event, reason) => push_move(&mut plan, view, event, reason),
            Next::Wait(reason) => plan.waits.push((view.id.clone(), reason)),
            Next::Nothing => {}
        }
    }
    finish_run(run, snapshot, &mut plan);
    debug_assert!(now >= 0, "instants are microseconds since 1970");
    plan
}

enum Next {
    Move(TaskEvent, Option<Reason>),
    Wait(Reason),
    Nothing,
}

/// A queued run starts with the first plan that is made for it.
fn start_run(run: RunState, plan: &mut Plan) -> RunState {
    if run != RunState::Queued {
        return run;
    }
    match transition(run, RunEvent::Started) {
        Ok(made) => {
            plan.actions.push(Action::MoveRun { transition: made });
            made.to()
        }
        Err(_) => run,
    }
}

fn next_event(run: RunState, view: &InstanceView) -> Next {
    if is_terminal(view.state) || view.state == TaskState::Running {
        return Next::Nothing;
    }
    if run == RunState::Canceling {
        return Next::Move(TaskEvent::Canceled, Some(Reason::RunCanceled));
    }
    match view.state {
        TaskState::Waiting if view.is_held_back => Next::Wait(Reason::WaitingForElements),
        TaskState::Waiting => waiting(view),
        TaskState::Ready => Next::Wait(Reason::WaitingForSlot),
        _ => Next::Nothing,
    }
}

fn waiting(view: &InstanceView) -> Next {
    // As in Airflow: a task without upstreams starts, whatever its rule.
    let verdict = if view.upstream.total == 0 { Verdict::Ready } else { view.rule.judge(&view.upstream) };
    match (verdict, &view.condition) {
        (Verdict::Ready, Condition::Met) => Next::Move(TaskEvent::BecameReady, None),
        (Verdict::Ready, Condition::NotMet) => Next::Move(TaskEvent::Skipped, Some(Reason::ConditionFalse)),
        (Verdict::Ready, Condition::Broken(message)) => {
            Next::Move(TaskEvent::Failed, Some(Reason::ConditionBroken { message: message.clone() }))
        }
        (Verdict::Skip, _) => Next::Move(TaskEvent::Skipped, Some(unmet(view))),
        (Verdict::UpstreamFailed, _) => Next::Move(TaskEvent::UpstreamFailed, Some(unmet(view))),
        (Verdict::Wait, _) => {
            let pending = view.upstream.total - view.upstream.done();
            Next::Wait(Reason::WaitingForUpstreams { pending, rule: view.rule })
        }
    }
}

fn unmet(view: &InstanceView) -> Reason {
    Reason::RuleNotMet { rule: view.rule, upstream: view.upstream }
}

fn push_move(plan: &mut Plan, view: &InstanceView, event: TaskEvent, reason: Option<Reason>) {
    if let Ok(made) = transition(view.state, event) {
        plan.actions.push(Action::MoveTask { instance: view.id.clone(), transition: made, reason });
    }
}

/// Ends the run when nothing is open, counting the moves that this very plan makes.
fn finish_run(run: RunState, snapshot: &Snapshot, plan: &mut Plan) {
    let Some(tally) = snapshot.tally else { return };
    let ends = |state: TaskState| u64::from(is_terminal(state));
    let (closing, failing) = plan.actions.iter().fold((0, 0), |(closing, failing), action| match action {
        Action::MoveTask { transition, .. } => {
            (closing + ends(transition.to()), failing + u64::from(counts_as_failed(transition.to())))
        }
        Action::MoveRun { .. } => (closing, failing),
    });
    if tally.open > closing {
        return;
    }
    let event = match run {
        RunState::Canceling => RunEvent::Canceled,
        _ if tally.failed + failing > 0 => RunEvent::Failed,
        _ => RunEvent::Succeeded,
    };
    if let Ok(made) = transition(run, event) {
        plan.actions.push(Action::MoveRun { transition: made });
    }
}

/// Whether an instance in `state` makes its run a failed one (docs/decisions/0008).
pub fn counts_as_failed(state: TaskState) -> bool {
    matches!(state, TaskState::Failed | TaskState::UpstreamFailed | TaskState::Quarantined)
}

#[cfg(test)]
mod tests;
