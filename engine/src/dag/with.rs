//! Judges a task's `with` by what its kind declares, as far as it is known before a run.
//!
//! Called by `lower`. Templates over `params` with a default and over `matrix` are filled in, for
//! each element, so that `model = "gdbt"` in a matrix is found here and not at 3 a.m. What stays a
//! template is judged by its key alone.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::read::{Sink, brief};
use super::schema::{self, Misfit, MisfitKind};
use super::secrets;
use super::spec::{DagSpec, TaskSpec};
use super::{Diagnostic, KindInfo, ParamProblem};
use crate::template::{self, Scope};

/// Elements of a matrix that are tried; past that, one more is not likely to find a new mistake.
const ELEMENTS_TRIED: usize = 100;

/// Notes every parameter that is unknown, missing, or does not fit.
pub(crate) fn check(spec: &DagSpec<'_, '_>, task: &TaskSpec<'_, '_>, kind: &KindInfo, sink: &mut Sink<'_>) {
    let mut told = HashSet::new();
    let mut scope = Scope { params: defaults(spec), ..Scope::default() };
    let (given, refused) = secrets::check(task, kind, sink);
    let tried = if has_template(&given) { task.matrix.elements.clamp(1, ELEMENTS_TRIED) } else { 1 };
    for number in 0..tried {
        scope.matrix = Value::Object(task.matrix.element(number).into_iter().collect());
        let with = fill_in(&given, &scope);
        let mut misfits = schema::judge_templated(&kind.params, &with);
        misfits.retain(|misfit| !secrets::is_below(&refused, &misfit.path));
        // What stands in for a reference that is refused is no value of anybody's.
        let is_whole = refused.is_empty() && misfits.is_empty() && !has_template(&with);
        let problems = if is_whole { (kind.check)(&with) } else { Vec::new() };
        for misfit in misfits {
            if told.insert((misfit.path.clone(), misfit.message.clone())) {
                note_misfit(task, misfit, sink);
            }
        }
        for problem in problems {
            if told.insert((problem.path.clone(), problem.message.clone())) {
                note_problem(task, problem, sink);
            }
        }
    }
}

fn defaults(spec: &DagSpec<'_, '_>) -> Value {
    let known = spec.params.iter().filter_map(|(name, param)| Some((name.clone(), param.default.clone()?)));
    Value::Object(known.collect::<Map<_, _>>())
}

/// `with`, each string rendered that can be. Recursion is bounded by `limits::MAX_DEPTH`.
fn fill_in(value: &Value, scope: &Scope) -> Value {
    match value {
        Value::String(text) if template::is_template(text) => {
            template::render(value, scope).unwrap_or_else(|_| value.clone())
        }
        Value::Array(items) => Value::Array(items.iter().map(|item| fill_in(item, scope)).collect()),
        Value::Object(entries) => {
            Value::Object(entries.iter().map(|(key, item)| (key.clone(), fill_in(item, scope))).collect())
        }
        other => other.clone(),
    }
}

fn has_template(value: &Value) -> bool {
    match value {
        Value::String(text) => template::is_template(text),
        Value::Array(items) => items.iter().any(has_template),
        Value::Object(entries) => entries.values().any(has_template),
        _ => false,
    }
}

fn note_misfit(task: &TaskSpec<'_, '_>, misfit: Misfit, sink: &mut Sink<'_>) {
    let place = place(task, &misfit.path);
    let diagnostic = match misfit.kind {
        MisfitKind::UnknownKey => {
            let message = format!("{place} is no parameter of this kind");
            Diagnostic::error("dag::unknown_parameter", task.with.key_span_at(&misfit.path), message)
                .label("unknown parameter")
        }
        MisfitKind::MissingKey => {
            let message = format!("{place}: {}", misfit.message);
            Diagnostic::error("dag::missing_parameter", task.with.key_span_at(&misfit.path), message)
                .label("a parameter is missing")
        }
        MisfitKind::Value => {
            let message = format!("{place} {}", misfit.message);
            Diagnostic::error("dag::bad_parameter", task.with.span_at(&misfit.path), message).label("does not fit")
        }
    };
    sink.push(diagnostic.help(misfit.help));
}

fn note_problem(task: &TaskSpec<'_, '_>, problem: ParamProblem, sink: &mut Sink<'_>) {
    let message = format!("{}: {}", place(task, &problem.path), problem.message);
    let help = problem.help.unwrap_or_else(|| "see the kind's parameters".to_owned());
    sink.push(
        Diagnostic::error("dag::bad_parameter", task.with.span_at(&problem.path), message)
            .label("does not fit")
            .help(help),
    );
}

fn place(task: &TaskSpec<'_, '_>, path: &[String]) -> String {
    let mut place = format!("{}.with", brief(task.name));
    for step in path {
        place.push('.');
        place.push_str(&brief(step));
    }
    place
}
