//! The DAG engine: DAGs as data, state transitions, plans, artifacts, the durable store, the executor.
//!
//! No HTTP, no terminal, no concrete task, no machine learning. Read the modules in the order of
//! docs/architecture.md.

// An optimized build lays out futures within futures, from a command down to the driver of the database.
#![recursion_limit = "256"]

pub mod artifact;
pub mod clock;
pub mod config;
pub mod dag;
pub mod drill;
pub mod executor;
mod failpoint;
pub mod id;
pub mod launch;
pub mod plan;
pub mod registry;
pub mod replay;
pub mod run;
pub mod schedule;
pub mod scheduler;
pub mod secret;
pub mod store;
pub mod task;
pub mod template;
pub mod tenant;
