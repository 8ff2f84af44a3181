//! Starting queued runs: as many as each tenant, DAG and backfill may have active, the longest due first.
//!
//! Live runs and each backfill are lanes of their own: a backfill never takes the place of a live run.
//! The row of `schedule` is locked first, then the runs are counted, so two schedulers can not start one
//! too many. What keeps a run back is a value, [`QueueReason`], which `admit` and the reader share.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sea_orm::QueryResult;
use serde_json::json;

use super::alerts::{AlertKind, NewAlert, raise};
use super::create::{Starting, start_runs};
use super::dialect::{Column, Dialect, Kind};
use super::rooms::quotas;
use super::rows::{self, param};
use super::schedules::NOT_PAUSED;
use super::tx::{Tx, Write};
use super::{Store, StoreError, tx};
use crate::dag::Overlap;
use crate::id::{BackfillId, DagId, Digest, RunId, TenantId};
use crate::plan::QueueReason;

/// Pairs of tenant and DAG that one transaction looks at.
const PAIRS_AT_ONCE: usize = 50;
/// Runs that one lane starts in one transaction, where it has no limit of its own.
const STARTS_AT_ONCE: u32 = 20;
/// Runs that one transaction starts before it leaves the rest to the next: others wait for its locks.
const BUDGET: usize = 200;

/// What a round did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Admitted {
    /// Runs that started.
    pub started: Vec<(TenantId, RunId)>,
    /// Runs that an overlap policy ends; the caller cancels them.
    pub to_cancel: Vec<(TenantId, RunId)>,
}

/// A tenant and a DAG of which runs are queued, locked.
struct Pair {
    tenant: TenantId,
    dag: DagId,
    max_active: Option<u32>,
    overlap: Overlap,
    /// What the tenant's artifacts may weigh.
    quota: Option<u64>,
}

/// The columns of [`Pair::json`].
const PAIR: [Column; 2] = [("tenant", Kind::Text), ("dag", Kind::Text)];

impl Pair {
    fn json(&self) -> serde_json::Value {
        json!({ "tenant": self.tenant, "dag": self.dag })
    }
}

impl Store {
    /// Starts queued runs whose turn has come.
    ///
    /// # Errors
    /// The database's.
    pub async fn admit(&self) -> Result<Admitted, StoreError> {
        let mut all = Admitted::default();
        for chunk in self.queued_pairs().await?.chunks(PAIRS_AT_ONCE) {
            let found = match self.write(&Admit { store: self, pairs: chunk }).await {
                Ok(found) => found,
                Err(error) if error.is_unavailable() => return Err(error),
                // What is wrong with one of these must not hold up the others.
                Err(error) => {
                    tracing::warn!(%error, "can not start some of what is queued");
                    continue;
                }
            };
            all.started.extend(found.started);
            all.to_cancel.extend(found.to_cancel);
        }
        if !all.started.is_empty() {
            self.wake();
        }
        Ok(all)
    }

    /// Why a run is queued; `None` = it is not, or its turn has come.
    ///
    /// # Errors
    /// The database's.
    pub async fn queue_reason(&self, tenant: &TenantId, run: RunId) -> Result<Option<QueueReason>, StoreError> {
        let sql = format!(
            "SELECT u.backfill, u.start_at, {} AS now, n.status, n.quotas, s.max_active, b.state AS backfill_state, \
             b.max_active AS backfill_max, {NOT_PAUSED} AS is_open, \
             (SELECT COUNT(*) FROM run a WHERE a.tenant = u.tenant AND a.dag = u.dag \
             AND a.state IN ('running', 'canceling') AND a.backfill IS NOT DISTINCT FROM u.backfill) AS active, \
             (SELECT CAST(COALESCE(SUM(f.bytes), 0) AS BIGINT) FROM artifact f WHERE f.tenant = u.tenant AND f.linked_from IS NULL) AS bytes \
             FROM run u JOIN schedule s ON s.tenant = u.tenant AND s.dag = u.dag \
             JOIN tenant n ON n.tenant = u.tenant \
             LEFT JOIN backfill b ON b.tenant = u.tenant AND b.backfill = u.backfill \
             WHERE u.tenant = $1 AND u.run = $2 AND u.state = 'queued'",
            self.dialect.now()
        );
        let values = vec![tenant.to_string().into(), run.to_string().into()];
        let found = tx::read(&self.db, "read why a run is queued", &sql, values).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let status: String = rows::get(row, "status")?;
        let backfill: Option<String> = rows::get(row, "backfill")?;
        let limit: Option<i64> = rows::get(row, if backfill.is_some() { "backfill_max" } else { "max_active" })?;
        let (active, used): (i64, i64) = (rows::get(row, "active")?, sum(row, "bytes")?);
        let start_at: i64 = rows::get(row, "start_at")?;
        Ok(if status == "suspended" {
            Some(QueueReason::TenantSuspended)
        } else if start_at > rows::get(row, "now")? {
            Some(QueueReason::NotBefore { at: start_at })
        } else if !rows::get::<bool>(row, "is_open")? {
            Some(QueueReason::Paused)
        } else if rows::get::<Option<String>>(row, "backfill_state")?.is_some_and(|state| state == "paused") {
            Some(QueueReason::BackfillPaused)
        } else if let Some(reason) = over_quota(quotas(row)?.artifact_bytes, used) {
            Some(reason)
        } else {
            limit.filter(|limit| active >= *limit).map(|limit| QueueReason::ActiveRuns { active, limit })
        })
    }

    /// Pairs of which a queued run may start, as far as one read can tell: by a walk along the index,
    /// whatever number each has. Who waits for an active run to end is not looked at each time.
    async fn queued_pairs(&self) -> Result<Vec<(TenantId, DagId)>, StoreError> {
        let first = "SELECT u.tenant, u.dag FROM run u WHERE u.state = 'queued'";
        let sql = format!(
            "WITH RECURSIVE pair (tenant, dag) AS (\
             SELECT * FROM ({first} ORDER BY u.tenant, u.dag LIMIT 1) AS f UNION ALL \
             SELECT (SELECT u.tenant FROM run u WHERE u.state = 'queued' AND (u.tenant, u.dag) > (pair.tenant, pair.dag) \
             ORDER BY u.tenant, u.dag LIMIT 1), \
             (SELECT u.dag FROM run u WHERE u.state = 'queued' AND (u.tenant, u.dag) > (pair.tenant, pair.dag) \
             ORDER BY u.tenant, u.dag LIMIT 1) FROM pair WHERE pair.tenant IS NOT NULL) \
             SELECT s.tenant, s.dag FROM pair CROSS JOIN schedule s CROSS JOIN tenant n \
             WHERE s.tenant = pair.tenant AND s.dag = pair.dag AND n.tenant = s.tenant AND n.status <> 'suspended' AND {NOT_PAUSED} \
             AND (s.max_active IS NULL OR s.overlap <> 'queue' OR s.max_active > (SELECT COUNT(*) FROM run a \
             WHERE a.tenant = s.tenant AND a.dag = s.dag AND a.state IN ('running', 'canceling') \
             AND a.backfill IS NULL) OR EXISTS (SELECT 1 FROM backfill b WHERE b.tenant = s.tenant \
             AND b.dag = s.dag AND b.state = 'running')) ORDER BY s.tenant, s.dag"
        );
        let found = tx::read(&self.db, "read what is queued", &sql, vec![]).await?;
        let pair = |row| Ok((rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "dag", DagId::parse)?));
        found.iter().map(pair).collect()
    }
}

fn over_quota(quota: Option<u64>, used: i64) -> Option<QueueReason> {
    let used = used.unsigned_abs();
    quota.filter(|quota| used >= *quota).map(|quota| QueueReason::ArtifactBytes { used, quota })
}

/// A sum, which Postgres gives as NUMERIC.
fn sum(row: &QueryResult, column: &str) -> Result<i64, StoreError> {
    rows::get::<i64>(row, column)
}

/// What starting a run takes; `u` is the run.
const PICK: &str = "SELECT u.tenant, u.run, u.dag_version, u.seed, u.priority, u.deadline_at FROM run u";

struct Admit<'a> {
    store: &'a Store,
    pairs: &'a [(TenantId, DagId)],
}

#[async_trait]
impl Write for Admit<'_> {
    type Output = Admitted;
    const WHAT: &'static str = "start queued runs";

    async fn apply(&self, tx: &Tx) -> Result<Admitted, StoreError> {
        let mut admitted = Admitted::default();
        let mut starting = Vec::new();
        let mut weighed = BTreeMap::new();
        let mut pairs = Vec::new();
        for pair in self.lock(tx).await? {
            if !is_over_quota(tx, &pair, &mut weighed).await? {
                pairs.push(pair);
            }
        }
        // Counted after the lock, in a statement of its own: what another scheduler has started is seen.
        let active = live_active(tx, &pairs).await?;
        let active = |pair: &Pair| active.get(&(pair.tenant.clone(), pair.dag.clone())).copied().unwrap_or(0);
        let room = |pair: &Pair| pair.max_active.map_or(STARTS_AT_ONCE, |limit| limit.saturating_sub(active(pair)));
        let is_plain = |pair: &Pair| pair.overlap == Overlap::Queue || pair.max_active.is_none();
        let plain = pairs.iter().filter(|it| is_plain(it)).map(|it| (it, room(it).min(STARTS_AT_ONCE))).collect();
        starting.extend(self.pick_live(tx, plain).await?);
        for pair in pairs.iter().filter(|it| !is_plain(it)) {
            if starting.len() >= BUDGET {
                break;
            }
            starting.extend(self.overlapping(tx, pair, room(pair), &mut admitted).await?);
        }
        for (pair, backfill, limit) in backfills(tx, &pairs).await? {
            if starting.len() >= BUDGET {
                break;
            }
            let room = limit.saturating_sub(backfill_active(tx, pair, backfill).await?);
            starting.extend(self.pick(tx, pair, Some(backfill), (room.min(STARTS_AT_ONCE), "ASC")).await?);
        }
        if starting.is_empty() {
            return Ok(admitted);
        }
        admitted.started = starting.iter().map(|it| (it.tenant.clone(), it.run)).collect();
        start_runs(self.store, tx, starting).await?;
        Ok(admitted)
    }
}

impl Admit<'_> {
    /// Locks the rows of pairs that may start anything; another scheduler looks at those it has locked.
    async fn lock(&self, tx: &Tx) -> Result<Vec<Pair>, StoreError> {
        let named = self.pairs.iter().map(|(tenant, dag)| json!({ "tenant": tenant, "dag": dag })).collect();
        let skip = if tx.dialect.skip_locked().is_empty() { "" } else { " FOR UPDATE OF s SKIP LOCKED" };
        let sql = format!(
            "SELECT s.tenant, s.dag, s.max_active, s.overlap, n.quotas FROM {} \
             JOIN schedule s ON s.tenant = r.tenant AND s.dag = r.dag JOIN tenant n ON n.tenant = s.tenant \
             WHERE n.status <> 'suspended' AND {NOT_PAUSED} ORDER BY s.tenant, s.dag{skip}",
            tx.dialect.rows(1, &PAIR)
        );
        let found = tx.all("lock what is queued", &sql, vec![param(named)]).await?;
        let pair = |row: &QueryResult| {
            let limit: Option<i64> = rows::get(row, "max_active")?;
            Ok(Pair {
                tenant: rows::parse(row, "tenant", TenantId::parse)?,
                dag: rows::parse(row, "dag", DagId::parse)?,
                max_active: limit.and_then(|limit| u32::try_from(limit).ok()),
                overlap: rows::parse(row, "overlap", |word| Overlap::parse(word).ok_or("unknown policy"))?,
                quota: quotas(row)?.artifact_bytes,
            })
        };
        found.iter().map(pair).collect()
    }

    /// The live runs that start of pairs where they queue: of each the next ones, as many as said.
    async fn pick_live(&self, tx: &Tx, mut lanes: Vec<(&Pair, u32)>) -> Result<Vec<Starting>, StoreError> {
        lanes.retain(|(_, room)| *room > 0);
        if tx.dialect == Dialect::Sqlite {
            let mut starting = Vec::new();
            for (pair, room) in lanes {
                if starting.len() >= BUDGET {
                    break;
                }
                starting.extend(self.pick(tx, pair, None, (room, "ASC")).await?);
            }
            return Ok(starting);
        }
        if lanes.is_empty() {
            return Ok(Vec::new());
        }
        let columns = [("tenant", Kind::Text), ("dag", Kind::Text), ("room", Kind::Int)];
        let sql = format!(
            "SELECT p.* FROM {} CROSS JOIN LATERAL ({PICK} WHERE u.tenant = r.tenant AND u.dag = r.dag \
             AND u.state = 'queued' AND u.backfill IS NULL AND u.start_at <= $2 \
             ORDER BY u.queue_rank, u.run LIMIT r.room FOR UPDATE) AS p LIMIT {BUDGET}",
            tx.dialect.rows(1, &columns)
        );
        let named =
            lanes.iter().map(|(it, room)| json!({ "tenant": it.tenant, "dag": it.dag, "room": room })).collect();
        let found = tx.all("pick queued runs", &sql, vec![param(named), tx.now.into()]).await?;
        self.starting(tx, &found).await
    }

    /// The live runs of a pair that start where they do not queue, after its policy for overlaps.
    async fn overlapping(
        &self,
        tx: &Tx,
        pair: &Pair,
        room: u32,
        admitted: &mut Admitted,
    ) -> Result<Vec<Starting>, StoreError> {
        let limit = pair.max_active.unwrap_or(STARTS_AT_ONCE);
        if pair.overlap == Overlap::CancelOlder {
            // The newest ones start; who is older, and waits or runs, makes room. Who ends already, does.
            admitted.to_cancel.extend(self.beyond(tx, pair, limit, "queue_rank DESC").await?);
            let newest = self.pick(tx, pair, None, (limit, "DESC")).await?;
            let running = running(tx, pair).await?;
            let surplus = (running + newest.len()).saturating_sub(limit as usize);
            admitted.to_cancel.extend(oldest_active(tx, pair, surplus).await?);
            return Ok(newest.into_iter().take(room as usize).collect());
        }
        let beyond = self.beyond(tx, pair, room, "queue_rank").await?;
        let mut starting = self.pick(tx, pair, None, (room.min(STARTS_AT_ONCE), "ASC")).await?;
        starting.retain(|it| !beyond.contains(&(it.tenant.clone(), it.run)));
        admitted.to_cancel.extend(beyond);
        Ok(starting)
    }

    /// The next queued runs of a lane, locked.
    async fn pick(
        &self,
        tx: &Tx,
        pair: &Pair,
        lane: Option<BackfillId>,
        (limit, order): (u32, &str),
    ) -> Result<Vec<Starting>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        let within = if lane.is_some() { "u.backfill = $3" } else { "u.backfill IS NULL AND $3 IS NULL" };
        let sql = format!(
            "{PICK} WHERE u.tenant = $1 AND u.dag = $2 AND u.state = 'queued' AND {within} \
             AND u.start_at <= $5 ORDER BY u.queue_rank {order}, u.run LIMIT $4{}",
            tx.dialect.lock("u")
        );
        let values = vec![
            pair.tenant.to_string().into(),
            pair.dag.to_string().into(),
            lane.map(|id| id.to_string()).into(),
            i64::from(limit).into(),
            tx.now.into(),
        ];
        let found = tx.all("pick queued runs", &sql, values).await?;
        self.starting(tx, &found).await
    }

    /// What the rows of [`PICK`] say.
    async fn starting(&self, tx: &Tx, found: &[QueryResult]) -> Result<Vec<Starting>, StoreError> {
        let mut starting = Vec::with_capacity(found.len());
        for row in found {
            let digest = rows::parse(row, "dag_version", Digest::parse)?;
            let dag = match self.store.cached_dag(digest) {
                Some(dag) => dag,
                None => match self.read_dag(tx, digest).await {
                    Ok(dag) => dag,
                    // It waits for a program that knows its version, and keeps nobody else waiting.
                    Err(StoreError::Dag(_)) => {
                        let run: String = rows::get(row, "run")?;
                        tracing::warn!(run, "a queued run's DAG version does not fit this program; it stays queued");
                        continue;
                    }
                    Err(error) => return Err(error),
                },
            };
            starting.push(Starting {
                tenant: rows::parse(row, "tenant", TenantId::parse)?,
                run: rows::parse(row, "run", RunId::parse)?,
                dag,
                seed: rows::get::<i64>(row, "seed")?.cast_unsigned(),
                priority: rows::get(row, "priority")?,
                due_by: rows::get(row, "deadline_at")?,
            });
        }
        Ok(starting)
    }

    async fn read_dag(&self, tx: &Tx, digest: Digest) -> Result<Arc<crate::dag::Dag>, StoreError> {
        let sql = "SELECT digest AS dag_version, dag, source FROM dag_version WHERE digest = $1";
        let found = tx.all("read a DAG version", sql, vec![digest.to_string().into()]).await?;
        let row = found.first().ok_or_else(|| StoreError::Corrupt {
            what: "run",
            detail: format!("its DAG version {digest} is not there"),
        })?;
        self.store.dag_of(row)
    }

    /// Queued live runs behind the first `keep` ones in that order.
    async fn beyond(&self, tx: &Tx, pair: &Pair, keep: u32, order: &str) -> Result<Vec<(TenantId, RunId)>, StoreError> {
        let sql = format!(
            "SELECT u.run FROM run u WHERE u.tenant = $1 AND u.dag = $2 AND u.state = 'queued' \
             AND u.backfill IS NULL AND u.start_at <= $4 ORDER BY u.{order} LIMIT 1000 OFFSET $3"
        );
        let values =
            vec![pair.tenant.to_string().into(), pair.dag.to_string().into(), i64::from(keep).into(), tx.now.into()];
        let found = tx.all("read what overlaps", &sql, values).await?;
        found.iter().map(|row| Ok((pair.tenant.clone(), rows::parse(row, "run", RunId::parse)?))).collect()
    }
}

/// How many live runs of each pair are active; none where it is not named.
async fn live_active(tx: &Tx, pairs: &[Pair]) -> Result<BTreeMap<(TenantId, DagId), u32>, StoreError> {
    let sql = format!(
        "SELECT a.tenant, a.dag, COUNT(*) AS n FROM {} CROSS JOIN run a \
         WHERE a.tenant = r.tenant AND a.dag = r.dag AND a.state IN ('running', 'canceling') AND a.backfill IS NULL GROUP BY a.tenant, a.dag",
        tx.dialect.rows(1, &PAIR)
    );
    let limited = pairs.iter().filter(|it| it.max_active.is_some());
    let found = tx.all("count active runs", &sql, vec![param(limited.map(Pair::json).collect())]).await?;
    let one = |row| {
        let pair = (rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "dag", DagId::parse)?);
        Ok((pair, rows::count(row, "n")?))
    };
    found.iter().map(one).collect()
}

/// Active runs of a backfill.
async fn backfill_active(tx: &Tx, pair: &Pair, backfill: BackfillId) -> Result<u32, StoreError> {
    let sql = "SELECT COUNT(*) AS n FROM run WHERE tenant = $1 AND dag = $2 AND state IN ('running', 'canceling') \
               AND backfill = $3";
    let values = vec![pair.tenant.to_string().into(), pair.dag.to_string().into(), backfill.to_string().into()];
    let found = tx.all("count active runs", sql, values).await?;
    found.first().map_or(Ok(0), |row| rows::count(row, "n"))
}

/// Live runs of a pair that run and were not told to end.
async fn running(tx: &Tx, pair: &Pair) -> Result<usize, StoreError> {
    let sql = "SELECT COUNT(*) AS n FROM run WHERE tenant = $1 AND dag = $2 AND state = 'running' AND backfill IS NULL";
    let found =
        tx.all("count what runs", sql, vec![pair.tenant.to_string().into(), pair.dag.to_string().into()]).await?;
    found.first().map_or(Ok(0), |row| Ok(rows::count(row, "n")? as usize))
}

/// Whether a tenant's artifacts weigh as much as they may: nothing starts until some are gone. Weighed once
/// per transaction.
async fn is_over_quota(tx: &Tx, pair: &Pair, weighed: &mut BTreeMap<TenantId, bool>) -> Result<bool, StoreError> {
    let Some(quota) = pair.quota else { return Ok(false) };
    if let Some(over) = weighed.get(&pair.tenant) {
        return Ok(*over);
    }
    let sql = "SELECT CAST(COALESCE(SUM(bytes), 0) AS BIGINT) AS bytes FROM artifact \
               WHERE tenant = $1 AND linked_from IS NULL";
    let found = tx.all("weigh a tenant's artifacts", sql, vec![pair.tenant.to_string().into()]).await?;
    let used = found.first().map_or(Ok(0), |row| sum(row, "bytes"))?;
    let is_over = over_quota(Some(quota), used).is_some();
    weighed.insert(pair.tenant.clone(), is_over);
    if is_over {
        let alert = NewAlert {
            tenant: &pair.tenant,
            dag: &pair.dag,
            kind: AlertKind::QuotaExceeded,
            subject: "artifact_bytes",
            run: None,
            message: format!(
                "no run starts for {}: its artifacts weigh more than its quota of {quota} bytes",
                pair.tenant
            ),
            detail: json!({ "quota": quota }),
        };
        let part = raise(tx, &[alert]);
        tx.run(part).await?;
    } else {
        let sql = "UPDATE alert SET resolved_at = $2 WHERE tenant = $1 AND kind = 'quota_exceeded' \
                   AND resolved_at IS NULL";
        tx.execute("resolve alerts", sql, vec![pair.tenant.to_string().into(), tx.now.into()]).await?;
    }
    Ok(is_over)
}

async fn oldest_active(tx: &Tx, pair: &Pair, count: usize) -> Result<Vec<(TenantId, RunId)>, StoreError> {
    let sql = "SELECT run FROM run WHERE tenant = $1 AND dag = $2 AND state = 'running' \
               AND kind IN ('scheduled', 'triggered') ORDER BY logical_time LIMIT $3";
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let values = vec![pair.tenant.to_string().into(), pair.dag.to_string().into(), count.into()];
    let found = tx.all("read what is overtaken", sql, values).await?;
    found.iter().map(|row| Ok((pair.tenant.clone(), rows::parse(row, "run", RunId::parse)?))).collect()
}

/// The backfills of these pairs that go on, the oldest first, with what each may have active.
async fn backfills<'a>(tx: &Tx, pairs: &'a [Pair]) -> Result<Vec<(&'a Pair, BackfillId, u32)>, StoreError> {
    let sql = format!(
        "SELECT b.tenant, b.dag, b.backfill, b.max_active FROM {} CROSS JOIN backfill b \
         WHERE b.tenant = r.tenant AND b.dag = r.dag AND b.state = 'running' ORDER BY b.created_at, b.backfill",
        tx.dialect.rows(1, &PAIR)
    );
    let found = tx.all("read the backfills", &sql, vec![param(pairs.iter().map(Pair::json).collect())]).await?;
    let mut backfills = Vec::with_capacity(found.len());
    for row in &found {
        let tenant = rows::parse(row, "tenant", TenantId::parse)?;
        let dag = rows::parse(row, "dag", DagId::parse)?;
        let pair = pairs.iter().find(|it| it.tenant == tenant && it.dag == dag);
        let limit = rows::count(row, "max_active")?;
        if let Some(pair) = pair {
            backfills.push((pair, rows::parse(row, "backfill", BackfillId::parse)?, limit));
        }
    }
    Ok(backfills)
}
