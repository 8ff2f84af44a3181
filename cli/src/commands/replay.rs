//! `headworks replay`: a new run from what an ended one was pinned to, executed here to its end; with
//! `--verify`, compared with what came out then.
//!
//! What runs and what is taken over is `engine::replay`'s to say, how a run is executed that of `run`.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use engine::artifact::ArtifactStore;
use engine::dag::Dag;
use engine::id::{RunId, TenantId};
use engine::launch::{Request, prepare};
use engine::plan::{ReplayAction, Selection};
use engine::replay::{self, Asked, Finding, Proof, Replay, Verdict};
use engine::run::RunState;
use engine::store::{NewRun, OpenMode, Origin, RunKind, Store};
use serde_json::{Map, Value, json};
use uuid::Uuid;

use super::{Session, actor, instance, run as execute, tenant};
use crate::args::{ReplayArgs, ReplayVersion};
use crate::exit::Failure;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &ReplayArgs) -> Result<ExitCode, Failure> {
    let mode = if args.plan { OpenMode::Read } else { OpenMode::Own };
    let store = session.store(mode).await?;
    let (whose, id) = store.find_run(&args.run, tenant(args.tenant.as_deref())?.as_ref()).await?;
    let artifacts = Arc::new(ArtifactStore::open(&session.config.artifacts.url)?);
    let origin = store.origin(&whose, id).await?;
    let latest = latest(session, &origin, args)?;
    let asked = Asked {
        run: RunId::from_uuid(Uuid::now_v7()),
        selection: selection(args)?,
        is_verify: args.verify,
        latest: latest.clone(),
        actor: actor(),
    };
    let made = asked.run;
    let replay = replay::prepare(&origin, &artifacts, asked).await?;
    if args.plan {
        plan(session, &origin, &replay);
        return Ok(ExitCode::SUCCESS);
    }
    replay.check(&origin)?;
    session.apply_limits(&store).await?;
    replay.create(&store).await?;
    let (run, reuse) = (count(&replay, ReplayAction::Run), count(&replay, ReplayAction::Reuse));
    session.output.note(&format!("run {made} for {whose}: replays run {id}, {run} to run, {reuse} reused"));
    if args.verify {
        let bench = Bench { session, store: &store, artifacts: &artifacts, whose: &whose, latest };
        return bench.verify(&origin, &replay, made).await;
    }
    execute::conclude(session, &store, (&whose, made)).await
}

fn count(replay: &Replay, action: ReplayAction) -> usize {
    replay.steps.iter().filter(|step| step.action == action).count()
}

fn selection(args: &ReplayArgs) -> Result<Selection, Failure> {
    Ok(match &args.task {
        Some(task) => {
            let (task, index) = instance(task)?;
            Selection::Task(task, index)
        }
        None if args.all => Selection::All,
        None => Selection::Failed,
    })
}

fn plan(session: &Session<'_>, origin: &Origin, replay: &Replay) {
    let output = session.output;
    if output.is_json() {
        let step = |it: &engine::plan::ReplayStep| {
            json!({
                "task": it.instance.task, "index": it.instance.index, "action": it.action.as_str(), "reason": it.reason,
            })
        };
        let tasks: Vec<_> = replay.steps.iter().map(step).collect();
        output.document(&json!({ "run_id": origin.summary.run_id.to_string(), "tasks": tasks }));
        return;
    }
    let rows = replay.steps.iter().map(|it| vec![it.instance.to_string(), it.action.to_string(), it.reason.clone()]);
    output.table(&["task", "action", "reason"], rows.collect());
}

/// The run as it would be made now; `None` where the earlier one's pins hold.
fn latest(session: &Session<'_>, origin: &Origin, args: &ReplayArgs) -> Result<Option<NewRun>, Failure> {
    if args.version == ReplayVersion::Pinned {
        if args.params.is_empty() {
            return Ok(None);
        }
        let message = "--param changes what a replay is pinned to";
        return Err(Failure::usage(message).hint("add --version latest, or leave the parameters out"));
    }
    let dag = Arc::new(session.project.dag(origin.dag.id.as_str(), session.output)?);
    let whose = session.project.tenant_for(&dag.id, Some(&origin.summary.tenant))?;
    let tenant_params = whose.params_for(&dag.id);
    let mut params = kept_params(origin, &dag, &tenant_params);
    for given in &args.params {
        let (name, value) = execute::parse_param(&dag, given)?;
        params.insert(name, value);
    }
    let request = Request {
        run: origin.summary.run_id,
        dag,
        kind: RunKind::Manual,
        tenant: origin.summary.tenant.clone(),
        tenant_params,
        params,
        seed: origin.summary.seed,
        logical_time: origin.logical_time,
        interval: origin.interval,
        queue_rank: None,
        start_at: 0,
    };
    let read = |path: &Path| std::fs::read_to_string(path);
    Ok(Some(prepare(request, session.project.kinds(), session.project.dags(), &read)?))
}

/// Parameters that somebody set for the earlier run, where the DAG still declares them. A value that came
/// from the default of its version is resolved anew, and so is one that the tenant's file sets now.
fn kept_params(origin: &Origin, dag: &Dag, tenant_params: &Map<String, Value>) -> Map<String, Value> {
    let was_default = |name: &str, value: &Value| {
        origin.dag.params.get(name).and_then(|spec| spec.default.as_ref()).is_some_and(|default| default == value)
    };
    let earlier = origin.params.as_object().into_iter().flatten();
    earlier
        .filter(|(name, value)| {
            dag.params.contains_key(*name) && !tenant_params.contains_key(*name) && !was_default(name, value)
        })
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// What a verification is made with.
struct Bench<'a> {
    session: &'a Session<'a>,
    store: &'a Arc<Store>,
    artifacts: &'a Arc<ArtifactStore>,
    whose: &'a TenantId,
    latest: Option<NewRun>,
}

impl Bench<'_> {
    /// Executes the verification, compares it, and runs again what has to be told apart.
    async fn verify(&self, origin: &Origin, replay: &Replay, made: RunId) -> Result<ExitCode, Failure> {
        let session = self.session;
        let first = self.executed(made).await?;
        let scratch = tempfile::tempdir()
            .map_err(|error| Failure::file("can not make a folder for copies of artifacts", error))?;
        let kinds = session.project.kinds();
        let proof = Proof { store: self.store, artifacts: self.artifacts, kinds, scratch: scratch.path() };
        let mut findings = replay::compare(&proof, (origin, &first), &replay.steps).await?;
        let suspects: Vec<_> = findings.iter().filter(|it| it.is_suspect).map(|it| it.instance.clone()).collect();
        let mut again = None;
        if !suspects.is_empty() {
            let names: Vec<_> = suspects.iter().map(ToString::to_string).collect();
            let run = RunId::from_uuid(Uuid::now_v7());
            session.output.note(&format!("run {run}: once more, to tell why they differ: {}", names.join(", ")));
            let selection = Selection::Only(suspects.into_iter().collect());
            let asked = Asked { run, selection, is_verify: true, latest: self.latest.clone(), actor: actor() };
            let second = replay::prepare(origin, self.artifacts, asked).await?;
            match second.check(origin) {
                Ok(()) => {
                    second.create(self.store).await?;
                    let second = self.executed(run).await?;
                    replay::settle(&mut findings, (&first, &second), kinds);
                    again = Some(run);
                }
                // What was found stands all the same: they differ, and nobody can say why.
                Err(error) => session.output.note(&format!("not run once more: {error}")),
            }
        }
        self.tell(origin, (made, again), &findings);
        let is_proven = findings.iter().all(|it| matches!(it.verdict, Verdict::Identical | Verdict::Reused));
        Ok(if is_proven { ExitCode::SUCCESS } else { ExitCode::from(4) })
    }

    async fn executed(&self, run: RunId) -> Result<Origin, Failure> {
        let state = execute::execute(self.session, self.store, self.artifacts, (self.whose, run)).await?;
        if state == RunState::Canceled {
            return Err(Failure::usage(format!("run {run} was canceled: there is nothing to compare"))
                .hint("run the verification again"));
        }
        Ok(self.store.origin(self.whose, run).await?)
    }

    fn tell(&self, origin: &Origin, (made, again): (RunId, Option<RunId>), findings: &[Finding]) {
        let output = self.session.output;
        if output.is_json() {
            output.document(&json!({
                "run_id": made.to_string(), "parent_run": origin.summary.run_id.to_string(),
                "again_run_id": again.map(|run| run.to_string()),
                "tasks": findings.iter().map(finding).collect::<Vec<_>>(),
            }));
            return;
        }
        output.line("");
        let rows = findings.iter().map(|it| vec![it.instance.to_string(), it.verdict.to_string(), it.detail.clone()]);
        output.table(&["task", "verdict", "detail"], rows.collect());
        for it in findings {
            let differences =
                it.artifacts.iter().filter_map(|one| Some((one.name.to_string(), one.difference.as_ref()?)));
            let outputs = it.outputs.iter().map(|difference| ("outputs".to_owned(), difference));
            for (name, difference) in differences.chain(outputs) {
                for example in difference.examples() {
                    let (at, before, after) = (&example.at, &example.before, &example.after);
                    output.line(&format!("  {} {name}: {at}: {before} -> {after}", it.instance));
                }
            }
        }
    }
}

fn finding(it: &Finding) -> Value {
    let artifacts: Vec<_> = it
        .artifacts
        .iter()
        .map(|one| json!({ "name": one.name, "difference": one.difference, "message": one.words }))
        .collect();
    json!({
        "task": it.instance.task, "index": it.instance.index, "verdict": it.verdict.as_str(), "detail": it.detail,
        "artifacts": artifacts, "outputs": it.outputs,
    })
}
