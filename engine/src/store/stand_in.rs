//! Whom a verification stands in for: the run whose result its task instances prove, and the model registry
//! as the attempt saw it that made this result.
//!
//! Called by `work`, for runs of kind `verify` only. A task that prints its run, or asks for the champion,
//! has to see what the earlier attempt saw: else no proof could ever come out.

use super::rows::{element, get};
use super::{Store, StoreError, tx};
use crate::id::{InstanceId, RunId, TenantId};
use crate::plan::{Micros, Reason};

/// What an attempt of a verification is to see.
pub(super) struct StandIn {
    /// The run that computed the result.
    pub(super) run: RunId,
    /// When the attempt began that made it; `None` if nothing is on record.
    pub(super) registry_at: Option<Micros>,
}

impl Store {
    /// For an instance of a verification of `parent`.
    pub(super) async fn stand_in(
        &self,
        tenant: &TenantId,
        parent: RunId,
        instance: &InstanceId,
    ) -> Result<StandIn, StoreError> {
        let key = |run: RunId| -> Vec<sea_orm::Value> {
            vec![
                tenant.to_string().into(),
                run.to_string().into(),
                instance.task.to_string().into(),
                element(instance.index).into(),
            ]
        };
        let sql = "SELECT reason FROM task_instance WHERE tenant = $1 AND run = $2 AND task = $3 AND element = $4 \
                   AND current";
        let found = tx::read(&self.db, "read what a verification proves", sql, key(parent)).await?;
        let reason: Option<String> = found.first().map(|row| get(row, "reason")).transpose()?.flatten();
        // A reason that this binary does not know names no other run.
        let run = match reason.and_then(|text| serde_json::from_str(&text).ok()) {
            Some(Reason::Reused { run } | Reason::Memoized { run, .. }) => run,
            _ => parent,
        };
        let sql = "SELECT MAX(a.started_at) AS at FROM attempt a JOIN task_instance t ON t.tenant = a.tenant \
                   AND t.run = a.run AND t.task = a.task AND t.element = a.element AND t.generation = a.generation \
                   AND t.current WHERE a.tenant = $1 AND a.run = $2 AND a.task = $3 AND a.element = $4";
        let found = tx::read(&self.db, "read when it was made", sql, key(run)).await?;
        let registry_at = found.first().map(|row| get(row, "at")).transpose()?.flatten();
        Ok(StandIn { run, registry_at })
    }
}
