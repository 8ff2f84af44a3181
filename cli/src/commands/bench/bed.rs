//! What a workload stands on: a store, an executor of no-ops, and what counts.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::artifact::ArtifactStore;
use engine::dag::{Dag, lower};
use engine::executor::{AttemptSettings, Executor, ExecutorError, Progress, Settings};
use engine::id::{RunId, TenantId};
use engine::run::TaskState;
use engine::store::{NewRun, OpenMode, RunKind, Store};
use serde_json::json;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::noop::{self, Began};
use crate::args::BenchArgs;
use crate::commands::{Session, attempt};
use crate::exit::Failure;

/// Commits of the floor's measurement.
const FLOOR_COMMITS: u32 = 1_000;

/// See the module.
pub(super) struct Bed {
    pub(super) store: Arc<Store>,
    kinds: engine::task::Kinds,
    settings: Settings,
    artifacts: Arc<ArtifactStore>,
    isolation: &'static str,
    pub(super) began: Mutex<mpsc::UnboundedReceiver<Began>>,
    _folder: tempfile::TempDir,
}

/// An executor that serves until it is told to stop.
pub(super) struct Serving {
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ExecutorError>>,
    pub(super) progress: mpsc::UnboundedReceiver<Progress>,
}

impl Bed {
    pub(super) async fn open(session: &Session<'_>, args: &BenchArgs) -> Result<Self, Failure> {
        let folder = tempfile::tempdir().map_err(|error| Failure::file("can not make a folder", error))?;
        let url = match &args.store {
            Some(url) => url.clone(),
            None => format!("sqlite://{}/bench.db", folder.path().display()),
        };
        let (kinds, began) = noop::kinds();
        let store = Arc::new(Store::open(&url, OpenMode::Own, Arc::new(kinds.clone())).await?);
        let foreign = store.runs(None, None, 1).await?.into_iter().find(|run| run.dag != "bench");
        if let Some(run) = foreign {
            let message = format!("{} holds runs of DAG {}: a benchmark would take their tasks", store.url(), run.dag);
            return Err(Failure::usage(message).hint("name an empty database with --store"));
        }
        let config = &session.config.executor;
        let settings = Settings {
            slots: args.slots,
            lease_ttl: config.lease_ttl(),
            cancel_grace: config.cancel_grace(),
            project_root: session.project.root().to_owned(),
            scratch_root: folder.path().join("scratch"),
            attempts: AttemptSettings { store_url: url.clone(), ..attempt::settings(&session.config) },
        };
        let artifacts = Arc::new(ArtifactStore::open(&folder.path().join("objects").display().to_string())?);
        Ok(Self {
            store,
            kinds,
            settings,
            artifacts,
            isolation: args.isolation.name(),
            began: Mutex::new(began),
            _folder: folder,
        })
    }

    /// The database's URL, without its password.
    pub(super) fn url(&self) -> &str {
        self.store.url()
    }

    /// The database's URL, for a process that has to connect.
    pub(super) fn full_url(&self) -> &str {
        &self.settings.attempts.store_url
    }

    pub(super) fn isolation(&self) -> &'static str {
        self.isolation
    }

    pub(super) fn kinds(&self) -> &engine::task::Kinds {
        &self.kinds
    }

    pub(super) fn slots(&self) -> usize {
        self.settings.slots
    }

    /// Single-row durable commits per second, by one client.
    pub(super) async fn floor(&self) -> Result<f64, Failure> {
        let took = self.store.measure_commits(FLOOR_COMMITS).await?;
        Ok(f64::from(FLOOR_COMMITS) / took.as_secs_f64())
    }

    /// A DAG of the benchmark, its attempts isolated as asked.
    pub(super) fn dag(&self, toml: &str) -> Result<Arc<Dag>, Failure> {
        let isolation = self.isolation;
        let toml = format!("{toml}\n[defaults]\nisolation = \"{isolation}\"\n");
        let (dag, _) = lower("bench.toml", &toml, &self.kinds).map_err(Failure::invalid)?;
        Ok(Arc::new(dag))
    }

    pub(super) fn run(&self, tenant: &str, dag: &Arc<Dag>) -> Result<NewRun, Failure> {
        Ok(NewRun {
            tenant: TenantId::parse(tenant).map_err(|error| Failure::usage(error.to_string()))?,
            run: RunId::from_uuid(Uuid::now_v7()),
            dag: Arc::clone(dag),
            kind: RunKind::Manual,
            seed: 0,
            params: json!({}),
            tenant_params: json!({ "id": tenant }),
            logical_time: 0,
            interval: None,
            queue_rank: 0,
            start_at: 0,
            documents: Vec::new(),
            faults: Vec::new(),
        })
    }

    /// Executes a run here to its end; returns how long that took, from before its creation.
    pub(super) async fn execute(&self, new: &NewRun) -> Result<Duration, Failure> {
        let executor = self.executor();
        let started = Instant::now();
        self.store.create_run(new).await?;
        let (sender, _) = mpsc::unbounded_channel();
        executor.run_to_end(&new.tenant, new.run, sender, CancellationToken::new()).await?;
        Ok(started.elapsed())
    }

    fn executor(&self) -> Executor {
        let (store, artifacts) = (Arc::clone(&self.store), Arc::clone(&self.artifacts));
        Executor::new(store, artifacts, self.kinds.clone(), self.settings.clone())
    }

    /// Starts an executor that takes whatever is ready.
    pub(super) fn serve(&self) -> Serving {
        let (executor, stop) = (self.executor(), CancellationToken::new());
        let (sender, progress) = mpsc::unbounded_channel();
        let drain = stop.clone();
        let ended = tokio::spawn(async move { executor.serve("bench", sender, drain, Duration::from_secs(5)).await });
        Serving { stop, ended, progress }
    }
}

impl Serving {
    /// Returns when that many attempts have succeeded.
    pub(super) async fn succeeded(&mut self, mut attempts: usize) {
        while attempts > 0 {
            match self.progress.recv().await {
                Some(Progress::Finished { state: TaskState::Succeeded, .. }) => attempts -= 1,
                Some(_) => {}
                None => return,
            }
        }
    }

    pub(super) async fn stop(self) -> Result<(), Failure> {
        self.stop.cancel();
        self.ended.await.map_err(|error| Failure::bug("the executor's task ended", error))??;
        Ok(())
    }
}

/// The most memory that this process has held, in bytes.
pub(super) fn peak_rss() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok().map(|kib| kib * 1024)
}
