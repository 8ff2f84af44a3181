//! Drills with the real binary: those that ship, on both stores; what a false expectation comes to; what is kept of
//! them; and that they can be scheduled.

use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use chrono::{Timelike, Utc};
use serde_json::Value;

use crate::bench::{Bench, repository};

/// The drills that ship, each with its runbook; a test holds that there are no others.
const SHIPPED: [&str; 6] = [
    "challenger_regression",
    "corrupted_input",
    "database_restart",
    "failed_tenant",
    "object_store_down",
    "worker_killed",
];

macro_rules! shipped {
    ($($name:ident),+ $(,)?) => {
        mod shipped {
            mod sqlite {
                $(#[test] fn $name() { super::super::on_sqlite(stringify!($name)); })+
            }
            mod postgres {
                $(#[test] fn $name() { super::super::on_postgres(stringify!($name)); })+
            }
        }
    };
}

shipped!(challenger_regression, corrupted_input, database_restart, failed_tenant, object_store_down, worker_killed,);

fn on_sqlite(drill: &str) {
    passes(&Bench::of_repository(), drill, "sqlite");
}

fn on_postgres(drill: &str) {
    let database = testkit::postgres();
    let mut bench = Bench::of_repository();
    bench.set("HEADWORKS_STORE_URL", database.url());
    passes(&bench, drill, "postgres");
}

fn run(bench: &Bench, drill: &str) -> (i32, Value) {
    let done = bench.run(&["drill", "run", &format!("docs/runbooks/{drill}.toml"), "--json"]);
    let code = done.code();
    (code, done.json(code))
}

/// Runs a drill that has to pass, and looks at what it leaves.
fn passes(bench: &Bench, drill: &str, store: &str) {
    let (code, document) = run(bench, drill);
    let evidence = read(&document, "evidence.json");
    keep(&document, &format!("{drill}-{store}"));
    tell(store, &document, &evidence);
    assert_eq!((code, &document["verdict"], &document["drill"]), (0, &"passed".into(), &drill.into()), "{document:#}");
    let expectations = document["expectations"].as_array().expect("expectations");
    assert!(expectations.len() > 5 && expectations.iter().all(|it| it["passed"] == true), "{document:#}");
    is_whole(&document, &evidence);
    let listed = bench.run(&["drill", "list", "--json"]).json(0);
    assert_eq!((&listed["drills"][0]["drill"], &listed["drills"][0]["id"]), (&drill.into(), &document["id"]));
    let shown = bench.run(&["drill", "show", drill, "--json"]).json(0);
    assert_eq!(shown, evidence, "what is kept is what was written");
    // Nothing of it is seen by who does not look for it.
    assert_eq!(bench.run(&["runs", "list", "--json"]).json(0)["runs"], Value::Array(Vec::new()));
    assert_eq!(bench.run(&["models", "list", "--json"]).json(0)["models"], Value::Array(Vec::new()));
}

fn path(document: &Value, name: &str) -> PathBuf {
    let paths = document["evidence"].as_array().expect("paths");
    let found = paths.iter().filter_map(Value::as_str).find(|path| path.ends_with(name));
    PathBuf::from(found.unwrap_or_else(|| panic!("no {name}: {document:#}")))
}

fn read(document: &Value, name: &str) -> Value {
    let text = std::fs::read_to_string(path(document, name)).expect("the evidence is there");
    serde_json::from_str(&text).expect("JSON")
}

/// Everything is in the evidence, and the page opens without asking anybody.
fn is_whole(document: &Value, evidence: &Value) {
    for key in ["drill", "id", "title", "started_at", "finished_at", "binary_version", "dag_version", "store"] {
        assert!(evidence[key].as_str().is_some_and(|text| !text.is_empty()), "no {key}");
    }
    // A writer that waits for an SQLite file says nothing, and a worker whose connections end between two of its
    // statements opens others: nobody has to notice.
    let is_silent = evidence["drill"] == "database_restart";
    assert!(is_silent || evidence["detection_seconds"].is_number(), "no detection");
    assert!(evidence["recovery_seconds"].is_number(), "no recovery");
    let kinds: Vec<&str> =
        evidence["timeline"].as_array().expect("a timeline").iter().filter_map(|it| it["kind"].as_str()).collect();
    for kind in ["fault", "transition", "action", "detection", "recovery"] {
        assert!(kinds.contains(&kind) || (is_silent && kind == "detection"), "the timeline has no {kind}");
    }
    let runs = evidence["runs"].as_array().expect("runs");
    let digests = runs
        .iter()
        .flat_map(|run| run["artifacts"].as_array().expect("artifacts"))
        .filter(|it| it["digest"].is_string());
    assert!(digests.count() > 0);
    assert!(!evidence["injected_faults"].as_array().expect("faults").is_empty());
    let html = std::fs::read_to_string(path(document, "evidence.html")).expect("a page");
    for foreign in ["http://", "https://", "src=", "<script", "@import"] {
        assert!(!html.contains(foreign), "the page has {foreign}");
    }
    let log = std::fs::read_to_string(path(document, "incident.md")).expect("a log");
    for it in document["expectations"].as_array().expect("expectations") {
        let name = it["name"].as_str().expect("a name");
        assert!(log.contains(name), "{name} is not in the incident log");
        assert!(html.contains(&name.replace('\'', "&#x27;")), "{name} is not on the page");
    }
}

/// Keeps the evidence for people, where `cargo xtask drills` says that it is.
fn keep(document: &Value, name: &str) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("drills").join(name);
    std::fs::create_dir_all(&folder).expect("a folder");
    for name in ["evidence.json", "evidence.html", "incident.md"] {
        std::fs::copy(path(document, name), folder.join(name)).expect("copied");
    }
}

/// A line for the table of `cargo xtask drills`.
fn tell(store: &str, document: &Value, evidence: &Value) {
    let Some(report) = std::env::var_os("HEADWORKS_TEST_DRILLS_REPORT") else { return };
    let all = document["expectations"].as_array().expect("expectations");
    let holding = all.iter().filter(|it| it["passed"] == true).count();
    let text = |value: &Value| value.as_f64().map_or_else(|| "-".to_owned(), |it| format!("{it:.1}"));
    let line = format!(
        "{} {store} {} {} {} {} {holding}/{}\n",
        document["drill"].as_str().unwrap_or("?"),
        document["verdict"].as_str().unwrap_or("?"),
        text(&document["seconds"]),
        text(&evidence["detection_seconds"]),
        text(&evidence["recovery_seconds"]),
        all.len()
    );
    let file = std::fs::OpenOptions::new().create(true).append(true).open(report);
    // One write: several tests report at once.
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the report is writable");
}

#[test]
fn every_drill_that_ships_is_run_and_lies_beside_its_runbook() {
    let folder = repository().join("docs/runbooks");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("the folder") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let stem = path.file_stem().expect("a stem").to_string_lossy().into_owned();
            let runbook = std::fs::read_to_string(folder.join(format!("{stem}.md"))).expect("its runbook");
            assert!(runbook.contains(&format!("({stem}.toml)")), "{stem}.md does not name its drill");
            found.push(stem);
        }
    }
    found.sort();
    assert_eq!(found, SHIPPED);
    // The scheduled rehearsal has all of them.
    let dag = std::fs::read_to_string(repository().join("dags/drills.toml")).expect("the DAG");
    assert!(SHIPPED.iter().all(|drill| dag.contains(&format!("\"{drill}\""))), "{dag}");
}

#[test]
fn an_expectation_that_does_not_hold_ends_with_4_and_is_named() {
    let bench = Bench::of_repository();
    let text = std::fs::read_to_string(bench.path("docs/runbooks/challenger_regression.toml")).expect("the drill");
    let wrong = text.replace("name = \"one command brings the champion back\"", "name = \"a miracle\"").replace(
        "after = \"back\"\nmodel = \"demand\"\nversion = 1",
        "after = \"back\"\nmodel = \"demand\"\nversion = 7",
    );
    assert_ne!(wrong, text);
    bench.write("docs/runbooks/challenger_regression.toml", &wrong);
    let (code, document) = run(&bench, "challenger_regression");
    assert_eq!((code, &document["verdict"]), (4, &"failed".into()));
    let failed: Vec<_> =
        document["expectations"].as_array().expect("a list").iter().filter(|it| it["passed"] == false).collect();
    assert_eq!(failed.len(), 1, "{document:#}");
    assert_eq!(failed[0]["name"], "a miracle");
    assert_eq!(failed[0]["detail"], "the champion is version 1");
    let log = std::fs::read_to_string(path(&document, "incident.md")).expect("a log");
    assert!(log.contains("DOES NOT HOLD: a miracle"), "{log}");
    assert_eq!(bench.run(&["drill", "show", "no_such"]).code(), 2);
    let plain = bench.run(&["drill", "show", "challenger_regression"]);
    assert!(plain.out().contains("DOES NOT HOLD") && plain.out().contains("a miracle"), "{}", plain.out());
}

#[test]
fn a_mistake_in_a_drill_is_told_with_its_place() {
    let bench = Bench::of_repository();
    let text = std::fs::read_to_string(bench.path("docs/runbooks/worker_killed.toml")).expect("the drill");
    bench.write("docs/runbooks/worker_killed.toml", &text.replace("kind = \"lose_worker\"", "kind = \"lose_wroker\""));
    let line = 1 + text.lines().position(|line| line == "kind = \"lose_worker\"").expect("there");
    let found = bench.run(&["validate", "--json"]).json(3);
    let row = &found["diagnostics"][0];
    assert_eq!((&row["code"], &row["line"]), (&"drill::bad_value".into(), &line.into()), "{found:#}");
    assert!(row["help"].as_str().is_some_and(|help| help.contains("lose_worker")), "{row}");
    assert_eq!(bench.run(&["drill", "run", "docs/runbooks/worker_killed.toml"]).code(), 3);
    bench.write("dags/tenants/x.toml", "[tenant]\nid = \"drill-x\"\n");
    let reserved = bench.run(&["run", "retail_demand"]);
    assert!(reserved.code() == 3 && reserved.err().contains("drill tenant"), "{}", reserved.err());
}

/// A DAG of one task.
const SMALL: &str = r#"
[dag]
id = "small"
[params]
source = { type = "string", default = "none" }
[tasks.a]
kind = "command"
with = { program = "true" }
"#;

/// A drill of two tenants: both fail, one is helped, and a fault names a task that there is not.
const HALF: &str = r#"
[drill]
id = "half"
title = "Two tenants fail, and one is helped"
runbook = "half.md"
[run]
dag = "small"
tenants = ["east", "west"]
[[fault]]
kind = "fail"
task = "a"
[[fault]]
kind = "fail"
task = "b"
[[step]]
name = "night"
do = "run"
exit = 4
[[step]]
name = "again"
do = "replay"
run = "night"
from = "failed"
tenant = "east"
[[expect]]
name = "both are well again"
that = "timing"
recovered_within = "300s"
[[expect]]
name = "nobody is called"
that = "alert"
kind = "deadline_missed"
is = "none"
"#;

/// A project with [`SMALL`] and a drill of it.
fn small(id: &str, drill: &str) -> Bench {
    let bench = Bench::new();
    std::fs::create_dir_all(bench.path("docs/runbooks")).expect("a folder");
    bench.write("dags/small.toml", SMALL).write(&format!("docs/runbooks/{id}.md"), "x");
    bench.write(&format!("docs/runbooks/{id}.toml"), drill);
    bench
}

/// The names of the expectations that do not hold.
fn failed(document: &Value) -> Vec<&str> {
    let all = document["expectations"].as_array().expect("a list").iter();
    all.filter(|it| it["passed"] == false).filter_map(|it| it["name"].as_str()).collect()
}

#[test]
fn a_fault_that_never_strikes_and_a_tenant_that_nobody_helps_are_named() {
    let bench = small("half", HALF);
    let (code, document) = run(&bench, "half");
    let expected = ["both are well again", "fault 2 (east) strikes", "fault 2 (west) strikes"];
    assert_eq!((code, failed(&document)), (4, expected.to_vec()), "{document:#}");
    let whole = HALF.replace("[[fault]]\nkind = \"fail\"\ntask = \"b\"\n", "").replace("tenant = \"east\"\n", "");
    bench.write("docs/runbooks/half.toml", &whole);
    let (code, document) = run(&bench, "half");
    assert_eq!((code, failed(&document)), (0, Vec::new()), "{document:#}");
    // A clone is of the drill's DAG, or it is none.
    let id = read(&document, "evidence.json")["runs"][0]["run_id"].as_str().expect("an id").to_owned();
    bench.write("docs/runbooks/half.toml", &whole.replace("dag = \"small\"", "dag = \"other\""));
    let refused = bench.run(&["drill", "run", "docs/runbooks/half.toml", "--clone", &id]);
    assert!(refused.code() == 2 && refused.err().contains("the run to clone is of small"), "{}", refused.err());
}

#[test]
fn a_drill_that_meets_an_error_leaves_what_it_found() {
    let drill = r#"
[drill]
id = "stuck"
title = "An input is not what the drill takes it for"
runbook = "stuck.md"
[run]
dag = "small"
input = "source"
params = { source = "sales.csv" }
[[fault]]
kind = "input"
run = "worse"
damage = "scaled"
factor = 2.0
[[step]]
name = "night"
do = "run"
[[step]]
name = "worse"
do = "run"
[[expect]]
name = "the night is good"
that = "state"
after = "night"
run = "night"
is = "succeeded"
"#;
    let bench = small("stuck", drill);
    bench.write("sales.csv", "day,sku\nmonday,a\n");
    let (code, document) = run(&bench, "stuck");
    assert_eq!((code, failed(&document)), (4, vec!["the drill is performed to its end"]), "{document:#}");
    let evidence = read(&document, "evidence.json");
    let last = evidence["expectations"].as_array().and_then(|all| all.last()).expect("an expectation");
    assert!(last["detail"].as_str().is_some_and(|detail| detail.contains("changes nothing")), "{last}");
    assert_eq!(evidence["runs"].as_array().map(Vec::len), Some(1), "{evidence:#}");
    assert_eq!(bench.run(&["drill", "show", "stuck", "--json"]).json(0), evidence);
}

#[test]
fn a_drill_with_a_database_of_its_own_restarts_no_other() {
    let mut bench = Bench::of_repository();
    let (script, trace) = (bench.path("restart"), bench.path("restarted"));
    std::fs::write(&script, format!("#!/bin/sh\ntouch {}\n", trace.display())).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
    bench.set("HEADWORKS_DRILL_RESTART_DATABASE", script.display().to_string());
    let file = "docs/runbooks/database_restart.toml";
    let document = bench.run(&["drill", "run", file, "--scratch", "--json"]).json(0);
    assert!(!trace.exists(), "the configured command was given");
    let fault = read(&document, "evidence.json")["injected_faults"][0]["what"].clone();
    assert!(fault.as_str().is_some_and(|words| words.contains("locked")), "{fault}");
}

/// A DAG of programs: `a` and `b` are killed, `c` hangs, the store refuses `d` twice.
const STEPS: &str = r#"
[dag]
id = "steps"
[defaults]
retries = { max = 1, backoff = "constant", initial = "10ms", jitter = 0, retry_on = "any" }
[tasks.a]
kind = "command"
with = { program = "echo 1 > $HEADWORKS_ARTIFACTS/a.json", shell = true, outputs = ["a.json"] }
[tasks.b]
kind = "command"
needs = ["a"]
with = { program = "echo 2 > $HEADWORKS_ARTIFACTS/b.json", shell = true, inputs = ["a.json"], outputs = ["b.json"] }
[tasks.c]
kind = "command"
needs = ["b"]
timeout = "1s"
with = { program = "true" }
[tasks.d]
kind = "command"
needs = ["c"]
with = { program = "echo 4 > $HEADWORKS_ARTIFACTS/d.json", shell = true, outputs = ["d.json"] }
"#;

const STRUCK: &str = r#"
[drill]
id = "struck"
title = "Attempts are killed, hang, and meet a store that refuses"
runbook = "struck.md"
[run]
dag = "steps"
[[fault]]
kind = "kill"
task = "a"
at = "begun"
[[fault]]
kind = "kill"
task = "b"
at = "published"
[[fault]]
kind = "hang"
task = "c"
[[fault]]
kind = "object_store"
task = "d"
operation = "put"
failures = 2
latency = "10ms"
[[step]]
name = "night"
do = "run"
[[step]]
name = "hold"
do = "pause"
[[step]]
name = "go_on"
do = "unpause"
[[expect]]
name = "a process that is killed is a loss, and runs again"
that = "task"
task = "a"
is = "succeeded"
attempts = 2
[[expect]]
name = "so is one that had published"
that = "task"
task = "b"
is = "succeeded"
attempts = 2
[[expect]]
name = "what hangs is ended by its limit"
that = "task"
task = "c"
is = "succeeded"
attempts = 2
[[expect]]
name = "two refusals cost no attempt"
that = "task"
task = "d"
is = "succeeded"
attempts = 1
[[expect]]
name = "nothing is there twice"
that = "whole"
"#;

#[test]
fn attempts_are_struck_on_postgres_and_s3() {
    let (database, store) = (testkit::postgres(), testkit::S3Server::start());
    let mut bench = Bench::new();
    std::fs::create_dir_all(bench.path("docs/runbooks")).expect("a folder");
    bench
        .write("dags/steps.toml", STEPS)
        .write("docs/runbooks/struck.toml", STRUCK)
        .write("docs/runbooks/struck.md", "x");
    bench.set("HEADWORKS_STORE_URL", database.url()).set("HEADWORKS_ARTIFACTS_URL", store.url("drills"));
    bench.set("HEADWORKS_EXECUTOR_CANCEL_GRACE_SECONDS", "0.1");
    for (name, value) in store.env() {
        bench.set(name, value);
    }
    let (code, document) = run(&bench, "struck");
    assert_eq!((code, &document["verdict"]), (0, &"passed".into()), "{document:#}");
    let evidence = read(&document, "evidence.json");
    let faults: Vec<_> =
        evidence["injected_faults"].as_array().expect("faults").iter().filter_map(|it| it["what"].as_str()).collect();
    for (fault, begins) in faults.iter().zip([
        "a attempt 1: SIGKILL",
        "b attempt 1: SIGKILL",
        "c attempt 1: the attempt hangs",
        "d attempt 1: the first 2 writes",
    ]) {
        assert!(fault.starts_with(begins), "{faults:#?}");
    }
    assert_eq!(faults.len(), 4, "{faults:#?}");
    let tenant = evidence["tenants"][0]["tenant"].as_str().expect("a tenant");
    let id = evidence["runs"][0]["run_id"].as_str().expect("an id");
    let events = bench.run(&["runs", "events", id, "--tenant", tenant, "--json"]).json(0);
    let crashes = events["events"].as_array().expect("events").iter();
    let crashes = crashes.filter(|it| it["detail"]["code"] == "attempt_crashed").count();
    assert_eq!(crashes, 2, "{events:#}");
}

/// The drill of the database against a server of its own, restarted by the configured command.
#[test]
fn the_database_is_restarted_for_real() {
    let mut cluster = testkit::own_cluster();
    let database = cluster.server().create_database().expect("a database");
    let mut bench = Bench::of_repository();
    let (asked, done) = (bench.path("asked"), bench.path("done"));
    for pipe in [&asked, &done] {
        assert!(Command::new("mkfifo").arg(pipe).status().expect("mkfifo runs").success());
    }
    let script = bench.path("restart");
    // Tells this test, and returns when it has restarted the server.
    let text = format!("#!/bin/sh\necho now > {}\ncat {} > /dev/null\n", asked.display(), done.display());
    std::fs::write(&script, text).expect("written");
    std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).expect("executable");
    bench.set("HEADWORKS_STORE_URL", database.url());
    bench.set("HEADWORKS_DRILL_RESTART_DATABASE", script.display().to_string());
    // A server that comes back on a busy machine takes its time; in production a lease is 60 s.
    bench.set("HEADWORKS_DRILL_LEASE_TTL_SECONDS", "30");
    let document = std::thread::scope(|scope| {
        let drill = scope.spawn(|| run(&bench, "database_restart"));
        let mut word = String::new();
        std::fs::File::open(&asked).expect("the pipe").read_to_string(&mut word).expect("asked");
        assert_eq!(word, "now\n");
        cluster.restart(testkit::Shutdown::Immediate).expect("restarted");
        std::fs::write(&done, "").expect("told");
        drill.join().expect("the drill ends")
    });
    let (code, document) = document;
    assert_eq!((code, &document["verdict"]), (0, &"passed".into()), "{document:#}");
    let evidence = read(&document, "evidence.json");
    let fault = evidence["injected_faults"][0]["what"].as_str().expect("words").to_owned();
    assert!(fault.contains("restarted by the configured command"), "{fault}");
}

#[test]
fn a_past_run_is_cloned_and_stays_as_it_was() {
    let bench = Bench::of_repository();
    let tenant = "[tenant]\nid = \"shop\"\n[parameters]\nsource = \"dags/data/drill/sales.csv\"\ncontract = \"drill\"\n\
        suite = \"drill\"\nhorizon = 14\n[dags.retail_demand]\n";
    bench.write("dags/tenants/shop.toml", tenant);
    let past = bench.run(&["run", "retail_demand", "--tenant", "shop", "--seed", "5", "--json"]).json(0);
    let id = past["run_id"].as_str().expect("an id");
    let models = bench.run(&["models", "list", "--json"]).json(0);
    // The DAG is edited meanwhile: a clone is what the run was pinned to.
    let dag = std::fs::read_to_string(bench.path("dags/retail_demand.toml")).expect("the DAG");
    bench.write("dags/retail_demand.toml", &dag.replace("rounds = 150", "rounds = 7"));
    let file = "docs/runbooks/worker_killed.toml";
    let document = bench.run(&["drill", "run", file, "--clone", id, "--json"]).json(0);
    let evidence = read(&document, "evidence.json");
    assert_eq!((&evidence["dag_version"], &evidence["cloned_run"]), (&past["dag_version"], &past["run_id"]));
    let panel = |run: &Value| {
        let artifacts = run["artifacts"].as_array().expect("artifacts").iter();
        artifacts
            .filter(|it| it["name"] == "panel.parquet" || it["name"] == "model.bin")
            .map(|it| it["digest"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(panel(&evidence["runs"][0]), panel(&past), "the same data and seed, through a loss");
    assert_eq!(bench.run(&["runs", "show", id, "--json"]).json(0), past);
    assert_eq!(bench.run(&["models", "list", "--json"]).json(0), models, "no model of the tenant was touched");
}

#[test]
fn a_rehearsal_is_scheduled_like_any_dag_and_needs_nothing_of_production() {
    let bench = Bench::of_repository();
    let dag = std::fs::read_to_string(bench.path("dags/drills.toml")).expect("the DAG");
    // One of the six is enough to see that it comes due, and what it leaves.
    let others = dag.lines().find(|line| line.starts_with("matrix =")).expect("the matrix");
    bench.write("dags/drills.toml", &dag.replace(others, "matrix = { drill = [\"worker_killed\"] }"));
    let due = Utc::now() + chrono::Duration::seconds(3);
    let tenant = format!(
        "[tenant]\nid = \"operations\"\n[dags.drills]\nparams = {{ headworks = \"{}\" }}\n\
         schedule = {{ cron = \"{} {} {} * * *\", timezone = \"UTC\" }}\n",
        env!("CARGO_BIN_EXE_headworks"),
        due.second(),
        due.minute(),
        due.hour()
    );
    bench.write("dags/tenants/operations.toml", &tenant);
    let mut server = bench
        .command(&["serve", "--listen", "127.0.0.1:0"])
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("starts");
    let lines = BufReader::new(server.stderr.take().expect("piped")).lines();
    let mut heard = Vec::new();
    // The server says how each task ended.
    let ended = lines.map_while(Result::ok).any(|line| {
        let ended = line.contains("rehearse[0] succeeded") || line.contains("rehearse[0] failed");
        heard.push(line);
        ended
    });
    server.kill().expect("killed");
    server.wait().expect("gone");
    assert!(ended && heard.last().is_some_and(|line| line.contains("succeeded")), "{heard:#?}");
    let listed = bench.run(&["runs", "list", "--tenant", "operations", "--json"]).json(0);
    let listed = listed["runs"].as_array().expect("runs");
    assert!(listed.len() == 1 && listed[0]["kind"] == "scheduled", "{listed:#?}");
    let id = listed[0]["run_id"].as_str().expect("an id");
    bench.run(&["artifacts", "get", id, "rehearse[0]", "evidence.json", "--json"]).json(0);
    let evidence = std::fs::read_to_string(bench.path("evidence.json")).expect("the evidence");
    let evidence: Value = serde_json::from_str(&evidence).expect("JSON");
    assert_eq!((&evidence["drill"], &evidence["verdict"]), (&"worker_killed".into(), &"passed".into()));
    // The rehearsal had a database of its own: here there is no drill.
    assert_eq!(bench.run(&["drill", "list", "--json"]).json(0)["drills"], Value::Array(Vec::new()));
}

#[test]
fn a_champion_is_chosen_and_taken_back_by_hand() {
    let bench = Bench::of_repository();
    let run = |extra: &[&str]| {
        let all = [
            &["run", "retail_demand", "--tenant", "gift_shop", "--json", "--param", "contract=drill"][..],
            &["--param", "suite=drill", "--param", "horizon=14", "--param", "source=dags/data/drill/sales.csv"],
            extra,
        ];
        bench.run(&all.concat()).json(0)
    };
    run(&[]);
    // The same recipe again: the gate says no, and a candidate is left.
    run(&["--seed", "3"]);
    let models = || -> Vec<(u64, String)> {
        let listed = bench.run(&["models", "list", "--json"]).json(0);
        let rows = listed["models"].as_array().expect("models").iter();
        rows.map(|it| (it["version"].as_u64().expect("a number"), it["status"].as_str().expect("a word").to_owned()))
            .collect()
    };
    assert_eq!(models(), [(2, "candidate".to_owned()), (1, "champion".to_owned())]);
    let refused = bench.run(&["models", "promote", "demand", "2", "--json"]).json(4);
    assert_eq!(refused["error"]["kind"], "not_promotable");
    assert_eq!(bench.run(&["models", "promote", "demand", "2", "--force"]).code(), 2, "a reason is asked for");
    let forced = ["models", "promote", "demand", "2", "--force", "--reason", "the board wants it", "--json"];
    let forced = bench.run(&forced).json(0);
    assert_eq!((&forced["from"], &forced["champion"]), (&1.into(), &2.into()));
    assert_eq!(models(), [(2, "champion".to_owned()), (1, "archived".to_owned())]);
    let back = bench.run(&["models", "rollback", "demand", "--reason", "it was bad", "--json"]).json(0);
    assert_eq!((&back["from"], &back["champion"]), (&2.into(), &1.into()));
    let further = bench.run(&["models", "rollback", "demand", "--json"]).json(4);
    assert_eq!(further["error"]["kind"], "no_earlier_champion");
    let shown = bench.run(&["models", "show", "demand", "--json"]).json(0);
    let reasons: Vec<_> =
        shown["decisions"].as_array().expect("decisions").iter().map(|it| it["reason"].clone()).collect();
    assert_eq!(reasons.len(), 4, "{reasons:?}");
    assert_eq!((&reasons[0], &reasons[1]), (&"it was bad".into(), &"the board wants it".into()));
}
