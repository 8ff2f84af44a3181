//! Reruns: new generations of what failed, and of all that depends on it, in the same run.
//!
//! Called by `headworks retry`. The generations that ended stay as they are, no longer current; the
//! new ones wait until [`advance`], the same as after every finish, makes their roots ready. It
//! executes nothing and decides no state.
//!
//! What the fences need: a report names its generation, so one for an old generation meets a row that
//! is terminal, and is refused. A new generation goes on with the epoch of the old one, so that epochs
//! keep growing; keys of artifacts name both. A task reads what the *current* generation of its
//! producers published: where the producer is rerun, that is the new one; where it is not, the one
//! that ended. A fan-out below something that is rerun has its list read anew, so it begins as its
//! first element once more.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use petgraph::Direction;
use serde_json::{Value, json};

use super::advance::{Advance, RunRow};
use super::dialect::{Column, Dialect, Kind};
use super::events::run_event;
use super::held::{HELD, LOCK_ORDER};
use super::reclaim::read_run;
use super::rows::{self, InstanceKey, element, extend, param};
use super::tx::{Tx, Write};
use super::unit::{NewInstance, UnitOfWork};
use super::{Store, StoreError};
use crate::dag::{Dag, UpstreamCounts};
use crate::id::{Generation, InstanceId, RunId, TaskId, TenantId};
use crate::plan::Reason;
use crate::run::{RunEvent, RunState, TaskState, transition};

/// Tasks that an event of a rerun names; the number of instances says the rest.
const NAMED_TASKS: usize = 20;

/// What to run again, and who asks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RerunRequest {
    /// This task, whatever its outcome (all elements, or one); `None` = all that ended `failed`,
    /// `upstream_failed`, `quarantined` or `canceled`.
    pub task: Option<TaskId>,
    /// The one element of `task` to run again.
    pub index: Option<u32>,
    /// Who asks, for the record.
    pub actor: String,
    /// Why, for the record.
    pub reason: Option<String>,
}

/// What a rerun has made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rerun {
    /// Where the run stands now; a run whose new generations can not start either has ended again.
    pub state: RunState,
    /// New generations per task, in the order of the DAG.
    pub instances: Vec<(TaskId, u64)>,
}

impl Store {
    /// Makes a new generation of what `request` names and of all its descendants, and takes the run
    /// up again. What is not rerun keeps its outcome and counts as ended.
    ///
    /// # Errors
    /// The run has not ended, has no such task, or nothing of it failed; [`StoreError::Dag`] if its
    /// pinned version does not fit this binary's task kinds. Then nothing has changed.
    pub async fn rerun(&self, tenant: &TenantId, run: RunId, request: &RerunRequest) -> Result<Rerun, StoreError> {
        let made = self.write(&MakeRerun { store: self, tenant, run, request }).await?;
        self.wake();
        Ok(made)
    }
}

struct MakeRerun<'a> {
    store: &'a Store,
    tenant: &'a TenantId,
    run: RunId,
    request: &'a RerunRequest,
}

/// A task with instances to rerun: all of them, or those that the request names.
struct Part {
    task: TaskId,
    /// Whole because something above it is rerun, or because it was asked for.
    whole: bool,
    index: Option<u32>,
}

#[async_trait]
impl Write for MakeRerun<'_> {
    type Output = Rerun;
    const WHAT: &'static str = "make a rerun";

    async fn apply(&self, tx: &Tx) -> Result<Rerun, StoreError> {
        self.lock(tx).await?;
        let RunRow { dag, state } = read_run(self.store, tx, self.tenant, self.run).await?;
        let open = |_| StoreError::RunOpen { run: self.run, state };
        let made = transition(state, RunEvent::RerunRequested).map_err(open)?;
        let roots = self.roots(tx).await?;
        let parts = parts(&dag, &roots);
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        let old = self.retire(&mut unit, &parts).await?;
        // Its descendants alone are not what was asked for.
        let asked = |key: &InstanceKey| self.request.task.as_ref().is_none_or(|task| key.instance.task == *task);
        if !old.iter().any(asked) {
            return Err(self.nothing());
        }
        let renewal = self.renew(&mut unit, &dag, &parts, old).await?;
        let version = self.reopen(tx, made.from(), made.to()).await?;
        let detail = self.detail(&roots, renewal.keys.len());
        unit.note(run_event(self.tenant, self.run, version, made).with_detail(&detail));
        // What is asked of the database from here on, such as who waits for an element's end, is there.
        unit.flush().await?;
        let instances = in_order(&dag, renewal.counts);
        let key = (self.tenant.clone(), self.run);
        let rows = BTreeMap::from([(key.clone(), RunRow { dag, state: made.to() })]);
        let mut advance = Advance::new(self.store, &mut unit, rows);
        advance.release_first(renewal.first);
        let states = advance.look_at(renewal.keys).await?;
        Ok(Rerun { state: states.get(&key).copied().unwrap_or(made.to()), instances })
    }
}

/// The new generations, in the unit and not yet moved.
#[derive(Default)]
struct Renewal {
    keys: Vec<InstanceKey>,
    counts: BTreeMap<TaskId, u32>,
    /// Elements of a fan-out with a limit of those in flight: the first of those that run again.
    first: Vec<InstanceKey>,
}

impl MakeRerun<'_> {
    /// Rows about tasks, as the parameter of a [`per_task`] source.
    fn of_run(&self, rows: impl Iterator<Item = Value>) -> sea_orm::Value {
        let key = json!({ "tenant": self.tenant, "run": self.run.to_string() });
        param(rows.map(|row| extend(key.clone(), row)).collect())
    }

    /// Two people who ask at once: the second sees the run that the first has taken up.
    async fn lock(&self, tx: &Tx) -> Result<(), StoreError> {
        let sql = format!("SELECT state FROM run WHERE tenant = $1 AND run = $2{}", tx.dialect.lock("run"));
        tx.all("lock the run", &sql, vec![self.tenant.to_string().into(), self.run.to_string().into()]).await?;
        Ok(())
    }

    fn nothing(&self) -> StoreError {
        match &self.request.task {
            Some(task) => {
                StoreError::NoInstance { run: self.run, instance: InstanceId::new(task.clone(), self.request.index) }
            }
            None => StoreError::NothingToRerun { run: self.run },
        }
    }

    /// Where the rerun begins: what was asked for, or whatever ended badly.
    async fn roots(&self, tx: &Tx) -> Result<Vec<Part>, StoreError> {
        if let Some(task) = &self.request.task {
            return Ok(vec![Part { task: task.clone(), whole: true, index: self.request.index }]);
        }
        let sql = format!(
            "SELECT DISTINCT t.task FROM task_instance t WHERE t.tenant = $1 AND t.run = $2 AND t.current \
             AND {ENDED_BADLY} ORDER BY t.task"
        );
        let values = vec![self.tenant.to_string().into(), self.run.to_string().into()];
        let found = tx.all("read what failed", &sql, values).await?;
        found
            .iter()
            .map(|row| Ok(Part { task: rows::parse(row, "task", TaskId::parse)?, whole: false, index: None }))
            .collect()
    }

    /// Takes `current` from the generations that are to be rerun; they are held from then on.
    async fn retire(&self, unit: &mut UnitOfWork<'_>, parts: &[Part]) -> Result<Vec<InstanceKey>, StoreError> {
        let tx = unit.tx;
        let rows = parts.iter().map(|part| {
            let index = part.index.map(|index| element(Some(index)));
            json!({ "task": part.task, "whole": part.whole, "element": index })
        });
        let source = per_task(tx.dialect, &[("whole", Kind::Bool), ("element", Kind::Int)]);
        let values = vec![self.of_run(rows)];
        let named = format!(
            "{OF_TASK} AND t.current AND (r.element IS NULL OR t.element = r.element) AND (r.whole OR {ENDED_BADLY})"
        );
        let sql = format!(
            "SELECT {HELD} FROM {source} JOIN task_instance t ON {named} ORDER BY {LOCK_ORDER}{}",
            tx.dialect.lock("t")
        );
        let old = unit.lock("lock generations", &sql, values.clone()).await?;
        let sql = format!("UPDATE task_instance AS t SET current = FALSE FROM {source} WHERE {named}");
        tx.execute("retire generations", &sql, values).await?;
        Ok(old)
    }

    /// Puts the new generations into the unit, with the outcomes of those upstreams that are not rerun.
    async fn renew(
        &self,
        unit: &mut UnitOfWork<'_>,
        dag: &Dag,
        parts: &[Part],
        old: Vec<InstanceKey>,
    ) -> Result<Renewal, StoreError> {
        let lists = self.lists_anew(unit.tx, dag, parts).await?;
        let mut renewal = Renewal::default();
        let mut pairs = Vec::with_capacity(old.len());
        for key in old {
            let generation = match lists.get(&key.instance.task) {
                // Its list is read anew: the first element makes the others, however many there are now.
                Some(last) if key.instance.index == Some(0) => last.next(),
                Some(_) => continue,
                None => key.generation.next(),
            };
            *renewal.counts.entry(key.instance.task.clone()).or_default() += 1;
            pairs.push((InstanceKey { generation, ..key.clone() }, key));
        }
        let upstreams = self.upstreams(unit.tx, dag, &renewal.counts).await?;
        for (new, old) in pairs {
            let upstream = upstreams.get(&new.instance.task).copied().unwrap_or_default();
            insert(unit, &new, &old, upstream, lists.contains_key(&new.instance.task))?;
            renewal.keys.push(new);
        }
        hold_back(unit, dag, &mut renewal)?;
        Ok(renewal)
    }

    /// The fan-outs that are rerun whole, each with the highest generation of any of its elements: a new
    /// list's elements share one that none of them has had.
    async fn lists_anew(&self, tx: &Tx, dag: &Dag, parts: &[Part]) -> Result<BTreeMap<TaskId, Generation>, StoreError> {
        let is_list = |id: &TaskId| dag.task(id).is_some_and(|task| task.for_each.is_some());
        let whole = parts.iter().filter(|part| part.whole && part.index.is_none() && is_list(&part.task));
        let rows: Vec<_> = whole.map(|part| json!({ "task": part.task })).collect();
        if rows.is_empty() {
            return Ok(BTreeMap::new());
        }
        let sql = format!(
            "SELECT t.task, MAX(t.generation) AS generation FROM {} JOIN task_instance t ON {OF_TASK} GROUP BY t.task",
            per_task(tx.dialect, &[])
        );
        let found = tx.all("read the last generations", &sql, vec![self.of_run(rows.into_iter())]).await?;
        found
            .iter()
            .map(|row| Ok((rows::parse(row, "task", TaskId::parse)?, Generation(rows::get(row, "generation")?))))
            .collect()
    }

    /// How many upstreams the new generations of each task have, and how those that are not rerun ended.
    /// Those that are have no current row at this moment, so each counts once: as ended, or when it
    /// ends anew.
    async fn upstreams(
        &self,
        tx: &Tx,
        dag: &Dag,
        anew: &BTreeMap<TaskId, u32>,
    ) -> Result<BTreeMap<TaskId, UpstreamCounts>, StoreError> {
        let kept = self.kept(tx, dag, anew).await?;
        let sum = |id: &TaskId| {
            let mut sum = UpstreamCounts::default();
            for need in dag.task(id).map_or(&[][..], |task| &task.needs) {
                let counts = kept.get(need).copied().unwrap_or_default();
                sum.total += counts.done() + anew.get(need).copied().unwrap_or(0);
                sum.succeeded += counts.succeeded;
                sum.failed += counts.failed;
                sum.upstream_failed += counts.upstream_failed;
                sum.skipped += counts.skipped;
            }
            (id.clone(), sum)
        };
        Ok(anew.keys().map(sum).collect())
    }

    /// How the current instances of the tasks above the rerun ended.
    async fn kept(
        &self,
        tx: &Tx,
        dag: &Dag,
        anew: &BTreeMap<TaskId, u32>,
    ) -> Result<BTreeMap<TaskId, UpstreamCounts>, StoreError> {
        let needs: BTreeSet<_> = anew.keys().filter_map(|id| dag.task(id)).flat_map(|task| &task.needs).collect();
        let sql = format!(
            "SELECT t.task, t.state, COUNT(*) AS n FROM {} JOIN task_instance t ON {OF_TASK} \
             WHERE t.current GROUP BY t.task, t.state",
            per_task(tx.dialect, &[])
        );
        let values = vec![self.of_run(needs.into_iter().map(|task| json!({ "task": task })))];
        let mut kept: BTreeMap<TaskId, UpstreamCounts> = BTreeMap::new();
        for row in &tx.all("count what is not rerun", &sql, values).await? {
            let counts = kept.entry(rows::parse(row, "task", TaskId::parse)?).or_default();
            let n = rows::count(row, "n")?;
            match rows::task_state(row)? {
                TaskState::Succeeded => counts.succeeded += n,
                TaskState::Skipped => counts.skipped += n,
                TaskState::UpstreamFailed => counts.upstream_failed += n,
                TaskState::Failed | TaskState::Quarantined | TaskState::Canceled => counts.failed += n,
                TaskState::Waiting | TaskState::Ready | TaskState::Running | TaskState::RetryWait => {
                    let detail = format!("run {} has ended, yet an instance of it is open", self.run);
                    return Err(StoreError::Corrupt { what: "task instance", detail });
                }
            }
        }
        Ok(kept)
    }

    /// Moves the run; returns its new version.
    async fn reopen(&self, tx: &Tx, from: RunState, to: RunState) -> Result<i64, StoreError> {
        let sql = "UPDATE run SET state = $1, version = version + 1, finished_at = NULL \
                   WHERE tenant = $2 AND run = $3 AND state = $4 RETURNING version";
        let values =
            vec![to.as_str().into(), self.tenant.to_string().into(), self.run.to_string().into(), from.as_str().into()];
        let found = tx.all("take the run up again", sql, values).await?;
        // The row is locked, so its state is the one that was read.
        let row = found.first().ok_or(StoreError::RunOpen { run: self.run, state: from })?;
        rows::get(row, "version")
    }

    /// What the run's event keeps of the request.
    fn detail(&self, roots: &[Part], instances: usize) -> Value {
        let name = |root: &Part| InstanceId::new(root.task.clone(), root.index).to_string();
        json!({
            "actor": self.request.actor, "reason": self.request.reason,
            "tasks": roots.iter().take(NAMED_TASKS).map(name).collect::<Vec<_>>(), "instances": instances,
        })
    }
}

/// What has to run again before its run can end well.
const ENDED_BADLY: &str = "t.state IN ('failed', 'upstream_failed', 'quarantined', 'canceled')";

/// The instances `t` of a row of [`per_task`].
const OF_TASK: &str = "t.tenant = r.tenant AND t.run = r.run AND t.task = r.task";

/// A row source of the tasks of a run and `more`, read from parameter `$1`. Tenant and run are in the rows:
/// as constants of the statement, they would let SQLite walk through the run and read all rows of the
/// source for each instance.
fn per_task(dialect: Dialect, more: &[Column]) -> String {
    let columns = [("tenant", Kind::Text), ("run", Kind::Text), ("task", Kind::Text)];
    dialect.rows(1, &[&columns, more].concat())
}

/// Puts `new`, the generation after `old`, into the unit.
fn insert(
    unit: &mut UnitOfWork<'_>,
    new: &InstanceKey,
    old: &InstanceKey,
    upstream: UpstreamCounts,
    list_anew: bool,
) -> Result<(), StoreError> {
    let missing = || StoreError::Corrupt { what: "task instance", detail: format!("{} is not held", old.instance) };
    let held = unit.get(old).ok_or_else(missing)?;
    let epoch = held.epoch;
    let instance = NewInstance {
        key: new.clone(),
        dag: held.dag.clone(),
        ordinal: held.ordinal,
        seed: held.seed,
        priority: held.priority,
        pool: held.pool.clone(),
        upstream,
        item: held.item.clone().filter(|_| !list_anew),
        waits: held.waits,
    };
    unit.insert(instance);
    unit.change(new)?.epoch = epoch;
    Ok(())
}

/// Elements of a fan-out with `max_in_flight`, of which some run again: the first ones begin, the others
/// wait for the end of these, as they did the first time.
fn hold_back(unit: &mut UnitOfWork<'_>, dag: &Dag, renewal: &mut Renewal) -> Result<(), StoreError> {
    let mut begun: BTreeMap<&TaskId, u32> = BTreeMap::new();
    // In the order of their keys, so the lowest elements of each task come first.
    for key in &renewal.keys {
        let Some(limit) = dag.task(&key.instance.task).and_then(|task| task.for_each.as_ref().and(task.max_in_flight))
        else {
            continue;
        };
        let begun = begun.entry(&key.instance.task).or_default();
        *begun += 1;
        if key.instance.index == Some(0) {
            // Nothing holds it back.
        } else if *begun <= limit.max(1) {
            renewal.first.push(key.clone());
        } else {
            unit.change(key)?.reason = Some(Reason::WaitingForElements);
        }
    }
    Ok(())
}

/// The roots, and every task below one of them whole.
fn parts(dag: &Dag, roots: &[Part]) -> Vec<Part> {
    let successors = |node| dag.graph.neighbors_directed(node, Direction::Outgoing);
    let mut next: Vec<_> = roots.iter().filter_map(|root| dag.node(&root.task)).flat_map(successors).collect();
    let mut below = BTreeSet::new();
    while let Some(node) = next.pop() {
        if below.insert(node) {
            next.extend(successors(node));
        }
    }
    let whole = |task: &TaskId| dag.node(task).is_some_and(|node| below.contains(&node));
    let kept = roots.iter().filter(|root| !whole(&root.task));
    let kept = kept.map(|root| Part { task: root.task.clone(), whole: root.whole, index: root.index });
    let below = below.iter().map(|&node| Part { task: dag.graph[node].id.clone(), whole: true, index: None });
    kept.chain(below).collect()
}

fn in_order(dag: &Dag, mut counts: BTreeMap<TaskId, u32>) -> Vec<(TaskId, u64)> {
    dag.tasks().filter_map(|task| counts.remove_entry(&task.id)).map(|(task, count)| (task, count.into())).collect()
}
