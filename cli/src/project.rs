//! The project on disk: DAGs, tenants and the kinds that this binary knows.
//!
//! Called by the commands. Reads files, writes none; a mistake in one is a diagnostic with its place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use engine::config::Config;
use engine::dag::{Dag, Diagnostic, Diagnostics, lower_bytes};
use engine::drill;
use engine::id::{DagId, TenantId};
use engine::scheduler::subscribe::CalendarTexts;
use engine::task::Kinds;
use engine::tenant::{self, TenantSpec, TenantStatus};

use crate::exit::Failure;
use crate::output::Output;

/// Where everything is.
pub(crate) struct Project {
    dags: PathBuf,
    root: PathBuf,
    kinds: Kinds,
    pools: BTreeSet<String>,
}

impl Project {
    /// The project of a configuration.
    pub(crate) fn new(config: &Config) -> Self {
        let mut kinds = Kinds::new();
        tasks::register(&mut kinds);
        let pools = config.pools.keys().cloned().collect();
        Self { dags: config.dags.path.clone(), root: config.dags.project_root(), kinds, pools }
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

    /// Every drill file, sorted.
    pub(crate) fn drill_files(&self) -> Result<Vec<PathBuf>, Failure> {
        let folder = self.root.join("docs").join("runbooks");
        if folder.exists() { toml_files(&folder) } else { Ok(Vec::new()) }
    }

    /// Everything that is wrong with a file: a DAG's, or a drill's.
    pub(crate) fn diagnose(&self, file: &Path) -> Result<Diagnostics, Failure> {
        if let Ok(text) = std::fs::read_to_string(file)
            && text.lines().any(|line| line.trim() == "[drill]")
        {
            return Ok(match drill::parse(&file.display().to_string(), &text) {
                Ok((_, diagnostics)) | Err(diagnostics) => diagnostics,
            });
        }
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
        let lowered = lower_bytes(&path.display().to_string(), &bytes, &self.kinds);
        Ok(match lowered {
            Ok((dag, mut found)) => {
                found.items.extend(self.foreign(&dag)?);
                if found.has_errors() { Err(found) } else { Ok((dag, found)) }
            }
            broken => broken,
        })
    }

    /// What a DAG names that the project does not have: pools and calendars.
    fn foreign(&self, dag: &Dag) -> Result<Vec<Diagnostic>, Failure> {
        let mut found = Vec::new();
        let span = |name: &str| {
            let quoted = format!("\"{name}\"");
            dag.source.find(&quoted).map_or(0..0, |at| at..at + quoted.len())
        };
        let pools: BTreeSet<&String> = dag.tasks().filter_map(|task| task.pool.as_ref()).collect();
        for pool in pools.into_iter().filter(|pool| !self.pools.contains(*pool)) {
            let message = format!("there is no pool {pool:?}");
            let help = match self.pools.is_empty() {
                true => format!("set its size in headworks.toml: [pools] {pool} = 2"),
                false => format!("there are: {}", self.pools.iter().cloned().collect::<Vec<_>>().join(", ")),
            };
            found.push(Diagnostic::error("dag::unknown_pool", span(pool), message).label("this pool").help(help));
        }
        let named = dag.schedule.as_ref().and_then(|section| section["calendars"]["exclude"].as_array()).cloned();
        let named: Vec<String> = named.iter().flatten().filter_map(|it| it.as_str().map(str::to_owned)).collect();
        if named.is_empty() {
            return Ok(found);
        }
        let known = self.calendars()?;
        for name in named.iter().filter(|name| !known.contains_key(*name)) {
            let message = format!("there is no calendar {name:?}");
            let help = format!("write {}", self.dags.join("calendars").join(format!("{name}.toml")).display());
            found.push(Diagnostic::error("dag::unknown_calendar", span(name), message).label("this one").help(help));
        }
        Ok(found)
    }

    /// The calendars' texts, by name.
    pub(crate) fn calendars(&self) -> Result<CalendarTexts, Failure> {
        let folder = self.dags.join("calendars");
        let mut texts = CalendarTexts::new();
        if !folder.exists() {
            return Ok(texts);
        }
        for path in toml_files(&folder)? {
            let text = std::fs::read_to_string(&path)
                .map_err(|error| Failure::file(format!("can not read the calendar {}", path.display()), error))?;
            let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            texts.insert(stem, text);
        }
        Ok(texts)
    }

    /// Every DAG that is valid, and what is wrong with the others.
    pub(crate) fn all_dags(&self) -> Result<(Vec<Arc<Dag>>, Vec<Diagnostics>), Failure> {
        let (mut dags, mut broken) = (Vec::new(), Vec::new());
        for path in self.dag_files()? {
            match self.lower(&path)? {
                Ok((dag, _)) => dags.push(Arc::new(dag)),
                Err(diagnostics) => broken.push(diagnostics),
            }
        }
        Ok((dags, broken))
    }

    /// Every tenant whose file is valid, and what is wrong with the others.
    pub(crate) fn all_tenants(&self) -> Result<(Vec<TenantSpec>, Vec<Diagnostics>), Failure> {
        let folder = self.dags.join("tenants");
        let (mut tenants, mut broken) = (Vec::new(), Vec::new());
        for path in if folder.exists() { toml_files(&folder)? } else { Vec::new() } {
            match self.tenant_file(&path)? {
                Ok(tenant) => tenants.push(tenant),
                Err(diagnostics) => broken.push(diagnostics),
            }
        }
        Ok((tenants, broken))
    }

    /// A tenant's file.
    pub(crate) fn tenant_file(&self, path: &Path) -> Result<Result<TenantSpec, Diagnostics>, Failure> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| Failure::file(format!("can not read the tenant {}", path.display()), error))?;
        Ok(tenant::parse(&path.display().to_string(), &text).map(|(spec, _)| spec))
    }

    /// All tenants, sorted by id.
    pub(crate) fn tenants(&self) -> Result<Vec<TenantSpec>, Failure> {
        let (tenants, mut broken) = self.all_tenants()?;
        if broken.is_empty() { Ok(tenants) } else { Err(Failure::invalid(broken.swap_remove(0))) }
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
