//! Reruns: which instances get a new generation, what they count and read, and who is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use headworks_engine::id::{RunId, TaskId};
use headworks_engine::plan::FailureKind;
use headworks_engine::run::{RunState, TaskState};
use headworks_engine::store::{Claim, Finish, NewRun, OpenMode, Receipt, RerunRequest, Store, StoreError};
use headworks_engine::task::Kinds;
use serde_json::json;
use uuid::Uuid;

use super::{Bed, broken, finish, succeeded, tenant};

on_both!(
    only_the_failed_branch_of_a_diamond_runs_again,
    only_the_failed_elements_of_a_matrix_run_again,
    a_rerun_task_reads_the_current_generation_of_its_producers,
    failed_elements_of_a_fan_out_run_again_a_few_at_a_time,
    a_fan_out_below_a_rerun_reads_its_list_anew,
    a_canceled_run_goes_on,
    a_second_rerun_makes_a_third_generation,
    one_task_runs_again_with_all_below_it,
    a_rerun_that_can_start_nothing_ends_again,
    what_can_not_be_rerun_is_refused,
    of_two_people_who_ask_at_once_one_is_refused,
    a_run_whose_dag_no_longer_fits_is_left_alone,
);

const DIAMOND: &str = r#"
[dag]
id = "t"
[tasks.a]
kind = "fake"
[tasks.left]
kind = "fake"
needs = ["a"]
[tasks.right]
kind = "fake"
needs = ["a"]
[tasks.z]
kind = "fake"
needs = ["left", "right"]
"#;

fn everything() -> RerunRequest {
    RerunRequest { actor: "user ada".into(), reason: Some("the disk is mended".into()), ..RerunRequest::default() }
}

fn of(task: &str, index: Option<u32>) -> RerunRequest {
    RerunRequest { task: Some(TaskId::parse(task).expect("valid")), index, ..everything() }
}

impl Bed {
    async fn rerun(&self, run: &NewRun, request: &RerunRequest) -> Result<(RunState, Vec<(String, u64)>), StoreError> {
        let made = self.store.rerun(&run.tenant, run.run, request).await?;
        Ok((made.state, made.instances.into_iter().map(|(task, count)| (task.to_string(), count)).collect()))
    }

    /// Claims and finishes until nothing is ready: what `fails` names fails for good.
    async fn drain(&self, fails: &[&str]) {
        let session = self.session().await;
        loop {
            let claims = self.claim(session, 64).await;
            if claims.is_empty() {
                return;
            }
            let finishes: Vec<_> = claims.iter().map(|claim| self.end(session, claim, fails)).collect();
            for receipt in self.report(&finishes).await {
                assert!(matches!(receipt, Receipt::Recorded { .. }), "{receipt:?}");
            }
        }
    }

    fn end(&self, session: headworks_engine::id::SessionId, claim: &Claim, fails: &[&str]) -> Finish {
        let name = claim.identity.instance.to_string();
        let fails = fails.contains(&name.as_str());
        finish(session, claim, if fails { broken(FailureKind::Permanent) } else { succeeded(json!({})) })
    }

    /// States and generations, in the order of the DAG.
    async fn generations(&self, run: &NewRun) -> Vec<(String, TaskState, i64)> {
        let view = self.store.run_view(&run.tenant, run.run).await.expect("the run is there");
        view.tasks.iter().map(|task| (task.instance.to_string(), task.state, task.generation)).collect()
    }

    async fn check_events(&self, run: &NewRun) {
        let mut by_row = BTreeMap::<_, Vec<i64>>::new();
        for event in self.store.events(&run.tenant, run.run).await.expect("events") {
            let row = (event.instance.as_ref().map(ToString::to_string), event.generation);
            by_row.entry(row).or_default().push(event.seq);
        }
        for (row, mut seqs) in by_row {
            seqs.sort_unstable();
            let expected: Vec<i64> = (1..).take(seqs.len()).collect();
            assert_eq!(seqs, expected, "{row:?} has a gap");
        }
    }
}

fn named(expected: &[(&str, TaskState, i64)]) -> Vec<(String, TaskState, i64)> {
    expected.iter().map(|(task, state, generation)| ((*task).to_owned(), *state, *generation)).collect()
}

fn counted(expected: &[(&str, u64)]) -> Vec<(String, u64)> {
    expected.iter().map(|(task, count)| ((*task).to_owned(), *count)).collect()
}

async fn only_the_failed_branch_of_a_diamond_runs_again(bed: Bed) {
    use TaskState::{Failed, Ready, Succeeded, UpstreamFailed, Waiting};
    let run = bed.start(DIAMOND).await;
    let old = bed.session().await;
    let a = bed.claim(old, 1).await.remove(0);
    bed.report(&[finish(old, &a, succeeded(json!({})))]).await;
    let both = bed.claim(old, 2).await;
    let finishes: Vec<_> = both.iter().map(|claim| bed.end(old, claim, &["right"])).collect();
    bed.report(&finishes).await;
    let expected = [("a", Succeeded, 1), ("left", Succeeded, 1), ("right", Failed, 1), ("z", UpstreamFailed, 1)];
    assert_eq!(bed.generations(&run).await, named(&expected));
    assert_eq!(bed.run_state(&run).await, RunState::Failed);

    let (state, made) = bed.rerun(&run, &everything()).await.expect("made");
    assert_eq!((state, made), (RunState::Running, counted(&[("right", 1), ("z", 1)])));
    let expected = [("a", Succeeded, 1), ("left", Succeeded, 1), ("right", Ready, 2), ("z", Waiting, 2)];
    assert_eq!(bed.generations(&run).await, named(&expected));
    let view = bed.store.run_summary(&run.tenant, run.run).await.expect("there");
    assert_eq!((view.state, view.finished_at), (RunState::Running, None));

    let session = bed.session().await;
    let claim = bed.claim(session, 8).await.remove(0);
    let identity = &claim.identity;
    assert_eq!(identity.generation.0, 2);
    assert_eq!((identity.attempt.0, identity.epoch.0), (1, 2), "attempts begin anew, epochs go on");
    // A zombie of the old generation, by its own name and by the new session's.
    for finish in [&finishes[1], &Finish { session, ..finishes[1].clone() }] {
        let late = bed.report(std::slice::from_ref(finish)).await;
        assert_eq!(late, [Receipt::Refused]);
    }
    bed.report(&[finish(session, &claim, succeeded(json!({})))]).await;
    bed.drain(&[]).await;
    let expected = [("a", Succeeded, 1), ("left", Succeeded, 1), ("right", Succeeded, 2), ("z", Succeeded, 2)];
    assert_eq!(bed.generations(&run).await, named(&expected));
    let view = bed.store.run_summary(&run.tenant, run.run).await.expect("there");
    assert_eq!(view.state, RunState::Succeeded);
    assert!(view.finished_at.is_some());
    bed.check_events(&run).await;
    let events = bed.store.events(&run.tenant, run.run).await.expect("events");
    let asked = events.iter().find(|event| event.event == "run_rerun_requested").expect("is on record");
    let detail: serde_json::Value = serde_json::from_str(asked.detail.as_deref().expect("a detail")).expect("JSON");
    let expected = json!({
        "actor": "user ada", "reason": "the disk is mended", "tasks": ["right", "z"], "instances": 2,
    });
    assert_eq!(detail, expected);
}

const MATRIX: &str = r#"
[dag]
id = "t"
[tasks.m]
kind = "fake"
matrix = { n = [0, 1, 2] }
[tasks.after]
kind = "fake"
needs = ["m"]
[tasks.report]
kind = "fake"
needs = ["after"]
trigger_rule = "all_done"
[tasks.beside]
kind = "fake"
"#;

async fn only_the_failed_elements_of_a_matrix_run_again(bed: Bed) {
    use TaskState::{Ready, Succeeded, Waiting};
    let run = bed.start(MATRIX).await;
    bed.drain(&["m[1]"]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Failed);
    let (_, made) = bed.rerun(&run, &everything()).await.expect("made");
    assert_eq!(made, counted(&[("m", 1), ("after", 1), ("report", 1)]), "the report ran, and is below what failed");
    let expected = [
        ("m[0]", Succeeded, 1),
        ("m[1]", Ready, 2),
        ("m[2]", Succeeded, 1),
        ("after", Waiting, 2),
        ("report", Waiting, 2),
        ("beside", Succeeded, 1),
    ];
    assert_eq!(bed.generations(&run).await, named(&expected));
    bed.drain(&[]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
    // And one element by name, though it had succeeded.
    let (_, made) = bed.rerun(&run, &of("m", Some(2))).await.expect("made");
    assert_eq!(made, counted(&[("m", 1), ("after", 1), ("report", 1)]));
    bed.drain(&[]).await;
    let generations: Vec<_> = bed.generations(&run).await.into_iter().map(|it| it.2).collect();
    assert_eq!(generations, [1, 2, 2, 3, 3, 1]);
    bed.check_events(&run).await;
}

/// A published file; its key says who made it.
fn published(claim: &Claim) -> headworks_engine::artifact::ArtifactRef {
    let it = &claim.identity;
    let key = format!("{}/{}.{}", it.instance.path_segment(), it.generation, it.epoch);
    let artifact = json!({
        "name": "out.json", "key": key, "digest": "0".repeat(64), "bytes": 1, "rows": null, "schema_digest": null,
    });
    serde_json::from_value(artifact).expect("valid")
}

async fn a_rerun_task_reads_the_current_generation_of_its_producers(bed: Bed) {
    let run = bed.start(MATRIX).await;
    let session = bed.session().await;
    let claims: Vec<_> = bed.claim(session, 8).await;
    let finishes: Vec<_> = claims
        .iter()
        .map(|claim| Finish { artifacts: vec![published(claim)], ..bed.end(session, claim, &["m[1]"]) })
        .collect();
    bed.report(&finishes).await;
    bed.drain(&[]).await;
    bed.rerun(&run, &everything()).await.expect("made");
    let again = bed.claim(session, 8).await.remove(0);
    let done = Finish { artifacts: vec![published(&again)], ..finish(session, &again, succeeded(json!({}))) };
    bed.report(&[done]).await;
    let after = bed.claim(session, 8).await.remove(0);
    assert_eq!(after.identity.instance.to_string(), "after");
    let inputs = bed.store.work(&after).await.expect("ok").inputs;
    let keys: Vec<_> = inputs.iter().map(|input| input.artifact.key.as_str()).collect();
    assert_eq!(keys, ["m.0/1.1", "m.1/2.2", "m.2/1.1"]);
}

const FAN_OUT: &str = r#"
[dag]
id = "t"
[tasks.list]
kind = "fake"
[tasks.each]
kind = "fake"
needs = ["list"]
for_each = "{{tasks.list.outputs.items}}"
max_in_flight = 1
[tasks.after]
kind = "fake"
needs = ["each"]
"#;

impl Bed {
    /// Finishes `list`, which is ready, with that many items.
    async fn list(&self, items: usize) {
        let session = self.session().await;
        let list = self.claim(session, 1).await.remove(0);
        assert_eq!(list.identity.instance.to_string(), "list");
        let items: Vec<_> = (0..items).map(|n| format!("item {n}")).collect();
        self.report(&[finish(session, &list, succeeded(json!({ "items": items })))]).await;
    }
}

async fn failed_elements_of_a_fan_out_run_again_a_few_at_a_time(bed: Bed) {
    use TaskState::{Ready, Succeeded, Waiting};
    let run = bed.start(FAN_OUT).await;
    bed.list(4).await;
    bed.drain(&["each[1]", "each[3]"]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Failed);
    let (_, made) = bed.rerun(&run, &everything()).await.expect("made");
    assert_eq!(made, counted(&[("each", 2), ("after", 1)]));
    let expected = [
        ("list", Succeeded, 1),
        ("each[0]", Succeeded, 1),
        ("each[1]", Ready, 2),
        ("each[2]", Succeeded, 1),
        ("each[3]", Waiting, 2),
        ("after", Waiting, 2),
    ];
    assert_eq!(bed.generations(&run).await, named(&expected), "one at a time");
    let task = TaskId::parse("each").expect("valid");
    let why = bed.store.why(&run.tenant, run.run, &task, Some(3)).await.expect("ok");
    let codes: Vec<_> = why.links.iter().map(|link| link.cause.code()).collect();
    assert_eq!(codes, ["waiting_for_elements", "waiting_for_slot"]);
    assert!(why.links[0].to_string().ends_with("1 may be in flight (1 ready)"), "{}", why.links[0]);
    let session = bed.session().await;
    let again = bed.claim(session, 8).await.remove(0);
    assert_eq!(again.item.as_deref(), Some("\"item 1\""), "the element keeps its item");
    bed.report(&[finish(session, &again, succeeded(json!({})))]).await;
    bed.drain(&[]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
    bed.check_events(&run).await;
}

async fn a_fan_out_below_a_rerun_reads_its_list_anew(bed: Bed) {
    use TaskState::Succeeded;
    let run = bed.start(FAN_OUT).await;
    bed.list(4).await;
    bed.drain(&["each[3]"]).await;
    bed.rerun(&run, &everything()).await.expect("made");
    bed.drain(&[]).await;
    // `each[3]` has two generations by now, the others one: the new elements' is one that none has had.
    let (_, made) = bed.rerun(&run, &of("list", None)).await.expect("made");
    assert_eq!(made, counted(&[("list", 1), ("each", 1), ("after", 1)]), "nobody knows yet how many there are");
    bed.list(2).await;
    bed.drain(&["each[1]"]).await;
    let generations = bed.generations(&run).await;
    let names: Vec<_> = generations.iter().map(|(task, _, generation)| (task.as_str(), *generation)).collect();
    assert_eq!(names, [("list", 2), ("each[0]", 3), ("each[1]", 3), ("after", 3)]);
    assert_eq!(bed.run_state(&run).await, RunState::Failed);
    // Elements that the shorter list no longer has do not come back.
    let (_, made) = bed.rerun(&run, &everything()).await.expect("made");
    assert_eq!(made, counted(&[("each", 1), ("after", 1)]));
    bed.drain(&[]).await;
    let expected =
        [("list", Succeeded, 2), ("each[0]", Succeeded, 3), ("each[1]", Succeeded, 4), ("after", Succeeded, 4)];
    assert_eq!(bed.generations(&run).await, named(&expected));
    // And a longer one.
    bed.rerun(&run, &of("list", None)).await.expect("made");
    bed.list(6).await;
    bed.drain(&[]).await;
    let generations: Vec<_> = bed.generations(&run).await.into_iter().map(|it| it.2).collect();
    assert_eq!(generations, [3, 5, 5, 5, 5, 5, 5, 5]);
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
    bed.check_events(&run).await;
}

async fn a_canceled_run_goes_on(bed: Bed) {
    use TaskState::{Ready, Succeeded, Waiting};
    let run = bed.start(DIAMOND).await;
    let session = bed.session().await;
    let a = bed.claim(session, 1).await.remove(0);
    bed.store.cancel(&run.tenant, run.run).await.expect("ok");
    bed.report(&[finish(session, &a, succeeded(json!({})))]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Canceled);
    let (state, made) = bed.rerun(&run, &everything()).await.expect("made");
    assert_eq!((state, made), (RunState::Running, counted(&[("left", 1), ("right", 1), ("z", 1)])));
    let expected = [("a", Succeeded, 1), ("left", Ready, 2), ("right", Ready, 2), ("z", Waiting, 2)];
    assert_eq!(bed.generations(&run).await, named(&expected));
    bed.drain(&[]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
    bed.check_events(&run).await;
}

async fn a_second_rerun_makes_a_third_generation(bed: Bed) {
    let run = bed.start(DIAMOND).await;
    bed.drain(&["right"]).await;
    for generation in 2..=3 {
        assert_eq!(bed.run_state(&run).await, RunState::Failed);
        bed.rerun(&run, &everything()).await.expect("made");
        let session = bed.session().await;
        let claim = bed.claim(session, 8).await.remove(0);
        assert_eq!((claim.identity.generation.0, claim.identity.epoch.0), (generation, generation));
        let outcome = if generation == 3 { succeeded(json!({})) } else { broken(FailureKind::Permanent) };
        bed.report(&[finish(session, &claim, outcome)]).await;
    }
    bed.drain(&[]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
    let generations: Vec<_> = bed.generations(&run).await.into_iter().map(|it| it.2).collect();
    assert_eq!(generations, [1, 1, 3, 3]);
    bed.check_events(&run).await;
}

async fn one_task_runs_again_with_all_below_it(bed: Bed) {
    use TaskState::{Ready, Succeeded, Waiting};
    let run = bed.start(DIAMOND).await;
    bed.drain(&[]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
    let (_, made) = bed.rerun(&run, &of("left", None)).await.expect("made");
    assert_eq!(made, counted(&[("left", 1), ("z", 1)]));
    let expected = [("a", Succeeded, 1), ("left", Ready, 2), ("right", Succeeded, 1), ("z", Waiting, 2)];
    assert_eq!(bed.generations(&run).await, named(&expected));
    bed.drain(&[]).await;
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
}

async fn a_rerun_that_can_start_nothing_ends_again(bed: Bed) {
    let run = bed.start(DIAMOND).await;
    bed.drain(&["right"]).await;
    // `right` keeps its failure, so `z` can not run this time either.
    let (state, made) = bed.rerun(&run, &of("z", None)).await.expect("made");
    assert_eq!((state, made), (RunState::Failed, counted(&[("z", 1)])));
    assert_eq!(bed.generations(&run).await[3], ("z".to_owned(), TaskState::UpstreamFailed, 2));
    assert!(bed.store.run_summary(&run.tenant, run.run).await.expect("there").finished_at.is_some());
    bed.check_events(&run).await;
}

async fn what_can_not_be_rerun_is_refused(bed: Bed) {
    let run = bed.start(DIAMOND).await;
    let open = bed.rerun(&run, &everything()).await.expect_err("it runs");
    assert!(matches!(open, StoreError::RunOpen { state: RunState::Running, .. }), "{open}");
    let session = bed.session().await;
    let a = bed.claim(session, 1).await.remove(0);
    bed.store.cancel(&run.tenant, run.run).await.expect("ok");
    let open = bed.rerun(&run, &everything()).await.expect_err("it is being canceled");
    assert!(matches!(open, StoreError::RunOpen { state: RunState::Canceling, .. }), "{open}");
    bed.report(&[finish(session, &a, succeeded(json!({})))]).await;
    bed.rerun(&run, &everything()).await.expect("it has ended");
    bed.drain(&[]).await;
    let before = bed.generations(&run).await;
    let nothing = bed.rerun(&run, &everything()).await.expect_err("all is well");
    assert!(matches!(nothing, StoreError::NothingToRerun { .. }), "{nothing}");
    for (task, index) in [("no_such", None), ("a", Some(0)), ("left", Some(7))] {
        let missing = bed.rerun(&run, &of(task, index)).await.expect_err(task);
        assert!(matches!(missing, StoreError::NoInstance { .. }), "{missing}");
    }
    for (whose, id) in [("other", run.run), ("acme", RunId::from_uuid(Uuid::nil()))] {
        let missing = bed.store.rerun(&tenant(whose), id, &everything()).await.expect_err(whose);
        assert!(matches!(missing, StoreError::NotFound { .. }), "{missing}");
    }
    assert_eq!(bed.generations(&run).await, before, "a refusal changes nothing");
    assert_eq!(bed.run_state(&run).await, RunState::Succeeded);
}

async fn of_two_people_who_ask_at_once_one_is_refused(bed: Bed) {
    let run = bed.start(DIAMOND).await;
    bed.drain(&["right"]).await;
    let request = everything();
    let (one, two) = tokio::join!(bed.rerun(&run, &request), bed.rerun(&run, &request));
    let refused = match (one, two) {
        (Ok(_), Err(refused)) | (Err(refused), Ok(_)) => refused,
        both => panic!("{both:?}"),
    };
    assert!(matches!(refused, StoreError::RunOpen { .. }), "{refused}");
    let generations: Vec<_> = bed.generations(&run).await.into_iter().map(|it| it.2).collect();
    assert_eq!(generations, [1, 1, 2, 2]);
    bed.check_events(&run).await;
}

async fn a_run_whose_dag_no_longer_fits_is_left_alone(bed: Bed) {
    let run = bed.start(DIAMOND).await;
    bed.drain(&["right"]).await;
    // A binary that knows no task kind at all.
    let other = Store::open(&bed.url, OpenMode::Ask, Arc::new(Kinds::new())).await.expect("opens");
    let before = bed.generations(&run).await;
    let refused = other.rerun(&run.tenant, run.run, &everything()).await.expect_err("it does not fit");
    assert!(matches!(refused, StoreError::Dag(_)), "{refused}");
    assert_eq!(bed.generations(&run).await, before);
    assert_eq!(bed.run_state(&run).await, RunState::Failed);
    let task = TaskId::parse("right").expect("valid");
    let why = other.why(&run.tenant, run.run, &task, None).await.expect("the dead speak all the same");
    assert_eq!(why.links[0].cause.code(), "attempt_failed");
    let task = TaskId::parse("z").expect("valid");
    let why = other.why(&run.tenant, run.run, &task, None).await.expect("as far as the rows go");
    let codes: Vec<_> = why.links.iter().map(|link| link.cause.code()).collect();
    assert_eq!(codes, ["rule_not_met", "dag_unreadable"]);
}
