//! What a scenario stands in: a project, a database, an effect ledger, processes, and dice.
//!
//! Scenarios start processes and submit runs here; [`World::judge`] ends what still runs and asks the
//! checker. The database's password is a canary, which tasks have as a secret, too: it may appear nowhere.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use engine::clock::{Clock, SystemClock};
use engine::dag::{Dag, TriggerRule, lower};
use engine::id::{RunId, TenantId};
use engine::launch::{Launcher, Request};
use engine::run::{RunState, is_terminal};
use engine::store::{OpenMode, RunKind, RunView, Store};
use engine::task::Kinds;
use nix::sys::signal::Signal;
use serde_json::Map;
use testkit::{Cluster, Database, Dice, Evidence, Ledger, S3Server, Sampler, TABLES, check, repairs};
use uuid::Uuid;

use super::process::{LOOK, Process};
use crate::bench::Bench;

/// A session lives so long without a heartbeat, in seconds: short, so that scenarios are.
pub(crate) const TTL: Duration = Duration::from_secs(3);

/// Longer than anything takes that does not hang, on a machine with other things to do.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Sqlite,
    /// A database of the tests' server.
    Postgres,
    /// A server of its own, which may be restarted.
    OwnPostgres,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        if self == Self::Sqlite { "sqlite" } else { "postgres" }
    }
}

/// What the checker found in one run of a scenario.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) violations: AtomicUsize,
    pub(crate) repairs: AtomicUsize,
}

/// A run that was acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Submitted {
    pub(crate) tenant: TenantId,
    pub(crate) run: RunId,
}

/// See the module. Fields drop in order: processes first.
pub(crate) struct World {
    processes: Vec<Process>,
    name: String,
    tally: Arc<Tally>,
    pub(crate) seed: u64,
    pub(crate) dice: Dice,
    pub(crate) ledger: Ledger,
    pub(crate) bench: Bench,
    kinds: Kinds,
    store: Option<Arc<Store>>,
    sampler: Option<Sampler>,
    edges: BTreeMap<String, Vec<(String, String)>>,
    dags: BTreeMap<String, Arc<Dag>>,
    acknowledged: Vec<String>,
    logs: Vec<PathBuf>,
    canary: String,
    /// Where objects are, if not in the project's folder: below the prefix `chaos`.
    pub(crate) s3: Option<S3Server>,
    may_be_left: bool,
    url: String,
    database: Option<Database>,
    pub(crate) cluster: Option<Cluster>,
}

impl World {
    pub(crate) fn new(name: &str, seed: u64, kind: Kind, tally: Arc<Tally>) -> Self {
        let mut bench = Bench::new();
        let cluster = (kind == Kind::OwnPostgres).then(testkit::own_cluster);
        let database = match kind {
            Kind::Sqlite => None,
            Kind::Postgres => Some(testkit::postgres()),
            Kind::OwnPostgres => cluster.as_ref().map(|it| it.server().create_database().expect("a database")),
        };
        let url = match &database {
            Some(database) => database.url(),
            None => format!("sqlite://{}", bench.path("hw.db").display()),
        };
        let canary = format!("canary{}", Uuid::new_v4().simple());
        std::fs::create_dir(bench.path("logs")).expect("a folder");
        for (key, value) in [
            ("EXECUTOR_LEASE_TTL_SECONDS", TTL.as_secs().to_string()),
            ("SCHEDULER_REAP_SECONDS", "0.5".to_owned()),
            ("SCHEDULER_RECONCILE_SECONDS", "1".to_owned()),
            ("EXECUTOR_CANCEL_GRACE_SECONDS", "2".to_owned()),
            ("EXECUTOR_SLOTS", "2".to_owned()),
            ("STORE_TIMEOUT_SECONDS", "2".to_owned()),
            ("EXECUTOR_SCRATCH", bench.path("scratch").display().to_string()),
            ("SECRETS_FOLDER", bench.path("secrets").display().to_string()),
        ] {
            bench.set(&format!("HEADWORKS_{key}"), value);
        }
        bench.set("HEADWORKS_STORE_URL", secret_url(&url, &canary));
        let mut kinds = Kinds::new();
        tasks::register(&mut kinds);
        Self {
            processes: Vec::new(),
            name: format!("{name}-{}-seed{seed}", kind.name()),
            tally,
            seed,
            dice: Dice::new(seed, name),
            ledger: Ledger::at(bench.path("ledger")),
            bench,
            kinds,
            store: None,
            sampler: None,
            edges: BTreeMap::new(),
            dags: BTreeMap::new(),
            acknowledged: Vec::new(),
            logs: Vec::new(),
            canary,
            s3: None,
            may_be_left: false,
            url,
            database,
            cluster,
        }
    }

    /// The database's URL, without the canary.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Registers a DAG and writes its file.
    pub(crate) fn dag(&mut self, toml: &str) -> Arc<Dag> {
        // A DAG's id is the stem of its file.
        let id = toml.split("id = \"").nth(1).and_then(|rest| rest.split('"').next()).expect("an id");
        let (dag, _) =
            lower(&format!("{id}.toml"), toml, &self.kinds).unwrap_or_else(|wrong| panic!("{:#?}", wrong.items));
        let dag = Arc::new(dag);
        self.bench.write(&format!("dags/{}.toml", dag.id), toml);
        let mut edges = Vec::new();
        for task in dag.tasks().filter(|task| task.trigger_rule == TriggerRule::AllSuccess) {
            edges.extend(task.needs.iter().map(|parent| (parent.to_string(), task.id.to_string())));
        }
        self.edges.insert(dag.id.to_string(), edges);
        self.dags.insert(dag.id.to_string(), Arc::clone(&dag));
        dag
    }

    /// The store, in this process. On SQLite only while no server runs.
    pub(crate) async fn store(&mut self) -> Arc<Store> {
        if let Some(store) = &self.store {
            return Arc::clone(store);
        }
        let store = Arc::new(self.open(&self.url).await);
        if self.database.is_some() {
            self.store = Some(Arc::clone(&store));
        }
        store
    }

    /// Another store on `url`, with its own connections.
    pub(crate) async fn open(&self, url: &str) -> Store {
        Store::open(url, OpenMode::Own, Arc::new(self.kinds.clone())).await.expect("opens")
    }

    /// What may appear nowhere.
    pub(crate) fn canary(&self) -> &str {
        &self.canary
    }

    /// A run as it would be made, not made yet. Its tenant has the canary as a secret of that name.
    pub(crate) fn prepared(&self, dag: &str, tenant: &str) -> engine::store::NewRun {
        let secrets = self.bench.path(&format!("secrets/{tenant}"));
        std::fs::create_dir_all(&secrets).expect("a folder");
        std::fs::write(secrets.join("canary"), &self.canary).expect("a secret");
        let dag = self.dags.get(dag).unwrap_or_else(|| panic!("no DAG {dag}"));
        let request = Request {
            run: RunId::from_uuid(Uuid::now_v7()),
            dag: Arc::clone(dag),
            kind: RunKind::Manual,
            tenant: TenantId::parse(tenant).expect("a tenant id"),
            tenant_params: Map::new(),
            params: Map::new(),
            seed: self.seed,
            logical_time: SystemClock.now(),
            interval: None,
            queue_rank: None,
            start_at: 0,
        };
        self.launcher().prepare(request).expect("a run that can be made")
    }

    /// Makes runs that come due, from this world's files.
    pub(crate) fn launcher(&self) -> Launcher {
        let read = |path: &Path| std::fs::read_to_string(path);
        Launcher::new(Arc::new(self.kinds.clone()), self.bench.path("dags"), Arc::new(read))
    }

    /// Makes a run of a registered DAG.
    pub(crate) async fn submit(&mut self, dag: &str) -> Submitted {
        self.submit_for(dag, "acme").await
    }

    /// Makes a run for a tenant.
    pub(crate) async fn submit_for(&mut self, dag: &str, tenant: &str) -> Submitted {
        let new = self.prepared(dag, tenant);
        self.store().await.create_run(&new).await.expect("created");
        self.acknowledge(&new)
    }

    /// Remembers that a run was acknowledged.
    pub(crate) fn acknowledge(&mut self, new: &engine::store::NewRun) -> Submitted {
        self.acknowledged.push(new.run.to_string());
        Submitted { tenant: new.tenant.clone(), run: new.run }
    }

    /// Starts a process and waits until it works.
    pub(crate) async fn start(&mut self, name: &str, more: &[(&str, &str)]) -> usize {
        let at = self.launch(name, more);
        let word = if name.starts_with("serve") { "serving http" } else { "working for" };
        self.processes[at].until_says(word, PATIENCE).await;
        at
    }

    /// Starts a process: `serve...` or `worker...`, with more variables.
    pub(crate) fn launch(&mut self, name: &str, more: &[(&str, &str)]) -> usize {
        let log = self.bench.path(&format!("logs/{name}-{}.log", self.processes.len()));
        let args: &[&str] = if name.starts_with("serve") { &["serve", "--listen", "127.0.0.1:0"] } else { &["worker"] };
        let mut command = self.bench.command(args);
        command.envs(more.iter().copied());
        self.processes.push(Process::start(name, command, &log));
        self.logs.push(log);
        self.processes.len() - 1
    }

    /// A process of this world.
    pub(crate) fn process(&mut self, at: usize) -> &mut Process {
        &mut self.processes[at]
    }

    /// Which process has that name; the last one, if several.
    pub(crate) fn by_name(&self, name: &str) -> usize {
        self.processes.iter().rposition(|process| process.name() == name).expect("one of that name")
    }

    /// The process of that id.
    pub(crate) fn by_pid(&mut self, pid: i32) -> &mut Process {
        self.processes.iter_mut().find(|process| process.pid() == pid).expect("one of ours")
    }

    /// Waits until one of the processes has said one of the words.
    pub(crate) async fn until_said(&self, names: &[&str], words: &[&str]) {
        let deadline = Instant::now() + PATIENCE;
        let has_said = |process: &Process| {
            let said = process.said();
            names.contains(&process.name()) && words.iter().any(|word| said.contains(word))
        };
        while !self.processes.iter().any(has_said) {
            assert!(Instant::now() < deadline, "none of {names:?} said any of {words:?}");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Runs SQL on Postgres.
    pub(crate) fn sql(&self, sql: &str) -> String {
        self.database.as_ref().expect("a Postgres database").query(sql).expect(sql)
    }

    /// The process that holds a running task instance.
    pub(crate) fn holder(&self, run: &Submitted, task: &str) -> i32 {
        let sql = format!(
            "SELECT s.pid FROM task_instance t JOIN worker_session s ON s.session = t.session \
             WHERE t.run = '{}' AND t.task = '{task}' AND t.state = 'running'",
            run.run
        );
        self.sql(&sql).parse().unwrap_or_else(|_| panic!("nobody holds {task}"))
    }

    /// How the attempts of a task ended, in order.
    pub(crate) fn attempts(&self, run: &Submitted, task: &str) -> Vec<String> {
        let sql = format!("SELECT state FROM attempt WHERE run = '{}' AND task = '{task}' ORDER BY attempt", run.run);
        self.sql(&sql).lines().map(str::to_owned).collect()
    }

    /// A run as it stands, also beside a server that owns an SQLite file.
    pub(crate) async fn view(&self, run: &Submitted) -> RunView {
        match &self.store {
            Some(store) => store.run_view(&run.tenant, run.run).await.expect("the run is there"),
            None => {
                let store = Store::open(&self.url, OpenMode::Read, Arc::new(self.kinds.clone())).await.expect("opens");
                store.run_view(&run.tenant, run.run).await.expect("the run is there")
            }
        }
    }

    /// Waits until a run has ended, and says how.
    pub(crate) async fn until_ended(&mut self, run: &Submitted, patience: Duration) -> RunState {
        let store = match &self.store {
            Some(store) => Arc::clone(store),
            None => {
                Arc::new(Store::open(&self.url, OpenMode::Read, Arc::new(self.kinds.clone())).await.expect("opens"))
            }
        };
        let deadline = Instant::now() + patience;
        loop {
            // A server that restarts is looked at again.
            if let Ok(state) = store.run_state(&run.tenant, run.run).await
                && is_terminal(state)
            {
                return state;
            }
            if Instant::now() > deadline {
                let view = self.view(run).await;
                let tasks: Vec<_> =
                    view.tasks.iter().map(|it| (it.instance.to_string(), it.state, it.attempts)).collect();
                panic!("run {} has not ended within {patience:?}: {tasks:?}", run.run);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until all of them have succeeded.
    pub(crate) async fn until_succeeded(&mut self, runs: &[Submitted], patience: Duration) {
        for run in runs {
            let state = self.until_ended(run, patience).await;
            assert_eq!(state, RunState::Succeeded, "{:#?}", self.view(run).await.tasks);
        }
    }

    /// Lets tasks go on that wait at a gate.
    pub(crate) fn open_gate(&self, name: &str) {
        std::fs::write(self.gate(name), "").expect("writable");
    }

    /// The file that a gate waits for.
    pub(crate) fn gate(&self, name: &str) -> PathBuf {
        self.bench.path(&format!("gate-{name}"))
    }

    /// Looks for exceeded limits from now on.
    pub(crate) fn sample(&mut self) {
        self.sampler = Some(Sampler::start(&self.url));
    }

    /// Moves the SQLite file before anything is in it.
    pub(crate) fn move_sqlite(&mut self, path: &str) {
        self.url = format!("sqlite://{}", self.bench.path(path).display());
        let url = self.url.clone();
        self.bench.set("HEADWORKS_STORE_URL", url);
    }

    /// Runs are left open on purpose: the checker is not asked whether they end.
    pub(crate) fn leave_open(&mut self) {
        self.may_be_left = true;
    }

    /// Ends every process as an operator would, and waits for them.
    pub(crate) async fn stop(&mut self) {
        for process in &mut self.processes {
            if process.is_alive() {
                // A stopped one can not take it.
                process.signal(Signal::SIGCONT);
                process.signal(Signal::SIGTERM);
            }
        }
        for process in &mut self.processes {
            process.ended(PATIENCE).await;
        }
    }

    /// Stops everything and asks the checker.
    pub(crate) async fn judge(&mut self) {
        let mut found = Vec::new();
        if let Some(sampler) = self.sampler.take() {
            let (looks, exceeded) = sampler.finish().await;
            assert!(looks > 0, "the sampler never looked");
            found.extend(exceeded);
        }
        self.stop().await;
        let object = |key: &str| match &self.s3 {
            Some(server) => server.object("chaos", key),
            None => self.bench.path("artifacts/objects").join(key),
        };
        let evidence = Evidence {
            store_url: &self.url,
            ledger: &self.ledger,
            object: &object,
            folders: &[self.bench.path("artifacts/objects"), self.bench.path("scratch")],
            logs: &self.logs,
            acknowledged: &self.acknowledged,
            edges: &self.edges,
            canary: &self.canary,
        };
        found.extend(check(&evidence).await);
        if self.may_be_left {
            found.retain(|it| !["I1", "I8"].contains(&it.invariant));
        }
        self.tally.violations.store(found.len(), Ordering::Relaxed);
        self.tally.repairs.store(repairs(&self.logs).len(), Ordering::Relaxed);
        let list: Vec<_> = found.iter().map(ToString::to_string).collect();
        assert!(found.is_empty(), "{} violations:\n{}", found.len(), list.join("\n"));
    }
}

impl World {
    /// Leaves what there is to look at in a folder: ledger, logs, DAGs, objects and every table.
    fn keep_evidence(&self) -> std::io::Result<PathBuf> {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chaos").join(&self.name);
        if folder.exists() {
            std::fs::remove_dir_all(&folder)?;
        }
        std::fs::create_dir_all(&folder)?;
        // Small, and the very files.
        let copied = Command::new("cp").arg("-r").arg(self.bench.path(".")).arg(folder.join("project")).status()?;
        if !copied.success() {
            println!("not all of the project was copied");
        }
        for table in TABLES {
            let Some(database) = &self.database else { break };
            let rows = database.query(&format!("SELECT row_to_json(t) FROM {table} t"));
            let rows = rows.unwrap_or_else(|error| format!("can not be read: {error}"));
            std::fs::write(folder.join(format!("{table}.jsonl")), rows)?;
        }
        Ok(folder)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        self.processes.clear();
        match self.keep_evidence() {
            Ok(folder) => println!("{}: database, ledger, logs and objects are in {}", self.name, folder.display()),
            Err(error) => println!("{}: the evidence can not be kept: {error}", self.name),
        }
        self.ledger.entries().iter().rev().take(30).rev().for_each(|entry| println!("  {entry:?}"));
        for log in &self.logs {
            let text = std::fs::read(log).unwrap_or_default();
            let text = String::from_utf8_lossy(&text);
            let lines: Vec<_> = text.lines().collect();
            println!("{}:", log.display());
            lines[lines.len().saturating_sub(40)..].iter().for_each(|line| println!("  {line}"));
        }
    }
}

/// The URL with the canary as its password, where it has a user.
pub(crate) fn secret_url(url: &str, canary: &str) -> String {
    match url.split_once('@') {
        Some((head, rest)) => format!("{head}:{canary}@{rest}"),
        None => url.to_owned(),
    }
}
