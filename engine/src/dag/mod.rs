//! A DAG as the engine runs it: validated, immutable, on petgraph.
//!
//! `spec` reads the shape of the TOML with its spans, `lower` turns it into a [`Dag`] or into every
//! [`Diagnostic`] at once. Everything after this module may trust a `Dag`: no cycle, no missing
//! parent, every input bound to its producer. Nothing here renders a template or knows a state.

mod bind;
mod diagnostic;
mod diff;

mod graph;
pub(crate) mod json;
mod kind;
mod limits;
pub(crate) mod lints;
pub(crate) mod lower;
mod params;
mod policy;
pub(crate) mod read;
mod references;
mod schedule_shape;

mod schema;
pub(crate) mod secrets;
pub mod show;
pub(crate) mod spec;
mod suggest;
mod trigger;
mod with;

use std::collections::HashMap;
use std::time::Duration;

use indexmap::IndexMap;
use petgraph::graph::{DiGraph, NodeIndex};
use serde_json::Value;

pub use diagnostic::{Diagnostic, DiagnosticRow, Diagnostics, Severity};
pub use diff::{TaskChange, diff};
#[cfg(test)]
pub(crate) use kind::AnyKind;
pub use kind::{DependsOn, InputSpec, KindCatalog, KindInfo, OutputSpec, ParamProblem};
pub use limits::{MAX_DEPTH, MAX_EDGES, MAX_MATRIX_ELEMENTS, MAX_SOURCE_BYTES, MAX_TASKS};
pub use lower::{lower, lower_bytes};
pub use schedule_shape::Arrival;
pub use secrets::{SecretReference, put_secret, secret_references};
pub use trigger::{TriggerRule, UpstreamCounts, Verdict};

use crate::id::{ArtifactName, DagId, Digest, TaskId};

/// A named, versioned set of tasks; immutable once lowered.
#[derive(Debug, Clone)]
pub struct Dag {
    /// The id; equals the stem of its file.
    pub id: DagId,
    /// The digest of the file's bytes: the DAG version.
    pub version: Digest,
    /// The file's text, kept so that a run can be pinned to it.
    pub source: String,
    /// One line for people.
    pub description: String,
    /// For filters in lists.
    pub tags: Vec<String>,
    /// Runs of one tenant that may be active at once.
    pub max_active_runs: Option<u32>,
    /// What happens to a scheduled run that comes due while as many as may are active.
    pub overlap: Overlap,
    /// By when, after its start, a run should have ended.
    pub deadline: Option<Duration>,
    /// The declared schedule, as JSON; read by `schedule`.
    pub schedule: Option<Value>,
    /// Declared parameters, in the file's order.
    pub params: IndexMap<String, ParamSpec>,
    /// Tasks on the edges `needs` -> task. Node weights are [`Task`]s, in the file's order.
    pub graph: DiGraph<Task, ()>,
    /// Nodes by id: who advances a run asks once per task that ended.
    nodes: HashMap<TaskId, NodeIndex>,
}

impl Dag {
    /// The node of a task.
    pub fn node(&self, id: &TaskId) -> Option<NodeIndex> {
        self.nodes.get(id).copied()
    }

    /// A task by id.
    pub fn task(&self, id: &TaskId) -> Option<&Task> {
        self.node(id).map(|node| &self.graph[node])
    }

    /// Tasks in the file's order.
    pub fn tasks(&self) -> impl Iterator<Item = &Task> {
        self.graph.node_weights()
    }
}

/// What happens to a run that comes due while `max_active_runs` of its tenant and DAG are active.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Overlap {
    /// It waits for its turn.
    #[default]
    Queue,
    /// It is canceled before it starts; the list of runs shows it.
    Skip,
    /// The older ones are canceled, and it starts once they have ended.
    CancelOlder,
}

impl Overlap {
    /// The words in TOML.
    pub const WORDS: [&str; 3] = ["queue", "skip", "cancel_older"];

    /// The word in TOML and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Skip => "skip",
            Self::CancelOlder => "cancel_older",
        }
    }

    /// The policy of a word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Queue, Self::Skip, Self::CancelOlder].into_iter().find(|it| it.as_str() == word)
    }
}

/// A node of a DAG.
#[derive(Debug, Clone)]
pub struct Task {
    /// The id within the DAG.
    pub id: TaskId,
    /// The implementation's name.
    pub kind: String,
    /// Direct upstream tasks, in the file's order.
    pub needs: Vec<TaskId>,
    /// When the upstreams' outcomes let this task start.
    pub trigger_rule: TriggerRule,
    /// `if`: evaluated once the rule is met; false skips. A boolean or one template expression.
    pub condition: Option<Value>,
    /// Elements of the cross product of `matrix`, in order; empty for a task without one.
    pub matrix: Vec<IndexMap<String, Value>>,
    /// `for_each`: one expression that yields the list to fan out over, once the trigger rule is met.
    /// Each element is a task instance, which templates see as `matrix.item` and `matrix.index`.
    pub for_each: Option<String>,
    /// Parameters as written: templates are rendered when the attempt starts.
    pub with: Value,
    /// Named inputs and the tasks that make them.
    pub inputs: Vec<InputBinding>,
    /// What the kind declares to make.
    pub outputs: Vec<OutputSpec>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// What follows a failed attempt.
    pub retries: RetryPolicy,
    /// The pool whose slots an attempt takes.
    pub pool: Option<String>,
    /// Higher starts first among ready tasks of one tenant.
    pub priority: i32,
    /// Reuse an earlier result made from the same inputs.
    pub cache: bool,
    /// Where the attempt runs.
    pub isolation: Isolation,
    /// Elements of a fan-out that may run at once.
    pub max_in_flight: Option<u32>,
}

/// An input of a task, bound to the nearest upstream that makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InputBinding {
    /// The artifact's name.
    pub name: ArtifactName,
    /// The tasks that make it; several only where the kind reads many.
    pub producers: Vec<TaskId>,
    /// Whether the kind can do without it.
    pub optional: bool,
}

/// A declared parameter of a DAG.
#[derive(Debug, Clone, PartialEq)]
pub struct ParamSpec {
    /// JSON Schema of the value: `type`, `default`, `minimum`, `maximum`, `enum`, `description`.
    pub schema: Value,
    /// The value where a run names none.
    pub default: Option<Value>,
}

/// Time limits of a task; `None` = no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Timeouts {
    /// From ready to started.
    pub queue: Option<Duration>,
    /// From started to ended, for each attempt.
    pub attempt: Option<Duration>,
    /// From first ready to terminal, over all attempts.
    pub total: Option<Duration>,
}

/// What follows a failed attempt.
#[derive(Debug, Clone, PartialEq)]
pub struct RetryPolicy {
    /// Attempts beyond the first.
    pub max: u32,
    /// How the delay grows.
    pub backoff: Backoff,
    /// The first delay.
    pub initial: Duration,
    /// The largest delay.
    pub max_delay: Duration,
    /// Part of the delay that is drawn at random, 0 to 1.
    pub jitter: f64,
    /// Which failures are tried again.
    pub retry_on: RetryOn,
}

/// How the delay between attempts grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backoff {
    /// Always `initial`.
    Constant,
    /// Doubles with each attempt, up to `max_delay`.
    Exponential,
}

/// Which failures are tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryOn {
    /// Those that the task calls transient.
    Transient,
    /// All.
    Any,
}

/// Where an attempt runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// In the worker, on its blocking pool.
    Inline,
    /// In a child process.
    Process,
}
