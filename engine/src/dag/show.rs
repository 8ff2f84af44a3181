//! A DAG for people (text), for Graphviz (dot) and for scripts (JSON).
//!
//! `headworks dag show` prints what these yield.

use std::fmt::Write;

use petgraph::algo::toposort;
use petgraph::graph::NodeIndex;
use petgraph::visit::EdgeRef;
use serde_json::{Value, json};

use super::{Dag, Isolation, RetryPolicy, Task, TriggerRule};
use crate::schedule::duration;

/// Values of an axis that are written out in text.
const VALUES_SHOWN: usize = 8;

/// One line per task, by level: what can run at the same time stands together.
pub fn text(dag: &Dag) -> String {
    let levels = levels(dag);
    let last = levels.iter().copied().max().unwrap_or(0);
    let (tasks, edges) = (count(dag.graph.node_count(), "task"), count(dag.graph.edge_count(), "edge"));
    let mut out = format!("{}  {tasks}, {edges}\n", dag.id);
    if !dag.description.is_empty() {
        out.push_str(&dag.description);
        out.push('\n');
    }
    let width = |of: fn(&Task) -> &str| dag.tasks().map(|task| of(task).len()).max().unwrap_or(0);
    let (name_width, kind_width) = (width(|task| task.id.as_str()), width(|task| &task.kind));
    let mut by_level = vec![Vec::new(); last + 1];
    for node in dag.graph.node_indices() {
        by_level[levels[node.index()]].push(node);
    }
    for (level, nodes) in by_level.iter().enumerate() {
        for (place, &node) in nodes.iter().enumerate() {
            let task = &dag.graph[node];
            let number = if place == 0 { format!("{}", level + 1) } else { String::new() };
            let line = format!(
                "{number:>4}  {:name_width$}  {:kind_width$}  {}",
                task.id.as_str(),
                task.kind,
                remarks(task).join("; ")
            );
            out.push_str(line.trim_end());
            out.push('\n');
        }
    }
    out
}

fn remarks(task: &Task) -> Vec<String> {
    let mut remarks = Vec::new();
    if !task.needs.is_empty() {
        remarks.push(format!("needs {}", task.needs.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ")));
    }
    if task.trigger_rule != TriggerRule::default() {
        remarks.push(task.trigger_rule.as_str().to_owned());
    }
    if let Some(condition) = &task.condition {
        remarks.push(format!("if {}", plain(condition)));
    }
    if let Some(limit) = task.timeouts.attempt {
        remarks.push(format!("timeout {}", duration::format(limit)));
    }
    if !task.matrix.is_empty() {
        remarks.push(format!("x{} {}", task.matrix.len(), axes(task)));
    }
    remarks
}

/// `model: a, b, c`
fn axes(task: &Task) -> String {
    let names = task.matrix.first().map(|element| element.keys().cloned().collect::<Vec<_>>()).unwrap_or_default();
    let axis = |name: &String| {
        let mut values: Vec<String> = Vec::new();
        for value in task.matrix.iter().filter_map(|element| element.get(name)).map(plain) {
            if values.len() > VALUES_SHOWN {
                break;
            }
            if !values.contains(&value) {
                values.push(value);
            }
        }
        if values.len() > VALUES_SHOWN {
            values[VALUES_SHOWN] = "...".to_owned();
        }
        format!("{name}: {}", values.join(", "))
    };
    names.iter().map(axis).collect::<Vec<_>>().join("; ")
}

/// A digraph for Graphviz, from left to right.
pub fn dot(dag: &Dag) -> String {
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box];\n", dag.id);
    let mut line = |text: String| {
        out.push_str("  ");
        out.push_str(&text);
        out.push_str(";\n");
    };
    for task in dag.tasks() {
        let mut label =
            if task.kind == task.id.as_str() { task.kind.clone() } else { format!("{}\n{}", task.id, task.kind) };
        if !task.matrix.is_empty() {
            // A String never fails to be written to.
            let _ = write!(label, "\nx{}", task.matrix.len());
        }
        let style = if task.condition.is_some() { ", style=dashed" } else { "" };
        line(format!("\"{}\" [label=\"{}\"{style}]", task.id, escape(&label)));
    }
    for edge in dag.graph.edge_references() {
        let (from, to) = (&dag.graph[edge.source()], &dag.graph[edge.target()]);
        let rule = match to.trigger_rule {
            TriggerRule::AllSuccess => String::new(),
            rule => format!(" [label=\"{}\"]", rule.as_str()),
        };
        line(format!("\"{}\" -> \"{}\"{rule}", from.id, to.id));
    }
    out.push_str("}\n");
    out
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

/// Everything that is known of the DAG, tasks in the file's order. Durations in seconds.
pub fn json(dag: &Dag) -> Value {
    let levels = levels(dag);
    let tasks = dag.graph.node_indices().map(|node| task_json(&dag.graph[node], levels[node.index()] + 1));
    let edges =
        dag.graph.edge_references().map(|edge| json!([dag.graph[edge.source()].id, dag.graph[edge.target()].id]));
    let params = dag.params.iter().map(|(name, param)| {
        let mut declared = param.schema.clone();
        if let (Some(declared), Some(default)) = (declared.as_object_mut(), &param.default) {
            declared.insert("default".into(), default.clone());
        }
        (name.clone(), declared)
    });
    json!({
        "dag": dag.id,
        "version": dag.version,
        "description": dag.description,
        "tags": dag.tags,
        "max_active_runs": dag.max_active_runs,
        "overlap": dag.overlap.as_str(),
        "deadline": dag.deadline.map(|limit| limit.as_secs_f64()),
        "schedule": dag.schedule,
        "params": params.collect::<serde_json::Map<_, _>>(),
        "tasks": tasks.collect::<Vec<_>>(),
        "edges": edges.collect::<Vec<_>>(),
    })
}

fn task_json(task: &Task, level: usize) -> Value {
    let inputs = task
        .inputs
        .iter()
        .map(|input| json!({"name": input.name, "producers": input.producers, "optional": input.optional}));
    let seconds = |limit: Option<std::time::Duration>| limit.map(|limit| limit.as_secs_f64());
    json!({
        "task": task.id,
        "kind": task.kind,
        "level": level,
        "needs": task.needs,
        "trigger_rule": task.trigger_rule,
        "if": task.condition,
        "matrix": task.matrix,
        "with": task.with,
        "inputs": inputs.collect::<Vec<_>>(),
        "outputs": task.outputs.iter().map(|output| &output.name).collect::<Vec<_>>(),
        "timeout": {
            "queue": seconds(task.timeouts.queue),
            "attempt": seconds(task.timeouts.attempt),
            "total": seconds(task.timeouts.total),
        },
        "retries": retries_json(&task.retries),
        "pool": task.pool,
        "priority": task.priority,
        "cache": task.cache,
        "isolation": match task.isolation { Isolation::Inline => "inline", Isolation::Process => "process" },
        "max_in_flight": task.max_in_flight,
    })
}

fn retries_json(policy: &RetryPolicy) -> Value {
    json!({
        "max": policy.max,
        "backoff": match policy.backoff { super::Backoff::Constant => "constant", super::Backoff::Exponential => "exponential" },
        "initial": policy.initial.as_secs_f64(),
        "max_delay": policy.max_delay.as_secs_f64(),
        "jitter": policy.jitter,
        "retry_on": match policy.retry_on { super::RetryOn::Transient => "transient", super::RetryOn::Any => "any" },
    })
}

/// Per node, the length of the longest path that leads to it.
fn levels(dag: &Dag) -> Vec<usize> {
    let mut levels = vec![0; dag.graph.node_count()];
    // A lowered DAG has no cycle; of a graph that has one, nothing is leveled.
    for node in toposort(&dag.graph, None).unwrap_or_default() {
        let above = |parent: NodeIndex| levels[parent.index()] + 1;
        let level = dag.graph.neighbors_directed(node, petgraph::Direction::Incoming).map(above).max();
        levels[node.index()] = level.unwrap_or(0);
    }
    levels
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
