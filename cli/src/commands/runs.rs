//! `headworks runs`: the list, and one run. What happened in it, what its attempts printed and its cancel have files
//! of their own.

use std::process::ExitCode;

use engine::artifact::ArtifactStore;
use engine::store::{OpenMode, Window};
use serde_json::json;

use super::outcome::Outcome;
use super::{Session, cancel, events, logs, shapes, summary, tenant};
use crate::args::RunsCommand;
use crate::exit::Failure;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &RunsCommand) -> Result<ExitCode, Failure> {
    match command {
        RunsCommand::List { tenant: whose, dag, limit } => {
            list(session, whose.as_deref(), dag.as_deref(), *limit).await?;
        }
        RunsCommand::Show { run, tenant: whose, limit, offset } => {
            let window = Window { offset: *offset, limit: *limit, elements: None };
            show(session, run, whose.as_deref(), &window).await?;
        }
        RunsCommand::Events { run, task, tenant: whose, limit, offset } => {
            let asked = events::Asked { run, task: task.as_deref(), limit: *limit, offset: *offset };
            events::run(session, &asked, whose.as_deref()).await?;
        }
        RunsCommand::Summary { dag, since } => summary::run(session, dag.as_deref(), since.as_deref()).await?,
        RunsCommand::Logs(args) => logs::run(session, args).await?,
        RunsCommand::Cancel { run, tenant: whose } => cancel::run(session, run, whose.as_deref()).await?,
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

async fn show(session: &Session<'_>, run: &str, whose: Option<&str>, window: &Window) -> Result<(), Failure> {
    let store = session.store(OpenMode::Read).await?;
    let (whose, id) = store.find_run(run, tenant(whose)?.as_ref()).await?;
    let artifacts = ArtifactStore::open(&session.config.artifacts.url)?;
    let outcome = Outcome { output: session.output, store: &store, artifacts: &artifacts, tenant: &whose, run: id };
    if session.output.is_json() {
        return outcome.document(window).await;
    }
    let it = store.run_summary(&whose, id).await?;
    session.output.line(&format!("run {} of {} for {}: {}", it.run_id, it.dag, it.tenant, it.state));
    session.output.line(&format!("DAG version {}, seed {}, created {}", it.dag_version, it.seed, it.created_at));
    if let Some(reason) = store.queue_reason(&whose, id).await? {
        session.output.line(&format!("queued: {reason}"));
    }
    session.output.line("");
    outcome.table(window).await?;
    outcome.report_line().await
}
