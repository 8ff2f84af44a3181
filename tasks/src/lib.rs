//! The pipeline's task kinds: from raw sales to a judged model and a report.
//!
//! Registered by the `headworks` binary through [`register`]. A kind sees the engine through
//! `engine::task` alone, never the store.

pub mod contract;
pub mod features;
pub mod ingest;
pub mod metrics;
pub mod model;
pub mod session;
pub mod source;

use engine::task::Kinds;

/// Adds every kind of this crate.
pub fn register(kinds: &mut Kinds) {
    kinds.register(ingest::Ingest);
}
