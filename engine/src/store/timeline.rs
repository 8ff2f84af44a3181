//! What happened in a run, in order of time: for people who read it, page by page.
//!
//! Called by `runs events` and by tests. Events are appended by `events`; nothing here writes one.

use sea_orm::QueryResult;

use super::rows::{element, get};
use super::{Store, StoreError, rows, tx};
use crate::clock::rfc3339;
use crate::id::{InstanceId, RunId, TaskId, TenantId};

/// Something that happened to a run or to one of its task instances.
#[derive(Debug, Clone, PartialEq)]
pub struct EventView {
    /// The task instance; `None` = the run itself.
    pub instance: Option<InstanceId>,
    /// The instance's generation; 0 for the run.
    pub generation: i64,
    /// From 1, without gaps, per run and per generation of an instance.
    pub seq: i64,
    /// RFC 3339.
    pub at: String,
    /// The word of the event.
    pub event: String,
    /// The state afterwards.
    pub state: String,
    /// The attempt it is about.
    pub attempt: Option<i64>,
    /// That attempt's epoch.
    pub epoch: Option<i64>,
    /// The session that held it.
    pub session: Option<String>,
    /// Why, as JSON.
    pub detail: Option<String>,
}

/// Which events to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventFilter {
    /// Those of one task, all its elements and generations; `None` = all, with the run's own.
    pub task: Option<TaskId>,
    /// Those of one element of `task`.
    pub index: Option<u32>,
    /// How many to pass over.
    pub offset: u64,
    /// How many at the most.
    pub limit: u64,
}

/// A part of a timeline.
#[derive(Debug, Clone, PartialEq)]
pub struct EventPage {
    /// In order of time.
    pub events: Vec<EventView>,
    /// How many there are in all.
    pub total: u64,
}

/// The columns of [`read_event`].
const COLUMNS: &str = "task, element, generation, seq, at, event, state, attempt, epoch, session, detail";

/// In order of time; within one transaction, whose events share one moment, cause before effect: what
/// was asked for, what ended, what could no longer run, what became ready, what was claimed, and the
/// end of the run.
const IN_ORDER: &str = "at, op_id, \
     CASE WHEN event IN ('run_started', 'run_cancel_requested', 'run_rerun_requested') THEN 0 WHEN task = '' THEN 5 \
     WHEN event = 'task_claimed' THEN 4 WHEN event = 'task_became_ready' THEN 3 \
     WHEN event IN ('task_skipped', 'task_upstream_failed') THEN 2 ELSE 1 END, task, element, generation, seq";

impl Store {
    /// Everything that happened in a run, in order of time.
    ///
    /// # Errors
    /// The database's.
    pub async fn events(&self, tenant: &TenantId, id: RunId) -> Result<Vec<EventView>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM event WHERE tenant = $1 AND run = $2 ORDER BY {IN_ORDER}");
        let values = vec![tenant.to_string().into(), id.to_string().into()];
        let found = tx::read(&self.db, "read the events", &sql, values).await?;
        found.iter().map(read_event).collect()
    }

    /// A part of what happened in a run, in order of time.
    ///
    /// # Errors
    /// No such task instance; the database's.
    pub async fn event_page(
        &self,
        tenant: &TenantId,
        id: RunId,
        filter: &EventFilter,
    ) -> Result<EventPage, StoreError> {
        let mut values: Vec<sea_orm::Value> = vec![tenant.to_string().into(), id.to_string().into()];
        let mut which = "tenant = $1 AND run = $2".to_owned();
        if let Some(task) = &filter.task {
            which.push_str(" AND task = $3");
            values.push(task.to_string().into());
            if let Some(index) = filter.index {
                which.push_str(" AND element = $4");
                values.push(element(Some(index)).into());
            }
            self.check_instance(&which, &values, (id, task, filter.index)).await?;
        }
        let sql = format!("SELECT COUNT(*) AS n FROM event WHERE {which}");
        let counted = tx::read(&self.db, "count the events", &sql, values.clone()).await?;
        let total = counted.first().map_or(Ok(0), |row| get::<i64>(row, "n"))?.unsigned_abs();
        let bound = |number: u64| sea_orm::Value::from(i64::try_from(number).unwrap_or(i64::MAX));
        let (limit, offset) = (values.len() + 1, values.len() + 2);
        values.extend([bound(filter.limit), bound(filter.offset)]);
        let sql =
            format!("SELECT {COLUMNS} FROM event WHERE {which} ORDER BY {IN_ORDER} LIMIT ${limit} OFFSET ${offset}");
        let found = tx::read(&self.db, "read the events", &sql, values).await?;
        let events: Result<_, StoreError> = found.iter().map(read_event).collect();
        Ok(EventPage { events: events?, total })
    }

    /// A task that has had no event yet is not one that the run does not have.
    async fn check_instance(
        &self,
        which: &str,
        values: &[sea_orm::Value],
        (run, task, index): (RunId, &TaskId, Option<u32>),
    ) -> Result<(), StoreError> {
        let sql = format!("SELECT 1 AS there FROM task_instance WHERE {which} LIMIT 1");
        let found = tx::read(&self.db, "look for a task instance", &sql, values.to_vec()).await?;
        match found.is_empty() {
            true => Err(StoreError::NoInstance { run, instance: InstanceId::new(task.clone(), index) }),
            false => Ok(()),
        }
    }
}

fn read_event(row: &QueryResult) -> Result<EventView, StoreError> {
    let task: String = get(row, "task")?;
    Ok(EventView {
        instance: if task.is_empty() { None } else { Some(rows::instance(row)?) },
        generation: get(row, "generation")?,
        seq: get(row, "seq")?,
        at: rfc3339(get(row, "at")?),
        event: get(row, "event")?,
        state: get(row, "state")?,
        attempt: get(row, "attempt")?,
        epoch: get(row, "epoch")?,
        session: get(row, "session")?,
        detail: get(row, "detail")?,
    })
}
