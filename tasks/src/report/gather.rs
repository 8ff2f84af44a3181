//! From an attempt's inputs to [`Material`]: what is there is read, what is not becomes a gap with its reason.
//!
//! Called by the task. An artifact that is not what was published fails the attempt, as everywhere;
//! one that merely holds other JSON than expected is reported as a gap.

use std::path::PathBuf;

use engine::artifact::ArtifactRef;
use engine::id::InstanceId;
use engine::task::{ErrorClass, Input, TaskContext, TaskError};
use serde::de::DeserializeOwned;

use crate::report::ReportParams;
use crate::report::backtest::{Backtest, BacktestError};
use crate::report::documents::{Importance, ModelDocument};
use crate::report::material::{Material, RunLines, Source};
use crate::report::page::Gap;
use crate::report::sample::Sample;

/// What the report reads: name, what makes it, and of what nothing is known without it.
pub(super) const INPUTS: [(&str, &str, &str); 10] = [
    ("promotion_decision.json", "promote", "a promotion"),
    ("metrics.json", "evaluate", "the figures of record"),
    ("evaluation.json", "evaluate", "the ranking and the champion"),
    ("backtest.parquet", "train", "forecast against actual, and of the spread of errors"),
    ("model.json", "train", "what was trained"),
    ("feature_importance.json", "train", "which features mattered"),
    ("validation_result.json", "validate", "which expectations the data met"),
    ("contract_validation_report.json", "ingest", "how many rows were read, kept and rejected"),
    ("canonical_schema_snapshot.json", "ingest", "size and frequency of the panel"),
    ("features.json", "features", "the features"),
];

/// JSON inputs as fetched, the backtests as local files, and what is known of the run.
pub(super) struct Fetched {
    material: Material,
    backtests: Vec<PathBuf>,
}

/// Reads the JSON inputs and makes the backtests local.
///
/// # Errors
/// The artifact store's: it failed, or an artifact is not what was published.
pub(super) async fn fetch(context: &TaskContext, params: &ReportParams) -> Result<Fetched, TaskError> {
    let mut material = Material { run: run_lines(context, params), ..Material::default() };
    for (name, kind, what) in INPUTS {
        let inputs = context.inputs(name);
        if inputs.is_empty() {
            let reason = format!(
                "was not made: no {kind} task upstream of this report succeeded, or the DAG has none. Without it \
                 nothing is known of {what}."
            );
            material.gaps.push(Gap { artifact: name.to_owned(), reason });
        }
        material.sources.extend(inputs.iter().map(|input| source(input)));
    }
    material.decision = one(context, "promotion_decision.json", &mut material.gaps).await?;
    material.metrics = one(context, "metrics.json", &mut material.gaps).await?;
    material.evaluation = one(context, "evaluation.json", &mut material.gaps).await?;
    material.validation = one(context, "validation_result.json", &mut material.gaps).await?;
    material.contract = one(context, "contract_validation_report.json", &mut material.gaps).await?;
    material.schema = one(context, "canonical_schema_snapshot.json", &mut material.gaps).await?;
    material.features = one(context, "features.json", &mut material.gaps).await?;
    let models = many::<ModelDocument>(context, "model.json", &mut material.gaps).await?;
    let importances = many::<Importance>(context, "feature_importance.json", &mut material.gaps).await?;
    // The list does not say whose it is: it is of the model that the same task instance made.
    let model_of = |producer: InstanceId| {
        let made = models.iter().find(|(maker, _)| *maker == producer);
        made.map_or_else(|| producer.to_string(), |(_, model)| model.name.clone())
    };
    material.importances = importances.into_iter().map(|(producer, found)| (model_of(producer), found)).collect();
    material.model_documents = models.into_iter().map(|(_, model)| model).collect();
    let mut backtests = Vec::new();
    for input in context.inputs("backtest.parquet") {
        backtests.push(context.fetch(input).await?);
    }
    Ok(Fetched { material, backtests })
}

impl Fetched {
    /// Reads the backtests; blocks. A backtest that can not be read leaves a gap, not a failure.
    pub(super) fn finish(self, series: usize) -> Material {
        let Self { mut material, backtests } = self;
        if let Err(error) = read_backtests(&mut material, &backtests, series) {
            material.backtest = None;
            material.sample = None;
            let reason = format!("could not be read: {}.", chain(&error));
            material.gaps.push(Gap { artifact: "backtest.parquet".to_owned(), reason });
            material.settle();
        }
        material
    }
}

fn read_backtests(material: &mut Material, files: &[PathBuf], series: usize) -> Result<(), BacktestError> {
    if !files.is_empty() {
        material.backtest = Some(Backtest::read(files)?);
    }
    material.settle();
    if let Some(backtest) = &material.backtest {
        let focus = material.focus.as_ref().and_then(|model| backtest.models.get_index_of(model)).unwrap_or(0);
        material.sample = Some(Sample::read(backtest, files, focus, series)?);
    }
    Ok(())
}

async fn one<T: DeserializeOwned>(
    context: &TaskContext,
    name: &str,
    gaps: &mut Vec<Gap>,
) -> Result<Option<T>, TaskError> {
    Ok(many(context, name, gaps).await?.into_iter().next().map(|(_, document)| document))
}

async fn many<T: DeserializeOwned>(
    context: &TaskContext,
    name: &str,
    gaps: &mut Vec<Gap>,
) -> Result<Vec<(InstanceId, T)>, TaskError> {
    let mut found = Vec::new();
    for input in context.inputs(name) {
        let path = context.fetch(input).await?;
        let bytes = tokio::fs::read(&path).await.map_err(|source| {
            TaskError::transient_from(format!("can not read the local copy of {}", input.artifact.key), source)
        })?;
        match serde_json::from_slice(&bytes) {
            Ok(document) => found.push((input.producer.clone(), document)),
            Err(error) => {
                let reason =
                    format!("was made by {}, but is not the JSON that a report reads: {error}.", input.producer);
                gaps.push(Gap { artifact: name.to_owned(), reason });
            }
        }
    }
    Ok(found)
}

fn source(input: &Input) -> Source {
    let ArtifactRef { name, digest, bytes, rows, .. } = &input.artifact;
    Source {
        name: name.to_string(),
        producer: input.producer.to_string(),
        digest: digest.to_string(),
        bytes: *bytes,
        rows: *rows,
    }
}

/// Facts that a replay has, too: no moment of creation, no duration.
fn run_lines(context: &TaskContext, params: &ReportParams) -> RunLines {
    let (identity, facts) = (context.identity(), context.facts());
    let params_of_run = facts
        .params
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| (name.clone(), value.as_str().map_or_else(|| value.to_string(), str::to_owned)));
    RunLines {
        title: params.title.clone().unwrap_or_else(|| format!("Forecast report: {}", identity.dag)),
        tenant: identity.tenant.to_string(),
        dag: identity.dag.to_string(),
        run_id: facts.run_id.clone(),
        dag_version: facts.dag_version.clone(),
        seed: facts.seed,
        interval: facts.interval_start.clone().zip(facts.interval_end.clone()),
        params: params_of_run.collect(),
    }
}

/// An error with its sources, in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let sources = std::iter::successors(Some(error), |error| error.source());
    sources.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// For errors that only a bug can cause.
pub(super) fn bug(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> TaskError {
    TaskError::permanent_from(ErrorClass::System, "the report could not be rendered", error)
}
