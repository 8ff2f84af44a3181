//! What is too large or too deep is refused quickly, and what is merely large works.

use std::fmt::Write;
use std::time::{Duration, Instant};

use headworks_engine::dag::{Diagnostics, MAX_SOURCE_BYTES, MAX_TASKS, lower, lower_bytes};

use crate::kinds::test_kinds;

/// The promise is 100 ms of a free core in a release build. Tests run unoptimized, where the TOML
/// parser takes 20 times as long, and beside each other; what this bound tells is that nothing grows
/// with a square.
const QUICKLY: Duration = Duration::from_secs(10);

fn refused(source: &str) -> Diagnostics {
    let kinds = test_kinds();
    let start = Instant::now();
    let found = lower("x.toml", source, &kinds).map(|(dag, _)| dag.id).expect_err("refused");
    let seconds = start.elapsed();
    assert!(seconds < QUICKLY, "{seconds:?} for {}", found.items[0].code);
    assert!(found.items.len() <= 501, "{} diagnostics", found.items.len());
    assert!(found.items.iter().all(|item| item.message.len() + item.help.len() < 4_000));
    found
}

fn has(found: &Diagnostics, code: &str) -> bool {
    found.items.iter().any(|item| item.code == code)
}

fn heading() -> String {
    "[dag]\nid = \"x\"\n[defaults]\ntimeout = \"1h\"\n".to_owned()
}

#[test]
fn size_and_depth_are_refused() {
    assert!(has(&refused(&"a".repeat(50_000_000)), "dag::too_large"));
    assert!(has(&refused(&"#\u{e4}".repeat(MAX_SOURCE_BYTES)), "dag::too_large"));
    let found = lower_bytes("x.toml", &vec![0xff; 2 << 20], &test_kinds()).expect_err("refused");
    assert!(has(&found, "dag::too_large"));
    let nested = format!("a = {}{}", "[".repeat(10_000), "]".repeat(10_000));
    let dotted = format!("{} = 1", vec!["a"; 200_000].join("."));
    let headers = format!("[{}]", vec!["a"; 200_000].join("."));
    for deep in [nested, dotted, headers, "{a=".repeat(300_000), "[[".repeat(300_000)] {
        assert!(has(&refused(&deep), "dag::too_deep"), "{}", &deep[..30]);
    }
}

#[test]
fn a_million_keys_are_refused() {
    let mut source = heading();
    let mut number = 0;
    while source.len() < MAX_SOURCE_BYTES - 20 {
        writeln!(source, "k{number}=1").expect("a string");
        number += 1;
    }
    let found = refused(&source);
    assert!(has(&found, "dag::unknown_key") && has(&found, "dag::too_many_mistakes"));
    let same = format!("{}{}", heading(), "a=1\n".repeat(200_000));
    assert!(has(&refused(&same), "dag::syntax"));
    let garbage = "= ] \" \n".repeat(140_000);
    assert!(has(&refused(&garbage), "dag::syntax"));
}

#[test]
fn too_many_tasks_edges_and_elements_are_refused() {
    let mut tasks = heading();
    for number in 0..=MAX_TASKS {
        writeln!(tasks, "[tasks.t{number}]\nkind=\"work\"").expect("a string");
    }
    assert!(has(&refused(&tasks), "dag::too_many_tasks"));

    let mut edges = heading();
    let list = (0..330).map(|number| format!("\"t{number}\"")).collect::<Vec<_>>().join(",");
    for number in 0..330 {
        writeln!(edges, "[tasks.t{number}]\nkind=\"work\"").expect("a string");
    }
    for number in 0..310 {
        writeln!(edges, "[tasks.u{number}]\nkind=\"work\"\nneeds=[{list}]").expect("a string");
    }
    assert!(edges.len() < MAX_SOURCE_BYTES);
    assert!(has(&refused(&edges), "dag::too_many_edges"));

    let axis = (0..1_000).map(|number| number.to_string()).collect::<Vec<_>>().join(",");
    let billion = format!("{}[tasks.a]\nkind=\"work\"\nmatrix={{x=[{axis}],y=[{axis}],z=[{axis}]}}\n", heading());
    assert!(has(&refused(&billion), "dag::matrix_too_large"));
    let axes = (0..20).map(|number| format!("a{number}=[{axis}]")).collect::<Vec<_>>().join(",");
    let overflow = format!("{}[tasks.a]\nkind=\"work\"\nmatrix={{{axes}}}\n", heading());
    assert!(has(&refused(&overflow), "dag::matrix_too_large"));
}

#[test]
fn a_chain_of_ten_thousand_is_a_dag() {
    let mut source = heading();
    writeln!(source, "[tasks.t0]\nkind=\"work\"\nwith={{makes=[\"a.json\"]}}").expect("a string");
    for number in 1..MAX_TASKS {
        writeln!(source, "[tasks.t{number}]\nkind=\"work\"\nneeds=[\"t{}\"]", number - 1).expect("a string");
    }
    writeln!(source, "with={{reads=[\"a.json\"]}}").expect("a string");
    let (dag, _) = lower("x.toml", &source, &test_kinds()).expect("good");
    assert_eq!((dag.graph.node_count(), dag.graph.edge_count()), (MAX_TASKS, MAX_TASKS - 1));
    let last = dag.tasks().last().expect("a task");
    assert_eq!(last.inputs[0].producers[0].as_str(), "t0");

    let circle = source.replacen(
        "[tasks.t0]\nkind=\"work\"",
        &format!("[tasks.t0]\nkind=\"work\"\nneeds=[\"t{}\"]", MAX_TASKS - 1),
        1,
    );
    let found = refused(&circle);
    let cycle = found.items.iter().find(|item| item.code == "dag::cycle").expect("a cycle");
    assert!(cycle.message.contains("t0 -> t1 -> ") && cycle.message.ends_with("t9999 -> t0"), "{}", cycle.message);
}
