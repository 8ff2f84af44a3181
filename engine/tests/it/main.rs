//! The engine's integration tests: one binary, so that linking happens once.

mod artifacts;
mod child;
mod dag_diagnostics;
mod dag_graphs;
mod dag_limits;
mod kinds;
mod queue;
mod store;
