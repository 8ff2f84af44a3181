//! Runs as people read them: the list, and one run with its tasks, artifacts and outputs.
//!
//! Called by the CLI, later by the server. Every look-up takes the tenant or answers for all of
//! them on the operator's own machine; a foreign run and an unknown one look the same. A run whole
//! may be large: `page` reads a part of one, `timeline` what happened in it.

use std::collections::BTreeMap;

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder, QuerySelect};
use serde_json::{Map, Value, json};

use super::entity::{artifact, run, task_instance};
use super::work::read_artifact;
use super::{Store, StoreError, rows, tx};
use crate::artifact::ArtifactRef;
use crate::clock::rfc3339;
use crate::id::{DRILL_PREFIX, InstanceId, RunId, TaskId, TenantId};
use crate::plan::Reason;
use crate::run::{RunState, TaskState};

/// One line of the list of runs.
#[derive(Debug, Clone, PartialEq)]
pub struct RunSummary {
    /// Which.
    pub run_id: RunId,
    /// Whose.
    pub tenant: TenantId,
    /// Of which DAG.
    pub dag: String,
    /// The pinned version.
    pub dag_version: String,
    /// Why it exists.
    pub kind: String,
    /// Where it stands.
    pub state: RunState,
    /// The run that it replays.
    pub parent_run: Option<RunId>,
    /// Its seed.
    pub seed: u64,
    /// The moment that it is about; RFC 3339.
    pub logical_time: String,
    /// Its data interval, half-open; RFC 3339.
    pub interval: Option<(String, String)>,
    /// RFC 3339.
    pub created_at: String,
    /// RFC 3339.
    pub started_at: Option<String>,
    /// RFC 3339.
    pub finished_at: Option<String>,
    /// From start to end.
    pub seconds: Option<f64>,
}

/// One run, whole or a page of it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunView {
    /// Its line in the list.
    pub summary: RunSummary,
    /// How many task instances the run has.
    pub instances: u64,
    /// Its task instances (of a page, those on it), in the order of the DAG.
    pub tasks: Vec<TaskView>,
    /// What they published.
    pub artifacts: Vec<ArtifactView>,
    /// `{task: outputs}` of these task instances; a list for a task with a matrix.
    pub outputs: Value,
}

/// A task instance of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskView {
    /// Which.
    pub instance: InstanceId,
    /// Where it stands.
    pub state: TaskState,
    /// Reruns, from 1.
    pub generation: i64,
    /// Tries.
    pub attempts: i64,
    /// From the first start to the end.
    pub seconds: Option<f64>,
    /// Why it is where it is.
    pub reason: Option<Reason>,
}

/// A published artifact of a run.
#[derive(Debug, Clone, PartialEq)]
pub struct ArtifactView {
    /// Who made it.
    pub producer: InstanceId,
    /// The object.
    pub artifact: ArtifactRef,
}

impl Store {
    /// The latest runs, newest first; without a tenant, those of all but drill tenants.
    ///
    /// # Errors
    /// The database's.
    pub async fn runs(
        &self,
        tenant: Option<&TenantId>,
        dag: Option<&str>,
        limit: u64,
    ) -> Result<Vec<RunSummary>, StoreError> {
        let mut query = run::Entity::find();
        match tenant {
            Some(tenant) => query = query.filter(run::Column::Tenant.eq(tenant.as_str())),
            // Who wants to see a drill's runs names its tenant.
            None => query = query.filter(run::Column::Tenant.not_like(format!("{DRILL_PREFIX}%"))),
        }
        if let Some(dag) = dag {
            query = query.filter(run::Column::Dag.eq(dag));
        }
        let found = query
            .order_by_desc(run::Column::CreatedAt)
            .order_by_desc(run::Column::Run)
            .limit(limit)
            .all(&self.db)
            .await
            .map_err(StoreError::query("list the runs"))?;
        found.into_iter().map(summary).collect()
    }

    /// The tenant of a run, for commands on the operator's machine that name only the run. A prefix
    /// of the id of at least eight characters will do, if it names one run.
    ///
    /// # Errors
    /// No such run; several.
    pub async fn find_run(&self, id: &str, tenant: Option<&TenantId>) -> Result<(TenantId, RunId), StoreError> {
        let whose = tenant.map_or("any".to_owned(), TenantId::to_string);
        let missing = || StoreError::NotFound { what: "run", id: id.to_owned(), tenant: whose.clone() };
        if id.len() < 8 || !id.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-') {
            return Err(missing());
        }
        let sql = "SELECT tenant, run FROM run WHERE run LIKE $1 AND ($2 = '' OR tenant = $2) ORDER BY run LIMIT 2";
        let values = vec![
            format!("{}%", id.to_ascii_lowercase()).into(),
            tenant.map(TenantId::to_string).unwrap_or_default().into(),
        ];
        let found = tx::read(&self.db, "look for a run", sql, values).await?;
        match found.as_slice() {
            [row] => Ok((rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "run", RunId::parse)?)),
            _ => Err(missing()),
        }
    }

    /// Where a run stands.
    ///
    /// # Errors
    /// No such run of that tenant.
    pub async fn run_state(&self, tenant: &TenantId, id: RunId) -> Result<RunState, StoreError> {
        let sql = "SELECT state FROM run WHERE tenant = $1 AND run = $2";
        let values = vec![tenant.to_string().into(), id.to_string().into()];
        let found = tx::read(&self.db, "read the run", sql, values).await?;
        let missing = || StoreError::NotFound { what: "run", id: id.to_string(), tenant: tenant.to_string() };
        rows::run_state(found.first().ok_or_else(missing)?)
    }

    /// A run's line in the list.
    ///
    /// # Errors
    /// No such run of that tenant.
    pub async fn run_summary(&self, tenant: &TenantId, id: RunId) -> Result<RunSummary, StoreError> {
        let row = run::Entity::find_by_id((tenant.to_string(), id.to_string()))
            .one(&self.db)
            .await
            .map_err(StoreError::query("read the run"))?
            .ok_or_else(|| StoreError::NotFound { what: "run", id: id.to_string(), tenant: tenant.to_string() })?;
        summary(row)
    }

    /// A run's current task instances, in the order of the DAG, and its artifacts, by name.
    pub(super) async fn rows_of(
        &self,
        tenant: &TenantId,
        id: RunId,
    ) -> Result<(Vec<task_instance::Model>, Vec<artifact::Model>), StoreError> {
        let instances = task_instance::Entity::find()
            .filter(task_instance::Column::Tenant.eq(tenant.as_str()))
            .filter(task_instance::Column::Run.eq(id.to_string()))
            .filter(task_instance::Column::Current.eq(true))
            .order_by_asc(task_instance::Column::Ordinal)
            .order_by_asc(task_instance::Column::Element)
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the task instances"))?;
        let published = artifact::Entity::find()
            .filter(artifact::Column::Tenant.eq(tenant.as_str()))
            .filter(artifact::Column::Run.eq(id.to_string()))
            .order_by_asc(artifact::Column::Name)
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the artifacts"))?;
        Ok((instances, published))
    }

    /// A run whole, with its tasks, artifacts and outputs; [`Store::run_page`] bounds what it reads.
    ///
    /// # Errors
    /// No such run of that tenant.
    pub async fn run_view(&self, tenant: &TenantId, id: RunId) -> Result<RunView, StoreError> {
        let summary = self.run_summary(tenant, id).await?;
        let (instances, published) = self.rows_of(tenant, id).await?;
        let all = u64::try_from(instances.len()).unwrap_or(u64::MAX);
        whole(summary, all, &instances, &published)
    }
}

/// A view made of its rows.
pub(super) fn whole(
    summary: RunSummary,
    all: u64,
    instances: &[task_instance::Model],
    published: &[artifact::Model],
) -> Result<RunView, StoreError> {
    Ok(RunView {
        summary,
        instances: all,
        tasks: instances.iter().map(task_view).collect::<Result<_, _>>()?,
        artifacts: artifacts(instances, published)?,
        outputs: outputs(instances)?,
    })
}

/// A row that this code never writes.
pub(super) fn bad(what: &'static str) -> impl Fn(String) -> StoreError {
    move |detail| StoreError::Corrupt { what, detail }
}

/// From one instant to another.
pub(super) fn seconds(from: Option<i64>, to: Option<i64>) -> Option<f64> {
    #[expect(clippy::cast_precision_loss, reason = "a run of 285 years would lose a microsecond")]
    Some((to? - from?) as f64 / 1e6)
}

fn summary(row: run::Model) -> Result<RunSummary, StoreError> {
    let state = RunState::parse(&row.state).ok_or_else(|| bad("run")(format!("unknown state {:?}", row.state)))?;
    Ok(RunSummary {
        run_id: RunId::parse(&row.run).map_err(|error| bad("run")(error.to_string()))?,
        tenant: TenantId::parse(&row.tenant).map_err(|error| bad("run")(error.to_string()))?,
        dag: row.dag,
        dag_version: row.dag_version,
        kind: row.kind,
        parent_run: row
            .parent_run
            .as_deref()
            .map(RunId::parse)
            .transpose()
            .map_err(|error| bad("run")(error.to_string()))?,
        state,
        seed: row.seed.cast_unsigned(),
        logical_time: rfc3339(row.logical_time),
        interval: row.interval_start.zip(row.interval_end).map(|(start, end)| (rfc3339(start), rfc3339(end))),
        created_at: rfc3339(row.created_at),
        started_at: row.started_at.map(rfc3339),
        finished_at: row.finished_at.map(rfc3339),
        seconds: seconds(row.started_at, row.finished_at),
    })
}

/// The task instance that a row names.
pub(super) fn producer(task: &str, element: i64) -> Result<InstanceId, StoreError> {
    let task = TaskId::parse(task).map_err(|error| bad("task instance")(error.to_string()))?;
    Ok(InstanceId::new(task, u32::try_from(element).ok()))
}

fn task_view(row: &task_instance::Model) -> Result<TaskView, StoreError> {
    let state = TaskState::parse(&row.state);
    let reason = row.reason.as_deref().map(serde_json::from_str).transpose();
    Ok(TaskView {
        instance: producer(&row.task, row.element)?,
        state: state.ok_or_else(|| bad("task instance")(format!("unknown state {:?}", row.state)))?,
        generation: row.generation,
        attempts: row.attempts,
        seconds: seconds(row.started_at, row.finished_at),
        reason: reason.map_err(|error| bad("task instance")(error.to_string()))?,
    })
}

fn artifacts(
    instances: &[task_instance::Model],
    published: &[artifact::Model],
) -> Result<Vec<ArtifactView>, StoreError> {
    let mut by_instance: BTreeMap<(&str, i64, i64, i64), Vec<&artifact::Model>> = BTreeMap::new();
    for row in published {
        by_instance.entry((&row.task, row.element, row.generation, row.epoch)).or_default().push(row);
    }
    let mut views = Vec::new();
    for it in instances {
        for row in by_instance.get(&(it.task.as_str(), it.element, it.generation, it.epoch)).into_iter().flatten() {
            views.push(ArtifactView { producer: producer(&row.task, row.element)?, artifact: read_artifact(row)? });
        }
    }
    Ok(views)
}

fn outputs(instances: &[task_instance::Model]) -> Result<Value, StoreError> {
    let mut all = Map::new();
    for row in instances {
        let Some(text) = &row.outputs else { continue };
        let value: Value = serde_json::from_str(text).map_err(|error| bad("task instance")(error.to_string()))?;
        if row.element < 0 {
            all.insert(row.task.clone(), value);
        } else if let Some(list) = all.entry(row.task.clone()).or_insert_with(|| json!([])).as_array_mut() {
            list.push(value);
        }
    }
    Ok(Value::Object(all))
}
