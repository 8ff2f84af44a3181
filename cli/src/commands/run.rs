//! `headworks run`: creates a run (or takes one up again), executes it here, says how it went.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use engine::artifact::ArtifactStore;
use engine::clock::{Clock, SystemClock, parse_rfc3339};
use engine::executor::{Executor, Settings};
use engine::id::{RunId, TenantId};
use engine::launch::{Request, prepare};
use engine::run::{RunState, is_terminal};
use engine::store::{OpenMode, RunKind, Store, Window};
use serde_json::{Map, Value};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::outcome::Outcome;
use super::{Session, attempt, shapes, tenant};
use crate::args::RunArgs;
use crate::exit::Failure;
use crate::output::Output;
use crate::progress;

/// Runs the command.
pub(super) async fn run(session: &Session<'_>, args: &RunArgs) -> Result<ExitCode, Failure> {
    let (store, whose, id) = match &args.resume {
        Some(run) => take_up(session, run, args).await?,
        None => create(session, args).await?,
    };
    conclude(session, &store, (&whose, id)).await
}

/// Executes a run here to its end and says how it went.
pub(super) async fn conclude(
    session: &Session<'_>,
    store: &Arc<Store>,
    (whose, id): (&TenantId, RunId),
) -> Result<ExitCode, Failure> {
    let artifacts = Arc::new(ArtifactStore::open(&session.config.artifacts.url)?);
    let state = execute(session, store, &artifacts, (whose, id)).await?;
    let outcome = Outcome { output: session.output, store, artifacts: &artifacts, tenant: whose, run: id };
    if session.output.is_json() {
        outcome.document(&Window::default()).await?;
    } else {
        let summary = store.run_summary(whose, id).await?;
        let seconds = summary.seconds.map(|seconds| format!(" in {seconds:.1} s")).unwrap_or_default();
        session.output.line(&format!("\nrun {id} of {} for {whose}: {state}{seconds}\n", summary.dag));
        let view = outcome.table(&Window::default()).await?;
        shapes::judgement(session.output, &view);
        outcome.report_line().await?;
    }
    if state != RunState::Succeeded {
        session
            .output
            .note(&format!("hint: `headworks why {id} TASK` tells why; `headworks retry {id}` runs it again"));
        return Ok(ExitCode::from(4));
    }
    Ok(ExitCode::SUCCESS)
}

async fn create(session: &Session<'_>, args: &RunArgs) -> Result<(Arc<Store>, TenantId, RunId), Failure> {
    let name = args.dag.as_deref().unwrap_or_default();
    let dag = Arc::new(session.project.dag(name, session.output)?);
    let chosen = session.project.tenant_for(&dag.id, tenant(args.tenant.as_deref())?.as_ref())?;
    let mut params = Map::new();
    for given in &args.params {
        let (name, value) = parse_param(&dag, given)?;
        params.insert(name, value);
    }
    let interval = args.interval.as_deref().map(parse_interval).transpose()?;
    let id = RunId::from_uuid(Uuid::now_v7());
    let request = Request {
        run: id,
        dag: Arc::clone(&dag),
        kind: RunKind::Manual,
        tenant: chosen.id.clone(),
        tenant_params: chosen.params_for(&dag.id),
        params,
        seed: args.seed,
        logical_time: interval.map_or_else(|| SystemClock.now(), |(_, end)| end),
        interval,
        queue_rank: None,
        start_at: 0,
    };
    let read = |path: &Path| std::fs::read_to_string(path);
    let new = prepare(request, session.project.kinds(), session.project.dags(), &read)?;
    let store = session.store(OpenMode::Own).await?;
    session.apply_limits(&store).await?;
    store.create_run(&new).await?;
    session.output.note(&format!("run {id} of {} for {}", dag.id, chosen.id));
    Ok((store, chosen.id, id))
}

pub(super) fn parse_param(dag: &engine::dag::Dag, given: &str) -> Result<(String, Value), Failure> {
    let Some((name, text)) = given.split_once('=') else {
        return Err(Failure::usage(format!("--param {given:?} has no value")).hint("write --param name=value"));
    };
    let Some(spec) = dag.params.get(name) else {
        let known = dag.params.keys().cloned().collect::<Vec<_>>().join(", ");
        let message = format!("DAG {} declares no parameter {name:?}", dag.id);
        return Err(Failure::usage(message).hint(format!("it declares: {known}")));
    };
    let value = spec.parse(text).map_err(|problem| {
        let failure = Failure::usage(format!("--param {name}={text}: {}", problem.message));
        match problem.help {
            Some(help) => failure.hint(help),
            None => failure,
        }
    })?;
    Ok((name.to_owned(), value))
}

fn parse_interval(text: &str) -> Result<(i64, i64), Failure> {
    let wrong = |why: &str| {
        Failure::usage(format!("--interval {text:?}: {why}"))
            .hint("write two RFC 3339 instants: 2026-11-01T00:00:00Z/2026-11-02T00:00:00Z")
    };
    let (start, end) = text.split_once('/').ok_or_else(|| wrong("no slash in it"))?;
    let instant = |text| parse_rfc3339(text).map_err(|error| wrong(&error.to_string()));
    let (start, end) = (instant(start)?, instant(end)?);
    if start < end { Ok((start, end)) } else { Err(wrong("it ends before it starts")) }
}

/// Makes a run whose process ended claimable again.
async fn take_up(session: &Session<'_>, run: &str, args: &RunArgs) -> Result<(Arc<Store>, TenantId, RunId), Failure> {
    let store = session.store(OpenMode::Own).await?;
    let (whose, id) = store.find_run(run, tenant(args.tenant.as_deref())?.as_ref()).await?;
    let summary = store.run_summary(&whose, id).await?;
    if args.dag.as_deref().is_some_and(|dag| dag != summary.dag) {
        return Err(Failure::usage(format!("run {id} is one of DAG {}", summary.dag)).hint("leave the DAG out"));
    }
    if is_terminal(summary.state) {
        session.output.note(&format!("run {id} has ended already: {}", summary.state));
        return Ok((store, whose, id));
    }
    wait_for_leases(session.output, &store, &whose, id).await?;
    let lost = store.reclaim(&whose, id).await?;
    store.recompute(&whose, id).await?;
    session.output.note(&format!("run {id} of {} for {whose}: taken up, {lost} attempt(s) were lost", summary.dag));
    Ok((store, whose, id))
}

/// Waits until nobody's lease on the run is in force. Whoever owns an SQLite file knows that all
/// others are gone; on Postgres a lease that is renewed meanwhile belongs to a live process.
async fn wait_for_leases(output: &Output, store: &Store, whose: &TenantId, id: RunId) -> Result<(), Failure> {
    if store.is_owned() {
        return Ok(());
    }
    let mut known: Option<Vec<(engine::id::SessionId, i64)>> = None;
    loop {
        let holders = store.holders(whose, id).await?;
        let alive: Vec<_> = holders.iter().filter(|(_, expires, now)| expires > now).collect();
        let Some(wait) = alive.iter().map(|(_, expires, now)| expires - now).max() else { return Ok(()) };
        let leases: Vec<_> = alive.iter().map(|(session, expires, _)| (*session, *expires)).collect();
        if known.as_ref().is_some_and(|known| leases.iter().any(|lease| !known.contains(lease))) {
            let message = format!("run {id} is being executed by another process, whose lease was just renewed");
            return Err(Failure::usage(message).hint("wait for it, or end it first"));
        }
        if known.is_none() {
            let seconds = Duration::from_micros(wait.unsigned_abs()).as_secs_f64();
            output.note(&format!("the lease of the process that held run {id} ends in {seconds:.0} s; waiting"));
        }
        known = Some(leases);
        tokio::time::sleep(Duration::from_micros(wait.unsigned_abs())).await;
    }
}

/// How attempts run on this machine, as configured.
pub(super) fn settings(session: &Session<'_>) -> Result<Settings, Failure> {
    let config = &session.config.executor;
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Ok(Settings {
        slots: config.slots_on(cores),
        lease_ttl: config.lease_ttl(),
        cancel_grace: config.cancel_grace(),
        // Programs run in folders of their own: what they are told of has to mean the same there.
        project_root: absolute(session.project.root())?,
        scratch_root: absolute(&config.scratch_root())?,
        attempts: attempt::settings(&session.config),
    })
}

pub(super) async fn execute(
    session: &Session<'_>,
    store: &Arc<Store>,
    artifacts: &Arc<ArtifactStore>,
    (whose, id): (&TenantId, RunId),
) -> Result<RunState, Failure> {
    let settings = settings(session)?;
    let kinds = session.project.kinds().clone();
    let executor = Executor::new(Arc::clone(store), Arc::clone(artifacts), kinds, settings);
    let cancel = CancellationToken::new();
    let interrupts = tokio::spawn(on_interrupt(*session.output, cancel.clone()));
    let (sender, receiver) = mpsc::unbounded_channel();
    let drawing = tokio::spawn(progress::draw(*session.output, receiver));
    let ended = executor.run_to_end(whose, id, sender, cancel).await;
    interrupts.abort();
    // The channel is closed by now; what is left is to draw the last line.
    drawing.await.ok();
    Ok(ended?)
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| Failure::file(format!("can not tell where {} is", path.display()), error))
}

/// The first Ctrl-C cancels the run, the second ends this process.
async fn on_interrupt(output: Output, cancel: CancellationToken) {
    if tokio::signal::ctrl_c().await.is_ok() {
        cancel.cancel();
    }
    if tokio::signal::ctrl_c().await.is_ok() {
        output.note("ended at once; `headworks run --resume RUN` goes on");
        std::process::exit(4);
    }
}
