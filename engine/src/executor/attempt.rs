//! One attempt, from its claim to its report: load, render, run under a time limit, contain panics.
//!
//! Called by the dispatcher in a task of its own; whatever happens here ends as a [`Finish`], never
//! as a panic of the worker.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{Settings, failed};
use crate::artifact::{ArtifactRef, ArtifactStore};
use crate::id::SessionId;
use crate::plan::FailureKind;
use crate::store::{Claim, Finish, Outcome, Store, TenantRegistry, Work};
use crate::task::{ErrorClass, Input, Kinds, TaskContext, TaskContextParts, TaskError, TaskOutput};
use crate::template::render;

/// The most that an attempt's outputs may weigh: they are rows, not files.
const OUTPUTS_LIMIT: usize = 1 << 20;

/// What all attempts of this process share.
pub(super) struct Environment {
    pub(super) store: Arc<Store>,
    pub(super) artifacts: Arc<ArtifactStore>,
    pub(super) kinds: Kinds,
    pub(super) settings: Settings,
}

/// Runs a claimed attempt to its report.
pub(super) async fn execute(
    environment: &Environment,
    session: SessionId,
    claim: Claim,
    cancel: CancellationToken,
) -> Finish {
    let identity = claim.identity.clone();
    let (outcome, artifacts, inputs) = match begin(environment, &claim, &cancel).await {
        Ok(begun) => begun.finish(environment, &cancel).await,
        Err(outcome) => (outcome, Vec::new(), Vec::new()),
    };
    Finish { identity, session, outcome, artifacts, inputs }
}

/// An attempt under way.
struct Begun {
    context: Arc<TaskContext>,
    handle: JoinHandle<Result<TaskOutput, TaskError>>,
    limit: Option<Duration>,
    inputs: Vec<Input>,
    _scratch: Scratch,
}

/// An attempt's own folder: made when it is first asked for, removed when the attempt is over.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if self.0.exists()
            && let Err(error) = std::fs::remove_dir_all(&self.0)
        {
            tracing::warn!(%error, folder = %self.0.display(), "an attempt's folder was left behind");
        }
    }
}

async fn begin(environment: &Environment, claim: &Claim, cancel: &CancellationToken) -> Result<Begun, Outcome> {
    let transient = |message: String| failed(FailureKind::Transient, ErrorClass::System, message);
    let permanent = |message: String| failed(FailureKind::Permanent, ErrorClass::System, message);
    let work = environment.store.work(claim).await.map_err(|error| transient(chain(&error)))?;
    let task = work.task().map_err(|error| permanent(chain(&error)))?;
    let with = render(&task.with, &work.scope).map_err(|error| permanent(format!("with: {error}")))?;
    let kind = task.kind.clone();
    // Whichever comes first: the limit of an attempt, or what is left of the limit over all of them.
    let left = claim.end_by.map(|by| Duration::from_micros(u64::try_from(by - environment.store.now()).unwrap_or(0)));
    let limit = task.timeouts.attempt.into_iter().chain(left).min();
    let scratch = Scratch(environment.settings.scratch_root.join(format!("attempt-{}", Uuid::new_v4())));
    let inputs = work.inputs.clone();
    let context = Arc::new(TaskContext::new(parts(environment, work, scratch.0.clone(), cancel)));
    let (kinds, shared) = (environment.kinds.clone(), Arc::clone(&context));
    let handle = tokio::spawn(async move { kinds.run(&kind, &shared, or_empty(with)).await });
    Ok(Begun { context, handle, limit, inputs, _scratch: scratch })
}

fn parts(environment: &Environment, work: Work, scratch: PathBuf, cancel: &CancellationToken) -> TaskContextParts {
    let tenant = work.claim.identity.tenant.clone();
    TaskContextParts {
        identity: work.claim.identity,
        facts: work.facts,
        seed: work.claim.seed,
        inputs: work.inputs,
        documents: work.documents,
        project_root: environment.settings.project_root.clone(),
        scratch,
        artifacts: Arc::clone(&environment.artifacts),
        registry: Arc::new(TenantRegistry::new(Arc::clone(&environment.store), tenant)),
        cancel: cancel.clone(),
    }
}

/// A task without `with` has no parameters, which is an object all the same.
fn or_empty(with: Value) -> Value {
    if with.is_null() { Value::Object(serde_json::Map::new()) } else { with }
}

impl Begun {
    async fn finish(
        mut self,
        environment: &Environment,
        cancel: &CancellationToken,
    ) -> (Outcome, Vec<ArtifactRef>, Vec<Input>) {
        let grace = environment.settings.cancel_grace;
        let outcome = self.outcome(cancel, grace).await;
        (outcome, self.context.published(), self.inputs)
    }

    async fn outcome(&mut self, cancel: &CancellationToken, grace: Duration) -> Outcome {
        let limit = self.limit;
        let timer = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut self.handle => return judge(ended),
            () = timer => {}
            () = cancel.cancelled() => {
                return match tokio::time::timeout(grace, &mut self.handle).await {
                    Ok(ended) => judge(ended),
                    Err(_) => self.give_up(FailureKind::Canceled, "did not stop within its grace after a cancel"),
                };
            }
        }
        let limit = limit.unwrap_or_default();
        cancel.cancel();
        // The limit has passed, whatever the attempt still says.
        if tokio::time::timeout(grace, &mut self.handle).await.is_err() {
            self.handle.abort();
        }
        let message = format!("took longer than its limit of {} s", limit.as_secs_f64());
        failed(FailureKind::TimedOut { limit }, ErrorClass::System, message)
    }

    fn give_up(&self, kind: FailureKind, message: &str) -> Outcome {
        self.handle.abort();
        failed(kind, ErrorClass::System, message.to_owned())
    }
}

fn judge(ended: Result<Result<TaskOutput, TaskError>, tokio::task::JoinError>) -> Outcome {
    match ended {
        Ok(Ok(output)) => accept(output),
        Ok(Err(error)) => {
            let message = chain(&error);
            match error {
                TaskError::Transient { class, .. } => failed(FailureKind::Transient, class, message),
                TaskError::Permanent { class, .. } => failed(FailureKind::Permanent, class, message),
                TaskError::Canceled => failed(FailureKind::Canceled, ErrorClass::System, message),
            }
        }
        Err(error) => {
            let message = match error.try_into_panic() {
                Ok(panic) => format!("the task panicked: {}", panic_text(panic.as_ref())),
                Err(error) => format!("the task ended without a result: {error}"),
            };
            failed(FailureKind::Permanent, ErrorClass::System, message)
        }
    }
}

fn accept(output: TaskOutput) -> Outcome {
    let outputs = or_empty(output.outputs);
    let size = outputs.to_string().len();
    if !outputs.is_object() || size > OUTPUTS_LIMIT {
        let message =
            format!("its outputs are {size} bytes of JSON; they have to be an object of at most {OUTPUTS_LIMIT}");
        return failed(FailureKind::Permanent, ErrorClass::System, message);
    }
    Outcome::Succeeded { outputs, registry: output.registry }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("without a message")
}

/// An error and what lay beneath, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
