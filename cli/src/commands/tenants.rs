//! `headworks tenants`: who there is, putting files in force, pauses.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use engine::clock::{Clock, SystemClock, rfc3339};
use engine::id::TenantId;
use engine::store::{OpenMode, PauseScope};
use engine::tenant::TenantSpec;
use serde_json::{Value, json};

use super::{Session, actor};
use crate::exit::Failure;
use crate::plan_args::TenantsCommand;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &TenantsCommand) -> Result<ExitCode, Failure> {
    match command {
        TenantsCommand::List => list(session).await?,
        TenantsCommand::Apply { files } => apply(session, files).await?,
        TenantsCommand::Onboard { file } => onboard(session, file).await?,
        TenantsCommand::Pause { tenant, reason } => pause(session, tenant, reason.as_deref()).await?,
        TenantsCommand::Resume { tenant } => resume(session, tenant).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session<'_>) -> Result<(), Failure> {
    let store = session.store(OpenMode::Read).await?;
    let found = store.tenants().await?;
    if session.output.is_json() {
        let rows: Vec<Value> = found
            .iter()
            .map(|it| {
                json!({
                    "tenant": it.tenant, "status": it.status, "weight": it.weight, "quotas": it.quotas,
                    "queued_runs": it.queued_runs, "active_runs": it.active_runs,
                    "running_tasks": it.running_tasks, "artifact_bytes": it.artifact_bytes,
                })
            })
            .collect();
        session.output.document(&json!({ "tenants": rows }));
        return Ok(());
    }
    let of = |used: u64, quota: Option<u64>| match quota {
        Some(quota) => format!("{used} of {quota}"),
        None => used.to_string(),
    };
    let rows = found.iter().map(|it| {
        vec![
            it.tenant.to_string(),
            it.status.clone(),
            it.weight.to_string(),
            of(it.running_tasks, it.quotas.running_tasks.map(u64::from)),
            of(it.queued_runs, it.quotas.queued_runs.map(u64::from)),
            it.active_runs.to_string(),
            of(it.artifact_bytes, it.quotas.artifact_bytes),
        ]
    });
    let header = ["tenant", "status", "weight", "running tasks", "queued runs", "active runs", "artifact bytes"];
    session.output.table(&header, rows.collect());
    Ok(())
}

fn read(session: &Session<'_>, files: &[PathBuf]) -> Result<Vec<TenantSpec>, Failure> {
    if files.is_empty() {
        return session.project.tenants();
    }
    files.iter().map(|file| session.project.tenant_file(file)?.map_err(Failure::invalid)).collect()
}

async fn apply(session: &Session<'_>, files: &[PathBuf]) -> Result<(), Failure> {
    let tenants = read(session, files)?;
    let (dags, _) = session.project.all_dags()?;
    let store = session.store(OpenMode::Ask).await?;
    let rows = session.apply_strictly(&store, &dags, &tenants).await?;
    if session.output.is_json() {
        let applied: Vec<_> = tenants
            .iter()
            .map(|it| {
                let takes = rows.iter().filter(|row| row.tenant == it.id && row.is_live).map(|row| &row.dag);
                json!({ "tenant": it.id, "status": it.status, "dags": takes.collect::<Vec<_>>() })
            })
            .collect();
        session.output.document(&json!({ "applied": applied }));
        return Ok(());
    }
    for it in &tenants {
        let takes = rows.iter().filter(|row| row.tenant == it.id && row.is_live).count();
        session.output.line(&format!("{}: {}, {takes} DAG(s) live", it.id, it.status.as_str()));
    }
    Ok(())
}

/// One new tenant: its file in force, and what it will run.
async fn onboard(session: &Session<'_>, file: &Path) -> Result<(), Failure> {
    let tenants = read(session, &[file.to_owned()])?;
    let (dags, _) = session.project.all_dags()?;
    for tenant in &tenants {
        let unknown: Vec<String> =
            tenant.dags.keys().filter(|id| !dags.iter().any(|dag| dag.id == **id)).map(ToString::to_string).collect();
        if !unknown.is_empty() {
            let known: Vec<String> = dags.iter().map(|dag| dag.id.to_string()).collect();
            return Err(Failure::usage(format!(
                "tenant {} takes DAGs that are not there: {}",
                tenant.id,
                unknown.join(", ")
            ))
            .hint(format!("there are: {}", known.join(", "))));
        }
    }
    let store = session.store(OpenMode::Ask).await?;
    let rows = session.apply_strictly(&store, &dags, &tenants).await?;
    let shown: Vec<Value> = rows
        .iter()
        .map(|row| {
            json!({ "tenant": row.tenant, "dag": row.dag, "live": row.is_live,
                    "first_run": row.next_at.filter(|_| row.is_live).map(rfc3339), "parameters": row.overlay })
        })
        .collect();
    if session.output.is_json() {
        session.output.document(&json!({ "onboarded": shown }));
        return Ok(());
    }
    for row in &shown {
        let when = row["first_run"].as_str().unwrap_or("on request");
        let (tenant, dag) = (row["tenant"].as_str().unwrap_or_default(), row["dag"].as_str().unwrap_or_default());
        session.output.line(&format!("{tenant} takes {dag}; first run: {when}"));
    }
    Ok(())
}

fn scope(tenant: &str) -> Result<PauseScope, Failure> {
    let id = TenantId::parse(tenant).map_err(|error| Failure::usage(error.to_string()))?;
    Ok(PauseScope { dag: None, tenant: Some(id) })
}

async fn pause(session: &Session<'_>, tenant: &str, reason: Option<&str>) -> Result<(), Failure> {
    let (scope, store) = (scope(tenant)?, session.store(OpenMode::Ask).await?);
    if store.schedules(None, scope.tenant.as_ref(), 1).await?.is_empty() {
        return Err(Failure::usage(format!(
            "tenant {tenant} takes no DAG that is in force: there is nothing to pause"
        ))
        .hint("`headworks tenants list` shows who there is"));
    }
    let changed = store.pause(&scope, &actor(), reason).await?;
    told(session, tenant, changed, if changed { "paused" } else { "was paused already" });
    Ok(())
}

async fn resume(session: &Session<'_>, tenant: &str) -> Result<(), Failure> {
    let (scope, store) = (scope(tenant)?, session.store(OpenMode::Ask).await?);
    let changed = store.resume(&scope, SystemClock.now()).await?;
    told(session, tenant, changed, if changed { "resumed" } else { "was not paused" });
    Ok(())
}

fn told(session: &Session<'_>, tenant: &str, changed: bool, words: &str) {
    if session.output.is_json() {
        session.output.document(&json!({ "tenant": tenant, "changed": changed }));
    } else {
        session.output.line(&format!("{tenant} {words}"));
    }
}
