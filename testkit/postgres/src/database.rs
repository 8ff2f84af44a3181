//! Fresh databases in a running server, one per test.
//!
//! Called by `testkit`. Goes through `psql`, so that nothing has to be compiled for it.

use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use crate::{Binaries, PostgresError};

/// A reachable server whose user may create databases.
#[derive(Debug, Clone)]
pub struct Server {
    /// `postgres://user@host:port`
    base: String,
    /// The database to connect to for work on the server.
    database: String,
    binaries: Binaries,
}

impl Server {
    pub(crate) fn local(port: u16, binaries: Binaries) -> Self {
        Self { base: format!("postgres://postgres@127.0.0.1:{port}"), database: "postgres".to_owned(), binaries }
    }

    /// The server at `postgres://user@host:port/database`.
    ///
    /// # Errors
    /// The URL has another form, or there is no `psql` here.
    pub fn at(url: &str) -> Result<Self, PostgresError> {
        let refused = || PostgresError::Url(url.to_owned());
        let (scheme, rest) = url.split_once("://").ok_or_else(refused)?;
        let (host, database) = rest.split_once('/').ok_or_else(refused)?;
        if !matches!(scheme, "postgres" | "postgresql") || host.is_empty() || database.is_empty() {
            return Err(refused());
        }
        Ok(Self { base: format!("{scheme}://{host}"), database: database.to_owned(), binaries: Binaries::find()? })
    }

    /// The URL of the database for work on the server.
    pub fn url(&self) -> String {
        format!("{}/{}", self.base, self.database)
    }

    /// Makes an empty database of a name that nobody else has.
    ///
    /// # Errors
    /// The server's own.
    pub fn create_database(&self) -> Result<Database, PostgresError> {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let count = COUNTER.fetch_add(1, Ordering::Relaxed);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        let name = format!("test_{}_{nanos:x}_{count}", std::process::id());
        // template0: nobody can be connected to it, which would refuse us.
        self.query(&format!("CREATE DATABASE {name} TEMPLATE template0"))?;
        Ok(Database { server: self.clone(), name })
    }

    /// Runs one statement and returns its unaligned output, without header.
    ///
    /// # Errors
    /// The server's own.
    pub fn query(&self, sql: &str) -> Result<String, PostgresError> {
        query(&self.binaries, &self.url(), sql)
    }
}

/// An empty database; dropped with this handle, whoever is still connected.
#[derive(Debug)]
pub struct Database {
    server: Server,
    name: String,
}

impl Database {
    /// Its URL.
    pub fn url(&self) -> String {
        format!("{}/{}", self.server.base, self.name)
    }

    /// Runs one statement in it and returns its unaligned output, without header.
    ///
    /// # Errors
    /// The server's own.
    pub fn query(&self, sql: &str) -> Result<String, PostgresError> {
        query(&self.server.binaries, &self.url(), sql)
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        // The cluster may be gone already, and takes its databases along.
        let _ = self.server.query(&format!("DROP DATABASE {} WITH (FORCE)", self.name));
    }
}

fn query(binaries: &Binaries, url: &str, sql: &str) -> Result<String, PostgresError> {
    let output = Command::new(binaries.program("psql"))
        .args(["--no-psqlrc", "--no-align", "--tuples-only", "--quiet", "--set=ON_ERROR_STOP=1", "--command", sql, url])
        .stdin(Stdio::null())
        .output()
        .map_err(PostgresError::io("run psql"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let output = String::from_utf8_lossy(&output.stderr).into_owned();
    Err(PostgresError::Failed { program: "psql".to_owned(), output })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_need_a_host_and_a_database() {
        for bad in ["", "postgres://", "mysql://u@h/d", "postgres://u@h", "postgres:///d", "postgres://u@h/"] {
            assert!(matches!(Server::at(bad), Err(PostgresError::Url(_))), "{bad:?}");
        }
    }
}
