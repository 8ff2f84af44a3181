//! What a child process is handed and what it hands back: files in the attempt's scratch, and their
//! paths in its environment.
//!
//! Called by `command` around the child's life. It starts nothing and publishes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use engine::task::{ErrorClass, PROCESS_MARK, TaskContext, TaskError};
use serde_json::{Value, json};

use super::CommandParams;

/// Where programs are looked for unless the DAG declares a `PATH`.
pub(super) const DEFAULT_PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// A parameter longer than this is in the JSON file alone: the kernel refuses a variable of 128 KiB.
const VARIABLE_LIMIT: usize = 32 << 10;

/// The executor refuses more; not read at all, so that a child can not fill the worker's memory.
const OUTPUTS_LIMIT: u64 = 1 << 20;

/// The folders and files of one attempt.
pub(super) struct Exchange {
    root: PathBuf,
}

impl Exchange {
    /// Makes the folders, copies the inputs and writes the JSON files.
    ///
    /// # Errors
    /// An input is missing or damaged, or the scratch is full.
    pub(super) async fn prepare(context: &TaskContext, params: &CommandParams) -> Result<Self, TaskError> {
        let exchange = Self { root: context.scratch().join("command") };
        for folder in [exchange.work(), exchange.artifacts(), exchange.path("tmp")] {
            fs::create_dir_all(&folder).map_err(scratch_error(&folder))?;
        }
        exchange.write("params.json", &json!(params.params))?;
        let inputs = exchange.copy_inputs(context, params).await?;
        exchange.write("inputs.json", &inputs)?;
        Ok(exchange)
    }

    /// The child's working folder.
    pub(super) fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// Where the child puts the artifact of that name.
    pub(super) fn artifact(&self, name: &str) -> PathBuf {
        self.artifacts().join(name)
    }

    /// The child's whole environment; declared variables win over the defaults.
    pub(super) fn environment(&self, context: &TaskContext, params: &CommandParams) -> BTreeMap<String, String> {
        let (identity, facts) = (context.identity(), context.facts());
        let mut variables: BTreeMap<String, String> = [
            ("PATH", DEFAULT_PATH.to_owned()),
            ("TMPDIR", text(&self.path("tmp"))),
            ("HEADWORKS_ARTIFACTS", text(&self.artifacts())),
            ("HEADWORKS_INPUTS", text(&self.path("inputs.json"))),
            ("HEADWORKS_OUTPUTS", text(&self.outputs_file())),
            ("HEADWORKS_PARAMS", text(&self.path("params.json"))),
            ("HEADWORKS_PROJECT", text(&context.source_path(""))),
            ("HEADWORKS_TENANT", identity.tenant.to_string()),
            ("HEADWORKS_DAG", identity.dag.to_string()),
            ("HEADWORKS_RUN", facts.run_id.clone()),
            ("HEADWORKS_TASK", identity.instance.to_string()),
            ("HEADWORKS_GENERATION", identity.generation.0.to_string()),
            ("HEADWORKS_ATTEMPT", identity.attempt.0.to_string()),
            ("HEADWORKS_EPOCH", identity.epoch.0.to_string()),
            ("HEADWORKS_LOGICAL_TIME", facts.logical_time.clone()),
            ("HEADWORKS_SEED", context.seed().to_string()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into();
        for (name, value) in &params.params {
            let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            if value.len() <= VARIABLE_LIMIT {
                variables.insert(format!("HEADWORKS_PARAM_{}", name.to_ascii_uppercase()), value);
            }
        }
        if let Ok(mark) = std::env::var(PROCESS_MARK) {
            variables.insert(PROCESS_MARK.to_owned(), mark);
        }
        // A name that the worker does not have is not passed; one that is not UTF-8 neither.
        let passed = params.pass_env.iter().filter_map(|name| Some((name.clone(), std::env::var(name).ok()?)));
        variables.extend(passed);
        variables.extend(params.env.iter().map(|(name, value)| (name.clone(), value.to_string())));
        variables
    }

    /// The JSON object that the child wrote, or an empty one if it wrote none.
    ///
    /// # Errors
    /// It is too large, or no JSON object.
    pub(super) fn outputs(&self) -> Result<Value, TaskError> {
        let file = self.outputs_file();
        let refuse = |what: String| {
            let message = format!("the program wrote {what} to $HEADWORKS_OUTPUTS; write one JSON object, or nothing");
            Err(TaskError::permanent(ErrorClass::System, message))
        };
        match fs::metadata(&file) {
            Ok(facts) if facts.len() > OUTPUTS_LIMIT => {
                return refuse(format!("{} bytes (more than {OUTPUTS_LIMIT})", facts.len()));
            }
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(json!({})),
            Err(error) => return Err(scratch_error(&file)(error)),
        }
        let bytes = fs::read(&file).map_err(scratch_error(&file))?;
        match serde_json::from_slice(&bytes) {
            Ok(value @ Value::Object(_)) => Ok(value),
            // Not the value: what is cut short here would not be searched for secrets whole.
            Ok(value) => refuse(format!("{}, which is no object,", type_of(&value))),
            Err(error) => refuse(format!("no JSON ({error})")),
        }
    }

    async fn copy_inputs(&self, context: &TaskContext, params: &CommandParams) -> Result<Value, TaskError> {
        let mut listed = Vec::new();
        for input in context.all_inputs() {
            let (producer, artifact) = (&input.producer, &input.artifact);
            if !params.inputs.iter().any(|name| name == artifact.name.as_str()) {
                continue;
            }
            let fetched = context.fetch(input).await?;
            let path = self.path("inputs").join(producer.path_segment()).join(artifact.name.as_str());
            // A local store hands out its own file, and a child may do as it likes with what it reads.
            let folder = path.parent().unwrap_or(&self.root);
            fs::create_dir_all(folder).map_err(scratch_error(folder))?;
            tokio::fs::copy(&fetched, &path).await.map_err(scratch_error(&path))?;
            listed.push(json!({
                "task": producer.task.as_str(),
                "index": producer.index,
                "name": artifact.name.as_str(),
                "path": path,
                "digest": artifact.digest.to_string(),
            }));
        }
        Ok(Value::Array(listed))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    fn artifacts(&self) -> PathBuf {
        self.path("artifacts")
    }

    fn outputs_file(&self) -> PathBuf {
        self.path("outputs.json")
    }

    fn write(&self, name: &str, value: &Value) -> Result<(), TaskError> {
        let path = self.path(name);
        fs::write(&path, format!("{value:#}\n")).map_err(scratch_error(&path))
    }
}

fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

fn scratch_error(path: &Path) -> impl FnOnce(std::io::Error) -> TaskError {
    let message = format!("can not use {} in the attempt's scratch", path.display());
    move |source| TaskError::transient_from(message, source)
}
