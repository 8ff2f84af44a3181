//! A lowered DAG: edges, inputs, elements, defaults.

use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

use headworks_engine::dag::{Backoff, Dag, Isolation, RetryOn, TriggerRule, lower, show};
use headworks_engine::id::TaskId;
use petgraph::algo::toposort;
use proptest::prelude::*;
use serde_json::json;

use crate::kinds::test_kinds;

fn sample() -> Dag {
    lower("retail_demand.toml", include_str!("fixtures/retail_demand.toml"), &test_kinds()).expect("good").0
}

fn id(text: &str) -> TaskId {
    TaskId::parse(text).expect("an id")
}

/// `name <- producers` of a task.
fn inputs(dag: &Dag, task: &str) -> Vec<String> {
    let task = dag.task(&id(task)).expect("a task");
    let line = |input: &headworks_engine::dag::InputBinding| {
        let producers = input.producers.iter().map(TaskId::as_str).collect::<Vec<_>>();
        format!("{} <- {}", input.name, producers.join(","))
    };
    task.inputs.iter().map(line).collect()
}

/// `task` bodies of kind `work` under their names.
fn works(tasks: &[(&str, &str)]) -> Result<Dag, Vec<(&'static str, String)>> {
    let mut source = "[dag]\nid = \"x\"\n[defaults]\ntimeout = \"1h\"\n".to_owned();
    for (name, body) in tasks {
        write!(source, "[tasks.{name}]\nkind = \"work\"\n{body}\n").expect("a string");
    }
    lower("x.toml", &source, &test_kinds())
        .map(|(dag, _)| dag)
        .map_err(|found| found.items.into_iter().map(|item| (item.code, item.message)).collect())
}

#[test]
fn inputs_come_from_the_nearest_upstream() {
    let dag = sample();
    assert_eq!(inputs(&dag, "validate"), ["panel.parquet <- ingest"]);
    assert_eq!(inputs(&dag, "features"), ["panel.parquet <- validate", "canonical_schema_snapshot.json <- ingest"]);
    assert_eq!(inputs(&dag, "promote"), ["evaluation.json <- evaluate", "model.json <- train", "model.bin <- train"]);
    let report = inputs(&dag, "report");
    assert!(report.contains(&"promotion_decision.json <- promote".to_owned()), "{report:?}");
    assert_eq!(inputs(&dag, "ingest"), [""; 0]);
}

#[test]
fn policies_overlay_the_defaults_key_by_key() {
    let dag = sample();
    let train = dag.task(&id("train")).expect("train");
    assert_eq!(train.retries.max, 1);
    assert_eq!((train.retries.jitter, train.retries.retry_on), (0.5, RetryOn::Any));
    assert_eq!((train.retries.backoff, train.retries.initial), (Backoff::Exponential, Duration::from_secs(5)));
    assert_eq!(train.timeouts.queue, Some(Duration::from_secs(3600)));
    assert_eq!(train.timeouts.attempt, Some(Duration::from_secs(7200)));
    assert_eq!((train.pool.as_deref(), train.priority, train.isolation), (Some("training"), 10, Isolation::Inline));
    let ingest = dag.task(&id("ingest")).expect("ingest");
    assert_eq!((ingest.retries.max, ingest.timeouts.attempt), (2, Some(Duration::from_secs(1800))));
    assert_eq!(ingest.trigger_rule, TriggerRule::AllSuccess);
    assert_eq!(dag.deadline, Some(Duration::from_secs(3 * 3600)));
    assert_eq!(dag.schedule.as_ref().expect("a schedule")["dst"]["gap"], "shift");
    assert_eq!(dag.params["horizon"].default, Some(json!(28)));
    assert_eq!(dag.version, headworks_engine::id::Digest::of(dag.source.as_bytes()));
}

#[test]
fn a_matrix_is_the_cross_product_in_order() {
    let dag = works(&[("a", "matrix = { x = [1, 2], y = [\"p\", \"q\", \"r\"] }")]).expect("good");
    let elements = &dag.task(&id("a")).expect("a").matrix;
    let shown = elements.iter().map(|element| format!("{}{}", element["x"], element["y"].as_str().expect("text")));
    assert_eq!(shown.collect::<Vec<_>>(), ["1p", "1q", "1r", "2p", "2q", "2r"]);
    assert_eq!(elements[0].keys().collect::<Vec<_>>(), ["x", "y"]);
}

#[test]
fn many_are_read_from_every_producer_that_none_hides() {
    let dag = works(&[
        ("far", "with = { makes = [\"m.json\"] }"),
        ("near", "needs = [\"far\"]\nwith = { makes = [\"m.json\"] }"),
        ("side", "with = { makes = [\"m.json\"] }"),
        ("pass", "needs = [\"side\"]"),
        ("end", "needs = [\"pass\", \"near\"]\nwith = { reads_many = [\"m.json\"] }"),
    ])
    .expect("good");
    assert_eq!(inputs(&dag, "end"), ["m.json <- near,side"]);
}

#[test]
fn what_is_ambiguous_is_refused() {
    let two = [
        ("a", "with = { makes = [\"m.json\"] }"),
        ("b", "with = { makes = [\"m.json\"] }"),
        ("end", "needs = [\"a\", \"b\"]\nwith = { reads = [\"m.json\"] }"),
    ];
    let found = works(&two).expect_err("two are equally near");
    assert_eq!(found[0].0, "dag::ambiguous_input");
    assert!(found[0].1.contains("a and b"), "{}", found[0].1);
    let elements = [
        ("a", "matrix = { x = [1, 2] }\nwith = { makes = [\"m.json\"] }"),
        ("end", "needs = [\"a\"]\nwith = { reads = [\"m.json\"] }"),
    ];
    assert_eq!(works(&elements).expect_err("two elements")[0].0, "dag::ambiguous_input");
    let nearer = [
        ("a", "with = { makes = [\"m.json\"] }"),
        ("b", "needs = [\"a\"]\nwith = { makes = [\"m.json\"] }"),
        ("c", "needs = [\"a\"]"),
        ("end", "needs = [\"c\", \"b\"]\nwith = { reads = [\"m.json\"] }"),
    ];
    assert_eq!(inputs(&works(&nearer).expect("b is nearer"), "end"), ["m.json <- b"]);
}

#[test]
fn a_missing_input_says_who_makes_it() {
    let source = "[dag]\nid = \"x\"\n[defaults]\ntimeout = \"1h\"\n[tasks.a]\nkind = \"work\"\n\
                  with = { makes = [\"m.json\"] }\n[tasks.b]\nkind = \"work\"\nwith = { reads = [\"m.json\"] }\n";
    let found = lower("x.toml", source, &test_kinds()).expect_err("b does not need a");
    assert_eq!(
        (found.items[0].code, found.items[0].help.as_str()),
        ("dag::missing_input", "a makes m.json: add it to `needs`")
    );
}

#[test]
fn cycles_are_named_in_full_and_once() {
    let found = works(&[
        ("a", "needs = [\"c\"]"),
        ("b", "needs = [\"a\"]"),
        ("c", "needs = [\"b\"]"),
        ("below", "needs = [\"c\"]"),
        ("p", "needs = [\"q\"]"),
        ("q", "needs = [\"p\", \"a\"]"),
    ])
    .expect_err("two cycles");
    let cycles = found.iter().map(|(code, message)| (*code, message.as_str())).collect::<Vec<_>>();
    let expected = [("dag::cycle", "a cycle: a -> b -> c -> a"), ("dag::cycle", "a cycle: p -> q -> p")];
    assert_eq!(cycles, expected);
}

#[test]
fn parameters_of_a_run_are_resolved() {
    let dag = sample();
    let object = |value: serde_json::Value| value.as_object().cloned().expect("an object");
    let resolve = |tenant, given| dag.resolve_params(&object(tenant), &object(given));
    assert_eq!(resolve(json!({}), json!({})), Ok(object(json!({"horizon": 28}))));
    assert_eq!(resolve(json!({"horizon": 7, "source": "x"}), json!({})), Ok(object(json!({"horizon": 7}))));
    assert_eq!(resolve(json!({"horizon": 7}), json!({"horizon": 14})), Ok(object(json!({"horizon": 14}))));
    for bad in [json!({"horizon": 0}), json!({"horizon": "{{x}}"}), json!({"horizn": 1})] {
        let problems = resolve(json!({}), bad.clone()).expect_err("bad");
        assert_eq!(problems.len(), 1, "{bad}");
    }
    let horizon = &dag.params["horizon"];
    assert_eq!(horizon.parse("14").map_err(|problem| problem.message), Ok(json!(14)));
    assert!(horizon.parse("x").is_err() && horizon.parse("0").is_err());
}

/// Random DAGs: task `i` may need any earlier one; the file's order is shuffled by `order`.
fn random_dag() -> impl Strategy<Value = (Vec<Vec<usize>>, Vec<usize>)> {
    (1..25_usize).prop_flat_map(|count| {
        let needs = (0..count)
            .map(|index| proptest::collection::btree_set(0..index.max(1), 0..=index.min(4)))
            .collect::<Vec<_>>();
        let order = Just((0..count).collect::<Vec<_>>()).prop_shuffle();
        (
            needs.prop_map(|sets| {
                sets.into_iter().enumerate().map(|(i, s)| s.into_iter().filter(|n| *n < i).collect()).collect()
            }),
            order,
        )
    })
}

fn file_of(needs: &[Vec<usize>], order: &[usize]) -> String {
    let mut source = "[dag]\nid = \"x\"\n[defaults]\ntimeout = \"1h\"\n".to_owned();
    for &index in order {
        let list = needs[index].iter().map(|need| format!("\"t{need}\"")).collect::<Vec<_>>().join(", ");
        write!(source, "[tasks.t{index}]\nkind = \"work\"\nneeds = [{list}]\n").expect("a string");
    }
    source
}

proptest! {
    #[test]
    fn a_topological_order_respects_needs((needs, order) in random_dag()) {
        let (dag, _) = lower("x.toml", &file_of(&needs, &order), &test_kinds()).expect("no mistake");
        let position: HashMap<_, _> = toposort(&dag.graph, None)
            .expect("no cycle")
            .into_iter()
            .enumerate()
            .map(|(at, node)| (dag.graph[node].id.to_string(), at))
            .collect();
        for (index, list) in needs.iter().enumerate() {
            let task = dag.task(&id(&format!("t{index}"))).expect("there");
            prop_assert_eq!(task.needs.len(), list.len());
            for need in list {
                let (above, below) = (position[&format!("t{need}")], position[&format!("t{index}")]);
                prop_assert!(above < below);
            }
        }
        let written = dag.tasks().map(|task| task.id.to_string()).collect::<Vec<_>>();
        prop_assert_eq!(written, order.iter().map(|index| format!("t{index}")).collect::<Vec<_>>());
    }

    #[test]
    fn an_edge_back_makes_a_cycle((mut needs, order) in random_dag(), at in any::<prop::sample::Index>()) {
        // From some task with a need, back from its need to it.
        let with_needs = (0..needs.len()).filter(|&index| !needs[index].is_empty()).collect::<Vec<_>>();
        prop_assume!(!with_needs.is_empty());
        let child = with_needs[at.index(with_needs.len())];
        let parent = needs[child][0];
        needs[parent].push(child);
        let found = lower("x.toml", &file_of(&needs, &order), &test_kinds()).expect_err("a cycle");
        prop_assert!(found.items.iter().any(|item| item.code == "dag::cycle"));
        prop_assert!(found.items.iter().all(|item| item.span.end <= found.source.len()));
    }
}

#[test]
fn a_dag_is_shown_by_level() {
    let text = show::text(&sample());
    let lines = text.lines().collect::<Vec<_>>();
    assert_eq!(lines[0], "retail_demand  7 tasks, 7 edges");
    assert_eq!(lines[2], "   1  ingest    ingest    timeout 30m");
    let train = "   4  train     train     needs features; timeout 2h; x3 model: seasonal_naive, weekday_mean, gbdt";
    assert_eq!(lines[5], train);
    let report = "   7  report    report    needs evaluate, promote; all_done; timeout 30m";
    assert_eq!(lines[8], report);
}

#[test]
fn a_dag_is_a_digraph() {
    let dot = show::dot(&sample());
    for part in [
        "digraph \"retail_demand\" {",
        "\"train\" [label=\"train\\nx3\"];",
        "\"ingest\" -> \"validate\";",
        "\"promote\" -> \"report\" [label=\"all_done\"];",
    ] {
        assert!(dot.contains(part), "{part} in {dot}");
    }
}

#[test]
fn a_dag_is_a_document() {
    let document = show::json(&sample());
    assert_eq!((&document["dag"], &document["deadline"]), (&json!("retail_demand"), &json!(10800.0)));
    assert_eq!(document["params"]["horizon"]["default"], 28);
    assert_eq!(document["edges"][0], json!(["ingest", "validate"]));
    let train = &document["tasks"][3];
    assert_eq!((&train["task"], &train["level"], &train["isolation"]), (&json!("train"), &json!(4), &json!("inline")));
    assert_eq!(train["matrix"][2], json!({"model": "gbdt"}));
    assert_eq!(train["inputs"][0], json!({"name": "features.parquet", "producers": ["features"], "optional": false}));
    assert_eq!(train["timeout"], json!({"queue": 3600.0, "attempt": 7200.0, "total": 18000.0}));
}

#[test]
fn a_matrix_with_many_values_is_shown_in_short() {
    let values = (0..30).map(|number| number.to_string()).collect::<Vec<_>>().join(", ");
    let dag = works(&[("a", &format!("matrix = {{ x = [{values}] }}"))]).expect("good");
    assert!(show::text(&dag).contains("x30 x: 0, 1, 2, 3, 4, 5, 6, 7, ...\n"), "{}", show::text(&dag));
}
