//! An attempt in a process of its own, from the inside: read, limited, run, handed back.
//!
//! Called by the binary's `attempt` command, which nobody but a worker gives (see `child`). It writes
//! nothing to the state store: what it reports, the worker reports on, under the worker's fence. What
//! it publishes lies under its epoch's keys and is seen by nobody until then.
//!
//! The process dies with its worker. A thread waits on standard input, which the worker holds open;
//! when that ends, it kills all that the process started, then the process. Being a subreaper, the
//! process adopts what its programs leave behind, so that nothing below it gets out of its sight.

use std::io::{BufRead, Read, Write};
use std::num::NonZero;
use std::sync::Arc;

use async_trait::async_trait;
use nix::errno::Errno;
use nix::sys::prctl::{set_child_subreaper, set_name};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::{getpgrp, getpid};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::OnceCell;
use tokio_util::sync::CancellationToken;

use super::attempt::judge;
use super::handover::{Ending, HandBack, ProcessLimits, Spec, VERSION};
use super::kin::Kin;
use super::{failed, fault, secrets};
use crate::artifact::{ArtifactError, ArtifactRef, ArtifactStore};
use crate::drill::Moment;
use crate::id::{ModelName, TenantId};
use crate::plan::{FailureKind, Micros};
use crate::registry::{ModelRegistry, ModelVersion, RegistryError};
use crate::secret::Redactor;
use crate::store::{OpenMode, Store, TenantRegistry, chain};
use crate::task::{AttemptLog, ErrorClass, Kinds, LogStream, TaskContext, TaskContextParts};

/// Why there was no attempt to run, or no way to say how it went.
#[derive(Debug, thiserror::Error)]
pub enum AttemptError {
    /// Standard input ended without an attempt: this is not how people run tasks.
    #[error("no attempt on standard input: a worker starts this command, people start `headworks run`")]
    NoSpec,
    /// What came is no attempt of this version.
    #[error("the attempt on standard input is none that this binary reads; is the worker of another version?")]
    BadSpec(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// The machine refused something.
    #[error("can not {action}")]
    System {
        /// What.
        action: &'static str,
        /// What lay beneath.
        #[source]
        source: std::io::Error,
    },
}

/// Runs the attempt that a worker hands over on standard input, and hands back how it ended. Returns
/// once that is written; the caller exits without waiting for threads that the task left behind.
///
/// # Errors
/// There is no attempt to run, or the machine refuses to run one. The worker sees a crash.
pub fn run_attempt(kinds: Kinds) -> Result<(), AttemptError> {
    // First of all, so that nothing below is ever lost sight of.
    set_child_subreaper(true).map_err(refused("adopt processes"))?;
    // It was started by a path that says nothing, and people look for it by name.
    set_name(c"headworks").map_err(refused("name the process"))?;
    let spec = read_spec()?;
    limit(&spec.limits)?;
    die_with_the_worker()?;
    // Two at least: a kind that computes on one thread must not keep the signal from being heard.
    let threads = std::thread::available_parallelism().map_or(2, NonZero::get).max(2);
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(threads).enable_all().build().map_err(system("start the runtime"))?;
    let path = spec.hand_back.clone();
    let (ending, published) = runtime.block_on(run(spec, kinds));
    let written = HandBack { version: VERSION, ending, published }.write(&path);
    end_children();
    // Dropped, it would wait for threads that compute on though told to stop.
    runtime.shutdown_background();
    written.map_err(system("write the result"))
}

fn system(action: &'static str) -> impl FnOnce(std::io::Error) -> AttemptError {
    move |source| AttemptError::System { action, source }
}

fn refused(action: &'static str) -> impl FnOnce(Errno) -> AttemptError {
    move |errno| AttemptError::System { action, source: errno.into() }
}

fn read_spec() -> Result<Spec, AttemptError> {
    let mut line = Vec::new();
    std::io::stdin().lock().read_until(b'\n', &mut line).map_err(system("read the attempt"))?;
    if line.last() != Some(&b'\n') {
        return Err(AttemptError::NoSpec);
    }
    let spec: Spec = serde_json::from_slice(&line).map_err(|error| AttemptError::BadSpec(error.into()))?;
    if spec.version != VERSION {
        let message = format!("it is of version {}, this binary reads {VERSION}", spec.version);
        return Err(AttemptError::BadSpec(message.into()));
    }
    Ok(spec)
}

/// Sets what this process and all that it starts may use.
fn limit(limits: &ProcessLimits) -> Result<(), AttemptError> {
    // A dump of a model's memory helps nobody and fills the disk that others write to.
    cap(Resource::RLIMIT_CORE, 0)?;
    if limits.memory_bytes > 0 {
        cap(Resource::RLIMIT_AS, limits.memory_bytes)?;
    }
    if limits.open_files > 0 {
        cap(Resource::RLIMIT_NOFILE, limits.open_files)?;
    }
    willing_to_die(limits.oom_score_adj);
    Ok(())
}

/// Tells the kernel how willingly to end this process when memory is short; never less than it is.
fn willing_to_die(score: u16) {
    const FILE: &str = "/proc/self/oom_score_adj";
    let now = std::fs::read_to_string(FILE).ok().and_then(|text| text.trim().parse::<i32>().ok());
    if now.is_some_and(|now| now < i32::from(score))
        && let Err(error) = std::fs::write(FILE, score.to_string())
    {
        // A container may not allow it. The task runs all the same.
        tracing::debug!(%error, "can not tell the kernel to end this process before its worker");
    }
}

/// Lowers a limit, for good; one that is lower already stays.
fn cap(resource: Resource, most: u64) -> Result<(), AttemptError> {
    let (_, hard) = getrlimit(resource).map_err(refused("read the limits of the process"))?;
    let most = most.min(hard);
    setrlimit(resource, most, most).map_err(refused("limit the process"))
}

/// Kills all that this process started, however far below it: what is left of an attempt ends with it.
fn end_children() {
    // The common case, and cheap: to look for processes is to look at every one of the machine.
    if waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT) != Err(Errno::ECHILD) {
        Kin { root: Some(getpid()), mark: None }.kill();
    }
}

/// Starts the thread that waits for the worker's end.
fn die_with_the_worker() -> Result<(), AttemptError> {
    let wait = move || {
        let mut bytes = [0; 64];
        // The worker says nothing more: whatever ends this, ends the attempt.
        while std::io::stdin().lock().read(&mut bytes).is_ok_and(|count| count > 0) {}
        end_children();
        if getpgrp() == getpid() {
            killpg(getpgrp(), Signal::SIGKILL).ok();
        }
        // Not the leader, then (by hand, or below a debugger): alone, and without a word to anybody.
        std::process::abort();
    };
    let builder = std::thread::Builder::new().name("worker-watch".to_owned());
    builder.spawn(wait).map(|_| ()).map_err(system("start a thread"))
}

/// Runs the attempt to its end.
async fn run(spec: Spec, kinds: Kinds) -> (Ending, Vec<ArtifactRef>) {
    let cancel = CancellationToken::new();
    if let Err(error) = listen(&cancel) {
        return (transient(format!("can not listen for the worker's signal: {error}")), Vec::new());
    }
    let (kind, with) = (spec.kind.clone(), spec.with.clone());
    let redactor = Redactor::new(&spec.secrets);
    let (held_at, hangs) = (fault::held_at(&spec.faults), fault::hangs(&spec.faults));
    let context = match context(spec, &kinds, (cancel, &redactor)) {
        Ok(context) => Arc::new(context),
        Err(error) => return (transient(chain(&error)), Vec::new()),
    };
    let shared = Arc::clone(&context);
    if held_at == Some(Moment::Begun) {
        hold().await;
    }
    if hangs {
        std::future::pending::<()>().await;
    }
    // In a task of its own, so that a panic ends the attempt with its message.
    let handle = tokio::spawn(async move { kinds.run(&kind, &shared, with).await });
    // Here already: what is handed back is a file for a moment.
    let outcome = secrets::redacted(judge(handle.await), &redactor);
    (Ending::from(outcome), context.published())
}

/// Says that it stops here, and waits for the worker to kill it.
async fn hold() {
    let line = format!("{}\n", fault::HELD);
    // In one write, so that it is read as one line.
    print(&mut std::io::stderr().lock(), line.as_bytes()).ok();
    std::future::pending().await
}

fn transient(message: String) -> Ending {
    Ending::from(failed(FailureKind::Transient, ErrorClass::System, message))
}

/// SIGTERM is the worker's word for "stop".
fn listen(cancel: &CancellationToken) -> std::io::Result<()> {
    let mut asked = signal(SignalKind::terminate())?;
    let cancel = cancel.clone();
    tokio::spawn(async move {
        asked.recv().await;
        cancel.cancel();
    });
    Ok(())
}

fn context(
    spec: Spec,
    kinds: &Kinds,
    (cancel, redactor): (CancellationToken, &Redactor),
) -> Result<TaskContext, ArtifactError> {
    let mut artifacts = ArtifactStore::open_with(&spec.artifacts_url, &spec.artifacts_options)?;
    let published = Arc::default();
    if let Some(disturbed) = fault::disturbed(&artifacts, &spec.faults, &published) {
        artifacts = disturbed;
        tokio::spawn(async move {
            published.notified().await;
            hold().await;
        });
    }
    let registry = LazyRegistry {
        url: spec.store_url,
        kinds: kinds.clone(),
        tenant: spec.identity.tenant.clone(),
        at: spec.registry_at,
        opened: OnceCell::new(),
    };
    Ok(TaskContext::new(TaskContextParts {
        identity: spec.identity,
        facts: spec.facts,
        seed: spec.seed,
        inputs: spec.inputs,
        documents: spec.documents,
        project_root: spec.project_root,
        scratch: spec.scratch,
        artifacts: Arc::new(artifacts),
        registry: Arc::new(registry),
        log: Arc::new(Printed),
        redactor: redactor.clone(),
        cancel,
        skews: fault::skews(&spec.faults),
    }))
}

/// The registry behind a store that is opened when somebody asks: few attempts do, and each
/// connection is one that the database has to have.
struct LazyRegistry {
    url: String,
    kinds: Kinds,
    tenant: TenantId,
    at: Option<Micros>,
    opened: OnceCell<TenantRegistry>,
}

#[async_trait]
impl ModelRegistry for LazyRegistry {
    async fn champion(&self, name: &ModelName) -> Result<Option<ModelVersion>, RegistryError> {
        let open = || async {
            let store = Store::open(&self.url, OpenMode::Read, Arc::new(self.kinds.clone())).await;
            let store = store.map_err(|error| RegistryError(error.into()))?;
            Ok(TenantRegistry::new(Arc::new(store), self.tenant.clone(), self.at))
        };
        self.opened.get_or_try_init(open).await?.champion(name).await
    }
}

/// The log of an attempt in its own process: what is printed, the worker reads.
struct Printed;

#[async_trait]
impl AttemptLog for Printed {
    async fn write(&self, stream: LogStream, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        let print = move || match stream {
            LogStream::Stdout => print(&mut std::io::stdout().lock(), &bytes),
            LogStream::Stderr | LogStream::Engine => print(&mut std::io::stderr().lock(), &bytes),
        };
        // A worker that does not read any more is gone, and this process with it in a moment.
        tokio::task::spawn_blocking(print).await.ok();
    }
}

fn print(out: &mut impl Write, bytes: &[u8]) -> std::io::Result<()> {
    out.write_all(bytes)?;
    out.flush()
}
