//! What goes wrong says what, where and how to mend it, with the documented exit code.

use serde_json::Value;

use crate::bench::Bench;

const OK: &str = "[dag]\nid = \"ok\"\n[tasks.a]\nkind = \"command\"\nwith = { program = \"true\" }\n";
const TENANT: &str = "[tenant]\nid = \"acme\"\nstatus = \"active\"\n[dags.ok]\n[dags.sad]\n";

fn error(bench: &Bench, args: &[&str], code: i32) -> Value {
    let mut args = args.to_vec();
    args.push("--json");
    let document = bench.run(&args).json(code);
    let error = document["error"].clone();
    for key in ["kind", "message", "chain", "hint"] {
        assert!(error.get(key).is_some(), "{key} is missing in {document}");
    }
    error
}

#[test]
fn an_unknown_dag_names_those_that_there_are() {
    let bench = Bench::new();
    bench.write("dags/ok.toml", OK).write("dags/tenants/acme.toml", TENANT);
    let error = error(&bench, &["run", "okk"], 2);
    assert!(error["hint"].as_str().is_some_and(|hint| hint.contains("ok")), "{error}");
}

#[test]
fn an_invalid_dag_ends_with_3_and_its_diagnostics() {
    let bench = Bench::new();
    bench.write("dags/bad.toml", "[dag]\nid = \"bad\"\n[tasks.a]\nkind = \"comand\"\nneeds = [\"b\"]\n");
    let document = bench.run(&["validate", "dags/bad.toml", "--json"]).json(3);
    let diagnostics = document["diagnostics"].as_array().expect("a list");
    assert!(diagnostics.len() >= 2, "{document}");
    for it in diagnostics {
        assert!(it["line"].as_u64().is_some_and(|line| line > 0), "{it}");
        assert!(it["column"].as_u64().is_some_and(|column| column > 0), "{it}");
        assert!(it["help"].as_str().is_some_and(|help| !help.is_empty()), "{it}");
    }
    let plain = bench.run(&["validate", "dags/bad.toml"]);
    assert_eq!(plain.code(), 3);
    assert!(plain.err().contains("comand"), "{}", plain.err());
    assert_eq!(bench.run(&["run", "bad"]).code(), 3);
}

#[test]
fn parameters_are_judged_before_anything_runs() {
    let bench = Bench::new();
    let dag = format!("{OK}[params]\nhorizon = {{ type = \"integer\", default = 28, minimum = 1 }}\n");
    bench.write("dags/ok.toml", &dag).write("dags/tenants/acme.toml", TENANT);
    for (param, part) in
        [("horizon=0", "1"), ("horizon=soon", "whole number"), ("horzon=7", "horizon"), ("horizon", "=")]
    {
        let error = error(&bench, &["run", "ok", "--param", param], 2);
        assert!(error.to_string().contains(part), "{param}: {error}");
    }
    assert!(!bench.path("artifacts").exists(), "nothing was made");
}

#[test]
fn tenants_are_named_when_there_is_a_choice() {
    let bench = Bench::new();
    bench.write("dags/ok.toml", OK).write("dags/tenants/acme.toml", TENANT);
    bench.write("dags/tenants/zeta.toml", "[tenant]\nid = \"zeta\"\nstatus = \"suspended\"\n[dags.ok]\n");
    assert_eq!(bench.run(&["run", "ok"]).code(), 0, "a suspended tenant is no choice");
    let suspended = error(&bench, &["run", "ok", "--tenant", "zeta"], 2);
    assert!(suspended["message"].as_str().is_some_and(|message| message.contains("suspended")), "{suspended}");
    bench.write("dags/tenants/beta.toml", "[tenant]\nid = \"beta\"\nstatus = \"trial\"\n[dags.ok]\n");
    let several = error(&bench, &["run", "ok"], 2);
    assert!(several["message"].as_str().is_some_and(|message| message.contains("acme, beta")), "{several}");
    assert_eq!(bench.run(&["run", "ok", "--tenant", "beta"]).code(), 0);
}

#[test]
fn an_unreachable_store_ends_with_5() {
    let mut bench = Bench::new();
    bench.set("HEADWORKS_STORE_URL", "postgres://nobody:secret@127.0.0.1:1/none");
    let error = error(&bench, &["runs", "list"], 5);
    assert!(!error.to_string().contains("secret"), "passwords are not shown: {error}");
    bench.set("HEADWORKS_STORE_URL", "mysql://x");
    assert_eq!(bench.run(&["runs", "list"]).code(), 2);
}

#[test]
fn a_store_that_was_never_migrated_says_what_to_do() {
    let bench = Bench::new();
    let refused = error(&bench, &["runs", "list"], 5);
    assert!(refused["hint"].as_str().is_some_and(|hint| hint.contains("db migrate")), "{refused}");
    let before = bench.run(&["db", "status", "--json"]).json(0);
    assert!(before["pending"].as_u64().is_some_and(|pending| pending > 0));
    assert_eq!(bench.run(&["db", "migrate"]).code(), 0);
    assert_eq!(bench.run(&["db", "status", "--json"]).json(0)["pending"], 0);
    assert_eq!(bench.run(&["runs", "list", "--json"]).json(0)["runs"], Value::Array(Vec::new()));
}

#[test]
fn a_failed_task_ends_its_run_with_4_and_says_why() {
    let bench = Bench::new();
    let dag = "[dag]\nid = \"sad\"\n[tasks.a]\nkind = \"command\"\nwith = { program = \"false\" }\n\
               [tasks.b]\nkind = \"command\"\nneeds = [\"a\"]\nwith = { program = \"true\" }\n";
    bench.write("dags/sad.toml", dag).write("dags/tenants/acme.toml", TENANT);
    let document = bench.run(&["run", "sad", "--json"]).json(4);
    assert_eq!(document["state"], "failed");
    assert_eq!(document["tasks"][0]["state"], "failed");
    assert_eq!(document["tasks"][0]["reason"]["code"], "attempt_failed");
    assert_eq!(document["tasks"][1]["state"], "upstream_failed");
    let id = document["run_id"].as_str().expect("an id");
    let shown = bench.run(&["runs", "show", &id[..13], "--json"]).json(0);
    assert_eq!(shown["tasks"], document["tasks"]);
    assert_eq!(error(&bench, &["runs", "show", "00000000-0000"], 2)["kind"], "not_found");
}

#[test]
fn usage_errors_end_with_2_and_help_with_0() {
    let bench = Bench::new();
    assert_eq!(error(&bench, &["frobnicate"], 2)["kind"], "usage");
    assert_eq!(bench.run(&["--help"]).code(), 0);
    assert_eq!(bench.run(&["config", "default"]).out(), engine::config::DEFAULT_FILE);
    bench.write("headworks.toml", "[store]\nurk = 1\n");
    let wrong = error(&bench, &["runs", "list"], 2);
    assert!(wrong["chain"].to_string().contains("urk"), "{wrong}");
}
