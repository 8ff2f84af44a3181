//! Artifacts of many runs: all of them in pages, one by its digest, one name through the history of a DAG.
//!
//! Called by `headworks artifacts verify` and `bisect`. Only reads; what a call reads is bounded by its
//! limit, whatever the store holds.

use sea_orm::{FromQueryResult, QueryResult};

use super::entity::artifact;
use super::rows::{element, get, parse};
use super::work::read_artifact;
use super::{Store, StoreError, rows, tx};
use crate::artifact::ArtifactRef;
use crate::id::{ArtifactName, DagId, Digest, InstanceId, RunId, TenantId};

/// A row about an artifact, wherever it is from.
#[derive(Debug, Clone, PartialEq)]
pub struct CatalogEntry {
    /// Whose.
    pub tenant: TenantId,
    /// Of which run.
    pub run: RunId,
    /// Who made it, or took it over.
    pub instance: InstanceId,
    /// The object.
    pub artifact: ArtifactRef,
    generation: i64,
    epoch: i64,
}

/// Which artifacts to go through.
#[derive(Debug, Clone, Default)]
pub struct CatalogScope {
    /// Of one tenant.
    pub tenant: Option<TenantId>,
    /// Of one run.
    pub run: Option<RunId>,
}

/// A run and what it has under one name.
#[derive(Debug, Clone, PartialEq)]
pub struct Sighting {
    /// The run.
    pub run: RunId,
    /// RFC 3339: the moment that the run is about.
    pub logical_time: String,
    /// The object.
    pub artifact: ArtifactRef,
}

impl Store {
    /// Artifacts of all generations in the order of their rows, from the one after `after` on.
    ///
    /// # Errors
    /// The database's.
    pub async fn catalog_page(
        &self,
        scope: &CatalogScope,
        after: Option<&CatalogEntry>,
        limit: u32,
    ) -> Result<Vec<CatalogEntry>, StoreError> {
        let mut values: Vec<sea_orm::Value> = Vec::new();
        let mut conditions = Vec::new();
        if let Some(tenant) = &scope.tenant {
            values.push(tenant.to_string().into());
            conditions.push(format!("a.tenant = ${}", values.len()));
        }
        if let Some(run) = scope.run {
            values.push(run.to_string().into());
            conditions.push(format!("a.run = ${}", values.len()));
        }
        if let Some(it) = after {
            let from = values.len() + 1;
            let numbers: Vec<_> = (from..from + 7).map(|number| format!("${number}")).collect();
            conditions.push(format!(
                "(a.tenant, a.run, a.task, a.element, a.generation, a.name, a.epoch) > ({})",
                numbers.join(", ")
            ));
            values.extend([
                it.tenant.to_string().into(),
                it.run.to_string().into(),
                it.instance.task.to_string().into(),
                element(it.instance.index).into(),
                it.generation.into(),
                it.artifact.name.to_string().into(),
                it.epoch.into(),
            ]);
        }
        let filter = if conditions.is_empty() { "TRUE".to_owned() } else { conditions.join(" AND ") };
        let sql = format!(
            "SELECT a.* FROM artifact a WHERE {filter} \
             ORDER BY a.tenant, a.run, a.task, a.element, a.generation, a.name, a.epoch LIMIT {limit}"
        );
        let found = tx::read(&self.db, "read the artifacts", &sql, values).await?;
        found.iter().map(read_entry).collect()
    }

    /// An artifact on record with these bytes, under another key; of `tenant` only, if one is named.
    ///
    /// # Errors
    /// The database's.
    pub async fn twin_of(
        &self,
        tenant: Option<&TenantId>,
        digest: Digest,
        key: &str,
    ) -> Result<Option<CatalogEntry>, StoreError> {
        let sql = "SELECT a.* FROM artifact a WHERE a.digest = $1 AND a.key <> $2 AND ($3 = '' OR a.tenant = $3) \
                   ORDER BY a.created_at LIMIT 1";
        let tenant = tenant.map(TenantId::to_string).unwrap_or_default();
        let values = vec![digest.to_string().into(), key.into(), tenant.into()];
        let found = tx::read(&self.db, "look for an artifact", sql, values).await?;
        found.first().map(read_entry).transpose()
    }

    /// What successful instances of a task of a DAG have under a name, run by run in the order of what the
    /// runs are about and then of their making. Verifications are left out: they are about themselves.
    ///
    /// # Errors
    /// The database's.
    pub async fn sightings(
        &self,
        (tenant, dag): (&TenantId, &DagId),
        instance: &InstanceId,
        name: &ArtifactName,
    ) -> Result<Vec<Sighting>, StoreError> {
        let sql = "SELECT a.*, u.logical_time FROM run u JOIN task_instance t ON t.tenant = u.tenant AND t.run = u.run \
                   AND t.task = $3 AND t.element = $4 AND t.current AND t.state = 'succeeded' \
                   JOIN artifact a ON a.tenant = t.tenant AND a.run = t.run AND a.task = t.task \
                   AND a.element = t.element AND a.generation = t.generation AND a.epoch = t.epoch AND a.name = $5 \
                   WHERE u.tenant = $1 AND u.dag = $2 AND u.kind <> 'verify' \
                   ORDER BY u.logical_time, u.created_at, u.run";
        let values = vec![
            tenant.to_string().into(),
            dag.to_string().into(),
            instance.task.to_string().into(),
            element(instance.index).into(),
            name.to_string().into(),
        ];
        let found = tx::read(&self.db, "read the history of an artifact", sql, values).await?;
        let read = |row: &QueryResult| {
            let entry = read_entry(row)?;
            let logical_time = crate::clock::rfc3339(get(row, "logical_time")?);
            Ok(Sighting { run: entry.run, logical_time, artifact: entry.artifact })
        };
        found.iter().map(read).collect()
    }
}

fn read_entry(row: &QueryResult) -> Result<CatalogEntry, StoreError> {
    let model = artifact::Model::from_query_result(row, "").map_err(StoreError::query("read an artifact"))?;
    Ok(CatalogEntry {
        tenant: parse(row, "tenant", TenantId::parse)?,
        run: parse(row, "run", RunId::parse)?,
        instance: rows::instance(row)?,
        artifact: read_artifact(&model)?,
        generation: model.generation,
        epoch: model.epoch,
    })
}
