//! The model registry as people read it: lists, one version, its decisions.

use sea_orm::QueryResult;
use serde_json::Value;

use super::drill::no_drill;
use super::registry::{VERSION_COLUMNS, read_version};
use super::{Store, StoreError, rows, tx};
use crate::id::{ModelName, TenantId};
use crate::registry::ModelVersion;

/// A version and whose it is.
#[derive(Debug, Clone, PartialEq)]
pub struct ModelRow {
    /// Whose.
    pub tenant: TenantId,
    /// The version.
    pub version: ModelVersion,
}

impl Store {
    /// Model versions of one tenant or of all but drill tenants, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn models(
        &self,
        tenant: Option<&TenantId>,
        name: Option<&ModelName>,
    ) -> Result<Vec<ModelRow>, StoreError> {
        let sql = format!(
            "SELECT tenant, {VERSION_COLUMNS} FROM model_version \
             WHERE (($1 = '' AND {}) OR tenant = $1) AND ($2 = '' OR name = $2) ORDER BY tenant, name, version DESC",
            no_drill("tenant")
        );
        let text = |id: Option<String>| id.unwrap_or_default().into();
        let values = vec![text(tenant.map(TenantId::to_string)), text(name.map(ModelName::to_string))];
        let found = tx::read(&self.db, "read the models", &sql, values).await?;
        found.iter().map(read_row).collect()
    }

    /// The decisions about a model, newest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn decisions(&self, tenant: &TenantId, name: &ModelName) -> Result<Vec<Value>, StoreError> {
        let sql = "SELECT seq, at, run, promoted, from_version, to_version, reason, actor FROM model_decision \
                   WHERE tenant = $1 AND name = $2 ORDER BY seq DESC";
        let values = vec![tenant.to_string().into(), name.to_string().into()];
        let found = tx::read(&self.db, "read the decisions", sql, values).await?;
        found.iter().map(read_decision).collect()
    }
}

fn read_row(row: &QueryResult) -> Result<ModelRow, StoreError> {
    Ok(ModelRow { tenant: rows::parse(row, "tenant", TenantId::parse)?, version: read_version(row)? })
}

fn read_decision(row: &QueryResult) -> Result<Value, StoreError> {
    let at: i64 = rows::get(row, "at")?;
    Ok(serde_json::json!({
        "at": crate::clock::rfc3339(at),
        "run_id": rows::get::<String>(row, "run")?,
        "promoted": rows::get::<bool>(row, "promoted")?,
        "from_version": rows::get::<Option<i64>>(row, "from_version")?,
        "to_version": rows::get::<Option<i64>>(row, "to_version")?,
        "reason": rows::get::<String>(row, "reason")?,
        "actor": rows::get::<String>(row, "actor")?,
    }))
}
