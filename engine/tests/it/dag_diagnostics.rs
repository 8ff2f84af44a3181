//! Every mistake in a DAG's file is found at once, with its place and how to mend it.

use headworks_engine::dag::{Dag, Diagnostics, Severity, lower, lower_bytes};
use proptest::prelude::*;

use crate::kinds::test_kinds;

const GOOD: &str = include_str!("fixtures/retail_demand.toml");
const TEN: &str = include_str!("fixtures/ten_mistakes.toml");

fn lower_text(file: &str, source: &str) -> Result<(Dag, Diagnostics), Diagnostics> {
    lower(file, source, &test_kinds())
}

/// Codes of what is found in `source`, in order.
fn codes(source: &str) -> Vec<&'static str> {
    let found = match lower_text("x.toml", source) {
        Ok((_, warnings)) => warnings,
        Err(diagnostics) => diagnostics,
    };
    assert_placed(&found);
    found.items.iter().map(|item| item.code).collect()
}

/// Each has a place inside the file, a label and help.
fn assert_placed(diagnostics: &Diagnostics) {
    for item in &diagnostics.items {
        assert!(item.span.start <= item.span.end && item.span.end <= diagnostics.source.len(), "{item:?}");
        assert!(diagnostics.source.get(item.span.clone()).is_some(), "{item:?}");
        assert!(!item.message.is_empty() && !item.label.is_empty() && !item.help.is_empty(), "{item:?}");
    }
}

/// A small DAG around `task`, a body of `[tasks.t]`.
fn around(task: &str) -> String {
    format!(
        "[dag]\nid = \"x\"\n[params]\nhorizon = {{ type = \"integer\", default = 28 }}\n\
         [defaults]\ntimeout = \"1h\"\nretries = 1\n\
         [tasks.up]\nkind = \"work\"\nwith = {{ makes = [\"a.json\"] }}\n\
         [tasks.t]\nkind = \"work\"\nneeds = [\"up\"]\n{task}\n"
    )
}

#[test]
fn the_sample_pipeline_has_no_mistakes() {
    let (dag, warnings) = lower_text("dags/retail_demand.toml", GOOD).expect("good");
    assert_eq!(warnings.items, []);
    assert_eq!(dag.graph.node_count(), 7);
}

#[test]
fn ten_mistakes_are_ten_diagnostics() {
    let diagnostics = lower_text("dags/ten_mistakes.toml", TEN).expect_err("mistakes");
    assert_placed(&diagnostics);
    let rows = diagnostics.rows();
    let seen = rows.iter().map(|row| (row.line, row.column, row.code)).collect::<Vec<_>>();
    let expected = [
        (3, 12, "dag::bad_duration"),
        (6, 41, "dag::bad_param"),
        (10, 32, "dag::bad_value"),
        (13, 8, "dag::unknown_kind"),
        (18, 1, "dag::unknown_key"),
        (24, 22, "dag::unknown_need"),
        (25, 23, "dag::unknown_reference"),
        (29, 10, "dag::cycle"),
        (42, 16, "dag::bad_value"),
        (43, 18, "dag::bad_parameter"),
    ];
    assert_eq!(seen, expected, "{rows:#?}");
    assert!(rows.iter().all(|row| row.severity == Severity::Error && row.file == "dags/ten_mistakes.toml"));
    let help = |code: &str| &rows.iter().find(|row| row.code == code).expect(code).help;
    assert!(help("dag::unknown_kind").contains("\"ingest\""));
    assert!(help("dag::unknown_key").contains("\"needs\""));
    assert!(help("dag::unknown_reference").contains("\"horizon\""));
    let cycle = rows.iter().find(|row| row.code == "dag::cycle").expect("cycle");
    assert!(cycle.message.contains("left -> middle -> right -> left"), "{}", cycle.message);
}

/// A body of `[tasks.t]`, and what is wrong with it.
const TASKS: &[(&str, &str)] = &[
    ("retries = 1e9", "dag::wrong_type"),
    ("retries = 1000000000", "dag::out_of_range"),
    ("retries = 99999999999999999999999", "dag::out_of_range"),
    ("retries = -1", "dag::out_of_range"),
    ("retries = { jitter = 1.5 }", "dag::out_of_range"),
    ("retries = { jitter = nan }", "dag::out_of_range"),
    ("retries = { retry_on = \"all\" }", "dag::bad_value"),
    ("retries = { initial = \"1h\", max_delay = \"1m\" }", "dag::out_of_range"),
    ("timeout = \"-1s\"", "dag::bad_duration"),
    ("timeout = \"0\"", "dag::bad_duration"),
    ("timeout = \"99999999999999999999h\"", "dag::bad_duration"),
    ("timeout = 30", "dag::wrong_type"),
    ("timeout = { attemt = \"1m\" }", "dag::unknown_key"),
    ("pool = \"../x\"", "dag::bad_id"),
    ("priority = 5000", "dag::out_of_range"),
    ("isolation = \"docker\"", "dag::bad_value"),
    ("cache = \"yes\"", "dag::wrong_type"),
    ("max_in_flight = 0", "dag::out_of_range"),
    ("if = \"x > 3\"", "dag::bad_condition"),
    ("if = 3", "dag::bad_condition"),
    ("if = \"{{#if params.horizon}}true{{/if}}\"", "dag::bad_template"),
    ("if = \"{{tasks.t.outputs.x}}\"", "dag::unknown_reference"),
    ("for_each = \"{{tasks.nobody.outputs.folds}}\"", "dag::unknown_reference"),
    ("for_each = \"folds of {{tasks.up.outputs.name}}\"", "dag::bad_value"),
    ("for_each = \"{{params.list}}\"", "dag::unknown_reference"),
    ("matrix = { a = [] }", "dag::empty_matrix"),
    ("matrix = {}", "dag::empty_matrix"),
    ("matrix = { a = [1, 1] }", "dag::duplicate_element"),
    ("matrix = { \"../a\" = [1] }", "dag::bad_id"),
    ("matrix = { a = \"b\" }", "dag::wrong_type"),
    ("with = { note = \"{{matrix.model}}\" }", "dag::unknown_reference"),
    ("matrix = { a = [1] }\nwith = { note = \"{{matrix.b}}\" }", "dag::unknown_reference"),
    ("with = { note = \"{{run.idd}}\" }", "dag::unknown_reference"),
    ("with = { note = \"{{env.HOME}}\" }", "dag::unknown_reference"),
    ("with = { note = \"{{tasks.up.state}}\" }", "dag::unknown_reference"),
    ("with = { note = \"{{tasks.upp.outputs}}\" }", "dag::unknown_reference"),
    ("with = { note = \"{{params.horizon\" }", "dag::bad_template"),
    ("with = { note = \"{{lookup params horizon}}\" }", "dag::bad_template"),
    ("with = { note = { \"{{params.horizon}}\" = 1 } }", "dag::bad_template"),
    ("with = { note = inf }", "dag::out_of_range"),
    ("with = { note = 9223372036854775808 }", "dag::out_of_range"),
    ("with = { note = \"a\\u0000b\" }", "dag::nul"),
    ("with = { notee = 1 }", "dag::unknown_parameter"),
    ("with = { reads = \"a.json\" }", "dag::bad_parameter"),
    ("with = { reads = [\"b.json\"] }", "dag::missing_input"),
    ("with = { reads = [{ secret = \"x\" }] }", "dag::secret_not_here"),
    ("with = { note = { token = { secret = \"x\" } } }", "dag::secret_not_here"),
    ("with = { secret = \"x\" }", "dag::unknown_parameter"),
    ("matrix = { a = [{ secret = \"x\" }] }", "dag::secret_not_here"),
    ("if = { secret = \"x\" }", "dag::bad_condition"),
    ("for_each = { secret = \"x\" }", "dag::wrong_type"),
    ("with = { note = \"{{secret.x}}\" }", "dag::unknown_reference"),
    ("with = \"a\"", "dag::wrong_type"),
    ("[tasks.u]\nkind = \"ingest\"\nwith = { contract = \"c\" }", "dag::missing_parameter"),
    ("[tasks.\"../x\"]\nkind = \"work\"", "dag::bad_id"),
    ("[tasks.\"a/b\"]\nkind = \"work\"", "dag::bad_id"),
    ("[tasks.\"-rf\"]\nkind = \"work\"", "dag::bad_id"),
    ("[tasks.\"a\u{202e}b\"]\nkind = \"work\"", "dag::bad_id"),
    ("[tasks.\"a\\u0000b\"]\nkind = \"work\"", "dag::bad_id"),
    ("[tasks.u]\nneeds = [\"t\"]", "dag::missing_key"),
    ("[tasks]\nu = 1", "dag::wrong_type"),
    ("[tasks.u]\nkind = \"work\"\nneeds = [\"u\"]", "dag::self_edge"),
    ("[tasks.u]\nkind = \"work\"\nneeds = [\"t\", \"t\"]", "dag::duplicate_need"),
    ("[tasks.u]\nkind = \"work\"\nneeds = \"t\"", "dag::wrong_type"),
    ("kind = \"work\"", "dag::syntax"),
    ("[extra]", "dag::unknown_key"),
    ("[schedule]\ncron = \"15 2 * *\"", "dag::bad_schedule"),
    ("[schedule]\ncron = \"15 2 * * $\"", "dag::bad_schedule"),
    ("[schedule]\ncron = \"@nightly\"", "dag::bad_schedule"),
    ("[schedule]\ntimezone = \"UTC\"", "dag::bad_schedule"),
    ("[schedule]\ncron = \"@daily\"\nevery = \"1h\"", "dag::bad_schedule"),
    ("[schedule]\ncron = \"@daily\"\ntimezone = \"Mars; rm -rf\"", "dag::bad_schedule"),
    ("[schedule]\ncron = \"@daily\"\ndst = { gap = \"last\" }", "dag::bad_value"),
    ("[schedule]\ncron = \"@daily\"\ncatchup = true", "dag::wrong_type"),
    ("[schedule]\ncron = \"@daily\"\ntenants = { status = [\"actve\"] }", "dag::bad_value"),
    ("[schedule]\ncron = \"@daily\"\ncalendars = { exclude = [\"A B\"] }", "dag::bad_id"),
];

#[test]
fn each_mistake_in_a_task_has_its_code() {
    for (task, code) in TASKS {
        assert_eq!(codes(&around(task)), [*code], "{task}");
    }
}

#[test]
fn params_are_declared_with_care() {
    let cases = [
        ("{ type = \"integer\", default = \"x\" }", "dag::bad_param"),
        ("{ type = \"integer\", default = 1.5 }", "dag::bad_param"),
        ("{ type = \"integer\", minimum = 5, maximum = 4 }", "dag::bad_param"),
        ("{ type = \"integer\", default = 9, maximum = 4 }", "dag::bad_param"),
        ("{ type = \"string\", minimum = 1 }", "dag::bad_param"),
        ("{ type = \"string\", enum = [] }", "dag::bad_param"),
        ("{ type = \"string\", enum = [\"a\", 1] }", "dag::bad_param"),
        ("{ type = \"string\", enum = [\"a\"], default = \"b\" }", "dag::bad_param"),
        ("{ type = \"int\" }", "dag::bad_value"),
        ("{ default = 1 }", "dag::missing_key"),
        ("{ type = \"integer\", deflt = 1 }", "dag::unknown_key"),
        ("28", "dag::wrong_type"),
    ];
    for (declared, code) in cases {
        let source = around("").replace("[defaults]", &format!("extra = {declared}\n[defaults]"));
        assert_eq!(codes(&source), [code], "{declared}");
    }
}

#[test]
fn the_heading_is_checked() {
    let cases = [
        ("id = \"x\"", "", "dag::missing_key"),
        ("id = \"x\"", "id = \"y\"", "dag::id_differs"),
        ("id = \"x\"", "id = \"../x\"", "dag::bad_id"),
        ("id = \"x\"", "id = 5", "dag::wrong_type"),
        ("id = \"x\"", "id = \"x\"\nmax_active_runs = 0", "dag::out_of_range"),
        ("id = \"x\"", "id = \"x\"\ntags = [1]", "dag::wrong_type"),
        ("id = \"x\"", "id = \"x\"\nid = \"x\"", "dag::syntax"),
    ];
    for (from, to, code) in cases {
        assert_eq!(codes(&around("").replacen(from, to, 1)), [code], "{to}");
    }
    assert_eq!(codes(""), ["dag::missing_key", "dag::missing_key"]);
    assert_eq!(codes("[dag]\nid = \"x\"\n[tasks]\n"), ["dag::no_tasks"]);
}

#[test]
fn an_oversized_id_makes_a_short_message() {
    let source = around(&format!("[tasks.{}]\nkind = \"work\"", "x".repeat(10_000)));
    let diagnostics = lower_text("x.toml", &source).expect_err("bad id");
    assert!(diagnostics.items.iter().all(|item| item.message.len() < 500 && item.help.len() < 500));
}

#[test]
fn values_of_a_matrix_are_judged_before_a_run() {
    let source = GOOD.replace("\"gbdt\"", "\"gdbt\"");
    let diagnostics = lower_text("retail_demand.toml", &source).expect_err("no such model");
    let [only] = diagnostics.items.as_slice() else { panic!("{:#?}", diagnostics.items) };
    assert_eq!((only.code, only.help.contains("did you mean \"gbdt\"?")), ("dag::bad_parameter", true), "{only:?}");
}

#[test]
fn a_kind_judges_its_parameters_as_a_whole() {
    let source = GOOD.replace("lags = [28, 35", "lags = [28, 7");
    let diagnostics = lower_text("retail_demand.toml", &source).expect_err("a lag below the horizon");
    let [only] = diagnostics.items.as_slice() else { panic!("{:#?}", diagnostics.items) };
    assert_eq!(&source[only.span.clone()], "7");
}

#[test]
fn a_secret_stands_where_its_kind_takes_one_and_is_a_name() {
    let ingest = |password: &str| {
        codes(&around(&format!("[tasks.in]\nkind = \"ingest\"\nwith = {{ source = \"s\", password = {password} }}")))
    };
    assert_eq!(ingest("{ secret = \"db-1\" }"), [""; 0]);
    for wrong in [
        "{ secret = \"Db\" }",
        "{ secret = \"../db\" }",
        "{ secret = \"{{tenant.id}}\" }",
        "{ secret = 7 }",
        "{ secret = { secret = \"db\" } }",
        "{ secret = \"db\", default = \"x\" }",
        "{ secret = \"\" }",
    ] {
        assert_eq!(ingest(wrong)[0], "dag::bad_secret", "{wrong}");
    }
    assert_eq!(ingest("{ secrets = \"db\" }"), ["dag::bad_parameter"]);
    let source = around("[tasks.in]\nkind = \"ingest\"\nwith = { source = { secret = \"db\" } }");
    let diagnostics = lower_text("x.toml", &source).expect_err("no place for a secret");
    let [only] = diagnostics.items.as_slice() else { panic!("{:#?}", diagnostics.items) };
    assert_eq!((only.code, &source[only.span.clone()]), ("dag::secret_not_here", "{ secret = \"db\" }"));
    assert!(only.help.contains("at password"), "{only:?}");
    // The kind judges what stands there, not what stands in for a reference that is refused.
    assert_eq!(codes(&source.replace("{ secret = \"db\" }", "\"***\"")), ["dag::bad_parameter"]);
}

#[test]
fn warnings_do_not_refuse() {
    let cases = [
        ("timeout = \"1h\"", "", vec!["lint::no_timeout"]),
        ("retries = 1", "", vec![]),
        ("kind = \"work\"\nwith = { makes", "kind = \"ingest\"\nwith = { source = \"s\" }\n#", vec![]),
    ];
    for (from, to, expected) in cases {
        assert_eq!(codes(&around("").replacen(from, to, 1)), expected, "{to}");
    }
    let ingest = "[tasks.in]\nkind = \"ingest\"\nwith = { source = \"s\", password = \"hunter2\" }";
    assert_eq!(codes(&around(ingest)), ["lint::plain_secret"]);
    let ingest = "[tasks.in]\nkind = \"ingest\"\nwith = { source = \"s\" }";
    assert_eq!(codes(&around(ingest).replacen("retries = 1\n", "", 1)), ["lint::no_retries"]);
    let cached = "[tasks.in]\nkind = \"ingest\"\ncache = true\nwith = { source = \"s\" }";
    assert_eq!(codes(&around(cached)), ["lint::cache_without_effect"]);
    let unread = "[tasks.v]\nkind = \"ingest\"\nwith = { source = \"s\" }\n\
                  [tasks.w]\nkind = \"work\"\nneeds = [\"v\", \"up\"]\nwith = { reads = [\"a.json\"] }";
    assert_eq!(codes(&around(unread)), ["lint::unread_output"]);
}

#[test]
fn broken_toml_is_judged_key_by_key() {
    let source =
        "[dag]\nid = \n[tasks.a\nkind = \"work\"\n[tasks.b]\nkind = \"work\"\nneeds = [\"a\"]\ntimeout = \"1 hour\"\n";
    let found = codes(source);
    assert!(found.contains(&"dag::syntax") && found.contains(&"dag::bad_duration"), "{found:?}");
    assert!(!found.contains(&"dag::unknown_need"), "a's header is broken, not its name: {found:?}");
    assert!(codes("a = \"x\0y\"\n").contains(&"dag::syntax"), "a NUL in a string");
}

#[test]
fn bytes_that_are_no_text_are_a_diagnostic() {
    let diagnostics = lower_bytes("x.toml", b"[dag]\nid = \"\xff\"", &test_kinds()).expect_err("no text");
    assert_eq!(diagnostics.rows()[0].code, "dag::not_utf8");
    assert_eq!((diagnostics.rows()[0].line, diagnostics.rows()[0].column), (2, 7));
}

/// One mistake each: a text of the good file, and what to put in its place.
const MISTAKES: [(&str, &str); 24] = [
    ("kind = \"ingest\"", "kind = \"\""),
    ("[tasks.train]", "[tasks.Train]"),
    ("needs = [\"validate\"]", "needs = [\"valid\"]"),
    ("needs = [\"features\"]", "needs = [\"report\"]"),
    ("needs = [\"features\"]", "needs = []"),
    ("needs = [\"train\"]", "needs = [\"features\"]"),
    ("timeout = \"30m\"", "timeout = \"30\""),
    ("retries = { max = 2", "retries = { max = \"2\""),
    ("max_delay = \"5m\"", "max_delay = \"1s\""),
    ("trigger_rule = \"all_done\"", "trigger_rule = \"done\""),
    ("{{params.horizon}}", "{{params.horizont}}"),
    ("{{matrix.model}}", "{{matrix.modle}}"),
    ("{{lt tasks.evaluate.outputs.best_wape 0.5}}", "{{lt tasks.report.outputs.x 0.5}}"),
    ("suite = \"training_data\"", "suit = \"training_data\""),
    ("on_failure = \"fail\"", "on_failure = \"stop\""),
    ("lags = [28, 35, 42, 364]", "lags = [28, \"35\"]"),
    ("windows = 3", "windows = 0"),
    ("gate = \"demand_default\"", ""),
    ("default = 28", "default = 0"),
    ("type = \"integer\"", "type = \"integr\""),
    ("cron = \"15 2 * * *\"", "cron = \"15 2\""),
    ("matrix = { model = [", "matrix = { modal = ["),
    ("deadline = \"3h\"", "deadline = \"3 h\""),
    ("id = \"retail_demand\"", "id = \"retail\""),
];

proptest! {
    #[test]
    fn any_single_mistake_is_found_inside_the_file(which in 0..MISTAKES.len(), comment in "[ -~\u{e4}]{0,20}") {
        let (from, to) = MISTAKES[which];
        prop_assert!(GOOD.contains(from));
        let source = format!("# {comment}\n{}", GOOD.replacen(from, to, 1));
        let diagnostics = lower_text("retail_demand.toml", &source).expect_err(to);
        prop_assert!(diagnostics.has_errors());
        assert_placed(&diagnostics);
    }

    #[test]
    fn arbitrary_text_never_panics(text in "\\PC{0,200}") {
        assert_placed(&lower_text("x.toml", &text).expect_err("no DAG"));
    }

    #[test]
    fn a_mangled_file_never_panics(at in 0..GOOD.len(), cut in 0..40_usize, put in "[\\[\\]{}=.,\"'#\n a-z0-9\u{e4}]{0,8}") {
        let end = (at + cut).min(GOOD.len());
        let source = format!("{}{put}{}", &GOOD[..at], &GOOD[end..]);
        match lower_text("retail_demand.toml", &source) {
            Ok((_, found)) | Err(found) => assert_placed(&found),
        }
    }
}
