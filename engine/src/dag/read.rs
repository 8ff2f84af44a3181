//! Reading a parsed TOML file by hand: typed look-ups that note every mistake and go on.
//!
//! `spec` and `tenant` read their files with it. A look-up that fails yields `None` and has noted
//! why; so one pass reports everything, and no reader has an error path of its own.

use std::ops::{Range, RangeInclusive};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::{Diagnostic, Diagnostics, Severity, limits, suggest};
use crate::schedule::duration;

/// More mistakes than this are not read by anybody, and cost memory.
const MAX_DIAGNOSTICS: usize = 500;
/// A file with more lines that are not TOML is no TOML file.
const MAX_BROKEN_LINES: usize = 100;

/// A TOML value with its place.
pub(crate) type Node<'i> = Spanned<DeValue<'i>>;

/// Collects the mistakes of one file.
pub(crate) struct Sink<'s> {
    source: &'s str,
    items: Vec<Diagnostic>,
    unheard: usize,
    /// Byte ranges of the lines with a syntax error: what else is wrong there follows from it.
    broken_lines: Vec<Range<usize>>,
}

impl<'s> Sink<'s> {
    pub(crate) fn new(source: &'s str) -> Self {
        Self { source, items: Vec::new(), unheard: 0, broken_lines: Vec::new() }
    }

    /// Notes a mistake. Its span is moved to where the file has characters, should it not be there.
    pub(crate) fn push(&mut self, mut item: Diagnostic) {
        if self.items.len() >= MAX_DIAGNOSTICS {
            self.unheard += 1;
            return;
        }
        item.span = self.clamp(item.span);
        if self.broken_lines.iter().any(|line| line.contains(&item.span.start)) {
            return;
        }
        self.items.push(item);
    }

    /// Notes a mistake that is costly to word, if there is room for more.
    pub(crate) fn push_with(&mut self, word: impl FnOnce() -> Diagnostic) {
        if self.items.len() >= MAX_DIAGNOSTICS {
            self.unheard += 1;
        } else {
            self.push(word());
        }
    }

    /// Whether the file can not be accepted.
    pub(crate) fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// How many mistakes were noted so far.
    pub(crate) fn errors(&self) -> usize {
        self.items.iter().filter(|item| item.severity == Severity::Error).count()
    }

    /// Whether the text is not TOML; what the file means as a whole can not be judged then.
    pub(crate) fn is_broken(&self) -> bool {
        !self.broken_lines.is_empty()
    }

    /// Where `text` stands within `span`, or the span itself: a reference within a long string.
    pub(crate) fn narrow(&self, span: &Range<usize>, text: &str) -> Range<usize> {
        match self.source.get(span.clone()).and_then(|part| part.find(text)) {
            Some(at) if !text.is_empty() => span.start + at..span.start + at + text.len(),
            _ => span.clone(),
        }
    }

    /// All mistakes in the file's order.
    pub(crate) fn finish(mut self, file: &str) -> Diagnostics {
        self.items.sort_by_key(|item| (item.span.start, item.span.end));
        if self.unheard > 0 {
            let end = self.source.len();
            let message = format!("{} more mistakes are not shown", self.unheard);
            self.items.push(
                Diagnostic::warning("dag::too_many_mistakes", end..end, message)
                    .help("mend those above and look again"),
            );
        }
        Diagnostics { file: file.to_owned(), source: self.source.to_owned(), items: self.items }
    }

    /// Notes what the parser says; of a line, only the first: the rest follows from it.
    fn syntax(&mut self, errors: &[toml::de::Error]) {
        for (index, error) in errors.iter().enumerate() {
            let span = self.clamp(error.span().unwrap_or(0..0));
            if self.broken_lines.last().is_some_and(|line| line.contains(&span.start)) {
                continue;
            }
            if self.broken_lines.len() >= MAX_BROKEN_LINES {
                self.unheard += errors.len() - index;
                return;
            }
            let start = self.source[..span.start].rfind('\n').map_or(0, |newline| newline + 1);
            let end = self.source[span.start..].find('\n').map_or(self.source.len(), |newline| span.start + newline);
            self.push(
                Diagnostic::error("dag::syntax", span, error.message())
                    .label("not TOML from here")
                    .help("see https://toml.io for the syntax; the rest of this line was not judged"),
            );
            self.broken_lines.push(start..end + 1);
        }
    }

    fn clamp(&self, span: Range<usize>) -> Range<usize> {
        let floor = |mut at: usize| {
            at = at.min(self.source.len());
            while !self.source.is_char_boundary(at) {
                at -= 1;
            }
            at
        };
        let start = floor(span.start);
        start..floor(span.end).max(start)
    }
}

/// Parses `source`; `None` if it is too large or too deep to be parsed at all.
pub(crate) fn parse<'s>(source: &'s str, sink: &mut Sink<'_>) -> Option<Spanned<DeTable<'s>>> {
    if let Some(refused) = limits::check_size(source.len()).or_else(|| limits::check_depth(source)) {
        sink.push(refused);
        return None;
    }
    let (table, mut errors) = DeTable::parse_recoverable(source);
    errors.sort_by_key(|error| error.span().map_or(0, |span| span.start));
    sink.syntax(&errors);
    Some(table)
}

/// A table of the file and what it is called: `tasks.train`.
#[derive(Clone)]
pub(crate) struct Section<'t, 'i> {
    pub(crate) name: String,
    /// The key that names it; for mistakes about the table as a whole.
    pub(crate) span: Range<usize>,
    pub(crate) table: &'t DeTable<'i>,
}

impl<'t, 'i> Section<'t, 'i> {
    /// The file itself.
    pub(crate) fn root(table: &'t DeTable<'i>) -> Self {
        Self { name: String::new(), span: 0..0, table }
    }

    /// A value that has to be a table.
    pub(crate) fn of(name: String, span: Range<usize>, node: &'t Node<'i>, sink: &mut Sink<'_>) -> Option<Self> {
        match node.get_ref() {
            DeValue::Table(table) => Some(Self { name, span, table }),
            other => {
                wrong_type(&name, "a table", other, node.span(), sink);
                None
            }
        }
    }

    /// `tasks.train.timeout` for a key of this section.
    pub(crate) fn path(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn place(&self) -> String {
        if self.name.is_empty() { "the file".to_owned() } else { format!("[{}]", self.name) }
    }

    /// Notes every key that is not `allowed`.
    pub(crate) fn allow(&self, allowed: &[&str], sink: &mut Sink<'_>) {
        for key in self.table.keys() {
            let name: &str = key.get_ref();
            if allowed.contains(&name) {
                continue;
            }
            sink.push_with(|| {
                let message = format!("{} has no key {:?}", self.place(), brief(name));
                Diagnostic::error("dag::unknown_key", key.span(), message)
                    .label("unknown key")
                    .help(suggest::help(name, allowed.iter().copied()))
            });
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<&'t Node<'i>> {
        self.table.get(key)
    }

    /// Where the key stands; the section's own place if it is not there.
    pub(crate) fn key_span(&self, key: &str) -> Range<usize> {
        self.table.get_key_value(key).map_or_else(|| self.span.clone(), |(key, _)| key.span())
    }

    /// A key that has to be there.
    pub(crate) fn require(&self, key: &str, help: &str, sink: &mut Sink<'_>) -> Option<&'t Node<'i>> {
        let found = self.get(key);
        if found.is_none() {
            sink.push(
                Diagnostic::error("dag::missing_key", self.span.clone(), format!("{} has no {key:?}", self.place()))
                    .label(format!("{key:?} is missing"))
                    .help(help),
            );
        }
        found
    }

    /// A table below this one.
    pub(crate) fn section(&self, key: &str, sink: &mut Sink<'_>) -> Option<Self> {
        self.get(key).and_then(|node| Self::of(self.path(key), self.key_span(key), node, sink))
    }

    /// A text, with its place.
    pub(crate) fn text(&self, key: &str, sink: &mut Sink<'_>) -> Option<(&'t str, Range<usize>)> {
        self.get(key).and_then(|node| text(&self.path(key), node, sink))
    }

    /// A list of texts, each with its place.
    pub(crate) fn texts(&self, key: &str, sink: &mut Sink<'_>) -> Vec<(&'t str, Range<usize>)> {
        match self.get(key).map(|node| (node.get_ref(), node.span())) {
            None => Vec::new(),
            Some((DeValue::Array(items), _)) => items
                .iter()
                .enumerate()
                .filter_map(|(index, node)| text(&format!("{}[{index}]", self.path(key)), node, sink))
                .collect(),
            Some((other, span)) => {
                wrong_type(&self.path(key), "a list of texts, such as [\"a\", \"b\"]", other, span, sink);
                Vec::new()
            }
        }
    }

    pub(crate) fn boolean(&self, key: &str, sink: &mut Sink<'_>) -> Option<bool> {
        let node = self.get(key)?;
        match node.get_ref() {
            DeValue::Boolean(yes) => Some(*yes),
            other => {
                wrong_type(&self.path(key), "true or false", other, node.span(), sink);
                None
            }
        }
    }

    /// A whole number within `range`.
    pub(crate) fn integer(&self, key: &str, range: RangeInclusive<i64>, sink: &mut Sink<'_>) -> Option<i64> {
        let node = self.get(key)?;
        integer(&self.path(key), node, range, sink)
    }

    /// A number within `range`.
    pub(crate) fn float(&self, key: &str, range: RangeInclusive<f64>, sink: &mut Sink<'_>) -> Option<f64> {
        let node = self.get(key)?;
        let number = match node.get_ref() {
            DeValue::Integer(integer) => integer.as_str().parse::<f64>().ok(),
            DeValue::Float(float) => float.as_str().parse::<f64>().ok(),
            other => {
                wrong_type(&self.path(key), "a number", other, node.span(), sink);
                return None;
            }
        };
        let found = number.filter(|number| range.contains(number));
        if found.is_none() {
            out_of_range(&self.path(key), &format!("{} to {}", range.start(), range.end()), node.span(), sink);
        }
        found
    }

    /// A duration such as `1h30m`.
    pub(crate) fn duration(&self, key: &str, sink: &mut Sink<'_>) -> Option<Duration> {
        let node = self.get(key)?;
        read_duration(&self.path(key), node, sink)
    }

    /// One of a few words.
    pub(crate) fn one_of(&self, key: &str, words: &[&'static str], sink: &mut Sink<'_>) -> Option<&'static str> {
        let (found, span) = self.text(key, sink)?;
        one_of(&self.path(key), found, words, span, sink)
    }
}

/// One of a few words.
pub(crate) fn one_of(
    path: &str,
    found: &str,
    words: &[&'static str],
    span: Range<usize>,
    sink: &mut Sink<'_>,
) -> Option<&'static str> {
    let word = words.iter().copied().find(|word| *word == found);
    if word.is_none() {
        sink.push(
            Diagnostic::error("dag::bad_value", span, format!("{path} can not be {:?}", brief(found)))
                .label("not one of the words that are known here")
                .help(suggest::help(found, words.iter().copied())),
        );
    }
    word
}

pub(crate) fn text<'t>(path: &str, node: &'t Node<'_>, sink: &mut Sink<'_>) -> Option<(&'t str, Range<usize>)> {
    match node.get_ref() {
        DeValue::String(text) => Some((text, node.span())),
        other => {
            wrong_type(path, "a text in quotes", other, node.span(), sink);
            None
        }
    }
}

pub(crate) fn integer(path: &str, node: &Node<'_>, range: RangeInclusive<i64>, sink: &mut Sink<'_>) -> Option<i64> {
    let DeValue::Integer(integer) = node.get_ref() else {
        wrong_type(path, "a whole number", node.get_ref(), node.span(), sink);
        return None;
    };
    let found = i64::from_str_radix(integer.as_str(), integer.radix()).ok().filter(|number| range.contains(number));
    if found.is_none() {
        out_of_range(path, &format!("{} to {}", range.start(), range.end()), node.span(), sink);
    }
    found
}

pub(crate) fn read_duration(path: &str, node: &Node<'_>, sink: &mut Sink<'_>) -> Option<Duration> {
    let DeValue::String(text) = node.get_ref() else {
        wrong_type(path, "a duration in quotes, such as \"90s\" or \"1h30m\"", node.get_ref(), node.span(), sink);
        return None;
    };
    match duration::parse(text) {
        Ok(duration) => Some(duration),
        Err(reason) => {
            sink.push(
                Diagnostic::error("dag::bad_duration", node.span(), format!("{path} = {:?}: {reason}", brief(text)))
                    .label("not a duration")
                    .help("write a number and a unit (w, d, h, m, s, ms), longest first: \"90s\", \"30m\", \"1h30m\", \"2d\""),
            );
            None
        }
    }
}

/// Notes a value of the wrong type.
pub(crate) fn wrong_type(path: &str, wanted: &str, found: &DeValue<'_>, span: Range<usize>, sink: &mut Sink<'_>) {
    let found = type_name(found);
    sink.push(
        Diagnostic::error("dag::wrong_type", span, format!("{path} has to be {wanted}, not {found}"))
            .label(format!("this is {found}"))
            .help(format!("write {wanted}")),
    );
}

pub(crate) fn out_of_range(path: &str, range: &str, span: Range<usize>, sink: &mut Sink<'_>) {
    sink.push(
        Diagnostic::error("dag::out_of_range", span, format!("{path} is out of range"))
            .label("out of range")
            .help(format!("write a number from {range}")),
    );
}

fn type_name(value: &DeValue<'_>) -> &'static str {
    match value {
        DeValue::String(_) => "a text",
        DeValue::Integer(_) => "a whole number",
        DeValue::Float(_) => "a float",
        DeValue::Boolean(_) => "a boolean",
        DeValue::Datetime(_) => "a date or time",
        DeValue::Array(_) => "a list",
        DeValue::Table(_) => "a table",
    }
}

/// A name in a message: at most 80 characters.
pub(crate) fn brief(text: &str) -> String {
    match text.char_indices().nth(80) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
