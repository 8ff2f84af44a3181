//! Backfills: their next runs are made, some hundreds at a time; those whose runs have ended are completed.

use std::collections::BTreeSet;

use serde_json::json;
use uuid::Uuid;

use super::fire::chain;
use crate::id::RunId;
use crate::launch::{LaunchError, Launcher, Request};
use crate::store::{AlertKind, BackfillChunk, NewAlert, NewRun, PastFire, RunKind, Store, StoreError};

/// One round. Returns how many runs were made.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &Store, launcher: &Launcher) -> Result<usize, StoreError> {
    let mut made = 0;
    let mut waiting = BTreeSet::new();
    loop {
        let chunks = store.backfill_chunks().await?;
        let open: Vec<_> = chunks.into_iter().filter(|chunk| !waiting.contains(&chunk.id)).collect();
        if open.is_empty() {
            break;
        }
        for chunk in &open {
            match runs(chunk, launcher) {
                Ok(runs) => match store.make_backfill_runs(chunk, &runs).await? {
                    Some(count) => made += count,
                    // Paused, or the tenant's queue is full: the next round looks again.
                    None => {
                        waiting.insert(chunk.id);
                    }
                },
                Err(error) => {
                    waiting.insert(chunk.id);
                    tell(store, chunk, &error).await?;
                }
            }
        }
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
