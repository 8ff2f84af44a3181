//! The JSON shapes that others script against, and the tables that people read instead.
//!
//! Used by `run`, `retry`, `runs` and `why`. Wire types are made here from the store's views: renaming a
//! field of the engine must not rename one here.

use std::collections::HashMap;

use engine::id::{RunId, TaskId};
use engine::plan::Link;
use engine::run::TaskState;
use engine::store::{ArtifactView, EventView, RunSummary, RunView, TaskGroup, TaskView, Why};
use serde_json::{Value, json};

use crate::output::Output;

/// Elements that a table lists one by one; a task with more is summed up by state.
pub(super) const ELEMENTS_LISTED: u32 = 20;

/// `run`, `retry` and `runs show`: `tasks`, `artifacts` and `outputs` are those of the window, `instances`
/// counts all.
pub(super) fn run(view: &RunView, offset: u64, report: Option<&str>) -> Value {
    let mut whole = summary(&view.summary);
    if let Some(fields) = whole.as_object_mut() {
        fields.insert("instances".into(), json!(view.instances));
        fields.insert("offset".into(), json!(offset));
        fields.insert("tasks".into(), view.tasks.iter().map(task).collect());
        fields.insert("artifacts".into(), view.artifacts.iter().map(artifact).collect());
        fields.insert("report".into(), json!(report));
        fields.insert("outputs".into(), view.outputs.clone());
    }
    whole
}

/// A line of `runs list`.
pub(super) fn summary(it: &RunSummary) -> Value {
    json!({
        "run_id": it.run_id.to_string(), "dag": it.dag, "tenant": it.tenant, "kind": it.kind,
        "parent_run": it.parent_run.map(|run| run.to_string()),
        "state": it.state, "seed": it.seed, "dag_version": it.dag_version,
        "logical_time": it.logical_time, "interval_start": it.interval.as_ref().map(|it| &it.0),
        "interval_end": it.interval.as_ref().map(|it| &it.1), "created_at": it.created_at,
        "started_at": it.started_at, "finished_at": it.finished_at, "seconds": it.seconds,
    })
}

fn task(it: &TaskView) -> Value {
    json!({
        "task": it.instance.task, "index": it.instance.index, "state": it.state, "generation": it.generation,
        "attempts": it.attempts, "seconds": it.seconds,
        "reason": it.reason.as_ref().map(|reason| json!({ "code": reason.code(), "message": reason.to_string() })),
    })
}

/// An artifact.
pub(super) fn artifact(it: &ArtifactView) -> Value {
    json!({
        "task": it.producer.task, "index": it.producer.index, "name": it.artifact.name, "key": it.artifact.key,
        "digest": it.artifact.digest, "bytes": it.artifact.bytes, "rows": it.artifact.rows,
    })
}

/// The lines of the table of a run's tasks: `small` holds the instances of the tasks that are listed one
/// by one, the others have one line per state.
pub(super) fn task_lines(groups: &[TaskGroup], small: &[TaskView]) -> Vec<Vec<String>> {
    let mut listed: HashMap<&TaskId, Vec<&TaskView>> = HashMap::new();
    for it in small {
        listed.entry(&it.instance.task).or_default().push(it);
    }
    let mut lines = Vec::new();
    for states in groups.chunk_by(|one, two| one.task == two.task) {
        let all: u64 = states.iter().map(|group| group.instances).sum();
        let task = states.first().map(|group| &group.task);
        match task.and_then(|task| listed.remove(task)) {
            Some(views) => lines.extend(views.into_iter().map(instance_line)),
            None => lines.extend(states.iter().map(|group| group_line(group, all))),
        }
    }
    lines
}

fn instance_line(it: &TaskView) -> Vec<String> {
    let reason = it.reason.as_ref().map(ToString::to_string).unwrap_or_default();
    line(it.instance.to_string(), it.state, it.attempts, it.seconds, reason)
}

fn group_line(it: &TaskGroup, all: u64) -> Vec<String> {
    let reason = it.reason.as_ref().map(|reason| format!("such as: {reason}")).unwrap_or_default();
    line(format!("{} ({} of {all})", it.task, it.instances), it.state, it.attempts, it.seconds, reason)
}

fn line(name: String, state: TaskState, attempts: i64, seconds: Option<f64>, reason: String) -> Vec<String> {
    let seconds = seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default();
    vec![name, state.to_string(), attempts.to_string(), seconds, reason]
}

/// `why`
pub(super) fn why(run: RunId, it: &Why) -> Value {
    let reason = |link: &Link| {
        json!({
            "code": link.cause.code(), "message": link.to_string(),
            "task": link.instance.task, "index": link.instance.index,
        })
    };
    json!({
        "run_id": run.to_string(), "task": it.instance.task, "index": it.instance.index, "state": it.state,
        "reasons": it.links.iter().map(reason).collect::<Vec<_>>(),
    })
}

/// A line of `runs events`.
pub(super) fn event(it: &EventView) -> Value {
    let detail = it.detail.as_deref().map(|text| serde_json::from_str(text).unwrap_or_else(|_| json!(text)));
    json!({
        "at": it.at, "task": it.instance.as_ref().map(|it| &it.task),
        "index": it.instance.as_ref().and_then(|it| it.index), "generation": it.generation, "seq": it.seq,
        "event": it.event, "state": it.state, "attempt": it.attempt, "epoch": it.epoch, "session": it.session,
        "detail": detail,
    })
}

/// How the models did against each other, and what the gate decided: from the outputs of whichever
/// tasks have them.
pub(super) fn judgement(output: &Output, view: &RunView) {
    let Some(outputs) = view.outputs.as_object() else { return };
    for result in outputs.values() {
        let rows: Vec<_> = result.get("metrics").and_then(Value::as_array).into_iter().flatten().collect();
        let whole: Vec<_> = rows.iter().filter(|row| row["slice"] == "all").map(|row| figures(row)).collect();
        if !whole.is_empty() {
            output.line("");
            output.table(&["model", "origin", "WAPE", "bias", "rows"], whole);
        }
    }
    for result in outputs.values() {
        if let (Some(promoted), Some(reason)) = (result["promoted"].as_bool(), result["reason"].as_str()) {
            let word = if promoted { "promoted" } else { "not promoted" };
            output.line(&format!("\ngate: {word}: {reason}"));
        }
    }
}

fn figures(row: &Value) -> Vec<String> {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let figure = |key: &str| row[key].as_f64().map_or_else(|| "-".to_owned(), |value| format!("{value:.4}"));
    let rows = row["rows"].as_u64().map(|rows| rows.to_string()).unwrap_or_default();
    vec![text("model"), text("origin"), figure("wape"), figure("bias"), rows]
}

#[cfg(test)]
mod tests {
    use engine::id::InstanceId;

    use super::*;

    #[test]
    fn many_elements_are_summed_up_and_few_are_listed() {
        let task = |name| TaskId::parse(name).expect("valid");
        let group = |name, state, instances| TaskGroup {
            task: task(name),
            state,
            instances,
            attempts: 7,
            seconds: None,
            reason: None,
        };
        let view = TaskView {
            instance: InstanceId::new(task("few"), Some(0)),
            state: TaskState::Succeeded,
            generation: 1,
            attempts: 1,
            seconds: Some(2.0),
            reason: None,
        };
        let groups = [
            group("many", TaskState::Succeeded, 99_999),
            group("many", TaskState::Failed, 1),
            group("few", TaskState::Succeeded, 1),
        ];
        let names: Vec<_> = task_lines(&groups, &[view]).into_iter().map(|line| line[0].clone()).collect();
        assert_eq!(names, ["many (99999 of 100000)", "many (1 of 100000)", "few[0]"]);
    }
}
