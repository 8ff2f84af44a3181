//! Kind `ingest`: a raw source and a contract in, the canonical panel and an account of every decision out.
//!
//! In three stages that stream into each other: `intake` reads and screens rows, `query` joins, aggregates and sorts
//! them in DataFusion, `grid` completes each series and applies the policies. A refusal is published as a report too,
//! before the attempt fails.

mod grid;
mod intake;
mod policy;
mod query;
mod report;
mod screen;

use std::path::{Path, PathBuf};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use engine::dag::{InputSpec, OutputSpec};
use engine::id::ArtifactName;
use engine::task::{ErrorClass, Task, TaskContext, TaskError, TaskOutput};
use futures::StreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::contract::Contract;
use crate::session;
use crate::source::{self, SourceError, SourceFile};

/// The kind.
pub struct Ingest;

/// Parameters of `ingest`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct IngestParams {
    /// The raw data: a file, a folder or a pattern (`sales/part-*.csv`), relative to the project's root or absolute.
    pub source: String,
    /// The contract: a file stem in dags/contracts.
    pub contract: String,
    /// Memory for joins, aggregation and sorting, in MiB; what exceeds it goes to disk.
    #[serde(default = "default_memory")]
    pub memory_mb: u32,
}

fn default_memory() -> u32 {
    session::DEFAULT_MEMORY_MB
}

/// Why a source does not become a panel.
#[derive(Debug, thiserror::Error)]
pub(crate) enum IngestError {
    /// A file can not be read as declared.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The contract's SQL does not fit the source.
    #[error("the contract does not fit its source:{}", list(.0))]
    Contract(Vec<String>),
    /// The contract needs what SQL can not say.
    #[error("requires_custom_adapter: {0}")]
    NeedsAdapter(String),
    /// Rows broke a rule that the contract calls fatal.
    #[error("{0}; see contract_validation_report.md")]
    Rows(String),
    /// The attempt has to stop.
    #[error("canceled")]
    Canceled,
    /// The plan failed while it ran.
    #[error("the plan over the source failed")]
    Plan(#[from] datafusion::error::DataFusionError),
    /// The panel could not be written.
    #[error("can not write the panel")]
    Write(#[source] TaskError),
}

fn list(problems: &[String]) -> String {
    problems.iter().map(|problem| format!("\n  - {problem}")).collect()
}

/// What one ingest is about.
pub(crate) struct Job {
    pub(crate) contract: Contract,
    pub(crate) digest: String,
    pub(crate) files: Vec<SourceFile>,
    pub(crate) folder: PathBuf,
    pub(crate) folder_shown: PathBuf,
}

impl Job {
    /// Parses the contract and measures the source.
    pub(crate) fn open(contract: &str, path: &Path, shown: &str) -> Result<Self, IngestError> {
        let digest = blake3::hash(contract.as_bytes()).to_hex().to_string();
        let contract = Contract::parse(contract).map_err(|error| IngestError::Contract(error.problems))?;
        let files = source::locate(&contract.source, path, shown)?;
        let folder = if path.is_dir() { path } else { path.parent().unwrap_or(Path::new(".")) };
        let shown = Path::new(shown);
        let folder_shown = if path.is_dir() { shown } else { shown.parent().unwrap_or(Path::new("")) };
        Ok(Self { contract, digest, files, folder: folder.to_owned(), folder_shown: folder_shown.to_owned() })
    }
}

#[async_trait]
impl Task for Ingest {
    type Params = IngestParams;

    const KIND: &'static str = "ingest";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "Raw sales to the canonical panel, by a contract";
    const DOES_IO: bool = true;
    const DOCUMENTS: &'static [(&'static str, &'static str)] = &[("contract", "contracts")];

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        Vec::new()
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        [
            ("panel.parquet", "one row per series and period, sorted"),
            ("canonical_schema_snapshot.json", "the panel's columns, roles and policies"),
            ("column_lineage_map.json", "which raw columns make which canonical column"),
            ("contract_validation_report.json", "every decision and every bad row, counted"),
            ("contract_validation_report.md", "the same for people"),
        ]
        .map(|(name, summary)| OutputSpec {
            name: ArtifactName::parse(name).expect("a literal that follows the rule"),
            summary: summary.to_owned(),
        })
        .into()
    }

    async fn run(&self, context: &TaskContext, params: IngestParams) -> Result<TaskOutput, TaskError> {
        let document = context.document("contract")?;
        let path = context.source_path(&params.source);
        let mut report = report::Report::default();
        let outcome = match Job::open(document, &path, &params.source) {
            Ok(job) => {
                report.job(&job);
                ingest(context, &job, &params, &mut report).await
            }
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            report.refuse(error);
        }
        if !matches!(outcome, Err(IngestError::Canceled)) {
            context.publish_json("contract_validation_report.json", &report).await?;
            context.publish_bytes("contract_validation_report.md", report.markdown()).await?;
        }
        match outcome {
            Ok(()) => Ok(TaskOutput::new(report.outputs())),
            Err(error) => Err(task_error(error)),
        }
    }
}

async fn ingest(
    context: &TaskContext,
    job: &Job,
    params: &IngestParams,
    report: &mut report::Report,
) -> Result<(), IngestError> {
    let session = session::open(params.memory_mb, context.scratch(), session::partitions())?;
    let opened = query::open(&session, job, context.cancel().clone()).await;
    let query = opened.inspect_err(|_| report.sides(&[]))?;
    report.sides(&query.side_files);
    let mut grid = grid::Grid::new(&session, &job.contract)?;
    let mut sink = context.parquet("panel.parquet", grid.schema()).map_err(IngestError::Write)?;
    let streamed = stream(&session, &query, &mut grid, |panel| sink.write(&panel).map_err(IngestError::Write)).await;
    report.rows(&query.intake.take(), &grid);
    query.intake.verdict(streamed, context.cancel().is_cancelled())?;
    grid.verdict(&job.contract, report.problems())?;
    sink.publish(context).await.map_err(IngestError::Write)?;
    let (snapshot, lineage) = (report.snapshot(job, &grid), query.lineage(&job.contract));
    for (name, value) in [("canonical_schema_snapshot.json", snapshot), ("column_lineage_map.json", lineage)] {
        context.publish_json(name, &value).await.map_err(IngestError::Write)?;
    }
    Ok(())
}

/// Runs the plan and hands the panel, batch by batch, to `write`.
async fn stream(
    session: &SessionContext,
    query: &query::Query,
    grid: &mut grid::Grid,
    mut write: impl FnMut(RecordBatch) -> Result<(), IngestError>,
) -> Result<(), IngestError> {
    let mut rows = query.execute(session).await?;
    while let Some(batch) = rows.next().await {
        let last = query.intake.last_time();
        if let Some(panel) = grid.push(&batch?, last)? {
            write(panel)?;
        }
    }
    grid.finish(query.intake.last_time())?.map_or(Ok(()), write)
}

fn task_error(error: IngestError) -> TaskError {
    match error {
        IngestError::Canceled => TaskError::Canceled,
        IngestError::Write(error) => error,
        IngestError::Source(SourceError::Io { .. }) => TaskError::transient_from(error.to_string(), error),
        IngestError::Plan(_) => TaskError::permanent_from(ErrorClass::System, error.to_string(), error),
        _ => TaskError::permanent(ErrorClass::Validation, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use arrow::compute::concat_batches;
    use arrow::util::pretty::pretty_format_batches;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::contract::tests::SHOP;

    /// The panel of `csv` under `contract`, made with so many partitions and so much memory.
    async fn panel(contract: &str, csv: &str, partitions: usize, memory_mb: u32) -> RecordBatch {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("sales.csv");
        std::fs::write(&path, csv).expect("write");
        let session = session::open(memory_mb, folder.path(), partitions).expect("session");
        let job = Job::open(contract, &path, "sales.csv").expect("job");
        let query = query::open(&session, &job, CancellationToken::new()).await.expect("query");
        let mut grid = grid::Grid::new(&session, &job.contract).expect("grid");
        let mut batches = Vec::new();
        let streamed = stream(&session, &query, &mut grid, |batch| {
            batches.push(batch);
            Ok(())
        });
        let streamed = streamed.await;
        query.intake.verdict(streamed, false).expect("streamed");
        concat_batches(&grid.schema(), &batches).expect("one schema")
    }

    fn summed() -> String {
        SHOP.replace("duplicates = \"fail\"", "duplicates = \"sum\"")
            + "[columns.mean]\nsql = \"sold\"\naggregate = \"mean\"\nrole = \"past_only\"\n\
               [columns.latest]\nsql = \"sold\"\naggregate = \"last\"\nrole = \"past_only\"\n"
    }

    /// 30,000 rows in 600 series and periods, far from sorted.
    fn many_rows() -> String {
        let mut csv = String::from("shop,day,sold\n");
        for i in 0_u64..30_000 {
            let scattered = i.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
            let (shop, day) = (scattered % 30, 1 + scattered / 30 % 20);
            csv += &format!("s{shop},2024-01-{day:02},{}.{:03}\n", i * 7919 % 100_000, i % 1000);
        }
        csv
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn partitions_and_memory_do_not_change_a_bit() {
        let (contract, csv) = (summed(), many_rows());
        let one = panel(&contract, &csv, 1, 64).await;
        assert_eq!(one.num_rows(), 600);
        for (partitions, memory_mb) in [(2, 64), (5, 64), (2, 2)] {
            let other = panel(&contract, &csv, partitions, memory_mb).await;
            assert_eq!(one, other, "{partitions} partitions, {memory_mb} MiB");
        }
    }

    /// In floating point this is 0 or 0.125, as the order has it.
    #[tokio::test]
    async fn sums_are_exact() {
        let csv = "shop,day,sold\na,2024-01-01,1e15\na,2024-01-01,0.1\na,2024-01-01,-1e15\n";
        let panel = panel(&summed(), csv, 1, 64).await;
        let shown = pretty_format_batches(&[panel]).expect("text").to_string();
        assert!(shown.contains("| 0.1    |"), "{shown}");
    }
}
