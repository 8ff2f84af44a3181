//! One file per command; [`dispatch`] picks it.

mod alerts;
mod apply;
mod artifacts;
pub(crate) mod attempt;
mod backfill;
mod bench;
mod bisect;
mod cancel;
mod config;
mod dag;
mod db;
mod drill;
mod events;
mod lineage;
mod logs;
mod models;
mod outcome;
mod replay;
mod retry;
mod run;
mod runs;
mod schedule;
mod serve;
mod shapes;
mod summary;
mod tenants;
mod validate;
mod verify;
mod why;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use engine::config::Config;
use engine::id::{IdError, TaskId, TenantId};
use engine::store::{OpenMode, Store, StoreError};

use crate::args::{Args, BenchCommand, Command};
use crate::exit::Failure;
use crate::output::Output;
use crate::project::Project;

/// What every command is handed.
pub(crate) struct Session<'a> {
    pub(crate) output: &'a Output,
    pub(crate) config: Config,
    pub(crate) project: Project,
    /// The configuration file that was named, for commands that this one starts.
    pub(crate) config_file: Option<PathBuf>,
}

/// Runs the command.
pub(crate) async fn dispatch(args: &Args, output: &Output) -> Result<ExitCode, Failure> {
    if let Command::Config(command) = &args.command {
        return config::run(command, output);
    }
    let variables =
        std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
    let config = Config::load(args.config.as_deref(), variables)?;
    let project = Project::new(&config);
    let session = Session { output, config, project, config_file: args.config.clone() };
    match &args.command {
        Command::Run(run) => run::run(&session, run).await,
        Command::Validate { files } => validate::run(&session, files),
        Command::Dag(command) => dag::run(&session, command).await,
        Command::Schedule(command) => schedule::run(&session, command).await,
        Command::Tenants(command) => tenants::run(&session, command).await,
        Command::Backfill(args) => backfill::run(&session, args).await,
        Command::Backfills(command) => backfill::control(&session, command).await,
        Command::Alerts(args) => alerts::run(&session, args).await,
        Command::Runs(command) => runs::run(&session, command).await,
        Command::Why(args) => why::run(&session, args).await,
        Command::Retry(args) => retry::run(&session, args).await,
        Command::Replay(args) => replay::run(&session, args).await,
        Command::Artifacts(command) => artifacts::run(&session, command).await,
        Command::Models(command) => models::run(&session, command).await,
        Command::Drill(command) => drill::run(&session, command).await,
        Command::Db(command) => db::run(&session, command).await,
        Command::Config(command) => config::run(command, output),
        Command::Serve(args) => serve::serve(&session, args).await,
        Command::Worker(args) => serve::worker(&session, args).await,
        Command::Bench(BenchCommand::Engine(args)) => bench::run(&session, args).await,
        Command::Bench(BenchCommand::Worker { store }) => bench::across::worker(&session, store.clone()).await,
        Command::Bench(BenchCommand::Scheduler { store }) => bench::scheduler::run(&session, store.clone()).await,
        Command::Attempt => Ok(attempt::run(output)),
    }
}

impl Session<'_> {
    /// Opens the store.
    pub(crate) async fn store(&self, mode: OpenMode) -> Result<Arc<Store>, Failure> {
        let catalog = Arc::new(self.project.kinds().clone());
        let limit = Duration::from_secs_f64(self.config.store.timeout_seconds);
        Ok(Arc::new(Store::open_with(&self.config.store.url, mode, catalog, limit).await?))
    }

    /// Opens the store to ask for something; an empty database is made ready first.
    pub(crate) async fn asking(&self) -> Result<Arc<Store>, Failure> {
        let catalog = Arc::new(self.project.kinds().clone());
        match Store::open(&self.config.store.url, OpenMode::Ask, catalog).await {
            Err(StoreError::SchemaOlder { .. }) => self.store(OpenMode::Own).await,
            opened => Ok(Arc::new(opened?)),
        }
    }

    /// Makes the tenants' quotas and the pools' sizes known to the store, as the files say now.
    pub(crate) async fn apply_limits(&self, store: &Store) -> Result<(), Failure> {
        let tenants = self.project.tenants()?;
        Ok(store.apply_limits(&tenants, &self.config.pools).await?)
    }
}

/// Who asks, as far as this machine knows.
fn actor() -> String {
    let user = ["USER", "LOGNAME"].iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    user.map_or_else(|| "somebody at the command line".to_owned(), |user| format!("user {user}"))
}

/// A tenant named on the command line.
fn tenant(text: Option<&str>) -> Result<Option<TenantId>, Failure> {
    text.map(TenantId::parse).transpose().map_err(|error: IdError| Failure::usage(error.to_string()))
}

/// A task named on the command line: `train`, or `train[2]` for an element of its matrix.
fn instance(text: &str) -> Result<(TaskId, Option<u32>), Failure> {
    let (task, index) = match text.strip_suffix(']').and_then(|text| text.split_once('[')) {
        Some((task, index)) => (task, Some(index)),
        None => (text, None),
    };
    let index = index.map(str::parse).transpose().map_err(|_| {
        Failure::usage(format!("{text:?} names no element"))
            .hint("write the task alone, or task[2] for its third element")
    })?;
    let task = TaskId::parse(task).map_err(|error| Failure::usage(error.to_string()))?;
    Ok((task, index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tasks_and_their_elements() {
        let read = |text| instance(text).ok().map(|(task, index)| (task.to_string(), index));
        assert_eq!(read("train"), Some(("train".into(), None)));
        assert_eq!(read("train[2]"), Some(("train".into(), Some(2))));
        for bad in ["", "train[", "train[]", "train[-1]", "train[x]", "[2]", "Train", "train[2]x"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }
}
