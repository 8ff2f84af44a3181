//! Claiming: ready task instances become attempts of a session, each under a new epoch.
//!
//! Which tenants get the free slots is decided by [`share`] (pure, in `plan`); which of a tenant's
//! ready instances, by priority, the run's deadline and age, is read from an index. Postgres locks with SKIP LOCKED, so
//! claimers never wait for each other; SQLite has one writer. Slots of pools and of tenants' quotas
//! are held by running attempts and counted from them: there is no counter to leak. Two claimers can
//! not exceed one, since each locks the limit's row before it counts.
//!
//! The epoch that a claim raises is the fencing token of every later write for the attempt.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use serde_json::json;

use super::dialect::Kind;
use super::drill::no_drill;
use super::held::{HELD, Held};
use super::rows::{self, InstanceKey, Rows, param};
use super::tx::{Tx, Write};
use super::unit::UnitOfWork;
use super::{Store, StoreError};
use crate::failpoint;
use crate::id::{RunId, SessionId, TenantId};
use crate::plan::{Micros, TenantLoad, share};
use crate::task::AttemptIdentity;

/// Whose ready task instances to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimScope {
    /// Anyone's, but for drill tenants: what goes wrong in a drill goes wrong with the process that executes it, and
    /// no worker that others rely on takes part.
    Any,
    /// One run's.
    Run {
        /// Whose.
        tenant: TenantId,
        /// Which.
        run: RunId,
    },
}

impl ClaimScope {
    /// Whether an instance is within it.
    pub(super) fn contains(&self, key: &InstanceKey) -> bool {
        match self {
            Self::Any => !key.tenant.is_drill(),
            Self::Run { tenant, run } => key.tenant == *tenant && key.run == *run,
        }
    }
}

/// What a session asks for.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Who will hold the attempts.
    pub session: SessionId,
    /// Whose tasks.
    pub scope: ClaimScope,
    /// Free slots.
    pub limit: usize,
    /// Slots that each tenant used lately on this worker, as an average; who used many waits.
    pub lately: BTreeMap<TenantId, f64>,
}

/// A claimed attempt: recorded before it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which attempt, under which epoch.
    pub identity: AttemptIdentity,
    /// The task instance's seed.
    pub seed: u64,
    /// The element of a `for_each`, as JSON.
    pub item: Option<String>,
    /// When the instance has to end, over all its attempts.
    pub end_by: Option<Micros>,
}

impl Store {
    /// Claims up to `request.limit` ready task instances: tenants by fair share, then by priority and
    /// age. Fewer than asked for means that nothing else may start now.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<Vec<Claim>, StoreError> {
        if request.limit == 0 {
            return Ok(Vec::new());
        }
        let claims = self.write(&ClaimReady { store: self, request }).await?;
        if !claims.is_empty() {
            failpoint::hit("claim.after_commit").await.map_err(StoreError::injected)?;
        }
        Ok(claims)
    }
}

struct ClaimReady<'a> {
    store: &'a Store,
    request: &'a ClaimRequest,
}

#[async_trait]
impl Write for ClaimReady<'_> {
    type Output = Vec<Claim>;
    const WHAT: &'static str = "claim ready task instances";

    async fn apply(&self, tx: &Tx) -> Result<Vec<Claim>, StoreError> {
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        let claims = claim_into(&mut unit, self.request, self.request.limit).await?;
        unit.flush().await?;
        Ok(claims)
    }
}

/// Claims within a unit of work, of what the database has ready and of what the unit itself has made ready; the
/// caller flushes the claims, and with them whatever the unit has moved before.
///
/// What a unit has made ready it did by a report of this session, whose fence held: it may have it.
pub(super) async fn claim_into(
    unit: &mut UnitOfWork<'_>,
    request: &ClaimRequest,
    limit: usize,
) -> Result<Vec<Claim>, StoreError> {
    let mut claims = Vec::new();
    let mut limits = Limits::default();
    if let ClaimScope::Run { tenant, .. } = &request.scope {
        return claim_of(unit, request, tenant, limit, &mut limits).await;
    }
    let loads = loads(unit, request).await?;
    let without = loads.iter().filter(|load| load.quota.is_none());
    limits.tenants.extend(without.map(|load| (load.tenant.clone(), None)));
    let mut left = limit;
    // Who is given more slots than it has ready tasks leaves some to the others.
    let mut drained = BTreeSet::new();
    while left > 0 {
        let open: Vec<TenantLoad> = loads.iter().filter(|load| !drained.contains(&load.tenant)).cloned().collect();
        if open.is_empty() {
            break;
        }
        for (tenant, slots) in share(&open, left) {
            let got = claim_of(unit, request, &tenant, slots, &mut limits).await?;
            left -= got.len();
            if got.len() < slots {
                drained.insert(tenant);
            }
            claims.extend(got);
        }
        if drained.is_empty() {
            break;
        }
    }
    Ok(claims)
}

/// Tenants that have something ready, with what they use.
async fn loads(unit: &UnitOfWork<'_>, request: &ClaimRequest) -> Result<Vec<TenantLoad>, StoreError> {
    let made_ready = unit.ready(Vec::new(), |held| request.scope.contains(&held.key));
    let mut others = Rows::default();
    for tenant in made_ready.iter().map(|key| &key.tenant).collect::<BTreeSet<_>>() {
        others.push([("tenant", tenant.as_str().into())]);
    }
    let dialect = unit.tx.dialect;
    let also = match others.is_empty() {
        true => String::new(),
        false => format!(" UNION SELECT r.tenant FROM {}", others.table(dialect, 0)),
    };
    // A walk from tenant to tenant along the index, whatever number of tasks each has ready.
    let sql = format!(
        "WITH RECURSIVE queue (tenant) AS (\
         SELECT MIN(tenant) FROM task_instance WHERE state = 'ready' UNION ALL \
         SELECT (SELECT MIN(t.tenant) FROM task_instance t WHERE t.state = 'ready' AND t.tenant > queue.tenant) \
         FROM queue WHERE queue.tenant IS NOT NULL) \
         SELECT q.tenant, COALESCE(n.weight, 1.0) AS weight, n.running_tasks, \
         (SELECT COUNT(*) FROM task_instance t WHERE t.state = 'running' AND t.tenant = q.tenant) AS running \
         FROM (SELECT tenant FROM queue{also}) q LEFT JOIN tenant n ON n.tenant = q.tenant \
         WHERE q.tenant IS NOT NULL AND {} ORDER BY q.tenant",
        no_drill("q.tenant")
    );
    let found = unit.tx.all("read who has ready tasks", &sql, others.into_params(dialect)).await?;
    let mut loads = Vec::with_capacity(found.len());
    for row in &found {
        let tenant = rows::parse(row, "tenant", TenantId::parse)?;
        let quota: Option<i64> = rows::get(row, "running_tasks")?;
        let freed = u32::try_from(unit.freed_of(&tenant)).unwrap_or(u32::MAX);
        loads.push(TenantLoad {
            weight: rows::get(row, "weight")?,
            running: rows::count(row, "running")?.saturating_sub(freed),
            lately: request.lately.get(&tenant).copied().unwrap_or(0.0),
            quota: quota.and_then(|quota| u32::try_from(quota).ok()),
            tenant,
        });
    }
    Ok(loads)
}

/// Limits that this transaction has locked, and the slots that are left of each.
#[derive(Default)]
struct Limits {
    /// What was claimed of each tenant; the database has it ready still.
    claimed: BTreeMap<TenantId, usize>,
    tenants: BTreeMap<TenantId, Option<usize>>,
    pools: BTreeMap<String, Option<usize>>,
}

/// Claims up to `slots` of one tenant's ready instances.
async fn claim_of(
    unit: &mut UnitOfWork<'_>,
    request: &ClaimRequest,
    tenant: &TenantId,
    slots: usize,
    limits: &mut Limits,
) -> Result<Vec<Claim>, StoreError> {
    let mut claims = Vec::new();
    let mut exhausted: BTreeSet<String> = BTreeSet::new();
    while claims.len() < slots {
        let room = limits.tenant(unit, tenant).await?.unwrap_or(usize::MAX);
        let wanted = (slots - claims.len()).min(room);
        if wanted == 0 {
            break;
        }
        let claimed = limits.claimed.get(tenant).copied().unwrap_or(0);
        let candidates = pick(unit, request, tenant, (wanted, claimed), &exhausted).await?;
        let (found, known) = (candidates.len(), exhausted.len());
        // In the order of their names, so that two claimers do not wait for each other in a circle.
        let pools: BTreeSet<String> = candidates.iter().filter_map(|key| unit.get(key)?.pool.clone()).collect();
        for pool in &pools {
            limits.pool(unit, pool).await?;
        }
        for key in candidates {
            let pool = unit.get(&key).and_then(|held| held.pool.clone());
            if let Some(pool) = pool {
                match limits.pool(unit, &pool).await? {
                    Some(0) => {
                        exhausted.insert(pool);
                        continue;
                    }
                    Some(left) => limits.pools.insert(pool, Some(left - 1)),
                    None => None,
                };
            }
            if let Some(Some(left)) = limits.tenants.get_mut(tenant) {
                *left -= 1;
            }
            claims.push(unit.claim(&key, request.session)?);
            *limits.claimed.entry(tenant.clone()).or_default() += 1;
        }
        // Fewer than wanted: nothing else is ready. More may be behind those of a pool that is full.
        if found < wanted || exhausted.len() == known {
            break;
        }
    }
    Ok(claims)
}

/// Locks the next ready instances of a tenant, without those of `exhausted` pools and the `claimed`.
async fn pick(
    unit: &mut UnitOfWork<'_>,
    request: &ClaimRequest,
    tenant: &TenantId,
    (wanted, claimed): (usize, usize),
    exhausted: &BTreeSet<String>,
) -> Result<Vec<InstanceKey>, StoreError> {
    let dialect = unit.tx.dialect;
    let mut values: Vec<sea_orm::Value> = vec![
        tenant.to_string().into(),
        i64::try_from(wanted + claimed).unwrap_or(i64::MAX).into(),
        request.session.to_string().into(),
    ];
    // A session that was revoked, or that never was, claims nothing.
    let mut filter = " AND EXISTS (SELECT 1 FROM worker_session s WHERE s.session = $3 AND NOT s.revoked)".to_owned();
    if let ClaimScope::Run { run, .. } = &request.scope {
        values.push(run.to_string().into());
        filter.push_str(" AND t.run = $4");
    }
    if !exhausted.is_empty() {
        values.push(param(exhausted.iter().map(|pool| json!({ "pool": pool })).collect()));
        let n = u8::try_from(values.len()).unwrap_or(u8::MAX);
        let full = dialect.rows(n, &[("pool", Kind::Text)]);
        filter.push_str(&format!(" AND (t.pool IS NULL OR t.pool NOT IN (SELECT r.pool FROM {full}))"));
    }
    let sql = format!(
        "SELECT {HELD} FROM task_instance t WHERE t.state = 'ready' AND t.tenant = $1{filter} \
         ORDER BY t.priority DESC, t.due_by, t.ready_at, t.run, t.ordinal LIMIT $2{}",
        dialect.skip_locked()
    );
    let keys = unit.lock("pick ready task instances", &sql, values).await?;
    let is_full = |held: &Held| held.pool.as_ref().is_some_and(|pool| exhausted.contains(pool));
    let mut ready =
        unit.ready(keys, |held| held.key.tenant == *tenant && request.scope.contains(&held.key) && !is_full(held));
    ready.truncate(wanted);
    Ok(ready)
}

impl Limits {
    /// Slots left of a tenant's quota; `None` = it has none.
    async fn tenant(&mut self, unit: &UnitOfWork<'_>, tenant: &TenantId) -> Result<Option<usize>, StoreError> {
        if let Some(known) = self.tenants.get(tenant) {
            return Ok(*known);
        }
        let sql = format!(
            "SELECT n.running_tasks FROM tenant n WHERE n.tenant = $1 AND n.running_tasks IS NOT NULL{}",
            unit.tx.dialect.lock("n")
        );
        let found = unit.tx.all("lock a tenant's quota", &sql, vec![tenant.to_string().into()]).await?;
        let left = match found.first() {
            None => None,
            Some(row) => {
                let sql = "SELECT COUNT(*) AS used FROM task_instance WHERE state = 'running' AND tenant = $1";
                Some(
                    left(rows::get(row, "running_tasks")?, unit.tx, (sql, tenant.as_str()), unit.freed_of(tenant))
                        .await?,
                )
            }
        };
        self.tenants.insert(tenant.clone(), left);
        Ok(left)
    }

    /// Slots left of a pool; `None` = nobody has set its size.
    async fn pool(&mut self, unit: &UnitOfWork<'_>, pool: &str) -> Result<Option<usize>, StoreError> {
        if let Some(known) = self.pools.get(pool) {
            return Ok(*known);
        }
        let sql = format!("SELECT p.slots FROM pool p WHERE p.pool = $1{}", unit.tx.dialect.lock("p"));
        let found = unit.tx.all("lock a pool", &sql, vec![pool.into()]).await?;
        let left = match found.first() {
            None => None,
            Some(row) => {
                let sql = "SELECT COUNT(*) AS used FROM task_instance WHERE state = 'running' AND pool = $1";
                Some(left(rows::get(row, "slots")?, unit.tx, (sql, pool), unit.freed_in(pool)).await?)
            }
        };
        self.pools.insert(pool.to_owned(), left);
        Ok(left)
    }
}

/// What is left of `slots` beside those that `sql` counts, without the `freed`.
async fn left(slots: i64, tx: &Tx, (sql, name): (&str, &str), freed: usize) -> Result<usize, StoreError> {
    let found = tx.all("count the slots in use", sql, vec![name.into()]).await?;
    let used: i64 = found.first().map_or(Ok(0), |row| rows::get(row, "used"))?;
    let freed = i64::try_from(freed).unwrap_or(i64::MAX);
    Ok(usize::try_from(slots - used.saturating_sub(freed)).unwrap_or(0))
}

/// The key of an attempt's task instance.
pub(super) fn key_of(identity: &AttemptIdentity) -> InstanceKey {
    InstanceKey {
        tenant: identity.tenant.clone(),
        run: identity.run,
        instance: identity.instance.clone(),
        generation: identity.generation,
    }
}
