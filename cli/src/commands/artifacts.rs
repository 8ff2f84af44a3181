//! `headworks artifacts`: what a run published, and a checked copy of one.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use engine::artifact::ArtifactStore;
use engine::store::{OpenMode, RunView};
use serde_json::json;

use super::{Session, bisect, lineage, shapes, tenant, verify};
use crate::args::ArtifactsCommand;
use crate::exit::Failure;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &ArtifactsCommand) -> Result<ExitCode, Failure> {
    match command {
        ArtifactsCommand::List { run, tenant: whose } => list(session, run, whose.as_deref()).await?,
        ArtifactsCommand::Get { run, task, name, output, tenant: whose } => {
            let view = view(session, run, whose.as_deref()).await?;
            let path = output.clone().unwrap_or_else(|| PathBuf::from(name));
            get(session, &view, (task, name), &path).await?;
        }
        ArtifactsCommand::Verify { run, tenant: whose } => {
            return verify::run(session, run.as_deref(), whose.as_deref()).await;
        }
        ArtifactsCommand::Lineage(args) => lineage::run(session, args).await?,
        ArtifactsCommand::Bisect(args) => bisect::run(session, args).await?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn view(session: &Session<'_>, run: &str, whose: Option<&str>) -> Result<RunView, Failure> {
    let store = session.store(OpenMode::Read).await?;
    let (whose, id) = store.find_run(run, tenant(whose)?.as_ref()).await?;
    Ok(store.run_view(&whose, id).await?)
}

async fn list(session: &Session<'_>, run: &str, whose: Option<&str>) -> Result<(), Failure> {
    let view = view(session, run, whose).await?;
    if session.output.is_json() {
        let artifacts: Vec<_> = view.artifacts.iter().map(shapes::artifact).collect();
        session.output.document(&json!({ "run_id": view.summary.run_id.to_string(), "artifacts": artifacts }));
        return Ok(());
    }
    let rows = view.artifacts.iter().map(|it| {
        let labels = [
            it.producer.to_string(),
            it.artifact.name.to_string(),
            it.artifact.bytes.to_string(),
            it.artifact.rows.map(|rows| rows.to_string()).unwrap_or_default(),
            it.artifact.digest.to_string(),
        ];
        labels.to_vec()
    });
    session.output.table(&["task", "name", "bytes", "rows", "digest"], rows.collect());
    Ok(())
}

async fn get(session: &Session<'_>, view: &RunView, (task, name): (&str, &str), path: &Path) -> Result<(), Failure> {
    let found = view.artifacts.iter().find(|it| it.producer.to_string() == task && it.artifact.name.as_str() == name);
    let Some(found) = found else {
        let message = format!("run {} has no artifact {name} of task {task}", view.summary.run_id);
        return Err(Failure::usage(message)
            .hint(format!("`headworks artifacts list {}` shows what there is", view.summary.run_id)));
    };
    let bytes = ArtifactStore::open(&session.config.artifacts.url)?.read(&found.artifact).await?;
    if path == Path::new("-") {
        return session.output.raw(&bytes).map_err(|error| Failure::file("can not write to standard output", error));
    }
    std::fs::write(path, &bytes).map_err(|error| Failure::file(format!("can not write {}", path.display()), error))?;
    if session.output.is_json() {
        let mut document = shapes::artifact(found);
        if let Some(fields) = document.as_object_mut() {
            fields.insert("path".into(), json!(path));
        }
        session.output.document(&document);
    } else {
        session.output.line(&format!("{} ({} bytes, digest checked)", path.display(), bytes.len()));
    }
    Ok(())
}
