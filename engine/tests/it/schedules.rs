//! What comes due, waits and starts: schedules, admission, backfills, pauses, triggers, deadlines; on both
//! databases, with a clock that the tests set.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use headworks_engine::clock::{Clock, SystemClock, parse_rfc3339};
use headworks_engine::dag::{Dag, lower};
use headworks_engine::id::{BackfillId, SessionId, TenantId};
use headworks_engine::launch::Launcher;
use headworks_engine::plan::{FailureKind, QueueReason};
use headworks_engine::run::RunState;
use headworks_engine::schedule::Order;
use headworks_engine::scheduler::maintenance::fire::Firing;
use headworks_engine::scheduler::maintenance::{admit, deadline};
use headworks_engine::scheduler::subscribe::{CalendarTexts, subscriptions, timetable_of};
use headworks_engine::scheduler::{Counters, tick};
use headworks_engine::store::{
    AlertKind, BackfillOrder, BackfillState, Claim, Finish, NewBackfill, PastFire, PauseScope, Reprocess, Retired,
    Store,
};
use headworks_engine::tenant::{self, TenantSpec};
use serde_json::{Map, json};
use uuid::Uuid;

use crate::store::{Bed, broken, finish, on_both, succeeded};

on_both!(
    what_is_due_is_made_once_whoever_looks,
    a_look_that_ends_early_loses_nothing,
    runs_wait_for_their_turn,
    an_overlap_skips_or_cancels_by_policy,
    a_pause_holds_back_and_a_resume_catches_up,
    a_suspended_tenant_starts_nothing,
    quotas_hold_back_and_let_go,
    a_broken_tenant_holds_up_nobody,
    a_changed_rule_counts_from_now,
    a_backfill_runs_in_its_own_lane,
    a_backfill_is_paused_resumed_and_canceled,
    a_backfill_leaves_out_what_has_a_run,
    arrivals_start_what_waits_for_them,
    deadlines_are_told_of,
);

const HOUR: i64 = 3_600_000_000;

fn at(text: &str) -> i64 {
    parse_rfc3339(text).expect("an instant")
}

fn noon() -> i64 {
    at("2026-03-10T12:00:00Z")
}

fn dag(source: &str) -> Arc<Dag> {
    let dag = lower("-", source, &testkit::fake_kinds()).unwrap_or_else(|wrong| panic!("{:#?}", wrong.items));
    Arc::new(dag.0)
}

/// A DAG of one task.
fn simple(id: &str, heading: &str, schedule: &str) -> Arc<Dag> {
    dag(&format!("[dag]\nid = \"{id}\"\n{heading}\n[schedule]\n{schedule}\n[tasks.a]\nkind = \"fake\"\n"))
}

fn who(id: &str, more: &str, takes: &[&str]) -> TenantSpec {
    let dags: String = takes.iter().map(|dag| format!("[dags.{dag}]\n")).collect();
    let text = format!("[tenant]\nid = \"{id}\"\n{more}\n{dags}");
    tenant::parse("-", &text).unwrap_or_else(|wrong| panic!("{:#?}", wrong.items)).0
}

fn launcher() -> Launcher {
    let none = |_: &Path| Err(std::io::Error::from(std::io::ErrorKind::NotFound));
    Launcher::new(Arc::new(testkit::fake_kinds()), PathBuf::from("dags"), Arc::new(none))
}

async fn apply(store: &Store, dags: &[Arc<Dag>], tenants: &[TenantSpec], now: i64) {
    let (rows, errors) = subscriptions(dags, tenants, &CalendarTexts::new(), now);
    assert_eq!(errors, []);
    store.apply_limits(tenants, &BTreeMap::new()).await.expect("limits");
    store.apply_schedules(dags, &rows, &Retired { all: true, ..Retired::default() }, now).await.expect("schedules");
}

/// One tick of a scheduler that has just started.
async fn look(store: &Store, now: i64) {
    tick(store, &launcher(), now, (&mut Firing::default(), &Counters::default())).await.expect("a tick");
}

fn tenant_id(id: &str) -> TenantId {
    TenantId::parse(id).expect("an id")
}

/// (tenant, logical hour after noon, state) of all runs, in that order.
async fn runs(store: &Store) -> Vec<(String, i64, RunState)> {
    let mut all = Vec::new();
    for run in store.runs(None, None, 10_000).await.expect("runs") {
        let logical = at(&run.logical_time);
        all.push((run.tenant.to_string(), (logical - noon()) / HOUR, run.state));
    }
    all.sort_by(|a, b| (&a.0, a.1, a.2.as_str()).cmp(&(&b.0, b.1, b.2.as_str())));
    all
}

async fn in_state(store: &Store, state: RunState) -> Vec<i64> {
    runs(store).await.into_iter().filter(|it| it.2 == state).map(|it| it.1).collect()
}

/// Executes what is ready, until nothing is.
async fn work(bed: &Bed) {
    let session = bed.session().await;
    loop {
        let claims = bed.claim(session, 100).await;
        if claims.is_empty() {
            return;
        }
        let finishes: Vec<_> = claims.iter().map(|claim| success(claim, session)).collect();
        bed.report(&finishes).await;
    }
}

fn success(claim: &Claim, session: SessionId) -> Finish {
    finish(session, claim, succeeded(json!({})))
}

async fn alerts(store: &Store) -> Vec<AlertKind> {
    store.alerts(None, false, 100).await.expect("alerts").into_iter().map(|it| it.kind).collect()
}

async fn what_is_due_is_made_once_whoever_looks(bed: Bed) {
    let hourly = simple("hourly", "", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, &[hourly], &[who("a", "", &["hourly"]), who("b", "", &["hourly"]), who("c", "", &[])], noon())
        .await;
    look(&bed.store, noon() + HOUR / 2).await;
    assert_eq!(runs(&bed.store).await, [], "nothing is due yet");
    let (one, two) = (launcher(), launcher());
    let (mut first, mut second) = (Firing::default(), Firing::default());
    let now = noon() + 3 * HOUR + 1;
    let (left, right) = tokio::join!(first.run_once(&bed.store, &one, now), second.run_once(&bed.store, &two, now));
    assert_eq!(left.expect("a look").0 + right.expect("a look").0, 6);
    look(&bed.store, now).await;
    let expected: Vec<_> = ["a", "b"]
        .into_iter()
        .flat_map(|who| (1..=3).map(move |hour| (who.to_owned(), hour, RunState::Running)))
        .collect();
    assert_eq!(runs(&bed.store).await, expected);
    look(&bed.store, noon() + 4 * HOUR).await;
    assert_eq!(runs(&bed.store).await.len(), 8);
    let newest = &bed.store.runs(Some(&tenant_id("a")), None, 1).await.expect("runs")[0];
    assert_eq!(newest.interval, Some(("2026-03-10T15:00:00.000Z".into(), "2026-03-10T16:00:00.000Z".into())));
    assert_eq!(newest.kind, "scheduled");
}

async fn a_look_that_ends_early_loses_nothing(bed: Bed) {
    let hourly = simple("hourly", "", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, &[hourly], &[who("a", "", &["hourly"])], noon()).await;
    // Read, and then died.
    let due = bed.store.due(noon() + HOUR, 10).await.expect("due");
    assert_eq!(due.len(), 1);
    look(&bed.store, noon() + HOUR).await;
    assert_eq!(runs(&bed.store).await.len(), 1);
    // Read, slept, and comes back after another was faster.
    let stale = headworks_engine::store::Fired {
        tenant: due[0].tenant.clone(),
        dag: due[0].dag.id.clone(),
        version: due[0].version,
        runs: Vec::new(),
        last_fire: Some(0),
        next_at: None,
        owed_at: None,
    };
    bed.store.fire(&[stale], noon()).await.expect("refused quietly");
    look(&bed.store, noon() + 2 * HOUR).await;
    assert_eq!(in_state(&bed.store, RunState::Running).await, [1, 2]);
}

async fn runs_wait_for_their_turn(bed: Bed) {
    let hourly = simple("hourly", "max_active_runs = 1", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, &[hourly], &[who("a", "", &["hourly"])], noon()).await;
    look(&bed.store, noon() + 3 * HOUR).await;
    assert_eq!(in_state(&bed.store, RunState::Running).await, [1], "the oldest first");
    assert_eq!(in_state(&bed.store, RunState::Queued).await, [2, 3]);
    let queued =
        bed.store.runs(None, None, 10).await.expect("runs").into_iter().find(|it| it.state == RunState::Queued);
    let queued = queued.expect("one is queued");
    let reason = bed.store.queue_reason(&queued.tenant, queued.run_id).await.expect("a reason");
    assert_eq!(reason, Some(QueueReason::ActiveRuns { active: 1, limit: 1 }));
    assert_eq!(bed.store.stuck_runs().await.expect("a look"), [], "a queued run is not stuck");
    work(&bed).await;
    assert_eq!(in_state(&bed.store, RunState::Succeeded).await, [1]);
    let (left, right) = tokio::join!(admit::run_once(&bed.store), admit::run_once(&bed.store));
    assert_eq!(left.expect("a round") + right.expect("a round"), 1, "two schedulers start one");
    work(&bed).await;
    admit::run_once(&bed.store).await.expect("a round");
    work(&bed).await;
    assert_eq!(in_state(&bed.store, RunState::Succeeded).await, [1, 2, 3]);
}

async fn an_overlap_skips_or_cancels_by_policy(bed: Bed) {
    let rule = "cron = \"0 * * * *\"\ncatchup = \"all\"";
    let skip = simple("skip", "max_active_runs = 1\noverlap = \"skip\"", rule);
    let newest = simple("newest", "max_active_runs = 1\noverlap = \"cancel_older\"", rule);
    apply(&bed.store, &[skip, newest], &[who("s", "", &["skip"]), who("n", "", &["newest"])], noon()).await;
    look(&bed.store, noon() + HOUR).await;
    look(&bed.store, noon() + 2 * HOUR).await;
    // The older one has nothing running: it ends, and the next round starts the newer one.
    admit::run_once(&bed.store).await.expect("a round");
    let expected = [
        ("n", 1, RunState::Canceled),
        ("n", 2, RunState::Running),
        ("s", 1, RunState::Running),
        ("s", 2, RunState::Canceled),
    ];
    assert_eq!(runs(&bed.store).await, expected.map(|(who, hour, state)| (who.to_owned(), hour, state)));
    assert_eq!(alerts(&bed.store).await, [AlertKind::Overlap, AlertKind::Overlap]);
}

async fn a_pause_holds_back_and_a_resume_catches_up(bed: Bed) {
    let hourly = simple("hourly", "", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, std::slice::from_ref(&hourly), &[who("a", "", &["hourly"]), who("b", "", &["hourly"])], noon())
        .await;
    let scope = PauseScope { dag: Some(hourly.id.clone()), tenant: Some(tenant_id("a")) };
    assert!(bed.store.pause(&scope, "somebody", Some("why not")).await.expect("paused"));
    assert!(!bed.store.pause(&scope, "somebody", None).await.expect("paused"), "it was");
    look(&bed.store, noon() + 2 * HOUR).await;
    assert_eq!(runs(&bed.store).await.iter().map(|it| it.0.as_str()).collect::<Vec<_>>(), ["b", "b"]);
    // Applying the files again does not end a pause.
    apply(&bed.store, &[hourly], &[who("a", "", &["hourly"]), who("b", "", &["hourly"])], noon()).await;
    look(&bed.store, noon() + 2 * HOUR).await;
    assert_eq!(runs(&bed.store).await.len(), 2);
    assert_eq!(bed.store.pauses().await.expect("pauses")[0].reason.as_deref(), Some("why not"));
    assert!(bed.store.resume(&scope, noon() + 2 * HOUR).await.expect("resumed"));
    look(&bed.store, noon() + 2 * HOUR).await;
    assert_eq!(runs(&bed.store).await.len(), 4, "catchup = all");
}

async fn a_suspended_tenant_starts_nothing(bed: Bed) {
    let hourly = simple("hourly", "max_active_runs = 1", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, std::slice::from_ref(&hourly), &[who("a", "", &["hourly"])], noon()).await;
    look(&bed.store, noon() + 2 * HOUR).await;
    apply(&bed.store, std::slice::from_ref(&hourly), &[who("a", "status = \"suspended\"", &["hourly"])], noon()).await;
    // What runs goes on to its end; what waits, waits.
    work(&bed).await;
    look(&bed.store, noon() + 5 * HOUR).await;
    let expected = [("a".to_owned(), 1, RunState::Succeeded), ("a".to_owned(), 2, RunState::Queued)];
    assert_eq!(runs(&bed.store).await, expected);
    let waiting = bed.store.runs(None, None, 1).await.expect("runs");
    let waiting = waiting.iter().find(|it| it.state == RunState::Queued);
    if let Some(it) = waiting {
        let reason = bed.store.queue_reason(&it.tenant, it.run_id).await.expect("a reason");
        assert_eq!(reason, Some(QueueReason::TenantSuspended));
    }
    apply(&bed.store, &[hourly], &[who("a", "", &["hourly"])], noon()).await;
    look(&bed.store, noon() + 5 * HOUR).await;
    assert_eq!(in_state(&bed.store, RunState::Running).await, [2]);
    assert_eq!(in_state(&bed.store, RunState::Queued).await, [3, 4, 5]);
}

async fn quotas_hold_back_and_let_go(bed: Bed) {
    let hourly = simple("hourly", "max_active_runs = 1", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    let tight = who("a", "[quotas]\nqueued_runs = 2\n", &["hourly"]);
    apply(&bed.store, std::slice::from_ref(&hourly), &[tight], noon()).await;
    look(&bed.store, noon() + 5 * HOUR).await;
    assert_eq!(runs(&bed.store).await.len(), 2, "two may be queued; one of them has started");
    look(&bed.store, noon() + 5 * HOUR + 31_000_000).await;
    assert_eq!(runs(&bed.store).await.len(), 3, "the queue has room for one more");
    apply(&bed.store, &[hourly], &[who("a", "", &["hourly"])], noon()).await;
    look(&bed.store, noon() + 5 * HOUR + 62_000_000).await;
    assert_eq!(runs(&bed.store).await.iter().map(|it| it.1).collect::<Vec<_>>(), [1, 2, 3, 4, 5], "none is lost");
}

async fn a_broken_tenant_holds_up_nobody(bed: Bed) {
    let source = "[dag]\nid = \"hourly\"\n[schedule]\ncron = \"0 * * * *\"\ncatchup = \"all\"\n\
                  [params]\nsource = { type = \"string\" }\n[tasks.a]\nkind = \"fake\"\n";
    let good = |id: &str| who(id, "[parameters]\nsource = \"x\"\n", &["hourly"]);
    apply(&bed.store, &[dag(source)], &[who("a", "", &["hourly"]), good("b")], noon()).await;
    look(&bed.store, noon() + HOUR).await;
    assert_eq!(runs(&bed.store).await, [("b".to_owned(), 1, RunState::Running)]);
    let told = bed.store.alerts(None, false, 10).await.expect("alerts");
    assert_eq!(told.len(), 1);
    assert!(told[0].tenant == tenant_id("a") && told[0].message.contains("source"), "{}", told[0].message);
    assert_eq!(bed.store.alerts(Some(&tenant_id("b")), true, 10).await.expect("alerts"), []);
    apply(&bed.store, &[dag(source)], &[good("a"), good("b")], noon()).await;
    look(&bed.store, noon() + HOUR + 61_000_000).await;
    assert_eq!(runs(&bed.store).await.len(), 2, "mended, and nothing was lost");
    assert_eq!(alerts(&bed.store).await, []);
}

async fn a_changed_rule_counts_from_now(bed: Bed) {
    let hourly = simple("d", "", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, &[hourly], &[who("a", "", &["d"])], noon()).await;
    look(&bed.store, noon() + 2 * HOUR).await;
    let other = simple("d", "", "cron = \"30 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, &[other], &[who("a", "", &["d"])], noon() + 2 * HOUR).await;
    look(&bed.store, noon() + 3 * HOUR).await;
    assert_eq!(runs(&bed.store).await.len(), 3, "13:30 is past, 14:30 is due");
    apply(&bed.store, &[], &[], noon() + 3 * HOUR).await;
    look(&bed.store, noon() + 9 * HOUR).await;
    assert_eq!(runs(&bed.store).await.len(), 3, "nobody takes it any more");
}

fn fires(dag: &Dag, from: i64, to: i64, order: Order) -> Vec<PastFire> {
    let table = timetable_of(dag, None, &CalendarTexts::new()).expect("fits").expect("a rule");
    table.intervals(from, to, order).map(|it| PastFire(it.at, it.interval_start, it.interval_end)).collect()
}

async fn backfill(bed: &Bed, dag: &Arc<Dag>, hours: i64, order: Order, reprocess: Reprocess) -> BackfillId {
    let id = BackfillId::from_uuid(Uuid::now_v7());
    let fires = fires(dag, noon() - hours * HOUR, noon(), order);
    let params = Map::new();
    let word = if order == Order::Ascending { BackfillOrder::Asc } else { BackfillOrder::Desc };
    let new = NewBackfill {
        id,
        tenant: &tenant_id("a"),
        dag,
        range: (noon() - hours * HOUR, noon()),
        order: word,
        reprocess,
        params: &params,
        max_active: 2,
        fires: &fires,
        actor: "a test",
    };
    bed.store.create_backfill(&new).await.expect("made");
    id
}

async fn a_backfill_runs_in_its_own_lane(bed: Bed) {
    let hourly = simple("hourly", "max_active_runs = 1", "cron = \"0 * * * *\"");
    apply(&bed.store, std::slice::from_ref(&hourly), &[who("a", "", &["hourly"])], noon()).await;
    backfill(&bed, &hourly, 1_200, Order::Descending, Reprocess::None).await;
    look(&bed.store, noon() + HOUR).await;
    assert_eq!(
        in_state(&bed.store, RunState::Running).await,
        [-1, 0, 1],
        "two of the backfill, the newest, and the live one"
    );
    let session = bed.session().await;
    let first = bed.claim(session, 1).await;
    let live = bed.store.run_view(&first[0].identity.tenant, first[0].identity.run).await.expect("a run");
    assert_eq!(live.summary.kind, "scheduled", "live tasks go first");
    bed.report(&[success(&first[0], session)]).await;
    for _ in 0..700 {
        work(&bed).await;
        if admit::run_once(&bed.store).await.expect("a round") == 0 {
            break;
        }
    }
    bed.store.complete_backfills().await.expect("completed");
    let view = &bed.store.backfills(None, 10).await.expect("backfills")[0];
    assert_eq!((view.state, view.made, view.total), (BackfillState::Completed, 1_200, 1_200));
    assert_eq!(view.runs, [(RunState::Succeeded, 1_200)]);
}

async fn a_backfill_is_paused_resumed_and_canceled(bed: Bed) {
    let hourly = simple("hourly", "", "cron = \"0 * * * *\"");
    apply(&bed.store, std::slice::from_ref(&hourly), &[who("a", "", &["hourly"])], noon()).await;
    let id = backfill(&bed, &hourly, 10, Order::Ascending, Reprocess::None).await;
    let whose = tenant_id("a");
    let control = |to| bed.store.control_backfill(&whose, id, to);
    assert_eq!(control(BackfillState::Paused).await.expect("paused"), Some(BackfillState::Running));
    look(&bed.store, noon()).await;
    assert_eq!(runs(&bed.store).await, []);
    control(BackfillState::Running).await.expect("resumed");
    look(&bed.store, noon()).await;
    assert_eq!(in_state(&bed.store, RunState::Running).await, [-9, -8]);
    control(BackfillState::Canceled).await.expect("canceled");
    assert_eq!(in_state(&bed.store, RunState::Canceled).await.len(), 8, "what waited ends at once");
    assert_eq!(bed.store.backfill_active(&whose, id).await.expect("active").len(), 2);
    assert_eq!(control(BackfillState::Running).await.expect("over"), Some(BackfillState::Canceled));
    let other = bed.store.control_backfill(&tenant_id("b"), id, BackfillState::Paused).await;
    assert_eq!(other.expect("not found"), None, "a foreign backfill is not there");
}

async fn a_backfill_leaves_out_what_has_a_run(bed: Bed) {
    let hourly = simple("hourly", "", "cron = \"0 * * * *\"\ncatchup = \"all\"");
    apply(&bed.store, std::slice::from_ref(&hourly), &[who("a", "", &["hourly"])], noon() - 4 * HOUR).await;
    look(&bed.store, noon()).await;
    // The runs of -3, -2, -1 and 0 are there; one fails, the others succeed.
    let session = bed.session().await;
    let claims = bed.claim(session, 10).await;
    let (bad, good) = claims.split_first().expect("claims");
    bed.report(&[finish(session, bad, broken(FailureKind::Permanent))]).await;
    let good: Vec<_> = good.iter().map(|claim| success(claim, session)).collect();
    bed.report(&good).await;
    let all = fires(&hourly, noon() - 6 * HOUR, noon(), Order::Ascending);
    let pair = (&tenant_id("a"), &hourly.id);
    let count = |reprocess| {
        let (store, all) = (&bed.store, &all);
        async move { store.backfill_forecast(pair, all, reprocess).await.expect("a forecast").fires.len() }
    };
    assert_eq!((count(Reprocess::None).await, count(Reprocess::Failed).await, count(Reprocess::All).await), (2, 3, 6));
    backfill(&bed, &hourly, 6, Order::Ascending, Reprocess::Failed).await;
    look(&bed.store, noon()).await;
    let made = runs(&bed.store).await.len() - 4;
    assert_eq!(made, 3);
}

async fn arrivals_start_what_waits_for_them(bed: Bed) {
    let prices = simple("prices", "", "cron = \"0 * * * *\"");
    let stock = simple("stock", "", "cron = \"0 * * * *\"");
    let both = simple("both", "", "on = { dags = [\"prices\", \"stock\"], within = \"12h\" }");
    let takes = ["prices", "stock", "both"];
    let dags = [prices, stock, both];
    apply(&bed.store, &dags, &[who("a", "", &takes), who("b", "", &takes)], noon()).await;
    look(&bed.store, noon() + HOUR).await;
    let count = |dag: &'static str| {
        let store = &bed.store;
        async move { store.runs(None, Some(dag), 100).await.expect("runs").len() }
    };
    assert_eq!((count("prices").await, count("stock").await, count("both").await), (2, 2, 0));
    work(&bed).await;
    look(&bed.store, noon() + HOUR).await;
    assert_eq!(count("both").await, 2, "one for each tenant");
    look(&bed.store, noon() + HOUR).await;
    assert_eq!(count("both").await, 2, "each arrival counts once");
    let one = &bed.store.runs(Some(&tenant_id("a")), Some("both"), 1).await.expect("runs")[0];
    assert_eq!(one.kind, "triggered");
    assert_eq!(one.interval, Some(("2026-03-10T12:00:00.000Z".into(), "2026-03-10T13:00:00.000Z".into())));
}

async fn deadlines_are_told_of(bed: Bed) {
    let late = simple("late", "deadline = \"30m\"", "cron = \"0 * * * *\"");
    apply(&bed.store, &[late], &[who("a", "", &["late"])], noon()).await;
    // By the clock of the database the run of that noon is long overdue.
    look(&bed.store, noon() + HOUR).await;
    deadline::run_once(&bed.store).await.expect("a look");
    deadline::run_once(&bed.store).await.expect("a look");
    assert_eq!(alerts(&bed.store).await, [AlertKind::DeadlineMissed]);
    // It ends, late; what settles the matter is a later run that is in time.
    work(&bed).await;
    deadline::run_once(&bed.store).await.expect("a look");
    assert_eq!(alerts(&bed.store).await, [AlertKind::DeadlineMissed]);
    look(&bed.store, SystemClock.now() + 2 * HOUR).await;
    work(&bed).await;
    deadline::run_once(&bed.store).await.expect("a look");
    assert!(!alerts(&bed.store).await.contains(&AlertKind::DeadlineMissed));
}

/// A year of a project of schedules, looked at by schedulers that die at random: exactly the runs that an
/// independent count of the rules expects, none twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_year_of_schedules_and_crashes() {
    const DAGS: usize = 200;
    const TENANTS: usize = 50;
    let bed = Bed::sqlite().await;
    let (start, end) = (at("2025-01-01T00:00:00Z"), at("2026-01-01T00:00:00Z"));
    // One nightly DAG, one weekly, and 198 of what is rarer.
    let rules = ["15 2 1 * *", "0 6 1 */3 *", "30 1 31 * *", "0 0 1 1,7 *", "45 23 15 * *"];
    let zones = ["Europe/London", "America/Chicago", "Australia/Lord_Howe", "UTC"];
    let sources: Vec<Arc<Dag>> = (0..DAGS)
        .map(|n| {
            let zone = zones[n % zones.len()];
            let rule = match n {
                0 => "30 1 * * *",
                1 => "30 2 * * 0",
                _ => rules[n % rules.len()],
            };
            simple(
                &format!("d{n}"),
                "",
                &format!("cron = \"{rule}\"\ntimezone = \"{zone}\"\ncatchup = \"all\"\njitter = \"10m\""),
            )
        })
        .collect();
    let names: Vec<String> = (0..DAGS).map(|n| format!("d{n}")).collect();
    let takes: Vec<&str> = names.iter().map(String::as_str).collect();
    let people: Vec<TenantSpec> = (0..TENANTS).map(|n| who(&format!("t{n}"), "", &takes)).collect();
    apply(&bed.store, &sources, &people, start).await;
    let mut dice = 0x9E37_79B9_7F4A_7C15_u64;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (dice >> 33) % sides
    };
    let (mut now, mut crashes) = (start, 0);
    let launcher = launcher();
    while now < end + 24 * HOUR {
        // Half a day to three days pass between two looks.
        now += HOUR * i64::try_from(12 + roll(60)).unwrap_or(12);
        let mut firing = Firing::default();
        loop {
            if roll(4) == 0 {
                // A scheduler that dies between its look and its COMMIT, at any point of it.
                let round = firing.run_once(&bed.store, &launcher, now);
                tokio::time::timeout(std::time::Duration::from_micros(roll(100_000)), round).await.ok();
                crashes += 1;
                firing = Firing::default();
                continue;
            }
            if !firing.run_once(&bed.store, &launcher, now).await.expect("a round").1 {
                break;
            }
        }
    }
    assert!(crashes > 10, "{crashes}");
    let expected = expected(&sources, &people, start, now);
    let found = bed.store.runs(None, None, 10_000_000).await.expect("runs");
    let found: Vec<_> = found.iter().map(|it| (it.tenant.to_string(), it.dag.clone(), at(&it.logical_time))).collect();
    let unique: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(unique.len(), found.len(), "none twice");
    assert!(expected.len() > 90_000, "{}", expected.len());
    let (missing, surplus) = (expected.difference(&unique).count(), unique.difference(&expected).count());
    assert_eq!((missing, surplus), (0, 0), "of {}", expected.len());
}

/// What an independent count of the rules expects between two moments: tenant, DAG, logical time.
fn expected(dags: &[Arc<Dag>], tenants: &[TenantSpec], start: i64, now: i64) -> BTreeSet<(String, String, i64)> {
    let mut expected = BTreeSet::new();
    for dag in dags {
        let table = timetable_of(dag, None, &CalendarTexts::new()).expect("fits").expect("a rule");
        for tenant in tenants {
            let until = now - table.schedule().jitter(&dag.id, &tenant.id);
            let due = fires(dag, start, until, Order::Ascending);
            expected.extend(due.iter().map(|it| (tenant.id.to_string(), dag.id.to_string(), it.0)));
        }
    }
    expected
}
