//! What follows an end: successors become ready, are skipped or fail; the run ends.
//!
//! Called in the transaction that recorded the end, by `finish`, `create` and `reclaim`: there is no
//! second path for recovery. Cost grows with the edges touched, never with the run: each round locks
//! the successors of what ended, adds to their counts in memory, asks `plan`, makes its moves, and
//! goes on with the instances that these moves ended. A join that many upstreams reach in one batch
//! is locked and written once.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use petgraph::Direction;
use serde_json::{Value, json};

use super::claim::claim_into;
use super::dialect::{Column, Kind};
use super::events::run_event;
use super::finish::Next;
use super::rows::{self, InstanceKey, param};
use super::tx::{Part, Tx};
use super::unit::UnitOfWork;
use super::{Claim, Store, StoreError, fan_out, work};
use crate::dag::{Dag, Task, Verdict};
use crate::id::{Generation, InstanceId, RunId, TaskId, TenantId};
use crate::plan::{Action, Condition, InstanceView, Reason, Snapshot, Tally, plan};
use crate::run::{RunState, TaskEvent, TaskState, Transition, is_terminal};

/// A run's name in the database.
pub(super) type RunKey = (TenantId, RunId);

/// A run, as far as advancing it needs.
#[derive(Clone)]
pub(super) struct RunRow {
    pub(super) dag: Arc<Dag>,
    pub(super) state: RunState,
}

/// The runs of a unit of work, and which of them may be over.
pub(super) struct Advance<'u, 'a> {
    store: &'u Store,
    unit: &'u mut UnitOfWork<'a>,
    runs: BTreeMap<RunKey, RunRow>,
    may_end: BTreeSet<RunKey>,
    /// Elements of fan-outs whose turn has come.
    released: BTreeSet<InstanceKey>,
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

/// A task of which instances ended, and what follows it.
struct Below {
    run: RunKey,
    delta: Delta,
    /// Whatever their generation.
    successors: Vec<InstanceKey>,
}

/// What to add to the counts of each successor.
fn deltas(below: &[Below]) -> BTreeMap<InstanceKey, Delta> {
    let mut deltas: BTreeMap<InstanceKey, Delta> = BTreeMap::new();
    for it in below {
        for key in &it.successors {
            let sum = deltas.entry(key.clone()).or_default();
            sum.succeeded += it.delta.succeeded;
            sum.failed += it.delta.failed;
            sum.upstream_failed += it.delta.upstream_failed;
            sum.skipped += it.delta.skipped;
        }
    }
    deltas
}

/// The instances that follow a task, whatever their generation.
pub(super) fn successors(run: &RunKey, dag: &Dag, id: &TaskId) -> Result<Vec<InstanceKey>, StoreError> {
    let node = dag
        .node(id)
        .ok_or_else(|| StoreError::Corrupt { what: "task instance", detail: format!("no task {id} in its DAG") })?;
    let below = dag.graph.neighbors_directed(node, Direction::Outgoing);
    let instances = below.flat_map(|node| super::create::instances_of(dag, &dag.graph[node].id));
    let key = |instance| InstanceKey { tenant: run.0.clone(), run: run.1, instance, generation: Generation(0) };
    Ok(instances.map(key).collect())
}

/// The task of an instance.
pub(super) fn task<'a>(dag: &'a Dag, id: &TaskId) -> Result<&'a Task, StoreError> {
    dag.task(id)
        .ok_or_else(|| StoreError::Corrupt { what: "task instance", detail: format!("no task {id} in its DAG") })
}

impl<'u, 'a> Advance<'u, 'a> {
    pub(super) fn new(store: &'u Store, unit: &'u mut UnitOfWork<'a>, runs: BTreeMap<RunKey, RunRow>) -> Self {
        Self { store, unit, runs, may_end: BTreeSet::new(), released: BTreeSet::new() }
    }

    /// Starts runs whose instances were just put into the unit.
    pub(super) async fn start(mut self, instances: Vec<InstanceKey>) -> Result<BTreeMap<RunKey, RunState>, StoreError> {
        let mut roots = Vec::new();
        for key in instances {
            let Some(run) = self.runs.get(&(key.tenant.clone(), key.run)) else { continue };
            let task = task(&run.dag, &key.instance.task)?;
            // `always` starts at once, whatever its upstreams do.
            if task.needs.is_empty() || task.trigger_rule == crate::dag::TriggerRule::Always {
                roots.push(key);
            }
        }
        // A root whose `if` is false may end a run at once.
        self.may_end = self.runs.keys().cloned().collect();
        self.step(roots, Vec::new()).await?;
        Ok(self.end_runs(None).await?.0)
    }

    /// Advances after instances ended. The caller has moved them already.
    pub(super) async fn after(&mut self, ended: Vec<(InstanceKey, TaskState)>) -> Result<(), StoreError> {
        let canceling = self.runs.iter().filter(|(_, run)| run.state == RunState::Canceling);
        self.may_end.extend(canceling.map(|(key, _)| key.clone()).collect::<Vec<_>>());
        self.step(Vec::new(), ended).await
    }

    /// Elements of fan-outs whose turn it is although no other has ended: a rerun begins with them.
    pub(super) fn release_first(&mut self, elements: Vec<InstanceKey>) {
        self.released.extend(elements);
    }

    /// Looks at instances again: after a cancel, and when readiness is to be recomputed.
    pub(super) async fn look_at(mut self, touched: Vec<InstanceKey>) -> Result<BTreeMap<RunKey, RunState>, StoreError> {
        self.may_end = self.runs.keys().cloned().collect();
        self.step(touched, Vec::new()).await?;
        Ok(self.end_runs(None).await?.0)
    }

    async fn step(
        &mut self,
        mut touched: Vec<InstanceKey>,
        mut ended: Vec<(InstanceKey, TaskState)>,
    ) -> Result<(), StoreError> {
        loop {
            let below = self.below(&ended)?;
            let deltas = deltas(&below);
            touched.extend(deltas.keys().cloned());
            touched.extend(self.release(&ended).await?);
            let keys = self.unit.lock_current(std::mem::take(&mut touched)).await?;
            for key in &keys {
                if let Some(delta) = deltas.get(&any_generation(key)) {
                    let upstream = &mut self.unit.change(key)?.upstream;
                    upstream.succeeded += delta.succeeded;
                    upstream.failed += delta.failed;
                    upstream.upstream_failed += delta.upstream_failed;
                    upstream.skipped += delta.skipped;
                }
            }
            let done = keys.is_empty();
            ended = self.plan(keys).await?;
            self.note_ends(&below);
            if done {
                return Ok(());
            }
        }
    }

    /// What follows each task that something of ended in this round.
    fn below(&self, ended: &[(InstanceKey, TaskState)]) -> Result<Vec<Below>, StoreError> {
        let mut by_task: BTreeMap<(RunKey, &TaskId), Delta> = BTreeMap::new();
        for (key, state) in ended {
            by_task.entry(((key.tenant.clone(), key.run), &key.instance.task)).or_default().add(*state);
        }
        let mut all = Vec::new();
        for ((run_key, id), delta) in by_task {
            let Some(run) = self.runs.get(&run_key) else { continue };
            let successors = successors(&run_key, &run.dag, id)?;
            all.push(Below { run: run_key, delta, successors });
        }
        Ok(all)
    }

    /// Remembers the runs in which something ended that leads nowhere: they may be done.
    fn note_ends(&mut self, below: &[Below]) {
        for it in below {
            let leads_on = it.successors.iter().any(|key| {
                self.unit.current(key).and_then(|key| self.unit.get(key)).is_some_and(|held| !is_terminal(held.state))
            });
            if !leads_on {
                self.may_end.insert(it.run.clone());
            }
        }
    }

    /// Plans and makes the moves of the touched instances, run by run; returns what they ended.
    async fn plan(&mut self, keys: Vec<InstanceKey>) -> Result<Vec<(InstanceKey, TaskState)>, StoreError> {
        let mut by_run: BTreeMap<RunKey, Vec<InstanceKey>> = BTreeMap::new();
        for key in keys {
            by_run.entry((key.tenant.clone(), key.run)).or_default().push(key);
        }
        let mut ended = Vec::new();
        for (run_key, mut keys) in by_run {
            let Some(run) = self.runs.get(&run_key).cloned() else { continue };
            // Same snapshot, same plan: in the order of the DAG.
            keys.sort_by_key(|key| self.unit.get(key).map(|held| held.ordinal));
            let mut by_instance = BTreeMap::new();
            let mut instances = Vec::with_capacity(keys.len());
            for key in keys {
                instances.push(self.view(&run, &key).await?);
                by_instance.insert(key.instance.clone(), key);
            }
            let planned =
                plan(&Snapshot { run: run.state, instances, tally: None }, &self.store.limits, self.unit.tx.now);
            for action in planned.actions {
                let Action::MoveTask { instance, transition, reason } = action else { continue };
                let Some(key) = by_instance.remove(&instance) else { continue };
                let (event, reason) = match transition.event() {
                    TaskEvent::BecameReady => self.make_ready(&run, &key).await?,
                    event => (event, reason),
                };
                let state = self.unit.move_task(&key, event, reason)?;
                if is_terminal(state) {
                    ended.push((key, state));
                }
            }
        }
        Ok(ended)
    }

    /// What becomes of an instance that may be ready: the first element of a fan-out makes the others.
    async fn make_ready(&mut self, run: &RunRow, key: &InstanceKey) -> Result<(TaskEvent, Option<Reason>), StoreError> {
        let task = task(&run.dag, &key.instance.task)?;
        let is_first = self.unit.get(key).is_some_and(|held| held.item.is_none());
        if task.for_each.is_none() || !is_first {
            return Ok((TaskEvent::BecameReady, None));
        }
        let (event, reason, width) = fan_out::expand(self.unit, run, key, task).await?;
        if width > 1 {
            let node = run.dag.node(&task.id);
            let below = node.into_iter().flat_map(|node| run.dag.graph.neighbors(node));
            let instances = below.flat_map(|node| super::create::instances_of(&run.dag, &run.dag.graph[node].id));
            let keys = instances.map(|instance| any_generation(&InstanceKey { instance, ..key.clone() })).collect();
            fan_out::widen(self.unit, keys, width - 1).await?;
        }
        Ok((event, reason))
    }

    /// The next elements of fan-outs of which elements have ended.
    async fn release(&mut self, ended: &[(InstanceKey, TaskState)]) -> Result<Vec<InstanceKey>, StoreError> {
        let mut by_task: BTreeMap<InstanceKey, usize> = BTreeMap::new();
        for (key, _) in ended {
            let Some(run) = self.runs.get(&(key.tenant.clone(), key.run)) else { continue };
            let task = task(&run.dag, &key.instance.task)?;
            if task.for_each.is_some() && task.max_in_flight.is_some() && run.state != RunState::Canceling {
                let instance = InstanceId::new(task.id.clone(), Some(0));
                *by_task.entry(any_generation(&InstanceKey { instance, ..key.clone() })).or_default() += 1;
            }
        }
        let released = fan_out::release(self.unit, by_task).await?;
        self.released.extend(released.iter().cloned());
        Ok(released)
    }

    fn is_held_back(&self, task: &Task, key: &InstanceKey) -> bool {
        let is_element = key.instance.index.is_some_and(|index| index > 0);
        task.for_each.is_some() && task.max_in_flight.is_some() && is_element && !self.released.contains(key)
    }

    async fn view(&mut self, run: &RunRow, key: &InstanceKey) -> Result<InstanceView, StoreError> {
        let held = self.unit.get(key).ok_or_else(|| StoreError::Corrupt {
            what: "task instance",
            detail: format!("{} is not held", key.instance),
        })?;
        let task = task(&run.dag, &key.instance.task)?;
        let mut view = InstanceView {
            id: key.instance.clone(),
            state: held.state,
            rule: task.trigger_rule,
            upstream: held.upstream,
            condition: Condition::Met,
            is_held_back: self.is_held_back(task, key),
        };
        view.condition = self.condition(run, key, task, &view).await?;
        Ok(view)
    }

    /// Evaluates `if`, once the trigger rule is met.
    async fn condition(
        &mut self,
        run: &RunRow,
        key: &InstanceKey,
        task: &Task,
        view: &InstanceView,
    ) -> Result<Condition, StoreError> {
        let Some(condition) = &task.condition else { return Ok(Condition::Met) };
        if task.for_each.is_some() && view.id.index != Some(0) {
            // It was asked for all elements when the first one began.
            return Ok(Condition::Met);
        }
        let met = view.upstream.total == 0 || view.rule.judge(&view.upstream) == Verdict::Ready;
        if !met || view.state != TaskState::Waiting || run.state == RunState::Canceling {
            return Ok(Condition::Met);
        }
        // It may read outputs that this very unit records.
        self.unit.flush().await?;
        let facts = work::run_facts(self.unit.tx.inner(), &key.tenant, key.run).await?;
        let scope = work::scope(self.unit.tx.inner(), &facts, task, view.id.index, condition).await?;
        Ok(match crate::template::condition(condition, &scope) {
            Ok(true) => Condition::Met,
            Ok(false) => Condition::NotMet,
            Err(error) => Condition::Broken(error.to_string()),
        })
    }

    /// Claims what `next` asks for, flushes the unit and ends the runs in which nothing is open. Returns where
    /// all of them stand, and the claims.
    ///
    /// The runs' rows are locked before the look: of two transactions that end a run's last two tasks
    /// at once, the second sees what the first wrote.
    pub(super) async fn end_runs(
        mut self,
        next: Option<&Next>,
    ) -> Result<(BTreeMap<RunKey, RunState>, Vec<Claim>), StoreError> {
        if next.is_none() {
            // Who starts or cancels runs has moved them, too.
            self.unit.flush().await?;
        }
        let locked = self.lock_ending().await?;
        let claims = match next {
            None => Vec::new(),
            Some(next) if next.others_wait => claim_into(self.unit, &next.request, next.request.limit).await?,
            Some(next) => self.claim_ready(next)?,
        };
        self.unit.flush().await?;
        if !locked.is_empty() {
            let moved = self.ended_runs(&locked).await?;
            if !moved.is_empty() {
                for (key, made, version) in &moved {
                    self.unit.note(run_event(&key.0, key.1, *version, *made));
                    if let Some(run) = self.runs.get_mut(key) {
                        run.state = made.to();
                    }
                }
                self.unit.also(move_runs(self.unit.tx, &moved));
                self.unit.flush().await?;
            }
        }
        Ok((self.runs.into_iter().map(|(key, run)| (key, run.state)).collect(), claims))
    }

    /// Locks the runs that may be over. Whoever decides about a run has its row before it waits for task
    /// instances, and this transaction has task instances: it can not wait, but it can begin again.
    async fn lock_ending(&self) -> Result<Vec<(RunKey, RunState, i64)>, StoreError> {
        let tx = self.unit.tx;
        let locked = lock_runs(tx, &self.may_end, &tx.dialect.lock_free("u")).await?;
        let mut missing = self.may_end.clone();
        for (key, ..) in &locked {
            missing.remove(key);
        }
        missing.retain(|key| !tx.locked_first.contains(key));
        if missing.is_empty() { Ok(locked) } else { Err(StoreError::RunsHeld { runs: missing }) }
    }

    /// Gives what was just made ready to the worker that finished its upstreams, since nobody else waits:
    /// no more per tenant than the tenant has just given back, and none of a pool, whose slots others
    /// may wait for.
    fn claim_ready(&mut self, next: &Next) -> Result<Vec<Claim>, StoreError> {
        let mut claims = Vec::new();
        let mut left: BTreeMap<TenantId, usize> = BTreeMap::new();
        for key in self.unit.keys_in(TaskState::Ready) {
            let pooled = self.unit.get(&key).is_none_or(|held| held.pool.is_some());
            if pooled || claims.len() >= next.request.limit || !next.request.scope.contains(&key) {
                continue;
            }
            let returned = || self.unit.returned(&key.tenant);
            let left = left.entry(key.tenant.clone()).or_insert_with(returned);
            if *left > 0 {
                *left -= 1;
                claims.push(self.unit.claim(&key, next.request.session)?);
            }
        }
        Ok(claims)
    }

    /// The moves of locked runs in which nothing is open.
    async fn ended_runs(
        &mut self,
        locked: &[(RunKey, RunState, i64)],
    ) -> Result<Vec<(RunKey, Transition<RunState>, i64)>, StoreError> {
        let tx = self.unit.tx;
        let sql = format!(
            "SELECT r.tenant, r.run, {} AS open, {} AS failed FROM {}",
            some_instance("r", "t.state IN ('waiting', 'ready', 'running', 'retry_wait')"),
            some_instance("r", "t.state IN ('failed', 'upstream_failed', 'quarantined')"),
            tx.dialect.rows(1, &RUN)
        );
        let mut tallies = BTreeMap::new();
        for row in &tx.all("look for what is open", &sql, vec![param(named(&self.may_end))]).await? {
            let (open, failed): (bool, bool) = (rows::get(row, "open")?, rows::get(row, "failed")?);
            tallies.insert(run_key(row)?, Tally { open: open.into(), failed: failed.into() });
        }
        let mut moved = Vec::new();
        for (key, state, version) in locked {
            let state = *state;
            if let Some(run) = self.runs.get_mut(key) {
                run.state = state;
            }
            let snapshot = Snapshot { run: state, instances: Vec::new(), tally: tallies.get(key).copied() };
            for action in plan(&snapshot, &self.store.limits, tx.now).actions {
                if let Action::MoveRun { transition } = action {
                    moved.push((key.clone(), transition, version + 1));
                }
            }
        }
        Ok(moved)
    }
}

/// The columns that name a run.
const RUN: [Column; 2] = [("tenant", Kind::Text), ("run", Kind::Text)];

/// Rows of [`RUN`].
fn named(runs: &BTreeSet<RunKey>) -> Vec<Value> {
    runs.iter().map(|(tenant, run)| json!({ "tenant": tenant, "run": run.to_string() })).collect()
}

/// Locks runs in the order of their keys, as `lock` says; where they stand, and their versions.
pub(super) async fn lock_runs(
    tx: &Tx,
    runs: &BTreeSet<RunKey>,
    lock: &str,
) -> Result<Vec<(RunKey, RunState, i64)>, StoreError> {
    if runs.is_empty() {
        return Ok(Vec::new());
    }
    let sql = format!(
        "SELECT u.tenant, u.run, u.state, u.version FROM {} JOIN run u ON u.tenant = r.tenant \
         AND u.run = r.run ORDER BY u.tenant, u.run{lock}",
        tx.dialect.rows(1, &RUN)
    );
    let found = tx.all("lock the runs", &sql, vec![param(named(runs))]).await?;
    found.iter().map(|row| Ok((run_key(row)?, rows::run_state(row)?, rows::get(row, "version")?))).collect()
}

/// Whether the run of the row `of` has a current task instance `t` for which `is` holds, as SQL. No EXISTS:
/// Postgres may answer many of them by one look at what is open anywhere.
pub(super) fn some_instance(of: &str, is: &str) -> String {
    format!(
        "COALESCE((SELECT TRUE FROM task_instance t WHERE t.tenant = {of}.tenant AND t.run = {of}.run AND t.current \
         AND {is} LIMIT 1), FALSE)"
    )
}

/// The key of an instance's row, whatever its generation.
fn any_generation(key: &InstanceKey) -> InstanceKey {
    InstanceKey { generation: Generation(0), ..key.clone() }
}

/// The run that a row is about.
pub(super) fn run_key(row: &sea_orm::QueryResult) -> Result<RunKey, StoreError> {
    Ok((rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "run", RunId::parse)?))
}

/// Moves of runs whose rows this transaction has locked or inserted, with their new versions.
pub(super) fn move_runs(tx: &Tx, moved: &[(RunKey, Transition<RunState>, i64)]) -> Part {
    let columns = [
        ("tenant", Kind::Text),
        ("run", Kind::Text),
        ("new_state", Kind::Text),
        ("new_version", Kind::Int),
        ("is_over", Kind::Bool),
    ];
    let rows = moved.iter().map(|((tenant, run), made, version)| {
        json!({ "tenant": tenant, "run": run.to_string(), "new_state": made.to().as_str(), "new_version": version,
                "is_over": is_terminal(made.to()) })
    });
    let sql = format!(
        "UPDATE run SET state = r.new_state, version = r.new_version, started_at = COALESCE(run.started_at, $2), \
         finished_at = CASE WHEN r.is_over THEN $2 ELSE run.finished_at END \
         FROM {} WHERE run.tenant = r.tenant AND run.run = r.run",
        tx.dialect.rows(1, &columns)
    );
    Part::new("move runs", sql, vec![param(rows.collect()), tx.now.into()])
}
