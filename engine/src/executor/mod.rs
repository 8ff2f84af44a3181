//! Executes claimed attempts: claim, run, time out, cancel, report; until a run has ended.
//!
//! The dispatcher is one loop over one closed set of messages; attempts run in tasks of their own
//! and talk to it by channel. It decides nothing about states: it reports outcomes to the store,
//! which records them and advances the run in the same transaction. Finishes that arrive together
//! are reported together.
//!
//! Called by the CLI's `run`. It never meets a scheduler: they share the store.

mod attempt;
mod child;
mod handover;
mod inside;
mod kin;
mod log;
mod session;

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::artifact::ArtifactStore;
use crate::id::{InstanceId, RunId, SessionId, TenantId};
use crate::plan::{Micros, Reason};
use crate::run::{RunState, TaskState, is_terminal};
use crate::store::{Claim, ClaimScope, Finish, Outcome, Receipt, Store, StoreError};
use crate::task::Kinds;

pub use child::AttemptSettings;
pub use handover::ProcessLimits;
pub use inside::{AttemptError, run_attempt};

use self::attempt::{Environment, execute};
use self::session::Lease;

/// How long finishes are collected before they are written together.
const GROUP_COMMIT_WAIT: Duration = Duration::from_millis(2);
/// How many finishes are written together at the most.
const GROUP_COMMIT_ITEMS: usize = 256;
/// Tries to report a finish while the database is away, before the lease would end anyway.
const REPORT_TRIES: u32 = 5;

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
    store: Arc<Store>,
    artifacts: Arc<ArtifactStore>,
    kinds: Kinds,
    settings: Settings,
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

/// A finished attempt on its way to the store.
struct Done {
    finish: Finish,
    elapsed: Duration,
}

impl Executor {
    /// An executor for this process.
    pub fn new(store: Arc<Store>, artifacts: Arc<ArtifactStore>, kinds: Kinds, settings: Settings) -> Self {
        Self { store, artifacts, kinds, settings }
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
        let lease = Lease::open(Arc::clone(&self.store), self.settings.lease_ttl).await?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let mut dispatcher = Dispatcher {
            environment: Arc::new(Environment {
                store: Arc::clone(&self.store),
                artifacts: Arc::clone(&self.artifacts),
                kinds: self.kinds.clone(),
                settings: self.settings.clone(),
            }),
            session: lease.session(),
            tenant: tenant.clone(),
            run,
            scope: ClaimScope::Run { tenant: tenant.clone(), run },
            running: HashMap::new(),
            sender,
            receiver,
            progress,
        };
        let ended = dispatcher.run_to_end(&lease, &cancel).await;
        dispatcher.stop_all();
        lease.close().await;
        ended
    }
}

struct Dispatcher {
    environment: Arc<Environment>,
    session: SessionId,
    tenant: TenantId,
    run: RunId,
    scope: ClaimScope,
    running: HashMap<InstanceId, CancellationToken>,
    sender: mpsc::UnboundedSender<Done>,
    receiver: mpsc::UnboundedReceiver<Done>,
    progress: mpsc::UnboundedSender<Progress>,
}

/// What woke the dispatcher.
enum Woken {
    Done(Box<Done>),
    RetryDue,
    CancelAsked,
    LeaseLost,
}

impl Dispatcher {
    async fn run_to_end(&mut self, lease: &Lease, cancel: &CancellationToken) -> Result<RunState, ExecutorError> {
        let mut canceled = false;
        loop {
            let due = self.claim().await?;
            if self.running.is_empty() && due.is_none() {
                let state = self.state().await?;
                return if is_terminal(state) {
                    Ok(state)
                } else {
                    Err(ExecutorError::Stalled { run: self.run, state })
                };
            }
            let wait = async {
                match due {
                    Some(delay) => tokio::time::sleep(delay).await,
                    None => std::future::pending().await,
                }
            };
            let woken = tokio::select! {
                Some(done) = self.receiver.recv() => Woken::Done(Box::new(done)),
                () = wait => Woken::RetryDue,
                () = cancel.cancelled(), if !canceled => Woken::CancelAsked,
                () = lease.lost() => Woken::LeaseLost,
            };
            match woken {
                Woken::Done(done) => {
                    let state = self.report(*done).await?;
                    if is_terminal(state) {
                        return Ok(state);
                    }
                }
                Woken::RetryDue => {}
                Woken::CancelAsked => {
                    canceled = true;
                    self.cancel().await?;
                }
                Woken::LeaseLost => return Err(ExecutorError::LeaseLost),
            }
        }
    }

    /// Fills the free slots; returns how long until the next retry is due.
    async fn claim(&mut self) -> Result<Option<Duration>, StoreError> {
        let (next, now) = self.environment.store.wake_retries(&self.scope).await?;
        let free = self.environment.settings.slots.saturating_sub(self.running.len());
        for claim in self.environment.store.claim(self.session, &self.scope, free).await? {
            self.start(claim);
        }
        Ok(next.map(|at: Micros| Duration::from_micros(u64::try_from(at - now).unwrap_or(0))))
    }

    fn start(&mut self, claim: Claim) {
        let token = CancellationToken::new();
        let instance = claim.identity.instance.clone();
        self.tell(Progress::Started { instance: instance.clone(), attempt: claim.identity.attempt.0 });
        self.running.insert(instance, token.clone());
        let (environment, session, sender) = (Arc::clone(&self.environment), self.session, self.sender.clone());
        tokio::spawn(async move {
            let started = Instant::now();
            let finish = execute(&environment, session, claim, token).await;
            // The dispatcher is gone only when the run is over for this process.
            sender.send(Done { finish, elapsed: started.elapsed() }).ok();
        });
    }

    /// Reports `first` and whatever finishes within the wait of a group commit.
    async fn report(&mut self, first: Done) -> Result<RunState, ExecutorError> {
        let mut batch = vec![first];
        let deadline = tokio::time::sleep(GROUP_COMMIT_WAIT);
        tokio::pin!(deadline);
        // Whoever runs alone has nobody to wait for.
        while batch.len() < GROUP_COMMIT_ITEMS && batch.len() < self.running.len() {
            tokio::select! {
                Some(done) = self.receiver.recv() => batch.push(done),
                () = &mut deadline => break,
            }
        }
        let (finishes, times): (Vec<_>, Vec<_>) = batch.into_iter().map(|done| (done.finish, done.elapsed)).unzip();
        let receipts = self.finish(&finishes).await?;
        let mut state = RunState::Running;
        for ((finish, receipt), elapsed) in finishes.iter().zip(receipts).zip(times) {
            let instance = finish.identity.instance.clone();
            self.running.remove(&instance);
            match receipt {
                Receipt::Recorded { task, run, reason, .. } => {
                    state = run;
                    self.tell(Progress::Finished { instance, state: task, reason, elapsed });
                }
                Receipt::Refused => return Err(ExecutorError::LeaseLost),
            }
        }
        Ok(state)
    }

    /// Writes the finishes; while the database is away, tries again until the lease would end.
    async fn finish(&self, finishes: &[Finish]) -> Result<Vec<Receipt>, StoreError> {
        let mut tries = 0;
        loop {
            match self.environment.store.finish(finishes).await {
                Err(error) if error.is_unavailable() && tries < REPORT_TRIES => {
                    tries += 1;
                    tracing::warn!(%error, tries, "can not report finished attempts; trying again");
                    tokio::time::sleep(self.environment.settings.lease_ttl / 10).await;
                }
                result => return result,
            }
        }
    }

    async fn cancel(&mut self) -> Result<(), StoreError> {
        self.environment.store.cancel(&self.tenant, self.run).await?;
        self.tell(Progress::Canceling);
        self.stop_all();
        Ok(())
    }

    /// Tells every running attempt to stop.
    fn stop_all(&self) {
        for token in self.running.values() {
            token.cancel();
        }
    }

    async fn state(&self) -> Result<RunState, StoreError> {
        Ok(self.environment.store.run_view(&self.tenant, self.run).await?.summary.state)
    }

    fn tell(&self, progress: Progress) {
        // Nobody has to listen.
        self.progress.send(progress).ok();
    }
}

/// A failed attempt's report.
fn failed(kind: crate::plan::FailureKind, class: crate::task::ErrorClass, message: String) -> Outcome {
    Outcome::Failed { kind, class, message }
}
