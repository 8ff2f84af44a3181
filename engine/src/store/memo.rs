//! Memoization: what a task instance hangs on as one digest, and the results on record for it.
//!
//! The executor asks before an attempt of a task with `cache = true` does its work, and checks the objects
//! behind a result before it believes it; `finish` records the keys of what was computed. `replay` compares
//! digests, too: two instances with one digest saw the same.

use sea_orm::{ColumnTrait, EntityTrait, QueryFilter, QueryOrder};
use serde_json::{Value, json};

use super::dialect::Kind;
use super::entity::artifact;
use super::rows::{self, InstanceKey, element, extend, keyed_rows, param};
use super::tx::{self, Part, Tx};
use super::work::read_artifact;
use super::{Finish, Store, StoreError, Work};
use crate::artifact::ArtifactRef;
use crate::dag::{DependsOn, KindInfo};
use crate::id::{Digest, InstanceId, RunId, TenantId};

/// Raised when the digest is made of something else: old rows then match nothing.
const KEY_VERSION: u32 = 1;

/// Results looked at for one key: where the newest ones are damaged, older ones may be whole.
const HITS_READ: u32 = 3;

/// How an attempt of a task with `cache = true` came by its result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memo {
    /// What it hangs on.
    pub key: Digest,
    /// The run whose result was linked; `None` = it was computed.
    pub linked: Option<RunId>,
}

/// A result on record.
#[derive(Debug, Clone, PartialEq)]
pub struct MemoHit {
    /// The run that computed it.
    pub run: RunId,
    /// The task instance that did.
    pub instance: InstanceId,
    /// A JSON object.
    pub outputs: Value,
    /// What it published.
    pub artifacts: Vec<ArtifactRef>,
}

/// What the result of a task instance hangs on: its kind and that one's code version, rendered parameters,
/// the digests of its inputs by producer and name, its documents, its seed, and, unless the kind says that
/// it looks at nothing else, the moment and interval of its run.
pub fn memo_key(kind: &KindInfo, with: &Value, work: &Work) -> Digest {
    let inputs: Vec<_> =
        work.inputs.iter().map(|it| json!([it.producer.to_string(), it.artifact.name, it.artifact.digest])).collect();
    let documents: Vec<_> =
        work.documents.iter().map(|(param, text)| json!([param, Digest::of(text.as_bytes())])).collect();
    let facts = &work.facts;
    let moment = (kind.depends_on != DependsOn::Inputs)
        .then(|| json!([facts.logical_time, facts.interval_start, facts.interval_end]));
    let whole = json!([
        KEY_VERSION,
        kind.name,
        kind.code_version,
        with,
        inputs,
        documents,
        work.claim.seed.to_string(),
        moment,
    ]);
    Digest::of(whole.to_string().as_bytes())
}

impl Store {
    /// Results of a tenant on record for a key, the newest first. Their objects are yet to be checked.
    ///
    /// # Errors
    /// The database's.
    pub async fn memo_hits(&self, tenant: &TenantId, key: Digest) -> Result<Vec<MemoHit>, StoreError> {
        let sql = format!(
            "SELECT m.run, m.task, m.element, m.generation, m.epoch, t.outputs FROM memo m \
             JOIN task_instance t ON t.tenant = m.tenant AND t.run = m.run AND t.task = m.task \
             AND t.element = m.element AND t.generation = m.generation AND t.epoch = m.epoch AND t.state = 'succeeded' \
             WHERE m.tenant = $1 AND m.memo_key = $2 ORDER BY m.created_at DESC LIMIT {HITS_READ}"
        );
        let values = vec![tenant.to_string().into(), key.to_string().into()];
        let found = tx::read(&self.db, "look for a memoized result", &sql, values).await?;
        let mut hits = Vec::with_capacity(found.len());
        for row in &found {
            let (run, instance) = (rows::parse(row, "run", RunId::parse)?, rows::instance(row)?);
            let (generation, epoch): (i64, i64) = (rows::get(row, "generation")?, rows::get(row, "epoch")?);
            let published = artifact::Entity::find()
                .filter(artifact::Column::Tenant.eq(tenant.as_str()))
                .filter(artifact::Column::Run.eq(run.to_string()))
                .filter(artifact::Column::Task.eq(instance.task.as_str()))
                .filter(artifact::Column::Element.eq(element(instance.index)))
                .filter(artifact::Column::Generation.eq(generation))
                .filter(artifact::Column::Epoch.eq(epoch))
                .order_by_asc(artifact::Column::Name)
                .all(&self.db)
                .await
                .map_err(StoreError::query("read a memoized result"))?;
            let artifacts = published.iter().map(read_artifact).collect::<Result<_, _>>()?;
            hits.push(MemoHit { run, instance, outputs: rows::get_json(row, "outputs")?, artifacts });
        }
        Ok(hits)
    }
}

/// The row of a result that was computed.
pub(super) fn row(key: &InstanceKey, finish: &Finish) -> Option<Value> {
    let memo = finish.memo.filter(|memo| memo.linked.is_none())?;
    Some(extend(key.json(), json!({ "memo_key": memo.key, "epoch": finish.identity.epoch.0 })))
}

/// Records keys, with the flush.
pub(super) fn part(tx: &Tx, rows: Vec<Value>) -> Part {
    let sql = format!(
        "INSERT INTO memo (tenant, memo_key, run, task, element, generation, epoch, created_at) \
         SELECT r.tenant, r.memo_key, r.run, r.task, r.element, r.generation, r.epoch, $2 FROM {} \
         WHERE TRUE ON CONFLICT DO NOTHING",
        keyed_rows(tx.dialect, 1, &[("memo_key", Kind::Text), ("epoch", Kind::Int)])
    );
    Part::new("record memo keys", sql, vec![param(rows), tx.now.into()])
}
