//! Where words go: a person's terminal, or one JSON document for a script.
//!
//! With `--json`, standard output carries one JSON document and nothing else; everything else goes
//! to standard error. A reader that closed the pipe is no error.

use std::io::{IsTerminal, Write};

use comfy_table::{ContentArrangement, Table, presets};
use engine::dag::Diagnostics;
use serde_json::Value;

/// How this invocation talks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    /// `json`: as `--json` says.
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether a script listens.
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether progress may be drawn.
    pub(crate) fn is_terminal(&self) -> bool {
        std::io::stderr().is_terminal()
    }

    /// The JSON document.
    pub(crate) fn document(&self, value: &Value) {
        let text = serde_json::to_string_pretty(value).unwrap_or_else(|_| value.to_string());
        writeln!(std::io::stdout(), "{text}").ok();
    }

    /// A line for a person; with `--json` on standard error.
    pub(crate) fn line(&self, text: &str) {
        match self.json {
            true => writeln!(std::io::stderr(), "{text}").ok(),
            false => writeln!(std::io::stdout(), "{text}").ok(),
        };
    }

    /// Text as it is, on standard output.
    pub(crate) fn raw(&self, bytes: &[u8]) -> std::io::Result<()> {
        let mut out = std::io::stdout().lock();
        out.write_all(bytes)?;
        out.flush()
    }

    /// A line beside the result, on standard error.
    pub(crate) fn note(&self, text: &str) {
        writeln!(std::io::stderr(), "{text}").ok();
    }

    /// A table for a person.
    pub(crate) fn table(&self, header: &[&str], rows: Vec<Vec<String>>) {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic).set_header(header);
        for row in rows {
            table.add_row(row);
        }
        for line in table.to_string().lines() {
            self.line(line.trim_end());
        }
    }

    /// Diagnostics with the lines they are about, on standard error.
    pub(crate) fn diagnostics(&self, diagnostics: &Diagnostics) {
        let mut text = String::new();
        let handler = miette::GraphicalReportHandler::new();
        if handler.render_report(&mut text, diagnostics).is_ok() {
            self.note(text.trim_end());
        }
    }
}
