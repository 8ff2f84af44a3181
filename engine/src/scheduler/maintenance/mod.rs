//! The scheduler's chores, one file each.

pub mod expire;
pub mod reap;
pub mod reconcile;
