//! Faults of a drill, injected: into an attempt, into what it sees of the object store, into its process or its worker.
//!
//! Called by `attempt` and `child` (the worker's side) and by `inside` (the other). Which faults strike an attempt comes
//! with its work, and none come for a run that is no drill: `store` sees to that. A fault is put on record before it
//! is injected; one that can not be is not injected, and the attempt fails as the database has it.
//!
//! What is killed is held first: the attempt stops at the place that the fault names and says so on standard error,
//! and its worker, which reads that, kills. So it dies at the same place each time, and in the middle of its work.

use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::getpid;
use tokio::sync::Notify;

use super::attempt::Environment;
use super::child::Group;
use super::failed;
use crate::artifact::{ArtifactStore, Interference};
use crate::dag::Isolation;
use crate::drill::{FaultKind, Moment, Operation};
use crate::plan::FailureKind;
use crate::store::{Outcome, Work, chain};
use crate::task::{AttemptIdentity, ErrorClass, Skew};

/// What an attempt's process prints when it is held for its killing.
pub(super) const HELD: &str = "headworks: a drill holds this attempt here";

/// Looks for [`HELD`] in what an attempt's process prints: in the bytes as they come, which may hold a secret.
pub(super) struct Watch {
    held: Arc<Notify>,
    /// What may be its beginning.
    end: Vec<u8>,
}

impl Watch {
    /// Tells `held` once it was printed.
    pub(super) fn new(held: &Arc<Notify>) -> Self {
        Self { held: Arc::clone(held), end: Vec::new() }
    }

    /// Looks at the next bytes.
    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.end.extend_from_slice(bytes);
        if self.end.windows(HELD.len()).any(|part| part == HELD.as_bytes()) {
            self.held.notify_one();
        }
        let rest = self.end.len().saturating_sub(HELD.len() - 1);
        self.end.drain(..rest);
    }
}

/// Puts on record what strikes from the beginning.
///
/// # Errors
/// The attempt's outcome: the fault itself, or that there is no record of it.
pub(super) async fn arm(environment: &Environment, work: &Work) -> Result<(), Outcome> {
    for (ordinal, fault) in work.faults.iter().enumerate() {
        if killing(fault).is_some() {
            continue;
        }
        record(environment, &work.claim.identity, (ordinal, fault)).await?;
        if let FaultKind::Fail { message, transient } = fault {
            let kind = if *transient { FailureKind::Transient } else { FailureKind::Permanent };
            return Err(failed(kind, ErrorClass::System, message.clone()));
        }
    }
    Ok(())
}

async fn record(
    environment: &Environment,
    identity: &AttemptIdentity,
    fault: (usize, &FaultKind),
) -> Result<(), Outcome> {
    tracing::warn!(run = %identity.run, instance = %identity.instance, fault = fault.1.words(), "a drill injects a fault");
    environment.store.record_fault(identity, fault).await.map_err(|error| match error.is_unavailable() {
        true => failed(FailureKind::HandedBack, ErrorClass::System, chain(&error)),
        false => failed(FailureKind::Transient, ErrorClass::System, chain(&error)),
    })
}

/// Where an attempt has to run for its faults to be possible: what is killed has a process of its own, and what hangs
/// without an ear for its cancel is a future that can be dropped. The isolation changes nothing of what comes out.
pub(super) fn isolation(faults: &[FaultKind], asked: Isolation) -> Isolation {
    if faults.iter().any(|fault| killing(fault).is_some()) {
        Isolation::Process
    } else if hangs(faults) {
        Isolation::Inline
    } else {
        asked
    }
}

/// Whether it is to do nothing, for ever.
pub(super) fn hangs(faults: &[FaultKind]) -> bool {
    faults.contains(&FaultKind::Hang)
}

fn killing(fault: &FaultKind) -> Option<(Victim, Moment)> {
    match fault {
        FaultKind::Kill { at } => Some((Victim::Attempt, *at)),
        FaultKind::LoseWorker { at } => Some((Victim::Worker, *at)),
        _ => None,
    }
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Attempt,
    Worker,
}

/// Where the attempt is held for its killing, if it is.
pub(super) fn held_at(faults: &[FaultKind]) -> Option<Moment> {
    faults.iter().find_map(killing).map(|(_, at)| at)
}

/// The object store as the attempt sees it. `stop` is told when it is held after its first object.
pub(super) fn disturbed(artifacts: &ArtifactStore, faults: &[FaultKind], stop: &Arc<Notify>) -> Option<ArtifactStore> {
    let mut it = Interference::default();
    let mut is_disturbed = false;
    for fault in faults {
        if let FaultKind::ObjectStore { operation, failures, latency_ms } = fault {
            it.puts |= *operation != Operation::Get;
            it.gets |= *operation != Operation::Put;
            it.failures = AtomicU32::new(failures.unwrap_or(u32::MAX));
            it.latency = Duration::from_millis(*latency_ms);
            is_disturbed = true;
        }
    }
    if held_at(faults) == Some(Moment::Published) {
        it.stop_after_put = Some(Arc::clone(stop));
        is_disturbed = true;
    }
    is_disturbed.then(|| artifacts.disturbed(it))
}

/// What its artifacts are skewed by.
pub(super) fn skews(faults: &[FaultKind]) -> Vec<Skew> {
    let skew = |fault: &FaultKind| match fault {
        FaultKind::Skew { artifact, column, factor } => {
            Some(Skew { artifact: artifact.clone(), column: column.clone(), factor: *factor })
        }
        _ => None,
    };
    faults.iter().filter_map(skew).collect()
}

/// Kills whom the faults name as soon as the attempt is held.
pub(super) fn kill_when_held(
    environment: &Arc<Environment>,
    identity: &AttemptIdentity,
    faults: &[FaultKind],
    (held, group): (Arc<Notify>, Group),
) {
    let found = faults.iter().enumerate().find_map(|(at, fault)| Some((at, fault.clone(), killing(fault)?.0)));
    let Some((ordinal, fault, victim)) = found else { return };
    let (environment, identity) = (Arc::clone(environment), identity.clone());
    tokio::spawn(async move {
        held.notified().await;
        if record(&environment, &identity, (ordinal, &fault)).await.is_err() {
            // Nobody would know of it: the attempt is ended by its time limit, or by who looks at the drill.
            tracing::warn!("a fault can not be put on record and is not injected");
            return;
        }
        match victim {
            Victim::Attempt => group.send(Signal::SIGKILL),
            Victim::Worker => {
                // Nothing is cleaned up, nothing is said: as when somebody else does it.
                kill(getpid(), Signal::SIGKILL).ok();
            }
        }
    });
}
