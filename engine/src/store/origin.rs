//! An ended run whole, as a replay needs it: what it was pinned to, how each task instance ended, and what
//! these left behind.
//!
//! Called by `replay`. Only reads, outside of any transaction: what ended no longer changes, and a rerun
//! that takes the run up meanwhile leaves these generations where they are.

use std::collections::HashMap;
use std::sync::Arc;

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter};
use serde_json::Value;

use super::create::instance_seed;
use super::entity::{artifact, run_document, task_instance};
use super::view::{bad, producer};
use super::work::{PinnedText, read_artifact};
use super::{Claim, PinnedDocument, RunSummary, Store, StoreError};
use crate::artifact::ArtifactRef;
use crate::dag::Dag;
use crate::id::{AttemptNumber, Epoch, Generation, InstanceId, RunId, TenantId};
use crate::plan::{Micros, Reason};
use crate::run::{TaskState, is_terminal};
use crate::task::AttemptIdentity;

/// A run that has ended, with the current generation of each of its task instances.
#[derive(Debug, Clone)]
pub struct Origin {
    /// Its line in the list.
    pub summary: RunSummary,
    /// The version it is pinned to.
    pub dag: Arc<Dag>,
    /// Resolved parameters.
    pub params: Value,
    /// The tenant's facts and parameters.
    pub tenant_params: Value,
    /// The moment it is about.
    pub logical_time: Micros,
    /// The data interval, half-open.
    pub interval: Option<(Micros, Micros)>,
    /// Pinned documents.
    pub documents: Vec<PinnedDocument>,
    /// In the order of the DAG.
    pub instances: Vec<OriginInstance>,
}

/// A task instance of an [`Origin`].
#[derive(Debug, Clone)]
pub struct OriginInstance {
    /// Which.
    pub instance: InstanceId,
    /// How it ended.
    pub state: TaskState,
    /// Why.
    pub reason: Option<Reason>,
    /// A JSON object; `None` if it made none.
    pub outputs: Option<Value>,
    /// The element of a `for_each`, as JSON.
    pub item: Option<String>,
    /// What it published.
    pub artifacts: Vec<ArtifactRef>,
    generation: Generation,
    epoch: Epoch,
}

impl Origin {
    /// An instance.
    pub fn instance(&self, id: &InstanceId) -> Option<&OriginInstance> {
        self.instances.iter().find(|it| it.instance == *id)
    }

    /// A claim as the instance's attempt had it, to load with [`Store::work`] what that attempt saw.
    pub fn claim(&self, it: &OriginInstance) -> Claim {
        let identity = AttemptIdentity {
            tenant: self.summary.tenant.clone(),
            dag: self.dag.id.clone(),
            run: self.summary.run_id,
            instance: it.instance.clone(),
            generation: it.generation,
            attempt: AttemptNumber(1),
            epoch: it.epoch,
        };
        let seed = instance_seed(self.summary.seed, &it.instance);
        Claim { identity, seed, item: it.item.clone(), end_by: None }
    }
}

impl OriginInstance {
    /// The run that computed its result: `own`, unless that was taken over.
    pub fn computed_by(&self, own: RunId) -> RunId {
        match self.reason {
            Some(Reason::Reused { run } | Reason::Memoized { run, .. }) => run,
            _ => own,
        }
    }
}

impl Store {
    /// Reads a run that has ended, whole.
    ///
    /// # Errors
    /// No such run of that tenant; [`StoreError::RunOpen`] if it has not ended; [`StoreError::Dag`] if this
    /// binary's kinds do not fit its version.
    pub async fn origin(&self, tenant: &TenantId, run: RunId) -> Result<Origin, StoreError> {
        let summary = self.run_summary(tenant, run).await?;
        if !is_terminal(summary.state) {
            return Err(StoreError::RunOpen { run, state: summary.state });
        }
        let pinned = self.pinned(tenant, run).await?;
        let (rows, published) = self.rows_of(tenant, run).await?;
        let mut made: HashMap<(&str, i64, i64, i64), Vec<&artifact::Model>> = HashMap::new();
        for row in &published {
            made.entry((&row.task, row.element, row.generation, row.epoch)).or_default().push(row);
        }
        let read = |row: &task_instance::Model| {
            let key = (row.task.as_str(), row.element, row.generation, row.epoch);
            read_instance(row, made.get(&key).map_or(&[][..], Vec::as_slice))
        };
        let facts = pinned.facts();
        Ok(Origin {
            summary,
            dag: Arc::clone(&pinned.dag),
            params: facts.params().clone(),
            tenant_params: facts.tenant_params().clone(),
            logical_time: facts.logical_time(),
            interval: facts.interval(),
            documents: self.pinned_documents(tenant, run, &pinned.documents).await?,
            instances: rows.iter().map(read).collect::<Result<_, _>>()?,
        })
    }

    /// A run's documents with their paths, beside their texts.
    async fn pinned_documents(
        &self,
        tenant: &TenantId,
        run: RunId,
        texts: &[PinnedText],
    ) -> Result<Vec<PinnedDocument>, StoreError> {
        let pins = run_document::Entity::find()
            .filter(run_document::Column::Tenant.eq(tenant.as_str()))
            .filter(run_document::Column::Run.eq(run.to_string()))
            .all(&self.db)
            .await
            .map_err(StoreError::query("read the pinned documents"))?;
        let mut documents = Vec::with_capacity(pins.len());
        for pin in pins {
            let text = texts.iter().find(|it| it.is_of(&pin.task, pin.element) && it.param == pin.param);
            let text = text.ok_or_else(|| bad("run")(format!("its document {} is not there", pin.digest)))?;
            documents.push(PinnedDocument {
                instance: producer(&pin.task, pin.element)?,
                param: pin.param,
                path: pin.path,
                content: text.content.clone(),
            });
        }
        Ok(documents)
    }
}

fn read_instance(row: &task_instance::Model, made: &[&artifact::Model]) -> Result<OriginInstance, StoreError> {
    let wrong = bad("task instance");
    let state = TaskState::parse(&row.state).ok_or_else(|| wrong(format!("unknown state {:?}", row.state)))?;
    let reason = row.reason.as_deref().map(serde_json::from_str).transpose();
    let outputs = row.outputs.as_deref().map(serde_json::from_str).transpose();
    Ok(OriginInstance {
        instance: producer(&row.task, row.element)?,
        state,
        reason: reason.map_err(|error| wrong(error.to_string()))?,
        outputs: outputs.map_err(|error| wrong(error.to_string()))?,
        item: row.item.clone(),
        artifacts: made.iter().map(|row| read_artifact(row)).collect::<Result<_, _>>()?,
        generation: Generation(row.generation),
        epoch: Epoch(row.epoch),
    })
}
