//! Tests of the task from its inputs to its documents, on a small panel with real baselines.

use std::sync::Arc;

use arrow::array::{ArrayRef, AsArray, BooleanArray, Date32Array, Float64Array, RecordBatch, StringArray};
use arrow::datatypes::Float64Type;
use chrono::NaiveDate;
use engine::artifact::ArtifactRef;
use engine::id::{ArtifactName, RunId};
use engine::registry::ModelStatus;
use testkit::{Done, TaskBench};

use super::*;
use crate::model::{GbdtOptions, ModelSpec, Origin, WeekdayMeanOptions, backtest_recipe};

const HORIZON: u32 = 7;
const DAYS: i32 = 63;

fn document() -> FeaturesDocument {
    serde_json::from_value(json!({
        "format_version": 1,
        "spec_digest": Digest::of(b"rules"),
        "panel_digest": Digest::of(b"panel"),
        "frequency": "D",
        "season": 7,
        "horizon": HORIZON,
        "rows": 2 * DAYS,
        "series": 2,
        "first_time": "1970-01-01",
        "last_time": NaiveDate::default() + chrono::Days::new(DAYS as u64 - 1),
        "columns": [],
        "skipped": [],
    }))
    .expect("a document")
}

/// Two series: one with a week's pattern and a slow trend, one that sells every third day.
fn panel() -> RecordBatch {
    let demand = |series: usize, day: i32| match series {
        0 => Some(f64::from(20 + 5 * (day % 7) + day / 4)),
        _ if day == 40 || day == 60 => None,
        _ => Some(if day % 3 == 0 { 4.0 } else { 0.0 }),
    };
    let keys: Vec<(usize, i32)> = (0..2).flat_map(|series| (0..DAYS).map(move |day| (series, day))).collect();
    let columns: [(&str, ArrayRef); 4] = [
        ("series", Arc::new(keys.iter().map(|(series, _)| Some(["a", "b"][*series])).collect::<StringArray>())),
        ("time", Arc::new(keys.iter().map(|(_, day)| Some(*day)).collect::<Date32Array>())),
        ("demand", Arc::new(keys.iter().map(|(series, day)| demand(*series, *day)).collect::<Float64Array>())),
        ("closed", Arc::new(BooleanArray::from(vec![false; keys.len()]))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, array)| (name, array, true))).expect("a panel")
}

fn recipe(spec: ModelSpec) -> Recipe {
    Recipe { spec, horizon: HORIZON, features_digest: document().spec_digest }
}

fn backtest(spec: ModelSpec, windows: u32) -> RecordBatch {
    let frame = FeatureFrame::from_batches(document(), [Ok(panel())]).expect("a frame");
    let origins = Origin::last(&document(), windows, HORIZON);
    backtest_recipe(&recipe(spec), &frame, &origins, 1, &CancellationToken::new()).expect("a backtest")
}

/// The same rows as the baselines', forecast by a model called gbdt that is `factor` times the truth.
fn prophet(factor: f64) -> RecordBatch {
    let batch = backtest(ModelSpec::SeasonalNaive, 3);
    let actuals = batch.column_by_name("actual").expect("a column").as_primitive::<Float64Type>();
    let points: Float64Array = actuals.iter().map(|actual| Some(actual.unwrap_or(1.0) * factor)).collect();
    let mut columns = batch.columns().to_vec();
    columns[0] = Arc::new(StringArray::from(vec!["gbdt"; batch.num_rows()]));
    columns[6] = Arc::new(points);
    RecordBatch::try_new(batch.schema(), columns).expect("a backtest")
}

/// A bench with features and the elements seasonal_naive, weekday_mean and gbdt of `train`.
pub(crate) async fn bench(factor: f64) -> TaskBench {
    let mut bench = TaskBench::new();
    bench.input_batches("features", "features.parquet", &[panel()]).await;
    bench.input_json("features", "features.json", &json!(document())).await;
    let models = [
        (ModelSpec::SeasonalNaive, backtest(ModelSpec::SeasonalNaive, 3)),
        (weekday_mean(4), backtest(weekday_mean(4), 3)),
        (ModelSpec::Gbdt(GbdtOptions::default()), prophet(factor)),
    ];
    for (at, (spec, batch)) in models.into_iter().enumerate() {
        let producer = format!("train[{at}]");
        let card = json!({ "format_version": 1, "recipe": recipe(spec), "more": [1, 2] });
        bench.input_batches(&producer, "backtest.parquet", &[batch]).await;
        bench.input_json(&producer, "model.json", &card).await;
        bench.input_bytes(&producer, "model.bin", format!("bytes of {at}")).await;
    }
    bench
}

fn weekday_mean(count: u32) -> ModelSpec {
    ModelSpec::WeekdayMean(WeekdayMeanOptions { count })
}

/// A champion of version 7 with that metadata.
pub(crate) fn champion(metadata: Value) -> ModelVersion {
    let artifact = ArtifactRef {
        name: ArtifactName::parse("model.bin").expect("a name"),
        key: "t/d/r/train/1.1/model.bin".into(),
        digest: Digest::of(b"old"),
        bytes: 3,
        rows: None,
        schema_digest: None,
    };
    ModelVersion {
        name: ModelName::parse("demand").expect("a name"),
        version: 7,
        status: ModelStatus::Champion,
        run_id: RunId::parse("00000000-0000-7000-8000-000000000000").expect("an id"),
        artifact,
        metadata,
    }
}

fn evaluation(done: &Done) -> Evaluation {
    serde_json::from_str(&done.text("evaluation.json")).expect("an evaluation")
}

async fn evaluate(bench: &TaskBench) -> Evaluation {
    evaluation(&bench.run(Evaluate, json!({})).await.expect("evaluated"))
}

#[tokio::test]
async fn models_are_ranked_on_the_same_rows_over_three_origins() {
    let bench = bench(1.02).await;
    let done = bench.run(Evaluate, json!({})).await.expect("evaluated");
    let evaluation = evaluation(&done);
    assert_eq!(evaluation.origins, ["1970-02-11", "1970-02-18", "1970-02-25"]);
    assert_eq!((evaluation.horizon, evaluation.best.as_deref()), (HORIZON, Some("gbdt")));
    assert_eq!(evaluation.ranking[0].model, "gbdt");
    assert_eq!(evaluation.baseline.as_deref(), Some("seasonal_naive"));
    assert!(evaluation.ranking.iter().all(|ranked| ranked.recipe_digest.is_some()));
    assert!(evaluation.checks.iter().all(|check| check.passed), "{:?}", evaluation.checks);
    assert_eq!(evaluation.champion, ChampionComparison::absent("demand"));
    let pooled = evaluation.figures("gbdt", POOLED, ALL).expect("figures");
    assert!(pooled.wape.is_some_and(|wape| (wape - 0.02).abs() < 1e-9), "{pooled:?}");
    assert!(pooled.bias.is_some_and(|bias| (bias - 0.02).abs() < 1e-9));
    assert_eq!((pooled.rows, pooled.left_out), (41, 1), "day 60 of b is unknown");
    assert!(evaluation.figures("gbdt", POOLED, TOTAL).is_some_and(|total| total.mase.is_some()));
    let slices = ["abc-a", "abc-b", "demand-smooth", "demand-intermittent"];
    let found = slices.map(|slice| evaluation.figures("gbdt", POOLED, slice).map(|figures| figures.rows));
    assert_eq!(found[2..], [Some(21), Some(20)], "{found:?}");
    assert_eq!(done.output.outputs["best"]["model"], "gbdt");
    assert_eq!(done.output.outputs["windows"], 3);
    let batch = done.batch("metrics.parquet");
    assert_eq!(batch.num_rows(), evaluation.metrics.len());
    assert_eq!(done.output.outputs["metrics"], json!(evaluation.metrics));
}

#[tokio::test]
async fn equal_inputs_give_equal_bytes() {
    let bench = bench(1.02).await;
    let (one, two) = (bench.run(Evaluate, json!({})).await, bench.run(Evaluate, json!({})).await);
    let (one, two) = (one.expect("evaluated"), two.expect("evaluated"));
    for name in ["metrics.parquet", "metrics.json", "evaluation.json"] {
        assert_eq!(one.artifact(name).digest, two.artifact(name).digest, "{name}");
    }
}

#[tokio::test]
async fn fewer_windows_can_be_judged_but_not_more() {
    let bench = bench(1.02).await;
    let done = bench.run(Evaluate, json!({ "windows": 2 })).await.expect("evaluated");
    assert_eq!(evaluation(&done).origins, ["1970-02-18", "1970-02-25"]);
    let error = bench.run(Evaluate, json!({ "windows": 4 })).await.err().map(|error| error.to_string());
    assert!(error.is_some_and(|error| error.contains("train made 3")));
    for bad in [json!({ "windows": 0 }), json!({ "ensemble": {} }), json!({ "registry_name": "A b" })] {
        assert!(bench.run(Evaluate, bad.clone()).await.is_err(), "{bad}");
    }
}

#[tokio::test]
async fn models_over_other_windows_are_an_error_of_the_model_class() {
    let mut bench = bench(1.02).await;
    bench.input_batches("train[1]", "backtest.parquet", &[backtest(weekday_mean(4), 2)]).await;
    let error = bench.run(Evaluate, json!({})).await.err();
    let Some(TaskError::Permanent { class: ErrorClass::Model, message, .. }) = error else {
        panic!("not an error of the model class: {error:?}");
    };
    assert!(message.contains("seasonal_naive and weekday_mean"), "{message}");
}

#[tokio::test]
async fn a_champion_of_the_same_recipe_takes_its_figures_from_this_run() {
    let mut bench = bench(1.02).await;
    bench.model(champion(json!({ "recipe": recipe(weekday_mean(4)) })));
    let evaluation = evaluate(&bench).await;
    let compared = &evaluation.champion;
    assert_eq!((compared.present, compared.version, compared.how), (Some(true), Some(7), Some(ComparedBy::SameRecipe)));
    let own: Vec<&MetricRow> = evaluation.metrics.iter().filter(|row| row.model == "weekday_mean").collect();
    assert!(!own.is_empty() && compared.metrics.iter().eq(own));
}

#[tokio::test]
async fn a_champion_of_another_recipe_is_fitted_again_at_the_same_origins() {
    let mut bench = bench(1.02).await;
    bench.model(champion(json!({ "recipe": recipe(weekday_mean(2)) })));
    let compared = evaluate(&bench).await.champion;
    assert_eq!((compared.how, compared.missing), (Some(ComparedBy::Refitted), None));
    // What the refit must give: the recipe among the models of the run.
    bench.input_batches("train[1]", "backtest.parquet", &[backtest(weekday_mean(2), 3)]).await;
    let expected: Vec<MetricRow> =
        evaluate(&bench).await.metrics.into_iter().filter(|row| row.model == "weekday_mean").collect();
    assert_eq!(compared.metrics, expected);
}

#[tokio::test]
async fn a_champion_that_can_not_be_judged_is_recorded_as_missing() {
    let other_rules = Recipe { features_digest: Digest::of(b"others"), ..recipe(weekday_mean(2)) };
    let other_horizon = Recipe { horizon: 3, ..recipe(weekday_mean(2)) };
    let unknown = json!({ "model": "oracle", "horizon": 7, "features_digest": Digest::of(b"rules") });
    for stored in [json!(other_rules), json!(other_horizon), unknown, Value::Null] {
        let mut bench = bench(1.02).await;
        bench.model(champion(json!({ "recipe": stored })));
        let compared = evaluate(&bench).await.champion;
        assert_eq!((compared.present, compared.how, compared.metrics.len()), (Some(true), None, 0), "{stored}");
        assert!(compared.missing.is_some(), "{stored}");
    }
}

#[tokio::test]
async fn forecasts_that_are_no_numbers_fail_their_check_and_rank_last() {
    let evaluation = evaluate(&bench(f64::NAN).await).await;
    let failed: Vec<_> = evaluation.checks.iter().filter(|check| !check.passed).map(|c| c.model.as_deref()).collect();
    assert_eq!(failed, [Some("gbdt")]);
    assert_eq!((evaluation.best, evaluation.ranking[2].model.as_str()), (None, "gbdt"));
}

#[tokio::test]
async fn a_failed_element_is_left_out() {
    let mut whole = TaskBench::new();
    whole.input_batches("features", "features.parquet", &[panel()]).await;
    whole.input_json("features", "features.json", &json!(document())).await;
    let none = whole.run(Evaluate, json!({})).await.err().map(|error| error.to_string());
    assert!(none.is_some_and(|message| message.contains("nothing to judge")));
    whole.input_batches("train[2]", "backtest.parquet", &[prophet(1.0)]).await;
    let evaluation = evaluate(&whole).await;
    assert_eq!((evaluation.ranking.len(), evaluation.baseline), (1, None));
    assert_eq!(evaluation.ranking[0].recipe_digest, None, "it wrote no model.json");
}

#[test]
fn segments_and_scales_do_not_see_past_their_origin() {
    let frame = FeatureFrame::from_batches(document(), [Ok(panel())]).expect("a frame");
    let backtests = Backtests::new(&[backtest(ModelSpec::SeasonalNaive, 3)]).expect("rows");
    let whole = history::slicing(&backtests, &frame);
    // The same panel, with other demand after the first origin: nothing at that origin may change.
    let batch = panel();
    let first = backtests.origins()[0];
    let times = batch.column(1).as_primitive::<arrow::datatypes::Date32Type>();
    let demand = batch.column(2).as_primitive::<Float64Type>();
    let other: Float64Array = (0..batch.num_rows())
        .map(|row| if times.value(row) > first { Some(1e6) } else { demand.iter().nth(row).flatten() })
        .collect();
    let mut columns = batch.columns().to_vec();
    columns[2] = Arc::new(other);
    let changed = RecordBatch::try_new(batch.schema(), columns).expect("a panel");
    let changed = FeatureFrame::from_batches(document(), [Ok(changed)]).expect("a frame");
    let seen = history::slicing(&backtests, &changed);
    assert_eq!((seen.total_scale[0], &seen.of_run[..2]), (whole.total_scale[0], &whole.of_run[..2]));
    assert_ne!(seen.total_scale[2], whole.total_scale[2], "later origins do see it");
}
