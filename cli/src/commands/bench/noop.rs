//! The task kind of the benchmarks: does nothing, or waits; tells its observer when it began.
//!
//! Registered for `headworks bench`, and in an attempt's process that it starts: no DAG of a project can
//! name it.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use engine::dag::{InputSpec, OutputSpec};
use engine::task::{Kinds, Task, TaskContext, TaskError, TaskOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// What a no-op may be told.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct NoopParams {
    /// Milliseconds to wait.
    pub(super) wait_ms: u64,
}

/// An attempt began.
#[derive(Debug, Clone)]
pub(super) struct Began {
    /// Whose.
    pub(super) tenant: String,
    /// Of which run.
    pub(super) run: String,
    /// When.
    pub(super) at: Instant,
}

/// `kind = "noop"`
pub(super) struct Noop {
    observer: mpsc::UnboundedSender<Began>,
}

/// The kinds of the benchmarks, and what tells when attempts began.
pub(super) fn kinds() -> (Kinds, mpsc::UnboundedReceiver<Began>) {
    let (observer, began) = mpsc::unbounded_channel();
    let mut kinds = Kinds::new();
    kinds.register(Noop { observer });
    (kinds, began)
}

/// Registers the no-op in a process that runs one attempt of it: nobody listens there.
pub(in crate::commands) fn register(kinds: &mut Kinds) {
    let (observer, _) = mpsc::unbounded_channel();
    kinds.register(Noop { observer });
}

#[async_trait]
impl Task for Noop {
    type Params = NoopParams;
    const KIND: &'static str = "noop";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "Do nothing, for a benchmark";

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        Vec::new()
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        Vec::new()
    }

    async fn run(&self, context: &TaskContext, params: NoopParams) -> Result<TaskOutput, TaskError> {
        let identity = context.identity();
        let (tenant, run) = (identity.tenant.to_string(), identity.run.to_string());
        // Nobody has to listen.
        self.observer.send(Began { tenant, run, at: Instant::now() }).ok();
        if params.wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(params.wait_ms)).await;
        }
        Ok(TaskOutput::new(json!({})))
    }
}
