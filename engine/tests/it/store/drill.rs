//! Faults in the store and the executor: whose runs may have any, what each does, and who is never struck; champions
//! that people move.

use std::time::Duration;

use headworks_engine::drill::{Fault, FaultKind};
use headworks_engine::id::{ModelName, RunId, TaskId};
use headworks_engine::plan::Reason;
use headworks_engine::run::{RunState, TaskState};
use headworks_engine::scheduler::maintenance::retention::sweep_drills;
use headworks_engine::store::{Change, Finish, NewRun, Outage, RunKind, StoreError};
use sea_orm::ConnectionTrait;
use serde_json::json;
use uuid::Uuid;

use super::{Bed, CHAIN, finish, model, promotion, registered, tenant};

on_both!(
    only_drill_runs_of_drill_tenants_have_faults,
    faults_strike_the_attempts_that_they_name,
    a_rerun_and_a_replay_are_struck_no_more,
    an_attempt_that_hangs_is_ended_by_its_limit,
    nobody_claims_a_drill_unasked,
    an_outage_is_for_drill_runs,
    what_is_there_twice_is_found,
    an_attempt_that_is_struck_links_to_nothing,
    champions_are_moved_by_people_and_found_again,
    old_drills_go_with_all_that_is_theirs,
);

const TWO: &str = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\nretries = { max = 2, initial = \"10ms\" }\n\
    [tasks.b]\nkind = \"fake\"\nneeds = [\"a\"]\n";

fn fault(task: &str, what: FaultKind) -> Fault {
    Fault { task: TaskId::parse(task).expect("an id"), index: None, attempt: 1, times: 1, what }
}

fn fails(transient: bool) -> FaultKind {
    FaultKind::Fail { message: "told to".into(), transient }
}

impl Bed {
    fn drill(&self, toml: &str, faults: Vec<Fault>) -> NewRun {
        NewRun { tenant: tenant("drill-1-shop"), kind: RunKind::Drill, faults, ..self.new_run(toml) }
    }

    /// Somebody with a shell.
    async fn forge(&self, sql: &str) {
        let db = sea_orm::Database::connect(self.url.as_str()).await.expect("connects");
        assert!(db.execute_unprepared(sql).await.expect("written").rows_affected() > 0, "{sql}");
        db.close().await.expect("closed");
    }

    async fn drilled(&self, toml: &str, faults: Vec<Fault>) -> (NewRun, RunState) {
        let new = self.drill(toml, faults);
        self.store.create_run(&new).await.expect("created");
        let state = self.execute(&new).await.expect("executed");
        (new, state)
    }
}

async fn only_drill_runs_of_drill_tenants_have_faults(bed: Bed) {
    let faults = vec![fault("a", fails(false))];
    let real = bed.new_run(TWO);
    for refused in [
        NewRun { faults: faults.clone(), ..real.clone() },
        NewRun { faults: faults.clone(), tenant: tenant("drill-1-shop"), ..real.clone() },
        NewRun { faults: faults.clone(), kind: RunKind::Drill, ..real.clone() },
        NewRun { kind: RunKind::Drill, ..real.clone() },
    ] {
        let error = bed.store.create_run(&refused).await.expect_err("refused");
        assert!(matches!(error, StoreError::NoDrill { .. }), "{error}");
        assert!(bed.store.run_state(&refused.tenant, refused.run).await.is_err(), "nothing was made");
    }
    // Somebody writes faults into the row of a real run: no executor injects them.
    bed.store.create_run(&real).await.expect("created");
    let text = serde_json::to_string(&faults).expect("JSON");
    bed.forge(&format!("UPDATE run SET faults = '{text}' WHERE run = '{}'", real.run)).await;
    assert_eq!(bed.execute(&real).await.expect("executed"), RunState::Succeeded);
    assert!(bed.store.faults_of(&real.tenant, real.run).await.expect("read").is_empty());
}

async fn faults_strike_the_attempts_that_they_name(bed: Bed) {
    let twice = Fault { times: 2, ..fault("a", fails(true)) };
    let (run, state) = bed.drilled(TWO, vec![twice, fault("b", fails(false))]).await;
    assert_eq!(state, RunState::Failed);
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("a view");
    let found: Vec<_> = view.tasks.iter().map(|it| (it.state, it.attempts)).collect();
    assert_eq!(found, [(TaskState::Succeeded, 3), (TaskState::Failed, 1)]);
    assert!(view.tasks[1].reason.as_ref().is_some_and(|reason| reason.to_string().contains("told to")));
    let struck = bed.store.faults_of(&run.tenant, run.run).await.expect("read");
    let struck: Vec<_> = struck.iter().map(|it| (it.instance.to_string(), it.attempt, it.fault.clone())).collect();
    let expected = [("a", 1, true), ("a", 2, true), ("b", 1, false)];
    assert_eq!(struck, expected.map(|(task, attempt, transient)| (task.to_owned(), attempt, fails(transient))));
}

async fn a_rerun_and_a_replay_are_struck_no_more(bed: Bed) {
    let (run, state) = bed.drilled(TWO, vec![fault("b", fails(false))]).await;
    assert_eq!(state, RunState::Failed);
    let origin = bed.store.origin(&run.tenant, run.run).await.expect("an origin");
    let id = RunId::from_uuid(Uuid::now_v7());
    let asked = headworks_engine::replay::Asked {
        run: id,
        selection: headworks_engine::plan::Selection::Failed,
        is_verify: false,
        latest: None,
        actor: "a test".into(),
    };
    let replay = headworks_engine::replay::prepare(&origin, &bed.artifacts(), asked).await.expect("planned");
    replay.create(&bed.store).await.expect("created");
    let replayed = NewRun { run: id, ..run.clone() };
    assert_eq!(bed.execute(&replayed).await.expect("executed"), RunState::Succeeded);
    let request = headworks_engine::store::RerunRequest { actor: "a test".into(), ..Default::default() };
    bed.store.rerun(&run.tenant, run.run, &request).await.expect("a rerun");
    assert_eq!(bed.execute(&run).await.expect("executed"), RunState::Succeeded);
}

async fn an_attempt_that_hangs_is_ended_by_its_limit(bed: Bed) {
    let toml = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\ntimeout = \"100ms\"\n";
    let (run, state) = bed.drilled(toml, vec![fault("a", FaultKind::Hang)]).await;
    assert_eq!(state, RunState::Failed);
    let view = bed.store.run_view(&run.tenant, run.run).await.expect("a view");
    assert!(view.tasks[0].reason.as_ref().is_some_and(|it| it.to_string().contains("limit")), "{:?}", view.tasks[0]);
}

async fn nobody_claims_a_drill_unasked(bed: Bed) {
    let drill = bed.drill(TWO, Vec::new());
    bed.store.create_run(&drill).await.expect("created");
    let session = bed.session().await;
    assert!(bed.claim(session, 10).await.is_empty(), "a worker takes no part in a drill");
    let any = headworks_engine::store::ClaimScope::Any;
    assert!(!bed.store.pending(&any).await.expect("read").is_ready);
    let real = bed.start(TWO).await;
    let claims = bed.claim(session, 10).await;
    assert!(claims.len() == 1 && claims[0].identity.run == real.run, "{claims:?}");
    assert_eq!(bed.execute(&drill).await.expect("executed"), RunState::Succeeded, "asked for, it goes");
    // What others list is without it.
    let listed = bed.store.runs(None, None, 10).await.expect("read");
    assert_eq!(listed.iter().map(|it| it.run_id).collect::<Vec<_>>(), [real.run]);
    assert_eq!(bed.store.runs(Some(&drill.tenant), None, 10).await.expect("read").len(), 1);
}

async fn an_outage_is_for_drill_runs(bed: Bed) {
    let real = bed.start(TWO).await;
    let outage = Outage { application: "nobody".into(), lasts: Duration::from_millis(1) };
    let error = bed.store.disturb(&real.tenant, real.run, &outage).await.expect_err("refused");
    assert!(matches!(error, StoreError::NoDrill { .. }), "{error}");
    let drill = bed.drill(TWO, Vec::new());
    bed.store.create_run(&drill).await.expect("created");
    let is_postgres = bed._database.is_some();
    let ended = bed.store.disturb(&drill.tenant, drill.run, &outage).await.expect("done");
    assert_eq!(ended, is_postgres.then_some(0), "nobody calls himself so");
    if !is_postgres {
        return;
    }
    let url = format!("{}?application_name=headworks-drill-test", bed.url);
    let other = sea_orm::Database::connect(url).await.expect("connects");
    other.execute_unprepared("SELECT 1").await.expect("connected");
    let outage = Outage { application: "headworks-drill-test".into(), ..outage };
    let ended = bed.store.disturb(&drill.tenant, drill.run, &outage).await.expect("done");
    assert!(ended.is_some_and(|ended| ended > 0), "its connection is ended");
    assert!(bed.store.run_state(&real.tenant, real.run).await.is_ok(), "and nobody else's");
}

async fn what_is_there_twice_is_found(bed: Bed) {
    let toml = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\nretries = { max = 1, initial = \"10ms\" }\n\
        with = { outputs = { x = 1 }, fail_first = 1 }\n";
    let (run, state) = bed.drilled(toml, Vec::new()).await;
    assert_eq!(state, RunState::Succeeded);
    let doubled = bed.store.doubled_artifacts(&run.tenant, run.run).await.expect("read");
    assert!(doubled.is_empty(), "what a failed attempt had published does not count: {doubled:?}");
    bed.forge(&format!(
        "INSERT INTO artifact (tenant, run, task, element, generation, name, epoch, key, digest, bytes, created_at) \
         SELECT tenant, run, task, element, generation, name, epoch + 100, key, digest, bytes, created_at \
         FROM artifact WHERE run = '{}'",
        run.run
    ))
    .await;
    let doubled = bed.store.doubled_artifacts(&run.tenant, run.run).await.expect("read");
    assert!(doubled.iter().any(|(task, name)| task.to_string() == "a" && name == "out.json"), "{doubled:?}");
}

async fn an_attempt_that_is_struck_links_to_nothing(bed: Bed) {
    let toml = "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"fake\"\ncache = true\nwith = { outputs = { x = 1 } }\n";
    let slow =
        FaultKind::ObjectStore { operation: headworks_engine::drill::Operation::All, failures: Some(0), latency_ms: 1 };
    let mut linked = Vec::new();
    for faults in [Vec::new(), Vec::new(), vec![fault("a", slow)]] {
        let (run, state) = bed.drilled(toml, faults).await;
        assert_eq!(state, RunState::Succeeded);
        let view = bed.store.run_view(&run.tenant, run.run).await.expect("a view");
        linked.push(matches!(view.tasks[0].reason, Some(Reason::Memoized { .. })));
    }
    assert_eq!(linked, [false, true, false]);
}

async fn champions_are_moved_by_people_and_found_again(bed: Bed) {
    let session = bed.session().await;
    // The gate says yes twice: version 2 serves.
    for expected in [None, Some(1)] {
        let run = bed.start(CHAIN).await;
        let claims = bed.claim(session, 10).await;
        let claim = claims.iter().find(|it| it.identity.run == run.run).expect("its first task");
        let report = Finish { artifacts: vec![model()], ..finish(session, claim, promotion(expected)) };
        bed.report(&[report]).await;
    }
    // A third, whose model is kept no longer.
    let run = bed.start(CHAIN).await;
    let claims = bed.claim(session, 10).await;
    let claim = claims.iter().find(|it| it.identity.run == run.run).expect("its first task");
    bed.report(&[finish(session, claim, registered())]).await;
    let change = |expected| Change {
        tenant: tenant("acme"),
        name: ModelName::parse("demand").expect("a name"),
        expected,
        actor: "user x".into(),
        reason: "a test".into(),
    };
    let store = &bed.store;
    let moved = store.roll_back(&change(Some(2))).await.expect("back");
    assert_eq!((moved.from, moved.to), (Some(2), 1));
    let error = store.roll_back(&change(Some(2))).await.expect_err("it is not 2 any more");
    assert!(matches!(error, StoreError::ChampionMoved { .. }), "{error}");
    let error = store.roll_back(&change(Some(1))).await.expect_err("there is none before");
    assert!(matches!(error, StoreError::NoEarlierChampion { .. }), "{error}");
    // The gate once said yes to 2: no force is needed. Then 1 is one further back again.
    assert_eq!(store.promote(&change(Some(1)), 2, false).await.expect("forward").to, 2);
    assert_eq!(store.roll_back(&change(Some(2))).await.expect("back").to, 1);
    let error = store.promote(&change(Some(1)), 1, true).await.expect_err("it is already");
    assert!(matches!(error, StoreError::NotPromotable { .. }), "{error}");
    assert!(matches!(store.promote(&change(Some(1)), 9, true).await, Err(StoreError::NotFound { .. })));
    let error = store.promote(&change(Some(1)), 3, true).await.expect_err("nothing is left of it");
    assert!(error.to_string().contains("kept no longer"), "{error}");
    let decisions = store.decisions(&tenant("acme"), &change(None).name).await.expect("read");
    assert_eq!(decisions.len(), 5, "two by the gate, three by people: {decisions:#?}");
    assert_eq!((&decisions[0]["actor"], &decisions[0]["to_version"]), (&json!("user x"), &json!(1)));
    let champions: Vec<_> = store
        .models(None, None)
        .await
        .expect("read")
        .iter()
        .map(|it| (it.version.version, it.version.status))
        .collect();
    use headworks_engine::registry::ModelStatus::{Archived, Candidate, Champion};
    assert_eq!(champions, [(3, Candidate), (2, Archived), (1, Champion)]);
}

async fn old_drills_go_with_all_that_is_theirs(bed: Bed) {
    let (drill, _) = bed.drilled(TWO, vec![fault("b", fails(false))]).await;
    let real = bed.start(TWO).await;
    bed.execute(&real).await.expect("executed");
    let (artifacts, now) = (bed.artifacts(), bed.store.now());
    let day = Duration::from_secs(86_400);
    assert_eq!(sweep_drills(&bed.store, &artifacts, day, now).await.expect("a round").runs, 0, "not old yet");
    let later = now + 2 * 86_400_000_000;
    assert_eq!(sweep_drills(&bed.store, &artifacts, day, later).await.expect("a round").runs, 1);
    assert!(bed.store.run_state(&drill.tenant, drill.run).await.is_err());
    assert!(bed.store.faults_of(&drill.tenant, drill.run).await.expect("read").is_empty());
    assert!(artifacts.list(drill.tenant.as_str()).await.expect("a list").is_empty());
    assert_eq!(bed.run_state(&real).await, RunState::Succeeded, "nobody else's");
    assert!(!artifacts.list("acme").await.expect("a list").is_empty());
}
