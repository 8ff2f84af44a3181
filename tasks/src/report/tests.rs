//! The report as a whole, through the task: with everything, with nothing, with parts, with hostile
//! data, twice. No browser is needed: what must hold is read from the HTML.

use std::sync::Arc;

use arrow::array::{ArrayRef, Date32Array, Float64Array, Int32Array, StringArray};
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use testkit::{Done, TaskBench};

use crate::report::ReportTask;

/// 2011-09-16, a day before the first forecast.
const FIRST_ORIGIN: i32 = 15_233;
const HORIZON: i32 = 28;
const WINDOWS: i32 = 3;
/// What ends an element, an attribute or a string, or loads from elsewhere, if any escaping is missing.
const HOSTILE: &str = "</script><script>alert('x')</script>\"'<img src=http://evil.example/x>&amp;\u{202e}";

/// Numbers that look drawn and are the same each time: a linear congruential generator.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// A backtest of `model` over weekly demand of mixed sizes; `noise` is how wrong it is.
fn backtest(model: &str, noise: f64, names: &[String]) -> RecordBatch {
    let (mut draw, mut wrong) = (Draw(7), Draw(noise.to_bits()));
    let (mut origins, mut series, mut times, mut steps) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut actuals, mut points) = (Vec::new(), Vec::new());
    for window in 0..WINDOWS {
        let origin = FIRST_ORIGIN + window * HORIZON;
        for (nth, name) in names.iter().enumerate() {
            let size = 400.0 / (1.0 + nth as f64).powf(1.1);
            for step in 1..=HORIZON {
                let time = origin + step;
                let week = [1.0, 0.8, 0.0, 0.9, 1.1, 1.4, 1.7][time.rem_euclid(7) as usize];
                let mean = size * week * (1.0 + 0.004 * f64::from(time - FIRST_ORIGIN));
                let sold = if size < 12.0 && draw.next() < 0.6 { 0.0 } else { mean * (0.75 + 0.5 * draw.next()) };
                let slip = (1.0 + noise * 4.0 * (wrong.next() - 0.5)) * (1.0 - noise * 0.3 * f64::from(step) / 28.0);
                origins.push(origin);
                series.push(name.clone());
                times.push(time);
                steps.push(step);
                // One closed day per window: its demand is not known.
                actuals.push((step != 11).then(|| sold.round()));
                points.push(mean * slip);
            }
        }
    }
    let rows = origins.len();
    let columns: [(&str, ArrayRef); 8] = [
        ("model", Arc::new(StringArray::from(vec![model; rows]))),
        ("origin", Arc::new(Date32Array::from(origins))),
        ("series", Arc::new(StringArray::from(series))),
        ("time", Arc::new(Date32Array::from(times))),
        ("step", Arc::new(Int32Array::from(steps))),
        ("actual", Arc::new(Float64Array::from(actuals))),
        ("point", Arc::new(Float64Array::from(points))),
        ("train_scale", Arc::new(Float64Array::from(vec![Some(10.0); rows]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, column)| (name, column, true)))
        .expect("columns of one length")
}

fn series_names(count: usize) -> Vec<String> {
    (0..count).map(|nth| format!("{}{}", 20_000 + nth * 37, ["", "A", "B"][nth % 3])).collect()
}

fn metric(model: &str, origin: &str, slice: &str, wape: f64, bias: f64) -> Value {
    json!({"model": model, "origin": origin, "slice": slice, "wape": wape, "smape": wape * 1.1, "mae": wape * 17.0,
           "rmse": wape * 30.0, "mase": wape * 2.0, "bias": bias, "rows": 4860, "left_out": 180})
}

fn metrics() -> Value {
    let mut rows = Vec::new();
    for (model, wape, bias) in
        [("gbdt", 0.262, -0.021), ("seasonal_naive", 0.431, 0.034), ("weekday_mean", 0.347, 0.012)]
    {
        for (nth, origin) in ["2011-09-16", "2011-10-14", "2011-11-11", "pooled"].into_iter().enumerate() {
            rows.push(metric(model, origin, "all", wape * (1.0 + 0.06 * nth as f64), bias));
        }
        rows.push(metric(model, "pooled", "total", wape / 4.0, bias));
        for (nth, slice) in ["h1-7", "h8-14", "h15-21", "h22-28"].into_iter().enumerate() {
            rows.push(metric(model, "pooled", slice, wape * (0.9 + 0.07 * nth as f64), bias));
        }
        for (slice, factor) in
            [("abc-a", 0.8), ("abc-b", 1.2), ("abc-c", 1.9), ("demand-smooth", 0.7), ("demand-lumpy", 2.1)]
        {
            rows.push(metric(model, "pooled", slice, wape * factor, bias * factor));
        }
    }
    json!({"format_version": 1, "metrics": rows})
}

fn evaluation() -> Value {
    let ranked = |rank, model: &str, baseline| json!({"rank": rank, "model": model, "baseline": baseline});
    json!({
        "format_version": 1, "horizon": 28, "origins": ["2011-09-16", "2011-10-14", "2011-11-11"],
        "ranking": [ranked(1, "gbdt", false), ranked(2, "weekday_mean", true), ranked(3, "seasonal_naive", true)],
        "best": "gbdt", "baseline": "seasonal_naive",
        "champion": {"name": "demand", "present": true, "version": 3, "model": "gbdt", "how": "recipe refitted",
                     "metrics": [metric("gbdt", "pooled", "all", 0.331, -0.04)]},
        "checks": [{"name": "same_rows", "model": null, "passed": true, "detail": "all models forecast the same 5,040 rows"}],
    })
}

fn decision(promoted: bool) -> Value {
    let check = |name: &str, passed, figure: f64, threshold: f64, detail: &str| json!({"name": name, "passed": passed, "figure": figure, "threshold": threshold, "detail": detail});
    json!({
        "format_version": 1, "name": "demand", "promoted": promoted, "candidate": "gbdt", "from": 3,
        "reason": if promoted {
            "gbdt is promoted to demand: WAPE against the champion: 0.3092 <= 0.3145; absolute bias 0.0210 <= 0.0500"
        } else {
            "gbdt is not promoted to demand: absolute bias 0.0810 is above 0.0500"
        },
        "checks": [
            {"name": "candidate", "passed": true, "figure": null, "threshold": null, "detail": "gbdt is the best candidate"},
            check("origins", true, 3.0, 3.0, "3 origins, at least 3 are needed"),
            check("wape_vs_champion", true, 0.3092, 0.3145, "WAPE against the champion: 0.3092 <= 0.3145"),
            check("bias", promoted, if promoted { 0.021 } else { 0.081 }, 0.05, "absolute bias"),
        ],
    })
}

/// A bench with all that a run leaves, from series of these names.
async fn everything(names: &[String]) -> TaskBench {
    let mut bench = TaskBench::new();
    bench.params(json!({"horizon": 28})).seed(42);
    for (nth, (model, noise)) in
        [("seasonal_naive", 0.35), ("weekday_mean", 0.22), ("gbdt", 0.11)].into_iter().enumerate()
    {
        let producer = format!("train[{nth}]");
        bench.input_batches(&producer, "backtest.parquet", &[backtest(model, noise, names)]).await;
        bench.input_json(&producer, "model.json", &model_document(model)).await;
        bench.input_json(&producer, "feature_importance.json", &importance(model)).await;
    }
    bench.input_json("evaluate", "metrics.json", &metrics()).await;
    bench.input_json("evaluate", "evaluation.json", &evaluation()).await;
    bench.input_json("promote", "promotion_decision.json", &decision(true)).await;
    bench.input_json("ingest", "canonical_schema_snapshot.json", &schema()).await;
    bench.input_json("ingest", "contract_validation_report.json", &contract()).await;
    bench.input_json("validate", "validation_result.json", &validation()).await;
    bench.input_json("features", "features.json", &json!({"frequency": "D", "horizon": 28})).await;
    bench
}

fn model_document(model: &str) -> Value {
    let options = if model == "gbdt" { json!({"trees": 400, "learning_rate": 0.05}) } else { json!({}) };
    json!({
        "format_version": 1, "name": model, "recipe": {"model": model, "options": options, "horizon": 28},
        "recipe_digest": "5e1f".repeat(16), "first_time": "2010-12-01", "last_time": "2011-12-09", "rows": 22_440,
        "series": 60, "features": 26, "decisions": if model == "gbdt" { json!({"objective": "tweedie"}) } else { json!(null) },
        "model_bytes": 812_344,
    })
}

fn importance(model: &str) -> Value {
    let feature = |nth: i32| {
        let gain = 0.3 * 0.7_f64.powi(nth);
        json!({"feature": format!("rolling_mean_{}", nth * 7 + 7), "gain": gain, "splits": 900 - nth * 30})
    };
    (0..if model == "gbdt" { 26 } else { 0 }).map(feature).collect()
}

fn schema() -> Value {
    json!({"frequency": "D", "grain": ["stock_code"], "rows": 22_440, "series": 60, "first_time": "2010-12-01", "last_time": "2011-12-09"})
}

fn contract() -> Value {
    json!({
        "format_version": 1, "status": "accepted", "contract": {"name": "online_retail", "version": 1},
        "source": [{"path": "data/online_retail.parquet", "sha256": "ab12".repeat(16), "bytes": 5_123_456}],
        "rows": {"read": 541_909, "bad": 0, "filtered": {"cancellations": 9_288, "not_a_product": 2_475},
                 "exact_duplicates": 5_268, "kept": 524_878},
        "bad_rows": {}, "notes": [], "decisions": {"gaps": 11_021, "negative": 41, "closed": 3_180, "outliers": 0},
        "panel": {"series_excluded": 1_204},
    })
}

fn validation() -> Value {
    let verdict = |name: &str, kwargs: Value, severity: &str, broke: u64| {
        json!({"expectation_type": name, "kwargs": kwargs, "severity": severity, "success": broke == 0, "result":
               {"element_count": 22_440, "missing_count": 0, "unexpected_count": broke, "unexpected_percent": 0.05}})
    };
    json!({"format_version": 1, "suite": "retail_training", "success": true, "rows": 22_440, "quarantined_rows": 12, "results": [
        verdict("expect_column_values_to_not_be_null", json!({"column": "series"}), "error", 0),
        verdict("expect_column_values_to_be_between", json!({"column": "demand", "min_value": 0}), "warning", 12),
        {"expectation_type": "expect_table_row_count_to_be_between", "kwargs": {"min_value": 1_000}, "severity": "error",
         "success": true, "result": {"observed_value": 22_440}},
    ]})
}

async fn report(bench: &TaskBench) -> String {
    run(bench, json!({})).await.text("report.html")
}

async fn run(bench: &TaskBench, with: Value) -> Done {
    bench.run(ReportTask, with).await.expect("a report is made of whatever is there")
}

/// The page without plotly's own script and without the figures' data.
fn own_html(html: &str) -> String {
    let mut own = String::new();
    let mut rest = html;
    while let Some((before, after)) = rest.split_once("<script") {
        own.push_str(before);
        rest = after.split_once("</script>").map_or("", |(_, after)| after);
    }
    own + rest
}

/// The text of each `<figure>`.
fn figures(html: &str) -> Vec<&str> {
    html.split("<figure ").skip(1).filter_map(|part| part.split_once("</figure>")).map(|(figure, _)| figure).collect()
}

/// The data of each plot, as a browser parses it.
fn plots(html: &str) -> Vec<Value> {
    let parse = |figure: &&str| {
        let (_, rest) = figure.split_once("<script type=\"application/json\"").expect("a plot per figure");
        let (_, rest) = rest.split_once('>').expect("an opened element");
        let (json, _) = rest.split_once("</script>").expect("a closed element");
        serde_json::from_str(json).expect("JSON")
    };
    figures(html).iter().map(parse).collect()
}

#[tokio::test]
async fn with_everything_each_section_has_content() {
    let html = report(&everything(&series_names(60)).await).await;
    for title in [
        "Models",
        "Promotion decision",
        "Forecast vs actual",
        "Accuracy",
        "Feature importance",
        "Training",
        "Data quality",
        "Lineage",
    ] {
        assert!(html.contains(&format!("-heading\">{title}</h2>")), "no section {title}");
    }
    let own = own_html(&html);
    assert!(
        !own.contains("class=\"empty\"") || own.matches("class=\"empty\"").count() == 1,
        "only the note on JavaScript"
    );
    assert!(!own.contains("This report is incomplete"));
    for text in [
        "gbdt is the new champion",
        "30.9%",
        "541,909",
        "gbdt, version 3",
        "WAPE against the champion",
        "rolling_mean_7",
        "<code>42</code>",
    ] {
        assert!(own.contains(text), "{text} is missing");
    }
    // Total, 8 series, 2 by origin, steps, segments, 2 of errors, 1 importance.
    assert_eq!(figures(&html).len(), 16);
}

#[tokio::test]
async fn every_figure_has_words_data_and_its_table() {
    let html = report(&everything(&series_names(60)).await).await;
    for (figure, plot) in figures(&html).iter().zip(plots(&html)) {
        assert!(figure.contains("role=\"img\" aria-label=\"") && !figure.contains("aria-label=\"\""), "{figure:.200}");
        let (_, table) = figure.split_once("<details><summary>").expect("a table below the picture");
        assert!(table.contains("<table>") && table.matches("<tr").count() > 1, "{figure:.200}");
        let traces = plot["data"].as_array().expect("traces");
        assert!(!traces.is_empty() && traces.iter().all(|trace| trace["x"].as_array().is_some_and(|x| !x.is_empty())));
        assert_eq!(plot["layout"]["paper_bgcolor"], "#FFFFFF");
    }
}

#[tokio::test]
async fn the_total_adds_up_what_the_backtest_holds() {
    let names = series_names(5);
    let batch = backtest("gbdt", 0.11, &names);
    let mut bench = TaskBench::new();
    bench.input_batches("train", "backtest.parquet", std::slice::from_ref(&batch)).await;
    let html = report(&bench).await;
    let actual = batch.column_by_name("actual").expect("a column");
    let actual = actual.as_any().downcast_ref::<Float64Array>().expect("numbers");
    // The first day of the first window: the first row of each series.
    let by_hand: f64 = (0..names.len()).map(|series| actual.value(series * HORIZON as usize)).sum();
    let total = &plots(&html)[0]["data"][0];
    assert_eq!(total["x"][0], "2011-09-17");
    assert_eq!(total["y"][0].as_f64(), Some(by_hand));
    assert_eq!(total["x"].as_array().map(Vec::len), Some(27 * 3), "the closed day is not known and not drawn");
}

#[tokio::test]
async fn without_any_input_it_says_what_is_missing() {
    let html = report(&TaskBench::new()).await;
    assert!(html.contains("This report is incomplete") && html.contains("No decision"));
    for name in ["metrics.json", "backtest.parquet", "model.json", "promotion_decision.json", "validation_result.json"]
    {
        assert!(html.contains(&format!("<code>{name}</code> was not made")), "{name}");
    }
    assert_eq!(figures(&html).len(), 0);
    assert!(html.len() < 100_000, "plotly is embedded only where there is something to draw");
}

#[tokio::test]
async fn with_metrics_alone_it_ranks_and_compares() {
    let mut bench = TaskBench::new();
    bench.input_json("evaluate", "metrics.json", &metrics()).await;
    let html = report(&bench).await;
    let own = own_html(&html);
    assert!(
        own.contains("WAPE, gbdt") && own.contains("Nothing was promoted"),
        "the best model is found without a ranking"
    );
    assert!(
        own.contains("Nothing to draw. backtest.parquet was not made: no train task"),
        "the section says why it is empty"
    );
    assert_eq!(figures(&html).len(), 4, "by origin twice, steps, segments");
}

#[tokio::test]
async fn a_failed_evaluation_leaves_the_figures_of_the_backtests() {
    let mut bench = TaskBench::new();
    bench.input_batches("train", "backtest.parquet", &[backtest("gbdt", 0.11, &series_names(30))]).await;
    let own = own_html(&report(&bench).await);
    assert!(own.contains("Evaluation left no figures"), "the reader knows where the figures come from");
    assert!(own.contains("2011-11-11"));
}

#[tokio::test]
async fn a_refusal_is_the_headline() {
    let mut bench = everything(&series_names(12)).await;
    bench.input_json("promote", "promotion_decision.json", &decision(false)).await;
    let own = own_html(&report(&bench).await);
    assert!(own.contains("gbdt was refused by the gate") && own.contains("absolute bias 0.0810 is above 0.0500"));
    assert!(own.contains("<span class=\"pill bad\">failed</span>"));
}

#[tokio::test]
async fn inputs_of_another_shape_become_gaps() {
    let mut bench = TaskBench::new();
    bench.input_bytes("evaluate", "metrics.json", "not json").await;
    bench
        .input_json(
            "promote",
            "promotion_decision.json",
            &json!({"promoted": "maybe", "checks": [1, {"name": "bias"}]}),
        )
        .await;
    bench.input_bytes("train", "backtest.parquet", "not parquet").await;
    let own = own_html(&report(&bench).await);
    assert!(own.contains("<code>metrics.json</code> was made by evaluate, but is not the JSON"));
    assert!(own.contains("<code>backtest.parquet</code> could not be read"));
    assert!(own.contains("No decision") && own.contains("not known"));
}

#[tokio::test]
async fn nothing_is_loaded_from_elsewhere() {
    let mut names = series_names(20);
    names[0] = HOSTILE.to_owned();
    let html = report(&everything(&names).await).await;
    let own = own_html(&html).to_lowercase();
    for load in ["src=", "@import", "url(", "<link", "<iframe", "<img", "<object", "srcset", "fetch("] {
        let found = own.match_indices(load).find(|(at, _)| !own[at.saturating_sub(8)..*at].contains("&lt;img"));
        assert_eq!(found, None, "{load}");
    }
    assert!(own.split("href=\"").skip(1).all(|link| link.starts_with('#')), "links stay on the page");
    assert!(own.contains("content=\"default-src 'none'; script-src 'unsafe-inline'"), "the browser is told to refuse");
    assert!(!html.contains("<script src"), "no script from elsewhere");
}

#[tokio::test]
async fn hostile_names_stay_text() {
    let mut names = series_names(20);
    names[0] = HOSTILE.to_owned();
    let mut bench = everything(&names).await;
    bench
        .input_json("train[0]", "model.json", &json!({"name": HOSTILE, "recipe": {"options": {HOSTILE: HOSTILE}}}))
        .await;
    let html = run(&bench, json!({"title": HOSTILE})).await.text("report.html");
    // The two of the page, one per figure, none more.
    assert_eq!(html.matches("<script").count(), 2 + figures(&html).len() + plotly_mentions());
    let own = own_html(&html);
    assert!(!own.contains("<img") && !own.contains("alert('x')") && !own.contains('\u{202e}'));
    assert!(own.contains("&lt;/script&gt;&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;&quot;&#39;&lt;img src=http"));
    for plot in plots(&html) {
        let text = plot.to_string();
        assert!(!text.contains("<script") && !text.contains("<img"), "plotly reads tags in names");
    }
}

/// How often plotly's own source says `<script`.
fn plotly_mentions() -> usize {
    let sources = plotly::Plot::offline_js_sources();
    sources.split_once("</script>").map_or(0, |(first, _)| first.matches("<script").count() - 1)
}

#[tokio::test]
async fn equal_inputs_give_equal_bytes() {
    let bench = everything(&series_names(25)).await;
    let (first, second) = (run(&bench, json!({})).await, run(&bench, json!({})).await);
    assert_eq!(first.artifact("report.html").digest, second.artifact("report.html").digest);
    assert!(!first.text("report.html").contains("2024-01-01T00:00:00Z"), "the moment of the run is not printed");
}

#[tokio::test]
async fn the_number_of_series_is_a_parameter_with_limits() {
    let bench = everything(&series_names(40)).await;
    let html = run(&bench, json!({"series": 3})).await.text("report.html");
    assert_eq!(html.matches("id=\"figure-series-").count(), 2 * 3 + 3, "figure, its title and its plot");
    for bad in [json!({"series": 0}), json!({"series": 25}), json!({"serie": 3})] {
        assert!(bench.run(ReportTask, bad.clone()).await.is_err(), "{bad}");
    }
}
