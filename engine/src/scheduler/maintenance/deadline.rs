//! Deadlines: a run that will miss its own, by its history, is told of while there is time; one that has
//! missed it is told of once, until a later one is in time again.

use std::collections::BTreeMap;

use serde_json::json;

use crate::clock::rfc3339;
use crate::id::{DagId, RunId, TenantId};
use crate::plan::forecast_end;
use crate::store::{AlertKind, NewAlert, Store, StoreError};

/// One round.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &Store) -> Result<(), StoreError> {
    let mut histories = BTreeMap::new();
    for it in store.timed_runs().await? {
        let pair = (it.tenant.clone(), it.dag.id.clone());
        if !histories.contains_key(&pair) {
            histories.insert(pair.clone(), store.durations(&it.tenant, &it.dag.id).await?);
        }
        let progress = store.progress(&it.tenant, it.run).await?;
        let Some(end) = histories.get(&pair).and_then(|took| forecast_end(&it.dag, &progress, took, it.now)) else {
            continue;
        };
        let subject = it.run.to_string();
        if end > it.deadline {
            let message = format!(
                "run {} of {} for {} should be over by {}; by its history it ends at {} at the earliest",
                it.run,
                it.dag.id,
                it.tenant,
                rfc3339(it.deadline),
                rfc3339(end)
            );
            let alert = NewAlert {
                tenant: &it.tenant,
                dag: &it.dag.id,
                kind: AlertKind::DeadlineAtRisk,
                subject: &subject,
                run: Some(it.run),
                message,
                detail: json!({ "deadline": rfc3339(it.deadline), "forecast": rfc3339(end) }),
            };
            store.raise_alerts(&[alert]).await?;
        }
    }
    for (tenant, dag, run) in store.late_runs().await? {
        missed(store, &tenant, &dag, run).await?;
    }
    for (kind, tenant, dag, run) in store.settled_deadlines().await? {
        store.resolve_alert((&tenant, &dag), kind, &run.to_string()).await?;
    }
    Ok(())
}

async fn missed(store: &Store, tenant: &TenantId, dag: &DagId, run: RunId) -> Result<(), StoreError> {
    let subject = run.to_string();
    let alert = NewAlert {
        tenant,
        dag,
        kind: AlertKind::DeadlineMissed,
        subject: &subject,
        run: Some(run),
        message: format!("run {run} of {dag} for {tenant} was not over by its deadline"),
        detail: json!({}),
    };
    store.raise_alerts(&[alert]).await
}
