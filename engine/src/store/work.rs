//! What a claimed attempt needs to begin: its task, facts, template scope, inputs and documents.
//!
//! The executor asks after the claim was committed. All of it is immutable by then: the run is
//! pinned, its upstreams have ended. `advance` uses [`scope`] to evaluate `if`.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use indexmap::IndexMap;
use sea_orm::{ColumnTrait, ConnectionTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Map, Value, json};

use super::claim::Claim;
use super::create::{DRILL, VERIFY};
use super::entity::{artifact, document, run, run_document, task_instance};
use super::{Store, StoreError, rows};
use crate::artifact::ArtifactRef;
use crate::clock::rfc3339;
use crate::dag::{Dag, InputBinding, Task};
use crate::drill::{Fault, FaultKind};
use crate::id::{ArtifactName, Digest, InstanceId, RunId, TaskId, TenantId};
use crate::plan::Micros;
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
    /// The model registry is read as it was then, in microseconds since 1970; `None` = as it is.
    pub registry_at: Option<Micros>,
    /// Whether a memoized result may take the place of its attempt: not where a person asked for it again.
    pub may_be_memoized: bool,
    /// What goes wrong with this attempt; empty but for runs of drills.
    pub faults: Vec<FaultKind>,
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

/// What a run is pinned to: read once per process.
pub(super) struct Pinned {
    pub(super) dag: Arc<Dag>,
    facts: Facts,
    pub(super) documents: Vec<PinnedText>,
}

impl Pinned {
    /// The run's own row.
    pub(super) fn facts(&self) -> &Facts {
        &self.facts
    }
}

pub(super) struct PinnedText {
    task: String,
    element: i64,
    pub(super) param: String,
    pub(super) content: String,
}

impl PinnedText {
    /// Whether a parameter of this task instance names it.
    pub(super) fn is_of(&self, task: &str, element: i64) -> bool {
        self.task == task && self.element == element
    }
}

/// Runs whose pins are kept; the pins of others are read again.
const PINS_KEPT: usize = 4_096;

impl Store {
    /// Loads what a claimed attempt needs.
    ///
    /// # Errors
    /// The database's.
    pub async fn work(&self, claim: &Claim) -> Result<Work, StoreError> {
        let identity = &claim.identity;
        let pinned = self.pinned(&identity.tenant, identity.run).await?;
        let task = pinned.dag.task(&identity.instance.task).ok_or_else(|| StoreError::Corrupt {
            what: "task instance",
            detail: format!("no task {} in its DAG", identity.instance.task),
        })?;
        let mut scope = scope(&self.db, &pinned.facts, task, identity.instance.index, &task.with).await?;
        if let Some(item) = &claim.item {
            let item: Value = serde_json::from_str(item).map_err(corrupt("task instance"))?;
            scope.matrix = json!({ "item": item, "index": identity.instance.index });
        }
        let inputs = self.inputs(&identity.tenant, identity.run, &task.inputs).await?;
        let (task, element) = (identity.instance.task.as_str(), rows::element(identity.instance.index));
        let own = pinned.documents.iter().filter(|it| it.is_of(task, element));
        let documents = own.map(|it| (it.param.clone(), it.content.clone())).collect();
        let (dag, mut facts) = (Arc::clone(&pinned.dag), pinned.facts.facts());
        let mut registry_at = None;
        if let Some(parent) = pinned.facts.proves()? {
            let stand_in = self.stand_in(&identity.tenant, parent, &identity.instance).await?;
            facts.run_id = stand_in.run.to_string();
            scope.run["id"] = json!(facts.run_id);
            registry_at = stand_in.registry_at;
        }
        let may_be_memoized = identity.generation.0 == 1 && pinned.facts.row.parent_run.is_none();
        let declared = pinned.facts.faults(&identity.tenant)?;
        let strike = |it: &Fault| it.strikes(&identity.instance, identity.generation, identity.attempt);
        let faults = declared.into_iter().filter(strike).map(|it| it.what).collect();
        Ok(Work { claim: claim.clone(), dag, facts, scope, inputs, documents, registry_at, may_be_memoized, faults })
    }

    /// What a run is pinned to.
    pub(super) async fn pinned(&self, tenant: &TenantId, run: RunId) -> Result<Arc<Pinned>, StoreError> {
        let key = (tenant.clone(), run);
        if let Some(pinned) = self.pins().get(&key) {
            return Ok(Arc::clone(pinned));
        }
        let (facts, documents) = tokio::try_join!(run_facts(&self.db, tenant, run), self.documents(tenant, run))?;
        let dag = self.dag_version(Digest::parse(&facts.row.dag_version).map_err(corrupt("run"))?).await?;
        let pinned = Arc::new(Pinned { dag, facts, documents });
        let mut pins = self.pins();
        if pins.len() >= PINS_KEPT {
            pins.clear();
        }
        pins.insert(key, Arc::clone(&pinned));
        Ok(pinned)
    }

    fn pins(&self) -> std::sync::MutexGuard<'_, HashMap<(TenantId, RunId), Arc<Pinned>>> {
        self.pins.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    async fn documents(&self, tenant: &TenantId, run: RunId) -> Result<Vec<PinnedText>, StoreError> {
        let found = run_document::Entity::find()
            .find_also_related(document::Entity)
            .filter(run_document::Column::Tenant.eq(tenant.as_str()))
            .filter(run_document::Column::Run.eq(run.to_string()))
            .order_by_asc(run_document::Column::Param)
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the pinned documents"))?;
        let texts = found.into_iter().filter_map(|(pin, text)| {
            Some(PinnedText { task: pin.task, element: pin.element, param: pin.param, content: text?.content })
        });
        Ok(texts.collect())
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
        let mut by_producer: HashMap<(&str, i64, i64, i64), Vec<&artifact::Model>> = HashMap::new();
        for row in &published {
            by_producer.entry((&row.task, row.element, row.generation, row.epoch)).or_default().push(row);
        }
        let mut inputs = Vec::new();
        // `instances` is in the order of the DAG; what an earlier epoch left is not its result.
        for instance in &instances {
            let key = (instance.task.as_str(), instance.element, instance.generation, instance.epoch);
            for row in by_producer.get(&key).into_iter().flatten() {
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
    /// The run's seed.
    pub(super) fn seed(&self) -> u64 {
        self.row.seed.cast_unsigned()
    }

    /// Resolved parameters.
    pub(super) fn params(&self) -> &Value {
        &self.params
    }

    /// The tenant's facts and parameters.
    pub(super) fn tenant_params(&self) -> &Value {
        &self.tenant
    }

    /// The moment that the run is about.
    pub(super) fn logical_time(&self) -> Micros {
        self.row.logical_time
    }

    /// The data interval.
    pub(super) fn interval(&self) -> Option<(Micros, Micros)> {
        self.row.interval_start.zip(self.row.interval_end)
    }

    /// The run that this one verifies.
    pub(super) fn proves(&self) -> Result<Option<RunId>, StoreError> {
        let parent = self.row.parent_run.as_deref().filter(|_| self.row.kind == VERIFY);
        parent.map(RunId::parse).transpose().map_err(corrupt("run"))
    }

    /// What goes wrong with the run's attempts. Only a drill run of a drill tenant has faults, whatever its row says:
    /// here is where that is decided for every executor.
    fn faults(&self, tenant: &TenantId) -> Result<Vec<Fault>, StoreError> {
        let Some(text) = &self.row.faults else { return Ok(Vec::new()) };
        if self.row.kind != DRILL || !tenant.is_drill() {
            tracing::warn!(
                run = self.row.run,
                kind = self.row.kind,
                "faults of a run that is no drill are not injected"
            );
            return Ok(Vec::new());
        }
        serde_json::from_str(text).map_err(corrupt("run"))
    }

    /// The run's id as templates and tasks print it.
    fn printed_id(&self) -> &str {
        self.row.parent_run.as_deref().filter(|_| self.row.kind == VERIFY).unwrap_or(&self.row.run)
    }

    fn facts(&self) -> RunFacts {
        RunFacts {
            run_id: self.printed_id().to_owned(),
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
            "id": facts.printed_id(),
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
        .order_by_asc(task_instance::Column::Element)
        .all(db)
        .await
        .map_err(StoreError::query("read the task instances"))
}
