//! Every file under `dags/` is loaded by a test: DAGs, tenants, and the documents that they name.

use crate::bench::{Bench, repository};

fn stems(folder: &str) -> Vec<String> {
    let mut stems = Vec::new();
    for entry in std::fs::read_dir(repository().join("dags").join(folder)).expect("the folder is there") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            stems.push(path.file_stem().expect("a stem").to_string_lossy().into_owned());
        }
    }
    stems
}

#[test]
fn every_dag_lowers_without_a_diagnostic() {
    let bench = Bench::of_repository();
    let document = bench.run(&["validate", "--json"]).json(0);
    assert_eq!(document["diagnostics"].as_array().map(Vec::len), Some(0), "{document}");
}

#[test]
fn every_dag_can_be_shown() {
    let bench = Bench::of_repository();
    for dag in stems("") {
        for format in ["text", "dot", "json"] {
            let done = bench.run(&["dag", "show", &dag, "--format", format]);
            assert_eq!(done.code(), 0, "{}", done.err());
            let task = if dag == "drills" { "rehearse" } else { "train" };
            assert!(done.out().contains(task), "{dag} as {format}: {}", done.out());
        }
    }
}

#[test]
fn every_tenant_is_read() {
    let bench = Bench::of_repository();
    for tenant in stems("tenants") {
        // An unknown DAG is refused only after the tenants were read.
        let done = bench.run(&["run", "retail_demand", "--tenant", &tenant, "--param", "no_such=1"]);
        assert_eq!(done.code(), 2, "{}", done.err());
        assert!(done.err().contains("no_such"), "{}", done.err());
    }
}
