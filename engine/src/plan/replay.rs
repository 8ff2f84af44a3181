//! What a replay runs and what it takes over: from how the instances of an earlier run ended and what was
//! asked for to one step per task instance.
//!
//! Called by `replay`, which reads the earlier run and checks the objects behind what is to be reused. A
//! step is `run` wherever nothing can be taken over, and below everything that runs: what is reused has
//! only reused instances above it.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::algo::toposort;

use crate::dag::{Dag, Task};
use crate::id::{InstanceId, RunId, TaskId};
use crate::run::TaskState;

/// What a person asks to run again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// What did not end well, and all below it.
    Failed,
    /// One task (all its elements, or one), and all below it.
    Task(TaskId, Option<u32>),
    /// These instances alone, whatever is below them: only a verification compares them one by one.
    Only(BTreeSet<InstanceId>),
    /// Everything.
    All,
}

/// How an instance of the earlier run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PastInstance {
    /// Which.
    pub instance: InstanceId,
    /// Where it stands.
    pub state: TaskState,
    /// What is different about its task in the version that the replay is made of, as the rest of a
    /// sentence that begins with the task.
    pub changed: Option<String>,
    /// What is wrong with an artifact of it.
    pub broken: Option<String>,
}

/// What becomes of a task instance in a replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReplayAction {
    /// It is computed.
    Run,
    /// Its result is that of the earlier run.
    Reuse,
    /// It would be reused, and can not be: the replay can not be made.
    Blocked,
}

impl ReplayAction {
    /// The word in JSON and on a terminal.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Reuse => "reuse",
            Self::Blocked => "blocked",
        }
    }
}

impl std::fmt::Display for ReplayAction {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// One task instance of a replay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplayStep {
    /// Which.
    pub instance: InstanceId,
    /// What becomes of it.
    pub action: ReplayAction,
    /// Why, as a sentence without its subject.
    pub reason: String,
    /// Of an element that runs: whether its list is read anew, so that it may turn out to be another one.
    pub is_anew: bool,
}

/// Plans a replay of `run` on `dag`, in the order of the DAG. Same arguments, same plan.
pub fn plan_replay(dag: &Dag, run: RunId, selection: &Selection, past: &[PastInstance]) -> Vec<ReplayStep> {
    let mut by_task: BTreeMap<&TaskId, Vec<&PastInstance>> = BTreeMap::new();
    for it in past {
        by_task.entry(&it.instance.task).or_default().push(it);
    }
    let mut steps: BTreeMap<&TaskId, Vec<ReplayStep>> = BTreeMap::new();
    // A `Dag` has no cycle: `lower` has seen to that.
    for node in toposort(&dag.graph, None).unwrap_or_default() {
        let task = &dag.graph[node];
        let past = by_task.get(&task.id).map_or(&[][..], Vec::as_slice);
        let above = match selection {
            Selection::Only(_) => None,
            _ => running_above(task, &steps),
        };
        steps.insert(&task.id, task_steps(task, past, (run, selection), above));
    }
    dag.tasks().filter_map(|task| steps.remove(&task.id)).flatten().collect()
}

/// The first task above that runs, in whole or in part.
fn running_above<'a>(task: &'a Task, steps: &BTreeMap<&TaskId, Vec<ReplayStep>>) -> Option<&'a TaskId> {
    let runs =
        |id: &&TaskId| steps.get(*id).is_some_and(|steps| steps.iter().any(|step| step.action == ReplayAction::Run));
    task.needs.iter().find(runs)
}

fn task_steps(
    task: &Task,
    past: &[&PastInstance],
    (run, selection): (RunId, &Selection),
    above: Option<&TaskId>,
) -> Vec<ReplayStep> {
    let found: BTreeMap<Option<u32>, &PastInstance> = past.iter().map(|it| (it.instance.index, *it)).collect();
    let indexes: Vec<Option<u32>> = match (task.for_each.is_some(), task.matrix.len()) {
        (true, _) if found.is_empty() => vec![Some(0)],
        (true, _) => found.keys().copied().collect(),
        (false, 0) => vec![None],
        (false, elements) => (0..elements).map(|index| u32::try_from(index).ok()).collect(),
    };
    let decide = |index: Option<u32>| {
        let instance = InstanceId::new(task.id.clone(), index);
        let past = found.get(&index).copied();
        let why = runs_because(&instance, past, selection, above);
        let (action, reason) = match (why, past) {
            (Some(why), _) => (ReplayAction::Run, why),
            (None, Some(PastInstance { broken: Some(broken), .. })) => (ReplayAction::Blocked, broken.clone()),
            (None, Some(past)) if past.state == TaskState::Skipped => {
                (ReplayAction::Reuse, format!("was skipped in run {run}"))
            }
            (None, _) => (ReplayAction::Reuse, format!("succeeded in run {run}")),
        };
        ReplayStep { instance, action, reason, is_anew: false }
    };
    let mut steps: Vec<_> = indexes.into_iter().map(decide).collect();
    if task.for_each.is_some() {
        let is_whole = steps.iter().all(|step| step.action == ReplayAction::Run) && above.is_some();
        let is_changed = past.iter().any(|it| it.changed.is_some());
        let is_unknown = found.is_empty();
        let asked =
            matches!(selection, Selection::All) || matches!(selection, Selection::Task(id, None) if *id == task.id);
        if is_whole || is_changed || is_unknown || asked {
            steps.iter_mut().for_each(|step| step.is_anew = step.action == ReplayAction::Run);
        }
    }
    steps
}

/// Why an instance has to run; `None` = its result can be taken over.
fn runs_because(
    instance: &InstanceId,
    past: Option<&PastInstance>,
    selection: &Selection,
    above: Option<&TaskId>,
) -> Option<String> {
    let asked = match selection {
        Selection::All => true,
        Selection::Task(task, index) => instance.task == *task && (index.is_none() || instance.index == *index),
        Selection::Only(some) => some.contains(instance),
        Selection::Failed => false,
    };
    if asked {
        return Some("is asked for".to_owned());
    }
    let Some(past) = past else { return Some("is new: the earlier run has no such task instance".to_owned()) };
    if !matches!(past.state, TaskState::Succeeded | TaskState::Skipped) {
        return Some(match past.state {
            TaskState::UpstreamFailed => "could not run, because something above it failed".to_owned(),
            TaskState::Canceled => "was canceled".to_owned(),
            TaskState::Quarantined => "was quarantined".to_owned(),
            TaskState::Failed => "failed".to_owned(),
            state => format!("is {state}: it has no result to take over"),
        });
    }
    if let Some(above) = above {
        return Some(format!("is below {above}, which runs"));
    }
    past.changed.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dag::{AnyKind, lower};

    /// a -> b -> c, a -> m (a matrix of two) -> d
    fn dag() -> Dag {
        let toml = "[dag]\nid = \"x\"\n[tasks.a]\nkind = \"any\"\n[tasks.b]\nkind = \"any\"\nneeds = [\"a\"]\n\
                    [tasks.c]\nkind = \"any\"\nneeds = [\"b\"]\n[tasks.m]\nkind = \"any\"\nneeds = [\"a\"]\n\
                    matrix = { n = [1, 2] }\n[tasks.d]\nkind = \"any\"\nneeds = [\"m\"]\n";
        lower("x.toml", toml, &AnyKind::new()).expect("good").0
    }

    fn past(state: impl Fn(&str) -> TaskState) -> Vec<PastInstance> {
        let all = [("a", None), ("b", None), ("c", None), ("m", Some(0)), ("m", Some(1)), ("d", None)];
        let one = |(task, index): (&str, Option<u32>)| {
            let instance = InstanceId::new(TaskId::parse(task).expect("an id"), index);
            let state = state(&instance.to_string());
            PastInstance { instance, state, changed: None, broken: None }
        };
        all.into_iter().map(one).collect()
    }

    fn words(selection: &Selection, past: &[PastInstance]) -> Vec<String> {
        let run = RunId::from_uuid(uuid::Uuid::nil());
        let steps = plan_replay(&dag(), run, selection, past);
        steps.iter().map(|step| format!("{} {}", step.instance, step.action.as_str())).collect()
    }

    #[test]
    fn what_failed_runs_with_all_below_it_and_the_rest_is_reused() {
        let past = past(|it| match it {
            "b" | "m[1]" => TaskState::Failed,
            "c" | "d" => TaskState::UpstreamFailed,
            _ => TaskState::Succeeded,
        });
        let expected = ["a reuse", "b run", "c run", "m[0] reuse", "m[1] run", "d run"];
        assert_eq!(words(&Selection::Failed, &past), expected);
    }

    #[test]
    fn one_task_takes_all_below_it_and_whatever_has_no_result() {
        let good = past(|_| TaskState::Succeeded);
        let b = Selection::Task(TaskId::parse("b").expect("an id"), None);
        assert_eq!(words(&b, &good), ["a reuse", "b run", "c run", "m[0] reuse", "m[1] reuse", "d reuse"]);
        let m = Selection::Task(TaskId::parse("m").expect("an id"), Some(1));
        assert_eq!(words(&m, &good), ["a reuse", "b reuse", "c reuse", "m[0] reuse", "m[1] run", "d run"]);
        let bad = past(|it| if it == "a" { TaskState::Canceled } else { TaskState::Succeeded });
        assert!(words(&b, &bad).iter().all(|it| it.ends_with(" run")), "nothing stands on what was canceled");
    }

    #[test]
    fn a_broken_artifact_blocks_only_what_would_be_reused() {
        let mut past = past(|it| if it == "c" { TaskState::Failed } else { TaskState::Succeeded });
        past[1].broken = Some("gone".into());
        assert_eq!(words(&Selection::Failed, &past)[..3], ["a reuse", "b blocked", "c run"]);
        assert_eq!(words(&Selection::All, &past)[..3], ["a run", "b run", "c run"]);
    }

    #[test]
    fn what_changed_and_what_is_new_runs() {
        let mut past = past(|_| TaskState::Succeeded);
        past[3].changed = Some("has another `with`".into());
        past.remove(1);
        let expected = ["a reuse", "b run", "c run", "m[0] run", "m[1] reuse", "d run"];
        assert_eq!(words(&Selection::Failed, &past), expected);
    }
}
