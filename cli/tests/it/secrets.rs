//! Secrets with the real binary: a program gets its tenant's value, and the value is nowhere else.
//!
//! Every test looks for its canary in the bytes of all files that the project has afterwards, the database's among
//! them, and in all that the binary printed.

use std::path::{Path, PathBuf};

use serde_json::Value;
use uuid::Uuid;

use crate::bench::Bench;

/// A value that nobody else has, with what needs escapes.
fn canary() -> String {
    format!("canary-\"{}\\$", Uuid::new_v4().simple())
}

/// A project with the DAG `t`, whose task `a` runs a script with the secret `token` as $TOKEN.
struct Stand {
    bench: Bench,
    /// Everything that the binary printed.
    said: String,
}

impl Stand {
    fn new(script: &str, isolation: &str) -> Self {
        let mut bench = Bench::new();
        bench.set("HEADWORKS_SECRETS_FOLDER", "secrets");
        let scratch = bench.path("scratch").display().to_string();
        bench.set("HEADWORKS_EXECUTOR_SCRATCH", scratch);
        std::fs::create_dir(bench.path("secrets")).expect("a folder, as yet empty");
        let stand = Self { bench, said: String::new() };
        stand.tenant("acme").task(script, &format!("isolation = \"{isolation}\""));
        stand
    }

    fn tenant(&self, id: &str) -> &Self {
        let file = format!("[tenant]\nid = \"{id}\"\nstatus = \"active\"\n[dags.t]\n");
        self.bench.write(&format!("dags/tenants/{id}.toml"), &file);
        self
    }

    fn task(&self, script: &str, more: &str) -> &Self {
        let dag = format!(
            "[dag]\nid = \"t\"\n[tasks.a]\nkind = \"command\"\n{more}\n\
             with = {{ program = {script:?}, shell = true, env = {{ TOKEN = {{ secret = \"token\" }} }} }}\n"
        );
        self.bench.write("dags/t.toml", &dag);
        self
    }

    /// Writes a tenant's token.
    fn give(&self, tenant: &str, value: &str) -> &Self {
        std::fs::create_dir_all(self.bench.path(&format!("secrets/{tenant}"))).expect("a folder");
        self.bench.write(&format!("secrets/{tenant}/token"), &format!("{value}\n"));
        self
    }

    /// Runs the binary; the document that it printed.
    fn json(&mut self, args: &[&str], code: i32) -> Value {
        let done = self.bench.run(args);
        self.said.push_str(&done.out());
        self.said.push_str(&done.err());
        done.json(code)
    }

    fn run(&mut self, code: i32) -> Value {
        self.json(&["run", "t", "--tenant", "acme", "--json"], code)
    }

    /// The lines that a run's programs printed. Asks everything else that can be asked about it, too.
    fn lines(&mut self, run: &Value) -> Vec<String> {
        let id = run["run_id"].as_str().expect("an id").to_owned();
        for args in [
            &["runs", "show", &id][..],
            &["runs", "events", &id],
            &["runs", "summary"],
            &["why", &id, "a"],
            &["replay", &id, "--all", "--plan"],
            &["dag", "show", "t"],
        ] {
            let done = self.bench.run(args);
            self.said.push_str(&done.out());
            self.said.push_str(&done.err());
            self.json(&[args, &["--json"]].concat(), 0);
        }
        let document = self.json(&["runs", "logs", &id, "--json"], 0);
        let lines = document["lines"].as_array().expect("lines");
        lines.iter().map(|line| line["line"].as_str().expect("text").to_owned()).collect()
    }

    /// The canary is in no file but the secrets' own, and in nothing that was printed.
    fn holds_nothing_of(&self, canary: &str) {
        assert!(!self.said.is_empty(), "nothing was looked at");
        let escaped = Value::from(canary).to_string();
        for form in [canary, &escaped[1..escaped.len() - 1], &canary[8..40]] {
            assert!(!self.said.contains(form), "{form} was printed: {}", self.said);
            let found = holders(&self.bench.path(""), form.as_bytes());
            let found: Vec<_> =
                found.into_iter().filter(|path| !path.starts_with(self.bench.path("secrets"))).collect();
            assert!(found.is_empty(), "{form} is in {found:?}");
        }
    }
}

/// Files below a folder that hold these bytes.
fn holders(folder: &Path, needle: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path()) {
        if entry.is_dir() {
            found.extend(holders(&entry, needle));
        } else if std::fs::read(&entry).expect("readable").windows(needle.len()).any(|window| window == needle) {
            found.push(entry);
        }
    }
    found
}

fn message(run: &Value) -> &str {
    run["tasks"][0]["reason"]["message"].as_str().unwrap_or_else(|| panic!("no reason: {run:#}"))
}

/// Compares $TOKEN with the file, prints it whole and in halves, counts it in what others can read of its process and
/// of those above it, and on the disk; hands it back.
const NOSY: &str = r#"
    [ "$TOKEN" = "$(cat "$HEADWORKS_PROJECT/secrets/$HEADWORKS_TENANT/token")" ] || exit 9
    echo "the token is $TOKEN."
    printf '%s' "${TOKEN%????????}"; printf '%s\n' "${TOKEN#"${TOKEN%????????}"}" 
    printf 'to the other %s' "$TOKEN" >&2
    echo "arguments: $(cat /proc/$$/cmdline /proc/$PPID/cmdline | tr '\0' '\n' | grep -cF "$TOKEN")"
    echo "above: $(tr '\0' '\n' < /proc/$PPID/environ | grep -cF "$TOKEN")"
    echo "on disk: $(grep -rlF "$TOKEN" "$HEADWORKS_PROJECT/scratch" | wc -l)"
    escaped=$(printf '%s' "$TOKEN" | sed 's/[\\"]/\\&/g')
    printf '{"said": ["it is %s", 7]}' "$escaped" > "$HEADWORKS_OUTPUTS"
"#;

fn nosy(stand: &mut Stand) -> Value {
    let run = stand.run(0);
    let mut lines = stand.lines(&run);
    lines.sort();
    let expected = ["***", "above: 0", "arguments: 0", "on disk: 0", "the token is ***.", "to the other ***"];
    assert_eq!(lines, expected);
    let shown = stand.json(&["runs", "show", run["run_id"].as_str().expect("an id"), "--json"], 0);
    assert_eq!(shown["outputs"]["a"]["said"], serde_json::json!(["it is ***", 7]));
    run
}

#[test]
fn a_program_in_its_own_process_gets_the_value_and_nothing_keeps_it() {
    let (mut stand, canary) = (Stand::new(NOSY, "process"), canary());
    stand.give("acme", &canary);
    nosy(&mut stand);
    stand.holds_nothing_of(&canary);
}

#[test]
fn a_program_with_a_secret_is_never_below_its_worker() {
    let (mut stand, canary) = (Stand::new(NOSY, "inline"), canary());
    stand.give("acme", &canary);
    nosy(&mut stand);
    stand.task("tr '\\0' ' ' < /proc/$PPID/cmdline", "isolation = \"inline\"");
    let run = stand.run(0);
    assert_eq!(stand.lines(&run), ["headworks attempt "]);
    stand.holds_nothing_of(&canary);
}

#[test]
fn a_value_of_digits_is_no_number_in_the_outputs() {
    let digits = format!("{}", 10_u128.pow(37) + Uuid::new_v4().as_u128() / 10);
    let script = "printf '{\"all\": [%s, -%s.0, 7], \"%s\": 1}' $TOKEN $TOKEN $TOKEN > $HEADWORKS_OUTPUTS";
    let mut stand = Stand::new(script, "process");
    for value in [&digits[..18], &digits[..20], &digits] {
        stand.give("acme", value);
        let run = stand.run(0);
        let shown = stand.json(&["runs", "show", run["run_id"].as_str().expect("an id"), "--json"], 0);
        assert_eq!(shown["outputs"]["a"], serde_json::json!({"all": ["***", "***", 7], "***": 1}));
        stand.lines(&run);
    }
    // Those that all three have, also behind the point of `1.2e37`.
    let digits = &digits[1..15];
    for path in holders(&stand.bench.path(""), digits.as_bytes()) {
        assert!(path.starts_with(stand.bench.path("secrets")), "{}", path.display());
    }
    assert!(!stand.said.contains(digits), "{}", stand.said);
}

#[test]
fn postgres_keeps_nothing_of_it_either() {
    let database = testkit::postgres();
    let (mut stand, canary) = (Stand::new(NOSY, "process"), canary());
    stand.bench.set("HEADWORKS_STORE_URL", database.url());
    stand.give("acme", &canary);
    nosy(&mut stand);
    stand.task("echo $TOKEN; exit 3", "");
    stand.run(4);
    stand.holds_nothing_of(&canary);
    let all = "SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'";
    let tables = database.query(all).expect("the tables");
    assert!(tables.lines().count() > 20, "{tables}");
    for table in tables.lines() {
        let sql = format!("SELECT COUNT(*) FROM \"{table}\" t WHERE t::text LIKE '%{}%'", &canary[8..40]);
        assert_eq!(database.query(&sql).expect("rows").trim(), "0", "{table}");
    }
}

/// Kills its process as soon as the worker has heard of the token.
const KILLED: &str = r#"
    echo "denied $HEADWORKS_EPOCH: $TOKEN."
    while ! grep -rqF "denied $HEADWORKS_EPOCH: ***." "$HEADWORKS_PROJECT/artifacts"; do sleep 0.05; done
    kill -KILL $PPID; sleep 600
"#;

#[test]
fn what_a_program_died_of_is_told_without_it() {
    let canary = canary();
    for (isolation, script, part) in [
        ("process", "echo denied: $TOKEN >&2; exit 1", "exit code 1; it printed last:\ndenied: ***"),
        ("inline", "echo denied: $TOKEN >&2; exit 1", "exit code 1; it printed last:\ndenied: ***"),
        // More than the last 4 KiB that a message holds: the beginning of the value is cut off.
        ("inline", "echo $TOKEN; head -c 4060 /dev/zero | tr '\\0' x; exit 1", "xxx"),
        ("process", "echo \"[\\\"$TOKEN\\\"]\" > $HEADWORKS_OUTPUTS", "no JSON"),
        (
            "process",
            "printf '[\"%070d%s\"]' 0 \"${TOKEN#*\\\"}\" | tr -d '\\\\' > $HEADWORKS_OUTPUTS",
            "wrote an array,",
        ),
        ("process", KILLED, "killed by SIGKILL; it printed last:\ndenied "),
    ] {
        let mut stand = Stand::new(script, isolation);
        stand.give("acme", &canary);
        let run = stand.run(4);
        assert!(message(&run).contains(part), "{}", message(&run));
        stand.lines(&run);
        stand.holds_nothing_of(&canary);
    }
}

#[test]
fn each_tenant_has_its_own_value_under_one_name() {
    let (ours, theirs) = (canary(), canary());
    let mut stand = Stand::new(NOSY, "process");
    stand.tenant("beta").tenant("gamma").give("acme", &ours).give("beta", &theirs);
    let failed = stand.json(&["run", "t", "--tenant", "gamma", "--json"], 4);
    assert!(message(&failed).contains("secret token of tenant gamma is missing"), "{}", message(&failed));
    nosy(&mut stand);
    let run = stand.json(&["run", "t", "--tenant", "beta", "--json"], 0);
    assert_eq!(stand.lines(&run).len(), 6);
    stand.holds_nothing_of(&ours);
    stand.holds_nothing_of(&theirs);
}

#[test]
fn a_missing_secret_is_one_attempt_a_reason_and_a_retry() {
    let mut stand = Stand::new("true", "process");
    stand.task("echo got $TOKEN", "retries = 5");
    let run = stand.run(4);
    assert_eq!((&run["tasks"][0]["attempts"], &run["tasks"][0]["state"]), (&1.into(), &"failed".into()), "{run:#}");
    let parts = [
        "secret token of tenant acme is missing",
        "there is no file secrets/acme/token",
        "HEADWORKS_SECRET__ACME__TOKEN is not set",
        "and retry",
    ];
    assert!(parts.iter().all(|part| message(&run).contains(part)), "{}", message(&run));
    let id = run["run_id"].as_str().expect("an id").to_owned();
    let why = stand.bench.run(&["why", &id, "a"]).out();
    assert!(why.contains("secret token of tenant acme is missing"), "{why}");
    let canary = canary();
    stand.give("acme", &canary);
    let run = stand.json(&["retry", &id, "--json"], 0);
    assert_eq!(stand.lines(&run), ["got ***"]);
    stand.holds_nothing_of(&canary);
}

#[test]
fn a_variable_of_the_worker_is_the_second_source_and_is_not_inherited() {
    let script = "echo got $TOKEN; env; echo ABOVE; tr '\\0' '\\n' < /proc/$PPID/environ";
    let (mut stand, canary) = (Stand::new(script, "process"), canary());
    stand.bench.set("HEADWORKS_SECRET__ACME__TOKEN", &canary);
    stand.bench.set("HEADWORKS_SECRET__ACME__OTHER", format!("other{canary}"));
    stand.bench.set("HEADWORKS_SECRET__BETA__TOKEN", format!("beta{canary}"));
    let run = stand.run(0);
    let lines = stand.lines(&run);
    assert_eq!(lines[0], "got ***");
    assert!(lines.contains(&"TOKEN=***".to_owned()), "{lines:?}");
    assert!(!lines.iter().any(|line| line.contains("HEADWORKS_SECRET_")), "{lines:?}");
    stand.holds_nothing_of(&canary);
    // The file comes first.
    stand.give("acme", "from the file");
    stand.task("[ \"$TOKEN\" = 'from the file' ]", "");
    stand.run(0);
    let dag = std::fs::read_to_string(stand.bench.path("dags/t.toml")).expect("the DAG");
    let passed = dag.replace("shell = true", "shell = true, pass_env = [\"HEADWORKS_SECRET__ACME__OTHER\"]");
    stand.bench.write("dags/t.toml", &passed);
    stand.run(3);
    stand.holds_nothing_of(&canary);
}

#[test]
fn the_reference_is_memoized_and_pinned_and_the_value_is_todays() {
    let (mut stand, first, second) = (Stand::new("true", "process"), canary(), canary());
    let script = "[ \"$TOKEN\" = \"$(cat \"$HEADWORKS_PROJECT/secrets/acme/token\")\" ]";
    stand.task(script, "cache = true").give("acme", &first);
    let args = [
        "run",
        "t",
        "--tenant",
        "acme",
        "--interval",
        "2026-01-01T00:00:00Z/2026-01-02T00:00:00Z",
        "--seed",
        "7",
        "--json",
    ];
    let run = stand.json(&args, 0);
    stand.give("acme", &second);
    let again = stand.json(&args, 0);
    assert_eq!(again["tasks"][0]["reason"]["code"], "memoized", "the key is made of the reference: {again:#}");
    std::fs::remove_file(stand.bench.path("secrets/acme/token")).expect("there");
    let again = stand.json(&args, 0);
    assert_eq!(again["tasks"][0]["reason"]["code"], "memoized", "no value is looked up before: {again:#}");
    stand.give("acme", &second);
    let id = run["run_id"].as_str().expect("an id").to_owned();
    stand.json(&["replay", &id, "--all", "--json"], 0);
    stand.json(&["replay", &id, "--all", "--verify", "--json"], 0);
    stand.holds_nothing_of(&first);
    stand.holds_nothing_of(&second);
}

#[test]
fn a_key_of_many_lines_is_hidden_line_by_line() {
    let lines = [canary(), canary(), canary()];
    let mut stand = Stand::new("echo \"$TOKEN\" | while read -r line; do echo \"| $line\"; done", "process");
    stand.give("acme", &["---", &lines[0], &lines[1], &lines[2], "---"].join("\n"));
    let run = stand.run(0);
    assert_eq!(stand.lines(&run), ["| ---", "| ***", "| ***", "| ***", "| ---"]);
    lines.iter().for_each(|line| stand.holds_nothing_of(line));
}

#[test]
fn what_a_template_yields_is_no_reference() {
    let mut stand = Stand::new("true", "process");
    let canary = canary();
    stand.give("acme", &canary);
    let dag = "[dag]\nid = \"t\"\n[params]\nwhich = { type = \"object\" }\n[tasks.a]\nkind = \"command\"\n\
               with = { program = \"cat $HEADWORKS_PARAMS\", shell = true, params = { it = \"{{params.which}}\" } }\n";
    stand.bench.write("dags/t.toml", dag);
    let args = ["run", "t", "--tenant", "acme", "--param", "which={\"secret\":\"token\"}", "--json"];
    let run = stand.json(&args, 0);
    let printed: String = stand.lines(&run).concat();
    let printed: Value = serde_json::from_str(&printed).expect("JSON");
    assert_eq!(printed["it"], serde_json::json!({"secret": "token"}), "it is data");
    stand.bench.write("dags/t.toml", &dag.replace("params = { it", "env = { IT"));
    let run = stand.json(&args, 4);
    assert!(message(&run).contains("do not fit once rendered"), "{}", message(&run));
    stand.holds_nothing_of(&canary);
}

#[test]
fn a_drill_has_secrets_of_its_own() {
    let (real, rehearsal) = (canary(), canary());
    let mut stand = Stand::new(
        "[ \"$TOKEN\" = \"$(cat \"$HEADWORKS_PROJECT/secrets/drill-acme/token\")\" ] && echo got $TOKEN",
        "process",
    );
    let drill = "[drill]\nformat_version = 1\nid = \"d\"\ntitle = \"A token\"\nrunbook = \"d.md\"\nseverity = \"S3\"\n\
                 [run]\ndag = \"t\"\nlike = \"acme\"\ntenants = [\"acme\"]\n\
                 [[fault]]\nkind = \"fail\"\nrun = \"first\"\ntask = \"a\"\nmessage = \"as declared\"\n\
                 [[step]]\nname = \"first\"\ndo = \"run\"\nexit = 4\n\
                 [[step]]\nname = \"again\"\ndo = \"retry\"\nrun = \"first\"\n\
                 [[expect]]\nname = \"ends well\"\nthat = \"state\"\nafter = \"again\"\nrun = \"first\"\nis = \"succeeded\"\n";
    std::fs::create_dir_all(stand.bench.path("docs/runbooks")).expect("a folder");
    stand.bench.write("docs/runbooks/d.toml", drill).write("docs/runbooks/d.md", "# d\n");
    stand.give("acme", &real);
    let args = ["drill", "run", "docs/runbooks/d.toml", "--json"];
    stand.json(&args, 4);
    let told = holders(&stand.bench.path("artifacts"), b"there is no file secrets/drill-acme/token");
    assert!(!told.is_empty(), "{}", stand.said);
    stand.give("drill-acme", &rehearsal);
    stand.json(&args, 0);
    stand.holds_nothing_of(&real);
    stand.holds_nothing_of(&rehearsal);
}
