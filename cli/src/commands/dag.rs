//! `headworks dag`: the graph, for people, for Graphviz, for scripts.

use std::process::ExitCode;

use engine::dag::show;

use super::Session;
use crate::args::{DagCommand, GraphFormat};
use crate::exit::Failure;

/// Runs the command.
pub(super) fn run(session: &Session<'_>, command: &DagCommand) -> Result<ExitCode, Failure> {
    let DagCommand::Show { dag, format } = command;
    let dag = session.project.dag(dag, session.output)?;
    match format {
        GraphFormat::Json => session.output.document(&show::json(&dag)),
        _ if session.output.is_json() => session.output.document(&show::json(&dag)),
        GraphFormat::Text => session.output.line(show::text(&dag).trim_end()),
        GraphFormat::Dot => session.output.line(show::dot(&dag).trim_end()),
    }
    Ok(ExitCode::SUCCESS)
}
