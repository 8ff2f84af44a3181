//! Warnings: what is accepted, but will be regretted.
//!
//! Called by `lower`, last. Sparing on purpose: a warning on a good DAG teaches people to look away.

use std::collections::HashSet;

use serde_json::Value;

use super::bind::{Bound, Ports};
use super::graph::Links;
use super::read::Sink;
use super::spec::{DagSpec, TaskSpec};
use super::{DependsOn, Diagnostic, KindInfo};
use crate::template::{self, is_template};

/// Notes tasks that may run for ever; once for the file, since `[defaults]` mends it once.
pub(crate) fn no_timeout(spec: &DagSpec<'_, '_>, sink: &mut Sink<'_>) {
    let unlimited = spec.tasks.iter().filter(|task| task.policies.timeouts.attempt.is_none()).collect::<Vec<_>>();
    let Some(first) = unlimited.first() else { return };
    let message = match unlimited.len() {
        1 => format!("{} has no timeout", first.name),
        many => format!("{} and {} more tasks have no timeout", first.name, many - 1),
    };
    sink.push(
        Diagnostic::warning("lint::no_timeout", first.span.clone(), message)
            .label("may run for ever")
            .help("add timeout = \"30m\" to [defaults] or to the task"),
    );
}

/// Notes a task that talks to the world and gives up at the first hiccup.
pub(crate) fn no_retries(task: &TaskSpec<'_, '_>, kind: &KindInfo, sink: &mut Sink<'_>) {
    if kind.does_io && !task.policies.retries_given {
        let message = format!("{} does I/O and has no retries", task.name);
        sink.push(
            Diagnostic::warning("lint::no_retries", task.span.clone(), message)
                .label("fails at the first hiccup")
                .help("add retries = { max = 2 } to [defaults] or to the task; retries = 0 says that this is meant"),
        );
    }
}

/// Notes a task whose `cache = true` can not be kept.
pub(crate) fn cache_without_effect(task: &TaskSpec<'_, '_>, kind: &KindInfo, sink: &mut Sink<'_>) {
    if task.cache && kind.depends_on == DependsOn::Outside {
        let message =
            format!("{} is never memoized: what {} makes hangs on more than its inputs", task.name, kind.name);
        sink.push(
            Diagnostic::warning("lint::cache_without_effect", task.span.clone(), message)
                .label("cache = true has no effect")
                .help("remove cache = true"),
        );
    }
}

/// Notes a task in the middle of which nothing is read: not an artifact, not an output.
pub(crate) fn unread(
    spec: &DagSpec<'_, '_>,
    links: &Links,
    (ports, bound): (&[Ports], &[Vec<Bound>]),
    sink: &mut Sink<'_>,
) {
    let mut read = bound.iter().flatten().flat_map(|input| input.producers.iter().copied()).collect::<HashSet<_>>();
    let named = spec.tasks.iter().flat_map(named_tasks).collect::<HashSet<_>>();
    // A downstream that declares no input may be there for the order, or read by other means.
    for (index, parents) in links.parents.iter().enumerate() {
        if ports[index].inputs.is_empty() {
            read.extend(parents);
        }
    }
    let inner = links.parents.iter().flatten().copied().collect::<HashSet<_>>();
    for (index, task) in spec.tasks.iter().enumerate() {
        let makes = !ports[index].outputs.is_empty();
        if makes && inner.contains(&index) && !read.contains(&index) && !named.contains(task.name) {
            sink.push(
                Diagnostic::warning(
                    "lint::unread_output",
                    task.span.clone(),
                    format!("nothing reads what {} makes", task.name),
                )
                .label("made for nobody")
                .help("remove the task, or check that the right tasks need it"),
            );
        }
    }
}

fn named_tasks(task: &TaskSpec<'_, '_>) -> Vec<String> {
    let condition = task.condition.as_ref().map(|(_, value)| template::references(value)).unwrap_or_default();
    let found = template::references(&task.with.value).into_iter().chain(condition);
    found
        .filter_map(|found| found.item.ok())
        .filter(|reference| reference.path.first().is_some_and(|root| root == "tasks"))
        .filter_map(|reference| reference.path.into_iter().nth(1))
        .collect()
}

/// Endings of keys that name a secret.
const SECRET_KEYS: [&str; 9] =
    ["password", "passwd", "passphrase", "secret", "token", "api_key", "apikey", "access_key", "private_key"];

/// Notes literals under keys that name a secret, and passwords within URLs.
pub(crate) fn plain_secrets(task: &TaskSpec<'_, '_>, sink: &mut Sink<'_>) {
    for pointer in secrets_in(&task.with.value) {
        let place = pointer.join(".");
        let span = task.with.span_at(&pointer);
        sink.push(
            Diagnostic::warning("lint::plain_secret", span, format!("{}.with.{place} looks like a secret", task.name))
                .label("a secret in plain sight")
                .help(
                    "this file is stored with every run: write { secret = \"name\" } where the task's kind takes one, \
                     and keep the value where only the worker reads it (docs/secrets.md)",
                ),
        );
    }
}

/// Where a value holds what looks like a secret.
pub(crate) fn secrets_in(value: &Value) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    collect_secrets(value, &mut Vec::new(), &mut found);
    found
}

fn collect_secrets(value: &Value, pointer: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    match value {
        Value::Object(entries) => {
            // `{ secret = "name" }` names a secret; it is none.
            let is_reference = entries.len() == 1 && entries.contains_key("secret");
            for (key, item) in entries {
                pointer.push(key.clone());
                let literal = item.as_str().is_some_and(|text| !text.is_empty() && !is_template(text));
                if literal && !is_reference && names_secret(key) {
                    found.push(pointer.clone());
                } else {
                    collect_secrets(item, pointer, found);
                }
                pointer.pop();
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointer.push(index.to_string());
                collect_secrets(item, pointer, found);
                pointer.pop();
            }
        }
        Value::String(text) if has_password(text) => found.push(pointer.clone()),
        _ => {}
    }
}

fn names_secret(key: &str) -> bool {
    let key = key.to_lowercase().replace('-', "_");
    SECRET_KEYS.iter().any(|ending| key.ends_with(ending))
}

/// `scheme://user:password@host`
fn has_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let password = authority.rsplit_once('@').and_then(|(user, _)| user.split_once(':')).map(|(_, password)| password);
    password.is_some_and(|password| !password.is_empty() && !is_template(password))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn secrets_are_seen_and_references_are_not() {
        let with = json!({
            "password": "hunter2", "env": {"DB_TOKEN": "abc", "API-KEY": "x", "EMPTY_TOKEN": ""},
            "token": {"secret": "db"}, "tokens": "many words", "secret": "{{tenant.name}}",
            "urls": ["https://a:b@host/x", "https://host/a:b@c", "https://user@host"]
        });
        let mut found = secrets_in(&with).iter().map(|pointer| pointer.join(".")).collect::<Vec<_>>();
        found.sort();
        assert_eq!(found, ["env.API-KEY", "env.DB_TOKEN", "password", "urls.0"]);
    }
}
