//! What tenants may have: room for queued runs, and the quotas that their rows hold.
//!
//! Called by `schedules`, `triggers`, `backfill` and `admit`, within the transaction that makes or starts
//! runs.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::StoreError;
use super::dialect::Kind;
use super::rows::{self, param};
use super::tx::Tx;
use crate::id::TenantId;
use crate::tenant::Quotas;

/// How many more runs each tenant may queue: who has no such quota is known from the start, of the others one is
/// asked about once per transaction.
pub(super) struct Rooms {
    /// `None` = there is no such quota.
    left: BTreeMap<TenantId, Option<usize>>,
    /// Which of its queued runs count.
    counted: &'static str,
}

impl Rooms {
    /// For live runs of these tenants: what backfills have queued takes nothing from them.
    pub(super) async fn live(tx: &Tx, tenants: impl Iterator<Item = &TenantId>) -> Result<Self, StoreError> {
        Self::of(tx, tenants, " AND backfill IS NULL").await
    }

    /// For backfills, which have what live runs leave.
    pub(super) async fn backfill(tx: &Tx, tenant: &TenantId) -> Result<Self, StoreError> {
        Self::of(tx, std::iter::once(tenant), "").await
    }

    /// Only who has a quota is locked for it, when his turn comes: workers that claim for a tenant lock its row, too.
    async fn of(tx: &Tx, tenants: impl Iterator<Item = &TenantId>, counted: &'static str) -> Result<Self, StoreError> {
        let named: BTreeSet<&TenantId> = tenants.collect();
        let json = named.iter().map(|it| json!({ "tenant": it })).collect();
        let source = tx.dialect.rows(1, &[("tenant", Kind::Text)]);
        let sql = format!("SELECT n.tenant, n.quotas FROM {source} CROSS JOIN tenant n WHERE n.tenant = r.tenant");
        let mut left: BTreeMap<TenantId, Option<usize>> = named.into_iter().map(|it| (it.clone(), None)).collect();
        for row in &tx.all("read the tenants' quotas", &sql, vec![param(json)]).await? {
            if quotas(row)?.queued_runs.is_some() {
                left.remove(&rows::parse(row, "tenant", TenantId::parse)?);
            }
        }
        Ok(Self { left, counted })
    }

    /// How many of `count` more runs a tenant may queue; they are counted.
    pub(super) async fn take(&mut self, tx: &Tx, tenant: &TenantId, count: usize) -> Result<usize, StoreError> {
        let left = match self.left.get(tenant) {
            Some(left) => *left,
            None => self.room(tx, tenant).await?,
        };
        let taken = left.map_or(count, |left| left.min(count));
        self.left.insert(tenant.clone(), left.map(|left| left - taken));
        Ok(taken)
    }

    /// Locks a tenant's quota and counts its queued runs; `None` = it has no such quota.
    async fn room(&self, tx: &Tx, tenant: &TenantId) -> Result<Option<usize>, StoreError> {
        let key = || vec![tenant.to_string().into()];
        let sql = format!("SELECT n.quotas FROM tenant n WHERE n.tenant = $1{}", tx.dialect.lock("n"));
        let found = tx.all("lock a tenant's quota", &sql, key()).await?;
        let Some(quota) = found.first().map(quotas).transpose()?.and_then(|it| it.queued_runs) else { return Ok(None) };
        let sql = format!("SELECT COUNT(*) AS n FROM run WHERE tenant = $1 AND state = 'queued'{}", self.counted);
        let found = tx.all("count the queued runs", &sql, key()).await?;
        let queued = found.first().map_or(Ok(0), |row| rows::count(row, "n"))?;
        Ok(Some(quota.saturating_sub(queued) as usize))
    }
}

/// The quotas of a tenant's row.
pub(super) fn quotas(row: &sea_orm::QueryResult) -> Result<Quotas, StoreError> {
    rows::parse(row, "quotas", |text| serde_json::from_str::<Quotas>(text))
}
