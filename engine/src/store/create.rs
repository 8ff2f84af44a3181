//! Making a run: its pinned version, parameters, seed and documents, and its task instances.
//!
//! A run that a person asked for starts in the transaction that makes it. All others are made `queued`,
//! which pins everything but makes no task instance yet; `admit` starts them when their turn comes. Both
//! start through the same [`advance`](super::advance) that follows every finish: the tasks without
//! upstreams become ready by the same rule as all others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::advance::{Advance, RunKey, RunRow, move_runs};
use super::dialect::Kind;
use super::events::run_event;
use super::held::WaitLimits;
use super::rows::{self, InstanceKey, element, param};
use super::tx::{Tx, Write};
use super::unit::{NewInstance, UnitOfWork};
use super::{Store, StoreError};
use crate::dag::{Dag, UpstreamCounts};
use crate::drill::Fault;
use crate::id::{BackfillId, Digest, Generation, InstanceId, RunId, TaskId, TenantId};
use crate::plan::Micros;
use crate::run::{RunEvent, RunState, transition};

/// Why a run exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A person asked for it.
    Manual,
    /// Its schedule came due.
    Scheduled,
    /// What it waits for arrived: other DAGs' successes, artifacts.
    Triggered,
    /// A past interval that a person asked for.
    Backfill(BackfillId),
    /// An earlier run, in part or whole, from what it was pinned to.
    Replay(RunId),
    /// A drill makes it, for a tenant of its own: it alone may have faults.
    Drill,
    /// As a replay, to compare what comes out: it changes no registry and triggers nothing.
    Verify(RunId),
}

impl RunKind {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Scheduled => "scheduled",
            Self::Triggered => "triggered",
            Self::Backfill(_) => "backfill",
            Self::Replay(_) => "replay",
            Self::Verify(_) => VERIFY,
            Self::Drill => DRILL,
        }
    }

    /// The run that it is made from.
    pub(super) fn parent(self) -> Option<RunId> {
        match self {
            Self::Replay(run) | Self::Verify(run) => Some(run),
            _ => None,
        }
    }

    /// What is added to the priority of its tasks.
    fn priority(self) -> i64 {
        match self {
            Self::Backfill(_) => BACKFILL_PRIORITY,
            _ => 0,
        }
    }
}

/// The word for [`RunKind::Drill`].
pub(super) const DRILL: &str = "drill";

/// The word for [`RunKind::Verify`].
pub(super) const VERIFY: &str = "verify";

/// Runs of which what they are pinned to is kept when they are made together: no more are about to begin.
const PINNED_AT_ONCE: usize = 256;

/// Below every task of a live run: their priorities are -1,000 to 1,000.
const BACKFILL_PRIORITY: i64 = -10_000;

/// A document that a task's parameter names, as it was when the run was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PinnedDocument {
    /// The task instance whose parameter names it.
    pub instance: InstanceId,
    /// The parameter.
    pub param: String,
    /// Where it was read.
    pub path: String,
    /// Its text.
    pub content: String,
}

/// A run to be made.
#[derive(Debug, Clone)]
pub struct NewRun {
    /// Whose.
    pub tenant: TenantId,
    /// Its id.
    pub run: RunId,
    /// The version it is pinned to.
    pub dag: Arc<Dag>,
    /// Why it exists.
    pub kind: RunKind,
    /// Its seed.
    pub seed: u64,
    /// Resolved parameters: a JSON object.
    pub params: Value,
    /// The tenant's facts and parameters: a JSON object, `tenant` in templates.
    pub tenant_params: Value,
    /// The moment it is about.
    pub logical_time: Micros,
    /// The data interval, half-open.
    pub interval: Option<(Micros, Micros)>,
    /// Among the queued runs of its tenant and DAG, the least starts first.
    pub queue_rank: i64,
    /// A queued run does not start before; 0 = at once.
    pub start_at: Micros,
    /// Pinned documents.
    pub documents: Vec<PinnedDocument>,
    /// What goes wrong with its attempts; only for [`RunKind::Drill`] in a drill tenant.
    pub faults: Vec<Fault>,
}

impl Store {
    /// Makes a run and starts it. Returns its state: a run without a task that may start ends here.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_run(&self, run: &NewRun) -> Result<RunState, StoreError> {
        let states = self.create_runs(std::slice::from_ref(run)).await?;
        Ok(states.first().copied().unwrap_or(RunState::Queued))
    }

    /// Makes runs and starts them, all or none, in one transaction. Returns their states, in order.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_runs(&self, runs: &[NewRun]) -> Result<Vec<RunState>, StoreError> {
        for run in runs {
            self.cache_dag(Arc::clone(&run.dag));
        }
        let states = self.write(&CreateRuns { store: self, runs }).await?;
        // A drill's run has faults, which are read from its row.
        for run in runs.iter().filter(|run| run.faults.is_empty()).take(PINNED_AT_ONCE) {
            self.pin(run);
        }
        self.wake();
        Ok(states)
    }
}

struct CreateRuns<'a> {
    store: &'a Store,
    runs: &'a [NewRun],
}

#[async_trait]
impl Write for CreateRuns<'_> {
    type Output = Vec<RunState>;
    const WHAT: &'static str = "create runs";

    async fn apply(&self, tx: &Tx) -> Result<Vec<RunState>, StoreError> {
        insert_versions(tx, self.runs).await?;
        insert_runs(tx, self.store, self.runs).await?;
        insert_documents(tx, self.runs).await?;
        let starting = self.runs.iter().map(|new| Starting {
            tenant: new.tenant.clone(),
            run: new.run,
            dag: Arc::clone(&new.dag),
            seed: new.seed,
            priority: new.kind.priority(),
            due_by: deadline(new, tx.now),
        });
        let states = start_runs(self.store, tx, starting.collect()).await?;
        let state = |new: &NewRun| states.get(&(new.tenant.clone(), new.run)).copied().unwrap_or(RunState::Queued);
        Ok(self.runs.iter().map(state).collect())
    }
}

/// Makes queued runs within a transaction. One that is there already, by what its kind allows once, is
/// left out. Returns those that were made.
pub(super) async fn enqueue(tx: &Tx, store: &Store, runs: &[NewRun]) -> Result<Vec<RunId>, StoreError> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    insert_versions(tx, runs).await?;
    let made = insert_runs(tx, store, runs).await?;
    let pinned: Vec<NewRun> = runs.iter().filter(|new| made.contains(&new.run)).cloned().collect();
    insert_documents(tx, &pinned).await?;
    Ok(runs.iter().map(|new| new.run).filter(|run| made.contains(run)).collect())
}

/// A queued run that is to start.
pub(super) struct Starting {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
    pub(super) dag: Arc<Dag>,
    pub(super) seed: u64,
    /// Added to the tasks' own.
    pub(super) priority: i64,
    pub(super) due_by: Option<Micros>,
}

/// Starts queued runs whose rows this transaction has locked or inserted. Returns where they stand: a
/// run without a task that may start is over already.
pub(super) async fn start_runs(
    store: &Store,
    tx: &Tx,
    starting: Vec<Starting>,
) -> Result<BTreeMap<RunKey, RunState>, StoreError> {
    let started = transition(RunState::Queued, RunEvent::Started)?;
    let mut unit = UnitOfWork::new(tx, store.incarnation);
    let (mut rows, mut instances, mut moved) = (BTreeMap::new(), Vec::new(), Vec::new());
    for run in starting {
        let key = (run.tenant.clone(), run.run);
        unit.note(run_event(&run.tenant, run.run, 1, started));
        instances.extend(insert_instances(&mut unit, &run));
        moved.push((key.clone(), started, 1));
        rows.insert(key, RunRow { dag: run.dag, state: started.to() });
    }
    unit.also(move_runs(tx, &moved));
    Advance::new(store, &mut unit, rows).start(instances).await
}

/// When a run should be over: counted from the moment it is about, or from its making where a person
/// asked for it. A backfill has all the time it needs.
pub(super) fn deadline(new: &NewRun, now: Micros) -> Option<Micros> {
    // Nobody is woken for a drill.
    if new.tenant.is_drill() {
        return None;
    }
    let limit = i64::try_from(new.dag.deadline?.as_micros()).unwrap_or(i64::MAX);
    let from = match new.kind {
        RunKind::Manual | RunKind::Replay(_) => now,
        // What a calendar puts off has its time from then.
        RunKind::Scheduled | RunKind::Triggered => new.logical_time.max(new.start_at),
        RunKind::Backfill(_) | RunKind::Verify(_) | RunKind::Drill => return None,
    };
    Some(from.saturating_add(limit))
}

pub(super) async fn insert_versions(tx: &Tx, runs: &[NewRun]) -> Result<(), StoreError> {
    let versions: BTreeMap<String, &Dag> = runs.iter().map(|new| (new.dag.version.to_string(), &*new.dag)).collect();
    for dag in versions.into_values() {
        insert_version(tx, dag).await?;
    }
    Ok(())
}

/// Keeps a DAG's version, if it is not there yet.
pub(super) async fn insert_version(tx: &Tx, dag: &Dag) -> Result<(), StoreError> {
    let sql = "INSERT INTO dag_version (digest, dag, source, created_at) VALUES ($1, $2, $3, $4) \
               ON CONFLICT (digest) DO NOTHING";
    let (digest, id) = (dag.version.to_string(), dag.id.to_string());
    let values = vec![digest.into(), id.into(), dag.source.clone().into(), tx.now.into()];
    tx.execute("pin the DAG version", sql, values).await?;
    Ok(())
}

/// Inserts runs as queued; returns those that were not there before.
pub(super) async fn insert_runs(tx: &Tx, store: &Store, runs: &[NewRun]) -> Result<BTreeSet<RunId>, StoreError> {
    let columns = [
        ("tenant", Kind::Text),
        ("run", Kind::Text),
        ("dag", Kind::Text),
        ("dag_version", Kind::Text),
        ("kind", Kind::Text),
        ("seed", Kind::Int),
        ("params", Kind::Text),
        ("tenant_params", Kind::Text),
        ("logical_time", Kind::Int),
        ("interval_start", Kind::Int),
        ("interval_end", Kind::Int),
        ("priority", Kind::Int),
        ("backfill", Kind::Text),
        ("parent_run", Kind::Text),
        ("deadline_at", Kind::Int),
        ("queue_rank", Kind::Int),
        ("start_at", Kind::Int),
        ("faults", Kind::Text),
    ];
    for new in runs {
        check_faults(new)?;
    }
    let rows = runs.iter().map(|new| {
        let backfill = if let RunKind::Backfill(id) = new.kind { Some(id.to_string()) } else { None };
        json!({
            "tenant": new.tenant, "run": new.run.to_string(), "dag": new.dag.id,
            "dag_version": new.dag.version.to_string(), "kind": new.kind.as_str(), "seed": new.seed.cast_signed(),
            "params": new.params.to_string(), "tenant_params": new.tenant_params.to_string(),
            "logical_time": new.logical_time, "interval_start": new.interval.map(|(start, _)| start),
            "interval_end": new.interval.map(|(_, end)| end), "priority": new.kind.priority(),
            "backfill": backfill, "parent_run": new.kind.parent().map(|run| run.to_string()), "deadline_at": deadline(new, tx.now), "queue_rank": new.queue_rank,
            "start_at": new.start_at,
            "faults": if new.faults.is_empty() { Value::Null } else { json!(json!(new.faults).to_string()) },
        })
    });
    let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
    let sql = format!(
        "INSERT INTO run ({}, state, version, incarnation, created_at) SELECT {}, $2, 0, $3, $4 FROM {} WHERE TRUE \
         ON CONFLICT DO NOTHING RETURNING run",
        names.join(", "),
        names.iter().map(|name| format!("r.{name}")).collect::<Vec<_>>().join(", "),
        tx.dialect.rows(1, &columns)
    );
    let queued = RunState::Queued.as_str();
    let values = vec![param(rows.collect()), queued.into(), store.incarnation.0.into(), tx.now.into()];
    let made = tx.all("insert the runs", &sql, values).await?;
    made.iter().map(|row| rows::parse(row, "run", RunId::parse)).collect()
}

/// Faults, and drill runs, belong to drill tenants.
fn check_faults(new: &NewRun) -> Result<(), StoreError> {
    let is_drill = new.kind == RunKind::Drill;
    if (new.faults.is_empty() || is_drill) && (!is_drill || new.tenant.is_drill()) {
        return Ok(());
    }
    Err(StoreError::NoDrill { run: new.run, kind: new.kind.as_str(), tenant: new.tenant.to_string() })
}

pub(super) async fn insert_documents(tx: &Tx, runs: &[NewRun]) -> Result<(), StoreError> {
    let (mut contents, mut pins) = (BTreeMap::new(), Vec::new());
    for new in runs {
        for document in &new.documents {
            let digest = Digest::of(document.content.as_bytes()).to_string();
            contents.insert(digest.clone(), &document.content);
            pins.push(json!({
                "tenant": new.tenant, "run": new.run.to_string(), "task": document.instance.task,
                "element": element(document.instance.index), "param": document.param, "path": document.path,
                "digest": digest,
            }));
        }
    }
    if pins.is_empty() {
        return Ok(());
    }
    for (digest, content) in contents {
        let sql = "INSERT INTO document (digest, content) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING";
        tx.execute("pin a document", sql, vec![digest.into(), content.clone().into()]).await?;
    }
    let columns = [
        ("tenant", Kind::Text),
        ("run", Kind::Text),
        ("task", Kind::Text),
        ("element", Kind::Int),
        ("param", Kind::Text),
        ("path", Kind::Text),
        ("digest", Kind::Text),
    ];
    let sql = format!(
        "INSERT INTO run_document (tenant, run, task, element, param, path, digest) \
         SELECT r.tenant, r.run, r.task, r.element, r.param, r.path, r.digest FROM {}",
        tx.dialect.rows(1, &columns)
    );
    tx.execute("pin documents", &sql, vec![param(pins)]).await?;
    Ok(())
}

/// The instances of a task: one, or one per element of its matrix; of a `for_each` the first element,
/// since nobody knows the others before it begins.
pub(super) fn instances_of(dag: &Dag, id: &TaskId) -> Vec<InstanceId> {
    let task = dag.task(id);
    if task.is_some_and(|task| task.for_each.is_some()) {
        return vec![InstanceId::new(id.clone(), Some(0))];
    }
    let elements = task.map_or(0, |task| task.matrix.len());
    if elements == 0 {
        return vec![InstanceId::new(id.clone(), None)];
    }
    (0..elements).map(|index| InstanceId::new(id.clone(), u32::try_from(index).ok())).collect()
}

/// The seed of a task instance: a hash of the run's seed and of who it is, so that adding a task
/// changes no other's.
pub(super) fn instance_seed(run_seed: u64, instance: &InstanceId) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&run_seed.to_le_bytes()).update(instance.path_segment().as_bytes());
    u64::from_le_bytes(hash.finalize().as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}

/// Puts a run's task instances into the unit.
fn insert_instances(unit: &mut UnitOfWork<'_>, new: &Starting) -> Vec<InstanceKey> {
    let mut keys = Vec::new();
    for task in new.dag.tasks() {
        let upstream: usize = task.needs.iter().map(|id| instances_of(&new.dag, id).len()).sum();
        let total = u32::try_from(upstream).unwrap_or(u32::MAX);
        for instance in instances_of(&new.dag, &task.id) {
            let seed = instance_seed(new.seed, &instance);
            let key = InstanceKey { tenant: new.tenant.clone(), run: new.run, instance, generation: Generation(1) };
            unit.insert(NewInstance {
                key: key.clone(),
                dag: new.dag.id.clone(),
                ordinal: i64::try_from(keys.len()).unwrap_or(i64::MAX),
                seed,
                priority: new.priority + i64::from(task.priority),
                pool: task.pool.clone(),
                upstream: UpstreamCounts { total, ..UpstreamCounts::default() },
                item: None,
                waits: WaitLimits::of(task, new.due_by),
            });
            keys.push(key);
        }
    }
    keys
}
