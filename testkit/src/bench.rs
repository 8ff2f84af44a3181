//! Runs one task kind without an executor: inputs in, artifacts out, in a temporary folder.
//!
//! Called by the unit tests of `tasks`. It goes the way of the executor (parameters checked by
//! [`Kinds`], inputs fetched from a store, a fresh epoch per attempt), but has no retries, no
//! database and no DAG.
//!
//! ```text
//! let mut bench = TaskBench::new();
//! bench.document("contract", "frequency = \"D\"");
//! bench.source("sales.csv", b"date,item,units\n2024-01-01,a,3\n");
//! let done = bench.run(ingest, json!({"source": "sales.csv", "contract": "shop"})).await.expect("ingested");
//! assert_eq!(done.artifact("panel.parquet").rows, Some(1));
//! // The next task reads what this one made, under the id that the DAG would give it.
//! bench.input_done("ingest", &done);
//! let done = bench.run(features, json!({"horizon": 7, "lags": [7]})).await.expect("features");
//! let rows = done.batch("features.parquet");
//! ```

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use engine::artifact::{ArtifactRef, ArtifactStore, FileFacts, KeyPrefix, ParquetFileWriter};
use engine::id::{
    ArtifactName, AttemptNumber, DagId, Epoch, Generation, InstanceId, ModelName, RunId, TaskId, TenantId,
};
use engine::registry::{ModelRegistry, ModelVersion, RegistryError};
use engine::secret::{Redactor, SecretText};
use engine::task::{
    AttemptIdentity, AttemptLog, Input, Kinds, LogStream, RunFacts, Task, TaskContext, TaskContextParts, TaskError,
    TaskOutput,
};
use indexmap::IndexMap;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// A place to run single tasks: a temporary project with a local artifact store.
pub struct TaskBench {
    folder: Arc<TempDir>,
    artifacts: Arc<ArtifactStore>,
    inputs: Vec<Input>,
    documents: IndexMap<String, String>,
    models: Vec<ModelVersion>,
    params: Value,
    seed: u64,
    epoch: AtomicI64,
    cancel: CancellationToken,
    redactor: Redactor,
    log: Mutex<Arc<Recorder>>,
}

impl Default for TaskBench {
    fn default() -> Self {
        Self::new()
    }
}

impl TaskBench {
    /// An empty bench: seed 1, no inputs, no documents, an empty registry.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir(folder.path().join("project")).expect("a project folder");
        let root = folder.path().join("artifacts");
        let artifacts = ArtifactStore::open(root.to_str().expect("a UTF-8 path")).expect("a local store");
        Self {
            folder: Arc::new(folder),
            artifacts: Arc::new(artifacts),
            inputs: Vec::new(),
            documents: IndexMap::new(),
            models: Vec::new(),
            params: Value::Object(Default::default()),
            seed: 1,
            epoch: AtomicI64::new(0),
            cancel: CancellationToken::new(),
            redactor: Redactor::default(),
            log: Mutex::default(),
        }
    }

    /// The project's root: relative sources are below it.
    pub fn project_root(&self) -> PathBuf {
        self.folder.path().join("project")
    }

    /// The artifact store, to look at (or damage) what was published.
    pub fn artifacts(&self) -> &Arc<ArtifactStore> {
        &self.artifacts
    }

    /// The token that every context of this bench carries.
    pub fn cancel(&self) -> &CancellationToken {
        &self.cancel
    }

    /// Sets the seed of the task instance and of the run.
    pub fn seed(&mut self, seed: u64) -> &mut Self {
        self.seed = seed;
        self
    }

    /// Sets the run's resolved parameters (an object).
    pub fn params(&mut self, params: Value) -> &mut Self {
        self.params = params;
        self
    }

    /// Names a value that the tasks' own words have to be without; the bench's log is as it came.
    pub fn secret(&mut self, value: &str) -> &mut Self {
        self.redactor = Redactor::new(&[SecretText::new(value.to_owned())]);
        self
    }

    /// Writes a raw source below the project's root.
    pub fn source(&mut self, path: &str, bytes: &[u8]) -> &mut Self {
        let file = self.project_root().join(path);
        std::fs::create_dir_all(file.parent().expect("below the root")).expect("a folder");
        std::fs::write(file, bytes).expect("a source file");
        self
    }

    /// Pins the text of the document that parameter `param` names.
    pub fn document(&mut self, param: &str, text: &str) -> &mut Self {
        self.documents.insert(param.to_owned(), text.to_owned());
        self
    }

    /// Puts a version into the tenant's registry; its status decides whether it is the champion.
    pub fn model(&mut self, version: ModelVersion) -> &mut Self {
        self.models.push(version);
        self
    }

    /// Adds an input of Parquet. `producer` is a task, or one element of it: `train` or `train[2]`.
    pub async fn input_batches(&mut self, producer: &str, name: &str, batches: &[RecordBatch]) -> &mut Self {
        let schema = batches.first().expect("at least one batch, to know the schema").schema();
        let path = self.folder.path().join(format!("input-{}", Uuid::new_v4().simple()));
        let mut writer = ParquetFileWriter::create(&path, schema).expect("a Parquet file");
        for batch in batches {
            writer.write(batch).expect("a batch of one schema");
        }
        let facts = writer.finish().expect("a finished Parquet file");
        self.publish_input(producer, name, &path, facts).await
    }

    /// Adds an input of any other format.
    pub async fn input_bytes(&mut self, producer: &str, name: &str, bytes: impl Into<Bytes>) -> &mut Self {
        let path = self.folder.path().join(format!("input-{}", Uuid::new_v4().simple()));
        let bytes: Bytes = bytes.into();
        std::fs::write(&path, &bytes).expect("an input file");
        self.publish_input(producer, name, &path, FileFacts::of(&bytes)).await
    }

    /// Adds a JSON input.
    pub async fn input_json(&mut self, producer: &str, name: &str, value: &Value) -> &mut Self {
        let bytes = serde_json::to_vec(value).expect("JSON");
        self.input_bytes(producer, name, bytes).await
    }

    /// Adds everything that an earlier task made. Inputs of one producer and name replace each other.
    pub fn input_done(&mut self, producer: &str, done: &Done) -> &mut Self {
        for artifact in &done.artifacts {
            self.add(Input { producer: instance(producer), artifact: artifact.clone() });
        }
        self
    }

    /// A context for the next attempt, for tests that call parts of a task.
    pub fn context(&self) -> TaskContext {
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let scratch = self.folder.path().join(format!("scratch-{epoch}"));
        std::fs::create_dir(&scratch).expect("a scratch folder");
        let log = Arc::<Recorder>::default();
        *self.log.lock().unwrap_or_else(PoisonError::into_inner) = Arc::clone(&log);
        TaskContext::new(TaskContextParts {
            identity: identity(&instance("task"), Epoch(epoch)),
            facts: RunFacts {
                run_id: identity(&instance("task"), Epoch(epoch)).run.to_string(),
                dag_version: "0".repeat(64),
                params: self.params.clone(),
                seed: self.seed,
                logical_time: "2024-01-01T00:00:00Z".to_owned(),
                interval_start: None,
                interval_end: None,
            },
            seed: self.seed,
            inputs: self.inputs.clone(),
            documents: self.documents.clone(),
            project_root: self.project_root(),
            scratch,
            artifacts: Arc::clone(&self.artifacts),
            registry: Arc::new(Registry(self.models.clone())),
            log,
            redactor: self.redactor.clone(),
            cancel: self.cancel.clone(),
            skews: Vec::new(),
        })
    }

    /// What the latest context's attempt printed so far, both streams in the order in which they came.
    pub fn log(&self) -> String {
        self.log.lock().unwrap_or_else(PoisonError::into_inner).text()
    }

    /// Runs one attempt of `task`, its parameters checked as the executor does.
    ///
    /// # Errors
    /// The task's own, and parameters that do not fit.
    pub async fn run<T: Task>(&self, task: T, with: Value) -> Result<Done, TaskError> {
        let mut kinds = Kinds::new();
        kinds.register(task);
        let context = self.context();
        let output = kinds.run(T::KIND, &context, with).await?;
        Ok(Done {
            output,
            artifacts: context.published(),
            log: self.log(),
            store: Arc::clone(&self.artifacts),
            _folder: Arc::clone(&self.folder),
        })
    }

    async fn publish_input(&mut self, producer: &str, name: &str, path: &Path, facts: FileFacts) -> &mut Self {
        let producer = instance(producer);
        let name = ArtifactName::parse(name).expect("an artifact name");
        let epoch = self.epoch.fetch_add(1, Ordering::Relaxed) + 1;
        let key = key_prefix(&producer, Epoch(epoch)).key(&name);
        let artifact = self.artifacts.publish_file(&key, name, path, facts).await.expect("a published input");
        self.add(Input { producer, artifact });
        self
    }

    fn add(&mut self, input: Input) {
        self.inputs.retain(|old| old.producer != input.producer || old.artifact.name != input.artifact.name);
        self.inputs.push(input);
        self.inputs.sort_by(|a, b| (&a.producer, &a.artifact.name).cmp(&(&b.producer, &b.artifact.name)));
    }
}

/// What a task handed back and published.
pub struct Done {
    /// Outputs and registry changes.
    pub output: TaskOutput,
    /// What it published, in its order.
    pub artifacts: Vec<ArtifactRef>,
    /// What it printed.
    pub log: String,
    store: Arc<ArtifactStore>,
    // What was published outlives the bench that it was published in.
    _folder: Arc<TempDir>,
}

impl Done {
    /// The artifact of that name.
    pub fn artifact(&self, name: &str) -> &ArtifactRef {
        let names: Vec<_> = self.artifacts.iter().map(|artifact| artifact.name.as_str()).collect();
        let found = self.artifacts.iter().find(|artifact| artifact.name.as_str() == name);
        found.unwrap_or_else(|| panic!("{name} was not published, but {names:?}"))
    }

    /// Its file.
    pub fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(self.store.location(&self.artifact(name).key))
    }

    /// Its bytes.
    pub fn bytes(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).expect("a published file")
    }

    /// Its bytes as text.
    pub fn text(&self, name: &str) -> String {
        String::from_utf8(self.bytes(name)).expect("UTF-8")
    }

    /// Its bytes as JSON.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_slice(&self.bytes(name)).expect("JSON")
    }

    /// Its rows as one batch.
    pub fn batch(&self, name: &str) -> RecordBatch {
        let file = std::fs::File::open(self.path(name)).expect("a published file");
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet");
        let schema = Arc::clone(reader.schema());
        let batches: Vec<_> = reader.build().expect("a reader").map(|batch| batch.expect("rows")).collect();
        arrow::compute::concat_batches(&schema, &batches).expect("batches of one schema")
    }
}

/// A log that remembers all.
#[derive(Default)]
struct Recorder(Mutex<Vec<u8>>);

impl Recorder {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }
}

#[async_trait]
impl AttemptLog for Recorder {
    async fn write(&self, _stream: LogStream, bytes: &[u8]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }
}

/// A registry that holds what the test put into it.
struct Registry(Vec<ModelVersion>);

#[async_trait]
impl ModelRegistry for Registry {
    async fn champion(&self, name: &ModelName) -> Result<Option<ModelVersion>, RegistryError> {
        let serves = |version: &&ModelVersion| version.name == *name && version.status.as_str() == "champion";
        Ok(self.0.iter().find(serves).cloned())
    }
}

/// `train` or `train[2]`.
fn instance(text: &str) -> InstanceId {
    let (task, index) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((task, index)) => (task, Some(index.parse().expect("an index from 0"))),
        None => (text, None),
    };
    InstanceId::new(TaskId::parse(task).expect("a task id"), index)
}

fn key_prefix(instance: &InstanceId, epoch: Epoch) -> KeyPrefix {
    identity(instance, epoch).key_prefix()
}

fn identity(instance: &InstanceId, epoch: Epoch) -> AttemptIdentity {
    AttemptIdentity {
        tenant: TenantId::parse("bench").expect("a tenant id"),
        dag: DagId::parse("bench").expect("a DAG id"),
        run: RunId::from_uuid(Uuid::nil()),
        instance: instance.clone(),
        generation: Generation(1),
        attempt: AttemptNumber(1),
        epoch,
    }
}

#[cfg(test)]
mod tests {
    use engine::dag::{InputSpec, OutputSpec};
    use schemars::JsonSchema;
    use serde::{Deserialize, Serialize};
    use serde_json::json;

    use super::*;

    struct Shout;

    #[derive(Serialize, Deserialize, JsonSchema)]
    #[serde(deny_unknown_fields)]
    struct Params {
        times: usize,
    }

    #[async_trait]
    impl Task for Shout {
        type Params = Params;
        const KIND: &'static str = "shout";
        const CODE_VERSION: u32 = 1;
        const SUMMARY: &'static str = "repeats its input in capitals";

        fn inputs(_with: &Value) -> Vec<InputSpec> {
            Vec::new()
        }

        fn outputs(_with: &Value) -> Vec<OutputSpec> {
            Vec::new()
        }

        async fn run(&self, context: &TaskContext, params: Params) -> Result<TaskOutput, TaskError> {
            let path = context.fetch(context.input("words.txt")?).await?;
            let words = std::fs::read_to_string(path).expect("text").to_uppercase();
            context.publish_bytes("words.txt", words.repeat(params.times)).await?;
            Ok(TaskOutput::new(json!({"document": context.document("suite")?})))
        }
    }

    #[tokio::test]
    async fn a_task_reads_its_inputs_and_hands_on_its_artifacts() {
        let mut bench = TaskBench::new();
        bench.document("suite", "text").input_bytes("first", "words.txt", "ho ").await;
        let done = bench.run(Shout, json!({"times": 2})).await.expect("run");
        assert_eq!(done.text("words.txt"), "HO HO ");
        assert_eq!(done.output.outputs, json!({"document": "text"}));
        bench.input_done("first", &done);
        assert_eq!(bench.run(Shout, json!({"times": 1})).await.expect("run").text("words.txt"), "HO HO ");
    }

    #[tokio::test]
    async fn parameters_are_checked_and_inputs_are_not_invented() {
        let bench = TaskBench::new();
        assert!(bench.run(Shout, json!({"time": 2})).await.is_err(), "an unknown parameter");
        assert!(bench.run(Shout, json!({"times": 2})).await.is_err(), "no upstream made words.txt");
    }

    #[test]
    fn producers_may_name_an_element() {
        assert_eq!(instance("train[2]"), InstanceId::new(TaskId::parse("train").expect("an id"), Some(2)));
    }
}
