//! Moves that time and people cause: a lost worker's attempts, retries that came due, cancels.
//!
//! Each goes through the same `advance` as a finish. Called by the executor, by `runs cancel` and by
//! the scheduler's sweeps.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::json;
use uuid::Uuid;

use super::advance::{self, Advance, RunRow};
use super::dialect::Kind;
use super::events::run_event;
use super::finish::{fail, read_state};
use super::held::{HELD, LOCK_ORDER};
use super::rows::{self, InstanceKey, param};
use super::tx::{Part, Tx, Write};
use super::unit::{AttemptEnd, UnitOfWork};
use super::{ClaimScope, HeldAttempt, Store, StoreError, tx};
use crate::failpoint;
use crate::id::{AttemptNumber, InstanceId, RunId, SessionId, TenantId};
use crate::plan::{FailureKind, Micros, Reason};
use crate::run::{AttemptState, RunEvent, RunState, TaskEvent, TaskState, is_terminal, transition};
use crate::task::ErrorClass;

/// An attempt that was given up because its worker is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LostAttempt {
    /// Whose.
    pub tenant: TenantId,
    /// Of which run.
    pub run: RunId,
    /// Of which task instance.
    pub instance: InstanceId,
    /// Who held it.
    pub session: SessionId,
}

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
        Ok(self.write(&Reclaim { store: self, lost: Lost::Run(tenant, run) }).await?.len())
    }

    /// Revokes all sessions whose lease ended `grace` ago, and gives their attempts up as lost.
    ///
    /// # Errors
    /// The database's.
    pub async fn reap(&self, grace: Duration) -> Result<Vec<LostAttempt>, StoreError> {
        self.give_up(Lost::Expired(grace)).await
    }

    /// Gives up the attempts of sessions that were revoked, or closed before their attempts had ended.
    ///
    /// # Errors
    /// The database's.
    pub async fn reap_revoked(&self) -> Result<Vec<LostAttempt>, StoreError> {
        self.give_up(Lost::Revoked).await
    }

    /// Gives back attempts that `session` holds and nobody runs: claimed in a transaction whose answer
    /// never reached the worker. It is no loss of the tasks'. Returns how many were still held so.
    ///
    /// # Errors
    /// The database's.
    pub async fn give_back(&self, session: SessionId, strays: &[HeldAttempt]) -> Result<usize, StoreError> {
        Ok(self.give_up(Lost::Strays(session, strays)).await?.len())
    }

    async fn give_up(&self, lost: Lost<'_>) -> Result<Vec<LostAttempt>, StoreError> {
        let lost = self.write(&Reclaim { store: self, lost }).await?;
        if !lost.is_empty() {
            self.wake();
        }
        Ok(lost)
    }

    /// How many sessions are in force, and how many of them have an ended lease.
    ///
    /// # Errors
    /// The database's.
    pub async fn sessions(&self) -> Result<(usize, usize), StoreError> {
        let sql = format!(
            "SELECT COUNT(*) AS in_force, COUNT(CASE WHEN expires_at < {} THEN 1 END) AS expired \
             FROM worker_session WHERE NOT revoked",
            self.dialect.now()
        );
        let found = tx::read(&self.db, "count the sessions", &sql, vec![]).await?;
        let row = found.first().ok_or(StoreError::Corrupt { what: "session", detail: "no count came back".into() })?;
        Ok((rows::count(row, "in_force")? as usize, rows::count(row, "expired")? as usize))
    }

    /// Runs that nothing moves: no attempt runs, nothing is ready or waits for a retry, or the run is
    /// being canceled and something still waits. The oldest first, some at a time.
    ///
    /// # Errors
    /// The database's.
    pub async fn stuck_runs(&self) -> Result<Vec<(TenantId, RunId)>, StoreError> {
        let some = |states: &str| {
            // The first list is the index's.
            let open = "t.state IN ('waiting', 'ready', 'running', 'retry_wait')";
            advance::some_instance("u", &format!("{open} AND t.state IN ({states})"))
        };
        let sql = format!(
            "SELECT u.tenant, u.run FROM run u WHERE (u.state = 'running' AND NOT {}) \
             OR (u.state = 'canceling' AND (NOT {} OR {})) ORDER BY u.created_at LIMIT 100",
            some("'ready', 'running', 'retry_wait'"),
            some("'running'"),
            some("'waiting', 'ready', 'retry_wait'"),
        );
        let found = tx::read(&self.db, "look for stuck runs", &sql, vec![]).await?;
        found.iter().map(advance::run_key).collect()
    }

    /// Fails instances that waited longer than they may: some at a time, the longest first. Returns how
    /// many.
    ///
    /// # Errors
    /// The database's.
    pub async fn expire_waits(&self) -> Result<usize, StoreError> {
        self.write(&ExpireWaits { store: self }).await
    }

    /// Looks at all open instances of a run again, as after a finish.
    ///
    /// # Errors
    /// The database's.
    pub async fn recompute(&self, tenant: &TenantId, run: RunId) -> Result<RunState, StoreError> {
        self.write(&Recompute { store: self, tenant, run }).await
    }

    /// Makes ready what waited for a retry that is due. Returns when the next one comes due, and the
    /// present moment, both by the database's clock.
    ///
    /// # Errors
    /// The database's.
    pub async fn wake_retries(&self, scope: &ClaimScope) -> Result<(Option<Micros>, Micros), StoreError> {
        self.write(&WakeRetries { store: self, scope }).await
    }

    /// Asks for a run's end: what waits is canceled now, what runs is told to stop by its worker.
    /// A run that has ended stays as it is. Returns its state afterwards.
    ///
    /// # Errors
    /// The database's.
    pub async fn cancel(&self, tenant: &TenantId, run: RunId) -> Result<RunState, StoreError> {
        self.write(&Cancel { store: self, tenant, run }).await
    }
}

/// Loses the running attempts of a run, or of sessions.
struct Reclaim<'a> {
    store: &'a Store,
    lost: Lost<'a>,
}

/// Whose attempts are lost.
enum Lost<'a> {
    Run(&'a TenantId, RunId),
    /// Those of sessions whose lease ended that long ago by the database's clock, and of revoked ones.
    Expired(Duration),
    /// Those that revoked sessions left behind.
    Revoked,
    /// These, as far as the session still holds them.
    Strays(SessionId, &'a [HeldAttempt]),
}

#[async_trait]
impl Write for Reclaim<'_> {
    type Output = Vec<LostAttempt>;
    const WHAT: &'static str = "reclaim lost workers' attempts";

    async fn apply(&self, tx: &Tx) -> Result<Vec<LostAttempt>, StoreError> {
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        let keys = match self.lost {
            Lost::Run(tenant, run) => {
                read_state(tx, tenant, run).await?;
                lock_running(&mut unit, tenant, run).await?
            }
            Lost::Expired(grace) => {
                revoke_expired(tx, grace).await?;
                lock_left_behind(&mut unit).await?
            }
            Lost::Revoked => lock_left_behind(&mut unit).await?,
            Lost::Strays(session, strays) => lock_strays(&mut unit, session, strays).await?,
        };
        if !keys.is_empty() {
            failpoint::hit("reap.after_select").await.map_err(StoreError::injected)?;
        }
        let mut runs = BTreeMap::new();
        for key in &keys {
            let run_key = (key.tenant.clone(), key.run);
            if let std::collections::btree_map::Entry::Vacant(free) = runs.entry(run_key) {
                let (tenant, run) = free.key();
                let row = read_run(self.store, tx, tenant, *run).await?;
                free.insert(row);
            }
        }
        let (mut lost, mut ended) = (Vec::new(), Vec::new());
        let mut sessions = BTreeSet::new();
        for key in keys {
            let Some(run) = runs.get(&(key.tenant.clone(), key.run)) else { continue };
            let (kind, message) = match self.lost {
                Lost::Strays(..) => (FailureKind::HandedBack, UNKNOWN),
                _ => (FailureKind::Lost, GONE),
            };
            let (attempt, state) = lose(self.store, &mut unit, &key, (run, kind, message))?;
            sessions.insert(attempt.session);
            lost.push(attempt);
            if is_terminal(state) {
                ended.push((key, state));
            }
        }
        if let Lost::Run(..) = self.lost {
            revoke(&mut unit, sessions);
        }
        let mut advance = Advance::new(self.store, &mut unit, runs);
        advance.after(ended).await?;
        advance.end_runs(None).await?;
        Ok(lost)
    }
}

/// Gives up one held, running attempt.
fn lose(
    store: &Store,
    unit: &mut UnitOfWork<'_>,
    key: &InstanceKey,
    (run, kind, message): (&RunRow, FailureKind, &str),
) -> Result<(LostAttempt, TaskState), StoreError> {
    let task = advance::task(&run.dag, &key.instance.task)?;
    let held = unit.change(key)?;
    let (number, session) = (AttemptNumber(held.attempts), held.session.unwrap_or(SessionId::from_uuid(Uuid::nil())));
    let made = fail(store, unit, key, task, (kind, message.into(), run.state))?;
    let attempt = transition(AttemptState::Running, made.attempt)?.to();
    let state = unit.move_task(key, made.task, Some(made.reason))?;
    unit.end_attempt(
        key,
        AttemptEnd {
            attempt: number,
            state: attempt,
            error_class: Some(json!(ErrorClass::System)),
            message: Some(message.to_owned()),
        },
    );
    Ok((LostAttempt { tenant: key.tenant.clone(), run: key.run, instance: key.instance.clone(), session }, state))
}

const GONE: &str = "its worker is gone";
const UNKNOWN: &str = "its worker never learned that it holds it, and gave it back";

/// Locks the running rows of a run.
async fn lock_running(
    unit: &mut UnitOfWork<'_>,
    tenant: &TenantId,
    run: RunId,
) -> Result<Vec<InstanceKey>, StoreError> {
    let sql = format!(
        "SELECT {HELD} FROM task_instance t WHERE t.tenant = $1 AND t.run = $2 AND t.state = 'running' \
         ORDER BY {LOCK_ORDER}{}",
        unit.tx.dialect.lock("t")
    );
    unit.lock("lock the running attempts", &sql, vec![tenant.to_string().into(), run.to_string().into()]).await
}

/// Locks what a session holds without knowing.
async fn lock_strays(
    unit: &mut UnitOfWork<'_>,
    session: SessionId,
    strays: &[HeldAttempt],
) -> Result<Vec<InstanceKey>, StoreError> {
    let sql = format!(
        "SELECT {HELD} FROM task_instance t WHERE t.session = $1 AND t.state = 'running' ORDER BY {LOCK_ORDER}{}",
        unit.tx.dialect.lock("t")
    );
    let keys = unit.lock("lock attempts that nobody runs", &sql, vec![session.to_string().into()]).await?;
    let is_stray = |key: &InstanceKey, epoch| {
        let same = |it: &HeldAttempt| (&it.tenant, it.run, &it.instance) == (&key.tenant, key.run, &key.instance);
        strays.iter().any(|it| same(it) && it.epoch == epoch)
    };
    Ok(keys.into_iter().filter(|key| unit.get(key).is_some_and(|held| is_stray(key, held.epoch))).collect())
}

/// Locks what revoked sessions hold: nothing that they write is taken any more.
async fn lock_left_behind(unit: &mut UnitOfWork<'_>) -> Result<Vec<InstanceKey>, StoreError> {
    let sql = format!(
        "SELECT {HELD} FROM task_instance t JOIN worker_session s ON s.session = t.session AND s.revoked \
         WHERE t.state = 'running' ORDER BY {LOCK_ORDER}{}",
        unit.tx.dialect.lock("t")
    );
    unit.lock("lock the lost attempts", &sql, vec![]).await
}

/// Revokes sessions whose lease has ended; only the database's clock decides.
async fn revoke_expired(tx: &Tx, grace: Duration) -> Result<(), StoreError> {
    let sql = format!(
        "UPDATE worker_session SET revoked = TRUE WHERE NOT revoked AND expires_at < {} - $1",
        tx.dialect.now()
    );
    let grace = i64::try_from(grace.as_micros()).unwrap_or(i64::MAX);
    tx.execute("revoke expired sessions", &sql, vec![grace.into()]).await?;
    Ok(())
}

fn revoke(unit: &mut UnitOfWork<'_>, sessions: BTreeSet<SessionId>) {
    let named = sessions.iter().map(|session| json!({ "session": session.to_string() })).collect();
    let sql = format!(
        "UPDATE worker_session SET revoked = TRUE FROM {} WHERE worker_session.session = r.session",
        unit.tx.dialect.rows(1, &[("session", Kind::Text)])
    );
    unit.also(Part::new("revoke sessions", sql, vec![param(named)]));
}

/// Reads a run as far as advancing it needs.
pub(super) async fn read_run(store: &Store, tx: &Tx, tenant: &TenantId, run: RunId) -> Result<RunRow, StoreError> {
    let sql = "SELECT u.state, u.dag_version, v.dag, v.source FROM run u JOIN dag_version v \
               ON v.digest = u.dag_version WHERE u.tenant = $1 AND u.run = $2";
    let found = tx.all("read the run", sql, vec![tenant.to_string().into(), run.to_string().into()]).await?;
    let row = found.first().ok_or_else(|| StoreError::NotFound {
        what: "run",
        id: run.to_string(),
        tenant: tenant.to_string(),
    })?;
    Ok(RunRow { dag: store.dag_of(row)?, state: rows::run_state(row)? })
}

/// Instances that one round fails at the most.
const EXPIRED_AT_ONCE: usize = 1_000;

struct ExpireWaits<'a> {
    store: &'a Store,
}

#[async_trait]
impl Write for ExpireWaits<'_> {
    type Output = usize;
    const WHAT: &'static str = "fail what waited too long";

    async fn apply(&self, tx: &Tx) -> Result<usize, StoreError> {
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        let late = "t.state = 'ready' AND t.queue_by < $1";
        let over = "t.state IN ('ready', 'retry_wait') AND t.end_by < $1";
        let mut keys = BTreeSet::new();
        for which in [late, over] {
            let sql = format!(
                "SELECT {HELD} FROM task_instance t WHERE {which} ORDER BY {LOCK_ORDER} LIMIT {EXPIRED_AT_ONCE}{}",
                tx.dialect.skip_locked()
            );
            keys.extend(unit.lock(Self::WHAT, &sql, vec![tx.now.into()]).await?);
        }
        let (mut runs, mut ended) = (BTreeMap::new(), Vec::new());
        for key in keys {
            let run_key = (key.tenant.clone(), key.run);
            if let std::collections::btree_map::Entry::Vacant(free) = runs.entry(run_key) {
                let (tenant, run) = free.key();
                let row = read_run(self.store, tx, tenant, *run).await?;
                free.insert(row);
            }
            let held = unit.change(&key)?;
            let is_over = held.end_by.is_some_and(|by| by < tx.now);
            let (limit, micros) = if is_over { ("total", held.waits.total) } else { ("queue", held.waits.queue) };
            let limit_seconds = Duration::from_micros(micros.unwrap_or(0).unsigned_abs()).as_secs_f64();
            let reason = Reason::WaitedTooLong { limit: limit.to_owned(), limit_seconds };
            let state = unit.move_task(&key, TaskEvent::Failed, Some(reason))?;
            ended.push((key, state));
        }
        let failed = ended.len();
        let mut advance = Advance::new(self.store, &mut unit, runs);
        advance.after(ended).await?;
        advance.end_runs(None).await?;
        Ok(failed)
    }
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
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        look_at_open(self.store, &mut unit, (self.tenant, self.run), run).await
    }
}

/// Looks at all open instances of a run; those that run are locked and stay as they are.
async fn look_at_open(
    store: &Store,
    unit: &mut UnitOfWork<'_>,
    (tenant, id): (&TenantId, RunId),
    run: RunRow,
) -> Result<RunState, StoreError> {
    let sql = format!(
        "SELECT {HELD} FROM task_instance t WHERE t.tenant = $1 AND t.run = $2 AND t.current \
         AND t.state IN ('waiting', 'ready', 'running', 'retry_wait') ORDER BY {LOCK_ORDER}{}",
        unit.tx.dialect.lock("t")
    );
    let values = vec![tenant.to_string().into(), id.to_string().into()];
    let open = unit.lock("lock the open task instances", &sql, values).await?;
    let (key, before) = ((tenant.clone(), id), run.state);
    let states = Advance::new(store, unit, BTreeMap::from([(key.clone(), run)])).look_at(open).await?;
    Ok(states.get(&key).copied().unwrap_or(before))
}

/// When a retry is looked at again whose row somebody held: microseconds.
const SOON: Micros = 10_000;

struct WakeRetries<'a> {
    store: &'a Store,
    scope: &'a ClaimScope,
}

#[async_trait]
impl Write for WakeRetries<'_> {
    type Output = (Option<Micros>, Micros);
    const WHAT: &'static str = "wake retries";

    async fn apply(&self, tx: &Tx) -> Result<Self::Output, StoreError> {
        let (filter, mut values): (&str, Vec<sea_orm::Value>) = match self.scope {
            ClaimScope::Any => ("", Vec::new()),
            ClaimScope::Run { tenant, run } => {
                (" AND t.tenant = $2 AND t.run = $3", vec![tenant.to_string().into(), run.to_string().into()])
            }
        };
        values.insert(0, tx.now.into());
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        // Those that a finish or a cancel holds are its business.
        let sql = format!(
            "SELECT {HELD} FROM task_instance t WHERE t.state = 'retry_wait' AND t.not_before <= $1{filter} \
             ORDER BY {LOCK_ORDER}{}",
            tx.dialect.skip_locked()
        );
        for key in unit.lock(Self::WHAT, &sql, values.clone()).await? {
            unit.move_task(&key, TaskEvent::RetryCameDue, None)?;
        }
        unit.flush().await?;
        // Also of those: should their holder change nothing, nobody else would ask for them again.
        let sql = format!(
            "SELECT MIN(CASE WHEN t.not_before > $1 THEN t.not_before ELSE $1 + {SOON} END) AS due \
             FROM task_instance t WHERE t.state = 'retry_wait'{filter}"
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
        // Locked first: a run that is being started meanwhile must not lose its cancel.
        let sql = format!("SELECT u.run FROM run u WHERE u.tenant = $1 AND u.run = $2{}", tx.dialect.lock("u"));
        tx.all(Self::WHAT, &sql, vec![self.tenant.to_string().into(), self.run.to_string().into()]).await?;
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
            return read_state(tx, self.tenant, self.run).await;
        };
        run.state = made.to();
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        unit.note(run_event(self.tenant, self.run, rows::get(row, "version")?, made));
        // Whoever finishes one of these is waited for. What it made meanwhile (the elements of a fan-out)
        // was not there for that look: the second one sees it.
        look_at_open(self.store, &mut unit, (self.tenant, self.run), run.clone()).await?;
        look_at_open(self.store, &mut unit, (self.tenant, self.run), run).await
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
