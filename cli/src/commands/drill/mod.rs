//! `headworks drill`: rehearses a runbook and keeps what came of it; lists and shows earlier rehearsals.
//!
//! `stage` makes the drill tenants and their inputs, `perform` does the steps, `expect` looks at what has to hold,
//! `evidence` writes it down. The steps are commands of this very binary, given as a person would give them, so that
//! what is rehearsed is what the runbook says. Faults of attempts are the engine's to inject (`engine::drill`).

mod evidence;
mod expect;
mod input;
mod page;
mod perform;
mod stage;

use std::path::Path;
use std::process::ExitCode;

use engine::clock::{Clock, SystemClock, rfc3339};
use engine::drill::{Drill, parse};
use engine::store::{DrillView, NewDrill, OpenMode};
use serde_json::{Value, json};

use self::evidence::Evidence;
use self::perform::Performance;
use self::stage::Stage;
use super::Session;
use crate::exit::Failure;
use crate::project::Project;
use crate::repair_args::{DrillCommand, DrillRunArgs};

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, command: &DrillCommand) -> Result<ExitCode, Failure> {
    match command {
        DrillCommand::Run(args) => rehearse(session, args).await,
        DrillCommand::List { drill, limit } => list(session, drill.as_deref(), *limit).await,
        DrillCommand::Show { drill, evidence } => show(session, drill, evidence.as_deref()).await,
    }
}

/// A drill's file.
pub(crate) fn read(file: &Path) -> Result<Drill, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::file(format!("can not read the drill {}", file.display()), error))?;
    parse(&file.display().to_string(), &text).map(|(drill, _)| drill).map_err(Failure::invalid)
}

async fn rehearse(session: &Session<'_>, args: &DrillRunArgs) -> Result<ExitCode, Failure> {
    let drill = read(&args.file)?;
    let runbook = args.file.with_file_name(&drill.runbook);
    if !runbook.exists() {
        let message = format!("the drill {} rehearses {}, which is not there", drill.id, runbook.display());
        return Err(Failure::usage(message).hint("a drill lies beside its runbook"));
    }
    if args.scratch && drill.subject.clone_of.is_some() {
        let message = format!("the drill {} clones a run, of which a database of its own knows nothing", drill.id);
        return Err(Failure::usage(message).hint("leave --scratch out, or `clone` in [run]"));
    }
    let scratch = if args.scratch { Some(Scratch::of(session)?) } else { None };
    let session = scratch.as_ref().map_or(session, |scratch| &scratch.session);
    let started_at = SystemClock.now();
    let stage = Stage::set(session, drill, args.clone.as_deref()).await?;
    let performance = Performance::of(&stage).await;
    let finished_at = SystemClock.now();
    let evidence = Evidence::gather(&stage, &performance, (started_at, finished_at)).await?;
    let folder = args.evidence.clone().unwrap_or_else(|| stage.evidence_folder());
    let files = evidence::write(&evidence.document, &folder)?;
    let verdict = if performance.holds() { "passed" } else { "failed" };
    let kept = NewDrill {
        drill: stage.drill.id.clone(),
        id: stage.id.to_string(),
        verdict: verdict.to_owned(),
        started_at,
        finished_at,
        evidence: evidence.document.clone(),
    };
    if let Err(failure) = keep(session, &kept).await {
        // What was found is in the files all the same.
        files.iter().for_each(|file| session.output.note(&format!("evidence: {file}")));
        return Err(failure);
    }
    tell(session, &evidence.document, &files);
    Ok(if performance.holds() { ExitCode::SUCCESS } else { ExitCode::from(4) })
}

async fn keep(session: &Session<'_>, drill: &NewDrill) -> Result<(), Failure> {
    Ok(session.asking().await?.keep_drill(drill).await?)
}

/// A session over a store and an artifact store that are gone afterwards.
struct Scratch<'a> {
    session: Session<'a>,
    _folder: tempfile::TempDir,
}

impl<'a> Scratch<'a> {
    fn of(session: &Session<'a>) -> Result<Self, Failure> {
        let folder =
            tempfile::tempdir().map_err(|error| Failure::file("can not make a folder for the drill", error))?;
        let mut config = session.config.clone();
        config.store.url = format!("sqlite://{}", folder.path().join("headworks.db").display());
        config.artifacts.url = folder.path().join("objects").display().to_string();
        // The command restarts the configured database, which is none of this drill's.
        config.drill.restart_database = Vec::new();
        let project = Project::new(&config);
        let config_file = session.config_file.clone();
        Ok(Self { session: Session { output: session.output, config, project, config_file }, _folder: folder })
    }
}

fn tell(session: &Session<'_>, evidence: &Value, files: &[String]) {
    let output = session.output;
    if output.is_json() {
        output.document(&json!({
            "drill": evidence["drill"], "id": evidence["id"], "verdict": evidence["verdict"],
            "expectations": evidence["expectations"], "evidence": files, "seconds": evidence["seconds"],
        }));
        return;
    }
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let rows = evidence["expectations"].as_array().into_iter().flatten().map(|it| {
        let word = if it["passed"] == true { "holds" } else { "DOES NOT HOLD" };
        vec![word.to_owned(), text(&it["name"]), text(&it["detail"])]
    });
    output.line("");
    output.table(&["", "expectation", "found"], rows.collect());
    output.line(&format!(
        "\ndrill {}: {} after {} s",
        text(&evidence["drill"]),
        text(&evidence["verdict"]),
        evidence["seconds"]
    ));
    for file in files {
        output.line(&format!("evidence: {file}"));
    }
}

fn line(it: &DrillView) -> Value {
    let failed = it.evidence["expectations"].as_array().into_iter().flatten().filter(|it| it["passed"] == false);
    json!({
        "drill": it.drill, "id": it.id, "verdict": it.verdict, "started_at": rfc3339(it.started_at),
        "seconds": it.evidence["seconds"], "failed": failed.map(|it| it["name"].clone()).collect::<Vec<_>>(),
        "detection_seconds": it.evidence["detection_seconds"], "recovery_seconds": it.evidence["recovery_seconds"],
    })
}

async fn list(session: &Session<'_>, drill: Option<&str>, limit: u64) -> Result<ExitCode, Failure> {
    let store = session.store(OpenMode::Read).await?;
    let drills = store.drills(drill, limit).await?;
    if session.output.is_json() {
        session.output.document(&json!({ "drills": drills.iter().map(line).collect::<Vec<_>>() }));
        return Ok(ExitCode::SUCCESS);
    }
    let shown = |value: &Value| value.as_f64().map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
    let rows = drills.iter().map(|it| {
        let line = line(it);
        let failed: Vec<_> = line["failed"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        vec![
            it.drill.clone(),
            it.id.clone(),
            it.verdict.clone(),
            rfc3339(it.started_at),
            shown(&line["seconds"]),
            shown(&line["detection_seconds"]),
            shown(&line["recovery_seconds"]),
            failed.join("; "),
        ]
    });
    let header = ["drill", "id", "verdict", "started", "took", "detected after", "recovered after", "does not hold"];
    session.output.table(&header, rows.collect());
    Ok(ExitCode::SUCCESS)
}

async fn show(session: &Session<'_>, named: &str, folder: Option<&Path>) -> Result<ExitCode, Failure> {
    let store = session.store(OpenMode::Read).await?;
    let found = store.drills(Some(named), 1).await?;
    let Some(it) = found.first() else {
        let message = format!("no drill {named:?} is on record");
        return Err(Failure::usage(message).hint("`headworks drill list` shows those that are"));
    };
    if let Some(folder) = folder {
        let files = evidence::write(&it.evidence, folder)?;
        tell(session, &it.evidence, &files);
    } else if session.output.is_json() {
        session.output.document(&it.evidence);
    } else {
        tell(session, &it.evidence, &[]);
    }
    Ok(ExitCode::SUCCESS)
}
