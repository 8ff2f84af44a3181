//! An ephemeral Postgres cluster for tests: made in a temporary folder, gone with its owner.
//!
//! `cargo xtask test` starts one [`Cluster`] for a whole test run and names it in [`URL_VARIABLE`];
//! `testkit` makes a fresh database in it per test. Standard library only, so that xtask compiles in
//! seconds. It speaks no SQL beyond creating and dropping databases, through Postgres's own client.

mod binaries;
mod cluster;
mod database;

use std::path::PathBuf;

pub use binaries::Binaries;
pub use cluster::{Cluster, Shutdown};
pub use database::{Database, Server};

/// Names a running server to the tests: `postgres://user@host:port/database`; its user may create databases.
pub const URL_VARIABLE: &str = "HEADWORKS_TEST_POSTGRES";

/// Why there is no Postgres to test against.
#[derive(Debug)]
pub enum PostgresError {
    /// No server binaries on this machine.
    NotInstalled {
        /// Folders that were looked at.
        looked_in: Vec<PathBuf>,
    },
    /// A file or process of the cluster could not be handled.
    Io {
        /// What was being done.
        action: String,
        /// What lay beneath.
        source: std::io::Error,
    },
    /// A program of Postgres said no.
    Failed {
        /// The program.
        program: String,
        /// The end of what it printed.
        output: String,
    },
    /// The URL names no server.
    Url(String),
}

impl PostgresError {
    fn io(action: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let action = action.into();
        move |source| Self::Io { action, source }
    }
}

impl std::fmt::Display for PostgresError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NotInstalled { looked_in } => write!(
                f,
                "PostgreSQL's server programs (initdb, postgres, psql) were not found in {looked_in:?}; \
                 install them (Debian and Ubuntu: apt-get install postgresql; Fedora: dnf install postgresql-server; \
                 macOS: brew install postgresql) or set {URL_VARIABLE} to a server whose user may create databases"
            ),
            Self::Io { action, .. } => write!(f, "can not {action}"),
            Self::Failed { program, output } => write!(f, "{program} failed:\n{output}"),
            Self::Url(url) => write!(f, "{url:?} is no postgres://user@host:port/database"),
        }
    }
}

impl std::error::Error for PostgresError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}
