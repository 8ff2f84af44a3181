//! Claiming: ready task instances become attempts of a session, each under a new epoch.
//!
//! Postgres picks the rows in a materialized CTE with SKIP LOCKED, so claimers never wait for each
//! other; SQLite has one writer. The epoch that a claim raises is the fencing token of every later
//! write for the attempt.

use async_trait::async_trait;
use serde_json::{Value, json};

use super::StoreError;
use super::dialect::Kind;
use super::events::{Holder, task_event};
use super::rows::{self, InstanceKey, extend, keyed_rows, param};
use super::tx::{Tx, Write};
use crate::id::{AttemptNumber, DagId, Incarnation, RunId, SessionId, TenantId};
use crate::run::{AttemptState, TaskEvent, TaskState, transition};
use crate::store::Store;
use crate::task::AttemptIdentity;

/// Whose ready task instances to claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimScope {
    /// Anyone's.
    Any,
    /// One run's.
    Run {
        /// Whose.
        tenant: TenantId,
        /// Which.
        run: RunId,
    },
}

/// A claimed attempt: recorded before it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Which attempt, under which epoch.
    pub identity: AttemptIdentity,
    /// The task instance's seed.
    pub seed: u64,
}

impl Store {
    /// Claims up to `limit` ready task instances for `session`: by priority, then by age.
    ///
    /// # Errors
    /// The database's.
    pub async fn claim(&self, session: SessionId, scope: &ClaimScope, limit: usize) -> Result<Vec<Claim>, StoreError> {
        if limit == 0 {
            return Ok(Vec::new());
        }
        self.write(&ClaimReady { session, scope, limit, incarnation: self.incarnation }).await
    }
}

/// The claim as a step of a transaction.
pub(super) struct ClaimReady<'a> {
    pub(super) session: SessionId,
    pub(super) scope: &'a ClaimScope,
    pub(super) limit: usize,
    pub(super) incarnation: Incarnation,
}

#[async_trait]
impl Write for ClaimReady<'_> {
    type Output = Vec<Claim>;
    const WHAT: &'static str = "claim ready task instances";

    async fn apply(&self, tx: &Tx) -> Result<Vec<Claim>, StoreError> {
        let made = transition(TaskState::Ready, TaskEvent::Claimed)?;
        let mut values: Vec<sea_orm::Value> = vec![
            self.session.to_string().into(),
            tx.now.into(),
            i64::try_from(self.limit).unwrap_or(i64::MAX).into(),
            self.incarnation.0.into(),
        ];
        let filter = match self.scope {
            ClaimScope::Any => "",
            ClaimScope::Run { tenant, run } => {
                values.extend([tenant.to_string().into(), run.to_string().into()]);
                " AND tenant = $5 AND run = $6"
            }
        };
        let sql = format!(
            "WITH picked AS MATERIALIZED (\
             SELECT tenant, run, task, element, generation FROM task_instance \
             WHERE state = '{from}' AND EXISTS (SELECT 1 FROM worker_session s WHERE s.session = $1 AND NOT s.revoked)\
             {filter} ORDER BY priority DESC, ready_at, tenant, run, ordinal LIMIT $3{lock}) \
             UPDATE task_instance SET state = '{to}', epoch = task_instance.epoch + 1, \
             attempts = task_instance.attempts + 1, version = task_instance.version + 1, session = $1, \
             incarnation = $4, reason = NULL, \
             started_at = CASE WHEN task_instance.started_at IS NULL THEN $2 ELSE task_instance.started_at END \
             FROM picked AS r WHERE {key} AND task_instance.state = '{from}' \
             RETURNING task_instance.tenant, task_instance.run, task_instance.task, task_instance.element, \
             task_instance.generation, epoch, attempts, version, seed, ordinal, dag",
            from = made.from(),
            to = made.to(),
            lock = tx.dialect.skip_locked(),
            key = InstanceKey::join("task_instance"),
        );
        let found = tx.all(Self::WHAT, &sql, values).await?;
        let mut claims = Vec::with_capacity(found.len());
        let mut events = Vec::with_capacity(found.len());
        for row in &found {
            let key = rows::key(row)?;
            let claim = read_claim(row, &key)?;
            let holder = Holder { attempt: claim.identity.attempt, epoch: claim.identity.epoch, session: self.session };
            events.push(task_event(&key, rows::get(row, "version")?, made, Some(holder), None));
            claims.push((rows::get::<i64>(row, "ordinal")?, claim));
        }
        claims.sort_by_key(|(ordinal, _)| *ordinal);
        let claims: Vec<_> = claims.into_iter().map(|(_, claim)| claim).collect();
        insert_attempts(tx, self.session, &claims).await?;
        tx.append_events(events).await?;
        Ok(claims)
    }
}

fn read_claim(row: &sea_orm::QueryResult, key: &InstanceKey) -> Result<Claim, StoreError> {
    let seed: i64 = rows::get(row, "seed")?;
    Ok(Claim {
        identity: AttemptIdentity {
            tenant: key.tenant.clone(),
            dag: rows::parse(row, "dag", DagId::parse)?,
            run: key.run,
            instance: key.instance.clone(),
            generation: key.generation,
            attempt: AttemptNumber(rows::get(row, "attempts")?),
            epoch: rows::epoch(row)?,
        },
        seed: seed.cast_unsigned(),
    })
}

/// The key of an attempt's task instance.
pub(super) fn key_of(identity: &AttemptIdentity) -> InstanceKey {
    InstanceKey {
        tenant: identity.tenant.clone(),
        run: identity.run,
        instance: identity.instance.clone(),
        generation: identity.generation,
    }
}

async fn insert_attempts(tx: &Tx, session: SessionId, claims: &[Claim]) -> Result<(), StoreError> {
    if claims.is_empty() {
        return Ok(());
    }
    let attempts: Vec<Value> = claims
        .iter()
        .map(|claim| {
            let fields = json!({ "attempt": claim.identity.attempt.0, "epoch": claim.identity.epoch.0 });
            extend(key_of(&claim.identity).json(), fields)
        })
        .collect();
    let sql = format!(
        "INSERT INTO attempt (tenant, run, task, element, generation, attempt, epoch, session, state, started_at) \
         SELECT r.tenant, r.run, r.task, r.element, r.generation, r.attempt, r.epoch, $2, $3, $4 FROM {}",
        keyed_rows(tx.dialect, 1, &[("attempt", Kind::Int), ("epoch", Kind::Int)])
    );
    let state = AttemptState::Running.as_str();
    let values = vec![param(attempts), session.to_string().into(), state.into(), tx.now.into()];
    tx.execute("insert the attempts", &sql, values).await?;
    Ok(())
}
