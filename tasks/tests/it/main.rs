//! Task kinds from their raw inputs to their published artifacts, one module per kind.
//!
//! One binary for the crate: each would link DataFusion anew.

mod ingest;
