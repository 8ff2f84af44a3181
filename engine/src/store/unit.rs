//! The unit of work: task instances locked in a transaction, their moves in memory, one flush.
//!
//! Everything that moves task instances (create, claim, finish, advance, reclaim, cancel, retries)
//! locks rows into a [`UnitOfWork`], moves them through `run::transition`, and flushes once: one
//! statement for all rows, one for the attempts, one for the events (`flush.rs`, `events.rs`), and on
//! Postgres all of them in one round trip. Rows are locked in the order of their keys, so that two units never wait for each
//! other in a circle; what is locked can be written by its absolute values.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::events::{Event, task_event};
use super::flush::{began, begin_attempts, end_attempts, ended, insert, update};
use super::held::{self, HELD, Held, Unusual, WaitLimits};
use super::rows::{BOUND, InstanceKey, Rows};
use super::tx::{Part, Tx};
use super::{Claim, StoreError};
use crate::dag::UpstreamCounts;
use crate::id::{AttemptNumber, DagId, Epoch, Incarnation, SessionId, TenantId};
use crate::plan::Reason;
use crate::run::{AttemptState, TaskEvent, TaskState, is_terminal, transition};
use crate::task::AttemptIdentity;

/// What [`UnitOfWork::insert`] needs to know of a new task instance.
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

/// Slots of attempts that this unit has ended, while the database still counts them.
#[derive(Default)]
struct Freed {
    tenants: BTreeMap<TenantId, usize>,
    pools: BTreeMap<String, usize>,
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
    freed: Freed,
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
            freed: Freed::default(),
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
        let found = held::read(self.tx, what, sql, values).await?;
        let mut keys = Vec::with_capacity(found.len());
        for row in found {
            keys.push(row.key.clone());
            self.held.entry(row.key.clone()).or_insert(row);
        }
        Ok(keys)
    }

    /// As [`lock`](Self::lock), of rows that the select reads as a table.
    pub(super) async fn lock_rows(
        &mut self,
        what: &'static str,
        sql: &str,
        rows: Rows,
    ) -> Result<Vec<InstanceKey>, StoreError> {
        self.lock(what, sql, rows.into_params(self.tx.dialect)).await
    }

    /// Locks the current generations of instances, by key without the generation, where not held yet.
    /// Returns them all.
    pub(super) async fn lock_current(&mut self, wanted: Vec<InstanceKey>) -> Result<Vec<InstanceKey>, StoreError> {
        let mut missing = Rows::default();
        for key in wanted.iter().filter(|key| self.current(key).is_none()) {
            missing.push_key(key);
        }
        if !missing.is_empty() {
            let sql = format!(
                "SELECT {HELD} FROM {} JOIN task_instance t ON t.tenant = r.tenant AND t.run = r.run \
                 AND t.task = r.task AND t.element = r.element AND t.current{}",
                missing.table(self.tx.dialect, 0),
                self.tx.dialect.lock_in_order()
            );
            self.lock_rows("lock task instances", &sql, missing).await?;
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

    /// Which of `keys`, and of what this unit itself has made ready, may be claimed: in the order of their turns.
    /// What it has moved on is not ready any more, whatever the database still says.
    pub(super) fn ready(&self, keys: Vec<InstanceKey>, is_wanted: impl Fn(&Held) -> bool) -> Vec<InstanceKey> {
        let known = self.held.values().filter(|held| held.is_changed && is_wanted(held)).map(|held| &held.key);
        let all: BTreeSet<&InstanceKey> = keys.iter().chain(known).collect();
        let mut ready: Vec<&Held> = all.into_iter().filter_map(|key| self.get(key)).collect();
        ready.retain(|held| held.state == TaskState::Ready);
        ready.sort_by_key(|held| (held.turn(), held.key.run, held.ordinal));
        ready.into_iter().map(|held| held.key.clone()).collect()
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
            unusual: Unusual::default(),
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
        append(&mut self.events, task_event(key, held.version, made, holder, held.reason.as_ref()));
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
        self.began.push_keyed(key, began(held.attempts, held.epoch, session));
        append(&mut self.events, task_event(key, held.version, made, held.holder(), None));
        Ok(claim)
    }

    /// Ends an attempt of a held row.
    pub(super) fn end_attempt(&mut self, key: &InstanceKey, end: AttemptEnd) {
        let class = end.error_class.map(|class| class.to_string());
        self.ended.push_keyed(key, ended(end.attempt, end.state, class, end.message));
        *self.returned.entry(key.tenant.clone()).or_default() += 1;
        *self.freed.tenants.entry(key.tenant.clone()).or_default() += 1;
        if let Some(pool) = self.get(key).and_then(|held| held.pool.clone()) {
            *self.freed.pools.entry(pool).or_default() += 1;
        }
    }

    /// How many of a tenant's running attempts, as the database counts them, this unit has ended.
    pub(super) fn freed_of(&self, tenant: &TenantId) -> usize {
        self.freed.tenants.get(tenant).copied().unwrap_or(0)
    }

    /// How many of a pool's running attempts, as the database counts them, this unit has ended.
    pub(super) fn freed_in(&self, pool: &str) -> usize {
        self.freed.pools.get(pool).copied().unwrap_or(0)
    }

    /// How many slots a tenant's attempts gave back in this unit.
    pub(super) fn returned(&self, tenant: &TenantId) -> usize {
        self.returned.get(tenant).copied().unwrap_or(0)
    }

    /// Appends an event that moves no task instance.
    pub(super) fn note(&mut self, event: Event<'_>) {
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
            (&a.key.tenant, a.key.run, a.turn(), a.ordinal).cmp(&(&b.key.tenant, b.key.run, b.turn(), b.ordinal))
        });
        found.into_iter().map(|held| held.key.clone()).collect()
    }

    /// Writes everything that changed; what is held stays held.
    pub(super) async fn flush(&mut self) -> Result<(), StoreError> {
        self.freed = Freed::default();
        let mut parts = Vec::new();
        let (tx, now) = (self.tx, self.tx.now);
        let changed: Vec<&Held> = self.held.values().filter(|held| held.is_changed && !held.is_new).collect();
        if !changed.is_empty() {
            parts.extend(update(tx.dialect, &changed));
        }
        let new: Vec<&Held> = self.held.values().filter(|held| held.is_new).collect();
        match new.as_slice() {
            [] => {}
            few if few.len() <= INSERT_ROWS => parts.push(insert(tx.dialect, few)),
            many => {
                for chunk in many.chunks(INSERT_ROWS) {
                    tx.run(insert(tx.dialect, chunk)).await?;
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
            tx.run(tx.events_part(full)).await?;
        }
        parts.extend(last.map(|rows| tx.events_part(rows)));
        for held in self.held.values_mut() {
            (held.is_new, held.is_changed, held.unusual) = (false, false, held.unusual());
        }
        if parts.is_empty() { Ok(()) } else { tx.all_of(parts).await }
    }
}

/// Appends an event; of many, those that fill an insert wait in rows of their own.
fn append(events: &mut Vec<Rows>, event: Event<'_>) {
    if events.last().is_none_or(|rows| rows.len() >= INSERT_ROWS) {
        events.push(Rows::default());
    }
    if let Some(rows) = events.last_mut() {
        rows.push(event.cells());
    }
}

fn change<'h>(held: &'h mut BTreeMap<InstanceKey, Held>, key: &InstanceKey) -> Result<&'h mut Held, StoreError> {
    let held = held.get_mut(key).ok_or_else(|| not_held(key))?;
    held.is_changed = true;
    Ok(held)
}

/// Rows of one insert: what SQLite binds, and on Postgres a text of some hundred kilobytes.
const INSERT_ROWS: usize = BOUND;

fn not_held(key: &InstanceKey) -> StoreError {
    StoreError::Corrupt {
        what: "task instance",
        detail: format!("{} of run {} was moved without being held", key.instance, key.run),
    }
}
