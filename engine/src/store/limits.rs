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
use crate::id::TenantId;
use crate::tenant::{Quotas, TenantSpec};

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

/// A tenant as the database knows it, with what it uses.
#[derive(Debug, Clone, PartialEq)]
pub struct TenantView {
    /// Who.
    pub tenant: TenantId,
    /// `trial`, `active` or `suspended`.
    pub status: String,
    /// Its share of the workers.
    pub weight: f64,
    /// What it may use.
    pub quotas: Quotas,
    /// Runs that wait to start.
    pub queued_runs: u64,
    /// Runs under way.
    pub active_runs: u64,
    /// Attempts under way.
    pub running_tasks: u64,
    /// What its artifacts weigh.
    pub artifact_bytes: u64,
}

impl Store {
    /// Writes tenants and pools; tenants that are not named stay, pools that are not named go.
    ///
    /// # Errors
    /// The database's.
    pub async fn apply_limits(&self, tenants: &[TenantSpec], pools: &BTreeMap<String, u32>) -> Result<(), StoreError> {
        self.write(&ApplyLimits { tenants, pools }).await
    }

    /// Tenants with what they use, by id.
    ///
    /// # Errors
    /// The database's.
    pub async fn tenants(&self) -> Result<Vec<TenantView>, StoreError> {
        let sql = "SELECT n.tenant, n.status, n.weight, n.quotas, \
                   (SELECT COUNT(*) FROM run u WHERE u.tenant = n.tenant AND u.state = 'queued') AS queued, \
                   (SELECT COUNT(*) FROM run u WHERE u.tenant = n.tenant AND u.state IN ('running', 'canceling')) AS active, \
                   (SELECT COUNT(*) FROM task_instance t WHERE t.tenant = n.tenant AND t.state = 'running') AS running, \
                   (SELECT CAST(COALESCE(SUM(a.bytes), 0) AS BIGINT) FROM artifact a WHERE a.tenant = n.tenant \
                   AND a.linked_from IS NULL) AS bytes FROM tenant n ORDER BY n.tenant";
        let found = tx::read(&self.db, "list the tenants", sql, vec![]).await?;
        let one = |row: &sea_orm::QueryResult| {
            let count = |column| rows::get::<i64>(row, column).map(i64::unsigned_abs);
            Ok(TenantView {
                tenant: rows::parse(row, "tenant", TenantId::parse)?,
                status: rows::get(row, "status")?,
                weight: rows::get(row, "weight")?,
                quotas: rows::parse(row, "quotas", |text| serde_json::from_str(text))?,
                queued_runs: count("queued")?,
                active_runs: count("active")?,
                running_tasks: count("running")?,
                artifact_bytes: count("bytes")?,
            })
        };
        found.iter().map(one).collect()
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
            let sql = "INSERT INTO tenant (tenant, status, weight, quotas, running_tasks, parameters, updated_at, retention) \
                       VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (tenant) DO UPDATE SET \
                       status = excluded.status, weight = excluded.weight, quotas = excluded.quotas, \
                       running_tasks = excluded.running_tasks, parameters = excluded.parameters, \
                       updated_at = excluded.updated_at, retention = excluded.retention";
            let values = vec![
                tenant.id.to_string().into(),
                tenant.status.as_str().into(),
                tenant.weight.into(),
                json!(tenant.quotas).to_string().into(),
                tenant.quotas.running_tasks.map(i64::from).into(),
                json!(tenant.parameters).to_string().into(),
                tx.now.into(),
                json!(tenant.retention).to_string().into(),
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
