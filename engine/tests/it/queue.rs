//! The queue's promises on SQLite and Postgres: fair share, quotas, pools, fan-out, leases, drains.
//!
//! Each scenario is a function over a fresh store, as in `store`.

use std::collections::BTreeMap;
use std::time::Duration;

use headworks_engine::id::TenantId;
use headworks_engine::plan::FailureKind;
use headworks_engine::run::{RunState, TaskState};
use headworks_engine::scheduler::maintenance::{reap::Reaper, reconcile::Reconciler};
use headworks_engine::store::{ClaimRequest, ClaimScope, Next, Receipt};
use headworks_engine::tenant;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::store::{Bed, any, broken, finish, numbers, on_both, succeeded};

on_both!(
    a_chain_is_claimed_with_its_finishes,
    a_report_claims_by_turn_what_waits_and_what_it_made_ready,
    a_report_gives_the_slots_on_that_it_gives_back,
    what_one_tenant_leaves_another_takes,
    slots_go_to_whoever_holds_least,
    a_quota_is_never_exceeded,
    a_pool_is_shared_and_does_not_block_others,
    a_list_fans_out,
    an_empty_list_skips_and_no_list_fails,
    only_so_many_elements_are_in_flight,
    the_reaper_gives_back_what_a_dead_session_held,
    a_heartbeat_tells_what_is_held_and_what_is_canceled,
    a_drain_hands_back,
    a_server_runs_what_comes_and_nothing_needs_repair,
    cancels_and_finishes_race,
    waits_that_take_too_long_fail,
    what_a_closed_session_left_is_given_back,
);

const CHAIN: &str = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\n[tasks.b]\nkind = \"fake\"\nneeds = [\"a\"]\n";

async fn a_chain_is_claimed_with_its_finishes(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let session = bed.session().await;
    let a = bed.claim(session, 1).await.remove(0);
    let before = bed.store.commits();
    let next = Next { request: any(session, 1), others_wait: false };
    let finished = bed.store.finish(&[finish(session, &a, succeeded(json!({})))], Some(&next)).await.expect("ok");
    assert_eq!(finished.claims.len(), 1, "b came with the finish of a");
    assert_eq!(bed.store.commits() - before, 1, "in one commit");
    assert!(!finished.left_ready);
    let b = &finished.claims[0];
    assert_eq!((b.identity.attempt.0, b.identity.epoch.0), (1, 1));
    assert_eq!(bed.states(&run).await[1].1, TaskState::Running);
    bed.report(&[finish(session, b, succeeded(json!({})))]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
}

async fn a_report_claims_by_turn_what_waits_and_what_it_made_ready(bed: Bed) {
    let diamond = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\npriority = 9\n[tasks.old]\nkind = \"fake\"\n\
        priority = 1\n[tasks.urgent]\nkind = \"fake\"\npriority = 5\nneeds = [\"a\"]\n[tasks.late]\nkind = \"fake\"\n\
        needs = [\"a\"]\n";
    let run = bed.start(diamond).await;
    let session = bed.session().await;
    let a = bed.claim(session, 1).await.remove(0);
    let next = Next { request: any(session, 2), others_wait: true };
    let before = bed.store.commits();
    let finished = bed.store.finish(&[finish(session, &a, succeeded(json!({})))], Some(&next)).await.expect("ok");
    let claimed: Vec<_> = finished.claims.iter().map(|claim| claim.identity.instance.task.to_string()).collect();
    assert_eq!(claimed, ["urgent", "old"], "by priority, whether it was ready before or is now");
    assert_eq!(bed.store.commits() - before, 1, "in one commit");
    assert!(finished.left_ready, "`late` waits");
    let stands: BTreeMap<_, _> =
        bed.states(&run).await.into_iter().map(|(id, state)| (id.to_string(), state)).collect();
    assert_eq!((stands["urgent"], stands["late"]), (TaskState::Running, TaskState::Ready));
    let all: Vec<_> = finished.claims.iter().map(|claim| finish(session, claim, succeeded(json!({})))).collect();
    let last = bed.store.finish(&all, Some(&next)).await.expect("ok").claims;
    bed.report(&[finish(session, &last[0], succeeded(json!({})))]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
}

/// The database counts an attempt as running until the report is flushed that ends it.
async fn a_report_gives_the_slots_on_that_it_gives_back(bed: Bed) {
    let text = "[tenant]\nid = \"limited\"\nstatus = \"active\"\n[quotas]\nrunning_tasks = 1\n[dags.t]\n";
    let (limited, _) = tenant::parse("limited.toml", text).expect("a tenant");
    bed.store.apply_limits(&[limited], &BTreeMap::from([("gpu".to_owned(), 1)])).await.expect("applied");
    bed.start_for("limited", &wide(2, "")).await;
    bed.start_for("pooled", &wide(2, "pool = \"gpu\"\n")).await;
    let session = bed.session().await;
    let first = bed.claim(session, 8).await;
    assert_eq!(first.len(), 2, "one for each limit");
    let next = Next { request: any(session, 8), others_wait: true };
    let finishes: Vec<_> = first.iter().map(|claim| finish(session, claim, succeeded(json!({})))).collect();
    let second = bed.store.finish(&finishes, Some(&next)).await.expect("ok").claims;
    assert_eq!(second.len(), 2, "the next of each, and no more: {second:?}");
}

async fn what_one_tenant_leaves_another_takes(bed: Bed) {
    bed.start_for("big", &wide(50, "")).await;
    bed.start_for("small", &wide(1, "")).await;
    let session = bed.session().await;
    assert_eq!(bed.claim(session, 8).await.len(), 8, "one of them is the small one's");
}

fn wide(width: usize, more: &str) -> String {
    format!("[dag]\nid = \"t\"\n[tasks.w]\nkind = \"fake\"\nmatrix = {{ n = [{}] }}\n{more}", numbers(width))
}

async fn slots_go_to_whoever_holds_least(bed: Bed) {
    bed.start_for("big", &wide(50, "")).await;
    bed.start_for("small", &wide(2, "")).await;
    let session = bed.session().await;
    let count = |claims: &[headworks_engine::store::Claim]| {
        claims.iter().filter(|claim| claim.identity.tenant.as_str() == "small").count()
    };
    let first = bed.claim(session, 4).await;
    assert_eq!((first.len(), count(&first)), (4, 2), "half of them, though the others are older");
    let second = bed.claim(session, 4).await;
    assert_eq!((second.len(), count(&second)), (4, 0), "what the small one does not need goes on");
    // With nothing in use, what was used lately decides.
    bed.start_for("small", &wide(1, "")).await;
    let all: Vec<_> = first.iter().chain(&second).map(|claim| finish(session, claim, succeeded(json!({})))).collect();
    bed.report(&all).await;
    let lately = BTreeMap::from([(TenantId::parse("big").expect("valid"), 0.9)]);
    let request = ClaimRequest { session, scope: ClaimScope::Any, limit: 1, lately };
    let third = bed.store.claim(&request).await.expect("claims");
    assert_eq!(count(&third), 1);
}

async fn a_quota_is_never_exceeded(bed: Bed) {
    let text = "[tenant]\nid = \"acme\"\nstatus = \"active\"\nweight = 1.0\n[quotas]\nrunning_tasks = 3\n[dags.t]\n";
    let (spec, _) = tenant::parse("acme.toml", text).expect("a tenant");
    bed.store.apply_limits(&[spec], &BTreeMap::new()).await.expect("applied");
    let run = bed.start(&wide(40, "")).await;
    let mut claimers = Vec::new();
    for _ in 0..6 {
        let (store, session) = (bed.store.clone(), bed.session().await);
        claimers.push(tokio::spawn(async move { store.claim(&any(session, 2)).await.expect("claims").len() }));
    }
    let mut claimed = 0;
    for claimer in claimers {
        claimed += claimer.await.expect("no panic");
    }
    assert_eq!(claimed, 3, "six claimers of two each");
    let running = bed.states(&run).await.iter().filter(|(_, state)| *state == TaskState::Running).count();
    assert_eq!(running, 3);
}

async fn a_pool_is_shared_and_does_not_block_others(bed: Bed) {
    bed.store.apply_limits(&[], &BTreeMap::from([("gpu".to_owned(), 2)])).await.expect("applied");
    let toml = wide(10, "pool = \"gpu\"\npriority = 9\n[tasks.light]\nkind = \"fake\"\n");
    bed.start(&toml).await;
    let session = bed.session().await;
    let claims = bed.claim(session, 5).await;
    let mut names: Vec<_> = claims.iter().map(|claim| claim.identity.instance.task.to_string()).collect();
    names.sort();
    assert_eq!(names, ["light", "w", "w"], "two of the pool, and what needs none");
    assert!(bed.claim(session, 5).await.is_empty());
    let pooled = claims.iter().find(|claim| claim.identity.instance.task.as_str() == "w").expect("one");
    bed.report(&[finish(session, pooled, succeeded(json!({})))]).await;
    assert_eq!(bed.claim(session, 5).await.len(), 1, "a slot dies with its attempt");
}

const FAN_OUT: &str = r#"
[dag]
id = "t"
[tasks.split]
kind = "fake"
[tasks.each]
kind = "fake"
needs = ["split"]
for_each = "{{tasks.split.outputs.folds}}"
with = { outputs = { twice = "{{matrix.item}}", at = "{{matrix.index}}" } }
[tasks.join]
kind = "fake"
needs = ["each"]
"#;

async fn a_list_fans_out(bed: Bed) {
    let toml = FAN_OUT.replace(
        "[tasks.split]\nkind = \"fake\"",
        "[tasks.split]\nkind = \"fake\"\nwith = { outputs = { folds = [\"x\", { k = 1 }, 3] } }",
    );
    let run = bed.start(&toml).await;
    assert_eq!(bed.execute(&run).await.expect("ends"), RunState::Succeeded);
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    let names: Vec<_> = view.tasks.iter().map(|task| task.instance.to_string()).collect();
    assert_eq!(names, ["split", "each[0]", "each[1]", "each[2]", "join"]);
    let outputs = &view.outputs["each"];
    assert_eq!(outputs[0], json!({ "twice": "x", "at": 0 }));
    assert_eq!(outputs[1]["twice"], json!({ "k": 1 }));
    assert_eq!(outputs[2], json!({ "twice": 3, "at": 2 }));
    assert!(view.tasks.iter().all(|task| task.state == TaskState::Succeeded && task.attempts == 1));
}

async fn an_empty_list_skips_and_no_list_fails(bed: Bed) {
    for (folds, states, code) in [
        ("[]", [TaskState::Skipped, TaskState::Skipped], "fan_out_empty"),
        ("7", [TaskState::Failed, TaskState::UpstreamFailed], "fan_out_broken"),
    ] {
        let outputs = format!("[tasks.split]\nkind = \"fake\"\nwith = {{ outputs = {{ folds = {folds} }} }}");
        let run = bed.start(&FAN_OUT.replace("[tasks.split]\nkind = \"fake\"", &outputs)).await;
        bed.execute(&run).await.expect("ends");
        let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
        assert_eq!([view.tasks[1].state, view.tasks[2].state], states, "{folds}");
        assert_eq!(view.tasks[1].reason.as_ref().map(|reason| reason.code()), Some(code));
    }
}

async fn only_so_many_elements_are_in_flight(bed: Bed) {
    let list: Vec<usize> = (0..10).collect();
    let run = bed.start(&FAN_OUT.replace("for_each", "max_in_flight = 3\nfor_each")).await;
    let session = bed.session().await;
    let split = bed.claim(session, 9).await.remove(0);
    bed.report(&[finish(session, &split, succeeded(json!({ "folds": list })))]).await;
    let mut held = bed.claim(session, 99).await;
    let mut seen = held.len();
    assert_eq!(held.len(), 3);
    while let Some(claim) = held.pop() {
        bed.report(&[finish(session, &claim, succeeded(json!({})))]).await;
        let more = bed.claim(session, 99).await;
        if claim.identity.instance.task.as_str() == "each" {
            seen += more.iter().filter(|claim| claim.identity.instance.task.as_str() == "each").count();
        }
        held.extend(more);
        let names: Vec<_> = held.iter().map(|claim| claim.identity.instance.to_string()).collect();
        assert!(held.len() <= 3, "{names:?}");
    }
    assert_eq!((seen, bed.run_state(&run).await), (10, RunState::Succeeded));
}

async fn the_reaper_gives_back_what_a_dead_session_held(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let dead = bed.session_of(Duration::from_millis(30)).await;
    let claim = bed.claim(dead, 1).await.remove(0);
    let mut reaper = Reaper::new(Duration::from_secs(60));
    // Its lease ends by the database's clock: ask until it has.
    while reaper.run_once(&bed.store).await.expect("looked") == 0 {
        tokio::task::yield_now().await;
    }
    let heir = bed.session().await;
    let newer = bed.claim(heir, 1).await.remove(0);
    assert_eq!((newer.identity.attempt.0, newer.identity.epoch.0), (2, 2));
    assert_eq!(bed.report(&[finish(dead, &claim, succeeded(json!({})))]).await, [Receipt::Refused]);
    assert!(bed.store.heartbeat(dead, Duration::from_secs(60)).await.expect("ok").is_none());
    bed.report(&[finish(heir, &newer, succeeded(json!({})))]).await;
    assert_eq!(bed.states(&run).await[0].1, TaskState::Succeeded);
}

async fn a_heartbeat_tells_what_is_held_and_what_is_canceled(bed: Bed) {
    let (kept, gone) = (bed.start(CHAIN).await, bed.start(CHAIN).await);
    let session = bed.session().await;
    assert_eq!(bed.claim(session, 2).await.len(), 2);
    bed.store.cancel(&gone.tenant, gone.run).await.expect("ok");
    let held = bed.store.heartbeat(session, Duration::from_secs(60)).await.expect("ok").expect("in force");
    let mut told: Vec<_> = held.iter().map(|it| (it.run, it.is_canceled)).collect();
    told.sort_by_key(|(_, canceled)| *canceled);
    assert_eq!(told, [(kept.run, false), (gone.run, true)]);
}

async fn a_drain_hands_back(bed: Bed) {
    let toml = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\nwith = { hang = true }\n";
    let run = bed.start(toml).await;
    let (drain, executor) = (CancellationToken::new(), bed.executor());
    let (sender, mut progress) = mpsc::unbounded_channel();
    let serving = tokio::spawn({
        let drain = drain.clone();
        async move { executor.serve("worker", sender, drain, Duration::from_millis(20)).await }
    });
    assert!(progress.recv().await.is_some(), "it began");
    drain.cancel();
    serving.await.expect("no panic").expect("drained");
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    assert_eq!((view.tasks[0].state, view.tasks[0].attempts), (TaskState::Ready, 1), "another worker may take it");
    let events = bed.store.events(&run.tenant, run.run).await.expect("events");
    assert!(!events.iter().any(|event| event.detail.as_deref().is_some_and(|it| it.contains("worker_lost"))));
}

async fn a_server_runs_what_comes_and_nothing_needs_repair(bed: Bed) {
    let (drain, executor) = (CancellationToken::new(), bed.executor());
    let (sender, mut progress) = mpsc::unbounded_channel();
    let serving = tokio::spawn({
        let drain = drain.clone();
        async move { executor.serve("worker", sender, drain, Duration::from_secs(5)).await }
    });
    let toml = format!("{}[tasks.z]\nkind = \"fake\"\nneeds = [\"w\"]\n", wide(64, ""));
    let mut runs = Vec::new();
    for _ in 0..5 {
        runs.push(bed.start(&toml).await);
    }
    let mut left = 5 * 65;
    while left > 0 {
        if let headworks_engine::executor::Progress::Finished { state, .. } = progress.recv().await.expect("goes on") {
            assert_eq!(state, TaskState::Succeeded);
            left -= 1;
        }
    }
    drain.cancel();
    serving.await.expect("no panic").expect("drained");
    let mut reconciler = Reconciler::default();
    for run in &runs {
        assert_eq!(bed.run_state(run).await, RunState::Succeeded);
    }
    for _ in 0..2 {
        assert_eq!(reconciler.run_once(&bed.store).await.expect("looked"), 0);
    }
}

async fn cancels_and_finishes_race(bed: Bed) {
    for round in 0..30 {
        let run = bed.start(&format!("{CHAIN}retries = {{ max = 5 }}\n")).await;
        let session = bed.session().await;
        let a = bed.claim(session, 1).await.remove(0);
        let outcome = if round % 2 == 0 { succeeded(json!({})) } else { broken(FailureKind::Transient) };
        let reports = [finish(session, &a, outcome)];
        let (report, cancel) = tokio::join!(bed.store.finish(&reports, None), bed.store.cancel(&run.tenant, run.run));
        report.expect("recorded");
        cancel.expect("canceled");
        let mut reconciler = Reconciler::default();
        for _ in 0..2 {
            assert_eq!(reconciler.run_once(&bed.store).await.expect("looked"), 0, "round {round}");
        }
        let state = bed.run_state(&run).await;
        assert!(matches!(state, RunState::Canceled | RunState::Failed), "round {round}: {state}");
    }
}

async fn waits_that_take_too_long_fail(bed: Bed) {
    let toml = "[dag]\nid = \"t\"\n[tasks.queued]\nkind = \"fake\"\ntimeout = { queue = \"1ms\" }\n\
                [tasks.retried]\nkind = \"fake\"\ntimeout = { total = \"1ms\" }\nretries = { max = 9, initial = \"1h\" }\n\
                [tasks.patient]\nkind = \"fake\"\ntimeout = { queue = \"1h\", total = \"1h\" }\n";
    let run = bed.start(toml).await;
    let session = bed.session().await;
    // Not by `expire_waits`, which would fail it while it is ready.
    let claims = bed.claim(session, 3).await;
    let of = |task: &str| claims.iter().find(|claim| claim.identity.instance.task.as_str() == task).expect("claimed");
    bed.report(&[finish(session, of("retried"), broken(FailureKind::Transient))]).await;
    bed.report(&[finish(session, of("queued"), broken(FailureKind::HandedBack))]).await;
    bed.report(&[finish(session, of("patient"), broken(FailureKind::HandedBack))]).await;
    let mut failed = 0;
    for _ in 0..2_000 {
        failed += bed.store.expire_waits().await.expect("looked");
        if failed == 2 {
            break;
        }
    }
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("there");
    let found: Vec<_> = view.tasks.iter().map(|task| (task.state, task.reason.as_ref().map(|it| it.code()))).collect();
    let late = (TaskState::Failed, Some("waited_too_long"));
    assert_eq!(found, [late, late, (TaskState::Ready, Some("waiting_for_slot"))]);
}

async fn what_a_closed_session_left_is_given_back(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let gone = bed.session().await;
    bed.claim(gone, 1).await;
    bed.store.close_session(gone).await.expect("closed");
    let mut reaper = Reaper::new(Duration::from_secs(60));
    assert_eq!(reaper.run_once(&bed.store).await.expect("looked"), 1, "its lease has not ended, but it is over");
    assert_eq!(reaper.run_once(&bed.store).await.expect("looked"), 0);
    assert_eq!(bed.states(&run).await[0].1, TaskState::Ready);
}
