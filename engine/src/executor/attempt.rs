//! One attempt, from its claim to its report: load, render, run under a time limit, contain panics.
//!
//! Called by the dispatcher in a task of its own; whatever happens here ends as a [`Finish`], never
//! as a panic of the worker. An attempt runs here (`inline`) or in a process of its own (`child`).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::child::{self, Child};
use super::handover::{Spec, VERSION};
use super::log::{Log, LogSender};
use super::secrets::{self, Resolved, Secrets};
use super::{Settings, failed, fault, memo};
use crate::artifact::{ArtifactRef, ArtifactStore};
use crate::dag::Isolation;
use crate::id::SessionId;
use crate::plan::FailureKind;
use crate::store::{Claim, Finish, Memo, MemoHit, Outcome, Store, TenantRegistry, Work, chain};
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
    pub(super) secrets: Secrets,
}

/// Runs a claimed attempt to its report.
pub(super) async fn execute(environment: &Arc<Environment>, session: SessionId, claim: Claim, halt: Halt) -> Finish {
    let identity = claim.identity.clone();
    let begun = begin(environment, &claim, &halt.cancel).await;
    let memo = begun.as_ref().ok().and_then(Start::memo);
    let (outcome, artifacts, inputs) = match begun {
        Ok(Start::Begun(begun)) => begun.finish(environment, &halt).await,
        Ok(Start::Memoized(linked)) => {
            let (hit, inputs, _) = *linked;
            (Outcome::Succeeded { outputs: hit.outputs, registry: Vec::new() }, hit.artifacts, inputs)
        }
        Err(outcome) => (outcome, Vec::new(), Vec::new()),
    };
    Finish { identity, session, outcome, artifacts, inputs, memo }
}

/// What became of an attempt's beginning.
enum Start {
    /// It does its work.
    Begun(Box<Begun>),
    /// An earlier result takes its place.
    Memoized(Box<(MemoHit, Vec<Input>, Memo)>),
}

impl Start {
    fn memo(&self) -> Option<Memo> {
        match self {
            Self::Begun(begun) => begun.memo,
            Self::Memoized(linked) => Some(linked.2),
        }
    }
}

/// An attempt under way.
struct Begun {
    running: Running,
    limit: Option<Duration>,
    inputs: Vec<Input>,
    memo: Option<Memo>,
    log: Log,
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

/// Where it is under way.
enum Running {
    Inline(Inline),
    Process(Child),
}

/// An attempt in this very process.
struct Inline {
    context: Arc<TaskContext>,
    handle: JoinHandle<Result<TaskOutput, TaskError>>,
}

/// How the dispatcher stops an attempt.
#[derive(Clone)]
pub(super) struct Halt {
    /// Stop, within the grace.
    pub(super) cancel: CancellationToken,
    /// Stop now: another worker may hold the task instance, and two must not work at once. Cancels, too.
    pub(super) kill: CancellationToken,
}

impl Halt {
    pub(super) fn new() -> Self {
        let kill = CancellationToken::new();
        Self { cancel: kill.child_token(), kill }
    }

    /// Returns when the grace of an attempt that was told to stop is over.
    async fn grace_ended(&self, grace: Duration) {
        tokio::select! {
            () = tokio::time::sleep(grace) => {}
            () = self.kill.cancelled() => {}
        }
    }
}

/// Why an attempt is told to stop.
pub(super) enum Stop {
    Canceled,
    TimedOut { limit: Duration },
}

impl Stop {
    /// Returns once there is a reason.
    async fn asked(cancel: &CancellationToken, limit: Option<Duration>) -> Self {
        let timer = async {
            match limit {
                Some(limit) => tokio::time::sleep(limit).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = timer => Self::TimedOut { limit: limit.unwrap_or_default() },
            () = cancel.cancelled() => Self::Canceled,
        }
    }

    /// The outcome of an attempt whose limit has passed, whatever it still says.
    pub(super) fn too_late(limit: Duration) -> Outcome {
        let message = format!("took longer than its limit of {} s", limit.as_secs_f64());
        failed(FailureKind::TimedOut { limit }, ErrorClass::System, message)
    }
}

async fn begin(environment: &Arc<Environment>, claim: &Claim, cancel: &CancellationToken) -> Result<Start, Outcome> {
    let work = environment.store.work(claim).await.map_err(|error| match error.is_unavailable() {
        // The task has not begun, and is not to blame: whoever reaches the store begins it.
        true => failed(FailureKind::HandedBack, ErrorClass::System, chain(&error)),
        false => transient(chain(&error)),
    })?;
    let task = work.task().map_err(|error| permanent(chain(&error)))?;
    let with = render(&task.with, &work.scope).map_err(|error| permanent(format!("with: {error}")))?;
    let (kind, isolation) = (task.kind.clone(), task.isolation);
    let with = or_empty(with);
    fault::arm(environment, &work).await?;
    let isolation = fault::isolation(&work.faults, isolation);
    let memo = match memo::look(environment, &work, &with).await {
        Some((memo, Some(hit))) => return Ok(Start::Memoized(Box::new((hit, work.inputs, memo)))),
        other => other.map(|(memo, _)| memo),
    };
    let resolved = secrets::resolve(environment, (&claim.identity.tenant, task), with, cancel).await?;
    // What a panic prints is heard by its worker then, and not printed by it as it is.
    let isolation = if resolved.values.is_empty() { isolation } else { Isolation::Process };
    // Whichever comes first: the limit of an attempt, or what is left of the limit over all of them.
    let left = claim.end_by.map(|by| Duration::from_micros(u64::try_from(by - environment.store.now()).unwrap_or(0)));
    let limit = task.timeouts.attempt.into_iter().chain(left).min();
    let scratch = Scratch(environment.settings.scratch_root.join(format!("attempt-{}", Uuid::new_v4())));
    let inputs = work.inputs.clone();
    let prefix = claim.identity.key_prefix();
    let redactor = resolved.redactor.clone();
    let log = Log::open(&environment.artifacts, prefix, environment.settings.attempts.log_bytes, redactor);
    let started = (kind, resolved);
    let running = match isolation {
        Isolation::Inline => Running::Inline(inline(environment, work, started, &scratch.0, (cancel, &log))),
        Isolation::Process => Running::Process(process(environment, work, started, &scratch.0, &log.sender())?),
    };
    Ok(Start::Begun(Box::new(Begun { running, limit, inputs, memo, log, _scratch: scratch })))
}

fn transient(message: String) -> Outcome {
    failed(FailureKind::Transient, ErrorClass::System, message)
}

fn permanent(message: String) -> Outcome {
    failed(FailureKind::Permanent, ErrorClass::System, message)
}

fn inline(
    environment: &Arc<Environment>,
    work: Work,
    (kind, resolved): (String, Resolved),
    scratch: &Path,
    (cancel, log): (&CancellationToken, &Log),
) -> Inline {
    let tenant = work.claim.identity.tenant.clone();
    let disturbed = fault::disturbed(&environment.artifacts, &work.faults, &Arc::default());
    let artifacts = disturbed.map_or_else(|| Arc::clone(&environment.artifacts), Arc::new);
    let context = Arc::new(TaskContext::new(TaskContextParts {
        identity: work.claim.identity,
        facts: work.facts,
        seed: work.claim.seed,
        inputs: work.inputs,
        documents: work.documents,
        project_root: environment.settings.project_root.clone(),
        scratch: scratch.to_owned(),
        artifacts,
        registry: Arc::new(TenantRegistry::new(Arc::clone(&environment.store), tenant, work.registry_at)),
        log: log.sender(),
        redactor: resolved.redactor,
        cancel: cancel.clone(),
        skews: fault::skews(&work.faults),
    }));
    let (kinds, shared) = (environment.kinds.clone(), Arc::clone(&context));
    let hangs = fault::hangs(&work.faults);
    let handle = tokio::spawn(async move {
        if hangs {
            std::future::pending::<()>().await;
        }
        kinds.run(&kind, &shared, resolved.with).await
    });
    Inline { context, handle }
}

fn process(
    environment: &Arc<Environment>,
    work: Work,
    (kind, resolved): (String, Resolved),
    folder: &Path,
    log: &Arc<LogSender>,
) -> Result<Child, Outcome> {
    let settings = &environment.settings.attempts;
    let asked = environment.kinds.variables(&kind, &resolved.with);
    // Relative folders are below the worker's own, which the process shares.
    let scratch = folder.join("scratch");
    std::fs::create_dir_all(&scratch)
        .map_err(|error| transient(format!("can not make the folder {}: {error}", scratch.display())))?;
    let (artifacts_url, artifacts_options) = environment.artifacts.opened_with();
    let (identity, faults) = (work.claim.identity.clone(), work.faults);
    let spec = Spec {
        version: VERSION,
        identity: work.claim.identity,
        kind,
        with: resolved.with,
        secrets: resolved.values,
        facts: work.facts,
        registry_at: work.registry_at,
        seed: work.claim.seed,
        inputs: work.inputs,
        documents: work.documents,
        project_root: environment.settings.project_root.clone(),
        scratch,
        hand_back: folder.join("hand-back.json"),
        artifacts_url: artifacts_url.to_owned(),
        artifacts_options: artifacts_options.clone(),
        store_url: settings.store_url.clone(),
        limits: settings.limits,
        faults: faults.clone(),
        mark: Uuid::new_v4().to_string(),
    };
    let held = Arc::default();
    let child = child::start(&spec, settings, &asked, log, &held)
        .map_err(|error| transient(format!("can not start a process for the attempt: {error}")))?;
    fault::kill_when_held(environment, &identity, &faults, (held, child.group()));
    Ok(child)
}

/// A task without `with` has no parameters, which is an object all the same.
fn or_empty(with: Value) -> Value {
    if with.is_null() { Value::Object(serde_json::Map::new()) } else { with }
}

impl Begun {
    async fn finish(self, environment: &Environment, halt: &Halt) -> (Outcome, Vec<ArtifactRef>, Vec<Input>) {
        let grace = halt.grace_ended(environment.settings.cancel_grace);
        let stop = Stop::asked(&halt.cancel, self.limit);
        let (outcome, published) = match self.running {
            Running::Inline(mut inline) => {
                (inline.outcome(stop, &halt.cancel, grace).await, inline.context.published())
            }
            Running::Process(child) => child.outcome(stop, grace).await,
        };
        let outcome = secrets::redacted(outcome, self.log.redactor());
        self.log.close().await;
        (outcome, published, self.inputs)
    }
}

impl Inline {
    async fn outcome(
        &mut self,
        stop: impl Future<Output = Stop>,
        cancel: &CancellationToken,
        grace_ended: impl Future<Output = ()>,
    ) -> Outcome {
        let stop = tokio::select! {
            ended = &mut self.handle => return judge(ended),
            stop = stop => stop,
        };
        cancel.cancel();
        let ended = tokio::select! {
            ended = &mut self.handle => Some(ended),
            () = grace_ended => None,
        };
        if ended.is_none() {
            self.handle.abort();
        }
        match (stop, ended) {
            (Stop::TimedOut { limit }, _) => Stop::too_late(limit),
            (Stop::Canceled, Some(ended)) => judge(ended),
            (Stop::Canceled, None) => {
                let message = "did not stop within its grace after a cancel";
                failed(FailureKind::Canceled, ErrorClass::System, message.to_owned())
            }
        }
    }
}

/// The outcome of a task that ended by itself.
pub(super) fn judge(ended: Result<Result<TaskOutput, TaskError>, tokio::task::JoinError>) -> Outcome {
    match ended {
        Ok(Ok(output)) => accept(output),
        Ok(Err(error)) => {
            let message = chain(&error);
            match error {
                TaskError::Transient { class, .. } => failed(FailureKind::Transient, class, message),
                TaskError::Permanent { class, .. } => failed(FailureKind::Permanent, class, message),
                TaskError::Crashed { .. } => failed(FailureKind::Crashed, ErrorClass::System, message),
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
