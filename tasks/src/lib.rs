//! The pipeline's task kinds: from raw sales to a judged model and a report.
//!
//! Registered by the `headworks` binary. A kind sees the engine through `engine::task` alone, never
//! the store.

pub mod features;
pub mod metrics;
pub mod model;
