//! Task kinds that do what a test tells them to: succeed, fail, panic, wait, publish.
//!
//! Registered beside or instead of the real kinds. Their parameters say what to do, so a DAG in a
//! test reads as the scenario it is.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

use arrow::array::{ArrayRef, StringArray, UInt64Array};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use engine::dag::{DependsOn, InputSpec, OutputSpec};
use engine::id::ArtifactName;
use engine::task::{ErrorClass, Kinds, Task, TaskContext, TaskError, TaskOutput};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// The kinds of this file.
pub fn fake_kinds() -> Kinds {
    let mut kinds = Kinds::new();
    kinds.register(Fake);
    kinds
}

/// What a fake attempt does, in this order: note itself in the ledger, publish, wait, panic or fail.
#[derive(Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct FakeParams {
    /// A file to which each attempt appends `task attempt epoch`.
    pub ledger: Option<String>,
    /// Publishes `out.json` with these outputs.
    pub outputs: Value,
    /// Waits until it is told to stop.
    pub hang: bool,
    /// Panics.
    pub panic: bool,
    /// Fails for good, with this message.
    pub fail: Option<String>,
    /// Fails, in a way that another try may mend, in the first so many attempts.
    pub fail_first: i64,
    /// Waits until this file exists.
    pub wait_for: Option<String>,
    /// Publishes `table.parquet`, three rows of which the second is how many bytes this file has, and makes
    /// the file a byte longer: no two attempts come to the same.
    pub noise: Option<String>,
}

/// `kind = "fake"`.
pub struct Fake;

#[async_trait]
impl Task for Fake {
    type Params = FakeParams;
    const KIND: &'static str = "fake";
    const CODE_VERSION: u32 = 1;
    const SUMMARY: &'static str = "does what a test tells it to";
    const DEPENDS_ON: DependsOn = DependsOn::Inputs;
    const VOLATILE: &'static [&'static str] = &["seconds"];

    fn inputs(_with: &Value) -> Vec<InputSpec> {
        vec![InputSpec { name: out(), many: true, optional: true }]
    }

    fn outputs(_with: &Value) -> Vec<OutputSpec> {
        vec![OutputSpec { name: out(), summary: "the outputs as a file".into() }]
    }

    async fn run(&self, context: &TaskContext, params: FakeParams) -> Result<TaskOutput, TaskError> {
        let identity = context.identity();
        if let Some(ledger) = &params.ledger {
            note(ledger, &format!("{} {} {}\n", identity.instance, identity.attempt, identity.epoch));
        }
        context
            .publish_json("out.json", &json!({ "task": identity.instance.to_string(), "seed": context.seed() }))
            .await?;
        if let Some(path) = &params.noise {
            publish_noise(context, path).await?;
        }
        if params.hang {
            context.cancel().cancelled().await;
            return Err(TaskError::Canceled);
        }
        if let Some(path) = &params.wait_for {
            appears(Path::new(path)).await;
        }
        assert!(!params.panic, "told to panic");
        if let Some(message) = params.fail {
            return Err(TaskError::permanent(ErrorClass::Validation, message));
        }
        if identity.attempt.0 <= params.fail_first {
            return Err(TaskError::transient_from("told to fail at first", std::io::Error::other("a test")));
        }
        Ok(TaskOutput::new(if params.outputs.is_null() { json!({}) } else { params.outputs }))
    }
}

async fn publish_noise(context: &TaskContext, path: &str) -> Result<(), TaskError> {
    note(path, ".");
    let noise = std::fs::metadata(path).map_or(0, |it| it.len());
    let schema = Arc::new(Schema::new(vec![
        Field::new("series", DataType::Utf8, false),
        Field::new("demand", DataType::UInt64, false),
    ]));
    let columns: Vec<ArrayRef> =
        vec![Arc::new(StringArray::from(vec!["a", "b", "c"])), Arc::new(UInt64Array::from(vec![1, 1_000 + noise, 3]))];
    let batch = RecordBatch::try_new(Arc::clone(&schema), columns).expect("columns fit the schema");
    let mut sink = context.parquet("table.parquet", schema)?;
    sink.write(&batch)?;
    sink.publish(context).await.map(|_| ())
}

fn out() -> ArtifactName {
    ArtifactName::parse("out.json").expect("a valid name")
}

/// One line, appended in one write, as the effect ledger asks for.
fn note(path: &str, line: &str) {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the ledger is writable");
}

/// Returns once `path` exists: a file is the only signal that crosses processes without a channel.
async fn appears(path: &Path) {
    while !path.exists() {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}
