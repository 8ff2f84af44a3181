//! Making a replay: a new run of which some task instances have ended already, with the results of an
//! earlier run.
//!
//! Called by `replay`, which has decided what is taken over and has checked the objects behind it. Rows of
//! `artifact` are linked: the earlier key and digest under the new run, no byte copied. What follows is
//! [`advance`](super::advance), the same as after every finish.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::advance::{Advance, RunRow, move_runs};
use super::create::{deadline, insert_documents, insert_runs, insert_versions, instance_seed, instances_of};
use super::dialect::Kind;
use super::events::run_event;
use super::finish::artifacts_part;
use super::held::WaitLimits;
use super::rows::{InstanceKey, extend, keyed_rows, param};
use super::tx::{Tx, Write};
use super::unit::{NewInstance, UnitOfWork};
use super::{NewRun, Store, StoreError};
use crate::artifact::ArtifactRef;
use crate::dag::{Dag, Task, UpstreamCounts};
use crate::id::{Generation, InstanceId, RunId, TaskId};
use crate::plan::Reason;
use crate::run::{RunEvent, RunState, TaskEvent, TaskState, transition};

/// Rows of one statement: a parameter of some megabytes.
const ROWS_AT_ONCE: usize = 5_000;

/// A task instance of a replay that is known before it runs.
#[derive(Debug, Clone)]
pub struct Kept {
    /// Which.
    pub instance: InstanceId,
    /// The element of a `for_each`, as JSON.
    pub item: Option<String>,
    /// What is taken over; `None` = it runs, with this item.
    pub reuse: Option<Reuse>,
}

/// A result that is taken over.
#[derive(Debug, Clone)]
pub struct Reuse {
    /// `Succeeded` or `Skipped`.
    pub state: TaskState,
    /// The run that computed it.
    pub from: RunId,
    /// A JSON object.
    pub outputs: Option<Value>,
    /// The earlier objects.
    pub artifacts: Vec<ArtifactRef>,
}

impl Store {
    /// Makes a replay and starts it. Returns its state: where everything is taken over, it ends here.
    ///
    /// # Errors
    /// The database's.
    pub async fn create_replay(&self, new: &NewRun, kept: &[Kept], detail: &Value) -> Result<RunState, StoreError> {
        self.cache_dag(Arc::clone(&new.dag));
        let state = self.write(&CreateReplay { store: self, new, kept, detail }).await?;
        self.wake();
        Ok(state)
    }
}

struct CreateReplay<'a> {
    store: &'a Store,
    new: &'a NewRun,
    kept: &'a [Kept],
    /// What the run's first event keeps: who asked for what.
    detail: &'a Value,
}

/// The instances of the new run, in the unit.
#[derive(Default)]
struct Inserted {
    /// Those that may run.
    open: Vec<InstanceKey>,
    /// Elements of fan-outs with a limit: the first that run.
    first: Vec<InstanceKey>,
    links: Vec<Value>,
}

#[async_trait]
impl Write for CreateReplay<'_> {
    type Output = RunState;
    const WHAT: &'static str = "create a replay";

    async fn apply(&self, tx: &Tx) -> Result<RunState, StoreError> {
        let new = std::slice::from_ref(self.new);
        insert_versions(tx, new).await?;
        insert_runs(tx, self.store, new).await?;
        insert_documents(tx, new).await?;
        let made = transition(RunState::Queued, RunEvent::Started)?;
        let mut unit = UnitOfWork::new(tx, self.store.incarnation);
        let key = (self.new.tenant.clone(), self.new.run);
        unit.note(run_event(&key.0, key.1, 1, made).with_detail(self.detail));
        unit.also(move_runs(tx, &[(key.clone(), made, 1)]));
        let inserted = self.insert(&mut unit)?;
        self.still_there(tx, &inserted.links).await?;
        for links in inserted.links.chunks(ROWS_AT_ONCE) {
            link(tx, links).await?;
        }
        // Conditions read the outputs of what was taken over.
        unit.flush().await?;
        let row = RunRow { dag: Arc::clone(&self.new.dag), state: made.to() };
        let mut advance = Advance::new(self.store, &mut unit, BTreeMap::from([(key.clone(), row)]));
        advance.release_first(inserted.first);
        let states = advance.look_at(inserted.open).await?;
        Ok(states.get(&key).copied().unwrap_or(made.to()))
    }
}

impl CreateReplay<'_> {
    /// What is linked has to be on record still, under the lock that whoever deletes old runs takes, too.
    async fn still_there(&self, tx: &Tx, links: &[Value]) -> Result<(), StoreError> {
        let Some(parent) = self.new.kind.parent() else { return Ok(()) };
        let (tenant, run) = (self.new.tenant.to_string(), parent.to_string());
        let sql = format!("SELECT run FROM run WHERE tenant = $1 AND run = $2{}", tx.dialect.lock("run"));
        tx.all("lock the earlier run", &sql, vec![tenant.clone().into(), run.into()]).await?;
        let keys: BTreeSet<&str> = links.iter().filter_map(|link| link["key"].as_str()).collect();
        // The whole key in the rows: as constants, they would let SQLite read all rows for each artifact.
        let named = links.iter().map(|link| extend(link.clone(), json!({ "run": parent.to_string() }))).collect();
        let sql = format!(
            "SELECT COUNT(DISTINCT a.key) AS n FROM {} JOIN artifact a ON a.tenant = r.tenant AND a.run = r.run \
             AND a.task = r.task AND a.element = r.element AND a.name = r.name AND a.key = r.key",
            keyed_rows(tx.dialect, 1, &[("name", Kind::Text), ("key", Kind::Text)])
        );
        let found = tx.all("look for the earlier artifacts", &sql, vec![param(named)]).await?;
        let there = found.first().map_or(Ok(0), |row| super::rows::get::<i64>(row, "n"))?;
        if usize::try_from(there) == Ok(keys.len()) {
            return Ok(());
        }
        Err(StoreError::NotFound { what: "artifact to reuse", id: format!("of run {parent}"), tenant })
    }

    fn insert(&self, unit: &mut UnitOfWork<'_>) -> Result<Inserted, StoreError> {
        let kept: BTreeMap<&InstanceId, &Kept> = self.kept.iter().map(|it| (&it.instance, it)).collect();
        let dag = &self.new.dag;
        let instances: BTreeMap<&TaskId, Vec<InstanceId>> =
            dag.tasks().map(|task| (&task.id, instances(dag, task, &kept))).collect();
        let due_by = deadline(self.new, unit.tx.now);
        let mut inserted = Inserted::default();
        let mut ordinal = 0;
        for task in dag.tasks() {
            let upstream = upstream(task, &instances, &kept);
            let mut begun = 0;
            for instance in instances.get(&task.id).into_iter().flatten() {
                let known = kept.get(instance).copied();
                let key = InstanceKey {
                    tenant: self.new.tenant.clone(),
                    run: self.new.run,
                    instance: instance.clone(),
                    generation: Generation(1),
                };
                unit.insert(NewInstance {
                    key: key.clone(),
                    dag: dag.id.clone(),
                    ordinal,
                    seed: instance_seed(self.new.seed, instance),
                    priority: task.priority.into(),
                    pool: task.pool.clone(),
                    upstream,
                    item: known.and_then(|it| it.item.clone()),
                    waits: WaitLimits::of(task, due_by),
                });
                match known.and_then(|it| it.reuse.as_ref()) {
                    Some(reuse) => take_over(unit, &key, reuse, &mut inserted.links)?,
                    None => {
                        hold_back(unit, task, &key, &mut begun, &mut inserted.first)?;
                        inserted.open.push(key);
                    }
                }
                // Elements of a fan-out share an ordinal, as those that `fan_out` makes do.
                ordinal += i64::from(task.for_each.is_none());
            }
            ordinal += i64::from(task.for_each.is_some());
        }
        Ok(inserted)
    }
}

/// The instances of a task: those of an expanded `for_each` that are known, or as for any new run.
fn instances(dag: &Dag, task: &Task, kept: &BTreeMap<&InstanceId, &Kept>) -> Vec<InstanceId> {
    if task.for_each.is_some() {
        let known: BTreeSet<&InstanceId> = kept.keys().copied().filter(|it| it.task == task.id).collect();
        if !known.is_empty() {
            return known.into_iter().cloned().collect();
        }
    }
    instances_of(dag, &task.id)
}

fn upstream(
    task: &Task,
    instances: &BTreeMap<&TaskId, Vec<InstanceId>>,
    kept: &BTreeMap<&InstanceId, &Kept>,
) -> UpstreamCounts {
    let mut counts = UpstreamCounts::default();
    for instance in task.needs.iter().filter_map(|need| instances.get(need)).flatten() {
        counts.total += 1;
        match kept.get(instance).and_then(|it| it.reuse.as_ref()).map(|reuse| reuse.state) {
            Some(TaskState::Skipped) => counts.skipped += 1,
            Some(_) => counts.succeeded += 1,
            None => {}
        }
    }
    counts
}

fn take_over(
    unit: &mut UnitOfWork<'_>,
    key: &InstanceKey,
    reuse: &Reuse,
    links: &mut Vec<Value>,
) -> Result<(), StoreError> {
    let event = if reuse.state == TaskState::Skipped { TaskEvent::Skipped } else { TaskEvent::Reused };
    unit.change(key)?.outputs = reuse.outputs.as_ref().map(Value::to_string);
    unit.move_task(key, event, Some(Reason::Reused { run: reuse.from }))?;
    links.extend(reuse.artifacts.iter().map(|artifact| {
        // No attempt made it here: the epoch is that of an instance which nobody has claimed.
        let fields = json!({
            "name": artifact.name, "epoch": 0, "key": artifact.key, "digest": artifact.digest,
            "bytes": artifact.bytes, "row_count": artifact.rows, "schema_digest": artifact.schema_digest,
            "linked_from": reuse.from.to_string(),
        });
        extend(key.json(), fields)
    }));
    Ok(())
}

/// Elements with a limit of those in flight: the first ones begin, the others wait for their end.
fn hold_back(
    unit: &mut UnitOfWork<'_>,
    task: &Task,
    key: &InstanceKey,
    begun: &mut u32,
    first: &mut Vec<InstanceKey>,
) -> Result<(), StoreError> {
    let Some(limit) = task.for_each.as_ref().and(task.max_in_flight) else { return Ok(()) };
    *begun += 1;
    if key.instance.index == Some(0) {
        // Nothing holds it back.
    } else if *begun <= limit.max(1) {
        first.push(key.clone());
    } else {
        unit.change(key)?.reason = Some(Reason::WaitingForElements);
    }
    Ok(())
}

async fn link(tx: &Tx, links: &[Value]) -> Result<(), StoreError> {
    let part = artifacts_part(tx.dialect, links.to_vec(), tx.now);
    tx.run(part).await?;
    Ok(())
}
