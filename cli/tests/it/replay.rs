//! New runs from old ones: what is taken over, what comes out again, and what is said where it does not.

use serde_json::{Value, json};

use crate::bench::Bench;

const TENANT: &str = "[tenant]\nid = \"acme\"\nstatus = \"active\"\n[dags.steps]\n";

fn task(name: &str, fields: &str, with: &str, script: &str) -> String {
    format!(
        "[tasks.{name}]\nkind = \"command\"\n{fields}[tasks.{name}.with]\nprogram = {script:?}\nshell = true\n{with}"
    )
}

/// `first` -> `train` -> `last`, and `beside`: each but `last` makes an artifact; `train` also runs `script`.
fn project(script: &str) -> Bench {
    let bench = Bench::new();
    bench.write("dags/steps.toml", &dag(&bench, script)).write("dags/tenants/acme.toml", TENANT);
    bench
}

fn dag(bench: &Bench, script: &str) -> String {
    let here = bench.path("").display().to_string();
    let made = |name: &str| format!("outputs = [\"{name}.json\"]\n");
    let script = script.replace("HERE", &here);
    [
        "[dag]\nid = \"steps\"\n".to_owned(),
        task(
            "first",
            "",
            &made("first"),
            "echo \"{\\\"run\\\": \\\"$HEADWORKS_RUN\\\"}\" > $HEADWORKS_ARTIFACTS/first.json",
        ),
        task(
            "train",
            "needs = [\"first\"]\n",
            &format!("inputs = [\"first.json\"]\n{}", made("train")),
            &format!("{script}; echo \"{{\\\"seed\\\": $HEADWORKS_SEED}}\" > $HEADWORKS_ARTIFACTS/train.json"),
        ),
        task(
            "last",
            "needs = [\"train\"]\n",
            "inputs = [\"train.json\"]\n",
            "echo '{\"done\": 1}' > $HEADWORKS_OUTPUTS",
        ),
        task("beside", "", &made("beside"), "echo '[1, 2]' > $HEADWORKS_ARTIFACTS/beside.json"),
    ]
    .concat()
}

fn id(document: &Value) -> &str {
    document["run_id"].as_str().expect("an id")
}

/// `task word` of each line.
fn words(document: &Value, column: &str) -> Vec<String> {
    let tasks = document["tasks"].as_array().expect("tasks").iter();
    tasks.map(|it| format!("{} {}", it["task"].as_str().unwrap_or("?"), it[column].as_str().unwrap_or("?"))).collect()
}

fn artifact<'a>(document: &'a Value, task: &str) -> &'a Value {
    document["artifacts"].as_array().expect("artifacts").iter().find(|it| it["task"] == task).expect("it made one")
}

fn replayed_from_what_failed(bench: &Bench) {
    let failed = bench.run(&["run", "steps", "--json"]).json(4);
    let run = id(&failed);
    let plan = bench.run(&["replay", run, "--from", "failed", "--plan", "--json"]).json(0);
    assert_eq!(words(&plan, "action"), ["first reuse", "train run", "last run", "beside reuse"]);
    assert_eq!(plan["tasks"][1]["reason"], "failed");
    assert_eq!(plan["tasks"][0]["reason"], format!("succeeded in run {run}"));
    let listed = bench.run(&["runs", "list", "--json"]).json(0);
    assert_eq!(listed["runs"].as_array().map(Vec::len), Some(1), "a plan changes nothing: {listed}");

    std::fs::write(bench.path("mended"), "").expect("writable");
    let replay = bench.run(&["replay", run, "--from", "failed", "--json"]).json(0);
    assert_eq!(
        (&replay["state"], &replay["kind"], &replay["parent_run"]),
        (&"succeeded".into(), &"replay".into(), &failed["run_id"])
    );
    for task in ["first", "beside"] {
        assert_eq!(artifact(&replay, task), artifact(&failed, task), "the very object");
    }
    let (first, train) = (&replay["tasks"][0], &replay["tasks"][1]);
    assert_eq!(
        (&first["state"], &first["attempts"], &first["reason"]["code"]),
        (&"succeeded".into(), &0.into(), &"reused".into())
    );
    assert_eq!((&train["state"], &train["attempts"]), (&"succeeded".into(), &1.into()));
    let why = bench.run(&["why", id(&replay), "first", "--json"]).json(0);
    assert_eq!(why["reasons"][0]["code"], "reused", "{why}");
    assert_eq!(bench.run(&["runs", "show", run, "--json"]).json(0), failed, "history is not rewritten");
    let nothing = bench.run(&["replay", id(&replay), "--from", "failed", "--json"]).json(2);
    assert_eq!(nothing["error"]["kind"], "nothing_to_replay");

    // The DAG is edited meanwhile, and made invalid: a run keeps its version.
    bench.write("dags/steps.toml", "[dag]\nid = \"steps\"\n[tasks.other]\nkind = \"no_such\"\n");
    let proof = bench.run(&["replay", id(&replay), "--all", "--verify", "--json"]).json(0);
    assert_eq!(words(&proof, "verdict"), ["first identical", "train identical", "last identical", "beside identical"]);
    assert_eq!(bench.run(&["runs", "show", id(&proof), "--json"]).json(0)["kind"], "verify");
    let part = bench.run(&["replay", id(&replay), "--task", "train", "--verify", "--json"]).json(0);
    assert_eq!(words(&part, "verdict"), ["first reused", "train identical", "last identical", "beside reused"]);
}

#[test]
fn a_failed_run_is_replayed_and_proven_on_sqlite() {
    replayed_from_what_failed(&project("test -e HERE/mended || exit 1"));
}

#[test]
fn a_failed_run_is_replayed_and_proven_on_postgres() {
    let database = testkit::postgres();
    let mut bench = project("test -e HERE/mended || exit 1");
    bench.set("HEADWORKS_STORE_URL", database.url());
    replayed_from_what_failed(&bench);
}

#[test]
fn what_differs_is_told_from_what_is_not_deterministic() {
    let bench = project("cat HERE/code > $HEADWORKS_OUTPUTS");
    std::fs::write(bench.path("code"), "{\"wape\": 1}").expect("writable");
    let good = bench.run(&["run", "steps", "--json"]).json(0);
    // What the task finds around it changes: it comes to something else, twice over.
    std::fs::write(bench.path("code"), "{\"wape\": 2}").expect("writable");
    let proof = bench.run(&["replay", id(&good), "--all", "--verify", "--json"]).json(4);
    assert_eq!(words(&proof, "verdict"), ["first identical", "train differs", "last identical", "beside identical"]);
    let train = &proof["tasks"][1];
    assert_eq!(train["outputs"]["examples"][0], json!({ "at": "$.wape", "before": "1", "after": "2" }));
    assert!(train["detail"].as_str().is_some_and(|it| it.contains("has changed")), "{train}");
    assert!(proof["again_run_id"].is_string());

    // A ledger that grows with each attempt: no two of them come to the same.
    let bench = project("echo x >> HERE/ledger; echo \"{\\\"n\\\": $(wc -l < HERE/ledger)}\" > $HEADWORKS_OUTPUTS");
    let good = bench.run(&["run", "steps", "--json"]).json(0);
    let proof = bench.run(&["replay", id(&good), "--task", "train", "--verify", "--json"]).json(4);
    assert_eq!(words(&proof, "verdict")[1], "train nondeterministic");
    assert_eq!(proof["tasks"][1]["outputs"]["examples"][0]["at"], "$.n");
}

#[test]
fn the_latest_version_runs_what_has_changed() {
    let bench = project("true");
    let good = bench.run(&["run", "steps", "--json"]).json(0);
    let mended = dag(&bench, "echo '{\"mended\": true}' > $HEADWORKS_OUTPUTS");
    bench.write("dags/steps.toml", &mended);
    let plan = ["replay", id(&good), "--from", "failed", "--version", "latest", "--plan", "--json"];
    let plan = bench.run(&plan).json(0);
    assert_eq!(words(&plan, "action"), ["first reuse", "train run", "last run", "beside reuse"]);
    assert_eq!(plan["tasks"][1]["reason"], "has another `with` in the latest version");
    let replay = bench.run(&["replay", id(&good), "--from", "failed", "--version", "latest", "--json"]).json(0);
    assert_eq!(replay["outputs"]["train"]["mended"], true);
    assert_ne!(replay["dag_version"], good["dag_version"]);
    let unknown = bench.run(&["replay", id(&good), "--task", "no_such", "--plan", "--json"]).json(2);
    assert_eq!(unknown["error"]["kind"], "not_found");
    assert_eq!(bench.run(&["replay", id(&good)]).code(), 2, "one of --from, --task and --all");
}

/// Puts other bytes under a key, as a failing disk would.
fn flip(bench: &Bench, key: &str) {
    let path = bench.path("artifacts").join("objects").join(key);
    let path = if path.exists() { path } else { bench.path("artifacts").join(key) };
    let mut bytes = std::fs::read(&path).expect("the object");
    bytes[0] ^= 1;
    std::fs::remove_file(&path).expect("removable");
    std::fs::write(&path, bytes).expect("writable");
}

#[test]
fn an_altered_object_is_named_and_nothing_stands_on_it() {
    let bench = project("true");
    let runs: Vec<_> = (0..50).map(|_| bench.run(&["run", "steps", "--json"]).json(0)).collect();
    let whole = bench.run(&["artifacts", "verify", "--json"]).json(0);
    assert_eq!((&whole["checked"], &whole["problems"]), (&150.into(), &json!([])));
    let key = artifact(&runs[1], "first")["key"].as_str().expect("a key");
    flip(&bench, key);
    let found = bench.run(&["artifacts", "verify", "--json"]).json(4);
    let problems = found["problems"].as_array().expect("problems");
    assert_eq!(problems.len(), 1, "{found}");
    assert_eq!(
        (&problems[0]["run_id"], &problems[0]["task"], &problems[0]["name"], &problems[0]["key"]),
        (&runs[1]["run_id"], &"first".into(), &"first.json".into(), &key.into())
    );
    assert!(problems[0]["problem"].as_str().is_some_and(|it| it.starts_with("altered")), "{found}");
    bench.run(&["artifacts", "verify", id(&runs[0]), "--json"]).json(0);

    let plan = bench.run(&["replay", id(&runs[1]), "--task", "train", "--plan", "--json"]).json(0);
    assert_eq!(words(&plan, "action"), ["first blocked", "train run", "last run", "beside reuse"]);
    let refused = bench.run(&["replay", id(&runs[1]), "--task", "train", "--json"]).json(4);
    assert_eq!(refused["error"]["kind"], "replay_blocked");
    let retried = bench.run(&["retry", id(&runs[1]), "--task", "train", "--json"]).json(4);
    let reason = retried["tasks"][1]["reason"]["message"].as_str().expect("a reason");
    assert!(reason.contains("is not what was published"), "{reason}");
    // From scratch it goes.
    bench.run(&["replay", id(&runs[1]), "--all", "--json"]).json(0);

    // Two objects that changed places.
    let (one, two) = (artifact(&runs[0], "beside"), artifact(&runs[2], "first"));
    let path = |it: &Value| bench.path("artifacts/objects").join(it["key"].as_str().expect("a key"));
    let read = |it: &Value| std::fs::read(path(it)).expect("the object");
    let (bytes_one, bytes_two) = (read(one), read(two));
    for (it, bytes) in [(one, bytes_two), (two, bytes_one)] {
        std::fs::remove_file(path(it)).expect("removable");
        std::fs::write(path(it), bytes).expect("writable");
    }
    std::fs::remove_file(path(artifact(&runs[2], "train"))).expect("removable");
    let found = bench.run(&["artifacts", "verify", "--json"]).json(4);
    let mut words: Vec<_> = found["problems"]
        .as_array()
        .expect("problems")
        .iter()
        .filter_map(|it| it["problem"].as_str())
        .map(|it| it.split(':').next().unwrap_or_default())
        .collect();
    words.sort_unstable();
    assert_eq!(words, ["altered", "missing", "swapped", "swapped"], "{found}");
}

#[test]
fn a_cached_task_links_to_what_was_computed_before() {
    let bench = Bench::new();
    let ledger = bench.path("ledger").display().to_string();
    let script = format!("echo x >> {ledger}; echo '[7]' > $HEADWORKS_ARTIFACTS/x.json");
    let steps = |extra: &str| {
        let cached = task("cached", "cache = true\n", &format!("outputs = [\"x.json\"]\n{extra}"), &script);
        format!(
            "[dag]\nid = \"steps\"\n{cached}{}",
            task("reads", "needs = [\"cached\"]\n", "inputs = [\"x.json\"]\n", "true")
        )
    };
    bench.write("dags/steps.toml", &steps("")).write("dags/tenants/acme.toml", TENANT);
    let run = |extra: &[&str]| {
        let interval = "2026-11-01T00:00:00Z/2026-11-02T00:00:00Z";
        bench.run(&[&["run", "steps", "--json", "--interval", interval], extra].concat()).json(0)
    };
    let count = || std::fs::read_to_string(bench.path("ledger")).expect("a ledger").lines().count();
    let (first, second) = (run(&[]), run(&[]));
    assert_eq!(count(), 1, "the second run linked");
    assert_eq!(artifact(&first, "cached"), artifact(&second, "cached"));
    assert_eq!(second["tasks"][0]["reason"]["code"], "memoized");
    let why = bench.run(&["why", id(&second), "cached", "--json"]).json(0);
    assert!(why["reasons"][0]["message"].as_str().is_some_and(|it| it.contains(id(&first))), "{why}");
    run(&["--seed", "1"]);
    assert_eq!(count(), 2, "another seed is another key");
    bench.write("dags/steps.toml", &steps("[tasks.cached.with.params]\nn = 1\n"));
    run(&[]);
    assert_eq!(count(), 3, "other parameters are another key");
    bench.write("dags/steps.toml", &steps(""));
    bench.run(&["replay", id(&second), "--all", "--verify", "--json"]).json(0);
    assert_eq!(count(), 4, "a verification computes");
    bench.run(&["retry", id(&second), "--task", "cached", "--json"]).json(0);
    assert_eq!(count(), 5, "so does what a person asks for again");
    for done in [&first, &second] {
        let shown = bench.run(&["artifacts", "list", id(done), "--json"]).json(0);
        flip(&bench, artifact(&shown, "cached")["key"].as_str().expect("a key"));
    }
    assert_eq!(run(&[])["tasks"][0]["reason"], Value::Null, "what is damaged is not linked to");
    assert_eq!(count(), 6);
}

#[test]
fn lineage_goes_up_and_down_through_runs() {
    let bench = project("true");
    let done = bench.run(&["run", "steps", "--json"]).json(0);
    let again = bench.run(&["replay", id(&done), "--task", "train", "--json"]).json(0);
    let key = |it: &Value, task: &str| artifact(it, task)["key"].as_str().expect("a key").to_owned();
    let (first, train, anew) = (key(&done, "first"), key(&done, "train"), key(&again, "train"));
    let edges = |document: &Value| -> Vec<(String, String)> {
        let edges = document["edges"].as_array().expect("edges").iter();
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let mut edges: Vec<_> = edges.map(|it| (text(&it["from"]), text(&it["to"]))).collect();
        edges.sort();
        edges
    };
    // Asked in the replay, which took `first` over: both runs read it.
    let down = bench.run(&["artifacts", "lineage", id(&again), "first", "first.json", "--down", "--json"]).json(0);
    let mut expected = vec![(first.clone(), train.clone()), (first.clone(), anew.clone())];
    expected.sort();
    assert_eq!(edges(&down), expected, "{down}");
    let root = down["nodes"].as_array().expect("nodes").iter().find(|it| it["key"] == first.as_str());
    assert_eq!(root.expect("the root")["run_id"], done["run_id"], "who computed it");
    let up =
        bench.run(&["artifacts", "lineage", id(&again), "train", "train.json", "--up", "--format", "json"]).json(0);
    assert_eq!(edges(&up), [(first.clone(), anew.clone())]);
    let dot = bench.run(&["artifacts", "lineage", id(&done), "train", "train.json", "--format", "dot"]).out();
    assert!(dot.starts_with("digraph") && dot.contains(&format!("\"{first}\" -> \"{train}\"")), "{dot}");
    let text = bench.run(&["artifacts", "lineage", id(&done), "train", "train.json"]).out();
    assert!(text.contains("made from:\n  first.json of first in run"), "{text}");
    let missing = bench.run(&["artifacts", "lineage", id(&done), "train", "no.json", "--json"]).json(2);
    assert_eq!(missing["error"]["kind"], "not_found");
}

#[test]
fn the_first_bad_artifact_is_found_by_halves() {
    let bench = project("true");
    let dag = format!(
        "[dag]\nid = \"steps\"\n{}",
        task("make", "", "outputs = [\"x.json\"]\n", "cat HERE > $HEADWORKS_ARTIFACTS/x.json")
            .replace("HERE", &bench.path("value").display().to_string())
    );
    bench.write("dags/steps.toml", &dag);
    let night = |number: usize, value: &str| {
        bench.write("value", value);
        let interval = format!("2026-10-{:02}T00:00:00Z/2026-10-{:02}T00:00:00Z", number + 1, number + 2);
        bench.run(&["run", "steps", "--interval", &interval, "--json"]).json(0)
    };
    let runs: Vec<_> = (0..9).map(|number| night(number, if number < 6 { "1" } else { "7" })).collect();
    let ends = ["--good", id(&runs[0]), "--bad", id(&runs[8])];
    let found = bench.run(&[&["artifacts", "bisect", "make", "x.json", "--json"], &ends[..]].concat()).json(0);
    assert_eq!(
        (&found["first_bad"]["run_id"], &found["last_good"]["run_id"]),
        (&runs[6]["run_id"], &runs[5]["run_id"])
    );
    assert!(found["steps"].as_array().is_some_and(|it| it.len() <= 5), "{found}");
    let check =
        [&["artifacts", "bisect", "make", "x.json", "--json"], &ends[..], &["--check", "grep", "-q", "1"]].concat();
    assert_eq!(bench.run(&check).json(0)["first_bad"]["run_id"], runs[6]["run_id"]);
    let turned = ["artifacts", "bisect", "make", "x.json", "--good", id(&runs[8]), "--bad", id(&runs[0]), "--json"];
    assert_eq!(bench.run(&turned).json(2)["error"]["kind"], "usage");
    let both_good = [&["artifacts", "bisect", "make", "x.json", "--json"], &ends[..], &["--check", "true"]].concat();
    assert!(
        bench.run(&both_good).json(2)["error"]["message"].as_str().is_some_and(|it| it.contains("is good, not bad"))
    );
}
