//! Why a task instance is where it is, and what runs where: the reading behind `plan::trace`.
//!
//! Called by `headworks why` and `runs cancel`. Only reads, outside of any transaction, so an answer
//! may be a moment old. The queries are bounded: one row, its last attempts, and one row per state
//! of each task above; a fan-out of 100,000 elements is counted by the database, never loaded.

use std::collections::BTreeSet;
use std::sync::Arc;

use petgraph::Direction;
use sea_orm::QueryResult;
use serde_json::json;

use super::dialect::Kind;
use super::rows::{element, get, param, parse};
use super::{Store, StoreError, rows, tx};
use crate::clock::rfc3339;
use crate::dag::Dag;
use crate::id::{AttemptNumber, InstanceId, RunId, SessionId, TaskId, TenantId};
use crate::plan::{
    AttemptRecord, Cause, Holder, Link, Micros, Moment, Reason, Record, SlotLimit, Standing, Tallies, TaskTally,
    explain, trace,
};
use crate::run::{AttemptState, RunEvent, TaskState, is_terminal};

/// Attempts of one instance that an answer looks at; older ones tell nothing new.
const ATTEMPTS_READ: u32 = 10;
/// Sessions that an answer names.
const HOLDERS_NAMED: u32 = 5;

/// The answer to "why?".
#[derive(Debug, Clone, PartialEq)]
pub struct Why {
    /// The task instance that it is about.
    pub instance: InstanceId,
    /// Where it stands.
    pub state: TaskState,
    /// From the instance up to what holds it up, or to what ended it.
    pub links: Vec<Link>,
}

/// A running attempt and the session that holds it.
#[derive(Debug, Clone, PartialEq)]
pub struct RunningView {
    /// Of which task instance.
    pub instance: InstanceId,
    /// The try, from 1.
    pub attempt: AttemptNumber,
    /// The session.
    pub session: SessionId,
    /// What that process is: `run`, `worker` ...
    pub kind: String,
    /// The session's last heartbeat.
    pub heartbeat: Moment,
    /// Whether its lease is in force.
    pub alive: bool,
}

impl Store {
    /// Says why an instance of `task` is where it is. Without `index`, a task with elements is
    /// answered for by its most telling one.
    ///
    /// # Errors
    /// No such run of that tenant, no such task instance in it.
    pub async fn why(
        &self,
        tenant: &TenantId,
        run: RunId,
        task: &TaskId,
        index: Option<u32>,
    ) -> Result<Why, StoreError> {
        // What ended can say why, even where the pinned version no longer fits this binary.
        let dag = match self.pinned(tenant, run).await {
            Ok(pinned) => Some(Arc::clone(&pinned.dag)),
            Err(StoreError::Dag(_)) => None,
            Err(error) => return Err(error),
        };
        let asking = Asking { store: self, tenant, run };
        let (record, mut links) = asking.about(task, index).await?;
        let above = matches!(record.state, TaskState::Waiting | TaskState::UpstreamFailed | TaskState::Skipped);
        match (above, dag) {
            (false, _) => links.extend(explain(&record)),
            (true, Some(dag)) => links.extend(asking.chain(dag, &record).await?),
            (true, None) => {
                links.extend(explain(&record));
                links.push(Link { instance: record.instance.clone(), cause: Cause::DagUnreadable });
            }
        }
        Ok(Why { instance: record.instance, state: record.state, links })
    }

    /// The attempts of a run that are running, in the order of the DAG, `limit` at the most; and how
    /// many there are.
    ///
    /// # Errors
    /// The database's.
    pub async fn running(
        &self,
        tenant: &TenantId,
        run: RunId,
        limit: u64,
    ) -> Result<(Vec<RunningView>, u64), StoreError> {
        let sql = format!(
            "SELECT t.task, t.element, t.attempts, t.session, s.kind, s.heartbeat_at, \
             (NOT s.revoked AND s.expires_at > {now}) AS alive, COUNT(*) OVER () AS n, {now} AS now \
             FROM task_instance t JOIN worker_session s ON s.session = t.session \
             WHERE t.tenant = $1 AND t.run = $2 AND t.state = 'running' ORDER BY t.ordinal, t.element LIMIT $3",
            now = self.dialect.now()
        );
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let values = vec![tenant.to_string().into(), run.to_string().into(), limit.into()];
        let found = tx::read(&self.db, "read what runs", &sql, values).await?;
        let all = found.first().map_or(Ok(0), |row| get::<i64>(row, "n"))?;
        let views: Result<_, StoreError> = found.iter().map(read_running).collect();
        Ok((views?, all.unsigned_abs()))
    }
}

fn read_running(row: &QueryResult) -> Result<RunningView, StoreError> {
    Ok(RunningView {
        instance: rows::instance(row)?,
        attempt: AttemptNumber(get(row, "attempts")?),
        session: parse(row, "session", SessionId::parse)?,
        kind: get(row, "kind")?,
        heartbeat: moment(get(row, "heartbeat_at")?, get(row, "now")?),
        alive: get(row, "alive")?,
    })
}

/// One question about one run.
struct Asking<'a> {
    store: &'a Store,
    tenant: &'a TenantId,
    run: RunId,
}

impl Asking<'_> {
    fn values(&self, more: impl IntoIterator<Item = sea_orm::Value>) -> Vec<sea_orm::Value> {
        let mut values: Vec<sea_orm::Value> = vec![self.tenant.to_string().into(), self.run.to_string().into()];
        values.extend(more);
        values
    }

    /// The record of the instance that was asked for, or of the one that speaks for its task.
    async fn about(&self, task: &TaskId, index: Option<u32>) -> Result<(Record, Vec<Link>), StoreError> {
        let asked = InstanceId::new(task.clone(), index);
        if let Some(record) = self.record(&asked).await? {
            return Ok((record, Vec::new()));
        }
        let missing = || StoreError::NoInstance { run: self.run, instance: asked.clone() };
        if index.is_some() {
            return Err(missing());
        }
        let tally = self.tallies([task]).await?.remove(task).ok_or_else(missing)?;
        let (instance, _) = tally.most_telling().ok_or_else(missing)?;
        // It may have moved between the two queries, but it is there: rows are never deleted.
        let record = self.record(&instance).await?.ok_or_else(missing)?;
        Ok((record, vec![Link { instance, cause: Cause::Elements { tally } }]))
    }

    /// The way up from an instance that an upstream holds up or ended, and what is at its end.
    async fn chain(&self, dag: Arc<Dag>, record: &Record) -> Result<Vec<Link>, StoreError> {
        let mut named = ancestors(&dag, &record.instance.task);
        // Elements of a fan-out may wait for each other.
        let own = dag.task(&record.instance.task).filter(|task| task.for_each.is_some());
        named.extend(own.map(|task| &task.id));
        let tallies = self.tallies(named).await?;
        let found = trace(&dag, &record.instance, record.state, &tallies);
        let mut links = found.links;
        if let Some(end) = found.end
            && let Some(end) = self.record(&end).await?
        {
            links.extend(explain(&end));
        }
        Ok(links)
    }

    /// How the current instances of `tasks` stand.
    async fn tallies<'t>(&self, tasks: impl IntoIterator<Item = &'t TaskId>) -> Result<Tallies, StoreError> {
        let names: Vec<_> = tasks.into_iter().map(|task| json!({ "task": task })).collect();
        let mut tallies = Tallies::new();
        if names.is_empty() {
            return Ok(tallies);
        }
        let sql = format!(
            "SELECT t.task, t.state, COUNT(*) AS n, MIN(t.element) AS element FROM {} JOIN task_instance t \
             ON t.task = r.task WHERE t.tenant = $1 AND t.run = $2 AND t.current GROUP BY t.task, t.state",
            self.store.dialect.rows(3, &[("task", Kind::Text)])
        );
        let values = self.values([param(names)]);
        for row in &tx::read(&self.store.db, "count task instances", &sql, values).await? {
            let first = rows::instance(row)?;
            let standing = Standing { instances: rows::count(row, "n")?.into(), first: first.index };
            let tally = tallies.entry(first.task.clone()).or_insert_with(|| TaskTally::new(first.task));
            tally.by_state.insert(rows::task_state(row)?, standing);
        }
        Ok(tallies)
    }

    /// What is on record about one instance; `None` where there is no such one.
    async fn record(&self, instance: &InstanceId) -> Result<Option<Record>, StoreError> {
        let sql = format!(
            "SELECT generation, state, losses, pool, not_before, ready_at, finished_at, reason, {} AS now \
             FROM task_instance WHERE tenant = $1 AND run = $2 AND task = $3 AND element = $4 AND current",
            self.store.dialect.now()
        );
        let key = [instance.task.to_string().into(), element(instance.index).into()];
        let found = tx::read(&self.store.db, "read a task instance", &sql, self.values(key)).await?;
        let Some(row) = found.first() else { return Ok(None) };
        let now: Micros = get(row, "now")?;
        let at = |column| Ok::<_, StoreError>(get::<Option<i64>>(row, column)?.map(|at| moment(at, now)));
        let state = rows::task_state(row)?;
        let canceled = state == TaskState::Canceled;
        let attempts = self.attempts(instance, get(row, "generation")?, now).await?;
        let (holders, limits) = match state {
            TaskState::Ready => (self.holders(now).await?, self.limits(get(row, "pool")?).await?),
            _ => (Vec::new(), Vec::new()),
        };
        Ok(Some(Record {
            instance: instance.clone(),
            state,
            reason: read_reason(row)?,
            ready: at("ready_at")?,
            ended: if is_terminal(state) { at("finished_at")? } else { None },
            retry: at("not_before")?,
            cancel_requested: if canceled { self.cancel_requested(now).await? } else { None },
            losses: rows::count(row, "losses")?,
            attempts,
            holders,
            limits,
        }))
    }

    /// The last attempts of a generation, the latest first.
    async fn attempts(
        &self,
        instance: &InstanceId,
        generation: i64,
        now: Micros,
    ) -> Result<Vec<AttemptRecord>, StoreError> {
        let sql = "SELECT a.attempt, a.state, a.session, a.started_at, a.finished_at, a.error_class, a.message, \
                   s.kind, s.heartbeat_at, s.expires_at, s.revoked FROM attempt a \
                   LEFT JOIN worker_session s ON s.session = a.session \
                   WHERE a.tenant = $1 AND a.run = $2 AND a.task = $3 AND a.element = $4 AND a.generation = $5 \
                   ORDER BY a.attempt DESC LIMIT $6";
        let key = [
            instance.task.to_string().into(),
            element(instance.index).into(),
            generation.into(),
            i64::from(ATTEMPTS_READ).into(),
        ];
        let found = tx::read(&self.store.db, "read the attempts", sql, self.values(key)).await?;
        found.iter().map(|row| read_attempt(row, now)).collect()
    }

    /// The live sessions, those that run most first. They may be at other runs, which are not named.
    async fn holders(&self, now: Micros) -> Result<Vec<Holder>, StoreError> {
        let sql = "SELECT s.session, s.kind, s.heartbeat_at, (SELECT COUNT(*) FROM task_instance t \
                   WHERE t.session = s.session AND t.state = 'running') AS n FROM worker_session s \
                   WHERE NOT s.revoked AND s.expires_at > $1 ORDER BY n DESC, s.session LIMIT $2";
        let values = vec![now.into(), i64::from(HOLDERS_NAMED).into()];
        let found = tx::read(&self.store.db, "read the sessions", sql, values).await?;
        let read = |row: &QueryResult| {
            Ok(Holder {
                session: parse(row, "session", SessionId::parse)?,
                kind: get(row, "kind")?,
                attempts: get::<i64>(row, "n")?.unsigned_abs(),
                heartbeat: moment(get(row, "heartbeat_at")?, now),
            })
        };
        found.iter().map(read).collect()
    }

    /// The tenant's quota and the pool's size, where they are set, and what uses them.
    async fn limits(&self, pool: Option<String>) -> Result<Vec<SlotLimit>, StoreError> {
        let sql = "SELECT 'tenant ' || n.tenant AS what, n.running_tasks AS slots, (SELECT COUNT(*) FROM task_instance t \
                   WHERE t.state = 'running' AND t.tenant = n.tenant) AS used \
                   FROM tenant n WHERE n.tenant = $1 AND n.running_tasks IS NOT NULL \
                   UNION ALL SELECT 'pool ' || p.pool, p.slots, (SELECT COUNT(*) FROM task_instance t \
                   WHERE t.state = 'running' AND t.pool = p.pool) FROM pool p WHERE p.pool = $2";
        let values = vec![self.tenant.to_string().into(), pool.unwrap_or_default().into()];
        let found = tx::read(&self.store.db, "read the limits", sql, values).await?;
        let read = |row: &QueryResult| {
            let (used, slots): (i64, i64) = (get(row, "used")?, get(row, "slots")?);
            Ok(SlotLimit { of: get(row, "what")?, used: used.unsigned_abs(), slots: slots.unsigned_abs() })
        };
        found.iter().map(read).collect()
    }

    /// When the run's last cancel was asked for.
    async fn cancel_requested(&self, now: Micros) -> Result<Option<Moment>, StoreError> {
        let sql = "SELECT MAX(at) AS at FROM event WHERE tenant = $1 AND run = $2 AND task = '' AND element = -1 \
                   AND generation = 0 AND event = $3";
        let event = RunEvent::CancelRequested.as_str();
        let found = tx::read(&self.store.db, "read the cancel", sql, self.values([event.into()])).await?;
        let at = found.first().map(|row| get::<Option<i64>>(row, "at")).transpose()?.flatten();
        Ok(at.map(|at| moment(at, now)))
    }
}

/// Every task above `task`, itself not included.
fn ancestors<'d>(dag: &'d Dag, task: &TaskId) -> Vec<&'d TaskId> {
    let upward = |node| dag.graph.neighbors_directed(node, Direction::Incoming);
    let mut next: Vec<_> = dag.node(task).into_iter().flat_map(upward).collect();
    let mut met = BTreeSet::new();
    while let Some(node) = next.pop() {
        if met.insert(node) {
            next.extend(upward(node));
        }
    }
    met.into_iter().map(|node| &dag.graph[node].id).collect()
}

fn read_reason(row: &QueryResult) -> Result<Option<Reason>, StoreError> {
    let text: Option<String> = get(row, "reason")?;
    let corrupt = |error: serde_json::Error| StoreError::Corrupt { what: "task instance", detail: error.to_string() };
    text.map(|text| serde_json::from_str(&text)).transpose().map_err(corrupt)
}

fn read_attempt(row: &QueryResult, now: Micros) -> Result<AttemptRecord, StoreError> {
    let heartbeat: Option<i64> = get(row, "heartbeat_at")?;
    let expires: Option<i64> = get(row, "expires_at")?;
    let revoked: Option<bool> = get(row, "revoked")?;
    let class: Option<String> = get(row, "error_class")?;
    Ok(AttemptRecord {
        attempt: AttemptNumber(get(row, "attempt")?),
        state: parse(row, "state", |word| AttemptState::parse(word).ok_or_else(|| format!("no state {word:?}")))?,
        session: parse(row, "session", SessionId::parse)?,
        kind: get::<Option<String>>(row, "kind")?.unwrap_or_default(),
        started: moment(get(row, "started_at")?, now),
        ended: get::<Option<i64>>(row, "finished_at")?.map(|at| moment(at, now)),
        // Written as a JSON string by one statement and as a bare word by another.
        class: class.map(|class| class.trim_matches('"').to_owned()),
        message: get(row, "message")?,
        heartbeat: heartbeat.map(|at| moment(at, now)),
        alive: revoked == Some(false) && expires.is_some_and(|at| at > now),
    })
}

/// An instant of the database's clock, as seen from `now` by the same clock.
fn moment(at: Micros, now: Micros) -> Moment {
    Moment { at: rfc3339(at), seconds_ago: (now - at) / 1_000_000 }
}
