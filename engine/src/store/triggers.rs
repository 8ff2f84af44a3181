//! Runs that come due by what arrives: successes of other DAGs, artifacts of their tasks.
//!
//! What a triggered run has used up is a row of `trigger_use`, written in the transaction that makes the
//! run, under the lock of the pair: no arrival starts two runs, and none is forgotten by a crash. Which
//! arrivals belong together is decided by the scheduler's chore.

use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::create::enqueue;
use super::dialect::Kind;
use super::rooms::Rooms;
use super::rows::{self, param};
use super::schedules::NOT_PAUSED;
use super::tx::{Part, Tx, Write};
use super::{NewRun, Store, StoreError, tx};
use crate::dag::{Arrival, Dag};
use crate::id::{DagId, Digest, RunId, TenantId};
use crate::plan::Micros;

/// A tenant's DAG that waits for others.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Whose.
    pub tenant: TenantId,
    /// The DAG's applied version.
    pub dag: Arc<Dag>,
    /// What for: the section `schedule.on`.
    pub on: Value,
    /// The tenant's parameters for it.
    pub params: Map<String, Value>,
    /// Nothing that arrived earlier counts.
    pub since: Micros,
    /// The present moment, by the database's clock.
    pub now: Micros,
}

/// What can arrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A success of a DAG.
    Dag(DagId),
    /// An artifact, once the task that made it has succeeded.
    Artifact(Arrival),
}

impl Source {
    /// Its name in `trigger_use`.
    pub fn name(&self) -> String {
        match self {
            Self::Dag(dag) => dag.to_string(),
            Self::Artifact(it) => format!("{}/{}/{}", it.dag, it.task, it.name),
        }
    }
}

/// Something that arrived and is not used up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Arrived {
    /// The source's name.
    pub source: String,
    /// Of which run.
    pub run: RunId,
    /// When.
    pub at: Micros,
    /// What that run was about.
    pub interval: Option<(Micros, Micros)>,
}

/// Arrivals of one source that one look reads; a flood takes several.
const ARRIVALS_READ: u32 = 100;

impl Store {
    /// What waits for others.
    ///
    /// # Errors
    /// The database's.
    pub async fn waiting(&self) -> Result<Vec<Waiting>, StoreError> {
        let sql = format!(
            "SELECT s.tenant, s.trigger_on, s.overlay, s.since, d.dag_version, {} AS now FROM schedule s \
             JOIN dag d ON d.dag = s.dag JOIN tenant n ON n.tenant = s.tenant \
             WHERE s.is_live AND s.trigger_on IS NOT NULL AND n.status <> 'suspended' AND {NOT_PAUSED} \
             ORDER BY s.tenant, s.dag",
            self.dialect.now()
        );
        let found = tx::read(&self.db, "read what waits for others", &sql, vec![]).await?;
        let mut waiting = Vec::with_capacity(found.len());
        for row in &found {
            let Value::Object(params) = rows::get_json(row, "overlay")? else { continue };
            let dag = match self.dag_version(rows::parse(row, "dag_version", Digest::parse)?).await {
                Err(StoreError::Dag(_)) => continue,
                dag => dag?,
            };
            waiting.push(Waiting {
                tenant: rows::parse(row, "tenant", TenantId::parse)?,
                dag,
                on: rows::get_json(row, "trigger_on")?,
                params,
                since: rows::get(row, "since")?,
                now: rows::get(row, "now")?,
            });
        }
        Ok(waiting)
    }

    /// What arrived of a source for a waiting DAG and is not used up, the oldest first. Backfills of the
    /// source do not count: their runs are about the past. Neither do verifications, nor
    /// artifacts that a replay took over.
    ///
    /// # Errors
    /// The database's.
    pub async fn arrivals(&self, waiting: &Waiting, source: &Source) -> Result<Vec<Arrived>, StoreError> {
        let name = source.name();
        let unused = "u.backfill IS NULL AND u.kind NOT IN ('verify', 'drill') AND NOT EXISTS (SELECT 1 FROM trigger_use x WHERE x.tenant = u.tenant \
                      AND x.dag = $3 AND x.source = $4 AND x.source_run = u.run)";
        let mut values: Vec<sea_orm::Value> = vec![
            waiting.tenant.to_string().into(),
            waiting.since.into(),
            waiting.dag.id.to_string().into(),
            name.clone().into(),
        ];
        let sql = match source {
            Source::Dag(dag) => {
                values.push(dag.to_string().into());
                format!(
                    "SELECT u.run, u.finished_at AS at, u.interval_start, u.interval_end FROM run u \
                     WHERE u.tenant = $1 AND u.dag = $5 AND u.state = 'succeeded' AND u.finished_at >= $2 AND {unused} \
                     ORDER BY u.finished_at, u.run LIMIT {ARRIVALS_READ}"
                )
            }
            Source::Artifact(it) => {
                values.extend([it.dag.to_string().into(), it.task.to_string().into(), it.name.to_string().into()]);
                format!(
                    "SELECT u.run, MAX(t.finished_at) AS at, u.interval_start, u.interval_end FROM run u \
                     JOIN task_instance t ON t.tenant = u.tenant AND t.run = u.run AND t.task = $6 AND t.current \
                     AND t.state = 'succeeded' AND t.attempts > 0 WHERE u.tenant = $1 AND u.dag = $5 AND t.finished_at >= $2 AND {unused} \
                     AND EXISTS (SELECT 1 FROM artifact a WHERE a.tenant = t.tenant AND a.run = t.run AND a.task = t.task \
                     AND a.element = t.element AND a.generation = t.generation AND a.name = $7) \
                     GROUP BY u.run, u.interval_start, u.interval_end ORDER BY at, u.run LIMIT {ARRIVALS_READ}"
                )
            }
        };
        let found = tx::read(&self.db, "read what arrived", &sql, values).await?;
        let one = |row: &sea_orm::QueryResult| {
            let (start, end): (Option<i64>, Option<i64>) =
                (rows::get(row, "interval_start")?, rows::get(row, "interval_end")?);
            Ok(Arrived {
                source: name.clone(),
                run: rows::parse(row, "run", RunId::parse)?,
                at: rows::get(row, "at")?,
                interval: start.zip(end),
            })
        };
        found.iter().map(one).collect()
    }

    /// Uses arrivals up, and makes their run, queued. With no run they were too far from the others.
    /// Returns whether this call did it: another scheduler may have been faster.
    ///
    /// # Errors
    /// The database's.
    pub async fn use_up(&self, waiting: &Waiting, used: &[Arrived], run: Option<&NewRun>) -> Result<bool, StoreError> {
        self.write(&UseUp { store: self, waiting, used, run }).await
    }
}

struct UseUp<'a> {
    store: &'a Store,
    waiting: &'a Waiting,
    used: &'a [Arrived],
    run: Option<&'a NewRun>,
}

#[async_trait]
impl Write for UseUp<'_> {
    type Output = bool;
    const WHAT: &'static str = "make a triggered run";

    async fn apply(&self, tx: &Tx) -> Result<bool, StoreError> {
        let (tenant, dag) = (self.waiting.tenant.to_string(), self.waiting.dag.id.to_string());
        let sql = format!("SELECT s.tenant FROM schedule s WHERE s.tenant = $1 AND s.dag = $2{}", tx.dialect.lock("s"));
        tx.all(Self::WHAT, &sql, vec![tenant.clone().into(), dag.clone().into()]).await?;
        let columns = [("source", Kind::Text), ("source_run", Kind::Text)];
        let rows: Vec<Value> =
            self.used.iter().map(|it| json!({ "source": it.source, "source_run": it.run.to_string() })).collect();
        let source = tx.dialect.rows(3, &columns);
        let sql = format!(
            "SELECT 1 AS one FROM {source} JOIN trigger_use x ON x.tenant = $1 AND x.dag = $2 \
             AND x.source = r.source AND x.source_run = r.source_run LIMIT 1"
        );
        let key: Vec<sea_orm::Value> = vec![tenant.into(), dag.into(), param(rows)];
        if !tx.all(Self::WHAT, &sql, key.clone()).await?.is_empty() {
            return Ok(false);
        }
        if self.run.is_some() {
            let whose = &self.waiting.tenant;
            if Rooms::live(tx, std::iter::once(whose)).await?.take(tx, whose, 1).await? == 0 {
                return Ok(false);
            }
        }
        let made = enqueue(tx, self.store, self.run.map(std::slice::from_ref).unwrap_or_default()).await?;
        let sql = format!(
            "INSERT INTO trigger_use (tenant, dag, source, source_run, run, at) \
             SELECT $1, $2, r.source, r.source_run, $4, $5 FROM {source}"
        );
        let mut values = key;
        values.extend([made.first().map(RunId::to_string).into(), tx.now.into()]);
        tx.all_of(vec![Part::new(Self::WHAT, sql, values)]).await?;
        Ok(true)
    }
}
