//! Processes that die, hang or are told to go: F1 to F3, F5, F6, F8, F21, F22, F28.

use std::time::Duration;

use engine::run::{RunState, TaskState};
use nix::sys::signal::Signal;

use super::World;
use super::dag::{chain, head, inline_chain, process_chain, steps, task, wait_at};
use super::process::until_gone;
use super::world::{PATIENCE, TTL};

/// Two servers and three workers.
async fn fleet(world: &mut World) -> Vec<usize> {
    let mut fleet = Vec::new();
    for name in ["serve-a", "serve-b", "worker-a", "worker-b", "worker-c"] {
        fleet.push(world.launch(name, &[]));
    }
    for at in &fleet {
        let word = if *at < 2 { "serving http" } else { "working for" };
        world.process(*at).until_says(word, PATIENCE).await;
    }
    fleet
}

/// F1: kill -9 of the process that runs a task. Its child is gone within a second, the attempt is
/// lost, the next one runs once.
pub(crate) async fn f1_kill_in_mid_task(world: &mut World) {
    world.dag(&steps(world));
    fleet(world).await;
    let run = world.submit("steps").await;
    let began = world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    let moment = world.dice.within(0, 400);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    let holder = world.holder(&run, "b");
    world.by_pid(holder).kill();
    until_gone(began.pid, Duration::from_secs(1)).await;
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.attempt == 2).await;
    world.open_gate("go");
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    assert_eq!(world.attempts(&run, "b"), ["lost", "succeeded"]);
    let starts = |name: &str| world.ledger.of(name, "start").len();
    assert_eq!((starts("a"), starts("b"), starts("c")), (1, 2, 1));
}

/// F1 on SQLite: the one server is killed, and started again.
pub(crate) async fn f1_kill_the_only_server(world: &mut World) {
    world.dag(&steps(world));
    let run = world.submit("steps").await;
    let server = world.start("serve", &[]).await;
    let began = world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    let moment = world.dice.within(0, 400);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    world.process(server).kill();
    until_gone(began.pid, Duration::from_secs(1)).await;
    world.start("serve", &[]).await;
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.attempt == 2).await;
    world.open_gate("go");
    world.until_succeeded(&[run], PATIENCE).await;
    let starts = |name: &str| world.ledger.of(name, "start").len();
    assert_eq!((starts("a"), starts("b"), starts("c")), (1, 2, 1));
}

/// F2: the process dies between its claim and its first heartbeat.
pub(crate) async fn f2_kill_after_the_claim(world: &mut World) {
    world.dag(&chain(world, "chain", 3));
    let victim = world.start("worker-a", &[("FAILPOINTS", "claim.after_commit=abort")]).await;
    let run = world.submit("chain").await;
    world.process(victim).ended(PATIENCE).await;
    world.start("worker-b", &[]).await;
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    assert_eq!(world.attempts(&run, "t0"), ["lost", "succeeded"]);
    assert_eq!(world.ledger.of("t0", "start").len(), 1, "the lost attempt never began");
}

/// F3: the process dies when an artifact was put and its attempt not yet finished: the object stays
/// invisible, and the next attempt publishes under its own epoch.
pub(crate) async fn f3_kill_after_the_put(world: &mut World) {
    world.dag(&inline_chain(world, "chain", 2));
    let many = if world.seed.is_multiple_of(2) { "1*off->abort" } else { "abort" };
    let run = world.submit("chain").await;
    let victim = world.start("worker-a", &[("FAILPOINTS", &format!("publish.after_put={many}"))]).await;
    world.process(victim).ended(PATIENCE).await;
    let known = world.sql("SELECT COUNT(*) FROM artifact");
    let (rows, files): (usize, usize) = (known.parse().expect("a count"), objects(world));
    assert_eq!(files, rows + 1, "one object that no row names");
    world.start("worker-b", &[]).await;
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    assert_eq!(world.view(&run).await.artifacts.len(), 2, "one per task, none of the lost attempt");
    assert_eq!(objects(world), 3, "the orphan is evidence until it is collected");
}

/// F3, one level down: the attempt's own process dies after each put. Nothing of it is visible, the worker
/// lives, and the third loss puts the task aside.
pub(crate) async fn f3_crash_after_the_put(world: &mut World) {
    world.dag(&process_chain(world, "chain", 2));
    let run = world.submit("chain").await;
    let worker = world.start("worker-a", &[("FAILPOINTS", "publish.after_put=abort")]).await;
    assert_eq!(world.until_ended(&run, PATIENCE).await, RunState::Failed);
    assert_eq!(world.attempts(&run, "t0"), ["lost", "lost", "lost"]);
    assert_eq!(world.sql("SELECT COUNT(*) FROM artifact"), "0", "nothing of a crashed attempt is visible");
    assert_eq!(objects(world), 3, "one object per attempt, which no row names");
    assert!(world.process(worker).is_alive());
}

/// Objects of the chain's tasks, whether or not a row names them.
fn objects(world: &World) -> usize {
    let folder = world.bench.path("artifacts/objects");
    let found = std::process::Command::new("find").arg(folder).args(["-name", "out.txt"]).output();
    String::from_utf8_lossy(&found.expect("find runs").stdout).lines().count()
}

/// F5: a server dies at a failpoint, once per failpoint; others go on.
pub(crate) async fn f5_kill_a_server_at_every_failpoint(world: &mut World) {
    world.dag(&inline_chain(world, "chain", 4));
    world.start("worker-a", &[("HEADWORKS_EXECUTOR_SLOTS", "1")]).await;
    for place in ["claim.after_commit", "finish.before_commit", "finish.after_commit", "publish.after_put"] {
        let after = world.dice.within(1, 5);
        let spec = format!("{place}={after}*off->abort");
        let server = world.start("serve", &[("FAILPOINTS", &spec)]).await;
        let mut runs = Vec::new();
        for _ in 0..8 {
            runs.push(world.submit("chain").await);
        }
        world.until_succeeded(&runs, PATIENCE).await;
        if world.process(server).is_alive() {
            // The worker was faster: it never came that far.
            world.process(server).signal(Signal::SIGTERM);
            world.process(server).ended(PATIENCE).await;
        }
    }
}

/// F5: the process that reaps dies in the middle of it.
pub(crate) async fn f5_kill_the_reaper(world: &mut World) {
    world.dag(&steps(world));
    let victim = world.start("worker-a", &[]).await;
    let run = world.submit("steps").await;
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    let reaper = world.start("worker-b", &[("FAILPOINTS", "reap.after_select=abort")]).await;
    world.process(victim).kill();
    world.process(reaper).ended(PATIENCE).await;
    assert_eq!(world.attempts(&run, "b"), ["running"], "half a reaping is none");
    world.start("worker-c", &[]).await;
    world.open_gate("go");
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    assert_eq!(world.attempts(&run, "b"), ["lost", "succeeded"]);
}

/// F6: SIGSTOP past the lease, then SIGCONT. What the zombie still writes is refused, its child is
/// killed, the second attempt is untouched.
pub(crate) async fn f6_stop_past_the_lease(world: &mut World) {
    world.dag(&steps(world));
    let zombie = world.start("worker-a", &[]).await;
    let run = world.submit("steps").await;
    let first = world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    world.process(zombie).signal(Signal::SIGSTOP);
    world.start("worker-b", &[]).await;
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.attempt == 2).await;
    // Half of the zombies find that their child has ended well meanwhile, and report that.
    let reports_late = world.seed.is_multiple_of(2);
    if reports_late {
        world.open_gate("go");
        world.ledger.until(PATIENCE, |it| it.phase == "end" && it.pid == first.pid).await;
        world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    }
    world.process(zombie).signal(Signal::SIGCONT);
    until_gone(first.pid, TTL).await;
    if !reports_late {
        world.ledger.until(PATIENCE, |it| it.task == "b" && it.attempt == 2).await;
        world.open_gate("go");
        world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
        let ended = world.ledger.of("b", "end");
        assert!(ended.iter().all(|it| it.pid != first.pid), "the zombie's child was killed before its end: {ended:?}");
    }
    assert_eq!(world.attempts(&run, "b"), ["lost", "succeeded"]);
    assert!(world.process(zombie).is_alive(), "a worker that lost its lease begins anew");
    // And works again.
    let again = world.submit("steps").await;
    world.until_succeeded(&[again], PATIENCE).await;
}

/// F7: two schedulers' chores, one process stopped in the middle of them and continued. A lost attempt is
/// lost once, and what the stopped one still had in mind changes nothing.
pub(crate) async fn f7_two_schedulers(world: &mut World) {
    world.dag(&steps(world));
    let victim = world.start("worker-a", &[]).await;
    let run = world.submit("steps").await;
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    // Half of them are stopped where it hurts most: with the lost attempts' rows locked.
    let place = if world.seed.is_multiple_of(2) { "reap.after_select=1*sleep(1500)" } else { "" };
    let stopped = world.start("serve-a", &[("FAILPOINTS", place)]).await;
    world.start("serve-b", &[]).await;
    world.process(victim).kill();
    if place.is_empty() {
        let moment = world.dice.within(2000, 3600);
        tokio::time::sleep(Duration::from_millis(moment)).await;
    } else {
        world.until_said(&["serve-a", "serve-b"], &["reap.after_select", "the worker is gone"]).await;
    }
    world.process(stopped).signal(Signal::SIGSTOP);
    // The stopped one may have claimed the second attempt and not begun it.
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.attempt >= 2).await;
    let moment = world.dice.within(0, 1500);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    world.process(stopped).signal(Signal::SIGCONT);
    world.open_gate("go");
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    // The stopped process may have held an attempt itself.
    let ended = world.attempts(&run, "b");
    let (last, before) = ended.split_last().expect("attempts");
    assert_eq!(last, "succeeded");
    assert!(before.iter().all(|state| state == "lost") && before.len() <= 2, "{ended:?}");
}

/// F8: two workers that are alike in everything, name included: one is killed, none harms the other.
pub(crate) async fn f8_two_workers_of_one_name(world: &mut World) {
    world.dag(&chain(world, "chain", 3));
    world.dag(&[head("pooled"), task(world, "p", "pool = \"narrow\"", "sleep 0.2")].concat());
    world.bench.write("dags/tenants/small.toml", "[tenant]\nid = \"small\"\n\n[quotas]\nrunning_tasks = 1\n");
    world.bench.write("headworks.toml", "[pools]\nnarrow = 1\n");
    let one = world.launch("worker", &[("HOSTNAME", "same")]);
    let two = world.launch("worker", &[("HOSTNAME", "same")]);
    world.process(one).until_says("working for", PATIENCE).await;
    world.process(two).until_says("working for", PATIENCE).await;
    // A tenant's quota and a pool, which no moment may exceed.
    world.sample();
    let mut runs = Vec::new();
    for _ in 0..4 {
        runs.push(world.submit_for("chain", "small").await);
        runs.push(world.submit("pooled").await);
    }
    let victim = if world.dice.happens(500) { one } else { two };
    let moment = world.dice.within(0, 300);
    tokio::time::sleep(Duration::from_millis(moment)).await;
    world.process(victim).kill();
    world.until_succeeded(&runs, PATIENCE).await;
    let sessions = world.sql("SELECT COUNT(DISTINCT session) FROM worker_session");
    assert!(sessions.parse::<u32>().expect("a count") >= 2, "{sessions}");
}

/// F21: tasks that do what tasks should not; workers and others' runs live on.
pub(crate) async fn f21_poison(world: &mut World) {
    let limit = "timeout = \"1s\"";
    let poisons = [
        ("segfault", "", "kill -SEGV $$"),
        ("killed", "", "kill -KILL $$"),
        ("patricide", "", "kill -KILL $PPID"),
        ("torrent", "", "head -c 100000000 /dev/zero"),
        ("stubborn", limit, "trap '' TERM; while :; do sleep 0.1; done"),
        ("escapes", "", "setsid sleep 3 & exit 1"),
        ("outputs", "", "head -c 5000000 /dev/zero > \"$HEADWORKS_OUTPUTS\""),
    ];
    for (name, more, body) in poisons {
        world.dag(&[head(name), task(world, "bad", more, body)].concat());
    }
    world.dag(&chain(world, "chain", 2));
    let worker = world.start("worker-a", &[]).await;
    let mut bad = Vec::new();
    for (name, ..) in poisons {
        bad.push((name, world.submit_for(name, "poison").await));
    }
    let mut good = Vec::new();
    for _ in 0..4 {
        good.push(world.submit("chain").await);
    }
    world.until_succeeded(&good, PATIENCE).await;
    for (name, run) in bad {
        let state = world.until_ended(&run, PATIENCE).await;
        let expected = if name == "torrent" { RunState::Succeeded } else { RunState::Failed };
        assert_eq!(state, expected, "{name}: {:?}", world.view(&run).await.tasks);
    }
    assert!(world.process(worker).is_alive());
    let status = std::fs::read_to_string(format!("/proc/{}/status", world.process(worker).pid())).expect("alive");
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak").trim().to_owned();
    let kib: u64 = peak.trim_end_matches(" kB").parse().expect("a number");
    assert!(kib < 400_000, "100 MB of output cost {peak} of memory");
}

/// F21: a task that kills its worker is put aside after three losses, and others' tasks are not.
pub(crate) async fn f21_quarantine(world: &mut World) {
    // The attempt's process is this shell's parent, and the worker is that one's.
    let body = "read -r _ _ _ worker _ < /proc/$PPID/stat; kill -KILL $worker";
    world.dag(&[head("killer"), task(world, "bad", "", body)].concat());
    world.dag(&chain(world, "chain", 2));
    let run = world.submit("killer").await;
    for round in 0..3 {
        let victim = world.start("worker-a", &[]).await;
        world.process(victim).ended(PATIENCE).await;
        assert_eq!(world.ledger.of("bad", "start").len(), round + 1);
    }
    world.start("worker-b", &[]).await;
    assert_eq!(world.until_ended(&run, PATIENCE).await, RunState::Failed);
    assert_eq!(world.view(&run).await.tasks[0].state, TaskState::Quarantined);
    assert_eq!(world.attempts(&run, "bad"), ["lost", "lost", "lost"]);
    let good = world.submit("chain").await;
    world.until_succeeded(&[good], PATIENCE).await;
}

/// F22: the DAG is edited, made invalid and deleted during a run, and the process that goes on with it
/// has never seen the old file.
pub(crate) async fn f22_the_dag_changes(world: &mut World) {
    world.dag(&steps(world));
    let first = world.start("worker-a", &[]).await;
    let run = world.submit("steps").await;
    world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    let file = world.bench.path("dags/steps.toml");
    match world.seed % 3 {
        0 => std::fs::remove_file(&file).expect("deleted"),
        1 => std::fs::write(&file, "[dag]\nid = \"steps\"\n[tasks.other]\nkind = \"command\"\n").expect("written"),
        _ => std::fs::write(&file, "this is [[ no TOML").expect("written"),
    }
    world.process(first).kill();
    world.start("serve", &[]).await;
    world.open_gate("go");
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    let names: Vec<_> = world.view(&run).await.tasks.iter().map(|it| it.instance.to_string()).collect();
    assert_eq!(names, ["a", "b", "c"], "the run keeps its version");
}

/// F28: SIGTERM. What can end within the grace ends; what can not is handed back; nothing is lost.
pub(crate) async fn f28_drain(world: &mut World) {
    let gate = wait_at(world, "go");
    let toml = [head("drain"), task(world, "short", "", "sleep 0.7"), task(world, "long", "", &gate)].concat();
    world.dag(&toml);
    let patient = world.seed.is_multiple_of(2);
    let grace = [("HEADWORKS_EXECUTOR_DRAIN_GRACE_SECONDS", if patient { "30" } else { "1.5" })];
    let leaving = world.start("worker-a", &grace).await;
    let run = world.submit("drain").await;
    for name in ["short", "long"] {
        world.ledger.until(PATIENCE, |it| it.task == name && it.phase == "start").await;
    }
    world.process(leaving).signal(Signal::SIGTERM);
    world.start("worker-b", &[]).await;
    if patient {
        // It has 30 s: whoever waits for the gate is not stopped before.
        world.ledger.until(PATIENCE, |it| it.task == "short" && it.phase == "end").await;
        world.open_gate("go");
    }
    let status = world.process(leaving).ended(PATIENCE).await;
    assert!(status.success(), "{status}");
    world.open_gate("go");
    world.until_succeeded(std::slice::from_ref(&run), PATIENCE).await;
    assert_eq!(world.attempts(&run, "short"), ["succeeded"]);
    let expected: &[&str] = if patient { &["succeeded"] } else { &["canceled", "succeeded"] };
    assert_eq!(world.attempts(&run, "long"), expected, "handed back, not lost");
}

/// On SQLite the one server goes and comes back.
pub(crate) async fn f28_drain_the_only_server(world: &mut World) {
    world.dag(&steps(world));
    let run = world.submit("steps").await;
    let server = world.start("serve", &[("HEADWORKS_EXECUTOR_DRAIN_GRACE_SECONDS", "0.5")]).await;
    let first = world.ledger.until(PATIENCE, |it| it.task == "b" && it.phase == "start").await;
    world.process(server).signal(Signal::SIGTERM);
    assert!(world.process(server).ended(PATIENCE).await.success());
    until_gone(first.pid, Duration::from_secs(1)).await;
    world.start("serve", &[]).await;
    // No lease has to end first: it was handed back.
    world.ledger.until(TTL, |it| it.task == "b" && it.attempt == 2).await;
    world.open_gate("go");
    world.until_succeeded(&[run], PATIENCE).await;
}
