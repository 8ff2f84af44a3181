//! Attempts in processes of their own: a real process each time, which is this test binary again.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use headworks_engine::artifact::ArtifactStore;
use headworks_engine::dag::{InputSpec, OutputSpec, lower};
use headworks_engine::executor::{AttemptSettings, Executor, Progress, Settings, run_attempt};
use headworks_engine::id::{RunId, TenantId};
use headworks_engine::run::{RunState, TaskState};
use headworks_engine::store::{NewRun, OpenMode, RunKind, RunView, Store};
use headworks_engine::task::{Kinds, LogLine, LogStream, Task, TaskContext, TaskError, TaskOutput};
use nix::sys::signal::{Signal, raise};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Set where this binary is an attempt's process.
const INSIDE: &str = "HEADWORKS_TEST_INSIDE";

/// The attempt's process of the tests below; as a test, what becomes of one that nobody feeds.
#[test]
fn inside() {
    if std::env::var_os(INSIDE).is_some() {
        let ended = run_attempt(kinds());
        std::process::exit(if ended.is_ok() { 0 } else { 2 });
    }
    let folder = tempfile::tempdir().expect("a folder");
    let mut command = Command::new(program(folder.path()));
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    assert_eq!(status.expect("it starts").code(), Some(2), "nothing is run that no worker hands over");
}

/// A program that runs this binary as an attempt's process, whatever it is told.
fn program(folder: &Path) -> PathBuf {
    let own = std::env::current_exe().expect("this binary has a path");
    let script = format!("#!/bin/sh\n{INSIDE}=1 exec '{}' --exact child::inside --nocapture\n", own.display());
    let path = folder.join("attempt.sh");
    std::fs::write(&path, script).expect("writable");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("executable");
    path
}

fn kinds() -> Kinds {
    let mut kinds = testkit::fake_kinds();
    kinds.register(Poison);
    kinds
}

/// A kind that harms the process it runs in.
struct Poison;

#[derive(Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct PoisonParams {
    how: String,
    /// Where it notes its process id.
    ids: Option<PathBuf>,
}

#[async_trait]
impl Task for Poison {
    type Params = PoisonParams;
    const KIND: &'static str = "poison";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "harms its process";

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        Vec::new()
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        Vec::new()
    }

    async fn run(&self, context: &TaskContext, params: PoisonParams) -> Result<TaskOutput, TaskError> {
        context.log(LogStream::Stdout, b"about to do it\n").await;
        if let Some(path) = params.ids {
            let partial = path.with_extension("part");
            std::fs::write(&partial, std::process::id().to_string()).expect("writable");
            std::fs::rename(partial, path).expect("renamed");
        }
        match params.how.as_str() {
            // The first one only ends the handler that Rust has for stacks that overflow.
            "segfault" => [(); 2].iter().for_each(|()| raise(Signal::SIGSEGV).expect("raised")),
            "abort" => std::process::abort(),
            "exit" => std::process::exit(0),
            "eat" => eat(),
            // Blocks its thread and hears nothing.
            "deaf" => loop {
                std::thread::park();
            },
            how => panic!("{how}"),
        }
        Ok(TaskOutput::default())
    }
}

/// Takes memory until there is none.
fn eat() {
    let mut eaten: Vec<Vec<u8>> = Vec::new();
    while eaten.len() < 64 {
        eaten.push(Vec::with_capacity(256 << 20));
    }
}

struct Bed {
    store: Arc<Store>,
    artifacts: Arc<ArtifactStore>,
    settings: Settings,
    folder: tempfile::TempDir,
}

impl Bed {
    async fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}/hw.db", folder.path().display());
        let store = Store::open(&url, OpenMode::Own, Arc::new(kinds())).await.expect("opens");
        let artifacts = ArtifactStore::open(&folder.path().join("objects").display().to_string()).expect("opens");
        let attempts =
            AttemptSettings { program: Some(program(folder.path())), store_url: url, ..AttemptSettings::default() };
        let settings = Settings {
            slots: 4,
            lease_ttl: Duration::from_secs(60),
            cancel_grace: Duration::from_millis(300),
            project_root: folder.path().to_owned(),
            scratch_root: folder.path().join("scratch"),
            attempts,
        };
        Self { store: Arc::new(store), artifacts: Arc::new(artifacts), settings, folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    async fn start(&self, toml: &str) -> NewRun {
        let toml = format!("[dag]\nid = \"t\"\n[defaults]\nisolation = \"process\"\n{toml}");
        let dag = lower("t.toml", &toml, &kinds()).map(|(dag, _)| dag);
        let dag = dag.unwrap_or_else(|wrong| panic!("{:#?}", wrong.items));
        let new = NewRun {
            tenant: TenantId::parse("acme").expect("an id"),
            run: RunId::from_uuid(Uuid::now_v7()),
            dag: Arc::new(dag),
            kind: RunKind::Manual,
            seed: 7,
            params: json!({}),
            tenant_params: json!({ "id": "acme" }),
            logical_time: 0,
            interval: None,
            queue_rank: 0,
            start_at: 0,
            documents: Vec::new(),
            faults: Vec::new(),
        };
        self.store.create_run(&new).await.expect("created");
        new
    }

    fn executor(&self) -> Executor {
        Executor::new(Arc::clone(&self.store), Arc::clone(&self.artifacts), kinds(), self.settings.clone())
    }

    async fn view(&self, run: &NewRun) -> RunView {
        self.store.run_view(&run.tenant, run.run).await.expect("the run is there")
    }

    /// Runs a DAG's tasks to their end.
    async fn run(&self, toml: &str) -> RunView {
        let run = self.start(toml).await;
        let (sender, _) = mpsc::unbounded_channel();
        let ended = self.executor().run_to_end(&run.tenant, run.run, sender, CancellationToken::new()).await;
        ended.expect("the worker lives");
        self.view(&run).await
    }

    async fn log(&self, run: &RunView) -> Vec<LogLine> {
        let it = &run.summary;
        let dag = headworks_engine::id::DagId::parse(&it.dag).expect("an id");
        let mut lines = Vec::new();
        for chunk in self.artifacts.logs(&it.tenant, &dag, it.run_id, None).await.expect("listed") {
            let bytes = self.artifacts.read_log(&chunk).await.expect("read");
            let text = String::from_utf8(bytes.to_vec()).expect("UTF-8");
            lines.extend(text.lines().map(|line| serde_json::from_str::<LogLine>(line).expect("a line")));
        }
        lines
    }

    /// The folder holds nothing but what an attempt under way has in it.
    fn leftovers(&self) -> usize {
        std::fs::read_dir(&self.settings.scratch_root).map_or(0, Iterator::count)
    }
}

fn reason(view: &RunView, task: usize) -> (&'static str, String) {
    let reason = view.tasks[task].reason.as_ref().expect("a reason");
    (reason.code(), reason.to_string())
}

fn poison(how: &str) -> String {
    format!("[tasks.a]\nkind = \"poison\"\nwith = {{ how = {how:?} }}\n")
}

async fn appears(path: &Path) -> i32 {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        if let Ok(text) = std::fs::read_to_string(path) {
            return text.trim().parse().expect("a process id");
        }
        assert!(Instant::now() < deadline, "{} does not appear", path.display());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Whether a process runs: neither gone nor waiting to be reaped.
fn runs(id: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_comes_out_as_in_the_worker() {
    let bed = Bed::new().await;
    let task = "kind = \"fake\"\nwith = { outputs = { third = 0.30000000000000004, n = 4 } }\n";
    let toml = format!(
        "[tasks.a]\n{task}[tasks.b]\nkind = \"fake\"\nneeds = [\"a\"]\n\
         with = {{ outputs = {{ twice = \"{{{{tasks.a.outputs.third}}}}\" }} }}\n"
    );
    let outside = bed.run(&toml).await;
    let inline = toml.replace("kind = \"fake\"\n", "kind = \"fake\"\nisolation = \"inline\"\n");
    let within = bed.run(&inline).await;
    assert_eq!(outside.summary.state, RunState::Succeeded, "{:?}", outside.tasks);
    assert_eq!(outside.outputs, within.outputs);
    assert_eq!(outside.outputs["b"]["twice"].to_string(), "0.30000000000000004");
    let digests = |view: &RunView| view.artifacts.iter().map(|it| it.artifact.digest).collect::<Vec<_>>();
    assert_eq!(digests(&outside), digests(&within));
    assert_eq!(outside.artifacts.len(), 2);
    assert_eq!(bed.leftovers(), 0, "attempts leave no folder behind");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_a_failure_of_the_task() {
    let view = Bed::new().await.run("[tasks.a]\nkind = \"fake\"\nwith = { panic = true }\n").await;
    assert_eq!((view.tasks[0].state, view.tasks[0].attempts), (TaskState::Failed, 1));
    let (code, message) = reason(&view, 0);
    assert!(code == "attempt_failed" && message.contains("told to panic"), "{code}: {message}");
    assert_eq!(view.artifacts.len(), 1, "what it published before is evidence");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_process_that_dies_is_lost_three_times_and_then_quarantined() {
    let bed = Bed::new().await;
    for (how, part) in [
        ("segfault", "killed by SIGSEGV"),
        ("abort", "killed by SIGABRT"),
        ("exit", "exit code 0 and without a result"),
    ] {
        let view = bed.run(&format!("{}[tasks.b]\nkind = \"fake\"\n", poison(how))).await;
        assert_eq!(view.summary.state, RunState::Failed);
        assert_eq!((view.tasks[0].state, view.tasks[0].attempts), (TaskState::Quarantined, 3), "{how}");
        let (code, message) = reason(&view, 0);
        assert!(code == "attempt_crashed" && message.contains(part), "{code}: {message}");
        assert!(message.contains("about to do it") && message.contains("lost 3 times"), "{message}");
        assert_eq!(view.tasks[1].state, TaskState::Succeeded, "the worker and its session live on");
        let said = bed.log(&view).await.iter().filter(|line| line.line == "about to do it").count();
        assert_eq!(said, 3, "the log outlives the process");
    }
    assert_eq!(bed.leftovers(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_beyond_the_limit_ends_the_process_alone() {
    let mut bed = Bed::new().await;
    bed.settings.attempts.limits.memory_bytes = 4 << 30;
    let view = bed.run(&poison("eat")).await;
    assert_eq!(view.tasks[0].state, TaskState::Quarantined);
    assert!(reason(&view, 0).1.contains("SIGABRT"), "{}", reason(&view, 0).1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hears_no_signal_is_killed_after_the_grace() {
    let bed = Bed::new().await;
    let ids = bed.path("ids");
    let toml = format!("[tasks.a]\nkind = \"poison\"\nwith = {{ how = \"deaf\", ids = {ids:?} }}\n");
    let run = bed.start(&toml).await;
    let (sender, _) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let executor = bed.executor();
    let going = executor.run_to_end(&run.tenant, run.run, sender, cancel.clone());
    let watch = async {
        let id = appears(&ids).await;
        assert!(runs(id));
        cancel.cancel();
        id
    };
    let (state, id) = tokio::join!(going, watch);
    assert_eq!(state.expect("the worker lives"), RunState::Canceled);
    assert!(!runs(id), "it is gone before its end is reported");
    assert_eq!(bed.view(&run).await.tasks[0].state, TaskState::Canceled);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_time_ends_the_process() {
    let bed = Bed::new().await;
    let toml = "[tasks.a]\nkind = \"fake\"\ntimeout = \"500ms\"\nwith = { hang = true }\n\
                [tasks.b]\nkind = \"poison\"\ntimeout = \"500ms\"\nwith = { how = \"deaf\" }\n";
    let view = bed.run(toml).await;
    for task in 0..2 {
        assert_eq!((view.tasks[task].state, reason(&view, task).0), (TaskState::Failed, "attempt_timed_out"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_can_be_read_while_the_attempt_runs() {
    let bed = Bed::new().await;
    let ids = bed.path("ids");
    let toml = format!("[tasks.a]\nkind = \"poison\"\nwith = {{ how = \"deaf\", ids = {ids:?} }}\n");
    let run = bed.start(&toml).await;
    let (sender, mut progress) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let executor = bed.executor();
    let going = executor.run_to_end(&run.tenant, run.run, sender, cancel.clone());
    let watch = async {
        appears(&ids).await;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let view = bed.view(&run).await;
            let said = bed.log(&view).await;
            if said.iter().any(|line| line.stream == LogStream::Stdout && line.line == "about to do it") {
                assert_eq!(view.tasks[0].state, TaskState::Running);
                break;
            }
            assert!(Instant::now() < deadline, "nothing can be read");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        cancel.cancel();
    };
    let (state, ()) = tokio::join!(going, watch);
    assert_eq!(state.expect("the worker lives"), RunState::Canceled);
    while let Some(message) = progress.recv().await {
        assert!(!matches!(message, Progress::Started { attempt: 2, .. }), "one attempt");
    }
}
