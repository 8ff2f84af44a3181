//! What follows an end: successors become ready, are skipped or fail; the run ends.
//!
//! Called in the transaction that recorded the end, by `finish`, `create` and `reclaim`: there is no
//! second path for recovery. Cost grows with the edges touched, never with the run: each round adds
//! what ended to the counts of its successors in one statement, asks `plan`, writes its moves in
//! another, and goes on with the instances that these moves ended.

use std::collections::BTreeMap;
use std::sync::Arc;

use petgraph::Direction;
use serde_json::{Value, json};

use super::dialect::Kind;
use super::events::{run_event, task_event};
use super::rows::{self, InstanceKey, extend, keyed_rows, param};
use super::tx::Tx;
use super::{Store, StoreError, work};
use crate::dag::{Dag, Task, Verdict};
use crate::id::{InstanceId, RunId, TaskId, TenantId};
use crate::plan::{Action, Condition, InstanceView, Reason, Snapshot, Tally, plan};
use crate::run::{RunState, TaskState, Transition, is_terminal};

/// A run, as far as advancing it needs.
pub(super) struct RunRow {
    pub(super) tenant: TenantId,
    pub(super) run: RunId,
    pub(super) dag: Arc<Dag>,
    pub(super) state: RunState,
    pub(super) version: i64,
}

/// A task instance that ended in this transaction.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) instance: InstanceId,
    pub(super) state: TaskState,
}

/// Starts a run whose instances were just inserted.
pub(super) async fn start(
    store: &Store,
    tx: &Tx,
    run: RunRow,
    instances: Vec<InstanceId>,
) -> Result<RunState, StoreError> {
    let mut roots: Vec<Value> = Vec::new();
    for instance in &instances {
        let task = task(&run.dag, &instance.task)?;
        // `always` starts at once, whatever its upstreams do.
        if task.needs.is_empty() || task.trigger_rule == crate::dag::TriggerRule::Always {
            roots.push(no_change(instance));
        }
    }
    Advance { store, tx, run, events: Vec::new() }.run(roots, Vec::new(), true).await
}

/// Advances `run` after `ended`. Returns the run's state afterwards.
pub(super) async fn after(store: &Store, tx: &Tx, run: RunRow, ended: Vec<Ended>) -> Result<RunState, StoreError> {
    let check = run.state == RunState::Canceling;
    Advance { store, tx, run, events: Vec::new() }.run(Vec::new(), ended, check).await
}

/// Looks at all of a run's open instances: after a cancel, and when readiness is to be recomputed.
pub(super) async fn all_open(store: &Store, tx: &Tx, run: RunRow) -> Result<RunState, StoreError> {
    let sql = "SELECT task, element FROM task_instance WHERE tenant = $1 AND run = $2 AND current \
               AND state IN ('waiting', 'ready', 'retry_wait') ORDER BY ordinal";
    let values = vec![run.tenant.to_string().into(), run.run.to_string().into()];
    let open = tx.all("read the open task instances", sql, values).await?;
    let touched: Result<Vec<_>, StoreError> = open.iter().map(|row| Ok(no_change(&rows::instance(row)?))).collect();
    Advance { store, tx, run, events: Vec::new() }.run(touched?, Vec::new(), true).await
}

fn task<'a>(dag: &'a Dag, id: &TaskId) -> Result<&'a Task, StoreError> {
    dag.task(id)
        .ok_or_else(|| StoreError::Corrupt { what: "task instance", detail: format!("no task {id} in its DAG") })
}

fn no_change(instance: &InstanceId) -> Value {
    let key = json!({ "task": instance.task, "element": rows::element(instance.index) });
    extend(key, json!({ "succeeded": 0, "failed": 0, "upstream_failed": 0, "skipped": 0 }))
}

/// How many upstreams of a task ended in each way.
#[derive(Default, Clone, Copy)]
struct Delta {
    succeeded: u32,
    failed: u32,
    upstream_failed: u32,
    skipped: u32,
}

impl Delta {
    fn add(&mut self, state: TaskState) {
        match state {
            TaskState::Succeeded => self.succeeded += 1,
            TaskState::Skipped => self.skipped += 1,
            TaskState::UpstreamFailed => self.upstream_failed += 1,
            _ => self.failed += 1,
        }
    }
}

struct Advance<'a> {
    store: &'a Store,
    tx: &'a Tx,
    run: RunRow,
    events: Vec<Value>,
}

impl Advance<'_> {
    async fn run(
        mut self,
        touched: Vec<Value>,
        mut ended: Vec<Ended>,
        mut may_end: bool,
    ) -> Result<RunState, StoreError> {
        let mut touched = touched;
        loop {
            let (successors, sinks) = self.successors(&ended)?;
            may_end |= sinks;
            touched.extend(successors);
            if touched.is_empty() {
                break;
            }
            let views = self.count(std::mem::take(&mut touched)).await?;
            ended = self.apply(views, None).await?;
        }
        if may_end {
            self.end_if_done().await?;
        }
        self.tx.append_events(self.events).await?;
        Ok(self.run.state)
    }

    /// The successors of what ended, with what to add to their counts; and whether something ended
    /// that has none, so that the run may be done.
    fn successors(&self, ended: &[Ended]) -> Result<(Vec<Value>, bool), StoreError> {
        let dag = Arc::clone(&self.run.dag);
        let mut deltas: BTreeMap<petgraph::graph::NodeIndex, Delta> = BTreeMap::new();
        let mut sinks = false;
        for end in ended {
            let node = dag.node(&end.instance.task).ok_or_else(|| StoreError::Corrupt {
                what: "task instance",
                detail: format!("no task {} in its DAG", end.instance.task),
            })?;
            let mut successors = dag.graph.neighbors_directed(node, Direction::Outgoing).peekable();
            sinks |= successors.peek().is_none();
            for successor in successors {
                deltas.entry(successor).or_default().add(end.state);
            }
        }
        let mut touched = Vec::new();
        for (node, delta) in deltas {
            for instance in super::create::instances_of(&dag, &dag.graph[node].id) {
                let counts = json!({
                    "succeeded": delta.succeeded, "failed": delta.failed,
                    "upstream_failed": delta.upstream_failed, "skipped": delta.skipped,
                });
                touched.push(extend(no_change(&instance), counts));
            }
        }
        Ok((touched, sinks))
    }

    /// Adds to the counts of the touched instances; the row locks make the sums right under races.
    async fn count(&self, touched: Vec<Value>) -> Result<Vec<(InstanceKey, InstanceView)>, StoreError> {
        let columns = [
            ("task", Kind::Text),
            ("element", Kind::Int),
            ("succeeded", Kind::Int),
            ("failed", Kind::Int),
            ("upstream_failed", Kind::Int),
            ("skipped", Kind::Int),
        ];
        let sql = format!(
            "UPDATE task_instance SET up_succeeded = up_succeeded + r.succeeded, up_failed = up_failed + r.failed, \
             up_upstream_failed = up_upstream_failed + r.upstream_failed, up_skipped = up_skipped + r.skipped \
             FROM {} WHERE task_instance.tenant = $2 AND task_instance.run = $3 AND task_instance.task = r.task \
             AND task_instance.element = r.element AND task_instance.current \
             RETURNING task_instance.tenant, task_instance.run, task_instance.task, task_instance.element, \
             task_instance.generation, task_instance.state, ordinal, up_total, up_succeeded, up_failed, \
             up_upstream_failed, up_skipped",
            self.tx.dialect.rows(1, &columns)
        );
        let values = vec![param(touched), self.run.tenant.to_string().into(), self.run.run.to_string().into()];
        let found = self.tx.all("count ended upstreams", &sql, values).await?;
        let mut views = Vec::with_capacity(found.len());
        for row in &found {
            let ordinal: i64 = rows::get(row, "ordinal")?;
            let key = rows::key(row)?;
            let task = task(&self.run.dag, &key.instance.task)?;
            let mut view = InstanceView {
                id: key.instance.clone(),
                state: rows::task_state(row)?,
                rule: task.trigger_rule,
                upstream: rows::upstream(row)?,
                condition: Condition::Met,
            };
            view.condition = self.condition(task, &view).await?;
            views.push((ordinal, key, view));
        }
        // RETURNING promises no order, and the plan is to be the same each time.
        views.sort_by_key(|(ordinal, _, _)| *ordinal);
        Ok(views.into_iter().map(|(_, key, view)| (key, view)).collect())
    }

    /// Evaluates `if`, once the trigger rule is met.
    async fn condition(&self, task: &Task, view: &InstanceView) -> Result<Condition, StoreError> {
        let Some(condition) = &task.condition else { return Ok(Condition::Met) };
        let met = view.upstream.total == 0 || view.rule.judge(&view.upstream) == Verdict::Ready;
        if !met || view.state != TaskState::Waiting || self.run.state == RunState::Canceling {
            return Ok(Condition::Met);
        }
        let facts = work::run_facts(self.tx.inner(), &self.run.tenant, self.run.run).await?;
        let scope = work::scope(self.tx.inner(), &facts, task, view.id.index, condition).await?;
        Ok(match crate::template::condition(condition, &scope) {
            Ok(true) => Condition::Met,
            Ok(false) => Condition::NotMet,
            Err(error) => Condition::Broken(error.to_string()),
        })
    }

    /// Plans and writes the moves; returns the instances that they ended.
    async fn apply(
        &mut self,
        views: Vec<(InstanceKey, InstanceView)>,
        tally: Option<Tally>,
    ) -> Result<Vec<Ended>, StoreError> {
        let keys: BTreeMap<_, _> = views.iter().map(|(key, view)| (view.id.clone(), key.clone())).collect();
        let instances = views.into_iter().map(|(_, view)| view).collect();
        let snapshot = Snapshot { run: self.run.state, instances, tally };
        let planned = plan(&snapshot, &self.store.limits, self.tx.now);
        let mut moves = Vec::new();
        for action in planned.actions {
            match action {
                Action::MoveRun { transition } => self.move_run(transition).await?,
                Action::MoveTask { instance, transition, reason } => {
                    if let Some(key) = keys.get(&instance) {
                        moves.push((key.clone(), transition, reason));
                    }
                }
            }
        }
        self.move_tasks(moves).await
    }

    async fn move_tasks(
        &mut self,
        moves: Vec<(InstanceKey, Transition<TaskState>, Option<Reason>)>,
    ) -> Result<Vec<Ended>, StoreError> {
        if moves.is_empty() {
            return Ok(Vec::new());
        }
        let written: Vec<_> = moves.iter().map(|(key, made, reason)| move_row(key, *made, reason.as_ref())).collect();
        let columns = [
            ("old_state", Kind::Text),
            ("new_state", Kind::Text),
            ("reason", Kind::Text),
            ("is_ready", Kind::Bool),
            ("is_over", Kind::Bool),
        ];
        let sql = format!(
            "UPDATE task_instance SET state = r.new_state, version = task_instance.version + 1, reason = r.reason, \
             ready_at = CASE WHEN r.is_ready THEN $2 ELSE task_instance.ready_at END, \
             finished_at = CASE WHEN r.is_over THEN $2 ELSE task_instance.finished_at END \
             FROM {} WHERE {} AND task_instance.state = r.old_state \
             RETURNING task_instance.tenant, task_instance.run, task_instance.task, task_instance.element, \
             task_instance.generation, task_instance.version",
            keyed_rows(self.tx.dialect, 1, &columns),
            InstanceKey::join("task_instance")
        );
        let found = self.tx.all("move task instances", &sql, vec![param(written), self.tx.now.into()]).await?;
        let mut versions = BTreeMap::new();
        for row in &found {
            versions.insert(rows::key(row)?, rows::get::<i64>(row, "version")?);
        }
        let mut ended = Vec::new();
        for (key, made, reason) in moves {
            let Some(&version) = versions.get(&key) else { continue };
            self.events.push(task_event(&key, version, made, None, reason.as_ref()));
            if is_terminal(made.to()) {
                ended.push(Ended { instance: key.instance, state: made.to() });
            }
        }
        Ok(ended)
    }

    async fn move_run(&mut self, made: Transition<RunState>) -> Result<(), StoreError> {
        let sql = "UPDATE run SET state = $1, version = version + 1, \
                   started_at = CASE WHEN started_at IS NULL THEN $2 ELSE started_at END, \
                   finished_at = CASE WHEN $3 THEN $2 ELSE finished_at END \
                   WHERE tenant = $4 AND run = $5 AND state = $6 RETURNING version";
        let values = vec![
            made.to().as_str().into(),
            self.tx.now.into(),
            is_terminal(made.to()).into(),
            self.run.tenant.to_string().into(),
            self.run.run.to_string().into(),
            made.from().as_str().into(),
        ];
        let found = self.tx.all("move the run", sql, values).await?;
        if let Some(row) = found.first() {
            self.run.version = rows::get(row, "version")?;
            self.run.state = made.to();
            self.events.push(run_event(&self.run.tenant, self.run.run, self.run.version, made));
        }
        Ok(())
    }

    /// Ends the run if nothing is open. The run's row is locked first: of two transactions that end
    /// its last two tasks at once, the second sees what the first wrote.
    async fn end_if_done(&mut self) -> Result<(), StoreError> {
        let (tenant, run) = (self.run.tenant.to_string(), self.run.run.to_string());
        let sql = format!("SELECT state FROM run WHERE tenant = $1 AND run = $2{}", self.tx.dialect.lock("run"));
        let found = self.tx.all("lock the run", &sql, vec![tenant.clone().into(), run.clone().into()]).await?;
        if let Some(row) = found.first() {
            self.run.state = rows::run_state(row)?;
        }
        let sql = "SELECT COUNT(CASE WHEN state IN ('waiting', 'ready', 'running', 'retry_wait') THEN 1 END) AS open, \
                   COUNT(CASE WHEN state IN ('failed', 'upstream_failed', 'quarantined') THEN 1 END) AS failed \
                   FROM task_instance WHERE tenant = $1 AND run = $2 AND current";
        let found = self.tx.all("count what is open", sql, vec![tenant.into(), run.into()]).await?;
        let Some(row) = found.first() else { return Ok(()) };
        let tally = Tally { open: rows::count(row, "open")?.into(), failed: rows::count(row, "failed")?.into() };
        self.apply(Vec::new(), Some(tally)).await?;
        Ok(())
    }
}

fn move_row(key: &InstanceKey, made: Transition<TaskState>, reason: Option<&Reason>) -> Value {
    let row = json!({
        "old_state": made.from().as_str(),
        "new_state": made.to().as_str(),
        "reason": reason.map(|reason| json!(reason).to_string()),
        "is_ready": made.to() == TaskState::Ready,
        "is_over": is_terminal(made.to()),
    });
    extend(key.json(), row)
}
