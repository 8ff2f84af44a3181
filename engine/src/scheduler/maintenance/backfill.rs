//! Backfills: their next runs are made, some hundreds at a time; those whose runs have ended are completed.

use std::time::{Duration, Instant};

use serde_json::json;
use uuid::Uuid;

use crate::id::RunId;
use crate::launch::{LaunchError, Launcher, Request};
use crate::store::{AlertKind, BackfillChunk, NewAlert, NewRun, PastFire, RunKind, Store, StoreError, chain};

/// The most that one round takes: what comes due meanwhile must not wait longer.
const ROUND: Duration = Duration::from_secs(2);

/// One round. Returns how many runs were made.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &Store, launcher: &Launcher) -> Result<usize, StoreError> {
    let started = Instant::now();
    let mut made = 0;
    let mut left = store.unfinished_backfills().await?;
    while !left.is_empty() && started.elapsed() < ROUND {
        let mut open = Vec::new();
        // One chunk of each in turn: a long backfill does not keep a short one waiting.
        for (tenant, id) in left {
            let Some(chunk) = store.backfill_chunk(&tenant, id).await? else { continue };
            match runs(&chunk, launcher) {
                Ok(runs) => {
                    // None: paused, or the tenant's queue is full. The next round looks again.
                    if let Some(count) = store.make_backfill_runs(&chunk, &runs).await? {
                        made += count;
                        open.push((tenant, id));
                    }
                }
                Err(error) => tell(store, &chunk, &error).await?,
            }
        }
        left = open;
    }
    store.complete_backfills().await?;
    Ok(made)
}

async fn tell(store: &Store, chunk: &BackfillChunk, error: &LaunchError) -> Result<(), StoreError> {
    let (tenant, dag, subject) = (&chunk.tenant, &chunk.dag.id, chunk.id.to_string());
    let alert = NewAlert {
        tenant,
        dag,
        kind: AlertKind::LaunchFailed,
        subject: &subject,
        run: None,
        message: format!("no run of backfill {subject} of {dag} can be made for {tenant}: {}", chain(error)),
        detail: json!({}),
    };
    store.raise_alerts(&[alert]).await
}

/// The runs of a chunk: what they are pinned to is read once.
fn runs(chunk: &BackfillChunk, launcher: &Launcher) -> Result<Vec<NewRun>, LaunchError> {
    let Some(first) = chunk.fires.first() else { return Ok(Vec::new()) };
    let model = launcher.prepare(Request {
        run: RunId::from_uuid(Uuid::now_v7()),
        dag: std::sync::Arc::clone(&chunk.dag),
        kind: RunKind::Backfill(chunk.id),
        tenant: chunk.tenant.clone(),
        tenant_params: chunk.overlay.clone(),
        params: chunk.params.clone(),
        seed: 0,
        logical_time: first.0,
        interval: Some((first.1, first.2)),
        queue_rank: None,
        start_at: 0,
    })?;
    let from = i64::try_from(chunk.made).unwrap_or(i64::MAX);
    let run = |(at, fire): (i64, &PastFire)| NewRun {
        run: RunId::from_uuid(Uuid::now_v7()),
        logical_time: fire.0,
        interval: Some((fire.1, fire.2)),
        queue_rank: from + at,
        ..model.clone()
    };
    Ok((0..).zip(&chunk.fires).map(run).collect())
}
