//! What is kept no longer is deleted, and objects that nothing names are collected.
//!
//! An object is an orphan if its run is not there, or has ended and no row names the object: it was put by
//! an attempt that died before its report, or its rows were deleted and a crash came before its own turn.
//! Both wait a grace. An attempt under way is never touched: its run has not ended. Logs stay as long as
//! their run.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::artifact::{ArtifactError, ArtifactStore};
use crate::id::{RunId, TenantId};
use crate::plan::Micros;
use crate::store::{Store, StoreError};
use crate::tenant::Retention;

/// What a round did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Runs that were deleted.
    pub runs: usize,
    /// Runs whose artifacts were deleted.
    pub emptied: usize,
    /// Events that were deleted.
    pub events: u64,
    /// Objects that were deleted, orphans among them.
    pub objects: usize,
}

/// Why a round ended early; the next one goes on.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    /// The store failed.
    #[error("the store failed")]
    Store(#[from] StoreError),
    /// The artifact store failed.
    #[error("the artifact store failed")]
    Artifacts(#[from] ArtifactError),
}

/// One round at `now`. `defaults` holds where a tenant's file says nothing.
///
/// # Errors
/// What either store says.
pub async fn run_once(
    store: &Store,
    artifacts: &ArtifactStore,
    (defaults, grace): (&Retention, Duration),
    now: Micros,
) -> Result<Swept, SweepError> {
    let mut swept = Swept::default();
    for (tenant, own) in store.retentions().await? {
        let kept = own.or(defaults);
        if let Some(before) = ago(now, kept.runs) {
            runs(store, artifacts, (&tenant, before), &mut swept).await?;
        }
        if let Some(before) = ago(now, kept.artifacts) {
            loop {
                let (runs, keys) = store.delete_artifacts(&tenant, before).await?;
                swept.emptied += runs;
                swept.objects += delete(artifacts, &keys).await?;
                if runs == 0 {
                    break;
                }
            }
        }
        if let Some(before) = ago(now, kept.events) {
            loop {
                let events = store.delete_events(&tenant, before).await?;
                swept.events += events;
                if events == 0 {
                    break;
                }
            }
        }
        swept.objects += orphans(store, artifacts, &tenant, now - micros(grace)).await?;
    }
    Ok(swept)
}

/// Deletes drill tenants whose runs have all ended longer than `kept` ago: their rows and all their objects. What
/// their drills came to stays.
///
/// # Errors
/// What either store says.
pub async fn sweep_drills(
    store: &Store,
    artifacts: &ArtifactStore,
    kept: Duration,
    now: Micros,
) -> Result<Swept, SweepError> {
    let (mut swept, before) = (Swept::default(), now.saturating_sub(micros(kept)));
    for tenant in store.old_drill_tenants(before).await? {
        store.delete_drill_models(&tenant).await?;
        runs(store, artifacts, (&tenant, before), &mut swept).await?;
        // Logs, and what attempts left that were killed: nobody else has objects below this tenant.
        let left: Vec<String> = artifacts.list(tenant.as_str()).await?.into_iter().map(|(key, _)| key).collect();
        swept.objects += delete(artifacts, &left).await?;
    }
    Ok(swept)
}

/// Deletes a tenant's runs that ended before, with the objects that were theirs alone.
async fn runs(
    store: &Store,
    artifacts: &ArtifactStore,
    (tenant, before): (&TenantId, Micros),
    swept: &mut Swept,
) -> Result<(), SweepError> {
    loop {
        let (runs, keys) = store.delete_runs(tenant, before).await?;
        swept.runs += runs;
        swept.objects += delete(artifacts, &keys).await?;
        if runs == 0 {
            return Ok(());
        }
    }
}

fn micros(duration: Duration) -> Micros {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn ago(now: Micros, kept: Option<Duration>) -> Option<Micros> {
    Some(now.saturating_sub(micros(kept?)))
}

async fn delete(artifacts: &ArtifactStore, keys: &[String]) -> Result<usize, ArtifactError> {
    for key in keys {
        artifacts.delete(key).await?;
    }
    Ok(keys.len())
}

/// Deletes a tenant's objects of which nothing knows and that are older than `before`.
async fn orphans(
    store: &Store,
    artifacts: &ArtifactStore,
    tenant: &TenantId,
    before: Micros,
) -> Result<usize, SweepError> {
    let mut by_run: BTreeMap<RunId, Vec<String>> = BTreeMap::new();
    for (key, _) in artifacts.list(tenant.as_str()).await? {
        // tenant/dag/run/...: anything else was not put by the engine, and is not its to delete.
        if let Some(run) = key.split('/').nth(2).and_then(|text| RunId::parse(text).ok()) {
            by_run.entry(run).or_default().push(key);
        }
    }
    let ids: Vec<RunId> = by_run.keys().copied().collect();
    let mut known = BTreeMap::new();
    for chunk in ids.chunks(1_000) {
        known.extend(store.known_runs(tenant, chunk).await?);
    }
    let mut deleted = 0;
    for (run, keys) in by_run {
        match known.get(&run) {
            None if made_at(run).is_some_and(|at| at < before) => deleted += delete(artifacts, &keys).await?,
            Some(Some(ended)) if *ended < before => {
                let results: Vec<String> = keys.into_iter().filter(|key| !is_log(key)).collect();
                let named = store.named_keys(tenant, &results).await?;
                let orphans: Vec<String> = results.into_iter().filter(|key| !named.contains(key)).collect();
                deleted += delete(artifacts, &orphans).await?;
            }
            _ => {}
        }
    }
    Ok(deleted)
}

/// When a run's id was made: it is a UUID of version 7.
fn made_at(run: RunId) -> Option<Micros> {
    let (seconds, nanos) = run.as_uuid().get_timestamp()?.to_unix();
    i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos) / 1_000)
}

/// `tenant/dag/run/task/generation.epoch/log/number`
fn is_log(key: &str) -> bool {
    let mut rest = key.split('/').skip(5);
    rest.next() == Some("log") && rest.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_when_it_was_made() {
        let run = RunId::parse("01932c07-209c-7d3a-8b2f-2f0d5a3c9e11").expect("an id");
        assert_eq!(made_at(run), Some(1_731_610_484_892_000));
        assert_eq!(made_at(RunId::from_uuid(uuid::Uuid::nil())), None);
        assert!(is_log("t/d/r/task/1.1/log/000001.jsonl") && !is_log("t/d/r/task/1.1/log"));
    }
}
