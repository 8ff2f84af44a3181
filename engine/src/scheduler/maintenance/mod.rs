//! The scheduler's chores, one file each.

pub mod admit;
pub mod backfill;
pub mod deadline;
pub mod expire;
pub mod fire;
pub mod reap;
pub mod reconcile;
pub mod retention;
pub mod trigger;
