//! Many at once, and clocks that jump: F13, F20, F25, F29.
//!
//! F13 and F25 call stores of this process, several handles with connections of their own: a race by
//! the thousand needs no more processes.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::id::SessionId;
use engine::plan::FailureKind;
use engine::run::{RunState, TaskState, is_terminal};
use engine::store::{Claim, ClaimRequest, ClaimScope, Finish, NewSession, Outcome, Receipt, Store};
use engine::task::ErrorClass;
use serde_json::json;
use testkit::{Dice, build_preload};
use uuid::Uuid;

use super::World;
use super::dag::{INLINE, head, steps, task};
use super::world::{PATIENCE, Submitted};

fn claims_of(session: SessionId, run: &Submitted, limit: usize) -> ClaimRequest {
    let scope = ClaimScope::Run { tenant: run.tenant.clone(), run: run.run };
    ClaimRequest { session, scope, limit, lately: BTreeMap::new() }
}

fn report(session: SessionId, claim: &Claim, outcome: Outcome) -> Finish {
    Finish { identity: claim.identity.clone(), session, outcome, artifacts: Vec::new(), inputs: Vec::new(), memo: None }
}

fn good() -> Outcome {
    Outcome::Succeeded { outputs: json!({}), registry: Vec::new() }
}

fn bad(kind: FailureKind) -> Outcome {
    Outcome::Failed { kind, class: ErrorClass::System, message: "told to".to_owned() }
}

async fn session(store: &Store, ttl: Duration) -> SessionId {
    let session = SessionId::from_uuid(Uuid::new_v4());
    store.open_session(&NewSession { session, kind: "worker", ttl }).await.expect("a session");
    session
}

/// Stores with connections of their own, as processes have.
async fn stores(world: &mut World, count: usize) -> Vec<Arc<Store>> {
    let mut stores = vec![world.store().await];
    while stores.len() < count {
        stores.push(Arc::new(world.open(world.url()).await));
    }
    stores
}

const HOUR: Duration = Duration::from_secs(3600);

/// F13: 50 clients cancel, claim and finish one run at once. Every call returns, none with an error.
pub(crate) async fn f13_clients(world: &mut World) {
    let keys = "retries = { max = 9, initial = \"1ms\" }\nmatrix = { n = [1, 2, 3, 4, 5, 6, 7, 8] }";
    let last = "needs = [\"w\"]\ntrigger_rule = \"all_done\"";
    world.dag(&[head("busy"), task(world, "w", keys, ":"), task(world, "z", last, ":")].concat());
    let stores = stores(world, 5).await;
    for round in 0..4 {
        let run = world.submit("busy").await;
        let mut clients = Vec::new();
        for client in 0..50 {
            let (store, run) = (Arc::clone(&stores[client % stores.len()]), run.clone());
            let dice = Dice::new(world.dice.draw(), "client");
            clients.push(tokio::spawn(client_of(store, run, dice, round % 2 == 0)));
        }
        for client in clients {
            let ended = tokio::time::timeout(PATIENCE, client).await;
            ended.expect("its loop ends").expect("no error");
        }
        let state = stores[0].run_state(&run.tenant, run.run).await.expect("there");
        assert!(is_terminal(state), "round {round}: {state}");
    }
}

async fn client_of(store: Arc<Store>, run: Submitted, mut dice: Dice, cancels: bool) {
    let session = session(&store, HOUR).await;
    let mut calm = 0;
    while calm < 5 {
        if cancels && dice.happens(60) {
            store.cancel(&run.tenant, run.run).await.expect("canceled");
        }
        let scope = ClaimScope::Run { tenant: run.tenant.clone(), run: run.run };
        store.wake_retries(&scope).await.expect("woken");
        let claims = store.claim(&claims_of(session, &run, 2)).await.expect("claimed");
        calm = if claims.is_empty() { calm + 1 } else { 0 };
        for claim in &claims {
            let outcome = if dice.happens(200) { bad(FailureKind::Transient) } else { good() };
            let receipts = store.finish(&[report(session, claim, outcome)], None).await.expect("recorded").receipts;
            assert!(matches!(receipts[..], [Receipt::Recorded { .. }]), "{receipts:?}");
        }
        if !is_terminal(store.run_state(&run.tenant, run.run).await.expect("there")) {
            // Somebody has to be there for the last retry.
            calm = 0;
        }
    }
}

/// F25: 64 parents finish at once, through four stores: the join is made ready once, and the run ends.
pub(crate) async fn f25_fan_in(world: &mut World) {
    let numbers: Vec<_> = (0..64).map(|n| n.to_string()).collect();
    let keys = format!("matrix = {{ n = [{}] }}", numbers.join(", "));
    world.dag(&[head("wide"), task(world, "w", &keys, ":"), task(world, "z", "needs = [\"w\"]", ":")].concat());
    let stores = stores(world, 4).await;
    let session = session(&stores[0], HOUR).await;
    for _ in 0..5 {
        let run = world.submit("wide").await;
        let claims = stores[0].claim(&claims_of(session, &run, 99)).await.expect("claims");
        assert_eq!(claims.len(), 64);
        let finishing = claims.into_iter().enumerate().map(|(at, claim)| {
            let store = Arc::clone(&stores[at % stores.len()]);
            tokio::spawn(async move { store.finish(&[report(session, &claim, good())], None).await })
        });
        for done in finishing.collect::<Vec<_>>() {
            let receipts = done.await.expect("no panic").expect("recorded").receipts;
            assert!(matches!(receipts[..], [Receipt::Recorded { task: TaskState::Succeeded, .. }]), "{receipts:?}");
        }
        let join = stores[1].claim(&claims_of(session, &run, 9)).await.expect("claims");
        assert_eq!(join.len(), 1, "the join is ready: no wake-up was lost");
        stores[2].finish(&[report(session, &join[0], good())], None).await.expect("recorded");
        assert_eq!(stores[3].run_state(&run.tenant, run.run).await.expect("there"), RunState::Succeeded);
    }
}

/// F25: pairs that race: cancel and finish, two outcomes of one attempt, heartbeat and reap. Who wins is
/// open; that exactly one does is not.
pub(crate) async fn f25_pairs(world: &mut World) {
    world.dag(&[head("one"), task(world, "a", "retries = 2", ":")].concat());
    let stores = stores(world, 2).await;
    let (one, two) = (Arc::clone(&stores[0]), Arc::clone(&stores[1]));
    for round in 0..if super::is_long() { 150 } else { 60 } {
        let run = world.submit("one").await;
        let ttl = if round % 3 == 2 { Duration::from_millis(120) } else { HOUR };
        let holder = session(&one, ttl).await;
        let claim = one.claim(&claims_of(holder, &run, 1)).await.expect("claims").remove(0);
        let reports = [report(holder, &claim, good())];
        match round % 3 {
            0 => {
                let (finished, canceled) = tokio::join!(one.finish(&reports, None), two.cancel(&run.tenant, run.run));
                finished.expect("recorded");
                canceled.expect("canceled");
            }
            1 => {
                let late = FailureKind::TimedOut { limit: Duration::from_secs(1) };
                let others = [report(holder, &claim, bad(late))];
                let (first, second) = tokio::join!(one.finish(&reports, None), two.finish(&others, None));
                let receipts = [first.expect("ok").receipts.remove(0), second.expect("ok").receipts.remove(0)];
                let refused = receipts.iter().filter(|it| **it == Receipt::Refused).count();
                assert_eq!(refused, 1, "round {round}: {receipts:?}");
            }
            _ => {
                let wait = world.dice.within(110, 130);
                tokio::time::sleep(Duration::from_millis(wait)).await;
                let (beat, reaped) = tokio::join!(one.heartbeat(holder, HOUR), two.reap(Duration::ZERO));
                let (beat, lost) = (beat.expect("ok"), reaped.expect("ok").len());
                assert!(beat.is_none() || lost == 0, "round {round}: renewed, and lost all the same");
                let receipts = two.finish(&reports, None).await.expect("ok").receipts;
                assert_eq!(receipts[0] == Receipt::Refused, lost == 1, "round {round}: {receipts:?}, {lost} lost");
            }
        }
        one.cancel(&run.tenant, run.run).await.expect("canceled");
    }
    world.start("worker-a", &[]).await;
    let open = "SELECT COUNT(*) FROM run WHERE state NOT IN ('succeeded', 'failed', 'canceled')";
    let deadline = Instant::now() + PATIENCE;
    while world.sql(open) != "0" {
        assert!(Instant::now() < deadline, "{} runs have not ended", world.sql(open));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// F20: one worker's clock is an hour ahead and jumps back, another's the other way round. Leases are the
/// database's: nobody loses anything, and what is recorded has the database's time.
pub(crate) async fn f20_clocks(world: &mut World) {
    let library = build_preload(&world.bench.path("."));
    world.dag(&steps(world));
    let mut clocks = Vec::new();
    for (name, seconds) in [("worker-ahead", 3600), ("worker-behind", -3600)] {
        let clock = world.bench.path(&format!("clock-{name}"));
        std::fs::write(&clock, seconds.to_string()).expect("written");
        let (library, path) = (library.display().to_string(), clock.display().to_string());
        world.start(name, &[("LD_PRELOAD", &library), ("CHAOS_CLOCK", &path)]).await;
        clocks.push((clock, seconds));
    }
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(world.submit("steps").await);
    }
    for _ in 0..4 {
        let pause = world.dice.within(300, 1200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        for (clock, seconds) in &mut clocks {
            *seconds = -*seconds;
            std::fs::write(clock, seconds.to_string()).expect("written");
        }
    }
    world.open_gate("go");
    world.until_succeeded(&runs, PATIENCE).await;
    assert_eq!(world.sql("SELECT COUNT(*) FROM attempt WHERE state <> 'succeeded'"), "0");
    let astray = "SELECT COUNT(*) FROM event WHERE abs(at / 1000000 - extract(epoch FROM now())) > 600";
    assert_eq!(world.sql(astray), "0", "recorded at a worker's time of day");
}

/// F29: one tenant has a storm of ready tasks, another one: it starts at once.
pub(crate) async fn f29_storm(world: &mut World) {
    let runs = 2;
    let numbers: Vec<_> = (0..10_000).map(|n| n.to_string()).collect();
    let matrix = format!("matrix = {{ n = [{}] }}", numbers.join(", "));
    let toml = format!(
        "{}[tasks.w]\nkind = \"command\"\n{matrix}\n{INLINE}\nwith = {{ program = \"true\" }}\n",
        head("storm")
    );
    world.dag(&toml);
    world.dag(&[head("calm"), task(world, "a", "", ":")].concat());
    world.leave_open();
    for _ in 0..runs {
        world.submit_for("storm", "storm").await;
    }
    world.start("worker-a", &[]).await;
    let deadline = Instant::now() + PATIENCE;
    while world.sql("SELECT COUNT(*) FROM attempt WHERE state = 'succeeded'").parse::<u32>().expect("a count") < 20 {
        assert!(Instant::now() < deadline, "the storm has begun");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    for _ in 0..3 {
        let run = world.submit_for("calm", "calm").await;
        let asked = Instant::now();
        let name = run.run.to_string();
        world.ledger.until(PATIENCE, |it| it.run == name).await;
        let waited = asked.elapsed();
        assert!(waited < Duration::from_secs(2), "it waited {waited:?} behind {runs}0,000 tasks of another tenant");
        world.until_succeeded(&[run], PATIENCE).await;
    }
}
