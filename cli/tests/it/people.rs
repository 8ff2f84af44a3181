//! What people do about runs: ask why, retry, cancel, read what happened.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};

use serde_json::Value;

use crate::bench::Bench;

const TENANT: &str = "[tenant]\nid = \"acme\"\nstatus = \"active\"\n[dags.steps]\n";

fn task(name: &str, needs: &str, script: &str) -> String {
    format!("[tasks.{name}]\nkind = \"command\"\n{needs}with = {{ program = {script:?}, shell = true }}\n")
}

/// `a` -> `b` -> `c`, and `beside`: each appends its name to a ledger; `b` runs `script`, too.
fn project(script: &str) -> Bench {
    let bench = Bench::new();
    let ledger = bench.path("ledger").display().to_string();
    let append = |name: &str| format!("echo {name} >> {ledger}");
    let dag = [
        "[dag]\nid = \"steps\"\n".to_owned(),
        task("a", "", &append("a")),
        task(
            "b",
            "needs = [\"a\"]\n",
            &format!("{}; {}", append("b"), script.replace("HERE", &bench.path("").display().to_string())),
        ),
        task("c", "needs = [\"b\"]\n", &append("c")),
        task("beside", "", &append("beside")),
    ];
    bench.write("dags/steps.toml", &dag.concat()).write("dags/tenants/acme.toml", TENANT);
    bench
}

fn ledger(bench: &Bench) -> Vec<String> {
    let text = std::fs::read_to_string(bench.path("ledger")).expect("a ledger");
    let mut lines: Vec<_> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

fn columns(document: &Value, column: &str) -> Vec<Value> {
    document["tasks"].as_array().expect("tasks").iter().map(|it| it[column].clone()).collect()
}

/// Starts the run and waits until `b` has started; returns the run's id.
fn started(bench: &Bench) -> (Child, String) {
    let mut child =
        bench.command(&["run", "steps"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    let first = lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("run ").map(str::to_owned));
    let id = first.and_then(|line| line.split_whitespace().next().map(str::to_owned)).expect("the run's id");
    assert!(lines.by_ref().map_while(Result::ok).any(|line| line.trim() == "b started"), "b never started");
    // Read on, so that the child is not stopped by a full pipe.
    std::thread::spawn(move || lines.map_while(Result::ok).count());
    (child, id)
}

fn reasons(document: &Value) -> Vec<&str> {
    let reasons = document["reasons"].as_array().expect("reasons");
    for it in reasons {
        assert!(it["message"].as_str().is_some_and(|message| !message.is_empty()), "{it}");
    }
    reasons.iter().filter_map(|it| it["code"].as_str()).collect()
}

fn mended_and_retried(bench: &Bench) {
    let failed = bench.run(&["run", "steps", "--json"]).json(4);
    let id = failed["run_id"].as_str().expect("an id");
    let why = bench.run(&["why", &id[..13], "c", "--json"]).json(0);
    assert_eq!((&why["task"], &why["index"], &why["state"]), (&"c".into(), &Value::Null, &"upstream_failed".into()));
    assert_eq!(reasons(&why), ["upstream_failed", "attempt_failed"]);
    let plain = bench.run(&["why", id, "b"]);
    assert!(plain.out().starts_with(&format!("b of run {id}: failed\n  b failed; attempt 1 ")), "{}", plain.out());

    std::fs::write(bench.path("mended"), "").expect("writable");
    let done = bench.run(&["retry", id, "--reason", "it is mended", "--json"]);
    assert!(done.err().contains("new generations of b, c"), "{}", done.err());
    let document = done.json(0);
    assert_eq!((&document["run_id"], &document["state"]), (&failed["run_id"], &"succeeded".into()));
    assert_eq!(columns(&document, "generation"), [1, 2, 2, 1]);
    assert_eq!(ledger(bench), ["a", "b", "b", "beside", "c"], "what had succeeded did not run again");

    let events = bench.run(&["runs", "events", id, "--json"]).json(0);
    let asked = events["events"].as_array().expect("events").iter().find(|it| it["event"] == "run_rerun_requested");
    assert_eq!(asked.expect("on record")["detail"]["reason"], "it is mended");
    let of_b = bench.run(&["runs", "events", id, "--task", "b"]);
    assert!(of_b.out().contains("b (generation 2)"), "{}", of_b.out());
    assert!(of_b.out().contains("task_failed"), "{}", of_b.out());
    let part = bench.run(&["runs", "events", id, "--limit", "2"]);
    assert!(part.err().contains("--offset 2"), "{}", part.err());

    // Nothing failed any more; a task by name goes all the same, with what is below it.
    let nothing = bench.run(&["retry", id, "--json"]).json(2);
    assert!(nothing["error"]["hint"].as_str().is_some_and(|hint| hint.contains("--task")), "{nothing}");
    let again = bench.run(&["retry", id, "--task", "c", "--json"]).json(0);
    assert_eq!(columns(&again, "generation"), [1, 2, 3, 1]);
    let unknown = bench.run(&["retry", id, "--task", "no_such", "--json"]).json(2);
    assert_eq!(unknown["error"]["kind"], "not_found");
}

#[test]
fn a_mended_run_is_retried_on_sqlite() {
    mended_and_retried(&project("test -e HERE/mended"));
}

#[test]
fn a_mended_run_is_retried_on_postgres() {
    let database = testkit::postgres();
    let mut bench = project("test -e HERE/mended");
    bench.set("HEADWORKS_STORE_URL", database.url());
    mended_and_retried(&bench);
}

#[test]
fn a_retry_that_fails_again_ends_with_4() {
    let bench = project("false");
    let failed = bench.run(&["run", "steps", "--json"]).json(4);
    let id = failed["run_id"].as_str().expect("an id");
    let again = bench.run(&["retry", id, "--json"]).json(4);
    assert_eq!(again["state"], "failed");
    assert_eq!(columns(&again, "generation"), [1, 2, 2, 1]);
}

const UNTIL_GO: &str = "while [ ! -e HERE/go ]; do sleep 0.01; done";

#[test]
fn a_run_that_goes_on_is_not_retried_and_can_be_canceled_from_outside() {
    let database = testkit::postgres();
    let mut bench = project(UNTIL_GO);
    bench.set("HEADWORKS_STORE_URL", database.url()).set("HEADWORKS_EXECUTOR_LEASE_TTL_SECONDS", "4");
    let (mut child, id) = started(&bench);
    let refused = bench.run(&["retry", &id, "--json"]).json(2);
    let error = &refused["error"];
    assert!(error["message"].as_str().is_some_and(|message| message.contains("b in session")), "{refused}");
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("runs cancel")), "{refused}");
    let why = bench.run(&["why", &id, "c", "--json"]).json(0);
    assert_eq!(reasons(&why), ["waiting_for_upstreams", "running"]);

    let canceled = bench.run(&["runs", "cancel", &id, "--json"]).json(0);
    assert_eq!((&canceled["state"], &canceled["canceled"]), (&"canceling".into(), &1.into()), "{canceled}");
    assert_eq!((&canceled["still_running"], &canceled["running"][0]["task"]), (&1.into(), &"b".into()));
    std::fs::write(bench.path("go"), "").expect("writable");
    assert_eq!(child.wait().expect("ends").code(), Some(4));
    let shown = bench.run(&["runs", "show", &id, "--json"]).json(0);
    assert_eq!(shown["state"], "canceled");
    assert_eq!(columns(&shown, "state")[2], "canceled");
    let why = bench.run(&["why", &id, "c", "--json"]).json(0);
    assert_eq!(reasons(&why), ["run_canceled"]);
    let twice = bench.run(&["runs", "cancel", &id]);
    assert_eq!(twice.code(), 0);
    assert!(twice.err().contains("has ended already: canceled"), "{}", twice.err());
    // And a canceled run goes on where it was stopped.
    let retried = bench.run(&["retry", &id, "--json"]).json(0);
    assert_eq!(retried["state"], "succeeded");
}

#[test]
fn a_run_on_sqlite_is_canceled_from_outside_of_its_owner() {
    let bench = project(UNTIL_GO);
    let (mut child, id) = started(&bench);
    let canceled = bench.run(&["runs", "cancel", &id]);
    assert_eq!(canceled.code(), 0, "{}", canceled.err());
    assert!(canceled.out().contains(&format!("run {id}: canceling")), "{}", canceled.out());
    assert!(canceled.out().contains("1 task instance(s) were canceled at once"), "{}", canceled.out());
    assert!(canceled.out().contains("still running: b, attempt 1"), "{}", canceled.out());
    std::fs::write(bench.path("go"), "").expect("writable");
    assert_eq!(child.wait().expect("ends").code(), Some(4));
    assert_eq!(bench.run(&["runs", "show", &id, "--json"]).json(0)["state"], "canceled");
}

#[test]
fn a_run_whose_process_was_killed_is_canceled_at_once() {
    let bench = project(UNTIL_GO);
    let (mut child, id) = started(&bench);
    child.kill().expect("killed");
    child.wait().expect("gone");
    let refused = bench.run(&["retry", &id, "--json"]).json(2);
    assert_eq!(refused["error"]["kind"], "usage", "it has not ended: {refused}");
    let canceled = bench.run(&["runs", "cancel", &id, "--json"]).json(0);
    assert_eq!(canceled["state"], "canceled", "{canceled}");
    // `b`, and `beside` if it had not ended yet.
    assert!(canceled["given_up"].as_u64().is_some_and(|count| (1..=2).contains(&count)), "{canceled}");
    std::fs::write(bench.path("go"), "").expect("writable");
    let retried = bench.run(&["retry", &id, "--json"]).json(0);
    assert_eq!(retried["state"], "succeeded");
}

#[test]
fn many_elements_are_summed_up_in_the_table_and_listed_in_json() {
    let bench = Bench::new();
    let numbers = (0..25).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
    let dag = format!(
        "[dag]\nid = \"steps\"\n[tasks.many]\nkind = \"command\"\nmatrix = {{ n = [{numbers}] }}\n\
         with = {{ program = \"test {{{{matrix.n}}}} -ne 3\", shell = true }}\n{}",
        task("few", "", "true")
    );
    bench.write("dags/steps.toml", &dag).write("dags/tenants/acme.toml", TENANT);
    let document = bench.run(&["run", "steps", "--json"]).json(4);
    assert_eq!((&document["instances"], columns(&document, "task").len()), (&26.into(), 26));
    let id = document["run_id"].as_str().expect("an id");
    let shown = bench.run(&["runs", "show", id]).out();
    assert!(shown.contains("many (24 of 25)") && shown.contains("many (1 of 25)"), "{shown}");
    assert!(!shown.contains("many[3]") && shown.contains("few"), "{shown}");
    let page = bench.run(&["runs", "show", id, "--json", "--limit", "2", "--offset", "24"]).json(0);
    assert_eq!((columns(&page, "task"), &page["instances"]), (vec!["many".into(), "few".into()], &26.into()));
    let why = bench.run(&["why", id, "many", "--json"]).json(0);
    assert_eq!((&why["index"], reasons(&why)), (&3.into(), vec!["elements", "attempt_failed"]));
    for args in [&["why", id, "many[4]", "--json"][..], &["why", id, "many", "--index", "4", "--json"]] {
        assert_eq!(bench.run(args).json(0)["state"], "succeeded");
    }
    assert_eq!(bench.run(&["why", id, "many[4]", "--index", "4"]).code(), 2);
    assert_eq!(bench.run(&["why", id, "many[25]"]).code(), 2);
}
