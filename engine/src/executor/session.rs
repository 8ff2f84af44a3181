//! This process's lease: opened at the start, renewed by a heartbeat, closed at the end.
//!
//! Used by the executor. A heartbeat that is refused, or that can not reach the database before the
//! lease ends, fires [`Lease::lost`]: the executor stops and publishes nothing more.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::id::SessionId;
use crate::store::{NewSession, Store, StoreError};

/// A heartbeat comes this many times per time-to-live: three may fail before the lease ends.
const BEATS_PER_TTL: u32 = 4;

/// A session in force.
pub(super) struct Lease {
    store: Arc<Store>,
    session: SessionId,
    lost: CancellationToken,
    beat: JoinHandle<()>,
}

impl Lease {
    /// Opens a session and starts its heartbeat.
    pub(super) async fn open(store: Arc<Store>, ttl: Duration) -> Result<Self, StoreError> {
        let session = SessionId::from_uuid(Uuid::new_v4());
        store.open_session(&NewSession { session, kind: "run", ttl }).await?;
        let lost = CancellationToken::new();
        let beat = tokio::spawn(heartbeat(Arc::clone(&store), session, ttl, lost.clone()));
        Ok(Self { store, session, lost, beat })
    }

    /// Its id.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// Returns once the lease is lost.
    pub(super) async fn lost(&self) {
        self.lost.cancelled().await;
    }

    /// Ends the session.
    pub(super) async fn close(self) {
        self.beat.abort();
        if let Err(error) = self.store.close_session(self.session).await {
            tracing::warn!(%error, "can not close the session; its lease will end by itself");
        }
    }
}

async fn heartbeat(store: Arc<Store>, session: SessionId, ttl: Duration, lost: CancellationToken) {
    let mut ticks = tokio::time::interval(ttl / BEATS_PER_TTL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    let mut renewed = Instant::now();
    loop {
        ticks.tick().await;
        let asked = Instant::now();
        match store.heartbeat(session, ttl).await {
            Ok(true) => renewed = asked,
            Ok(false) => return lost.cancel(),
            Err(error) => tracing::warn!(%error, "a heartbeat failed"),
        }
        if renewed.elapsed() >= ttl {
            return lost.cancel();
        }
    }
}
