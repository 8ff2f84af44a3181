//! The unit of work: task instances locked in a transaction, their moves in memory, one flush.
//!
//! Everything that moves task instances (create, claim, finish, advance, reclaim, cancel, retries)
//! locks rows into a [`UnitOfWork`], moves them through `run::transition`, and flushes once: one
//! statement for all rows, one for the attempts, one for the events (`flush.rs`, `events.rs`), and on
//! Postgres all of them in one round trip. Rows are locked in the order of their keys, so that two units never wait for each
//! other in a circle; what is locked can be written by its absolute values.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;

use super::dialect::Kind;
use super::events::{Event, Holder, task_event};
use super::flush::{Began, Ended, begin_attempts, end_attempts, insert, update};
use super::rows::{self, InstanceKey, Rows};
use super::tx::{Part, Tx};
use super::{Claim, StoreError};
use crate::dag::{Task, UpstreamCounts};
use crate::id::{AttemptNumber, DagId, Epoch, Incarnation, SessionId, TenantId};
use crate::plan::{Micros, Reason};
use crate::run::{AttemptState, TaskEvent, TaskState, is_terminal, transition};
use crate::task::AttemptIdentity;

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
    is_new: bool,
    is_changed: bool,
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

/// What a select into [`UnitOfWork::lock`] has to name, of a task instance under the alias `t`.
pub(super) const HELD: &str = "t.tenant, t.run, t.task, t.element, t.generation, t.dag, t.ordinal, t.state, t.version, \
     t.epoch, t.session, t.incarnation, t.attempts, t.failures, t.losses, t.seed, t.priority, t.pool, t.up_total, \
     t.up_succeeded, t.up_failed, t.up_upstream_failed, t.up_skipped, t.not_before, t.ready_at, t.started_at, \
     t.finished_at, t.outputs, t.reason, t.item, t.queue_limit, t.total_limit, t.due_by, t.queue_by, t.end_by";

/// The order in which rows are locked.
pub(super) const LOCK_ORDER: &str = "t.tenant, t.run, t.task, t.element, t.generation";

/// What [`insert`] needs to know of a new task instance.
pub(super) struct NewInstance {
    pub(super) key: InstanceKey,
    pub(super) dag: DagId,
    pub(super) ordinal: i64,
    pub(super) seed: u64,
    pub(super) priority: i64,
    pub(super) pool: Option<String>,
    pub(super) upstream: UpstreamCounts,
    pub(super) item: Option<String>,
    pub(super) waits: WaitLimits,
}

/// How an attempt ended, beside its task instance.
pub(super) struct AttemptEnd {
    pub(super) attempt: AttemptNumber,
    pub(super) state: AttemptState,
    /// JSON.
    pub(super) error_class: Option<Value>,
    pub(super) message: Option<String>,
}

/// See the module.
pub(super) struct UnitOfWork<'a> {
    pub(super) tx: &'a Tx,
    incarnation: Incarnation,
    held: BTreeMap<InstanceKey, Held>,
    /// No more than [`INSERT_ROWS`] in each.
    events: Vec<Rows>,
    began: Rows,
    ended: Rows,
    returned: BTreeMap<TenantId, usize>,
    more: Vec<Part>,
}

impl<'a> UnitOfWork<'a> {
    pub(super) fn new(tx: &'a Tx, incarnation: Incarnation) -> Self {
        Self {
            tx,
            incarnation,
            held: BTreeMap::new(),
            events: Vec::new(),
            began: Rows::default(),
            ended: Rows::default(),
            returned: BTreeMap::new(),
            more: Vec::new(),
        }
    }

    /// Runs a select of [`HELD`] that locks its rows, and holds them. Returns their keys, in order of
    /// the result. A row that is held already stays as this transaction has moved it.
    pub(super) async fn lock(
        &mut self,
        what: &'static str,
        sql: &str,
        values: Vec<sea_orm::Value>,
    ) -> Result<Vec<InstanceKey>, StoreError> {
        let found = self.tx.all(what, sql, values).await?;
        let mut keys = Vec::with_capacity(found.len());
        for row in &found {
            let row = read(row)?;
            keys.push(row.key.clone());
            self.held.entry(row.key.clone()).or_insert(row);
        }
        Ok(keys)
    }

    /// Locks the current generations of instances, by key without the generation, where not held yet.
    /// Returns them all.
    pub(super) async fn lock_current(&mut self, wanted: Vec<InstanceKey>) -> Result<Vec<InstanceKey>, StoreError> {
        let mut missing = Rows::default();
        for key in wanted.iter().filter(|key| self.current(key).is_none()) {
            missing.push_key(key);
        }
        if !missing.is_empty() {
            let columns = [("tenant", Kind::Text), ("run", Kind::Text), ("task", Kind::Text), ("element", Kind::Int)];
            let sql = format!(
                "SELECT {HELD} FROM {} JOIN task_instance t ON t.tenant = r.tenant AND t.run = r.run \
                 AND t.task = r.task AND t.element = r.element AND t.current ORDER BY {LOCK_ORDER}{}",
                self.tx.dialect.rows(1, &columns),
                self.tx.dialect.lock("t")
            );
            self.lock("lock task instances", &sql, vec![missing.into_param()]).await?;
        }
        Ok(wanted.iter().filter_map(|key| self.current(key).cloned()).collect())
    }

    /// The key with the newest generation that is held of an instance.
    pub(super) fn current(&self, key: &InstanceKey) -> Option<&InstanceKey> {
        let (mut from, mut to) = (key.clone(), key.clone());
        (from.generation.0, to.generation.0) = (0, i64::MAX);
        self.held.range(from..=to).next_back().map(|(key, _)| key)
    }

    /// A held row.
    pub(super) fn get(&self, key: &InstanceKey) -> Option<&Held> {
        self.held.get(key)
    }

    /// Whether a held row stands ready to be claimed.
    pub(super) fn is_ready(&self, key: &InstanceKey) -> bool {
        self.get(key).is_some_and(|held| held.state == TaskState::Ready)
    }

    /// A held row, to be changed.
    pub(super) fn change(&mut self, key: &InstanceKey) -> Result<&mut Held, StoreError> {
        change(&mut self.held, key)
    }

    /// Holds a task instance that the flush will insert.
    pub(super) fn insert(&mut self, new: NewInstance) {
        let held = Held {
            key: new.key.clone(),
            dag: new.dag,
            ordinal: new.ordinal,
            state: TaskState::Waiting,
            version: 0,
            epoch: Epoch(0),
            session: None,
            incarnation: self.incarnation,
            attempts: 0,
            failures: 0,
            losses: 0,
            seed: new.seed,
            priority: new.priority,
            pool: new.pool,
            upstream: new.upstream,
            not_before: None,
            ready_at: None,
            started_at: None,
            finished_at: None,
            outputs: None,
            reason: None,
            item: new.item,
            waits: new.waits,
            queue_by: None,
            end_by: None,
            is_new: true,
            is_changed: false,
        };
        self.held.insert(new.key, held);
    }

    /// Moves a held row and appends the event. Returns where it stands.
    pub(super) fn move_task(
        &mut self,
        key: &InstanceKey,
        event: TaskEvent,
        reason: Option<Reason>,
    ) -> Result<TaskState, StoreError> {
        let now = self.tx.now;
        let held = change(&mut self.held, key)?;
        let made = transition(held.state, event)?;
        let holder = held.holder();
        held.version += 1;
        held.state = made.to();
        held.reason = reason;
        if made.to() != TaskState::RetryWait {
            held.not_before = None;
        }
        held.queue_by = None;
        if made.to() == TaskState::Ready {
            held.ready_at = Some(now);
            held.queue_by = held.waits.queue.map(|limit| now.saturating_add(limit));
            held.end_by = held.end_by.or(held.waits.total.map(|limit| now.saturating_add(limit)));
        }
        if made.to() != TaskState::Running {
            held.session = None;
        }
        held.finished_at = is_terminal(made.to()).then_some(now);
        append(&mut self.events, &task_event(key, held.version, made, holder, held.reason.as_ref()));
        Ok(made.to())
    }

    /// Gives a held, ready row to `session` under a new epoch, and begins an attempt.
    pub(super) fn claim(&mut self, key: &InstanceKey, session: SessionId) -> Result<Claim, StoreError> {
        let (now, incarnation) = (self.tx.now, self.incarnation);
        let held = change(&mut self.held, key)?;
        let made = transition(held.state, TaskEvent::Claimed)?;
        held.version += 1;
        held.state = made.to();
        held.epoch = Epoch(held.epoch.0 + 1);
        held.attempts += 1;
        held.session = Some(session);
        held.incarnation = incarnation;
        held.reason = None;
        held.queue_by = None;
        held.started_at.get_or_insert(now);
        let claim = Claim {
            identity: AttemptIdentity {
                tenant: key.tenant.clone(),
                dag: held.dag.clone(),
                run: key.run,
                instance: key.instance.clone(),
                generation: key.generation,
                attempt: AttemptNumber(held.attempts),
                epoch: held.epoch,
            },
            seed: held.seed,
            item: held.item.clone(),
            end_by: held.end_by,
        };
        self.began.push_keyed(key, &Began { attempt: held.attempts, epoch: held.epoch, session });
        append(&mut self.events, &task_event(key, held.version, made, held.holder(), None));
        Ok(claim)
    }

    /// Ends an attempt of a held row.
    pub(super) fn end_attempt(&mut self, key: &InstanceKey, end: AttemptEnd) {
        let ended = Ended {
            attempt: end.attempt,
            new_state: end.state.as_str(),
            error_class: end.error_class.map(|class| class.to_string()),
            message: end.message,
        };
        self.ended.push_keyed(key, &ended);
        *self.returned.entry(key.tenant.clone()).or_default() += 1;
    }

    /// How many slots a tenant's attempts gave back in this unit.
    pub(super) fn returned(&self, tenant: &TenantId) -> usize {
        self.returned.get(tenant).copied().unwrap_or(0)
    }

    /// Appends an event that moves no task instance.
    pub(super) fn note(&mut self, event: &Event<'_>) {
        append(&mut self.events, event);
    }

    /// Writes beside the rows, independent of them.
    pub(super) fn also(&mut self, part: Part) {
        self.more.push(part);
    }

    /// Keys of the rows that stand in `state`, in the order of the DAG.
    pub(super) fn keys_in(&self, state: TaskState) -> Vec<InstanceKey> {
        let mut found: Vec<_> = self.held.values().filter(|held| held.state == state).collect();
        found.sort_by(|a, b| {
            let due = |held: &Held| held.waits.due_by.unwrap_or(NOT_DUE);
            let order = |held: &Held| (std::cmp::Reverse(held.priority), due(held), held.ready_at, held.ordinal);
            (&a.key.tenant, a.key.run).cmp(&(&b.key.tenant, b.key.run)).then_with(|| order(a).cmp(&order(b)))
        });
        found.into_iter().map(|held| held.key.clone()).collect()
    }

    /// Writes everything that changed; what is held stays held.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        let mut parts = Vec::new();
        let (tx, now) = (self.tx, self.tx.now);
        let changed: Vec<&Held> = self.held.values().filter(|held| held.is_changed && !held.is_new).collect();
        if !changed.is_empty() {
            parts.push(update(tx.dialect, &changed));
        }
        let new: Vec<&Held> = self.held.values().filter(|held| held.is_new).collect();
        match new.as_slice() {
            [] => {}
            few if few.len() <= INSERT_ROWS => parts.push(insert(tx.dialect, few)),
            many => {
                for chunk in many.chunks(INSERT_ROWS) {
                    let part = insert(tx.dialect, chunk);
                    tx.execute(part.what, &part.sql, part.values).await?;
                }
            }
        }
        if !self.began.is_empty() {
            parts.push(begin_attempts(tx.dialect, std::mem::take(&mut self.began), now));
        }
        if !self.ended.is_empty() {
            parts.push(end_attempts(tx.dialect, std::mem::take(&mut self.ended), now));
        }
        parts.append(&mut self.more);
        let mut events = std::mem::take(&mut self.events);
        let last = events.pop();
        for full in events {
            let part = tx.events_part(full);
            tx.execute(part.what, &part.sql, part.values).await?;
        }
        parts.extend(last.map(|rows| tx.events_part(rows)));
        for held in self.held.values_mut() {
            (held.is_new, held.is_changed) = (false, false);
        }
        if parts.is_empty() { Ok(()) } else { tx.all_of(parts).await }
    }
}

/// Appends an event; of many, the full thousands wait in rows of their own.
fn append(events: &mut Vec<Rows>, event: &Event<'_>) {
    if events.last().is_none_or(|rows| rows.len() >= INSERT_ROWS) {
        events.push(Rows::default());
    }
    if let Some(rows) = events.last_mut() {
        rows.push(event);
    }
}

fn change<'h>(held: &'h mut BTreeMap<InstanceKey, Held>, key: &InstanceKey) -> Result<&'h mut Held, StoreError> {
    let held = held.get_mut(key).ok_or_else(|| not_held(key))?;
    held.is_changed = true;
    Ok(held)
}

/// How `due_by` says that there is no deadline: it sorts last.
pub(super) const NOT_DUE: Micros = Micros::MAX;

/// Rows of one insert: a JSON parameter of some megabytes, not of some hundred.
const INSERT_ROWS: usize = 10_000;

impl Held {
    fn holder(&self) -> Option<Holder> {
        let session = self.session?;
        Some(Holder { attempt: AttemptNumber(self.attempts), epoch: self.epoch, session })
    }
}

fn read(row: &sea_orm::QueryResult) -> Result<Held, StoreError> {
    let seed: i64 = rows::get(row, "seed")?;
    let session: Option<String> = rows::get(row, "session")?;
    let session = session.as_deref().map(SessionId::parse).transpose();
    let reason: Option<String> = rows::get(row, "reason")?;
    let reason = reason.as_deref().map(serde_json::from_str).transpose();
    let bad = |detail: String| StoreError::Corrupt { what: "task instance", detail };
    Ok(Held {
        key: rows::key(row)?,
        dag: rows::parse(row, "dag", DagId::parse)?,
        ordinal: rows::get(row, "ordinal")?,
        state: rows::task_state(row)?,
        version: rows::get(row, "version")?,
        epoch: rows::epoch(row)?,
        session: session.map_err(|error| bad(error.to_string()))?,
        incarnation: Incarnation(rows::get(row, "incarnation")?),
        attempts: rows::get(row, "attempts")?,
        failures: rows::count(row, "failures")?,
        losses: rows::count(row, "losses")?,
        seed: seed.cast_unsigned(),
        priority: rows::get(row, "priority")?,
        pool: rows::get(row, "pool")?,
        upstream: rows::upstream(row)?,
        not_before: rows::get(row, "not_before")?,
        ready_at: rows::get(row, "ready_at")?,
        started_at: rows::get(row, "started_at")?,
        finished_at: rows::get(row, "finished_at")?,
        outputs: rows::get(row, "outputs")?,
        reason: reason.map_err(|error| bad(error.to_string()))?,
        item: rows::get(row, "item")?,
        waits: WaitLimits {
            queue: rows::get(row, "queue_limit")?,
            total: rows::get(row, "total_limit")?,
            due_by: Some(rows::get(row, "due_by")?).filter(|due| *due != NOT_DUE),
        },
        queue_by: rows::get(row, "queue_by")?,
        end_by: rows::get(row, "end_by")?,
        is_new: false,
        is_changed: false,
    })
}

fn not_held(key: &InstanceKey) -> StoreError {
    StoreError::Corrupt {
        what: "task instance",
        detail: format!("{} of run {} was moved without being held", key.instance, key.run),
    }
}
