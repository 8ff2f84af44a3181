//! Fan-out over a list: the elements of a `for_each`, made when its trigger rule is met.
//!
//! A run is created with the first element alone. When that one would become ready, the list is
//! rendered, the other elements are inserted beside it, and the successors' counts of upstreams grow
//! by as many: from there on elements are instances like those of a matrix. With `max_in_flight`, the
//! rest wait, and each end releases the next. Called by `advance`.

use std::collections::BTreeMap;

use serde_json::Value;

use super::advance::RunRow;
use super::create::instance_seed;
use super::held::{HELD, WaitLimits};
use super::rows::InstanceKey;
use super::unit::{NewInstance, UnitOfWork};
use super::{StoreError, work};
use crate::dag::{Task, UpstreamCounts};
use crate::id::InstanceId;
use crate::plan::Reason;
use crate::run::TaskEvent;

/// The longest list.
const MAX_ELEMENTS: usize = 100_000;

/// What a list is, for one that is none.
fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

/// Makes the elements of `task` beside its first one, `key`. Returns what happens to that one, with
/// the reason, and how many elements there are.
pub(super) async fn expand(
    unit: &mut UnitOfWork<'_>,
    run: &RunRow,
    key: &InstanceKey,
    task: &Task,
) -> Result<(TaskEvent, Option<Reason>, usize), StoreError> {
    let Some(text) = &task.for_each else { return Ok((TaskEvent::BecameReady, None, 1)) };
    // The list may be an output that this very unit records.
    unit.flush().await?;
    let facts = work::run_facts(unit.tx.inner(), &key.tenant, key.run).await?;
    let value = Value::from(text.as_str());
    let scope = work::scope(unit.tx.inner(), &facts, task, None, &value).await?;
    let broken = |message: String| Ok((TaskEvent::Failed, Some(Reason::FanOutBroken { message }), 1));
    let items = match crate::template::render(&value, &scope) {
        Ok(Value::Array(items)) => items,
        Ok(other) => return broken(format!("{text} yields {}, not a list", kind_of(&other))),
        Err(error) => return broken(error.to_string()),
    };
    if items.is_empty() {
        return Ok((TaskEvent::Skipped, Some(Reason::FanOutEmpty), 1));
    }
    if items.len() > MAX_ELEMENTS {
        return broken(format!("{text} yields {} elements; at most {MAX_ELEMENTS} can run", items.len()));
    }
    let upstream = unit.get(key).map(|held| held.upstream).unwrap_or_default();
    let count = items.len();
    insert_elements(unit, (run, key, task), (items, upstream), facts.seed())?;
    Ok((TaskEvent::BecameReady, None, count))
}

fn insert_elements(
    unit: &mut UnitOfWork<'_>,
    (run, key, task): (&RunRow, &InstanceKey, &Task),
    (items, upstream): (Vec<Value>, UpstreamCounts),
    seed: u64,
) -> Result<(), StoreError> {
    let first = unit.get(key).map(|held| (held.ordinal, held.priority, held.waits));
    let (ordinal, priority, waits) = first.unwrap_or((0, task.priority.into(), WaitLimits::of(task, None)));
    let in_flight = task.max_in_flight.map_or(usize::MAX, |limit| limit.max(1) as usize);
    for (at, item) in items.into_iter().enumerate() {
        if at == 0 {
            unit.change(key)?.item = Some(item.to_string());
            continue;
        }
        let instance = InstanceId::new(task.id.clone(), u32::try_from(at).ok());
        let element = InstanceKey { instance, ..key.clone() };
        unit.insert(NewInstance {
            key: element.clone(),
            dag: run.dag.id.clone(),
            ordinal,
            seed: instance_seed(seed, &element.instance),
            priority,
            pool: task.pool.clone(),
            upstream,
            item: Some(item.to_string()),
            waits,
        });
        if at < in_flight {
            unit.move_task(&element, TaskEvent::BecameReady, None)?;
        } else {
            unit.change(&element)?.reason = Some(Reason::WaitingForElements);
        }
    }
    Ok(())
}

/// Locks the next elements that wait for the end of others: as many per fan-out as have ended.
/// Another transaction that releases at the same time takes others.
pub(super) async fn release(
    unit: &mut UnitOfWork<'_>,
    ended: BTreeMap<InstanceKey, usize>,
) -> Result<Vec<InstanceKey>, StoreError> {
    let mut released = Vec::new();
    for (key, count) in ended {
        let sql = format!(
            "SELECT {HELD} FROM task_instance t WHERE t.state = 'waiting' AND t.element > 0 AND t.tenant = $1 \
             AND t.run = $2 AND t.task = $3 AND t.current ORDER BY t.element LIMIT $4{}",
            unit.tx.dialect.skip_locked()
        );
        let values = vec![
            key.tenant.to_string().into(),
            key.run.to_string().into(),
            key.instance.task.to_string().into(),
            i64::try_from(count).unwrap_or(i64::MAX).into(),
        ];
        released.extend(unit.lock("release elements", &sql, values).await?);
    }
    Ok(released)
}

/// Adds `more` upstreams to instances: a fan-out above them turned out to be that wide.
pub(super) async fn widen(
    unit: &mut UnitOfWork<'_>,
    successors: Vec<InstanceKey>,
    more: usize,
) -> Result<(), StoreError> {
    let more = u32::try_from(more).unwrap_or(u32::MAX);
    for key in unit.lock_current(successors).await? {
        unit.change(&key)?.upstream.total += more;
    }
    Ok(())
}
