//! The registered task kinds: what a DAG may name, and how to call it.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use serde_json::Value;

use crate::dag::{KindCatalog, KindInfo, ParamProblem};
use crate::task::{ErrorClass, Task, TaskContext, TaskError, TaskOutput};

/// All kinds that this binary knows.
#[derive(Default, Clone)]
pub struct Kinds {
    kinds: BTreeMap<&'static str, Arc<dyn ErasedTask>>,
}

impl Kinds {
    /// No kind at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a kind; replaces one of the same name (tests do).
    pub fn register<T: Task>(&mut self, task: T) {
        let info = KindInfo {
            name: T::KIND,
            code_version: T::CODE_VERSION,
            summary: T::SUMMARY,
            params: schemars::schema_for!(T::Params).to_value(),
            check: check_params::<T>,
            inputs: T::inputs,
            outputs: T::outputs,
            documents: T::DOCUMENTS,
            secrets: T::SECRETS,
            does_io: T::DOES_IO,
            isolation: T::ISOLATION,
            depends_on: T::DEPENDS_ON,
            volatile: T::VOLATILE,
        };
        self.kinds.insert(T::KIND, Arc::new(Erased { task, info }));
    }

    /// Runs an attempt of `kind` with rendered parameters.
    ///
    /// # Errors
    /// The task's own; permanent, if the parameters do not fit or there is no such kind.
    pub async fn run(&self, kind: &str, context: &TaskContext, with: Value) -> Result<TaskOutput, TaskError> {
        let Some(task) = self.kinds.get(kind) else {
            return Err(TaskError::permanent(
                ErrorClass::System,
                format!("this binary knows no task kind {kind:?}; run it with the version that made the run"),
            ));
        };
        task.run(context, with).await
    }

    /// Names of the worker's environment variables that an attempt of `kind` asks for.
    pub fn variables(&self, kind: &str, with: &Value) -> Vec<String> {
        self.kinds.get(kind).map(|task| task.variables(with)).unwrap_or_default()
    }
}

impl KindCatalog for Kinds {
    fn kind(&self, name: &str) -> Option<&KindInfo> {
        self.kinds.get(name).map(|kind| kind.info())
    }

    fn names(&self) -> Vec<&str> {
        self.kinds.keys().copied().collect()
    }
}

fn check_params<T: Task>(with: &Value) -> Vec<ParamProblem> {
    match serde_json::from_value::<T::Params>(with.clone()) {
        Ok(params) => T::check(&params),
        Err(error) => vec![ParamProblem { path: Vec::new(), message: error.to_string(), help: None }],
    }
}

#[async_trait]
trait ErasedTask: Send + Sync {
    fn info(&self) -> &KindInfo;
    fn variables(&self, with: &Value) -> Vec<String>;
    async fn run(&self, context: &TaskContext, with: Value) -> Result<TaskOutput, TaskError>;
}

struct Erased<T> {
    task: T,
    info: KindInfo,
}

#[async_trait]
impl<T: Task> ErasedTask for Erased<T> {
    fn info(&self) -> &KindInfo {
        &self.info
    }

    fn variables(&self, with: &Value) -> Vec<String> {
        T::variables(with)
    }

    async fn run(&self, context: &TaskContext, with: Value) -> Result<TaskOutput, TaskError> {
        let params: T::Params = serde_json::from_value(with).map_err(|source| {
            TaskError::permanent_from(
                ErrorClass::System,
                format!("the parameters of kind {:?} do not fit once rendered", T::KIND),
                source,
            )
        })?;
        if let Some(problem) = T::check(&params).into_iter().next() {
            return Err(TaskError::permanent(
                ErrorClass::System,
                format!("with.{}: {}", problem.path.join("."), problem.message),
            ));
        }
        self.task.run(context, params).await
    }
}
