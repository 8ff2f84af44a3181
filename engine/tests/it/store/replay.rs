//! Replays in the store: rows that are linked, counts that hold, fan-outs that go on, proofs that promote
//! nothing.

use std::sync::Arc;

use headworks_engine::id::{InstanceId, RunId, TaskId};
use headworks_engine::plan::{ReplayAction, Selection};
use headworks_engine::replay::{Asked, Proof, Replay, Verdict, compare, prepare, settle};
use headworks_engine::run::{RunState, TaskState};
use headworks_engine::store::{NewRun, Origin};
use serde_json::json;
use uuid::Uuid;

use super::Bed;

on_both!(
    a_replay_links_what_it_takes_over,
    elements_that_failed_run_again_within_their_limit,
    a_table_that_is_never_the_same_is_called_so,
    what_was_skipped_is_skipped_again,
);

impl Bed {
    async fn origin(&self, run: &NewRun) -> Origin {
        self.store.origin(&run.tenant, run.run).await.expect("an ended run")
    }

    /// Plans, makes and executes a replay.
    async fn replay(&self, origin: &Origin, selection: Selection, is_verify: bool) -> (Replay, Origin) {
        let run = RunId::from_uuid(Uuid::now_v7());
        let asked = Asked { run, selection, is_verify, latest: None, actor: "a test".into() };
        let replay = prepare(origin, &Arc::new(self.artifacts()), asked).await.expect("planned");
        replay.check(origin).expect("nothing is in its way");
        replay.create(&self.store).await.expect("created");
        let new = NewRun { run, ..self.new_run(&origin.dag.source) };
        self.execute(&new).await.expect("executed");
        (replay, self.origin(&new).await)
    }
}

fn instance(task: &str, index: Option<u32>) -> InstanceId {
    InstanceId::new(TaskId::parse(task).expect("an id"), index)
}

fn states(origin: &Origin) -> Vec<(String, TaskState)> {
    origin.instances.iter().map(|it| (it.instance.to_string(), it.state)).collect()
}

/// `a` -> `b` (as told) -> `d`, `a` -> `c` -> `d`
fn diamond(b: &str) -> String {
    format!(
        "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\nwith = {{ outputs = {{ n = 3 }} }}\n\
         [tasks.b]\nkind = \"fake\"\nneeds = [\"a\"]\n{b}\n[tasks.c]\nkind = \"fake\"\nneeds = [\"a\"]\n\
         [tasks.d]\nkind = \"fake\"\nneeds = [\"b\", \"c\"]\nwith = {{ outputs = {{ from = \"{{{{tasks.a.outputs.n}}}}\" }} }}\n"
    )
}

async fn a_replay_links_what_it_takes_over(bed: Bed) {
    // Each run's first attempt fails, so that the replay's rows can be looked at as they fail.
    let run = bed.start(&diamond("with = { fail_first = 1 }\nretries = 0")).await;
    assert_eq!(bed.execute(&run).await.expect("ends"), RunState::Failed);
    let origin = bed.origin(&run).await;
    let (replay, again) = bed.replay(&origin, Selection::Failed, false).await;
    let actions: Vec<_> = replay.steps.iter().map(|step| step.action).collect();
    assert_eq!(actions, [ReplayAction::Reuse, ReplayAction::Run, ReplayAction::Reuse, ReplayAction::Run]);
    let failed = [TaskState::Succeeded, TaskState::Failed, TaskState::Succeeded, TaskState::UpstreamFailed];
    assert_eq!(again.instances.iter().map(|it| it.state).collect::<Vec<_>>(), failed);
    for task in ["a", "c"] {
        let (one, two) = (origin.instance(&instance(task, None)), again.instance(&instance(task, None)));
        assert_eq!(one.map(|it| &it.artifacts), two.map(|it| &it.artifacts), "the same key and digest");
        assert_eq!(two.map(|it| it.computed_by(again.summary.run_id)), Some(run.run));
    }
    // A replay of a replay names the run that computed, and a retry goes on where it ended.
    let (_, third) = bed.replay(&again, Selection::Task(TaskId::parse("c").expect("an id"), None), false).await;
    assert_eq!(third.instance(&instance("a", None)).map(|it| it.computed_by(third.summary.run_id)), Some(run.run));
    let request = headworks_engine::store::RerunRequest { actor: "a test".into(), ..Default::default() };
    bed.store.rerun(&run.tenant, again.summary.run_id, &request).await.expect("a rerun");
    let view = bed.store.run_view(&run.tenant, again.summary.run_id).await.expect("a view");
    assert_eq!(view.tasks[1].generation, 2);
}

async fn elements_that_failed_run_again_within_their_limit(bed: Bed) {
    let ledger = bed.folder.path().join("ledger").display().to_string();
    let toml = format!(
        "[dag]\nid = \"t\"\n[tasks.split]\nkind = \"fake\"\nwith = {{ outputs = {{ list = [0, 1, 2, 3, 4, 5] }} }}\n\
         [tasks.each]\nkind = \"fake\"\nneeds = [\"split\"]\nfor_each = \"{{{{tasks.split.outputs.list}}}}\"\n\
         max_in_flight = 2\nwith = {{ ledger = \"{ledger}\", outputs = {{ item = \"{{{{matrix.item}}}}\" }} }}\n\
         [tasks.join]\nkind = \"fake\"\nneeds = [\"each\"]\n"
    );
    let run = bed.start(&toml).await;
    assert_eq!(bed.execute(&run).await.expect("ends"), RunState::Succeeded);
    let origin = bed.origin(&run).await;
    assert_eq!(origin.instances.len(), 8);
    let count = || std::fs::read_to_string(&ledger).expect("a ledger").lines().count();
    assert_eq!(count(), 6);
    // One element, and what is below it.
    let (_, one) = bed.replay(&origin, Selection::Task(TaskId::parse("each").expect("an id"), Some(4)), false).await;
    assert_eq!((one.summary.state, count()), (RunState::Succeeded, 7));
    assert_eq!(one.instances.len(), 8);
    let fifth = one.instance(&instance("each", Some(4))).expect("the element");
    assert_eq!(fifth.outputs, Some(json!({ "item": 4 })));
    // Four of six, two at a time, and nobody waits for ever.
    let some = (1..5).map(|index| instance("each", Some(index))).collect();
    let (_, four) = bed.replay(&origin, Selection::Only(some), true).await;
    assert_eq!((four.summary.state, count()), (RunState::Succeeded, 11));
    // All: the list is read anew.
    let (replay, all) = bed.replay(&origin, Selection::All, true).await;
    assert_eq!((all.summary.state, count(), all.instances.len()), (RunState::Succeeded, 17, 8));
    let artifacts = Arc::new(bed.artifacts());
    let proof = Proof { store: &bed.store, artifacts: &artifacts, kinds: &bed.kinds, scratch: bed.folder.path() };
    let findings = compare(&proof, (&origin, &all), &replay.steps).await.expect("compared");
    assert!(findings.iter().all(|it| it.verdict == Verdict::Identical), "{findings:#?}");
}

async fn a_table_that_is_never_the_same_is_called_so(bed: Bed) {
    let noise = bed.folder.path().join("noise").display().to_string();
    let run = bed.start(&diamond(&format!("with = {{ noise = \"{noise}\" }}"))).await;
    assert_eq!(bed.execute(&run).await.expect("ends"), RunState::Succeeded);
    let origin = bed.origin(&run).await;
    let (replay, first) = bed.replay(&origin, Selection::All, true).await;
    let artifacts = Arc::new(bed.artifacts());
    let proof = Proof { store: &bed.store, artifacts: &artifacts, kinds: &bed.kinds, scratch: bed.folder.path() };
    let mut findings = compare(&proof, (&origin, &first), &replay.steps).await.expect("compared");
    let suspects: Vec<_> = findings.iter().filter(|it| it.is_suspect).map(|it| it.instance.clone()).collect();
    assert_eq!(suspects, [instance("b", None)]);
    let (_, second) = bed.replay(&origin, Selection::Only(suspects.into_iter().collect()), true).await;
    settle(&mut findings, (&first, &second), &bed.kinds);
    let verdicts: Vec<_> = findings.iter().map(|it| it.verdict).collect();
    use Verdict::{Identical, Nondeterministic};
    assert_eq!(verdicts, [Identical, Nondeterministic, Identical, Identical]);
    let table = &findings[1].artifacts[0];
    assert_eq!((table.name.as_str(), table.words.as_str()), ("table.parquet", "1 of 3 rows differ, in demand (1)"));
    let example = &table.difference.as_ref().expect("compared").examples()[0];
    assert_eq!(
        (example.at.as_str(), example.before.as_str(), example.after.as_str()),
        ("row 1 (series=b), demand", "1001", "1002")
    );
}

async fn what_was_skipped_is_skipped_again(bed: Bed) {
    let run = bed.start(&diamond("if = false")).await;
    bed.execute(&run).await.expect("ends");
    let origin = bed.origin(&run).await;
    assert_eq!(origin.instances[1].state, TaskState::Skipped);
    let (replay, again) = bed.replay(&origin, Selection::Task(TaskId::parse("d").expect("an id"), None), false).await;
    assert_eq!(replay.steps[1].action, ReplayAction::Reuse);
    assert_eq!(states(&again), states(&origin));
}
