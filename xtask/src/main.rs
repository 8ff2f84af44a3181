//! `cargo xtask`: the project's own commands, the same for people and for CI.
//!
//! Started through the alias in `.cargo/config.toml`. Depends on the standard library and on the
//! small crate that starts Postgres, so that it is there seconds after a clone. It compiles nothing
//! itself: it calls cargo.

#![expect(clippy::print_stderr, reason = "a terminal program; cargo's output stays alone on standard output")]

mod chaos;
mod drills;
mod run;
mod test;
mod tidy;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use run::{Failure, cargo};

const USAGE: &str = "\
cargo xtask <command>

  test [-- ARGS]   every test, against SQLite and an ephemeral Postgres; ARGS go to cargo nextest run
  chaos [--seeds N] [--first SEED] [--scenario F1] [--store sqlite|postgres] [--out FILE.md|FILE.json]
                   the chaos scenarios with many seeds, and a table of what came of them
  drills           every drill of docs/runbooks on SQLite and Postgres, and a table of what came of them
  verify           what a commit needs: format, clippy, tests, docs
  tidy             the house rules alone (docs/architecture.md), in a second
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["test"] => test::run(&[]),
        ["test", "--", rest @ ..] => test::run(rest),
        ["chaos", rest @ ..] => chaos::run(rest),
        ["drills"] => drills::run(),
        ["verify"] => verify(),
        ["tidy"] => tidy(),
        _ => {
            eprint!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("xtask: {}", failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// What a commit needs, cheapest first.
fn verify() -> Result<(), Failure> {
    tidy()?;
    cargo(&["fmt", "--all", "--check"], &[])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"], &[])?;
    test::run(&[])?;
    cargo(&["doc", "--workspace", "--no-deps"], &[("RUSTDOCFLAGS", "-D warnings")])
}

fn tidy() -> Result<(), Failure> {
    let broken = tidy::check(&root());
    for rule in &broken {
        eprintln!("{rule}");
    }
    match broken.len() {
        0 => Ok(()),
        count => Err(Failure { message: format!("{count} places break a house rule"), code: 1 }),
    }
}

/// The workspace's folder.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map_or_else(PathBuf::new, Path::to_owned)
}
