//! Limits that claims keep: tenants' weights and quotas, and the sizes of pools.
//!
//! Written as the project's files say, by whoever starts to work; read by `claim`. What uses a limit
//! is counted from the running attempts, so nothing here can go stale.

use std::collections::BTreeMap;

use async_trait::async_trait;
use serde_json::json;

use super::dialect::Kind;
use super::rows::{self, param};
use super::tx::{Tx, Write};
use super::{Store, StoreError, tx};
use crate::tenant::TenantSpec;

/// What waits and runs, for gauges.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Load {
    /// Sessions in force.
    pub sessions: u64,
    /// Of them, those whose lease has ended.
    pub expired: u64,
    /// Task instances that wait for a slot.
    pub ready: u64,
    /// Attempts under way.
    pub running: u64,
    /// Task instances that wait for a retry.
    pub retry_wait: u64,
    /// Runs that have not ended.
    pub open_runs: u64,
}

impl Store {
    /// Writes tenants and pools; tenants that are not named stay, pools that are not named go.
    ///
    /// # Errors
    /// The database's.
    pub async fn apply_limits(&self, tenants: &[TenantSpec], pools: &BTreeMap<String, u32>) -> Result<(), StoreError> {
        self.write(&ApplyLimits { tenants, pools }).await
    }

    /// Counts what waits and runs.
    ///
    /// # Errors
    /// The database's.
    pub async fn load(&self) -> Result<Load, StoreError> {
        let tasks = |state: &str| format!("(SELECT COUNT(*) FROM task_instance WHERE state = '{state}')");
        let sql = format!(
            "SELECT (SELECT COUNT(*) FROM worker_session WHERE NOT revoked) AS sessions, \
             (SELECT COUNT(*) FROM worker_session WHERE NOT revoked AND expires_at < {}) AS expired, \
             {} AS ready, {} AS running, {} AS retry_wait, \
             (SELECT COUNT(*) FROM run WHERE state IN ('queued', 'running', 'canceling')) AS open_runs",
            self.dialect.now(),
            tasks("ready"),
            tasks("running"),
            tasks("retry_wait"),
        );
        let found = tx::read(&self.db, "count what waits and runs", &sql, vec![]).await?;
        let row = found.first().ok_or(StoreError::Corrupt { what: "queue", detail: "no count came back".into() })?;
        let count = |column| rows::get::<i64>(row, column).map(|count| u64::try_from(count).unwrap_or(0));
        Ok(Load {
            sessions: count("sessions")?,
            expired: count("expired")?,
            ready: count("ready")?,
            running: count("running")?,
            retry_wait: count("retry_wait")?,
            open_runs: count("open_runs")?,
        })
    }
}

struct ApplyLimits<'a> {
    tenants: &'a [TenantSpec],
    pools: &'a BTreeMap<String, u32>,
}

#[async_trait]
impl Write for ApplyLimits<'_> {
    type Output = ();
    const WHAT: &'static str = "apply the limits";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let mut tenants: Vec<&TenantSpec> = self.tenants.iter().collect();
        tenants.sort_by(|a, b| a.id.cmp(&b.id));
        for tenant in tenants {
            let sql = "INSERT INTO tenant (tenant, status, weight, quotas, running_tasks, parameters, updated_at) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (tenant) DO UPDATE SET \
                       status = excluded.status, weight = excluded.weight, quotas = excluded.quotas, \
                       running_tasks = excluded.running_tasks, parameters = excluded.parameters, \
                       updated_at = excluded.updated_at";
            let values = vec![
                tenant.id.to_string().into(),
                tenant.status.as_str().into(),
                tenant.weight.into(),
                json!(tenant.quotas).to_string().into(),
                tenant.quotas.running_tasks.map(i64::from).into(),
                json!(tenant.parameters).to_string().into(),
                tx.now.into(),
            ];
            tx.execute(Self::WHAT, sql, values).await?;
        }
        let pools = self.pools.iter().map(|(pool, slots)| json!({ "pool": pool, "slots": slots })).collect();
        let source = tx.dialect.rows(1, &[("pool", Kind::Text), ("slots", Kind::Int)]);
        let sql = format!(
            "INSERT INTO pool (pool, slots) SELECT r.pool, r.slots FROM {source} WHERE TRUE \
             ON CONFLICT (pool) DO UPDATE SET slots = excluded.slots"
        );
        let pools = param(pools);
        tx.execute(Self::WHAT, &sql, vec![pools.clone()]).await?;
        let sql = format!("DELETE FROM pool WHERE pool NOT IN (SELECT r.pool FROM {source})");
        tx.execute(Self::WHAT, &sql, vec![pools]).await?;
        Ok(())
    }
}
