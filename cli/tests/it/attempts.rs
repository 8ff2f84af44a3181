//! Attempts in processes of their own, with the real binary: what they see, what they may use, what
//! ends with them, and what is left to read.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::bench::Bench;

const TENANT: &str = "[tenant]\nid = \"acme\"\nstatus = \"active\"\n[dags.t]\n";

/// A project whose one DAG runs `script` as task `a`, with further keys of `command`.
fn project(script: &str, more: &str) -> Bench {
    let bench = Bench::new();
    let dag = format!(
        "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"command\"\n\
         with = {{ program = {script:?}, shell = true, grace = 0.5{more} }}\n"
    );
    bench.write("dags/t.toml", &dag).write("dags/tenants/acme.toml", TENANT);
    bench
}

/// The lines that a run's attempts printed, as they are stored.
fn lines(bench: &Bench, run: &Value) -> Vec<Value> {
    let id = run["run_id"].as_str().expect("an id");
    let document = bench.run(&["runs", "logs", id, "--json"]).json(0);
    assert_eq!(document["run_id"], id);
    document["lines"].as_array().expect("lines").clone()
}

fn texts(lines: &[Value], stream: &str) -> Vec<String> {
    let of_stream = lines.iter().filter(|line| line["stream"] == stream);
    of_stream.map(|line| line["line"].as_str().expect("text").to_owned()).collect()
}

/// Whether a process runs: neither gone nor waiting to be reaped.
fn runs(id: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The kernel ends a process when it gets to it; there is nothing to wait on for a stranger's child.
fn all_gone(ids: &[i32], within: Duration) -> bool {
    let deadline = Instant::now() + within;
    while ids.iter().any(|id| runs(*id)) && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(2));
    }
    !ids.iter().any(|id| runs(*id))
}

fn ids(text: &str) -> Vec<i32> {
    text.split_whitespace().map(|id| id.parse().expect("a process id")).collect()
}

/// A run under way whose task writes process ids into a pipe, and those ids.
struct Going {
    worker: Child,
    ids: Vec<i32>,
}

/// Starts the run; its script gets the pipe's path as `$1`.
fn start(bench: &Bench) -> Going {
    let worker = bench.command(&["run", "t"]).stderr(Stdio::null()).stdout(Stdio::null()).spawn().expect("starts");
    // Ends when the script has closed its end: it is under way then.
    let text = std::fs::read_to_string(bench.path("started")).expect("the script writes");
    Going { worker, ids: ids(&text) }
}

fn pipe(bench: &Bench) -> PathBuf {
    let path = bench.path("started");
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
    path
}

/// A project whose script writes process ids to a pipe.
fn with_pipe(script: &str) -> Bench {
    let bench = project("true", "");
    let path = pipe(&bench);
    let dag = format!(
        "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"command\"\n\
         with = {{ program = {script:?}, shell = true, grace = 0.5, args = [{path:?}] }}\n"
    );
    bench.write("dags/t.toml", &dag);
    bench
}

fn signal(process: &Child, name: &str) {
    let sent = Command::new("kill").args([format!("-{name}"), process.id().to_string()]).status();
    assert!(sent.expect("kill runs").success());
}

#[test]
fn the_isolation_changes_no_byte() {
    let script =
        "echo made > $HEADWORKS_ARTIFACTS/a.txt; printf '{\"third\": 0.30000000000000004}' > $HEADWORKS_OUTPUTS";
    let bench = project(script, ", outputs = [\"a.txt\"]");
    let outside = bench.run(&["run", "t", "--json"]).json(0);
    let dag = std::fs::read_to_string(bench.path("dags/t.toml")).expect("the DAG");
    bench.write("dags/t.toml", &dag.replace("kind = \"command\"\n", "kind = \"command\"\nisolation = \"inline\"\n"));
    let within = bench.run(&["run", "t", "--json"]).json(0);
    assert_eq!(outside["outputs"], within["outputs"]);
    assert_eq!(outside["artifacts"][0]["digest"], within["artifacts"][0]["digest"]);
    assert_eq!(outside["artifacts"].as_array().map(Vec::len), Some(1));
}

#[test]
fn the_environment_is_empty_but_for_what_is_declared() {
    // The second is the environment of the process above the program.
    let script = "env; echo ABOVE; tr '\\0' '\\n' < /proc/$PPID/environ";
    let mut bench = project(script, ", pass_env = [\"DECLARED\"]");
    for name in ["DECLARED", "UNDECLARED", "DATABASE_URL", "LD_LIBRARY_PATH", "AWS_SECRET_ACCESS_KEY"] {
        bench.set(name, "/nowhere/canary");
    }
    let run = bench.run(&["run", "t", "--json"]).json(0);
    let printed = texts(&lines(&bench, &run), "stdout");
    let (program, above) = printed.split_at(printed.iter().position(|line| line == "ABOVE").expect("both"));
    for environment in [program, above] {
        let canaries: Vec<_> = environment.iter().filter(|line| line.contains("canary")).collect();
        assert_eq!(canaries, ["DECLARED=/nowhere/canary"]);
    }
    assert!(above.iter().any(|line| line.starts_with("PATH=")), "{above:?}");
}

#[test]
fn limits_hold_for_all_that_an_attempt_starts() {
    let mut bench = project("ulimit -n; ulimit -c; ulimit -v; cat /proc/self/oom_score_adj", "");
    bench.set("HEADWORKS_ATTEMPTS_OPEN_FILES", "256").set("HEADWORKS_ATTEMPTS_MEMORY_MB", "4096");
    let run = bench.run(&["run", "t", "--json"]).json(0);
    assert_eq!(texts(&lines(&bench, &run), "stdout"), ["256", "0", "4194304", "500"]);
}

#[test]
fn a_program_or_process_that_dies_by_a_signal_is_quarantined_and_the_worker_lives() {
    for (script, part) in [
        ("echo last words; kill -SEGV $$", "the script was killed by SIGSEGV; it printed last:\nlast words"),
        ("echo $$ >> $HEADWORKS_PROJECT/ids; kill -KILL $PPID; sleep 600", "its process was killed by SIGKILL"),
    ] {
        let bench = project(script, "");
        let run = bench.run(&["run", "t", "--json"]).json(4);
        let task = &run["tasks"][0];
        assert_eq!((task["state"].as_str(), task["attempts"].as_u64()), (Some("quarantined"), Some(3)), "{run}");
        assert_eq!(task["reason"]["code"], "attempt_crashed");
        let message = task["reason"]["message"].as_str().expect("text");
        assert!(message.contains(part), "{message}");
        let left = std::fs::read_to_string(bench.path("ids")).unwrap_or_default();
        assert!(all_gone(&ids(&left), Duration::ZERO), "what it started ended before its end was reported: {left}");
    }
}

#[test]
fn a_daemon_ends_with_its_attempt() {
    let script = "setsid sh -c 'sleep 600 & echo $! $$ > $HEADWORKS_PROJECT/part; \
                  mv $HEADWORKS_PROJECT/part $HEADWORKS_PROJECT/ids; exec sleep 600' > /dev/null 2>&1 & \
                  while [ ! -e $HEADWORKS_PROJECT/ids ]; do sleep 0.01; done";
    let bench = project(script, "");
    bench.run(&["run", "t", "--json"]).json(0);
    let left = std::fs::read_to_string(bench.path("ids")).expect("it ran");
    assert_eq!(ids(&left).len(), 2);
    assert!(all_gone(&ids(&left), Duration::ZERO), "{left}");
}

#[test]
fn nothing_outlives_a_killed_worker_by_a_second() {
    let script = "setsid sh -c 'trap \"\" TERM HUP; sleep 600 & echo $! $$ > $0.daemon; \
                  mv $0.daemon $0.ids; wait' \"$1\" & \
                  while [ ! -e $1.ids ]; do sleep 0.01; done; \
                  echo $$ $PPID $(cat $1.ids) > $1; sleep 600";
    let bench = with_pipe(script);
    let mut going = start(&bench);
    assert_eq!(going.ids.len(), 4);
    assert!(going.ids.iter().all(|id| runs(*id)), "{:?}", going.ids);
    going.worker.kill().expect("killed with SIGKILL");
    assert!(all_gone(&going.ids, Duration::from_secs(1)), "{:?}", going.ids);
    going.worker.wait().expect("gone");
}

#[test]
fn an_interrupt_reaches_the_program_and_then_all_of_it_ends() {
    let script = "trap 'echo told to stop' TERM; (trap '' TERM; echo $(exec sh -c 'echo $PPID') $$ $PPID > $1; \
                  sleep 600) & wait; wait";
    let bench = with_pipe(script);
    let mut going = start(&bench);
    assert!(going.ids.iter().all(|id| runs(*id)), "{:?}", going.ids);
    signal(&going.worker, "INT");
    assert_eq!(going.worker.wait().expect("ends").code(), Some(4));
    assert!(all_gone(&going.ids, Duration::ZERO), "{:?}", going.ids);
    let listed = bench.run(&["runs", "list", "--json"]).json(0);
    assert_eq!(listed["runs"][0]["state"], "canceled");
    assert_eq!(texts(&lines(&bench, &listed["runs"][0]), "stdout"), ["told to stop"]);
}

#[test]
fn a_line_of_a_gigabyte_grows_neither_memory_nor_log() {
    let script = "head -c 1000000000 /dev/zero | tr '\\0' x; echo; echo the end; echo $PPID > $1; \
                  while [ ! -e $1.go ]; do sleep 0.01; done";
    let bench = with_pipe(script);
    let mut going = start(&bench);
    let peak = |id: u32| {
        let status = std::fs::read_to_string(format!("/proc/{id}/status")).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).expect("a peak").to_owned();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).expect("a number")
    };
    for id in [going.worker.id(), going.ids[0].unsigned_abs()] {
        assert!(peak(id) < 400_000, "{} kB", peak(id));
    }
    std::fs::write(bench.path("started.go"), "").expect("writable");
    assert!(going.worker.wait().expect("ends").success());
    let listed = bench.run(&["runs", "list", "--json"]).json(0);
    let lines = lines(&bench, &listed["runs"][0]);
    assert_eq!(lines.len(), 3);
    assert!(lines[0]["line"].as_str().is_some_and(|line| line.len() < 100_000 && line.starts_with("xxx")));
    let cut = lines[1]["line"].as_str().expect("text");
    assert!(lines[1]["stream"] == "engine" && cut.contains("bytes of the line above were cut"), "{cut}");
    assert_eq!(lines[2]["line"], "the end");
}

#[test]
fn a_long_log_keeps_both_its_ends() {
    let mut bench = project("echo first; seq 1 1000000; echo last", "");
    bench.set("HEADWORKS_ATTEMPTS_LOG_MB", "1");
    let run = bench.run(&["run", "t", "--json"]).json(0);
    let lines = lines(&bench, &run);
    assert_eq!((&lines[0]["line"], &lines[lines.len() - 1]["line"]), (&"first".into(), &"last".into()));
    let cut = texts(&lines, "engine");
    assert!(cut.len() == 1 && cut[0].contains("were cut here"), "{cut:?}");
    let stored: usize = chunks(&bench).iter().map(|chunk| std::fs::read(chunk).expect("readable").len()).sum();
    assert!(stored <= 1 << 20, "{stored} bytes");
}

/// The files of all chunks of the project's local store.
fn chunks(bench: &Bench) -> Vec<PathBuf> {
    let found = Command::new("find").arg(bench.path("artifacts/objects")).args(["-name", "*.jsonl"]).output();
    let found = String::from_utf8(found.expect("find runs").stdout).expect("UTF-8");
    found.lines().map(PathBuf::from).collect()
}

#[test]
fn logs_are_followed_while_the_run_goes_on_and_read_when_its_worker_is_dead() {
    let script = "echo to out; echo to err >&2; echo $$ > $1; while [ ! -e $1.go ]; do sleep 0.01; done; echo done";
    let bench = with_pipe(script);
    let mut going = start(&bench);
    let listed = bench.run(&["runs", "list", "--json"]).json(0);
    let id = listed["runs"][0]["run_id"].as_str().expect("an id").to_owned();
    let mut follower = bench.command(&["runs", "logs", &id, "--follow", "--task", "a"]);
    let mut follower = follower.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("starts");
    let mut said = BufReader::new(follower.stdout.take().expect("piped")).lines().map_while(Result::ok);
    let mut both = [said.next().expect("a line"), said.next().expect("a line")];
    both.sort_by_key(|line| line.ends_with("to out"));
    assert!(both[0].ends_with(" a | to err") && both[1].ends_with(" a | to out"), "{both:?}");
    assert_eq!(bench.run(&["runs", "show", &id, "--json"]).json(0)["state"], "running", "read while it ran");
    std::fs::write(bench.path("started.go"), "").expect("writable");
    assert!(said.next().is_some_and(|line| line.ends_with(" a | done")));
    assert_eq!(said.next(), None, "a follower ends with the run");
    assert!(follower.wait().expect("ends").success());
    assert!(going.worker.wait().expect("ends").success());

    std::fs::remove_file(bench.path("started.go")).expect("there");
    let mut going = start(&bench);
    let listed = bench.run(&["runs", "list", "--json"]).json(0);
    let deadline = Instant::now() + Duration::from_secs(30);
    while lines(&bench, &listed["runs"][0]).len() < 2 {
        assert!(Instant::now() < deadline, "nothing can be read");
        std::thread::sleep(Duration::from_millis(20));
    }
    going.worker.kill().expect("killed with SIGKILL");
    going.worker.wait().expect("gone");
    let mut said = texts(&lines(&bench, &listed["runs"][0]), "stdout");
    said.extend(texts(&lines(&bench, &listed["runs"][0]), "stderr"));
    assert_eq!(said, ["to out", "to err"], "what was put outlives the worker");
}

#[test]
fn logs_of_no_task_are_refused_and_a_silent_run_has_none() {
    let bench = project("true", "");
    let run = bench.run(&["run", "t", "--json"]).json(0);
    assert!(lines(&bench, &run).is_empty());
    let id = run["run_id"].as_str().expect("an id");
    let refused = bench.run(&["runs", "logs", id, "--task", "b", "--json"]).json(2);
    assert!(refused["error"]["hint"].as_str().is_some_and(|hint| hint.contains('a')), "{refused}");
    assert_eq!(bench.run(&["runs", "logs", id]).out(), "");
    assert_eq!(bench.run(&["attempt"]).code(), 2, "people do not start attempts");
}
