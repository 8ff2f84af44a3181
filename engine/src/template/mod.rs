//! Strict rendering of parameters: handlebars expressions over `params`, `tenant`, `run`, `matrix`, `tasks`.
//!
//! The executor renders `with` when an attempt starts, `plan`'s caller evaluates `if`, and `dag`
//! asks which names a template refers to. Handlebars gives the grammar; evaluation is ours, so that
//! a value keeps its type, a missing name is an error that says what there is, and nothing else can
//! be reached: no files, no environment, no partials, no blocks, no loops. What an expression yields
//! is never parsed again: a value that contains `{{secret}}` stays as it is.

mod error;
mod evaluate;
mod parse;

use serde_json::{Map, Value};

pub use error::TemplateError;
use evaluate::Budget;
use parse::Piece;

/// Bytes that one call of [`render`] may yield: what a child process can be handed at once.
pub const OUTPUT_LIMIT: usize = 1 << 20;

/// The names that an expression may start with, in the order of the documentation.
pub const ROOTS: [&str; 5] = ["params", "tenant", "run", "matrix", "tasks"];

/// What templates can see. `Null` = there is none (a task without a matrix).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Scope {
    /// The run's resolved parameters: an object.
    pub params: Value,
    /// The tenant's `id` and parameters: an object.
    pub tenant: Value,
    /// `id`, `logical_time`, `interval_start`, `interval_end`, `seed`.
    pub run: Value,
    /// This element of the matrix: an object.
    pub matrix: Value,
    /// `{<task id>: {"outputs": ...}}` of the tasks upstream.
    pub tasks: Value,
}

impl Scope {
    fn root(&self, name: &str) -> Option<&Value> {
        match name {
            "params" => Some(&self.params),
            "tenant" => Some(&self.tenant),
            "run" => Some(&self.run),
            "matrix" => Some(&self.matrix),
            "tasks" => Some(&self.tasks),
            _ => None,
        }
    }
}

/// A name that a template refers to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reference {
    /// `["tasks", "train", "outputs", "best"]`.
    pub path: Vec<String>,
    /// As written: `tasks.train.outputs.best`.
    pub text: String,
}

/// Something that [`references`] found.
#[derive(Debug, Clone)]
pub struct Found {
    /// Keys and indices from the root of the value to the string.
    pub pointer: Vec<String>,
    /// The reference, or why the string is no template that can be rendered.
    pub item: Result<Reference, TemplateError>,
}

/// Whether `text` is more than a literal.
pub fn is_template(text: &str) -> bool {
    text.contains("{{")
}

/// Whether `text` is exactly one expression, so that what it yields keeps its type.
pub fn is_one_expression(text: &str) -> bool {
    is_template(text) && matches!(parse::parse(text).as_deref(), Ok([Piece::Expression(_)]))
}

/// Renders each string in `value`; the rest is copied. A string that is exactly one expression keeps
/// the type of what it yields, any other becomes text. Keys are never rendered.
///
/// # Errors
/// The first expression that can not be parsed or evaluated, or more than [`OUTPUT_LIMIT`] bytes.
pub fn render(value: &Value, scope: &Scope) -> Result<Value, TemplateError> {
    render_within(value, scope, &mut Budget::new(OUTPUT_LIMIT))
}

/// Whether a task's `if` lets it run: a boolean, or a template that yields a boolean, the text
/// `true` or `false`, or a number (0 is false).
///
/// # Errors
/// As [`render`]; also if the template yields something else.
pub fn condition(value: &Value, scope: &Scope) -> Result<bool, TemplateError> {
    let rendered = render(value, scope)?;
    evaluate::truth(&rendered).ok_or_else(|| TemplateError::NotBoolean {
        expression: value.as_str().map_or_else(|| value.to_string(), str::to_owned),
        found: evaluate::describe(&rendered),
    })
}

/// Every name that the templates in `value` refer to, and every template that is malformed.
pub fn references(value: &Value) -> Vec<Found> {
    let mut found = Vec::new();
    collect(value, &mut Vec::new(), &mut found);
    found
}

// Recursion follows the nesting of a value; TOML and JSON readers both limit it to about 128.
fn render_within(value: &Value, scope: &Scope, budget: &mut Budget) -> Result<Value, TemplateError> {
    match value {
        Value::String(text) => render_text(text, scope, budget),
        Value::Array(items) => {
            items.iter().map(|item| render_within(item, scope, budget)).collect::<Result<_, _>>().map(Value::Array)
        }
        Value::Object(entries) => entries
            .iter()
            .map(|(key, item)| Ok((key.clone(), render_within(item, scope, budget)?)))
            .collect::<Result<Map<_, _>, _>>()
            .map(Value::Object),
        other => Ok(other.clone()),
    }
}

fn render_text(text: &str, scope: &Scope, budget: &mut Budget) -> Result<Value, TemplateError> {
    if !is_template(text) {
        budget.spend(text.len())?;
        return Ok(Value::String(text.to_owned()));
    }
    let pieces = parse::parse(text)?;
    if let [Piece::Expression(expression)] = pieces.as_slice() {
        let value = evaluate::evaluate(expression, scope)?;
        budget.spend_value(&value)?;
        return Ok(value.into_owned());
    }
    let mut output = String::new();
    for piece in &pieces {
        let before = output.len();
        match piece {
            Piece::Text(text) => output.push_str(text),
            Piece::Expression(expression) => {
                let value = evaluate::evaluate(expression, scope)?;
                // Before it is copied: a large value named a thousand times must not fill memory.
                budget.check_value(&value)?;
                evaluate::push_text(&value, &mut output);
            }
        }
        budget.spend(output.len() - before)?;
    }
    Ok(Value::String(output))
}

fn collect(value: &Value, pointer: &mut Vec<String>, found: &mut Vec<Found>) {
    match value {
        Value::String(text) if is_template(text) => match parse::parse(text) {
            Ok(pieces) => {
                for reference in pieces.iter().flat_map(Piece::references) {
                    found.push(Found { pointer: pointer.clone(), item: Ok(reference) });
                }
            }
            Err(error) => found.push(Found { pointer: pointer.clone(), item: Err(error) }),
        },
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                pointer.push(index.to_string());
                collect(item, pointer, found);
                pointer.pop();
            }
        }
        Value::Object(entries) => {
            for (key, item) in entries {
                pointer.push(key.clone());
                if is_template(key) {
                    found
                        .push(Found { pointer: pointer.clone(), item: Err(TemplateError::InKey { key: key.clone() }) });
                }
                collect(item, pointer, found);
                pointer.pop();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests;
