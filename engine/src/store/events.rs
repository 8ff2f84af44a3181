//! Events: what happened, appended in the transaction that made it so.
//!
//! Each task instance and each run numbers its own events without gaps: an event's `seq` is the
//! row's `version` after the move, so no counter is shared and no two transactions wait for one.

use serde_json::{Value, json};

use super::rows::{Cell, InstanceKey, Rows, element};
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

/// An event, as its row has it.
#[derive(Debug)]
pub(super) struct Event<'a> {
    tenant: &'a TenantId,
    run: RunId,
    /// Empty for a run's.
    task: &'a str,
    element: i64,
    generation: i64,
    seq: i64,
    event: &'static str,
    state: &'static str,
    attempt: Option<AttemptNumber>,
    epoch: Option<Epoch>,
    session: Option<SessionId>,
    /// JSON.
    detail: Option<String>,
}

impl Event<'_> {
    /// The columns that events differ in.
    pub(super) fn cells(self) -> [Cell; 12] {
        [
            ("tenant", self.tenant.as_str().into()),
            ("run", self.run.to_string().into()),
            ("task", self.task.into()),
            ("element", self.element.into()),
            ("generation", self.generation.into()),
            ("seq", self.seq.into()),
            ("event", self.event.into()),
            ("state", self.state.into()),
            ("attempt", self.attempt.map(|it| it.0).into()),
            ("epoch", self.epoch.map(|it| it.0).into()),
            ("session", self.session.map(|it| it.to_string()).into()),
            ("detail", self.detail.into()),
        ]
    }

    /// With what else there is to say, as JSON.
    pub(super) fn with_detail(self, detail: &Value) -> Self {
        Self { detail: Some(detail.to_string()), ..self }
    }
}

/// The event of a task instance's move.
pub(super) fn task_event<'a>(
    key: &'a InstanceKey,
    seq: i64,
    made: Transition<TaskState>,
    holder: Option<Holder>,
    reason: Option<&Reason>,
) -> Event<'a> {
    let event = about_task(key, seq, (made.event().as_str(), made.to()), holder);
    match reason {
        Some(reason) => event.with_detail(&json!(reason)),
        None => event,
    }
}

/// A note on a task instance that moved nothing: a report that came too late.
pub(super) fn task_note<'a>(
    key: &'a InstanceKey,
    seq: i64,
    event: &'static str,
    state: TaskState,
    holder: Holder,
) -> Event<'a> {
    about_task(key, seq, (event, state), Some(holder))
}

fn about_task<'a>(
    key: &'a InstanceKey,
    seq: i64,
    (event, state): (&'static str, TaskState),
    holder: Option<Holder>,
) -> Event<'a> {
    Event {
        tenant: &key.tenant,
        run: key.run,
        task: key.instance.task.as_str(),
        element: element(key.instance.index),
        generation: key.generation.0,
        seq,
        event,
        state: state.as_str(),
        attempt: holder.map(|it| it.attempt),
        epoch: holder.map(|it| it.epoch),
        session: holder.map(|it| it.session),
        detail: None,
    }
}

/// The event of a run's move.
pub(super) fn run_event(tenant: &TenantId, run: RunId, seq: i64, made: Transition<RunState>) -> Event<'_> {
    Event {
        tenant,
        run,
        task: "",
        element: -1,
        generation: 0,
        seq,
        event: made.event().as_str(),
        state: made.to().as_str(),
        attempt: None,
        epoch: None,
        session: None,
        detail: None,
    }
}

impl Tx {
    /// Events to be appended, as a part of a flush: rows of [`Event::cells`].
    pub(super) fn events_part(&self, events: Rows) -> Part {
        let sql = format!(
            "INSERT INTO event (tenant, run, task, element, generation, seq, at, event, state, attempt, epoch, \
             session, op_id, detail) \
             SELECT r.tenant, r.run, r.task, r.element, r.generation, r.seq, $1, r.event, r.state, r.attempt, \
             r.epoch, r.session, $2, r.detail FROM {}",
            events.table(self.dialect, 2)
        );
        Part::of_rows("append events", sql, events, vec![self.now.into(), self.op_id.to_string().into()])
    }
}
