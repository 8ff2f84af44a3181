//! This process's lease: opened at the start, renewed by a heartbeat, closed at the end.
//!
//! Used by the dispatcher. Each heartbeat brings what the store says this session holds. One that is
//! refused ends the lease; so does the last moment at which attempts can still be stopped before the
//! lease ends by the database's clock, if no heartbeat came through by then.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::id::SessionId;
use crate::store::{HeldAttempt, NewSession, Store, StoreError};

/// A heartbeat comes this many times per time-to-live.
const BEATS_PER_TTL: u32 = 4;

/// After one that failed the next comes sooner: within what is left there is time for many.
const AGAIN_PER_TTL: u32 = 32;

/// A session in force.
pub(super) struct Lease {
    store: Arc<Store>,
    session: SessionId,
    beats: mpsc::UnboundedReceiver<Beat>,
    beat: JoinHandle<()>,
    lost: CancellationToken,
}

/// What a heartbeat brought.
pub(super) struct Beat {
    /// When it was asked for.
    pub(super) asked: Instant,
    /// What the session holds.
    pub(super) held: Vec<HeldAttempt>,
}

impl Lease {
    /// Opens a session and starts its heartbeat.
    pub(super) async fn open(store: Arc<Store>, kind: &'static str, ttl: Duration) -> Result<Self, StoreError> {
        let session = SessionId::from_uuid(Uuid::new_v4());
        let opened = Instant::now();
        store.open_session(&NewSession { session, kind, ttl }).await?;
        let (sender, beats) = mpsc::unbounded_channel();
        let (renewing, lost) = (Arc::clone(&store), CancellationToken::new());
        let end = lost.clone().drop_guard();
        let beat = tokio::spawn(async move {
            // Fires also should the heartbeat panic.
            let _end = end;
            heartbeat(renewing, session, ttl, opened, sender).await;
        });
        Ok(Self { store, session, beats, beat, lost })
    }

    /// Its id.
    pub(super) fn session(&self) -> SessionId {
        self.session
    }

    /// The next heartbeat; `None` once the lease is lost.
    pub(super) async fn beat(&mut self) -> Option<Beat> {
        self.beats.recv().await
    }

    /// Fires once the lease is lost, for whoever is in the middle of something else.
    pub(super) fn lost(&self) -> CancellationToken {
        self.lost.clone()
    }

    /// Ends the session.
    pub(super) async fn close(self) {
        self.beat.abort();
        if let Err(error) = self.store.close_session(self.session).await {
            tracing::warn!(%error, "can not close the session; its lease will end by itself");
        }
    }
}

/// Renews until the lease is lost; the end of the channel says so.
async fn heartbeat(
    store: Arc<Store>,
    session: SessionId,
    ttl: Duration,
    opened: Instant,
    beats: mpsc::UnboundedSender<Beat>,
) {
    let mut ticks = tokio::time::interval(ttl / BEATS_PER_TTL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    // An eighth of the time is for stopping the attempts.
    let last = ttl - ttl / 8;
    let mut renewed = opened;
    loop {
        let left = last.saturating_sub(renewed.elapsed());
        if tokio::time::timeout(left, ticks.tick()).await.is_err() {
            tracing::warn!(%session, "no heartbeat came through; the lease is given up before it ends");
            return;
        }
        let asked = Instant::now();
        let left = last.saturating_sub(renewed.elapsed());
        // One that hangs must not cost the lease: the next may come through.
        match tokio::time::timeout(left.min(ttl / BEATS_PER_TTL), store.heartbeat(session, ttl)).await {
            Ok(Ok(Some(held))) => {
                renewed = asked;
                if beats.send(Beat { asked, held }).is_err() {
                    return;
                }
            }
            Ok(Ok(None)) => {
                tracing::warn!(%session, "this session was revoked, or its lease has ended");
                return;
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "a heartbeat failed");
                ticks.reset_after(ttl / AGAIN_PER_TTL);
            }
            Err(_) => {
                tracing::warn!(%session, "a heartbeat was not answered in time");
                ticks.reset_after(ttl / AGAIN_PER_TTL);
            }
        }
    }
}
