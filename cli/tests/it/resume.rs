//! kill -9 in mid-run, then `--resume`: it finishes, and nothing that had finished runs again.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::bench::Bench;

const TENANT: &str = "[tenant]\nid = \"acme\"\nstatus = \"active\"\n[dags.steps]\n";

/// `a` -> `b` -> `c`: each appends its name to a ledger; `b` then waits until `go` exists.
fn project() -> Bench {
    let bench = Bench::new();
    let ledger = bench.path("ledger").display().to_string();
    let go = bench.path("go").display().to_string();
    let append = |name: &str| format!("echo {name} >> {ledger}");
    let wait = format!("{}; while [ ! -e {go} ]; do sleep 0.01; done", append("b"));
    let task = |name: &str, needs: &str, script: &str| {
        format!("[tasks.{name}]\nkind = \"command\"\n{needs}with = {{ program = {script:?}, shell = true }}\n")
    };
    let dag = [
        "[dag]\nid = \"steps\"\n".to_owned(),
        task("a", "", &append("a")),
        task("b", "needs = [\"a\"]\n", &wait),
        task("c", "needs = [\"b\"]\n", &append("c")),
    ];
    bench.write("dags/steps.toml", &dag.concat()).write("dags/tenants/acme.toml", TENANT);
    bench
}

fn killed_and_resumed(bench: &Bench) {
    let mut child =
        bench.command(&["run", "steps"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().expect("starts");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    // Warnings about the DAG, "run <id> of steps for acme", then a line per task: `b started` is the signal.
    let first = lines.by_ref().map_while(Result::ok).find_map(|line| line.strip_prefix("run ").map(str::to_owned));
    let id = first.and_then(|line| line.split_whitespace().next().map(str::to_owned)).expect("the run's id");
    let started = lines.by_ref().map_while(Result::ok).any(|line| line.trim() == "b started");
    assert!(started, "the run ended before b started");
    child.kill().expect("killed with SIGKILL");
    child.wait().expect("gone");
    std::fs::write(bench.path("go"), "").expect("writable");
    let document = bench.run(&["run", "--resume", &id, "--json"]).json(0);
    assert_eq!(document["run_id"], id.as_str());
    assert_eq!(document["state"], "succeeded");
    let attempts: Vec<_> =
        document["tasks"].as_array().expect("tasks").iter().map(|it| it["attempts"].as_u64()).collect();
    assert_eq!(attempts, [Some(1), Some(2), Some(1)], "{document}");
    let ledger = std::fs::read_to_string(bench.path("ledger")).expect("a ledger");
    let count = |name: &str| ledger.lines().filter(|line| *line == name).count();
    assert_eq!((count("a"), count("c")), (1, 1), "{ledger}");
    assert!((1..=2).contains(&count("b")), "{ledger}");
    let again = bench.run(&["run", "--resume", &id, "--json"]).json(0);
    assert_eq!(again["state"], "succeeded", "a run that has ended stays as it is");
    assert_eq!(again["tasks"], document["tasks"]);
}

#[test]
fn on_sqlite() {
    killed_and_resumed(&project());
}

#[test]
fn on_postgres_after_the_lease_has_ended() {
    let database = testkit::postgres();
    let mut bench = project();
    bench.set("HEADWORKS_STORE_URL", database.url()).set("HEADWORKS_EXECUTOR_LEASE_TTL_SECONDS", "1.5");
    killed_and_resumed(&bench);
}

#[test]
fn a_run_of_another_dag_is_not_resumed() {
    let bench = project();
    std::fs::write(bench.path("go"), "").expect("writable");
    let document = bench.run(&["run", "steps", "--json"]).json(0);
    let id = document["run_id"].as_str().expect("an id");
    assert_eq!(bench.run(&["run", "other", "--resume", id]).code(), 2);
}
