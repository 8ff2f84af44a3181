//! F11, call by call: what each mutating call of the store returns when its COMMIT is hit.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use engine::artifact::ArtifactStore;
use engine::clock::parse_rfc3339;
use engine::dag::Dag;
use engine::id::{BackfillId, RunId, SessionId, TenantId};
use engine::launch::Launcher;
use engine::plan::{FailureKind, Selection};
use engine::replay::{self, Asked};
use engine::run::{RunState, TaskState};
use engine::scheduler::maintenance::{backfill, fire::Firing};
use engine::scheduler::subscribe::{CalendarTexts, subscriptions};
use engine::store::{
    BackfillOrder, BackfillState, Claim, ClaimRequest, ClaimScope, Finish, NewBackfill, NewSession, Next, Outcome,
    PastFire, PauseScope, Receipt, Reprocess, RerunRequest, Retired, Store, StoreError,
};
use engine::task::ErrorClass;
use engine::tenant;
use serde_json::json;
use testkit::{CommitFault, PostgresProxy};
use uuid::Uuid;

use super::World;
use super::dag::{head, task};
use super::network::FAULTS;
use super::world::{PATIENCE, Submitted, TTL};

/// F11, call by call: each mutating call of the store under each fault of its COMMIT returns what it
/// would have returned, and has happened once.
pub(crate) async fn f11_every_call(world: &mut World) {
    let retried = "retries = { max = 3, initial = \"1ms\" }";
    let toml = [head("calls"), task(world, "a", retried, ":"), task(world, "b", "needs = [\"a\"]", ":")].concat();
    world.dag(&toml);
    let schedule = "[schedule]\ncron = \"0 * * * *\"\n".to_owned();
    let nightly = world.dag(&[head("nightly"), schedule, task(world, "a", "", ":")].concat());
    let launcher = world.launcher();
    world.leave_open();
    let direct = world.store().await;
    let proxy = PostgresProxy::start(world.url());
    let store = world.open(proxy.url()).await;
    for (nth, fault) in FAULTS.into_iter().enumerate() {
        let calls = Calls { store: &store, direct: &direct, proxy: &proxy, fault };
        let session = calls.session(TTL * 20).await;
        let run = calls.create(world).await;
        let a = calls.claim(session, &run, "a").await;
        calls.heartbeat(session, 1).await;
        calls.retry(world, session, &a, &run).await;
        let a = calls.claim(session, &run, "a").await;
        let b = calls.finish_and_claim(session, &a, &run).await;
        calls.cancel(session, &b, &run).await;
        calls.close(session, world).await;
        calls.reap(world).await;
        calls.limits(world).await;
        calls.again(&run).await;
        calls.schedules(&format!("nightly{nth}"), &nightly, &launcher).await;
        calls.backfill(world, &nightly, &launcher).await;
    }
}

/// A store behind a proxy, one without, and what is done to the next COMMIT.
struct Calls<'a> {
    store: &'a Store,
    direct: &'a Arc<Store>,
    proxy: &'a PostgresProxy,
    fault: CommitFault,
}

impl Calls<'_> {
    /// Makes a call whose first COMMIT is hit, and sees that it was.
    async fn hit<T>(&self, what: &str, call: impl Future<Output = Result<T, StoreError>>) -> T {
        let before = self.proxy.fired();
        self.proxy.on_commit(0, self.fault);
        let told = tokio::time::timeout(PATIENCE, call).await;
        let told = told.unwrap_or_else(|_| panic!("{what} under {:?} never returned", self.fault));
        let told = told.unwrap_or_else(|error| panic!("{what} under {:?}: {error:?}", self.fault));
        let hit = tokio::time::timeout(PATIENCE, self.proxy.until_fired(before + 1)).await;
        assert!(hit.is_ok(), "{what}: its COMMIT was hit");
        told
    }

    async fn session(&self, ttl: Duration) -> SessionId {
        let session = SessionId::from_uuid(Uuid::new_v4());
        let new = NewSession { session, kind: "worker", ttl };
        self.hit("open_session", self.store.open_session(&new)).await;
        session
    }

    async fn create(&self, world: &mut World) -> Submitted {
        let new = world.prepared("calls", "acme");
        let state = self.hit("create_run", self.store.create_run(&new)).await;
        assert_eq!(state, RunState::Running);
        assert_eq!(self.direct.run_state(&new.tenant, new.run).await.expect("there"), RunState::Running);
        world.acknowledge(&new)
    }

    async fn claim(&self, session: SessionId, run: &Submitted, task: &str) -> Claim {
        let request = request(session, run);
        let mut claims = self.hit("claim", self.store.claim(&request)).await;
        assert_eq!(claims.len(), 1, "claim under {:?}", self.fault);
        let claim = claims.remove(0);
        assert_eq!(claim.identity.instance.task.as_str(), task);
        let held = self.direct.heartbeat(session, TTL * 20).await.expect("ok").expect("in force");
        let told: Vec<_> = held.iter().map(|it| (it.run, it.epoch)).collect();
        assert_eq!(
            told,
            [(run.run, claim.identity.epoch)],
            "what it was told is what it holds, under {:?}",
            self.fault
        );
        claim
    }

    async fn heartbeat(&self, session: SessionId, holds: usize) {
        let held = self.hit("heartbeat", self.store.heartbeat(session, TTL * 20)).await;
        assert_eq!(held.map(|held| held.len()), Some(holds));
    }

    /// A failure, and the wake-up of its retry.
    async fn retry(&self, world: &World, session: SessionId, claim: &Claim, run: &Submitted) {
        let outcome =
            Outcome::Failed { kind: FailureKind::Transient, class: ErrorClass::System, message: "told to".to_owned() };
        let reports = [report(session, claim, outcome)];
        let finished = self.hit("finish", self.store.finish(&reports, None)).await;
        assert!(
            matches!(finished.receipts[..], [Receipt::Recorded { task: TaskState::RetryWait, .. }]),
            "{finished:?}"
        );
        // Due after a millisecond.
        tokio::time::sleep(Duration::from_millis(20)).await;
        let scope = ClaimScope::Run { tenant: run.tenant.clone(), run: run.run };
        self.hit("wake_retries", self.store.wake_retries(&scope)).await;
        let ready = format!("SELECT state FROM task_instance WHERE run = '{}' AND task = 'a'", run.run);
        assert_eq!(world.sql(&ready), "ready");
    }

    async fn finish_and_claim(&self, session: SessionId, claim: &Claim, run: &Submitted) -> Claim {
        let next = Next { request: request(session, run), others_wait: false };
        let reports = [report(session, claim, Outcome::Succeeded { outputs: json!({}), registry: Vec::new() })];
        let mut finished = self.hit("finish", self.store.finish(&reports, Some(&next))).await;
        assert!(
            matches!(finished.receipts[..], [Receipt::Recorded { task: TaskState::Succeeded, .. }]),
            "{finished:?}"
        );
        assert_eq!(finished.claims.len(), 1, "finish under {:?}", self.fault);
        finished.claims.remove(0)
    }

    async fn cancel(&self, session: SessionId, claim: &Claim, run: &Submitted) {
        let state = self.hit("cancel", self.store.cancel(&run.tenant, run.run)).await;
        assert_eq!(state, RunState::Canceling);
        let outcome =
            Outcome::Failed { kind: FailureKind::Canceled, class: ErrorClass::System, message: "told to".to_owned() };
        let reports = [report(session, claim, outcome)];
        let finished = self.hit("finish", self.store.finish(&reports, None)).await;
        let [Receipt::Recorded { run: state, .. }] = finished.receipts[..] else { panic!("{finished:?}") };
        assert_eq!(state, RunState::Canceled);
    }

    async fn close(&self, session: SessionId, world: &World) {
        self.hit("close_session", self.store.close_session(session)).await;
        assert!(self.direct.heartbeat(session, TTL).await.expect("ok").is_none(), "closed");
        assert_eq!(world.sql(&format!("SELECT COUNT(*) FROM worker_session WHERE session = '{session}'")), "1");
    }

    async fn reap(&self, world: &mut World) {
        let run = self.create(world).await;
        let session = SessionId::from_uuid(Uuid::new_v4());
        let new = NewSession { session, kind: "worker", ttl: Duration::from_millis(50) };
        self.direct.open_session(&new).await.expect("ok");
        assert_eq!(self.direct.claim(&request(session, &run)).await.expect("claims").len(), 1);
        let expired = format!(
            "SELECT COUNT(*) FROM worker_session WHERE session = '{session}' \
             AND expires_at < extract(epoch FROM clock_timestamp()) * 1000000"
        );
        while world.sql(&expired) == "0" {}
        let lost = self.hit("reap", self.store.reap(Duration::ZERO)).await;
        assert_eq!(lost.len(), 1, "reap under {:?}", self.fault);
        assert_eq!(world.attempts(&run, "a"), ["lost"]);
    }

    /// A rerun and a replay of a canceled run.
    async fn again(&self, run: &Submitted) {
        let request = RerunRequest { task: None, index: None, actor: "chaos".to_owned(), reason: None };
        let made = self.hit("rerun", self.store.rerun(&run.tenant, run.run, &request)).await;
        assert_eq!((made.state, made.instances.len()), (RunState::Running, 1), "rerun under {:?}", self.fault);
        self.direct.cancel(&run.tenant, run.run).await.expect("canceled");
        let origin = self.direct.origin(&run.tenant, run.run).await.expect("there");
        let folder = tempfile::tempdir().expect("a folder");
        let artifacts = ArtifactStore::open(&folder.path().display().to_string()).expect("opens");
        let made = RunId::from_uuid(Uuid::now_v7());
        let actor = "chaos".to_owned();
        let asked = Asked { run: made, selection: Selection::All, is_verify: false, latest: None, actor };
        let replay = replay::prepare(&origin, &Arc::new(artifacts), asked).await.expect("a plan");
        let state = self.hit("create_replay", replay.create(self.store)).await;
        assert_eq!(state, RunState::Running);
        assert_eq!(self.direct.run_state(&run.tenant, made).await.expect("there"), RunState::Running);
        self.direct.cancel(&run.tenant, made).await.expect("canceled");
    }

    /// A schedule of a tenant of this fault's is put in force, paused, goes on, comes due and starts.
    async fn schedules(&self, whose: &str, dag: &Arc<Dag>, launcher: &Launcher) {
        let midnight = parse_rfc3339("2026-03-10T00:00:00Z").expect("a moment");
        let file = format!("[tenant]\nid = \"{whose}\"\n[dags.nightly]\n");
        let (tenant, _) = tenant::parse("-", &file).expect("a tenant");
        let (tenants, dags) = ([tenant], [Arc::clone(dag)]);
        let (rows, _) = subscriptions(&dags, &tenants, &CalendarTexts::new(), midnight);
        self.direct.apply_limits(&tenants, &BTreeMap::new()).await.expect("applied");
        let none = Retired::default();
        self.hit("apply_schedules", self.store.apply_schedules(&dags, &rows, &none, midnight)).await;
        let scope = PauseScope { dag: None, tenant: Some(tenants[0].id.clone()) };
        assert!(self.hit("pause", self.store.pause(&scope, "chaos", None)).await);
        assert!(self.hit("resume", self.store.resume(&scope, midnight)).await);
        let mut firing = Firing::default();
        let hour = 60 * 60_000_000;
        let (made, _) = self.hit("fire", firing.run_once(self.store, launcher, midnight + hour)).await;
        assert_eq!(made, 1, "fire under {:?}", self.fault);
        let admitted = self.hit("admit", self.store.admit()).await;
        let [(tenant, run)] = &admitted.started[..] else { panic!("admit under {:?}: {admitted:?}", self.fault) };
        assert_eq!(self.direct.run_state(tenant, *run).await.expect("there"), RunState::Running);
        self.direct.cancel(tenant, *run).await.expect("canceled");
        self.direct.pause(&scope, "chaos", None).await.expect("nothing else of it comes due");
    }

    async fn backfill(&self, world: &World, dag: &Arc<Dag>, launcher: &Launcher) {
        let tenant = TenantId::parse("filled").expect("an id");
        let fires: Vec<PastFire> = (1..=3).map(|at| PastFire(at, at - 1, at)).collect();
        let (id, params) = (BackfillId::from_uuid(Uuid::now_v7()), serde_json::Map::new());
        let new = NewBackfill {
            id,
            tenant: &tenant,
            dag,
            range: (0, 3),
            order: BackfillOrder::Asc,
            reprocess: Reprocess::All,
            params: &params,
            max_active: 1,
            fires: &fires,
            actor: "chaos",
        };
        self.hit("create_backfill", self.store.create_backfill(&new)).await;
        let made = self.hit("make_backfill_runs", backfill::run_once(self.store, launcher)).await;
        assert_eq!(made, 3, "backfill under {:?}", self.fault);
        let before =
            self.hit("control_backfill", self.store.control_backfill(&tenant, id, BackfillState::Canceled)).await;
        assert_eq!(before, Some(BackfillState::Running));
        let counted = format!("SELECT COUNT(*) FROM run WHERE backfill = '{id}' AND state = 'canceled'");
        assert_eq!(world.sql(&counted), "3");
    }

    async fn limits(&self, world: &World) {
        let pools = BTreeMap::from([("gpu".to_owned(), 2)]);
        self.hit("apply_limits", self.store.apply_limits(&[], &pools)).await;
        assert_eq!(world.sql("SELECT pool || slots FROM pool"), "gpu2");
        self.hit("apply_limits", self.store.apply_limits(&[], &BTreeMap::new())).await;
    }
}

fn request(session: SessionId, run: &Submitted) -> ClaimRequest {
    let scope = ClaimScope::Run { tenant: run.tenant.clone(), run: run.run };
    ClaimRequest { session, scope, limit: 4, lately: BTreeMap::new() }
}

fn report(session: SessionId, claim: &Claim, outcome: Outcome) -> Finish {
    Finish { identity: claim.identity.clone(), session, outcome, artifacts: Vec::new(), inputs: Vec::new(), memo: None }
}
