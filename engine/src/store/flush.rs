//! The statements of a flush: rows of task instances and attempts, as a unit of work holds them.
//!
//! Called by [`unit`](super::unit) alone. One statement for all rows of a kind.

use serde_json::json;

use super::dialect::Dialect;
use super::held::{Held, NOT_DUE};
use super::rows::{Cell, InstanceKey, KEY, Rows};
use super::tx::Part;
use crate::id::{AttemptNumber, Epoch, SessionId};
use crate::plan::Micros;
use crate::run::AttemptState;

impl Held {
    /// What its moves change as long as all goes well.
    fn usual_cells(&self) -> [Cell; 11] {
        [
            ("state", self.state.as_str().into()),
            ("version", self.version.into()),
            ("epoch", self.epoch.0.into()),
            ("session", self.session.map(|it| it.to_string()).into()),
            ("incarnation", self.incarnation.0.into()),
            ("attempts", self.attempts.into()),
            ("up_succeeded", self.upstream.succeeded.into()),
            ("ready_at", self.ready_at.into()),
            ("started_at", self.started_at.into()),
            ("finished_at", self.finished_at.into()),
            ("outputs", self.outputs.as_deref().into()),
        ]
    }

    /// What else moves may change: the columns of [`Unusual`].
    fn unusual_cells(&self) -> [Cell; 11] {
        [
            ("failures", self.failures.into()),
            ("losses", self.losses.into()),
            ("up_total", self.upstream.total.into()),
            ("up_failed", self.upstream.failed.into()),
            ("up_upstream_failed", self.upstream.upstream_failed.into()),
            ("up_skipped", self.upstream.skipped.into()),
            ("not_before", self.not_before.into()),
            ("reason", self.reason.as_ref().map(|reason| json!(reason).to_string()).into()),
            ("item", self.item.as_deref().into()),
            ("queue_by", self.queue_by.into()),
            ("end_by", self.end_by.into()),
        ]
    }

    /// What an instance is inserted with beside what may change.
    fn fixed_cells(&self) -> [Cell; 8] {
        [
            ("dag", self.dag.as_str().into()),
            ("ordinal", self.ordinal.into()),
            ("seed", self.seed.cast_signed().into()),
            ("priority", self.priority.into()),
            ("pool", self.pool.as_deref().into()),
            ("queue_limit", self.waits.queue.into()),
            ("total_limit", self.waits.total.into()),
            ("due_by", self.waits.due_by.unwrap_or(NOT_DUE).into()),
        ]
    }
}

/// Moves rows that are there: two statements, since most moves change half of the columns and no more.
pub(super) fn update(dialect: Dialect, changed: &[&Held]) -> Vec<Part> {
    let (mut usual, mut all) = (Rows::default(), Rows::default());
    for held in changed {
        if held.is_as_usual() {
            usual.push_keyed(&held.key, held.usual_cells());
        } else {
            all.push_keyed(&held.key, held.usual_cells().into_iter().chain(held.unusual_cells()));
        }
    }
    [usual, all].into_iter().filter(|rows| !rows.is_empty()).map(|rows| update_rows(dialect, rows)).collect()
}

fn update_rows(dialect: Dialect, rows: Rows) -> Part {
    let set: Vec<_> = rows.names().skip(KEY.len()).map(|name| format!("{name} = r.{name}")).collect();
    let (table, join) = (rows.table(dialect, 0), InstanceKey::join("task_instance"));
    let sql = format!("UPDATE task_instance SET {} FROM {table} WHERE {join}", set.join(", "));
    Part::of_rows("move task instances", sql, rows, vec![])
}

/// An attempt that begins.
pub(super) fn began(attempt: i64, epoch: Epoch, session: SessionId) -> [Cell; 3] {
    [("attempt", attempt.into()), ("epoch", epoch.0.into()), ("session", session.to_string().into())]
}

/// An attempt that has ended.
pub(super) fn ended(
    attempt: AttemptNumber,
    state: AttemptState,
    error_class: Option<String>,
    message: Option<String>,
) -> [Cell; 4] {
    [
        ("attempt", attempt.0.into()),
        ("new_state", state.as_str().into()),
        ("error_class", error_class.into()),
        ("message", message.into()),
    ]
}

/// Inserts rows.
pub(super) fn insert(dialect: Dialect, new: &[&Held]) -> Part {
    let mut rows = Rows::default();
    for held in new {
        rows.push_keyed(
            &held.key,
            held.fixed_cells().into_iter().chain(held.usual_cells()).chain(held.unusual_cells()),
        );
    }
    let names: Vec<_> = rows.names().collect();
    let values: Vec<_> = names.iter().map(|name| format!("r.{name}")).collect();
    let sql = format!(
        "INSERT INTO task_instance ({}, current) SELECT {}, TRUE FROM {}",
        names.join(", "),
        values.join(", "),
        rows.table(dialect, 0)
    );
    Part::of_rows("insert task instances", sql, rows, vec![])
}

/// Begins attempts, from rows of [`began`].
pub(super) fn begin_attempts(dialect: Dialect, rows: Rows, now: Micros) -> Part {
    let sql = format!(
        "INSERT INTO attempt (tenant, run, task, element, generation, attempt, epoch, session, state, started_at) \
         SELECT r.tenant, r.run, r.task, r.element, r.generation, r.attempt, r.epoch, r.session, '{}', $1 FROM {}",
        AttemptState::Running.as_str(),
        rows.table(dialect, 1)
    );
    Part::of_rows("begin attempts", sql, rows, vec![now.into()])
}

/// Ends attempts that run, from rows of [`ended`].
pub(super) fn end_attempts(dialect: Dialect, rows: Rows, now: Micros) -> Part {
    let sql = format!(
        "UPDATE attempt SET state = r.new_state, finished_at = $1, error_class = r.error_class, message = r.message \
         FROM {} WHERE {} AND attempt.attempt = r.attempt AND attempt.state = '{}'",
        rows.table(dialect, 1),
        InstanceKey::join("attempt"),
        AttemptState::Running.as_str()
    );
    Part::of_rows("end attempts", sql, rows, vec![now.into()])
}
