//! The `features` kind and the feature table: from the canonical panel to what models read.

mod document;
mod frame;

pub use document::{FORMAT_VERSION, FeatureColumn, FeatureGroup, FeaturesDocument, Frequency};
pub use frame::{FeatureFrame, KEY_COLUMNS};
