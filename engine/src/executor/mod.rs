//! Executes claimed attempts: claim, run, time out, cancel, report; until a run has ended.
//!
//! One run to its end for `headworks run`, or whatever is ready for `worker` and `serve`: the loop is
//! in `dispatch`, one attempt in `attempt`, the lease in `session`. It never meets a scheduler: they
//! share the store.

mod aside;
mod attempt;
mod child;
mod dispatch;
mod fault;
mod handover;
mod inside;
mod kin;
mod log;
mod memo;
mod report;
mod secrets;
mod session;
mod usage;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::artifact::ArtifactStore;
use crate::id::{InstanceId, RunId, TenantId};
use crate::plan::Reason;
use crate::run::{RunState, TaskState};
use crate::store::{ClaimScope, Outcome, Store, StoreError};
use crate::task::Kinds;

pub use child::AttemptSettings;
pub use handover::ProcessLimits;
pub use inside::{AttemptError, run_attempt};

use self::attempt::Environment;
use self::dispatch::Dispatcher;
use self::secrets::Secrets;
use self::session::Lease;

/// What an executor works with.
#[derive(Clone)]
pub struct Settings {
    /// Attempts at once.
    pub slots: usize,
    /// A session lives this long without a heartbeat.
    pub lease_ttl: Duration,
    /// What an attempt gets, after it was told to stop, before it is given up.
    pub cancel_grace: Duration,
    /// Relative sources are below this folder.
    pub project_root: PathBuf,
    /// Attempts' own folders are made below this one.
    pub scratch_root: PathBuf,
    /// Attempts' own processes, and their logs.
    pub attempts: AttemptSettings,
}

/// Runs attempts for one process.
pub struct Executor {
    environment: Arc<Environment>,
}

/// What an observer is told while a run goes on.
#[derive(Debug, Clone, PartialEq)]
pub enum Progress {
    /// An attempt began.
    Started {
        /// Of which task instance.
        instance: InstanceId,
        /// The try, from 1.
        attempt: i64,
    },
    /// An attempt's outcome was recorded.
    Finished {
        /// Of which task instance.
        instance: InstanceId,
        /// Where the instance stands now.
        state: TaskState,
        /// Why, if not well.
        reason: Option<Reason>,
        /// How long the attempt took.
        elapsed: Duration,
    },
    /// An attempt's report came too late: another holds the instance, or it is over.
    Refused {
        /// Of which task instance.
        instance: InstanceId,
    },
    /// The run's cancel was recorded; attempts are being stopped.
    Canceling,
}

/// Why a run could not be executed to its end.
#[derive(Debug, thiserror::Error)]
pub enum ExecutorError {
    /// The store failed.
    #[error("the run could not go on, for its store failed; run it again with --resume")]
    Store(#[from] StoreError),
    /// This process's session was revoked or its lease ended.
    #[error("this process lost its lease, and another one may have taken over; nothing that it still writes is taken")]
    LeaseLost,
    /// Nothing can be claimed, yet the run has not ended.
    #[error("run {run} is {state} and none of its tasks can be claimed here: another process holds the rest")]
    Stalled {
        /// Which.
        run: RunId,
        /// Where it stands.
        state: RunState,
    },
}

impl Executor {
    /// An executor for this process.
    pub fn new(store: Arc<Store>, artifacts: Arc<ArtifactStore>, kinds: Kinds, settings: Settings) -> Self {
        let secrets = Secrets::new(settings.attempts.secrets.clone());
        Self { environment: Arc::new(Environment { store, artifacts, kinds, settings, secrets }) }
    }

    /// Executes a run here, until it has ended. A `cancel` that fires is made durable first, then
    /// delivered. Progress goes to `progress`; nobody has to listen.
    ///
    /// # Errors
    /// The store failed, the lease was lost, or another process holds what is left.
    pub async fn run_to_end(
        &self,
        tenant: &TenantId,
        run: RunId,
        progress: mpsc::UnboundedSender<Progress>,
        cancel: CancellationToken,
    ) -> Result<RunState, ExecutorError> {
        let mut lease = self.lease("run").await?;
        let scope = ClaimScope::Run { tenant: tenant.clone(), run };
        let mut dispatcher = Dispatcher::new(Arc::clone(&self.environment), lease.session(), scope, progress);
        let lost = lease.lost();
        let ended = or_lost(&lost, dispatcher.run_to_end((tenant, run), &mut lease, &cancel)).await;
        dispatcher.kill_all();
        lease.close().await;
        ended
    }

    /// Executes whatever may be claimed, as `kind` (`worker` or `serve`), until `drain` fires; then
    /// what runs has `drain_grace` to end before it is handed back. A lost lease ends the attempts that
    /// it was for, and a new one begins.
    ///
    /// # Errors
    /// The store refused something; being away for a while is no error.
    pub async fn serve(
        &self,
        kind: &'static str,
        progress: mpsc::UnboundedSender<Progress>,
        drain: CancellationToken,
        drain_grace: Duration,
    ) -> Result<(), ExecutorError> {
        while !drain.is_cancelled() {
            let mut lease = match self.lease(kind).await {
                Ok(lease) => lease,
                Err(error) if error.is_unavailable() => {
                    tracing::warn!(%error, "can not open a session; trying again");
                    tokio::select! {
                        () = tokio::time::sleep(REOPEN) => {}
                        () = drain.cancelled() => {}
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            let mut dispatcher =
                Dispatcher::new(Arc::clone(&self.environment), lease.session(), ClaimScope::Any, progress.clone());
            let lost = lease.lost();
            match or_lost(&lost, dispatcher.serve(&mut lease, &drain, drain_grace)).await {
                Ok(()) => lease.close().await,
                Err(error) if error.is_passing() => {
                    tracing::warn!(%error, "starting anew with another session");
                    dispatcher.abandon(self.environment.settings.lease_ttl / 8).await;
                    lease.close().await;
                    tokio::time::sleep(REOPEN).await;
                }
                Err(error) => {
                    dispatcher.kill_all();
                    lease.close().await;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn lease(&self, kind: &'static str) -> Result<Lease, StoreError> {
        Lease::open(Arc::clone(&self.environment.store), kind, self.environment.settings.lease_ttl).await
    }
}

impl ExecutorError {
    /// Whether a new session mends it.
    fn is_passing(&self) -> bool {
        match self {
            // Away for a while, or in conflict with others for too long: neither is a reason to stop working.
            Self::Store(error) => error.is_passing(),
            Self::LeaseLost => true,
            Self::Stalled { .. } => false,
        }
    }
}

/// What the dispatcher comes to, unless the lease is lost first: a call to a database that does not answer
/// must not keep attempts alive that another worker may hold by now. A call that is dropped here is
/// rolled back, or is one whose answer was lost; either way the session that made it is over.
async fn or_lost<T>(
    lost: &CancellationToken,
    dispatching: impl Future<Output = Result<T, ExecutorError>>,
) -> Result<T, ExecutorError> {
    tokio::select! {
        biased;
        ended = dispatching => ended,
        () = lost.cancelled() => Err(ExecutorError::LeaseLost),
    }
}

/// How long a worker waits before it asks a database again that was not there.
const REOPEN: Duration = Duration::from_secs(1);

/// A failed attempt's report.
fn failed(kind: crate::plan::FailureKind, class: crate::task::ErrorClass, message: String) -> Outcome {
    Outcome::Failed { kind, class, message }
}
