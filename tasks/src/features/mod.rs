//! The `features` kind and the feature table: from the canonical panel to what models read.
//!
//! `train` and `evaluate` read the table through [`FeatureFrame`]. Features are declared by
//! [`FeaturesParams`], listed by `spec`, computed by `compute`, one series at a time.

mod compute;
mod document;
#[cfg(test)]
pub(crate) mod fixture;
mod frame;
mod kind;
mod panel;
mod params;
mod spec;
mod table;
mod window;

pub use document::{FORMAT_VERSION, FeatureColumn, FeatureGroup, FeaturesDocument, Frequency, SkippedColumn};
pub use frame::{FeatureFrame, KEY_COLUMNS};
pub use kind::Features;
pub use params::FeaturesParams;
