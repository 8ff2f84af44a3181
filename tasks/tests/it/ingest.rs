//! `ingest` from files to the panel and its reports: what is accepted, what is refused, and what is said of it.
//!
//! The equality over partitions is tested beside the code; here only what a DAG sees.

use std::fmt::Write as _;
use std::io::Write as _;
use std::sync::Arc;

use arrow::array::{AsArray, Float64Array, Int32Array, ListArray, RecordBatch, StringArray};
use arrow::datatypes::{Float64Type, Int32Type};
use arrow::util::pretty::pretty_format_batches;
use engine::task::{ErrorClass, Kinds, TaskError};
use headworks_tasks::ingest::Ingest;
use parquet::arrow::ArrowWriter;
use serde_json::{Value, json};
use testkit::{Done, TaskBench};

const CONTRACT: &str = r#"
[contract]
name = "shop"
version = 3
description = "Units per shop and day"
frequency = "D"

[source]
columns = { shop = "text", day = "date", sold = "number", open = "boolean" }

[grain]
shop = "shop"

[columns.time]
sql = "day"

[columns.demand]
sql = "sold"

[policies]
missing = "null"
gaps = "null"
after_last = "null"
duplicates = "fail"
exact_duplicates = "keep"
negative = "fail"
"#;

const SALES: &str = "shop,day,sold,open\nb,2024-01-02,4,1\na,2024-01-03,2.5,1\na,2024-01-01,1,1\n";

fn with(contract: &str, from: &str, to: &str) -> String {
    assert!(contract.contains(from), "{from:?} is not in the contract");
    contract.replace(from, to)
}

/// What a run left; its artifacts live as long as the bench.
struct Ran {
    done: Done,
    _bench: TaskBench,
}

impl std::ops::Deref for Ran {
    type Target = Done;
    fn deref(&self) -> &Done {
        &self.done
    }
}

async fn run(contract: &str, files: &[(&str, &[u8])]) -> Result<Ran, TaskError> {
    let mut bench = TaskBench::new();
    bench.document("contract", contract);
    for (path, bytes) in files {
        bench.source(path, bytes);
    }
    let done = bench.run(Ingest, json!({"source": files[0].0, "contract": "shop"})).await?;
    Ok(Ran { done, _bench: bench })
}

async fn refused(contract: &str, files: &[(&str, &[u8])]) -> String {
    match run(contract, files).await.map(|_| ()).expect_err("must be refused") {
        TaskError::Permanent { class: ErrorClass::Validation, message, .. } => message,
        other => panic!("not a refusal of the data: {other:?}"),
    }
}

fn table(done: &Done) -> String {
    let text = pretty_format_batches(&[done.batch("panel.parquet")]).expect("text").to_string();
    let rows = text.lines().skip(3).filter(|line| line.starts_with('|'));
    rows.map(|line| line.split_whitespace().collect::<String>() + "\n").collect()
}

#[tokio::test]
async fn a_panel_is_sorted_complete_and_accounted_for() {
    let done = run(CONTRACT, &[("sales.csv", SALES.as_bytes())]).await.expect("accepted");
    assert_eq!(
        table(&done),
        "|a|2024-01-01|1.0|\n|a|2024-01-02||\n|a|2024-01-03|2.5|\n|b|2024-01-02|4.0|\n|b|2024-01-03||\n"
    );
    let outputs = &done.output.outputs;
    assert_eq!((&outputs["rows_read"], &outputs["panel_rows"], &outputs["series"]), (&json!(3), &json!(5), &json!(2)));
    assert_eq!((&outputs["first_time"], &outputs["last_time"]), (&json!("2024-01-01"), &json!("2024-01-03")));
    assert_eq!(outputs["source"]["bytes"], json!(SALES.len()));
    let report = done.json("contract_validation_report.json");
    assert_eq!((&report["decisions"]["gaps"], &report["decisions"]["after_last"]), (&json!(1), &json!(1)));
    let snapshot = done.json("canonical_schema_snapshot.json");
    let roles: Vec<&Value> = snapshot["columns"].as_array().expect("columns").iter().map(|c| &c["role"]).collect();
    assert_eq!(roles, [&json!("series"), &json!("time"), &json!("demand")]);
    assert_eq!(done.json("column_lineage_map.json")["columns"]["demand"]["from"], json!(["source.sold"]));
}

#[tokio::test]
async fn the_same_rows_in_any_format_give_the_same_bytes() {
    let expected = run(CONTRACT, &[("sales.csv", SALES.as_bytes())]).await.expect("csv").bytes("panel.parquet");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(SALES.as_bytes()).expect("gzip");
    let gzip = gzip.finish().expect("gzip");
    let quoted = SALES.replace("\nb,", "\r\n\"b\",");
    let bom = format!("\u{feff}{SALES}\n\n");
    let lines = SALES.lines().skip(1).map(|line| line.split(',').collect::<Vec<_>>());
    let jsonl: String = lines.fold(String::new(), |mut text, cells| {
        let _ = writeln!(text, r#"{{"shop":"{}","day":"{}","sold":{},"open":true}}"#, cells[0], cells[1], cells[2]);
        text
    });
    let parquet = parquet_sales();
    for (name, bytes) in [
        ("sales.csv.gz", gzip.as_slice()),
        ("crlf.csv", quoted.as_bytes()),
        ("bom.csv", bom.as_bytes()),
        ("sales.jsonl", jsonl.as_bytes()),
        ("sales.parquet", parquet.as_slice()),
    ] {
        let done = run(CONTRACT, &[(name, bytes)]).await.unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(done.bytes("panel.parquet"), expected, "{name}");
    }
}

fn parquet_sales() -> Vec<u8> {
    let batch = RecordBatch::try_from_iter([
        ("shop", Arc::new(StringArray::from(vec!["b", "a", "a"])) as _),
        ("day", Arc::new(StringArray::from(vec!["2024-01-02", "2024-01-03", "2024-01-01"])) as _),
        ("sold", Arc::new(Float64Array::from(vec![4.0, 2.5, 1.0])) as _),
        ("open", Arc::new(Int32Array::from(vec![1, 1, 1])) as _),
    ]);
    to_parquet(&batch.expect("batch"))
}

fn to_parquet(batch: &RecordBatch) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = ArrowWriter::try_new(&mut bytes, batch.schema(), None).expect("writer");
    writer.write(batch).expect("write");
    writer.close().expect("close");
    bytes
}

#[tokio::test]
async fn broken_csv_is_refused_with_its_place() {
    let head = "shop,day,sold,open\na,2024-01-01,1,1\n";
    let cases: [(&str, Vec<u8>, &[&str]); 14] = [
        ("empty", Vec::new(), &["is empty"]),
        ("header only", b"shop,day,sold,open\n".into(), &["no row of data"]),
        ("delimiter", SALES.replace(',', ";").into(), &["set delimiter = \";\""]),
        (
            "missing column",
            SALES.replace("sold", "sales").into(),
            &["column sold is not there", "shop, day, sales, open"],
        ),
        ("duplicate header", SALES.replace("open", "sold").into(), &["two columns are called \"sold\""]),
        ("open quote", format!("{head}\"a,2024-01-02,1,1\n").into(), &["quote opened on line 3", "not closed"]),
        ("stray quote", format!("{head}\"a\"x,2024-01-02,1,1\n").into(), &["row 3", "closing quote"]),
        ("short row", format!("{head}a,2024-01-02\n").into(), &["row 3", "has 2 fields, the header has 4"]),
        (
            "three date formats",
            format!("{head}a,02/01/2024,1,1\na,3 Jan 2024,1,1\n").into(),
            &["2 date", "row 3, column day"],
        ),
        ("NaN", format!("{head}a,2024-01-02,NaN,1\n").into(), &["1 not_finite", "row 3, column sold"]),
        ("no number", format!("{head}a,2024-01-02,many,1\n").into(), &["1 number", "row 3"]),
        ("encoding", [head.as_bytes(), b"\xe9,2024-01-02,1,1\n"].concat(), &["row 3, column shop", "UTF-8"]),
        ("no shop", format!("{head},2024-01-02,1,1\n").into(), &["1 grain", "row 3"]),
        ("gzip cut", vec![0x1f, 0x8b, 8, 0, 0, 0], &["gzip"]),
    ];
    for (name, bytes, needles) in cases {
        let message = refused(CONTRACT, &[("sales.csv", &bytes)]).await;
        for needle in needles {
            assert!(message.contains(needle), "{name}: {needle:?} is not in {message:?}");
        }
    }
}

#[tokio::test]
async fn an_endless_quote_does_not_eat_the_memory() {
    let mut csv = String::from("shop,day,sold,open\n\"a,2024-01-01,1,1\n");
    csv.push_str(&"b,2024-01-01,1,1\n".repeat(200_000));
    let message = refused(CONTRACT, &[("sales.csv", csv.as_bytes())]).await;
    assert!(message.contains("larger than 1 MiB") && message.contains("opened on line 2"), "{message}");
}

#[tokio::test]
async fn rows_that_break_a_policy_are_named() {
    for (row, needles) in [
        ("a,2024-01-02,-3,1\n", ["1 negative", "series a, 2024-01-02"]),
        ("a,2024-01-01,2,1\n", ["1 duplicate", "first in row 4"]),
    ] {
        let message = refused(CONTRACT, &[("sales.csv", format!("{SALES}{row}").as_bytes())]).await;
        for needle in needles {
            assert!(message.contains(needle), "{needle:?} is not in {message:?}");
        }
    }
    let strict = with(CONTRACT, "missing = \"null\"", "missing = \"fail\"");
    let message = refused(&strict, &[("sales.csv", format!("{SALES}a,2024-01-02,,1\n").as_bytes())]).await;
    assert!(message.contains("1 missing") && message.contains("row 5"), "{message}");
}

#[tokio::test]
async fn bad_rows_can_be_left_out_and_are_still_shown() {
    let contract = with(CONTRACT, "[source]\n", "[source]\nbad_rows = \"quarantine\"\n");
    let csv = format!("{SALES}a,2024-01-02,lots,1\nc,2024-01-02\n");
    let done = run(&contract, &[("sales.csv", csv.as_bytes())]).await.expect("accepted");
    assert_eq!(done.output.outputs["rejected"]["bad_rows"], json!({"number": 1, "fields": 1}));
    let example = &done.json("contract_validation_report.json")["bad_rows"]["number"]["examples"][0];
    assert_eq!((&example["row"], &example["value"]), (&json!(5), &json!("lots")));
    assert!(done.text("contract_validation_report.md").contains("| number | 1 | sales.csv | 5 | sold | lots |"));
}

#[tokio::test]
async fn a_refusal_is_published_too() {
    let mut bench = TaskBench::new();
    bench.document("contract", CONTRACT).source("sales.csv", b"shop,day,sold,open\na,yesterday,1,1\n");
    let context = bench.context();
    let mut kinds = Kinds::new();
    kinds.register(Ingest);
    let outcome = kinds.run("ingest", &context, json!({"source": "sales.csv", "contract": "shop"})).await;
    assert!(outcome.is_err());
    let names: Vec<String> = context.published().iter().map(|artifact| artifact.name.to_string()).collect();
    assert_eq!(names, ["contract_validation_report.json", "contract_validation_report.md"]);
    let report = bench.artifacts().read(&context.published()[0]).await.expect("report");
    let report: Value = serde_json::from_slice(&report).expect("JSON");
    assert_eq!(report["status"], json!("refused"));
    assert_eq!(report["bad_rows"]["date"]["examples"][0]["value"], json!("yesterday"));
}

#[tokio::test]
async fn filters_gaps_and_closed_days_follow_the_contract() {
    let contract = with(CONTRACT, "gaps = \"null\"", "gaps = \"zero\"")
        + "[policies.closed]\nsql = \"NOT open\"\n[filter]\nreal = \"shop <> 'test'\"\n";
    let csv = format!("{SALES}test,2024-01-09,9,1\na,2024-01-04,0,0\n");
    let done = run(&contract, &[("sales.csv", csv.as_bytes())]).await.expect("accepted");
    assert_eq!(done.output.outputs["rejected"]["filtered"], json!({"real": 1}));
    let rows = table(&done);
    assert!(rows.contains("|a|2024-01-02|0.0||\n") && rows.contains("|a|2024-01-04||true|\n"), "{rows}");
    assert!(!rows.contains("2024-01-09"), "a row that does not count moved the end: {rows}");
}

#[tokio::test]
async fn closed_days_by_the_calendar_cover_days_without_rows() {
    let contract = CONTRACT.to_owned() + "[policies.closed]\ngrid = \"date_part('dow', time) = 2\"\n";
    let rows = table(&run(&contract, &[("sales.csv", SALES.as_bytes())]).await.expect("accepted"));
    // 2024-01-02 is a Tuesday: no row for a, and b's four units contradict the calendar.
    assert!(rows.contains("|a|2024-01-02||true|\n") && rows.contains("|b|2024-01-02||true|\n"), "{rows}");
}

const SIDE: &str = r#"
[side.shops]
path = "shops.csv"
key = { id = "shop" }
columns = { id = "text", size = "number" }

[columns.size]
sql = "shops.size"
role = "static"
"#;

#[tokio::test]
async fn side_tables_join_by_a_key_that_is_unique_and_known() {
    let contract = CONTRACT.to_owned() + SIDE;
    let sales = ("in/sales.csv", SALES.as_bytes());
    let good = run(&contract, &[sales, ("in/shops.csv", b"id,size\na,10\nb,20\n")]).await.expect("accepted");
    assert!(table(&good).starts_with("|a|2024-01-01|1.0|10.0|\n|a|2024-01-02||10.0|\n"), "{}", table(&good));
    let twice = refused(&contract, &[sales, ("in/shops.csv", b"id,size\na,10\na,11\nb,20\n")]).await;
    assert!(twice.contains("side table shops: 1 keys"), "{twice}");
    let unknown = refused(&contract, &[sales, ("in/shops.csv", b"id,size\na,10\n")]).await;
    assert!(unknown.contains("1 source rows have no match in side table shops"), "{unknown}");
    let lenient = with(&contract, "[side.shops]\n", "[side.shops]\nunmatched = \"null\"\n");
    let done = run(&lenient, &[sales, ("in/shops.csv", b"id,size\na,10\n")]).await.expect("accepted");
    assert!(table(&done).contains("|b|2024-01-02|4.0||\n"), "{}", table(&done));
    let missing = refused(&contract, &[sales]).await;
    assert!(missing.contains("shops.csv: is not there"), "{missing}");
}

#[tokio::test]
async fn exact_duplicates_are_dropped_and_the_rest_is_summed() {
    let contract = with(CONTRACT, "exact_duplicates = \"keep\"", "exact_duplicates = \"drop\"");
    let contract = with(&contract, "duplicates = \"fail\"", "duplicates = \"sum\"");
    let csv = format!("{SALES}a,2024-01-01,1,1\na,2024-01-01,0.25,1\n");
    let done = run(&contract, &[("sales.csv", csv.as_bytes())]).await.expect("accepted");
    assert!(table(&done).starts_with("|a|2024-01-01|1.25|\n"), "{}", table(&done));
    assert_eq!(done.output.outputs["rejected"]["exact_duplicates"], json!(1));
}

#[tokio::test]
async fn sql_that_does_not_fit_is_reported_all_at_once() {
    let contract = with(CONTRACT, "sql = \"sold\"", "sql = \"solt\"");
    let contract = with(&contract, "shop = \"shop\"\n\n[columns", "shop = \"upper(\"\n\n[columns");
    let contract = with(&contract, "duplicates = \"fail\"", "duplicates = \"sum\"")
        + "[columns.mean]\naggregate = \"avg(sold)\"\nrole = \"past_only\"\n";
    let message = refused(&contract, &[("sales.csv", SALES.as_bytes())]).await;
    for needle in ["grain.shop", "columns.demand.sql", "solt", "columns.mean.aggregate", "order of the rows"] {
        assert!(message.contains(needle), "{needle:?} is not in {message:?}");
    }
}

#[tokio::test]
async fn damaged_parquet_is_refused_wherever_it_is_cut() {
    let whole = parquet_sales();
    for cut in 1..=64 {
        let message = refused(CONTRACT, &[("sales.parquet", &whole[..whole.len() - cut])]).await;
        assert!(message.contains("cut") || message.contains("damaged"), "{cut}: {message}");
    }
    let wrong = refused(CONTRACT, &[("sales.parquet", SALES.as_bytes())]).await;
    assert!(wrong.contains("is no Parquet file"), "{wrong}");
    let mut footer = whole.clone();
    let at = footer.len() - 8;
    footer[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
    assert!(refused(CONTRACT, &[("sales.parquet", &footer)]).await.contains("footer claims"));
}

#[tokio::test]
async fn parquet_values_must_survive_their_type() {
    let batch = RecordBatch::try_from_iter([
        ("shop", Arc::new(StringArray::from(vec!["a", "a"])) as _),
        ("day", Arc::new(StringArray::from(vec!["2024-01-01", "soon"])) as _),
        ("sold", Arc::new(Float64Array::from(vec![f64::NAN, 1.0])) as _),
        ("open", Arc::new(Int32Array::from(vec![1, 1])) as _),
    ]);
    let message = refused(CONTRACT, &[("sales.parquet", &to_parquet(&batch.expect("batch")))]).await;
    assert!(message.contains("1 date") && message.contains("1 not_finite"), "{message}");
}

#[tokio::test]
async fn what_sql_can_not_read_asks_for_an_adapter() {
    let sold = ListArray::from_iter_primitive::<Int32Type, _, _>([Some(vec![Some(1)])]);
    let batch = RecordBatch::try_from_iter([
        ("shop", Arc::new(StringArray::from(vec!["a"])) as _),
        ("day", Arc::new(StringArray::from(vec!["2024-01-01"])) as _),
        ("sold", Arc::new(sold) as _),
        ("open", Arc::new(Int32Array::from(vec![1])) as _),
    ]);
    let nested = refused(CONTRACT, &[("sales.parquet", &to_parquet(&batch.expect("batch")))]).await;
    assert!(nested.contains("requires_custom_adapter") && nested.contains("nested"), "{nested}");
    let workbook = refused(CONTRACT, &[("sales.csv", b"PK\x03\x04rest")]).await;
    assert!(workbook.contains("requires_custom_adapter") && workbook.contains("Excel"), "{workbook}");
    assert!(refused(CONTRACT, &[("sales.xlsx", b"x")]).await.contains("requires_custom_adapter"));
}

#[tokio::test]
async fn folders_are_read_as_one_source() {
    let mut bench = TaskBench::new();
    bench.document("contract", CONTRACT);
    bench.source("in/1.csv", b"shop,day,sold,open\na,2024-01-01,1,1\n");
    bench.source("in/2.csv", b"open,sold,day,shop\n1,2,2024-01-02,a\n");
    let done = bench.run(Ingest, json!({"source": "in", "contract": "shop"})).await.expect("accepted");
    let demand = done.batch("panel.parquet")["demand"].as_primitive::<Float64Type>().values().to_vec();
    assert_eq!(demand, [1.0, 2.0]);
    bench.source("in/3.csv", b"shop,day,sold,open\na,2024-01-02,x,1\n");
    let error =
        bench.run(Ingest, json!({"source": "in/*.csv", "contract": "shop"})).await.map(|_| ()).expect_err("bad");
    assert!(error.to_string().contains("in/3.csv row 2"), "{error}");
}

#[tokio::test]
async fn a_canceled_ingest_says_so() {
    let mut bench = TaskBench::new();
    bench.document("contract", CONTRACT).source("sales.csv", SALES.as_bytes());
    bench.cancel().cancel();
    let error = bench.run(Ingest, json!({"source": "sales.csv", "contract": "shop"})).await.map(|_| ());
    assert!(matches!(error, Err(TaskError::Canceled)), "{error:?}");
}

#[test]
fn the_bundled_contracts_parse() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../dags/contracts");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).expect("dags/contracts") {
        let path = entry.expect("entry").path();
        let text = std::fs::read_to_string(&path).expect("text");
        let contract = headworks_tasks::contract::Contract::parse(&text).unwrap_or_else(|e| panic!("{path:?}: {e}"));
        assert_eq!(Some(contract.contract.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
        seen += 1;
    }
    assert!(seen >= 2, "only {seen} contracts");
}
