//! What is different about a task in the version that a replay is made of: its result can not be taken over.
//!
//! Called by the plan of a replay with `--version latest`. Compares what a task says and what its templates
//! refer to; what its upstreams made is compared by their own steps.

use serde_json::Value;

use crate::dag::Task;
use crate::id::InstanceId;
use crate::store::{NewRun, Origin, PinnedDocument};
use crate::template::references;

/// What changed, as the rest of a sentence that begins with the instance; `None` = nothing that counts.
pub(super) fn change(origin: &Origin, new: &NewRun, instance: &InstanceId) -> Option<String> {
    let (old, now) = (origin.dag.task(&instance.task)?, new.dag.task(&instance.task)?);
    let parts = [
        ("kind", old.kind != now.kind),
        ("with", old.with != now.with),
        ("needs", old.needs != now.needs || old.inputs != now.inputs),
        ("trigger_rule", old.trigger_rule != now.trigger_rule),
        ("if", old.condition != now.condition),
        ("for_each", old.for_each != now.for_each),
        ("matrix", element(old, instance) != element(now, instance)),
    ];
    if let Some((part, _)) = parts.iter().find(|(_, is_other)| *is_other) {
        return Some(format!("has another `{part}` in the latest version"));
    }
    if let Some(name) = other_value(origin, new, now) {
        return Some(format!("reads {name}, which has another value now"));
    }
    let document = |documents: &[PinnedDocument]| -> Vec<(String, String)> {
        let own = documents.iter().filter(|it| it.instance == *instance);
        own.map(|it| (it.param.clone(), it.content.clone())).collect()
    };
    let (before, after) = (document(&origin.documents), document(&new.documents));
    let other = after.iter().find(|it| !before.contains(it));
    other.map(|(param, _)| format!("has another document for `{param}`"))
}

fn element<'a>(task: &'a Task, instance: &InstanceId) -> Option<&'a indexmap::IndexMap<String, Value>> {
    task.matrix.get(usize::try_from(instance.index?).ok()?)
}

/// The first parameter that the task's templates name and that has another value.
fn other_value(origin: &Origin, new: &NewRun, task: &Task) -> Option<String> {
    let for_each = task.for_each.clone().map(Value::from);
    let written = [Some(&task.with), task.condition.as_ref(), for_each.as_ref()];
    for reference in written.into_iter().flatten().flat_map(references) {
        let Ok(reference) = reference.item else { continue };
        let (Some(root), Some(name)) = (reference.path.first(), reference.path.get(1)) else { continue };
        let (before, after) = match root.as_str() {
            "params" => (&origin.params, &new.params),
            "tenant" => (&origin.tenant_params, &new.tenant_params),
            _ => continue,
        };
        if before.get(name) != after.get(name) {
            return Some(format!("{root}.{name}"));
        }
    }
    None
}
