//! Kind `validate`: a panel and a suite in, a verdict, the clean rows and the quarantined ones out.
//!
//! Registered by the crate. In two passes that are DataFusion plans: `measure` judges all expectations in one scan
//! (every failure at once, never only the first), and `examine` goes back, if need be, for examples and the rows to
//! quarantine. The verdict and the quarantine are published before a failure is reported, because they explain it.

mod bind;
mod examine;
mod measure;
mod reader;
mod result;
pub mod suite;
#[cfg(test)]
mod tests;

use std::path::Path;

use async_trait::async_trait;
use datafusion::dataframe::DataFrame;
use datafusion::error::DataFusionError;
use datafusion::prelude::{ParquetReadOptions, SessionContext};
use engine::dag::{DependsOn, InputSpec, OutputSpec};
use engine::task::{ErrorClass, Task, TaskContext, TaskError, TaskOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{port, session};
use bind::{Binder, Test};
use examine::{Examined, Examples, Suspect};
use measure::{Counts, Duplicates, Measured};
use result::{ValidationResult, Verdict};
use suite::{Expectation, Suite};

const PANEL: &str = "panel.parquet";
const QUARANTINE: &str = "quarantine.parquet";
const RESULT: &str = "validation_result.json";

/// The kind.
pub struct Validate;

/// Parameters of `validate`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ValidateParams {
    /// The suite: a file stem in dags/suites.
    pub suite: String,
    /// What a failed expectation of severity `error` does to the task.
    #[serde(default)]
    pub on_failure: OnFailure,
    /// Memory for finding duplicates, in MiB; what exceeds it goes to disk.
    #[serde(default = "default_memory")]
    pub memory_mb: u32,
}

fn default_memory() -> u32 {
    session::DEFAULT_MEMORY_MB
}

/// What a failed expectation of severity `error` does to the task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum OnFailure {
    /// It fails, after the verdict and the quarantine are published.
    #[default]
    Fail,
    /// It goes on with the clean rows; its outputs tell.
    Warn,
}

#[async_trait]
impl Task for Validate {
    type Params = ValidateParams;

    const KIND: &'static str = "validate";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "Judges a panel by a suite and quarantines the rows that break it";
    // Freshness is measured against the moment that the run is about.
    const DEPENDS_ON: DependsOn = DependsOn::Moment;
    const DOCUMENTS: &'static [(&'static str, &'static str)] = &[("suite", "suites")];

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        vec![port::one(PANEL)]
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        vec![
            port::made(PANEL, "the rows that broke nothing, in their order"),
            port::made(RESULT, "the verdict on every expectation, with examples"),
            port::made(QUARANTINE, "the rows that broke something, with their number and the reason"),
        ]
    }

    async fn run(&self, context: &TaskContext, params: ValidateParams) -> Result<TaskOutput, TaskError> {
        let suite = Suite::parse(context.document("suite")?);
        let suite = suite.map_err(|error| TaskError::permanent(ErrorClass::System, error.to_string()))?;
        let path = context.fetch(context.input(PANEL)?).await?;
        // One partition: rows keep their order, and sums of floats theirs.
        let session = session::open(params.memory_mb, context.scratch(), 1).map_err(plan_error)?;
        let panel = read(&session, &path).await.map_err(plan_error)?;
        let judged = judge(context, &session, &panel, &suite);
        let (rows, verdicts, examined) =
            context.cancel().run_until_cancelled(judged).await.ok_or(TaskError::Canceled)??;
        let result = ValidationResult::new(&suite, rows, examined.quarantined, verdicts);
        context.publish_json(RESULT, &result).await?;
        examined.quarantine.publish(context).await?;
        if !result.success && params.on_failure == OnFailure::Fail {
            return Err(TaskError::permanent(ErrorClass::Validation, result.failure()));
        }
        match examined.clean {
            Some(clean) => clean.publish(context).await?,
            None => context.publish_file(PANEL, &path).await?,
        };
        Ok(TaskOutput::new(json!({
            "success": result.success,
            "evaluated": result.statistics.evaluated,
            "unsuccessful": result.statistics.unsuccessful,
            "quarantined_rows": result.quarantined_rows,
            "rows": rows - result.quarantined_rows,
        })))
    }
}

async fn read(session: &SessionContext, panel: &Path) -> Result<DataFrame, DataFusionError> {
    // An object is not asked for its name; metadata of the file would end up in the schema of the next one.
    let options = ParquetReadOptions { file_extension: "", skip_metadata: Some(true), ..ParquetReadOptions::default() };
    session.read_parquet(panel.to_string_lossy().as_ref(), options).await
}

/// The number of rows, a verdict per expectation, and the rows that broke one.
async fn judge<'a>(
    context: &TaskContext,
    session: &SessionContext,
    panel: &DataFrame,
    suite: &'a Suite,
) -> Result<(u64, Vec<Verdict<'a>>, Examined), TaskError> {
    let binder = Binder { session, schema: panel.schema(), logical_time: &context.facts().logical_time };
    let bound: Vec<Result<Test, String>> = suite.expectations.iter().map(|one| binder.bind(one)).collect();
    let tests: Vec<Option<&Test>> = bound.iter().map(|test| test.as_ref().ok()).collect();
    let (rows, measured) = measure::measure(panel, &tests).await.map_err(plan_error)?;
    // Each verdict, or what is still needed for it: counts, and the place of the examples.
    let (mut suspects, mut drafts) = (Vec::new(), Vec::new());
    for ((expectation, test), measured) in suite.expectations.iter().zip(bound).zip(measured) {
        drafts.push(match (test, measured) {
            (Err(message), _) => Draft::Done(Verdict::unjudged(expectation, message)),
            (Ok(Test::Known { success, observed }), _) => {
                Draft::Done(Verdict::observed(expectation, success, observed))
            }
            (Ok(Test::Table { range, .. }), Measured::Figure(figure)) => {
                let array = figure.to_array().map_err(plan_error)?;
                let verdict = Verdict::observed(expectation, range.contains(&figure), examine::json(&array, 0));
                Draft::Done(verdict)
            }
            (Ok(Test::Rows(test)), Measured::Rows(mut counts)) => {
                let mut duplicates = None;
                if test.unique {
                    let found = Duplicates::find(panel, &expectation.columns, &test.unexpected).await;
                    let found = found.map_err(plan_error)?;
                    counts.unexpected = found.rows;
                    duplicates = Some(found);
                }
                let place = (counts.unexpected > 0).then_some(suspects.len());
                if place.is_some() {
                    suspects.push(Suspect { expectation, unexpected: test.unexpected, duplicates });
                }
                Draft::Counted(expectation, counts, place)
            }
            (Ok(_), _) => Draft::Done(Verdict::unjudged(expectation, "it was not measured".to_owned())),
        });
    }
    let examined = examine::examine(context, panel, &suspects).await?;
    let finish = |draft| match draft {
        Draft::Done(verdict) => verdict,
        Draft::Counted(expectation, counts, place) => {
            let examples = place.map_or_else(Examples::default, |place| examined.examples[place].clone());
            Verdict::counted(expectation, counts, examples)
        }
    };
    let verdicts = drafts.into_iter().map(finish).collect();
    Ok((rows, verdicts, examined))
}

/// A verdict, or the counts of one that may need examples.
enum Draft<'a> {
    Done(Verdict<'a>),
    Counted(&'a Expectation, Counts, Option<usize>),
}

fn plan_error(error: DataFusionError) -> TaskError {
    match error.find_root() {
        DataFusionError::IoError(_) => TaskError::transient_from("the panel can not be read now", error),
        DataFusionError::ResourcesExhausted(_) => {
            let hint = "the suite needs more memory than it may use; raise memory_mb";
            TaskError::permanent_from(ErrorClass::System, hint, error)
        }
        _ => TaskError::permanent_from(ErrorClass::System, "the suite's plan over the panel failed", error),
    }
}
