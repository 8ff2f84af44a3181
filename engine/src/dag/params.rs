//! Declared parameters of a DAG: read from `[params]`, judged when a run names values.
//!
//! `spec` reads them; the CLI and whoever creates runs call [`Dag::resolve_params`].

use indexmap::IndexMap;
use serde_json::{Map, Value, json};

use super::json::to_json;
use super::read::{Section, Sink, brief};
use super::{Dag, Diagnostic, ParamProblem, ParamSpec, schema, secrets, suggest};
use crate::id::TaskId;

const TYPES: [&str; 6] = ["string", "integer", "number", "boolean", "array", "object"];

/// Reads `[params]`.
pub(crate) fn read(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> IndexMap<String, ParamSpec> {
    let mut params = IndexMap::new();
    for (key, node) in section.table {
        let name: &str = key.get_ref();
        if let Err(error) = TaskId::parse(name) {
            super::spec::bad_id(&crate::id::IdError { what: "parameter name", ..error }, key.span(), sink);
            continue;
        }
        if let Some(declared) = Section::of(section.path(name), key.span(), node, sink) {
            params.insert(name.to_owned(), read_one(&declared, sink));
        }
    }
    params
}

fn read_one(section: &Section<'_, '_>, sink: &mut Sink<'_>) -> ParamSpec {
    section.allow(&["type", "default", "minimum", "maximum", "enum", "description"], sink);
    section.require("type", "add type = \"integer\", \"string\" ...", sink);
    let kind = section.one_of("type", &TYPES, sink);
    let mut declared = Map::new();
    if let Some(kind) = kind {
        declared.insert("type".into(), json!(kind));
    }
    if let Some((text, _)) = section.text("description", sink) {
        declared.insert("description".into(), json!(text));
    }
    read_bounds(section, kind, &mut declared, sink);
    read_words(section, &mut declared, sink);
    let schema = Value::Object(declared);
    let default = section.get("default").map(|node| to_json(&section.path("default"), node, sink));
    if let (Some(value), Some(node)) = (&default, section.get("default")) {
        secrets::refuse((value, node), (&section.path("default"), 0), sink);
        for misfit in schema::judge(&schema, value) {
            let message = format!("{} {}", section.path("default"), misfit.message);
            sink.push(
                Diagnostic::error("dag::bad_param", super::json::span_at(node, &misfit.path), message)
                    .label("does not fit what is declared")
                    .help(misfit.help),
            );
        }
    }
    ParamSpec { schema, default }
}

fn read_bounds(section: &Section<'_, '_>, kind: Option<&str>, declared: &mut Map<String, Value>, sink: &mut Sink<'_>) {
    let any = f64::MIN..=f64::MAX;
    let bounds =
        [("minimum", section.float("minimum", any.clone(), sink)), ("maximum", section.float("maximum", any, sink))];
    for (key, bound) in bounds {
        let (Some(_), Some(node)) = (bound, section.get(key)) else { continue };
        if kind.is_some_and(|kind| !matches!(kind, "integer" | "number")) {
            sink.push(
                Diagnostic::error(
                    "dag::bad_param",
                    section.key_span(key),
                    format!("{} needs a number", section.path(key)),
                )
                .label("only numbers have bounds")
                .help("use type = \"integer\" or \"number\", or leave the bound out"),
            );
        }
        declared.insert(key.to_owned(), to_json(&section.path(key), node, sink));
    }
    if let [(_, Some(least)), (_, Some(most))] = bounds
        && least > most
    {
        sink.push(
            Diagnostic::error(
                "dag::bad_param",
                section.key_span("minimum"),
                format!("{}: no value fits", section.name),
            )
            .label("minimum is above maximum")
            .help("swap the two, or mend one"),
        );
    }
}

fn read_words(section: &Section<'_, '_>, declared: &mut Map<String, Value>, sink: &mut Sink<'_>) {
    let Some(node) = section.get("enum") else {
        return;
    };
    match to_json(&section.path("enum"), node, sink) {
        Value::Array(words) if !words.is_empty() => {
            let misfits = words.iter().enumerate().flat_map(|(index, word)| {
                schema::judge(&Value::Object(declared.clone()), word).into_iter().map(move |misfit| (index, misfit))
            });
            for (index, misfit) in misfits.collect::<Vec<_>>() {
                let span = super::json::span_at(node, &[index.to_string()]);
                sink.push(
                    Diagnostic::error(
                        "dag::bad_param",
                        span,
                        format!("{}[{index}] {}", section.path("enum"), misfit.message),
                    )
                    .label("does not fit what is declared")
                    .help(misfit.help),
                );
            }
            declared.insert("enum".into(), Value::Array(words));
        }
        _ => sink.push(
            Diagnostic::error(
                "dag::bad_param",
                node.span(),
                format!("{} has to be a list of values", section.path("enum")),
            )
            .label("no list, or an empty one")
            .help("write enum = [\"a\", \"b\"]"),
        ),
    }
}

impl ParamSpec {
    /// Everything that keeps `value` from being this parameter.
    pub fn judge(&self, value: &Value) -> Vec<ParamProblem> {
        schema::judge(&self.schema, value)
            .into_iter()
            .map(|misfit| ParamProblem { path: misfit.path, message: misfit.message, help: Some(misfit.help) })
            .collect()
    }

    /// The value that `text` (of `--param name=text`) means for this type.
    ///
    /// # Errors
    /// The text is not of the type, or out of its bounds.
    pub fn parse(&self, text: &str) -> Result<Value, ParamProblem> {
        let is_text = self.schema.get("type").and_then(Value::as_str).is_none_or(|kind| kind == "string");
        let value = if is_text {
            Value::String(text.to_owned())
        } else {
            serde_json::from_str(text).unwrap_or_else(|_| Value::String(text.to_owned()))
        };
        match self.judge(&value).into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(value),
        }
    }
}

impl Dag {
    /// The parameters of a run: defaults, overlaid by the tenant's (as far as they are declared
    /// here), overlaid by those that the run was given.
    ///
    /// # Errors
    /// Every value that does not fit, every given name that is not declared, and every parameter
    /// without a value; the path of a problem begins with the parameter's name.
    pub fn resolve_params(
        &self,
        tenant: &Map<String, Value>,
        given: &Map<String, Value>,
    ) -> Result<Map<String, Value>, Vec<ParamProblem>> {
        let mut problems = Vec::new();
        for name in given.keys().filter(|name| !self.params.contains_key(*name)) {
            problems.push(ParamProblem {
                path: vec![brief(name)],
                message: format!("the DAG {} declares no such parameter", self.id),
                help: Some(suggest::help(name, self.params.keys().map(String::as_str))),
            });
        }
        let mut resolved = Map::new();
        for (name, spec) in &self.params {
            let Some(value) = given.get(name).or_else(|| tenant.get(name)).or(spec.default.as_ref()) else {
                problems.push(ParamProblem {
                    path: vec![name.clone()],
                    message: "has no value and no default".to_owned(),
                    help: Some(format!("name one: --param {name}=...")),
                });
                continue;
            };
            problems.extend(spec.judge(value).into_iter().map(|mut problem| {
                problem.path.insert(0, name.clone());
                problem
            }));
            resolved.insert(name.clone(), value.clone());
        }
        if problems.is_empty() { Ok(resolved) } else { Err(problems) }
    }
}
