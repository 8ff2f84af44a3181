//! The `headworks` binary: reads the command line, runs one command, ends with its exit code.
//!
//! One file per command under `commands/`; `exit` documents the codes, `output` decides between a
//! person and a script, `project` finds DAGs, tenants and documents. Nothing here knows a state
//! machine or a model.

// An optimized build lays out futures within futures, from a command down to the driver of the database.
#![recursion_limit = "256"]

mod args;
mod commands;
mod exit;
mod output;
mod plan_args;
mod progress;
mod project;
mod repair_args;

use std::io::IsTerminal;
use std::process::ExitCode;

use clap::Parser;

use crate::args::Args;
use crate::output::Output;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return exit::usage(&error),
    };
    let output = Output::new(args.json);
    start_logging();
    if matches!(args.command, args::Command::Attempt) {
        // Before there is a runtime: it limits its process first.
        return commands::attempt::run(&output);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::fail(&output, &exit::Failure::bug("can not start the runtime", error)),
    };
    match runtime.block_on(commands::dispatch(&args, &output)) {
        Ok(code) => code,
        Err(failure) => exit::fail(&output, &failure),
    }
}

/// Warnings to standard error; `HEADWORKS_LOG` (as `RUST_LOG`) asks for more.
fn start_logging() {
    let filter = tracing_subscriber::EnvFilter::try_from_env("HEADWORKS_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    let colors = std::io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_ansi(colors).with_writer(std::io::stderr).init();
}
