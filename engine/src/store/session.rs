//! Sessions: a worker process's right to hold attempts, renewed by its heartbeat.
//!
//! The id is drawn at random at each start and never derived from a host, so two workers of one name
//! are two sessions. Only the database's clock decides when a lease ends.

use std::time::Duration;

use async_trait::async_trait;

use super::tx::{Tx, Write};
use super::{Store, StoreError, rows};
use crate::id::{Epoch, InstanceId, RunId, SessionId, TenantId};
use crate::run::RunState;

/// An attempt that a session holds, as the store sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldAttempt {
    /// Whose.
    pub tenant: TenantId,
    /// Of which run.
    pub run: RunId,
    /// Of which task instance.
    pub instance: InstanceId,
    /// Under which epoch.
    pub epoch: Epoch,
    /// Whether its run is being canceled, so that it has to stop.
    pub is_canceled: bool,
}

/// A session to be opened.
#[derive(Debug, Clone)]
pub struct NewSession {
    /// Its id, drawn by the caller.
    pub session: SessionId,
    /// What the process is: `run`, later `worker` or `serve`.
    pub kind: &'static str,
    /// How long it lives without a heartbeat.
    pub ttl: Duration,
}

impl Store {
    /// Opens a session.
    ///
    /// # Errors
    /// The database's.
    pub async fn open_session(&self, session: &NewSession) -> Result<(), StoreError> {
        self.write(&OpenSession { store: self, new: session }).await
    }

    /// Renews a session's lease by `ttl`, and returns what it holds. `None`: the session was revoked or
    /// has expired, and the worker has to stop; nothing that it writes is taken any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn heartbeat(&self, session: SessionId, ttl: Duration) -> Result<Option<Vec<HeldAttempt>>, StoreError> {
        self.sync_clock().await?;
        self.write(&Heartbeat { session, ttl }).await
    }

    /// Ends a session for good: what it still holds is anyone's.
    ///
    /// # Errors
    /// The database's.
    pub async fn close_session(&self, session: SessionId) -> Result<(), StoreError> {
        self.write(&CloseSession { session }).await
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

struct OpenSession<'a> {
    store: &'a Store,
    new: &'a NewSession,
}

#[async_trait]
impl Write for OpenSession<'_> {
    type Output = ();
    const WHAT: &'static str = "open a session";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let now = tx.dialect.now();
        let sql = format!(
            "INSERT INTO worker_session (session, incarnation, kind, pid, binary_version, started_at, \
                   heartbeat_at, expires_at, revoked) \
                   VALUES ($1, $2, $3, $4, $5, {now}, {now}, {now} + $6, FALSE) ON CONFLICT (session) DO NOTHING"
        );
        let values = vec![
            self.new.session.to_string().into(),
            self.store.incarnation.0.into(),
            self.new.kind.into(),
            i64::from(std::process::id()).into(),
            env!("CARGO_PKG_VERSION").into(),
            micros(self.new.ttl).into(),
        ];
        tx.execute(Self::WHAT, &sql, values).await?;
        Ok(())
    }
}

struct Heartbeat {
    session: SessionId,
    ttl: Duration,
}

#[async_trait]
impl Write for Heartbeat {
    type Output = Option<Vec<HeldAttempt>>;
    const WHAT: &'static str = "renew a session";

    async fn apply(&self, tx: &Tx) -> Result<Self::Output, StoreError> {
        let now = tx.dialect.now();
        let sql = format!(
            "UPDATE worker_session SET heartbeat_at = {now}, expires_at = {now} + $1 \
             WHERE session = $2 AND NOT revoked AND expires_at > {now}"
        );
        let session = self.session.to_string();
        if tx.execute(Self::WHAT, &sql, vec![micros(self.ttl).into(), session.clone().into()]).await? == 0 {
            return Ok(None);
        }
        let sql = "SELECT t.tenant, t.run, t.task, t.element, t.generation, t.epoch, u.state FROM task_instance t \
                   JOIN run u ON u.tenant = t.tenant AND u.run = t.run \
                   WHERE t.session = $1 AND t.state = 'running'";
        let found = tx.all(Self::WHAT, sql, vec![session.into()]).await?;
        let held: Result<Vec<_>, StoreError> = found.iter().map(held_attempt).collect();
        Ok(Some(held?))
    }
}

fn held_attempt(row: &sea_orm::QueryResult) -> Result<HeldAttempt, StoreError> {
    let key = rows::key(row)?;
    Ok(HeldAttempt {
        tenant: key.tenant,
        run: key.run,
        instance: key.instance,
        epoch: rows::epoch(row)?,
        is_canceled: rows::run_state(row)? == RunState::Canceling,
    })
}

struct CloseSession {
    session: SessionId,
}

#[async_trait]
impl Write for CloseSession {
    type Output = ();
    const WHAT: &'static str = "close a session";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let sql = "UPDATE worker_session SET revoked = TRUE WHERE session = $1";
        tx.execute(Self::WHAT, sql, vec![self.session.to_string().into()]).await?;
        Ok(())
    }
}
