//! The database and what lies before it: F4, F9 to F12; F11 call by call is in `calls`.

use std::time::{Duration, Instant};

use testkit::{CommitFault, Cut, Line, PostgresProxy, Shutdown};

use super::World;
use super::dag::{chain, head, steps, task};
use super::process::until_gone;
use super::world::{PATIENCE, TTL, secret_url};

/// What may happen to a COMMIT.
pub(crate) const FAULTS: [CommitFault; 3] =
    [CommitFault::CutBefore, CommitFault::CutAfter, CommitFault::CutThenForward(Duration::from_millis(150))];

/// F4: the worker dies when its COMMIT has arrived and before it knows.
pub(crate) async fn f4_kill_before_the_answer(world: &mut World) {
    world.dag(&chain(world, "chain", 4));
    let proxy = PostgresProxy::start(world.url());
    let url = secret_url(proxy.url(), "x");
    let victim = world.start("worker-a", &[("HEADWORKS_STORE_URL", &url)]).await;
    proxy.on_commit(world.dice.within(0, 6), CommitFault::Hold);
    let runs = [world.submit("chain").await, world.submit("chain").await];
    let fired = tokio::time::timeout(PATIENCE, proxy.until_fired(1)).await;
    fired.expect("it commits now and then");
    world.process(victim).kill();
    world.start("worker-b", &[]).await;
    world.until_succeeded(&runs, PATIENCE).await;
    for run in &runs {
        for at in 0..4 {
            let ended = world.attempts(run, &format!("t{at}"));
            let good = ended.iter().filter(|state| *state == "succeeded").count();
            assert_eq!(good, 1, "t{at}: {ended:?}");
        }
    }
}

/// Leases where every worker has to live: longer than a server takes to come back, or a few heartbeats in a row
/// are lost, on a machine that is busy with other scenarios. Who is away for longer than a lease loses its attempts,
/// as it should.
const LONG_LEASE: Duration = Duration::from_secs(12);
/// The same, for a process.
const LONG_LEASE_SET: (&str, &str) = ("HEADWORKS_EXECUTOR_LEASE_TTL_SECONDS", "12");

/// F9: the server is restarted again and again under load. No attempt of a live worker is lost.
pub(crate) async fn f9_restarts(world: &mut World) {
    world.dag(&chain(world, "chain", 3));
    world.dag(&[head("slow"), task(world, "long", "", "sleep 2")].concat());
    let mut fleet = Vec::new();
    for name in ["serve-a", "worker-a", "worker-b"] {
        fleet.push(world.start(name, &[LONG_LEASE_SET]).await);
    }
    let rounds = if super::is_long() { 20 } else { 4 };
    let mut runs = vec![world.submit("slow").await];
    let store = world.store().await;
    for _ in 0..rounds {
        for dag in ["chain", "chain", "slow"] {
            let new = world.prepared(dag, "acme");
            // Refused or acknowledged; who is told neither asks again with the same id.
            if store.create_run(&new).await.is_ok() {
                runs.push(world.acknowledge(&new));
            }
        }
        let pause = world.dice.within(300, 1200);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        let how = *world.dice.pick(&[Shutdown::Fast, Shutdown::Immediate]);
        let went = Instant::now();
        world.cluster.as_mut().expect("a cluster").restart(how).expect("it comes back");
        assert!(went.elapsed() < LONG_LEASE / 2, "the server was away for {:?}", went.elapsed());
        for &at in &fleet {
            let process = world.process(at);
            assert!(process.is_alive(), "{} ended:\n{}", process.name(), process.said());
        }
    }
    world.until_succeeded(&runs, PATIENCE).await;
    assert_eq!(world.sql("SELECT COUNT(*) FROM attempt WHERE state = 'lost'"), "0", "every worker lived");
}

/// F10: kill -9 of single backends and of the postmaster. What was acknowledged is there, and ends.
pub(crate) async fn f10_kill_the_database(world: &mut World) {
    world.dag(&chain(world, "chain", 3));
    world.start("serve-a", &[LONG_LEASE_SET]).await;
    world.start("worker-a", &[LONG_LEASE_SET]).await;
    let store = world.store().await;
    let mut runs = Vec::new();
    for round in 0..3 {
        for _ in 0..4 {
            let new = world.prepared("chain", "acme");
            if store.create_run(&new).await.is_ok() {
                runs.push(world.acknowledge(&new));
            }
        }
        let pause = world.dice.within(50, 600);
        tokio::time::sleep(Duration::from_millis(pause)).await;
        if round == 1 {
            world.cluster.as_mut().expect("a cluster").restart(Shutdown::Kill).expect("it comes back");
        } else {
            let pids =
                "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
            let pids: Vec<i32> = world.sql(pids).lines().filter_map(|pid| pid.parse().ok()).collect();
            let victim = nix::unistd::Pid::from_raw(*world.dice.pick(&pids));
            nix::sys::signal::kill(victim, nix::sys::signal::Signal::SIGKILL).ok();
        }
    }
    assert!(!runs.is_empty(), "something was acknowledged");
    world.until_succeeded(&runs, PATIENCE).await;
}

/// F11 under load: a worker whose COMMITs get lost in every way; it lives, and loses nothing.
pub(crate) async fn f11_commits_get_lost(world: &mut World) {
    world.dag(&chain(world, "chain", 4));
    let proxy = PostgresProxy::start(world.url());
    let url = secret_url(proxy.url(), "x");
    let worker = world.start("worker-a", &[("HEADWORKS_STORE_URL", &url), LONG_LEASE_SET]).await;
    proxy.on_commits(world.dice.clone(), 100, &FAULTS);
    let mut runs = Vec::new();
    // Work that ends in few COMMITs may get away; then there is more of it.
    while runs.len() < 12 || proxy.fired() < 3 {
        assert!(runs.len() < 120, "{} faults", proxy.fired());
        let more = [world.submit("chain").await, world.submit("chain").await, world.submit("chain").await];
        if runs.len() >= 9 {
            world.until_succeeded(&more, PATIENCE).await;
        }
        runs.extend(more);
    }
    world.until_succeeded(&runs, PATIENCE).await;
    proxy.spare();
    assert!(world.process(worker).is_alive());
    assert_eq!(world.sql("SELECT COUNT(*) FROM attempt WHERE state = 'lost'"), "0", "the worker lived");
}

/// F12: nothing passes for two TTL, and nothing is closed. The worker fences itself: its child is dead
/// before another's attempt can begin. When the line is back, it works again.
pub(crate) async fn f12_black_hole(world: &mut World) {
    world.dag(&steps(world));
    let proxy = PostgresProxy::start(world.url());
    let url = secret_url(proxy.url(), "x");
    let cut_off = world.start("worker-a", &[("HEADWORKS_STORE_URL", &url)]).await;
    let run = world.submit("steps").await;
    let first = world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    world.start("worker-b", &[]).await;
    let moment = world.dice.within(0, 1000);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    proxy.hole(true);
    let opened = Instant::now();
    let took = until_gone(first.pid, TTL * 2).await;
    assert!(took <= TTL, "the child was gone after {took:?}, and its lease ended after {TTL:?}");
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.attempt == 2).await;
    tokio::time::sleep((TTL * 2).saturating_sub(opened.elapsed())).await;
    proxy.hole(false);
    world.open_gate("go");
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    assert_eq!(world.attempts(&run, "b"), ["lost", "succeeded"]);
    assert!(world.process(cut_off).is_alive());
    // Only the one that was cut off is left to do this.
    let other = world.by_name("worker-b");
    world.process(other).kill();
    let again = world.submit("steps").await;
    world.until_succeeded(&[again], PATIENCE).await;
}

/// F12: the client is gone in the middle of transactions and the server does not know. Locks that its
/// backend still holds stop nobody for long.
pub(crate) async fn f12_half_open(world: &mut World) {
    world.dag(&chain(world, "chain", 3));
    let proxy = PostgresProxy::start(world.url());
    let url = secret_url(proxy.url(), "x");
    let victim = world.start("worker-a", &[("HEADWORKS_STORE_URL", &url)]).await;
    let mut runs = Vec::new();
    for _ in 0..6 {
        runs.push(world.submit("chain").await);
    }
    world.ledger.until(PATIENCE, |it| it.phase == "end").await;
    // Slow, so that the cut comes in the middle of a transaction.
    proxy.line(Line { delay: Duration::from_millis(40), ..Line::default() });
    let moment = world.dice.within(100, 500);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    proxy.line(Line { refuses: true, ..Line::default() });
    proxy.cut(Cut::HalfOpen);
    world.process(victim).kill();
    world.start("worker-b", &[]).await;
    world.until_succeeded(&runs, PATIENCE).await;
}

/// A bad line: slow, throttled, cut in the middle of messages. Nothing is lost.
pub(crate) async fn f12_bad_line(world: &mut World) {
    world.dag(&chain(world, "chain", 3));
    let proxy = PostgresProxy::start(world.url());
    let url = secret_url(proxy.url(), "x");
    let worker = world.start("worker-a", &[("HEADWORKS_STORE_URL", &url), LONG_LEASE_SET]).await;
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(world.submit("chain").await);
    }
    let delay = Duration::from_millis(world.dice.within(1, 8));
    proxy.line(Line { delay, bytes_per_second: Some(400_000), ..Line::default() });
    for round in 1..=6 {
        proxy.cut_after_bytes(world.dice.within(1, 4_000));
        let started = Instant::now();
        // Somebody has to talk on the line, or nothing is ever cut.
        while tokio::time::timeout(TTL / 6, proxy.until_fired(round)).await.is_err() {
            assert!(started.elapsed() < PATIENCE, "bytes pass all the time");
            runs.push(world.submit("chain").await);
        }
    }
    proxy.cut(Cut::Reset);
    proxy.line(Line::default());
    world.until_succeeded(&runs, PATIENCE).await;
    assert!(world.process(worker).is_alive());
    assert_eq!(world.sql("SELECT COUNT(*) FROM attempt WHERE state = 'lost'"), "0", "the worker lived");
}
