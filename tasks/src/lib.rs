//! The pipeline's task kinds: from raw sales to a judged model and a report.
//!
//! Registered by the `headworks` binary through [`register`]. A kind sees the engine through
//! `engine::task` alone, never the store.

pub mod command;
pub mod contract;
pub mod evaluate;
pub mod features;
pub mod gate;
pub mod ingest;
pub mod metrics;
pub mod model;
mod port;
pub mod promote;
pub mod report;
pub mod session;
pub mod source;
pub mod train;
pub mod validate;

use engine::task::Kinds;

/// Adds every kind of this crate.
pub fn register(kinds: &mut Kinds) {
    kinds.register(command::Command);
    kinds.register(ingest::Ingest);
    kinds.register(validate::Validate);
    kinds.register(features::Features);
    kinds.register(train::Train);
    kinds.register(evaluate::Evaluate);
    kinds.register(promote::Promote);
    kinds.register(report::ReportTask);
}
