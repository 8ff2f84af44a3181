//! The `evaluate` kind: all models of a run, and the champion, judged on the same rows.
//!
//! Reads each train element's backtest, publishes figures and the comparison that `promote` decides on.
//! It decides nothing and fits nothing but a champion's recipe.

mod backtest;
mod champion;
mod checks;
mod document;
mod history;
mod judge;
mod table;

use std::path::PathBuf;

use async_trait::async_trait;
use engine::dag::{InputSpec, OutputSpec, ParamProblem};
use engine::id::{Digest, InstanceId, ModelName};
use engine::registry::{ModelVersion, RegistryError};
use engine::task::{ErrorClass, Input, Task, TaskContext, TaskError, TaskOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

pub use document::{
    ALL, BASELINES, ChampionComparison, ComparedBy, Evaluation, EvaluationCheck, FORMAT_VERSION, MetricRow,
    MetricsDocument, POOLED, Ranked, TOTAL, YARDSTICK, rank,
};

use crate::features::{FeatureFrame, FeaturesDocument};
use crate::model::Recipe;
use crate::port;
use backtest::Backtests;
use champion::Bout;
pub(crate) use champion::error_chain;
use judge::Judge;

/// Parameters of `evaluate`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct EvaluateParams {
    /// How many rolling origins are judged, the last ones. Default: all that train made.
    #[serde(default)]
    #[schemars(range(min = 1))]
    pub windows: Option<u32>,
    /// The model's name in the registry: whose champion is compared with.
    #[serde(default = "default_registry_name")]
    pub registry_name: String,
}

/// The name under which models are registered unless the DAG says otherwise.
pub(crate) fn default_registry_name() -> String {
    "demand".to_owned()
}

/// What is wrong with a registry name, if something is.
pub(crate) fn check_registry_name(name: &str) -> Option<ParamProblem> {
    ModelName::parse(name).err().map(|error| ParamProblem {
        path: vec!["registry_name".to_owned()],
        message: error.to_string(),
        help: Some("leave it out to use \"demand\"".to_owned()),
    })
}

/// The registry's name, parsed.
pub(crate) fn registry_name(name: &str) -> Result<ModelName, TaskError> {
    ModelName::parse(name).map_err(|source| {
        TaskError::permanent_from(ErrorClass::System, format!("with.registry_name: {name:?} names no model"), source)
    })
}

/// What `evaluate` and `promote` read of `model.json`.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct ModelCard {
    /// All that has to be known to fit the model again.
    pub(crate) recipe: Recipe,
}

/// A model's recipe as read from its `model.json`.
#[derive(Debug, Clone)]
pub(crate) struct RecipeOf {
    pub(crate) producer: InstanceId,
    pub(crate) recipe: Recipe,
    pub(crate) digest: Digest,
}

/// The recipes of all trained models, in the order of their producers.
pub(crate) async fn recipes(context: &TaskContext) -> Result<Vec<RecipeOf>, TaskError> {
    let mut recipes = Vec::new();
    for card in context.inputs("model.json") {
        let recipe = context.fetch_json::<ModelCard>(card).await?.recipe;
        recipes.push(RecipeOf { producer: card.producer.clone(), digest: recipe.digest()?, recipe });
    }
    Ok(recipes)
}

/// The `evaluate` kind.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evaluate;

#[async_trait]
impl Task for Evaluate {
    type Params = EvaluateParams;

    const KIND: &'static str = "evaluate";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "Judge all models, and the champion, over rolling origins on the same rows";

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        vec![
            port::many("backtest.parquet"),
            port::optional(port::many("model.json")),
            port::one("features.parquet"),
            port::one("features.json"),
        ]
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        vec![
            port::made("metrics.parquet", "Figures per model, origin and slice"),
            port::made("metrics.json", "The same as JSON"),
            port::made("evaluation.json", "Ranking, champion comparison and the checks behind the figures"),
        ]
    }

    fn check(params: &Self::Params) -> Vec<ParamProblem> {
        let windows = (params.windows == Some(0)).then(|| ParamProblem {
            path: vec!["windows".to_owned()],
            message: "0 windows can not be judged".to_owned(),
            help: Some("use at least 1, or leave it out to judge all that train made".to_owned()),
        });
        windows.into_iter().chain(check_registry_name(&params.registry_name)).collect()
    }

    async fn run(&self, context: &TaskContext, params: Self::Params) -> Result<TaskOutput, TaskError> {
        let material = Material::fetch(context, params).await?;
        let span = tracing::Span::current();
        let evaluation = tokio::task::spawn_blocking(move || span.in_scope(|| material.evaluate()))
            .await
            .map_err(|source| TaskError::permanent_from(ErrorClass::System, "the judging thread panicked", source))??;
        let metrics = MetricsDocument { format_version: FORMAT_VERSION, metrics: evaluation.metrics.clone() };
        let batch = table::metrics_batch(&evaluation.metrics)?;
        let mut sink = context.parquet("metrics.parquet", batch.schema())?;
        sink.write(&batch)?;
        sink.publish(context).await?;
        context.publish_json("metrics.json", &metrics).await?;
        context.publish_json("evaluation.json", &evaluation).await?;
        Ok(TaskOutput::new(outputs(&evaluation)))
    }
}

/// What other tasks' templates and the CLI see.
fn outputs(evaluation: &Evaluation) -> Value {
    let best = evaluation.ranking.iter().find(|ranked| Some(&ranked.model) == evaluation.best.as_ref());
    json!({
        "metrics": evaluation.metrics,
        "best": best.map(|best| json!({ "model": best.model, "wape": best.wape, "bias": best.bias, "rank": best.rank })),
        "windows": evaluation.origins.len(),
    })
}

/// Everything that is judged, on local disk.
struct Material {
    params: EvaluateParams,
    backtests: Vec<(InstanceId, PathBuf)>,
    recipes: Vec<RecipeOf>,
    features: PathBuf,
    document: FeaturesDocument,
    champion: Result<Option<ModelVersion>, RegistryError>,
    seed: u64,
    cancel: CancellationToken,
}

impl Material {
    async fn fetch(context: &TaskContext, params: EvaluateParams) -> Result<Self, TaskError> {
        let mut backtests = Vec::new();
        for input in context.inputs("backtest.parquet") {
            backtests.push((input.producer.clone(), context.fetch(input).await?));
        }
        let features: &Input = context.input("features.parquet")?;
        Ok(Self {
            backtests,
            recipes: recipes(context).await?,
            features: context.fetch(features).await?,
            document: context.fetch_json(context.input("features.json")?).await?,
            champion: context.registry().champion(&registry_name(&params.registry_name)?).await,
            seed: context.seed(),
            cancel: context.cancel().clone(),
            params,
        })
    }

    fn evaluate(self) -> Result<Evaluation, TaskError> {
        let (mut backtests, names) = self.backtests()?;
        if let Some(windows) = self.params.windows {
            backtests.keep_last(windows)?;
        }
        let features = FeatureFrame::read(&self.features, self.document.clone())?;
        let slicing = history::slicing(&backtests, &features);
        let judge = Judge::new(&backtests, &slicing);
        let metrics = judge.all();
        if self.cancel.is_cancelled() {
            return Err(TaskError::Canceled);
        }
        let ranking = self.ranking(&metrics, &names);
        let digests: Vec<(String, Digest)> =
            ranking.iter().filter_map(|ranked| Some((ranked.model.clone(), ranked.recipe_digest?))).collect();
        let bout = Bout {
            backtests: &backtests,
            judge: &judge,
            metrics: &metrics,
            recipes: &digests,
            features: &features,
            seed: self.seed,
            cancel: &self.cancel,
        };
        let champion = champion::compare(&self.params.registry_name, &self.champion, &bout)?;
        Ok(Evaluation {
            format_version: FORMAT_VERSION,
            horizon: judge.horizon(),
            origins: backtests.origins().into_iter().map(backtest::date).collect(),
            best: ranking.iter().find(|r| !r.baseline && r.wape.is_some()).map(|r| r.model.clone()),
            baseline: ranking.iter().find(|r| r.model == YARDSTICK).map(|r| r.model.clone()),
            checks: checks::checks(&backtests, features.document(), &metrics, &self.recipes),
            ranking,
            champion,
            metrics,
        })
    }

    /// Models by pooled WAPE, each with the recipe that its own element wrote.
    fn ranking(&self, metrics: &[MetricRow], names: &[(String, InstanceId)]) -> Vec<Ranked> {
        let mut ranking = rank(metrics);
        for ranked in &mut ranking {
            let producer = names.iter().find(|(name, _)| *name == ranked.model).map(|(_, producer)| producer);
            if let Some(found) = self.recipes.iter().find(|recipe| Some(&recipe.producer) == producer) {
                ranked.recipe_digest = Some(found.digest);
                ranked.recipe = serde_json::to_value(&found.recipe).ok();
            }
        }
        ranking
    }

    /// All backtests side by side, and which element made which model.
    fn backtests(&self) -> Result<(Backtests, Vec<(String, InstanceId)>), TaskError> {
        let mut all: Option<Backtests> = None;
        let mut names = Vec::new();
        for (producer, path) in &self.backtests {
            let batches = table::read_batches(path)?;
            let model = match &mut all {
                Some(all) => all.add(&batches)?,
                None => all.insert(Backtests::new(&batches)?).models()[0].0.to_owned(),
            };
            names.push((model, producer.clone()));
        }
        let all = all.ok_or_else(|| {
            TaskError::permanent(ErrorClass::Model, "no train element made a backtest, so there is nothing to judge")
        })?;
        Ok((all, names))
    }
}

#[cfg(test)]
pub(crate) mod tests;
