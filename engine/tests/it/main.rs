//! The engine's integration tests: one binary, so that linking happens once.

mod artifacts;
mod store;
