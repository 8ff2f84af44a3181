//! `headworks config`: the configuration, explained.

use std::process::ExitCode;

use engine::config::{Config, DEFAULT_FILE};
use serde_json::json;

use crate::args::ConfigCommand;
use crate::exit::Failure;
use crate::output::Output;

/// Runs the command.
pub(super) fn run(command: &ConfigCommand, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        ConfigCommand::Default if output.is_json() => output.document(&json!(Config::default())),
        ConfigCommand::Default => {
            let written = output.raw(DEFAULT_FILE.as_bytes());
            written.map_err(|error| Failure::file("can not write to standard output", error))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
