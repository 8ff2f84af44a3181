//! Runs programs, shows what is run, and keeps their exit codes.
//!
//! Called by the commands of xtask. Nothing is captured: the output is the program's own.

use std::process::Command;

/// Why a command of xtask ended early, and the exit code that says so.
#[derive(Debug)]
pub struct Failure {
    /// For people.
    pub message: String,
    /// The program's own code, or 1.
    pub code: u8,
}

/// Runs cargo in the workspace's folder with `variables` in its environment.
pub fn cargo(arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), Failure> {
    // Cargo names itself to what it runs: the toolchain of rust-toolchain.toml stays the same.
    let program = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    program_in_root(&program, arguments, variables)
}

/// Runs a program in the workspace's folder.
pub fn program_in_root(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<(), Failure> {
    let shown = format!("{} {}", if program.ends_with("cargo") { "cargo" } else { program }, arguments.join(" "));
    eprintln!("xtask: {shown}");
    let mut command = Command::new(program);
    // What cargo told xtask about itself is not about what xtask runs. Build scripts (that of `ring`) look at
    // it: with it, each change between `cargo xtask test` and `cargo check` would build half of the
    // dependencies anew.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix)) {
            command.env_remove(&name);
        }
    }
    let status = command
        .args(arguments)
        .envs(variables.iter().copied())
        .current_dir(crate::root())
        .status()
        .map_err(|error| Failure { message: format!("can not start {program}: {error}"), code: 1 })?;
    if status.success() {
        return Ok(());
    }
    // No code means a signal.
    let code = status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1);
    Err(Failure { message: format!("{shown}: {status}"), code })
}
