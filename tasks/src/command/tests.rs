//! The kind against real programs of `/bin`.

use std::time::{Duration, Instant};

use engine::task::Kinds;
use serde_json::json;
use testkit::TaskBench;

use super::*;

/// Runs a script and returns what it printed.
async fn printed(bench: &TaskBench, with: Value) -> String {
    bench.run(Command, with).await.expect("the program ends well").log
}

async fn failure(with: Value) -> TaskError {
    match TaskBench::new().run(Command, with).await {
        Ok(_) => panic!("the attempt succeeded"),
        Err(error) => error,
    }
}

fn permanent(error: TaskError) -> String {
    assert!(matches!(error, TaskError::Permanent { class: ErrorClass::System, .. }), "{error:?}");
    error.to_string()
}

/// An attempt that reports over a named pipe that it is under way, as `$1` of its script.
struct Started {
    attempt: tokio::task::JoinHandle<Result<TaskOutput, TaskError>>,
    /// What it wrote into the pipe: process ids, one per line.
    ids: Vec<i32>,
}

async fn start(bench: &TaskBench, script: &str, grace: f64) -> Started {
    let context = bench.context();
    let pipe = context.scratch().join("started");
    let made = Process::new("mkfifo").arg(&pipe).status().expect("mkfifo runs");
    assert!(made.success());
    let with = json!({"program": script, "args": [pipe], "shell": true, "grace": grace});
    let mut kinds = Kinds::new();
    kinds.register(Command);
    let attempt = tokio::spawn(async move { kinds.run("command", &context, with).await });
    // Ends when the script has closed its end: it is under way then.
    let text = tokio::fs::read_to_string(&pipe).await.expect("the script writes");
    let ids = text.split_whitespace().map(|id| id.parse().expect("a process id")).collect();
    Started { attempt, ids }
}

/// Whether a process runs: neither gone nor a zombie whose new parent has yet to look.
fn runs(id: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit_once(')').is_some_and(|(_, rest)| !rest.trim_start().starts_with(['Z', 'X']))
}

/// The kernel delivers a signal when it gets to it; there is nothing to wait on for somebody else's child.
async fn gone(id: i32) -> bool {
    let deadline = Instant::now() + Duration::from_secs(5);
    while runs(id) && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    !runs(id)
}

#[tokio::test]
async fn arguments_are_literal() {
    let hostile = ["; id", "$(id)", "`id`", "two\nlines", "\"quoted\" 'too'", "*", "", "-n", "é", "&& false"];
    let script = r#"for argument; do printf '<%s>' "$argument"; done"#;
    let expected: String = hostile.iter().map(|argument| format!("<{argument}>")).collect();
    let bench = TaskBench::new();
    assert_eq!(printed(&bench, json!({"program": script, "args": hostile, "shell": true})).await, expected);
    let mut args = vec!["<%s>"];
    args.extend(hostile);
    assert_eq!(printed(&bench, json!({"program": "printf", "args": args})).await, expected);
    assert_eq!(printed(&bench, json!({"program": "echo", "args": [28, 0.5, true, "a"]})).await, "28 0.5 true a\n");
}

#[tokio::test]
async fn a_program_without_a_shell_is_not_a_script() {
    let message = permanent(failure(json!({"program": "echo hello; id"})).await);
    assert!(message.contains("was not found") && message.contains("PATH"), "{message}");
}

#[tokio::test]
async fn the_environment_holds_what_is_declared_and_nothing_else() {
    assert!(std::env::var_os("CARGO_MANIFEST_DIR").is_some(), "the test itself has an environment");
    let with = json!({
        "program": "env", "env": {"COLOR": "blue", "DAYS": 7}, "pass_env": ["CARGO_PKG_NAME", "NOT_SET_ANYWHERE"],
        "params": {"horizon": 28, "name": "a b", "list": [1, 2]},
    });
    let text = printed(&TaskBench::new(), with).await;
    let variables: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('=')).collect();
    for (name, value) in [
        ("COLOR", "blue"),
        ("DAYS", "7"),
        ("CARGO_PKG_NAME", "headworks-tasks"),
        ("PATH", exchange::DEFAULT_PATH),
        ("HEADWORKS_PARAM_HORIZON", "28"),
        ("HEADWORKS_PARAM_NAME", "a b"),
        ("HEADWORKS_PARAM_LIST", "[1,2]"),
        ("HEADWORKS_TASK", "task"),
    ] {
        assert_eq!(variables.get(name), Some(&value), "{name}");
    }
    let undeclared: Vec<_> = variables.keys().filter(|name| !name.starts_with("HEADWORKS_")).collect();
    assert_eq!(undeclared, [&"CARGO_PKG_NAME", &"COLOR", &"DAYS", &"PATH", &"TMPDIR"]);
}

#[tokio::test]
async fn programs_are_looked_for_in_the_declared_path() {
    let mut bench = TaskBench::new();
    bench.source("bin/greet", b"#!/bin/sh\necho hello from $0\n");
    let program = bench.project_root().join("bin/greet");
    let message =
        permanent(bench.run(Command, json!({"program": "bin/greet"})).await.map(|_| ()).expect_err("no x bit"));
    assert!(message.contains("may not be executed"), "{message}");
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(&program, mode).expect("executable");
    assert!(printed(&bench, json!({"program": "bin/greet"})).await.ends_with("bin/greet\n"), "below the project");
    assert!(bench.run(Command, json!({"program": "greet"})).await.is_err(), "not in the default PATH");
    let path = program.parent().expect("a folder");
    assert!(printed(&bench, json!({"program": "greet", "env": {"PATH": path}})).await.starts_with("hello"));
}

#[tokio::test]
async fn parameters_inputs_and_outputs_go_through_files() {
    let mut bench = TaskBench::new();
    bench.input_bytes("train[0]", "model.json", "first").await;
    bench.input_bytes("train[1]", "model.json", "second").await;
    bench.input_bytes("train[1]", "model.bin", "not asked for").await;
    let script = r#"
        cat "$HEADWORKS_INPUTS" "$HEADWORKS_PARAMS"
        for model in $(grep -o '/[^"]*model.json' "$HEADWORKS_INPUTS"); do cat "$model"; echo x >> "$model"; done
        printf '{"rows": 3}' > "$HEADWORKS_OUTPUTS"
        echo content > "$HEADWORKS_ARTIFACTS/table.csv"
        echo undeclared > "$HEADWORKS_ARTIFACTS/other.csv"
    "#;
    let with = json!({
        "program": script, "shell": true, "inputs": ["model.json"], "outputs": ["table.csv"], "params": {"days": [1, 2]},
    });
    let done = bench.run(Command, with.clone()).await.expect("the script ends well");
    assert_eq!(done.output.outputs, json!({"rows": 3}));
    assert_eq!(done.text("table.csv"), "content\n");
    let names: Vec<_> = done.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
    assert_eq!(names, ["table.csv"]);
    let text = done.log;
    assert!(text.ends_with("firstsecond") && text.contains("\"days\""), "{text}");
    let listed: Value = serde_json::Deserializer::from_str(&text).into_iter().next().expect("a value").expect("JSON");
    let of = |at: usize| (listed[at]["task"].as_str(), listed[at]["index"].as_u64(), listed[at]["name"].as_str());
    assert_eq!(listed.as_array().map(Vec::len), Some(2));
    assert_eq!(of(1), (Some("train"), Some(1), Some("model.json")));
    // The child wrote into its copies; what was published is untouched.
    assert!(bench.run(Command, with).await.expect("the script ends well").log.ends_with("firstsecond"));
}

#[tokio::test]
async fn what_a_program_owes_is_asked_for() {
    let missing = json!({"program": "ln -s /etc/passwd $HEADWORKS_ARTIFACTS/a.txt", "shell": true, "outputs": ["a.txt", "b.csv"]});
    let message = permanent(failure(missing).await);
    assert!(message.contains("did not make a.txt, b.csv"), "{message}");
    for (text, part) in [("{", "no JSON"), ("[1]", "no object"), ("", "no JSON")] {
        let script = format!("printf '{text}' > $HEADWORKS_OUTPUTS");
        let message = permanent(failure(json!({"program": script, "shell": true})).await);
        assert!(message.contains(part), "{message}");
    }
    for (text, part) in [
        ("[\"quoted\"]", "an array"),
        ("\"quoted\"", "a string"),
        ("7", "a number"),
        ("true", "a boolean"),
        ("null", "null"),
    ] {
        let with = json!({"program": "printf %s \"$1\" > $HEADWORKS_OUTPUTS", "shell": true, "args": [text]});
        let expected = format!(
            "the program wrote {part}, which is no object, to $HEADWORKS_OUTPUTS; write one JSON object, or nothing"
        );
        assert_eq!(permanent(failure(with).await), expected);
    }
    let large = json!({"program": "head -c 2000000 /dev/zero > $HEADWORKS_OUTPUTS", "shell": true});
    assert!(permanent(failure(large).await).contains("2000000 bytes"));
}

#[tokio::test]
async fn an_exit_code_is_permanent_and_a_signal_a_crash() {
    let message = permanent(failure(json!({"program": "echo out; echo err >&2; exit 3", "shell": true})).await);
    // Two streams: which of them is read first, nobody can tell.
    assert!(message.contains("exit code 3") && message.contains("\nout") && message.contains("\nerr"), "{message}");
    let killed = failure(json!({"program": "kill -SEGV $$", "shell": true})).await;
    assert!(matches!(killed, TaskError::Crashed { .. }) && killed.to_string().contains("SIGSEGV"), "{killed}");
    let later = failure(json!({"program": "exit 75", "shell": true})).await;
    assert!(matches!(later, TaskError::Transient { .. }), "{later}");
}

#[tokio::test]
async fn what_a_program_printed_last_is_told_without_its_secret() {
    let mut bench = TaskBench::new();
    bench.secret("hunter2-hunter2");
    let failed = async |script: &str| {
        let with = json!({"program": script, "shell": true, "env": {"TOKEN": "hunter2-hunter2"}});
        permanent(bench.run(Command, with).await.map(|_| ()).expect_err("it fails"))
    };
    let message = failed("printf 'denied: %s' $TOKEN; exit 1").await;
    assert!(message.ends_with("it printed last:\ndenied: ***"), "{message}");
    // Of 4 KiB that a message holds: only the end of the value would be left of it.
    let message = failed("printf %s $TOKEN; head -c 4090 /dev/zero | tr '\\0' x; exit 1").await;
    assert!(message.contains("***xxx") && !message.contains("nter2"), "{message}");
}

#[tokio::test]
async fn a_failed_program_leaves_its_log() {
    let bench = TaskBench::new();
    let ended = bench.run(Command, json!({"program": "echo why; exit 1", "shell": true})).await;
    assert!(ended.is_err());
    assert_eq!(bench.log(), "why\n");
}

#[tokio::test]
async fn output_is_in_the_log_while_the_program_runs() {
    let bench = TaskBench::new();
    let started = start(&bench, r#"echo early; echo $$ > "$1"; sleep 600"#, 0.0).await;
    let deadline = Instant::now() + Duration::from_secs(5);
    while bench.log() != "early\n" {
        assert!(Instant::now() < deadline, "{:?}", bench.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!started.attempt.is_finished());
    bench.cancel().cancel();
    assert!(matches!(started.attempt.await.expect("no panic"), Err(TaskError::Canceled)));
}

#[tokio::test]
async fn a_cancel_ends_the_whole_group() {
    let bench = TaskBench::new();
    // The grandchild is no child of the shell's own: only the group leads to it.
    let script = r#"echo waiting; (sleep 600 & echo $! > "$1.id"); { cat "$1.id"; echo $$; } > "$1"; sleep 600"#;
    let started = start(&bench, script, 30.0).await;
    assert_eq!(started.ids.len(), 2);
    assert!(started.ids.iter().all(|id| runs(*id)));
    bench.cancel().cancel();
    let ended = started.attempt.await.expect("no panic");
    assert!(matches!(ended, Err(TaskError::Canceled)), "{ended:?}");
    for id in started.ids {
        assert!(gone(id).await, "{id} still runs");
    }
    assert_eq!(bench.log(), "waiting\n", "also of a canceled attempt");
}

#[tokio::test]
async fn who_ignores_sigterm_is_killed_after_the_grace() {
    let bench = TaskBench::new();
    let script = r#"trap '' TERM; echo $$ > "$1"; while :; do sleep 600; done"#;
    let started = start(&bench, script, 0.3).await;
    let canceled = Instant::now();
    bench.cancel().cancel();
    assert!(matches!(started.attempt.await.expect("no panic"), Err(TaskError::Canceled)));
    assert!(canceled.elapsed() >= Duration::from_millis(300), "it had its grace: {:?}", canceled.elapsed());
    assert!(gone(started.ids[0]).await);
}

#[tokio::test]
async fn an_aborted_attempt_leaves_no_process() {
    let bench = TaskBench::new();
    let started = start(&bench, r#"trap '' TERM; echo $$ > "$1"; sleep 600"#, 600.0).await;
    assert!(runs(started.ids[0]));
    started.attempt.abort();
    assert!(started.attempt.await.is_err());
    assert!(gone(started.ids[0]).await);
}

#[tokio::test]
async fn what_a_program_leaves_running_ends_with_it() {
    let bench = TaskBench::new();
    let started = start(&bench, r#"sleep 600 & echo $! > "$1""#, 5.0).await;
    started.attempt.await.expect("no panic").expect("the script ended well");
    assert!(gone(started.ids[0]).await);
}

#[test]
fn parameters_are_checked_all_at_once() {
    let params = serde_json::from_value(json!({
        "program": "", "grace": -1.0, "env": {"HEADWORKS_RUN": "x", "A B": "y"}, "pass_env": ["LD_PRELOAD", "HOME"],
        "params": {"Big": 1}, "inputs": ["../up"], "outputs": ["a.csv", "a.csv"],
    }));
    let problems = Command::check(&params.expect("the shape is right"));
    let paths: Vec<_> = problems.iter().map(|problem| problem.path.join(".")).collect();
    let expected = ["program", "grace", "env.A B", "env.HEADWORKS_RUN", "pass_env", "params.Big", "inputs", "outputs"];
    assert_eq!(paths, expected);
    assert!(problems[4].message.contains("LD_PRELOAD"));
}

#[test]
fn artifacts_are_declared_by_name() {
    let with = json!({"inputs": ["panel.parquet", "{{params.name}}"], "outputs": ["a.csv"]});
    let (reads, makes) = (Command::inputs(&with), Command::outputs(&with));
    assert_eq!(reads.iter().map(|input| input.name.as_str()).collect::<Vec<_>>(), ["panel.parquet"]);
    assert!(reads[0].many && !reads[0].optional);
    assert_eq!(makes.iter().map(|output| output.name.as_str()).collect::<Vec<_>>(), ["a.csv"]);
    assert_eq!(Command::variables(&json!({"pass_env": ["HOME", 1]})), ["HOME"]);
}
