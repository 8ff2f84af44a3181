//! Moves that time and people cause: a lost worker's attempts, retries that came due, cancels.
//!
//! Each goes through the same `advance` as a finish. Called by the executor and by `runs cancel`,
//! later by the scheduler's sweeps.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::advance::{self, Ended};
use super::dialect::Kind;
use super::events::{Holder, run_event, task_event};
use super::finish::read_run;
use super::rows::{self, InstanceKey, extend, keyed_rows, param};
use super::tx::{Tx, Write};
use super::{ClaimScope, Store, StoreError, tx};
use crate::id::{AttemptNumber, Epoch, RunId, SessionId, TenantId};
use crate::plan::{AttemptFailure, FailureKind, FailurePlan, Micros, after_failure};
use crate::run::{AttemptState, RunEvent, RunState, TaskEvent, TaskState, is_terminal, transition};

impl Store {
    /// Sessions that hold attempts of a run, with the moment their leases end and the present one,
    /// both by the database's clock.
    ///
    /// # Errors
    /// The database's.
    pub async fn holders(&self, tenant: &TenantId, run: RunId) -> Result<Vec<(SessionId, Micros, Micros)>, StoreError> {
        let sql = format!(
            "SELECT DISTINCT s.session, s.expires_at, {} AS now FROM task_instance t \
             JOIN worker_session s ON s.session = t.session AND NOT s.revoked \
             WHERE t.tenant = $1 AND t.run = $2 AND t.state = 'running' ORDER BY s.expires_at",
            self.dialect.now()
        );
        let values = vec![tenant.to_string().into(), run.to_string().into()];
        let found = tx::read(&self.db, "read who holds a run", &sql, values).await?;
        found
            .iter()
            .map(|row| {
                Ok((
                    rows::parse(row, "session", SessionId::parse)?,
                    rows::get(row, "expires_at")?,
                    rows::get(row, "now")?,
                ))
            })
            .collect()
    }

    /// Revokes every session that holds attempts of a run and gives the attempts up as lost: another
    /// worker may claim them, and nothing that the old ones still write is taken. The caller knows
    /// that the sessions are dead: their lease ended, or their process did. Returns how many attempts.
    ///
    /// # Errors
    /// The database's.
    pub async fn reclaim(&self, tenant: &TenantId, run: RunId) -> Result<usize, StoreError> {
        self.warm(tenant, run).await?;
        self.write(&Reclaim { store: self, tenant, run }).await
    }

    /// Looks at all open instances of a run again, as after a finish.
    ///
    /// # Errors
    /// The database's.
    pub async fn recompute(&self, tenant: &TenantId, run: RunId) -> Result<RunState, StoreError> {
        self.warm(tenant, run).await?;
        self.write(&Recompute { store: self, tenant, run }).await
    }

    /// Makes ready what waited for a retry that is due. Returns when the next one comes due, and the
    /// present moment, both by the database's clock.
    ///
    /// # Errors
    /// The database's.
    pub async fn wake_retries(&self, scope: &ClaimScope) -> Result<(Option<Micros>, Micros), StoreError> {
        self.write(&WakeRetries { scope }).await
    }

    /// Asks for a run's end: what waits is canceled now, what runs is told to stop by its worker.
    /// A run that has ended stays as it is. Returns its state afterwards.
    ///
    /// # Errors
    /// The database's.
    pub async fn cancel(&self, tenant: &TenantId, run: RunId) -> Result<RunState, StoreError> {
        self.warm(tenant, run).await?;
        self.write(&Cancel { store: self, tenant, run }).await
    }
}

struct Reclaim<'a> {
    store: &'a Store,
    tenant: &'a TenantId,
    run: RunId,
}

#[async_trait]
impl Write for Reclaim<'_> {
    type Output = usize;
    const WHAT: &'static str = "reclaim a lost worker's attempts";

    async fn apply(&self, tx: &Tx) -> Result<usize, StoreError> {
        let run = read_run(self.store, tx, self.tenant, self.run).await?;
        let sql = format!(
            "SELECT tenant, run, task, element, generation, version, epoch, attempts, failures, losses, seed, session \
             FROM task_instance WHERE tenant = $1 AND run = $2 AND state = 'running' ORDER BY ordinal{}",
            tx.dialect.lock("task_instance")
        );
        let values = vec![self.tenant.to_string().into(), self.run.to_string().into()];
        let held = tx.all("read the held attempts", &sql, values).await?;
        let (mut moves, mut attempts, mut events, mut ended) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for row in &held {
            let key = rows::key(row)?;
            let holder = holder(row)?;
            let made = self.lost(row, &key, &run, tx.now)?;
            let (task, attempt) =
                (transition(TaskState::Running, made.task)?, transition(AttemptState::Running, made.attempt)?);
            let losses = rows::count(row, "losses")? + 1;
            moves.push(extend(
                key.json(),
                json!({ "new_state": task.to().as_str(), "losses": losses, "is_over": is_terminal(task.to()),
                        "reason": json!(made.reason).to_string(), "attempt": holder.attempt.0 }),
            ));
            attempts.push(attempt.to());
            events.push(task_event(
                &key,
                rows::get::<i64>(row, "version")? + 1,
                task,
                Some(holder),
                Some(&made.reason),
            ));
            if is_terminal(task.to()) {
                ended.push(Ended { instance: key.instance, state: task.to() });
            }
        }
        revoke(tx, &held).await?;
        write_lost(tx, moves).await?;
        tx.append_events(events).await?;
        advance::after(self.store, tx, run, ended).await?;
        Ok(attempts.len())
    }
}

impl Reclaim<'_> {
    fn lost(
        &self,
        row: &sea_orm::QueryResult,
        key: &InstanceKey,
        run: &advance::RunRow,
        now: Micros,
    ) -> Result<FailurePlan, StoreError> {
        let task = run.dag.task(&key.instance.task).ok_or_else(|| StoreError::Corrupt {
            what: "task instance",
            detail: format!("no task {} in its DAG", key.instance.task),
        })?;
        let seed: i64 = rows::get(row, "seed")?;
        let canceling = run.state == RunState::Canceling;
        let failure = AttemptFailure {
            kind: if canceling { FailureKind::Canceled } else { FailureKind::Lost },
            message: "its worker is gone".into(),
            failures: rows::count(row, "failures")?,
            losses: rows::count(row, "losses")? + 1,
            seed: seed.cast_unsigned(),
        };
        Ok(after_failure(&failure, &task.retries, &self.store.limits, now))
    }
}

fn holder(row: &sea_orm::QueryResult) -> Result<Holder, StoreError> {
    Ok(Holder {
        attempt: AttemptNumber(rows::get(row, "attempts")?),
        epoch: Epoch(rows::get(row, "epoch")?),
        session: rows::parse(row, "session", SessionId::parse)?,
    })
}

async fn revoke(tx: &Tx, held: &[sea_orm::QueryResult]) -> Result<(), StoreError> {
    for row in held {
        let session: String = rows::get(row, "session")?;
        let sql = "UPDATE worker_session SET revoked = TRUE WHERE session = $1";
        tx.execute("revoke a session", sql, vec![session.into()]).await?;
    }
    Ok(())
}

async fn write_lost(tx: &Tx, moves: Vec<Value>) -> Result<(), StoreError> {
    if moves.is_empty() {
        return Ok(());
    }
    let columns = [
        ("new_state", Kind::Text),
        ("losses", Kind::Int),
        ("reason", Kind::Text),
        ("attempt", Kind::Int),
        ("is_over", Kind::Bool),
    ];
    let source = keyed_rows(tx.dialect, 1, &columns);
    let sql = format!(
        "UPDATE task_instance SET state = r.new_state, version = task_instance.version + 1, session = NULL, \
         losses = r.losses, reason = r.reason, \
         ready_at = CASE WHEN r.new_state = 'ready' THEN $2 ELSE task_instance.ready_at END, \
         finished_at = CASE WHEN r.is_over THEN $2 ELSE NULL END \
         FROM {source} WHERE {}",
        InstanceKey::join("task_instance")
    );
    tx.execute("give up lost attempts", &sql, vec![param(moves.clone()), tx.now.into()]).await?;
    let sql = format!(
        "UPDATE attempt SET state = $3, finished_at = $2, error_class = '\"system\"', message = 'its worker is gone' \
         FROM {source} WHERE {} AND attempt.attempt = r.attempt AND attempt.state = 'running'",
        InstanceKey::join("attempt")
    );
    let state = AttemptState::Lost.as_str();
    tx.execute("give up lost attempts", &sql, vec![param(moves), tx.now.into(), state.into()]).await?;
    Ok(())
}

struct Recompute<'a> {
    store: &'a Store,
    tenant: &'a TenantId,
    run: RunId,
}

#[async_trait]
impl Write for Recompute<'_> {
    type Output = RunState;
    const WHAT: &'static str = "recompute what may start";

    async fn apply(&self, tx: &Tx) -> Result<RunState, StoreError> {
        let run = read_run(self.store, tx, self.tenant, self.run).await?;
        if is_terminal(run.state) {
            return Ok(run.state);
        }
        advance::all_open(self.store, tx, run).await
    }
}

struct WakeRetries<'a> {
    scope: &'a ClaimScope,
}

#[async_trait]
impl Write for WakeRetries<'_> {
    type Output = (Option<Micros>, Micros);
    const WHAT: &'static str = "wake retries";

    async fn apply(&self, tx: &Tx) -> Result<Self::Output, StoreError> {
        let made = transition(TaskState::RetryWait, TaskEvent::RetryCameDue)?;
        let (filter, scope): (&str, Vec<sea_orm::Value>) = match self.scope {
            ClaimScope::Any => ("", Vec::new()),
            ClaimScope::Run { tenant, run } => {
                (" AND tenant = $2 AND run = $3", vec![tenant.to_string().into(), run.to_string().into()])
            }
        };
        let mut values = vec![tx.now.into()];
        values.extend(scope.clone());
        let sql = format!(
            "UPDATE task_instance SET state = '{to}', version = version + 1, ready_at = $1, not_before = NULL, \
             reason = NULL WHERE state = '{from}' AND not_before <= $1{filter} \
             RETURNING tenant, run, task, element, generation, version",
            from = made.from(),
            to = made.to()
        );
        let mut events = Vec::new();
        for row in &tx.all(Self::WHAT, &sql, values.clone()).await? {
            events.push(task_event(&rows::key(row)?, rows::get(row, "version")?, made, None, None));
        }
        tx.append_events(events).await?;
        let sql = format!(
            "SELECT MIN(not_before) AS due FROM task_instance WHERE state = '{from}' AND not_before > $1{filter}",
            from = made.from()
        );
        let found = tx.all(Self::WHAT, &sql, values).await?;
        let due = found.first().map(|row| rows::get::<Option<i64>>(row, "due")).transpose()?.flatten();
        Ok((due, tx.now))
    }
}

struct Cancel<'a> {
    store: &'a Store,
    tenant: &'a TenantId,
    run: RunId,
}

#[async_trait]
impl Write for Cancel<'_> {
    type Output = RunState;
    const WHAT: &'static str = "cancel a run";

    async fn apply(&self, tx: &Tx) -> Result<RunState, StoreError> {
        let mut run = read_run(self.store, tx, self.tenant, self.run).await?;
        if is_terminal(run.state) || run.state == RunState::Canceling {
            return Ok(run.state);
        }
        let made = transition(run.state, RunEvent::CancelRequested)?;
        let sql = "UPDATE run SET state = $1, version = version + 1 WHERE tenant = $2 AND run = $3 AND state = $4 \
                   RETURNING version";
        let values = vec![
            made.to().as_str().into(),
            self.tenant.to_string().into(),
            self.run.to_string().into(),
            made.from().as_str().into(),
        ];
        let found = tx.all(Self::WHAT, sql, values).await?;
        let Some(row) = found.first() else {
            return Ok(read_run(self.store, tx, self.tenant, self.run).await?.state);
        };
        run.version = rows::get(row, "version")?;
        run.state = made.to();
        tx.append_events(vec![run_event(self.tenant, self.run, run.version, made)]).await?;
        advance::all_open(self.store, tx, run).await
    }
}

/// The event that a claim's session stands for, kept beside its only maker.
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cancel_is_a_legal_move_from_every_open_run_state_but_canceling() {
        for &state in RunState::ALL {
            let legal = transition(state, RunEvent::CancelRequested).is_ok();
            assert_eq!(legal, !is_terminal(state) && state != RunState::Canceling, "{state}");
        }
        assert!(transition(TaskState::Running, TaskEvent::Orphaned).is_ok());
    }
}
