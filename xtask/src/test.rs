//! `cargo xtask test`: every test of the workspace, against SQLite and Postgres.
//!
//! Called by people, by `.ci/run` and by `cargo xtask verify`. Brings its own Postgres: an ephemeral
//! cluster that is not root's and ends with this process, however that ends. Installs only
//! Debian's `postgresql`, only as root, and only if no server programs are there.

use std::path::Path;
use std::process::{Command, Stdio};

use testkit_postgres::{Binaries, Cluster, PostgresError, URL_VARIABLE};

use crate::run::{Failure, cargo, program_in_root};

/// Runs the tests; `arguments` narrow them. There are no doctests: cargo would build DataFusion a second
/// time for them, with other features.
pub fn run(arguments: &[&str]) -> Result<(), Failure> {
    run_with(arguments, &[])
}

/// Runs the tests with more in their environment.
pub fn run_with(arguments: &[&str], more: &[(&str, &str)]) -> Result<(), Failure> {
    let cluster = match std::env::var_os(URL_VARIABLE) {
        Some(_) => {
            eprintln!("xtask: using the Postgres server of {URL_VARIABLE}");
            None
        }
        None => Some(start_cluster()?),
    };
    let url = cluster.as_ref().map(|cluster| cluster.server().url());
    let own = url.iter().map(|url| (URL_VARIABLE, url.as_str()));
    let variables: Vec<(&str, &str)> = own.chain(more.iter().copied()).collect();
    let runner: &[&str] = if has_nextest() {
        &["nextest", "run"]
    } else {
        eprintln!(
            "xtask: cargo-nextest is not installed (cargo install --locked cargo-nextest); \
             falling back to cargo test, which is slower and prints less"
        );
        &["test", "--lib", "--bins", "--tests", "--no-fail-fast"]
    };
    cargo(&[runner, scope(arguments), arguments].concat(), &variables)
}

/// Runs the tests with a file named in `variable` to which they append lines; returns those beside how it went.
pub fn run_reported(variable: &str, arguments: &[&str], more: &[(&str, &str)]) -> (Result<(), Failure>, String) {
    let report = std::env::temp_dir().join(format!("headworks-report-{}", std::process::id()));
    let path = report.display().to_string();
    let ended = run_with(arguments, &[more, &[(variable, path.as_str())]].concat());
    let text = std::fs::read_to_string(&report).unwrap_or_default();
    // It may never have been made.
    let _ = std::fs::remove_file(&report);
    (ended, text)
}

/// All crates, unless the arguments choose: cargo lets `--workspace` win over `--package`.
fn scope(arguments: &[&str]) -> &'static [&'static str] {
    let chooses = |argument: &&str| argument.starts_with("-p") || argument.starts_with("--package");
    if arguments.iter().any(chooses) { &[] } else { &["--workspace"] }
}

/// Whether the tests' runner is there.
pub fn has_nextest() -> bool {
    let version =
        Command::new("cargo").args(["nextest", "--version"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    version.is_ok_and(|status| status.success())
}

fn start_cluster() -> Result<Cluster, Failure> {
    if let Err(PostgresError::NotInstalled { .. }) = Binaries::find() {
        install_postgres()?;
    }
    let cluster = Cluster::start().map_err(failure)?;
    eprintln!("xtask: Postgres for this run at {}", cluster.server().url());
    Ok(cluster)
}

/// Installs Debian's package where that is possible; otherwise leaves the message to [`PostgresError`].
fn install_postgres() -> Result<(), Failure> {
    if !Path::new("/usr/bin/apt-get").exists() || !is_root() {
        return Ok(());
    }
    let quiet = [("DEBIAN_FRONTEND", "noninteractive")];
    program_in_root("apt-get", &["update", "--quiet"], &quiet)?;
    program_in_root("apt-get", &["install", "--quiet", "--yes", "--no-install-recommends", "postgresql"], &quiet)
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output();
    id.is_ok_and(|output| output.stdout.trim_ascii() == b"0")
}

fn failure(error: PostgresError) -> Failure {
    let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
    Failure { message: format!("{error}{cause}"), code: 1 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_may_choose_the_crates() {
        assert_eq!(scope(&["store::"]), ["--workspace"]);
        for chosen in [&["-p", "xtask"][..], &["-pxtask"], &["--package=xtask"], &["x", "--package", "xtask"]] {
            assert!(scope(chosen).is_empty(), "{chosen:?}");
        }
    }
}
