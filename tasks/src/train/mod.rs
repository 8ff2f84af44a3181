//! The `train` task kind: backtest a model at rolling origins, then fit it on everything.
//!
//! Registered by the binary. Models live in `crate::model`; this file moves artifacts, names what was
//! trained on what, and keeps tokio's threads free. It judges nothing: `evaluate` does.

mod params;

use std::path::PathBuf;
use std::time::Instant;

use arrow::array::RecordBatch;
use async_trait::async_trait;
use chrono::NaiveDate;
use engine::dag::{DependsOn, InputSpec, Isolation, OutputSpec, ParamProblem};
use engine::id::{ArtifactName, Digest};
use engine::task::{ErrorClass, Task, TaskContext, TaskError, TaskOutput};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use params::{ModelOptions, TrainParams};

use crate::features::{FeatureFrame, FeaturesDocument};
use crate::model::{
    FeatureImportance, ModelError, Origin, Recipe, TrainingSlice, backtest_recipe, backtest_schema, forecaster,
};

/// The version of `model.json` that this code writes.
pub const MODEL_FORMAT_VERSION: u32 = 1;

/// `model.json`: what was trained, on what, and how to do it again. It holds no moment and no duration,
/// so that the same training gives the same bytes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ModelDocument {
    /// [`MODEL_FORMAT_VERSION`].
    pub format_version: u32,
    /// The model's word.
    pub name: String,
    /// How to fit it again.
    pub recipe: Recipe,
    /// [`Recipe::digest`].
    pub recipe_digest: Digest,
    /// The task instance's seed.
    pub seed: u64,
    /// Last day seen, for each window of the backtest.
    pub origins: Vec<Origin>,
    /// First period of the data.
    pub first_time: NaiveDate,
    /// Last period that the final fit saw.
    pub last_time: NaiveDate,
    /// Rows of the feature table.
    pub rows: u64,
    /// Series in it.
    pub series: u64,
    /// Features per row.
    pub features: u64,
    /// Of the feature table.
    pub features_parquet_digest: Digest,
    /// Of the panel behind it.
    pub panel_digest: Digest,
    /// What the final fit decided by itself; null without one.
    pub decisions: Value,
    /// Digest of `model.bin`; null without a final fit.
    pub model_digest: Option<Digest>,
    /// Size of `model.bin` in bytes.
    pub model_bytes: Option<u64>,
}

/// Backtests a model and fits it on everything.
pub struct Train;

#[async_trait]
impl Task for Train {
    type Params = TrainParams;

    const KIND: &'static str = "train";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "Backtest a model at rolling origins, then fit it on everything";
    const DEPENDS_ON: DependsOn = DependsOn::Inputs;
    const VOLATILE: &'static [&'static str] = &["read_seconds", "backtest_seconds", "seconds"];
    // A fit takes memory by the gigabyte and minutes of every core: it is not to take its worker along.
    const ISOLATION: Isolation = Isolation::Process;

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        let required = |name| InputSpec { name: artifact(name), many: false, optional: false };
        ["features.parquet", "features.json"].map(required).into()
    }

    fn outputs(with: &Value) -> Vec<OutputSpec> {
        let output = |(name, summary): (&str, &str)| OutputSpec { name: artifact(name), summary: summary.to_owned() };
        let mut outputs = vec![
            output(("backtest.parquet", "rolling-origin forecasts beside what happened")),
            output(("model.json", "recipe, training window, digests")),
        ];
        // A template may be left in `with`; only a plain `false` leaves the model out.
        if with.get("final_fit") != Some(&Value::Bool(false)) {
            outputs.push(output(("model.bin", "the model fitted on everything")));
            outputs.push(output(("feature_importance.json", "how much each feature mattered")));
        }
        outputs
    }

    fn check(params: &TrainParams) -> Vec<ParamProblem> {
        params.problems()
    }

    async fn run(&self, context: &TaskContext, params: TrainParams) -> Result<TaskOutput, TaskError> {
        let features = context.input("features.parquet")?;
        let document: FeaturesDocument = context.fetch_json(context.input("features.json")?).await?;
        let training = Training {
            table: context.fetch(features).await?,
            features_parquet_digest: features.artifact.digest,
            document,
            params,
            seed: context.seed(),
            cancel: context.cancel().clone(),
        };
        let trained = blocking(move || training.run()).await?;
        let mut sink = context.parquet("backtest.parquet", backtest_schema())?;
        let backtest = trained.backtest;
        let sink = blocking(move || sink.write(&backtest).map(|()| sink)).await?;
        sink.publish(context).await?;
        if let Some(model) = trained.model {
            context.publish_bytes("model.bin", model).await?;
            context.publish_json("feature_importance.json", &trained.importance).await?;
        }
        context.publish_json("model.json", &trained.document).await?;
        Ok(TaskOutput::new(trained.outputs))
    }
}

/// A training about to run.
struct Training {
    table: PathBuf,
    features_parquet_digest: Digest,
    document: FeaturesDocument,
    params: TrainParams,
    seed: u64,
    cancel: CancellationToken,
}

/// What a training made.
struct Trained {
    backtest: RecordBatch,
    model: Option<Vec<u8>>,
    importance: Vec<FeatureImportance>,
    document: ModelDocument,
    outputs: Value,
}

impl Training {
    fn run(self) -> Result<Trained, TaskError> {
        let started = Instant::now();
        let recipe = Recipe {
            spec: self.params.spec(),
            horizon: self.params.horizon,
            features_digest: self.document.spec_digest,
        };
        let origins = Origin::last(&self.document, self.params.windows, self.params.horizon);
        let frame = FeatureFrame::read(&self.table, self.document.clone())?;
        let read_seconds = started.elapsed().as_secs_f64();
        let backtest = backtest_recipe(&recipe, &frame, &origins, self.seed, &self.cancel)?;
        let backtest_seconds = started.elapsed().as_secs_f64() - read_seconds;
        let mut trained = Trained {
            backtest,
            model: None,
            importance: Vec::new(),
            document: self.describe(recipe, origins)?,
            outputs: Value::Null,
        };
        if self.params.final_fit {
            self.fit_on_everything(&frame, &mut trained)?;
        }
        trained.outputs = json!({
            "model": trained.document.name,
            "recipe_digest": trained.document.recipe_digest,
            "origins": trained.document.origins,
            "decisions": trained.document.decisions,
            "model_bytes": trained.document.model_bytes,
            "read_seconds": read_seconds,
            "backtest_seconds": backtest_seconds,
            "seconds": started.elapsed().as_secs_f64(),
        });
        Ok(trained)
    }

    fn fit_on_everything(&self, frame: &FeatureFrame, trained: &mut Trained) -> Result<(), ModelError> {
        let slice = TrainingSlice::new(frame, Origin(self.document.last_time));
        let fitted = forecaster(&trained.document.recipe.spec).fit(&slice, self.seed, &self.cancel)?;
        let bytes = fitted.save()?;
        trained.document.decisions = fitted.decisions();
        trained.document.model_digest = Some(Digest::of(&bytes));
        trained.document.model_bytes = Some(bytes.len() as u64);
        trained.importance = fitted.explain();
        trained.model = Some(bytes);
        Ok(())
    }

    fn describe(&self, recipe: Recipe, origins: Vec<Origin>) -> Result<ModelDocument, TaskError> {
        Ok(ModelDocument {
            format_version: MODEL_FORMAT_VERSION,
            name: recipe.spec.kind().as_str().to_owned(),
            recipe_digest: recipe.digest()?,
            recipe,
            seed: self.seed,
            origins,
            first_time: self.document.first_time,
            last_time: self.document.last_time,
            rows: self.document.rows,
            series: self.document.series,
            features: self.document.columns.len() as u64,
            features_parquet_digest: self.features_parquet_digest,
            panel_digest: self.document.panel_digest,
            decisions: Value::Null,
            model_digest: None,
            model_bytes: None,
        })
    }
}

/// Runs what computes away from tokio's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(error) => Err(TaskError::permanent_from(ErrorClass::System, "the training's thread was lost", error)),
    }
}

fn artifact(name: &str) -> ArtifactName {
    ArtifactName::parse(name).expect("a literal that keeps to the rule")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testkit::TaskBench;

    use super::*;
    use crate::features::Features;
    use crate::features::fixture::{panel_batch, schema_json};

    async fn bench() -> TaskBench {
        let mut bench = TaskBench::new();
        bench.input_batches("ingest", "panel.parquet", &[panel_batch(4, 200)]).await;
        bench.input_json("ingest", "canonical_schema_snapshot.json", &schema_json()).await;
        let features = bench.run(Features, json!({"horizon": 14})).await.expect("features");
        bench.input_done("features", &features);
        bench
    }

    fn gbdt() -> Value {
        json!({"model": "gbdt", "horizon": 14, "windows": 2, "options": {"gbdt": {"rounds": 20, "min_child_weight": 5.0}}})
    }

    #[tokio::test]
    async fn the_same_seed_gives_the_same_bytes_of_every_artifact() {
        let mut bench = bench().await;
        bench.seed(11);
        let first = bench.run(Train, gbdt()).await.expect("trained");
        let second = bench.run(Train, gbdt()).await.expect("trained");
        assert_eq!(first.artifacts.len(), 4);
        for output in Train::outputs(&gbdt()) {
            let name = output.name.as_str();
            assert_eq!(first.artifact(name).digest, second.artifact(name).digest, "{name}");
        }
        bench.seed(12);
        let other = bench.run(Train, gbdt()).await.expect("trained");
        assert_ne!(first.artifact("model.bin").digest, other.artifact("model.bin").digest);
    }

    #[tokio::test]
    async fn the_document_says_how_to_do_it_again() {
        let bench = bench().await;
        let done = bench.run(Train, gbdt()).await.expect("trained");
        let document: ModelDocument = serde_json::from_value(done.json("model.json")).expect("the document");
        assert_eq!(document.name, "gbdt");
        assert_eq!(document.recipe.digest().expect("a digest"), document.recipe_digest);
        assert_eq!(document.model_digest, Some(done.artifact("model.bin").digest));
        assert_eq!(document.origins.len(), 2);
        assert_eq!(document.decisions["objective"], "log_l2");
        // The recipe alone gives the same forecasts at the same origins.
        let input = bench.context();
        let features: FeaturesDocument =
            input.fetch_json(input.input("features.json").expect("an input")).await.expect("features.json");
        let path = input.fetch(input.input("features.parquet").expect("an input")).await.expect("a file");
        let frame = FeatureFrame::read(&path, features).expect("a frame");
        let again =
            backtest_recipe(&document.recipe, &frame, &document.origins, document.seed, &CancellationToken::new());
        assert_eq!(again.expect("a backtest"), done.batch("backtest.parquet"));
    }

    #[tokio::test]
    async fn without_a_final_fit_there_is_no_model() {
        let bench = bench().await;
        let with = json!({"model": "seasonal_naive", "horizon": 14, "windows": 1, "final_fit": false});
        let done = bench.run(Train, with.clone()).await.expect("trained");
        let mut declared: Vec<String> = Train::outputs(&with).iter().map(|output| output.name.to_string()).collect();
        let mut made: Vec<String> = done.artifacts.iter().map(|artifact| artifact.name.to_string()).collect();
        declared.sort();
        made.sort();
        assert_eq!(made, declared);
        assert_eq!(made, ["backtest.parquet", "model.json"]);
    }

    #[tokio::test]
    async fn a_longer_horizon_than_the_features_is_a_model_error() {
        let bench = bench().await;
        let error = bench.run(Train, json!({"model": "naive", "horizon": 28})).await.err().expect("refused");
        assert!(matches!(error, TaskError::Permanent { class: ErrorClass::Model, .. }), "{error:?}");
    }

    #[tokio::test]
    async fn a_cancel_ends_the_training() {
        let bench = bench().await;
        bench.cancel().cancel();
        let error = bench.run(Train, gbdt()).await.err().expect("canceled");
        assert!(matches!(error, TaskError::Canceled), "{error:?}");
    }

    #[test]
    fn hyperparameters_out_of_range_are_named_with_their_place() {
        let with = json!({"model": "gbdt", "horizon": 14, "windows": 0, "options": {"gbdt": {"subsample": 1.5, "max_leaves": 1}}});
        let params: TrainParams = serde_json::from_value(with).expect("typed");
        let paths: Vec<String> = Train::check(&params).iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(paths, ["windows", "options.gbdt.max_leaves", "options.gbdt.subsample"]);
        assert!(
            serde_json::from_value::<TrainParams>(json!({"model": "gbdt", "horizon": 1, "options": {"gdbt": {}}}))
                .is_err()
        );
    }
}
