//! Short ways to declare what a task kind reads and makes.
//!
//! Called by the kinds' `inputs` and `outputs`. Names are literals of this crate, so a wrong one is a bug.

use engine::dag::{InputSpec, OutputSpec};
use engine::id::ArtifactName;

/// An artifact read from the nearest producer.
pub(crate) fn one(name: &str) -> InputSpec {
    InputSpec { name: artifact_name(name), many: false, optional: false }
}

/// An artifact read from every nearest producer.
pub(crate) fn many(name: &str) -> InputSpec {
    InputSpec { many: true, ..one(name) }
}

/// The same, where the kind can do without it.
pub(crate) fn optional(input: InputSpec) -> InputSpec {
    InputSpec { optional: true, ..input }
}

/// An artifact that the kind makes.
pub(crate) fn made(name: &str, summary: &str) -> OutputSpec {
    OutputSpec { name: artifact_name(name), summary: summary.to_owned() }
}

fn artifact_name(name: &str) -> ArtifactName {
    ArtifactName::parse(name).expect("a literal of this crate keeps to the rule")
}
