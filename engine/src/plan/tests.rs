//! The plan's decisions, one by one, and what holds for all of them.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::dag::{Backoff, RetryOn, RetryPolicy};
use crate::id::TaskId;
use crate::run::AttemptEvent;

fn view(task: &str, state: TaskState, rule: TriggerRule, upstream: UpstreamCounts) -> InstanceView {
    let id = InstanceId::new(TaskId::parse(task).expect("valid"), None);
    InstanceView { id, state, rule, upstream, condition: Condition::Met, is_held_back: false }
}

fn counts(total: u32, succeeded: u32, failed: u32, skipped: u32) -> UpstreamCounts {
    UpstreamCounts { total, succeeded, failed, skipped, upstream_failed: 0 }
}

fn decide(run: RunState, instances: Vec<InstanceView>, tally: Option<Tally>) -> Plan {
    plan(&Snapshot { run, instances, tally }, &Limits::default(), 0)
}

fn moves(plan: &Plan) -> Vec<TaskState> {
    let to = |action: &Action| match action {
        Action::MoveTask { transition, .. } => Some(transition.to()),
        Action::MoveRun { .. } => None,
    };
    plan.actions.iter().filter_map(to).collect()
}

#[test]
fn a_task_becomes_ready_with_its_last_upstream() {
    let rule = TriggerRule::AllSuccess;
    let waits = decide(RunState::Running, vec![view("a", TaskState::Waiting, rule, counts(3, 2, 0, 0))], None);
    assert!(waits.actions.is_empty());
    assert_eq!(waits.waits[0].1, Reason::WaitingForUpstreams { pending: 1, rule });
    let goes = decide(RunState::Running, vec![view("a", TaskState::Waiting, rule, counts(3, 3, 0, 0))], None);
    assert_eq!(moves(&goes), [TaskState::Ready]);
}

#[test]
fn conditions_are_asked_only_once_the_rule_is_met() {
    let with = |condition, upstream| InstanceView {
        condition,
        ..view("a", TaskState::Waiting, TriggerRule::AllSuccess, upstream)
    };
    let met = counts(1, 1, 0, 0);
    let broken = Condition::Broken("no such output".into());
    assert_eq!(moves(&decide(RunState::Running, vec![with(Condition::NotMet, met)], None)), [TaskState::Skipped]);
    assert_eq!(moves(&decide(RunState::Running, vec![with(broken.clone(), met)], None)), [TaskState::Failed]);
    assert!(moves(&decide(RunState::Running, vec![with(broken, counts(1, 0, 0, 0))], None)).is_empty());
}

#[test]
fn a_canceling_run_starts_nothing() {
    for state in [TaskState::Waiting, TaskState::Ready, TaskState::RetryWait] {
        let it = view("a", state, TriggerRule::Always, counts(1, 1, 0, 0));
        assert_eq!(moves(&decide(RunState::Canceling, vec![it], None)), [TaskState::Canceled], "{state}");
    }
    let running = view("a", TaskState::Running, TriggerRule::Always, counts(0, 0, 0, 0));
    assert!(decide(RunState::Canceling, vec![running], None).actions.is_empty(), "its worker ends it");
}

#[test]
fn a_run_ends_when_nothing_is_open() {
    let ends = |run, open, failed| {
        let plan = decide(run, Vec::new(), Some(Tally { open, failed }));
        plan.actions.iter().find_map(|action| match action {
            Action::MoveRun { transition } => Some(transition.to()),
            Action::MoveTask { .. } => None,
        })
    };
    assert_eq!(ends(RunState::Running, 1, 0), None);
    assert_eq!(ends(RunState::Running, 0, 0), Some(RunState::Succeeded));
    assert_eq!(ends(RunState::Running, 0, 1), Some(RunState::Failed));
    assert_eq!(ends(RunState::Canceling, 0, 1), Some(RunState::Canceled));
    assert_eq!(ends(RunState::Succeeded, 0, 1), None, "terminal states absorb");
}

fn policy(backoff: Backoff, max: u32) -> RetryPolicy {
    RetryPolicy {
        max,
        backoff,
        initial: Duration::from_secs(5),
        max_delay: Duration::from_secs(60),
        jitter: 0.0,
        retry_on: RetryOn::Transient,
    }
}

fn failure(kind: FailureKind, failures: u32, losses: u32) -> AttemptFailure {
    AttemptFailure { kind, message: "it broke".into(), failures, losses, seed: 1 }
}

#[test]
fn failures_follow_the_policy() {
    let limits = Limits::default();
    let after = |kind, failures, losses| {
        after_failure(&failure(kind, failures, losses), &policy(Backoff::Exponential, 2), &limits, 1_000)
    };
    let first = after(FailureKind::Transient, 1, 0);
    assert_eq!((first.task, first.not_before), (TaskEvent::RetryScheduled, Some(5_001_000)));
    assert_eq!(after(FailureKind::Transient, 2, 0).not_before, Some(10_001_000));
    assert_eq!(after(FailureKind::Transient, 3, 0).task, TaskEvent::Failed, "2 retries are 3 attempts");
    assert_eq!(after(FailureKind::Permanent, 1, 0).task, TaskEvent::Failed);
    let late = after(FailureKind::TimedOut { limit: Duration::from_secs(1) }, 1, 0);
    assert_eq!((late.task, late.attempt), (TaskEvent::RetryScheduled, AttemptEvent::TimedOut));
    assert_eq!(after(FailureKind::Lost, 3, 2).task, TaskEvent::Orphaned, "losses have a budget of their own");
    assert_eq!(after(FailureKind::Lost, 0, 3).task, TaskEvent::Quarantined);
    let crashed = after(FailureKind::Crashed, 0, 1);
    assert_eq!((crashed.task, crashed.attempt), (TaskEvent::Orphaned, AttemptEvent::Lost), "no retry is spent");
    assert_eq!(crashed.reason, Reason::AttemptCrashed { message: "it broke".into(), losses: 1 });
    assert_eq!(after(FailureKind::Crashed, 0, 3).task, TaskEvent::Quarantined, "whatever was lost before");
    assert_eq!(after(FailureKind::Canceled, 0, 0).task, TaskEvent::Canceled);
    let any = RetryPolicy { retry_on: RetryOn::Any, ..policy(Backoff::Constant, 1) };
    let permanent = after_failure(&failure(FailureKind::Permanent, 1, 0), &any, &limits, 0);
    assert_eq!(permanent.task, TaskEvent::RetryScheduled);
}

proptest! {
    #[test]
    fn delays_stay_within_their_bounds(failures in 1u32..10_000, seed: u64, jitter in 0.0f64..=1.0) {
        let policy = RetryPolicy { jitter, ..policy(Backoff::Exponential, 3) };
        let delay = retry_delay(&policy, failures, seed);
        prop_assert!(delay <= policy.max_delay);
        prop_assert!(delay.as_secs_f64() >= policy.initial.as_secs_f64() * (1.0 - jitter) - 1e-6);
        prop_assert_eq!(delay, retry_delay(&policy, failures, seed), "the same seed draws the same delay");
    }

    /// Same snapshot, limits and now: the same plan. And no plan holds a move of what has ended.
    #[test]
    fn plans_are_functions_and_terminal_states_absorb(
        picks in proptest::collection::vec((0usize..10, 0usize..12, 0u32..4, 0u32..4, 0u32..4), 0..20),
        run in 0usize..6,
    ) {
        let instances: Vec<_> = picks
            .iter()
            .enumerate()
            .map(|(i, &(state, rule, ok, failed, skipped))| {
                let upstream = counts(ok + failed + skipped + 1, ok, failed, skipped);
                view(&format!("t{i}"), TaskState::ALL[state], TriggerRule::ALL[rule], upstream)
            })
            .collect();
        let snapshot = Snapshot { run: RunState::ALL[run], instances, tally: Some(Tally { open: 3, failed: 0 }) };
        let one = plan(&snapshot, &Limits::default(), 5);
        prop_assert_eq!(&one, &plan(&snapshot, &Limits::default(), 5));
        for action in &one.actions {
            match action {
                Action::MoveTask { transition, .. } => prop_assert!(!is_terminal(transition.from())),
                Action::MoveRun { transition } => prop_assert!(!is_terminal(transition.from())),
            }
        }
        // Whatever is touched and stays open, without running, says why.
        for it in &snapshot.instances {
            let moved = one.actions.iter().any(|a| matches!(a, Action::MoveTask { instance, .. } if *instance == it.id));
            let waits = one.waits.iter().any(|(id, _)| *id == it.id);
            let quiet = is_terminal(it.state) || matches!(it.state, TaskState::Running | TaskState::RetryWait);
            prop_assert!(moved || waits || quiet, "{:?}", it);
        }
    }
}
