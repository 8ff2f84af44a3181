//! The engine's integration tests: one binary, so that linking happens once.

mod artifacts;
mod child;
mod cronsim;
mod dag_diagnostics;
mod dag_graphs;
mod dag_limits;
mod kinds;
mod queue;
mod store;
// After the macro, whose scope is textual.
mod schedules;
