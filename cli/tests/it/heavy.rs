//! The main job on the bundled data, end to end, on every store there is: same bytes everywhere.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::bench::Bench;

/// Digests of what has to be the same: Parquet and model bytes, by task, element and name.
fn digests(document: &Value) -> BTreeMap<String, String> {
    let artifacts = document["artifacts"].as_array().expect("artifacts");
    let same = artifacts.iter().filter(|it| {
        let name = it["name"].as_str().unwrap_or_default();
        name.ends_with(".parquet") || name == "model.bin"
    });
    same.map(|it| (format!("{} {} {}", it["task"], it["index"], it["name"]), it["digest"].to_string())).collect()
}

fn run(bench: &Bench) -> Value {
    bench.run(&["run", "retail_demand", "--seed", "11", "--json"]).json(0)
}

#[test]
fn the_main_job_gives_the_same_bytes_on_every_store() {
    let first = Bench::of_repository();
    let sqlite = run(&first);
    assert_eq!(sqlite["state"], "succeeded");
    let expected = digests(&sqlite);
    assert!(expected.len() >= 8, "panels, features, backtests, models, metrics: {expected:#?}");
    check_judgement(&sqlite);
    check_report(&sqlite);
    let second = run(&first);
    assert_eq!(digests(&second), expected, "the same seed twice");
    // The first was judged without a champion, the second against the first one's: each is proven as it was.
    proves(&first, &sqlite);
    proves(&first, &second);

    let (database, server) = (testkit::postgres(), testkit::S3Server::start());
    let mut second = Bench::of_repository();
    second.set("HEADWORKS_STORE_URL", database.url()).set("HEADWORKS_ARTIFACTS_URL", server.url("nightly"));
    for (name, value) in server.env() {
        second.set(name, value);
    }
    let postgres = run(&second);
    assert_eq!(digests(&postgres), expected, "Postgres and S3");
    proves(&second, &postgres);
    let id = postgres["run_id"].as_str().expect("an id");
    let copied = second.run(&["artifacts", "get", id, "ingest", "panel.parquet", "--json"]).json(0);
    assert!(second.path("panel.parquet").exists(), "{copied}");
}

/// Every artifact comes out again to the last bit, the report too, and no model is registered.
fn proves(bench: &Bench, done: &Value) {
    let models = bench.run(&["models", "list", "--json"]).json(0);
    let id = done["run_id"].as_str().expect("an id");
    let proof = bench.run(&["replay", id, "--all", "--verify", "--json"]).json(0);
    let tasks = proof["tasks"].as_array().expect("tasks");
    assert!(tasks.iter().all(|it| it["verdict"] == "identical"), "{proof:#}");
    assert_eq!(bench.run(&["models", "list", "--json"]).json(0), models);
}

/// At least three origins, a champion that beats seasonal naive, a decision.
fn check_judgement(document: &Value) {
    let metrics = document["outputs"]["evaluate"]["metrics"].as_array().expect("metrics");
    let wape = |model: &str, origin: &str| {
        let row = metrics.iter().find(|it| it["model"] == model && it["origin"] == origin && it["slice"] == "all");
        row.and_then(|row| row["wape"].as_f64()).unwrap_or_else(|| panic!("no WAPE of {model} at {origin}"))
    };
    let origins: std::collections::BTreeSet<_> =
        metrics.iter().filter_map(|it| it["origin"].as_str()).filter(|origin| *origin != "pooled").collect();
    assert!(origins.len() >= 3, "{origins:?}");
    for origin in &origins {
        assert!(wape("gbdt", origin) < wape("seasonal_naive", origin), "{origin}");
    }
    assert_eq!(document["outputs"]["promote"]["promoted"], true, "{}", document["outputs"]["promote"]);
}

fn check_report(document: &Value) {
    let path = document["report"].as_str().expect("a report");
    let html = std::fs::read_to_string(path).expect("the report is a file");
    assert!(html.contains("gbdt") && html.contains("seasonal_naive"));
}
