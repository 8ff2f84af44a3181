//! The `features` task kind: reads the panel and its schema, writes the feature table and its document.
//!
//! Registered by the binary. Everything that counts is in `spec`, `compute` and `table`; this file
//! moves artifacts and keeps tokio's threads free.

use std::fs::File;
use std::path::PathBuf;
use std::time::Instant;

use async_trait::async_trait;
use engine::dag::{DependsOn, InputSpec, OutputSpec, ParamProblem};
use engine::id::{ArtifactName, Digest};
use engine::task::{ErrorClass, ParquetSink, Task, TaskContext, TaskError, TaskOutput};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::features::panel::{Panel, PanelSchema, nothing_known};
use crate::features::spec::Spec;
use crate::features::table::{table_schema, write_table};
use crate::features::{FORMAT_VERSION, FeaturesDocument, FeaturesParams};

/// Lags, rolling statistics, calendar and covariates, none of which reads what a forecast can not know.
pub struct Features;

#[async_trait]
impl Task for Features {
    type Params = FeaturesParams;

    const KIND: &'static str = "features";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "Compute leak-free features from the canonical panel";
    const DEPENDS_ON: DependsOn = DependsOn::Inputs;
    const VOLATILE: &'static [&'static str] = &["read_seconds", "seconds"];

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        ["panel.parquet", "canonical_schema_snapshot.json"].map(required).into()
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        vec![
            output("features.parquet", "one row per series and period: keys, demand, features"),
            output("features.json", "what each feature is, its lag, and the digest of the rules"),
        ]
    }

    fn check(params: &FeaturesParams) -> Vec<ParamProblem> {
        params.problems()
    }

    async fn run(&self, context: &TaskContext, params: FeaturesParams) -> Result<TaskOutput, TaskError> {
        let started = Instant::now();
        let input = context.input("panel.parquet")?;
        let schema: PanelSchema = context.fetch_json(context.input("canonical_schema_snapshot.json")?).await?;
        let path = context.fetch(input).await?;
        let (panel, spec) = blocking(move || prepare(&path, &schema, &params)).await?;
        let document = document(&panel, &spec, input.artifact.digest)?;
        let read_seconds = started.elapsed().as_secs_f64();
        let sink = context.parquet("features.parquet", table_schema(&spec))?;
        let cancel = context.cancel().clone();
        let sink = blocking(move || compute(&spec, &panel, sink, &cancel)).await?;
        sink.publish(context).await?;
        context.publish_json("features.json", &document).await?;
        Ok(TaskOutput::new(json!({
            "rows": document.rows,
            "series": document.series,
            "features": document.columns.len(),
            "skipped": document.skipped,
            "spec_digest": document.spec_digest,
            "read_seconds": read_seconds,
            "seconds": started.elapsed().as_secs_f64(),
        })))
    }
}

fn prepare(path: &PathBuf, schema: &PanelSchema, params: &FeaturesParams) -> Result<(Panel, Spec), TaskError> {
    let file = File::open(path)
        .map_err(|source| TaskError::transient_from(format!("can not open {}", path.display()), source))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|b| b.build()).map_err(|source| {
        TaskError::permanent_from(ErrorClass::System, "panel.parquet is not readable Parquet", source)
    })?;
    let panel = Panel::read(schema, reader)?;
    let spec = Spec::new(params, &panel);
    Ok((panel, spec))
}

fn compute(
    spec: &Spec,
    panel: &Panel,
    mut sink: ParquetSink,
    cancel: &CancellationToken,
) -> Result<ParquetSink, TaskError> {
    write_table(spec, panel, cancel, |batch| sink.write(batch))?;
    Ok(sink)
}

/// `features.json` of a panel.
pub(super) fn document(panel: &Panel, spec: &Spec, panel_digest: Digest) -> Result<FeaturesDocument, TaskError> {
    let (first_time, last_time) = panel.span().ok_or_else(nothing_known)?;
    Ok(FeaturesDocument {
        format_version: FORMAT_VERSION,
        spec_digest: spec.digest(panel.frequency)?,
        panel_digest,
        frequency: panel.frequency,
        season: spec.season,
        horizon: spec.horizon,
        rows: panel.times.len() as u64,
        series: panel.series.len() as u64,
        first_time,
        last_time,
        columns: spec.features.iter().map(|feature| feature.column.clone()).collect(),
        skipped: spec.skipped.clone(),
    })
}

/// Runs what computes or waits for a disk away from tokio's own threads.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, TaskError> + Send + 'static,
) -> Result<T, TaskError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(TaskError::Canceled),
    }
}

fn required(name: &str) -> InputSpec {
    InputSpec { name: artifact(name), many: false, optional: false }
}

fn output(name: &str, summary: &str) -> OutputSpec {
    OutputSpec { name: artifact(name), summary: summary.to_owned() }
}

fn artifact(name: &str) -> ArtifactName {
    ArtifactName::parse(name).expect("a literal that keeps to the rule")
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use testkit::TaskBench;

    use super::*;
    use crate::features::fixture::{panel_batch, schema_json};

    async fn bench(series: usize, days: i32) -> TaskBench {
        let mut bench = TaskBench::new();
        bench.input_batches("ingest", "panel.parquet", &[panel_batch(series, days)]).await;
        bench.input_json("ingest", "canonical_schema_snapshot.json", &schema_json()).await;
        bench
    }

    #[tokio::test]
    async fn the_same_panel_gives_the_same_bytes_on_any_number_of_threads() {
        let bench = bench(130, 300).await;
        let first = bench.run(Features, json!({"horizon": 28})).await.expect("features");
        let second = bench.run(Features, json!({"horizon": 28})).await.expect("features");
        for name in ["features.parquet", "features.json"] {
            assert_eq!(first.artifact(name).digest, second.artifact(name).digest, "{name}");
        }
        let panel = crate::features::fixture::panel(130, 300);
        let spec = Spec::new(&FeaturesParams::new(28), &panel);
        let batches = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            let mut batches = Vec::new();
            let keep = |batch: &arrow::array::RecordBatch| {
                batches.push(batch.clone());
                Ok(())
            };
            pool.install(|| write_table(&spec, &panel, &CancellationToken::new(), keep)).expect("features");
            batches
        };
        assert!(batches(1).len() > 1, "more than one chunk");
        assert_eq!(batches(1), batches(3));
    }

    #[tokio::test]
    async fn the_document_describes_the_table() {
        let bench = bench(2, 120).await;
        let done = bench.run(Features, json!({"horizon": 14, "lags": [14, 21]})).await.expect("features");
        let document: FeaturesDocument = serde_json::from_value(done.json("features.json")).expect("the document");
        let table = done.batch("features.parquet");
        let names: Vec<&str> = document.columns.iter().map(|column| column.name.as_str()).collect();
        let schema = table.schema();
        let found: Vec<&str> = schema.fields().iter().skip(4).map(|field| field.name().as_str()).collect();
        assert_eq!(names, found);
        assert_eq!((document.rows, document.series), (table.num_rows() as u64, 2));
        assert_eq!(document.last_time.to_string(), "2022-05-02");
        let newest = document.columns.iter().filter_map(|column| column.lag).min();
        assert_eq!(newest, Some(14), "no feature reads newer demand than the horizon allows");
        let kind = document.columns.iter().find(|column| column.name == "kind").expect("the static column");
        assert_eq!(kind.categories.as_deref(), Some(&["city".to_owned(), "corner".to_owned()][..]));
    }

    #[tokio::test]
    async fn the_digest_is_about_the_rules_not_the_data() {
        let digest = async |series, with: Value| {
            let done = bench(series, 120).await.run(Features, with).await.expect("features");
            done.json("features.json")["spec_digest"].clone()
        };
        let plain = digest(2, json!({"horizon": 14})).await;
        assert_eq!(plain, digest(4, json!({"horizon": 14})).await);
        assert_ne!(plain, digest(2, json!({"horizon": 15})).await);
        assert_ne!(plain, digest(2, json!({"horizon": 14, "rolling": [7]})).await);
    }

    #[test]
    fn a_lag_below_the_horizon_is_named_with_its_place() {
        let params: FeaturesParams =
            serde_json::from_value(json!({"horizon": 28, "lags": [28, 7], "rolling": [0]})).expect("typed");
        let paths: Vec<String> = Features::check(&params).iter().map(|problem| problem.path.join(".")).collect();
        assert_eq!(paths, ["lags.1", "rolling.0"]);
    }

    #[tokio::test]
    async fn a_cancel_ends_the_pass() {
        let bench = bench(2, 120).await;
        bench.cancel().cancel();
        let error = bench.run(Features, json!({"horizon": 14})).await.err().expect("canceled");
        assert!(matches!(error, TaskError::Canceled), "{error}");
    }
}
