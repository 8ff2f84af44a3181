//! The project on disk: DAGs, tenants and the kinds that this binary knows.
//!
//! Called by the commands. Reads files, writes none; a mistake in one is a diagnostic with its place.

use std::path::{Path, PathBuf};

use engine::config::Config;
use engine::dag::{Dag, Diagnostics, lower_bytes};
use engine::id::{DagId, TenantId};
use engine::task::Kinds;
use engine::tenant::{self, TenantSpec, TenantStatus};

use crate::exit::Failure;
use crate::output::Output;

/// Where everything is.
pub(crate) struct Project {
    dags: PathBuf,
    root: PathBuf,
    kinds: Kinds,
}

impl Project {
    /// The project of a configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let mut kinds = Kinds::new();
        tasks::register(&mut kinds);
        Self { dags: config.dags.path.clone(), root: config.dags.project_root(), kinds }
    }

    /// The task kinds of this binary.
    pub(crate) fn kinds(&self) -> &Kinds {
        &self.kinds
    }

    /// The folder of the DAGs.
    pub(crate) fn dags(&self) -> &Path {
        &self.dags
    }

    /// What relative sources are below.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Every DAG file, sorted.
    pub(crate) fn dag_files(&self) -> Result<Vec<PathBuf>, Failure> {
        toml_files(&self.dags)
    }

    /// Everything that is wrong with a file.
    pub(crate) fn diagnose(&self, file: &Path) -> Result<Diagnostics, Failure> {
        Ok(match self.lower(file)? {
            Ok((_, diagnostics)) | Err(diagnostics) => diagnostics,
        })
    }

    /// The DAG of an id or a file; its warnings are told.
    pub(crate) fn dag(&self, name: &str, output: &Output) -> Result<Dag, Failure> {
        let is_file = Path::new(name).extension().is_some_and(|extension| extension == "toml");
        let path = if is_file { PathBuf::from(name) } else { self.dag_path(name)? };
        let (dag, warnings) = self.lower(&path)?.map_err(Failure::invalid)?;
        if !warnings.items.is_empty() {
            output.diagnostics(&warnings);
        }
        Ok(dag)
    }

    fn dag_path(&self, name: &str) -> Result<PathBuf, Failure> {
        let id = DagId::parse(name).map_err(|error| Failure::usage(error.to_string()))?;
        let path = self.dags.join(format!("{id}.toml"));
        if path.exists() {
            return Ok(path);
        }
        let known: Vec<_> = toml_files(&self.dags)?
            .iter()
            .filter_map(|path| Some(path.file_stem()?.to_string_lossy().into_owned()))
            .collect();
        let hint = match known.is_empty() {
            true => format!("{} has no DAG; [dags] path in headworks.toml says where they are", self.dags.display()),
            false => format!("there are: {}", known.join(", ")),
        };
        Err(Failure::usage(format!("there is no DAG {id}: {} does not exist", path.display())).hint(hint))
    }

    fn lower(&self, path: &Path) -> Result<Result<(Dag, Diagnostics), Diagnostics>, Failure> {
        let bytes = std::fs::read(path)
            .map_err(|error| Failure::file(format!("can not read the DAG {}", path.display()), error))?;
        Ok(lower_bytes(&path.display().to_string(), &bytes, &self.kinds))
    }

    /// All tenants, sorted by id.
    pub(crate) fn tenants(&self) -> Result<Vec<TenantSpec>, Failure> {
        let folder = self.dags.join("tenants");
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let mut tenants = Vec::new();
        for path in toml_files(&folder)? {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Failure::file(format!("can not read the tenant {}", path.display()), error))?;
            let (spec, _) = tenant::parse(&path.display().to_string(), &text).map_err(Failure::invalid)?;
            tenants.push(spec);
        }
        Ok(tenants)
    }

    /// The tenant for a run of `dag`: the one asked for, or the only one that takes this DAG.
    pub(crate) fn tenant_for(&self, dag: &DagId, asked: Option<&TenantId>) -> Result<TenantSpec, Failure> {
        let tenants = self.tenants()?;
        let list = |tenants: &[&TenantSpec]| tenants.iter().map(|it| it.id.to_string()).collect::<Vec<_>>().join(", ");
        if let Some(asked) = asked {
            let all: Vec<_> = tenants.iter().collect();
            let found = tenants.iter().find(|it| &it.id == asked).cloned();
            let found = found.ok_or_else(|| {
                let folder = self.dags.join("tenants");
                Failure::usage(format!("there is no tenant {asked} in {}", folder.display()))
                    .hint(format!("there are: {}", list(&all)))
            })?;
            return active(found);
        }
        let takers: Vec<_> =
            tenants.iter().filter(|it| it.takes(dag) && it.status != TenantStatus::Suspended).collect();
        match takers.as_slice() {
            [only] => Ok((*only).clone()),
            [] => Err(Failure::usage(format!("no tenant takes DAG {dag}")).hint(format!(
                "add [dags.{dag}] to a file in {}, or name one with --tenant",
                self.dags.join("tenants").display()
            ))),
            several => Err(Failure::usage(format!("several tenants take DAG {dag}: {}", list(several)))
                .hint("name one with --tenant")),
        }
    }
}

/// A suspended tenant starts nothing.
fn active(tenant: TenantSpec) -> Result<TenantSpec, Failure> {
    if tenant.status == TenantStatus::Suspended {
        let message = format!("tenant {} is suspended: it starts no run", tenant.id);
        return Err(Failure::usage(message).hint("set status = \"active\" in its file"));
    }
    Ok(tenant)
}

fn toml_files(folder: &Path) -> Result<Vec<PathBuf>, Failure> {
    let failed = |error| Failure::file(format!("can not read the folder {}", folder.display()), error);
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_file() && path.extension().is_some_and(|extension| extension == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}
