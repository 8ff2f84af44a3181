//! The statements of a flush: rows of task instances and attempts, as a unit of work holds them.
//!
//! Called by [`unit`](super::unit) alone. One statement for all rows of a kind: its rows are one parameter.

use serde::Serialize;
use serde_json::json;

use super::dialect::{Column, Dialect, Kind};
use super::rows::{self, InstanceKey, Rows, keyed_rows};
use super::tx::Part;
use super::unit::{Held, NOT_DUE};
use crate::id::{AttemptNumber, DagId, Epoch, Incarnation, SessionId};
use crate::plan::Micros;
use crate::run::AttemptState;

impl Held {
    /// What may change, as the columns of [`CHANGED`].
    fn changed(&self) -> Changed<'_> {
        Changed {
            state: self.state.as_str(),
            version: self.version,
            epoch: self.epoch,
            session: self.session,
            incarnation: self.incarnation,
            attempts: self.attempts,
            failures: self.failures,
            losses: self.losses,
            up_total: self.upstream.total,
            up_succeeded: self.upstream.succeeded,
            up_failed: self.upstream.failed,
            up_upstream_failed: self.upstream.upstream_failed,
            up_skipped: self.upstream.skipped,
            not_before: self.not_before,
            ready_at: self.ready_at,
            started_at: self.started_at,
            finished_at: self.finished_at,
            outputs: self.outputs.as_deref(),
            reason: self.reason.as_ref().map(|reason| json!(reason).to_string()),
            item: self.item.as_deref(),
            queue_by: self.queue_by,
            end_by: self.end_by,
        }
    }
}

/// What moves change, as the columns of [`CHANGED`].
#[derive(Serialize)]
struct Changed<'a> {
    state: &'static str,
    version: i64,
    epoch: Epoch,
    session: Option<SessionId>,
    incarnation: Incarnation,
    attempts: i64,
    failures: u32,
    losses: u32,
    up_total: u32,
    up_succeeded: u32,
    up_failed: u32,
    up_upstream_failed: u32,
    up_skipped: u32,
    not_before: Option<Micros>,
    ready_at: Option<Micros>,
    started_at: Option<Micros>,
    finished_at: Option<Micros>,
    outputs: Option<&'a str>,
    reason: Option<String>,
    item: Option<&'a str>,
    queue_by: Option<Micros>,
    end_by: Option<Micros>,
}

/// The columns that moves change.
const CHANGED: [Column; 22] = [
    ("state", Kind::Text),
    ("version", Kind::Int),
    ("epoch", Kind::Int),
    ("session", Kind::Text),
    ("incarnation", Kind::Int),
    ("attempts", Kind::Int),
    ("failures", Kind::Int),
    ("losses", Kind::Int),
    ("up_total", Kind::Int),
    ("up_succeeded", Kind::Int),
    ("up_failed", Kind::Int),
    ("up_upstream_failed", Kind::Int),
    ("up_skipped", Kind::Int),
    ("not_before", Kind::Int),
    ("ready_at", Kind::Int),
    ("started_at", Kind::Int),
    ("finished_at", Kind::Int),
    ("outputs", Kind::Text),
    ("reason", Kind::Text),
    ("item", Kind::Text),
    ("queue_by", Kind::Int),
    ("end_by", Kind::Int),
];

/// Moves rows that are there.
pub(super) fn update(dialect: Dialect, changed: &[&Held]) -> Part {
    let mut rows = Rows::default();
    for held in changed {
        rows.push_keyed(&held.key, &held.changed());
    }
    let set: Vec<_> = CHANGED.iter().map(|(name, _)| format!("{name} = r.{name}")).collect();
    let sql = format!(
        "UPDATE task_instance SET {} FROM {} WHERE {}",
        set.join(", "),
        keyed_rows(dialect, 1, &CHANGED),
        InstanceKey::join("task_instance")
    );
    Part { what: "move task instances", sql, values: vec![rows.into_param()] }
}

/// What an instance is inserted with beside what may change.
#[derive(Serialize)]
struct Inserted<'a> {
    dag: &'a DagId,
    ordinal: i64,
    seed: i64,
    priority: i64,
    pool: Option<&'a str>,
    queue_limit: Option<i64>,
    total_limit: Option<i64>,
    due_by: Micros,
    #[serde(flatten)]
    changed: Changed<'a>,
}

/// An attempt that begins.
#[derive(Serialize)]
pub(super) struct Began {
    pub(super) attempt: i64,
    pub(super) epoch: Epoch,
    pub(super) session: SessionId,
}

/// An attempt that has ended.
#[derive(Serialize)]
pub(super) struct Ended {
    pub(super) attempt: AttemptNumber,
    pub(super) new_state: &'static str,
    pub(super) error_class: Option<String>,
    pub(super) message: Option<String>,
}

/// Inserts rows.
pub(super) fn insert(dialect: Dialect, new: &[&Held]) -> Part {
    let fixed: [Column; 8] = [
        ("dag", Kind::Text),
        ("ordinal", Kind::Int),
        ("seed", Kind::Int),
        ("priority", Kind::Int),
        ("pool", Kind::Text),
        ("queue_limit", Kind::Int),
        ("total_limit", Kind::Int),
        ("due_by", Kind::Int),
    ];
    let mut rows = Rows::default();
    for held in new {
        let row = Inserted {
            dag: &held.dag,
            ordinal: held.ordinal,
            seed: held.seed.cast_signed(),
            priority: held.priority,
            pool: held.pool.as_deref(),
            queue_limit: held.waits.queue,
            total_limit: held.waits.total,
            due_by: held.waits.due_by.unwrap_or(NOT_DUE),
            changed: held.changed(),
        };
        rows.push_keyed(&held.key, &row);
    }
    let columns: Vec<Column> = fixed.into_iter().chain(CHANGED).collect();
    let names: Vec<_> = rows::KEY.iter().chain(&columns).map(|(name, _)| *name).collect();
    let values: Vec<_> = names.iter().map(|name| format!("r.{name}")).collect();
    let sql = format!(
        "INSERT INTO task_instance ({}, current) SELECT {}, TRUE FROM {}",
        names.join(", "),
        values.join(", "),
        keyed_rows(dialect, 1, &columns)
    );
    Part { what: "insert task instances", sql, values: vec![rows.into_param()] }
}

/// Begins attempts, from rows of [`Began`].
pub(super) fn begin_attempts(dialect: Dialect, began: Rows, now: Micros) -> Part {
    let columns = [("attempt", Kind::Int), ("epoch", Kind::Int), ("session", Kind::Text)];
    let sql = format!(
        "INSERT INTO attempt (tenant, run, task, element, generation, attempt, epoch, session, state, started_at) \
         SELECT r.tenant, r.run, r.task, r.element, r.generation, r.attempt, r.epoch, r.session, '{}', $2 FROM {}",
        AttemptState::Running.as_str(),
        keyed_rows(dialect, 1, &columns)
    );
    Part { what: "begin attempts", sql, values: vec![began.into_param(), now.into()] }
}

/// Ends attempts that run, from rows of [`Ended`].
pub(super) fn end_attempts(dialect: Dialect, ended: Rows, now: Micros) -> Part {
    let columns =
        [("attempt", Kind::Int), ("new_state", Kind::Text), ("error_class", Kind::Text), ("message", Kind::Text)];
    let sql = format!(
        "UPDATE attempt SET state = r.new_state, finished_at = $2, error_class = r.error_class, message = r.message \
         FROM {} WHERE {} AND attempt.attempt = r.attempt AND attempt.state = '{}'",
        keyed_rows(dialect, 1, &columns),
        InstanceKey::join("attempt"),
        AttemptState::Running.as_str()
    );
    Part { what: "end attempts", sql, values: vec![ended.into_param(), now.into()] }
}
