//! A mistake in a DAG as data: what, where, and how to mend it.

use serde::Serialize;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// The DAG is not accepted.
    Error,
    /// The DAG is accepted.
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
    pub span: std::ops::Range<usize>,
    /// What the span marks.
    pub label: String,
    /// How to mend it.
    pub help: String,
}

/// All mistakes of one file, with the file.
#[derive(Debug, Clone)]
pub struct Diagnostics {
    /// The file's name.
    pub file: String,
    /// Its text.
    pub source: String,
    /// In the file's order.
    pub items: Vec<Diagnostic>,
}
