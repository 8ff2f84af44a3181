//! The model registry in the database: changes applied with a finish, and the read port for tasks.
//!
//! `finish` applies what a task asked for in the transaction that records its success; if the
//! champion is no longer the one that the task judged against, nothing is written and the attempt
//! fails as transient, so that the next one judges anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::QueryResult;
use serde_json::json;

use super::dialect::Dialect;
use super::tx::{self, Tx};
use super::{Store, StoreError, rows};
use crate::id::{ModelName, RunId, TenantId};
use crate::plan::Micros;
use crate::registry::{ModelRegistry, ModelStatus, ModelVersion, RegistryChange, RegistryError};
use crate::task::AttemptIdentity;

/// Locks the registry's models of these names until the end of the transaction: versions and decisions are
/// numbered from what is there. SQLite has one writer.
pub(super) async fn lock(tx: &Tx, names: &BTreeSet<(&TenantId, &ModelName)>) -> Result<(), StoreError> {
    if tx.dialect == Dialect::Sqlite {
        return Ok(());
    }
    for (tenant, name) in names {
        let sql = "SELECT pg_advisory_xact_lock(hashtextextended($1, 0))";
        tx.all("lock a model", sql, vec![format!("model {tenant} {name}").into()]).await?;
    }
    Ok(())
}

/// Applies `changes`, to models that are locked; returns why not, if the champion moved meanwhile.
pub(super) async fn apply(
    tx: &Tx,
    identity: &AttemptIdentity,
    changes: &[RegistryChange],
) -> Result<Option<String>, StoreError> {
    for change in changes {
        if let RegistryChange::Promote { name, expected } = change {
            let current = champion_version(tx, &identity.tenant, name).await?;
            if current != *expected {
                let shown = |version: Option<u32>| version.map_or("none".to_owned(), |version| format!("v{version}"));
                let (was, is) = (shown(*expected), shown(current));
                return Ok(Some(format!(
                    "the champion of {name} changed from {was} to {is} while this attempt judged; it judges anew"
                )));
            }
        }
    }
    let mut registered = None;
    for change in changes {
        match change {
            RegistryChange::Register { name, .. } => registered = Some(register(tx, identity, name, change).await?),
            RegistryChange::Promote { name, .. } => {
                let detail = || format!("{name} was to be promoted, but this finish registered no version of it");
                let version =
                    registered.ok_or_else(|| StoreError::Corrupt { what: "registry change", detail: detail() })?;
                swap_champion(tx, &identity.tenant, name, version).await?;
            }
            RegistryChange::Decide { name, .. } => decide(tx, identity, name, change, registered).await?,
        }
    }
    Ok(None)
}

pub(super) async fn champion_version(tx: &Tx, tenant: &TenantId, name: &ModelName) -> Result<Option<u32>, StoreError> {
    let sql = format!(
        "SELECT version FROM model_version WHERE tenant = $1 AND name = $2 AND status = 'champion'{}",
        tx.dialect.lock("model_version")
    );
    let found = tx.all("read the champion", &sql, vec![tenant.to_string().into(), name.to_string().into()]).await?;
    found.first().map(|row| rows::count(row, "version")).transpose()
}

async fn register(
    tx: &Tx,
    identity: &AttemptIdentity,
    name: &ModelName,
    change: &RegistryChange,
) -> Result<u32, StoreError> {
    let RegistryChange::Register { artifact, metadata, .. } = change else { return Ok(0) };
    let sql = "INSERT INTO model_version (tenant, name, version, status, run, artifact, metadata, created_at) \
               SELECT $1, $2, COALESCE(MAX(version), 0) + 1, $3, $4, $5, $6, $7 FROM model_version \
               WHERE tenant = $1 AND name = $2 RETURNING version";
    let values = vec![
        identity.tenant.to_string().into(),
        name.to_string().into(),
        ModelStatus::Candidate.as_str().into(),
        identity.run.to_string().into(),
        json!(artifact).to_string().into(),
        metadata.to_string().into(),
        tx.now.into(),
    ];
    let found = tx.all("register a model version", sql, values).await?;
    let row =
        found.first().ok_or(StoreError::Corrupt { what: "model version", detail: "no number came back".into() })?;
    rows::count(row, "version")
}

/// Makes a version the champion in place of whoever is.
pub(super) async fn swap_champion(
    tx: &Tx,
    tenant: &TenantId,
    name: &ModelName,
    version: u32,
) -> Result<(), StoreError> {
    // The old champion steps down first: a unique index allows one at a time.
    let moves = [
        ("UPDATE model_version SET status = 'archived' WHERE tenant = $1 AND name = $2 AND status = 'champion' \
          AND version <> $3"),
        ("UPDATE model_version SET status = 'champion' WHERE tenant = $1 AND name = $2 AND version = $3"),
    ];
    for sql in moves {
        let values = vec![tenant.to_string().into(), name.to_string().into(), i64::from(version).into()];
        tx.execute("swap the champion", sql, values).await?;
    }
    Ok(())
}

async fn decide(
    tx: &Tx,
    identity: &AttemptIdentity,
    name: &ModelName,
    change: &RegistryChange,
    registered: Option<u32>,
) -> Result<(), StoreError> {
    let RegistryChange::Decide { promoted, reason, decision, .. } = change else { return Ok(()) };
    let from = decision.get("from_version").and_then(serde_json::Value::as_i64);
    let it = Decision {
        run: identity.run.to_string(),
        promoted: *promoted,
        from,
        to: registered.map(i64::from),
        reason,
        decision,
        actor: format!("task {}", identity.instance),
    };
    append(tx, (&identity.tenant, name), it).await
}

/// A decision about a model, as its row has it.
pub(super) struct Decision<'a> {
    /// The run that it is about.
    pub(super) run: String,
    pub(super) promoted: bool,
    pub(super) from: Option<i64>,
    pub(super) to: Option<i64>,
    pub(super) reason: &'a str,
    /// Figures and rules: JSON.
    pub(super) decision: &'a serde_json::Value,
    pub(super) actor: String,
}

/// Appends a decision to those about a model.
pub(super) async fn append(
    tx: &Tx,
    (tenant, name): (&TenantId, &ModelName),
    it: Decision<'_>,
) -> Result<(), StoreError> {
    let sql = "INSERT INTO model_decision (tenant, name, seq, at, run, promoted, from_version, to_version, reason, \
               decision, actor) \
               SELECT $1, $2, COALESCE(MAX(seq), 0) + 1, $3, $4, $5, $6, $7, $8, $9, $10 FROM model_decision \
               WHERE tenant = $1 AND name = $2";
    let values = vec![
        tenant.to_string().into(),
        name.to_string().into(),
        tx.now.into(),
        it.run.into(),
        it.promoted.into(),
        it.from.into(),
        it.to.into(),
        it.reason.into(),
        it.decision.to_string().into(),
        it.actor.into(),
    ];
    tx.execute("record a decision", sql, values).await?;
    Ok(())
}

/// The columns of [`read_version`].
pub(super) const VERSION_COLUMNS: &str = "name, version, status, run, artifact, metadata";

/// A stored row as a model version.
pub(super) fn read_version(row: &QueryResult) -> Result<ModelVersion, StoreError> {
    Ok(ModelVersion {
        name: rows::parse(row, "name", ModelName::parse)?,
        version: rows::count(row, "version")?,
        status: rows::parse(row, "status", |word| ModelStatus::parse(word).ok_or("no such status"))?,
        run_id: rows::parse(row, "run", RunId::parse)?,
        artifact: rows::parse(row, "artifact", |text| serde_json::from_str(text))?,
        metadata: rows::get_json(row, "metadata")?,
    })
}

/// One tenant's registry, for its tasks to read.
pub struct TenantRegistry {
    store: Arc<Store>,
    tenant: TenantId,
    at: Option<Micros>,
}

impl TenantRegistry {
    /// The registry of `tenant`, as it is; with `at`, as it was then (microseconds since 1970).
    pub fn new(store: Arc<Store>, tenant: TenantId, at: Option<Micros>) -> Self {
        Self { store, tenant, at }
    }
}

#[async_trait]
impl ModelRegistry for TenantRegistry {
    async fn champion(&self, name: &ModelName) -> Result<Option<ModelVersion>, RegistryError> {
        let mut values: Vec<sea_orm::Value> = vec![self.tenant.to_string().into(), name.to_string().into()];
        let which = match self.at {
            None => "status = 'champion'",
            // Each promotion leaves a decision in its transaction: the last one of that time made the champion.
            Some(at) => {
                values.push(at.into());
                "version = (SELECT d.to_version FROM model_decision d WHERE d.tenant = $1 AND d.name = $2 \
                 AND d.promoted AND d.at <= $3 ORDER BY d.seq DESC LIMIT 1)"
            }
        };
        let sql = format!("SELECT {VERSION_COLUMNS} FROM model_version WHERE tenant = $1 AND name = $2 AND {which}");
        let found = tx::read(&self.store.db, "read the champion", &sql, values).await;
        let found = found.map_err(|error| RegistryError(Box::new(error)))?;
        let champion = found.first().map(read_version).transpose();
        let champion = champion.map_err(|error| RegistryError(Box::new(error)))?;
        // It may have stepped down since; then it was the champion.
        Ok(champion.map(|version| ModelVersion { status: ModelStatus::Champion, ..version }))
    }
}
