//! From a run that has ended to its replay: what runs and what is taken over, whether the evidence behind it
//! is whole, and what a verification found.
//!
//! Called by `headworks replay`. Decides through the pure `plan::plan_replay`, creates through the store, and
//! executes nothing: that is the caller's, between [`Replay::create`] and [`compare`].

mod changes;
mod compare;

use std::collections::{BTreeMap, HashMap};

use futures::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

pub use compare::{ArtifactFinding, Finding, Proof, Verdict, compare, settle};

use crate::artifact::{ArtifactError, ArtifactRef, ArtifactStore, Condition};
use crate::id::{InstanceId, RunId};
use crate::plan::{PastInstance, ReplayAction, ReplayStep, Selection, plan_replay};
use crate::run::{RunState, TaskState};
use crate::store::{Kept, NewRun, Origin, OriginInstance, Reuse, RunKind, Store, StoreError};

/// Objects that are read at once to check them: enough to keep a disk or a bucket busy.
const CHECKS_AT_ONCE: usize = 8;

/// What is wanted of an ended run.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The id to give to the replay.
    pub run: RunId,
    /// What runs again.
    pub selection: Selection,
    /// Whether it is to be compared: then it changes no registry and triggers nothing.
    pub is_verify: bool,
    /// The run as it would be made now, in place of what the earlier one was pinned to.
    pub latest: Option<NewRun>,
    /// Who asks, for the record.
    pub actor: String,
}

/// A replay that can be looked at and made.
#[derive(Debug, Clone)]
pub struct Replay {
    /// What becomes of each task instance, in the order of the DAG.
    pub steps: Vec<ReplayStep>,
    new: NewRun,
    kept: Vec<Kept>,
    detail: Value,
}

/// Why a replay can not be planned or made.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The store's.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The artifact store's.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
    /// Nothing would run.
    #[error("nothing of run {run} failed, was canceled or has changed")]
    Nothing {
        /// The earlier run.
        run: RunId,
    },
    /// A result that is to be taken over can not be.
    #[error("{instance} of run {run} can not be reused: {reason}")]
    Blocked {
        /// The earlier run.
        run: RunId,
        /// The first such instance.
        instance: InstanceId,
        /// What is wrong with its result.
        reason: String,
    },
}

/// Plans a replay of `origin`: reads the objects behind all that would be taken over, and writes nothing.
///
/// # Errors
/// There is no such task instance, nothing would run, or the artifact store did not answer.
pub async fn prepare(origin: &Origin, artifacts: &ArtifactStore, asked: Asked) -> Result<Replay, ReplayError> {
    let run = origin.summary.run_id;
    let new = new_run(origin, &asked);
    exists(origin, &new, &asked.selection)?;
    let mut past: Vec<PastInstance> = origin.instances.iter().map(|it| past(origin, &new, it, &asked)).collect();
    let steps = plan_replay(&new.dag, run, &asked.selection, &past);
    if !steps.iter().any(|step| step.action == ReplayAction::Run) {
        return Err(ReplayError::Nothing { run });
    }
    let of: HashMap<&InstanceId, &OriginInstance> = origin.instances.iter().map(|it| (&it.instance, it)).collect();
    let reused: Vec<&OriginInstance> = steps
        .iter()
        .filter(|step| step.action == ReplayAction::Reuse)
        .filter_map(|step| of.get(&step.instance).copied())
        .collect();
    let mut broken = check(artifacts, &reused).await?;
    broken.extend(reused.iter().filter(|it| is_gone(origin, it)).map(|it| {
        (it.instance.clone(), "none of the artifacts that it makes is on record: they are kept no longer".to_owned())
    }));
    for it in &mut past {
        it.broken = broken.get(&it.instance).cloned();
    }
    let steps = plan_replay(&new.dag, run, &asked.selection, &past);
    let kept = kept(&new, run, &steps, &of);
    let detail = json!({
        "actor": asked.actor, "parent_run": run.to_string(),
        "run": steps.iter().filter(|step| step.action == ReplayAction::Run).count(),
        "reuse": steps.iter().filter(|step| step.action == ReplayAction::Reuse).count(),
    });
    Ok(Replay { steps, new, kept, detail })
}

impl Replay {
    /// The first step that keeps it from being made, as an error.
    ///
    /// # Errors
    /// [`ReplayError::Blocked`].
    pub fn check(&self, origin: &Origin) -> Result<(), ReplayError> {
        let blocked = self.steps.iter().find(|step| step.action == ReplayAction::Blocked);
        blocked.map_or(Ok(()), |step| {
            Err(ReplayError::Blocked {
                run: origin.summary.run_id,
                instance: step.instance.clone(),
                reason: step.reason.clone(),
            })
        })
    }

    /// Makes the run and starts it.
    ///
    /// # Errors
    /// The database's.
    pub async fn create(&self, store: &Store) -> Result<RunState, StoreError> {
        store.create_replay(&self.new, &self.kept, &self.detail).await
    }
}

fn new_run(origin: &Origin, asked: &Asked) -> NewRun {
    let parent = origin.summary.run_id;
    let kind = if asked.is_verify { RunKind::Verify(parent) } else { RunKind::Replay(parent) };
    let pinned = || NewRun {
        tenant: origin.summary.tenant.clone(),
        run: asked.run,
        dag: origin.dag.clone(),
        kind,
        seed: origin.summary.seed,
        params: origin.params.clone(),
        tenant_params: origin.tenant_params.clone(),
        logical_time: origin.logical_time,
        interval: origin.interval,
        queue_rank: origin.logical_time,
        start_at: 0,
        documents: origin.documents.clone(),
        // What went wrong in a drill is over.
        faults: Vec::new(),
    };
    match &asked.latest {
        None => pinned(),
        Some(latest) => NewRun { run: asked.run, kind, ..latest.clone() },
    }
}

/// Whether there is what was asked for.
fn exists(origin: &Origin, new: &NewRun, selection: &Selection) -> Result<(), StoreError> {
    let Selection::Task(id, index) = selection else { return Ok(()) };
    let instance = InstanceId::new(id.clone(), *index);
    let found = new.dag.task(id).is_some_and(|task| match index {
        None => true,
        Some(index) if task.for_each.is_none() => usize::try_from(*index).is_ok_and(|index| index < task.matrix.len()),
        Some(_) => origin.instance(&instance).is_some(),
    });
    if found { Ok(()) } else { Err(StoreError::NoInstance { run: origin.summary.run_id, instance }) }
}

fn past(origin: &Origin, new: &NewRun, it: &OriginInstance, asked: &Asked) -> PastInstance {
    let changed = asked.latest.as_ref().and_then(|_| changes::change(origin, new, &it.instance));
    PastInstance { instance: it.instance.clone(), state: it.state, changed, broken: None }
}

/// Whether a result is on record without what it is about: artifacts are kept for a time, runs for a longer one.
fn is_gone(origin: &Origin, it: &OriginInstance) -> bool {
    let makes_some = origin.dag.task(&it.instance.task).is_some_and(|task| !task.outputs.is_empty());
    it.state == TaskState::Succeeded && it.artifacts.is_empty() && makes_some
}

/// Reads the objects behind `reused`; returns what is wrong, by instance.
async fn check(
    artifacts: &ArtifactStore,
    reused: &[&OriginInstance],
) -> Result<BTreeMap<InstanceId, String>, ArtifactError> {
    let all: Vec<(InstanceId, ArtifactRef)> =
        reused.iter().flat_map(|it| it.artifacts.iter().map(|one| (it.instance.clone(), one.clone()))).collect();
    let examined = stream::iter(all).map(|(instance, artifact)| async move {
        let condition = artifacts.examine(&artifact).await?;
        Ok::<_, ArtifactError>((instance, artifact, condition))
    });
    let found: Vec<_> = examined.buffered(CHECKS_AT_ONCE).try_collect().await?;
    let mut broken = BTreeMap::new();
    for (instance, artifact, condition) in found {
        let what = match condition {
            Condition::Intact => continue,
            Condition::Missing => "is missing",
            Condition::Altered { .. } => "was altered after it was published",
        };
        broken.entry(instance).or_insert_with(|| format!("its artifact {} {what} ({})", artifact.name, artifact.key));
    }
    Ok(broken)
}

/// What the new run knows before it runs.
fn kept(new: &NewRun, run: RunId, steps: &[ReplayStep], of: &HashMap<&InstanceId, &OriginInstance>) -> Vec<Kept> {
    let mut kept = Vec::new();
    for step in steps {
        let Some(past) = of.get(&step.instance) else { continue };
        let reuse = (step.action == ReplayAction::Reuse).then(|| Reuse {
            state: past.state,
            from: past.computed_by(run),
            outputs: past.outputs.clone(),
            // What a skipped instance has on record was made before it was skipped: by nobody.
            artifacts: if past.state == TaskState::Succeeded { past.artifacts.clone() } else { Vec::new() },
        });
        let is_element = new.dag.task(&step.instance.task).is_some_and(|task| task.for_each.is_some());
        if reuse.is_some() || (is_element && !step.is_anew) {
            kept.push(Kept { instance: step.instance.clone(), item: past.item.clone(), reuse });
        }
    }
    kept
}
