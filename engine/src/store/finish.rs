//! Finishing attempts: check the fence, record the outcome, register what was published, advance.
//!
//! All finishes that arrive together are one transaction. A report whose fence no longer holds is
//! refused and recorded as an event of its task instance; it changes nothing else, and the others of
//! its batch are not touched by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::advance::{self, Ended, RunRow};
use super::claim::key_of;
use super::dialect::Kind;
use super::events::{Holder, task_event, task_note};
use super::rows::{self, InstanceKey, extend, keyed_rows, param};
use super::tx::{Tx, Write};
use super::{Store, StoreError, registry};
use crate::artifact::ArtifactRef;
use crate::dag::{Dag, Task};
use crate::id::{Digest, RunId, SessionId, TenantId};
use crate::plan::{AttemptFailure, FailureKind, FailurePlan, Micros, Reason, after_failure};
use crate::registry::RegistryChange;
use crate::run::{AttemptEvent, AttemptState, RunState, TaskEvent, TaskState, Transition, is_terminal, transition};
use crate::task::{AttemptIdentity, ErrorClass, Input};

/// An attempt's end, as its worker reports it.
#[derive(Debug, Clone)]
pub struct Finish {
    /// Which attempt, under which epoch.
    pub identity: AttemptIdentity,
    /// The session that holds it.
    pub session: SessionId,
    /// How it ended.
    pub outcome: Outcome,
    /// What it published; visible from this transaction on.
    pub artifacts: Vec<ArtifactRef>,
    /// What it read.
    pub inputs: Vec<Input>,
}

/// How an attempt ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Well.
    Succeeded {
        /// A JSON object.
        outputs: Value,
        /// Changes to the tenant's model registry.
        registry: Vec<RegistryChange>,
    },
    /// Badly.
    Failed {
        /// How.
        kind: FailureKind,
        /// Whose fault.
        class: ErrorClass,
        /// What it said.
        message: String,
    },
}

/// What the store made of a report.
#[derive(Debug, Clone, PartialEq)]
pub enum Receipt {
    /// It was recorded.
    Recorded {
        /// Where the task instance stands now.
        task: TaskState,
        /// Where the run stands now.
        run: RunState,
        /// When its next attempt may start, if one follows after a delay.
        not_before: Option<Micros>,
        /// Why the instance is where it is.
        reason: Option<Reason>,
    },
    /// The fence does not hold: the attempt is another's, or over.
    Refused,
}

impl Store {
    /// Records finishes, each in the order given, and advances their runs; one transaction for all.
    ///
    /// # Errors
    /// The database's; then nothing was recorded.
    pub async fn finish(&self, finishes: &[Finish]) -> Result<Vec<Receipt>, StoreError> {
        if finishes.is_empty() {
            return Ok(Vec::new());
        }
        // Parsed before the transaction: it needs another connection.
        for finish in finishes {
            self.warm(&finish.identity.tenant, finish.identity.run).await?;
        }
        self.write(&FinishAll { store: self, finishes }).await
    }

    /// Makes sure that a run's DAG version is parsed.
    pub(super) async fn warm(&self, tenant: &TenantId, run: RunId) -> Result<Arc<Dag>, StoreError> {
        let sql = "SELECT dag_version FROM run WHERE tenant = $1 AND run = $2";
        let values = vec![tenant.to_string().into(), run.to_string().into()];
        let found = super::tx::read(&self.db, "read the run", sql, values).await?;
        let row = found.first().ok_or_else(|| StoreError::NotFound {
            what: "run",
            id: run.to_string(),
            tenant: tenant.to_string(),
        })?;
        self.dag(rows::parse(row, "dag_version", Digest::parse)?).await
    }
}

struct FinishAll<'a> {
    store: &'a Store,
    finishes: &'a [Finish],
}

/// What the row held when the fence was checked.
struct Held {
    version: i64,
    failures: u32,
    losses: u32,
    seed: u64,
}

/// A report that passed the fence, and what becomes of it.
struct Decided<'a> {
    finish: &'a Finish,
    key: InstanceKey,
    held: Held,
    task: Transition<TaskState>,
    attempt: Transition<AttemptState>,
    not_before: Option<Micros>,
    reason: Option<Reason>,
}

#[async_trait]
impl Write for FinishAll<'_> {
    type Output = Vec<Receipt>;
    const WHAT: &'static str = "record finished attempts";

    async fn apply(&self, tx: &Tx) -> Result<Vec<Receipt>, StoreError> {
        let mut runs = lock_and_read_runs(self.store, tx, self.finishes).await?;
        let mut held = check_fence(tx, self.finishes).await?;
        let mut decided = Vec::new();
        let mut refused = Vec::new();
        for finish in self.finishes {
            let key = key_of(&finish.identity);
            let run = runs.get(&(key.tenant.clone(), key.run));
            match (held.remove(&key), run) {
                (Some(held), Some(run)) => decided.push(decide(tx, self.store, finish, held, run).await?),
                _ => refused.push(finish),
            }
        }
        note_refused(tx, &refused).await?;
        record(tx, &decided).await?;
        let states = self.advance(tx, &mut runs, &decided).await?;
        let mut receipts = Vec::with_capacity(self.finishes.len());
        for finish in self.finishes {
            let key = key_of(&finish.identity);
            let Some(it) = decided.iter().find(|it| it.key == key && it.finish.identity == finish.identity) else {
                receipts.push(Receipt::Refused);
                continue;
            };
            let run = states.get(&(key.tenant.clone(), key.run)).copied().unwrap_or(RunState::Running);
            let (not_before, reason) = (it.not_before, it.reason.clone());
            receipts.push(Receipt::Recorded { task: it.task.to(), run, not_before, reason });
        }
        Ok(receipts)
    }
}

type RunKey = (TenantId, RunId);

impl FinishAll<'_> {
    async fn advance(
        &self,
        tx: &Tx,
        runs: &mut BTreeMap<RunKey, RunRow>,
        decided: &[Decided<'_>],
    ) -> Result<BTreeMap<RunKey, RunState>, StoreError> {
        let mut ended: BTreeMap<RunKey, Vec<Ended>> = BTreeMap::new();
        for it in decided {
            let list = ended.entry((it.key.tenant.clone(), it.key.run)).or_default();
            if is_terminal(it.task.to()) {
                list.push(Ended { instance: it.key.instance.clone(), state: it.task.to() });
            }
        }
        let mut states = BTreeMap::new();
        for (key, ended) in ended {
            let Some(run) = runs.remove(&key) else { continue };
            states.insert(key, advance::after(self.store, tx, run, ended).await?);
        }
        Ok(states)
    }
}

/// The runs of a batch, locked in the order of their keys before any of their tasks.
async fn lock_and_read_runs(
    store: &Store,
    tx: &Tx,
    finishes: &[Finish],
) -> Result<BTreeMap<RunKey, RunRow>, StoreError> {
    let mut runs = BTreeMap::new();
    for finish in finishes {
        let key = (finish.identity.tenant.clone(), finish.identity.run);
        if let std::collections::btree_map::Entry::Vacant(free) = runs.entry(key) {
            let (tenant, run) = free.key();
            let row = read_run(store, tx, tenant, *run).await?;
            free.insert(row);
        }
    }
    Ok(runs)
}

/// Reads a run as far as advancing it needs.
pub(super) async fn read_run(store: &Store, tx: &Tx, tenant: &TenantId, run: RunId) -> Result<RunRow, StoreError> {
    let sql = "SELECT dag_version, state, version FROM run WHERE tenant = $1 AND run = $2";
    let found = tx.all("read the run", sql, vec![tenant.to_string().into(), run.to_string().into()]).await?;
    let row = found.first().ok_or_else(|| StoreError::NotFound {
        what: "run",
        id: run.to_string(),
        tenant: tenant.to_string(),
    })?;
    let version = rows::parse(row, "dag_version", Digest::parse)?;
    let dag = store.cached_dag(version).ok_or_else(|| StoreError::Corrupt {
        what: "run",
        detail: format!("its DAG version {version} was not read before the transaction"),
    })?;
    Ok(RunRow { tenant: tenant.clone(), run, dag, state: rows::run_state(row)?, version: rows::get(row, "version")? })
}

/// The rows whose fence holds: running, under the report's epoch and session, the session in force.
async fn check_fence(tx: &Tx, finishes: &[Finish]) -> Result<BTreeMap<InstanceKey, Held>, StoreError> {
    let reports = finishes.iter().map(|it| {
        let fence = json!({ "epoch": it.identity.epoch.0, "session": it.session.to_string() });
        extend(key_of(&it.identity).json(), fence)
    });
    let sql = format!(
        "SELECT t.tenant, t.run, t.task, t.element, t.generation, t.version, t.failures, t.losses, t.seed \
         FROM task_instance t JOIN {} ON {} AND t.epoch = r.epoch AND t.session = r.session \
         JOIN worker_session s ON s.session = t.session AND NOT s.revoked AND s.incarnation = t.incarnation \
         WHERE t.state = 'running' ORDER BY t.tenant, t.run, t.task, t.element{}",
        keyed_rows(tx.dialect, 1, &[("epoch", Kind::Int), ("session", Kind::Text)]),
        InstanceKey::join("t"),
        tx.dialect.lock("t")
    );
    let mut held = BTreeMap::new();
    for row in &tx.all("check the fence", &sql, vec![param(reports.collect())]).await? {
        let seed: i64 = rows::get(row, "seed")?;
        let state = Held {
            version: rows::get(row, "version")?,
            failures: rows::count(row, "failures")?,
            losses: rows::count(row, "losses")?,
            seed: seed.cast_unsigned(),
        };
        held.insert(rows::key(row)?, state);
    }
    Ok(held)
}

async fn decide<'a>(
    tx: &Tx,
    store: &Store,
    finish: &'a Finish,
    mut held: Held,
    run: &RunRow,
) -> Result<Decided<'a>, StoreError> {
    let key = key_of(&finish.identity);
    let task = run.dag.task(&key.instance.task).ok_or_else(|| StoreError::Corrupt {
        what: "task instance",
        detail: format!("no task {} in its DAG", key.instance.task),
    })?;
    let failure = match &finish.outcome {
        Outcome::Succeeded { registry, .. } => {
            registry::apply(tx, &finish.identity, registry).await?.map(|conflict| (FailureKind::Transient, conflict))
        }
        Outcome::Failed { kind, message, .. } => Some((kind.clone(), message.clone())),
    };
    let made = match failure {
        None => FailurePlan {
            task: TaskEvent::Succeeded,
            attempt: AttemptEvent::Succeeded,
            not_before: None,
            reason: Reason::WaitingForSlot,
        },
        Some((kind, message)) => plan_failure(tx, store, task, &mut held, (kind, message, run.state)),
    };
    let reason = (made.task != TaskEvent::Succeeded).then_some(made.reason);
    Ok(Decided {
        finish,
        key,
        held,
        task: transition(TaskState::Running, made.task)?,
        attempt: transition(AttemptState::Running, made.attempt)?,
        not_before: made.not_before,
        reason,
    })
}

fn plan_failure(
    tx: &Tx,
    store: &Store,
    task: &Task,
    held: &mut Held,
    (kind, message, run): (FailureKind, String, RunState),
) -> FailurePlan {
    match kind {
        FailureKind::Lost | FailureKind::Crashed => held.losses += 1,
        FailureKind::Canceled => {}
        _ => held.failures += 1,
    }
    // A run that is being canceled tries nothing again: its failure ends as a cancel.
    let kind = if run == RunState::Canceling { FailureKind::Canceled } else { kind };
    let failure = AttemptFailure { kind, message, failures: held.failures, losses: held.losses, seed: held.seed };
    after_failure(&failure, &task.retries, &store.limits, tx.now)
}

/// Records reports that came too late, where their task instance still exists.
async fn note_refused(tx: &Tx, refused: &[&Finish]) -> Result<(), StoreError> {
    for finish in refused {
        let key = key_of(&finish.identity);
        let sql = format!(
            "UPDATE task_instance SET version = task_instance.version + 1 FROM {} WHERE {} \
             RETURNING task_instance.version, task_instance.state",
            keyed_rows(tx.dialect, 1, &[]),
            InstanceKey::join("task_instance")
        );
        let found = tx.all("note a late report", &sql, vec![param(vec![key.json()])]).await?;
        let Some(row) = found.first() else { continue };
        let holder = Holder { attempt: finish.identity.attempt, epoch: finish.identity.epoch, session: finish.session };
        let (seq, state) = (rows::get(row, "version")?, rows::task_state(row)?);
        tx.append_events(vec![task_note(&key, seq, "late_report_refused", state, holder)]).await?;
    }
    Ok(())
}

/// Writes task instances, attempts, artifacts, lineage and events of the decided reports.
async fn record(tx: &Tx, decided: &[Decided<'_>]) -> Result<(), StoreError> {
    if decided.is_empty() {
        return Ok(());
    }
    record_tasks(tx, decided).await?;
    record_attempts(tx, decided).await?;
    record_artifacts(tx, decided).await?;
    record_inputs(tx, decided).await?;
    let events = decided.iter().map(|it| {
        let identity = &it.finish.identity;
        let holder = Holder { attempt: identity.attempt, epoch: identity.epoch, session: it.finish.session };
        task_event(&it.key, it.held.version + 1, it.task, Some(holder), it.reason.as_ref())
    });
    tx.append_events(events.collect()).await
}

async fn record_tasks(tx: &Tx, decided: &[Decided<'_>]) -> Result<(), StoreError> {
    let written = decided.iter().map(|it| {
        let outputs = match (&it.finish.outcome, it.task.event()) {
            (Outcome::Succeeded { outputs, .. }, TaskEvent::Succeeded) => Some(outputs.to_string()),
            _ => None,
        };
        let fields = json!({
            "new_state": it.task.to().as_str(),
            "failures": it.held.failures,
            "losses": it.held.losses,
            "not_before": it.not_before,
            "outputs": outputs,
            "reason": it.reason.as_ref().map(|reason| json!(reason).to_string()),
            "is_over": is_terminal(it.task.to()),
        });
        extend(it.key.json(), fields)
    });
    let columns = [
        ("new_state", Kind::Text),
        ("failures", Kind::Int),
        ("losses", Kind::Int),
        ("not_before", Kind::Int),
        ("outputs", Kind::Text),
        ("reason", Kind::Text),
        ("is_over", Kind::Bool),
    ];
    let sql = format!(
        "UPDATE task_instance SET state = r.new_state, version = task_instance.version + 1, session = NULL, \
         failures = r.failures, losses = r.losses, not_before = r.not_before, outputs = r.outputs, \
         reason = r.reason, ready_at = CASE WHEN r.new_state = 'ready' THEN $2 ELSE task_instance.ready_at END, \
         finished_at = CASE WHEN r.is_over THEN $2 ELSE NULL END FROM {} WHERE {}",
        keyed_rows(tx.dialect, 1, &columns),
        InstanceKey::join("task_instance")
    );
    tx.execute("record the task instances", &sql, vec![param(written.collect()), tx.now.into()]).await?;
    Ok(())
}

async fn record_attempts(tx: &Tx, decided: &[Decided<'_>]) -> Result<(), StoreError> {
    let written = decided.iter().map(|it| {
        let (class, message) = match (&it.finish.outcome, &it.reason) {
            (Outcome::Failed { class, message, .. }, _) => (Some(json!(class)), Some(message.clone())),
            (Outcome::Succeeded { .. }, Some(reason)) => (Some(json!(ErrorClass::System)), Some(reason.to_string())),
            (Outcome::Succeeded { .. }, None) => (None, None),
        };
        let fields = json!({
            "attempt": it.finish.identity.attempt.0, "new_state": it.attempt.to().as_str(),
            "error_class": class, "message": message,
        });
        extend(it.key.json(), fields)
    });
    let columns =
        [("attempt", Kind::Int), ("new_state", Kind::Text), ("error_class", Kind::Text), ("message", Kind::Text)];
    let sql = format!(
        "UPDATE attempt SET state = r.new_state, finished_at = $2, error_class = r.error_class, message = r.message \
         FROM {} WHERE {} AND attempt.attempt = r.attempt AND attempt.state = 'running'",
        keyed_rows(tx.dialect, 1, &columns),
        InstanceKey::join("attempt")
    );
    tx.execute("record the attempts", &sql, vec![param(written.collect()), tx.now.into()]).await?;
    Ok(())
}

async fn record_artifacts(tx: &Tx, decided: &[Decided<'_>]) -> Result<(), StoreError> {
    let mut written = Vec::new();
    for it in decided {
        for artifact in &it.finish.artifacts {
            let fields = json!({
                "name": artifact.name, "epoch": it.finish.identity.epoch.0, "key": artifact.key,
                "digest": artifact.digest, "bytes": artifact.bytes, "row_count": artifact.rows,
                "schema_digest": artifact.schema_digest,
            });
            written.push(extend(it.key.json(), fields));
        }
    }
    if written.is_empty() {
        return Ok(());
    }
    let columns = [
        ("name", Kind::Text),
        ("epoch", Kind::Int),
        ("key", Kind::Text),
        ("digest", Kind::Text),
        ("bytes", Kind::Int),
        ("row_count", Kind::Int),
        ("schema_digest", Kind::Text),
    ];
    let sql = format!(
        "INSERT INTO artifact (tenant, run, task, element, generation, name, epoch, key, digest, bytes, row_count, \
         schema_digest, created_at) SELECT r.tenant, r.run, r.task, r.element, r.generation, r.name, r.epoch, r.key, \
         r.digest, r.bytes, r.row_count, r.schema_digest, $2 FROM {}",
        keyed_rows(tx.dialect, 1, &columns)
    );
    tx.execute("register the artifacts", &sql, vec![param(written), tx.now.into()]).await?;
    Ok(())
}

async fn record_inputs(tx: &Tx, decided: &[Decided<'_>]) -> Result<(), StoreError> {
    let mut written = Vec::new();
    for it in decided {
        for input in &it.finish.inputs {
            let fields = json!({
                "attempt": it.finish.identity.attempt.0, "key": input.artifact.key,
                "name": input.artifact.name, "digest": input.artifact.digest,
            });
            written.push(extend(it.key.json(), fields));
        }
    }
    if written.is_empty() {
        return Ok(());
    }
    let columns = [("attempt", Kind::Int), ("key", Kind::Text), ("name", Kind::Text), ("digest", Kind::Text)];
    let sql = format!(
        "INSERT INTO attempt_input (tenant, run, task, element, generation, attempt, key, name, digest) \
         SELECT r.tenant, r.run, r.task, r.element, r.generation, r.attempt, r.key, r.name, r.digest FROM {} \
         WHERE TRUE ON CONFLICT DO NOTHING",
        keyed_rows(tx.dialect, 1, &columns)
    );
    tx.execute("record the lineage", &sql, vec![param(written)]).await?;
    Ok(())
}
