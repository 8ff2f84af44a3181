//! `headworks serve` and `headworks worker`: execute whatever is ready, until SIGTERM.
//!
//! Both do the scheduler's chores: each is safe to run in several processes at once, and a fleet of
//! workers without a server loses nothing.

use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use engine::artifact::ArtifactStore;
use engine::clock::{Clock, SystemClock};
use engine::config::Config;
use engine::executor::{Executor, Progress};
use engine::launch::Launcher;
use engine::scheduler::maintenance::retention;
use engine::scheduler::{self, Counters, Intervals};
use engine::store::{OpenMode, Store};
use engine::tenant::Retention;
use server::Server;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Session, run::settings};
use crate::args::{ServeArgs, WorkerArgs};
use crate::exit::Failure;
use crate::output::Output;

/// Runs `serve`.
pub(super) async fn serve(session: &Session<'_>, args: &ServeArgs) -> Result<ExitCode, Failure> {
    let store = session.store(OpenMode::Own).await?;
    let failed = |error| Failure::file(format!("can not listen on {}", args.listen), error);
    let (listener, address) = server::bind(args.listen).await.map_err(failed)?;
    let (drain, stop, counters) = (on_signal()?, CancellationToken::new(), Arc::new(Counters::default()));
    let shared = Server { store: Arc::clone(&store), counters: Arc::clone(&counters), drain: drain.clone() };
    let http = tokio::spawn(server::serve(listener, shared, stop.clone()));
    session.output.note(&format!("serving http://{address} with {}", store.url()));
    session.apply_project(&store).await?;
    let launcher = launcher(session);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let intervals = intervals(session);
    let making =
        scheduler::make_runs((Arc::clone(&store), launcher), clock, intervals, Arc::clone(&counters), stop.clone());
    let making = tokio::spawn(making);
    let sweeping = tokio::spawn(sweep(Arc::clone(&store), session.config.clone(), stop.clone()));
    let ended = work(session, &store, ("serve", args.slots), counters, drain).await;
    stop.cancel();
    making.await.ok();
    sweeping.await.ok();
    http.await.map_err(|error| Failure::bug("the HTTP server ended", error))?.map_err(failed)?;
    ended
}

/// Runs `worker`.
pub(super) async fn worker(session: &Session<'_>, args: &WorkerArgs) -> Result<ExitCode, Failure> {
    let store = session.store(OpenMode::Own).await?;
    if store.is_owned() {
        let message = "an SQLite database has one process: `headworks serve` works, too";
        return Err(Failure::usage(message).hint("set HEADWORKS_STORE_URL to a Postgres URL for more workers"));
    }
    session.output.note(&format!("working for {}", store.url()));
    work(session, &store, ("worker", args.slots), Arc::new(Counters::default()), on_signal()?).await
}

async fn work(
    session: &Session<'_>,
    store: &Arc<Store>,
    (kind, slots): (&'static str, Option<usize>),
    counters: Arc<Counters>,
    drain: CancellationToken,
) -> Result<ExitCode, Failure> {
    session.apply_limits(store).await?;
    let artifacts = Arc::new(ArtifactStore::open(&session.config.artifacts.url)?);
    let mut settings = settings(session)?;
    settings.slots = slots.unwrap_or(settings.slots);
    let intervals = intervals(session);
    let stop = CancellationToken::new();
    let chores = tokio::spawn(scheduler::run(Arc::clone(store), intervals, counters, stop.clone()));
    let relay = tokio::spawn(Arc::clone(store).relay_wake_ups());
    let kinds = session.project.kinds().clone();
    let executor = Executor::new(Arc::clone(store), artifacts, kinds, settings);
    let (sender, receiver) = mpsc::unbounded_channel();
    let telling = tokio::spawn(tell(*session.output, receiver));
    let grace = Duration::from_secs_f64(session.config.executor.drain_grace_seconds);
    let ended = executor.serve(kind, sender, drain, grace).await;
    stop.cancel();
    relay.abort();
    chores.await.ok();
    telling.await.ok();
    ended?;
    Ok(ExitCode::SUCCESS)
}

/// How often the chores run, as configured.
fn intervals(session: &Session<'_>) -> Intervals {
    let config = &session.config.scheduler;
    Intervals {
        reap: Duration::from_secs_f64(config.reap_seconds),
        expire: Duration::from_secs_f64(config.reap_seconds),
        reconcile: Duration::from_secs_f64(config.reconcile_seconds),
        tick: Duration::from_secs_f64(config.tick_seconds),
        watch: Duration::from_secs_f64(config.watch_seconds),
        lease_ttl: session.config.executor.lease_ttl(),
    }
}

/// Deletes what is kept no longer, until `stop` fires.
async fn sweep(store: Arc<Store>, config: Config, stop: CancellationToken) {
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = keep_sweeping(store, config) => {}
    }
}

async fn keep_sweeping(store: Arc<Store>, config: Config) {
    let it = &config.retention;
    let days = |days: u32| (days > 0).then(|| Duration::from_secs(u64::from(days) * 86_400));
    let defaults =
        Retention { runs: days(it.runs_days), artifacts: days(it.artifacts_days), events: days(it.events_days) };
    let grace = Duration::from_secs_f64(it.orphan_hours * 3_600.0);
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(it.sweep_hours * 3_600.0));
    loop {
        ticks.tick().await;
        let artifacts = match ArtifactStore::open(&config.artifacts.url) {
            Ok(artifacts) => artifacts,
            Err(error) => {
                tracing::warn!(%error, "can not look for what is kept no longer");
                continue;
            }
        };
        match retention::run_once(&store, &artifacts, (&defaults, grace), SystemClock.now()).await {
            Ok(swept) if swept != retention::Swept::default() => {
                tracing::info!(?swept, "deleted what is kept no longer")
            }
            Ok(_) => {}
            Err(error) => tracing::warn!(%error, "can not delete what is kept no longer"),
        }
        if let Some(kept) = days(config.drill.keep_days)
            && let Err(error) = retention::sweep_drills(&store, &artifacts, kept, SystemClock.now()).await
        {
            tracing::warn!(%error, "can not delete old drills");
        }
    }
}

/// Makes runs from the project's files.
fn launcher(session: &Session<'_>) -> Launcher {
    let catalog = Arc::new(session.project.kinds().clone());
    Launcher::new(catalog, session.project.dags().to_owned(), Arc::new(|path: &Path| std::fs::read_to_string(path)))
}

/// One line per end of an attempt: what a supervisor's log keeps.
async fn tell(output: Output, mut progress: mpsc::UnboundedReceiver<Progress>) {
    while let Some(message) = progress.recv().await {
        match message {
            Progress::Finished { instance, state, reason, elapsed } => {
                let why = reason.map(|reason| format!(": {reason}")).unwrap_or_default();
                output.note(&format!("{instance} {state} after {:.3} s{why}", elapsed.as_secs_f64()));
            }
            Progress::Refused { instance } => output.note(&format!("{instance}: its report came too late")),
            Progress::Started { .. } | Progress::Canceling => {}
        }
    }
}

/// Fires with the first SIGTERM or SIGINT; the second ends this process at once.
fn on_signal() -> Result<CancellationToken, Failure> {
    let failed = |error| Failure::file("can not listen for signals", error);
    let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
    let drain = CancellationToken::new();
    let fired = drain.clone();
    tokio::spawn(async move {
        for round in 0..2 {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
            if round == 1 {
                std::process::exit(1);
            }
            fired.cancel();
        }
    });
    Ok(drain)
}
