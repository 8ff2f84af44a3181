//! Finishing attempts: check the fence, record the outcome, register what was published, advance,
//! and claim what this worker does next.
//!
//! All finishes that arrive together are one transaction, and it claims, too: a chain costs one
//! commit per task, in four statements: check the fence, lock the successors, write, commit. A report whose fence no longer holds is
//! refused and recorded as an event of its task instance; it changes nothing else, and the others of
//! its batch are not touched by it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::advance::{Advance, RunKey, RunRow, lock_runs, successors, task};
use super::claim::key_of;
use super::dialect::{Dialect, Kind};
use super::events::{Holder, task_note};
use super::held::HELD;
use super::rows::{self, Cell, InstanceKey, Rows, extend, keyed_rows, param};
use super::tx::{Part, Tx, Write};
use super::unit::{AttemptEnd, UnitOfWork};
use super::{Claim, ClaimRequest, Memo, Store, StoreError, memo, registry};
use crate::artifact::ArtifactRef;
use crate::dag::{Dag, Task};
use crate::failpoint;
use crate::id::{Epoch, ModelName, RunId, SessionId, TenantId};
use crate::plan::{AttemptFailure, FailureKind, FailurePlan, Micros, Reason, after_failure};
use crate::registry::RegistryChange;
use crate::run::{AttemptEvent, AttemptState, RunState, TaskEvent, TaskState, is_terminal, transition};
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
    /// How it came by its result, where the task has `cache = true`.
    pub memo: Option<Memo>,
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

/// What a worker is told when its finishes were recorded.
#[derive(Debug, Clone, Default)]
pub struct Finished {
    /// One per finish, in order.
    pub receipts: Vec<Receipt>,
    /// What it holds next.
    pub claims: Vec<Claim>,
    /// Whether they made something ready that nobody has claimed yet.
    pub left_ready: bool,
}

/// What a worker wants beside recording its finishes.
#[derive(Debug, Clone)]
pub struct Next {
    /// Its free slots once the finishes are recorded, and whose tasks it takes.
    pub request: ClaimRequest,
    /// Whether others may be waiting: then all free slots go by fair share. Otherwise the slots are
    /// given, without a look at the queue, to what these very finishes made ready.
    pub others_wait: bool,
}

impl Store {
    /// Records finishes, each in the order given, advances their runs, and claims what comes next; one
    /// transaction for all.
    ///
    /// # Errors
    /// The database's; then nothing was recorded.
    pub async fn finish(&self, finishes: &[Finish], next: Option<&Next>) -> Result<Finished, StoreError> {
        if finishes.is_empty() {
            return Ok(Finished::default());
        }
        // Parsed before the transaction: it needs another connection.
        let (mut dags, mut proofs) = (BTreeMap::new(), BTreeSet::new());
        for finish in finishes {
            let key = (finish.identity.tenant.clone(), finish.identity.run);
            if let std::collections::btree_map::Entry::Vacant(free) = dags.entry(key) {
                let pinned = self.pinned(&finish.identity.tenant, finish.identity.run).await?;
                if pinned.facts().proves().is_some() {
                    proofs.insert(free.key().clone());
                }
                free.insert(Arc::clone(&pinned.dag));
            }
        }
        let finished = self.write(&FinishAll { store: self, finishes, dags, proofs, next }).await?;
        failpoint::hit("finish.after_commit").await.map_err(StoreError::injected)?;
        if finished.left_ready {
            self.wake();
        }
        Ok(finished)
    }
}

struct FinishAll<'a> {
    store: &'a Store,
    finishes: &'a [Finish],
    dags: BTreeMap<RunKey, Arc<Dag>>,
    /// Verifications: what their tasks ask of the model registry is not done.
    proofs: BTreeSet<RunKey>,
    next: Option<&'a Next>,
}

#[async_trait]
impl Write for FinishAll<'_> {
    type Output = Finished;
    const WHAT: &'static str = "record finished attempts";

    async fn apply(&self, tx: &Tx) -> Result<Finished, StoreError> {
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        let runs = self.runs(tx).await?;
        registry::lock(tx, &self.models()).await?;
        let mut fenced = check_fence(&mut unit, self.finishes, self.successors()?).await?;
        let (mut receipts, mut refused, mut ended) = (Vec::new(), Vec::new(), Vec::new());
        let (mut artifacts, mut inputs, mut memos) = (Vec::new(), Vec::new(), Vec::new());
        for finish in self.finishes {
            let key = key_of(&finish.identity);
            let run = runs.get(&(key.tenant.clone(), key.run));
            let (true, Some(run)) = (fenced.remove(&key), run) else {
                refused.push(finish);
                receipts.push(Receipt::Refused);
                continue;
            };
            let is_proof = self.proofs.contains(&(key.tenant.clone(), key.run));
            let receipt = record(self.store, &mut unit, finish, (run, is_proof)).await?;
            if let Receipt::Recorded { task, .. } = &receipt
                && is_terminal(*task)
            {
                memos.extend(memo::row(&key, finish).filter(|_| *task == TaskState::Succeeded && !is_proof));
                ended.push((key.clone(), *task));
            }
            receipts.push(receipt);
            artifacts.extend(artifact_rows(&key, finish));
            inputs.extend(input_rows(&key, finish));
        }
        note_refused(&mut unit, &refused).await?;
        unit_parts(&mut unit, artifacts, inputs);
        if !memos.is_empty() {
            unit.also(memo::part(tx, memos));
        }
        let mut advance = Advance::new(self.store, &mut unit, runs);
        advance.after(ended).await?;
        let (states, claims) = advance.end_runs(self.next).await?;
        for (receipt, finish) in receipts.iter_mut().zip(self.finishes) {
            if let Receipt::Recorded { run, .. } = receipt {
                let key = (finish.identity.tenant.clone(), finish.identity.run);
                *run = states.get(&key).copied().unwrap_or(*run);
            }
        }
        failpoint::hit("finish.before_commit").await.map_err(StoreError::injected)?;
        let left_ready = !unit.keys_in(TaskState::Ready).is_empty();
        Ok(Finished { receipts, claims, left_ready })
    }
}

impl FinishAll<'_> {
    /// The runs of the batch; those that may end here, or in which something failed, are locked before
    /// any task instance, as by a cancel: whether a run is being canceled decides what follows a
    /// failure. A success that makes others ready needs no lock: of a run that is being canceled,
    /// nothing waits any more, and what it made ready just before, the cancel sees.
    async fn runs(&self, tx: &Tx) -> Result<BTreeMap<RunKey, RunRow>, StoreError> {
        let mut runs: BTreeMap<RunKey, RunRow> = BTreeMap::new();
        for (key, dag) in &self.dags {
            runs.insert(key.clone(), RunRow { dag: Arc::clone(dag), state: RunState::Running });
        }
        let named: BTreeSet<RunKey> = self.finishes.iter().filter_map(|finish| self.decides(finish)).collect();
        for (key, state, _) in lock_runs(tx, &named, &tx.dialect.lock("u")).await? {
            if let Some(run) = runs.get_mut(&key) {
                run.state = state;
            }
        }
        Ok(runs)
    }

    /// The models that the successes of the batch change.
    fn models(&self) -> BTreeSet<(&TenantId, &ModelName)> {
        let mut models = BTreeSet::new();
        for finish in self.finishes {
            if let Outcome::Succeeded { registry, .. } = &finish.outcome {
                models.extend(registry.iter().map(|change| (&finish.identity.tenant, change.name())));
            }
        }
        models
    }

    /// What follows the successes of the batch: locked with the fence, since most fences hold.
    fn successors(&self) -> Result<Vec<InstanceKey>, StoreError> {
        let mut tasks = BTreeSet::new();
        for finish in self.finishes {
            if matches!(finish.outcome, Outcome::Succeeded { .. }) {
                let identity = &finish.identity;
                tasks.insert(((identity.tenant.clone(), identity.run), &identity.instance.task));
            }
        }
        let mut keys = Vec::new();
        for (run, task) in tasks {
            if let Some(dag) = self.dags.get(&run) {
                keys.extend(successors(&run, dag, task)?);
            }
        }
        Ok(keys)
    }

    /// The run that a finish may end or that has to be asked.
    fn decides(&self, finish: &Finish) -> Option<RunKey> {
        let key = (finish.identity.tenant.clone(), finish.identity.run);
        let dag = self.dags.get(&key)?;
        let node = dag.node(&finish.identity.instance.task)?;
        let is_sink = dag.graph.neighbors(node).next().is_none();
        (is_sink || matches!(finish.outcome, Outcome::Failed { .. })).then_some(key)
    }
}

/// Where a run stands.
pub(super) async fn read_state(tx: &Tx, tenant: &TenantId, run: RunId) -> Result<RunState, StoreError> {
    let sql = "SELECT state FROM run WHERE tenant = $1 AND run = $2";
    let found = tx.all("read the run", sql, vec![tenant.to_string().into(), run.to_string().into()]).await?;
    let row = found.first().ok_or_else(|| StoreError::NotFound {
        what: "run",
        id: run.to_string(),
        tenant: tenant.to_string(),
    })?;
    rows::run_state(row)
}

/// Locks the rows whose fence holds (running, under the report's epoch and session, the session in
/// force), and with them what follows. Returns the former.
async fn check_fence(
    unit: &mut UnitOfWork<'_>,
    finishes: &[Finish],
    successors: Vec<InstanceKey>,
) -> Result<FenceHolds, StoreError> {
    let mut rows = Rows::default();
    for it in finishes {
        rows.push_keyed(&key_of(&it.identity), under(Some((it.identity.epoch, it.session))));
    }
    for key in &successors {
        rows.push_keyed(key, under(None));
    }
    let sql = format!(
        "SELECT {HELD} FROM {} JOIN task_instance t ON t.tenant = r.tenant AND t.run = r.run AND t.task = r.task \
         AND t.element = r.element WHERE (r.epoch IS NULL AND t.current) OR (t.generation = r.generation \
         AND t.state = 'running' AND t.epoch = r.epoch AND t.session = r.session AND EXISTS (SELECT 1 \
         FROM worker_session s WHERE s.session = t.session AND NOT s.revoked AND s.incarnation = t.incarnation)){}",
        rows.table(unit.tx.dialect, 0),
        unit.tx.dialect.lock_in_order()
    );
    let locked: BTreeSet<_> = unit.lock_rows("check the fence", &sql, rows).await?.into_iter().collect();
    let reported = finishes.iter().map(|it| key_of(&it.identity));
    Ok(FenceHolds(reported.filter(|key| locked.contains(key)).collect()))
}

/// Under what an attempt is reported; nothing where a row is locked as it is.
fn under(fence: Option<(Epoch, SessionId)>) -> [Cell; 2] {
    let (epoch, session) = fence.unzip();
    [("epoch", epoch.map(|it| it.0).into()), ("session", session.map(|it| it.to_string()).into())]
}

/// Whose fence holds; each key counts once.
struct FenceHolds(BTreeSet<InstanceKey>);

impl FenceHolds {
    fn remove(&mut self, key: &InstanceKey) -> bool {
        self.0.remove(key)
    }
}

/// Records one report in the unit: moves the task instance, ends the attempt.
async fn record(
    store: &Store,
    unit: &mut UnitOfWork<'_>,
    finish: &Finish,
    (run, is_proof): (&RunRow, bool),
) -> Result<Receipt, StoreError> {
    let key = key_of(&finish.identity);
    let task = task(&run.dag, &key.instance.task)?;
    let (failure, class) = match &finish.outcome {
        Outcome::Succeeded { registry, .. } => {
            let changes = if is_proof { &[][..] } else { registry };
            let conflict = registry::apply(unit.tx, &finish.identity, changes).await?;
            (conflict.map(|conflict| (FailureKind::Transient, conflict)), ErrorClass::System)
        }
        Outcome::Failed { kind, class, message } => (Some((kind.clone(), message.clone())), *class),
    };
    let Some((kind, message)) = failure else {
        let Outcome::Succeeded { outputs, .. } = &finish.outcome else { return Ok(Receipt::Refused) };
        unit.change(&key)?.outputs = Some(outputs.to_string());
        let linked = finish.memo.and_then(|memo| Some(Reason::Memoized { run: memo.linked?, key: memo.key }));
        let state = unit.move_task(&key, TaskEvent::Succeeded, linked.clone())?;
        let attempt = transition(AttemptState::Running, AttemptEvent::Succeeded)?.to();
        let number = finish.identity.attempt;
        unit.end_attempt(&key, AttemptEnd { attempt: number, state: attempt, error_class: None, message: None });
        return Ok(Receipt::Recorded { task: state, run: run.state, not_before: None, reason: linked });
    };
    let made = fail(store, unit, &key, task, (kind, message.clone(), run.state))?;
    let state = unit.move_task(&key, made.task, Some(made.reason.clone()))?;
    unit.change(&key)?.not_before = made.not_before;
    let attempt = transition(AttemptState::Running, made.attempt)?.to();
    unit.end_attempt(
        &key,
        AttemptEnd {
            attempt: finish.identity.attempt,
            state: attempt,
            error_class: Some(json!(class)),
            message: Some(message),
        },
    );
    Ok(Receipt::Recorded { task: state, run: run.state, not_before: made.not_before, reason: Some(made.reason) })
}

/// Counts a failure of a held row and decides what follows.
pub(super) fn fail(
    store: &Store,
    unit: &mut UnitOfWork<'_>,
    key: &InstanceKey,
    task: &Task,
    (kind, message, run): (FailureKind, String, RunState),
) -> Result<FailurePlan, StoreError> {
    let now = unit.tx.now;
    let held = unit.change(key)?;
    match kind {
        FailureKind::Lost | FailureKind::Crashed => held.losses += 1,
        FailureKind::Canceled | FailureKind::HandedBack => {}
        _ => held.failures += 1,
    }
    // A run that is being canceled tries nothing again: its failure ends as a cancel.
    let kind = if run == RunState::Canceling { FailureKind::Canceled } else { kind };
    let failure = AttemptFailure { kind, message, failures: held.failures, losses: held.losses, seed: held.seed };
    Ok(after_failure(&failure, &task.retries, &store.limits, now))
}

/// Records reports that came too late, where their task instance still exists.
async fn note_refused(unit: &mut UnitOfWork<'_>, refused: &[&Finish]) -> Result<(), StoreError> {
    if refused.is_empty() {
        return Ok(());
    }
    let keys = refused.iter().map(|finish| key_of(&finish.identity).json()).collect();
    let sql = format!(
        "SELECT {HELD} FROM {} JOIN task_instance t ON {}{}",
        keyed_rows(unit.tx.dialect, 1, &[]),
        InstanceKey::join("t"),
        unit.tx.dialect.lock_in_order()
    );
    unit.lock("note a late report", &sql, vec![param(keys)]).await?;
    for finish in refused {
        let key = key_of(&finish.identity);
        if unit.get(&key).is_none() {
            continue;
        }
        let holder = Holder { attempt: finish.identity.attempt, epoch: finish.identity.epoch, session: finish.session };
        let held = unit.change(&key)?;
        held.version += 1;
        let note = task_note(&key, held.version, "late_report_refused", held.state, holder);
        unit.note(note);
    }
    Ok(())
}

fn artifact_rows<'a>(key: &'a InstanceKey, finish: &'a Finish) -> impl Iterator<Item = Value> + 'a {
    finish.artifacts.iter().map(|artifact| {
        let fields = json!({
            "name": artifact.name, "epoch": finish.identity.epoch.0, "key": artifact.key,
            "digest": artifact.digest, "bytes": artifact.bytes, "row_count": artifact.rows,
            "schema_digest": artifact.schema_digest,
            "linked_from": finish.memo.and_then(|memo| memo.linked).map(|run| run.to_string()),
        });
        extend(key.json(), fields)
    })
}

fn input_rows<'a>(key: &'a InstanceKey, finish: &'a Finish) -> impl Iterator<Item = Value> + 'a {
    finish.inputs.iter().map(|input| {
        let fields = json!({
            "attempt": finish.identity.attempt.0, "key": input.artifact.key,
            "name": input.artifact.name, "digest": input.artifact.digest,
        });
        extend(key.json(), fields)
    })
}

/// Artifacts' rows to be inserted.
pub(super) fn artifacts_part(dialect: Dialect, artifacts: Vec<Value>, now: Micros) -> Part {
    let columns = [
        ("name", Kind::Text),
        ("epoch", Kind::Int),
        ("key", Kind::Text),
        ("digest", Kind::Text),
        ("bytes", Kind::Int),
        ("row_count", Kind::Int),
        ("schema_digest", Kind::Text),
        ("linked_from", Kind::Text),
    ];
    let sql = format!(
        "INSERT INTO artifact (tenant, run, task, element, generation, name, epoch, key, digest, bytes, row_count, \
         schema_digest, linked_from, created_at) SELECT r.tenant, r.run, r.task, r.element, r.generation, r.name, \
         r.epoch, r.key, r.digest, r.bytes, r.row_count, r.schema_digest, r.linked_from, $2 FROM {}",
        keyed_rows(dialect, 1, &columns)
    );
    Part::new("register the artifacts", sql, vec![param(artifacts), now.into()])
}

/// Registers what was published and read, with the flush.
fn unit_parts(unit: &mut UnitOfWork<'_>, artifacts: Vec<Value>, inputs: Vec<Value>) {
    let (dialect, now) = (unit.tx.dialect, unit.tx.now);
    if !artifacts.is_empty() {
        unit.also(artifacts_part(dialect, artifacts, now));
    }
    if !inputs.is_empty() {
        let columns = [("attempt", Kind::Int), ("key", Kind::Text), ("name", Kind::Text), ("digest", Kind::Text)];
        let sql = format!(
            "INSERT INTO attempt_input (tenant, run, task, element, generation, attempt, key, name, digest) \
             SELECT r.tenant, r.run, r.task, r.element, r.generation, r.attempt, r.key, r.name, r.digest FROM {} \
             WHERE TRUE ON CONFLICT DO NOTHING",
            keyed_rows(dialect, 1, &columns)
        );
        unit.also(Part::new("record the lineage", sql, vec![param(inputs)]));
    }
}
