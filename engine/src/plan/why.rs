//! Why a task instance is where it is: the chain from it up to what holds it up, or to what ended it.
//!
//! Called by `store::why`, which reads how the instances of the tasks above stand (counted, never
//! one by one) and what is on record about the end of the chain. The walk is over tasks in memory,
//! so its cost is that of the DAG and not of the fan-out.

use std::collections::BTreeMap;

use crate::dag::{Dag, Task, TriggerRule, UpstreamCounts, Verdict};
use crate::id::{AttemptNumber, InstanceId, SessionId, TaskId};
use crate::plan::{Cause, Fault, Holder, Link, Moment, Reason, SlotLimit};
use crate::run::{AttemptState, TaskState};

/// Links from the near end of a chain that are shown; twice that many and one in all.
const LINKS_SHOWN: usize = 10;
/// Blocking tasks that one link names.
const TASKS_NAMED: usize = 8;

/// How many instances of a task are in a state, and the first of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// How many.
    pub instances: u64,
    /// The lowest element; `None` for a task without elements.
    pub first: Option<u32>,
}

/// How the current instances of a task stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TaskTally {
    /// Which task.
    pub task: TaskId,
    /// By state, those that occur.
    pub by_state: BTreeMap<TaskState, Standing>,
}

/// Tallies by task.
pub type Tallies = BTreeMap<TaskId, TaskTally>;

/// What blocks most tellingly: an error that is being retried, then a lack of slots, then work.
const OPEN: [TaskState; 4] = [TaskState::RetryWait, TaskState::Ready, TaskState::Running, TaskState::Waiting];
/// What spoiled a rule: the deed before its consequences.
const BAD: [TaskState; 4] = [TaskState::Failed, TaskState::Quarantined, TaskState::Canceled, TaskState::UpstreamFailed];
/// Which element of a task to speak about, if nobody said: the worst.
const TELLING: [TaskState; 10] = [
    TaskState::Failed,
    TaskState::Quarantined,
    TaskState::UpstreamFailed,
    TaskState::Canceled,
    TaskState::RetryWait,
    TaskState::Waiting,
    TaskState::Ready,
    TaskState::Running,
    TaskState::Skipped,
    TaskState::Succeeded,
];

impl TaskTally {
    /// Counts nothing yet.
    pub fn new(task: TaskId) -> Self {
        Self { task, by_state: BTreeMap::new() }
    }

    /// All instances.
    pub fn total(&self) -> u64 {
        self.by_state.values().map(|it| it.instances).sum()
    }

    /// The first instance in the first of `states` that occurs.
    pub fn first_in(&self, states: &[TaskState]) -> Option<(InstanceId, TaskState)> {
        let found = states.iter().find_map(|state| Some((*state, self.by_state.get(state)?)));
        found.map(|(state, standing)| (InstanceId::new(self.task.clone(), standing.first), state))
    }

    /// The instance that says most about the task.
    pub fn most_telling(&self) -> Option<(InstanceId, TaskState)> {
        self.first_in(&TELLING)
    }

    fn count(&self, states: &[TaskState]) -> u64 {
        states.iter().filter_map(|state| self.by_state.get(state)).map(|it| it.instances).sum()
    }

    fn only(&self, states: &[TaskState]) -> Self {
        let kept = self.by_state.iter().filter(|(state, _)| states.contains(state));
        Self { task: self.task.clone(), by_state: kept.map(|(state, standing)| (*state, *standing)).collect() }
    }

    /// "9,990 succeeded, 10 running"
    pub(super) fn words(&self) -> String {
        let words = self.by_state.iter().map(|(state, it)| format!("{} {state}", thousands(it.instances)));
        words.collect::<Vec<_>>().join(", ")
    }

    /// "10,000 elements: 9,990 succeeded, 10 running"
    pub(super) fn of_all(&self) -> String {
        format!("{} elements: {}", thousands(self.total()), self.words())
    }

    /// "split is running", or "999 of 100,000 elements of split are not done (9 running, 990 waiting)"
    pub(super) fn open_in_short(&self) -> String {
        let (open, total) = (self.count(&OPEN), self.total());
        match self.first_in(&OPEN) {
            Some((instance, state)) if instance.index.is_none() => format!("{} is {state}", self.task),
            _ => {
                let words = self.only(&OPEN).words();
                let (open, total) = (thousands(open), thousands(total));
                format!("{open} of {total} elements of {} are not done ({words})", self.task)
            }
        }
    }

    /// "split failed", or "of split's elements 2 failed": of the states that are left.
    pub(super) fn in_short(&self) -> String {
        match self.first_in(&TELLING) {
            Some((instance, state)) if instance.index.is_none() => format!("{} {state}", self.task),
            _ => format!("of {}'s elements {}", self.task, self.words()),
        }
    }
}

/// A number as people read it: 100,000.
fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The way up from an instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Trace {
    /// One link per instance on the way, the asked one first.
    pub links: Vec<Link>,
    /// Where the way ends, if its record has more to say.
    pub end: Option<InstanceId>,
}

/// Follows the first blocker, or the first culprit, from `start` upward. `tallies` holds the tasks
/// above it, and its own where its elements may wait for each other.
pub fn trace(dag: &Dag, start: &InstanceId, state: TaskState, tallies: &Tallies) -> Trace {
    let mut links = Vec::new();
    let mut next = Some((start.clone(), state));
    let mut end = None;
    while let Some((instance, state)) = next.take() {
        let Some(task) = dag.task(&instance.task) else { break };
        let step = match state {
            TaskState::Waiting => Some(waiting(task, tallies)),
            TaskState::UpstreamFailed => Some(upstream_failed(task, tallies)),
            // An empty list skips, too: the record knows.
            TaskState::Skipped if task.for_each.is_none() => Some(skipped(task, tallies)),
            _ => None,
        };
        match step {
            Some((cause, above)) => {
                links.push(Link { instance, cause });
                next = above;
            }
            None => end = Some(instance),
        }
    }
    Trace { links: elide(links), end }
}

type Step = (Cause, Option<(InstanceId, TaskState)>);

fn above<'a>(task: &'a Task, tallies: &'a Tallies) -> impl Iterator<Item = &'a TaskTally> {
    task.needs.iter().filter_map(|need| tallies.get(need))
}

fn waiting(task: &Task, tallies: &Tallies) -> Step {
    let mut open = above(task, tallies).filter(|it| it.count(&OPEN) > 0).peekable();
    let Some(next) = open.peek().and_then(|first| first.first_in(&OPEN)) else { return held_back(task, tallies) };
    let mut open: Vec<_> = open.cloned().collect();
    let more = open.len().saturating_sub(TASKS_NAMED);
    open.truncate(TASKS_NAMED);
    (Cause::WaitingForUpstreams { rule: task.trigger_rule, open, more }, Some(next))
}

/// What an element waits for when nothing above it is open: the end of another one.
fn held_back(task: &Task, tallies: &Tallies) -> Step {
    let in_flight = tallies.get(&task.id).map(|it| it.only(&OPEN[..3]));
    let next = in_flight.as_ref().and_then(|it| it.first_in(&OPEN));
    match (task.for_each.as_ref().and(task.max_in_flight), in_flight, next) {
        (Some(limit), Some(in_flight), Some(next)) => (Cause::WaitingForElements { limit, in_flight }, Some(next)),
        _ => (Cause::NotAdvanced, None),
    }
}

/// The first upstream in the first of `states` that any of them is in.
fn culprit<'a>(task: &'a Task, tallies: &'a Tallies, states: &[TaskState]) -> Option<&'a TaskTally> {
    states.iter().find_map(|state| above(task, tallies).find(|it| it.by_state.contains_key(state)))
}

fn upstream_failed(task: &Task, tallies: &Tallies) -> Step {
    let rule = task.trigger_rule;
    let Some(found) = culprit(task, tallies, &BAD) else { return (Cause::RuleNotMet { rule, culprit: None }, None) };
    (Cause::UpstreamFailed { rule, culprit: found.only(&BAD) }, found.first_in(&BAD))
}

fn skipped(task: &Task, tallies: &Tallies) -> Step {
    let rule = task.trigger_rule;
    // A rule that is met has skipped nothing: then it was the condition.
    if task.needs.is_empty() || rule.judge(&counts(task, tallies)) == Verdict::Ready {
        let condition = task.condition.as_ref().map(|it| it.as_str().map_or_else(|| it.to_string(), str::to_owned));
        return (Cause::ConditionFalse { condition }, None);
    }
    let spoils: &[TaskState] = match rule {
        TriggerRule::AllFailed | TriggerRule::OneFailed | TriggerRule::OneDone => {
            &[TaskState::Succeeded, TaskState::Skipped]
        }
        TriggerRule::AllSkipped => &[TaskState::Succeeded, TaskState::Failed, TaskState::UpstreamFailed],
        _ => &[TaskState::Skipped],
    };
    let found = culprit(task, tallies, spoils);
    // Why something succeeded explains nothing; why something was skipped may.
    let next = found.and_then(|it| it.first_in(&[TaskState::Skipped]));
    (Cause::RuleNotMet { rule, culprit: found.map(|it| it.only(spoils)) }, next)
}

fn counts(task: &Task, tallies: &Tallies) -> UpstreamCounts {
    let sum = |states: &[TaskState]| {
        let all: u64 = above(task, tallies).map(|it| it.count(states)).sum();
        u32::try_from(all).unwrap_or(u32::MAX)
    };
    UpstreamCounts {
        total: sum(TaskState::ALL),
        succeeded: sum(&[TaskState::Succeeded]),
        failed: sum(&[TaskState::Failed, TaskState::Quarantined, TaskState::Canceled]),
        upstream_failed: sum(&[TaskState::UpstreamFailed]),
        skipped: sum(&[TaskState::Skipped]),
    }
}

/// Keeps both ends of a long chain: what was asked about, and what it comes from.
fn elide(mut links: Vec<Link>) -> Vec<Link> {
    if links.len() <= 2 * LINKS_SHOWN + 1 {
        return links;
    }
    let tail = links.split_off(links.len() - LINKS_SHOWN);
    let left_out = links.split_off(LINKS_SHOWN);
    if let Some(first) = left_out.first() {
        let cause = Cause::Elided { links: left_out.len() };
        links.push(Link { instance: first.instance.clone(), cause });
    }
    links.extend(tail);
    links
}

/// What is on record about one task instance.
#[derive(Debug, Clone, PartialEq)]
pub struct Record {
    /// Which.
    pub instance: InstanceId,
    /// Where it stands.
    pub state: TaskState,
    /// What its row says.
    pub reason: Option<Reason>,
    /// Since when it is ready.
    pub ready: Option<Moment>,
    /// When it ended.
    pub ended: Option<Moment>,
    /// When it is tried again.
    pub retry: Option<Moment>,
    /// When the run's cancel was asked for.
    pub cancel_requested: Option<Moment>,
    /// How many workers its generation has lost.
    pub losses: u32,
    /// Its generation's last attempts, the latest first.
    pub attempts: Vec<AttemptRecord>,
    /// Live sessions, where it waits for a slot.
    pub holders: Vec<Holder>,
    /// Limits that apply to it, where it waits for a slot.
    pub limits: Vec<SlotLimit>,
}

/// What is on record about one attempt and the session that it ran in.
#[derive(Debug, Clone, PartialEq)]
pub struct AttemptRecord {
    /// The try, from 1.
    pub attempt: AttemptNumber,
    /// How it stands.
    pub state: AttemptState,
    /// Where it ran.
    pub session: SessionId,
    /// What that process is.
    pub kind: String,
    /// When it began.
    pub started: Moment,
    /// When it ended.
    pub ended: Option<Moment>,
    /// Whose fault.
    pub class: Option<String>,
    /// What it said.
    pub message: Option<String>,
    /// The session's last heartbeat.
    pub heartbeat: Option<Moment>,
    /// Whether the session's lease is in force.
    pub alive: bool,
}

/// What the record of one instance says, the present first, then the workers that it lost.
pub fn explain(record: &Record) -> Vec<Link> {
    let mut causes: Vec<_> = present(record).into_iter().collect();
    let lost = record.attempts.iter().filter(|it| it.state == AttemptState::Lost);
    causes.extend(lost.map(|it| Cause::WorkerLost { attempt: it.attempt, session: it.session, at: it.ended.clone() }));
    causes.into_iter().map(|cause| Link { instance: record.instance.clone(), cause }).collect()
}

fn present(record: &Record) -> Option<Cause> {
    let last = record.attempts.first();
    let ended = || record.ended.clone();
    Some(match (record.state, last) {
        (TaskState::Ready, _) => {
            let (holders, limits) = (record.holders.clone(), record.limits.clone());
            Cause::WaitingForSlot { since: record.ready.clone(), holders, limits }
        }
        (TaskState::Running, Some(it)) => Cause::Running {
            attempt: it.attempt,
            session: it.session,
            kind: it.kind.clone(),
            since: it.started.clone(),
            heartbeat: it.heartbeat.clone(),
            alive: it.alive,
        },
        (TaskState::RetryWait, Some(it)) => {
            Cause::WaitingForRetry { at: record.retry.clone(), fault: fault(it, record) }
        }
        // No attempt of its own was the last word.
        (TaskState::Failed, _)
            if matches!(
                record.reason,
                Some(Reason::WaitedTooLong { .. } | Reason::ConditionBroken { .. } | Reason::FanOutBroken { .. })
            ) =>
        {
            return record.reason.clone().map(Cause::Stated);
        }
        (TaskState::Failed, Some(it)) if it.state == AttemptState::TimedOut => {
            Cause::AttemptTimedOut { fault: fault(it, record) }
        }
        (TaskState::Failed, Some(it)) => Cause::AttemptFailed { fault: fault(it, record) },
        (TaskState::Quarantined, _) => Cause::Quarantined { losses: record.losses },
        (TaskState::Canceled, _) => Cause::RunCanceled { requested: record.cancel_requested.clone(), at: ended() },
        (TaskState::Succeeded, _) if matches!(record.reason, Some(Reason::Reused { .. } | Reason::Memoized { .. })) => {
            return record.reason.clone().map(Cause::Stated);
        }
        (TaskState::Succeeded, Some(it)) => Cause::Succeeded { attempt: it.attempt, at: ended() },
        // A skip that the way up does not explain: an empty list.
        _ => return record.reason.clone().map(Cause::Stated),
    })
}

fn fault(attempt: &AttemptRecord, record: &Record) -> Fault {
    let message = attempt.message.clone().or_else(|| record.reason.as_ref().map(ToString::to_string));
    Fault { attempt: attempt.attempt, class: attempt.class.clone(), message: message.unwrap_or_default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_grouped() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (100_000, "100,000"), (1_234_567, "1,234,567")]
        {
            assert_eq!(thousands(number), text);
        }
    }

    #[test]
    fn moments_say_how_far_away_they_are() {
        let shown = |seconds_ago| Moment { at: "T".into(), seconds_ago }.to_string();
        assert_eq!(shown(0), "T (0 s ago)");
        assert_eq!(shown(-5), "T (in 5 s)");
        assert_eq!(shown(119), "T (119 s ago)");
        assert_eq!(shown(7_199), "T (119 min ago)");
        assert_eq!(shown(90_000), "T (25 h ago)");
        assert_eq!(shown(3 * 86_400), "T (3 days ago)");
    }

    #[test]
    fn long_chains_keep_both_ends() {
        let instance = |n: usize| InstanceId::new(TaskId::parse(&format!("t{n}")).expect("valid"), None);
        let chain = |length| (0..length).map(|n| Link { instance: instance(n), cause: Cause::NotAdvanced }).collect();
        assert_eq!(elide(chain(21)).len(), 21);
        let cut = elide(chain(10_000));
        assert_eq!(cut.len(), 21);
        assert_eq!(cut[10].cause, Cause::Elided { links: 9_980 });
        assert_eq!((&cut[0].instance, &cut[20].instance), (&instance(0), &instance(9_999)));
    }
}
