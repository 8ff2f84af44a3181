//! What tests need and products do not: a bench for single tasks, an ephemeral Postgres, an S3 server.
//!
//! A dev-dependency of the other crates, never a dependency. Helpers here panic where a test would
//! `expect`: a test that can not be set up has failed.

mod bench;

pub use bench::{Done, TaskBench};
