//! Events: what happened, appended in the transaction that made it so.
//!
//! Each task instance and each run numbers its own events without gaps: an event's `seq` is the
//! row's `version` after the move, so no counter is shared and no two transactions wait for one.

use serde_json::{Value, json};

use super::dialect::Kind;
use super::rows::{InstanceKey, extend, param, with_key};
use super::tx::{Part, Tx};
use crate::id::{AttemptNumber, Epoch, RunId, SessionId, TenantId};
use crate::plan::Reason;
use crate::run::{RunState, TaskState, Transition};

/// Which attempt a task's event is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Holder {
    pub(super) attempt: AttemptNumber,
    pub(super) epoch: Epoch,
    pub(super) session: SessionId,
}

/// The event of a task instance's move.
pub(super) fn task_event(
    key: &InstanceKey,
    seq: i64,
    made: Transition<TaskState>,
    holder: Option<Holder>,
    reason: Option<&Reason>,
) -> Value {
    let row = json!({
        "seq": seq,
        "event": made.event().as_str(),
        "state": made.to().as_str(),
        "detail": reason.map(|reason| json!(reason).to_string()),
    });
    extend(extend(key.json(), row), holder_fields(holder))
}

/// A note on a task instance that moved nothing: a report that came too late.
pub(super) fn task_note(key: &InstanceKey, seq: i64, event: &str, state: TaskState, holder: Holder) -> Value {
    let row = json!({ "seq": seq, "event": event, "state": state.as_str(), "detail": null });
    extend(extend(key.json(), row), holder_fields(Some(holder)))
}

/// The event of a run's move.
pub(super) fn run_event(tenant: &TenantId, run: RunId, seq: i64, made: Transition<RunState>) -> Value {
    json!({
        "tenant": tenant, "run": run.to_string(), "task": "", "element": -1, "generation": 0,
        "seq": seq, "event": made.event().as_str(), "state": made.to().as_str(),
        "attempt": null, "epoch": null, "session": null, "detail": null,
    })
}

fn holder_fields(holder: Option<Holder>) -> Value {
    json!({
        "attempt": holder.map(|it| it.attempt.0),
        "epoch": holder.map(|it| it.epoch.0),
        "session": holder.map(|it| it.session.to_string()),
    })
}

impl Tx {
    /// Events to be appended, as a part of a flush.
    pub(super) fn events_part(&self, events: Vec<Value>) -> Part {
        let columns = with_key(&[
            ("seq", Kind::Int),
            ("event", Kind::Text),
            ("state", Kind::Text),
            ("attempt", Kind::Int),
            ("epoch", Kind::Int),
            ("session", Kind::Text),
            ("detail", Kind::Text),
        ]);
        let sql = format!(
            "INSERT INTO event (tenant, run, task, element, generation, seq, at, event, state, attempt, epoch, \
             session, op_id, detail) \
             SELECT r.tenant, r.run, r.task, r.element, r.generation, r.seq, $2, r.event, r.state, r.attempt, \
             r.epoch, r.session, $3, r.detail FROM {}",
            self.dialect.rows(1, &columns)
        );
        let values = vec![param(events), self.now.into(), self.op_id.to_string().into()];
        Part { what: "append events", sql, values }
    }
}
