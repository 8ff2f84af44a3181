//! What tests need and products do not: a bench for single tasks, an ephemeral Postgres, an S3 server.
//!
//! A dev-dependency of the other crates, never a dependency. Helpers here panic where a test would
//! `expect`: a test that can not be set up has failed.

mod bench;
mod fakes;
mod postgres;
mod s3;

pub use bench::{Done, TaskBench};
pub use fakes::{Fake, FakeParams, fake_kinds};
pub use postgres::postgres;
pub use s3::S3Server;
pub use testkit_postgres::Database;
