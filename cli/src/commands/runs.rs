//! `headworks runs`: the list, and one run whole. What its attempts printed is in `logs`.

use std::process::ExitCode;

use engine::artifact::ArtifactStore;
use engine::store::OpenMode;
use serde_json::json;

use super::{Session, logs, shapes, tenant};
use crate::args::RunsCommand;
use crate::exit::Failure;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &RunsCommand) -> Result<ExitCode, Failure> {
    match command {
        RunsCommand::List { tenant: whose, dag, limit } => {
            list(session, whose.as_deref(), dag.as_deref(), *limit).await?;
        }
        RunsCommand::Show { run, tenant: whose } => show(session, run, whose.as_deref()).await?,
        RunsCommand::Logs(args) => logs::run(session, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(session: &Session<'_>, whose: Option<&str>, dag: Option<&str>, limit: u64) -> Result<(), Failure> {
    let store = session.store(OpenMode::Read).await?;
    let runs = store.runs(tenant(whose)?.as_ref(), dag, limit).await?;
    if session.output.is_json() {
        let runs: Vec<_> = runs.iter().map(shapes::summary).collect();
        session.output.document(&json!({ "runs": runs }));
        return Ok(());
    }
    let rows = runs.iter().map(|it| {
        let seconds = it.seconds.map(|seconds| format!("{seconds:.1} s")).unwrap_or_default();
        let labels = [
            it.run_id.to_string(),
            it.dag.clone(),
            it.tenant.to_string(),
            it.kind.clone(),
            it.state.to_string(),
            it.created_at.clone(),
            seconds,
        ];
        labels.to_vec()
    });
    session.output.table(&["run", "dag", "tenant", "kind", "state", "created", "time"], rows.collect());
    Ok(())
}

async fn show(session: &Session<'_>, run: &str, whose: Option<&str>) -> Result<(), Failure> {
    let store = session.store(OpenMode::Read).await?;
    let (whose, id) = store.find_run(run, tenant(whose)?.as_ref()).await?;
    let view = store.run_view(&whose, id).await?;
    let artifacts = ArtifactStore::open(&session.config.artifacts.url)?;
    let report = shapes::report(&view, &artifacts);
    if session.output.is_json() {
        session.output.document(&shapes::run(&view, report.as_deref()));
        return Ok(());
    }
    let it = &view.summary;
    session.output.line(&format!("run {} of {} for {}: {}", it.run_id, it.dag, it.tenant, it.state));
    session.output.line(&format!("DAG version {}, seed {}, created {}", it.dag_version, it.seed, it.created_at));
    session.output.line("");
    shapes::task_table(session.output, &view);
    if let Some(report) = report {
        session.output.line(&format!("\nreport: {report}"));
    }
    Ok(())
}
