//! The port that task kinds implement, and what they see of the engine.
//!
//! `tasks` implements [`Task`]; the executor calls it through [`Kinds`]. A task sees its identity,
//! its inputs, its pinned documents and the registry of its own tenant; never the store, never a
//! clock, never another tenant.

mod context;
mod kinds;
mod log;

use async_trait::async_trait;
use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub use context::{AttemptIdentity, Input, ParquetSink, RunFacts, Skew, TaskContext, TaskContextParts};
pub use kinds::Kinds;
pub use log::{AttemptLog, LOG_FORMAT_VERSION, LastLines, LogLine, LogStream};

use crate::dag::{DependsOn, InputSpec, Isolation, OutputSpec, ParamProblem};
use crate::registry::RegistryChange;

/// The variable that marks the processes of an attempt that runs in a process of its own. A kind that
/// starts programs hands it on, so that whatever they leave behind is found.
pub const PROCESS_MARK: &str = "HEADWORKS_MARK";

/// An implementation of a task, with typed parameters.
#[async_trait]
pub trait Task: Send + Sync + 'static {
    /// The shape of `with`. Derive `JsonSchema` with `#[serde(deny_unknown_fields)]`; doc comments
    /// become the help that users read.
    type Params: DeserializeOwned + Serialize + JsonSchema + Send + Sync;

    /// `kind = "..."` in TOML.
    const KIND: &'static str;
    /// Raise it when results may differ for the same inputs.
    const CODE_VERSION: u32;
    /// One line for people.
    const SUMMARY: &'static str;
    /// Whether it talks to something that can fail for a while.
    const DOES_IO: bool = false;
    /// Where its attempts run unless the DAG says otherwise.
    const ISOLATION: Isolation = Isolation::Inline;
    /// What its results hang on beside inputs, documents, parameters and seed. Only a kind that says that
    /// it is nothing else, or the run's moment, is memoized.
    const DEPENDS_ON: DependsOn = DependsOn::Outside;
    /// Fields of its outputs (of the object itself) that are others in each run, such as seconds and keys of its
    /// own artifacts: left out where two executions are compared, and nothing else is.
    const VOLATILE: &'static [&'static str] = &[];
    /// Parameters that name a document of the project: (parameter, folder below `dags/`).
    const DOCUMENTS: &'static [(&'static str, &'static str)] = &[];
    /// Texts of `with` that may be a secret, by their place: `token`, or `env.*` for each entry of a table or list.
    /// Name one only if the value ends there: it must get into no artifact, no name, no path and no argument. An attempt
    /// with secrets runs in a process of its own, whatever its isolation: what a panic prints is hidden there only.
    const SECRETS: &'static [&'static str] = &[];

    /// Artifacts that it reads. `with` is the raw JSON: templates may be left in it.
    fn inputs(with: &Value) -> Vec<InputSpec>;

    /// Artifacts that it makes.
    fn outputs(with: &Value) -> Vec<OutputSpec>;

    /// Names of the worker's environment variables that an attempt asks for. In a process of its own
    /// it sees these and few others; `with` is rendered.
    fn variables(_with: &Value) -> Vec<String> {
        Vec::new()
    }

    /// Checks beyond types, on parameters without templates.
    fn check(_params: &Self::Params) -> Vec<ParamProblem> {
        Vec::new()
    }

    /// Does the work. Deterministic in (inputs, documents, parameters, seed).
    ///
    /// # Errors
    /// [`TaskError`], classified by whoever knows best: the author.
    async fn run(&self, context: &TaskContext, params: Self::Params) -> Result<TaskOutput, TaskError>;
}

/// What an attempt hands back beside the artifacts that it published.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct TaskOutput {
    /// A JSON object; other tasks' templates read it as `tasks.<id>.outputs`. At most 1 MiB.
    pub outputs: Value,
    /// Changes to the tenant's model registry, applied with the finish.
    pub registry: Vec<RegistryChange>,
}

impl TaskOutput {
    /// Outputs alone.
    pub fn new(outputs: Value) -> Self {
        Self { outputs, registry: Vec::new() }
    }
}

/// Whose fault a failure is; decides whom to page.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// The data broke a rule.
    Validation,
    /// The machine, the network, a child process, a bug.
    System,
    /// A model could not be fitted or judged.
    Model,
}

/// Why an attempt failed.
#[derive(Debug, thiserror::Error)]
pub enum TaskError {
    /// May go better next time: retried by policy.
    #[error("{message}")]
    Transient {
        /// Whose fault.
        class: ErrorClass,
        /// What, where, and how to mend it.
        message: String,
        /// What lay beneath.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// Will go the same way again: fails now.
    #[error("{message}")]
    Permanent {
        /// Whose fault.
        class: ErrorClass,
        /// What, where, and how to mend it.
        message: String,
        /// What lay beneath.
        #[source]
        source: Option<Box<dyn std::error::Error + Send + Sync>>,
    },
    /// A process that did the work died by a signal that nobody here sent. As when the attempt's own
    /// process dies, that is a loss: tried again, and quarantined when it happens too often.
    #[error("{message}")]
    Crashed {
        /// Which process, how it died, and what it printed last.
        message: String,
    },
    /// The attempt was told to stop, and did.
    #[error("canceled")]
    Canceled,
}

impl TaskError {
    /// A permanent failure without a deeper cause.
    pub fn permanent(class: ErrorClass, message: impl Into<String>) -> Self {
        Self::Permanent { class, message: message.into(), source: None }
    }

    /// A permanent failure with its cause.
    pub fn permanent_from(
        class: ErrorClass,
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Permanent { class, message: message.into(), source: Some(source.into()) }
    }

    /// A transient failure of the system with its cause.
    pub fn transient_from(
        message: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Transient { class: ErrorClass::System, message: message.into(), source: Some(source.into()) }
    }
}
