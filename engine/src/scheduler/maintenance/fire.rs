//! Schedules that are due: their runs are made, queued, once per tenant, DAG and logical time.
//!
//! A look reads some rows, asks the pure `schedule` what each one owes, prepares the runs (parameters,
//! documents), and writes all of it in one transaction that checks each row's version. What can not be
//! prepared for one tenant is an alert for that tenant and holds up nobody: its row is looked at again a
//! minute later, and nothing of it is lost.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::id::{DagId, RunId, TenantId};
use crate::launch::{LaunchError, Launcher, Request};
use crate::plan::Micros;
use crate::schedule::Fire;
use crate::scheduler::subscribe::timetable;
use crate::store::{AlertKind, DueSchedule, FireOutcome, Fired, NewAlert, NewRun, RunKind, Store, StoreError, chain};

/// Schedules that one look takes.
const AT_ONCE: usize = 200;
/// Runs that one look makes for one schedule; a long catch-up takes several.
const RUNS_AT_ONCE: usize = 10;
/// After this long a schedule whose runs could not be made is looked at again.
const AGAIN: Micros = 60 * 1_000_000;
/// The seed of runs that nobody asked for by hand: that of `headworks run`.
const SEED: u64 = 0;

/// See the module.
#[derive(Default)]
pub struct Firing {
    /// Pairs whose last look failed; `None` = not read yet.
    failing: Option<BTreeSet<(TenantId, DagId)>>,
}

/// What a look found for one schedule.
struct Look {
    fired: Fired,
    /// Fires that were left out by the policy for catch-up.
    dropped: u64,
    failure: Option<String>,
}

impl Firing {
    /// One round at `now`. Returns how many runs were made, and whether more is due.
    ///
    /// # Errors
    /// The store's.
    pub async fn run_once(
        &mut self,
        store: &Store,
        launcher: &Launcher,
        now: Micros,
    ) -> Result<(usize, bool), StoreError> {
        let due = store.due(now, AT_ONCE).await?;
        if due.is_empty() {
            return Ok((0, false));
        }
        let looks: Vec<Look> = due.iter().map(|schedule| look(schedule, launcher, now)).collect();
        let fired: Vec<Fired> = looks.iter().map(|look| look.fired.clone()).collect();
        let outcome = write(store, &fired, now).await?;
        self.tell(store, &looks).await?;
        for (tenant, dag) in &outcome.deferred {
            let message = format!("as many runs of {tenant} are queued as may; what is due of {dag} waits");
            let (subject, detail) = ("queued_runs", json!({}));
            let kind = AlertKind::QuotaExceeded;
            store.raise_alerts(&[NewAlert { tenant, dag, kind, subject, run: None, message, detail }]).await?;
        }
        Ok((outcome.made.len(), due.len() == AT_ONCE))
    }

    /// Raises what people have to know, and resolves what is well again.
    async fn tell(&mut self, store: &Store, looks: &[Look]) -> Result<(), StoreError> {
        let failing = match &mut self.failing {
            Some(failing) => failing,
            None => {
                let open = store.alerts(None, false, 10_000).await?;
                let failed = open.into_iter().filter(|it| it.kind == AlertKind::LaunchFailed);
                self.failing.insert(failed.map(|it| (it.tenant, it.dag)).collect())
            }
        };
        let mut alerts = Vec::new();
        for look in looks {
            let pair = (look.fired.tenant.clone(), look.fired.dag.clone());
            if let Some(message) = &look.failure {
                alerts.push(alert(&look.fired, AlertKind::LaunchFailed, message.clone(), json!({})));
                failing.insert(pair);
            } else if failing.remove(&pair) {
                store.resolve_alert((&pair.0, &pair.1), AlertKind::LaunchFailed, "schedule").await?;
            }
            if look.dropped > 0 {
                let message = format!(
                    "{} fire(s) of {} came due for {} while nobody looked, and were left out by its `catchup`",
                    look.dropped, look.fired.dag, look.fired.tenant
                );
                alerts.push(alert(&look.fired, AlertKind::FiresDropped, message, json!({ "dropped": look.dropped })));
            }
        }
        store.raise_alerts(&alerts).await
    }
}

fn alert(fired: &Fired, kind: AlertKind, message: String, detail: Value) -> NewAlert<'_> {
    NewAlert { tenant: &fired.tenant, dag: &fired.dag, kind, subject: "schedule", run: None, message, detail }
}

/// Writes all looks at once; where one of them can not be written, each for itself, so that it holds up
/// nobody else.
async fn write(store: &Store, fired: &[Fired], now: Micros) -> Result<FireOutcome, StoreError> {
    let error = match store.fire(fired, now).await {
        Err(error) if !error.is_unavailable() && fired.len() > 1 => error,
        result => return result,
    };
    tracing::warn!(%error, "can not write what is due at once; writing each for itself");
    let mut outcome = FireOutcome::default();
    for it in fired {
        match store.fire(std::slice::from_ref(it), now).await {
            Ok(made) => {
                outcome.made.extend(made.made);
                outcome.deferred.extend(made.deferred);
            }
            Err(error) if error.is_unavailable() => return Err(error),
            Err(error) => {
                let message = format!("no run of {} can be made for {}: {}", it.dag, it.tenant, chain(&error));
                store.raise_alerts(&[alert(it, AlertKind::LaunchFailed, message, json!({}))]).await?;
                let again = Fired {
                    runs: Vec::new(),
                    last_fire: None,
                    next_at: Some(now + AGAIN),
                    owed_at: it.owed_at.or(Some(now)),
                    ..it.clone()
                };
                store.fire(&[again], now).await?;
            }
        }
    }
    Ok(outcome)
}

/// What a schedule owes at `now`.
fn look(schedule: &DueSchedule, launcher: &Launcher, now: Micros) -> Look {
    let mut fired = Fired {
        tenant: schedule.tenant.clone(),
        dag: schedule.dag.id.clone(),
        version: schedule.version,
        runs: Vec::new(),
        last_fire: None,
        next_at: Some(now + AGAIN),
        owed_at: schedule.owed_at.or(Some(now)),
    };
    let table = match timetable(&schedule.rule) {
        Ok(table) => table,
        Err(error) => {
            let failure = Some(format!("the schedule of {} for {} can not be read: {error}", fired.dag, fired.tenant));
            return Look { fired, dropped: 0, failure };
        }
    };
    // Jitter moves when a run is made, never what it is about.
    let jitter = table.schedule().jitter(&fired.dag, &fired.tenant);
    // What was due when a run could not be made is owed, whatever the policy for catch-up says of it now.
    let then = schedule.owed_at.map_or(now, |owed| owed.min(now));
    let due = table.due(schedule.last_fire, schedule.since, then - jitter, RUNS_AT_ONCE);
    match runs(schedule, launcher, &due.fires, jitter) {
        Ok(runs) => {
            let newest = due.fires.last().map(|fire| fire.at);
            fired.runs = runs;
            fired.last_fire = newest.or((due.dropped > 0).then_some(then - jitter));
            // A long catch-up queues behind everybody else's fires of this moment.
            fired.next_at = due.next.map(|next| next.saturating_add(jitter).max(now));
            let is_paid = due.next.is_none_or(|next| next.saturating_add(jitter) > then);
            fired.owed_at = schedule.owed_at.filter(|_| !is_paid);
            if schedule.owed_at.is_some() && is_paid {
                // And now for what has come due since.
                fired.next_at = Some(now);
            }
            Look { fired, dropped: due.dropped, failure: None }
        }
        Err(error) => {
            let failure = Some(format!("no run of {} can be made for {}: {}", fired.dag, fired.tenant, chain(&error)));
            Look { fired, dropped: 0, failure }
        }
    }
}

/// The runs of fires: what they are pinned to is read once.
fn runs(schedule: &DueSchedule, launcher: &Launcher, fires: &[Fire], jitter: i64) -> Result<Vec<NewRun>, LaunchError> {
    let Some(first) = fires.first() else { return Ok(Vec::new()) };
    let model = launcher.prepare(Request {
        run: RunId::from_uuid(Uuid::now_v7()),
        dag: std::sync::Arc::clone(&schedule.dag),
        kind: RunKind::Scheduled,
        tenant: schedule.tenant.clone(),
        tenant_params: schedule.params.clone(),
        params: serde_json::Map::new(),
        seed: SEED,
        logical_time: first.at,
        interval: Some((first.interval_start, first.interval_end)),
        queue_rank: None,
        start_at: 0,
    })?;
    let run = |fire: &Fire| NewRun {
        run: RunId::from_uuid(Uuid::now_v7()),
        logical_time: fire.at,
        interval: Some((fire.interval_start, fire.interval_end)),
        queue_rank: fire.at,
        start_at: if fire.start > fire.at { fire.start.saturating_add(jitter) } else { 0 },
        ..model.clone()
    };
    Ok(fires.iter().map(run).collect())
}
