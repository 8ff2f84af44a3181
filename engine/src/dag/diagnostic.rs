//! A mistake in a file of the project as data: what, where, and how to mend it.
//!
//! `lower` and `tenant` make them; the CLI prints them with miette or as JSON rows, the API as JSON.

use std::fmt;
use std::ops::Range;

use miette::{LabeledSpan, MietteError, MietteSpanContents, SourceCode, SourceSpan, SpanContents};
use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The file is not accepted.
    Error,
    /// The file is accepted.
    Warning,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// Stable, for scripts: `dag::unknown_key`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Byte offsets into the source.
    pub span: Range<usize>,
    /// What the span marks.
    pub label: String,
    /// How to mend it.
    pub help: String,
}

impl Diagnostic {
    /// A mistake for which the file is refused.
    pub fn error(code: &'static str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self {
            code,
            severity: Severity::Error,
            message: message.into(),
            span,
            label: "here".to_owned(),
            help: String::new(),
        }
    }

    /// Something that is accepted, but deserves a look.
    pub fn warning(code: &'static str, span: Range<usize>, message: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(code, span, message) }
    }

    /// With what the span marks.
    #[must_use]
    pub fn label(mut self, label: impl Into<String>) -> Self {
        self.label = label.into();
        self
    }

    /// With how to mend it.
    #[must_use]
    pub fn help(mut self, help: impl Into<String>) -> Self {
        self.help = help.into();
        self
    }
}

/// All mistakes of one file, with the file.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// The file's name.
    pub file: String,
    /// Its text; the beginning of it, if it is larger than a file may be.
    pub source: String,
    /// In the file's order.
    pub items: Vec<Diagnostic>,
}

/// A diagnostic as `--json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DiagnosticRow {
    /// Stable, for scripts.
    pub code: &'static str,
    /// `error` or `warning`.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// The file's name.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// How to mend it.
    pub help: String,
}

impl Diagnostics {
    /// Whether one of them is an error.
    pub fn has_errors(&self) -> bool {
        self.items.iter().any(|item| item.severity == Severity::Error)
    }

    /// Line and column of a byte offset, both from 1, columns in characters. An offset past the end
    /// is the end; one within a character is that character.
    pub fn line_column(&self, offset: usize) -> (usize, usize) {
        let mut end = offset.min(self.source.len());
        while !self.source.is_char_boundary(end) {
            end -= 1;
        }
        let before = &self.source[..end];
        let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
        (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
    }

    /// The rows that `--json` prints.
    pub fn rows(&self) -> Vec<DiagnosticRow> {
        let row = |item: &Diagnostic| {
            let (line, column) = self.line_column(item.span.start);
            DiagnosticRow {
                code: item.code,
                severity: item.severity,
                message: item.message.clone(),
                file: self.file.clone(),
                line,
                column,
                help: item.help.clone(),
            }
        };
        self.items.iter().map(row).collect()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Diagnostic {}

impl miette::Diagnostic for Diagnostic {
    fn code<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        Some(Box::new(self.code))
    }

    fn severity(&self) -> Option<miette::Severity> {
        Some(match self.severity {
            Severity::Error => miette::Severity::Error,
            Severity::Warning => miette::Severity::Warning,
        })
    }

    fn help<'a>(&'a self) -> Option<Box<dyn fmt::Display + 'a>> {
        if self.help.is_empty() { None } else { Some(Box::new(&self.help)) }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let span = SourceSpan::from(self.span.clone());
        Some(Box::new(std::iter::once(LabeledSpan::new_with_span(Some(self.label.clone()), span))))
    }
}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let errors = self.items.iter().filter(|item| item.severity == Severity::Error).count();
        let plural = |n: usize| if n == 1 { "" } else { "s" };
        let warnings = self.items.len() - errors;
        write!(f, "{}: {errors} error{}, {warnings} warning{}", self.file, plural(errors), plural(warnings))
    }
}

impl std::error::Error for Diagnostics {}

/// Reports print every item below the heading, each with its piece of the file.
impl miette::Diagnostic for Diagnostics {
    fn severity(&self) -> Option<miette::Severity> {
        Some(if self.has_errors() { miette::Severity::Error } else { miette::Severity::Warning })
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        Some(self)
    }

    fn related<'a>(&'a self) -> Option<Box<dyn Iterator<Item = &'a dyn miette::Diagnostic> + 'a>> {
        Some(Box::new(self.items.iter().map(|item| item as &dyn miette::Diagnostic)))
    }
}

/// The file's text under its name, without a copy.
impl SourceCode for Diagnostics {
    fn read_span<'a>(
        &'a self,
        span: &SourceSpan,
        lines_before: usize,
        lines_after: usize,
    ) -> Result<Box<dyn SpanContents<'a> + 'a>, MietteError> {
        let contents = self.source.read_span(span, lines_before, lines_after)?;
        Ok(Box::new(MietteSpanContents::new_named(
            self.file.clone(),
            contents.data(),
            *contents.span(),
            contents.line(),
            contents.column(),
            contents.line_count(),
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Diagnostics {
        Diagnostics {
            file: "x.toml".into(),
            source: "a = 1\n\u{e4}\u{f6} = 2\n".into(),
            items: vec![
                Diagnostic::error("dag::x", 6..8, "no").label("this").help("mend"),
                Diagnostic::warning("lint::y", 0..1, "hm"),
            ],
        }
    }

    #[test]
    fn columns_count_characters() {
        let diagnostics = sample();
        assert_eq!(diagnostics.line_column(0), (1, 1));
        assert_eq!(diagnostics.line_column(6), (2, 1));
        assert_eq!(diagnostics.line_column(7), (2, 1), "inside a character");
        assert_eq!(diagnostics.line_column(11), (2, 4));
        assert_eq!(diagnostics.line_column(999), (3, 1));
    }

    #[test]
    fn rows_are_the_stable_json() {
        let rows = serde_json::to_value(sample().rows()).expect("rows");
        assert_eq!(
            rows[0],
            serde_json::json!({"code": "dag::x", "severity": "error", "message": "no", "file": "x.toml",
                "line": 2, "column": 1, "help": "mend"})
        );
        assert_eq!(rows[1]["severity"], "warning");
    }

    #[test]
    fn reports_name_the_file_and_mark_the_place() {
        let diagnostics = sample();
        assert_eq!(diagnostics.to_string(), "x.toml: 1 error, 1 warning");
        let contents = diagnostics.read_span(&(6..8).into(), 0, 0).expect("inside");
        assert_eq!((contents.name(), contents.line()), (Some("x.toml"), 1));
        let mut report = String::new();
        miette::NarratableReportHandler::new().render_report(&mut report, &diagnostics).expect("rendered");
        for part in ["no", "mend", "this", "dag::x", "x.toml", "hm"] {
            assert!(report.contains(part), "{part} in {report}");
        }
    }
}
