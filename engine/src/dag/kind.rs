//! What a DAG needs to know about task kinds to check itself, without knowing one.
//!
//! `task` fills a [`KindCatalog`] from the registered kinds; `lower` reads it. Tests make their own.

use serde_json::Value;

use crate::dag::Isolation;
use crate::id::ArtifactName;

/// The kinds that a DAG may name.
pub trait KindCatalog {
    /// The kind, if there is one of that name.
    fn kind(&self, name: &str) -> Option<&KindInfo>;
    /// All names, sorted, for suggestions.
    fn names(&self) -> Vec<&str>;
}

/// What a kind declares about itself.
#[derive(Debug, Clone)]
pub struct KindInfo {
    /// `kind = "..."` in TOML.
    pub name: &'static str,
    /// Raised when the kind's results may differ for the same inputs; part of cache keys.
    pub code_version: u32,
    /// One line for people.
    pub summary: &'static str,
    /// JSON Schema of `with`; unknown keys are refused.
    pub params: Value,
    /// Checks `with` whole once no template is left in it; an empty list is good.
    pub check: fn(&Value) -> Vec<ParamProblem>,
    /// Artifacts that it reads, as far as they do not hang on `with`.
    pub inputs: fn(&Value) -> Vec<InputSpec>,
    /// Artifacts that it makes.
    pub outputs: fn(&Value) -> Vec<OutputSpec>,
    /// Parameters that name a document of the project, and the folder below `dags/` where it is:
    /// `("contract", "contracts")`. The document's text is pinned when a run is made.
    pub documents: &'static [(&'static str, &'static str)],
    /// Places in `with` that may hold a reference to a secret; see [`crate::task::Task::SECRETS`].
    pub secrets: &'static [&'static str],
    /// Whether it talks to something that can fail for a while (a lint asks for retries).
    pub does_io: bool,
    /// Where its attempts run unless the DAG says otherwise.
    pub isolation: Isolation,
    /// What its results hang on beside inputs, documents, parameters and seed.
    pub depends_on: DependsOn,
    /// Fields of its outputs that are others in each run, such as seconds and its own artifacts' keys.
    pub volatile: &'static [&'static str],
}

/// What a kind's results hang on beside its code, inputs, documents, parameters and seed: decides whether
/// `cache = true` can be true to its word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DependsOn {
    /// Nothing else.
    Inputs,
    /// The moment and the interval that its run is about, too.
    Moment,
    /// Files, databases or a registry that the engine does not pin, or who the run is: never memoized.
    Outside,
}

/// An artifact that a kind reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputSpec {
    /// Its name.
    pub name: ArtifactName,
    /// Whether one is read from every nearest producer (`evaluate` reads each model's backtest).
    pub many: bool,
    /// Whether the kind can do without it.
    pub optional: bool,
}

/// An artifact that a kind makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutputSpec {
    /// Its name.
    pub name: ArtifactName,
    /// One line for people.
    pub summary: String,
}

/// What is wrong with a parameter of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParamProblem {
    /// Keys from the root of `with` to the value.
    pub path: Vec<String>,
    /// What is wrong.
    pub message: String,
    /// How to mend it.
    pub help: Option<String>,
}

/// A catalog with one kind for every name, for tests of graphs.
#[cfg(test)]
pub(crate) struct AnyKind(KindInfo);

#[cfg(test)]
impl AnyKind {
    pub(crate) fn new() -> Self {
        Self(KindInfo {
            name: "any",
            code_version: 1,
            summary: "",
            params: serde_json::json!({ "type": "object" }),
            check: |_| Vec::new(),
            inputs: |_| Vec::new(),
            outputs: |_| Vec::new(),
            documents: &[],
            secrets: &[],
            does_io: false,
            isolation: Isolation::Inline,
            depends_on: DependsOn::Inputs,
            volatile: &[],
        })
    }
}

#[cfg(test)]
impl KindCatalog for AnyKind {
    fn kind(&self, _: &str) -> Option<&KindInfo> {
        Some(&self.0)
    }

    fn names(&self) -> Vec<&str> {
        vec!["any"]
    }
}
