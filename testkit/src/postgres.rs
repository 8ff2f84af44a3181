//! A fresh Postgres database per test.
//!
//! Called by tests of the store and of the binary. The server is the one that `cargo xtask test`
//! started for the whole run, or, without one, a cluster of this test process.

use std::sync::OnceLock;

use testkit_postgres::{Cluster, Database, Server, URL_VARIABLE};

/// An empty database, dropped with the handle.
///
/// # Panics
/// There is no server and none can be started: the message says what to install.
pub fn postgres() -> Database {
    server().create_database().unwrap_or_else(|error| panic!("no database: {error}"))
}

/// A server of this test's own, to be restarted and killed.
///
/// # Panics
/// None can be started: the message says what to install.
pub fn own_cluster() -> Cluster {
    Cluster::start().unwrap_or_else(|error| panic!("{error}"))
}

fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    // Never dropped: the cluster stops itself when this process ends.
    static OWN: OnceLock<Cluster> = OnceLock::new();
    SERVER.get_or_init(|| match std::env::var(URL_VARIABLE) {
        Ok(url) => Server::at(&url).unwrap_or_else(|error| panic!("{URL_VARIABLE}: {error}")),
        Err(_) => OWN.get_or_init(|| Cluster::start().unwrap_or_else(|error| panic!("{error}"))).server().clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_has_its_own_database() {
        let (one, two) = (postgres(), postgres());
        one.query("CREATE TABLE t (a int)").expect("created");
        assert!(two.query("SELECT * FROM t").is_err(), "the other one does not see it");
    }
}
