//! The JSON shapes that others script against, and the tables that people read instead.
//!
//! Used by `run` and `runs show`. Wire types are made here from the store's views: renaming a field
//! of the engine must not rename one here.

use engine::artifact::ArtifactStore;
use engine::store::{ArtifactView, RunSummary, RunView, TaskView};
use serde_json::{Value, json};

use crate::output::Output;

/// The report that a run ends with, if it made one.
const REPORT: &str = "report.html";

/// Where people find the run's report.
pub(super) fn report(view: &RunView, artifacts: &ArtifactStore) -> Option<String> {
    let made = view.artifacts.iter().rev().find(|it| it.artifact.name.as_str() == REPORT)?;
    Some(artifacts.location(&made.artifact.key))
}

/// `run` and `runs show`.
pub(super) fn run(view: &RunView, report: Option<&str>) -> Value {
    let mut whole = summary(&view.summary);
    if let Some(fields) = whole.as_object_mut() {
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
        "state": it.state, "seed": it.seed, "dag_version": it.dag_version, "created_at": it.created_at,
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

/// The table of a run's tasks.
pub(super) fn task_table(output: &Output, view: &RunView) {
    let rows = view.tasks.iter().map(|it| {
        let labels = [
            it.instance.to_string(),
            it.state.to_string(),
            it.attempts.to_string(),
            it.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default(),
            it.reason.as_ref().map(ToString::to_string).unwrap_or_default(),
        ];
        labels.to_vec()
    });
    output.table(&["task", "state", "attempts", "time", "reason"], rows.collect());
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
