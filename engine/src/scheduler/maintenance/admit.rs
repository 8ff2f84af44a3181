//! Queued runs whose turn has come are started; what an overlap policy ends is canceled.

use serde_json::json;

use crate::store::{AlertKind, NewAlert, Store, StoreError};

/// One round. Returns how many runs started.
///
/// # Errors
/// The store's.
pub async fn run_once(store: &Store) -> Result<usize, StoreError> {
    let admitted = store.admit().await?;
    for (tenant, run) in &admitted.to_cancel {
        store.cancel(tenant, *run).await?;
        let dag = crate::id::DagId::parse(&store.run_summary(tenant, *run).await?.dag).ok();
        let Some(dag) = dag else { continue };
        let message = format!("run {run} of {dag} for {tenant} was canceled: as many are active as may (`overlap`)");
        let subject = run.to_string();
        let alert = NewAlert {
            tenant,
            dag: &dag,
            kind: AlertKind::Overlap,
            subject: &subject,
            run: Some(*run),
            message,
            detail: json!({}),
        };
        store.raise_alerts(&[alert]).await?;
    }
    Ok(admitted.started.len())
}
