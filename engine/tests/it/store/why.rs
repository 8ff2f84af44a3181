//! "Why?" for every state, and on a run that is too large to be loaded; what runs where; timelines.

use std::sync::Arc;
use std::time::{Duration, Instant};

use headworks_engine::dag::Dag;
use headworks_engine::id::{SessionId, TaskId};
use headworks_engine::plan::FailureKind;
use headworks_engine::run::TaskState;
use headworks_engine::store::{EventFilter, NewRun, StoreError, Why, Window};
use serde_json::json;

use super::{Bed, CHAIN, CONDITION, GRAPH, RETRY, broken, finish, numbers, succeeded};

on_both!(
    what_waits_names_its_blockers_down_to_the_first,
    what_is_ready_names_who_holds_the_slots,
    what_runs_names_its_session,
    what_is_tried_again_says_when_and_after_what,
    the_dead_say_what_they_died_of,
    the_skipped_say_by_what,
    the_quarantined_name_their_workers,
    the_canceled_say_when,
    a_task_with_elements_is_answered_for_by_the_worst,
    what_waits_within_limits_names_them,
    an_empty_list_says_so,
    a_wide_run_is_counted_and_not_loaded,
    a_timeline_is_read_in_pages,
);

impl Bed {
    async fn why(&self, run: &NewRun, task: &str, index: Option<u32>) -> Why {
        let task = TaskId::parse(task).expect("valid");
        self.store.why(&run.tenant, run.run, &task, index).await.expect("an answer")
    }

    async fn one(&self, session: SessionId) -> headworks_engine::store::Claim {
        self.claim(session, 1).await.pop().expect("one is ready")
    }
}

fn codes(why: &Why) -> Vec<&'static str> {
    why.links.iter().map(|link| link.cause.code()).collect()
}

fn words(why: &Why) -> Vec<String> {
    why.links.iter().map(ToString::to_string).collect()
}

async fn what_waits_names_its_blockers_down_to_the_first(bed: Bed) {
    let long = format!("{CHAIN}[tasks.c]\nkind = \"fake\"\nneeds = [\"b\"]\n");
    let run = bed.start(&long).await;
    let why = bed.why(&run, "c", None).await;
    assert_eq!(why.state, TaskState::Waiting);
    assert_eq!(codes(&why), ["waiting_for_upstreams", "waiting_for_upstreams", "waiting_for_slot"]);
    assert_eq!(words(&why)[..2], ["c waits (all_success): b is waiting", "b waits (all_success): a is ready"]);
    let session = bed.session().await;
    bed.one(session).await;
    let why = bed.why(&run, "c", None).await;
    assert_eq!(codes(&why), ["waiting_for_upstreams", "waiting_for_upstreams", "running"]);
    assert!(words(&why)[2].contains(&session.to_string()), "{:?}", words(&why));
}

async fn what_is_ready_names_who_holds_the_slots(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let why = bed.why(&run, "a", None).await;
    assert_eq!(codes(&why), ["waiting_for_slot"]);
    assert!(words(&why)[0].contains("no worker is alive"), "{:?}", words(&why));
    let other = bed.start(CHAIN).await;
    let session = bed.session().await;
    let claim = bed.one(session).await;
    let waits = if claim.identity.run == run.run { &other } else { &run };
    let why = bed.why(waits, "a", None).await;
    let text = &words(&why)[0];
    assert!(text.contains(&format!("session {session} (run) runs 1 attempt, last heartbeat")), "{text}");
    assert!(text.contains("a is ready since 2"), "{text}");
}

async fn what_runs_names_its_session(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let session = bed.session().await;
    bed.one(session).await;
    let why = bed.why(&run, "a", None).await;
    assert_eq!((why.state, codes(&why)), (TaskState::Running, vec!["running"]));
    let text = &words(&why)[0];
    assert!(text.contains(&format!("attempt 1 in session {session} (run) since")), "{text}");
    assert!(!text.contains("lease has ended"), "{text}");
    let (running, all) = bed.store.running(&run.tenant, run.run, 10).await.expect("ok");
    assert_eq!((running.len(), all), (1, 1));
    assert_eq!((running[0].session, running[0].alive), (session, true));
    bed.store.close_session(session).await.expect("closed");
    assert!(words(&bed.why(&run, "a", None).await)[0].contains("its lease has ended"));
    assert!(!bed.store.running(&run.tenant, run.run, 10).await.expect("ok").0[0].alive);
    // Given up: ready again, and the loss is told.
    bed.store.reclaim(&run.tenant, run.run).await.expect("ok");
    let why = bed.why(&run, "a", None).await;
    assert_eq!(codes(&why), ["waiting_for_slot", "worker_lost"]);
    assert!(words(&why)[1].contains(&format!("lost its worker in attempt 1, session {session}")), "{:?}", words(&why));
}

async fn what_is_tried_again_says_when_and_after_what(bed: Bed) {
    let run = bed.start(&RETRY.replace("\"1ms\"", "\"1h\"")).await;
    let session = bed.session().await;
    let claim = bed.one(session).await;
    bed.report(&[finish(session, &claim, broken(FailureKind::Transient))]).await;
    let why = bed.why(&run, "a", None).await;
    assert_eq!((why.state, codes(&why)), (TaskState::RetryWait, vec!["waiting_for_retry"]));
    let text = &words(&why)[0];
    // An hour, less up to a fifth of it at random.
    assert!(text.starts_with("a will be tried again at 2") && text.contains("(in "), "{text}");
    assert!(text.ends_with(" min); attempt 1 ended with a system error: it broke"), "{text}");
}

async fn the_dead_say_what_they_died_of(bed: Bed) {
    let run = bed.start(GRAPH).await;
    let session = bed.session().await;
    let claim = bed.one(session).await;
    bed.report(&[finish(session, &claim, broken(FailureKind::Permanent))]).await;
    let why = bed.why(&run, "c", None).await;
    assert_eq!(why.state, TaskState::UpstreamFailed);
    assert_eq!(codes(&why), ["upstream_failed", "upstream_failed", "attempt_failed"]);
    let expected = [
        "c could not run (all_success): b upstream_failed",
        "b could not run (all_success): a failed",
        "a failed; attempt 1 ended with a system error: it broke",
    ];
    assert_eq!(words(&why), expected);
    let late = bed.start(CHAIN).await;
    let claim = loop {
        let claim = bed.one(session).await;
        if claim.identity.run == late.run {
            break claim;
        }
    };
    let limit = Duration::from_secs(3);
    bed.report(&[finish(session, &claim, broken(FailureKind::TimedOut { limit }))]).await;
    assert_eq!(codes(&bed.why(&late, "a", None).await), ["attempt_timed_out"]);
    assert_eq!(codes(&bed.why(&late, "b", None).await), ["upstream_failed", "attempt_timed_out"]);
}

async fn the_skipped_say_by_what(bed: Bed) {
    let run = bed.start(GRAPH).await;
    let why = bed.why(&run, "after_never", None).await;
    assert_eq!(codes(&why), ["rule_not_met", "condition_false"]);
    let expected =
        ["after_never was skipped (all_success): never skipped", "never was skipped: its `if` was false: false"];
    assert_eq!(words(&why), expected);
    let run = bed.start(CONDITION).await;
    let session = bed.session().await;
    loop {
        let claim = bed.one(session).await;
        if claim.identity.run == run.run {
            bed.report(&[finish(session, &claim, succeeded(json!({ "n": 4 })))]).await;
            break;
        }
    }
    let why = bed.why(&run, "no", None).await;
    assert_eq!(words(&why), ["no was skipped: its `if` was false: {{gt tasks.a.outputs.n 5}}"]);
    let why = bed.why(&run, "broken", None).await;
    assert_eq!((why.state, codes(&why)), (TaskState::Failed, vec!["condition_broken"]));
    assert_eq!(codes(&bed.why(&run, "a", None).await), ["succeeded"]);
}

async fn the_quarantined_name_their_workers(bed: Bed) {
    let run = bed.start(CHAIN).await;
    let mut sessions = Vec::new();
    for _ in 0..3 {
        let session = bed.session().await;
        bed.one(session).await;
        bed.store.reclaim(&run.tenant, run.run).await.expect("ok");
        sessions.push(session);
    }
    let why = bed.why(&run, "b", None).await;
    assert_eq!(codes(&why), ["upstream_failed", "quarantined", "worker_lost", "worker_lost", "worker_lost"]);
    let words = words(&why);
    assert!(words[1].contains("its worker was lost 3 times"), "{words:?}");
    for (word, session) in words[2..].iter().zip(sessions.iter().rev()) {
        assert!(word.contains(&session.to_string()), "the latest first: {words:?}");
    }
}

async fn the_canceled_say_when(bed: Bed) {
    let run = bed.start(CHAIN).await;
    bed.store.cancel(&run.tenant, run.run).await.expect("ok");
    let why = bed.why(&run, "b", None).await;
    assert_eq!((why.state, codes(&why)), (TaskState::Canceled, vec!["run_canceled"]));
    assert!(words(&why)[0].contains("the cancel was asked for at 2"), "{:?}", words(&why));
}

async fn a_task_with_elements_is_answered_for_by_the_worst(bed: Bed) {
    let wide = format!(
        "[dag]\nid = \"t\"\n[tasks.w]\nkind = \"fake\"\nmatrix = {{ n = [{}] }}\n\
         [tasks.z]\nkind = \"fake\"\nneeds = [\"w\"]\ntrigger_rule = \"all_done\"\n",
        numbers(30)
    );
    let run = bed.start(&wide).await;
    let session = bed.session().await;
    let claims = bed.claim(session, 20).await;
    let end = |at: usize| if at == 7 { broken(FailureKind::Permanent) } else { succeeded(json!({})) };
    let finishes: Vec<_> = claims[..10].iter().enumerate().map(|(at, it)| finish(session, it, end(at))).collect();
    bed.report(&finishes).await;
    let why = bed.why(&run, "w", None).await;
    assert_eq!(why.instance.index, Some(7));
    assert_eq!(codes(&why), ["elements", "attempt_failed"]);
    let expected = "w[7] is one of 30 elements: 10 ready, 10 running, 9 succeeded, 1 failed";
    assert_eq!(words(&why)[0], expected);
    assert_eq!(codes(&bed.why(&run, "w", Some(3)).await), ["succeeded"]);
    let why = bed.why(&run, "z", None).await;
    let expected = "z waits (all_done): 20 of 30 elements of w are not done (10 ready, 10 running)";
    assert_eq!(words(&why)[0], expected);
    assert_eq!((&why.links[1].instance.index, codes(&why)[1]), (&Some(20), "waiting_for_slot"));
    for (task, index) in [("w", Some(30)), ("z", Some(0)), ("no_such", None)] {
        let task = TaskId::parse(task).expect("valid");
        let missing = bed.store.why(&run.tenant, run.run, &task, index).await.expect_err("not there");
        assert!(matches!(missing, StoreError::NoInstance { .. }), "{missing}");
    }
}

async fn what_waits_within_limits_names_them(bed: Bed) {
    let pooled =
        "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\npool = \"gpu\"\n[tasks.b]\nkind = \"fake\"\npool = \"gpu\"\n";
    let text = "[tenant]\nid = \"acme\"\nstatus = \"active\"\n[quotas]\nrunning_tasks = 4\n";
    let (acme, _) = headworks_engine::tenant::parse("acme.toml", text).expect("valid");
    bed.store.apply_limits(&[acme], &[("gpu".to_owned(), 1)].into()).await.expect("ok");
    let run = bed.start(pooled).await;
    let session = bed.session().await;
    assert_eq!(bed.claim(session, 2).await.len(), 1);
    let why = bed.why(&run, "b", None).await;
    let text = &words(&why)[0];
    assert!(text.contains("; tenant acme uses 1 of 4; pool gpu uses 1 of 1; session"), "{text}");
}

async fn an_empty_list_says_so(bed: Bed) {
    for (items, state, codes_of_each) in [
        ("[]", TaskState::Skipped, ["fan_out_empty", "rule_not_met"]),
        ("7", TaskState::Failed, ["fan_out_broken", "upstream_failed"]),
    ] {
        let toml = format!(
            "[dag]\nid = \"t\"\n[tasks.list]\nkind = \"fake\"\nwith = {{ outputs = {{ items = {items} }} }}\n\
             [tasks.each]\nkind = \"fake\"\nneeds = [\"list\"]\nfor_each = \"{{{{tasks.list.outputs.items}}}}\"\n\
             [tasks.z]\nkind = \"fake\"\nneeds = [\"each\"]\n"
        );
        let run = bed.start(&toml).await;
        bed.execute(&run).await.expect("ends");
        let why = bed.why(&run, "each", Some(0)).await;
        assert_eq!((why.state, codes(&why)), (state, vec![codes_of_each[0]]));
        let why = bed.why(&run, "z", None).await;
        assert_eq!(codes(&why), [codes_of_each[1], codes_of_each[0]]);
    }
}

/// More elements than a DAG file may ask for: what a task that fans out at run time would have.
const WIDE: u32 = 100_000;

async fn a_wide_run_is_counted_and_not_loaded(bed: Bed) {
    let toml = "[dag]\nid = \"t\"\n[tasks.gate]\nkind = \"fake\"\n[tasks.split]\nkind = \"fake\"\nneeds = [\"gate\"]\n\
                matrix = { n = [0] }\n[tasks.z]\nkind = \"fake\"\nneeds = [\"split\"]\n\
                [tasks.last]\nkind = \"fake\"\nneeds = [\"z\"]\n";
    let mut run = bed.new_run(toml);
    let mut dag = Dag::clone(&run.dag);
    let split = dag.node(&TaskId::parse("split").expect("valid")).expect("a node");
    dag.graph[split].matrix = vec![dag.graph[split].matrix[0].clone(); WIDE as usize];
    run.dag = Arc::new(dag);
    bed.store.create_run(&run).await.expect("created");

    let started = Instant::now();
    let why = bed.why(&run, "last", None).await;
    let took = started.elapsed();
    let words = words(&why);
    assert_eq!(words[0], "last waits (all_success): z is waiting");
    let expected = "z waits (all_success): 100,000 of 100,000 elements of split are not done (100,000 waiting)";
    assert_eq!(words[1..3], [expected, "split[0] waits (all_success): gate is ready"]);
    assert!(words[3].starts_with("gate is ready since"), "{words:?}");
    // 100 ms are promised of a release build; this one is not optimized, and shares its machine.
    assert!(took < Duration::from_secs(1), "{took:?}");

    let page = Window { offset: 1, limit: 4, elements: None };
    let view = bed.store.run_page(&run.tenant, run.run, &page).await.expect("ok");
    let names: Vec<_> = view.tasks.iter().map(|it| it.instance.to_string()).collect();
    assert_eq!(names, ["split[0]", "split[1]", "split[2]", "split[3]"]);
    assert_eq!(view.instances, u64::from(WIDE) + 3);
    let small = Window { elements: Some(20), ..Window::default() };
    let view = bed.store.run_page(&run.tenant, run.run, &small).await.expect("ok");
    let names: Vec<_> = view.tasks.iter().map(|it| it.instance.to_string()).collect();
    assert_eq!(names, ["gate", "z", "last"]);
    let groups = bed.store.task_groups(&run.tenant, run.run).await.expect("ok");
    let groups: Vec<_> = groups.iter().map(|it| (it.task.as_str(), it.state.as_str(), it.instances)).collect();
    let expected = [("gate", "ready", 1), ("split", "waiting", 100_000), ("z", "waiting", 1), ("last", "waiting", 1)];
    assert_eq!(groups, expected);
}

async fn a_timeline_is_read_in_pages(bed: Bed) {
    let run = bed.start(CHAIN).await;
    bed.execute(&run).await.expect("ends");
    let page = |task: Option<&str>, offset, limit| {
        let task = task.map(|task| TaskId::parse(task).expect("valid"));
        let filter = EventFilter { task, index: None, offset, limit };
        let (store, run) = (Arc::clone(&bed.store), run.clone());
        async move { store.event_page(&run.tenant, run.run, &filter).await }
    };
    let whole = page(None, 0, 100).await.expect("ok");
    let shown: Vec<_> = whole
        .events
        .iter()
        .map(|it| format!("{} {}", it.instance.as_ref().map_or("run".into(), ToString::to_string), it.event))
        .collect();
    let expected = [
        "run run_started",
        "a task_became_ready",
        "a task_claimed",
        "a task_succeeded",
        "b task_became_ready",
        "b task_claimed",
        "b task_succeeded",
        "run run_succeeded",
    ];
    assert_eq!(shown, expected, "cause before effect");
    assert_eq!(whole.total, 8);
    let part = page(None, 6, 5).await.expect("ok");
    assert_eq!((part.events.as_slice(), part.total), (&whole.events[6..], 8));
    let of_b = page(Some("b"), 0, 2).await.expect("ok");
    assert_eq!((of_b.events.as_slice(), of_b.total), (&whole.events[4..6], 3));
    let missing = page(Some("no_such"), 0, 2).await.expect_err("not there");
    assert!(matches!(missing, StoreError::NoInstance { .. }), "{missing}");
}
