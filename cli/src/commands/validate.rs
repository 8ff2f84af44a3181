//! `headworks validate`: every diagnostic of every file, and exit 3 if one is an error.

use std::path::PathBuf;
use std::process::ExitCode;

use serde_json::{Value, json};

use super::Session;
use crate::exit::Failure;

/// Runs the command.
pub(super) fn run(session: &Session<'_>, files: &[PathBuf]) -> Result<ExitCode, Failure> {
    let files = match files {
        [] => [session.project.dag_files()?, session.project.drill_files()?].concat(),
        files => files.to_vec(),
    };
    let mut rows: Vec<Value> = Vec::new();
    let mut invalid = false;
    for file in &files {
        let diagnostics = session.project.diagnose(file)?;
        invalid |= diagnostics.has_errors();
        rows.extend(diagnostics.rows().into_iter().map(|row| json!(row)));
        if !session.output.is_json() {
            if !diagnostics.items.is_empty() {
                session.output.diagnostics(&diagnostics);
            }
            let word = if diagnostics.has_errors() { "invalid" } else { "valid" };
            session.output.line(&format!("{}: {word}", file.display()));
        }
    }
    if session.output.is_json() {
        session.output.document(&json!({ "diagnostics": rows }));
    }
    Ok(if invalid { ExitCode::from(3) } else { ExitCode::SUCCESS })
}
