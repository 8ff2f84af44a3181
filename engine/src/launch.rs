//! From a DAG, a tenant and what a caller asked for to a run that can be created: parameters
//! resolved, documents read and pinned.
//!
//! Called by the CLI and by the scheduler's chores. Decides nothing about states and writes
//! nothing; the text of a document comes through a closure, so that the caller says where it is read.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::dag::{Dag, KindCatalog, ParamProblem, Task};
use crate::id::{InstanceId, RunId, TenantId};
use crate::plan::Micros;
use crate::store::{NewRun, PinnedDocument, RunKind};
use crate::template::{Scope, TemplateError, render};

/// What a caller asks for.
#[derive(Debug, Clone)]
pub struct Request {
    /// The id to give to the run.
    pub run: RunId,
    /// The DAG, as it is now.
    pub dag: Arc<Dag>,
    /// Why.
    pub kind: RunKind,
    /// Whose.
    pub tenant: TenantId,
    /// The tenant's parameters.
    pub tenant_params: Map<String, Value>,
    /// Parameters named for this run.
    pub params: Map<String, Value>,
    /// The seed.
    pub seed: u64,
    /// The moment it is about.
    pub logical_time: Micros,
    /// The data interval, half-open.
    pub interval: Option<(Micros, Micros)>,
    /// Among queued runs the least starts first; `None` = in the order of what they are about.
    pub queue_rank: Option<i64>,
    /// A queued run does not start before; 0 = at once.
    pub start_at: Micros,
}

/// Why a run can not be created as asked.
#[derive(Debug, thiserror::Error)]
pub enum LaunchError {
    /// Parameters do not fit the DAG's declaration.
    #[error("the parameters do not fit DAG {dag}: {}", list(.problems))]
    Params {
        /// Which DAG.
        dag: String,
        /// All of them.
        problems: Vec<ParamProblem>,
    },
    /// A parameter that names a document can not be rendered before the run.
    #[error("task {task}: with.{param} names a document and can not be rendered")]
    Template {
        /// Which task.
        task: String,
        /// Which parameter.
        param: &'static str,
        /// What lay beneath.
        #[source]
        source: TemplateError,
    },
    /// A document can not be read.
    #[error("task {task}: with.{param} = {name:?} needs {}", path.display())]
    Document {
        /// Which task.
        task: String,
        /// Which parameter.
        param: &'static str,
        /// The document's name.
        name: String,
        /// Where it should be.
        path: PathBuf,
        /// What lay beneath.
        #[source]
        source: std::io::Error,
    },
    /// A document's name could leave its folder.
    #[error("task {task}: with.{param} = {name:?} is no document's name: use the stem of a file in {folder}/")]
    DocumentName {
        /// Which task.
        task: String,
        /// Which parameter.
        param: &'static str,
        /// The name.
        name: String,
        /// The folder.
        folder: &'static str,
    },
}

fn list(problems: &[ParamProblem]) -> String {
    let one = |problem: &ParamProblem| {
        let help = problem.help.as_deref().map(|help| format!(" ({help})")).unwrap_or_default();
        format!("{} {}{help}", problem.path.join("."), problem.message)
    };
    problems.iter().map(one).collect::<Vec<_>>().join("; ")
}

/// Resolves and pins what a run needs. `dags` is the folder of the DAGs, `read` reads a document.
///
/// # Errors
/// Parameters that do not fit, documents that are not there.
pub fn prepare(
    request: Request,
    catalog: &dyn KindCatalog,
    dags: &Path,
    read: &dyn Fn(&Path) -> std::io::Result<String>,
) -> Result<NewRun, LaunchError> {
    let params = request
        .dag
        .resolve_params(&request.tenant_params, &request.params)
        .map_err(|problems| LaunchError::Params { dag: request.dag.id.to_string(), problems })?;
    // What a run was given counts for `tenant.x` too, where the DAG declares x: one name, one value.
    let mut tenant = request.tenant_params;
    for (name, value) in &params {
        if tenant.contains_key(name) {
            tenant.insert(name.clone(), value.clone());
        }
    }
    tenant.insert("id".into(), json!(request.tenant));
    let scope = Scope { params: Value::Object(params), tenant: Value::Object(tenant), ..Scope::default() };
    let mut documents = Vec::new();
    for task in request.dag.tasks() {
        for (param, folder) in catalog.kind(&task.kind).map_or(&[][..], |kind| kind.documents) {
            pin(task, param, folder, &Pinning { scope: &scope, dags, read }, &mut documents)?;
        }
    }
    Ok(NewRun {
        tenant: request.tenant,
        run: request.run,
        dag: request.dag,
        kind: request.kind,
        seed: request.seed,
        params: scope.params,
        tenant_params: scope.tenant,
        logical_time: request.logical_time,
        interval: request.interval,
        queue_rank: request.queue_rank.unwrap_or(request.logical_time),
        start_at: request.start_at,
        documents,
        faults: Vec::new(),
    })
}

/// [`prepare`] with what a process always hands it: for whoever makes runs without a person.
#[derive(Clone)]
pub struct Launcher {
    catalog: Arc<dyn KindCatalog + Send + Sync>,
    dags: PathBuf,
    read: Arc<ReadDocument>,
}

/// Reads a document's text.
pub type ReadDocument = dyn Fn(&Path) -> std::io::Result<String> + Send + Sync;

impl Launcher {
    /// A launcher over a project: its kinds, the folder of its DAGs, and how a document is read.
    pub fn new(catalog: Arc<dyn KindCatalog + Send + Sync>, dags: PathBuf, read: Arc<ReadDocument>) -> Self {
        Self { catalog, dags, read }
    }

    /// As [`prepare`].
    ///
    /// # Errors
    /// As [`prepare`].
    pub fn prepare(&self, request: Request) -> Result<NewRun, LaunchError> {
        prepare(request, self.catalog.as_ref(), &self.dags, &|path| (self.read)(path))
    }
}

struct Pinning<'a> {
    scope: &'a Scope,
    dags: &'a Path,
    read: &'a dyn Fn(&Path) -> std::io::Result<String>,
}

/// Pins the document that `param` of `task` names, for each element of its matrix.
fn pin(
    task: &Task,
    param: &'static str,
    folder: &'static str,
    pinning: &Pinning<'_>,
    documents: &mut Vec<PinnedDocument>,
) -> Result<(), LaunchError> {
    let Some(written) = task.with.get(param) else { return Ok(()) };
    let elements = if task.matrix.is_empty() { 1 } else { task.matrix.len() };
    for index in 0..elements {
        let element = task.matrix.get(index);
        let scope = Scope { matrix: element.map_or(Value::Null, |it| json!(it)), ..pinning.scope.clone() };
        let named = render(written, &scope).map_err(|source| LaunchError::Template {
            task: task.id.to_string(),
            param,
            source,
        })?;
        let name = named.as_str().map_or_else(|| named.to_string(), str::to_owned);
        let stem = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
        if name.is_empty() || !name.bytes().all(stem) {
            return Err(LaunchError::DocumentName { task: task.id.to_string(), param, name, folder });
        }
        let path = pinning.dags.join(folder).join(format!("{name}.toml"));
        let content = (pinning.read)(&path).map_err(|source| LaunchError::Document {
            task: task.id.to_string(),
            param,
            name,
            path: path.clone(),
            source,
        })?;
        let index = element.and_then(|_| u32::try_from(index).ok());
        let instance = InstanceId::new(task.id.clone(), index);
        documents.push(PinnedDocument { instance, param: param.to_owned(), path: path.display().to_string(), content });
    }
    Ok(())
}
