//! Sessions: a worker process's right to hold attempts, renewed by its heartbeat.
//!
//! The id is drawn at random at each start and never derived from a host, so two workers of one name
//! are two sessions. Only the database's clock decides when a lease ends.

use std::time::Duration;

use async_trait::async_trait;

use super::tx::{Tx, Write};
use super::{Store, StoreError};
use crate::id::SessionId;

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

    /// Renews a session's lease by `ttl`. `false`: it was revoked or has expired, and the worker has
    /// to stop; nothing that it writes is taken any more.
    ///
    /// # Errors
    /// The database's.
    pub async fn heartbeat(&self, session: SessionId, ttl: Duration) -> Result<bool, StoreError> {
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
        let sql = "INSERT INTO worker_session (session, incarnation, kind, pid, binary_version, started_at, \
                   heartbeat_at, expires_at, revoked) VALUES ($1, $2, $3, $4, $5, $6, $6, $7, FALSE)";
        let values = vec![
            self.new.session.to_string().into(),
            self.store.incarnation.0.into(),
            self.new.kind.into(),
            i64::from(std::process::id()).into(),
            env!("CARGO_PKG_VERSION").into(),
            tx.now.into(),
            tx.now.saturating_add(micros(self.new.ttl)).into(),
        ];
        tx.execute(Self::WHAT, sql, values).await?;
        Ok(())
    }
}

struct Heartbeat {
    session: SessionId,
    ttl: Duration,
}

#[async_trait]
impl Write for Heartbeat {
    type Output = bool;
    const WHAT: &'static str = "renew a session";

    async fn apply(&self, tx: &Tx) -> Result<bool, StoreError> {
        let sql = "UPDATE worker_session SET heartbeat_at = $1, expires_at = $2 \
                   WHERE session = $3 AND NOT revoked AND expires_at > $1";
        let expires = tx.now.saturating_add(micros(self.ttl));
        let values = vec![tx.now.into(), expires.into(), self.session.to_string().into()];
        Ok(tx.execute(Self::WHAT, sql, values).await? == 1)
    }
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
