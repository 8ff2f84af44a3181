//! One conformance suite for the store, run on SQLite and on Postgres.
//!
//! Each scenario is a function over a fresh store; `on_both!` makes a test of it for each database.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use headworks_engine::artifact::{ArtifactRef, ArtifactStore};
use headworks_engine::dag::lower;
use headworks_engine::executor::{AttemptSettings, Executor, ExecutorError, Progress, Settings};
use headworks_engine::id::{InstanceId, RunId, SessionId, TaskId, TenantId};
use headworks_engine::plan::FailureKind;
use headworks_engine::registry::RegistryChange;
use headworks_engine::run::{RunState, TaskState};
use headworks_engine::store::{
    Claim, ClaimRequest, ClaimScope, Finish, NewRun, NewSession, OpenMode, Outcome, Receipt, RunKind, Store, StoreError,
};
use headworks_engine::task::{ErrorClass, Kinds};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A fresh database with what keeps it alive.
pub(crate) struct Bed {
    pub(crate) store: Arc<Store>,
    url: String,
    kinds: Kinds,
    folder: tempfile::TempDir,
    _database: Option<testkit::Database>,
}

impl Bed {
    pub(crate) async fn sqlite() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let url = format!("sqlite://{}/hw.db", folder.path().display());
        Self::open(url, folder, None).await
    }

    pub(crate) async fn postgres() -> Self {
        let database = testkit::postgres();
        Self::open(database.url(), tempfile::tempdir().expect("a folder"), Some(database)).await
    }

    async fn open(url: String, folder: tempfile::TempDir, database: Option<testkit::Database>) -> Self {
        let kinds = testkit::fake_kinds();
        let store = Store::open(&url, OpenMode::Own, Arc::new(kinds.clone())).await.expect("opens");
        Self { store: Arc::new(store), url, kinds, folder, _database: database }
    }

    fn new_run(&self, toml: &str) -> NewRun {
        let dag = lower("t.toml", toml, &self.kinds).map(|(dag, _)| dag);
        let dag = dag.unwrap_or_else(|wrong| panic!("{:#?}", wrong.items));
        NewRun {
            tenant: tenant("acme"),
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
        }
    }

    pub(crate) async fn start(&self, toml: &str) -> NewRun {
        let new = self.new_run(toml);
        self.store.create_run(&new).await.expect("created");
        new
    }

    /// A run of another tenant.
    pub(crate) async fn start_for(&self, whose: &str, toml: &str) -> NewRun {
        let new = NewRun { tenant: tenant(whose), ..self.new_run(toml) };
        self.store.create_run(&new).await.expect("created");
        new
    }

    pub(crate) async fn session(&self) -> SessionId {
        self.session_of(Duration::from_secs(60)).await
    }

    pub(crate) async fn session_of(&self, ttl: Duration) -> SessionId {
        let session = SessionId::from_uuid(Uuid::new_v4());
        self.store.open_session(&NewSession { session, kind: "run", ttl }).await.expect("a session");
        session
    }

    pub(crate) async fn claim(&self, session: SessionId, limit: usize) -> Vec<Claim> {
        self.store.claim(&any(session, limit)).await.expect("claims")
    }

    /// Records finishes without asking for more.
    pub(crate) async fn report(&self, finishes: &[Finish]) -> Vec<Receipt> {
        self.store.finish(finishes, None).await.expect("recorded").receipts
    }

    /// The states of a run's task instances, in the order of the DAG.
    pub(crate) async fn states(&self, run: &NewRun) -> Vec<(String, TaskState)> {
        let view = self.store.run_view(&run.tenant, run.run).await.expect("the run is there");
        view.tasks.iter().map(|task| (task.instance.to_string(), task.state)).collect()
    }

    pub(crate) async fn run_state(&self, run: &NewRun) -> RunState {
        self.store.run_view(&run.tenant, run.run).await.expect("the run is there").summary.state
    }

    /// Where its executors publish.
    pub(crate) fn artifacts(&self) -> ArtifactStore {
        ArtifactStore::open(&self.folder.path().join("objects").display().to_string()).expect("opens")
    }

    pub(crate) fn executor(&self) -> Executor {
        let settings = Settings {
            slots: 4,
            lease_ttl: Duration::from_secs(60),
            cancel_grace: Duration::from_secs(5),
            project_root: self.folder.path().to_owned(),
            scratch_root: self.folder.path().join("scratch"),
            attempts: AttemptSettings::default(),
        };
        Executor::new(Arc::clone(&self.store), Arc::new(self.artifacts()), self.kinds.clone(), settings)
    }

    pub(crate) async fn execute(&self, run: &NewRun) -> Result<RunState, ExecutorError> {
        let (sender, _) = mpsc::unbounded_channel();
        self.executor().run_to_end(&run.tenant, run.run, sender, CancellationToken::new()).await
    }
}

fn tenant(id: &str) -> TenantId {
    TenantId::parse(id).expect("a valid id")
}

/// A claim of anyone's tasks.
pub(crate) fn any(session: SessionId, limit: usize) -> ClaimRequest {
    ClaimRequest { session, scope: ClaimScope::Any, limit, lately: BTreeMap::new() }
}

pub(crate) fn finish(session: SessionId, claim: &Claim, outcome: Outcome) -> Finish {
    Finish { identity: claim.identity.clone(), session, outcome, artifacts: Vec::new(), inputs: Vec::new(), memo: None }
}

pub(crate) fn succeeded(outputs: Value) -> Outcome {
    Outcome::Succeeded { outputs, registry: Vec::new() }
}

pub(crate) fn broken(kind: FailureKind) -> Outcome {
    Outcome::Failed { kind, class: ErrorClass::System, message: "it broke".into() }
}

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::store::Bed::sqlite().await).await })+
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() { super::$name($crate::store::Bed::postgres().await).await })+
        }
    };
}

pub(crate) use on_both;
// After the macro, whose scope is textual.
mod drill;
mod replay;
mod rerun;
mod waits;
mod why;

on_both!(
    a_chain_advances_with_each_finish,
    a_late_report_is_refused_and_recorded,
    a_revoked_session_writes_nothing,
    only_one_claimer_gets_a_task,
    a_failure_spends_its_retries_then_fails_the_run,
    skips_and_failures_run_down_the_graph,
    conditions_read_the_outputs_of_upstreams,
    a_lost_worker_is_replaced_and_the_third_loss_quarantines,
    a_cancel_ends_what_waits_and_keeps_what_ended,
    the_last_two_of_a_run_finish_at_once,
    versions_that_are_registered_at_once_are_numbered_one_after_the_other,
    promotion_is_one_compare_and_swap,
    foreign_and_unknown_runs_look_the_same,
    events_have_no_gap,
    the_executor_runs_a_diamond_and_contains_panics,
    the_executor_times_out_and_retries,
    the_executor_cancels_durably,
    a_run_is_taken_up_without_running_anything_twice,
);

pub(crate) const CHAIN: &str = r#"
[dag]
id = "t"
[tasks.a]
kind = "fake"
[tasks.b]
kind = "fake"
needs = ["a"]
"#;

async fn a_chain_advances_with_each_finish(bed: Bed) {
    let run = bed.start(CHAIN).await;
    assert_eq!(bed.run_state(&run).await, RunState::Running);
    let session = bed.session().await;
    let first = bed.claim(session, 8).await;
    assert_eq!(first.len(), 1, "only the root is ready");
    assert_eq!((first[0].identity.attempt.0, first[0].identity.epoch.0), (1, 1));
    let receipts = bed.report(&[finish(session, &first[0], succeeded(json!({ "n": 1 })))]).await;
    let expected =
        Receipt::Recorded { task: TaskState::Succeeded, run: RunState::Running, not_before: None, reason: None };
    assert_eq!(receipts, [expected]);
    let second = bed.claim(session, 8).await;
    assert_eq!(second[0].identity.instance.to_string(), "b");
    let receipts = bed.report(&[finish(session, &second[0], succeeded(json!({})))]).await;
    assert!(matches!(receipts[0], Receipt::Recorded { run: RunState::Succeeded, .. }));
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    assert_eq!(view.outputs["a"]["n"], 1);
    assert!(view.summary.seconds.is_some());
}

async fn a_late_report_is_refused_and_recorded(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let session = bed.session().await;
    let claim = bed.claim(session, 1).await.remove(0);
    bed.store.reclaim(&run.tenant, run.run).await.expect("reclaimed");
    let other = bed.session().await;
    let newer = bed.claim(other, 1).await.remove(0);
    assert_eq!((newer.identity.attempt.0, newer.identity.epoch.0), (2, 2));
    let late = bed.report(&[finish(session, &claim, succeeded(json!({ "by": "zombie" })))]).await;
    assert_eq!(late, [Receipt::Refused]);
    // Nor may the zombie write under the new session's name with its old epoch.
    let late = bed.report(&[finish(other, &claim, succeeded(json!({ "by": "zombie" })))]).await;
    assert_eq!(late, [Receipt::Refused]);
    let good = bed.report(&[finish(other, &newer, succeeded(json!({ "by": "heir" })))]).await;
    assert!(matches!(good[0], Receipt::Recorded { task: TaskState::Succeeded, .. }));
    let again = bed.report(&[finish(other, &newer, broken(FailureKind::Permanent))]).await;
    assert_eq!(again, [Receipt::Refused], "terminal states absorb");
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    assert_eq!(view.outputs["a"]["by"], "heir");
    let events = bed.store.events(&run.tenant, run.run).await.expect("events");
    assert_eq!(events.iter().filter(|event| event.event == "late_report_refused").count(), 3);
}

async fn a_revoked_session_writes_nothing(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let session = bed.session().await;
    let claim = bed.claim(session, 1).await.remove(0);
    bed.store.close_session(session).await.expect("closed");
    let beat = bed.store.heartbeat(session, Duration::from_secs(60)).await.expect("ok");
    assert!(beat.is_none(), "it can not come back");
    let receipts = bed.report(&[finish(session, &claim, succeeded(json!({})))]).await;
    assert_eq!(receipts, [Receipt::Refused]);
    assert_eq!(bed.states(&run).await[0].1, TaskState::Running, "the row is as it was");
    assert!(bed.claim(session, 8).await.is_empty(), "nor does it claim");
}

async fn only_one_claimer_gets_a_task(bed: Bed) {
    let wide = format!("{CHAIN}[tasks.w]\nkind = \"fake\"\nmatrix = {{ n = [{}] }}\n", numbers(40));
    let run = bed.start(&wide).await;
    let mut claimers = Vec::new();
    for _ in 0..4 {
        let (store, session) = (Arc::clone(&bed.store), bed.session().await);
        claimers.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let claims = store.claim(&any(session, 3)).await.expect("claims");
                if claims.is_empty() {
                    return mine;
                }
                mine.extend(claims.into_iter().map(|claim| claim.identity.instance.to_string()));
            }
        }));
    }
    let mut all = Vec::new();
    for claimer in claimers {
        all.extend(claimer.await.expect("no panic"));
    }
    all.sort();
    let mut once = all.clone();
    once.dedup();
    assert_eq!(all, once, "no task was claimed twice");
    assert_eq!(all.len(), 41, "40 elements and the root");
    assert_eq!(bed.run_state(&run).await, RunState::Running);
}

pub(crate) fn numbers(n: usize) -> String {
    (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(", ")
}

const RETRY: &str = r#"
[dag]
id = "t"
[tasks.a]
kind = "fake"
retries = { max = 1, backoff = "constant", initial = "1ms", max_delay = "1ms" }
"#;

async fn a_failure_spends_its_retries_then_fails_the_run(bed: Bed) {
    let run = bed.start(RETRY).await;
    let session = bed.session().await;
    let claim = bed.claim(session, 1).await.remove(0);
    let receipts = bed.report(&[finish(session, &claim, broken(FailureKind::Transient))]).await;
    assert!(matches!(receipts[0], Receipt::Recorded { task: TaskState::RetryWait, not_before: Some(_), .. }));
    let second = loop {
        // The delay of a millisecond is decided by the database's clock: ask until it has passed.
        bed.store.wake_retries(&ClaimScope::Any).await.expect("ok");
        if let Some(claim) = bed.claim(session, 1).await.pop() {
            break claim;
        }
    };
    assert_eq!((second.identity.attempt.0, second.identity.epoch.0), (2, 2));
    let receipts = bed.report(&[finish(session, &second, broken(FailureKind::Transient))]).await;
    assert!(matches!(receipts[0], Receipt::Recorded { task: TaskState::Failed, run: RunState::Failed, .. }));
    assert_eq!(bed.run_state(&run).await, RunState::Failed);
}

const GRAPH: &str = r#"
[dag]
id = "t"
[tasks.a]
kind = "fake"
[tasks.b]
kind = "fake"
needs = ["a"]
[tasks.c]
kind = "fake"
needs = ["b"]
[tasks.never]
kind = "fake"
if = false
[tasks.after_never]
kind = "fake"
needs = ["never"]
[tasks.mixed]
kind = "fake"
needs = ["after_never", "c"]
trigger_rule = "all_done"
[tasks.on_failure]
kind = "fake"
needs = ["c"]
trigger_rule = "one_failed"
"#;

async fn skips_and_failures_run_down_the_graph(bed: Bed) {
    let run = bed.start(GRAPH).await;
    let session = bed.session().await;
    let claims = bed.claim(session, 8).await;
    assert_eq!(claims.len(), 1, "`never` was skipped at once, so `after_never` was too");
    bed.report(&[finish(session, &claims[0], broken(FailureKind::Permanent))]).await;
    use TaskState::{Failed, Ready, Skipped, UpstreamFailed};
    let expected = [
        ("a", Failed),
        ("b", UpstreamFailed),
        ("c", UpstreamFailed),
        ("never", Skipped),
        ("after_never", Skipped),
        ("mixed", Ready),
        ("on_failure", Ready),
    ];
    let expected: Vec<_> = expected.into_iter().map(|(task, state)| (task.to_owned(), state)).collect();
    assert_eq!(bed.states(&run).await, expected);
    let claims = bed.claim(session, 8).await;
    let finishes: Vec<_> = claims.iter().map(|claim| finish(session, claim, succeeded(json!({})))).collect();
    bed.report(&finishes).await;
    assert_eq!(bed.run_state(&run).await, RunState::Failed, "a failed task fails its run, whoever cleaned up");
}

const CONDITION: &str = r#"
[dag]
id = "t"
[tasks.a]
kind = "fake"
[tasks.yes]
kind = "fake"
needs = ["a"]
if = "{{gt tasks.a.outputs.n 3}}"
[tasks.no]
kind = "fake"
needs = ["a"]
if = "{{gt tasks.a.outputs.n 5}}"
[tasks.broken]
kind = "fake"
needs = ["a"]
if = "{{gt tasks.a.outputs.missing 5}}"
"#;

async fn conditions_read_the_outputs_of_upstreams(bed: Bed) {
    let run = bed.start(CONDITION).await;
    let session = bed.session().await;
    let claim = bed.claim(session, 1).await.remove(0);
    bed.report(&[finish(session, &claim, succeeded(json!({ "n": 4 })))]).await;
    let states: Vec<_> = bed.states(&run).await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [TaskState::Succeeded, TaskState::Ready, TaskState::Skipped, TaskState::Failed]);
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    let reason = view.tasks[3].reason.as_ref().expect("a reason");
    assert_eq!(reason.code(), "condition_broken");
    assert!(reason.to_string().contains("missing"), "{reason}");
}

async fn a_lost_worker_is_replaced_and_the_third_loss_quarantines(bed: Bed) {
    let run = bed.start(CHAIN).await;
    for loss in 1..=3 {
        let session = bed.session().await;
        let claim = bed.claim(session, 1).await.remove(0);
        assert_eq!(claim.identity.epoch.0, loss, "each claim fences the one before");
        assert_eq!(bed.store.reclaim(&run.tenant, run.run).await.expect("ok"), 1);
        assert!(bed.store.heartbeat(session, Duration::from_secs(60)).await.expect("ok").is_none());
    }
    let states: Vec<_> = bed.states(&run).await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [TaskState::Quarantined, TaskState::UpstreamFailed]);
    assert_eq!(bed.run_state(&run).await, RunState::Failed);
}

async fn a_cancel_ends_what_waits_and_keeps_what_ended(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let session = bed.session().await;
    let claim = bed.claim(session, 1).await.remove(0);
    assert_eq!(bed.store.cancel(&run.tenant, run.run).await.expect("ok"), RunState::Canceling);
    assert_eq!(bed.states(&run).await[1].1, TaskState::Canceled);
    // What the attempt reports no longer matters to its run, but a success stays a success.
    let receipts = bed.report(&[finish(session, &claim, succeeded(json!({})))]).await;
    assert!(matches!(receipts[0], Receipt::Recorded { run: RunState::Canceled, .. }), "{receipts:?}");
    assert_eq!(bed.states(&run).await[0].1, TaskState::Succeeded);
    assert_eq!(bed.store.cancel(&run.tenant, run.run).await.expect("ok"), RunState::Canceled, "it absorbs");
}

async fn the_last_two_of_a_run_finish_at_once(bed: Bed) {
    for _ in 0..10 {
        let run = bed.start("[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\n[tasks.b]\nkind = \"fake\"\n").await;
        let session = bed.session().await;
        let claims = bed.claim(session, 2).await;
        let one = [finish(session, &claims[0], succeeded(json!({})))];
        let two = [finish(session, &claims[1], succeeded(json!({})))];
        let (one, two) = tokio::join!(bed.store.finish(&one, None), bed.store.finish(&two, None));
        one.expect("ok");
        two.expect("ok");
        assert_eq!(bed.run_state(&run).await, RunState::Succeeded, "whoever comes second ends the run");
    }
}

/// What [`promotion`] registers.
pub(crate) fn model() -> ArtifactRef {
    let model = json!({
        "name": "model.bin", "key": "k", "digest": "0".repeat(64), "bytes": 1, "rows": null, "schema_digest": null,
    });
    serde_json::from_value(model).expect("valid")
}

/// A version that no gate has judged.
pub(crate) fn registered() -> Outcome {
    let name = headworks_engine::id::ModelName::parse("demand").expect("valid");
    let registry = vec![RegistryChange::Register { name, artifact: model(), metadata: json!({}) }];
    Outcome::Succeeded { outputs: json!({}), registry }
}

/// A version that the gate makes the champion.
pub(crate) fn promotion(expected: Option<u32>) -> Outcome {
    let name = headworks_engine::id::ModelName::parse("demand").expect("valid");
    let registry = vec![
        RegistryChange::Register {
            name: name.clone(),
            artifact: model(),
            metadata: json!({ "metrics": { "wape": 0.5 } }),
        },
        RegistryChange::Promote { name: name.clone(), expected },
        RegistryChange::Decide { name, promoted: true, reason: "better".into(), decision: json!({}) },
    ];
    Outcome::Succeeded { outputs: json!({}), registry }
}

async fn versions_that_are_registered_at_once_are_numbered_one_after_the_other(bed: Bed) {
    let session = bed.session().await;
    let mut claims = Vec::new();
    for _ in 0..6 {
        bed.start(CHAIN).await;
        claims.push(bed.claim(session, 1).await.remove(0));
    }
    let reports: Vec<_> = claims.iter().map(|claim| [finish(session, claim, registered())]).collect();
    let [a, b, c, d, e, f] = &reports[..] else { panic!("six") };
    let finish = |report| bed.store.finish(report, None);
    let (a, b, c, d, e, f) = tokio::join!(finish(a), finish(b), finish(c), finish(d), finish(e), finish(f));
    for finished in [a, b, c, d, e, f] {
        finished.expect("none is in the way of another");
    }
    let mut versions: Vec<_> =
        bed.store.models(None, None).await.expect("ok").iter().map(|it| it.version.version).collect();
    versions.sort_unstable();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6]);
}

async fn promotion_is_one_compare_and_swap(bed: Bed) {
    let session = bed.session().await;
    let mut claims = Vec::new();
    for _ in 0..2 {
        bed.start(CHAIN).await;
        claims.push(bed.claim(session, 1).await.remove(0));
    }
    // Both judged against no champion; the second has to judge again.
    let first = bed.report(&[finish(session, &claims[0], promotion(None))]).await;
    assert!(matches!(first[0], Receipt::Recorded { task: TaskState::Succeeded, .. }));
    let second = bed.report(&[finish(session, &claims[1], promotion(None))]).await;
    let Receipt::Recorded { task, reason: Some(reason), .. } = &second[0] else { panic!("{second:?}") };
    assert_ne!(*task, TaskState::Succeeded);
    assert!(reason.to_string().contains("changed from none to v1"), "{reason}");
    let models = bed.store.models(None, None).await.expect("ok");
    assert_eq!(models.len(), 1, "the refused attempt registered nothing");
    assert_eq!(models[0].version.status.as_str(), "champion");
    bed.start(CHAIN).await;
    let third = loop {
        let claim = bed.claim(session, 1).await.remove(0);
        if claim.identity.instance.task == TaskId::parse("a").expect("valid") {
            break claim;
        }
    };
    bed.report(&[finish(session, &third, promotion(Some(1)))]).await;
    let statuses: Vec<_> = bed.store.models(None, None).await.expect("ok").into_iter().map(|it| it.version).collect();
    use headworks_engine::registry::ModelStatus::{Archived, Champion};
    let statuses: Vec<_> = statuses.iter().map(|it| (it.version, it.status)).collect();
    assert_eq!(statuses, [(2, Champion), (1, Archived)]);
}

async fn foreign_and_unknown_runs_look_the_same(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let foreign = bed.store.run_view(&tenant("other"), run.run).await.expect_err("not theirs");
    let unknown = bed.store.run_view(&tenant("other"), RunId::from_uuid(Uuid::nil())).await.expect_err("not there");
    for error in [&foreign, &unknown] {
        assert!(matches!(error, StoreError::NotFound { .. }), "{error}");
    }
    assert!(bed.store.cancel(&tenant("other"), run.run).await.is_err());
    assert!(bed.store.reclaim(&tenant("other"), run.run).await.is_err());
    assert!(bed.store.find_run(&run.run.to_string()[..13], Some(&tenant("other"))).await.is_err());
    assert!(bed.store.find_run(&run.run.to_string(), None).await.is_ok());
    assert!(bed.store.find_run("%", None).await.is_err(), "no wildcards");
}

async fn events_have_no_gap(bed: Bed) {
    let run = bed.start(GRAPH).await;
    bed.execute(&run).await.expect("ends");
    let events = bed.store.events(&run.tenant, run.run).await.expect("events");
    let mut by_row = BTreeMap::<_, Vec<i64>>::new();
    for event in &events {
        by_row.entry(event.instance.as_ref().map(ToString::to_string)).or_default().push(event.seq);
    }
    assert_eq!(by_row.len(), 8, "seven tasks and the run");
    for (row, mut seqs) in by_row {
        seqs.sort_unstable();
        let expected: Vec<i64> = (1..).take(seqs.len()).collect();
        assert_eq!(seqs, expected, "{row:?}");
    }
}

const DIAMOND: &str = r#"
[dag]
id = "t"
[tasks.a]
kind = "fake"
with = { outputs = { n = 4 } }
[tasks.left]
kind = "fake"
needs = ["a"]
with = { outputs = { twice = "{{tasks.a.outputs.n}}" } }
[tasks.right]
kind = "fake"
needs = ["a"]
with = { panic = true }
[tasks.z]
kind = "fake"
needs = ["left", "right"]
trigger_rule = "all_done"
"#;

async fn the_executor_runs_a_diamond_and_contains_panics(bed: Bed) {
    let run = bed.start(DIAMOND).await;
    assert_eq!(bed.execute(&run).await.expect("ends"), RunState::Failed);
    let states: Vec<_> = bed.states(&run).await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [TaskState::Succeeded, TaskState::Succeeded, TaskState::Failed, TaskState::Succeeded]);
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    assert_eq!(view.outputs["left"]["twice"], 4, "an expression alone keeps its type");
    assert!(view.tasks[2].reason.as_ref().is_some_and(|it| it.to_string().contains("told to panic")));
    // What a failed attempt published before it failed is evidence, and stays visible.
    assert_eq!(view.artifacts.len(), 4);
}

const TIMEOUT: &str = r#"
[dag]
id = "t"
[tasks.flaky]
kind = "fake"
retries = { max = 2, backoff = "constant", initial = "1ms", max_delay = "1ms" }
with = { fail_first = 2 }
[tasks.slow]
kind = "fake"
timeout = "50ms"
with = { hang = true }
"#;

async fn the_executor_times_out_and_retries(bed: Bed) {
    let run = bed.start(TIMEOUT).await;
    assert_eq!(bed.execute(&run).await.expect("ends"), RunState::Failed);
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    assert_eq!((view.tasks[0].state, view.tasks[0].attempts), (TaskState::Succeeded, 3));
    assert_eq!((view.tasks[1].state, view.tasks[1].attempts), (TaskState::Failed, 1));
    assert_eq!(view.tasks[1].reason.as_ref().map(|it| it.code()), Some("attempt_timed_out"));
    // The folder itself is there only if an attempt asked for its own.
    let leftovers = std::fs::read_dir(bed.folder.path().join("scratch")).map_or(0, Iterator::count);
    assert_eq!(leftovers, 0, "attempts leave no folder behind");
}

const HANG: &str = r#"
[dag]
id = "t"
[tasks.a]
kind = "fake"
with = { hang = true }
[tasks.b]
kind = "fake"
needs = ["a"]
"#;

async fn the_executor_cancels_durably(bed: Bed) {
    let run = bed.start(HANG).await;
    let (sender, mut progress) = mpsc::unbounded_channel();
    let cancel = CancellationToken::new();
    let executor = bed.executor();
    let going = executor.run_to_end(&run.tenant, run.run, sender, cancel.clone());
    let watch = async {
        while let Some(message) = progress.recv().await {
            if matches!(message, Progress::Started { .. }) {
                cancel.cancel();
            }
        }
    };
    // `going` ends and drops the sender, which ends `watch`.
    let (state, ()) = tokio::join!(going, watch);
    assert_eq!(state.expect("ends"), RunState::Canceled);
    let states: Vec<_> = bed.states(&run).await.into_iter().map(|(_, state)| state).collect();
    assert_eq!(states, [TaskState::Canceled, TaskState::Canceled]);
}

async fn a_run_is_taken_up_without_running_anything_twice(bed: Bed) {
    let ledger = bed.folder.path().join("ledger");
    let toml = format!(
        "{CHAIN}with = {{ ledger = {ledger:?} }}\n[tasks.c]\nkind = \"fake\"\nneeds = [\"b\"]\n\
         with = {{ ledger = {ledger:?} }}\n"
    );
    let run = bed.start(&toml).await;
    let dead = bed.session().await;
    // A process that finished `a`, began `b`, and was killed.
    let a = bed.claim(dead, 1).await.remove(0);
    bed.report(&[finish(dead, &a, succeeded(json!({})))]).await;
    let b = bed.claim(dead, 1).await.remove(0);
    assert_eq!(b.identity.instance, InstanceId::new(TaskId::parse("b").expect("valid"), None));
    assert!(matches!(bed.execute(&run).await, Err(ExecutorError::Stalled { .. })), "not while it is held");
    bed.store.reclaim(&run.tenant, run.run).await.expect("ok");
    bed.store.recompute(&run.tenant, run.run).await.expect("ok");
    assert_eq!(bed.execute(&run).await.expect("ends"), RunState::Succeeded);
    let text = std::fs::read_to_string(PathBuf::from(&ledger)).expect("a ledger");
    assert_eq!(text, "b 2 2\nc 1 1\n", "`a` did not run again, `b` did under a new epoch");
}

#[tokio::test]
async fn a_second_owner_of_an_sqlite_file_is_refused_and_a_reader_is_not() {
    let bed = Bed::sqlite().await;
    let catalog = || Arc::new(testkit::fake_kinds());
    let second = Store::open(&bed.url, OpenMode::Own, catalog()).await.err().expect("refused");
    assert!(matches!(second, StoreError::Owned { .. }), "{second}");
    let reader = Store::open(&bed.url, OpenMode::Read, catalog()).await.expect("readers are welcome");
    assert!(reader.runs(None, None, 10).await.expect("ok").is_empty());
}

#[tokio::test]
async fn a_database_of_a_newer_binary_is_refused() {
    let bed = Bed::postgres().await;
    bed._database
        .as_ref()
        .expect("postgres")
        .query("INSERT INTO seaql_migrations VALUES ('m9999_future', 0)")
        .expect("ok");
    let error = Store::open(&bed.url, OpenMode::Own, Arc::new(testkit::fake_kinds())).await.err().expect("refused");
    assert!(matches!(&error, StoreError::SchemaNewer { migration } if migration == "m9999_future"), "{error}");
}
