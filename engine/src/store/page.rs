//! A large run in parts: a page of its task instances, its tasks as groups, its report.
//!
//! Called by `runs show`, and by `run` and `retry` when they say how it went. What is read is
//! bounded by the window that the caller names; groups are counted by the database.

use std::collections::BTreeMap;

use sea_orm::{DbBackend, EntityTrait, QueryResult, Statement};

use super::entity::{artifact, task_instance};
use super::rows::get;
use super::view::{bad, producer, seconds, whole};
use super::work::read_artifact;
use super::{ArtifactView, RunView, Store, StoreError, rows, tx};
use crate::id::{ArtifactName, RunId, TaskId, TenantId};
use crate::plan::Reason;
use crate::run::TaskState;

/// Which of a run's task instances to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// How many to pass over, in the order of the DAG.
    pub offset: u64,
    /// How many at the most.
    pub limit: u64,
    /// Only those of tasks with at most this many elements.
    pub elements: Option<u32>,
}

impl Window {
    /// As many instances as a DAG may have tasks: a few megabytes of JSON.
    pub const DEFAULT_LIMIT: u64 = 10_000;
}

impl Default for Window {
    fn default() -> Self {
        Self { offset: 0, limit: Self::DEFAULT_LIMIT, elements: None }
    }
}

/// The current instances of one task that are in one state.
#[derive(Debug, Clone, PartialEq)]
pub struct TaskGroup {
    /// Which task.
    pub task: TaskId,
    /// Which state.
    pub state: TaskState,
    /// How many instances.
    pub instances: u64,
    /// Tries, summed.
    pub attempts: i64,
    /// From the first start to the last end.
    pub seconds: Option<f64>,
    /// The reason of one of them.
    pub reason: Option<Reason>,
}

/// One row per artifact of the instances on the page, current generations and epochs only.
const ARTIFACTS_OF_PAGE: &str = "SELECT a.* FROM page p JOIN artifact a ON a.tenant = p.tenant AND a.run = p.run \
     AND a.task = p.task AND a.element = p.element AND a.generation = p.generation AND a.epoch = p.epoch \
     ORDER BY p.ordinal, p.element, a.name";

impl Store {
    /// A part of a run: the task instances of `window` with their artifacts and outputs.
    ///
    /// # Errors
    /// No such run of that tenant.
    pub async fn run_page(&self, tenant: &TenantId, id: RunId, window: &Window) -> Result<RunView, StoreError> {
        let summary = self.run_summary(tenant, id).await?;
        let sql = "SELECT COUNT(*) AS n FROM task_instance WHERE tenant = $1 AND run = $2 AND current";
        let values = vec![tenant.to_string().into(), id.to_string().into()];
        let found = tx::read(&self.db, "count the task instances", sql, values).await?;
        let all = found.first().map_or(Ok(0), |row| get::<i64>(row, "n"))?.unsigned_abs();
        let instances = task_instance::Entity::find()
            .from_raw_sql(self.page(tenant, id, window, "SELECT * FROM page ORDER BY ordinal, element"))
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the task instances"))?;
        let published = artifact::Entity::find()
            .from_raw_sql(self.page(tenant, id, window, ARTIFACTS_OF_PAGE))
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the artifacts"))?;
        whole(summary, all, &instances, &published)
    }

    /// `query` over `page`, the instances of a window.
    fn page(&self, tenant: &TenantId, id: RunId, window: &Window, query: &str) -> Statement {
        let bound = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        let mut values: Vec<sea_orm::Value> = vec![
            tenant.to_string().into(),
            id.to_string().into(),
            bound(window.limit).into(),
            bound(window.offset).into(),
        ];
        let mut small = "";
        if let Some(elements) = window.elements {
            // The element of that number is there only where there are more.
            small = " AND t.element < $5 AND NOT EXISTS (SELECT 1 FROM task_instance b WHERE b.tenant = t.tenant \
                     AND b.run = t.run AND b.task = t.task AND b.element = $5)";
            values.push(i64::from(elements).into());
        }
        let sql = format!(
            "WITH page AS (SELECT t.* FROM task_instance t WHERE t.tenant = $1 AND t.run = $2 AND t.current{small} \
             ORDER BY t.ordinal, t.element LIMIT $3 OFFSET $4) {query}"
        );
        Statement::from_sql_and_values(self.backend(), sql, values)
    }

    fn backend(&self) -> DbBackend {
        self.db.backend()
    }

    /// A run's tasks in the order of the DAG, one group per state that their instances are in.
    ///
    /// # Errors
    /// The database's.
    pub async fn task_groups(&self, tenant: &TenantId, id: RunId) -> Result<Vec<TaskGroup>, StoreError> {
        let sql = "SELECT task, state, COUNT(*) AS n, CAST(SUM(attempts) AS BIGINT) AS attempts, \
                   MIN(started_at) AS started_at, MAX(finished_at) AS finished_at, MIN(ordinal) AS ordinal, \
                   MIN(reason) AS reason FROM task_instance WHERE tenant = $1 AND run = $2 AND current \
                   GROUP BY task, state";
        let values = vec![tenant.to_string().into(), id.to_string().into()];
        let found = tx::read(&self.db, "count the task instances", sql, values).await?;
        let mut groups = Vec::with_capacity(found.len());
        let mut places: BTreeMap<TaskId, i64> = BTreeMap::new();
        for row in &found {
            let group = read_group(row)?;
            let ordinal: i64 = get(row, "ordinal")?;
            let place = places.entry(group.task.clone()).or_insert(ordinal);
            *place = ordinal.min(*place);
            groups.push(group);
        }
        groups.sort_by_key(|group| (places.get(&group.task).copied(), group.state));
        Ok(groups)
    }

    /// The artifact of that name which comes last in the order of the DAG: a run's report, say.
    ///
    /// # Errors
    /// The database's.
    pub async fn artifact_named(
        &self,
        tenant: &TenantId,
        id: RunId,
        name: &ArtifactName,
    ) -> Result<Option<ArtifactView>, StoreError> {
        let sql = "SELECT a.* FROM artifact a JOIN task_instance t ON t.tenant = a.tenant AND t.run = a.run \
                   AND t.task = a.task AND t.element = a.element AND t.generation = a.generation \
                   AND t.epoch = a.epoch AND t.current \
                   WHERE a.tenant = $1 AND a.run = $2 AND a.name = $3 ORDER BY t.ordinal DESC, t.element DESC LIMIT 1";
        let values: [sea_orm::Value; 3] = [tenant.to_string().into(), id.to_string().into(), name.to_string().into()];
        let found = artifact::Entity::find()
            .from_raw_sql(Statement::from_sql_and_values(self.backend(), sql, values))
            .one(&self.db)
            .await
            .map_err(StoreError::query("look for an artifact"))?;
        let view = |row: artifact::Model| {
            Ok(ArtifactView { producer: producer(&row.task, row.element)?, artifact: read_artifact(&row)? })
        };
        found.map(view).transpose()
    }
}

fn read_group(row: &QueryResult) -> Result<TaskGroup, StoreError> {
    let reason: Option<String> = get(row, "reason")?;
    let reason = reason.map(|text| serde_json::from_str(&text)).transpose();
    Ok(TaskGroup {
        task: rows::parse(row, "task", TaskId::parse)?,
        state: rows::task_state(row)?,
        instances: get::<i64>(row, "n")?.unsigned_abs(),
        attempts: get(row, "attempts")?,
        seconds: seconds(get(row, "started_at")?, get(row, "finished_at")?),
        reason: reason.map_err(|error| bad("task instance")(error.to_string()))?,
    })
}
