//! A task instance as a transaction holds it, and how it is read.
//!
//! Used by [`unit`](super::unit), which moves what is held and writes it back through `flush`.

use std::cmp::Reverse;
use std::time::Duration;

use sea_orm::{FromQueryResult, QueryResult, Value};
use serde::Deserialize;

use super::StoreError;
use super::dialect::Dialect;
use super::events::Holder;
use super::rows::{InstanceKey, get};
use super::tx::Tx;
use crate::dag::{Task, UpstreamCounts};
use crate::id::{AttemptNumber, DagId, Epoch, Generation, Incarnation, InstanceId, RunId, SessionId, TaskId, TenantId};
use crate::plan::{Micros, Reason};
use crate::run::TaskState;

/// A task instance as this transaction holds it: locked, or not inserted yet.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) key: InstanceKey,
    pub(super) dag: DagId,
    pub(super) ordinal: i64,
    pub(super) state: TaskState,
    /// How many events it has.
    pub(super) version: i64,
    pub(super) epoch: Epoch,
    pub(super) session: Option<SessionId>,
    pub(super) incarnation: Incarnation,
    pub(super) attempts: i64,
    pub(super) failures: u32,
    pub(super) losses: u32,
    pub(super) seed: u64,
    pub(super) priority: i64,
    pub(super) pool: Option<String>,
    pub(super) upstream: UpstreamCounts,
    pub(super) not_before: Option<Micros>,
    pub(super) ready_at: Option<Micros>,
    pub(super) started_at: Option<Micros>,
    pub(super) finished_at: Option<Micros>,
    pub(super) outputs: Option<String>,
    pub(super) reason: Option<Reason>,
    /// The element of a `for_each`, as JSON.
    pub(super) item: Option<String>,
    pub(super) waits: WaitLimits,
    /// It has to be claimed by then, while it is ready.
    pub(super) queue_by: Option<Micros>,
    /// It has to end by then.
    pub(super) end_by: Option<Micros>,
    pub(super) is_new: bool,
    pub(super) is_changed: bool,
    /// As the database has it.
    pub(super) unusual: Unusual,
}

/// What moves change only when something is out of the ordinary: a failure, a limit, a fan-out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Unusual {
    failures: u32,
    losses: u32,
    /// Without those that succeeded.
    upstream: UpstreamCounts,
    not_before: Option<Micros>,
    queue_by: Option<Micros>,
    end_by: Option<Micros>,
    has_item: bool,
    has_reason: bool,
}

/// How long an instance may wait, in microseconds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct WaitLimits {
    /// For a slot, each time it is ready.
    pub(super) queue: Option<i64>,
    /// From first ready to its end, over all attempts.
    pub(super) total: Option<i64>,
    /// When its run should be over, in microseconds since 1970: orders what is ready, and ends nothing.
    pub(super) due_by: Option<Micros>,
}

impl WaitLimits {
    pub(super) fn of(task: &Task, due_by: Option<Micros>) -> Self {
        let micros = |limit: Option<Duration>| limit.map(|limit| i64::try_from(limit.as_micros()).unwrap_or(i64::MAX));
        Self { queue: micros(task.timeouts.queue), total: micros(task.timeouts.total), due_by }
    }
}

impl Held {
    /// When its turn comes among what is ready: the claim's order, as its index has it.
    pub(super) fn turn(&self) -> (Reverse<i64>, Micros, Option<Micros>) {
        (Reverse(self.priority), self.waits.due_by.unwrap_or(NOT_DUE), self.ready_at)
    }

    /// What of it is out of the ordinary.
    pub(super) fn unusual(&self) -> Unusual {
        Unusual {
            failures: self.failures,
            losses: self.losses,
            upstream: UpstreamCounts { succeeded: 0, ..self.upstream },
            not_before: self.not_before,
            queue_by: self.queue_by,
            end_by: self.end_by,
            has_item: self.item.is_some(),
            has_reason: self.reason.is_some(),
        }
    }

    /// Whether the database has all of it that is out of the ordinary. A reason may be another one.
    pub(super) fn is_as_usual(&self) -> bool {
        self.reason.is_none() && self.unusual == self.unusual()
    }

    pub(super) fn holder(&self) -> Option<Holder> {
        let session = self.session?;
        Some(Holder { attempt: AttemptNumber(self.attempts), epoch: self.epoch, session })
    }
}

/// How `due_by` says that there is no deadline: it sorts last.
pub(super) const NOT_DUE: Micros = Micros::MAX;

/// What a select into [`UnitOfWork::lock`](super::unit::UnitOfWork::lock) has to name, of a task instance under the alias `t`.
pub(super) const HELD: &str = "t.tenant, t.run, t.task, t.element, t.generation, t.dag, t.ordinal, t.state, t.version, \
     t.epoch, t.session, t.incarnation, t.attempts, t.failures, t.losses, t.seed, t.priority, t.pool, t.up_total, \
     t.up_succeeded, t.up_failed, t.up_upstream_failed, t.up_skipped, t.not_before, t.ready_at, t.started_at, \
     t.finished_at, t.outputs, t.reason, t.item, t.queue_limit, t.total_limit, t.due_by, t.queue_by, t.end_by";

/// The order in which rows are locked.
pub(super) const LOCK_ORDER: &str = "t.tenant, t.run, t.task, t.element, t.generation";

/// A row as the database has it, in the order of [`HELD`].
#[derive(Deserialize, FromQueryResult)]
struct Row {
    tenant: String,
    run: String,
    task: String,
    element: i64,
    generation: i64,
    dag: String,
    ordinal: i64,
    state: String,
    version: i64,
    epoch: i64,
    session: Option<String>,
    incarnation: i64,
    attempts: i64,
    failures: i64,
    losses: i64,
    seed: i64,
    priority: i64,
    pool: Option<String>,
    up_total: i64,
    up_succeeded: i64,
    up_failed: i64,
    up_upstream_failed: i64,
    up_skipped: i64,
    not_before: Option<i64>,
    ready_at: Option<i64>,
    started_at: Option<i64>,
    finished_at: Option<i64>,
    outputs: Option<String>,
    reason: Option<String>,
    item: Option<String>,
    queue_limit: Option<i64>,
    total_limit: Option<i64>,
    due_by: i64,
    queue_by: Option<i64>,
    end_by: Option<i64>,
}

/// Runs a select of [`HELD`] that locks its rows; returns them in its order.
pub(super) async fn read(tx: &Tx, what: &'static str, sql: &str, values: Vec<Value>) -> Result<Vec<Held>, StoreError> {
    let rows = match tx.dialect {
        Dialect::Postgres => {
            let found = tx.all(what, sql, values).await?;
            let rows = found.iter().map(|row| Row::from_query_result(row, ""));
            rows.collect::<Result<Vec<_>, _>>().map_err(StoreError::query(what))?
        }
        // The driver hands rows over one by one, and each value in memory of its own: all in one value are faster.
        Dialect::Sqlite => {
            let sql = format!("SELECT json_group_array(json_array({HELD})) AS held FROM ({sql}) AS t");
            let found = tx.all(what, &sql, values).await?;
            let text: Option<String> = found.first().map(|row: &QueryResult| get(row, "held")).transpose()?;
            serde_json::from_str(text.as_deref().unwrap_or("[]")).map_err(corrupt)?
        }
    };
    rows.into_iter().map(Row::parse).collect()
}

impl Row {
    fn parse(self) -> Result<Held, StoreError> {
        let count = |number: i64| u32::try_from(number).map_err(corrupt);
        let task = TaskId::parse(&self.task).map_err(corrupt)?;
        let mut held = Held {
            key: InstanceKey {
                tenant: TenantId::parse(&self.tenant).map_err(corrupt)?,
                run: RunId::parse(&self.run).map_err(corrupt)?,
                instance: InstanceId::new(task, u32::try_from(self.element).ok()),
                generation: Generation(self.generation),
            },
            dag: DagId::parse(&self.dag).map_err(corrupt)?,
            ordinal: self.ordinal,
            state: TaskState::parse(&self.state)
                .ok_or_else(|| corrupt(format_args!("unknown state {:?}", self.state)))?,
            version: self.version,
            epoch: Epoch(self.epoch),
            session: self.session.as_deref().map(SessionId::parse).transpose().map_err(corrupt)?,
            incarnation: Incarnation(self.incarnation),
            attempts: self.attempts,
            failures: count(self.failures)?,
            losses: count(self.losses)?,
            seed: self.seed.cast_unsigned(),
            priority: self.priority,
            pool: self.pool,
            upstream: UpstreamCounts {
                total: count(self.up_total)?,
                succeeded: count(self.up_succeeded)?,
                failed: count(self.up_failed)?,
                upstream_failed: count(self.up_upstream_failed)?,
                skipped: count(self.up_skipped)?,
            },
            not_before: self.not_before,
            ready_at: self.ready_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            outputs: self.outputs,
            reason: self.reason.as_deref().map(serde_json::from_str).transpose().map_err(corrupt)?,
            item: self.item,
            waits: WaitLimits {
                queue: self.queue_limit,
                total: self.total_limit,
                due_by: Some(self.due_by).filter(|due| *due != NOT_DUE),
            },
            queue_by: self.queue_by,
            end_by: self.end_by,
            is_new: false,
            is_changed: false,
            unusual: Unusual::default(),
        };
        held.unusual = held.unusual();
        Ok(held)
    }
}

fn corrupt(detail: impl std::fmt::Display) -> StoreError {
    StoreError::Corrupt { what: "task instance", detail: detail.to_string() }
}
