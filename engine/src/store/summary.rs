//! How a night went: for each tenant and DAG the latest run since some moment, or why there is none.
//!
//! Called by `headworks runs summary`. One line per subscription; a failed run comes with the task that
//! failed first and what it said.

use super::{Store, StoreError, rows, tx};
use crate::id::{DagId, InstanceId, RunId, TenantId};
use crate::plan::{Micros, QueueReason, Reason};
use crate::run::RunState;

/// A line of the summary.
#[derive(Debug, Clone, PartialEq)]
pub struct SummaryLine {
    /// Whose.
    pub tenant: TenantId,
    /// Of which DAG.
    pub dag: DagId,
    /// The latest run, if there is one.
    pub run: Option<(RunId, RunState)>,
    /// Why there is none, or why it is where it is.
    pub why: Option<SummaryReason>,
}

/// Why a line is what it is.
#[derive(Debug, Clone, PartialEq)]
pub enum SummaryReason {
    /// The tenant is suspended.
    Suspended,
    /// The DAG, the tenant or both are paused.
    Paused,
    /// It came due, and could not be made: the alert's words.
    NotMade(String),
    /// Nothing came due.
    NotDue,
    /// It waits to start; `None` = the next tick starts it.
    Queued(Option<QueueReason>),
    /// The first task instance that failed, and why.
    Failed(InstanceId, Option<Reason>),
}

impl Store {
    /// Every subscription, or those to one DAG, with its latest run created since `since`.
    ///
    /// # Errors
    /// The database's.
    pub async fn summary(&self, dag: Option<&DagId>, since: Micros) -> Result<Vec<SummaryLine>, StoreError> {
        let sql = format!(
            "SELECT s.tenant, s.dag, n.status, {} AS is_open, (SELECT MIN(a.message) FROM alert a WHERE a.tenant = s.tenant \
             AND a.dag = s.dag AND a.kind IN ('launch_failed', 'quota_exceeded') AND a.resolved_at IS NULL) AS alert, (SELECT u.run FROM run u WHERE u.tenant = s.tenant \
             AND u.dag = s.dag AND u.created_at >= $1 AND u.backfill IS NULL ORDER BY u.created_at DESC, u.run DESC \
             LIMIT 1) AS run FROM schedule s JOIN tenant n ON n.tenant = s.tenant \
             WHERE ($2 = '' OR s.dag = $2) AND (s.is_live OR s.rule IS NOT NULL OR s.trigger_on IS NOT NULL) \
             ORDER BY s.dag, s.tenant",
            super::schedules::NOT_PAUSED
        );
        let values = vec![since.into(), dag.map(DagId::to_string).unwrap_or_default().into()];
        let found = tx::read(&self.db, "sum up", &sql, values).await?;
        let mut lines = Vec::with_capacity(found.len());
        for row in &found {
            let tenant = rows::parse(row, "tenant", TenantId::parse)?;
            let run: Option<String> = rows::get(row, "run")?;
            let (run, why) = match run {
                Some(_) => {
                    let id = rows::parse(row, "run", RunId::parse)?;
                    let state = self.run_summary(&tenant, id).await?.state;
                    (Some((id, state)), self.state_reason(&tenant, id, state).await?)
                }
                None if rows::get::<String>(row, "status")? == "suspended" => (None, Some(SummaryReason::Suspended)),
                None if !rows::get::<bool>(row, "is_open")? => (None, Some(SummaryReason::Paused)),
                None => {
                    let alert: Option<String> = rows::get(row, "alert")?;
                    (None, Some(alert.map_or(SummaryReason::NotDue, SummaryReason::NotMade)))
                }
            };
            lines.push(SummaryLine { tenant, dag: rows::parse(row, "dag", DagId::parse)?, run, why });
        }
        Ok(lines)
    }

    async fn state_reason(
        &self,
        tenant: &TenantId,
        run: RunId,
        state: RunState,
    ) -> Result<Option<SummaryReason>, StoreError> {
        match state {
            RunState::Queued => Ok(Some(SummaryReason::Queued(self.queue_reason(tenant, run).await?))),
            RunState::Failed => {
                let sql = "SELECT task, element, reason FROM task_instance WHERE tenant = $1 AND run = $2 AND current \
                           AND state IN ('failed', 'quarantined') ORDER BY finished_at, ordinal, element LIMIT 1";
                let values = vec![tenant.to_string().into(), run.to_string().into()];
                let found = tx::read(&self.db, "read what failed", sql, values).await?;
                let Some(row) = found.first() else { return Ok(None) };
                let reason: Option<String> = rows::get(row, "reason")?;
                let reason = reason.and_then(|text| serde_json::from_str(&text).ok());
                Ok(Some(SummaryReason::Failed(rows::instance(row)?, reason)))
            }
            _ => Ok(None),
        }
    }
}
