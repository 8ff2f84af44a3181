//! `headworks schedule`: when things come due.

use std::process::ExitCode;

use engine::clock::{Clock, SystemClock, parse_rfc3339, rfc3339};
use engine::id::{DagId, TenantId};
use engine::schedule::{Calendars, Fire, Order, Schedule, Timetable};
use engine::scheduler::subscribe::timetable_of;
use engine::store::{OpenMode, ScheduleView};
use serde_json::json;

use super::{Session, apply, tenant};
use crate::exit::Failure;
use crate::plan_args::{GapArg, NextArgs, OverlapArg, ScheduleCommand};

/// More fires than anybody reads: a script that wants more asks again with `--from`.
const MOST: usize = 100_000;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &ScheduleCommand) -> Result<ExitCode, Failure> {
    match command {
        ScheduleCommand::Next(args) => next(session, args)?,
        ScheduleCommand::List { dag, tenant: whose, limit } => {
            list(session, dag.as_deref(), whose.as_deref(), *limit).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn next(session: &Session<'_>, args: &NextArgs) -> Result<(), Failure> {
    if args.count > MOST {
        return Err(Failure::usage(format!("-n {}: at most {MOST}", args.count)).hint("ask again with --from"));
    }
    let from = match &args.from {
        None => SystemClock.now(),
        Some(text) => parse_rfc3339(text).map_err(|error| {
            Failure::usage(format!("--from {text:?}: {error}")).hint("write an instant such as 2026-11-01T00:00:00Z")
        })?,
    };
    let (table, jitter) = table(session, args)?;
    let fires: Vec<Fire> = table.intervals(from, i64::MAX, Order::Ascending).take(args.count).collect();
    if session.output.is_json() {
        let rows: Vec<_> = fires
            .iter()
            .map(|fire| {
                json!({
                    "at": rfc3339(fire.at), "interval_start": rfc3339(fire.interval_start),
                    "interval_end": rfc3339(fire.interval_end), "starts": rfc3339(fire.start.saturating_add(jitter)),
                })
            })
            .collect();
        session.output.document(&json!({ "fires": rows }));
        return Ok(());
    }
    if fires.is_empty() {
        session.output.line("it never fires again");
    }
    let rows = fires.iter().map(|fire| {
        let start = fire.start.saturating_add(jitter);
        vec![rfc3339(fire.at), rfc3339(fire.interval_start), rfc3339(fire.interval_end), rfc3339(start)]
    });
    if !fires.is_empty() {
        session.output.table(&["at", "interval start", "interval end", "starts"], rows.collect());
    }
    Ok(())
}

/// The timetable that was asked for, and how much later than its fires a tenant's runs start.
fn table(session: &Session<'_>, args: &NextArgs) -> Result<(Timetable, i64), Failure> {
    if let Some(cron) = &args.cron {
        let gap = match args.gap {
            GapArg::Shift => "shift",
            GapArg::Skip => "skip",
        };
        let overlap = match args.overlap {
            OverlapArg::First => "first",
            OverlapArg::Last => "last",
            OverlapArg::Both => "both",
        };
        let section = json!({ "cron": cron, "timezone": args.timezone, "dst": { "gap": gap, "overlap": overlap } });
        let schedule = Schedule::from_json(&section).and_then(|schedule| schedule.bind(&Calendars::default()));
        return schedule.map(|table| (table, 0)).map_err(|error| Failure::usage(error.to_string()).hint(error.help));
    }
    let dag = session.project.dag(args.dag.as_deref().unwrap_or_default(), session.output)?;
    let whose = match tenant(args.tenant.as_deref())? {
        Some(id) => Some(session.project.tenant_for(&dag.id, Some(&id))?),
        None => None,
    };
    let found = timetable_of(&dag, whose.as_ref(), &session.project.calendars()?);
    let Some(table) = found.map_err(|errors| apply::misfits(&errors))? else {
        let message = format!("DAG {} has no schedule of its own: it runs on request, or when others are done", dag.id);
        return Err(Failure::usage(message).hint("add [schedule] cron = \"15 2 * * *\""));
    };
    let jitter = whose.map_or(0, |tenant| table.schedule().jitter(&dag.id, &tenant.id));
    Ok((table, jitter))
}

async fn list(session: &Session<'_>, dag: Option<&str>, whose: Option<&str>, limit: u64) -> Result<(), Failure> {
    let dag = dag.map(DagId::parse).transpose().map_err(|error| Failure::usage(error.to_string()))?;
    let whose: Option<TenantId> = tenant(whose)?;
    let store = session.store(OpenMode::Read).await?;
    let found = store.schedules(dag.as_ref(), whose.as_ref(), limit).await?;
    let state = |it: &ScheduleView| match (it.is_paused, it.is_live, it.rule.is_some() || it.is_triggered) {
        (true, ..) => "paused",
        (_, true, true) => "live",
        (_, false, true) => "suspended",
        (.., false) => "on request",
    };
    if session.output.is_json() {
        let rows: Vec<_> = found
            .iter()
            .map(|it| {
                json!({
                    "dag": it.dag, "tenant": it.tenant, "state": state(it),
                    "schedule": it.rule.as_ref().map(|rule| &rule["schedule"]),
                    "last_fire": it.last_fire.map(rfc3339), "next_look": it.next_at.map(rfc3339),
                })
            })
            .collect();
        session.output.document(&json!({ "schedules": rows }));
        return Ok(());
    }
    let rows = found.iter().map(|it| {
        let rule = it.rule.as_ref().map(|rule| &rule["schedule"]);
        let rule = rule.map(|rule| rule["cron"].as_str().or(rule["every"].as_str()).unwrap_or_default().to_owned());
        vec![
            it.dag.to_string(),
            it.tenant.to_string(),
            state(it).to_owned(),
            rule.unwrap_or_default(),
            it.last_fire.map(rfc3339).unwrap_or_default(),
            it.next_at.map(rfc3339).unwrap_or_default(),
        ]
    });
    session.output.table(&["dag", "tenant", "state", "rule", "last fire", "next look"], rows.collect());
    Ok(())
}
