//! Judges a JSON value against the part of JSON Schema (draft 2020-12) that schemars writes.
//!
//! `with` calls it with a kind's schema and a task's `with`, [`ParamSpec`](super::ParamSpec)
//! with a declared parameter. It renders no template.

use serde_json::{Map, Value};

use super::suggest;
use crate::template::is_template;

/// What does not fit, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Misfit {
    /// Keys and indices from the root to the value.
    pub(crate) path: Vec<String>,
    pub(crate) kind: MisfitKind,
    pub(crate) message: String,
    pub(crate) help: String,
}

/// What sort of mistake it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MisfitKind {
    /// The last key of the path is not known.
    UnknownKey,
    /// A key is missing in the table at the path.
    MissingKey,
    /// The value does not fit.
    Value,
}

/// Everything in `value` that does not fit `schema`; empty = it fits.
pub(crate) fn judge(schema: &Value, value: &Value) -> Vec<Misfit> {
    let mut judge = Judge { root: schema, path: Vec::new(), misfits: Vec::new(), depth: 0, templated: false };
    judge.value(schema, value);
    judge.misfits
}

/// As [`judge`], but a string with a template fits everything: its value is known later.
pub(crate) fn judge_templated(schema: &Value, value: &Value) -> Vec<Misfit> {
    let mut judge = Judge { root: schema, path: Vec::new(), misfits: Vec::new(), depth: 0, templated: true };
    judge.value(schema, value);
    judge.misfits
}

/// A `$ref` may lead back to itself; values are finite, schemas need not be.
const MAX_DEPTH: usize = 200;

struct Judge<'s> {
    root: &'s Value,
    path: Vec<String>,
    misfits: Vec<Misfit>,
    depth: usize,
    templated: bool,
}

impl<'s> Judge<'s> {
    fn note(&mut self, kind: MisfitKind, message: String, help: String) {
        self.misfits.push(Misfit { path: self.path.clone(), kind, message, help });
    }

    fn misfit(&mut self, value: &Value, wanted: &str) {
        self.note(MisfitKind::Value, format!("has to be {wanted}, not {}", show(value)), format!("write {wanted}"));
    }

    fn value(&mut self, schema: &'s Value, value: &Value) {
        if self.depth < MAX_DEPTH {
            self.depth += 1;
            self.judge(schema, value);
            self.depth -= 1;
        }
    }

    fn judge(&mut self, schema: &'s Value, value: &Value) {
        let Value::Object(schema) = schema else {
            if schema == &Value::Bool(false) {
                self.misfit(value, "left out");
            }
            return;
        };
        if self.templated && value.as_str().is_some_and(is_template) {
            return;
        }
        if let Some(target) = schema.get("$ref").and_then(Value::as_str).and_then(|path| self.resolve(path)) {
            self.value(target, value);
        }
        for part in list(schema, "allOf") {
            self.value(part, value);
        }
        for key in ["anyOf", "oneOf"] {
            let branches = list(schema, key);
            if !branches.is_empty() {
                self.branches(branches, value);
            }
        }
        if self.fits_type(schema, value) && self.fits_words(schema, value) {
            self.limits(schema, value);
            match value {
                Value::Object(entries) => self.object(schema, entries),
                Value::Array(items) => self.array(schema, items),
                _ => {}
            }
        }
    }

    fn resolve(&self, path: &str) -> Option<&'s Value> {
        path.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer))
    }

    fn fits_type(&mut self, schema: &Map<String, Value>, value: &Value) -> bool {
        let wanted = match schema.get("type") {
            Some(Value::String(name)) => vec![name.as_str()],
            Some(Value::Array(names)) => names.iter().filter_map(Value::as_str).collect(),
            _ => return true,
        };
        let fits = wanted.iter().any(|name| is_of_type(name, value));
        if !fits {
            let names = wanted.iter().filter(|name| **name != "null").map(|name| english(name));
            let wanted = names.collect::<Vec<_>>().join(" or ");
            self.misfit(value, &wanted);
        }
        fits
    }

    fn fits_words(&mut self, schema: &Map<String, Value>, value: &Value) -> bool {
        let words = match (schema.get("const"), schema.get("enum")) {
            (Some(word), _) => std::slice::from_ref(word),
            (None, Some(Value::Array(words))) => words.as_slice(),
            _ => return true,
        };
        let fits = words.iter().any(|word| same(word, value));
        if !fits {
            self.wrong_word(words.iter(), value);
        }
        fits
    }

    fn wrong_word<'w>(&mut self, words: impl Iterator<Item = &'w Value>, value: &Value) {
        let words = words.filter(|word| !word.is_null()).map(plain).collect::<Vec<_>>();
        let help = suggest::help(&plain(value), words.iter().map(String::as_str));
        self.note(MisfitKind::Value, format!("can not be {}", show(value)), help);
    }

    fn limits(&mut self, schema: &Map<String, Value>, value: &Value) {
        let limit = |key: &str| schema.get(key).and_then(Value::as_f64);
        let size = match value {
            Value::Number(number) => {
                let Some(number) = number.as_f64() else { return };
                let broken = limit("minimum").is_some_and(|least| number < least)
                    || limit("maximum").is_some_and(|most| number > most)
                    || limit("exclusiveMinimum").is_some_and(|least| number <= least)
                    || limit("exclusiveMaximum").is_some_and(|most| number >= most);
                if broken {
                    self.misfit(value, &format!("a number {}", range_text(schema)));
                }
                return;
            }
            Value::String(text) => Some((text.chars().count(), "minLength", "maxLength", "characters")),
            Value::Array(items) => Some((items.len(), "minItems", "maxItems", "elements")),
            Value::Object(entries) => Some((entries.len(), "minProperties", "maxProperties", "entries")),
            _ => None,
        };
        if let Some((size, least, most, unit)) = size {
            if limit(least).is_some_and(|least| (size as f64) < least) {
                self.misfit(value, &format!("at least {} {unit}", schema[least]));
            } else if limit(most).is_some_and(|most| size as f64 > most) {
                self.misfit(value, &format!("at most {} {unit}", schema[most]));
            }
        }
    }

    fn object(&mut self, schema: &'s Map<String, Value>, entries: &Map<String, Value>) {
        let declared = schema.get("properties").and_then(Value::as_object);
        let rest = schema.get("additionalProperties").or_else(|| schema.get("unevaluatedProperties"));
        for (key, value) in entries {
            self.path.push(key.clone());
            match (declared.and_then(|declared| declared.get(key)), rest) {
                (Some(property), _) => self.value(property, value),
                (None, Some(Value::Bool(false))) => {
                    let known = declared.into_iter().flat_map(Map::keys).map(String::as_str).collect::<Vec<_>>();
                    let help = suggest::help(key, known.iter().copied());
                    self.note(MisfitKind::UnknownKey, "is not known".to_owned(), help);
                }
                (None, Some(rest)) => self.value(rest, value),
                (None, None) => {}
            }
            self.path.pop();
        }
        for key in list(schema, "required").iter().filter_map(Value::as_str) {
            if !entries.contains_key(key) {
                let about = declared.and_then(|declared| declared.get(key)?.get("description")?.as_str());
                let help = format!("add {key} = ...{}", about.map_or(String::new(), |about| format!(" ({about})")));
                self.note(MisfitKind::MissingKey, format!("{key:?} is missing"), help);
            }
        }
    }

    fn array(&mut self, schema: &'s Map<String, Value>, items: &[Value]) {
        let prefix = list(schema, "prefixItems");
        for (index, item) in items.iter().enumerate() {
            let Some(wanted) = prefix.get(index).or_else(|| schema.get("items")) else { break };
            self.path.push(index.to_string());
            self.value(wanted, item);
            self.path.pop();
        }
        if schema.get("uniqueItems") == Some(&Value::Bool(true)) {
            let twice = items.iter().enumerate().find(|(index, item)| items[..*index].contains(item));
            if let Some((_, item)) = twice {
                self.note(MisfitKind::Value, format!("has {} twice", show(item)), "write each element once".into());
            }
        }
    }

    /// `anyOf` and `oneOf` alike: some branch has to fit.
    fn branches(&mut self, branches: &'s [Value], value: &Value) {
        let mut nearest: Option<Vec<Misfit>> = None;
        for branch in branches.iter().filter(|branch| is_null_type(branch) == value.is_null()) {
            let before = self.misfits.len();
            self.value(branch, value);
            let misfits = self.misfits.split_off(before);
            if misfits.is_empty() {
                return;
            }
            // The branch whose tags and types fit is the one that was meant.
            let depth = |misfits: &[Misfit]| misfits.iter().map(|misfit| misfit.path.len()).min();
            if fits_shape(branch, value) && nearest.as_ref().is_none_or(|best| depth(&misfits) > depth(best)) {
                nearest = Some(misfits);
            }
        }
        let words = branches.iter().flat_map(words_of).collect::<Vec<_>>();
        match nearest {
            Some(misfits) => self.misfits.extend(misfits),
            None if !words.is_empty() && !value.is_object() => self.wrong_word(words.into_iter(), value),
            None => {
                let forms = branches.iter().filter(|branch| !is_null_type(branch)).map(form).collect::<Vec<_>>();
                self.misfit(value, &forms.join(" or "));
            }
        }
    }
}

fn list<'v>(schema: &'v Map<String, Value>, key: &str) -> &'v [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn is_null_type(schema: &Value) -> bool {
    schema.get("type").and_then(Value::as_str) == Some("null")
}

fn words_of(schema: &Value) -> Vec<&Value> {
    match (schema.get("const"), schema.get("enum").and_then(Value::as_array)) {
        (Some(word), _) => vec![word],
        (None, Some(words)) => words.iter().collect(),
        (None, None) => Vec::new(),
    }
}

/// Whether a branch is of the value's type and its constant tags are the value's.
fn fits_shape(schema: &Value, value: &Value) -> bool {
    if schema.get("const").is_some() || schema.get("enum").is_some() {
        return false;
    }
    let typed = match schema.get("type").and_then(Value::as_str) {
        Some(name) => is_of_type(name, value),
        None => true,
    };
    let tags = schema.get("properties").and_then(Value::as_object);
    typed
        && tags.into_iter().flatten().all(|(key, property)| match (property.get("const"), value.get(key)) {
            (Some(tag), Some(found)) => tag == found,
            (Some(_), None) => false,
            (None, _) => true,
        })
}

fn form(schema: &Value) -> String {
    if let Some(title) = schema.get("title").and_then(Value::as_str) {
        return title.to_owned();
    }
    match schema.get("type").and_then(Value::as_str) {
        Some(name) => english(name).to_owned(),
        None => schema
            .get("$ref")
            .and_then(Value::as_str)
            .and_then(|path| path.rsplit('/').next())
            .map_or_else(|| "another form".to_owned(), |name| format!("a {name}")),
    }
}

fn is_of_type(name: &str, value: &Value) -> bool {
    match name {
        "string" => value.is_string(),
        // 28.0 is an integer in JSON Schema; in TOML it was written as a float and is refused by serde.
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        _ => true,
    }
}

fn english(name: &str) -> &'static str {
    match name {
        "string" => "a text",
        "integer" => "a whole number",
        "number" => "a number",
        "boolean" => "true or false",
        "array" => "a list",
        "object" => "a table",
        _ => "left out",
    }
}

fn range_text(schema: &Map<String, Value>) -> String {
    if let (Some(least), Some(most)) = (schema.get("minimum"), schema.get("maximum")) {
        return format!("from {least} to {most}");
    }
    let words = [
        ("minimum", "of at least"),
        ("exclusiveMinimum", "above"),
        ("maximum", "of at most"),
        ("exclusiveMaximum", "below"),
    ];
    let parts = words.iter().filter_map(|(key, word)| Some(format!("{word} {}", schema.get(*key)?)));
    parts.collect::<Vec<_>>().join(" and ")
}

fn same(word: &Value, value: &Value) -> bool {
    word == value || (word.is_number() && word.as_f64() == value.as_f64())
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn show(value: &Value) -> String {
    match value {
        Value::Null => "nothing".to_owned(),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(entries) => format!("a table of {}", entries.len()),
        Value::String(text) => format!("{:?}", super::read::brief(text)),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use schemars::JsonSchema;
    use serde_json::json;

    #[derive(JsonSchema)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    struct Params {
        /// How far ahead.
        horizon: u32,
        lags: Vec<u32>,
        mode: Mode,
        window: Option<Window>,
        env: Option<std::collections::BTreeMap<String, String>>,
        share: Option<f64>,
        anything: Option<Value>,
    }

    #[derive(JsonSchema)]
    #[serde(rename_all = "snake_case")]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Mode {
        /// Fails the task.
        Fail,
        /// Goes on.
        Warn,
    }

    #[derive(JsonSchema)]
    #[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
    #[expect(dead_code, reason = "only its schema is used")]
    enum Window {
        Fixed { size: u32 },
        Growing { least: u32 },
    }

    fn misfits(value: Value) -> Vec<(String, String)> {
        let schema = schemars::schema_for!(Params).to_value();
        let found = judge_templated(&schema, &value);
        found.into_iter().map(|misfit| (misfit.path.join("."), misfit.message + " | " + &misfit.help)).collect()
    }

    fn good() -> Value {
        json!({"horizon": 28, "lags": [1, 2], "mode": "fail"})
    }

    fn with(key: &str, value: Value) -> Value {
        let mut object = good();
        object[key] = value;
        object
    }

    #[test]
    fn what_fits_is_silent() {
        let values = [
            good(),
            with("window", json!({"kind": "fixed", "size": 3})),
            with("window", Value::Null),
            with("env", json!({"A": "b"})),
            with("share", json!(1)),
            with("anything", json!([{"x": 1}])),
            with("horizon", json!("{{params.horizon}}")),
            with("lags", json!(["{{params.lag}}", 7])),
        ];
        for value in values {
            assert_eq!(misfits(value.clone()), [], "{value}");
        }
    }

    #[test]
    fn what_does_not_fit_is_named() {
        let cases = [
            (with("horizn", json!(1)), "horizn", "did you mean \"horizon\""),
            (with("horizon", json!("28")), "horizon", "a whole number, not \"28\""),
            (with("horizon", json!(-1)), "horizon", "at least 0"),
            (with("lags", json!([1, "x"])), "lags.1", "a whole number"),
            (with("mode", json!("fial")), "mode", "did you mean \"fail\""),
            (with("window", json!({"kind": "fixed", "sise": 3})), "window.sise", "did you mean \"size\""),
            (with("env", json!({"A": 1})), "env.A", "a text"),
            (json!({"lags": [], "mode": "warn"}), "", "add horizon = ... (How far ahead.)"),
        ];
        for (value, path, part) in cases {
            let found = misfits(value.clone());
            assert!(found.iter().any(|(at, text)| at == path && text.contains(part)), "{value}: {found:?}");
        }
    }

    #[test]
    fn a_schema_that_leads_back_to_itself_ends() {
        let schema = json!({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"type": "integer"}, {"type": "array", "items": {"$ref": "#/$defs/a"}}]}}});
        assert_eq!(judge(&schema, &json!([[1], [[2]]])), []);
        assert_eq!(judge(&schema, &json!([["x"]])).len(), 1);
        assert_eq!(judge(&json!({"$ref": "#"}), &json!(1)), []);
    }
}
