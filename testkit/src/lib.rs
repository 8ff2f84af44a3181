//! What tests need and products do not: a bench for single tasks, an ephemeral Postgres, an S3 server,
//! and what the chaos runner stands on: a fault proxy, an effect ledger, a checker.
//!
//! A dev-dependency of the other crates, never a dependency. Helpers here panic where a test would
//! `expect`: a test that can not be set up has failed.

mod bench;
mod check;
mod dice;
mod fakes;
mod ledger;
mod postgres;
mod preload;
mod proxy;
mod s3;
mod s3_faults;
mod sqlite_lock;

pub use bench::{Done, TaskBench};
pub use check::{Evidence, Sampler, TABLES, Violation, check, repairs};
pub use dice::Dice;
pub use fakes::{Fake, FakeParams, fake_kinds};
pub use ledger::{Entry, Ledger};
pub use postgres::{own_cluster, postgres};
pub use preload::build_preload;
pub use proxy::{CommitFault, Cut, Line, PostgresProxy};
pub use s3::S3Server;
pub use s3_faults::{S3Fault, S3Faults};
pub use sqlite_lock::SqliteLock;
pub use testkit_postgres::{Cluster, Database, Shutdown};
