//! What a drill puts between an attempt and its object store: failures, delays, and a place to stop at.
//!
//! Made by the executor for attempts of drill runs only; without it `store` asks nobody. It knows nothing of drills:
//! who may be interfered with is decided where faults are pinned and read.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use crate::artifact::ArtifactError;

/// What goes wrong with one attempt's requests.
#[derive(Debug, Default)]
pub struct Interference {
    /// Requests that write are struck.
    pub puts: bool,
    /// Requests that read are struck.
    pub gets: bool,
    /// How many still fail; [`u32::MAX`] = all.
    pub failures: AtomicU32,
    /// How long each request that is struck takes in addition.
    pub latency: Duration,
    /// Told after the first object is published; the publisher then waits for ever.
    pub stop_after_put: Option<Arc<Notify>>,
}

impl Interference {
    /// Comes before a request.
    pub(super) async fn before(&self, key: &str, is_put: bool) -> Result<(), ArtifactError> {
        if !(if is_put { self.puts } else { self.gets }) {
            return Ok(());
        }
        tokio::time::sleep(self.latency).await;
        let used_up = |left: u32| match left {
            0 => None,
            u32::MAX => Some(u32::MAX),
            left => Some(left - 1),
        };
        if self.failures.fetch_update(Ordering::Relaxed, Ordering::Relaxed, used_up).is_err() {
            return Ok(());
        }
        let source = object_store::Error::Generic { store: "drill", source: "injected: the store is down".into() };
        Err(ArtifactError::Store { key: key.to_owned(), source })
    }

    /// Comes after an object was published.
    pub(super) async fn after_put(&self) {
        if let Some(stop) = &self.stop_after_put {
            stop.notify_one();
            std::future::pending::<()>().await;
        }
    }
}
