//! What a new version of a DAG changes, in its own terms.
//!
//! `headworks dag plan` prints what this yields. A task whose own meaning changed is computed anew, and so
//! is all that lies below it; whatever only changes when or how often something runs is not.

use std::collections::BTreeMap;

use petgraph::Direction;
use petgraph::algo::toposort;
use serde::Serialize;

use super::{Dag, Task};
use crate::id::TaskId;

/// What becomes of a task.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum TaskChange {
    /// It is new.
    Added,
    /// It is gone.
    Removed,
    /// Its results may differ: these keys changed.
    Redefined {
        /// Names of keys in TOML.
        keys: Vec<&'static str>,
    },
    /// Its results may differ, for these upstreams' may.
    Recomputed {
        /// The direct upstreams that change.
        because: Vec<TaskId>,
    },
    /// Only how it runs changed: limits, retries, pool, priority, isolation.
    Rescheduled {
        /// Names of keys in TOML.
        keys: Vec<&'static str>,
    },
}

impl TaskChange {
    /// Whether the task's results, and with them its cache key, may change.
    pub fn recomputes(&self) -> bool {
        matches!(self, Self::Added | Self::Redefined { .. } | Self::Recomputed { .. })
    }
}

/// The tasks that change from `old` to `new`, in the order of the new graph, the removed ones last.
pub fn diff(old: &Dag, new: &Dag) -> Vec<(TaskId, TaskChange)> {
    let mut changes: BTreeMap<&TaskId, TaskChange> = BTreeMap::new();
    let mut found = Vec::new();
    // A validated DAG has no cycle.
    for node in toposort(&new.graph, None).unwrap_or_default() {
        let task = &new.graph[node];
        let upstreams = new.graph.neighbors_directed(node, Direction::Incoming).map(|node| &new.graph[node].id);
        let mut because: Vec<TaskId> =
            upstreams.filter(|id| changes.get(id).is_some_and(TaskChange::recomputes)).cloned().collect();
        because.sort();
        let change = match old.task(&task.id) {
            None => Some(TaskChange::Added),
            Some(before) => {
                let (meaning, manner) = (redefined(before, task, old, new), rescheduled(before, task));
                match (meaning.is_empty(), because.is_empty(), manner.is_empty()) {
                    (false, _, _) => Some(TaskChange::Redefined { keys: meaning }),
                    (true, false, _) => Some(TaskChange::Recomputed { because }),
                    (true, true, false) => Some(TaskChange::Rescheduled { keys: manner }),
                    (true, true, true) => None,
                }
            }
        };
        if let Some(change) = change {
            changes.insert(&task.id, change.clone());
            found.push((task.id.clone(), change));
        }
    }
    let removed = old.tasks().filter(|task| new.task(&task.id).is_none());
    found.extend(removed.map(|task| (task.id.clone(), TaskChange::Removed)));
    found
}

fn redefined(old: &Task, new: &Task, before: &Dag, after: &Dag) -> Vec<&'static str> {
    let mut needs = (old.needs.clone(), new.needs.clone());
    needs.0.sort();
    needs.1.sort();
    let params = old.with.to_string().contains("params.") && before.params != after.params;
    let checks = [
        ("kind", old.kind != new.kind),
        ("needs", needs.0 != needs.1),
        ("trigger_rule", old.trigger_rule != new.trigger_rule),
        ("if", old.condition != new.condition),
        ("matrix", old.matrix != new.matrix),
        ("for_each", old.for_each != new.for_each),
        ("with", old.with != new.with),
        ("params", params),
    ];
    checks.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}

fn rescheduled(old: &Task, new: &Task) -> Vec<&'static str> {
    let checks = [
        ("timeout", old.timeouts != new.timeouts),
        ("retries", old.retries != new.retries),
        ("pool", old.pool != new.pool),
        ("priority", old.priority != new.priority),
        ("isolation", old.isolation != new.isolation),
        ("max_in_flight", old.max_in_flight != new.max_in_flight),
        ("cache", old.cache != new.cache),
    ];
    checks.into_iter().filter_map(|(key, changed)| changed.then_some(key)).collect()
}
