//! What a claimed attempt needs to begin: its task, facts, template scope, inputs and documents.
//!
//! The executor asks after the claim was committed. All of it is immutable by then: the run is
//! pinned, its upstreams have ended. `advance` uses [`scope`] to evaluate `if`.

use std::collections::BTreeSet;
use std::sync::Arc;

use indexmap::IndexMap;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Map, Value, json};

use super::claim::Claim;
use super::entity::{artifact, document, run, run_document, task_instance};
use super::{Store, StoreError, rows};
use crate::artifact::ArtifactRef;
use crate::clock::rfc3339;
use crate::dag::{Dag, InputBinding, Task};
use crate::id::{ArtifactName, Digest, InstanceId, RunId, TaskId, TenantId};
use crate::run::TaskState;
use crate::task::{Input, RunFacts};
use crate::template::{Scope, references};

/// A claimed attempt with all that it needs to begin.
#[derive(Debug, Clone)]
pub struct Work {
    /// The claim.
    pub claim: Claim,
    /// The pinned DAG.
    pub dag: Arc<Dag>,
    /// Facts of the run, for tasks.
    pub facts: RunFacts,
    /// What the task's templates see.
    pub scope: Scope,
    /// Its resolved inputs, ordered by producer, element and name.
    pub inputs: Vec<Input>,
    /// Its pinned documents: parameter -> text.
    pub documents: IndexMap<String, String>,
}

impl Work {
    /// The task of the DAG.
    ///
    /// # Errors
    /// The instance names a task that its DAG does not have.
    pub fn task(&self) -> Result<&Task, StoreError> {
        let id = &self.claim.identity.instance.task;
        self.dag
            .task(id)
            .ok_or_else(|| StoreError::Corrupt { what: "task instance", detail: format!("no task {id} in its DAG") })
    }
}

impl Store {
    /// Loads what a claimed attempt needs.
    ///
    /// # Errors
    /// The database's.
    pub async fn work(&self, claim: &Claim) -> Result<Work, StoreError> {
        let identity = &claim.identity;
        let facts = run_facts(&self.db, &identity.tenant, identity.run).await?;
        let dag = self.dag(Digest::parse(&facts.row.dag_version).map_err(corrupt("run"))?).await?;
        let task = dag.task(&identity.instance.task).ok_or_else(|| StoreError::Corrupt {
            what: "task instance",
            detail: format!("no task {} in its DAG", identity.instance.task),
        })?;
        let scope = scope(&self.db, &facts, task, identity.instance.index, &task.with).await?;
        let inputs = self.inputs(&identity.tenant, identity.run, &task.inputs).await?;
        let documents = self.documents(&identity.tenant, identity.run, &identity.instance).await?;
        let facts = facts.facts();
        Ok(Work { claim: claim.clone(), dag, facts, scope, inputs, documents })
    }

    async fn documents(
        &self,
        tenant: &TenantId,
        run: RunId,
        instance: &InstanceId,
    ) -> Result<IndexMap<String, String>, StoreError> {
        let found = run_document::Entity::find()
            .find_also_related(document::Entity)
            .filter(run_document::Column::Tenant.eq(tenant.as_str()))
            .filter(run_document::Column::Run.eq(run.to_string()))
            .filter(run_document::Column::Task.eq(instance.task.as_str()))
            .filter(run_document::Column::Element.eq(rows::element(instance.index)))
            .order_by_asc(run_document::Column::Param)
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the pinned documents"))?;
        let pairs = found.into_iter().filter_map(|(pin, text)| Some((pin.param, text?.content)));
        Ok(pairs.collect())
    }

    async fn inputs(&self, tenant: &TenantId, run: RunId, bindings: &[InputBinding]) -> Result<Vec<Input>, StoreError> {
        if bindings.is_empty() {
            return Ok(Vec::new());
        }
        let producers: BTreeSet<&str> =
            bindings.iter().flat_map(|it| it.producers.iter().map(TaskId::as_str)).collect();
        let instances = instances(&self.db, tenant, run, producers.iter().copied()).await?;
        let published = artifact::Entity::find()
            .filter(artifact::Column::Tenant.eq(tenant.as_str()))
            .filter(artifact::Column::Run.eq(run.to_string()))
            .filter(artifact::Column::Task.is_in(producers))
            .order_by_asc(artifact::Column::Name)
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the inputs"))?;
        let mut inputs = Vec::new();
        // `instances` is in the order of the DAG; what an earlier epoch left is not its result.
        for instance in &instances {
            let own = published.iter().filter(|row| {
                row.task == instance.task
                    && row.element == instance.element
                    && row.generation == instance.generation
                    && row.epoch == instance.epoch
            });
            for row in own {
                if wanted(bindings, row, instance) {
                    inputs.push(read_input(row)?);
                }
            }
        }
        Ok(inputs)
    }
}

/// Whether a binding asks for this artifact: a required input comes from a producer that succeeded,
/// an optional one is evidence and comes from whatever its producer left.
fn wanted(bindings: &[InputBinding], row: &artifact::Model, producer: &task_instance::Model) -> bool {
    let succeeded = producer.state == TaskState::Succeeded.as_str();
    bindings.iter().any(|binding| {
        binding.name.as_str() == row.name
            && binding.producers.iter().any(|task| task.as_str() == row.task)
            && (succeeded || binding.optional)
    })
}

fn read_input(row: &artifact::Model) -> Result<Input, StoreError> {
    let task = TaskId::parse(&row.task).map_err(corrupt("artifact"))?;
    let producer = InstanceId::new(task, u32::try_from(row.element).ok());
    Ok(Input { producer, artifact: read_artifact(row)? })
}

/// A stored row as a reference.
pub(super) fn read_artifact(row: &artifact::Model) -> Result<ArtifactRef, StoreError> {
    Ok(ArtifactRef {
        name: ArtifactName::parse(&row.name).map_err(corrupt("artifact"))?,
        key: row.key.clone(),
        digest: Digest::parse(&row.digest).map_err(corrupt("artifact"))?,
        bytes: row.bytes.cast_unsigned(),
        rows: row.row_count.map(i64::cast_unsigned),
        schema_digest: row.schema_digest.as_deref().map(Digest::parse).transpose().map_err(corrupt("artifact"))?,
    })
}

fn corrupt<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Corrupt { what, detail: error.to_string() }
}

/// A run's row with its JSON parsed.
pub(super) struct Facts {
    row: run::Model,
    params: Value,
    tenant: Value,
}

impl Facts {
    fn facts(&self) -> RunFacts {
        RunFacts {
            dag_version: self.row.dag_version.clone(),
            params: self.params.clone(),
            seed: self.row.seed.cast_unsigned(),
            logical_time: rfc3339(self.row.logical_time),
            interval_start: self.row.interval_start.map(rfc3339),
            interval_end: self.row.interval_end.map(rfc3339),
        }
    }
}

/// Reads the facts of a run.
pub(super) async fn run_facts<C: ConnectionTrait>(db: &C, tenant: &TenantId, id: RunId) -> Result<Facts, StoreError> {
    let row = run::Entity::find_by_id((tenant.to_string(), id.to_string()))
        .one(db)
        .await
        .map_err(StoreError::query("read the run"))?
        .ok_or_else(|| StoreError::NotFound { what: "run", id: id.to_string(), tenant: tenant.to_string() })?;
    let params = serde_json::from_str(&row.params).map_err(corrupt("run"))?;
    let tenant = serde_json::from_str(&row.tenant_params).map_err(corrupt("run"))?;
    Ok(Facts { row, params, tenant })
}

/// What the templates of `value` see, in a task of this run.
pub(super) async fn scope<C: ConnectionTrait>(
    db: &C,
    facts: &Facts,
    task: &Task,
    index: Option<u32>,
    value: &Value,
) -> Result<Scope, StoreError> {
    let named: BTreeSet<String> = references(value)
        .into_iter()
        .filter_map(|found| found.item.ok())
        .filter(|reference| reference.path.first().is_some_and(|root| root == "tasks"))
        .filter_map(|reference| reference.path.get(1).cloned())
        .collect();
    let element = index.and_then(|index| task.matrix.get(usize::try_from(index).ok()?));
    let row = &facts.row;
    Ok(Scope {
        params: facts.params.clone(),
        tenant: facts.tenant.clone(),
        run: json!({
            "id": row.run,
            "logical_time": rfc3339(row.logical_time),
            "interval_start": row.interval_start.map(rfc3339),
            "interval_end": row.interval_end.map(rfc3339),
            "seed": row.seed.cast_unsigned(),
        }),
        matrix: element.map_or(Value::Null, |element| json!(element)),
        tasks: outputs(db, row, &named).await?,
    })
}

/// `{task: {"outputs": ...}}`; a task with a matrix has a list, in the order of its elements.
async fn outputs<C: ConnectionTrait>(db: &C, run: &run::Model, named: &BTreeSet<String>) -> Result<Value, StoreError> {
    if named.is_empty() {
        return Ok(json!({}));
    }
    let tenant = TenantId::parse(&run.tenant).map_err(corrupt("run"))?;
    let id = RunId::parse(&run.run).map_err(corrupt("run"))?;
    let mut all = Map::new();
    for row in instances(db, &tenant, id, named.iter().map(String::as_str)).await? {
        let outputs: Value = match &row.outputs {
            Some(text) => serde_json::from_str(text).map_err(corrupt("task instance"))?,
            None => Value::Null,
        };
        if row.element < 0 {
            all.insert(row.task, json!({ "outputs": outputs }));
            continue;
        }
        let slot = all.entry(row.task).or_insert_with(|| json!({ "outputs": [] }));
        if let Some(list) = slot.get_mut("outputs").and_then(Value::as_array_mut) {
            list.push(outputs);
        }
    }
    Ok(Value::Object(all))
}

async fn instances<C: ConnectionTrait>(
    db: &C,
    tenant: &TenantId,
    run: RunId,
    tasks: impl Iterator<Item = &str>,
) -> Result<Vec<task_instance::Model>, StoreError> {
    task_instance::Entity::find()
        .filter(task_instance::Column::Tenant.eq(tenant.as_str()))
        .filter(task_instance::Column::Run.eq(run.to_string()))
        .filter(task_instance::Column::Task.is_in(tasks))
        .filter(task_instance::Column::Current.eq(true))
        .order_by_asc(task_instance::Column::Ordinal)
        .all(db)
        .await
        .map_err(StoreError::query("read the task instances"))
}
