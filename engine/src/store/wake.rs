//! Wake-ups: that something may be ready, for whoever has a free slot.
//!
//! A wake-up carries no data and may be lost: a poll of [`Store::pending`] is the truth. Inside a
//! process it is a [`watch`] channel. Between processes on Postgres one task per process sends a
//! NOTIFY, outside of any state's transaction (NOTIFY takes a database-wide lock at commit) and at
//! most ten times a second, and one connection listens.

use std::sync::Arc;
use std::time::Duration;

use sea_orm::sqlx::Executor;
use sea_orm::sqlx::postgres::PgListener;
use tokio::sync::watch;

use super::dialect::Dialect;
use super::drill::no_drill;
use super::{ClaimScope, Store, StoreError, rows, tx};
use crate::plan::Micros;

/// The channel's name.
const CHANNEL: &str = "headworks_ready";
/// Notifications are no closer together than this.
const APART: Duration = Duration::from_millis(100);
/// How long until a lost listener is opened again.
const REOPEN: Duration = Duration::from_secs(1);
/// A listener that heard nothing for so long is asked whether it is still connected.
const SILENCE: Duration = Duration::from_secs(30);

/// What waits for a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pending {
    /// Whether a task instance is ready.
    pub is_ready: bool,
    /// When the next retry comes due.
    pub retry_due: Option<Micros>,
    /// The present moment, by the same clock.
    pub now: Micros,
}

impl Store {
    /// What waits, in one read.
    ///
    /// # Errors
    /// The database's.
    pub async fn pending(&self, scope: &ClaimScope) -> Result<Pending, StoreError> {
        let (filter, values): (String, Vec<sea_orm::Value>) = match scope {
            ClaimScope::Any => (format!(" AND {}", no_drill("tenant")), Vec::new()),
            ClaimScope::Run { tenant, run } => {
                (" AND tenant = $1 AND run = $2".to_owned(), vec![tenant.to_string().into(), run.to_string().into()])
            }
        };
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM task_instance WHERE state = 'ready'{filter}) AS is_ready, \
             (SELECT MIN(not_before) FROM task_instance WHERE state = 'retry_wait'{filter}) AS retry_due"
        );
        let found = tx::read(&self.db, "look for what waits", &sql, values).await?;
        let row = found.first().ok_or(StoreError::Corrupt { what: "queue", detail: "no answer came back".into() })?;
        Ok(Pending { is_ready: rows::get(row, "is_ready")?, retry_due: rows::get(row, "retry_due")?, now: self.now() })
    }

    /// The present moment by the database's clock, as far as this process knows it.
    pub fn now(&self) -> Micros {
        self.clock.now()
    }

    /// Changes whenever something may have become ready; none is missed between two looks.
    pub fn wake_ups(&self) -> watch::Receiver<()> {
        self.ready.subscribe()
    }

    /// Wakes this process and, on Postgres, the others. Called after a commit that made something
    /// ready which its own process did not claim.
    pub(super) fn wake(&self) {
        self.ready.send_replace(());
        self.outgoing.notify_one();
    }

    /// Sends and receives notifications until it is dropped; does nothing on SQLite, where all are in
    /// one process. Failures only make wake-ups late.
    pub async fn relay_wake_ups(self: Arc<Self>) {
        if self.dialect == Dialect::Sqlite {
            return std::future::pending().await;
        }
        tokio::join!(self.send(), self.receive());
    }

    async fn send(&self) {
        let sql = format!("SELECT pg_notify('{CHANNEL}', '')");
        loop {
            self.outgoing.notified().await;
            if let Err(error) = tx::read(&self.db, "notify", &sql, vec![]).await {
                tracing::debug!(%error, "a wake-up was not sent");
            }
            tokio::time::sleep(APART).await;
        }
    }

    async fn receive(&self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::debug!(%error, "the listener was lost");
            }
            tokio::time::sleep(REOPEN).await;
        }
    }

    async fn listen(&self) -> Result<(), sea_orm::sqlx::Error> {
        let mut listener = PgListener::connect_with(self.db.handle().get_postgres_connection_pool()).await?;
        listener.listen(CHANNEL).await?;
        // What was sent while nobody listened.
        self.ready.send_replace(());
        loop {
            match tokio::time::timeout(SILENCE, listener.recv()).await {
                Ok(notification) => {
                    notification?;
                    self.ready.send_replace(());
                }
                // Nothing to say, or nothing gets through: only an answer tells.
                Err(_) => {
                    let answer = self.db.within(listener.execute("SELECT 1")).await;
                    answer.map_err(|_| sea_orm::sqlx::Error::PoolTimedOut)??;
                }
            }
        }
    }
}
