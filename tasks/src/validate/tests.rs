//! The kind over small panels whose faults are known.

use std::sync::Arc;

use datafusion::arrow::array::{ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, RecordBatch, StringArray};
use datafusion::arrow::compute::concat_batches;
use datafusion::arrow::datatypes::{DataType, Field, Float64Type, Int64Type, Schema};
use engine::task::Kinds;
use testkit::{Done, TaskBench};

use super::*;

/// 14,610 days after 1970-01-01.
const FIRST_DAY: i32 = 14_610;

/// `days` of series `a` and `b`: demand 0, 1, 2 ... over both; `b` is closed.
fn panel(days: usize) -> RecordBatch {
    panel_with(days, |row| Some(row as f64))
}

fn panel_with(days: usize, demand: impl Fn(usize) -> Option<f64>) -> RecordBatch {
    let schema = Schema::new(vec![
        Field::new("series", DataType::Utf8, false),
        Field::new("time", DataType::Date32, false),
        Field::new("demand", DataType::Float64, true),
        Field::new("closed", DataType::Boolean, true),
    ]);
    let rows = 0..2 * days;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.clone().map(|row| Some(if row < days { "a" } else { "b" })).collect::<StringArray>()),
        Arc::new(rows.clone().map(|row| Some(FIRST_DAY + (row % days) as i32)).collect::<Date32Array>()),
        Arc::new(rows.clone().map(demand).collect::<Float64Array>()),
        Arc::new(rows.map(|row| Some(row >= days)).collect::<BooleanArray>()),
    ];
    RecordBatch::try_new(Arc::new(schema), columns).expect("columns of the schema")
}

fn suite(expectations: &str) -> String {
    format!("[suite]\nname = \"test\"\n{expectations}")
}

async fn bench(panel: RecordBatch, expectations: &str) -> TaskBench {
    let mut bench = TaskBench::new();
    bench.document("suite", &suite(expectations)).input_batches("ingest", PANEL, &[panel]).await;
    bench
}

/// Runs to the end whatever fails.
async fn warn(panel: RecordBatch, expectations: &str) -> Done {
    let bench = bench(panel, expectations).await;
    bench.run(Validate, json!({"suite": "test", "on_failure": "warn"})).await.expect("a verdict")
}

fn results(done: &Done) -> Vec<Value> {
    done.json(RESULT)["results"].as_array().expect("a list").clone()
}

/// Every expectation of the vocabulary, met by `panel(50)`.
const ALL_MET: &str = r#"
        [[expectation]]
        type = "expect_column_to_exist"
        column = "demand"
        [[expectation]]
        type = "expect_column_values_to_not_be_null"
        column = "demand"
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "demand"
        min = 0
        max = 99
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "time"
        min = 2010-01-01
        max = 2010-02-19
        [[expectation]]
        type = "expect_column_values_to_be_in_set"
        column = "series"
        value_set = ["a", "b", "c"]
        [[expectation]]
        type = "expect_column_values_to_match_regex"
        column = "series"
        regex = "^[a-z]$"
        [[expectation]]
        type = "expect_column_values_to_be_unique"
        column = "demand"
        [[expectation]]
        type = "expect_compound_columns_to_be_unique"
        column_list = ["series", "time"]
        [[expectation]]
        type = "expect_column_values_to_be_of_type"
        column = "demand"
        type_ = "Float64"
        [[expectation]]
        type = "expect_table_row_count_to_be_between"
        min = 100
        max = 100
        [[expectation]]
        type = "expect_column_mean_to_be_between"
        column = "demand"
        min = 49.5
        max = 49.5
        [[expectation]]
        type = "expect_column_min_to_be_between"
        column = "demand"
        max = 0
        [[expectation]]
        type = "expect_column_max_to_be_between"
        column = "time"
        min = 2010-02-19
        [[expectation]]
        type = "expect_column_sum_to_be_between"
        column = "demand"
        min = 4950
        max = 4950
        [[expectation]]
        type = "expect_column_stdev_to_be_between"
        column = "demand"
        min = 29.01
        max = 29.02
        [[expectation]]
        type = "expect_column_unique_value_count_to_be_between"
        column = "series"
        min = 2
        max = 2
        [[expectation]]
        type = "expect_column_proportion_of_non_null_values_to_be_between"
        column = "demand"
        min = 1
    "#;

#[tokio::test]
async fn a_clean_panel_passes_as_it_is() {
    let bench = bench(panel(50), ALL_MET).await;
    let done = bench.run(Validate, json!({"suite": "test"})).await.expect("the panel is as expected");
    let result = done.json(RESULT);
    assert_eq!(
        result["statistics"],
        json!({"evaluated": 17, "successful": 17, "unsuccessful": 0, "success_percent": 100.0})
    );
    assert_eq!(done.output.outputs["rows"], json!(100));
    assert_eq!(done.artifact(QUARANTINE).rows, Some(0));
    let untouched = bench.context().input(PANEL).expect("the input").artifact.digest;
    assert_eq!(done.artifact(PANEL).digest, untouched, "nothing was quarantined, so nothing was written anew");
}

#[tokio::test]
async fn every_failure_is_found_in_one_pass() {
    let expectations = r#"
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "demand"
        min = 3
        strict_min = true
        mostly = 0.99
        [[expectation]]
        type = "expect_column_values_to_not_be_null"
        column = "demand"
        [[expectation]]
        type = "expect_column_values_to_be_in_set"
        column = "series"
        value_set = ["a"]
        severity = "warning"
        [[expectation]]
        type = "expect_column_mean_to_be_between"
        column = "demand"
        max = 10
        [[expectation]]
        type = "expect_column_to_exist"
        column = "price"
        [[expectation]]
        type = "expect_table_row_count_to_be_between"
        max = 100
    "#;
    let demand = |row: usize| {
        if row == 7 {
            None
        } else if row == 8 {
            Some(f64::NAN)
        } else {
            Some(row as f64)
        }
    };
    let bench = bench(panel_with(50, demand), expectations).await;
    let context = bench.context();
    let mut kinds = Kinds::new();
    kinds.register(Validate);
    let error = kinds.run("validate", &context, json!({"suite": "test"})).await.expect_err("it failed");
    assert!(matches!(error, TaskError::Permanent { class: ErrorClass::Validation, .. }), "{error:?}");
    let message = error.to_string();
    for part in [
        "failed 4 of 6 expectations of suite \"test\"",
        "expect_column_values_to_be_between(demand): 4 of 98 rows (4.082 %) are unexpected, 1.000 % may be",
        "expect_column_values_to_not_be_null(demand): 2 of 100 rows",
        "expect_column_mean_to_be_between(demand): observed 50.3",
        "expect_column_to_exist(price)",
    ] {
        assert!(message.contains(part), "{part}\nis not in\n{message}");
    }
    assert!(!message.contains("in_set"), "a warning is not the reason: {message}");
    let names: Vec<_> = context.published().iter().map(|artifact| artifact.name.to_string()).collect();
    assert_eq!(names, [RESULT, QUARANTINE], "what explains the failure, and no panel");
}

#[tokio::test]
async fn rows_within_mostly_go_to_quarantine_and_the_rest_goes_on() {
    let expectations = r#"
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "demand"
        max = 97
        mostly = 0.9
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "time"
        max = 2010-02-18
        mostly = 0.9
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "demand"
        max = 90
        severity = "warning"
    "#;
    let bench = bench(panel(50), expectations).await;
    let with = json!({"suite": "test", "on_failure": "fail"});
    let done = bench.run(Validate, with.clone()).await.expect("within mostly");
    assert_eq!(
        done.output.outputs,
        json!({"success": true, "evaluated": 3, "unsuccessful": 1, "quarantined_rows": 3, "rows": 97})
    );
    let quarantine = done.batch(QUARANTINE);
    let rows = quarantine.column_by_name("row").expect("numbers").as_primitive::<Int64Type>().values().to_vec();
    assert_eq!(rows, [49, 98, 99]);
    let reasons: Vec<_> = quarantine.column_by_name("reason").expect("text").as_string::<i32>().iter().collect();
    let (demand, time) = ("expect_column_values_to_be_between(demand)", "expect_column_values_to_be_between(time)");
    assert_eq!(reasons, [Some(time), Some(demand), Some(&*format!("{demand}; {time}"))]);
    let clean = done.batch(PANEL);
    assert_eq!(clean.schema(), panel(50).schema());
    let expected = panel(50);
    let expected = concat_batches(&expected.schema(), &[expected.slice(0, 49), expected.slice(50, 48)]).expect("rows");
    assert_eq!(clean, expected, "the order is the panel's");
    let warning = &results(&done)[2];
    assert_eq!((&warning["severity"], &warning["success"]), (&json!("warning"), &json!(false)));
    assert_eq!(warning["result"]["partial_unexpected_index_list"], json!([91, 92, 93, 94, 95, 96, 97, 98, 99]));
    assert_eq!(warning["result"]["partial_unexpected_list"][0], json!(91.0));
    let again = bench.run(Validate, with).await.expect("within mostly");
    for name in [PANEL, QUARANTINE, RESULT] {
        assert_eq!(again.artifact(name).digest, done.artifact(name).digest, "{name}");
    }
}

#[tokio::test]
async fn repeated_keys_are_all_reported_wherever_they_are() {
    let expectations = r#"
        [[expectation]]
        type = "expect_compound_columns_to_be_unique"
        column_list = ["series", "time"]
        [[expectation]]
        type = "expect_column_values_to_be_unique"
        column = "demand"
        severity = "warning"
    "#;
    // Rows 0 and 30 again, far from where they were; and two rows without demand, which are no duplicates.
    let panel = panel_with(20, |row| (row % 10 != 5).then_some(row as f64));
    let panel = concat_batches(&panel.schema(), &[panel.clone(), panel.slice(0, 1), panel.slice(30, 1)]).expect("rows");
    let done = warn(panel, expectations).await;
    let results = results(&done);
    let compound = &results[0]["result"];
    assert_eq!(compound["unexpected_count"], json!(4));
    assert_eq!(compound["partial_unexpected_index_list"], json!([0, 30, 40, 41]));
    assert_eq!(compound["partial_unexpected_list"][1], json!({"series": "b", "time": "2010-01-11"}));
    let single = &results[1]["result"];
    assert_eq!((&single["unexpected_count"], &single["missing_count"]), (&json!(4), &json!(4)));
    assert_eq!(done.output.outputs["rows"], json!(38));
}

#[tokio::test]
async fn examples_are_the_first_twenty_of_a_large_panel() {
    let expectations = r#"
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "demand"
        max = 0
        row_condition = "NOT closed AND demand >= 9000"
    "#;
    // More rows than one batch of the scan has.
    let done = warn(panel(20_000), expectations).await;
    let result = &results(&done)[0]["result"];
    assert_eq!((&result["element_count"], &result["unexpected_count"]), (&json!(11_000), &json!(11_000)));
    let rows: Vec<u64> = serde_json::from_value(result["partial_unexpected_index_list"].clone()).expect("numbers");
    assert_eq!(rows, (9000..9020).collect::<Vec<_>>());
    assert_eq!(result["partial_unexpected_list"][19], json!(9019.0));
    assert_eq!(done.artifact(QUARANTINE).rows, Some(11_000));
    let demand = done.batch(PANEL).column(2).as_primitive::<Float64Type>().values().to_vec();
    assert!(demand == (0..9000).chain(20_000..40_000).map(f64::from).collect::<Vec<_>>());
}

#[tokio::test]
async fn an_expectation_that_does_not_fit_the_panel_fails_alone() {
    let expectations = r#"
        [[expectation]]
        type = "expect_column_values_to_not_be_null"
        column = "prise"
        [[expectation]]
        type = "expect_column_values_to_be_between"
        column = "series"
        min = 3
        [[expectation]]
        type = "expect_column_max_to_be_between"
        column = "time"
        min = "yesterday"
        [[expectation]]
        type = "expect_column_mean_to_be_between"
        column = "series"
        min = 3
        [[expectation]]
        type = "expect_column_values_to_match_regex"
        column = "demand"
        regex = "x"
        [[expectation]]
        type = "expect_column_values_to_not_be_null"
        column = "demand"
        row_condition = "price > 3"
        [[expectation]]
        type = "expect_column_values_to_be_of_type"
        column = "time"
        type_ = "utf8"
        [[expectation]]
        type = "expect_column_to_exist"
        column = "demand"
    "#;
    let done = warn(panel(5), expectations).await;
    let results = results(&done);
    let told = |at: usize| results[at]["exception_info"]["exception_message"].as_str().unwrap_or_default().to_owned();
    for (at, part) in [
        (0, "no column \"prise\"; there are: series, time, demand, closed"),
        (1, "3 can not be compared with \"series\", which is utf8"),
        (2, "\"yesterday\" can not be compared with \"time\", which is date32"),
        (3, "column \"series\" is utf8, not a number"),
        (4, "column \"demand\" is float64, not text"),
        (5, "row_condition \"price > 3\""),
    ] {
        assert!(told(at).contains(part), "{part}\nis not in\n{}", told(at));
        assert_eq!(results[at]["success"], json!(false));
    }
    assert_eq!(results[6]["result"]["observed_value"], json!("date32"));
    assert_eq!(results[7]["success"], json!(true));
    assert_eq!(done.output.outputs["unsuccessful"], json!(7));
}

#[tokio::test]
async fn freshness_counts_from_the_logical_time() {
    let age = |days: i64| {
        format!("[[expectation]]\ntype = \"expect_column_max_to_be_between\"\ncolumn = \"time\"\nmax_age_days = {days}")
    };
    // The bench's logical time is 2024-01-01; the panel ends on 2010-02-19, 5,064 days before.
    for (days, success) in [(5_064, true), (5_063, false)] {
        let done = warn(panel(50), &age(days)).await;
        let result = &results(&done)[0];
        assert_eq!(result["success"], json!(success), "{days}");
        assert_eq!(result["result"]["observed_value"], json!("2010-02-19"));
    }
}

#[tokio::test]
async fn an_empty_panel_has_no_figures_and_no_rows_to_blame() {
    let expectations = r#"
        [[expectation]]
        type = "expect_column_values_to_not_be_null"
        column = "demand"
        [[expectation]]
        type = "expect_column_mean_to_be_between"
        column = "demand"
        min = 0
        [[expectation]]
        type = "expect_table_row_count_to_be_between"
        min = 1
    "#;
    let done = warn(panel(0), expectations).await;
    let verdicts: Vec<_> = results(&done).iter().map(|result| result["success"].clone()).collect();
    assert_eq!(verdicts, [json!(true), json!(false), json!(false)]);
}

#[tokio::test]
async fn a_canceled_attempt_publishes_nothing() {
    let bench = bench(panel(5), "[[expectation]]\ntype = \"expect_column_to_exist\"\ncolumn = \"demand\"").await;
    bench.cancel().cancel();
    let ended = bench.run(Validate, json!({"suite": "test"})).await;
    assert!(matches!(ended.err(), Some(TaskError::Canceled)));
}

#[test]
fn a_suite_is_refused_with_everything_that_is_wrong() {
    let text = r#"
        title = "x"
        [suite]
        name = "broken"
        [[expectation]]
        type = "expect_column_values_to_be_betwen"
        column = "demand"
        [[expectation]]
        type = "expect_column_values_to_be_between"
        colunm = "demand"
        min_value = 3
        [[expectation]]
        type = "expect_column_values_to_not_be_null"
        column = "demand"
        mostly = 1.5
        severity = "fatal"
        [[expectation]]
        type = "expect_column_values_to_match_regex"
        column = "series"
        regex = "("
        [[expectation]]
        type = "expect_column_values_to_be_in_set"
        column = "series"
        value_set = []
        [[expectation]]
        type = "expect_column_mean_to_be_between"
        column = 3
        min = 5
        max = 4
        mostly = 0.9
        [[expectation]]
        column = "demand"
    "#;
    let problems = Suite::parse(text).expect_err("it is broken").problems;
    let expected = [
        "the suite: unknown key \"title\"; there are: suite, expectation",
        "number 1: type = \"expect_column_values_to_be_betwen\" is not known; did you mean \"expect_column_values_to_be_between\"?",
        "number 2 (expect_column_values_to_be_between): `column` is missing",
        "has neither `min` nor `max`",
        "unknown key \"colunm\"; did you mean \"column\"?",
        "unknown key \"min_value\"",
        "severity = \"fatal\" is not known; there are: error, warning",
        "mostly = 1.5 is no share of rows",
        "regex = \"(\" is no regular expression",
        "value_set = [] is not a list of numbers, texts or dates",
        "column = 3 is not a text",
        "min = 5 is above max = 4",
        "unknown key \"mostly\"",
        "number 7: `type` is missing",
    ];
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
    for (problem, part) in problems.iter().zip(expected) {
        assert!(problem.contains(part), "{part}\nis not in\n{problem}");
    }
    assert!(Suite::parse("[suite]\nname = \"empty\"").is_err(), "checks nothing");
    assert!(Suite::parse("[suite").is_err(), "no TOML");
}

#[test]
fn the_projects_suites_can_be_read() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dags/suites");
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).expect("the project's suites") {
        let path = entry.expect("an entry").path();
        let suite = Suite::parse(&std::fs::read_to_string(&path).expect("text"));
        let suite = suite.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(Some(suite.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()), "named after its file");
        names.push(suite.name);
    }
    names.sort();
    assert_eq!(names, ["drill", "retail_training", "rossmann_training"]);
}
