//! From a string to pieces of text and expressions, by handlebars' own grammar.
//!
//! Only `template` calls it. It accepts the part of handlebars that is an expression and refuses the
//! rest by name; it evaluates nothing.

use handlebars::template::{HelperTemplate, Parameter, TemplateElement};
use handlebars::{Path, PathSeg, Template};
use serde_json::Value;

use super::error::shorten;
use super::{Reference, TemplateError};

/// Bytes of one templated string; a parameter is not a document.
const TEMPLATE_LIMIT: usize = 64 << 10;
/// Nesting of `(`, `[` and `{` within an expression: the grammar recurses, and the stack is finite.
const NESTING_LIMIT: usize = 16;

/// The helpers, all free of effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Helper {
    Eq,
    Ne,
    Gt,
    Gte,
    Lt,
    Lte,
    And,
    Or,
    Not,
}

impl Helper {
    const ALL: [Self; 9] =
        [Self::Eq, Self::Ne, Self::Gt, Self::Gte, Self::Lt, Self::Lte, Self::And, Self::Or, Self::Not];

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Eq => "eq",
            Self::Ne => "ne",
            Self::Gt => "gt",
            Self::Gte => "gte",
            Self::Lt => "lt",
            Self::Lte => "lte",
            Self::And => "and",
            Self::Or => "or",
            Self::Not => "not",
        }
    }

    fn parse(name: &str) -> Result<Self, TemplateError> {
        Self::ALL.into_iter().find(|helper| helper.as_str() == name).ok_or_else(|| TemplateError::UnknownHelper {
            helper: shorten(name),
            known: Self::ALL.map(Self::as_str).join(", "),
        })
    }
}

/// A part of a templated string.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Piece {
    Text(String),
    Expression(Expression),
}

/// What stands between `{{` and `}}`.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Expression {
    Reference(Reference),
    Literal(Value),
    Call { helper: Helper, arguments: Vec<Self> },
}

impl Piece {
    /// The references in it, in order.
    pub(super) fn references(&self) -> Vec<Reference> {
        let mut found = Vec::new();
        if let Self::Expression(expression) = self {
            expression.collect(&mut found);
        }
        found
    }
}

impl Expression {
    fn collect(&self, found: &mut Vec<Reference>) {
        match self {
            Self::Reference(reference) => found.push(reference.clone()),
            Self::Literal(_) => {}
            Self::Call { arguments, .. } => arguments.iter().for_each(|argument| argument.collect(found)),
        }
    }
}

/// Parses `text`; comments are dropped.
pub(super) fn parse(text: &str) -> Result<Vec<Piece>, TemplateError> {
    check_shape(text)?;
    let template = Template::compile(text).map_err(|error| TemplateError::Syntax {
        template: shorten(text),
        reason: format!("{}; write {{{{params.name}}}}", shorten(&error.reason().to_string()).replace('\n', " ")),
    })?;
    let mut pieces = Vec::new();
    for element in template.elements {
        match element {
            TemplateElement::RawString(text) => pieces.push(Piece::Text(text)),
            TemplateElement::Expression(call) | TemplateElement::HtmlExpression(call) => {
                pieces.push(Piece::Expression(expression(*call, text)?));
            }
            TemplateElement::Comment(_) => {}
            TemplateElement::HelperBlock(_) => return Err(unsupported(text, "a block")),
            // Partials, decorators, and whatever handlebars may add: refused until someone has thought about it.
            _ => return Err(unsupported(text, "a partial or a decorator")),
        }
    }
    Ok(pieces)
}

fn unsupported(template: &str, what: &'static str) -> TemplateError {
    TemplateError::Unsupported { template: shorten(template), what }
}

/// Refuses, before the recursive grammar sees it, what could exhaust the stack: blocks and deep nesting.
fn check_shape(text: &str) -> Result<(), TemplateError> {
    if text.len() > TEMPLATE_LIMIT {
        return Err(unsupported(text, "more than 64 KiB of template"));
    }
    let mut rest = text;
    while let Some(start) = rest.find("{{") {
        let inner = &rest[start + 2..];
        if inner.starts_with("{{") {
            return Err(unsupported(text, "a raw block"));
        }
        match inner.trim_start_matches(|c: char| c.is_ascii_whitespace() || matches!(c, '~' | '{' | '&')).chars().next()
        {
            Some('#' | '^' | '/') => return Err(unsupported(text, "a block")),
            Some('>') => return Err(unsupported(text, "a partial")),
            Some('*') => return Err(unsupported(text, "a decorator")),
            _ => {}
        }
        let end = inner.find("}}").unwrap_or(inner.len());
        if nesting(&inner[..end]) > NESTING_LIMIT {
            return Err(unsupported(text, "an expression nested more than 16 deep"));
        }
        rest = &inner[end..];
    }
    Ok(())
}

fn nesting(expression: &str) -> usize {
    // Openings alone: closings inside a string would hide depth, and 16 openings are plenty.
    expression.bytes().filter(|byte| matches!(byte, b'(' | b'[' | b'{')).count()
}

fn expression(call: HelperTemplate, template: &str) -> Result<Expression, TemplateError> {
    if call.block_param.is_some() || call.template.is_some() || call.inverse.is_some() {
        return Err(unsupported(template, "a block"));
    }
    if !call.hash.is_empty() {
        return Err(unsupported(template, "named arguments (key=value)"));
    }
    if call.params.is_empty() {
        return argument(call.name, template);
    }
    let name = call.name.as_name().unwrap_or_default();
    let helper = Helper::parse(name)?;
    let arguments =
        call.params.into_iter().map(|parameter| argument(parameter, template)).collect::<Result<Vec<_>, _>>()?;
    let fits = match helper {
        Helper::Not => arguments.len() == 1,
        Helper::And | Helper::Or => arguments.len() >= 2,
        _ => arguments.len() == 2,
    };
    if !fits {
        return Err(TemplateError::BadArguments {
            helper: helper.as_str(),
            expression: shorten(template),
            message: format!("{} arguments; not takes 1, and/or 2 or more, comparisons 2", arguments.len()),
        });
    }
    Ok(Expression::Call { helper, arguments })
}

fn argument(parameter: Parameter, template: &str) -> Result<Expression, TemplateError> {
    match parameter {
        Parameter::Literal(value) => Ok(Expression::Literal(value)),
        Parameter::Path(Path::Relative((segments, text))) => reference(segments, text, template),
        Parameter::Path(Path::Local(_)) => Err(unsupported(template, "a local variable (@name)")),
        Parameter::Name(name) => reference(vec![PathSeg::Named(name.clone())], name, template),
        Parameter::Subexpression(inner) => match *inner.element {
            TemplateElement::Expression(call) => expression(*call, template),
            _ => Err(unsupported(template, "more than an expression in parentheses")),
        },
        _ => Err(unsupported(template, "a form of argument that is not known here")),
    }
}

fn reference(segments: Vec<PathSeg>, text: String, template: &str) -> Result<Expression, TemplateError> {
    let mut path = Vec::with_capacity(segments.len());
    for segment in segments {
        match segment {
            PathSeg::Named(name) => path.push(name),
            _ => return Err(unsupported(template, "a path through ../ or @root")),
        }
    }
    if path.is_empty() {
        return Err(unsupported(template, "`this`"));
    }
    Ok(Expression::Reference(Reference { path, text }))
}
