//! Schedules as rows: which tenant takes which DAG by which rule, what is due, and making it.
//!
//! A row is also the lock of its pair: runs come due and start under it. Firing compares the row's
//! version with the one that was read, so of two schedulers one makes the runs; should that ever fail,
//! the index that allows one run per tenant, DAG and logical time stands behind it. What a rule means is
//! the business of the pure `schedule`; the scheduler asks it between [`Store::due`] and [`Store::fire`].

use std::collections::BTreeSet;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use super::alerts::{AlertKind, NewAlert};
use super::create::{enqueue, insert_version};
use super::dialect::Kind;
use super::rooms::Rooms;
use super::rows::{self, param};
use super::tx::{Tx, Write};
use super::{NewRun, Store, StoreError, tx};
use crate::dag::{Dag, Overlap};
use crate::id::{DagId, Digest, RunId, TenantId};
use crate::plan::Micros;
use crate::run::RunState;

/// A tenant takes a DAG.
#[derive(Debug, Clone, PartialEq)]
pub struct Subscription {
    /// Who.
    pub tenant: TenantId,
    /// Takes what.
    pub dag: DagId,
    /// Whether runs may come due: the tenant is not suspended, and the schedule takes its status.
    pub is_live: bool,
    /// The schedule with the tenant's own over it, and the calendars that it names; `None` = on request.
    pub rule: Option<Value>,
    /// What of the rule says when it fires: as long as it stays the same, what is owed stays owed.
    pub timing: Option<String>,
    /// `on`: what it waits for, where it comes due by what arrives.
    pub trigger: Option<Value>,
    /// The tenant's parameters for this DAG.
    pub overlay: Map<String, Value>,
    /// Active runs at once.
    pub max_active: Option<u32>,
    /// What follows where there are more.
    pub overlap: Overlap,
    /// When it comes due next, if the rule is new here.
    pub next_at: Option<Micros>,
}

/// A schedule that has to be looked at.
#[derive(Debug, Clone)]
pub struct DueSchedule {
    /// Whose.
    pub tenant: TenantId,
    /// The DAG's applied version.
    pub dag: Arc<Dag>,
    /// As [`Subscription::rule`].
    pub rule: Value,
    /// As [`Subscription::overlay`].
    pub params: Map<String, Value>,
    /// Nothing earlier is due.
    pub since: Micros,
    /// The newest fire that was decided.
    pub last_fire: Option<Micros>,
    /// Since when runs could not be made: what was due then is owed, whatever the policy for catch-up.
    pub owed_at: Option<Micros>,
    /// To be given back to [`Store::fire`].
    pub version: i64,
}

/// What a look at a schedule led to.
#[derive(Debug, Clone)]
pub struct Fired {
    /// Whose.
    pub tenant: TenantId,
    /// Of which DAG.
    pub dag: DagId,
    /// The row's version when it was read.
    pub version: i64,
    /// The runs that came due.
    pub runs: Vec<NewRun>,
    /// The newest fire that is decided now.
    pub last_fire: Option<Micros>,
    /// When to look again.
    pub next_at: Option<Micros>,
    /// Since when runs could not be made.
    pub owed_at: Option<Micros>,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FireOutcome {
    /// Runs made, all queued.
    pub made: Vec<RunId>,
    /// Schedules that have to wait: their tenants have as many queued runs as they may.
    pub deferred: Vec<(TenantId, DagId)>,
}

/// What there is to do for the chores that make and start runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Agenda {
    /// A schedule has to be looked at.
    pub is_due: bool,
    /// A run waits to start.
    pub is_queued: bool,
    /// A backfill goes on.
    pub has_backfills: bool,
    /// A DAG waits for others.
    pub has_triggers: bool,
}

/// A line of `headworks schedule list`.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleView {
    /// Whose.
    pub tenant: TenantId,
    /// Of which DAG.
    pub dag: DagId,
    /// Whether runs may come due.
    pub is_live: bool,
    /// Whether somebody paused the DAG, the tenant or both.
    pub is_paused: bool,
    /// The rule.
    pub rule: Option<Value>,
    /// Whether it waits for others.
    pub is_triggered: bool,
    /// The newest fire that was decided.
    pub last_fire: Option<Micros>,
    /// When it is looked at next.
    pub next_at: Option<Micros>,
}

/// A tenant that has as many queued runs as it may is looked at again after this long.
const DEFERRED: Micros = 30 * 1_000_000;

/// A schedule whose DAG this binary can not read is looked at again after this long.
const UNREADABLE: Micros = 300 * 1_000_000;

/// What the filters of this file and of `admit` share: nobody paused the pair of row `s`.
pub(super) const NOT_PAUSED: &str = "NOT EXISTS (SELECT 1 FROM pause p WHERE (p.dag = s.dag OR p.dag = '') \
     AND (p.tenant = s.tenant OR p.tenant = ''))";

impl Store {
    /// Makes `dags` the versions of new runs, and writes who takes them. What lies within `retired` and is
    /// not named comes due no more.
    ///
    /// A row whose times changed counts from `now`; one whose times stayed goes on where it was.
    ///
    /// # Errors
    /// The database's.
    pub async fn apply_schedules(
        &self,
        dags: &[Arc<Dag>],
        subscriptions: &[Subscription],
        retired: &Retired,
        now: Micros,
    ) -> Result<(), StoreError> {
        for dag in dags {
            self.cache_dag(Arc::clone(dag));
        }
        self.write(&ApplyDags(dags)).await?;
        let mut sorted: Vec<&Subscription> = subscriptions.iter().collect();
        sorted.sort_by(|a, b| (&a.tenant, &a.dag).cmp(&(&b.tenant, &b.dag)));
        // Each part may be applied alone, and again: none of them has to wait for all.
        for rows in sorted.chunks(ROWS) {
            self.write(&ApplyRows { rows, now }).await?;
        }
        self.write(&Retire { named: &sorted, retired, now }).await
    }

    /// Schedules to be looked at by `now`, the longest due first; and when the next one is after that.
    ///
    /// # Errors
    /// The database's.
    pub async fn due(&self, now: Micros, limit: usize) -> Result<Vec<DueSchedule>, StoreError> {
        let sql = format!(
            "SELECT s.tenant, s.dag, s.rule, s.overlay, s.since, s.last_fire, s.owed_at, s.version, d.dag_version \
             FROM schedule s JOIN dag d ON d.dag = s.dag JOIN tenant n ON n.tenant = s.tenant \
             WHERE s.next_at <= $1 AND s.is_live AND s.rule IS NOT NULL AND n.status <> 'suspended' AND {NOT_PAUSED} \
             ORDER BY s.next_at LIMIT $2"
        );
        let values = vec![now.into(), i64::try_from(limit).unwrap_or(i64::MAX).into()];
        let found = tx::read(&self.db, "read what is due", &sql, values).await?;
        let mut due = Vec::with_capacity(found.len());
        for row in &found {
            let dag = match self.dag_version(rows::parse(row, "dag_version", Digest::parse)?).await {
                Ok(dag) => dag,
                Err(StoreError::Dag(_)) => {
                    self.put_off(row, now).await?;
                    continue;
                }
                Err(error) => return Err(error),
            };
            due.push(DueSchedule {
                tenant: rows::parse(row, "tenant", TenantId::parse)?,
                dag,
                owed_at: rows::get(row, "owed_at")?,
                rule: rows::get_json(row, "rule")?,
                params: rows::get_object(row, "overlay")?,
                since: rows::get(row, "since")?,
                last_fire: rows::get(row, "last_fire")?,
                version: rows::get(row, "version")?,
            });
        }
        Ok(due)
    }

    /// A schedule whose DAG this binary can not read holds up nobody: it is looked at again later, and told of.
    async fn put_off(&self, row: &sea_orm::QueryResult, now: Micros) -> Result<(), StoreError> {
        let (tenant, dag) = (rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "dag", DagId::parse)?);
        let fired = Fired {
            tenant: tenant.clone(),
            dag: dag.clone(),
            version: rows::get(row, "version")?,
            runs: Vec::new(),
            last_fire: None,
            next_at: Some(now + UNREADABLE),
            owed_at: rows::get::<Option<i64>>(row, "owed_at")?.or(Some(now)),
        };
        self.fire(&[fired], now).await?;
        let message = format!("no run of {dag} can be made: this program does not know the version in force");
        let alert = NewAlert {
            tenant: &tenant,
            dag: &dag,
            kind: AlertKind::LaunchFailed,
            subject: "schedule",
            run: None,
            message,
            detail: json!({}),
        };
        self.raise_alerts(&[alert]).await
    }

    /// Whether there is anything for the chores that make and start runs: one read, whatever waits.
    ///
    /// # Errors
    /// The database's.
    pub async fn agenda(&self, now: Micros) -> Result<Agenda, StoreError> {
        // The first of each by an index, whatever a planner without statistics thinks of the others.
        let sql = "SELECT COALESCE((SELECT MIN(next_at) FROM schedule WHERE next_at IS NOT NULL) <= $1, FALSE) AS is_due, \
                   (SELECT tenant FROM run WHERE state = 'queued' ORDER BY tenant, dag LIMIT 1) IS NOT NULL AS is_queued, \
                   EXISTS (SELECT 1 FROM backfill WHERE state = 'running') AS has_backfills, \
                   (SELECT tenant FROM schedule WHERE is_live AND trigger_on IS NOT NULL \
                   ORDER BY tenant, dag LIMIT 1) IS NOT NULL AS has_triggers";
        let found = tx::read(&self.db, "read what is to be done", sql, vec![now.into()]).await?;
        let row = found.first().ok_or(StoreError::Corrupt { what: "schedule", detail: "no answer".into() })?;
        Ok(Agenda {
            is_due: rows::get(row, "is_due")?,
            is_queued: rows::get(row, "is_queued")?,
            has_backfills: rows::get(row, "has_backfills")?,
            has_triggers: rows::get(row, "has_triggers")?,
        })
    }

    /// Records what a look led to, and makes the runs, queued. What another scheduler was faster with is
    /// left out.
    ///
    /// # Errors
    /// The database's.
    pub async fn fire(&self, fired: &[Fired], now: Micros) -> Result<FireOutcome, StoreError> {
        if fired.is_empty() {
            return Ok(FireOutcome::default());
        }
        self.write(&Fire { store: self, fired, now }).await
    }

    /// The DAG of a digest.
    pub(super) async fn dag_version(&self, digest: Digest) -> Result<Arc<Dag>, StoreError> {
        if let Some(dag) = self.cached_dag(digest) {
            return Ok(dag);
        }
        let sql = "SELECT digest AS dag_version, dag, source FROM dag_version WHERE digest = $1";
        let found = tx::read(&self.db, "read a DAG version", sql, vec![digest.to_string().into()]).await?;
        let row = found
            .first()
            .ok_or_else(|| StoreError::Corrupt { what: "dag", detail: format!("its version {digest} is not there") })?;
        self.dag_of(row)
    }

    /// The applied version of a DAG, if it was ever applied.
    ///
    /// # Errors
    /// The database's; the version does not fit this binary.
    pub async fn applied_dag(&self, dag: &DagId) -> Result<Option<Arc<Dag>>, StoreError> {
        let sql = "SELECT dag_version FROM dag WHERE dag = $1";
        let found = tx::read(&self.db, "read a DAG", sql, vec![dag.to_string().into()]).await?;
        match found.first() {
            None => Ok(None),
            Some(row) => Ok(Some(self.dag_version(rows::parse(row, "dag_version", Digest::parse)?).await?)),
        }
    }

    /// Open runs of a DAG, by version and state, of all tenants: (version, state, how many).
    ///
    /// # Errors
    /// The database's.
    pub async fn open_runs(&self, dag: &DagId) -> Result<Vec<(String, RunState, u64)>, StoreError> {
        let sql = "SELECT dag_version, state, COUNT(*) AS n FROM run WHERE dag = $1 \
                   AND state IN ('queued', 'running', 'canceling') GROUP BY dag_version, state ORDER BY 1, 2";
        let found = tx::read(&self.db, "count a DAG's open runs", sql, vec![dag.to_string().into()]).await?;
        let one = |row| Ok((rows::get(row, "dag_version")?, rows::run_state(row)?, rows::count(row, "n")?.into()));
        found.iter().map(one).collect()
    }

    /// Who takes what, by DAG and tenant.
    ///
    /// # Errors
    /// The database's.
    pub async fn schedules(
        &self,
        dag: Option<&DagId>,
        tenant: Option<&TenantId>,
        limit: u64,
    ) -> Result<Vec<ScheduleView>, StoreError> {
        let sql = format!(
            "SELECT s.tenant, s.dag, s.is_live, s.rule, s.trigger_on IS NOT NULL AS is_triggered, s.last_fire, s.next_at, NOT ({NOT_PAUSED}) AS is_paused \
             FROM schedule s WHERE ($1 = '' OR s.dag = $1) AND ($2 = '' OR s.tenant = $2) \
             ORDER BY s.dag, s.tenant LIMIT $3"
        );
        let values = vec![
            dag.map(DagId::to_string).unwrap_or_default().into(),
            tenant.map(TenantId::to_string).unwrap_or_default().into(),
            i64::try_from(limit).unwrap_or(i64::MAX).into(),
        ];
        let found = tx::read(&self.db, "list the schedules", &sql, values).await?;
        found.iter().map(read_view).collect()
    }
}

fn read_view(row: &sea_orm::QueryResult) -> Result<ScheduleView, StoreError> {
    let rule: Option<String> = rows::get(row, "rule")?;
    Ok(ScheduleView {
        tenant: rows::parse(row, "tenant", TenantId::parse)?,
        dag: rows::parse(row, "dag", DagId::parse)?,
        is_live: rows::get(row, "is_live")?,
        is_paused: rows::get(row, "is_paused")?,
        is_triggered: rows::get(row, "is_triggered")?,
        rule: rule.map(|_| rows::get_json(row, "rule")).transpose()?,
        last_fire: rows::get(row, "last_fire")?,
        next_at: rows::get(row, "next_at")?,
    })
}

/// What a change of files is about: rows within it that are not named any more are retired.
#[derive(Debug, Clone, Default)]
pub struct Retired {
    /// Of these tenants ...
    pub tenants: Vec<TenantId>,
    /// ... and these DAGs.
    pub dags: Vec<DagId>,
    /// Of everybody, everything.
    pub all: bool,
}

/// Rows of one statement: a parameter of some megabytes, not of some hundred.
const ROWS: usize = 10_000;

struct ApplyDags<'a>(&'a [Arc<Dag>]);

#[async_trait]
impl Write for ApplyDags<'_> {
    type Output = ();
    const WHAT: &'static str = "apply DAGs";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        for dag in self.0 {
            let digest = dag.version.to_string();
            insert_version(tx, dag).await?;
            let sql = "INSERT INTO dag (dag, dag_version, applied_at) VALUES ($1, $2, $3) ON CONFLICT (dag) \
                       DO UPDATE SET dag_version = excluded.dag_version, applied_at = excluded.applied_at \
                       WHERE dag.dag_version <> excluded.dag_version";
            tx.execute(Self::WHAT, sql, vec![dag.id.to_string().into(), digest.into(), tx.now.into()]).await?;
        }
        tx.all_of(Vec::new()).await
    }
}

struct ApplyRows<'a> {
    rows: &'a [&'a Subscription],
    now: Micros,
}

#[async_trait]
impl Write for ApplyRows<'_> {
    type Output = ();
    const WHAT: &'static str = "apply schedules";

    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let columns = [
            ("tenant", Kind::Text),
            ("dag", Kind::Text),
            ("is_live", Kind::Bool),
            ("rule", Kind::Text),
            ("timing", Kind::Text),
            ("trigger_on", Kind::Text),
            ("overlay", Kind::Text),
            ("max_active", Kind::Int),
            ("overlap", Kind::Text),
            ("next_at", Kind::Int),
        ];
        let fields = self.rows.iter().map(|it| {
            json!({
                "tenant": it.tenant, "dag": it.dag, "is_live": it.is_live,
                "rule": it.rule.as_ref().map(Value::to_string), "timing": it.timing,
                "trigger_on": it.trigger.as_ref().map(Value::to_string),
                "overlay": Value::Object(it.overlay.clone()).to_string(),
                "max_active": it.max_active, "overlap": it.overlap.as_str(),
                "next_at": if it.is_live && it.rule.is_some() { it.next_at } else { None },
            })
        });
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        // Its times are the same: what is owed stays owed. Whatever else changed is looked at now, and so is
        // who may run again.
        let same = "schedule.timing IS NOT DISTINCT FROM excluded.timing \
                    AND schedule.trigger_on IS NOT DISTINCT FROM excluded.trigger_on";
        let sql = format!(
            "INSERT INTO schedule ({}, since, version, updated_at) SELECT {}, $2, 0, $2 FROM {} WHERE TRUE \
             ON CONFLICT (tenant, dag) DO UPDATE SET is_live = excluded.is_live, rule = excluded.rule, \
             timing = excluded.timing, trigger_on = excluded.trigger_on, overlay = excluded.overlay, \
             max_active = excluded.max_active, overlap = excluded.overlap, \
             since = CASE WHEN {same} THEN schedule.since ELSE excluded.since END, \
             next_at = CASE WHEN excluded.next_at IS NULL THEN NULL WHEN {same} THEN $2 ELSE excluded.next_at END, \
             version = schedule.version + 1, updated_at = excluded.updated_at \
             WHERE schedule.rule IS DISTINCT FROM excluded.rule OR schedule.is_live <> excluded.is_live \
             OR schedule.trigger_on IS DISTINCT FROM excluded.trigger_on OR schedule.overlay <> excluded.overlay \
             OR schedule.max_active IS DISTINCT FROM excluded.max_active OR schedule.overlap <> excluded.overlap",
            names.join(", "),
            names.iter().map(|name| format!("r.{name}")).collect::<Vec<_>>().join(", "),
            tx.dialect.rows(1, &columns)
        );
        tx.execute(Self::WHAT, &sql, vec![param(fields.collect()), self.now.into()]).await?;
        tx.all_of(Vec::new()).await
    }
}

struct Retire<'a> {
    named: &'a [&'a Subscription],
    retired: &'a Retired,
    now: Micros,
}

#[async_trait]
impl Write for Retire<'_> {
    type Output = ();
    const WHAT: &'static str = "retire schedules";

    /// Rows that no file names any more stay, for their history, and nothing comes due; who is named again
    /// counts from then. Paused rows have no next look, whatever the files say.
    async fn apply(&self, tx: &Tx) -> Result<(), StoreError> {
        let text = |column: &'static str| [(column, Kind::Text)];
        let named = self.named.iter().map(|it| json!({ "tenant": it.tenant, "dag": it.dag })).collect();
        let tenants = self.retired.tenants.iter().map(|it| json!({ "tenant": it })).collect();
        let dags = self.retired.dags.iter().map(|it| json!({ "dag": it })).collect();
        let sql = format!(
            "UPDATE schedule SET is_live = FALSE, rule = NULL, timing = NULL, trigger_on = NULL, next_at = NULL, \
             owed_at = NULL, version = version + 1, updated_at = $2 \
             WHERE (is_live OR rule IS NOT NULL OR trigger_on IS NOT NULL) AND (tenant, dag) IN \
             (SELECT tenant, dag FROM schedule EXCEPT SELECT r.tenant, r.dag FROM {}) \
             AND ($3 = 1 OR (tenant IN (SELECT r.tenant FROM {}) AND dag IN (SELECT r.dag FROM {})))",
            tx.dialect.rows(1, &[("tenant", Kind::Text), ("dag", Kind::Text)]),
            tx.dialect.rows(4, &text("tenant")),
            tx.dialect.rows(5, &text("dag")),
        );
        let all = i64::from(self.retired.all);
        let values = vec![param(named), self.now.into(), all.into(), param(tenants), param(dags)];
        tx.execute(Self::WHAT, &sql, values).await?;
        let sql = format!("UPDATE schedule AS s SET next_at = NULL WHERE s.next_at IS NOT NULL AND NOT ({NOT_PAUSED})");
        tx.execute(Self::WHAT, &sql, vec![]).await?;
        tx.all_of(Vec::new()).await
    }
}

struct Fire<'a> {
    store: &'a Store,
    fired: &'a [Fired],
    now: Micros,
}

#[async_trait]
impl Write for Fire<'_> {
    type Output = FireOutcome;
    const WHAT: &'static str = "make runs that are due";

    async fn apply(&self, tx: &Tx) -> Result<FireOutcome, StoreError> {
        let held = self.lock(tx).await?;
        let mut mine: Vec<&Fired> =
            self.fired.iter().filter(|it| held.contains(&(it.tenant.clone(), it.dag.clone()))).collect();
        // Quotas are locked in the order of tenants.
        mine.sort_by(|a, b| a.tenant.cmp(&b.tenant));
        let mut rooms = Rooms::live(tx, mine.iter().map(|it| &it.tenant)).await?;
        let (mut outcome, mut moves, mut runs) = (FireOutcome::default(), Vec::new(), Vec::new());
        for it in mine {
            let room = rooms.take(tx, &it.tenant, it.runs.len()).await?;
            let (mut last, mut next, mut owed) = (it.last_fire, it.next_at, it.owed_at);
            if room < it.runs.len() {
                // The oldest go first; the rest is owed, and due again when the tenant's queue has room.
                last = room.checked_sub(1).map(|at| it.runs[at].logical_time);
                (next, owed) = (Some(self.now + DEFERRED), it.owed_at.or(Some(self.now)));
                outcome.deferred.push((it.tenant.clone(), it.dag.clone()));
            }
            moves.push(json!({ "tenant": it.tenant, "dag": it.dag, "fired": last, "next": next, "owed": owed }));
            runs.extend(it.runs.iter().take(room).cloned());
        }
        let columns = [
            ("tenant", Kind::Text),
            ("dag", Kind::Text),
            ("fired", Kind::Int),
            ("next", Kind::Int),
            ("owed", Kind::Int),
        ];
        let sql = format!(
            "UPDATE schedule SET last_fire = COALESCE(r.fired, schedule.last_fire), next_at = r.next, \
             owed_at = r.owed, version = schedule.version + 1, updated_at = $2 \
             FROM {} WHERE schedule.tenant = r.tenant AND schedule.dag = r.dag",
            tx.dialect.rows(1, &columns)
        );
        tx.execute(Self::WHAT, &sql, vec![param(moves), self.now.into()]).await?;
        outcome.made = enqueue(tx, self.store, &runs).await?;
        tx.all_of(Vec::new()).await?;
        Ok(outcome)
    }
}

impl Fire<'_> {
    /// Locks the rows that nobody has moved since they were read.
    async fn lock(&self, tx: &Tx) -> Result<BTreeSet<(TenantId, DagId)>, StoreError> {
        let read = self.fired.iter().map(|it| json!({ "tenant": it.tenant, "dag": it.dag, "version": it.version }));
        let columns = [("tenant", Kind::Text), ("dag", Kind::Text), ("version", Kind::Int)];
        let sql = format!(
            "SELECT s.tenant, s.dag FROM {} JOIN schedule s ON s.tenant = r.tenant AND s.dag = r.dag \
             AND s.version = r.version WHERE s.is_live AND {NOT_PAUSED} ORDER BY s.tenant, s.dag{}",
            tx.dialect.rows(1, &columns),
            tx.dialect.lock("s")
        );
        let found = tx.all("lock what is due", &sql, vec![param(read.collect())]).await?;
        let pair = |row| Ok((rows::parse(row, "tenant", TenantId::parse)?, rows::parse(row, "dag", DagId::parse)?));
        found.iter().map(pair).collect()
    }
}
