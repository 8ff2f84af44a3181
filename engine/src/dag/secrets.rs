//! References to secrets, `{ secret = "name" }`: where they stand in a DAG, and where they may not.
//!
//! `with` asks when a DAG is lowered, the executor when an attempt begins. A reference is what the DAG's own text says
//! at a place that the kind names: what a template yields is data, whatever it looks like, so that no parameter and no
//! output can name a secret.

use std::collections::HashSet;

use serde_json::Value;

use super::read::{Node, Sink, brief};
use super::schema::{self, Misfit};
use super::spec::TaskSpec;
use super::{Diagnostic, KindInfo};
use crate::id::SecretName;
use crate::template::is_template;

/// The key of a reference.
const KEY: &str = "secret";

/// What a reference is judged as: some text.
const STAND_IN: &str = "***";

/// A reference in a task's `with`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretReference {
    /// Keys and indices from the root of `with` to the reference.
    pub path: Vec<String>,
    /// Which secret of the run's tenant.
    pub name: SecretName,
}

/// The references of a task's `with`, as its DAG has it: not rendered. `places` are those of its kind
/// ([`KindInfo::secrets`]).
pub fn secret_references(with: &Value, places: &[&str]) -> Vec<SecretReference> {
    let at = tables_at(with, places).into_iter();
    at.filter_map(|(path, table)| Some(SecretReference { path, name: read(table).ok()? })).collect()
}

/// Puts a text at `path`; nothing, where there is no such place.
pub fn put_secret(with: &mut Value, path: &[String], text: &str) {
    let place = path.iter().try_fold(with, |value, step| match value {
        Value::Object(entries) => entries.get_mut(step),
        Value::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get_mut(index)),
        _ => None,
    });
    if let Some(place) = place {
        *place = Value::String(text.to_owned());
    }
}

/// `with` as it is judged, a text in place of each reference, and the references that are refused: what else is wrong
/// at their places is not told.
pub(super) fn check(task: &TaskSpec<'_, '_>, kind: &KindInfo, sink: &mut Sink<'_>) -> (Value, HashSet<Vec<String>>) {
    let (mut with, mut refused) = (task.with.value.clone(), HashSet::new());
    for (path, table) in tables_at(&task.with.value, kind.secrets) {
        if let Err(wrong) = read(table) {
            let message = format!("{}: {}", place(task, &path), wrong.message);
            let diagnostic = Diagnostic::error("dag::bad_secret", task.with.span_at(&path), message);
            sink.push(diagnostic.label("refers to no secret").help(wrong.help));
            refused.insert(path.clone());
        }
        put_secret(&mut with, &path, STAND_IN);
    }
    for path in misplaced(&with, &kind.params) {
        let takes = match kind.secrets {
            [] => format!("kind {} takes none", kind.name),
            places => format!("kind {} takes them at {}", kind.name, places.join(", ")),
        };
        let message = format!("{} refers to a secret, which can not stand here", place(task, &path));
        sink.push(
            Diagnostic::error("dag::secret_not_here", task.with.span_at(&path), message)
                .label("no place for a secret")
                .help(format!("{takes}: elsewhere its value would get into names, files or arguments")),
        );
        put_secret(&mut with, &path, STAND_IN);
        refused.insert(path);
    }
    (with, refused)
}

/// Notes every reference in a value that is data: parameters, elements of a matrix. `depth` is how far below the root
/// values begin: the names above it are whatever they are.
pub(crate) fn refuse((value, node): (&Value, &Node<'_>), (name, depth): (&str, usize), sink: &mut Sink<'_>) {
    for path in references(value).into_iter().filter(|path| path.len() >= depth) {
        let place = path.iter().fold(brief(name), |place, step| format!("{place}.{}", brief(step)));
        sink.push(
            Diagnostic::error(
                "dag::secret_not_here",
                super::json::span_at(node, &path),
                format!("{place} refers to a secret"),
            )
            .label("this is data, which is stored with every run")
            .help("refer to the secret in the `with` of the task that needs it, at a place where its kind takes one"),
        );
    }
}

/// Whether a value at or below `path` is refused.
pub(super) fn is_below(refused: &HashSet<Vec<String>>, path: &[String]) -> bool {
    !refused.is_empty() && (0..=path.len()).any(|length| refused.contains(&path[..length]))
}

fn place(task: &TaskSpec<'_, '_>, path: &[String]) -> String {
    path.iter().fold(format!("{}.with", brief(task.name)), |place, step| format!("{place}.{}", brief(step)))
}

/// What keeps a table from being a reference.
struct Wrong {
    message: String,
    help: String,
}

fn read(table: &Value) -> Result<SecretName, Wrong> {
    let wrong = |message: String, help: &str| Err(Wrong { message, help: help.to_owned() });
    let form = "write { secret = \"name\" } and nothing beside it";
    if let Some(key) = table.as_object().into_iter().flatten().map(|(key, _)| key).find(|key| *key != KEY) {
        return wrong(format!("{:?} stands beside `secret`", brief(key)), form);
    }
    match table[KEY].as_str() {
        None => wrong("the name of a secret is a text".to_owned(), form),
        Some(name) if is_template(name) => {
            wrong("the name of a secret is no template".to_owned(), "write the name itself: who reads the DAG sees it")
        }
        Some(name) => SecretName::parse(name).or_else(|error| wrong(error.to_string(), error.rule)),
    }
}

/// Tables with the key `secret` at the places `token` or `env.*`.
fn tables_at<'v>(with: &'v Value, places: &[&str]) -> Vec<(Vec<String>, &'v Value)> {
    let mut found = vec![];
    for place in places {
        let steps: Vec<&str> = place.split('.').collect();
        descend(with, &steps, &mut Vec::new(), &mut found);
    }
    found.retain(|(_, value)| value.as_object().is_some_and(|entries| entries.contains_key(KEY)));
    found
}

fn descend<'v>(value: &'v Value, steps: &[&str], path: &mut Vec<String>, found: &mut Vec<(Vec<String>, &'v Value)>) {
    let Some((step, rest)) = steps.split_first() else {
        found.push((path.clone(), value));
        return;
    };
    for (key, item) in entries(value).filter(|(key, _)| *step == "*" || key == step) {
        path.push(key);
        descend(item, rest, path, found);
        path.pop();
    }
}

/// Keys or indices, and what they lead to.
fn entries(value: &Value) -> impl Iterator<Item = (String, &Value)> {
    let table = value.as_object().into_iter().flatten().map(|(key, item)| (key.clone(), item));
    let list = value.as_array().into_iter().flatten().enumerate().map(|(index, item)| (index.to_string(), item));
    table.chain(list)
}

/// References where the kind takes none: wherever a text would fit, or a table does not. What is left is a table of
/// the kind's own that happens to have one entry of that name.
fn misplaced(with: &Value, params: &Value) -> Vec<Vec<String>> {
    let paths: Vec<_> = references(with).into_iter().filter(|path| !path.is_empty()).collect();
    if paths.is_empty() {
        return paths;
    }
    let mut texts = with.clone();
    paths.iter().for_each(|path| put_secret(&mut texts, path, STAND_IN));
    let no_table = touched(&schema::judge_templated(params, with));
    let no_text = touched(&schema::judge_templated(params, &texts));
    let is_table = |path: &Vec<String>| no_text.contains(path) && !no_table.contains(path);
    paths.into_iter().filter(|path| !is_table(path)).collect()
}

/// The places of all misfits, and all places above them.
fn touched(misfits: &[Misfit]) -> HashSet<Vec<String>> {
    let all = misfits.iter().flat_map(|misfit| (0..=misfit.path.len()).map(|length| misfit.path[..length].to_vec()));
    all.collect()
}

/// Where a value has the form of a reference.
fn references(value: &Value) -> Vec<Vec<String>> {
    let mut found = Vec::new();
    collect(value, &mut Vec::new(), &mut found);
    found
}

// Recursion is bounded by `limits::MAX_DEPTH`.
fn collect(value: &Value, path: &mut Vec<String>, found: &mut Vec<Vec<String>>) {
    if value.as_object().is_some_and(|entries| entries.len() == 1 && entries.get(KEY).is_some_and(Value::is_string)) {
        found.push(path.clone());
        return;
    }
    for (key, item) in entries(value) {
        path.push(key);
        collect(item, path, found);
        path.pop();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(with: &Value, places: &[&str]) -> Vec<(String, String)> {
        let found = secret_references(with, places).into_iter();
        found.map(|it| (it.path.join("."), it.name.to_string())).collect()
    }

    #[test]
    fn references_count_at_the_places_of_the_kind_alone() {
        let with = json!({
            "token": {"secret": "a"}, "env": {"A": {"secret": "b-1"}, "secret": {"secret": "c"}, "B": "text"},
            "args": [{"secret": "d"}], "deep": {"env": {"A": {"secret": "e"}}},
            "list": [{"token": {"secret": "f"}}, {"token": "x"}],
        });
        let found = names(&with, &["token", "env.*", "list.*.token"]);
        let expected = [("token", "a"), ("env.A", "b-1"), ("env.secret", "c"), ("list.0.token", "f")];
        assert_eq!(found, expected.map(|(path, name)| (path.to_owned(), name.to_owned())));
        assert_eq!(names(&with, &[]), []);
        for no_reference in [json!({"secret": "a", "x": 1}), json!({"secret": "A"}), json!({"secret": 1}), json!("a")] {
            assert_eq!(names(&json!({ "token": no_reference }), &["token"]), [], "{no_reference}");
        }
    }

    #[test]
    fn a_value_takes_the_place_of_its_reference() {
        let mut with = json!({"env": {"A": {"secret": "a"}}, "list": [1, {"secret": "a"}]});
        put_secret(&mut with, &["env".into(), "A".into()], "x");
        put_secret(&mut with, &["list".into(), "1".into()], "y");
        put_secret(&mut with, &["list".into(), "7".into()], "z");
        assert_eq!(with, json!({"env": {"A": "x"}, "list": [1, "y"]}));
    }

    #[test]
    fn a_table_of_the_kinds_own_is_no_reference() {
        let params = json!({"type": "object", "properties": {
            "table": {"type": "object", "additionalProperties": true}, "text": {"type": "string"},
            "number": {"type": "integer"}, "any": true
        }});
        let reference = json!({"secret": "a"});
        let with = json!({"table": reference, "text": reference, "number": reference, "any": {"b": reference}});
        let found: Vec<_> = misplaced(&with, &params).into_iter().map(|path| path.join(".")).collect();
        assert_eq!(found, ["text", "number", "any.b"]);
    }
}
