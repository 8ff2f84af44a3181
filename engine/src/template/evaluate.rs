//! What an expression yields in a scope, and how much of it may be written.
//!
//! Only `template` calls it. It never parses: a value that looks like a template is data.

use std::borrow::Cow;
use std::cmp::Ordering;

use serde_json::Value;

use super::error::shorten;
use super::parse::{Expression, Helper};
use super::{ROOTS, Reference, Scope, TemplateError};

/// Bytes that may still be written.
pub(super) struct Budget {
    limit: usize,
    left: usize,
}

impl Budget {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, left: limit }
    }

    pub(super) fn spend(&mut self, bytes: usize) -> Result<(), TemplateError> {
        self.left = self.left.checked_sub(bytes).ok_or(TemplateError::TooLarge { limit: self.limit })?;
        Ok(())
    }

    pub(super) fn spend_value(&mut self, value: &Value) -> Result<(), TemplateError> {
        self.spend(size(value))
    }

    pub(super) fn check_value(&self, value: &Value) -> Result<(), TemplateError> {
        if size(value) > self.left { Err(TemplateError::TooLarge { limit: self.limit }) } else { Ok(()) }
    }
}

/// At most the length of `value` as JSON.
fn size(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(|item| size(item) + 1).sum::<usize>() + 1,
        Value::Object(entries) => entries.iter().map(|(key, item)| key.len() + size(item) + 4).sum::<usize>() + 1,
        _ => 1,
    }
}

/// The value of `expression`.
pub(super) fn evaluate<'s>(expression: &Expression, scope: &'s Scope) -> Result<Cow<'s, Value>, TemplateError> {
    match expression {
        Expression::Literal(value) => Ok(Cow::Owned(value.clone())),
        Expression::Reference(reference) => look_up(reference, scope).map(Cow::Borrowed),
        Expression::Call { helper, arguments } => {
            let values = arguments
                .iter()
                .map(|argument| evaluate(argument, scope))
                .collect::<Result<Vec<_>, TemplateError>>()?;
            call(*helper, &values).map(|yes| Cow::Owned(Value::Bool(yes)))
        }
    }
}

fn look_up<'s>(reference: &Reference, scope: &'s Scope) -> Result<&'s Value, TemplateError> {
    let missing = |missing: &str, available: String| TemplateError::Missing {
        expression: reference.text.clone(),
        missing: shorten(missing),
        available,
    };
    let (root, rest) = reference.path.split_first().ok_or_else(|| missing("", roots()))?;
    let mut value = scope.root(root).ok_or_else(|| missing(root, roots()))?;
    let mut above = root.as_str();
    for segment in rest {
        let next = match value {
            Value::Object(entries) => entries.get(segment),
            Value::Array(items) => segment.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => None,
        };
        value = next.ok_or_else(|| missing(segment, available(above, value)))?;
        above = segment;
    }
    Ok(value)
}

fn roots() -> String {
    format!("an expression starts with {}", ROOTS.join(", "))
}

fn available(name: &str, value: &Value) -> String {
    match value {
        Value::Object(entries) if entries.is_empty() => format!("{name} is empty"),
        Value::Object(entries) => {
            let mut keys = entries.keys().take(20).map(String::as_str).collect::<Vec<_>>();
            if entries.len() > keys.len() {
                keys.push("...");
            }
            format!("{name} has {}", keys.join(", "))
        }
        Value::Array(items) => format!("{name} is a list of {}, indexed from 0", items.len()),
        Value::Null => format!("{name} is not set here"),
        other => format!("{name} is {}", describe(other)),
    }
}

fn call(helper: Helper, values: &[Cow<'_, Value>]) -> Result<bool, TemplateError> {
    let compared = || match values {
        [left, right] => compare(left, right).ok_or_else(|| bad(helper, values, "compares two numbers or two texts")),
        _ => Err(bad(helper, values, "compares two values")),
    };
    let truths = || {
        values
            .iter()
            .map(|value| truth(value).ok_or_else(|| bad(helper, values, "takes true, false or numbers")))
            .collect::<Result<Vec<_>, _>>()
    };
    Ok(match helper {
        Helper::Eq => equal(values),
        Helper::Ne => !equal(values),
        Helper::Gt => compared()?.is_gt(),
        Helper::Gte => compared()?.is_ge(),
        Helper::Lt => compared()?.is_lt(),
        Helper::Lte => compared()?.is_le(),
        Helper::And => truths()?.into_iter().all(|yes| yes),
        Helper::Or => truths()?.into_iter().any(|yes| yes),
        Helper::Not => !truths()?.into_iter().any(|yes| yes),
    })
}

fn bad(helper: Helper, values: &[Cow<'_, Value>], rule: &str) -> TemplateError {
    let found = values.iter().map(|value| describe(value)).collect::<Vec<_>>();
    TemplateError::BadArguments {
        helper: helper.as_str(),
        expression: format!("{} ...", helper.as_str()),
        message: format!("it {rule}, but got {}", found.join(" and ")),
    }
}

fn equal(values: &[Cow<'_, Value>]) -> bool {
    match values {
        // 1 and 1.0 are one number, whatever the file or the task wrote.
        [left, right] if left.is_number() && right.is_number() => compare(left, right) == Some(Ordering::Equal),
        [left, right] => left == right,
        _ => false,
    }
}

fn compare(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => match (a.as_i128(), b.as_i128()) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            _ => a.as_f64()?.partial_cmp(&b.as_f64()?),
        },
        (Value::String(a), Value::String(b)) => Some(a.cmp(b)),
        _ => None,
    }
}

/// Whether a value counts as true; `None` if it is neither.
pub(super) fn truth(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(yes) => Some(*yes),
        Value::Number(number) => number.as_f64().map(|number| number != 0.0),
        Value::String(text) if text == "true" => Some(true),
        Value::String(text) if text == "false" => Some(false),
        _ => None,
    }
}

/// A value in a message.
pub(super) fn describe(value: &Value) -> String {
    match value {
        Value::Null => "nothing (null)".to_owned(),
        Value::String(text) => format!("the text {:?}", shorten(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(entries) => format!("a table of {}", entries.len()),
        other => other.to_string(),
    }
}

/// Appends a value as text: strings as they are, null as nothing, the rest as JSON.
pub(super) fn push_text(value: &Value, output: &mut String) {
    match value {
        Value::Null => {}
        Value::String(text) => output.push_str(text),
        other => output.push_str(&other.to_string()),
    }
}
