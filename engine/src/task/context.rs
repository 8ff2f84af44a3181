//! What a running attempt sees: who it is, what it reads, where it writes.
//!
//! The executor builds a [`TaskContext`] for each attempt and takes from it, after the task returned,
//! what was published. Nothing published is visible before the store commits the finish.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};

use arrow::array::Float64Array;
use arrow::datatypes::{Float64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use bytes::Bytes;
use indexmap::IndexMap;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::artifact::{ArtifactError, ArtifactRef, ArtifactStore, FileFacts, KeyPrefix, ParquetFileWriter};
use crate::id::{ArtifactName, AttemptNumber, DagId, Epoch, Generation, InstanceId, RunId, TenantId};
use crate::registry::ModelRegistry;
use crate::secret::{Redaction, Redactor};
use crate::task::{AttemptLog, ErrorClass, LogStream, TaskError};

/// Which attempt this is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttemptIdentity {
    /// Whose run.
    pub tenant: TenantId,
    /// The DAG.
    pub dag: DagId,
    /// The run.
    pub run: RunId,
    /// The task instance.
    pub instance: InstanceId,
    /// Its generation.
    pub generation: Generation,
    /// The try, from 1.
    pub attempt: AttemptNumber,
    /// The fencing token.
    pub epoch: Epoch,
}

impl AttemptIdentity {
    /// The prefix of the keys that this attempt may write.
    pub fn key_prefix(&self) -> KeyPrefix {
        KeyPrefix {
            tenant: self.tenant.clone(),
            dag: self.dag.clone(),
            run: self.run,
            instance: self.instance.clone(),
            generation: self.generation,
            epoch: self.epoch,
        }
    }
}

/// Facts about the run that a task may print: pinned, so that a replay prints the same.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunFacts {
    /// The run as it is printed: its own id, and in a verification that of the run whose result it proves.
    pub run_id: String,
    /// The DAG's version.
    pub dag_version: String,
    /// Resolved parameters.
    pub params: serde_json::Value,
    /// The run's seed.
    pub seed: u64,
    /// The moment the run is about, RFC 3339; for a run by hand, when it was created.
    pub logical_time: String,
    /// Start of the data interval, if the run has one.
    pub interval_start: Option<String>,
    /// End of the data interval, if the run has one.
    pub interval_end: Option<String>,
}

/// An artifact of an upstream task, resolved for this attempt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Input {
    /// Who made it.
    pub producer: InstanceId,
    /// The object.
    pub artifact: ArtifactRef,
}

/// What the executor fills in.
pub struct TaskContextParts {
    /// Which attempt.
    pub identity: AttemptIdentity,
    /// Facts of the run.
    pub facts: RunFacts,
    /// This task instance's own seed, derived from the run's.
    pub seed: u64,
    /// Resolved inputs, ordered by producer and element.
    pub inputs: Vec<Input>,
    /// Pinned documents: parameter -> text.
    pub documents: IndexMap<String, String>,
    /// Relative sources are below this folder.
    pub project_root: PathBuf,
    /// A folder of this attempt alone, made when it is first asked for and removed afterwards.
    pub scratch: PathBuf,
    /// The object store.
    pub artifacts: Arc<ArtifactStore>,
    /// The tenant's registry.
    pub registry: Arc<dyn ModelRegistry>,
    /// Where its output goes.
    pub log: Arc<dyn AttemptLog>,
    /// What it is to say nowhere.
    pub redactor: Redactor,
    /// Fires when the attempt has to stop.
    pub cancel: CancellationToken,
    /// What a drill multiplies columns of its artifacts by; empty for every other attempt.
    pub skews: Vec<Skew>,
}

/// A column of an artifact whose numbers are to be others.
#[derive(Debug, Clone, PartialEq)]
pub struct Skew {
    /// The Parquet artifact.
    pub artifact: ArtifactName,
    /// A column of 64-bit floats.
    pub column: String,
    /// What its numbers are multiplied by.
    pub factor: f64,
}

/// What a task sees of the engine.
pub struct TaskContext {
    parts: TaskContextParts,
    has_scratch: OnceLock<()>,
    published: Mutex<Vec<ArtifactRef>>,
}

impl TaskContext {
    /// Wraps the parts; called by the executor and by tests of tasks.
    pub fn new(parts: TaskContextParts) -> Self {
        Self { parts, has_scratch: OnceLock::new(), published: Mutex::new(Vec::new()) }
    }

    /// Which attempt this is.
    pub fn identity(&self) -> &AttemptIdentity {
        &self.parts.identity
    }

    /// Facts of the run.
    pub fn facts(&self) -> &RunFacts {
        &self.parts.facts
    }

    /// The seed of this task instance: the only source of randomness that a task may use.
    pub fn seed(&self) -> u64 {
        self.parts.seed
    }

    /// A folder of this attempt alone.
    pub fn scratch(&self) -> &Path {
        self.has_scratch.get_or_init(|| {
            if let Err(error) = std::fs::create_dir_all(&self.parts.scratch) {
                // Whoever writes there is told by its own error, with the path.
                tracing::warn!(%error, folder = %self.parts.scratch.display(), "can not make an attempt's folder");
            }
        });
        &self.parts.scratch
    }

    /// The tenant's model registry.
    pub fn registry(&self) -> &dyn ModelRegistry {
        self.parts.registry.as_ref()
    }

    /// Appends output to the attempt's log; waits while the log is behind.
    pub async fn log(&self, stream: LogStream, bytes: &[u8]) {
        self.parts.log.write(stream, bytes).await;
    }

    /// A filter for one stream of a program's output, for a kind that keeps a part of it for its own words. What goes
    /// to [`TaskContext::log`] needs none.
    pub fn redaction(&self) -> Redaction {
        self.parts.redactor.stream()
    }

    /// Fires when the attempt has to stop.
    pub fn cancel(&self) -> &CancellationToken {
        &self.parts.cancel
    }

    /// Returns [`TaskError::Canceled`] if the attempt has to stop.
    pub fn check_canceled(&self) -> Result<(), TaskError> {
        if self.parts.cancel.is_cancelled() { Err(TaskError::Canceled) } else { Ok(()) }
    }

    /// The one input of that name.
    pub fn input(&self, name: &str) -> Result<&Input, TaskError> {
        let mut found = self.parts.inputs.iter().filter(|input| input.artifact.name.as_str() == name);
        match (found.next(), found.next()) {
            (Some(input), None) => Ok(input),
            (None, _) => Err(TaskError::permanent(
                ErrorClass::System,
                format!("no upstream made {name}; it was skipped or declares another output"),
            )),
            (Some(_), Some(_)) => Err(TaskError::permanent(
                ErrorClass::System,
                format!("several upstreams made {name}, and this task reads one"),
            )),
        }
    }

    /// All inputs of that name, ordered by producer and element; empty if none was made.
    pub fn inputs(&self, name: &str) -> Vec<&Input> {
        self.parts.inputs.iter().filter(|input| input.artifact.name.as_str() == name).collect()
    }

    /// All inputs, ordered by producer, element and name.
    pub fn all_inputs(&self) -> &[Input] {
        &self.parts.inputs
    }

    /// The text of the document that parameter `param` names, as pinned when the run was made.
    pub fn document(&self, param: &str) -> Result<&str, TaskError> {
        self.parts.documents.get(param).map(String::as_str).ok_or_else(|| {
            TaskError::permanent(
                ErrorClass::System,
                format!("parameter {param:?} names no document; set it in the DAG or in the tenant's file"),
            )
        })
    }

    /// The path of a raw source: absolute as it is, relative below the project's root.
    pub fn source_path(&self, source: &str) -> PathBuf {
        self.parts.project_root.join(source)
    }

    /// A local file with the verified bytes of an input.
    pub async fn fetch(&self, input: &Input) -> Result<PathBuf, TaskError> {
        self.fetch_ref(&input.artifact).await
    }

    /// A local file with the verified bytes of an artifact (a champion's model, say).
    pub async fn fetch_ref(&self, artifact: &ArtifactRef) -> Result<PathBuf, TaskError> {
        Ok(self.parts.artifacts.fetch(artifact, self.scratch()).await?)
    }

    /// An input parsed as JSON.
    pub async fn fetch_json<T: DeserializeOwned>(&self, input: &Input) -> Result<T, TaskError> {
        let bytes = self.parts.artifacts.read(&input.artifact).await?;
        serde_json::from_slice(&bytes).map_err(|source| {
            TaskError::permanent_from(
                ErrorClass::System,
                format!("{} is not the JSON that this task reads", input.artifact.key),
                source,
            )
        })
    }

    /// Publishes bytes under `name`.
    pub async fn publish_bytes(&self, name: &str, bytes: impl Into<Bytes>) -> Result<ArtifactRef, TaskError> {
        let name = artifact_name(name)?;
        let key = self.parts.identity.key_prefix().key(&name);
        let artifact = self.parts.artifacts.publish_bytes(&key, name, bytes.into()).await?;
        Ok(self.note(artifact))
    }

    /// Publishes a value as pretty-printed JSON with a final newline.
    pub async fn publish_json(&self, name: &str, value: &(impl Serialize + Sync)) -> Result<ArtifactRef, TaskError> {
        let mut bytes = serde_json::to_vec_pretty(value).map_err(|source| {
            TaskError::permanent_from(ErrorClass::System, format!("can not write {name} as JSON"), source)
        })?;
        bytes.push(b'\n');
        self.publish_bytes(name, bytes).await
    }

    /// Starts a Parquet artifact; batches go to local scratch until [`ParquetSink::publish`].
    pub fn parquet(&self, name: &str, schema: SchemaRef) -> Result<ParquetSink, TaskError> {
        let name = artifact_name(name)?;
        let path = self.scratch().join(format!("out-{name}"));
        let writer = ParquetFileWriter::create(&path, schema)?;
        let skews = self.parts.skews.iter().filter(|skew| skew.artifact == name).cloned().collect();
        Ok(ParquetSink { name, path, writer, skews })
    }

    /// Publishes a finished local file of any format (a model, a child process's output).
    pub async fn publish_file(&self, name: &str, path: &Path) -> Result<ArtifactRef, TaskError> {
        let name = artifact_name(name)?;
        let key = self.parts.identity.key_prefix().key(&name);
        let facts = FileFacts::measure(path).await?;
        let artifact = self.parts.artifacts.publish_file(&key, name, path, facts).await?;
        Ok(self.note(artifact))
    }

    /// What was published so far; the executor commits it with the finish.
    pub fn published(&self) -> Vec<ArtifactRef> {
        self.published.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn note(&self, artifact: ArtifactRef) -> ArtifactRef {
        self.published.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(artifact.clone());
        artifact
    }
}

/// A Parquet artifact being written. Its methods block: call them where blocking is allowed.
pub struct ParquetSink {
    name: ArtifactName,
    path: PathBuf,
    writer: ParquetFileWriter,
    skews: Vec<Skew>,
}

impl ParquetSink {
    /// Appends a batch.
    pub fn write(&mut self, batch: &RecordBatch) -> Result<(), TaskError> {
        match self.skews.as_slice() {
            [] => Ok(self.writer.write(batch)?),
            skews => Ok(self.writer.write(&skewed(batch, skews)?)?),
        }
    }

    /// Finishes the file and publishes it.
    pub async fn publish(self, context: &TaskContext) -> Result<ArtifactRef, TaskError> {
        let facts = self.writer.finish()?;
        let key = context.parts.identity.key_prefix().key(&self.name);
        let artifact = context.parts.artifacts.publish_file(&key, self.name, &self.path, facts).await?;
        Ok(context.note(artifact))
    }
}

/// The batch with the numbers of the named columns multiplied.
fn skewed(batch: &RecordBatch, skews: &[Skew]) -> Result<RecordBatch, TaskError> {
    let refused = |what: &str, column: &str| {
        TaskError::permanent(ErrorClass::System, format!("the drill skews the column {column:?}, which {what}"))
    };
    let mut columns = batch.columns().to_vec();
    for Skew { column, factor, .. } in skews {
        let at = batch.schema().index_of(column).map_err(|_| refused("is not there", column))?;
        let numbers = columns[at].as_any().downcast_ref::<Float64Array>();
        let numbers = numbers.ok_or_else(|| refused("is none of 64-bit floats", column))?;
        columns[at] = Arc::new(numbers.unary::<_, Float64Type>(|number| number * factor));
    }
    RecordBatch::try_new(batch.schema(), columns)
        .map_err(|source| TaskError::permanent_from(ErrorClass::System, "a skewed batch is none", source))
}

fn artifact_name(name: &str) -> Result<ArtifactName, TaskError> {
    ArtifactName::parse(name)
        .map_err(|source| TaskError::permanent_from(ErrorClass::System, format!("can not publish {name:?}"), source))
}

impl From<ArtifactError> for TaskError {
    fn from(error: ArtifactError) -> Self {
        match error {
            ArtifactError::Store { .. } | ArtifactError::File { .. } => {
                Self::transient_from("the artifact store failed", error)
            }
            _ => Self::permanent_from(ErrorClass::System, "an artifact is not as it was published", error),
        }
    }
}
