//! `headworks dag`: the graph; what a file would change; pauses.

use std::process::ExitCode;

use engine::clock::{Clock, SystemClock, rfc3339};
use engine::dag::{Dag, TaskChange, diff, show};
use engine::id::{DagId, TenantId};
use engine::schedule::Order;
use engine::scheduler::subscribe::timetable_of;
use engine::store::{OpenMode, PauseScope};
use serde_json::{Value, json};

use super::{Session, actor, apply, tenant};
use crate::args::{DagCommand, GraphFormat, PauseArgs};
use crate::exit::Failure;

/// Fire times that a plan shows.
const FIRES_SHOWN: usize = 10;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &DagCommand) -> Result<ExitCode, Failure> {
    match command {
        DagCommand::Show { dag, format } => graph(session, dag, *format)?,
        DagCommand::Plan { dag } => plan(session, dag).await?,
        DagCommand::Apply { files } => return apply::dags(session, files).await,
        DagCommand::Pause(args) => pause(session, args).await?,
        DagCommand::Resume(args) => resume(session, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

fn graph(session: &Session<'_>, dag: &str, format: GraphFormat) -> Result<(), Failure> {
    let dag = session.project.dag(dag, session.output)?;
    match format {
        GraphFormat::Json => session.output.document(&show::json(&dag)),
        _ if session.output.is_json() => session.output.document(&show::json(&dag)),
        GraphFormat::Text => session.output.line(show::text(&dag).trim_end()),
        GraphFormat::Dot => session.output.line(show::dot(&dag).trim_end()),
    }
    Ok(())
}

fn scope(args: &PauseArgs) -> Result<PauseScope, Failure> {
    let dag = DagId::parse(&args.dag).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(PauseScope { dag: Some(dag), tenant: tenant(args.tenant.as_deref())? })
}

async fn pause(session: &Session<'_>, args: &PauseArgs) -> Result<(), Failure> {
    let (scope, store) = (scope(args)?, session.asking().await?);
    // A drill's tenant is in no schedule, and rehearses the command.
    let is_drill = scope.tenant.as_ref().is_some_and(TenantId::is_drill);
    if !is_drill && store.schedules(scope.dag.as_ref(), scope.tenant.as_ref(), 1).await?.is_empty() {
        let whose = args.tenant.as_ref().map(|tenant| format!(" for {tenant}")).unwrap_or_default();
        return Err(Failure::usage(format!("DAG {}{whose} is not in force: there is nothing to pause", args.dag))
            .hint("`headworks schedule list` shows who takes what"));
    }
    let is_new = store.pause(&scope, &actor(), args.reason.as_deref()).await?;
    told(session, args, is_new, ("paused", "was paused already"));
    Ok(())
}

async fn resume(session: &Session<'_>, args: &PauseArgs) -> Result<(), Failure> {
    let (scope, store) = (scope(args)?, session.asking().await?);
    let was_there = store.resume(&scope, SystemClock.now()).await?;
    told(session, args, was_there, ("resumed", "was not paused"));
    Ok(())
}

fn told(session: &Session<'_>, args: &PauseArgs, changed: bool, (done, otherwise): (&str, &str)) {
    if session.output.is_json() {
        session.output.document(&json!({ "dag": args.dag, "tenant": args.tenant, "changed": changed }));
        return;
    }
    let whose = args.tenant.as_ref().map(|tenant| format!(" for {tenant}")).unwrap_or_default();
    session.output.line(&format!("{}{whose} {}", args.dag, if changed { done } else { otherwise }));
}

/// What putting the file in force would change.
async fn plan(session: &Session<'_>, name: &str) -> Result<(), Failure> {
    let new = session.project.dag(name, session.output)?;
    let store = session.store(OpenMode::Read).await?;
    let old = store.applied_dag(&new.id).await?;
    let changes = match &old {
        Some(old) => diff(old, &new),
        None => new.tasks().map(|task| (task.id.clone(), TaskChange::Added)).collect(),
    };
    let (now, calendars) = (SystemClock.now(), session.project.calendars()?);
    let fires = |dag: &Dag| -> Result<Vec<String>, Failure> {
        let table = timetable_of(dag, None, &calendars).map_err(|errors| apply::misfits(&errors))?;
        let next = |table: engine::schedule::Timetable| -> Vec<String> {
            table.intervals(now, i64::MAX, Order::Ascending).take(FIRES_SHOWN).map(|fire| rfc3339(fire.at)).collect()
        };
        Ok(table.map(next).unwrap_or_default())
    };
    let before = old.as_deref().map(&fires).transpose()?;
    let open = store.open_runs(&new.id).await?;
    let pools: Vec<&String> = new.tasks().filter_map(|task| task.pool.as_ref()).collect();
    let sizes: Vec<Value> = std::collections::BTreeSet::from_iter(pools)
        .into_iter()
        .map(|pool| json!({ "pool": pool, "slots": session.config.pools.get(pool) }))
        .collect();
    let recomputed: Vec<_> = changes.iter().filter(|(_, change)| change.recomputes()).map(|(task, _)| task).collect();
    let shown: Vec<Value> = changes
        .iter()
        .map(|(task, change)| {
            let mut row = json!(change);
            row["task"] = json!(task);
            row["cache_key_changes"] = json!(change.recomputes() && new.task(task).is_some_and(|task| task.cache));
            row
        })
        .collect();
    let document = json!({
        "dag": new.id, "from_version": old.as_ref().map(|old| old.version.to_string()),
        "to_version": new.version.to_string(), "tasks": shown, "recomputed": recomputed,
        "next_fires": fires(&new)?, "next_fires_before": before,
        "runs_in_flight": open.iter().map(|(version, state, runs)| json!({
            "dag_version": version, "state": state, "runs": runs })).collect::<Vec<_>>(),
        "pools": sizes,
    });
    if session.output.is_json() {
        session.output.document(&document);
    } else {
        print(session, &document);
    }
    Ok(())
}

fn print(session: &Session<'_>, document: &Value) {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let say = |line: String| session.output.line(&line);
    match document["from_version"].as_str() {
        None => say(format!("{} is not in force yet", text(&document["dag"]))),
        Some(from) if Some(from) == document["to_version"].as_str() => say("nothing changes".to_owned()),
        Some(from) => say(format!("{}: {} -> {}", text(&document["dag"]), from, text(&document["to_version"]))),
    }
    for change in list(&document["tasks"]) {
        let mut words = text(&change["change"]);
        let why: Vec<String> = list(&change["keys"]).iter().chain(&list(&change["because"])).map(text).collect();
        if !why.is_empty() {
            words.push_str(&format!(" ({})", why.join(", ")));
        }
        if change["cache_key_changes"] == true {
            words.push_str(", its cache key changes");
        }
        say(format!("  {}: {words}", text(&change["task"])));
    }
    for run in list(&document["runs_in_flight"]) {
        say(format!("{} run(s) {} keep version {}", run["runs"], text(&run["state"]), text(&run["dag_version"])));
    }
    let fires: Vec<String> = list(&document["next_fires"]).iter().map(text).collect();
    if document["next_fires_before"] != document["next_fires"] && !document["next_fires_before"].is_null() {
        let before: Vec<String> = list(&document["next_fires_before"]).iter().map(text).collect();
        say(format!("next fires so far: {}", before.join(", ")));
    }
    say(match fires.is_empty() {
        true => "it fires on request only".to_owned(),
        false => format!("next fires: {}", fires.join(", ")),
    });
    for pool in list(&document["pools"]) {
        say(format!("pool {}: {} slots", text(&pool["pool"]), pool["slots"]));
    }
}
