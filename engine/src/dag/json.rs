//! TOML values as JSON, and the way back: where the value at a pointer stands in the file.
//!
//! Called by whoever keeps a part of a file as data: `with`, `matrix`, defaults, a schedule.

use std::ops::Range;

use serde_json::{Map, Number, Value};
use toml::de::DeValue;

use super::Diagnostic;
use super::read::{Node, Sink, integer, out_of_range};

/// A TOML value as JSON. Dates become text; a number that JSON can not hold is a mistake, and so is
/// a NUL, which no program can be handed. Recursion is bounded by `limits::MAX_DEPTH`.
pub(crate) fn to_json(path: &str, node: &Node<'_>, sink: &mut Sink<'_>) -> Value {
    match node.get_ref() {
        DeValue::String(text) => {
            if text.contains('\0') {
                sink.push(
                    Diagnostic::error("dag::nul", node.span(), format!("{path} contains a NUL character"))
                        .label("NUL in this text")
                        .help("remove \\u0000: no file name, argument or environment value can hold it"),
                );
            }
            Value::String(text.clone().into_owned())
        }
        DeValue::Integer(_) => {
            integer(path, node, i64::MIN..=i64::MAX, sink).map_or(Value::Null, |number| Value::Number(number.into()))
        }
        DeValue::Float(float) => match float.as_str().parse::<f64>().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => {
                out_of_range(path, "-1.8e308 to 1.8e308; nan and inf are not accepted", node.span(), sink);
                Value::Null
            }
        },
        DeValue::Boolean(yes) => Value::Bool(*yes),
        DeValue::Datetime(datetime) => Value::String(datetime.to_string()),
        DeValue::Array(items) => Value::Array(items.iter().map(|item| to_json(path, item, sink)).collect()),
        DeValue::Table(table) => Value::Object(
            table
                .iter()
                .map(|(key, item)| (key.get_ref().clone().into_owned(), to_json(path, item, sink)))
                .collect::<Map<_, _>>(),
        ),
    }
}

/// Where the value at `pointer` stands below `node`; the deepest one that is there.
pub(crate) fn span_at(node: &Node<'_>, pointer: &[String]) -> Range<usize> {
    let mut at = node;
    for step in pointer {
        let next = match at.get_ref() {
            DeValue::Table(table) => table.get(step.as_str()),
            DeValue::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => break,
        }
    }
    at.span()
}

/// Where the last key of `pointer` stands below `node`; its value's place if it is no key.
pub(crate) fn key_span_at(node: &Node<'_>, pointer: &[String]) -> Range<usize> {
    let Some((last, above)) = pointer.split_last() else {
        return node.span();
    };
    let mut at = node;
    for step in above {
        let next = match at.get_ref() {
            DeValue::Table(table) => table.get(step.as_str()),
            DeValue::Array(items) => step.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        match next {
            Some(next) => at = next,
            None => return at.span(),
        }
    }
    match at.get_ref() {
        DeValue::Table(table) => table.get_key_value(last.as_str()).map_or_else(|| at.span(), |(key, _)| key.span()),
        _ => span_at(at, std::slice::from_ref(last)),
    }
}
