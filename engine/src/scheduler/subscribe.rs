//! Who takes what, and when: from DAGs, tenants and calendars as files say to the rows of `schedule`.
//!
//! Called when a project is applied, and by `dag plan`. Reads nothing: texts come in, rows go out, or
//! everything that does not fit, at once. A row's rule is whole: the DAG's section with the tenant's keys
//! over it, and the text of every calendar that it leads to, so that a scheduler needs no file.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use crate::dag::Dag;
use crate::id::{DagId, TenantId};
use crate::plan::Micros;
use crate::schedule::{Calendar, Calendars, Schedule, ScheduleError, Timetable};
use crate::store::Subscription;
use crate::tenant::{TenantSpec, TenantStatus};

/// Something that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {problem} ({help})")]
pub struct SubscribeError {
    /// Where: a DAG, a tenant, a calendar.
    pub place: String,
    /// What.
    pub problem: String,
    /// How to mend it.
    pub help: String,
}

/// Calendars by name, as their files say.
pub type CalendarTexts = BTreeMap<String, String>;

/// Every tenant's subscriptions to `dags`, and every schedule, override and calendar that does not fit:
/// who has one of those has no row, and all others have theirs. `now` is when new rules begin to count.
pub fn subscriptions(
    dags: &[Arc<Dag>],
    tenants: &[TenantSpec],
    texts: &CalendarTexts,
    now: Micros,
) -> (Vec<Subscription>, Vec<SubscribeError>) {
    let (calendars, mut errors) = read_calendars(texts);
    let mut all = Vec::new();
    for dag in dags {
        for tenant in tenants.iter().filter(|tenant| tenant.takes(&dag.id)) {
            match subscription(dag, tenant, &calendars, now) {
                Ok(it) => all.push(it),
                Err(error) => errors.push(place(&format!("tenant {}, DAG {}", tenant.id, dag.id), error)),
            }
        }
    }
    (all, errors)
}

/// The timetable of a DAG, for a tenant or as it stands; `None` = it has no rule of time.
///
/// # Errors
/// What does not fit.
pub fn timetable_of(
    dag: &Dag,
    tenant: Option<&TenantSpec>,
    texts: &CalendarTexts,
) -> Result<Option<Timetable>, Vec<SubscribeError>> {
    let (calendars, errors) = read_calendars(texts);
    if !errors.is_empty() {
        return Err(errors);
    }
    let own = tenant.and_then(|tenant| tenant.schedule_for(&dag.id));
    let found = schedule_of(dag, own).and_then(|schedule| schedule.map(|it| it.bind(&calendars.resolved)).transpose());
    found.map_err(|error| vec![place(&format!("DAG {}", dag.id), error)])
}

/// The timetable of a stored rule.
///
/// # Errors
/// It was written by another version of this program.
pub fn timetable(rule: &Value) -> Result<Timetable, ScheduleError> {
    let texts: CalendarTexts = serde_json::from_value(rule["calendars"].clone()).unwrap_or_default();
    let (calendars, _) = read_calendars(&texts);
    Schedule::from_json(&rule["schedule"])?.bind(&calendars.resolved)
}

struct Known<'a> {
    texts: &'a CalendarTexts,
    parsed: BTreeMap<String, Calendar>,
    resolved: Calendars,
}

fn read_calendars(texts: &CalendarTexts) -> (Known<'_>, Vec<SubscribeError>) {
    let (mut parsed, mut errors) = (BTreeMap::new(), Vec::new());
    for (name, text) in texts {
        match Calendar::parse(text) {
            Ok(calendar) => {
                parsed.insert(name.clone(), calendar);
            }
            Err(found) => errors.extend(found.iter().map(|error| calendar_error(name, error))),
        }
    }
    let resolved = Calendars::resolve(&parsed).unwrap_or_else(|found| {
        errors.extend(found.iter().map(|error| calendar_error("", error)));
        Calendars::default()
    });
    (Known { texts, parsed, resolved }, errors)
}

fn calendar_error(name: &str, error: &crate::schedule::CalendarError) -> SubscribeError {
    let place = if name.is_empty() { "calendars".to_owned() } else { format!("calendar {name}") };
    SubscribeError { place, problem: error.to_string(), help: error.help.clone() }
}

fn place(place: &str, error: ScheduleError) -> SubscribeError {
    SubscribeError { place: place.to_owned(), problem: error.to_string(), help: error.help }
}

/// The DAG's schedule with a tenant's keys over it; one that only waits for others has no rule of time.
fn schedule_of(dag: &Dag, own: Option<&Value>) -> Result<Option<Schedule>, ScheduleError> {
    let Some(section) = &dag.schedule else {
        return own.map(Schedule::from_json).transpose();
    };
    if section.get("on").is_some() {
        return Ok(None);
    }
    let schedule = Schedule::from_json(section)?;
    own.map_or(Ok(schedule.clone()), |own| schedule.overlay(own)).map(Some)
}

fn subscription(
    dag: &Arc<Dag>,
    tenant: &TenantSpec,
    calendars: &Known<'_>,
    now: Micros,
) -> Result<Subscription, ScheduleError> {
    let schedule = schedule_of(dag, tenant.schedule_for(&dag.id))?;
    let admits = schedule.as_ref().is_none_or(|schedule| schedule.admits(tenant.status.as_str()));
    let next_at = match &schedule {
        Some(schedule) => next_look(&schedule.bind(&calendars.resolved)?, (&dag.id, &tenant.id), now),
        None => None,
    };
    // What the fires hang on; everything else may change while a fire is owed.
    let timing = schedule.as_ref().map(|schedule| {
        let said = |key: &str| schedule.section().get(key).cloned().unwrap_or(Value::Null);
        json!([said("cron"), said("every"), schedule.timezone(), format!("{:?}", schedule.dst())]).to_string()
    });
    let rule = schedule.map(
        |schedule| json!({ "schedule": schedule.section(), "calendars": reached(calendars, schedule.excluded()) }),
    );
    let trigger = dag.schedule.as_ref().and_then(|section| section.get("on"));
    Ok(Subscription {
        tenant: tenant.id.clone(),
        dag: dag.id.clone(),
        is_live: admits && tenant.status != TenantStatus::Suspended,
        timing,
        rule,
        trigger: trigger.cloned(),
        overlay: tenant.params_for(&dag.id),
        max_active: dag.max_active_runs,
        overlap: dag.overlap,
        next_at,
    })
}

/// When a schedule that is in force from `now` has to be looked at first.
fn next_look(table: &Timetable, (dag, tenant): (&DagId, &TenantId), now: Micros) -> Option<Micros> {
    Some(table.next(now)?.at.saturating_add(table.schedule().jitter(dag, tenant)))
}

/// The texts of the named calendars and of all that they refer to.
fn reached<'a>(known: &'a Known<'_>, named: &[String]) -> BTreeMap<&'a str, &'a str> {
    let mut left: Vec<&str> = named.iter().map(String::as_str).collect();
    let mut seen = BTreeSet::new();
    let mut texts = BTreeMap::new();
    while let Some(name) = left.pop() {
        let Some((name, text)) = known.texts.get_key_value(name) else { continue };
        if seen.insert(name.as_str()) {
            texts.insert(name.as_str(), text.as_str());
            left.extend(known.parsed.get(name).into_iter().flat_map(Calendar::references));
        }
    }
    texts
}
