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
use super::{NewRun, Store, StoreError, rows};
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
        if let Some(parent) = pinned.facts.proves() {
            let stand_in = self.stand_in(&identity.tenant, parent, &identity.instance).await?;
            facts.run_id = stand_in.run.to_string();
            scope.run["id"] = json!(facts.run_id);
            registry_at = stand_in.registry_at;
        }
        let may_be_memoized = identity.generation.0 == 1 && pinned.facts.parent.is_none();
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
        let dag = self.dag_version(facts.dag_version).await?;
        let pinned = Arc::new(Pinned { dag, facts, documents });
        self.keep_pinned(key, Arc::clone(&pinned));
        Ok(pinned)
    }

    fn keep_pinned(&self, key: (TenantId, RunId), pinned: Arc<Pinned>) {
        let mut pins = self.pins();
        if pins.len() >= PINS_KEPT {
            pins.clear();
        }
        pins.insert(key, pinned);
    }

    /// Keeps what a run is pinned to that was just made here, and as likely begins here.
    pub(super) fn pin(&self, new: &NewRun) {
        // As whoever reads them from the row: a number may lose its last bit on the way.
        let read = |value: &Value| serde_json::from_str(&value.to_string());
        let (Ok(params), Ok(tenant_params)) = (read(&new.params), read(&new.tenant_params)) else { return };
        let facts = Facts {
            tenant: new.tenant.clone(),
            run: new.run,
            dag_version: new.dag.version,
            kind: new.kind.as_str().to_owned(),
            seed: new.seed,
            params,
            tenant_params,
            logical_time: new.logical_time,
            interval: new.interval,
            parent: new.kind.parent(),
            faults: None,
        };
        let documents = new.documents.iter().map(|it| PinnedText {
            task: it.instance.task.to_string(),
            element: rows::element(it.instance.index),
            param: it.param.clone(),
            content: it.content.clone(),
        });
        let mut documents: Vec<_> = documents.collect();
        documents.sort_by(|a, b| a.param.cmp(&b.param));
        let pinned = Pinned { dag: Arc::clone(&new.dag), facts, documents };
        self.keep_pinned((new.tenant.clone(), new.run), Arc::new(pinned));
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
    tenant: TenantId,
    run: RunId,
    dag_version: Digest,
    kind: String,
    seed: u64,
    params: Value,
    tenant_params: Value,
    logical_time: Micros,
    interval: Option<(Micros, Micros)>,
    parent: Option<RunId>,
    /// JSON.
    faults: Option<String>,
}

impl Facts {
    /// The run's seed.
    pub(super) fn seed(&self) -> u64 {
        self.seed
    }

    /// Resolved parameters.
    pub(super) fn params(&self) -> &Value {
        &self.params
    }

    /// The tenant's facts and parameters.
    pub(super) fn tenant_params(&self) -> &Value {
        &self.tenant_params
    }

    /// The moment that the run is about.
    pub(super) fn logical_time(&self) -> Micros {
        self.logical_time
    }

    /// The data interval.
    pub(super) fn interval(&self) -> Option<(Micros, Micros)> {
        self.interval
    }

    /// The run that this one verifies.
    pub(super) fn proves(&self) -> Option<RunId> {
        self.parent.filter(|_| self.kind == VERIFY)
    }

    /// What goes wrong with the run's attempts. Only a drill run of a drill tenant has faults, whatever its row says:
    /// here is where that is decided for every executor.
    fn faults(&self, tenant: &TenantId) -> Result<Vec<Fault>, StoreError> {
        let Some(text) = &self.faults else { return Ok(Vec::new()) };
        if self.kind != DRILL || !tenant.is_drill() {
            tracing::warn!(
                run = %self.run,
                kind = self.kind,
                "faults of a run that is no drill are not injected"
            );
            return Ok(Vec::new());
        }
        serde_json::from_str(text).map_err(corrupt("run"))
    }

    /// The run's id as templates and tasks print it.
    fn printed_id(&self) -> RunId {
        self.proves().unwrap_or(self.run)
    }

    fn facts(&self) -> RunFacts {
        RunFacts {
            run_id: self.printed_id().to_string(),
            dag_version: self.dag_version.to_string(),
            params: self.params.clone(),
            seed: self.seed,
            logical_time: rfc3339(self.logical_time),
            interval_start: self.interval.map(|(start, _)| rfc3339(start)),
            interval_end: self.interval.map(|(_, end)| rfc3339(end)),
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
    Ok(Facts {
        tenant: tenant.clone(),
        run: id,
        dag_version: Digest::parse(&row.dag_version).map_err(corrupt("run"))?,
        kind: row.kind,
        seed: row.seed.cast_unsigned(),
        params: serde_json::from_str(&row.params).map_err(corrupt("run"))?,
        tenant_params: serde_json::from_str(&row.tenant_params).map_err(corrupt("run"))?,
        logical_time: row.logical_time,
        interval: row.interval_start.zip(row.interval_end),
        parent: row.parent_run.as_deref().map(RunId::parse).transpose().map_err(corrupt("run"))?,
        faults: row.faults,
    })
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
    Ok(Scope {
        params: facts.params.clone(),
        tenant: facts.tenant_params.clone(),
        run: json!({
            "id": facts.printed_id().to_string(),
            "logical_time": rfc3339(facts.logical_time),
            "interval_start": facts.interval.map(|(start, _)| rfc3339(start)),
            "interval_end": facts.interval.map(|(_, end)| rfc3339(end)),
            "seed": facts.seed,
        }),
        matrix: element.map_or(Value::Null, |element| json!(element)),
        tasks: outputs(db, facts, &named).await?,
    })
}

/// `{task: {"outputs": ...}}`; a task with a matrix has a list, in the order of its elements.
async fn outputs<C: ConnectionTrait>(db: &C, facts: &Facts, named: &BTreeSet<String>) -> Result<Value, StoreError> {
    if named.is_empty() {
        return Ok(json!({}));
    }
    let mut all = Map::new();
    for row in instances(db, &facts.tenant, facts.run, named.iter().map(String::as_str)).await? {
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
