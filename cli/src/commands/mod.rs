//! One file per command; [`dispatch`] picks it.

mod artifacts;
pub(crate) mod attempt;
mod config;
mod dag;
mod db;
mod logs;
mod models;
mod run;
mod runs;
mod shapes;
mod validate;

use std::process::ExitCode;
use std::sync::Arc;

use engine::config::Config;
use engine::id::{IdError, TenantId};
use engine::store::{OpenMode, Store};

use crate::args::{Args, Command};
use crate::exit::Failure;
use crate::output::Output;
use crate::project::Project;

/// What every command is handed.
pub(crate) struct Session<'a> {
    pub(crate) output: &'a Output,
    pub(crate) config: Config,
    pub(crate) project: Project,
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
    let session = Session { output, config, project };
    match &args.command {
        Command::Run(run) => run::run(&session, run).await,
        Command::Validate { files } => validate::run(&session, files),
        Command::Dag(command) => dag::run(&session, command),
        Command::Runs(command) => runs::run(&session, command).await,
        Command::Artifacts(command) => artifacts::run(&session, command).await,
        Command::Models(command) => models::run(&session, command).await,
        Command::Db(command) => db::run(&session, command).await,
        Command::Config(command) => config::run(command, output),
        Command::Attempt => Ok(attempt::run(output)),
    }
}

impl Session<'_> {
    /// Opens the store.
    pub(crate) async fn store(&self, mode: OpenMode) -> Result<Arc<Store>, Failure> {
        let catalog = Arc::new(self.project.kinds().clone());
        Ok(Arc::new(Store::open(&self.config.store.url, mode, catalog).await?))
    }
}

/// A tenant named on the command line.
fn tenant(text: Option<&str>) -> Result<Option<TenantId>, Failure> {
    text.map(TenantId::parse).transpose().map_err(|error: IdError| Failure::usage(error.to_string()))
}
