//! Making a run: its pinned version, parameters, seed and documents, and its task instances.
//!
//! One transaction writes all of it and starts the run, through the same [`advance`] that follows
//! every finish: the tasks without upstreams become ready by the same rule as all others.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::advance::{self, RunRow};
use super::dialect::Kind;
use super::rows::{element, param};
use super::tx::{Tx, Write};
use super::{Store, StoreError};
use crate::dag::Dag;
use crate::id::{Digest, InstanceId, RunId, TaskId, TenantId};
use crate::plan::Micros;
use crate::run::{RunState, TaskState};

/// Why a run exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RunKind {
    /// A person asked for it.
    Manual,
    /// Its schedule came due.
    Scheduled,
}

impl RunKind {
    /// The word in the database and in JSON.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Scheduled => "scheduled",
        }
    }
}

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
    /// Pinned documents.
    pub documents: Vec<PinnedDocument>,
}

impl Store {
    /// Makes a run and starts it. Returns its state: a run without a task that may start ends here.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_run(&self, run: &NewRun) -> Result<RunState, StoreError> {
        self.cache_dag(Arc::clone(&run.dag));
        self.write(&CreateRun { store: self, run }).await
    }
}

struct CreateRun<'a> {
    store: &'a Store,
    run: &'a NewRun,
}

#[async_trait]
impl Write for CreateRun<'_> {
    type Output = RunState;
    const WHAT: &'static str = "create a run";

    async fn apply(&self, tx: &Tx) -> Result<RunState, StoreError> {
        let new = self.run;
        insert_version(tx, &new.dag).await?;
        insert_run(tx, self.store, new).await?;
        insert_documents(tx, new).await?;
        let instances = insert_instances(tx, self.store, new).await?;
        let row = RunRow {
            tenant: new.tenant.clone(),
            run: new.run,
            dag: Arc::clone(&new.dag),
            state: RunState::Queued,
            version: 0,
        };
        advance::start(self.store, tx, row, instances).await
    }
}

async fn insert_version(tx: &Tx, dag: &Dag) -> Result<(), StoreError> {
    let sql = "INSERT INTO dag_version (digest, dag, source, created_at) VALUES ($1, $2, $3, $4) \
               ON CONFLICT (digest) DO NOTHING";
    let values =
        vec![dag.version.to_string().into(), dag.id.to_string().into(), dag.source.clone().into(), tx.now.into()];
    tx.execute("pin the DAG version", sql, values).await?;
    Ok(())
}

async fn insert_run(tx: &Tx, store: &Store, new: &NewRun) -> Result<(), StoreError> {
    let sql = "INSERT INTO run (tenant, run, dag, dag_version, kind, state, version, incarnation, seed, params, \
               tenant_params, logical_time, interval_start, interval_end, priority, created_at) \
               VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, $10, $11, $12, $13, 0, $14)";
    let values = vec![
        new.tenant.to_string().into(),
        new.run.to_string().into(),
        new.dag.id.to_string().into(),
        new.dag.version.to_string().into(),
        new.kind.as_str().into(),
        RunState::Queued.as_str().into(),
        store.incarnation.0.into(),
        new.seed.cast_signed().into(),
        new.params.to_string().into(),
        new.tenant_params.to_string().into(),
        new.logical_time.into(),
        new.interval.map(|(start, _)| start).into(),
        new.interval.map(|(_, end)| end).into(),
        tx.now.into(),
    ];
    tx.execute("insert the run", sql, values).await?;
    Ok(())
}

async fn insert_documents(tx: &Tx, new: &NewRun) -> Result<(), StoreError> {
    for document in &new.documents {
        let digest = Digest::of(document.content.as_bytes()).to_string();
        let sql = "INSERT INTO document (digest, content) VALUES ($1, $2) ON CONFLICT (digest) DO NOTHING";
        tx.execute("pin a document", sql, vec![digest.clone().into(), document.content.clone().into()]).await?;
        let sql = "INSERT INTO run_document (tenant, run, task, element, param, path, digest) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7)";
        let values = vec![
            new.tenant.to_string().into(),
            new.run.to_string().into(),
            document.instance.task.to_string().into(),
            element(document.instance.index).into(),
            document.param.clone().into(),
            document.path.clone().into(),
            digest.into(),
        ];
        tx.execute("pin a document", sql, values).await?;
    }
    Ok(())
}

/// The instances of a task: one, or one per element of its matrix.
pub(super) fn instances_of(dag: &Dag, id: &TaskId) -> Vec<InstanceId> {
    let elements = dag.task(id).map_or(0, |task| task.matrix.len());
    if elements == 0 {
        return vec![InstanceId::new(id.clone(), None)];
    }
    (0..elements).map(|index| InstanceId::new(id.clone(), u32::try_from(index).ok())).collect()
}

/// The seed of a task instance: a hash of the run's seed and of who it is, so that adding a task
/// changes no other's.
pub(crate) fn instance_seed(run_seed: u64, instance: &InstanceId) -> u64 {
    let mut hash = blake3::Hasher::new();
    hash.update(&run_seed.to_le_bytes()).update(instance.path_segment().as_bytes());
    u64::from_le_bytes(hash.finalize().as_bytes()[..8].try_into().expect("a digest has 32 bytes"))
}

async fn insert_instances(tx: &Tx, store: &Store, new: &NewRun) -> Result<Vec<InstanceId>, StoreError> {
    let mut instances = Vec::new();
    let mut rows = Vec::new();
    for task in new.dag.tasks() {
        let upstream: usize = task.needs.iter().map(|id| instances_of(&new.dag, id).len()).sum();
        for instance in instances_of(&new.dag, &task.id) {
            rows.push(json!({
                "task": instance.task, "element": element(instance.index), "ordinal": rows.len(),
                "seed": instance_seed(new.seed, &instance).cast_signed(),
                "priority": task.priority, "pool": task.pool, "up_total": upstream,
            }));
            instances.push(instance);
        }
    }
    let columns = [
        ("task", Kind::Text),
        ("element", Kind::Int),
        ("ordinal", Kind::Int),
        ("seed", Kind::Int),
        ("priority", Kind::Int),
        ("pool", Kind::Text),
        ("up_total", Kind::Int),
    ];
    let sql = format!(
        "INSERT INTO task_instance (tenant, run, task, element, generation, current, ordinal, dag, state, version, \
         incarnation, epoch, attempts, failures, losses, seed, priority, pool, up_total, up_succeeded, up_failed, \
         up_upstream_failed, up_skipped) \
         SELECT $2, $3, r.task, r.element, 1, TRUE, r.ordinal, $6, $4, 0, $5, 0, 0, 0, 0, r.seed, r.priority, r.pool, \
         r.up_total, 0, 0, 0, 0 FROM {}",
        tx.dialect.rows(1, &columns)
    );
    let values = vec![
        param(rows),
        new.tenant.to_string().into(),
        new.run.to_string().into(),
        TaskState::Waiting.as_str().into(),
        store.incarnation.0.into(),
        new.dag.id.to_string().into(),
    ];
    tx.execute("insert the task instances", &sql, values).await?;
    Ok(instances)
}
