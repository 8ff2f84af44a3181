//! Whether an attempt has to do its work: a task with `cache = true` may link to an earlier result.
//!
//! Called by `attempt` before it starts anything. An earlier result counts only with all its objects as they
//! were published; what is damaged stays where it is, and the work is done anew under this attempt's keys.

use serde_json::Value;

use super::attempt::Environment;
use crate::dag::{DependsOn, KindCatalog};
use crate::store::{Memo, MemoHit, Work, chain, memo_key};

/// The attempt's memo, and the result to link to, if there is one. `None` without `cache = true`, and for
/// a kind whose results hang on more than the engine pins. An attempt that a drill strikes does its work: it is on
/// record that it was struck, and what comes of it is nobody else's to link to.
pub(super) async fn look(environment: &Environment, work: &Work, with: &Value) -> Option<(Memo, Option<MemoHit>)> {
    let task = work.task().ok().filter(|task| task.cache && work.faults.is_empty())?;
    let kind = environment.kinds.kind(&task.kind).filter(|kind| kind.depends_on != DependsOn::Outside)?;
    let key = memo_key(kind, with, work);
    let computed = (Memo { key, linked: None }, None);
    if !work.may_be_memoized {
        return Some(computed);
    }
    let identity = &work.claim.identity;
    let hits = match environment.store.memo_hits(&identity.tenant, key).await {
        Ok(hits) => hits,
        Err(error) => {
            tracing::warn!(error = chain(&error), "can not look for a memoized result; the work is done");
            return Some(computed);
        }
    };
    for hit in hits {
        if is_whole(environment, &hit).await {
            return Some((Memo { key, linked: Some(hit.run) }, Some(hit)));
        }
    }
    Some(computed)
}

async fn is_whole(environment: &Environment, hit: &MemoHit) -> bool {
    for artifact in &hit.artifacts {
        if let Err(error) = environment.artifacts.verify(artifact).await {
            let (run, instance) = (hit.run, &hit.instance);
            tracing::warn!(%run, %instance, error = chain(&error), "a memoized result can not be linked to");
            return false;
        }
    }
    true
}
