//! What a look at deadlines reads: open runs that have one, how far they are, how long their tasks took.
//!
//! Called by the scheduler's chore, which asks the pure `plan` when a run will end.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::{AlertKind, Store, StoreError, rows, tx};
use crate::dag::Dag;
use crate::id::{DagId, Digest, RunId, TaskId, TenantId};
use crate::plan::{Micros, Progress};

/// An open run with a deadline.
#[derive(Debug, Clone)]
pub struct Timed {
    /// Whose.
    pub tenant: TenantId,
    /// Which.
    pub run: RunId,
    /// Its pinned version.
    pub dag: Arc<Dag>,
    /// When it should be over.
    pub deadline: Micros,
    /// The present moment, by the database's clock.
    pub now: Micros,
}

/// Runs that one look takes, those with the nearest deadlines.
const AT_ONCE: u32 = 200;
/// Who ended late is told of for a day, in microseconds: nobody may have looked in between.
const TOLD_OF: i64 = 86_400_000_000;
/// Successful runs that durations are taken from.
const HISTORY: u32 = 10;

impl Store {
    /// Open runs with a deadline to come, the nearest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn timed_runs(&self) -> Result<Vec<Timed>, StoreError> {
        let sql = format!(
            "SELECT tenant, run, dag_version, deadline_at, {} AS now FROM run WHERE deadline_at IS NOT NULL \
             AND state IN ('queued', 'running', 'canceling') AND deadline_at >= {} ORDER BY deadline_at LIMIT {AT_ONCE}",
            self.dialect.now(),
            self.dialect.now()
        );
        let found = tx::read(&self.db, "read runs with deadlines", &sql, vec![]).await?;
        let mut timed = Vec::with_capacity(found.len());
        for row in &found {
            let dag = self.dag_version(rows::parse(row, "dag_version", Digest::parse)?).await;
            // A version that no longer fits this binary has no forecast; its run can not go on either.
            let Ok(dag) = dag else { continue };
            timed.push(Timed {
                tenant: rows::parse(row, "tenant", TenantId::parse)?,
                run: rows::parse(row, "run", RunId::parse)?,
                dag,
                deadline: rows::get(row, "deadline_at")?,
                now: rows::get(row, "now")?,
            });
        }
        Ok(timed)
    }

    /// Runs that were not over by their deadlines, and of which nobody was told; some at a time.
    ///
    /// # Errors
    /// The database's.
    pub async fn late_runs(&self) -> Result<Vec<(TenantId, DagId, RunId)>, StoreError> {
        let sql = format!(
            "SELECT u.tenant, u.dag, u.run FROM run u WHERE u.deadline_at < $1 \
             AND (u.state IN ('queued', 'running', 'canceling') OR (u.finished_at > u.deadline_at \
             AND u.state <> 'canceled' AND u.finished_at > $1 - {TOLD_OF})) \
             AND NOT EXISTS (SELECT 1 FROM alert a WHERE a.tenant = u.tenant \
             AND a.dag = u.dag AND a.kind = 'deadline_missed' AND a.subject = u.run) LIMIT {AT_ONCE}"
        );
        let found = tx::read(&self.db, "read late runs", &sql, vec![self.now().into()]).await?;
        found.iter().map(of_a_pair).collect()
    }

    /// Alerts of deadlines that are settled: the run at risk has ended, or a later run of the same tenant
    /// and DAG was in time again.
    ///
    /// # Errors
    /// The database's.
    pub async fn settled_deadlines(&self) -> Result<Vec<(AlertKind, TenantId, DagId, RunId)>, StoreError> {
        let sql = format!(
            "SELECT a.kind, a.tenant, a.dag, a.subject AS run FROM alert a JOIN run u ON u.tenant = a.tenant \
             AND u.run = a.subject WHERE a.resolved_at IS NULL AND u.finished_at IS NOT NULL \
             AND (a.kind = 'deadline_at_risk' OR (a.kind = 'deadline_missed' AND EXISTS (SELECT 1 FROM run v \
             WHERE v.tenant = u.tenant AND v.dag = u.dag AND v.state = 'succeeded' AND v.finished_at > u.deadline_at \
             AND v.finished_at <= v.deadline_at))) LIMIT {AT_ONCE}"
        );
        let found = tx::read(&self.db, "read what is settled", &sql, vec![]).await?;
        let one = |row| {
            let (tenant, dag, run) = of_a_pair(row)?;
            Ok((rows::parse(row, "kind", AlertKind::parse)?, tenant, dag, run))
        };
        found.iter().map(one).collect()
    }

    /// How far each task of a run is.
    ///
    /// # Errors
    /// The database's.
    pub async fn progress(&self, tenant: &TenantId, run: RunId) -> Result<BTreeMap<TaskId, Progress>, StoreError> {
        let sql = "SELECT task, MIN(started_at) AS began, \
                   SUM(CASE WHEN finished_at IS NULL THEN 1 ELSE 0 END) AS open FROM task_instance \
                   WHERE tenant = $1 AND run = $2 AND current GROUP BY task";
        let values = vec![tenant.to_string().into(), run.to_string().into()];
        let found = tx::read(&self.db, "read how far a run is", sql, values).await?;
        let one = |row| {
            let (began, open): (Option<i64>, i64) = (rows::get(row, "began")?, rows::get(row, "open")?);
            let progress = match (open, began) {
                (0, _) => Progress::Ended,
                (_, Some(at)) => Progress::Began(at),
                (_, None) => Progress::Waiting,
            };
            Ok((rows::parse(row, "task", TaskId::parse)?, progress))
        };
        found.iter().map(one).collect()
    }

    /// How long each task took in the latest successful runs of a DAG for a tenant, from its first start
    /// to its last end: medians, in microseconds.
    ///
    /// # Errors
    /// The database's.
    pub async fn durations(&self, tenant: &TenantId, dag: &DagId) -> Result<BTreeMap<TaskId, Micros>, StoreError> {
        let sql = format!(
            "SELECT t.task, t.run, MAX(t.finished_at) - MIN(t.started_at) AS took FROM task_instance t \
             JOIN (SELECT run FROM run WHERE tenant = $1 AND dag = $2 AND state = 'succeeded' \
             ORDER BY finished_at DESC LIMIT {HISTORY}) AS u ON u.run = t.run \
             WHERE t.tenant = $1 AND t.current AND t.started_at IS NOT NULL AND t.finished_at IS NOT NULL \
             GROUP BY t.task, t.run"
        );
        let values = vec![tenant.to_string().into(), dag.to_string().into()];
        let mut took: BTreeMap<TaskId, Vec<Micros>> = BTreeMap::new();
        for row in &tx::read(&self.db, "read how long tasks took", &sql, values).await? {
            took.entry(rows::parse(row, "task", TaskId::parse)?).or_default().push(rows::get(row, "took")?);
        }
        let median = |mut all: Vec<Micros>| {
            all.sort_unstable();
            all[all.len() / 2]
        };
        Ok(took.into_iter().map(|(task, all)| (task, median(all))).collect())
    }
}

/// A run with its DAG.
fn of_a_pair(row: &sea_orm::QueryResult) -> Result<(TenantId, DagId, RunId), StoreError> {
    let (tenant, dag) = (rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "dag", DagId::parse)?);
    Ok((tenant, dag, rows::parse(row, "run", RunId::parse)?))
}
